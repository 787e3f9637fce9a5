//! `XREAD` and `XREADGROUP`: the entries of several streams after an id each.

use dormouse_protocol::{OwnedRequest, Reply, Request};
use dormouse_types::stream::{Group, StreamEntries};
use dormouse_types::{Stream, StreamId};
use smallvec::SmallVec;

use super::groups::growth_of_consumer;
use super::ids::{strict_id, unlimited, write_entries, write_entry, write_id};
use super::{CONSUMERS_PER_ELEMENT, NODE_COST, look};
use crate::commands::args::{Args, Argument, Rest, integer, parse};
use crate::commands::blocking::{Timeout, wait_or};
use crate::commands::cost;
use crate::error::{Error, Result, repeated};
use crate::keyspace::changes::{EventClass, KeyEvent};
use crate::keyspace::{Change, Keyspace, Offer, Wait};

/// Memory that a pending entry takes: its record, and its id among its consumer's.
pub const PENDING_BYTES: usize = 80;

/// `[COUNT count] [BLOCK milliseconds] [GROUP group consumer] [NOACK] STREAMS key [key ...] id [id ...]`
pub struct Reads<'a> {
    count: usize,
    timeout: Option<Timeout>,
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
        let (mut count, mut timeout, mut group, mut leaves_no_pending) = (0, None, None, false);
        loop {
            let more = args.len().saturating_sub(1);
            if more > 0 && args.word("BLOCK") {
                timeout = Some(Timeout::milliseconds(args.bytes()?)?);
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
        Ok(Reads { count, timeout, group, leaves_no_pending, keys, ids })
    }

    /// For how long it waits, in milliseconds; `None`: not at all.
    fn timeout(&self, db: &Keyspace<'_>) -> Result<Option<Option<u64>>> {
        if self.timeout.is_some() && db.is_called_by_script() {
            let name = if self.group.is_some() { "xreadgroup" } else { "xread" };
            let text = format!("ERR {name} command is not allowed with BLOCK option from scripts");
            return Err(Error::Text(text.into()));
        }
        self.timeout.map(|timeout| timeout.after(db.now())).transpose()
    }

    /// The request of a read that waits for what follows these ids, where the client's ids depend on the time.
    fn since(&self, begins: &[StreamId]) -> Option<OwnedRequest> {
        if self.ids.iter().all(|id| !matches!(id, b"$" | b"+")) {
            return None;
        }
        let (count, ids) = (self.count.to_string(), begins.iter().map(StreamId::to_string).collect::<Vec<_>>());
        let head: [&[u8]; 6] = [b"XREAD", b"COUNT", count.as_bytes(), b"BLOCK", b"0", b"STREAMS"];
        let mut words = head.to_vec();
        words.extend(self.keys.iter());
        words.extend(ids.iter().map(String::as_bytes));
        Some(OwnedRequest::from_args(&words))
    }
}

/// `XREAD [COUNT count] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]`
pub fn xread(db: &mut Keyspace<'_>, reply: &mut Reply, (reads,): (Reads<'_>,)) -> Result<()> {
    // All streams are looked at before the first is read.
    let timeout = reads.timeout(db)?;
    let (mut served, mut begins) = (SmallVec::<[(&[u8], StreamId); 4]>::new(), SmallVec::<[StreamId; 4]>::new());
    for (key, word) in reads.keys.iter().zip(reads.ids.iter()) {
        if !db.looks_at(key) {
            continue;
        }
        if db.has_waited() && db.peek_collection::<Stream>(key).is_none() {
            continue;
        }
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
        begins.push(after);
        if entries.and_then(StreamEntries::last_existing).is_some_and(|last| last > after) {
            served.push((key, after.next().unwrap_or(StreamId::MAX)));
        }
    }
    if !db.has_waited() && db.shared().notices.wants(EventClass::KeyMiss) {
        // Redis looks for each key twice, and tells so.
        for key in reads.keys.iter().filter(|key| db.looks_at(key)).collect::<Vec<_>>() {
            if db.peek_collection::<Stream>(key).is_none() {
                db.tell_missed(key);
            }
        }
    }
    if served.is_empty() {
        // A waiter's ids are numbers already.
        let again = (!db.has_waited()).then(|| reads.since(&begins));
        return nothing(db, reply, timeout, Wait { again: again.flatten(), ..Wait::new(Offer::Stream, None) });
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

/// The last step of a read that finds nothing. `timeout`: `None` if it does not wait.
fn nothing(db: &mut Keyspace<'_>, reply: &mut Reply, timeout: Option<Option<u64>>, wait: Wait) -> Result<()> {
    match timeout {
        Some(timeout_ms) => wait_or(db, reply, Wait { timeout_ms, ..wait }, Reply::null_array),
        None => {
            reply.null_array();
            Ok(())
        }
    }
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
    let timeout = reads.timeout(db)?;
    let mut wanted = SmallVec::<[(&[u8], Wanted); 4]>::new();
    for (key, word) in reads.keys.iter().zip(reads.ids.iter()) {
        if !db.looks_at(key) {
            continue;
        }
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
        // A waiting consumer leaves no trace until there is something for it: it may have been deleted meanwhile.
        if db.has_waited() && !has_new(db, key, group) {
            continue;
        }
        let read = read_one(db, reply, key, wanted, &reads, (group, consumer))?;
        streams += usize::from(read);
    }
    if streams == 0 {
        return nothing(db, reply, timeout, Wait::new(Offer::Group, None));
    }
    write_head(reply, start, streams);
    Ok(())
}

/// Whether a stream has entries that its group has not been given.
fn has_new(db: &Keyspace<'_>, key: &[u8], group: &[u8]) -> bool {
    db.peek_collection::<Stream>(key).is_some_and(|stream| {
        let last = stream.entries().last_existing();
        stream.group(group).zip(last).is_some_and(|(group, last)| last > group.last())
    })
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
