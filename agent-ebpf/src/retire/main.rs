//! The retire programs: make the flows of a draining service leave by themselves.
//!
//! - `join` (`iter/tcp`) and `join_new` (`sock_ops`, which the tracker tail-calls when a draining service accepts
//!   a connection) put sockets into a sockhash. Services that are not draining pay for none of this.
//! - `ended` (`sock_ops`, called in the same way) notes what a client had sent in all when its connection ended.
//! - `tell` (`sk_msg` on that sockhash) follows what the server sends, and once it is a flow's turn makes an
//!   HTTP/1 response say `Connection: close`, or puts a GOAWAY between two HTTP/2 frames.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod http1;
mod http2;
#[path = "../iter.rs"]
mod iter;
mod join;
mod maps;
mod message;
#[path = "../netns.rs"]
mod netns;
#[path = "../program.rs"]
mod program;
#[path = "../slots.rs"]
mod slots;
mod sock;
mod tell;

/// The host's compiler type-checks these files, so that `cargo check` needs no eBPF toolchain.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
