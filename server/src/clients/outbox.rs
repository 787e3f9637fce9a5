//! Messages of other clients that a client has not been sent yet, and the limits on them.

use std::collections::VecDeque;

/// Short messages are gathered in pieces of this many bytes.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// Least bytes that are charged for messages at once.
pub(super) const CHARGED_AT_ONCE: usize = 1 << 10;

/// Messages that are not sent yet, in pieces: no message is copied again when others follow.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Vec<u8>>,
    pub bytes: usize,
    /// Bytes charged for them: they are charged in steps, because a charge takes longer than a short message.
    pub charged: usize,
    /// Since when it has been above the soft limit.
    soft_since_ms: Option<u64>,
}

impl Outbox {
    pub fn add(&mut self, message: &[u8]) {
        self.bytes += message.len();
        match self.pieces.back_mut() {
            Some(last) if last.len() + message.len() <= PIECE_BYTES => last.extend_from_slice(message),
            _ => self.pieces.push_back(message.into()),
        }
    }

    /// The bytes to charge before `message` is added.
    pub fn due_for(&self, message: &[u8]) -> usize {
        match (self.bytes + message.len()).checked_sub(self.charged) {
            None | Some(0) => 0,
            Some(missing) => missing.max(CHARGED_AT_ONCE),
        }
    }

    /// Moves messages to `to`: at least one, and more until they have `bytes`.
    pub fn take(&mut self, to: &mut Vec<u8>, bytes: usize) {
        let mut taken = 0;
        while taken < bytes
            && let Some(mut piece) = self.pieces.pop_front()
        {
            taken += piece.len();
            if to.capacity() < piece.len() && to.is_empty() {
                *to = piece;
            } else {
                to.append(&mut piece);
            }
        }
        self.bytes -= taken;
        if self.bytes == 0 {
            self.pieces = VecDeque::new();
            self.soft_since_ms = None;
        }
    }

    /// Takes back the charges that its messages do not need any more. Returns their bytes.
    pub fn refund(&mut self) -> usize {
        let needed = if self.bytes == 0 { 0 } else { self.bytes + CHARGED_AT_ONCE };
        let excess = self.charged.saturating_sub(needed);
        self.charged -= excess;
        excess
    }

    /// Drops all messages. Returns the bytes that they were charged.
    pub fn clear(&mut self) -> usize {
        self.pieces = VecDeque::new();
        self.bytes = 0;
        std::mem::take(&mut self.charged)
    }

    /// Whether it was above the soft limit at the last look.
    pub fn is_above_soft(&self) -> bool {
        self.soft_since_ms.is_some()
    }

    /// Whether `bytes` of unread output exceed the limit, now or for too long.
    pub fn is_over(&mut self, bytes: usize, limit: OutputLimit, now_ms: u64) -> bool {
        let soft = limit.soft_bytes > 0 && bytes > limit.soft_bytes;
        self.soft_since_ms = if soft { Some(self.soft_since_ms.unwrap_or(now_ms)) } else { None };
        let too_long = self.soft_since_ms.is_some_and(|since| now_ms.saturating_sub(since) > limit.soft_seconds * 1000);
        limit.hard_bytes > 0 && bytes > limit.hard_bytes || too_long
    }
}

/// An output buffer limit: bytes at once, or bytes for a number of seconds; 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimit {
    pub hard_bytes: usize,
    pub soft_bytes: usize,
    pub soft_seconds: u64,
}
