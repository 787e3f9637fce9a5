//! See `dormouse_shard::fuzzing::tail`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dormouse_shard::fuzzing::tail(input));
