//! `XREAD` and `XREADGROUP`: the entries of several streams after an id each.

use dormouse_protocol::{OwnedRequest, Reply, Request};
use dormouse_types::stream::{DueClaim, Group, Pending, StreamEntries, StreamEntry};
use dormouse_types::{Stream, StreamId};
use smallvec::SmallVec;

use super::groups::growth_of_consumer;
use super::ids::{strict_id, unlimited, write_entry, write_fields, write_id};
use super::pending::record_due;
use super::{CONSUMERS_PER_ELEMENT, NODE_COST, PENDING_BYTES, look};
use crate::commands::args::{Args, Argument, Rest, integer, parse};
use crate::commands::blocking::{Timeout, wait_or};
use crate::commands::cost;
use crate::error::{Error, Result, repeated};
use crate::keyspace::changes::{EventClass, KeyEvent};
use crate::keyspace::{Change, Keyspace, Offer, Wait};

/// Memory that a pending entry takes in the order of those that may be claimed.
const DUE_BYTES: usize = 40;
/// Memory that recording a claimed entry takes.
const CLAIMED_BYTES: usize = 128;

/// `[COUNT count] [MAXCOUNT count] [MAXSIZE bytes] [BLOCK milliseconds] [GROUP group consumer] [NOACK] [CLAIM min-idle-ms] STREAMS
/// key [key ...] id [id ...]`
pub struct Reads<'a> {
    /// Entries of one stream, and of all; 0: no limit.
    count: usize,
    count_max: usize,
    /// Bytes of the reply after which no further entry begins; 0: no limit.
    bytes_max: usize,
    timeout: Option<Timeout>,
    group: Option<(&'a [u8], &'a [u8])>,
    leaves_no_pending: bool,
    /// Entries that have been pending for so many milliseconds are claimed first.
    claims_after_ms: Option<u64>,
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
        let positive = |word: &[u8], option: &str| {
            let number = usize::try_from(integer(word)?).ok().filter(|number| *number > 0);
            number.ok_or_else(|| Error::Text(format!("ERR {option} must be a positive integer").into()))
        };
        let (mut count, mut count_max, mut bytes_max) = (0, 0, 0);
        let (mut timeout, mut group, mut leaves_no_pending, mut claims_after_ms) = (None, None, false, None);
        loop {
            let more = args.len().saturating_sub(1);
            if more > 0 && args.word("CLAIM") {
                if !is_group {
                    return Err(only("CLAIM"));
                }
                let idle = integer(args.bytes()?);
                let idle = idle.map_err(|_| Error::text("ERR min-idle-time is not an integer or out of range"))?;
                let idle = u64::try_from(idle);
                claims_after_ms = Some(idle.map_err(|_| Error::text("ERR min-idle-time must be a positive integer"))?);
            } else if more > 0 && args.word("MAXCOUNT") {
                count_max = positive(args.bytes()?, "MAXCOUNT")?;
            } else if more > 0 && args.word("MAXSIZE") {
                bytes_max = positive(args.bytes()?, "MAXSIZE")?;
            } else if more > 0 && args.word("BLOCK") {
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
        if count_max > 0 && count_max < count {
            return Err(Error::text("ERR MAXCOUNT must be greater than or equal to COUNT"));
        }
        let (keys, ids) = streams.split_at(streams.len() / 2).ok_or(Error::Syntax)?;
        Ok(Reads { count, count_max, bytes_max, timeout, group, leaves_no_pending, claims_after_ms, keys, ids })
    }

    /// Whether the reply has bounds beyond that of each stream.
    fn is_bounded(&self) -> bool {
        self.count_max > 0 || self.bytes_max > 0
    }

    /// Entries of one stream, at most; 0: no limit.
    fn most(&self) -> usize {
        match (self.count, self.count_max) {
            (0, most) | (most, 0) => most,
            (count, most) => count.min(most),
        }
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
        if self.ids.iter().all(|id| id != b"$") {
            return None;
        }
        let numbers = [("COUNT", self.count), ("MAXCOUNT", self.count_max), ("MAXSIZE", self.bytes_max)];
        let numbers = numbers.map(|(name, number)| (name, number, number.to_string()));
        let ids: Vec<String> = begins.iter().map(StreamId::to_string).collect();
        let mut words = vec![&b"XREAD"[..], b"BLOCK", b"0"];
        for (name, number, text) in &numbers {
            if *number > 0 {
                words.extend([name.as_bytes(), text.as_bytes()]);
            }
        }
        words.push(b"STREAMS");
        words.extend(self.keys.iter());
        for (word, id) in self.ids.iter().zip(&ids) {
            // The last entry is that of the moment at which there is one.
            words.push(if word == b"+" { word } else { id.as_bytes() });
        }
        Some(OwnedRequest::from_args(&words))
    }
}

/// How much of a reply there is, and how much there may be.
struct Room {
    /// Where the reply begins.
    start: usize,
    entries: usize,
    count_max: usize,
    bytes_max: usize,
}

impl Room {
    fn new(reply: &Reply, reads: &Reads<'_>) -> Self {
        Room { start: reply.len(), entries: 0, count_max: unlimited(reads.count_max), bytes_max: reads.bytes_max }
    }

    /// Whether no further entry may begin. The first one always may.
    fn is_full(&self, reply: &Reply) -> bool {
        let written = reply.len() - self.start;
        self.entries >= self.count_max || self.bytes_max > 0 && self.entries > 0 && written >= self.bytes_max
    }

    /// Writes up to `count` entries as an array; 0: all of them. Returns how many.
    fn write<'s>(
        &mut self,
        reply: &mut Reply,
        entries: impl Iterator<Item = StreamEntry<'s>>,
        count: usize,
        mut write: impl FnMut(&mut Reply, &StreamEntry<'s>),
    ) -> usize {
        let (start, mut len) = (reply.len(), 0);
        for entry in entries.take(unlimited(count)) {
            if self.is_full(reply) {
                break;
            }
            write(reply, &entry);
            (len, self.entries) = (len + 1, self.entries + 1);
        }
        reply.array_since(start, len);
        len
    }
}

/// `XREAD [COUNT count] [MAXCOUNT count] [MAXSIZE bytes] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]`
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
            b"+" => entries.and_then(|entries| entries.last_existing()?.previous()).unwrap_or_default(),
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
    let (mut room, mut streams) = (Room::new(reply, &reads), 0);
    for &(key, first) in &served {
        let Some(stream) = db.peek_collection::<Stream>(key) else { continue };
        if room.is_full(reply) {
            break;
        }
        write_key(reply, key);
        room.write(reply, stream.entries().range(first, StreamId::MAX), reads.count, write_entry);
        streams += 1;
    }
    write_head(reply, room.start, streams);
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

/// `XREADGROUP GROUP group consumer [COUNT count] [MAXCOUNT count] [MAXSIZE bytes] [BLOCK milliseconds] [NOACK]
/// [CLAIM min-idle-ms] STREAMS key [key ...] id [id ...]`
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
    let (mut room, mut streams) = (Room::new(reply, &reads), 0);
    for (key, wanted) in &wanted {
        if room.is_full(reply) {
            break;
        }
        // A waiting consumer leaves no trace until there is something for it: it may have been deleted meanwhile.
        if db.has_waited() && !has_new(db, key, group) && !has_due(db, key, group, &reads) {
            continue;
        }
        let read = read_one(db, reply, key, *wanted, &reads, (group, consumer), &mut room)?;
        streams += usize::from(read);
    }
    if streams == 0 {
        let due = wanted.iter().filter_map(|(key, _)| due_at(db, key, group, &reads));
        let look_at_ms = due.min();
        return nothing(db, reply, timeout, Wait { look_at_ms, ..Wait::new(Offer::Group, None) });
    }
    write_head(reply, room.start, streams);
    Ok(())
}

/// Whether a stream has entries that its group has not been given.
fn has_new(db: &Keyspace<'_>, key: &[u8], group: &[u8]) -> bool {
    db.peek_collection::<Stream>(key).is_some_and(|stream| {
        let last = stream.entries().last_existing();
        stream.group(group).zip(last).is_some_and(|(group, last)| last > group.last())
    })
}

/// The pending entry that a consumer of the group may claim first, if it asks for any.
fn first_due(db: &mut Keyspace<'_>, key: &[u8], group: &[u8], reads: &Reads<'_>) -> Option<(Pending, u64)> {
    let idle_min_ms = reads.claims_after_ms?;
    db.peek_collection::<Stream>(key)?.group(group)?;
    let first = db.update_existing(key, |stream: &mut Stream, _| {
        Change::No(stream.change_group(group, |entries, group| group.first_due(entries)).flatten())
    });
    Some((first.ok().flatten().flatten()?, idle_min_ms))
}

/// Whether an entry may be claimed now.
fn has_due(db: &mut Keyspace<'_>, key: &[u8], group: &[u8], reads: &Reads<'_>) -> bool {
    let now = db.now() as i64;
    first_due(db, key, group, reads)
        .is_some_and(|(pending, idle_min_ms)| pending.idle_ms(now).cast_unsigned() >= idle_min_ms)
}

/// Unix milliseconds at which the first entry may be claimed, if nothing changes.
fn due_at(db: &mut Keyspace<'_>, key: &[u8], group: &[u8], reads: &Reads<'_>) -> Option<u64> {
    let (pending, idle_min_ms) = first_due(db, key, group, reads)?;
    Some(pending.delivered_ms.max(0).cast_unsigned().saturating_add(idle_min_ms))
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
    room: &mut Room,
) -> Result<bool> {
    let now = db.now() as i64;
    let (mut claimed, mut len) = (Vec::new(), 0);
    let read = db.update_existing(key, |stream: &mut Stream, _| {
        let read = stream.change_group(group, |entries, group| {
            let (owner, is_new) = group.owner_or_new(consumer, now);
            group.see(owner, now);
            let served = match wanted {
                Wanted::Pending(after) => {
                    write_key(reply, key);
                    len = write_pending(reply, entries, group, (owner, after, reads.count), now, room);
                    true
                }
                Wanted::New => {
                    let claim = reads.claims_after_ms.map(|idle_min_ms| DueClaim { owner, now_ms: now, idle_min_ms });
                    let is_idle =
                        |claim: DueClaim, first: Pending| first.idle_ms(now).cast_unsigned() >= claim.idle_min_ms;
                    let claim =
                        claim.filter(|claim| group.first_due(entries).is_some_and(|first| is_idle(*claim, first)));
                    let has_new = entries.last_existing().is_some_and(|last| last > group.last());
                    if claim.is_some() || has_new {
                        write_key(reply, key);
                        let owner = (!reads.leaves_no_pending).then_some(owner);
                        len = write_new(reply, entries, group, reads, (claim, owner, now), room, &mut claimed);
                    }
                    claim.is_some() || has_new
                }
            };
            (served, is_new)
        });
        let (served, is_new) = read.unwrap_or((false, false));
        Change::beside_when(served || is_new, (served, is_new))
    })?;
    let (served, is_new) = read.unwrap_or((false, false));
    if is_new {
        db.tell(KeyEvent::stream("xgroup-createconsumer"), key);
    }
    if !claimed.is_empty() {
        record_due(db, key, (group, consumer), &claimed);
    }
    if reads.claims_after_ms.is_none() && !reads.is_bounded() {
        if served || is_new {
            record(db, key, (wanted, reads.count), reads, (group, consumer));
        }
    } else if len > 0 {
        record(db, key, (wanted, len), reads, (group, consumer));
    } else if is_new && claimed.is_empty() {
        db.effect(key, &[b"XGROUP", b"CREATECONSUMER", key, group, consumer]);
    }
    Ok(served)
}

/// Writes entries that are due to be claimed, and then new ones. Returns how many of the latter.
fn write_new(
    reply: &mut Reply,
    entries: &StreamEntries,
    group: &mut Group,
    reads: &Reads<'_>,
    (claim, owner, now): (Option<DueClaim>, Option<dormouse_types::stream::Owner>, i64),
    room: &mut Room,
    claimed: &mut Vec<StreamId>,
) -> usize {
    let (start, count) = (reply.len(), unlimited(reads.count));
    if let Some(claim) = claim
        && !room.is_full(reply)
    {
        group.claim_due(entries, claim, |entry, before| {
            write_delivered(reply, entry, Some((before.idle_ms(now), before.deliveries)));
            room.entries += 1;
            claimed.push(entry.id);
            claimed.len() < count && !room.is_full(reply)
        });
    }
    let shown = reads.claims_after_ms.map(|_| (0, 0));
    let first = group.last().next().unwrap_or(StreamId::MAX);
    let mut len = 0;
    for entry in entries.range(first, StreamId::MAX).take(count - claimed.len()) {
        if room.is_full(reply) || group.last() == StreamId::MAX {
            break;
        }
        group.deliver(entries, entry.id, owner, now);
        write_delivered(reply, &entry, shown);
        (len, room.entries) = (len + 1, room.entries + 1);
    }
    reply.array_since(start, claimed.len() + len);
    len
}

/// Writes an entry; where a consumer claims, with its idle time and its deliveries before this one.
fn write_delivered(reply: &mut Reply, entry: &StreamEntry<'_>, before: Option<(i64, u64)>) {
    let Some((idle_ms, deliveries)) = before else { return write_entry(reply, entry) };
    reply.array(4);
    write_id(reply, entry.id);
    write_fields(reply, entry);
    reply.integer(idle_ms);
    reply.integer(deliveries as i64);
}

/// Writes the consumer's pending entries after an id, and counts another delivery of each. Of one that was deleted only
/// the id is left. Returns how many.
fn write_pending(
    reply: &mut Reply,
    entries: &StreamEntries,
    group: &mut Group,
    (owner, after, count): (dormouse_types::stream::Owner, StreamId, usize),
    now: i64,
    room: &mut Room,
) -> usize {
    let (start, mut len, mut next) = (reply.len(), 0, after.next());
    while len < unlimited(count)
        && !room.is_full(reply)
        && let Some(from) = next
        && let Some(id) = group.consumer(owner).and_then(|consumer| consumer.pending_from(from).next())
    {
        (len, room.entries, next) = (len + 1, room.entries + 1, id.next());
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
    len
}

/// Records the read of up to `count` entries of one stream; 0: all of them.
fn record(
    db: &mut Keyspace<'_>,
    key: &[u8],
    (wanted, count): (Wanted, usize),
    reads: &Reads<'_>,
    (group, consumer): (&[u8], &[u8]),
) {
    if !db.records_by_key() {
        return;
    }
    let (count, id) = (
        count.to_string(),
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
            b"$" => stream.entries().last,
            b"+" => return look(stream),
            word => strict_id(word, 0).unwrap_or(StreamId::MAX),
        };
        look(stream) + cost_after(db, key, stream, after, reads.most())
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
            Wanted::New => {
                let new = 2 * cost_after(db, key, stream, group.last(), reads.most());
                new.saturating_add(look(stream)).saturating_add(cost_of_claims(db, key, stream, group, reads))
            }
            // Each of them is looked for in its node.
            Wanted::Pending(_) => {
                let pending = group.pending_len().min(unlimited(reads.most()));
                cost::some(db, key, pending.saturating_mul(look(stream)))
            }
        };
        entries.saturating_add(group.consumer_len() / CONSUMERS_PER_ELEMENT)
    };
    each_read(db, request, read).saturating_add(NODE_COST)
}

/// The cost of entries that may be claimed. All of those that do not exist any more may be passed over, once.
fn cost_of_claims(db: &Keyspace<'_>, key: &[u8], stream: &Stream, group: &Group, reads: &Reads<'_>) -> usize {
    if reads.claims_after_ms.is_none() {
        return 0;
    }
    let (due, is_made) = group.due_len();
    let head = stream.entries().head();
    let first = group.pending_bounds().map(|(first, _)| first);
    let all_exist = first.is_some_and(|first| first >= head.first && first > head.max_deleted);
    let seen = if all_exist { due.min(unlimited(reads.most())) } else { due };
    let made = if is_made { due / 4 } else { 0 };
    cost::some(db, key, seen.saturating_mul(look(stream))).saturating_add(made)
}

/// Memory for the ids of claimed entries, until they are recorded.
pub fn need_of_xreadgroup(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    each_read(db, request, |_, _, _, group, wanted, reads| match (wanted, reads.claims_after_ms) {
        (Wanted::New, Some(_)) => group.pending_len().min(unlimited(reads.most())).saturating_mul(CLAIMED_BYTES),
        _ => 0,
    })
}

/// Memory for the entries that become pending, and for a consumer that is new.
pub fn growth_of_xreadgroup(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    each_read(db, request, |_, _, stream, group, wanted, reads| {
        let entries = stream.entries();
        let becomes_pending = matches!(wanted, Wanted::New) && !reads.leaves_no_pending && entries.last > group.last();
        let len = if becomes_pending { entries.len_at_most(group.last(), StreamId::MAX) } else { 0 };
        let pending = len.min(unlimited(reads.most())).saturating_mul(PENDING_BYTES);
        let claimed = match (wanted, reads.claims_after_ms) {
            (Wanted::New, Some(_)) => {
                let (due, is_made) = group.due_len();
                due.min(unlimited(reads.most())) * size_of::<StreamId>() + if is_made { due * DUE_BYTES } else { 0 }
            }
            _ => 0,
        };
        pending
            .saturating_add(claimed)
            .saturating_add(reads.group.map_or(0, |(_, consumer)| growth_of_consumer(group, consumer)))
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
