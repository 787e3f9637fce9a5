//! A session: who the client is, which database it speaks to, and the way of each of its commands.
//!
//! There are two ways:
//!
//! - **The batch** ([`Session::batch`]), which nearly every command takes: parse, look the command up, take the lock of its
//!   shard with `try_hold`, run every following command of the read buffer that belongs to the same shard, let the lock
//!   go. Nothing here awaits, allocates or copies a request.
//! - **The slow way** ([`Session::execute`]), for whatever may have to wait: the database sleeps, a place must be loaded,
//!   the lock is taken, several shards are needed, the command is of the slow lane, it concerns the connection. The
//!   request is copied, and the batch goes on after it.
//!
//! Invariant: a connection's commands run and answer in their order.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use dormouse_protocol::{Limits, OwnedRequest, Parsed, Parser, Reply, Request, Version};
use dormouse_shard::commands::{self, Flags, Row, Run};
use dormouse_shard::error::Error;
use dormouse_shard::keyspace::eviction::{NoRoom, added_bytes};
use dormouse_shard::keyspace::{Fault, Keyspace, Left};
use dormouse_shard::memory::MEMORY;
use dormouse_shard::slot_of;
use dormouse_storage::log::Lsn;
use futures::future::BoxFuture;

use crate::account;
use crate::ahead::{self, Ahead, Waiting};
use crate::clients::Client;
use crate::databases::Tenant;
use crate::late::Awaiting;
use crate::metering::{Batch, Writer};
use crate::node::Node;
use crate::pubsub::Name;
use crate::rights::Rights;
use crate::strangers::{self, Origin};
use crate::table::{Action, Entry, TABLE};
use crate::task::{self, Outcome, Task};
use crate::turn::{Turn, Waits};
use crate::worker::Worker;

/// Replies beyond this are sent before the batch goes on: a pipeline must not pile up gigabytes.
const REPLY_HIGH_WATER: usize = 1 << 20;

/// The copy of a request that waits is charged for when it is larger.
const COPY_BYTES_FREE: usize = 1024;

/// Places for connections with rights to the node beyond the most clients that it takes.
const ADMIN_PLACES: usize = 8;

/// One batch in so many is timed for the autoscaler.
const SAMPLE: u64 = 16;

/// A request or a reply of more bytes may take long: its command is timed by itself.
const TIMED_BYTES: usize = 8 << 10;
/// Where commands are noted that take no longer than this, each is timed by itself.
const TIMED_EACH_NS: u64 = 100_000;
/// For so long each command of a connection is timed by itself after a batch that took long without saying why.
const TIMED_EACH_MS: u64 = 10_000;

/// What a command that has to wait answers with.
pub type Answer = Box<dyn FnOnce(&mut Reply) + Send>;

/// A command of the session that does not wait, and one that may.
pub type InTransaction = fn(&mut Session, &mut Reply, Request<'_>) -> Result<(), Error>;
pub type Patient = fn(&mut Session, Request<'_>) -> Result<BoxFuture<'static, Answer>, Error>;

/// How a command that concerns the connection or the server is run.
#[derive(Clone, Copy)]
pub enum SessionRun {
    Now(InTransaction),
    /// It waits for something. Not allowed in a transaction, whose locks it might wait for.
    Later(Patient),
    /// It may wait for something, but for what it does in a transaction.
    Either(InTransaction, Patient),
    Exec,
    Watch,
    /// A command over the keyspace that the server's table has a row for: the table resolves it.
    Keyspace(Run),
}

impl std::fmt::Debug for SessionRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionRun")
    }
}

/// What the connection has to do before the batch can go on.
#[derive(Debug)]
pub enum Next {
    /// Read more: all whole requests are answered.
    Read,
    /// Send the replies so far.
    Flush,
    /// Run this request on the slow way.
    Slow(OwnedRequest),
    Close,
}

/// `CLIENT REPLY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyMode {
    On,
    Off,
    /// The reply of the next command is left out.
    SkipNext,
    Skip,
}

/// Commands queued since MULTI.
#[derive(Debug, Default)]
pub struct Transaction {
    pub queue: Vec<OwnedRequest>,
    pub bytes: usize,
    /// A command was refused while queueing: EXEC is.
    pub broken: bool,
}

/// Keys watched for the next EXEC.
#[derive(Debug, Default)]
pub struct Watching {
    /// What they are charged for.
    pub bytes: usize,
    pub touched: Arc<AtomicBool>,
    pub keys: BTreeSet<(u8, Box<[u8]>)>,
}

#[derive(Debug, Default)]
pub struct Subscriptions {
    pub channels: BTreeSet<Name>,
    pub patterns: BTreeSet<Name>,
}

pub struct Session {
    pub node: Arc<Node>,
    pub worker: Rc<Worker>,
    pub client: Arc<Client>,
    pub tenant: Arc<Tenant>,
    writer: Rc<Writer>,
    pub version: Version,
    pub select: u8,
    pub authenticated: bool,
    /// What it may do. Means nothing before it is authenticated.
    pub rights: Rights,
    /// Wrong tokens that it has shown, and how long the reply to the last is held back.
    guesses: u32,
    held_back: Duration,
    /// Requests that were refused before it had shown a token.
    refusals: u32,
    pub closing: bool,
    pub reply_mode: ReplyMode,
    pub transaction: Option<Box<Transaction>>,
    pub watching: Option<Box<Watching>>,
    pub subscriptions: Option<Box<Subscriptions>>,
    /// What must be durable before the replies so far may leave.
    pub awaited: Lsn,
    /// Which of them wait for that.
    pub awaiting: Vec<Awaiting>,
    /// When the last batch or command began.
    pub since: Instant,
    /// The last write of this connection, for `WAITAOF`.
    pub written: Lsn,
    /// The time at which its commands run now: unix microseconds.
    pub now_us: u64,
    /// Until then each command is timed by itself.
    timed_until_ms: u64,
    /// The time of the commands of a transaction, which is theirs and not EXEC's.
    nested: Duration,
    /// What INFO in a transaction tells of.
    pub gathered: Option<Box<crate::commands::info::State>>,
}

/// Why a run of commands under one lock ended.
enum Stop {
    /// The input is used up.
    Read,
    Flush,
    /// The next request is none that can be run under this lock.
    Other,
    /// The next request must take the slow way.
    Slow,
}

impl Session {
    pub fn new(node: &Arc<Node>, worker: &Rc<Worker>, client: &Arc<Client>, tenant: Arc<Tenant>) -> Self {
        let authenticated = !node.tenants.needs_token();
        if authenticated {
            tenant.connections.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            writer: worker.writer(&tenant),
            authenticated,
            rights: rights_without_token(client),
            guesses: 0,
            held_back: Duration::ZERO,
            refusals: 0,
            node: Arc::clone(node),
            worker: Rc::clone(worker),
            client: Arc::clone(client),
            tenant,
            version: Version::Resp2,
            select: 0,
            closing: false,
            reply_mode: ReplyMode::On,
            transaction: None,
            watching: None,
            subscriptions: None,
            awaited: 0,
            awaiting: Vec::new(),
            since: Instant::now(),
            written: 0,
            now_us: 0,
            timed_until_ms: 0,
            nested: Duration::ZERO,
            gathered: None,
        }
    }

    /// Notes what a batch under a lock has left: what its replies wait for.
    pub fn note(&mut self, left: Left) {
        self.awaited = self.awaited.max(left.awaited);
        self.written = self.written.max(left.written);
    }

    /// The same of the replies from `from` to `to`.
    fn note_replies(&mut self, left: Left, from: usize, to: usize) {
        let lsn = left.awaited;
        self.note(left);
        if lsn == 0 || from >= to {
            return;
        }
        match self.awaiting.last_mut() {
            Some(last) if last.to == from && last.lsn == lsn => last.to = to,
            _ => self.awaiting.push(Awaiting { from, to, lsn }),
        }
    }

    /// The wait of the command that is run now.
    pub fn turn(&self) -> Arc<Turn> {
        Arc::new(Turn::new(self.since, self.node.settings().reply_timeout.duration(), &self.client))
    }

    /// Speaks to `tenant` from now on, with these rights.
    ///
    /// # Errors
    /// Where the node takes no more clients: then the connection is over.
    pub fn enter(&mut self, tenant: Arc<Tenant>, rights: Rights) -> Result<(), Error> {
        // The admin gets in where tenants have taken all places: it can make room.
        let is_admin = rights == Rights::Node;
        let mut places = self.node.places();
        if is_admin {
            places.max = places.max.saturating_add(ADMIN_PLACES);
            places.is_out_of_memory = false;
        }
        if let Err(refusal) = self.node.clients.welcome(&self.client, &tenant.owner().into(), places) {
            self.closing = true;
            return Err(Error::Text(refusal.to_string().into()));
        }
        self.rights = rights;
        self.client.is_admin.store(is_admin, Ordering::Relaxed);
        if !Arc::ptr_eq(&tenant, &self.tenant) {
            self.leave();
            self.tenant.worked(self.client.worked_ms.swap(0, Ordering::Relaxed));
            self.writer = self.worker.writer(&tenant);
            self.tenant = tenant;
            self.select(0);
            self.authenticated = false;
        }
        if !self.authenticated {
            self.tenant.connections.fetch_add(1, Ordering::Relaxed);
            self.client.told.lock().database = self.tenant.name().into();
            self.authenticated = true;
        }
        self.client.charge_to(&self.tenant.account);
        Ok(())
    }

    /// As a new connection: where tokens are asked for, it has to present one again, else it is in the default database.
    pub fn forget(&mut self) {
        self.leave();
        self.select(0);
        if self.node.tenants.needs_token() {
            self.tenant.worked(self.client.worked_ms.swap(0, Ordering::Relaxed));
            self.dismiss();
        } else if self.enter(self.node.tenants.default(), rights_without_token(&self.client)).is_err() {
            self.dismiss();
        }
    }

    /// Takes back the authentication: a client that meant another database must not go on in the one that it is in.
    pub fn dismiss(&mut self) {
        self.leave();
        self.authenticated = false;
        self.rights = Rights::Branch;
        self.client.is_admin.store(false, Ordering::Relaxed);
        self.client.told.lock().database = "".into();
        let (_, now_ms) = self.worker.now();
        self.node.clients.estrange(&self.client, now_ms, strangers::places(self.node.max_clients()));
    }

    /// Notes that it has shown a wrong token: the reply is held back, and after some the connection is over.
    pub fn guessed(&mut self) {
        let (_, now_ms) = self.worker.now();
        self.guesses += 1;
        self.closing |= self.guesses >= strangers::GUESSES_MAX;
        self.held_back = self.node.guesses.note(Origin::of(&self.client.peer), self.guesses, now_ms);
    }

    /// Waits as long as the request or its reply is held back, but no longer than the client lives.
    async fn hold_back(&mut self) {
        if self.held_back.is_zero() {
            return;
        }
        let mut over = std::pin::pin!(tokio::time::sleep(std::mem::take(&mut self.held_back)));
        let client = &self.client;
        poll_fn(|cx| {
            client.waker.register(cx.waker());
            if client.is_killed() { Poll::Ready(()) } else { over.as_mut().poll(cx) }
        })
        .await;
    }

    /// Gives up what the session has in its database: transaction, watches, subscriptions.
    pub fn leave(&mut self) {
        crate::commands::transaction::abort(self);
        crate::commands::pubsub::unsubscribe_all(self);
    }

    /// The connection is over.
    pub fn end(&mut self) {
        self.leave();
        self.tenant.worked(self.client.worked_ms.load(Ordering::Relaxed));
    }

    pub fn select(&mut self, select: u8) {
        self.select = select;
        self.client.select.store(select, Ordering::Relaxed);
    }

    pub fn set_version(&mut self, version: Version) {
        self.version = version;
        self.client.resp.store(if version == Version::Resp3 { 3 } else { 2 }, Ordering::Relaxed);
    }

    pub fn limits(&self) -> &'static Limits {
        static FULL: std::sync::LazyLock<Limits> = std::sync::LazyLock::new(Limits::default);
        static UNAUTHENTICATED: std::sync::LazyLock<Limits> = std::sync::LazyLock::new(Limits::unauthenticated);
        if self.authenticated { &FULL } else { &UNAUTHENTICATED }
    }

    pub fn unwatch(&mut self) {
        if let Some(watching) = self.watching.take() {
            let watches = &self.tenant.database.shared.watches;
            watching.keys.iter().for_each(|(select, key)| watches.remove(*select, key, &watching.touched));
            self.client.let_go(watching.bytes);
            self.client.watching.store(0, Ordering::Relaxed);
        }
    }

    /// Whether commands are simply run and answered.
    fn is_plain(&self) -> bool {
        self.authenticated && self.transaction.is_none() && self.reply_mode == ReplyMode::On && !self.is_subscribed()
    }

    /// Whether it is in RESP2's subscribed state, where few commands are allowed.
    fn is_subscribed(&self) -> bool {
        self.version == Version::Resp2 && self.subscriptions.is_some()
    }

    /// Counts one command of a transaction that was run. Its request was counted when it was queued, its reply is
    /// part of that to EXEC.
    pub fn count_queued(&mut self, entry: &Entry, request: Request<'_>, reply: &Reply, before: usize, took: Duration) {
        let mut batch = self.worker.take_batch();
        batch.called(entry.id);
        batch.timed(entry.id, took.as_nanos() as u64);
        if reply.buffer.get(before) == Some(&b'-') {
            batch.failed(entry.id);
            self.tenant.errors.count(&reply.buffer[before..]);
        }
        self.worker.commit(&self.writer, batch, Duration::ZERO);
        self.nested += took;
        self.node.note_time(&self.tenant, &self.client, entry.row, request, took, self.now_us / 1000);
    }

    pub fn count_keyspace(&self, hits: u64, misses: u64) {
        let mut batch = self.worker.take_batch();
        batch.keyspace_hits += hits;
        batch.keyspace_misses += misses;
        self.worker.commit(&self.writer, batch, Duration::ZERO);
    }

    // ---- the batch ----------------------------------------------------------------------------------------------------

    /// Runs the requests in `input`. Returns the bytes that it has consumed, and what to do next.
    pub fn batch(&mut self, parser: &mut Parser, input: &[u8], reply: &mut Reply) -> (usize, Next) {
        let (started, now_us) = self.worker.now_us();
        self.since = started;
        self.now_us = now_us;
        let now_ms = now_us / 1000;
        self.client.active_ms.store(now_ms, Ordering::Relaxed);
        self.client.input_bytes.store(input.len(), Ordering::Relaxed);
        let mut batch = self.worker.take_batch();
        let (used, next) = self.run_batch(parser, input, reply, &mut batch, started, now_ms);
        let elapsed = started.elapsed();
        if elapsed.as_nanos() as u64 >= self.node.noted_from_ns() {
            self.find_slow(&input[..used], &batch, elapsed);
        }
        if reply.len() > self.client.reply_bytes_peak.load(Ordering::Relaxed) {
            self.client.reply_bytes_peak.store(reply.len(), Ordering::Relaxed);
        }
        self.worker.commit(&self.writer, batch, elapsed);
        (used, next)
    }

    /// A batch took as long as a slow command. The clock is not read for each command, so what those took that were not timed
    /// by themselves is known of all of them together: of one alone it is its own time, else the following are timed.
    #[cold]
    fn find_slow(&mut self, input: &[u8], batch: &Batch, elapsed: Duration) {
        let untimed = elapsed.saturating_sub(Duration::from_nanos(batch.timed_ns()));
        let now_ms = self.now_us / 1000;
        if (untimed.as_nanos() as u64) < self.node.noted_from_ns() || batch.untimed() == 0 {
            return;
        }
        if batch.requests() > 1 {
            self.timed_until_ms = now_ms + TIMED_EACH_MS;
            return;
        }
        let mut parser = Parser::new(*self.limits());
        let mut at = 0;
        while let Ok(Parsed::Complete { request, consumed }) = parser.parse(&input[at..]) {
            if !request.is_empty() {
                if let Some(entry) = TABLE.by_name(request.arg(0)) {
                    self.node.note_time(&self.tenant, &self.client, entry.row, request, untimed, now_ms);
                }
                return;
            }
            at += consumed;
        }
    }

    /// Whether the clock is read for each command.
    fn times_each(&self, now_ms: u64) -> bool {
        now_ms < self.timed_until_ms || self.node.noted_from_ns() <= TIMED_EACH_NS
    }

    fn run_batch(
        &mut self,
        parser: &mut Parser,
        input: &[u8],
        reply: &mut Reply,
        batch: &mut Batch,
        started: Instant,
        now_ms: u64,
    ) -> (usize, Next) {
        let mut at = 0;
        loop {
            if reply.len() > REPLY_HIGH_WATER {
                return (at, Next::Flush);
            }
            let (request, consumed) = match parser.parse(&input[at..]) {
                Ok(Parsed::Complete { request, consumed }) => (request, consumed),
                Ok(Parsed::Incomplete { .. }) => return (at, Next::Read),
                Err(error) => {
                    reply.error(&format!("ERR {error}"));
                    return (input.len(), Next::Close);
                }
            };
            if request.is_empty() {
                at += consumed;
                continue;
            }
            let entry = TABLE.by_name(request.arg(0));
            let slow = match entry {
                Some(entry) if self.is_plain() && entry.row.arity.accepts(request.len()) => match entry.action {
                    Action::Keyspace(_)
                        if !entry.row.flags.intersects(Flags::WHOLE | Flags::SLOW_LANE | Flags::BY_CURSOR) =>
                    {
                        let slot = request_slot(entry.row, request);
                        let (used, stop) =
                            self.run_held(parser, &input[at..], entry, slot, reply, batch, started, now_ms);
                        at += used;
                        match stop {
                            Stop::Read => return (at, Next::Read),
                            Stop::Flush => return (at, Next::Flush),
                            Stop::Other if used > 0 => continue,
                            Stop::Other | Stop::Slow => true,
                        }
                    }
                    // What may lead to another database ends the batch, which is counted for this one.
                    Action::Session(SessionRun::Now(run))
                        if entry.subcommands.is_empty() && !entry.row.flags.contains(Flags::NO_AUTH) =>
                    {
                        let before = reply.len();
                        self.client.last_command.store(entry.id as u16, Ordering::Relaxed);
                        let began = self.times_each(now_ms).then(Instant::now);
                        if let Err(error) = run(self, reply, request) {
                            reply.truncate(before);
                            reply.error(&error.to_string());
                        }
                        reply.settle(before);
                        if let Some(took) = began.map(|began| began.elapsed()) {
                            batch.timed(entry.id, took.as_nanos() as u64);
                            self.node.note_time(&self.tenant, &self.client, entry.row, request, took, now_ms);
                        }
                        count(batch, &self.tenant, entry.id, request, reply, before);
                        at += consumed;
                        if self.closing {
                            return (at, Next::Close);
                        }
                        continue;
                    }
                    _ => true,
                },
                _ => true,
            };
            debug_assert!(slow);
            // Parsed again: `run_held` may have used the parser since.
            return match parser.parse(&input[at..]) {
                Ok(Parsed::Complete { request, consumed }) => (at + consumed, Next::Slow(request.to_owned())),
                _ => (at, Next::Read),
            };
        }
    }

    /// Runs requests under the lock of the shard that has `slot`, as long as they belong to it.
    #[expect(clippy::too_many_arguments, reason = "the state of one batch, on the hottest path")]
    fn run_held(
        &mut self,
        parser: &mut Parser,
        input: &[u8],
        first: &Entry,
        slot: Option<u16>,
        reply: &mut Reply,
        batch: &mut Batch,
        mut mark: Instant,
        now_ms: u64,
    ) -> (usize, Stop) {
        let database = Arc::clone(&self.tenant.database);
        let topology = database.topology_guard();
        let Some(topology) = topology.as_ref() else { return (0, Stop::Slow) };
        let single = topology.shards.len() == 1;
        let shard = match slot {
            _ if single => 0,
            Some(slot) => topology.of_slot(slot),
            None => 0,
        };
        let Some(held) = task::try_hold(&topology.shards[shard]) else { return (0, Stop::Slow) };
        let mut contents = held.contents();
        if contents.retired || !topology.matches(shard, &contents) {
            return (0, Stop::Slow);
        }
        self.client.worked_ms.store(now_ms, Ordering::Relaxed);
        self.client.last_command.store(first.id as u16, Ordering::Relaxed);
        let sampled = sample(&mut contents, slot);
        let resident = contents.is_resident();
        let range = (contents.first_slot, contents.end_slot);
        let mut operations = 0;
        let mut db = Keyspace::new([&mut *contents], &database.shared, self.select, now_ms, self.worker.random());
        db.no_touch(self.client.no_touch.load(Ordering::Relaxed));
        let bounded = db.settings().memory_max > 0 || MEMORY.is_full();
        let refusal = database.shared.journal.admit().err().map(Error::from);
        let published = held.gate().guarded.published();
        let times_each = self.times_each(now_ms);
        let mut at = 0;
        // Where the replies begin that the next entry of the log stands for.
        let mut from = reply.len();
        let mut ahead = self.worker.take_ahead();
        let stop = 'windows: loop {
            let belongs = |row: &Row, request: Request<'_>| single || belongs(row, request, range);
            let (parsed, after) = look_ahead(&mut ahead, parser, input, at, &db, belongs);
            for turn in 0..ahead.len() {
                let Waiting { entry, run, end, key, .. } = ahead.get(turn);
                let request = ahead.request(turn, input);
                if let Some((_, position)) = key {
                    db.expect(ahead.key(turn, input), position);
                }
                if reply.len() > REPLY_HIGH_WATER {
                    parser.restart();
                    break 'windows Stop::Flush;
                }
                if !resident && missing(&db, entry.row, request).is_some() || task::is_long(&mut db, entry.row, request)
                {
                    parser.restart();
                    break 'windows Stop::Slow;
                }
                let before = reply.len();
                let is_timed = entry.timed || times_each || end - at > TIMED_BYTES;
                let began = is_timed.then(Instant::now);
                let refusal = refusal.as_ref().filter(|_| entry.row.flags.contains(Flags::WRITE));
                let room = match bounded && refusal.is_none() && entry.row.flags.contains(Flags::DENY_OOM) {
                    true => db.make_room(published, added_bytes(request)),
                    false => Ok(()),
                };
                if let Some(refusal) = refusal {
                    reply.error(&refusal.to_string());
                } else if let Err(NoRoom::Refused(error)) = &room {
                    reply.error(&error.to_string());
                } else if room.is_err() || commands::call(entry.row, run, &mut db, reply, request).is_err() {
                    parser.restart();
                    break 'windows Stop::Slow;
                }
                // Of a large reply it is known afterwards only: what ran before it since the clock was last read counts too.
                if is_timed || reply.len() - before > TIMED_BYTES {
                    let now = Instant::now();
                    let took = now.duration_since(began.unwrap_or(mark));
                    mark = now;
                    batch.timed(entry.id, took.as_nanos() as u64);
                    self.node.note_time(&self.tenant, &self.client, entry.row, request, took, now_ms);
                }
                count(batch, &self.tenant, entry.id, request, reply, before);
                operations += 1;
                at = end;
                if db.is_laden() {
                    let left = db.finish();
                    self.note_replies(left, from, reply.len());
                    from = reply.len();
                    if database.shared.journal.is_over_share() {
                        // The rest waits, rather than other databases for it.
                        parser.restart();
                        break 'windows Stop::Flush;
                    }
                }
            }
            at = parsed;
            if let Some(stop) = after {
                break stop;
            }
        };
        self.worker.give_ahead(ahead);
        batch.keyspace_hits += db.hits;
        batch.keyspace_misses += db.misses;
        let dead = db.take_graveyard();
        self.note_replies(db.finish(), from, reply.len());
        drop(db);
        contents.load.operations += operations;
        if let Some(started) = sampled {
            contents.load.busy_ns += started.elapsed().as_nanos() as u64 * SAMPLE;
        }
        database.free(dead);
        (at, stop)
    }

    // ---- the slow way ---------------------------------------------------------------------------------------------------

    /// Runs one request, waiting for what it needs.
    pub async fn execute(&mut self, request: OwnedRequest, reply: &mut Reply) {
        if self.node.tenants.needs_token() && has_token(request.as_request()) {
            let (_, now_ms) = self.worker.now();
            self.held_back = self.node.guesses.wait(Origin::of(&self.client.peer), now_ms);
            self.hold_back().await;
            if self.client.is_killed() {
                return;
            }
        }
        let (started, now_us) = self.worker.now_us();
        self.since = started;
        self.now_us = now_us;
        let now_ms = now_us / 1000;
        let mut before = reply.len();
        let subscribed = self.subscribed();
        self.nested = Duration::ZERO;
        self.client.argument_bytes.store(request.as_request().bytes(), Ordering::Relaxed);
        self.client.reply_bytes.store(reply.buffer.capacity(), Ordering::Relaxed);
        let awaited = std::mem::take(&mut self.awaited);
        // A small copy is part of what every connection costs.
        let copied = Some(request.heap_bytes()).filter(|bytes| *bytes > COPY_BYTES_FREE).unwrap_or(0);
        let held = self.client.hold(copied);
        let id = match held {
            Ok(()) => self.dispatch(&request, reply, now_ms).await,
            Err(limit) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.broken = true;
                }
                reply.error(&account::refusal(limit).to_string());
                None
            }
        };
        if held.is_ok() {
            self.client.let_go(copied);
        }
        reply.settle(before);
        self.client.argument_bytes.store(0, Ordering::Relaxed);
        self.client.reply_bytes.store(0, Ordering::Relaxed);
        let own = std::mem::replace(&mut self.awaited, awaited);
        // A command's own work is no waiting: a write that took long itself has the whole bound for its flush.
        let limit = self.node.settings().reply_timeout.duration();
        if own > 0 && limit.is_some_and(|limit| started.elapsed() > limit / 2) {
            self.since = Instant::now();
        }
        let request = request.as_request();
        if !self.authenticated {
            // Nothing of it is any database's.
        } else if let Some(id) = id {
            let elapsed = started.elapsed().saturating_sub(self.nested);
            let mut batch = self.worker.take_batch();
            count(&mut batch, &self.tenant, id, request, reply, before);
            self.worker.commit(&self.writer, batch, elapsed);
            self.node.note_time(&self.tenant, &self.client, TABLE.get(id).row, request, elapsed, now_ms);
        } else if reply.buffer.get(before) == Some(&b'-') {
            self.tenant.errors.count(&reply.buffer[before..]);
        }
        reply.set_version(self.version);
        // A subscription is confirmed by a push, and pushes are no replies.
        let is_push = id.is_some_and(|id| crate::commands::pubsub::is_confirmed(&TABLE.get(id).name))
            && reply.buffer.get(before) != Some(&b'-');
        if matches!(self.reply_mode, ReplyMode::Off | ReplyMode::Skip) && !is_push {
            reply.truncate(before);
        }
        self.reply_mode = match self.reply_mode {
            ReplyMode::SkipNext => ReplyMode::Skip,
            ReplyMode::Skip => ReplyMode::On,
            mode => mode,
        };
        if self.subscribed() < subscribed && self.client.has_messages() {
            // They were sent while it still listened: after the confirmation nobody would expect them.
            let mut messages = Vec::new();
            self.client.take_messages(&mut messages);
            let bytes = messages.len();
            reply.buffer.splice(before..before, messages);
            before += bytes;
        }
        self.note_replies(Left { awaited: own, written: 0 }, before, reply.len());
        self.hold_back().await;
    }

    fn subscribed(&self) -> usize {
        self.subscriptions.as_ref().map_or(0, |all| all.channels.len() + all.patterns.len())
    }

    /// Answers one request; its index in the table where it is a command.
    async fn dispatch(&mut self, owned: &OwnedRequest, reply: &mut Reply, now_ms: u64) -> Option<usize> {
        let request = owned.as_request();
        if is_http(request.arg(0)) {
            tracing::warn!(peer = %self.client.peer, "closed: it speaks HTTP, as a web page would that was made to attack the server");
            self.closing = true;
            return None;
        }
        let entry = match TABLE.resolve(request) {
            Ok(entry) => entry,
            Err(text) => {
                if request.arg(0).eq_ignore_ascii_case(b"exec") {
                    // What is wrong with EXEC itself ends the transaction, and is told so even where there is none.
                    crate::commands::transaction::abort(self);
                    let why = String::from_utf8_lossy(&text).replacen("ERR ", "", 1);
                    reply.error(&format!("EXECABORT Transaction discarded because of: {why}"));
                    return None;
                }
                if let Some(transaction) = &mut self.transaction {
                    transaction.broken = true;
                }
                self.note_refusal();
                if self.authenticated || crate::commands::connection::before_auth(request) {
                    reply.error_bytes(&text);
                } else {
                    reply.error("NOAUTH Authentication required.");
                }
                return None;
            }
        };
        if let Err(refusal) = self.admit(entry) {
            if let Some(transaction) = &mut self.transaction {
                transaction.broken = true;
            }
            reply.error(&refusal);
            self.note_refusal();
            if self.authenticated {
                let mut batch = self.worker.take_batch();
                batch.rejected(entry.id);
                self.worker.commit(&self.writer, batch, Duration::ZERO);
            }
            return None;
        }
        if self.transaction.is_some() && !crate::commands::transaction::runs_at_once(entry) {
            let before = reply.len();
            crate::commands::transaction::enqueue(self, entry, owned.clone(), reply);
            let mut batch = self.worker.take_batch();
            batch.queued(request.bytes() as u64, (reply.len() - before) as u64);
            self.worker.commit(&self.writer, batch, Duration::ZERO);
            return None;
        }
        self.client.last_command.store(entry.id as u16, Ordering::Relaxed);
        match entry.action {
            Action::Keyspace(run) => {
                let task = Task::new(entry.row, run, owned.clone(), self, now_ms);
                self.run_task(task, reply).await;
            }
            Action::Session(SessionRun::Now(run)) => {
                let before = reply.len();
                if let Err(error) = run(self, reply, request) {
                    reply.truncate(before);
                    reply.error(&error.to_string());
                }
            }
            Action::Session(SessionRun::Later(run) | SessionRun::Either(_, run)) => match run(self, request) {
                Ok(answer) => self.await_answer(entry, answer, reply).await,
                Err(error) => reply.error(&error.to_string()),
            },
            Action::Session(SessionRun::Exec) => crate::commands::transaction::exec(self, reply, now_ms).await,
            Action::Session(SessionRun::Watch) => {
                crate::commands::transaction::watch(self, reply, request, now_ms).await
            }
            Action::Session(SessionRun::Keyspace(_)) | Action::Container => {
                reply.error(&crate::table::wrong_arity(&entry.name))
            }
        }
        Some(entry.id)
    }

    /// A stranger may send some requests that are refused, and then no more.
    fn note_refusal(&mut self) {
        if !self.authenticated {
            self.refusals += 1;
            self.closing |= self.refusals > strangers::REFUSALS_MAX;
        }
    }

    /// Waits for an answer, but no longer than the client lives: a server that ends does not wait for it. Nor longer than a
    /// reply may take, unless the command waits by its nature.
    async fn await_answer(&mut self, entry: &Entry, answer: BoxFuture<'static, Answer>, reply: &mut Reply) {
        let limit = self.node.settings().reply_timeout.duration().filter(|_| !waits_by_nature(&entry.name));
        let turn = Turn::new(self.since, limit, &self.client);
        match turn.wait(Waits::Answer, answer).await {
            Ok(answer) => answer(reply),
            Err(_) if turn.has_lost_client() => self.closing = true,
            Err(error) => reply.error(&error.to_string()),
        }
    }

    /// Whether the client may run this command now.
    fn admit(&self, entry: &Entry) -> Result<(), String> {
        if !self.authenticated && !entry.row.flags.contains(Flags::NO_AUTH) {
            return Err("NOAUTH Authentication required.".into());
        }
        if self.is_subscribed() && !crate::commands::pubsub::allowed_while_subscribed(&entry.name) {
            return Err(format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                entry.name
            ));
        }
        Ok(())
    }

    /// Runs one command over the keyspace, wherever and whenever it can.
    async fn run_task(&mut self, task: Task, reply: &mut Reply) {
        self.client.worked_ms.store(task.now_ms, Ordering::Relaxed);
        let turn = self.turn();
        match task::run_in_turn(&self.tenant.database, task, &turn).await {
            Ok(Outcome { reply: bytes, hits, misses, left }) => {
                self.note(left);
                reply.append(bytes);
                self.count_keyspace(hits, misses);
            }
            Err(error) => reply.error(&error.to_string()),
        }
    }
}

/// Commands whose reply is that something long is done. They have a bound of their own, or none, as their clients know.
fn waits_by_nature(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "config|set",
        "dormouse|branch",
        "dormouse|checkpoint",
        "dormouse|delete",
        "dormouse|merge",
        "dormouse|sleep",
        "dormouse|split",
        "save",
        "bgsave",
        "shutdown",
        "waitaof",
    ];
    NAMES.contains(&name)
}

/// Parses up to a window of requests that may be run under this lock, from `at` on, and asks for what they will read.
/// Returns where it stopped, and why if not because the window is full.
fn look_ahead(
    ahead: &mut Ahead,
    parser: &mut Parser,
    input: &[u8],
    mut at: usize,
    db: &Keyspace<'_>,
    belongs: impl Fn(&Row, Request<'_>) -> bool,
) -> (usize, Option<Stop>) {
    ahead.clear();
    let stop = loop {
        if ahead.len() == ahead::WINDOW {
            break None;
        }
        let rest = &input[at..];
        let (request, consumed) = match parser.parse(rest) {
            Ok(Parsed::Complete { request, consumed }) => (request, consumed),
            Ok(Parsed::Incomplete { .. }) => break Some(Stop::Read),
            // Met again, and answered, outside.
            Err(_) => break Some(Stop::Other),
        };
        if request.is_empty() {
            at += consumed;
            continue;
        }
        let (Some(entry), Some(spans)) = (TABLE.by_name(request.arg(0)), request.spans_in(rest)) else {
            break Some(Stop::Other);
        };
        let row = entry.row;
        match entry.action {
            Action::Keyspace(run)
                if !row.flags.intersects(Flags::WHOLE | Flags::SLOW_LANE | Flags::BY_CURSOR)
                    && row.arity.accepts(request.len())
                    && belongs(row, request) =>
            {
                let key = row.first_key(request).map(|key| (key, db.position(request.arg(key))));
                ahead.push(entry, run, at, at + consumed, key, spans);
            }
            _ => break Some(Stop::Other),
        }
        at += consumed;
    };
    if ahead.len() >= ahead::PREFETCHED_MIN {
        ahead.positions().for_each(|position| db.prefetch(position));
        ahead.positions().for_each(|position| db.prefetch_record(position));
    }
    (at, stop)
}

/// Counts a batch for the autoscaler; one in [`SAMPLE`] is timed and its slot noted.
fn sample(contents: &mut dormouse_shard::keyspace::Contents, slot: Option<u16>) -> Option<Instant> {
    contents.load.batches += 1;
    if contents.load.batches % SAMPLE != 1 {
        return None;
    }
    if let Some(slot) = slot {
        let (first, end) = (u32::from(contents.first_slot), u32::from(contents.end_slot));
        let part = u32::from(slot).saturating_sub(first) * contents.load.heat.len() as u32 / (end - first);
        contents.load.heat[part as usize] += 1;
    }
    Some(Instant::now())
}

/// Counts a command whose reply begins at `before`.
fn count(batch: &mut Batch, tenant: &Tenant, command: usize, request: Request<'_>, reply: &Reply, before: usize) {
    batch.request(command, request.bytes() as u64, (reply.len() - before) as u64);
    if reply.buffer.get(before) == Some(&b'-') {
        batch.failed(command);
        tenant.errors.count(&reply.buffer[before..]);
    }
}

/// The rights of a client that no token is asked of: those to the whole node, if it is on this machine.
pub fn rights_without_token(client: &Client) -> Rights {
    if client.peer.is_local() { Rights::Node } else { Rights::Database }
}

/// Whether a command's name is a line of an HTTP request: a browser can be made to send one to a port of this machine,
/// with commands in its body.
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"Host:")
}

/// Whether a request may show a token.
fn has_token(request: Request<'_>) -> bool {
    let name = request.arg(0);
    name.eq_ignore_ascii_case(b"AUTH") || name.eq_ignore_ascii_case(b"HELLO") && request.len() > 2
}

/// The slot of a request's first key.
fn request_slot(row: &Row, request: Request<'_>) -> Option<u16> {
    row.first_key(request).map(|key| slot_of(request.arg(key)))
}

fn belongs(row: &Row, request: Request<'_>, (first, end): (u16, u16)) -> bool {
    row.key_indexes(request).all(|key| (first..end).contains(&slot_of(request.arg(key))))
}

/// A place that the request's keys need and that is not in memory.
pub fn missing(db: &Keyspace<'_>, row: &Row, request: Request<'_>) -> Option<Fault> {
    let here = row.key_indexes(request).find_map(|key| db.missing(db.position(request.arg(key))));
    here.or_else(|| {
        let (select, key) = row.elsewhere?(request)?;
        db.missing_in(select, db.position(request.arg(key)))
    })
}
