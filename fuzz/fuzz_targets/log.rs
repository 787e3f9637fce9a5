//! See `dormouse_storage::fuzzing::log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dormouse_storage::fuzzing::log(input));
