//! A connection to a server, plain or over TLS. As with a plain one, one thread may read while another writes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::{ClientConnection, Error};

use crate::tls::{TlsClient, explain};

/// Bytes that are read from the socket at once.
const READ_BYTES: usize = 16 << 10;

/// Clones are of the same connection.
#[derive(Clone, Debug)]
pub enum Link {
    Plain(Arc<TcpStream>),
    Tls(Arc<TlsLink>),
}

impl Link {
    /// Makes a link of a connected socket, with a handshake if it is to use TLS. The timeouts of the socket hold.
    ///
    /// # Errors
    /// When the handshake fails.
    pub fn new(socket: TcpStream, tls: Option<&TlsClient>, host: &str) -> io::Result<Self> {
        match tls {
            None => Ok(Self::Plain(Arc::new(socket))),
            Some(tls) => TlsLink::new(socket, tls.session(host)?).map(|link| Self::Tls(Arc::new(link))),
        }
    }

    pub fn shutdown(&self) {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(link) => &link.socket,
        };
        // It may be closed already.
        let _ = socket.shutdown(Shutdown::Both);
    }
}

impl Read for &Link {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => (&**socket).read(bytes),
            Link::Tls(link) => link.read(bytes),
        }
    }
}

impl Write for &Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => (&**socket).write(bytes),
            Link::Tls(link) => link.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Link {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self).read(bytes)
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection over TLS. No thread waits for the socket while it holds the session.
#[derive(Debug)]
pub struct TlsLink {
    socket: TcpStream,
    session: Mutex<ClientConnection>,
    /// Held while a thread reads: bytes from the socket that the session has not taken yet.
    incoming: Mutex<Vec<u8>>,
    /// Held while a thread writes: sealed bytes.
    outgoing: Mutex<Vec<u8>>,
}

/// A thread that panics ends the import, so what it has left behind is not used.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn explained(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, explain(&error))
}

impl TlsLink {
    fn new(mut socket: TcpStream, mut session: ClientConnection) -> io::Result<Self> {
        while session.is_handshaking() {
            session.complete_io(&mut socket).map_err(|error| {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
                inner.cloned().map_or(error, explained)
            })?;
        }
        let (incoming, outgoing) = (Mutex::default(), Mutex::default());
        Ok(Self { socket, session: Mutex::new(session), incoming, outgoing })
    }

    fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut incoming = locked(&self.incoming);
        loop {
            {
                let mut session = locked(&self.session);
                loop {
                    match session.reader().read(bytes) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        read => return read,
                    }
                    if incoming.is_empty() {
                        break;
                    }
                    let mut left = &incoming[..];
                    session.read_tls(&mut left)?;
                    let taken = incoming.len() - left.len();
                    incoming.drain(..taken);
                    session.process_new_packets().map_err(explained)?;
                }
            }
            self.answer()?;
            incoming.resize(READ_BYTES, 0);
            let read = (&self.socket).read(&mut incoming);
            incoming.truncate(*read.as_ref().unwrap_or(&0));
            if read? == 0 {
                // The session says whether the end is authentic.
                locked(&self.session).read_tls(&mut io::empty())?;
            }
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut outgoing = locked(&self.outgoing);
        let written = locked(&self.session).writer().write(bytes)?;
        self.send(&mut outgoing)?;
        Ok(written)
    }

    /// Sends what the session has to say by itself. If another thread writes, it does so with its own bytes.
    fn answer(&self) -> io::Result<()> {
        match self.outgoing.try_lock() {
            Ok(mut outgoing) => self.send(&mut outgoing),
            Err(_) => Ok(()),
        }
    }

    fn send(&self, outgoing: &mut Vec<u8>) -> io::Result<()> {
        {
            let mut session = locked(&self.session);
            while session.wants_write() {
                session.write_tls(outgoing)?;
            }
        }
        let sent = (&self.socket).write_all(outgoing);
        outgoing.clear();
        sent
    }
}
