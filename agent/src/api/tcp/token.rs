//! The file with the tokens that make an operator.

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use subtle::{Choice, ConstantTimeEq as _};

use super::{EndpointError, file::Stamp};

/// Shortest token, in bytes: what can be guessed is none.
const SHORTEST: usize = 16;

/// The tokens, one a line, so that a new one can be valid beside the old one for a while.
pub(super) struct Tokens {
    path: PathBuf,
    read: Mutex<Read>,
}

struct Read {
    stamp: Option<Stamp>,
    tokens: Vec<String>,
}

impl Tokens {
    /// Reads the file.
    pub(super) fn load(path: PathBuf) -> Result<Self, EndpointError> {
        let read = read(&path).map_err(|why| EndpointError::file("--token-file", &path, why))?;
        Ok(Self { path, read: Mutex::new(read) })
    }

    /// Whether this is one of them. Takes as long for a wrong one as for a right one.
    pub(super) fn contains(&self, token: &str) -> bool {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut read);
        let equal = |known: &String| known.as_bytes().ct_eq(token.as_bytes());
        read.tokens.iter().map(equal).fold(Choice::from(0), |any, one| any | one).into()
    }

    /// A file that cannot be used any more has no tokens: who removes it means to lock everybody out.
    fn refresh(&self, current: &mut Read) {
        // Before its contents are read: what is written in between is read next time.
        let stamp = Stamp::of(&self.path);
        if stamp == current.stamp {
            return;
        }
        *current = match read(&self.path) {
            Ok(read) => {
                tracing::info!(file = %self.path.display(), "read the tokens again");
                read
            }
            Err(why) => {
                tracing::warn!(file = %self.path.display(), why, "there are no tokens any more");
                Read { stamp, tokens: Vec::new() }
            }
        };
    }
}

fn read(path: &PathBuf) -> Result<Read, String> {
    // Before its contents: what is written in between is read next time.
    let stamp = Stamp::of(path);
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let tokens: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if tokens.is_empty() {
        return Err("there is no token in it; a good one: openssl rand -hex 32".into());
    }
    if tokens.iter().any(|token| token.len() < SHORTEST) {
        return Err(format!(
            "a token has at least {SHORTEST} characters; a good one: openssl rand -hex 32"
        ));
    }
    Ok(Read { stamp, tokens: tokens.into_iter().map(str::to_owned).collect() })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FIRST: &str = "0123456789abcdef";
    const SECOND: &str = "fedcba9876543210";

    fn load(path: &Path) -> Result<Tokens, EndpointError> {
        Tokens::load(path.to_owned())
    }

    #[test]
    fn tokens_are_read_again_when_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(load(&path).is_err(), "it is not there");
        fs::write(&path, format!("{FIRST}\n")).unwrap();
        let tokens = load(&path).unwrap();
        let known = |token| tokens.contains(token);
        assert!(known(FIRST) && !known(SECOND) && !known("") && !known(&FIRST[1..]));
        fs::write(&path, format!("{FIRST}\n\n  {SECOND}\n")).unwrap();
        assert!(known(FIRST) && known(SECOND));
        // As Kubernetes replaces them: another file under the same name.
        fs::write(dir.path().join("new"), SECOND).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert!(!known(FIRST) && known(SECOND));
        fs::remove_file(&path).unwrap();
        assert!(!known(SECOND));
    }

    #[test]
    fn what_can_be_guessed_is_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for bad in ["", "\n\n", "secret\n", "0123456789abcdef\nshort\n"] {
            fs::write(&path, bad).unwrap();
            let error = load(&path).err().expect(bad).to_string();
            assert!(error.contains("--token-file") && error.contains("openssl"), "{error}");
        }
    }
}
