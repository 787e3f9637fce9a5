//! The buffer between a stream and the reader of its items.
//!
//! ```text
//! 0        summed      kept         at        filled     buffer.len()
//! | done   | not summed | this item  | not read | free    |
//! ```
//!
//! 1. [`Input::keep`] marks the bytes read so far as done with: an item begins at `kept`.
//! 2. [`Input::advance`] reads on. If the buffer has too little, more is appended from the stream; bytes before `kept`
//!    make room first, and only then the buffer grows, to at most twice the bytes that have really arrived. So an item
//!    is in memory whole, but a false length costs nothing.
//! 3. Bytes are summed just before they are given up, in long runs.
//!
//! Invariant: `summed <= kept <= at <= filled <= buffer.len()`.

use std::io::{ErrorKind, Read};

use crc_fast::{CrcAlgorithm, Digest};

use super::error::{RdbError, RdbProblem};
use crate::codec::CodecError;

const BUFFER_BYTES: usize = 64 << 10;

pub(super) struct Input<R> {
    inner: R,
    buffer: Vec<u8>,
    summed: usize,
    kept: usize,
    at: usize,
    filled: usize,
    /// Bytes dropped from the front of the buffer.
    dropped: u64,
    /// Whether the bytes read are dropped at once: the item is not wanted.
    discards: bool,
    digest: Digest,
}

impl<R: Read> Input<R> {
    pub(super) fn new(inner: R) -> Self {
        Input {
            inner,
            buffer: vec![0; BUFFER_BYTES],
            summed: 0,
            kept: 0,
            at: 0,
            filled: 0,
            dropped: 0,
            discards: false,
            digest: Digest::new(CrcAlgorithm::Crc64Redis),
        }
    }

    /// How many bytes of the stream have been read as items.
    pub(super) fn offset(&self) -> u64 {
        self.dropped + self.at as u64
    }

    pub(super) fn error(&self, problem: impl Into<RdbProblem>) -> RdbError {
        RdbError { offset: self.offset(), problem: problem.into() }
    }

    /// Gives up everything that was read.
    pub(super) fn keep(&mut self) {
        self.kept = self.at;
        self.discards = false;
    }

    /// From here to the next [`Self::keep`] nothing is kept.
    pub(super) fn discard(&mut self) {
        self.discards = true;
        self.kept = self.at;
    }

    /// The position in the item of the next byte.
    pub(super) fn mark(&self) -> usize {
        self.at - self.kept
    }

    /// Bytes of the item from one mark to another.
    pub(super) fn kept(&self, from: usize, to: usize) -> &[u8] {
        &self.buffer[self.kept + from..self.kept + to]
    }

    /// Reads past `bytes` bytes.
    #[inline]
    pub(super) fn advance(&mut self, bytes: u64) -> Result<(), RdbError> {
        if bytes <= (self.filled - self.at) as u64 {
            self.at += bytes as usize;
            if self.discards {
                self.kept = self.at;
            }
            return Ok(());
        }
        self.advance_slowly(bytes)
    }

    #[cold]
    fn advance_slowly(&mut self, mut bytes: u64) -> Result<(), RdbError> {
        if self.discards {
            while bytes > (self.filled - self.at) as u64 {
                bytes -= (self.filled - self.at) as u64;
                self.at = self.filled;
                self.kept = self.at;
                self.fill(1)?;
            }
        } else {
            self.fill(bytes)?;
        }
        self.advance(bytes)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, RdbError> {
        self.advance(1)?;
        Ok(self.buffer[self.at - 1])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        if self.filled - self.at < N {
            self.fill(N as u64)?;
        }
        let mut array = [0; N];
        array.copy_from_slice(&self.buffer[self.at..self.at + N]);
        self.advance(N as u64)?;
        Ok(array)
    }

    /// The checksum of everything that was read.
    pub(super) fn checksum(&mut self) -> u64 {
        self.keep();
        self.digest.update(&self.buffer[self.summed..self.kept]);
        self.summed = self.kept;
        self.digest.finalize()
    }

    /// The stream, and the bytes taken from it but not read.
    pub(super) fn into_inner(self) -> (R, Vec<u8>) {
        (self.inner, self.buffer[self.at..self.filled].to_vec())
    }

    /// Reads from the stream until `wanted` bytes follow `at`.
    fn fill(&mut self, wanted: u64) -> Result<(), RdbError> {
        while ((self.filled - self.at) as u64) < wanted {
            self.make_room();
            match self.inner.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(self.error(CodecError::Truncated)),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(error)),
            }
        }
        Ok(())
    }

    fn make_room(&mut self) {
        let shrinks = self.buffer.len() > 16 * BUFFER_BYTES && self.filled - self.kept < BUFFER_BYTES / 2;
        if self.kept > 0 && (self.kept >= self.buffer.len() / 2 || self.filled == self.buffer.len() || shrinks) {
            self.digest.update(&self.buffer[self.summed..self.kept]);
            self.buffer.copy_within(self.kept..self.filled, 0);
            self.dropped += self.kept as u64;
            self.at -= self.kept;
            self.filled -= self.kept;
            self.kept = 0;
            self.summed = 0;
            if shrinks {
                // A large item is done with.
                self.buffer.truncate(BUFFER_BYTES);
                self.buffer.shrink_to_fit();
            }
        }
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }
}
