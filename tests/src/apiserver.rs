//! A small server that speaks the part of the Kubernetes API that the agent uses: list and watch, get, a strategic
//! merge of a pod's conditions, and EndpointSlices. What the real one does is tested against the real one.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// A watch without news ends after this, and the client asks again.
const WATCH_FOR: Duration = Duration::from_secs(1);

/// The server; it goes on until the test's process ends.
#[derive(Clone, Debug)]
pub struct ApiServer {
    addr: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    pods: Vec<Value>,
    slices: Vec<Value>,
    /// Every change of a pod, with the version it made.
    events: Vec<(u64, Value)>,
    /// Method, path and query of every request.
    requests: Vec<String>,
}

impl ApiServer {
    /// Starts it on a free port of this process' namespace.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let server = Self { addr: listener.local_addr()?, shared: Arc::default() };
        let this = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let this = this.clone();
                thread::spawn(move || drop(this.serve(&stream)));
            }
        });
        Ok(server)
    }

    /// Writes a kubeconfig that leads to it; returns its path.
    pub fn kubeconfig(&self, folder: &Path) -> Result<String> {
        let path = folder.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.addr)}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(&path, config.to_string())?;
        path.into_os_string().into_string().ok().context("a path of letters")
    }

    /// Adds a pod, or puts it in the place of the one of its name.
    pub fn put_pod(&self, pod: Value) {
        self.lock().put(pod);
        self.shared.1.notify_all();
    }

    /// The EndpointSlices from now on.
    pub fn put_slices(&self, slices: Vec<Value>) {
        self.lock().slices = slices;
    }

    /// The status of this condition of a pod, if it has it.
    pub fn condition(&self, pod: &str, condition: &str) -> Option<String> {
        let state = self.lock();
        let pod = state.pods.iter().find(|each| each["metadata"]["name"] == pod)?;
        let conditions = pod["status"]["conditions"].as_array()?;
        let condition = conditions.iter().find(|each| each["type"] == condition)?;
        condition["status"].as_str().map(str::to_owned)
    }

    /// Every request until now: method, path and query.
    pub fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: &TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut words = line.split(' ').map(str::to_owned);
            let (method, target) = words.next().zip(words.next()).context("a request line")?;
            let mut length = 0;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                let header = header.trim().to_ascii_lowercase();
                if header.is_empty() {
                    break;
                }
                if let Some(value) = header.strip_prefix("content-length:") {
                    length = value.trim().parse()?;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let (status, answer) = self.answer(&method, &target, &body);
            let head = format!(
                "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            );
            (&mut &*stream).write_all((head + &answer).as_bytes())?;
        }
    }

    fn answer(&self, method: &str, target: &str, body: &[u8]) -> (u16, String) {
        self.lock().requests.push(format!("{method} {target}"));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match (method, parts.as_slice()) {
            ("GET", ["api", "v1", "pods"]) if query.contains("watch=true") => {
                (200, self.watch(query))
            }
            ("GET", ["api", "v1", "pods"]) => {
                let state = self.lock();
                (200, list("v1", "PodList", state.version, &state.pods))
            }
            ("GET", ["api", "v1", "namespaces", _, "pods", name]) => match self.lock().pod(name) {
                Some(pod) => (200, pod.to_string()),
                None => (404, failure(404, "NotFound")),
            },
            ("PATCH", ["api", "v1", "namespaces", _, "pods", name, "status"]) => {
                let answer = self.lock().patch(name, body);
                self.shared.1.notify_all();
                answer
            }
            ("GET", ["apis", "discovery.k8s.io", "v1", "namespaces", _, "endpointslices"]) => {
                let state = self.lock();
                let slices = &state.slices;
                (200, list("discovery.k8s.io/v1", "EndpointSliceList", state.version, slices))
            }
            _ => (404, failure(404, "NotFound")),
        }
    }

    /// The events since the version that is asked for, once there are any.
    fn watch(&self, query: &str) -> String {
        let since = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        let since: u64 = since.and_then(|since| since.parse().ok()).unwrap_or(0);
        let nothing_new = |state: &mut State| state.version <= since;
        let waited = self.shared.1.wait_timeout_while(self.lock(), WATCH_FOR, nothing_new);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let news = state.events.iter().filter(|(version, _)| *version > since);
        news.map(|(_, event)| format!("{event}\n")).collect()
    }
}

impl State {
    fn pod(&self, name: &str) -> Option<&Value> {
        self.pods.iter().find(|pod| pod["metadata"]["name"] == name)
    }

    fn put(&mut self, mut pod: Value) {
        self.version += 1;
        pod["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = pod["metadata"]["name"].clone();
        let known = self.pods.iter_mut().find(|each| each["metadata"]["name"] == name);
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        match known {
            Some(known) => *known = pod.clone(),
            None => self.pods.push(pod.clone()),
        }
        self.events.push((self.version, json!({"type": kind, "object": pod})));
    }

    /// Conditions are merged by their type, and a uid is a precondition.
    fn patch(&mut self, name: &str, body: &[u8]) -> (u16, String) {
        let Some(mut pod) = self.pod(name).cloned() else {
            return (404, failure(404, "NotFound"));
        };
        let patch: Value = serde_json::from_slice(body).unwrap_or_default();
        let uid = &patch["metadata"]["uid"];
        if !uid.is_null() && *uid != pod["metadata"]["uid"] {
            return (409, failure(409, "Conflict"));
        }
        let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        for condition in patch["status"]["conditions"].as_array().into_iter().flatten() {
            conditions.retain(|each| each["type"] != condition["type"]);
            conditions.push(condition.clone());
        }
        pod["status"]["conditions"] = json!(conditions);
        self.put(pod.clone());
        (200, pod.to_string())
    }
}

fn list(version: &str, kind: &str, resource_version: u64, items: &[Value]) -> String {
    let metadata = json!({"resourceVersion": resource_version.to_string()});
    json!({"apiVersion": version, "kind": kind, "metadata": metadata, "items": items}).to_string()
}

fn failure(code: u16, reason: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason,
    })
    .to_string()
}
