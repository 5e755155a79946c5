//! TLS for checks. Whose certificate the server shows is not asked, as the kubelet's probes do not: the agent has chosen
//! the socket itself, inside the network namespace, and tells the server nothing but a path.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{
            CryptoProvider, ring::default_provider, verify_tls12_signature, verify_tls13_signature,
        },
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

/// The name that a header Host asks for; an address is not told to the server.
pub(super) fn name(host: &str) -> Result<ServerName<'static>, String> {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !name.ends_with(':') => name,
        _ => host,
    };
    let bare = without_port.trim_matches(['[', ']']);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(ip.into());
    }
    ServerName::try_from(bare.to_owned()).map_err(|_| format!("{host:?} is no name for TLS"))
}

/// # Errors
/// The server does not speak TLS, or none that we do.
pub(super) async fn connect(
    stream: TcpStream,
    name: ServerName<'static>,
) -> io::Result<TlsStream<TcpStream>> {
    static CONFIG: LazyLock<Result<Arc<ClientConfig>, Error>> = LazyLock::new(config);
    let config = CONFIG.as_ref().map_err(|error| io::Error::other(error.clone()))?;
    let connected = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    connected.map_err(|error| io::Error::new(error.kind(), format!("no TLS connection: {error}")))
}

fn config() -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Believes every certificate, if the server has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let table = [
            ("web", "web"),
            ("web:8443", "web"),
            ("web.example.org", "web.example.org"),
            ("10.0.0.1:443", "10.0.0.1"),
            ("[fd00::1]:443", "fd00::1"),
            ("[fd00::1]", "fd00::1"),
        ];
        for (host, expected) in table {
            assert_eq!(name(host).unwrap().to_str(), expected, "{host}");
        }
        for wrong in ["", "a..b", "a:b:c"] {
            assert!(name(wrong).is_err(), "{wrong:?}");
        }
    }
}
