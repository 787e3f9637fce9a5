//! The history that a database keeps, as its newest manifest has it. [`Timeline`] says what that is.

use dormouse_storage::manifest::Timeline;

/// The history of a database as its newest manifest has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoryState {
    /// The first moment that it can be made as of, unix milliseconds; `None`: it keeps no history.
    pub from_ms: Option<u64>,
    /// What happened since is in the log, and not in the history yet. Unix milliseconds.
    pub until_ms: u64,
    /// What only the history takes in the store.
    pub bytes: u64,
    pub stretches: usize,
}

impl From<&Timeline> for HistoryState {
    fn from(timeline: &Timeline) -> Self {
        Self {
            from_ms: timeline.from_ms(),
            until_ms: timeline.until_ms,
            bytes: timeline.bytes(),
            stretches: timeline.stretches.len(),
        }
    }
}
