//! `--bin-dir`: the static command line, put into a folder of the node that pods mount read-only, so that a preStop
//! hook can run it in images that have nothing of their own.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{StatVfsMountFlags, statvfs};

/// The program's name, beside the agent's own and in the folder.
const NAME: &str = "drainctl";
/// Its name until it is complete.
const UNFINISHED: &str = ".drainctl.new";

/// The folder, or the program, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}", path.display())]
pub struct InstallError {
    /// What was tried.
    op: &'static str,
    /// On what.
    path: PathBuf,
    /// What the kernel said.
    source: io::Error,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The same program was there.
    Nothing,
    /// It is there now; whoever runs another one goes on with that.
    Installed,
    /// It is not there any more.
    Removed,
    /// There is none, or one of another version or origin, which was left alone.
    NotOurs,
}

/// The program that is installed: the one beside the agent's own.
///
/// # Errors
/// There is none.
pub fn own_drainctl() -> Result<PathBuf, InstallError> {
    let own =
        std::env::current_exe().map_err(fail("find the folder of", Path::new("drain-agent")))?;
    Ok(own.with_file_name(NAME))
}

/// Puts the program into `dir`, which is made if it is not there. At any moment there is a whole one or none.
///
/// # Errors
/// It cannot be read or written; what was there before still is.
pub fn install(program: &Path, dir: &Path) -> Result<Done, InstallError> {
    let ours = fs::read(program).map_err(fail("read", program))?;
    fs::create_dir_all(dir).map_err(fail("make folder", dir))?;
    let target = dir.join(NAME);
    if is_same(&target, &ours) {
        return Ok(Done::Nothing);
    }
    let unfinished = dir.join(UNFINISHED);
    write(&unfinished, &ours).map_err(fail("write", &unfinished))?;
    fs::rename(&unfinished, &target).map_err(fail("replace", &target))?;
    Ok(Done::Installed)
}

/// Whether nothing can be executed from `dir`, as it is mounted here.
pub fn is_noexec(dir: &Path) -> bool {
    statvfs(dir).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// Removes the program from `dir`, if it is this very one.
///
/// # Errors
/// It cannot be read or removed.
pub fn remove(program: &Path, dir: &Path) -> Result<Done, InstallError> {
    let ours = fs::read(program).map_err(fail("read", program))?;
    let target = dir.join(NAME);
    if !is_same(&target, &ours) {
        return Ok(Done::NotOurs);
    }
    fs::remove_file(&target).map_err(fail("remove", &target))?;
    Ok(Done::Removed)
}

fn is_same(target: &Path, ours: &[u8]) -> bool {
    let is_file = fs::symlink_metadata(target).is_ok_and(|meta| meta.is_file());
    is_file
        && fs::read(target).is_ok_and(|theirs| theirs == ours)
        && fs::metadata(target).is_ok_and(|meta| meta.permissions().mode() & 0o777 == 0o755)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // One that was left behind, by an agent that was killed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o755).open(path)?;
    file.write_all(bytes)?;
    // Whatever our umask is.
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()
}

fn fail(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError { op, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installs_replaces_and_removes_its_own_only() {
        let dir = tempfile::tempdir().unwrap();
        let (program, bin) = (dir.path().join("program"), dir.path().join("opt/bin"));
        let target = bin.join(NAME);
        assert!(install(&program, &bin).is_err(), "there is no program");
        assert!(!bin.exists());
        fs::write(&program, "one").unwrap();
        assert_eq!(install(&program, &bin).unwrap(), Done::Installed);
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(install(&program, &bin).unwrap(), Done::Nothing);
        // An open program is not written to: it is another file that takes the name.
        let running = File::open(&target).unwrap();
        fs::write(&program, "two").unwrap();
        fs::write(bin.join(UNFINISHED), "left behind").unwrap();
        assert_eq!(install(&program, &bin).unwrap(), Done::Installed);
        assert_eq!(io::read_to_string(running).unwrap(), "one");
        assert_eq!(fs::read_dir(&bin).unwrap().count(), 1);
        fs::write(&target, "somebody's").unwrap();
        assert_eq!(remove(&program, &bin).unwrap(), Done::NotOurs);
        install(&program, &bin).unwrap();
        assert_eq!(remove(&program, &bin).unwrap(), Done::Removed);
        assert_eq!(remove(&program, &bin).unwrap(), Done::NotOurs);
    }

    #[test]
    fn a_link_in_its_place_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (program, precious) = (dir.path().join("program"), dir.path().join("precious"));
        fs::write(&program, "ours").unwrap();
        fs::write(&precious, "precious").unwrap();
        for name in [NAME, UNFINISHED] {
            std::os::unix::fs::symlink(&precious, dir.path().join(name)).unwrap();
        }
        assert_eq!(install(&program, dir.path()).unwrap(), Done::Installed);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    }

    #[test]
    fn noexec_is_seen() {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        for folder in ["/", "/proc", "/sys", "/dev", "/dev/shm", "/run"] {
            // The last one mounted there covers the others.
            let mount = mounts.lines().rev().find(|line| line.split(' ').nth(1) == Some(folder));
            let Some(options) = mount.and_then(|line| line.split(' ').nth(3)) else { continue };
            let expected = options.split(',').any(|option| option == "noexec");
            assert_eq!(is_noexec(Path::new(folder)), expected, "{folder}: {options}");
        }
    }
}
