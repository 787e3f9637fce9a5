//! See `dormouse_shard::fuzzing::log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dormouse_shard::fuzzing::log(input));
