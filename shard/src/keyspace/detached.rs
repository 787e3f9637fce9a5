//! The state that a keyspace keeps while its command is suspended.
//!
//! A suspended script goes on on another thread, under the same locks, as if nothing had been in between. So its keyspace
//! is taken apart there and put together here with everything that commands have left in it: the time and the chance of
//! the run, its effects, its events, and what it has dropped. What belongs to the window of a batch stays behind.

use std::any::Any;
use std::sync::Arc;

use dormouse_storage::log::Lsn;
use fastrand::Rng;

use super::access::Uses;
use super::changes::KeyEvent;
use super::notices::Noted;
use super::recording::Recording;
use super::scripts::{Published, ScriptTrace, ScriptUser};
use super::tracking::{TrackedChanges, Tracker};
use super::{Contents, EngineSettings, Graveyard, Keyspace, ReadyKey, Shared};

/// The state of a [`Keyspace`] without its shards.
pub struct DetachedKeyspace {
    settings: Arc<EngineSettings>,
    select: u8,
    followed: u32,
    sees_expired: bool,
    now_ms: u64,
    random: Rng,
    uses: Uses,
    recording: Recording,
    items: Vec<u8>,
    awaited: Lsn,
    strict: bool,
    is_attentive: bool,
    changes: u64,
    event: Option<KeyEvent>,
    graveyard: Option<Graveyard>,
    freed_bytes: usize,
    published: Vec<Published>,
    noted: Noted,
    tracker: Tracker,
    tracked: Option<Box<TrackedChanges>>,
    tells_in_line: bool,
    trace: Option<Box<ScriptTrace>>,
    change_count: u64,
    has_changed: bool,
    hits: u64,
    misses: u64,
    ready: Vec<ReadyKey>,
    keep_access: bool,
    no_touch: bool,
    script_user: Option<Arc<dyn ScriptUser>>,
}

impl<'a> Keyspace<'a> {
    /// Takes its state, so that dropping it leaves nothing.
    pub fn detach(&mut self) -> DetachedKeyspace {
        DetachedKeyspace {
            settings: Arc::clone(&self.settings),
            select: self.select,
            followed: self.followed,
            sees_expired: self.sees_expired,
            now_ms: self.now_ms,
            random: self.random.clone(),
            uses: self.uses,
            recording: self.recording,
            items: std::mem::take(&mut self.items),
            awaited: self.awaited,
            strict: self.strict,
            is_attentive: self.is_attentive,
            changes: self.changes,
            event: self.event,
            graveyard: self.graveyard.take(),
            freed_bytes: self.freed_bytes,
            published: std::mem::take(&mut self.published),
            noted: std::mem::take(&mut self.noted),
            tracker: self.tracker,
            tracked: self.tracked.take(),
            tells_in_line: self.tells_in_line,
            trace: self.trace.take(),
            change_count: std::mem::take(&mut self.change_count),
            has_changed: self.has_changed,
            hits: self.hits,
            misses: self.misses,
            ready: std::mem::take(&mut self.ready),
            keep_access: self.keep_access,
            no_touch: self.no_touch,
            script_user: self.script_user.take(),
        }
    }

    /// A keyspace over the same shards with the state that another one had.
    pub fn attach(
        shards: impl IntoIterator<Item = &'a mut Contents>,
        shared: &'a Shared,
        detached: DetachedKeyspace,
    ) -> Self {
        let DetachedKeyspace { select, now_ms, .. } = detached;
        let mut db = Self::new(shards, shared, select, now_ms, 0);
        db.settings = detached.settings;
        db.followed = detached.followed;
        db.sees_expired = detached.sees_expired;
        db.random = detached.random;
        db.uses = detached.uses;
        db.recording = detached.recording;
        db.items = detached.items;
        db.awaited = detached.awaited;
        db.strict = detached.strict;
        db.is_attentive = detached.is_attentive;
        db.changes = detached.changes;
        db.event = detached.event;
        db.graveyard = detached.graveyard;
        db.freed_bytes = detached.freed_bytes;
        db.published = detached.published;
        db.noted = detached.noted;
        db.tracker = detached.tracker;
        db.tracked = detached.tracked;
        db.tells_in_line = detached.tells_in_line;
        db.trace = detached.trace;
        db.change_count = detached.change_count;
        db.has_changed = detached.has_changed;
        db.hits = detached.hits;
        db.misses = detached.misses;
        db.ready = detached.ready;
        db.keep_access = detached.keep_access;
        db.no_touch = detached.no_touch;
        db.script_user = detached.script_user;
        db
    }

    /// Notes that the command that runs is suspended. It has written no reply, and changes nothing until it goes on.
    pub fn suspend(&mut self, suspended: Box<dyn Any + Send>) {
        self.suspended = Some(suspended);
    }

    #[inline]
    pub fn is_suspended(&self) -> bool {
        self.suspended.is_some()
    }

    pub fn take_suspended(&mut self) -> Option<Box<dyn Any + Send>> {
        self.suspended.take()
    }

    /// Notes what the command that runs has cost beyond its estimate.
    pub fn note_spent(&mut self, cost: usize) {
        self.spent += cost;
    }

    pub fn take_spent(&mut self) -> usize {
        std::mem::take(&mut self.spent)
    }

    /// Whether commands have left something that [`Self::finish`] has to see to.
    pub fn is_unfinished(&self) -> bool {
        !self.items.is_empty() || self.change_count > 0
    }
}
