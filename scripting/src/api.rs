//! The table `redis`.

use std::panic::resume_unwind;
use std::rc::Rc;

use dormouse_protocol::{Request, Span, Version};
use mlua::{Function, Lua, LuaString, MultiValue, Table, Value};

use crate::errors::{Raised, raise};
use crate::script::{ScriptFlags, Sha, is_name};
use crate::stack::{REQUEST_BYTES_MAX, Stack, Trouble};
use crate::vm::{HOST, Registered, Scratch, State};
use crate::{REDIS_VERSION, number};

/// Functions of a library.
const FUNCTIONS_MAX: usize = 1024;

/// The names of the fields of a status and an error.
pub(crate) struct Names {
    pub(crate) err: LuaString,
    ok: LuaString,
}

impl Names {
    pub(crate) fn new(lua: &Lua) -> mlua::Result<Self> {
        Ok(Self { err: lua.create_string("err")?, ok: lua.create_string("ok")? })
    }
}

pub(crate) fn table(lua: &Lua, stack: &Stack, state: &Rc<State>, names: &Rc<Names>) -> mlua::Result<Table> {
    let redis = lua.create_table()?;
    for (name, raises) in [("call", true), ("pcall", false)] {
        let (state, names) = (Rc::clone(state), Rc::clone(names));
        let otherwise = lua.create_function(move |lua, ()| without_reply(lua, &state, &names, raises))?;
        redis.raw_set(name, stack.caller(&otherwise)?)?;
    }
    let its = Rc::clone(names);
    redis.raw_set("error_reply", lua.create_function(move |lua, arguments| error_reply(lua, &its, arguments))?)?;
    let its = Rc::clone(names);
    let status = move |lua: &Lua, arguments: MultiValue| match single(arguments) {
        Some(text) => field(lua, &its.ok, text),
        None => field(lua, &its.err, lua.create_string("ERR wrong number or type of arguments")?),
    };
    redis.raw_set("status_reply", lua.create_function(status)?)?;
    let its = Rc::clone(state);
    redis.raw_set("sha1hex", lua.create_function(move |lua, arguments| sha1hex(lua, &its, arguments))?)?;
    redis.raw_set("log", lua.create_function(log)?)?;
    let its = Rc::clone(state);
    redis.raw_set("setresp", lua.create_function(move |lua, arguments| setresp(lua, &its, arguments))?)?;
    redis.raw_set("acl_check_cmd", lua.create_function(acl_check_cmd)?)?;
    redis.raw_set("replicate_commands", lua.create_function(|_, _: MultiValue| Ok(true))?)?;
    redis.raw_set("set_repl", lua.create_function(set_repl)?)?;
    for name in ["breakpoint", "debug"] {
        let absent = move |lua: &Lua, _: MultiValue| -> mlua::Result<()> {
            Err(raise(lua, format!("redis.{name} is not available: Dormouse has no script debugger")))
        };
        redis.raw_set(name, lua.create_function(absent)?)?;
    }
    for (name, value) in [
        ("LOG_DEBUG", 0),
        ("LOG_VERBOSE", 1),
        ("LOG_NOTICE", 2),
        ("LOG_WARNING", 3),
        ("REPL_NONE", 0),
        ("REPL_AOF", 1),
        ("REPL_SLAVE", 2),
        ("REPL_REPLICA", 2),
        ("REPL_ALL", 3),
        ("REDIS_VERSION_NUM", version_number()),
    ] {
        redis.raw_set(name, value)?;
    }
    redis.raw_set("REDIS_VERSION", REDIS_VERSION)?;
    Ok(redis)
}

/// The table `redis` that a library sees while it is loaded.
pub(crate) fn of_library(lua: &Lua, state: &Rc<State>, redis: &Table, strict: &Table) -> mlua::Result<Table> {
    let own = lua.create_table()?;
    for name in ["log", "LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING", "REDIS_VERSION", "REDIS_VERSION_NUM"] {
        own.raw_set(name, redis.raw_get::<Value>(name)?)?;
    }
    let its = Rc::clone(state);
    own.raw_set("register_function", lua.create_function(move |lua, arguments| register(lua, &its, arguments))?)?;
    own.set_metatable(Some(strict.clone()))?;
    Ok(own)
}

/// `7.2.4` is `0x00070204`.
fn version_number() -> i64 {
    REDIS_VERSION.split('.').fold(0, |number, part| number << 8 | part.parse::<i64>().unwrap_or(0))
}

/// `redis.call(name, ...)` and `redis.pcall(name, ...)` where there is no reply to return.
fn without_reply(lua: &Lua, state: &State, names: &Names, raises: bool) -> mlua::Result<Value> {
    let scratch = state.scratch.borrow();
    let text = match state.trouble.take() {
        Some(Trouble::Panicked(panic)) => resume_unwind(panic),
        Some(Trouble::Halted) => {
            state.halted.set(true);
            return Err(Raised::Halt.into());
        }
        Some(Trouble::NoHost) => b"ERR redis.call/pcall can only be called inside a script invocation",
        Some(Trouble::NoArguments) => &b"ERR Please specify at least one argument for this redis lib call"[..],
        Some(Trouble::UnreadableArgument) => b"ERR Lua redis lib command arguments must be strings or integers",
        Some(Trouble::Refused | Trouble::PutOff(_)) | None => {
            let text = scratch.reply.buffer.strip_suffix(b"\r\n").unwrap_or(&scratch.reply.buffer);
            text.strip_prefix(b"-").unwrap_or(text)
        }
    };
    if raises {
        return Err(Raised::Command(text.to_vec()).into());
    }
    field(lua, &names.err, lua.create_string(text)?)
}

/// Appends an argument to a request. False: it cannot be one.
fn push(scratch: &mut Scratch, argument: &Value) -> bool {
    let offset = scratch.bytes.len();
    match argument {
        Value::String(text) => {
            let text = text.as_bytes();
            if text.len() + offset > REQUEST_BYTES_MAX {
                return false;
            }
            scratch.bytes.extend_from_slice(&text);
        }
        Value::Integer(value) => scratch.bytes.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
        Value::Number(value) => scratch.bytes.extend_from_slice(&number::argument(*value)),
        _ => return false,
    }
    scratch.spans.push(Span { offset: offset as u32, len: (scratch.bytes.len() - offset) as u32 });
    true
}

fn field(lua: &Lua, name: &LuaString, text: LuaString) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(name, text)?;
    Ok(Value::Table(table))
}

/// The only argument, if it is a string.
fn single(arguments: MultiValue) -> Option<LuaString> {
    let mut arguments = arguments.into_iter();
    match (arguments.next(), arguments.next()) {
        (Some(Value::String(text)), None) => Some(text),
        _ => None,
    }
}

/// `redis.error_reply(text)`: a text of several words begins with its code.
fn error_reply(lua: &Lua, names: &Names, arguments: MultiValue) -> mlua::Result<Value> {
    let Some(text) = single(arguments) else {
        return field(lua, &names.err, lua.create_string("ERR wrong number or type of arguments")?);
    };
    let text = text.as_bytes();
    let text = text.strip_prefix(b"-").unwrap_or(&text);
    let trimmed = trim_line_ends(text);
    let worded = if text.contains(&b' ') { trimmed.to_vec() } else { [b"ERR ", trimmed].concat() };
    field(lua, &names.err, lua.create_string(worded)?)
}

fn trim_line_ends(text: &[u8]) -> &[u8] {
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let start = text.iter().take_while(|byte| is_end(byte)).count();
    let end = text.len() - text[start..].iter().rev().take_while(|byte| is_end(byte)).count();
    &text[start..end]
}

fn sha1hex(lua: &Lua, state: &State, arguments: MultiValue) -> mlua::Result<LuaString> {
    if arguments.len() != 1 {
        return Err(Raised::Command(b"ERR wrong number of arguments".to_vec()).into());
    }
    let text = arguments.front().and_then(text_of).unwrap_or_default();
    // A hash takes longer than a copy.
    state.weigh(8 * text.len())?;
    lua.create_string(Sha::of(&text).to_string())
}

/// The text of a string or a number.
fn text_of(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Integer(value) => Some(number::general(*value as f64, 14).to_vec()),
        Value::Number(value) => Some(number::general(*value, 14).to_vec()),
        _ => None,
    }
}

/// `redis.log(level, text, ...)`
fn log(_: &Lua, arguments: MultiValue) -> mlua::Result<()> {
    let failed = |text: &str| -> mlua::Result<()> { Err(Raised::Command(format!("ERR {text}").into_bytes()).into()) };
    if arguments.len() < 2 {
        return failed("redis.log() requires two arguments or more.");
    }
    let Some(level) = arguments.front().and_then(crate::number::of_value).map(|level| level as i64) else {
        return failed("First argument must be a number (log level).");
    };
    if !(0..=3).contains(&level) {
        return failed("Invalid log level.");
    }
    let words: Vec<Vec<u8>> = arguments.iter().skip(1).filter_map(text_of).collect();
    if HOST.is_set() {
        HOST.with(|host| host.log(level, &words.join(&b' ')));
    }
    Ok(())
}

/// `redis.setresp(version)`
fn setresp(_: &Lua, state: &State, arguments: MultiValue) -> mlua::Result<()> {
    let failed = |text: &str| -> mlua::Result<()> { Err(Raised::Command(format!("ERR {text}").into_bytes()).into()) };
    if arguments.len() != 1 {
        return failed("redis.setresp() requires one argument.");
    }
    match arguments.front().and_then(crate::number::of_value).map(|version| version as i64) {
        Some(2) => state.version.set(Version::Resp2),
        Some(3) => state.version.set(Version::Resp3),
        _ => return failed("RESP version must be 2 or 3."),
    }
    Ok(())
}

/// `redis.acl_check_cmd(name, ...)`
fn acl_check_cmd(_: &Lua, arguments: MultiValue) -> mlua::Result<bool> {
    let failed = |text: &str| -> mlua::Result<bool> { Err(Raised::Command(format!("ERR {text}").into_bytes()).into()) };
    if arguments.is_empty() {
        return failed("Please specify at least one argument for this redis lib call");
    }
    let mut scratch = Scratch::default();
    if !arguments.iter().all(|argument| push(&mut scratch, argument)) {
        return failed("redis.acl_check_cmd() command arguments must be strings or integers");
    }
    if !HOST.is_set() {
        return Ok(true);
    }
    match HOST.with(|host| host.allows(Request::new(&scratch.bytes, &scratch.spans))) {
        Some(allowed) => Ok(allowed),
        None => failed("Invalid command passed to redis.acl_check_cmd()"),
    }
}

/// `redis.set_repl(flags)`: the effects of a script are always logged.
fn set_repl(_: &Lua, arguments: MultiValue) -> mlua::Result<()> {
    let failed = |text: &str| -> mlua::Result<()> { Err(Raised::Command(format!("ERR {text}").into_bytes()).into()) };
    if arguments.len() != 1 {
        return failed("redis.set_repl() requires one argument.");
    }
    match arguments.front().and_then(crate::number::of_value).map(|flags| flags as i64) {
        Some(0..=3) => Ok(()),
        _ => failed("Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE."),
    }
}

/// `redis.register_function(name, callback)` or `redis.register_function{function_name=, callback=, flags=, description=}`
fn register(_: &Lua, state: &State, arguments: MultiValue) -> mlua::Result<()> {
    let failed = |text: &str| -> mlua::Result<()> { Err(Raised::Command(format!("ERR {text}").into_bytes()).into()) };
    if state.loading.borrow().is_none() {
        return failed("redis.register_function can only be called on FUNCTION LOAD command");
    }
    let mut flags = ScriptFlags::default();
    let mut description = None;
    let (name, callback): (LuaString, Function) = match (arguments.len(), arguments.front(), arguments.get(1)) {
        (1, Some(Value::Table(named)), _) => {
            let (mut name, mut callback) = (None, None);
            for pair in named.clone().pairs::<Value, Value>() {
                let (Value::String(field), value) = pair? else {
                    return failed("named argument key given to redis.register_function is not a string");
                };
                match (&field.as_bytes()[..], value) {
                    (b"function_name", Value::String(given)) => name = Some(given),
                    (b"function_name", _) => {
                        return failed("function_name argument given to redis.register_function must be a string");
                    }
                    (b"description", Value::String(given)) => description = Some(given.to_string_lossy().into()),
                    (b"description", _) => {
                        return failed("description argument given to redis.register_function must be a string");
                    }
                    (b"callback", Value::Function(given)) => callback = Some(given),
                    (b"callback", _) => {
                        return failed("callback argument given to redis.register_function must be a function");
                    }
                    (b"flags", Value::Table(given)) => {
                        for flag in given.sequence_values::<Value>() {
                            if !matches!(flag?, Value::String(flag) if flags.set(&flag.as_bytes())) {
                                return failed("unknown flag given");
                            }
                        }
                    }
                    (b"flags", _) => {
                        return failed(
                            "flags argument to redis.register_function must be a table representing function flags",
                        );
                    }
                    _ => return failed("unknown argument given to redis.register_function"),
                }
            }
            let Some(name) = name else {
                return failed("redis.register_function must get a function name argument");
            };
            let Some(callback) = callback else {
                return failed("redis.register_function must get a callback argument");
            };
            (name, callback)
        }
        (1, ..) => {
            return failed(
                "calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).",
            );
        }
        (2, Some(Value::String(name)), Some(Value::Function(callback))) => (name.clone(), callback.clone()),
        (2, _, Some(Value::Function(_))) => {
            return failed("first argument to redis.register_function must be a string");
        }
        (2, ..) => return failed("second argument to redis.register_function must be a function"),
        _ => return failed("wrong number of arguments to redis.register_function"),
    };
    let name = name.as_bytes().to_vec();
    if !is_name(&name) {
        return failed(
            "Library names can only contain letters, numbers, or underscores(_) and must be at least one character long",
        );
    }
    let name: Box<str> = String::from_utf8_lossy(&name).into();
    let mut loading = state.loading.borrow_mut();
    let Some(functions) = loading.as_mut() else { return Ok(()) };
    if functions.iter().any(|(registered, _)| registered.name == name) {
        return failed("Function already exists in the library");
    }
    if functions.len() >= FUNCTIONS_MAX {
        return failed("a library may have 1024 functions");
    }
    functions.push((Registered { name, description, flags }, callback));
    Ok(())
}
