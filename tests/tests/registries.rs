//! Registries are told that a server leaves, before its gate closes, and that it is back, once its gate is open.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use drainctl_tests::{
    agent::Agent,
    cluster::{Cluster, PORT},
    ctl::Outcome,
    fixture::{Fixture, serve},
    net::{Attempt, attempt},
    netns::Netns,
    registry::{Answer, Registry},
    wait::{LIMIT, eventually},
};

/// A pod, an agent that is not started yet, and what registries write down.
struct World {
    fixture: Fixture,
}

/// Whether a client gets in.
fn gate(client: PathBuf, addr: SocketAddr) -> impl Fn() -> String + Send + 'static {
    move || {
        let attempt = Netns::at(client.clone()).and_then(|netns| attempt(&netns, addr, LIMIT));
        attempt.map_or_else(|error| error.to_string(), |attempt| format!("{attempt:?}"))
    }
}

/// Of entries that are to answer in time, however busy the machine is.
const PATIENT: &str = "  timeout: 20s\n";

impl World {
    fn new() -> Result<Self> {
        let cluster = Cluster::single()?;
        let server = serve(&cluster.pods[0], PORT)?;
        Ok(Self { fixture: Fixture { agent: Agent::prepare()?, server, cluster } })
    }

    /// A registry inside `netns` that notes whether the gate is open.
    fn registry(&self, netns: &Netns) -> Result<Registry> {
        let client = self.fixture.cluster.client.path().clone();
        Registry::start(netns, gate(client, self.fixture.pod().addr()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.fixture.agent.dir().join(name)
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// An entry that notes what it is told, and has more lines.
    fn noting(&self, name: &str, more: &str) -> String {
        let log = self.path("log");
        format!(
            "- name: {name}\n  ports: [{PORT}]\n{PATIENT}  exec: {{command: [/bin/sh, -c, 'echo {name} $DRAINCTL_EVENT \
             $DRAINCTL_PORT $DRAINCTL_NETNS >> {}; {more}']}}\n",
            log.display()
        )
    }

    fn launch(&mut self, entries: &[String]) -> Result<()> {
        let file = self.path("registries.yaml");
        fs::write(&file, format!("registries:\n{}", entries.concat()))?;
        self.fixture.agent.launch(&["--registries", &file.display().to_string()])
    }

    fn drain(&self) -> Result<Outcome> {
        let drain = ["drain", "--port", "80", "--quiet", "0s", "--no-wait"];
        self.fixture.ctl().run(&[&drain[..], &["--if-unreachable", "fail"]].concat())
    }

    fn undrain(&self) -> Result<()> {
        self.fixture.ctl().expect(0, &["undrain", "--port", "80"]).map(drop)
    }

    fn await_log(&self, expected: &[&str]) -> Result<()> {
        let netns = self.fixture.pod().netns.inode();
        let expected: Vec<_> =
            expected.iter().map(|line| format!("{line} {PORT} {netns}")).collect();
        let is = eventually(LIMIT, "registries are told", || Ok(self.log() == expected));
        is.with_context(|| format!("{:?} instead of {expected:?}", self.log()))
    }

    fn await_status(&self, text: &str) -> Result<()> {
        let mut last = String::new();
        let is = eventually(LIMIT, "the status says so", || {
            last = self.fixture.ctl().expect(0, &["status"])?.stdout;
            Ok(last.contains(text))
        });
        is.with_context(|| format!("no {text:?} in {last}"))
    }

    /// Nothing of registries is left to be done.
    fn await_rest(&self) -> Result<()> {
        eventually(LIMIT, "registries know that it is back", || {
            let status = self.fixture.ctl().expect(0, &["status"])?.stdout;
            Ok(!status.contains("registry"))
        })
    }
}

fn consul(registry: &Registry, more: &str) -> String {
    format!(
        "- name: consul\n  ports: [{PORT}]\n{more}  consul: {{url: '{}', service-id: 'web:{{port}}'}}\n",
        registry.url()
    )
}

const OUT: &str =
    "PUT /v1/agent/service/maintenance/web%3A80?enable=true&reason=drained%20by%20drainctl";
const BACK: &str =
    "PUT /v1/agent/service/maintenance/web%3A80?enable=false&reason=drained%20by%20drainctl";

#[test]
fn in_order_before_the_gate_closes_and_in_reverse_once_it_is_open() -> Result<()> {
    let mut world = World::new()?;
    let registry = world.registry(&Netns::host()?)?;
    let entries = [world.noting("a", ""), consul(&registry, PATIENT), world.noting("b", "")];
    let other = "- name: other\n  ports: [81]\n  exec: {command: [/bin/false]}\n".to_owned();
    world.launch(&[&entries[..], &[other]].concat())?;
    world.drain()?.expect(0)?;
    ensure!(world.fixture.attempt()? == Attempt::Refused, "the gate is closed when it returns");
    world.await_log(&["a drain", "b drain"])?;
    world.await_status("registry \"consul\" knows that it leaves")?;
    world.undrain()?;
    world.await_log(&["a drain", "b drain", "b undrain", "a undrain"])?;
    world.await_rest()?;
    let seen = registry.requests().into_iter().map(|request| (request.line, request.meanwhile));
    let open = || "Connected".to_owned();
    let expected = [(OUT.to_owned(), open()), (BACK.to_owned(), open())];
    ensure!(seen.collect::<Vec<_>>() == expected, "{:?}", registry.requests());
    ensure!(world.fixture.agent.metric("registries_behind")? == 0);
    world.fixture.ensure_nothing_is_left()
}

#[test]
fn min_settle_begins_when_registries_know() -> Result<()> {
    let mut world = World::new()?;
    let slow = world.noting("slow", "sleep 1");
    world.launch(&[slow])?;
    let args = ["drain", "--port", "80", "--no-wait", "--min-settle", "500ms", "--quiet", "100ms"];
    world.fixture.ctl().expect(0, &args)?;
    let drain = world.fixture.ctl().await_service(PORT, "closed", |s| s.state == "drained")?.drain;
    let age = drain.context("it drains")?.age_ms;
    ensure!(age >= 1500, "the gate closed {age} ms after the drain's start at the latest");
    world.fixture.ensure_nothing_is_left()
}

/// How each kind is told, once out and once back.
#[test]
fn presets_speak_as_each_registry_wants_it() -> Result<()> {
    let mut world = World::new()?;
    let here = world.registry(&Netns::host()?)?;
    let inside = world.registry(&world.fixture.pod().netns)?;
    let (secrets, ready) = (world.path("headers"), world.path("ready"));
    fs::write(&secrets, "X-Consul-Token: s3cr3t\n")?;
    fs::write(&ready, "up\n")?;
    fs::set_permissions(&ready, fs::Permissions::from_mode(0o604))?;
    std::os::unix::fs::chown(&ready, Some(1234), Some(4321))?;
    let entry =
        |name: &str, kind: String| format!("- name: {name}\n  ports: [80]\n{PATIENT}  {kind}\n");
    let (url, url_inside) = (here.url(), inside.url());
    world.launch(&[
        entry("eureka", format!("eureka: {{url: '{url}/eureka/', app: WEB, instance-id: 'h:web:80'}}")),
        entry("nacos", format!("nacos: {{url: '{url}/nacos', service: web, ip: 10.0.0.9}}")),
        entry("actuator", format!("actuator: {{url: '{url_inside}/actuator'}}")),
        entry("http", format!(
            "http: {{drain: {{method: POST, url: '{url}/out?token=s3cr3t2', body: '{{ip}}', content-type: text/plain}}, \
             undrain: {{method: DELETE, url: '{url}/out'}}, headers-file: {}}}",
            secrets.display()
        )),
        entry("file", format!("status-file: {{path: {}}}", ready.display())),
    ])?;
    let instance = r#"{"weight":2.5,"metadata":{"zone":"a"},"enabled":true}"#;
    here.answer([Answer::Says(200, ""), Answer::Says(200, instance)]);
    world.drain()?.expect(0)?;
    ensure!(!ready.exists());
    let nacos = "/nacos/v1/ns/instance?serviceName=web&groupName=DEFAULT_GROUP&namespaceId=public&ip=10.0.0.9&port=80\
                 &clusterName=DEFAULT";
    let kept = "&weight=2.5&metadata=%7B%22zone%22%3A%22a%22%7D";
    ensure!(
        here.lines()
            == [
                "PUT /eureka/apps/WEB/h%3Aweb%3A80/status?value=OUT_OF_SERVICE".to_owned(),
                format!("GET {nacos}"),
                format!("PUT {nacos}&ephemeral=true&enabled=false{kept}"),
                "POST /out?token=s3cr3t2".to_owned(),
            ],
        "{:?}",
        here.lines()
    );
    let last = here.requests().pop().context("there are some")?;
    ensure!(last.body == "127.0.0.1", "the address it was sent from: {last:?}");
    ensure!(last.headers.contains(&"x-consul-token: s3cr3t".to_owned()), "{last:?}");
    ensure!(last.headers.contains(&"content-type: text/plain".to_owned()), "{last:?}");
    ensure!(inside.lines() == ["POST /actuator/serviceregistry"], "{:?}", inside.lines());
    ensure!(inside.requests()[0].body == r#"{"status":"OUT_OF_SERVICE"}"#);

    here.answer([Answer::Says(200, ""), Answer::Says(200, instance)]);
    world.undrain()?;
    world.await_rest()?;
    ensure!(
        here.lines()[4..]
            == [
                "DELETE /out".to_owned(),
                format!("GET {nacos}"),
                format!("PUT {nacos}&ephemeral=true&enabled=true{kept}"),
                "DELETE /eureka/apps/WEB/h%3Aweb%3A80/status?value=UP".to_owned(),
            ],
        "{:?}",
        here.lines()
    );
    ensure!(inside.requests()[1].body == r#"{"status":"UP"}"#);
    let about = fs::metadata(&ready)?;
    ensure!((about.uid(), about.gid(), about.mode() & 0o777) == (1234, 4321, 0o604));
    ensure!(fs::read_to_string(&ready)? == "up\n");
    let log = world.fixture.agent.log();
    ensure!(!log.contains("s3cr3t"), "a secret is in the log: {log}");
    world.fixture.ensure_nothing_is_left()
}

#[test]
fn a_registry_that_answers_500_is_asked_again() -> Result<()> {
    let mut world = World::new()?;
    let registry = world.registry(&Netns::host()?)?;
    let more = format!("{PATIENT}  retries: 2\n  on-failure: abort\n");
    world.launch(&[consul(&registry, &more)])?;
    registry.answer([Answer::Says(500, "no leader"), Answer::Says(500, "no leader")]);
    world.drain()?.expect(0)?;
    ensure!(registry.lines() == [OUT, OUT, OUT], "{:?}", registry.lines());
    registry.answer(std::iter::repeat_n(Answer::Says(500, "no leader"), 100));
    world.undrain()?;
    ensure!(world.fixture.attempt()? == Attempt::Connected, "traffic does not wait for registries");
    world.await_status("cannot be told that it is back")?;
    ensure!(world.fixture.agent.metric("registries_behind")? == 1);
    registry.answer([]);
    world.await_rest()?;
    let told = registry.lines();
    ensure!(told.len() > 4 && told[3..].iter().all(|line| line == BACK), "{told:?}");
    world.fixture.ensure_nothing_is_left()
}

#[test]
fn with_abort_nothing_is_closed_and_what_was_told_is_taken_back() -> Result<()> {
    let mut world = World::new()?;
    let registry = world.registry(&Netns::host()?)?;
    let second = serve(world.fixture.pod(), 81)?;
    let abort = format!("{PATIENT}  retries: 0\n  on-failure: abort\n");
    let abort = consul(&registry, &abort);
    let entries = [world.noting("a", ""), world.noting("b", ""), abort, world.noting("c", "")];
    world.launch(&entries)?;
    let told = ["a drain", "b drain", "b undrain", "a undrain"];
    for (round, wait) in [&["--quiet", "0s"][..], &["--min-settle", "1s"]].into_iter().enumerate() {
        registry.answer([Answer::Says(403, "Permission denied")]);
        let args = [&["drain", "--port", "80", "--port", "81"][..], wait].concat();
        let outcome = world.fixture.ctl().expect(9, &args)?;
        outcome.says("registry \"consul\" cannot be told that the server leaves")?.says("403")?;
        world.fixture.ensure_untouched()?;
        eventually(LIMIT, "the other port is open too", || {
            Ok(world.fixture.ctl().service(81)?.state == "serving")
        })?;
        world.await_log(&told.repeat(round + 1))?;
    }
    ensure!(registry.lines() == [OUT, OUT], "it has refused: {:?}", registry.lines());
    drop(second);
    world.fixture.ensure_nothing_is_left()
}

#[test]
fn one_that_hangs_is_ended_and_the_drain_goes_on() -> Result<()> {
    let mut world = World::new()?;
    let registry = world.registry(&Netns::host()?)?;
    let pids = world.path("pids");
    let hanging = format!(
        "- name: hanging\n  ports: [80]\n  timeout: 4s\n  retries: 0\n  exec: {{command: [/bin/sh, -c, '[ $DRAINCTL_EVENT = undrain ] && exit 0; \
         sleep 1000 & echo $! > {0}; wait']}}\n",
        pids.display()
    );
    world.launch(&[consul(&registry, "  timeout: 1s\n  retries: 0\n"), hanging])?;
    registry.answer([Answer::Hangs]);
    world.drain()?.expect(0)?;
    ensure!(world.fixture.attempt()? == Attempt::Refused, "it goes on");
    world.await_status("registry \"consul\" cannot be told that it leaves: it took too long")?;
    world.await_status("registry \"hanging\" cannot be told that it leaves: it took too long")?;
    let child = Path::new("/proc").join(fs::read_to_string(pids)?.trim());
    // Init may take a moment to reap it.
    let state = || fs::read_to_string(child.join("stat")).unwrap_or_default();
    eventually(LIMIT, "what it started is ended too", || {
        Ok(state().is_empty() || state().contains(") Z "))
    })?;
    world.undrain()?;
    world.await_rest()?;
    let last = registry.lines().pop();
    ensure!(last.as_deref() == Some(BACK), "it may have heard: {:?}", registry.lines());
    world.fixture.ensure_nothing_is_left()
}

#[test]
fn whoever_died_the_next_agent_tells_it() -> Result<()> {
    let mut world = World::new()?;
    world.fixture.agent.be_quiet();
    let registry = world.registry(&Netns::host()?)?;
    // Killed when it is about to tell.
    world.fixture.agent.set_program(env!("CARGO_BIN_EXE_agent"));
    world.fixture.agent.set_failpoint(Some("registry"));
    let entries = [consul(&registry, PATIENT)];
    world.launch(&entries)?;
    ensure!(world.drain()?.code != Some(0), "the agent dies before it answers");
    world.fixture.agent.await_death()?;
    ensure!(registry.lines().is_empty() && world.fixture.attempt()? == Attempt::Connected);
    world.fixture.agent.set_failpoint(None);
    world.launch(&entries)?;
    world.fixture.await_refused()?;
    ensure!(registry.lines() == [OUT], "{:?}", registry.lines());
    // Killed while drained.
    world.fixture.agent.crash()?;
    world.launch(&entries)?;
    ensure!(registry.lines() == [OUT], "it knows already: {:?}", registry.lines());
    // Killed while the registry does not know yet that it is back.
    registry.answer(std::iter::repeat_n(Answer::Says(503, ""), 100));
    world.undrain()?;
    world.await_status("cannot be told that it is back")?;
    world.fixture.agent.crash()?;
    world.launch(&entries)?;
    world.await_status("cannot be told that it is back")?;
    registry.answer([]);
    world.await_rest()?;
    ensure!(registry.lines().last().is_some_and(|line| line == BACK));
    world.fixture.ensure_nothing_is_left()
}

#[test]
fn a_new_instance_is_registered_again_and_a_new_drain_outruns_an_old_undrain() -> Result<()> {
    let mut world = World::new()?;
    let registry = world.registry(&Netns::host()?)?;
    world.launch(&[consul(&registry, "  timeout: 1s\n")])?;
    world.drain()?.expect(0)?;
    let before = registry.lines().len();
    registry.answer(std::iter::repeat_n(Answer::Hangs, 100));
    // The server is replaced in place.
    let elsewhere = serve(world.fixture.pod(), 82)?;
    let old = std::mem::replace(&mut world.fixture.server, elsewhere);
    drop(old);
    world.fixture.server = serve(world.fixture.pod(), PORT)?;
    world.fixture.await_connected()?;
    eventually(LIMIT, "it hangs", || Ok(registry.lines().len() > before))?;
    registry.answer([]);
    world.drain()?.expect(0)?;
    let (lines, last) = (registry.lines(), registry.lines().pop());
    ensure!(last.as_deref() == Some(OUT), "what is so is told last: {lines:?}");
    world.fixture.ensure_nothing_is_left()
}

#[test]
fn a_file_that_others_may_write_or_that_makes_no_sense_is_refused() -> Result<()> {
    let mut agent = Agent::prepare()?;
    agent.be_quiet();
    let file = agent.dir().join("registries.yaml");
    let dist = drainctl_tests::dist::Dist::from_env()?;
    let start = || {
        let mut command = std::process::Command::new(dist.agent());
        command.arg("--registries").arg(&file).arg("--socket").arg(agent.socket()).output()
    };
    let cases = [
        (
            "registries:\n- {name: a, ports: [80], exec: {command: [/bin/true]}}\n",
            0o666,
            "others may write",
        ),
        ("registries:\n- {name: a, ports: [80]}\n", 0o600, "exactly one of consul"),
        ("registries:\n- {name: a, prots: [80]}\n", 0o600, "prots"),
    ];
    for (text, mode, reason) in cases {
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        let output = start()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains(reason), "{reason}: {output:?}");
    }
    Ok(())
}
