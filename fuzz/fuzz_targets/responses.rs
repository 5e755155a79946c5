//! Messages of a server: response after response against a plain reference.
#![no_main]

#[path = "../../agent-common/tests/reference/responses.rs"]
mod reference;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reference::check_bytes(bytes));
