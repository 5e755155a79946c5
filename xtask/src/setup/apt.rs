//! Debian packages.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::Result;

use crate::shell::{Shell, ask};

const LISTS: &str = "/var/lib/apt/lists";

/// Lists older than this may name packages that the mirrors no longer have.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Installs with no question asked, and without starting any server: Debian's nginx would take port 80.
/// A policy-rc.d is Debian's way to say so. One that is there is the administrator's and stays; ours is
/// removed however apt-get ends, and one left behind by a power cut is known by its second line.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ] || grep -qsx '# drainctl xtask setup' "$policy"; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\n# drainctl xtask setup\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y -q -o DPkg::Lock::Timeout=120 --no-install-recommends --no-remove "$@"
"#;

/// Packages whose installation also makes a server start at boot, which is not what they are here for.
const SERVERS: [(&str, &str); 5] = [
    ("nginx-light", "nginx"),
    ("haproxy", "haproxy"),
    ("etcd-server", "etcd"),
    ("containerd", "containerd"),
    ("prometheus", "prometheus"),
];

/// Some have a unit for systemd and no script beside it, which is what update-rc.d knows.
const DISABLE: &str = r#"
if [ -e "/etc/init.d/$0" ]; then update-rc.d "$0" disable; else systemctl --quiet disable "$0.service"; fi
"#;

/// Installs these packages.
///
/// # Errors
/// apt-get failed.
pub(super) fn install(shell: &Shell, names: &[String]) -> Result<()> {
    if lists_are_old() || names.iter().any(|name| !has_candidate(name)) {
        shell.stage("apt-get update");
        shell.run(Command::new("apt-get").args(["update", "-q"]))?;
    }
    shell.stage(format_args!("apt-get install {}", names.join(" ")));
    shell.run(Command::new("sh").args(["-c", INSTALL, "install"]).args(names))?;
    for (_, service) in servers(names) {
        shell.run(Command::new("sh").args(["-c", DISABLE, service]))?;
    }
    Ok(())
}

/// The same for a person's shell.
pub(super) fn commands(names: &[String]) -> Vec<String> {
    let install = format!(
        "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --no-remove {}",
        names.join(" ")
    );
    let stop = servers(names)
        .map(|(_, service)| format!("service {service} stop; update-rc.d {service} disable"));
    ["apt-get update".to_owned(), install].into_iter().chain(stop).collect()
}

fn servers(names: &[String]) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    SERVERS.iter().filter(|(package, _)| names.iter().any(|name| name == package))
}

fn lists_are_old() -> bool {
    let newest = fs::read_dir(LISTS).ok().and_then(|entries| {
        let lists = entries.flatten().filter(|entry| is_list(&entry.path()));
        // The change time says when apt wrote the file; the modification time is the mirror's.
        lists.filter_map(|entry| changed(&entry.path())).max()
    });
    newest.is_none_or(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > OLD))
}

fn is_list(path: &Path) -> bool {
    path.to_string_lossy().contains("_Packages")
}

fn changed(path: &Path) -> Option<SystemTime> {
    use std::os::unix::fs::MetadataExt as _;
    let seconds = u64::try_from(fs::metadata(path).ok()?.ctime()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn has_candidate(package: &str) -> bool {
    ask(Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"))
        .is_some_and(|policy| names_candidate(&policy))
}

fn names_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate: "))
        .any(|candidate| candidate != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_candidate_is_noticed() {
        assert!(names_candidate("wrk:\n  Installed: (none)\n  Candidate: 4.1.0-3+b2\n"));
        assert!(!names_candidate("wrk:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!names_candidate(""), "an unknown package has no policy at all");
    }

    #[test]
    fn a_server_that_comes_with_a_package_is_stopped() {
        let names = ["wrk".to_owned(), "nginx-light".to_owned()];
        let lines = commands(&names);
        assert!(lines[1].ends_with("--no-remove wrk nginx-light"), "{lines:?}");
        assert_eq!(lines[2], "service nginx stop; update-rc.d nginx disable");
        assert_eq!(commands(&names[..1]).len(), 2, "wrk is no server");
    }

    #[test]
    fn the_install_script_is_valid_shell() {
        let check = Command::new("sh").args(["-n", "-c", INSTALL]).status();
        assert!(check.is_ok_and(|status| status.success()));
    }
}
