//! Floating point numbers in text, as Redis 7.2 spells scores.
//!
//! 1. Whole numbers within 62 bits are written as integers, all their digits: `3`, `1000000000000000000`.
//! 2. All other numbers get the shortest digits that read back as the same number: digits `d1 d2 .. dn` and a power of
//!    ten `k`, so that the number is `d1d2..dn * 10^k`. Redis finds them with Grisu2, which misses the shortest (or the
//!    closest of the shortest) once in a thousand numbers, as in `776.9154943999999`; here it is `776.9154944`, the
//!    same number.
//! 3. The digits are laid out by the rules of Redis's fpconv library, whose thresholds are its own: see [`lay_out`].

use std::ops::Deref;

/// A number's text, at most 25 bytes, on the stack.
#[derive(Clone, Copy)]
pub struct FormattedDouble {
    bytes: [u8; 32],
    len: u8,
}

impl Deref for FormattedDouble {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Spells `value` as Redis 7.2 does: `3`, `3.1`, `1e+20`, `1.5e-7`, `-0`, `inf`, `-inf`, `nan`.
pub fn format_double(value: f64) -> FormattedDouble {
    let mut text = FormattedDouble { bytes: [0; 32], len: 0 };
    if value.is_nan() {
        text.push(b"nan");
    } else if value.is_infinite() {
        text.push(if value > 0.0 { b"inf" } else { b"-inf" });
    } else if value == 0.0 {
        text.push(if value.is_sign_negative() { b"-0" } else { b"0" });
    } else if let Some(whole) = small_whole(value) {
        text.push(itoa::Buffer::new().format(whole).as_bytes());
    } else {
        if value < 0.0 {
            text.push(b"-");
        }
        let digits = Digits::shortest(value.abs());
        lay_out(&digits, &mut text);
    }
    text
}

impl FormattedDouble {
    fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    fn push_zeros(&mut self, count: usize) {
        self.push(&[b'0'; 8][..count]);
    }
}

/// A whole number that certainly fits 64 bits.
fn small_whole(value: f64) -> Option<i64> {
    let range = -((1_i64 << 62) as f64)..=(1_i64 << 62) as f64;
    let whole = value as i64;
    (range.contains(&value) && whole as f64 == value).then_some(whole)
}

/// Up to 17 significant digits without zeros at either end, times ten to the power of `exponent`.
struct Digits {
    digits: [u8; 17],
    len: usize,
    exponent: i32,
}

impl Digits {
    /// The shortest digits of a finite number above zero.
    fn shortest(value: f64) -> Self {
        let mut buffer = ryu::Buffer::new();
        let text = buffer.format_finite(value).as_bytes();
        let (mantissa, exponent) = match memchr::memchr(b'e', text) {
            Some(e) => (&text[..e], small_integer(&text[e + 1..])),
            None => (text, 0),
        };
        let mut number = Self { digits: [0; 17], len: 0, exponent };
        // Zeros are held back until a digit follows: zeros at the end only scale, and leading ones do not count.
        let mut zeros = 0;
        let mut fraction = false;
        for &byte in mantissa {
            if byte == b'.' {
                fraction = true;
                continue;
            }
            number.exponent -= i32::from(fraction);
            if byte == b'0' {
                zeros += 1;
                continue;
            }
            if number.len > 0 {
                number.digits[number.len..number.len + zeros].fill(b'0');
                number.len += zeros;
            }
            zeros = 0;
            number.digits[number.len] = byte;
            number.len += 1;
        }
        number.exponent += zeros as i32;
        number
    }

    fn as_slice(&self) -> &[u8] {
        &self.digits[..self.len]
    }
}

fn small_integer(text: &[u8]) -> i32 {
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        digits => (1, digits),
    };
    sign * digits.iter().fold(0, |number, byte| number * 10 + i32::from(byte - b'0'))
}

/// Fpconv's `emit_digits`: digits alone while at most seven zeros follow them; a decimal point if fewer than seven
/// digits stand behind it or the number lies within `1e-3 .. 1e4`; else an exponent, with its sign and no padding.
/// Thus 123456.7891234, with seven digits behind the point, is `1.234567891234e+5`.
fn lay_out(number: &Digits, text: &mut FormattedDouble) {
    let digits = number.as_slice();
    let behind_first = number.exponent + number.len as i32 - 1;
    let magnitude = behind_first.unsigned_abs() as usize;
    if number.exponent >= 0 && magnitude < digits.len() + 7 {
        text.push(digits);
        text.push_zeros(number.exponent as usize);
    } else if number.exponent < 0 && (number.exponent > -7 || magnitude < 4) {
        let fraction = number.exponent.unsigned_abs() as usize;
        if fraction >= digits.len() {
            text.push(b"0.");
            text.push_zeros(fraction - digits.len());
            text.push(digits);
        } else {
            let (whole, fraction) = digits.split_at(digits.len() - fraction);
            text.push(whole);
            text.push(b".");
            text.push(fraction);
        }
    } else {
        text.push(&digits[..1]);
        if digits.len() > 1 {
            text.push(b".");
            text.push(&digits[1..]);
        }
        text.push(if behind_first < 0 { b"e-" } else { b"e+" });
        text.push(itoa::Buffer::new().format(magnitude).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: f64) -> String {
        String::from_utf8(format_double(value).to_vec()).expect("digits")
    }

    #[test]
    fn spelled_as_redis_does() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (-3.0, "-3"),
            (3.1, "3.1"),
            (0.1 + 0.2, "0.30000000000000004"),
            (100.0, "100"),
            (1e15, "1000000000000000"),
            (4503599627370496.0, "4503599627370496"),
            (-4503599627370496.0, "-4503599627370496"),
            (1e18, "1000000000000000000"),
            (1e19, "1e+19"),
            (-1e19, "-1e+19"),
            (1e20, "1e+20"),
            (1.5e21, "1.5e+21"),
            (4611686018427387904.0, "4611686018427387904"),
            (-4611686018427387904.0, "-4611686018427387904"),
            (4611686018427388928.0, "4611686018427389000"),
            (9007199254740993.0, "9007199254740992"),
            (1234567890123456700.0, "1234567890123456768"),
            (1.2345678901234567e20, "123456789012345670000"),
            (1e100, "1e+100"),
            (1e105, "1e+105"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (-1.7976931348623157e308, "-1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (2.2250738585072014e-308, "2.2250738585072014e-308"),
            (0.5, "0.5"),
            (0.000001, "0.000001"),
            (0.0000015, "1.5e-6"),
            (1e-7, "1e-7"),
            (1.5e-7, "1.5e-7"),
            (1.23e-5, "1.23e-5"),
            (0.00015, "0.00015"),
            (0.0012345678901234567, "0.0012345678901234567"),
            (0.00012345678, "1.2345678e-4"),
            (-0.0012345678901234567, "-0.0012345678901234567"),
            (1234.56789012345, "1234.56789012345"),
            (123456.789123, "123456.789123"),
            (123456.7891234, "1.234567891234e+5"),
            (1625140800.1234567, "1.6251408001234567e+9"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
            (-f64::NAN, "nan"),
        ] {
            assert_eq!(text(value), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn reads_back_as_the_same_number(bits: u64) {
            let value = f64::from_bits(bits);
            if value.is_finite() {
                proptest::prop_assert_eq!(text(value).parse::<f64>().expect("a number").to_bits(), bits);
            }
        }

        #[test]
        fn short_decimals_stay_short(whole in -100_000_i32..100_000, hundredths in 1_u32..100) {
            let spelled = format!("{whole}.{hundredths:02}");
            let value: f64 = spelled.parse().expect("a number");
            let expected = spelled.trim_end_matches('0').trim_end_matches('.');
            proptest::prop_assert_eq!(text(value), if value == 0.0 { "0" } else { expected });
        }
    }
}
