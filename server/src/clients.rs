//! The connected clients: what other connections may see of a client and may tell it.
//!
//! A [`Client`] is shared; its session is not. The session writes here what `CLIENT LIST` shows. Other connections put
//! messages in its outbox or mark it killed, and wake it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
use std::task::{Poll, Waker};

use dormouse_protocol::Budget;
use dormouse_shard::execution::Caller;
use dormouse_shard::memory::{COUNTED_BYTES, MEMORY};
use dormouse_shard::waiters::Waiter;
use futures::task::AtomicWaker;
use parking_lot::Mutex;

use crate::account::{self, Account, CONNECTION_BYTES};
use crate::peer::Peer;
use crate::strangers::{self, Strangers};

#[derive(Debug)]
pub struct Client {
    pub id: u64,
    pub peer: Peer,
    pub connected_ms: u64,
    /// File descriptor of its socket; -1: none.
    pub fd: AtomicI32,
    /// Unix milliseconds of its last batch.
    pub active_ms: AtomicU64,
    /// Unix milliseconds of its last command over the keyspace: what keeps a database awake.
    pub worked_ms: AtomicU64,
    pub select: AtomicU8,
    pub resp: AtomicU8,
    /// Index into the command table; `u16::MAX`: none yet.
    pub last_command: AtomicU16,
    pub channels: AtomicU32,
    pub sharded: AtomicU32,
    pub patterns: AtomicU32,
    /// Commands queued by MULTI; -1 (all ones): no transaction.
    pub queued: AtomicU32,
    pub watching: AtomicU32,
    pub no_evict: AtomicBool,
    /// Whether it has shown the admin token: clients without rights to the node cannot disconnect it.
    pub is_admin: AtomicBool,
    /// Whether it gets the stream of its database.
    pub is_replica: AtomicBool,
    /// Whether it sees the commands of its database.
    pub is_monitor: AtomicBool,
    /// Whether its commands leave the access clocks of keys alone.
    pub no_touch: AtomicBool,
    /// Whether it tracks keys: bits of [`crate::tracking_clients`].
    pub tracking: AtomicU8,
    /// The client that is told in its place what it has to forget; 0: itself; -1: it tracks nothing.
    pub redirect: AtomicI64,
    /// Bytes in its query buffer and its output buffer.
    pub input_bytes: AtomicUsize,
    pub output_bytes: AtomicUsize,
    /// Bytes of the arguments of the running command and of those queued by MULTI.
    pub argument_bytes: AtomicUsize,
    pub queued_bytes: AtomicUsize,
    /// Capacity of its reply buffer while in use, and the most bytes that its replies took so far.
    pub reply_bytes: AtomicUsize,
    pub reply_bytes_peak: AtomicUsize,
    pub told: Mutex<Told>,
    /// Its waiter, while it is blocked.
    waiter: Mutex<Option<Arc<Waiter>>>,
    /// Whether it is blocked by its command, or by `CLIENT PAUSE`.
    pub is_blocked: AtomicBool,
    unblocked_with_error: AtomicBool,
    /// Its wait in a command of the session, like `WAIT`.
    session_wait: AtomicU8,
    /// Whether its wait ends after a time.
    waits_for_a_time: AtomicBool,
    killed: AtomicBool,
    /// Whether it has closed its own connection, which ends after the reply is sent.
    leaving: AtomicBool,
    outbox: Mutex<Outbox>,
    outbox_bytes: AtomicUsize,
    pub waker: AtomicWaker,
    /// Memory that it makes the server keep: see [`crate::account`].
    held: Mutex<HeldBytes>,
    /// The account of all clients.
    of_all: Arc<Account>,
    /// The part of it that belongs to replies being written.
    written: AtomicUsize,
    /// The node's limit on the bytes of replies of one client.
    written_max: Arc<AtomicUsize>,
    /// The database for which it counts toward the node's limit of clients; `None` for strangers. Changed under the
    /// lock of [`Clients`].
    welcome_in: Mutex<Option<Arc<str>>>,
}

/// Information that a client has given about itself, its user, and its database (none before it has authenticated).
#[derive(Debug, Default, Clone)]
pub struct Told {
    pub name: Box<[u8]>,
    pub library: Box<str>,
    pub library_version: Box<str>,
    pub user: Box<[u8]>,
    pub database: Arc<str>,
}

#[derive(Debug)]
struct HeldBytes {
    account: Arc<Account>,
    bytes: usize,
}

/// Short messages are gathered in pieces of this many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Least bytes that are charged for messages at once.
const CHARGED_AT_ONCE: usize = 1 << 10;

/// Messages that are not sent yet, in pieces: no message is copied again when others follow.
#[derive(Debug, Default)]
struct Outbox {
    pieces: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Bytes charged for them: they are charged in steps, because a charge takes longer than a short message.
    charged: usize,
    /// Since when it has been above the soft limit.
    soft_since_ms: Option<u64>,
}

impl Outbox {
    fn add(&mut self, message: &[u8]) {
        self.bytes += message.len();
        match self.pieces.back_mut() {
            Some(last) if last.len() + message.len() <= PIECE_BYTES => last.extend_from_slice(message),
            _ => self.pieces.push_back(message.into()),
        }
    }

    /// The bytes to charge before `message` is added.
    fn due_for(&self, message: &[u8]) -> usize {
        match (self.bytes + message.len()).checked_sub(self.charged) {
            None | Some(0) => 0,
            Some(missing) => missing.max(CHARGED_AT_ONCE),
        }
    }

    /// Takes back the charges that its messages do not need any more. Returns their bytes.
    fn refund(&mut self) -> usize {
        let needed = if self.bytes == 0 { 0 } else { self.bytes + CHARGED_AT_ONCE };
        let excess = self.charged.saturating_sub(needed);
        self.charged -= excess;
        excess
    }

    /// Drops all messages. Returns the bytes that they were charged.
    fn clear(&mut self) -> usize {
        self.pieces = VecDeque::new();
        self.bytes = 0;
        std::mem::take(&mut self.charged)
    }

    /// Whether `bytes` of unread output exceed the limit, now or for too long.
    fn is_over(&mut self, bytes: usize, limit: OutputLimit, now_ms: u64) -> bool {
        let soft = limit.soft_bytes > 0 && bytes > limit.soft_bytes;
        self.soft_since_ms = if soft { Some(self.soft_since_ms.unwrap_or(now_ms)) } else { None };
        let too_long = self.soft_since_ms.is_some_and(|since| now_ms.saturating_sub(since) > limit.soft_seconds * 1000);
        limit.hard_bytes > 0 && bytes > limit.hard_bytes || too_long
    }
}

/// An output buffer limit: bytes at once, or bytes for a number of seconds; 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimit {
    pub hard_bytes: usize,
    pub soft_bytes: usize,
    pub soft_seconds: u64,
}

const NO_WAIT: u8 = 0;
const WAITS: u8 = 1;
/// `CLIENT UNBLOCK` has ended it.
const WAIT_ENDED: u8 = 2;

/// The wait of a client in a command of the session.
#[derive(Debug)]
pub struct SessionWait(Arc<Client>);

impl SessionWait {
    /// Returns when `CLIENT UNBLOCK` has ended the wait: whether with an error.
    pub async fn ended(&self) -> bool {
        std::future::poll_fn(|cx| {
            self.0.waker.register(cx.waker());
            match self.0.session_wait.load(Ordering::SeqCst) {
                WAIT_ENDED => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
        self.0.is_unblocked_with_error()
    }
}

impl Drop for SessionWait {
    fn drop(&mut self) {
        self.0.session_wait.store(NO_WAIT, Ordering::SeqCst);
        self.0.waits_for_a_time.store(false, Ordering::Relaxed);
        self.0.is_blocked.store(false, Ordering::Relaxed);
    }
}

/// Memory for its replies.
impl Budget for Client {
    fn take(&self, bytes: usize) -> Result<(), &'static str> {
        self.take_written(bytes, Self::hold)
    }

    fn take_if_free(&self, bytes: usize) -> Result<(), &'static str> {
        self.take_written(bytes, Self::hold_if_free)
    }

    fn give(&self, bytes: usize) {
        self.written.fetch_sub(bytes, Ordering::Relaxed);
        self.let_go(bytes);
    }

    fn take_work(&self, bytes: usize) -> Result<(), &'static str> {
        self.hold(bytes)
    }

    fn give_work(&self, bytes: usize) {
        self.let_go(bytes);
    }
}

/// Whether `bytes` fit beside what the databases have taken since the last memory measurement.
fn fits_beside(bytes: usize) -> bool {
    bytes < COUNTED_BYTES || !MEMORY.is_exceeded_by(bytes)
}

impl Client {
    fn take_written(
        &self,
        bytes: usize,
        hold: fn(&Self, usize) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        let written = self.written.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let taken = if written > self.written_max.load(Ordering::Relaxed) {
            Err("client-output-buffer-limit")
        } else {
            hold(self, bytes)
        };
        taken.inspect_err(|_| _ = self.written.fetch_sub(bytes, Ordering::Relaxed))
    }

    /// Charges `bytes` to the client's database.
    ///
    /// # Errors
    /// The name of the limit that they would exceed.
    pub fn hold(&self, bytes: usize) -> Result<(), &'static str> {
        let mut held = self.held.lock();
        if held.bytes.saturating_add(bytes) <= held.account.each_min() {
            held.account.take_anyway(bytes);
        } else {
            held.account.take(bytes).inspect_err(|_| held.account.refused(held.bytes))?;
        }
        if held.account.used() <= MEMORY.floor() {
            // A client is not refused for what clients of other databases hold; those are closed instead.
            self.of_all.take_anyway(bytes);
        } else if !fits_beside(bytes) || self.of_all.take(bytes).is_err() {
            held.account.give(bytes);
            self.of_all.refused(held.bytes);
            return Err(account::TOTAL);
        }
        held.bytes += bytes;
        MEMORY.hold(bytes);
        Ok(())
    }

    /// Like [`Self::hold`], for callers that can do with less: a refusal is not counted.
    fn hold_if_free(&self, bytes: usize) -> Result<(), &'static str> {
        let mut held = self.held.lock();
        held.account.try_take(bytes)?;
        if !fits_beside(bytes) || self.of_all.try_take(bytes).is_err() {
            held.account.give(bytes);
            return Err(account::TOTAL);
        }
        held.bytes += bytes;
        MEMORY.hold(bytes);
        Ok(())
    }

    /// Charges `bytes` that are already kept.
    pub fn hold_anyway(&self, bytes: usize) {
        let mut held = self.held.lock();
        held.account.take_anyway(bytes);
        self.of_all.take_anyway(bytes);
        held.bytes += bytes;
        MEMORY.hold(bytes);
    }

    pub fn let_go(&self, bytes: usize) {
        let mut held = self.held.lock();
        // Nothing is charged to a client after its end.
        let bytes = bytes.min(held.bytes);
        held.bytes -= bytes;
        held.account.give(bytes);
        self.of_all.give(bytes);
        MEMORY.let_go(bytes);
    }

    /// Moves its charges to `account`, and charges later ones to it.
    pub fn charge_to(&self, account: &Arc<Account>) {
        let mut held = self.held.lock();
        if !Arc::ptr_eq(&held.account, account) {
            account.take_anyway(held.bytes);
            held.account.give(held.bytes);
            held.account = Arc::clone(account);
        }
    }

    /// Bytes that it makes the server keep.
    pub fn held_bytes(&self) -> usize {
        self.held.lock().bytes
    }

    /// Whether its bytes are charged to `account`.
    pub fn is_charged_to(&self, account: &Arc<Account>) -> bool {
        Arc::ptr_eq(&self.held.lock().account, account)
    }

    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Marks its connection to be closed. The connection closes when it sees the mark.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        // Nothing is taken for it any more.
        if let Some(waiter) = &*self.waiter.lock() {
            waiter.end();
        }
        self.waker.wake();
    }

    /// Notes that it waits.
    pub fn block(&self, waiter: &Arc<Waiter>) {
        *self.waiter.lock() = Some(Arc::clone(waiter));
        self.waits_for_a_time.store(waiter.timeout_ms.is_some(), Ordering::Relaxed);
        self.is_blocked.store(true, Ordering::Relaxed);
        if self.is_killed() {
            waiter.end();
        }
    }

    /// Notes that it waits no longer.
    pub fn unblocked(&self) {
        *self.waiter.lock() = None;
        self.waits_for_a_time.store(false, Ordering::Relaxed);
        self.is_blocked.store(false, Ordering::Relaxed);
    }

    /// Notes that it waits in a command of the session, until the result is dropped.
    pub fn begin_wait(self: &Arc<Self>, is_bounded: bool) -> SessionWait {
        self.session_wait.store(WAITS, Ordering::SeqCst);
        self.waits_for_a_time.store(is_bounded, Ordering::Relaxed);
        self.is_blocked.store(true, Ordering::Relaxed);
        SessionWait(Arc::clone(self))
    }

    /// Ends its wait for another client, as if it had timed out or with an error. Returns whether it waited.
    pub fn unblock(&self, with_error: bool) -> bool {
        let waiter = self.waiter.lock();
        self.unblocked_with_error.store(with_error, Ordering::SeqCst);
        match &*waiter {
            Some(waiter) => waiter.end(),
            None => {
                let ended =
                    self.session_wait.compare_exchange(WAITS, WAIT_ENDED, Ordering::SeqCst, Ordering::SeqCst).is_ok();
                if ended {
                    self.waker.wake();
                }
                ended
            }
        }
    }

    /// Whether its wait ends after a time.
    pub fn has_timeout(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed) && self.waits_for_a_time.load(Ordering::Relaxed)
    }

    pub fn is_unblocked_with_error(&self) -> bool {
        self.unblocked_with_error.swap(false, Ordering::SeqCst)
    }

    /// Whether its connection is closed or about to close.
    pub fn is_gone(&self) -> bool {
        self.is_killed() || self.leaving.load(Ordering::Acquire)
    }

    /// Removes it from the list.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub fn has_messages(&self) -> bool {
        self.outbox_bytes.load(Ordering::Acquire) > 0
    }

    /// Closes its connection if its unread output was above the soft limit for too long. Called periodically, because
    /// the messages that exceeded the limit may have been the last.
    pub fn check_output(&self, limit: OutputLimit, now_ms: u64) {
        let mut outbox = self.outbox.lock();
        let bytes = outbox.bytes + self.output_bytes.load(Ordering::Relaxed);
        if outbox.is_over(bytes, limit, now_ms) {
            drop(outbox);
            self.close_slow_reader(bytes);
        }
    }

    fn close_slow_reader(&self, bytes: usize) {
        tracing::warn!(client = self.id, peer = %self.peer, bytes, "closed: it reads its messages too slowly");
        self.kill();
    }

    /// Adds `message`, already encoded, to its outbox. Kills the client if its outbox exceeds the limit: a slow reader
    /// must not take the server's memory.
    pub fn tell(&self, message: &[u8], limit: OutputLimit, now_ms: u64) {
        let mut outbox = self.outbox.lock();
        let due = outbox.due_for(message);
        if due > 0 && self.hold(due).is_err() {
            let bytes = outbox.bytes + message.len();
            self.let_go(outbox.clear());
            drop(outbox);
            self.close_slow_reader(bytes);
            return;
        }
        outbox.charged += due;
        let is_first = outbox.bytes == 0;
        outbox.add(message);
        let bytes = outbox.bytes + self.output_bytes.load(Ordering::Relaxed);
        self.outbox_bytes.store(outbox.bytes, Ordering::Release);
        if outbox.is_over(bytes, limit, now_ms) {
            self.let_go(outbox.clear());
            drop(outbox);
            self.close_slow_reader(bytes);
            return;
        }
        drop(outbox);
        // Its task looks for messages before it sleeps, so it was woken for those before.
        if is_first {
            self.waker.wake();
        }
    }

    /// Moves messages from its outbox to `to`: at least one, and more until they have `bytes`.
    pub fn take_messages(&self, to: &mut Vec<u8>, bytes: usize) {
        let mut outbox = self.outbox.lock();
        let mut taken = 0;
        while taken < bytes
            && let Some(mut piece) = outbox.pieces.pop_front()
        {
            taken += piece.len();
            if to.capacity() < piece.len() && to.is_empty() {
                *to = piece;
            } else {
                to.append(&mut piece);
            }
        }
        outbox.bytes -= taken;
        self.let_go(outbox.refund());
        if outbox.bytes == 0 {
            outbox.pieces = VecDeque::new();
            outbox.soft_since_ms = None;
        }
        self.outbox_bytes.store(outbox.bytes, Ordering::Release);
    }

    pub fn outbox_bytes(&self) -> usize {
        self.outbox_bytes.load(Ordering::Relaxed)
    }

    /// Whether it is one of a database's clients, and not closed.
    fn is_of(&self, database: &str) -> bool {
        !self.is_gone() && &*self.told.lock().database == database
    }

    pub fn is_subscriber(&self) -> bool {
        [&self.channels, &self.sharded, &self.patterns].iter().any(|count| count.load(Ordering::Relaxed) > 0)
    }
}

/// How many of some clients are blocked.
pub fn blocked(clients: &[Arc<Client>]) -> usize {
    clients.iter().filter(|client| client.is_blocked.load(Ordering::Relaxed)).count()
}

impl Caller for Client {
    fn is_gone(&self) -> bool {
        self.is_killed()
    }

    fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

/// All clients of the node. Clients that have not shown a token do not count toward the limit of clients.
#[derive(Debug)]
pub struct Clients {
    all: Mutex<All>,
    last_id: AtomicU64,
    count: AtomicUsize,
    pub accepted: AtomicU64,
    pub rejected: AtomicU64,
    is_draining: AtomicBool,
    /// The account of all clients.
    pub memory: Arc<Account>,
    /// The account of clients that have not shown a token.
    strangers_memory: Arc<Account>,
    /// Limit on the bytes of replies of one client.
    pub written_max: Arc<AtomicUsize>,
}

impl Default for Clients {
    fn default() -> Self {
        let memory = Account::new(account::TOTAL, usize::MAX);
        Self {
            all: Mutex::default(),
            last_id: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            strangers_memory: Account::with_each_min(
                account::OF_STRANGERS,
                strangers::MEMORY_MAX,
                strangers::MEMORY_EACH_MIN,
            ),
            memory,
            written_max: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }
}

#[derive(Debug, Default)]
struct All {
    by_id: BTreeMap<u64, Arc<Client>>,
    /// Number of welcome clients, in total and for each database.
    welcome: usize,
    by_database: HashMap<Arc<str>, usize>,
    strangers: Strangers,
}

/// The number of clients that the node takes.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    pub max: usize,
    /// The number of databases that share the places. Each can claim its part of a quarter of them, whatever the others
    /// take.
    pub databases: usize,
    /// Whether new clients are refused because the process has no memory left.
    pub is_out_of_memory: bool,
}

/// The reason why the node refuses a client. `Display` is the text that the client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("ERR max number of clients reached")]
    TooMany,
    #[error("OOM no new clients are taken when used memory > 'maxmemory-total'.")]
    OutOfMemory,
}

impl All {
    /// Gives a client of `database` a place.
    fn admit(&mut self, database: &Arc<str>, places: Places) -> Result<(), Refusal> {
        if places.is_out_of_memory {
            return Err(Refusal::OutOfMemory);
        }
        if self.welcome + self.kept_for_others(database, places) >= places.max {
            return Err(Refusal::TooMany);
        }
        self.welcome += 1;
        *self.by_database.entry(Arc::clone(database)).or_default() += 1;
        Ok(())
    }

    fn dismiss(&mut self, database: &Arc<str>) {
        self.welcome -= 1;
        if let Some(count) = self.by_database.get_mut(database) {
            *count -= 1;
            if *count == 0 {
                self.by_database.remove(database);
            }
        }
    }

    /// Number of places that the other databases can still claim.
    fn kept_for_others(&self, database: &Arc<str>, places: Places) -> usize {
        let quarter = places.max / 4;
        if self.welcome + quarter < places.max {
            return 0;
        }
        let share = quarter / places.databases.max(1);
        let claimed =
            self.by_database.iter().filter(|(name, _)| *name != database).map(|(_, count)| *count.min(&share));
        (share * places.databases.saturating_sub(1)).saturating_sub(claimed.sum())
    }
}

impl Clients {
    /// Adds a client of a database that requires no token.
    ///
    /// # Errors
    /// When the node does not take it.
    pub fn add(
        &self,
        peer: Peer,
        database: &Arc<str>,
        account: &Arc<Account>,
        now_ms: u64,
        places: Places,
    ) -> Result<Arc<Client>, Refusal> {
        let mut all = self.all.lock();
        all.admit(database, places).inspect_err(|_| self.reject())?;
        let client = self.enlist(&mut all, peer, Arc::clone(database), account, now_ms);
        *client.welcome_in.lock() = Some(Arc::clone(database));
        Ok(client)
    }

    fn reject(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a client that has to show a token. If strangers hold more than `places`, an older one is closed.
    pub fn add_stranger(&self, peer: Peer, now_ms: u64, places: usize) -> Arc<Client> {
        let mut all = self.all.lock();
        let client = self.enlist(&mut all, peer, "".into(), &self.strangers_memory, now_ms);
        self.close_for(&mut all, &client, now_ms, places);
        client
    }

    /// Records that a client has shown a token of `database`.
    ///
    /// # Errors
    /// When the node does not take it. Then it keeps its previous place.
    pub fn welcome(&self, client: &Client, database: &Arc<str>, places: Places) -> Result<(), Refusal> {
        let mut all = self.all.lock();
        let mut place = client.welcome_in.lock();
        if place.as_ref() == Some(database) {
            return Ok(());
        }
        // A client that comes from another database gives up its place there.
        let before = place.take();
        before.iter().for_each(|before| all.dismiss(before));
        if let Err(refusal) = all.admit(database, places) {
            self.reject();
            if let Some(before) = before {
                all.welcome += 1;
                *all.by_database.entry(Arc::clone(&before)).or_default() += 1;
                *place = Some(before);
            }
            return Err(refusal);
        }
        *place = Some(Arc::clone(database));
        all.strangers.remove(client.id);
        Ok(())
    }

    /// Requires a client to show a token again.
    pub fn estrange(&self, client: &Arc<Client>, now_ms: u64, places: usize) {
        let mut all = self.all.lock();
        if let Some(database) = client.welcome_in.lock().take() {
            all.dismiss(&database);
            client.charge_to(&self.strangers_memory);
            self.close_for(&mut all, client, now_ms, places);
        }
    }

    /// Closes strangers that connected before `since_ms`.
    pub fn close_strangers_before(&self, since_ms: u64) {
        let all = self.all.lock();
        all.strangers.before(since_ms).iter().filter_map(|id| all.by_id.get(id)).for_each(|client| client.kill());
    }

    /// Closes the strangers that keep most memory, if all strangers together keep too much.
    pub fn close_hoarding_strangers(&self) {
        if let Some(bytes) = self.strangers_memory.is_crowded() {
            self.evict(&self.strangers_memory, bytes);
        }
    }

    pub fn strangers(&self) -> usize {
        self.all.lock().strangers.len()
    }

    fn close_for(&self, all: &mut All, stranger: &Client, now_ms: u64, places: usize) {
        if let Some(client) = all.strangers.add(stranger.id, &stranger.peer, now_ms, places) {
            self.reject();
            all.by_id.get(&client).inspect(|client| client.kill());
        }
    }

    /// Closes the clients that keep most memory of `account`, until `bytes` are free. Returns the number of closed
    /// clients.
    pub fn evict(&self, account: &Arc<Account>, bytes: usize) -> usize {
        let mut hoarders: Vec<_> = self.list();
        hoarders.retain(|client| {
            client.is_charged_to(account) && !client.no_evict.load(Ordering::Relaxed) && !client.is_killed()
        });
        hoarders.sort_by_cached_key(|client| std::cmp::Reverse(client.held_bytes()));
        let (mut left, mut closed) = (bytes, 0);
        for client in hoarders {
            // Closing a client that holds next to nothing would not help.
            if left == 0 || client.held_bytes() <= 2 * CONNECTION_BYTES {
                break;
            }
            left = left.saturating_sub(client.held_bytes());
            tracing::warn!(client = client.id, peer = %client.peer, bytes = client.held_bytes(), "closed: it keeps most of the memory that its fellows may keep together");
            client.kill();
            closed += 1;
        }
        closed
    }

    fn enlist(
        &self,
        all: &mut All,
        peer: Peer,
        database: Arc<str>,
        account: &Arc<Account>,
        now_ms: u64,
    ) -> Arc<Client> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client {
            id,
            peer,
            connected_ms: now_ms,
            fd: AtomicI32::new(-1),
            active_ms: AtomicU64::new(now_ms),
            worked_ms: AtomicU64::new(0),
            select: AtomicU8::new(0),
            tracking: AtomicU8::new(0),
            redirect: AtomicI64::new(-1),
            resp: AtomicU8::new(2),
            last_command: AtomicU16::new(u16::MAX),
            channels: AtomicU32::new(0),
            sharded: AtomicU32::new(0),
            patterns: AtomicU32::new(0),
            queued: AtomicU32::new(u32::MAX),
            watching: AtomicU32::new(0),
            no_evict: AtomicBool::new(false),
            is_admin: AtomicBool::new(false),
            is_replica: AtomicBool::new(false),
            is_monitor: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            input_bytes: AtomicUsize::new(0),
            output_bytes: AtomicUsize::new(0),
            argument_bytes: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            reply_bytes: AtomicUsize::new(0),
            reply_bytes_peak: AtomicUsize::new(0),
            told: Mutex::new(Told { database, ..Told::default() }),
            waiter: Mutex::default(),
            is_blocked: AtomicBool::new(false),
            unblocked_with_error: AtomicBool::new(false),
            session_wait: AtomicU8::new(NO_WAIT),
            waits_for_a_time: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            outbox: Mutex::default(),
            outbox_bytes: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
            held: Mutex::new(HeldBytes { account: Arc::clone(account), bytes: 0 }),
            of_all: Arc::clone(&self.memory),
            written: AtomicUsize::new(0),
            written_max: Arc::clone(&self.written_max),
            welcome_in: Mutex::new(None),
        });
        client.hold_anyway(CONNECTION_BYTES);
        all.by_id.insert(id, Arc::clone(&client));
        self.count.store(all.by_id.len(), Ordering::Relaxed);
        client
    }

    pub fn remove(&self, id: u64) {
        let mut all = self.all.lock();
        all.strangers.remove(id);
        if let Some(client) = all.by_id.remove(&id) {
            let database = client.welcome_in.lock().take();
            database.iter().for_each(|database| all.dismiss(database));
            client.leave();
            client.let_go(usize::MAX);
        }
        self.count.store(all.by_id.len(), Ordering::Relaxed);
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Closes every client once it has its replies, including clients that connect from now on.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
        self.list().iter().for_each(|client| client.waker.wake());
    }

    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// All clients in the order of their ids.
    pub fn list(&self) -> Vec<Arc<Client>> {
        self.all.lock().by_id.values().cloned().collect()
    }

    /// How many clients have a place for a database.
    pub fn count_of(&self, database: &str) -> usize {
        self.all.lock().by_database.get(database).copied().unwrap_or(0)
    }

    /// The clients of one database: no tenant sees another's. A closed client is left out even if its worker has yet to
    /// notice.
    pub fn of_database(&self, database: &str) -> Vec<Arc<Client>> {
        let mut clients = self.list();
        clients.retain(|client| client.is_of(database));
        clients
    }

    /// Those of one database among the next `count` clients of all, from id `from` on, and where to continue.
    pub fn some_of_database(&self, database: &str, from: u64, count: usize) -> (Vec<Arc<Client>>, Option<u64>) {
        let mut clients: Vec<_> =
            self.all.lock().by_id.range(from..).take(count).map(|(_, it)| Arc::clone(it)).collect();
        let next = clients.last().filter(|_| clients.len() == count).map(|last| last.id + 1);
        clients.retain(|client| client.is_of(database));
        (clients, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(max: usize, databases: usize) -> Places {
        Places { max, databases, is_out_of_memory: false }
    }

    /// Adds clients of `database` until the node refuses one. Returns the number of added clients.
    fn fill(clients: &Clients, database: &str, places: Places) -> usize {
        let account = Account::new(account::OF_DATABASE, usize::MAX);
        let add = || clients.add(Peer::Unix("test".into()), &database.into(), &account, 0, places);
        std::iter::from_fn(|| add().ok()).count()
    }

    #[test]
    fn a_database_cannot_take_all_places() {
        let clients = Clients::default();
        assert_eq!(fill(&clients, "alone", places(100, 1)), 100, "but it can where it is alone");
        let clients = Clients::default();
        // A quarter of the places is shared: 5 for each of 5.
        assert_eq!(fill(&clients, "greedy", places(100, 5)), 80);
        assert_eq!(fill(&clients, "second", places(100, 5)), 5);
        assert_eq!(fill(&clients, "third", places(100, 5)), 5);
        assert_eq!(fill(&clients, "greedy", places(100, 5)), 0);
        assert_eq!(fill(&clients, "fourth", places(100, 5)), 5);
        assert_eq!(fill(&clients, "fifth", places(100, 5)), 5);
        // A client that leaves frees its place for another one.
        let first = clients.list().remove(0);
        clients.remove(first.id);
        assert_eq!(fill(&clients, "fifth", places(100, 5)), 1);
    }

    #[test]
    fn messages_are_taken_in_their_order_and_in_pieces() {
        let clients = Clients::default();
        assert_eq!(fill(&clients, "reader", places(1, 1)), 1);
        let client = clients.list().remove(0);
        let limit = OutputLimit { hard_bytes: 0, soft_bytes: 0, soft_seconds: 0 };
        let messages: Vec<Vec<u8>> =
            [10, 20, PIECE_BYTES, 30, 3 * PIECE_BYTES, 40].iter().zip(0..).map(|(len, n)| vec![n; *len]).collect();
        let own = client.held_bytes();
        messages.iter().for_each(|message| client.tell(message, limit, 0));
        let all = messages.concat();
        let is_charged = |bytes: usize| {
            let charged = client.held_bytes() - own;
            client.outbox_bytes() == bytes && (bytes..=bytes + CHARGED_AT_ONCE).contains(&charged)
        };
        assert!(is_charged(all.len()));
        let mut taken = Vec::new();
        for turn in 0.. {
            let mut some = Vec::with_capacity(turn);
            client.take_messages(&mut some, PIECE_BYTES);
            assert!(!some.is_empty() && some.len() <= 4 * PIECE_BYTES);
            taken.append(&mut some);
            let left = all.len() - taken.len();
            assert!(is_charged(left));
            if !client.has_messages() {
                break;
            }
        }
        assert_eq!(client.held_bytes(), own);
        assert_eq!(taken, all);
    }

    #[test]
    fn without_memory_no_client_is_taken() {
        let clients = Clients::default();
        let account = Account::new(account::OF_DATABASE, usize::MAX);
        let full = Places { is_out_of_memory: true, ..places(10, 1) };
        let refused = clients.add(Peer::Unix("test".into()), &"a".into(), &account, 0, full);
        assert_eq!(refused.err(), Some(Refusal::OutOfMemory));
        assert_eq!((clients.count(), account.used()), (0, 0));
    }

    #[test]
    fn strangers_together_have_a_bound_and_each_can_say_who_it_is() {
        let clients = Clients::default();
        let add = || clients.add_stranger(Peer::Unix("test".into()), 0, 1024);
        let mut hoarders = Vec::new();
        while hoarders.len() < 1000 {
            let hoarder = add();
            if hoarder.hold(160 << 10).is_err() {
                break;
            }
            hoarders.push(hoarder);
        }
        assert!(clients.memory.used() <= strangers::MEMORY_MAX, "{}", clients.memory.used());
        let late = add();
        assert_eq!(late.hold(1000), Ok(()), "that is enough for a token");
        assert_eq!(late.hold(160 << 10), Err(account::OF_STRANGERS));
        clients.close_hoarding_strangers();
        assert!(!late.is_killed() && hoarders.iter().any(|hoarder| hoarder.is_killed()));
    }

    #[test]
    fn a_reply_that_gets_along_with_less_room_harms_nobody() {
        let clients = Clients::default();
        let account = Account::new(account::OF_DATABASE, 10 << 20);
        let add = || clients.add(Peer::Unix("test".into()), &"a".into(), &account, 0, places(10, 1)).unwrap();
        let (small, large) = (add(), add());
        large.hold(9 << 20).unwrap();
        let mut reply = dormouse_protocol::Reply::within(Default::default(), Some(Arc::clone(&small) as _));
        let written = (0..100).take_while(|_| {
            let start = reply.len();
            reply.bulk(&[b'x'; 8 << 10]);
            reply.settle(start);
            reply.granted() < 900 << 10
        });
        assert!(written.count() > 80, "so much fits");
        assert_eq!((account.is_crowded(), account.refusals()), (None, 0));
    }

    #[test]
    fn a_client_takes_its_charges_with_it() {
        let clients = Clients::default();
        let accounts = [100 << 10, 10 << 10].map(|limit| Account::new(account::OF_DATABASE, limit));
        let add = || clients.add(Peer::Unix("test".into()), &"a".into(), &accounts[0], 0, places(10, 1)).unwrap();
        let (small, large) = (add(), add());
        small.hold(20 << 10).unwrap();
        large.hold(60 << 10).unwrap();
        assert_eq!(large.hold(20 << 10), Err(account::OF_DATABASE));
        assert_eq!(accounts[0].is_crowded(), None, "it has most of it itself");
        assert_eq!(small.hold(20 << 10), Err(account::OF_DATABASE));
        assert_eq!(clients.memory.used(), 2 * CONNECTION_BYTES + (80 << 10));
        // The largest client is closed, and only as many as needed.
        assert_eq!(clients.evict(&accounts[0], accounts[0].is_crowded().unwrap()), 1);
        assert_eq!((small.is_killed(), large.is_killed()), (false, true));
        clients.remove(large.id);
        assert_eq!(accounts[0].used(), CONNECTION_BYTES + (20 << 10));
        small.charge_to(&accounts[1]);
        assert_eq!((accounts[0].used(), accounts[1].used()), (0, CONNECTION_BYTES + (20 << 10)));
        assert_eq!(small.hold(1), Err(account::OF_DATABASE), "what it has brought is more than it may have here");
        small.let_go(usize::MAX);
        assert_eq!((accounts[1].used(), clients.memory.used()), (0, 0));
        clients.memory.set_limit(10);
        assert_eq!(small.hold(11), Err(account::TOTAL));
        assert_eq!(accounts[1].used(), 0, "nothing of a refused charge stays");
    }
}
