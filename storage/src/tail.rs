//! Tails: writes after the segments of a manifest, kept as effects.
//!
//! A checkpoint that finds little dirty does not rewrite whole segments; it puts the effects since then into one object. When
//! a segment is loaded, its effects are found by its range and replayed onto it, so the object is ordered by position:
//!
//! 1. The effects are sorted by keyspace and position, those of one position in the order of their sequence. An effect touches
//!    one key, so no other order matters.
//! 2. They are cut into blocks of about 64 KiB, each compressed and checksummed.
//! 3. An index says which positions each block begins and ends with. [`Tail::effects`] opens only the blocks that touch
//!    the range asked for.
//!
//! ```text
//! +----------------+ 0
//! | "DMTAIL\n\n"   | 8 bytes
//! | format version | u32 LE, 1; 2 where an effect's index was followed
//! +----------------+ 12
//! | block          | a sealed block of effects:
//! | ...            |   sequence varint | now ms varint, both as signed differences to the effect before in the block
//! |                |   keyspace varint | position u64 BE | body length varint | body
//! +----------------+ index offset
//! | index          | a sealed block: count varint, then for each block
//! |                |   length varint | effects varint | checksum u64 LE
//! |                |   first keyspace varint | first position u64 BE | last keyspace varint | last position u64 BE
//! +----------------+ trailer
//! | index length   | u64 LE
//! | "DMTEND\n\n"   | 8 bytes
//! +----------------+
//! ```

use bytes::Bytes;
use dormouse_types::segment::{Range53, prefix53};

use crate::codec::block::{open, seal_into, stored_checksum, verify};
use crate::codec::reader::{write_bytes, write_varint, write_zigzag};
use crate::codec::{CodecError, HEADER_BYTES, Reader, read_header, read_trailer, write_header, write_trailer};
use crate::shown::FOLLOWED_TIME;
use crate::store::{Store, StoreError};

const MAGIC: &[u8; 8] = b"DMTAIL\n\n";
const END_MAGIC: &[u8; 8] = b"DMTEND\n\n";
const VERSION: u32 = 2;

/// Raw bytes after which a block ends.
const BLOCK_BYTES: usize = 64 << 10;

const RECORD_BYTES_MIN: usize = 12;
const ENTRY_BYTES_MIN: usize = 28;

/// One effect on one key. The log defines the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailRecord {
    pub sequence: u64,
    /// The time at which the effect happened, unix milliseconds: replay runs at that time again. With [`FOLLOWED_TIME`]
    /// where its index was followed: then nothing has expired at that time.
    pub now_ms: u64,
    pub keyspace: u32,
    pub position: u64,
    pub body: Bytes,
}

impl TailRecord {
    fn place(&self) -> (u32, u64) {
        (self.keyspace, self.position)
    }
}

/// Encodes the effects, in whatever order they come, into one object.
pub fn encode_tail(mut records: Vec<TailRecord>) -> Bytes {
    records.sort_by_key(|record| (record.place(), record.sequence));
    let mut object = Vec::new();
    // The time of such an effect would mislead an older version.
    let version = if records.iter().any(|record| record.now_ms & FOLLOWED_TIME != 0) { VERSION } else { 1 };
    write_header(&mut object, MAGIC, version);
    let mut blocks = Vec::new();
    let mut raw = Vec::new();
    let mut rest = &records[..];
    while let Some(first) = rest.first() {
        raw.clear();
        let mut before = first;
        let mut effects = 0;
        for record in rest {
            if raw.len() >= BLOCK_BYTES {
                break;
            }
            let base = if effects == 0 { (0, 0) } else { (before.sequence, before.now_ms) };
            write_record(&mut raw, record, base);
            before = record;
            effects += 1;
        }
        let start = object.len();
        seal_into(&raw, &mut object);
        let len = (object.len() - start) as u64;
        let crc = stored_checksum(&object[start..]);
        blocks.push(Block { offset: start as u64, len, effects, crc, first: first.place(), last: before.place() });
        rest = &rest[effects as usize..];
    }
    let mut index = Vec::new();
    write_varint(&mut index, blocks.len() as u64);
    for block in &blocks {
        write_varint(&mut index, block.len);
        write_varint(&mut index, block.effects);
        index.extend_from_slice(&block.crc.to_le_bytes());
        for (keyspace, position) in [block.first, block.last] {
            write_varint(&mut index, u64::from(keyspace));
            index.extend_from_slice(&position.to_be_bytes());
        }
    }
    write_trailer(&mut object, &index, END_MAGIC);
    object.into()
}

fn write_record(out: &mut Vec<u8>, record: &TailRecord, (sequence, now_ms): (u64, u64)) {
    write_zigzag(out, record.sequence.wrapping_sub(sequence) as i64);
    write_zigzag(out, record.now_ms.wrapping_sub(now_ms) as i64);
    write_varint(out, u64::from(record.keyspace));
    out.extend_from_slice(&record.position.to_be_bytes());
    write_bytes(out, &record.body);
}

#[derive(Debug, Clone, Copy)]
struct Block {
    offset: u64,
    len: u64,
    effects: u64,
    crc: u64,
    first: (u32, u64),
    last: (u32, u64),
}

/// A tail that has been read: compressed bytes and an index. Blocks are opened when they are asked for.
#[derive(Debug, Clone)]
pub struct Tail {
    name: String,
    object: Bytes,
    blocks: Vec<Block>,
}

impl Tail {
    /// Reads a tail from the store.
    pub async fn read(store: &Store, name: &str) -> Result<Tail, StoreError> {
        let object = store.get(name).await?;
        Tail::decode(name, object).map_err(|error| StoreError::corrupt(name, error))
    }

    /// Checks the object's index and that every block has the checksum that the index has for it.
    pub fn decode(name: &str, object: Bytes) -> Result<Tail, CodecError> {
        read_header(&mut Reader::new(&object), MAGIC, "tail", VERSION)?;
        let range = read_trailer(&object, object.len() as u64, END_MAGIC, "complete tail")?;
        // The whole object is here, so the index is inside it.
        let raw = open(&object[range.start as usize..range.end as usize])?;
        let mut reader = Reader::new(&raw);
        let count = reader.count(ENTRY_BYTES_MIN)?;
        let mut blocks: Vec<Block> = Vec::with_capacity(count);
        let mut offset = HEADER_BYTES as u64;
        for _ in 0..count {
            let (len, effects, crc) = (reader.varint()?, reader.varint()?, reader.u64_le()?);
            let first = (reader.varint_u32()?, u64::from_be_bytes(reader.array()?));
            let last = (reader.varint_u32()?, u64::from_be_bytes(reader.array()?));
            if first > last || blocks.last().is_some_and(|before| before.last > first) {
                return Err(CodecError::Malformed("tail blocks out of order"));
            }
            let end = offset.checked_add(len).filter(|end| *end <= range.start);
            let end = end.ok_or(CodecError::Malformed("tail block beyond the end"))?;
            let stored = stored_checksum(&object[offset as usize..end as usize]);
            if stored != crc {
                return Err(CodecError::Checksum { stored, computed: crc });
            }
            blocks.push(Block { offset, len, effects, crc, first, last });
            offset = end;
        }
        reader.finish()?;
        if offset != range.start {
            return Err(CodecError::Malformed("gap between blocks and index"));
        }
        Ok(Tail { name: name.to_owned(), object, blocks })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of effects.
    pub fn len(&self) -> u64 {
        self.blocks.iter().map(|block| block.effects).fold(0, u64::saturating_add)
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The memory that it takes.
    pub fn bytes(&self) -> usize {
        self.object.len() + self.blocks.len() * size_of::<Block>()
    }

    /// Whether the tail may have effects on keys of this range; false is certain.
    pub fn touches(&self, keyspace: u32, range: Range53) -> bool {
        !self.blocks_of(keyspace, range).is_empty()
    }

    /// The effects on the keys of one segment that come after `sequence` (the segment's own stamp), in their order.
    pub fn effects(&self, keyspace: u32, range: Range53, sequence: u64) -> Result<Vec<TailRecord>, StoreError> {
        let mut found = Vec::new();
        for block in self.blocks_of(keyspace, range) {
            let wanted = |record: &TailRecord| {
                record.keyspace == keyspace && range.contains(prefix53(record.position)) && record.sequence > sequence
            };
            self.read_block(block, |record| {
                if wanted(&record) {
                    found.push(record);
                }
            })
            .map_err(|error| self.block_error(block, &error))?;
        }
        found.sort_by_key(|record| record.sequence);
        Ok(found)
    }

    /// All effects, in their order.
    pub fn all(&self) -> Result<Vec<TailRecord>, StoreError> {
        let mut found = Vec::new();
        for block in &self.blocks {
            self.read_block(block, |record| found.push(record)).map_err(|error| self.block_error(block, &error))?;
        }
        found.sort_by_key(|record| record.sequence);
        Ok(found)
    }

    /// Checks the checksums of all blocks.
    pub fn verify(&self) -> Result<(), StoreError> {
        let verified = |block: &Block| verify(self.block_bytes(block)).map_err(|error| self.block_error(block, &error));
        self.blocks.iter().try_for_each(|block| verified(block).map(drop))
    }

    fn blocks_of(&self, keyspace: u32, range: Range53) -> &[Block] {
        let first_position = range.start << SHIFT;
        let last_position = (range.end() - 1) << SHIFT | ((1 << SHIFT) - 1);
        let start = self.blocks.partition_point(|block| block.last < (keyspace, first_position));
        let len = self.blocks[start..].partition_point(|block| block.first <= (keyspace, last_position));
        &self.blocks[start..start + len]
    }

    fn block_bytes(&self, block: &Block) -> &[u8] {
        // `decode` has checked that every block is inside the object.
        &self.object[block.offset as usize..(block.offset + block.len) as usize]
    }

    fn read_block(&self, block: &Block, mut visit: impl FnMut(TailRecord)) -> Result<(), CodecError> {
        let raw = Bytes::from(open(self.block_bytes(block))?.into_owned());
        let mut reader = Reader::new(&raw);
        let effects = reader.check_count(block.effects, RECORD_BYTES_MIN)?;
        let (mut sequence, mut now_ms) = (0u64, 0u64);
        let mut before = (block.first, 0);
        for _ in 0..effects {
            sequence = sequence.wrapping_add(reader.zigzag()? as u64);
            now_ms = now_ms.wrapping_add(reader.zigzag()? as u64);
            let keyspace = reader.varint_u32()?;
            let position = u64::from_be_bytes(reader.array()?);
            let body = raw.slice_ref(reader.bytes()?);
            let record = TailRecord { sequence, now_ms, keyspace, position, body };
            if (record.place(), sequence) < before || record.place() > block.last {
                return Err(CodecError::Malformed("effects out of order"));
            }
            before = (record.place(), sequence);
            visit(record);
        }
        reader.finish()
    }

    fn block_error(&self, block: &Block, error: &CodecError) -> StoreError {
        StoreError::corrupt(&self.name, format!("block at byte {}: {error}", block.offset))
    }
}

/// The bits of a position that place nothing.
const SHIFT: u32 = 64 - dormouse_types::segment::PREFIX_BITS;

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::codec::tests::for_each_damage;

    fn record(sequence: u64, keyspace: u32, position: u64, body: &'static str) -> TailRecord {
        TailRecord { sequence, now_ms: 1_700_000_000_000 + sequence, keyspace, position, body: body.into() }
    }

    fn sample(effects: u64) -> Vec<TailRecord> {
        let position = |sequence: u64| sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (1..=effects)
            .map(|sequence| record(sequence, (sequence % 3) as u32, position(sequence / 2), "SET a b"))
            .collect()
    }

    #[test]
    fn segments_find_their_effects() {
        let records = sample(20_000);
        let tail = Tail::decode("t", encode_tail(records.clone())).unwrap();
        assert!(tail.blocks.len() > 3);
        assert_eq!(tail.len(), records.len() as u64);
        assert_eq!(tail.all().unwrap(), records);
        tail.verify().unwrap();
        let (low, high) = Range53::WHOLE.halves();
        for range in [Range53::WHOLE, low, high, low.halves().1, high.halves().0.halves().1] {
            for (keyspace, after) in [(0, 0), (1, 10_000), (2, 30_000), (3, 0)] {
                let wanted = |record: &&TailRecord| {
                    record.keyspace == keyspace && range.contains(prefix53(record.position)) && record.sequence > after
                };
                let expected: Vec<_> = records.iter().filter(wanted).cloned().collect();
                assert_eq!(tail.effects(keyspace, range, after).unwrap(), expected);
                assert_eq!(tail.touches(keyspace, range), keyspace < 3);
            }
        }
    }

    proptest! {
        #[test]
        fn tails_survive(
            raw in proptest::collection::vec((any::<u64>(), 0u32..3, any::<u64>(), any::<Vec<u8>>()), 0..50),
        ) {
            let mut records: Vec<_> = raw.into_iter().enumerate().map(|(at, (now_ms, keyspace, position, body))| {
                TailRecord { sequence: u64::MAX - 50 + at as u64, now_ms, keyspace, position, body: body.into() }
            }).collect();
            let tail = Tail::decode("t", encode_tail(records.clone())).unwrap();
            records.sort_by_key(|record| record.sequence);
            prop_assert_eq!(tail.all().unwrap(), records);
        }
    }

    #[test]
    fn damage_is_an_error_that_names_the_object() {
        let object = encode_tail(sample(40));
        for_each_damage(&object, |damaged| {
            let tail = Tail::decode("t", damaged.to_vec().into());
            tail.is_err() || tail.is_ok_and(|tail| tail.verify().is_err() && tail.all().is_err())
        });
        let store = Store::memory();
        block_on(async {
            store.put_new("db/a/tail/1", object.slice(..object.len() - 1)).await.unwrap();
            let error = Tail::read(&store, "db/a/tail/1").await.unwrap_err();
            assert_eq!(error.to_string(), "db/a/tail/1: not a complete tail");
        });
    }
}
