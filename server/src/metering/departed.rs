//! Statistics of databases that are not in memory any more, so that those of the node never go down.

use std::collections::BTreeMap;

use super::{DatabaseMeters, Histogram, Totals};

/// Since the process started.
#[derive(Clone, Debug, Default)]
pub struct Departed {
    pub statistics: Totals,
    /// Durations of each command's calls, by its index in the table.
    pub durations: BTreeMap<usize, Histogram>,
}

impl Departed {
    /// Adds those of a database that leaves memory now.
    pub fn add(&mut self, meters: &DatabaseMeters, now_ms: u64) {
        self.statistics.add(&meters.statistics(now_ms));
        for (command, more) in meters.histograms() {
            self.durations.entry(command).or_default().add(&more);
        }
    }
}
