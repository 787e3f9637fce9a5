//! A client: what other connections may see of it and may tell it.
//!
//! The client's session writes here what `CLIENT LIST` shows. Other connections put messages in its outbox or mark it
//! killed, and wake it.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
use std::task::{Poll, Waker};

use arc_swap::ArcSwapOption;
use dormouse_protocol::Budget;
use dormouse_shard::execution::Caller;
use dormouse_shard::memory::{COUNTED_BYTES, MEMORY};
use dormouse_shard::waiters::Waiter;
use futures::task::AtomicWaker;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use super::outbox::{Outbox, OutputLimit};
use crate::account::{self, Account};
use crate::peer::Peer;

#[derive(Debug)]
pub struct Client {
    pub id: u64,
    /// The other end of its connection.
    socket_peer: Peer,
    /// Its own address, if another node of the fleet forwards it.
    shown_peer: ArcSwapOption<Peer>,
    /// Whether another node serves it: bytes go through unread.
    pub is_forwarded_on: AtomicBool,
    pub connected_ms: u64,
    /// File descriptor of its socket; -1: none.
    pub fd: AtomicI32,
    /// Unix milliseconds of its last batch.
    pub active_ms: AtomicU64,
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
    /// Whether it has said that it follows redirections: `CLIENT CAPA`.
    pub can_redirect: AtomicBool,
    /// Bytes that it has sent and got, and the commands among them. Only its own connection writes them.
    net_in: AtomicU64,
    net_out: AtomicU64,
    commands: AtomicU64,
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
    /// In a box: most clients are never told anything.
    outbox: Mutex<Option<Box<Outbox>>>,
    outbox_bytes: AtomicUsize,
    pub waker: AtomicWaker,
    /// Memory that it makes the server keep: see [`crate::account`].
    held: Mutex<HeldBytes>,
    /// The part of it that belongs to replies being written.
    written: AtomicUsize,
    common: Arc<Common>,
    /// Whether it is among those that lag: see [`Common::lagging`].
    is_lagging: AtomicBool,
    /// The database for which it counts toward the node's limit of clients; `None` for strangers. Changed under the
    /// lock of [`Clients`](super::Clients).
    pub(super) welcome_in: Mutex<Option<Arc<str>>>,
}

/// Information that a client has given about itself, its user, and its database (none before it has authenticated).
#[derive(Debug, Default, Clone)]
pub struct Told {
    pub name: Box<[u8]>,
    pub library: Box<str>,
    pub library_version: Box<str>,
    pub user: Box<[u8]>,
    pub database: Arc<str>,
    /// The secret by which it has entered, and the token of the directory if it is one.
    pub shown: ShownSecret,
    pub token: Option<TokenUse>,
    /// Whose certificate it has shown, if there is an audit log.
    pub certificate: Option<Arc<str>>,
}

/// Credentials by which a connection has entered its database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ShownSecret {
    /// Nothing: the server asks for no secret.
    #[default]
    Nothing,
    AdminToken,
    /// The token of this number among those of the options.
    OptionToken(usize),
    /// A token of the directory.
    Token,
    /// The password of a user.
    Password,
}

/// The token of the directory by which a connection has entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUse {
    /// The database whose token it is.
    pub database: Box<str>,
    pub id: u32,
    pub expires_ms: Option<u64>,
}

/// State that all clients of a node share.
#[derive(Debug)]
pub(super) struct Common {
    /// The account of all clients.
    pub memory: Arc<Account>,
    /// The limit on the bytes of replies of one client.
    pub written_max: AtomicUsize,
    /// Whether commands of all clients are to end that have changed nothing, because the server ends.
    pub ends_commands: AtomicBool,
    /// The ids of clients with output that may wait for too long: the system took no more of it, or it is above the soft
    /// limit. They leave when all of it is sent.
    pub lagging: Mutex<Vec<u64>>,
}

#[derive(Debug)]
struct HeldBytes {
    account: Arc<Account>,
    bytes: usize,
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
    /// A client that has just connected. Its memory is charged to `account`, and to that of all clients.
    pub(super) fn new(
        id: u64,
        peer: Peer,
        database: Arc<str>,
        account: &Arc<Account>,
        common: &Arc<Common>,
        now_ms: u64,
    ) -> Self {
        Self {
            id,
            socket_peer: peer,
            shown_peer: ArcSwapOption::empty(),
            is_forwarded_on: AtomicBool::new(false),
            connected_ms: now_ms,
            fd: AtomicI32::new(-1),
            active_ms: AtomicU64::new(now_ms),
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
            can_redirect: AtomicBool::new(false),
            net_in: AtomicU64::new(0),
            net_out: AtomicU64::new(0),
            commands: AtomicU64::new(0),
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
            written: AtomicUsize::new(0),
            common: Arc::clone(common),
            is_lagging: AtomicBool::new(false),
            welcome_in: Mutex::new(None),
        }
    }

    /// Its address, even if another node of the fleet forwards it.
    pub fn peer(&self) -> Peer {
        self.shown_peer.load().as_deref().unwrap_or(&self.socket_peer).clone()
    }

    /// Shows it with another address from now on; `None`: with that of its connection.
    pub(super) fn show_peer(&self, peer: Option<Peer>) {
        self.shown_peer.store(peer.map(Arc::new));
    }

    /// Whether it is on this machine, and did not come by another node of the fleet.
    pub fn is_local(&self) -> bool {
        self.shown_peer.load().is_none() && self.socket_peer.is_local()
    }

    fn take_written(
        &self,
        bytes: usize,
        hold: fn(&Self, usize) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        let written = self.written.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let taken = if written > self.common.written_max.load(Ordering::Relaxed) {
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
            self.common.memory.take_anyway(bytes);
        } else if !fits_beside(bytes) || self.common.memory.take(bytes).is_err() {
            held.account.give(bytes);
            self.common.memory.refused(held.bytes);
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
        if !fits_beside(bytes) || self.common.memory.try_take(bytes).is_err() {
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
        self.common.memory.take_anyway(bytes);
        held.bytes += bytes;
        MEMORY.hold(bytes);
    }

    pub fn let_go(&self, bytes: usize) {
        let mut held = self.held.lock();
        // Nothing is charged to a client after its end.
        let bytes = bytes.min(held.bytes);
        held.bytes -= bytes;
        held.account.give(bytes);
        self.common.memory.give(bytes);
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

    /// Adds to the bytes that it has sent and got, and to its commands.
    pub fn note_traffic(&self, bytes_in: usize, bytes_out: usize, commands: u64) {
        let cells = [(&self.net_in, bytes_in as u64), (&self.net_out, bytes_out as u64), (&self.commands, commands)];
        for (cell, more) in cells {
            cell.store(cell.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        }
    }

    /// Bytes that it has sent and got, and its commands.
    pub fn traffic(&self) -> [u64; 3] {
        [&self.net_in, &self.net_out, &self.commands].map(|cell| cell.load(Ordering::Relaxed))
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

    /// Notes that the system takes no more of its output than all but `bytes`.
    pub fn wait_to_send(&self, bytes: usize) {
        self.output_bytes.store(bytes, Ordering::Relaxed);
        self.lag();
    }

    /// Notes that its output has to be [looked at](Self::check_output).
    fn lag(&self) {
        if !self.is_lagging.swap(true, Ordering::AcqRel) {
            self.common.lagging.lock().push(self.id);
        }
    }

    /// Closes its connection if its unread output was above the soft limit for too long. Called periodically while it
    /// lags, because the messages that exceeded the limit may have been the last.
    pub fn check_output(&self, limit: OutputLimit, now_ms: u64) {
        // Later events are noted again.
        self.is_lagging.swap(false, Ordering::AcqRel);
        if self.output_bytes.load(Ordering::Relaxed) == 0 && self.outbox.lock().is_none() {
            return;
        }
        let mut outbox = self.outbox();
        let bytes = outbox.bytes + self.output_bytes.load(Ordering::Relaxed);
        let is_over = outbox.is_over(bytes, limit, now_ms);
        drop(outbox);
        if is_over {
            self.close_slow_reader(bytes);
        } else if bytes > 0 {
            self.lag();
        }
    }

    /// The database that it is in; empty before it has shown a token.
    pub fn database(&self) -> Arc<str> {
        Arc::clone(&self.told.lock().database)
    }

    fn close_slow_reader(&self, bytes: usize) {
        tracing::warn!(database = &*self.database(), client = self.id, peer = %self.peer(), bytes, "closed: it reads its messages too slowly");
        self.kill();
    }

    /// Adds `message`, already encoded, to its outbox. Kills the client if its outbox exceeds the limit: a slow reader
    /// must not take the server's memory.
    pub fn tell(&self, message: &[u8], limit: OutputLimit, now_ms: u64) {
        let mut outbox = self.outbox();
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
        let was_soft = outbox.is_above_soft();
        if outbox.is_over(bytes, limit, now_ms) {
            self.let_go(outbox.clear());
            drop(outbox);
            self.close_slow_reader(bytes);
            return;
        }
        let begins_to_lag = !was_soft && outbox.is_above_soft();
        drop(outbox);
        if begins_to_lag {
            self.lag();
        }
        // Its task looks for messages before it sleeps, so it was woken for those before.
        if is_first {
            self.waker.wake();
        }
    }

    /// Moves messages from its outbox to `to`: at least one, and more until they have `bytes`.
    pub fn take_messages(&self, to: &mut Vec<u8>, bytes: usize) {
        let mut outbox = self.outbox();
        outbox.take(to, bytes);
        self.let_go(outbox.refund());
        self.outbox_bytes.store(outbox.bytes, Ordering::Release);
    }

    fn outbox(&self) -> MappedMutexGuard<'_, Outbox> {
        MutexGuard::map(self.outbox.lock(), |outbox| &mut **outbox.get_or_insert_default())
    }

    pub fn outbox_bytes(&self) -> usize {
        self.outbox_bytes.load(Ordering::Relaxed)
    }

    /// Whether it is one of a database's clients, and not closed.
    pub(super) fn is_of(&self, database: &str) -> bool {
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

    fn ends(&self) -> bool {
        self.is_killed() || self.common.ends_commands.load(Ordering::Relaxed)
    }

    fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}
