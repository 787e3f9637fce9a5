//! A journal: one database's part in the node's log, and its promised loss window.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::format::{EntryKind, Identity};
use super::registry::Outstanding;
use super::trouble::{FULL, LOST, SHORT};
use super::{Log, Lsn};

/// With a loss window of zero replies wait for their flush, so that the promise holds however long that takes; beyond
/// this, new writes are refused.
const HELD_MS_MAX: u64 = 1_000;

/// Beyond this, a log is no longer taken for one that others have only given much to write.
const LAG_OF_OTHERS_MS_MAX: u64 = 10_000;

/// Bytes per millisecond of the window that may wait for the disk before writers wait too: a disk that has become slow,
/// down to 16 MB a second, then writes them within half of the window.
const BEHIND_BYTES_PER_MS: u64 = 8 << 10;
/// The same for any window: enough to keep a disk busy, and less than is kept.
const BEHIND_BYTES: (u64, u64) = (1 << 20, super::KEPT_BYTES_MAX / 2);

/// A large entry waits while more than this is not written yet: half a second of a disk that has become slow.
const CROWDED_BYTES: u64 = 8 << 20;
/// An entry of this many bytes is large.
const LARGE_ENTRY_BYTES: usize = 64 << 10;

/// Why a write is refused, as a client sees it: the code first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LogRefusal(pub String);

/// The most recent writes that a crash may lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Nothing is logged: whatever was written since the last checkpoint may be lost.
    None,
    /// No reply leaves before its write is durable.
    Zero,
    /// Milliseconds.
    Ms(u64),
}

impl Window {
    const NONE: u64 = u64::MAX;

    fn encoded(self) -> u64 {
        match self {
            Self::None => Self::NONE,
            Self::Zero => 0,
            Self::Ms(ms) => ms,
        }
    }

    /// Whether a crash may lose more.
    pub fn is_laxer_than(self, other: Self) -> bool {
        self.encoded() > other.encoded()
    }

    fn decoded(ms: u64) -> Self {
        match ms {
            Self::NONE => Self::None,
            0 => Self::Zero,
            ms => Self::Ms(ms),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zero => f.write_str("0"),
            Self::Ms(ms) if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            Self::Ms(ms) => write!(f, "{ms}ms"),
        }
    }
}

impl FromStr for Window {
    type Err = String;

    /// `0`, `none`, or a duration of at least 10 ms: `100ms`, `1s`, `2m`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("invalid loss window `{text}`: expected 0, a duration from 10ms to 1h such as 100ms, or none");
        if text.eq_ignore_ascii_case("none") {
            return Ok(Self::None);
        }
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit = match &text[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "" if number == 0 => 1,
            _ => return Err(wrong()),
        };
        match number.checked_mul(unit) {
            Some(0) => Ok(Self::Zero),
            Some(ms @ 10..=3_600_000) => Ok(Self::Ms(ms)),
            _ => Err(wrong()),
        }
    }
}

/// A second receiver of the effects of batches, beside the log: what is sent to replicas.
pub trait Tap: fmt::Debug + Send + Sync {
    /// Takes the items of an entry, made at `now_ms`. It is called under the locks of the batch, so it only takes note.
    fn entry(&self, now_ms: u64, items: &[u8]);

    /// Takes a command that changes what no entry holds: the libraries of functions.
    fn command(&self, command: &[u8]);
}

/// The receiver of the effects of a database's batches.
///
/// Invariant: recording begins, and the log's part of it ends, only under all locks of the database, so that a batch is
/// logged whole or not at all, and so that a tap gets every entry after the moment at which it was set.
#[derive(Debug)]
pub struct Journal {
    log: Option<Registration>,
    window: AtomicU64,
    /// Batches leave their effects: for the log, the tap or both.
    recording: AtomicBool,
    logging: AtomicBool,
    tapped: AtomicBool,
    tap: Mutex<Option<Arc<dyn Tap>>>,
    /// Whether the recorded effects go on from the state in the store.
    covered: AtomicBool,
    /// Whether appended bytes are counted.
    counted: AtomicBool,
    /// Bytes of effects appended to the log that no checkpoint has been told of.
    unkept: AtomicU64,
}

/// A database's number in the log, which is given back when it is dropped.
#[derive(Debug)]
struct Registration {
    log: Arc<Log>,
    number: u32,
    outstanding: Outstanding,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.log.release(self.number);
    }
}

impl Journal {
    /// For a database that is not logged.
    pub fn none() -> Self {
        Self {
            log: None,
            window: AtomicU64::new(Window::NONE),
            recording: AtomicBool::new(false),
            logging: AtomicBool::new(false),
            tapped: AtomicBool::new(false),
            tap: Mutex::new(None),
            covered: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            unkept: AtomicU64::new(0),
        }
    }

    pub fn of(log: &Arc<Log>, database: &Identity) -> Self {
        let (number, outstanding) = log.register(database);
        Self { log: Some(Registration { log: Arc::clone(log), number, outstanding }), ..Self::none() }
    }

    pub fn log(&self) -> Option<&Arc<Log>> {
        self.log.as_ref().map(|registration| &registration.log)
    }

    /// Whether this database has used up its share of the log: a batch must end, and wait for its writes.
    pub fn is_over_share(&self) -> bool {
        let Some(Registration { log, outstanding, .. }) = &self.log else { return false };
        outstanding.load(Ordering::Relaxed) > log.limits.share
    }

    pub fn window(&self) -> Window {
        Window::decoded(self.window.load(Ordering::Relaxed))
    }

    /// Declares the window. A caller that turns logging on by that must make a checkpoint too; see the engine's
    /// `checkpoint`.
    pub fn declare(&self, window: Window) {
        self.window.store(window.encoded(), Ordering::SeqCst);
    }

    /// Whether batches leave their effects.
    pub fn is_recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed)
    }

    /// Whether they go into the log.
    pub fn is_logging(&self) -> bool {
        self.logging.load(Ordering::Relaxed)
    }

    /// Lets the log have them, or not.
    pub fn record(&self, on: bool) {
        // Setting a tap at the same time must see either the one or the other.
        let _tap = self.tap.lock();
        self.logging.store(on, Ordering::SeqCst);
        self.recording.store(on || self.is_tapped(), Ordering::SeqCst);
        if !on {
            self.covered.store(false, Ordering::SeqCst);
        }
    }

    /// Whether a tap gets them.
    pub fn is_tapped(&self) -> bool {
        self.tapped.load(Ordering::Relaxed)
    }

    /// Gives the tap every entry from now on, or none any more. A tap is set under all locks.
    pub fn tap(&self, tap: Option<Arc<dyn Tap>>) {
        let mut current = self.tap.lock();
        self.tapped.store(tap.is_some(), Ordering::SeqCst);
        self.recording.store(tap.is_some() || self.is_logging(), Ordering::SeqCst);
        *current = tap;
    }

    /// Passes a command on to the tap, if there is one.
    pub fn tell_tap(&self, command: impl FnOnce() -> Vec<u8>) {
        // Workers wait for the lock, so nothing is made under it.
        let tap = self.tap.lock().clone();
        if let Some(tap) = tap {
            tap.command(&command());
        }
    }

    /// Whether a crash now would lose no more than the window: the recorded effects go on from the state in the store.
    pub fn is_covered(&self) -> bool {
        self.is_logging() && self.covered.load(Ordering::SeqCst)
    }

    pub fn cover(&self, on: bool) {
        self.covered.store(on, Ordering::SeqCst);
    }

    /// Whether replies wait until the writes that they report are durable.
    pub fn is_strict(&self) -> bool {
        self.log.is_some() && self.window.load(Ordering::Relaxed) == 0
    }

    /// Whether to wait for the entries up to `lsn`, so that writes need not be refused: so many of this database's
    /// bytes wait for the disk that the window might pass, should the disk become slow, or the log has used up half of
    /// the window. A database that has written little does not wait for what others have written before three quarters
    /// of its window.
    pub fn is_behind(&self, lsn: Lsn) -> bool {
        self.is_behind_by(lsn, Log::lag_ms_now)
    }

    fn is_behind_by(&self, lsn: Lsn, lag_ms: impl Fn(&Log) -> u64) -> bool {
        match (&self.log, self.window()) {
            (Some(Registration { log, outstanding, .. }), Window::Ms(ms)) => {
                let (least, most) = BEHIND_BYTES;
                let allowed = ms.saturating_mul(BEHIND_BYTES_PER_MS).clamp(least, most);
                let own = outstanding.load(Ordering::Relaxed);
                let patience_ms = if own > log.limits.small { ms / 2 } else { ms - ms / 4 };
                let is_crowded = lsn.saturating_sub(log.flushed()) > allowed && own > log.limits.small;
                own > allowed || is_crowded || lag_ms(log) > patience_ms
            }
            _ => false,
        }
    }

    /// The lsn up to which the log must be written before this database may append an entry of about `bytes`; `None`:
    /// it may. A large entry is not appended while much waits for the disk, so the wait of a database with small ones
    /// has a bound, however many others write large ones at the same time.
    pub fn crowded_before(&self, bytes: usize) -> Option<Lsn> {
        let Registration { log, .. } = self.log.as_ref().filter(|_| bytes >= LARGE_ENTRY_BYTES)?;
        let allowed = log.end().saturating_sub(CROWDED_BYTES);
        (allowed > log.written()).then_some(allowed)
    }

    /// As it will be at `now_ms` by the log's clock.
    #[cfg(test)]
    pub(super) fn is_behind_at(&self, now_ms: u64, lsn: Lsn) -> bool {
        self.is_behind_by(lsn, |log| log.lag_ms(now_ms))
    }

    /// Appends the effects of a batch. 0 if the log does not get them.
    pub fn append(&self, sequence: &AtomicU64, now_ms: u64, items: &[u8]) -> Lsn {
        if self.is_tapped()
            && let Some(tap) = &*self.tap.lock()
        {
            tap.entry(now_ms, items);
        }
        match &self.log {
            Some(Registration { log, number, .. }) if self.is_logging() => {
                // Workers share this line, and most databases need no count.
                if self.counted.load(Ordering::Relaxed) {
                    self.unkept.fetch_add(items.len() as u64, Ordering::Relaxed);
                }
                log.append(*number, sequence, EntryKind::Effects, now_ms, items, self.within_ms())
            }
            _ => 0,
        }
    }

    /// Counts the bytes that are appended, or not.
    pub fn count_bytes(&self, on: bool) {
        self.counted.store(on, Ordering::Relaxed);
    }

    /// Bytes of effects appended to the log since the last checkpoint, if they are counted.
    pub fn unkept_bytes(&self) -> u64 {
        self.unkept.load(Ordering::Relaxed)
    }

    /// Notes that a checkpoint covers so many bytes of them.
    pub fn keep_bytes(&self, bytes: u64) {
        self.unkept.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Records that writes before this entry were not logged.
    pub fn resume(&self, sequence: &AtomicU64, now_ms: u64) {
        match &self.log {
            Some(Registration { log, number, .. }) => {
                self.cover(false);
                log.append(*number, sequence, EntryKind::Resume, now_ms, &[], self.within_ms());
            }
            None => {
                sequence.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Records that the log goes on from entry `after`: a reader leaves out the entries in between.
    pub fn continue_after(&self, sequence: &AtomicU64, now_ms: u64, after: u64) {
        if let Some(Registration { log, number, .. }) = &self.log {
            log.append(*number, sequence, EntryKind::Continue, now_ms, &after.to_le_bytes(), self.within_ms());
        }
    }

    fn within_ms(&self) -> u64 {
        match self.window() {
            // A caller that waits asks for a flush; other writes are flushed soon all the same.
            Window::Zero => 100,
            Window::None => 1_000,
            Window::Ms(ms) => ms / 4,
        }
    }

    /// Whether everything before `lsn` is durable.
    pub fn is_durable(&self, lsn: Lsn) -> bool {
        self.log().is_none_or(|log| log.flushed() >= lsn)
    }

    /// Whether a write must be refused, as the log has fallen behind the declared window or is in trouble.
    ///
    /// # Errors
    /// The refusal, with the reason in its text.
    #[inline]
    pub fn admit(&self) -> Result<(), LogRefusal> {
        self.admit_by(Log::lag_ms_now)
    }

    #[inline]
    fn admit_by(&self, lag_ms: impl Fn(&Log) -> u64) -> Result<(), LogRefusal> {
        let Some(Registration { log, outstanding, .. }) = &self.log else { return Ok(()) };
        let sealed = log.sealed.load(Ordering::Relaxed);
        let own = outstanding.load(Ordering::Relaxed);
        let mut refusing = log.refusing.load(Ordering::Relaxed);
        if own <= log.limits.small {
            refusing &= !FULL;
        }
        let is_own_doing = own > log.limits.own;
        let allowed = match self.window.load(Ordering::Relaxed) {
            // The promise of this window needs a checkpoint, and that needs room. Its writes are in the log only during
            // one.
            Window::NONE if !sealed && !is_own_doing && refusing & SHORT == 0 => return Ok(()),
            0 => HELD_MS_MAX,
            window => window,
        };
        let lag_ms = lag_ms(log);
        if refusing == 0 && !sealed && !is_own_doing && (lag_ms <= allowed || is_lag_of_others(log, lag_ms, own)) {
            return Ok(());
        }
        Err(self.refusal(log, lag_ms, refusing, own))
    }

    /// As it will be at `now_ms` by the log's clock.
    #[cfg(test)]
    pub(super) fn admit_at(&self, now_ms: u64) -> Result<(), LogRefusal> {
        self.admit_by(|log| log.lag_ms(now_ms))
    }

    #[cold]
    fn refusal(&self, log: &Log, lag_ms: u64, refusing: u8, own: u64) -> LogRefusal {
        let why = log.problem();
        let text = match why {
            Some(why) if refusing & (SHORT | LOST) != 0 => {
                format!("MISCONF the log cannot be written: {why}: writes are refused until that is over")
            }
            why if own > log.limits.own => {
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                format!(
                    "MISCONF {} MiB of this database wait for the log: writes are refused until the store has caught up{why}",
                    own >> 20
                )
            }
            why => {
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                format!(
                    "MISCONF the log is {lag_ms} ms behind and the loss window of this database is {}: writes are refused \
                     until the store has caught up{why}",
                    self.window()
                )
            }
        };
        LogRefusal(text)
    }
}

/// Whether the log lags because other databases have written much, and not because of the disk. The replies of a database
/// that has written little then wait for their flush, as with a loss window of zero, so it promises no more by writing on.
#[cold]
fn is_lag_of_others(log: &Log, lag_ms: u64, own: u64) -> bool {
    let others = log.end().saturating_sub(log.flushed()).saturating_sub(own);
    lag_ms <= LAG_OF_OTHERS_MS_MAX && own <= log.limits.small && others > CROWDED_BYTES && log.problem.lock().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_and_written() {
        for (text, window, shown) in [
            ("0", Some(Window::Zero), "0"),
            ("none", Some(Window::None), "none"),
            ("NONE", Some(Window::None), "none"),
            ("1s", Some(Window::Ms(1000)), "1s"),
            ("1500ms", Some(Window::Ms(1500)), "1500ms"),
            ("2m", Some(Window::Ms(120_000)), "120s"),
            ("0s", Some(Window::Zero), "0"),
            ("5ms", None, ""),
            ("5", None, ""),
            ("2h", None, ""),
            ("", None, ""),
            ("s", None, ""),
            ("-1s", None, ""),
            ("99999999999999999999s", None, ""),
        ] {
            assert_eq!(text.parse::<Window>().ok(), window, "{text}");
            if let Some(window) = window {
                assert_eq!(window.to_string(), shown);
                assert_eq!(Window::decoded(window.encoded()), window);
            }
        }
    }
}
