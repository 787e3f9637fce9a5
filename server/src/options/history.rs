//! The history of a database: for how long it is kept, and moments in it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::DateTime;

use super::values::Interval;

const SPAN_MS_MIN: u64 = 60_000;
const SPAN_MS_MAX: u64 = 31 * 24 * 3_600_000;

/// The most characters of a malformed time that an error repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// For how long a database keeps its history: `off`, or a duration from 1m to 31d.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistorySpan(Option<Duration>);

impl HistorySpan {
    /// Milliseconds; 0: off.
    pub fn milliseconds(self) -> u64 {
        self.0.map_or(0, |span| Interval::Every(span).milliseconds())
    }
}

impl FromStr for HistorySpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self(None));
        }
        let span = text.parse::<Interval>().ok().and_then(Interval::duration);
        let is_allowed = |span: &Duration| (SPAN_MS_MIN..=SPAN_MS_MAX).contains(&Interval::Every(*span).milliseconds());
        match span.filter(is_allowed) {
            Some(span) => Ok(Self(Some(span))),
            None => Err("expected `off`, or a duration from 1m to 31d such as 24h".to_owned()),
        }
    }
}

impl fmt::Display for HistorySpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(span) => Interval::Every(span).fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// A moment as users write it: `2026-11-27T12:00:00Z`, or `-1h` for an hour ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastMoment {
    text: String,
    when: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Unix milliseconds.
    At(u64),
    /// Milliseconds.
    Ago(u64),
}

impl PastMoment {
    /// Unix milliseconds.
    pub fn at_ms(&self, now_ms: u64) -> u64 {
        match self.when {
            When::At(at_ms) => at_ms,
            When::Ago(ms) => now_ms.saturating_sub(ms),
        }
    }
}

impl FromStr for PastMoment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || {
            let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
            let shown = shown.escape_default();
            format!("invalid time `{shown}`: expected one such as 2026-11-27T12:00:00Z, or -30s, -5m, -1h or -2d")
        };
        let when = match text.strip_prefix('-') {
            Some(ago) => match ago.parse() {
                Ok(Interval::Every(ago)) => When::Ago(Interval::Every(ago).milliseconds()),
                _ => return Err(malformed()),
            },
            None => {
                let time = DateTime::parse_from_rfc3339(text).map_err(|_| malformed())?;
                When::At(u64::try_from(time.timestamp_millis()).map_err(|_| malformed())?)
            }
        };
        Ok(Self { text: text.to_owned(), when })
    }
}

impl fmt::Display for PastMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, expected) in [
            ("off", Some((0, "off"))),
            ("OFF", Some((0, "off"))),
            ("24h", Some((86_400_000, "1d"))),
            ("1m", Some((60_000, "1m"))),
            ("31d", Some((2_678_400_000, "31d"))),
            ("59s", None),
            ("32d", None),
            ("0", None),
            ("never", None),
            ("-1h", None),
            ("", None),
        ] {
            let span = text.parse::<HistorySpan>();
            let shown = span.as_ref().ok().map(|span| (span.milliseconds(), span.to_string()));
            assert_eq!(shown.as_ref().map(|(ms, shown)| (*ms, shown.as_str())), expected, "{text:?}");
            if let Err(problem) = span {
                assert!(problem.contains("24h"), "{problem}");
            }
        }
    }

    #[test]
    fn moments() {
        const NOW_MS: u64 = 1_795_780_800_000;
        for (text, expected) in [
            ("2026-11-27T12:00:00Z", Some(NOW_MS)),
            ("2026-11-27T13:00:00+01:00", Some(NOW_MS)),
            ("2026-11-27T12:00:00.250Z", Some(NOW_MS + 250)),
            ("-1h", Some(NOW_MS - 3_600_000)),
            ("-30s", Some(NOW_MS - 30_000)),
            ("-1h30m", Some(NOW_MS - 5_400_000)),
            ("-90d", Some(NOW_MS - 90 * 86_400_000)),
            ("-40000d", None),
            ("1h", None),
            ("-", None),
            ("-0s", None),
            ("-never", None),
            ("--1h", None),
            ("yesterday", None),
            ("2026-11-27", None),
            ("2026-11-27T12:00:00", None),
            ("2026-13-27T12:00:00Z", None),
            ("1960-11-27T12:00:00Z", None),
            ("1795780800000", None),
            ("", None),
        ] {
            let moment = text.parse::<PastMoment>();
            assert_eq!(moment.as_ref().ok().map(|moment| moment.at_ms(NOW_MS)), expected, "{text:?}");
            if let Err(problem) = moment {
                assert!(problem.starts_with("invalid time"), "{problem}");
            }
        }
    }
}
