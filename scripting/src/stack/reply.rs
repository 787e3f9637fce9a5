//! Replies as values of Lua.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::push_text;
use crate::number;

/// Slots that a table takes while it is filled: itself, a key, a value, and the name of a field.
const TABLE_SLOTS: c_int = 4;

/// Elements for which a table has room before the first one is read.
const ELEMENTS_MAX: usize = 1 << 16;

/// Pushes the value of a reply that this process has written.
///
/// # Safety
/// `stack` is that of a running function of C. This raises an error if memory is short, so neither it nor its callers have
/// anything to drop.
pub(super) unsafe fn push(stack: *mut lua_State, reply: &[u8]) {
    // SAFETY: as the caller says.
    unsafe { Reader { stack, rest: reply }.push() };
}

struct Reader<'a> {
    stack: *mut lua_State,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    unsafe fn push(&mut self) {
        let (kind, line) = self.line();
        let stack = self.stack;
        // SAFETY: a function of C has room for a few values, and each table asks for more.
        unsafe {
            match kind {
                b':' => match integer(line) {
                    Some(value) => ffi::lua_pushnumber(stack, value as f64),
                    None => ffi::lua_pushnil(stack),
                },
                b'$' => match length(line) {
                    Some(len) => push_text(stack, self.bytes(len)),
                    None => ffi::lua_pushboolean(stack, 0),
                },
                b'+' => self.push_field(b"ok", line),
                b'-' => self.push_field(b"err", line),
                b'*' | b'>' => match length(line) {
                    Some(len) => self.push_array(len),
                    None => ffi::lua_pushboolean(stack, 0),
                },
                b'#' => ffi::lua_pushboolean(stack, c_int::from(line == b"t")),
                b',' => {
                    self.open_field(b"double");
                    ffi::lua_pushnumber(stack, number::parse(line).unwrap_or(f64::NAN));
                    ffi::lua_rawset(stack, -3);
                }
                b'(' => self.push_field(b"big_number", line),
                b'=' => {
                    let bytes = self.bytes(length(line).unwrap_or(0));
                    let (format, text) = bytes.split_at(bytes.len().min(4));
                    self.open_field(b"verbatim_string");
                    self.push_field(b"format", format.strip_suffix(b":").unwrap_or(format));
                    push_text(stack, b"string");
                    push_text(stack, text);
                    ffi::lua_rawset(stack, -3);
                    ffi::lua_rawset(stack, -3);
                }
                b'%' => {
                    self.open_field(b"map");
                    self.open_table(0, 0);
                    for _ in 0..length(line).unwrap_or(0) {
                        self.push();
                        self.push();
                        self.set_pair();
                    }
                    ffi::lua_rawset(stack, -3);
                }
                b'~' => {
                    self.open_field(b"set");
                    self.open_table(0, 0);
                    for _ in 0..length(line).unwrap_or(0) {
                        self.push();
                        ffi::lua_pushboolean(stack, 1);
                        self.set_pair();
                    }
                    ffi::lua_rawset(stack, -3);
                }
                _ => ffi::lua_pushnil(stack),
            }
        }
    }

    unsafe fn push_array(&mut self, len: usize) {
        // SAFETY: as for a single value.
        unsafe {
            self.open_table(len.min(ELEMENTS_MAX), 0);
            for at in 1..=len {
                self.push();
                // Nil makes no field. A reply that fits into memory has fewer elements than an index can count.
                ffi::lua_rawseti_(self.stack, -2, at as c_int);
            }
        }
    }

    /// Sets a field of the table below a key and its value. A key that is nil has none.
    unsafe fn set_pair(&self) {
        // SAFETY: they are on the stack.
        unsafe {
            match ffi::lua_type(self.stack, -2) {
                ffi::LUA_TNIL => ffi::lua_pop(self.stack, 2),
                _ => ffi::lua_rawset(self.stack, -3),
            }
        }
    }

    /// Pushes a table with one text.
    unsafe fn push_field(&self, name: &[u8], text: &[u8]) {
        // SAFETY: as for a single value.
        unsafe {
            self.open_field(name);
            push_text(self.stack, text);
            ffi::lua_rawset(self.stack, -3);
        }
    }

    /// Pushes a table and the name of its only field.
    unsafe fn open_field(&self, name: &[u8]) {
        // SAFETY: as for a single value.
        unsafe {
            self.open_table(0, 1);
            push_text(self.stack, name);
        }
    }

    unsafe fn open_table(&self, elements: usize, fields: c_int) {
        // SAFETY: the room is asked for.
        unsafe {
            ffi::luaL_checkstack(self.stack, TABLE_SLOTS, c"a reply is too deep".as_ptr());
            ffi::lua_createtable(self.stack, elements as c_int, fields);
        }
    }

    /// The kind of the next value, and the rest of its line.
    fn line(&mut self) -> (u8, &'a [u8]) {
        let Some((&kind, rest)) = self.rest.split_first() else { return (b'_', &[]) };
        let end = rest.iter().position(|byte| *byte == b'\r').unwrap_or(rest.len());
        self.rest = rest.get(end + 2..).unwrap_or_default();
        (kind, &rest[..end])
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let bytes = &self.rest[..len.min(self.rest.len())];
        self.rest = self.rest.get(len + 2..).unwrap_or_default();
        bytes
    }
}

fn integer(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, digits),
    };
    let value = digits
        .iter()
        .fold(0u64, |value, digit| value.wrapping_mul(10).wrapping_add(u64::from(digit.wrapping_sub(b'0'))));
    Some(if negative { value.wrapping_neg() as i64 } else { value as i64 })
}

/// A length, unless it is that of nothing.
fn length(digits: &[u8]) -> Option<usize> {
    integer(digits).and_then(|len| usize::try_from(len).ok())
}
