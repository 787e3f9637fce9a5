//! A session: the client's identity, its database, and its transaction, watches and subscriptions.
//!
//! This is state only. The commands change it, and [`crate::dispatch`] runs them.

mod audited;
mod tracking;

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dormouse_protocol::{OwnedRequest, Reply, Request, RequestLimits, Version};
use dormouse_shard::commands::{Context, Row};
use dormouse_shard::error::Error;
use dormouse_shard::execution::budget::TURN;
use dormouse_shard::execution::{Outcome, PlannedCommand, Turn};
use dormouse_shard::keyspace::Left;
use dormouse_shard::keyspace::changes::Watching;
use dormouse_shard::keyspace::field_sets::FieldSets;
use dormouse_shard::keyspace::notices::PendingMessage;
use dormouse_shard::keyspace::scripts::{Published, ScriptTrace};
use dormouse_shard::keyspace::tracking::Invalidated;
use dormouse_shard::replication::command;
use dormouse_storage::log::Lsn;
use futures::channel::oneshot;

use crate::acl::permissions::Permissions;
use crate::blocked::Blocked;
use crate::clients::{Client, ShownSecret};
use crate::databases::Tenant;
use crate::databases::login::Entrance;
use crate::errors;
use crate::forwarding::link::NodeLink;
use crate::late::Awaiting;
use crate::metering::{Batch, REQUEST_UNIT_BYTES, Writer};
use crate::monitors::{self, CommandOrigin};
use crate::node::Node;
use crate::options::owner_and_branch;
use crate::pubsub::{self, ChannelName, Message, SubscriptionKind};
use crate::replication::{Announced, Replica};
use crate::rights::Rights;
use crate::strangers::{self, Neighbourhood};
use crate::turns::Share;
use crate::worker::Worker;

pub use self::audited::AuditedCommand;
use self::tracking::SessionTracking;

/// Subscriptions that a connection ends by itself when it is closed.
const UNSUBSCRIBED_AT_ONCE: usize = 100;
/// Places for connections with rights to the node beyond the limit of clients.
const ADMIN_PLACES: usize = 8;

/// `CLIENT REPLY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyMode {
    On,
    Off,
    /// The reply of the next command is left out.
    SkipNext,
    Skip,
    /// As `Off`, from the next command on.
    OffNext,
}

/// The way in which requests reach a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontEnd {
    Resp,
    /// A request may come on any connection, so commands that need one of their own are refused. Bytes are counted on
    /// the wire.
    Http,
    /// The same for commands that the front end itself asks for, such as the EXEC of `/multi-exec`.
    HttpItself,
}

/// Commands queued since MULTI.
#[derive(Debug, Default)]
pub struct Transaction {
    pub queue: Vec<OwnedRequest>,
    pub bytes: usize,
    /// A command was refused while queueing, so EXEC is refused.
    pub broken: bool,
}

#[derive(Debug, Default)]
pub struct Subscriptions {
    pub channels: BTreeSet<ChannelName>,
    pub sharded: BTreeSet<ChannelName>,
    pub patterns: BTreeSet<ChannelName>,
}

impl Subscriptions {
    pub fn len(&self) -> usize {
        self.channels.len() + self.sharded.len() + self.patterns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn names(&self) -> impl Iterator<Item = (SubscriptionKind, &ChannelName)> {
        let channels = self.channels.iter().map(|name| (SubscriptionKind::Channel, name));
        let sharded = self.sharded.iter().map(|name| (SubscriptionKind::Sharded, name));
        channels.chain(sharded).chain(self.patterns.iter().map(|name| (SubscriptionKind::Pattern, name)))
    }
}

fn unsubscribe(tenant: &Tenant, client: &Client, kind: SubscriptionKind, name: &ChannelName) {
    tenant.pubsub.unsubscribe(kind, name, client.id);
    client.let_go(pubsub::bytes_of(kind, name));
}

pub struct Session {
    pub node: Arc<Node>,
    pub worker: Rc<Worker>,
    pub client: Arc<Client>,
    pub tenant: Arc<Tenant>,
    pub writer: Rc<Writer>,
    pub share: Rc<Share>,
    pub front: FrontEnd,
    pub version: Version,
    pub select: u8,
    pub authenticated: bool,
    /// Whether it needs no secret for the database `default`, and has yet to find out which node of the fleet serves that.
    pub is_unsettled: bool,
    /// Nodes of the fleet that have passed it on; 0: its client has connected to this one.
    pub hops: u8,
    /// The connection to the node that serves its database, when that is to be used from now on.
    pub link: Option<Box<NodeLink>>,
    /// Its rights. Meaningless before it is authenticated.
    pub rights: Rights,
    /// The permissions of its user in its database. Meaningless before it is authenticated.
    pub permissions: Permissions,
    /// Number of wrong tokens that it has shown, and the time for which the reply to the last is held back.
    guesses: u32,
    pub held_back: Duration,
    /// Number of requests that were refused before it had shown a token.
    refusals: u32,
    pub closing: bool,
    pub reply_mode: ReplyMode,
    /// The pushes within a reply that is left out. They are still sent.
    pushes: Vec<Range<usize>>,
    pub transaction: Option<Box<Transaction>>,
    /// Whether it runs the queue of a transaction.
    pub is_in_exec: bool,
    pub watching: Option<Arc<Watching>>,
    /// Bytes charged to the client for them.
    pub watched_bytes: usize,
    pub subscriptions: Option<Box<Subscriptions>>,
    /// The field sets that it has prepared: `HIMPORT`. They are charged to the client.
    pub field_sets: Option<Box<FieldSets>>,
    /// How it tracks keys, if it does.
    tracking: Option<Box<SessionTracking>>,
    /// Invalidations for its own client, to be sent after the current command.
    pub own: Vec<Invalidated>,
    /// Its command, if that has found nothing and waits.
    pub blocked: Option<Box<Blocked>>,
    /// Its properties as a future replica, and the replica that it has become.
    pub announced: Option<Box<Announced>>,
    pub replica: Option<Arc<Replica>>,
    /// Whether it sees the commands of its database: `MONITOR`.
    pub is_monitor: bool,
    /// The database that its command is about, if that is another one: for the audit log.
    pub about: Option<Box<str>>,
    /// The calls of the script that it has run.
    pub calls: Option<Box<ScriptTrace>>,
    /// The log position that must be durable before the replies so far may leave.
    pub awaited: Lsn,
    /// The replies that wait for it.
    pub awaiting: Vec<Awaiting>,
    /// The log position that unsent replies wait for.
    pub unsent: Lsn,
    /// Bytes of messages sent to it that do not fill a request unit yet.
    message_bytes: u64,
    /// Whether the present request over HTTP has something that is billed.
    pub has_billed: Cell<bool>,
    /// Messages that it has published and that may report writes that are not durable yet.
    pub unpublished: Vec<Message>,
    /// Start of the last batch or command.
    pub since: Instant,
    /// Log position of the last write of this connection, for `WAITAOF`.
    pub written: Lsn,
    /// The time at which its commands run now: Unix microseconds.
    pub now_us: u64,
    /// Until this time each command is timed by itself.
    pub timed_until_ms: u64,
    /// Time of a transaction's commands, which counts for them and not for EXEC.
    pub nested: Duration,
    /// Time that the current command has run on other threads, and for how much of it they had a processor.
    pub elsewhere: Duration,
    pub elsewhere_cpu: Duration,
    /// Requests behind the current one that run together with it.
    pub following: Option<Box<Following>>,
}

/// Requests that follow the current one.
#[derive(Debug, Default)]
pub struct Following {
    /// Those that are to run together with it, each with its command's number in the table.
    pub requests: Vec<(usize, PlannedCommand)>,
    /// Bytes charged for them.
    pub held: usize,
    /// The commands that were handed over and not yet answered.
    pub commands: VecDeque<usize>,
    /// Outcomes of those that have run.
    pub outcomes: VecDeque<Result<Outcome, Error>>,
    /// The outcome of the current request, a script that has begun in its batch and goes on elsewhere.
    pub going_on: Option<oneshot::Receiver<Outcome>>,
}

impl Session {
    /// Creates the session of a new connection. `authenticated`: whether it needs no secret.
    pub fn new(
        node: &Arc<Node>,
        worker: &Rc<Worker>,
        client: &Arc<Client>,
        tenant: Arc<Tenant>,
        authenticated: bool,
    ) -> Self {
        let permissions = tenant.acl.permissions(&tenant.acl.default_user());
        client.told.lock().user = permissions.user().name.clone();
        let is_in_fleet = node.directions.get().is_some();
        let (authenticated, is_unsettled) = (authenticated && !is_in_fleet, authenticated && is_in_fleet);
        if authenticated {
            tenant.connections.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            writer: worker.writer(&tenant),
            share: worker.turns.share(tenant.owner()),
            authenticated,
            is_unsettled,
            hops: 0,
            link: None,
            rights: rights_without_token(client),
            permissions,
            guesses: 0,
            held_back: Duration::ZERO,
            refusals: 0,
            node: Arc::clone(node),
            worker: Rc::clone(worker),
            client: Arc::clone(client),
            tenant,
            front: FrontEnd::Resp,
            version: Version::Resp2,
            select: 0,
            closing: false,
            reply_mode: ReplyMode::On,
            pushes: Vec::new(),
            transaction: None,
            is_in_exec: false,
            watching: None,
            watched_bytes: 0,
            subscriptions: None,
            field_sets: None,
            tracking: None,
            own: Vec::new(),
            blocked: None,
            announced: None,
            replica: None,
            is_monitor: false,
            about: None,
            calls: None,
            awaited: 0,
            awaiting: Vec::new(),
            unsent: 0,
            message_bytes: 0,
            has_billed: Cell::new(false),
            unpublished: Vec::new(),
            since: Instant::now(),
            written: 0,
            now_us: 0,
            timed_until_ms: 0,
            nested: Duration::ZERO,
            elsewhere: Duration::ZERO,
            elsewhere_cpu: Duration::ZERO,
            following: None,
        }
    }

    /// Notes the log position that the replies of a batch under a lock wait for.
    pub fn note(&mut self, left: Left) {
        self.awaited = self.awaited.max(left.awaited);
        self.unsent = self.unsent.max(left.awaited);
        self.written = self.written.max(left.written);
    }

    /// The same for the replies from `from` to `to`.
    pub fn note_replies(&mut self, left: Left, from: usize, to: usize) {
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

    /// Creates the wait of the current command.
    pub fn turn(&self) -> Arc<Turn> {
        self.turn_until(None)
    }

    /// The same for a command that nobody waits for after `deadline`.
    pub fn turn_until(&self, deadline: Option<Instant>) -> Arc<Turn> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(self.since));
        let limit = self.node.settings().reply_timeout.duration().into_iter().chain(left).min();
        Arc::new(Turn::new(self.since, limit, Arc::clone(&self.client) as _))
    }

    /// Notes the time that the current command has run on other threads.
    pub fn note_elsewhere(&mut self, outcome: &Outcome) {
        self.elsewhere += outcome.elsewhere;
        self.elsewhere_cpu += outcome.elsewhere_cpu;
    }

    /// Gives other connections of the worker a turn, and waits for the next one.
    pub async fn pass_turn(&self) {
        self.worker.turns.pass(&self.share).await;
    }

    /// The context of its next command over the keyspace.
    pub fn context(&self) -> Context {
        let no_touch = self.client.no_touch.load(Ordering::Relaxed);
        Context { select: self.select, version: self.version, no_touch, tracker: self.tracker() }
    }

    /// Enters a database.
    ///
    /// # Errors
    /// When the node takes no more clients. Then the connection ends.
    pub fn enter(&mut self, Entrance { tenant, rights, permissions, shown, token }: Entrance) -> Result<(), Error> {
        // The admin gets in even if tenants have taken all places: it can free some.
        let is_admin = rights == Rights::Node;
        let mut places = self.node.places(Some(&tenant));
        if permissions.is_operator() {
            places.of_database = usize::MAX;
        }
        if is_admin {
            places.max = places.max.saturating_add(ADMIN_PLACES);
            places.is_out_of_memory = false;
        }
        if let Err(refusal) = self.node.clients.welcome(&self.client, &tenant.owner().into(), places) {
            self.closing = true;
            return Err(Error::Text(refusal.to_string().into()));
        }
        self.is_unsettled = false;
        self.rights = rights;
        self.client.is_admin.store(is_admin, Ordering::Relaxed);
        self.client.is_forwarded_on.store(false, Ordering::Relaxed);
        let mut tracking = None;
        if !Arc::ptr_eq(&tenant, &self.tenant) {
            tracking = self.take_tracking();
            self.leave();
            self.tenant.left(self.worker.now().1);
            self.writer = self.worker.writer(&tenant);
            self.share = self.worker.turns.share(tenant.owner());
            self.tenant = tenant;
            self.select(0);
            self.authenticated = false;
        }
        self.permissions = permissions;
        {
            let mut told = self.client.told.lock();
            told.user = self.permissions.user().name.clone();
            (told.shown, told.token) = (shown, token);
        }
        if !self.authenticated {
            self.tenant.connections.fetch_add(1, Ordering::Relaxed);
            self.client.told.lock().database = self.tenant.name().into();
            self.authenticated = true;
        }
        self.client.charge_to(&self.tenant.account);
        if let Some(tracking) = tracking {
            self.track_again(tracking);
        }
        Ok(())
    }

    /// Leaves its database for one that another node serves, which knows the client's user and permissions.
    ///
    /// # Errors
    /// When the node takes no more clients. Then the connection ends.
    pub fn depart(&mut self, database: &str) -> Result<(), Error> {
        let owner = owner_and_branch(database).map_or(database, |(owner, _)| owner);
        if let Err(refusal) = self.node.clients.welcome(&self.client, &owner.into(), self.node.places(None)) {
            self.closing = true;
            return Err(Error::Text(refusal.to_string().into()));
        }
        self.leave();
        let (_, now_ms) = self.worker.now();
        self.tenant.left(now_ms);
        let tenant = self.node.tenants.default();
        self.writer = self.worker.writer(&tenant);
        self.share = self.worker.turns.share(owner);
        self.tenant = tenant;
        (self.authenticated, self.is_unsettled, self.rights) = (false, false, Rights::Branch);
        self.client.is_admin.store(false, Ordering::Relaxed);
        self.client.is_forwarded_on.store(true, Ordering::Relaxed);
        {
            let mut told = self.client.told.lock();
            told.database = database.into();
            (told.shown, told.token) = (ShownSecret::Nothing, None);
        }
        self.client.charge_to(&self.node.forwarded.account);
        Ok(())
    }

    /// Resets the session to that of a new connection: it must present a secret again where one is required, else it
    /// is in the default database.
    pub fn forget(&mut self) {
        self.leave();
        self.select(0);
        if self.node.directions.get().is_some() && self.node.tenants.admits_newcomers() {
            (self.authenticated, self.is_unsettled, self.rights) = (false, true, Rights::Branch);
            return;
        }
        self.enter_default();
    }

    /// Enters the database `default`, which this node serves, if it has yet to.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.is_unsettled) {
            self.enter_default();
        }
    }

    fn enter_default(&mut self) {
        let tenant = self.node.tenants.default();
        let permissions = tenant.acl.permissions(&tenant.acl.default_user());
        let (rights, shown) = (rights_without_token(&self.client), ShownSecret::Nothing);
        let entrance = Entrance { tenant, rights, permissions, shown, token: None };
        if !self.node.tenants.admits_newcomers() || self.enter(entrance).is_err() {
            self.dismiss();
        }
    }

    /// Revokes the authentication: a client that meant another database must not continue in its current one.
    pub fn dismiss(&mut self) {
        self.leave();
        (self.authenticated, self.is_unsettled) = (false, false);
        self.rights = Rights::Branch;
        self.client.is_admin.store(false, Ordering::Relaxed);
        {
            let mut told = self.client.told.lock();
            told.database = "".into();
            (told.shown, told.token) = (ShownSecret::Nothing, None);
        }
        let (_, now_ms) = self.worker.now();
        self.node.clients.estrange(&self.client, now_ms, strangers::places(self.node.max_clients()));
    }

    /// Notes a wrong token or password: the reply is held back, and after several the connection ends. On a server
    /// without tokens, a connection that is in a database may go on guessing, as with Redis.
    pub fn guessed(&mut self) {
        let (_, now_ms) = self.worker.now();
        if !self.authenticated || self.node.tenants.needs_token() {
            self.guesses += 1;
            self.closing |= self.guesses >= strangers::GUESSES_MAX;
        }
        let held_back = self.node.guesses.note(Neighbourhood::of(&self.client.peer()), self.guesses, now_ms);
        // The node that forwards it holds the refusal back.
        self.held_back = if self.hops == 0 { held_back } else { Duration::ZERO };
    }

    /// Brings what the user may do up to date, if the users of the database have changed. Returns whether the connection
    /// may go on: that of a user who was deleted, or may not listen any more to what it has subscribed to, ends.
    #[inline]
    pub fn renew(&mut self) -> bool {
        self.permissions.is_of(self.tenant.acl.generation()) || self.renew_permissions()
    }

    #[cold]
    fn renew_permissions(&mut self) -> bool {
        match self.tenant.acl.renewed(&self.permissions) {
            Some(permissions) => self.permissions = permissions,
            None => self.client.kill(),
        }
        if let (Some(user), Some(subscriptions)) = (self.permissions.restricted(), &self.subscriptions) {
            let is_permitted = |(kind, name): (SubscriptionKind, &ChannelName)| {
                user.may_use_channel(name, kind == SubscriptionKind::Pattern)
            };
            if !subscriptions.names().all(is_permitted) {
                self.client.kill();
            }
        }
        !self.client.is_killed()
    }

    /// Notes that a request was refused. A stranger may send a limited number of such requests.
    pub fn note_refusal(&mut self) {
        if !self.authenticated {
            self.refusals += 1;
            self.closing |= self.refusals > strangers::REFUSALS_MAX;
        }
    }

    /// Drops the session's state in its database: transaction, watches, subscriptions. A replica ends.
    pub fn leave(&mut self) {
        self.publish_when_durable();
        self.abort();
        self.stop_tracking();
        self.unsubscribe_all();
        self.forget_fields();
        self.end_monitor();
        if let Some(replica) = self.replica.take() {
            self.tenant.replication.remove(&replica);
            self.client.is_replica.store(false, Ordering::Relaxed);
            self.closing = true;
        }
    }

    /// Forgets the field sets that it has prepared. Returns how many there were.
    pub fn forget_fields(&mut self) -> usize {
        self.field_sets.take().map_or(0, |mut sets| {
            self.client.let_go(sets.bytes());
            sets.clear()
        })
    }

    /// Drops the queued commands and the watches.
    pub fn abort(&mut self) {
        self.unwatch();
        self.client.queued.store(u32::MAX, Ordering::Relaxed);
        self.client.queued_bytes.store(0, Ordering::Relaxed);
        if let Some(transaction) = self.transaction.take() {
            self.client.let_go(transaction.bytes);
        }
    }

    fn unsubscribe_all(&mut self) {
        if let Some(subscriptions) = self.subscriptions.take() {
            subscriptions.names().for_each(|(kind, name)| unsubscribe(&self.tenant, &self.client, kind, name));
            self.client.channels.store(0, Ordering::Relaxed);
            self.client.sharded.store(0, Ordering::Relaxed);
            self.client.patterns.store(0, Ordering::Relaxed);
        }
    }

    /// Ends many subscriptions on a background thread.
    fn unsubscribe_later(&mut self) {
        let Some(subscriptions) = self.subscriptions.take_if(|all| all.len() > UNSUBSCRIBED_AT_ONCE) else { return };
        let (tenant, client) = (Arc::clone(&self.tenant), Arc::clone(&self.client));
        self.node.engine.background.spawn(async move {
            subscriptions.names().for_each(|(kind, name)| unsubscribe(&tenant, &client, kind, name));
        });
    }

    /// Ends the session with its connection.
    pub fn end(&mut self) {
        self.end_following();
        self.end_blocked();
        self.unsubscribe_later();
        self.leave();
        self.tenant.left(self.worker.now().1);
    }

    pub fn select(&mut self, select: u8) {
        self.select = select;
        self.client.select.store(select, Ordering::Relaxed);
    }

    pub fn set_version(&mut self, version: Version) {
        self.version = version;
        self.client.resp.store(if version == Version::Resp3 { 3 } else { 2 }, Ordering::Relaxed);
    }

    pub fn limits(&self) -> &'static RequestLimits {
        static FULL: std::sync::LazyLock<RequestLimits> = std::sync::LazyLock::new(RequestLimits::default);
        static UNAUTHENTICATED: std::sync::LazyLock<RequestLimits> =
            std::sync::LazyLock::new(RequestLimits::unauthenticated);
        if self.authenticated || self.is_unsettled { &FULL } else { &UNAUTHENTICATED }
    }

    /// Ends its watches.
    pub fn unwatch(&mut self) {
        if self.watching.take().is_some() {
            self.client.let_go(std::mem::take(&mut self.watched_bytes));
            self.client.watching.store(0, Ordering::Relaxed);
        }
    }

    /// Whether commands are simply run and answered.
    pub fn is_plain(&self) -> bool {
        self.authenticated
            && self.transaction.is_none()
            && self.reply_mode == ReplyMode::On
            && !self.is_subscribed()
            && !self.is_monitor
            && !self.is_caching_given()
    }

    /// Whether it is in RESP2's subscribed state, which allows few commands.
    pub fn is_subscribed(&self) -> bool {
        self.version == Version::Resp2 && self.subscriptions.is_some()
    }

    fn leaves_out_replies(&self) -> bool {
        matches!(self.reply_mode, ReplyMode::Off | ReplyMode::Skip)
    }

    /// Notes that a part of the reply is a push, such as the confirmation of a subscription.
    pub fn note_push(&mut self, part: Range<usize>) {
        if self.leaves_out_replies() {
            self.pushes.push(part);
        }
    }

    /// Forgets the pushes from `from` on, as an error replaces them.
    pub fn forget_pushes(&mut self, from: usize) {
        self.pushes.retain(|part| part.end <= from);
    }

    /// Leaves out a command's reply, which begins at `before`, if the client wants none. Pushes stay.
    pub fn leave_out(&mut self, reply: &mut Reply, before: usize) {
        if self.leaves_out_replies() {
            let pushes: Vec<u8> = self.pushes.drain(..).flat_map(|part| reply.buffer[part].to_vec()).collect();
            reply.truncate(before);
            reply.raw(&pushes);
        }
        self.reply_mode = match self.reply_mode {
            ReplyMode::SkipNext => ReplyMode::Skip,
            ReplyMode::Skip => ReplyMode::On,
            ReplyMode::OffNext => ReplyMode::Off,
            mode => mode,
        };
    }

    /// Shows a command that it has run to those who monitor its database, and the calls of a script behind it. Counts it by
    /// its prefix, if that is asked for. Returns the cost.
    pub fn show(&self, row: &Row, select: u8, request: Request<'_>, calls: Option<&ScriptTrace>) -> usize {
        let monitors = &self.tenant.monitors;
        if !monitors.is_watched() {
            return 0;
        }
        monitors.count(row, request, &self.client, self.now_us / 1000);
        if monitors.is_empty() || !monitors::is_shown(row) {
            return 1;
        }
        let mut lines = Vec::new();
        monitors::append_line(&mut lines, self.now_us, select, CommandOrigin::Client(&self.client.peer()), request);
        lines.extend_from_slice(calls.map_or(&[], |calls| &calls.lines));
        monitors.show(&lines, self.now_us / 1000)
    }

    /// The same for a command over the keyspace with its reply: one that was refused is not shown.
    #[cold]
    pub fn show_replied(&self, row: &Row, request: Request<'_>, reply: &[u8], calls: Option<&ScriptTrace>) -> usize {
        if errors::is_rejection(reply, calls) { 0 } else { self.show(row, self.select, request, calls) }
    }

    /// Shows the commands of its database from now on.
    pub fn begin_monitor(&mut self) {
        self.is_monitor = true;
        self.client.is_monitor.store(true, Ordering::Relaxed);
        self.tenant.monitors.add(&self.client, self.node.output_limit_pubsub());
    }

    fn end_monitor(&mut self) {
        if std::mem::take(&mut self.is_monitor) {
            self.tenant.monitors.remove(&self.client);
            self.client.is_monitor.store(false, Ordering::Relaxed);
        }
    }

    /// Number of its subscriptions.
    pub fn subscribed(&self) -> usize {
        self.subscriptions.as_ref().map_or(0, |all| all.len())
    }

    /// Counts messages that are sent to the client. However they are divided, each KiB takes one unit.
    pub fn count_messages(&mut self, bytes: usize) {
        if bytes > 0 && self.authenticated {
            self.message_bytes += bytes as u64;
            let mut batch = self.worker.take_batch();
            batch.delivered(self.message_bytes / REQUEST_UNIT_BYTES, bytes as u64);
            self.message_bytes %= REQUEST_UNIT_BYTES;
            if self.front != FrontEnd::Resp {
                batch.forget_bytes();
            }
            self.commit(batch, Duration::ZERO);
        }
    }

    /// Counts the bytes of a request whose end never came.
    pub fn count_unfinished(&self, bytes: usize) {
        if bytes > 0 && self.authenticated {
            let mut batch = self.worker.take_batch();
            batch.bytes_in += bytes as u64;
            batch.refused(bytes as u64, 0);
            self.commit(batch, Duration::ZERO);
        }
    }

    /// Whether it entered its database with the admin token: nothing that it does there is billed.
    pub fn is_operator(&self) -> bool {
        self.authenticated && self.permissions.is_operator()
    }

    /// Adds a batch to the meters of its database.
    pub fn commit(&self, batch: Batch, took: Duration) {
        self.worker.commit(&self.writer, self.judged(batch), took);
    }

    /// The same for a batch that had a processor for `cpu` of the time that it took.
    pub fn commit_billed(&self, batch: Batch, took: Duration, cpu: Duration) {
        self.worker.commit_billed(&self.writer, self.judged(batch), took, cpu);
    }

    fn judged(&self, mut batch: Batch) -> Batch {
        if self.is_operator() {
            batch.unbill_all();
        } else if self.front != FrontEnd::Resp && batch.is_billed() {
            self.has_billed.set(true);
        }
        batch
    }

    pub fn count_keyspace(&self, hits: u64, misses: u64) {
        let mut batch = self.worker.take_batch();
        batch.keyspace_hits += hits;
        batch.keyspace_misses += misses;
        self.worker.commit(&self.writer, batch, Duration::ZERO);
    }

    // ---- messages -----------------------------------------------------------------------------------------------------------

    /// Publishes a message, or holds it back until the writes before it are durable. Returns the number of clients it
    /// is for.
    pub fn publish(&mut self, channel: &[u8], message: &[u8], is_sharded: bool) -> usize {
        if self.follows_events(channel, message, is_sharded) {
            return self.tenant.pubsub.receivers(channel, is_sharded);
        }
        if !self.holds_messages_back() {
            let (_, now_ms) = self.worker.now();
            let limit = self.node.output_limit_pubsub();
            return match is_sharded {
                true => self.tenant.pubsub.publish_sharded(channel, message, limit, now_ms),
                false => self.tenant.pubsub.publish(channel, message, limit, now_ms),
            };
        }
        self.hold_message(channel, message, is_sharded);
        self.tenant.pubsub.receivers(channel, is_sharded)
    }

    /// Passes a client's message on to the database's replicas, whose subscribers get it too.
    pub fn tell_replicas(&self, channel: &[u8], message: &[u8], is_sharded: bool) {
        let journal = &self.tenant.database.shared.journal;
        if journal.is_tapped() {
            let name: &[u8] = if is_sharded { b"SPUBLISH" } else { b"PUBLISH" };
            journal.tell_tap(|| {
                let mut publish = Vec::new();
                command(&mut publish, &[name, channel, message]);
                publish
            });
        }
    }

    /// Queues a message behind the keyspace events that wait to be told. False if it can be published by itself.
    pub fn follows_events(&self, channel: &[u8], message: &[u8], is_sharded: bool) -> bool {
        let notices = &self.tenant.database.shared.notices;
        if !notices.is_on() || !(notices.is_waiting() || self.holds_messages_back()) {
            return false;
        }
        let notice = PendingMessage::Message { channel: channel.into(), message: message.into(), is_sharded };
        notices.follow(notice, self.unsent)
    }

    /// Publishes the messages of scripts, whose writes have been noted.
    pub fn publish_all(&mut self, published: &[Published]) {
        let cost = |one: &Published| self.tenant.pubsub.cost(&one.channel, &one.message, one.is_sharded);
        let is_long = published.iter().map(cost).fold(0, usize::saturating_add) > TURN;
        for Published { channel, message, is_sharded } in published {
            self.tell_replicas(channel, message, *is_sharded);
            match is_long {
                // They are published on the slow lane when the reply leaves.
                true => self.hold_message(channel, message, *is_sharded),
                false => drop(self.publish(channel, message, *is_sharded)),
            }
        }
    }

    /// Holds a message back until the writes before it are durable.
    pub fn hold_message(&mut self, channel: &[u8], message: &[u8], is_sharded: bool) {
        self.client.hold_anyway(channel.len() + message.len());
        self.unpublished.push(Message { channel: channel.into(), message: message.into(), is_sharded });
    }

    /// Whether a message may report writes that are not durable yet.
    pub fn holds_messages_back(&self) -> bool {
        let log = self.tenant.database.shared.journal.log();
        !self.unpublished.is_empty() || log.is_some_and(|log| log.flushed() < self.unsent)
    }

    /// Publishes the held messages. The replies so far are durable, and so are the writes that the messages report.
    /// They are published on the slow lane if that takes more than a turn.
    pub async fn publish_unpublished(&mut self) {
        self.unsent = 0;
        self.tenant.notifier.tell_before().await;
        if self.unpublished.is_empty() {
            return;
        }
        let (limit, (_, now_ms)) = (self.node.output_limit_pubsub(), self.worker.now());
        let (tenant, messages) = (Arc::clone(&self.tenant), Arc::new(self.take_unpublished()));
        let cost = |message: &Message| tenant.pubsub.cost(&message.channel, &message.message, message.is_sharded);
        if messages.iter().map(cost).fold(0, usize::saturating_add) <= TURN {
            tenant.pubsub.publish_all(&messages, limit, now_ms);
            return;
        }
        let (sender, receiver) = oneshot::channel();
        let (its, published) = (Arc::clone(&tenant), Arc::clone(&messages));
        let publish = move |_| {
            for message in &*published {
                its.pubsub.send_unlocked(message, limit, now_ms);
            }
            // The publisher may be gone.
            let _ = sender.send(());
        };
        match tenant.database.on_lane(Vec::new(), || true, publish) {
            // A job that panics has reported it.
            Ok(()) => drop(receiver.await),
            Err(_) => tenant.pubsub.publish_all(&messages, limit, now_ms),
        }
    }

    fn take_unpublished(&mut self) -> Vec<Message> {
        let messages = std::mem::take(&mut self.unpublished);
        self.client.let_go(messages.iter().map(|message| message.channel.len() + message.message.len()).sum());
        messages
    }

    /// Leaves its messages to a task that waits for the log. The connection no longer waits.
    pub fn publish_when_durable(&mut self) {
        let messages = self.take_unpublished();
        let Some(log) = self.tenant.database.shared.journal.log().filter(|_| !messages.is_empty()) else { return };
        let (log, lsn, node, tenant) = (Arc::clone(log), self.unsent, Arc::clone(&self.node), Arc::clone(&self.tenant));
        self.node.engine.background.spawn(async move {
            // If the log never becomes durable, the writes did not happen, so the messages are dropped.
            if log.durable(lsn).await.is_ok() {
                let (limit, now_ms) = (node.output_limit_pubsub(), (node.engine.clock)());
                for message in &messages {
                    tenant.pubsub.send_unlocked(message, limit, now_ms);
                }
            }
        });
    }
}

/// Rights of a client that needs no token: those to the whole node, if it is on this machine.
pub fn rights_without_token(client: &Client) -> Rights {
    if client.is_local() { Rights::Node } else { Rights::Database }
}
