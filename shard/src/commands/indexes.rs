//! The sixteen logical indexes of a database as wholes.

use dormouse_protocol::Reply;
use dormouse_storage::shown::INDEXES;

use crate::commands::args::{Args, Argument, integer};
use crate::commands::reach::database_at;
use crate::commands::{Category, Command, Databases, Family, Flags, Run, at_least, exactly, run};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

const READ_FAST: Flags = Flags::READ.union(Flags::FAST).union(Flags::WHOLE);
const WRITE: Flags = Flags::WRITE.union(Flags::WHOLE);

pub(crate) const FAMILY: Family<Run> = Family {
    group: "server",
    category: Category::KEYSPACE,
    commands: &[
        Command::new("DBSIZE", exactly(1), &[], READ_FAST, run!(dbsize))
            .doc("1.0.0", "O(1)", "Returns the number of keys in the database.")
            .tips(&["request_policy:all_shards", "response_policy:agg_sum"])
            .databases(Databases::Selected),
        Command::new("FLUSHDB", at_least(1), &[], WRITE, run!(flushdb))
            .doc("1.0.0", "O(1): the keys are freed by another thread.", "Remove all keys from the current database.")
            .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
            .databases(Databases::Selected)
            .also(Category::DANGEROUS),
        Command::new("FLUSHALL", at_least(1), &[], WRITE.union(Flags::FREES_ALL), run!(flushall))
            .doc("1.0.0", "O(1): the keys are freed by another thread.", "Removes all keys from all databases.")
            .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
            .databases(Databases::All)
            .also(Category::DANGEROUS),
        Command::new("SWAPDB", exactly(3), &[], WRITE.union(Flags::FAST).union(Flags::SWAPS_INDEXES), run!(swapdb))
            .doc("4.0.0", "O(N) where N is the count of watched keys.", "Swaps two Redis databases.")
            .databases(Databases::Named(|request| [database_at(request, 1), database_at(request, 2)]))
            .also(Category::DANGEROUS),
    ],
};

/// `DBSIZE`
fn dbsize(db: &mut Keyspace<'_>, reply: &mut Reply, (): ()) -> Result<()> {
    reply.integer(db.count() as i64);
    Ok(())
}

/// `FLUSHDB [ASYNC | SYNC]`
fn flushdb(db: &mut Keyspace<'_>, reply: &mut Reply, (_,): (Manner,)) -> Result<()> {
    if !db.needs_watched() {
        db.flush(db.selected());
        reply.ok();
    }
    Ok(())
}

/// `FLUSHALL [ASYNC | SYNC]`
fn flushall(db: &mut Keyspace<'_>, reply: &mut Reply, (_,): (Manner,)) -> Result<()> {
    if !db.needs_watched() {
        (0..INDEXES as u8).for_each(|select| db.flush(select));
        reply.ok();
    }
    Ok(())
}

/// `SWAPDB index1 index2`
fn swapdb(db: &mut Keyspace<'_>, reply: &mut Reply, (a, b): (&[u8], &[u8])) -> Result<()> {
    let number = |bytes, invalid| integer(bytes).ok().and_then(|n| i32::try_from(n).ok()).ok_or(Error::text(invalid));
    let a = number(a, "ERR invalid first DB index")?;
    let b = number(b, "ERR invalid second DB index")?;
    let index = |number| u8::try_from(number).ok().filter(|index| usize::from(*index) < INDEXES);
    let (Some(a), Some(b)) = (index(a), index(b)) else { return Err(Error::DbIndexOutOfRange) };
    if a != b {
        if db.needs_watched() {
            return Ok(());
        }
        db.swap(a, b);
    }
    reply.ok();
    Ok(())
}

/// `[ASYNC | SYNC]`, which makes no difference: the keys are gone at once, their memory is freed elsewhere.
struct Manner;

impl<'a> Argument<'a> for Manner {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let _ = args.word("ASYNC") || args.word("SYNC");
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::commands::testing::Bench;
    use crate::keyspace::Keyspace;
    use dormouse_storage::shown::INDEXES;

    #[test]
    fn flushing() {
        let mut bench = Bench::new();
        for flush in ["FLUSHDB", "FLUSHDB ASYNC", "flushdb sync", "FLUSHALL", "FLUSHALL ASYNC", "flushall sync"] {
            bench.select = 3;
            bench.run("SET other v");
            bench.select = 0;
            bench.run("MSET a 1 b 2");
            assert_eq!(bench.run("DBSIZE"), "2");
            assert_eq!(bench.run(flush), "OK");
            assert_eq!(bench.run("DBSIZE"), "0");
            assert_eq!(bench.run("GET a"), "nil");
            bench.select = 3;
            let left = if flush.to_lowercase().starts_with("flushall") { "0" } else { "1" };
            assert_eq!(bench.run("DBSIZE"), left, "after {flush}");
        }
        assert_eq!(bench.run("FLUSHALL NOW"), "(error) ERR syntax error");
        assert_eq!(bench.run("FLUSHDB ASYNC SYNC"), "(error) ERR syntax error");
        assert_eq!(bench.run("DBSIZE x"), "(error) ERR wrong number of arguments for 'dbsize' command");
    }

    #[test]
    fn what_is_flushed_is_freed_elsewhere() {
        let mut bench = Bench::new();
        bench.run("SET a 1");
        let mut db = Keyspace::new([&mut bench.contents], &bench.shared, 0, bench.now_ms, 1);
        db.flush(0);
        assert_eq!(db.take_graveyard().map(|dead| dead.len()), Some(1));
        assert!(db.take_graveyard().is_none());
        drop(db);
        assert_eq!(bench.contents.records(), 0);
    }

    #[test]
    fn a_flush_begins_a_new_keyspace() {
        let mut bench = Bench::new();
        let before = bench.contents.ids;
        bench.run("FLUSHDB");
        assert_ne!(bench.contents.ids[0], before[0]);
        assert_eq!(bench.contents.ids[1..], before[1..]);
        bench.run("FLUSHALL");
        assert!(bench.contents.ids[..INDEXES].iter().zip(before).all(|(now, before)| *now != before));
    }

    #[test]
    fn swapping() {
        let mut bench = Bench::new();
        bench.run("SET a zero");
        assert_eq!(bench.run("SWAPDB 0 15"), "OK");
        assert_eq!(bench.run("GET a"), "nil");
        bench.select = 15;
        assert_eq!(bench.run("GET a"), "zero");
        assert_eq!(bench.run("SWAPDB 15 15"), "OK");
        assert_eq!(bench.run("GET a"), "zero");
        for (command, error) in [
            ("SWAPDB x 1", "ERR invalid first DB index"),
            ("SWAPDB 99999999999 1", "ERR invalid first DB index"),
            ("SWAPDB 1 x", "ERR invalid second DB index"),
            ("SWAPDB 1 16", "ERR DB index is out of range"),
            ("SWAPDB -1 1", "ERR DB index is out of range"),
        ] {
            assert_eq!(bench.run(command), format!("(error) {error}"), "{command}");
        }
    }
    /// The effect of changes after WATCH, each as a line over keys of two indexes, and whether EXEC is to run then.
    /// `alive` never expires, `dying` has expired by then and was not removed.
    #[test]
    fn a_watch_sees_what_has_changed_and_no_more() {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Key {
            Absent,
            Alive,
            Dying,
        }
        use Key::{Absent, Alive, Dying};
        // The key `k` in indexes 0 and 1 at WATCH, which looks at index 0; the change in index 0; whether EXEC runs.
        let table: &[(Key, Key, &str, bool)] = &[
            (Absent, Absent, "SWAPDB 0 1", true),
            (Absent, Dying, "SWAPDB 0 1", true),
            (Absent, Dying, "SWAPDB 1 0", true),
            (Absent, Alive, "SWAPDB 0 1", false),
            (Alive, Absent, "SWAPDB 0 1", false),
            (Dying, Absent, "SWAPDB 0 1", false),
            (Dying, Dying, "SWAPDB 0 1", false),
            (Dying, Alive, "SWAPDB 0 1", false),
            (Absent, Alive, "SWAPDB 1 2", true),
            (Absent, Absent, "FLUSHDB", true),
            (Absent, Alive, "FLUSHALL", false),
            (Alive, Absent, "FLUSHDB", false),
            (Dying, Absent, "FLUSHALL", false),
            (Dying, Absent, "GET k", false),
            (Absent, Alive, "DEL k", true),
            (Absent, Alive, "MOVE k 1", true),
            (Alive, Dying, "MOVE k 1", false),
            (Absent, Dying, "COPY other k", false),
            (Absent, Dying, "COPY nothing k", true),
            (Absent, Absent, "RENAME other k", false),
            (Dying, Absent, "RENAMENX other k", false),
            (Absent, Absent, "RESTORE k 1 payload ABSTTL", true),
        ];
        for &(here, there, command, runs) in table {
            // FLUSHALL of an index where `k` never was changes nothing for its watchers.
            let runs = runs || command == "FLUSHALL" && here == Absent;
            let mut bench = Bench::new();
            for (select, key) in [(0, here), (1, there)] {
                bench.select = select;
                match key {
                    Absent => {}
                    Alive => _ = bench.run("SET k v"),
                    Dying => _ = bench.run("SET k v PX 1000"),
                }
            }
            bench.select = 0;
            bench.run("SET other v");
            let touched = Arc::new(AtomicBool::new(false));
            bench.keyspace().expire(b"k");
            bench.shared.watches.add(0, b"k", &touched);
            bench.now_ms += 2000;
            bench.run(command);
            // As EXEC does, and as the removal of expired keys may do before.
            bench.keyspace().expire(b"k");
            assert_eq!(!touched.load(Ordering::SeqCst), runs, "{here:?} in 0, {there:?} in 1, then {command}");
        }
    }

    #[test]
    fn an_expired_key_that_a_swap_brings_is_gone_from_both_indexes() {
        let mut bench = Bench::new();
        bench.select = 1;
        bench.run("SET k v PX 1000");
        let (here, there) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        bench.shared.watches.add(0, b"k", &here);
        bench.shared.watches.add(1, b"k", &there);
        bench.now_ms += 2000;
        assert_eq!(bench.run("SWAPDB 0 1"), "OK");
        assert!(!here.load(Ordering::SeqCst), "`k` was in index 0 neither before nor after");
        assert!(there.load(Ordering::SeqCst), "`k` was in index 1 before");
        for select in [0, 1] {
            bench.select = select;
            assert_eq!(bench.run("DBSIZE"), "0");
        }
    }
}
