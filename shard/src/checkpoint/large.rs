//! Large values, written a piece at a time.
//!
//! 1. The visit of a place makes each large value in it *remember the moment* (see
//!    [`dormouse_storage::codec::value::pieces`]). That copies nothing. The place's stamp holds for it as for the other
//!    records.
//! 2. Each step takes the shard's lock, writes [`step_bytes`](Sizes::step_bytes) of the value as it was at that moment,
//!    and lets go. A change in between puts aside a few kilobytes of the old value at most.
//! 3. Steps make up pieces, which are sealed and put into chunks without the lock. The body comes after the pieces of
//!    its values, as it says how many there are.
//! 4. If the value is gone when its turn comes (deleted, renamed, replaced), the key is looked at again, and its
//!    present value is written instead. The body says that this key was seen later, up to which entry of the log. The
//!    effects before that are not replayed onto it.
//!
//! A text, or a document of JSON, does not remember: when its turn comes it is looked at again, and copied at once.
//!
//! A checkpoint of one moment cannot look at a key again, as that would be another moment. So values that remember the
//! moment and are dropped before they are written are [parked](crate::keyspace::graveyard::Parked), and their remaining
//! elements are found there.
//!
//! Step 4 could go on for ever where a key is replaced all the time: after [`ATTEMPTS`] the value is taken at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dormouse_storage::codec::segment::{InPieces, RawSegment, SegmentBody};
use dormouse_storage::codec::value::pieces::{Outline, Sizes, begin, is_large, is_run, run_of, take};
use dormouse_storage::manifest::{Manifest, Names};
use dormouse_types::record::{Record, Value};
use dormouse_types::segment::Captured;

use super::Output;
use super::seen::{InChunk, Visited};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::shard::{HeldShard, ShardGate};

/// How often a key is looked at again before its value is taken at once.
const ATTEMPTS: u32 = 8;

/// Invariant: the elements of a remembered moment never change.
const CHANGED: &str = "a large value was not what it had been when it was written: it is written again";

/// The number of the next moment that a value remembers.
static MOMENTS: AtomicU64 = AtomicU64::new(1);

/// The first number that values remember from now on.
pub(super) fn next_moment() -> u64 {
    MOMENTS.load(Ordering::Relaxed)
}

/// A large value that remembers a moment, with the data around it.
pub(super) struct Large {
    key: Box<[u8]>,
    position: u64,
    expiry: Option<u64>,
    access: u32,
    outline: Outline,
    remembers: Memory,
}

/// The way in which an earlier value is found.
enum Memory {
    /// By the number of the moment.
    Moment(u64),
    /// It has been taken: these are its pieces, the last one first, and how many elements each has.
    Taken(Vec<(Vec<u8>, usize)>),
    /// Not at all: the key is looked at again.
    Nothing,
}

impl Large {
    /// Makes a record's value remember its present state. `None`: it is not written in pieces.
    pub fn begin(record: &mut Record, position: u64, sizes: &Sizes) -> Option<Self> {
        let (key, expiry, access) = (record.key().into(), record.expiry(), record.access());
        let object = record.object_mut()?;
        let run = run_of(object.as_ref()).map(|(kind, bytes)| Outline { kind, elements: bytes.len() as u64 });
        let (outline, remembers) = match run {
            Some(outline) => (outline, Memory::Nothing),
            None => {
                let moment = MOMENTS.fetch_add(1, Ordering::Relaxed);
                (begin(object, moment, sizes)?, Memory::Moment(moment))
            }
        };
        Some(Large { key, position, expiry, access, outline, remembers })
    }

    /// Whether it remembers nothing, and is one run of bytes.
    pub fn is_run(&self) -> bool {
        is_run(self.outline.kind)
    }

    /// Takes all of the value while the lock is held.
    pub fn take_at_once(&mut self, record: &mut Record, sizes: &Sizes) {
        let mut pieces = Vec::new();
        let object = record.object_mut();
        if let Some((_, bytes)) = object.as_ref().and_then(|object| run_of(object.as_ref())) {
            pieces.extend(bytes.chunks(sizes.piece_bytes.max(1)).map(|piece| (piece.to_vec(), piece.len())));
        }
        if let (Some(mut object), Memory::Moment(moment)) = (object, &self.remembers) {
            loop {
                let mut piece = Vec::new();
                let Some(captured) = take(object.reborrow(), *moment, sizes.piece_bytes, &mut piece) else { break };
                pieces.push((piece, captured.entries));
                if captured.is_done {
                    break;
                }
            }
        }
        pieces.reverse();
        self.remembers = Memory::Taken(pieces);
    }
}

/// The result of a step.
enum Step {
    Taken(Captured),
    /// The value does not exist any more.
    Gone,
    /// Neither is its keyspace: it has been flushed, and nothing of it is needed.
    Flushed,
}

/// The outcome of looking at a key again.
enum Again {
    /// Nothing, or a record that was added to the body.
    Done,
    Large(Large),
    Flushed,
}

impl Database {
    /// Writes the large values of a visited place, and adds their records to `raw`. Returns the locations of the
    /// pieces, or `None` if the keyspace is gone. `gate`: that of the place's shard; `is_moment`: whether keys must not
    /// be looked at again.
    pub(super) async fn write_large(
        self: &Arc<Self>,
        (gate, is_moment): (&ShardGate, bool),
        visited: &Visited,
        large: Vec<Large>,
        raw: &mut RawSegment,
        (manifest, names, output): (&mut Manifest, &Names, &mut Output),
    ) -> Result<Option<Vec<InChunk>>> {
        let sizes = self.shared.settings.load().sizes;
        let mut pieces: Vec<InChunk> = Vec::new();
        // The number of the next piece. Numbers are never reused, as an abandoned piece may be in a chunk.
        let mut number = 1;
        for begun in large {
            let mut now = Some(begun);
            let mut attempt = 0;
            while let Some(mut value) = now {
                let kept = pieces.len();
                let (first, mut elements, mut piece) = (number, 0, Vec::new());
                let is_whole = loop {
                    let bytes_max = piece.len() + sizes.step_bytes;
                    let captured = match self.step(gate, visited.keyspace, &mut value, bytes_max, &mut piece).await? {
                        Step::Taken(captured) => captured,
                        Step::Gone => break false,
                        Step::Flushed if is_moment => return Err(Error::Store(CHANGED.into())),
                        Step::Flushed => return Ok(None),
                    };
                    elements += captured.entries as u64;
                    while piece.len() >= sizes.piece_bytes || captured.is_done && !piece.is_empty() {
                        let bytes = if value.is_run() { sizes.piece_bytes } else { usize::MAX };
                        let rest = piece.split_off(bytes.min(piece.len()));
                        let sealed = SegmentBody::of_piece(&piece);
                        let Visited { keyspace, range, sequence, .. } = *visited;
                        let entry = output.writer.push_piece(keyspace, range, sequence, number, &sealed);
                        pieces.push(InChunk { chunk: output.chunks.len(), entry });
                        number += 1;
                        piece = rest;
                        if output.writer.is_full() {
                            self.put_chunk(manifest, names, output).await?;
                        }
                    }
                    tokio::task::yield_now().await;
                    if captured.is_done {
                        break elements == value.outline.elements;
                    }
                };
                if is_whole {
                    let Large { key, expiry, access, outline, .. } = value;
                    let count = number - first;
                    raw.push_in_pieces(&InPieces { key, expiry, access, outline, first, pieces: count });
                    break;
                }
                pieces.truncate(kept);
                attempt += 1;
                if is_moment {
                    return Err(Error::Store(CHANGED.into()));
                }
                now = match self.look_again(gate, visited, value, attempt > ATTEMPTS, raw).await? {
                    Again::Done => None,
                    Again::Large(value) => Some(value),
                    Again::Flushed => return Ok(None),
                };
            }
        }
        Ok(Some(pieces))
    }

    /// Step 2.
    ///
    /// # Errors
    /// When the process ends.
    async fn step(
        &self,
        gate: &ShardGate,
        keyspace: u32,
        value: &mut Large,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<Step> {
        let moment = match &mut value.remembers {
            Memory::Moment(moment) => *moment,
            Memory::Taken(pieces) => {
                let (mut piece, entries) = pieces.pop().unwrap_or_default();
                out.append(&mut piece);
                return Ok(Step::Taken(Captured { entries, is_done: pieces.is_empty() }));
            }
            Memory::Nothing => return Ok(Step::Gone),
        };
        let (shared, key, position) = (Arc::clone(&self.shared), value.key.clone(), value.position);
        let mut piece = std::mem::take(out);
        let take_some = move |held: &[HeldShard]| {
            let Some(mut contents) = held.first().map(HeldShard::contents) else { return (Step::Flushed, piece) };
            let found = contents.by_id(keyspace).map(|index| {
                let object = index.get_mut(position, &key).and_then(Record::object_mut);
                object.and_then(|object| take(object, moment, bytes_max, &mut piece))
            });
            let mut parked = || shared.parked.take((keyspace, position, &key), moment, bytes_max, &mut piece);
            let step = match found {
                Some(Some(captured)) => Step::Taken(captured),
                Some(None) => parked().map_or(Step::Gone, Step::Taken),
                None => parked().map_or(Step::Flushed, Step::Taken),
            };
            (step, piece)
        };
        let (step, piece) = self.under(vec![Arc::clone(gate)], take_some).await?;
        *out = piece;
        Ok(step)
    }

    /// Step 4. `at_once`: any value found is taken at once.
    ///
    /// # Errors
    /// When the process ends.
    async fn look_again(
        self: &Arc<Self>,
        gate: &ShardGate,
        visited: &Visited,
        before: Large,
        at_once: bool,
        raw: &mut RawSegment,
    ) -> Result<Again> {
        let (shared, keyspace, seen) = (Arc::clone(&self.shared), visited.keyspace, visited.sequence);
        let mut body = std::mem::replace(raw, RawSegment::new(0));
        let look = move |held: &[HeldShard]| {
            let again = (|| {
                let sizes = shared.settings.load().sizes;
                let Some(mut contents) = held.first().map(HeldShard::contents) else { return Again::Flushed };
                let Some(index) = contents.by_id(keyspace) else { return Again::Flushed };
                let now = shared.sequence.load(Ordering::SeqCst);
                if now > seen {
                    body.push_later(before.position, now - seen);
                }
                let Some(record) = index.get_mut(before.position, &before.key) else { return Again::Done };
                let is_large = matches!(record.value(), Value::Object(object) if is_large(object, &sizes));
                let Some(mut large) = is_large.then(|| Large::begin(record, before.position, &sizes)).flatten() else {
                    body.push(record);
                    return Again::Done;
                };
                if at_once || large.is_run() {
                    large.take_at_once(record, &sizes);
                }
                Again::Large(large)
            })();
            (again, body)
        };
        let (again, body) = self.under(vec![Arc::clone(gate)], look).await?;
        *raw = body;
        Ok(again)
    }
}
