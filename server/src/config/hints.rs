//! Parameters that tune Redis's internals without an effect visible to clients: how often it looks for expired keys,
//! how it compresses lists, whether it frees memory in another thread. Dormouse does not use them. It accepts them
//! within Redis's ranges, keeps them for their database and shows them again, so that tools and test suites that set
//! them keep working.
//!
//! A parameter that promises something is not among them.

use std::collections::BTreeMap;

use dormouse_storage::log::Window;

use super::{Parameter, Settings, number};

/// Values that were set, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints(BTreeMap<&'static str, String>);

impl Hints {
    fn get(&self, name: &str, default: &str) -> String {
        self.0.get(name).map_or(default, String::as_str).to_string()
    }
}

/// A row for `yes` or `no`.
macro_rules! switch {
    ($name:literal, $default:literal) => {
        Parameter::database(
            $name,
            |settings| settings.database.hints.get($name, $default),
            |settings, text| {
                let value = ["yes", "no"].into_iter().find(|word| word.eq_ignore_ascii_case(text));
                let value = value.ok_or("argument must be 'yes' or 'no'")?;
                settings.database.hints.0.insert($name, value.to_string());
                Ok(())
            },
        )
    };
}

/// A row for a number within a range.
macro_rules! count {
    ($name:literal, $default:literal, $range:expr) => {
        Parameter::database(
            $name,
            |settings| settings.database.hints.get($name, $default),
            |settings, text| {
                let value: i64 = number(text, $range)?;
                settings.database.hints.0.insert($name, value.to_string());
                Ok(())
            },
        )
    };
}

/// The name of the parameter, which is also one of a command.
const SAVE: &str = "save";

/// The moments of Redis's snapshots: pairs of seconds and changes. While a database writes a log, it keeps more than any
/// snapshot would. Without one, its checkpoints have an interval of their own.
fn save_points(settings: &mut Settings, text: &str) -> Result<(), String> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let is_pair = |pair: &[&str]| {
        matches!(pair, [seconds, changes]
            if number::<i64>(seconds, 1..=i64::MAX).is_ok() && number::<i64>(changes, 0..=i64::from(i32::MAX)).is_ok())
    };
    if !words.chunks(2).all(is_pair) {
        return Err("Invalid save parameters".to_string());
    }
    if !words.is_empty() && settings.database.loss_window == Window::None {
        return Err("argument must be '' without a loss window: see checkpoint-every and loss-window".to_string());
    }
    settings.database.hints.0.insert(SAVE, words.join(" "));
    Ok(())
}

fn shown_save_points(settings: &Settings) -> String {
    match settings.database.loss_window {
        Window::None => String::new(),
        _ => settings.database.hints.get(SAVE, ""),
    }
}

pub(super) const HINTS: &[Parameter] = &[
    count!("active-expire-effort", "1", 1..=10),
    switch!("activedefrag", "no"),
    switch!("activerehashing", "yes"),
    switch!("aof-rewrite-incremental-fsync", "yes"),
    switch!("aof-use-rdb-preamble", "yes"),
    count!("auto-aof-rewrite-percentage", "100", 0..=i32::MAX as i64),
    switch!("dynamic-hz", "yes"),
    count!("hz", "10", 0..=i32::MAX as i64),
    switch!("jemalloc-bg-thread", "yes"),
    switch!("lazyfree-lazy-eviction", "no"),
    switch!("lazyfree-lazy-expire", "no"),
    switch!("lazyfree-lazy-server-del", "no"),
    switch!("lazyfree-lazy-user-del", "no"),
    switch!("lazyfree-lazy-user-flush", "no"),
    count!("list-compress-depth", "0", 0..=i32::MAX as i64),
    count!("maxmemory-eviction-tenacity", "10", 0..=100),
    switch!("no-appendfsync-on-rewrite", "no"),
    switch!("rdb-save-incremental-fsync", "yes"),
    switch!("rdbcompression", "yes"),
    Parameter::database(SAVE, shown_save_points, save_points),
    count!("tcp-keepalive", "300", 0..=i32::MAX as i64),
];
