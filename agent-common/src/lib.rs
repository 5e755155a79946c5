//! What the kernel programs and the agent share: the keys and values of the maps and the records
//! of the event ring. Everything here is `repr(C)` without implicit padding, and its size is
//! asserted at compile time, because the other side reads it byte by byte. The parsers of HTTP are
//! here too, so that the code that the kernel runs is the code that the tests run.
#![cfg_attr(not(test), no_std)]

pub mod gate;
pub mod hop;
pub mod http1;
pub mod http2;
pub mod peers;
pub mod probe;
pub mod record;
pub mod retire;
pub mod track;

/// Version of everything in this crate that crosses between kernel and user space. It changes
/// whenever a struct, a map or the meaning of a field changes.
pub const ABI: u32 = 6;

/// A service: one TCP port in one network namespace. A port alone is never a key, since port 8080
/// exists in many pods of a node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Inode number of the network namespace (`ns.inum` in the kernel, `st_ino` of its nsfs file).
    pub netns: u32,
    /// Local TCP port in host byte order, 1 to 65535.
    pub port: u16,
    /// Which of its flows: one of [`class`]. Rules and everything else about the service as a whole have
    /// [`class::COUNTED`].
    pub class: u16,
}

/// Flows of one service are counted apart by what they mean to a drain; values of [`ServiceKey::class`].
pub mod class {
    /// It must be gone before the service is drained.
    pub const COUNTED: u16 = 0;
    /// Its client is one that `--ignore` names: it does not count, and the gate lets it pass.
    pub const IGNORED: u16 = 1;
    /// The kubelet opened it: it does not count, and the gate lets it pass.
    pub const PROBE: u16 = 2;
    /// The gate gave it to another listener (`--new forward`, `--new handoff`), which serves it: another
    /// generation, which does not keep the service from being drained.
    pub const STEERED: u16 = 3;
    /// How many there are.
    pub const COUNT: u16 = 4;
}

impl ServiceKey {
    /// The key of port `port` in the namespace with inode number `netns`.
    #[inline(always)]
    pub const fn new(netns: u32, port: u16) -> Self {
        Self { netns, port, class: class::COUNTED }
    }

    /// The key of its flows of this [`class`].
    #[inline(always)]
    pub const fn of_class(self, class: u16) -> Self {
        Self { class, ..self }
    }
}

const _: () = assert!(size_of::<ServiceKey>() == 8);

#[cfg(feature = "user")]
mod pod {
    //! Marks the shared structs as plain data for aya's maps.
    macro_rules! pod {
        ($($t:ty),* $(,)?) => { $(
            // SAFETY: repr(C), Copy, no padding (sizes are asserted beside each struct), and every
            // bit pattern is a valid value.
            unsafe impl aya::Pod for $t {}
        )* };
    }
    pod!(
        crate::ServiceKey,
        crate::gate::RuleKey,
        crate::gate::Rule,
        crate::gate::Counts,
        crate::probe::ProbeKey,
        crate::gate::SteerKey,
        crate::peers::PeerKey,
        crate::peers::Peer,
        crate::record::Record,
        crate::track::Flow,
        crate::track::ServiceCounts,
        crate::retire::Rule,
        crate::retire::Followed,
    );

    impl crate::track::Repair {
        /// The packet to pass.
        pub const fn as_bytes(&self) -> &[u8; size_of::<Self>()] {
            // SAFETY: repr(C) without padding (its size is asserted), so every byte is initialised.
            unsafe { &*(&raw const *self).cast() }
        }
    }
}
