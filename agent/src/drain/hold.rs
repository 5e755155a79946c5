//! Holds: work that is not a connection, and keeps a service from being drained until it is done.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use humantime::format_duration;
use serde::{Deserialize, Serialize};

use super::Boot;

/// Most holds of one service at once.
pub const MOST_HOLDS: usize = 32;
/// How long a hold lives that nobody renews, if nothing else is asked for.
pub const HOLD_TTL: Duration = Duration::from_secs(300);
/// Shortest time a hold can live.
pub const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// Longest time a hold can live.
pub const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// Most characters of a name.
const LONGEST_NAME: usize = 64;

/// The name of a hold: 1 to 64 letters, digits, and `_`, `-`, `:` and, but for the first, `.`. Of one service, each names one hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HoldName(String);

/// Why there is no such hold. The text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// The name is none.
    #[error(
        "the name of a hold has 1 to {LONGEST_NAME} letters, digits and _ - : and, not at its beginning, . (such as batch-42)"
    )]
    Name,
    /// The time is out of range.
    #[error(
        "--ttl {} is out of range: {} to {}", format_duration(*.0), format_duration(SHORTEST_TTL),
        format_duration(LONGEST_TTL)
    )]
    Ttl(Duration),
}

impl FromStr for HoldName {
    type Err = HoldError;

    fn from_str(text: &str) -> Result<Self, HoldError> {
        let known = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        // In a path, `.` and `..` mean something else.
        let fits = (1..=LONGEST_NAME).contains(&text.len()) && !text.starts_with('.');
        if fits && text.chars().all(known) { Ok(Self(text.into())) } else { Err(HoldError::Name) }
    }
}

impl TryFrom<String> for HoldName {
    type Error = HoldError;

    fn try_from(text: String) -> Result<Self, HoldError> {
        text.parse()
    }
}

impl From<HoldName> for String {
    fn from(name: HoldName) -> Self {
        name.0
    }
}

impl fmt::Display for HoldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks how long a hold is to live.
///
/// # Errors
/// [`HoldError::Ttl`].
pub fn check_ttl(ttl: Duration) -> Result<Duration, HoldError> {
    if (SHORTEST_TTL..=LONGEST_TTL).contains(&ttl) { Ok(ttl) } else { Err(HoldError::Ttl(ttl)) }
}

/// Something that keeps a service from being drained; `O` is whose it is.
///
/// Its serialized form is read by agents of other versions: a field that is added has `#[serde(default)]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold<O> {
    /// When it was set.
    pub since: Boot,
    /// When it ends by itself, unless it is renewed.
    pub until: Boot,
    /// Whose it is.
    pub owner: O,
}

/// The holds of one service, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Holds<O>(BTreeMap<HoldName, Hold<O>>);

impl<O> Default for Holds<O> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<O: Copy> Holds<O> {
    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        self.0.len() < MOST_HOLDS
    }

    /// The one of this name.
    pub fn get(&self, name: &HoldName) -> Option<&Hold<O>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&HoldName, &Hold<O>)> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets one, or has the one of this name live until then; whose it is stays.
    pub fn set(&mut self, name: HoldName, now: Boot, until: Boot, owner: O) {
        let hold = self.0.entry(name).or_insert(Hold { since: now, until, owner });
        hold.until = until;
    }

    /// Ends one. Returns whether there was one.
    pub fn release(&mut self, name: &HoldName) -> bool {
        self.0.remove(name).is_some()
    }

    /// Drops those whose time is over, and returns their names.
    pub fn expire(&mut self, now: Boot) -> Vec<HoldName> {
        let over: Vec<HoldName> = self
            .0
            .iter()
            .filter(|(_, hold)| now >= hold.until)
            .map(|(name, _)| name.clone())
            .collect();
        self.0.retain(|_, hold| now < hold.until);
        over
    }

    /// When the first of them ends by itself.
    pub fn first_end(&self) -> Option<Boot> {
        self.0.values().map(|hold| hold.until).min()
    }

    /// Until when the service is held, if nobody releases or renews anything.
    pub fn until(&self) -> Option<Boot> {
        self.0.values().map(|hold| hold.until).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Boot {
        Boot::from_nanos(seconds * 1_000_000_000)
    }

    fn name(text: &str) -> HoldName {
        text.parse().expect(text)
    }

    #[test]
    fn names_and_times_are_checked() {
        for good in ["a", "batch-42", "Job_1.2:3", &"x".repeat(64)] {
            assert_eq!(good.parse::<HoldName>().map(String::from).as_deref(), Ok(good));
        }
        for bad in ["", ".", ".a", "a b", "a/b", "ü", "a\n", &"x".repeat(65)] {
            assert_eq!(bad.parse::<HoldName>(), Err(HoldError::Name), "{bad:?}");
        }
        assert!(serde_json::from_str::<HoldName>("\"a b\"").is_err(), "in JSON too");
        let second = Duration::from_secs(1);
        assert_eq!(check_ttl(second), Ok(second));
        for bad in [Duration::ZERO, second / 2, LONGEST_TTL + second] {
            assert_eq!(check_ttl(bad), Err(HoldError::Ttl(bad)));
        }
    }

    #[test]
    fn a_hold_lives_until_it_is_released_or_its_time_is_over() {
        let mut holds = Holds::default();
        assert_eq!((holds.until(), holds.first_end()), (None, None));
        holds.set(name("a"), at(1), at(10), 1000);
        holds.set(name("b"), at(2), at(20), 1000);
        assert_eq!((holds.first_end(), holds.until()), (Some(at(10)), Some(at(20))));
        holds.set(name("a"), at(5), at(30), 0);
        let renewed = Hold { since: at(1), until: at(30), owner: 1000 };
        assert_eq!(
            holds.get(&name("a")),
            Some(&renewed),
            "it began when it began, and is whose it was"
        );
        assert_eq!(holds.expire(at(19)), []);
        assert_eq!(holds.expire(at(20)), [name("b")]);
        assert!(holds.release(&name("a")) && !holds.release(&name("a")));
        assert!(holds.is_empty());
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut holds = Holds::default();
        for number in 0..MOST_HOLDS {
            assert!(holds.has_room());
            holds.set(name(&format!("job-{number}")), at(1), at(10), ());
        }
        assert!(!holds.has_room());
    }
}
