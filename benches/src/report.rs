//! Tables: one column for each server, the ratio of Dormouse to Redis, and the target with whether it was met.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::Result;
use crate::machine::Machine;
use crate::server::{Kind, Program};

#[derive(Serialize)]
pub(crate) struct Report {
    pub measure: String,
    /// The command that reproduces these numbers.
    pub command: String,
    pub machine: Machine,
    /// Servers that were not available, with the reasons.
    pub absent: Vec<String>,
    pub tables: Vec<Table>,
}

#[derive(Serialize)]
pub(crate) struct Table {
    pub title: String,
    pub servers: Vec<Kind>,
    pub rows: Vec<Row>,
}

#[derive(Clone, Serialize)]
pub(crate) struct Row {
    pub label: String,
    pub unit: Unit,
    /// One value for each server, in the table's order; `None` if it lacks the feature.
    pub values: Vec<Option<f64>>,
    /// Dormouse relative to the target's reference, else to Redis, if both have a value.
    pub ratio: Option<f64>,
    pub target: Option<Target>,
    pub met: Option<bool>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Microseconds,
    Milliseconds,
    Bytes,
    Mebibytes,
    PerSecond,
    Percent,
    Times,
    Count,
}

/// The reference for Dormouse's value.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    Most(f64),
    Least(f64),
    /// At most this share of Redis's value in the same run.
    OfRedis(f64),
    /// At least this multiple of Redis's value in the same run.
    TimesRedis(f64),
    /// At most this share of Valkey's value in the same run.
    OfValkey(f64),
    /// At least this multiple of Valkey's value in the same run.
    TimesValkey(f64),
    /// At most this share of the lowest value of a peer in the same run.
    OfBest(f64),
    /// At least this multiple of the highest value of a peer in the same run.
    TimesBest(f64),
    /// At most this share of the value of the bare loop in the same run.
    OfLimit(f64),
}

impl Table {
    pub fn new(title: &str, programs: &[Program]) -> Self {
        let servers = programs.iter().map(|program| program.kind).collect();
        Self { title: title.to_owned(), servers, rows: Vec::new() }
    }

    /// Adds a row; `values` are in the order of the servers.
    pub fn row(&mut self, label: impl Into<String>, unit: Unit, values: Vec<Option<f64>>, target: Option<Target>) {
        let of = |kind| self.servers.iter().position(|server| *server == kind).and_then(|at| values[at]);
        let reference = match target {
            Some(Target::OfValkey(_) | Target::TimesValkey(_)) => of(Kind::Valkey),
            Some(Target::OfLimit(_)) => of(Kind::Limit),
            Some(Target::OfBest(_)) => {
                [Kind::Redis, Kind::Valkey, Kind::Redis8].into_iter().filter_map(of).min_by(f64::total_cmp)
            }
            Some(Target::TimesBest(_)) => {
                [Kind::Redis, Kind::Valkey, Kind::Redis8].into_iter().filter_map(of).max_by(f64::total_cmp)
            }
            _ => of(Kind::Redis),
        };
        let dormouse = of(Kind::Dormouse);
        let pair = reference.zip(dormouse).filter(|(reference, _)| *reference > 0.0);
        let ratio = pair.map(|(reference, dormouse)| dormouse / reference);
        let met = target.and_then(|target| target.met(dormouse, ratio));
        self.rows.push(Row { label: label.into(), unit, values, ratio, target, met });
    }

    /// Collects every row of `tables` that has a target, under the titles of their tables.
    pub fn of_targets(title: &str, tables: &[Table], programs: &[Program]) -> Self {
        let mut all = Self::new(title, programs);
        for table in tables {
            for row in table.rows.iter().filter(|row| row.target.is_some()) {
                all.rows.push(Row { label: format!("{}: {}", table.title, row.label), ..row.clone() });
            }
        }
        all
    }

    fn text(&self) -> String {
        let mut cells = vec![vec![String::new()]];
        cells[0].extend(self.servers.iter().map(|server| server.name().to_owned()));
        cells[0].extend(["ratio", "target", ""].map(str::to_owned));
        for row in &self.rows {
            let mut line = vec![row.label.clone()];
            line.extend(row.values.iter().map(|value| value.map_or("-".to_owned(), |value| row.unit.text(value))));
            line.push(row.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
            line.push(row.target.map_or(String::new(), |target| target.text(row.unit)));
            line.push(row.met.map_or("", |met| if met { "met" } else { "MISSED" }).to_owned());
            cells.push(line);
        }
        let mut text = format!("{}\n", self.title);
        text.push_str(&aligned(&cells));
        text
    }
}

impl Unit {
    fn text(self, value: f64) -> String {
        let digits = match value.abs() {
            _ if matches!(self, Unit::PerSecond | Unit::Count) => 0,
            small if small < 10.0 => 2,
            middling if middling < 1000.0 => 1,
            _ => 0,
        };
        let number = format!("{value:.digits$}");
        // A difference that rounds to zero has no sign.
        let nothing = number.trim_matches(['-', '0', '.']).is_empty();
        let number = if nothing { number.trim_start_matches('-') } else { &number };
        format!("{}{}", grouped(number), self.suffix())
    }

    fn suffix(self) -> &'static str {
        match self {
            Unit::Microseconds => " us",
            Unit::Milliseconds => " ms",
            Unit::Bytes => " B",
            Unit::Mebibytes => " MiB",
            Unit::PerSecond => "/s",
            Unit::Percent => " %",
            Unit::Times => "x",
            Unit::Count => "",
        }
    }
}

impl Target {
    fn met(self, dormouse: Option<f64>, ratio: Option<f64>) -> Option<bool> {
        match self {
            Target::Most(limit) => dormouse.map(|value| value <= limit),
            Target::Least(limit) => dormouse.map(|value| value >= limit),
            Target::OfRedis(limit) | Target::OfValkey(limit) | Target::OfBest(limit) | Target::OfLimit(limit) => {
                ratio.map(|ratio| ratio <= limit)
            }
            Target::TimesRedis(limit) | Target::TimesValkey(limit) | Target::TimesBest(limit) => {
                ratio.map(|ratio| ratio >= limit)
            }
        }
    }

    fn text(self, unit: Unit) -> String {
        match self {
            Target::Most(limit) => format!("<= {}{}", grouped(&limit.to_string()), unit.suffix()),
            Target::Least(limit) => format!(">= {}{}", grouped(&limit.to_string()), unit.suffix()),
            Target::OfRedis(limit) => format!("<= {limit:.2} of redis"),
            Target::OfValkey(limit) => format!("<= {limit:.2} of valkey"),
            Target::OfBest(limit) => format!("<= {limit:.2} of the best"),
            Target::OfLimit(limit) => format!("<= {limit:.2} of limit"),
            Target::TimesRedis(limit) => format!(">= {limit:.2} of redis"),
            Target::TimesValkey(limit) => format!(">= {limit:.2} of valkey"),
            Target::TimesBest(limit) => format!(">= {limit:.2} of the best"),
        }
    }
}

impl Report {
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.command, self.machine.summary());
        self.absent.iter().for_each(|absent| text.push_str(&format!("not measured: {absent}\n")));
        for table in &self.tables {
            text.push('\n');
            text.push_str(&table.text());
        }
        text
    }

    /// Writes `benches/record/<measure>.txt` and `.json`.
    pub fn keep(&self) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("record");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{}.txt", self.measure)), self.text())?;
        fs::write(folder.join(format!("{}.json", self.measure)), serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }
}

/// Groups thousands: `1234567.8` becomes `1,234,567.8`.
fn grouped(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    let whole = digits.split('.').next().unwrap_or(digits);
    let mut text = sign.to_owned();
    for (at, digit) in digits.char_indices() {
        if at > 0 && at < whole.len() && (whole.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Aligns lines of cells in columns: the first and the last two flush left, numbers flush right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut padded = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            if column == 0 || column + 2 >= columns {
                padded.push_str(&format!("  {cell:<width$}"));
            } else {
                padded.push_str(&format!("  {cell:>width$}"));
            }
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(values: [Option<f64>; 2], target: Target) -> Table {
        let servers = vec![Kind::Redis, Kind::Dormouse];
        let mut table = Table { title: "CPU".to_owned(), servers, rows: Vec::new() };
        table.row("SET", Unit::Microseconds, values.to_vec(), Some(target));
        table
    }

    #[test]
    fn judges_a_row() {
        for (values, target, ratio, met) in [
            ([Some(10.0), Some(8.0)], Target::OfRedis(0.88), Some(0.8), Some(true)),
            ([Some(10.0), Some(9.0)], Target::OfRedis(0.88), Some(0.9), Some(false)),
            ([None, Some(9.0)], Target::OfRedis(0.88), None, None),
            ([Some(10.0), None], Target::Most(5.0), None, None),
            ([None, Some(5.0)], Target::Most(5.0), None, Some(true)),
            ([None, Some(5.0)], Target::Least(6.0), None, Some(false)),
            ([Some(10.0), Some(15.0)], Target::TimesRedis(1.5), Some(1.5), Some(true)),
            ([Some(10.0), Some(14.0)], Target::TimesRedis(1.5), Some(1.4), Some(false)),
        ] {
            let table = table(values, target);
            assert_eq!(table.rows[0].ratio, ratio);
            assert_eq!(table.rows[0].met, met);
        }
    }

    #[test]
    fn measures_against_what_the_target_names() {
        let servers = vec![Kind::Redis, Kind::Valkey, Kind::Redis8, Kind::Limit, Kind::Dormouse];
        for (target, valkey, ratio) in [
            (Target::OfRedis(1.0), Some(4.0), Some(0.25)),
            (Target::OfValkey(1.0), Some(4.0), Some(0.5)),
            (Target::OfValkey(1.0), None, None),
            (Target::OfBest(1.0), Some(4.0), Some(0.5)),
            (Target::OfBest(1.0), None, Some(0.4)),
            (Target::OfLimit(1.0), Some(4.0), Some(2.0)),
        ] {
            let mut table = Table { title: "CPU".to_owned(), servers: servers.clone(), rows: Vec::new() };
            table.row(
                "SET",
                Unit::Microseconds,
                vec![Some(8.0), valkey, Some(5.0), Some(1.0), Some(2.0)],
                Some(target),
            );
            assert_eq!(table.rows[0].ratio, ratio);
            assert_eq!(table.rows[0].met, ratio.map(|ratio| ratio <= 1.0));
        }
        let mut table = Table { title: "jobs".to_owned(), servers, rows: Vec::new() };
        let values = vec![Some(100.0), Some(40.0), None, None, Some(50.0)];
        table.row("added", Unit::PerSecond, values, Some(Target::TimesValkey(1.2)));
        assert_eq!((table.rows[0].ratio, table.rows[0].met), (Some(1.25), Some(true)));
    }

    #[test]
    fn prints_columns() {
        let text = table([Some(1234.5), Some(8.256)], Target::Most(20000.0)).text();
        assert_eq!(
            text,
            "CPU\n          redis  dormouse  ratio  target\n  SET  1,234 us   8.26 us   0.01  <= 20,000 us  met\n"
        );
    }

    #[test]
    fn prints_numbers() {
        for (value, unit, expected) in [
            (-0.0004, Unit::Milliseconds, "0.00 ms"),
            (-0.25, Unit::Milliseconds, "-0.25 ms"),
            (12.34, Unit::Percent, "12.3 %"),
            (1234.5, Unit::Bytes, "1,234 B"),
            (5.0, Unit::Count, "5"),
        ] {
            assert_eq!(unit.text(value), expected);
        }
    }

    #[test]
    fn groups_thousands() {
        for (number, expected) in
            [("1", "1"), ("999.25", "999.25"), ("1234.5", "1,234.5"), ("-1234567", "-1,234,567"), ("100000", "100,000")]
        {
            assert_eq!(grouped(number), expected);
        }
    }
}
