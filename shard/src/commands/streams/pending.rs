//! Pending entries: acknowledged, listed, and claimed by other consumers.

use dormouse_protocol::{Reply, Request};
use dormouse_types::stream::{Claim, Claimed, Group, StreamEntries};
use dormouse_types::{Stream, StreamId};
use smallvec::SmallVec;

use super::groups::{change, growth_of_consumer};
use super::ids::{ids, range_end, range_start, strict_id, write_entry, write_id};
use super::{CONSUMERS_PER_ELEMENT, PENDING_BYTES, event, look};
use crate::commands::args::{Args, Argument, Rest, integer, parse};
use crate::error::{Error, Result, repeated};
use crate::keyspace::{Change, Keyspace};

/// `XAUTOCLAIM` looks at so many pending entries for each that it may claim.
const ATTEMPTS: usize = 10;

pub fn no_group(key: &[u8], group: &[u8]) -> Error {
    let (key, group) = (repeated(key), repeated(group));
    Error::Text(format!("NOGROUP No such key '{key}' or consumer group '{group}'").into())
}

fn has_group(db: &mut Keyspace<'_>, key: &[u8], group: &[u8]) -> Result<bool> {
    Ok(db.read::<Stream>(key)?.is_some_and(|stream| stream.group(group).is_some()))
}

/// `XACK key group id [id ...]`
///
/// The ids are read when the group has been found, as in Redis.
pub fn xack(db: &mut Keyspace<'_>, reply: &mut Reply, (key, group, words): (&[u8], &[u8], Rest<'_>)) -> Result<()> {
    if !has_group(db, key, group)? {
        reply.integer(0);
        return Ok(());
    }
    let ids = ids(words.iter())?;
    let acknowledged = change(db, key, group, |group| {
        let acknowledged = ids.iter().filter(|id| group.acknowledge(**id)).count();
        Change::beside_when(acknowledged > 0, acknowledged)
    })?;
    reply.integer(acknowledged.unwrap_or(0) as i64);
    Ok(())
}

/// `[[IDLE min-idle-ms] start end count [consumer]]`
pub struct Listing<'a> {
    idle_min_ms: i64,
    start: StreamId,
    end: StreamId,
    count: usize,
    consumer: Option<&'a [u8]>,
}

/// The arguments of `XPENDING` after the group; `None`: a summary.
pub struct Listed<'a>(Option<Listing<'a>>);

impl<'a> Argument<'a> for Listed<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        match args.len() {
            0 => return Ok(Listed(None)),
            3..=6 => {}
            _ => return Err(Error::Syntax),
        }
        let mut idle_min_ms = 0;
        if args.word("IDLE") {
            idle_min_ms = args.take()?;
            if args.len() < 3 {
                return Err(Error::Syntax);
            }
        }
        let (start, end) = (args.bytes()?, args.bytes()?);
        let count = usize::try_from(integer(args.bytes()?)?).unwrap_or(0);
        let (start, end) = (range_start(start)?, range_end(end)?);
        let consumer = args.take()?;
        // Redis ignores a word too many.
        if !args.is_empty() {
            args.skip();
        }
        Ok(Listed(Some(Listing { idle_min_ms, start, end, count, consumer })))
    }
}

/// `XPENDING key group [[IDLE min-idle-ms] start end count [consumer]]`
pub fn xpending(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, name, Listed(listing)): (&[u8], &[u8], Listed<'_>),
) -> Result<()> {
    let now = db.now() as i64;
    let group = db.read::<Stream>(key)?.and_then(|stream| stream.group(name));
    let group = group.ok_or_else(|| no_group(key, name))?;
    match listing {
        None => write_summary(reply, group),
        Some(listing) => write_listing(reply, group, &listing, now),
    }
    Ok(())
}

fn write_summary(reply: &mut Reply, group: &Group) {
    reply.array(4);
    reply.integer(group.pending_len() as i64);
    let Some((first, last)) = group.pending_bounds() else {
        reply.null();
        reply.null();
        reply.null_array();
        return;
    };
    write_id(reply, first);
    write_id(reply, last);
    let (start, mut len) = (reply.len(), 0);
    for (_, consumer) in group.consumers().filter(|(_, consumer)| consumer.pending_len() > 0) {
        reply.array(2);
        reply.bulk(consumer.name());
        reply.bulk_integer(consumer.pending_len() as i64);
        len += 1;
    }
    reply.array_since(start, len);
}

fn write_listing(reply: &mut Reply, group: &Group, listing: &Listing<'_>, now: i64) {
    let owner = listing.consumer.map(|name| group.owner(name));
    let consumer = match owner {
        None => None,
        Some(owner) => match owner.and_then(|owner| group.consumer(owner)) {
            Some(consumer) => Some(consumer),
            None => {
                reply.array(0);
                return;
            }
        },
    };
    let (start, mut len) = (reply.len(), 0);
    let of_consumer = consumer.map(|consumer| consumer.pending_from(listing.start));
    let of_consumer = of_consumer.into_iter().flatten().filter_map(|id| group.pending(id));
    let of_group = consumer.is_none().then(|| group.pending_from(listing.start));
    for pending in of_consumer.chain(of_group.into_iter().flatten()) {
        if len == listing.count || pending.id > listing.end {
            break;
        }
        let (is_released, idle) = (pending.is_released(), pending.idle_ms(now));
        if listing.idle_min_ms != 0 && !is_released && idle < listing.idle_min_ms {
            continue;
        }
        reply.array(4);
        write_id(reply, pending.id);
        reply.bulk(group.consumer(pending.owner).map_or(b"", |consumer| consumer.name()));
        reply.integer(if is_released { -1 } else { idle.max(0) });
        reply.integer(pending.deliveries as i64);
        len += 1;
    }
    reply.array_since(start, len);
}

pub fn cost_of_xpending(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let group = db.peek_collection::<Stream>(request.arg(1)).and_then(|stream| stream.group(request.arg(2)));
    let Some(group) = group else { return 0 };
    match parse::<(&[u8], &[u8], Listed<'_>)>(request, 1) {
        Ok((_, _, Listed(None))) => group.consumer_len(),
        Ok((_, _, Listed(Some(listing)))) if listing.idle_min_ms == 0 => group.pending_len().min(listing.count),
        Ok(_) => group.pending_len(),
        Err(_) => 0,
    }
}

/// The options of `XCLAIM` after the ids.
#[derive(Debug, Default)]
struct ClaimOptions {
    idle_ms: Option<i64>,
    time_ms: Option<i64>,
    deliveries: Option<u64>,
    last: StreamId,
    is_forced: bool,
    only_ids: bool,
}

fn claim_options<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Result<ClaimOptions> {
    fn number(word: &[u8], option: &str) -> Result<i64> {
        integer(word).map_err(|_| Error::Text(format!("ERR Invalid {option} option argument for XCLAIM").into()))
    }
    let mut options = ClaimOptions::default();
    while let Some(word) = words.next() {
        let upper = word.to_ascii_uppercase();
        match &upper[..] {
            b"FORCE" => options.is_forced = true,
            b"JUSTID" => options.only_ids = true,
            b"IDLE" | b"TIME" | b"RETRYCOUNT" | b"LASTID" => {
                let Some(value) = words.next() else { return Err(unrecognized(word)) };
                match &upper[..] {
                    // Of the two, the last one counts.
                    b"IDLE" => (options.idle_ms, options.time_ms) = (Some(number(value, "IDLE")?), None),
                    b"TIME" => (options.idle_ms, options.time_ms) = (None, Some(number(value, "TIME")?)),
                    b"RETRYCOUNT" => options.deliveries = u64::try_from(number(value, "RETRYCOUNT")?).ok(),
                    _ => options.last = strict_id(value, 0)?,
                }
            }
            _ => return Err(unrecognized(word)),
        }
    }
    Ok(options)
}

fn unrecognized(word: &[u8]) -> Error {
    Error::Text(format!("ERR Unrecognized XCLAIM option '{}'", repeated(word)).into())
}

/// `XCLAIM key group consumer min-idle-ms id [id ...] [IDLE ms] [TIME unix-ms] [RETRYCOUNT count] [FORCE] [JUSTID]
/// [LASTID id]`
///
/// Everything is read when the group has been found, as in Redis.
pub fn xclaim(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, name, consumer, idle, words): (&[u8], &[u8], &[u8], &[u8], Rest<'_>),
) -> Result<()> {
    if !has_group(db, key, name)? {
        return Err(no_group(key, name));
    }
    let idle = integer(idle).map_err(|_| Error::text("ERR Invalid min-idle-time argument for XCLAIM"))?;
    let ids: SmallVec<[StreamId; 8]> = words.iter().map_while(|word| strict_id(word, 0).ok()).collect();
    let options = claim_options(words.iter().skip(ids.len()))?;
    let now = db.now() as i64;
    // A time that makes no sense is the present one; -1 is that of no option in Redis.
    let delivered_ms = options.time_ms.or(options.idle_ms.map(|idle| now.wrapping_sub(idle)));
    let delivered_ms = delivered_ms.filter(|at| (0..=now).contains(at)).unwrap_or(now);
    let mut touched = SmallVec::<[StreamId; 8]>::new();
    let mut changed = false;
    let is_new = claim_with(db, key, name, consumer, |entries, group, owner| {
        changed = group.raise_last(options.last);
        let claim = Claim {
            owner,
            now_ms: now,
            idle_min_ms: idle.max(0),
            delivered_ms,
            deliveries: options.deliveries,
            counts: !options.only_ids,
            is_forced: options.is_forced,
        };
        let (start, mut len) = (reply.len(), 0);
        for id in &ids {
            match group.claim(entries, *id, &claim) {
                Claimed::Taken => {
                    write_claimed(reply, entries, *id, options.only_ids);
                    len += 1;
                    touched.push(*id);
                }
                Claimed::Gone => touched.push(*id),
                Claimed::Not => {}
            }
        }
        reply.array_since(start, len);
        changed |= !touched.is_empty();
        changed
    })?;
    if changed || is_new {
        record_claim(db, key, (name, consumer), &touched, &ClaimOptions { time_ms: Some(delivered_ms), ..options });
    }
    tell_of_consumer(db, key, is_new);
    Ok(())
}

/// Records a claim as what it came down to: these ids are the consumer's now, or no group's any more.
fn record_claim(
    db: &mut Keyspace<'_>,
    key: &[u8],
    (group, consumer): (&[u8], &[u8]),
    ids: &[StreamId],
    options: &ClaimOptions,
) {
    if !db.records_by_key() {
        return;
    }
    if ids.is_empty() && options.last == StreamId::MIN {
        db.effect(key, &[b"XGROUP", b"CREATECONSUMER", key, group, consumer]);
        return;
    }
    // Without an id there is no XCLAIM; no entry has the least one.
    let ids = if ids.is_empty() { &[StreamId::MIN][..] } else { ids };
    let mut words: Vec<String> = ids.iter().map(StreamId::to_string).collect();
    words.extend(options.time_ms.into_iter().flat_map(|at| ["TIME".to_owned(), at.to_string()]));
    words.extend(options.deliveries.into_iter().flat_map(|count| ["RETRYCOUNT".to_owned(), count.to_string()]));
    words.extend(options.is_forced.then(|| "FORCE".to_owned()));
    words.extend(options.only_ids.then(|| "JUSTID".to_owned()));
    if options.last != StreamId::MIN {
        words.extend(["LASTID".to_owned(), options.last.to_string()]);
    }
    let words = words.iter().map(String::as_bytes);
    let words: Vec<&[u8]> = [&b"XCLAIM"[..], key, group, consumer, b"0"].into_iter().chain(words).collect();
    db.effect(key, &words);
}

/// Records that a consumer has claimed entries that were pending for long.
pub fn record_due(db: &mut Keyspace<'_>, key: &[u8], names: (&[u8], &[u8]), ids: &[StreamId]) {
    let options = ClaimOptions { time_ms: Some(db.now() as i64), ..ClaimOptions::default() };
    record_claim(db, key, names, ids, &options);
}

fn write_claimed(reply: &mut Reply, entries: &StreamEntries, id: StreamId, only_id: bool) {
    match entries.get(id) {
        Some(entry) if !only_id => write_entry(reply, &entry),
        _ => write_id(reply, id),
    }
}

/// Finds or makes the consumer, and claims for it. Returns whether it was made.
fn claim_with(
    db: &mut Keyspace<'_>,
    key: &[u8],
    name: &[u8],
    consumer: &[u8],
    claim: impl FnOnce(&StreamEntries, &mut Group, dormouse_types::stream::Owner) -> bool,
) -> Result<bool> {
    let now = db.now() as i64;
    let is_new = db.update_existing(key, |stream: &mut Stream, _| {
        let claimed = stream.change_group(name, |entries, group| {
            let (owner, is_new) = group.owner_or_new(consumer, now);
            group.see(owner, now);
            (claim(entries, group, owner), is_new)
        });
        let (changed, is_new) = claimed.unwrap_or_default();
        Change::beside_when(changed || is_new, is_new)
    })?;
    Ok(is_new.unwrap_or(false))
}

fn tell_of_consumer(db: &mut Keyspace<'_>, key: &[u8], is_new: bool) {
    if is_new {
        db.tell(event("xgroup-createconsumer"), key);
    }
}

/// `min-idle-ms start [COUNT count] [JUSTID]`
pub struct AutoClaim {
    idle_min_ms: i64,
    start: StreamId,
    count: usize,
    only_ids: bool,
}

impl<'a> Argument<'a> for AutoClaim {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        const COUNT: Error = Error::text("ERR COUNT must be > 0");
        let idle: Result<i64> = args.take();
        let idle = idle.map_err(|_| Error::text("ERR Invalid min-idle-time argument for XAUTOCLAIM"))?;
        let start = range_start(args.bytes()?)?;
        let (mut count, mut only_ids) = (100, false);
        while !args.is_empty() {
            if args.len() > 1 && args.word("COUNT") {
                let read = integer(args.bytes()?).map_err(|_| COUNT)?;
                // The limit of Redis, whose ids take 16 bytes.
                count = usize::try_from(read)
                    .ok()
                    .filter(|count| (1..=i64::MAX as usize / 16).contains(count))
                    .ok_or(COUNT)?;
            } else if args.word("JUSTID") {
                only_ids = true;
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(AutoClaim { idle_min_ms: idle.max(0), start, count, only_ids })
    }
}

/// `XAUTOCLAIM key group consumer min-idle-ms start [COUNT count] [JUSTID]`
pub fn xautoclaim(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, name, consumer, wanted): (&[u8], &[u8], &[u8], AutoClaim),
) -> Result<()> {
    if !has_group(db, key, name)? {
        return Err(no_group(key, name));
    }
    let now = db.now() as i64;
    let (mut claimed, mut gone) = (Vec::new(), Vec::new());
    let is_new = claim_with(db, key, name, consumer, |entries, group, owner| {
        let (idle_min_ms, counts) = (wanted.idle_min_ms, !wanted.only_ids);
        let claim =
            Claim { owner, now_ms: now, idle_min_ms, delivered_ms: now, deliveries: None, counts, is_forced: false };
        // Claiming leaves the others where they are, so those to look at can be listed first.
        let attempts = wanted.count.saturating_mul(ATTEMPTS);
        let (mut left, mut seen, mut next) = (wanted.count, 0, Some(wanted.start));
        let mut cursor = None;
        while let Some(from) = next {
            cursor = group.pending_from(from).next().map(|pending| pending.id);
            let Some(id) = cursor else { break };
            if seen == attempts || left == 0 {
                break;
            }
            seen += 1;
            next = id.next();
            match group.claim(entries, id, &claim) {
                Claimed::Taken => {
                    claimed.push(id);
                    left -= 1;
                }
                Claimed::Gone => {
                    gone.push(id);
                    left -= 1;
                }
                Claimed::Not => {}
            }
            cursor = None;
        }
        reply.array(3);
        write_id(reply, cursor.unwrap_or(StreamId::MIN));
        reply.array(claimed.len());
        claimed.iter().for_each(|id| write_claimed(reply, entries, *id, wanted.only_ids));
        reply.array(gone.len());
        gone.iter().for_each(|id| write_id(reply, *id));
        !(claimed.is_empty() && gone.is_empty())
    })?;
    claimed.append(&mut gone);
    if !claimed.is_empty() || is_new {
        let options = ClaimOptions { time_ms: Some(now), only_ids: wanted.only_ids, ..ClaimOptions::default() };
        record_claim(db, key, (name, consumer), &claimed, &options);
    }
    tell_of_consumer(db, key, is_new);
    Ok(())
}

/// Each entry is looked for twice: to claim it and to answer it.
pub fn cost_of_xclaim(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(stream) = db.peek_collection::<Stream>(request.arg(1)) else { return 0 };
    let consumers = stream.group(request.arg(2)).map_or(0, Group::consumer_len);
    (request.len() - 5).saturating_mul(2 * look(stream)).saturating_add(consumers / CONSUMERS_PER_ELEMENT)
}

/// Memory for the entries that become pending, and for a consumer that is new.
pub fn growth_of_xclaim(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let is_forced = request.iter().skip(5).any(|word| word.eq_ignore_ascii_case(b"FORCE"));
    let forced = if is_forced { (request.len() - 5) * PENDING_BYTES } else { 0 };
    group_of(db, request).map_or(0, |group| forced + growth_of_consumer(group, request.arg(3)))
}

/// Memory for a consumer that is new.
pub fn growth_of_xautoclaim(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    group_of(db, request).map_or(0, |group| growth_of_consumer(group, request.arg(3)))
}

/// Memory for the lists of claimed and of deleted ids.
pub fn need_of_xautoclaim(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(group) = group_of(db, request) else { return 0 };
    let Ok((_, _, _, wanted)) = parse::<(&[u8], &[u8], &[u8], AutoClaim)>(request, 1) else { return 0 };
    2 * group.pending_len().min(wanted.count) * size_of::<StreamId>()
}

/// The group that the first two arguments name.
pub fn group_of<'d>(db: &'d Keyspace<'_>, request: Request<'_>) -> Option<&'d Group> {
    db.peek_collection::<Stream>(request.arg(1))?.group(request.arg(2))
}

pub fn cost_of_xautoclaim(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(stream) = db.peek_collection::<Stream>(request.arg(1)) else { return 0 };
    let Some(group) = stream.group(request.arg(2)) else { return 0 };
    let Ok((_, _, _, wanted)) = parse::<(&[u8], &[u8], &[u8], AutoClaim)>(request, 1) else { return 0 };
    let looks = group.pending_len().min(wanted.count.saturating_mul(ATTEMPTS));
    looks.saturating_mul(look(stream)).saturating_add(group.consumer_len() / CONSUMERS_PER_ELEMENT)
}
