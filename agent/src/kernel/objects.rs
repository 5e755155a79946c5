//! The kernel programs inside this binary.

use super::KernelError;

/// An ELF object, aligned as the loader wants it.
pub(super) struct Object(&'static [u8]);

/// `sock_ops` and iterators: counts flows.
pub(super) const TRACK: Object =
    Object(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/track.o")));

/// `sk_lookup`: refuses new connections.
pub(super) const GATE: Object =
    Object(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gate.o")));

/// `sk_msg` and iterators: makes flows leave.
pub(super) const RETIRE: Object =
    Object(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/retire.o")));

/// `sock_ops`: marks the connections that carry stragglers.
pub(super) const HOP: Object =
    Object(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hop.o")));

impl Object {
    /// The bytes to load.
    ///
    /// # Errors
    /// [`KernelError::NoPrograms`] if the build had no eBPF toolchain: a reader must never trust a stub.
    pub(super) fn bytes(&self) -> Result<&'static [u8], KernelError> {
        if self.0.is_empty() { Err(KernelError::NoPrograms) } else { Ok(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_without_its_programs_is_told_apart_from_one_with() {
        assert!(matches!(Object(&[]).bytes(), Err(KernelError::NoPrograms)));
        assert!(Object(b"\x7fELF").bytes().is_ok());
    }
}
