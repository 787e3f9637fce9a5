//! How long the transitions of all databases of the process took: for metrics.

use dormouse_storage::durations::Durations;

#[derive(Debug)]
pub struct Timings {
    /// From the first command to a database that answers.
    pub wakes: Durations,
    /// Checkpoints that have written something, those of falling asleep included.
    pub checkpoints: Durations,
}

pub static TIMINGS: Timings = Timings { wakes: Durations::new(), checkpoints: Durations::new() };
