//! Response heads: the scanner against httparse, and its edit against what an edit has to do.
#![no_main]

#[path = "../../agent-common/tests/reference/http1.rs"]
mod reference;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reference::check(bytes));
