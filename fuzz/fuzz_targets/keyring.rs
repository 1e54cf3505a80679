//! See `crates/fuzz-targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pacstore_fuzz_targets::run("keyring", bytes));
