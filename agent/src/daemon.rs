//! The daemon's life: from its options to a socket that answers, and from a signal to a clean end.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    api::{
        App, Connections, Seats, router,
        server::{BindError, Socket},
        tcp::{self, AgentCheck, Endpoint, EndpointError},
    },
    executor::Executor,
    hook::Hooks,
    install::{self, Done, InstallError},
    kernel::{self, Event, Kernel, KernelError, PinDir, PinDirError},
    pods::{self, Cluster, ClusterError, ClusterOptions, Mode, Pods, Sources},
    privileges::{self, Unprivileged},
    registries::{Registries, Registry},
};

/// Threads that run tasks: the agent waits far more than it computes.
const WORKERS: usize = 2;
/// Threads that may block in the kernel at once. They come as they are needed and go again, and most of those that
/// look wait for a look that serves many of them.
const BLOCKING_THREADS: usize = 128;
/// How long stopping waits for answers under way.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// How often a daemon that is stopping says what it still carries.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What the daemon is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where clients connect.
    pub socket: PathBuf,
    /// Where clients may connect over TCP, too.
    pub tcp: Option<tcp::Options>,
    /// Where load balancers may ask, one line at a time.
    pub agent_check: Option<SocketAddr>,
    /// Where kernel objects are kept, on a bpffs.
    pub pin_dir: PathBuf,
    /// Root of the cgroup v2 hierarchy; `None`: where /proc/mounts says it is.
    pub cgroup: Option<PathBuf>,
    /// The kubelet's cgroup; `None`: that of the kubelet's process.
    pub probe_cgroup: Option<PathBuf>,
    /// Most connections the tracker holds at once, node-wide, at least 1.
    pub max_flows: u32,
    /// Most services the tracker knows at once, at least 1.
    pub max_services: u32,
    /// Most clients remembered at once, node-wide; 0: none.
    pub client_history: u32,
    /// Most connections carried to peers at once, at least 1.
    pub max_carried: u32,
    /// How to reach the Kubernetes API.
    pub cluster: ClusterOptions,
    /// Socket of the container runtime; `None`: the first that is there of those that are known.
    pub cri_socket: Option<PathBuf>,
    /// The kubelet's folder of logs, whose names tell which pods there are.
    pub pod_logs: PathBuf,
    /// Registries that are told of drains.
    pub registries: Vec<Registry>,
    /// Version of the kernel programs to go by; `None`: the one they have. Only tests of upgrades say another.
    pub version: Option<u32>,
}

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// No threads, or no signals.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// It may not do what it has to.
    #[error("cannot work with so few privileges")]
    Unprivileged(#[from] Unprivileged),
    /// The kernel layer did not start.
    #[error("cannot set up the kernel programs")]
    Kernel(#[from] KernelError),
    /// Nothing can be kept.
    #[error("cannot use the pin directory")]
    PinDir(#[from] PinDirError),
    /// There is no socket.
    #[error("cannot make the socket")]
    Bind(#[from] BindError),
    /// There is no TCP endpoint.
    #[error("cannot serve over TCP")]
    Endpoint(#[from] EndpointError),
    /// The Kubernetes API is to be asked, and cannot be.
    #[error("cannot ask the Kubernetes API")]
    Cluster(#[from] ClusterError),
}

/// Runs until SIGTERM or SIGINT. Then the socket is gone, and the kernel goes on by itself: gates stay as they are,
/// connections are counted, and a next agent on the same pin directory goes on with the drains.
///
/// # Errors
/// It could not start. What an earlier agent has left is still there then.
pub fn run(options: &Options) -> Result<(), DaemonError> {
    kernel::give_memory_back();
    runtime().map_err(DaemonError::Runtime)?.block_on(serve(options))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
}

/// Removes what agents have left in the kernel below this pin directory: gates open, nothing counts any more. Of a
/// directory that is not there it is no error.
///
/// # Errors
/// An agent is running there, or something could not be removed; called again it goes on.
pub fn uninstall(pin_dir: &Path) -> Result<(), DaemonError> {
    match PinDir::claim_existing(pin_dir)? {
        Some(dir) => Ok(kernel::uninstall(dir)?),
        None => Ok(()),
    }
}

/// Puts the command line into a folder of the node, and says what came of it.
///
/// # Errors
/// There is none afterwards.
pub fn install_program(dir: &Path) -> Result<(), InstallError> {
    match install::own_drainctl().and_then(|program| install::install(&program, dir)) {
        Ok(Done::Installed) => tracing::info!(dir = %dir.display(), "installed drainctl"),
        Ok(_) => tracing::debug!(dir = %dir.display(), "drainctl is installed already"),
        // Of another version it still does what hooks need.
        Err(error) if dir.join("drainctl").exists() => {
            let error = anyhow::Error::from(error);
            tracing::error!("goes on with the drainctl that is installed: {error:#}");
        }
        Err(error) => return Err(error),
    }
    if install::is_noexec(dir) {
        tracing::error!(
            dir = %dir.display(),
            "it is mounted noexec, so pods cannot run drainctl from it: give --bin-dir a folder of another file system"
        );
    }
    Ok(())
}

/// Removes the command line from a folder of the node.
///
/// # Errors
/// It cannot be removed.
pub fn remove_program(dir: &Path) -> Result<(), InstallError> {
    let done = install::remove(&install::own_drainctl()?, dir)?;
    if done == Done::NotOurs {
        tracing::info!(dir = %dir.display(), "there is no drainctl of this version there; nothing was removed from it");
    }
    Ok(())
}

async fn serve(options: &Options) -> Result<(), DaemonError> {
    privileges::check()?;
    raise_limits();
    let mut signals = Signals::new().map_err(DaemonError::Runtime)?;
    // Both tell a second agent to leave the first one's programs alone.
    let socket = Socket::bind(&options.socket)?;
    let endpoint = match &options.tcp {
        Some(tcp) => Some(Endpoint::bind(tcp).await?),
        None => None,
    };
    let checks = match options.agent_check {
        Some(addr) => Some(AgentCheck::bind(addr).await?),
        None => None,
    };
    let pin_dir = PinDir::claim(&options.pin_dir)?;
    let (kernel, events) = open_kernel(options, &pin_dir)?;
    let registries = Registries::new(options.registries.clone(), Arc::clone(&kernel));
    let max_carried = options.max_carried as usize;
    let executor = Executor::spawn(Arc::clone(&kernel), events, max_carried, registries.clone())?;
    let pods = find_pods(options, kernel.host_netns()).await?;
    registries.know(pods.clone());
    let keeper = tokio::spawn(pods::keep(pods.clone(), executor.clone()));
    tracing::info!(socket = %options.socket.display(), "listening");
    let seats = Seats::new(kernel.host_netns());
    let app = Arc::new(App::new(executor.clone(), Arc::clone(&kernel), pods.clone()));
    let hooks = Hooks::start(kernel, router(Arc::clone(&app)), pods, app.hooks());
    let mut beside = Vec::new();
    if let Some(endpoint) = endpoint {
        if let Ok(addr) = endpoint.addr() {
            tracing::info!(%addr, "listening over TCP");
        }
        let router = router(Arc::clone(&app));
        beside.push(Beside::start(|stop| endpoint.serve(router, stop)));
    }
    if let Some(checks) = checks {
        if let Ok(addr) = checks.addr() {
            tracing::info!(%addr, "listening for agent checks");
        }
        let app = Arc::clone(&app);
        beside.push(Beside::start(|stop| checks.serve(app, stop)));
    }
    let stop = async {
        signals.asked_to_stop().await;
        answer_hooks(&hooks, &mut signals).await;
    };
    let connections = socket.serve(router(app), seats, stop).await;
    drop(hooks);
    tracing::info!("stopping: the kernel goes on by itself until the next agent comes");
    executor.stop().await;
    keeper.abort();
    tokio::join!(connections.finish(FINISH_WITHIN), async {
        for listener in beside {
            listener.finish().await;
        }
    });
    // From here on the next agent may start.
    drop(pin_dir);
    carry_to_the_end(&executor, &mut signals).await;
    tracing::info!("stopped");
    Ok(())
}

/// Nobody else can answer the kubelet, and without an answer it stops the container at once.
async fn answer_hooks(hooks: &Hooks, signals: &mut Signals) {
    let under_way = hooks.under_way();
    if under_way == 0 {
        return;
    }
    tracing::info!(
        under_way,
        "goes on until preStop hooks are answered; asked to stop again, it leaves their drains to the next agent"
    );
    tokio::select! {
        () = hooks.idle() => {}
        () = signals.asked_to_stop() => {
            tracing::warn!(under_way = hooks.under_way(), "preStop hooks break off");
        }
    }
}

/// Another listener, served beside the socket.
struct Beside {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Connections>,
}

impl Beside {
    fn start<F>(serve: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>) -> F) -> Self
    where
        F: Future<Output = Connections> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        Self { stop, serving: tokio::spawn(serve(Box::pin(async { drop(stopped.await) }))) }
    }

    async fn finish(self) {
        drop(self.stop);
        if let Ok(connections) = self.serving.await {
            connections.finish(FINISH_WITHIN).await;
        }
    }
}

/// Begins to follow the pods of this node. Drains that an earlier agent began go on meanwhile.
async fn find_pods(options: &Options, host_netns: u32) -> Result<Pods, ClusterError> {
    let cluster = Cluster::find(&options.cluster).await?;
    let sources = Sources {
        proc: "/proc".into(),
        logs: options.pod_logs.clone(),
        cri_socket: options.cri_socket.clone(),
    };
    Pods::start(host_netns, sources, cluster, options.cluster.mode == Mode::Require).await
}

/// Only this process can go on with the connections that it carries to peers; they end with it.
async fn carry_to_the_end(executor: &Executor, signals: &mut Signals) {
    let carried = executor.carried().now;
    if carried == 0 {
        return;
    }
    tracing::info!(
        carried,
        "goes on carrying connections until they end; asked to stop again, it resets them"
    );
    tokio::select! {
        () = executor.idle() => {}
        () = tell_what_is_carried(executor) => {}
        () = signals.asked_to_stop() => tracing::warn!(carried = executor.carried().now, "carried connections are reset"),
    }
}

/// Says at once and then each minute what a service manager may be waiting for.
async fn tell_what_is_carried(executor: &Executor) {
    loop {
        for (service, connections) in executor.carried_by_service() {
            tracing::info!(%service, connections, "still carries");
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}

/// Every connection and every gate is a few descriptors, and the usual soft limit is for programs that use
/// select(2). Before Linux 5.11 maps count as locked memory, of which a container has little.
fn raise_limits() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the limit of open files: fewer clients can wait at once");
    }
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!(%error, "cannot raise the limit of locked memory, which only Linux before 5.11 needs");
    }
}

/// Starts the kernel layer.
fn open_kernel(
    options: &Options,
    pin_dir: &PinDir,
) -> Result<(Arc<dyn Kernel>, mpsc::UnboundedReceiver<Event>), KernelError> {
    let config = kernel::Config {
        cgroup: options.cgroup.clone(),
        probe_cgroup: options.probe_cgroup.clone(),
        max_flows: options.max_flows,
        max_services: options.max_services,
        client_history: options.client_history,
        version: options.version,
    };
    let (linux, events) = kernel::open(&config, pin_dir)?;
    Ok((linux, events))
}

/// The signals that ask the daemon to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked_to_stop(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "asked to stop");
    }
}
