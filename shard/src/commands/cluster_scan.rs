//! `CLUSTERSCAN`: all keys, slot by slot, for clients of a cluster. The server has the row.
//!
//! A cursor is `0-{tag}-position`. The tag is one of the slot in which the scan goes on, so that a client sends it to the node
//! that has this slot, as it would a key. The position is that of `SCAN`, 0 for the beginning of the slot. So a cursor means
//! the same for ever, and the fingerprint in front, by which nodes tell their tables apart, is always 0.
//!
//! The first call, with the cursor `0`, finds no keys, only the cursor to begin with.

use std::sync::OnceLock;

use dormouse_protocol::glob::Glob;
use dormouse_protocol::{Reply, Request};
use dormouse_types::Kind;
use dormouse_types::record::Record;
use dormouse_types::segment::{SLOTS, slot_of};

use super::args::{Args, Argument};
use super::slots::{check_shown, slot_at};
use super::{Cost, Run, cost, run};
use crate::error::{Error, Result};
use crate::keyspace::index::slot_start;
use crate::keyspace::{Keyspace, kind_of};

/// Runs `CLUSTERSCAN cursor [MATCH pattern] [COUNT count] [TYPE type] [SLOT slot]`.
pub const SCAN: Run = run!(scan);
/// The cost of a request.
pub const COST: Cost = scan_cost;

fn scan(db: &mut Keyspace<'_>, reply: &mut Reply, (cursor, options): (&[u8], ScanOptions<'_>)) -> Result<()> {
    check_shown(db)?;
    if cursor == b"0" {
        write_cursor(reply, slot_start(options.slot.unwrap_or(0)), true);
        reply.array(0);
        return Ok(());
    }
    let at = position(cursor).ok_or(Error::text("ERR Invalid cursor"))?;
    let slot = slot_within(at);
    if options.is_slot_named && options.slot != Some(slot) {
        return Err(Error::text("ERR Cursor slot mismatch with SLOT argument"));
    }
    let ends_at = if options.slot == Some(slot) { slot_start(slot + 1) } else { slot_start(SLOTS) };
    let (start, mut found) = (reply.len(), 0);
    let next = db.scan(at, options.count, |record| {
        if options.wants(record) && slot_start(slot_of(record.key())) < ends_at {
            reply.bulk(record.key());
            found += 1;
        }
    });
    reply.array_since(start, found);
    let end = reply.len();
    // `db.scan` answers 0 at the end.
    match next {
        0 => write_end(reply),
        next if next >= ends_at => write_end(reply),
        next => write_cursor(reply, next, false),
    }
    let head = reply.len() - end;
    reply.buffer[start..].rotate_right(head);
    Ok(())
}

fn scan_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let reading = cost::patterns(request);
    if reading > cost::READING_MAX {
        return usize::MAX;
    }
    let Ok(options) = ScanOptions::take(&mut Args::new(request, 2)) else { return 0 };
    let (keys, count) = (db.len(), options.count.min(db.len()));
    let bytes = db.resident_bytes() / keys.max(1) * count;
    reading.saturating_add(count).saturating_add(options.pattern.map_or(0, |glob| glob.cost(count, bytes)))
}

fn write_end(reply: &mut Reply) {
    reply.array(2);
    reply.bulk(b"0");
}

/// Writes the head of a page with the cursor for a prefix. `is_whole`: the scan of its slot begins.
fn write_cursor(reply: &mut Reply, prefix: u64, is_whole: bool) {
    let tag = String::from_utf8_lossy(&tags()[usize::from(slot_within(prefix))]).into_owned();
    reply.array(2);
    reply.bulk(format!("0-{{{tag}}}-{}", if is_whole { 0 } else { prefix }).as_bytes());
}

/// The slot of a prefix.
fn slot_within(prefix: u64) -> u16 {
    (prefix / slot_start(1)) as u16
}

/// The prefix that a cursor names.
fn position(cursor: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(cursor).ok()?;
    let (before, position) = text.rsplit_once('-')?;
    let (_, tag) = before.split_once("-{")?;
    let slot = slot_of(tag.strip_suffix('}').filter(|tag| !tag.is_empty() && !tag.contains('}'))?.as_bytes());
    let position: u64 = position.parse().ok()?;
    match position {
        0 => Some(slot_start(slot)),
        _ => Some(position).filter(|position| *position < slot_start(SLOTS) && slot_within(*position) == slot),
    }
}

/// A tag of three characters for each slot: the first in alphabetical order.
fn tags() -> &'static [[u8; 3]] {
    static TAGS: OnceLock<Vec<[u8; 3]>> = OnceLock::new();
    TAGS.get_or_init(|| {
        let letters: Vec<u8> = (b'0'..=b'9').chain(b'A'..=b'Z').chain(b'a'..=b'z').collect();
        let mut tags = vec![[0; 3]; usize::from(SLOTS)];
        for number in 0..letters.len().pow(3) {
            let digit = |power: u32| letters[number / letters.len().pow(power) % letters.len()];
            let tag = [digit(2), digit(1), digit(0)];
            let place = &mut tags[usize::from(slot_of(&tag))];
            if *place == [0; 3] {
                *place = tag;
            }
        }
        tags
    })
}

struct ScanOptions<'a> {
    pattern: Option<Glob<'a>>,
    count: usize,
    kind: Option<&'a [u8]>,
    /// The only slot that is scanned.
    slot: Option<u16>,
    /// Whether the request names it, rather than the tag of its pattern.
    is_slot_named: bool,
}

impl ScanOptions<'_> {
    fn wants(&self, record: &Record) -> bool {
        self.kind.is_none_or(|name| kind_of(record).name().as_bytes().eq_ignore_ascii_case(name))
            && self.pattern.as_ref().is_none_or(|glob| glob.matches(record.key()))
    }
}

impl<'a> Argument<'a> for ScanOptions<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut options = Self { pattern: None, count: 10, kind: None, slot: None, is_slot_named: false };
        let mut of_pattern = None;
        while !args.is_empty() {
            if args.word("MATCH") {
                let pattern = args.bytes()?;
                of_pattern = slot_of_pattern(pattern);
                options.pattern = if pattern == b"*" { None } else { Some(Glob::new(pattern)?) };
            } else if args.word("COUNT") {
                let count: i64 = args.take()?;
                options.count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Error::Syntax)?;
            } else if args.word("TYPE") {
                let name = args.bytes()?;
                if !Kind::ALL.iter().any(|kind| kind.name().as_bytes().eq_ignore_ascii_case(name)) {
                    let name = crate::error::repeated(name);
                    return Err(Error::Text(format!("ERR unknown type name '{name}'").into()));
                }
                options.kind = Some(name);
            } else if args.word("SLOT") {
                options.slot = Some(slot_at(args.bytes()?)?);
                options.is_slot_named = true;
            } else {
                return Err(Error::Syntax);
            }
        }
        options.slot = options.slot.or(of_pattern);
        Ok(options)
    }
}

/// The slot of all keys that match a pattern, if it has a tag in plain characters, or nothing but plain characters.
fn slot_of_pattern(pattern: &[u8]) -> Option<u16> {
    let plain = pattern.iter().take_while(|byte| !b"*?[\\".contains(byte)).count();
    if plain == pattern.len() {
        return Some(slot_of(pattern));
    }
    let open = pattern[..plain].iter().position(|byte| *byte == b'{')?;
    let len = pattern[open + 1..plain].iter().position(|byte| *byte == b'}').filter(|len| *len > 0)?;
    Some(slot_of(&pattern[open + 1..open + 1 + len]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dormouse_protocol::{OwnedRequest, Response, Version};

    use super::*;
    use crate::commands::testing::{Bench, show};

    /// The next cursor and the keys of a page, or the error.
    fn page(bench: &mut Bench, words: &[&str]) -> Result<(String, Vec<String>), String> {
        let args: Vec<&[u8]> = ["CLUSTERSCAN"].iter().chain(words).map(|word| word.as_bytes()).collect();
        let request = OwnedRequest::from_args(&args);
        let mut reply = Reply::new(Version::Resp2);
        SCAN(&mut bench.keyspace(), &mut reply, request.as_request()).map_err(|error| error.to_string())?;
        let Response::Many('*', Some(parts)) = Response::read(&mut &reply.buffer[..]).expect("a reply") else {
            panic!("no page: {:?}", reply.buffer);
        };
        let Response::Many('*', Some(keys)) = &parts[1] else { panic!("no keys") };
        Ok((show(&parts[0]), keys.iter().map(show).collect()))
    }

    /// All keys, each found once, and the number of pages.
    fn all(bench: &mut Bench, options: &[&str]) -> (BTreeSet<String>, usize) {
        let (mut found, mut pages, mut cursor) = (BTreeSet::new(), 0, "0".to_string());
        loop {
            let words: Vec<&str> = [&*cursor].into_iter().chain(options.iter().copied()).collect();
            let (next, keys) = page(bench, &words).expect("a page");
            keys.into_iter().for_each(|key| assert!(found.insert(key), "found twice"));
            pages += 1;
            if next == "0" {
                return (found, pages);
            }
            assert!(slot_of(next.as_bytes()) == slot_within(position(next.as_bytes()).expect("a cursor")), "{next}");
            cursor = next;
        }
    }

    #[test]
    fn every_key_is_found_once() {
        let mut bench = Bench::new();
        let keys: BTreeSet<String> =
            (0..2000).map(|n| format!("key:{n}")).chain((0..50).map(|n| format!("{{x}}{n}"))).collect();
        for key in &keys {
            bench.run(&format!("SET {key} 1"));
        }
        bench.run("LPUSH list 1");
        let (found, pages) = all(&mut bench, &["COUNT", "100", "TYPE", "String"]);
        assert_eq!(found, keys);
        assert!(pages > 10, "{pages} pages");
        assert_eq!(all(&mut bench, &["TYPE", "list"]).0, BTreeSet::from(["list".to_string()]));
        for (command, kind) in [
            ("JSON.SET key $ {}", "ReJSON-RL"),
            ("BF.ADD key item", "MBbloom--"),
            ("CF.ADD key item", "mbbloomcf"),
            ("VADD key VALUES 2 1 2 item", "vectorset"),
            ("ARSET key 0 item", "array"),
        ] {
            bench.run("DEL key");
            bench.run(command);
            assert_eq!(all(&mut bench, &["TYPE", kind]).0, BTreeSet::from(["key".to_string()]), "{kind}");
        }
        bench.run("DEL key");
        let tagged = (0..50).map(|n| format!("{{x}}{n}")).collect();
        let slot = slot_of(b"x").to_string();
        let others =
            |found: BTreeSet<String>| found.into_iter().filter(|key| key.starts_with("{x}")).collect::<BTreeSet<_>>();
        assert_eq!(others(all(&mut bench, &["SLOT", &slot]).0), tagged);
        assert_eq!(all(&mut bench, &["MATCH", "{x}*"]).0, tagged);
        assert_eq!(
            all(&mut bench, &["MATCH", "{x}7"]),
            (BTreeSet::from(["{x}7".to_string()]), all(&mut bench, &["SLOT", &slot]).1)
        );
    }

    #[test]
    fn the_first_page_names_the_slot_to_begin_with() {
        let mut bench = Bench::new();
        bench.run("SET a 1");
        for (words, cursor) in [(&["0"][..], "0-{06S}-0"), (&["0", "SLOT", "5"], "0-{460}-0")] {
            assert_eq!(page(&mut bench, words), Ok((cursor.to_string(), Vec::new())));
        }
        for (words, error) in [
            (&["x"][..], "ERR Invalid cursor"),
            (&["1"], "ERR Invalid cursor"),
            (&["0-{06S}-x"], "ERR Invalid cursor"),
            (&["0-{06S"], "ERR Invalid cursor"),
            (&["0-{}-0"], "ERR Invalid cursor"),
            (&["0-{06S}-99999999999999999999999"], "ERR Invalid cursor"),
            (&["0-{06S}-9007199254740991"], "ERR Invalid cursor"),
            (&["0-{06S}-0", "SLOT", "5"], "ERR Cursor slot mismatch with SLOT argument"),
            (&["0", "COUNT", "0"], "ERR syntax error"),
            (&["0", "COUNT", "x"], "ERR value is not an integer or out of range"),
            (&["0", "SLOT", "16384"], "ERR Invalid or out of range slot"),
            (&["0", "SLOT", "x"], "ERR Invalid or out of range slot"),
            (&["0", "TYPE", "foo"], "ERR unknown type name 'foo'"),
            (&["0", "MATCH"], "ERR syntax error"),
            (&["0", "FOO"], "ERR syntax error"),
        ] {
            assert_eq!(page(&mut bench, words), Err(error.to_string()), "{words:?}");
        }
    }

    #[test]
    fn every_slot_has_a_tag() {
        assert!(tags().iter().enumerate().all(|(slot, tag)| usize::from(slot_of(tag)) == slot));
    }
}
