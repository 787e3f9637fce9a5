//! `dormouse db usage`: what a database has used in a period, in numbers, as events, or in money.
//!
//! Both ways to a server, its own protocol and its admin API, are a [`UsageSource`]; everything else is the same for both.

use std::fmt::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Utc};
use dormouse_importer::output::{print, print_line};
use serde_json::{Map, Value, json};

use super::table::{columns, now_ms};
use crate::ledger::{DAY_MS, Period, UsageStep};
use crate::metering::prices::{Prices, money};
use crate::metering::{Meter, UsageWindow, era_of, export};
use crate::options::{Interval, check_full_name};
use crate::prefixes::{COUNT_MS_MAX, DEPTH_MAX};

/// How long requests are counted by prefix.
const COUNTED_FOR: Duration = Duration::from_secs(10);

#[derive(clap::Args, Debug)]
pub struct UsageArguments {
    /// The database [default: the token's own, or `default`]
    #[arg(value_parser = parse_name)]
    pub name: Option<String>,
    /// Show the usage after this time: a date or a time such as 2026-11-30T12:00:00Z, or a duration before now such as 7d
    /// [default: the beginning of the month, in UTC]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<Moment>,
    /// Show the usage until this time [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<Moment>,
    /// Show how often each command was called since the database was made, and how many of its requests were not billed; or
    /// count the requests of the next seconds by the prefixes of their keys
    #[arg(long, value_enum, conflicts_with_all = ["from", "to", "prices"])]
    by: Option<Breakdown>,
    /// Count by prefix for this time [default: 10s]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_time)]
    time: Option<Duration>,
    /// Parts of a key, each with its `:`, that make a prefix [default: 1]
    #[arg(long, value_name = "PARTS", value_parser = clap::value_parser!(u64).range(1..=DEPTH_MAX))]
    depth: Option<u64>,
    #[arg(long, value_enum)]
    output: Option<UsageOutput>,
    /// Estimate the cost by the prices in this file: see examples/prices
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Breakdown {
    Command,
    Prefix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum UsageOutput {
    /// For people
    Table,
    Json,
    /// One line for each meter of each minute
    Csv,
    /// The same as CloudEvents 1.0, one JSON object a line
    #[value(name = "cloudevents")]
    CloudEvents,
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    UnixMs(u64),
    /// Milliseconds before now.
    Ago(u64),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let midnight = |date: NaiveDate| date.and_hms_opt(0, 0, 0).map(|time| time.and_utc());
        let date = || midnight(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?);
        let time = || DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
        if let Some(time) = time().or_else(date) {
            let before = || format!("invalid time `{text}`: it is before 1970");
            return u64::try_from(time.timestamp_millis()).map(Self::UnixMs).map_err(|_| before());
        }
        let ago = text.strip_prefix('-').unwrap_or(text).parse::<Interval>().ok().and_then(Interval::duration);
        let ago = ago.ok_or("expected such as 2026-11-30, 2026-11-30T12:00:00Z, or 7d for seven days ago")?;
        Ok(Self::Ago(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Moment {
    fn unix_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::UnixMs(unix_ms) => unix_ms,
            Self::Ago(ms) => now_ms.saturating_sub(ms),
        }
    }
}

/// A server that can be asked for the usage of one database.
pub trait UsageSource {
    /// # Errors
    /// A text that says what is wrong.
    fn windows(&mut self, period: Period) -> Result<Vec<UsageWindow>, String>;

    /// The calls of each command, as fields by its name.
    ///
    /// # Errors
    /// A text that says what is wrong.
    fn commands(&mut self) -> Result<Value, String>;

    /// Counts requests by prefix for this time, and returns the counts as fields.
    ///
    /// # Errors
    /// A text that says what is wrong.
    fn prefixes(&mut self, time: Duration, depth: u64) -> Result<Value, String>;
}

impl UsageArguments {
    /// Whether only the present meters are asked for.
    pub fn is_plain(&self) -> bool {
        let is_of_a_period = self.from.is_some() || self.to.is_some() || self.prices.is_some();
        let is_of_a_count = self.time.is_some() || self.depth.is_some();
        !is_of_a_period && !is_of_a_count && self.by.is_none() && self.output.is_none()
    }

    /// Prints what is asked for of the database `name`.
    ///
    /// # Errors
    /// A text that says what is wrong and what to do about it.
    pub fn report(&self, name: &str, source: &mut dyn UsageSource, is_json: bool) -> Result<(), String> {
        let output = self.output.unwrap_or(if is_json { UsageOutput::Json } else { UsageOutput::Table });
        let is_of_events = matches!(output, UsageOutput::Csv | UsageOutput::CloudEvents);
        if self.by.is_some() && is_of_events {
            return Err("--by goes with the outputs table and json".to_owned());
        }
        if self.by == Some(Breakdown::Prefix) {
            let mut counts = source.prefixes(self.time.unwrap_or(COUNTED_FOR), self.depth.unwrap_or(1))?;
            counts["database"] = json!(name);
            return match output {
                UsageOutput::Json => print_line(&counts.to_string()),
                _ => print(&prefix_table(&counts)),
            };
        }
        if self.time.is_some() || self.depth.is_some() {
            return Err("--for and --depth go with --by prefix".to_owned());
        }
        if self.by == Some(Breakdown::Command) {
            let commands = source.commands()?;
            return match output {
                UsageOutput::Json => print_line(&json!({ "database": name, "commands": commands }).to_string()),
                _ => print(&command_table(&commands)),
            };
        }
        let now_ms = now_ms();
        let to_ms = self.to.map_or(now_ms, |to| to.unix_ms(now_ms));
        let from_ms = self.from.map_or_else(|| month_of(to_ms), |from| from.unix_ms(now_ms));
        if from_ms >= to_ms {
            return Err("the period must end after it begins: look at --from and --to".to_owned());
        }
        if is_of_events {
            if self.prices.is_some() {
                return Err("--prices goes with the outputs table and json".to_owned());
            }
            return self.print_events(source, (from_ms, to_ms), output);
        }
        let prices = self.prices.as_deref().map(Prices::read).transpose()?;
        let mut hours = Vec::new();
        for period in periods(from_ms, to_ms, UsageStep::Hours) {
            hours.extend(source.windows(period)?);
        }
        let mut sums = UsageWindow::of(name, 0, from_ms, to_ms, &[]);
        hours.iter().for_each(|hour| sums.add(hour));
        let estimate = prices.as_ref().map(|prices| (prices, prices.estimate(&hours, from_ms, to_ms)));
        let mut value = json!({
            "database": name,
            "from": rfc3339(from_ms),
            "to": rfc3339(to_ms),
            "meters": meters(&sums),
            "hours": hours.iter().map(|hour| json!({
                "start": rfc3339(hour.start_ms),
                "end": rfc3339(hour.end_ms),
                "meters": meters(hour),
            })).collect::<Vec<_>>(),
        });
        let but = if self.to.is_none() { ", without the minute that is not over" } else { "" };
        let (from, to) = (rfc3339(from_ms), rfc3339(to_ms));
        let mut text = format!("{name} from {from} to {to}{but}\n\n{}", meter_table(&sums));
        if let Some((Prices { currency, .. }, estimate)) = estimate {
            let mut rows = vec![["CHARGE", "METER", "QUANTITY", &format!("COST IN {currency}")].map(str::to_owned)];
            for line in &estimate.lines {
                let (quantity, cost) = (line.quantity.to_string(), money(line.cost_nano));
                rows.push([line.name.clone(), line.meter.name().to_owned(), quantity, cost]);
            }
            let total = money(estimate.total_nano);
            rows.push(["total".to_owned(), String::new(), String::new(), total.clone()]);
            // Writing to a string cannot fail.
            let _ = write!(text, "\n{}", columns(&rows));
            let lines = estimate.lines.iter().map(|line| {
                json!({
                    "charge": line.name,
                    "meter": line.meter.name(),
                    "quantity": line.quantity.to_string(),
                    "cost": money(line.cost_nano),
                })
            });
            value["cost"] = json!({ "currency": currency, "total": total, "charges": lines.collect::<Vec<_>>() });
        }
        if output == UsageOutput::Json { print_line(&value.to_string()) } else { print(&text) }
    }

    fn print_events(
        &self,
        source: &mut dyn UsageSource,
        (from_ms, to_ms): (u64, u64),
        output: UsageOutput,
    ) -> Result<(), String> {
        for (part, period) in periods(from_ms, to_ms, UsageStep::Minutes).enumerate() {
            let windows = source.windows(period)?;
            let text = match output {
                UsageOutput::Csv => export::csv(&windows),
                _ => export::cloud_events(&windows),
            };
            // The names of the fields come once.
            let names =
                if part > 0 && output == UsageOutput::Csv { text.find('\n').map_or(0, |end| end + 1) } else { 0 };
            print(&text[names..])?;
        }
        Ok(())
    }
}

/// The parts of a period that can be asked for.
fn periods(from_ms: u64, to_ms: u64, step: UsageStep) -> impl Iterator<Item = Period> {
    let length_ms = step.days_max() * DAY_MS;
    let starts = (from_ms..to_ms).step_by(usize::try_from(length_ms).unwrap_or(usize::MAX));
    starts.map(move |from_ms| Period { from_ms, to_ms: to_ms.min(from_ms.saturating_add(length_ms)), step })
}

/// A window of a reply, from its times and the ids and quantities of its events.
///
/// # Errors
/// When it is not one that this version knows.
pub fn window_of<'a>(
    database: &str,
    (start_ms, end_ms): (u64, u64),
    events: impl Iterator<Item = (&'a str, &'a str, String)>,
) -> Result<UsageWindow, String> {
    let mut era = 0;
    let mut quantities = Vec::new();
    for (id, meter, quantity) in events {
        let Some(meter) = Meter::by_name(meter) else { continue };
        let quantity =
            quantity.parse::<u128>().map_err(|_| format!("the server reported a quantity of `{quantity}`"))?;
        quantities.push((meter as u32, quantity));
        era = era_of(id);
    }
    Ok(UsageWindow::of(database, era, start_ms, end_ms, &quantities))
}

/// Reads the length of a count.
fn parse_time(text: &str) -> Result<Duration, String> {
    let time = text.parse::<Interval>()?.duration();
    let longest = Duration::from_millis(COUNT_MS_MAX);
    time.filter(|time| (Duration::from_millis(1)..=longest).contains(time))
        .ok_or_else(|| "expected at most 10m".to_owned())
}

/// Reads the full name of a database.
///
/// # Errors
/// When it is none.
pub fn parse_name(name: &str) -> Result<String, String> {
    check_full_name(name).map(|()| name.to_string())
}

/// The beginning of the month, in UTC.
fn month_of(unix_ms: u64) -> u64 {
    let time = i64::try_from(unix_ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    let first = time.and_then(|time| time.date_naive().with_day(1)?.and_hms_opt(0, 0, 0));
    first.and_then(|first| u64::try_from(first.and_utc().timestamp_millis()).ok()).unwrap_or(0)
}

fn rfc3339(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    time.map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Quantities as texts: they may be too large for numbers of JSON.
fn meters(window: &UsageWindow) -> Value {
    let meters =
        Meter::ALL.into_iter().map(|meter| (meter.name().to_owned(), json!(window.quantity(meter).to_string())));
    Value::Object(meters.collect::<Map<_, _>>())
}

fn meter_table(sums: &UsageWindow) -> String {
    let mut rows = vec![["METER", "ALL", "BILLABLE", "NOT BILLABLE"].map(str::to_owned)];
    let parts: Vec<Meter> = Meter::ALL.into_iter().filter_map(Meter::unbilled).collect();
    for meter in Meter::ALL.into_iter().filter(|meter| !parts.contains(meter)) {
        let all = sums.quantity(meter);
        let unbilled = meter.unbilled().map(|unbilled| sums.quantity(unbilled));
        let billable = unbilled.map_or_else(String::new, |unbilled| all.saturating_sub(unbilled).to_string());
        rows.push([
            meter.name().to_owned(),
            all.to_string(),
            billable,
            unbilled.map_or_else(String::new, |unbilled| unbilled.to_string()),
        ]);
    }
    columns(&rows)
}

/// The most called commands first.
fn command_table(commands: &Value) -> String {
    let number = |fields: &Value, name: &str| fields[name].as_u64().unwrap_or(0);
    let mut all: Vec<(&String, &Value)> = commands.as_object().into_iter().flatten().collect();
    all.sort_by_key(|(name, fields)| (std::cmp::Reverse(number(fields, "calls")), *name));
    let mut rows = vec![["COMMAND", "CALLS", "NOT BILLABLE", "FAILED", "REJECTED", "MICROSECONDS"].map(str::to_owned)];
    for (name, fields) in all {
        let of = |field: &str| number(fields, field).to_string();
        rows.push([name.clone(), of("calls"), of("unbilled"), of("failed"), of("rejected"), of("microseconds")]);
    }
    columns(&rows)
}

fn prefix_table(counts: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let mut rows = vec![["PREFIX", "REQUESTS", "WRITES", "LAST COMMAND", "LAST CLIENT"].map(str::to_owned)];
    for found in counts["prefixes"].as_array().into_iter().flatten() {
        let text = |name: &str| found[name].as_str().unwrap_or_default().escape_debug().to_string();
        let prefix = if text("prefix").is_empty() { "(no prefix)".to_owned() } else { text("prefix") };
        let (requests, writes) = (number(&found["requests"]), number(&found["writes"]));
        rows.push([prefix, requests.to_string(), writes.to_string(), text("command"), text("client")]);
    }
    for (name, field) in [("(other prefixes)", "others"), ("(no key)", "without_key")] {
        if number(&counts[field]) > 0 {
            rows.push([
                name.to_owned(),
                number(&counts[field]).to_string(),
                String::new(),
                String::new(),
                String::new(),
            ]);
        }
    }
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        for (text, expected) in [
            ("2026-11-30", Ok(Moment::UnixMs(1_795_996_800_000))),
            ("7d", Ok(Moment::Ago(604_800_000))),
            ("-7d", Ok(Moment::Ago(604_800_000))),
            ("1970-01-01T00:00:01Z", Ok(Moment::UnixMs(1000))),
            ("1970-01-01T01:00:01+01:00", Ok(Moment::UnixMs(1000))),
            ("1969-01-01", Err("before 1970")),
            ("yesterday", Err("expected such as")),
            ("never", Err("expected such as")),
        ] {
            match (text.parse::<Moment>(), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        assert_eq!(rfc3339(month_of(1_796_475_600_123)), "2026-12-01T00:00:00Z");
    }

    #[test]
    fn a_period_has_no_gap() {
        let day = DAY_MS;
        let parts: Vec<_> =
            periods(5, 5 + 15 * day, UsageStep::Minutes).map(|part| (part.from_ms, part.to_ms)).collect();
        assert_eq!(parts, [(5, 5 + 7 * day), (5 + 7 * day, 5 + 14 * day), (5 + 14 * day, 5 + 15 * day)]);
        assert_eq!(periods(0, 40 * day, UsageStep::Hours).count(), 1);
    }

    #[test]
    fn windows_come_back_from_their_events() {
        let window = UsageWindow::of("a.b", 3, 1000, 61_000, &[(0, 7), (5, u128::MAX)]);
        let events: Vec<_> = window.events().collect();
        let events = events.iter().map(|event| (event.id.as_str(), event.meter.name(), event.quantity.clone()));
        assert_eq!(window_of("a.b", (1000, 61_000), events), Ok(window));
    }

    #[test]
    fn prefixes_are_a_table() {
        let used = |prefix: &str, requests| json!({ "prefix": prefix, "requests": requests, "writes": 1, "command": "get", "client": "10.0.0.1:2" });
        let counts = json!({ "prefixes": [used("bull:", 7), used("", 3)], "others": 0, "without_key": 2 });
        let expected = "\
PREFIX       REQUESTS  WRITES  LAST COMMAND  LAST CLIENT
bull:        7         1       get           10.0.0.1:2
(no prefix)  3         1       get           10.0.0.1:2
(no key)     2
";
        assert_eq!(prefix_table(&counts), expected);
        assert!(parse_time("10m").is_ok() && parse_time("11m").is_err() && parse_time("never").is_err());
    }

    #[test]
    fn billable_and_not_are_shown_side_by_side() {
        let sums = UsageWindow::of("shop", 0, 0, 1000, &[(0, 7), (17, 3), (4, 12)]);
        let table = meter_table(&sums);
        assert!(table.starts_with(
            "METER                     ALL  BILLABLE  NOT BILLABLE\nrequests                  7    4         3\n"
        ));
        assert!(table.contains("\ncpu_microseconds          12\n") && !table.contains("unbilled"), "{table}");
        let commands = json!({ "get": { "calls": 2, "unbilled": 0 }, "lpop": { "calls": 9, "unbilled": 8 } });
        let expected = "\
COMMAND  CALLS  NOT BILLABLE  FAILED  REJECTED  MICROSECONDS
lpop     9      8             0       0         0
get      2      0             0       0         0
";
        assert_eq!(command_table(&commands), expected);
    }
}
