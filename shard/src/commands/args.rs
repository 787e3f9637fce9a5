//! Arguments that parse themselves: the tuple of types that a command's function takes *is* its syntax.
//!
//! Each type takes its words from the front of [`Args`] and brings its exact Redis error. [`parse`] refuses leftover
//! words, so a command never runs on a half-read request.

use dormouse_protocol::Request;

use crate::error::{Error, Result, repeated};

/// A cursor over the arguments after the command's name.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    request: Request<'a>,
    next: usize,
}

impl<'a> Args<'a> {
    /// `skip`: words of the name, 1 for `GET`, 2 for `OBJECT ENCODING`.
    #[inline]
    pub fn new(request: Request<'a>, skip: usize) -> Self {
        Self { request, next: skip }
    }

    /// The command's name as error texts have it.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(self.request.arg(0)).to_lowercase()
    }

    /// The name of a subcommand as error texts repeat it.
    pub fn subcommand(&self) -> String {
        self.request.get(1).map(|word| repeated(word).into_owned()).unwrap_or_default()
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.request.len() - self.next
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub fn peek(&self) -> Option<&'a [u8]> {
        self.request.get(self.next)
    }

    /// The next argument; a syntax error where there is none.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let bytes = self.peek().ok_or(Error::Syntax)?;
        self.next += 1;
        Ok(bytes)
    }

    #[inline]
    pub fn take<T: Argument<'a>>(&mut self) -> Result<T> {
        T::take(self)
    }

    /// Takes the next argument if it is `word`, in any case. `word` is upper case.
    pub fn word(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|next| next.eq_ignore_ascii_case(word.as_bytes()));
        self.next += usize::from(found);
        found
    }

    /// The next argument in upper case, for matching options; not taken. Longer than 16 bytes: the empty word.
    pub fn upper(&self) -> Option<Word> {
        self.peek().map(Word::new)
    }

    /// Takes the next argument.
    pub fn skip(&mut self) {
        self.next += 1;
    }

    /// The arguments that are left.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let (request, next) = (self.request, self.next);
        (next..request.len()).map(move |i| request.arg(i))
    }

    /// The next `count` arguments.
    #[inline]
    pub fn split_to(&mut self, count: usize) -> Result<Rest<'a>> {
        if count > self.len() {
            return Err(Error::Syntax);
        }
        let rest = Rest { request: self.request, start: self.next, end: self.next + count };
        self.next += count;
        Ok(rest)
    }
}

/// Up to 16 bytes in upper case, to match option names without allocating.
#[derive(Debug, Clone, Copy)]
pub struct Word([u8; 16], u8);

impl Word {
    pub fn new(bytes: &[u8]) -> Self {
        let mut word = Self([0; 16], 0);
        if bytes.len() <= 16 {
            word.1 = bytes.len() as u8;
            for (upper, byte) in word.0.iter_mut().zip(bytes) {
                *upper = byte.to_ascii_uppercase();
            }
        }
        word
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0[..usize::from(self.1)]
    }
}

/// A type that an argument, or a run of them, can be read as.
pub trait Argument<'a>: Sized {
    fn take(args: &mut Args<'a>) -> Result<Self>;
}

/// Reads all arguments after the name's `skip` words as a `T`; a syntax error when something is left.
#[inline]
pub fn parse<'a, T: Argument<'a>>(request: Request<'a>, skip: usize) -> Result<T> {
    let mut args = Args::new(request, skip);
    let parsed = T::take(&mut args)?;
    if args.is_empty() { Ok(parsed) } else { Err(Error::Syntax) }
}

impl<'a> Argument<'a> for &'a [u8] {
    #[inline]
    fn take(args: &mut Args<'a>) -> Result<Self> {
        args.bytes()
    }
}

/// A signed 64-bit integer as Redis reads it: canonical decimal, no spaces, no plus sign.
impl<'a> Argument<'a> for i64 {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        integer(args.bytes()?)
    }
}

/// A finite or infinite double; not NaN.
impl<'a> Argument<'a> for f64 {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        float(args.bytes()?)
    }
}

/// All arguments that are left, to be parsed later: a command that first looks at its key takes them so.
impl<'a> Argument<'a> for Args<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let later = *args;
        args.next = args.request.len();
        Ok(later)
    }
}

impl<'a, T: Argument<'a>> Argument<'a> for Option<T> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.is_empty() { Ok(None) } else { T::take(args).map(Some) }
    }
}

impl<'a> Argument<'a> for () {
    fn take(_: &mut Args<'a>) -> Result<Self> {
        Ok(())
    }
}

macro_rules! tuples {
    ($($name:ident)+) => {
        impl<'a, $($name: Argument<'a>),+> Argument<'a> for ($($name,)+) {
            #[inline]
            fn take(args: &mut Args<'a>) -> Result<Self> {
                Ok(($($name::take(args)?,)+))
            }
        }
    };
}
tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);

/// A run of arguments: all that are left, as an argument type.
#[derive(Debug, Clone, Copy)]
pub struct Rest<'a> {
    request: Request<'a>,
    start: usize,
    end: usize,
}

impl<'a> Rest<'a> {
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// # Panics
    /// If `index` is out of range.
    pub fn at(&self, index: usize) -> &'a [u8] {
        assert!(index < self.len());
        self.request.arg(self.start + index)
    }

    /// The first `count` of them and the rest; `None` if there are fewer.
    pub fn split_at(&self, count: usize) -> Option<(Self, Self)> {
        let middle = self.start.checked_add(count).filter(|middle| *middle <= self.end)?;
        Some((Self { end: middle, ..*self }, Self { start: middle, ..*self }))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone + use<'a> {
        let (request, start, end) = (self.request, self.start, self.end);
        (start..end).map(move |i| request.arg(i))
    }
}

impl<'a> Argument<'a> for Rest<'a> {
    #[inline]
    fn take(args: &mut Args<'a>) -> Result<Self> {
        args.split_to(args.len())
    }
}

/// The last argument, if any. More than one is a syntax error, whatever it says: Redis looks at their number first.
#[derive(Debug, Clone, Copy)]
pub struct Last<T>(pub Option<T>);

impl<'a, T: Argument<'a>> Argument<'a> for Last<T> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.len() > 1 { Err(Error::Syntax) } else { args.take().map(Last) }
    }
}

/// The last argument of a subcommand, if any. For more, Redis says the same as for an unknown subcommand.
#[derive(Debug, Clone, Copy)]
pub struct LastOfSubcommand<T>(pub Option<T>);

impl<'a, T: Argument<'a>> Argument<'a> for LastOfSubcommand<T> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.len() <= 1 {
            return args.take().map(Self);
        }
        let (container, subcommand) = (repeated(args.request.arg(0)).to_uppercase(), repeated(args.request.arg(1)));
        Err(Error::Text(
            format!("ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try {container} HELP.")
                .into(),
        ))
    }
}

/// `numkeys key [key ...]`
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a>(pub Rest<'a>);

impl<'a> Argument<'a> for Counted<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let count: i64 = args.take().map_err(|_| Error::NumkeysNotPositive)?;
        if count <= 0 {
            return Err(Error::NumkeysNotPositive);
        }
        let count = usize::try_from(count).map_err(|_| Error::NumkeysTooLarge)?;
        if count > args.len() {
            return Err(Error::NumkeysTooLarge);
        }
        args.split_to(count).map(Counted)
    }
}

/// Pairs of arguments to the end: `field value [field value ...]`.
#[derive(Debug, Clone, Copy)]
pub struct Pairs<'a>(Rest<'a>);

impl<'a> Pairs<'a> {
    pub fn new(rest: Rest<'a>) -> Option<Self> {
        (rest.len().is_multiple_of(2) && !rest.is_empty()).then_some(Self(rest))
    }

    pub fn len(&self) -> usize {
        self.0.len() / 2
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + DoubleEndedIterator + Clone + use<'a> {
        let rest = self.0;
        (0..self.len()).map(move |i| (rest.at(2 * i), rest.at(2 * i + 1)))
    }
}

/// Reads a canonical decimal i64 (what `string2ll` takes).
pub fn integer(bytes: &[u8]) -> Result<i64> {
    canonical_integer(bytes).ok_or(Error::NotAnInteger)
}

/// The i64 that `bytes` spells canonically: `-0`, `+1`, `01` and spaces are none.
pub fn canonical_integer(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] => return (!negative).then_some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    if negative { (value <= 1 << 63).then(|| (value as i64).wrapping_neg()) } else { i64::try_from(value).ok() }
}

/// Reads a double as Redis does: decimal or hexadecimal, with an exponent, or an infinity; NaN is refused.
pub fn float(bytes: &[u8]) -> Result<f64> {
    parse_double(bytes).ok_or(Error::NotAFloat)
}

/// The double that `bytes` spells, infinities included; NaN, surrounding spaces and values out of range give `None`.
pub fn parse_double(bytes: &[u8]) -> Option<f64> {
    let value = strtod(bytes)?;
    let vanished = value == 0.0 && bytes.split(|byte| b"eEpP".contains(byte)).next().is_some_and(has_value);
    let overflowed = value.is_infinite() && bytes.iter().any(u8::is_ascii_digit);
    (!vanished && !overflowed).then_some(value)
}

/// A double as the ends of ranges are read: as a C string, which a zero byte ends, behind spaces; an empty one is 0,
/// and a value out of range is infinite.
pub fn parse_bound(bytes: &[u8]) -> Option<f64> {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    if text.is_empty() { Some(0.0) } else { strtod(text.trim_ascii_start()) }
}

/// The value of C's `strtod` for the whole of `bytes`, without NaN and leading spaces.
fn strtod(bytes: &[u8]) -> Option<f64> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let value = match digits {
        [b'0', b'x' | b'X', rest @ ..] => hexadecimal(rest)?,
        // Inputs that fast-float would accept beyond strtod: "nan" and a second sign.
        [b'0'..=b'9' | b'.', ..] => fast_float2::parse(digits).ok()?,
        _ if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") => f64::INFINITY,
        _ => return None,
    };
    Some(if negative { -value } else { value })
}

/// Hexadecimal digits, perhaps with a point and a binary exponent: `1.8p1` is 3.
fn hexadecimal(bytes: &[u8]) -> Option<f64> {
    let mut parts = bytes.splitn(2, |byte| matches!(byte, b'p' | b'P'));
    let significand = parts.next()?;
    let mut exponent = parts.next().map_or(Some(0), binary_exponent)?;
    let (mut mantissa, mut is_fraction, mut digits) = (0u64, false, 0);
    for byte in significand {
        if *byte == b'.' && !is_fraction {
            is_fraction = true;
            continue;
        }
        let digit = u64::from(char::from(*byte).to_digit(16)?);
        digits += 1;
        if mantissa >> 59 == 0 {
            mantissa = mantissa << 4 | digit;
            exponent -= if is_fraction { 4 } else { 0 };
        } else {
            // Digits beyond the precision of a double only say on which side of a tie the number lies.
            mantissa |= u64::from(digit != 0);
            exponent += if is_fraction { 0 } else { 4 };
        }
    }
    // In two steps, since a power of two may be out of range where the product is not.
    let exponent = exponent.clamp(-2000, 2000) as i32;
    let (half, rest) = (exponent / 2, exponent - exponent / 2);
    (digits > 0).then(|| mantissa as f64 * 2f64.powi(half) * 2f64.powi(rest))
}

/// Saturates far out of range, and far from overflow.
fn binary_exponent(bytes: &[u8]) -> Option<i64> {
    let digits = bytes.strip_prefix(b"-").or(bytes.strip_prefix(b"+")).unwrap_or(bytes);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = digits.iter().fold(0i64, |sum, digit| (sum * 10 + i64::from(digit - b'0')).min(1 << 40));
    Some(if bytes[0] == b'-' { -size } else { size })
}

/// Whether the digits of a number, as far as its exponent, are more than zeros.
fn has_value(digits: &[u8]) -> bool {
    let digits = digits.iter().filter(|byte| byte.is_ascii_hexdigit());
    digits.clone().any(|byte| *byte != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_integers() {
        for n in [0, 1, -1, 10, i64::MAX, i64::MIN, 1234567890123456789] {
            assert_eq!(canonical_integer(n.to_string().as_bytes()), Some(n));
        }
        for bad in [
            "",
            "-",
            "-0",
            "+1",
            "01",
            "1 ",
            " 1",
            "9223372036854775808",
            "-9223372036854775809",
            "1e3",
            "99999999999999999999",
        ] {
            assert_eq!(canonical_integer(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn doubles() {
        for (text, value) in [
            ("1", 1.0),
            ("-1.5", -1.5),
            ("1e3", 1e3),
            (".5", 0.5),
            ("+inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("0x10", 16.0),
            ("-0X1.8p1", -3.0),
            ("0x.8", 0.5),
            ("0x1p-1074", 5e-324),
            ("0x123456789abcdef01", 0x12_3456_789a_bcdf_u64 as f64 * 4096.0),
            ("0x1.fffffffffffff8p0", 2.0),
            ("0x1.fffffffffffff7p0", 1.9999999999999998),
            ("0x0p99999999999999999999", 0.0),
            ("0e5", 0.0),
            ("1e-320", 1e-320),
        ] {
            assert_eq!(parse_double(text.as_bytes()), Some(value), "{text}");
        }
        for bad in [
            "",
            "nan",
            "--1",
            " 1",
            "1 ",
            "1x",
            "-",
            "+",
            "-nan",
            "1e999",
            "+-1",
            "0x",
            "0x1p",
            "0x1.2.3",
            "0xg",
            "0x1p1024",
            "0x1p-1080",
            "1e-400",
            "1\0",
        ] {
            assert_eq!(parse_double(bad.as_bytes()), None, "{bad}");
        }
        for (text, value) in [("", 0.0), ("\t 5", 5.0), ("7\0junk", 7.0), ("1e999", f64::INFINITY), ("1e-999", 0.0)] {
            assert_eq!(parse_bound(text.as_bytes()), Some(value), "{text}");
        }
        for bad in [" ", "5 ", "nan", "- 5", "(5"] {
            assert_eq!(parse_bound(bad.as_bytes()), None, "{bad}");
        }
    }
}
