//! Vector sets: names with vectors, found by their similarity.
//!
//! Redis has them as a module that is built in, so its rows have no category, and say of every key that it may be updated.

mod adding;
mod filter;
mod json;
mod similar;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashSet;

use dormouse_protocol::{Reply, Request};
use dormouse_types::VectorSet;
use dormouse_types::vector_set::{NodeView, VectorRef};

use crate::commands::args::{Args, canonical_integer};
use crate::commands::elements::{Selection, write_repeatedly};
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, cost, exactly, run};
use crate::error::{Error, Result, repeated};
use crate::keyspace::{Change, Keyspace};

const READ: Flags = Flags::READ.union(Flags::MODULE);
const WRITE: Flags = Flags::WRITE.union(Flags::MODULE).union(Flags::NOT_TO_REPLICAS);
const FAST: Flags = Flags::FAST;

const KEY: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::ACCESS).union(Access::UPDATE))];

pub(crate) const FAMILY: Family<Run> = Family {
    group: "module",
    category: Category::empty(),
    commands: &[
        Command::new("VADD", at_least(5), KEY, WRITE.union(Flags::DENY_OOM), adding::vadd as Run)
            .doc(
                "8.0.0",
                "O(log(N)) where N is the number of elements in the vector set, for each component of the vector.",
                "Adds an element with its vector to a vector set, or replaces the vector of one that exists. Creates the \
             key if it doesn't exist.",
            )
            .cost(adding::cost)
            .grows(adding::growth)
            .needs(adding::need),
        Command::new("VREM", exactly(3), KEY, WRITE, run!(vrem))
            .doc(
                "8.0.0",
                "O(log(N)) where N is the number of elements in the vector set.",
                "Removes an element from a vector set. Deletes the vector set if it was the last one.",
            )
            .cost(adding::removal_cost)
            .needs(adding::removal_need),
        Command::new("VSIM", at_least(4), KEY, READ, similar::vsim as Run)
            .doc(
                "8.0.0",
                "O(log(N)) where N is the number of elements in the vector set; O(N) with TRUTH.",
                "Returns the elements of a vector set whose vectors are similar to a vector.",
            )
            .cost(similar::cost)
            .needs(similar::need),
        Command::new("VDIM", exactly(2), KEY, READ.union(FAST), run!(vdim)).doc(
            "8.0.0",
            "O(1)",
            "Returns the number of components of a vector set's vectors.",
        ),
        Command::new("VCARD", exactly(2), KEY, READ.union(FAST), run!(vcard)).doc(
            "8.0.0",
            "O(1)",
            "Returns the number of elements in a vector set.",
        ),
        Command::new("VEMB", at_least(3), KEY, READ.union(FAST), run!(vemb))
            .doc("8.0.0", "O(D) where D is the number of components.", "Returns the vector of an element.")
            .cost(adding::components),
        Command::new("VLINKS", at_least(3), KEY, READ.union(FAST), vlinks as Run)
            .doc(
                "8.0.0",
                "O(M) where M is the number of links of the element.",
                "Returns the neighbors of an element in each layer of the graph.",
            )
            .cost(adding::links_cost),
        Command::new("VSETATTR", exactly(4), KEY, WRITE.union(FAST), run!(vsetattr))
            .doc("8.0.0", "O(1)", "Sets the JSON attributes of an element, or removes them.")
            .grows(|_, request| request.arg(3).len()),
        Command::new("VGETATTR", exactly(3), KEY, READ.union(FAST), run!(vgetattr)).doc(
            "8.0.0",
            "O(1)",
            "Returns the JSON attributes of an element.",
        ),
        Command::new("VINFO", exactly(2), KEY, READ.union(FAST), run!(vinfo)).doc(
            "8.0.0",
            "O(1)",
            "Returns information about a vector set.",
        ),
        Command::new("VRANDMEMBER", at_least(2), KEY, READ, vrandmember as Run)
            .doc(
                "8.0.0",
                "O(N) where N is the absolute value of the count.",
                "Returns one or more random elements from a vector set.",
            )
            .tips(&["nondeterministic_output"])
            .cost(cost::counted),
        Command::new("VISMEMBER", exactly(3), KEY, READ, run!(vismember)).doc(
            "8.2.0",
            "O(1)",
            "Determines whether an element belongs to a vector set.",
        ),
        Command::new("VRANGE", at_least(4), KEY, READ, vrange as Run)
            .doc(
                "8.4.0",
                "O(log(N)+M) where N is the number of elements in the vector set and M the number of elements returned.",
                "Returns elements of a vector set within a lexicographical range.",
            )
            .cost(range_cost),
    ],
};

/// The error for a number of words that the command itself refuses: with its name as the client wrote it.
fn wrong_arity(request: Request<'_>) -> Error {
    Error::WrongArity(repeated(request.arg(0)).into_owned())
}

/// The node of an element.
fn node<'s>(set: &'s VectorSet, element: &[u8]) -> Option<NodeView<'s>> {
    set.find(element).map(|id| set.node(id))
}

/// A similarity, from 0 to 1, from a distance.
fn score(distance: f32) -> f64 {
    1.0 - f64::from(distance) / 2.0
}

/// `VREM key element`
fn vrem(db: &mut Keyspace<'_>, reply: &mut Reply, (key, element): (&[u8], &[u8])) -> Result<()> {
    let removed = db.update_existing(key, |set: &mut VectorSet, _| {
        let removed = set.remove(element);
        Change::when(removed, removed)
    })?;
    reply.boolean(removed.unwrap_or(false));
    Ok(())
}

/// `VDIM key`
fn vdim(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    const NO_KEY: Error = Error::text("ERR key does not exist");
    let set = db.read::<VectorSet>(key)?.ok_or(NO_KEY)?;
    reply.integer(set.shape().dim.into());
    Ok(())
}

/// `VCARD key`
fn vcard(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    reply.integer(db.read::<VectorSet>(key)?.map_or(0, VectorSet::len) as i64);
    Ok(())
}

/// `VEMB key element [RAW]`
fn vemb(db: &mut Keyspace<'_>, reply: &mut Reply, (key, element, mut rest): (&[u8], &[u8], Args<'_>)) -> Result<()> {
    let mut is_raw = false;
    while !rest.is_empty() {
        if !rest.word("RAW") {
            return Err(Error::text("ERR invalid option"));
        }
        is_raw = true;
    }
    let Some(set) = db.read::<VectorSet>(key)? else {
        reply.null();
        return Ok(());
    };
    let Some(node) = node(set, element) else {
        reply.null();
        return Ok(());
    };
    if !is_raw {
        let components = node.components();
        reply.array(components.len());
        components.iter().for_each(|component| reply.double((*component).into()));
        return Ok(());
    }
    let shape = set.shape();
    let mut bytes = Vec::with_capacity(shape.quantization.vector_bytes(shape.dim));
    node.vector().append_to(&mut bytes);
    let range = match node.vector() {
        VectorRef::Bytes(_, range) => Some(range),
        VectorRef::Floats(_) | VectorRef::Bits(_) => None,
    };
    reply.array(3 + usize::from(range.is_some()));
    reply.simple(shape.quantization.name());
    reply.bulk(&bytes);
    reply.double(node.norm().into());
    if let Some(range) = range {
        reply.double(range.into());
    }
    Ok(())
}

/// `VLINKS key element [WITHSCORES]`
fn vlinks(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let with_scores = match request.get(3) {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"WITHSCORES") && request.len() == 4 => true,
        Some(_) => return Err(wrong_arity(request)),
    };
    let Some(set) = db.read::<VectorSet>(request.arg(1))? else {
        reply.null();
        return Ok(());
    };
    let Some(id) = set.find(request.arg(2)) else {
        reply.null();
        return Ok(());
    };
    let node = set.node(id);
    reply.array(node.level() + 1);
    for layer in (0..=node.level()).rev() {
        let links = node.links(layer);
        if with_scores {
            reply.map(links.len());
        } else {
            reply.array(links.len());
        }
        for link in links {
            reply.bulk(set.node(*link).name());
            if with_scores {
                // Redis rounds this one to a float.
                reply.double(f64::from(score(set.distance(id, *link)) as f32));
            }
        }
    }
    Ok(())
}

/// `VSETATTR key element attributes`
fn vsetattr(db: &mut Keyspace<'_>, reply: &mut Reply, (key, element, attributes): (&[u8], &[u8], &[u8])) -> Result<()> {
    let found = db.update_existing(key, |set: &mut VectorSet, _| {
        let found = set.set_attributes(element, attributes);
        Change::when(found, found)
    })?;
    reply.boolean(found.unwrap_or(false));
    Ok(())
}

/// `VGETATTR key element`
fn vgetattr(db: &mut Keyspace<'_>, reply: &mut Reply, (key, element): (&[u8], &[u8])) -> Result<()> {
    let attributes = db.read::<VectorSet>(key)?.and_then(|set| node(set, element)).map(NodeView::attributes);
    match attributes {
        Some(attributes) if !attributes.is_empty() => reply.bulk(attributes),
        _ => reply.null(),
    }
    Ok(())
}

/// `VINFO key`
fn vinfo(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let Some(set) = db.read::<VectorSet>(key)? else {
        reply.null_array();
        return Ok(());
    };
    let shape = set.shape();
    let numbers: [(&str, u64); 8] = [
        ("hnsw-m", shape.links.into()),
        ("vector-dim", shape.dim.into()),
        ("projection-input-dim", set.projection().map_or(0, |projection| projection.from().into())),
        ("size", set.len() as u64),
        ("max-level", set.level_max() as u64),
        ("attributes-count", set.attribute_count() as u64),
        ("vset-uid", set.uid()),
        ("hnsw-max-node-uid", set.inserted()),
    ];
    reply.map(1 + numbers.len());
    reply.simple("quant-type");
    reply.simple(shape.quantization.name());
    for (name, number) in numbers {
        reply.simple(name);
        reply.integer(i64::try_from(number).unwrap_or(i64::MAX));
    }
    Ok(())
}

/// `VRANDMEMBER key [count]`
fn vrandmember(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    if request.len() > 3 {
        return Err(wrong_arity(request));
    }
    let count = match request.get(2).map(canonical_integer) {
        None => None,
        Some(None) => return Err(Error::text("ERR COUNT value is not an integer")),
        Some(Some(i64::MIN)) => return Err(Error::text("ERR COUNT value is out of range")),
        Some(Some(0)) => {
            reply.array(0);
            return Ok(());
        }
        Some(count) => count,
    };
    let mut random = db.randoms();
    let Some(set) = db.read::<VectorSet>(request.arg(1))? else {
        match count {
            None => reply.null(),
            Some(_) => reply.array(0),
        }
        return Ok(());
    };
    let len = set.len();
    let mut draw = || ((u128::from(random()) * len as u128) >> 64) as u32;
    let write = |reply: &mut Reply, id: u32| reply.bulk(set.node(id).name());
    match count {
        None => write(reply, draw()),
        Some(count) if count < 0 => {
            reply.array(usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX));
            write_repeatedly(reply, count.unsigned_abs(), |reply| write(reply, draw()))?;
        }
        Some(count) => {
            let count = usize::try_from(count).unwrap_or(usize::MAX).min(len);
            reply.array(count);
            if count.saturating_mul(3) >= len {
                let mut selection = Selection::new(count, len);
                (0..len as u32).filter(|_| selection.takes(random())).for_each(|id| write(reply, id));
            } else {
                let mut drawn = HashSet::with_capacity(count);
                while drawn.len() < count {
                    let id = draw();
                    if drawn.insert(id) {
                        write(reply, id);
                    }
                }
            }
        }
    }
    Ok(())
}

/// `VISMEMBER key element`
fn vismember(db: &mut Keyspace<'_>, reply: &mut Reply, (key, element): (&[u8], &[u8])) -> Result<()> {
    reply.boolean(db.read::<VectorSet>(key)?.is_some_and(|set| set.find(element).is_some()));
    Ok(())
}

/// An end of a range of names.
#[derive(Clone, Copy)]
enum Bound<'a> {
    First,
    Last,
    At(&'a [u8]),
    Beside(&'a [u8]),
}

impl<'a> Bound<'a> {
    fn read(word: &'a [u8]) -> Option<Self> {
        match word {
            b"-" => Some(Self::First),
            b"+" => Some(Self::Last),
            [b'[', name @ ..] if !name.is_empty() => Some(Self::At(name)),
            [b'(', name @ ..] if !name.is_empty() => Some(Self::Beside(name)),
            _ => None,
        }
    }
}

/// `VRANGE key start end [count]`
fn vrange(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    if request.len() > 5 {
        return Err(wrong_arity(request));
    }
    let count = match request.get(4).map(canonical_integer) {
        None => usize::MAX,
        Some(None) => return Err(Error::text("ERR invalid COUNT value")),
        Some(Some(count)) => usize::try_from(count).unwrap_or(usize::MAX),
    };
    let start = Bound::read(request.arg(2)).ok_or(Error::text("ERR invalid start range format"))?;
    let end = Bound::read(request.arg(3)).ok_or(Error::text("ERR invalid end range format"))?;
    let from = match (start, end) {
        (Bound::Last, _) | (_, Bound::First) => {
            return Err(Error::text("ERR '-' can only be used as first argument, '+' only as second"));
        }
        (Bound::First, _) => &[],
        (Bound::At(name) | Bound::Beside(name), _) => name,
    };
    let Some(set) = db.read::<VectorSet>(request.arg(1))? else {
        reply.array(0);
        return Ok(());
    };
    let is_after = |name: &[u8]| !matches!(start, Bound::Beside(start) if start == name);
    let is_before = |name: &[u8]| match end {
        Bound::At(end) => name <= end,
        Bound::Beside(end) => name < end,
        Bound::First | Bound::Last => true,
    };
    let names = set.names_from(from).map(|id| set.node(id).name()).filter(|name| is_after(name));
    let (header, mut written) = (reply.len(), 0);
    for name in names.take_while(|name| is_before(name)).take(count) {
        reply.bulk(name);
        written += 1;
    }
    reply.array_since(header, written);
    Ok(())
}

/// As many elements as the count says; all of them without one.
fn range_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let count = request.get(4).and_then(canonical_integer).and_then(|count| usize::try_from(count).ok());
    cost::whole(db, request).min(count.unwrap_or(usize::MAX))
}
