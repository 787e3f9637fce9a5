//! `dormouse sidecar`: a Redis beside a function, which shares few connections to a server that is elsewhere.
//!
//! 1. Clients connect to a local port or socket. Their requests go to the upstream server over one [shared
//!    connection](upstream) for each version of the protocol, which is made before the first of them comes.
//! 2. Replies to reads are [kept](cache) while the upstream server tells of changes (`CLIENT TRACKING`).
//! 3. A [client](client) that needs state of its own at the upstream server (a subscription, a transaction in steps, a blocking
//!    command, another index) gets a connection for itself.
//! 4. On SIGTERM no client is accepted any more, and those that wait for replies get them.
//!
//! Invariant: the sidecar keeps nothing that is not in the upstream server. It may be killed at any time.
//!
//! Everything runs on one thread. A hit takes no lock and leaves the process twice, to read and to write.

mod cache;
mod client;
mod commands;
mod health;
mod lambda;
mod link;
mod replies;
mod scanner;
mod upstream;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use dormouse_importer::output::{print_error, print_line};
use dormouse_importer::target::ServerUrl;
use dormouse_importer::tls::{TlsChoices, TlsClient};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use self::lambda::Extension;
use self::link::{ByteStream, UpstreamTarget};
use self::upstream::Upstream;

/// Time for the end of the process, of the two seconds that Lambda grants.
const LAMBDA_DRAIN: Duration = Duration::from_millis(1500);
/// How long the start waits for the upstream server before it listens without it.
const START_PATIENCE: Duration = Duration::from_secs(3);

/// How the sidecar runs.
#[derive(Debug)]
pub struct SidecarSettings {
    pub upstream: ServerUrl,
    pub tls: TlsChoices,
    /// Where clients connect: a loopback address.
    pub listen: Option<SocketAddr>,
    pub socket: Option<PathBuf>,
    pub health: Option<SocketAddr>,
    pub cache_bytes: usize,
    pub clients_max: usize,
    pub patience: Duration,
    pub drain: Duration,
    /// The address of Lambda's API, and the name of the extension.
    pub lambda: Option<(String, String)>,
}

/// Serves until a signal, or until Lambda ends it.
///
/// # Errors
/// A text that says what cannot be done, and where.
pub fn run(settings: SidecarSettings) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let outcome = LocalSet::new().block_on(&runtime, serve(settings));
    // A look-up of a name may still run.
    runtime.shutdown_background();
    outcome
}

async fn serve(settings: SidecarSettings) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let extension = match &settings.lambda {
        Some((api, name)) => Some(Extension::register(api, name).await?),
        None => None,
    };
    let sidecar = match Sidecar::start(&settings).await {
        Ok(sidecar) => sidecar,
        Err(problem) => {
            if let Some(extension) = &extension {
                extension.report(&problem).await;
            }
            return Err(problem);
        }
    };
    let places = sidecar.places.join(" and ");
    print_line(&format!("Dormouse sidecar listens on {places}; upstream {:?}", settings.upstream))?;
    let ended_by_lambda = async {
        match &extension {
            Some(extension) => extension.follow(&sidecar.upstream).await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        outcome = ended_by_lambda => outcome,
    };
    let drain = if extension.is_some() { settings.drain.min(LAMBDA_DRAIN) } else { settings.drain };
    if timeout(drain, sidecar.drain()).await.is_err() {
        print_error(&format!(
            "dormouse sidecar: {} clients were not done after {drain:?}",
            sidecar.clients.number.get()
        ));
    }
    if let Some(socket) = &settings.socket {
        let _ = std::fs::remove_file(socket);
    }
    outcome
}

struct Sidecar {
    upstream: Rc<Upstream>,
    /// Where clients connect.
    places: Vec<String>,
    clients: Rc<Clients>,
    ending: watch::Sender<bool>,
}

/// The clients that are connected.
struct Clients {
    number: Cell<usize>,
    most: usize,
    left: Notify,
}

impl Sidecar {
    async fn start(settings: &SidecarSettings) -> Result<Self, String> {
        let tls = settings.upstream.is_tls.then(|| TlsClient::new(&settings.tls)).transpose()?;
        let target = UpstreamTarget { url: settings.upstream.clone(), tls };
        let upstream = Upstream::new(target, settings.patience, settings.cache_bytes);
        let (ending, ended) = watch::channel(false);
        let clients = Rc::new(Clients { number: Cell::new(0), most: settings.clients_max, left: Notify::new() });
        let mut places = Vec::new();
        if let Some(address) = settings.listen {
            let failed = |error: io::Error| format!("cannot listen on {address}: {error}");
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            places.push(listener.local_addr().map_err(failed)?.to_string());
            let listener = Rc::new(listener);
            let accept = move || {
                let listener = Rc::clone(&listener);
                async move {
                    let (socket, _) = listener.accept().await?;
                    socket.set_nodelay(true)?;
                    Ok(Box::new(socket) as Box<dyn ByteStream>)
                }
            };
            spawn_local(accept_all(accept, Rc::clone(&upstream), Rc::clone(&clients), ended.clone()));
        }
        if let Some(path) = &settings.socket {
            let listener =
                bind_socket(path).map_err(|error| format!("cannot listen on {}: {error}", path.display()))?;
            places.push(path.display().to_string());
            let listener = Rc::new(listener);
            let accept = move || {
                let listener = Rc::clone(&listener);
                async move { Ok(Box::new(listener.accept().await?.0) as Box<dyn ByteStream>) }
            };
            spawn_local(accept_all(accept, Rc::clone(&upstream), Rc::clone(&clients), ended.clone()));
        }
        spawn_local(Rc::clone(&upstream).keep());
        if let Some(address) = settings.health {
            let upstream = Rc::clone(&upstream);
            spawn_local(async move {
                if let Err(error) = health::serve(address, upstream).await {
                    print_error(&format!("dormouse sidecar: no health endpoint on {address}: {error}"));
                }
            });
        }
        let connected = async {
            while upstream.problem().is_some() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        // A server that is not there yet may come: requests wait for it.
        let _ = timeout(START_PATIENCE, connected).await;
        Ok(Self { upstream, places, clients, ending })
    }

    /// Lets every client have its replies, and leave.
    async fn drain(&self) {
        let _ = self.ending.send(true);
        while self.clients.number.get() > 0 {
            self.clients.left.notified().await;
        }
    }
}

/// Accepts clients until the process ends.
async fn accept_all<A, F>(accept: A, upstream: Rc<Upstream>, clients: Rc<Clients>, mut ended: watch::Receiver<bool>)
where
    A: Fn() -> F,
    F: Future<Output = io::Result<Box<dyn ByteStream>>>,
{
    let on_its_own = ended.clone();
    loop {
        let accepted = tokio::select! {
            accepted = accept() => accepted,
            _ = ended.changed() => return,
        };
        match accepted {
            Ok(_) if clients.number.get() >= clients.most => {}
            Ok(stream) => {
                clients.number.set(clients.number.get() + 1);
                let (upstream, clients, ended) = (Rc::clone(&upstream), Rc::clone(&clients), on_its_own.clone());
                spawn_local(async move {
                    // A client that breaks off has nothing more to be told.
                    let _ = client::serve(stream, upstream, ended).await;
                    clients.number.set(clients.number.get() - 1);
                    clients.left.notify_one();
                });
            }
            // Out of descriptors, most likely: some client has to leave first.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Listens on a path. Replaces a socket on which no process listens any more.
fn bind_socket(path: &PathBuf) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match std::os::unix::net::UnixStream::connect(path) {
            Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            _ => Err(error),
        },
        bound => bound,
    }
}

/// The address of a port for clients on this machine.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
