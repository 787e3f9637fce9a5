//! `struct`: values packed as C lays them out, as lua_struct 0.2 does.
//!
//! A format is a run of options: `<` `>` `=` byte order, `!n` alignment, `x` a byte of padding, `bB hH lL T i[n] I[n]`
//! integers, `f d` floats, `s` a string up to a zero, `c[n]` bytes (`c0`: as many as the number before says).

use mlua::{Lua, LuaString, MultiValue, Table, Value};

use crate::errors::{bad_argument, raise};
use crate::strings::{number_argument, string_argument};

/// Largest integer, in bytes.
const INTEGER_BYTES_MAX: usize = 32;

pub(crate) fn table(lua: &Lua) -> mlua::Result<Table> {
    let functions = lua.create_table()?;
    functions.raw_set("pack", lua.create_function(|lua, arguments| pack(lua, &arguments))?)?;
    functions.raw_set("unpack", lua.create_function(|lua, arguments| unpack(lua, &arguments))?)?;
    functions.raw_set("size", lua.create_function(|lua, arguments| size(lua, &arguments))?)?;
    Ok(functions)
}

/// One option of a format, with its size and the padding before it.
struct Item {
    option: u8,
    size: usize,
    padding: usize,
}

struct Format<'a> {
    lua: &'a Lua,
    function: &'static str,
    text: &'a [u8],
    at: usize,
    is_little: bool,
    align: usize,
}

impl<'a> Format<'a> {
    fn new(lua: &'a Lua, function: &'static str, text: &'a [u8]) -> Self {
        Self { lua, function, text, at: 0, is_little: cfg!(target_endian = "little"), align: 1 }
    }

    /// The number at this point of the format.
    fn number(&mut self, otherwise: usize) -> mlua::Result<usize> {
        let digits = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return Ok(otherwise);
        }
        let text = &self.text[self.at..self.at + digits];
        self.at += digits;
        let number =
            text.iter().try_fold(0i32, |number, digit| number.checked_mul(10)?.checked_add(i32::from(digit - b'0')));
        number.map(|number| number as usize).ok_or_else(|| raise(self.lua, "integral size overflow"))
    }

    fn integer_size(&mut self) -> mlua::Result<usize> {
        let size = self.number(size_of::<i32>())?;
        if size > INTEGER_BYTES_MAX {
            let problem = format!("integral size {size} is larger than limit of {INTEGER_BYTES_MAX}");
            return Err(raise(self.lua, problem));
        }
        Ok(size)
    }

    /// The next option that stands for a value or for padding. `total`: bytes so far.
    fn next(&mut self, total: usize) -> mlua::Result<Option<Item>> {
        loop {
            let Some(&option) = self.text.get(self.at) else { return Ok(None) };
            self.at += 1;
            let size = match option {
                b'B' | b'b' | b'x' => 1,
                b'H' | b'h' => 2,
                b'L' | b'l' | b'T' => 8,
                b'I' | b'i' => self.integer_size()?,
                b'f' => 4,
                b'd' => 8,
                b'c' => self.number(1)?,
                b's' => 0,
                b' ' => continue,
                b'<' => {
                    self.is_little = true;
                    continue;
                }
                b'>' => {
                    self.is_little = false;
                    continue;
                }
                b'=' => {
                    self.is_little = cfg!(target_endian = "little");
                    continue;
                }
                b'!' => {
                    let align = self.number(8)?;
                    if align == 0 || !align.is_power_of_two() {
                        return Err(raise(self.lua, format!("alignment {align} is not a power of 2")));
                    }
                    self.align = align;
                    continue;
                }
                other => {
                    let problem = format!("invalid format option '{}'", char::from(other));
                    return Err(bad_argument(self.lua, 1, self.function, &problem));
                }
            };
            return Ok(Some(Item { option, size, padding: self.padding(option, size, total) }));
        }
    }

    fn padding(&self, option: u8, size: usize, total: usize) -> usize {
        if size == 0 || option == b'c' {
            return 0;
        }
        let align = size.min(self.align);
        if align <= 1 { 0 } else { (align - (total & (align - 1))) & (align - 1) }
    }
}

/// `struct.pack(format, ...)`
fn pack(lua: &Lua, arguments: &MultiValue) -> mlua::Result<LuaString> {
    let text = string_argument(lua, arguments, 1, "pack")?;
    let text = text.as_bytes();
    let mut format = Format::new(lua, "pack", &text);
    let (mut packed, mut at) = (Vec::new(), 2);
    while let Some(Item { option, size, padding }) = format.next(packed.len())? {
        packed.resize(packed.len() + padding, 0);
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let value = number(lua, arguments, at)?;
                at += 1;
                let value = if value < 0.0 { (value as i64).cast_unsigned() } else { value as u64 };
                let bytes = (0..size).map(|byte| if byte < 8 { (value >> (8 * byte)) as u8 } else { 0 });
                match format.is_little {
                    true => packed.extend(bytes),
                    false => packed.extend(bytes.rev()),
                }
            }
            b'x' => packed.push(0),
            b'f' | b'd' => {
                let value = number(lua, arguments, at)?;
                at += 1;
                let mut bytes = match option {
                    b'f' => (value as f32).to_le_bytes().to_vec(),
                    _ => value.to_le_bytes().to_vec(),
                };
                if !format.is_little {
                    bytes.reverse();
                }
                packed.extend(bytes);
            }
            _ => {
                let string = string_argument(lua, arguments, at, "pack")?;
                let string = string.as_bytes();
                let size = if option == b's' || size == 0 { string.len() } else { size };
                if string.len() < size {
                    return Err(bad_argument(lua, at + 1, "pack", "string too short"));
                }
                at += 1;
                packed.extend_from_slice(&string[..size]);
                if option == b's' {
                    packed.push(0);
                }
            }
        }
    }
    lua.create_string(packed)
}

fn number(lua: &Lua, arguments: &MultiValue, at: usize) -> mlua::Result<f64> {
    let found = number_argument(lua, arguments, at, "pack")?;
    found.ok_or_else(|| bad_argument(lua, at, "pack", "number expected, got nil"))
}

/// `struct.unpack(format, data [, position])`: the values, and the position behind them.
fn unpack(lua: &Lua, arguments: &MultiValue) -> mlua::Result<MultiValue> {
    let text = string_argument(lua, arguments, 1, "unpack")?;
    let data = string_argument(lua, arguments, 2, "unpack")?;
    let position = number_argument(lua, arguments, 3, "unpack")?.unwrap_or(1.0);
    if position < 1.0 {
        return Err(bad_argument(lua, 3, "unpack", "offset must be 1 or greater"));
    }
    let (text, data) = (text.as_bytes(), data.as_bytes());
    let mut format = Format::new(lua, "unpack", &text);
    let too_short = || bad_argument(lua, 2, "unpack", "data string too short");
    let (mut at, mut values) = (position as usize - 1, MultiValue::new());
    while let Some(Item { option, size, padding }) = format.next(at)? {
        at += padding;
        let bytes = at.checked_add(size).and_then(|end| data.get(at..end)).ok_or_else(too_short)?;
        if values.len() > 7000 {
            return Err(raise(lua, "too many results"));
        }
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
                let value = match format.is_little {
                    true => bytes.iter().rev().fold(0, fold),
                    false => bytes.iter().fold(0, fold),
                };
                let is_signed = option.is_ascii_lowercase();
                let unused = 64 - 8 * size.clamp(1, 8) as u32;
                values.push_back(Value::Number(match is_signed {
                    true => ((value << unused).cast_signed() >> unused) as f64,
                    false => value as f64,
                }));
            }
            b'x' => {}
            b'f' => {
                let mut bytes: [u8; 4] = bytes.try_into().map_err(|_| too_short())?;
                if !format.is_little {
                    bytes.reverse();
                }
                values.push_back(Value::Number(f64::from(f32::from_le_bytes(bytes))));
            }
            b'd' => {
                let mut bytes: [u8; 8] = bytes.try_into().map_err(|_| too_short())?;
                if !format.is_little {
                    bytes.reverse();
                }
                values.push_back(Value::Number(f64::from_le_bytes(bytes)));
            }
            b'c' => {
                let mut len = size;
                if size == 0 {
                    let Some(count) = values.back().and_then(crate::number::of_value) else {
                        return Err(raise(lua, "format 'c0' needs a previous size"));
                    };
                    values.pop_back();
                    if count < 0.0 {
                        return Err(too_short());
                    }
                    len = count as usize;
                }
                let bytes = at.checked_add(len).and_then(|end| data.get(at..end)).ok_or_else(too_short)?;
                values.push_back(Value::String(lua.create_string(bytes)?));
                at += len;
                continue;
            }
            _ => {
                let len = memchr::memchr(0, data.get(at..).unwrap_or_default());
                let Some(len) = len else {
                    return Err(raise(lua, "unfinished string in data"));
                };
                values.push_back(Value::String(lua.create_string(&data[at..at + len])?));
                at += len + 1;
                continue;
            }
        }
        at += size;
    }
    values.push_back(Value::Integer(at as i64 + 1));
    Ok(values)
}

/// `struct.size(format)`
fn size(lua: &Lua, arguments: &MultiValue) -> mlua::Result<i64> {
    let text = string_argument(lua, arguments, 1, "size")?;
    let text = text.as_bytes();
    let mut format = Format::new(lua, "size", &text);
    let mut total = 0usize;
    while let Some(Item { option, size, padding }) = format.next(total)? {
        total = total.saturating_add(padding + size);
        if option == b's' || option == b'c' && size == 0 {
            let problem = format!("option '{}' has no fixed size", if option == b's' { "s" } else { "c0" });
            return Err(bad_argument(lua, 1, "size", &problem));
        }
    }
    Ok(total as i64)
}
