//! One request, from its head to its answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::service::TowerToHyperService;

use super::answer::{AnswerForm, JsonAnswer};
use super::body::{ExchangeEnd, HttpBody, Outlet};
use super::client::{Gone, HttpClient, Lease};
use super::forward::{self, Passage};
use super::idempotency::{COMMANDS_MAX, IdempotencyKey};
use super::input::RespText;
use super::json::{self, BodyProblem};
use super::refusal::{JSON, NoResult, Refused, in_dialect, status_of};
use super::route::{self, Route, is_of_operator};
use super::{Connection, events, identity, origin};
use crate::account;
use crate::clients::Client;
use crate::connection::{BYTES_PER_NS, TRIP_NS};
use crate::databases::traffic;
use crate::forwarding::heading::Heading;
use crate::session::FrontEnd;
use crate::traces;

/// The largest body.
const BODY_BYTES_MAX: usize = 64 << 20;
/// A body of at most this size is read without a charge, and on the worker.
const BODY_BYTES_FREE: usize = 64 << 10;
/// The part of a request's head that is not charged beside the connection, and what a header takes beside its bytes.
const HEAD_BYTES_FREE: usize = 4 << 10;
const HEADER_BYTES: usize = 64;
/// Most bytes that a body of JSON takes as RESP: `1,` becomes `$1\r\n1\r\n`.
const RESP_PER_JSON: usize = 4;
/// Bytes of the shortest command that is run once, in a body: `["FLUSHDB"],`.
const COMMAND_BYTES_MIN: usize = 12;
/// Time for a body to arrive, and the rate above it, in bytes for each second.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const BODY_BYTES_PER_SECOND: u64 = 64 << 10;
/// A longer answer is sent in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;
/// Work for a request beside its bytes and its commands, in nanoseconds.
const REQUEST_NS: u64 = TRIP_NS + 5_000;

const SYNC_TOKEN: &str = "upstash-sync-token";
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// How a client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json { is_base64: bool },
    Resp2,
}

/// Runs a request.
pub async fn run(connection: Rc<Connection>, request: Request<Incoming>, outlet: Rc<Outlet>) -> ExchangeEnd {
    let (mut parts, body) = request.into_parts();
    if is_of_operator(parts.uri.path()) {
        return operator(&connection, Request::from_parts(parts, body)).await;
    }
    if parts.method == Method::OPTIONS {
        connection.meter.parsed();
        return ExchangeEnd::Answered(origin::preflight(&parts, &connection.node));
    }
    // Only another node may say for whom it sends a request.
    let heading = connection.node.directions.get().and_then(|fleet| Heading::take(&mut parts.headers, &**fleet));
    outlet.is_for_page.set(parts.headers.contains_key(ORIGIN));
    let answered = match connection.client().await {
        Ok(client) => commands(Lease::new(&connection, client), &parts, heading, body, &outlet).await,
        Err(refusal) => Err(NoResult::Refused(Refused::new(StatusCode::TOO_MANY_REQUESTS, refusal.to_string()))),
    };
    let mut response = match answered {
        Ok(ExchangeEnd::Answered(response)) => response,
        Ok(ended) => return ended,
        Err(NoResult::Refused(refused)) => refused.into_response(),
        Err(NoResult::Gone) => return ExchangeEnd::Gone,
    };
    if connection.is_http2 {
        response.headers_mut().remove(CONNECTION);
    }
    ExchangeEnd::Answered(response)
}

/// Answers a request for a path of the operator on a connection that has sent others.
async fn operator(connection: &Connection, mut request: Request<Incoming>) -> ExchangeEnd {
    connection.meter.pay(None);
    connection.meter.parsed();
    request.extensions_mut().insert(connection.peer.clone());
    let router = TowerToHyperService::new(connection.router.clone());
    let Ok(response) = router.call(request).await;
    ExchangeEnd::Answered(response.map(HttpBody::Router))
}

/// Runs the commands of a request.
async fn commands(
    mut lease: Lease,
    parts: &Parts,
    heading: Option<Heading>,
    body: Incoming,
    outlet: &Outlet,
) -> Result<ExchangeEnd, NoResult> {
    let connection = Rc::clone(&lease.connection);
    let client = lease.client();
    let outcome = serve(&connection, client, parts, heading, body, outlet).await;
    if !matches!(outcome, Err(NoResult::Gone)) {
        lease.end();
    }
    outcome
}

async fn serve(
    connection: &Rc<Connection>,
    client: &mut HttpClient,
    parts: &Parts,
    heading: Option<Heading>,
    mut body: Incoming,
    outlet: &Outlet,
) -> Result<ExchangeEnd, NoResult> {
    if !matches!(parts.method, Method::GET | Method::HEAD | Method::POST | Method::PUT) {
        let text = "ERR only GET, HEAD, POST and PUT are served";
        return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, text).into());
    }
    let key = identity::key(parts);
    if let Some(fleet) = connection.node.directions.get() {
        forward::introduce(client, heading.as_ref());
        if !client.is_identified(key.as_deref()) {
            // In a box: only requests in a fleet need it.
            let passing = Box::pin(forward::pass_on(connection, client, &**fleet, key.as_deref(), parts, body));
            match passing.await? {
                Passage::Answered(response) => return Ok(ExchangeEnd::Answered(response)),
                Passage::Stays(unread) => body = unread,
            }
        }
    }
    if let Err(refused) = client.identify(key.as_deref()).await {
        connection.meter.pay(None);
        return Err(refused.into());
    }
    traces::note_database(client.session.tenant.name());
    connection.meter.pay(Some(&client.session.writer));
    connection.meter.parsed();
    if client.session.is_operator() {
        connection.meter.unbill();
    }
    client.session.has_billed.set(false);
    // It is kept until the request is answered.
    let mut head = Held::beyond(HEAD_BYTES_FREE, client);
    head.hold(head_bytes(parts))?;
    origin::check(parts, &client.session)?;
    client.session.worker.turns.wait(&client.session.share).await;
    let format = format(parts)?;
    let route = Route::of(parts);
    if let Route::Subscribe(..) | Route::Monitor = &route {
        return events::listen(connection, client, route, outlet).await;
    }
    let (form, format) = match (&route, format) {
        (Route::MultiExec, Format::Resp2) => {
            return Err(Refused::bad("ERR resp2 is not available for multi-exec").into());
        }
        (Route::MultiExec, format) => (AnswerForm::Elements, format),
        (Route::Pipeline, format) => (AnswerForm::Each, format),
        (_, format) => (AnswerForm::One, format),
    };
    let key = IdempotencyKey::of(&parts.headers).map_err(Refused::bad)?;
    let size_max = client.session.tenant.traffic.request_bytes_max().min(BODY_BYTES_MAX);
    let in_address = parts.uri.path_and_query().filter(|_| route == Route::Path).map_or(0, |path| path.as_str().len());
    let Some(size_max) = size_max.checked_sub(in_address) else { return Err(too_large(client).into()) };
    let (body, held) = read(connection, client, body, size_max).await?;
    if let Some(refused) = over_rate(client) {
        client.session.client.let_go(held);
        return Err(refused.into());
    }
    let taken = body.len();
    let input = parse(client, &route, parts, body, key.as_ref()).await;
    client.session.client.let_go(held);
    let (mut input, held) = input?;
    client.begin();
    let made = answer(connection, client, &mut input, key.as_ref(), form, format, outlet).await;
    client.session.client.let_go(held);
    client.finish();
    let made = made?;
    let session = &client.session;
    if !session.has_billed.get() {
        connection.meter.unbill();
    }
    session.worker.turns.charge(&session.share, REQUEST_NS + (taken + made.last.len()) as u64 / BYTES_PER_NS);
    let Some(status) = made.status else { return Ok(ExchangeEnd::Sent(made.last)) };
    let mut response = Response::new(HttpBody::Whole(made.last.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type(format));
    if let Some(token) = parts.headers.get(SYNC_TOKEN) {
        response.headers_mut().insert(SYNC_TOKEN, sync_token(token));
    }
    Ok(ExchangeEnd::Answered(response))
}

/// What the client takes for the position of its last write. All requests see that here, as there is one copy of the data. A
/// position in the log would tell how much other databases write.
fn sync_token(shown: &HeaderValue) -> HeaderValue {
    HeaderValue::from(shown.to_str().ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0))
}

/// About how much memory the head of a request takes.
fn head_bytes(parts: &Parts) -> usize {
    let headers = parts.headers.iter().map(|(name, value)| HEADER_BYTES + name.as_str().len() + value.len());
    parts.uri.path_and_query().map_or(0, |address| address.as_str().len()) + headers.sum::<usize>()
}

fn format(parts: &Parts) -> Result<Format, Refused> {
    let is = |name: &str, value: &str| {
        parts.headers.get(name).is_some_and(|found| found.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
    };
    let is_base64 = is("upstash-encoding", "base64");
    match is("upstash-response-format", "resp2") {
        false => Ok(Format::Json { is_base64 }),
        true if is_base64 => Err(Refused::bad("ERR base64 is not available for resp2")),
        true => Ok(Format::Resp2),
    }
}

fn too_large(client: &HttpClient) -> Refused {
    client.session.tenant.traffic.note_refused();
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, traffic::TOO_LARGE).last()
}

/// Refuses a request of a database that has used its requests, before it is read as commands.
fn over_rate(client: &HttpClient) -> Option<Refused> {
    let session = &client.session;
    let (traffic, (_, now_us)) = (&session.tenant.traffic, session.worker.now_us());
    traffic.retry_after_s(now_us).filter(|_| !session.permissions.is_operator())?;
    Some(refused_for(client, traffic.refuse(now_us).as_bytes(), ""))
}

/// Refuses a request because of the error of a command. `before`: what its text begins with.
fn refused_for(client: &HttpClient, error: &[u8], before: &str) -> Refused {
    let mut refused = Refused::new(status_of(error), before.to_owned() + &String::from_utf8_lossy(in_dialect(error)));
    if refused.status == StatusCode::TOO_MANY_REQUESTS {
        let (_, now_us) = client.session.worker.now_us();
        refused.retry_after_s = Some(client.session.tenant.traffic.retry_after_s(now_us).unwrap_or(1));
    }
    refused
}

/// Reads a body of at most `size_max` bytes. Returns how many bytes of it are charged.
async fn read(
    connection: &Connection,
    client: &HttpClient,
    mut body: Incoming,
    size_max: usize,
) -> Result<(Bytes, usize), NoResult> {
    if body.size_hint().lower() > size_max as u64 {
        return Err(too_large(client).into());
    }
    let mut held = Held::beyond(BODY_BYTES_FREE, client);
    let (mut whole, mut parts) = (Bytes::new(), Vec::new());
    let began = tokio::time::Instant::now();
    let mut len = 0;
    while !body.is_end_stream() {
        let deadline = began + BODY_TIMEOUT + Duration::from_secs(len as u64 / BODY_BYTES_PER_SECOND);
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Ok(frame) = tokio::time::timeout_at(deadline, frame).await else {
            let text = "ERR the request did not arrive in time";
            return Err(Refused::new(StatusCode::REQUEST_TIMEOUT, text).last().into());
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| Gone)?.into_data() else { continue };
        len += data.len();
        if len > size_max {
            return Err(too_large(client).into());
        }
        held.hold(len)?;
        connection.meter.parsed();
        match whole.is_empty() && parts.is_empty() {
            true => whole = data,
            false => {
                if parts.is_empty() {
                    parts.extend_from_slice(&std::mem::take(&mut whole));
                }
                parts.extend_from_slice(&data);
            }
        }
    }
    let whole = if parts.is_empty() { whole } else { parts.into() };
    Ok((whole, held.keep()))
}

/// Bytes charged to a client for the duration of a request.
struct Held {
    client: Arc<Client>,
    free: usize,
    bytes: usize,
}

impl Held {
    /// The first `free` bytes are not charged, unless more follow.
    fn beyond(free: usize, client: &HttpClient) -> Self {
        Self { client: Arc::clone(&client.session.client), free, bytes: 0 }
    }

    /// Charges up to `bytes` in total, in steps.
    fn hold(&mut self, bytes: usize) -> Result<(), Refused> {
        if bytes <= self.free || bytes <= self.bytes {
            return Ok(());
        }
        let more = bytes.max(2 * self.bytes) - self.bytes;
        self.client
            .hold(more)
            .map_err(|limit| Refused::new(StatusCode::TOO_MANY_REQUESTS, account::refusal(limit).to_string()).last())?;
        self.bytes += more;
        Ok(())
    }

    /// The charge stays.
    fn keep(mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.client.let_go(self.bytes);
        }
    }
}

/// Reads the commands of a request, which may have a key. Returns how many bytes they are charged for.
async fn parse(
    client: &HttpClient,
    route: &Route,
    parts: &Parts,
    body: Bytes,
    key: Option<&IdempotencyKey>,
) -> Result<(RespText, usize), NoResult> {
    let mut held = Held::beyond(BODY_BYTES_FREE, client);
    // The key of a transaction is that of its EXEC.
    let key = key.filter(|_| *route != Route::MultiExec);
    let promises = key.map_or(0, |key| match route {
        Route::Pipeline => (body.len() / COMMAND_BYTES_MIN + 1).min(COMMANDS_MAX) * key.words_bytes(),
        _ => key.words_bytes(),
    });
    let read = match route {
        Route::Path => {
            let body = if matches!(parts.method, Method::POST | Method::PUT) { &body[..] } else { &[] };
            held.hold(body.len() + promises)?;
            return Ok((route::command(parts, body, key), held.keep()));
        }
        Route::Pipeline | Route::MultiExec => json::commands,
        _ => json::command,
    };
    if body.len() <= BODY_BYTES_FREE {
        held.hold(promises)?;
        let input = read(&body, key).map_err(|unread| refused(route, unread))?;
        return Ok((input, held.keep()));
    }
    held.hold(body.len() * RESP_PER_JSON + promises)?;
    let (sender, receiver) = oneshot::channel();
    let key = key.cloned();
    // The client may be gone.
    let job = move |_| drop(sender.send(read(&body, key.as_ref())));
    let database = &client.session.tenant.database;
    database.on_lane(Vec::new(), || true, job).map_err(|error| Refused::bad(error.to_string()))?;
    let input = receiver.await.map_err(|_| Refused::bad("ERR the request was dropped"))?;
    Ok((input.map_err(|unread| refused(route, unread))?, held.keep()))
}

fn refused(route: &Route, unread: BodyProblem) -> Refused {
    let what = match route {
        Route::Pipeline => "pipeline request",
        Route::MultiExec => "multi-exec request",
        _ => "command",
    };
    Refused::bad(match unread {
        BodyProblem::Malformed => format!("ERR failed to parse {what}"),
        BodyProblem::Empty => format!("ERR empty {what}"),
        BodyProblem::EmptyCommand => String::from("ERR empty pipeline command"),
        BodyProblem::WrongWord => {
            format!("ERR failed to parse {what}: null, arrays and objects are not arguments, send them as strings")
        }
        BodyProblem::TooManyForKey => {
            format!("ERR too many commands for one Idempotency-Key: expected at most {COMMANDS_MAX}")
        }
    })
}

/// An answer.
struct Made {
    /// `None`: it is long, and has begun.
    status: Option<StatusCode>,
    /// Its last piece.
    last: Vec<u8>,
}

/// Runs commands and makes their answer. All but its last piece leave through the outlet.
async fn answer(
    connection: &Connection,
    client: &mut HttpClient,
    input: &mut RespText,
    key: Option<&IdempotencyKey>,
    form: AnswerForm,
    format: Format,
    outlet: &Outlet,
) -> Result<Made, NoResult> {
    let first_error = match form {
        AnswerForm::Elements => queue(connection, client, input).await?,
        AnswerForm::One | AnswerForm::Each => None,
    };
    let is_base64 = format == Format::Json { is_base64: true };
    let mut writer = JsonAnswer::new(form, is_base64);
    let mut out = Vec::new();
    let mut sending = Sending { outlet, format, charged: 0, has_begun: false };
    let mut status = StatusCode::OK;
    let mut exec = exec(key);
    let input = if form == AnswerForm::Elements { &mut exec } else { input };
    loop {
        let is_done = client.run(input, connection).await?;
        client.session.front = FrontEnd::Http;
        if client.session.transaction.is_some() {
            // `ONCE` was refused, and with it EXEC.
            client.session.abort();
        }
        client.settle().await?;
        let replies = client.reply.len();
        if form != AnswerForm::Each && client.reply.buffer.first() == Some(&b'-') {
            let error = &client.reply.buffer[1..];
            status = status_of(error);
            if let Some(error) = &first_error {
                return Err(
                    refused_for(client, error.as_bytes(), "EXECABORT Transaction discarded because of: ").into()
                );
            }
            if status == StatusCode::TOO_MANY_REQUESTS {
                return Err(refused_for(client, error.trim_ascii_end(), "").into());
            }
            writer = JsonAnswer::new(AnswerForm::One, is_base64);
        }
        out.reserve(replies.min(PIECE_BYTES) + replies.min(PIECE_BYTES) / 2 + 32);
        let mut at = 0;
        while at < replies {
            at = match format {
                Format::Json { .. } => writer.write(&client.reply.buffer, at, &mut out, PIECE_BYTES),
                Format::Resp2 => {
                    let end = replies.min(at + PIECE_BYTES);
                    out.extend_from_slice(&client.reply.buffer[at..end]);
                    end
                }
            };
            if out.len() >= PIECE_BYTES {
                sending.send(client, std::mem::take(&mut out)).await;
            }
        }
        client.reply.truncate(0);
        if is_done {
            break;
        }
    }
    if matches!(format, Format::Json { .. }) {
        writer.end(&mut out);
    }
    sending.end(client);
    Ok(Made { status: (!sending.has_begun).then_some(status), last: out })
}

/// What ends a transaction.
fn exec(key: Option<&IdempotencyKey>) -> RespText {
    let mut input = RespText::default();
    let mut command = input.begin();
    let words = key.map(|key| key.words(None));
    words.iter().flatten().for_each(|word| command.add(word));
    command.add(b"EXEC");
    command.end();
    input
}

fn content_type(format: Format) -> HeaderValue {
    match format {
        Format::Json { .. } => JSON,
        Format::Resp2 => OCTETS,
    }
}

/// Queues the commands of a transaction. Returns the first error.
async fn queue(
    connection: &Connection,
    client: &mut HttpClient,
    input: &mut RespText,
) -> Result<Option<String>, NoResult> {
    client.session.front = FrontEnd::HttpItself;
    client.run(&mut RespText::of(&[b"MULTI"]), connection).await?;
    client.session.front = FrontEnd::Http;
    if let Some(error) = client.reply.buffer.strip_prefix(b"-") {
        // The commands would be run one by one.
        return Err(Refused::bad(String::from_utf8_lossy(error.trim_ascii_end())).into());
    }
    client.reply.truncate(0);
    let mut first_error = None;
    loop {
        let is_done = client.run(input, connection).await?;
        let lines = client.reply.buffer.split(|byte| *byte == b'\n');
        let mut errors = lines.filter_map(|line| line.strip_prefix(b"-"));
        if first_error.is_none() {
            first_error = errors
                .next()
                .map(|error| String::from_utf8_lossy(error.strip_suffix(b"\r").unwrap_or(error)).into_owned());
        }
        client.reply.truncate(0);
        if is_done {
            break;
        }
    }
    client.session.front = FrontEnd::HttpItself;
    Ok(first_error)
}

/// A long answer on its way.
struct Sending<'o> {
    outlet: &'o Outlet,
    format: Format,
    /// Bytes charged for the reply buffer, which waits for the client to read.
    charged: usize,
    has_begun: bool,
}

impl Sending<'_> {
    async fn send(&mut self, client: &HttpClient, piece: Vec<u8>) {
        if !std::mem::replace(&mut self.has_begun, true) {
            let mut head = Response::new(());
            head.headers_mut().insert(CONTENT_TYPE, content_type(self.format));
            self.outlet.begin(head);
        }
        let charged = client.uncharged();
        if charged > self.charged {
            client.session.client.hold_anyway(charged - self.charged);
            self.charged = charged;
        }
        let session = &client.session;
        session.worker.turns.charge(&session.share, piece.len() as u64 / BYTES_PER_NS);
        self.outlet.send(piece).await;
        session.pass_turn().await;
    }

    fn end(&mut self, client: &HttpClient) {
        if self.charged > 0 {
            client.session.client.let_go(std::mem::take(&mut self.charged));
        }
    }
}
