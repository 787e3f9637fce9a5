//! Streams: entries under ascending ids, read by range, by waiting clients, or by the consumers of a group.
//!
//! A stream without entries exists until it is deleted: its groups and its last id stay.
//!
//! Commands on one stream are their own effects: the ids and times that they choose follow from the effect's time. What
//! approximate trimming removes depends on the borders of nodes, so its effect is an exact trimming to the length that was left.
//! A consumer's attempt to read that finds nothing changes only when the consumer was seen, and is not recorded, as in
//! Redis's own log.
//!
//! Replicas of Redis 7.0 do not [get](Keyspace::effect_kept) the things that they do not know: the messages of producers, and how long
//! those are remembered. They are [told](Keyspace::effect_told) what else comes close: a released entry is pending for a consumer
//! without a name, and the removal of references is a deletion and acknowledgements.

mod groups;
mod ids;
mod info;
#[cfg(test)]
mod newer_tests;
mod pending;
mod producers;
mod reading;
mod references;
mod releasing;
#[cfg(test)]
mod tests;
mod trimming;

use dormouse_protocol::{Reply, Request};
use dormouse_types::stream::{Head, References, StreamEntries, Until};
use dormouse_types::{Limits, Stream, StreamId};
use smallvec::SmallVec;

use self::ids::{ids, range_end, range_start, strict_id, write_entries, write_id};
pub use self::producers::count_repeated;
use self::trimming::{AddOptions, TrimOptions, TrimRule};
use crate::commands::args::{Args, Argument, Rest, integer, parse};
use crate::commands::{
    Access, Category, Command, Family, Find, Flags, KeySpec, Run, at_least, cost, exactly, run, write_help,
};
use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace};

const READ: Flags = Flags::READ;
const WRITE: Flags = Flags::WRITE;
const WRITE_FAST: Flags = WRITE.union(Flags::FAST);
const GROW: Flags = WRITE.union(Flags::DENY_OOM);
const GROW_FAST: Flags = GROW.union(Flags::FAST);
/// Ids, trims and claims depend on the time, or on how entries are divided into nodes.
const TIMED: Flags = Flags::NAMED_TO_REPLICAS;
const WAIT: Flags = READ.union(Flags::BLOCKING);
const WAIT_IN_GROUP: Flags = WRITE.union(Flags::BLOCKING).union(Flags::BY_KEY);

const READS: Access = Access::RO.union(Access::ACCESS);
const UPDATES: Access = Access::RW.union(Access::UPDATE);
const DELETES: Access = Access::RW.union(Access::DELETE);
const INSERTS: Access = Access::RW.union(Access::INSERT);
const KEY_LOOK: &[KeySpec] = &[KeySpec::one(1, Access::RO)];
const KEY_READ: &[KeySpec] = &[KeySpec::one(1, READS)];
const KEY_UPDATE: &[KeySpec] = &[KeySpec::one(1, UPDATES)];
const KEY_ADD: &[KeySpec] =
    &[KeySpec::one(1, UPDATES).notes("UPDATE instead of INSERT because of the optional trimming feature")];
const KEY_DELETE: &[KeySpec] = &[KeySpec::one(1, DELETES)];
const KEY_ACKNOWLEDGE: &[KeySpec] = &[KeySpec::one(1, UPDATES.union(Access::DELETE))];
const SECOND_READ: &[KeySpec] = &[KeySpec::one(2, READS)];
const SECOND_INSERT: &[KeySpec] = &[KeySpec::one(2, INSERTS)];
const SECOND_UPDATE: &[KeySpec] = &[KeySpec::one(2, UPDATES)];
const SECOND_DELETE: &[KeySpec] = &[KeySpec::one(2, DELETES)];
const KEYS_READ: &[KeySpec] = &[streams(1)];
const KEYS_READ_IN_GROUP: &[KeySpec] = &[streams(4)];

const VARIES: &[&str] = &["nondeterministic_output"];

/// Looking for an entry in its node, as a cost.
const NODE_COST: usize = 10;
/// Bytes of a larger node that are read in about the time of one element.
const NODE_BYTES_PER_ELEMENT: usize = 128;
/// Consumers whose places are moved in about the time of one element.
const CONSUMERS_PER_ELEMENT: usize = 32;
/// Memory that a pending entry takes: its record, and its id among its consumer's.
const PENDING_BYTES: usize = 80;

const fn streams(from: u8) -> KeySpec {
    KeySpec { access: READS, find: Find::Streams { from }, notes: "" }
}

const fn event(name: &'static str) -> KeyEvent {
    KeyEvent::stream(name)
}

pub(crate) const FAMILY: Family<Run> = Family {
    group: "stream",
    category: Category::STREAM,
    commands: &[
        Command::new("XADD", at_least(5), KEY_ADD, GROW_FAST.union(TIMED), run!(xadd))
            .event(event("xadd"))
            .tips(VARIES)
            .doc(
                "5.0.0",
                "O(1) when adding a new entry, O(N) when trimming where N being the number of entries evicted.",
                "Appends a new message to a stream. Creates the key if it doesn't exist.",
            )
            .cost(cost_of_xadd)
            .grows(producers::growth_of_xadd)
            .needs(|db, request| match has_options(request) && !has_message_alone(request) {
                true => parse::<(&[u8], AddOptions<'_>)>(request, 1)
                    .map_or(0, |(key, added)| need_of_trim(db, key, added.options.trim)),
                false => 0,
            }),
        Command::new("XLEN", exactly(2), KEY_LOOK, READ.union(Flags::FAST), run!(xlen)).doc(
            "5.0.0",
            "O(1)",
            "Return the number of messages in a stream.",
        ),
        Command::new("XRANGE", at_least(4), KEY_READ, READ, run!(xrange))
            .doc(
                "5.0.0",
                "O(N) with N being the number of elements being returned. If N is constant (e.g. always asking for the \
                 first 10 elements with COUNT), you can consider it O(1).",
                "Returns the messages from a stream within a range of IDs.",
            )
            .cost(|db, request| cost_of_range(db, request, 2, 3)),
        Command::new("XREVRANGE", at_least(4), KEY_READ, READ, run!(xrevrange))
            .doc(
                "5.0.0",
                "O(N) with N being the number of elements returned. If N is constant (e.g. always asking for the first \
                 10 elements with COUNT), you can consider it O(1).",
                "Returns the messages from a stream within a range of IDs in reverse order.",
            )
            .cost(|db, request| cost_of_range(db, request, 3, 2)),
        Command::new("XDEL", at_least(3), KEY_DELETE, WRITE_FAST, run!(xdel))
            .event(event("xdel"))
            .doc(
                "5.0.0",
                "O(1) for each single item to delete in the stream, regardless of the stream size.",
                "Returns the number of messages after removing them from a stream.",
            )
            .cost(|db, request| (request.len() - 2).saturating_mul(cost_of_look(db, request.arg(1)))),
        Command::new("XDELEX", at_least(5), KEY_DELETE, WRITE_FAST.union(TIMED), run!(references::xdelex))
            .doc(
                "8.2.0",
                "O(1) for each entry, O(N) in the number of groups if their references count.",
                "Deletes entries of a stream, and says of each whether it was deleted and what became of the references to it.",
            )
            .cost(references::cost_of_deleting),
        Command::new("XACKDEL", at_least(6), KEY_ACKNOWLEDGE, WRITE_FAST.union(TIMED), run!(references::xackdel))
            .doc(
                "8.2.0",
                "O(1) for each entry, O(N) in the number of groups if their references count.",
                "Acknowledges entries that are pending in a group of consumers, and deletes them from the stream.",
            )
            .cost(references::cost_of_deleting),
        Command::new("XTRIM", at_least(4), KEY_DELETE, WRITE.union(TIMED), run!(xtrim))
            .event(event("xtrim"))
            .tips(VARIES)
            .doc(
                "5.0.0",
                "O(N), with N being the number of evicted entries. Constant times are very small however, since entries \
                 are organized in macro nodes containing multiple entries that can be released with a single \
                 deallocation.",
                "Deletes messages from the beginning of a stream.",
            )
            .cost(|db, request| match parse::<(&[u8], TrimOptions)>(request, 1) {
                Ok((key, TrimOptions(trim))) => cost_of_trim(db, key, trim),
                Err(_) => 0,
            })
            .needs(|db, request| match parse::<(&[u8], TrimOptions)>(request, 1) {
                Ok((key, TrimOptions(trim))) => need_of_trim(db, key, Some(trim)),
                Err(_) => 0,
            }),
        Command::new("XCFGSET", at_least(2), KEY_UPDATE, WRITE_FAST.union(TIMED), run!(producers::xcfgset))
            .doc(
                "8.6.0",
                "O(1), O(N) with N being the number of remembered messages if they are forgotten.",
                "Sets for how long a stream remembers the messages of its producers, and how many.",
            )
            .cost(producers::cost_of_xcfgset),
        Command::new("XIDMPRECORD", exactly(5), KEY_UPDATE, GROW_FAST.union(TIMED), run!(producers::xidmprecord))
            .doc(
                "8.6.2",
                "O(1)",
                "Binds the message of a producer to an entry of a stream. Used where a stream is replicated or rewritten.",
            )
            .cost(producers::cost_of_message)
            .grows(producers::growth_of_message),
        Command::new("XSETID", at_least(3), KEY_UPDATE, GROW_FAST, run!(xsetid))
            .event(event("xsetid"))
            .doc("5.0.0", "O(1)", "An internal command for replicating stream values.")
            .cost(|db, request| cost_of_look(db, request.arg(1))),
        Command::new("XREAD", at_least(4), KEYS_READ, WAIT, run!(reading::xread))
            .doc(
                "5.0.0",
                "For each stream mentioned: O(N) with N being the number of elements being returned, it means that \
                 XREAD-ing with a fixed COUNT is O(1). Note that when the BLOCK option is used, XADD will pay O(M) time \
                 in order to serve the M clients blocked on the stream getting new data.",
                "Returns messages from multiple streams with IDs greater than the ones requested. Blocks until a \
                 message is available otherwise.",
            )
            .cost(reading::cost_of_xread)
            .stateless(true),
        Command::new("XREADGROUP", at_least(7), KEYS_READ_IN_GROUP, WAIT_IN_GROUP, run!(reading::xreadgroup))
            .doc(
                "5.0.0",
                "For each stream mentioned: O(M) with M being the number of elements returned. If M is constant (e.g. \
                 always asking for the first 10 elements with COUNT), you can consider it O(1). On the other side when \
                 XREADGROUP blocks, XADD will pay the O(N) time in order to serve the N clients blocked on the stream \
                 getting new data.",
                "Returns new or historical messages from a stream for a consumer in a group. Blocks until a message is \
                 available otherwise.",
            )
            .cost(reading::cost_of_xreadgroup)
            .grows(reading::growth_of_xreadgroup)
            .needs(reading::need_of_xreadgroup)
            .stateless(true),
        Command::container(
            "XGROUP",
            &[
                Command::new("CREATE", at_least(5), SECOND_INSERT, GROW, run!(groups::create, 2))
                    .event(event("xgroup-create"))
                    .doc("5.0.0", "O(1)", "Creates a consumer group.")
                    .cost(groups::cost_of_moving),
                Command::new("SETID", at_least(5), SECOND_UPDATE, WRITE, run!(groups::set_id, 2))
                    .event(event("xgroup-setid"))
                    .doc("5.0.0", "O(1)", "Sets the last-delivered ID of a consumer group."),
                Command::new("DESTROY", exactly(4), SECOND_DELETE, WRITE, run!(groups::destroy, 2))
                    .event(event("xgroup-destroy"))
                    .doc(
                        "5.0.0",
                        "O(N) where N is the number of entries in the group's pending entries list (PEL).",
                        "Destroys a consumer group.",
                    )
                    .cost(|db, request| groups::cost_of_group(db, request) + groups::cost_of_moving(db, request)),
                Command::new("CREATECONSUMER", exactly(5), SECOND_INSERT, GROW, run!(groups::create_consumer, 2))
                    .event(event("xgroup-createconsumer"))
                    .doc("6.2.0", "O(1)", "Creates a consumer in a consumer group.")
                    .cost(groups::cost_of_consumer),
                Command::new("DELCONSUMER", exactly(5), SECOND_DELETE, WRITE, run!(groups::delete_consumer, 2))
                    .event(event("xgroup-delconsumer"))
                    .doc("5.0.0", "O(1)", "Deletes a consumer from a consumer group.")
                    .cost(groups::cost_of_group),
                Command::new("HELP", exactly(2), &[], Flags::LOADING.union(Flags::STALE), run!(groups::help, 2)).doc(
                    "5.0.0",
                    "O(1)",
                    "Returns helpful text about the different subcommands.",
                ),
            ],
        )
        .doc("5.0.0", "Depends on subcommand.", "A container for consumer groups commands."),
        Command::new("XACK", at_least(4), KEY_UPDATE, WRITE_FAST, run!(pending::xack)).doc(
            "5.0.0",
            "O(1) for each message ID processed.",
            "Returns the number of messages that were successfully acknowledged by the consumer group member of a stream.",
        ),
        Command::new("XNACK", at_least(7), KEY_UPDATE, WRITE_FAST.union(TIMED), run!(releasing::xnack))
            .doc(
                "8.8.0",
                "O(1) for each entry.",
                "Releases pending entries of a group, so that other consumers may claim them at once.",
            )
            .cost(releasing::cost_of_xnack)
            .grows(releasing::growth_of_xnack),
        Command::new("XPENDING", at_least(3), KEY_READ, READ, run!(pending::xpending))
            .tips(VARIES)
            .doc(
                "5.0.0",
                "O(N) with N being the number of elements returned, so asking for a small fixed number of entries per \
                 call is O(1). O(M), where M is the total number of entries scanned when used with the IDLE filter. \
                 When the command returns just the summary and the list of consumers is small, it runs in O(1) time; \
                 otherwise, an additional O(N) time for iterating every consumer.",
                "Returns the information and entries from a stream consumer group's pending entries list.",
            )
            .cost(pending::cost_of_xpending),
        Command::new("XCLAIM", at_least(6), KEY_UPDATE, WRITE_FAST.union(TIMED), run!(pending::xclaim))
            .tips(VARIES)
            .doc(
                "5.0.0",
                "O(log N) with N being the number of messages in the PEL of the consumer group.",
                "Changes, or acquires, ownership of a message in a consumer group, as if the message was delivered a \
                 consumer group member.",
            )
            .cost(pending::cost_of_xclaim)
            .grows(pending::growth_of_xclaim),
        Command::new("XAUTOCLAIM", at_least(6), KEY_DELETE, WRITE_FAST.union(TIMED), run!(pending::xautoclaim))
            .tips(VARIES)
            .doc(
                "6.2.0",
                "O(1) if COUNT is small.",
                "Changes, or acquires, ownership of messages in a consumer group, as if the messages were delivered to as \
                 consumer group member.",
            )
            .cost(pending::cost_of_xautoclaim)
            .grows(pending::growth_of_xautoclaim)
            .needs(pending::need_of_xautoclaim),
        Command::container(
            "XINFO",
            &[
                Command::new("STREAM", at_least(3), SECOND_READ, READ, run!(info::stream, 2))
                    .doc("5.0.0", "O(1)", "Returns information about a stream.")
                    .cost(info::cost_of_stream),
                Command::new("GROUPS", exactly(3), SECOND_READ, READ, run!(info::groups, 2))
                    .doc("5.0.0", "O(1)", "Returns a list of the consumer groups of a stream.")
                    .cost(|db, request| {
                        db.peek_collection::<Stream>(request.arg(2)).map_or(0, |stream| stream.groups().len())
                    }),
                Command::new("CONSUMERS", exactly(4), SECOND_READ, READ, run!(info::consumers, 2))
                    .tips(VARIES)
                    .doc("5.0.0", "O(1)", "Returns a list of the consumers in a consumer group.")
                    .cost(groups::cost_of_group),
                Command::new("HELP", exactly(2), &[], Flags::LOADING.union(Flags::STALE), run!(info::help, 2)).doc(
                    "5.0.0",
                    "O(1)",
                    "Returns helpful text about the different subcommands.",
                ),
            ],
        )
        .doc("5.0.0", "Depends on subcommand.", "A container for stream introspection commands."),
    ],
};

/// Looking for an entry of a key.
fn cost_of_look(db: &Keyspace<'_>, key: &[u8]) -> usize {
    db.peek_collection::<Stream>(key).map_or(NODE_COST, look)
}

/// Looking for an entry, as a cost: in a node with large or many entries that takes longer.
fn look(stream: &Stream) -> usize {
    NODE_COST + stream.entries().excess_bytes() / NODE_BYTES_PER_ELEMENT
}

/// Removing a node costs about as much as looking at two entries. Where references count, each entry is looked at, and so is
/// each group for it.
fn cost_of_trim(db: &Keyspace<'_>, key: &[u8], rule: TrimRule) -> usize {
    let trim = rule.trim(db.limits());
    let Some(stream) = db.peek_collection::<Stream>(key) else { return 0 };
    let removed = match trim.until {
        Until::Length(kept) => stream.len().saturating_sub(kept),
        // The first node is looked into even if it stays.
        Until::Id(first) => stream.entries().len_at_most(StreamId::MIN, first).max(1),
    };
    let limited = if trim.limit > 0 { removed.min(trim.limit) } else { removed };
    match (removed, rule.references) {
        (0, _) => 0,
        (_, References::Keep) => look(stream) + cost::some(db, key, limited) / 4,
        // Entries that stay are looked at, too.
        (_, references) => {
            let seen = if references == References::Respect { stream.len() } else { limited };
            look(stream) + cost::some(db, key, seen.saturating_mul(1 + stream.groups().len()))
        }
    }
}

/// Memory for the ids of the entries that are removed one by one.
fn need_of_trim(db: &Keyspace<'_>, key: &[u8], rule: Option<TrimRule>) -> usize {
    match rule.filter(|rule| rule.references != References::Keep) {
        Some(_) => db.peek_collection::<Stream>(key).map_or(0, |stream| 2 * stream.len() * size_of::<StreamId>()),
        None => 0,
    }
}

/// The entries from argument `start` to argument `end`, up to the count.
fn cost_of_range(db: &Keyspace<'_>, request: Request<'_>, start: usize, end: usize) -> usize {
    let Some(stream) = db.peek_collection::<Stream>(request.arg(1)) else { return 0 };
    let (Ok(start), Ok(end)) = (range_start(request.arg(start)), range_end(request.arg(end))) else { return 0 };
    let count = match request.get(5).map(integer) {
        None => usize::MAX,
        Some(count) => count.map_or(0, |count| usize::try_from(count).unwrap_or(0)),
    };
    look(stream) + cost::some(db, request.arg(1), stream.entries().len_at_most(start, end).min(count))
}

/// Whether an `XADD` has options: without any, the id comes first.
fn has_options(request: Request<'_>) -> bool {
    !matches!(request.get(2), Some([b'*' | b'0'..=b'9', ..]))
}

/// Whether an `XADD` names a message and has no other option.
fn has_message_alone(request: Request<'_>) -> bool {
    let id_at = match request.get(2) {
        Some(word) if word.eq_ignore_ascii_case(b"IDMP") => 5,
        Some(word) if word.eq_ignore_ascii_case(b"IDMPAUTO") => 4,
        _ => return false,
    };
    request.get(id_at) == Some(b"*")
}

/// The entries that an `XADD` trims, and the messages among which it looks for its own.
fn cost_of_xadd(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    if !has_options(request) {
        return 0;
    }
    if has_message_alone(request) {
        return producers::cost_of_search(db, request.arg(1));
    }
    match parse::<(&[u8], AddOptions<'_>)>(request, 1) {
        Ok((key, added)) => {
            let message = added.options.message.map_or(0, |_| producers::cost_of_search(db, key));
            message + added.options.trim.map_or(0, |trim| cost_of_trim(db, key, trim))
        }
        Err(_) => 0,
    }
}

/// An entry that was added now, or before for the same message.
enum Added {
    Now(StreamId),
    Before(StreamId),
}

/// `XADD key [NOMKSTREAM] [KEEPREF | DELREF | ACKED] [IDMP producer message | IDMPAUTO producer] [MAXLEN | MINID [= | ~] threshold
/// [LIMIT count]] * | id field value [field value ...]`
fn xadd(db: &mut Keyspace<'_>, reply: &mut Reply, (key, added): (&[u8], AddOptions<'_>)) -> Result<()> {
    let AddOptions { options, id: wanted, pairs } = added;
    if wanted.is_some_and(|wanted| wanted.has_seq && wanted.id == StreamId::MIN) {
        return Err(Error::text("ERR The ID specified in XADD must be greater than 0-0"));
    }
    let (now, mut made) = (db.now(), [0; 16]);
    let message = options.message.map(|message| (message.producer, message.of(pairs, &mut made)));
    let settings = producers::settings_of_new(db, key);
    let (mut trimmed, mut len, mut removed) = (0, 0, Vec::new());
    let change = |stream: &mut Stream, limits: &Limits| {
        if let Some((producer, message)) = message
            && let Some(id) = stream.message(producer, message, now)
        {
            return Change::No(Ok(Added::Before(id)));
        }
        let id = match new_id(stream.entries(), wanted, now) {
            Ok(id) => id,
            Err(error) => return Change::No(Err(error)),
        };
        if let Some(settings) = settings {
            stream.set_idempotency(settings);
        }
        let pairs = (0..pairs.len() / 2).map(|at| (pairs.at(2 * at), pairs.at(2 * at + 1)));
        stream.append(id, pairs, limits);
        match message {
            Some((producer, message)) => stream.add_message(producer, message, id, now),
            None => stream.forget_messages(now),
        }
        trimmed = options.trim.map_or(0, |rule| trim(stream, rule, limits, &mut removed));
        len = stream.len();
        Change::Yes(Ok(Added::Now(id)))
    };
    let added = match options.must_exist {
        true => db.update_existing(key, change)?,
        false => Some(db.update(key, change)?),
    };
    let id = match added.transpose()? {
        Some(Added::Now(id)) => id,
        Some(Added::Before(id)) => {
            count_repeated(db, key);
            write_id(reply, id);
            return Ok(());
        }
        None => {
            reply.null();
            return Ok(());
        }
    };
    write_id(reply, id);
    let refers = options.trim.is_some_and(|rule| rule.references != References::Keep);
    if message.is_some() || settings.is_some() || refers {
        db.names_effects();
    }
    if db.records_by_key() {
        let id_text = id.to_string();
        let words: Vec<&[u8]> = [&b"XADD"[..], key, id_text.as_bytes()].into_iter().chain(pairs.iter()).collect();
        db.effect(key, &words);
        producers::record(db, key, settings, message.map(|(producer, message)| (producer, message, id)));
    } else if options.trim.is_some_and(|rule| rule.is_approximate) {
        let (len, id) = (len.to_string(), id.to_string());
        let head = [&b"XADD"[..], key, b"MAXLEN", b"=", len.as_bytes(), id.as_bytes()];
        let words: SmallVec<[&[u8]; 16]> = head.into_iter().chain(pairs.iter()).collect();
        db.effect_instead(key, words.into_iter());
    }
    if let Some(rule) = options.trim
        && trimmed > 0
    {
        record_trim(db, key, rule, &removed);
        db.tell(event("xtrim"), key);
    }
    Ok(())
}

/// Trims a stream, and returns how many entries it has lost. `removed`: their ids, where references count.
fn trim(stream: &mut Stream, rule: TrimRule, limits: &Limits, removed: &mut Vec<StreamId>) -> usize {
    match rule.references {
        References::Keep => stream.trim(rule.trim(limits)),
        references => {
            stream.trim_with(rule.trim(limits), references, removed);
            removed.len()
        }
    }
}

/// The id of a new entry.
fn new_id(entries: &StreamEntries, wanted: Option<ids::PartialId>, now_ms: u64) -> Result<StreamId> {
    const EXHAUSTED: Error = Error::text("ERR The stream has exhausted the last possible ID, unable to add more items");
    const TOO_LOW: Error =
        Error::text("ERR The ID specified in XADD is equal or smaller than the target stream top item");
    if entries.last == StreamId::MAX {
        return Err(EXHAUSTED);
    }
    let id = match wanted {
        None => entries.next_id(now_ms).ok_or(EXHAUSTED)?,
        Some(wanted) if !wanted.has_seq && wanted.id.ms == entries.last.ms => {
            StreamId { seq: entries.last.seq.checked_add(1).ok_or(TOO_LOW)?, ..wanted.id }
        }
        Some(wanted) => wanted.id,
    };
    if id > entries.last { Ok(id) } else { Err(TOO_LOW) }
}

/// `XLEN key`
fn xlen(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let len = db.read::<Stream>(key)?.map_or(0, Stream::len);
    reply.integer(len as i64);
    Ok(())
}

/// `XRANGE key start end [COUNT count]`
fn xrange(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, start, end, options): (&[u8], &[u8], &[u8], Rest<'_>),
) -> Result<()> {
    range(db, reply, key, (start, end), options, false)
}

/// `XREVRANGE key end start [COUNT count]`
fn xrevrange(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, end, start, options): (&[u8], &[u8], &[u8], Rest<'_>),
) -> Result<()> {
    range(db, reply, key, (start, end), options, true)
}

fn range(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    key: &[u8],
    (start, end): (&[u8], &[u8]),
    options: Rest<'_>,
    is_backward: bool,
) -> Result<()> {
    let (start, end) = (range_start(start)?, range_end(end)?);
    let mut count = None;
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let value = words.next().filter(|_| word.eq_ignore_ascii_case(b"COUNT")).ok_or(Error::Syntax)?;
        count = Some(usize::try_from(integer(value)?).unwrap_or(0));
    }
    let Some(stream) = db.read::<Stream>(key)? else {
        reply.array(0);
        return Ok(());
    };
    if count == Some(0) {
        reply.null_array();
        return Ok(());
    }
    let entries = stream.entries();
    let count = count.unwrap_or(0);
    match is_backward {
        false => write_entries(reply, entries.range(start, end), count),
        true => write_entries(reply, entries.range_back(start, end), count),
    };
    Ok(())
}

/// `XDEL key id [id ...]`
fn xdel(db: &mut Keyspace<'_>, reply: &mut Reply, (key, words): (&[u8], Rest<'_>)) -> Result<()> {
    // The key is looked at first, and without it any text is an id.
    if db.read_to_change::<Stream>(key)?.is_none() {
        reply.integer(0);
        return Ok(());
    }
    let ids = ids(words.iter())?;
    let deleted = db.update_existing(key, |stream: &mut Stream, _| {
        let deleted = stream.delete(ids.iter().copied());
        Change::when(deleted > 0, deleted)
    })?;
    reply.integer(deleted.unwrap_or(0) as i64);
    Ok(())
}

/// `XTRIM key MAXLEN | MINID [= | ~] threshold [LIMIT count] [KEEPREF | DELREF | ACKED]`
fn xtrim(db: &mut Keyspace<'_>, reply: &mut Reply, (key, TrimOptions(rule)): (&[u8], TrimOptions)) -> Result<()> {
    let mut removed = Vec::new();
    let trimmed = db.update_existing(key, |stream: &mut Stream, limits| {
        let trimmed = trim(stream, rule, limits, &mut removed);
        Change::when(trimmed > 0, (trimmed, stream.len()))
    })?;
    let (trimmed, len) = trimmed.unwrap_or_default();
    reply.integer(trimmed as i64);
    if rule.references != References::Keep {
        db.names_effects();
    }
    if trimmed > 0 && db.records_by_key() {
        record_trim(db, key, rule, &removed);
    } else if rule.is_approximate {
        let len = len.to_string();
        db.effect_instead(key, [&b"XTRIM"[..], key, b"MAXLEN", b"=", len.as_bytes()].into_iter());
    }
    Ok(())
}

/// Records a trim as what it has left. Where references count, it has looked at the entries in the order of their ids: the
/// outcome is that of all up to the last one that it has removed.
fn record_trim(db: &mut Keyspace<'_>, key: &[u8], rule: TrimRule, removed: &[StreamId]) {
    if !db.records_by_key() {
        return;
    }
    let (len, first) = db
        .peek_collection::<Stream>(key)
        .map_or((0, StreamId::MIN), |stream| (stream.len(), stream.entries().head().first));
    let len = len.to_string();
    let to_length = [&b"XTRIM"[..], key, b"MAXLEN", b"=", len.as_bytes()];
    let Some(word) = references::word(rule.references) else {
        db.effect(key, &to_length);
        return;
    };
    let Some(last) = removed.last().copied() else { return };
    let until = last.next().unwrap_or(StreamId::MAX).to_string();
    db.effect_kept(key, [&b"XTRIM"[..], key, b"MINID", b"=", until.as_bytes(), word].into_iter());
    if rule.references == References::Delete {
        references::tell_acknowledged(db, key, removed);
    }
    // Entries in between may have stayed.
    match first == StreamId::MIN || first > last {
        true => db.effect_told(key, to_length.into_iter()),
        false => references::tell_deleted(db, key, removed),
    }
}

/// `XSETID key last-id [ENTRIESADDED entries-added] [MAXDELETEDID max-deleted-id]`
fn xsetid(db: &mut Keyspace<'_>, reply: &mut Reply, (key, wanted): (&[u8], NewHead)) -> Result<()> {
    let set = db.update_existing(key, |stream: &mut Stream, _| {
        let head = wanted.head(stream.entries());
        if let Ok(head) = head {
            stream.set_head(head);
        }
        Change::beside_when(head.is_ok(), head.map(drop))
    })?;
    set.ok_or(Error::NoSuchKey)??;
    reply.ok();
    Ok(())
}

struct NewHead {
    last: StreamId,
    added: Option<u64>,
    max_deleted: StreamId,
}

impl<'a> Argument<'a> for NewHead {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let last = strict_id(args.bytes()?, 0)?;
        let mut head = NewHead { last, added: None, max_deleted: StreamId::MIN };
        while !args.is_empty() {
            let has_more = args.len() > 1;
            if has_more && args.word("ENTRIESADDED") {
                let added = u64::try_from(integer(args.bytes()?)?);
                head.added = Some(added.map_err(|_| Error::text("ERR entries_added must be positive"))?);
            } else if has_more && args.word("MAXDELETEDID") {
                head.max_deleted = strict_id(args.bytes()?, 0)?;
                if last < head.max_deleted {
                    let text = "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id";
                    return Err(Error::text(text));
                }
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(head)
    }
}

impl NewHead {
    fn head(&self, entries: &StreamEntries) -> Result<Head> {
        let refuse = |text| Err(Error::text(text));
        if entries.last_existing().is_some_and(|last| self.last < last) {
            return refuse("ERR The ID specified in XSETID is smaller than the target stream top item");
        }
        if !entries.is_empty() && self.added.is_some_and(|added| added < entries.len() as u64) {
            return refuse("ERR The entries_added specified in XSETID is smaller than the target stream length");
        }
        let mut head = Head { last: self.last, ..entries.head() };
        head.added = self.added.unwrap_or(head.added);
        if self.max_deleted != StreamId::MIN {
            head.max_deleted = self.max_deleted;
        }
        Ok(head)
    }
}
