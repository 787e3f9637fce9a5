//! `bit`: operations on 32 bits, as LuaBitOp has them.

use mlua::{Lua, MultiValue, Table};

use crate::errors::bad_argument;
use crate::strings::number_argument;

type Fold = fn(i32, i32) -> i32;
type Shift = fn(i32, u32) -> i32;
type Single = fn(i32) -> i32;

/// Operations over any number of arguments.
const FOLDS: &[(&str, Fold)] = &[("band", |a, b| a & b), ("bor", |a, b| a | b), ("bxor", |a, b| a ^ b)];

/// Operations over a number and a count of bits.
const SHIFTS: &[(&str, Shift)] = &[
    ("lshift", |value, by| value << by),
    ("rshift", |value, by| (value.cast_unsigned() >> by).cast_signed()),
    ("arshift", |value, by| value >> by),
    ("rol", |value, by| value.rotate_left(by)),
    ("ror", |value, by| value.rotate_right(by)),
];

/// Operations over one number.
const SINGLE: &[(&str, Single)] = &[("tobit", |value| value), ("bnot", |value| !value), ("bswap", i32::swap_bytes)];

pub(crate) fn table(lua: &Lua) -> mlua::Result<Table> {
    let bit = lua.create_table()?;
    for &(name, operation) in SINGLE {
        let run = move |lua: &Lua, arguments: MultiValue| Ok(operation(argument(lua, &arguments, 1, name)?));
        bit.raw_set(name, lua.create_function(run)?)?;
    }
    for &(name, operation) in FOLDS {
        let run = move |lua: &Lua, arguments: MultiValue| {
            let first = argument(lua, &arguments, 1, name)?;
            (2..=arguments.len())
                .try_fold(first, |value, at| Ok(operation(value, argument(lua, &arguments, at, name)?)))
        };
        bit.raw_set(name, lua.create_function(run)?)?;
    }
    for &(name, operation) in SHIFTS {
        let run = move |lua: &Lua, arguments: MultiValue| {
            let by = argument(lua, &arguments, 2, name)?.cast_unsigned() & 31;
            Ok(operation(argument(lua, &arguments, 1, name)?, by))
        };
        bit.raw_set(name, lua.create_function(run)?)?;
    }
    bit.raw_set("tohex", lua.create_function(|lua, arguments: MultiValue| tohex(lua, &arguments))?)?;
    Ok(bit)
}

/// A number modulo 2^32, rounded to the nearest even one.
fn argument(lua: &Lua, arguments: &MultiValue, at: usize, function: &str) -> mlua::Result<i32> {
    let Some(value) = number_argument(lua, arguments, at, function)? else {
        return Err(bad_argument(lua, at, function, "number expected, got no value"));
    };
    // The sum has the integer in its lower bits.
    Ok((value + 6_755_399_441_055_744.0).to_bits() as u32 as i32)
}

/// `bit.tohex(value [, digits])`: negative digits are upper case.
fn tohex(lua: &Lua, arguments: &MultiValue) -> mlua::Result<String> {
    let value = argument(lua, arguments, 1, "tohex")?;
    let digits = if arguments.len() < 2 { 8 } else { argument(lua, arguments, 2, "tohex")? };
    let text = if digits < 0 { format!("{value:08X}") } else { format!("{value:08x}") };
    let digits = digits.unsigned_abs().min(8) as usize;
    Ok(text[8 - digits..].to_owned())
}
