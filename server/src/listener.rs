//! Listeners: TCP addresses, those of TLS and a Unix socket. Connections are dealt out to the workers in turn, those over
//! TLS when their handshake is made.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::clock::now_ms;
use crate::config::LISTEN_BACKLOG;
use crate::event_loop::Handle;
use crate::handshakes::Handshakes;
use crate::node::Node;
use crate::peer::Peer;
use crate::sockets::{Accepted, Entrant};

/// Interval at which strangers are checked.
const STRANGERS_EVERY: std::time::Duration = std::time::Duration::from_millis(200);
/// Seconds after which an idle connection is probed, as in Redis.
const KEEPALIVE_SECONDS: u64 = 300;

/// Bound sockets, not yet accepted from.
#[derive(Debug)]
pub struct Listeners {
    tcp: Vec<std::net::TcpListener>,
    tls: Vec<std::net::TcpListener>,
    unix: Option<(std::os::unix::net::UnixListener, PathBuf)>,
}

impl Listeners {
    /// Binds the sockets of the Redis protocol; port 0: none of that kind.
    ///
    /// # Errors
    /// A text that names the address and says what to do.
    pub fn bind(addresses: &[IpAddr], port: u16, tls_port: u16, unix: Option<(&Path, u32)>) -> Result<Self, String> {
        let tcp = bind_all(addresses, port, "--port")?;
        let tls = bind_all(addresses, tls_port, "--tls-port")?;
        let unix = unix.map(|(path, mode)| bind_unix(path, mode)).transpose()?;
        Ok(Self { tcp, tls, unix })
    }

    /// Binds the sockets of the HTTP port; port 0: none.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn http(addresses: &[IpAddr], port: u16) -> Result<Vec<std::net::TcpListener>, String> {
        bind_all(addresses, port, "--http-port")
    }

    /// The same for HTTP over TLS.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn https(addresses: &[IpAddr], port: u16) -> Result<Vec<std::net::TcpListener>, String> {
        bind_all(addresses, port, "--https-port")
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    pub fn tls_addresses(&self) -> Vec<SocketAddr> {
        self.tls.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    pub fn unix_path(&self) -> Option<&Path> {
        self.unix.as_ref().map(|(_, path)| path.as_path())
    }

    /// Accepts until the node drains; must be called within a runtime.
    ///
    /// # Errors
    /// When the runtime cannot take a socket over.
    pub fn accept(self, node: &Arc<Node>, workers: &[Handle]) -> io::Result<()> {
        tokio::spawn(close_late_strangers(Arc::clone(node)));
        for listener in self.tcp {
            let (workers, mut turn) = (workers.to_vec(), 0);
            let serve = move |stream, peer| {
                turn += 1;
                workers[turn % workers.len()].serve(Accepted::Tcp(stream), Entrant::New(peer));
            };
            tokio::spawn(accept_tcp(TcpListener::from_std(listener)?, Arc::clone(node), false, serve));
        }
        let handshakes = node.tls.as_ref().filter(|_| !self.tls.is_empty());
        if let Some(handshakes) = handshakes.map(|tls| Handshakes::start(node, tls, workers)).transpose()? {
            for listener in self.tls {
                let handshakes = handshakes.clone();
                let make = move |stream, peer| handshakes.make(stream, peer);
                tokio::spawn(accept_tcp(TcpListener::from_std(listener)?, Arc::clone(node), true, make));
            }
        }
        if let Some((listener, path)) = self.unix {
            let listener = UnixListener::from_std(listener)?;
            let (node, workers) = (Arc::clone(node), workers.to_vec());
            tokio::spawn(async move {
                let mut turn = 0;
                let shown: Arc<str> = path.display().to_string().into();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => match accepted {
                            Ok((stream, _)) => {
                                turn += 1;
                                serve_unix(stream, &shown, &workers[turn % workers.len()]);
                            }
                            Err(error) => pause_after(&error).await,
                        },
                        () = node.until_drained() => {
                            // Otherwise the next server to start would find it in the way.
                            let _ = std::fs::remove_file(&path);
                            return;
                        }
                    }
                }
            });
        }
        Ok(())
    }
}

/// Closes connections that have not shown a token in time, until the node drains.
async fn close_late_strangers(node: Arc<Node>) {
    let mut every = tokio::time::interval(STRANGERS_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = async {
            node.clients.until_strangers().await;
            every.tick().await
        };
        tokio::select! {
            _ = next => {}
            () = node.until_drained() => return,
        }
        if let Some(timeout) = node.settings().auth_timeout.duration() {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            node.clients.close_strangers_before(now_ms().saturating_sub(timeout_ms));
        }
    }
}

/// Accepts connections and hands them on, until the node drains.
async fn accept_tcp(
    listener: TcpListener,
    node: Arc<Node>,
    is_tls: bool,
    mut serve: impl FnMut(std::net::TcpStream, Peer),
) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    if let Some((stream, local)) = prepare(stream) {
                        serve(stream, Peer::Tcp { remote, local, is_tls });
                    }
                }
                Err(error) => pause_after(&error).await,
            },
            () = node.until_drained() => return,
        }
    }
}

/// Sets the options of a socket. It leaves the acceptor's event loop, as it will belong to another.
fn prepare(stream: TcpStream) -> Option<(std::net::TcpStream, SocketAddr)> {
    set_options(&stream);
    let local = stream.local_addr().ok()?;
    Some((stream.into_std().ok()?, local))
}

/// Sets the options of a client's connection. Without these it still works.
pub fn set_options(stream: &TcpStream) {
    let options = socket2::SockRef::from(stream);
    let _ = options.set_tcp_nodelay(true);
    let _ = options
        .set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(std::time::Duration::from_secs(KEEPALIVE_SECONDS)));
}

fn serve_unix(stream: UnixStream, path: &Arc<str>, worker: &Handle) {
    if let Ok(stream) = stream.into_std() {
        worker.serve(Accepted::Unix(stream), Entrant::New(Peer::Unix(Arc::clone(path))));
    }
}

/// Pauses. The process is most likely out of descriptors: an immediate retry would waste time.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "failed to accept a connection");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

/// Binds the port that `option` names at all addresses; port 0: none.
fn bind_all(addresses: &[IpAddr], port: u16, option: &str) -> Result<Vec<std::net::TcpListener>, String> {
    let of_port = addresses.iter().filter(|_| port != 0);
    let bind = |address: &IpAddr| {
        bind(SocketAddr::new(*address, port)).map_err(|error| explain(*address, port, option, &error))
    };
    of_port.map(bind).collect()
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn explain(address: IpAddr, port: u16, option: &str, error: &io::Error) -> String {
    let at = SocketAddr::new(address, port);
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "cannot listen on {at}: another process has the port (is a Redis or another Dormouse running?); choose one with {option}"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("cannot listen on {at}: this machine does not have that address; choose one with --bind")
        }
        io::ErrorKind::PermissionDenied => {
            format!("cannot listen on {at}: not permitted (ports below 1024 are reserved); choose one with {option}")
        }
        _ => format!("cannot listen on {at}: {error}"),
    }
}

fn bind_unix(path: &Path, mode: u32) -> Result<(std::os::unix::net::UnixListener, PathBuf), String> {
    let failed = |error: io::Error| {
        let what = match error.kind() {
            io::ErrorKind::AddrInUse => "another process listens on it, or it is not a socket".to_string(),
            io::ErrorKind::NotFound => "its folder does not exist".to_string(),
            _ => error.to_string(),
        };
        format!("cannot listen on the Unix socket {}: {what}; choose one with --unix-socket", path.display())
    };
    // A socket that no process answers on is left over from a killed process.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok((listener, path.to_path_buf()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_cannot_be_made_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        let _held = std::os::unix::net::UnixListener::bind(path("held")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path("left")).unwrap());
        for (name, expected) in [("file", "not a socket"), ("held", "another process"), ("no/where", "its folder")] {
            let error = Listeners::bind(&[], 0, 0, Some((&path(name), 0o700))).unwrap_err();
            assert!(error.contains(expected) && error.contains("--unix-socket"), "{error}");
        }
        assert!(path("file").exists(), "what is no socket is left alone");
        Listeners::bind(&[], 0, 0, Some((&path("left"), 0o700))).unwrap();
    }
}
