//! Where the agent is, and how to get there: its Unix socket on this node, or its TCP endpoint.

use std::{
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::SystemTime,
};

use hyper::Uri;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

use super::{
    access::Access,
    exit::{Exit, Failure},
    new, validity,
};

/// Longest path of a Unix socket (`sun_path` in unix(7), less its NUL).
const SOCKET_PATH_MAX: usize = 107;
/// The token, where no file is named.
const TOKEN: &str = "DRAINCTL_TOKEN";

/// Where the agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AgentAddress {
    /// On this node.
    Socket(PathBuf),
    /// Anywhere.
    Url(Url),
}

/// `https://HOST:PORT` or `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) tls: bool,
    /// A name or an address, the latter without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

/// `/run/drainctl/agent.sock`.
impl Default for AgentAddress {
    fn default() -> Self {
        Self::Socket("/run/drainctl/agent.sock".into())
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Url(url) => {
                write!(f, "{}://{}", if url.tls { "https" } else { "http" }, url.authority())
            }
        }
    }
}

impl Url {
    /// As in the header Host.
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address of an agent; one is https://10.0.0.1:9443");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("a path, unix:PATH, https://HOST:PORT or http://HOST:PORT".into()),
        };
        let is_bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        match (uri.host(), uri.port_u16()) {
            (Some(host), Some(port @ 1..)) if is_bare && !text.contains('@') => {
                let host = host.trim_matches(['[', ']']).to_owned();
                Ok(Self { tls, host, port })
            }
            (Some(_), None) => Err(format!("{text:?} has no port; an agent's endpoint has one")),
            _ => Err(wrong()),
        }
    }
}

impl FromStr for AgentAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = match text.strip_prefix("unix:") {
            Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
            None => text,
        };
        if path.contains("://") {
            return Url::parse(path).map(Self::Url);
        }
        if path.is_empty() {
            return Err("the path of a socket, for example /run/drainctl/agent.sock".into());
        }
        if path.len() > SOCKET_PATH_MAX {
            return Err(format!("the path of a Unix socket has at most {SOCKET_PATH_MAX} bytes"));
        }
        Ok(Self::Socket(PathBuf::from(path)))
    }
}

/// Connects to the agent that this is a part of.
pub type Dial = Arc<dyn Fn() -> DuplexStream + Send + Sync>;

/// A way to the agent, ready to be gone.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) address: AgentAddress,
    within: Option<Dial>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The value of the header Authorization.
    pub(super) authorization: Option<String>,
    /// Whether our certificate is not valid any more.
    pub(super) has_expired: bool,
    /// What another `drainctl` has to be given to go the same way, ready to be pasted into a shell.
    pub(super) options: String,
}

/// A connection to the agent.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Way {
    /// Within the agent itself.
    pub(super) fn within(dial: Dial) -> Self {
        let within = Some(dial);
        Self {
            within,
            address: AgentAddress::default(),
            tls: None,
            authorization: None,
            has_expired: false,
            options: String::new(),
        }
    }

    /// Reads what the options name.
    ///
    /// # Errors
    /// They do not fit the address, or a file cannot be used (all exit code 2).
    pub(super) fn new(address: &AgentAddress, access: &Access) -> Result<Self, Failure> {
        let options = access.options(address);
        let AgentAddress::Url(url) = address else {
            if access.token_file.is_some() || access.ca_file.is_some() || access.cert.is_some() {
                return Err(usage(
                    "--token-file, --ca-file and --cert are for --agent https://HOST:PORT; over a Unix socket the \
                     kernel tells the agent who you are",
                ));
            }
            let address = address.clone();
            let (within, tls, authorization) = (None, None, None);
            return Ok(Self { address, within, tls, authorization, has_expired: false, options });
        };
        let tls = if url.tls { Some(connector(url, access)?) } else { None };
        let token = token(access)?;
        let authorization = token.map(|token| format!("Bearer {token}"));
        let ours = match &access.cert {
            Some(path) if url.tls => certificates("--cert", path)?,
            _ => Vec::new(),
        };
        let has_expired =
            ours.first().is_some_and(|cert| validity::has_expired(cert, SystemTime::now()));
        let address = address.clone();
        Ok(Self { address, within: None, tls, authorization, has_expired, options })
    }

    /// What the header Host says.
    pub(super) fn host(&self) -> String {
        match &self.address {
            AgentAddress::Socket(_) => "drainctl".into(),
            AgentAddress::Url(url) => url.authority(),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        if let Some(dial) = &self.within {
            return Ok(Box::new(dial()));
        }
        match &self.address {
            AgentAddress::Socket(path) => {
                let stream = UnixStream::connect(path).await;
                Ok(Box::new(stream.map_err(|error| connect_error(&error))?))
            }
            AgentAddress::Url(url) => {
                let stream = connect_tcp(url).await?;
                let Some((tls, name)) = &self.tls else { return Ok(Box::new(stream)) };
                let stream = tls.connect(name.clone(), stream).await;
                Ok(Box::new(stream.map_err(|error| format!("no TLS connection: {error}"))?))
            }
        }
    }
}

async fn connect_tcp(url: &Url) -> Result<TcpStream, String> {
    let addresses = match url.host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => new::addresses(&url.host).await?,
    };
    let mut last = format!("{} has no address", url.host);
    for ip in addresses {
        match TcpStream::connect((ip, url.port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

/// What a failed connect(2) to a Unix socket means.
fn connect_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket".into(),
        io::ErrorKind::ConnectionRefused => "nobody listens on the socket".into(),
        io::ErrorKind::PermissionDenied => "not permitted to open the socket".into(),
        _ => error.to_string(),
    }
}

fn token(access: &Access) -> Result<Option<String>, Failure> {
    let token = match &access.token_file {
        Some(path) => {
            let text =
                fs::read_to_string(path).map_err(|error| bad("--token-file", path, &error))?;
            Some(text.lines().next().unwrap_or_default().trim().to_owned())
        }
        None => std::env::var(TOKEN).ok().map(|token| token.trim().to_owned()),
    };
    let token = token.filter(|token| !token.is_empty());
    match (&token, &access.token_file) {
        (None, Some(path)) => Err(bad("--token-file", path, &"its first line is empty")),
        (Some(token), _) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(usage("a token has no spaces and no letters beyond ASCII"))
        }
        _ => Ok(token),
    }
}

fn connector(url: &Url, access: &Access) -> Result<(TlsConnector, ServerName<'static>), Failure> {
    let name = ServerName::try_from(url.host.clone())
        .map_err(|_| usage(&format!("{:?} is no name of a host", url.host)))?;
    let path = access.ca_file.as_deref().ok_or_else(|| {
        usage(
            "--agent https://… needs --ca-file: the authority that signed the agent's certificate (for one of the \
             public authorities, the file of this system, such as /etc/ssl/certs/ca-certificates.crt)",
        )
    })?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates("--ca-file", path)?);
    if added == 0 {
        return Err(bad("--ca-file", path, &"there is no usable certificate in it"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| usage(&error.to_string()))?
        .with_root_certificates(roots);
    let config = match (&access.cert, &access.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates("--cert", cert)?;
            let private =
                PrivateKeyDer::from_pem_file(key).map_err(|error| bad("--key", key, &error))?;
            config
                .with_client_auth_cert(chain, private)
                .map_err(|error| bad("--cert", cert, &error))?
        }
        _ => config.with_no_client_auth(),
    };
    Ok((TlsConnector::from(Arc::new(config)), name))
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    CertificateDer::pem_file_iter(path)
        .and_then(|read| read.collect())
        .map_err(|error| bad(option, path, &error))
}

fn bad(option: &str, path: &Path, why: &dyn fmt::Display) -> Failure {
    usage(&format!("cannot use {} ({option}): {why}", path.display()))
}

fn usage(message: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{message}; nothing was changed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(tls: bool, host: &str, port: u16) -> AgentAddress {
        AgentAddress::Url(Url { tls, host: host.into(), port })
    }

    #[test]
    fn addresses() {
        for text in ["/run/a.sock", "unix:/run/a.sock", "unix:///run/a.sock"] {
            assert_eq!(text.parse(), Ok(AgentAddress::Socket("/run/a.sock".into())), "{text}");
        }
        let table = [
            ("https://node-1:9443", url(true, "node-1", 9443)),
            ("http://127.0.0.1:1", url(false, "127.0.0.1", 1)),
            ("https://[fd00::1]:9443", url(true, "fd00::1", 9443)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string(), text);
        }
        assert_eq!("https://a:1/".parse(), Ok(url(true, "a", 1)));
        let long = "x".repeat(108);
        let bad = ["", "unix:", "tcp://10.0.0.1:9", "https://a", "https://a:0", "https://a:1/v1"];
        for text in [&bad[..], &["https://u@a:1", "https://", &long]].concat() {
            assert!(text.parse::<AgentAddress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn options_that_do_not_fit_are_usage_errors() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = || Some(file.path().to_owned());
        let https = url(true, "a", 1);
        let table = [
            (AgentAddress::default(), Access { token_file: path(), ..Access::default() }, "socket"),
            (https.clone(), Access::default(), "needs --ca-file"),
            (https, Access { ca_file: path(), ..Access::default() }, "--ca-file"),
            (url(false, "a", 1), Access { token_file: path(), ..Access::default() }, "empty"),
        ];
        for (address, access, words) in table {
            let failure = Way::new(&address, &access).err().expect(words);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.message.contains(words), "{failure}");
        }
        fs::write(file.path(), "0123456789abcdef\nanother\n").unwrap();
        let access = Access { token_file: path(), ..Access::default() };
        let way = Way::new(&url(false, "a", 1), &access).unwrap();
        assert_eq!(way.authorization.as_deref(), Some("Bearer 0123456789abcdef"));
        assert_eq!(
            way.options,
            format!(" --agent http://a:1 --token-file {}", file.path().display())
        );
        assert_eq!(Way::new(&AgentAddress::default(), &Access::default()).unwrap().options, "");
    }
}
