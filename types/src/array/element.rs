//! Elements of arrays: texts, packed as tightly as their content allows.
//!
//! A packed element is a code of one byte, which is kept apart, and a payload whose length follows from the code:
//!
//! | code | payload | element |
//! | --- | --- | --- |
//! | 0 | | none |
//! | 1 to 8 | so many bytes, little endian | the canonical text of an integer |
//! | 9 | | a text of more than [`INLINE_MAX`] bytes, which the array keeps elsewhere |
//! | 10 to 17 | scale, 1 to 8 bytes | a decimal: the integer, with a point before its last `scale` digits |
//! | 18 + n | n bytes | a text of n bytes |
//!
//! A decimal is kept as digits and not as a double, so every text survives as it is: `1.50`, `0.30000000000000004`.

use dormouse_protocol::format_double;

use crate::entry::canonical_integer;

/// No element.
pub(super) const NONE: u8 = 0;
/// A text that the array keeps elsewhere.
pub(super) const LARGE: u8 = 9;
const DECIMAL: u8 = LARGE;
const TEXT: u8 = 18;

/// The longest text that is packed together with its neighbours.
pub const INLINE_MAX: usize = 192;

/// The most digits that a decimal has beside zeros in front: they fit 63 bits.
const DIGITS_MAX: usize = 18;
/// The most digits that a decimal has behind its point.
const SCALE_MAX: usize = 22;

/// The payload's bytes for each code.
static LENGTHS: [u8; 256] = {
    let mut lengths = [0; 256];
    let mut code = 0;
    while code < 256 {
        lengths[code] = match code as u8 {
            NONE | LARGE => 0,
            width @ 1..=8 => width,
            code @ 10..=17 => 1 + code - DECIMAL,
            code => code - TEXT,
        };
        code += 1;
    }
    lengths
};

/// The bytes of the payload of an element with this code.
#[inline(always)]
pub(super) fn length(code: u8) -> usize {
    usize::from(LENGTHS[usize::from(code)])
}

/// The most elements that are packed together.
pub(super) const TOGETHER_MAX: usize = 64;

/// The bytes of the payloads of elements with these codes, [`TOGETHER_MAX`] at most.
#[inline]
pub(super) fn lengths(codes: &[u8]) -> usize {
    debug_assert!(codes.len() <= TOGETHER_MAX, "so few have less than 64 KiB");
    // Computed and not looked up, in 16 bits, several lengths are added at once.
    let length = |code: u8| match code {
        TEXT.. => code - TEXT,
        10.. => code - (DECIMAL - 1),
        LARGE => 0,
        width => width,
    };
    usize::from(codes.iter().fold(0u16, |sum, code| sum.wrapping_add(u16::from(length(*code)))))
}

/// A number with a point in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    digits: i64,
    scale: u8,
}

/// An element of an array.
#[derive(Clone, Copy, Debug)]
pub enum Element<'a> {
    Int(i64),
    Decimal(Decimal),
    Text(&'a [u8]),
}

/// Room for the text of a number.
pub struct ElementText {
    integer: itoa::Buffer,
    decimal: [u8; 28],
}

impl ElementText {
    #[inline]
    #[allow(clippy::new_without_default, reason = "room is made where it is used, never as part of a default")]
    pub fn new() -> Self {
        ElementText { integer: itoa::Buffer::new(), decimal: [0; 28] }
    }
}

impl<'a> Element<'a> {
    /// The element's text; `room` is only written to when the element is a number.
    #[inline]
    pub fn text<'b>(self, room: &'b mut ElementText) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Element::Int(number) => room.integer.format(number).as_bytes(),
            Element::Decimal(decimal) => decimal.format(&mut room.decimal),
            Element::Text(text) => text,
        }
    }

    pub fn with_text<R>(self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(self.text(&mut ElementText::new()))
    }

    pub fn to_vec(self) -> Vec<u8> {
        self.with_text(<[u8]>::to_vec)
    }

    /// The element of a text.
    pub fn parse(text: &'a [u8]) -> Self {
        match canonical_integer(text) {
            Some(number) => Element::Int(number),
            None => Decimal::parse(text).map_or(Element::Text(text), Element::Decimal),
        }
    }

    /// The element that a code and its payload are. A large one is kept elsewhere, and is not asked for here.
    #[inline]
    pub(super) fn unpack(code: u8, payload: &'a [u8]) -> Self {
        match code {
            1..=8 => Element::Int(integer(payload)),
            10..=17 => {
                let (scale, digits) = payload.split_first().unwrap_or((&0, &[]));
                Element::Decimal(Decimal { digits: integer(digits), scale: *scale })
            }
            _ => Element::Text(payload),
        }
    }
}

impl PartialEq for Element<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.with_text(|own| other.with_text(|other| own == other))
    }
}

impl Decimal {
    /// The decimal whose text this is: digits on both sides of a point, no zeros in front of others, no `-0`.
    fn parse(text: &[u8]) -> Option<Self> {
        let (is_negative, digits) = match text {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        let point = digits.iter().take(DIGITS_MAX + 1).position(|byte| *byte == b'.')?;
        let (whole, fraction) = (&digits[..point], &digits[point + 1..]);
        if whole.is_empty() || whole.len() > 1 && whole[0] == b'0' || !(1..=SCALE_MAX).contains(&fraction.len()) {
            return None;
        }
        let (mut value, mut count) = (0i64, 0);
        for byte in whole.iter().chain(fraction) {
            let digit = byte.wrapping_sub(b'0');
            count += usize::from(digit != 0 || value != 0);
            if digit > 9 || count > DIGITS_MAX {
                return None;
            }
            value = value * 10 + i64::from(digit);
        }
        if is_negative && value == 0 {
            return None;
        }
        Some(Decimal { digits: if is_negative { -value } else { value }, scale: fraction.len() as u8 })
    }

    fn format(self, room: &mut [u8; 28]) -> &[u8] {
        let mut rest = self.digits.unsigned_abs();
        let mut at = room.len();
        let mut behind = 0;
        // One digit at least stands before the point.
        while rest > 0 || behind <= self.scale {
            if behind == self.scale {
                at -= 1;
                room[at] = b'.';
            }
            at -= 1;
            room[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            behind += 1;
        }
        if self.digits < 0 {
            at -= 1;
            room[at] = b'-';
        }
        &room[at..]
    }
}

/// The double that Redis keeps in place of a text.
pub fn double_of(text: &[u8]) -> Option<f64> {
    const POINT: u8 = b'.';
    const DOUBLE_TEXT_MAX: usize = 32;
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.len() > DOUBLE_TEXT_MAX {
        return None;
    }
    let is_number = digits.iter().all(|byte| byte.is_ascii_digit() || *byte == POINT);
    let points = || digits.iter().filter(|byte| **byte == POINT).count();
    if !is_number || points() != 1 {
        return None;
    }
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (value.to_bits() & 3 == 0 && *text_of_double(value) == *text).then_some(value)
}

/// The text of a double that Redis has kept: with a point, unless it has an exponent or is not finite.
pub fn text_of_double(value: f64) -> Vec<u8> {
    let mut text = format_double(value).to_vec();
    if value.is_finite() && !text.iter().any(|byte| matches!(byte, b'.' | b'e')) {
        text.extend_from_slice(b".0");
    }
    text
}

/// An element on its way into an array.
#[derive(Clone, Copy)]
pub(super) struct Packing<'a> {
    pub code: u8,
    number: [u8; 9],
    text: &'a [u8],
}

impl<'a> Packing<'a> {
    #[inline]
    pub fn of(text: &'a [u8]) -> Self {
        if let Some(first) = text.first()
            && (first.is_ascii_digit() || *first == b'-')
        {
            if let Some(number) = canonical_integer(text) {
                let mut packing = Packing { code: width(number) as u8, number: [0; 9], text: &[] };
                packing.number[..8].copy_from_slice(&number.to_le_bytes());
                return packing;
            }
            if let Some(decimal) = Decimal::parse(text) {
                let code = DECIMAL + width(decimal.digits) as u8;
                let mut packing = Packing { code, number: [0; 9], text: &[] };
                packing.number[0] = decimal.scale;
                packing.number[1..].copy_from_slice(&decimal.digits.to_le_bytes());
                return packing;
            }
        }
        let code = if text.len() > INLINE_MAX { LARGE } else { TEXT + text.len() as u8 };
        Packing { code, number: [0; 9], text }
    }

    /// The part that is packed with the neighbours.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        match self.code {
            LARGE => &[],
            code if code < TEXT => &self.number[..length(code)],
            _ => self.text,
        }
    }
}

/// The fewest bytes that hold a number.
#[inline]
fn width(number: i64) -> usize {
    let bits = 65 - (number ^ (number >> 63)).leading_zeros() as usize;
    bits.div_ceil(8)
}

/// The number in up to eight bytes. Its ends are read at once and may overlap: a copy of so few bytes is a call.
#[inline]
fn integer(bytes: &[u8]) -> i64 {
    let bits = match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>(), bytes) {
        (Some(low), Some(high), _) => {
            let above = 8 * (bytes.len().min(8) - 4);
            u64::from(u32::from_le_bytes(*low)) | u64::from(u32::from_le_bytes(*high)) << above
        }
        (_, _, [a]) => u64::from(*a),
        (_, _, [a, b]) => u64::from(u16::from_le_bytes([*a, *b])),
        (_, _, [a, b, c]) => u64::from(u32::from_le_bytes([*a, *b, *c, 0])),
        _ => return 0,
    };
    let unused = 64 - 8 * bytes.len().min(8);
    (bits << unused) as i64 >> unused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(text: &[u8]) -> (u8, Vec<u8>) {
        let packing = Packing::of(text);
        assert_eq!(packing.payload().len(), length(packing.code));
        (packing.code, packing.payload().to_vec())
    }

    #[test]
    fn every_text_survives() {
        let mut texts: Vec<String> = [
            "",
            "-",
            ".",
            "0",
            "-0",
            "1",
            "-1",
            "127",
            "128",
            "-128",
            "-129",
            "32767",
            "32768",
            "8388607",
            "8388608",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "0.0",
            "-0.0",
            "0.5",
            "-0.5",
            "1.",
            ".5",
            "00.5",
            "1.50",
            "-12.340",
            "123456789.123456789",
            "1234567890.123456789",
            "0.30000000000000004",
            "0.0000000000000000000001",
            "0.00000000000000000000001",
            "1e5",
            "1.5e5",
            "1..5",
            "1.5.",
            "nan",
            "a.b",
            "-1234567890123456.78",
            "99999999999999999.9",
            "999999999999999999.9",
            "12345678901234567890.1",
        ]
        .iter()
        .map(|text| text.to_string())
        .collect();
        texts.extend((0..64).flat_map(|shift| [(1i64 << shift).to_string(), (-1i64 << shift).to_string()]));
        texts.extend((0..=INLINE_MAX).map(|len| "x".repeat(len)));
        for text in texts {
            let (code, payload) = packed(text.as_bytes());
            assert_ne!(code, NONE, "{text}");
            assert_eq!(Element::unpack(code, &payload).to_vec(), text.as_bytes(), "code {code}");
        }
        assert_eq!(packed(&[b'x'; INLINE_MAX + 1]), (LARGE, Vec::new()));
    }

    #[test]
    fn lengths_are_those_of_the_table() {
        for code in 0..=u8::MAX {
            assert_eq!(lengths(&[code; 3]), 3 * length(code), "code {code}");
        }
        assert_eq!(lengths(&[TEXT + INLINE_MAX as u8; TOGETHER_MAX]), INLINE_MAX * TOGETHER_MAX);
        assert_eq!(lengths(&[u8::MAX; TOGETHER_MAX]), TOGETHER_MAX * length(u8::MAX));
    }

    #[test]
    fn numbers_take_few_bytes() {
        for (text, bytes) in [
            ("0", 1),
            ("-128", 1),
            ("128", 2),
            ("99999", 3),
            ("2147483647", 4),
            ("1767225600000", 6),
            ("9223372036854775807", 8),
            ("1.5", 2),
            ("123.45", 3),
            ("0.30000000000000004", 8),
            ("-0", 2),
            ("1.", 2),
        ] {
            assert_eq!(packed(text.as_bytes()).1.len(), bytes, "{text}");
        }
    }
}
