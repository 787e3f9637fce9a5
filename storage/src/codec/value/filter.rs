//! Filters.
//!
//! Here a filter is a string, 202 or 203: its head (see [`Bloom`] and [`Cuckoo`]), and the bytes of its parts. RedisBloom
//! writes values of a module:
//!
//! ```text
//! MBbloom--:  items, links, since version 2: options, since 4: growth
//!             links x (capacity, error rate f64, hashes, bpe f64, since version 1: bits, log2 of the bits, bits, items)
//! MBbloomCF:  layers, buckets, items, since version 4: deleted, bucket size, moves, growth
//!             layers x (since version 4: buckets, slots)
//! ```

use dormouse_types::filter::{BLOOM_GROWTH, CUCKOO_BUCKET_SIZE, CUCKOO_GROWTH, CUCKOO_HEAD, CUCKOO_MOVES};
use dormouse_types::filter::{BadFilter, Bloom, BloomLink, Cuckoo};
use dormouse_types::{Filter, Object};

use super::kind;
use super::module::{self, FieldWriter, Fields};
use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::RdbString;
use crate::codec::{CodecError, Reader};

type Result<T> = std::result::Result<T, CodecError>;

const BAD: CodecError = CodecError::Malformed("filter");

/// The version that RedisBloom writes of both types.
const VERSION: u16 = 4;
const BLOOM_ID: u64 = module::id(b"MBbloom--", VERSION);
const CUCKOO_ID: u64 = module::id(b"MBbloomCF", VERSION);
/// The same without the version.
const BLOOM_TYPE: u64 = module::without_version(BLOOM_ID).0;
const CUCKOO_TYPE: u64 = module::without_version(CUCKOO_ID).0;

pub(super) fn encoding_of(filter: &Filter) -> u8 {
    if filter.bloom().is_some() { kind::BLOOM } else { kind::CUCKOO }
}

pub(super) fn encode(filter: &Filter, out: &mut impl ByteSink) -> u8 {
    let mut head = Vec::new();
    filter.write_head(&mut head);
    write_rdb_length(out, (head.len() + filter.parts().len()) as u64);
    out.extend_from_slice(&head);
    filter.parts().all().for_each(|run| out.extend_from_slice(run));
    encoding_of(filter)
}

pub(super) fn decode(kind: u8, reader: &mut Reader<'_>) -> Result<Object> {
    let bytes = reader.rdb_plain_length()?;
    let mut filter = PartialFilter::new(kind);
    filter.push(reader.take_u64(bytes)?)?;
    filter.finish()
}

/// A filter that is read piece by piece.
pub(super) struct PartialFilter {
    kind: u8,
    /// Until it is whole.
    head: Vec<u8>,
    filter: Option<Filter>,
}

impl PartialFilter {
    pub(super) fn new(kind: u8) -> Self {
        PartialFilter { kind, head: Vec::new(), filter: None }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(filter) = &mut self.filter {
            return if filter.parts_mut().load(bytes) == 0 { Ok(()) } else { Err(BAD) };
        }
        self.head.extend_from_slice(bytes);
        let head_bytes = match self.kind {
            kind::BLOOM => Bloom::head_bytes(&self.head),
            _ => Some(CUCKOO_HEAD),
        };
        let Some((head, rest)) = head_bytes.and_then(|bytes| self.head.split_at_checked(bytes)) else { return Ok(()) };
        let mut filter: Filter = match self.kind {
            kind::BLOOM => Bloom::from_head(head)?.into(),
            kind::CUCKOO => Cuckoo::from_head(head)?.into(),
            other => return Err(CodecError::Type(other)),
        };
        if filter.parts_mut().load(rest) != 0 {
            return Err(BAD);
        }
        self.filter = Some(filter);
        self.head = Vec::new();
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Object> {
        let filter = self.filter.filter(|filter| filter.parts().is_loaded());
        filter.map(Object::Filter).ok_or(CodecError::Truncated)
    }
}

/// Writes the value of RedisBloom's module.
pub fn encode_module(filter: &Filter, out: &mut impl ByteSink) -> u8 {
    if let Some(bloom) = filter.bloom() {
        let mut fields = FieldWriter::begin(BLOOM_ID, out);
        let numbers = [bloom.items(), bloom.links() as u64, bloom.options().into(), bloom.growth().into()];
        numbers.into_iter().for_each(|number| fields.number(number));
        for (link, (bytes, runs)) in bloom.each_link().zip(bloom.parts().each()) {
            fields.number(link.capacity);
            fields.double(link.error_rate);
            fields.number(link.hashes);
            fields.double(link.bits_per_item);
            fields.number(link.bits);
            fields.number(link.log_2);
            fields.string(bytes, runs);
            fields.number(link.items);
        }
        fields.end();
    } else if let Some(cuckoo) = filter.cuckoo() {
        let mut fields = FieldWriter::begin(CUCKOO_ID, out);
        let numbers = [cuckoo.layers() as u64, cuckoo.buckets(), cuckoo.items(), cuckoo.deleted()];
        let more = [cuckoo.bucket_size(), cuckoo.moves(), cuckoo.growth()].map(u64::from);
        numbers.into_iter().chain(more).for_each(|number| fields.number(number));
        for (bytes, runs) in cuckoo.parts().each() {
            fields.number(bytes as u64 / u64::from(cuckoo.bucket_size()));
            fields.string(bytes, runs);
        }
        fields.end();
    }
    kind::MODULE_2
}

/// Whether a module's type, an id without its version, is that of a filter.
pub(super) fn is_module(id: u64) -> bool {
    matches!(id, BLOOM_TYPE | CUCKOO_TYPE)
}

pub(super) fn decode_module(id: u64, version: u16, fields: &mut Fields<'_, '_>) -> Result<Object> {
    if version > VERSION {
        return Err(CodecError::Version { what: "filter", version: version.into() });
    }
    let filter = if id == BLOOM_TYPE { decode_bloom(version, fields)? } else { decode_cuckoo(version, fields)? };
    if filter.parts().is_loaded() { Ok(Object::Filter(filter)) } else { Err(BAD) }
}

fn decode_bloom(version: u16, fields: &mut Fields<'_, '_>) -> Result<Filter> {
    let (items, count) = (fields.number()?, fields.number()?);
    let options = if version >= 2 { fields.number()? } else { 0 };
    let growth = if version >= 4 { fields.number()? } else { BLOOM_GROWTH.into() };
    let (mut links, mut bits) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (capacity, error_rate) = (fields.number()?, fields.double()?);
        let (hashes, bits_per_item) = (fields.number()?, fields.double()?);
        let (count, log_2) = match version {
            0 => ((capacity as f64 * bits_per_item) as u64, 0),
            _ => (fields.number()?, fields.number()?),
        };
        bits.push(fields.string()?);
        let items = fields.number()?;
        links.push(BloomLink { capacity, error_rate, hashes, bits_per_item, bits: count, log_2, items });
    }
    load(Bloom::from_module(&links, items, options, growth)?.into(), &bits)
}

fn decode_cuckoo(version: u16, fields: &mut Fields<'_, '_>) -> Result<Filter> {
    let (layers, buckets, items) = (fields.number()?, fields.number()?, fields.number()?);
    let is_new = version >= 4;
    let mut number = |before: u16| if is_new { fields.number() } else { Ok(before.into()) };
    let deleted = number(0)?;
    let mut short = |before: u16| u16::try_from(number(before)?).map_err(|_| BAD);
    let (bucket_size, moves, growth) = (short(CUCKOO_BUCKET_SIZE)?, short(CUCKOO_MOVES)?, short(CUCKOO_GROWTH)?);
    let filter = Cuckoo::from_module((buckets, layers), (items, deleted), bucket_size, moves, growth)?;
    let mut slots = Vec::new();
    for _ in 0..layers {
        if is_new {
            // It follows from the growth, and the number of slots shows it.
            fields.number()?;
        }
        slots.push(fields.string()?);
    }
    load(filter.into(), &slots)
}

/// Loads the bytes of each part, which must be as many as it has.
fn load(mut filter: Filter, parts: &[RdbString<'_>]) -> Result<Filter> {
    let lens: Vec<usize> = filter.parts().lens().to_vec();
    if lens.len() != parts.len() {
        return Err(BAD);
    }
    for (len, part) in lens.into_iter().zip(parts) {
        let too_many = part.with_bytes(|bytes| if bytes.len() == len { filter.parts_mut().load(bytes) } else { 1 });
        if too_many != 0 {
            return Err(BAD);
        }
    }
    Ok(filter)
}

impl From<BadFilter> for CodecError {
    fn from(bad: BadFilter) -> Self {
        match bad {
            BadFilter::Invalid => BAD,
            BadFilter::TooLarge => CodecError::Malformed("filter that is too large"),
        }
    }
}
