//! Cuckoo filters.
//!
//! The outcome of a command follows from the filter and the arguments, so each is its own effect. Whether an insertion needs a new
//! layer is known only when it has run; what it may add at most is known before.

use dormouse_protocol::{Reply, Request};
use dormouse_types::Kind;
use dormouse_types::filter::{
    BadFilter, CUCKOO_BUCKET_SIZE, CUCKOO_CAPACITY, CUCKOO_GROWTH, CUCKOO_HEAD, CUCKOO_MOVES, Cuckoo, CuckooInserted,
    LAYERS_MAX,
};

use super::{
    GROW, KEY_ADD, KEY_DELETE, KEY_LOOK, KEY_READ, NOT_FOUND, READ_FAST, TOO_LARGE, UNKNOWN_ARGUMENT, WRITE, behind,
    check_is_free, cost_of, letter, write_chunk,
};
use crate::commands::args::{Args, Rest, canonical_integer};
use crate::commands::{Category, Command, Family, Flags, Run, at_least, exactly, run};
use crate::error::{Error, Result};
use crate::keyspace::{Change, Keyspace};

const ADD_ONE: &str = "O(k + i), where k is the number of sub-filters and i is MAXITERATIONS.";
const ADD_EACH: &str = "O(n * (k + i)), where n is the number of items, k that of sub-filters, and i is MAXITERATIONS.";
const LOOK_ONE: &str = "O(k), where k is the number of sub-filters.";

pub(crate) const FAMILY: Family<Run> = Family {
    group: "cf",
    category: Category::CUCKOO,
    commands: &[
        Command::new("CF.RESERVE", at_least(3), KEY_ADD, GROW, run!(reserve))
            .doc("1.0.0", "O(n), where n is the capacity.", "Creates an empty Cuckoo filter.")
            .cost(|db, request| cost_of(0, 0, reserve_growth(db, request)))
            .grows(reserve_growth)
            .also(Category::FAST),
        Command::new("CF.ADD", exactly(3), KEY_ADD, GROW, run!(add))
            .doc("1.0.0", ADD_ONE, "Adds an item to a Cuckoo filter. Creates the filter if it doesn't exist.")
            .cost(add_cost)
            .grows(add_growth),
        Command::new("CF.ADDNX", exactly(3), KEY_ADD, GROW, run!(addnx))
            .doc("1.0.0", ADD_ONE, "Adds an item to a Cuckoo filter unless it is there. Creates the filter if needed.")
            .cost(add_cost)
            .grows(add_growth),
        Command::new("CF.INSERT", at_least(4), KEY_ADD, GROW, run!(insert))
            .doc("1.0.0", ADD_EACH, "Adds items to a Cuckoo filter. Creates it with this capacity if it doesn't exist.")
            .cost(insert_cost)
            .grows(insert_growth),
        Command::new("CF.INSERTNX", at_least(4), KEY_ADD, GROW, run!(insertnx))
            .doc("1.0.0", ADD_EACH, "Adds those items to a Cuckoo filter that are not there. Creates it if needed.")
            .cost(insert_cost)
            .grows(insert_growth),
        Command::new("CF.EXISTS", exactly(3), KEY_READ, READ_FAST, run!(exists))
            .doc("1.0.0", LOOK_ONE, "Checks whether an item is in a Cuckoo filter.")
            .cost(look_cost),
        Command::new("CF.MEXISTS", at_least(3), KEY_READ, READ_FAST, run!(mexists))
            .doc(
                "1.0.0",
                "O(k * n), where k is the number of sub-filters, and n that of items.",
                "Checks whether items are in a Cuckoo filter.",
            )
            .cost(look_cost),
        Command::new("CF.COUNT", exactly(3), KEY_READ, READ_FAST, run!(count))
            .doc("1.0.0", LOOK_ONE, "Returns how often an item may be in a Cuckoo filter.")
            .cost(look_cost),
        Command::new("CF.DEL", exactly(3), KEY_DELETE, WRITE.union(Flags::FAST), run!(delete))
            .doc("1.0.0", LOOK_ONE, "Deletes an item from a Cuckoo filter, once.")
            .cost(delete_cost),
        Command::new("CF.INFO", exactly(2), KEY_LOOK, READ_FAST, run!(info)).doc(
            "1.0.0",
            "O(1)",
            "Returns information about a Cuckoo filter.",
        ),
        Command::new("CF.SCANDUMP", exactly(3), KEY_READ, READ_FAST, run!(scandump)).doc(
            "1.0.0",
            "O(n), where n is the size of a chunk.",
            "Returns a chunk of a Cuckoo filter, to be loaded later.",
        ),
        Command::new("CF.LOADCHUNK", exactly(4), KEY_ADD, GROW, run!(loadchunk))
            .doc("1.0.0", "O(n), where n is the size of the chunk.", "Loads a chunk that CF.SCANDUMP has returned.")
            .cost(|db, request| cost_of(0, 0, load_growth(db, request)))
            .grows(load_growth),
    ],
};

/// Arguments of a filter that is made.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Order {
    capacity: u64,
    bucket_size: u16,
    moves: u16,
    growth: u16,
}

impl Default for Order {
    fn default() -> Self {
        Order { capacity: CUCKOO_CAPACITY, bucket_size: CUCKOO_BUCKET_SIZE, moves: CUCKOO_MOVES, growth: CUCKOO_GROWTH }
    }
}

impl Order {
    fn make(self) -> Result<Cuckoo> {
        let made = Cuckoo::with_capacity(self.capacity, self.bucket_size, self.moves, self.growth);
        made.map_err(|bad| match bad {
            BadFilter::TooLarge => TOO_LARGE,
            BadFilter::Invalid => Error::text("ERR Could not create filter"),
        })
    }

    /// The bytes of the filter, with so many items.
    fn bytes(self, items: usize) -> usize {
        Cuckoo::bytes_for(self.capacity, self.bucket_size, self.growth, items)
    }
}

const CAPACITY_MAX: i64 = 1 << 30;

/// `capacity [BUCKETSIZE bucketsize] [MAXITERATIONS maxiterations] [EXPANSION expansion]`
fn read_order(words: Rest<'_>) -> Result<Order> {
    let capacity = canonical_integer(words.at(0)).ok_or(Error::text("Bad capacity"))?;
    // They are checked in this order, whatever theirs is.
    let moves = read_option(&words, "MAXITERATIONS", 1, 65535)?.unwrap_or(CUCKOO_MOVES);
    let bucket_size = read_option(&words, "BUCKETSIZE", 1, 255)?.unwrap_or(CUCKOO_BUCKET_SIZE);
    let growth = read_option(&words, "EXPANSION", 0, 32768)?.unwrap_or(CUCKOO_GROWTH);
    let options = words.iter().skip(1).step_by(2);
    let is_known = |word: &[u8]| {
        ["MAXITERATIONS", "BUCKETSIZE", "EXPANSION"].iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
    };
    if !options.clone().all(is_known) {
        return Err(Error::Syntax);
    }
    if i64::from(bucket_size) * 2 > capacity || capacity > CAPACITY_MAX {
        return Err(Error::text("Capacity must be in the range [2 * BUCKETSIZE, 1073741824]"));
    }
    Ok(Order { capacity: capacity.cast_unsigned(), bucket_size, moves, growth })
}

fn read_option(words: &Rest<'_>, name: &str, least: u16, most: u16) -> Result<Option<u16>> {
    let mut pairs = words.iter().skip(1).step_by(2).zip(words.iter().skip(2).step_by(2));
    let Some((_, value)) = pairs.find(|(word, _)| word.eq_ignore_ascii_case(name.as_bytes())) else { return Ok(None) };
    let value = canonical_integer(value).ok_or_else(|| Error::Text(format!("Couldn't parse {name}").into()))?;
    let found = u16::try_from(value).ok().filter(|value| (least..=most).contains(value));
    let refusal = || Error::Text(format!("{name}: value must be in the range [{least}, {most}]").into());
    found.ok_or_else(refusal).map(Some)
}

/// `CF.RESERVE key capacity [BUCKETSIZE bucketsize] [MAXITERATIONS maxiterations] [EXPANSION expansion]`
fn reserve(db: &mut Keyspace<'_>, reply: &mut Reply, (key, words): (&[u8], Rest<'_>)) -> Result<()> {
    if words.len().is_multiple_of(2) {
        return Err(Error::WrongArity("cf.reserve".to_owned()));
    }
    let order = read_order(words)?;
    check_is_free(db, key, Kind::Cuckoo)?;
    db.put(key, order.make()?, None);
    reply.ok();
    Ok(())
}

fn reserve_growth(_: &Keyspace<'_>, request: Request<'_>) -> usize {
    let words = Args::new(request, 2).take::<Rest<'_>>().ok().filter(|words| !words.len().is_multiple_of(2));
    words.and_then(|words| read_order(words).ok()).map_or(0, |order| order.bytes(0))
}

/// `CF.ADD key item`
fn add(db: &mut Keyspace<'_>, reply: &mut Reply, (key, item): (&[u8], Rest<'_>)) -> Result<()> {
    insert_one(db, reply, key, item, false)
}

/// `CF.ADDNX key item`
fn addnx(db: &mut Keyspace<'_>, reply: &mut Reply, (key, item): (&[u8], Rest<'_>)) -> Result<()> {
    insert_one(db, reply, key, item, true)
}

fn insert_one(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], item: Rest<'_>, is_unique: bool) -> Result<()> {
    let mut inserted = CuckooInserted::Failed;
    insert_all(db, key, (item, is_unique), Some(Order::default()), |one| inserted = one)?;
    match inserted {
        CuckooInserted::New | CuckooInserted::Known => reply.boolean(inserted == CuckooInserted::New),
        CuckooInserted::Full => return Err(Error::text("Filter is full")),
        CuckooInserted::Failed => return Err(Error::text("ERR Insufficient memory")),
    }
    Ok(())
}

/// Options of an insertion: the filter that it may make, and the items. Options are told apart by their first letter.
fn read_insertion<'a>(words: &Rest<'a>, name: &str) -> Result<(Option<Order>, Rest<'a>)> {
    const BAD_CAPACITY: Error = Error::text("Capacity must be in the range [cf-bucket-size * 2, 1073741824]");
    let no_items = || Error::WrongArity(name.to_owned());
    let (mut order, mut creates, mut at) = (Order::default(), true, 0);
    while at < words.len() {
        match letter(words.at(at), 0) {
            b'c' => {
                let value = words.split_at(at + 1).and_then(|(_, rest)| rest.iter().next()).ok_or_else(no_items)?;
                let capacity = canonical_integer(value).ok_or(Error::text("Bad capacity"))?;
                if !(2 * i64::from(CUCKOO_BUCKET_SIZE)..=CAPACITY_MAX).contains(&capacity) {
                    return Err(BAD_CAPACITY);
                }
                order.capacity = capacity.cast_unsigned();
                at += 2;
            }
            b'i' => {
                let items = behind(words, at + 1).ok_or_else(no_items)?;
                return Ok((creates.then_some(order), items));
            }
            b'n' => {
                creates = false;
                at += 1;
            }
            _ => return Err(UNKNOWN_ARGUMENT),
        }
    }
    Err(no_items())
}

/// `CF.INSERT key [CAPACITY capacity] [NOCREATE] ITEMS item [item ...]`
fn insert(db: &mut Keyspace<'_>, reply: &mut Reply, (key, words): (&[u8], Rest<'_>)) -> Result<()> {
    let (order, items) = read_insertion(&words, "cf.insert")?;
    reply.array(items.len());
    insert_all(db, key, (items, false), order, |inserted| match (inserted, reply.version()) {
        (CuckooInserted::New | CuckooInserted::Known, _) => reply.boolean(inserted == CuckooInserted::New),
        (CuckooInserted::Full | CuckooInserted::Failed, dormouse_protocol::Version::Resp2) => reply.integer(-1),
        (CuckooInserted::Full | CuckooInserted::Failed, dormouse_protocol::Version::Resp3) => reply.boolean(false),
    })
}

/// `CF.INSERTNX key [CAPACITY capacity] [NOCREATE] ITEMS item [item ...]`
fn insertnx(db: &mut Keyspace<'_>, reply: &mut Reply, (key, words): (&[u8], Rest<'_>)) -> Result<()> {
    let (order, items) = read_insertion(&words, "cf.insertnx")?;
    reply.array(items.len());
    insert_all(db, key, (items, true), order, |inserted| {
        reply.integer(match inserted {
            CuckooInserted::New => 1,
            CuckooInserted::Known => 0,
            CuckooInserted::Full | CuckooInserted::Failed => -1,
        });
    })
}

/// Inserts items, and tells each result. `order`: the filter that is made where there is none.
fn insert_all(
    db: &mut Keyspace<'_>,
    key: &[u8],
    (items, is_unique): (Rest<'_>, bool),
    order: Option<Order>,
    mut tell: impl FnMut(CuckooInserted),
) -> Result<()> {
    let made = match (order, db.contains(key)) {
        (_, true) => None,
        (Some(order), false) => Some(order.make()?),
        (None, false) => return Err(NOT_FOUND),
    };
    db.update::<Cuckoo, _>(key, |cuckoo, _| {
        let mut changed = made.is_some();
        if let Some(made) = made {
            *cuckoo = made;
        }
        if cuckoo.layers() >= LAYERS_MAX {
            return Change::No(Err(Error::text("Maximum expansions reached")));
        }
        let before = cuckoo.layers();
        cuckoo.insert(items.iter(), is_unique, |inserted| {
            dormouse_protocol::pace::step(1);
            changed |= inserted == CuckooInserted::New;
            tell(inserted);
        });
        // Moves that were taken back have changed nothing.
        changed |= cuckoo.layers() != before;
        Change::when(changed, Ok(()))
    })?
}

fn items_of(request: Request<'_>) -> usize {
    request.len().saturating_sub(2)
}

/// The slots that each item looks at, and the bytes that the items add at most.
fn estimate(db: &Keyspace<'_>, key: &[u8], order: Option<Order>, items: Rest<'_>) -> (usize, usize) {
    match (db.peek_collection::<Cuckoo>(key), order) {
        (Some(cuckoo), _) => {
            let (slots, moved) = cuckoo.slots_looked_at();
            let moved = if cuckoo.have_room(items.iter()) { 0 } else { moved.saturating_mul(2) };
            (slots.saturating_add(moved), cuckoo.growth_for(items.iter()))
        }
        (None, Some(order)) => (NEW_SLOTS, order.bytes(items.len())),
        (None, None) => (0, 0),
    }
}

/// The slots that an item looks at in a new filter with a few layers, with its moves.
const NEW_SLOTS: usize = 256;

fn add_estimate(db: &Keyspace<'_>, request: Request<'_>) -> (usize, usize) {
    let items = Args::new(request, 2).take::<Rest<'_>>();
    items.map_or((0, 0), |items| estimate(db, request.arg(1), Some(Order::default()), items))
}

fn add_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let (slots, bytes) = add_estimate(db, request);
    cost_of(items_of(request), slots, bytes)
}

fn add_growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    add_estimate(db, request).1
}

fn insertion(db: &Keyspace<'_>, request: Request<'_>) -> (usize, usize, usize) {
    let Ok(words) = Args::new(request, 2).take::<Rest<'_>>() else { return (0, 0, 0) };
    let Ok((order, items)) = read_insertion(&words, "") else { return (0, 0, 0) };
    let (slots, bytes) = estimate(db, request.arg(1), order, items);
    (items.len(), slots, bytes)
}

fn insert_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let (items, slots, bytes) = insertion(db, request);
    cost_of(items, slots, bytes)
}

fn insert_growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    insertion(db, request).2
}

/// The filter under a key, if it holds one: to a search, any other value is as good as none.
fn searched<'d>(db: &'d mut Keyspace<'_>, key: &[u8]) -> Option<&'d Cuckoo> {
    db.read::<Cuckoo>(key).ok().flatten()
}

/// `CF.EXISTS key item`
fn exists(db: &mut Keyspace<'_>, reply: &mut Reply, (key, item): (&[u8], &[u8])) -> Result<()> {
    reply.boolean(searched(db, key).is_some_and(|cuckoo| cuckoo.contains(item)));
    Ok(())
}

/// `CF.MEXISTS key item [item ...]`
fn mexists(db: &mut Keyspace<'_>, reply: &mut Reply, (key, items): (&[u8], Rest<'_>)) -> Result<()> {
    let cuckoo = searched(db, key);
    reply.array(items.len());
    items.iter().for_each(|item| reply.boolean(cuckoo.is_some_and(|cuckoo| cuckoo.contains(item))));
    Ok(())
}

/// `CF.COUNT key item`
fn count(db: &mut Keyspace<'_>, reply: &mut Reply, (key, item): (&[u8], &[u8])) -> Result<()> {
    let count = searched(db, key).map_or(0, |cuckoo| cuckoo.count(item));
    reply.integer(count.cast_signed());
    Ok(())
}

fn look_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let slots = db.peek_collection::<Cuckoo>(request.arg(1)).map_or(0, |cuckoo| cuckoo.slots_looked_at().0);
    cost_of(items_of(request), slots, 0)
}

/// `CF.DEL key item`
fn delete(db: &mut Keyspace<'_>, reply: &mut Reply, (key, item): (&[u8], &[u8])) -> Result<()> {
    let deleted = db.update_existing::<Cuckoo, _>(key, |cuckoo, _| {
        let deleted = cuckoo.delete(item);
        Change::when(deleted, deleted)
    });
    match deleted {
        Ok(Some(deleted)) => reply.boolean(deleted),
        Ok(None) | Err(Error::WrongType) => return Err(Error::text("Not found")),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// A deletion may be the one after which all items of later layers move.
fn delete_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(cuckoo) = db.peek_collection::<Cuckoo>(request.arg(1)) else { return 0 };
    let (slots, _) = cuckoo.slots_looked_at();
    let moved = if cuckoo.may_compact() { cuckoo.parts().len() } else { 0 };
    cost_of(1, slots.saturating_add(moved.saturating_mul(1 + slots)), 0)
}

/// `CF.INFO key`
fn info(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let cuckoo = db.read::<Cuckoo>(key)?.ok_or(NOT_FOUND)?;
    let fields: [(&str, u64); 8] = [
        ("Size", cuckoo.shown_bytes()),
        ("Number of buckets", cuckoo.buckets()),
        ("Number of filters", cuckoo.layers() as u64),
        ("Number of items inserted", cuckoo.items()),
        ("Number of items deleted", cuckoo.deleted()),
        ("Bucket size", cuckoo.bucket_size().into()),
        ("Expansion rate", cuckoo.growth().into()),
        ("Max iterations", cuckoo.moves().into()),
    ];
    reply.map(fields.len());
    for (name, value) in fields {
        reply.simple(name);
        reply.integer(value.cast_signed());
    }
    Ok(())
}

const BAD_POSITION: Error = Error::text("Invalid position");

/// `CF.SCANDUMP key iterator`
fn scandump(db: &mut Keyspace<'_>, reply: &mut Reply, (key, at): (&[u8], &[u8])) -> Result<()> {
    let at = canonical_integer(at).filter(|at| *at >= 0).ok_or(BAD_POSITION)?;
    let cuckoo = db.read::<Cuckoo>(key)?.ok_or(NOT_FOUND)?;
    reply.array(2);
    if cuckoo.items() > 0 && at == 0 {
        let mut head = Vec::new();
        cuckoo.write_head(&mut head);
        reply.integer(1);
        reply.bulk(&head);
    } else if cuckoo.items() == 0 || !write_chunk(reply, cuckoo.parts(), at) {
        reply.integer(0);
        reply.null();
    }
    Ok(())
}

/// `CF.LOADCHUNK key iterator data`
fn loadchunk(db: &mut Keyspace<'_>, reply: &mut Reply, (key, at, chunk): (&[u8], &[u8], &[u8])) -> Result<()> {
    const BAD_CHUNK: Error = Error::text("Couldn't load chunk!");
    let at = canonical_integer(at).filter(|at| *at != 0).ok_or(BAD_POSITION)?;
    if at == 1 {
        check_is_free(db, key, Kind::Cuckoo)?;
        if chunk.len() != CUCKOO_HEAD {
            return Err(Error::text("Invalid header"));
        }
        let mut cuckoo = Cuckoo::from_head(chunk).map_err(|_| Error::text("Couldn't create filter!"))?;
        cuckoo.parts_mut().fill();
        db.put(key, cuckoo, None);
        reply.ok();
        return Ok(());
    }
    let end = usize::try_from(at).ok().and_then(|at| at.checked_sub(1)).filter(|_| !chunk.is_empty());
    let start = end.and_then(|end| end.checked_sub(chunk.len()));
    let written = db.update_existing::<Cuckoo, _>(key, |cuckoo, _| {
        let written = start.is_some_and(|start| cuckoo.parts_mut().write(start, chunk).is_ok());
        Change::when(written, written)
    })?;
    match written {
        None => return Err(NOT_FOUND),
        Some(false) => return Err(BAD_CHUNK),
        Some(true) => reply.ok(),
    }
    Ok(())
}

/// The bytes of the filter whose head is loaded.
fn load_growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    match (request.get(2), request.get(3)) {
        (Some(b"1"), Some(head)) if db.value_bytes(request.arg(1)) == 0 => {
            Cuckoo::from_head(head).map_or(0, |cuckoo| cuckoo.parts().lens().iter().sum())
        }
        _ => 0,
    }
}
