//! Hysteresis in time: a condition counts when it has held for a window and for several observations.

use serde::{Deserialize, Serialize};

/// The time and the number of observations for which a condition has held without a break.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Streak {
    pub(crate) since_ms: u64,
    pub(crate) observations: u32,
}

impl Streak {
    pub(crate) fn look(&mut self, holds: bool, now: u64) {
        if !holds {
            *self = Streak::default();
        } else if self.observations == 0 {
            *self = Streak { since_ms: now, observations: 1 };
        } else {
            self.observations = self.observations.saturating_add(1);
        }
    }

    pub(crate) fn holds(&self, window_ms: u64, observations_min: u32, now: u64) -> bool {
        self.observations >= observations_min && now.saturating_sub(self.since_ms) >= window_ms
    }
}
