//! `XREAD` and `XREADGROUP`: the entries of several streams after an id each.

use dormouse_protocol::{Reply, Request};
use dormouse_types::stream::{Group, StreamEntries};
use dormouse_types::{Stream, StreamId};
use smallvec::SmallVec;

use super::groups::growth_of_consumer;
use super::ids::{strict_id, unlimited, write_entries, write_entry, write_id};
use super::{CONSUMERS_PER_ELEMENT, NODE_COST, look};
use crate::commands::args::{Args, Argument, Rest, integer, parse};
use crate::commands::cost;
use crate::error::{Error, Result, repeated};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace};

/// Memory that a pending entry takes: its record, and its id among its consumer's.
pub const PENDING_BYTES: usize = 80;

const WAITING: Error = Error::text("ERR BLOCK is not supported yet: nothing to read, and Dormouse does not wait");

/// `[COUNT count] [BLOCK milliseconds] [GROUP group consumer] [NOACK] STREAMS key [key ...] id [id ...]`
pub struct Reads<'a> {
    count: usize,
    waits: bool,
    group: Option<(&'a [u8], &'a [u8])>,
    leaves_no_pending: bool,
    keys: Rest<'a>,
    ids: Rest<'a>,
}

impl<'a> Argument<'a> for Reads<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        Reads::read(args, false)
    }
}

/// The same of `XREADGROUP`, which has a group.
pub struct GroupReads<'a>(Reads<'a>);

impl<'a> Argument<'a> for GroupReads<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        Reads::read(args, true).map(GroupReads)
    }
}

impl<'a> Reads<'a> {
    fn read(args: &mut Args<'a>, is_group: bool) -> Result<Self> {
        let only = |option: &str| {
            let text = format!("ERR The {option} option is only supported by XREADGROUP. You called XREAD instead.");
            Error::Text(text.into())
        };
        let (mut count, mut waits, mut group, mut leaves_no_pending) = (0, false, None, false);
        loop {
            let more = args.len().saturating_sub(1);
            if more > 0 && args.word("BLOCK") {
                timeout(args.bytes()?)?;
                waits = true;
            } else if more > 0 && args.word("COUNT") {
                count = usize::try_from(integer(args.bytes()?)?).unwrap_or(0);
            } else if more > 0 && args.word("STREAMS") {
                break;
            } else if more >= 2 && args.word("GROUP") {
                if !is_group {
                    return Err(only("GROUP"));
                }
                group = Some((args.bytes()?, args.bytes()?));
            } else if args.word("NOACK") {
                if !is_group {
                    return Err(only("NOACK"));
                }
                leaves_no_pending = true;
            } else {
                return Err(Error::Syntax);
            }
        }
        let streams: Rest<'a> = args.take()?;
        if !streams.len().is_multiple_of(2) {
            let (name, symbol) = if is_group { ("xreadgroup", '>') } else { ("xread", '$') };
            let text = format!(
                "ERR Unbalanced '{name}' list of streams: for each stream key an ID or '{symbol}' must be specified."
            );
            return Err(Error::Text(text.into()));
        }
        if is_group && group.is_none() {
            return Err(Error::text("ERR Missing GROUP option for XREADGROUP"));
        }
        let (keys, ids) = streams.split_at(streams.len() / 2).ok_or(Error::Syntax)?;
        Ok(Reads { count, waits, group, leaves_no_pending, keys, ids })
    }
}

fn timeout(word: &[u8]) -> Result<()> {
    let timeout = integer(word).map_err(|_| Error::text("ERR timeout is not an integer or out of range"))?;
    if timeout < 0 { Err(Error::text("ERR timeout is negative")) } else { Ok(()) }
}

/// `XREAD [COUNT count] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]`
pub fn xread(db: &mut Keyspace<'_>, reply: &mut Reply, (reads,): (Reads<'_>,)) -> Result<()> {
    // All streams are looked at before the first is read.
    let mut served = SmallVec::<[(&[u8], StreamId); 4]>::new();
    for (key, word) in reads.keys.iter().zip(reads.ids.iter()) {
        let entries = db.read::<Stream>(key)?.map(Stream::entries);
        let after = match word {
            b"$" => entries.map_or(StreamId::MIN, |entries| entries.last),
            b">" => {
                return Err(Error::text(
                    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> \
                     option.",
                ));
            }
            b"+" => entries.and_then(|entries| entries.last.previous()).unwrap_or_default(),
            word => strict_id(word, 0)?,
        };
        if entries.and_then(StreamEntries::last_existing).is_some_and(|last| last > after) {
            served.push((key, after.next().unwrap_or(StreamId::MAX)));
        }
    }
    if served.is_empty() {
        return nothing(reply, reads.waits);
    }
    let start = reply.len();
    for &(key, first) in &served {
        write_key(reply, key);
        let Some(stream) = db.peek_collection::<Stream>(key) else { continue };
        write_entries(reply, stream.entries().range(first, StreamId::MAX), reads.count);
    }
    write_head(reply, start, served.len());
    Ok(())
}

/// The reply of a read that finds nothing.
fn nothing(reply: &mut Reply, waits: bool) -> Result<()> {
    if waits {
        return Err(WAITING);
    }
    reply.null_array();
    Ok(())
}

/// A stream and its entries are a pair: of a map, or an array of two.
fn write_key(reply: &mut Reply, key: &[u8]) {
    if reply.version() == dormouse_protocol::Version::Resp2 {
        reply.array(2);
    }
    reply.bulk(key);
}

fn write_head(reply: &mut Reply, start: usize, streams: usize) {
    match reply.version() {
        dormouse_protocol::Version::Resp2 => reply.array_since(start, streams),
        dormouse_protocol::Version::Resp3 => reply.map_since(start, streams),
    }
}

/// A consumer's request to one stream.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// `>`: entries that no consumer of the group was given.
    New,
    /// Its own pending entries after an id.
    Pending(StreamId),
}

/// `XREADGROUP GROUP group consumer [COUNT count] [BLOCK milliseconds] [NOACK] STREAMS key [key ...] id [id ...]`
pub fn xreadgroup(db: &mut Keyspace<'_>, reply: &mut Reply, (GroupReads(reads),): (GroupReads<'_>,)) -> Result<()> {
    let Some((group, consumer)) = reads.group else { return Err(Error::Syntax) };
    let mut wanted = SmallVec::<[(&[u8], Wanted); 4]>::new();
    for (key, word) in reads.keys.iter().zip(reads.ids.iter()) {
        let found = db.read::<Stream>(key)?.and_then(|stream| stream.group(group));
        if found.is_none() {
            let (key, group) = (repeated(key), repeated(group));
            let text =
                format!("NOGROUP No such key '{key}' or consumer group '{group}' in XREADGROUP with GROUP option");
            return Err(Error::Text(text.into()));
        }
        wanted.push((key, wanted_of(word)?));
    }
    let (start, mut streams) = (reply.len(), 0);
    for (key, wanted) in wanted {
        let read = read_one(db, reply, key, wanted, &reads, (group, consumer))?;
        streams += usize::from(read);
    }
    if streams == 0 {
        return nothing(reply, reads.waits);
    }
    write_head(reply, start, streams);
    Ok(())
}

fn wanted_of(word: &[u8]) -> Result<Wanted> {
    const TEXT: &str = "ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by \
                        specifying a proper ID, or use the > ID to get new messages. The";
    match word {
        b">" => Ok(Wanted::New),
        b"$" => {
            let text = format!("ERR The $ {TEXT} $ ID would just return an empty result set.");
            Err(Error::Text(text.into()))
        }
        // Redis marks new entries by the last id.
        word => Ok(match strict_id(word, 0)? {
            StreamId::MAX => Wanted::New,
            after => Wanted::Pending(after),
        }),
    }
}

/// Reads one stream; returns whether it is part of the reply.
fn read_one(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    key: &[u8],
    wanted: Wanted,
    reads: &Reads<'_>,
    (group, consumer): (&[u8], &[u8]),
) -> Result<bool> {
    let now = db.now() as i64;
    let count = reads.count;
    let read = db.update_existing(key, |stream: &mut Stream, _| {
        let read = stream.change_group(group, |entries, group| {
            let (owner, is_new) = group.owner_or_new(consumer, now);
            group.see(owner, now);
            let served = match wanted {
                Wanted::Pending(after) => {
                    write_key(reply, key);
                    write_pending(reply, entries, group, (owner, after, count), now);
                    true
                }
                Wanted::New if entries.last_existing().is_some_and(|last| last > group.last()) => {
                    write_key(reply, key);
                    let first = group.last().next().unwrap_or(StreamId::MAX);
                    let owner = (!reads.leaves_no_pending).then_some(owner);
                    let (start, mut len) = (reply.len(), 0);
                    for entry in entries.range(first, StreamId::MAX).take(unlimited(count)) {
                        group.deliver(entries, entry.id, owner, now);
                        write_entry(reply, &entry);
                        len += 1;
                    }
                    reply.array_since(start, len);
                    true
                }
                Wanted::New => false,
            };
            (served, is_new)
        });
        let (served, is_new) = read.unwrap_or((false, false));
        Change::when(served || is_new, (served, is_new))
    })?;
    let (served, is_new) = read.unwrap_or((false, false));
    if is_new {
        db.tell(KeyEvent::stream("xgroup-createconsumer"), key);
    }
    if served || is_new {
        record(db, key, wanted, reads, (group, consumer));
    }
    Ok(served)
}

/// Writes the consumer's pending entries after an id, and counts another delivery of each. Of one that was deleted only
/// the id is left.
fn write_pending(
    reply: &mut Reply,
    entries: &StreamEntries,
    group: &mut Group,
    (owner, after, count): (dormouse_types::stream::Owner, StreamId, usize),
    now: i64,
) {
    let (start, mut len, mut next) = (reply.len(), 0, after.next());
    while len < unlimited(count)
        && let Some(from) = next
        && let Some(id) = group.consumer(owner).and_then(|consumer| consumer.pending_from(from).next())
    {
        (len, next) = (len + 1, id.next());
        match entries.get(id) {
            Some(entry) => {
                group.deliver_again(id, now);
                write_entry(reply, &entry);
            }
            None => {
                reply.array(2);
                write_id(reply, id);
                reply.null_array();
            }
        }
    }
    reply.array_since(start, len);
}

/// Records the read of one stream.
fn record(db: &mut Keyspace<'_>, key: &[u8], wanted: Wanted, reads: &Reads<'_>, (group, consumer): (&[u8], &[u8])) {
    if !db.records_by_key() {
        return;
    }
    let (count, id) = (
        reads.count.to_string(),
        match wanted {
            Wanted::New => ">".to_owned(),
            Wanted::Pending(after) => after.to_string(),
        },
    );
    let mut words = SmallVec::<[&[u8]; 10]>::new();
    words.extend_from_slice(&[b"XREADGROUP", b"GROUP", group, consumer, b"COUNT", count.as_bytes()]);
    if reads.leaves_no_pending {
        words.push(b"NOACK");
    }
    words.extend_from_slice(&[b"STREAMS", key, id.as_bytes()]);
    db.effect(key, &words);
}

pub fn cost_of_xread(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Ok((reads,)) = parse::<(Reads<'_>,)>(request, 1) else { return 0 };
    let streams = reads.keys.iter().zip(reads.ids.iter()).map(|(key, word)| {
        let Some(stream) = db.peek_collection::<Stream>(key) else { return 0 };
        let after = match word {
            b"$" | b"+" => stream.entries().last,
            word => strict_id(word, 0).unwrap_or(StreamId::MAX),
        };
        look(stream) + cost_after(db, key, stream, after, reads.count)
    });
    streams.fold(0, usize::saturating_add)
}

/// The cost of up to `count` entries after an id.
fn cost_after(db: &Keyspace<'_>, key: &[u8], stream: &Stream, after: StreamId, count: usize) -> usize {
    let len = stream.entries().len_at_most(after, StreamId::MAX).min(unlimited(count));
    cost::some(db, key, len)
}

pub fn cost_of_xreadgroup(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let read = |db: &Keyspace<'_>, key: &[u8], stream: &Stream, group: &Group, wanted, reads: &Reads<'_>| {
        let entries = match wanted {
            Wanted::New => (2 * cost_after(db, key, stream, group.last(), reads.count)).saturating_add(look(stream)),
            // Each of them is looked for in its node.
            Wanted::Pending(_) => {
                let pending = group.pending_len().min(unlimited(reads.count));
                cost::some(db, key, pending.saturating_mul(look(stream)))
            }
        };
        entries.saturating_add(group.consumer_len() / CONSUMERS_PER_ELEMENT)
    };
    each_read(db, request, read).saturating_add(NODE_COST)
}

/// Memory for the entries that become pending, and for a consumer that is new.
pub fn growth_of_xreadgroup(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    each_read(db, request, |_, _, stream, group, wanted, reads| {
        let entries = stream.entries();
        let becomes_pending = matches!(wanted, Wanted::New) && !reads.leaves_no_pending && entries.last > group.last();
        let len = if becomes_pending { entries.len_at_most(group.last(), StreamId::MAX) } else { 0 };
        let pending = len.min(unlimited(reads.count)).saturating_mul(PENDING_BYTES);
        pending.saturating_add(reads.group.map_or(0, |(_, consumer)| growth_of_consumer(group, consumer)))
    })
}

fn each_read(
    db: &Keyspace<'_>,
    request: Request<'_>,
    read: impl Fn(&Keyspace<'_>, &[u8], &Stream, &Group, Wanted, &Reads<'_>) -> usize,
) -> usize {
    let Ok((GroupReads(reads),)) = parse::<(GroupReads<'_>,)>(request, 1) else { return 0 };
    let Some((group, _)) = reads.group else { return 0 };
    let streams = reads.keys.iter().zip(reads.ids.iter()).map(|(key, word)| {
        let Some(stream) = db.peek_collection::<Stream>(key) else { return 0 };
        match (stream.group(group), wanted_of(word)) {
            (Some(group), Ok(wanted)) => read(db, key, stream, group, wanted, &reads),
            _ => 0,
        }
    });
    streams.fold(0, usize::saturating_add)
}
