//! Errors of scripts, on their way through Lua.
//!
//! The functions of this crate raise errors as values of Rust, which Lua sees as userdata. Where a script may catch one,
//! [`caught`] makes of it what Redis would have raised: a table with the field `err` for a command's error, or a text
//! with the place that it was raised at. A [`Halt`](crate::Halt) is raised again: no script catches it.

use std::fmt;

use mlua::{Error, Lua, Value};

use crate::vm::State;

/// The text of an allocation that failed, as Lua has it.
pub(crate) const NO_MEMORY: &str = "not enough memory";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raised {
    /// A command's error: code and text.
    Command(Vec<u8>),
    /// A text, with its place.
    Text(Vec<u8>),
    /// The script must end.
    Halt,
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(text) | Self::Text(text) => f.write_str(&String::from_utf8_lossy(text)),
            Self::Halt => f.write_str("the script was ended"),
        }
    }
}

impl std::error::Error for Raised {}

impl From<Raised> for Error {
    fn from(raised: Raised) -> Self {
        Self::external(raised)
    }
}

/// An error of a library's function: `text` behind the place at which the script has called it.
pub(crate) fn raise(lua: &Lua, text: impl AsRef<[u8]>) -> Error {
    raise_at(lua, 1, text.as_ref())
}

/// The same of the function that is `level` calls above the one that runs.
pub(crate) fn raise_at(lua: &Lua, level: usize, text: &[u8]) -> Error {
    let place = lua.inspect_stack(level, |debug| {
        let line = debug.current_line()?;
        let source = debug.source().short_src?.into_owned();
        Some(format!("{source}:{line}: "))
    });
    let mut message = place.flatten().unwrap_or_default().into_bytes();
    message.extend_from_slice(text);
    Raised::Text(message).into()
}

/// The same of the first function that is neither C nor the sandbox's.
pub(crate) fn raise_outside(lua: &Lua, text: &[u8]) -> Error {
    let is_outside = |level| {
        lua.inspect_stack(level, |debug| {
            let source = debug.source();
            source.what != "C" && source.source.as_deref() != Some("=sandbox")
        })
    };
    let level = (1..=5).map_while(|level| Some((level, is_outside(level)?))).find(|(_, is_outside)| *is_outside);
    raise_at(lua, level.map_or(1, |(level, _)| level), text)
}

/// `bad argument #1 to 'encode' (expected 1 argument)`
pub(crate) fn bad_argument(lua: &Lua, at: usize, function: &str, problem: &str) -> Error {
    let is_method = lua.inspect_stack(0, |debug| debug.names().name_what == Some("method")).unwrap_or(false);
    if is_method && at == 1 {
        return raise(lua, format!("calling '{function}' on bad self ({problem})"));
    }
    let at = at - usize::from(is_method && at > 0);
    raise(lua, format!("bad argument #{at} to '{function}' ({problem})"))
}

/// The value that a script catches.
///
/// # Errors
/// If the script has to end.
pub(crate) fn caught(lua: &Lua, state: &State, value: Value) -> mlua::Result<Value> {
    if state.halted.get() {
        return Err(Raised::Halt.into());
    }
    let Value::Error(error) = value else { return Ok(value) };
    match raised(&error) {
        Some(Raised::Command(text)) => {
            let table = lua.create_table()?;
            table.raw_set("err", lua.create_string(text)?)?;
            Ok(Value::Table(table))
        }
        Some(raised @ (Raised::Text(_) | Raised::Halt)) => text_value(lua, raised.to_string().as_bytes(), raised),
        None => Ok(Value::String(lua.create_string(message(&error))?)),
    }
}

fn text_value(lua: &Lua, shown: &[u8], raised: &Raised) -> mlua::Result<Value> {
    let bytes = if let Raised::Text(text) = raised { text } else { shown };
    Ok(Value::String(lua.create_string(bytes)?))
}

/// The error of this crate that is in `error`.
pub(crate) fn raised(error: &Error) -> Option<&Raised> {
    match error {
        Error::ExternalError(inner) => inner.downcast_ref(),
        Error::CallbackError { cause, .. } | Error::WithContext { cause, .. } => raised(cause),
        _ => None,
    }
}

/// The text of an error of the virtual machine.
pub(crate) fn message(error: &Error) -> String {
    match error {
        Error::RuntimeError(text) | Error::SyntaxError { message: text, .. } => text.clone(),
        Error::MemoryError(_) => NO_MEMORY.into(),
        Error::CallbackError { cause, .. } | Error::WithContext { cause, .. } => message(cause),
        other => other.to_string(),
    }
}
