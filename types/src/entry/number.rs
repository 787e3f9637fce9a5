//! Integers in their one canonical spelling.

/// The number that these bytes spell exactly as Redis would print it: no sign but `-`, no leading zeros, no spaces.
pub fn canonical_integer(bytes: &[u8]) -> Option<i64> {
    const DIGITS_MAX: usize = 19;
    let (digits, is_negative) = match bytes {
        [b'0'] => return Some(0),
        [b'-', digits @ ..] => (digits, true),
        digits => (digits, false),
    };
    if !matches!(digits.first(), Some(b'1'..=b'9')) || digits.len() > DIGITS_MAX {
        return None;
    }
    let mut magnitude = 0u64;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // Nineteen digits are below 2^64.
        magnitude = magnitude * 10 + u64::from(digit);
    }
    if is_negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// The smallest of 1, 2, 4 and 8 bytes that hold the number.
pub fn width(number: i64) -> usize {
    match number {
        _ if i8::try_from(number).is_ok() => 1,
        _ if i16::try_from(number).is_ok() => 2,
        _ if i32::try_from(number).is_ok() => 4,
        _ => 8,
    }
}

/// The number in its first `width` bytes, little endian.
#[inline]
pub fn decode(bytes: &[u8]) -> i64 {
    match *bytes {
        [a] => i64::from(a as i8),
        [a, b] => i64::from(i16::from_le_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => unreachable!("a number takes 1, 2, 4 or 8 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_prints_the_same_is_a_number() {
        for number in [0, 1, -1, 9, 10, -10, 127, 128, 32768, i64::from(i32::MIN), i64::MAX, i64::MIN, i64::MAX - 1] {
            assert_eq!(canonical_integer(number.to_string().as_bytes()), Some(number));
            let bytes = number.to_le_bytes();
            assert_eq!(decode(&bytes[..width(number)]), number);
        }
        for text in [
            "",
            "-",
            "-0",
            "+1",
            "01",
            "-01",
            " 1",
            "1 ",
            "1a",
            "a",
            "0x1",
            "1.0",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "18446744073709551616",
            "--1",
            "1-",
        ] {
            assert_eq!(canonical_integer(text.as_bytes()), None, "{text:?}");
        }
    }
}
