//! The rate of requests that the databases of one owner share.
//!
//! Requests are limited by a token bucket. Its state is one number, the moment at which it will be full again (*generic cell
//! rate algorithm*), which the workers change by compare-and-swap.
//!
//! A database and its branches use the same bucket, or a tenant would multiply its rate by making branches. A branch for which
//! the operator has set a rate has a bucket of its own. A bucket is kept until it is full, even if none of its databases is in
//! memory: a tenant gains nothing by letting them leave it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

const SECOND_NS: u64 = 1_000_000_000;

/// The rate of the databases that share it.
#[derive(Debug, Default)]
pub struct SharedRate {
    bucket: TokenBucket,
    recent: RecentRequests,
    per_second: AtomicU32,
}

impl SharedRate {
    /// Sets the rate; 0: no limit. `burst`: requests that may come at once, at least one.
    pub fn limit(&self, per_second: u32, burst: u32) {
        self.bucket.limit(per_second, burst);
        self.per_second.store(per_second, Ordering::Relaxed);
    }

    /// Takes up to `wanted` tokens. Returns how many there were.
    pub fn take(&self, wanted: u64, now_us: u64) -> u64 {
        let taken = self.bucket.take(wanted, ns(now_us));
        self.recent.note(taken, now_us);
        taken
    }

    pub fn give_back(&self, tokens: u64) {
        self.bucket.give_back(tokens);
        self.recent.forget(tokens);
    }

    /// Notes a request for which there was no token.
    pub fn note_refused(&self, now_us: u64) {
        self.recent.note(1, now_us);
    }

    /// The rate, and about how many requests came in the last second.
    pub fn usage(&self, now_us: u64) -> (u32, u64) {
        (self.per_second.load(Ordering::Relaxed), self.recent.in_last_second(now_us))
    }

    /// Whole seconds after which there is a token again, at least one; `None`: there is one.
    pub fn retry_after_s(&self, now_us: u64) -> Option<u64> {
        self.bucket.wait_ns(ns(now_us)).map(|wait_ns| wait_ns.div_ceil(SECOND_NS).max(1))
    }
}

/// The rates in use, by the name of the database whose they are.
#[derive(Debug, Default)]
pub struct SharedRates {
    rates: Mutex<HashMap<Box<str>, Arc<SharedRate>>>,
}

impl SharedRates {
    /// Returns the rate of a database.
    pub fn of(&self, name: &str) -> Arc<SharedRate> {
        let mut rates = self.rates.lock();
        if let Some(rate) = rates.get(name) {
            return Arc::clone(rate);
        }
        Arc::clone(rates.entry(name.into()).or_default())
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.rates.lock().len()
    }

    /// Forgets the rates that no database in memory uses, once they are full again. To be called now and then.
    pub fn forget_unused(&self, now_us: u64) {
        self.rates.lock().retain(|_, rate| Arc::strong_count(rate) > 1 || !rate.bucket.is_full(ns(now_us)));
    }
}

fn ns(us: u64) -> u64 {
    us.saturating_mul(1000)
}

/// Subtracts, down to 0.
fn lessen(number: &AtomicU64, by: u64) {
    // It always has a result.
    let _ = number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |number| Some(number.saturating_sub(by)));
}

/// Tokens that come back at a constant rate, up to a burst.
///
/// Invariant: `full_ns`, the moment at which the bucket is full if nothing is taken, is never further away than the time of a
/// burst. A later one comes from a clock that was set back, or from a limit that was changed, and is corrected.
#[derive(Debug, Default)]
struct TokenBucket {
    full_ns: AtomicU64,
    /// Time in which a token comes back; 0: no limit.
    interval_ns: AtomicU64,
    burst: AtomicU64,
}

impl TokenBucket {
    /// Sets the rate. If that is another one, the bucket is full: every change of a tenant's settings comes here too.
    fn limit(&self, per_second: u32, burst: u32) {
        let interval_ns = SECOND_NS.checked_div(per_second.into()).unwrap_or(0);
        let burst_before = self.burst.swap(burst.into(), Ordering::Relaxed);
        let interval_before_ns = self.interval_ns.swap(interval_ns, Ordering::Relaxed);
        if (burst_before, interval_before_ns) != (burst.into(), interval_ns) {
            self.full_ns.store(0, Ordering::Relaxed);
        }
    }

    /// Takes up to `wanted` tokens. Returns how many there were.
    fn take(&self, wanted: u64, now_ns: u64) -> u64 {
        let (interval_ns, burst) = (self.interval_ns.load(Ordering::Relaxed), self.burst.load(Ordering::Relaxed));
        if interval_ns == 0 {
            return wanted;
        }
        let latest_ns = now_ns.saturating_add(interval_ns * burst);
        let mut before_ns = self.full_ns.load(Ordering::Relaxed);
        loop {
            let full_ns = before_ns.clamp(now_ns, latest_ns);
            let taken = wanted.min((latest_ns - full_ns) / interval_ns);
            if taken == 0 {
                if before_ns > latest_ns {
                    // It is as if the burst had been taken now. Another worker may have said so already.
                    let _ = self.full_ns.compare_exchange(before_ns, latest_ns, Ordering::Relaxed, Ordering::Relaxed);
                }
                return 0;
            }
            let after_ns = full_ns + taken * interval_ns;
            match self.full_ns.compare_exchange_weak(before_ns, after_ns, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return taken,
                Err(found_ns) => before_ns = found_ns,
            }
        }
    }

    fn is_full(&self, now_ns: u64) -> bool {
        self.full_ns.load(Ordering::Relaxed) <= now_ns || self.interval_ns.load(Ordering::Relaxed) == 0
    }

    fn give_back(&self, tokens: u64) {
        let given_ns = tokens.saturating_mul(self.interval_ns.load(Ordering::Relaxed));
        lessen(&self.full_ns, given_ns);
    }

    /// Time until there is a token; `None`: there is one.
    fn wait_ns(&self, now_ns: u64) -> Option<u64> {
        let (interval_ns, burst) = (self.interval_ns.load(Ordering::Relaxed), self.burst.load(Ordering::Relaxed));
        let latest_ns = now_ns.saturating_add(interval_ns * burst);
        let full_ns = self.full_ns.load(Ordering::Relaxed).clamp(now_ns, latest_ns);
        Some((full_ns + interval_ns).saturating_sub(latest_ns)).filter(|wait_ns| *wait_ns > 0)
    }
}

/// Requests of about the last second, for error texts. Workers may lose each other's counts where a second begins.
#[derive(Debug, Default)]
struct RecentRequests {
    second: AtomicU64,
    now: AtomicU64,
    before: AtomicU64,
}

impl RecentRequests {
    fn note(&self, requests: u64, now_us: u64) {
        self.advance(now_us);
        self.now.fetch_add(requests, Ordering::Relaxed);
    }

    /// Takes back what was noted just before.
    fn forget(&self, requests: u64) {
        lessen(&self.now, requests);
    }

    /// This second, and what is left of the one before within the last 1000 ms.
    fn in_last_second(&self, now_us: u64) -> u64 {
        self.advance(now_us);
        let left_us = 1_000_000 - now_us % 1_000_000;
        self.now.load(Ordering::Relaxed) + self.before.load(Ordering::Relaxed) * left_us / 1_000_000
    }

    fn advance(&self, now_us: u64) {
        let (second, last) = (now_us / 1_000_000, self.second.load(Ordering::Relaxed));
        if second != last && self.second.compare_exchange(last, second, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let counted = self.now.swap(0, Ordering::Relaxed);
            self.before.store(if second == last + 1 { counted } else { 0 }, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(per_second: u32, burst: u32) -> TokenBucket {
        let bucket = TokenBucket::default();
        bucket.limit(per_second, burst);
        bucket
    }

    #[test]
    fn a_burst_and_then_a_rate() {
        const START_NS: u64 = 1_700_000_000 * SECOND_NS;
        let bucket = bucket(10, 5);
        assert_eq!(bucket.take(3, START_NS), 3);
        assert_eq!(bucket.take(3, START_NS), 2);
        assert_eq!(bucket.take(3, START_NS), 0);
        assert_eq!(bucket.wait_ns(START_NS), Some(SECOND_NS / 10));
        let taken = |from_ms: u64, to_ms: u64| -> u64 {
            (from_ms..to_ms).map(|ms| bucket.take(1, START_NS + ms * 1_000_000)).sum()
        };
        assert_eq!(taken(0, 1000), 9);
        assert_eq!(taken(1000, 11_000), 100);
        // A long pause saves up a burst, no more.
        assert_eq!(bucket.wait_ns(START_NS + 3600 * SECOND_NS), None);
        assert_eq!(bucket.take(100, START_NS + 3600 * SECOND_NS), 5);
    }

    #[test]
    fn tokens_that_are_given_back_can_be_taken_again() {
        let bucket = bucket(1, 10);
        for _ in 0..100 {
            assert_eq!(bucket.take(10, SECOND_NS), 10);
            assert_eq!(bucket.take(1, SECOND_NS), 0);
            bucket.give_back(10);
        }
        assert_eq!(bucket.take(4, SECOND_NS), 4);
        bucket.give_back(1);
        assert_eq!(bucket.take(10, SECOND_NS), 7);
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nobody_up() {
        let bucket = bucket(10, 10);
        assert_eq!(bucket.take(10, 1000 * SECOND_NS), 10);
        assert_eq!(bucket.take(1, 10 * SECOND_NS), 0);
        assert_eq!(bucket.wait_ns(10 * SECOND_NS), Some(SECOND_NS / 10));
        assert_eq!(bucket.take(100, 11 * SECOND_NS), 10, "it is full at the end of a burst from then on");
    }

    #[test]
    fn a_limit_changes_at_once() {
        let bucket = bucket(1, 1);
        assert_eq!(bucket.take(5, SECOND_NS), 1);
        bucket.limit(1000, 100);
        assert_eq!(bucket.take(1000, 2 * SECOND_NS), 100);
        bucket.limit(0, 0);
        assert_eq!((bucket.take(1000, 2 * SECOND_NS), bucket.wait_ns(2 * SECOND_NS)), (1000, None));
        bucket.limit(1, 1);
        assert_eq!(bucket.take(5, 2 * SECOND_NS), 1);
        bucket.limit(1, 1);
        assert_eq!(bucket.take(5, 2 * SECOND_NS), 0, "what is set again fills nothing");
    }

    #[test]
    fn workers_share_a_bucket() {
        let bucket = bucket(1, 10_000);
        let taken: u64 = std::thread::scope(|scope| {
            let worker = || {
                let take = |turn: u64| {
                    let taken = bucket.take(1 + turn % 7, SECOND_NS);
                    bucket.give_back(taken / 2);
                    taken - taken / 2
                };
                (0..10_000).map(take).sum::<u64>()
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(taken, 10_000);
    }

    #[test]
    fn usage_is_that_of_the_last_second() {
        let recent = RecentRequests::default();
        recent.note(100, 5_000_000);
        assert_eq!(recent.in_last_second(5_900_000), 100);
        assert_eq!(recent.in_last_second(6_250_000), 75);
        recent.note(5, 6_500_000);
        assert_eq!(recent.in_last_second(6_500_000), 55);
        assert_eq!(recent.in_last_second(9_000_000), 0);
    }
}
