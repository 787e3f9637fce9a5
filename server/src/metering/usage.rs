//! Usage over time: quantities that last, and the windows that bills are made of.

use super::totals::{METERS, Meter, Totals};

/// A number of bytes integrated over time. The value holds from one observation to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByteTime {
    pub at_ms: u64,
    pub bytes: u64,
    pub byte_milliseconds: u128,
}

impl ByteTime {
    /// Says that from `now_ms` on there are `bytes`. A clock that goes backwards stands still here.
    pub fn observe(&mut self, now_ms: u64, bytes: u64) {
        self.advance(now_ms);
        self.bytes = bytes;
    }

    pub fn advance(&mut self, now_ms: u64) {
        let elapsed = now_ms.saturating_sub(self.at_ms);
        // The product of two u64 always fits; their sum would take 10^19 years of 2^64 bytes to overflow.
        self.byte_milliseconds = self.byte_milliseconds.saturating_add(u128::from(self.bytes) * u128::from(elapsed));
        self.at_ms = self.at_ms.max(now_ms);
    }
}

/// What a database used in one window of time. Windows begin at multiples of their length in Unix time, and everything
/// that is counted falls into exactly one, so a window is billed right however often it is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub database: String,
    pub start_ms: u64,
    pub end_ms: u64,
    quantities: [u128; METERS],
}

/// One quantity of a window, as billing systems take it (CloudEvents 1.0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `<database>:<meter>:<start of the window in Unix seconds>`, at most 100 characters.
    pub id: String,
    pub meter: Meter,
    /// A decimal number.
    pub quantity: String,
}

impl Window {
    pub fn quantity(&self, meter: Meter) -> u128 {
        self.quantities[meter as usize]
    }

    /// One event for each meter that counted something.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        let used = Meter::ALL.into_iter().zip(self.quantities).filter(|(_, quantity)| *quantity != 0);
        used.map(|(meter, quantity)| Event {
            id: format!("{}:{}:{}", self.database, meter.name(), self.start_ms / 1000),
            meter,
            quantity: quantity.to_string(),
        })
    }
}

/// The window that is open: when it began, and what the meters showed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenWindow {
    pub length_ms: u64,
    pub start_ms: u64,
    pub at_start: [u128; METERS],
}

impl OpenWindow {
    pub fn new(length_ms: u64, now_ms: u64, totals: &Totals) -> OpenWindow {
        // Whole seconds, because ids name a window by its second.
        let length_ms = length_ms.max(1).next_multiple_of(1000);
        OpenWindow { length_ms, start_ms: now_ms - now_ms % length_ms, at_start: totals.meters }
    }

    pub fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.start_ms.saturating_add(self.length_ms)
    }

    pub fn window(&self, database: &str, totals: &Totals) -> Window {
        let mut quantities = totals.meters;
        for (quantity, at_start) in quantities.iter_mut().zip(self.at_start) {
            *quantity = quantity.saturating_sub(at_start);
        }
        let end_ms = self.start_ms.saturating_add(self.length_ms);
        Window { database: database.to_string(), start_ms: self.start_ms, end_ms, quantities }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::DATABASE_NAME_LEN_MAX;

    #[test]
    fn bytes_are_integrated_over_time() {
        let mut time = ByteTime { at_ms: 1000, ..ByteTime::default() };
        for (now_ms, bytes, total) in [
            (1500, 10, 0),
            (1501, 20, 10),
            (1501, 30, 10),
            (1400, 40, 10), // the clock went back: nothing elapsed
            (1503, 0, 90),
            (9999, 5, 90),
        ] {
            time.observe(now_ms, bytes);
            assert_eq!(time.byte_milliseconds, total, "at {now_ms}");
        }
        time.observe(10_000, u64::MAX);
        time.observe(u64::MAX, u64::MAX);
        assert!(time.byte_milliseconds > u128::from(u64::MAX));
    }

    #[test]
    fn event_ids_fit_and_are_repeatable() {
        let mut totals = Totals::default();
        let open = OpenWindow::new(3_600_000, 1_700_000_123_456, &totals);
        assert!(!open.is_over(1_700_000_123_456));
        assert!(open.is_over(open.start_ms + 3_600_000));
        for meter in Meter::ALL {
            totals[meter] = u128::MAX;
        }
        let window = open.window(&"d".repeat(DATABASE_NAME_LEN_MAX), &totals);
        assert_eq!(window.end_ms - window.start_ms, 3_600_000);
        assert_eq!(window.events().count(), METERS);
        for event in window.events() {
            assert!(event.id.len() <= 100, "{} has {} characters", event.id, event.id.len());
            assert_eq!(event.quantity, u128::MAX.to_string());
        }
        let other = OpenWindow::new(3_600_000, 1_700_000_999_999, &totals);
        assert_eq!(other.start_ms, 1_699_999_200_000);
        totals[Meter::Requests] = u128::MAX;
        assert_eq!(other.window("shop", &totals).events().count(), 0);
        assert_eq!(open.window("shop", &totals).events().next().unwrap().id, "shop:requests:1699999200");
    }
}
