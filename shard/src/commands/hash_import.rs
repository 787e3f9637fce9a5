//! `HIMPORT`: hashes with the same fields, whose names a connection gives once. The server has the rows.
//!
//! 1. `HIMPORT PREPARE` names a [`FieldSet`], and the connection keeps it among its [sets](crate::keyspace::field_sets).
//! 2. `HIMPORT SET` gives the values. The server binds the set that it names to the command; a script has sets of its own, which
//!    end with it.
//! 3. The hash replaces any hash of before, with its expiry, and is recorded as a value. So neither the log nor a replica has to
//!    know of the sets.
//!
//! Redis keeps such hashes in a form of their own. Here they are hashes like any other.

use dormouse_protocol::{Reply, Request};
use dormouse_types::Hash;

use super::args::{Rest, parse};
use super::{Cost, Run, run};
use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::field_sets::{FieldSet, FieldSets};
use crate::keyspace::{Change, Keyspace};

/// Runs `HIMPORT SET key fieldset value [value ...]`.
pub const SET: Run = run!(set, 2);
/// The bytes that a request adds beyond those of its values.
pub const GROWTH: Cost = growth;

/// The form of `PREPARE`, `DISCARD` and `DISCARDALL` in scripts.
pub const PREPARE_IN_SCRIPT: Run = run!(prepare, 2);
pub const DISCARD_IN_SCRIPT: Run = run!(discard, 2);
pub const DISCARD_ALL_IN_SCRIPT: Run = run!(discard_all, 2);

fn set(db: &mut Keyspace<'_>, reply: &mut Reply, (key, name, values): (&[u8], &[u8], Rest<'_>)) -> Result<()> {
    db.update_existing(key, |_: &mut Hash, _| Change::No(()))?;
    let set = db.field_set(name).ok_or(Error::text("ERR no such fieldset"))?;
    if set.len() != values.len() {
        return Err(Error::text("ERR value count does not match fieldset field count"));
    }
    let mut hash = Hash::default();
    let limits = *db.limits();
    hash.expect(values.len(), &limits);
    for (field, value) in set.fields().zip(values.iter()) {
        hash.set(field, value, &limits);
    }
    db.put(key, hash, None);
    db.tell_fields(KeyEvent::HSET, key, set.fields());
    reply.ok();
    Ok(())
}

fn growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    db.field_set(request.arg(3)).map_or(0, |set| set.bytes())
}

fn prepare(db: &mut Keyspace<'_>, reply: &mut Reply, (name, fields): (&[u8], Rest<'_>)) -> Result<()> {
    let set = FieldSet::new(fields.iter())?;
    db.field_sets().add(name, set)?;
    reply.ok();
    Ok(())
}

/// The change that `HIMPORT PREPARE` makes to the sets of a connection: none if it is refused.
pub fn foresee_prepare(request: Request<'_>, sets: &mut FieldSets) {
    if let Ok((name, fields)) = parse::<(&[u8], Rest<'_>)>(request, 2)
        && let Ok(set) = FieldSet::new(fields.iter())
    {
        _ = sets.add(name, set);
    }
}

fn discard(db: &mut Keyspace<'_>, reply: &mut Reply, (name,): (&[u8],)) -> Result<()> {
    let removed = db.field_sets().remove(name);
    reply.integer(i64::from(removed));
    Ok(())
}

/// The change that `HIMPORT DISCARD` makes to them.
pub fn foresee_discard(request: Request<'_>, sets: &mut FieldSets) {
    sets.remove(request.arg(2));
}

fn discard_all(db: &mut Keyspace<'_>, reply: &mut Reply, (): ()) -> Result<()> {
    let removed = db.field_sets().clear();
    reply.integer(removed as i64);
    Ok(())
}

/// The change that `HIMPORT DISCARDALL` makes to them.
pub fn foresee_discard_all(_: Request<'_>, sets: &mut FieldSets) {
    sets.clear();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dormouse_protocol::{OwnedRequest, Version};

    use super::*;
    use crate::commands::testing::Bench;

    /// Runs `HIMPORT SET` with the sets of a connection bound to it, as the server does.
    fn import(bench: &mut Bench, sets: &FieldSets, line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let request = OwnedRequest::from_args(&words);
        let mut reply = Reply::new(Version::Resp2);
        let mut db = bench.keyspace();
        db.begin(true, true);
        db.call_changes(KeyEvent::HSET);
        db.bind_fields(sets.get(words[3]).map(Arc::clone));
        match SET(&mut db, &mut reply, request.as_request()) {
            Ok(()) => String::from_utf8(reply.buffer).expect("text").trim().to_string(),
            Err(error) => error.to_string(),
        }
    }

    fn prepared(lines: &[&str]) -> FieldSets {
        let mut sets = FieldSets::default();
        for line in lines {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            foresee_prepare(OwnedRequest::from_args(&words).as_request(), &mut sets);
        }
        sets
    }

    #[test]
    fn values_are_given_in_the_order_of_the_fields() {
        let mut bench = Bench::new();
        let sets = prepared(&["HIMPORT PREPARE person name age", "HIMPORT PREPARE twice a a", "HIMPORT PREPARE one f"]);
        bench.run("HSET person:1 old 1 name x");
        bench.run("HEXPIRE person:1 100 FIELDS 1 name");
        bench.run("EXPIRE person:1 100");
        bench.run("SET string x");
        for (line, reply) in [
            ("HIMPORT SET person:1 person dora 41", "+OK"),
            ("HIMPORT SET person:2 person emil seven", "+OK"),
            ("HIMPORT SET string person a b", "WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("HIMPORT SET string nope a", "WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("HIMPORT SET person:3 nope a b", "ERR no such fieldset"),
            ("HIMPORT SET person:3 twice a b", "ERR no such fieldset"),
            ("HIMPORT SET person:3 person a", "ERR value count does not match fieldset field count"),
            ("HIMPORT SET person:3 person a b c", "ERR value count does not match fieldset field count"),
            ("HIMPORT SET person:3 one 1", "+OK"),
        ] {
            assert_eq!(import(&mut bench, &sets, line), reply, "{line}");
        }
        for (line, reply) in [
            ("HGETALL person:1", "[name dora age 41]"),
            ("TTL person:1", "-1"),
            ("HTTL person:1 FIELDS 1 name", "[-1]"),
            ("HGETALL person:2", "[name emil age seven]"),
            ("HGETALL person:3", "[f 1]"),
        ] {
            assert_eq!(bench.run(line), reply, "{line}");
        }
    }

    #[test]
    fn sets_are_bounded_and_discarded() {
        let mut sets = prepared(&["HIMPORT PREPARE a f g", "HIMPORT PREPARE b f", "HIMPORT PREPARE a f"]);
        let one = sets.bytes() / 2;
        assert_eq!((sets.bytes(), sets.get(b"a") == sets.get(b"b")), (2 * one, true));
        let foresee = |sets: &mut FieldSets, line: &str, does: fn(Request<'_>, &mut FieldSets)| {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            does(OwnedRequest::from_args(&words).as_request(), sets);
        };
        foresee(&mut sets, "HIMPORT DISCARD a", foresee_discard);
        assert_eq!((sets.bytes(), sets.get(b"a")), (one, None));
        assert!(!sets.remove(b"a"));
        foresee(&mut sets, "HIMPORT DISCARDALL", foresee_discard_all);
        assert_eq!((sets.bytes(), sets.is_empty()), (0, true));
        let name = vec![b'x'; 1 << 20];
        let large = || FieldSet::new([&*name].into_iter()).expect("one field");
        let added = (0..10u8).take_while(|n| sets.add(&[*n], large()).is_ok()).count();
        assert_eq!(added, 3, "they take 4 MiB at most");
        let before = sets.bytes();
        assert!(sets.add(&[0], large()).is_ok(), "in place of one of the same size");
        assert_eq!(sets.bytes(), before);
    }
}
