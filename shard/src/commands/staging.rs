//! `DORMOUSE IMPORT`: the effects of an import on the indexes as wholes. The server has the row.

use dormouse_protocol::Reply;
use dormouse_storage::shown::INDEXES;

use crate::commands::args::{Args, Argument, integer};
use crate::commands::{Run, run};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

/// Runs `DORMOUSE IMPORT ...` under the locks of all shards.
pub const IMPORT: Run = run!(import, 2);

/// The staged index that belongs to the one that `word` names, for `DORMOUSE STAGED`.
pub fn index(word: &[u8]) -> Option<u8> {
    let index = integer(word).ok().and_then(|index| u8::try_from(index).ok())?;
    (usize::from(index) < INDEXES).then_some(index + INDEXES as u8)
}

/// `DORMOUSE IMPORT <BEGIN | SHOW [REPLACE] | END | DISCARD>`
fn import(db: &mut Keyspace<'_>, reply: &mut Reply, (step,): (Step,)) -> Result<()> {
    match step {
        Step::Begin | Step::Show { .. } | Step::Discard if db.needs_watched() => return Ok(()),
        Step::Begin => db.begin_staging(),
        Step::Show { .. } | Step::Discard if !db.is_staging() => return Err(Error::NothingStaged),
        Step::Show { replaces: false } if db.visible() > 0 => {
            let text = format!("ERR the database holds {} keys: SHOW REPLACE replaces them", db.visible());
            return Err(Error::Text(text.into()));
        }
        Step::Show { .. } => db.show_staged(),
        Step::Discard => db.discard_staged(),
        Step::End if !db.is_following() => return Err(Error::text("ERR the database follows no source")),
        Step::End if db.needs_marker() => return Ok(()),
        Step::End => {
            db.delete_marker();
            db.end_following();
        }
    }
    reply.ok();
    Ok(())
}

enum Step {
    /// Empties the staged indexes. Nothing in them expires.
    Begin,
    /// Puts them in the place of the visible ones, which must be empty unless `replaces`.
    Show { replaces: bool },
    /// Lets the shown keys expire by this server's clock, and deletes the import's marker.
    End,
    /// Drops the staged data.
    Discard,
}

impl<'a> Argument<'a> for Step {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.word("BEGIN") {
            Ok(Self::Begin)
        } else if args.word("SHOW") {
            Ok(Self::Show { replaces: args.word("REPLACE") })
        } else if args.word("END") {
            Ok(Self::End)
        } else if args.word("DISCARD") {
            Ok(Self::Discard)
        } else {
            Err(Error::Syntax)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use dormouse_protocol::{OwnedRequest, Reply, Version};

    use super::IMPORT;
    use crate::commands;
    use crate::commands::testing::Bench;
    use crate::keyspace::eviction::{Needs, NoRoom};
    use crate::keyspace::testing::TestLog;
    use crate::keyspace::{Eviction, Keyspace};
    use dormouse_storage::effect::{self, EffectBody};
    use dormouse_storage::shown::{INDEXES, MARKER, NO_KEYSPACE, STAGED};

    fn import(bench: &mut Bench, words: &[&str]) -> String {
        let args: Vec<&[u8]> = ["DORMOUSE", "IMPORT"].iter().chain(words).map(|word| word.as_bytes()).collect();
        let request = OwnedRequest::from_args(&args);
        let mut reply = Reply::new(Version::Resp2);
        let mut db = bench.keyspace();
        db.begin(true, true);
        match IMPORT(&mut db, &mut reply, request.as_request()) {
            Ok(()) => String::from_utf8_lossy(&reply.buffer).trim().to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn staged_data_replaces_what_was_there_at_once() {
        let mut bench = Bench::new();
        bench.run("SET old 1");
        assert_eq!(import(&mut bench, &["SHOW"]), "ERR nothing is being staged: DORMOUSE IMPORT BEGIN comes first");
        bench.select = 16;
        assert_eq!(bench.run("SET new 1"), "(error) ERR nothing is being staged: DORMOUSE IMPORT BEGIN comes first");
        assert_eq!(import(&mut bench, &["BEGIN"]), "+OK");
        bench.run("SET new 1");
        bench.select = 31;
        bench.run("SET other 1");
        bench.select = 0;
        assert_eq!((bench.run("GET old"), bench.run("GET new")), ("1".into(), "nil".into()));
        assert_eq!(import(&mut bench, &["SHOW"]), "ERR the database holds 1 keys: SHOW REPLACE replaces them");
        let before = bench.contents.ids;
        assert_eq!(import(&mut bench, &["SHOW", "REPLACE"]), "+OK");
        assert_eq!((bench.run("GET old"), bench.run("GET new")), ("nil".into(), "1".into()));
        assert_eq!(bench.contents.ids[..INDEXES], before[STAGED]);
        assert!(bench.contents.ids[STAGED].iter().all(|id| *id == NO_KEYSPACE));
        bench.select = 15;
        assert_eq!(bench.run("GET other"), "1");
        bench.select = 16;
        assert!(bench.run("GET new").starts_with("(error)"));
        for words in [&["DISCARD"][..], &["SHOW", "REPLACE"], &["BEGIN", "NOW"], &["x"]] {
            assert!(import(&mut bench, words).starts_with("ERR "), "{words:?}");
        }
    }

    #[test]
    fn what_is_discarded_leaves_the_database_as_it_was() {
        let mut bench = Bench::new();
        bench.run("SET old 1 PX 10");
        import(&mut bench, &["BEGIN"]);
        bench.select = 16;
        bench.run("SET new 1");
        bench.select = 0;
        assert_eq!(import(&mut bench, &["DISCARD"]), "+OK");
        assert_eq!((bench.run("DBSIZE"), bench.contents.records()), ("1".into(), 1));
        bench.now_ms += 10;
        assert_eq!(bench.run("GET old"), "nil", "it was never followed");
        assert_eq!(bench.run("DBSIZE"), "0");
    }

    /// Shows an empty database that follows a source.
    fn following() -> Bench {
        let mut bench = Bench::new();
        import(&mut bench, &["BEGIN"]);
        import(&mut bench, &["SHOW"]);
        bench
    }

    #[test]
    fn a_followed_key_expires_when_its_source_says_so() {
        let mut bench = following();
        let past = (bench.now_ms - 1).to_string();
        for line in ["SET s 5", "HSET h a 1", "RPUSH l a", "SADD m a", "ZADD z 1 a", "SET g v"] {
            bench.run(line);
        }
        for key in ["s", "h", "l", "m", "z", "g"] {
            assert_eq!(bench.run(&format!("PEXPIREAT {key} {past}")), "1");
            // A command that only reads does not see it, and it stays all the same.
            assert_eq!(
                (bench.run(&format!("EXISTS {key}")), bench.run(&format!("PTTL {key}"))),
                ("0".into(), "-2".into())
            );
        }
        assert_eq!((bench.run("GET s"), bench.run("LRANGE l 0 -1")), ("nil".into(), "[]".into()));
        assert_eq!((bench.run("KEYS *"), bench.run("DBSIZE")), ("[]".into(), "6".into()));
        assert_eq!(bench.contents.expire(&bench.shared, bench.now_ms, 100).removed.len(), 0);
        assert!(bench.run("RANDOMKEY").len() == 1, "one that has expired, as nothing else is there");
        for (line, reply) in [
            ("INCR s", "6"),
            ("HINCRBY h a 1", "2"),
            ("RPUSH l b", "2"),
            ("SADD m b", "1"),
            ("SUNIONSTORE n m", "2"),
            ("ZINCRBY z 1 a", "2"),
            ("GETEX g EXAT 1", "v"),
            ("COPY g c", "1"),
            ("RENAME g r", "OK"),
        ] {
            assert_eq!(bench.run(line), reply, "{line}");
        }
        bench.run("PERSIST h");
        assert_eq!(bench.run("HGET h a"), "2");
        import(&mut bench, &["END"]);
        assert_eq!(bench.run("KEYS *"), "[h n]".to_owned());
        assert!(bench.contents.expire(&bench.shared, bench.now_ms, 100).removed.len() >= 5);
        assert_eq!(bench.run("RPUSH l new"), "1");
        assert_eq!(bench.run("DBSIZE"), "3");
        assert_eq!(import(&mut bench, &["END"]), "ERR the database follows no source");
    }

    #[test]
    fn nothing_of_what_follows_is_evicted() {
        let mut bench = following();
        bench.run("SET a 1");
        let mut settings = *bench.shared.settings.load_full();
        settings.memory_max = 1;
        settings.eviction = Eviction::AllKeysLru;
        bench.shared.settings.store(settings.into());
        assert_eq!(
            bench.keyspace().make_room(0, Needs::default()),
            Err(NoRoom::Refused(crate::error::Error::OutOfMemory))
        );
        import(&mut bench, &["END"]);
        let _ = bench.keyspace().make_room(0, Needs::default());
        assert_eq!(bench.run("DBSIZE"), "0");
    }

    #[test]
    fn what_is_staged_evicts_nothing_of_what_it_will_replace() {
        let mut bench = Bench::new();
        bench.run("SET old 1");
        import(&mut bench, &["BEGIN"]);
        let mut settings = *bench.shared.settings.load_full();
        settings.memory_max = 1;
        settings.eviction = Eviction::AllKeysLru;
        bench.shared.settings.store(settings.into());
        bench.select = 16;
        assert_eq!(
            bench.keyspace().make_room(0, Needs::default()),
            Err(NoRoom::Refused(crate::error::Error::OutOfMemory))
        );
        bench.select = 0;
        assert_eq!(bench.run("GET old"), "1");
        let _ = bench.keyspace().make_room(0, Needs::default());
        assert_eq!(bench.run("DBSIZE"), "0", "a client's own write may");
    }

    #[test]
    fn replay_expires_nothing_either() {
        let mut bench = following();
        let log = TestLog::of(&mut bench.shared);
        let past = (bench.now_ms - 1).to_string();
        for line in
            [&format!("SET k 5 PXAT {past}"), "INCR k", "RPUSH l a", &format!("PEXPIREAT l {past}"), "RPUSH l b"]
        {
            bench.run(line);
        }
        import(&mut bench, &["END"]);
        bench.run("RPUSH l c");
        let effects = log.effects();
        let mut replayed = Bench::new();
        for effect in &effects {
            replayed.shared.followed.store(u32::from(effect.followed), Ordering::Relaxed);
            let mut db = Keyspace::new([&mut replayed.contents], &replayed.shared, 0, effect.now_ms, 1);
            commands::replay(&mut db, &effect.body).expect("effects are well-formed");
        }
        replayed.shared.followed.store(0, Ordering::Relaxed);
        assert_eq!(replayed.data(), bench.data());
        assert_eq!(replayed.run("LRANGE l 0 -1"), "[c]");
    }

    /// A marker is no longer true of data that clients write: an import that finds it would overwrite that data.
    #[test]
    fn the_marker_goes_with_what_follows() {
        let mut bench = following();
        let log = TestLog::of(&mut bench.shared);
        bench.run(&format!("SET {MARKER} x"));
        bench.select = 3;
        assert_eq!(import(&mut bench, &["END"]), "+OK");
        assert_eq!(bench.run(&format!("SET {MARKER} mine")), "OK");
        bench.select = 0;
        assert_eq!(bench.run(&format!("EXISTS {MARKER}")), "0");
        assert_eq!(
            log.effects()
                .iter()
                .filter(|effect| matches!(effect::read(&effect.body), Some(EffectBody::Delete { .. })))
                .count(),
            1
        );
    }

    #[test]
    fn following_ends_with_its_marker() {
        let mut bench = following();
        bench.run(&format!("SET {MARKER} x"));
        bench.keyspace().settle_import(false);
        assert!(bench.keyspace().is_following());
        bench.run(&format!("DEL {MARKER}"));
        import(&mut bench, &["BEGIN"]);
        bench.keyspace().settle_import(true);
        assert!(!bench.keyspace().is_following() && bench.keyspace().is_staging());
        bench.keyspace().settle_import(false);
        assert_eq!(bench.shared.followed.load(Ordering::Relaxed), 0);
    }
}
