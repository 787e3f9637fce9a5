//! Values that scripts return, as replies.

use std::ffi::c_int;

use dormouse_protocol::{Reply, Version};
use mlua::ffi::{self, lua_State};

use super::{push_text, text_at};
use crate::errors::Raised;
use crate::vm::State;

/// The depth of nested tables in a reply.
const DEPTH_MAX: usize = 1000;

/// Slots that a table takes while it is written.
const TABLE_SLOTS: c_int = 16;

const ERR: &[u8] = b"err";
const OK: &[u8] = b"ok";
const DOUBLE: &[u8] = b"double";
const MAP: &[u8] = b"map";
const SET: &[u8] = b"set";
const BIG_NUMBER: &[u8] = b"big_number";
const VERBATIM_STRING: &[u8] = b"verbatim_string";

/// The fields that make a table stand for something else than an array, in the order in which they are looked for.
const FIELDS: [&[u8]; 7] = [ERR, OK, DOUBLE, MAP, SET, BIG_NUMBER, VERBATIM_STRING];

/// A table with so many elements may be known for an array by its keys, which takes less than to look for all fields.
const FEW_ELEMENTS: usize = 4;

/// Writes values on the stack.
pub(super) struct Writer<'a> {
    stack: *mut lua_State,
    state: &'a State,
    reply: &'a mut Reply,
    /// Where the first of the [`FIELDS`] is on the stack.
    names: c_int,
}

/// The reply that a table stands for.
enum Form {
    /// A value that has been written.
    Written,
    Map,
    Set,
    Array,
}

impl<'a> Writer<'a> {
    /// `names`: from [`push_names`].
    ///
    /// # Safety
    /// The stack lives on, and memory has no limit while this writes: no error is raised then.
    pub(super) unsafe fn new(stack: *mut lua_State, names: c_int, state: &'a State, reply: &'a mut Reply) -> Self {
        Self { stack, state, reply, names }
    }

    /// Writes the value at `index`, counted from the bottom of the stack.
    ///
    /// # Errors
    /// If the script must end, or the value is too large or too deep.
    ///
    /// # Safety
    /// There is a value.
    pub(super) unsafe fn value(&mut self, index: c_int, depth: usize) -> mlua::Result<()> {
        self.state.count_value()?;
        let stack = self.stack;
        // SAFETY: nothing else runs in Lua meanwhile.
        unsafe {
            match ffi::lua_type(stack, index) {
                ffi::LUA_TSTRING => self.reply.bulk(text_at(stack, index).unwrap_or_default()),
                ffi::LUA_TNUMBER => self.reply.integer(truncate(ffi::lua_tonumber(stack, index))),
                ffi::LUA_TBOOLEAN => match (self.state.version.get(), ffi::lua_toboolean(stack, index) != 0) {
                    // It has a form of its own if the script has asked for it, whatever its client speaks.
                    (Version::Resp3, value) => self.reply.boolean(value),
                    (Version::Resp2, true) => self.reply.integer(1),
                    (Version::Resp2, false) => self.reply.null(),
                },
                ffi::LUA_TTABLE => self.table(index, depth)?,
                _ => self.reply.null(),
            }
        }
        Ok(())
    }

    unsafe fn table(&mut self, index: c_int, depth: usize) -> mlua::Result<()> {
        let stack = self.stack;
        // SAFETY: the room is asked for.
        unsafe {
            if depth == DEPTH_MAX || ffi::lua_checkstack(stack, TABLE_SLOTS) == 0 {
                return Err(Raised::Command(b"ERR reached lua stack limit".to_vec()).into());
            }
            let top = ffi::lua_gettop(stack);
            let form = if self.is_short_array(index) { Form::Array } else { self.single(index) };
            match form {
                Form::Written => {}
                Form::Map => self.map(top + 1, depth)?,
                Form::Set => self.set(top + 1, depth)?,
                Form::Array => self.array(index, depth)?,
            }
            ffi::lua_settop(stack, top);
        }
        Ok(())
    }

    /// Whether a table has few elements, and its keys are their numbers. False: it may still be an array.
    unsafe fn is_short_array(&self, index: c_int) -> bool {
        let stack = self.stack;
        // SAFETY: as for the table.
        unsafe {
            let len = ffi::lua_objlen(stack, index);
            if len == 0 || len > FEW_ELEMENTS {
                return false;
            }
            ffi::lua_pushnil(stack);
            for at in 1..=len {
                if ffi::lua_next(stack, index) == 0 {
                    return false;
                }
                ffi::lua_pop(stack, 1);
                if ffi::lua_type(stack, -1) != ffi::LUA_TNUMBER || ffi::lua_tonumber(stack, -1) != at as f64 {
                    ffi::lua_pop(stack, 1);
                    return false;
                }
            }
            if ffi::lua_next(stack, index) != 0 {
                ffi::lua_pop(stack, 2);
                return false;
            }
        }
        true
    }

    /// Writes a table that stands for a value without others in it. The table of others is left on the stack.
    unsafe fn single(&mut self, index: c_int) -> Form {
        let stack = self.stack;
        // SAFETY: as for the table; its texts stay where they are.
        unsafe {
            for (name, field) in (self.names..).zip(FIELDS) {
                ffi::lua_pushvalue(stack, name);
                let kind = ffi::lua_rawget(stack, index);
                match field {
                    ERR if kind == ffi::LUA_TSTRING => {
                        self.reply.error_bytes(text_at(stack, -1).unwrap_or_default());
                        return Form::Written;
                    }
                    OK if kind == ffi::LUA_TSTRING => {
                        let line = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
                        let text: Vec<u8> = text_at(stack, -1).unwrap_or_default().iter().map(line).collect();
                        self.reply.simple_bytes(&text);
                        return Form::Written;
                    }
                    DOUBLE if kind == ffi::LUA_TNUMBER => {
                        self.reply.double(ffi::lua_tonumber(stack, -1));
                        return Form::Written;
                    }
                    MAP if kind == ffi::LUA_TTABLE => return Form::Map,
                    SET if kind == ffi::LUA_TTABLE => return Form::Set,
                    BIG_NUMBER if kind == ffi::LUA_TSTRING => {
                        let digits = String::from_utf8_lossy(text_at(stack, -1).unwrap_or_default());
                        self.reply.big_number(&digits.replace(['\r', '\n'], " "));
                        return Form::Written;
                    }
                    VERBATIM_STRING if kind == ffi::LUA_TTABLE && self.verbatim() => return Form::Written,
                    _ => ffi::lua_pop(stack, 1),
                }
            }
        }
        Form::Array
    }

    /// Writes the text and the format in the table on top. False: it lacks one.
    unsafe fn verbatim(&mut self) -> bool {
        let stack = self.stack;
        // SAFETY: the table keeps its texts.
        unsafe {
            push_text(stack, b"string");
            ffi::lua_rawget(stack, -2);
            push_text(stack, b"format");
            ffi::lua_rawget(stack, -3);
            let both = (text_at(stack, -2), text_at(stack, -1));
            ffi::lua_pop(stack, 2);
            let (Some(text), Some(format)) = both else { return false };
            let format = String::from_utf8_lossy(format);
            let format: String = format.chars().filter(char::is_ascii).chain("   ".chars()).take(3).collect();
            self.reply.verbatim(&format, text);
        }
        true
    }

    unsafe fn map(&mut self, map: c_int, depth: usize) -> mlua::Result<()> {
        let (start, mut pairs) = (self.reply.len(), 0);
        // SAFETY: the table does not change meanwhile, and a key stays what it is.
        unsafe {
            ffi::lua_pushnil(self.stack);
            while ffi::lua_next(self.stack, map) != 0 {
                pairs += 1;
                self.value(map + 1, depth + 1)?;
                self.value(map + 2, depth + 1)?;
                ffi::lua_pop(self.stack, 1);
            }
        }
        self.reply.map_since(start, pairs);
        Ok(())
    }

    unsafe fn set(&mut self, set: c_int, depth: usize) -> mlua::Result<()> {
        let (start, mut members) = (self.reply.len(), 0);
        // SAFETY: as for a map.
        unsafe {
            ffi::lua_pushnil(self.stack);
            while ffi::lua_next(self.stack, set) != 0 {
                members += 1;
                self.value(set + 1, depth + 1)?;
                ffi::lua_pop(self.stack, 1);
            }
        }
        self.reply.set_since(start, members);
        Ok(())
    }

    unsafe fn array(&mut self, table: c_int, depth: usize) -> mlua::Result<()> {
        let (start, mut len) = (self.reply.len(), 0);
        // SAFETY: as for a map.
        unsafe {
            while ffi::lua_rawgeti(self.stack, table, len as i64 + 1) != ffi::LUA_TNIL {
                len += 1;
                self.value(ffi::lua_gettop(self.stack), depth + 1)?;
                ffi::lua_pop(self.stack, 1);
            }
        }
        self.reply.array_since(start, len);
        Ok(())
    }
}

/// Pushes the names of all fields, which stay there. Returns where.
///
/// # Safety
/// There is room for them, and memory has no limit.
pub(super) unsafe fn push_names(stack: *mut lua_State) -> c_int {
    // SAFETY: as the caller says.
    unsafe {
        FIELDS.iter().for_each(|name| push_text(stack, name));
        ffi::lua_gettop(stack) - FIELDS.len() as c_int + 1
    }
}

/// A number as a 64-bit integer, as `(long long)` gives it on x86-64.
fn truncate(value: f64) -> i64 {
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value) { value as i64 } else { i64::MIN }
}
