//! The timeline of a database that keeps its history: with it, the database can be made as it was at a moment that has
//! passed.
//!
//! 1. A checkpoint puts a *stretch* of time into one object before it commits its manifest: the manifest before (the
//!    stretch's *base*), and the entries that the log has of the database since ([`crate::stretch`]). The base with the
//!    entries up to a moment is the database as it was then.
//! 2. The manifest lists the stretches, and for each the objects that its base names and that the manifest after the
//!    stretch *dropped*.
//! 3. When a stretch has become too old it leaves the list, and the collection deletes what only it named.
//!
//! Invariant: whatever the base of a listed stretch names is named by the newest manifest or among the dropped objects of
//! that stretch or a later one. So the newest manifest names everything that its history needs, and what
//! [`super::sharing`] says of the objects of a manifest holds for those of its history without another word.
//!
//! Times are those of the node's clock, which may be set back. Then stretches overlap, and a moment that came twice is
//! looked for in the later stretch.

use super::names::{read_name, write_name};
use crate::codec::reader::{write_varint, write_zigzag};
use crate::codec::{CodecError, Reader};

const STRETCH_BYTES_MIN: usize = 5;
const DROPPED_BYTES_MIN: usize = 3;

/// The history that a manifest keeps: nothing for a database that keeps none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline {
    /// From the oldest to the newest; each ends where the next one begins.
    pub stretches: Vec<Stretch>,
    /// The end of the last stretch: the moment that the manifest itself shows, unix milliseconds.
    pub until_ms: u64,
}

/// A stretch of time in which the database can be made as it was at any moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The object that holds it.
    pub name: String,
    pub bytes: u64,
    /// Unix milliseconds.
    pub from_ms: u64,
    /// Objects that its base names and the manifest after it does not.
    pub dropped: Vec<DroppedObject>,
}

/// An object that only the history needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedObject {
    pub name: String,
    pub bytes: u64,
}

/// The place of a moment in a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment<'t> {
    /// Before the first stretch.
    Lost,
    Within(&'t Stretch),
    /// After the last stretch: as the manifest itself says, unless something was written since.
    Newest,
}

impl Timeline {
    pub fn is_empty(&self) -> bool {
        self.stretches.is_empty()
    }

    /// The beginning of the history, unix milliseconds; `None` if there is none.
    pub fn from_ms(&self) -> Option<u64> {
        let first = self.stretches.first().map(|stretch| stretch.from_ms);
        first.or(Some(self.until_ms)).filter(|from_ms| *from_ms > 0)
    }

    /// Finds a moment, unix milliseconds.
    pub fn find(&self, at_ms: u64) -> Moment<'_> {
        if at_ms >= self.until_ms {
            return Moment::Newest;
        }
        let end = |at: usize| self.stretches.get(at + 1).map_or(self.until_ms, |next| next.from_ms);
        let begun = || (0..self.stretches.len()).rev().filter(|at| self.stretches[*at].from_ms <= at_ms);
        let found = begun().find(|at| at_ms < end(*at)).or_else(|| begun().next());
        found.map_or(Moment::Lost, |at| Moment::Within(&self.stretches[at]))
    }

    /// Forgets the stretches that end before `horizon_ms`.
    pub fn forget_before(&mut self, horizon_ms: u64) {
        let ends = self.stretches.iter().skip(1).map(|next| next.from_ms).chain([self.until_ms]);
        let old = ends.take_while(|end| *end <= horizon_ms).count();
        self.stretches.drain(..old.min(self.stretches.len()));
    }

    /// All objects that only the history needs, with their bytes.
    pub fn objects(&self) -> impl Iterator<Item = (&str, u64)> {
        self.stretches.iter().flat_map(|stretch| {
            let dropped = stretch.dropped.iter().map(|object| (object.name.as_str(), object.bytes));
            dropped.chain([(stretch.name.as_str(), stretch.bytes)])
        })
    }

    /// The bytes that the history takes in the store.
    pub fn bytes(&self) -> u64 {
        self.objects().fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_varint(out, self.until_ms);
        write_varint(out, self.stretches.len() as u64);
        let (mut before, mut from_ms) = ("", 0u64);
        for stretch in &self.stretches {
            before = write_name(out, before, &stretch.name);
            write_varint(out, stretch.bytes);
            write_zigzag(out, stretch.from_ms.wrapping_sub(from_ms) as i64);
            from_ms = stretch.from_ms;
            write_varint(out, stretch.dropped.len() as u64);
            for object in &stretch.dropped {
                before = write_name(out, before, &object.name);
                write_varint(out, object.bytes);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let until_ms = reader.varint()?;
        let count = reader.count(STRETCH_BYTES_MIN)?;
        let mut stretches = Vec::with_capacity(count);
        let (mut before, mut from_ms) = (String::new(), 0u64);
        for _ in 0..count {
            let name = read_name(reader, &before)?;
            let bytes = reader.varint()?;
            from_ms = from_ms.wrapping_add(reader.zigzag()? as u64);
            before.clone_from(&name);
            let count = reader.count(DROPPED_BYTES_MIN)?;
            let mut dropped = Vec::with_capacity(count);
            for _ in 0..count {
                let name = read_name(reader, &before)?;
                before.clone_from(&name);
                dropped.push(DroppedObject { name, bytes: reader.varint()? });
            }
            stretches.push(Stretch { name, bytes, from_ms, dropped });
        }
        Ok(Self { stretches, until_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(from_ms: &[u64], until_ms: u64) -> Timeline {
        let stretch =
            |from_ms: &u64| Stretch { name: from_ms.to_string(), bytes: 1, from_ms: *from_ms, dropped: Vec::new() };
        Timeline { stretches: from_ms.iter().map(stretch).collect(), until_ms }
    }

    /// The beginning of the stretch that a moment is found in; 0 before all of them, `u64::MAX` after.
    fn found(timeline: &Timeline, at_ms: u64) -> u64 {
        match timeline.find(at_ms) {
            Moment::Lost => 0,
            Moment::Within(stretch) => stretch.from_ms,
            Moment::Newest => u64::MAX,
        }
    }

    #[test]
    fn a_moment_is_found_in_the_stretch_that_has_it() {
        let steady = timeline(&[100, 200, 250], 300);
        let set_back = timeline(&[100, 200, 150], 180);
        let set_forward = timeline(&[100, 200, 9000], 240);
        for (timeline, at_ms, expected) in [
            (&steady, 99, 0),
            (&steady, 100, 100),
            (&steady, 199, 100),
            (&steady, 200, 200),
            (&steady, 299, 250),
            (&steady, 300, u64::MAX),
            // It came twice.
            (&set_back, 160, 150),
            (&set_back, 120, 100),
            (&set_back, 190, u64::MAX),
            (&set_forward, 210, 200),
            (&set_forward, 150, 100),
            (&set_forward, 240, u64::MAX),
            (&Timeline::default(), 5, u64::MAX),
        ] {
            assert_eq!(found(timeline, at_ms), expected, "{at_ms} in {timeline:?}");
        }
    }

    #[test]
    fn old_stretches_are_forgotten() {
        for (horizon_ms, left) in [(0, 3), (199, 3), (200, 2), (299, 1), (300, 0), (u64::MAX, 0)] {
            let mut timeline = timeline(&[100, 200, 250], 300);
            timeline.forget_before(horizon_ms);
            assert_eq!(timeline.stretches.len(), left, "before {horizon_ms}");
        }
    }
}
