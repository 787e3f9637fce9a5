//! The shared connections to the upstream server: one for each version of the protocol, for all clients.
//!
//! 1. A request is appended to the bytes to be sent, and its place for the reply to a queue. The server answers in order, so
//!    the next reply belongs to the front of the queue.
//! 2. A connection on which nothing of the last [`SILENCE`] was answered is in doubt: the process may have been frozen since,
//!    and the socket be dead. It is asked with a `PING`, and requests wait for the answer. So what is written to a dead socket is
//!    a `PING`. Bytes that come meanwhile prove nothing: they may have come before the freeze.
//! 3. When a connection is lost, the requests that were sent and not answered get an error that says so; those that only read
//!    are sent again. Requests that were not sent wait for the next connection, up to [`Upstream::patience`].
//! 4. The connection of RESP3 is told of changes, for the reads of both ([`Cache`]). The other one redirects there.
//!
//! Invariants:
//!
//! - A request that may change something is written to one connection at most.
//! - A copy is served only while the last answer over the connection that is told of changes belongs to a request that was
//!   sent within [`LEASE`]: then no news older than that can be missing.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dormouse_importer::output::print_error;
use dormouse_protocol::{Response, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::cache::{Cache, Fetch};
use super::commands::{Effect, Known};
use super::link::{ByteStream, UpstreamLink, UpstreamTarget, encoded};
use super::replies::Ticket;
use super::scanner::ReplyScanner;

/// The silence after which a connection is in doubt.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a connection in doubt may take to answer.
const DOUBT: Duration = Duration::from_millis(500);
/// How old the last proof may be that no news of changes are missing.
const LEASE: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How often the time of requests under way is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes to be sent, or that wait for a connection, above which no more requests are read from clients.
const UNSENT_BYTES_MAX: usize = 4 << 20;
const READ_BYTES: usize = 64 << 10;

/// The upstream server as clients see it.
pub struct Upstream {
    pub target: UpstreamTarget,
    /// How long a request may wait for a connection, or for an answer.
    pub patience: Duration,
    lines: [Line; 2],
    /// `None`: nothing is kept.
    cache: Option<RefCell<Cache>>,
    /// When the newest answered request was sent over the connection that is told of changes.
    proved_at: Cell<Option<Instant>>,
    /// When a freeze was last known to be over: what was proved before proves nothing any more.
    thawed_at: Cell<Option<Instant>>,
    /// The id of that connection.
    told: Cell<Option<i64>>,
}

/// A request of a client.
struct Asked {
    bytes: Bytes,
    ticket: Ticket,
    only_reads: bool,
    ends_transaction: bool,
    fetch: Option<Fetch>,
    since: Instant,
}

enum Sent {
    Request(Asked),
    /// Asks whether the connection lives.
    Probe(Instant),
    /// Redirects the news of changes to the connection with this id, or fails to.
    Redirect(i64),
}

/// One shared connection.
struct Line {
    version: Version,
    state: RefCell<LineState>,
    /// There is something to send, or a connection is wanted.
    wanted: Notify,
    /// Something is under way.
    asked: Notify,
    /// Bytes have been sent.
    pub sent: Notify,
}

#[derive(Default)]
struct LineState {
    is_open: bool,
    is_wanted: bool,
    /// Why there is no connection.
    problem: Option<String>,
    outgoing: BytesMut,
    underway: VecDeque<Sent>,
    waiting: VecDeque<Asked>,
    waiting_bytes: usize,
    heard_at: Option<Instant>,
    /// When the newest answered request was sent.
    proved_at: Option<Instant>,
    /// Since when the connection is in doubt.
    doubted_at: Option<Instant>,
    /// Whether the server remembers what is read here, and tells of its changes.
    is_told: bool,
}

impl Upstream {
    /// `cache_bytes`: 0 keeps nothing.
    pub fn new(target: UpstreamTarget, patience: Duration, cache_bytes: usize) -> Rc<Self> {
        let line = |version| Line {
            version,
            state: RefCell::default(),
            wanted: Notify::new(),
            asked: Notify::new(),
            sent: Notify::new(),
        };
        let cache = (cache_bytes > 0).then(|| RefCell::new(Cache::new(cache_bytes)));
        let lines = [line(Version::Resp2), line(Version::Resp3)];
        let (proved_at, thawed_at, told) = (Cell::new(None), Cell::new(None), Cell::new(None));
        Rc::new(Self { target, patience, lines, cache, proved_at, thawed_at, told })
    }

    fn line(&self, version: Version) -> &Line {
        &self.lines[usize::from(version == Version::Resp3)]
    }

    /// Keeps both connections, forever. The one with news is opened at once.
    pub async fn keep(self: Rc<Self>) {
        self.line(Version::Resp3).want();
        tokio::join!(self.keep_line(Version::Resp2), self.keep_line(Version::Resp3));
    }

    /// The reason that requests cannot be answered now, if any.
    pub fn problem(&self) -> Option<String> {
        let state = self.line(Version::Resp3).state.borrow();
        if state.is_open { None } else { Some(state.problem.clone().unwrap_or_else(|| "not connected yet".to_owned())) }
    }

    /// Keys and bytes of the cache, and its hits so far.
    pub fn copies(&self) -> (usize, usize, u64) {
        let cache = self.cache.as_ref().map(RefCell::borrow);
        cache.map_or((0, 0, 0), |cache| (cache.keys(), cache.bytes(), cache.hits()))
    }

    /// Whether no request of a client is under way.
    pub fn is_settled(&self) -> bool {
        self.lines.iter().all(|line| {
            let state = line.state.borrow();
            state.waiting.is_empty() && !state.underway.iter().any(|sent| matches!(sent, Sent::Request(_)))
        })
    }

    /// Whether clients have to wait before they ask for more.
    pub fn is_full(&self, version: Version) -> bool {
        let state = self.line(version).state.borrow();
        state.outgoing.len() + state.waiting_bytes > UNSENT_BYTES_MAX
    }

    pub async fn room(&self, version: Version) {
        self.line(version).sent.notified().await;
    }

    /// Asks whether the open connections live, as after a freeze.
    pub fn doubt(&self) {
        self.thawed_at.set(Some(Instant::now()));
        for line in &self.lines {
            line.state.borrow_mut().doubt(Instant::now());
            line.wake();
        }
    }

    /// The copy of a reply, if it is known to be right.
    pub fn copy(&self, version: Version, key: &[u8], request: &[u8]) -> Option<Bytes> {
        let cache = self.cache.as_ref()?;
        let proved_at = self.proved_at.get()?;
        if proved_at.elapsed() > LEASE || self.thawed_at.get().is_some_and(|at| proved_at < at) {
            self.probe_news();
            return None;
        }
        if proved_at.elapsed() > LEASE / 2 {
            self.probe_news();
        }
        cache.borrow_mut().find(key, version, request)
    }

    fn probe_news(&self) {
        let line = self.line(Version::Resp3);
        let mut state = line.state.borrow_mut();
        if state.is_open && !state.underway.iter().any(|sent| matches!(sent, Sent::Probe(_))) {
            state.probe(Instant::now());
            line.wake();
        }
    }

    /// Sends a request whose reply is for `ticket`.
    pub fn ask(&self, version: Version, bytes: Bytes, known: &Known, ticket: Ticket) {
        self.ask_at(Instant::now(), version, bytes, known, ticket);
    }

    /// Sends requests that belong together: none of another client comes between them, and all are sent or none is.
    pub fn ask_together(&self, version: Version, requests: impl Iterator<Item = (Bytes, Known, Ticket)>) {
        // Nothing is decided for one of them that is not for the others.
        let now = Instant::now();
        requests.for_each(|(bytes, known, ticket)| self.ask_at(now, version, bytes, &known, ticket));
    }

    fn ask_at(&self, now: Instant, version: Version, bytes: Bytes, known: &Known, ticket: Ticket) {
        let line = self.line(version);
        let mut state = line.state.borrow_mut();
        let fetch = self.cache.as_ref().and_then(|cache| {
            let mut cache = cache.borrow_mut();
            match (known.effect, &*known.keys) {
                (Effect::Reads, [key]) if state.is_told && self.told.get().is_some() => {
                    return Some(cache.begin(key, version, bytes.clone()));
                }
                (Effect::Changes, keys) => keys.iter().for_each(|key| cache.changed(key)),
                (Effect::ChangesAll, _) => cache.clear(),
                _ => {}
            }
            None
        });
        let Known { only_reads, ends_transaction, .. } = *known;
        let asked = Asked { bytes, ticket, only_reads, ends_transaction, fetch, since: now };
        state.is_wanted = true;
        let is_silent = state.proved_at.is_none_or(|at| now.saturating_duration_since(at) > SILENCE);
        if is_silent {
            state.doubt(now);
        }
        if state.is_open && state.doubted_at.is_none() {
            state.send(asked);
        } else {
            state.waiting_bytes += asked.bytes.len();
            state.waiting.push_back(asked);
        }
        line.wake();
    }

    async fn keep_line(&self, version: Version) {
        let line = self.line(version);
        let mut backoff = BACKOFF_MIN;
        loop {
            while !line.state.borrow().is_wanted {
                line.wanted.notified().await;
            }
            let mut opened_at = None;
            let problem = match self.connect(version).await {
                Ok((stream, input, is_told)) => {
                    opened_at = Some(Instant::now());
                    self.opened(line, is_told);
                    let error = self.converse(line, stream, input).await;
                    format!("{:?}: the connection is lost: {error}", self.target.url)
                }
                Err(problem) => problem,
            };
            // Whether it had worked until now: attempts that fail one after the other are not news.
            let is_news = line.state.borrow().problem.is_none();
            self.lost(line, &problem);
            if is_news {
                print_error(&format!("dormouse sidecar: {problem}"));
            }
            self.refuse_late(line, &problem);
            // A server that accepts connections and drops them is asked as rarely as one that is gone.
            if opened_at.is_some_and(|at| at.elapsed() > BACKOFF_MAX) {
                backoff = BACKOFF_MIN;
                continue;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Returns the socket, bytes that were read from it, and whether its reads are remembered.
    async fn connect(&self, version: Version) -> Result<(Box<dyn ByteStream>, BytesMut, bool), String> {
        let mut link: UpstreamLink = self.target.connect(version).await?;
        let mut is_told = false;
        if version == Version::Resp3 && self.cache.is_some() {
            match link.call(&["CLIENT", "TRACKING", "ON"]).await {
                Ok(_) => {
                    let id = link.call(&["CLIENT", "ID"]).await?;
                    self.told.set(id.integer());
                    is_told = true;
                }
                Err(refusal) => {
                    self.told.set(None);
                    let url = &self.target.url;
                    print_error(&format!(
                        "dormouse sidecar: {url:?} does not tell of changes ({refusal}): no replies are kept"
                    ));
                }
            }
        }
        let (stream, input) = link.into_parts();
        Ok((stream, input, is_told))
    }

    fn opened(&self, line: &Line, is_told: bool) {
        let now = Instant::now();
        let mut state = line.state.borrow_mut();
        if state.problem.is_some() && line.version == Version::Resp3 {
            print_error(&format!("dormouse sidecar: {:?}: connected again", self.target.url));
        }
        (state.is_open, state.problem, state.is_told) = (true, None, is_told);
        (state.heard_at, state.proved_at) = (Some(now), Some(now));
        state.release();
        line.wake();
        drop(state);
        match line.version {
            Version::Resp2 => self.redirect(),
            Version::Resp3 if is_told => {
                self.proved_at.set(Some(now));
                self.redirect();
            }
            Version::Resp3 => {}
        }
    }

    /// Lets the news of what RESP2's connection reads go to the connection that is told.
    fn redirect(&self) {
        let line = self.line(Version::Resp2);
        let mut state = line.state.borrow_mut();
        if let Some(id) = self.told.get()
            && state.is_open
        {
            let text = id.to_string();
            let words: [&[u8]; 5] = [b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", text.as_bytes()];
            state.outgoing.extend_from_slice(&encoded(words.into_iter()));
            state.underway.push_back(Sent::Redirect(id));
            line.wake();
        }
    }

    fn lost(&self, line: &Line, problem: &str) {
        if line.version == Version::Resp3 {
            self.told.set(None);
            self.proved_at.set(None);
            self.line(Version::Resp2).state.borrow_mut().is_told = false;
            if let Some(cache) = &self.cache {
                cache.borrow_mut().clear();
            }
        }
        let mut state = line.state.borrow_mut();
        (state.is_open, state.is_told, state.doubted_at) = (false, false, None);
        state.problem = Some(problem.to_owned());
        state.outgoing.clear();
        let sent = std::mem::take(&mut state.underway);
        for sent in sent.into_iter().rev() {
            let Sent::Request(mut asked) = sent else { continue };
            if let (Some(fetch), Some(cache)) = (asked.fetch.take(), &self.cache) {
                cache.borrow_mut().end(fetch, None);
            }
            if asked.only_reads {
                state.waiting_bytes += asked.bytes.len();
                state.waiting.push_front(asked);
            } else {
                let text = "the connection to the upstream server was lost: the request may have been run";
                asked.ticket.fill(Bytes::from(format!("-UNCERTAIN {text}\r\n")));
            }
        }
        // Without work there is no hurry, except for the connection that /healthz reports.
        state.is_wanted = line.version == Version::Resp3 || !state.waiting.is_empty();
        line.sent.notify_waiters();
    }

    /// Answers the requests that have waited for too long.
    fn refuse_late(&self, line: &Line, problem: &str) {
        let mut state = line.state.borrow_mut();
        let is_late = |asked: &Asked| asked.since.elapsed() >= self.patience;
        while state.waiting.front().is_some_and(is_late)
            && let Some(asked) = state.waiting.pop_front()
        {
            state.waiting_bytes -= asked.bytes.len();
            if let (Some(fetch), Some(cache)) = (asked.fetch, &self.cache) {
                cache.borrow_mut().end(fetch, None);
            }
            let text = problem.replace(['\r', '\n'], " ");
            asked.ticket.fill(Bytes::from(format!("-TRYAGAIN the upstream server cannot be reached: {text}\r\n")));
        }
        line.sent.notify_waiters();
    }

    /// Carries requests and replies until the connection is lost. Returns why.
    async fn converse(&self, line: &Line, stream: Box<dyn ByteStream>, input: BytesMut) -> io::Error {
        let (reader, writer) = tokio::io::split(stream);
        let ended = tokio::select! {
            ended = write(line, writer) => ended,
            ended = self.read(line, reader, input) => ended,
            ended = watch(line, self.patience) => ended,
        };
        match ended {
            Err(error) => error,
        }
    }

    async fn read(
        &self,
        line: &Line,
        mut reader: ReadHalf<Box<dyn ByteStream>>,
        mut input: BytesMut,
    ) -> io::Result<Infallible> {
        let mut scanner = ReplyScanner::default();
        loop {
            while let Some(length) = scanner.scan(&input)? {
                let reply = input.split_to(length).freeze();
                self.take(line, reply)?;
            }
            input.reserve(READ_BYTES);
            if reader.read_buf(&mut input).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server has closed it"));
            }
            line.heard();
        }
    }

    /// Gives a reply to its request.
    fn take(&self, line: &Line, reply: Bytes) -> io::Result<()> {
        if reply.first() == Some(&b'>') {
            self.take_news(&reply);
            return Ok(());
        }
        let mut state = line.state.borrow_mut();
        let unasked = || io::Error::new(io::ErrorKind::InvalidData, "the server answers what was not asked");
        let is_error = matches!(reply.first(), Some(b'-' | b'!'));
        let sent_at = match state.underway.pop_front().ok_or_else(unasked)? {
            Sent::Request(Asked { ticket, fetch, since, ends_transaction, .. }) => {
                if let (Some(fetch), Some(cache)) = (fetch, &self.cache) {
                    cache.borrow_mut().end(fetch, (!is_error).then_some(&*reply));
                }
                let may_go_on = ends_transaction && is_error && !has_ended(&reply);
                ticket.fill(reply);
                if may_go_on {
                    // The requests of other clients would be queued in it.
                    let text = "the server did not end a transaction";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                since
            }
            Sent::Probe(at) => {
                if state.doubted_at.is_some_and(|doubted_at| doubted_at <= at) {
                    state.doubted_at = None;
                    state.release();
                    line.wake();
                }
                at
            }
            Sent::Redirect(id) => {
                state.is_told = reply.first() == Some(&b'+') && self.told.get() == Some(id);
                return Ok(());
            }
        };
        state.proved_at = state.proved_at.max(Some(sent_at));
        if line.version == Version::Resp3 {
            self.proved_at.set(self.proved_at.get().map(|known| known.max(sent_at)));
        }
        Ok(())
    }

    fn take_news(&self, push: &[u8]) {
        let Some(cache) = &self.cache else { return };
        let mut cache = cache.borrow_mut();
        let Ok(push) = Response::read(&mut &*push) else { return cache.clear() };
        match push.items() {
            Some([kind, Response::Many(_, Some(keys))]) if kind.bytes() == Some(b"invalidate") => {
                keys.iter().filter_map(Response::bytes).for_each(|key| cache.changed(key));
            }
            // Everything was flushed.
            Some([kind, ..]) if kind.bytes() == Some(b"invalidate") => cache.clear(),
            _ => {}
        }
    }
}

/// Whether an error of `EXEC` or `DISCARD` says that no transaction is open any more.
fn has_ended(error: &[u8]) -> bool {
    error.starts_with(b"-EXECABORT") || memchr::memmem::find(error, b" without MULTI").is_some()
}

async fn write(line: &Line, mut writer: WriteHalf<Box<dyn ByteStream>>) -> io::Result<Infallible> {
    loop {
        let bytes = std::mem::take(&mut line.state.borrow_mut().outgoing);
        if bytes.is_empty() {
            line.wanted.notified().await;
            continue;
        }
        writer.write_all(&bytes).await?;
        writer.flush().await?;
        line.sent.notify_waiters();
    }
}

async fn watch(line: &Line, patience: Duration) -> io::Result<Infallible> {
    loop {
        line.busy().await;
        sleep(LOOK).await;
        line.state.borrow().check(patience)?;
    }
}

impl Line {
    fn want(&self) {
        self.state.borrow_mut().is_wanted = true;
        self.wanted.notify_one();
    }

    /// Lets what is under way be sent, and waited for.
    fn wake(&self) {
        self.wanted.notify_one();
        self.asked.notify_one();
    }

    fn heard(&self) {
        self.state.borrow_mut().heard_at = Some(Instant::now());
    }

    /// Waits until something is under way.
    async fn busy(&self) {
        while self.state.borrow().underway.is_empty() {
            self.asked.notified().await;
        }
    }
}

impl LineState {
    fn send(&mut self, asked: Asked) {
        self.outgoing.extend_from_slice(&asked.bytes);
        self.underway.push_back(Sent::Request(asked));
    }

    fn probe(&mut self, now: Instant) {
        self.outgoing.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
        self.underway.push_back(Sent::Probe(now));
    }

    /// Lets requests wait until the connection has answered a `PING`.
    fn doubt(&mut self, now: Instant) {
        if self.is_open && self.doubted_at.is_none() {
            self.doubted_at = Some(now);
            self.probe(now);
        }
    }

    /// Sends what has waited.
    fn release(&mut self) {
        self.waiting_bytes = 0;
        for asked in std::mem::take(&mut self.waiting) {
            self.send(asked);
        }
    }

    /// # Errors
    /// When the server has been silent for too long.
    fn check(&self, patience: Duration) -> io::Result<()> {
        let since = |at: Option<Instant>| at.map_or(Duration::ZERO, |at| at.elapsed());
        let is_probe = matches!(self.underway.front(), Some(Sent::Probe(_)));
        let is_dead = is_probe && since(self.doubted_at) > DOUBT;
        let asked_at = self.underway.front().and_then(|sent| match sent {
            Sent::Request(asked) => Some(asked.since),
            Sent::Probe(at) => Some(*at),
            Sent::Redirect(_) => self.heard_at,
        });
        if is_dead || since(asked_at).min(since(self.heard_at)) > patience {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::replies::Replies;
    use super::*;

    fn line() -> (Rc<Upstream>, Rc<Replies>) {
        let target = UpstreamTarget { url: "redis://h".parse().unwrap(), tls: None };
        let upstream = Upstream::new(target, Duration::from_secs(1), 1 << 20);
        upstream.told.set(Some(1));
        upstream.opened(upstream.line(Version::Resp3), true);
        (upstream, Rc::default())
    }

    fn ask(upstream: &Upstream, replies: &Rc<Replies>, request: &'static str, effect: Effect, ends_transaction: bool) {
        let keys = if effect == Effect::Reads { smallvec::smallvec![Box::from(&b"a"[..])] } else { Default::default() };
        let known = Known { effect, keys, only_reads: effect == Effect::Reads, ends_transaction };
        upstream.ask(Version::Resp3, Bytes::from_static(request.as_bytes()), &known, replies.expect());
    }

    fn take(upstream: &Upstream, reply: &'static str) -> io::Result<()> {
        upstream.take(upstream.line(Version::Resp3), Bytes::from_static(reply.as_bytes()))
    }

    #[test]
    fn a_reply_from_before_a_freeze_proves_nothing() {
        let (upstream, replies) = line();
        ask(&upstream, &replies, "GET a", Effect::Reads, false);
        upstream.doubt();
        ask(&upstream, &replies, "SET b 1", Effect::None, false);
        let (copy, waiting) = (
            || upstream.copy(Version::Resp3, b"a", b"GET a"),
            || upstream.line(Version::Resp3).state.borrow().waiting.len(),
        );
        take(&upstream, "$1\r\n1\r\n").unwrap();
        assert_eq!((copy(), waiting()), (None, 1));
        take(&upstream, "+PONG\r\n").unwrap();
        assert_eq!((copy().as_deref(), waiting()), (Some(&b"$1\r\n1\r\n"[..]), 0));
    }

    #[test]
    fn a_transaction_that_is_not_ended_ends_the_connection() {
        for (reply, is_right) in [
            ("*0\r\n", true),
            ("_\r\n", true),
            ("-EXECABORT Transaction discarded because of previous errors.\r\n", true),
            ("-ERR EXEC without MULTI\r\n", true),
            ("-NOPERM User default has no permissions to run the 'exec' command\r\n", false),
        ] {
            let (upstream, replies) = line();
            ask(&upstream, &replies, "EXEC", Effect::None, true);
            assert_eq!(take(&upstream, reply).is_ok(), is_right, "{reply}");
            assert_eq!(replies.open(), 1);
        }
    }
}
