//! A replica: a client that gets the stream of its database.
//!
//! What it is told goes through the client's outbox, like published messages: it is sent in turns, charged to the
//! database and counted as its bytes, and a client that reads too slowly is closed
//! (`client-output-buffer-limit replica`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{ReplicaCopy, SILENCE};
use crate::clients::{Client, OutputLimit};

/// The properties that a client declares with `REPLCONF` before it asks for the stream.
#[derive(Debug, Default, Clone)]
pub struct Announced {
    pub port: u16,
    /// Its address as clients should see it; empty: that of its connection.
    pub address: Box<str>,
    /// It finds the end of an RDB by a mark.
    pub knows_eof: bool,
    /// It understands a history that has another id than before.
    pub knows_psync2: bool,
    /// It wants an RDB and no stream.
    pub rdb_only: bool,
    /// It wants a part of the database in it.
    pub only: Option<RdbPart>,
    /// It is a Valkey that knows fields that expire: only Valkey says its version.
    pub is_valkey_9: bool,
    /// It came with SYNC, as before Redis 2.8, and acknowledges nothing.
    pub is_old: bool,
}

/// A part of a database that a replica asks for alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RdbPart {
    Functions,
    Nothing,
}

/// How far a replica is, in `INFO`'s words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaState {
    WaitBgsave,
    SendBulk,
    Online,
}

impl ReplicaState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::WaitBgsave => "wait_bgsave",
            Self::SendBulk => "send_bulk",
            Self::Online => "online",
        }
    }
}

/// Properties of the node that a replica is told.
pub trait Surroundings: Send + Sync {
    /// The limit of what may wait to be sent to a replica.
    fn output_limit(&self) -> OutputLimit;
    /// Unix milliseconds.
    fn now_ms(&self) -> u64;
    /// Whether the node is about to end.
    fn is_ending(&self) -> bool;
}

pub struct Replica {
    pub client: Arc<Client>,
    pub announced: Announced,
    node: Arc<dyn Surroundings>,
    progress: Mutex<Progress>,
    /// The offset up to which it has the stream, and when it was heard last, in Unix milliseconds.
    acknowledged: AtomicU64,
    /// The same for its append-only file.
    durable: AtomicU64,
    heard_ms: AtomicU64,
    /// It has acknowledged something.
    has_spoken: AtomicBool,
    is_over: AtomicBool,
}

#[derive(Debug)]
struct Progress {
    state: ReplicaState,
    /// The RDB is sent, and the stream waits for the replica's first acknowledgement: it looks for the end of the RDB in
    /// what it reads.
    awaits_word: bool,
    /// The stream since its beginning, until it has the RDB.
    held: VecDeque<Vec<u8>>,
    held_bytes: usize,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("client", &self.client.id).finish_non_exhaustive()
    }
}

impl Replica {
    pub fn new(node: Arc<dyn Surroundings>, client: &Arc<Client>, announced: Announced) -> Arc<Self> {
        let progress =
            Progress { state: ReplicaState::WaitBgsave, awaits_word: false, held: VecDeque::new(), held_bytes: 0 };
        Arc::new(Self {
            client: Arc::clone(client),
            announced,
            progress: Mutex::new(progress),
            acknowledged: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            heard_ms: AtomicU64::new(node.now_ms()),
            node,
            has_spoken: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        })
    }

    pub fn state(&self) -> ReplicaState {
        self.progress.lock().state
    }

    /// The address that `INFO` and `ROLE` show.
    pub fn address(&self) -> String {
        match &*self.announced.address {
            "" => {
                let peer = self.client.peer().to_string();
                peer.rsplit_once(':').map_or(peer.clone(), |(host, _)| host.trim_matches(['[', ']']).to_owned())
            }
            address => address.to_owned(),
        }
    }

    pub fn offset(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Seconds since it was heard last.
    pub fn lag_seconds(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms.load(Ordering::Relaxed)) / 1000
    }

    pub(super) fn has_acknowledged(&self, offset: u64, copy: ReplicaCopy) -> bool {
        let up_to = match copy {
            ReplicaCopy::Received => self.offset(),
            ReplicaCopy::Durable => self.durable.load(Ordering::Relaxed),
        };
        let has_none = copy == ReplicaCopy::Durable && up_to == 0;
        let is_online = self.has_spoken.load(Ordering::Relaxed) && self.state() == ReplicaState::Online;
        is_online && up_to >= offset && !has_none
    }

    /// Whether its connection has ended, or is about to.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || self.client.is_killed() || self.node.is_ending()
    }

    /// Whether it has said nothing for too long, once it should.
    pub(super) fn is_silent(&self, now_ms: u64) -> bool {
        let progress = self.progress.lock();
        let is_due = progress.awaits_word || progress.state == ReplicaState::Online && !self.announced.is_old;
        is_due && now_ms.saturating_sub(self.heard_ms.load(Ordering::Relaxed)) > SILENCE.as_millis() as u64
    }

    pub(super) fn acknowledge(&self, offset: u64, durable: Option<u64>, now_ms: u64) {
        if let Some(durable) = durable {
            self.durable.store(durable, Ordering::Relaxed);
        }
        self.acknowledged.store(offset, Ordering::Relaxed);
        self.heard_ms.store(now_ms, Ordering::Relaxed);
        self.has_spoken.store(true, Ordering::Relaxed);
        if self.progress.lock().awaits_word {
            self.go_online();
        }
    }

    /// Sends bytes that are not of the stream.
    pub fn send(&self, bytes: &[u8]) {
        // Under the lock, so that nothing is charged to a client that has ended.
        let _progress = self.progress.lock();
        self.send_now(bytes);
    }

    fn send_now(&self, bytes: &[u8]) {
        if self.is_over.load(Ordering::Relaxed) {
            return;
        }
        self.client.tell(bytes, self.node.output_limit(), self.node.now_ms());
    }

    /// Sends a part of the stream, or keeps it until the RDB is sent.
    pub(super) fn tell(&self, bytes: &[u8]) {
        let mut progress = self.progress.lock();
        if progress.state == ReplicaState::Online {
            self.send_now(bytes);
            return;
        }
        let is_over = progress.held_bytes + bytes.len() > self.held_bytes_max();
        if is_over || self.is_over() || self.client.hold(bytes.len()).is_err() {
            let bytes = progress.held_bytes;
            self.let_go(&mut progress);
            drop(progress);
            tracing::warn!(database = &*self.client.database(), client = self.client.id, peer = %self.client.peer(), bytes, "closed: it takes too long to load everything");
            self.client.kill();
            return;
        }
        progress.held_bytes += bytes.len();
        match progress.held.back_mut() {
            Some(last) if last.len() + bytes.len() <= HELD_PIECE_BYTES => last.extend_from_slice(bytes),
            _ => progress.held.push_back(bytes.to_vec()),
        }
    }

    /// Lets it go on in the history `id`, with the part of the stream that it has missed.
    pub(super) fn go_on<'a>(&self, id: &str, missed: impl Iterator<Item = &'a [u8]>) {
        match self.announced.knows_psync2 {
            true => self.send(format!("+CONTINUE {id}\r\n").as_bytes()),
            false => self.send(b"+CONTINUE\r\n"),
        }
        missed.for_each(|piece| self.send(piece));
        self.progress.lock().state = ReplicaState::Online;
    }

    /// Notes that the RDB is being sent.
    pub(super) fn is_sent_everything(&self) {
        self.progress.lock().state = ReplicaState::SendBulk;
    }

    /// Sends the stream from now on, if the replica is ready for it.
    pub(super) fn has_everything(&self) {
        if self.announced.knows_eof {
            self.heard_ms.store(self.node.now_ms(), Ordering::Relaxed);
            self.progress.lock().awaits_word = true;
        } else {
            self.go_online();
        }
    }

    fn go_online(&self) {
        let mut progress = self.progress.lock();
        progress.awaits_word = false;
        progress.state = ReplicaState::Online;
        for piece in std::mem::take(&mut progress.held) {
            self.client.let_go(piece.len());
            progress.held_bytes -= piece.len();
            self.send_now(&piece);
        }
    }

    fn let_go(&self, progress: &mut Progress) {
        progress.held = VecDeque::new();
        self.client.let_go(std::mem::take(&mut progress.held_bytes));
    }

    /// Bytes of the stream that may wait for it.
    pub(super) fn held_bytes_max(&self) -> usize {
        match self.node.output_limit().hard_bytes {
            0 => usize::MAX,
            bytes => bytes,
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.node.now_ms()
    }

    pub(super) fn kill(&self) {
        self.client.kill();
    }

    /// Ends with its connection.
    pub(super) fn end(&self) {
        let mut progress = self.progress.lock();
        self.is_over.store(true, Ordering::Relaxed);
        self.let_go(&mut progress);
    }
}

/// Short parts of the stream that are kept are gathered in pieces of this size.
const HELD_PIECE_BYTES: usize = 64 << 10;
