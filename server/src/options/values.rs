//! The values of options: sizes, intervals, addresses, limits. Each parses human-readable text, has errors that say
//! what to write instead, and prints itself in a form that parses again.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use crate::metering::prices::nano;

/// A number of bytes: `100mb`, `1g`, `4096`. Units as in redis.conf: `k`, `m`, `g` are powers of 1000, `kb`, `mb`, `gb`
/// (also `kib`, `mib`, `gib`) are powers of 1024; case does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SIZE_UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("k", 1000),
    ("kb", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1 << 40),
    ("tib", 1 << 40),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = split_number(text);
        let number: u64 = digits.parse().map_err(|_| "expected a size such as 100mb, 1g or 4096".to_string())?;
        let unit = unit.to_ascii_lowercase();
        let (_, factor) = SIZE_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| format!("unknown unit `{unit}`: sizes end in b, k, kb, m, mb, g, gb, t or tb"))?;
        number.checked_mul(*factor).map(Size).ok_or_else(|| "the size does not fit 64 bits".to_string())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("tb", 40), ("gb", 30), ("mb", 20), ("kb", 10)] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// How often, or after how long: `60s`, `5m`, `1h30m`, `250ms`, a plain number of seconds, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    Never,
    Every(Duration),
}

/// Longer than a human life, and small enough that adding it to any clock cannot overflow.
const INTERVAL_MS_MAX: u64 = 100 * 365 * 24 * 3600 * 1000;

const INTERVAL_UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// An amount of money above zero, in billionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money(pub u64);

impl FromStr for Money {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let nano = nano(text).and_then(|nano| u64::try_from(nano).ok()).filter(|nano| *nano > 0);
        nano.map(Self).ok_or_else(|| "expected an amount above 0 such as 25 or 12.50".to_owned())
    }
}

impl Interval {
    pub fn duration(self) -> Option<Duration> {
        match self {
            Interval::Never => None,
            Interval::Every(duration) => Some(duration),
        }
    }

    /// Milliseconds; `never` is a hundred years.
    pub fn milliseconds(self) -> u64 {
        let ms = self.duration().and_then(|duration| u64::try_from(duration.as_millis()).ok());
        ms.unwrap_or(INTERVAL_MS_MAX)
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("never") {
            return Ok(Interval::Never);
        }
        let malformed = || "expected a duration such as 5m, 60s, 1h30m or 250ms, or `never`".to_string();
        let mut total_ms: u64 = 0;
        let mut rest = text;
        while !rest.is_empty() || text.is_empty() {
            let (digits, tail) = split_number(rest);
            let number: u64 = digits.parse().map_err(|_| malformed())?;
            let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let unit = tail[..unit_len].to_ascii_lowercase();
            let factor = match INTERVAL_UNITS.iter().find(|(name, _)| *name == unit) {
                Some((_, factor)) => *factor,
                None if unit.is_empty() && digits.len() == text.len() => 1000,
                None => return Err(malformed()),
            };
            total_ms = number
                .checked_mul(factor)
                .and_then(|part| total_ms.checked_add(part))
                .filter(|total| *total <= INTERVAL_MS_MAX)
                .ok_or_else(|| "longer than 100 years: write `never`".to_string())?;
            rest = &tail[unit_len..];
        }
        match total_ms {
            0 => Err("must be longer than zero (to switch it off, write `never`)".to_string()),
            ms => Ok(Interval::Every(Duration::from_millis(ms))),
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Interval::Every(duration) = self else { return f.write_str("never") };
        let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        for (unit, factor) in INTERVAL_UNITS {
            if rest >= *factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

/// An address to listen on: an IP address, `localhost`, or `*` for every IPv4 address of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind(pub IpAddr);

impl Bind {
    pub fn is_loopback(self) -> bool {
        match self.0 {
            IpAddr::V4(address) => address.is_loopback(),
            IpAddr::V6(address) => {
                address.is_loopback() || address.to_ipv4_mapped().is_some_and(|mapped| mapped.is_loopback())
            }
        }
    }
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "localhost" => return Ok(Bind(IpAddr::V4(Ipv4Addr::LOCALHOST))),
            "*" => return Ok(Bind(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
            _ => {}
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        bare.parse().map(Bind).map_err(|_| {
            "expected an IP address such as 127.0.0.1 or ::1 (`*` for all; the port has its own option)".to_string()
        })
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Permissions of a file, in octal: `700`, `0660`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl FromStr for FileMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 && !text.starts_with('+') => Ok(FileMode(mode)),
            _ => Err("expected permissions in octal, such as 700 or 660".to_string()),
        }
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:o}", self.0)
    }
}

/// Action of a database when a write would exceed its memory limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EvictionPolicy {
    /// Refuse the write
    #[default]
    Noeviction,
    /// Remove keys that are used seldom
    AllkeysLfu,
    /// Remove keys that have not been changed for long
    AllkeysLrm,
    /// Remove keys that have not been used for long
    AllkeysLru,
    /// Remove any keys
    AllkeysRandom,
    /// Remove keys with an expiry that are used seldom
    VolatileLfu,
    /// Remove keys with an expiry that have not been changed for long
    VolatileLrm,
    /// Remove keys with an expiry that have not been used for long
    VolatileLru,
    /// Remove any keys with an expiry
    VolatileRandom,
    /// Remove the keys that would expire first
    VolatileTtl,
}

impl EvictionPolicy {
    pub const ALL: [EvictionPolicy; 10] = [
        EvictionPolicy::AllkeysLfu,
        EvictionPolicy::AllkeysLrm,
        EvictionPolicy::AllkeysLru,
        EvictionPolicy::AllkeysRandom,
        EvictionPolicy::Noeviction,
        EvictionPolicy::VolatileLfu,
        EvictionPolicy::VolatileLrm,
        EvictionPolicy::VolatileLru,
        EvictionPolicy::VolatileRandom,
        EvictionPolicy::VolatileTtl,
    ];

    /// Redis's name for it.
    pub fn name(self) -> &'static str {
        match self {
            EvictionPolicy::Noeviction => "noeviction",
            EvictionPolicy::AllkeysLfu => "allkeys-lfu",
            EvictionPolicy::AllkeysLrm => "allkeys-lrm",
            EvictionPolicy::AllkeysLru => "allkeys-lru",
            EvictionPolicy::AllkeysRandom => "allkeys-random",
            EvictionPolicy::VolatileLfu => "volatile-lfu",
            EvictionPolicy::VolatileLrm => "volatile-lrm",
            EvictionPolicy::VolatileLru => "volatile-lru",
            EvictionPolicy::VolatileRandom => "volatile-random",
            EvictionPolicy::VolatileTtl => "volatile-ttl",
        }
    }
}

impl fmt::Display for EvictionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Limit on the unsent output of one client before it is disconnected: at once above `hard_bytes`, and above
/// `soft_bytes` if that lasts for `soft_seconds`. Zero switches a limit off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputBufferLimit {
    pub hard_bytes: u64,
    pub soft_bytes: u64,
    pub soft_seconds: u64,
}

/// The limits of each class of clients. Spelled as in redis.conf, one class after the other: `normal 0 0 0 replica
/// 256mb 64mb 60 pubsub 32mb 8mb 60`; a class that is not named keeps its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputBufferLimits {
    pub normal: OutputBufferLimit,
    pub replica: OutputBufferLimit,
    pub pubsub: OutputBufferLimit,
}

impl Default for OutputBufferLimits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        OutputBufferLimits {
            normal: OutputBufferLimit { hard_bytes: 0, soft_bytes: 0, soft_seconds: 0 },
            replica: OutputBufferLimit { hard_bytes: 256 * MIB, soft_bytes: 64 * MIB, soft_seconds: 60 },
            pubsub: OutputBufferLimit { hard_bytes: 32 * MIB, soft_bytes: 8 * MIB, soft_seconds: 60 },
        }
    }
}

impl OutputBufferLimits {
    /// Returns these limits with the classes that `text` names replaced. The errors are Redis's.
    pub fn with(mut self, text: &str) -> Result<Self, &'static str> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        if !words.len().is_multiple_of(4) {
            return Err("Wrong number of arguments in buffer limit configuration.");
        }
        for quad in words.chunks_exact(4) {
            let class = match quad[0].to_ascii_lowercase().as_str() {
                "normal" => &mut self.normal,
                "replica" | "slave" => &mut self.replica,
                "pubsub" => &mut self.pubsub,
                _ => return Err("Invalid client class specified in buffer limit configuration."),
            };
            let size = |word: &str| word.parse::<Size>().ok().map(|size| size.0);
            let seconds = quad[3].parse::<u32>().ok().filter(|seconds| i32::try_from(*seconds).is_ok());
            let (Some(hard_bytes), Some(soft_bytes), Some(seconds)) = (size(quad[1]), size(quad[2]), seconds) else {
                return Err("Error in hard, soft or soft_seconds setting in buffer limit configuration.");
            };
            *class = OutputBufferLimit { hard_bytes, soft_bytes, soft_seconds: u64::from(seconds) };
        }
        Ok(self)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, replica: &str, size: impl Fn(u64) -> String) -> fmt::Result {
        for (index, (name, limit)) in
            [("normal", &self.normal), (replica, &self.replica), ("pubsub", &self.pubsub)].into_iter().enumerate()
        {
            let space = if index == 0 { "" } else { " " };
            let (hard, soft) = (size(limit.hard_bytes), size(limit.soft_bytes));
            write!(f, "{space}{name} {hard} {soft} {}", limit.soft_seconds)?;
        }
        Ok(())
    }

    /// The reply of `CONFIG GET`: plain numbers, and `slave` for the replicas.
    pub fn redis_text(&self) -> String {
        struct Redis<'a>(&'a OutputBufferLimits);
        impl fmt::Display for Redis<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f, "slave", |bytes| bytes.to_string())
            }
        }
        Redis(self).to_string()
    }
}

impl FromStr for OutputBufferLimits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        OutputBufferLimits::default()
            .with(text)
            .map_err(|error| format!("{error} Expected CLASS HARD SOFT SECONDS, such as `pubsub 32mb 8mb 60`"))
    }
}

impl fmt::Display for OutputBufferLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "replica", |bytes| Size(bytes).to_string())
    }
}

/// Splits off the leading digits.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: the text, and its printed form (`Ok`) or a part of the error (`Err`).
    fn check<T: FromStr<Err = String> + fmt::Display + PartialEq + fmt::Debug>(rows: &[(&str, Result<&str, &str>)]) {
        for (text, expected) in rows {
            match (text.parse::<T>(), expected) {
                (Ok(value), Ok(printed)) => {
                    assert_eq!(value.to_string(), *printed, "{text:?}");
                    assert_eq!(printed.parse::<T>().as_ref(), Ok(&value), "{text:?} printed");
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{text:?}: {error}"),
                (got, _) => panic!("{text:?} -> {got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn sizes() {
        check::<Size>(&[
            ("0", Ok("0")),
            ("4096", Ok("4kb")),
            ("1000", Ok("1000")),
            ("1k", Ok("1000")),
            ("1K", Ok("1000")),
            ("100mb", Ok("100mb")),
            ("1024KiB", Ok("1mb")),
            ("1g", Ok("1000000000")),
            ("1GB", Ok("1gb")),
            ("2tb", Ok("2tb")),
            ("17b", Ok("17")),
            ("18446744073709551615", Ok("18446744073709551615")),
            ("18446744073709551616", Err("expected a size")),
            ("99999999999gb", Err("does not fit")),
            ("", Err("expected a size")),
            ("mb", Err("expected a size")),
            ("-1", Err("expected a size")),
            ("1.5gb", Err("unknown unit `.5gb`")),
            ("1 gb", Err("unknown unit ` gb`")),
            ("1q", Err("unknown unit `q`")),
        ]);
    }

    #[test]
    fn intervals() {
        check::<Interval>(&[
            ("never", Ok("never")),
            ("NEVER", Ok("never")),
            ("5m", Ok("5m")),
            ("60s", Ok("1m")),
            ("90", Ok("1m30s")),
            ("1h30m", Ok("1h30m")),
            ("250ms", Ok("250ms")),
            ("1d1ms", Ok("1d1ms")),
            ("0", Err("never")),
            ("0s", Err("never")),
            ("", Err("expected a duration")),
            ("s", Err("expected a duration")),
            ("1m30", Err("expected a duration")),
            ("-5m", Err("expected a duration")),
            ("5 m", Err("expected a duration")),
            ("5y", Err("expected a duration")),
            ("40000d", Err("100 years")),
            ("99999999999999999999s", Err("expected a duration")),
            ("9999999999999999999d", Err("100 years")),
        ]);
    }

    #[test]
    fn binds() {
        check::<Bind>(&[
            ("127.0.0.1", Ok("127.0.0.1")),
            ("localhost", Ok("127.0.0.1")),
            ("*", Ok("0.0.0.0")),
            ("[::1]", Ok("::1")),
            ("::", Ok("::")),
            ("example.org", Err("IP address")),
            ("127.0.0.1:6379", Err("port has its own option")),
        ]);
        for (text, loopback) in
            [("127.8.8.8", true), ("::1", true), ("::ffff:127.0.0.1", true), ("0.0.0.0", false), ("::", false)]
        {
            assert_eq!(text.parse::<Bind>().unwrap().is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn file_modes() {
        check::<FileMode>(&[
            ("700", Ok("700")),
            ("0660", Ok("660")),
            ("778", Err("octal")),
            ("1777", Err("octal")),
            ("+7", Err("octal")),
            ("", Err("octal")),
        ]);
    }

    #[test]
    fn output_buffer_limits() {
        let default = "normal 0 0 0 replica 256mb 64mb 60 pubsub 32mb 8mb 60";
        check::<OutputBufferLimits>(&[
            (default, Ok(default)),
            ("", Ok(default)),
            ("NORMAL 1gb 256mb 30", Ok("normal 1gb 256mb 30 replica 256mb 64mb 60 pubsub 32mb 8mb 60")),
            ("slave 1 2 3 pubsub 0 0 0", Ok("normal 0 0 0 replica 1 2 3 pubsub 0 0 0")),
            ("normal 0 0", Err("Wrong number of arguments")),
            ("friends 0 0 0", Err("Invalid client class")),
            ("normal 1 2 -3", Err("Error in hard, soft")),
            ("normal 1 2 3000000000", Err("Error in hard, soft")),
            ("normal 1zz 2 3", Err("Error in hard, soft")),
        ]);
        assert_eq!(
            OutputBufferLimits::default().redis_text(),
            "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"
        );
    }
}
