//! `cargo xtask test registries`: an instance that is registered with a real registry is drained while consumers find
//! instances by that registry and call them directly. No call fails, the registry says that the instance is out while
//! it is drained, and in once it is not.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT, Pod},
    http,
    kubeproxy::Mode,
    netns::Netns,
    nginx::Nginx,
    process::Process,
    wait::eventually,
};
use serde_json::Value;

/// One of the registries.
type Test = fn() -> Result<()>;

/// A server in Java takes its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a consumer calls.
const PACE: Duration = Duration::from_millis(10);
/// Calls that are made at least, before, while and after an instance is drained.
const CALLS: u64 = 300;

fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).collect();
    let tests: [(&str, Test); 4] =
        [("consul", consul), ("eureka", eureka), ("actuator", actuator), ("nacos", nacos)];
    let mut failed = false;
    for (name, test) in tests {
        if !wanted.is_empty() && !wanted.iter().any(|each| each == name) {
            continue;
        }
        match test() {
            Ok(()) => println!("{name}: ok"),
            Err(error) => {
                failed = true;
                println!("{name}: FAILED: {error:#}");
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn folder() -> Result<PathBuf> {
    let folder = env::var_os("DRAINCTL_REGISTRIES");
    Ok(folder.context("run `cargo xtask test registries`, which builds the registries")?.into())
}

/// Starts a program inside a pod; what it says goes to a file.
fn start(pod: &Pod, log: PathBuf, mut command: Command) -> Result<Process> {
    let log = File::create(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let what = format!("{command:?}");
    let child = pod.netns.run(move || command.spawn().context("start a program"))?;
    Ok(Process::new(child, what))
}

/// One request by curl, which speaks whatever a registry does.
fn curl(netns: &Netns, args: &[&str]) -> Result<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "5"]).args(args);
    let output = netns.run(move || command.output().context("run curl"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Addresses of the instances that a registry says are up.
type Up = Arc<dyn Fn(&Netns) -> Result<Vec<String>> + Send + Sync>;

/// Consumers: one asks the registry all the time, others call any of the instances it knows.
struct Consumers {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    errors: Arc<Mutex<Vec<String>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Consumers {
    fn start(client: &Arc<Netns>, up: &Up) -> Result<Self> {
        let known = Arc::new(Mutex::new(up(client)?));
        let mut all = Self {
            stop: Arc::default(),
            calls: Arc::default(),
            errors: Arc::default(),
            threads: Vec::new(),
        };
        let (stop, client_, up, cache) =
            (Arc::clone(&all.stop), Arc::clone(client), Arc::clone(up), Arc::clone(&known));
        all.threads.push(thread::spawn(move || {
            while !stop.load(Relaxed) {
                // A registry that does not answer leaves consumers with what they know.
                if let Ok(now) = up(&client_) {
                    *cache.lock().unwrap_or_else(PoisonError::into_inner) = now;
                }
                thread::sleep(PACE * 10); // not a wait for a state: how often consumers ask
            }
        }));
        for worker in 0..4 {
            let (stop, calls) = (Arc::clone(&all.stop), Arc::clone(&all.calls));
            let (errors, known) = (Arc::clone(&all.errors), Arc::clone(&known));
            let client = Arc::clone(client);
            all.threads.push(thread::spawn(move || {
                let mut turn: usize = worker;
                while !stop.load(Relaxed) {
                    let known = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    turn += 1;
                    let called = known.get(turn % known.len().max(1)).map(|addr| {
                        let answer = http::get(&client, addr.parse()?, "/")?;
                        ensure!(answer.status < 500, "{addr} answers {}", answer.status);
                        Ok(())
                    });
                    if let Err(error) = called.unwrap_or_else(|| bail!("no instance is up")) {
                        errors
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(error.to_string());
                    }
                    calls.fetch_add(1, Relaxed);
                    thread::sleep(PACE); // not a wait for a state: the consumer's pace
                }
            }));
        }
        Ok(all)
    }

    /// Waits until so many more calls were made.
    fn go_on(&self) -> Result<()> {
        let until = self.calls.load(Relaxed) + CALLS;
        eventually(PATIENCE, "consumers call", || Ok(self.calls.load(Relaxed) >= until))
    }

    fn finish(self) -> Result<u64> {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            ensure!(thread.join().is_ok(), "a consumer panicked");
        }
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(errors.is_empty(), "{} calls failed, the first: {}", errors.len(), errors[0]);
        Ok(self.calls.load(Relaxed))
    }
}

/// Drains the first instance and brings it back, by an agent that tells this registry.
fn drain(cluster: &Cluster, up: &Up, entry: &str) -> Result<()> {
    let (client, pods) = (&cluster.client, &cluster.pods);
    let instance = |pod: usize| pods[pod].addr().to_string();
    let (both, other) = (vec![instance(0), instance(1)], vec![instance(1)]);
    let is = |expected: &Vec<String>| {
        let mut now = up(client).unwrap_or_default();
        now.sort();
        now == *expected
    };
    eventually(PATIENCE, "both instances are registered", || Ok(is(&both)))?;
    let mut agent = Agent::prepare()?;
    let file = agent.dir().join("registries.yaml");
    fs::write(
        &file,
        format!(
            "registries:\n- name: it\n  ports: [{PORT}]\n  from: service\n  timeout: 20s\n  on-failure: abort\n{entry}"
        ),
    )?;
    agent.launch(&["--registries", &file.display().to_string()])?;
    let consumers = Consumers::start(client, up)?;
    consumers.go_on()?;
    let ctl = agent.ctl(&pods[0].netns);
    let drain = ctl.start(&[
        "drain",
        "--port",
        "80",
        "--min-settle",
        "5s",
        "--timeout",
        "120s",
        "--keep-closed",
    ])?;
    eventually(PATIENCE, "the registry says that it is out", || Ok(is(&other)))?;
    let state = ctl.service(PORT)?.state;
    ensure!(state == "settling", "it says so before the gate closes, and not once it is {state}");
    drain.wait()?.expect(0)?;
    ensure!(is(&other), "it still says so: {:?}", up(client));
    consumers.go_on()?;
    ctl.expect(0, &["undrain", "--port", "80"])?;
    eventually(PATIENCE, "the registry says that it is in", || Ok(is(&both)))?;
    consumers.go_on()?;
    let calls = consumers.finish()?;
    println!("  {calls} calls, none failed");
    Ok(())
}

fn consul() -> Result<()> {
    let cluster = Cluster::new(3, Mode::Iptables)?;
    let place = &cluster.pods[2];
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(folder()?.join("bin/consul"));
    command.args(["agent", "-dev", "-client", "0.0.0.0", "-node", "node", "-bind"]);
    command.arg(place.v4.to_string());
    let _consul = start(place, dir.path().join("log"), command)?;
    let url = format!("http://{}:8500", place.v4);
    let leader = || curl(&cluster.client, &[&format!("{url}/v1/status/leader")]);
    eventually(PATIENCE, "consul has a leader", || Ok(leader().is_ok_and(|text| text.len() > 4)))?;
    let mut servers = Vec::new();
    for (number, pod) in cluster.pods[..2].iter().enumerate() {
        servers.push(Nginx::start(pod)?);
        Nginx::await_answer(&cluster.client, pod.addr())?;
        let service =
            format!(r#"{{"ID":"web-{number}","Name":"web","Address":"{}","Port":{PORT}}}"#, pod.v4);
        let register = format!("{url}/v1/agent/service/register");
        curl(&cluster.client, &["--request", "PUT", "--data", &service, &register])?;
    }
    let health = format!("{url}/v1/health/service/web?passing=1");
    let up: Up = Arc::new(move |client| {
        let all: Vec<Value> = serde_json::from_str(&curl(client, &[&health])?)?;
        let addr = |each: &Value| {
            let service = &each["Service"];
            format!("{}:{}", service["Address"].as_str().unwrap_or_default(), service["Port"])
        };
        Ok(all.iter().map(addr).collect())
    });
    drain(&cluster, &up, &format!("  consul: {{url: '{url}', service-id: web-0}}\n"))
}

fn java(project: &str, class: &str, options: &[String]) -> Result<Command> {
    let folder = folder()?.join(project);
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]);
    command.arg(format!("{0}/classes:{0}/lib/*", folder.display())).arg(class).args(options);
    Ok(command)
}

/// A Eureka server, and two applications that register with it.
struct Spring {
    _processes: Vec<Process>,
    _dir: tempfile::TempDir,
    url: String,
    up: Up,
}

impl Spring {
    fn start(cluster: &Cluster) -> Result<Self> {
        let (place, dir) = (&cluster.pods[2], tempfile::tempdir()?);
        let url = format!("http://{}:8761/eureka", place.v4);
        let options = [
            "--server.port=8761",
            "--eureka.client.register-with-eureka=false",
            "--eureka.client.fetch-registry=false",
            "--eureka.server.response-cache-update-interval-ms=200",
            "--eureka.server.use-read-only-response-cache=false",
        ];
        let server = java("java", "EurekaServer", &options.map(str::to_owned))?;
        let mut processes = vec![start(place, dir.path().join("server"), server)?];
        let apps = format!("{url}/apps");
        eventually(PATIENCE, "eureka answers", || Ok(curl(&cluster.client, &[&apps]).is_ok()))?;
        for (number, pod) in cluster.pods[..2].iter().enumerate() {
            let options = [
                format!("--server.port={PORT}"),
                "--spring.application.name=web".into(),
                format!("--eureka.client.service-url.defaultZone={url}/"),
                format!("--eureka.instance.instance-id=web-{number}"),
                "--eureka.instance.prefer-ip-address=true".into(),
                format!("--eureka.instance.ip-address={}", pod.v4),
                "--eureka.instance.lease-renewal-interval-in-seconds=1".into(),
                "--eureka.client.initial-instance-info-replication-interval-seconds=0".into(),
                "--management.endpoints.web.exposure.include=serviceregistry".into(),
                // Its other client comes with the server only, and is not complete then.
                "--eureka.client.jersey.enabled=false".into(),
            ];
            let log = dir.path().join(format!("web-{number}"));
            processes.push(start(pod, log, java("java", "Web", &options)?)?);
        }
        Ok(Self { _processes: processes, _dir: dir, url, up: eureka_up(apps) })
    }
}

fn eureka_up(apps: String) -> Up {
    Arc::new(move |client| {
        let args = ["--header", "Accept: application/json", &format!("{apps}/WEB")];
        let app: Value = serde_json::from_str(&curl(client, &args)?)?;
        let all = app["application"]["instance"].as_array().cloned().unwrap_or_default();
        let up = all.iter().filter(|each| each["status"] == "UP");
        let addr = |each: &Value| {
            format!("{}:{}", each["ipAddr"].as_str().unwrap_or_default(), each["port"]["$"])
        };
        Ok(up.map(addr).collect())
    })
}

fn eureka() -> Result<()> {
    let cluster = Cluster::new(3, Mode::Iptables)?;
    let spring = Spring::start(&cluster)?;
    let entry = format!("  eureka: {{url: '{}', app: WEB, instance-id: web-0}}\n", spring.url);
    drain(&cluster, &spring.up, &entry)
}

fn actuator() -> Result<()> {
    let cluster = Cluster::new(3, Mode::Iptables)?;
    let spring = Spring::start(&cluster)?;
    drain(&cluster, &spring.up, "  actuator: {url: 'http://127.0.0.1:{port}/actuator'}\n")
}

fn nacos_server(place: &Pod, dir: &Path) -> Result<Process> {
    // Its database may take its time, too. The last one is for v1 and v2.
    let settings = "db.pool.config.connection-timeout=120000\n\
                    nacos.server.contextPath=/nacos\nnacos.core.auth.system.type=nacos\n\
                    nacos.core.auth.enabled=false\nnacos.core.auth.admin.enabled=false\n\
                    nacos.core.auth.console.enabled=false\n\
                    nacos.core.api.compatibility.admin.enabled=true\n";
    fs::write(dir.join("application.properties"), settings)?;
    let options = format!(
        "-Dnacos.standalone=true -Dderby.system.durability=test -Dnacos.server.ip={} -Dnacos.home={1} -Duser.home={1} \
         -Dspring.config.additional-location=file:{1}/",
        place.v4,
        dir.display()
    );
    let mut server = java("nacos", "NacosServer", &[])?;
    server.env("JDK_JAVA_OPTIONS", options).current_dir(dir);
    start(place, dir.join("server"), server)
}

/// Instances that are enabled, and otherwise as they were registered.
fn nacos_up(list: String) -> Up {
    Arc::new(move |client| {
        let answer: Value = serde_json::from_str(&curl(client, &[&list])?)?;
        let all = answer["data"].as_array().cloned().unwrap_or_default();
        let whole = |each: &&Value| each["weight"] == 2.5 && each["metadata"]["zone"] == "a";
        let enabled = all.iter().filter(whole).filter(|each| each["enabled"] == true);
        let addr =
            |each: &Value| format!("{}:{}", each["ip"].as_str().unwrap_or_default(), each["port"]);
        Ok(enabled.map(addr).collect())
    })
}

/// Each of its interfaces, one after the other.
fn nacos() -> Result<()> {
    let cluster = Cluster::new(3, Mode::Iptables)?;
    let (place, dir) = (&cluster.pods[2], tempfile::tempdir()?);
    let url = format!("http://{}:8848/nacos", place.v4);
    let mut processes = vec![nacos_server(place, dir.path())?];
    let list = format!("{url}/v3/client/ns/instance/list?serviceName=web");
    eventually(PATIENCE, "nacos answers", || {
        ensure!(processes[0].exited()?.is_none(), "nacos does not start");
        Ok(curl(&cluster.client, &[&list]).is_ok())
    })?;
    let mut servers = Vec::new();
    for (number, pod) in cluster.pods[..2].iter().enumerate() {
        servers.push(Nginx::start(pod)?);
        Nginx::await_answer(&cluster.client, pod.addr())?;
        let options = [format!("{}:8848", place.v4), pod.v4.to_string(), PORT.to_string()];
        let mut instance = java("nacos", "NacosInstance", &options)?;
        instance.env("JDK_JAVA_OPTIONS", format!("-Duser.home={}", dir.path().display()));
        instance.current_dir(dir.path());
        processes.push(start(pod, dir.path().join(format!("web-{number}")), instance)?);
    }
    let up = nacos_up(list);
    for api in ["v1", "v2", "v3"] {
        println!("  {api}");
        drain(&cluster, &up, &format!("  nacos: {{url: '{url}', service: web, api: {api}}}\n"))?;
    }
    Ok(())
}
