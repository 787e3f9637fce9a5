//! The display on standard error. A terminal gets one line that is redrawn each second. Other outputs get a line while
//! something changes, and one a minute while nothing does.

use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::meters::ImportMeters;
use crate::output::print_error;

const REDRAW: Duration = Duration::from_millis(500);
const LINE: Duration = Duration::from_secs(5);
const IDLE_LINE: Duration = Duration::from_secs(60);

pub struct LiveProgress {
    bar: Option<ProgressBar>,
    last: Mutex<Option<Drawn>>,
}

/// The values of the last line.
#[derive(Clone, Copy)]
struct Drawn {
    at: Instant,
    following: bool,
    /// Commands applied until then.
    commands: u64,
    is_behind: bool,
}

impl LiveProgress {
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{spinner} {msg}").unwrap_or(ProgressStyle::default_spinner()));
            bar
        });
        LiveProgress { bar, last: Mutex::new(None) }
    }

    /// Prints a line that stays.
    pub fn note(&self, text: &str) {
        let print = || print_error(text);
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Shows the progress, unless that was just done.
    pub fn show(&self, meters: &ImportMeters) {
        let now = Instant::now();
        let every = if self.bar.is_some() { REDRAW } else { LINE };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *last;
        if before.is_some_and(|before| now.duration_since(before.at) < every) {
            return;
        }
        let drawn = Drawn {
            at: now,
            following: meters.following.load(Ordering::Relaxed),
            commands: meters.commands.load(Ordering::Relaxed),
            is_behind: meters.lag(now).is_none_or(|(bytes, _)| bytes > 0),
        };
        if self.bar.is_none() && before.is_some_and(|before| drawn.is_idle_since(before)) {
            return;
        }
        *last = Some(drawn);
        drop(last);
        let rate = before.map_or(0.0, |before| {
            drawn.commands.saturating_sub(before.commands) as f64 / now.duration_since(before.at).as_secs_f64()
        });
        let text = describe(meters, rate, now);
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.tick();
            }
            None => self.note(&text),
        }
    }

    /// Removes the redrawn line.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drawn {
    /// Whether a line would repeat the previous one, less than a minute later.
    fn is_idle_since(self, before: Self) -> bool {
        let said = |drawn: Self| (drawn.following, drawn.commands, drawn.is_behind);
        self.following && said(self) == said(before) && self.at.duration_since(before.at) < IDLE_LINE
    }
}

fn describe(meters: &ImportMeters, rate: f64, now: Instant) -> String {
    if !meters.following.load(Ordering::Relaxed) {
        let read = meters.snapshot_bytes.load(Ordering::Relaxed);
        if read == 0 {
            return "full sync: waiting for the source, which prepares its RDB".to_string();
        }
        let total = match meters.snapshot_total.load(Ordering::Relaxed) {
            0 => String::new(),
            total => format!(" of {}", BinaryBytes(total)),
        };
        let keys = HumanCount(meters.keys.load(Ordering::Relaxed));
        return format!("full sync: {}{total}, {keys} keys", BinaryBytes(read));
    }
    let commands = HumanCount(meters.commands.load(Ordering::Relaxed));
    let lag = match meters.lag(now) {
        Some((bytes, age)) => format!("behind by {} and {:.1} s", BinaryBytes(bytes), age.as_secs_f64()),
        None => "lag unknown: the source does not answer INFO".to_string(),
    };
    format!("following: {commands} commands ({rate:.0} a second), {lag}")
}
