//! Units that were read from the source and are not yet sent to the target: one batch that grows while the previous one
//! is on its way.
//!
//! 1. The reader pushes **units**: a command, a whole transaction, or a restored key. A unit is never split.
//! 2. The writer takes all pending units as one [`UnitBatch`]. On a slow link batches get larger by themselves.
//! 3. A batch that is large enough makes the reader wait, and thereby the source: memory stays bounded.
//!
//! A batch begins in index 0, of the staged data or of the other, and carries the SELECTs that it needs.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Interruption;
use super::brought::Tally;
use super::place::SourcePlace;
use super::wire::request;

/// Offset that marks an index as staged: see [`dormouse_storage::shown`].
pub const STAGED: u64 = 1 << 32;

const BATCH_BYTES: usize = 2 << 20;
const BATCH_REQUESTS: usize = 4096;

/// Requests, and the place of the target once they are applied.
#[derive(Debug, Default)]
pub struct UnitBatch {
    pub requests: Vec<u8>,
    /// Where each request begins.
    pub starts: Vec<usize>,
    /// The index that is selected at its end.
    pub index: u64,
    /// Whether it swaps indexes, which would carry the bookkeeping away.
    pub swaps: bool,
    /// Whether the staged data is shown at its end.
    pub shows: bool,
    /// The changes of the libraries of functions, each as its words. A server that keeps these beside its
    /// data cannot change them inside a transaction, so they are sent before it. The data does not depend on them.
    pub functions: Vec<Vec<Vec<u8>>>,
    /// The place at its end. It need not be recorded if only keepalives came.
    pub place: Option<SourcePlace>,
    pub must_record: bool,
    pub tally: Tally,
}

impl UnitBatch {
    fn is_full(&self) -> bool {
        self.shows
            || self.requests.len() >= BATCH_BYTES
            || self.starts.len() >= BATCH_REQUESTS
            || !self.functions.is_empty()
            || self.tally.marks.len() >= BATCH_REQUESTS
    }

    fn is_empty(&self) -> bool {
        self.place.is_none()
    }

    fn select(&mut self, index: u64) {
        if index != self.index {
            self.index = index;
            self.starts.push(self.requests.len());
            select(&mut self.requests, index);
        }
    }

    fn add(&mut self, index: u64, bytes: &[u8]) {
        self.select(index);
        self.starts.push(self.requests.len());
        self.requests.extend_from_slice(bytes);
    }
}

/// Appends the command that selects an index.
pub fn select(bytes: &mut Vec<u8>, index: u64) {
    match index.checked_sub(STAGED) {
        Some(index) => request(bytes, &[b"DORMOUSE", b"STAGED", index.to_string().as_bytes()]),
        None => request(bytes, &[b"SELECT", index.to_string().as_bytes()]),
    }
}

/// Requests that belong together, with the place behind them.
#[derive(Debug, Default)]
pub struct Unit {
    bytes: Vec<u8>,
    /// The index of each request, and where the request ends.
    requests: Vec<(u64, usize)>,
    pub swaps: bool,
    pub functions: Vec<Vec<Vec<u8>>>,
    /// Whether the staged data is complete at this point and shown.
    shows: bool,
    /// Whether the place matters by itself: a new history, the end of a full sync.
    turns: bool,
    pub is_key: bool,
    /// Counters and marks beside the requests.
    pub tally: Tally,
}

impl Unit {
    /// Returns a unit with nothing to send, only a place to record. `shows`: the staged data is shown.
    pub fn turn(shows: bool) -> Self {
        Unit { turns: true, shows, ..Unit::default() }
    }

    pub fn add(&mut self, index: u64, request: &[u8]) {
        self.bytes.extend_from_slice(request);
        self.requests.push((index, self.bytes.len()));
    }

    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.functions.iter().flatten().map(Vec::len).sum::<usize>()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        if self.bytes.capacity() > 2 * BATCH_BYTES {
            self.bytes = Vec::new();
        }
        self.requests.clear();
        (self.swaps, self.shows, self.turns, self.is_key) = (false, false, false, false);
    }
}

/// The outcome of [`UnitQueue::take`].
#[derive(Debug)]
pub enum TakenBatch {
    UnitBatch(UnitBatch),
    Nothing,
    /// The reader has ended, and everything that it pushed was taken.
    End(Result<(), Interruption>),
}

/// The session is over. The reader ends quietly.
#[derive(Debug)]
pub struct Closed;

#[derive(Default)]
pub struct UnitQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pending: UnitBatch,
    end: Option<Result<(), Interruption>>,
    closed: bool,
}

impl UnitQueue {
    /// Returns a queue for units of staged indexes, until one shows them.
    pub fn staged() -> Self {
        let queue = Self::default();
        queue.lock().pending.index = STAGED;
        queue
    }

    /// Adds a unit and empties it.
    pub fn push(&self, unit: &mut Unit, place: SourcePlace) -> Result<(), Closed> {
        let mut state = self.lock();
        while state.pending.is_full() && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(Closed);
        }
        let batch = &mut state.pending;
        let mut from = 0;
        for &(index, to) in &unit.requests {
            batch.add(index, &unit.bytes[from..to]);
            from = to;
        }
        batch.swaps |= unit.swaps;
        batch.shows |= unit.shows;
        if unit.is_key {
            unit.tally.keys += 1;
        } else {
            unit.tally.commands += (unit.requests.len() + unit.functions.len()) as u64;
        }
        batch.functions.append(&mut unit.functions);
        batch.must_record |= unit.turns || !unit.tally.is_empty();
        batch.tally.append(&mut unit.tally);
        batch.place = Some(place);
        unit.clear();
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Marks the reader's end: nothing follows.
    pub fn end(&self, outcome: Result<(), Interruption>) {
        self.lock().end = Some(outcome);
        self.changed.notify_all();
    }

    /// Marks the writer's end: it takes nothing more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Takes all pending units, after at most `patience`.
    pub fn take(&self, patience: Duration) -> TakenBatch {
        let mut state = self.lock();
        if state.pending.is_empty() && state.end.is_none() {
            let waited = self.changed.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if !state.pending.is_empty() {
            let batch = std::mem::take(&mut state.pending);
            // The next batch continues where this one leads.
            state.pending.index = if batch.index >= STAGED && !batch.shows { STAGED } else { 0 };
            drop(state);
            self.changed.notify_all();
            return TakenBatch::UnitBatch(batch);
        }
        state.end.take().map_or(TakenBatch::Nothing, TakenBatch::End)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u64) -> SourcePlace {
        SourcePlace::Following { source: "h:1".into(), replid: "a".into(), offset, index: 0 }
    }

    fn unit(requests: &[(u64, &str)]) -> Unit {
        let mut unit = Unit::default();
        requests.iter().for_each(|(index, request)| unit.add(*index, request.as_bytes()));
        unit
    }

    #[test]
    fn a_batch_selects_what_it_needs_and_begins_in_index_0() {
        let queue = UnitQueue::default();
        for _ in 0..2 {
            queue.push(&mut unit(&[(0, "a"), (3, "b"), (3, "c")]), place(1)).unwrap();
            queue.push(&mut unit(&[(3, "d"), (0, "e")]), place(2)).unwrap();
            let TakenBatch::UnitBatch(batch) = queue.take(Duration::ZERO) else { panic!("nothing was taken") };
            let select = |index: u8| format!("*2\r\n$6\r\nSELECT\r\n$1\r\n{index}\r\n");
            let expected = format!("a{}bcd{}e", select(3), select(0));
            assert_eq!(String::from_utf8_lossy(&batch.requests), expected);
            assert_eq!((batch.starts.len(), batch.tally.commands, batch.place), (7, 5, Some(place(2))));
        }
        assert!(matches!(queue.take(Duration::ZERO), TakenBatch::Nothing));
    }

    #[test]
    fn staged_batches_begin_in_staged_index_0_until_they_are_shown() {
        let queue = UnitQueue::staged();
        let taken = || match queue.take(Duration::ZERO) {
            TakenBatch::UnitBatch(batch) => {
                (String::from_utf8_lossy(&batch.requests).into_owned(), batch.index, batch.shows)
            }
            other => panic!("{other:?}"),
        };
        queue.push(&mut unit(&[(STAGED, "a"), (STAGED + 3, "b")]), place(1)).unwrap();
        let selects = "*3\r\n$8\r\nDORMOUSE\r\n$6\r\nSTAGED\r\n$1\r\n3\r\n";
        assert_eq!(taken(), (format!("a{selects}b"), STAGED + 3, false));
        queue.push(&mut unit(&[(STAGED, "c")]), place(2)).unwrap();
        queue.push(&mut Unit::turn(true), place(3)).unwrap();
        assert_eq!(taken(), ("c".to_owned(), STAGED, true));
        queue.push(&mut unit(&[(0, "d")]), place(4)).unwrap();
        assert_eq!(taken(), ("d".to_owned(), 0, false));
    }

    #[test]
    fn what_was_pushed_comes_before_the_end() {
        let queue = UnitQueue::default();
        let mut turn = Unit::turn(false);
        queue.push(&mut turn, place(7)).unwrap();
        queue.end(Ok(()));
        assert!(
            matches!(queue.take(Duration::ZERO), TakenBatch::UnitBatch(batch) if batch.must_record && batch.requests.is_empty())
        );
        assert!(matches!(queue.take(Duration::ZERO), TakenBatch::End(Ok(()))));
    }

    #[test]
    fn a_full_batch_holds_the_reader_back_until_it_is_taken_or_the_queue_is_closed() {
        let queue = UnitQueue::default();
        let large = "x".repeat(BATCH_BYTES);
        queue.push(&mut unit(&[(0, &large)]), place(1)).unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                queue.push(&mut unit(&[(0, &large)]), place(2)).unwrap();
                queue.push(&mut unit(&[(0, "y")]), place(3))
            });
            assert!(
                matches!(queue.take(Duration::from_secs(10)), TakenBatch::UnitBatch(batch) if batch.place == Some(place(1)))
            );
            assert!(matches!(queue.take(Duration::from_secs(10)), TakenBatch::UnitBatch(_)));
            reader.join().unwrap().unwrap();
            // Takes the rest: the last unit came with the previous one or after it.
            let _ = queue.take(Duration::ZERO);
            queue.push(&mut unit(&[(0, &large)]), place(4)).unwrap();
            let reader = scope.spawn(|| queue.push(&mut unit(&[(0, "z")]), place(5)));
            queue.close();
            assert!(reader.join().unwrap().is_err());
        });
    }
}
