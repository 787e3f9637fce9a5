//! Arguments of calls as requests.

use std::ffi::c_int;

use dormouse_protocol::Span;
use mlua::ffi::{self, lua_State};

use super::{Trouble, text_at};
use crate::number;
use crate::vm::Scratch;

/// Bytes of one request of a script.
pub(crate) const REQUEST_BYTES_MAX: usize = 512 << 20;

/// Reads all arguments of a function as the words of a request.
///
/// # Errors
/// If there are none, or one cannot be a word.
///
/// # Safety
/// `stack` is that of a running function of C.
pub(super) unsafe fn read(stack: *mut lua_State, scratch: &mut Scratch) -> Result<(), Trouble> {
    scratch.bytes.clear();
    scratch.spans.clear();
    // SAFETY: as the caller says.
    let len = unsafe { ffi::lua_gettop(stack) };
    if len == 0 {
        return Err(Trouble::NoArguments);
    }
    // SAFETY: there is an argument at each of these, and nothing runs in Lua meanwhile.
    if !(1..=len).all(|index| unsafe { push(stack, index, scratch) }) {
        return Err(Trouble::UnreadableArgument);
    }
    Ok(())
}

/// Appends an argument. False: it cannot be a word.
#[inline]
unsafe fn push(stack: *mut lua_State, index: c_int, scratch: &mut Scratch) -> bool {
    let offset = scratch.bytes.len();
    // SAFETY: the argument is copied at once.
    unsafe {
        if let Some(text) = text_at(stack, index) {
            if text.len() + offset > REQUEST_BYTES_MAX {
                return false;
            }
            scratch.bytes.extend_from_slice(text);
        } else if ffi::lua_type(stack, index) == ffi::LUA_TNUMBER {
            push_number(ffi::lua_tonumber(stack, index), &mut scratch.bytes);
        } else {
            return false;
        }
    }
    scratch.spans.push(Span { offset: offset as u32, len: (scratch.bytes.len() - offset) as u32 });
    true
}

fn push_number(value: f64, bytes: &mut Vec<u8>) {
    match value.fract() == 0.0 && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value) {
        true => bytes.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes()),
        false => bytes.extend_from_slice(&number::argument(value)),
    }
}
