//! The world that scripts see.
//!
//! - Globals are a table without fields whose metatable looks into the real one, and refuses writes. So is each library.
//!   Functions that would write without asking a metatable (`rawset`, `table.insert`, ...) refuse these tables, and those
//!   that would see an empty table (`pairs`, `next`, `rawget`) look behind it.
//! - What catches errors (`pcall`, `xpcall`, `coroutine.resume`) passes on the one that ends a script.
//! - Text is compiled as text: no script brings bytecode. No garbage is collected meanwhile, as the compiler of Lua 5.1
//!   does not keep the name of what it compiles.
//! - What remains of the C library is bounded by the memory limit, or by its arguments.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use mlua::chunk::ChunkMode;
use mlua::{Error, Function, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Value, Variadic};

use crate::api::Names;
use crate::errors::{self, Raised, bad_argument, caught, message, raise, raise_at, raise_outside};
use crate::stack::Stack;
use crate::vm::State;
use crate::{api, bits, json, msgpack, strings, structs};

pub(crate) struct Sandbox {
    pub(crate) lua: Lua,
    pub(crate) stack: Stack,
    pub(crate) globals: Table,
    /// The metatable of the globals, whose `__index` is what scripts see.
    pub(crate) shown: Table,
    /// The globals of a library while it is loaded.
    pub(crate) loading: Table,
    pub(crate) xpcall: Function,
    pub(crate) handler: Function,
}

/// Functions of Lua that need nothing but a look at their arguments.
const PLAIN: &[&str] =
    &["assert", "error", "ipairs", "rawequal", "select", "tonumber", "tostring", "type", "getmetatable", "_VERSION"];

/// Wraps the functions of Lua that need more. It gets the originals and some functions of ours.
const WRAPPERS: &str = r#"
local lua, ours, frozen = ...
local pcall, xpcall, next, pairs, rawget, rawset, unpack = lua.pcall, lua.xpcall, lua.next, lua.pairs, lua.rawget, lua.rawset, lua.unpack
local tonumber, type, select, setmetatable, resume = lua.tonumber, lua.type, lua.select, lua.setmetatable, lua.coroutine.resume
local caught, readonly, toomany = ours.caught, ours.readonly, ours.toomany
local insert, remove, sort = lua.table.insert, lua.table.remove, lua.table.sort
local weigh, fail = ours.weigh, ours.fail

-- Functions of tables move or read all elements in one step: the host is told of those of a long one.
local function long(t, bytes)
  local n = #t
  if n > 500 then weigh(n * bytes) end
end
-- Fails as the function that the script has called would.
local function need(name, at, what, n, value)
  fail('bad argument #' .. at .. " to '" .. name .. "' (" .. what .. ' expected, got ' .. (at > n and 'no value' or type(value)) .. ')')
end

local function settle(ok, ...)
  if ok then return ok, ... end
  return ok, caught((...))
end
local out = { table = {}, coroutine = {} }
-- A command's error is caught as its text.
local function plain(ok, e, ...)
  if not ok and type(e) == 'table' and type(e.err) == 'string' then e = e.err end
  return ok, e, ...
end
function out.pcall(...) return plain(settle(pcall(...))) end
function out.xpcall(f, handler) return settle(xpcall(f, function(e) return handler(caught(e)) end)) end
function out.coroutine.resume(...) return settle(resume(...)) end
function out.next(t, k)
  local behind = frozen[t]
  if behind then return next(behind, k) end
  return next(t, k)
end
function out.pairs(t)
  if frozen[t] then return out.next, t, nil end
  return pairs(t)
end
function out.rawget(t, k)
  local behind = frozen[t]
  if behind then t = behind end
  return rawget(t, k)
end
function out.rawset(t, k, v)
  if frozen[t] then readonly() end
  return rawset(t, k, v)
end
function out.table.insert(...)
  local n, t, at = select('#', ...), ...
  if type(t) ~= 'table' then need('insert', 1, 'table', n, t) end
  if frozen[t] then readonly() end
  if n ~= 2 and n ~= 3 then fail("wrong number of arguments to 'insert'") end
  if n == 3 then
    if not tonumber(at) then need('insert', 2, 'number', n, at) end
    long(t, 16)
  end
  return insert(...)
end
function out.table.remove(...)
  local n, t, at = select('#', ...), ...
  if type(t) ~= 'table' then need('remove', 1, 'table', n, t) end
  if frozen[t] then readonly() end
  if n > 1 and at ~= nil then
    if not tonumber(at) then need('remove', 2, 'number', n, at) end
    long(t, 16)
  end
  return remove(...)
end
function out.table.sort(...)
  local n, t, less = select('#', ...), ...
  if type(t) ~= 'table' then need('sort', 1, 'table', n, t) end
  if frozen[t] then readonly() end
  if n > 1 and less ~= nil and type(less) ~= 'function' then need('sort', 2, 'function', n, less) end
  long(t, 256)
  return sort(...)
end
function out.table.maxn(...)
  local n, t = select('#', ...), ...
  if type(t) ~= 'table' then need('maxn', 1, 'table', n, t) end
  local most = 0
  for k in next, t do
    if type(k) == 'number' and k > most then most = k end
  end
  return most
end
-- A call has 8,000 places, for its arguments and what it returns.
function out.unpack(t, ...)
  local i, j = ...
  local first, last = tonumber(i or 1), tonumber(j)
  if j == nil and type(t) == 'table' then last = #t end
  if first and last and last - first >= 7999 - select('#', ...) then toomany() end
  return unpack(t, ...)
end
function out.setmetatable(t, ...)
  if frozen[t] then readonly() end
  return setmetatable(t, ...)
end
return out
"#;

pub(crate) fn new(state: &Rc<State>) -> mlua::Result<Sandbox> {
    let options = LuaOptions::new().catch_rust_panics(false);
    let lua = Lua::new_with(StdLib::TABLE | StdLib::STRING | StdLib::MATH, options)?;
    let (stack, names) = (Stack::new(&lua, state)?, Rc::new(Names::new(&lua)?));
    let native = lua.globals();
    let (real, frozen) = (lua.create_table()?, lua.create_table()?);
    for &name in PLAIN {
        real.raw_set(name, native.raw_get::<Value>(name)?)?;
    }
    let newindex = lua.create_function(|lua, _: MultiValue| -> mlua::Result<()> {
        Err(raise(lua, "Attempt to modify a readonly table"))
    })?;
    // `getmetatable` of a read-only table returns this read-only table instead.
    let shown = lua.create_table()?;
    freeze_as(&lua, &lua.create_table()?, &frozen, &newindex, &shown, &shown)?;
    let freeze = |real: &Table| -> mlua::Result<Table> {
        let front = lua.create_table()?;
        freeze_as(&lua, real, &frozen, &newindex, &shown, &front)?;
        Ok(front)
    };

    let wrapped: Table = lua.load(WRAPPERS).set_name("=sandbox").call((&native, ours(&lua, state)?, &frozen))?;
    for name in ["pcall", "xpcall", "next", "pairs", "rawget", "rawset", "setmetatable", "unpack"] {
        real.raw_set(name, wrapped.raw_get::<Value>(name)?)?;
    }
    for (name, function) in loading(&lua)? {
        real.raw_set(name, function)?;
    }

    let (table, coroutine): (Table, Table) = (native.raw_get("table")?, native.raw_get("coroutine")?);
    for name in ["insert", "remove", "sort", "maxn"] {
        table.raw_set(name, wrapped.raw_get::<Table>("table")?.raw_get::<Value>(name)?)?;
    }
    table.raw_set("concat", concat(&lua, state, table.raw_get("concat")?)?)?;
    coroutine.raw_set("resume", wrapped.raw_get::<Table>("coroutine")?.raw_get::<Value>("resume")?)?;
    let (string, math): (Table, Table) = (native.raw_get("string")?, native.raw_get("math")?);
    strings::install(&lua, state, &string)?;
    math_functions(&lua, state, &math)?;

    let redis = api::table(&lua, &stack, state, &names)?;
    for (name, library) in [
        ("table", table),
        ("coroutine", coroutine),
        ("math", math),
        ("os", os(&lua)?),
        ("cjson", json::table(&lua, state)?),
        ("cmsgpack", msgpack::table(&lua, state)?),
        ("struct", structs::table(&lua)?),
        ("bit", bits::table(&lua)?),
    ] {
        real.raw_set(name, freeze(&library)?)?;
    }
    let string_front = freeze(&string)?;
    real.raw_set("string", &string_front)?;
    if let Some(metatable) = lua.type_metatable::<LuaString>() {
        // Methods of strings: their table is shared by all scripts.
        metatable.raw_set("__index", &string_front)?;
        metatable.raw_set("__metatable", &shown)?;
    }
    let redis_front = freeze(&redis)?;
    // Valkey's name for it.
    real.raw_set("server", &redis_front)?;
    real.raw_set("redis", redis_front)?;

    let unknown = lua.create_function(|lua, (_, name): (Value, Value)| -> mlua::Result<Value> {
        let name = text(&name);
        Err(raise(lua, [&b"Script attempted to access nonexistent global variable '"[..], &name, b"'"].concat()))
    })?;
    let strict = lua.create_table()?;
    strict.raw_set("__index", unknown)?;
    real.set_metatable(Some(strict.clone()))?;
    let front = freeze(&real)?;
    real.raw_set("_G", &front)?;
    let globals_shown = front.metatable().expect("a read-only table has one");
    lua.set_globals(front)?;
    let loading = lua.create_table()?;
    let of_library = freeze(&api::of_library(&lua, state, &redis, &strict)?)?;
    loading.raw_set("server", &of_library)?;
    loading.raw_set("redis", of_library)?;
    loading.set_metatable(Some(strict))?;

    let handler = handler(&lua, state, &names)?;
    let xpcall = native.raw_get("xpcall")?;
    Ok(Sandbox { xpcall, stack, lua, globals: real, shown: globals_shown, loading, handler })
}

/// Compiles a text in the sandbox's world.
pub(crate) fn compile(lua: &Lua, text: &[u8], name: &str) -> mlua::Result<Function> {
    lua.gc_stop();
    let compiled = lua.load(text).set_name(name).set_mode(ChunkMode::Text).into_function();
    lua.gc_restart();
    compiled
}

/// Makes the empty table `front` look like `real`, without a way to write it. `shown` is what its metatable looks like.
fn freeze_as(
    lua: &Lua,
    real: &Table,
    frozen: &Table,
    newindex: &Function,
    shown: &Table,
    front: &Table,
) -> mlua::Result<()> {
    let metatable = lua.create_table()?;
    metatable.raw_set("__index", real)?;
    metatable.raw_set("__newindex", newindex)?;
    metatable.raw_set("__metatable", shown)?;
    front.set_metatable(Some(metatable))?;
    frozen.raw_set(front, real)
}

/// Functions for the wrappers.
fn ours(lua: &Lua, state: &Rc<State>) -> mlua::Result<Table> {
    let ours = lua.create_table()?;
    let its = Rc::clone(state);
    ours.raw_set("caught", lua.create_function(move |lua, value: Value| caught(lua, &its, value))?)?;
    let refuse = |_: &Lua, (): ()| -> mlua::Result<()> {
        Err(Raised::Text(b"Attempt to modify a readonly table".to_vec()).into())
    };
    ours.raw_set("readonly", lua.create_function(refuse)?)?;
    let its = Rc::clone(state);
    ours.raw_set("weigh", lua.create_function(move |_, bytes: f64| its.weigh(bytes as usize))?)?;
    // Raised by a function of a function that the script has called.
    let fail = |lua: &Lua, text: LuaString| -> mlua::Result<()> { Err(raise_outside(lua, &text.as_bytes())) };
    ours.raw_set("fail", lua.create_function(fail)?)?;
    let too_many = |lua: &Lua, (): ()| -> mlua::Result<()> { Err(raise_at(lua, 2, b"too many results to unpack")) };
    ours.raw_set("toomany", lua.create_function(too_many)?)?;
    Ok(ours)
}

/// `table.concat`, which tells the host of the elements of a long table. Its errors have the line of the script even in a tail
/// call, of which a function in Lua would know nothing.
fn concat(lua: &Lua, state: &Rc<State>, native: Function) -> mlua::Result<Function> {
    let state = Rc::clone(state);
    lua.create_function(move |lua, arguments: MultiValue| {
        if let Some(Value::Table(table)) = arguments.front() {
            state.weigh(16 * table.raw_len())?;
        }
        native.call::<Value>(arguments).map_err(|error| match &error {
            // Called from here, it knows neither its name nor the line. A traceback follows its one line.
            Error::RuntimeError(text) => {
                raise(lua, text.lines().next().unwrap_or_default().replacen("'?'", "'concat'", 1))
            }
            _ => error,
        })
    })
}

/// The handler of errors that a script does not catch: it makes a table of each, and notes the place.
fn handler(lua: &Lua, state: &Rc<State>, names: &Rc<Names>) -> mlua::Result<Function> {
    let (state, names) = (Rc::clone(state), Rc::clone(names));
    lua.create_function(move |lua, error: Value| {
        if state.halted.get() {
            return Ok(Value::Nil);
        }
        let table = match caught(lua, &state, error)? {
            Value::Table(table) => table,
            other => {
                let table = lua.create_table()?;
                table.raw_set(&names.err, lua.create_string([b"ERR ", &text(&other)[..]].concat())?)?;
                table
            }
        };
        let place = |level| {
            lua.inspect_stack(level, |debug| {
                let source = debug.source();
                (source.what == "C", source.source.map(|source| source.into_owned()), debug.current_line())
            })
        };
        // A function of C, or of ours, has failed for the script that called it.
        let found = (1..=5).map_while(place).find(|(is_c, source, _)| !is_c && source.as_deref() != Some("=sandbox"));
        if let Some((_, Some(source), Some(line))) = found {
            table.raw_set("source", source)?;
            table.raw_set("line", line)?;
        }
        Ok(Value::Table(table))
    })
}

/// A value as an error shows it.
pub(crate) fn text(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Integer(value) => crate::number::general(*value as f64, 14).to_vec(),
        Value::Number(value) => crate::number::general(*value, 14).to_vec(),
        Value::Error(error) => message(error).into_bytes(),
        other => other.to_string().unwrap_or_else(|_| other.type_name().into()).into_bytes(),
    }
}

/// Functions that compile texts, and those of the garbage collector, of which a script sees the memory alone.
fn loading(lua: &Lua) -> mlua::Result<HashMap<&'static str, Function>> {
    let load_text = |lua: &Lua, text: &[u8], name: Option<LuaString>| -> mlua::Result<MultiValue> {
        let name = match name {
            Some(name) => name.to_string_lossy(),
            None => String::from_utf8_lossy(text).into_owned(),
        };
        match compile(lua, text, &name.replace('\0', "")) {
            Ok(function) => Ok([Value::Function(function)].into_iter().collect()),
            Err(error) => {
                Ok([Value::Nil, Value::String(lua.create_string(errors::message(&error))?)].into_iter().collect())
            }
        }
    };
    let loadstring = lua.create_function(move |lua, (text, name): (LuaString, Option<LuaString>)| {
        load_text(lua, &text.as_bytes(), name)
    })?;
    let load = lua.create_function(move |lua, (reader, name): (Function, Option<LuaString>)| {
        let mut text = Vec::new();
        loop {
            match reader.call::<Value>(())? {
                Value::String(piece) if !piece.as_bytes().is_empty() => text.extend_from_slice(&piece.as_bytes()),
                Value::Nil | Value::String(_) => break,
                _ => return Err(raise(lua, "reader function must return a string")),
            }
            if text.len() > crate::vm::TEXT_BYTES_MAX {
                return Err(raise(lua, "chunk too large"));
            }
        }
        load_text(lua, &text, name.or(Some(lua.create_string("=(load)")?)))
    })?;
    let used = |lua: &Lua| lua.used_memory() as f64 / 1024.0;
    let collect = lua.create_function(move |lua, (option, _): (Option<String>, Option<Value>)| {
        match option.as_deref().unwrap_or("collect") {
            "count" => Ok(used(lua)),
            "collect" | "stop" | "restart" | "step" | "setpause" | "setstepmul" => Ok(0.0),
            other => Err(bad_argument(lua, 1, "collectgarbage", &format!("invalid option '{other}'"))),
        }
    })?;
    let info = lua.create_function(move |lua, (): ()| Ok(used(lua).floor()))?;
    Ok(HashMap::from([("loadstring", loadstring), ("load", load), ("collectgarbage", collect), ("gcinfo", info)]))
}

fn os(lua: &Lua) -> mlua::Result<Table> {
    let (os, started) = (lua.create_table()?, Instant::now());
    os.raw_set("clock", lua.create_function(move |_, _: Variadic<Value>| Ok(started.elapsed().as_secs_f64()))?)?;
    Ok(os)
}

fn math_functions(lua: &Lua, state: &Rc<State>, math: &Table) -> mlua::Result<()> {
    let its = Rc::clone(state);
    let random = lua.create_function(move |lua, (low, high, more): (Option<f64>, Option<f64>, Variadic<Value>)| {
        let chance = its.random.fraction();
        if !more.is_empty() {
            return Err(raise(lua, "wrong number of arguments"));
        }
        let (low, high) = match (low, high) {
            (None, _) => return Ok(chance),
            (Some(high), None) => (1.0, high.trunc()),
            (Some(low), Some(high)) => (low.trunc(), high.trunc()),
        };
        if low > high {
            let at = if low == 1.0 { 1 } else { 2 };
            return Err(bad_argument(lua, at, "random", "interval is empty"));
        }
        Ok((chance * (high - low + 1.0)).floor() + low)
    })?;
    math.raw_set("random", random)?;
    let its = Rc::clone(state);
    let seed = lua.create_function(move |_, seed: f64| {
        its.random.seed(seed as i64 as i32);
        Ok(())
    })?;
    math.raw_set("randomseed", seed)
}
