//! Which commands the logs of commands keep.

/// The log that a command belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    Slow,
    LargeRequest,
    LargeReply,
}

impl LogKind {
    pub const ALL: [Self; 3] = [Self::Slow, Self::LargeRequest, Self::LargeReply];

    /// Valkey's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::LargeRequest => "large-request",
            Self::LargeReply => "large-reply",
        }
    }
}

/// Which commands one log keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRule {
    /// Microseconds or bytes; negative: none.
    pub from: i64,
    pub entries_max: usize,
}

impl LogRule {
    /// The lowest value that is logged; `u64::MAX`: none is.
    pub fn lowest(self) -> u64 {
        match u64::try_from(self.from) {
            Ok(from) if self.entries_max > 0 => from,
            _ => u64::MAX,
        }
    }
}
