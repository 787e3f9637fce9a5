//! Who is connected: what other connections may see of a client, and what they may tell it.
//!
//! A [`Client`] is shared; its session is not. The session writes here what `CLIENT LIST` shows; others put messages in
//! its outbox or mark it killed, and wake it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use crate::session::Session;
use crate::strangers::Strangers;
use crate::table::TABLE;

/// Where a client comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    Tcp { remote: SocketAddr, local: SocketAddr },
    Unix(Arc<str>),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { remote, .. } => write!(f, "{remote}"),
            Self::Unix(path) => write!(f, "{path}:0"),
        }
    }
}

impl Peer {
    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { remote, .. } => remote.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// The address that it connected to.
    pub fn local(&self) -> String {
        match self {
            Self::Tcp { local, .. } => local.to_string(),
            Self::Unix(path) => format!("{path}:0"),
        }
    }
}

#[derive(Debug)]
pub struct Client {
    pub id: u64,
    pub peer: Peer,
    pub connected_ms: u64,
    /// Its socket; -1 while there is none.
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
    pub patterns: AtomicU32,
    /// Commands queued by MULTI; -1 (all ones): no transaction.
    pub queued: AtomicU32,
    pub watching: AtomicU32,
    pub no_evict: AtomicBool,
    /// It has shown the admin token: clients without rights to the node cannot disconnect it.
    pub is_admin: AtomicBool,
    /// Its commands leave the keys' access clocks alone.
    pub no_touch: AtomicBool,
    /// Bytes that lie in its query buffer and its output buffer.
    pub input_bytes: AtomicUsize,
    pub output_bytes: AtomicUsize,
    /// Bytes of the arguments of the command that runs, and of those that MULTI has queued.
    pub argument_bytes: AtomicUsize,
    pub queued_bytes: AtomicUsize,
    /// Bytes that the buffer for its replies has while it is used, and the most that replies took so far.
    pub reply_bytes: AtomicUsize,
    pub reply_bytes_peak: AtomicUsize,
    pub told: Mutex<Told>,
    killed: AtomicBool,
    /// It has closed its own connection, which ends when the reply has gone.
    leaving: AtomicBool,
    outbox: Mutex<Outbox>,
    outbox_bytes: AtomicUsize,
    pub waker: AtomicWaker,
    /// Whether it counts among the most clients that the node takes; others are strangers. Changed under the lock of
    /// [`Clients`].
    is_welcome: AtomicBool,
}

/// What a client has said of itself, and which database it speaks to (none before it has said who it is).
#[derive(Debug, Default, Clone)]
pub struct Told {
    pub name: Box<[u8]>,
    pub library: Box<str>,
    pub library_version: Box<str>,
    pub database: Arc<str>,
}

#[derive(Debug, Default)]
struct Outbox {
    messages: Vec<u8>,
    /// Since when it has been above the soft limit.
    soft_since_ms: Option<u64>,
}

impl Outbox {
    /// Whether `bytes` that wait to be read are too many, now or for too long.
    fn is_over(&mut self, bytes: usize, limit: OutputLimit, now_ms: u64) -> bool {
        let soft = limit.soft_bytes > 0 && bytes > limit.soft_bytes;
        self.soft_since_ms = if soft { Some(self.soft_since_ms.unwrap_or(now_ms)) } else { None };
        let too_long = self.soft_since_ms.is_some_and(|since| now_ms.saturating_sub(since) > limit.soft_seconds * 1000);
        limit.hard_bytes > 0 && bytes > limit.hard_bytes || too_long
    }
}

/// An output buffer limit: bytes at once, or bytes for so many seconds; 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimit {
    pub hard_bytes: usize,
    pub soft_bytes: usize,
    pub soft_seconds: u64,
}

impl Client {
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Its connection is closed when it comes to it.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// It is not listed any more.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub fn has_messages(&self) -> bool {
        self.outbox_bytes.load(Ordering::Acquire) > 0
    }

    /// Closes its connection if what it has yet to read was above the soft limit for too long: looked at from time to time,
    /// as the messages that brought it there may have been the last.
    pub fn check_output(&self, limit: OutputLimit, now_ms: u64) {
        let mut outbox = self.outbox.lock();
        let bytes = outbox.messages.len() + self.output_bytes.load(Ordering::Relaxed);
        if outbox.is_over(bytes, limit, now_ms) {
            drop(outbox);
            self.close_slow_reader(bytes);
        }
    }

    fn close_slow_reader(&self, bytes: usize) {
        tracing::warn!(client = self.id, peer = %self.peer, bytes, "closed: it reads its messages too slowly");
        self.kill();
    }

    /// Gives it `message`, already encoded. When its outbox is over the limit it is killed: a slow reader must not take
    /// the server's memory.
    pub fn tell(&self, message: &[u8], limit: OutputLimit, now_ms: u64) {
        let mut outbox = self.outbox.lock();
        outbox.messages.extend_from_slice(message);
        let bytes = outbox.messages.len() + self.output_bytes.load(Ordering::Relaxed);
        self.outbox_bytes.store(outbox.messages.len(), Ordering::Release);
        if outbox.is_over(bytes, limit, now_ms) {
            outbox.messages = Vec::new();
            drop(outbox);
            self.close_slow_reader(bytes);
            return;
        }
        drop(outbox);
        self.waker.wake();
    }

    /// Appends what others have told it to `to`.
    pub fn take_messages(&self, to: &mut Vec<u8>) {
        let mut outbox = self.outbox.lock();
        to.append(&mut outbox.messages);
        if outbox.messages.capacity() > 4096 {
            outbox.messages = Vec::new();
        }
        outbox.soft_since_ms = None;
        self.outbox_bytes.store(0, Ordering::Release);
    }

    pub fn outbox_bytes(&self) -> usize {
        self.outbox_bytes.load(Ordering::Relaxed)
    }

    pub fn is_subscriber(&self) -> bool {
        self.channels.load(Ordering::Relaxed) + self.patterns.load(Ordering::Relaxed) > 0
    }

    /// Its line of `CLIENT LIST`, with every field of Redis's in Redis's order. `qbuf-free` is 0: a client reads into the buffer
    /// of its worker, and has one of its own, without room to spare, only for a request that has not come whole.
    pub fn line(&self, now_ms: u64) -> String {
        let number = |cell: &AtomicU32| cell.load(Ordering::Relaxed);
        let seconds = |since_ms: u64| now_ms.saturating_sub(since_ms) / 1000;
        let told = self.told.lock().clone();
        let last = usize::from(self.last_command.load(Ordering::Relaxed));
        let (input, output) = (self.input_bytes.load(Ordering::Relaxed), self.output_bytes.load(Ordering::Relaxed));
        let outbox = self.outbox_bytes();
        let bytes = |cell: &AtomicUsize| cell.load(Ordering::Relaxed);
        let (arguments, queued) = (bytes(&self.argument_bytes), bytes(&self.queued_bytes));
        let (replies, replies_peak) = (bytes(&self.reply_bytes).max(output), bytes(&self.reply_bytes_peak).max(output));
        format!(
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub={} psub={} ssub=0 multi={} \
             qbuf={input} qbuf-free=0 argv-mem={arguments} multi-mem={queued} rbs={replies} rbp={replies_peak} obl={output} \
             oll={} omem={outbox} tot-mem={} \
             events={} cmd={} user={} redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.peer,
            self.peer.local(),
            self.fd.load(Ordering::Relaxed),
            String::from_utf8_lossy(&told.name),
            seconds(self.connected_ms),
            seconds(self.active_ms.load(Ordering::Relaxed)),
            self.flags(),
            self.select.load(Ordering::Relaxed),
            number(&self.channels),
            number(&self.patterns),
            number(&self.queued) as i32,
            u8::from(outbox > 0),
            input + arguments + queued + replies + outbox + size_of::<Self>() + size_of::<Session>(),
            if output > 0 { "rw" } else { "r" },
            if last < TABLE.entries().len() { &*TABLE.get(last).name } else { "NULL" },
            told.database,
            self.resp.load(Ordering::Relaxed),
            told.library,
            told.library_version,
        )
    }

    /// Redis's letters.
    fn flags(&self) -> String {
        let letters = [
            (self.is_subscriber(), 'P'),
            (self.queued.load(Ordering::Relaxed) != u32::MAX, 'x'),
            (self.is_killed(), 'A'),
            (matches!(self.peer, Peer::Unix(_)), 'U'),
            (self.no_evict.load(Ordering::Relaxed), 'e'),
            (self.no_touch.load(Ordering::Relaxed), 'T'),
        ];
        let flags: String = letters.iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
        if flags.is_empty() { "N".into() } else { flags }
    }
}

/// All clients of the node. Those that have not shown a token do not count among the most that it takes.
#[derive(Debug, Default)]
pub struct Clients {
    all: Mutex<All>,
    last_id: AtomicU64,
    count: AtomicUsize,
    pub accepted: AtomicU64,
    pub rejected: AtomicU64,
}

#[derive(Debug, Default)]
struct All {
    by_id: BTreeMap<u64, Arc<Client>>,
    /// How many of them are welcome.
    welcome: usize,
    strangers: Strangers,
}

impl Clients {
    /// A new client, unless there are `max` already.
    pub fn add(&self, peer: Peer, database: Arc<str>, now_ms: u64, max: usize) -> Option<Arc<Client>> {
        let mut all = self.all.lock();
        if all.welcome >= max {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        all.welcome += 1;
        Some(self.enlist(&mut all, peer, database, true, now_ms))
    }

    /// A new client that has to show a token. Where strangers have more than `places` an older one is closed for it.
    pub fn add_stranger(&self, peer: Peer, now_ms: u64, places: usize) -> Arc<Client> {
        let mut all = self.all.lock();
        let client = self.enlist(&mut all, peer, "".into(), false, now_ms);
        self.close_for(&mut all, Arc::clone(&client), now_ms, places);
        client
    }

    /// It has shown a token; false where there are `max` clients already.
    pub fn welcome(&self, client: &Client, max: usize) -> bool {
        let mut all = self.all.lock();
        if client.is_welcome.load(Ordering::Relaxed) {
            return true;
        }
        if all.welcome >= max {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        all.welcome += 1;
        client.is_welcome.store(true, Ordering::Relaxed);
        all.strangers.remove(client.id);
        true
    }

    /// It has to show a token again.
    pub fn estrange(&self, client: &Arc<Client>, now_ms: u64, places: usize) {
        let mut all = self.all.lock();
        if client.is_welcome.swap(false, Ordering::Relaxed) {
            all.welcome -= 1;
            self.close_for(&mut all, Arc::clone(client), now_ms, places);
        }
    }

    /// Closes strangers that are here since before `since_ms`.
    pub fn close_strangers_before(&self, since_ms: u64) {
        let late = self.all.lock().strangers.before(since_ms);
        late.iter().for_each(|client| client.kill());
    }

    pub fn strangers(&self) -> usize {
        self.all.lock().strangers.len()
    }

    fn close_for(&self, all: &mut All, stranger: Arc<Client>, now_ms: u64, places: usize) {
        if let Some(client) = all.strangers.add(stranger, now_ms, places) {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            client.kill();
        }
    }

    fn enlist(&self, all: &mut All, peer: Peer, database: Arc<str>, is_welcome: bool, now_ms: u64) -> Arc<Client> {
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
            resp: AtomicU8::new(2),
            last_command: AtomicU16::new(u16::MAX),
            channels: AtomicU32::new(0),
            patterns: AtomicU32::new(0),
            queued: AtomicU32::new(u32::MAX),
            watching: AtomicU32::new(0),
            no_evict: AtomicBool::new(false),
            is_admin: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            input_bytes: AtomicUsize::new(0),
            output_bytes: AtomicUsize::new(0),
            argument_bytes: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            reply_bytes: AtomicUsize::new(0),
            reply_bytes_peak: AtomicUsize::new(0),
            told: Mutex::new(Told { database, ..Told::default() }),
            killed: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            outbox: Mutex::default(),
            outbox_bytes: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
            is_welcome: AtomicBool::new(is_welcome),
        });
        all.by_id.insert(id, Arc::clone(&client));
        self.count.store(all.by_id.len(), Ordering::Relaxed);
        client
    }

    pub fn remove(&self, id: u64) {
        let mut all = self.all.lock();
        all.strangers.remove(id);
        if all.by_id.remove(&id).is_some_and(|client| client.is_welcome.load(Ordering::Relaxed)) {
            all.welcome -= 1;
        }
        self.count.store(all.by_id.len(), Ordering::Relaxed);
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// In the order of their ids.
    pub fn list(&self) -> Vec<Arc<Client>> {
        self.all.lock().by_id.values().cloned().collect()
    }

    /// Those of one database: no tenant sees another. One that was closed is gone, even if its worker has yet to notice.
    pub fn of_database(&self, database: &str) -> Vec<Arc<Client>> {
        let mut clients = self.list();
        let is_gone = |client: &Client| client.is_killed() || client.leaving.load(Ordering::Acquire);
        clients.retain(|client| !is_gone(client) && &*client.told.lock().database == database);
        clients
    }
}
