//! The object of a point.
//!
//! ```text
//! +----------------+ 0
//! | "DMBACK\n\n"   | 8 bytes
//! | format version | u32 LE, 1
//! +----------------+ 12
//! | fields         | a sealed block
//! +----------------+
//!
//! fields, numbers as varints, texts with a length before them:
//!   number | state u8: 0 abandoned, 1 complete; nothing follows 0
//!   time, unix ms | URL of the source
//!   count, databases: name | record in the directory, empty: none | kind u8
//!     kind 0, no data yet
//!     kind 1, left out: the reason
//!     kind 2, data:
//!       object of the image
//!       created ms, number, epoch, writer u64 LE and sequence of the manifest that it was made from | its own sequence
//!       count, objects
//!   an object: name | bytes | crc u64 LE, of all of it
//! ```

use crate::codec::block::{open, seal_into};
use crate::codec::reader::{write_bytes, write_varint};
use crate::codec::{CodecError, Reader, read_header, write_header};
use crate::directory::DatabaseRecord;

const MAGIC: &[u8; 8] = b"DMBACK\n\n";
const VERSION: u32 = 1;

const ABANDONED: u8 = 0;
const COMPLETE: u8 = 1;

const NOTHING: u8 = 0;
const LEFT_OUT: u8 = 1;
const DATA: u8 = 2;

const OBJECT_BYTES_MIN: usize = 10;
const DATABASE_BYTES_MIN: usize = 3;

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupPoint {
    pub number: u64,
    /// When it was begun, unix milliseconds.
    pub time_ms: u64,
    /// The URL of the source.
    pub source: String,
    /// In the order of names.
    pub databases: Vec<SavedDatabase>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedDatabase {
    pub name: String,
    /// As the directory has it.
    pub record: Option<DatabaseRecord>,
    pub contents: Saved,
}

/// What a point has of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// It has never been written.
    Nothing,
    Data(SavedData),
    /// It could not be read; the reason.
    LeftOut(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedData {
    pub image: SavedObject,
    pub origin: ImageOrigin,
    /// Effects up to this one are in the image.
    pub sequence: u64,
    pub objects: Vec<SavedObject>,
}

/// The manifest that an image was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageOrigin {
    pub created_ms: u64,
    pub number: u64,
    pub epoch: u64,
    pub writer: u64,
    pub sequence: u64,
}

/// An object of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedObject {
    /// Of a chunk or tail: its name in the source. Of an image: its name in the target.
    pub name: String,
    pub bytes: u64,
    pub crc: u64,
}

impl SavedData {
    /// The size of everything that is needed to restore it.
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes).fold(self.image.bytes, u64::saturating_add)
    }
}

impl BackupPoint {
    pub fn find(&self, name: &str) -> Option<&SavedDatabase> {
        self.databases.iter().find(|database| database.name == name)
    }

    /// The databases with data.
    pub fn data(&self) -> impl Iterator<Item = (&SavedDatabase, &SavedData)> {
        self.databases.iter().filter_map(|database| match &database.contents {
            Saved::Data(data) => Some((database, data)),
            Saved::Nothing | Saved::LeftOut(_) => None,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_varint(&mut out, self.number);
        out.push(COMPLETE);
        write_varint(&mut out, self.time_ms);
        write_bytes(&mut out, self.source.as_bytes());
        write_varint(&mut out, self.databases.len() as u64);
        for SavedDatabase { name, record, contents } in &self.databases {
            write_bytes(&mut out, name.as_bytes());
            write_bytes(&mut out, &record.as_ref().map(DatabaseRecord::encode).unwrap_or_default());
            match contents {
                Saved::Nothing => out.push(NOTHING),
                Saved::LeftOut(reason) => {
                    out.push(LEFT_OUT);
                    write_bytes(&mut out, reason.as_bytes());
                }
                Saved::Data(data) => {
                    out.push(DATA);
                    write_data(&mut out, data);
                }
            }
        }
        sealed(&out)
    }
}

fn write_data(out: &mut Vec<u8>, SavedData { image, origin, sequence, objects }: &SavedData) {
    write_object(out, image);
    write_varint(out, origin.created_ms);
    write_varint(out, origin.number);
    write_varint(out, origin.epoch);
    out.extend_from_slice(&origin.writer.to_le_bytes());
    write_varint(out, origin.sequence);
    write_varint(out, *sequence);
    write_varint(out, objects.len() as u64);
    objects.iter().for_each(|object| write_object(out, object));
}

fn write_object(out: &mut Vec<u8>, SavedObject { name, bytes, crc }: &SavedObject) {
    write_bytes(out, name.as_bytes());
    write_varint(out, *bytes);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// The object of a run that makes no point.
pub(super) fn abandoned(number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    write_varint(&mut out, number);
    out.push(ABANDONED);
    sealed(&out)
}

fn sealed(fields: &[u8]) -> Vec<u8> {
    let mut object = Vec::with_capacity(fields.len() / 2 + 32);
    write_header(&mut object, MAGIC, VERSION);
    seal_into(fields, &mut object);
    object
}

/// Decodes the object of run `number`; `None`: the run makes no point.
///
/// # Errors
/// When the bytes are no such object that this build reads.
pub(super) fn decode(bytes: &[u8], number: u64) -> Result<Option<BackupPoint>, CodecError> {
    let mut reader = Reader::new(bytes);
    read_header(&mut reader, MAGIC, "point of a backup", VERSION)?;
    let fields = open(reader.rest())?;
    let mut reader = Reader::new(&fields);
    if reader.varint()? != number {
        return Err(CodecError::Malformed("number of a point"));
    }
    let point = match reader.u8()? {
        ABANDONED => None,
        COMPLETE => Some(read_point(&mut reader, number)?),
        _ => return Err(CodecError::Malformed("state of a point")),
    };
    reader.finish()?;
    Ok(point)
}

fn read_point(reader: &mut Reader<'_>, number: u64) -> Result<BackupPoint, CodecError> {
    let (time_ms, source) = (reader.varint()?, reader.text()?.to_owned());
    let count = reader.count(DATABASE_BYTES_MIN)?;
    let mut databases: Vec<SavedDatabase> = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.text()?.to_owned();
        if databases.last().is_some_and(|last| last.name >= name) {
            return Err(CodecError::Malformed("order of databases"));
        }
        let record = reader.bytes()?;
        let record = (!record.is_empty()).then(|| DatabaseRecord::decode(record)).transpose()?;
        let contents = match reader.u8()? {
            NOTHING => Saved::Nothing,
            LEFT_OUT => Saved::LeftOut(reader.text()?.to_owned()),
            DATA => Saved::Data(read_data(reader)?),
            _ => return Err(CodecError::Malformed("kind of a saved database")),
        };
        databases.push(SavedDatabase { name, record, contents });
    }
    Ok(BackupPoint { number, time_ms, source, databases })
}

fn read_data(reader: &mut Reader<'_>) -> Result<SavedData, CodecError> {
    let image = read_object(reader)?;
    let origin = ImageOrigin {
        created_ms: reader.varint()?,
        number: reader.varint()?,
        epoch: reader.varint()?,
        writer: reader.u64_le()?,
        sequence: reader.varint()?,
    };
    let sequence = reader.varint()?;
    let count = reader.count(OBJECT_BYTES_MIN)?;
    let objects = (0..count).map(|_| read_object(reader)).collect::<Result<_, _>>()?;
    Ok(SavedData { image, origin, sequence, objects })
}

fn read_object(reader: &mut Reader<'_>) -> Result<SavedObject, CodecError> {
    Ok(SavedObject { name: reader.text()?.to_owned(), bytes: reader.varint()?, crc: reader.u64_le()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::for_each_damage;

    #[test]
    fn points_survive_and_damage_is_found() {
        let object = |name: &str| SavedObject { name: name.to_owned(), bytes: 7, crc: u64::MAX };
        let origin = ImageOrigin { created_ms: 1, number: 2, epoch: 3, writer: u64::MAX, sequence: 5 };
        let data = SavedData {
            image: object("backup/image/000000000042/shop"),
            origin,
            sequence: 9,
            objects: vec![object("db/shop/chunk/1"), object("db/shop/tail/2")],
        };
        assert_eq!(data.bytes(), 21);
        let saved = |name: &str, record, contents| SavedDatabase { name: name.to_owned(), record, contents };
        let point = BackupPoint {
            number: 42,
            time_ms: 1_795_424_400_000,
            source: "s3://bucket/live".to_owned(),
            databases: vec![
                saved("blog", None, Saved::LeftOut("db/blog/chunk/1: missing".to_owned())),
                saved("new", Some(DatabaseRecord::new("new", 5)), Saved::Nothing),
                saved("shop", Some(DatabaseRecord::new("shop", 5)), Saved::Data(data)),
            ],
        };
        let bytes = point.encode();
        assert_eq!(decode(&bytes, 42), Ok(Some(point)));
        assert!(decode(&bytes, 43).is_err());
        assert_eq!(decode(&abandoned(3), 3), Ok(None));
        for bytes in [bytes, abandoned(42)] {
            for_each_damage(&bytes, |bytes| decode(bytes, 42).is_err());
        }
    }

    /// The file was written by hand, after the description above.
    #[test]
    fn version_1_is_read() {
        const NOW_MS: u64 = 1_795_424_400_000;
        let point = decode(include_bytes!("../../tests/golden/backup-point-v1.bin"), 42).unwrap().unwrap();
        assert_eq!((point.number, point.time_ms, &*point.source), (42, NOW_MS + 5, "s3://bucket/live"));
        let names: Vec<&str> = point.databases.iter().map(|database| database.name.as_str()).collect();
        assert_eq!(names, ["blog", "new", "shop"]);
        let reason = "db/blog/chunk/1: missing from the store".to_owned();
        assert_eq!(point.databases[0].contents, Saved::LeftOut(reason));
        assert_eq!((&point.databases[1].contents, &point.databases[1].record), (&Saved::Nothing, &None));
        let (database, data) = point.data().next().unwrap();
        assert_eq!(database.record.as_ref().unwrap().tokens[0].hash, [7; 32]);
        let origin =
            ImageOrigin { created_ms: NOW_MS, number: 7, epoch: 2, writer: 0xfedc_ba98_7654_3210, sequence: 1000 };
        assert_eq!((data.origin, data.sequence), (origin, 1003));
        let object = |name: &str, bytes, crc| SavedObject { name: name.to_owned(), bytes, crc };
        assert_eq!(data.image, object("backup/image/000000000041/shop", 310, 0x0123_4567_89ab_cdef));
        let chunk = object("db/shop/chunk/0000000002-fedcba9876543210-0000000003", 4 << 20, 1);
        let tail = object("db/shop/tail/0000000002-0000000000000bad-0000000000", 99, u64::MAX);
        assert_eq!(data.objects, [chunk, tail]);
    }
}
