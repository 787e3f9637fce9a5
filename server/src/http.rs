//! The HTTP ports, one of them over TLS: `/healthz`, `/readyz` and `/metrics`, the [admin API](crate::admin), and the door
//! to the databases. What names databases has a [gate](MetricsGate).
//!
//! A connection whose first request is for a database is handed over to a worker, with the bytes that were read from it:
//! see [`crate::rest`]. So is one that asks for a database later, and one whose request has a long head, which a worker charges
//! for; [`recording`] keeps what belongs to its last request.
//!
//! The service has a thread and a runtime of its own, so that a scrape never delays a worker. Queries to the server run on
//! further threads, one request at a time for each path, so that `/healthz` is always answered. Everything that a
//! client can draw out is bounded: the number of connections, the time for a request's head and its size, and the life
//! of a connection. Every connection is accepted at once. If there are too many, the one that has
//! been silent for longest is closed, so a probe is answered despite any number of slow connections.

mod handshake;
mod recording;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use self::handshake::{HandshakeTurn, handshake};
use self::recording::Recording;
use crate::admin::gate::{GateRefusal, MetricsGate};
use crate::audit::AuditLog;
use crate::event_loop::Handle;
use crate::listener;
use crate::peer::Peer;
use crate::rest::{self, HandedOver};
use crate::sockets::ClientSocket;
use crate::tls::Tls;

/// Most connections at once.
pub const CONNECTIONS_MAX: usize = 256;
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Lifetime of a connection. It then ends after its current request.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// Time for a request in progress when its connection has to end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Reasons why the server should get no traffic now; it is ready if there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether its listeners do not accept connections yet.
    pub starting: bool,
    /// Whether it is shutting down.
    pub draining: bool,
    /// Problems of the node or its databases. One damaged database is enough: a load balancer cannot know which
    /// database a request will use.
    pub problems: Vec<String>,
}

impl Readiness {
    fn reasons(&self) -> Vec<String> {
        let starting = self.starting.then(|| "the server is starting".to_string());
        let draining = self.draining.then(|| "the server is shutting down".to_string());
        [starting, draining].into_iter().flatten().chain(self.problems.iter().cloned()).collect()
    }
}

/// Bound sockets of the service.
#[derive(Debug, Default)]
pub struct HttpListeners {
    pub plain: Vec<TcpListener>,
    pub tls: Vec<TcpListener>,
}

impl HttpListeners {
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.tls.is_empty()
    }

    /// The first address at which it listens without TLS.
    pub fn address(&self) -> Option<SocketAddr> {
        self.plain.first().and_then(|listener| listener.local_addr().ok())
    }
}

/// The running service. It ends when this is dropped.
#[derive(Debug)]
pub struct Http {
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Http {
    /// Serves on listeners that are bound already. `readiness` is asked on every `/readyz`. `gate`: before what names
    /// databases; `None`: everyone may see it. `more`: further paths. Connections for databases are dealt out to the
    /// workers; without any, there are no databases.
    pub fn start(
        listeners: HttpListeners,
        tls: Option<Arc<Tls>>,
        registry: Registry,
        readiness: impl Fn() -> Readiness + Send + Sync + 'static,
        gate: Option<MetricsGate>,
        more: Router,
        workers: Vec<Handle>,
    ) -> io::Result<Http> {
        let addresses_of =
            |listeners: &[TcpListener]| listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>();
        let (addresses, tls_addresses) = (addresses_of(&listeners.plain)?, addresses_of(&listeners.tls)?);
        let audit = gate.as_ref().map(MetricsGate::audit).unwrap_or_default();
        let router = router(Service::new(registry, readiness, gate)).merge(more);
        let door = Arc::new(Door { router, workers, last: AtomicUsize::new(0), audit });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listeners = {
            let _context = runtime.enter();
            let plain = listeners.plain.into_iter().map(|listener| (listener, None));
            let over_tls = listeners.tls.into_iter().map(|listener| (listener, tls.clone()));
            plain
                .chain(over_tls)
                .map(|(listener, tls)| {
                    listener.set_nonblocking(true)?;
                    Ok((tokio::net::TcpListener::from_std(listener)?, tls))
                })
                .collect::<io::Result<Vec<_>>>()?
        };
        let (stop, stopped) = watch::channel(false);
        let run = move || {
            runtime.block_on(serve(listeners, door, stopped));
            // A hanging scrape is abandoned.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("http".to_string()).spawn(run)?;
        Ok(Http { addresses, tls_addresses, stop, thread: Some(thread) })
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its first address as a URL, without TLS and with it.
    pub fn urls(&self) -> Vec<String> {
        let plain = self.addresses.first().map(|address| format!("http://{address}"));
        let tls = self.tls_addresses.first().map(|address| format!("https://{address}"));
        plain.into_iter().chain(tls).collect()
    }
}

impl Drop for Http {
    /// Answers received requests, within two seconds.
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the HTTP thread panicked");
        }
    }
}

/// What a request can lead to.
struct Door {
    router: Router,
    workers: Vec<Handle>,
    /// The number of connections that were handed over.
    last: AtomicUsize,
    audit: AuditLog,
}

impl Door {
    /// Whether requests for this path are answered here.
    fn keeps(&self, path: &str) -> bool {
        self.workers.is_empty() || rest::is_of_operator(path)
    }

    /// Hands a connection over to a worker.
    fn hand_over(&self, recording: &Recording, peer: Peer) {
        let turn = self.last.fetch_add(1, Ordering::Relaxed);
        let Some(worker) = self.workers.get(turn % self.workers.len().max(1)) else { return };
        if let Some((socket, received)) = recording.take() {
            worker.serve_http(HandedOver { socket, peer, received, router: self.router.clone() });
        }
    }
}

#[derive(Clone)]
struct Service {
    registry: Registry,
    readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    gate: Option<Arc<MetricsGate>>,
    /// Allows one scrape and one readiness check at a time.
    scraping: Arc<Semaphore>,
    looking: Arc<Semaphore>,
}

impl Service {
    fn new(
        registry: Registry,
        readiness: impl Fn() -> Readiness + Send + Sync + 'static,
        gate: Option<MetricsGate>,
    ) -> Self {
        let one = || Arc::new(Semaphore::new(1));
        let (readiness, gate) = (Arc::new(readiness), gate.map(Arc::new));
        Self { registry, readiness, gate, scraping: one(), looking: one() }
    }

    /// Lets a request through to what names databases.
    async fn admit(&self, headers: &HeaderMap, peer: Option<Extension<Peer>>) -> Result<(), GateRefusal> {
        match (&self.gate, peer) {
            (None, _) => Ok(()),
            (Some(gate), Some(Extension(peer))) => gate.pass(headers, &peer).await,
            (Some(_), None) => Err(GateRefusal::Unauthorized),
        }
    }
}

/// Runs `gather` away from the answering thread, after earlier requests.
async fn away<R: Send + 'static>(turns: Arc<Semaphore>, gather: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let turn = turns.acquire_owned().await.ok()?;
    let gathered = tokio::task::spawn_blocking(move || {
        // Runs to completion, even if the client has gone.
        let _turn = turn;
        gather()
    });
    gathered.await.ok()
}

fn router(service: Service) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(service)
}

/// Confirms only that the process runs.
async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

async fn readyz(State(service): State<Service>, headers: HeaderMap, peer: Option<Extension<Peer>>) -> Response {
    let of = Arc::clone(&service.readiness);
    let Some(mut readiness) = away(Arc::clone(&service.looking), move || of()).await else {
        return failure(StatusCode::INTERNAL_SERVER_ERROR, "the server's state cannot be gathered");
    };
    if !readiness.problems.is_empty() && service.admit(&headers, peer).await.is_err() {
        readiness.problems = vec!["the node or a database has a problem: the token of /metrics shows it".to_string()];
    }
    let reasons = readiness.reasons();
    match reasons.is_empty() {
        true => Json(json!({ "status": "ready" })).into_response(),
        false => {
            let body = json!({ "status": "not ready", "reasons": reasons });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn metrics(State(service): State<Service>, headers: HeaderMap, peer: Option<Extension<Peer>>) -> Response {
    if let Err(refusal) = service.admit(&headers, peer).await {
        return refusal.response();
    }
    let registry = service.registry;
    let text = away(service.scraping, move || TextEncoder::new().encode_to_string(&registry.gather()));
    match text.await {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Some(Err(error)) => {
            tracing::error!(%error, "failed to encode metrics");
            failure(StatusCode::INTERNAL_SERVER_ERROR, "failed to encode metrics")
        }
        None => failure(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be gathered"),
    }
}

async fn not_found(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(100).collect();
    failure(StatusCode::NOT_FOUND, &format!("nothing is at {path}; try /healthz, /readyz or /metrics"))
}

async fn method_not_allowed() -> Response {
    failure(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here")
}

fn failure(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

async fn serve(
    listeners: Vec<(tokio::net::TcpListener, Option<Arc<Tls>>)>,
    door: Arc<Door>,
    stopped: watch::Receiver<bool>,
) {
    let connections = Arc::new(Connections::default());
    // Every connection holds a sender: the receiver ends with the last of them.
    let (alive, mut ended) = mpsc::channel::<()>(1);
    let handshakes = Arc::<HandshakeTurn>::default();
    for (listener, tls) in listeners {
        let tls = tls.map(|tls| (tls, handshakes.clone()));
        tokio::spawn(accept(listener, tls, door.clone(), connections.clone(), alive.clone(), stopped.clone()));
    }
    drop(alive);
    until_stopped(stopped).await;
    // Connections that take too long end with the runtime.
    let _ = timeout(FINISH_TIMEOUT, ended.recv()).await;
}

async fn accept(
    listener: tokio::net::TcpListener,
    tls: Option<(Arc<Tls>, Arc<HandshakeTurn>)>,
    door: Arc<Door>,
    connections: Arc<Connections>,
    alive: mpsc::Sender<()>,
    stopped: watch::Receiver<bool>,
) {
    let accept_all = async {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    let (place, closed) = connections.enter();
                    let (door, stopped, alive) = (door.clone(), stopped.clone(), alive.clone());
                    let tls = tls.clone();
                    tokio::spawn(async move {
                        listener::set_options(&stream);
                        let Ok(local) = stream.local_addr() else { return };
                        let peer = Peer::Tcp { remote, local, is_tls: tls.is_some() };
                        let socket = match tls {
                            None => Some(ClientSocket::Tcp(stream)),
                            Some((tls, turn)) => {
                                let made = handshake(stream, &tls, &turn, (&peer, &door.audit)).await;
                                made.map(|socket| ClientSocket::Tls(Box::new(socket)))
                            }
                        };
                        if let Some(socket) = socket {
                            connection(socket, peer, door, (place, closed), stopped).await;
                        }
                        drop(alive);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept an HTTP connection");
                    // Out of descriptors, most likely: this frees one.
                    connections.close_oldest();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept_all => {}
        () = until_stopped(stopped.clone()) => {}
    }
}

async fn connection(
    socket: ClientSocket,
    peer: Peer,
    door: Arc<Door>,
    (place, closed): (Place, oneshot::Receiver<()>),
    stopped: watch::Receiver<bool>,
) {
    let recording = Recording::new(socket, !door.workers.is_empty());
    // The beginning of a request that is not answered here.
    let (leave, left) = oneshot::channel();
    let leave = Mutex::new(Some(leave));
    let router = TowerToHyperService::new(door.router.clone());
    let service = service_fn(|mut request: Request<Incoming>| {
        place.heard();
        request.extensions_mut().insert(peer.clone());
        let keeps = door.keeps(request.uri().path());
        if keeps {
            recording.forget();
        } else if let Some(leave) = leave.lock().take() {
            // The connection may have ended.
            let _ = leave.send(format!("{} {} ", request.method(), request.uri()));
        }
        let answer = keeps.then(|| router.call(request));
        async move {
            match answer {
                Some(answer) => answer.await,
                // The connection is about to be handed over.
                None => std::future::pending().await,
            }
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(recording.clone()), service);
    let mut served = Box::pin(served);
    // Errors come from clients that went away or sent nonsense, and were told so.
    let beginning = tokio::select! {
        biased;
        Ok(beginning) = left => Some(beginning),
        () = recording.until_long() => Some(String::new()),
        _ = served.as_mut() => None,
        _ = closed => return,
        _ = timeout(CONNECTION_LIFE, until_stopped(stopped)) => {
            served.as_mut().graceful_shutdown();
            let _ = timeout(FINISH_TIMEOUT, served).await;
            return;
        }
    };
    drop(served);
    let is_http2 = !door.workers.is_empty() && recording.begins_with(rest::HTTP2_PREFACE);
    match beginning {
        None if !is_http2 => {}
        Some(beginning) if !recording.begins_with(beginning.as_bytes()) => {
            // It came together with the request before it, whose bytes are gone.
            let text = "ERR a request for a database may not follow one of the operator in a pipeline";
            recording.answer(&rest::unwelcome(StatusCode::BAD_REQUEST, text)).await;
        }
        _ => door.hand_over(&recording, peer),
    }
}

/// The open connections, ordered by when each was last heard of.
#[derive(Debug, Default)]
struct Connections {
    last_turn: AtomicU64,
    open: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
}

impl Connections {
    /// Creates a place for a new connection, with a receiver that tells it to close for a newer one.
    fn enter(self: &Arc<Self>) -> (Place, oneshot::Receiver<()>) {
        let (close, closed) = oneshot::channel();
        let turn = self.last_turn.fetch_add(1, Ordering::Relaxed);
        let open = {
            let mut open = self.open.lock();
            open.insert(turn, close);
            open.len()
        };
        if open > CONNECTIONS_MAX {
            self.close_oldest();
        }
        (Place { connections: Arc::clone(self), turn: AtomicU64::new(turn) }, closed)
    }

    fn close_oldest(&self) {
        if let Some((_, close)) = self.open.lock().pop_first() {
            // It may already have ended.
            let _ = close.send(());
        }
    }
}

/// The place of a connection among all. Dropping it frees the place.
struct Place {
    connections: Arc<Connections>,
    turn: AtomicU64,
}

impl Place {
    /// Notes that it has sent a complete request.
    fn heard(&self) {
        let mut open = self.connections.open.lock();
        if let Some(close) = open.remove(&self.turn.load(Ordering::Relaxed)) {
            let turn = self.connections.last_turn.fetch_add(1, Ordering::Relaxed);
            self.turn.store(turn, Ordering::Relaxed);
            open.insert(turn, close);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.lock().remove(&self.turn.load(Ordering::Relaxed));
    }
}

async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stopped.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Mutex;

    use super::*;
    use crate::metrics::{ServerSnapshot, registry};

    fn start(readiness: impl Fn() -> Readiness + Send + Sync + 'static) -> Http {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = registry(|| ServerSnapshot { uptime_seconds: 42, ..ServerSnapshot::default() }, 9).unwrap();
        let listeners = HttpListeners { plain: vec![listener], tls: Vec::new() };
        Http::start(listeners, None, registry, readiness, None, Router::new(), Vec::new()).unwrap()
    }

    fn connect(http: &Http) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(http.addresses()[0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    fn send(http: &Http, request: &str) -> String {
        let mut stream = connect(http);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn paths() {
        let http = start(Readiness::default);
        for (line, status, part) in [
            ("GET /healthz", "200 OK", r#"{"status":"ok"}"#),
            ("GET /readyz", "200 OK", r#"{"status":"ready"}"#),
            ("GET /metrics", "200 OK", "\nredis_uptime_in_seconds 42\n"),
            ("GET /metrics", "200 OK", "text/plain; version=0.0.4"),
            ("HEAD /healthz", "200 OK", "content-length: 15"),
            ("GET /", "404 Not Found", r#"{"error":"nothing is at /; try"#),
            ("GET /metrics/x", "404 Not Found", "application/json"),
            ("POST /metrics", "405 Method Not Allowed", r#"{"error":"only GET"#),
        ] {
            let answer = send(&http, &format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{line}: {answer}");
            assert!(answer.contains(part), "{line}: {answer}");
        }
    }

    #[test]
    fn readiness_says_what_is_the_matter() {
        let state = Arc::new(Mutex::new(Readiness::default()));
        let http = start({
            let state = state.clone();
            move || state.lock().unwrap().clone()
        });
        for (readiness, part) in [
            (Readiness { starting: true, ..Readiness::default() }, "starting"),
            (Readiness { draining: true, ..Readiness::default() }, "shutting down"),
            (
                Readiness { problems: vec!["database `a`: no space".to_string()], ..Readiness::default() },
                "`a`: no space",
            ),
        ] {
            *state.lock().unwrap() = readiness;
            let answer = send(&http, "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.contains(part), "{answer}");
        }
    }

    #[test]
    fn a_probe_is_answered_while_metrics_and_readiness_hang() {
        let (end, until) = std::sync::mpsc::channel::<()>();
        let until = Arc::new(Mutex::new(until));
        let hang = move || {
            let _ = until.lock().unwrap().recv();
        };
        let also = hang.clone();
        let snapshot = move || {
            also();
            ServerSnapshot::default()
        };
        let registry = registry(snapshot, 9);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = HttpListeners { plain: vec![listener], tls: Vec::new() };
        let ready = move || {
            hang();
            Readiness::default()
        };
        let http = Http::start(listeners, None, registry.unwrap(), ready, None, Router::new(), Vec::new());
        let http = http.unwrap();
        let ask = |path: &str| {
            let mut stream = connect(&http);
            write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
            stream
        };
        let mut slow: Vec<_> = ["/metrics", "/metrics", "/readyz", "/readyz"].map(ask).into();
        for _ in 0..2 {
            assert!(send(&http, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").contains("ok"));
        }
        drop(end);
        for stream in &mut slow {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        }
    }

    #[test]
    fn nonsense_ends_the_connection() {
        let http = start(Readiness::default);
        let answer = send(&http, "*1\r\n$4\r\nPING\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        // The server closes with bytes unread, so the client may see a reset in place of the answer.
        let mut stream = connect(&http);
        stream.write_all(&vec![b'x'; 2 * HEAD_BYTES_MAX]).unwrap();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert!(answer.starts_with(b"HTTP/1.1 4")),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
        // A body that never arrives delays nothing.
        let answer = send(&http, "GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK"));
    }

    #[test]
    fn a_probe_is_answered_beside_any_number_of_slow_connections() {
        let http = start(Readiness::default);
        let ask = |stream: &mut std::net::TcpStream| {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            let mut answer = String::new();
            let mut part = [0; 4096];
            while !answer.ends_with(r#"{"status":"ok"}"#) {
                let read = stream.read(&mut part).unwrap();
                assert!(read > 0, "closed after {answer:?}");
                answer += std::str::from_utf8(&part[..read]).unwrap();
            }
        };
        let slow: Vec<_> = (0..1500)
            .map(|_| {
                let mut stream = connect(&http);
                // May fail: the connection may be closed already.
                let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhos");
                stream
            })
            .collect();
        let begun = std::time::Instant::now();
        let mut probe = connect(&http);
        ask(&mut probe);
        assert!(begun.elapsed() < HEAD_TIMEOUT, "the probe has waited for a slow connection: {:?}", begun.elapsed());
        // The oldest was closed; those that sent requests recently were not.
        assert!(matches!((&slow[0]).read(&mut [0]), Ok(0) | Err(_)));
        let more: Vec<_> = (0..CONNECTIONS_MAX - 1).map(|_| connect(&http)).collect();
        ask(&mut probe);
        // Now the others are those that have been silent for longest.
        let newer: Vec<_> = (0..CONNECTIONS_MAX - 1).map(|_| connect(&http)).collect();
        ask(&mut probe);
        assert!(matches!((&more[0]).read(&mut [0]), Ok(0) | Err(_)));
        drop(newer);
    }

    #[test]
    fn dropping_it_closes_idle_connections_and_the_port() {
        let http = start(Readiness::default);
        let address = http.addresses()[0];
        let mut idle = connect(&http);
        idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut first = [0; 15];
        idle.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        drop(http);
        idle.read_to_end(&mut Vec::new()).unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
