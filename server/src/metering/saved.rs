//! The meters of a database as bytes, so that they survive sleep and restarts: a manifest carries them.
//!
//! ```text
//! byte    version: 1, or 2 where closed windows follow
//! n       number of meters, then each, in the order of `Meter`
//! n n n   length of the open window, its start (Unix ms), number of meters; then each as it was at that start
//! n n     the store's bytes and since when (Unix ms) they have been counted
//! n       number of commands; of each: length of its name, its name, calls, nanoseconds, rejected, failed
//! n       with version 2: number of closed windows; of each: start, end (Unix ms), number of meters, what each counted
//! ```
//!
//! Numbers are unsigned LEB128. Commands are saved by name, because their index differs between versions. Meters that
//! this version does not know are skipped; those that the writer did not know start from zero.

use thiserror::Error;

use super::totals::{CommandTotals, METERS, Totals};
use super::usage::{ByteTime, Closed, ClosedWindow, Moment, OpenWindow};

const VERSION: u8 = 1;
/// Written only if there are closed windows, so that an earlier version can read all other forms.
const VERSION_WITH_CLOSED: u8 = 2;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum SavedMetersError {
    #[error("saved meters are truncated or malformed")]
    Malformed,
    #[error("saved meters have version {0}, which this program does not know")]
    Version(u8),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub totals: Totals,
    pub window: OpenWindow,
    pub store: ByteTime,
    pub closed: Closed,
}

/// `names` is the command table's: the name at each index.
pub(super) fn encode(saved: &Saved, names: &[&str]) -> Vec<u8> {
    let closed = &saved.closed.0;
    let mut bytes = vec![if closed.is_empty() { VERSION } else { VERSION_WITH_CLOSED }];
    put_meters(&mut bytes, &saved.totals.meters);
    put(&mut bytes, u128::from(saved.window.length_ms));
    put(&mut bytes, u128::from(saved.window.start_ms));
    put_meters(&mut bytes, &saved.window.at_start);
    put(&mut bytes, u128::from(saved.store.bytes));
    put(&mut bytes, u128::from(saved.store.at.unix_ms));
    let commands = || saved.totals.commands().filter_map(|(index, command)| Some((names.get(index)?, command)));
    put(&mut bytes, commands().count() as u128);
    for (name, command) in commands() {
        put(&mut bytes, name.len() as u128);
        bytes.extend_from_slice(name.as_bytes());
        for number in [command.calls, command.nanoseconds, command.rejected, command.failed] {
            put(&mut bytes, u128::from(number));
        }
    }
    if !closed.is_empty() {
        put(&mut bytes, closed.len() as u128);
    }
    for window in closed {
        put(&mut bytes, u128::from(window.start_ms));
        put(&mut bytes, u128::from(window.end_ms));
        put_meters(&mut bytes, &window.quantities);
    }
    bytes
}

pub(super) fn decode(bytes: &[u8], names: &[&str]) -> Result<Saved, SavedMetersError> {
    let mut reader = Reader(bytes);
    let version = reader.byte()?;
    if !(VERSION..=VERSION_WITH_CLOSED).contains(&version) {
        return Err(SavedMetersError::Version(version));
    }
    let mut totals = Totals { meters: reader.meters()?, commands: Vec::new() };
    let window = OpenWindow {
        length_ms: reader.number_u64()?.max(1),
        start_ms: reader.number_u64()?,
        at_start: reader.meters()?,
    };
    let bytes = reader.number_u64()?;
    let at = Moment { unix_ms: reader.number_u64()?, steady_ms: None };
    let store = ByteTime { bytes, at, byte_milliseconds: 0 };
    for _ in 0..reader.number()? {
        let len = usize::try_from(reader.number()?).map_err(|_| SavedMetersError::Malformed)?;
        let name = reader.take(len)?;
        let command = CommandTotals {
            calls: reader.number_u64()?,
            nanoseconds: reader.number_u64()?,
            rejected: reader.number_u64()?,
            failed: reader.number_u64()?,
        };
        if let Some(index) = names.iter().position(|known| known.as_bytes() == name) {
            totals.add_command(index, command);
        }
    }
    let mut closed = Closed::default();
    if version == VERSION_WITH_CLOSED {
        for _ in 0..reader.number()? {
            let (start_ms, end_ms) = (reader.number_u64()?, reader.number_u64()?);
            closed.0.push_back(ClosedWindow { start_ms, end_ms, quantities: reader.meters()? });
        }
    }
    match reader.0 {
        [] => Ok(Saved { totals, window, store, closed }),
        _ => Err(SavedMetersError::Malformed),
    }
}

fn put_meters(bytes: &mut Vec<u8>, meters: &[u128; METERS]) {
    put(bytes, METERS as u128);
    for meter in meters {
        put(bytes, *meter);
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], SavedMetersError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(SavedMetersError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, SavedMetersError> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u128, SavedMetersError> {
        let mut number = 0;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7f);
            if part << shift >> shift != part {
                return Err(SavedMetersError::Malformed);
            }
            number |= part << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(SavedMetersError::Malformed)
    }

    fn number_u64(&mut self) -> Result<u64, SavedMetersError> {
        u64::try_from(self.number()?).map_err(|_| SavedMetersError::Malformed)
    }

    fn meters(&mut self) -> Result<[u128; METERS], SavedMetersError> {
        let mut meters = [0; METERS];
        for index in 0..self.number()? {
            let value = self.number()?;
            if let Some(meter) = usize::try_from(index).ok().and_then(|index| meters.get_mut(index)) {
                *meter = value;
            }
        }
        Ok(meters)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metering::Meter;

    fn example() -> Saved {
        let mut totals = Totals::default();
        for (index, meter) in Meter::ALL.into_iter().enumerate() {
            totals[meter] = 1 << (7 * index);
        }
        totals[Meter::StoreByteMilliseconds] = u128::MAX;
        totals.add_command(1, CommandTotals { calls: u64::MAX, nanoseconds: 300, rejected: 0, failed: 1 });
        totals.add_command(2, CommandTotals { calls: 1, nanoseconds: 1, rejected: 1, failed: 1 });
        let window = OpenWindow { length_ms: 60_000, start_ms: 1_700_000_040_000, at_start: [7; METERS] };
        let at = Moment { unix_ms: 1_700_000_041_000, steady_ms: None };
        let store = ByteTime { bytes: 4096, at, byte_milliseconds: 0 };
        Saved { totals, window, store, closed: Closed::default() }
    }

    fn example_with_closed() -> Saved {
        let mut example = example();
        for hour in 0..3 {
            let quantities = std::array::from_fn(|meter| (meter as u128) << (40 * hour));
            example.closed.0.push_back(ClosedWindow { start_ms: hour, end_ms: u64::MAX, quantities });
        }
        example
    }

    const NAMES: &[&str] = &["get", "set", "zadd"];

    #[test]
    fn what_is_saved_is_restored() {
        let bytes = encode(&example(), NAMES);
        assert_eq!(decode(&bytes, NAMES), Ok(example()));
        let closed = encode(&example_with_closed(), NAMES);
        assert_eq!(decode(&closed, NAMES), Ok(example_with_closed()));
        // Another version with another table: `set` moved, `zadd` is gone.
        let moved = decode(&bytes, &["append", "bitop", "get", "set"]).unwrap();
        assert_eq!(moved.totals.commands().collect::<Vec<_>>(), [(3, example().totals.command(1))]);
        assert_eq!(moved.totals[Meter::Requests], 1);
    }

    #[test]
    fn fewer_or_more_meters_are_read() {
        // One meter; a window of 5 ms from 6 ms on with no meters; the store; no commands.
        let few = decode(&[1, 1, 9, 5, 6, 0, 8, 7, 0], NAMES).unwrap();
        assert_eq!((few.totals[Meter::Requests], few.totals[Meter::Merges]), (9, 0));
        assert_eq!((few.window.length_ms, few.window.start_ms, few.store.bytes, few.store.at.unix_ms), (5, 6, 8, 7));
        let mut many = vec![1, METERS as u8 + 1];
        many.extend([3; METERS + 1]);
        many.extend([5, 6, 0, 8, 7, 0]);
        assert_eq!(decode(&many, NAMES).unwrap().totals[Meter::Merges], 3);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let bytes = encode(&example_with_closed(), NAMES);
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len], NAMES), Err(SavedMetersError::Malformed), "{len}");
        }
        assert_eq!(decode(&[3], NAMES), Err(SavedMetersError::Version(3)));
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode(&longer, NAMES), Err(SavedMetersError::Malformed));
        let huge_number = [&[1][..], &[0xff; 19], &[0]].concat();
        assert_eq!(decode(&huge_number, NAMES), Err(SavedMetersError::Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for version in [VERSION, VERSION_WITH_CLOSED] {
                let _ = decode(&[&[version][..], &bytes].concat(), NAMES);
            }
        }
    }
}
