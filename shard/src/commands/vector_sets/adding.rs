//! Adding elements, and the costs of changes to the graph.

use dormouse_protocol::{Reply, Request};
use dormouse_types::VectorSet;
use dormouse_types::vector_set::{DIM_MAX, LEN_MAX, LINKS_MAX, LINKS_MIN, Projection, Quantization, VectorShape};

use super::wrong_arity;
use crate::commands::args::{Args, canonical_integer, parse_double};
use crate::error::{Error, Result};
use crate::keyspace::{Change, Keyspace};

/// The effort of searches for a new element's neighbours, and M, where a client says neither.
const EFFORT: usize = 200;
const LINKS: u32 = 16;
/// The greatest effort that a client may ask for.
pub(super) const EFFORT_MAX: i64 = 1_000_000;

const BAD_VECTOR: Error = Error::text("ERR invalid vector specification");
const BAD_EFFORT: Error = Error::text("ERR invalid EF");

/// Distances of short vectors that are about as much work as one element, and components beyond which they are longer.
const DISTANCES_PER_ELEMENT: usize = 5;
const COMPONENTS_PER_DISTANCE: usize = 256;
/// Bytes of a request with a vector that are, as each component is read, scaled and quantized.
const VECTOR_BYTES_PER_ELEMENT: usize = 128;
/// Factors of a projection that are.
const FACTORS_PER_ELEMENT: usize = 512;

/// `[REDUCE components] <FP32 blob | VALUES count value [value ...]>`
pub(super) struct Given {
    pub components: Vec<f32>,
    pub reduce: Option<u32>,
}

impl Given {
    /// `may_reduce`: whether `REDUCE` is known here.
    pub fn read(args: &mut Args<'_>, may_reduce: bool) -> Result<Self> {
        let mut reduce = None;
        if may_reduce && args.len() > 2 && args.word("REDUCE") {
            let to = canonical_integer(args.bytes()?).filter(|to| *to > 0).ok_or(BAD_VECTOR)?;
            reduce = Some(u32::try_from(to).unwrap_or(u32::MAX));
        }
        let components: Vec<f32> = if args.word("FP32") {
            let (floats, rest) = args.bytes().map_err(|_| BAD_VECTOR)?.as_chunks();
            if floats.is_empty() || !rest.is_empty() || floats.len() > DIM_MAX as usize {
                return Err(BAD_VECTOR);
            }
            floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        } else if args.word("VALUES") {
            let count =
                args.bytes().ok().and_then(canonical_integer).filter(|count| (1..=DIM_MAX.into()).contains(count));
            let values = count.and_then(|count| args.split_to(count as usize).ok()).ok_or(BAD_VECTOR)?;
            let value = |word| parse_double(word).map(|value| value as f32).ok_or(BAD_VECTOR);
            values.iter().map(value).collect::<Result<_>>()?
        } else {
            return Err(BAD_VECTOR);
        };
        if reduce.is_some_and(|to| to as usize > components.len()) {
            return Err(BAD_VECTOR);
        }
        Ok(Self { components, reduce })
    }

    fn len(&self) -> u32 {
        self.components.len() as u32
    }
}

/// `[CAS] [NOQUANT | Q8 | BIN] [EF effort] [SETATTR attributes] [M links]`, after the element
struct Options<'a> {
    quantization: Quantization,
    effort: usize,
    links: u32,
    attributes: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn read(args: &mut Args<'a>) -> Result<Self> {
        let mut read = Self { quantization: Quantization::Q8, effort: EFFORT, links: LINKS, attributes: None };
        while !args.is_empty() {
            let has_value = args.len() > 1;
            if args.word("CAS") {
                // There, the neighbours are found by another thread. Here, a long command runs on one anyway.
            } else if has_value && args.word("EF") {
                let effort = canonical_integer(args.bytes()?).filter(|effort| (1..=EFFORT_MAX).contains(effort));
                read.effort = effort.ok_or(BAD_EFFORT)? as usize;
            } else if has_value && args.word("M") {
                let links = canonical_integer(args.bytes()?).and_then(|links| u32::try_from(links).ok());
                let links = links.filter(|links| (LINKS_MIN..=LINKS_MAX).contains(links));
                read.links = links.ok_or(Error::text("ERR invalid M"))?;
            } else if has_value && args.word("SETATTR") {
                read.attributes = Some(args.bytes()?);
            } else if args.word("NOQUANT") {
                read.quantization = Quantization::None;
            } else if args.word("BIN") {
                read.quantization = Quantization::Binary;
            } else if args.word("Q8") {
                read.quantization = Quantization::Q8;
            } else {
                return Err(Error::text("ERR invalid option after element"));
            }
        }
        Ok(read)
    }
}

/// `VADD key [REDUCE components] <FP32 blob | VALUES count value [value ...]> element [CAS] [NOQUANT | Q8 | BIN] [EF effort]
/// [SETATTR attributes] [M links]`
pub(super) fn vadd(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let mut args = Args::new(request, 1);
    let key = args.bytes()?;
    let given = Given::read(&mut args, true)?;
    let element = args.bytes().map_err(|_| wrong_arity(request))?;
    let options = Options::read(&mut args)?;
    let added = db.update(key, |set: &mut VectorSet, limits| {
        if set.is_empty() {
            let Options { quantization, links, .. } = options;
            let shape = VectorShape { dim: given.reduce.unwrap_or(given.len()), quantization, links };
            let projection = given.reduce.map(|_| Projection::new(given.len()));
            *set = VectorSet::with_shape(shape, projection);
        } else if let Err(error) = check(set, &given, &options) {
            return Change::No(Err(error));
        }
        let Options { attributes, effort, .. } = options;
        let added = match set.projection() {
            None => set.add(element, &given.components, attributes, effort, limits.seed),
            Some(projection) => {
                let components = projection.apply(&given.components, set.shape().dim);
                set.add(element, &components, attributes, effort, limits.seed)
            }
        };
        Change::Yes(Ok(added))
    })??;
    reply.boolean(added);
    Ok(())
}

/// Whether a vector that is asked to be added fits to a set that exists.
fn check(set: &VectorSet, given: &Given, options: &Options<'_>) -> Result<()> {
    let shape = set.shape();
    if shape.quantization != options.quantization {
        return Err(Error::text("ERR asked quantization mismatch with existing vector set"));
    }
    if shape.links != options.links {
        return Err(Error::text("ERR asked M value mismatch with existing vector set"));
    }
    match set.projection() {
        None if given.len() != shape.dim => Err(other_dim(given.len(), shape)),
        None if given.reduce.is_some() => {
            Err(Error::text("ERR cannot add projection to existing set without projection"))
        }
        None if set.len() >= LEN_MAX => Err(Error::text("ERR the vector set has too many elements")),
        None => Ok(()),
        Some(_) if given.reduce != Some(shape.dim) => Err(other_dim(given.len(), shape)),
        Some(projection) => check_input(given, projection),
    }
}

pub(super) fn other_dim(got: u32, shape: VectorShape) -> Error {
    Error::Text(format!("ERR Vector dimension mismatch - got {got} but set has {}", shape.dim).into())
}

pub(super) fn check_input(given: &Given, projection: &Projection) -> Result<()> {
    if given.len() == projection.from() {
        return Ok(());
    }
    let (got, expects) = (given.len(), projection.from());
    Err(Error::Text(
        format!("ERR Input dimension mismatch for projection - got {got} but projection expects {expects}").into(),
    ))
}

/// The set that a request names, for its costs.
pub(super) fn set_of<'d>(db: &'d Keyspace<'_>, request: Request<'_>) -> Option<&'d VectorSet> {
    db.peek_collection(request.get(1)?)
}

/// The cost of so many distances between vectors of a set.
pub(super) fn distances_cost(count: usize, shape: VectorShape) -> usize {
    count.saturating_mul(1 + shape.dim as usize / COMPONENTS_PER_DISTANCE) / DISTANCES_PER_ELEMENT
}

/// The components of a vector.
pub(super) fn components(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    set_of(db, request).map_or(0, |set| set.shape().dim as usize)
}

/// The links of a node, each of which is a distance.
pub(super) fn links_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    set_of(db, request).map_or(0, |set| (3 * set.shape().links as usize).min(set.len()))
}

/// The cost of looking at the neighbours of `visits` nodes: distances, each of another node.
pub(super) fn search_cost(set: &VectorSet, visits: usize) -> usize {
    let shape = set.shape();
    let layers = shape.links as usize * set.level_max();
    let nodes = visits.saturating_mul(2 * shape.links as usize).saturating_add(layers).min(set.len().saturating_mul(2));
    distances_cost(nodes, shape)
}

/// The cost of making a projection of one vector.
pub(super) fn projection_cost(set: &VectorSet) -> usize {
    let factors = set.projection().map_or(0, |projection| projection.from() as usize * set.shape().dim as usize);
    factors / FACTORS_PER_ELEMENT
}

/// The same for the first vector of a set.
fn first_projection_cost(request: Request<'_>) -> usize {
    let mut args = Args::new(request, 2);
    if !args.word("REDUCE") {
        return 0;
    }
    let to = args.bytes().ok().and_then(canonical_integer).and_then(|to| usize::try_from(to).ok()).unwrap_or(0);
    let from = request.extent() / size_of::<f32>();
    to.min(DIM_MAX as usize).saturating_mul(from.max(request.len())) / FACTORS_PER_ELEMENT
}

/// The number of components that a request gives or reduces them to, the element and the options, without reading the
/// components.
fn outline_of(request: Request<'_>) -> Option<(u32, &[u8], Options<'_>)> {
    let mut args = Args::new(request, 2);
    let reduce = if args.word("REDUCE") { Some(canonical_integer(args.bytes().ok()?)?) } else { None };
    let given = if args.word("VALUES") {
        let count = canonical_integer(args.bytes().ok()?)?;
        args.split_to(usize::try_from(count).ok()?).ok()?;
        count
    } else {
        args.skip();
        (args.bytes().ok()?.len() / size_of::<f32>()) as i64
    };
    let element = args.bytes().ok()?;
    let dim = u32::try_from(reduce.unwrap_or(given)).ok().filter(|dim| *dim <= DIM_MAX)?;
    Some((dim, element, Options::read(&mut args).ok()?))
}

/// The effort that a request asks for.
fn asked_effort(request: Request<'_>) -> usize {
    outline_of(request).map_or(0, |(_, _, options)| options.effort)
}

/// Searches in each layer, choosing among what they find, and making room at those chosen.
pub(super) fn cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let reading = reading_cost(request);
    let Some(set) = set_of(db, request) else { return first_projection_cost(request).saturating_add(reading) };
    let (shape, effort) = (set.shape(), asked_effort(request).min(set.len()));
    let links = (2 * shape.links as usize).min(set.len());
    let choosing = effort.saturating_mul(shape.links as usize).saturating_add(links.saturating_mul(links));
    search_cost(set, effort)
        .saturating_add(distances_cost(choosing, shape))
        .saturating_add(projection_cost(set))
        .saturating_add(distances_cost(links.saturating_mul(links), shape))
        .saturating_add(reading)
}

/// The cost of reading a request's vector.
pub(super) fn reading_cost(request: Request<'_>) -> usize {
    request.extent() / VECTOR_BYTES_PER_ELEMENT
}

/// The distances between all neighbours of a node, and looking whether these are linked.
pub(super) fn removal_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(set) = set_of(db, request) else { return 0 };
    let links = (2 * set.shape().links as usize).min(set.len());
    let pairs = links.saturating_mul(links);
    // Those of the pairs, and as many for nodes that are left with few links.
    distances_cost(2 * pairs, set.shape()).saturating_add(pairs)
}

/// The bytes in which a removal notes the pairs of a node's neighbours.
pub(super) fn removal_need(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    const PAIR: usize = 12;
    let links = set_of(db, request).map_or(0, |set| (2 * set.shape().links as usize).min(set.len()));
    // A list that grows has up to twice the room.
    links.saturating_mul(links).saturating_mul(PAIR)
}

/// The bytes that a new node takes, beside its name, its attributes and its vector.
pub(super) fn growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some((dim, element, Options { quantization, links, .. })) = outline_of(request) else { return 0 };
    let seed = db.limits().seed;
    match set_of(db, request) {
        Some(set) => set.growth_for(element, seed),
        None => {
            let set = VectorSet::with_shape(VectorShape { dim, quantization, links }, None);
            set.heap_bytes() + set.growth_for(element, seed)
        }
    }
}

/// The bytes in which a search notes the nodes that it has seen, and the distances of those that it keeps.
pub(super) fn need(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let len = set_of(db, request).map_or(0, VectorSet::len);
    // A vector that is replaced leaves the graph first.
    search_bytes(len, asked_effort(request)).saturating_add(removal_need(db, request))
}

pub(super) fn search_bytes(len: usize, effort: usize) -> usize {
    len / 2 + effort.min(len) * 24
}
