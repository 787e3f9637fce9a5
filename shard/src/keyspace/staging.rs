//! Following a source: an import fills a copy beside the data, puts it in the data's place at once, and until it is cut over
//! only the source decides what has expired.
//!
//! 1. Each logical index has a hidden, *staged* one. [`Keyspace::begin_staging`] gives all of them new keyspaces. Their keys
//!    count as memory of the database like any others, and are in its log and its checkpoints.
//! 2. [`Keyspace::show_staged`] exchanges all sixteen with the ones that clients see. That is one item of the log, so a crash
//!    leaves all of the old data or all of the new. The old data is freed.
//! 3. Staged indexes are *followed*, and stay so when they are shown, until [`Keyspace::end_following`]. In a followed index
//!    nothing expires by this server's clock: neither when a key is looked for, nor in the background, and nothing is
//!    evicted. The source says what has expired, by `DEL` or `UNLINK`. A command that writes finds a key whose time is over,
//!    since the source may have made it last longer; one that only reads does not, as in a replica of Redis.
//!
//! Invariant: an effect is replayed as it happened. So the log says of each effect whether its index was followed then, and
//! the manifest which indexes are.

use std::sync::atomic::Ordering;

use super::Keyspace;
use super::contents::{ALL_INDEXES, INDEXES, NO_KEYSPACE};

/// In index 0 of what an import fills, for as long as it is not cut over: how far the import is. The server ends what was
/// begun for an import when this key is gone.
pub const MARKER: &str = "__dormouse_import__";

/// Set in the keyspace of an effect whose index was followed.
pub const FOLLOWED: u32 = 1 << 31;

/// Set in the time of an effect whose index was followed.
pub const FOLLOWED_TIME: u64 = 1 << 63;

/// The indexes that clients see, and the staged ones, as bits.
pub const VISIBLE_MASK: u32 = (1 << INDEXES) - 1;
pub const STAGED_MASK: u32 = VISIBLE_MASK << INDEXES;

impl Keyspace<'_> {
    /// Empties the staged indexes, for an import that begins. Every shard must be held.
    pub fn begin_staging(&mut self) {
        self.drop_staged();
        for select in INDEXES..ALL_INDEXES {
            let id = self.shared.next_id.fetch_add(1, Ordering::SeqCst);
            self.shards.iter_mut().for_each(|shard| shard.ids[select] = id);
        }
        self.set_followed(self.followed | STAGED_MASK);
    }

    /// Puts the staged indexes in the place of all that clients see, and frees that. Every shard must be held.
    pub fn show_staged(&mut self) {
        let shared = self.shared;
        shared.watches.touch_all(|_| true, |_, _| true);
        for select in 0..INDEXES as u8 {
            self.shards.iter_mut().for_each(|shard| shard.swap(select, select + INDEXES as u8));
        }
        self.drop_staged();
        self.set_followed(VISIBLE_MASK);
    }

    /// Frees what is staged. Every shard must be held.
    pub fn discard_staged(&mut self) {
        self.drop_staged();
        self.set_followed(self.followed & VISIBLE_MASK);
    }

    /// From now on keys expire by this server's clock again. Every shard must be held.
    pub fn end_following(&mut self) {
        self.set_followed(self.followed & STAGED_MASK);
    }

    /// Ends following where [`MARKER`] is gone, and staging unless `is_filled`. Every shard must be held.
    pub(crate) fn settle_import(&mut self, is_filled: bool) {
        self.begin(true, true);
        if self.is_staging() && !is_filled {
            self.discard_staged();
        }
        if self.is_following() && !self.may_hold(0, MARKER.as_bytes()) {
            self.end_following();
        }
    }

    /// Whether an import is filling the staged indexes.
    pub fn is_staging(&self) -> bool {
        self.followed & STAGED_MASK != 0
    }

    /// Whether clients see an index that follows a source.
    pub fn is_following(&self) -> bool {
        self.followed & VISIBLE_MASK != 0
    }

    /// Keys in all indexes that clients see, those that have expired included.
    pub fn visible(&self) -> usize {
        (0..INDEXES as u8).map(|select| self.counts(select).0).sum()
    }

    /// Whether the selected index is there: a staged one is while something is staged.
    pub(crate) fn is_selectable(&self) -> bool {
        usize::from(self.select) < INDEXES || self.is_staging()
    }

    /// Whether `at` is over for a key of the selected index.
    pub fn has_passed(&self, at: u64) -> bool {
        at <= self.horizon()
    }

    /// What expires at this moment or before is not there for the command that runs.
    pub(super) fn horizon(&self) -> u64 {
        if self.is_followed() && self.sees_expired { 0 } else { self.now_ms }
    }

    /// Whether the selected index is followed.
    pub(super) fn is_followed(&self) -> bool {
        self.followed >> self.select & 1 != 0
    }

    /// The keyspace as the effects of the selected index name it.
    pub(super) fn marked(&self, keyspace: u32) -> u32 {
        if self.is_followed() { keyspace | FOLLOWED } else { keyspace }
    }

    /// After two indexes were exchanged.
    pub(super) fn swap_followed(&mut self, a: u8, b: u8) {
        if (self.followed >> a ^ self.followed >> b) & 1 != 0 {
            self.followed ^= 1 << a | 1 << b;
            self.shared.followed.store(self.followed, Ordering::Relaxed);
        }
    }

    fn set_followed(&mut self, followed: u32) {
        self.followed = followed;
        self.shared.followed.store(followed, Ordering::Relaxed);
        self.changes += 1;
        self.record_ids();
    }

    fn drop_staged(&mut self) {
        let shared = self.shared;
        shared.watches.touch_all(|select| usize::from(select) >= INDEXES, |_, _| true);
        for shard in &mut self.shards {
            for select in INDEXES..ALL_INDEXES {
                shard.ids[select] = NO_KEYSPACE;
                if let Some(index) = shard.put_index(select as u8, None) {
                    self.graveyard.push(index);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::{OwnedRequest, Reply, Version};

    use super::*;
    use crate::commands;
    use crate::commands::testing::Bench;

    fn import(bench: &mut Bench, words: &[&str]) -> String {
        let args: Vec<&[u8]> = ["DORMOUSE", "IMPORT"].iter().chain(words).map(|word| word.as_bytes()).collect();
        let request = OwnedRequest::from_args(&args);
        let mut reply = Reply::new(Version::Resp2);
        let mut db = bench.keyspace();
        db.begin(false, true);
        match commands::staging::IMPORT(&mut db, &mut reply, request.as_request()) {
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
        assert_eq!(bench.contents.ids[..INDEXES], before[INDEXES..]);
        assert!(bench.contents.ids[INDEXES..].iter().all(|id| *id == NO_KEYSPACE));
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
            // Whoever only reads does not see it, and it stays all the same.
            assert_eq!(
                (bench.run(&format!("EXISTS {key}")), bench.run(&format!("PTTL {key}"))),
                ("0".into(), "-2".into())
            );
        }
        assert_eq!((bench.run("GET s"), bench.run("LRANGE l 0 -1")), ("nil".into(), "[]".into()));
        assert_eq!((bench.run("KEYS *"), bench.run("DBSIZE")), ("[]".into(), "6".into()));
        assert_eq!(bench.contents.expire(&bench.shared, bench.now_ms, 100).0, 0);
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
        assert!(bench.contents.expire(&bench.shared, bench.now_ms, 100).0 >= 5);
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
        settings.eviction = crate::keyspace::Eviction::AllKeysLru;
        bench.shared.settings.store(settings.into());
        assert_eq!(bench.keyspace().make_room(0), Err(crate::error::Error::OutOfMemory));
        import(&mut bench, &["END"]);
        let _ = bench.keyspace().make_room(0);
        assert_eq!(bench.run("DBSIZE"), "0");
    }

    #[test]
    fn replay_expires_nothing_either() {
        let mut bench = following();
        bench.shared.journal.record(true);
        let past = (bench.now_ms - 1).to_string();
        for line in
            [&format!("SET k 5 PXAT {past}"), "INCR k", "RPUSH l a", &format!("PEXPIREAT l {past}"), "RPUSH l b"]
        {
            bench.run(line);
        }
        import(&mut bench, &["END"]);
        bench.run("RPUSH l c");
        let effects = std::mem::take(&mut *bench.shared.journal.kept.lock());
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
