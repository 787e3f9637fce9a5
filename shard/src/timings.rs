//! How long the transitions of databases take: for metrics, all of the process together, and for traces one by one.

use dormouse_storage::durations::Durations;

/// The target of the spans that are made for traces. No log line shows them.
pub const SPANS: &str = "dormouse::traces";

#[derive(Debug)]
pub struct Timings {
    /// From the first command to a database that answers.
    pub wakes: Durations,
    /// Checkpoints that have written something, those of falling asleep included.
    pub checkpoints: Durations,
}

pub static TIMINGS: Timings = Timings { wakes: Durations::new(), checkpoints: Durations::new() };
