//! Habits: the requests that clients of a database repeat by the clock.
//!
//! The worker of a job queue that has nothing to do looks for jobs every few seconds, or writes a sign of life every few minutes. If
//! such a request were a use of the database, the database would stay awake for nobody. So:
//!
//! 1. Requests are told apart by their command, index, keys and number of words, and scripts also by their names. Their other
//!    words may be times.
//! 2. A request that comes as long after the last one like it as that one came after the one before is a *poll*. It does not matter
//!    whether the same connection has sent both; of several workers, each is known by its own connection. Requests alike that come
//!    together count as one: a worker may write to one key several times.
//! 3. A poll is no use: it does not put off the sleep of its database. If it wakes the database, only what it needs is loaded
//!    ([`Database::awake_briefly`](dormouse_shard::database::Database::awake_briefly)), and the keeper puts the database to sleep
//!    again within a second.
//! 4. What changes something is a poll only at long intervals, as every sleep after a change takes a checkpoint.
//!
//! A database that has been used within the last second is in use whatever comes next, so a busy database pays for a look at two
//! numbers. The first few requests after a use are remembered, as they often come together, but they do not prolong it: clients that
//! take turns at polling cannot keep a database awake.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dormouse_protocol::Request;
use dormouse_shard::commands::Row;
use parking_lot::Mutex;

/// Requests alike that come within this time belong together.
const TOGETHER_MS: u64 = 100;
/// Requests that come more often are no polls.
const APART_MS_MIN: u64 = 1_000;
/// The same for those that change something.
const CHANGES_APART_MS_MIN: u64 = 10_000;
/// The difference between two intervals that are taken for the same: one part in so many, and at least so much.
const JITTER_PARTS: u64 = 8;
const JITTER_MS_MIN: u64 = 500;
/// Requests that are remembered. A worker has a handful.
const KNOWN_MAX: usize = 512;
/// Requests after a use that are remembered.
pub const AFTER_USE: u32 = 16;

/// What is known of the requests of one database.
#[derive(Debug, Default)]
pub struct Habits {
    /// Unix milliseconds of the last use that was looked at.
    used_ms: AtomicU64,
    /// Requests that are still remembered after it.
    left: AtomicU32,
    /// The same of the last poll.
    polled_ms: AtomicU64,
    known: Mutex<HashMap<u64, Known>>,
}

/// When a request was seen last, and how long after the time before; 0: it was seen once.
#[derive(Debug, Clone, Copy)]
struct Known {
    last_ms: u64,
    apart_ms: u64,
    is_repeated: bool,
}

/// A request that is repeated by the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Habit {
    apart_ms: u64,
}

impl Habit {
    /// Whether it is a poll even if it changes something.
    pub fn may_change(self) -> bool {
        self.apart_ms >= CHANGES_APART_MS_MIN
    }
}

impl Habits {
    /// Whether the database was used within the last second.
    pub fn is_in_use(&self, now_ms: u64) -> bool {
        // The clock may have been set back.
        now_ms.abs_diff(self.used_ms.load(Ordering::Relaxed)) < APART_MS_MIN
    }

    /// Whether nothing more is to be known of the requests that come now.
    pub fn is_busy(&self, now_ms: u64) -> bool {
        self.is_in_use(now_ms) && self.left.load(Ordering::Relaxed) == 0
    }

    /// Notes a use that is known to be one. A use that is only taken for one, because the database is in use, is none.
    pub fn note_use(&self, now_ms: u64) {
        if !self.is_in_use(now_ms) {
            self.used_ms.store(now_ms, Ordering::Relaxed);
            self.left.store(AFTER_USE, Ordering::Relaxed);
        }
    }

    /// Whether no poll has come for `quiet_ms`.
    pub fn is_quiet(&self, now_ms: u64, quiet_ms: u64) -> bool {
        now_ms.abs_diff(self.polled_ms.load(Ordering::Relaxed)) >= quiet_ms
    }

    /// Notes a look at the database that is no use.
    pub fn note_look(&self, now_ms: u64) {
        self.polled_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Remembers a request of `client`, and finds out whether it is a poll.
    ///
    /// Several threads may remember a few more than are left, which is as well.
    pub fn poll(&self, row: &Row, request: Request<'_>, select: u8, client: u64, now_ms: u64) -> Option<Habit> {
        let of_any = signature(row, request, select);
        let of_client = {
            let mut hasher = DefaultHasher::new();
            (of_any, client).hash(&mut hasher);
            hasher.finish()
        };
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        let mut known = self.known.lock();
        let polls = [of_any, of_client].map(|name| repeat(&mut known, name, now_ms));
        let apart_ms = polls.into_iter().flatten().max()?;
        self.note_look(now_ms);
        Some(Habit { apart_ms })
    }
}

/// Notes a request. Returns the interval at which it is repeated, if it is.
fn repeat(known: &mut HashMap<u64, Known>, name: u64, now_ms: u64) -> Option<u64> {
    if let Some(known) = known.get_mut(&name) {
        let apart_ms = now_ms.saturating_sub(known.last_ms);
        if apart_ms >= TOGETHER_MS {
            let was_ms = known.apart_ms;
            let is_same = apart_ms.abs_diff(was_ms) <= (was_ms / JITTER_PARTS).max(JITTER_MS_MIN);
            *known = Known { last_ms: now_ms, apart_ms, is_repeated: is_same && apart_ms.min(was_ms) >= APART_MS_MIN };
        }
        return known.is_repeated.then_some(known.apart_ms);
    }
    if known.len() >= KNOWN_MAX
        && let Some(oldest) = known.iter().min_by_key(|(_, known)| known.last_ms).map(|(name, _)| *name)
    {
        known.remove(&oldest);
    }
    known.insert(name, Known { last_ms: now_ms, apart_ms: 0, is_repeated: false });
    None
}

/// What requests have in common that differ by times and values only.
fn signature(row: &Row, request: Request<'_>, select: u8) -> u64 {
    let mut hasher = DefaultHasher::new();
    (std::ptr::from_ref(row), select, request.len()).hash(&mut hasher);
    let mut keys = row.key_indexes(request).peekable();
    // The name of a script is in front of its keys.
    if keys.peek() != Some(&1)
        && let Some(word) = request.get(1)
    {
        word.hash(&mut hasher);
    }
    keys.for_each(|key| request.arg(key).hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::OwnedRequest;

    use super::*;
    use crate::commands::TABLE;

    /// A database's habits, and the time.
    struct Clock(Habits, u64);

    impl Clock {
        fn new() -> Self {
            Self(Habits::default(), 1_000_000)
        }

        /// Whether a client's line is a poll `after_ms` later than the last line of any.
        fn is_poll(&mut self, after_ms: u64, client: u64, line: &str) -> bool {
            self.poll(after_ms, client, line).is_some()
        }

        fn poll(&mut self, after_ms: u64, client: u64, line: &str) -> Option<Habit> {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let request = OwnedRequest::from_args(&args);
            let entry = TABLE.resolve(request.as_request()).expect("a command");
            self.1 += after_ms;
            self.0.poll(entry.row, request.as_request(), 0, client, self.1)
        }
    }

    #[test]
    fn what_is_repeated_by_the_clock_is_a_poll_whatever_its_times() {
        let mut clock = Clock::new();
        let line = |now: u64| format!("EVALSHA abc 2 bull:wait bull:active {now}");
        assert!(!clock.is_poll(0, 1, &line(0)), "it was never seen");
        assert!(!clock.is_poll(5_000, 1, &line(5)), "once is no habit");
        assert!(clock.is_poll(5_020, 1, &line(10)));
        assert!(clock.is_poll(4_700, 1, &line(15)));
        assert!(!clock.is_poll(2_000, 1, &line(17)), "it came too early");
        assert!(!clock.is_poll(5_000, 1, &line(22)));
        assert!(clock.is_poll(5_000, 1, &line(27)));
        assert!(!clock.is_poll(0, 1, "EVALSHA abd 2 bull:wait bull:active 27"), "another script");
        assert!(!clock.is_poll(0, 1, "EVALSHA abc 2 bull:wait bull:done 27"), "another key");
    }

    #[test]
    fn frequent_requests_are_a_use() {
        for apart_ms in [1, 40, 99, 100, 600, 900] {
            let mut clock = Clock::new();
            for _ in 0..50 {
                assert!(!clock.is_poll(apart_ms, 1, "GET a"), "{apart_ms} ms apart");
            }
        }
    }

    #[test]
    fn requests_alike_that_come_together_count_as_one() {
        let mut clock = Clock::new();
        for round in 0..5 {
            for line in ["HSET worker state idle", "HSET worker seen 1", "EXPIRE worker 480", "HSET worker seen 2"] {
                let after_ms = if line.ends_with("idle") { 405_000 } else { 1 };
                assert_eq!(clock.is_poll(after_ms, 1, line), round >= 2, "{round} {line}");
            }
        }
    }

    #[test]
    fn each_of_several_workers_has_its_own_rhythm() {
        let mut clock = Clock::new();
        for round in 0..5 {
            for (after_ms, client) in [(100, 1), (0, 2), (7_000, 3), (52_900, 4)] {
                assert_eq!(clock.is_poll(after_ms, client, "EVALSHA abc 1 deadlines"), round >= 2, "{round} {client}");
            }
        }
        // A pool may send it over any connection.
        let mut clock = Clock::new();
        let polls = (0..5).filter(|round| clock.is_poll(60_000, 10 + round, "EVALSHA abc 1 deadlines")).count();
        assert_eq!(polls, 3);
    }

    #[test]
    fn only_rare_polls_may_change_something() {
        let mut clock = Clock::new();
        let polls = [5_000, 30_000].map(|apart_ms| (0..3).filter_map(|_| clock.poll(apart_ms, 1, "INCR a")).last());
        assert_eq!(polls.map(|poll| poll.map(Habit::may_change)), [Some(false), Some(true)]);
    }

    #[test]
    fn many_requests_take_a_bounded_room() {
        let mut clock = Clock::new();
        for key in 0..2 * KNOWN_MAX {
            clock.is_poll(1, 1, &format!("GET {key}"));
        }
        assert_eq!(clock.0.known.lock().len(), KNOWN_MAX);
    }

    #[test]
    fn a_used_database_is_in_use_for_a_second() {
        let habits = Habits::default();
        habits.note_use(10_000);
        habits.note_use(10_400);
        assert_eq!([9_500, 10_999, 11_000, 3_000].map(|now| habits.is_in_use(now)), [true, true, false, false]);
    }
}
