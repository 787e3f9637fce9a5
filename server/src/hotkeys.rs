//! `HOTKEYS`: the keys of one database that take most of its time, or of its bytes on the network.
//!
//! 1. A measurement is begun for a time, or until it is stopped. Otherwise a batch looks at one flag, and a command at none.
//! 2. While one runs, each command with keys is added to the sums; one in so many, as the client asked, is also added to the lists
//!    of its keys ([`TopKeys`]).
//! 3. A list follows ten times as many keys as are asked for, and so few that it is bounded.
//!
//! A measurement is its database's: nothing of another one can be seen. The time is that of the database's commands, not of the
//! process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dormouse_protocol::Request;
use dormouse_shard::commands::Row;
use dormouse_shard::execution::route::slot_of;
use parking_lot::{Mutex, MutexGuard};

/// Most keys that a client may ask for.
pub const COUNT_MAX: usize = 64;
/// Keys that a list follows for each that is asked for.
const FOLLOWED_EACH: usize = 10;
/// A longer key is in the sums alone.
const KEY_BYTES_MAX: usize = 4096;
/// Of a command with more keys, so many are looked at, evenly spread: a list takes about a microsecond for each.
const KEYS_EACH_MAX: usize = 1000;

/// The request of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HotKeysRequest {
    pub times: bool,
    pub bytes: bool,
    pub count: usize,
    pub duration_ms: Option<u64>,
    /// One command in so many is looked at.
    pub sample: u64,
    /// The slots that are looked at, ascending; none: all.
    pub slots: Vec<u16>,
}

/// The measurement of a database, if it has one.
#[derive(Debug, Default)]
pub struct HotKeys {
    is_on: AtomicBool,
    /// Whether it needs the time of each command.
    is_timed: AtomicBool,
    measurement: Mutex<Option<Measurement>>,
}

/// A measurement and its results so far.
#[derive(Debug)]
pub struct Measurement {
    pub asked: HotKeysRequest,
    pub began_ms: u64,
    /// When it ended, if it has.
    pub ended_ms: Option<u64>,
    /// Processor time of the database's commands, in microseconds, when it began.
    pub cpu_us_before: u128,
    pub all: Sums,
    /// Of the chosen slots.
    pub selected: Sums,
    /// Of the commands that were looked at, in the chosen slots.
    pub sampled: Sums,
    pub by_time: TopKeys,
    pub by_bytes: TopKeys,
}

/// The sums over all commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub nanoseconds: u64,
    pub bytes: u64,
}

impl Sums {
    fn add(&mut self, took: Duration, bytes: u64) {
        self.nanoseconds += took.as_nanos() as u64;
        self.bytes += bytes;
    }
}

impl HotKeys {
    /// Whether a measurement may be running.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Whether one needs the time of each command.
    #[inline]
    pub fn is_timed(&self) -> bool {
        self.is_timed.load(Ordering::Relaxed)
    }

    /// Begins a measurement, whose predecessor is forgotten. False: one runs already.
    pub fn begin(&self, asked: HotKeysRequest, now_ms: u64, cpu_us: u128) -> bool {
        let mut measurement = self.at(now_ms);
        if measurement.as_ref().is_some_and(|running| running.ended_ms.is_none()) {
            return false;
        }
        let followed = asked.count * FOLLOWED_EACH;
        self.is_timed.store(asked.times, Ordering::Relaxed);
        self.is_on.store(true, Ordering::Relaxed);
        *measurement = Some(Measurement {
            by_time: TopKeys::new(if asked.times { followed } else { 0 }),
            by_bytes: TopKeys::new(if asked.bytes { followed } else { 0 }),
            asked,
            began_ms: now_ms,
            ended_ms: None,
            cpu_us_before: cpu_us,
            all: Sums::default(),
            selected: Sums::default(),
            sampled: Sums::default(),
        });
        true
    }

    /// Ends the measurement that runs. False: none does.
    pub fn end(&self, now_ms: u64) -> bool {
        let mut measurement = self.at(now_ms);
        match &mut *measurement {
            Some(running) if running.ended_ms.is_none() => {
                running.ended_ms = Some(now_ms);
                self.switch_off();
                true
            }
            _ => false,
        }
    }

    /// Forgets the results. False: the measurement runs.
    pub fn forget(&self, now_ms: u64) -> bool {
        let mut measurement = self.at(now_ms);
        let is_running = measurement.as_ref().is_some_and(|running| running.ended_ms.is_none());
        if !is_running {
            *measurement = None;
        }
        !is_running
    }

    /// The measurement by now, which may have ended by itself.
    pub fn at(&self, now_ms: u64) -> MutexGuard<'_, Option<Measurement>> {
        let mut measurement = self.measurement.lock();
        if let Some(running) = &mut *measurement
            && running.ended_ms.is_none()
            && let Some(duration_ms) = running.asked.duration_ms
            && now_ms >= running.began_ms.saturating_add(duration_ms)
        {
            running.ended_ms = Some(running.began_ms + duration_ms);
            self.switch_off();
        }
        measurement
    }

    fn switch_off(&self) {
        self.is_on.store(false, Ordering::Relaxed);
        self.is_timed.store(false, Ordering::Relaxed);
    }

    /// Counts a command that has run: how long it took, and the bytes of its request and its reply. `chance`: uniform.
    #[cold]
    pub fn note(&self, row: &Row, request: Request<'_>, took: Duration, bytes: usize, (now_ms, chance): (u64, u64)) {
        if !row.has_keys() {
            return;
        }
        let step = row.key_indexes(request).count().div_ceil(KEYS_EACH_MAX);
        let Some(first) = row.key_indexes(request).next().and_then(|at| request.get(at)) else { return };
        let mut measurement = self.at(now_ms);
        let Some(running) = measurement.as_mut().filter(|running| running.ended_ms.is_none()) else { return };
        let bytes = bytes as u64;
        running.all.add(took, bytes);
        if !running.asked.slots.is_empty() && running.asked.slots.binary_search(&slot_of(first)).is_err() {
            return;
        }
        running.selected.add(took, bytes);
        if !chance.is_multiple_of(running.asked.sample.max(1)) {
            return;
        }
        running.sampled.add(took, bytes);
        let keys = || row.key_indexes(request).step_by(step.max(1));
        let count = keys().count() as u64;
        let (each_ns, each_bytes) = (took.as_nanos() as u64 / count, bytes / count);
        for key in keys().filter_map(|at| request.get(at)) {
            running.by_time.add(key, each_ns);
            running.by_bytes.add(key, each_bytes);
        }
    }
}

/// The bytes that a request takes on the network.
pub fn bytes_sent(request: Request<'_>) -> usize {
    let digits = |number: usize| number.checked_ilog10().unwrap_or(0) as usize + 1;
    // `*2\r\n`, and `$3\r\nGET\r\n` for each word.
    3 + digits(request.len()) + request.iter().map(|word| 5 + digits(word.len()) + word.len()).sum::<usize>()
}

/// The keys with the most of something, about: the space-saving algorithm of Metwally, Agrawal and El Abbadi (2005).
///
/// A list that is full gives the place of the key with the least to a new one, which takes over what that had: its *error*. So a
/// key's share is between its amount without the error and with it, and no key with more than the least is missing. Shown is
/// the lower bound, so that no key looks hotter than it was.
#[derive(Debug, Default)]
pub struct TopKeys {
    places: usize,
    keys: BTreeMap<Box<[u8]>, Share>,
    /// The keys by amount, the least first.
    by_amount: std::collections::BTreeSet<(u64, Box<[u8]>)>,
    pub total: u64,
}

#[derive(Debug, Clone, Copy)]
struct Share {
    amount: u64,
    error: u64,
}

impl TopKeys {
    fn new(places: usize) -> Self {
        Self { places, ..Self::default() }
    }

    fn add(&mut self, key: &[u8], amount: u64) {
        if self.places == 0 {
            return;
        }
        self.total += amount;
        if amount == 0 || key.len() > KEY_BYTES_MAX {
            return;
        }
        let mut share = Share { amount: 0, error: 0 };
        if let Some(found) = self.keys.get_mut(key) {
            let place: (u64, Box<[u8]>) = (found.amount, key.into());
            self.by_amount.remove(&place);
            found.amount += amount;
            self.by_amount.insert((found.amount, place.1));
            return;
        }
        if self.keys.len() >= self.places
            && let Some((least, of)) = self.by_amount.pop_first()
        {
            self.keys.remove(&of);
            share = Share { amount: least, error: least };
        }
        share.amount += amount;
        self.by_amount.insert((share.amount, key.into()));
        self.keys.insert(key.into(), share);
    }

    /// The `count` keys with the most, and how much each has had at least.
    pub fn most(&self, count: usize) -> Vec<(&[u8], u64)> {
        let mut all: Vec<_> = self.keys.iter().map(|(key, share)| (&**key, share.amount - share.error)).collect();
        all.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
        all.retain(|(_, amount)| *amount > 0);
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::OwnedRequest;

    use super::*;
    use crate::commands::TABLE;

    fn asked(count: usize) -> HotKeysRequest {
        HotKeysRequest { times: true, bytes: true, count, duration_ms: None, sample: 1, slots: Vec::new() }
    }

    fn note(hot: &HotKeys, line: &str, micros: u64, bytes: usize, at: (u64, u64)) {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let row = TABLE.by_name(words[0]).unwrap().row;
        hot.note(row, OwnedRequest::from_args(&words).as_request(), Duration::from_micros(micros), bytes, at);
    }

    fn most(keys: &TopKeys, count: usize) -> Vec<(String, u64)> {
        keys.most(count).iter().map(|(key, amount)| (String::from_utf8_lossy(key).into(), *amount)).collect()
    }

    #[test]
    fn the_keys_of_a_command_share_what_it_takes() {
        let hot = HotKeys::default();
        assert!(hot.begin(asked(2), 1000, 0) && hot.is_on() && hot.is_timed());
        assert!(!hot.begin(asked(2), 1000, 0), "one runs");
        note(&hot, "SET a 1", 100, 30, (1001, 1));
        note(&hot, "MGET a b c d", 40, 40, (1002, 1));
        note(&hot, "PING", 1000, 1000, (1003, 1));
        note(&hot, "SCAN 0", 1000, 1000, (1003, 1));
        assert!(!hot.forget(1004));
        assert!(hot.end(1005) && !hot.end(1006) && !hot.is_on());
        note(&hot, "SET a 1", 100, 30, (1006, 1));
        let found = hot.at(1007);
        let found = found.as_ref().unwrap();
        assert_eq!(found.all, Sums { nanoseconds: 140_000, bytes: 70 });
        assert_eq!((found.all, found.all), (found.selected, found.sampled));
        assert_eq!(most(&found.by_time, 2), [("a".to_string(), 110_000), ("b".to_string(), 10_000)]);
        assert_eq!(most(&found.by_bytes, 2), [("a".to_string(), 40), ("b".to_string(), 10)]);
        assert_eq!((found.by_bytes.total, found.ended_ms), (70, Some(1005)));
    }

    #[test]
    fn of_many_keys_in_a_command_some_are_looked_at() {
        let hot = HotKeys::default();
        assert!(hot.begin(asked(COUNT_MAX), 1000, 0));
        let keys: String = (0..3500).map(|n| format!(" k{n}")).collect();
        note(&hot, &format!("MGET{keys}"), 100, 35_000, (1001, 1));
        let found = hot.at(1002);
        let found = found.as_ref().unwrap();
        // Every fourth.
        assert_eq!((found.all.bytes, found.by_bytes.total), (35_000, 875 * 40));
        assert!(found.by_bytes.keys.contains_key(&b"k3496"[..]) && !found.by_bytes.keys.contains_key(&b"k3497"[..]));
    }

    #[test]
    fn a_request_takes_more_than_its_words() {
        let words: [&[u8]; 3] = [b"SET", b"", b"0123456789"];
        let sent = b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$10\r\n0123456789\r\n";
        assert_eq!(bytes_sent(OwnedRequest::from_args(&words).as_request()), sent.len());
    }

    #[test]
    fn a_measurement_ends_by_itself_and_looks_at_some() {
        let hot = HotKeys::default();
        let slot = slot_of(b"a");
        let asked = HotKeysRequest { duration_ms: Some(5000), sample: 3, slots: vec![slot], ..asked(1) };
        assert!(hot.begin(asked, 1000, 0));
        for chance in 0..9 {
            note(&hot, "SET a 1", 1, 10, (2000, chance));
        }
        note(&hot, "SET b 1", 1, 10, (5999, 0));
        note(&hot, "SET a 1", 1, 10, (6000, 0));
        assert!(!hot.is_on() && !hot.is_timed());
        let found = hot.at(9000);
        let found = found.as_ref().unwrap();
        assert_eq!((found.all.bytes, found.selected.bytes, found.sampled.bytes), (100, 90, 30));
        assert_eq!(found.ended_ms, Some(6000));
        assert_eq!(most(&found.by_bytes, 5), [("a".to_string(), 30)]);
    }

    /// Whatever comes, a list is bounded, and a key with a large part of all is in it with about that.
    #[test]
    fn hot_keys_are_found_among_many_others() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut keys = TopKeys::new(100);
        let (mut hot, mut warm) = (0, 0);
        for n in 0..200_000u64 {
            match random.u64(..10) {
                0 => {
                    keys.add(b"hot", 7);
                    hot += 7;
                }
                1 if n % 2 == 0 => {
                    keys.add(b"warm", 7);
                    warm += 7;
                }
                _ => keys.add(format!("cold:{}", random.u64(..50_000)).as_bytes(), random.u64(1..5)),
            }
        }
        assert!(keys.keys.len() <= 100 && keys.by_amount.len() == keys.keys.len());
        let found = keys.most(2);
        assert_eq!((found[0].0, found[1].0), (&b"hot"[..], &b"warm"[..]));
        assert!(found[0].1 <= hot && found[0].1 > hot / 10 * 9, "{} of {hot}", found[0].1);
        assert!(found[1].1 <= warm && found[1].1 > warm / 10 * 9, "{} of {warm}", found[1].1);
        let before = keys.keys.len();
        keys.add(&[b'x'; KEY_BYTES_MAX + 1], 1 << 40);
        assert_eq!(keys.keys.len(), before, "a long key is left out");
    }
}
