//! The replies of a client, in the order of its requests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

/// Replies that a client may leave unread, in bytes. Like the output buffer limit of Redis, it ends a client that does
/// not read.
const HELD_BYTES_MAX: usize = 256 << 20;

/// The replies of one client.
///
/// Invariant: the slots are those of the requests `first..first + slots.len()`; a slot is empty until its reply has come.
#[derive(Debug, Default)]
pub struct Replies {
    slots: RefCell<VecDeque<Option<Bytes>>>,
    first: Cell<u64>,
    held_bytes: Cell<usize>,
    /// Whether the client is gone.
    is_closed: Cell<bool>,
    /// Told when the first slot has been filled.
    pub ready: Notify,
    /// Told when the client leaves too much unread.
    overflowed: Notify,
}

/// The place of one reply.
#[derive(Debug)]
pub struct Ticket {
    replies: Rc<Replies>,
    number: u64,
}

impl Ticket {
    pub fn fill(self, reply: Bytes) {
        let Self { replies, number } = self;
        if replies.is_closed.get() {
            return;
        }
        replies.held_bytes.set(replies.held_bytes.get() + reply.len());
        let at = (number - replies.first.get()) as usize;
        replies.slots.borrow_mut()[at] = Some(reply);
        if at == 0 {
            replies.ready.notify_one();
        }
        if replies.held_bytes.get() > HELD_BYTES_MAX {
            replies.overflowed.notify_one();
        }
    }
}

impl Replies {
    /// Takes the place of the next reply.
    pub fn expect(self: &Rc<Self>) -> Ticket {
        let mut slots = self.slots.borrow_mut();
        slots.push_back(None);
        Ticket { replies: Rc::clone(self), number: self.first.get() + slots.len() as u64 - 1 }
    }

    /// Answers the next request at once.
    pub fn push(self: &Rc<Self>, reply: Bytes) {
        self.expect().fill(reply);
    }

    /// The number of requests whose reply has not been taken.
    pub fn open(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Waits until the client leaves too much unread.
    pub async fn overflowed(&self) {
        while self.held_bytes.get() <= HELD_BYTES_MAX {
            self.overflowed.notified().await;
        }
    }

    /// Forgets all replies, those too that are still to come: the client is gone.
    pub fn close(&self) {
        self.is_closed.set(true);
        self.slots.borrow_mut().clear();
        self.held_bytes.set(0);
    }

    /// Moves the replies that are next to `out`, until that holds `bytes_max` bytes or more.
    pub fn take(&self, out: &mut BytesMut, bytes_max: usize) {
        let mut slots = self.slots.borrow_mut();
        while out.len() < bytes_max
            && let Some(Some(_)) = slots.front()
            && let Some(reply) = slots.pop_front().flatten()
        {
            self.first.set(self.first.get() + 1);
            self.held_bytes.set(self.held_bytes.get() - reply.len());
            out.extend_from_slice(&reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_keep_the_order_of_requests() {
        let replies = Rc::new(Replies::default());
        let (first, second) = (replies.expect(), replies.expect());
        replies.push(Bytes::from_static(b"3"));
        let mut out = BytesMut::new();
        second.fill(Bytes::from_static(b"2"));
        replies.take(&mut out, 100);
        assert!(out.is_empty());
        first.fill(Bytes::from_static(b"1"));
        replies.take(&mut out, 2);
        assert_eq!((&out[..], replies.open()), (&b"12"[..], 1));
        replies.take(&mut out, 100);
        assert_eq!((&out[..], replies.open(), replies.held_bytes.get()), (&b"123"[..], 0, 0));
    }
}
