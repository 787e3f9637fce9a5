//! Streams.
//!
//! ```text
//! nodes x (id 16 bytes as a string, listpack as a string)
//! length, last id (2 lengths)
//! since the second form: first id (2), greatest deleted id (2), entries added
//! groups x (name, last id (2), since the second form: entries read, 2^64 - 1: unknown,
//!   pending x (id 16 bytes, i64 delivered, deliveries)
//!   consumers x (name, i64 seen, since the third form: i64 active, -1: never, pending x id 16 bytes),
//!   since the fifth form: released x id 16 bytes)
//! since the fourth form: duration, size,
//!   producers x (name, messages x (name, id (2))), messages added, repeats
//! ```
//!
//! Times are unix milliseconds, little-endian. Redis 8 writes the fourth and fifth forms; here a stream has the fifth if it
//! has something that needs it ([`Stream::is_newer`]). Pending entries that were released have no consumer. In the first three
//! forms they are those of one without a name.

use dormouse_types::Stream;
use dormouse_types::stream::{Group, Head, Idempotency, Owner, StreamId, StreamPart};

use super::{super::CodecError, Object, Reader, kind};
use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::{read_string, write_plain_string, write_string};

type Result<T> = std::result::Result<T, CodecError>;

const UNKNOWN: u64 = u64::MAX;
const NEVER: i64 = -1;

/// The bytes of a pending entry, and of a consumer, at least.
const PENDING_BYTES: usize = 25;
const CONSUMER_BYTES: usize = 10;
const GROUP_BYTES: usize = 5;
const ID_BYTES: usize = 16;

/// The third form, which Redis 7.2 writes, or the fifth.
pub(super) fn encode(stream: &Stream, out: &mut impl ByteSink) -> u8 {
    encode_with(form_of(stream), u64::MAX, stream, out)
}

/// The form that a stream is stored in.
pub(super) fn form_of(stream: &Stream) -> u8 {
    if stream.is_newer() { kind::STREAM_5 } else { kind::STREAM_3 }
}

/// Any form but the fourth, for other servers. XGROUP and XSETID can make a group have read more than was added;
/// Redis 8.10 ends when it loads such a stream.
pub(super) fn encode_for_others(form: u8, stream: &Stream, out: &mut impl ByteSink) -> u8 {
    encode_with(form, stream.entries().head().added, stream, out)
}

fn encode_with(form: u8, read_max: u64, stream: &Stream, out: &mut impl ByteSink) -> u8 {
    let entries = stream.entries();
    write_rdb_length(out, entries.nodes().len() as u64);
    for (first, listpack) in entries.nodes() {
        write_plain_string(out, &first.to_bytes());
        write_plain_string(out, listpack.bytes());
    }
    let Head { last, first, max_deleted, added } = entries.head();
    write_rdb_length(out, entries.len() as u64);
    write_id(out, last);
    if form != kind::STREAM {
        write_id(out, first);
        write_id(out, max_deleted);
        write_rdb_length(out, added);
    }
    write_rdb_length(out, stream.groups().len() as u64);
    for group in stream.groups() {
        write_string(out, group.name());
        write_id(out, group.last());
        if form != kind::STREAM {
            write_rdb_length(out, group.read().map_or(UNKNOWN, |read| read.min(read_max)));
        }
        write_rdb_length(out, group.pending_len() as u64);
        for pending in group.pending_from(StreamId::MIN) {
            out.extend_from_slice(&pending.id.to_bytes());
            out.extend_from_slice(&pending.delivered_ms.to_le_bytes());
            write_rdb_length(out, pending.deliveries);
        }
        write_consumers(form, group, out);
    }
    if form == kind::STREAM_5 {
        write_producers(stream, out);
    }
    form
}

fn write_consumers(form: u8, group: &Group, out: &mut impl ByteSink) {
    let released = group.released();
    // The earlier forms have no place for released entries but a consumer's.
    let nameless = if form == kind::STREAM_5 { &[][..] } else { &released[..] };
    let has_nameless = group.owner(b"").is_some();
    let is_added = !nameless.is_empty() && !has_nameless;
    write_rdb_length(out, (group.consumer_len() + usize::from(is_added)) as u64);
    let mut write = |name: &[u8], seen_ms: i64, active_ms: Option<i64>, ids: &[StreamId]| {
        write_string(out, name);
        out.extend_from_slice(&seen_ms.to_le_bytes());
        if matches!(form, kind::STREAM_3 | kind::STREAM_5) {
            out.extend_from_slice(&active_ms.unwrap_or(NEVER).to_le_bytes());
        }
        write_rdb_length(out, ids.len() as u64);
        ids.iter().for_each(|id| out.extend_from_slice(&id.to_bytes()));
    };
    if is_added {
        write(b"", 0, None, nameless);
    }
    for (_, consumer) in group.consumers() {
        let mut ids: Vec<StreamId> = consumer.pending_from(StreamId::MIN).collect();
        if consumer.name().is_empty() {
            ids.extend(nameless);
        }
        write(consumer.name(), consumer.seen_ms(), consumer.active_ms(), &ids);
    }
    if form == kind::STREAM_5 {
        write_rdb_length(out, released.len() as u64);
        released.iter().for_each(|id| out.extend_from_slice(&id.to_bytes()));
    }
}

fn write_producers(stream: &Stream, out: &mut impl ByteSink) {
    let Idempotency { duration_s, size_max } = stream.idempotency();
    write_rdb_length(out, duration_s.into());
    write_rdb_length(out, size_max.into());
    let producers = stream.producers();
    write_rdb_length(out, producers.len() as u64);
    for (producer, messages) in producers {
        write_plain_string(out, producer);
        write_rdb_length(out, messages.len() as u64);
        for (message, id) in messages {
            write_plain_string(out, message);
            write_id(out, id);
        }
    }
    let (added, repeated) = stream.messages_ever();
    write_rdb_length(out, added);
    write_rdb_length(out, repeated);
}

pub(super) fn decode(form: u8, reader: &mut Reader<'_>) -> Result<Object> {
    let mut stream = Stream::new();
    for _ in 0..reader.rdb_count(ID_BYTES + 2)? {
        let first = read_string(reader)?.with_bytes(|id| id.try_into().map(StreamId::from_bytes));
        let first = first.map_err(|_| CodecError::Malformed("id of a stream node"))?;
        read_string(reader)?.with_bytes(|listpack| stream.load_node(first, listpack))?;
    }
    let length = reader.rdb_plain_length()?;
    let mut head = Head { last: read_id(reader)?, added: length, ..Head::default() };
    if form != kind::STREAM {
        head.first = read_id(reader)?;
        head.max_deleted = read_id(reader)?;
        head.added = reader.rdb_plain_length()?;
    }
    stream.loaded(head, length)?;
    let mut groups = Vec::new();
    for _ in 0..reader.rdb_count(GROUP_BYTES)? {
        let name = read_string(reader)?.into_vec();
        let last = read_id(reader)?;
        let read = match form {
            kind::STREAM => stream.entries().added_up_to(last),
            _ => Some(reader.rdb_plain_length()?).filter(|read| *read != UNKNOWN),
        };
        let mut group = Group::new(&name, last, read);
        load_group(form, reader, &mut group)?;
        groups.push(group);
    }
    stream.load_groups(groups)?;
    if matches!(form, kind::STREAM_4 | kind::STREAM_5) {
        load_producers(reader, &mut stream)?;
    }
    Ok(Object::Stream(stream))
}

fn load_group(form: u8, reader: &mut Reader<'_>, group: &mut Group) -> Result<()> {
    for _ in 0..reader.rdb_count(PENDING_BYTES)? {
        let (id, delivered_ms) = (raw_id(reader)?, i64::from_le_bytes(reader.array()?));
        group.load_pending(id, delivered_ms, reader.rdb_plain_length()?)?;
    }
    for _ in 0..reader.rdb_count(CONSUMER_BYTES)? {
        let name = read_string(reader)?;
        let seen_ms = i64::from_le_bytes(reader.array()?);
        let active_ms = match form {
            kind::STREAM | kind::STREAM_2 => Some(seen_ms),
            _ => Some(i64::from_le_bytes(reader.array()?)).filter(|active_ms| *active_ms != NEVER),
        };
        let owner = name.with_bytes(|name| group.load_consumer(name, seen_ms, active_ms));
        for _ in 0..reader.rdb_count(ID_BYTES)? {
            group.load_owner(raw_id(reader)?, owner)?;
        }
    }
    if form == kind::STREAM_5 {
        for _ in 0..reader.rdb_count(ID_BYTES)? {
            group.load_released(raw_id(reader)?)?;
        }
    }
    Ok(group.loaded()?)
}

fn load_producers(reader: &mut Reader<'_>, stream: &mut Stream) -> Result<()> {
    let settings = Idempotency::checked(reader.rdb_plain_length()?, reader.rdb_plain_length()?)?;
    stream.load_producers(settings, 0, 0);
    for _ in 0..reader.rdb_count(2)? {
        let producer = read_string(reader)?.into_vec();
        for _ in 0..reader.rdb_count(3)? {
            let (message, id) = (read_string(reader)?, read_id(reader)?);
            message.with_bytes(|message| stream.load_message(&producer, message, id));
        }
    }
    stream.load_producers(settings, reader.rdb_plain_length()?, reader.rdb_plain_length()?);
    Ok(())
}

fn write_id(out: &mut impl ByteSink, id: StreamId) {
    write_rdb_length(out, id.ms);
    write_rdb_length(out, id.seq);
}

fn read_id(reader: &mut Reader<'_>) -> Result<StreamId> {
    Ok(StreamId { ms: reader.rdb_plain_length()?, seq: reader.rdb_plain_length()? })
}

fn raw_id(reader: &mut Reader<'_>) -> Result<StreamId> {
    Ok(StreamId::from_bytes(reader.array()?))
}

/// The tags of the elements that a stream in pieces has.
const HEAD: u8 = 0;
const NODE: u8 = 1;
const GROUP: u8 = 2;
const CONSUMER: u8 = 3;
const PENDING: u8 = 4;
const PRODUCERS: u8 = 5;
const MESSAGE: u8 = 6;
const RELEASED: u8 = 7;

/// Writes an element of a stream in pieces:
///
/// ```text
/// 0 | last id, greatest deleted id, added, length
/// 1 | id 16 bytes | listpack
/// 2 | name | last id | 0, or 1 and the entries read
/// 3 | number in its group | name | i64 seen | i64 active
/// 4 | id 16 bytes | i64 delivered | deliveries | number of the consumer
/// 5 | duration, size, messages added, repeats
/// 6 | producer | message | id
/// 7 | id 16 bytes | deliveries | place among the released entries of its group, not without gaps
/// ```
///
/// Only the fifth form has the last three.
pub(super) fn write_part(part: StreamPart<'_>, out: &mut Vec<u8>) {
    match part {
        StreamPart::Head { head, len } => {
            out.push(HEAD);
            write_id(out, head.last);
            write_id(out, head.max_deleted);
            write_rdb_length(out, head.added);
            write_rdb_length(out, len);
        }
        StreamPart::Producers { settings, added, repeated } => {
            out.push(PRODUCERS);
            for number in [settings.duration_s.into(), settings.size_max.into(), added, repeated] {
                write_rdb_length(out, number);
            }
        }
        StreamPart::Message { producer, message, id } => {
            out.push(MESSAGE);
            write_plain_string(out, producer);
            write_plain_string(out, message);
            write_id(out, id);
        }
        StreamPart::Node { first, listpack } => {
            out.push(NODE);
            out.extend_from_slice(&first.to_bytes());
            write_plain_string(out, listpack.bytes());
        }
        StreamPart::Group { name, last, read } => {
            out.push(GROUP);
            write_plain_string(out, name);
            write_id(out, last);
            write_rdb_length(out, u64::from(read.is_some()));
            if let Some(read) = read {
                write_rdb_length(out, read);
            }
        }
        StreamPart::Consumer { owner, name, seen_ms, active_ms } => {
            out.push(CONSUMER);
            write_rdb_length(out, owner.number().into());
            write_plain_string(out, name);
            out.extend_from_slice(&seen_ms.to_le_bytes());
            out.extend_from_slice(&active_ms.unwrap_or(NEVER).to_le_bytes());
        }
        StreamPart::Pending(pending) if pending.is_released() => {
            out.push(RELEASED);
            out.extend_from_slice(&pending.id.to_bytes());
            write_rdb_length(out, pending.deliveries);
            write_rdb_length(out, pending.turn().into());
        }
        StreamPart::Pending(pending) => {
            out.push(PENDING);
            out.extend_from_slice(&pending.id.to_bytes());
            out.extend_from_slice(&pending.delivered_ms.to_le_bytes());
            write_rdb_length(out, pending.deliveries);
            write_rdb_length(out, pending.owner.number().into());
        }
    }
}

/// A stream that is read element by element.
#[derive(Default)]
pub(super) struct PartialStream {
    stream: Stream,
    head: Option<(Head, u64)>,
    /// Consumers and pending entries belong to the last one.
    groups: Vec<Group>,
    /// The consumers of the last group by the numbers that they had.
    owners: std::collections::HashMap<u64, Owner>,
    /// The released entries of each group with their places.
    released: Vec<Vec<(u64, StreamId)>>,
}

impl PartialStream {
    /// Reads one element. Returns whether it is new.
    pub(super) fn read_part(&mut self, reader: &mut Reader<'_>) -> Result<bool> {
        const NO_GROUP: CodecError = CodecError::Malformed("part of a stream's group without a group");
        match reader.u8()? {
            HEAD if self.head.is_none() => {
                let (last, max_deleted) = (read_id(reader)?, read_id(reader)?);
                let head = Head { last, max_deleted, added: reader.rdb_plain_length()?, ..Head::default() };
                self.head = Some((head, reader.rdb_plain_length()?));
                Ok(true)
            }
            HEAD => Ok(false),
            NODE => {
                let first = raw_id(reader)?;
                read_string(reader)?.with_bytes(|listpack| self.stream.load_node(first, listpack))?;
                Ok(true)
            }
            GROUP => {
                let (name, last) = (read_string(reader)?.into_vec(), read_id(reader)?);
                let read = match reader.rdb_plain_length()? {
                    0 => None,
                    _ => Some(reader.rdb_plain_length()?),
                };
                self.owners.clear();
                self.released.push(Vec::new());
                self.groups.push(Group::new(&name, last, read));
                Ok(true)
            }
            CONSUMER => {
                let (number, name) = (reader.rdb_plain_length()?, read_string(reader)?);
                let (seen_ms, active_ms) = (i64::from_le_bytes(reader.array()?), i64::from_le_bytes(reader.array()?));
                let active_ms = Some(active_ms).filter(|active_ms| *active_ms != NEVER);
                let group = self.groups.last_mut().ok_or(NO_GROUP)?;
                let owner = name.with_bytes(|name| group.load_consumer(name, seen_ms, active_ms));
                Ok(self.owners.insert(number, owner).is_none())
            }
            PENDING => {
                let (id, delivered_ms) = (raw_id(reader)?, i64::from_le_bytes(reader.array()?));
                let (deliveries, number) = (reader.rdb_plain_length()?, reader.rdb_plain_length()?);
                let owner = *self.owners.get(&number).ok_or(NO_GROUP)?;
                let group = self.groups.last_mut().ok_or(NO_GROUP)?;
                group.load_pending(id, delivered_ms, deliveries)?;
                group.load_owner(id, owner)?;
                Ok(true)
            }
            PRODUCERS => {
                let settings = Idempotency::checked(reader.rdb_plain_length()?, reader.rdb_plain_length()?)?;
                self.stream.load_producers(settings, reader.rdb_plain_length()?, reader.rdb_plain_length()?);
                Ok(true)
            }
            MESSAGE => {
                let (producer, message, id) = (read_string(reader)?, read_string(reader)?, read_id(reader)?);
                producer.with_bytes(|producer| {
                    message.with_bytes(|message| self.stream.load_message(producer, message, id));
                });
                Ok(true)
            }
            RELEASED => {
                let (id, deliveries, place) = (raw_id(reader)?, reader.rdb_plain_length()?, reader.rdb_plain_length()?);
                self.groups.last_mut().ok_or(NO_GROUP)?.load_pending(id, 0, deliveries)?;
                self.released.last_mut().ok_or(NO_GROUP)?.push((place, id));
                Ok(true)
            }
            _ => Err(CodecError::Malformed("part of a stream")),
        }
    }

    pub(super) fn finish(mut self) -> Result<Object> {
        let (head, length) = self.head.ok_or(CodecError::Malformed("stream without its head"))?;
        self.stream.loaded(head, length)?;
        for (group, mut released) in self.groups.iter_mut().zip(self.released) {
            released.sort_unstable();
            released.into_iter().try_for_each(|(_, id)| group.load_released(id))?;
            group.loaded()?;
        }
        self.stream.load_groups(self.groups)?;
        Ok(Object::Stream(self.stream))
    }
}
