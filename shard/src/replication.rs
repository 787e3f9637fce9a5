//! The stream of a replication: entries of the log as commands that a replica runs.
//!
//! | effect | command |
//! | --- | --- |
//! | the key is gone: deleted, expired, evicted | `DEL` |
//! | a string, with its expiry | `SET ... PXAT` |
//! | another value, with its expiry | `RESTORE ... REPLACE ABSTTL`, in the encoding of Redis 7.0 |
//! | an expiry | `PEXPIREAT` or `PERSIST` |
//! | a command | the command; none if replicas cannot have what it is about, such as the messages of a stream's producers |
//! | a command that only replicas get | the command |
//! | a value of a type that Redis 7.0 does not have | `DEL`, so that nothing else stays under the key |
//! | a command that changes such a value | nothing |
//! | other keyspaces are shown | `SWAPDB`, `FLUSHDB`, `FLUSHALL` |
//!
//! While a database has replicas, its commands leave no effect that depends on this server's time or that Redis 7.0 does
//! not know ([`Flags::BY_KEY_TO_REPLICAS`](crate::commands::Flags)).
//!
//! Invariants:
//! - The commands of one entry are run together: between `MULTI` and `EXEC` if there are several.
//! - The stream does not depend on its readers: each byte has the same offset for all of them.
//! - What an import stages is not told. When the staged data is shown the stream ends, as a reader lacks it.

use std::collections::HashSet;
use std::sync::LazyLock;

use dormouse_storage::codec::Reader;
use dormouse_storage::codec::dump::dump_encoded_for;
use dormouse_storage::codec::value::{LoadedValue, RdbReaders, decode_value, kind};
use dormouse_storage::effect::{self, EffectBody};
use dormouse_storage::log::format::{LogItem, read_item};
use dormouse_storage::shown::{INDEXES, Ids};
use dormouse_types::Limits;

use crate::commands::{FAMILIES, Flags};

/// Replicas get what Redis 7.0 reads, as all later servers do. No replica says how old it is.
pub const READERS: RdbReaders = RdbReaders::REDIS_7_0;

/// The names of commands that replicas are not told, because Redis 7.0 does not have the type of their key.
static UNKNOWN: LazyLock<HashSet<&'static [u8]>> = LazyLock::new(|| {
    let rows = FAMILIES.iter().flat_map(|family| family.commands).map(|command| &command.row);
    rows.filter(|row| row.flags.contains(Flags::NOT_TO_REPLICAS)).map(|row| row.name.as_bytes()).collect()
});

/// The stream cannot go on: a reader needs everything again.
#[derive(Debug, PartialEq, Eq)]
pub struct StreamEnd(pub String);

pub struct ReplicaStream {
    /// The keyspaces that the logical indexes show.
    ids: Ids,
    /// The index that the readers have selected; `None`: some of them another one.
    selected: Option<usize>,
    limits: Limits,
    /// The commands of one entry.
    commands: Vec<u8>,
}

impl ReplicaStream {
    pub fn new(ids: Ids, limits: Limits) -> Self {
        Self { ids, selected: None, limits, commands: Vec::new() }
    }

    /// A reader begins here, and has selected nothing.
    pub fn begin(&mut self) {
        self.selected = None;
    }

    /// Appends the commands of an entry.
    ///
    /// # Errors
    /// When a reader cannot follow. Some of the entry may have been appended.
    pub fn entry(&mut self, items: &[u8], out: &mut Vec<u8>) -> Result<(), StreamEnd> {
        let malformed = |error: &dyn std::fmt::Display| StreamEnd(format!("an entry of the log is malformed: {error}"));
        let mut reader = Reader::new(items);
        let mut count = 0;
        // FLUSHALL leaves one for each index.
        let mut shown: Option<Ids> = None;
        self.commands.clear();
        while reader.remaining() > 0 {
            match read_item(&mut reader).map_err(|error| malformed(&error))? {
                LogItem::Effect { keyspace, body, .. } => {
                    if let Some(ids) = shown.take() {
                        count += self.show(&ids, count, out)?;
                    }
                    let Some(index) = self.ids[..INDEXES].iter().position(|id| *id == keyspace) else { continue };
                    let body = effect::read(body).ok_or_else(|| malformed(&"an effect"))?;
                    if matches!(body, EffectBody::Kept(_) | EffectBody::Repeated { .. }) || is_unknown(&body) {
                        continue;
                    }
                    self.select(index, count, out);
                    count += 1;
                    self.effect(body).map_err(|error| malformed(&error))?;
                }
                LogItem::Ids(now) => shown = Some(now.ids),
            }
        }
        if let Some(ids) = shown {
            count += self.show(&ids, count, out)?;
        }
        if count > 1 {
            command(out, &[b"MULTI"]);
        }
        out.extend_from_slice(&self.commands);
        if count > 1 {
            command(out, &[b"EXEC"]);
        }
        if self.commands.capacity() > COMMANDS_KEPT_BYTES {
            self.commands = Vec::new();
        }
        Ok(())
    }

    /// Selects an index: before the entry if it has no command yet.
    fn select(&mut self, index: usize, count: usize, out: &mut Vec<u8>) {
        if self.selected != Some(index) {
            let to = if count == 0 { out } else { &mut self.commands };
            command(to, &[b"SELECT", number(index as u64).as_bytes()]);
            self.selected = Some(index);
        }
    }

    fn effect(&mut self, body: EffectBody) -> Result<(), dormouse_storage::codec::CodecError> {
        let out = &mut self.commands;
        match body {
            EffectBody::Delete { key } => command(out, &[b"DEL", &key]),
            EffectBody::Value { key, kind, .. } if READERS.lacks(kind) => command(out, &[b"DEL", &key]),
            EffectBody::Expiry { key, expiry: Some(at) } => command(out, &[b"PEXPIREAT", &key, number(at).as_bytes()]),
            EffectBody::Expiry { key, expiry: None } => command(out, &[b"PERSIST", &key]),
            EffectBody::Kept(_) | EffectBody::Repeated { .. } => {}
            EffectBody::Command(request) | EffectBody::Told(request) => {
                let request = request.as_request();
                head(out, request.len());
                request.iter().for_each(|word| bulk(out, word));
            }
            EffectBody::Value { key, expiry, kind: kind::STRING, value } => {
                let mut reader = Reader::new(&value);
                if let LoadedValue::Text(text) = decode_value(kind::STRING, &mut reader, &self.limits)? {
                    text.with_bytes(|text| match expiry {
                        Some(at) => command(out, &[b"SET", &key, text, b"PXAT", number(at).as_bytes()]),
                        None => command(out, &[b"SET", &key, text]),
                    });
                }
            }
            EffectBody::Value { key, expiry, kind, value } => {
                let mut payload = Vec::new();
                if dump_encoded_for(READERS, kind, &value, &self.limits, &mut payload)? {
                    let at = number(expiry.unwrap_or(0));
                    command(out, &[b"RESTORE", &key, at.as_bytes(), &payload, b"REPLACE", b"ABSTTL"]);
                } else {
                    // RdbReaders that lack the type do not keep what the key held before.
                    command(out, &[b"DEL", &key]);
                }
            }
        }
        Ok(())
    }

    /// Tells what the logical indexes show from now on. Returns the number of commands.
    fn show(&mut self, ids: &Ids, mut count: usize, out: &mut Vec<u8>) -> Result<usize, StreamEnd> {
        let (before, staged) = self.ids.split_at(INDEXES);
        let mut now = before.to_vec();
        if ids[..INDEXES].iter().any(|id| !now.contains(id) && staged.contains(id)) {
            return Err(StreamEnd("an import has replaced the data".to_owned()));
        }
        self.ids = *ids;
        let begun = count;
        let all_new = ids[..INDEXES].iter().all(|id| !now.contains(id));
        if all_new {
            command(&mut self.commands, &[b"FLUSHALL"]);
            return Ok(1);
        }
        for index in 0..INDEXES {
            if now[index] != ids[index]
                && let Some(other) = now.iter().position(|id| *id == ids[index])
            {
                let (one, two) = (number(index as u64), number(other as u64));
                command(&mut self.commands, &[b"SWAPDB", one.as_bytes(), two.as_bytes()]);
                now.swap(index, other);
                count += 1;
            }
        }
        for index in 0..INDEXES {
            if now[index] != ids[index] {
                self.select(index, count, out);
                command(&mut self.commands, &[b"FLUSHDB"]);
                count += 1;
            }
        }
        Ok(count - begun)
    }
}

/// Whether an effect is a command on a value that replicas do not have.
fn is_unknown(body: &EffectBody) -> bool {
    let EffectBody::Command(request) = body else { return false };
    let name = request.as_request().get(0).unwrap_or_default().to_ascii_uppercase();
    UNKNOWN.contains(&name[..])
}

/// The buffer of a larger entry is not kept.
const COMMANDS_KEPT_BYTES: usize = 256 << 10;

/// Appends a command.
pub fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    head(out, words.len());
    words.iter().for_each(|word| bulk(out, word));
}

fn head(out: &mut Vec<u8>, words: usize) {
    out.push(b'*');
    out.extend_from_slice(number(words as u64).as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn bulk(out: &mut Vec<u8>, word: &[u8]) {
    out.push(b'$');
    out.extend_from_slice(number(word.len() as u64).as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

fn number(number: u64) -> String {
    itoa::Buffer::new().format(number).to_owned()
}

#[cfg(test)]
mod tests {
    use dormouse_storage::log::format::{write_effect, write_ids};
    use dormouse_storage::shown::{FOLLOWED, NO_KEYSPACE, Shown, first_ids};
    use dormouse_types::record::{Record, Value};
    use dormouse_types::{Collection, Set, Stream, StreamId};

    use super::*;

    /// The commands of an entry, a line each.
    fn told(writer: &mut ReplicaStream, items: &[u8]) -> Result<Vec<String>, StreamEnd> {
        let mut out = Vec::new();
        writer.entry(items, &mut out)?;
        let mut reader = &out[..];
        let mut lines = Vec::new();
        let line = |reader: &mut &[u8]| {
            let end = reader.windows(2).position(|two| two == b"\r\n").unwrap();
            let line = String::from_utf8(reader[..end].to_vec()).unwrap();
            *reader = &reader[end + 2..];
            line
        };
        while !reader.is_empty() {
            let count: usize = line(&mut reader)[1..].parse().unwrap();
            let words: Vec<String> = (0..count)
                .map(|_| {
                    let len: usize = line(&mut reader)[1..].parse().unwrap();
                    let word = String::from_utf8_lossy(&reader[..len]).into_owned();
                    reader = &reader[len + 2..];
                    word
                })
                .collect();
            lines.push(words.join(" "));
        }
        Ok(lines)
    }

    fn writer() -> ReplicaStream {
        ReplicaStream::new(first_ids(), Limits::REDIS)
    }

    type Write<'w> = &'w dyn Fn(&mut Vec<u8>);

    fn items(effects: &[(u32, Write<'_>)]) -> Vec<u8> {
        let mut items = Vec::new();
        effects.iter().for_each(|(keyspace, write)| write_effect(&mut items, *keyspace, 7, |body| write(body)));
        items
    }

    fn shown(change: impl FnOnce(&mut Ids)) -> Vec<u8> {
        let mut ids = first_ids();
        change(&mut ids);
        let mut items = Vec::new();
        write_ids(&mut items, &Shown { ids, followed: 0, next: 99 });
        items
    }

    #[test]
    fn effects_become_commands() {
        let mut writer = writer();
        let set = items(&[(0, &|body| effect::command(body, [&b"INCR"[..], b"n"].into_iter()))]);
        assert_eq!(told(&mut writer, &set).unwrap(), ["SELECT 0", "INCR n"]);
        assert_eq!(told(&mut writer, &set).unwrap(), ["INCR n"]);
        let several = items(&[
            (3, &|body| effect::delete(body, b"k")),
            (3 | FOLLOWED, &|body| effect::expiry(body, b"k", Some(77))),
            (0, &|body| effect::expiry(body, b"k", None)),
            (3, &|body| effect::text(body, b"k", Some(5), b"v")),
            (3, &|body| effect::text(body, b"k", None, b"123")),
        ]);
        assert_eq!(
            told(&mut writer, &several).unwrap(),
            [
                "SELECT 3",
                "MULTI",
                "DEL k",
                "PEXPIREAT k 77",
                "SELECT 0",
                "PERSIST k",
                "SELECT 3",
                "SET k v PXAT 5",
                "SET k 123",
                "EXEC"
            ]
        );
        writer.begin();
        assert_eq!(told(&mut writer, &set).unwrap(), ["SELECT 0", "INCR n"]);
    }

    #[test]
    fn replicas_get_what_they_can_have() {
        let mut writer = writer();
        let one = items(&[(0, &|body| effect::kept(body, [&b"XCFGSET"[..], b"s"].into_iter()))]);
        assert_eq!(told(&mut writer, &one).unwrap(), [""; 0]);
        let several = items(&[
            (0, &|body| effect::kept(body, [&b"XNACK"[..], b"s"].into_iter())),
            (0, &|body| effect::told(body, [&b"XCLAIM"[..], b"s"].into_iter())),
        ]);
        assert_eq!(told(&mut writer, &several).unwrap(), ["SELECT 0", "XCLAIM s"]);
    }

    #[test]
    fn values_are_those_of_redis_7_0() {
        let mut writer = writer();
        let mut set = Set::new();
        set.add(b"member", &Limits::REDIS);
        let mut stream = Stream::new();
        stream.append(StreamId { ms: 1, seq: 1 }, [(&b"f"[..], &b"v"[..])].into_iter(), &Limits::REDIS);
        for (object, encoding) in [(set.into_object(), kind::SET), (stream.into_object(), kind::STREAM_2)] {
            let record = Record::new_object(b"key", object, Some(9));
            let mut out = Vec::new();
            writer.entry(&items(&[(0, &|body| effect::value(body, &record))]), &mut out).unwrap();
            let mut payload = Vec::new();
            let Value::Object(object) = record.value() else { unreachable!() };
            payload.push(encoding);
            READERS.encode(&Value::Object(object), &mut payload);
            payload.extend_from_slice(&10u16.to_le_bytes());
            assert!(out.windows(payload.len()).any(|part| part == payload), "{encoding}");
            assert!(out.ends_with(b"$7\r\nREPLACE\r\n$6\r\nABSTTL\r\n"));
        }
    }

    #[test]
    fn shown_keyspaces_become_swaps_and_flushes() {
        let mut writer = writer();
        assert_eq!(told(&mut writer, &shown(|ids| ids.swap(1, 4))).unwrap(), ["SWAPDB 1 4"]);
        let set = items(&[(4, &|body| effect::delete(body, b"k"))]);
        assert_eq!(told(&mut writer, &set).unwrap(), ["SELECT 1", "DEL k"], "keyspace 4 is shown by index 1 now");
        assert_eq!(told(&mut writer, &shown(|ids| (ids[1], ids[4]) = (4, 20))).unwrap(), ["SELECT 4", "FLUSHDB"]);
        let gone = items(&[(1, &|body| effect::delete(body, b"k"))]);
        assert_eq!(told(&mut writer, &gone).unwrap(), [""; 0], "keyspace 1 is gone");
        let all = shown(|ids| (0..INDEXES).for_each(|index| ids[index] = 40 + index as u32));
        assert_eq!(told(&mut writer, &all).unwrap(), ["FLUSHALL"]);
        assert_eq!(told(&mut writer, &all).unwrap(), [""; 0]);
    }

    #[test]
    fn staged_data_ends_the_stream_when_it_is_shown() {
        let mut writer = writer();
        let stage = shown(|ids| (INDEXES..2 * INDEXES).for_each(|index| ids[index] = 100 + index as u32));
        assert_eq!(told(&mut writer, &stage).unwrap(), [""; 0]);
        let staged = items(&[(116 | FOLLOWED, &|body| effect::delete(body, b"k"))]);
        assert_eq!(told(&mut writer, &staged).unwrap(), [""; 0]);
        let show = shown(|ids| {
            (0..INDEXES).for_each(|index| (ids[index], ids[index + INDEXES]) = (116 + index as u32, NO_KEYSPACE));
        });
        assert!(told(&mut writer, &show).is_err());
    }

    #[test]
    fn malformed_entries_end_the_stream() {
        let mut writer = writer();
        let whole = items(&[(0, &|body| effect::delete(body, b"key"))]);
        for len in 1..whole.len() {
            assert!(told(&mut writer, &whole[..len]).is_err(), "{len}");
        }
    }
}
