//! The newest small objects of a log, which a later one restates.
//!
//! A log in a bucket has an object for each flush. With a loss window of 0 and a round trip of 30 ms those are 30 a
//! second, most of them a few hundred bytes long: a restart pays a request for each, and so does the next checkpoint,
//! which deletes them.
//!
//! 1. The frames of the newest objects are kept in memory, up to [`Restating::bytes`].
//! 2. Once [`Restating::objects`] have gathered, or an eighth of that many and too many bytes for more, the object of the
//!    next flush begins with all their frames, and its own frame comes last. It costs no request of its own, and is
//!    created under the writer's next number like any other, so a seal shuts it out like any other.
//! 3. Once it is durable, the objects that it restates are needed no more, and are deleted.
//! 4. It is one of the newest objects itself, and restated by the next one, until it has outgrown the bytes.
//!
//! A reader that finds both the object and some of those that it restates meets frames twice, and counts them once. It has
//! to read the object before them, by its lsn: see [`crate::log::recovery`]. A build that goes by the numbers would take
//! the restated frames for ones that it has read, so the head has a version that such a build refuses.

use bytes::Bytes;

use crate::log::format::{FileHead, HEADER_BYTES};

/// When objects are restated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restating {
    /// This many objects are left as they are.
    pub objects: usize,
    /// Frames of more bytes are never written again.
    pub bytes: usize,
}

impl Default for Restating {
    fn default() -> Self {
        Self { objects: 64, bytes: 256 << 10 }
    }
}

/// The newest objects, in the order of their numbers, without a gap between their frames.
#[derive(Debug)]
pub(super) struct Recent {
    restating: Restating,
    numbers: Vec<u64>,
    /// Of the first frame.
    lsn: u64,
    frames: Vec<u8>,
}

/// An object to be written.
#[derive(Debug, Clone)]
pub(super) struct Composed {
    pub bytes: Bytes,
    /// Bytes of the head and of restated frames.
    own_at: usize,
    /// Its first lsn; none if it must not be restated.
    lsn: Option<u64>,
    restates: Vec<u64>,
}

impl Composed {
    /// Whether its own frame is this one.
    pub fn is_of(&self, frame: &[&[u8]]) -> bool {
        let mut rest = &self.bytes[self.own_at..];
        let is_prefix = frame.iter().all(|part| match rest.strip_prefix(*part) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        });
        is_prefix && rest.is_empty()
    }
}

impl Recent {
    pub fn new(restating: Restating) -> Self {
        Self { restating, numbers: Vec::new(), lsn: 0, frames: Vec::new() }
    }

    /// The object of a frame; `head` is that of an object which holds nothing else.
    pub fn compose(&self, head: &[u8], frame: &[&[u8]]) -> Composed {
        let decoded = FileHead::decode(head).ok();
        let frame_bytes: usize = frame.iter().map(|part| part.len()).sum();
        match decoded.filter(|_| self.is_due(frame_bytes)) {
            Some(own) => {
                let head = FileHead { lsn: self.lsn, ..own }.encode_restating();
                let parts = [&[&head[..], &self.frames], frame].concat();
                Composed {
                    bytes: parts.concat().into(),
                    own_at: HEADER_BYTES + self.frames.len(),
                    lsn: Some(self.lsn),
                    restates: self.numbers.clone(),
                }
            }
            None => Composed {
                bytes: [&[head], frame].concat().concat().into(),
                own_at: head.len(),
                lsn: decoded.map(|head| head.lsn),
                restates: Vec::new(),
            },
        }
    }

    /// The number of the oldest of them.
    pub fn first(&self) -> Option<u64> {
        self.numbers.first().copied()
    }

    fn is_due(&self, frame_bytes: usize) -> bool {
        let (objects, is_full) = (self.numbers.len(), self.frames.len() + frame_bytes > self.restating.bytes);
        objects >= self.restating.objects || (is_full && objects > self.restating.objects / 8)
    }

    /// Notes that the object is durable under this number. Returns the objects that it restates.
    pub fn written(&mut self, number: u64, object: Composed) -> Vec<u64> {
        let Composed { bytes, own_at, lsn, restates } = object;
        let Some(lsn) = lsn else {
            self.clear();
            return restates;
        };
        if !restates.is_empty() || self.frames.len() + bytes.len() - own_at > self.restating.bytes {
            self.clear();
        }
        let frames = &bytes[HEADER_BYTES..];
        if frames.len() <= self.restating.bytes {
            if self.numbers.is_empty() {
                self.lsn = lsn;
            }
            self.numbers.push(number);
            self.frames.extend_from_slice(frames);
        }
        restates
    }

    fn clear(&mut self) {
        self.numbers.clear();
        // Without the room: a log that has only large frames from here on has no use for it.
        self.frames = Vec::new();
    }
}
