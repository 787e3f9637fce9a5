//! What the user sees on standard error: on a terminal one line that is drawn anew each second, else a line now and then.

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::meters::ImportMeters;

const REDRAW: Duration = Duration::from_millis(500);
const LINE: Duration = Duration::from_secs(5);

pub struct LiveProgress {
    bar: Option<ProgressBar>,
    /// When a line was last drawn, with the commands that were applied until then.
    last: Mutex<Option<(Instant, u64)>>,
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

    /// Says something that stays.
    pub fn note(&self, text: &str) {
        // Nobody is left to be told where standard error is closed.
        let print = || drop(writeln!(std::io::stderr(), "{text}"));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Shows where we are, unless that was just done.
    pub fn show(&self, meters: &ImportMeters) {
        let now = Instant::now();
        let every = if self.bar.is_some() { REDRAW } else { LINE };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *last;
        if before.is_some_and(|(at, _)| now.duration_since(at) < every) {
            return;
        }
        let commands = meters.commands.load(Ordering::Relaxed);
        *last = Some((now, commands));
        drop(last);
        let rate = before.map_or(0.0, |(at, earlier)| {
            commands.saturating_sub(earlier) as f64 / now.duration_since(at).as_secs_f64()
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

    /// Removes the line that is drawn anew.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
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
