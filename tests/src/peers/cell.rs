//! One pair: the server runs in two pods behind kube-proxy's rules, the client keeps its connections to
//! the first, and that one is drained. As in a rolling restart, the rules name the other pod from then on.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    Client, Kind, Pair, clients,
    contract::{self, Executed, Summary, WARM},
    place::{Place, Running},
    resets::Resets,
    servers,
};
use crate::{
    agent::Agent,
    cluster::{Cluster, PORT, Pod, SERVICE},
    cmd,
    ctl::Ctl,
    kubeproxy::Mode,
    netns::Netns,
    wait::eventually,
};

/// A virtual machine or an interpreter may take its time to start where two cores are shared.
const START: Duration = Duration::from_secs(30);

/// For the first responses, with the first bytes of the slow one.
const WARMING: Duration = Duration::from_secs(40);

/// For the requests under way when the client is told to stop.
const STOP: Duration = Duration::from_secs(20);

/// How pairs are drained.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `drain --timeout`, in seconds.
    pub timeout: u32,
    /// Connections of each client.
    pub connections: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { timeout: 25, connections: 4 }
    }
}

/// How it went.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Who took part.
    pub pair: Pair,
    /// What the client saw.
    pub summary: Summary,
    /// Connections to the drained pod when the drain began.
    pub flows: u64,
    /// From the drain's start to its end.
    pub took: Duration,
    /// What speaks against a pass; empty for a pass.
    pub complaints: Vec<String>,
    /// What the client is known to do wrong by itself.
    pub known: Vec<String>,
}

impl Cell {
    /// Whether requests with a side effect took part.
    pub fn has_posts(&self) -> bool {
        self.summary.posts.sent > 0
    }
}

/// Runs one pair.
///
/// # Errors
/// It could not be run or judged; what the drain did wrong is among the complaints.
pub fn run(agent: &Agent, pair: Pair, settings: Settings) -> Result<Cell> {
    let cluster = Cluster::new(2, Mode::Iptables)?;
    cluster.set_endpoints(&[0])?;
    let scene = Scene::start(&cluster, pair, settings)?;
    drain(agent, &cluster, scene, settings).with_context(|| pair.name())
}

/// Two servers, and a client that has had its first responses.
struct Scene {
    pair: Pair,
    client: Running,
    /// The servers, and what stands between them and the client.
    others: Vec<Running>,
    executed: Vec<PathBuf>,
    _dir: TempDir,
}

impl Scene {
    fn start(cluster: &Cluster, pair: Pair, settings: Settings) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("drainctl-peers-").tempdir()?;
        // Some servers give up their rights when started by root.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let kinds = pair.kinds();
        let mut others = Vec::new();
        let mut executed = Vec::new();
        for (index, pod) in cluster.pods.iter().enumerate() {
            let place = place(dir.path(), &format!("server{index}"), pod.addr(), &[])?;
            let launch = (pair.server.launch)(&place, pair.protocol)?;
            others.push(launch.start(&pod.netns, &place.dir, "server")?);
            executed.push(place.executed);
        }
        for (server, pod) in others.iter_mut().zip(&cluster.pods) {
            await_listening(server, &pod.netns)?;
        }
        Resets::watch(&cluster.pods[0].netns)?;
        let args = contract::client_args(settings.connections, &kinds);
        let place = place(dir.path(), "client", SERVICE.into(), &args)?;
        let client = start_client(&pair.client, &place, pair, cluster, &mut others)?;
        Ok(Self { pair, client, others, executed, _dir: dir })
    }

    /// Insists that nothing has ended that should run.
    fn all_run(&mut self) -> Result<()> {
        for program in self.others.iter_mut().chain([&mut self.client]) {
            if let Some(status) = program.process.exited()? {
                bail!("a program ended: {status}\n{}", program.complaint());
            }
        }
        Ok(())
    }
}

fn place(dir: &Path, name: &str, addr: SocketAddr, args: &[String]) -> Result<Place> {
    let dir = dir.join(name);
    fs::create_dir_all(&dir)?;
    Ok(Place { executed: dir.join("executed"), dir, addr, args: args.to_vec() })
}

/// Starts what stands in front of the client, and then the client, and waits until it is warm.
fn start_client(
    client: &Client,
    place: &Place,
    pair: Pair,
    cluster: &Cluster,
    others: &mut Vec<Running>,
) -> Result<Running> {
    let mut launches = (client.launch)(place, pair.protocol)?;
    let last = launches.pop().context("a client is at least one program")?;
    for (index, launch) in launches.into_iter().enumerate() {
        let mut front = launch.start(&cluster.client, &place.dir, &format!("front{index}"))?;
        await_listening(&mut front, &cluster.client)?;
        others.push(front);
    }
    let mut running = last.start(&cluster.client, &place.dir, "client")?;
    let warm = eventually(WARMING, "the client has had its first responses", || {
        if let Some(status) = running.process.exited()? {
            bail!("the client ended: {status}");
        }
        Ok(contract::is_warm(&running.stdout()?))
    });
    warm.with_context(|| {
        let servers: Vec<String> = others.iter().map(Running::complaint).collect();
        let (out, err) = (running.stdout().unwrap_or_default(), running.complaint());
        format!("{}: client: {out}{err}\nservers: {}", pair.name(), servers.join("\n"))
    })?;
    Ok(running)
}

/// Waits until a server listens; looks instead of connecting, so as not to be counted.
fn await_listening(server: &mut Running, netns: &Netns) -> Result<()> {
    let Some(port) = server.listens else { return Ok(()) };
    let filter = format!("sport = :{port}");
    eventually(START, &format!("a server listens on port {port}"), || {
        if let Some(status) = server.process.exited()? {
            bail!("the server ended: {status}\n{}", server.complaint());
        }
        Ok(!netns.run(|| cmd::run("ss", &["-Htln", &filter]))?.is_empty())
    })
    .with_context(|| server.complaint())
}

fn drain(agent: &Agent, cluster: &Cluster, mut scene: Scene, settings: Settings) -> Result<Cell> {
    let pod = &cluster.pods[0];
    let ctl = agent.ctl(&pod.netns);
    let flows = ctl.service(PORT)?.flows;
    let timeout = format!("{}s", settings.timeout);
    let args = ["drain", "--port", "80", "--min-settle", "1s", "--quiet", "300ms", "--timeout"];
    let before = Resets::of(&pod.netns)?;
    let begin = Instant::now();
    let draining = ctl.start(&[&args[..], &[&timeout]].concat())?;
    cluster.set_endpoints(&[1])?;
    let outcome = draining.wait()?;
    let took = begin.elapsed();
    let (mut complaints, mut wrong) = (Vec::new(), Vec::new());
    match outcome.code {
        Some(0) => {}
        Some(3) => wrong.push(flows_left(&ctl)?),
        _ => complaints.push(outcome.to_string()),
    }
    wrong.extend(resets(&ctl, pod, before, scene.pair)?);
    scene.all_run()?;
    let executed: Vec<&Path> = scene.executed.iter().map(AsRef::as_ref).collect();
    let summary = stop(&mut scene.client)?;
    wrong.extend(errors(&summary));
    if scene.pair.kinds().contains(&Kind::Post) || summary.posts.sent > 0 {
        let executed = Executed::read(&executed)?;
        wrong.extend(lost_posts(&summary, &executed));
        complaints.extend(repeated_posts(&summary, &executed));
    }
    complaints.extend(judge(&summary, flows));
    let pair = scene.pair;
    let aborts = clients::ABORT_AT_GOAWAY.contains(&(pair.protocol, pair.client.name));
    let known = if aborts {
        wrong
    } else {
        complaints.append(&mut wrong);
        Vec::new()
    };
    Ok(Cell { pair, summary, flows, took, complaints, known })
}

fn flows_left(ctl: &Ctl<'_>) -> Result<String> {
    let flows = ctl.run(&["flows", "--port", "80"])?.stdout;
    Ok(format!("{} flows left at the deadline:\n{flows}", ctl.service(PORT)?.flows))
}

/// Complaints about resets. What the gate has refused is answered by a reset, too, and is no complaint;
/// nor are those of a client that ends its connections with resets anyway: one of `END_WITH_RESETS`, or
/// one that was seen to before the drain. Servers likewise.
fn resets(ctl: &Ctl<'_>, pod: &Pod, before: Resets, pair: Pair) -> Result<Vec<String>> {
    let Resets { sent, received } = Resets::of(&pod.netns)?;
    let refused = ctl.service(PORT)?.rejected;
    let mut complaints = Vec::new();
    let habit = servers::END_WITH_RESETS.contains(&pair.server.name);
    if !habit && before.sent == 0 && sent > refused {
        complaints.push(format!("the pod sent {sent} resets and refused {refused} connections"));
    }
    let habit = clients::END_WITH_RESETS.contains(&pair.client.name);
    if !habit && before.received == 0 && received > 0 {
        complaints.push(format!("the client sent {received} resets"));
    }
    Ok(complaints)
}

/// Lets the client end what it has begun, and reads its summary.
fn stop(client: &mut Running) -> Result<Summary> {
    client.process.signal(Signal::TERM)?;
    let ended = client.process.wait(STOP);
    let summary = ended.and_then(|_| Summary::parse(&client.stdout()?));
    summary.with_context(|| format!("the client's messages:\n{}", client.complaint()))
}

fn judge(summary: &Summary, flows: u64) -> Vec<String> {
    let mut complaints = Vec::new();
    if flows == 0 {
        complaints.push("no connection was there to be drained".to_owned());
    }
    if summary.responses < WARM {
        complaints.push(format!("only {} responses", summary.responses));
    }
    if summary.bad_count > 0 {
        complaints.push(format!("{} wrong responses: {:?}", summary.bad_count, summary.bad));
    }
    complaints
}

/// Failures that the client saw.
fn errors(summary: &Summary) -> Option<String> {
    (summary.error_count > 0)
        .then(|| format!("{} errors: {:?}", summary.error_count, summary.errors))
}

fn lost_posts(summary: &Summary, executed: &Executed) -> Option<String> {
    let (posts, executed) = (summary.posts, executed.ids);
    (posts.answered != posts.sent || executed != posts.sent).then(|| {
        format!("{} POSTs sent, {executed} executed, {} answered", posts.sent, posts.answered)
    })
}

fn repeated_posts(summary: &Summary, executed: &Executed) -> Vec<String> {
    let mut complaints = Vec::new();
    if summary.posts.sent == 0 {
        complaints.push("no POST was sent".to_owned());
    }
    if !executed.repeated.is_empty() {
        complaints.push(format!("executed more than once: {:?}", executed.repeated));
    }
    complaints
}
