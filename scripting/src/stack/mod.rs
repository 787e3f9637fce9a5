//! The hot path of scripts, on Lua's own stack: keys and arguments, calls of commands, replies and results.
//!
//! The wrappers of `mlua` keep a reference to each value that they pass on, and make each allocation under a memory limit
//! in a protected call of its own. Here values stay on the stack:
//!
//! 1. [`Stack::run`] pushes a function with its keys and arguments, and makes one protected call.
//! 2. `redis.call` copies its arguments from the stack into a request ([`arguments`]), and pushes the reply ([`reply`]).
//!    Everything else, above all raising an error, is left to a function of `mlua`.
//! 3. [`Stack::run`] writes the value that the function has left as a reply ([`result`]).
//!
//! A run may also be a guest, which is suspended where it is long ([`guest`]).
//!
//! MessagePack that is read and JSON that is written go over the stack too ([`msgpack`], [`json`]): in one protected call,
//! without a reference to each value.
//!
//! An error of Lua jumps over the frames between it and its protected call, and no destructor in them runs. So a function
//! here that may raise one has nothing to drop: it is a C function, or called by one when its other work is done. All other
//! functions are called while memory has no limit, or do not allocate in Lua.

mod arguments;
pub(crate) mod guest;
pub(crate) mod json;
pub(crate) mod msgpack;
mod reply;
mod result;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use dormouse_protocol::{Reply, Request};
use mlua::ffi::{self, lua_State};
use mlua::{Error, Function, IntoLua, Lua, Table, Value};

pub(crate) use self::arguments::REQUEST_BYTES_MAX;
use self::guest::{Ended, Pending};
use self::result::Writer;
use crate::errors::Raised;
use crate::vm::{HOST, Scratch, State};
use crate::{Course, Halt};

/// Where a run has its keys and arguments.
pub(crate) enum Placed<'a> {
    /// Tables of its own, as the globals `KEYS` and `ARGV` in this table.
    Globals(&'a Table),
    /// [`Stack::shared_words`], which are these globals already.
    SharedGlobals,
    /// Tables of its own, as the arguments of the function.
    Arguments,
    /// The tables of [`Stack::shared_words`], as its arguments.
    SharedArguments,
}

/// Slots of the stack that a run begins with: the handler, the function, and two tables that are being filled.
const RUN_SLOTS: c_int = 8;

/// Slots for the names of fields.
const NAME_SLOTS: c_int = 8;

/// How many calls below the one that has failed the script's own may be.
const LEVELS: c_int = 5;

/// The stack of a virtual machine.
pub(crate) struct Stack {
    /// Notes the place of an error that is not caught.
    handler: Function,
    keys: SharedTable,
    arguments: SharedTable,
    /// Where the names of fields are on it.
    names: c_int,
    /// Keeps the coroutine of guests. `None`: the next one makes it.
    coroutine: RefCell<Option<Value>>,
    /// Returns the reply in the buffers.
    pushed: Function,
    /// Its functions have the address of this.
    shared: Box<Shared>,
}

/// A table that serves one run after the other.
struct SharedTable {
    table: Table,
    len: Cell<usize>,
}

/// The state that functions on the stack reach.
struct Shared {
    lua: Lua,
    main: *mut lua_State,
    state: Rc<State>,
    place: RefCell<Option<Place>>,
    /// The functions that give what a call has no reply for: see [`Stack::caller`].
    otherwise: RefCell<Vec<Function>>,
    /// The need of the suspended guest.
    pending: RefCell<Option<Pending>>,
    /// An error that the guest is to raise before its next step.
    raise: RefCell<Option<Error>>,
    /// Whether it is known when a guest can be suspended.
    is_checked: Cell<bool>,
    /// The stack of the coroutine of guests.
    guest: Cell<*mut lua_State>,
}

/// The place in a script where it has failed.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) source: String,
    /// `None`: a call in tail position has replaced it.
    pub(crate) line: Option<i64>,
}

/// An error that a script has not caught.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) value: Value,
    /// False: it comes from the virtual machine itself, which has no memory left.
    pub(crate) is_raised: bool,
    pub(crate) place: Option<Place>,
}

/// The end of a run whose value or error is known.
pub(crate) enum Ran {
    Done,
    Failed(Failed),
    /// It is suspended: [`Stack::go_on`].
    Suspended,
}

/// The reason why a call of a command has no reply to push.
pub(crate) enum Trouble {
    NoHost,
    NoArguments,
    UnreadableArgument,
    /// The reply is an error.
    Refused,
    Halted,
    /// The call, or taking over its reply, is put off until the script goes on.
    PutOff(Pending),
    Panicked(Box<dyn Any + Send>),
}

/// Keys or arguments of a run.
pub(crate) enum Words<I> {
    /// So few that no limit on memory is needed for them.
    Few(I),
    /// Made within the limit of the run.
    Table(Table),
}

impl Stack {
    pub(crate) fn new(lua: &Lua, state: &Rc<State>) -> mlua::Result<Self> {
        let main = lua.exec_raw_lua(|raw| raw.state());
        let (lua, state) = (lua.clone(), Rc::clone(state));
        let shared = Box::new(Shared {
            lua,
            main,
            state,
            place: RefCell::default(),
            otherwise: RefCell::default(),
            pending: RefCell::default(),
            raise: RefCell::default(),
            is_checked: Cell::new(false),
            guest: Cell::new(std::ptr::null_mut()),
        });
        shared.is_checked.set(guest::check(&shared)?);
        let handler = shared.function(note_place, None, 0)?;
        // SAFETY: nothing else is on the stack, which has room for these, and memory has no limit.
        let names = unsafe {
            if ffi::lua_checkstack(main, NAME_SLOTS) == 0 {
                return Err(Error::StackError);
            }
            result::push_names(main)
        };
        let table = || Ok::<_, Error>(SharedTable { table: shared.lua.create_table()?, len: Cell::new(0) });
        let (keys, arguments) = (table()?, table()?);
        let pushed = guest::pushes_reply(&shared)?;
        Ok(Self { handler, keys, arguments, names, coroutine: RefCell::default(), pushed, shared })
    }

    /// Tables of keys and arguments for scripts that only read their elements, so that no script finds more than its own.
    pub(crate) fn shared_words(&self) -> (&Table, &Table) {
        (&self.keys.table, &self.arguments.table)
    }

    /// A function that calls a command and returns its reply. If there is none to return it calls `otherwise`, which has no
    /// arguments, and finds the reason in the state.
    pub(crate) fn caller(&self, otherwise: &Function) -> mlua::Result<Function> {
        let mut all = self.shared.otherwise.borrow_mut();
        all.push(otherwise.clone());
        self.shared.function(call, Some(otherwise), all.len() - 1)
    }

    /// Runs a function of a script and writes the value that it returns.
    ///
    /// # Errors
    /// If the run cannot begin or must end, or its result cannot be written. The inner error is the script's own.
    ///
    /// Memory must have no limit yet: outside of the protected call, an error of Lua ends the process. A guest that is
    /// suspended keeps its limit.
    pub(crate) fn run<'a>(
        &self,
        function: &Function,
        placed: Placed<'_>,
        keys: Words<impl ExactSizeIterator<Item = &'a [u8]>>,
        arguments: Words<impl ExactSizeIterator<Item = &'a [u8]>>,
        reply: &mut Reply,
    ) -> mlua::Result<Ran> {
        let Shared { lua, main, state, place, .. } = &*self.shared;
        let stack = *main;
        let _top = Top::of(stack);
        let is_guest = state.is_guest.get();
        if is_guest {
            self.prepare_guest()?;
        }
        // SAFETY: there is room for these, and memory has no limit yet.
        let status = unsafe {
            if ffi::lua_checkstack(stack, RUN_SLOTS) == 0 {
                return Err(Error::StackError);
            }
            self.shared.push(&self.handler)?;
            let handler = ffi::lua_gettop(stack);
            self.shared.push(function)?;
            let given = match placed {
                Placed::SharedGlobals => {
                    self.shared.push_refilled(&self.keys, keys)?;
                    self.shared.push_refilled(&self.arguments, arguments)?;
                    ffi::lua_pop(stack, 2);
                    0
                }
                Placed::SharedArguments => {
                    self.shared.push_refilled(&self.keys, keys)?;
                    self.shared.push_refilled(&self.arguments, arguments)?;
                    2
                }
                Placed::Globals(globals) => {
                    self.shared.push(globals)?;
                    push_text(stack, b"KEYS");
                    self.shared.push_words(keys)?;
                    ffi::lua_rawset(stack, -3);
                    push_text(stack, b"ARGV");
                    self.shared.push_words(arguments)?;
                    ffi::lua_rawset(stack, -3);
                    ffi::lua_pop(stack, 1);
                    0
                }
                Placed::Arguments => {
                    self.shared.push_words(keys)?;
                    self.shared.push_words(arguments)?;
                    2
                }
            };
            state.limit_memory(lua)?;
            if is_guest {
                let ended = self.begin(given)?;
                return self.conclude(ended, reply);
            }
            place.take();
            ffi::lua_pcall(stack, given, 1, handler)
        };
        lua.set_memory_limit(0)?;
        if status != ffi::LUA_OK {
            // SAFETY: the error is on the stack.
            let value = lua.exec_raw_lua(|raw| unsafe { raw.pop_value() });
            return match state.halted.get() {
                true => Err(Raised::Halt.into()),
                false => Ok(Ran::Failed(Failed { value, is_raised: status == ffi::LUA_ERRRUN, place: place.take() })),
            };
        }
        if state.halted.get() {
            return Err(Raised::Halt.into());
        }
        self.conclude(Ended::Done, reply)
    }

    /// Writes the value that a run has left on the stack, if it is done.
    ///
    /// # Errors
    /// As [`Self::run`].
    fn conclude(&self, ended: Ended, reply: &mut Reply) -> mlua::Result<Ran> {
        match ended {
            Ended::Suspended => return Ok(Ran::Suspended),
            Ended::Failed(failed) => return Ok(Ran::Failed(failed)),
            Ended::Done => {}
        }
        if HOST.with(|host| host.is_final()) {
            reply.defer(false);
        }
        let stack = self.shared.main;
        // SAFETY: the value is on the stack, and memory has no limit.
        unsafe { Writer::new(stack, self.names, &self.shared.state, reply).value(ffi::lua_gettop(stack), 0) }
            .map(|()| Ran::Done)
    }
}

impl Shared {
    /// A function of C with the address of `self`, another function, and its number.
    fn function(
        &self,
        function: ffi::lua_CFunction,
        other: Option<&Function>,
        number: usize,
    ) -> mlua::Result<Function> {
        let stack = self.main;
        let _top = Top::of(stack);
        // SAFETY: there is room for these, and memory has no limit while a virtual machine is made. It is dropped before
        // `self`.
        unsafe {
            if ffi::lua_checkstack(stack, 4) == 0 {
                return Err(Error::StackError);
            }
            ffi::lua_pushlightuserdata(stack, std::ptr::from_ref(self).cast_mut().cast());
            match other {
                Some(other) => self.push(other)?,
                None => ffi::lua_pushnil(stack),
            }
            ffi::lua_pushinteger(stack, number as ffi::lua_Integer);
            ffi::lua_pushcclosure(stack, function, 3);
            self.lua.exec_raw_lua(|raw| raw.pop())
        }
    }

    /// Pushes a value of `mlua`.
    ///
    /// # Safety
    /// There is room for it.
    unsafe fn push(&self, value: impl IntoLua) -> mlua::Result<()> {
        // SAFETY: as the caller says.
        self.lua.exec_raw_lua(|raw| unsafe { raw.push(value) })
    }

    /// Pushes a table of words.
    ///
    /// # Safety
    /// There is room for two values, and memory has no limit.
    unsafe fn push_words<'a>(&self, words: Words<impl ExactSizeIterator<Item = &'a [u8]>>) -> mlua::Result<()> {
        let words = match words {
            Words::Few(words) => words,
            // SAFETY: as the caller says.
            Words::Table(table) => return unsafe { self.push(table) },
        };
        // SAFETY: as the caller says.
        unsafe {
            ffi::lua_createtable(self.main, words.len() as c_int, 0);
            for (at, word) in words.enumerate() {
                push_text(self.main, word);
                ffi::lua_rawseti_(self.main, -2, at as c_int + 1);
            }
        }
        Ok(())
    }

    /// Pushes a table that had other words, with few new ones.
    ///
    /// # Safety
    /// There is room for two values, and memory has no limit.
    unsafe fn push_refilled<'a>(
        &self,
        SharedTable { table, len }: &SharedTable,
        words: Words<impl ExactSizeIterator<Item = &'a [u8]>>,
    ) -> mlua::Result<()> {
        let Words::Few(words) = words else { return Ok(()) };
        let before = len.replace(words.len());
        // SAFETY: as the caller says.
        unsafe {
            self.push(table)?;
            let mut at = 0;
            for word in words {
                at += 1;
                push_text(self.main, word);
                ffi::lua_rawseti_(self.main, -2, at);
            }
            for at in at..before as c_int {
                ffi::lua_pushnil(self.main);
                ffi::lua_rawseti_(self.main, -2, at + 1);
            }
        }
        Ok(())
    }

    /// Calls the command whose words are on a stack. `number`: that of the function that is called.
    ///
    /// # Safety
    /// `stack` is that of a running function of C.
    unsafe fn perform(&self, stack: *mut lua_State, number: usize) -> Performed {
        // SAFETY: as the caller says.
        let performed = catch_unwind(AssertUnwindSafe(|| unsafe { self.ask_host(stack, number) }));
        let Err(trouble) = performed.unwrap_or_else(|panic| Err(Trouble::Panicked(panic))) else {
            return Performed::Yes;
        };
        if let Trouble::PutOff(pending) = trouble {
            *self.pending.borrow_mut() = Some(pending);
            return Performed::PutOff;
        }
        *self.state.trouble.borrow_mut() = Some(trouble);
        Performed::No
    }

    /// # Safety
    /// `stack` is that of a running function of C.
    unsafe fn ask_host(&self, stack: *mut lua_State, number: usize) -> Result<(), Trouble> {
        if !HOST.is_set() {
            return Err(Trouble::NoHost);
        }
        let mut scratch = self.state.scratch.borrow_mut();
        // SAFETY: as the caller says.
        unsafe { arguments::read(stack, &mut scratch) }?;
        let Scratch { bytes, spans, reply } = &mut *scratch;
        reply.truncate(0);
        reply.set_version(self.state.version.get());
        let can_suspend = self.can_suspend(stack);
        let called = HOST.with(|host| host.call(Request::new(bytes, spans), reply, can_suspend));
        // The reply of a write may be as large as the memory of a script that has written.
        let lifted = self.state.lift_first_limit(&self.lua);
        match called.and_then(|course| lifted.map(|()| course).map_err(|_| Halt)) {
            Err(Halt) => Err(Trouble::Halted),
            Ok(Course::Suspend) => Err(Trouble::PutOff(Pending::Call(number))),
            Ok(Course::On) if reply.buffer.first() == Some(&b'-') => Err(Trouble::Refused),
            Ok(Course::On) if self.puts_off_reply(stack, reply.len()) => Err(Trouble::PutOff(Pending::Reply)),
            Ok(Course::On) => Ok(()),
        }
    }
}

/// Whether a command has been called.
enum Performed {
    Yes,
    /// There is no reply to push, and the state has the reason.
    No,
    /// The script is to be suspended first.
    PutOff,
}

/// `redis.call(name, ...)` and `redis.pcall(name, ...)`
unsafe extern "C-unwind" fn call(stack: *mut lua_State) -> c_int {
    // SAFETY: [`Shared::function`] has made it a closure over these two. Nothing here has a destructor, and no one borrows the
    // reply.
    unsafe {
        let shared = &*ffi::lua_touserdata(stack, ffi::lua_upvalueindex(1)).cast::<Shared>();
        match shared.perform(stack, ffi::lua_tointeger(stack, ffi::lua_upvalueindex(3)) as usize) {
            Performed::Yes => {}
            Performed::PutOff => return ffi::lua_yield(stack, 0),
            Performed::No => {
                ffi::lua_settop(stack, 0);
                ffi::lua_pushvalue(stack, ffi::lua_upvalueindex(2));
                ffi::lua_call(stack, 0, 1);
                return 1;
            }
        }
        let scratch = &*shared.state.scratch.as_ptr();
        reply::push(stack, &scratch.reply.buffer);
        1
    }
}

/// The handler of errors that are not caught: notes the place, and returns the error.
unsafe extern "C-unwind" fn note_place(stack: *mut lua_State) -> c_int {
    // SAFETY: [`Shared::function`] has made it a closure over the address.
    unsafe {
        let shared = &*ffi::lua_touserdata(stack, ffi::lua_upvalueindex(1)).cast::<Shared>();
        *shared.place.borrow_mut() = place_of(stack, 1);
    }
    1
}

/// The place in a script where it has failed, from the call on that is `first` levels below the top of the stack.
///
/// # Safety
/// The stack is that of a function that runs, or of a coroutine that has failed.
unsafe fn place_of(stack: *mut lua_State, first: c_int) -> Option<Place> {
    let mut debug = MaybeUninit::<ffi::lua_Debug>::zeroed();
    // SAFETY: `lua_getinfo` fills the fields that are read.
    unsafe {
        for level in first..first + LEVELS {
            if ffi::lua_getstack(stack, level, debug.as_mut_ptr()) == 0
                || ffi::lua_getinfo(stack, c"Sl".as_ptr(), debug.as_mut_ptr()) == 0
            {
                return None;
            }
            let debug = debug.assume_init_ref();
            let source = CStr::from_ptr(debug.source);
            // A function of C, or of ours, has failed for the script that called it.
            if CStr::from_ptr(debug.what) != c"C" && source != c"=sandbox" {
                let line = (debug.currentline >= 0).then_some(i64::from(debug.currentline));
                return Some(Place { source: source.to_string_lossy().into_owned(), line });
            }
        }
    }
    None
}

/// Pushes a string.
///
/// # Safety
/// There is room for it. This may raise an error if memory is limited.
#[inline]
unsafe fn push_text(stack: *mut lua_State, text: &[u8]) {
    // SAFETY: as the caller says.
    unsafe { ffi::lua_pushlstring_(stack, text.as_ptr().cast(), text.len()) };
}

/// The text of the string at `index`. Numbers are none.
///
/// # Safety
/// The string stays where it is, or is kept by a table, as long as the text is used.
#[inline]
unsafe fn text_at<'a>(stack: *mut lua_State, index: c_int) -> Option<&'a [u8]> {
    // SAFETY: a string has as many bytes, and stays in its place in memory.
    unsafe {
        if ffi::lua_type(stack, index) != ffi::LUA_TSTRING {
            return None;
        }
        let mut len = 0;
        let bytes = ffi::lua_tolstring(stack, index, &raw mut len);
        Some(std::slice::from_raw_parts(bytes.cast(), len))
    }
}

/// Restores the height of a stack.
struct Top {
    stack: *mut lua_State,
    top: c_int,
}

impl Top {
    fn of(stack: *mut lua_State) -> Self {
        // SAFETY: the stack is that of a virtual machine that lives on.
        Self { stack, top: unsafe { ffi::lua_gettop(stack) } }
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // SAFETY: as above; nothing below the top has been removed.
        unsafe { ffi::lua_settop(self.stack, self.top) };
    }
}
