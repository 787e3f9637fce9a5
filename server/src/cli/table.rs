//! Databases as a table for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// One database in a table.
#[derive(Debug, Default)]
pub struct DatabaseRow {
    pub name: String,
    pub state: String,
    /// `None`: the server has not looked.
    pub keys: Option<u64>,
    /// Whether their number may be a little off.
    pub is_estimated: bool,
    pub stored_bytes: Option<u64>,
    pub shared_bytes: Option<u64>,
    pub source: Option<String>,
    pub expires_ms: Option<u64>,
    pub problem: Option<String>,
}

/// Lines of cells, each column as wide as its widest cell.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out += cells.join("  ").trim_end();
        out.push('\n');
    }
    out
}

/// A line of headings, then one line for each database, then their problems.
pub fn table_of(databases: &[DatabaseRow], now_ms: u64) -> String {
    let mut rows = vec![["NAME", "STATE", "KEYS", "STORED", "SHARED", "SOURCE", "EXPIRES"].map(str::to_string)];
    for database in databases {
        let left = |end: u64| format!("in {}", span(Duration::from_millis(end.saturating_sub(now_ms))));
        let known = |number: Option<u64>, shown: fn(u64) -> String| number.map_or_else(|| "-".to_owned(), shown);
        rows.push([
            database.name.clone(),
            database.state.clone(),
            known(
                database.keys,
                if database.is_estimated { |keys| format!("~{keys}") } else { |keys| keys.to_string() },
            ),
            known(database.stored_bytes, size),
            known(database.shared_bytes, size),
            database.source.clone().unwrap_or_else(|| "-".to_owned()),
            database.expires_ms.map_or_else(|| "never".to_string(), left),
        ]);
    }
    let mut out = columns(&rows);
    for problem in databases.iter().filter_map(|database| database.problem.as_deref()) {
        out += problem;
        out += "\n";
    }
    out
}

/// The history of a database, as the admin API describes it, for people.
pub fn history_of(history: &Value) -> String {
    let text = |name: &str| history[name].as_str();
    let (name, kept_for) = (text("database").unwrap_or_default(), text("kept_for").unwrap_or("off"));
    let head = match kept_for {
        "off" => format!("{name} keeps no history: switch it on with `dormouse db set {name} history=24h`\n"),
        kept_for => format!("{name} keeps its history for {kept_for}\n"),
    };
    let (Some(from), Some(until)) = (text("from"), text("until")) else {
        return match kept_for {
            "off" => head,
            _ => head + "it begins with the next checkpoint\n",
        };
    };
    let number = |name: &str| history[name].as_u64().unwrap_or(0);
    let (stored, stretches) = (size(number("stored_bytes")), number("stretches"));
    let plural = if stretches == 1 { "" } else { "es" };
    format!(
        "{head}from: {from}\nuntil: now; {until} is the last checkpoint\nstored: {stored} in {stretches} stretch{plural}\n"
    )
}

/// A deleted database that can be brought back.
#[derive(Debug)]
pub struct DeletedRow {
    pub name: String,
    pub at_ms: u64,
    pub until_ms: u64,
}

/// A line of headings, then one line for each database.
pub fn deleted_table(deleted: &[DeletedRow], now_ms: u64) -> String {
    let width = deleted.iter().map(|row| row.name.len()).max().unwrap_or(0).max(4);
    let mut out = format!("{:width$}  {:12}  RECOVERABLE\n", "NAME", "DELETED");
    for DeletedRow { name, at_ms, until_ms } in deleted {
        let since = format!("{} ago", span(Duration::from_millis(now_ms.saturating_sub(*at_ms))));
        let left = match until_ms.saturating_sub(now_ms) {
            0 => "no more".to_owned(),
            left => format!("for {}", span(Duration::from_millis(left))),
        };
        out += &format!("{name:width$}  {since:12}  {left}\n");
    }
    out
}

/// Outcome of a deletion. `until_ms`: until when the database can be brought back.
pub fn told_deleted(name: &str, until_ms: Option<u64>, now_ms: u64) -> String {
    match until_ms {
        Some(until_ms) => {
            // Some of the time has passed already: `1d`, not `23h59m`.
            let left = span(Duration::from_secs(until_ms.saturating_sub(now_ms).div_ceil(1000)));
            format!("{name} is deleted; for {left} it can be brought back with: dormouse db undelete {name}\n")
        }
        None => format!("{name} is deleted\n"),
    }
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Formats bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// The two largest units of a duration.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let parts = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds % 60, "s")];
    let shown: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).take(2).map(|(count, unit)| format!("{count}{unit}")).collect();
    if shown.is_empty() { "0s".to_string() } else { shown.join("") }
}
