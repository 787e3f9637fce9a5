//! Sets: unique members without an order.

mod algebra;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use dormouse_protocol::{Reply, Request};
use dormouse_types::Set;

use crate::commands::args::{Last, Rest, canonical_integer};
use crate::commands::elements::{
    Count, Cursor, Negatable, ScanOptions, Selection, write_item, write_page, write_repeatedly,
};
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, cost, exactly, run};
use crate::error::Result;
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace};

pub(super) use algebra::{Limit, holds};

const READ: Flags = Flags::READ;
const WRITE: Flags = Flags::WRITE;
const FAST: Flags = Flags::FAST;
const DENY_OOM: Flags = Flags::DENY_OOM;
const MOVABLE: Flags = Flags::MOVABLE_KEYS;
const BY_KEY: Flags = Flags::BY_KEY;

const READS: Access = Access::RO.union(Access::ACCESS);
const INSERTS: Access = Access::RW.union(Access::INSERT);
const POPS: Access = Access::RW.union(Access::ACCESS).union(Access::DELETE);

const KEY_LOOK: &[KeySpec] = &[KeySpec::one(1, Access::RO)];
const KEY_READ: &[KeySpec] = &[KeySpec::one(1, READS)];
const KEY_INSERT: &[KeySpec] = &[KeySpec::one(1, INSERTS)];
const KEY_DELETE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::DELETE))];
const KEY_POP: &[KeySpec] = &[KeySpec::one(1, POPS)];
const KEYS_MOVE: &[KeySpec] = &[KeySpec::one(1, POPS), KeySpec::one(2, INSERTS)];
const KEYS_READ: &[KeySpec] = &[KeySpec::rest(1, READS)];
const KEYS_COUNTED: &[KeySpec] = &[KeySpec::counted(1, READS)];
const KEYS_STORE: &[KeySpec] = &[KeySpec::one(1, Access::OW.union(Access::UPDATE)), KeySpec::rest(2, READS)];

const ANY_ORDER: &[&str] = &["nondeterministic_output_order"];
const ANY_OUTPUT: &[&str] = &["nondeterministic_output"];

const INTER_COMPLEXITY: &str =
    "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets.";
const SUM_COMPLEXITY: &str = "O(N) where N is the total number of elements in all given sets.";

pub(crate) const FAMILY: Family<Run> = Family {
    group: "set",
    category: Category::SET,
    commands: &[
        Command::new("SADD", at_least(3), KEY_INSERT, WRITE.union(DENY_OOM).union(FAST), run!(sadd))
            .event(KeyEvent::set("sadd"))
            .doc(
                "1.0.0",
                "O(1) for each element added, so O(N) to add N elements when the command is called with multiple \
             arguments.",
                "Adds one or more members to a set. Creates the key if it doesn't exist.",
            ),
        Command::new("SREM", at_least(3), KEY_DELETE, WRITE.union(FAST), run!(srem)).event(KeyEvent::set("srem")).doc(
            "1.0.0",
            "O(N) where N is the number of members to be removed.",
            "Removes one or more members from a set. Deletes the set if the last member was removed.",
        ),
        Command::new("SMEMBERS", exactly(2), KEY_READ, READ, run!(smembers))
            .doc("1.0.0", "O(N) where N is the set cardinality.", "Returns all members of a set.")
            .tips(ANY_ORDER)
            .cost(cost::whole),
        Command::new("SISMEMBER", exactly(3), KEY_LOOK, READ.union(FAST), run!(sismember)).doc(
            "1.0.0",
            "O(1)",
            "Determines whether a member belongs to a set.",
        ),
        Command::new("SMISMEMBER", at_least(3), KEY_READ, READ.union(FAST), run!(smismember)).doc(
            "6.2.0",
            "O(N) where N is the number of elements being checked for membership",
            "Determines whether multiple members belong to a set.",
        ),
        Command::new("SCARD", exactly(2), KEY_LOOK, READ.union(FAST), run!(scard)).doc(
            "1.0.0",
            "O(1)",
            "Returns the number of members in a set.",
        ),
        Command::new("SPOP", at_least(2), KEY_POP, WRITE.union(FAST).union(BY_KEY), run!(spop))
            .event(KeyEvent::set("spop"))
            .doc(
                "1.0.0",
                "Without the count argument O(1), otherwise O(N) where N is the value of the passed count.",
                "Returns one or more random members from a set after removing them. Deletes the set if the last \
             member was popped.",
            )
            .tips(ANY_OUTPUT)
            .cost(cost::counted)
            .needs(bytes_of_popped),
        Command::new("SRANDMEMBER", at_least(2), KEY_READ, READ, run!(srandmember))
            .doc(
                "1.0.0",
                "Without the count argument O(1), otherwise O(N) where N is the absolute value of the passed count.",
                "Returns one or more random members of a set.",
            )
            .tips(ANY_OUTPUT)
            .cost(cost::counted),
        Command::new("SMOVE", exactly(4), KEYS_MOVE, WRITE.union(FAST).union(BY_KEY), run!(smove)).doc(
            "1.0.0",
            "O(1)",
            "Moves a member from one set to another.",
        ),
        Command::new("SINTER", at_least(2), KEYS_READ, READ, run!(algebra::sinter))
            .doc("1.0.0", INTER_COMPLEXITY, "Returns the intersect of multiple sets.")
            .tips(ANY_ORDER)
            .cost(|db, request| cost::smallest(db, request.iter().skip(1))),
        Command::new(
            "SINTERSTORE",
            at_least(3),
            KEYS_STORE,
            WRITE.union(DENY_OOM).union(BY_KEY),
            run!(algebra::sinterstore),
        )
        .event(KeyEvent::set("sinterstore"))
        .doc("1.0.0", INTER_COMPLEXITY, "Stores the intersect of multiple sets in a key.")
        .cost(|db, request| cost::smallest(db, request.iter().skip(2)))
        .needs(|db, request| request.iter().skip(2).map(|key| cost::copied_bytes(db, key)).min().unwrap_or(0)),
        Command::new("SINTERCARD", at_least(3), KEYS_COUNTED, READ.union(MOVABLE), run!(algebra::sintercard))
            .doc("7.0.0", INTER_COMPLEXITY, "Returns the number of members of the intersect of multiple sets.")
            .cost(|db, request| cost::smallest(db, cost::counted_keys(request, 1))),
        Command::new("SUNIONCARD", at_least(3), KEYS_COUNTED, READ.union(MOVABLE), run!(algebra::sunioncard))
            .doc("8.10.0", SUM_COMPLEXITY, "Returns the number of members of the union of multiple sets.")
            .cost(|db, request| cost::sum(db, cost::counted_keys(request, 1))),
        Command::new("SDIFFCARD", at_least(3), KEYS_COUNTED, READ.union(MOVABLE), run!(algebra::sdiffcard))
            .doc("8.10.0", SUM_COMPLEXITY, "Returns the number of members of the difference of multiple sets.")
            .cost(|db, request| cost::sum(db, cost::counted_keys(request, 1))),
        Command::new("SUNION", at_least(2), KEYS_READ, READ, run!(algebra::sunion))
            .doc("1.0.0", SUM_COMPLEXITY, "Returns the union of multiple sets.")
            .tips(ANY_ORDER)
            .cost(|db, request| cost::sum(db, request.iter().skip(1))),
        Command::new(
            "SUNIONSTORE",
            at_least(3),
            KEYS_STORE,
            WRITE.union(DENY_OOM).union(BY_KEY),
            run!(algebra::sunionstore),
        )
        .event(KeyEvent::set("sunionstore"))
        .doc("1.0.0", SUM_COMPLEXITY, "Stores the union of multiple sets in a key.")
        .cost(|db, request| cost::sum(db, request.iter().skip(2)))
        .needs(|db, request| request.iter().skip(2).map(|key| cost::copied_bytes(db, key)).sum()),
        Command::new("SDIFF", at_least(2), KEYS_READ, READ, run!(algebra::sdiff))
            .doc("1.0.0", SUM_COMPLEXITY, "Returns the difference of multiple sets.")
            .tips(ANY_ORDER)
            .cost(|db, request| cost::sum(db, request.iter().skip(1))),
        Command::new(
            "SDIFFSTORE",
            at_least(3),
            KEYS_STORE,
            WRITE.union(DENY_OOM).union(BY_KEY),
            run!(algebra::sdiffstore),
        )
        .event(KeyEvent::set("sdiffstore"))
        .doc("1.0.0", SUM_COMPLEXITY, "Stores the difference of multiple sets in a key.")
        .cost(|db, request| cost::sum(db, request.iter().skip(2)))
        .needs(|db, request| cost::copied_bytes(db, request.arg(2))),
        Command::new("SSCAN", at_least(3), KEY_READ, READ, run!(sscan))
            .doc(
                "2.8.0",
                "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor \
             to return back to 0. N is the number of elements inside the collection.",
                "Iterates over members of a set.",
            )
            .tips(ANY_OUTPUT)
            .cost(cost::scanned),
    ],
};

/// `SADD key member [member ...]`
fn sadd(db: &mut Keyspace<'_>, reply: &mut Reply, (key, members): (&[u8], Rest<'_>)) -> Result<()> {
    let added = db.update(key, |set: &mut Set, limits| {
        set.expect(members.len(), limits);
        let added = members.iter().filter(|member| set.add(member, limits)).count();
        Change::when(added > 0, added)
    })?;
    reply.integer(added as i64);
    Ok(())
}

/// `SREM key member [member ...]`
fn srem(db: &mut Keyspace<'_>, reply: &mut Reply, (key, members): (&[u8], Rest<'_>)) -> Result<()> {
    let removed = db.update_existing(key, |set: &mut Set, _| {
        let removed = members.iter().filter(|member| set.remove(member)).count();
        Change::when(removed > 0, removed)
    })?;
    reply.integer(removed.unwrap_or(0) as i64);
    Ok(())
}

/// `SMEMBERS key`
fn smembers(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    match db.read::<Set>(key)? {
        Some(set) => write_set(reply, set),
        None => reply.set(0),
    }
    Ok(())
}

/// `SISMEMBER key member`
fn sismember(db: &mut Keyspace<'_>, reply: &mut Reply, (key, member): (&[u8], &[u8])) -> Result<()> {
    let found = db.read::<Set>(key)?.is_some_and(|set| set.contains(member));
    reply.integer(i64::from(found));
    Ok(())
}

/// `SMISMEMBER key member [member ...]`
fn smismember(db: &mut Keyspace<'_>, reply: &mut Reply, (key, members): (&[u8], Rest<'_>)) -> Result<()> {
    let set = db.read::<Set>(key)?;
    reply.array(members.len());
    for member in members.iter() {
        reply.integer(i64::from(set.is_some_and(|set| set.contains(member))));
    }
    Ok(())
}

/// `SCARD key`
fn scard(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    reply.integer(db.read::<Set>(key)?.map_or(0, Set::len) as i64);
    Ok(())
}

/// Bytes that SPOP copies for the log: the popped members, or the remaining ones if these are fewer.
fn bytes_of_popped(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let count = request.get(2).and_then(canonical_integer).and_then(|count| usize::try_from(count).ok());
    let Some(count) = count.filter(|_| db.shared().journal.is_recording()) else { return 0 };
    let all = db.cardinality(request.arg(1));
    let copied = count.min(all.saturating_sub(count));
    cost::copied_bytes(db, request.arg(1)).checked_div(all).unwrap_or(0).saturating_mul(copied)
}

/// `SPOP key [count]`
fn spop(db: &mut Keyspace<'_>, reply: &mut Reply, (key, Last(count)): (&[u8], Last<Count>)) -> Result<()> {
    let mut randoms = db.randoms();
    let Some(Count(count)) = count else {
        let popped = db.update_existing(key, |set: &mut Set, _| {
            Change::Yes(set.pop(&mut randoms, |member| {
                write_item(reply, member);
                member.to_vec()
            }))
        })?;
        match popped.flatten() {
            Some(member) => db.effect(key, &[b"SREM", key, &member]),
            None => reply.null(),
        }
        return Ok(());
    };
    let set = db.read_to_change::<Set>(key)?;
    let len = set.map_or(0, Set::len);
    if count >= len {
        match set {
            Some(set) => write_set(reply, set),
            None => reply.set(0),
        }
        if len > 0 {
            db.tell(KeyEvent::set("spop"), key);
        }
        db.delete(key);
        return Ok(());
    }
    reply.set(count);
    // Recording the remaining members may be shorter than recording the removed ones.
    let names_them = db.records_by_key() && count <= len - count;
    let mut gone: Vec<Vec<u8>> = Vec::new();
    db.update_existing(key, |set: &mut Set, _| {
        for _ in 0..count {
            set.pop(&mut randoms, |member| {
                write_item(reply, member);
                if names_them {
                    gone.push(member.to_vec());
                }
            });
        }
        Change::when(count > 0, ())
    })?;
    if names_them && count > 0 {
        let command: Vec<&[u8]> = [b"SREM", key].into_iter().chain(gone.iter().map(Vec::as_slice)).collect();
        db.effect(key, &command);
    } else if count > 0 {
        db.effect_value(key);
    }
    Ok(())
}

/// `SRANDMEMBER key [count]`
fn srandmember(db: &mut Keyspace<'_>, reply: &mut Reply, (key, Last(count)): (&[u8], Last<Negatable>)) -> Result<()> {
    let mut randoms = db.randoms();
    let Some(set) = db.read::<Set>(key)? else {
        match count {
            Some(_) => reply.array(0),
            None => reply.null(),
        }
        return Ok(());
    };
    let Some(Negatable(count)) = count else {
        if let Some(member) = set.random(&mut randoms) {
            write_item(reply, member);
        }
        return Ok(());
    };
    let wanted = count.unsigned_abs();
    if count < 0 {
        reply.array(wanted as usize);
        return write_repeatedly(reply, wanted, |reply| {
            if let Some(member) = set.random(&mut randoms) {
                write_item(reply, member);
            }
        });
    }
    let wanted = wanted.min(set.len() as u64) as usize;
    reply.array(wanted);
    if wanted.saturating_mul(3) <= set.len() {
        // Few of many: a member that was drawn already is drawn again.
        let mut drawn = HashSet::with_capacity(wanted);
        while drawn.len() < wanted {
            if let Some(member) = set.random(&mut randoms)
                && drawn.insert(member)
            {
                write_item(reply, member);
            }
        }
    } else {
        let mut selection = Selection::new(wanted, set.len());
        set.iter().filter(|_| selection.takes(randoms())).for_each(|member| write_item(reply, member));
    }
    Ok(())
}

/// `SMOVE source destination member`
fn smove(db: &mut Keyspace<'_>, reply: &mut Reply, (source, destination, member): (&[u8], &[u8], &[u8])) -> Result<()> {
    let Some(set) = db.read_to_change::<Set>(source)? else {
        reply.integer(0);
        return Ok(());
    };
    let found = set.contains(member);
    let made = db.read_to_change::<Set>(destination)?.is_none();
    if found && source != destination {
        db.call_changes(KeyEvent::set("srem"));
        db.update_existing(source, |set: &mut Set, _| Change::when(set.remove(member), ()))?;
        db.effect(source, &[b"SREM", source, member]);
        db.call_changes(KeyEvent::set("sadd"));
        let added = db.update(destination, |set: &mut Set, limits| {
            let added = set.add(member, limits);
            Change::when(added, added)
        })?;
        // A newly created set is recorded whole.
        if added && !made {
            db.effect(destination, &[b"SADD", destination, member]);
        }
    }
    reply.integer(i64::from(found));
    Ok(())
}

/// `SSCAN key cursor [MATCH pattern] [COUNT count]`
fn sscan(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, Cursor(cursor), options): (&[u8], Cursor, Rest<'_>),
) -> Result<()> {
    let start = reply.len();
    let Some(set) = db.read::<Set>(key)? else {
        write_page(reply, start, 0, 0);
        return Ok(());
    };
    let options = ScanOptions::read(options, None)?;
    let mut len = 0;
    let next = set.scan(cursor, options.count, |member| {
        if options.matches(member) {
            write_item(reply, member);
            len += 1;
        }
    });
    write_page(reply, start, next, len);
    Ok(())
}

fn write_set(reply: &mut Reply, set: &Set) {
    reply.set(set.len());
    set.iter().for_each(|member| write_item(reply, member));
}
