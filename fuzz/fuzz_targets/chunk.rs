//! See `dormouse_shard::fuzzing::chunk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dormouse_shard::fuzzing::chunk(input));
