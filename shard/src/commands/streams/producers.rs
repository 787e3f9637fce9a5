//! The messages of producers: `XCFGSET`, `XIDMPRECORD`, and the part of `XADD` that remembers them.
//!
//! An entry that a message has become is recorded as the entry with its id, and the message that is bound to it: whatever the
//! history holds when that is replayed, the entry is added. A message that is sent again changes nothing but a counter, and that
//! alone is recorded.

use dormouse_protocol::{Reply, Request};
use dormouse_types::stream::Idempotency;
use dormouse_types::{Stream, StreamId};

use super::ids::strict_id;
use super::trimming::AddOptions;
use super::{CONSUMERS_PER_ELEMENT, has_message_alone, has_options, look};
use crate::commands::args::{Rest, integer, parse};
use crate::error::{Error, Result};
use crate::keyspace::{Change, Keyspace};

/// Memory that a message takes beside its name, and a producer beside its own.
const MESSAGE_BYTES: usize = 160;
const PRODUCER_BYTES: usize = 320;
/// Bytes of a message among those of its producer, and of a producer among all.
const PLACE_BYTES: usize = 72;
const SLOT_BYTES: usize = 100;
/// Messages that are compared in about the time of one element.
const MESSAGES_PER_ELEMENT: usize = 16;

/// The settings of a stream that is made now, if they are not the usual ones.
pub fn settings_of_new(db: &Keyspace<'_>, key: &[u8]) -> Option<Idempotency> {
    let settings = Idempotency::of(db.limits());
    (settings != Idempotency::REDIS && db.peek_collection::<Stream>(key).is_none()).then_some(settings)
}

/// Records the settings of a stream that was made, and the message that an entry was added for.
pub fn record(
    db: &mut Keyspace<'_>,
    key: &[u8],
    settings: Option<Idempotency>,
    message: Option<(&[u8], &[u8], StreamId)>,
) {
    if let Some(settings) = settings {
        record_settings(db, key, settings);
    }
    if let Some((producer, message, id)) = message {
        let id = id.to_string();
        db.effect_kept(key, [&b"XIDMPRECORD"[..], key, producer, message, id.as_bytes()].into_iter());
    }
}

/// Counts a message that was sent again, and records that alone.
pub fn count_repeated(db: &mut Keyspace<'_>, key: &[u8]) {
    db.call_changes(None);
    let counted = db.update_existing(key, |stream: &mut Stream, _| {
        stream.count_repeated();
        Change::Beside(())
    });
    if matches!(counted, Ok(Some(()))) && db.names_effects() {
        db.effect_repeated(key);
    }
}

fn record_settings(db: &mut Keyspace<'_>, key: &[u8], settings: Idempotency) {
    let (duration, size) = (settings.duration_s.to_string(), settings.size_max.to_string());
    let words = [&b"XCFGSET"[..], key, b"IDMP-DURATION", duration.as_bytes(), b"IDMP-MAXSIZE", size.as_bytes()];
    db.effect_kept(key, words.into_iter());
}

/// `XCFGSET key [IDMP-DURATION seconds] [IDMP-MAXSIZE messages]`
///
/// The words are read when the key has been found, as in Redis.
pub fn xcfgset(db: &mut Keyspace<'_>, reply: &mut Reply, (key, words): (&[u8], Rest<'_>)) -> Result<()> {
    if db.read_to_change::<Stream>(key)?.is_none() {
        return Err(Error::NoSuchKey);
    }
    let (mut duration_s, mut size_max) = (None, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let upper = word.to_ascii_uppercase();
        let (name, max, unit, wanted) = match &upper[..] {
            b"IDMP-DURATION" => ("IDMP-DURATION", Idempotency::DURATION_MAX_S, "seconds", &mut duration_s),
            b"IDMP-MAXSIZE" => ("IDMP-MAXSIZE", Idempotency::SIZE_MAX, "entries", &mut size_max),
            _ => return Err(Error::Syntax),
        };
        let value = words.next().ok_or(Error::Syntax)?;
        if wanted.is_some() {
            return Err(Error::Text(format!("ERR {name} specified multiple times").into()));
        }
        let value = u32::try_from(integer(value)?).ok().filter(|value| (1..=max).contains(value));
        let refusal = || Error::Text(format!("ERR {name} must be between 1 and {max} {unit}").into());
        *wanted = Some(value.ok_or_else(refusal)?);
    }
    if duration_s.is_none() && size_max.is_none() {
        return Err(Error::text("ERR At least one parameter must be specified"));
    }
    let settings = db.update_existing(key, |stream: &mut Stream, _| {
        let before = stream.idempotency();
        let settings = Idempotency {
            duration_s: duration_s.unwrap_or(before.duration_s),
            size_max: size_max.unwrap_or(before.size_max),
        };
        match stream.set_idempotency(settings) {
            true => Change::Beside(Some(settings)),
            false => Change::No(None),
        }
    })?;
    if let Some(settings) = settings.flatten() {
        record_settings(db, key, settings);
    }
    reply.ok();
    Ok(())
}

/// All messages may have to be freed.
pub fn cost_of_xcfgset(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    db.peek_collection::<Stream>(request.arg(1)).map_or(0, |stream| {
        let (messages, producers) = stream.message_len();
        messages + producers
    })
}

/// `XIDMPRECORD key producer message id`
pub fn xidmprecord(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, producer, message, id): (&[u8], &[u8], &[u8], &[u8]),
) -> Result<()> {
    let id = strict_id(id, 0)?;
    if producer.is_empty() {
        return Err(Error::text("ERR producer ID must be non-empty"));
    }
    if message.is_empty() {
        return Err(Error::text("ERR idempotent ID must be non-empty"));
    }
    let now = db.now();
    let bound = db.update_existing(key, |stream: &mut Stream, _| {
        if !stream.entries().contains(id) {
            return Change::No(Err(Error::text("ERR No such message in stream")));
        }
        match stream.message(producer, message, now) {
            None => {
                stream.add_message(producer, message, id, now);
                Change::Beside(Ok(true))
            }
            Some(bound) if bound == id => Change::No(Ok(false)),
            Some(_) => {
                let text = "ERR IID already exists for this producer with a different stream ID";
                Change::No(Err(Error::text(text)))
            }
        }
    })?;
    if bound.ok_or(Error::NoSuchKey)?? {
        record(db, key, None, Some((producer, message, id)));
    }
    reply.ok();
    Ok(())
}

/// Looking for a message and its producer.
pub fn cost_of_search(db: &Keyspace<'_>, key: &[u8]) -> usize {
    db.peek_collection::<Stream>(key).map_or(0, |stream| {
        let (messages, producers) = stream.message_len();
        let own = messages.min(stream.idempotency().size_max as usize);
        own / MESSAGES_PER_ELEMENT + producers / CONSUMERS_PER_ELEMENT
    })
}

/// The same, and looking for the entry.
pub fn cost_of_message(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let stream = db.peek_collection::<Stream>(request.arg(1));
    stream.map_or(0, look) + cost_of_search(db, request.arg(1))
}

/// Memory for a message and its producer. Tables that are full grow to twice their size.
pub fn growth_of_message(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let grown = db.peek_collection::<Stream>(request.arg(1)).map_or(0, |stream| {
        let (messages, producers) = stream.message_len();
        let own = messages.min(stream.idempotency().size_max as usize);
        let slots = if producers.is_power_of_two() { producers * SLOT_BYTES } else { 0 };
        own * PLACE_BYTES + slots
    });
    MESSAGE_BYTES + PRODUCER_BYTES + grown
}

pub fn growth_of_xadd(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    if !has_options(request) {
        return 0;
    }
    let names_message = || {
        let parsed = parse::<(&[u8], AddOptions<'_>)>(request, 1);
        parsed.is_ok_and(|(_, added)| added.options.message.is_some())
    };
    if !has_message_alone(request) && !names_message() {
        return 0;
    }
    let words: usize = request.iter().skip(2).map(<[u8]>::len).sum();
    growth_of_message(db, request).saturating_add(words)
}
