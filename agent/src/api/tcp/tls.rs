//! TLS: the certificate the agent shows, and the authorities of those it believes.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

use super::{EndpointError, TlsFiles, file::Stamp};

/// The files, and what was read from them last.
pub(super) struct Tls {
    files: TlsFiles,
    read: Mutex<Read>,
}

struct Read {
    stamps: [Option<Stamp>; 3],
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads the files.
    pub(super) fn load(files: TlsFiles) -> Result<Self, EndpointError> {
        let stamps = stamps(&files);
        let acceptor = acceptor(&files)?;
        Ok(Self { files, read: Mutex::new(Read { stamps, acceptor }) })
    }

    /// For the next connection. Files that cannot be used are not: what was read before still is.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if stamps != read.stamps {
            read.stamps = stamps;
            match acceptor(&self.files) {
                Ok(acceptor) => {
                    tracing::info!("read the certificates again");
                    read.acceptor = acceptor;
                }
                Err(error) => {
                    tracing::warn!(%error, "goes on with the certificates it has");
                }
            }
        }
        read.acceptor.clone()
    }
}

fn stamps(files: &TlsFiles) -> [Option<Stamp>; 3] {
    let client_ca = files.client_ca.as_deref();
    [Some(&*files.cert), Some(&*files.key), client_ca].map(|path| path.and_then(Stamp::of))
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, EndpointError> {
    let provider = Arc::new(default_provider());
    let cert_error =
        |why: &dyn ToString| EndpointError::file("--tls-cert", &files.cert, why.to_string());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| cert_error(&error))?;
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let fail =
                |why: &dyn ToString| EndpointError::file("--tls-client-ca", path, why.to_string());
            let mut roots = RootCertStore::empty();
            for authority in certificates("--tls-client-ca", path)? {
                roots.add(authority).map_err(|error| fail(&error))?;
            }
            // Who shows none is no operator, and may still ask for health.
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| fail(&error))?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let certificates = certificates("--tls-cert", &files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| EndpointError::file("--tls-key", &files.key, error))?;
    let config = config.with_single_cert(certificates, key);
    Ok(TlsAcceptor::from(Arc::new(config.map_err(|error| cert_error(&error))?)))
}

fn certificates(
    option: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, EndpointError> {
    let fail = |error: &dyn ToString| EndpointError::file(option, path, error.to_string());
    let read = CertificateDer::pem_file_iter(path).map_err(|error| fail(&error))?;
    let read: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| fail(&error))?;
    if read.is_empty() {
        return Err(fail(&"there is no certificate in it"));
    }
    Ok(read)
}
