//! The seeds of the fuzzers, replayed with the compiler that everybody has.

use std::{fs, path::Path};

#[path = "reference/http1.rs"]
mod http1;
#[path = "reference/http2.rs"]
mod http2;
#[path = "reference/responses.rs"]
mod responses;

/// Runs a check on every seed and each of its beginnings.
fn replay(target: &str, check: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut replayed = 0;
    for seed in fs::read_dir(&seeds).expect("the seeds are committed") {
        let path = seed.expect("a folder that can be listed").path();
        let bytes = fs::read(&path).expect("a seed that can be read");
        println!("{}", path.display());
        (0..=bytes.len()).for_each(|length| check(&bytes[..length]));
        replayed += 1;
    }
    assert!(replayed >= 8, "only {replayed} seeds in {}", seeds.display());
}

#[test]
fn heads() {
    replay("http1", http1::check);
}

#[test]
fn messages() {
    replay("http2", http2::check_bytes);
}

#[test]
fn responses_in_turn() {
    replay("responses", responses::check_bytes);
}
