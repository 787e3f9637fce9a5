//! Tests of each command's events and their order, compared with those of a real Redis.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::testing::Bench;
use super::{FAMILIES, Flags};
use crate::keyspace::changes::KeyEvent;

/// Written by `keyspace-events.py`, which says how it reads.
const EVENTS: &str = include_str!("../../tests/data/keyspace-events.txt");
/// The same of commands that are newer, and of a newer Redis.
const NEWER_EVENTS: &str = include_str!("../../tests/data/keyspace-events-8.txt");
/// The same of commands that only Valkey has.
const VALKEY_EVENTS: &str = include_str!("../../tests/data/keyspace-events-valkey-9.txt");
/// Those of commands that a module has.
const FILTER_EVENTS: &str = include_str!("../../tests/data/keyspace-events-filters.txt");
/// The same of documents of JSON, which other servers have in a module.
const JSON_EVENTS: &str = include_str!("../../tests/data/keyspace-events-json.txt");

#[test]
fn the_events_are_those_of_redis() {
    compare(EVENTS);
    compare(NEWER_EVENTS);
    compare(VALKEY_EVENTS);
    compare(FILTER_EVENTS);
    compare(JSON_EVENTS);
}

fn compare(events: &str) {
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let listening = |heard: &Arc<Mutex<Vec<String>>>| {
        let bench = Bench::new();
        let heard = Arc::clone(heard);
        let listen = move |event: KeyEvent, select: u8, key: &[u8]| {
            let mut line = format!("{} {} {}", event.class.letter(), event.name, String::from_utf8_lossy(key));
            if select > 0 {
                line += &format!(" {select}");
            }
            heard.lock().push(line);
        };
        assert!(bench.shared.listener.set(Box::new(listen)).is_ok());
        bench
    };
    let mut bench = listening(&heard);
    let mut lines = events.lines().filter(|line| !line.starts_with('#')).peekable();
    let mut wrong = Vec::new();
    while let Some(line) = lines.next() {
        let mut expected = Vec::new();
        while let Some(event) = lines.next_if(|line| line.starts_with(' ')) {
            expected.push(event.trim().to_owned());
        }
        match line.strip_prefix("@ ") {
            Some(ms) => bench.now_ms += ms.parse::<u64>().expect("milliseconds"),
            None if line.is_empty() => bench = listening(&heard),
            None => _ = bench.run(line),
        }
        let told = std::mem::take(&mut *heard.lock());
        if told != expected {
            wrong.push(format!("{line}: {told:?}, Redis: {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_write_is_compared() {
    let all = [EVENTS, NEWER_EVENTS, VALKEY_EVENTS, FILTER_EVENTS, JSON_EVENTS];
    let lines = all.into_iter().flat_map(str::lines);
    let compared: BTreeSet<&str> = lines.filter_map(|line| line.split(' ').next()).collect();
    let rows = FAMILIES.iter().flat_map(|family| family.commands).map(|command| &command.row);
    let writes = rows.filter(|row| row.flags.contains(Flags::WRITE));
    let missing: Vec<_> = writes.map(|row| row.name).filter(|name| !compared.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
