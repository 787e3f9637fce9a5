//! Bloom filters.
//!
//! The outcome of a command follows from the filter and the arguments, so each is its own effect. A filter grows by whole links,
//! whose size is known beforehand: a request that would need more memory than there is is refused before it changes anything.

use dormouse_protocol::{Reply, Request};
use dormouse_types::Kind;
use dormouse_types::filter::{BLOOM_CAPACITY, BLOOM_ERROR_RATE, BLOOM_GROWTH, BadChunk, BadFilter, Bloom, BloomAdded};

use super::{
    GROW, KEY_ADD, KEY_LOOK, KEY_READ, NOT_FOUND, READ, READ_FAST, TOO_LARGE, UNKNOWN_ARGUMENT, behind, check_is_free,
    cost_of, letter, write_chunk,
};
use crate::commands::args::{Args, Rest, canonical_integer, parse_double};
use crate::commands::{Category, Command, Family, Flags, Run, at_least, exactly, run};
use crate::error::{Error, Result};
use crate::keyspace::{Change, Keyspace};

const ONE: &str = "O(k), where k is the number of hashes.";
const EACH: &str = "O(k * n), where k is the number of hashes, and n that of items.";

pub(crate) const FAMILY: Family<Run> = Family {
    group: "bf",
    category: Category::BLOOM,
    commands: &[
        Command::new("BF.RESERVE", at_least(4), KEY_ADD, GROW, run!(reserve))
            .doc("1.0.0", "O(n), where n is the capacity.", "Creates an empty Bloom filter.")
            .cost(|db, request| cost_of(0, 0, reserve_growth(db, request)))
            .grows(reserve_growth)
            .also(Category::FAST),
        Command::new("BF.ADD", exactly(3), KEY_ADD, GROW, run!(add))
            .doc("1.0.0", ONE, "Adds an item to a Bloom filter. Creates the filter if it doesn't exist.")
            .cost(add_cost)
            .grows(add_growth),
        Command::new("BF.MADD", at_least(3), KEY_ADD, GROW, run!(madd))
            .doc("1.0.0", EACH, "Adds items to a Bloom filter. Creates the filter if it doesn't exist.")
            .cost(add_cost)
            .grows(add_growth),
        Command::new("BF.INSERT", at_least(4), KEY_ADD, GROW, run!(insert))
            .doc("1.0.0", EACH, "Adds items to a Bloom filter. Creates it with these parameters if it doesn't exist.")
            .cost(insert_cost)
            .grows(insert_growth),
        Command::new("BF.EXISTS", exactly(3), KEY_READ, READ_FAST, run!(exists))
            .doc("1.0.0", ONE, "Checks whether an item was added to a Bloom filter.")
            .cost(look_cost),
        Command::new("BF.MEXISTS", at_least(3), KEY_READ, READ_FAST, run!(mexists))
            .doc("1.0.0", EACH, "Checks whether items were added to a Bloom filter.")
            .cost(look_cost),
        Command::new("BF.CARD", exactly(2), KEY_LOOK, READ_FAST, run!(card)).doc(
            "2.4.4",
            "O(1)",
            "Returns the number of items that were new when they were added to a Bloom filter.",
        ),
        Command::new("BF.INFO", at_least(2), KEY_LOOK, READ_FAST, run!(info))
            .doc("1.0.0", "O(n), where n is the number of sub-filters.", "Returns information about a Bloom filter.")
            .cost(|db, request| db.peek_collection::<Bloom>(request.arg(1)).map_or(0, Bloom::links)),
        Command::new("BF.SCANDUMP", exactly(3), KEY_READ, READ.union(Flags::FAST), run!(scandump))
            .doc(
                "1.0.0",
                "O(n), where n is the size of a chunk.",
                "Returns a chunk of a Bloom filter, to be loaded later.",
            )
            .cost(|db, request| db.peek_collection::<Bloom>(request.arg(1)).map_or(0, Bloom::links)),
        Command::new("BF.LOADCHUNK", exactly(4), KEY_ADD, GROW, run!(loadchunk))
            .doc("1.0.0", "O(n), where n is the size of the chunk.", "Loads a chunk that BF.SCANDUMP has returned.")
            .cost(|db, request| cost_of(0, 0, load_growth(db, request)))
            .grows(load_growth),
    ],
};

/// Arguments of a filter that is made.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Order {
    capacity: u64,
    error_rate: f64,
    growth: u32,
    is_fixed: bool,
}

impl Default for Order {
    fn default() -> Self {
        Order { capacity: BLOOM_CAPACITY, error_rate: BLOOM_ERROR_RATE, growth: BLOOM_GROWTH, is_fixed: false }
    }
}

impl Order {
    fn make(self) -> Result<Bloom> {
        Bloom::with_capacity(self.capacity, self.error_rate, self.growth, self.is_fixed).map_err(|bad| match bad {
            BadFilter::TooLarge => TOO_LARGE,
            BadFilter::Invalid => Error::text("ERR could not create filter"),
        })
    }

    /// The bytes of the filter, with so many items.
    fn bytes(self, items: usize) -> usize {
        Bloom::bytes_for(self.capacity, self.error_rate, self.growth, self.is_fixed, items)
    }
}

/// Rates above it are as good as this.
const ERROR_RATE_MAX: f64 = 0.25;
const CAPACITY_MAX: i64 = 1 << 30;
const GROWTH_MAX: i64 = 32768;

fn error_rate(word: &[u8]) -> Option<Option<f64>> {
    let rate = parse_double(word)?;
    Some(if rate > 0.0 && rate < 1.0 { Some(rate.min(ERROR_RATE_MAX)) } else { None })
}

fn capacity(word: &[u8]) -> Option<Option<u64>> {
    let capacity = canonical_integer(word)?;
    Some(u64::try_from(capacity).ok().filter(|_| (1..=CAPACITY_MAX).contains(&capacity)))
}

fn growth(word: &[u8]) -> Option<Option<u32>> {
    let growth = canonical_integer(word)?;
    Some(u32::try_from(growth).ok().filter(|_| (0..=GROWTH_MAX).contains(&growth)))
}

/// `error_rate capacity [EXPANSION expansion] [NONSCALING]`
fn read_order(words: Rest<'_>) -> Result<Order> {
    const BAD_RATE: Error = Error::text("ERR error rate must be in the range (0.000000, 1.000000)");
    const BAD_CAPACITY: Error = Error::text("ERR capacity must be in the range [1, 1073741824]");
    const BAD_GROWTH: Error = Error::text("ERR expansion must be in the range [0, 32768]");
    let mut order = Order {
        error_rate: error_rate(words.at(0)).ok_or(Error::text("ERR bad error rate"))?.ok_or(BAD_RATE)?,
        capacity: capacity(words.at(1)).ok_or(Error::text("ERR bad capacity"))?.ok_or(BAD_CAPACITY)?,
        ..Order::default()
    };
    let (mut options, mut given) = (words.iter().skip(2), None);
    while let Some(option) = options.next() {
        if option.eq_ignore_ascii_case(b"NONSCALING") {
            order.is_fixed = true;
        } else if option.eq_ignore_ascii_case(b"EXPANSION") {
            let word = options.next().ok_or(Error::text("ERR no expansion"))?;
            given = Some(growth(word).ok_or(Error::text("ERR bad expansion"))?);
        } else {
            return Err(Error::Syntax);
        }
    }
    match given {
        Some(Some(0)) => (order.growth, order.is_fixed) = (0, true),
        Some(_) if order.is_fixed => return Err(Error::text("Nonscaling filters cannot expand")),
        Some(given) => order.growth = given.ok_or(BAD_GROWTH)?,
        None => {}
    }
    Ok(order)
}

/// `BF.RESERVE key error_rate capacity [EXPANSION expansion] [NONSCALING]`
fn reserve(db: &mut Keyspace<'_>, reply: &mut Reply, (key, words): (&[u8], Rest<'_>)) -> Result<()> {
    if words.len() > 5 {
        return Err(Error::WrongArity("bf.reserve".to_owned()));
    }
    let order = read_order(words)?;
    check_is_free(db, key, Kind::Bloom)?;
    db.put(key, order.make()?, None);
    reply.ok();
    Ok(())
}

fn reserve_growth(_: &Keyspace<'_>, request: Request<'_>) -> usize {
    let words = Args::new(request, 2).take::<Rest<'_>>().ok().filter(|words| words.len() >= 2);
    words.and_then(|words| read_order(words).ok()).map_or(0, |order| order.bytes(0))
}

/// `BF.ADD key item`
fn add(db: &mut Keyspace<'_>, reply: &mut Reply, (key, item): (&[u8], Rest<'_>)) -> Result<()> {
    let mut added = None;
    add_all(db, key, item, Some(Order::default()), |one| added = Some(one))?;
    match added {
        Some(one) => write_added(reply, one),
        None => Err(NOT_FOUND),
    }
}

/// `BF.MADD key item [item ...]`
fn madd(db: &mut Keyspace<'_>, reply: &mut Reply, (key, items): (&[u8], Rest<'_>)) -> Result<()> {
    add_and_reply(db, reply, key, items, Some(Order::default()))
}

/// Options of an insertion: the filter that it may make, and the items. Options are told apart by their first letters.
fn read_insertion<'a>(words: &Rest<'a>) -> Result<(Option<Order>, Rest<'a>)> {
    let no_items = || Error::WrongArity("bf.insert".to_owned());
    let (mut order, mut creates, mut at) = (Order::default(), true, 0);
    while at < words.len() {
        let word = words.at(at);
        let value = words.split_at(at + 1).and_then(|(_, rest)| rest.iter().next());
        match letter(word, 0) {
            b'i' => {
                let items = behind(words, at + 1).ok_or_else(no_items)?;
                order.is_fixed |= order.growth == 0;
                return Ok((creates.then_some(order), items));
            }
            b'e' => {
                let value = value.ok_or_else(no_items)?;
                if letter(word, 1) == b'r' {
                    order.error_rate = error_rate(value).flatten().ok_or(Error::text("Bad error rate"))?;
                } else {
                    order.growth = growth(value).flatten().ok_or(Error::text("Bad expansion"))?;
                }
                at += 2;
            }
            b'c' => {
                let value = value.ok_or_else(no_items)?;
                order.capacity = capacity(value).flatten().ok_or(Error::text("Bad capacity"))?;
                at += 2;
            }
            b'n' => {
                match letter(word, 2) {
                    b'c' => creates = false,
                    _ => order.is_fixed = true,
                }
                at += 1;
            }
            _ => return Err(UNKNOWN_ARGUMENT),
        }
    }
    Err(no_items())
}

/// `BF.INSERT key [CAPACITY capacity] [ERROR error] [EXPANSION expansion] [NOCREATE] [NONSCALING] ITEMS item [item ...]`
fn insert(db: &mut Keyspace<'_>, reply: &mut Reply, (key, words): (&[u8], Rest<'_>)) -> Result<()> {
    let (order, items) = read_insertion(&words)?;
    add_and_reply(db, reply, key, items, order)
}

/// Replies for each item until the filter is full.
fn add_and_reply(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    key: &[u8],
    items: Rest<'_>,
    order: Option<Order>,
) -> Result<()> {
    let (start, mut count) = (reply.len(), 0);
    add_all(db, key, items, order, |added| {
        count += 1;
        if let Err(error) = write_added(reply, added) {
            reply.error(&error.to_string());
        }
    })?;
    reply.array_since(start, count);
    Ok(())
}

/// Adds items until the filter is full, and tells each result. `order`: the filter that is made where there is none.
fn add_all(
    db: &mut Keyspace<'_>,
    key: &[u8],
    items: Rest<'_>,
    order: Option<Order>,
    mut tell: impl FnMut(BloomAdded),
) -> Result<()> {
    let made = match (order, db.contains(key)) {
        (_, true) => None,
        (Some(order), false) => Some(order.make()?),
        (None, false) => return Err(NOT_FOUND),
    };
    db.update::<Bloom, _>(key, |bloom, _| {
        let mut changed = made.is_some();
        if let Some(made) = made {
            *bloom = made;
        }
        for item in items.iter() {
            dormouse_protocol::pace::step(1);
            let added = bloom.add(item);
            changed |= added == BloomAdded::New;
            tell(added);
            if added == BloomAdded::Full {
                break;
            }
        }
        Change::when(changed, ())
    })
}

fn write_added(reply: &mut Reply, added: BloomAdded) -> Result<()> {
    match added {
        BloomAdded::New | BloomAdded::Known => reply.boolean(added == BloomAdded::New),
        BloomAdded::Full => return Err(Error::text("ERR non scaling filter is full")),
        BloomAdded::Failed => return Err(Error::text("ERR problem inserting into filter")),
    }
    Ok(())
}

/// The hashes that each item needs, and the bytes that so many items add.
fn estimate(db: &Keyspace<'_>, key: &[u8], order: Option<Order>, items: usize) -> (usize, usize) {
    match (db.peek_collection::<Bloom>(key), order) {
        (Some(bloom), _) => (bloom.hashes(), bloom.growth_for(items)),
        // A filter that is made has no more hashes than the lowest rate needs.
        (None, Some(order)) => (NEW_HASHES, order.bytes(items)),
        (None, None) => (0, 0),
    }
}

/// The hashes of a new filter with a few links.
const NEW_HASHES: usize = 64;

fn items_of(request: Request<'_>) -> usize {
    request.len().saturating_sub(2)
}

fn add_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let (hashes, bytes) = estimate(db, request.arg(1), Some(Order::default()), items_of(request));
    cost_of(items_of(request), hashes, bytes)
}

fn add_growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    estimate(db, request.arg(1), Some(Order::default()), items_of(request)).1
}

fn insertion(db: &Keyspace<'_>, request: Request<'_>) -> (usize, usize, usize) {
    let Ok(words) = Args::new(request, 2).take::<Rest<'_>>() else { return (0, 0, 0) };
    let Ok((order, items)) = read_insertion(&words) else { return (0, 0, 0) };
    let (hashes, bytes) = estimate(db, request.arg(1), order, items.len());
    (items.len(), hashes, bytes)
}

fn insert_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let (items, hashes, bytes) = insertion(db, request);
    cost_of(items, hashes, bytes)
}

fn insert_growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    insertion(db, request).2
}

/// The filter under a key, if it holds one: to a search, any other value is as good as none.
fn searched<'d>(db: &'d mut Keyspace<'_>, key: &[u8]) -> Option<&'d Bloom> {
    db.read::<Bloom>(key).ok().flatten()
}

/// `BF.EXISTS key item`
fn exists(db: &mut Keyspace<'_>, reply: &mut Reply, (key, item): (&[u8], &[u8])) -> Result<()> {
    reply.boolean(searched(db, key).is_some_and(|bloom| bloom.contains(item)));
    Ok(())
}

/// `BF.MEXISTS key item [item ...]`
fn mexists(db: &mut Keyspace<'_>, reply: &mut Reply, (key, items): (&[u8], Rest<'_>)) -> Result<()> {
    let bloom = searched(db, key);
    reply.array(items.len());
    items.iter().for_each(|item| reply.boolean(bloom.is_some_and(|bloom| bloom.contains(item))));
    Ok(())
}

fn look_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let hashes = db.peek_collection::<Bloom>(request.arg(1)).map_or(0, Bloom::hashes);
    cost_of(items_of(request), hashes, 0)
}

/// `BF.CARD key`
fn card(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let items = db.read::<Bloom>(key)?.map_or(0, Bloom::items);
    reply.integer(items.cast_signed());
    Ok(())
}

/// `BF.INFO key [CAPACITY | SIZE | FILTERS | ITEMS | EXPANSION]`
fn info(db: &mut Keyspace<'_>, reply: &mut Reply, (key, words): (&[u8], Rest<'_>)) -> Result<()> {
    if words.len() > 1 {
        return Err(Error::WrongArity("bf.info".to_owned()));
    }
    let bloom = db.read::<Bloom>(key)?.ok_or(NOT_FOUND)?;
    let fields: [(&str, &str, Option<u64>); 5] = [
        ("CAPACITY", "Capacity", Some(bloom.capacity())),
        ("SIZE", "Size", Some(bloom.shown_bytes())),
        ("FILTERS", "Number of filters", Some(bloom.links() as u64)),
        ("ITEMS", "Number of items inserted", Some(bloom.items())),
        ("EXPANSION", "Expansion rate", Some(bloom.growth().into()).filter(|_| !bloom.is_fixed())),
    ];
    let write = |reply: &mut Reply, value: Option<u64>| match value {
        Some(value) => reply.integer(value.cast_signed()),
        None => reply.null(),
    };
    if let Some(wanted) = words.iter().next() {
        let found = fields.iter().find(|(word, ..)| wanted.eq_ignore_ascii_case(word.as_bytes()));
        let (_, name, value) = found.ok_or(Error::text("Invalid information value"))?;
        match reply.version() {
            dormouse_protocol::Version::Resp2 => reply.array(1),
            dormouse_protocol::Version::Resp3 => {
                reply.map(1);
                reply.simple(name);
            }
        }
        write(reply, *value);
        return Ok(());
    }
    reply.map(fields.len());
    for (_, name, value) in fields {
        reply.simple(name);
        write(reply, value);
    }
    Ok(())
}

/// `BF.SCANDUMP key iterator`
fn scandump(db: &mut Keyspace<'_>, reply: &mut Reply, (key, at): (&[u8], &[u8])) -> Result<()> {
    let bloom = db.read::<Bloom>(key)?.ok_or(NOT_FOUND)?;
    let at = canonical_integer(at).ok_or(Error::text("Second argument must be numeric"))?;
    reply.array(2);
    if at == 0 {
        let mut head = Vec::new();
        bloom.write_head(&mut head);
        reply.integer(1);
        reply.bulk(&head);
    } else if !write_chunk(reply, bloom.parts(), at) {
        reply.integer(0);
        reply.bulk(b"");
    }
    Ok(())
}

/// `BF.LOADCHUNK key iterator data`
fn loadchunk(db: &mut Keyspace<'_>, reply: &mut Reply, (key, at, chunk): (&[u8], &[u8], &[u8])) -> Result<()> {
    const BAD_DATA: Error = Error::text("ERR received bad data");
    let at = canonical_integer(at).ok_or(Error::text("ERR Second argument must be numeric"))?;
    if at == 1 && !db.contains(key) {
        let mut bloom = Bloom::from_head(chunk).map_err(|_| BAD_DATA)?;
        bloom.parts_mut().fill();
        db.put(key, bloom, None);
        reply.ok();
        return Ok(());
    }
    // The position behind the chunk.
    let end = usize::try_from(at).ok().filter(|end| *end > 0);
    let first = end.and_then(|end| end.checked_sub(chunk.len()));
    let written = db.update_existing::<Bloom, _>(key, |bloom, _| {
        let put = |first: usize| bloom.parts_mut().write(first.checked_sub(1).ok_or(BadChunk::Beyond)?, chunk);
        let written = match first.map(put) {
            None => Err(BAD_DATA),
            Some(Ok(())) => Ok(()),
            Some(Err(BadChunk::Beyond)) => Err(Error::text("ERR invalid offset - no link found")),
            Some(Err(BadChunk::TooLong)) => Err(Error::text("ERR invalid chunk - Too big for current filter")),
        };
        Change::when(written.is_ok(), written)
    })?;
    written.ok_or(NOT_FOUND)??;
    reply.ok();
    Ok(())
}

/// The bytes of the filter whose head is loaded.
fn load_growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    match (request.get(2), request.get(3)) {
        (Some(b"1"), Some(head)) if db.value_bytes(request.arg(1)) == 0 => {
            Bloom::from_head(head).map_or(0, |bloom| bloom.parts().lens().iter().sum())
        }
        _ => 0,
    }
}
