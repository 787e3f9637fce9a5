//! The access field of a record, 24 bits about its uses: when it was last used, or last changed (LRM), or, under a policy
//! by frequency (LFU), how often it was used.
//!
//! ```text
//! seconds (24)                  wraps after 194 days
//! minutes (16) ‖ counter (8)    under a policy by frequency; the minutes wrap after 45 days
//! ```
//!
//! The counter is Redis's: logarithmic, so that 8 bits suffice. A use raises it with a probability of
//! `1 / ((counter - 5) * lfu-log-factor + 1)`, and it falls by one in each `lfu-decay-time` minutes without a use. A new
//! record begins with 5, so that it is not dropped at once.
//!
//! Records keep what they have when the policy changes, as in Redis: it takes a while until all of them tell the truth.

use dormouse_types::record::access_clock;

use super::settings::{EngineSettings, Eviction, LfuSettings};

/// The counter of a new record.
const COUNTER_FIRST: u8 = 5;

/// The change that a use makes to a record's access field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uses {
    /// The clock of the access field.
    Clock(u32),
    /// The same clock, for changes alone.
    Changes(u32),
    Frequency(Frequency),
}

/// Now, in minutes, and how counters move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frequency {
    minutes: u32,
    settings: LfuSettings,
}

impl Uses {
    pub fn new(settings: &EngineSettings, now_ms: u64) -> Self {
        match settings.eviction {
            Eviction::AllKeysLfu | Eviction::VolatileLfu => {
                Self::Frequency(Frequency { minutes: minutes(now_ms), settings: settings.lfu })
            }
            Eviction::AllKeysLrm | Eviction::VolatileLrm => Self::Changes(access_clock(now_ms)),
            _ => Self::Clock(access_clock(now_ms)),
        }
    }

    /// The access field of a new record.
    pub fn first(self) -> u32 {
        match self {
            Self::Clock(clock) | Self::Changes(clock) => clock,
            Self::Frequency(frequency) => frequency.access(COUNTER_FIRST),
        }
    }

    /// The access field after a read. `chance`: gives uniform 64 bits.
    #[inline]
    pub fn next(self, access: u32, chance: impl FnOnce() -> u64) -> u32 {
        self.written(access, false, chance)
    }

    /// The access field after a write, which may have changed nothing.
    #[inline]
    pub fn written(self, access: u32, has_changed: bool, chance: impl FnOnce() -> u64) -> u32 {
        match self {
            Self::Clock(clock) => clock,
            Self::Changes(clock) => {
                if has_changed {
                    clock
                } else {
                    access
                }
            }
            Self::Frequency(frequency) => frequency.access(frequency.raised(frequency.counter(access), chance())),
        }
    }

    /// Seconds since the last use, or since the last change where that is kept; `None`: uses are counted.
    pub fn idle_seconds(self, access: u32) -> Option<u32> {
        match self {
            Self::Clock(clock) | Self::Changes(clock) => Some(clock.wrapping_sub(access) & 0xff_ffff),
            Self::Frequency(_) => None,
        }
    }
}

impl Frequency {
    /// The access field of a record that is used now and has this counter.
    pub fn access(self, counter: u8) -> u32 {
        self.minutes << 8 | u32::from(counter)
    }

    /// The counter of a record by now.
    pub fn counter(self, access: u32) -> u8 {
        let counter = access as u8;
        let idle = self.minutes.wrapping_sub(access >> 8) & 0xffff;
        let periods = idle.checked_div(self.settings.decay_minutes).unwrap_or(0);
        counter.saturating_sub(u8::try_from(periods).unwrap_or(u8::MAX))
    }

    fn raised(self, counter: u8, chance: u64) -> u8 {
        let above = u64::from(counter.saturating_sub(COUNTER_FIRST));
        let one_in = above * u64::from(self.settings.log_factor) + 1;
        if chance.is_multiple_of(one_in) { counter.saturating_add(1) } else { counter }
    }
}

fn minutes(now_ms: u64) -> u32 {
    (now_ms / 60_000) as u32 & 0xffff
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn frequency(now_ms: u64, lfu: LfuSettings) -> Frequency {
        let settings = EngineSettings { eviction: Eviction::AllKeysLfu, lfu, ..EngineSettings::new(7) };
        match Uses::new(&settings, now_ms) {
            Uses::Frequency(frequency) => frequency,
            Uses::Clock(_) | Uses::Changes(_) => unreachable!("the policy is by frequency"),
        }
    }

    #[test]
    fn only_changes_count_under_a_policy_by_change() {
        let uses = |eviction, now_ms| Uses::new(&EngineSettings { eviction, ..EngineSettings::new(7) }, now_ms);
        for eviction in [Eviction::AllKeysLrm, Eviction::VolatileLrm] {
            let first = uses(eviction, NOW).first();
            let later = uses(eviction, NOW + 10_000);
            assert_eq!(later.next(first, || 0), first, "a read");
            assert_eq!(later.written(first, false, || 0), first, "a write without a change");
            assert_eq!(later.idle_seconds(first), Some(10));
            assert_eq!(later.idle_seconds(later.written(first, true, || 0)), Some(0));
        }
        let lru = uses(Eviction::AllKeysLru, NOW + 10_000);
        assert_eq!(lru.idle_seconds(lru.next(uses(Eviction::AllKeysLru, NOW).first(), || 0)), Some(0));
        assert_eq!(uses(Eviction::AllKeysLfu, NOW).idle_seconds(0), None);
    }

    #[test]
    fn a_counter_falls_with_time() {
        let lfu = LfuSettings { decay_minutes: 2, ..LfuSettings::REDIS };
        let access = frequency(NOW, lfu).access(100);
        for (minutes, counter) in [(0, 100), (1, 100), (2, 99), (21, 90), (200, 0), (10_000, 0)] {
            assert_eq!(frequency(NOW + minutes * 60_000, lfu).counter(access), counter, "after {minutes} minutes");
        }
        // The minutes wrap.
        let access = frequency(65_535 * 60_000, lfu).access(100);
        assert_eq!(frequency(65_537 * 60_000, lfu).counter(access), 99);
        let never = LfuSettings { decay_minutes: 0, ..lfu };
        assert_eq!(frequency(NOW + 10_000 * 60_000, never).counter(frequency(NOW, never).access(7)), 7);
    }

    /// The table in Redis's documentation: 100 uses make a counter of about 10, and 1000 of about 18, with a factor of 10.
    #[test]
    fn a_counter_grows_with_the_logarithm_of_uses() {
        let mut random = Rng::with_seed(1);
        for (factor, uses, expected) in
            [(0, 100, 105..=105), (1, 100, 15..=21), (10, 100, 7..=13), (10, 1000, 15..=21), (10, 100_000, 130..=155)]
        {
            let frequency = frequency(NOW, LfuSettings { log_factor: factor, ..LfuSettings::REDIS });
            let uses_of = Uses::Frequency(frequency);
            let access = (0..uses).fold(uses_of.first(), |access, _| uses_of.next(access, || random.u64(..)));
            let counter = frequency.counter(access);
            assert!(expected.contains(&counter), "{uses} uses with factor {factor}: {counter}");
        }
        let full = frequency(NOW, LfuSettings { log_factor: 0, ..LfuSettings::REDIS });
        assert_eq!(full.counter(Uses::Frequency(full).next(full.access(255), || 0)), 255);
    }
}
