//! Vector sets.
//!
//! Here, whole or in pieces: a head, then the nodes in the order of their ids.
//!
//! ```text
//! head: components, quantization u8, M, projection, nodes, entry, inserted (lengths), uid u64 LE
//! projection: 0, or the components that it takes and 0, or these and 1 and a string of its factors, f32 LE
//! node: name, attributes (strings), norm f32 LE, range f32 LE if components are bytes, vector,
//!       layers u8, layers x (n, n x id u32 LE)
//! ```
//!
//! In RDB a vector set is a value of Redis's module `vectorset`: its id, then numbered fields up to a zero. A number is 2 and
//! a length, a string is 5 and a string.
//!
//! ```text
//! components, nodes, quantization | M << 8, flags (numbers)
//! where flag 1 is set: components that the projection takes (number), factors (string)
//! nodes x (name, where flag 2 is set: attributes, vector (strings), n, n numbers)
//! the numbers: id, level | form << 24,
//!   level + 1 x (n, room, n ids, in form 1: the farthest of them), norm | range << 32 (the bits of floats)
//! ```
//!
//! Redis lists nodes from the newest on, by ids of its own.

use std::collections::HashMap;

use dormouse_types::vector_set::{
    LEVEL_MAX, NodeView, Projection, Quantization, StoredNode, VectorHead, VectorLoader, VectorRef, VectorSet,
    VectorShape,
};
use dormouse_types::{Limits, Object};

use super::module;
use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::{read_string, skip_string, write_plain_string};
use crate::codec::{CodecError, Reader};

type Result<T> = std::result::Result<T, CodecError>;

const BAD_HEAD: CodecError = CodecError::Malformed("head of a vector set");
const BAD_FIELD: CodecError = CodecError::Malformed("field of a vector set");
const BAD_LINK: CodecError = CodecError::Malformed("link of a vector set");

const SIGNS: u64 = 0;
const FACTORS: u64 = 1;

/// Appends a set, without the number of its encoding.
pub(super) fn encode(set: &VectorSet, out: &mut impl ByteSink) {
    write_head(&set.head(), out);
    (0..set.len() as u32).for_each(|id| write_node(set.node(id), out));
}

pub(super) fn write_head(head: &VectorHead, out: &mut impl ByteSink) {
    let VectorShape { dim, quantization, links } = head.shape;
    write_rdb_length(out, dim.into());
    out.push(number_of(quantization));
    write_rdb_length(out, links.into());
    write_rdb_length(out, head.projection.as_ref().map_or(0, |projection| projection.from().into()));
    if let Some(projection) = &head.projection {
        write_rdb_length(out, if projection.matrix().is_some() { FACTORS } else { SIGNS });
        if projection.matrix().is_some() {
            write_factors(projection, dim, out);
        }
    }
    write_rdb_length(out, head.len);
    write_rdb_length(out, head.entry.into());
    write_rdb_length(out, head.inserted);
    out.extend_from_slice(&head.uid.to_le_bytes());
}

pub(super) fn write_node(node: NodeView<'_>, out: &mut impl ByteSink) {
    write_plain_string(out, node.name());
    write_plain_string(out, node.attributes());
    out.extend_from_slice(&node.norm().to_le_bytes());
    if let VectorRef::Bytes(_, range) = node.vector() {
        out.extend_from_slice(&range.to_le_bytes());
    }
    out.extend_from_slice(&bytes_of(node));
    out.push(node.level() as u8 + 1);
    for layer in 0..=node.level() {
        let links = node.links(layer);
        write_rdb_length(out, links.len() as u64);
        links.iter().for_each(|link| out.extend_from_slice(&link.to_le_bytes()));
    }
}

fn bytes_of(node: NodeView<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    node.vector().append_to(&mut bytes);
    bytes
}

fn write_factors(projection: &Projection, dim: u32, out: &mut impl ByteSink) {
    write_rdb_length(out, u64::from(dim) * u64::from(projection.from()) * size_of::<f32>() as u64);
    projection.factors(dim).for_each(|factor| out.extend_from_slice(&factor.to_le_bytes()));
}

fn number_of(quantization: Quantization) -> u8 {
    match quantization {
        Quantization::None => 0,
        Quantization::Q8 => 1,
        Quantization::Binary => 2,
    }
}

fn quantization_of(number: u64) -> Result<Quantization> {
    match number {
        0 => Ok(Quantization::None),
        1 => Ok(Quantization::Q8),
        2 => Ok(Quantization::Binary),
        _ => Err(BAD_HEAD),
    }
}

fn narrow(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|_| BAD_HEAD)
}

fn factors(bytes: &[u8]) -> Result<Vec<f32>> {
    match bytes.as_chunks() {
        (factors, []) => Ok(factors.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        _ => Err(BAD_HEAD),
    }
}

/// Reads a set that [`encode`] wrote.
pub(super) fn decode(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let head = read_head(reader)?;
    let nodes = head.len;
    let mut loader = VectorLoader::new(head, limits.seed)?;
    let mut links = Vec::new();
    (0..nodes).try_for_each(|_| read_node(reader, &mut loader, &mut links))?;
    Ok(Object::VectorSet(loader.finish()?))
}

fn read_head(reader: &mut Reader<'_>) -> Result<VectorHead> {
    let dim = narrow(reader.rdb_plain_length()?)?;
    let quantization = quantization_of(reader.u8()?.into())?;
    let links = narrow(reader.rdb_plain_length()?)?;
    let projection = match narrow(reader.rdb_plain_length()?)? {
        0 => None,
        from => Some(match reader.rdb_plain_length()? {
            SIGNS => Projection::new(from),
            FACTORS => read_string(reader)?
                .with_bytes(factors)
                .and_then(|matrix| Projection::by_matrix(from, dim, matrix).map_err(CodecError::from))?,
            _ => return Err(BAD_HEAD),
        }),
    };
    let (len, entry) = (reader.rdb_plain_length()?, narrow(reader.rdb_plain_length()?)?);
    let (inserted, uid) = (reader.rdb_plain_length()?, reader.u64_le()?);
    Ok(VectorHead { shape: VectorShape { dim, quantization, links }, projection, len, entry, inserted, uid })
}

/// `links`: room that is used again.
fn read_node(reader: &mut Reader<'_>, loader: &mut VectorLoader, links: &mut Vec<Vec<u32>>) -> Result<()> {
    let VectorShape { dim, quantization, .. } = loader.shape();
    let (name, attributes) = (read_string(reader)?, read_string(reader)?);
    let norm = f32::from_le_bytes(reader.array()?);
    let range = if quantization == Quantization::Q8 { f32::from_le_bytes(reader.array()?) } else { 0.0 };
    let vector = reader.take(quantization.vector_bytes(dim))?;
    links.resize_with(reader.u8()?.into(), Vec::new);
    for links in links.iter_mut() {
        let count = reader.rdb_count(size_of::<u32>())?;
        let bytes = reader.take(count * size_of::<u32>())?;
        links.clear();
        links.extend(bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)));
    }
    name.with_bytes(|name| {
        attributes.with_bytes(|attributes| loader.push(StoredNode { name, attributes, norm, range, vector, links }))
    })?;
    Ok(())
}

/// A set that is read element by element.
#[derive(Default)]
pub(super) struct PartialVectorSet {
    loader: Option<VectorLoader>,
    links: Vec<Vec<u32>>,
}

impl PartialVectorSet {
    pub(super) fn read_part(&mut self, reader: &mut Reader<'_>, limits: &Limits) -> Result<()> {
        match &mut self.loader {
            None => self.loader = Some(VectorLoader::new(read_head(reader)?, limits.seed)?),
            Some(loader) => read_node(reader, loader, &mut self.links)?,
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Object> {
        Ok(Object::VectorSet(self.loader.ok_or(BAD_HEAD)?.finish()?))
    }
}

/// The id of Redis's module, with the version of its form.
const MODULE_ID: u64 = module::id(b"vectorset", 0);

/// The M of sets that do not say it.
const LINKS_UNSAID: u64 = 16;

const END: u64 = 0;
const NUMBER: u64 = 2;
const STRING: u64 = 5;

const HAS_PROJECTION: u64 = 1;
const HAS_ATTRIBUTES: u64 = 2;

/// The form of a node's numbers with the farthest of its links.
const WITH_FARTHEST: u64 = 1;

/// Whether a module's value is a vector set that [`decode_module`] reads.
pub fn is_of_vector_sets(module_id: u64) -> bool {
    module_id == MODULE_ID
}

/// Appends a set as Redis's module writes it. It finds the farthest links by itself.
pub(super) fn encode_module(set: &VectorSet, out: &mut impl ByteSink) {
    write_rdb_length(out, MODULE_ID);
    let VectorHead { shape, projection, len, .. } = set.head();
    let VectorShape { dim, quantization, links } = shape;
    write_number(out, dim.into());
    write_number(out, len);
    write_number(out, u64::from(number_of(quantization)) | u64::from(links) << 8);
    let has_attributes = set.attribute_count() > 0;
    let flags = [(projection.is_some(), HAS_PROJECTION), (has_attributes, HAS_ATTRIBUTES)];
    write_number(out, flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum());
    if let Some(projection) = projection {
        write_number(out, projection.from().into());
        write_rdb_length(out, STRING);
        write_factors(&projection, dim, out);
    }
    for id in (0..set.len() as u32).rev() {
        let node = set.node(id);
        write_text(out, node.name());
        if has_attributes {
            write_text(out, node.attributes());
        }
        write_text(out, &bytes_of(node));
        let numbers: usize = (0..=node.level()).map(|layer| 2 + node.links(layer).len()).sum();
        write_number(out, 3 + numbers as u64);
        write_number(out, u64::from(id) + 1);
        write_number(out, node.level() as u64);
        for layer in 0..=node.level() {
            let of_node = node.links(layer);
            let room = if layer == 0 { 2 * links } else { links };
            write_number(out, of_node.len() as u64);
            write_number(out, room.into());
            of_node.iter().for_each(|link| write_number(out, u64::from(*link) + 1));
        }
        let (norm, range) = (node.norm().to_bits(), node.vector().range().to_bits());
        write_number(out, u64::from(norm) | u64::from(range) << 32);
    }
    write_rdb_length(out, END);
}

fn write_number(out: &mut impl ByteSink, number: u64) {
    write_rdb_length(out, NUMBER);
    write_rdb_length(out, number);
}

fn write_text(out: &mut impl ByteSink, text: &[u8]) {
    write_rdb_length(out, STRING);
    write_plain_string(out, text);
}

fn read_number(reader: &mut Reader<'_>) -> Result<u64> {
    if reader.rdb_plain_length()? == NUMBER { reader.rdb_plain_length() } else { Err(BAD_FIELD) }
}

fn read_text(reader: &mut Reader<'_>) -> Result<Vec<u8>> {
    if reader.rdb_plain_length()? == STRING { Ok(read_string(reader)?.into_vec()) } else { Err(BAD_FIELD) }
}

/// A node as Redis's module writes it.
struct ModuleNode {
    id: u64,
    name: Vec<u8>,
    attributes: Vec<u8>,
    vector: Vec<u8>,
    norm: f32,
    range: f32,
    /// The ids of its neighbours in each layer.
    links: Vec<Vec<u64>>,
}

/// Reads a set that Redis wrote, whose module id has been read.
pub(super) fn decode_module(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let dim = narrow(read_number(reader)?)?;
    let (len, config, flags) = (read_number(reader)?, read_number(reader)?, read_number(reader)?);
    let quantization = quantization_of(config & 0xff)?;
    let links = match config >> 8 & 0xffff {
        0 => LINKS_UNSAID,
        links => links,
    };
    let shape = VectorShape { dim, quantization, links: narrow(links)? };
    let projection = match flags & HAS_PROJECTION {
        0 => None,
        _ => {
            let from = narrow(read_number(reader)?)?;
            Some(Projection::by_matrix(from, dim, factors(&read_text(reader)?)?)?)
        }
    };
    let mut nodes = Vec::new();
    for _ in 0..len {
        nodes.push(read_module_node(reader, flags & HAS_ATTRIBUTES != 0)?);
    }
    if reader.rdb_plain_length()? != END {
        return Err(BAD_FIELD);
    }
    nodes.reverse();
    let links = mapped(&nodes, shape)?;
    let entry = (0..nodes.len()).rev().max_by_key(|at| nodes[*at].links.len()).ok_or(BAD_HEAD)?;
    let inserted = nodes.iter().map(|node| node.id).max().unwrap_or(0);
    let head = VectorHead { shape, projection, len, entry: entry as u32, inserted, uid: 0 };
    let mut loader = VectorLoader::new(head, limits.seed)?;
    for (node, links) in nodes.iter().zip(&links) {
        let ModuleNode { name, attributes, vector, norm, range, .. } = node;
        let range = if quantization == Quantization::Q8 { *range } else { 0.0 };
        loader.push(StoredNode { name, attributes, norm: *norm, range, vector, links })?;
    }
    Ok(Object::VectorSet(loader.finish()?))
}

fn read_module_node(reader: &mut Reader<'_>, has_attributes: bool) -> Result<ModuleNode> {
    let name = read_text(reader)?;
    let attributes = if has_attributes { read_text(reader)? } else { Vec::new() };
    let vector = read_text(reader)?;
    let numbers = read_number(reader)?;
    // Each has a byte that says that it is one.
    reader.check_count(numbers, 2)?;
    let mut left = numbers;
    let mut number = |reader: &mut Reader<'_>| {
        left = left.checked_sub(1).ok_or(BAD_FIELD)?;
        read_number(reader)
    };
    let (id, about) = (number(reader)?, number(reader)?);
    let (level, form) = (about & 0xff, about >> 24 & 0xff);
    if form > WITH_FARTHEST {
        return Err(BAD_FIELD);
    }
    let mut links = Vec::new();
    for _ in 0..=level {
        let (count, _room) = (number(reader)?, number(reader)?);
        reader.check_count(count, 2)?;
        links.push((0..count).map(|_| number(reader)).collect::<Result<Vec<u64>>>()?);
        if form == WITH_FARTHEST {
            number(reader)?;
        }
    }
    let norm_and_range = number(reader)?;
    if left != 0 {
        return Err(BAD_FIELD);
    }
    let (norm, range) = (norm_and_range as u32, (norm_and_range >> 32) as u32);
    let (norm, range) = (f32::from_bits(norm), f32::from_bits(range));
    Ok(ModuleNode { id, name, attributes, vector, norm, range, links })
}

/// The links of nodes by their places, without those for which there is no room: Redis lets a few nodes have more.
fn mapped(nodes: &[ModuleNode], shape: VectorShape) -> Result<Vec<Vec<Vec<u32>>>> {
    let mut places = HashMap::with_capacity(nodes.len());
    for (node, place) in nodes.iter().zip(0u32..) {
        if places.insert(node.id, place).is_some() {
            return Err(BAD_LINK);
        }
    }
    let place_of = |id: &u64| places.get(id).copied().ok_or(BAD_LINK);
    let layer = |links: &Vec<u64>| links.iter().map(place_of).collect::<Result<Vec<u32>>>();
    let mut links: Vec<Vec<Vec<u32>>> =
        nodes.iter().map(|node| node.links.iter().map(layer).collect()).collect::<Result<_>>()?;
    for place in 0..links.len() {
        for layer in 0..links[place].len() {
            let room = if layer == 0 { 2 * shape.links } else { shape.links } as usize;
            let of_node = &mut links[place][layer];
            if of_node.len() <= room {
                continue;
            }
            for other in of_node.split_off(room) {
                let of_other = links[other as usize].get_mut(layer).ok_or(BAD_LINK)?;
                of_other.retain(|link| *link as usize != place);
            }
        }
    }
    Ok(links)
}

/// The bytes of memory that a module's value may take when it is read, at most, whose module id has been read.
pub(in crate::codec) fn module_bytes_max(reader: &mut Reader<'_>) -> usize {
    let mut head = *reader;
    let (Ok(_), Ok(_), Ok(config)) = (read_number(&mut head), read_number(&mut head), read_number(&mut head)) else {
        return 0;
    };
    let links = match config >> 8 & 0xffff {
        0 => LINKS_UNSAID as usize,
        links => links as usize,
    };
    let (mut strings, mut numbers, mut texts, mut levels) = (0usize, 0usize, 0usize, 0usize);
    // The numbers since the last string: of those of a node the third says how many layers it is in.
    let mut since = 0;
    while let Ok(field) = reader.rdb_plain_length() {
        match field {
            NUMBER => {
                let Ok(number) = reader.rdb_plain_length() else { break };
                (numbers, since) = (numbers + 1, since + 1);
                if since == 3 {
                    levels = levels.saturating_add((number as usize & 0xff).min(LEVEL_MAX));
                }
            }
            STRING => match skip_string(reader) {
                Ok(bytes) => (strings, texts, since) = (strings.saturating_add(bytes), texts + 1, 0),
                Err(_) => break,
            },
            _ => break,
        }
    }
    // A node has two strings at least. While it is read its links take eight bytes each.
    let read = strings.saturating_mul(2).saturating_add(numbers.saturating_mul(24));
    read.saturating_add(nodes_bytes(texts / 2, levels, links))
}

/// The same of a set in its own form.
pub(in crate::codec) fn bytes_max(reader: &mut Reader<'_>) -> usize {
    let Ok((shape, len, mut strings)) = skip_head(reader) else { return 0 };
    let (mut nodes, mut levels) = (0usize, 0usize);
    while (nodes as u64) < len
        && let Ok((bytes, level)) = skip_node(reader, shape)
    {
        (strings, nodes, levels) = (strings.saturating_add(bytes), nodes + 1, levels.saturating_add(level));
    }
    strings.saturating_mul(2).saturating_add(nodes_bytes(nodes, levels, shape.links as usize))
}

/// Passes over a head; returns the shape, the number of nodes and the bytes of the projection.
fn skip_head(reader: &mut Reader<'_>) -> Result<(VectorShape, u64, usize)> {
    let dim = narrow(reader.rdb_plain_length()?)?;
    let quantization = quantization_of(reader.u8()?.into())?;
    let links = narrow(reader.rdb_plain_length()?)?;
    let has_factors = reader.rdb_plain_length()? != 0 && reader.rdb_plain_length()? == FACTORS;
    let factors = if has_factors { skip_string(reader)? } else { 0 };
    let (len, _entry, _inserted) = (reader.rdb_plain_length()?, reader.rdb_plain_length()?, reader.rdb_plain_length()?);
    reader.take(size_of::<u64>())?;
    Ok((VectorShape { dim, quantization, links }, len, factors))
}

/// Passes over a node; returns the bytes of its texts, its vector and its links, and its highest layer.
fn skip_node(reader: &mut Reader<'_>, shape: VectorShape) -> Result<(usize, usize)> {
    let texts = skip_string(reader)?.saturating_add(skip_string(reader)?);
    let fixed = size_of::<f32>() * if shape.quantization == Quantization::Q8 { 2 } else { 1 };
    let vector = reader.take(fixed)?.len() + reader.take(shape.quantization.vector_bytes(shape.dim))?.len();
    let (layers, mut links) = (usize::from(reader.u8()?), 0usize);
    for _ in 0..layers {
        let count = reader.rdb_count(size_of::<u32>())?;
        links += reader.take(count * size_of::<u32>())?.len();
    }
    Ok((texts.saturating_add(vector).saturating_add(links), layers.saturating_sub(1).min(LEVEL_MAX)))
}

/// The bytes of so many nodes, which are in so many layers above the lowest one together, beside their texts and vectors: there
/// is room for all links that they may have. The last chunk of each list has a quarter more.
fn nodes_bytes(nodes: usize, levels: usize, links: usize) -> usize {
    let each = NODE_BYTES.saturating_add(5 * (2 * links + 1));
    nodes.saturating_mul(each).saturating_add(levels.saturating_mul(5 * (links + 1)))
}

/// The memory that a node takes beside its strings and its links, now and while it is read.
const NODE_BYTES: usize = 320;
