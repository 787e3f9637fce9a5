//! The reach of a command beyond the keys that it names, all of which its user must be permitted to use.

use dormouse_protocol::Request;

/// The arguments of a command that name channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// The first one.
    First,
    /// All of them.
    All,
    /// All of them, which are patterns.
    Patterns,
}

/// The logical databases that a command uses, beside that of a key elsewhere.
#[derive(Debug, Clone, Copy)]
pub enum Databases {
    /// The selected one, if it has keys, or reads or writes any.
    OfKeys,
    /// The selected one, whatever its arguments.
    Selected,
    /// All of them.
    All,
    /// Those that its arguments name.
    Named(fn(Request<'_>) -> [Option<u32>; 2]),
}

/// Finds out whether a request makes the names of keys from values. Returns the error for a user who may not read every
/// key.
pub type UnnamedKeys = fn(Request<'_>) -> Option<&'static str>;

/// The argument number `index` as the number of a logical database.
pub fn database_at(request: Request<'_>, index: usize) -> Option<u32> {
    std::str::from_utf8(request.get(index)?).ok()?.parse().ok()
}
