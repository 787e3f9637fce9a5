//! An RDB becomes a database's chunks and manifest, without a server.
//!
//! 1. Every item of the RDB is read and checked. Strings stay as they are; any other value is decoded and encoded
//!    again, so that a chunk holds nothing that the engine could not read, or would not have written.
//! 2. Records go through a [`Sorter`](super::sorter) into the order of their positions.
//! 3. A [`Cutter`](super::cutter) says which of them make a segment. Segments are sealed and gathered into chunks.
//! 4. One manifest is committed. Before that the database is as it was; after an error the chunks are deleted again.
//!
//! The keys get keyspaces that were never used, as after a FLUSHALL: earlier effects that the store may still hold name
//! others.

use std::io::Read;
use std::path::Path;

use dormouse_types::record::access_clock;
use dormouse_types::record::block_size;
use dormouse_types::segment::{Placement, SlotPlacement};
use dormouse_types::{Digits, Limits};

use super::SELECT_INDEXES;
use super::cutter::{Cutter, place, write_record};
use super::error::ImportError;
use super::reader::{RdbEntry, RdbReader, RdbRecord};
use super::sorter::Sorter;
use crate::chunk::{ChunkWriter, SegmentLocation};
use crate::codec::segment::{EncodedRecord, RawSegment};
use crate::codec::string::{RdbString, write_plain_string};
use crate::codec::value::{LoadedValue, decode_value, encode_object, kind};
use crate::codec::{CodecError, Reader};
use crate::functions;
use crate::log::recovery::Recovered;
use crate::manifest::{self, ChunkInfo, Manifest, Names, SegmentInfo};
use crate::owner::Ownership;
use crate::store::{Store, StoreError};

/// Bytes of a record beside key and value: its header, with an expiry.
const RECORD_HEAD_BYTES: usize = 15;

/// The access clock has 24 bits.
const IDLE_MAX: u64 = 0xff_ffff;

/// Records between two reports of progress.
const STEP: u64 = 1 << 14;

/// Everything that an import needs to know.
#[derive(Debug, Clone)]
pub struct Import<'a> {
    pub store: &'a Store,
    /// The log's entries of all databases.
    pub recovered: &'a Recovered,
    pub database: &'a str,
    /// The proof that this process owns a store without a lock.
    pub owner: Option<&'a Ownership>,
    /// Whether the database's contents are replaced; else it must be empty.
    pub replace: bool,
    /// Whether unsupported items are left out; else they fail the import.
    pub skip_unsupported: bool,
    /// Unix milliseconds; keys that have expired by then are left out.
    pub now_ms: u64,
    /// Places the keys of a database that is new.
    pub seed: u64,
    /// Tells this process from others that write the same store.
    pub writer: u64,
    /// The folder for records that exceed the memory.
    pub folder: &'a Path,
    /// How many bytes of records are held in memory.
    pub memory_bytes: usize,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportStep<'a> {
    /// Bytes and keys of the RDB read so far.
    Read { bytes: u64, keys: u64 },
    /// A key that this build cannot take, or another item of that kind.
    Unsupported { name: &'a [u8], what: &'a str },
    /// Keys in chunks so far.
    Written { keys: u64 },
}

/// The outcome of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    pub keys: u64,
    /// Keys that had expired.
    pub expired: u64,
    /// Items left out, see [`ImportStep::Unsupported`].
    pub unsupported: u64,
    pub segments: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
}

impl Import<'_> {
    /// Imports an RDB; `watch` is told how far it is.
    ///
    /// # Errors
    /// In every case the database is as it was before.
    pub async fn run(
        &self,
        input: impl Read,
        watch: &mut (dyn FnMut(ImportStep<'_>) + Send),
    ) -> Result<Imported, ImportError> {
        let mut manifest = self.next_manifest().await?;
        let mut imported = Imported::default();
        let (sorter, libraries) = self.read(input, manifest.seed, &mut imported, watch)?;
        if imported.unsupported > 0 && !self.skip_unsupported {
            return Err(ImportError::Unsupported(imported.unsupported));
        }
        manifest.settings.retain(|key, _| !functions::is_library(key));
        manifest.settings.extend(libraries);
        let cutter = Cutter::new(sorter.finish().map_err(ImportError::Spill)?);
        let written = async {
            self.write(&mut manifest, cutter, &mut imported, watch).await?;
            if let Some(owner) = self.owner {
                owner.look().await?;
            }
            Ok::<_, ImportError>(manifest::commit(self.store, &mut manifest).await?)
        };
        if let Err(error) = written.await {
            for chunk in &manifest.chunks {
                // A chunk that stays is garbage, which the next checkpoint finds.
                let _ = self.store.delete(&chunk.name).await;
            }
            return Err(error);
        }
        if let Err(error) = manifest::collect_garbage(self.store, &manifest).await {
            tracing::warn!(database = self.database, %error, "failed to delete old objects");
        }
        imported.stored_bytes = manifest.stored_bytes();
        Ok(imported)
    }

    /// The manifest that follows the present one, without data.
    async fn next_manifest(&self) -> Result<Manifest, ImportError> {
        // A new database, told by its seed and its creation from the one that the log may still speak of.
        let mut manifest = Manifest::new(self.database, self.seed, self.writer, self.now_ms);
        // A damaged manifest is no obstacle to replacing its database: so what was salvaged can be put back.
        let before = match self.replace {
            true => manifest::replaced(self.store, self.database).await?,
            false => manifest::latest(self.store, self.database).await?,
        };
        let stored = before.as_ref().is_some_and(Manifest::holds_data);
        let cut = before.as_ref().map_or(0, |before| before.cut);
        let unfinished = before.as_ref().is_some_and(|before| before.cut > before.sequence);
        if (stored || unfinished || self.recovered.goes_beyond(self.database, cut)) && !self.replace {
            return Err(ImportError::HoldsData(self.database.to_owned()));
        }
        if let Some(before) = before {
            manifest.number = before.number;
            manifest.epoch = before.epoch + 1;
            manifest.next_object = before.next_object;
            manifest.meters = before.meters;
            manifest.settings = before.settings;
            (manifest.source, manifest.expires_ms) = (before.source, before.expires_ms);
        }
        Ok(manifest)
    }

    /// Step 1 and the first half of step 2. Returns the keys, and the settings that keep the libraries of functions.
    fn read(
        &self,
        input: impl Read,
        seed: u64,
        imported: &mut Imported,
        watch: &mut (dyn FnMut(ImportStep<'_>) + Send),
    ) -> Result<(Sorter, Vec<(String, String)>), ImportError> {
        let mut reader = RdbReader::new(input)?;
        let mut libraries = Vec::new();
        let mut sorter = Sorter::new(self.folder, self.memory_bytes);
        let mut encoder = Encoder::new(seed, self.now_ms);
        let (mut index, mut records) = (0, 0);
        loop {
            let unsupported = match reader.next()? {
                RdbEntry::Key(record) => {
                    records += 1;
                    if record.expiry_ms.is_some_and(|at| at <= self.now_ms) {
                        imported.expired += 1;
                    } else {
                        encoder.push(&mut sorter, index, &record)?;
                        imported.keys += 1;
                    }
                    if records % STEP == 0 {
                        watch(ImportStep::Read { bytes: reader.offset(), keys: records });
                    }
                    continue;
                }
                RdbEntry::Select(select) if select >= SELECT_INDEXES => return Err(ImportError::Index(select)),
                RdbEntry::Select(select) => {
                    index = select;
                    continue;
                }
                RdbEntry::Aux { .. } | RdbEntry::Resize { .. } => continue,
                RdbEntry::Unsupported { key, what } => (key, what),
                RdbEntry::Function(source) => match functions::name_of(&source) {
                    Some(name) => {
                        libraries.push(functions::setting(&name, &source));
                        continue;
                    }
                    None => {
                        let first = source.split(|byte| *byte == b'\n').next().unwrap_or_default();
                        (first.to_vec(), "a library of functions without a name".to_owned())
                    }
                },
                RdbEntry::ModuleAux { module } => (module.into_bytes(), "what a module keeps beside keys".to_owned()),
                RdbEntry::End => break,
            };
            imported.unsupported += 1;
            watch(ImportStep::Unsupported { name: &unsupported.0, what: &unsupported.1 });
        }
        watch(ImportStep::Read { bytes: reader.offset(), keys: records });
        let (mut input, behind) = reader.into_inner();
        match input.read(&mut [0]) {
            Ok(0) if behind.is_empty() => Ok((sorter, libraries)),
            _ => Err(ImportError::Trailing),
        }
    }

    /// The second half of step 2, and step 3.
    async fn write(
        &self,
        manifest: &mut Manifest,
        mut cutter: Cutter,
        imported: &mut Imported,
        watch: &mut (dyn FnMut(ImportStep<'_>) + Send),
    ) -> Result<(), ImportError> {
        let names = Names::new(self.database)?;
        let mut writer = ChunkWriter::new();
        let mut keys = 0;
        while let Some(cut) = cutter.next()? {
            let keyspace = manifest.keyspaces[cut.index as usize];
            let mut heap_bytes = 0;
            let records = cut.records().map(|(record, heap)| {
                heap_bytes += heap;
                record
            });
            let body = RawSegment::collect_encoded(records, cut.bytes()).seal();
            if !writer.has_room_for(&body) {
                self.put_chunk(manifest, &names, &mut writer).await?;
            }
            let entry = writer.push(keyspace, cut.range, manifest.sequence, &body);
            manifest.segments.push(SegmentInfo {
                keyspace,
                range: cut.range,
                location: SegmentLocation { chunk: manifest.chunks.len() as u32, offset: entry.offset, len: entry.len },
                records: body.records,
                expiring: body.expiring,
                heap_bytes,
                sequence: manifest.sequence,
                seen: manifest.sequence,
                crc: body.crc,
            });
            imported.segments += 1;
            keys += u64::from(body.records);
            if writer.is_full() {
                self.put_chunk(manifest, &names, &mut writer).await?;
                watch(ImportStep::Written { keys });
            }
        }
        if !writer.is_empty() {
            self.put_chunk(manifest, &names, &mut writer).await?;
        }
        watch(ImportStep::Written { keys });
        Ok(())
    }

    async fn put_chunk(
        &self,
        manifest: &mut Manifest,
        names: &Names,
        writer: &mut ChunkWriter,
    ) -> Result<(), StoreError> {
        let name = names.chunk(manifest.epoch, manifest.writer, manifest.next_object);
        manifest.next_object += 1;
        let bytes = writer.finish(&manifest.origin());
        // Listed first, so that it is found again if it comes to deleting it.
        manifest.chunks.push(ChunkInfo { name: name.clone(), bytes: bytes.len() as u64 });
        self.store.put_new(&name, bytes).await
    }
}

/// Turns records of an RDB into rows.
struct Encoder {
    placement: SlotPlacement,
    now_ms: u64,
    limits: Limits,
    digits: Digits,
    value: Vec<u8>,
}

impl Encoder {
    fn new(seed: u64, now_ms: u64) -> Self {
        let placement = SlotPlacement { seed };
        Encoder { placement, now_ms, limits: Limits::default(), digits: Digits::new(), value: Vec::new() }
    }

    fn push(&mut self, sorter: &mut Sorter, index: u64, record: &RdbRecord<'_>) -> Result<(), ImportError> {
        let RdbRecord { expiry_ms: expiry, idle_s, kind, key, value, .. } = record;
        let (kind, value, heap_bytes) = match encoded(*kind, value, &self.limits, &mut self.value) {
            Ok(None) => (*kind, *value, 0),
            Ok(Some((kind, heap_bytes))) => (kind, &self.value[..], heap_bytes),
            Err(problem) => return Err(ImportError::Value { key: key.with_bytes(<[u8]>::to_vec), problem }),
        };
        let key = key.bytes(&mut self.digits);
        let idle = idle_s.unwrap_or(0).min(IDLE_MAX) as u32;
        let access = access_clock(self.now_ms).wrapping_sub(idle) & IDLE_MAX as u32;
        let shell = if kind == kind::STRING { value.len() } else { 0 };
        let heap_bytes = heap_bytes + block_size(RECORD_HEAD_BYTES + key.len() + shell) as u64;
        let place = place(index, self.placement.position(key));
        let record = EncodedRecord { key, expiry: *expiry, access, kind, value };
        sorter.push(place, |row| write_record(row, &record, heap_bytes)).map_err(ImportError::Spill)
    }
}

/// Checks a value and encodes it into `out` as the engine does; `None` if it has that form already. Returns the number
/// of the encoding, and the memory of the value beside its record.
fn encoded(kind: u8, value: &[u8], limits: &Limits, out: &mut Vec<u8>) -> Result<Option<(u8, u64)>, CodecError> {
    let mut reader = Reader::new(value);
    out.clear();
    let loaded = decode_value(kind, &mut reader, limits)?;
    reader.finish()?;
    Ok(match loaded {
        LoadedValue::Text(RdbString::Inflated(text)) => {
            write_plain_string(out, &text);
            Some((kind::STRING, 0))
        }
        LoadedValue::Text(_) => None,
        LoadedValue::Object(object) => {
            let heap_bytes = object.as_ref().heap_bytes() as u64;
            Some((encode_object(object.as_ref(), out), heap_bytes))
        }
    })
}
