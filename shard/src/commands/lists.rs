//! Lists: ordered elements, quick at both ends.

mod blocks;
mod waiting;

use std::ops::Range;

use dormouse_protocol::{Reply, Request};
use dormouse_types::{End, Item, List};

use crate::commands::args::{Args, Argument, Rest, canonical_integer, integer};
use crate::commands::cost::{BYTES_PER_ELEMENT, TURN};
use crate::commands::elements::{Count, Negatable, write_item};
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, cost, exactly, run};
use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace};

const READ: Flags = Flags::READ;
const READ_FAST: Flags = READ.union(Flags::FAST);
const WRITE: Flags = Flags::WRITE;
const WRITE_FAST: Flags = WRITE.union(Flags::FAST);
const GROW: Flags = WRITE.union(Flags::DENY_OOM);
const GROW_FAST: Flags = GROW.union(Flags::FAST);
const MOVE: Flags = GROW.union(Flags::BY_KEY);
const BLOCK_MOVE: Flags = MOVE.union(Flags::BLOCKING);
const BLOCK_POP: Flags = WRITE.union(Flags::BY_KEY).union(Flags::BLOCKING);
const POP_SOME: Flags = WRITE.union(Flags::BY_KEY).union(Flags::MOVABLE_KEYS);

const POPS: Access = Access::RW.union(Access::ACCESS).union(Access::DELETE);
const INSERTS: Access = Access::RW.union(Access::INSERT);
const KEY_LOOK: &[KeySpec] = &[KeySpec::one(1, Access::RO)];
const KEY_READ: &[KeySpec] = &[KeySpec::one(1, Access::RO.union(Access::ACCESS))];
const KEY_INSERT: &[KeySpec] = &[KeySpec::one(1, INSERTS)];
const KEY_UPDATE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::UPDATE))];
const KEY_DELETE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::DELETE))];
const KEY_POP: &[KeySpec] = &[KeySpec::one(1, POPS)];
const KEYS_MOVE: &[KeySpec] = &[KeySpec::one(1, POPS), KeySpec::one(2, INSERTS)];
const KEYS_POP: &[KeySpec] = &[KeySpec::counted(1, POPS)];
const KEYS_BLOCK: &[KeySpec] = &[KeySpec::range(1, -2, POPS)];
const KEYS_BLOCK_SOME: &[KeySpec] = &[KeySpec::counted(2, POPS)];

pub(crate) const FAMILY: Family<Run> = Family {
    group: "list",
    category: Category::LIST,
    commands: &[
        Command::new("LPUSH", at_least(3), KEY_INSERT, GROW_FAST, run!(lpush)).event(KeyEvent::list("lpush")).doc(
            "1.0.0",
            "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.",
            "Prepends one or more elements to a list. Creates the key if it doesn't exist.",
        ),
        Command::new("RPUSH", at_least(3), KEY_INSERT, GROW_FAST, run!(rpush)).event(KeyEvent::list("rpush")).doc(
            "1.0.0",
            "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.",
            "Appends one or more elements to a list. Creates the key if it doesn't exist.",
        ),
        Command::new("LPUSHX", at_least(3), KEY_INSERT, GROW_FAST, run!(lpushx)).event(KeyEvent::list("lpush")).doc(
            "2.2.0",
            "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.",
            "Prepends one or more elements to a list only when the list exists.",
        ),
        Command::new("RPUSHX", at_least(3), KEY_INSERT, GROW_FAST, run!(rpushx)).event(KeyEvent::list("rpush")).doc(
            "2.2.0",
            "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.",
            "Appends an element to a list only when the list exists.",
        ),
        Command::new("LPOP", at_least(2), KEY_POP, WRITE_FAST, run!(lpop)).event(KeyEvent::list("lpop")).doc(
            "1.0.0",
            "O(N) where N is the number of elements returned",
            "Returns the first elements in a list after removing it. Deletes the list if the last element was popped.",
        ).cost(|db, request| cost_of_pop(db, request, End::Head)),
        Command::new("RPOP", at_least(2), KEY_POP, WRITE_FAST, run!(rpop)).event(KeyEvent::list("rpop")).doc(
            "1.0.0",
            "O(N) where N is the number of elements returned",
            "Returns and removes the last elements of a list. Deletes the list if the last element was popped.",
        ).cost(|db, request| cost_of_pop(db, request, End::Tail)),
        Command::new("LLEN", exactly(2), KEY_LOOK, READ_FAST, run!(llen)).doc(
            "1.0.0",
            "O(1)",
            "Returns the length of a list.",
        ),
        Command::new("LINDEX", exactly(3), KEY_READ, READ, run!(lindex)).doc(
            "1.0.0",
            "O(N) where N is the number of elements to traverse to get to the element at index. This makes asking for \
             the first or the last element of the list O(1).",
            "Returns an element from a list by its index.",
        ),
        Command::new("LSET", exactly(4), KEY_UPDATE, GROW, run!(lset)).event(KeyEvent::list("lset")).doc(
            "1.0.0",
            "O(N) where N is the length of the list. Setting either the first or the last element of the list is O(1).",
            "Sets the value of an element in a list by its index.",
        ),
        Command::new("LRANGE", exactly(4), KEY_READ, READ, run!(lrange)).doc(
            "1.0.0",
            "O(S+N) where S is the distance of start offset from HEAD for small lists, from nearest end (HEAD or TAIL) \
             for large lists; and N is the number of elements in the specified range.",
            "Returns a range of elements from a list.",
        )
        .cost(cost_of_range),
        Command::new("LINSERT", exactly(5), KEY_INSERT, GROW, run!(linsert)).event(KeyEvent::list("linsert")).doc(
            "2.2.0",
            "O(N) where N is the number of elements to traverse before seeing the value pivot. This means that \
             inserting somewhere on the left end on the list (head) can be considered O(1) and inserting somewhere on \
             the right end (tail) is O(N).",
            "Inserts an element before or after another element in a list.",
        )
        .cost(cost_of_all),
        Command::new("LREM", exactly(4), KEY_DELETE, WRITE, run!(lrem)).event(KeyEvent::list("lrem")).doc(
            "1.0.0",
            "O(N+M) where N is the length of the list and M is the number of elements removed.",
            "Removes elements from a list. Deletes the list if the last element was removed.",
        )
        .cost(cost_of_all),
        Command::new("LTRIM", exactly(4), KEY_DELETE, WRITE, run!(ltrim)).event(KeyEvent::list("ltrim")).doc(
            "1.0.0",
            "O(N) where N is the number of elements to be removed by the operation.",
            "Removes elements from both ends a list. Deletes the list if all elements were trimmed.",
        ).cost(cost_of_trim),
        Command::new("LPOS", at_least(3), KEY_READ, READ, run!(lpos)).doc(
            "6.0.6",
            "O(N) where N is the number of elements in the list, for the average case. When searching for elements \
             near the head or the tail of the list, or when the MAXLEN option is provided, the command may run in \
             constant time.",
            "Returns the index of matching elements in a list.",
        )
        .cost(cost_of_all),
        Command::new("LMOVE", exactly(5), KEYS_MOVE, MOVE, run!(lmove)).cost(cost_of_move).needs(bytes_of_move).doc(
            "6.2.0",
            "O(1)",
            "Returns an element after popping it from one list and pushing it to another. Deletes the list if the last \
             element was moved.",
        ),
        Command::new("LMOVEM", at_least(5), KEYS_MOVE, MOVE, run!(blocks::lmovem)).doc(
            "8.10.0",
            "O(N) where N is the number of elements moved.",
            "Returns several elements after popping them from one list and pushing them to another. Deletes the list if the \
             last element was moved.",
        )
        .cost(|db, request| blocks::cost(db, request, 5))
        .needs(|db, request| blocks::need(db, request, 5)),
        Command::new("RPOPLPUSH", exactly(3), KEYS_MOVE, MOVE, run!(rpoplpush)).cost(cost_of_move).needs(bytes_of_move).doc(
            "1.2.0",
            "O(1)",
            "Returns the last element of a list after removing and pushing it to another list. Deletes the list if the \
             last element was popped.",
        ),
        Command::new("LMPOP", at_least(4), KEYS_POP, POP_SOME, run!(lmpop)).doc(
            "7.0.0",
            "O(N+M) where N is the number of provided keys and M is the number of elements returned.",
            "Returns multiple elements from a list after removing them. Deletes the list if the last element was \
             popped.",
        ).cost(|db, request| cost_of_pops(db, request, 1)),
        Command::new("BLPOP", at_least(3), KEYS_BLOCK, BLOCK_POP, run!(waiting::blpop)).doc(
            "2.0.0",
            "O(N) where N is the number of provided keys.",
            "Removes and returns the first element in a list. Blocks until an element is available otherwise. Deletes \
             the list if the last element was popped.",
        )
        .cost(|db, request| waiting::cost_of_first(db, request, End::Head)),
        Command::new("BRPOP", at_least(3), KEYS_BLOCK, BLOCK_POP, run!(waiting::brpop)).doc(
            "2.0.0",
            "O(N) where N is the number of provided keys.",
            "Removes and returns the last element in a list. Blocks until an element is available otherwise. Deletes \
             the list if the last element was popped.",
        )
        .cost(|db, request| waiting::cost_of_first(db, request, End::Tail)),
        Command::new("BLMOVE", exactly(6), KEYS_MOVE, BLOCK_MOVE, run!(waiting::blmove)).cost(cost_of_move).needs(bytes_of_move).doc(
            "6.2.0",
            "O(1)",
            "Pops an element from a list, pushes it to another list and returns it. Blocks until an element is available \
             otherwise. Deletes the list if the last element was moved.",
        ),
        Command::new("BLMOVEM", at_least(6), KEYS_MOVE, BLOCK_MOVE, run!(blocks::blmovem)).doc(
            "8.10.0",
            "O(N) where N is the number of elements moved.",
            "Pops several elements from a list, pushes them to another list and returns them. Blocks until there are enough \
             otherwise. Deletes the list if the last element was moved.",
        )
        .cost(|db, request| blocks::cost(db, request, 6))
        .needs(|db, request| blocks::need(db, request, 6)),
        Command::new("BRPOPLPUSH", exactly(4), KEYS_MOVE, BLOCK_MOVE, run!(waiting::brpoplpush)).cost(cost_of_move).needs(bytes_of_move).doc(
            "2.2.0",
            "O(1)",
            "Pops an element from a list, pushes it to another list and returns it. Block until an element is available \
             otherwise. Deletes the list if the last element was popped.",
        ),
        Command::new("BLMPOP", at_least(5), KEYS_BLOCK_SOME, POP_SOME.union(Flags::BLOCKING), run!(waiting::blmpop)).doc(
            "7.0.0",
            "O(N+M) where N is the number of provided keys and M is the number of elements returned.",
            "Pops the first element from one of multiple lists. Blocks until an element is available otherwise. Deletes \
             the list if the last element was popped.",
        )
        .cost(|db, request| cost_of_pops(db, request, 2)),
    ],
};

/// `LPUSH key element [element ...]`
fn lpush(db: &mut Keyspace<'_>, reply: &mut Reply, (key, elements): (&[u8], Rest<'_>)) -> Result<()> {
    push(db, reply, key, elements, End::Head)
}

/// `RPUSH key element [element ...]`
fn rpush(db: &mut Keyspace<'_>, reply: &mut Reply, (key, elements): (&[u8], Rest<'_>)) -> Result<()> {
    push(db, reply, key, elements, End::Tail)
}

fn push(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], elements: Rest<'_>, end: End) -> Result<()> {
    let len = db.update(key, |list: &mut List, limits| {
        list.push_all(end, elements.iter(), limits);
        Change::Yes(list.len())
    })?;
    reply.integer(len as i64);
    Ok(())
}

/// `LPUSHX key element [element ...]`
fn lpushx(db: &mut Keyspace<'_>, reply: &mut Reply, (key, elements): (&[u8], Rest<'_>)) -> Result<()> {
    push_existing(db, reply, key, elements, End::Head)
}

/// `RPUSHX key element [element ...]`
fn rpushx(db: &mut Keyspace<'_>, reply: &mut Reply, (key, elements): (&[u8], Rest<'_>)) -> Result<()> {
    push_existing(db, reply, key, elements, End::Tail)
}

fn push_existing(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], elements: Rest<'_>, end: End) -> Result<()> {
    let len = db.update_existing(key, |list: &mut List, limits| {
        list.push_all(end, elements.iter(), limits);
        Change::Yes(list.len())
    })?;
    reply.integer(len.unwrap_or(0) as i64);
    Ok(())
}

/// `LPOP key [count]`
fn lpop(db: &mut Keyspace<'_>, reply: &mut Reply, (key, count): (&[u8], PopCount)) -> Result<()> {
    pop(db, reply, key, count, End::Head)
}

/// `RPOP key [count]`
fn rpop(db: &mut Keyspace<'_>, reply: &mut Reply, (key, count): (&[u8], PopCount)) -> Result<()> {
    pop(db, reply, key, count, End::Tail)
}

fn pop(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], PopCount(count): PopCount, end: End) -> Result<()> {
    let found = db.update_existing(key, |list: &mut List, limits| match count {
        None => {
            list.pop(end, limits, |item| write_item(reply, item));
            Change::Yes(())
        }
        Some(count) => {
            let popped = count.min(list.len());
            write_end(reply, list, end, popped);
            list.drop_end(end, popped, limits);
            Change::when(popped > 0, ())
        }
    })?;
    match (found, count) {
        (Some(()), _) => {}
        (None, None) => reply.null(),
        (None, Some(_)) => reply.null_array(),
    }
    Ok(())
}

/// `LLEN key`
fn llen(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let len = db.read::<List>(key)?.map_or(0, List::len);
    reply.integer(len as i64);
    Ok(())
}

/// `LINDEX key index`
///
/// The index is read when the list has been found, as in Redis: without a list, any text will do.
fn lindex(db: &mut Keyspace<'_>, reply: &mut Reply, (key, index): (&[u8], &[u8])) -> Result<()> {
    let Some(list) = db.read::<List>(key)? else {
        reply.null();
        return Ok(());
    };
    match index_of(integer(index)?, list.len()).and_then(|index| list.get(index)) {
        Some(item) => write_item(reply, item),
        None => reply.null(),
    }
    Ok(())
}

/// `LSET key index element`
///
/// The index is read when the list has been found, as in Redis.
fn lset(db: &mut Keyspace<'_>, reply: &mut Reply, (key, index, element): (&[u8], &[u8], &[u8])) -> Result<()> {
    let set = db.update_existing(key, |list: &mut List, limits| {
        let set = integer(index).and_then(|index| {
            let found = index_of(index, list.len()).is_some_and(|index| list.set(index, element, limits));
            found.then_some(()).ok_or(Error::IndexOutOfRange)
        });
        Change::when(set.is_ok(), set)
    })?;
    set.ok_or(Error::NoSuchKey)??;
    reply.ok();
    Ok(())
}

/// `LRANGE key start stop`
fn lrange(db: &mut Keyspace<'_>, reply: &mut Reply, (key, start, stop): (&[u8], i64, i64)) -> Result<()> {
    let Some(list) = db.read::<List>(key)? else {
        reply.array(0);
        return Ok(());
    };
    let range = range_of(start, stop, list.len());
    write_items(reply, list.range(range.start, range.end));
    Ok(())
}

/// `LINSERT key <BEFORE | AFTER> pivot element`
fn linsert(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, place, pivot, element): (&[u8], Place, &[u8], &[u8]),
) -> Result<()> {
    let len = db.update_existing(key, |list: &mut List, limits| match list.position(pivot) {
        Some(at) => {
            list.insert(at + usize::from(place == Place::After), element, limits);
            Change::Yes(list.len() as i64)
        }
        None => Change::No(-1),
    })?;
    reply.integer(len.unwrap_or(0));
    Ok(())
}

/// `LREM key count element`
fn lrem(db: &mut Keyspace<'_>, reply: &mut Reply, (key, count, element): (&[u8], i64, &[u8])) -> Result<()> {
    let from = if count < 0 { End::Tail } else { End::Head };
    let wanted = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let removed = db.update_existing(key, |list: &mut List, limits| {
        let removed = list.remove(element, wanted, from, limits);
        Change::when(removed > 0, removed)
    })?;
    reply.integer(removed.unwrap_or(0) as i64);
    Ok(())
}

/// `LTRIM key start stop`
fn ltrim(db: &mut Keyspace<'_>, reply: &mut Reply, (key, start, stop): (&[u8], i64, i64)) -> Result<()> {
    db.update_existing(key, |list: &mut List, limits| {
        let len = list.len();
        let range = range_of(start, stop, len);
        if range.len() < len {
            list.trim(range.start, range.end, limits);
        }
        // Redis takes this for a change, even if every element stays.
        Change::Yes(())
    })?;
    reply.ok();
    Ok(())
}

/// `LPOS key element [RANK rank] [COUNT num-matches] [MAXLEN len]`
fn lpos(db: &mut Keyspace<'_>, reply: &mut Reply, (key, element, options): (&[u8], &[u8], Search)) -> Result<()> {
    let list = db.read::<List>(key)?;
    let start = reply.len();
    let mut found = 0;
    if let Some(list) = list {
        let wanted = Item::parse(element);
        let mut visit = |index: usize, item: Item<'_>, skipped: &mut u64| {
            if item == wanted {
                if *skipped + 1 < options.rank.unsigned_abs() {
                    *skipped += 1;
                } else {
                    reply.integer(index as i64);
                    found += 1;
                }
            }
            found == options.wanted()
        };
        let (len, items, mut skipped) = (list.len(), list.iter(), 0);
        if options.rank > 0 {
            let _ = items.take(options.len_max).enumerate().any(|(at, item)| visit(at, item, &mut skipped));
        } else {
            let items = items.rev().take(options.len_max).enumerate();
            let _ = items.into_iter().any(|(at, item)| visit(len - 1 - at, item, &mut skipped));
        }
    }
    match options.count {
        Some(_) => reply.array_since(start, found),
        None if found == 0 => reply.null(),
        None => {}
    }
    Ok(())
}

/// `LMOVE source destination <LEFT | RIGHT> <LEFT | RIGHT>`
fn lmove(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (source, destination, from, to): (&[u8], &[u8], End, End),
) -> Result<()> {
    if !move_one(db, reply, (source, destination, from, to))? {
        reply.null();
    }
    Ok(())
}

/// Moves an element from one list to another and replies with it. False: there is none.
fn move_one(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (source, destination, from, to): (&[u8], &[u8], End, End),
) -> Result<bool> {
    if source == destination {
        return rotate(db, reply, source, from, to);
    }
    let moved = db.read_to_change::<List>(source).map(|list| Some(list?.peek(from)?.to_vec()));
    let Some(moved) = db.found_waiting(moved)? else { return Ok(false) };
    // Also asked for its error, which must come before anything is changed.
    let exists = db.read_to_change::<List>(destination)?.is_some();
    db.call_changes(push_event(to));
    db.update(destination, |list: &mut List, limits| {
        list.push(to, &moved, limits);
        Change::Yes(())
    })?;
    // The keyspace itself records a key that it has made.
    if exists {
        db.effect(destination, &[push_name(to), destination, &moved]);
    }
    db.call_changes(pop_event(from));
    db.update_existing(source, |list: &mut List, limits| {
        list.drop_end(from, 1, limits);
        Change::Yes(())
    })?;
    db.effect(source, &[pop_name(from), source]);
    reply.bulk(&moved);
    Ok(true)
}

/// Moves an element within one list. The key is never deleted meanwhile, so it keeps its expiry even if the list has no
/// other element.
fn rotate(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], from: End, to: End) -> Result<bool> {
    db.call_changes(push_event(to));
    let found = db.update_existing(key, |list: &mut List, limits| {
        if let Some(moved) = list.peek(from).map(Item::to_vec) {
            if from != to && list.len() > 1 {
                list.drop_end(from, 1, limits);
                list.push(to, &moved, limits);
            }
            reply.bulk(&moved);
        }
        Change::Yes(())
    });
    let is_found = db.found_waiting(found)?.is_some();
    if is_found {
        db.tell(pop_event(from), key);
        db.effect(key, &[b"LMOVE", key, key, end_name(from), end_name(to)]);
    }
    Ok(is_found)
}

/// `RPOPLPUSH source destination`
fn rpoplpush(db: &mut Keyspace<'_>, reply: &mut Reply, (source, destination): (&[u8], &[u8])) -> Result<()> {
    lmove(db, reply, (source, destination, End::Tail, End::Head))
}

/// `LMPOP numkeys key [key ...] <LEFT | RIGHT> [COUNT count]`
fn lmpop(db: &mut Keyspace<'_>, reply: &mut Reply, (keys, end, count): (Keys<'_>, End, PopAtMost)) -> Result<()> {
    if !pop_some(db, reply, keys, end, count)? {
        reply.null_array();
    }
    Ok(())
}

/// Pops elements from the first of the keys that has some. False: none has.
fn pop_some(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    keys: Keys<'_>,
    end: End,
    PopAtMost(count): PopAtMost,
) -> Result<bool> {
    db.call_changes(pop_event(end));
    for key in keys.0.iter() {
        if !db.looks_at(key) {
            continue;
        }
        let popped = db.update_existing(key, |list: &mut List, limits| {
            let popped = count.min(list.len());
            reply.array(2);
            reply.bulk(key);
            write_end(reply, list, end, popped);
            list.drop_end(end, popped, limits);
            Change::Yes(popped)
        });
        if let Some(popped) = db.found_waiting(popped)? {
            db.effect(key, &[pop_name(end), key, itoa::Buffer::new().format(popped).as_bytes()]);
            return Ok(true);
        }
    }
    Ok(false)
}

fn write_items<'a>(reply: &mut Reply, items: impl ExactSizeIterator<Item = Item<'a>>) {
    reply.array(items.len());
    items.for_each(|item| write_item(reply, item));
}

/// `count` elements, of which there are as many, from one end inwards.
fn write_end(reply: &mut Reply, list: &List, end: End, count: usize) {
    match end {
        End::Head => write_items(reply, list.range(0, count)),
        End::Tail => write_items(reply, list.range(list.len() - count, list.len()).rev()),
    }
}

const fn pop_name(end: End) -> &'static [u8] {
    match end {
        End::Head => b"LPOP",
        End::Tail => b"RPOP",
    }
}

const fn push_name(end: End) -> &'static [u8] {
    match end {
        End::Head => b"LPUSH",
        End::Tail => b"RPUSH",
    }
}

const fn pop_event(end: End) -> KeyEvent {
    match end {
        End::Head => KeyEvent::list("lpop"),
        End::Tail => KeyEvent::list("rpop"),
    }
}

const fn push_event(end: End) -> KeyEvent {
    match end {
        End::Head => KeyEvent::list("lpush"),
        End::Tail => KeyEvent::list("rpush"),
    }
}

const fn end_name(end: End) -> &'static [u8] {
    match end {
        End::Head => b"LEFT",
        End::Tail => b"RIGHT",
    }
}

fn cost_of_all(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    db.cardinality(request.arg(1))
}

/// The elements that are popped.
fn cost_of_pop(db: &Keyspace<'_>, request: Request<'_>, end: End) -> usize {
    let count = request.get(2).map_or(1, |count| integer(count).unwrap_or(0));
    cost_of_end(db, request.arg(1), end, usize::try_from(count).unwrap_or(0))
}

/// The same of the costlier end of any of the keys, whose number is argument `at`.
fn cost_of_pops(db: &Keyspace<'_>, request: Request<'_>, at: usize) -> usize {
    let count = request.iter().next_back().and_then(canonical_integer).unwrap_or(1);
    let count = usize::try_from(count).unwrap_or(0);
    let of = |key| cost_of_end(db, key, End::Head, count).max(cost_of_end(db, key, End::Tail, count));
    cost::counted_keys(request, at).map(of).max().unwrap_or(0)
}

/// Up to `count` elements from one end. The reply of a write cannot be moved to another thread afterwards, so their
/// bytes count too.
fn cost_of_end(db: &Keyspace<'_>, key: &[u8], end: End, count: usize) -> usize {
    let Some(list) = db.peek_collection::<List>(key) else { return 0 };
    let count = list.len().min(count);
    if count > TURN || list.heap_bytes() < TURN * BYTES_PER_ELEMENT {
        return count;
    }
    let elements = match end {
        End::Head => list.range(0, count),
        End::Tail => list.range(list.len() - count, list.len()),
    };
    count + elements.map(Item::len).sum::<usize>() / BYTES_PER_ELEMENT
}

/// The element that is moved is copied several times.
fn cost_of_move(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    bytes_of_move(db, request) / BYTES_PER_ELEMENT
}

/// Memory for an element on its way: for a while it is in both lists, and in neither.
fn bytes_of_move(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let end = request.get(3).map_or(End::Tail, end_word);
    let moved = db.peek_collection::<List>(request.arg(1)).and_then(|list| list.peek(end));
    moved.map_or(0, |moved| 2 * moved.len())
}

/// The end that a word names; the tail, if it names none.
fn end_word(word: &[u8]) -> End {
    if word.eq_ignore_ascii_case(b"LEFT") { End::Head } else { End::Tail }
}

/// The elements that are cut off.
fn cost_of_trim(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    db.cardinality(request.arg(1)) - cost_of_range(db, request)
}

fn cost_of_range(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let bound = |at| integer(request.arg(at)).unwrap_or(0);
    range_of(bound(2), bound(3), db.cardinality(request.arg(1))).len()
}

/// The index that Redis's `index` means: negative ones count from the end.
fn index_of(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index + len as i64 } else { index };
    usize::try_from(index).ok()
}

/// The elements from `start` to `stop` inclusive, each counted from the end where negative.
fn range_of(start: i64, stop: i64, len: usize) -> Range<usize> {
    let start = index_of(start, len).unwrap_or(0);
    let end = index_of(stop, len).map_or(0, |stop| stop.saturating_add(1).min(len));
    if start < end { start..end } else { 0..0 }
}

/// `LEFT` or `RIGHT`
impl<'a> Argument<'a> for End {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.word("LEFT") {
            Ok(End::Head)
        } else if args.word("RIGHT") {
            Ok(End::Tail)
        } else {
            Err(Error::Syntax)
        }
    }
}

/// `BEFORE` or `AFTER`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    After,
}

impl<'a> Argument<'a> for Place {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.word("BEFORE") {
            Ok(Place::Before)
        } else if args.word("AFTER") {
            Ok(Place::After)
        } else {
            Err(Error::Syntax)
        }
    }
}

/// `[count]`, the last argument of `LPOP` and `RPOP`. As in Redis, too many arguments are an error of arity.
#[derive(Debug, Clone, Copy)]
struct PopCount(Option<usize>);

impl<'a> Argument<'a> for PopCount {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.len() > 1 {
            return Err(Error::WrongArity(args.name()));
        }
        Ok(Self(args.take::<Option<Count>>()?.map(|count| count.0)))
    }
}

/// `numkeys key [key ...]` of `LMPOP`, where too few arguments are a syntax error.
#[derive(Debug, Clone, Copy)]
struct Keys<'a>(Rest<'a>);

impl<'a> Argument<'a> for Keys<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let count = integer(args.bytes()?).ok().filter(|count| *count > 0).ok_or(Error::NumkeysNotPositive)?;
        args.split_to(usize::try_from(count).map_err(|_| Error::Syntax)?).map(Keys)
    }
}

/// `[COUNT count]` of `LMPOP`; 1 if it is not given.
#[derive(Debug, Clone, Copy)]
struct PopAtMost(usize);

impl<'a> Argument<'a> for PopAtMost {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if !args.word("COUNT") {
            return Ok(Self(1));
        }
        let count = integer(args.bytes()?).ok().and_then(|count| usize::try_from(count).ok());
        count.filter(|count| *count > 0).map(Self).ok_or(Error::CountNotPositive)
    }
}

/// `[RANK rank] [COUNT num-matches] [MAXLEN len]` in any order; the last of each counts.
#[derive(Debug, Clone, Copy)]
struct Search {
    /// From which match on; negative: from the tail.
    rank: i64,
    /// 0: all.
    count: Option<usize>,
    len_max: usize,
}

impl Search {
    /// How many matches to answer.
    fn wanted(&self) -> usize {
        match self.count {
            None => 1,
            Some(0) => usize::MAX,
            Some(count) => count,
        }
    }
}

impl<'a> Argument<'a> for Search {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        const RANK_ZERO: Error = Error::text(
            "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to \
             start from the end of the list",
        );
        let mut search = Self { rank: 1, count: None, len_max: usize::MAX };
        while !args.is_empty() {
            if args.word("RANK") {
                search.rank = args.take::<Negatable>()?.0;
                if search.rank == 0 {
                    return Err(RANK_ZERO);
                }
            } else if args.word("COUNT") {
                search.count = Some(not_negative(args, "ERR COUNT can't be negative")?);
            } else if args.word("MAXLEN") {
                search.len_max = match not_negative(args, "ERR MAXLEN can't be negative")? {
                    0 => usize::MAX,
                    len => len,
                };
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(search)
    }
}

fn not_negative(args: &mut Args<'_>, text: &'static str) -> Result<usize> {
    match Count::take(args) {
        Ok(Count(count)) => Ok(count),
        Err(Error::NotPositive) => Err(Error::text(text)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
