use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn one(rest: &str) -> Result<Registry, String> {
    let all = parse(&format!("registries:\n- name: web\n  ports: [8080]\n{rest}"))?;
    Ok(all.into_iter().next().expect("one"))
}

const CONSUL: &str = "  consul: {url: 'http://127.0.0.1:8500', service-id: web}\n";

#[test]
fn what_is_left_out_has_its_default() {
    let registry = one(CONSUL).unwrap();
    assert_eq!((registry.timeout(), registry.retries()), (Duration::from_secs(2), 2));
    assert_eq!((registry.on_failure(), registry.from()), (OnFailure::Continue, From::Host));
    assert_eq!(
        one("  actuator: {url: 'http://127.0.0.1:{port}/actuator'}\n").unwrap().from(),
        From::Service
    );
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let table = [
        ("", "exactly one of"),
        (
            "  consul: {url: 'http://a', service-id: a}\n  exec: {command: [/bin/true]}\n",
            "exactly one of",
        ),
        ("  consul: {url: 'http://a'}\n", "service-id"),
        ("  consul: {url: 'http://a', service-id: a, token: secret}\n", "token"),
        ("  consul: {url: 'ftp://a', service-id: a}\n", "no URL such as"),
        ("  consul: {url: 'https://a', service-id: a}\n", "ca-file"),
        ("  consul: {url: 'http://me:secret@a', service-id: a}\n", "headers-file"),
        ("  timeout: 0s\n  exec: {command: [/bin/true]}\n", "longer than 0s"),
        ("  timeout: soon\n  exec: {command: [/bin/true]}\n", "soon"),
        ("  on-failure: ignore\n  exec: {command: [/bin/true]}\n", "ignore"),
        ("  from: host\n  exec: {command: [/bin/true]}\n", "over HTTP"),
        ("  exec: {command: [true]}\n", "whole path"),
        ("  exec: {command: []}\n", "whole path"),
        ("  status-file: {path: ready}\n", "whole path"),
        ("  host: true\n  pod: {namespace: shop}\n  exec: {command: [/bin/true]}\n", "either"),
        ("  http: {drain: {method: GET, url: 'http://a'}}\n", "undrain"),
        ("  colour: red\n  exec: {command: [/bin/true]}\n", "colour"),
    ];
    for (rest, reason) in table {
        let why = one(rest).err().unwrap_or_else(|| panic!("{rest} was taken"));
        assert!(why.contains(reason), "{rest}: {why}");
        assert!(!why.contains("secret@"), "a secret is told: {why}");
    }
    let twice =
        format!("registries:\n- name: a\n  ports: [1]\n{CONSUL}- name: a\n  ports: [2]\n{CONSUL}");
    assert!(parse(&twice).unwrap_err().contains("two registries"));
}

#[test]
fn for_whom_it_is() {
    let web = one("  pod: {namespace: shop, labels: {app: web}}\n  exec: {command: [/bin/true]}\n")
        .unwrap();
    let pod = |namespace: &str, app: &str| Pod {
        namespace: namespace.into(),
        labels: [("app".into(), app.into())].into(),
        ..Pod::default()
    };
    assert!(web.may_be_for(8080, false) && !web.may_be_for(8081, false));
    assert!(!web.may_be_for(8080, true), "the node itself is no pod");
    assert!(web.is_for(Some(&pod("shop", "web"))));
    for other in [Some(pod("shop", "db")), Some(pod("other", "web")), None] {
        assert!(!web.is_for(other.as_ref()), "{other:?}");
    }
    let host = one("  host: true\n  exec: {command: [/bin/true]}\n").unwrap();
    assert!(host.may_be_for(8080, true) && !host.may_be_for(8080, false));
    let any = one(CONSUL).unwrap();
    assert!(any.may_be_for(8080, true) && any.may_be_for(8080, false) && any.is_for(None));
}

#[test]
fn nobody_but_root_may_be_able_to_write_to_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("registries:\n- name: web\n  ports: [8080]\n{CONSUL}")).unwrap();
    for (mode, fine) in [(0o600, true), (0o644, true), (0o664, false), (0o602, false)] {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        let read = read(file.path());
        assert_eq!(read.is_ok(), fine, "{mode:o}: {read:?}");
    }
    assert!(read(Path::new("/none/at/all")).unwrap_err().to_string().contains("--registries"));
}
