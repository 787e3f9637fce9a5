//! `XINFO`: what a stream and its groups are made of.

use dormouse_protocol::{Reply, Request};
use dormouse_types::stream::{Consumer, Group, StreamEntries};
use dormouse_types::{Stream, StreamId};

use super::groups::no_group;
use super::ids::{unlimited, write_entries, write_entry, write_id};
use super::write_help;
use crate::commands::args::{Args, Argument, Rest, integer, parse};
use crate::commands::cost;
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

/// Entries that `FULL` shows of each list unless it is told otherwise.
const COUNT: usize = 10;

/// `[FULL [COUNT count]]`, read after the key has been looked at.
pub struct StreamDetail<'a> {
    /// As the client wrote it.
    subcommand: String,
    words: Rest<'a>,
}

impl<'a> Argument<'a> for StreamDetail<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        Ok(StreamDetail { subcommand: args.subcommand(), words: args.take()? })
    }
}

impl StreamDetail<'_> {
    /// The count of the full form; 0: everything.
    fn full(&self) -> Result<Option<usize>> {
        let words = self.words;
        let is = |at: usize, word: &str| words.at(at).eq_ignore_ascii_case(word.as_bytes());
        match words.len() {
            0 => Ok(None),
            1 if is(0, "FULL") => Ok(Some(COUNT)),
            3 if is(0, "FULL") && is(1, "COUNT") => Ok(Some(usize::try_from(integer(words.at(2))?).unwrap_or(COUNT))),
            _ => {
                let name = &self.subcommand;
                let text = format!("ERR unknown subcommand or wrong number of arguments for '{name}'. Try XINFO HELP.");
                Err(Error::Text(text.into()))
            }
        }
    }
}

/// `XINFO STREAM key [FULL [COUNT count]]`
pub fn stream(db: &mut Keyspace<'_>, reply: &mut Reply, (key, options): (&[u8], StreamDetail<'_>)) -> Result<()> {
    let now = db.now();
    let stream = db.read::<Stream>(key)?.ok_or(Error::NoSuchKey)?;
    let full = options.full()?;
    let entries = stream.entries();
    reply.map(if full.is_some() { 15 } else { 16 });
    let number = |reply: &mut Reply, name: &str, number: u64| {
        reply.bulk(name.as_bytes());
        reply.integer(number as i64);
    };
    number(reply, "length", entries.len() as u64);
    number(reply, "radix-tree-keys", entries.node_count() as u64);
    number(reply, "radix-tree-nodes", entries.node_count() as u64 + 1);
    for (name, id) in [("last-generated-id", entries.last), ("max-deleted-entry-id", entries.max_deleted)] {
        reply.bulk(name.as_bytes());
        write_id(reply, id);
    }
    number(reply, "entries-added", entries.added);
    reply.bulk(b"recorded-first-entry-id");
    write_id(reply, entries.first);
    let (settings, counts) = (stream.idempotency(), stream.message_counts(now));
    number(reply, "idmp-duration", settings.duration_s.into());
    number(reply, "idmp-maxsize", settings.size_max.into());
    number(reply, "pids-tracked", counts.producers as u64);
    number(reply, "iids-tracked", counts.messages as u64);
    number(reply, "iids-added", counts.added);
    number(reply, "iids-duplicates", counts.repeated);
    match full {
        None => {
            number(reply, "groups", stream.groups().len() as u64);
            let ends = [
                ("first-entry", entries.iter().next()),
                ("last-entry", entries.range_back(StreamId::MIN, StreamId::MAX).next()),
            ];
            for (name, entry) in ends {
                reply.bulk(name.as_bytes());
                match entry {
                    Some(entry) => write_entry(reply, &entry),
                    None => reply.null(),
                }
            }
        }
        Some(count) => {
            reply.bulk(b"entries");
            write_entries(reply, entries.iter(), count);
            reply.bulk(b"groups");
            reply.array(stream.groups().len());
            stream.groups().for_each(|group| write_group(reply, entries, group, count));
        }
    }
    Ok(())
}

fn write_group(reply: &mut Reply, entries: &StreamEntries, group: &Group, count: usize) {
    reply.map(8);
    reply.bulk(b"name");
    reply.bulk(group.name());
    write_position(reply, entries, group);
    reply.bulk(b"pel-count");
    reply.integer(group.pending_len() as i64);
    reply.bulk(b"nacked-count");
    reply.integer(group.released_len() as i64);
    reply.bulk(b"pending");
    reply.array(group.pending_len().min(unlimited(count)));
    for pending in group.pending_from(StreamId::MIN).take(unlimited(count)) {
        reply.array(4);
        write_id(reply, pending.id);
        reply.bulk(group.consumer(pending.owner).map_or(b"", Consumer::name));
        reply.integer(pending.delivered_ms);
        reply.integer(pending.deliveries as i64);
    }
    reply.bulk(b"consumers");
    reply.array(group.consumer_len());
    for (_, consumer) in group.consumers() {
        reply.map(5);
        reply.bulk(b"name");
        reply.bulk(consumer.name());
        reply.bulk(b"seen-time");
        reply.integer(consumer.seen_ms());
        reply.bulk(b"active-time");
        reply.integer(consumer.active_ms().unwrap_or(-1));
        reply.bulk(b"pel-count");
        reply.integer(consumer.pending_len() as i64);
        reply.bulk(b"pending");
        reply.array(consumer.pending_len().min(unlimited(count)));
        let ids = consumer.pending_from(StreamId::MIN).take(unlimited(count));
        for pending in ids.filter_map(|id| group.pending(id)) {
            reply.array(3);
            write_id(reply, pending.id);
            reply.integer(pending.delivered_ms);
            reply.integer(pending.deliveries as i64);
        }
    }
}

/// The last id, the entries read and the lag.
fn write_position(reply: &mut Reply, entries: &StreamEntries, group: &Group) {
    reply.bulk(b"last-delivered-id");
    write_id(reply, group.last());
    for (name, number) in [("entries-read", group.read().map(|read| read as i64)), ("lag", group.lag(entries))] {
        reply.bulk(name.as_bytes());
        match number {
            Some(number) => reply.integer(number),
            None => reply.null(),
        }
    }
}

pub fn cost_of_stream(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(stream) = db.peek_collection::<Stream>(request.arg(2)) else { return 0 };
    let full = parse::<(&[u8], StreamDetail<'_>)>(request, 2).and_then(|(_, options)| options.full());
    let (messages, producers) = stream.message_len();
    let hidden = (messages + producers) / 8;
    let Ok(Some(count)) = full else { return 2 * super::look(stream) + hidden };
    let count = unlimited(count);
    // So many groups take more than a turn, however small they are.
    let groups = stream.groups().take(cost::TURN).map(|group| {
        let pending = group.pending_len().min(count).saturating_mul(1 + group.consumer_len());
        1 + group.consumer_len() + group.pending_len().min(count) + pending.min(group.pending_len())
    });
    cost::some(db, request.arg(2), stream.len().min(count)) + groups.sum::<usize>() + hidden
}

/// `XINFO GROUPS key`
pub fn groups(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let stream = db.read::<Stream>(key)?.ok_or(Error::NoSuchKey)?;
    reply.array(stream.groups().len());
    for group in stream.groups() {
        reply.map(6);
        reply.bulk(b"name");
        reply.bulk(group.name());
        reply.bulk(b"consumers");
        reply.integer(group.consumer_len() as i64);
        reply.bulk(b"pending");
        reply.integer(group.pending_len() as i64);
        write_position(reply, stream.entries(), group);
    }
    Ok(())
}

/// `XINFO CONSUMERS key group`
pub fn consumers(db: &mut Keyspace<'_>, reply: &mut Reply, (key, name): (&[u8], &[u8])) -> Result<()> {
    let now = db.now() as i64;
    let stream = db.read::<Stream>(key)?.ok_or(Error::NoSuchKey)?;
    let group = stream.group(name).ok_or_else(|| no_group(key, name))?;
    reply.array(group.consumer_len());
    for (_, consumer) in group.consumers() {
        reply.map(4);
        reply.bulk(b"name");
        reply.bulk(consumer.name());
        reply.bulk(b"pending");
        reply.integer(consumer.pending_len() as i64);
        reply.bulk(b"idle");
        reply.integer(now.wrapping_sub(consumer.seen_ms()).max(0));
        reply.bulk(b"inactive");
        reply.integer(consumer.active_ms().map_or(-1, |active_ms| now.wrapping_sub(active_ms)));
    }
    Ok(())
}

/// `XINFO HELP`
pub fn help(_: &mut Keyspace<'_>, reply: &mut Reply, (): ()) -> Result<()> {
    write_help(
        reply,
        "XINFO",
        &[
            "CONSUMERS <key> <groupname>",
            "    Show consumers of <groupname>.",
            "GROUPS <key>",
            "    Show the stream consumer groups.",
            "STREAM <key> [FULL [COUNT <count>]",
            "    Show information about the stream.",
        ],
    );
    Ok(())
}
