//! The TCP endpoint: who is let in by token or certificate, and that nobody outside can stop a drain.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    certs::Authority,
    cluster::PORT,
    ctl::Ctl,
    fixture::Fixture,
    net::{self, Acceptor, Attempt, Listening, Server},
    netns::Netns,
    wait::{LIMIT, eventually},
};

const TOKEN: &str = "correct-horse-battery-staple";

/// Files for one test.
struct Files {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Result<Self> {
        let files = Self { dir: tempfile::tempdir()?, authority: Authority::new()? };
        files.authority.sign()?.write(files.dir.path(), "server")?;
        files.authority.sign()?.write(files.dir.path(), "client")?;
        files.authority.sign_expired()?.write(files.dir.path(), "expired")?;
        Authority::new()?.sign()?.write(files.dir.path(), "foreign")?;
        files.write("ca.pem", &files.authority.pem)?;
        files.write("foreign-ca.pem", &Authority::new()?.pem)?;
        files.write("token", &format!("{TOKEN}\n"))?;
        files.write("wrong-token", "incorrect-horse-battery-staple\n")?;
        Ok(files)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.dir.path().join(name), text)?)
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.dir.path().join(name);
        path.display().to_string()
    }

    /// Options of an agent that serves over TLS.
    fn agent(&self) -> Vec<String> {
        let mut options: Vec<_> = ["--listen", "127.0.0.1:0"].map(str::to_owned).into();
        let files = [
            ("--tls-cert", "server.pem"),
            ("--tls-key", "server.key"),
            ("--tls-client-ca", "ca.pem"),
            ("--token-file", "token"),
        ];
        options.extend(files.into_iter().flat_map(|(flag, name)| [flag.into(), self.path(name)]));
        options
    }

    /// Options of `drainctl` with these files.
    fn access(&self, files: &[(&str, &str)]) -> Vec<String> {
        files.iter().flat_map(|(flag, name)| [(*flag).to_owned(), self.path(name)]).collect()
    }
}

fn words(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// A server on the host, whose namespace anybody can name.
fn server_on_host() -> Result<(Acceptor, u16)> {
    let host = Netns::host()?;
    let server = Server::start(&host, Listening::on(std::net::Ipv4Addr::LOCALHOST, 0))?;
    let port = server.port()?;
    Ok((Acceptor::start(server), port))
}

fn over_tcp<'a>(agent: &'a Agent, host: &'a Netns, url: &str) -> Ctl<'a> {
    agent.ctl(host).at(url)
}

#[test]
fn tokens_and_certificates_let_in_and_nothing_else_does() -> Result<()> {
    let files = Files::new()?;
    let (_server, port) = server_on_host()?;
    let agent = Agent::start_with(&words(&files.agent()))?;
    let host = Netns::host()?;
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let url = format!("https://{}", agent.endpoint()?);
    let ctl = over_tcp(&agent, &host, &url);
    let port = port.to_string();
    let ca = ("--ca-file", "ca.pem");
    let permitted: [&[(&str, &str)]; 2] = [
        &[ca, ("--token-file", "token")],
        &[ca, ("--cert", "client.pem"), ("--key", "client.key")],
    ];
    for access in permitted {
        let access = files.access(access);
        let drain = ["drain", "--port", &port, "--host", "--quiet", "0s"];
        ctl.expect(0, &[&drain[..], &words(&access)].concat())?;
        ensure!(net::attempt(&host, addr, LIMIT)? == Attempt::Refused, "{access:?}");
        let undrain = ["undrain", "--port", &port, "--host"];
        ctl.expect(0, &[&undrain[..], &words(&access)].concat())?;
        ensure!(net::attempt(&host, addr, LIMIT)? == Attempt::Connected, "{access:?}");
    }
    // The code of an agent that does not let in, and of one that no connection leads to.
    let refused: [(&[(&str, &str)], i32); 6] = [
        (&[ca], 5),
        (&[ca, ("--token-file", "wrong-token")], 5),
        (&[ca, ("--cert", "expired.pem"), ("--key", "expired.key")], 4),
        (&[ca, ("--cert", "foreign.pem"), ("--key", "foreign.key")], 4),
        (&[("--ca-file", "foreign-ca.pem"), ("--token-file", "token")], 4),
        (&[("--token-file", "token")], 2),
    ];
    for (access, code) in refused {
        let access = files.access(access);
        let drain = ["drain", "--port", &port, "--host", "--if-unreachable", "fail"];
        ctl.expect(code, &[&drain[..], &words(&access)].concat())
            .with_context(|| format!("{access:?}"))?;
        ensure!(net::attempt(&host, addr, LIMIT)? == Attempt::Connected, "{access:?}");
    }
    // Only what means something on another machine can be named.
    let access = files.access(&[ca, ("--token-file", "token")]);
    for target in [&[][..], &["--pid", "1"], &["--netns", "/proc/1/ns/net"]] {
        let drain = [&["drain", "--port", &port][..], target, &words(&access)].concat();
        ctl.expect(2, &drain)?;
    }
    Ok(())
}

#[test]
fn files_are_read_again_when_they_change() -> Result<()> {
    let files = Files::new()?;
    let (_server, port) = server_on_host()?;
    let agent = Agent::start_with(&words(&files.agent()))?;
    let host = Netns::host()?;
    let url = format!("https://{}", agent.endpoint()?);
    let ctl = over_tcp(&agent, &host, &url);
    let port = port.to_string();
    let status = |code, ca: &str, token: &str| {
        let access = files.access(&[("--ca-file", ca), ("--token-file", token)]);
        ctl.expect(code, &[&["status", "--host", "--port", &port][..], &words(&access)].concat())
            .with_context(|| format!("{ca} {token}"))
    };
    status(0, "ca.pem", "token")?;
    status(5, "ca.pem", "wrong-token")?;
    fs::copy(files.path("wrong-token"), files.path("token.new"))?;
    fs::copy(files.path("token"), files.path("old-token"))?;
    fs::rename(files.path("token.new"), files.path("token"))?;
    status(0, "ca.pem", "wrong-token")?;
    status(5, "ca.pem", "old-token")?;
    // Another authority's certificate; a key that does not fit changes nothing.
    let other = Authority::new()?;
    files.write("other-ca.pem", &other.pem)?;
    let certified = other.sign()?;
    files.write("server.pem", &certified.cert)?;
    status(0, "ca.pem", "token")?;
    files.write("server.key", &certified.key)?;
    status(0, "other-ca.pem", "token")?;
    status(4, "ca.pem", "token")?;
    Ok(())
}

/// Sends bytes and reads what comes until the end.
fn send(addr: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(answer)
}

#[test]
fn a_thousand_bad_requests_do_not_stop_a_drain() -> Result<()> {
    let files = Files::new()?;
    let token = files.path("token");
    let fixture = Fixture::with(&["--listen", "127.0.0.1:0", "--token-file", &token])?;
    let addr = fixture.agent.endpoint()?;
    let health = send(addr, b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    ensure!(health.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&health));
    let mut pair = fixture.pair()?;
    let ctl = fixture.ctl();
    let mut drain = ctl.start(&[
        "drain",
        "--port",
        "80",
        "--quiet",
        "0s",
        "--retire",
        "none",
        "--timeout",
        "60s",
    ])?;
    ctl.await_state(PORT, "rejecting")?;
    let netns = fixture.pod().netns.inode();
    let undrain =
        format!("DELETE /v1/drains/{netns}:80 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let bad: [&[u8]; 5] = [
        undrain.as_bytes(),
        b"GET /v1/events?services=1:1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"POST /v1/drains HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\n{\"po}",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no HTTP at all\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ];
    for n in 0..1000 {
        let answer = send(addr, bad[n % bad.len()])?;
        ensure!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    // Nor connections that say nothing.
    let _silent: Vec<_> = (0..64).map(|_| TcpStream::connect(addr)).collect();
    ensure!(ctl.service(PORT)?.state == "rejecting" && drain.is_running()?);
    ensure!(fixture.attempt()? == Attempt::Refused);
    pair.exchange()?;
    drop(pair);
    drain.wait()?.expect(0)?;
    Ok(())
}

#[test]
fn what_cannot_be_served_safely_is_refused_at_start() -> Result<()> {
    let files = Files::new()?;
    let (cert, key) = (files.path("server.pem"), files.path("server.key"));
    let (token, other_key) = (files.path("token"), files.path("client.key"));
    let table: [(&[&str], &str); 4] = [
        (&["--listen", "0.0.0.0:0", "--token-file", &token], "--tls-cert"),
        (&["--listen", "127.0.0.1:0", "--token-file", &cert[..0]], "--token-file"),
        (&["--listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &other_key], "--tls-cert"),
        (&["--listen", "127.0.0.1:0", "--tls-cert", &key, "--tls-key", &key], "--tls-cert"),
    ];
    for (options, why) in table {
        let error = Agent::start_with(options).err().with_context(|| format!("{options:?}"))?;
        ensure!(format!("{error:#}").contains(why), "{options:?}: {error:#}");
    }
    let allowed = ["--listen", "0.0.0.0:0", "--listen-plain", "--token-file", &token];
    let agent = Agent::start_with(&allowed)?;
    eventually(LIMIT, "it listens", || Ok(agent.log().contains("listening over TCP")))
}
