//! `cmsgpack`: MessagePack as lua_cmsgpack 0.4 writes and reads it.

use std::rc::Rc;

use mlua::{Lua, LuaString, MultiValue, Table, Value};

use crate::errors::{Raised, bad_argument, raise};
use crate::stack;
use crate::strings::{number_argument, string_argument};
use crate::vm::State;

/// Deeper tables are written as nil.
const NESTING_MAX: usize = 16;

/// Depth of what is read: each level takes memory of the thread's stack.
const READ_DEPTH_MAX: usize = 1000;

pub(crate) fn table(lua: &Lua, state: &Rc<State>) -> mlua::Result<Table> {
    let cmsgpack = lua.create_table()?;
    let its = Rc::clone(state);
    cmsgpack.raw_set("pack", lua.create_function(move |lua, arguments| pack(lua, &its, arguments))?)?;
    cmsgpack.raw_set("unpack", lua.create_function(|lua, arguments| unpack_all(lua, &arguments))?)?;
    cmsgpack.raw_set("unpack_one", lua.create_function(|lua, arguments| unpack_one(lua, &arguments))?)?;
    cmsgpack.raw_set("unpack_limit", lua.create_function(|lua, arguments| unpack_limit(lua, &arguments))?)?;
    cmsgpack.raw_set("_NAME", "cmsgpack")?;
    cmsgpack.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    cmsgpack.raw_set("_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo")?;
    cmsgpack.raw_set("_DESCRIPTION", "MessagePack C implementation for Lua")?;
    Ok(cmsgpack)
}

/// `cmsgpack.pack(value, ...)`
fn pack(lua: &Lua, state: &State, arguments: MultiValue) -> mlua::Result<LuaString> {
    if arguments.is_empty() {
        return Err(bad_argument(lua, 0, "pack", "MessagePack pack needs input."));
    }
    let mut packed = Vec::new();
    for value in &arguments {
        write(lua, state, &mut packed, value, 0)?;
    }
    lua.create_string(packed)
}

fn write(lua: &Lua, state: &State, packed: &mut Vec<u8>, value: &Value, level: usize) -> mlua::Result<()> {
    state.count_value()?;
    if packed.len() > state.memory_bytes.get() {
        return Err(raise(lua, "not enough memory"));
    }
    match value {
        Value::String(text) => write_bytes(packed, &text.as_bytes()),
        Value::Boolean(value) => packed.push(if *value { 0xc3 } else { 0xc2 }),
        Value::Integer(value) => write_integer(packed, *value),
        Value::Number(value) => write_number(packed, *value),
        Value::Table(_) if level == NESTING_MAX => packed.push(0xc0),
        Value::Table(table) if is_array(table)? => {
            let len = table.raw_len();
            write_header(packed, len, (0x90, 16), (0xdc, 0xdd));
            for at in 1..=len {
                write(lua, state, packed, &table.get::<Value>(at)?, level + 1)?;
            }
        }
        Value::Table(table) => {
            let mut pairs = 0;
            for pair in table.pairs::<Value, Value>() {
                pair?;
                pairs += 1;
            }
            write_header(packed, pairs, (0x80, 16), (0xde, 0xdf));
            for pair in table.pairs::<Value, Value>() {
                let (key, value) = pair?;
                write(lua, state, packed, &key, level + 1)?;
                write(lua, state, packed, &value, level + 1)?;
            }
        }
        _ => packed.push(0xc0),
    }
    Ok(())
}

/// The head of an array or a map: short, or of two or four bytes.
fn write_header(packed: &mut Vec<u8>, len: usize, (short, short_max): (u8, usize), (two, four): (u8, u8)) {
    if len < short_max {
        packed.push(short | len as u8);
    } else if let Ok(len) = u16::try_from(len) {
        packed.push(two);
        packed.extend_from_slice(&len.to_be_bytes());
    } else {
        packed.push(four);
        packed.extend_from_slice(&(len as u32).to_be_bytes());
    }
}

fn write_bytes(packed: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        len @ 0..32 => packed.push(0xa0 | len as u8),
        len @ 32..=0xff => packed.extend_from_slice(&[0xd9, len as u8]),
        len => write_header(packed, len, (0, 0), (0xda, 0xdb)),
    }
    packed.extend_from_slice(bytes);
}

fn write_integer(packed: &mut Vec<u8>, value: i64) {
    match value {
        0..=127 => packed.push(value as u8),
        128..=0xff => packed.extend_from_slice(&[0xcc, value as u8]),
        0x100..=0xffff => {
            packed.push(0xcd);
            packed.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            packed.push(0xce);
            packed.extend_from_slice(&(value as u32).to_be_bytes());
        }
        0x1_0000_0000.. => {
            packed.push(0xcf);
            packed.extend_from_slice(&value.to_be_bytes());
        }
        -32..0 => packed.push(value as u8),
        -128..-32 => packed.extend_from_slice(&[0xd0, value as u8]),
        -0x8000..-128 => {
            packed.push(0xd1);
            packed.extend_from_slice(&(value as i16).to_be_bytes());
        }
        -0x8000_0000..-0x8000 => {
            packed.push(0xd2);
            packed.extend_from_slice(&(value as i32).to_be_bytes());
        }
        _ => {
            packed.push(0xd3);
            packed.extend_from_slice(&value.to_be_bytes());
        }
    }
}

fn write_number(packed: &mut Vec<u8>, value: f64) {
    if value.fract() == 0.0 && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value) {
        return write_integer(packed, value as i64);
    }
    let single = value as f32;
    if f64::from(single) == value {
        packed.push(0xca);
        packed.extend_from_slice(&single.to_be_bytes());
    } else {
        packed.push(0xcb);
        packed.extend_from_slice(&value.to_be_bytes());
    }
}

/// Whether the keys of a table are the numbers from 1 to their count.
fn is_array(table: &Table) -> mlua::Result<bool> {
    let (mut count, mut most) = (0i64, 0i64);
    for pair in table.pairs::<Value, Value>() {
        let key = match pair?.0 {
            Value::Integer(key) => Some(key as f64),
            Value::Number(key) => Some(key),
            _ => None,
        };
        match key {
            Some(key) if key > 0.0 && key.fract() == 0.0 => most = most.max(key as i64),
            _ => return Ok(false),
        }
        count += 1;
    }
    Ok(most == count)
}

/// `cmsgpack.unpack(text)`
fn unpack_all(lua: &Lua, arguments: &MultiValue) -> mlua::Result<MultiValue> {
    let text = string_argument(lua, arguments, 1, "unpack")?;
    unpack(lua, &text.as_bytes(), 0, 0)
}

/// `cmsgpack.unpack_one(text [, offset])`
fn unpack_one(lua: &Lua, arguments: &MultiValue) -> mlua::Result<MultiValue> {
    let text = string_argument(lua, arguments, 1, "unpack_one")?;
    let offset = number_argument(lua, arguments, 2, "unpack_one")?.unwrap_or(0.0);
    unpack(lua, &text.as_bytes(), 1, offset as i64)
}

/// `cmsgpack.unpack_limit(text, limit [, offset])`
fn unpack_limit(lua: &Lua, arguments: &MultiValue) -> mlua::Result<MultiValue> {
    let text = string_argument(lua, arguments, 1, "unpack_limit")?;
    let Some(limit) = number_argument(lua, arguments, 2, "unpack_limit")? else {
        return Err(bad_argument(lua, 2, "unpack_limit", "number expected, got no value"));
    };
    let offset = number_argument(lua, arguments, 3, "unpack_limit")?.unwrap_or(0.0);
    unpack(lua, &text.as_bytes(), limit as i64, offset as i64)
}

/// Up to `limit` values from `offset` on, behind the offset of the rest; without either, all values.
fn unpack(lua: &Lua, text: &[u8], limit: i64, offset: i64) -> mlua::Result<MultiValue> {
    if offset < 0 || limit < 0 {
        let problem = format!("Invalid request to unpack with offset of {offset} and limit of {}.", text.len());
        return Err(raise(lua, problem));
    }
    if offset as usize > text.len() {
        return Err(raise(lua, format!("Start offset {offset} greater than input length {}.", text.len())));
    }
    let all = limit == 0 && offset == 0;
    if all && let Some(values) = stack::msgpack::unpack(lua, text) {
        return values;
    }
    let limit = if limit == 0 && offset == 0 { i64::MAX } else { limit };
    let mut reader = Reader { lua, rest: &text[offset as usize..] };
    let mut values = MultiValue::new();
    while !reader.rest.is_empty() && (values.len() as i64) < limit {
        let value = reader.value(0)?;
        if values.len() >= 7000 {
            return Err(raise(lua, "too many results to unpack"));
        }
        values.push_back(value);
    }
    if !all {
        let at = if reader.rest.is_empty() { -1 } else { (text.len() - reader.rest.len()) as i64 };
        values.push_front(Value::Integer(at));
    }
    Ok(values)
}

struct Reader<'a> {
    lua: &'a Lua,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> mlua::Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(raise(self.lua, "Missing bytes in input."));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned integer of `len` bytes.
    fn number(&mut self, len: usize) -> mlua::Result<u64> {
        Ok(self.take(len)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn value(&mut self, depth: usize) -> mlua::Result<Value> {
        if depth > READ_DEPTH_MAX {
            return Err(raise(self.lua, "Bad data format in input."));
        }
        let kind = self.take(1)?[0];
        Ok(match kind {
            0xc0 => Value::Nil,
            0xc2 | 0xc3 => Value::Boolean(kind == 0xc3),
            0x00..=0x7f => Value::Integer(i64::from(kind)),
            0xe0.. => Value::Integer(i64::from(kind.cast_signed())),
            0xcc => Value::Number(self.number(1)? as f64),
            0xcd => Value::Number(self.number(2)? as f64),
            0xce => Value::Number(self.number(4)? as f64),
            0xcf => Value::Number(self.number(8)? as f64),
            0xd0 => Value::Number(f64::from((self.number(1)? as u8).cast_signed())),
            0xd1 => Value::Number(f64::from((self.number(2)? as u16).cast_signed())),
            0xd2 => Value::Number(f64::from((self.number(4)? as u32).cast_signed())),
            0xd3 => Value::Number(self.number(8)?.cast_signed() as f64),
            0xca => Value::Number(f64::from(f32::from_bits(self.number(4)? as u32))),
            0xcb => Value::Number(f64::from_bits(self.number(8)?)),
            0xa0..=0xbf => self.text(usize::from(kind & 0x1f))?,
            0xd9..=0xdb => {
                let len = self.number(1 << (kind - 0xd9))?;
                self.text(len as usize)?
            }
            0x90..=0x9f => self.array(u64::from(kind & 0xf), depth)?,
            0xdc => {
                let len = self.number(2)?;
                self.array(len, depth)?
            }
            0xdd => {
                let len = self.number(4)?;
                self.array(len, depth)?
            }
            0x80..=0x8f => self.map(u64::from(kind & 0xf), depth)?,
            0xde => {
                let len = self.number(2)?;
                self.map(len, depth)?
            }
            0xdf => {
                let len = self.number(4)?;
                self.map(len, depth)?
            }
            _ => return Err(raise(self.lua, "Bad data format in input.")),
        })
    }

    fn text(&mut self, len: usize) -> mlua::Result<Value> {
        let bytes = self.take(len)?;
        Ok(Value::String(self.lua.create_string(bytes)?))
    }

    fn array(&mut self, len: u64, depth: usize) -> mlua::Result<Value> {
        let table = self.lua.create_table()?;
        for at in 1..=len {
            let value = self.value(depth + 1)?;
            table.raw_set(at, value)?;
        }
        Ok(Value::Table(table))
    }

    fn map(&mut self, len: u64, depth: usize) -> mlua::Result<Value> {
        let table = self.lua.create_table()?;
        for _ in 0..len {
            let (key, value) = (self.value(depth + 1)?, self.value(depth + 1)?);
            match &key {
                Value::Nil => return Err(Raised::Text(b"table index is nil".to_vec()).into()),
                Value::Number(key) if key.is_nan() => return Err(Raised::Text(b"table index is NaN".to_vec()).into()),
                _ => table.raw_set(key, value)?,
            }
        }
        Ok(Value::Table(table))
    }
}
