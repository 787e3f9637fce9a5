//! The bytes of a connection: read, written, counted, and charged while they wait.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clients::Client;
use crate::metering::Writer;
use crate::sockets::ClientSocket;
use crate::worker::Worker;

/// Bytes of a request that are read without a charge beyond that of the connection.
const UNPARSED_FREE: usize = 8 << 10;
/// Charged while a client does not read: hyper's buffer, and the piece of an answer behind it.
const STALLED_BYTES: usize = 128 << 10;

/// Counts the bytes of a connection for the database of its last request.
pub struct WireMeter {
    worker: Rc<Worker>,
    client: Arc<Client>,
    payer: RefCell<Option<Rc<Writer>>>,
    /// Bytes that are not counted yet.
    read: Cell<u64>,
    /// Bytes that were read since the last request was understood, and how many of them are charged.
    unparsed: Cell<usize>,
    charged: Cell<usize>,
    is_stalled: Cell<bool>,
    /// Bytes of the present request that were counted.
    of_request: Cell<u64>,
    /// Whether what is written is not billed.
    is_unbilled: Cell<bool>,
}

impl WireMeter {
    pub fn new(worker: &Rc<Worker>, client: &Arc<Client>) -> Self {
        Self {
            worker: Rc::clone(worker),
            client: Arc::clone(client),
            payer: RefCell::default(),
            read: Cell::new(0),
            unparsed: Cell::new(0),
            charged: Cell::new(0),
            is_stalled: Cell::new(false),
            of_request: Cell::new(0),
            is_unbilled: Cell::new(false),
        }
    }

    /// Begins a request: counts what was read, and what is read and written from now on, for `payer`; `None`: for no
    /// database.
    pub fn pay(&self, payer: Option<&Rc<Writer>>) {
        let mut now = self.payer.borrow_mut();
        let is_same = match (&*now, payer) {
            (Some(now), Some(payer)) => Rc::ptr_eq(now, payer),
            (now, payer) => now.is_none() && payer.is_none(),
        };
        if !is_same {
            *now = payer.map(Rc::clone);
        }
        drop(now);
        self.of_request.set(0);
        self.is_unbilled.set(false);
        self.count(0);
    }

    /// Marks the bytes of the present request and of its answer as not billed. What the answer costs is known when its
    /// commands have run; pieces of it that were sent before are billed.
    pub fn unbill(&self) {
        self.count(0);
        self.is_unbilled.set(true);
        if let Some(payer) = self.payer.borrow().as_ref() {
            let mut batch = self.worker.take_batch();
            batch.unbill_moved(self.of_request.take(), 0);
            self.worker.commit(payer, batch, Duration::ZERO);
        }
    }

    /// Notes that what was read so far is kept elsewhere.
    pub fn parsed(&self) {
        self.unparsed.set(0);
        let charged = self.charged.take();
        if charged > 0 {
            self.client.let_go(charged);
        }
        // Bytes of a body are counted as they come.
        if self.payer.borrow().is_some() {
            self.count(0);
        }
    }

    fn count(&self, written: u64) {
        let read = self.read.take();
        let payer = self.payer.borrow();
        if let Some(payer) = payer.as_ref().filter(|_| read + written > 0) {
            self.of_request.set(self.of_request.get() + read);
            let mut batch = self.worker.take_batch();
            batch.moved(read, written);
            if self.is_unbilled.get() {
                batch.unbill_moved(0, written);
            }
            self.worker.commit(payer, batch, Duration::ZERO);
        }
    }

    fn note_read(&self, bytes: usize) -> io::Result<()> {
        self.read.set(self.read.get() + bytes as u64);
        let unparsed = self.unparsed.get() + bytes;
        self.unparsed.set(unparsed);
        let due = unparsed.saturating_sub(UNPARSED_FREE).saturating_sub(self.charged.get());
        if due > 0 {
            self.client.hold(due).map_err(|limit| io::Error::new(io::ErrorKind::OutOfMemory, limit))?;
            self.charged.set(self.charged.get() + due);
        }
        Ok(())
    }

    fn note_stall(&self, is_stalled: bool) {
        if self.is_stalled.replace(is_stalled) != is_stalled {
            match is_stalled {
                true => self.client.hold_anyway(STALLED_BYTES),
                false => self.client.let_go(STALLED_BYTES),
            }
        }
    }
}

/// A socket as hyper sees it.
pub struct Wire {
    socket: Rc<RefCell<ClientSocket>>,
    meter: Rc<WireMeter>,
    /// Bytes that were read before.
    received: Bytes,
}

impl Wire {
    pub fn new(socket: Rc<RefCell<ClientSocket>>, meter: Rc<WireMeter>, received: Bytes) -> Self {
        Self { socket, meter, received }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.received.is_empty() {
            let polled = self.socket.borrow_mut().poll_read(cx, buffer);
            std::task::ready!(polled)?;
        } else {
            let part = self.received.len().min(buffer.remaining());
            buffer.put_slice(&self.received[..part]);
            self.received.advance(part);
        }
        Poll::Ready(self.meter.note_read(buffer.filled().len() - before))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.socket.borrow_mut().poll_write(cx, bytes);
        self.meter.note_stall(written.is_pending());
        if let Poll::Ready(Ok(written)) = written {
            self.meter.count(written as u64);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.borrow_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.borrow_mut().poll_shutdown(cx)
    }
}
