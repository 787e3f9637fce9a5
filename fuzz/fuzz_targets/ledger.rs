//! See `dormouse_storage::fuzzing::ledger`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dormouse_storage::fuzzing::ledger(input));
