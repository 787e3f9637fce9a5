//! A connection over TLS.
//!
//! [`rustls`] does the cryptography. Beside it, this socket bounds what one connection makes the server keep:
//!
//! 1. Reads go into a buffer of the thread. Complete records are passed on to rustls, which opens them, and the content
//!    goes to the caller. The beginning of an incomplete record is kept in `partial`, and charged to the client.
//! 2. What the client sends without any content, handshake included, is limited to [`SILENT_BYTES_MAX`]: rustls joins
//!    the pieces of a message of its own protocol in memory.
//! 3. Writes are sealed and sent at once, as many as fit into the socket. A write is accepted only if nothing is left of
//!    the one before, so at most [`SEALED_BYTES_MAX`] wait, and they are charged as soon as the client does not take them.
//!
//! A socket can move to another event loop, since only the handshake is made in the one that accepts it. The sockets of
//! `tokio-rustls` cannot, and read ahead into memory of their own.

use std::cell::RefCell;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::files::subject;
use crate::clients::Client;

/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;
/// The header of a record: its type, a version, and the length of what follows.
const HEADER_BYTES: usize = 5;
/// Most bytes of a record: header, content, and what its protection adds (RFC 8446, section 5.2; RFC 5246 allows more,
/// which no cipher suite of today needs).
const RECORD_BYTES_MAX: usize = HEADER_BYTES + (16 << 10) + 256;
/// Most bytes that a client may send without any content in between. A handshake with a chain of certificates takes a
/// few kilobytes.
const SILENT_BYTES_MAX: usize = 48 << 10;
/// As many of them are part of a connection's overhead.
const SILENT_BYTES_FREE: usize = 4 << 10;
/// Most content that is sealed at once.
const SEALED_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

pub struct TlsSocket {
    tcp: TcpStream,
    session: Box<ServerConnection>,
    /// Bytes that were read and not passed on: the beginning of a record, mostly.
    partial: Vec<u8>,
    /// Bytes of content that wait in `session`.
    ready: usize,
    /// Whether the client sends nothing any more.
    is_over: bool,
    /// Bytes since the last content.
    silent: usize,
    /// Whom the memory is charged to.
    client: Option<Arc<Client>>,
    /// Bytes charged for `partial` and `silent`, and for sealed bytes that the client does not take.
    partial_held: usize,
    sealed_held: usize,
}

/// A socket between two event loops.
pub struct MovedTlsSocket {
    tcp: std::net::TcpStream,
    /// The rest of it, over no connection.
    session: Box<ServerConnection>,
    partial: Vec<u8>,
    ready: usize,
    is_over: bool,
    client: Option<Arc<Client>>,
    partial_held: usize,
}

impl std::fmt::Debug for TlsSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSocket").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for MovedTlsSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MovedTlsSocket").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl AsFd for TlsSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl AsRawFd for TlsSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.tcp.as_raw_fd()
    }
}

impl TlsSocket {
    /// A connection whose handshake has yet to be made. What it keeps beside its [overhead](crate::account::TLS_BYTES) is
    /// charged to `client`, if there is one.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn new(tcp: TcpStream, config: Arc<ServerConfig>, client: Option<Arc<Client>>) -> io::Result<Self> {
        let mut session = Box::new(ServerConnection::new(config).map_err(io::Error::other)?);
        session.set_buffer_limit(Some(SEALED_BYTES_MAX));
        Ok(Self {
            tcp,
            session,
            partial: Vec::new(),
            ready: 0,
            is_over: false,
            silent: 0,
            client,
            partial_held: 0,
            sealed_held: 0,
        })
    }

    /// Charges what it keeps to `client` from now on. Nobody was charged before.
    pub fn charge_to(&mut self, client: &Arc<Client>) {
        self.client = Some(Arc::clone(client));
    }

    /// Whose certificate the client has shown, if it has.
    pub fn client_subject(&self) -> Option<String> {
        self.session.peer_certificates()?.first().and_then(subject)
    }

    /// Takes it out of its event loop.
    ///
    /// # Errors
    /// When the event loop refuses.
    pub fn leave(self) -> io::Result<MovedTlsSocket> {
        let Self { tcp, session, partial, ready, is_over, client, partial_held, .. } = self;
        Ok(MovedTlsSocket { tcp: tcp.into_std()?, session, partial, ready, is_over, client, partial_held })
    }

    /// Takes it into the event loop of the calling thread.
    ///
    /// # Errors
    /// When the event loop refuses.
    pub fn enter(moved: MovedTlsSocket) -> io::Result<Self> {
        let MovedTlsSocket { tcp, session, partial, ready, is_over, client, partial_held } = moved;
        let tcp = TcpStream::from_std(tcp)?;
        Ok(Self { tcp, session, partial, ready, is_over, silent: 0, client, partial_held, sealed_held: 0 })
    }

    /// Makes the handshake, as far as the client has sent its part. An error has been told to the client.
    pub fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_advance(cx, &mut ReadBuf::new(&mut [])))?;
            if self.is_over {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Whether there is something to read. If not, the task is woken when there is.
    pub fn has_bytes(&self, cx: &mut Context<'_>) -> bool {
        let has_content = self.ready > 0 || complete_records(&self.partial) > 0;
        has_content || self.is_over || self.tcp.poll_read_ready(cx).is_ready()
    }

    /// Reads content. It fills nothing if the client sends nothing any more.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            self.take_content(buffer)?;
            if buffer.filled().len() > before || self.is_over && self.ready == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_advance(cx, buffer))?;
        }
    }

    /// Accepts content to send, and sends what the socket takes of it.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        let accepted = self.session.writer().write(bytes)?;
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(accepted)),
        }
    }

    /// Whether everything that was accepted is sent.
    pub fn is_flushed(&self) -> bool {
        !self.session.wants_write()
    }

    /// Sends what was accepted.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Outgoing { tcp: &mut self.tcp, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(client) = self.client.as_ref().filter(|_| self.sealed_held == 0) {
                        self.sealed_held = SEALED_BYTES_MAX;
                        client.hold_anyway(SEALED_BYTES_MAX);
                    }
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.sealed_held > 0 {
            let bytes = std::mem::take(&mut self.sealed_held);
            self.client.iter().for_each(|client| client.let_go(bytes));
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the client that nothing follows, as far as the socket takes that at once.
    pub fn close(&mut self) {
        self.session.send_close_notify();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // The client may be gone.
        let _ = self.poll_flush(&mut cx);
    }

    /// Moves waiting content to `buffer`, as much as fits.
    fn take_content(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        while self.ready > 0 && buffer.remaining() > 0 {
            let taken = io::Read::read(&mut self.session.reader(), buffer.initialize_unfilled())?;
            buffer.advance(taken);
            self.ready = if taken == 0 { 0 } else { self.ready.saturating_sub(taken) };
        }
        Ok(())
    }

    /// Opens the records that have arrived, and moves their content to `buffer` as far as it fits. Waits for bytes if
    /// there is no complete record.
    fn poll_advance(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let partial = std::mem::take(&mut self.partial);
        if complete_records(&partial) > 0 {
            let opened = self.open(&partial, buffer);
            let kept = opened.and_then(|used| self.keep(&partial[used..]));
            return Poll::Ready(self.told(cx, kept));
        }
        READ.with_borrow_mut(|read| {
            read[..partial.len()].copy_from_slice(&partial);
            // The content of what is read fits into the buffer, or is a record's.
            let until = buffer.remaining().clamp(RECORD_BYTES_MAX, READ_BYTES);
            let mut incoming = ReadBuf::new(&mut read[partial.len()..until]);
            let polled = Pin::new(&mut self.tcp).poll_read(cx, &mut incoming);
            let arrived = incoming.filled().len();
            let all = &read[..partial.len() + arrived];
            self.partial = partial;
            ready!(polled)?;
            if arrived == 0 {
                self.is_over = true;
                return Poll::Ready(Ok(()));
            }
            let used = match complete_records(all) {
                0 => Ok(0),
                complete => self.open(&all[..complete], buffer),
            };
            let kept = used.and_then(|used| self.keep(&all[used..]));
            Poll::Ready(self.told(cx, kept))
        })
    }

    /// Sends what rustls has to say by itself, an alert above all.
    fn told(&mut self, cx: &mut Context<'_>, outcome: io::Result<()>) -> io::Result<()> {
        // What the socket does not take now is sent with what comes next.
        let flushed = self.poll_flush(cx);
        outcome?;
        match flushed {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// Passes complete records on to rustls, until `buffer` has no room for their content. Returns the bytes passed on.
    fn open(&mut self, records: &[u8], buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let (mut left, mut has_content) = (records, false);
        while !left.is_empty() && self.ready == 0 {
            if self.session.read_tls(&mut left)? == 0 {
                // Whatever comes behind the end is ignored.
                self.is_over = true;
                return Ok(records.len());
            }
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let state = self.session.process_new_packets().map_err(invalid)?;
            self.ready = state.plaintext_bytes_to_read();
            self.is_over |= state.peer_has_closed();
            has_content |= self.ready > 0;
            self.take_content(buffer)?;
        }
        let used = records.len() - left.len();
        self.silent = if has_content { 0 } else { self.silent + used };
        if self.silent > SILENT_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many bytes without content"));
        }
        Ok(used)
    }

    /// Keeps bytes that could not be passed on, and charges for them.
    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            self.partial = Vec::new();
        } else if bytes.len() <= self.partial.capacity() {
            self.partial.clear();
            self.partial.extend_from_slice(bytes);
        } else {
            self.partial = bytes.to_vec();
        }
        let needed = self.partial.capacity() + self.silent.saturating_sub(SILENT_BYTES_FREE);
        let held = self.partial_held;
        if let Some(client) = &self.client {
            if needed > held {
                client.hold(needed - held).map_err(|_| io::ErrorKind::OutOfMemory)?;
            } else {
                client.let_go(held - needed);
            }
            self.partial_held = needed;
        }
        Ok(())
    }
}

/// The bytes of the complete records at the beginning of `bytes`. A record that is longer than any may be counts as
/// complete: rustls refuses it.
fn complete_records(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(&[_, _, _, high, low]) = bytes[end..].first_chunk() {
        let record = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
        if record > RECORD_BYTES_MAX {
            return bytes.len();
        }
        if end + record > bytes.len() {
            break;
        }
        end += record;
    }
    end
}

/// The socket as rustls writes to it.
struct Outgoing<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Outgoing<'_, '_> {
    fn now<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
        match polled {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Outgoing<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::now(Pin::new(&mut *self.tcp).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Self::now(Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Self::poll_read(self.get_mut(), cx, buffer)
    }
}

impl AsyncWrite for TlsSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self.get_mut(), cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_flush(self.get_mut(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        socket.session.send_close_notify();
        ready!(Self::poll_flush(socket, cx))?;
        Pin::new(&mut socket.tcp).poll_shutdown(cx)
    }
}
