//! Moments as commands name them: a time to live, or the Unix time when it ends, in seconds or milliseconds.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    Seconds,
    Milliseconds,
    UnixSeconds,
    UnixMilliseconds,
}

impl TimeUnit {
    /// `EX`, `PX`, `EXAT`, `PXAT`.
    pub fn named(word: &[u8]) -> Option<Self> {
        match word {
            b"EX" => Some(Self::Seconds),
            b"PX" => Some(Self::Milliseconds),
            b"EXAT" => Some(Self::UnixSeconds),
            b"PXAT" => Some(Self::UnixMilliseconds),
            _ => None,
        }
    }

    /// The moment in Unix milliseconds that `number` means now; `None` if no `i64` is that large.
    pub fn moment(self, number: i64, now_ms: u64) -> Option<i64> {
        let scale = if matches!(self, Self::Seconds | Self::UnixSeconds) { 1000 } else { 1 };
        let base = if matches!(self, Self::Seconds | Self::Milliseconds) { now_ms as i64 } else { 0 };
        number.checked_mul(scale)?.checked_add(base)
    }
}
