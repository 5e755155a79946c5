//! The agent's page in a real browser: what it shows of a real drain, and what it lets nobody do.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use drainctl_tests::{
    browser::Browser,
    cluster::PORT,
    fixture::{Fixture, serve},
    net, tunnel,
    wait::{LIMIT, eventually},
};
use serde_json::json;

const TOKEN: &str = "a-token-of-the-test";
const CARD: &str = "details.drain[open]";

/// Sends a request as it is, and returns the answer's status and head.
fn ask(addr: SocketAddr, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_drain_is_seen_from_its_beginning_to_its_end_and_over_a_restart_of_the_agent() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let others = [81, 82].map(|port| serve(fixture.pod(), port));
    for server in &others {
        ensure!(server.is_ok(), "{server:?}");
    }
    let netns = fixture.pod().netns.inode();
    let url = format!("http://{}/", tunnel::to_socket(fixture.agent.socket())?);
    let browser = Browser::start(1100, 830)?;
    browser.open(&url)?;
    browser.await_text("#link", "Live")?;
    // Other tests have namespaces too.
    browser.press("/")?;
    browser.press(&format!("netns {netns}"))?;
    browser.await_text("#shown", "3 services")?;
    browser.await_text("#services", "serving")?;
    hide_others(&browser, netns)?;

    let blocking = fixture.pair()?;
    let row = format!("#services [data-id='{netns}:{PORT}']");
    browser.await_text(&format!("{row} td.n"), "1")?;
    let drain =
        ["drain", "--port", "80", "--quiet", "1s", "--min-settle", "8s", "--timeout", "90s"];
    fixture.ctl().expect(0, &[&drain[..], &["--retire", "none", "--no-wait"]].concat())?;
    let card = format!("{CARD}[data-id='{netns}:{PORT}']");
    browser.await_text(&card, "◔ settling")?;
    browser.await_text(&card, "still accepts new connections")?;
    browser.await_text(&card, "◑ rejecting")?;
    let client = blocking.client.local_addr()?.to_string();
    let text = browser.await_text(&card, &client)?;
    ensure!(text.contains("Left: 1 connection.") && text.contains("deadline in "), "{text}");
    fixture.await_refused()?;
    browser.await_true(&format!(
        "return [...document.querySelectorAll(\"{card} dl > div\")].some((each) => \
         each.innerText.startsWith('refused') && !each.innerText.endsWith('0'))"
    ))?;
    keep(&browser, &fixture)?;

    fixture.agent.crash()?;
    let lost = browser.await_text("#link", "No connection since")?;
    ensure!(browser.run("return document.body.classList.contains('stale')")? == json!(true));
    ensure!(lost.contains("was true then"), "{lost}");
    fixture.agent.launch(&[])?;
    browser.await_text("#link", "Live")?;
    browser.await_true("return !document.body.classList.contains('stale')")?;
    let course = browser.text(&format!("{card} .course"))?;
    ensure!(course.contains("settling") && course.contains("rejecting"), "kept: {course}");

    let hold = ["hold", "--port", "80", "--name", "batch-42"];
    fixture.ctl().expect(0, &hold)?;
    drop(blocking);
    browser.await_text(&card, "waits for those that are left. Waits for: hold batch-42 (")?;
    fixture.ctl().expect(0, &[&hold[..], &["--release"]].concat())?;
    browser.await_text(&card, "safe to stop the server")?;
    fixture.ctl().expect(0, &["undrain", "--port", "80"])?;
    browser.await_text("#log", "drained → serving")?;
    browser.await_true(&format!("return document.querySelector(\"{card}\") === null"))?;
    Ok(())
}

/// Other tests' drains are nobody's business, least of all in a picture.
fn hide_others(browser: &Browser, netns: u32) -> Result<()> {
    browser.run(&format!(
        "const sheet = new CSSStyleSheet(); \
         sheet.replaceSync(`details.drain:not([data-id^='{netns}:']) {{ display: none }}`); \
         document.adoptedStyleSheets = [sheet]"
    ))?;
    Ok(())
}

/// Keeps what the window shows, for people: in the folder that `DRAINCTL_PICTURES` names, with some more going on, and
/// else in target/.
fn keep(browser: &Browser, fixture: &Fixture) -> Result<()> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let folder = env::var_os("DRAINCTL_PICTURES").map(PathBuf::from);
    if folder.is_some() {
        for turn in 0..40_usize {
            // Of those on 80 nobody gets in; the other servers' queues have room for these.
            for port in [80, 80, 81, 82].into_iter().cycle().take(1 + 3 * (turn % 7) / 2) {
                let addr = (fixture.pod().addr().ip(), port).into();
                net::attempt(&fixture.cluster.client, addr, LIMIT)?;
            }
            thread::sleep(Duration::from_millis(300)); // not a wait for a state: the clients' pace
        }
    }
    browser.run("document.activeElement.blur()")?;
    let path = folder.unwrap_or(target).join("page.png");
    fs::write(&path, browser.screenshot()?).with_context(|| format!("write {}", path.display()))
}

#[test]
fn over_tcp_it_asks_for_the_token_and_keeps_it_to_itself() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("token");
    fs::write(&file, TOKEN)?;
    let file = file.display().to_string();
    let fixture = Fixture::with(&["--listen", "127.0.0.1:0", "--token-file", &file])?;
    let browser = Browser::start(1100, 900)?;
    browser.open(&format!("http://{}/", fixture.agent.endpoint()?))?;
    browser.await_text("#link", "A token is needed")?;
    ensure!(browser.run("return document.getElementById('main').hidden")? == json!(true));
    browser.press("not-the-token\u{e007}")?;
    browser.await_text("#link", "The token is wrong")?;
    browser.press(&format!("{TOKEN}\u{e007}"))?;
    browser.await_text("#link", "Live")?;
    let kept = "return location.href + JSON.stringify(sessionStorage) + JSON.stringify(localStorage) + document.cookie";
    let kept = browser.run(kept)?;
    ensure!(!kept.to_string().contains(TOKEN), "{kept}");

    nothing_but_its_own_script_runs(&browser)?;
    names_are_text_and_a_thousand_services_are_no_trouble(&browser)
}

fn nothing_but_its_own_script_runs(browser: &Browser) -> Result<()> {
    let attempts = "const script = document.createElement('script'); \
         try { script.textContent = 'window.hacked = 1'; document.body.append(script); } catch {} \
         const image = new Image(); try { image.setAttribute('onerror', 'window.hacked = 2'); } catch {} image.src = '/none'; \
         document.body.append(image); \
         try { setTimeout('window.hacked = 3', 0) } catch {}";
    browser.run(attempts)?;
    // In the page itself, where its policy holds.
    let from_elsewhere = "const box = document.createElement('p'); box.id = 'tried'; document.body.append(box); \
         document.addEventListener('securitypolicyviolation', (event) => { box.append(event.effectiveDirective); }); \
         fetch('http://127.0.0.1:9/').catch(() => {})";
    browser.run(from_elsewhere)?;
    browser.await_text("#tried", "connect-src")?;
    ensure!(browser.run("return window.hacked ?? 0")? == json!(0));
    Ok(())
}

/// What an agent would say that has been told such names.
fn names_are_text_and_a_thousand_services_are_no_trouble(browser: &Browser) -> Result<()> {
    let script = r#"
        const drain = {
          age_ms: 5000, history: [{ state: 'settling', ago_ms: 5000 }], deadline_in_ms: 9, lease_in_ms: 9, handed_over: 0,
          retire: { told_by_header: 0, told_by_goaway: 0, fin_sent: 0, left: 0, aborted: 0, untellable: {} },
          wait_outbound: [{ to: '10.0.0.9:5672', connections: 3 }],
        };
        const bad = `<img src=x onerror="window.hacked=4">`;
        const service = (port) => ({
          id: `7:${port}`, netns: 7, port, state: port < 70 ? 'settling' : 'serving', flows: port === 1 ? 1 : 0, handshakes: 0, lingering: 0,
          rejected: 0, accepted: 0, unknown: bad, pod: { namespace: 'default', name: bad }, drain: port < 70 ? drain : null,
          registries: [{ name: bad, told: false, failure: { event: 'drain', why: bad } }],
        });
        const services = Array.from({ length: 1000 }, (_, i) => service(i + 1));
        const answer = JSON.stringify({ services, hooks_missing: [{ pod: bad, why: bad }] });
        window.fetch = async (path) => {
          if (path.endsWith('/flows')) throw new DOMException('slow', 'TimeoutError');
          return new Response(answer);
        };
    "#;
    browser.run(script)?;
    browser.await_text("#sum", "1000 services, 69 draining")?;
    browser.await_text("#shown", "900 more")?;
    browser.await_text("#more-drains", "19 more")?;
    let counts = "return [document.querySelectorAll('#services tr').length, \
                  document.querySelectorAll('details.drain').length, document.querySelectorAll('main img').length]";
    ensure!(browser.run(counts)? == json!([100, 50, 0]));
    browser.await_text("#services", "<img src=x")?;
    browser.await_text(CARD, "Waits for: 3 connections to 10.0.0.9:5672. Registry <img src=x")?;
    browser.await_text(CARD, "cannot be listed: the agent takes too long")?;
    browser.await_text("#link", "Live")?;
    browser.run("document.getElementById('filter').focus()")?;
    browser.press(":999")?;
    browser.await_text("#shown", "1 service")?;
    ensure!(browser.run("return window.hacked ?? 0")? == json!(0));
    Ok(())
}

#[test]
fn pages_of_others_get_nothing_through_a_forwarded_socket() -> Result<()> {
    let fixture = Fixture::new()?;
    let addr = tunnel::to_socket(fixture.agent.socket())?;
    let netns = fixture.pod().netns.inode();
    let body = format!(r#"{{"ports":[80],"netns":{netns},"quiet_ms":0}}"#);
    let json = format!("Content-Type: application/json\r\nContent-Length: {}", body.len());
    let head = |first: &str, more: &str| {
        format!("{first} HTTP/1.1\r\nConnection: close\r\n{more}\r\n\r\n")
    };
    let drain = |more: &str| head("POST /v1/drains", &format!("{more}\r\n{json}")) + &body;
    let port = addr.port();
    let own = format!("Host: localhost:{port}");
    #[rustfmt::skip]
    let table = [
        // description, request, status
        ("the page", head("GET /", &own), "200"),
        ("a link to it", head("GET /", &format!("{own}\r\nSec-Fetch-Site: cross-site")), "200"),
        ("what it asks", head("GET /v1/services?netns=all", &format!("{own}\r\nSec-Fetch-Site: same-origin")), "200"),
        ("an image elsewhere", head("GET /v1/services?netns=all", &format!("{own}\r\nSec-Fetch-Site: cross-site")), "403"),
        ("a page that had its name led here", head("GET /v1/services", "Host: evil.example\r\nAccept-Language: en"), "403"),
        ("and drains", drain("Host: evil.example\r\nOrigin: http://evil.example"), "403"),
        ("a browser led to an address of no one", head("GET /v1/services", "Host: 0.0.0.0:9000\r\nAccept-Language: en"), "403"),
        ("a name without a dot", head("GET /v1/services", "Host: agent\r\nAccept-Language: en"), "403"),
        ("a page elsewhere drains", drain(&format!("{own}\r\nOrigin: https://evil.example")), "403"),
        ("a form elsewhere drains", drain(&format!("{own}\r\nOrigin: null")), "403"),
        ("asks whether it may", head("OPTIONS /v1/drains", &format!("{own}\r\nOrigin: https://evil.example")), "403"),
    ];
    for (description, request, status) in table {
        let answer = ask(addr, &request)?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{description}: {answer}");
        ensure!(!answer.to_lowercase().contains("access-control-allow"), "{description}: {answer}");
    }
    fixture.ensure_untouched()?;
    // That is no fault of the request itself.
    let answer = ask(addr, &drain(&own))?;
    ensure!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    eventually(LIMIT, "it drains", || Ok(fixture.service()?.state != "serving"))
}
