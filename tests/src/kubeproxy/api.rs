//! What kube-proxy asks an API server for: lists of one object, and watches that go on.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::netns::Netns;

/// The server; it goes on until the test's process ends.
#[derive(Clone, Debug)]
pub(super) struct Api {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// By resource, such as `services`: one object each is enough here.
    objects: BTreeMap<&'static str, Value>,
    watchers: Vec<(String, TcpStream)>,
}

impl Api {
    /// Starts it on a free port of the node's loopback.
    pub(super) fn start(node: &Netns) -> Result<Self> {
        let listener = node.run(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?))?;
        let api = Self { addr: listener.local_addr()?, state: Arc::default() };
        let this = api.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let this = this.clone();
                thread::spawn(move || drop(this.answer(stream)));
            }
        });
        Ok(api)
    }

    /// Where it listens.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Puts the object in the place of the one that was there, and tells who watches.
    pub(super) fn put(&self, resource: &'static str, mut object: Value) {
        let mut state = self.lock();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let known = state.objects.insert(resource, object.clone()).is_some();
        let line = event(if known { "MODIFIED" } else { "ADDED" }, &object);
        state.watchers.retain_mut(|(watched, stream)| {
            watched != resource || stream.write_all(line.as_bytes()).is_ok()
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request; a connection has no second one.
    fn answer(&self, stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let mut stream = reader.into_inner();
        let target = first.split(' ').nth(1).context("a request line")?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let resource = path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut state = self.lock();
        let head = "Content-Type: application/json\r\nConnection: close\r\n\r\n";
        let Some((version, kind)) = kind(&resource).filter(|_| first.starts_with("GET")) else {
            // Events, which nobody reads here.
            return Ok(stream.write_all(format!("HTTP/1.1 404 Not Found\r\n{head}").as_bytes())?);
        };
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes())?;
        let object = state.objects.get(resource.as_str());
        if query.contains("watch=true") {
            // What changed since the list may come twice, which does no harm.
            if let Some(object) = object {
                stream.write_all(event("MODIFIED", object).as_bytes())?;
            }
            state.watchers.push((resource, stream));
            return Ok(());
        }
        let metadata = json!({"resourceVersion": state.version.to_string()});
        let items: Vec<&Value> = object.into_iter().collect();
        let list =
            json!({"apiVersion": version, "kind": kind, "metadata": metadata, "items": items});
        Ok(stream.write_all(list.to_string().as_bytes())?)
    }
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

/// Version and kind of the list of a resource.
fn kind(resource: &str) -> Option<(&'static str, &'static str)> {
    Some(match resource {
        "nodes" => ("v1", "NodeList"),
        "services" => ("v1", "ServiceList"),
        "endpointslices" => ("discovery.k8s.io/v1", "EndpointSliceList"),
        "servicecidrs" => ("networking.k8s.io/v1", "ServiceCIDRList"),
        _ => return None,
    })
}
