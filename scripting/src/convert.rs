//! Replies as Lua values, and Lua values as replies.

use dormouse_protocol::{Reply, Version};
use mlua::{Lua, LuaString, Table, Value};

use crate::errors::Raised;
use crate::number;
use crate::vm::State;

/// The depth of nested tables in a reply.
const DEPTH_MAX: usize = 1000;

/// The names of fields with a meaning in replies, and of the globals of a run.
pub(crate) struct Names {
    pub(crate) err: LuaString,
    pub(crate) ok: LuaString,
    pub(crate) keys: LuaString,
    pub(crate) argv: LuaString,
    double: LuaString,
    map: LuaString,
    set: LuaString,
    big_number: LuaString,
    verbatim_string: LuaString,
}

impl Names {
    pub(crate) fn new(lua: &Lua) -> mlua::Result<Self> {
        Ok(Self {
            err: lua.create_string("err")?,
            ok: lua.create_string("ok")?,
            keys: lua.create_string("KEYS")?,
            argv: lua.create_string("ARGV")?,
            double: lua.create_string("double")?,
            map: lua.create_string("map")?,
            set: lua.create_string("set")?,
            big_number: lua.create_string("big_number")?,
            verbatim_string: lua.create_string("verbatim_string")?,
        })
    }
}

/// The value of a reply that this process has written.
pub(crate) fn to_lua(lua: &Lua, names: &Names, reply: &[u8]) -> mlua::Result<Value> {
    Reader { lua, names, rest: reply }.value()
}

struct Reader<'a> {
    lua: &'a Lua,
    names: &'a Names,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> mlua::Result<Value> {
        let (kind, line) = self.line();
        Ok(match kind {
            b':' => integer(line).map_or(Value::Nil, Value::Integer),
            b'$' => match integer(line).and_then(|len| usize::try_from(len).ok()) {
                Some(len) => Value::String(self.lua.create_string(self.bytes(len))?),
                None => Value::Boolean(false),
            },
            b'+' => self.field(&self.names.ok, self.lua.create_string(line)?)?,
            b'-' => self.field(&self.names.err, self.lua.create_string(line)?)?,
            b'*' | b'>' => match integer(line).and_then(|len| usize::try_from(len).ok()) {
                None => Value::Boolean(false),
                Some(len) => {
                    let table = self.lua.create_table_with_capacity(len.min(1 << 16), 0)?;
                    for at in 1..=len {
                        let value = self.value()?;
                        if !value.is_nil() {
                            table.raw_seti(at, value)?;
                        }
                    }
                    Value::Table(table)
                }
            },
            b'_' => Value::Nil,
            b'#' => Value::Boolean(line == b"t"),
            b',' => self.field(&self.names.double, number::parse(line).unwrap_or(f64::NAN))?,
            b'(' => self.field(&self.names.big_number, self.lua.create_string(line)?)?,
            b'=' => {
                let len = integer(line).and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
                let bytes = self.bytes(len);
                let (format, text) = bytes.split_at(bytes.len().min(4));
                let table = self.lua.create_table()?;
                table.raw_set("format", self.lua.create_string(format.strip_suffix(b":").unwrap_or(format))?)?;
                table.raw_set("string", self.lua.create_string(text)?)?;
                self.field(&self.names.verbatim_string, table)?
            }
            b'%' => {
                let table = self.lua.create_table()?;
                for _ in 0..integer(line).unwrap_or(0) {
                    let (key, value) = (self.value()?, self.value()?);
                    if !key.is_nil() {
                        table.raw_set(key, value)?;
                    }
                }
                self.field(&self.names.map, table)?
            }
            b'~' => {
                let table = self.lua.create_table()?;
                for _ in 0..integer(line).unwrap_or(0) {
                    let member = self.value()?;
                    if !member.is_nil() {
                        table.raw_set(member, true)?;
                    }
                }
                self.field(&self.names.set, table)?
            }
            _ => Value::Nil,
        })
    }

    fn field(&self, name: &LuaString, value: impl mlua::IntoLua) -> mlua::Result<Value> {
        let table = self.lua.create_table_with_capacity(0, 1)?;
        table.raw_set(name, value)?;
        Ok(Value::Table(table))
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
    let value = digits.iter().fold(0u64, |value, digit| value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
    Some(if negative { value.wrapping_neg() as i64 } else { value as i64 })
}

/// Writes what a script has returned.
///
/// # Errors
/// If the script must end, or the virtual machine has no memory left.
pub(crate) fn to_reply(state: &State, names: &Names, value: &Value, reply: &mut Reply) -> mlua::Result<()> {
    Writer { state, names, reply }.value(value, 0)
}

struct Writer<'a> {
    state: &'a State,
    names: &'a Names,
    reply: &'a mut Reply,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> mlua::Result<()> {
        self.state.count_value()?;
        match value {
            Value::String(text) => self.reply.bulk(&text.as_bytes()),
            Value::Integer(value) => self.reply.integer(*value),
            // As C converts it on the usual machine.
            Value::Number(value) => self.reply.integer(if value.is_nan() { i64::MIN } else { saturate(*value) }),
            // It has a form of its own if the script has asked for it, whatever its client speaks.
            Value::Boolean(value) if self.state.version.get() == Version::Resp3 => self.reply.boolean(*value),
            Value::Boolean(true) => self.reply.integer(1),
            Value::Table(table) => self.table(table, depth)?,
            _ => self.reply.null(),
        }
        Ok(())
    }

    fn table(&mut self, table: &Table, depth: usize) -> mlua::Result<()> {
        if depth == DEPTH_MAX {
            return Err(Raised::Command(b"ERR reached lua stack limit".to_vec()).into());
        }
        match self.single(table)? {
            Form::Written => Ok(()),
            Form::Map(map) => self.map(&map, depth),
            Form::Set(set) => self.set(&set, depth),
            Form::Array => self.array(table, depth),
        }
    }

    /// Writes a table that stands for a value without others in it.
    #[inline(never)]
    fn single(&mut self, table: &Table) -> mlua::Result<Form> {
        let names = self.names;
        if let Some(text) = text_of(table.raw_get(&names.err)?) {
            self.reply.error_bytes(&text);
        } else if let Some(text) = text_of(table.raw_get(&names.ok)?) {
            let line = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
            self.reply.simple_bytes(&text.iter().map(line).collect::<Vec<_>>());
        } else if let Some(value) = number::of_value(&table.raw_get::<Value>(&names.double)?) {
            self.reply.double(value);
        } else if let Value::Table(map) = table.raw_get(&names.map)? {
            return Ok(Form::Map(map));
        } else if let Value::Table(set) = table.raw_get(&names.set)? {
            return Ok(Form::Set(set));
        } else if let Value::String(digits) = table.raw_get(&names.big_number)? {
            self.reply.big_number(&digits.to_string_lossy().replace(['\r', '\n'], " "));
        } else if let Value::Table(verbatim) = table.raw_get(&names.verbatim_string)?
            && let (Value::String(text), Value::String(format)) =
                (verbatim.raw_get::<Value>("string")?, verbatim.raw_get::<Value>("format")?)
        {
            let format = format.to_string_lossy();
            let format: String = format.chars().filter(char::is_ascii).chain("   ".chars()).take(3).collect();
            self.reply.verbatim(&format, &text.as_bytes());
        } else {
            return Ok(Form::Array);
        }
        Ok(Form::Written)
    }

    fn map(&mut self, map: &Table, depth: usize) -> mlua::Result<()> {
        let (start, mut pairs) = (self.reply.len(), 0);
        map.for_each(|key: Value, value: Value| {
            pairs += 1;
            self.value(&key, depth + 1)?;
            self.value(&value, depth + 1)
        })?;
        self.reply.map_since(start, pairs);
        Ok(())
    }

    fn set(&mut self, set: &Table, depth: usize) -> mlua::Result<()> {
        let (start, mut members) = (self.reply.len(), 0);
        set.for_each(|member: Value, _: Value| {
            members += 1;
            self.value(&member, depth + 1)
        })?;
        self.reply.set_since(start, members);
        Ok(())
    }

    fn array(&mut self, table: &Table, depth: usize) -> mlua::Result<()> {
        let (start, mut len) = (self.reply.len(), 0);
        loop {
            let value: Value = table.raw_get(len + 1)?;
            if value.is_nil() {
                break;
            }
            len += 1;
            self.value(&value, depth + 1)?;
        }
        self.reply.array_since(start, len);
        Ok(())
    }
}

/// The reply that a table stands for.
enum Form {
    /// A value that has been written.
    Written,
    Map(Table),
    Set(Table),
    Array,
}

/// The text of a string.
fn text_of(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        _ => None,
    }
}

/// A double as a 64-bit integer, as `(long long)` gives it on x86-64.
fn saturate(value: f64) -> i64 {
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value) { value as i64 } else { i64::MIN }
}
