//! `LATENCY DOCTOR` and `GRAPH`: what the events of a database tell a person.

use std::fmt::Write;

use dormouse_protocol::Reply;
use dormouse_shard::error::{Error, Result};

use crate::latency::LatencyEvent;
use crate::session::Session;

/// The graph's size, and the characters of a point from low to high within its row.
const COLUMNS: usize = 80;
const ROWS: usize = 4;
const POINTS: [char; 3] = ['_', 'o', '#'];

/// `LATENCY DOCTOR`
pub fn doctor(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let settings = session.node.settings();
    let events = session.tenant.events.all();
    reply.verbatim("txt", report(settings.latency_monitor_ms, settings.slowlog_slower_than, &events).as_bytes());
    Ok(())
}

fn report(threshold_ms: u64, slowlog_us: i64, events: &[(&'static str, LatencyEvent)]) -> String {
    let mut text = String::new();
    let mut line = |args: std::fmt::Arguments<'_>| _ = text.write_fmt(args);
    if threshold_ms == 0 {
        line(format_args!(
            "Latency monitoring is off: CONFIG SET latency-monitor-threshold <milliseconds> turns it on.\n"
        ));
    }
    if events.is_empty() {
        if threshold_ms > 0 {
            line(format_args!("No command of this database has taken {threshold_ms} ms or more.\n"));
        }
        return text;
    }
    for (name, event) in events {
        let count = event.samples.len() as u64;
        let sum: u64 = event.samples.iter().map(|(_, ms)| ms).sum();
        let average = sum / count.max(1);
        let deviation = event.samples.iter().map(|(_, ms)| ms.abs_diff(average)).sum::<u64>() / count.max(1);
        let seconds = |sample: Option<&(u64, u64)>| sample.map_or(0, |(second, _)| *second);
        let span = seconds(event.samples.back()) - seconds(event.samples.front());
        let period = span as f64 / (count.saturating_sub(1)).max(1) as f64;
        line(format_args!(
            "{name}: {count} latency spikes (average {average}ms, mean deviation {deviation}ms, period {period:.2} sec). \
             Worst all time event {}ms.\n",
            event.max_ms
        ));
    }
    if slowlog_us < 0 || threshold_ms > 0 && slowlog_us as u64 > threshold_ms * 1000 {
        line(format_args!(
            "The slow log leaves out some of these commands: CONFIG SET slowlog-log-slower-than {} shows them.\n",
            threshold_ms * 1000
        ));
    } else {
        line(format_args!("SLOWLOG GET shows the slow commands.\n"));
    }
    text
}

/// `LATENCY GRAPH event`
pub fn graph(session: &mut Session, reply: &mut Reply, (name,): (&[u8],)) -> Result<()> {
    let Some(event) = session.tenant.events.of(name).filter(|event| !event.samples.is_empty()) else {
        let name = String::from_utf8_lossy(name);
        return Err(Error::Text(format!("ERR No samples available for event '{name}'").into()));
    };
    let now_seconds = session.now_us / 1_000_000;
    reply.verbatim("txt", drawn(&String::from_utf8_lossy(name), &event, now_seconds).as_bytes());
    Ok(())
}

/// Draws a column for each sample with its age below, read downwards.
fn drawn(name: &str, event: &LatencyEvent, now_seconds: u64) -> String {
    let times = || event.samples.iter().map(|(_, ms)| *ms);
    let (low, high) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
    let mut text =
        format!("{name} - high {high} ms, low {low} ms (all time high {} ms)\n{}\n", event.max_ms, "-".repeat(COLUMNS));
    let levels = ROWS * POINTS.len();
    let level = |ms: u64| ((ms - low) as usize * levels / ((high - low).max(1) as usize)).min(levels - 1);
    let samples: Vec<(usize, String)> =
        event.samples.iter().map(|(second, ms)| (level(*ms), age(now_seconds.saturating_sub(*second)))).collect();
    for part in samples.chunks(COLUMNS) {
        for row in (0..ROWS).rev() {
            text.extend(part.iter().map(|(level, _)| match level / POINTS.len() {
                of if of == row => POINTS[level % POINTS.len()],
                of if of > row => '|',
                _ => ' ',
            }));
            text.push('\n');
        }
        let letters = part.iter().map(|(_, age)| age.len()).max().unwrap_or(0);
        text.extend(std::iter::repeat_n(' ', part.len()));
        text.push('\n');
        for at in 0..letters {
            text.extend(part.iter().map(|(_, age)| age[at..].chars().next().unwrap_or(' ')));
            text.push('\n');
        }
    }
    text
}

fn age(seconds: u64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(samples: &[(u64, u64)]) -> LatencyEvent {
        let max_ms = samples.iter().map(|(_, ms)| *ms).max().unwrap_or(0);
        LatencyEvent { samples: samples.iter().copied().collect(), max_ms }
    }

    /// The first is what Redis 7.0.15 draws.
    #[test]
    fn a_graph_has_a_column_for_each_sample() {
        let line = "-".repeat(80);
        assert_eq!(
            drawn("command", &event(&[(100, 31)]), 100),
            format!("command - high 31 ms, low 31 ms (all time high 31 ms)\n{line}\n \n \n \n_\n \n0\ns\n")
        );
        assert_eq!(
            drawn("command", &event(&[(10, 0), (20, 12), (4000, 6)]), 4010),
            format!(
                "command - high 12 ms, low 0 ms (all time high 12 ms)\n{line}\n # \n |_\n ||\n_||\n   \n111\nhh0\n  s\n"
            )
        );
    }

    #[test]
    fn a_report_says_what_to_change() {
        assert!(report(0, 10_000, &[]).starts_with("Latency monitoring is off"));
        assert_eq!(report(5, 10_000, &[]), "No command of this database has taken 5 ms or more.\n");
        let events = [("command", event(&[(10, 10), (20, 30)]))];
        let text = report(5, 10_000, &events);
        assert!(text.starts_with(
            "command: 2 latency spikes (average 20ms, mean deviation 10ms, period 10.00 sec). Worst all time event 30ms.\n"
        ));
        assert!(text.contains("slowlog-log-slower-than 5000"), "{text}");
        assert!(report(5, 1000, &events).ends_with("SLOWLOG GET shows the slow commands.\n"));
    }
}
