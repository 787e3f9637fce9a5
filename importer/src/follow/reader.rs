//! The source's data as units for the queue: first the RDB, then the stream.
//!
//! 1. A key of the RDB becomes `RESTORE key expiry payload REPLACE ABSTTL [IDLETIME seconds]`. The payload holds the
//!    value's bytes as they stand in the RDB, the RDB's version, and a checksum. Until the RDB is over, the place says
//!    that the target is incomplete. The end of the RDB is a unit of its own: it shows the staged data and says where
//!    the stream begins.
//! 2. A command of the stream is passed on byte for byte. Every byte of the stream counts for the offset, including
//!    bytes that are not passed on:
//!    - `SELECT` says where the commands behind it belong;
//!    - what stands between `MULTI` and `EXEC` becomes one unit, which the target applies in one transaction anyway;
//!    - `PING` and `REPLCONF GETACK` are meant for us.
//! 3. Commands of newer servers are translated into commands that the target knows ([`translate`]). A command without a
//!    translation ends the import with its name, or is counted if the user asked for that.
//!
//! 4. Libraries of functions travel beside the batches ([`UnitBatch::functions`](super::queue::UnitBatch)). A staging
//!    target gets those of the RDB all at once, with the unit that shows the data. Those of the stream are asked for in a
//!    form that may be repeated, as what follows a recorded place is read again after a link has dropped.
//!
//! The stream holds effects (`SREM` for a SPOP, `PEXPIREAT` for an EXPIRE, `DEL` for an expiry, the commands that a
//! script has called), so applying it gives the same data anywhere.

use std::io::{self, Read};
use std::sync::atomic::Ordering;

use dormouse_storage::codec::functions::dump_functions;
use dormouse_storage::codec::value::kind;
use dormouse_storage::codec::{CodecError, checksum};
use dormouse_storage::rdb::error::{RdbError, RdbProblem};
use dormouse_storage::rdb::{RdbEntry, RdbReader, RdbRecord};

use super::Interruption;
use super::brought::Tally;
use super::left_out::{LeftOut, Verdict};
use super::meters::ImportMeters;
use super::place::{KEY, SourcePlace};
use super::queue::{Closed, STAGED, Unit, UnitQueue};
use super::source::{COMMAND_BYTES_MAX, Feed, Framing, SourceCommand};
use super::target::Abilities;
use super::translate::{Translated, translate};
use super::wire::request;

/// Limit of a bulk string in a request, and so of a value that travels in one, in bytes.
const PAYLOAD_BYTES_MAX: usize = 512 << 20;
/// Redis 7.2's version. The encodings that we read have not changed since.
const PAYLOAD_VERSION_MAX: u16 = 11;

/// Position in the stream.
#[derive(Clone, Debug)]
pub struct Position {
    pub replid: String,
    /// The number of the last byte that was read.
    pub offset: u64,
    pub index: u64,
}

pub struct SourceReader<'a> {
    pub feed: &'a mut Feed,
    pub queue: &'a UnitQueue,
    pub meters: &'a ImportMeters,
    pub abilities: Abilities,
    /// A copy replaces the target's libraries of functions, rather than adding to them.
    pub replaces: bool,
    /// Data that the target cannot take is counted instead of ending the import.
    pub skips: bool,
    /// The source as the bookkeeping names it.
    pub source: String,
    pub run: u64,
    pub position: Position,
    /// The history continues under a new name, which the target has not recorded.
    pub renamed: bool,
    /// Keys whose values the target lacks at this position.
    pub left_out: LeftOut,
}

/// The reason that reading ended.
enum Stop {
    Interruption(Interruption),
    /// The session is over.
    Closed,
}

impl From<Interruption> for Stop {
    fn from(fault: Interruption) -> Self {
        Self::Interruption(fault)
    }
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl SourceReader<'_> {
    /// Reads the RDB, if one comes. Then reads the stream, if `follows`, until the session is over. Tells the queue the
    /// outcome.
    pub fn run(mut self, snapshot: bool, follows: bool) {
        let outcome = match self.read(snapshot, follows) {
            Ok(()) | Err(Stop::Closed) => Ok(()),
            Err(Stop::Interruption(fault)) => Err(fault),
        };
        self.queue.end(outcome);
    }

    fn read(&mut self, snapshot: bool, follows: bool) -> Result<(), Stop> {
        if snapshot {
            self.snapshot()?;
        } else if self.renamed {
            self.queue.push(&mut Unit::turn(false), self.place())?;
        }
        if follows { self.stream() } else { Ok(()) }
    }

    fn snapshot(&mut self) -> Result<(), Stop> {
        let framing = self.feed.framing().map_err(|error| self.dropped(&error))?;
        let framing = framing.map_err(|line| {
            Interruption::Dropped(format!("the source {} sends {line:?} in place of an RDB", self.source))
        })?;
        let bytes = if let Framing::Bytes(bytes) = framing { bytes } else { u64::MAX };
        self.meters.snapshot_total.store(if bytes == u64::MAX { 0 } else { bytes }, Ordering::Relaxed);
        self.left_out = LeftOut::default();
        // The reader borrows the feed; the other fields are used beside it.
        let (source, run, indexes) = (self.source.clone(), self.run, self.abilities.indexes);
        let stages = self.abilities.stages;
        let base = if stages { STAGED } else { 0 };
        let unit = Unit::default();
        let (mut libraries, mut libraries_bytes) = (Vec::new(), 0);
        let takes_functions = self.abilities.commands.contains("FUNCTION");
        let mut loading = Loading { queue: self.queue, unit, source: &source, run, step: 0, base, index: 0 };
        let faulty = |error: RdbError| rdb_fault(&source, &error);
        let mut rdb = RdbReader::new(self.feed.by_ref().take(bytes)).map_err(faulty)?;
        let version =
            u16::try_from(rdb.version()).map_or(PAYLOAD_VERSION_MAX, |version| version.min(PAYLOAD_VERSION_MAX));
        let takes_expiries = self.abilities.commands.contains("HPEXPIREAT");
        loop {
            let entry = match rdb.next().map_err(faulty)? {
                RdbEntry::Key(RdbRecord { kind: kind::HASH_TTL | kind::HASH_TTL_LISTPACK, key, .. })
                    if !takes_expiries =>
                {
                    let what = "a hash whose fields expire".to_owned();
                    RdbEntry::Unsupported { key: key.with_bytes(<[u8]>::to_vec), what }
                }
                entry => entry,
            };
            match entry {
                RdbEntry::Key(record) => loading.restore(version, record)?,
                RdbEntry::Select(index) if index < indexes => loading.index = index,
                RdbEntry::Select(index) => return Err(too_high(index, indexes).into()),
                RdbEntry::Aux { name, value } if name == b"repl-stream-db" => {
                    // A source that is itself a replica passes on a stream in which an index is already selected.
                    let index = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                    self.position.index = index.unwrap_or(0);
                }
                RdbEntry::Function(code) if takes_functions && stages => {
                    libraries_bytes += code.len();
                    if libraries_bytes > PAYLOAD_BYTES_MAX / 2 {
                        return Err(Interruption::Final("libraries of functions of more than 256 MiB".into()).into());
                    }
                    libraries.push(code);
                }
                RdbEntry::Function(code) if takes_functions => loading.function(&code)?,
                RdbEntry::Function(_) => {
                    refuse(self.skips, &mut loading.unit.tally, "a library of functions", "it")?;
                }
                RdbEntry::ModuleAux { module } => {
                    refuse(self.skips, &mut loading.unit.tally, &format!("data of the module {module}"), "it")?;
                }
                RdbEntry::Unsupported { key, what } => {
                    let name = format!("key `{}` of index {}", key.escape_ascii(), loading.index);
                    refuse(self.skips, &mut loading.unit.tally, &what, &name)?;
                    self.left_out.add(loading.index, &key);
                    loading.unit.tally.marks.append(&mut self.left_out.take_changes());
                }
                RdbEntry::Aux { .. } | RdbEntry::Resize { .. } => {}
                RdbEntry::End => break,
            }
            self.meters.snapshot_bytes.store(rdb.offset(), Ordering::Relaxed);
        }
        self.meters.snapshot_bytes.store(rdb.offset(), Ordering::Relaxed);
        // Values left out behind the last key.
        let mut left_tally = std::mem::take(&mut loading.unit.tally);
        let (limited, rest) = rdb.into_inner();
        let unread = limited.limit();
        self.feed.unread(rest);
        match framing {
            Framing::Bytes(_) if unread == 0 => {}
            Framing::Bytes(_) => {
                return Err(Interruption::Final("the RDB is shorter than the source has said".into()).into());
            }
            Framing::Mark(mark) => {
                let mut end = [0; 40];
                self.feed.read_exact(&mut end).map_err(|error| self.dropped(&error))?;
                if end != mark {
                    return Err(Interruption::Final(
                        "the RDB does not end at the length that the source announced".into(),
                    )
                    .into());
                }
            }
        }
        let mut turn = Unit::turn(stages);
        turn.tally.append(&mut left_tally);
        if stages && takes_functions && (self.replaces || !libraries.is_empty()) {
            let payload = dump_functions(PAYLOAD_VERSION_MAX, libraries.iter().map(Vec::as_slice));
            let policy: &[u8] = if self.replaces { b"FLUSH" } else { b"APPEND" };
            turn.functions.push([&b"FUNCTION"[..], b"RESTORE", &payload, policy].map(<[u8]>::to_vec).into());
        }
        self.queue.push(&mut turn, self.place())?;
        Ok(())
    }

    fn stream(&mut self) -> Result<(), Stop> {
        let mut command = SourceCommand::default();
        let mut unit = Unit::default();
        let mut transaction = false;
        loop {
            command.read(self.feed).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => Interruption::Final(format!("the source {}: {error}", self.source)),
                _ => self.dropped(&error),
            })?;
            self.position.offset += command.bytes.len() as u64;
            let name = String::from_utf8_lossy(command.word(0)).to_ascii_uppercase();
            match name.as_str() {
                "PING" => {}
                "REPLCONF" => self.meters.acknowledge_from.store(self.position.offset, Ordering::Relaxed),
                "SELECT" => {
                    let index = std::str::from_utf8(command.word(1)).ok().and_then(|text| text.parse::<u64>().ok());
                    let index =
                        index.ok_or_else(|| Interruption::Final("the stream selects an invalid index".into()))?;
                    if index >= self.abilities.indexes {
                        return Err(too_high(index, self.abilities.indexes).into());
                    }
                    self.position.index = index;
                }
                "MULTI" => transaction = true,
                "EXEC" => transaction = false,
                "FUNCTION" if self.abilities.commands.contains("FUNCTION") => {
                    let change = repeatable(&command);
                    unit.functions
                        .push(change.ok_or_else(|| {
                            Interruption::Final("the stream has a malformed command FUNCTION".into())
                        })?);
                }
                _ => {
                    let key = command.word(1);
                    let key = || format!("`{}`", key[..key.len().min(80)].escape_ascii());
                    let translated = match self.judge(&name, &command) {
                        Verdict::Pass => translate(&name, &command, &self.abilities),
                        verdict => {
                            unit.tally.skipped.add("writes to keys that the copy has left out", 1);
                            let instead =
                                if let Verdict::Instead(request) = verdict { vec![request] } else { Vec::new() };
                            Translated::Requests { requests: instead, without: None }
                        }
                    };
                    match translated {
                        Translated::AsIs => unit.add(self.position.index, &command.bytes),
                        Translated::Requests { requests, without } => {
                            if let Some(what) = without {
                                refuse(self.skips, &mut unit.tally, what, &key())?;
                            }
                            requests.iter().for_each(|request| unit.add(self.position.index, request));
                        }
                        Translated::Unsupported => {
                            refuse(self.skips, &mut unit.tally, &format!("the command {name}"), &key())?;
                        }
                    }
                    unit.tally.marks.append(&mut self.left_out.take_changes());
                    unit.swaps |= name == "SWAPDB";
                }
            }
            if unit.bytes() as u64 > COMMAND_BYTES_MAX {
                return Err(Interruption::Final("a transaction of more than a gigabyte".into()).into());
            }
            if !transaction {
                self.queue.push(&mut unit, self.place())?;
            }
        }
    }

    /// Returns how a command of the stream is treated, given the keys that the copy has left out.
    fn judge(&mut self, name: &str, command: &SourceCommand) -> Verdict {
        if self.left_out.is_empty() {
            return Verdict::Pass;
        }
        let words: Vec<&[u8]> = command.words().collect();
        self.left_out.judge(name, &words, self.position.index)
    }

    fn place(&self) -> SourcePlace {
        let Position { replid, offset, index } = self.position.clone();
        SourcePlace::Following { source: self.source.clone(), replid, offset, index }
    }

    fn dropped(&self, error: &io::Error) -> Interruption {
        Interruption::dropped(&format!("the source {}", self.source), error)
    }
}

/// The RDB on its way into the queue.
struct Loading<'a> {
    queue: &'a UnitQueue,
    unit: Unit,
    source: &'a str,
    run: u64,
    step: u64,
    /// The offset added to the index.
    base: u64,
    index: u64,
}

impl Loading<'_> {
    fn restore(&mut self, version: u16, record: RdbRecord<'_>) -> Result<(), Stop> {
        let key = record.key.into_vec();
        if key == KEY.as_bytes() {
            let text =
                format!("the source has a key {KEY}: remove it there, the bookkeeping of the import has this name");
            return Err(Interruption::Final(text).into());
        }
        if record.value.len() > PAYLOAD_BYTES_MAX - 16 {
            let key = key.escape_ascii();
            return Err(Interruption::Final(format!(
                "key `{key}` has a value of more than 512 MiB, which no request can carry"
            ))
            .into());
        }
        let mut payload = Vec::with_capacity(record.value.len() + 11);
        payload.push(record.kind);
        payload.extend_from_slice(record.value);
        payload.extend_from_slice(&version.to_le_bytes());
        payload.extend_from_slice(&checksum(&payload).to_le_bytes());
        // Zero would mean that the key does not expire. One millisecond later it has expired just as well.
        let expiry = record.expiry_ms.map_or(0, |at| at.max(1)).to_string();
        let idle = record.idle_s.map(|idle| idle.to_string());
        let mut words: Vec<&[u8]> = vec![b"RESTORE", &key, expiry.as_bytes(), &payload, b"REPLACE", b"ABSTTL"];
        if let Some(idle) = &idle {
            words.extend([&b"IDLETIME"[..], idle.as_bytes()]);
        }
        let mut bytes = Vec::with_capacity(words.iter().map(|word| word.len() + 16).sum());
        request(&mut bytes, &words);
        self.unit.add(self.base + self.index, &bytes);
        self.unit.is_key = true;
        self.push()
    }

    fn function(&mut self, code: &[u8]) -> Result<(), Stop> {
        self.unit.functions.push([&b"FUNCTION"[..], b"LOAD", b"REPLACE", code].map(<[u8]>::to_vec).into());
        self.push()
    }

    fn push(&mut self) -> Result<(), Stop> {
        self.step += 1;
        let place = SourcePlace::Incomplete { source: self.source.to_string(), run: self.run, step: self.step };
        self.queue.push(&mut self.unit, place)?;
        Ok(())
    }
}

/// A change of libraries, so that it may be repeated; `None`: it is none. `LOAD` and `RESTORE` replace what is there, and the
/// target takes the deletion of what is gone.
fn repeatable(command: &SourceCommand) -> Option<Vec<Vec<u8>>> {
    let mut words: Vec<Vec<u8>> = command.words().map(<[u8]>::to_vec).collect();
    let is = |word: &[u8], text: &str| word.eq_ignore_ascii_case(text.as_bytes());
    let kind = words.get(1)?.to_ascii_uppercase();
    match &kind[..] {
        b"LOAD" if !is(words.get(2)?, "REPLACE") => words.insert(2, b"REPLACE".to_vec()),
        b"RESTORE" if !words.get(3).is_some_and(|policy| is(policy, "FLUSH")) => {
            words.truncate(3);
            words.push(b"REPLACE".to_vec());
        }
        b"LOAD" | b"RESTORE" | b"DELETE" | b"FLUSH" => {}
        _ => return None,
    }
    Some(words)
}

/// Counts what the target cannot take, or ends the import.
fn refuse(skips: bool, tally: &mut Tally, what: &str, whose: &str) -> Result<(), Interruption> {
    if skips {
        tally.skipped.add(what, 1);
        return Ok(());
    }
    Err(Interruption::Final(format!(
        "the target cannot take {what} ({whose}); with --skip-unsupported such things are left out and counted"
    )))
}

fn too_high(index: u64, indexes: u64) -> Interruption {
    Interruption::Final(format!("the source uses the SELECT index {index}, the target has {indexes}"))
}

fn rdb_fault(source: &str, error: &RdbError) -> Interruption {
    match &error.problem {
        RdbProblem::Input(_) | RdbProblem::Content(CodecError::Truncated) => {
            Interruption::Dropped(format!("the source {source}, in the middle of the RDB, {error}"))
        }
        _ => Interruption::Final(format!("the RDB of the source {source}, {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_functions_become_such_that_may_be_repeated() {
        for (line, expected) in [
            ("FUNCTION LOAD code", Some("FUNCTION LOAD REPLACE code")),
            ("function load replace code", Some("function load replace code")),
            ("FUNCTION RESTORE payload", Some("FUNCTION RESTORE payload REPLACE")),
            ("FUNCTION RESTORE payload APPEND", Some("FUNCTION RESTORE payload REPLACE")),
            ("FUNCTION RESTORE payload flush", Some("FUNCTION RESTORE payload flush")),
            ("FUNCTION DELETE library", Some("FUNCTION DELETE library")),
            ("FUNCTION FLUSH ASYNC", Some("FUNCTION FLUSH ASYNC")),
            ("FUNCTION LOAD", None),
            ("FUNCTION STATS", None),
            ("FUNCTION", None),
        ] {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let mut bytes = Vec::new();
            request(&mut bytes, &words);
            let mut command = SourceCommand::default();
            command.read(&mut &bytes[..]).unwrap();
            let repeated = repeatable(&command);
            let repeated = repeated
                .map(|words| words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" "));
            assert_eq!(repeated.as_deref(), expected, "{line}");
        }
    }
}
