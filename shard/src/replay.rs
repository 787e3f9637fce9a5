//! What stored places need on top of their bodies: the effects in the tails, and in the log after a crash.
//!
//! Invariant: effects are replayed in the order of their numbers. Those of the tails up to a place's `seen`, then those of the
//! log from there on: what the tails tell of a place is what a checkpoint saw of it, and it saw everything before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::commands;
use crate::error::Result;
use crate::keyspace::contents::ALL_INDEXES;
use crate::keyspace::place::{Dirty, Place, Stored};
use crate::keyspace::staging::FOLLOWED_TIME;
use crate::keyspace::{Contents, Index, Keyspace, Shared};
use crate::log::tail::LogTail;
use crate::manifest::Manifest;
use crate::record::Record;
use crate::segment::{Range53, Segment};
use crate::store::{Store, StoreError};
use crate::tail::{Tail, TailRecord};
use crate::topology::SLOTS;

/// Where the effects of stored places are found.
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

    /// Whether the tails have effects for a place; when not, that is certain.
    pub fn is_tailed(&self, keyspace: u32, range: Range53) -> bool {
        self.tails.iter().any(|tail| tail.touches(keyspace, range))
    }

    /// What must be replayed onto the body of a place.
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

/// The places that a segment becomes when its effects are replayed onto it. What only the log had is dirty.
///
/// # Errors
/// When an effect is malformed.
pub fn replayed(shared: &Shared, keyspace: u32, segment: Segment<Record>, effects: &Effects) -> Result<Vec<Place>> {
    if effects.tailed.is_empty() && effects.logged.is_empty() {
        return Ok(vec![Place::resident(segment, Dirty::Clean)]);
    }
    // Replayed in a scratch keyspace, so that nobody's watches are touched and nothing is logged.
    let scratch = Shared::new(&shared.name, shared.placement.seed);
    scratch.settings.store(shared.settings.load_full());
    let mut places = vec![Place::resident(segment, Dirty::Clean)];
    for (effects, are_stored) in [(&effects.tailed, true), (&effects.logged, false)] {
        let mut contents = Contents::empty(0, SLOTS, shared.placement, [keyspace; ALL_INDEXES]);
        contents.put_index(0, Some(Box::new(Index::new(keyspace, places))));
        for TailRecord { now_ms, body, .. } in effects {
            scratch.followed.store(u32::from(now_ms & FOLLOWED_TIME != 0), Ordering::Relaxed);
            let mut db = Keyspace::new([&mut contents], &scratch, 0, now_ms & !FOLLOWED_TIME, 0);
            commands::replay(&mut db, body)?;
        }
        places = contents.put_index(0, None).map(|index| index.into_places()).unwrap_or_default();
        if let ([place], true) = (&mut places[..], are_stored) {
            place.dirty = Dirty::Clean;
        }
    }
    Ok(places)
}
