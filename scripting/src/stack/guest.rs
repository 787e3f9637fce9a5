//! Runs that can be suspended, and go on later, perhaps on another thread.
//!
//! 1. The function runs in a coroutine of its own, below a hook that asks the host every [`GUEST_STEPS`] steps.
//! 2. If the host says so, the hook or the call of a command yields. [`Stack::begin`] then returns
//!    [`Ended::Suspended`], with nothing of the run left on Rust's stack.
//! 3. [`Stack::go_on`] makes the call that was put off, if there is one, and resumes the coroutine with its reply. An error
//!    is raised by the hook, in front of the script's next step: code outside of a coroutine cannot raise one in it.
//!
//! The coroutine serves one run after the other, until one of them fails.
//!
//! Lua 5.1 does not tell whether a coroutine can yield, and to try it where it cannot is an error. So two fields of its
//! state are read ([`can_yield`]), whose place is checked when a virtual machine is made: where it is another one,
//! nothing is ever suspended.

use std::cell::Cell;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use dormouse_protocol::{Reply, Request};
use mlua::ffi::{self, lua_Debug, lua_State};
use mlua::{Error, Function, Value};

use super::{Failed, RUN_SLOTS, Ran, Shared, Stack, Top, Trouble, place_of};
use crate::errors::Raised;
use crate::vm::{HOST, Scratch, TICK_STEPS};
use crate::{Course, Halt};

/// Steps between two questions on the thread where a guest begins.
const GUEST_STEPS: c_int = 100;

/// A longer reply is not taken over there.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// Where `nCcalls` is in a `lua_State` of Lua 5.1 on a machine of 64 bits; `baseCcalls` follows it.
const C_CALLS_AT: usize = 96;

thread_local! {
    /// The machine whose guest runs on this thread.
    static CURRENT: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

/// How a run has ended.
pub(crate) enum Ended {
    /// Its value is on top of the stack.
    Done,
    Failed(Failed),
    Suspended,
}

/// The next thing that a suspended run needs.
pub(crate) enum Pending {
    /// Its next step.
    Step,
    /// A call, which was not made. Its words are in the buffers; the number is that of its function in
    /// [`Shared::otherwise`].
    Call(usize),
    /// A call that was made, whose reply is in the buffers.
    Reply,
}

/// A value that belongs to one thread at a time.
pub(crate) struct Moved<T>(pub(crate) T);

// SAFETY: it is made of a whole virtual machine: all that shares its counters of references moves with it. Lua itself
// belongs to no thread, and neither does anything that this crate or `mlua` keeps for it.
unsafe impl<T> Send for Moved<T> {}

impl Stack {
    /// Begins a run of the function that is on top of the stack, below so many arguments.
    ///
    /// # Safety
    /// They are there, and memory is limited as it is to be for the run.
    pub(super) unsafe fn begin(&self, given: c_int) -> mlua::Result<Ended> {
        let main = self.shared.main;
        // SAFETY: a new coroutine has room for these. A function of C that moves them allocates nothing.
        unsafe {
            let stack = self.shared.guest.get();
            ffi::lua_xmove(main, stack, given + 1);
            ffi::lua_sethook(stack, Some(ask), ffi::LUA_MASKCOUNT, GUEST_STEPS);
            self.resume(stack, given)
        }
    }

    /// Whether it is known when a guest can be suspended.
    pub(crate) fn can_suspend(&self) -> bool {
        self.shared.is_checked.get()
    }

    /// Makes the coroutine of the next guest, if the last one cannot be used again. Memory has no limit meanwhile.
    pub(super) fn prepare_guest(&self) -> mlua::Result<()> {
        let mut coroutine = self.coroutine.borrow_mut();
        if coroutine.is_some() {
            return Ok(());
        }
        let main = self.shared.main;
        // SAFETY: there is room for it, and the value keeps it.
        unsafe {
            if ffi::lua_checkstack(main, 1) == 0 {
                return Err(Error::StackError);
            }
            let stack = ffi::lua_newthread(main);
            let kept = self.shared.lua.exec_raw_lua(|raw| raw.pop_value());
            self.shared.guest.set(stack);
            *coroutine = Some(kept);
        }
        Ok(())
    }

    /// Lets a suspended run go on, where it is not suspended again, and writes the value that it returns.
    ///
    /// # Errors
    /// As [`Stack::run`].
    pub(crate) fn go_on(&self, reply: &mut Reply) -> mlua::Result<Ran> {
        let Shared { main, state, .. } = &*self.shared;
        let pending = self.shared.pending.take().unwrap_or(Pending::Step);
        let number = match pending {
            Pending::Step => None,
            Pending::Reply => Some(None),
            Pending::Call(number) => Some(Some(number)),
        };
        let stack = self.shared.guest.get();
        let _top = Top::of(*main);
        let mut given = 0;
        let mut raise = None;
        if let Some(call) = number {
            let value = match call.map_or(Ok(true), |_| self.shared.call_again()) {
                Ok(true) => self.pushed.call::<Value>(()),
                Ok(false) => {
                    *state.trouble.borrow_mut() = Some(Trouble::Refused);
                    let otherwise = call.and_then(|number| self.shared.otherwise.borrow().get(number).cloned());
                    otherwise.map_or(Ok(Value::Nil), |function| function.call::<Value>(()))
                }
                Err(Halt) => {
                    state.halted.set(true);
                    self.forget_coroutine();
                    return Err(Raised::Halt.into());
                }
            };
            match value {
                // SAFETY: there is room for it on both stacks, and the run waits for one value.
                Ok(value) => unsafe {
                    if ffi::lua_checkstack(*main, RUN_SLOTS) == 0 {
                        return Err(Error::StackError);
                    }
                    self.shared.push(value)?;
                    ffi::lua_xmove(*main, stack, 1);
                    given = 1;
                },
                Err(error) => raise = Some(error),
            }
        }
        let steps = if raise.is_some() { 1 } else { TICK_STEPS as c_int };
        *self.shared.raise.borrow_mut() = raise;
        // SAFETY: the coroutine is suspended, and waits for so many values.
        unsafe {
            ffi::lua_sethook(stack, Some(ask), ffi::LUA_MASKCOUNT, steps);
            let ended = self.resume(stack, given)?;
            self.conclude(ended, reply)
        }
    }

    /// # Safety
    /// The coroutine can be resumed with so many values, which are on its stack.
    unsafe fn resume(&self, stack: *mut lua_State, given: c_int) -> mlua::Result<Ended> {
        let Shared { lua, main, state, .. } = &*self.shared;
        let before = CURRENT.replace(&raw const *self.shared);
        // SAFETY: as the caller says. Errors end here.
        let status = unsafe { ffi::lua_resume_(stack, given) };
        CURRENT.set(before);
        if status == ffi::LUA_YIELD && self.shared.pending.borrow().is_some() {
            return Ok(Ended::Suspended);
        }
        lua.set_memory_limit(0)?;
        if status == ffi::LUA_YIELD {
            // The script has asked for it by itself, as if it ran in a coroutine of its own.
            self.forget_coroutine();
            let value = Value::String(lua.create_string("attempt to yield across metamethod/C-call boundary")?);
            return Ok(Ended::Failed(Failed { value, is_raised: true, place: None }));
        }
        if let Some(Trouble::Panicked(panic)) = state.trouble.take() {
            self.forget_coroutine();
            std::panic::resume_unwind(panic);
        }
        // An error that there was no further step for.
        let late = self.shared.raise.take();
        // SAFETY: memory has no limit. A coroutine that has ended has what its function returns, one that has failed the
        // error on top.
        unsafe {
            if ffi::lua_checkstack(*main, RUN_SLOTS) == 0 {
                return Err(Error::StackError);
            }
            if status != ffi::LUA_OK {
                let place = place_of(stack, 0);
                ffi::lua_xmove(stack, *main, 1);
                let value = lua.exec_raw_lua(|raw| raw.pop_value());
                self.forget_coroutine();
                return match state.halted.get() {
                    true => Err(Raised::Halt.into()),
                    false => Ok(Ended::Failed(Failed { value, is_raised: status == ffi::LUA_ERRRUN, place })),
                };
            }
            if state.halted.get() {
                self.forget_coroutine();
                return Err(Raised::Halt.into());
            }
            if let Some(error) = late {
                ffi::lua_settop(stack, 0);
                let value = Value::Error(Box::new(error));
                return Ok(Ended::Failed(Failed { value, is_raised: true, place: None }));
            }
            ffi::lua_settop(stack, 1);
            ffi::lua_xmove(stack, *main, 1);
        }
        Ok(Ended::Done)
    }

    fn forget_coroutine(&self) {
        self.coroutine.take();
    }
}

/// The next course of a guest.
enum Next {
    On,
    Suspend,
    Raise,
    End,
}

impl Shared {
    /// Makes a call that was put off. False: its reply is an error.
    fn call_again(&self) -> Result<bool, Halt> {
        let mut scratch = self.state.scratch.borrow_mut();
        let Scratch { bytes, spans, reply } = &mut *scratch;
        reply.truncate(0);
        reply.set_version(self.state.version.get());
        HOST.with(|host| host.call(Request::new(bytes, spans), reply, false))?;
        Ok(reply.buffer.first() != Some(&b'-'))
    }

    /// Whether a reply is to be taken over elsewhere.
    pub(super) fn puts_off_reply(&self, stack: *mut lua_State, bytes: usize) -> bool {
        bytes > REPLY_BYTES_MAX && self.can_suspend(stack) && HOST.with(|host| host.is_final())
    }

    /// Whether the run can be suspended while a function of C is called by its code, or a hook.
    pub(super) fn can_suspend(&self, stack: *mut lua_State) -> bool {
        // In a coroutine of the script's own it would go on behind `coroutine.resume`.
        let is_own = stack == self.guest.get();
        // SAFETY: the stack is that of a virtual machine that lives on.
        is_own && self.state.is_guest.get() && self.is_checked.get() && unsafe { can_yield(stack) }
    }

    fn step(&self, stack: *mut lua_State) -> Next {
        if self.raise.borrow().is_some() {
            return Next::Raise;
        }
        if self.state.halted.get() {
            return Next::End;
        }
        let held = self.lua.used_memory().saturating_sub(self.state.base_bytes.get());
        let can_suspend = self.can_suspend(stack);
        match catch_unwind(AssertUnwindSafe(|| HOST.with(|host| host.step(held, can_suspend)))) {
            Ok(Ok(Course::On)) => Next::On,
            Ok(Ok(Course::Suspend)) if can_suspend => Next::Suspend,
            Ok(Ok(Course::Suspend) | Err(Halt)) => {
                self.state.halted.set(true);
                Next::End
            }
            Err(panic) => {
                self.state.halted.set(true);
                *self.state.trouble.borrow_mut() = Some(Trouble::Panicked(panic));
                Next::End
            }
        }
    }

    /// Moves the error that waits to a stack.
    fn push_raised(&self, stack: *mut lua_State) {
        let error = self.raise.take().unwrap_or_else(|| Raised::Halt.into());
        // SAFETY: nothing runs on the main stack meanwhile, and a hook has room for a few values.
        unsafe {
            if ffi::lua_checkstack(self.main, 2) != 0 && self.push(Value::Error(Box::new(error))).is_ok() {
                ffi::lua_xmove(self.main, stack, 1);
            } else {
                ffi::lua_pushnil(stack);
            }
        }
    }
}

/// The hook of guests.
unsafe extern "C-unwind" fn ask(stack: *mut lua_State, _: *mut lua_Debug) {
    let shared = CURRENT.get();
    if shared.is_null() || !HOST.is_set() {
        return;
    }
    // SAFETY: the machine lives as long as its guest runs. Nothing here has a destructor when an error is raised.
    unsafe {
        match (*shared).step(stack) {
            Next::On => {}
            Next::Suspend => {
                (*shared).pending.replace(Some(Pending::Step));
                ffi::lua_yield(stack, 0);
            }
            Next::Raise => {
                ffi::lua_sethook(stack, Some(ask), ffi::LUA_MASKCOUNT, TICK_STEPS as c_int);
                (*shared).push_raised(stack);
                ffi::lua_error(stack);
            }
            Next::End => {
                ffi::lua_pushnil(stack);
                ffi::lua_error(stack);
            }
        }
    }
}

/// Whether no function of C is between the code that runs and its coroutine.
///
/// # Safety
/// The stack is that of a living coroutine.
unsafe fn can_yield(stack: *mut lua_State) -> bool {
    // SAFETY: both fields are within the state.
    unsafe {
        let calls = stack.cast::<u8>().add(C_CALLS_AT).cast::<u16>();
        calls.read() == calls.add(1).read()
    }
}

/// Checks [`can_yield`] where it must be true and where it must be false.
pub(super) fn check(shared: &Shared) -> mlua::Result<bool> {
    /// Returns whether it can yield, and the same of a call of itself by itself.
    unsafe extern "C-unwind" fn probe(stack: *mut lua_State) -> c_int {
        // SAFETY: a function of C has room for these.
        unsafe {
            let is_outer = ffi::lua_gettop(stack) == 0;
            ffi::lua_pushboolean(stack, c_int::from(can_yield(stack)));
            if !is_outer {
                return 1;
            }
            ffi::lua_pushcfunction(stack, probe);
            ffi::lua_pushboolean(stack, 1);
            ffi::lua_call(stack, 1, 1);
        }
        2
    }
    let main = shared.main;
    let _top = Top::of(main);
    // SAFETY: memory has no limit while a virtual machine is made, and there is room for these.
    unsafe {
        if cfg!(not(target_pointer_width = "64")) || ffi::lua_checkstack(main, 4) == 0 {
            return Ok(false);
        }
        let stack = ffi::lua_newthread(main);
        ffi::lua_pushcfunction(stack, probe);
        let is_done = ffi::lua_resume_(stack, 0) == ffi::LUA_OK && ffi::lua_gettop(stack) == 2;
        Ok(is_done && ffi::lua_toboolean(stack, 1) == 1 && ffi::lua_toboolean(stack, 2) == 0)
    }
}

/// A function that returns the reply in the buffers.
pub(super) fn pushes_reply(shared: &Shared) -> mlua::Result<Function> {
    shared.function(push_reply, None, 0)
}

unsafe extern "C-unwind" fn push_reply(stack: *mut lua_State) -> c_int {
    // SAFETY: [`Shared::function`] has made it a closure over the address, and no one borrows the reply.
    unsafe {
        let shared = &*ffi::lua_touserdata(stack, ffi::lua_upvalueindex(1)).cast::<Shared>();
        super::reply::push(stack, &(*shared.state.scratch.as_ptr()).reply.buffer);
    }
    1
}
