//! A field of a hash, with its value.

use std::{fmt, ptr::NonNull};

use super::{
    Entry, block,
    block::{block_size, length_bytes, read_bytes, read_length, write_bytes, write_length},
};

/// A field and its value in one allocation:
///
/// ```text
/// | field length (1 or 5) | value length (1 or 5) | field | value |
/// ```
pub struct Field(NonNull<u8>);

// SAFETY: a field owns its allocation alone and is changed through `&mut` only.
unsafe impl Send for Field {}
// SAFETY: as above.
unsafe impl Sync for Field {}

impl Field {
    pub fn new(field: &[u8], value: &[u8]) -> Self {
        let block = block::allocate(needed(field.len(), value.len()));
        // SAFETY: the allocation has room for all four.
        unsafe {
            let at = write_length(write_length(block.as_ptr(), field.len()), value.len());
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

    /// Replaces the value: in place if the allocation is of the right class.
    pub fn set_value(&mut self, value: &[u8]) {
        let (field, before) = self.parts();
        let field_len = field.len();
        if block_size(needed(field_len, before.len())) != block_size(needed(field_len, value.len())) {
            *self = Self::new(field, value);
            return;
        }
        let from = length_bytes(field_len) + length_bytes(before.len());
        let to = length_bytes(field_len) + length_bytes(value.len());
        // SAFETY: the allocation has room for as many bytes as `new` would have asked for; the field is moved first, since
        // the value's length may take another number of bytes than before.
        unsafe {
            let start = self.0.as_ptr();
            start.add(to).copy_from(start.add(from), field_len);
            write_length(start.add(length_bytes(field_len)), value.len());
            write_bytes(start.add(to + field_len), value);
        }
    }

    #[inline(always)]
    fn parts(&self) -> (&[u8], &[u8]) {
        // SAFETY: two lengths and as many bytes were written.
        unsafe {
            let (field_len, at) = read_length(self.0.as_ptr());
            let (value_len, at) = read_length(at);
            (read_bytes(at, field_len), read_bytes(at.add(field_len), value_len))
        }
    }
}

fn needed(field: usize, value: usize) -> usize {
    length_bytes(field) + length_bytes(value) + field + value
}

impl Entry for Field {
    #[inline]
    fn key(&self) -> &[u8] {
        self.field()
    }

    fn heap_bytes(&self) -> usize {
        let (field, value) = self.parts();
        block_size(needed(field.len(), value.len()))
    }

    fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

impl Clone for Field {
    fn clone(&self) -> Self {
        let (field, value) = self.parts();
        Self::new(field, value)
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        let (field, value) = self.parts();
        let bytes = needed(field.len(), value.len());
        // SAFETY: the allocation is of the class that this content needs: it was made for it, or for content of that class.
        unsafe { block::free(self.0, bytes) };
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field().escape_ascii(), self.value().escape_ascii())
    }
}
