//! `CLUSTER COUNTKEYSINSLOT`, `GETKEYSINSLOT`, `FLUSHSLOT` and `SLOT-STATS`: the keys of one slot, or of several. The server has
//! the rows.
//!
//! Positions begin with the slot, so the keys of a slot are neighbours.

use std::cmp::Reverse;

use dormouse_protocol::Reply;
use dormouse_types::segment::{SLOTS, slot_of};

use super::args::{Args, Argument, Rest, integer};
use super::{Run, run, work};
use crate::error::{Error, Result, repeated};
use crate::keyspace::Keyspace;
use crate::keyspace::index::slot_start;

/// Runs `CLUSTER COUNTKEYSINSLOT slot` under the locks of all shards.
pub const COUNT: Run = run!(count, 2);
/// Runs `CLUSTER GETKEYSINSLOT slot count` under the locks of all shards.
pub const LIST: Run = run!(list, 2);

/// Runs `CLUSTER FLUSHSLOT slot [ASYNC | SYNC]` under the locks of all shards.
pub const FLUSH: Run = run!(flush, 2);
/// Runs `CLUSTER SLOT-STATS` under the locks of all shards, with everything in memory.
pub const STATS: Run = run!(stats, 2);

/// The error of commands that only a cluster has.
pub const NO_CLUSTER: Error = Error::text("ERR This instance has cluster support disabled");

/// Fails unless the process shows its databases as clusters.
pub(super) fn check_shown(db: &Keyspace<'_>) -> Result<()> {
    let is_shown = db.shared().scripts.surroundings().is_none_or(|around| around.shows_cluster());
    if is_shown { Ok(()) } else { Err(NO_CLUSTER) }
}

/// Keys that are visited together.
const STEP: usize = 64;

fn count(db: &mut Keyspace<'_>, reply: &mut Reply, (slot,): (i64,)) -> Result<()> {
    let slot = valid(slot).ok_or(Error::text("ERR Invalid slot"))?;
    let mut count = 0;
    visit(db, slot, |_| {
        count += 1;
        true
    });
    reply.integer(count);
    Ok(())
}

fn list(db: &mut Keyspace<'_>, reply: &mut Reply, (slot, most): (i64, i64)) -> Result<()> {
    const INVALID: Error = Error::text("ERR Invalid slot or number of keys");
    let (slot, most) = (valid(slot).ok_or(INVALID)?, usize::try_from(most).map_err(|_| INVALID)?);
    let (start, mut len) = (reply.len(), 0);
    visit(db, slot, |key| {
        if len < most {
            reply.bulk(key);
            len += 1;
        }
        len < most
    });
    reply.array_since(start, len);
    Ok(())
}

/// Deletes the keys of a slot. All are found before the first goes, as a place may have to be loaded.
fn flush(db: &mut Keyspace<'_>, reply: &mut Reply, (slot, manner): (&[u8], Rest<'_>)) -> Result<()> {
    check_shown(db)?;
    let is_manner = |word: &[u8]| [&b"ASYNC"[..], b"SYNC"].iter().any(|of| word.eq_ignore_ascii_case(of));
    if manner.len() > 1 {
        return Err(unknown_form("FLUSHSLOT"));
    }
    let slot = slot_at(slot)?;
    if !manner.iter().all(is_manner) {
        return Err(Error::Syntax);
    }
    let (mut keys, mut refusal): (Vec<Box<[u8]>>, _) = (Vec::new(), None);
    visit(db, slot, |key| {
        refusal = work(reply, key.len() + size_of::<Box<[u8]>>()).err();
        keys.push(key.into());
        refusal.is_none()
    });
    if db.has_fault() {
        return Ok(());
    }
    refusal.map_or(Ok(()), Err)?;
    keys.iter().for_each(|key| _ = db.delete(key));
    reply.ok();
    Ok(())
}

/// The slots that a `CLUSTER SLOT-STATS` asks for.
enum Wanted {
    Range(u16, u16),
    Most { count: usize, ascending: bool },
}

impl<'a> Argument<'a> for Wanted {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.word("SLOTSRANGE") && args.len() == 2 {
            let (first, last) = (slot_at(args.bytes()?)?, slot_at(args.bytes()?)?);
            if first > last {
                let text = format!("ERR Start slot number {first} is greater than end slot number {last}");
                return Err(Error::Text(text.into()));
            }
            return Ok(Self::Range(first, last));
        }
        if !args.word("ORDERBY") {
            return Err(unknown_form("SLOT-STATS"));
        }
        if !args.word("KEY-COUNT") {
            return Err(Error::text("ERR Unrecognized sort metric for ORDERBY."));
        }
        let (mut count, mut ascending) = (None, None);
        while !args.is_empty() {
            let is_repeated = if args.word("LIMIT") {
                let limit = integer(args.bytes()?).ok().and_then(|limit| u16::try_from(limit).ok());
                let limit = limit
                    .filter(|limit| (1..=SLOTS).contains(limit))
                    .ok_or(Error::text("ERR Limit has to lie in between 1 and 16384 (maximum number of slots)."))?;
                count.replace(usize::from(limit)).is_some()
            } else if args.word("ASC") {
                ascending.replace(true).is_some()
            } else if args.word("DESC") {
                ascending.replace(false).is_some()
            } else {
                return Err(Error::Syntax);
            };
            if is_repeated {
                return Err(Error::text("ERR Multiple filters of the same type are disallowed."));
            }
        }
        Ok(Self::Most { count: count.unwrap_or(usize::from(SLOTS)), ascending: ascending.unwrap_or(false) })
    }
}

/// Counts the keys of slots. What else servers count for each slot is counted for the whole database here.
fn stats(db: &mut Keyspace<'_>, reply: &mut Reply, (wanted,): (Wanted,)) -> Result<()> {
    check_shown(db)?;
    let (first, last) = if let Wanted::Range(first, last) = wanted { (first, last) } else { (0, SLOTS - 1) };
    let mut counts = vec![0; usize::from(last - first) + 1];
    let (mut at, end) = (slot_start(first), slot_start(last + 1));
    while at < end {
        let next = db.scan(at, STEP, |record| {
            if let Some(count) = slot_of(record.key()).checked_sub(first).and_then(|at| counts.get_mut(usize::from(at)))
            {
                *count += 1;
            }
        });
        if db.has_fault() {
            return Ok(());
        }
        if next == 0 {
            break;
        }
        at = next;
    }
    let mut slots: Vec<(u16, i64)> = (first..=last).zip(counts).collect();
    if let Wanted::Most { count, ascending } = wanted {
        match ascending {
            true => slots.sort_by_key(|(_, keys)| *keys),
            false => slots.sort_by_key(|(_, keys)| Reverse(*keys)),
        }
        slots.truncate(count);
    }
    reply.array(slots.len());
    for (slot, keys) in slots {
        reply.array(2);
        reply.integer(slot.into());
        reply.map(1);
        reply.bulk(b"key-count");
        reply.integer(keys);
    }
    Ok(())
}

/// The number of a slot.
pub(super) fn slot_at(word: &[u8]) -> Result<u16> {
    integer(word).ok().and_then(valid).ok_or(Error::text("ERR Invalid or out of range slot"))
}

fn unknown_form(name: &str) -> Error {
    let name = repeated(name.as_bytes());
    Error::Text(format!("ERR unknown subcommand or wrong number of arguments for '{name}'. Try CLUSTER HELP.").into())
}

fn valid(slot: i64) -> Option<u16> {
    u16::try_from(slot).ok().filter(|slot| *slot < SLOTS)
}

/// Shows the keys of a slot to `visit`, until that returns false or a place has to be loaded first.
fn visit(db: &mut Keyspace<'_>, slot: u16, mut visit: impl FnMut(&[u8]) -> bool) {
    let (mut at, end) = (slot_start(slot), slot_start(slot + 1));
    let mut goes_on = true;
    while goes_on && at < end {
        let next = db.scan(at, STEP, |record| {
            if goes_on && slot_of(record.key()) == slot {
                goes_on = visit(record.key());
            }
        });
        if db.has_fault() || next == 0 {
            return;
        }
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::{OwnedRequest, Version};

    use super::*;
    use crate::commands::testing::Bench;

    fn ask(bench: &mut Bench, run: Run, words: &[&str]) -> String {
        let args: Vec<&[u8]> = ["CLUSTER", "X"].iter().chain(words).map(|word| word.as_bytes()).collect();
        let request = OwnedRequest::from_args(&args);
        let mut reply = Reply::new(Version::Resp2);
        let done = run(&mut bench.keyspace(), &mut reply, request.as_request());
        match done {
            Ok(()) => String::from_utf8(reply.buffer).unwrap().replace("\r\n", " "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_keys_of_a_slot_are_found() {
        let mut bench = Bench::new();
        for n in 0..3000 {
            bench.run(&format!("SET key:{n} 1"));
        }
        let mut tagged = Vec::new();
        for n in 0..200 {
            bench.run(&format!("SET {{tag}}{n} 1"));
            tagged.push(format!("{{tag}}{n}"));
        }
        let slot = slot_of(b"tag").to_string();
        let others = (0..3000).filter(|n| slot_of(format!("key:{n}").as_bytes()).to_string() == slot).count();
        assert_eq!(ask(&mut bench, COUNT, &[&slot]), format!(":{} ", 200 + others));
        let sum: usize = (0..SLOTS)
            .map(|slot| ask(&mut bench, COUNT, &[&slot.to_string()])[1..].trim().parse::<usize>().unwrap())
            .sum();
        assert_eq!(sum, 3200);
        let all = ask(&mut bench, LIST, &[&slot, "1000"]);
        assert!(tagged.iter().all(|key| all.contains(&format!(" {key} "))), "{all}");
        assert!(ask(&mut bench, LIST, &[&slot, "7"]).starts_with("*7 "));
        assert_eq!(ask(&mut bench, LIST, &[&slot, "0"]), "*0 ");
        assert_eq!(
            ask(&mut bench, STATS, &["SLOTSRANGE", &slot, &slot]),
            format!("*1 *2 :{slot} *2 $9 key-count :{} ", 200 + others)
        );
        let most = ask(&mut bench, STATS, &["ORDERBY", "key-count", "LIMIT", "1"]);
        assert_eq!(most, format!("*1 *2 :{slot} *2 $9 key-count :{} ", 200 + others));
        assert!(ask(&mut bench, STATS, &["ORDERBY", "KEY-COUNT", "ASC"]).starts_with("*16384 "));
        for (words, error) in [
            (&["SLOTSRANGE", "2", "1"][..], "ERR Start slot number 2 is greater than end slot number 1"),
            (&["SLOTSRANGE", "0", "16384"], "ERR Invalid or out of range slot"),
            (
                &["SLOTSRANGE", "0", "1", "2"],
                "ERR unknown subcommand or wrong number of arguments for 'SLOT-STATS'. Try CLUSTER HELP.",
            ),
            (&["ORDERBY", "cpu-usec"], "ERR Unrecognized sort metric for ORDERBY."),
            (
                &["ORDERBY", "key-count", "LIMIT", "0"],
                "ERR Limit has to lie in between 1 and 16384 (maximum number of slots).",
            ),
            (&["ORDERBY", "key-count", "ASC", "DESC"], "ERR Multiple filters of the same type are disallowed."),
            (&["ORDERBY", "key-count", "FOO"], "ERR syntax error"),
            (&["ORDERBY", "key-count", "LIMIT"], "ERR syntax error"),
        ] {
            assert_eq!(ask(&mut bench, STATS, words), error, "{words:?}");
        }
        for (words, error) in [
            (&["x"][..], "ERR Invalid or out of range slot"),
            (&["0", "FOO"], "ERR syntax error"),
            (
                &["0", "SYNC", "ASYNC"],
                "ERR unknown subcommand or wrong number of arguments for 'FLUSHSLOT'. Try CLUSTER HELP.",
            ),
        ] {
            assert_eq!(ask(&mut bench, FLUSH, words), error, "{words:?}");
        }
        assert_eq!(ask(&mut bench, FLUSH, &[&slot, "async"]), "+OK ");
        assert_eq!(ask(&mut bench, COUNT, &[&slot]), ":0 ");
        assert_eq!(bench.run("DBSIZE"), (3000 - others).to_string());
        for (run, words) in [(COUNT, &["16384"][..]), (COUNT, &["-1"]), (LIST, &["0", "-1"]), (LIST, &["99999", "1"])] {
            assert!(ask(&mut bench, run, words).starts_with("ERR Invalid slot"), "{words:?}");
        }
    }
}
