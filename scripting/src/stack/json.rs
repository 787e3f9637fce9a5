//! Values of Lua as JSON.
//!
//! A value that has no error is written at once; everything else is left to the functions of `mlua`, which know its error.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};
use mlua::{Lua, Value};

use super::text_at;
use crate::number;
use crate::vm::State;

/// How deep tables may be.
const DEPTH_MAX: i64 = 32;

/// Slots that a table takes while it is written: a key and a value.
const TABLE_SLOTS: c_int = 2;

/// How values are written.
pub(crate) struct Rules {
    pub(crate) digits: usize,
    pub(crate) depth_max: i64,
    /// An array with a larger index than this, and than so many times its elements, has an error.
    pub(crate) sparse_safe: i64,
    pub(crate) sparse_ratio: i64,
    pub(crate) write_text: fn(&mut Vec<u8>, &[u8]),
}

/// Writes a value. False: it may have an error, and what is written means nothing.
pub(crate) fn encode(lua: &Lua, state: &State, rules: &Rules, value: &Value, json: &mut Vec<u8>) -> bool {
    let mut is_written = false;
    let mut writer = Writer { state, rules, json };
    let write = |stack: *mut lua_State| {
        // SAFETY: the call is protected, and nothing here has a destructor. There is room for the keys and values of all
        // tables.
        unsafe {
            ffi::luaL_checkstack(stack, TABLE_SLOTS * (DEPTH_MAX as c_int + 2), c"too deep".as_ptr());
            is_written = writer.value(stack, 1, 0);
            ffi::lua_settop(stack, 0);
        }
    };
    // SAFETY: it leaves nothing on the stack.
    unsafe { lua.exec_raw::<()>(value, write) }.is_ok() && is_written
}

struct Writer<'a> {
    state: &'a State,
    rules: &'a Rules,
    json: &'a mut Vec<u8>,
}

impl Writer<'_> {
    /// Writes the value at `index`, counted from the bottom of the stack.
    ///
    /// # Safety
    /// There is a value, and room for two more for each level below it.
    unsafe fn value(&mut self, stack: *mut lua_State, index: c_int, depth: i64) -> bool {
        if self.state.count_value().is_err() || self.json.len() > self.state.memory_bytes.get() {
            return false;
        }
        // SAFETY: nothing here allocates in Lua, so nothing raises an error.
        unsafe {
            match ffi::lua_type(stack, index) {
                ffi::LUA_TSTRING => {
                    (self.rules.write_text)(self.json, text_at(stack, index).unwrap_or_default());
                    true
                }
                ffi::LUA_TNUMBER => self.number(ffi::lua_tonumber(stack, index)),
                ffi::LUA_TBOOLEAN => {
                    let is_true = ffi::lua_toboolean(stack, index) != 0;
                    self.json.extend_from_slice(if is_true { b"true" } else { b"false" });
                    true
                }
                ffi::LUA_TNIL => self.null(),
                ffi::LUA_TLIGHTUSERDATA if ffi::lua_touserdata(stack, index).is_null() => self.null(),
                ffi::LUA_TTABLE if depth < self.rules.depth_max.min(DEPTH_MAX) => self.table(stack, index, depth + 1),
                _ => false,
            }
        }
    }

    fn null(&mut self) -> bool {
        self.json.extend_from_slice(b"null");
        true
    }

    fn number(&mut self, number: f64) -> bool {
        if number.is_finite() {
            self.json.extend_from_slice(&number::general(number, self.rules.digits));
        }
        number.is_finite()
    }

    /// Writes the table at `index`, which is the top of the stack.
    ///
    /// # Safety
    /// As for a value.
    unsafe fn table(&mut self, stack: *mut lua_State, index: c_int, depth: i64) -> bool {
        // SAFETY: as for a value. The table does not change meanwhile, and a key stays what it is.
        unsafe {
            match shape(stack, index) {
                Shape::Unknown => return false,
                Shape::Array { most, items } => {
                    let Rules { sparse_ratio, sparse_safe, .. } = *self.rules;
                    if sparse_ratio > 0 && most > items.saturating_mul(sparse_ratio) && most > sparse_safe {
                        return false;
                    }
                    self.json.push(b'[');
                    for at in 1..=most {
                        if at > 1 {
                            self.json.push(b',');
                        }
                        ffi::lua_rawgeti_(stack, index, at as c_int);
                        if !self.value(stack, index + 1, depth) {
                            return false;
                        }
                        ffi::lua_settop(stack, index);
                    }
                    self.json.push(b']');
                }
                Shape::Object => {
                    self.json.push(b'{');
                    let mut is_first = true;
                    ffi::lua_pushnil(stack);
                    while ffi::lua_next(stack, index) != 0 {
                        if !std::mem::take(&mut is_first) {
                            self.json.push(b',');
                        }
                        match ffi::lua_type(stack, index + 1) {
                            ffi::LUA_TSTRING => {
                                (self.rules.write_text)(self.json, text_at(stack, index + 1).unwrap_or_default());
                            }
                            ffi::LUA_TNUMBER => {
                                self.json.push(b'"');
                                if !self.number(ffi::lua_tonumber(stack, index + 1)) {
                                    return false;
                                }
                                self.json.push(b'"');
                            }
                            _ => return false,
                        }
                        self.json.push(b':');
                        if !self.value(stack, index + 2, depth) {
                            return false;
                        }
                        ffi::lua_settop(stack, index + 1);
                    }
                    self.json.push(b'}');
                }
            }
        }
        true
    }
}

/// The form of a table.
enum Shape {
    /// All its keys are indexes: the largest one, and how many there are.
    Array {
        most: i64,
        items: i64,
    },
    Object,
    /// An index is larger than the library counts.
    Unknown,
}

/// Looks at the keys of a table.
///
/// # Safety
/// There is a table, and room for a key and a value.
unsafe fn shape(stack: *mut lua_State, index: c_int) -> Shape {
    let (mut most, mut items) = (0, 0);
    // SAFETY: as the caller says.
    unsafe {
        ffi::lua_pushnil(stack);
        while ffi::lua_next(stack, index) != 0 {
            ffi::lua_pop(stack, 1);
            let key = match ffi::lua_type(stack, -1) {
                ffi::LUA_TNUMBER => ffi::lua_tonumber(stack, -1),
                _ => 0.0,
            };
            if key > f64::from(i32::MAX) || key < 1.0 || key.fract() != 0.0 {
                ffi::lua_pop(stack, 1);
                return if key > f64::from(i32::MAX) { Shape::Unknown } else { Shape::Object };
            }
            most = most.max(key as i64);
            items += 1;
        }
    }
    if items == 0 { Shape::Object } else { Shape::Array { most, items } }
}
