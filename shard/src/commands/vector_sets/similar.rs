//! Searches by similarity.

use dormouse_protocol::{Reply, Request, Version};
use dormouse_types::vector_set::NearNode;
use dormouse_types::{VectorSet, pace};

use super::adding::{
    EFFORT_MAX, Given, check_input, distances_cost, other_dim, projection_cost, reading_cost, search_bytes,
    search_cost, set_of,
};
use super::filter::Filter;
use super::{node, score};
use crate::commands::args::{Args, canonical_integer, parse_double};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

/// The effort of a search, and the number of its results, where a client says neither.
const EFFORT: usize = 100;
const COUNT: usize = 10;
/// Nodes whose links a search with a filter follows for each result, where a client does not say it.
const VISITS_EACH: usize = 100;

/// `[WITHSCORES] [WITHATTRIBS] [COUNT count] [EPSILON distance] [EF effort] [FILTER expression] [FILTER-EF visits] [TRUTH]
/// [NOTHREAD]`
struct Options<'a> {
    with_scores: bool,
    with_attributes: bool,
    count: usize,
    /// Half of the distance that results may have.
    epsilon: f32,
    effort: usize,
    filter: Option<&'a [u8]>,
    visits_max: Option<usize>,
    /// Whether all nodes are looked at.
    is_exact: bool,
}

impl<'a> Options<'a> {
    /// `check` is called with each filter, as its error comes in the order of the words.
    fn read(args: &mut Args<'a>, check: impl Fn(&'a [u8]) -> Result<()>) -> Result<Self> {
        let mut read = Self {
            with_scores: false,
            with_attributes: false,
            count: COUNT,
            epsilon: 2.0,
            effort: EFFORT,
            filter: None,
            visits_max: None,
            is_exact: false,
        };
        let positive = |word: &[u8]| canonical_integer(word).filter(|number| *number > 0);
        let size = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
        while !args.is_empty() {
            let has_value = args.len() > 1;
            if args.word("WITHSCORES") {
                read.with_scores = true;
            } else if args.word("WITHATTRIBS") {
                read.with_attributes = true;
            } else if args.word("TRUTH") {
                read.is_exact = true;
            } else if args.word("NOTHREAD") {
                // There, every search has a thread of its own unless it is told not to. Here, only long ones change theirs.
            } else if has_value && args.word("COUNT") {
                read.count = positive(args.bytes()?).map(size).ok_or(Error::text("ERR invalid COUNT"))?;
            } else if has_value && args.word("EPSILON") {
                let epsilon = parse_double(args.bytes()?).filter(|epsilon| *epsilon > 0.0);
                read.epsilon = epsilon.ok_or(Error::text("ERR invalid EPSILON"))? as f32;
            } else if has_value && args.word("EF") {
                let effort = positive(args.bytes()?).filter(|effort| *effort <= EFFORT_MAX);
                read.effort = effort.map(size).ok_or(Error::text("ERR invalid EF"))?;
            } else if has_value && args.word("FILTER-EF") {
                let visits = positive(args.bytes()?).map(size);
                read.visits_max = Some(visits.ok_or(Error::text("ERR invalid FILTER-EF"))?);
            } else if has_value && args.word("FILTER") {
                let filter = args.bytes()?;
                check(filter)?;
                read.filter = Some(filter);
            } else {
                return Err(Error::text("ERR syntax error in VSIM command"));
            }
        }
        Ok(read)
    }

    fn effort(&self) -> usize {
        self.effort.max(self.count)
    }

    fn visits_max(&self) -> usize {
        self.visits_max.unwrap_or(self.count.saturating_mul(VISITS_EACH))
    }
}

/// `VSIM key <ELE element | FP32 blob | VALUES count value [value ...]> [WITHSCORES] [WITHATTRIBS] [COUNT count]
/// [EPSILON distance] [EF effort] [FILTER expression] [FILTER-EF visits] [TRUTH] [NOTHREAD]`
pub(super) fn vsim(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let mut args = Args::new(request, 1);
    let key = args.bytes()?;
    let Some(set) = db.read::<VectorSet>(key)? else {
        reply.array(0);
        return Ok(());
    };
    let vector = query(set, &mut args)?;
    let options = Options::read(&mut args, |filter| Filter::new(filter).map(drop))?;
    let filter = options.filter.map(Filter::new).transpose()?;
    let fields = options.filter.map_or(0, fields_max);
    let mut accepts = |id| {
        filter.as_ref().is_none_or(|filter| {
            let attributes = set.node(id).attributes();
            pace::step(fields.saturating_mul(attributes.len()) / ATTRIBUTE_BYTES_PER_ELEMENT);
            !attributes.is_empty() && filter.passes(attributes)
        })
    };
    let effort = options.effort();
    let found = if options.is_exact {
        set.nearest_of_all(&vector, effort, &mut accepts)
    } else if filter.is_some() {
        set.nearest_where(&vector, effort, options.visits_max(), &mut accepts)
    } else {
        set.nearest(&vector, effort)
    };
    let near = found.partition_point(|found| found.distance / 2.0 <= options.epsilon);
    write(reply, set, &found[..near.min(options.count)], &options);
    Ok(())
}

/// The vector that a search is for.
fn query(set: &VectorSet, args: &mut Args<'_>) -> Result<Vec<f32>> {
    if args.word("ELE") {
        let element = node(set, args.bytes()?).ok_or(Error::text("ERR element not found in set"))?;
        return Ok(element.components());
    }
    let given = Given::read(args, false)?;
    let (shape, dim) = (set.shape(), given.components.len() as u32);
    match set.projection() {
        _ if dim == shape.dim => Ok(given.components),
        Some(projection) => {
            check_input(&given, projection)?;
            Ok(projection.apply(&given.components, shape.dim))
        }
        None => Err(other_dim(dim, shape)),
    }
}

fn write(reply: &mut Reply, set: &VectorSet, found: &[NearNode], options: &Options<'_>) {
    let Options { with_scores, with_attributes, .. } = *options;
    let is_map = reply.version() == Version::Resp3 && (with_scores || with_attributes);
    if is_map {
        reply.map(found.len());
    } else {
        reply.array(found.len() * (1 + usize::from(with_scores) + usize::from(with_attributes)));
    }
    for NearNode { distance, id } in found {
        let node = set.node(*id);
        reply.bulk(node.name());
        if is_map && with_scores && with_attributes {
            reply.array(2);
        }
        if with_scores {
            reply.double(score(*distance));
        }
        if with_attributes {
            match node.attributes() {
                [] => reply.null(),
                attributes => reply.bulk(attributes),
            }
        }
    }
}

/// A request's options, as far as they can be read.
fn options_of<'a>(request: Request<'a>) -> Option<Options<'a>> {
    let mut args = Args::new(request, 2);
    if args.word("VALUES") {
        let count = usize::try_from(canonical_integer(args.bytes().ok()?)?).ok()?;
        args.split_to(count).ok()?;
    } else {
        args.split_to(2).ok()?;
    }
    Options::read(&mut args, |_| Ok(())).ok()
}

/// The distances that a search computes, and the filters that it applies.
pub(super) fn cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let (Some(set), Some(options)) = (set_of(db, request), options_of(request)) else { return 0 };
    let shape = set.shape();
    let nodes = if options.is_exact {
        distances_cost(set.len(), shape)
    } else if options.filter.is_some() {
        search_cost(set, options.visits_max())
    } else {
        search_cost(set, options.effort())
    };
    let filtering = options.filter.map_or(0, |filter| {
        let visited = options.visits_max().saturating_mul(2 * shape.links as usize).saturating_add(1);
        filtering_cost(set, filter, if options.is_exact { set.len() } else { visited.min(set.len()) })
    });
    nodes.saturating_add(filtering).saturating_add(projection_cost(set)).saturating_add(reading_cost(request))
}

/// The cost of reading a filter and applying it to so many nodes, whichever they are. Each field is looked for by itself.
fn filtering_cost(set: &VectorSet, filter: &[u8], nodes: usize) -> usize {
    let tokens = filter.len() / FILTER_BYTES_PER_ELEMENT;
    let looks = fields_max(filter).saturating_mul(set.attribute_bytes_max(nodes)) / ATTRIBUTE_BYTES_PER_ELEMENT;
    nodes.saturating_mul(1 + tokens).saturating_add(looks).saturating_add(tokens)
}

/// How many fields a filter has at most.
fn fields_max(filter: &[u8]) -> usize {
    filter.iter().filter(|byte| **byte == b'.').count()
}

/// Bytes of a filter that are about as much work as one element, and bytes of attributes in which a field is looked for.
const FILTER_BYTES_PER_ELEMENT: usize = 16;
const ATTRIBUTE_BYTES_PER_ELEMENT: usize = 16;

/// The bytes in which a search notes the nodes that it has seen, and those that it keeps.
pub(super) fn need(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let (Some(set), Some(options)) = (set_of(db, request), options_of(request)) else { return 0 };
    let ahead = if options.filter.is_some() { set.len() * size_of::<NearNode>() } else { 0 };
    let reading = options.filter.map_or(0, <[u8]>::len) * FILTER_TOKEN_BYTES;
    // A text with escapes is copied for as long as the filter is applied to its node.
    let copies = options.filter.map_or(0, fields_max).saturating_mul(set.attribute_bytes_max(1));
    search_bytes(set.len(), options.effort()).saturating_add(ahead).saturating_add(reading).saturating_add(copies)
}

/// The bytes of memory that a byte of a filter may become.
const FILTER_TOKEN_BYTES: usize = 96;
