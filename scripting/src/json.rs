//! `cjson`: JSON as lua-cjson 2.1 writes and reads it.

use std::cell::RefCell;
use std::rc::Rc;

use mlua::{Lua, LuaString, MultiValue, Table, Value};

use crate::errors::{Raised, bad_argument, raise};
use crate::number;
use crate::stack;
use crate::strings::{lua_type, number_argument, string_argument};
use crate::vm::State;

/// Settings that a script may change for its own run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    sparse_convert: bool,
    sparse_ratio: i64,
    sparse_safe: i64,
    encode_depth_max: i64,
    decode_depth_max: i64,
    digits: i64,
    encode_invalid: Invalid,
    decode_invalid: bool,
}

/// How infinite numbers and those that are none are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Invalid {
    Refused,
    Text,
    Null,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sparse_convert: false,
            sparse_ratio: 2,
            sparse_safe: 10,
            encode_depth_max: 1000,
            decode_depth_max: 1000,
            digits: 14,
            encode_invalid: Invalid::Refused,
            decode_invalid: true,
        }
    }
}

impl Settings {
    fn rules(&self) -> stack::json::Rules {
        stack::json::Rules {
            digits: self.digits as usize,
            depth_max: self.encode_depth_max,
            sparse_safe: self.sparse_safe,
            sparse_ratio: self.sparse_ratio,
            write_text: string,
        }
    }
}

/// The deepest nesting, whatever a script sets: each level takes memory of the thread's stack.
const DEPTH_MAX: i64 = 1000;

pub(crate) fn table(lua: &Lua, state: &Rc<State>) -> mlua::Result<Table> {
    let cjson = lua.create_table()?;
    let its = Rc::clone(state);
    cjson.raw_set("encode", lua.create_function(move |lua, arguments| encode(lua, &its, &arguments))?)?;
    let its = Rc::clone(state);
    cjson.raw_set("decode", lua.create_function(move |lua, arguments| decode(lua, &its, &arguments))?)?;
    let its = Rc::clone(state);
    let sparse = move |lua: &Lua, arguments: MultiValue| sparse_array(lua, &its.json, &arguments);
    cjson.raw_set("encode_sparse_array", lua.create_function(sparse)?)?;
    for (name, most, field) in [
        ("encode_max_depth", DEPTH_MAX, (|settings| &mut settings.encode_depth_max) as fn(&mut Settings) -> &mut i64),
        ("decode_max_depth", DEPTH_MAX, |settings| &mut settings.decode_depth_max),
        ("encode_number_precision", 16, |settings| &mut settings.digits),
    ] {
        let its = Rc::clone(state);
        let set = move |lua: &Lua, arguments: MultiValue| {
            let mut settings = its.json.borrow_mut();
            let field = field(&mut settings);
            if let Some(value) = number_argument(lua, &arguments, 1, name)? {
                let limit = if name == "encode_number_precision" { most } else { i64::from(i32::MAX) };
                if !(1..=limit).contains(&(value as i64)) {
                    return Err(bad_argument(lua, 1, name, &format!("expected integer between 1 and {limit}")));
                }
                *field = (value as i64).min(most);
            }
            Ok(*field)
        };
        cjson.raw_set(name, lua.create_function(set)?)?;
    }
    cjson.raw_set("encode_keep_buffer", lua.create_function(|_, _: MultiValue| Ok(true))?)?;
    let its = Rc::clone(state);
    let invalid = move |lua: &Lua, arguments: MultiValue| {
        let mut settings = its.json.borrow_mut();
        match arguments.front() {
            None => {}
            Some(Value::Boolean(on)) => settings.encode_invalid = if *on { Invalid::Text } else { Invalid::Refused },
            Some(Value::String(word)) if *word == "null" => settings.encode_invalid = Invalid::Null,
            Some(_) => return Err(bad_argument(lua, 1, "encode_invalid_numbers", "invalid option")),
        }
        Ok(match settings.encode_invalid {
            Invalid::Refused => Value::Boolean(false),
            Invalid::Text => Value::Boolean(true),
            Invalid::Null => Value::String(lua.create_string("null")?),
        })
    };
    cjson.raw_set("encode_invalid_numbers", lua.create_function(invalid)?)?;
    let its = Rc::clone(state);
    let invalid = move |_: &Lua, on: Option<bool>| {
        let mut settings = its.json.borrow_mut();
        settings.decode_invalid = on.unwrap_or(settings.decode_invalid);
        Ok(settings.decode_invalid)
    };
    cjson.raw_set("decode_invalid_numbers", lua.create_function(invalid)?)?;
    cjson.raw_set("null", Value::NULL)?;
    cjson.raw_set("_NAME", "cjson")?;
    cjson.raw_set("_VERSION", "2.1.0")?;
    Ok(cjson)
}

fn sparse_array(lua: &Lua, settings: &RefCell<Settings>, arguments: &MultiValue) -> mlua::Result<(bool, i64, i64)> {
    let mut settings = settings.borrow_mut();
    match arguments.front() {
        None | Some(Value::Nil) => {}
        Some(Value::Boolean(on)) => settings.sparse_convert = *on,
        Some(_) => return Err(bad_argument(lua, 1, "encode_sparse_array", "boolean expected")),
    }
    if let Some(ratio) = number_argument(lua, arguments, 2, "encode_sparse_array")? {
        settings.sparse_ratio = (ratio as i64).max(0);
    }
    if let Some(safe) = number_argument(lua, arguments, 3, "encode_sparse_array")? {
        settings.sparse_safe = (safe as i64).max(0);
    }
    Ok((settings.sparse_convert, settings.sparse_ratio, settings.sparse_safe))
}

/// `cjson.encode(value)`
fn encode(lua: &Lua, state: &State, arguments: &MultiValue) -> mlua::Result<LuaString> {
    let [value] = arguments.iter().collect::<Vec<_>>()[..] else {
        return Err(bad_argument(lua, 1, "encode", "expected 1 argument"));
    };
    let settings = *state.json.borrow();
    let mut json = Vec::new();
    if stack::json::encode(lua, state, &settings.rules(), value, &mut json) {
        return lua.create_string(json);
    }
    if state.halted.get() {
        return Err(Raised::Halt.into());
    }
    let mut encoder = Encoder { lua, state, settings, json: Vec::new() };
    encoder.value(value, 0)?;
    lua.create_string(encoder.json)
}

struct Encoder<'a> {
    lua: &'a Lua,
    state: &'a State,
    settings: Settings,
    json: Vec<u8>,
}

impl Encoder<'_> {
    fn refused(&self, value: &Value, why: &str) -> mlua::Error {
        raise(self.lua, format!("Cannot serialise {}: {why}", lua_type(value.type_name())))
    }

    fn value(&mut self, value: &Value, depth: i64) -> mlua::Result<()> {
        self.state.count_value()?;
        if self.json.len() > self.state.memory_bytes.get() {
            return Err(raise(self.lua, "not enough memory"));
        }
        match value {
            Value::String(text) => string(&mut self.json, &text.as_bytes()),
            Value::Integer(number) => self.number(*number as f64, value)?,
            Value::Number(number) => self.number(*number, value)?,
            Value::Boolean(value) => self.json.extend_from_slice(if *value { b"true" } else { b"false" }),
            Value::Nil => self.json.extend_from_slice(b"null"),
            value if value.is_null() => self.json.extend_from_slice(b"null"),
            Value::Table(table) => {
                let depth = depth + 1;
                if depth > self.settings.encode_depth_max {
                    return Err(raise(self.lua, format!("Cannot serialise, excessive nesting ({depth})")));
                }
                match self.array_length(table, value)? {
                    Some(len) => self.array(table, len, depth)?,
                    None => self.object(table, depth)?,
                }
            }
            value => return Err(self.refused(value, "type not supported")),
        }
        Ok(())
    }

    fn number(&mut self, number: f64, value: &Value) -> mlua::Result<()> {
        if number.is_finite() {
            self.json.extend_from_slice(&number::general(number, self.settings.digits as usize));
            return Ok(());
        }
        match self.settings.encode_invalid {
            Invalid::Refused => return Err(self.refused(value, "must not be NaN or Inf")),
            Invalid::Null => self.json.extend_from_slice(b"null"),
            Invalid::Text if number.is_nan() => self.json.extend_from_slice(b"nan"),
            Invalid::Text => self.json.extend_from_slice(&number::general(number, 14)),
        }
        Ok(())
    }

    /// The length of a table that is an array, not too sparse and not empty.
    fn array_length(&self, table: &Table, value: &Value) -> mlua::Result<Option<i64>> {
        let (mut most, mut items) = (0i64, 0i64);
        for pair in table.pairs::<Value, Value>() {
            match pair?.0 {
                Value::Integer(at) if at >= 1 => {
                    // The library counts in 32 bits, so a table with a larger index is an object.
                    most = if at > most { i64::from(i32::try_from(at).unwrap_or(i32::MIN)) } else { most };
                    items += 1;
                }
                Value::Number(at) if at >= 1.0 && at.fract() == 0.0 => {
                    most = i64::from(i32::MIN);
                    items += 1;
                }
                _ => return Ok(None),
            }
        }
        let Settings { sparse_convert, sparse_ratio, sparse_safe, .. } = self.settings;
        if sparse_ratio > 0 && most > items.saturating_mul(sparse_ratio) && most > sparse_safe {
            if !sparse_convert {
                return Err(self.refused(value, "excessively sparse array"));
            }
            return Ok(None);
        }
        Ok((most > 0).then_some(most))
    }

    fn array(&mut self, table: &Table, len: i64, depth: i64) -> mlua::Result<()> {
        self.json.push(b'[');
        for at in 1..=len {
            if at > 1 {
                self.json.push(b',');
            }
            let value: Value = table.raw_get(at)?;
            self.value(&value, depth)?;
        }
        self.json.push(b']');
        Ok(())
    }

    fn object(&mut self, table: &Table, depth: i64) -> mlua::Result<()> {
        self.json.push(b'{');
        let mut is_first = true;
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair?;
            if !std::mem::take(&mut is_first) {
                self.json.push(b',');
            }
            match &key {
                Value::String(text) => string(&mut self.json, &text.as_bytes()),
                Value::Integer(_) | Value::Number(_) => {
                    self.json.push(b'"');
                    self.number(number::of_value(&key).unwrap_or(0.0), &key)?;
                    self.json.push(b'"');
                }
                key => return Err(self.refused(key, "table key must be a number or string")),
            }
            self.json.push(b':');
            self.value(&value, depth)?;
        }
        self.json.push(b'}');
        Ok(())
    }
}

fn string(json: &mut Vec<u8>, text: &[u8]) {
    json.reserve(text.len() + 2);
    json.push(b'"');
    for &byte in text {
        match byte {
            b'"' => json.extend_from_slice(b"\\\""),
            b'\\' => json.extend_from_slice(b"\\\\"),
            b'/' => json.extend_from_slice(b"\\/"),
            0x08 => json.extend_from_slice(b"\\b"),
            b'\t' => json.extend_from_slice(b"\\t"),
            b'\n' => json.extend_from_slice(b"\\n"),
            0x0c => json.extend_from_slice(b"\\f"),
            b'\r' => json.extend_from_slice(b"\\r"),
            0..=0x1f | 0x7f => json.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => json.push(byte),
        }
    }
    json.push(b'"');
}

/// `cjson.decode(text)`
fn decode(lua: &Lua, state: &State, arguments: &MultiValue) -> mlua::Result<Value> {
    if arguments.len() != 1 {
        return Err(bad_argument(lua, 1, "decode", "expected 1 argument"));
    }
    let text = string_argument(lua, arguments, 1, "decode")?;
    let text = text.as_bytes();
    if text.len() >= 2 && (text[0] == 0 || text[1] == 0) {
        return Err(raise(lua, "JSON parser does not support UTF-16 or UTF-32"));
    }
    let mut decoder = Decoder { lua, settings: *state.json.borrow(), text: &text, at: 0, depth: 0 };
    let first = decoder.token();
    let value = decoder.value(first)?;
    match decoder.token() {
        (Token::End, _) => Ok(value),
        other => Err(decoder.unexpected("the end", &other)),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    String(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Error(&'static str),
}

impl Token {
    fn name(&self) -> &'static str {
        match self {
            Self::ObjectBegin => "T_OBJ_BEGIN",
            Self::ObjectEnd => "T_OBJ_END",
            Self::ArrayBegin => "T_ARR_BEGIN",
            Self::ArrayEnd => "T_ARR_END",
            Self::String(_) => "T_STRING",
            Self::Number(_) => "T_NUMBER",
            Self::Boolean(_) => "T_BOOLEAN",
            Self::Null => "T_NULL",
            Self::Colon => "T_COLON",
            Self::Comma => "T_COMMA",
            Self::End => "T_END",
            Self::Error(text) => text,
        }
    }
}

/// A token and where it begins.
type Found = (Token, usize);

struct Decoder<'a> {
    lua: &'a Lua,
    settings: Settings,
    text: &'a [u8],
    at: usize,
    depth: i64,
}

impl Decoder<'_> {
    fn unexpected(&self, expected: &str, (token, at): &Found) -> mlua::Error {
        raise(self.lua, format!("Expected {expected} but found {} at character {}", token.name(), at + 1))
    }

    fn value(&mut self, found: Found) -> mlua::Result<Value> {
        match found.0 {
            Token::String(text) => Ok(Value::String(self.lua.create_string(text)?)),
            Token::Number(value) => Ok(Value::Number(value)),
            Token::Boolean(value) => Ok(Value::Boolean(value)),
            Token::Null => Ok(Value::NULL),
            Token::ObjectBegin => self.object(),
            Token::ArrayBegin => self.array(),
            _ => Err(self.unexpected("value", &found)),
        }
    }

    fn descend(&mut self) -> mlua::Result<()> {
        self.depth += 1;
        if self.depth <= self.settings.decode_depth_max {
            return Ok(());
        }
        let text = format!("Found too many nested data structures ({}) at character {}", self.depth, self.at);
        Err(raise(self.lua, text))
    }

    fn object(&mut self) -> mlua::Result<Value> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut found = self.token();
        if found.0 == Token::ObjectEnd {
            self.depth -= 1;
            return Ok(Value::Table(table));
        }
        loop {
            let Token::String(key) = &found.0 else { return Err(self.unexpected("object key string", &found)) };
            let key = self.lua.create_string(key)?;
            let colon = self.token();
            if colon.0 != Token::Colon {
                return Err(self.unexpected("colon", &colon));
            }
            let token = self.token();
            let value = self.value(token)?;
            table.raw_set(key, value)?;
            match self.token() {
                (Token::ObjectEnd, _) => {
                    self.depth -= 1;
                    return Ok(Value::Table(table));
                }
                (Token::Comma, _) => found = self.token(),
                other => return Err(self.unexpected("comma or object end", &other)),
            }
        }
    }

    fn array(&mut self) -> mlua::Result<Value> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut found = self.token();
        if found.0 == Token::ArrayEnd {
            self.depth -= 1;
            return Ok(Value::Table(table));
        }
        for at in 1.. {
            let value = self.value(found)?;
            table.raw_seti(at, value)?;
            match self.token() {
                (Token::ArrayEnd, _) => break,
                (Token::Comma, _) => found = self.token(),
                other => return Err(self.unexpected("comma or array end", &other)),
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn token(&mut self) -> Found {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        let start = self.at;
        let single = |token| (token, start);
        let Some(&byte) = self.text.get(start) else { return single(Token::End) };
        self.at += 1;
        match byte {
            b'{' => single(Token::ObjectBegin),
            b'}' => single(Token::ObjectEnd),
            b'[' => single(Token::ArrayBegin),
            b']' => single(Token::ArrayEnd),
            b':' => single(Token::Colon),
            b',' => single(Token::Comma),
            b'"' => self.string(),
            // The text of C ends at a zero.
            0 => {
                self.at = start;
                single(Token::End)
            }
            _ => {
                self.at = start;
                self.word(start, byte)
            }
        }
    }

    fn word(&mut self, start: usize, byte: u8) -> Found {
        let rest = &self.text[start..];
        if byte == b'-' || byte.is_ascii_digit() {
            if !self.settings.decode_invalid && is_invalid_number(rest) {
                return (Token::Error("invalid number"), start);
            }
            return self.number(start);
        }
        for (word, token) in
            [(&b"true"[..], Token::Boolean(true)), (b"false", Token::Boolean(false)), (b"null", Token::Null)]
        {
            if rest.starts_with(word) {
                self.at += word.len();
                return (token, start);
            }
        }
        if self.settings.decode_invalid && is_invalid_number(rest) {
            return self.number(start);
        }
        (Token::Error("invalid token"), start)
    }

    fn number(&mut self, start: usize) -> Found {
        match number::parse_prefix(&self.text[start..]) {
            Some((value, len)) => {
                self.at = start + len;
                (Token::Number(value), start)
            }
            None => (Token::Error("invalid number"), start),
        }
    }

    fn string(&mut self) -> Found {
        let start = self.at - 1;
        let mut text = Vec::new();
        loop {
            let plain = memchr::memchr3(b'"', b'\\', 0, &self.text[self.at..]).unwrap_or(self.text.len() - self.at);
            let run = &self.text[self.at..self.at + plain];
            text.extend_from_slice(run);
            self.at += plain;
            match self.text.get(self.at) {
                None | Some(0) => return (Token::Error("unexpected end of string"), self.at),
                Some(b'"') => {
                    self.at += 1;
                    return (Token::String(text), start);
                }
                Some(_) => {
                    let escape = self.at;
                    let simple = match self.text.get(escape + 1) {
                        Some(byte @ (b'"' | b'\\' | b'/')) => *byte,
                        Some(b'b') => 0x08,
                        Some(b'f') => 0x0c,
                        Some(b'n') => b'\n',
                        Some(b'r') => b'\r',
                        Some(b't') => b'\t',
                        Some(b'u') => match self.unicode(escape) {
                            Some((character, len)) => {
                                text.extend_from_slice(&character);
                                self.at = escape + len;
                                continue;
                            }
                            None => return (Token::Error("invalid unicode escape code"), escape),
                        },
                        _ => return (Token::Error("invalid escape code"), escape),
                    };
                    text.push(simple);
                    self.at = escape + 2;
                }
            }
        }
    }

    /// The UTF-8 of the escape at `at`, and its length.
    fn unicode(&self, at: usize) -> Option<(smallvec::SmallVec<[u8; 4]>, usize)> {
        let code = |at: usize| {
            let digits = self.text.get(at + 2..at + 6).filter(|_| self.text[at..].starts_with(b"\\u"))?;
            digits.iter().try_fold(0u32, |code, digit| Some(code << 4 | char::from(*digit).to_digit(16)?))
        };
        let first = code(at)?;
        let (code, len) = match first {
            0xd800..0xdc00 => {
                let second = code(at + 6).filter(|second| (0xdc00..0xe000).contains(second))?;
                (0x10000 + ((first & 0x3ff) << 10 | second & 0x3ff), 12)
            }
            0xdc00..0xe000 => return None,
            code => (code, 6),
        };
        let mut bytes = [0; 4];
        let text = char::from_u32(code)?.encode_utf8(&mut bytes);
        Some((smallvec::SmallVec::from_slice(text.as_bytes()), len))
    }
}

/// Numbers that JSON does not have: with a plus sign, hexadecimal ones, infinity, and what is none.
fn is_invalid_number(text: &[u8]) -> bool {
    if text.first() == Some(&b'+') {
        return true;
    }
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let starts = |word: &[u8]| unsigned.len() >= word.len() && unsigned[..word.len()].eq_ignore_ascii_case(word);
    match unsigned.first() {
        Some(b'0') => matches!(unsigned.get(1), Some(b'x' | b'X' | b'0'..=b'9')),
        Some(..=b'9') => false,
        _ => starts(b"inf") || starts(b"nan"),
    }
}
