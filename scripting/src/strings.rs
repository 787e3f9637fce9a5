//! The functions of `string` that the C library leaves without a bound: patterns ([`crate::pattern`]) and `rep`. Those
//! that look at every byte of a text tell the host.

use std::rc::Rc;

use mlua::{Function, Lua, LuaString, MultiValue, Table, Value};

use crate::errors::{Raised, bad_argument, raise};
use crate::number;
use crate::pattern::{Captured, Matcher, Problem};
use crate::vm::{HOST, State};

/// An iterator keeps its subject and its pattern as values of Lua.
const GMATCH: &str = r#"
local step = ...
return function(subject, pattern)
  local at = step(subject, pattern, -1)
  local function advance(after, ...)
    at = after
    return ...
  end
  return function()
    if at then return advance(step(subject, pattern, at)) end
  end
end
"#;

pub(crate) fn install(lua: &Lua, state: &Rc<State>, string: &Table) -> mlua::Result<()> {
    for (name, finds) in [("find", true), ("match", false)] {
        let its = Rc::clone(state);
        let search = move |lua: &Lua, arguments: MultiValue| search(lua, &its, &arguments, finds);
        string.raw_set(name, lua.create_function(search)?)?;
    }
    let its = Rc::clone(state);
    let step = lua.create_function(move |lua, arguments: MultiValue| gmatch_step(lua, &its, &arguments))?;
    let gmatch: Function = lua.load(GMATCH).set_name("=string").call(step)?;
    string.raw_set("gmatch", &gmatch)?;
    string.raw_set("gfind", gmatch)?;
    let its = Rc::clone(state);
    string.raw_set("gsub", lua.create_function(move |lua, arguments: MultiValue| gsub(lua, &its, &arguments))?)?;
    let its = Rc::clone(state);
    string.raw_set("rep", lua.create_function(move |lua, arguments: MultiValue| rep(lua, &its, &arguments))?)?;
    for (name, change) in [
        ("lower", <[u8]>::make_ascii_lowercase as fn(&mut [u8])),
        ("upper", <[u8]>::make_ascii_uppercase),
        ("reverse", <[u8]>::reverse),
    ] {
        let its = Rc::clone(state);
        let changed = move |lua: &Lua, arguments: MultiValue| {
            let text = string_argument(lua, &arguments, 1, name)?;
            let mut text = text.as_bytes().to_vec();
            its.weigh(text.len())?;
            change(&mut text);
            lua.create_string(text)
        };
        string.raw_set(name, lua.create_function(changed)?)?;
    }
    Ok(())
}

/// Whether a search may go on. A script that runs without questions never searches.
fn goes_on() -> bool {
    !HOST.is_set() || HOST.with(|host| host.tick(0)).is_ok()
}

fn problem(lua: &Lua, state: &State, problem: Problem) -> mlua::Error {
    match problem {
        Problem::Text(text) => raise(lua, text),
        Problem::Halt => {
            state.halted.set(true);
            Raised::Halt.into()
        }
    }
}

/// Argument `at`, counted from 1, as a string.
pub(crate) fn string_argument(lua: &Lua, arguments: &MultiValue, at: usize, function: &str) -> mlua::Result<LuaString> {
    match arguments.get(at - 1) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Integer(value)) => lua.create_string(number::general(*value as f64, 14)),
        Some(Value::Number(value)) => lua.create_string(number::general(*value, 14)),
        other => {
            let found = other.map_or("no value", Value::type_name);
            Err(bad_argument(lua, at, function, &format!("string expected, got {}", lua_type(found))))
        }
    }
}

/// Argument `at` as a number; `None` if there is none.
pub(crate) fn number_argument(
    lua: &Lua,
    arguments: &MultiValue,
    at: usize,
    function: &str,
) -> mlua::Result<Option<f64>> {
    let value = match arguments.get(at - 1) {
        None | Some(Value::Nil) => return Ok(None),
        Some(Value::Integer(value)) => Some(*value as f64),
        Some(Value::Number(value)) => Some(*value),
        Some(Value::String(text)) => number::parse(&text.as_bytes()),
        Some(_) => None,
    };
    match value {
        Some(value) => Ok(Some(value)),
        None => {
            let found = arguments.get(at - 1).map_or("no value", Value::type_name);
            Err(bad_argument(lua, at, function, &format!("number expected, got {}", lua_type(found))))
        }
    }
}

/// Lua's own name of a type.
pub(crate) fn lua_type(name: &str) -> &str {
    match name {
        "integer" => "number",
        "lightuserdata" | "error" => "userdata",
        other => other,
    }
}

fn capture(lua: &Lua, captured: Captured<'_>) -> mlua::Result<Value> {
    Ok(match captured {
        Captured::Text(text) => Value::String(lua.create_string(text)?),
        Captured::Position(at) => Value::Integer(at as i64),
    })
}

/// `string.find` and `string.match`
fn search(lua: &Lua, state: &State, arguments: &MultiValue, finds: bool) -> mlua::Result<MultiValue> {
    let function = if finds { "find" } else { "match" };
    let subject = string_argument(lua, arguments, 1, function)?;
    let pattern = string_argument(lua, arguments, 2, function)?;
    let init = number_argument(lua, arguments, 3, function)?.unwrap_or(1.0) as i64;
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    state.weigh(subject.len())?;
    let len = subject.len() as i64;
    let from = if init < 0 { init.saturating_add(len + 1) } else { init };
    let mut start = (from - 1).clamp(0, len) as usize;
    let is_plain = matches!(arguments.get(3), Some(value) if !matches!(value, Value::Nil | Value::Boolean(false)));
    if finds && (is_plain || !pattern.iter().any(|byte| b"^$*+?.([%-".contains(byte))) {
        return Ok(match memchr::memmem::find(&subject[start..], &pattern) {
            Some(at) => {
                let first = (start + at) as i64;
                [Value::Integer(first + 1), Value::Integer(first + pattern.len() as i64)].into_iter().collect()
            }
            None => [Value::Nil].into_iter().collect(),
        });
    }
    let is_anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(&subject, &pattern[usize::from(is_anchored)..], goes_on);
    loop {
        if let Some(end) = matcher.match_at(start).map_err(|why| problem(lua, state, why))? {
            let mut values = MultiValue::new();
            if finds {
                values.extend([Value::Integer(start as i64 + 1), Value::Integer(end as i64)]);
            }
            for at in 0..matcher.count(!finds) {
                let captured = matcher.capture(at, start, end).map_err(|why| problem(lua, state, why))?;
                values.push_back(capture(lua, captured)?);
            }
            return Ok(values);
        }
        start += 1;
        if is_anchored || start > subject.len() {
            return Ok([Value::Nil].into_iter().collect());
        }
    }
}

/// The next match at or behind a position, as the position behind it and its captures. With -1: checks the arguments.
fn gmatch_step(lua: &Lua, state: &State, arguments: &MultiValue) -> mlua::Result<MultiValue> {
    let subject = string_argument(lua, arguments, 1, "gmatch")?;
    let pattern = string_argument(lua, arguments, 2, "gmatch")?;
    let at = arguments.get(2).and_then(Value::as_i64).unwrap_or(0);
    if at < 0 {
        return Ok([Value::Integer(0)].into_iter().collect());
    }
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let mut matcher = Matcher::new(&subject, &pattern, goes_on);
    for start in at as usize..=subject.len() {
        let Some(end) = matcher.match_at(start).map_err(|why| problem(lua, state, why))? else { continue };
        let after = if end == start { end + 1 } else { end };
        let mut values: MultiValue = [Value::Integer(after as i64)].into_iter().collect();
        for at in 0..matcher.count(true) {
            let captured = matcher.capture(at, start, end).map_err(|why| problem(lua, state, why))?;
            values.push_back(capture(lua, captured)?);
        }
        return Ok(values);
    }
    Ok([Value::Nil].into_iter().collect())
}

/// `string.gsub(subject, pattern, replacement [, n])`
fn gsub(lua: &Lua, state: &State, arguments: &MultiValue) -> mlua::Result<MultiValue> {
    let subject = string_argument(lua, arguments, 1, "gsub")?;
    let pattern = string_argument(lua, arguments, 2, "gsub")?;
    let replacement = match arguments.get(2) {
        Some(Value::Integer(_) | Value::Number(_)) => Value::String(string_argument(lua, arguments, 3, "gsub")?),
        Some(value @ (Value::String(_) | Value::Table(_) | Value::Function(_))) => value.clone(),
        _ => return Err(bad_argument(lua, 3, "gsub", "string/function/table expected")),
    };
    let most = number_argument(lua, arguments, 4, "gsub")?;
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let most = most.map_or(subject.len() as i64 + 1, |most| most as i64);
    let is_anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(&subject, &pattern[usize::from(is_anchored)..], goes_on);
    let (mut made, mut at, mut count) = (Vec::new(), 0, 0i64);
    while count < most {
        let end = matcher.match_at(at).map_err(|why| problem(lua, state, why))?;
        if let Some(end) = end {
            count += 1;
            replace(lua, state, &matcher, &replacement, (at, end), &mut made)?;
        }
        match end {
            Some(end) if end > at => at = end,
            _ => match subject.get(at) {
                Some(&byte) => {
                    made.push(byte);
                    at += 1;
                }
                None => break,
            },
        }
        if made.len() > state.memory_bytes.get() {
            return Err(raise(lua, "not enough memory"));
        }
        if is_anchored {
            break;
        }
    }
    made.extend_from_slice(subject.get(at..).unwrap_or_default());
    Ok([Value::String(lua.create_string(made)?), Value::Integer(count)].into_iter().collect())
}

/// Appends what replaces a match.
fn replace<F: FnMut() -> bool>(
    lua: &Lua,
    state: &State,
    matcher: &Matcher<'_, F>,
    replacement: &Value,
    (start, end): (usize, usize),
    made: &mut Vec<u8>,
) -> mlua::Result<()> {
    let captured = |at| matcher.capture(at, start, end).map_err(|why| problem(lua, state, why));
    let value: Value = match replacement {
        Value::String(text) => {
            let text = text.as_bytes();
            let mut rest = &text[..];
            while let Some(at) = memchr::memchr(b'%', rest) {
                made.extend_from_slice(&rest[..at]);
                match rest.get(at + 1) {
                    Some(b'0') => made.extend_from_slice(matcher.text(start, end)),
                    Some(digit @ b'1'..=b'9') => match captured(usize::from(digit - b'1'))? {
                        Captured::Text(text) => made.extend_from_slice(text),
                        Captured::Position(at) => made.extend_from_slice(at.to_string().as_bytes()),
                    },
                    Some(&byte) => made.push(byte),
                    // C sees the zero behind the text.
                    None => made.push(0),
                }
                rest = rest.get(at + 2..).unwrap_or_default();
            }
            made.extend_from_slice(rest);
            return Ok(());
        }
        Value::Table(table) => table.get(capture(lua, captured(0)?)?)?,
        Value::Function(function) => {
            let mut values = MultiValue::new();
            for at in 0..matcher.count(true) {
                values.push_back(capture(lua, captured(at)?)?);
            }
            function.call(values)?
        }
        _ => Value::Nil,
    };
    match value {
        Value::Nil | Value::Boolean(false) => made.extend_from_slice(matcher.text(start, end)),
        Value::String(text) => made.extend_from_slice(&text.as_bytes()),
        Value::Integer(value) => made.extend_from_slice(&number::general(value as f64, 14)),
        Value::Number(value) => made.extend_from_slice(&number::general(value, 14)),
        other => {
            let text = format!("invalid replacement value (a {})", lua_type(other.type_name()));
            return Err(raise(lua, text));
        }
    }
    Ok(())
}

/// `string.rep(text, n)`
fn rep(lua: &Lua, state: &State, arguments: &MultiValue) -> mlua::Result<LuaString> {
    let text = string_argument(lua, arguments, 1, "rep")?;
    let count = number_argument(lua, arguments, 2, "rep")?;
    let Some(count) = count else {
        return Err(bad_argument(lua, 2, "rep", "number expected, got no value"));
    };
    let (text, count) = (text.as_bytes(), count.max(0.0) as usize);
    if text.len().saturating_mul(count) > state.memory_bytes.get() {
        return Err(raise(lua, "not enough memory"));
    }
    if text.is_empty() {
        return lua.create_string(b"");
    }
    state.weigh(text.len() * count)?;
    lua.create_string(text.repeat(count))
}
