//! `SORT`: the elements of a list, set or sorted set in order, by themselves or by values that other keys hold.
//!
//! 1. The elements are copied out.
//! 2. Each gets a weight: itself, or the value that the `BY` pattern leads to; a pattern without a `*` means not to
//!    sort at all.
//! 3. They are sorted: by number, ties by their bytes, or by bytes (`ALPHA`), ties as they were.
//! 4. `LIMIT` cuts a run out, each `GET` pattern looks up a value for each element of it, and the reply is written, or
//!    stored as a list.
//!
//! All that is copied out is charged before it is kept ([`work`]).
//!
//! Patterns lead to keys that the request does not name, on any shard: so it takes the whole database, and if a place
//! is missing, it stops before it has changed anything.

use std::cmp::Ordering;

use dormouse_protocol::{Reply, Request};
use dormouse_types::record::{Record, Value};
use dormouse_types::{End, Hash, Item, List, ObjectRef, pace};

use crate::commands::args::{Args, Argument, Word, integer, parse_double};
use crate::commands::{Access, Category, Command, Family, Find, Flags, KeySpec, Run, at_least, endable, run, work};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;
use crate::keyspace::changes::KeyEvent;

/// Looked-up values may be larger than all stored data, if they are looked up often enough.
const RESULT_BYTES_MAX: usize = 512 << 20;

/// Overhead of an element beside its bytes, twice: as it is copied out, and with its weight beside it.
const ELEMENT_BYTES: usize = 2 * size_of::<(Option<Vec<u8>>, Vec<u8>)>();
/// The cost of finding the weight of an element, or another value, in elements looked at.
const WEIGHT_COST: usize = 2;
/// Elements that are sorted between two steps, and the cost of one of them, in elements looked at.
const SORTED_AT_ONCE: usize = 16_384;
const SORT_COST: usize = 1;
/// Overhead of an element of the stored list beside its bytes.
const LISTED_BYTES: usize = 8;

const WHOLE: Flags = Flags::WHOLE.union(Flags::SLOW_LANE);
const WRITE: Flags = Flags::WRITE.union(Flags::DENY_OOM).union(Flags::BY_KEY).union(WHOLE);
const CATEGORY: Category = Category::SET.union(Category::SORTED_SET).union(Category::LIST).union(Category::DANGEROUS);

const READS: Access = Access::RO.union(Access::ACCESS);
const SORTED: KeySpec = KeySpec::one(1, READS);
const PATTERNS: KeySpec = KeySpec { access: READS, find: Find::Unknown, notes: "" }.notes(
    "For the optional BY/GET keyword. It is marked 'unknown' because the key names derive from the content of the key we \
     sort",
);
const STORED: KeySpec = KeySpec { access: Access::OW.union(Access::UPDATE), find: Find::Store, notes: "" }.notes(
    "For the optional STORE keyword. It is marked 'unknown' because the keyword can appear anywhere in the argument array",
);

const COMPLEXITY: &str = "O(N+M*log(M)) where N is the number of elements in the list or set to sort, and M the number of \
                          returned elements. When the elements are not sorted, complexity is O(N).";

pub(crate) const FAMILY: Family<Run> = Family {
    group: "generic",
    category: CATEGORY,
    commands: &[
        Command::new("SORT", at_least(2), &[SORTED, PATTERNS, STORED], WRITE, run!(sort))
            .event(KeyEvent::list("sortstore"))
            .unnamed(|request| unnamed_keys(request, true))
            .doc(
                "1.0.0",
                COMPLEXITY,
                "Sorts the elements in a list, a set, or a sorted set, optionally storing the result.",
            ),
        Command::new("SORT_RO", at_least(2), &[SORTED, PATTERNS], Flags::READ.union(WHOLE), run!(sort_ro))
            .unnamed(|request| unnamed_keys(request, false))
            .doc("7.0.0", COMPLEXITY, "Returns the sorted elements of a list, a set, or a sorted set."),
    ],
};

/// The error for a user who may not read every key: a pattern leads to keys that the request does not name. `None` if
/// there is none before the first syntax error, as Redis reads the options in their order.
fn unnamed_keys(request: Request<'_>, stores: bool) -> Option<&'static str> {
    let mut at = 2;
    while let Some(word) = request.get(at) {
        let following = request.len() - at - 1;
        at += match Word::new(word).as_bytes() {
            b"ASC" | b"DESC" | b"ALPHA" => 1,
            b"LIMIT" if following >= 2 => {
                integer(request.arg(at + 1)).and(integer(request.arg(at + 2))).ok()?;
                3
            }
            b"STORE" if following >= 1 && stores => 2,
            b"BY" if following >= 1 && request.arg(at + 1).contains(&b'*') => {
                return Some("ERR BY option of SORT denied due to insufficient ACL permissions.");
            }
            b"BY" if following >= 1 => 2,
            b"GET" if following >= 1 => {
                return Some("ERR GET option of SORT denied due to insufficient ACL permissions.");
            }
            _ => return None,
        };
    }
    None
}

/// `SORT key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA] [STORE destination]`
fn sort(db: &mut Keyspace<'_>, reply: &mut Reply, (key, options): (&[u8], Options<'_, true>)) -> Result<()> {
    let Some(store) = options.store else { return write_sorted(db, reply, key, &options) };
    let found = endable(|| sorted(db, reply, key, &options))?;
    db.contains(store);
    if db.has_fault() {
        return Ok(());
    }
    let bytes: usize = found.iter().flatten().map(Vec::len).sum();
    db.reserve_result(bytes + found.len() * LISTED_BYTES)?;
    let mut list = List::new();
    for element in found {
        pace::step(1);
        list.push(End::Tail, element.as_deref().unwrap_or_default(), db.limits());
    }
    reply.integer(list.len() as i64);
    db.put_result(store, list)
}

/// `SORT_RO key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA]`
fn sort_ro(db: &mut Keyspace<'_>, reply: &mut Reply, (key, options): (&[u8], Options<'_, false>)) -> Result<()> {
    write_sorted(db, reply, key, &options)
}

fn write_sorted<const STORE: bool>(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    key: &[u8],
    options: &Options<'_, STORE>,
) -> Result<()> {
    // `SORT` may write, so it is not marked as one that only reads.
    endable(|| write_all(db, reply, key, options))
}

fn write_all<const STORE: bool>(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    key: &[u8],
    options: &Options<'_, STORE>,
) -> Result<()> {
    let found = sorted(db, reply, key, options)?;
    reply.array(found.len());
    for element in found {
        if !pace::goes_on(1) {
            break;
        }
        match &element {
            Some(bytes) => reply.bulk(bytes),
            None => reply.null(),
        }
    }
    Ok(())
}

/// The requested elements, or the values that the patterns lead to from them.
fn sorted<const STORE: bool>(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    key: &[u8],
    options: &Options<'_, STORE>,
) -> Result<Vec<Option<Vec<u8>>>> {
    work(reply, db.collection_bytes(key).saturating_add(db.cardinality(key).saturating_mul(ELEMENT_BYTES)))?;
    let (mut elements, is_set) = match db.record_of(key) {
        None => (Vec::new(), false),
        Some(record) => elements_of(record)?,
    };
    let (mut by, mut alpha) = (options.by, options.alpha);
    let mut is_sorted = options.is_sorted;
    if is_sorted && is_set && (options.store.is_some() || db.is_called_by_script()) {
        // A set has no order of its own that a replay, or another run of the script, would reproduce.
        (by, alpha, is_sorted) = (None, true, false);
    }
    if !is_sorted {
        elements = if alpha {
            let weights = elements.iter().map(|element| {
                go_on(WEIGHT_COST)?;
                let weight = match by {
                    Some(pattern) => lookup(db, pattern, element),
                    None => Some(element.clone()),
                };
                work(reply, weight.as_ref().map_or(0, Vec::len))?;
                Ok(weight)
            });
            let weights = weights.collect::<Result<Vec<Option<Vec<u8>>>>>()?;
            // Elements of the same weight stay as they are, but those of a set have no order.
            let compare = |(a, x): &(Option<Vec<u8>>, Vec<u8>), (b, y): &(Option<Vec<u8>>, Vec<u8>)| match a.cmp(b) {
                Ordering::Equal if is_set => x.cmp(y),
                order => order,
            };
            in_order(weights, elements, options.descending, compare)
        } else {
            let weights = elements.iter().map(|element| {
                go_on(WEIGHT_COST)?;
                match by {
                    Some(pattern) => lookup(db, pattern, element).map_or(Ok(0.0), |weight| number(&weight)),
                    None => number(element),
                }
            });
            // No weight is NaN, and both zeros are the same.
            let compare = |(a, x): &(f64, Vec<u8>), (b, y): &(f64, Vec<u8>)| {
                a.partial_cmp(b).unwrap_or(Ordering::Equal).then_with(|| x.cmp(y))
            };
            in_order(weights.collect::<Result<Vec<f64>>>()?, elements, options.descending, compare)
        };
    } else if options.descending && !is_set {
        elements.reverse();
    }
    let (start, end) = options.range(elements.len());
    // Those outside the range are dropped one by one, too.
    let elements = elements.into_iter().enumerate().filter_map(|(at, element)| {
        pace::step(1);
        (start..end).contains(&at).then_some(element)
    });
    if options.gets.is_empty() {
        return Ok(elements.map(Some).collect());
    }
    let mut found = Vec::new();
    let mut bytes = 0;
    for element in elements {
        go_on(options.gets.len() * WEIGHT_COST)?;
        for pattern in &options.gets {
            let got = if *pattern == b"#" { Some(element.clone()) } else { lookup(db, pattern, &element) };
            let more = size_of_val(&got) + got.as_ref().map_or(0, Vec::len);
            work(reply, more)?;
            bytes += more;
            if bytes > RESULT_BYTES_MAX {
                return Err(Error::text("ERR the result of SORT is too large"));
            }
            found.push(got);
        }
    }
    Ok(found)
}

/// Says how far a loop has come.
///
/// # Errors
/// It is to end.
fn go_on(elements: usize) -> Result<()> {
    if pace::goes_on(elements) { Ok(()) } else { Err(Error::Unfinished) }
}

/// A copy of the elements, and whether they are a set's.
fn elements_of(record: &Record) -> Result<(Vec<Vec<u8>>, bool)> {
    match record.value() {
        Value::Object(ObjectRef::List(list)) => Ok((list.iter().map(Item::to_vec).collect(), false)),
        Value::Object(ObjectRef::Set(set)) => Ok((set.iter().map(Item::to_vec).collect(), true)),
        Value::Object(ObjectRef::SortedSet(set)) => {
            Ok((set.iter().map(|(member, _)| member.to_vec()).collect(), false))
        }
        _ => Err(Error::WrongType),
    }
}

/// Orders elements with their weights; those that are equal stay as they are.
fn in_order<W>(
    weights: Vec<W>,
    elements: Vec<Vec<u8>>,
    descending: bool,
    compare: impl Fn(&(W, Vec<u8>), &(W, Vec<u8>)) -> Ordering,
) -> Vec<Vec<u8>> {
    let mut pairs: Vec<(W, Vec<u8>)> = weights.into_iter().zip(elements).collect();
    let order = |a: &(W, Vec<u8>), b: &(W, Vec<u8>)| if descending { compare(b, a) } else { compare(a, b) };
    // A step within the comparison would make the sort four times as slow. The parts are found in order and merged.
    for part in pairs.chunks_mut(SORTED_AT_ONCE) {
        if pace::goes_on(part.len() * SORT_COST) {
            part.sort_by(order);
        }
    }
    if !pace::is_ended() {
        pairs.sort_by(order);
    }
    pairs.into_iter().inspect(|_| pace::step(1)).map(|(_, element)| element).collect()
}

/// The number that an element or a weight spells; an empty one spells 0.
fn number(bytes: &[u8]) -> Result<f64> {
    let digits = bytes.trim_ascii_start();
    if digits.is_empty() {
        return Ok(0.0);
    }
    // Minus zero is no less than zero.
    let number = parse_double(digits).map(|number| number + 0.0);
    number.ok_or(Error::text("ERR One or more scores can't be converted into double"))
}

/// The string at the key that `pattern` makes of `element`, which replaces its first `*`; or, with `->field` behind that,
/// the field of the hash there.
fn lookup(db: &mut Keyspace<'_>, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    let star = pattern.iter().position(|byte| *byte == b'*')?;
    let (prefix, rest) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = rest.windows(2).position(|pair| pair == b"->").filter(|at| at + 2 < rest.len());
    let (postfix, field) = match arrow {
        Some(at) => (&rest[..at], Some(&rest[at + 2..])),
        None => (rest, None),
    };
    let key = [prefix, element, postfix].concat();
    match field {
        Some(field) => {
            let now = db.horizon();
            db.read::<Hash>(&key).ok()??.live(now).get(field).map(Item::to_vec)
        }
        None => db.string(&key).ok()?.map(|text| text.to_vec()),
    }
}

/// `STORE`: whether the option of that name is known.
struct Options<'a, const STORE: bool> {
    by: Option<&'a [u8]>,
    /// A `BY` without a `*` was among them, even if not the last.
    is_sorted: bool,
    gets: Vec<&'a [u8]>,
    offset: i64,
    /// Negative: all.
    count: i64,
    descending: bool,
    alpha: bool,
    store: Option<&'a [u8]>,
}

impl<const STORE: bool> Options<'_, STORE> {
    /// The part of `len` elements that `LIMIT` leaves.
    fn range(&self, len: usize) -> (usize, usize) {
        let start = usize::try_from(self.offset).unwrap_or(0).min(len);
        let count = usize::try_from(self.count).unwrap_or(len);
        (start, start.saturating_add(count).min(len))
    }
}

impl<'a, const STORE: bool> Argument<'a> for Options<'a, STORE> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut options = Self {
            by: None,
            is_sorted: false,
            gets: Vec::new(),
            offset: 0,
            count: -1,
            descending: false,
            alpha: false,
            store: None,
        };
        while !args.is_empty() {
            if args.word("ASC") {
                options.descending = false;
            } else if args.word("DESC") {
                options.descending = true;
            } else if args.word("ALPHA") {
                options.alpha = true;
            } else if args.len() > 2 && args.word("LIMIT") {
                (options.offset, options.count) = (args.take()?, args.take()?);
            } else if STORE && args.word("STORE") {
                options.store = Some(args.bytes()?);
            } else if args.word("BY") {
                let pattern = args.bytes()?;
                options.is_sorted |= !pattern.contains(&b'*');
                options.by = Some(pattern);
            } else if args.word("GET") {
                options.gets.push(args.bytes()?);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::{Bench, check};

    #[test]
    fn by_the_elements() {
        check(&[
            ("RPUSH l 10 9 -1 2.5", "4"),
            ("SORT l", "[-1 2.5 9 10]"),
            ("SORT l DESC", "[10 9 2.5 -1]"),
            ("SORT_RO l asc", "[-1 2.5 9 10]"),
            ("SORT l ALPHA", "[-1 10 2.5 9]"),
            ("SORT l LIMIT 1 2", "[2.5 9]"),
            ("SORT l LIMIT 1 -1", "[2.5 9 10]"),
            ("SORT l LIMIT -5 1", "[-1]"),
            ("SORT l LIMIT 9 1", "[]"),
            ("SORT l LIMIT 0 0", "[]"),
            ("SORT none", "[]"),
            ("SADD s 3 1 2", "3"),
            ("SORT s", "[1 2 3]"),
            ("ZADD z 1 7 2 5", "2"),
            ("SORT z", "[5 7]"),
            ("SORT z BY nosort", "[7 5]"),
            ("SORT z BY nosort DESC", "[5 7]"),
            ("RPUSH words b a", "2"),
            ("SORT words", "(error) ERR One or more scores can't be converted into double"),
            ("SORT words ALPHA", "[a b]"),
            ("SORT words BY nosort", "[b a]"),
            ("SORT words BY nosort DESC LIMIT 0 1", "[a]"),
            ("SET string v", "OK"),
            ("SORT string", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("SORT l NOPE", "(error) ERR syntax error"),
            ("SORT l BY", "(error) ERR syntax error"),
            ("SORT l LIMIT 1", "(error) ERR syntax error"),
            ("SORT l LIMIT x 1", "(error) ERR value is not an integer or out of range"),
            ("SORT_RO l STORE d", "(error) ERR syntax error"),
        ]);
    }

    #[test]
    fn parts_are_merged() {
        let mut bench = Bench::new();
        let count = super::SORTED_AT_ONCE * 2 + 77;
        let spread: Vec<String> = (0..count).map(|n| (n * 7919 % count).to_string()).collect();
        assert_eq!(bench.run(&format!("RPUSH l {}", spread.join(" "))), count.to_string());
        let sorted: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        assert!(bench.run("SORT l") == format!("[{}]", sorted.join(" ")));
        assert_eq!(bench.run(&format!("SORT l DESC LIMIT {} 9", count - 2)), "[1 0]");
    }

    #[test]
    fn by_other_keys() {
        check(&[
            ("RPUSH l 1 2 3 4", "4"),
            ("MSET w1 5 w2 1 w3 3", "OK"),
            ("HSET h1 f z", "1"),
            ("HSET h3 f a", "1"),
            ("SORT l BY w*", "[4 2 3 1]"),
            ("SORT l BY w* GET # GET w* GET h*->f", "[4 nil nil 2 1 nil 3 3 a 1 5 z]"),
            ("SORT l BY h*->f ALPHA", "[2 4 3 1]"),
            ("SORT l BY h*->f ALPHA DESC LIMIT 0 2", "[1 3]"),
            ("SORT l BY h*->f", "(error) ERR One or more scores can't be converted into double"),
            ("SORT l BY nosort BY w*", "[1 2 3 4]"),
            ("SORT l GET constant", "[nil nil nil nil]"),
            ("SORT l BY h* LIMIT 0 1", "[1]"),
            ("SET x1->f no", "OK"),
            ("SORT l GET x*->f LIMIT 0 1", "[nil]"),
            ("SET x1-> arrow", "OK"),
            ("SORT l GET x*-> LIMIT 0 1", "[arrow]"),
        ]);
    }

    #[test]
    fn storing() {
        let mut bench = Bench::new();
        bench.run("RPUSH l 2 1");
        bench.run("SET d v PX 100");
        assert_eq!(bench.run("SORT l STORE d"), "2");
        assert_eq!(bench.run("LRANGE d 0 -1"), "[1 2]");
        assert_eq!(bench.run("PTTL d"), "-1");
        assert_eq!(bench.run("SORT l GET none* STORE l"), "2");
        assert_eq!(bench.run("LRANGE l 0 -1"), "[\"\" \"\"]");
        assert_eq!(bench.run("SADD s c a b"), "3");
        assert_eq!(bench.run("SORT s BY nosort STORE d"), "3");
        assert_eq!(bench.run("LRANGE d 0 -1"), "[a b c]");
        assert_eq!(bench.run("SORT none STORE d"), "0");
        assert_eq!(bench.run("EXISTS d"), "0");
    }
}
