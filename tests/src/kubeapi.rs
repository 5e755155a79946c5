//! A stand-in for the Kubernetes API, as far as an agent asks it about pods, and for the pods themselves: processes
//! in cgroups and network namespaces as a kubelet and a container runtime make them.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    kubelet::root,
    netns::Netns,
    process::Process,
    wait::{LIMIT, eventually},
};

/// The node that all pods are on.
pub const NODE: &str = "node-1";

/// Moves itself into the cgroup (a zero stands for the writing process), and waits.
const RUN: &str = "echo 0 > $0/cgroup.procs && echo in && exec sleep infinity";

/// Lists pods, and tells who watches what becomes of them.
#[derive(Debug)]
pub struct KubeApi {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    over: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    pods: Vec<Value>,
    version: u64,
    watchers: Vec<TcpStream>,
}

impl KubeApi {
    /// Starts one without pods.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (addr, shared) = (listener.local_addr()?, Arc::new(Shared::default()));
        let serving = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&serving);
                thread::spawn(move || drop(shared.answer(stream)));
            }
        });
        Ok(Self { addr, shared, accepting: Some(accepting) })
    }

    /// Writes a kubeconfig that leads here; its path.
    pub fn kubeconfig(&self, dir: &Path) -> Result<String> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.addr)}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {}}],
        });
        let path = dir.join("kubeconfig");
        fs::write(&path, config.to_string())?;
        Ok(path.to_str().context("a path of letters")?.to_owned())
    }

    /// A pod comes.
    pub fn add(&self, pod: &RunningPod, annotations: &[(&str, &str)]) {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let (name, uid) = (&pod.name, &pod.uid);
        let mut state = self.state();
        state.version += 1;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "default", "uid": uid, "annotations": annotations,
                "resourceVersion": state.version.to_string(),
            },
            "spec": {
                "nodeName": NODE, "terminationGracePeriodSeconds": 30, "hostNetwork": pod.on_host,
                "containers": [{"name": "app"}],
            },
            "status": {"phase": "Running"},
        });
        state.pods.push(pod.clone());
        state.tell("ADDED", &pod);
    }

    /// A pod goes.
    pub fn remove(&self, pod: &RunningPod) {
        let mut state = self.state();
        state.version += 1;
        let is_it = |each: &Value| each["metadata"]["uid"] == *pod.uid;
        let gone: Vec<Value> = state.pods.iter().filter(|each| is_it(each)).cloned().collect();
        state.pods.retain(|each| !is_it(each));
        for mut pod in gone {
            pod["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.tell("DELETED", &pod);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Makes accept() return.
        drop(TcpStream::connect(self.addr));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for watcher in &self.state().watchers {
            let _ = watcher.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl State {
    fn tell(&mut self, kind: &str, pod: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": pod}));
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        self.watchers.retain_mut(|watcher| watcher.write_all(chunk.as_bytes()).is_ok());
    }
}

impl Shared {
    /// Answers one request: a list, a watch, or one pod.
    fn answer(&self, stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let path = first.split(' ').nth(1).context("no path")?.to_owned();
        let mut stream = reader.into_inner();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if path.starts_with("/api/v1/pods?") && path.contains("watch=true") {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            state.watchers.push(stream);
            // What came between the list and the watch.
            for pod in state.pods.clone() {
                state.tell("MODIFIED", &pod);
            }
            return Ok(());
        }
        let list = |kind: &str, items: &[Value]| {
            let version = state.version.to_string();
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"resourceVersion": version}, "items": items})
        };
        let one = path.strip_prefix("/api/v1/namespaces/default/pods/");
        let one = one.map(|name| state.pods.iter().find(|pod| pod["metadata"]["name"] == name));
        let (status, body) = match one {
            Some(Some(pod)) => ("200 OK", pod.clone()),
            None if path.starts_with("/api/v1/pods") => ("200 OK", list("PodList", &state.pods)),
            None if path.contains("endpointslices") => ("200 OK", list("EndpointSliceList", &[])),
            _ => {
                let status = json!({
                    "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound",
                    "message": "not found", "code": 404,
                });
                ("404 Not Found", status)
            }
        };
        let body = body.to_string();
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n");
        let rest = format!("Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        Ok(stream.write_all((head + &rest).as_bytes())?)
    }
}

/// A pod that runs: one process in a cgroup of the pod's. Ended when this is dropped.
#[derive(Debug)]
pub struct RunningPod {
    /// Name; its namespace is `default`.
    pub name: String,
    /// Uid.
    pub uid: String,
    on_host: bool,
    /// From the inside out.
    cgroups: Vec<PathBuf>,
    process: Option<Process>,
}

impl RunningPod {
    /// Runs one in this namespace.
    pub fn start(netns: &Netns) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{:08x}-0000-4000-8000-{number:012x}", process::id());
        let kubepods = root()?.join(format!("drainctl-t-pods-{}-{number}", process::id()));
        let pod = kubepods.join(format!("pod{uid}"));
        // Others' ids must differ where an id may be cut, those of stand-ins for sandboxes included.
        let container = pod.join(format!("ff{number:06x}{:08x}{:048x}", process::id(), 0));
        fs::create_dir_all(&container)?;
        let on_host = netns.inode() == Netns::host()?.inode();
        let mut this = Self {
            name: format!("web-{number}"),
            uid,
            on_host,
            cgroups: vec![container, pod, kubepods],
            process: None,
        };
        this.process = Some(this.run(netns)?);
        Ok(this)
    }

    fn run(&self, netns: &Netns) -> Result<Process> {
        let mut command = Command::new("sh");
        command.args(["-c", RUN]).arg(&self.cgroups[0]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = netns.run(|| command.spawn().context("start sh"))?;
        let output = child.stdout.take().context("sh has an output")?;
        let process = Process::new(child, "a pod");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "in\n", "the pod's process is not in its cgroup");
        Ok(process)
    }
}

impl Drop for RunningPod {
    fn drop(&mut self) {
        self.process = None;
        for cgroup in &self.cgroups {
            // Its last process may be on its way out.
            let gone =
                eventually(LIMIT, "the cgroup is empty", || Ok(fs::remove_dir(cgroup).is_ok()));
            if let Err(error) = gone {
                eprintln!("a cgroup stays behind: {error:#}");
            }
        }
    }
}
