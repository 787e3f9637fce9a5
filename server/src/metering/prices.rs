//! What usage would cost: a price file, and an estimate by it.
//!
//! A price file is TOML, or JSON if its name ends so. It has a currency and charges, each the price of some quantity of one
//! meter. The examples in `examples/prices/` show all that it can say.
//!
//! Money is counted in billionths of the currency's unit, as an integer: sums do not depend on their order. Each charge is
//! rounded once, after its whole quantity is known.

use std::path::Path;

use serde::Deserialize;

use super::totals::Meter;
use super::usage::UsageWindow;

/// Billionths in one unit of a currency.
const NANO: u128 = 1_000_000_000;
const DECIMALS: usize = 9;
const HOUR_MS: u64 = 3_600_000;
/// Hours of a month as sellers count them: a twelfth of a year of 365 days.
const MONTH_HOURS: u128 = 730;
const MEGABYTE: u128 = 1_000_000;
const GIGABYTE: u128 = 1_000_000_000;
const GIBIBYTE: u128 = 1 << 30;

/// The prices of some meters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    pub currency: String,
    charges: Vec<Charge>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Charge {
    name: String,
    meter: Meter,
    /// Billionths for `per` of the meter.
    price_nano: u128,
    per: u128,
    /// Bytes that are charged in each hour even if there were less.
    at_least_bytes: u128,
    is_all: bool,
}

/// The cost of some usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    pub lines: Vec<EstimateLine>,
    /// Billionths of the currency's unit.
    pub total_nano: u128,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EstimateLine {
    pub name: String,
    pub meter: Meter,
    /// What is charged, in the meter's unit.
    pub quantity: u128,
    pub cost_nano: u128,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    currency: String,
    charge: Vec<ChargeFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargeFields {
    name: String,
    meter: String,
    /// A text: a number would be rounded before it is read.
    price: String,
    per: Per,
    at_least: Option<String>,
    /// Charge what is not billable too.
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Per {
    Count(u64),
    Unit(String),
}

impl Prices {
    /// Reads a price file.
    ///
    /// # Errors
    /// What is wrong with it, with its name.
    pub fn read(path: &Path) -> Result<Self, String> {
        let of_file = |problem: String| format!("price file {}: {problem}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| of_file(error.to_string()))?;
        let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        Self::parse(&text, is_json).map_err(of_file)
    }

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str, is_json: bool) -> Result<Self, String> {
        let file: PriceFile = match is_json {
            true => serde_json::from_str(text).map_err(|error| error.to_string())?,
            false => toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?,
        };
        let is_code = file.currency.len() == 3 && file.currency.bytes().all(|byte| byte.is_ascii_uppercase());
        if !is_code {
            return Err(format!("invalid currency `{}`: expected three capital letters, such as USD", file.currency));
        }
        if file.charge.is_empty() {
            return Err("it has no charge".to_owned());
        }
        let mut charges: Vec<Charge> = Vec::new();
        for fields in file.charge {
            let name = fields.name.clone();
            let charge = Charge::of(fields).map_err(|problem| format!("charge `{name}`: {problem}"))?;
            if charges.iter().any(|other| other.name == name) {
                return Err(format!("charge `{name}` stands twice in it"));
            }
            charges.push(charge);
        }
        Ok(Self { currency: file.currency, charges })
    }

    /// The cost of usage by hours: the windows of [`Step::Hours`](crate::ledger::UsageStep) in a period.
    pub fn estimate(&self, hours: &[UsageWindow], from_ms: u64, to_ms: u64) -> Estimate {
        let lines: Vec<EstimateLine> = self.charges.iter().map(|charge| charge.line(hours, from_ms, to_ms)).collect();
        Estimate { total_nano: lines.iter().fold(0, |sum, line| line.cost_nano.saturating_add(sum)), lines }
    }
}

impl Charge {
    fn of(fields: ChargeFields) -> Result<Self, String> {
        let ChargeFields { name, meter, price, per, at_least, all } = fields;
        let meter = Meter::by_name(&meter).ok_or_else(|| {
            let names: Vec<&str> = Meter::ALL.iter().map(|meter| meter.name()).collect();
            format!("unknown meter `{meter}`: expected one of {}", names.join(", "))
        })?;
        let price_nano = nano(&price).ok_or_else(|| {
            format!("invalid price `{price}`: expected a decimal number with up to {DECIMALS} places")
        })?;
        let per = per.of(meter)?;
        let at_least_bytes = match at_least {
            None => 0,
            Some(_) if !meter.is_byte_time() => return Err(format!("`at_least` makes no sense for {}", meter.name())),
            Some(text) => {
                bytes(&text).ok_or_else(|| format!("invalid `at_least = \"{text}\"`: expected such as 100MB or 1GB"))?
            }
        };
        Ok(Self { name, meter, price_nano, per, at_least_bytes, is_all: all })
    }

    fn line(&self, hours: &[UsageWindow], from_ms: u64, to_ms: u64) -> EstimateLine {
        let mut quantity: u128 = 0;
        for window in hours {
            let unbilled = self.meter.unbilled().filter(|_| !self.is_all).map_or(0, |meter| window.quantity(meter));
            let used = window.quantity(self.meter).saturating_sub(unbilled);
            quantity =
                quantity.saturating_add(used.max(self.least(window.start_ms.max(from_ms), window.end_ms.min(to_ms))));
        }
        // Hours without a window: nothing was used in them.
        let covered = hours.iter().map(|window| window.end_ms.min(to_ms).saturating_sub(window.start_ms.max(from_ms)));
        let rest_ms = to_ms.saturating_sub(from_ms).saturating_sub(covered.sum());
        quantity = quantity.saturating_add(self.least(0, rest_ms));
        // Divided first where the product would be too large: then the remainder does not count.
        let cost_nano = match quantity.checked_mul(self.price_nano) {
            Some(product) => product.saturating_add(self.per / 2) / self.per,
            None => (quantity / self.per).saturating_mul(self.price_nano),
        };
        EstimateLine { name: self.name.clone(), meter: self.meter, quantity, cost_nano }
    }

    /// The least that is charged for a time.
    fn least(&self, from_ms: u64, to_ms: u64) -> u128 {
        self.at_least_bytes.saturating_mul(u128::from(to_ms.saturating_sub(from_ms)))
    }
}

impl Per {
    /// The quantity of a meter that the price is for.
    fn of(&self, meter: Meter) -> Result<u128, String> {
        let of_bytes = |unit: &str| match unit {
            "GB" => Some(GIGABYTE),
            "GiB" => Some(GIBIBYTE),
            _ => None,
        };
        let hour = u128::from(HOUR_MS);
        let found = match self {
            Self::Count(count) => Some(u128::from(*count)).filter(|count| *count > 0 && !meter.is_byte_time()),
            Self::Unit(unit) if meter.is_byte_time() => unit.split_once('-').and_then(|(bytes, time)| {
                let ms = match time {
                    "hour" => hour,
                    "month" => hour * MONTH_HOURS,
                    _ => return None,
                };
                Some(of_bytes(bytes)? * ms)
            }),
            Self::Unit(unit) if meter.is_bytes() => of_bytes(unit),
            Self::Unit(_) => None,
        };
        let expected = match meter {
            _ if meter.is_byte_time() => "\"GB-hour\", \"GB-month\", \"GiB-hour\" or \"GiB-month\"",
            _ if meter.is_bytes() => "\"GB\", \"GiB\" or a number above 0",
            _ => "a number above 0",
        };
        found.ok_or_else(|| format!("invalid `per` for {}: expected {expected}", meter.name()))
    }
}

impl Meter {
    pub fn by_name(name: &str) -> Option<Meter> {
        Meter::ALL.into_iter().find(|meter| meter.name() == name)
    }

    /// The meter of the part of this one that is not billed.
    pub fn unbilled(self) -> Option<Meter> {
        match self {
            Meter::Requests => Some(Meter::UnbilledRequests),
            Meter::RequestUnits => Some(Meter::UnbilledRequestUnits),
            Meter::BytesIn => Some(Meter::UnbilledBytesIn),
            Meter::BytesOut => Some(Meter::UnbilledBytesOut),
            _ => None,
        }
    }

    fn is_byte_time(self) -> bool {
        matches!(self, Meter::MemoryByteMilliseconds | Meter::StoreByteMilliseconds)
    }

    fn is_bytes(self) -> bool {
        matches!(self, Meter::BytesIn | Meter::BytesOut | Meter::UnbilledBytesIn | Meter::UnbilledBytesOut)
    }
}

/// Reads a decimal number of at most nine places, and below a million million, as billionths.
pub fn nano(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || whole.len() > 12 || fraction.len() > DECIMALS {
        return None;
    }
    let fraction: u128 = format!("{fraction:0<DECIMALS$}").parse().ok()?;
    Some(whole.parse::<u128>().ok()? * NANO + fraction)
}

/// Reads a number of bytes in decimal units.
fn bytes(text: &str) -> Option<u128> {
    let (number, unit) = match text.strip_suffix("GB") {
        Some(number) => (number, GIGABYTE),
        None => (text.strip_suffix("MB")?, MEGABYTE),
    };
    let number: u32 = number.trim_end().parse().ok()?;
    Some(u128::from(number) * unit).filter(|bytes| *bytes > 0)
}

/// Formats billionths as a decimal number with at least two places.
pub fn money(nano: u128) -> String {
    let fraction = format!("{:09}", nano % NANO);
    let places = fraction.trim_end_matches('0').len().max(2);
    format!("{}.{}", nano / NANO, &fraction[..places])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::METERS;

    const GIB: u128 = 1 << 30;

    /// An hour in which meters have counted.
    fn hour(number: u64, counted: &[(Meter, u128)]) -> UsageWindow {
        let mut quantities = [0; METERS];
        counted.iter().for_each(|(meter, quantity)| quantities[*meter as usize] = *quantity);
        let quantities: Vec<(u32, u128)> = (0..).zip(quantities).collect();
        UsageWindow::of("shop", 0, number * HOUR_MS, (number + 1) * HOUR_MS, &quantities)
    }

    fn example(name: &str) -> Prices {
        Prices::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/prices").join(name)).unwrap()
    }

    fn costs(prices: &Prices, hours: &[UsageWindow], hours_in_all: u64) -> Vec<String> {
        let estimate = prices.estimate(hours, 0, hours_in_all * HOUR_MS);
        estimate.lines.iter().map(|line| line.cost_nano).chain([estimate.total_nano]).map(money).collect()
    }

    #[test]
    fn upstash_charges_for_commands_and_storage() {
        let prices = example("upstash.toml");
        let gb_hour = GIGABYTE * u128::from(HOUR_MS);
        // Half a million commands of which 100,000 are not billed, and a GB for a month.
        let used = [
            (Meter::Requests, 500_000),
            (Meter::UnbilledRequests, 100_000),
            (Meter::StoreByteMilliseconds, gb_hour * MONTH_HOURS),
        ];
        assert_eq!(costs(&prices, &[hour(3, &used)], 730), ["0.80", "0.25", "1.05"]);
        let small = [(Meter::Requests, 1), (Meter::StoreByteMilliseconds, 1)];
        assert_eq!(costs(&prices, &[hour(3, &small)], 1), ["0.000002", "0.00", "0.000002"]);
    }

    #[test]
    fn elasticache_charges_for_a_hundred_megabytes_at_least() {
        let prices = example("elasticache-serverless.toml");
        let gb_hour = GIGABYTE * u128::from(HOUR_MS);
        assert_eq!(costs(&prices, &[], 730), ["0.00", "6.132", "6.132"]);
        // One hour with a GB, and 729 with the least.
        let used = [(Meter::RequestUnits, 3_000_000), (Meter::MemoryByteMilliseconds, gb_hour)];
        assert_eq!(costs(&prices, &[hour(700, &used)], 730), ["0.0069", "6.2076", "6.2145"]);
        // The last hour is not over.
        let estimate = prices.estimate(&[hour(0, &[])], 0, HOUR_MS / 2);
        assert_eq!(money(estimate.total_nano), "0.0042");
    }

    #[test]
    fn a_price_file_can_be_json() {
        let text = r#"{"currency":"EUR","charge":[
            {"name":"traffic","meter":"bytes_out","price":"3","per":"GiB"},
            {"name":"all","meter":"request_units","price":"0.000000001","per":3,"all":true}]}"#;
        let prices = Prices::parse(text, true).unwrap();
        let used = [(Meter::BytesOut, GIB / 2), (Meter::RequestUnits, 5), (Meter::UnbilledRequestUnits, 5)];
        assert_eq!(costs(&prices, &[hour(0, &used)], 1), ["1.50", "0.000000002", "1.500000002"]);
        let huge = [(Meter::BytesOut, u128::MAX)];
        let cost = prices.estimate(&[hour(0, &huge)], 0, 1).lines[0].cost_nano;
        assert_eq!(cost, u128::MAX, "what is too large is the largest");
    }

    #[test]
    fn nonsense_is_refused() {
        let charge = |fields: &str| format!("currency = \"USD\"\n[[charge]]\nname = \"a\"\n{fields}\n");
        let requests = "meter = \"requests\"\nprice = \"1\"\nper = 1\n";
        assert!(Prices::parse(&charge(requests), false).is_ok());
        for (text, problem) in [
            (String::new(), "missing field `currency`"),
            ("currency = \"USD\"\ncharge = []".into(), "it has no charge"),
            (charge(requests).replace("USD", "usd"), "invalid currency `usd`"),
            (
                charge(&requests.replace("requests", "clicks")),
                "charge `a`: unknown meter `clicks`: expected one of requests,",
            ),
            (charge(&requests.replace("\"1\"", "\"-1\"")), "invalid price `-1`"),
            (charge(&requests.replace("\"1\"", "\"0.0000000001\"")), "invalid price `0.0000000001`"),
            (charge(&requests.replace("\"1\"", "\"1e3\"")), "invalid price `1e3`"),
            (charge(&requests.replace("\"1\"", "\"\"")), "invalid price ``"),
            (charge(&requests.replace("\"1\"", "0.2")), "invalid type: floating point"),
            (charge(&requests.replace("per = 1", "per = 0")), "invalid `per` for requests: expected a number above 0"),
            (charge(&requests.replace("per = 1", "per = \"GB\"")), "invalid `per` for requests"),
            (charge(&requests.replace("requests", "store_byte_milliseconds")), "expected \"GB-hour\", \"GB-month\""),
            (charge(&format!("{requests}at_least = \"1GB\"")), "`at_least` makes no sense for requests"),
            (charge(&format!("{requests}colour = 1")), "unknown field `colour`"),
            (charge(requests) + "[[charge]]\nname = \"a\"\n" + requests, "charge `a` stands twice in it"),
        ] {
            let found = Prices::parse(&text, false).expect_err(&text);
            assert!(found.contains(problem), "{found}");
        }
        let missing = Prices::read(Path::new("/nowhere/prices.toml")).unwrap_err();
        assert!(missing.starts_with("price file /nowhere/prices.toml: "), "{missing}");
    }
}
