//! A fleet of servers behind a service, with a script that releases one of them, and a controller that has the service
//! name those that serve.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{
    agent::Agent,
    cluster::{Cluster, PORT},
    cmd, http,
    kubeproxy::Mode,
    load::{Load, Manner, Plan, Tally},
    wait::is_slow,
};

/// What `GET /ok` answers.
const BODY: &[u8] = b"served by a fleet\n";

/// Stops a server, replaces its version, and starts it again: what people's scripts do. `broken` is an artifact that is
/// not there.
const SCRIPT: &str = r#"
set -e
echo "$DRAINCTL_ACTION $DRAINCTL_INSTANCE $DRAINCTL_STAGE" >> "$FLEET/commands"
if test -e "$DIR/hold"; then while test -d "$DIR" && ! test -e "$DIR/go"; do sleep 0.05; done; fi
if test "$DRAINCTL_ACTION" = release; then
  if test -e "$DIR/broken"; then echo "no such artifact" >&2; exit 3; fi
  to=new
else
  to=old
fi
if test -e "$DIR/pid"; then
  pid=$(cat "$DIR/pid")
  kill -TERM "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
fi
if test -e "$DIR/sick"; then to=sick; fi
sed -i "/set /s/version-[a-z]*/version-$to/" "$DIR/nginx.conf"
ip netns exec "$NETNS" nginx -p "$DIR" -c "$DIR/nginx.conf" -e "$DIR/error.log"
"#;

/// Real nginx servers, one a pod.
#[derive(Debug)]
pub struct Fleet {
    /// Where they are.
    pub cluster: Cluster,
    dir: TempDir,
}

impl Fleet {
    /// Starts so many servers of the old version, and writes their inventory.
    pub fn new(count: usize) -> Result<Self> {
        let cluster = Cluster::new(count, Mode::Iptables)?;
        let dir = tempfile::Builder::new().prefix("drainctl-fleet-").tempdir()?;
        let fleet = Self { cluster, dir };
        fs::write(fleet.path("release.sh"), SCRIPT)?;
        let mut inventory = format!("ports: [{PORT}]\ninstances:\n");
        for (index, pod) in fleet.cluster.pods.iter().enumerate() {
            let dir = fleet.folder(index);
            fs::create_dir(&dir)?;
            fs::write(dir.join("nginx.conf"), config(&dir)?)?;
            let (netns, path) = (pod.netns.name(), pod.netns.path().display());
            writeln!(inventory, "- name: web-{index}\n  netns: {path}\n  vars:")?;
            writeln!(
                inventory,
                "    NETNS: {netns}\n    DIR: {}\n    FLEET: {}",
                dir.display(),
                fleet.dir.path().display()
            )?;
            let start = ["netns", "exec", netns, "nginx", "-p"].map(str::to_owned);
            let rest = [
                dir.display().to_string(),
                "-c".into(),
                dir.join("nginx.conf").display().to_string(),
            ];
            let words: Vec<&str> = start.iter().chain(&rest).map(String::as_str).collect();
            cmd::run("ip", &words)?;
        }
        fs::write(fleet.path("inventory.yaml"), inventory)?;
        Ok(fleet)
    }

    /// A file of the fleet.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder of one server.
    pub fn folder(&self, index: usize) -> PathBuf {
        self.path(&format!("web-{index}"))
    }

    /// `rollout INVENTORY`, with quick drains, the fleet's script as both commands, and more.
    pub fn words(&self, more: &[&str]) -> Vec<String> {
        let script = format!("sh {}", self.path("release.sh").display());
        let inventory = self.path("inventory.yaml").display().to_string();
        let words = ["rollout", &inventory, "--release", &script, "--rollback", &script];
        // Rules follow later in an emulated machine.
        let settle = if is_slow() { "5s" } else { "500ms" };
        let health =
            ["--health", "/ok", "--min-settle", settle, "--quiet", "1s", "--timeout", "40s"];
        words.iter().chain(&health).chain(more).map(|word| (*word).to_owned()).collect()
    }

    /// What each server says of its version.
    pub fn versions(&self) -> Result<Vec<String>> {
        let ask = |index: usize| {
            let pod = &self.cluster.pods[index];
            let inside = ([127, 0, 0, 1], PORT).into();
            let answer = http::get(&pod.netns, inside, "/version")?;
            Ok(String::from_utf8(answer.body)?.trim().to_owned())
        };
        (0..self.cluster.pods.len()).map(ask).collect()
    }

    /// What commands were begun: action, instance and stage.
    pub fn commands(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.path("commands")).unwrap_or_default();
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Runs something while clients that never retry ask the service, whose endpoints are the pods that serve. No
    /// request may fail.
    pub fn under_load<T>(&self, agent: &Agent, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let plan = |manner| Plan {
            target: crate::cluster::SERVICE.into(),
            path: "/ok",
            body: BODY,
            manner,
            workers: 4,
            pace: Duration::from_millis(25),
            at_most: u64::MAX,
        };
        let loads = [Manner::OneRequest, Manner::KeepAlive]
            .map(|manner| Load::start(&self.cluster.client, plan(manner)));
        let ended = AtomicBool::new(false);
        let done = thread::scope(|scope| {
            let controller = scope.spawn(|| self.control(agent, &ended));
            let done = work();
            ended.store(true, Ordering::Relaxed);
            controller.join().map_err(|_| anyhow::anyhow!("the controller panicked"))??;
            done
        });
        for load in loads {
            let tally: Tally = load.finish()?;
            ensure!(tally.failed() == 0 && tally.ok > 100, "{tally:?}");
        }
        done
    }

    /// Has the service name the pods that serve, as a load balancer does that asks them.
    fn control(&self, agent: &Agent, ended: &AtomicBool) -> Result<()> {
        let mut named: Vec<usize> = (0..self.cluster.pods.len()).collect();
        while !ended.load(Ordering::Relaxed) {
            let serving = self.serving(agent)?;
            if serving != named {
                self.cluster.set_endpoints(&serving)?;
                named = serving;
            }
            thread::sleep(Duration::from_millis(50)); // not a wait for a state: how often it asks
        }
        Ok(())
    }

    fn serving(&self, agent: &Agent) -> Result<Vec<usize>> {
        #[derive(Deserialize)]
        struct List {
            services: Vec<Service>,
        }
        #[derive(Deserialize)]
        struct Service {
            netns: u32,
            state: String,
        }
        let answer = agent.http("GET", &format!("/v1/services?netns=all&port={PORT}"), "")?;
        let list: List = serde_json::from_slice(&answer.body)
            .with_context(|| String::from_utf8_lossy(&answer.body).into_owned())?;
        let serves = |index: &usize| {
            let netns = self.cluster.pods[*index].netns.inode();
            list.services.iter().any(|it| it.netns == netns && it.state == "serving")
        };
        Ok((0..self.cluster.pods.len()).filter(serves).collect())
    }
}

fn config(dir: &Path) -> Result<String> {
    let dir = dir.to_str().context("a folder name that is not UTF-8")?;
    let body = std::str::from_utf8(BODY)?.trim_end();
    Ok(format!(
        "daemon on; master_process off; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
  uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e; keepalive_timeout 300s; keepalive_requests 100000;
  server {{
    listen {PORT}; listen [::]:{PORT};
    set $version version-old;
    location = /version {{ return 200 \"$version\\n\"; }}
    location = /ok {{ if ($version = version-sick) {{ return 503; }} return 200 '{body}\\n'; }}
  }}
}}
"
    ))
}
