//! Lists.

use dormouse_types::List;
use dormouse_types::list::{ChunkRef, End};

use super::{super::CodecError, Limits, Object, Reader, kind};
use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::{read_string, write_plain_string};
use crate::codec::ziplist::read_ziplist;

/// The kinds of a quicklist's nodes.
pub(super) const PLAIN: u64 = 1;
pub(super) const PACKED: u64 = 2;

type Result<T> = std::result::Result<T, CodecError>;

/// `count, (1, string | 2, listpack) ...`
pub(super) fn encode(list: &List, out: &mut impl ByteSink) -> u8 {
    let chunks = list.chunks();
    write_rdb_length(out, chunks.len() as u64);
    for chunk in chunks {
        match chunk {
            ChunkRef::Plain(value) => {
                write_rdb_length(out, PLAIN);
                write_plain_string(out, value);
            }
            ChunkRef::Packed(listpack) => {
                write_rdb_length(out, PACKED);
                write_plain_string(out, listpack.bytes());
            }
            ChunkRef::Short(short) => {
                write_rdb_length(out, PACKED);
                write_plain_string(out, &short.to_listpack_bytes());
            }
        }
    }
    kind::LIST_QUICKLIST_2
}

pub(super) fn decode_quicklist_2(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let mut list = List::new();
    for _ in 0..reader.rdb_count(2)? {
        read_node(reader, &mut list)?;
    }
    list.loaded(limits);
    Ok(Object::List(list))
}

pub(super) fn read_node(reader: &mut Reader<'_>, list: &mut List) -> Result<()> {
    let container = reader.rdb_plain_length()?;
    let node = read_string(reader)?;
    match container {
        PLAIN => node.with_bytes(|value| list.append_plain(value)),
        PACKED => node.with_bytes(|listpack| list.append_listpack(listpack))?,
        _ => return Err(CodecError::Malformed("kind of a list node")),
    }
    Ok(())
}

/// `count, string ...`
pub(super) fn decode_plain(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let mut list = List::new();
    for _ in 0..reader.rdb_count(1)? {
        read_string(reader)?.with_bytes(|value| list.push(End::Tail, value, limits));
    }
    Ok(Object::List(list))
}

/// `count, ziplist ...`
pub(super) fn decode_quicklist(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let mut list = List::new();
    for _ in 0..reader.rdb_count(1)? {
        append_ziplist(&mut list, reader, limits)?;
    }
    Ok(Object::List(list))
}

pub(super) fn decode_ziplist(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let mut list = List::new();
    append_ziplist(&mut list, reader, limits)?;
    Ok(Object::List(list))
}

fn append_ziplist(list: &mut List, reader: &mut Reader<'_>, limits: &Limits) -> Result<()> {
    read_string(reader)?.with_bytes(|bytes| {
        for item in read_ziplist(bytes)? {
            item.with_text(|value| list.push(End::Tail, value, limits));
        }
        Ok(())
    })
}
