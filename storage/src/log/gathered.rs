//! The entries that gather for the next frame, placed so that a disk can take them without a copy.
//!
//! A direct write begins at a block, in the file and in memory ([`super::sink`]). So the entries begin as far after a
//! multiple of a block as they will in the file, with room before them for the frame's head and the block that is not
//! full yet. Their beginning is a guess, from the frame before; if it was wrong they are copied.
//!
//! Entries are added under the log's lock, which every write of every database needs. So the items of a large one are not
//! copied there: they stay in a buffer of their own until the flusher has the frame to itself ([`Gathered::joined`]).

use dormouse_types::pace;

/// Enough for every disk.
pub const BLOCK: usize = 4096;
/// Bytes before the entries: for the part of a block, and the head of a frame of some dozens of databases.
const ROOM: usize = 2 * BLOCK;
/// Smaller buffers grow, and move when they do.
const ALIGNED_BYTES_MIN: usize = 512 << 10;

/// Invariant: the entries are `bytes[start..]`, with each of `apart` before the byte at the offset beside it, in the
/// order of these offsets.
#[derive(Debug, Default)]
pub struct Gathered {
    bytes: Vec<u8>,
    start: usize,
    apart: Vec<(usize, Vec<u8>)>,
    apart_bytes: usize,
}

impl Gathered {
    /// Nothing, in the memory of `spare`. The first entry is thought to come to byte `at` of a file.
    pub fn begin(spare: Vec<u8>, at: usize) -> Self {
        let (mut bytes, mut start) = (spare, 0);
        bytes.clear();
        if bytes.capacity() >= ALIGNED_BYTES_MIN {
            start = ROOM + at.wrapping_sub(bytes.as_ptr().addr() + ROOM) % BLOCK;
            bytes.resize(start, 0);
        }
        Self { bytes, start, apart: Vec::new(), apart_bytes: 0 }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.start + self.apart_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries, once they are [`joined`](Self::joined).
    pub fn entries(&self) -> &[u8] {
        debug_assert!(self.apart.is_empty(), "they are not joined");
        &self.bytes[self.start..]
    }

    /// The same to be encrypted where they are.
    pub fn entries_mut(&mut self) -> &mut [u8] {
        debug_assert!(self.apart.is_empty(), "they are not joined");
        &mut self.bytes[self.start..]
    }

    /// The buffer to which the next entry is appended.
    pub fn end(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends `items` without copying them.
    pub fn append_apart(&mut self, items: Vec<u8>) {
        self.apart_bytes += items.len();
        self.apart.push((self.bytes.len(), items));
    }

    /// The same entries in one piece. The first one is thought to come to byte `at` of a file.
    pub fn joined(self, at: usize) -> Self {
        if self.apart.is_empty() {
            return self;
        }
        let room = ROOM + 4 * BLOCK;
        let mut joined = Self::begin(Vec::with_capacity(self.len() + room), at);
        let mut from = self.start;
        for (place, items) in self.apart {
            pace::extend(&mut joined.bytes, &self.bytes[from..place]);
            pace::extend(&mut joined.bytes, &items);
            from = place;
        }
        joined.bytes.extend_from_slice(&self.bytes[from..]);
        joined
    }

    pub fn into_spare(self) -> Vec<u8> {
        self.bytes
    }

    /// Gives `write` the `before`, the entries and the `after`, one after the other, from the beginning of a block to
    /// the end of one, with zeros after them, and how many bytes these are without the zeros. None where they are not
    /// aligned like that.
    pub fn in_blocks<T>(
        &mut self,
        before: [&[u8]; 2],
        after: &[u8],
        write: impl FnOnce(&[u8], usize) -> T,
    ) -> Option<T> {
        let begin = self.start.checked_sub(before[0].len() + before[1].len())?;
        let is_aligned = (self.bytes.as_ptr().addr() + begin).is_multiple_of(BLOCK);
        let has_room = self.bytes.capacity() - self.bytes.len() >= after.len() + BLOCK;
        if !is_aligned || !has_room {
            return None;
        }
        let (first, second) = self.bytes[begin..self.start].split_at_mut(before[0].len());
        first.copy_from_slice(before[0]);
        second.copy_from_slice(before[1]);
        let entries_end = self.bytes.len();
        self.bytes.extend_from_slice(after);
        let length = self.bytes.len() - begin;
        self.bytes.resize(begin + length.next_multiple_of(BLOCK), 0);
        let written = write(&self.bytes[begin..], length);
        self.bytes.truncate(entries_end);
        Some(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(capacity: usize, at: usize, entries: &[u8]) -> Gathered {
        let mut gathered = Gathered::begin(Vec::with_capacity(capacity), at);
        assert!(gathered.is_empty());
        gathered.end().extend_from_slice(entries);
        gathered
    }

    #[test]
    fn a_right_guess_lies_in_blocks() {
        for (held, head) in [(0, 40), (1, 40), (BLOCK - 1, 40), (BLOCK - 40, 40), (4000, 97), (7, BLOCK)] {
            let (held, head, entries) = (vec![1; held], vec![2; head], vec![3; 500_000]);
            let mut gathered = of(ALIGNED_BYTES_MIN, (held.len() + head.len()) % BLOCK, &entries);
            let wanted = [&held[..], &head, &entries, b"sum"].concat();
            let seen = gathered.in_blocks([&held, &head], b"sum", |bytes, length| {
                assert!(bytes.as_ptr().addr().is_multiple_of(BLOCK) && bytes.len().is_multiple_of(BLOCK));
                assert!(bytes[length..].iter().all(|byte| *byte == 0) && bytes.len() - length < BLOCK);
                assert!(bytes[..length] == wanted);
            });
            assert_eq!(seen, Some(()));
            assert!(gathered.entries() == entries, "they are there for another try");
            assert_eq!(gathered.len(), entries.len());
        }
    }

    #[test]
    fn what_was_kept_apart_is_joined_in_order() {
        let (at, large) = (77, vec![3; 600_000]);
        for (spare, before) in [(0, &b""[..]), (0, b"one"), (ALIGNED_BYTES_MIN, b"one")] {
            let mut gathered = of(spare, at, before);
            gathered.append_apart(large.clone());
            gathered.append_apart(b"two".to_vec());
            gathered.end().extend_from_slice(b"three");
            gathered.append_apart(b"four".to_vec());
            let wanted = [before, &large, b"two", b"three", b"four"].concat();
            assert_eq!(gathered.len(), wanted.len());
            let mut joined = gathered.joined(at);
            assert!(joined.entries() == wanted && joined.len() == wanted.len());
            let head = [2; 77];
            let seen = joined.in_blocks([b"", &head], b"sum", |bytes, length| {
                assert!(bytes[..length] == [&head[..], &wanted, b"sum"].concat());
            });
            assert_eq!(seen, Some(()));
        }
    }

    #[test]
    fn a_wrong_guess_is_noticed() {
        let never = |_: &[u8], _: usize| panic!("it does not lie in blocks");
        assert_eq!(of(ALIGNED_BYTES_MIN, 41, b"entries").in_blocks([b"", &[2; 40]], b"sum", never), None);
        assert_eq!(of(100, 40, b"entries").in_blocks([b"", &[2; 40]], b"sum", never), None, "it is too small");
        let head = vec![0; ROOM + BLOCK];
        assert_eq!(of(ALIGNED_BYTES_MIN, 0, b"entries").in_blocks([b"", &head], b"sum", never), None, "no room before");
        let mut full = Gathered::begin(Vec::with_capacity(ALIGNED_BYTES_MIN), 40);
        let room = full.end().capacity() - full.end().len();
        full.end().extend(std::iter::repeat_n(3, room));
        assert_eq!(full.in_blocks([b"", &[2; 40]], b"sum", never), None, "no room behind");
    }
}
