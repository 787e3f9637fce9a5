//! Requests that are parsed ahead of their turn, so that the keys of all of them are known
//! ([`crate::keyspace::foreseen`]) before the first one runs.

use std::ops::Range;

use dormouse_protocol::{Request, Span};

use super::once;
use crate::commands::Run;
use crate::keyspace::Foreseen;

/// Requests in a window.
pub const WINDOW: usize = 16;
/// A window with so many keys gets no further request.
pub const KEYS_MAX: usize = 128;
/// Keys of one request that are foreseen.
pub const KEYS_EACH: usize = 32;

/// The command of a request.
#[derive(Debug, Clone, Copy)]
pub struct FoundCommand<E> {
    pub entry: E,
    pub run: Run,
    /// The entry of `ONCE`, if the command stands behind that and its key: see [`super::once`].
    pub once: Option<E>,
}

impl<E> FoundCommand<E> {
    /// A command that makes up its whole request.
    pub fn whole(entry: E, run: Run) -> Self {
        Self { entry, run, once: None }
    }

    /// The command in its request.
    #[inline]
    pub fn command<'a>(&self, request: Request<'a>) -> Request<'a> {
        if self.once.is_some() { request.skip(once::WORDS) } else { request }
    }
}

/// One window of requests, each with its entry in the caller's table. Kept by the caller for its allocations.
#[derive(Debug)]
pub struct Ahead<E> {
    waiting: Vec<Waiting<E>>,
    spans: Vec<Span>,
    pub(super) foreseen: Foreseen,
}

/// A request that waits for its turn.
#[derive(Debug, Clone)]
pub(super) struct Waiting<E> {
    pub(super) found: FoundCommand<E>,
    /// Where it begins and ends in the input.
    pub(super) start: usize,
    pub(super) end: usize,
    /// The numbers of its keys that are foreseen.
    pub(super) keys: Range<usize>,
    first_span: usize,
    spans: usize,
}

impl<E> Default for Ahead<E> {
    fn default() -> Self {
        Self { waiting: Vec::new(), spans: Vec::new(), foreseen: Foreseen::default() }
    }
}

impl<E: Copy> Ahead<E> {
    /// Begins with a request that the caller has parsed already: the first `bytes` of the input, a plain command with as
    /// many arguments as it takes.
    pub fn begin(&mut self, found: FoundCommand<E>, bytes: usize, spans: &[Span]) {
        self.clear();
        self.push(found, (0, bytes), 0..0, spans);
    }

    /// Says that the first request has the first `keys` of the window's keys.
    pub(super) fn set_keys(&mut self, keys: usize) {
        if let Some(first) = self.waiting.first_mut() {
            first.keys = 0..keys;
        }
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.spans.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    #[inline]
    pub(super) fn push(
        &mut self,
        found: FoundCommand<E>,
        (start, end): (usize, usize),
        keys: Range<usize>,
        spans: &[Span],
    ) {
        let first_span = self.spans.len();
        self.spans.extend_from_slice(spans);
        self.waiting.push(Waiting { found, start, end, keys, first_span, spans: spans.len() });
    }

    pub(super) fn get(&self, at: usize) -> Waiting<E> {
        self.waiting[at].clone()
    }

    /// The command of a request, without `ONCE` in front.
    pub(super) fn command<'a>(&'a self, turn: usize, input: &'a [u8]) -> Request<'a> {
        self.waiting[turn].found.command(self.request(turn, input))
    }

    /// The request whose turn it is, as it stands in `input`.
    pub(super) fn request<'a>(&'a self, turn: usize, input: &'a [u8]) -> Request<'a> {
        let waiting = &self.waiting[turn];
        let spans = &self.spans[waiting.first_span..waiting.first_span + waiting.spans];
        Request::new(&input[waiting.start..], spans)
    }
}
