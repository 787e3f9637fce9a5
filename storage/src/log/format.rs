//! The bytes of a log, version 1.
//!
//! A log is a run of files (or objects), each of them
//!
//! ```text
//! +---------------------+ 0
//! | "DMLOG\n\n\n"       | 8 bytes
//! | format version      | u32 LE, 1, or 2 of an object that restates
//! | writer              | u64 LE, the process that wrote it
//! | number              | u64 LE, counts the writer's files
//! | lsn                 | u64 LE, of its first entry
//! | checksum            | u64 LE, CRC-64 of all before
//! +---------------------+ 44
//! | frame               | what one flush made durable
//! | frame ...           |
//! +---------------------+
//!
//! frame:
//! | "DMFR" | names u32 | lsn u64 | synced u64 | names bytes u64 | entries bytes u64 |   40 bytes
//! | name: number u32 | seed u64 | created ms u64 | length u32 | bytes               |   as many as the head says
//! | entry ...                                                                      |
//! | CRC-64 of all before in the frame, u64                                         |
//!
//! entry:
//! | database u32 | kind u32 | sequence u64 | now ms u64 | items bytes u64 |         32 bytes
//! | item: length of what follows u32 | keyspace u32 | position u64 | body |
//! ```
//!
//! An item of 4 GiB or more, as the value of a renamed collection may be, has length `u32::MAX` followed by its true
//! length, u64. Only an entry of kind 4 holds such items, which is like kind 0 otherwise.
//!
//! A file of version 2 *restates*: its first frames are those of earlier files of the log, which may be gone, and its lsn is
//! that of the first of them. All else is as in version 1. Only objects in a bucket do it, see `sink/recent.rs`.
//!
//! In an encrypted store the highest bit of a frame's number of names is set. Its names are then a salt of 24 bytes, the tag of
//! the entries, the encrypted names and their tag, and `names bytes` counts all of these; its entries are encrypted, and as long
//! as they are otherwise ([`crate::store::encryption`]). The checksum is that of the encrypted bytes, so a reader without the
//! key finds damage and torn frames as ever.
//!
//! All numbers are little-endian. An *lsn* counts the bytes of all entries of this writer; a frame's lsn is that of its first
//! entry. `synced` is the lsn up to which everything was durable when the frame was written: a damaged frame before that is
//! damage, one after it may be a write that a power cut tore.
//!
//! A name tells which database a number stands for in this frame; seed and creation tell it from others that had the
//! name. An entry holds the effects of one batch of commands under one lock, or of one transaction, on one database: it
//! has one sequence number, and is present whole or not at all. Kind 0 holds effects; kind 1 says that writes before it
//! were not logged, so that only a manifest which holds everything up to its sequence number may be continued by what
//! follows; kind 2 that the database was deleted; kind 3 that it goes on from the entry with the number that its items
//! hold (u64), whatever comes between. An item's body is an effect's, see [`crate::effect`]; its keyspace has the top
//! bit set where the index was followed ([`crate::shown`]). Keyspace `u32::MAX` instead tells which keyspaces the
//! logical indexes show from here on: 16 x u32, and during an import another 16 for the staged ones, each with the top
//! bit set where it is followed; then the next new one, u32.

use std::ops::Range;

use bytes::Bytes;

use crate::codec::{CodecError, Reader, checksum, checksum_of};
use crate::shown::FOLLOWED;
use crate::shown::{INDEXES, NO_KEYSPACE, STAGED, Shown, no_ids};
use crate::store::encryption::{LogCipher, SEALED_FRAME_BYTES};

pub const MAGIC: &[u8; 8] = b"DMLOG\n\n\n";
pub const VERSION: u32 = 1;
/// Of a file that restates others.
pub const VERSION_RESTATING: u32 = 2;
pub const HEADER_BYTES: usize = 44;
pub const FRAME_MAGIC: &[u8; 4] = b"DMFR";
pub const FRAME_HEAD_BYTES: usize = 40;
/// Marks an encrypted frame, in its number of names.
const SEALED: u32 = 1 << 31;
/// At the end of a frame's head: the lengths of its names and of its entries.
pub(super) const LENGTHS_BYTES: usize = 16;
pub const ENTRY_HEAD_BYTES: usize = 32;
pub const ITEM_HEAD_BYTES: usize = 16;
pub const CHECKSUM_BYTES: usize = 8;
/// In the place of an item's length: that does not fit, and follows as 8 bytes.
const WIDE: u32 = u32::MAX;
/// The keyspace of an item that lists the keyspaces.
pub const IDS: u32 = u32::MAX;

/// The head of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHead {
    pub writer: u64,
    pub number: u64,
    pub lsn: u64,
}

impl FileHead {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        self.encode_as(VERSION)
    }

    /// The head of a file that begins with frames of earlier ones; `lsn` is that of the first of them.
    pub fn encode_restating(&self) -> [u8; HEADER_BYTES] {
        self.encode_as(VERSION_RESTATING)
    }

    fn encode_as(&self, version: u32) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&version.to_le_bytes());
        for field in [self.writer, self.number, self.lsn] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&checksum(&out).to_le_bytes());
        out.try_into().expect("the fields have these lengths together")
    }

    /// # Errors
    /// When the bytes are no head of a version that this build reads.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        if reader.take(8)? != MAGIC {
            return Err(CodecError::Magic("log"));
        }
        match reader.u32_le()? {
            VERSION | VERSION_RESTATING => {}
            version => return Err(CodecError::Version { what: "log", version }),
        }
        let head = Self { writer: reader.u64_le()?, number: reader.u64_le()?, lsn: reader.u64_le()? };
        let (stored, computed) = (reader.u64_le()?, checksum(&bytes[..HEADER_BYTES - CHECKSUM_BYTES]));
        if stored == computed { Ok(head) } else { Err(CodecError::Checksum { stored, computed }) }
    }

    /// Whether the file says that it restates others. Its head may be damaged otherwise.
    pub fn is_restating(file: &[u8]) -> bool {
        let is_log = file.starts_with(MAGIC);
        is_log && file.get(MAGIC.len()..MAGIC.len() + 4) == Some(&VERSION_RESTATING.to_le_bytes()[..])
    }
}

/// A database, told from others that have had its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    pub name: Box<str>,
    pub seed: u64,
    pub created_ms: u64,
}

/// A database as frames introduce it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedDatabase {
    pub number: u32,
    pub identity: Identity,
}

const NAME_BYTES_MIN: usize = 24;

/// Bytes before the entries of a frame.
pub fn frame_head_bytes(names: &[NamedDatabase]) -> usize {
    FRAME_HEAD_BYTES + names_bytes(names)
}

fn names_bytes(names: &[NamedDatabase]) -> usize {
    names.iter().map(|name| NAME_BYTES_MIN + name.identity.name.len()).sum()
}

/// The head of a frame, before its entries, and the checksum, after them.
pub type Around = (Vec<u8>, [u8; CHECKSUM_BYTES]);

/// The parts of a frame around its entries.
pub fn frame_around(lsn: u64, synced: u64, names: &[NamedDatabase], entries: &[u8]) -> Around {
    let mut head = fixed_head(names.len() as u32, [lsn, synced, names_bytes(names) as u64, entries.len() as u64]);
    head.reserve(names_bytes(names));
    write_names(&mut head, names);
    let sum = checksum_of(&[&head, entries]);
    (head, sum.to_le_bytes())
}

/// The same of an encrypted frame, whose entries are encrypted where they are.
///
/// # Errors
/// When the system has no randomness: nothing is changed.
pub fn sealed_frame_around(
    cipher: &LogCipher,
    lsn: u64,
    synced: u64,
    names: &[NamedDatabase],
    entries: &mut [u8],
) -> Result<Around, &'static str> {
    let length = names_bytes(names) + SEALED_FRAME_BYTES;
    let mut head = fixed_head(names.len() as u32 | SEALED, [lsn, synced, length as u64, entries.len() as u64]);
    let mut plain = Vec::with_capacity(names_bytes(names));
    write_names(&mut plain, names);
    let sealed = cipher.seal(&head, &plain, entries)?;
    head.extend_from_slice(&sealed);
    let sum = checksum_of(&[&head, entries]);
    Ok((head, sum.to_le_bytes()))
}

fn fixed_head(names: u32, fields: [u64; 4]) -> Vec<u8> {
    let mut head = Vec::with_capacity(FRAME_HEAD_BYTES);
    head.extend_from_slice(FRAME_MAGIC);
    head.extend_from_slice(&names.to_le_bytes());
    fields.iter().for_each(|field| head.extend_from_slice(&field.to_le_bytes()));
    head
}

fn write_names(out: &mut Vec<u8>, names: &[NamedDatabase]) {
    for NamedDatabase { number, identity: Identity { name, seed, created_ms } } in names {
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&seed.to_le_bytes());
        out.extend_from_slice(&created_ms.to_le_bytes());
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(name.as_bytes());
    }
}

fn read_names(bytes: &[u8], count: u32) -> Result<Vec<NamedDatabase>, CodecError> {
    let mut reader = Reader::new(bytes);
    let mut names = Vec::with_capacity(reader.check_count(u64::from(count), NAME_BYTES_MIN)?);
    for _ in 0..count {
        let (number, seed, created_ms) = (reader.u32_le()?, reader.u64_le()?, reader.u64_le()?);
        let length = reader.u32_le()? as usize;
        let name = std::str::from_utf8(reader.take(length)?).map_err(|_| CodecError::Malformed("database name"))?;
        names.push(NamedDatabase { number, identity: Identity { name: name.into(), seed, created_ms } });
    }
    reader.finish()?;
    Ok(names)
}

/// Appends a frame.
pub fn write_frame(out: &mut Vec<u8>, lsn: u64, synced: u64, names: &[NamedDatabase], entries: &[u8]) {
    let (head, sum) = frame_around(lsn, synced, names, entries);
    [&head, entries, &sum].iter().for_each(|part| out.extend_from_slice(part));
}

/// A frame whose checksum is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub lsn: u64,
    pub synced: u64,
    /// None of an encrypted frame, until it is [opened](open_frame).
    pub names: Vec<NamedDatabase>,
    /// The range of its entries in the file.
    pub entries: Range<usize>,
    /// The offset of the next frame in the file.
    pub end: usize,
    pub is_sealed: bool,
}

/// The lengths of names and entries that a frame's head tells; none that the memory could not hold.
pub(super) fn frame_lengths(head: &[u8; FRAME_HEAD_BYTES]) -> Option<(usize, usize)> {
    let mut reader = Reader::new(&head[FRAME_HEAD_BYTES - LENGTHS_BYTES..]);
    let mut next = || usize::try_from(reader.u64_le().ok()?).ok();
    Some((next()?, next()?))
}

/// The lsn, the synced lsn, the lengths of names and entries, and the number of names of what claims to be a frame at `at`.
pub(super) fn frame_head(file: &[u8], at: usize) -> Result<(u64, u64, usize, usize, u32), CodecError> {
    let mut reader = Reader::new(file.get(at..).ok_or(CodecError::Truncated)?);
    if reader.take(4)? != FRAME_MAGIC {
        return Err(CodecError::Magic("log frame"));
    }
    let names = reader.u32_le()?;
    let (lsn, synced) = (reader.u64_le()?, reader.u64_le()?);
    let lengths = [reader.u64_le()?, reader.u64_le()?];
    let total = lengths[0].checked_add(lengths[1]).and_then(|body| body.checked_add(CHECKSUM_BYTES as u64));
    if total.is_none_or(|total| total > reader.remaining() as u64) {
        return Err(CodecError::Truncated);
    }
    Ok((lsn, synced, lengths[0] as usize, lengths[1] as usize, names))
}

/// Reads the frame at `at`.
///
/// # Errors
/// When no frame begins there, it is cut off, or its checksum is wrong.
pub fn read_frame(file: &[u8], at: usize) -> Result<Frame, CodecError> {
    let (lsn, synced, names_bytes, entries_bytes, count) = frame_head(file, at)?;
    let body = at + FRAME_HEAD_BYTES;
    let checked = body + names_bytes + entries_bytes;
    let end = checked + CHECKSUM_BYTES;
    let stored = Reader::new(&file[checked..end]).u64_le()?;
    let computed = checksum(&file[at..checked]);
    if stored != computed {
        return Err(CodecError::Checksum { stored, computed });
    }
    let is_sealed = count & SEALED != 0;
    let names = if is_sealed { Vec::new() } else { read_names(&file[body..body + names_bytes], count)? };
    Ok(Frame { lsn, synced, names, entries: body + names_bytes..checked, end, is_sealed })
}

/// The names and the entries of the encrypted frame at `at`, as [`read_frame`] has found it.
///
/// # Errors
/// When it was not encrypted by this cipher under this head.
pub fn open_frame(
    file: &[u8],
    at: usize,
    frame: &Frame,
    cipher: &LogCipher,
) -> Result<(Vec<NamedDatabase>, Bytes), CodecError> {
    let (_, _, names_bytes, _, count) = frame_head(file, at)?;
    let body = at + FRAME_HEAD_BYTES;
    let (head, names) = (&file[at..body], &file[body..body + names_bytes]);
    let opened = cipher.open(head, names, &file[frame.entries.clone()]);
    let (names, entries) = opened.ok_or(CodecError::Malformed("encryption of a log frame"))?;
    Ok((read_names(&names, count & !SEALED)?, entries.into()))
}

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    Effects,
    /// Writes before it were not logged.
    Resume,
    /// The database was deleted.
    Gone,
    /// The writer does not have the entries between the one that the items name, a number of 8 bytes, and this one.
    Continue,
}

/// The head of an entry; its items follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHead {
    pub database: u32,
    pub kind: EntryKind,
    pub sequence: u64,
    pub now_ms: u64,
    pub items_bytes: u64,
}

impl EntryHead {
    pub fn write(&self, out: &mut Vec<u8>) {
        let kind = match self.kind {
            // Builds that do not know long items must refuse them.
            EntryKind::Effects if self.items_bytes >= u64::from(WIDE) => 4u32,
            EntryKind::Effects => 0,
            EntryKind::Resume => 1,
            EntryKind::Gone => 2,
            EntryKind::Continue => 3,
        };
        let mut head = [0; ENTRY_HEAD_BYTES];
        head[..4].copy_from_slice(&self.database.to_le_bytes());
        head[4..8].copy_from_slice(&kind.to_le_bytes());
        for (at, field) in [self.sequence, self.now_ms, self.items_bytes].into_iter().enumerate() {
            head[8 + 8 * at..16 + 8 * at].copy_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&head);
    }

    /// # Errors
    /// When it is cut off or of an unknown kind.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let database = reader.u32_le()?;
        let kind = match reader.u32_le()? {
            0 | 4 => EntryKind::Effects,
            1 => EntryKind::Resume,
            2 => EntryKind::Gone,
            3 => EntryKind::Continue,
            _ => return Err(CodecError::Malformed("kind of log entry")),
        };
        let (sequence, now_ms, items_bytes) = (reader.u64_le()?, reader.u64_le()?, reader.u64_le()?);
        if items_bytes > reader.remaining() as u64 {
            return Err(CodecError::Truncated);
        }
        Ok(Self { database, kind, sequence, now_ms, items_bytes })
    }
}

/// One item of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogItem<'a> {
    /// `followed`: nothing had expired for it.
    Effect {
        keyspace: u32,
        followed: bool,
        position: u64,
        body: &'a [u8],
    },
    Ids(Shown),
}

/// Appends an effect whose body `write` appends. `keyspace` may have the bit that says that it was followed.
#[inline]
pub fn write_effect(out: &mut Vec<u8>, keyspace: u32, position: u64, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    // In one piece: this is done for each write.
    let mut head = [0; ITEM_HEAD_BYTES];
    head[4..8].copy_from_slice(&keyspace.to_le_bytes());
    head[8..].copy_from_slice(&position.to_le_bytes());
    out.extend_from_slice(&head);
    write(out);
    end_item(out, start);
}

/// Appends which keyspaces the logical indexes show.
pub fn write_ids(out: &mut Vec<u8>, shown: &Shown) {
    let start = out.len();
    let Shown { ids, followed, next } = shown;
    // The form that older versions understand, where it suffices.
    let is_plain = *followed == 0 && ids[STAGED].iter().all(|id| *id == NO_KEYSPACE);
    let count = if is_plain { INDEXES } else { STAGED.end };
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&IDS.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    for (select, id) in ids[..count].iter().enumerate() {
        let mark = if followed >> select & 1 != 0 { FOLLOWED } else { 0 };
        out.extend_from_slice(&(id | mark).to_le_bytes());
    }
    out.extend_from_slice(&next.to_le_bytes());
    end_item(out, start);
}

#[inline]
fn end_item(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start - 4;
    match u32::try_from(length) {
        Ok(narrow) if narrow < WIDE => out[start..start + 4].copy_from_slice(&narrow.to_le_bytes()),
        _ => widen(out, start),
    }
}

/// Makes room for the length of a long item, and writes it.
#[cold]
fn widen(out: &mut Vec<u8>, start: usize) {
    let length = (out.len() - start - 4) as u64;
    let head = [&WIDE.to_le_bytes()[..], &length.to_le_bytes()].concat();
    out.splice(start..start + 4, head);
}

/// Reads the next item.
///
/// # Errors
/// When it is cut off or malformed.
pub fn read_item<'a>(reader: &mut Reader<'a>) -> Result<LogItem<'a>, CodecError> {
    let length = match reader.u32_le()? {
        WIDE => reader.u64_le()?,
        narrow => u64::from(narrow),
    };
    let mut item = Reader::new(reader.take_u64(length)?);
    let (keyspace, position) = (item.u32_le()?, item.u64_le()?);
    if keyspace != IDS {
        let followed = keyspace & FOLLOWED != 0;
        return Ok(LogItem::Effect { keyspace: keyspace & !FOLLOWED, followed, position, body: item.rest() });
    }
    let count = if item.remaining() > 4 * (INDEXES + 1) { STAGED.end } else { INDEXES };
    let mut shown = Shown { ids: no_ids(), followed: 0, next: 0 };
    for (select, id) in shown.ids[..count].iter_mut().enumerate() {
        let marked = item.u32_le()?;
        *id = marked & !FOLLOWED;
        shown.followed |= u32::from(marked & FOLLOWED != 0) << select;
    }
    shown.next = item.u32_le()?;
    item.finish()?;
    Ok(LogItem::Ids(shown))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: u32, name: &str) -> NamedDatabase {
        NamedDatabase { number, identity: Identity { name: name.into(), seed: 7, created_ms: 8 } }
    }

    #[test]
    fn heads_and_frames_come_back() {
        let head = FileHead { writer: 1, number: 2, lsn: 3 };
        let mut file = head.encode().to_vec();
        assert_eq!(FileHead::decode(&file), Ok(head));
        let names = [name(1, "default"), name(9, "shop")];
        write_frame(&mut file, 3, 0, &names, b"entries");
        write_frame(&mut file, 10, 3, &[], b"");
        let first = read_frame(&file, HEADER_BYTES).unwrap();
        assert_eq!((first.lsn, first.synced, &file[first.entries.clone()]), (3, 0, &b"entries"[..]));
        assert_eq!(first.names, names);
        let second = read_frame(&file, first.end).unwrap();
        assert_eq!((second.lsn, second.synced, second.entries.len(), second.end), (10, 3, 0, file.len()));
        assert_eq!(read_frame(&file, second.end), Err(CodecError::Truncated));
    }

    #[test]
    fn damage_is_noticed() {
        let head = FileHead { writer: u64::MAX, number: 2, lsn: 3 }.encode();
        crate::codec::tests::for_each_damage(&head, |bytes| {
            bytes.len() > HEADER_BYTES || FileHead::decode(bytes).is_err()
        });
        let mut frame = Vec::new();
        write_frame(&mut frame, 3, 1, &[name(1, "default")], b"entries");
        crate::codec::tests::for_each_damage(&frame, |bytes| {
            bytes.len() > frame.len() || read_frame(bytes, 0).is_err()
        });
    }

    #[test]
    fn items_come_back() {
        let mut items = Vec::new();
        write_effect(&mut items, 3 | FOLLOWED, u64::MAX, |out| out.extend_from_slice(b"body"));
        let shown = Shown { ids: crate::shown::first_ids(), followed: 0, next: 21 };
        write_ids(&mut items, &shown);
        let mut reader = Reader::new(&items);
        let effect = read_item(&mut reader).unwrap();
        assert_eq!(effect, LogItem::Effect { keyspace: 3, followed: true, position: u64::MAX, body: b"body" });
        assert_eq!(read_item(&mut reader), Ok(LogItem::Ids(shown)));
        assert!(reader.finish().is_ok());
        for length in 1..items.len() {
            let mut reader = Reader::new(&items[..length]);
            let whole = read_item(&mut reader).is_ok() && (reader.is_empty() || read_item(&mut reader).is_ok());
            assert!(!whole || reader.is_empty(), "cut to {length}");
        }
    }

    /// Made as if it had 4 GiB, which no test has the memory for.
    #[test]
    fn a_long_item_comes_back() {
        let mut items = Vec::new();
        write_effect(&mut items, 3, 7, |out| out.extend_from_slice(b"before"));
        let start = items.len();
        write_effect(&mut items, 4, 8, |out| out.extend_from_slice(b"long"));
        widen(&mut items, start);
        write_effect(&mut items, 5, 9, |out| out.extend_from_slice(b"behind"));
        let mut reader = Reader::new(&items);
        for (keyspace, position, body) in [(3, 7, &b"before"[..]), (4, 8, b"long"), (5, 9, b"behind")] {
            let effect = LogItem::Effect { keyspace, followed: false, position, body };
            assert_eq!(read_item(&mut reader), Ok(effect));
        }
        assert!(reader.is_empty());
        let mut cut = Reader::new(&items[start..items.len() - 30]);
        assert!(read_item(&mut cut).is_err());
    }

    /// An entry with such an item is of another kind, so that its length is not taken for the true one.
    #[test]
    fn only_long_entries_may_have_long_items() {
        let kind = |items_bytes: u64| {
            let head = EntryHead { database: 1, kind: EntryKind::Effects, sequence: 2, now_ms: 3, items_bytes };
            let mut bytes = Vec::new();
            head.write(&mut bytes);
            bytes[4]
        };
        assert_eq!([0, u64::from(u32::MAX) - 1, u64::from(u32::MAX), 1 << 40].map(kind), [0, 0, 4, 4]);
    }

    proptest! {
        #[test]
        fn noise_is_nothing(bytes: Vec<u8>) {
            prop_assert!(FileHead::decode(&bytes).is_err());
            prop_assert!(read_frame(&bytes, 0).is_err());
            let mut reader = Reader::new(&bytes);
            while !reader.is_empty() && read_item(&mut reader).is_ok() {}
            let _ = EntryHead::read(&mut Reader::new(&bytes));
        }
    }
}
