//! The arithmetic of `INCRBYFLOAT`, `HINCRBYFLOAT` and `AROP`: the 80-bit extended precision that C calls `long double` on x86-64.
//!
//! Redis adds in this format and prints with `%.17Lf`, so the digits that clients see depend on it: 64 bits of mantissa
//! make 3.0e3 + 200 come out as 3200, and 0.1 + 0.2 as 0.3. The sum is computed in software, so that a log replays to the
//! same digits on every machine. Printing is exact: the value is an integer times a power of two, and
//!
//! 1. with a power above 0 it is an integer, printed from its big decimal form;
//! 2. below, `mantissa * 10^17` fits 128 bits, and a shift with ties to even leaves the integer of all digits.
//!
//! `AROP` prints 17 significant digits (`%.17Lg`), which are rounded from all digits of the number.

use std::cmp::Ordering;

use rustc_apfloat::ieee::{Double, X87DoubleExtended};
use rustc_apfloat::{Float, FloatConvert, Round};

/// Redis reads numbers into a buffer of this many bytes, the terminator included.
const TEXT_MAX: usize = 5 * 1024;
/// Exponents beyond this overflow or underflow whatever the digits, of which there are fewer than [`TEXT_MAX`].
const EXPONENT_MAX: i64 = 1 << 20;
const DECIMALS: usize = 17;
const MANTISSA_BITS: u32 = 64;
/// The exponent field of a number whose lowest mantissa bit is worth 1.
const EXPONENT_OF_ONE: i32 = 16383 + 63;

/// A number in x87 extended precision; NaN only as a [sum](LongDouble::sum).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct LongDouble(X87DoubleExtended);

impl LongDouble {
    /// The value of `strtold` for the whole of `text`, as Redis takes it: decimal or hexadecimal digits with an
    /// exponent, or an infinity; no NaN, no spaces, no overflow or underflow.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() >= TEXT_MAX {
            return None;
        }
        let (is_negative, digits) = match text {
            [b'-', digits @ ..] => (true, digits),
            [b'+', digits @ ..] => (false, digits),
            digits => (false, digits),
        };
        let magnitude = if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
            X87DoubleExtended::INFINITY
        } else {
            magnitude(digits)?
        };
        Some(Self(if is_negative { -magnitude } else { magnitude }))
    }

    /// A thousand times it, rounded up; saturates beyond 128 bits.
    pub fn thousandfold(self) -> i128 {
        let thousand = Self::from_integer(1000).0;
        (self.0 * thousand).value.to_i128_r(128, Round::TowardPositive, &mut false).value
    }

    pub fn from_integer(value: i64) -> Self {
        Self(X87DoubleExtended::from_i128(i128::from(value)).value)
    }

    /// The highest finite number.
    pub fn highest() -> Self {
        Self(X87DoubleExtended::largest())
    }

    pub fn negated(self) -> Self {
        Self(-self.0)
    }

    pub fn from_double(value: f64) -> Self {
        Self(Double::from_bits(u128::from(value.to_bits())).convert(&mut false).value)
    }

    /// The number without its fraction, if it is in the range of 64 bits itself.
    pub fn truncated(self) -> Option<i64> {
        let (least, most) = (Self::from_integer(i64::MIN), Self::from_integer(i64::MAX));
        if self.0 < least.0 || self.0 > most.0 || self.0.is_nan() {
            return None;
        }
        i64::try_from(self.0.to_i128_r(128, Round::TowardZero, &mut false).value).ok()
    }

    /// The sum, which may be infinite, or NaN.
    pub fn sum(self, other: Self) -> Self {
        Self((self.0 + other.0).value)
    }

    /// `%.17Lg`.
    pub fn format_general(self) -> String {
        if self.0.is_nan() {
            return "nan".into();
        }
        let sign = if self.0.is_negative() { "-" } else { "" };
        if self.0.is_infinite() {
            return format!("{sign}inf");
        }
        let (digits, exponent) = self.significant();
        format!("{sign}{}", lay_out_general(&digits, exponent))
    }

    /// The first [`DECIMALS`] digits, rounded, zeros at their end left out, and the power of ten of the first one.
    fn significant(self) -> (String, i32) {
        let bits = self.0.to_bits();
        let mantissa = bits as u64;
        let field = (bits >> MANTISSA_BITS) as i32 & 0x7fff;
        let exponent = field.max(1) - EXPONENT_OF_ONE;
        if mantissa == 0 {
            return ("0".into(), 0);
        }
        // A fraction is mantissa * 5^n / 10^n.
        let (all, shift) = match u32::try_from(exponent) {
            Ok(power) => (integer_digits(mantissa, power), 0),
            Err(_) => {
                // What is even in the mantissa needs no fraction.
                let even = mantissa.trailing_zeros().min(exponent.unsigned_abs());
                let power = exponent.unsigned_abs() - even;
                (fifth_power_digits(mantissa >> even, power), power as i32)
            }
        };
        let mut power = all.len() as i32 - 1 - shift;
        let (kept, rest) = all.split_at(DECIMALS.min(all.len()));
        let mut digits = kept.as_bytes().to_vec();
        let half = rest.as_bytes().first().map_or(Ordering::Less, |first| {
            first.cmp(&b'5').then(if rest[1..].trim_end_matches('0').is_empty() {
                Ordering::Equal
            } else {
                Ordering::Greater
            })
        });
        let is_odd = digits.last().is_some_and(|last| (last - b'0') % 2 == 1);
        if half == Ordering::Greater || half == Ordering::Equal && is_odd {
            match digits.iter().rposition(|digit| *digit != b'9') {
                Some(at) => {
                    digits[at] += 1;
                    digits.truncate(at + 1);
                }
                None => {
                    digits = vec![b'1'];
                    power += 1;
                }
            }
        }
        let text = String::from_utf8_lossy(&digits).trim_end_matches('0').to_owned();
        (text, power)
    }

    pub fn is_finite(self) -> bool {
        self.0.is_finite()
    }

    /// The sum; `None` where it is no finite number.
    pub fn plus(self, other: Self) -> Option<Self> {
        let sum = (self.0 + other.0).value;
        sum.is_finite().then_some(Self(sum))
    }

    /// The difference; `None` where it is no finite number.
    pub fn minus(self, other: Self) -> Option<Self> {
        self.plus(other.negated())
    }

    /// `%.17Lf` without the zeros at its end. The number must be finite.
    pub fn format(self) -> String {
        let bits = self.0.to_bits();
        let mantissa = bits as u64;
        let field = (bits >> MANTISSA_BITS) as i32 & 0x7fff;
        // The field of subnormal numbers is 0 and means the same as 1.
        let exponent = field.max(1) - EXPONENT_OF_ONE;
        let mut text = if exponent >= 0 {
            integer_digits(mantissa, exponent as u32)
        } else {
            fraction_digits(mantissa, exponent.unsigned_abs())
        };
        if self.0.is_negative() && text != "0" {
            text.insert(0, '-');
        }
        text
    }
}

/// The number that unsigned `digits` spell.
fn magnitude(digits: &[u8]) -> Option<X87DoubleExtended> {
    let text = std::str::from_utf8(digits).ok()?;
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (body, marks) = hex.map_or((text, ['e', 'E']), |hex| (hex, ['p', 'P']));
    let (significand, exponent) = match body.split_once(marks) {
        Some((significand, exponent)) => (significand, exponent_of(exponent)?),
        None => (body, 0),
    };
    let is_digit = |c: char| if hex.is_some() { c.is_ascii_hexdigit() } else { c.is_ascii_digit() };
    let dots = significand.matches('.').count();
    if dots > 1 || significand.len() == dots || !significand.chars().all(|c| c == '.' || is_digit(c)) {
        return None;
    }
    if significand.chars().all(|c| matches!(c, '0' | '.')) {
        return Some(X87DoubleExtended::ZERO);
    }
    if exponent.abs() > EXPONENT_MAX {
        return None;
    }
    let plain = if hex.is_some() { format!("0x{significand}p{exponent}") } else { format!("{significand}e{exponent}") };
    let parsed = plain.parse::<X87DoubleExtended>().ok()?;
    (parsed.is_finite() && !parsed.is_zero()).then_some(parsed)
}

/// Saturates: a value beyond [`EXPONENT_MAX`] only needs to stay beyond it.
fn exponent_of(text: &str) -> Option<i64> {
    let (is_negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude =
        digits.iter().fold(0i64, |sum, digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    Some(if is_negative { -magnitude } else { magnitude })
}

/// The digits of `mantissa * 2^exponent`.
fn integer_digits(mantissa: u64, exponent: u32) -> String {
    const LIMB: u64 = 1_000_000_000;
    /// A limb shifted by this much, with a carry, fits 64 bits.
    const STEP: u32 = 32;
    if mantissa == 0 {
        return "0".into();
    }
    // Little-endian, nine decimal digits a limb.
    let mut limbs = vec![mantissa % LIMB, mantissa / LIMB % LIMB, mantissa / LIMB / LIMB];
    let mut left = exponent;
    while left > 0 {
        let shift = left.min(STEP);
        let mut carry = 0;
        for limb in &mut limbs {
            let value = (*limb << shift) + carry;
            *limb = value % LIMB;
            carry = value / LIMB;
        }
        while carry > 0 {
            limbs.push(carry % LIMB);
            carry /= LIMB;
        }
        left -= shift;
    }
    let digits: String = limbs.iter().rev().map(|limb| format!("{limb:09}")).collect();
    digits.trim_start_matches('0').into()
}

/// The digits of `mantissa * 5^exponent`.
fn fifth_power_digits(mantissa: u64, exponent: u32) -> String {
    const LIMB: u64 = 1_000_000_000;
    /// 5^13 times a limb, with a carry, fits 64 bits.
    const STEP: u32 = 13;
    let mut limbs = vec![mantissa % LIMB, mantissa / LIMB % LIMB, mantissa / LIMB / LIMB];
    let mut left = exponent;
    while left > 0 {
        let power = left.min(STEP);
        let factor = 5u64.pow(power);
        let mut carry = 0;
        for limb in &mut limbs {
            let value = *limb * factor + carry;
            *limb = value % LIMB;
            carry = value / LIMB;
        }
        while carry > 0 {
            limbs.push(carry % LIMB);
            carry /= LIMB;
        }
        left -= power;
    }
    let digits: String = limbs.iter().rev().map(|limb| format!("{limb:09}")).collect();
    digits.trim_start_matches('0').into()
}

/// Lays out significant digits as `%g` does: with an exponent where that is below -4 or no digit would stand behind it.
fn lay_out_general(digits: &str, power: i32) -> String {
    let len = digits.len() as i32;
    if !(-4..DECIMALS as i32).contains(&power) {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{first}{point}{rest}e{sign}{:02}", power.unsigned_abs());
    }
    if power < 0 {
        return format!("0.{}{digits}", "0".repeat(power.unsigned_abs() as usize - 1));
    }
    if len <= power + 1 {
        return format!("{digits}{}", "0".repeat((power + 1 - len) as usize));
    }
    let (whole, fraction) = digits.split_at(power as usize + 1);
    format!("{whole}.{fraction}")
}

/// The digits of `mantissa / 2^shift`, rounded to 17 decimals, those that are 0 at the end left out.
fn fraction_digits(mantissa: u64, shift: u32) -> String {
    let scale = 10u128.pow(DECIMALS as u32);
    // Below 2^121.
    let scaled = u128::from(mantissa) * scale;
    let rounded = if shift >= u128::BITS {
        0
    } else {
        let (floor, rest, half) = (scaled >> shift, scaled & ((1 << shift) - 1), 1 << (shift - 1));
        let up = rest > half || (rest == half && floor & 1 == 1);
        floor + u128::from(up)
    };
    let text = format!("{}.{:017}", rounded / scale, rounded % scale);
    text.trim_end_matches('0').trim_end_matches('.').into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(a: &str, b: &str) -> Option<String> {
        let (a, b) = (LongDouble::parse(a.as_bytes()).expect(a), LongDouble::parse(b.as_bytes()).expect(b));
        a.plus(b).map(LongDouble::format)
    }

    /// As a C program prints them with `%.17Lg`.
    #[test]
    fn seventeen_digits_are_significant() {
        for (text, expected) in [
            ("0", "0"),
            ("-0", "-0"),
            ("1", "1"),
            ("-2.5", "-2.5"),
            ("0.1", "0.1"),
            ("100", "100"),
            ("1e16", "10000000000000000"),
            ("1e17", "1e+17"),
            ("123456789012345678", "1.2345678901234568e+17"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.5e-7", "1.5e-07"),
            ("1e4000", "1e+4000"),
            ("1e-4000", "1e-4000"),
            ("1000000000000000.25", "1000000000000000.2"),
            ("1000000000000000.75", "1000000000000000.8"),
            ("99999999999999999.5", "1e+17"),
            ("9223372036854775807", "9.2233720368547758e+18"),
            ("inf", "inf"),
            ("-inf", "-inf"),
            ("0x1p-16445", "3.6451995318824746e-4951"),
        ] {
            let number = LongDouble::parse(text.as_bytes()).expect(text);
            assert_eq!(number.format_general(), expected, "{text}");
        }
        let infinite = |text: &str| LongDouble::parse(text.as_bytes()).expect(text);
        assert_eq!(infinite("inf").sum(infinite("-inf")).format_general(), "nan");
        assert_eq!(LongDouble::from_double(0.7).format_general(), "0.69999999999999996");
        for (text, whole) in [
            ("-1.9", Some(-1)),
            ("9223372036854775806.5", Some(i64::MAX - 1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775807.5", None),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
            ("1e4000", None),
            ("inf", None),
        ] {
            assert_eq!(infinite(text).truncated(), whole, "{text}");
        }
    }

    #[test]
    fn sums_print_as_in_redis() {
        for (a, b, expected) in [
            ("10.50", "0.1", "10.6"),
            ("0.1", "0.2", "0.3"),
            ("5.0e3", "2.0e2", "5200"),
            ("3.0e3", "200", "3200"),
            ("1", "-1", "0"),
            ("0", "-0", "0"),
            ("-1e-18", "0", "0"),
            ("-0.5", "0.25", "-0.25"),
            ("9223372036854775807", "1", "9223372036854775808"),
            ("17179869184", "1.5", "17179869185.5"),
            ("1e19", "0", "10000000000000000000"),
            ("1e20", "1", "100000000000000000000"),
            ("0x10", "0", "16"),
            ("0x1.8p1", "0X.8P1", "4"),
            ("1.23456789012345678", "0", "1.23456789012345678"),
            ("3.141592653589793238462643", "0", "3.14159265358979324"),
            ("1e-17", "0", "0.00000000000000001"),
            ("+1", "1", "2"),
            (".5", "5.", "5.5"),
            ("1e-4940", "0", "0"),
        ] {
            assert_eq!(sum(a, b).as_deref(), Some(expected), "{a} + {b}");
        }
        let huge = sum("1e4932", "0").expect("a finite sum");
        assert_eq!(huge.len(), 4933);
        assert!(huge.starts_with("9999999999999999999") || huge.starts_with("1000000000000000000"), "{huge}");
    }

    #[test]
    fn sums_beyond_all_numbers_are_refused() {
        for (a, b) in [("inf", "1"), ("-Infinity", "1"), ("inf", "-inf"), ("1.1e4932", "1.1e4932")] {
            assert_eq!(sum(a, b), None, "{a} + {b}");
        }
    }

    #[test]
    fn what_strtold_does_not_take_whole_is_refused() {
        let long = "1".repeat(TEXT_MAX);
        for text in [
            "",
            "-",
            "+",
            ".",
            "e5",
            "1e",
            "1e+",
            "1e5x",
            " 1",
            "1 ",
            "--1",
            "nan",
            "-nan",
            "0x",
            "0xg",
            "0x1p",
            "1p3",
            "1.2.3",
            "1e4933",
            "1e-5000",
            "1e99999999999999999999",
            "1e-99999999999999999999",
            "0x1p99999999999",
            "infinit",
            "١",
            &long,
        ] {
            assert!(LongDouble::parse(text.as_bytes()).is_none(), "{text}");
        }
        let long = format!("{}e-5000", "9".repeat(TEXT_MAX - 10));
        for text in ["0e99999999999999999999", "0x0p-99999999999", &long, "00012", "0x1p16383", "0x1p-16445"] {
            assert!(LongDouble::parse(text.as_bytes()).is_some(), "{text}");
        }
    }

    #[test]
    fn integers_are_exact() {
        for value in [0, 1, -1, i64::MAX, i64::MIN, 1 << 53] {
            assert_eq!(LongDouble::from_integer(value).format(), value.to_string());
        }
    }
}
