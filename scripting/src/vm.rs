//! The virtual machine of a thread.
//!
//! 1. The thread's first script makes it: libraries, sandbox, and the functions of `redis` ([`crate::sandbox`]).
//! 2. A script is compiled once for each thread and kept by its hash, up to a bound.
//! 3. A run sets the memory limit and lends the [`Host`] to the functions of `redis`, then calls the script below
//!    `xpcall`. So whatever the script does, the run comes back here.
//! 4. The result is written as a reply, or the error as Redis words it.
//!
//! A script that must not be interrupted runs without a hook: its host knows that it ends soon. All others ask the host
//! every [`TICK_STEPS`] steps.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dormouse_protocol::{Reply, Request, Span, Version};
use mlua::{Function, HookTriggers, Lua, LuaString, Table, Value, Variadic, VmState};
use rapidhash::RapidHashMap;

use crate::convert::{self, Names};
use crate::errors::{self, Raised};
use crate::json::Settings;
use crate::random::Random;
use crate::sandbox::Invoker;
use crate::script::{Library, Script, ScriptFlags, Sha};
use crate::{Halt, Host, sandbox};

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

/// Keys and arguments of a function that are passed on the stack.
const FEW_WORDS: usize = 16;

/// Bytes of a buffer that is kept for the next run.
const KEPT_BYTES_MAX: usize = 4 << 10;

/// Garbage that a run may leave; more is collected at once.
const LEFT_BYTES_MAX: usize = 4 << 20;

/// The bounds of a library that registers its functions.
const LOADING: RunLimits =
    RunLimits { memory_bytes: 16 << 20, first_memory_bytes: 16 << 20, ticks: true, values: 1 << 20, chance: 0 };
const LOADING_TIME: Duration = Duration::from_millis(500);

/// Memory for compiling, in bytes for each byte of text, and at least.
const COMPILE_FACTOR: usize = 64;
const COMPILE_BYTES: usize = 1 << 20;

scoped_tls_hkt::scoped_thread_local!(
    /// The surroundings that the running script reaches.
    pub(crate) static mut HOST: for<'a> &'a mut (dyn Host + 'a)
);

thread_local! {
    static VM: RefCell<Option<Vm>> = const { RefCell::new(None) };
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
    /// The version of the replies to `redis.call`.
    pub(crate) version: Cell<Version>,
    pub(crate) random: Random,
    pub(crate) json: RefCell<Settings>,
    pub(crate) scratch: RefCell<Scratch>,
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
    names: Rc<Names>,
    /// The globals of scripts, behind the table that they cannot write.
    globals: Table,
    /// The metatable of that table.
    shown: Table,
    /// The globals of a library while it is loaded.
    loading: Table,
    xpcall: Function,
    invoker: Invoker,
    handler: Function,
    scripts: RapidHashMap<Sha, Function>,
    libraries: RapidHashMap<Sha, RapidHashMap<Box<str>, Function>>,
    compiled_bytes: usize,
    hooked: bool,
    /// Whether the run has the globals `KEYS` and `ARGV`.
    has_globals: bool,
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
) -> Result<(), Halt> {
    with(|vm| {
        let start = reply.len();
        let function = match vm.prepare(run) {
            Ok(function) => function,
            Err(problem) => {
                reply.error(&problem);
                return Ok(());
            }
        };
        vm.begin(limits, reply);
        let outcome = HOST.set(host, || {
            let outcome = vm.call(run, function, keys, arguments, reply);
            if vm.state.is_first.get() && vm.ran_out_of_memory(&outcome) && HOST.with(|host| host.outgrow()).is_err() {
                vm.state.halted.set(true);
            }
            outcome.map(drop)
        });
        vm.end();
        if vm.state.halted.get() {
            reply.truncate(start);
            return Err(Halt);
        }
        if let Err(error) = outcome {
            reply.truncate(start);
            reply.error(&vm.outside(run, &error));
        }
        Ok(())
    })
}

/// Lends the virtual machine of this thread.
fn with<T>(work: impl FnOnce(&mut Vm) -> T) -> T {
    // Taken out, so that a script that is run by a script, which no command does, would get one of its own.
    let mut vm = VM.take().unwrap_or_else(|| Vm::new().expect("a virtual machine needs a few hundred kilobytes"));
    let done = work(&mut vm);
    VM.set(Some(vm));
    done
}

impl Vm {
    fn new() -> mlua::Result<Self> {
        let state = Rc::new(State::default());
        let sandbox::Sandbox { lua, names, globals, shown, loading, xpcall, invoker, handler } = sandbox::new(&state)?;
        Ok(Self {
            lua,
            state,
            names,
            globals,
            shown,
            loading,
            xpcall,
            invoker,
            handler,
            scripts: RapidHashMap::default(),
            libraries: RapidHashMap::default(),
            compiled_bytes: 0,
            hooked: false,
            has_globals: false,
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

    fn limit_memory(&self) -> mlua::Result<()> {
        let bytes = if self.state.is_first.get() { &self.state.first_memory_bytes } else { &self.state.memory_bytes };
        self.lua.set_memory_limit(self.state.base_bytes.get() + bytes.get()).map(drop)
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
        // No script may find another one's data.
        if std::mem::take(&mut self.has_globals) {
            for name in [&self.names.keys, &self.names.argv] {
                self.globals.raw_set(name, Value::Nil).expect("a field that exists is cleared without memory");
            }
        }
        if self.lua.used_memory() > self.state.base_bytes.get() + LEFT_BYTES_MAX {
            // What fails here fails again in the next run, which then reports it.
            drop(self.lua.gc_collect());
        }
    }

    fn call<'a>(
        &mut self,
        run: Runnable<'_>,
        function: Function,
        keys: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        arguments: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        reply: &mut Reply,
    ) -> mlua::Result<Option<Value>> {
        // While memory has a limit, each allocation from outside needs a frame of its own that catches errors.
        let bytes: usize = keys.clone().chain(arguments.clone()).map(|word| word.len() + WORD_BYTES).sum();
        if bytes > UNLIMITED_BYTES_MAX {
            self.limit_memory()?;
        }
        let is_short = keys.len() + arguments.len() <= FEW_WORDS;
        let (ok, value): (bool, Value) = match run {
            Runnable::Script(_) => {
                let (keys, arguments) = (self.strings(keys)?, self.strings(arguments)?);
                self.has_globals = true;
                self.globals.raw_set(&self.names.keys, keys)?;
                self.globals.raw_set(&self.names.argv, arguments)?;
                self.limit_memory()?;
                self.xpcall.call((function, &self.handler))?
            }
            Runnable::Function(..) => match self.invoker.with_words.get(keys.len()).filter(|_| is_short) {
                Some(invoke) => {
                    let words = keys.chain(arguments).map(|word| self.lua.create_string(word));
                    let words: Variadic<LuaString> = words.collect::<mlua::Result<_>>()?;
                    self.limit_memory()?;
                    invoke.call((function, &self.handler, words))?
                }
                None => {
                    let (keys, arguments) = (self.strings(keys)?, self.strings(arguments)?);
                    self.limit_memory()?;
                    self.invoker.with_tables.call((function, &self.handler, keys, arguments))?
                }
            },
        };
        if self.state.halted.get() {
            return Err(Raised::Halt.into());
        }
        if HOST.with(|host| host.is_final()) {
            reply.defer(false);
        }
        if ok {
            return convert::to_reply(&self.state, &self.names, &value, reply).map(|()| None);
        }
        reply.error_bytes(&self.failure(run, &value)?);
        Ok(Some(value))
    }

    /// Whether a run that has ended like this needed more memory than it had.
    fn ran_out_of_memory(&self, outcome: &mlua::Result<Option<Value>>) -> bool {
        let is_it = |text: &[u8]| text.ends_with(errors::NO_MEMORY.as_bytes());
        match outcome {
            Ok(None) => false,
            Ok(Some(Value::String(text))) => is_it(&text.as_bytes()),
            Ok(Some(Value::Table(table))) => match table.raw_get(&self.names.err) {
                Ok(Value::String(text)) => is_it(&text.as_bytes()),
                _ => false,
            },
            Ok(Some(_)) => false,
            Err(error) => is_it(errors::message(error).as_bytes()),
        }
    }

    fn strings<'a>(&self, strings: impl ExactSizeIterator<Item = &'a [u8]>) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(strings.len(), 0)?;
        for (at, string) in strings.enumerate() {
            table.raw_seti(at + 1, self.lua.create_string(string)?)?;
        }
        Ok(table)
    }

    /// The error reply for the value that the error handler has left.
    fn failure(&self, run: Runnable<'_>, value: &Value) -> mlua::Result<Vec<u8>> {
        let Value::Table(table) = value else {
            let text = value.to_string().unwrap_or_else(|_| "execution failure".into());
            return Ok(format!("ERR Error running script {}, {text}", run.title()).into_bytes());
        };
        let mut message = match table.raw_get(&self.names.err)? {
            Value::String(text) => text.as_bytes().to_vec(),
            _ => b"ERR unknown error".to_vec(),
        };
        let (source, line) = (table.raw_get::<Value>("source")?, table.raw_get::<Value>("line")?);
        if let (Value::String(source), Some(line)) = (source, line.as_i64()) {
            message.extend_from_slice(format!(" script: {}, on ", run.title()).as_bytes());
            message.extend_from_slice(&source.as_bytes());
            message.extend_from_slice(format!(":{line}.").as_bytes());
        }
        Ok(message)
    }

    /// The error reply for an error outside the script: before it began, or in its result.
    fn outside(&self, run: Runnable<'_>, error: &mlua::Error) -> String {
        match errors::raised(error) {
            Some(raised) => raised.to_string(),
            None => format!("ERR Error running script {}, {}", run.title(), errors::message(error)),
        }
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
        self.limit_memory().map_err(|error| failed(errors::message(&error)))?;
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
                Value::Table(table) => match table.raw_get(&self.names.err) {
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

/// The host of a library that is being loaded, which may call no commands.
struct Loading {
    started: Instant,
}

impl Host for Loading {
    fn call(&mut self, _: Request<'_>, reply: &mut Reply) -> Result<(), Halt> {
        reply.error("ERR redis.call/pcall can only be called inside a script invocation");
        Ok(())
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
