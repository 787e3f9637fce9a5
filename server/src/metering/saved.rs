//! The meters of a database as bytes, so that they survive sleep and restarts: a manifest carries them.
//!
//! ```text
//! byte    version: 3
//! n       number of meters, then each, in the order of `Meter`
//! n n n n era of the open window, its length, its start (Unix ms), number of meters; then each as it was at that start
//! n n     the store's bytes and since when (Unix ms) they have been counted
//! n       number of commands; of each: length of its name, its name, calls, nanoseconds, rejected, failed, unbilled
//! n       number of closed windows; of each: era, start, end (Unix ms), number of meters, what each counted
//! ```
//!
//! Versions 1 and 2 knew no eras and no unbilled requests, and version 1 no closed windows. Their windows were hours.
//!
//! Numbers are unsigned LEB128. Commands are saved by name, because their index differs between versions. Meters that
//! this version does not know are skipped; those that the writer did not know start from zero.

use thiserror::Error;

use super::totals::{CommandTotals, METERS, Totals};
use super::usage::{ByteTime, Closed, ClosedWindow, Moment, OpenWindow, is_idle};

const VERSION: u8 = 3;
/// The last version without eras and unbilled requests, and without closed windows.
const VERSION_OF_HOURS: u8 = 2;
const VERSION_WITHOUT_CLOSED: u8 = 1;

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
    /// Whether the ledger takes its windows: not if a version without a ledger has saved it.
    pub is_of_ledger: bool,
}

/// What the ledger is known to have of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The era and the end (Unix ms) of its last window, if it is one of those that were looked at.
    pub last: Option<(u32, u64)>,
    /// Unix milliseconds: all windows that ended later were looked at.
    pub seen_from_ms: u64,
}

impl Recorded {
    /// Takes out of saved meters what the ledger has.
    ///
    /// 1. Windows up to the last one that the ledger has are dropped. What was counted between the save and a crash, in a
    ///    window that was not written yet, is lost.
    /// 2. A database whose last window was not looked at was asleep since then: its windows are written within a minute.
    ///    So if the saved one was in use, the ledger has it.
    fn take_from(&self, saved: &mut Saved) {
        let Saved { totals, window, store, closed, is_of_ledger } = saved;
        let mut open = totals.meters;
        open.iter_mut().zip(window.at_start).for_each(|(sum, less)| *sum = sum.saturating_sub(less));
        let was_written = *is_of_ledger && window.start_ms < self.seen_from_ms && !is_idle(&open);
        let Some(last) = self.last.or_else(|| was_written.then(|| (window.era, window.end_ms()))) else { return };
        closed.windows.retain(|closed| (closed.era, closed.end_ms) > last);
        closed.offered = closed.windows.len();
        if (window.era, window.start_ms) < last {
            (window.era, window.start_ms) = last;
            window.at_start = totals.meters;
            store.at.unix_ms = store.at.unix_ms.max(last.1);
        }
    }
}

/// `names` is the command table's: the name at each index.
pub(super) fn encode(saved: &Saved, names: &[&str]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    put_meters(&mut bytes, &saved.totals.meters);
    put(&mut bytes, u128::from(saved.window.era));
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
        let CommandTotals { calls, nanoseconds, rejected, failed, unbilled } = command;
        for number in [calls, nanoseconds, rejected, failed, unbilled] {
            put(&mut bytes, u128::from(number));
        }
    }
    put(&mut bytes, saved.closed.windows.len() as u128);
    for window in &saved.closed.windows {
        put(&mut bytes, u128::from(window.era));
        put(&mut bytes, u128::from(window.start_ms));
        put(&mut bytes, u128::from(window.end_ms));
        put_meters(&mut bytes, &window.quantities);
    }
    bytes
}

/// `recorded`: what the ledger has.
pub(super) fn decode(bytes: &[u8], names: &[&str], recorded: &Recorded) -> Result<Saved, SavedMetersError> {
    let mut saved = read(bytes, names)?;
    recorded.take_from(&mut saved);
    Ok(saved)
}

fn read(bytes: &[u8], names: &[&str]) -> Result<Saved, SavedMetersError> {
    let mut reader = Reader(bytes);
    let version = reader.byte()?;
    if !(VERSION_WITHOUT_CLOSED..=VERSION).contains(&version) {
        return Err(SavedMetersError::Version(version));
    }
    let is_of_ledger = version > VERSION_OF_HOURS;
    let era = |reader: &mut Reader<'_>| if is_of_ledger { reader.number_u32() } else { Ok(0) };
    let mut totals = Totals { meters: reader.meters()?, commands: Vec::new() };
    let window = OpenWindow {
        era: era(&mut reader)?,
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
            unbilled: if is_of_ledger { reader.number_u64()? } else { 0 },
        };
        if let Some(index) = names.iter().position(|known| known.as_bytes() == name) {
            totals.add_command(index, command);
        }
    }
    let mut closed = Closed::default();
    if version > VERSION_WITHOUT_CLOSED {
        for _ in 0..reader.number()? {
            let (era, start_ms, end_ms) = (era(&mut reader)?, reader.number_u64()?, reader.number_u64()?);
            closed.windows.push_back(ClosedWindow { era, start_ms, end_ms, quantities: reader.meters()? });
        }
        // Another process may have offered them.
        closed.offered = closed.windows.len();
    }
    match reader.0 {
        [] => Ok(Saved { totals, window, store, closed, is_of_ledger }),
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

    fn number_u32(&mut self) -> Result<u32, SavedMetersError> {
        u32::try_from(self.number()?).map_err(|_| SavedMetersError::Malformed)
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
            totals[meter] = 1 << (6 * index);
        }
        totals[Meter::StoreByteMilliseconds] = u128::MAX;
        totals.add_command(1, CommandTotals { calls: u64::MAX, nanoseconds: 300, rejected: 0, failed: 1, unbilled: 9 });
        totals.add_command(2, CommandTotals { calls: 1, nanoseconds: 1, rejected: 1, failed: 1, unbilled: 0 });
        let window = OpenWindow { length_ms: 60_000, era: 2, start_ms: 1_700_000_040_000, at_start: [7; METERS] };
        let at = Moment { unix_ms: 1_700_000_041_000, steady_ms: None };
        let store = ByteTime { bytes: 4096, at, byte_milliseconds: 0 };
        Saved { totals, window, store, closed: Closed::default(), is_of_ledger: true }
    }

    fn example_with_closed() -> Saved {
        let mut example = example();
        for hour in 0..3 {
            let quantities = std::array::from_fn(|meter| (meter as u128) << (40 * hour));
            let window = ClosedWindow { era: hour as u32, start_ms: hour, end_ms: u64::MAX, quantities };
            example.closed.windows.push_back(window);
        }
        example.closed.offered = 3;
        example
    }

    const NAMES: &[&str] = &["get", "set", "zadd"];

    #[test]
    fn what_is_saved_is_restored() {
        let bytes = encode(&example(), NAMES);
        assert_eq!(read(&bytes, NAMES), Ok(example()));
        let closed = encode(&example_with_closed(), NAMES);
        assert_eq!(read(&closed, NAMES), Ok(example_with_closed()));
        // Another version with another table: `set` moved, `zadd` is gone.
        let moved = read(&bytes, &["append", "bitop", "get", "set"]).unwrap();
        assert_eq!(moved.totals.commands().collect::<Vec<_>>(), [(3, example().totals.command(1))]);
        assert_eq!(moved.totals[Meter::Requests], 1);
    }

    #[test]
    fn fewer_or_more_meters_are_read() {
        // One meter; a window of 5 ms from 6 ms on with no meters; the store; no commands.
        let few = read(&[1, 1, 9, 5, 6, 0, 8, 7, 0], NAMES).unwrap();
        assert_eq!((few.totals[Meter::Requests], few.totals[Meter::Merges]), (9, 0));
        assert_eq!((few.window.length_ms, few.window.start_ms, few.store.bytes, few.store.at.unix_ms), (5, 6, 8, 7));
        let mut many = vec![1, METERS as u8 + 1];
        many.extend([3; METERS + 1]);
        many.extend([5, 6, 0, 8, 7, 0]);
        assert_eq!(read(&many, NAMES).unwrap().totals[Meter::Merges], 3);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let bytes = encode(&example_with_closed(), NAMES);
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len], NAMES), Err(SavedMetersError::Malformed), "{len}");
        }
        assert_eq!(read(&[4], NAMES), Err(SavedMetersError::Version(4)));
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(read(&longer, NAMES), Err(SavedMetersError::Malformed));
        let huge_number = [&[1][..], &[0xff; 19], &[0]].concat();
        assert_eq!(read(&huge_number, NAMES), Err(SavedMetersError::Malformed));
    }

    #[test]
    fn earlier_versions_are_read() {
        // As above, with a command and a closed window.
        let old = [2, 1, 9, 5, 6, 0, 8, 7, 1, 3, b's', b'e', b't', 1, 2, 3, 4, 1, 10, 20, 1, 11];
        let saved = read(&old, NAMES).unwrap();
        assert_eq!(
            saved.totals.command(1),
            CommandTotals { calls: 1, nanoseconds: 2, rejected: 3, failed: 4, unbilled: 0 }
        );
        let window = saved.closed.windows[0];
        assert_eq!((window.era, window.start_ms, window.end_ms, window.quantities[0]), (0, 10, 20, 11));
        assert!(!saved.is_of_ledger);
    }

    #[test]
    fn what_the_ledger_has_is_not_counted_again() {
        let saved = || {
            let mut saved = example();
            for start_ms in [1_000, 61_000] {
                let window = ClosedWindow { era: 2, start_ms, end_ms: start_ms + 60_000, quantities: [1; METERS] };
                saved.closed.windows.push_back(window);
            }
            saved
        };
        let (start_ms, at_ms) = (saved().window.start_ms, saved().store.at.unix_ms);
        // Each row: what is recorded; closed windows that are left; the era and the start of the open one, and from when on
        // the store is counted.
        for (last, seen_from_ms, closed, open, at) in [
            (None, 0, 2, (2, start_ms), at_ms),
            (Some((2, 61_000)), 0, 1, (2, start_ms), at_ms),
            (Some((2, start_ms)), 0, 0, (2, start_ms), at_ms),
            (Some((1, u64::MAX)), 0, 2, (2, start_ms), at_ms),
            (Some((2, start_ms + 60_000)), 0, 0, (2, start_ms + 60_000), start_ms + 60_000),
            (Some((3, 5)), 0, 0, (3, 5), at_ms),
            (None, start_ms, 2, (2, start_ms), at_ms),
            (None, start_ms + 1, 0, (2, start_ms + 60_000), start_ms + 60_000),
        ] {
            let mut left = saved();
            Recorded { last, seen_from_ms }.take_from(&mut left);
            let found = (left.closed.windows.len(), (left.window.era, left.window.start_ms), left.store.at.unix_ms);
            assert_eq!(found, (closed, open, at), "{last:?} {seen_from_ms}");
            assert_eq!(left.window.at_start == left.totals.meters, open != (2, start_ms));
        }
        // An older version knew no ledger.
        let mut old = Saved { is_of_ledger: false, ..saved() };
        Recorded { last: None, seen_from_ms: u64::MAX }.take_from(&mut old);
        assert_eq!(old.closed.windows.len(), 2);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for version in [VERSION, VERSION_OF_HOURS, VERSION_WITHOUT_CLOSED] {
                let _ = read(&[&[version][..], &bytes].concat(), NAMES);
            }
        }
    }
}
