//! The waiters of a database: clients whose blocking command has found nothing.
//!
//! 1. A command that finds nothing is registered as a [`Waiter`] under the locks of its keys, in one queue for each key and
//!    kind of value. Its number is its place in all of its queues: first come, first served.
//! 2. A command that makes a key ready serves the key's queue under the same locks, and in the same entry of the log
//!    ([`serving`](crate::execution::serving)). It *claims* a waiter, runs the waiter's command, and either lets go of
//!    it again or removes it and delivers the reply.
//! 3. A waiter that cannot be served there, because the turn is over or something has to be loaded first, is *nudged*:
//!    its own client runs the command again, as a plan of its own. It keeps its place meanwhile. When that plan has run,
//!    it serves the waiters behind it. If its client leaves instead, the nudge goes on to the next in the queue.
//!    A client that waits for pending entries nudges its own waiter when the first of them may be claimed.
//! 4. A client that has waited long enough, is gone, or was unblocked *ends* its waiter.
//!
//! Claiming and ending exclude each other by one atomic state. So a waiter takes from one key only, on whichever shards
//! its keys are, and nothing is taken for a client that has gone.
//!
//! The registry belongs to the database, not to a shard: waiters stay when shards split and merge, and when the database
//! sleeps. Then a client that repeats a request is *parked* if that request has waited in vain until after the last change of
//! the database: it is registered without waking the database, since the answer cannot be another.
//!
//! `BLMOVE` writes a second key. Whoever changes the key that it waits for must hold the lock of that one too, so the
//! executor asks for the [keys that waiters would write](Waiters::follow) when it chooses its locks.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};

use dormouse_protocol::{Budget, OwnedRequest, Reply, Request};
use futures::task::AtomicWaker;
use parking_lot::Mutex;

use crate::commands::{Context, Row, Run};
use crate::keyspace::{Left, Offer, Shared, Wait};

const WAITING: u8 = 0;
/// Its command is being run.
const CLAIMED: u8 = 1;
/// It has a reply, or will have one when the log entry of its command is appended.
const SERVED: u8 = 2;
const ENDED: u8 = 3;

/// Overhead of an entry in the queues beside its key.
const ENTRY_BYTES: usize = 128;

/// Keys that are followed from one to the next: see [`Waiters::follow`].
const FOLLOWED_MAX: usize = 64;

/// Requests that are remembered, and their bytes.
const FRUITLESS_MAX: usize = 256;
const FRUITLESS_BYTES_MAX: usize = 64 << 10;

/// The user on whose behalf a waiter's command runs. The rules may have changed since it began to wait.
pub trait WaitingUser: fmt::Debug + Send + Sync {
    /// The error that denies a request of the user now, with its code. What is denied is logged.
    fn denial(&self, request: Request<'_>, select: u8) -> Option<String>;
}

/// A command that has found nothing, with all that is needed to run it again on any thread.
pub struct Waiter {
    number: AtomicU64,
    pub row: &'static Row,
    pub run: Run,
    pub request: OwnedRequest,
    pub context: Context,
    pub budget: Option<Arc<dyn Budget>>,
    /// `None`: everything is permitted.
    user: Option<Arc<dyn WaitingUser>>,
    pub wanted: Offer,
    /// It waits for its first key and writes the second.
    pub moves: bool,
    pub timeout_ms: Option<u64>,
    state: AtomicU8,
    /// Unix milliseconds at which its client looks again even if nothing changes; 0: never.
    look_at_ms: AtomicU64,
    /// Its client is to run the command again.
    is_nudged: AtomicBool,
    /// In a box: a waiter has none for nearly all of its life.
    served: Mutex<Option<Box<ServedReply>>>,
    waker: AtomicWaker,
}

/// The reply of a command that was run for a waiter.
#[derive(Debug)]
pub struct ServedReply {
    pub reply: Reply,
    pub left: Left,
}

/// A notice to a waiter's client.
#[derive(Debug)]
pub enum WaitEvent {
    Served(ServedReply),
    /// The client is to run the command again.
    Nudged,
    /// Someone else has ended the wait.
    Ended,
}

/// A claimed waiter. Dropping it lets go of the waiter.
#[derive(Debug)]
pub struct ClaimedWaiter(Option<Arc<Waiter>>);

impl Waiter {
    /// Its place in its queues; 0: it was never in one.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// The keys that it waits for.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let request = self.request.as_request();
        let count = if self.moves { 1 } else { usize::MAX };
        self.row.key_indexes(request).take(count).map(move |key| request.arg(key))
    }

    /// The key that it writes beside the one that it waits for.
    pub fn target(&self) -> Option<&[u8]> {
        let request = self.request.as_request();
        let key = self.row.key_indexes(request).nth(1).filter(|_| self.moves)?;
        Some(request.arg(key))
    }

    /// The error that it gets instead of what it waits for, if its user may not run its command any more.
    pub fn denial(&self) -> Option<String> {
        self.user.as_ref()?.denial(self.request.as_request(), self.context.select)
    }

    /// Claims it to run its command, unless someone else does, or its client has left.
    pub fn claim(self: &Arc<Self>) -> Option<ClaimedWaiter> {
        self.change(WAITING, CLAIMED).then(|| ClaimedWaiter(Some(Arc::clone(self))))
    }

    /// Its client has run the command again.
    pub fn follow_nudge(&self) {
        self.is_nudged.store(false, Ordering::SeqCst);
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Unix milliseconds at which its client is to [nudge](Self::nudge) it; `None`: never.
    pub fn look_at_ms(&self) -> Option<u64> {
        match self.look_at_ms.load(Ordering::SeqCst) {
            0 => None,
            at_ms => Some(at_ms),
        }
    }

    /// Its command has run again and waits on. `is_whole`: it has looked at all of its keys.
    pub(crate) fn waits_on(&self, wait: &Wait, is_whole: bool) {
        let before = self.look_at_ms();
        let next = match is_whole {
            true => wait.look_at_ms,
            false => before.into_iter().chain(wait.look_at_ms).min(),
        };
        if next != before {
            self.look_at_ms.store(next.unwrap_or(0), Ordering::SeqCst);
            self.waker.wake();
        }
    }

    /// Asks its client to run the command again.
    pub fn nudge(&self) {
        self.is_nudged.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Ends its wait. False: it is being served, or the wait is over.
    pub fn end(&self) -> bool {
        let ended = self.change(WAITING, ENDED);
        if ended {
            self.waker.wake();
        }
        ended
    }

    /// Whether its command is being run: it will be served or wait again.
    pub fn is_claimed(&self) -> bool {
        self.state.load(Ordering::SeqCst) == CLAIMED
    }

    /// Delivers the reply of its command.
    pub fn deliver(&self, served: ServedReply) {
        *self.served.lock() = Some(Box::new(served));
        self.waker.wake();
    }

    /// Waits for the next event. A nudge is told until its client has followed it.
    pub fn poll(&self, cx: &mut TaskContext<'_>) -> Poll<WaitEvent> {
        self.waker.register(cx.waker());
        match self.state.load(Ordering::SeqCst) {
            SERVED => self.served.lock().take().map_or(Poll::Pending, |served| Poll::Ready(WaitEvent::Served(*served))),
            ENDED => Poll::Ready(WaitEvent::Ended),
            _ if self.is_nudged.load(Ordering::SeqCst) => Poll::Ready(WaitEvent::Nudged),
            _ => Poll::Pending,
        }
    }

    /// The bytes that it keeps, with its entries in the queues.
    pub fn bytes(&self) -> usize {
        let keys = self.keys().map(|key| key.len() + ENTRY_BYTES).sum::<usize>();
        size_of::<Self>() + self.request.heap_bytes() + keys
    }
}

impl ClaimedWaiter {
    /// The command was run and has a reply. The caller removes the waiter from its queues.
    pub fn serve(mut self) -> Option<Arc<Waiter>> {
        let waiter = self.0.take()?;
        waiter.state.store(SERVED, Ordering::SeqCst);
        Some(waiter)
    }
}

impl Drop for ClaimedWaiter {
    fn drop(&mut self) {
        if let Some(waiter) = self.0.take() {
            waiter.state.store(WAITING, Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, request) = (self.number(), self.request.as_request());
        f.debug_struct("Waiter").field("number", &number).field("request", &request).finish_non_exhaustive()
    }
}

/// A blocking command of a client, before it is known whether it waits.
#[derive(Clone)]
pub struct Candidate {
    pub row: &'static Row,
    pub run: Run,
    pub request: OwnedRequest,
    pub context: Context,
    pub budget: Option<Arc<dyn Budget>>,
    pub user: Option<Arc<dyn WaitingUser>>,
}

impl Candidate {
    fn waiter(self, wait: Wait) -> Arc<Waiter> {
        let Self { row, run, request, context, budget, user } = self;
        Arc::new(Waiter {
            number: AtomicU64::new(0),
            row,
            run,
            request: wait.again.unwrap_or(request),
            context,
            budget,
            user,
            wanted: wait.wanted,
            moves: wait.moves,
            timeout_ms: wait.timeout_ms,
            state: AtomicU8::new(WAITING),
            look_at_ms: AtomicU64::new(wait.look_at_ms.unwrap_or(0)),
            is_nudged: AtomicBool::new(false),
            served: Mutex::default(),
            waker: AtomicWaker::new(),
        })
    }
}

/// The waiters for one key and one kind of value, by number.
type WaiterQueue = VecDeque<Arc<Waiter>>;
/// The queues of one kind of value in one logical index, by key.
type Queues = HashMap<Box<[u8]>, WaiterQueue>;
/// The keys that waiters write, by the key that they wait for, and how many waiters do so.
type Moves = HashMap<Box<[u8]>, BTreeMap<Box<[u8]>, usize>>;

#[derive(Debug, Default)]
struct Registry {
    last_number: u64,
    queues: HashMap<(u8, Offer), Queues>,
    moves: Moves,
    is_asleep: bool,
    /// Requests that have waited in vain.
    fruitless: HashMap<(u8, Box<[u8]>), Fruitless>,
    fruitless_bytes: usize,
}

/// How a request that found nothing has waited.
#[derive(Debug, Clone)]
struct Fruitless {
    wanted: Offer,
    moves: bool,
    timeout_ms: Option<u64>,
    again: OwnedRequest,
    /// The changes of the database before the end of the wait.
    changes: Changes,
}

/// The numbers of changed keys, of entries in the log and of keyspaces: without a change of the database they stay.
type Changes = (u64, u64, u32);

/// All waiters of a database.
#[derive(Debug)]
pub struct Waiters {
    shared: Arc<Shared>,
    registry: Mutex<Registry>,
    /// How many waiters write a second key.
    moves: AtomicUsize,
    /// Numbers of entries that stand for no change.
    skipped: AtomicU64,
    served: AtomicUsize,
}

impl Waiters {
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            registry: Mutex::default(),
            moves: AtomicUsize::new(0),
            skipped: AtomicU64::new(0),
            served: AtomicUsize::new(0),
        }
    }

    /// How many waiters were served so far.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    pub(crate) fn count_served(&self, count: usize) {
        self.served.fetch_add(count, Ordering::Relaxed);
    }

    /// Registers a command that waits. The shards of the keys that it waits for must be held.
    pub fn register(&self, candidate: Candidate, wait: Wait) -> Arc<Waiter> {
        let waiter = candidate.waiter(wait);
        self.enter(&mut self.registry.lock(), &waiter);
        waiter
    }

    fn enter(&self, registry: &mut Registry, waiter: &Arc<Waiter>) {
        registry.last_number += 1;
        waiter.number.store(registry.last_number, Ordering::Relaxed);
        let select = waiter.context.select;
        let queues = registry.queues.entry((select, waiter.wanted)).or_default();
        for key in waiter.keys() {
            // Most keys have one waiter.
            let queue = queues.entry(key.into()).or_insert_with(|| WaiterQueue::with_capacity(1));
            // A request may name a key twice.
            if queue.back().is_none_or(|last| !Arc::ptr_eq(last, waiter)) {
                queue.push_back(Arc::clone(waiter));
                self.shared.interest.add(select, key);
            }
            if let Some(target) = waiter.target() {
                *registry.moves.entry(key.into()).or_default().entry(target.into()).or_default() += 1;
                self.moves.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Removes a waiter from its queues. A nudge that its client has not followed goes on to the next.
    pub fn remove(&self, waiter: &Waiter) {
        self.take_from_queues(waiter);
        if waiter.is_nudged.swap(false, Ordering::SeqCst) {
            self.nudge_after(waiter);
        }
    }

    fn take_from_queues(&self, waiter: &Waiter) {
        let mut registry = self.registry.lock();
        let (select, number) = (waiter.context.select, waiter.number());
        for key in waiter.keys() {
            if !take_out(registry.queues.get_mut(&(select, waiter.wanted)), key, number) {
                continue;
            }
            self.shared.interest.remove(select, key);
            if let Some(target) = waiter.target() {
                forget_move(&mut registry.moves, key, target);
                self.moves.fetch_sub(1, Ordering::SeqCst);
            }
        }
        if registry.queues.get(&(select, waiter.wanted)).is_some_and(HashMap::is_empty) {
            registry.queues.remove(&(select, waiter.wanted));
        }
    }

    /// Ends the wait of a waiter that has found nothing for as long as its command said. That is remembered. `request` is what
    /// its client has sent. False: it is being served, or the wait is over.
    pub fn time_out(&self, waiter: &Waiter, request: &OwnedRequest) -> bool {
        let mut registry = self.registry.lock();
        // Before the end of the wait: a change from here on either serves the waiter or is seen to have come.
        let changes = self.changes();
        if !waiter.end() {
            return false;
        }
        let name = (waiter.context.select, words_of(request));
        let bytes = name.1.len() + waiter.request.heap_bytes() + size_of::<Fruitless>();
        if !registry.has_room_for(bytes) {
            registry.forget_fruitless_before(changes);
        }
        // What may be claimed later is found without a change.
        let is_final = waiter.look_at_ms().is_none() && !waiter.is_nudged.load(Ordering::SeqCst);
        if registry.has_room_for(bytes) && is_final {
            let Waiter { wanted, moves, timeout_ms, request: again, .. } = waiter;
            let (wanted, moves, timeout_ms) = (*wanted, *moves, *timeout_ms);
            let fruitless = Fruitless { wanted, moves, timeout_ms, again: again.clone(), changes };
            if registry.fruitless.insert(name, fruitless).is_none() {
                registry.fruitless_bytes += bytes;
            }
        }
        true
    }

    fn changes(&self) -> Changes {
        let Shared { changes, sequence, next_id, .. } = &*self.shared;
        let entries = sequence.load(Ordering::SeqCst).saturating_sub(self.skipped.load(Ordering::SeqCst));
        (changes.load(Ordering::SeqCst), entries, next_id.load(Ordering::SeqCst))
    }

    /// Called when a checkpoint takes the number of an entry for itself, so that none stands for it.
    pub(crate) fn number_skipped(&self) {
        self.skipped.fetch_add(1, Ordering::SeqCst);
    }

    /// Registers a command without a look at its keys, if the database sleeps and the same request has waited in vain since the
    /// last change.
    pub fn park(&self, candidate: &Candidate) -> Option<Arc<Waiter>> {
        let mut registry = self.registry.lock();
        if !registry.is_asleep || registry.fruitless.is_empty() {
            return None;
        }
        let name = (candidate.context.select, words_of(&candidate.request));
        let Fruitless { wanted, moves, timeout_ms, again, .. } = registry.fruitless.get(&name)?.clone();
        let waiter =
            candidate.clone().waiter(Wait { timeout_ms, moves, again: Some(again), ..Wait::new(wanted, None) });
        self.enter(&mut registry, &waiter);
        Some(waiter)
    }

    /// Called under all locks when the database has fallen asleep.
    pub fn fell_asleep(&self) {
        let mut registry = self.registry.lock();
        registry.is_asleep = true;
        registry.forget_fruitless_before(self.changes());
    }

    /// Called before the database can change again.
    pub fn woke(&self) {
        self.registry.lock().is_asleep = false;
    }

    /// Numbers of keys that are waited for, and of those whose end is waited for too.
    pub fn keys(&self) -> WaitedKeys {
        let registry = self.registry.lock();
        let mut counted = WaitedKeys::default();
        for (&(select, wanted), queues) in &registry.queues {
            let earlier = EVERY_OFFER.iter().take_while(|offer| **offer != wanted);
            let others: Vec<&Queues> = earlier.filter_map(|offer| registry.queues.get(&(select, *offer))).collect();
            counted.all += match others.is_empty() {
                true => queues.len(),
                false => queues.keys().filter(|key| !others.iter().any(|other| other.contains_key(*key))).count(),
            };
            if wanted == Offer::Group {
                counted.and_their_end += queues.len();
            }
        }
        counted
    }

    /// The first waiter for a kind of value under `key` whose number is higher than `after`.
    pub fn next(&self, select: u8, key: &[u8], wanted: Offer, after: u64) -> Option<Arc<Waiter>> {
        next_in(&self.registry.lock(), (select, wanted), key, after)
    }

    /// Whether a change of a key may have to write another one.
    #[inline]
    pub fn has_moves(&self) -> bool {
        self.moves.load(Ordering::SeqCst) > 0
    }

    /// Adds to `keys` those that waiters would write if the keys before them became ready. False: there are too many.
    pub fn follow(&self, keys: &mut Vec<Box<[u8]>>) -> bool {
        let (registry, mut at) = (self.registry.lock(), 0);
        let first = keys.len();
        while at < keys.len() {
            for target in registry.moves.get(&keys[at]).into_iter().flat_map(BTreeMap::keys) {
                if keys.len() > first + FOLLOWED_MAX {
                    return false;
                }
                if !keys.contains(target) {
                    keys.push(target.clone());
                }
            }
            at += 1;
        }
        true
    }

    /// Nudges the first waiter of each key that has changed without a command, or whose index shows other keys.
    pub fn nudge_stirred(&self) {
        let Some(stirred) = self.shared.interest.take_stirred() else { return };
        let registry = self.registry.lock();
        for (&(select, wanted), queues) in &registry.queues {
            if stirred.indexes >> select & 1 != 0 {
                queues.values().filter_map(VecDeque::front).for_each(|waiter| waiter.nudge());
                continue;
            }
            let changed = stirred.keys.iter().filter(|(of, _)| *of == select).map(|(_, key)| key);
            let first = changed.filter_map(|key| next_in(&registry, (select, wanted), key, 0));
            first.for_each(|waiter| waiter.nudge());
        }
    }

    /// Nudges all: every command gets the same error from now on.
    pub fn nudge_all(&self) {
        let registry = self.registry.lock();
        registry.queues.values().flat_map(HashMap::values).flatten().for_each(|waiter| waiter.nudge());
    }

    fn nudge_after(&self, waiter: &Waiter) {
        let registry = self.registry.lock();
        let name = (waiter.context.select, waiter.wanted);
        let next = |key| next_in(&registry, name, key, waiter.number());
        waiter.keys().filter_map(next).for_each(|waiter| waiter.nudge());
    }
}

const EVERY_OFFER: [Offer; 4] = [Offer::List, Offer::SortedSet, Offer::Stream, Offer::Group];

/// The keys that clients wait for. A key counts once, however many wait for it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct WaitedKeys {
    pub all: usize,
    /// Those whose waiters are also told when the key or its group is gone.
    pub and_their_end: usize,
}

impl Registry {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.fruitless.len() < FRUITLESS_MAX && self.fruitless_bytes.saturating_add(bytes) <= FRUITLESS_BYTES_MAX
    }

    /// Forgets the requests whose answer may be another since.
    fn forget_fruitless_before(&mut self, changes: Changes) {
        self.fruitless.retain(|_, fruitless| fruitless.changes == changes);
        let bytes = |((_, words), fruitless): (&(u8, Box<[u8]>), &Fruitless)| {
            words.len() + fruitless.again.heap_bytes() + size_of::<Fruitless>()
        };
        self.fruitless_bytes = self.fruitless.iter().map(bytes).sum();
    }
}

fn next_in(registry: &Registry, name: (u8, Offer), key: &[u8], after: u64) -> Option<Arc<Waiter>> {
    let queue = registry.queues.get(&name)?.get(key)?;
    queue.get(queue.partition_point(|waiter| waiter.number() <= after)).cloned()
}

/// Takes the waiter with this number out of a queue. Returns whether it was there.
fn take_out(queues: Option<&mut Queues>, key: &[u8], number: u64) -> bool {
    let Some(queues) = queues else { return false };
    let Some(queue) = queues.get_mut(key) else { return false };
    let Ok(at) = queue.binary_search_by_key(&number, |waiter| waiter.number()) else { return false };
    queue.remove(at);
    if queue.is_empty() {
        queues.remove(key);
    }
    true
}

fn forget_move(moves: &mut Moves, key: &[u8], target: &[u8]) {
    let Some(targets) = moves.get_mut(key) else { return };
    if let Some(count) = targets.get_mut(target) {
        *count -= 1;
        if *count == 0 {
            targets.remove(target);
        }
    }
    if targets.is_empty() {
        moves.remove(key);
    }
}

/// The words of a request as one, for comparison.
fn words_of(request: &OwnedRequest) -> Box<[u8]> {
    let mut words = Vec::new();
    for word in request.as_request().iter() {
        words.extend_from_slice(&word.len().to_le_bytes());
        words.extend_from_slice(word);
    }
    words.into()
}
