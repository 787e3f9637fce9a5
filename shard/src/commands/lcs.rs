//! `LCS`: the longest common subsequence of two strings.
//!
//! The vanilla table of lengths, row by row; only two rows of it are ever kept. For the walk back from the end, one bit
//! is kept for each pair of bytes that differ: which neighbour is longer.
//!
//! Redis keeps the whole table, 32 bits a cell, and refuses what it cannot allocate. Here the cells are bounded, since
//! their number is also the time that it takes.

use dormouse_protocol::{Reply, Request};
use dormouse_types::pace;

use crate::commands::args::{Rest, Word, integer};
use crate::commands::work;
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

/// Cells of the table: 128 MiB of bits, a second or two.
const CELLS_MAX: usize = 1 << 30;
/// Cells that take about as long as looking at one element of a collection.
const CELLS_PER_ELEMENT: usize = 16;

/// `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN length] [WITHMATCHLEN]`
pub(super) fn lcs(db: &mut Keyspace<'_>, reply: &mut Reply, (a, b, options): (&[u8], &[u8], Rest<'_>)) -> Result<()> {
    const NOT_STRINGS: Error = Error::text("ERR The specified keys must contain string values");
    work(reply, db.string_length(a).saturating_add(db.string_length(b)))?;
    let mut text =
        |key| db.string(key).map_err(|_| NOT_STRINGS).map(|text| text.map_or(Vec::new(), |text| text.to_vec()));
    let (a, b) = (text(a)?, text(b)?);
    let options = Options::read(options)?;
    if options.index && options.length {
        return Err(Error::text("ERR If you want both the length and indexes, please just use IDX."));
    }
    let table = Table::new(&a, &b, reply)?;
    if options.length {
        reply.integer(i64::from(table.length));
        return Ok(());
    }
    let mut common = Vec::with_capacity(table.length as usize);
    let mut matches = Vec::new();
    table.walk_back(&a, &b, |i, j| {
        common.push(a[i]);
        match matches.last_mut() {
            Some(Match { a, b, len }) if i + 1 == *a && j + 1 == *b => (*a, *b, *len) = (i, j, *len + 1),
            _ => matches.push(Match { a: i, b: j, len: 1 }),
        }
    });
    if !options.index {
        common.reverse();
        reply.bulk(&common);
        return Ok(());
    }
    matches.retain(|found| found.len as i64 >= options.length_min);
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(matches.len());
    for Match { a, b, len } in matches {
        reply.array(if options.with_length { 3 } else { 2 });
        for start in [a, b] {
            reply.array(2);
            reply.integer(start as i64);
            reply.integer((start + len - 1) as i64);
        }
        if options.with_length {
            reply.integer(len as i64);
        }
    }
    reply.bulk(b"len");
    reply.integer(i64::from(table.length));
    Ok(())
}

/// The cells of the table.
pub(super) fn cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let cells = db.string_length(request.arg(1)).saturating_mul(db.string_length(request.arg(2)));
    cells / CELLS_PER_ELEMENT
}

/// A run of bytes that the two strings share, and where it begins in each.
struct Match {
    a: usize,
    b: usize,
    len: usize,
}

struct Options {
    length: bool,
    index: bool,
    with_length: bool,
    length_min: i64,
}

impl Options {
    /// Redis reads them after it has found two strings.
    fn read(options: Rest<'_>) -> Result<Self> {
        let mut read = Self { length: false, index: false, with_length: false, length_min: 0 };
        let mut words = options.iter();
        while let Some(word) = words.next() {
            match Word::new(word).as_bytes() {
                b"LEN" => read.length = true,
                b"IDX" => read.index = true,
                b"WITHMATCHLEN" => read.with_length = true,
                b"MINMATCHLEN" => read.length_min = integer(words.next().ok_or(Error::Syntax)?)?,
                _ => return Err(Error::Syntax),
            }
        }
        Ok(read)
    }
}

/// The result of the table of lengths of common subsequences of all prefixes.
struct Table {
    length: u32,
    /// For the prefixes of `i + 1` and `j + 1` bytes, at bit `i * b.len() + j`: it is longer without the last byte of `a`
    /// than without that of `b`.
    shorter_a: Vec<u64>,
}

impl Table {
    fn new(a: &[u8], b: &[u8], reply: &mut Reply) -> Result<Self> {
        let cells = a.len().checked_mul(b.len()).filter(|cells| *cells <= CELLS_MAX);
        let cells = cells.ok_or(Error::text("ERR Insufficient memory, failed allocating transient memory for LCS"))?;
        // With the two rows and the matches that are found on the way back.
        work(reply, cells / 8 + b.len() * 8 + a.len().min(b.len()) * size_of::<Match>())?;
        let mut shorter_a = vec![0u64; cells.div_ceil(64)];
        let (mut above, mut row) = (vec![0u32; b.len() + 1], vec![0u32; b.len() + 1]);
        for (i, byte) in a.iter().enumerate() {
            if !pace::goes_on(b.len() / CELLS_PER_ELEMENT) {
                break;
            }
            for (j, other) in b.iter().enumerate() {
                row[j + 1] = if byte == other {
                    above[j] + 1
                } else {
                    let (up, left) = (above[j + 1], row[j]);
                    let cell = i * b.len() + j;
                    shorter_a[cell / 64] |= u64::from(up > left) << (cell % 64);
                    up.max(left)
                };
            }
            std::mem::swap(&mut above, &mut row);
        }
        Ok(Self { length: above[b.len()], shorter_a })
    }

    /// Visits the common bytes from the last to the first: where each stands in `a` and in `b`.
    fn walk_back(&self, a: &[u8], b: &[u8], mut visit: impl FnMut(usize, usize)) {
        let (mut i, mut j) = (a.len(), b.len());
        // A table that was given up leads nowhere.
        while i > 0 && j > 0 && !pace::is_ended() {
            if a[i - 1] == b[j - 1] {
                (i, j) = (i - 1, j - 1);
                visit(i, j);
                continue;
            }
            let cell = (i - 1) * b.len() + j - 1;
            if self.shorter_a[cell / 64] >> (cell % 64) & 1 == 1 {
                i -= 1;
            } else {
                j -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::{Bench, check, check_resp3};

    #[test]
    fn subsequences() {
        check(&[
            ("MSET a ohmytext b mynewtext", "OK"),
            ("LCS a b", "mytext"),
            ("lcs a b len", "6"),
            ("LCS a b IDX", "[matches [[[4 7] [5 8]] [[2 3] [0 1]]] len 6]"),
            ("LCS a b IDX MINMATCHLEN 4", "[matches [[[4 7] [5 8]]] len 6]"),
            ("LCS a b IDX MINMATCHLEN 4 WITHMATCHLEN", "[matches [[[4 7] [5 8] 4]] len 6]"),
            ("LCS a b IDX MINMATCHLEN -5", "[matches [[[4 7] [5 8]] [[2 3] [0 1]]] len 6]"),
            ("LCS a b MINMATCHLEN 9", "mytext"),
            ("LCS b a", "mytext"),
            ("LCS a nothing", "\"\""),
            ("LCS a nothing LEN", "0"),
            ("LCS nothing a IDX", "[matches [] len 0]"),
            ("SET n 12345", "OK"),
            ("SET m x234y", "OK"),
            ("LCS n m", "234"),
            ("LCS n n IDX", "[matches [[[0 4] [0 4]]] len 5]"),
            ("LCS a b IDX LEN", "(error) ERR If you want both the length and indexes, please just use IDX."),
            ("LCS a b MINMATCHLEN", "(error) ERR syntax error"),
            ("LCS a b MINMATCHLEN x", "(error) ERR value is not an integer or out of range"),
            ("LCS a b NOPE", "(error) ERR syntax error"),
            ("LCS a", "(error) ERR wrong number of arguments for 'lcs' command"),
        ]);
        check_resp3(&[("MSET a xay b ya", "OK"), ("LCS a b IDX", "{matches [[[2 2] [0 0]]] len 1}")]);
    }

    #[test]
    fn what_would_take_too_long_is_refused() {
        let mut bench = Bench::new();
        let long = vec![b'x'; 1 << 16];
        bench.run_args(&[b"SET", b"k", &long]);
        let refused = "(error) ERR Insufficient memory, failed allocating transient memory for LCS";
        assert_eq!(bench.run("LCS k k LEN"), refused);
    }
}
