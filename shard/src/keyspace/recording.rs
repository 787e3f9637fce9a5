//! Recording of a batch's effects in the log, and of the log's end that its replies wait for.
//!
//! 1. Before each command [`Keyspace::begin`] says how its effects are recorded: by the wrapper, verbatim, or key by
//!    key by the primitives.
//! 2. Each effect is an item, gathered in a buffer.
//! 3. [`Keyspace::finish`] appends the items to the log as one entry, while the locks are held.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use dormouse_protocol::Request;
use dormouse_storage::effect;
use dormouse_storage::log::{self, Lsn};
use dormouse_storage::shown::Shown;
use dormouse_types::pace;

use super::Keyspace;
use super::outbox::Outbox;

/// The mark that a batch has left in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// The end that must be durable before the replies may leave; 0: none.
    pub awaited: Lsn,
    /// Behind its own entry; 0: it wrote nothing.
    pub written: Lsn,
}

/// How the effects of the command that runs are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recording {
    /// They are not kept.
    Off,
    /// The wrapper records the command verbatim if it changed anything.
    Verbatim,
    /// The primitives record each key.
    ByKey,
    /// The command records each key.
    Named,
}

impl Keyspace<'_> {
    /// Called before each command. `by_key`: its primitives record its effects. `writes`: its purpose is to change
    /// keys.
    pub(crate) fn begin(&mut self, by_key: bool, writes: bool) {
        self.changes = 0;
        self.sees_expired = writes;
        self.keep_access = self.no_touch;
        self.recording = match (self.shared.journal.is_recording(), by_key) {
            (false, _) => Recording::Off,
            (true, false) => Recording::Verbatim,
            (true, true) => Recording::ByKey,
        };
    }

    /// Leaves the effects of the command that begins to [`Self::effect`].
    pub(crate) fn name_effects(&mut self) {
        if self.recording == Recording::ByKey {
            self.recording = Recording::Named;
        }
    }

    /// Appends the batch's effects to the log, as one entry, while the locks are held. Dropping does the same, for
    /// callers that hold no replies back.
    pub fn finish(&mut self) -> Left {
        if self.change_count > 0 {
            self.shared.changes.fetch_add(std::mem::take(&mut self.change_count), Ordering::Relaxed);
        }
        let kept = if self.noted.captured.is_empty() { Vec::new() } else { self.keep_captured() };
        if self.items.is_empty() {
            Outbox::queue(kept, 0);
            self.shared.notices.hand_over(&mut self.noted, self.awaited);
            self.hand_over_tracked(self.awaited);
            return Left { awaited: self.awaited, written: 0 };
        }
        let items = std::mem::take(&mut self.items);
        let lsn = self.shared.journal.append(&self.shared.sequence, self.now_ms, &items);
        if self.strict {
            self.note_unflushed(&items, lsn);
            self.shared.tell(lsn);
            self.awaited = lsn;
        } else if self.shared.journal.is_behind(lsn) {
            self.awaited = lsn;
        }
        give_items(items);
        Outbox::queue(kept, lsn);
        self.shared.notices.hand_over(&mut self.noted, self.awaited);
        self.hand_over_tracked(self.awaited);
        Left { awaited: self.awaited, written: lsn }
    }

    pub(super) fn note_unflushed(&mut self, items: &[u8], lsn: Lsn) {
        let flushed = self.shared.journal.log().map_or(0, |log| log.flushed());
        self.shards.iter_mut().for_each(|shard| shard.unflushed.settle(flushed));
        let mut reader = dormouse_storage::codec::Reader::new(items);
        while let Ok(item) = log::format::read_item(&mut reader) {
            match item {
                log::format::LogItem::Effect { position, .. } => self.shard(position).unflushed.note(position, lsn),
                log::format::LogItem::Ids(_) => self.shards.iter_mut().for_each(|shard| shard.unflushed.note_all(lsn)),
            }
        }
    }

    /// Called before each command of a database whose loss window is zero: its reply depends on these keys, so it waits
    /// for earlier writes to them. `keys`: `None` if it finds its keys by itself.
    pub(crate) fn depend_on<'k>(&mut self, keys: Option<impl Iterator<Item = &'k [u8]>>) {
        if self.shards.iter().all(|shard| shard.unflushed.is_empty()) {
            return;
        }
        let flushed = self.shared.journal.log().map_or(0, |log| log.flushed());
        let mut awaited = 0;
        match keys {
            Some(keys) => {
                for key in keys {
                    let position = self.position(key);
                    awaited = awaited.max(self.shards[self.shard_at(position)].unflushed.of(position));
                }
            }
            None => awaited = self.shards.iter().map(|shard| shard.unflushed.last()).max().unwrap_or(0),
        }
        if awaited > flushed {
            self.awaited = self.awaited.max(awaited);
        }
    }

    /// Lets the reply wait for all writes: it looks at no key, but reports what other clients have done to some.
    pub fn depend_on_all(&mut self) {
        if self.strict {
            self.depend_on(None::<std::iter::Empty<&[u8]>>);
        }
    }

    /// Whether so many items have gathered that an entry of the log should end here.
    pub fn is_laden(&self) -> bool {
        self.items.len() > ITEMS_BYTES_MAX
    }

    /// Whether a command has to do more than to run: its reply depends on writes that are not durable, or its client
    /// tracks keys.
    #[inline]
    pub(crate) fn is_attentive(&self) -> bool {
        self.is_attentive
    }

    /// Whether replies wait until the writes that they depend on are durable.
    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    /// After each command: whether it has changed something and is its own effect.
    pub(crate) fn is_to_record(&self) -> bool {
        self.recording == Recording::Verbatim && self.changes > 0
    }

    /// Records `request`, whose first key is its argument number `key`.
    pub(crate) fn record_verbatim(&mut self, request: Request<'_>, key: usize) {
        self.record(request.arg(key), |body| effect::verbatim(body, request));
    }

    /// Records a command's effect on `key` where it differs from the command itself: `db.effect(key, &[b"SREM", key,
    /// member])`.
    pub fn effect(&mut self, key: &[u8], args: &[&[u8]]) {
        if self.records_by_key() {
            self.record(key, |body| effect::command(body, args.iter().copied()));
        }
    }

    /// Records an effect that replaces the command itself, for a command that changed `key` and is its own effect otherwise.
    pub fn effect_instead<'a>(&mut self, key: &[u8], args: impl ExactSizeIterator<Item = &'a [u8]>) {
        if self.is_to_record() {
            self.record(key, |body| effect::command(body, args));
            self.recording = Recording::Off;
        }
    }

    /// Called by a command that is its own effect otherwise, when it has changed its key. Returns whether it names its effects from
    /// here on.
    pub fn names_effects(&mut self) -> bool {
        if self.is_to_record() {
            self.recording = Recording::Named;
        }
        self.records_by_key()
    }

    /// As [`Self::effect`], for an effect that replicas cannot have.
    pub fn effect_kept<'a>(&mut self, key: &[u8], args: impl ExactSizeIterator<Item = &'a [u8]>) {
        if self.records_by_key() {
            self.record(key, |body| effect::kept(body, args));
        }
    }

    /// Records that a producer of the stream under `key` has sent a message again.
    pub fn effect_repeated(&mut self, key: &[u8]) {
        if self.records_by_key() {
            self.record(key, |body| effect::repeated(body, key));
        }
    }

    /// As [`Self::effect`], for what only replicas are told.
    pub fn effect_told<'a>(&mut self, key: &[u8], args: impl ExactSizeIterator<Item = &'a [u8]>) {
        if self.records_by_key() && self.shared.journal.is_tapped() {
            self.record(key, |body| effect::told(body, args));
        }
    }

    /// Records the value that `key` has now as the effect: for a change by `update` in a command that records by key.
    pub fn effect_value(&mut self, key: &[u8]) {
        if self.records_by_key() {
            self.record_value(key);
        }
    }

    /// Whether the arguments of [`Self::effect`] are kept.
    pub fn records_by_key(&self) -> bool {
        matches!(self.recording, Recording::ByKey | Recording::Named)
    }

    pub(super) fn record(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        let position = self.position(key);
        let select = usize::from(self.select);
        let keyspace = self.shard(position).ids[select];
        let keyspace = self.marked(keyspace);
        self.take_items();
        log::format::write_effect(&mut self.items, keyspace, position, write);
    }

    /// Records the value that `key` has now, or its deletion.
    pub(super) fn record_value(&mut self, key: &[u8]) {
        let (position, select) = (self.position(key), self.select);
        self.take_items();
        let shard = &self.shards[self.shard_at(position)];
        let keyspace = self.marked(shard.ids[usize::from(select)]);
        let record = shard.index(select).and_then(|index| index.get(position, key));
        log::format::write_effect(&mut self.items, keyspace, position, |body| match record {
            Some(record) => effect::value(body, record),
            None => effect::delete(body, key),
        });
    }

    /// Records which keyspaces the logical indexes show from now on.
    pub(super) fn record_ids(&mut self) {
        if self.recording != Recording::Off {
            self.take_items();
            let next = self.shared.next_id.load(Ordering::SeqCst);
            let shown = Shown { ids: self.shards[0].ids, followed: self.followed, next };
            log::format::write_ids(&mut self.items, &shown);
        }
    }

    /// A buffer with room, at the first effect of a batch.
    pub(super) fn take_items(&mut self) {
        if self.items.capacity() == 0 {
            self.items = SPARE_ITEMS.take();
        } else if self.items.len() > SPARE_ITEMS_BYTES_MAX {
            pace::make_room(&mut self.items, ROOM_BYTES);
        }
    }
}

thread_local! {
    /// The buffer of the last batch, for the next.
    static SPARE_ITEMS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A pipeline ends its entry at this size; a transaction is one entry, however large.
const ITEMS_BYTES_MAX: usize = 4 << 20;

/// Room that a large buffer has before another effect: most fit, so that it is moved in steps when it grows.
const ROOM_BYTES: usize = 64 << 10;

/// A larger buffer is not kept for the next batch.
const SPARE_ITEMS_BYTES_MAX: usize = 256 << 10;

fn give_items(mut items: Vec<u8>) {
    if items.capacity() <= SPARE_ITEMS_BYTES_MAX {
        items.clear();
        SPARE_ITEMS.set(items);
    }
}
