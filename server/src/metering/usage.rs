//! Usage over time: quantities that last, and the windows that bills consist of.

use std::collections::VecDeque;

use super::totals::{METERS, Meter, Totals};

/// Most closed windows of one database that are kept; beyond that the oldest two are merged.
pub const CLOSED_MAX: usize = 72;

/// One moment on two clocks. The system's clock names it, and may be set; the steady one measures the time since
/// another moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    pub unix_ms: u64,
    /// Reading of the process's steady clock, if any.
    pub steady_ms: Option<u64>,
}

/// A number of bytes integrated over time. The value holds from one observation to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByteTime {
    pub at: Moment,
    pub bytes: u64,
    pub byte_milliseconds: u128,
}

impl ByteTime {
    /// Sets the value from `now` on to `bytes`.
    pub fn observe(&mut self, now: Moment, bytes: u64) {
        self.advance(now);
        self.bytes = bytes;
    }

    /// Adds the time up to `now`. Without a steady clock, as over a restart, the system's clock counts. If that went
    /// backwards, no time has passed.
    pub fn advance(&mut self, now: Moment) {
        let elapsed = match (self.at.steady_ms, now.steady_ms) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => now.unix_ms.saturating_sub(self.at.unix_ms),
        };
        // The product of two u64 always fits; their sum would take 10^19 years of 2^64 bytes to overflow.
        self.byte_milliseconds = self.byte_milliseconds.saturating_add(u128::from(self.bytes) * u128::from(elapsed));
        self.at = match now.steady_ms {
            Some(_) => now,
            None => Moment { unix_ms: self.at.unix_ms.max(now.unix_ms), ..now },
        };
    }
}

/// Usage of a database in one window of time. Windows begin at multiples of their length in Unix time, and each count
/// falls into exactly one, so a window is billed right however often it is exported. A window is longer if the server
/// did not run at its end, or if it was not taken for so long that it was merged with the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageWindow {
    pub database: String,
    pub start_ms: u64,
    pub end_ms: u64,
    pub(super) quantities: [u128; METERS],
}

/// The closed windows that have not been taken yet, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Closed(pub VecDeque<ClosedWindow>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClosedWindow {
    pub start_ms: u64,
    pub end_ms: u64,
    pub quantities: [u128; METERS],
}

impl ClosedWindow {
    fn append(&mut self, other: &Self) {
        self.start_ms = self.start_ms.min(other.start_ms);
        self.end_ms = self.end_ms.max(other.end_ms);
        for (sum, more) in self.quantities.iter_mut().zip(other.quantities) {
            *sum = sum.saturating_add(more);
        }
    }
}

impl Closed {
    /// Keeps a window until it is taken. The oldest window is not lost when there are too many: it is added to the next
    /// one.
    pub fn keep(&mut self, window: &UsageWindow) {
        let UsageWindow { start_ms, end_ms, quantities, .. } = *window;
        let window = ClosedWindow { start_ms, end_ms, quantities };
        if quantities.iter().all(|quantity| *quantity == 0) {
            return;
        }
        // The system's clock was set back, and the same window has begun again.
        match self.0.iter_mut().find(|known| known.start_ms == start_ms) {
            Some(known) => known.append(&window),
            None => self.0.push_back(window),
        }
        while self.0.len() > CLOSED_MAX {
            let Some(oldest) = self.0.pop_front() else { return };
            if let Some(next) = self.0.front_mut() {
                next.append(&oldest);
            }
        }
    }

    /// Forgets the windows that end by `end_ms`. Returns their number.
    pub fn forget(&mut self, end_ms: u64) -> usize {
        let before = self.0.len();
        self.0.retain(|window| window.end_ms > end_ms);
        before - self.0.len()
    }

    pub fn windows(&self, database: &str) -> Vec<UsageWindow> {
        let window = |&ClosedWindow { start_ms, end_ms, quantities }: &ClosedWindow| UsageWindow {
            database: database.to_string(),
            start_ms,
            end_ms,
            quantities,
        };
        self.0.iter().map(window).collect()
    }
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

impl UsageWindow {
    pub fn quantity(&self, meter: Meter) -> u128 {
        self.quantities[meter as usize]
    }

    /// Returns one event for each meter that counted something.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        let used = Meter::ALL.into_iter().zip(self.quantities).filter(|(_, quantity)| *quantity != 0);
        used.map(|(meter, quantity)| Event {
            id: format!("{}:{}:{}", self.database, meter.name(), self.start_ms / 1000),
            meter,
            quantity: quantity.to_string(),
        })
    }
}

/// The open window: its start, and the meters at that time.
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

    /// Whether its end has come. Also true if it starts more than its length in the future, because the clock was set
    /// back since.
    pub fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.end_ms() || now_ms.saturating_add(self.length_ms) < self.start_ms
    }

    fn end_ms(&self) -> u64 {
        self.start_ms.saturating_add(self.length_ms)
    }

    /// Closes it. If its end is long past, it ends where the next one begins.
    pub fn closed(&self, database: &str, now_ms: u64, totals: &Totals) -> UsageWindow {
        let end_ms = self.end_ms().max(now_ms - now_ms % self.length_ms);
        UsageWindow { end_ms, ..self.window(database, totals) }
    }

    pub fn window(&self, database: &str, totals: &Totals) -> UsageWindow {
        let mut quantities = totals.meters;
        for (quantity, at_start) in quantities.iter_mut().zip(self.at_start) {
            *quantity = quantity.saturating_sub(at_start);
        }
        let end_ms = self.end_ms();
        UsageWindow { database: database.to_string(), start_ms: self.start_ms, end_ms, quantities }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::DATABASE_NAME_LEN_MAX;

    #[test]
    fn bytes_are_integrated_over_time() {
        let at = |unix_ms| Moment { unix_ms, steady_ms: None };
        let mut time = ByteTime { at: at(1000), ..ByteTime::default() };
        for (now_ms, bytes, total) in [
            (1500, 10, 0),
            (1501, 20, 10),
            (1501, 30, 10),
            (1400, 40, 10), // the clock went back: nothing elapsed
            (1503, 0, 90),
            (9999, 5, 90),
        ] {
            time.observe(at(now_ms), bytes);
            assert_eq!(time.byte_milliseconds, total, "at {now_ms}");
        }
        time.observe(at(10_000), u64::MAX);
        time.observe(at(u64::MAX), u64::MAX);
        assert!(time.byte_milliseconds > u128::from(u64::MAX));
    }

    #[test]
    fn a_system_clock_that_is_set_bills_nothing() {
        let mut time = ByteTime { at: Moment { unix_ms: 1000, steady_ms: None }, bytes: 10, ..ByteTime::default() };
        for (unix_ms, steady_ms, total) in [
            // Over the restart only the system's clock is known.
            (2000, 50, 10_000),
            (3000, 1050, 20_000),
            (9_999_999, 1060, 20_100), // set forward
            (5, 1070, 20_200),         // set back
            (15, 1080, 20_300),
        ] {
            time.advance(Moment { unix_ms, steady_ms: Some(steady_ms) });
            assert_eq!(time.byte_milliseconds, total, "at {unix_ms}");
        }
        assert_eq!(time.at.unix_ms, 15);
        let totals = Totals::default();
        let ahead = OpenWindow::new(3_600_000, 400 * 3_600_000, &totals);
        assert!(!ahead.is_over(399 * 3_600_000) && ahead.is_over(398 * 3_600_000));
    }

    #[test]
    fn windows_are_kept_until_they_are_taken() {
        let mut closed = Closed::default();
        let window = |hour: u64, requests: u128| {
            let mut totals = Totals::default();
            totals[Meter::Requests] = requests;
            OpenWindow::new(1000, hour * 1000, &Totals::default()).window("shop", &totals)
        };
        closed.keep(&window(0, 0));
        assert_eq!(closed.0.len(), 0, "nothing was used in it");
        let hours = 2 * CLOSED_MAX as u64;
        (1..=hours).for_each(|hour| closed.keep(&window(hour, 1)));
        let windows = closed.windows("shop");
        assert_eq!(windows.len(), CLOSED_MAX);
        let requests =
            |windows: &[UsageWindow]| windows.iter().map(|window| window.quantity(Meter::Requests)).sum::<u128>();
        assert_eq!(requests(&windows), u128::from(hours), "none is lost");
        let first = &windows[0];
        assert_eq!((first.start_ms, first.end_ms), (1000, windows[1].start_ms));
        assert_eq!(first.quantity(Meter::Requests), u128::from(hours) - CLOSED_MAX as u128 + 1);
        // The clock was set back.
        closed.keep(&window(hours, 5));
        assert_eq!((closed.0.len(), requests(&closed.windows("shop"))), (CLOSED_MAX, u128::from(hours) + 5));
        assert_eq!(closed.forget(first.end_ms - 1), 0);
        assert_eq!(closed.forget(windows[1].end_ms), 2);
        assert_eq!(closed.windows("shop")[0], windows[2]);
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
