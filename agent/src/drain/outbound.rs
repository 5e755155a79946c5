//! `--wait-outbound`: connections of the service's own that its drain waits for too.

use std::net::SocketAddr;

/// Most addresses of one drain.
pub const MOST_OUTBOUND: usize = 16;

/// Why these addresses cannot be waited for. The text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// There are too many.
    #[error("--wait-outbound takes at most {MOST_OUTBOUND} addresses, not {0}")]
    TooMany(usize),
    /// Nothing can be connected to it.
    #[error(
        "--wait-outbound {0} is nobody's address; name the one that the server connects to, such as 10.0.0.9:5672"
    )]
    Nobody(SocketAddr),
}

/// The addresses, each once, IPv4 as IPv4.
pub(super) fn validate(asked: &[SocketAddr]) -> Result<Vec<SocketAddr>, OutboundError> {
    if let Some(nobody) = asked.iter().find(|to| to.port() == 0 || to.ip().is_unspecified()) {
        return Err(OutboundError::Nobody(*nobody));
    }
    let canonical = |to: &SocketAddr| SocketAddr::new(to.ip().to_canonical(), to.port());
    let mut to: Vec<SocketAddr> = asked.iter().map(canonical).collect();
    to.sort();
    to.dedup();
    if to.len() > MOST_OUTBOUND { Err(OutboundError::TooMany(to.len())) } else { Ok(to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_once_and_only_those_that_somebody_may_have() {
        let parse = |text: &str| text.parse::<SocketAddr>().expect(text);
        let asked = ["[::ffff:10.0.0.9]:5672", "10.0.0.9:5672", "[fd00::1]:5432"].map(parse);
        assert_eq!(validate(&asked), Ok(vec![parse("10.0.0.9:5672"), parse("[fd00::1]:5432")]));
        for nobody in ["0.0.0.0:80", "[::]:80", "10.0.0.1:0"].map(parse) {
            assert_eq!(validate(&[nobody]), Err(OutboundError::Nobody(nobody)));
        }
        let many: Vec<SocketAddr> = (1..=17).map(|port| ([10, 0, 0, 1], port).into()).collect();
        assert_eq!(validate(&many), Err(OutboundError::TooMany(17)));
    }
}
