//! Requests that are parsed ahead of their turn, so that memory can fetch the data that they will read meanwhile.
//!
//! A look-up in a large table waits twice for memory: for its bucket, then for its record. In a pipeline both can be
//! asked for well before: the batch parses a window of requests, asks for all of their buckets, then for their records,
//! and only then runs the first of them.

use dormouse_protocol::{Request, Span};

use crate::commands::Run;

/// Requests in a window: as many cache misses as a core has under way at once.
pub const WINDOW: usize = 16;
/// Below this, prefetching gains nothing.
pub const PREFETCHED_MIN: usize = 3;

/// One window of requests, each with its entry in the caller's table. Kept by the caller for its allocations.
#[derive(Debug)]
pub struct Ahead<E> {
    waiting: Vec<Waiting<E>>,
    spans: Vec<Span>,
}

/// A request that waits for its turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting<E> {
    pub(super) entry: E,
    pub(super) run: Run,
    /// Where it begins and ends in the input.
    pub(super) start: usize,
    pub(super) end: usize,
    /// The position of its first key, with the key's index; none where it has no key.
    pub(super) key: Option<(usize, u64)>,
    first_span: usize,
    spans: usize,
}

impl<E> Default for Ahead<E> {
    fn default() -> Self {
        Self { waiting: Vec::new(), spans: Vec::new() }
    }
}

impl<E: Copy> Ahead<E> {
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
        (entry, run): (E, Run),
        (start, end): (usize, usize),
        key: Option<(usize, u64)>,
        spans: &[Span],
    ) {
        let first_span = self.spans.len();
        self.spans.extend_from_slice(spans);
        self.waiting.push(Waiting { entry, run, start, end, key, first_span, spans: spans.len() });
    }

    pub(super) fn get(&self, at: usize) -> Waiting<E> {
        self.waiting[at]
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().filter_map(|waiting| waiting.key.map(|(_, position)| position))
    }

    /// The request whose turn it is, as it stands in `input`.
    pub(super) fn request<'a>(&'a self, turn: usize, input: &'a [u8]) -> Request<'a> {
        let waiting = &self.waiting[turn];
        let spans = &self.spans[waiting.first_span..waiting.first_span + waiting.spans];
        Request::new(&input[waiting.start..], spans)
    }

    /// Its first key; empty where it has none.
    pub(super) fn key<'a>(&self, turn: usize, input: &'a [u8]) -> &'a [u8] {
        let waiting = &self.waiting[turn];
        let Some((key, _)) = waiting.key else { return &[] };
        let Span { offset, len } = self.spans[waiting.first_span + key];
        &input[waiting.start + offset as usize..][..len as usize]
    }
}
