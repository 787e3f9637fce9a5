//! Payloads of RESTORE.
//!
//! The input is taken as it is, and as the body of a payload whose version and checksum are right. What is restored must
//! survive DUMP.
#![no_main]

use dormouse_shard::codec::checksum;
use dormouse_shard::codec::dump::{RDB_VERSION, dump, restore};
use dormouse_shard::codec::value::Loaded;
use dormouse_shard::record::Value;
use dormouse_shard::types::Limits;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut sealed = input.to_vec();
    sealed.extend_from_slice(&RDB_VERSION.to_le_bytes());
    sealed.extend_from_slice(&checksum(&sealed).to_le_bytes());
    for payload in [input, &sealed] {
        let limits = Limits::default();
        match restore(payload, &limits) {
            Ok(Loaded::Text(text)) => {
                let text = text.into_vec();
                match restore(&dump(&Value::Raw(&text)), &limits) {
                    Ok(Loaded::Text(again)) => assert_eq!(again.into_vec(), text),
                    other => panic!("a string comes back as {other:?}"),
                }
            }
            Ok(Loaded::Object(object)) => {
                let again = dump(&Value::Object(&object));
                match restore(&again, &limits) {
                    Ok(Loaded::Object(restored)) => assert_eq!(dump(&Value::Object(&restored)).len(), again.len()),
                    other => panic!("a collection comes back as {other:?}"),
                }
            }
            Err(_) => {}
        }
    }
});
