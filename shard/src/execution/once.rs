//! Requests that are run at most once: `ONCE key ttl-ms COMMAND ...`, and plans that make the same promise.
//!
//! 1. Under the locks, look for the [receipt](crate::keyspace::receipts) under the key. One with the request's fingerprint is
//!    its answer; one with another fingerprint refuses it.
//! 2. Without a receipt, the request is admitted, with the memory of a receipt on top, and runs. It may not wait, as in a
//!    transaction.
//! 3. Its reply becomes the receipt, in the same entry of the log as its effects. An error becomes a receipt, too, unless it says
//!    that nothing was run: then the request can be sent again.
//!
//! So duplicates that come at the same time run one after the other, and all but the first find a receipt. Where replies wait for
//! the log, a repeated reply waits for the entry of the first.
//!
//! The fingerprint covers the logical index, every argument, and the name of the user: another user's key is of no use.
//! [`recall`](super::recall) has the steps.

use std::hash::Hasher as _;
use std::sync::OnceLock;

use dormouse_protocol::{Request, pace};
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use smallvec::SmallVec;

use crate::commands::args;
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

/// The words in front of the command: `ONCE`, the key and the time to live.
pub const WORDS: usize = 3;
/// Which of them is the key.
pub const KEY: usize = 1;

/// The longest time to live of a receipt: seven days.
pub const TTL_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// The longest key of a receipt.
pub const KEY_BYTES_MAX: usize = 512;

/// The cost of a receipt beyond that of its request, in elements looked at.
pub(super) const COST: usize = 8;

/// About the bytes of a receipt with a short reply.
pub(super) const RECEIPT_BYTES: usize = 128;

/// Bytes that are hashed at once.
const HASHED_AT_ONCE: usize = 256 << 10;

/// The key of a request, and the time for which it is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a> {
    pub key: &'a [u8],
    pub ttl_ms: u64,
}

impl<'a> Words<'a> {
    fn new(key: &'a [u8], ttl_ms: u64) -> Result<Self> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Error::OnceKey);
        }
        match ttl_ms {
            1..=TTL_MS_MAX => Ok(Self { key, ttl_ms }),
            _ => Err(Error::InvalidExpire("once")),
        }
    }

    pub fn parse(request: Request<'a>) -> Result<Self> {
        let ttl_ms = args::integer(request.arg(KEY + 1))?;
        Self::new(request.arg(KEY), u64::try_from(ttl_ms).unwrap_or(0))
    }
}

/// The promise of a plan to run at most once.
#[derive(Debug, Clone)]
pub struct Once {
    key: Box<[u8]>,
    ttl_ms: u64,
    user: Box<[u8]>,
    fingerprint: OnceLock<u128>,
}

impl Once {
    /// `ttl_ms`: for how long repetitions are recognised. `user`: the name of the user who asks.
    ///
    /// # Errors
    /// When the key has no bytes or too many, or the time is zero or too long.
    pub fn new(key: &[u8], ttl_ms: u64, user: &[u8]) -> Result<Self> {
        let Words { key, ttl_ms } = Words::new(key, ttl_ms)?;
        Ok(Self { key: key.into(), ttl_ms, user: user.into(), fingerprint: OnceLock::new() })
    }

    /// The promise of a request that begins with `ONCE key ttl-ms`.
    ///
    /// # Errors
    /// As [`Self::new`], or when the time is no number.
    pub fn parse(request: Request<'_>, user: &[u8]) -> Result<Self> {
        let Words { key, ttl_ms } = Words::parse(request)?;
        Self::new(key, ttl_ms, user)
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// About how many bytes its receipt takes.
    pub(super) fn bytes(&self) -> usize {
        self.key.len() + RECEIPT_BYTES
    }

    pub(super) fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }

    /// The fingerprint of its requests, each with its logical index.
    pub(super) fn fingerprint<'r>(&self, db: &Keyspace<'_>, requests: impl Iterator<Item = (u8, Request<'r>)>) -> u128 {
        *self.fingerprint.get_or_init(|| fingerprint(db, &self.user, requests))
    }
}

/// A keyed hash of what is asked for, and by whom. It is the same in every process that serves the database and its branches.
pub(super) fn fingerprint<'r>(
    db: &Keyspace<'_>,
    user: &[u8],
    requests: impl Iterator<Item = (u8, Request<'r>)>,
) -> u128 {
    let mut print = Print::new(db.shared().placement.seed);
    print.add(user);
    for (select, request) in requests {
        print.add_number(select.into());
        print.add_number(request.len() as u64);
        request.iter().for_each(|word| print.add(word));
    }
    print.finish()
}

/// Gathers short words, so that most requests are hashed in one piece.
struct Print {
    hasher: SipHasher13,
    gathered: SmallVec<[u8; GATHERED_BYTES]>,
}

const GATHERED_BYTES: usize = 256;
const NUMBER_BYTES: usize = 8;

impl Print {
    fn new(seed: u64) -> Self {
        // The second half of the key tells these hashes from others of the same seed.
        Self { hasher: SipHasher13::new_with_keys(seed, u64::from_le_bytes(*b"receipts")), gathered: SmallVec::new() }
    }

    fn add_number(&mut self, number: u64) {
        self.gathered.extend_from_slice(&number.to_le_bytes());
    }

    fn add(&mut self, word: &[u8]) {
        if self.gathered.len() + NUMBER_BYTES + word.len() > GATHERED_BYTES {
            self.flush();
        }
        self.add_number(word.len() as u64);
        if word.len() <= GATHERED_BYTES - NUMBER_BYTES {
            self.gathered.extend_from_slice(word);
            return;
        }
        self.flush();
        for part in word.chunks(HASHED_AT_ONCE) {
            pace::step(part.len() / pace::BYTES_PER_ELEMENT);
            self.hasher.write(part);
        }
    }

    fn flush(&mut self) {
        self.hasher.write(&self.gathered);
        self.gathered.clear();
    }

    fn finish(mut self) -> u128 {
        self.flush();
        self.hasher.finish128().as_u128()
    }
}
