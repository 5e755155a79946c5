//! Requests to registries: one connection each, from the namespace that the registry is asked from.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

use super::file::lines;
use crate::{
    cli::{self, Stream},
    kernel::Kernel,
};

/// Bytes of an answer that are read.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// Characters of an answer that are told with an error.
const TOLD: usize = 160;

/// Where a registry is, and how it knows us.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Endpoint {
    /// Its base: what follows is appended to its path.
    pub(super) url: String,
    /// Authorities that may have signed its certificate (PEM).
    #[serde(default)]
    pub(super) ca_file: Option<PathBuf>,
    /// Lines `Name: value` that each request has; read at each, and never logged.
    #[serde(default)]
    pub(super) headers_file: Option<PathBuf>,
}

/// One request.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) headers_file: Option<PathBuf>,
    /// Its type, and the text.
    pub(super) body: Option<(String, String)>,
}

/// Why a request did not do what it was for.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) why: String,
    /// Whether it is certain that nothing has changed.
    pub(super) unchanged: bool,
}

impl Failed {
    /// Something may have changed.
    pub(super) fn perhaps(why: impl Into<String>) -> Self {
        Self { why: why.into(), unchanged: false }
    }

    /// Nothing has.
    pub(super) fn before(why: impl Into<String>) -> Self {
        Self { why: why.into(), unchanged: true }
    }
}

impl Endpoint {
    /// Whether it can be one.
    pub(super) fn check(&self) -> Result<(), String> {
        check_url(&self.url, self.ca_file.as_deref())?;
        if self.url.contains('?') {
            return Err(format!("{} is the base of other addresses, and has no `?`", self.url));
        }
        Ok(())
    }

    /// A request below its base.
    pub(super) fn ask(&self, method: Method, rest: &str) -> Ask {
        Ask {
            method,
            url: format!("{}{rest}", self.url.trim_end_matches('/')),
            ca_file: self.ca_file.clone(),
            headers_file: self.headers_file.clone(),
            body: None,
        }
    }
}

/// Whether this is an address that can be asked.
pub(super) fn check_url(url: &str, ca_file: Option<&Path>) -> Result<(), String> {
    let plain = url.replace(['{', '}'], "x");
    let uri: Uri = plain.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    let (tls, host) = (uri.scheme_str() == Some("https"), uri.host());
    if (!tls && uri.scheme_str() != Some("http")) || host.is_none_or(str::is_empty) {
        return Err(format!("{url:?} is no URL such as http://127.0.0.1:8500"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(
            "a URL has no password in it: put an `Authorization: Basic …` line into a headers-file"
                .into(),
        );
    }
    if tls != ca_file.is_some() {
        return Err(format!(
            "{url:?}: https:// needs `ca-file`, the authority that signed the registry's certificate (for a public one, \
             this system's, such as /etc/ssl/certs/ca-certificates.crt), and http:// has none"
        ));
    }
    Ok(())
}

impl Ask {
    /// Sends it, from this namespace. `{ip}` becomes the address that it is sent from.
    ///
    /// # Errors
    /// There is no answer, or it is none of success.
    pub(super) async fn send(&self, kernel: &Arc<dyn Kernel>, netns: u32) -> Result<Bytes, Failed> {
        let (status, answer) = self.exchange(kernel, netns).await?;
        if status.is_success() {
            return Ok(answer);
        }
        let text = String::from_utf8_lossy(&answer);
        let text: String = text.chars().filter(|c| !c.is_control()).take(TOLD).collect();
        let why = format!("{self} was answered {status} {text}");
        let unchanged = status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT;
        Err(Failed { why: why.trim_end().into(), unchanged })
    }

    async fn exchange(
        &self,
        kernel: &Arc<dyn Kernel>,
        netns: u32,
    ) -> Result<(StatusCode, Bytes), Failed> {
        let before = |why: String| Failed::before(format!("{self}: {why}"));
        let headers = self.headers().map_err(before)?;
        let plain = self.url.replace("{ip}", "ip");
        let uri: Uri = plain.parse().map_err(|e| before(format!("it is no URL: {e}")))?;
        let stream = connect(kernel, netns, &uri).await.map_err(before)?;
        let ip = stream.local_addr().map_err(|e| before(e.to_string()))?.ip().to_canonical();
        let request = self.request(ip, headers).map_err(before)?;
        let stream = self.secure(&uri, stream).await.map_err(before)?;
        let fail = |error: hyper::Error| Failed::perhaps(format!("{self}: {error}"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(fail)?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(fail)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
            let body = body.map_err(|error| Failed::perhaps(format!("{self}: {error}")))?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            done = &mut exchange => done,
            // It is over first if the registry closes the connection with its answer.
            _ = connection => exchange.await,
        }
    }

    fn request(&self, ip: IpAddr, headers: HeaderMap) -> Result<Request<Full<Bytes>>, String> {
        let host = |ip: IpAddr| ip.to_string();
        let uri: Uri = self.url.replace("{ip}", &host(ip)).parse().map_err(|e| format!("{e}"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::builder().method(&self.method).uri(path).header(HOST, authority);
        if let Some((kind, _)) = &self.body {
            request = request.header(CONTENT_TYPE, kind);
        }
        let body = self.body.as_ref().map(|(_, text)| text.replace("{ip}", &host(ip)));
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let mut request = request.body(body).map_err(|error| error.to_string())?;
        request.headers_mut().extend(headers);
        Ok(request)
    }

    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        let Some(path) = &self.headers_file else { return Ok(headers) };
        for line in lines(path)? {
            let header = line.split_once(':').and_then(|(name, value)| {
                let name: HeaderName = name.trim().parse().ok()?;
                let mut value: HeaderValue = value.trim().parse().ok()?;
                value.set_sensitive(true);
                Some((name, value))
            });
            // The line itself may be a secret.
            let (name, value) = header.ok_or_else(|| {
                format!("a line of {} is no header `Name: value`", path.display())
            })?;
            headers.append(name, value);
        }
        Ok(headers)
    }

    async fn secure(&self, uri: &Uri, stream: TcpStream) -> Result<Box<dyn Stream>, String> {
        let Some(ca_file) = &self.ca_file else { return Ok(Box::new(stream)) };
        let fail = |why: &dyn std::fmt::Display| {
            format!("cannot use {} (ca-file): {why}", ca_file.display())
        };
        let read =
            CertificateDer::pem_file_iter(ca_file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(read.map_err(|error| fail(&error))?);
        if added == 0 {
            return Err(fail(&"there is no usable certificate in it"));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(bare_host(uri).to_owned()).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| format!("no TLS connection: {error}"))?))
    }
}

/// Without what may be secret: what follows the path.
impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = self.url.split_once('?').map_or(self.url.as_str(), |(url, _)| url);
        write!(f, "{} {url}", self.method)
    }
}

fn bare_host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

/// Connects from inside the namespace. Names are resolved by the agent's own resolver, wherever that is from.
async fn connect(kernel: &Arc<dyn Kernel>, netns: u32, uri: &Uri) -> Result<TcpStream, String> {
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let host = bare_host(uri);
    let addresses = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) if host == "localhost" => vec![[127, 0, 0, 1].into(), IpAddr::V6(1.into())],
        Err(_) => cli::addresses(host).await?,
    };
    let mut last = format!("{host} has no address");
    for ip in addresses {
        let target = SocketAddr::new(ip, port);
        let kernel = Arc::clone(kernel);
        let socket = tokio::task::spawn_blocking(move || kernel.open_socket(netns, target)).await;
        let socket = socket.map_err(|error| error.to_string())?;
        let socket = socket.map_err(|error| crate::kernel::explain(&error))?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        match socket.connect(target).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("cannot connect to {target}: {error}"),
        }
    }
    Err(last)
}
