//! Usage over time: quantities that last, and the windows that bills consist of.

use std::collections::VecDeque;

use super::totals::{METERS, Meter, Totals};

/// Most closed windows of one database that wait for the ledger one by one; beyond that the oldest two are merged.
pub const CLOSED_MAX: usize = 72;
const SECOND_MS: u64 = 1000;
const DAY_MS: u64 = 24 * 3_600_000;

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

/// Usage of a database in one window of time.
///
/// Windows begin and end at whole seconds: each begins where the one before ended, and ends at the next full minute of Unix
/// time. It is longer if the server did not run at its end, or if the ledger could not take it for so long that it was
/// merged with the next. Each count falls into exactly one.
///
/// Invariant: two windows of a database that were closed never have the same era and start. An era ends when the system's
/// clock is set back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageWindow {
    pub database: String,
    pub era: u32,
    pub start_ms: u64,
    pub end_ms: u64,
    pub(super) quantities: [u128; METERS],
}

/// The closed windows that the ledger does not have yet, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Closed {
    pub windows: VecDeque<ClosedWindow>,
    /// How many of the first were offered to the ledger. It may have them, so they do not change any more.
    pub offered: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClosedWindow {
    pub era: u32,
    pub start_ms: u64,
    pub end_ms: u64,
    pub quantities: [u128; METERS],
}

impl ClosedWindow {
    fn append(&mut self, other: &Self) {
        self.end_ms = other.end_ms;
        for (sum, more) in self.quantities.iter_mut().zip(other.quantities) {
            *sum = sum.saturating_add(more);
        }
    }

    /// Whether nothing happened in it: the store has only gone on keeping the data.
    fn is_idle(&self) -> bool {
        is_idle(&self.quantities)
    }
}

/// Whether only the bytes in the store were counted.
pub(super) fn is_idle(quantities: &[u128; METERS]) -> bool {
    let mut others = *quantities;
    others[Meter::StoreByteMilliseconds as usize] = 0;
    others == [0; METERS]
}

impl Closed {
    /// Keeps a window until the ledger has it. Idle windows of a day become one.
    pub fn keep(&mut self, window: &UsageWindow) {
        let UsageWindow { era, start_ms, end_ms, quantities, .. } = *window;
        let window = ClosedWindow { era, start_ms, end_ms, quantities };
        if quantities.iter().all(|quantity| *quantity == 0) {
            return;
        }
        let may_grow = self.windows.len() > self.offered;
        match self.windows.back_mut().filter(|_| may_grow) {
            Some(last)
                if last.is_idle()
                    && window.is_idle()
                    && (last.era, last.end_ms) == (era, start_ms)
                    && last.start_ms / DAY_MS == start_ms / DAY_MS =>
            {
                last.append(&window);
            }
            _ => self.windows.push_back(window),
        }
        // None is lost when there are too many.
        while self.windows.len() - self.offered > CLOSED_MAX {
            let Some(second) = self.windows.remove(self.offered + 1) else { return };
            self.windows[self.offered].append(&second);
        }
    }

    /// Whether there is something that the ledger should have now. Idle windows wait for the next use.
    pub fn is_due(&self) -> bool {
        self.offered > 0 || self.windows.iter().any(|window| !window.is_idle())
    }

    /// The windows to write: those that were offered before, or else all.
    pub fn offer(&mut self, database: &str) -> Vec<UsageWindow> {
        if self.offered == 0 {
            self.offered = self.windows.len();
        }
        self.windows(database).into_iter().take(self.offered).collect()
    }

    /// Forgets what was offered: the ledger has it. Returns the era and the end of the last of them.
    pub fn taken(&mut self) -> Option<(u32, u64)> {
        let offered = std::mem::take(&mut self.offered);
        self.windows.drain(..offered).next_back().map(|window| (window.era, window.end_ms))
    }

    pub fn windows(&self, database: &str) -> Vec<UsageWindow> {
        let window = |&ClosedWindow { era, start_ms, end_ms, quantities }: &ClosedWindow| UsageWindow {
            database: database.to_string(),
            era,
            start_ms,
            end_ms,
            quantities,
        };
        self.windows.iter().map(window).collect()
    }
}

/// One quantity of a window, as billing systems take it (CloudEvents 1.0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `<database>:<meter>:<start of the window in Unix seconds>`, at most 100 characters. Unless the era is 0, the last part
    /// is `<start>.<era>` in base 36, which takes no more.
    pub id: String,
    pub meter: Meter,
    /// A decimal number.
    pub quantity: String,
}

impl UsageWindow {
    /// A window with these meters by number. Those that this version does not know are left out.
    pub fn of(database: &str, era: u32, start_ms: u64, end_ms: u64, quantities: &[(u32, u128)]) -> Self {
        let mut known = [0; METERS];
        for &(meter, quantity) in quantities {
            if let Some(known) = usize::try_from(meter).ok().and_then(|meter| known.get_mut(meter)) {
                *known = quantity;
            }
        }
        Self { database: database.to_owned(), era, start_ms, end_ms, quantities: known }
    }

    /// The meters that counted something, by number.
    pub fn numbered(&self) -> Vec<(u32, u128)> {
        let all = self.quantities.iter().enumerate();
        all.filter(|(_, quantity)| **quantity != 0).map(|(meter, quantity)| (meter as u32, *quantity)).collect()
    }

    /// Adds what another window of the same database has counted.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.quantities.iter_mut().zip(other.quantities) {
            *sum = sum.saturating_add(more);
        }
    }

    /// Adds a window that has followed it.
    pub fn append(&mut self, other: &Self) {
        self.add(other);
        self.end_ms = self.end_ms.max(other.end_ms);
    }

    pub fn quantity(&self, meter: Meter) -> u128 {
        self.quantities[meter as usize]
    }

    /// Returns one event for each meter that counted something.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        let used = Meter::ALL.into_iter().zip(self.quantities).filter(|(_, quantity)| *quantity != 0);
        let start_s = self.start_ms / SECOND_MS;
        let moment = match self.era {
            0 => start_s.to_string(),
            era => format!("{}.{}", base_36(start_s), base_36(era.into())),
        };
        used.map(move |(meter, quantity)| Event {
            id: format!("{}:{}:{moment}", self.database, meter.name()),
            meter,
            quantity: quantity.to_string(),
        })
    }
}

/// Returns the era in the id of an event.
pub fn era_of(id: &str) -> u32 {
    let moment = id.rsplit_once(':').map_or(id, |(_, moment)| moment);
    moment.split_once('.').and_then(|(_, era)| u32::from_str_radix(era, 36).ok()).unwrap_or(0)
}

fn base_36(number: u64) -> String {
    let (mut digits, mut rest) = (Vec::new(), number);
    while rest > 0 || digits.is_empty() {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize] as char);
        rest /= 36;
    }
    digits.into_iter().rev().collect()
}

/// The open window: its start, and the meters at that time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenWindow {
    pub length_ms: u64,
    pub era: u32,
    pub start_ms: u64,
    pub at_start: [u128; METERS],
}

impl OpenWindow {
    /// The first window. It begins now, so a database has other windows than an earlier one of its name.
    pub fn new(length_ms: u64, now_ms: u64, totals: &Totals) -> OpenWindow {
        // Whole seconds, because ids name a window by its second.
        let length_ms = length_ms.max(1).next_multiple_of(SECOND_MS);
        OpenWindow { length_ms, era: 0, start_ms: now_ms - now_ms % SECOND_MS, at_start: totals.meters }
    }

    /// Whether its end has come. Also true if the clock was set back since it began, by more than its length.
    pub fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.end_ms() || self.is_ahead(now_ms)
    }

    fn is_ahead(&self, now_ms: u64) -> bool {
        now_ms.saturating_add(self.length_ms) < self.start_ms
    }

    pub fn end_ms(&self) -> u64 {
        (self.start_ms - self.start_ms % self.length_ms).saturating_add(self.length_ms)
    }

    /// Closes it and begins the next one, of `length_ms`. If its end is long past, it ends where the next one begins.
    pub fn close(&mut self, database: &str, length_ms: u64, now_ms: u64, totals: &Totals) -> UsageWindow {
        let is_ahead = self.is_ahead(now_ms);
        let end_ms = if is_ahead { self.end_ms() } else { self.end_ms().max(now_ms - now_ms % length_ms) };
        self.end_at(database, end_ms, totals, length_ms, is_ahead.then_some(now_ms - now_ms % SECOND_MS))
    }

    /// Closes it before its time is over, for a database that is deleted.
    pub fn close_early(&mut self, database: &str, now_ms: u64, totals: &Totals) -> UsageWindow {
        let end_ms = now_ms.next_multiple_of(SECOND_MS).max(self.start_ms + SECOND_MS);
        self.end_at(database, end_ms, totals, self.length_ms, None)
    }

    /// `set_back_ms`: the start of the next window, if it comes before this one.
    fn end_at(
        &mut self,
        database: &str,
        end_ms: u64,
        totals: &Totals,
        length_ms: u64,
        set_back_ms: Option<u64>,
    ) -> UsageWindow {
        let closed = UsageWindow { end_ms, ..self.window(database, totals) };
        let era = self.era + u32::from(set_back_ms.is_some());
        *self = Self { length_ms, era, start_ms: set_back_ms.unwrap_or(end_ms), at_start: totals.meters };
        closed
    }

    pub fn is_idle(&self, totals: &Totals) -> bool {
        is_idle(&self.window("", totals).quantities)
    }

    pub fn window(&self, database: &str, totals: &Totals) -> UsageWindow {
        let mut quantities = totals.meters;
        for (quantity, at_start) in quantities.iter_mut().zip(self.at_start) {
            *quantity = quantity.saturating_sub(at_start);
        }
        let (era, start_ms, end_ms) = (self.era, self.start_ms, self.end_ms());
        UsageWindow { database: database.to_string(), era, start_ms, end_ms, quantities }
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

    fn counted(meter: Meter, quantity: u128) -> Totals {
        let mut totals = Totals::default();
        totals[meter] = quantity;
        totals
    }

    /// A window of a minute in which `meter` has counted `quantity`.
    fn minute(number: u64, meter: Meter, quantity: u128) -> UsageWindow {
        OpenWindow::new(60_000, number * 60_000, &Totals::default()).window("shop", &counted(meter, quantity))
    }

    fn requests(windows: &[UsageWindow]) -> u128 {
        windows.iter().map(|window| window.quantity(Meter::Requests)).sum()
    }

    #[test]
    fn windows_are_kept_until_the_ledger_has_them() {
        let mut closed = Closed::default();
        closed.keep(&minute(0, Meter::Requests, 0));
        assert!(closed.windows.is_empty(), "nothing was used in it");
        (1..=10).for_each(|number| closed.keep(&minute(number, Meter::Requests, 1)));
        // The ledger may have these now, so they stay as they are.
        let offered = closed.offer("shop");
        assert_eq!(offered, (1..=10).map(|number| minute(number, Meter::Requests, 1)).collect::<Vec<_>>());
        let more = 2 * CLOSED_MAX as u64;
        (11..=10 + more).for_each(|number| closed.keep(&minute(number, Meter::Requests, 1)));
        assert_eq!(closed.offer("shop"), offered);
        let windows = closed.windows("shop");
        assert_eq!((windows.len(), requests(&windows)), (10 + CLOSED_MAX, u128::from(10 + more)), "none is lost");
        let merged = &windows[10];
        assert_eq!((merged.start_ms, merged.end_ms), (11 * 60_000, windows[11].start_ms));
        assert_eq!(merged.quantity(Meter::Requests), u128::from(more) - CLOSED_MAX as u128 + 1);
        assert_eq!(closed.taken(), Some((0, 11 * 60_000)));
        assert_eq!(closed.windows("shop"), windows[10..]);
        assert_eq!(closed.offer("shop"), windows[10..]);
        assert_eq!((closed.taken(), closed.taken()), (Some((0, (11 + more) * 60_000)), None));
    }

    #[test]
    fn idle_windows_of_a_day_become_one_and_wait() {
        let mut closed = Closed::default();
        let day = DAY_MS / 60_000;
        (day - 2..day + 3).for_each(|number| closed.keep(&minute(number, Meter::StoreByteMilliseconds, 7)));
        let found: Vec<_> =
            closed.windows.iter().map(|window| (window.start_ms / 60_000, window.end_ms / 60_000)).collect();
        assert_eq!(found, [(day - 2, day), (day, day + 3)]);
        assert!(!closed.is_due());
        closed.keep(&minute(day + 3, Meter::Requests, 1));
        assert!(closed.is_due());
        assert_eq!(closed.offer("shop").len(), 3);
        closed.keep(&minute(day + 4, Meter::StoreByteMilliseconds, 7));
        assert_eq!((closed.offer("shop").len(), closed.windows.len()), (3, 4));
        closed.taken();
        assert!(!closed.is_due());
    }

    #[test]
    fn windows_follow_each_other_whatever_the_clock_does() {
        let mut totals = Totals::default();
        let mut open = OpenWindow::new(60_000, 90_500, &totals);
        let mut next = |now_ms: u64| {
            totals[Meter::Requests] += 1;
            let window = open.is_over(now_ms).then(|| open.close("shop", 60_000, now_ms, &totals))?;
            Some((window.era, window.start_ms / 1000, window.end_ms / 1000, window.quantity(Meter::Requests)))
        };
        assert_eq!(next(119_999), None);
        assert_eq!(next(120_001), Some((0, 90, 120, 2)));
        assert_eq!(next(119_000), None, "a small step back");
        assert_eq!(next(185_000), Some((0, 120, 180, 2)));
        assert_eq!(next(7_200_001), Some((0, 180, 7_200, 1)), "set forward, or the server did not run");
        assert_eq!(next(3_601_500), Some((0, 7_200, 7_260, 1)), "set back");
        assert_eq!(next(3_660_000), Some((1, 3_601, 3_660, 1)));
        assert_eq!(next(3_720_000), Some((1, 3_660, 3_720, 1)));
        assert_eq!(next(100), Some((1, 3_720, 3_780, 1)));
        assert_eq!(next(60_000), Some((2, 0, 60, 1)));
    }

    #[test]
    fn the_windows_of_a_deleted_database_are_not_those_of_the_next() {
        let totals = Totals::default();
        let mut open = OpenWindow::new(60_000, 100_100, &totals);
        let window = open.close_early("shop", 100_200, &totals);
        assert_eq!((window.start_ms, window.end_ms, open.start_ms), (100_000, 101_000, 101_000));
        assert_eq!(open.close_early("shop", 130_001, &totals).end_ms, 131_000);
    }

    #[test]
    fn event_ids_fit_and_are_repeatable() {
        let mut totals = Totals::default();
        let mut open = OpenWindow::new(3_600_000, 1_700_000_123_456, &totals);
        assert!(!open.is_over(1_700_000_123_456));
        assert!(open.is_over(open.start_ms + 3_600_000));
        for meter in Meter::ALL {
            totals[meter] = u128::MAX;
        }
        // More than the clock of any machine is set back.
        open.era = 36 * 36 * 36 - 1;
        let window = open.window(&"d".repeat(DATABASE_NAME_LEN_MAX), &totals);
        assert_eq!((window.start_ms, window.end_ms), (1_700_000_123_000, 1_700_002_800_000));
        assert_eq!(window.events().count(), METERS);
        for event in window.events() {
            assert!(event.id.len() <= 100, "{} has {} characters", event.id, event.id.len());
            assert_eq!(event.quantity, u128::MAX.to_string());
        }
        let mut other = OpenWindow::new(3_600_000, 1_700_000_999_999, &totals);
        assert_eq!(other.window("shop", &totals).events().count(), 0);
        other.at_start = [0; METERS];
        assert_eq!(other.window("shop", &totals).events().next().unwrap().id, "shop:requests:1700000999");
        other.era = 3;
        let window = other.window("shop", &totals);
        let id = window.events().next().unwrap().id;
        assert_eq!((&*id, era_of(&id)), ("shop:requests:s44x5z.3", 3));
        assert_eq!((era_of("shop.pr-1:requests:1700000999"), era_of("shop.pr-1:requests:s44x5z.zzz")), (0, 46_655));
        assert_eq!(UsageWindow::of("shop", 3, window.start_ms, window.end_ms, &window.numbered()), window);
    }
}
