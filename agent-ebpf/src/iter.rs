//! What the kernel passes to programs that walk through sockets.

use core::ffi::c_void;

/// Arguments of an `iter/tcp` program (`struct bpf_iter__tcp`).
#[repr(C)]
pub(crate) struct IterContext {
    pub(crate) meta: *const Meta,
    pub(crate) sk_common: *mut c_void,
}

/// Start of `struct bpf_iter_meta`.
#[repr(C)]
pub(crate) struct Meta {
    pub(crate) seq: *mut c_void,
}
