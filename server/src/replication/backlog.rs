//! The backlog: the end of the stream, for readers that come back after a short break.

use std::collections::VecDeque;

/// Bytes that are kept, at most. One piece that is larger is not kept at all.
pub const BACKLOG_BYTES_MAX: usize = 1 << 20;

/// Invariant: the pieces are the last bytes of the stream, without a gap.
#[derive(Debug, Default)]
pub struct Backlog {
    pieces: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The length of the stream so far: the offset of its last byte, as the first one has offset 1.
    end: u64,
}

/// Short pieces are gathered in pieces of this size.
const PIECE_BYTES: usize = 16 << 10;

impl Backlog {
    /// The number of bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The offset of the last byte of the stream.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The offset of the first byte that is kept, or of the next one.
    pub fn first(&self) -> u64 {
        self.end - self.bytes as u64 + 1
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        if bytes.len() > BACKLOG_BYTES_MAX {
            self.pieces.clear();
            self.bytes = 0;
            return;
        }
        match self.pieces.back_mut() {
            Some(last) if last.len() + bytes.len() <= PIECE_BYTES => last.extend_from_slice(bytes),
            _ => self.pieces.push_back(bytes.to_vec()),
        }
        self.bytes += bytes.len();
        while self.bytes > BACKLOG_BYTES_MAX
            && let Some(oldest) = self.pieces.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    /// The bytes from `offset` on; `None` if they are not kept.
    pub fn from(&self, offset: u64) -> Option<impl Iterator<Item = &[u8]>> {
        let skipped = offset.checked_sub(self.first())?;
        let mut skipped = usize::try_from(skipped).ok().filter(|skipped| *skipped <= self.bytes)?;
        Some(self.pieces.iter().filter_map(move |piece| {
            let from = skipped.min(piece.len());
            skipped -= from;
            Some(&piece[from..]).filter(|rest| !rest.is_empty())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_stream_is_kept() {
        let (mut backlog, mut stream) = (Backlog::default(), Vec::new());
        let mut random = fastrand::Rng::with_seed(7);
        for turn in 0..2000 {
            let len = random.usize(..if turn % 100 == 0 { BACKLOG_BYTES_MAX + 2 } else { 4000 });
            let piece: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
            backlog.push(&piece);
            stream.extend_from_slice(&piece);
            assert_eq!(backlog.end(), stream.len() as u64);
            assert!(backlog.bytes() <= BACKLOG_BYTES_MAX);
            let first = backlog.first();
            for offset in [first, first + backlog.bytes() as u64 / 3, backlog.end() + 1] {
                let rest: Vec<u8> = backlog.from(offset).expect("it is kept").flatten().copied().collect();
                assert_eq!(rest, stream[offset as usize - 1..]);
            }
            assert!(backlog.from(first - 1).is_none() && backlog.from(backlog.end() + 2).is_none());
            if stream.len() > 8 << 20 {
                break;
            }
        }
    }

    #[test]
    fn a_piece_that_is_too_long_empties_it() {
        let mut backlog = Backlog::default();
        backlog.push(b"abc");
        assert_eq!((backlog.first(), backlog.end()), (1, 3));
        backlog.push(&vec![0; BACKLOG_BYTES_MAX + 1]);
        assert_eq!((backlog.bytes(), backlog.first()), (0, backlog.end() + 1));
        assert!(backlog.from(1).is_none() && backlog.from(backlog.first()).is_some());
    }
}
