//! Reading what earlier processes left in the log.
//!
//! 1. The objects of all logs are read, many at once. Then each log is sealed whose writer could still be alive, and what
//!    was added meanwhile is read too. The files of a folder are read one after the other, each while the one before is
//!    decoded. Frame after frame is taken in the order of their lsns. A frame that comes twice (it was written again after
//!    an error) counts once. An object that restates others is read before those of them that are still there.
//! 2. Where no valid frame follows, a log ends. If the bytes there were never durable, as no later frame says so, a
//!    crash tore them, and they are cut off. If they were, they are damage.
//! 3. Entries are collected by database.
//! 4. What was read is made durable before anything is built on it or reported. Bytes that a frame says were durable when it
//!    was written are left alone.
//!
//! A database is refused rather than served without what it has acknowledged: where its log is damaged, or lacks a
//! sequence number. It is not told from the manifest here what a database needs; see [`super::tail`].

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures::executor::block_on;

use super::doubt;
use super::format::{
    EntryHead, EntryKind, FRAME_MAGIC, FileHead, Frame, HEADER_BYTES, Identity, frame_head, open_frame, read_frame,
};
use super::ledger::{LogFiles, Mentions};
pub use super::recovered::{Damage, Entries, LogEntry, ReadLog, Recovered, collect};
use super::sink::{Found, Sink};
use crate::codec::{CodecError, Reader};
use crate::store::StoreError;

/// Seals, reads and cuts every log, and makes durable what was read.
///
/// # Errors
/// When a file cannot be read.
pub fn take_over(sink: &mut dyn Sink) -> Result<(Recovered, LogFiles), StoreError> {
    let mut logs = Vec::new();
    sink.settle()?;
    let written_last = sink.written_last(false)?;
    let mut all = sink.found()?;
    // A process that was overtaken before it came this far must not seal the log of the one that has overtaken it.
    if let Some(owner) = sink.owner() {
        block_on(owner.look())?;
    }
    for writer in sink.predecessors() {
        if all.iter().all(|found| found.writer != writer) {
            all.push(Found { writer, numbers: Vec::new() });
        }
    }
    // Read first: meanwhile a process that is alive notices that it was overtaken, and sealing its log takes few requests.
    let mut bytes = Contents::new();
    find_keys(sink, all.iter().map(|found| found.writer))?;
    fetch_objects(sink, &files_of(&all), &mut bytes)?;
    let ends: Vec<(u64, u64)> =
        all.iter().map(|found| (found.writer, found.numbers.last().copied().unwrap_or(0))).collect();
    let added = sink.seal(&ends)?;
    find_keys(sink, added.iter().map(|(writer, _)| *writer))?;
    fetch_objects(sink, &added, &mut bytes)?;
    for found in all {
        let log = read(sink, &found, &mut bytes)?;
        if let Some(torn) = &log.torn {
            tracing::info!("{torn}: it is cut off");
        }
        if log.damages.is_empty() {
            // The process may have ended before it had synced what is read here, or its last sync may have failed. All of
            // that is in the last file with a frame: each file begins with the first one that was not durable.
            let behind = log.end.filter(|(number, _)| log.last_frame.is_none_or(|(last, _)| last != *number));
            if let Some((number, length)) = log.last_frame {
                sink.cut(found.writer, number, log.durable_of_last(), length)?;
            }
            if let Some((number, length)) = behind {
                sink.cut(found.writer, number, 0, length)?;
            }
        }
        let writes: usize = log.databases.values().map(Vec::len).sum();
        if writes > 0 {
            tracing::info!(writes, databases = log.databases.len(), "read the log of an earlier process");
        }
        logs.push(log);
    }
    add_missing(&mut logs, written_last);
    // Forgets the note only after its use: sooner, a crash in between would hide what it says.
    sink.written_last(true)?;
    for doubt in logs.iter().flat_map(|log| &log.doubts) {
        tracing::warn!("{doubt}");
    }
    let mut files = BTreeMap::new();
    for log in &logs {
        for damage in &log.damages {
            tracing::error!(file = damage.number, "the log is damaged: {}", damage.problem);
        }
        for (number, mentions) in &log.files {
            let mut mentions = mentions.clone();
            if !log.damages.is_empty() {
                // Finding out what was lost needs all of it.
                mentions.last.insert(Identity { name: "".into(), seed: 0, created_ms: 0 }, u64::MAX);
            }
            files.insert((log.writer, *number), mentions);
        }
    }
    Ok((collect(logs), files))
}

/// The same without changing anything, perhaps beside the process that writes.
///
/// # Errors
/// When a file cannot be read.
pub fn look(sink: &mut dyn Sink) -> Result<Vec<ReadLog>, StoreError> {
    let mut attempt = 1;
    loop {
        // Before the files are listed: one that is begun in between is not missed.
        let written_last = sink.written_last(false)?;
        let found = sink.found()?;
        let mut bytes = Contents::new();
        find_keys(sink, found.iter().map(|found| found.writer))?;
        fetch_objects(sink, &files_of(&found), &mut bytes)?;
        let read = found.iter().map(|found| read(sink, found, &mut bytes));
        let mut logs: Vec<_> = read.collect::<Result<_, _>>()?;
        // An object that was deleted meanwhile may be restated by a newer one.
        if attempt == LOOKS_MAX || logs.iter().all(|log| !log.vanished) {
            add_missing(&mut logs, written_last);
            return Ok(logs);
        }
        attempt += 1;
    }
}

/// Adds a doubt about a file that is known to have existed and is missing.
fn add_missing(logs: &mut Vec<ReadLog>, written_last: Option<(u64, u64)>) {
    let Some((writer, number)) = written_last else { return };
    let Some(missing) = doubt::missing_file(logs, (writer, number)) else { return };
    match logs.iter_mut().find(|log| log.writer == writer) {
        Some(log) => log.doubts.push(missing),
        None => logs.push(ReadLog { writer, doubts: vec![missing], ..ReadLog::default() }),
    }
}

/// The most attempts to read a log whose writer deletes parts of it meanwhile.
pub(super) const LOOKS_MAX: usize = 8;

/// Reads the entries of one database from some files, each given with its end for this reader: as few at a time as the
/// sink allows, keeping only the wanted entries of each. Also returns whether a file was missing.
pub(super) fn read_of(
    sink: &mut dyn Sink,
    files: &[((u64, u64), usize)],
    database: &Identity,
) -> Result<(Entries, bool), StoreError> {
    let (mut all, mut vanished) = (Entries::default(), false);
    for files in files.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
        let writer = files[0].0.0;
        let mut log = ReadLog { only: Some(database.clone()), ..log_of(sink, writer)? };
        let file_bytes = sink.file_bytes();
        let log = if file_bytes == 0 {
            let mut contents = Contents::new();
            fetch(sink, &files.iter().map(|(file, _)| *file).collect::<Vec<_>>(), &mut contents)?;
            let in_order = in_order(&mut contents, &mut log);
            read_files(log, file_bytes, in_order.into_iter().map(Ok))?
        } else {
            let one = |((writer, number), end): &((u64, u64), usize)| match sink.read(*writer, *number) {
                Ok(bytes) => Some(Ok((*number, bytes.slice(..bytes.len().min(*end))))),
                Err(error) if error.is_missing() => {
                    vanished = true;
                    None
                }
                Err(error) => Some(Err(error)),
            };
            read_files(log, file_bytes, files.iter().filter_map(one))?
        };
        vanished |= log.vanished;
        all.damage = all.damage.or_else(|| log.damages.first().map(|damage| damage.problem.clone()));
        all.entries.extend(log.databases.into_values().flatten());
    }
    all.entries.sort_by_key(|entry| entry.sequence);
    Ok((all, vanished))
}

/// The bytes of files, by writer and number; none of one that was deleted before it could be read.
type Contents = BTreeMap<(u64, u64), Option<Bytes>>;

fn files_of(found: &[Found]) -> Vec<(u64, u64)> {
    found.iter().flat_map(|found| found.numbers.iter().map(|number| (found.writer, *number))).collect()
}

/// Reads the keys of logs into memory. Before the logs are read: a process that ends deletes its key after its log.
fn find_keys(sink: &dyn Sink, writers: impl Iterator<Item = u64>) -> Result<(), StoreError> {
    let Some(keys) = sink.keys() else { return Ok(()) };
    let mut before = None;
    for writer in writers {
        if before.replace(writer) != Some(writer) {
            keys.find(writer)?;
        }
    }
    Ok(())
}

/// Reads the objects of any logs. Files of a folder are read one after the other instead.
fn fetch_objects(sink: &mut dyn Sink, objects: &[(u64, u64)], contents: &mut Contents) -> Result<(), StoreError> {
    if sink.file_bytes() > 0 { Ok(()) } else { fetch(sink, objects, contents) }
}

/// Reads files of any logs.
fn fetch(sink: &mut dyn Sink, files: &[(u64, u64)], contents: &mut Contents) -> Result<(), StoreError> {
    sink.read_each(files, &mut |file, bytes| {
        match bytes {
            Ok(bytes) => drop(contents.insert(file, Some(bytes))),
            // Deleted meanwhile by the process that writes it, which has no need of it.
            Err(error) if error.is_missing() => drop(contents.insert(file, None)),
            Err(error) => return Err(error),
        }
        Ok(())
    })
}

/// Reads the log of one writer, whose objects are taken out of `contents`.
fn read(sink: &mut dyn Sink, found: &Found, contents: &mut Contents) -> Result<ReadLog, StoreError> {
    let (writer, file_bytes) = (found.writer, sink.file_bytes());
    let log = log_of(sink, writer)?;
    if file_bytes > 0 {
        let (mut vanished, mut restating) = (false, false);
        let files = sink.read_in_turn(writer, &found.numbers).filter_map(|(number, file)| match file {
            Err(error) if error.is_missing() => {
                vanished = true;
                None
            }
            file => Some(file.map(|file| (number, file))),
        });
        let in_order = files.take_while(|file| {
            restating = file.as_ref().is_ok_and(|(_, file)| FileHead::is_restating(file));
            !restating
        });
        let mut log = read_files(log, file_bytes, in_order)?;
        log.vanished |= vanished;
        if !restating {
            return Ok(log);
        }
        // Objects that were copied into a folder.
        fetch(sink, &files_of(std::slice::from_ref(found)), contents)?;
    }
    let mut log = log_of(sink, writer)?;
    let in_order = in_order(contents, &mut log);
    read_files(log, file_bytes, in_order.into_iter().map(Ok))
}

/// A log of which nothing is read yet.
fn log_of(sink: &dyn Sink, writer: u64) -> Result<ReadLog, StoreError> {
    let mut log = ReadLog { writer, ..ReadLog::default() };
    if let Some(keys) = sink.keys() {
        log.cipher = keys.find(writer)?;
        log.refuses_plain = !keys.allows_plain();
    }
    Ok(log)
}

/// The same of files in the order in which their frames follow each other.
fn read_files(
    mut log: ReadLog,
    file_bytes: u64,
    files: impl Iterator<Item = Result<(u64, Bytes), StoreError>>,
) -> Result<ReadLog, StoreError> {
    let writer = log.writer;
    let mut expected = None;
    let mut before = None;
    let mut gap = false;
    // The offset of a frame that could not be read, and its length if no crash has broken it.
    let mut broken: Option<(u64, usize, u64, CodecError, Option<usize>)> = None;
    let mut files = files;
    while let Some(file) = files.next() {
        let (number, file) = file?;
        // Unneeded files are gone, also from between others. The sequence numbers of a database tell what it lacks.
        gap |= before.is_some_and(|before| before + 1 != number);
        before = before.max(Some(number));
        if file.is_empty() {
            // A seal stays: the process that it shuts out may not have noticed it yet. A file was begun and never written.
            if file_bytes > 0 {
                log.files.insert(number, Mentions::default());
            }
            continue;
        }
        log.bytes += file.len() as u64;
        log.files.insert(number, Mentions::default());
        log.end = Some((number, 0));
        log.cut_short = Some(number).filter(|_| doubt::is_cut(&file));
        let head = match FileHead::decode(&file) {
            Ok(head) => head,
            // A file that was begun and never synced.
            Err(_) if file.len() < HEADER_BYTES || is_empty(&file) => continue,
            Err(error) => {
                log.damages.push(damage(writer, number, 0, &error));
                if matches!(error, CodecError::Version { .. }) {
                    continue;
                }
                // The frames have checksums of their own.
                FileHead { writer, number, lsn: read_frame(&file, HEADER_BYTES).map_or(0, |frame| frame.lsn) }
            }
        };
        let from = *expected.get_or_insert(head.lsn);
        if head.lsn > from {
            if !gap {
                let problem = format!("log {:016x} lacks its bytes {from} to {}", writer, head.lsn);
                log.damages.push(Damage { writer, number, problem });
            }
            expected = Some(head.lsn);
        }
        gap = false;
        if let Some(at) = read_frames(&mut log, number, &file, HEADER_BYTES, &mut expected)? {
            let error = read_frame(&file, at).err().unwrap_or(CodecError::Malformed("log frame out of order"));
            let doubted = match file_bytes {
                // An object exists whole or not at all.
                0 => Some(file.len().saturating_sub(at)),
                _ => doubt::broken_frame(&file, at),
            };
            broken = Some((number, at, expected.unwrap_or(0), error, doubted));
            if let Some(problem) = beyond(&mut log, number, &file, at, &mut expected)? {
                log.damages.push(Damage { writer, number, problem });
            }
        } else {
            broken = None;
        }
        make_room(&mut log, number, files.size_hint().1.unwrap_or(0));
    }
    // A file's broken end may have been written again into the next one.
    if let Some((number, at, at_lsn, error, doubted)) = broken
        && expected == Some(at_lsn)
    {
        let name = super::sink::name(writer, number);
        match doubted {
            Some(bytes) => {
                let what = format!(
                    "{name}: the last {bytes} bytes, from byte {at} on, are no whole frame ({error}), and a power cut leaves \
                     others; a write that a full disk has cut short was never acknowledged and looks the same"
                );
                log.doubts.push(format!("{what}: {}", doubt::after(Some(&log))));
            }
            None => log.torn = Some(format!("{name} is not complete from byte {at} on: {error}")),
        }
    }
    Ok(log)
}

/// Makes room for the entries of `left` files like the one just read. Room that is not used costs nothing, but growing step
/// by step moves all entries into fresh memory each time.
fn make_room(log: &mut ReadLog, number: u64, left: usize) {
    let Some(mentions) = log.files.get(&number) else { return };
    for identity in mentions.last.keys() {
        let Some(entries) = log.databases.get_mut(identity) else { continue };
        let of_file = entries.len() - log.counted.get(identity).copied().unwrap_or(0);
        log.counted.insert(identity.clone(), entries.len());
        entries.reserve(of_file * left);
    }
}

/// The files of a log, in the order in which their frames follow each other.
fn in_order(contents: &mut Contents, log: &mut ReadLog) -> Vec<(u64, Bytes)> {
    let mut later = contents.split_off(&(log.writer, 0));
    contents.append(&mut later.split_off(&(log.writer + 1, 0)));
    let mut files = Vec::with_capacity(later.len());
    for ((_, number), bytes) in later {
        match bytes {
            Some(bytes) => files.push((number, bytes)),
            None => log.vanished = true,
        }
    }
    // All other logs are read in the order of their numbers, however damaged they are.
    if files.iter().any(|(_, file)| FileHead::is_restating(file)) {
        let mut begins_at = 0;
        let mut placed = Vec::with_capacity(files.len());
        for (number, file) in files {
            // A file with an unreadable head keeps its place after the one before it.
            begins_at = FileHead::decode(&file).map_or(begins_at, |head| head.lsn);
            placed.push((begins_at, number, file));
        }
        placed.sort_by_key(|(begins_at, number, _)| (*begins_at, *number));
        files = placed.into_iter().map(|(_, number, file)| (number, file)).collect();
    }
    files
}

fn damage(writer: u64, number: u64, at: usize, error: &CodecError) -> Damage {
    let problem = format!("log/{writer:016x}/{number:012} is damaged at byte {at}: {error}");
    Damage { writer, number, problem }
}

/// Reads frames from `at` on. `Some`: the offset where none could be read although the file goes on.
fn read_frames(
    log: &mut ReadLog,
    number: u64,
    file: &Bytes,
    mut at: usize,
    expected: &mut Option<u64>,
) -> Result<Option<usize>, StoreError> {
    loop {
        let mut frame = match read_frame(file, at) {
            Ok(frame) => frame,
            Err(_) => {
                log.end = Some((number, at as u64));
                let is_end = file[at.min(file.len())..].iter().all(|byte| *byte == 0);
                return Ok(if is_end { None } else { Some(at) });
            }
        };
        let end = frame.lsn.saturating_add(frame.entries.len() as u64);
        let wanted = expected.unwrap_or(frame.lsn);
        if frame.lsn > wanted || (frame.lsn < wanted && end > wanted) {
            return Ok(Some(at));
        }
        let entries = match opened(log, file, at, &mut frame) {
            Ok(entries) => entries,
            Err(error) => {
                let name = format!("log/{:016x}/{number:012}", log.writer);
                return Err(StoreError::corrupt(&name, format!("frame at byte {at}: {error}")));
            }
        };
        let names: HashMap<u32, &Identity> = frame.names.iter().map(|name| (name.number, &name.identity)).collect();
        // Written before, and read then.
        let again = frame.lsn < wanted;
        if let Err(error) = read_entries(log, number, &entries, &names, again) {
            let name = format!("log/{:016x}/{number:012}", log.writer);
            return Err(StoreError::corrupt(&name, format!("frame at byte {at}: {error}")));
        }
        log.frames += 1;
        *expected = Some(wanted.max(end));
        if log.last_frame.is_none_or(|(last, _)| last != number) {
            log.frames_of_last.clear();
        }
        log.frames_of_last.push((frame.lsn, at as u64));
        log.synced = log.synced.max(frame.synced);
        at = frame.end;
        log.last_frame = Some((number, at as u64));
    }
}

/// The entries of a frame, decrypted with its names if they are encrypted.
fn opened(log: &ReadLog, file: &Bytes, at: usize, frame: &mut Frame) -> Result<Bytes, CodecError> {
    if !frame.is_sealed {
        return match log.cipher.is_some() || log.refuses_plain {
            true => Err(CodecError::Malformed("log frame, which is not encrypted as all others are")),
            false => Ok(file.slice(frame.entries.clone())),
        };
    }
    let cipher =
        log.cipher.as_ref().ok_or(CodecError::Malformed("log frame: it is encrypted, and its key is missing"))?;
    let (names, entries) = open_frame(file, at, frame, cipher)?;
    frame.names = names;
    Ok(entries)
}

fn read_entries(
    log: &mut ReadLog,
    number: u64,
    bytes: &Bytes,
    names: &HashMap<u32, &Identity>,
    again: bool,
) -> Result<(), CodecError> {
    let mut reader = Reader::new(bytes);
    // Dealt out by number: a frame has many entries of few databases.
    let mut found: HashMap<u32, (u64, Vec<LogEntry>)> = HashMap::new();
    let mentions = log.files.entry(number).or_default();
    while !reader.is_empty() {
        let head = EntryHead::read(&mut reader)?;
        let items = reader.take_u64(head.items_bytes)?;
        if head.kind == EntryKind::Gone {
            let identity = named(names, head.database)?;
            mentions.gone.push(identity.clone());
            log.gone.insert(identity.clone());
            continue;
        }
        let (last, entries) = match found.entry(head.database) {
            Entry::Occupied(found) => found.into_mut(),
            // Those of earlier frames, which would only be copied.
            Entry::Vacant(new) => {
                let before = log.databases.get_mut(named(names, head.database)?).map(std::mem::take);
                new.insert((0, before.unwrap_or_default()))
            }
        };
        *last = head.sequence.max(*last);
        let is_wanted = match &log.only {
            Some(only) => named(names, head.database)? == only,
            None => true,
        };
        if !again && is_wanted {
            // The file is not kept for what little may be wanted of it.
            let items = if log.only.is_some() { Bytes::copy_from_slice(items) } else { bytes.slice_ref(items) };
            entries.push(LogEntry { sequence: head.sequence, now_ms: head.now_ms, kind: head.kind, items });
        }
    }
    for (database, (last, mut entries)) in found {
        let identity = named(names, database)?;
        let mentioned = mentions.last.entry(identity.clone()).or_default();
        *mentioned = last.max(*mentioned);
        let all = log.databases.entry(identity.clone()).or_default();
        match all.is_empty() {
            true => *all = entries,
            false => all.append(&mut entries),
        }
    }
    Ok(())
}

fn named<'n>(names: &HashMap<u32, &'n Identity>, database: u32) -> Result<&'n Identity, CodecError> {
    names.get(&database).copied().ok_or(CodecError::Malformed("entry of a database without a name"))
}

/// Looks for frames after an offset where none could be read. `Some`: the bytes there were durable, so they are damage;
/// the frames after them are read all the same.
fn beyond(
    log: &mut ReadLog,
    number: u64,
    file: &Bytes,
    at: usize,
    expected: &mut Option<u64>,
) -> Result<Option<String>, StoreError> {
    let wanted = expected.unwrap_or(0);
    // Others were not durable either.
    let is_later = |lsn, synced| lsn > wanted && synced > wanted;
    let problem = || {
        let error = read_frame(file, at).err().unwrap_or(CodecError::Malformed("log frame out of order"));
        damage(log.writer, number, at, &error).problem
    };
    match find_frame(file, at + 1, is_later) {
        Search::Nothing => Ok(None),
        Search::TooMuch => Ok(Some(problem())),
        Search::Found(next, lsn) => {
            let problem = problem();
            *expected = Some(lsn);
            read_frames(log, number, file, next, expected)?;
            Ok(Some(problem))
        }
    }
}

/// Whether a file was begun and never synced: its first sector was not written, so that its first frame is not whole.
fn is_empty(file: &Bytes) -> bool {
    file[..HEADER_BYTES].iter().all(|byte| *byte == 0) && matches!(find_frame(file, 0, |_, _| true), Search::Nothing)
}

enum Search {
    Nothing,
    /// Its offset, and its lsn.
    Found(usize, u64),
    /// Too many bytes look like frames to decide.
    TooMuch,
}

/// The search for frames may cost this many times the file's length, since a value may hold bytes that look like
/// frames.
const SEARCH_FACTOR: u64 = 16;

/// Looks for a whole frame from `from` on whose lsn and synced lsn are `wanted`.
fn find_frame(file: &Bytes, from: usize, wanted: impl Fn(u64, u64) -> bool) -> Search {
    let mut budget = SEARCH_FACTOR * file.len() as u64;
    let rest = file.get(from..).unwrap_or_default();
    for at in memchr::memmem::find_iter(rest, FRAME_MAGIC) {
        let Ok((lsn, synced, names, entries, _)) = frame_head(file, from + at) else { continue };
        if !wanted(lsn, synced) {
            continue;
        }
        if read_frame(file, from + at).is_ok() {
            return Search::Found(from + at, lsn);
        }
        let Some(left) = budget.checked_sub((names + entries) as u64) else { return Search::TooMuch };
        budget = left;
    }
    Search::Nothing
}

#[cfg(test)]
mod tests;
