//! Lua scripts: the virtual machine, its sandbox, and its libraries, as Redis has them.
//!
//! The crate knows no keyspace: a script reaches its commands through a [`Host`], with arguments from the Lua stack and
//! the reply as it would be sent. A thread has one virtual machine ([`vm`]), which runs the scripts of all databases one
//! after the other. Invariants:
//!
//! - A script leaves nothing behind that another one can see: globals and libraries cannot be written, not even by raw
//!   access ([`sandbox`]); `KEYS`, `ARGV`, chance and settings belong to one run.
//! - A script can neither take memory beyond its limit nor run on without the host being asked: an allocation beyond the
//!   limit is an error of the script, and the host's [`Host::tick`] can end it at any time, whatever it catches.
//! - The host is told of work that is long for its number of steps ([`Host::weigh`]).
//! - What the C library does without an end or a bound is done here: patterns ([`pattern`]), and the libraries `cjson`,
//!   `cmsgpack`, `struct` and `bit`.
#![deny(unsafe_code)]

mod api;
mod bits;
mod errors;
mod json;
mod msgpack;
mod number;
mod pattern;
mod random;
mod sandbox;
mod script;
#[expect(unsafe_code, reason = "values of the hot path stay on Lua's stack")]
mod stack;
mod strings;
mod structs;
pub mod survey;
pub mod vm;

use dormouse_protocol::{Reply, Request};

pub use script::{Library, Script, ScriptFlags, Sha};
pub use vm::{RunLimits, Runnable, ScriptEnd};

/// The version of Redis that scripts are told.
pub const REDIS_VERSION: &str = "7.2.4";

/// The script must end at once, and cannot catch it. The host knows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Halt;

/// The course of a script that runs as a [guest](RunLimits::guest).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    On,
    /// It is to be suspended now, and goes on elsewhere.
    Suspend,
}

/// The surroundings that a script reaches.
pub trait Host {
    /// Runs a command, and writes exactly one reply in the reply's version. `can_suspend`: the script can be suspended before
    /// the call, which is made again when it goes on. Nothing may be written then.
    ///
    /// # Errors
    /// When the script must end. Nothing may be written then.
    fn call(&mut self, request: Request<'_>, reply: &mut Reply, can_suspend: bool) -> Result<Course, Halt>;

    /// Called every hundred steps of a guest; `held_bytes`: memory that it takes now. `can_suspend` as for a call.
    ///
    /// # Errors
    /// When the script must end.
    fn step(&mut self, held_bytes: usize, can_suspend: bool) -> Result<Course, Halt> {
        let _ = can_suspend;
        self.tick(held_bytes).map(|()| Course::On)
    }

    /// Called every thousand steps of a script that may be interrupted; `held_bytes`: memory that it takes now.
    ///
    /// # Errors
    /// When the script must end.
    fn tick(&mut self, held_bytes: usize) -> Result<(), Halt>;

    /// Called before a function looks at so many bytes at once.
    ///
    /// # Errors
    /// When the script must end.
    fn weigh(&mut self, bytes: usize) -> Result<(), Halt>;

    /// Called when the script needs more than its [first memory](RunLimits::first_memory_bytes).
    ///
    /// # Errors
    /// When it will run again with more.
    fn outgrow(&mut self) -> Result<(), Halt>;

    /// Whether the script has changed something: then it cannot run again.
    fn is_final(&self) -> bool;

    /// Whether the script's user may run a command; `None`: the command is unknown, or has a wrong number of arguments.
    fn allows(&mut self, request: Request<'_>) -> Option<bool>;

    /// Takes a line for the server's log.
    fn log(&mut self, level: i64, line: &[u8]);
}
