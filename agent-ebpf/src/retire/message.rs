//! The message that a server sends: reading it, and making room in it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::sk_msg_md,
    helpers::generated::{bpf_msg_pop_data, bpf_msg_pull_data, bpf_msg_push_data},
};

/// How much of a message is read at once, a power of two.
pub(crate) const WINDOW: u32 = 4096;

/// A part of a message that could not be read or written.
pub(crate) struct Unreadable;

/// What the kernel passes to `sk_msg` programs.
#[derive(Clone, Copy)]
pub(crate) struct Message(pub(crate) *mut sk_msg_md);

impl Message {
    /// Bytes in it.
    #[inline(always)]
    pub(crate) fn size(self) -> u32 {
        // SAFETY: the verifier checks every access to the context.
        unsafe { (&raw const (*self.0).size).read_volatile() }
    }

    /// The socket it is sent on.
    #[inline(always)]
    pub(crate) fn sk(self) -> *mut c_void {
        // SAFETY: as above.
        unsafe { (*self.0).__bindgen_anon_3.sk.cast() }
    }

    /// Makes the bytes from `start` to `end` readable and writable, in one piece.
    #[inline(always)]
    pub(crate) fn pull(self, start: u32, end: u32) -> Result<(), Unreadable> {
        // SAFETY: the helper checks the range.
        let done = unsafe { bpf_msg_pull_data(self.0, start, end, 0) };
        if done == 0 { Ok(()) } else { Err(Unreadable) }
    }

    /// Byte `index` of what was pulled.
    #[inline(always)]
    pub(crate) fn byte(self, index: u32) -> Option<u8> {
        let data = self.window::<1>(index)?;
        // SAFETY: within the window.
        Some(unsafe { data.read() })
    }

    /// `N` bytes of what was pulled, from `index` on.
    #[inline(always)]
    pub(crate) fn bytes<const N: usize>(self, index: u32) -> Option<[u8; N]> {
        let data = self.window::<N>(index)?;
        // SAFETY: within the window.
        Some(unsafe { data.cast::<[u8; N]>().read() })
    }

    #[inline(always)]
    fn window<const N: usize>(self, index: u32) -> Option<*mut u8> {
        // SAFETY: the verifier checks the context, and the pointers against each other.
        unsafe {
            let data: *mut u8 = (*self.0).__bindgen_anon_1.data.cast();
            let end: *mut u8 = (*self.0).__bindgen_anon_2.data_end.cast();
            // The verifier proves nothing of offsets near 65,535.
            let start = data.wrapping_add((index & (WINDOW - 1)) as usize);
            if start.wrapping_add(N) > end { None } else { Some(start) }
        }
    }

    /// Makes the `bytes` part of the message at `at`; what was pulled has to be pulled anew.
    #[inline(always)]
    pub(crate) fn insert<const N: usize>(self, at: u32, bytes: &[u8; N]) -> Result<(), Unreadable> {
        // SAFETY: the helper checks the place.
        if unsafe { bpf_msg_push_data(self.0, at, N as u32, 0) } != 0 {
            return Err(Unreadable);
        }
        let written = self.overwrite(at, bytes);
        if written.is_err() {
            // What was made room for must not be sent as it is.
            // SAFETY: as above.
            unsafe { bpf_msg_pop_data(self.0, at, N as u32, 0) };
        }
        written
    }

    /// Writes `bytes` over what is at `at`; what was pulled has to be pulled anew.
    #[inline(always)]
    pub(crate) fn overwrite<const N: usize>(
        self,
        at: u32,
        bytes: &[u8; N],
    ) -> Result<(), Unreadable> {
        self.pull(at, at + N as u32)?;
        let data = self.window::<N>(0).ok_or(Unreadable)?;
        let mut index = 0;
        while index < N {
            // SAFETY: within the window.
            unsafe { data.add(index).write(bytes[index]) };
            index += 1;
        }
        Ok(())
    }
}
