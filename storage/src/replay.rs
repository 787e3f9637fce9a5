//! The effects that stored places need on top of their bodies: those in the tails, and in the log after a crash.
//!
//! Invariant: effects are replayed in the order of their numbers. Those of the tails up to a place's `seen`, then those
//! of the log from there on: the tails hold the effects on a place that a checkpoint saw, and it saw everything before.

use std::sync::Arc;

use dormouse_types::segment::Range53;

use crate::log::tail::LogTail;
use crate::manifest::{Manifest, PageInfo, PagedManifest};
use crate::store::{Store, StoreError};
use crate::tail::{Tail, TailRecord};

/// The location of a segment in the store, and what is known of it without reading it. Or the same of all segments of a
/// page of the manifest that has not been read.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The page that this describes, if any. Then there is no body, and what was seen is not known.
    pub page: Option<UnreadPage>,
    /// Object name, offset and length of the body there; `None`: no body was ever written, the tail holds everything.
    pub body: Option<Body>,
    /// The pieces of its values, in the order of their numbers.
    pub pieces: Box<[Body]>,
    pub records: u32,
    /// Memory that its records took when they were stored.
    pub heap_bytes: u64,
    /// Effects up to this one are in the body.
    pub sequence: u64,
    /// Effects up to this one are in the body and the tails.
    pub seen: u64,
    /// Whether the tails hold effects for it.
    pub tailed: bool,
    /// Whether the log does: its counts are not known before it is loaded.
    pub logged: bool,
    /// Whether they are not known because the manifest leaves out effects in the tails.
    pub uncounted: bool,
    /// The location of those effects.
    pub replay: Option<Arc<Replay>>,
}

impl Stored {
    /// Whether only a load tells how many keys it has.
    pub fn is_uncounted(&self) -> bool {
        self.logged || self.uncounted
    }

    /// About how much memory it takes when it is loaded. The manifest may not know, but what is stored says the least.
    pub fn loaded_bytes(&self) -> usize {
        let blocks = self.body.iter().chain(&self.pieces).map(|block| block.len).sum::<u64>();
        usize::try_from(self.heap_bytes.max(blocks)).unwrap_or(usize::MAX)
    }
}

/// A page that has not been read.
#[derive(Debug, Clone)]
pub struct UnreadPage {
    pub manifest: Arc<PagedManifest>,
    /// Which of its pages.
    pub at: usize,
}

impl UnreadPage {
    pub fn info(&self) -> &PageInfo {
        &self.manifest.pages[self.at]
    }
}

/// The location of a sealed block in the store: the body of a segment, or a piece of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub chunk: Arc<str>,
    pub offset: u64,
    pub len: u64,
    pub checksum: u64,
}

/// The sources of the effects of stored places.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    pub tails: Vec<Arc<Tail>>,
    pub log: Option<Arc<LogTail>>,
}

/// The effects of one place.
#[derive(Debug, Default)]
pub struct Effects {
    pub tailed: Vec<TailRecord>,
    pub logged: Vec<TailRecord>,
}

impl Effects {
    /// Leaves out what some keys have seen. `later`: their positions, and up to which effect.
    pub fn retain_unseen(&mut self, later: &[(u64, u64)]) {
        if later.is_empty() {
            return;
        }
        let is_unseen = |effect: &TailRecord| {
            later.iter().all(|(position, seen)| *position != effect.position || effect.sequence > *seen)
        };
        self.tailed.retain(is_unseen);
        self.logged.retain(is_unseen);
    }
}

impl Replay {
    /// Reads the tails of a manifest.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub async fn read(store: &Store, manifest: &Manifest, log: Option<Arc<LogTail>>) -> Result<Self, StoreError> {
        let mut tails = Vec::with_capacity(manifest.tails.len());
        for info in &manifest.tails {
            tails.push(Arc::new(Tail::read(store, &info.name).await?));
        }
        Ok(Self { tails, log })
    }

    /// Whether the log has effects for a place.
    pub fn is_logged(&self, keyspace: u32, range: Range53) -> bool {
        self.log.as_ref().is_some_and(|log| log.touches(keyspace, range))
    }

    /// Whether the tails may have effects for a place; false is certain.
    pub fn is_tailed(&self, keyspace: u32, range: Range53) -> bool {
        self.tails.iter().any(|tail| tail.touches(keyspace, range))
    }

    /// The effects that must be replayed onto the body of a place.
    ///
    /// # Errors
    /// When a tail is damaged.
    pub fn effects(&self, keyspace: u32, range: Range53, stored: &Stored) -> Result<Effects, StoreError> {
        let mut effects = Effects::default();
        if stored.tailed {
            for tail in &self.tails {
                effects.tailed.extend(tail.effects(keyspace, range, stored.sequence)?);
            }
            effects.tailed.sort_by_key(|effect| effect.sequence);
        }
        if let Some(log) = self.log.as_ref().filter(|_| stored.logged) {
            effects.logged = log.effects(keyspace, range, stored.seen);
        }
        Ok(effects)
    }
}
