//! Whether a server was replaced in place.

use std::collections::BTreeSet;

use crate::kernel::Look;

/// Cookies of the sockets that listen.
pub fn listeners(look: &Look) -> BTreeSet<u64> {
    look.listeners.iter().map(|listener| listener.cookie).collect()
}

/// Whether a new instance has taken over: none of the listeners found at the drain's start listens any
/// more, and another one does. If there was none at the start, any listener is a new instance.
pub fn is_new_instance(at_start: &BTreeSet<u64>, now: &BTreeSet<u64>) -> bool {
    !now.is_empty() && at_start.is_disjoint(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_instance_shares_no_listener_with_the_old() {
        let table: [(&str, &[u64], &[u64], bool); 7] = [
            ("nothing changed", &[1, 2], &[1, 2], false),
            ("the old one closed its listeners", &[1, 2], &[], false),
            ("one worker's listener is left", &[1, 2], &[2], false),
            ("restarted", &[1, 2], &[3], true),
            ("SO_REUSEPORT: the old one still listens", &[1], &[1, 2], false),
            ("nothing listened and nothing listens", &[], &[], false),
            ("nothing listened at the start", &[], &[7], true),
        ];
        for (description, at_start, now, expected) in table {
            let at_start = at_start.iter().copied().collect();
            let now = now.iter().copied().collect();
            assert_eq!(is_new_instance(&at_start, &now), expected, "{description}");
        }
    }
}
