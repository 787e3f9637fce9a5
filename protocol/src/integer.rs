//! Integers in decimal digits, written where they belong.

/// The bytes of an integer in decimal digits, with its sign.
#[inline]
pub(crate) fn integer_len(value: i64) -> usize {
    let digits = value.unsigned_abs().checked_ilog10().map_or(1, |exponent| exponent as usize + 1);
    digits + usize::from(value < 0)
}

/// Writes an integer in decimal digits to `text`, which has [its length](integer_len).
#[inline]
pub(crate) fn write_integer(text: &mut [u8], value: i64) {
    const PAIRS: [[u8; 2]; 100] = {
        let mut pairs = [[0; 2]; 100];
        let mut pair = 0;
        while pair < 100 {
            pairs[pair] = [b'0' + pair as u8 / 10, b'0' + pair as u8 % 10];
            pair += 1;
        }
        pairs
    };
    let (mut rest, mut end) = (value.unsigned_abs(), text.len());
    while rest >= 10 {
        end -= 2;
        text[end..end + 2].copy_from_slice(&PAIRS[(rest % 100) as usize]);
        rest /= 100;
    }
    if rest > 0 || value == 0 {
        text[end - 1] = b'0' + rest as u8;
    }
    if value < 0 {
        text[0] = b'-';
    }
}
