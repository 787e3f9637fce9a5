//! The operator's settings of one database, which the directory keeps: its limits, and what it starts with.
//!
//! They are named and written like the options of the command line, and replace these for the database. A tenant chooses
//! within them.

use std::collections::BTreeMap;

use clap::ValueEnum;

use super::Settings;
use crate::options::{EvictionPolicy, Interval, Money, Size};

/// The names, for messages.
pub const NAMES: [&str; 14] = [
    "history",
    "loss-window",
    "max-connections",
    "max-key-size",
    "max-memory",
    "max-memory-clients",
    "max-memory-policy",
    "max-request-size",
    "max-requests-burst",
    "max-requests-per-second",
    "max-value-size",
    "sleep-after",
    "spending-limit-money",
    "spending-limit-units",
];

/// Returns the command line's settings with those of a database instead.
///
/// # Errors
/// The setting that makes no sense, and why.
pub fn applied(settings: &BTreeMap<Box<str>, Box<str>>, command_line: &Settings) -> Result<Settings, String> {
    let mut applied = command_line.clone();
    for (name, value) in settings {
        set(&mut applied, name, value)?;
    }
    applied.limits.requests.check()?;
    Ok(applied)
}

/// The same without the settings that make no sense, and why they do not. The limits among the others hold.
pub fn applied_where_valid(
    settings: &BTreeMap<Box<str>, Box<str>>,
    command_line: &Settings,
) -> (Settings, Vec<String>) {
    let mut applied = command_line.clone();
    let set = settings.iter().filter_map(|(name, value)| set(&mut applied, name, value).err());
    let mut problems: Vec<String> = set.collect();
    problems.extend(applied.limits.requests.check().err());
    (applied, problems)
}

/// The settings of the rate of requests, which belong together.
const RATE: [&str; 2] = ["max-requests-burst", "max-requests-per-second"];

/// Whether the rate of requests is among the settings.
pub fn has_rate(settings: &BTreeMap<Box<str>, Box<str>>) -> bool {
    RATE.iter().any(|name| settings.contains_key(*name))
}

/// Adds to the settings of a branch those of its owner that it has not itself.
pub fn inherit(settings: &mut BTreeMap<Box<str>, Box<str>>, of_owner: BTreeMap<Box<str>, Box<str>>) {
    let has_rate = has_rate(settings);
    for (name, value) in of_owner {
        if !(has_rate && RATE.contains(&&*name)) {
            settings.entry(name).or_insert(value);
        }
    }
}

fn set(settings: &mut Settings, name: &str, value: &str) -> Result<(), String> {
    let wrong = |problem: String| format!("invalid value for `{name}`: {problem}");
    let (limits, database) = (&mut settings.limits, &mut settings.database);
    match name {
        "max-memory" => {
            limits.max_memory = value.parse::<Size>().map_err(wrong)?.0;
            database.max_memory = limits.max_memory;
        }
        "max-memory-clients" => {
            limits.max_memory_clients = value.parse::<Size>().map_err(wrong)?.0;
            database.max_memory_clients = limits.max_memory_clients;
        }
        "sleep-after" => {
            limits.sleep_after = value.parse::<Interval>().map_err(wrong)?;
            database.sleep_after = limits.sleep_after;
        }
        "spending-limit-units" => {
            let units = value.parse::<u64>().ok().filter(|units| *units > 0);
            limits.spending.request_units = units.ok_or_else(|| wrong("expected a number above 0".to_owned()))?;
        }
        "spending-limit-money" => {
            let money = value.parse::<Money>().map_err(wrong)?;
            if settings.facts.prices.is_none() {
                return Err(wrong("the server was started without --prices".to_owned()));
            }
            limits.spending.money_nano = money.0;
        }
        "history" => limits.history = value.parse().map_err(wrong)?,
        "loss-window" => database.loss_window = value.parse().map_err(wrong)?,
        "max-memory-policy" => database.max_memory_policy = EvictionPolicy::from_str(value, true).map_err(wrong)?,
        _ => return if limits.requests.set(name, value).map_err(wrong)? { Ok(()) } else { Err(unknown(name)) },
    }
    Ok(())
}

/// The message for a name that no setting has.
pub fn unknown(name: &str) -> String {
    format!("unknown setting `{}`: the operator's settings are {}", name.escape_default(), NAMES.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::settings;
    use crate::options::RequestLimitSettings;

    #[test]
    fn a_database_has_limits_of_its_own() {
        let base = settings();
        let of = |pairs: &[(&str, &str)]| {
            let settings = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            applied(&settings, &base)
        };
        assert_eq!(of(&[]), Ok(base.clone()));
        let set = of(&[
            ("history", "24h"),
            ("loss-window", "0"),
            ("max-memory", "100mb"),
            ("max-memory-policy", "allkeys-lru"),
            ("sleep-after", "10s"),
            ("spending-limit-units", "5"),
        ]);
        let set = set.unwrap();
        assert_eq!(set.limits.spending.request_units, 5);
        assert_eq!((set.limits.max_memory, set.database.max_memory), (100 << 20, 100 << 20));
        assert_eq!(set.database.max_memory_policy, EvictionPolicy::AllkeysLru);
        assert_eq!(set.limits.sleep_after.milliseconds(), 10_000);
        assert_eq!((set.limits.history.milliseconds(), base.limits.history.milliseconds()), (86_400_000, 0));
        assert_eq!(set.limits.max_memory_clients, base.limits.max_memory_clients);
        let set = of(&[
            ("max-connections", "7"),
            ("max-key-size", "1kb"),
            ("max-request-size", "1mb"),
            ("max-requests-burst", "50"),
            ("max-requests-per-second", "10"),
            ("max-value-size", "2mb"),
        ]);
        let expected = RequestLimitSettings {
            per_second: 10,
            burst: 50,
            connections: 7,
            request_bytes: 1 << 20,
            key_bytes: 1 << 10,
            value_bytes: 2 << 20,
        };
        assert_eq!(set.unwrap().limits.requests, expected);
        assert_eq!(of(&[("max-requests-per-second", "0"), ("max-request-size", "0")]), Ok(base.clone()));
        for (name, value, part) in [
            ("max-memory", "many", "invalid value for `max-memory`"),
            ("loss-window", "1ms", "invalid loss window"),
            ("max-memory-policy", "none", "max-memory-policy"),
            ("sleep-after", "soon", "sleep-after"),
            ("max-requests-per-second", "-1", "expected a number of requests from 1 to 10000000, or 0 for no limit"),
            ("max-requests-per-second", "1.5", "invalid value for `max-requests-per-second`"),
            ("max-requests-per-second", "10000001", "invalid value for `max-requests-per-second`"),
            ("max-requests-burst", "10", "`max-requests-burst` has no effect without `max-requests-per-second`"),
            ("max-connections", "many", "expected a number of connections"),
            ("max-request-size", "1000", "invalid value for `max-request-size`: expected at least 1kb"),
            ("max-value-size", "large", "invalid value for `max-value-size`"),
            ("max-key-size", "-1", "invalid value for `max-key-size`"),
            ("spending-limit-units", "0", "invalid value for `spending-limit-units`: expected a number above 0"),
            ("spending-limit-money", "0", "expected an amount above 0"),
            ("spending-limit-money", "1", "without --prices"),
            ("history", "yesterday", "invalid value for `history`"),
            ("port", "1", "unknown setting `port`"),
        ] {
            let problem = of(&[(name, value)]).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn a_setting_that_makes_no_sense_takes_no_other_with_it() {
        let base = settings();
        // The server was started without prices.
        let kept = [("max-requests-per-second", "10"), ("spending-limit-money", "5"), ("spending-limit-units", "7")];
        let kept = kept.map(|(name, value)| (name.into(), value.into())).into();
        let (applied, problems) = applied_where_valid(&kept, &base);
        assert_eq!((applied.limits.requests.per_second, applied.limits.spending.request_units), (10, 7));
        assert_eq!((applied.limits.spending.money_nano, problems.len()), (0, 1), "{problems:?}");
    }

    #[test]
    fn a_branch_has_the_settings_of_its_owner_and_its_own() {
        let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let owner = [("max-memory", "1gb"), ("max-requests-burst", "50"), ("max-requests-per-second", "10")];
        for (own, expected) in [
            (&[][..], &owner[..]),
            (
                &[("max-memory", "1mb"), ("sleep-after", "1s")],
                &[
                    ("max-memory", "1mb"),
                    ("max-requests-burst", "50"),
                    ("max-requests-per-second", "10"),
                    ("sleep-after", "1s"),
                ],
            ),
            // A burst of the owner would have no effect on a branch without a rate, and too much on one with another.
            (&[("max-requests-per-second", "0")], &[("max-memory", "1gb"), ("max-requests-per-second", "0")]),
        ] {
            let mut settings = of(own);
            inherit(&mut settings, of(&owner));
            assert_eq!(settings, of(expected), "{own:?}");
        }
    }
}
