//! Looks at one port each, of which many are taken together: for each, the kernel goes through the sockets of the
//! whole node.

use std::collections::HashMap;

use super::{KernelError, Look, shared::SharedByNetns};

/// More ports than this are not named: the kernel's answer is about all of them then.
const MOST: usize = 1000;

/// Looks under way.
#[derive(Default)]
pub(super) struct Looks(SharedByNetns<u16, Look>);

impl Looks {
    /// What a dump that begins after this was called shows of the port. `dump` is given the ports it is to be about;
    /// without any it is about all.
    pub(super) fn look(
        &self,
        netns: u32,
        port: u16,
        dump: impl FnOnce(&[u16]) -> Result<Look, KernelError>,
    ) -> Result<Look, KernelError> {
        self.0.ask(netns, port, |ports| {
            let ports = if ports.len() > MOST { &[] } else { ports };
            Ok(by_port(dump(ports)?))
        })
    }
}

/// A look taken apart by port.
pub(crate) fn by_port(look: Look) -> HashMap<u16, Look> {
    let mut parts: HashMap<u16, Look> = HashMap::new();
    for listener in look.listeners {
        parts.entry(listener.local.port()).or_default().listeners.push(listener);
    }
    for socket in look.sockets {
        parts.entry(socket.local.port()).or_default().sockets.push(socket);
    }
    parts
}
