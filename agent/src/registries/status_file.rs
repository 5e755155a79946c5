//! A file that says that the server is there: moved aside, and moved back as it was.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Moves the file aside. Its content, owner and mode stay with it, whatever becomes of the agent.
pub(super) fn remove(path: &Path) -> Result<(), String> {
    match fs::rename(path, aside(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", path, &error))
        }
        // It may have been moved already.
        _ => Ok(()),
    }
}

/// Moves it back, unless somebody has made a new one meanwhile, which counts then.
pub(super) fn restore(path: &Path) -> Result<(), String> {
    let aside = aside(path);
    let moved = match fs::hard_link(&aside, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // Not every file system has links.
        Err(_) if !path.exists() => {
            return fs::rename(&aside, path).map_err(|e| failed("restore", path, &e));
        }
        linked => linked,
    };
    moved.and_then(|()| fs::remove_file(&aside)).map_err(|error| failed("restore", path, &error))
}

/// Beside it: a rename within one folder is one step.
fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.drained"))
}

fn failed(what: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_comes_back_as_it_was_however_often_it_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        fs::write(&path, "up\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        for _ in 0..2 {
            remove(&path).unwrap();
            assert!(!path.exists());
        }
        for _ in 0..2 {
            restore(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "up\n");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_new_file_counts_and_one_that_never_was_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        remove(&path).unwrap();
        restore(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "old").unwrap();
        remove(&path).unwrap();
        fs::write(&path, "new").unwrap();
        restore(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        assert!(remove(&dir.path().join("none/ready")).is_ok(), "there is no such file");
    }
}
