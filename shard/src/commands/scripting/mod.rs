//! Scripts: `EVAL` and its kin, which run commands over the keyspace.
//!
//! A script runs as one command, under the locks of its plan, and leaves its effects in the plan's one entry. What it
//! needs is not known before, so:
//!
//! 1. *A plain script*, or function, is a straight line that names its commands and takes its keys from `KEYS` ([`is_plain`]). It needs
//!    the shards of these keys and no more. Each of its commands declares its cost before it runs, and none that may be
//!    long follows a write, so it runs on a worker: if it turns out to be long, or to need more memory than a short script,
//!    nothing has changed yet, and it runs again on the slow lane.
//! 2. Every other script takes all shards of its database, and may use any key. If it can be suspended, it begins on a worker
//!    as a *guest*: it has a turn there, goes on on the slow lane if that is not enough, and runs there from the start the
//!    next times. All others run on the slow lane.
//! 3. A place that is not in memory is loaded, and the script runs again from its start; after its first write it waits
//!    for the load under its locks instead.
//! 4. On the lane it is asked every thousand steps whether it may go on: it may be killed as long as it has not
//!    written, its memory is charged to its database, and its time is bounded ([`host`]).

pub mod host;

use std::any::Any;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use dormouse_protocol::{OwnedRequest, Reply, Request};
use dormouse_scripting::survey::{CallArgument, CallSite};
use dormouse_scripting::{Library, Script, ScriptEnd, ScriptFlags, Sha, vm};

use self::host::{Calls, Ended, KeptCalls};
use crate::commands::args::integer;
use crate::commands::row::Find;
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Row, Run, Straying, at_least};
use crate::error::{Error, Result};
use crate::keyspace::scripts::{KnownScript, TEXT_BYTES_MAX, Texts};
use crate::keyspace::tracking::TrackingMode;
use crate::keyspace::{Keyspace, Shared};

const ALL: Flags = Flags::NO_SCRIPT
    .union(Flags::STALE)
    .union(Flags::SKIP_MONITOR)
    .union(Flags::NO_MANDATORY_KEYS)
    .union(Flags::BY_KEY);
const RUNS: Flags = ALL.union(Flags::MAY_REPLICATE);
const READS: Flags = ALL.union(Flags::READ);

const UPDATED: Access = Access::RW.union(Access::ACCESS).union(Access::UPDATE);
const READ: Access = Access::RO.union(Access::ACCESS);

const KEYS: &[KeySpec] = &[KeySpec::counted(2, UPDATED)];
const KEYS_NOTED: &[KeySpec] = &[KeySpec::counted(2, UPDATED)
    .notes("We cannot tell how the keys will be used so we assume the worst, RW and UPDATE")];
const KEYS_READ: &[KeySpec] = &[KeySpec::counted(2, READ)];
const KEYS_READ_NOTED: &[KeySpec] =
    &[KeySpec::counted(2, READ)
        .notes("We cannot tell how the keys will be used so we assume the worst, RO and ACCESS")];

const COMPLEXITY: &str = "Depends on the script that is executed.";

pub(crate) const FAMILY: Family<Run> = Family {
    group: "scripting",
    category: Category::SCRIPTING,
    commands: &[
        Command::new("EVAL", at_least(3), KEYS_NOTED, RUNS, eval as Run)
            .doc("2.6.0", COMPLEXITY, "Executes a server-side Lua script.")
            .cost(eval_cost)
            .strays(straying_of_text)
            .reads(|_, request| reads(text_flags(request))),
        Command::new("EVALSHA", at_least(3), KEYS, RUNS, evalsha as Run)
            .doc("2.6.0", COMPLEXITY, "Executes a server-side Lua script by SHA1 digest.")
            .cost(evalsha_cost)
            .strays(straying_of_sha)
            .reads(|shared, request| reads(by_sha(shared, request).ok().and_then(|known| known.script.flags))),
        Command::new("EVAL_RO", at_least(3), KEYS_READ_NOTED, READS, eval_ro as Run)
            .doc("7.0.0", COMPLEXITY, "Executes a read-only server-side Lua script.")
            .cost(eval_cost)
            .strays(straying_of_text),
        Command::new("EVALSHA_RO", at_least(3), KEYS_READ, READS, evalsha_ro as Run)
            .doc("7.0.0", COMPLEXITY, "Executes a read-only server-side Lua script by SHA1 digest.")
            .cost(evalsha_cost)
            .strays(straying_of_sha),
        Command::new("FCALL", at_least(3), KEYS_NOTED, RUNS, fcall as Run)
            .doc("7.0.0", "Depends on the function that is executed.", "Invokes a function.")
            .cost(fcall_cost)
            .strays(fcall_strays)
            .reads(|shared, request| {
                reads(shared.functions.get().find(request.arg(1)).map(|(_, function, _)| function.flags))
            }),
        Command::new("FCALL_RO", at_least(3), KEYS_READ_NOTED, READS, fcall_ro as Run)
            .doc("7.0.0", "Depends on the function that is executed.", "Invokes a read-only function.")
            .cost(fcall_cost)
            .strays(fcall_strays),
    ],
};

/// About how much of a turn a plain script takes beside its commands.
const PLAIN_COST: usize = 16;

/// The same of a guest, which is charged for its steps and calls besides.
const GUEST_COST: usize = 64;

/// Bytes of a guest's request.
const GUEST_REQUEST_BYTES_MAX: usize = 12 << 10;

/// Calls of a plain script.
const PLAIN_CALLS_MAX: usize = 64;

/// Operations on texts after the first write of a plain script: from then on it cannot move to the lane, whatever its
/// texts have grown to.
const OPERATIONS_AFTER_WRITE_MAX: usize = 32;

const TOO_MUCH: Error = Error::text("OOM the scripts of this database take too much memory: SCRIPT FLUSH makes room");

/// Bytes of the text of a script.
const SCRIPT_BYTES_MAX: usize = 4 << 20;

/// `EVAL script numkeys [key ...] [arg ...]`
fn eval(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let keys = numkeys(request)?;
    let known = by_text(request.arg(1))?;
    learn(db.shared(), &known)?;
    run_script(db, reply, request, &known, keys, false)
}

/// `EVALSHA sha1 numkeys [key ...] [arg ...]`
fn evalsha(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let known = by_sha(db.shared(), request)?;
    run_script(db, reply, request, &known, numkeys(request)?, false)
}

/// `EVAL_RO script numkeys [key ...] [arg ...]`
fn eval_ro(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let keys = numkeys(request)?;
    let known = by_text(request.arg(1))?;
    learn(db.shared(), &known)?;
    run_script(db, reply, request, &known, keys, true)
}

/// `EVALSHA_RO sha1 numkeys [key ...] [arg ...]`
fn evalsha_ro(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let known = by_sha(db.shared(), request)?;
    run_script(db, reply, request, &known, numkeys(request)?, true)
}

/// `FCALL function numkeys [key ...] [arg ...]`
fn fcall(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    call_function(db, reply, request, false)
}

/// `FCALL_RO function numkeys [key ...] [arg ...]`
fn fcall_ro(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    call_function(db, reply, request, true)
}

fn call_function(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>, reads_only: bool) -> Result<()> {
    let libraries = db.shared().functions.get();
    let (library, function, is_plain) = libraries.find(request.arg(1)).ok_or(Error::text("ERR Function not found"))?;
    let keys = match integer(request.arg(2)) {
        Ok(_) => numkeys(request)?,
        Err(_) => return Err(Error::text("ERR Bad number of keys provided")),
    };
    if reads_only && !function.flags.no_writes {
        return Err(Error::text("ERR Can not execute a script with write flag using *_ro command."));
    }
    let code = Code {
        run: vm::Runnable::Function(&library.library, &function.name),
        flags: Some(function.flags),
        is_plain,
        source: Source::Function(&library.library, &function.name),
    };
    run(db, reply, request, &code, keys, reads_only)
}

/// Makes a script known to a database; returns its hash.
///
/// # Errors
/// When it is no script, or does not fit.
pub fn load(shared: &Shared, text: &[u8]) -> Result<Sha> {
    let known = by_text(text)?;
    vm::check(&known.script).map_err(|text| Error::Text(text.into()))?;
    if !shared.scripts.learn(&known, true, &shared.used) {
        return Err(TOO_MUCH);
    }
    Ok(known.script.sha)
}

fn numkeys(request: Request<'_>) -> Result<usize> {
    let keys = integer(request.arg(2))?;
    match usize::try_from(keys) {
        Ok(keys) if keys > request.len() - 3 => Err(Error::NumkeysTooLarge),
        Ok(keys) => Ok(keys),
        Err(_) => Err(Error::text("ERR Number of keys can't be negative")),
    }
}

thread_local! {
    static TEXTS: RefCell<Texts> = RefCell::default();
}

/// The script with this text.
fn by_text(text: &[u8]) -> Result<Arc<KnownScript>> {
    if text.len() > SCRIPT_BYTES_MAX {
        return Err(Error::text("ERR the script is too long: it may have 4mb"));
    }
    if let Some(known) = TEXTS.with_borrow_mut(|texts| texts.get(text)) {
        return Ok(known);
    }
    let script = Script::new(text).map_err(|problem| Error::Text(problem.into()))?;
    let is_plain = is_plain(&script);
    let known = Arc::new(KnownScript::new(script, is_plain));
    TEXTS.with_borrow_mut(|texts| texts.keep(&known));
    Ok(known)
}

fn by_sha(shared: &Shared, request: Request<'_>) -> Result<Arc<KnownScript>> {
    let known = Sha::parse(request.arg(1)).and_then(|sha| shared.scripts.get(sha));
    known.ok_or(Error::text("NOSCRIPT No matching script. Please use EVAL."))
}

fn eval_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    units(db, straying_of_text(db.shared(), request))
}

fn evalsha_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    units(db, straying_of_sha(db.shared(), request))
}

fn fcall_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    units(db, fcall_strays(db.shared(), request))
}

/// The estimate for a script. A guest of a client that tracks keys could not tell that client of its own changes.
fn units(db: &Keyspace<'_>, straying: Straying) -> usize {
    match straying {
        Straying::Never => PLAIN_COST,
        Straying::AsGuest if db.tracker().mode == TrackingMode::Off => GUEST_COST,
        Straying::AsGuest | Straying::OnLane => usize::MAX,
    }
}

fn fcall_strays(shared: &Shared, request: Request<'_>) -> Straying {
    if shared.functions.get().is_plain(request.arg(1)) { Straying::Never } else { Straying::OnLane }
}

/// A request that is refused counts as plain: it is over at once.
fn straying_of_text(shared: &Shared, request: Request<'_>) -> Straying {
    let text = request.arg(1);
    if text.len() > TEXT_BYTES_MAX {
        return Straying::OnLane;
    }
    by_text(text).map_or(Straying::Never, |known| straying(shared, &known, request))
}

fn straying_of_sha(shared: &Shared, request: Request<'_>) -> Straying {
    by_sha(shared, request).map_or(Straying::Never, |known| straying(shared, &known, request))
}

fn straying(shared: &Shared, known: &KnownScript, request: Request<'_>) -> Straying {
    if known.is_plain {
        return Straying::Never;
    }
    // Its words are copied by each of its operations on them.
    let is_short = request.bytes() - request.arg(1).len() <= GUEST_REQUEST_BYTES_MAX;
    if known.may_be_guest() && is_short && shared.scripts.takes_guests() { Straying::AsGuest } else { Straying::OnLane }
}

/// The flags of a script that is short enough to be read at once.
fn text_flags(request: Request<'_>) -> Option<ScriptFlags> {
    let text = Some(request.arg(1)).filter(|text| text.len() <= TEXT_BYTES_MAX)?;
    by_text(text).ok().and_then(|known| known.script.flags)
}

/// Whether something with these flags cannot write.
fn reads(flags: Option<ScriptFlags>) -> bool {
    flags.is_some_and(|flags| flags.no_writes)
}

/// Whether a script is a straight line over declared keys whose commands may all run on a worker: none of them looks for
/// keys by itself, and none that may be long follows a write.
fn is_plain(script: &Script) -> bool {
    script.calls.as_deref().is_some_and(are_plain)
}

/// Whether a straight line with these calls is [plain](is_plain).
pub fn are_plain(calls: &[CallSite]) -> bool {
    let mut has_written = false;
    calls.len() <= PLAIN_CALLS_MAX
        && calls.iter().all(|call| {
            let words: Vec<&[u8]> = call
                .arguments
                .iter()
                .map(|argument| match argument {
                    CallArgument::Literal(text) => &text[..],
                    CallArgument::Key | CallArgument::Other => b"",
                })
                .collect();
            let request = OwnedRequest::from_args(&words);
            let request = request.as_request();
            // Others are unknown here, or concern the session.
            let Some((row, _)) = super::find(request) else { return false };
            let is_long = row.cost.is_some() && has_written;
            has_written |= row.flags.contains(Flags::WRITE);
            let goes_on = has_written && call.operations_after > OPERATIONS_AFTER_WRITE_MAX;
            !is_long
                && !goes_on
                && !row.flags.intersects(FINDS_KEYS)
                && row.elsewhere.is_none()
                && row.strays.is_none()
                && names_keys(row, request, &call.arguments)
        })
}

/// Flags of commands that need more than the keys that they name.
const FINDS_KEYS: Flags = Flags::WHOLE
    .union(Flags::SLOW_LANE)
    .union(Flags::BY_CURSOR)
    .union(Flags::ALL_RESIDENT)
    .union(Flags::BLOCKING)
    .union(Flags::NO_SCRIPT);

/// Whether all keys of a call are from `KEYS`, as its text says.
fn names_keys(row: &Row, request: Request<'_>, arguments: &[CallArgument]) -> bool {
    let is_fixed = row.keys.iter().all(|spec| matches!(spec.find, Find::Range { .. }));
    let is_literal = || arguments.iter().all(|argument| *argument != CallArgument::Other);
    (is_fixed || is_literal()) && row.key_indexes(request).all(|key| arguments[key] == CallArgument::Key)
}

/// Something to run.
struct Code<'a> {
    run: vm::Runnable<'a>,
    flags: Option<ScriptFlags>,
    is_plain: bool,
    source: Source<'a>,
}

/// The owner of its text, which is kept while it is suspended.
enum Source<'a> {
    Script(&'a Arc<KnownScript>),
    Function(&'a Arc<Library>, &'a str),
}

/// A script that has been suspended in the middle of its run.
struct SuspendedScript {
    machine: vm::Suspended,
    calls: KeptCalls,
    source: OwnedSource,
}

enum OwnedSource {
    Script(Arc<KnownScript>),
    Function(Arc<Library>, Box<str>),
}

/// Makes a script known that is run by its text.
fn learn(shared: &Shared, known: &Arc<KnownScript>) -> Result<()> {
    // One that does not fit is not found by its hash later, but may run.
    if shared.scripts.learn(known, false, &shared.used) || known.is_plain { Ok(()) } else { Err(TOO_MUCH) }
}

fn run_script(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    request: Request<'_>,
    known: &Arc<KnownScript>,
    keys: usize,
    reads_only: bool,
) -> Result<()> {
    let KnownScript { script, is_plain, .. } = &**known;
    let flags = script.flags;
    let (run_as, source) = (vm::Runnable::Script(script), Source::Script(known));
    let code = Code { run: run_as, flags, is_plain: *is_plain, source };
    if reads_only && flags.is_some_and(|flags| !flags.no_writes) {
        return Err(Error::text("ERR Can not execute a script with write flag using *_ro command."));
    }
    run(db, reply, request, &code, keys, reads_only)
}

fn run(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    request: Request<'_>,
    code: &Code<'_>,
    keys: usize,
    reads_only: bool,
) -> Result<()> {
    if let Some(flags) = code.flags.filter(|_| !reads_only) {
        check_flags(db, flags)?;
    }
    let reads_only = reads_only || code.flags.is_some_and(|flags| flags.no_writes);
    let mut calls = Calls::new(db, reply, request, code.run, code.is_plain);
    calls.restrict(reads_only, code.flags.is_some_and(|flags| flags.allow_oom));
    let limits = calls.limits();
    let words = |range: Range<usize>| range.map(move |at| request.arg(at));
    let ran = vm::run(code.run, words(3..3 + keys), words(3 + keys..request.len()), limits, &mut calls, reply);
    let spent = calls.spent();
    let ran = match ran {
        Ok(ScriptEnd::Suspended(machine)) => {
            let source = code.source.to_owned();
            if let Source::Script(known) = code.source
                && calls.was_long()
            {
                known.note_long();
            }
            let calls = calls.keep().ok_or(Error::text("ERR the script could not be suspended"))?;
            db.note_spent(spent);
            db.suspend(Box::new(SuspendedScript { machine, calls, source }));
            return Ok(());
        }
        Ok(ScriptEnd::Done) => true,
        Err(_) => false,
    };
    let ended = calls.end();
    if matches!(ended, Some(Ended::Long | Ended::Unsuspendable))
        && let Source::Script(known) = code.source
    {
        known.note_long();
    }
    db.note_spent(spent);
    finish(db, reply, if ran { None } else { ended }, code.run)
}

/// Lets a suspended script go on to its end, and writes its reply.
///
/// # Errors
/// As the command that has begun it.
pub fn go_on(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    request: Request<'_>,
    suspended: Box<dyn Any + Send>,
) -> Result<()> {
    let suspended = suspended.downcast().map_err(|_| Error::text("ERR no script is suspended"))?;
    let SuspendedScript { machine, calls, source } = *suspended;
    let run = match &source {
        OwnedSource::Script(known) => vm::Runnable::Script(&known.script),
        OwnedSource::Function(library, name) => vm::Runnable::Function(library, name),
    };
    let mut calls = Calls::again(db, reply, request, run, calls);
    let limits = calls.limits();
    let ran = vm::go_on(machine, run, limits, &mut calls, reply);
    let ended = calls.end();
    finish(db, reply, if ran.is_err() { ended } else { None }, run)
}

impl Source<'_> {
    fn to_owned(&self) -> OwnedSource {
        match *self {
            Self::Script(known) => OwnedSource::Script(Arc::clone(known)),
            Self::Function(library, name) => OwnedSource::Function(Arc::clone(library), name.into()),
        }
    }
}

/// Refuses a script that may write where nothing may be written.
fn check_flags(db: &Keyspace<'_>, flags: ScriptFlags) -> Result<()> {
    if flags.no_writes {
        return Ok(());
    }
    db.shared().admit_client()?;
    if !flags.allow_oom && db.shared().is_full() {
        return Err(Error::text(
            "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
        ));
    }
    Ok(())
}

/// Answers for a script that was ended.
fn finish(db: &mut Keyspace<'_>, reply: &mut Reply, ended: Option<Ended>, run: vm::Runnable<'_>) -> Result<()> {
    // Its commands have recorded their own effects.
    db.begin(true, false);
    let title = || run.title();
    let text = match ended {
        None => return Ok(()),
        Some(Ended::Fault(fault)) => {
            db.fault_at(fault);
            return Ok(());
        }
        Some(Ended::Long) => {
            reply.defer_now();
            return Ok(());
        }
        Some(Ended::Unsuspendable) => {
            format!(
                "ERR Script ended: it took too long inside a function that cannot be suspended. script: {}",
                title()
            )
        }
        Some(Ended::Abandoned) => {
            format!("ERR Script ended since its client is gone, or the server ends. script: {}", title())
        }
        Some(Ended::Killed) => format!("ERR Script killed by user with SCRIPT KILL. script: {}", title()),
        Some(Ended::TimedOut) => {
            format!(
                "ERR Script ended after {} seconds, the longest time that one may take. script: {}",
                host::TIME_MS_MAX / 1000,
                title()
            )
        }
        Some(Ended::OutOfMemory(limit)) => {
            format!("OOM the script needs too much memory: it would exceed '{limit}'. script: {}", title())
        }
        Some(Ended::Store(error)) => error.to_string(),
    };
    Err(Error::Text(text.into()))
}

#[cfg(test)]
mod tests;
