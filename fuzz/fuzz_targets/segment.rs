//! See `dormouse_shard::fuzzing::segment`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dormouse_shard::fuzzing::segment(input));
