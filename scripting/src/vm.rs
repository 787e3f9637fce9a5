//! The virtual machine of a thread.
//!
//! 1. The thread's first script makes it: libraries, sandbox, and the functions of `redis` ([`crate::sandbox`]).
//! 2. A script is compiled once for each thread and kept by its hash, up to a bound.
//! 3. A run sets the memory limit and lends the [`Host`] to the functions of `redis`, then calls the script below
//!    `xpcall`. So whatever the script does, the run comes back here.
//! 4. The result is written as a reply, or the error as Redis words it.
//!
//! A script that must not be interrupted runs without a hook: its host knows that it ends soon. A guest may be suspended, and
//! [goes on](go_on) with its virtual machine, perhaps on another thread. All others ask the host every [`TICK_STEPS`] steps.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dormouse_protocol::{Reply, Request, Span, Version};
use mlua::{Function, HookTriggers, Lua, Table, Value, VmState};
use rapidhash::RapidHashMap;

use crate::errors::{self, Raised};
use crate::json::Settings;
use crate::random::Random;
use crate::script::{Library, Script, ScriptFlags, Sha};
use crate::stack::guest::Moved;
use crate::stack::{Failed, Placed, Ran, Stack, Trouble, Words};
use crate::{Course, Halt, Host, sandbox};

/// Values between two questions whether a script may go on.
const TICK_VALUES: usize = 1024;

/// Bytes that functions look at between two such questions.
const TICK_BYTES: usize = 256 << 10;

/// Bytes of a text that a script compiles.
pub(crate) const TEXT_BYTES_MAX: usize = 16 << 20;

/// Steps of the virtual machine between two such questions. A step may compare or join texts of all the memory that a
/// script may take, in some ten milliseconds.
pub(crate) const TICK_STEPS: u32 = 1_000;

/// Scripts and libraries that a thread keeps compiled.
const COMPILED_MAX: usize = 512;
/// Bytes of their texts.
const COMPILED_BYTES_MAX: usize = 8 << 20;

/// Bytes of keys and arguments that are taken over before the memory is limited, and what each takes beside its text.
const UNLIMITED_BYTES_MAX: usize = 16 << 10;
const WORD_BYTES: usize = 64;

/// Bytes of a buffer that is kept for the next run.
const KEPT_BYTES_MAX: usize = 4 << 10;

/// Garbage that a run may leave; more is collected at once.
const LEFT_BYTES_MAX: usize = 4 << 20;

/// The bounds of a library that registers its functions.
const LOADING: RunLimits = RunLimits {
    memory_bytes: 16 << 20,
    first_memory_bytes: 16 << 20,
    ticks: true,
    guest: false,
    values: 1 << 20,
    chance: 0,
};
const LOADING_TIME: Duration = Duration::from_millis(500);

/// Memory for compiling, in bytes for each byte of text, and at least.
const COMPILE_FACTOR: usize = 64;
const COMPILE_BYTES: usize = 1 << 20;

scoped_tls_hkt::scoped_thread_local!(
    /// The surroundings that the running script reaches.
    pub(crate) static mut HOST: for<'a> &'a mut (dyn Host + 'a)
);

thread_local! {
    static VM: RefCell<Option<Box<Vm>>> = const { RefCell::new(None) };
}

/// The bounds of a run.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// Memory beyond what the virtual machine takes without the script.
    pub memory_bytes: usize,
    /// The same until the script has written. If it needs more, the host decides where it runs.
    pub first_memory_bytes: usize,
    /// Whether the host is asked again and again.
    pub ticks: bool,
    /// Whether the host is asked for each of the first steps, and may suspend the script: only of one that
    /// [can be](Script::can_be_suspended).
    pub guest: bool,
    /// Values that a script may write as a reply, JSON or MessagePack. A few tables that hold each other may stand for
    /// any number of them.
    pub values: usize,
    /// Seed of `math.random`.
    pub chance: u64,
}

/// Something to run.
#[derive(Debug, Clone, Copy)]
pub enum Runnable<'a> {
    Script(&'a Script),
    /// A function of a library.
    Function(&'a Arc<Library>, &'a str),
}

impl Runnable<'_> {
    /// The name of the script in errors.
    pub fn title(self) -> String {
        match self {
            Runnable::Script(script) => script.sha.to_string(),
            Runnable::Function(_, name) => name.to_owned(),
        }
    }
}

/// The end of a run.
#[derive(Debug)]
pub enum ScriptEnd {
    /// It has one reply.
    Done,
    /// The host has suspended it. It has no reply yet.
    Suspended(Suspended),
}

/// A suspended run, with its virtual machine.
pub struct Suspended(Moved<Box<Vm>>);

impl std::fmt::Debug for Suspended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Suspended")
    }
}

/// Virtual machines of threads whose guests took theirs along, and of those that these guests came to.
static SPARE: Mutex<Vec<Moved<Box<Vm>>>> = Mutex::new(Vec::new());
const SPARE_MAX: usize = 4;

/// A function that a library has registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub name: Box<str>,
    pub description: Option<Box<str>>,
    pub flags: ScriptFlags,
}

/// State that a run shares with the functions of `redis`.
#[derive(Default)]
pub(crate) struct State {
    /// The script must end.
    pub(crate) halted: Cell<bool>,
    /// It may be suspended.
    pub(crate) is_guest: Cell<bool>,
    /// The version of the replies to `redis.call`.
    pub(crate) version: Cell<Version>,
    pub(crate) random: Random,
    pub(crate) json: RefCell<Settings>,
    pub(crate) scratch: RefCell<Scratch>,
    /// Why the last call of a command gave no value.
    pub(crate) trouble: RefCell<Option<Trouble>>,
    /// The memory limit of the run.
    pub(crate) memory_bytes: Cell<usize>,
    first_memory_bytes: Cell<usize>,
    /// Whether this lower limit holds, until the script has written.
    is_first: Cell<bool>,
    /// Bytes that functions have looked at since the host was told.
    weighed_bytes: Cell<usize>,
    /// The memory in use when the run began.
    pub(crate) base_bytes: Cell<usize>,
    /// Values that may still be written.
    pub(crate) values_left: Cell<usize>,
    /// The library that is being loaded, with its functions so far.
    pub(crate) loading: RefCell<Option<Vec<(Registered, Function)>>>,
}

impl State {
    /// Called before work that is linear in `bytes`.
    ///
    /// # Errors
    /// When the script must end.
    pub(crate) fn weigh(&self, bytes: usize) -> mlua::Result<()> {
        let bytes = self.weighed_bytes.get().saturating_add(bytes);
        if bytes < TICK_BYTES {
            self.weighed_bytes.set(bytes);
            return Ok(());
        }
        self.weighed_bytes.set(0);
        if HOST.is_set() && HOST.with(|host| host.weigh(bytes)).is_err() {
            self.halted.set(true);
            return Err(Raised::Halt.into());
        }
        Ok(())
    }

    /// Limits the memory of the run that begins.
    pub(crate) fn limit_memory(&self, lua: &Lua) -> mlua::Result<()> {
        let bytes = if self.is_first.get() { &self.first_memory_bytes } else { &self.memory_bytes };
        lua.set_memory_limit(self.base_bytes.get() + bytes.get()).map(drop)
    }

    /// Lets a script that has written take all its memory, since it cannot run again elsewhere.
    pub(crate) fn lift_first_limit(&self, lua: &Lua) -> mlua::Result<()> {
        if self.is_first.get() && HOST.with(|host| host.is_final()) {
            self.is_first.set(false);
            lua.set_memory_limit(self.base_bytes.get() + self.memory_bytes.get())?;
        }
        Ok(())
    }

    /// Called for each value that is written.
    ///
    /// # Errors
    /// When there are too many, or the script must end.
    pub(crate) fn count_value(&self) -> mlua::Result<()> {
        let left = self.values_left.get();
        let Some(left) = left.checked_sub(1) else {
            return Err(Raised::Command(b"ERR the script makes too many values".to_vec()).into());
        };
        self.values_left.set(left);
        if left.is_multiple_of(TICK_VALUES) && HOST.is_set() && HOST.with(|host| host.tick(0)).is_err() {
            self.halted.set(true);
            return Err(Raised::Halt.into());
        }
        Ok(())
    }
}

/// Buffers of the last call of a command, for the next.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) spans: Vec<Span>,
    pub(crate) reply: Reply,
}

impl Scratch {
    /// Takes memory for replies from where `reply` has it.
    fn begin(&mut self, reply: &Reply) {
        let buffer = std::mem::take(&mut self.reply.buffer);
        self.reply = reply.another();
        self.reply.buffer = buffer;
    }

    /// Forgets all contents, and keeps small buffers.
    fn clear(&mut self) {
        let mut reply = std::mem::take(&mut self.reply.buffer);
        reply.clear();
        self.reply = Reply::default();
        if reply.capacity() <= KEPT_BYTES_MAX {
            self.reply.buffer = reply;
        }
        self.bytes.clear();
        self.spans.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.spans.shrink_to(KEPT_BYTES_MAX / size_of::<Span>());
    }
}

struct Vm {
    lua: Lua,
    state: Rc<State>,
    stack: Stack,
    /// The globals of scripts, behind the table that they cannot write.
    globals: Table,
    /// The metatable of that table.
    shown: Table,
    /// The globals of a library while it is loaded.
    loading: Table,
    /// For libraries that are loaded.
    xpcall: Function,
    handler: Function,
    scripts: RapidHashMap<Sha, Function>,
    libraries: RapidHashMap<Sha, RapidHashMap<Box<str>, Function>>,
    compiled_bytes: usize,
    hooked: bool,
    words: GlobalWords,
}

/// The kinds of the globals `KEYS` and `ARGV`. Each script sets both before it runs, so no script finds another one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GlobalWords {
    Absent,
    /// Tables of the last run.
    Own,
    /// The tables that serve one run after the other.
    Shared,
}

/// Whether this machine's Lua tells when a script can be suspended. If not, no script may be a guest.
pub fn suspends() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| with(|vm| vm.stack.can_suspend()))
}

/// Checks that a script can be compiled.
///
/// # Errors
/// The compiler's text.
pub fn check(script: &Script) -> Result<(), String> {
    with(|vm| vm.function(script).map(drop))
}

/// Loads a library and returns the functions that it registers.
///
/// # Errors
/// The problem, as the client sees it.
pub fn load(library: &Arc<Library>) -> Result<Vec<Registered>, String> {
    let mut host = Loading { started: Instant::now() };
    with(|vm| HOST.set(&mut host, || vm.load_library(library)))
}

/// Runs a script or a function and writes one reply.
///
/// # Errors
/// When the host has ended it. Nothing is written then.
pub fn run<'a>(
    run: Runnable<'_>,
    keys: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    arguments: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    limits: RunLimits,
    host: &mut dyn Host,
    reply: &mut Reply,
) -> Result<ScriptEnd, Halt> {
    let mut vm = take();
    let start = reply.len();
    let function = match vm.prepare(run) {
        Ok(function) => function,
        Err(problem) => {
            give(vm);
            reply.error(&problem);
            return Ok(ScriptEnd::Done);
        }
    };
    vm.begin(limits, reply);
    let outcome = HOST.set(host, || {
        let outcome = vm.call(run, &function, keys, arguments, reply);
        if vm.state.is_first.get() && lacked_memory(&outcome) && HOST.with(|host| host.outgrow()).is_err() {
            vm.state.halted.set(true);
        }
        outcome
    });
    conclude(vm, run, outcome, start, reply)
}

/// Lets a suspended run go on, without suspending it again. `run` is what it was begun with.
///
/// # Errors
/// As [`run`].
pub fn go_on(
    Suspended(Moved(mut vm)): Suspended,
    run: Runnable<'_>,
    limits: RunLimits,
    host: &mut dyn Host,
    reply: &mut Reply,
) -> Result<(), Halt> {
    let start = reply.len();
    let outcome = HOST.set(host, || vm.go_on(run, limits, reply));
    conclude(vm, run, outcome, start, reply).map(drop)
}

/// Ends a run, unless it is suspended, and gives the virtual machine back.
fn conclude(
    mut vm: Box<Vm>,
    run: Runnable<'_>,
    outcome: mlua::Result<CallEnd>,
    start: usize,
    reply: &mut Reply,
) -> Result<ScriptEnd, Halt> {
    if matches!(outcome, Ok(CallEnd::Suspended)) {
        return Ok(ScriptEnd::Suspended(Suspended(Moved(vm))));
    }
    vm.end();
    let halted = vm.state.halted.get();
    give(vm);
    if halted {
        reply.truncate(start);
        return Err(Halt);
    }
    match outcome {
        Ok(CallEnd::Done | CallEnd::Suspended) => {}
        Ok(CallEnd::Failed(failure)) => reply.error_bytes(&failure.text),
        Err(error) => {
            reply.truncate(start);
            reply.error(&outside(run, &error));
        }
    }
    Ok(ScriptEnd::Done)
}

/// Takes the virtual machine of this thread, so that a script that is run by a script, which no command does, would get one
/// of its own.
fn take() -> Box<Vm> {
    VM.take()
        .or_else(|| SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop().map(|Moved(vm)| vm))
        .unwrap_or_else(|| Box::new(Vm::new().expect("a virtual machine needs a few hundred kilobytes")))
}

/// Gives it back, or another one in its place.
fn give(vm: Box<Vm>) {
    let Some(vm) = VM.replace(Some(vm)) else { return };
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    if spare.len() < SPARE_MAX {
        spare.push(Moved(vm));
    }
}

/// Lends the virtual machine of this thread.
fn with<T>(work: impl FnOnce(&mut Vm) -> T) -> T {
    let mut vm = take();
    let done = work(&mut vm);
    give(vm);
    done
}

impl Vm {
    fn new() -> mlua::Result<Self> {
        let state = Rc::new(State::default());
        let sandbox::Sandbox { lua, stack, globals, shown, loading, xpcall, handler } = sandbox::new(&state)?;
        Ok(Self {
            lua,
            state,
            stack,
            globals,
            shown,
            loading,
            xpcall,
            handler,
            scripts: RapidHashMap::default(),
            libraries: RapidHashMap::default(),
            compiled_bytes: 0,
            hooked: false,
            words: GlobalWords::Absent,
        })
    }

    /// The compiled script.
    fn function(&mut self, script: &Script) -> Result<Function, String> {
        if let Some(function) = self.scripts.get(&script.sha) {
            return Ok(function.clone());
        }
        let function = self
            .compile(script.lua(), "@user_script")
            .map_err(|error| format!("ERR Error compiling script (new function): {}", errors::message(&error)))?;
        self.make_room(script.text.len());
        self.scripts.insert(script.sha, function.clone());
        Ok(function)
    }

    fn make_room(&mut self, bytes: usize) {
        self.compiled_bytes += bytes;
        if self.scripts.len() + self.libraries.len() >= COMPILED_MAX || self.compiled_bytes > COMPILED_BYTES_MAX {
            self.scripts.clear();
            self.libraries.clear();
            self.compiled_bytes = bytes;
        }
    }

    fn compile(&self, text: &[u8], name: &str) -> mlua::Result<Function> {
        self.lua.set_memory_limit(self.lua.used_memory() + COMPILE_BYTES + COMPILE_FACTOR * text.len())?;
        let compiled = sandbox::compile(&self.lua, text, name);
        self.lua.set_memory_limit(0)?;
        compiled
    }

    fn begin(&mut self, limits: RunLimits, reply: &Reply) {
        self.set_hook(limits.ticks);
        let state = &self.state;
        state.halted.set(false);
        state.is_guest.set(limits.guest);
        state.version.set(Version::Resp2);
        state.random.start(limits.chance);
        *state.json.borrow_mut() = Settings::default();
        state.scratch.borrow_mut().begin(reply);
        let used = self.lua.used_memory();
        state.base_bytes.set(used);
        state.memory_bytes.set(limits.memory_bytes);
        state.first_memory_bytes.set(limits.first_memory_bytes);
        state.is_first.set(limits.first_memory_bytes < limits.memory_bytes);
        state.weighed_bytes.set(0);
        state.values_left.set(limits.values);
    }

    fn set_hook(&mut self, on: bool) {
        if on == self.hooked {
            return;
        }
        self.hooked = on;
        if !on {
            self.lua.remove_global_hook();
            self.lua.remove_hook();
            return;
        }
        let state = Rc::clone(&self.state);
        let every = HookTriggers::new().every_nth_instruction(TICK_STEPS);
        let hook = move |lua: &Lua, _: &mlua::debug::Debug<'_>| {
            let held = lua.used_memory().saturating_sub(state.base_bytes.get());
            if state.halted.get() || HOST.is_set() && HOST.with(|host| host.tick(held)).is_err() {
                state.halted.set(true);
                return Err(Raised::Halt.into());
            }
            Ok(VmState::Continue)
        };
        self.lua.set_global_hook(every, hook).expect("the main thread takes a hook");
    }

    fn end(&mut self) {
        self.state.scratch.borrow_mut().clear();
        self.lua.set_memory_limit(0).expect("the virtual machine has its own allocator");
        if self.lua.used_memory() > self.state.base_bytes.get() + LEFT_BYTES_MAX {
            // What fails here fails again in the next run, which then reports it.
            drop(self.lua.gc_collect());
        }
    }

    /// Takes `KEYS` and `ARGV` away, for a function, or because they are large.
    fn clear_words(&mut self) {
        if self.words != GlobalWords::Absent {
            for name in ["KEYS", "ARGV"] {
                self.globals.raw_set(name, Value::Nil).expect("a field that exists is cleared without memory");
            }
            self.words = GlobalWords::Absent;
        }
    }

    /// Calls the function and writes its result.
    fn call<'a>(
        &mut self,
        run: Runnable<'_>,
        function: &Function,
        keys: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        arguments: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        reply: &mut Reply,
    ) -> mlua::Result<CallEnd> {
        let bytes: usize = keys.clone().chain(arguments.clone()).map(|word| word.len() + WORD_BYTES).sum();
        let is_large = bytes > UNLIMITED_BYTES_MAX;
        let (keys, arguments) = match is_large {
            false => (Words::Few(keys), Words::Few(arguments)),
            // While memory has a limit, each allocation from outside needs a frame of its own that catches errors: an error
            // without one ends the process.
            true => {
                self.state.limit_memory(&self.lua)?;
                let words = (Words::Table(self.strings(keys)?), Words::Table(self.strings(arguments)?));
                self.lua.set_memory_limit(0)?;
                words
            }
        };
        let placed = match run {
            Runnable::Function(library, name) => {
                self.clear_words();
                match !is_large && library.only_reads_words(name) {
                    true => Placed::SharedArguments,
                    false => Placed::Arguments,
                }
            }
            Runnable::Script(script) if script.only_reads_words && !is_large => {
                if self.words != GlobalWords::Shared {
                    let (keys, arguments) = self.stack.shared_words();
                    self.words = GlobalWords::Own;
                    self.globals.raw_set("KEYS", keys)?;
                    self.globals.raw_set("ARGV", arguments)?;
                    self.words = GlobalWords::Shared;
                }
                Placed::SharedGlobals
            }
            Runnable::Script(_) => {
                self.words = GlobalWords::Own;
                Placed::Globals(&self.globals)
            }
        };
        let ran = self.stack.run(function, placed, keys, arguments, reply);
        if is_large {
            self.clear_words();
        }
        CallEnd::of(run, ran?)
    }

    /// Lets a suspended run go on within these limits.
    fn go_on(&mut self, run: Runnable<'_>, limits: RunLimits, reply: &mut Reply) -> mlua::Result<CallEnd> {
        self.state.is_guest.set(false);
        self.state.is_first.set(false);
        self.state.memory_bytes.set(limits.memory_bytes);
        self.state.limit_memory(&self.lua)?;
        CallEnd::of(run, self.stack.go_on(reply)?)
    }

    fn strings<'a>(&self, strings: impl ExactSizeIterator<Item = &'a [u8]>) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(strings.len(), 0)?;
        for (at, string) in strings.enumerate() {
            table.raw_seti(at + 1, self.lua.create_string(string)?)?;
        }
        Ok(table)
    }

    /// The function to run, compiled.
    fn prepare(&mut self, run: Runnable<'_>) -> Result<Function, String> {
        let (library, name) = match run {
            Runnable::Script(script) => return self.function(script),
            Runnable::Function(library, name) => (library, name),
        };
        if !self.libraries.contains_key(&library.sha) {
            HOST.set(&mut Loading { started: Instant::now() }, || self.load_library(library))?;
        }
        let function = self.libraries.get(&library.sha).and_then(|functions| functions.get(name));
        function.cloned().ok_or_else(|| "ERR Function not found".into())
    }

    fn load_library(&mut self, library: &Arc<Library>) -> Result<Vec<Registered>, String> {
        let failed = |text: String| format!("ERR Error registering functions: {text}");
        let main = self
            .compile(library.lua(), "@user_function")
            .map_err(|error| format!("ERR Error compiling function: {}", errors::message(&error)))?;
        self.begin(LOADING, &Reply::default());
        self.state.limit_memory(&self.lua).map_err(|error| failed(errors::message(&error)))?;
        self.clear_words();
        *self.state.loading.borrow_mut() = Some(Vec::new());
        // Until it has been loaded, a library sees nothing but `redis`, with what registers functions.
        let hidden = self.shown.raw_set("__index", &self.loading);
        let ran = hidden.and_then(|()| self.xpcall.call::<(bool, Value)>((main, &self.handler)));
        self.shown.raw_set("__index", &self.globals).expect("a field that exists is set without memory");
        let functions = self.state.loading.take().unwrap_or_default();
        let halted = self.state.halted.get();
        self.end();
        let (ok, value) = ran.map_err(|error| failed(errors::message(&error)))?;
        if halted {
            return Err(failed("FUNCTION LOAD timeout".into()));
        }
        if !ok {
            let text = match &value {
                Value::Table(table) => match table.raw_get("err") {
                    Ok(Value::String(text)) => text.to_string_lossy(),
                    _ => "unknown error".into(),
                },
                other => other.to_string().unwrap_or_default(),
            };
            return Err(failed(text));
        }
        if functions.is_empty() {
            return Err("ERR No functions registered".into());
        }
        let registered = functions.iter().map(|(registered, _)| registered.clone()).collect();
        self.make_room(library.text.len());
        let by_name = functions.into_iter().map(|(registered, function)| (registered.name, function)).collect();
        self.libraries.insert(library.sha, by_name);
        Ok(registered)
    }
}

/// The end of a call of a script.
enum CallEnd {
    Done,
    Failed(Failure),
    Suspended,
}

impl CallEnd {
    fn of(run: Runnable<'_>, ran: Ran) -> mlua::Result<Self> {
        match ran {
            Ran::Done => Ok(Self::Done),
            Ran::Suspended => Ok(Self::Suspended),
            Ran::Failed(failed) => failure(run, failed).map(Self::Failed),
        }
    }
}

/// The error reply of a script that has failed.
#[derive(Debug)]
struct Failure {
    text: Vec<u8>,
    /// It failed for lack of memory.
    lacked_memory: bool,
}

/// Whether a run that has ended like this needed more memory than it had.
fn lacked_memory(outcome: &mlua::Result<CallEnd>) -> bool {
    match outcome {
        Ok(CallEnd::Failed(failure)) => failure.lacked_memory,
        Ok(CallEnd::Done | CallEnd::Suspended) => false,
        Err(error) => errors::message(error).ends_with(errors::NO_MEMORY),
    }
}

/// The error reply for an error that a script has not caught.
fn failure(run: Runnable<'_>, Failed { value, is_raised, place }: Failed) -> mlua::Result<Failure> {
    if !is_raised {
        let text = value.to_string().unwrap_or_else(|_| "execution failure".into());
        let lacked_memory = text.ends_with(errors::NO_MEMORY);
        let text = format!("ERR Error running script {}, {text}", run.title()).into_bytes();
        return Ok(Failure { text, lacked_memory });
    }
    let mut noted = place.and_then(|place| Some((place.source.into_bytes(), place.line?)));
    let mut text = match &value {
        Value::Table(table) => {
            if let (None, Value::String(source), Some(line)) =
                (&noted, table.raw_get("source")?, table.raw_get::<Value>("line")?.as_i64())
            {
                noted = Some((source.as_bytes().to_vec(), line));
            }
            match table.raw_get("err")? {
                Value::String(text) => text.as_bytes().to_vec(),
                _ => b"ERR unknown error".to_vec(),
            }
        }
        Value::Error(error) => match errors::raised(error) {
            Some(Raised::Command(text)) => text.clone(),
            Some(Raised::Text(text)) => [b"ERR ", &text[..]].concat(),
            Some(Raised::Halt) | None => format!("ERR {}", errors::message(error)).into_bytes(),
        },
        other => [b"ERR ", &sandbox::text(other)[..]].concat(),
    };
    let lacked_memory = text.ends_with(errors::NO_MEMORY.as_bytes());
    if let Some((source, line)) = noted {
        text.extend_from_slice(format!(" script: {}, on ", run.title()).as_bytes());
        text.extend_from_slice(&source);
        text.extend_from_slice(format!(":{line}.").as_bytes());
    }
    Ok(Failure { text, lacked_memory })
}

/// The error reply for an error outside the script: before it began, or in its result.
fn outside(run: Runnable<'_>, error: &mlua::Error) -> String {
    match errors::raised(error) {
        Some(raised) => raised.to_string(),
        None => format!("ERR Error running script {}, {}", run.title(), errors::message(error)),
    }
}

/// The host of a library that is being loaded, which may call no commands.
struct Loading {
    started: Instant,
}

impl Host for Loading {
    fn call(&mut self, _: Request<'_>, reply: &mut Reply, _: bool) -> Result<Course, Halt> {
        reply.error("ERR redis.call/pcall can only be called inside a script invocation");
        Ok(Course::On)
    }

    fn weigh(&mut self, _: usize) -> Result<(), Halt> {
        self.tick(0)
    }

    fn outgrow(&mut self) -> Result<(), Halt> {
        Ok(())
    }

    fn tick(&mut self, _: usize) -> Result<(), Halt> {
        if self.started.elapsed() > LOADING_TIME { Err(Halt) } else { Ok(()) }
    }

    fn is_final(&self) -> bool {
        false
    }

    fn allows(&mut self, _: Request<'_>) -> Option<bool> {
        Some(false)
    }

    fn log(&mut self, _: i64, _: &[u8]) {}
}
