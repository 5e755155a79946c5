//! Marks of sockets: which listener has accepted a connection.
//!
//! A socket does not know its listener, and one that the gate has given to another listener has the local
//! port that the client asked for. So the agent marks the listener, and the kernel copies the mark to what it
//! accepts (`bpf_sk_storage_clone`, called for each new socket before `sock_ops` hears of it).

use core::ptr::{from_ref, null, null_mut};

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE},
    helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
    programs::SockOpsContext,
};

/// The definition of a map of marks. The kernel wants the types of this kind of map, so it is one with BTF;
/// aya's own has no `BPF_F_CLONE`.
#[repr(C)]
struct Marks {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const u32,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers only carry types for the loader; nobody follows them.
unsafe impl Sync for Marks {}

/// The mark of each marked socket, written by the agent by way of its descriptor.
#[btf_map]
static MARKS: Marks =
    Marks { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() };

/// The mark of the connection that is being accepted.
#[inline(always)]
pub(crate) fn of(ctx: &SockOpsContext) -> Option<u32> {
    // SAFETY: the verifier checks the access, and the pointers before they are used.
    unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let map = from_ref(&MARKS).cast_mut().cast();
        let mark: *const u32 = bpf_sk_storage_get(map, sk.cast(), null_mut(), 0).cast();
        mark.as_ref().copied()
    }
}
