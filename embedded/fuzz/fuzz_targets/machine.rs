#![no_main]

#[path = "../../tests/fuzz/machine.rs"]
mod machine;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| machine::check(bytes));
