//! Tracking: which clients may keep a copy of which keys, and what they have to forget when a key changes.
//!
//! 1. A client in the default mode that reads a key is noted as a reader of it ([`ReaderTable`]), under the lock of the key's
//!    shard, so that no change comes between.
//! 2. A change of the key takes the key out of the table, and its readers are to be told. A client in broadcasting mode is
//!    told of every change of a key with one of its prefixes ([`prefixes`]), whatever it has read.
//! 3. What clients are to be told is gathered by the keyspace ([`Untold`]), and leaves when the effects of the batch are in
//!    the log ([`Keyspace::finish`]), with the end of the log that must be durable before. The connection that runs the
//!    commands puts what concerns its own client behind its replies ([`Keyspace::take_own`]).
//!
//! The table belongs to the database and survives its sleep, so what a client has kept stays right meanwhile. Only keys with
//! an expiry, which nothing removes while the database sleeps, are forgotten before ([`Tracking::forget_expiring`]).
//! A key is known by its name, whatever its logical index, as in Redis: an invalidation does not tell the index.
//!
//! Invariants:
//! - A client that has read a key is told after its next change, or told to forget everything. To be told once more than
//!   needed is harmless. So an entry may be dropped at any time if its readers are told.
//! - The table is charged to the database, and has a limit. What exceeds it is dropped.

mod prefixes;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Included, Unbounded};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use dormouse_storage::log::Lsn;
use parking_lot::Mutex;

use self::prefixes::Prefixes;
use self::table::ReaderTable;
pub use self::table::Readers;
use super::Keyspace;
use super::place::field_expiry;

/// The default of `tracking-table-max-keys`.
pub const KEYS_MAX: usize = 1_000_000;
/// Entries that one command drops at most if the table is too large.
const DROPPED_AT_ONCE: usize = 100;
/// If a lower limit drops more keys than this, all keys are dropped, which is told in one message.
const FORGOTTEN_ONE_BY_ONE: usize = 1000;
/// The memory of the table is charged in steps of this size.
const CHARGED_BYTES: usize = 64 << 10;

/// How a client tracks keys, as far as it matters to the commands that it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tracker {
    /// Its id, even if it tracks nothing.
    pub client: u64,
    pub mode: TrackingMode,
    /// `CLIENT CACHING` was given for the command.
    pub is_caching_given: bool,
    /// `NOLOOP`: it is not told of its own changes.
    pub is_told_of_own: bool,
    /// Its own invalidations are written behind the replies on its own connection.
    pub is_in_line: bool,
}

/// The mode that `CLIENT TRACKING` has set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrackingMode {
    #[default]
    Off,
    /// Keys that it reads are tracked.
    Reads,
    /// Only those that it reads after `CLIENT CACHING YES`.
    OptIn,
    /// All but those that it reads after `CLIENT CACHING NO`.
    OptOut,
    /// All keys with certain prefixes.
    Broadcast,
}

impl Tracker {
    /// Whether the keys that its command reads are tracked.
    pub const fn notes_reads(&self) -> bool {
        match self.mode {
            TrackingMode::Off | TrackingMode::Broadcast => false,
            TrackingMode::Reads => true,
            TrackingMode::OptIn => self.is_caching_given,
            TrackingMode::OptOut => !self.is_caching_given,
        }
    }
}

/// Something that a client has to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalidated {
    Key(Arc<[u8]>),
    All,
}

/// Invalidations that are still to be sent.
#[derive(Debug, Default)]
pub struct Untold {
    /// Keys with those who have read them.
    pub keys: Vec<(Arc<[u8]>, Readers)>,
    /// Changed keys with a prefix that some client follows, and who has changed each; 0: no client.
    pub broadcast: Vec<(Box<[u8]>, u64)>,
    /// All clients have to forget everything, except one that knows.
    pub all: Option<u64>,
    /// Tables that are dropped when all of it is told.
    pub dead: Vec<ReaderTable>,
}

impl Untold {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.broadcast.is_empty() && self.all.is_none() && self.dead.is_empty()
    }
}

/// Tells clients, and answers for the memory of the table.
pub trait Messenger: Send + Sync {
    /// Tells clients once the log is durable up to `awaited`; 0: at once. May be called under locks of shards.
    fn tell(&self, untold: Untold, awaited: Lsn);

    /// Charges `bytes`; false if they do not fit.
    fn take(&self, bytes: usize) -> bool;

    fn give(&self, bytes: usize);
}

/// The tracking clients of a database, and what they have read.
#[derive(Default)]
pub struct Tracking {
    /// Whether any client tracks keys.
    is_on: AtomicBool,
    state: Mutex<State>,
    /// `tracking-table-max-keys`; 0: no limit but memory.
    keys_max: AtomicUsize,
    messenger: OnceLock<Box<dyn Messenger>>,
}

#[derive(Default)]
struct State {
    clients: HashMap<u64, Member>,
    table: ReaderTable,
    prefixes: Prefixes,
    /// Bytes that are charged for the table.
    charged: usize,
}

/// A tracking client.
struct Member {
    /// `None`: it is in the default mode.
    prefixes: Option<BTreeSet<Box<[u8]>>>,
}

/// Figures for `INFO`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrackingCounts {
    pub clients: usize,
    pub keys: usize,
    pub items: usize,
    pub prefixes: usize,
}

/// Clients in broadcasting mode, and the changed keys with a prefix that they follow, each with its writers.
pub type Broadcast<'u> = (Vec<u64>, BTreeMap<&'u [u8], BTreeSet<u64>>);

impl std::fmt::Debug for Tracking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tracking")
    }
}

impl Tracking {
    pub fn new() -> Self {
        Self { keys_max: AtomicUsize::new(KEYS_MAX), ..Self::default() }
    }

    /// Sends what clients are to be told to the messenger that `make` makes. The first call counts.
    pub fn set_messenger(&self, make: impl FnOnce() -> Box<dyn Messenger>) {
        self.messenger.get_or_init(make);
    }

    /// Sets the most keys that are tracked for clients in the default mode; 0: as many as memory allows. Keys beyond a lower
    /// limit are dropped at once. If they are very many, all are, and every client that tracks is told to forget everything.
    pub fn set_keys_max(&self, keys: usize) {
        self.keys_max.store(keys, Ordering::Relaxed);
        if !self.is_on() {
            return;
        }
        let mut untold = Untold::default();
        let mut state = self.state.lock();
        match self.too_many(&state.table) {
            too_many @ ..=FORGOTTEN_ONE_BY_ONE => {
                untold.keys.extend((0..too_many).filter_map(|_| state.table.take_any()));
            }
            _ => {
                untold.dead.push(std::mem::take(&mut state.table));
                untold.all = Some(0);
            }
        }
        self.settle(&mut state, &mut untold);
        drop(state);
        self.tell(untold, 0);
    }

    /// The number of keys beyond the limit.
    fn too_many(&self, table: &ReaderTable) -> usize {
        match self.keys_max.load(Ordering::Relaxed) {
            0 => 0,
            keys_max => table.len().saturating_sub(keys_max),
        }
    }

    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Tracks keys for a client from now on. `prefixes`: those that a client in broadcasting mode adds to its own; `None`:
    /// the default mode.
    pub fn enable<'p>(&self, client: u64, prefixes: Option<impl Iterator<Item = &'p [u8]>>) {
        let mut state = self.state.lock();
        let State { clients, prefixes: all, .. } = &mut *state;
        let member = clients.entry(client).or_insert(Member { prefixes: None });
        if let Some(prefixes) = prefixes {
            let own = member.prefixes.get_or_insert_default();
            for prefix in prefixes {
                own.insert(prefix.into());
                all.add(prefix, client);
            }
        }
        self.is_on.store(true, Ordering::SeqCst);
    }

    /// Ends the tracking of a client.
    pub fn disable(&self, client: u64) {
        if !self.is_on() {
            return;
        }
        let mut state = self.state.lock();
        let Some(member) = state.clients.remove(&client) else { return };
        member.prefixes.iter().flatten().for_each(|prefix| state.prefixes.remove(prefix, client));
        if !state.clients.is_empty() {
            return;
        }
        self.is_on.store(false, Ordering::SeqCst);
        let dead = vec![std::mem::take(&mut state.table)];
        self.settle(&mut state, &mut Untold::default());
        drop(state);
        self.tell(Untold { dead, ..Untold::default() }, 0);
    }

    /// The prefix of a client in broadcasting mode that overlaps with `prefix`.
    pub fn overlapping(&self, client: u64, prefix: &[u8]) -> Option<Box<[u8]>> {
        let state = self.state.lock();
        let own = state.clients.get(&client)?.prefixes.as_ref()?;
        // No two of them overlap, so one that starts `prefix` is the last before it.
        let before =
            own.range::<[u8], _>((Unbounded, Included(prefix))).next_back().filter(|other| prefix.starts_with(other));
        before
            .or_else(|| {
                own.range::<[u8], _>((Included(prefix), Unbounded)).next().filter(|other| other.starts_with(prefix))
            })
            .cloned()
    }

    pub fn prefixes(&self, client: u64) -> Vec<Box<[u8]>> {
        let state = self.state.lock();
        state.clients.get(&client).and_then(|member| member.prefixes.as_ref()).into_iter().flatten().cloned().collect()
    }

    pub fn counts(&self) -> TrackingCounts {
        let state = self.state.lock();
        TrackingCounts {
            clients: state.clients.len(),
            keys: state.table.len(),
            items: state.table.items(),
            prefixes: state.prefixes.len(),
        }
    }

    /// The clients with prefixes of `changed`, which are keys with their writers, and the keys for each.
    pub fn broadcast<'u>(&self, changed: &'u [(Box<[u8]>, u64)]) -> Vec<Broadcast<'u>> {
        let state = self.state.lock();
        let mut by_prefix: BTreeMap<&[u8], Broadcast<'u>> = BTreeMap::new();
        for (key, writer) in changed {
            for (prefix, clients) in state.prefixes.of(key) {
                let (_, keys) =
                    by_prefix.entry(prefix).or_insert_with(|| (clients.iter().copied().collect(), BTreeMap::new()));
                keys.entry(&**key).or_default().insert(*writer);
            }
        }
        by_prefix.into_values().collect()
    }

    /// All tracking clients.
    pub fn clients(&self) -> Vec<u64> {
        self.state.lock().clients.keys().copied().collect()
    }

    /// Forgets the keys that expire while the database sleeps, and tells their readers.
    pub fn forget_expiring(&self) {
        if self.is_on() {
            let mut state = self.state.lock();
            let mut untold = Untold { keys: state.table.take_expiring(), ..Untold::default() };
            self.settle(&mut state, &mut untold);
            drop(state);
            self.tell(untold, 0);
        }
    }

    /// Called when `key` is gone without a command.
    #[inline]
    pub(super) fn dropped(&self, key: &[u8]) {
        if self.is_on() {
            let mut noted = TrackedChanges::default();
            self.forget(key, Tracker::default(), &mut noted);
            self.tell(noted.untold, 0);
        }
    }

    /// Forgets a key that has changed.
    fn forget(&self, key: &[u8], writer: Tracker, noted: &mut TrackedChanges) {
        let mut state = self.state.lock();
        if !state.prefixes.is_empty() && state.prefixes.of(key).next().is_some() {
            noted.untold.broadcast.push((key.into(), writer.client));
        }
        let Some((key, mut readers)) = state.table.take(key) else { return };
        self.settle(&mut state, &mut noted.untold);
        drop(state);
        if writer.mode != TrackingMode::Off && (!writer.is_told_of_own || writer.is_in_line) {
            let before = readers.len();
            readers.retain(|reader| *reader != writer.client);
            if readers.len() < before && writer.is_told_of_own {
                noted.own.push(Invalidated::Key(Arc::clone(&key)));
            }
        }
        if !readers.is_empty() {
            noted.untold.keys.push((key, readers));
        }
    }

    /// Forgets all keys, as all of them may have changed.
    fn forget_all(&self, writer: Tracker, noted: &mut TrackedChanges) {
        let mut state = self.state.lock();
        noted.untold.dead.push(std::mem::take(&mut state.table));
        self.settle(&mut state, &mut noted.untold);
        let knows = writer.is_in_line && state.clients.contains_key(&writer.client);
        drop(state);
        // FLUSHALL flushes one logical index after the other.
        if knows && noted.own.last() != Some(&Invalidated::All) {
            noted.own.push(Invalidated::All);
        }
        noted.untold.all = Some(if knows { writer.client } else { 0 });
    }

    /// Notes that a client has read `key`, whose shard is held.
    fn remember(&self, client: u64, key: &[u8], expires: bool, untold: &mut Untold) {
        let mut state = self.state.lock();
        let State { clients, table, .. } = &mut *state;
        if clients.is_empty() {
            return;
        }
        table.add(key, client, expires, |reader| clients.contains_key(&reader));
        let too_many = self.too_many(table).min(DROPPED_AT_ONCE);
        untold.keys.extend((0..too_many).filter_map(|_| table.take_any()));
        self.settle(&mut state, untold);
    }

    /// Charges what the table takes now. If it does not fit, keys are dropped.
    fn settle(&self, state: &mut State, untold: &mut Untold) {
        let State { table, charged, .. } = state;
        let Some(messenger) = self.messenger.get() else { return };
        if table.bytes() > *charged {
            let wanted = (table.bytes() - *charged).next_multiple_of(CHARGED_BYTES);
            if messenger.take(wanted) {
                *charged += wanted;
                return;
            }
            while table.bytes() > *charged
                && let Some(dropped) = table.take_any()
            {
                untold.keys.push(dropped);
            }
        }
        let spare = (*charged - table.bytes()) / CHARGED_BYTES * CHARGED_BYTES;
        if spare > CHARGED_BYTES || table.len() == 0 && spare > 0 {
            *charged -= spare;
            messenger.give(spare);
        }
    }

    fn tell(&self, untold: Untold, awaited: Lsn) {
        if let Some(messenger) = self.messenger.get().filter(|_| !untold.is_empty()) {
            messenger.tell(untold, awaited);
        }
    }
}

/// Changes of tracked keys since the last entry of the log.
#[derive(Debug, Default)]
pub(super) struct TrackedChanges {
    untold: Untold,
    /// Invalidations for the client of the running command, to be sent behind its reply.
    own: Vec<Invalidated>,
    /// Number of commands that run, one inside the other.
    depth: u32,
}

impl Keyspace<'_> {
    /// Sets how the client tracks keys whose commands follow.
    pub fn set_tracker(&mut self, tracker: Tracker) {
        self.tracker = tracker;
        self.is_attentive = self.strict || tracker.mode != TrackingMode::Off;
    }

    /// Says whether what the client is to forget is written behind the reply of each command, or taken at the end.
    pub fn tell_in_line(&mut self, in_line: bool) {
        self.tells_in_line = in_line;
    }

    pub(crate) fn tells_in_line(&self) -> bool {
        self.tells_in_line
    }

    pub fn tracker(&self) -> Tracker {
        self.tracker
    }

    /// Takes the invalidations for the client of the commands so far, to be sent behind its replies.
    pub fn take_own(&mut self) -> Vec<Invalidated> {
        self.tracked.as_mut().map(|noted| std::mem::take(&mut noted.own)).unwrap_or_default()
    }

    /// Forgets a key that has changed.
    #[inline]
    pub(super) fn untrack(&mut self, key: &[u8]) {
        if self.shared.tracking.is_on() {
            let (shared, writer) = (self.shared, self.tracker);
            shared.tracking.forget(key, writer, self.tracked.get_or_insert_default());
        }
    }

    /// Forgets all keys, after a change of whole logical indexes.
    pub(super) fn untrack_all(&mut self) {
        if self.shared.tracking.is_on() {
            let (shared, writer) = (self.shared, self.tracker);
            shared.tracking.forget_all(writer, self.tracked.get_or_insert_default());
        }
    }

    /// Called before a command of a client that tracks keys, and for the commands of its scripts.
    pub(crate) fn begin_tracked(&mut self) {
        self.tracked.get_or_insert_default().depth += 1;
    }

    /// Called after it. Returns whether it ran by itself, not in a script.
    pub(crate) fn end_tracked(&mut self) -> bool {
        let Some(noted) = &mut self.tracked else { return true };
        noted.depth -= 1;
        noted.depth == 0
    }

    /// Notes that the client has read `key`.
    pub(crate) fn note_read(&mut self, key: &[u8]) {
        let (shared, client, expires) = (self.shared, self.tracker.client, self.expires(key));
        shared.tracking.remember(client, key, expires, &mut self.tracked.get_or_insert_default().untold);
    }

    /// Whether a key, or a field of it, will expire.
    fn expires(&self, key: &[u8]) -> bool {
        let position = self.position(key);
        let Some(index) = self.shards[self.shard_at(position)].index(self.select) else { return false };
        if !index.is_resident(position) {
            return true;
        }
        let record = index.get(position, key);
        record.is_some_and(|record| record.expiry().is_some() || field_expiry(record).is_some())
    }

    /// Lets what was noted leave once the log is durable up to `awaited`.
    #[inline]
    pub(super) fn hand_over_tracked(&mut self, awaited: Lsn) {
        if self.tracked.is_some() {
            self.hand_over_noted(awaited);
        }
    }

    #[cold]
    fn hand_over_noted(&mut self, awaited: Lsn) {
        let Some(mut noted) = self.tracked.take() else { return };
        let client = self.tracker.client;
        // Nobody has asked for them.
        for own in noted.own {
            match own {
                Invalidated::Key(key) => noted.untold.keys.push((key, Readers::from_slice(&[client]))),
                Invalidated::All => noted.untold.all = Some(0),
            }
        }
        self.shared.tracking.tell(noted.untold, awaited);
    }
}
