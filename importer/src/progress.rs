//! Progress of a tool: a bar with rates on a terminal, else nothing until the summary.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};

use crate::output::{counted, print_error};

const TICK: Duration = Duration::from_millis(100);

/// A display on standard error, so that data may go to standard output.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// Starts a display. `total`: the number of bytes, if known. `what`: the activity.
    pub fn new(what: &'static str, total: Option<u64>) -> Self {
        // The bar hides by itself if standard error is not a terminal.
        let bar = ProgressBar::no_length();
        if let Some(total) = total {
            bar.set_length(total);
        }
        let template = if total.is_some() {
            "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg} {eta}"
        } else {
            "{prefix} {spinner} {bytes} {bytes_per_sec} {msg}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        if std::io::stderr().is_terminal() {
            bar.enable_steady_tick(TICK);
        }
        Progress { bar, started: Instant::now() }
    }

    pub fn at(&self, bytes: u64, keys: u64) {
        self.bar.set_position(bytes);
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{} keys, {}", HumanCount(keys), self.rate(keys)));
        }
    }

    /// Shows bytes where there are no keys to count.
    pub fn at_bytes(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Marks the end of reading. The rest is counted in keys.
    pub fn writing(&self, keys: u64) {
        self.bar.set_prefix("writing");
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{} keys written", HumanCount(keys)));
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn note(&self, line: &str) {
        self.bar.suspend(|| print_error(line));
    }

    /// Returns a summary such as `1,000 keys, 2 MiB, in 3 seconds (333 keys/s)`.
    pub fn summary(&self, keys: u64, bytes: u64) -> String {
        self.bar.finish_and_clear();
        let took = self.started.elapsed();
        let took = if took < Duration::from_secs(10) {
            format!("{:.2} seconds", took.as_secs_f64())
        } else {
            HumanDuration(took).to_string()
        };
        format!("{}, {}, in {took} ({})", counted(keys, "key"), HumanBytes(bytes), self.rate(keys))
    }

    fn rate(&self, keys: u64) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        format!("{} keys/s", HumanCount((keys as f64 / seconds) as u64))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
