//! MessagePack as values of Lua.
//!
//! A text is looked at as a whole first. One that can be read without an error, apart from a lack of memory, becomes values on
//! the stack at once; everything else is left to the functions of `mlua`, which know its error.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};
use mlua::{Lua, MultiValue};

use super::push_text;

/// Values that are pushed at once, and how deep they may be.
const VALUES_MAX: usize = 1000;
const DEPTH_MAX: usize = 32;

/// Slots that a table takes while it is filled: itself, a key and a value.
const TABLE_SLOTS: c_int = 3;

/// The values of a text; `None`: it has an error, or too many values.
///
/// # Errors
/// When memory is short.
pub(crate) fn unpack(lua: &Lua, text: &[u8]) -> Option<mlua::Result<MultiValue>> {
    let (mut rest, mut values) = (text, 0);
    while !rest.is_empty() {
        skip(&mut rest, 0)?;
        values += 1;
    }
    if values > VALUES_MAX {
        return None;
    }
    let slots = values as c_int + TABLE_SLOTS * (DEPTH_MAX as c_int + 1);
    let push = |stack: *mut lua_State| {
        // SAFETY: the call is protected, and nothing here has a destructor. There is room for all values.
        unsafe {
            ffi::luaL_checkstack(stack, slots, c"too many results to unpack".as_ptr());
            let mut reader = Reader { stack, rest: text };
            (0..values).for_each(|_| reader.push());
        }
    };
    // SAFETY: it leaves the values on the stack and nothing else.
    Some(unsafe { lua.exec_raw((), push) })
}

/// The head of a value, by its first byte.
enum Head {
    Nil,
    Boolean(bool),
    /// Itself.
    Small(i8),
    Unsigned(usize),
    Signed(usize),
    Single,
    Double,
    Text(Size),
    Array(Size),
    Map(Size),
}

/// A length, or how many bytes it has.
enum Size {
    Known(usize),
    Bytes(usize),
}

impl Head {
    fn of(kind: u8) -> Option<Self> {
        Some(match kind {
            0x00..=0x7f | 0xe0.. => Self::Small(kind.cast_signed()),
            0xc0 => Self::Nil,
            0xc2 | 0xc3 => Self::Boolean(kind == 0xc3),
            0xcc..=0xcf => Self::Unsigned(1 << (kind - 0xcc)),
            0xd0..=0xd3 => Self::Signed(1 << (kind - 0xd0)),
            0xca => Self::Single,
            0xcb => Self::Double,
            0xa0..=0xbf => Self::Text(Size::Known(usize::from(kind & 0x1f))),
            0xd9..=0xdb => Self::Text(Size::Bytes(1 << (kind - 0xd9))),
            0x90..=0x9f => Self::Array(Size::Known(usize::from(kind & 0xf))),
            0xdc | 0xdd => Self::Array(Size::Bytes(2 << (kind - 0xdc))),
            0x80..=0x8f => Self::Map(Size::Known(usize::from(kind & 0xf))),
            0xde | 0xdf => Self::Map(Size::Bytes(2 << (kind - 0xde))),
            _ => return None,
        })
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(taken)
}

fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn size(rest: &mut &[u8], size: &Size) -> Option<usize> {
    match size {
        Size::Known(len) => Some(*len),
        Size::Bytes(bytes) => take(rest, *bytes).map(|bytes| unsigned(bytes) as usize),
    }
}

/// Skips a value. `None`: it has an error, or is too deep.
fn skip(rest: &mut &[u8], depth: usize) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    let head = Head::of(take(rest, 1)?[0])?;
    match head {
        Head::Nil | Head::Boolean(_) | Head::Small(_) => {}
        Head::Unsigned(len) | Head::Signed(len) => _ = take(rest, len)?,
        Head::Single => _ = take(rest, 4)?,
        Head::Double => _ = take(rest, 8)?,
        Head::Text(len) => {
            let len = size(rest, &len)?;
            take(rest, len)?;
        }
        Head::Array(len) => {
            for _ in 0..size(rest, &len)? {
                skip(rest, depth + 1)?;
            }
        }
        Head::Map(len) => {
            for _ in 0..size(rest, &len)? {
                // Neither nil nor what is no number is a key.
                match rest.first()? {
                    0xc0 => return None,
                    0xca if f32::from_bits(unsigned(rest.get(1..5)?) as u32).is_nan() => return None,
                    0xcb if f64::from_bits(unsigned(rest.get(1..9)?)).is_nan() => return None,
                    _ => {}
                }
                skip(rest, depth + 1)?;
                skip(rest, depth + 1)?;
            }
        }
    }
    Some(())
}

/// Reads a text that has no errors.
struct Reader<'a> {
    stack: *mut lua_State,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        take(&mut self.rest, len).unwrap_or_default()
    }

    fn size(&mut self, of: &Size) -> usize {
        size(&mut self.rest, of).unwrap_or(0)
    }

    /// Pushes the next value.
    ///
    /// # Safety
    /// There is room, and the call is protected.
    unsafe fn push(&mut self) {
        let stack = self.stack;
        let head = self.take(1).first().and_then(|kind| Head::of(*kind)).unwrap_or(Head::Nil);
        // SAFETY: as the caller says.
        unsafe {
            match head {
                Head::Nil => ffi::lua_pushnil(stack),
                Head::Boolean(value) => ffi::lua_pushboolean(stack, c_int::from(value)),
                Head::Small(value) => ffi::lua_pushnumber(stack, f64::from(value)),
                Head::Unsigned(len) => ffi::lua_pushnumber(stack, unsigned(self.take(len)) as f64),
                Head::Signed(len) => {
                    let unused = 64 - 8 * len as u32;
                    let value = (unsigned(self.take(len)) << unused).cast_signed() >> unused;
                    ffi::lua_pushnumber(stack, value as f64);
                }
                Head::Single => ffi::lua_pushnumber(stack, f64::from(f32::from_bits(unsigned(self.take(4)) as u32))),
                Head::Double => ffi::lua_pushnumber(stack, f64::from_bits(unsigned(self.take(8)))),
                Head::Text(len) => {
                    let len = self.size(&len);
                    push_text(stack, self.take(len));
                }
                Head::Array(len) => {
                    let len = self.size(&len);
                    ffi::lua_newtable(stack);
                    for at in 1..=len {
                        self.push();
                        ffi::lua_rawseti_(stack, -2, at as c_int);
                    }
                }
                Head::Map(len) => {
                    let len = self.size(&len);
                    // Its room decides on the order of its pairs, and Redis lets it grow.
                    ffi::lua_newtable(stack);
                    for _ in 0..len {
                        self.push();
                        self.push();
                        ffi::lua_rawset(stack, -3);
                    }
                }
            }
        }
    }
}
