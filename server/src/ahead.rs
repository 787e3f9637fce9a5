//! Requests that are parsed ahead of their turn, so that what they will read is on its way from memory meanwhile.
//!
//! A look-up in a large table waits twice for memory: for its bucket, then for its record. In a pipeline both can be
//! asked for well before: the batch parses a window of requests, asks for all of their buckets, then for their records, and
//! only then runs the first of them.

use dormouse_protocol::{Request, Span};
use dormouse_shard::commands::Run;

use crate::table::Entry;

/// Requests in a window: as many cache misses as a core has under way at once.
pub const WINDOW: usize = 16;
/// Below this there is nothing to gain.
pub const PREFETCHED_MIN: usize = 3;

/// One window. Kept by the worker for its allocations.
#[derive(Debug, Default)]
pub struct Ahead {
    waiting: Vec<Waiting>,
    spans: Vec<Span>,
}

/// A request that waits for its turn.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    pub entry: &'static Entry,
    pub run: Run,
    /// Where it begins and ends in the input.
    pub start: usize,
    pub end: usize,
    /// The position of its first key, with the key's index; none where it has no key.
    pub key: Option<(usize, u64)>,
    first_span: usize,
    spans: usize,
}

impl Ahead {
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.spans.clear();
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn push(
        &mut self,
        entry: &'static Entry,
        run: Run,
        start: usize,
        end: usize,
        key: Option<(usize, u64)>,
        spans: &[Span],
    ) {
        let first_span = self.spans.len();
        self.spans.extend_from_slice(spans);
        self.waiting.push(Waiting { entry, run, start, end, key, first_span, spans: spans.len() });
    }

    pub fn get(&self, at: usize) -> Waiting {
        self.waiting[at]
    }

    pub fn positions(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().filter_map(|waiting| waiting.key.map(|(_, position)| position))
    }

    /// The request whose turn it is, as it stands in `input`.
    pub fn request<'a>(&'a self, turn: usize, input: &'a [u8]) -> Request<'a> {
        let waiting = &self.waiting[turn];
        let spans = &self.spans[waiting.first_span..waiting.first_span + waiting.spans];
        Request::new(&input[waiting.start..], spans)
    }

    /// Its first key; empty where it has none.
    pub fn key<'a>(&self, turn: usize, input: &'a [u8]) -> &'a [u8] {
        let waiting = &self.waiting[turn];
        let Some((key, _)) = waiting.key else { return &[] };
        let Span { offset, len } = self.spans[waiting.first_span + key];
        &input[waiting.start + offset as usize..][..len as usize]
    }
}
