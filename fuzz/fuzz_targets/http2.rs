//! Messages of a server: the prover of frame boundaries against a plain reference.
#![no_main]

#[path = "../../agent-common/tests/reference/http2.rs"]
mod reference;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reference::check_bytes(bytes));
