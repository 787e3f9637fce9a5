//! Numbers as text, as C's `printf` writes them.

/// The longest text: a sign, a point, an exponent, and the digits.
pub type NumberText = smallvec::SmallVec<[u8; 40]>;

/// `%.{digits}g`
pub fn general(value: f64, digits: usize) -> NumberText {
    if value.is_nan() {
        return NumberText::from_slice(if value.is_sign_negative() { b"-nan" } else { b"nan" });
    }
    if value.is_infinite() {
        return NumberText::from_slice(if value < 0.0 { b"-inf" } else { b"inf" });
    }
    // Integers are the common case, and exact.
    if value.fract() == 0.0 && value.abs() < 1e14 && digits >= 14 && (value != 0.0 || value.is_sign_positive()) {
        return NumberText::from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    }
    let digits = digits.max(1);
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is an integer");
    let mut text = NumberText::new();
    if (-4..digits as i32).contains(&exponent) {
        let fixed = format!("{value:.*}", (digits as i32 - 1 - exponent) as usize);
        text.extend_from_slice(without_zeros(&fixed).as_bytes());
    } else {
        text.extend_from_slice(without_zeros(mantissa).as_bytes());
        text.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        text.extend_from_slice(format!("{:02}", exponent.abs()).as_bytes());
    }
    text
}

/// A fraction without its last zeros.
fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// The number that a value is.
pub fn of_value(value: &mlua::Value) -> Option<f64> {
    match value {
        mlua::Value::Integer(value) => Some(*value as f64),
        mlua::Value::Number(value) => Some(*value),
        _ => None,
    }
}

/// A number as an argument of a command: an integer in full, another with the digits that tell it from all others.
pub fn argument(value: f64) -> NumberText {
    if value.fract() == 0.0 && value.abs() < 9_223_372_036_854_774_784.0 {
        return NumberText::from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    }
    general(value, 17)
}

/// A number as C's `strtod` reads it, of the whole text but for spaces around it. `None`: it is none.
pub fn parse(text: &[u8]) -> Option<f64> {
    let trimmed = text.trim_ascii();
    let (value, len) = parse_prefix(trimmed)?;
    (len == trimmed.len()).then_some(value)
}

/// A number at the beginning of `text`, and the length of its text, as `strtod` reads it: decimal, hexadecimal, `inf` or
/// `nan`.
pub fn parse_prefix(text: &[u8]) -> Option<(f64, usize)> {
    let (negative, sign) = match text.first()? {
        b'-' => (true, 1),
        b'+' => (false, 1),
        _ => (false, 0),
    };
    let rest = &text[sign..];
    let starts = |word: &[u8]| rest.len() >= word.len() && rest[..word.len()].eq_ignore_ascii_case(word);
    let signed = |value: f64| if negative { -value } else { value };
    if starts(b"infinity") {
        return Some((signed(f64::INFINITY), sign + 8));
    }
    if starts(b"inf") {
        return Some((signed(f64::INFINITY), sign + 3));
    }
    if starts(b"nan") {
        return Some((signed(f64::NAN), sign + 3));
    }
    if starts(b"0x") && rest.get(2).is_some_and(|byte| byte.is_ascii_hexdigit() || *byte == b'.') {
        let (value, len) = hexadecimal(&rest[2..]);
        if len > 0 {
            return Some((signed(value), sign + 2 + len));
        }
    }
    if !matches!(rest.first()?, b'0'..=b'9' | b'.') {
        return None;
    }
    let (value, len) = fast_float2::parse_partial::<f64, _>(rest).ok()?;
    (len > 0).then_some((signed(value), sign + len))
}

fn hexadecimal(text: &[u8]) -> (f64, usize) {
    let (mut value, mut exponent, mut at, mut seen, mut after_point) = (0.0f64, 0i32, 0, false, false);
    while let Some(&byte) = text.get(at) {
        match char::from(byte).to_digit(16) {
            Some(digit) => {
                value = value * 16.0 + f64::from(digit);
                exponent -= if after_point { 4 } else { 0 };
                seen = true;
            }
            None if byte == b'.' && !after_point => after_point = true,
            None => break,
        }
        at += 1;
    }
    if !seen {
        return (0.0, 0);
    }
    if matches!(text.get(at), Some(b'p' | b'P')) {
        let (negative, sign) = match text.get(at + 1) {
            Some(b'-') => (true, 1),
            Some(b'+') => (false, 1),
            _ => (false, 0),
        };
        let digits = text[at + 1 + sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 0 {
            let power = text[at + 1 + sign..at + 1 + sign + digits].iter();
            let power =
                power.fold(0i32, |power, digit| power.saturating_mul(10).saturating_add(i32::from(digit - b'0')));
            exponent = exponent.saturating_add(if negative { -power } else { power });
            at += 1 + sign + digits;
        }
    }
    (value * f64::powi(2.0, exponent), at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_c_writes_them() {
        for (value, digits, text) in [
            (0.0, 14, "0"),
            (-0.0, 14, "-0"),
            (1.0, 14, "1"),
            (-7.0, 14, "-7"),
            (0.1, 14, "0.1"),
            (0.1, 17, "0.10000000000000001"),
            (3.0e-5, 14, "3e-05"),
            (0.0001, 14, "0.0001"),
            (1e14, 14, "1e+14"),
            (99_999_999_999_999.0, 14, "99999999999999"),
            (123_456_789_012_345.0, 14, "1.2345678901234e+14"),
            (1e100, 14, "1e+100"),
            (1.5, 14, "1.5"),
            (1.0 / 3.0, 14, "0.33333333333333"),
            (1.0 / 3.0, 3, "0.333"),
            (f64::INFINITY, 14, "inf"),
            (f64::NEG_INFINITY, 14, "-inf"),
            (1234.5, 3, "1.23e+03"),
        ] {
            assert_eq!(String::from_utf8_lossy(&general(value, digits)), text, "{value}");
        }
        for (value, text) in
            [(3.0, "3"), (1e17, "100000000000000000"), (0.5, "0.5"), (1e300, "1.0000000000000001e+300")]
        {
            assert_eq!(String::from_utf8_lossy(&argument(value)), text, "{value}");
        }
    }

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (text, value) in [
            ("1", Some(1.0)),
            (" -2.5e3 ", Some(-2500.0)),
            ("0x10", Some(16.0)),
            ("-0x.8p1", Some(-1.0)),
            ("inf", Some(f64::INFINITY)),
            (".5", Some(0.5)),
            ("", None),
            ("x", None),
            ("1x", None),
            ("-", None),
        ] {
            assert_eq!(parse(text.as_bytes()), value, "{text}");
        }
        assert_eq!(parse_prefix(b"12,3"), Some((12.0, 2)));
    }
}
