//! The check of a source before the copy: which of its keys have a type that the target lacks, or that the source does not send.
//!
//! `SCAN ... TYPE` finds them without sending other keys over. A source that refuses the question, or is too large to
//! answer in time, is copied all the same: the RDB names what the target cannot take, and the target keeps its data
//! until then.

use std::time::{Duration, Instant};

use dormouse_protocol::Response;

use super::address::ServerAddress;
use super::pulse::{ask, field, information};
use super::target::Abilities;
use super::wire::Connection;

/// Types that some targets lack: the names in `SCAN` and in messages, and a command of each type. A Dormouse sends streams only to
/// replicas, since Redis 7.0 has none of the others.
const TYPES: &[(&str, &str, &str)] = &[
    (STREAM, "a stream", "XADD"),
    ("vectorset", "a vector set", "VADD"),
    ("array", "an array", "ARSET"),
    ("ReJSON-RL", "a document of JSON", "JSON.SET"),
    ("MBbloom--", "a Bloom filter", "BF.ADD"),
    ("MBbloomCF", "a Cuckoo filter", "CF.ADD"),
];
const STREAM: &str = "stream";

const PATIENCE: Duration = Duration::from_secs(10);
const PAGE: &str = "2000";
const NAMED_MAX: usize = 5;

/// Returns why the target will not have all data of the source, as far as the source tells; `None`: it will.
pub fn obstacle(source: &ServerAddress, abilities: &Abilities) -> Option<String> {
    let mut connection = ask(source).ok()?;
    let is_dormouse =
        information(&mut connection, "server").is_some_and(|server| field(&server, "dormouse_version").is_some());
    let found = left_behind(&mut connection, is_dormouse, abilities);
    let named = (!found.is_empty()).then(|| found.join(", "))?;
    Some(match is_dormouse {
        true => format!(
            "the source is a Dormouse, which does not send everything to replicas: {named}. `dormouse backup` and `dormouse \
             restore` take all of it"
        ),
        false => format!("the target cannot take {named}"),
    })
}

/// Returns the first keys that will be missing.
fn left_behind(connection: &mut Connection, is_dormouse: bool, abilities: &Abilities) -> Vec<String> {
    let mut found = Vec::new();
    let until = Instant::now() + PATIENCE;
    if !abilities.commands.contains("FUNCTION")
        && let Ok(Response::Many(_, Some(libraries))) = connection.call(&[b"FUNCTION", b"LIST"])
        && !libraries.is_empty()
    {
        found.push("a library of functions".to_owned());
    }
    let Some(keyspace) = information(connection, "keyspace") else { return found };
    let indexes = (0..1024).filter(|index| field(&keyspace, &format!("db{index}")).is_some());
    for index in indexes {
        let index = index.to_string();
        if !matches!(connection.call(&[b"SELECT", index.as_bytes()]), Ok(Response::Line('+', _))) {
            break;
        }
        for (kind, name, command) in TYPES {
            let is_sent = !is_dormouse || *kind == STREAM;
            if !is_sent || !abilities.commands.contains(*command) {
                let keys = of_type(connection, kind, until);
                found.extend(keys.iter().map(|key| format!("{name} (key `{}` of index {index})", key.escape_ascii())));
            }
            if found.len() >= NAMED_MAX {
                return found;
            }
        }
    }
    found
}

/// Returns the first keys of a type in the selected index, or none if the source does not know the type.
fn of_type(connection: &mut Connection, kind: &str, until: Instant) -> Vec<Vec<u8>> {
    let (mut keys, mut cursor) = (Vec::new(), b"0".to_vec());
    while Instant::now() < until && keys.len() < NAMED_MAX {
        let page = connection.call(&[b"SCAN", &cursor, b"COUNT", PAGE.as_bytes(), b"TYPE", kind.as_bytes()]);
        let Ok(Response::Many(_, Some(page))) = page else { break };
        let Ok([Response::Bulk(_, Some(next)), Response::Many(_, Some(found))]) = <[Response; 2]>::try_from(page)
        else {
            break;
        };
        keys.extend(found.iter().filter_map(|key| key.bytes().map(<[u8]>::to_vec)));
        cursor = next;
        if cursor == b"0" {
            break;
        }
    }
    keys.truncate(NAMED_MAX);
    keys
}
