//! One client of the sidecar.
//!
//! 1. Its requests are taken from its bytes one by one. Each is answered here, from a copy, or by the upstream server over a
//!    shared connection; the replies leave in the order of the requests ([`Replies`]).
//! 2. At a request that needs a connection of its own, the client first gets the replies that it waits for. Then a connection
//!    is made for it alone, and from there on bytes pass in both directions as they are.
//! 3. A transaction goes over the shared connection if the client has sent all of it: its requests are appended together, so
//!    none of another client's comes between them.

use std::io;
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use dormouse_protocol::{Parsed, Parser, ProtocolError, Request, RequestLimits, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::sync::watch;

use super::commands::{Effect, Known, Local, RequestRoute, ends_transaction, route};
use super::link::{ByteStream, encoded};
use super::replies::Replies;
use super::upstream::Upstream;

/// The most requests of a client that are under way.
const OPEN_MAX: usize = 4096;
const READ_BYTES: usize = 16 << 10;
/// Replies that are written together.
const WRITE_BYTES: usize = 64 << 10;

const OK: &[u8] = b"+OK\r\n";

/// Serves a client until it leaves, or until the process ends and it has its replies.
pub async fn serve(
    stream: Box<dyn ByteStream>,
    upstream: Rc<Upstream>,
    ending: watch::Receiver<bool>,
) -> io::Result<()> {
    let client = Client {
        stream,
        upstream,
        ending,
        input: BytesMut::new(),
        parser: Parser::new(RequestLimits::default()),
        replies: Rc::default(),
        version: Version::Resp2,
        name: None,
    };
    let replies = Rc::clone(&client.replies);
    let outcome = client.run().await;
    replies.close();
    outcome
}

struct Client {
    stream: Box<dyn ByteStream>,
    upstream: Rc<Upstream>,
    /// Whether the process is to end.
    ending: watch::Receiver<bool>,
    input: BytesMut,
    parser: Parser,
    replies: Rc<Replies>,
    version: Version,
    /// As `CLIENT SETNAME` gave it.
    name: Option<Bytes>,
}

/// Outcome of the request at the start of the input.
enum Next {
    Taken,
    /// It has not come whole.
    Missing,
    NeedsOwn,
    /// It goes over the other shared connection, and so has to wait for the replies to those before it.
    NeedsQuiet,
    Ends,
}

/// A request, out of the client's bytes.
enum Action {
    Skip,
    Reply(Bytes),
    Ask(Known),
    Begin,
    Local(Local, Vec<Bytes>),
    Own,
}

impl Client {
    async fn run(mut self) -> io::Result<()> {
        let mut out = BytesMut::new();
        // Whether the client has sent all that it will, and whether the rest of it is to be left alone.
        let (mut is_at_end, mut is_done) = (false, false);
        loop {
            let mut is_full = false;
            let (mut needs_own, mut needs_quiet) = (false, false);
            while !is_done && !needs_own && !needs_quiet {
                is_full = self.replies.open() >= OPEN_MAX || self.upstream.is_full(self.version);
                if is_full {
                    break;
                }
                match self.next() {
                    Ok(Next::Taken) => {}
                    Ok(Next::Missing) => break,
                    Ok(Next::NeedsOwn) => needs_own = true,
                    Ok(Next::NeedsQuiet) => needs_quiet = true,
                    Ok(Next::Ends) => is_done = true,
                    Err(error) => {
                        self.replies.push(Bytes::from(format!("-ERR {error}\r\n")));
                        is_done = true;
                    }
                }
            }
            self.replies.take(&mut out, WRITE_BYTES);
            if !out.is_empty() {
                tokio::select! {
                    biased;
                    written = self.stream.write_all(&out) => written?,
                    () = self.replies.overflowed() => {
                        return Err(io::Error::other("the client does not read its replies"));
                    }
                }
                self.stream.flush().await?;
                out.clear();
                continue;
            }
            let is_idle = self.replies.open() == 0;
            if needs_own && is_idle {
                return self.pass().await;
            }
            let ends = is_done || is_at_end && !is_full || *self.ending.borrow() && self.input.is_empty();
            if is_idle && ends {
                return self.stream.shutdown().await;
            }
            let may_read = !is_full && !needs_own && !needs_quiet && !is_at_end && !is_done;
            if may_read && self.input.capacity() - self.input.len() < READ_BYTES / 4 {
                self.input.reserve(READ_BYTES);
            }
            tokio::select! {
                biased;
                () = self.replies.ready.notified() => {}
                () = self.upstream.room(self.version), if is_full => {}
                read = self.stream.read_buf(&mut self.input), if may_read => is_at_end = read? == 0,
                _ = self.ending.changed(), if !*self.ending.borrow() => {}
            }
        }
    }

    /// Takes the next request.
    fn next(&mut self) -> Result<Next, ProtocolError> {
        let (action, consumed, wire) = match self.parser.parse(&self.input)? {
            Parsed::Incomplete { .. } => return Ok(Next::Missing),
            Parsed::Complete { request, consumed } => {
                let action = decide(&self.upstream, self.version, request, &self.input[..consumed]);
                // A line of words goes on as what it means.
                let is_line = self.input.first() != Some(&b'*');
                (action, consumed, is_line.then(|| encoded(request.iter()).freeze()))
            }
        };
        match &action {
            Action::Own => {
                self.parser.restart();
                return Ok(Next::NeedsOwn);
            }
            Action::Begin => return self.transaction(),
            Action::Local(local, words) if self.changes_version(*local, words) && self.replies.open() > 0 => {
                self.parser.restart();
                return Ok(Next::NeedsQuiet);
            }
            _ => {}
        }
        let bytes = self.input.split_to(consumed).freeze();
        match action {
            Action::Reply(reply) => self.replies.push(reply),
            Action::Ask(known) => {
                let ticket = self.replies.expect();
                self.upstream.ask(self.version, wire.unwrap_or(bytes), &known, ticket);
            }
            Action::Local(Local::Quit, _) => {
                self.replies.push(Bytes::from_static(OK));
                return Ok(Next::Ends);
            }
            Action::Local(local, words) => self.answer(local, &words),
            Action::Skip | Action::Own | Action::Begin => {}
        }
        Ok(Next::Taken)
    }

    /// Takes a transaction that has come whole, and may run over any connection.
    fn transaction(&mut self) -> Result<Next, ProtocolError> {
        let mut parser = Parser::new(RequestLimits::default());
        let mut requests: Vec<(Bytes, Known)> = Vec::new();
        let mut at = 0;
        loop {
            let rest = &self.input[at..];
            let Ok(Parsed::Complete { request, consumed }) = parser.parse(rest) else { return Ok(Next::NeedsOwn) };
            // A word too many is an error that may leave the transaction open.
            let is_end = request.len() == 1 && ends_transaction(request);
            let is_begin = requests.is_empty() && request.len() == 1;
            let fits = rest.first() == Some(&b'*')
                && requests.len() < OPEN_MAX
                && (is_begin || is_end || route(request) == RequestRoute::Shared);
            if !fits {
                return Ok(Next::NeedsOwn);
            }
            // None of its replies is one to the request alone, and none may be sent twice.
            let mut known = Known::of(request);
            known.only_reads = false;
            known.ends_transaction = is_end;
            if known.effect == Effect::Reads {
                known.effect = Effect::None;
            }
            requests.push((Bytes::copy_from_slice(&rest[..consumed]), known));
            at += consumed;
            if is_end {
                break;
            }
        }
        self.input.advance(at);
        self.parser.restart();
        let expected = requests.into_iter().map(|(bytes, known)| (bytes, known, self.replies.expect()));
        self.upstream.ask_together(self.version, expected);
        Ok(Next::Taken)
    }

    /// Whether a request changes the client's version of the protocol.
    fn changes_version(&self, local: Local, words: &[Bytes]) -> bool {
        let to = match (local, words.get(1).map(|version| &**version)) {
            (Local::Reset, _) | (Local::Hello, Some(b"2")) => Version::Resp2,
            (Local::Hello, Some(b"3")) => Version::Resp3,
            _ => return false,
        };
        to != self.version
    }

    /// Answers for the connection of the client.
    fn answer(&mut self, local: Local, words: &[Bytes]) {
        let reply = match local {
            Local::Hello => return self.hello(words),
            Local::SetName => {
                self.name = words.get(2).filter(|name| !name.is_empty()).cloned();
                Bytes::from_static(OK)
            }
            Local::Name => match (&self.name, self.version) {
                (Some(name), _) => {
                    let mut reply = BytesMut::from(format!("${}\r\n", name.len()).as_bytes());
                    reply.extend_from_slice(name);
                    reply.extend_from_slice(b"\r\n");
                    reply.freeze()
                }
                (None, Version::Resp2) => Bytes::from_static(b"$-1\r\n"),
                (None, Version::Resp3) => Bytes::from_static(b"_\r\n"),
            },
            Local::Reset => {
                (self.version, self.name) = (Version::Resp2, None);
                Bytes::from_static(b"+RESET\r\n")
            }
            Local::Authenticate | Local::Select | Local::Describe | Local::Quit => Bytes::from_static(OK),
        };
        self.replies.push(reply);
    }

    /// `HELLO [version [AUTH user password] [SETNAME name]]`, whose words have been checked. The upstream server says who
    /// it is.
    fn hello(&mut self, words: &[Bytes]) {
        match words.get(1).map(|version| &**version) {
            Some(b"2") => self.version = Version::Resp2,
            Some(b"3") => self.version = Version::Resp3,
            _ => {}
        }
        if let Some(at) = words.iter().position(|word| word.eq_ignore_ascii_case(b"SETNAME")) {
            self.name = words.get(at + 1).filter(|name| !name.is_empty()).cloned();
        }
        let version: &[u8] = if self.version == Version::Resp3 { b"3" } else { b"2" };
        let known = Known { effect: Effect::None, keys: Default::default(), only_reads: true, ends_transaction: false };
        let request = encoded([&b"HELLO"[..], version].into_iter()).freeze();
        self.upstream.ask(self.version, request, &known, self.replies.expect());
    }

    /// Passes on what the client and the upstream server say, over a connection of its own.
    async fn pass(mut self) -> io::Result<()> {
        let connected = async {
            let mut link = self.upstream.target.connect(self.version).await?;
            if let Some(name) = &self.name {
                link.call(&["CLIENT", "SETNAME", &String::from_utf8_lossy(name)]).await?;
            }
            Ok::<_, String>(link)
        };
        let (mut own, early) = match connected.await {
            Ok(link) => link.into_parts(),
            Err(problem) => {
                let text = problem.replace(['\r', '\n'], " ");
                let reply = format!("-TRYAGAIN the upstream server cannot be reached: {text}\r\n");
                self.stream.write_all(reply.as_bytes()).await?;
                return self.stream.shutdown().await;
            }
        };
        self.stream.write_all(&early).await?;
        own.write_all(&self.input).await?;
        own.flush().await?;
        self.input = BytesMut::new();
        copy_bidirectional(&mut self.stream, &mut own).await.map(|_| ())
    }
}

/// Decides on a request, of which `wire` are the bytes.
fn decide(upstream: &Upstream, version: Version, request: Request<'_>, wire: &[u8]) -> Action {
    if request.is_empty() {
        return Action::Skip;
    }
    match route(request) {
        RequestRoute::Shared => {
            let known = Known::of(request);
            let copy = match (known.effect, &*known.keys) {
                (Effect::Reads, [key]) => upstream.copy(version, key, wire),
                _ => None,
            };
            copy.map_or(Action::Ask(known), Action::Reply)
        }
        RequestRoute::Own => Action::Own,
        RequestRoute::Transaction => Action::Begin,
        RequestRoute::Here(local) if is_answered_here(upstream, local, request) => {
            Action::Local(local, request.iter().map(Bytes::copy_from_slice).collect())
        }
        RequestRoute::Here(_) => Action::Own,
        RequestRoute::Refused => Action::Reply(Bytes::from_static(
            b"-ERR WAIT and WAITAOF ask for the writes of one connection, and the sidecar shares its own\r\n",
        )),
    }
}

/// Whether a request says what the sidecar can answer; any other needs a connection of its own, where the upstream server
/// answers it.
fn is_answered_here(upstream: &Upstream, local: Local, request: Request<'_>) -> bool {
    let word = |at: usize| request.get(at).unwrap_or_default();
    match (local, request.len()) {
        (Local::Hello, 1) => true,
        (Local::Hello, _) => is_hello(upstream, request),
        (Local::Authenticate, 2) => upstream.target.is_login(None, word(1)),
        (Local::Authenticate, 3) => upstream.target.is_login(Some(word(1)), word(2)),
        (Local::Select, 2) => word(1) == upstream.target.index().to_string().as_bytes(),
        (Local::SetName, 3) => word(2).iter().all(|byte| (b'!'..=b'~').contains(byte)),
        (Local::Describe, 4) => true,
        (Local::Name, 2) | (Local::Reset | Local::Quit, 1) => true,
        _ => false,
    }
}

fn is_hello(upstream: &Upstream, request: Request<'_>) -> bool {
    let word = |at: usize| request.get(at).unwrap_or_default();
    let mut at = 2;
    while at < request.len() {
        if word(at).eq_ignore_ascii_case(b"AUTH") && upstream.target.is_login(Some(word(at + 1)), word(at + 2)) {
            at += 3;
        } else if word(at).eq_ignore_ascii_case(b"SETNAME") && at + 1 < request.len() {
            at += 2;
        } else {
            return false;
        }
    }
    matches!(word(1), b"2" | b"3")
}
