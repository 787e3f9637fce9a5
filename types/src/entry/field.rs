//! A field of a hash, with its value and its expiry.

use std::{fmt, ptr::NonNull};

use super::{
    Entry, block,
    block::{block_size, length_bytes, read_bytes, read_length, write_bytes, write_length},
};

/// A field and its value in one allocation, and the moment at which the field expires, if it does:
///
/// ```text
/// |                      field length (1 or 5) | value length (1 or 5) | field | value |
/// | 254 | expiry (6) |   field length (1 or 5) | value length (1 or 5) | field | value |      with an expiry
/// ```
///
/// A field's length takes five bytes from 254 on, a value's from 255 on. A field that never expires has no byte for it.
pub struct Field(NonNull<u8>);

/// The first byte of a field with an expiry.
const EXPIRES: u8 = 254;
/// The first byte of a field length of four more bytes.
const LONG: u8 = 255;
/// The bytes before the field length of a field with an expiry.
const EXPIRY_BYTES: usize = 7;

// SAFETY: a field owns its allocation alone and is changed through `&mut` only.
unsafe impl Send for Field {}
// SAFETY: as above.
unsafe impl Sync for Field {}

impl Field {
    /// The latest expiry that there can be, in Unix milliseconds: 48 bits, in the year 10889.
    pub const EXPIRY_MAX: u64 = (1 << 48) - 1;

    /// A field that never expires.
    pub fn new(field: &[u8], value: &[u8]) -> Self {
        Self::with_expiry(field, value, None)
    }

    /// `expiry` in Unix milliseconds, at most [`Self::EXPIRY_MAX`].
    pub fn with_expiry(field: &[u8], value: &[u8], expiry: Option<u64>) -> Self {
        let block = block::allocate(needed(field.len(), value.len(), expiry.is_some()));
        // SAFETY: the allocation has room for all of it.
        unsafe {
            let at = match expiry {
                Some(expiry) => {
                    write_expiry(block.as_ptr(), expiry);
                    block.as_ptr().add(EXPIRY_BYTES)
                }
                None => block.as_ptr(),
            };
            let at = write_length(write_field_length(at, field.len()), value.len());
            write_bytes(write_bytes(at, field), value);
        }
        Self(block)
    }

    #[inline]
    pub fn field(&self) -> &[u8] {
        self.parts().0
    }

    #[inline]
    pub fn value(&self) -> &[u8] {
        self.parts().1
    }

    /// When the field expires, in Unix milliseconds.
    #[inline]
    pub fn expiry(&self) -> Option<u64> {
        // SAFETY: the first byte says whether the expiry follows it.
        unsafe {
            let start = self.0.as_ptr();
            (start.read() == EXPIRES).then(|| {
                let mut bytes = [0; 8];
                bytes[..EXPIRY_BYTES - 1].copy_from_slice(read_bytes(start.add(1), EXPIRY_BYTES - 1));
                u64::from_le_bytes(bytes)
            })
        }
    }

    /// Replaces the value and keeps the expiry: in place if the allocation is of the right class.
    pub fn set_value(&mut self, value: &[u8]) {
        let (field, before) = self.parts();
        let (field_len, expiry) = (field.len(), self.expiry());
        let expires = expiry.is_some();
        if block_size(needed(field_len, before.len(), expires)) != block_size(needed(field_len, value.len(), expires)) {
            *self = Self::with_expiry(field, value, expiry);
            return;
        }
        let head = head_bytes(field_len, expires);
        let from = head + length_bytes(before.len());
        let to = head + length_bytes(value.len());
        // SAFETY: the allocation has room for as many bytes as `new` would have asked for; the field is moved first, since
        // the value's length may take another number of bytes than before.
        unsafe {
            let start = self.0.as_ptr();
            start.add(to).copy_from(start.add(from), field_len);
            write_length(start.add(head), value.len());
            write_bytes(start.add(to + field_len), value);
        }
    }

    /// Replaces the expiry.
    pub fn set_expiry(&mut self, expiry: Option<u64>) {
        match (self.expiry(), expiry) {
            (None, None) => {}
            // SAFETY: the field has room for an expiry.
            (Some(_), Some(expiry)) => unsafe { write_expiry(self.0.as_ptr(), expiry) },
            _ => {
                let (field, value) = self.parts();
                *self = Self::with_expiry(field, value, expiry);
            }
        }
    }

    #[inline(always)]
    fn parts(&self) -> (&[u8], &[u8]) {
        // SAFETY: two lengths and as many bytes were written, behind the expiry if there is one.
        unsafe {
            let (field_len, at) = read_head(self.0.as_ptr());
            let (value_len, at) = read_length(at);
            (read_bytes(at, field_len), read_bytes(at.add(field_len), value_len))
        }
    }

    fn needed(&self) -> usize {
        let (field, value) = self.parts();
        needed(field.len(), value.len(), self.expiry().is_some())
    }
}

fn needed(field: usize, value: usize, expires: bool) -> usize {
    head_bytes(field, expires) + length_bytes(value) + field + value
}

/// Everything before the value's length.
fn head_bytes(field: usize, expires: bool) -> usize {
    (if expires { EXPIRY_BYTES } else { 0 }) + if field < usize::from(EXPIRES) { 1 } else { 5 }
}

/// # Safety
/// [`EXPIRY_BYTES`] at `at` are writable.
unsafe fn write_expiry(at: *mut u8, expiry: u64) {
    let bytes = expiry.min(Field::EXPIRY_MAX).to_le_bytes();
    // SAFETY: the caller's promise.
    unsafe {
        at.write(EXPIRES);
        write_bytes(at.add(1), &bytes[..EXPIRY_BYTES - 1]);
    }
}

/// Writes the length of a field; returns its end.
///
/// # Safety
/// As many bytes as the length takes are writable.
unsafe fn write_field_length(at: *mut u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise covers each byte written.
    unsafe {
        if len < usize::from(EXPIRES) {
            at.write(len as u8);
            at.add(1)
        } else {
            let len = u32::try_from(len).expect("no field is longer than 512 MiB");
            at.write(LONG);
            at.add(1).cast::<u32>().write_unaligned(len);
            at.add(5)
        }
    }
}

/// Reads the length of a field, past its expiry; returns it and its end.
///
/// # Safety
/// A field was written at `at`.
#[inline(always)]
unsafe fn read_head(at: *const u8) -> (usize, *const u8) {
    // SAFETY: what was written is readable.
    unsafe {
        let code = at.read();
        if code < EXPIRES {
            return (usize::from(code), at.add(1));
        }
        let at = if code == EXPIRES { at.add(EXPIRY_BYTES) } else { at };
        match at.read() {
            LONG => (at.add(1).cast::<u32>().read_unaligned() as usize, at.add(5)),
            len => (usize::from(len), at.add(1)),
        }
    }
}

impl Entry for Field {
    #[inline]
    fn key(&self) -> &[u8] {
        self.field()
    }

    fn heap_bytes(&self) -> usize {
        block_size(self.needed())
    }

    fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

impl Clone for Field {
    fn clone(&self) -> Self {
        let (field, value) = self.parts();
        Self::with_expiry(field, value, self.expiry())
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        let bytes = self.needed();
        // SAFETY: the allocation is of the class that this content needs: it was made for it, or for content of that class.
        unsafe { block::free(self.0, bytes) };
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field().escape_ascii(), self.value().escape_ascii())?;
        self.expiry().map_or(Ok(()), |expiry| write!(f, " until {expiry}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_keeps_its_parts_whatever_their_lengths() {
        let lengths = [0, 1, 7, 200, 253, 254, 255, 256, 1000, 70_000];
        let expiries = [None, Some(1), Some(1_700_000_000_000), Some(Field::EXPIRY_MAX)];
        let text = |byte: u8, len: usize| vec![byte; len];
        for (from, to) in lengths.iter().flat_map(|from| lengths.map(|to| (*from, to))) {
            for expiry in expiries {
                let (name, value) = (text(b'f', from), text(b'v', to));
                let mut field = Field::with_expiry(&name, &value, expiry);
                let parts = |field: &Field| (field.field().to_vec(), field.value().to_vec(), field.expiry());
                assert_eq!(parts(&field), (name.clone(), value.clone(), expiry));
                assert_eq!(parts(&field.clone()), (name.clone(), value.clone(), expiry));
                assert_eq!(field.heap_bytes(), block_size(needed(from, to, expiry.is_some())));
                for other in expiries {
                    field.set_expiry(other);
                    assert_eq!(parts(&field), (name.clone(), value.clone(), other));
                    for len in lengths {
                        field.set_value(&text(b'w', len));
                        assert_eq!(parts(&field), (name.clone(), text(b'w', len), other));
                    }
                    field.set_value(&value);
                }
            }
        }
    }

    #[test]
    fn a_field_that_never_expires_pays_nothing_for_it() {
        assert_eq!(needed(10, 20, false), 32);
        assert_eq!(needed(10, 20, true), 39);
        assert_eq!(Field::with_expiry(b"f", b"v", Some(u64::MAX)).expiry(), Some(Field::EXPIRY_MAX));
    }
}
