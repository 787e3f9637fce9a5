//! See `dormouse_storage::fuzzing::directory`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dormouse_storage::fuzzing::directory(input));
