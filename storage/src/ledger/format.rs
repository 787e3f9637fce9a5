//! The objects of the ledger.
//!
//! ```text
//! | "DMLEDG\n\n"   | 8 bytes
//! | format version | u32 LE, 1
//! | count          | varint, of the windows that follow; each is
//! |   bytes        |   the database's name, with its length, a varint
//! |   era          |   varint, 32 bits
//! |   start        |   varint, Unix seconds
//! |   length       |   varint, seconds
//! |   count        |   varint, of the quantities that follow; each is
//! |     meter      |     varint, 32 bits
//! |     low, high  |     two varints, the halves of a number of 128 bits
//! | checksum       | u64 LE, CRC-64 of all before
//! ```

use crate::codec::reader::{write_bytes, write_varint};
use crate::codec::{CodecError, Reader, checksum, read_header, write_header};

const MAGIC: &[u8; 8] = b"DMLEDG\n\n";
const VERSION: u32 = 1;
const CHECKSUM_BYTES: usize = 8;
/// The fewest bytes of a window and of a quantity.
const WINDOW_BYTES_MIN: usize = 5;
const QUANTITY_BYTES_MIN: usize = 3;

/// What a database has used in one window of time. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerWindow {
    pub database: Box<str>,
    /// How often the system's clock had been set back, as the database has seen it. So two windows never have the same
    /// start in the same era.
    pub era: u32,
    /// Unix seconds; the end is exclusive.
    pub start_s: u64,
    pub end_s: u64,
    /// Meters by number, each with what it has counted.
    pub quantities: Vec<(u32, u128)>,
}

impl LedgerWindow {
    /// The identity of the window.
    pub fn key(&self) -> (&str, u32, u64) {
        (&self.database, self.era, self.start_s)
    }
}

pub(crate) fn encode(windows: &[&LedgerWindow]) -> Vec<u8> {
    let mut out = Vec::new();
    write_header(&mut out, MAGIC, VERSION);
    write_varint(&mut out, windows.len() as u64);
    for window in windows {
        write_bytes(&mut out, window.database.as_bytes());
        write_varint(&mut out, u64::from(window.era));
        write_varint(&mut out, window.start_s);
        write_varint(&mut out, window.end_s.saturating_sub(window.start_s));
        write_varint(&mut out, window.quantities.len() as u64);
        for &(meter, quantity) in &window.quantities {
            write_varint(&mut out, u64::from(meter));
            write_varint(&mut out, quantity as u64);
            write_varint(&mut out, (quantity >> 64) as u64);
        }
    }
    let sum = checksum(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// Decodes the windows whose database is wanted.
///
/// # Errors
/// When the bytes are no object of a ledger that this build reads.
pub fn decode(bytes: &[u8], wanted: &impl Fn(&str) -> bool) -> Result<Vec<LedgerWindow>, CodecError> {
    read_header(&mut Reader::new(bytes), MAGIC, "ledger", VERSION)?;
    let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(CodecError::Truncated)?;
    let (body, mut sum) = (&bytes[..at], Reader::new(&bytes[at..]));
    let (stored, computed) = (sum.u64_le()?, checksum(body));
    if stored != computed {
        return Err(CodecError::Checksum { stored, computed });
    }
    let mut reader = Reader::new(body);
    read_header(&mut reader, MAGIC, "ledger", VERSION)?;
    let mut windows = Vec::new();
    for _ in 0..reader.count(WINDOW_BYTES_MIN)? {
        let database = reader.text()?;
        let (era, start_s, length_s) = (reader.varint_u32()?, reader.varint()?, reader.varint()?);
        let end_s = start_s.checked_add(length_s).ok_or(CodecError::Malformed("end of a window"))?;
        let count = reader.count(QUANTITY_BYTES_MIN)?;
        let is_wanted = wanted(database);
        let mut quantities = Vec::with_capacity(if is_wanted { count } else { 0 });
        for _ in 0..count {
            let (meter, low, high) = (reader.varint_u32()?, reader.varint()?, reader.varint()?);
            if is_wanted {
                quantities.push((meter, u128::from(high) << 64 | u128::from(low)));
            }
        }
        if is_wanted {
            windows.push(LedgerWindow { database: database.into(), era, start_s, end_s, quantities });
        }
    }
    reader.finish()?;
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::tests::for_each_damage;

    fn example() -> Vec<LedgerWindow> {
        let window = |database: &str, era, start_s| LedgerWindow {
            database: database.into(),
            era,
            start_s,
            end_s: start_s + 60,
            quantities: vec![(0, 1), (5, u128::MAX), (u32::MAX, 1 << 64)],
        };
        let mut windows =
            vec![window("shop", 0, 1_796_475_600), window("shop.pr-1", 7, u64::MAX - 60), window("", 1, 0)];
        windows[2].quantities.clear();
        windows
    }

    /// Written once: objects of the ledger are read for as long as bills are.
    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/ledger-v1.bin");

    #[test]
    fn objects_survive_and_damage_is_found() {
        let windows = example();
        let bytes = encode(&windows.iter().collect::<Vec<_>>());
        assert_eq!(decode(&bytes, &|_: &str| true), Ok(windows.clone()));
        assert_eq!(decode(&bytes, &|name: &str| name == "shop"), Ok(windows[..1].to_vec()));
        for_each_damage(&bytes, |bytes| decode(bytes, &|_: &str| true).is_err());
    }

    #[test]
    fn the_first_format_is_read() {
        let window = |database: &str, era, start_s, length_s, quantities: &[(u32, u128)]| LedgerWindow {
            database: database.into(),
            era,
            start_s,
            end_s: start_s + length_s,
            quantities: quantities.to_vec(),
        };
        let expected = vec![
            window("blog", 0, 1_796_475_600, 60, &[(0, 3), (1, 3), (5, 64_000_000)]),
            window("shop", 2, 1_796_475_600, 60, &[(0, 5), (6, (1 << 64) + 300), (17, 2)]),
            window("shop.pr-1", 0, 1_796_475_660, 86_340, &[(6, 7)]),
        ];
        assert_eq!(decode(GOLDEN, &|_: &str| true), Ok(expected.clone()));
        assert_eq!(encode(&expected.iter().collect::<Vec<_>>()), GOLDEN);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut whole = Vec::new();
            write_header(&mut whole, MAGIC, VERSION);
            whole.extend_from_slice(&bytes);
            let sum = checksum(&whole);
            whole.extend_from_slice(&sum.to_le_bytes());
            let _ = decode(&whole, &|_: &str| true);
        }
    }
}
