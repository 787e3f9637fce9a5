//! The operator's limits on the requests to a database, as its connections meet them.
//!
//! Requests are limited by the tokens of a [`SharedRate`]:
//!
//! 1. A batch takes tokens for the requests that its input seems to have, in one step.
//! 2. Each request uses one. When none is left, the batch takes more; when there are none, the request is refused before
//!    anything is looked up.
//! 3. The batch gives back what it has not used.
//!
//! A database without a limit costs a batch one load. So workers meet at the rate only for a database that is limited, and then
//! once or twice a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::shared_rate::SharedRate;
use crate::options::RequestLimitSettings;

/// Most tokens that are taken at once.
const TAKEN_AT_ONCE: usize = 64;
/// Bytes of input that are looked at to see how many requests it has.
const LOOKED_AT: usize = 4 << 10;

/// The beginning of the error of a request that is over the rate.
const OVER_RATE: &str = "ERR max requests limit exceeded.";
/// The error of a request that is too large.
pub const TOO_LARGE: &str = "ERR max request size exceeded";

/// Whether an error says that a request was over the rate.
pub fn is_over_rate(error: &[u8]) -> bool {
    error.starts_with(OVER_RATE.as_bytes())
}

/// The limits of one database in force.
#[derive(Debug, Default)]
pub struct Traffic {
    rate: ArcSwap<SharedRate>,
    /// As the settings of this database have it; 0: no limit.
    per_second: AtomicU32,
    burst: AtomicU32,
    /// 0: no limit.
    request_bytes_max: AtomicUsize,
    /// Requests that were refused because of a limit, since the start.
    refused: AtomicU64,
}

impl Traffic {
    /// Puts other limits into force, for open connections too.
    pub fn limit(&self, limits: &RequestLimitSettings) {
        let bytes = usize::try_from(limits.request_bytes).unwrap_or(usize::MAX);
        self.request_bytes_max.store(bytes, Ordering::Relaxed);
        let burst = if limits.burst == 0 { limits.per_second } else { limits.burst };
        self.burst.store(burst, Ordering::Relaxed);
        self.per_second.store(limits.per_second, Ordering::Relaxed);
        self.set_rate();
    }

    /// Uses another bucket from now on: see [`Self::set_rate`].
    pub fn share(&self, rate: Arc<SharedRate>) {
        self.rate.store(rate);
    }

    /// Sets the rate of the bucket as the settings of this database have it.
    pub fn set_rate(&self) {
        self.rate.load().limit(self.per_second.load(Ordering::Relaxed), self.burst.load(Ordering::Relaxed));
    }

    #[inline]
    pub fn is_rated(&self) -> bool {
        self.per_second.load(Ordering::Relaxed) > 0
    }

    /// Most bytes of a request.
    #[inline]
    pub fn request_bytes_max(&self) -> usize {
        match self.request_bytes_max.load(Ordering::Relaxed) {
            0 => usize::MAX,
            bytes => bytes,
        }
    }

    /// Takes tokens for the requests in `input`. Returns how many there were.
    pub fn take(&self, input: &[u8], now_us: u64) -> u64 {
        let looked_at = &input[..input.len().min(LOOKED_AT)];
        // Values may have stars too, and requests none.
        let requests = memchr::memchr_iter(b'*', looked_at).count().clamp(1, TAKEN_AT_ONCE);
        self.rate.load().take(requests as u64, now_us)
    }

    pub fn give_back(&self, tokens: u64) {
        if tokens > 0 {
            self.rate.load().give_back(tokens);
        }
    }

    /// The error of a request over the rate, which it counts.
    pub fn refuse(&self, now_us: u64) -> String {
        self.note_refused();
        let rate = self.rate.load();
        rate.note_refused(now_us);
        let (limit, usage) = rate.usage(now_us);
        format!("{OVER_RATE} Limit: {limit}, Usage: {usage}")
    }

    /// Counts a request that was refused because of a limit.
    pub fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whole seconds after which there is a token again, at least one; `None`: there is one.
    pub fn retry_after_s(&self, now_us: u64) -> Option<u64> {
        self.rate.load().retry_after_s(now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared_rate::SharedRates;
    use super::*;

    #[test]
    fn input_tells_how_many_tokens_are_taken() {
        let traffic = Traffic::default();
        traffic.limit(&RequestLimitSettings { per_second: 1, burst: 100, ..Default::default() });
        assert_eq!(traffic.take(b"*1\r\n$4\r\nPING\r\n", 1_000_000), 1);
        assert_eq!(traffic.take(&b"*1\r\n$4\r\nPING\r\n".repeat(16), 1_000_000), 16);
        assert_eq!(traffic.take(b"PING\r\n", 1_000_000), 1);
        assert_eq!(traffic.take(&[b'*'; 10_000], 1_000_000), 64);
        assert_eq!(traffic.take(&[b'*'; 10_000], 1_000_000), 18);
        assert_eq!(traffic.retry_after_s(1_000_000), Some(1));
        let text = "ERR max requests limit exceeded. Limit: 1, Usage: 101";
        assert_eq!((traffic.refuse(1_000_000).as_str(), traffic.refused()), (text, 1));
        traffic.give_back(51);
        assert_eq!((traffic.retry_after_s(1_000_000), traffic.rate.load().usage(1_000_000).1), (None, 50));
        assert!(is_over_rate(text.as_bytes()));
    }

    #[test]
    fn databases_share_a_rate() {
        let (rates, limits) = (SharedRates::default(), RequestLimitSettings { per_second: 1, ..Default::default() });
        let open = |name: &str| {
            let traffic = Traffic::default();
            traffic.limit(&limits);
            traffic.share(rates.of(name));
            traffic.set_rate();
            traffic
        };
        let (shop, branch, other) = (open("shop"), open("shop"), open("other"));
        let now_us = 1_000_000;
        assert_eq!((shop.take(b"PING", now_us), branch.take(b"PING", now_us)), (1, 0));
        assert_eq!(other.take(b"PING", now_us), 1);
        drop((shop, branch));
        rates.forget_unused(now_us);
        assert_eq!(open("shop").take(b"PING", now_us), 0, "leaving memory gives it no tokens");
        rates.forget_unused(2 * now_us);
        assert_eq!(rates.len(), 1, "that of `other` is in use");
        assert_eq!(open("shop").take(b"PING", 2 * now_us), 1);
    }
}
