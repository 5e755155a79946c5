//! A real, unmodified nginx in a pod.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, LazyLock},
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    certs::{Authority, Certified},
    cluster::{PORT, Pod},
    http,
    net::{self, Attempt},
    netns::Netns,
    process::{Process, kill},
    ss,
    wait::{LIMIT, eventually},
};

/// What `GET /ok` and `GET /kept` answer.
pub const BODY: &[u8] = b"served by an unmodified nginx\n";

/// Size of the file `GET /big` sends, slowly.
pub const BIG: usize = 3 << 20;

/// Size of the file `GET /large` sends, as fast as it is read: more than socket buffers hold.
const LARGE: usize = 8 << 20;

/// A server: its files stay while it is stopped and started again.
#[derive(Debug)]
pub struct Nginx {
    netns: Arc<Netns>,
    port: u16,
    dir: TempDir,
    process: Option<Process>,
}

impl Nginx {
    /// Starts nginx on port 80 of a pod.
    pub fn start(pod: &Pod) -> Result<Self> {
        Self::start_on(Arc::clone(&pod.netns), &[PORT])
    }

    /// Starts nginx on port 80 of a pod; it expects a header of the PROXY protocol, and `GET /who` answers with the
    /// client's address in it.
    pub fn start_for_proxies(pod: &Pod) -> Result<Self> {
        Self::start_version(Arc::clone(&pod.netns), &[PORT], "proxy_protocol", "1")
    }

    /// Starts nginx on port 80 of a pod; it speaks TLS there and has the kernel encrypt, if that can.
    pub fn start_with_kernel_tls(pod: &Pod) -> Result<Self> {
        let certified = Authority::new()?.sign()?;
        // Else the first connection that asks for it loads it, which may take long. Not every kernel has it.
        let _ = Command::new("modprobe").args(["--quiet", "tls"]).status();
        Self::start_here(Arc::clone(&pod.netns), &[PORT], "ssl", "1", Some(&certified))
    }

    /// Starts nginx on these ports of a namespace.
    pub fn start_on(netns: Arc<Netns>, ports: &[u16]) -> Result<Self> {
        Self::start_version(netns, ports, "", "1")
    }

    /// The same with more parameters of `listen`, such as `reuseport`, and with what `GET /version` answers. When it
    /// returns, this very instance listens.
    pub fn start_version(
        netns: Arc<Netns>,
        ports: &[u16],
        listen: &str,
        version: &str,
    ) -> Result<Self> {
        Self::start_here(netns, ports, listen, version, None)
    }

    fn start_here(
        netns: Arc<Netns>,
        ports: &[u16],
        listen: &str,
        version: &str,
        certified: Option<&Certified>,
    ) -> Result<Self> {
        let mut nginx = Self::prepare(netns, ports, listen, version, certified)?;
        nginx.start_again()?;
        Ok(nginx)
    }

    /// Files for a server that somebody else starts, by [`Self::words`].
    pub fn prepare(
        netns: Arc<Netns>,
        ports: &[u16],
        listen: &str,
        version: &str,
        certified: Option<&Certified>,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("drainctl-nginx-").tempdir()?;
        fs::write(dir.path().join("big"), big())?;
        fs::write(dir.path().join("large"), large())?;
        let mut config = config(dir.path(), ports, listen, version)?;
        if let Some(Certified { cert, key }) = certified {
            fs::write(dir.path().join("cert.pem"), cert)?;
            fs::write(dir.path().join("key.pem"), key)?;
            let tls = "ssl_certificate cert.pem; ssl_certificate_key key.pem; ssl_conf_command Options KTLS;";
            config = config.replace("root ", &format!("{tls}\n    root "));
        }
        fs::write(dir.path().join("nginx.conf"), config)?;
        fs::write(dir.path().join("access.log"), "")?;
        let port = *ports.first().context("nginx needs a port")?;
        Ok(Self { netns, port, dir, process: None })
    }

    /// The command that starts it.
    pub fn words(&self) -> Result<Vec<String>> {
        let dir = self.dir.path().to_str().context("a folder name that is not UTF-8")?;
        let words = ["nginx", "-p", dir, "-c", &format!("{dir}/nginx.conf"), "-e"];
        let words = words.into_iter().map(str::to_owned);
        Ok(words.chain([format!("{dir}/error.log")]).collect())
    }

    /// Instances that start from now on listen with these parameters, and are this version.
    pub fn rewrite(&self, listen: &str, version: &str) -> Result<()> {
        let config = config(self.dir.path(), &[self.port], listen, version)?;
        Ok(fs::write(self.dir.path().join("nginx.conf"), config)?)
    }

    /// Starts a new instance after [`Self::stop`].
    pub fn start_again(&mut self) -> Result<()> {
        let words = self.words()?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = self.netns.run(|| command.spawn().context("start nginx"))?;
        let mut process = Process::new(child, "nginx");
        eventually(LIMIT, "nginx listens", || {
            if let Some(status) = process.exited()? {
                let log = fs::read_to_string(self.dir.path().join("error.log"));
                bail!("nginx ended: {status}: {}", log.unwrap_or_default());
            }
            // Its workers come after its sockets; somebody else may listen on the port too.
            let pid = process.pid();
            let workers = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            Ok(workers.split_whitespace().count() == 2 && ss::listens(&self.netns, self.port)?)
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Sends SIGTERM, nginx's fast shutdown, and waits for the end.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM)?;
            process.wait(LIMIT)?;
        }
        Ok(())
    }

    /// Kills the master and its workers as a crash or the OOM killer would.
    pub fn crash(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let pid = process.pid();
        let workers = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        process.signal(Signal::KILL)?;
        process.wait(LIMIT)?;
        workers.split_whitespace().filter_map(|pid| pid.parse().ok()).for_each(kill);
        Ok(())
    }

    /// Process id of the master, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Requests for `/ok` that nginx says it has answered with 200, over all its instances.
    pub fn served(&self) -> Result<u64> {
        self.served_of("/ok")
    }

    /// Requests for `path` that nginx says it has answered with 200 and all of the body.
    pub fn served_of(&self, path: &str) -> Result<u64> {
        let log = fs::read_to_string(self.dir.path().join("access.log"))?;
        let line = format!("200 {path} OK");
        Ok(log.lines().filter(|found| *found == line).count() as u64)
    }

    /// Waits until a client in `netns` gets an answer at `addr`.
    pub fn await_answer(netns: &Netns, addr: SocketAddr) -> Result<()> {
        eventually(LIMIT, &format!("an answer from {addr}"), || {
            // Refused connections are what is waited out here.
            Ok(http::get(netns, addr, "/ready").is_ok_and(|answer| answer.status == 200))
        })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGKILL to the master alone would leave its workers behind.
        if let Err(error) = self.stop() {
            eprintln!("stop nginx: {error:#}");
        }
    }
}

/// Whether a connect from inside the pod to its own port succeeds.
pub fn accepts(netns: &Netns, port: u16) -> Result<bool> {
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    Ok(net::attempt(netns, addr, LIMIT)? == Attempt::Connected)
}

/// What `/big` sends: no two lines are alike, so that a lost or repeated piece is noticed.
pub fn big() -> Vec<u8> {
    lines(BIG)
}

/// What `/large` sends, likewise.
pub fn large() -> &'static [u8] {
    static LINES: LazyLock<Vec<u8>> = LazyLock::new(|| lines(LARGE));
    &LINES
}

fn lines(size: usize) -> Vec<u8> {
    (0..size / 16).flat_map(|line| format!("{line:015}\n").into_bytes()).collect()
}

fn config(dir: &Path, ports: &[u16], more: &str, version: &str) -> Result<String> {
    let dir = dir.to_str().context("a folder name that is not UTF-8")?;
    let listen: String = ports
        .iter()
        .map(|port| format!("listen {port} {more}; listen [::]:{port} {more}; "))
        .collect();
    let body = std::str::from_utf8(BODY)?.trim_end();
    Ok(format!(
        "daemon off; master_process on; worker_processes 2; user root;
pid {dir}/nginx.pid; error_log {dir}/error.log notice;
events {{ worker_connections 4096; }}
http {{
  log_format plain '$status $uri $request_completion'; access_log {dir}/access.log plain;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  keepalive_timeout 300s; keepalive_requests 100000; sendfile on;
  server {{
    {listen}
    root {dir};
    location = /ok {{ return 200 '{body}\\n'; }}
    location = /kept {{ return 200 '{body}\\n'; }}
    location = /who {{ return 200 '$proxy_protocol_addr\\n'; }}
    location = /ready {{ access_log off; return 200 'ready\\n'; }}
    location = /version {{ access_log off; return 200 '{version} at $server_port\n'; }}
    location = /big {{ limit_rate 512k; }}
  }}
}}
"
    ))
}
