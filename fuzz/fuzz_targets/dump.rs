//! See `dormouse_shard::fuzzing::dump`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dormouse_shard::fuzzing::dump(input));
