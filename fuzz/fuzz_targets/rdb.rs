//! See `dormouse_shard::fuzzing::rdb`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dormouse_shard::fuzzing::rdb(input));
