//! `FUNCTION`: the libraries of functions of a database.

use std::sync::Arc;

use dormouse_protocol::glob::Glob;
use dormouse_protocol::{Reply, Request};
use dormouse_scripting::Library;
use dormouse_shard::commands::args::{Args, Argument, parse};
use dormouse_shard::commands::scripting::are_plain;
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result, repeated};
use dormouse_shard::keyspace::functions::{Libraries, LoadedLibrary};
use dormouse_storage::codec::dump::RDB_VERSION;
use dormouse_storage::codec::functions::{dump_functions, read_functions};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;

use crate::commands::scripting::end_running;
use crate::commands::{answer, help, now};
use crate::databases::Tenant;
use crate::session::Session;
use crate::table::{Answer, SessionRun};

const BASE: Flags = Flags::NO_SCRIPT;
const WRITE: Flags = BASE.union(Flags::WRITE);
const ALL_SHARDS: &[&str] = &["request_policy:all_shards", "response_policy:all_succeeded"];

pub const FAMILY: Family<SessionRun> = Family {
    group: "scripting",
    category: Category::empty(),
    commands: &[Command::container("FUNCTION", FUNCTION).doc(
        "7.0.0",
        "Depends on subcommand.",
        "A container for function commands.",
    )],
};

const FUNCTION: &[Command<SessionRun>] = &[
    Command::new("DELETE", exactly(3), &[], WRITE, SessionRun::Either(not_queued, delete))
        .doc("7.0.0", "O(1)", "Deletes a library and its functions.")
        .tips(ALL_SHARDS)
        .also(Category::SCRIPTING),
    Command::new("DUMP", exactly(2), &[], BASE, now!(dump, 2))
        .doc(
            "7.0.0",
            "O(N) where N is the number of functions",
            "Dumps all libraries into a serialized binary payload.",
        )
        .also(Category::SCRIPTING),
    Command::new("FLUSH", at_least(2), &[], WRITE, SessionRun::Either(not_queued, flush))
        .doc("7.0.0", "O(N) where N is the number of functions deleted", "Deletes all libraries and functions.")
        .tips(ALL_SHARDS)
        .also(Category::SCRIPTING),
    Command::new("HELP", exactly(2), &[], Flags::LOADING.union(Flags::STALE), now!(show_help, 2))
        .doc("7.0.0", "O(1)", "Returns helpful text about the different subcommands.")
        .also(Category::SCRIPTING),
    Command::new("KILL", exactly(2), &[], BASE.union(Flags::ALLOW_BUSY), now!(kill, 2))
        .doc("7.0.0", "O(1)", "Terminates a function during execution.")
        .tips(&["request_policy:all_shards", "response_policy:one_succeeded"])
        .also(Category::SCRIPTING),
    Command::new("LIST", at_least(2), &[], BASE, SessionRun::Either(list_now, list))
        .doc("7.0.0", "O(N) where N is the number of functions", "Returns information about all libraries.")
        .tips(&["nondeterministic_output_order"])
        .also(Category::SCRIPTING),
    Command::new("LOAD", at_least(3), &[], WRITE.union(Flags::DENY_OOM), SessionRun::Either(not_queued, load))
        .doc("7.0.0", "O(1) (considering compilation time is redundant)", "Creates a library.")
        .tips(ALL_SHARDS)
        .also(Category::SCRIPTING),
    Command::new("RESTORE", at_least(3), &[], WRITE.union(Flags::DENY_OOM), SessionRun::Either(not_queued, restore))
        .doc(
            "7.0.0",
            "O(N) where N is the number of functions on the payload",
            "Restores all libraries from a payload.",
        )
        .tips(ALL_SHARDS)
        .also(Category::SCRIPTING),
    Command::new("STATS", exactly(2), &[], BASE.union(Flags::ALLOW_BUSY), now!(stats, 2))
        .doc("7.0.0", "O(1)", "Returns information about a function during execution.")
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .also(Category::SCRIPTING),
];

/// Changes of libraries wait for the store, which a transaction cannot.
fn not_queued(_: &mut Session, _: &mut Reply, _: Request<'_>) -> Result<()> {
    Err(Error::text("ERR functions cannot be changed inside a transaction"))
}

/// Waits until the libraries have been loaded, and `more` of them, on the slow lane: their texts are run.
async fn loaded(tenant: &Arc<Tenant>, more: Vec<Arc<LoadedLibrary>>) -> Result<()> {
    let (sender, receiver) = oneshot::channel();
    let libraries = tenant.database.shared.functions.get();
    tenant.database.on_lane(
        Vec::new(),
        || true,
        move |_| {
            // A library that is kept and cannot be loaded has no functions.
            libraries.by_name.values().for_each(|library| drop(library.functions()));
            let loaded = more.iter().try_for_each(|library| library.functions().map(drop));
            // The client may be gone.
            let _ = sender.send(loaded);
        },
    )?;
    receiver.await.map_err(|_| Error::text("ERR the command failed; the server's log says how"))?
}

/// `FUNCTION LOAD [REPLACE] code`
fn load(session: &mut Session, request: Request<'_>) -> Result<BoxFuture<'static, Answer>> {
    let mut args = Args::new(request, 2);
    let mut replace = false;
    refuse_when_full(session)?;
    while args.len() > 1 {
        let option: &[u8] = Argument::take(&mut args)?;
        if !option.eq_ignore_ascii_case(b"replace") {
            return Err(Error::Text(format!("ERR Unknown option given: {}", String::from_utf8_lossy(option)).into()));
        }
        replace = true;
    }
    let text: &[u8] = Argument::take(&mut args).map_err(|_| Error::text("ERR Function code is missing"))?;
    let library = Library::new(text).map_err(|problem| Error::Text(problem.into()))?;
    let (name, library) = (library.name.clone(), Arc::new(LoadedLibrary::new(library, are_plain)));
    let tenant = Arc::clone(&session.tenant);
    let change = async move {
        loaded(&tenant, vec![Arc::clone(&library)]).await?;
        tenant.database.change_functions(move |libraries| libraries.add(library, replace, false)).await
    };
    Ok(change.map(move |done| answer(done, move |(), reply| reply.bulk(name.as_bytes()))).boxed())
}

/// `FUNCTION DELETE library`
fn delete(session: &mut Session, request: Request<'_>) -> Result<BoxFuture<'static, Answer>> {
    let (name,): (&[u8],) = parse(request, 2)?;
    let name = String::from_utf8_lossy(name).into_owned();
    change(session, move |libraries| match libraries.by_name.remove(&*name) {
        Some(_) => Ok(()),
        None => Err(Error::text("ERR Library not found")),
    })
}

/// `FUNCTION FLUSH [ASYNC | SYNC]`
fn flush(session: &mut Session, request: Request<'_>) -> Result<BoxFuture<'static, Answer>> {
    let mut args = Args::new(request, 2);
    let is_manner = args.is_empty() || args.word("ASYNC") || args.word("SYNC");
    if !args.is_empty() && (is_manner || args.len() > 1) {
        return Err(wrong_subcommand(request));
    }
    if !is_manner {
        return Err(Error::text("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"));
    }
    change(session, |libraries| {
        libraries.by_name.clear();
        Ok(())
    })
}

/// Libraries are no data, but a database that is full takes none, as in Redis.
fn refuse_when_full(session: &Session) -> Result<()> {
    if session.tenant.database.shared.is_full() { Err(Error::OutOfMemory) } else { Ok(()) }
}

/// The error of a subcommand with too many arguments.
fn wrong_subcommand(request: Request<'_>) -> Error {
    let name = repeated(request.arg(1));
    let text = format!("ERR unknown subcommand or wrong number of arguments for '{name}'. Try FUNCTION HELP.");
    Error::Text(text.into())
}

/// Changes the libraries and answers `OK`.
fn change(
    session: &Session,
    change: impl FnOnce(&mut Libraries) -> Result<()> + Send + 'static,
) -> Result<BoxFuture<'static, Answer>> {
    let tenant = Arc::clone(&session.tenant);
    let done = async move { tenant.database.change_functions(change).await };
    Ok(done.map(|done| answer(done, |(), reply| reply.ok())).boxed())
}

/// The treatment of existing libraries by `FUNCTION RESTORE`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Flush,
    Append,
    Replace,
}

/// `FUNCTION RESTORE payload [FLUSH | APPEND | REPLACE]`
fn restore(session: &mut Session, request: Request<'_>) -> Result<BoxFuture<'static, Answer>> {
    let mut args = Args::new(request, 2);
    let payload: &[u8] = Argument::take(&mut args)?;
    refuse_when_full(session)?;
    if args.len() > 1 {
        return Err(wrong_subcommand(request));
    }
    let policy = match () {
        () if args.is_empty() || args.word("APPEND") => Policy::Append,
        () if args.word("REPLACE") => Policy::Replace,
        () if args.word("FLUSH") => Policy::Flush,
        () => {
            return Err(Error::text(
                "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
            ));
        }
    };
    let texts = read_functions(payload).ok_or(Error::text("ERR DUMP payload version or checksum are wrong"))?;
    let read = |text: &Vec<u8>| Library::new(text).map(|library| Arc::new(LoadedLibrary::new(library, are_plain)));
    let libraries: Vec<_> =
        texts.iter().map(read).collect::<Result<_, _>>().map_err(|problem| Error::Text(problem.into()))?;
    let tenant = Arc::clone(&session.tenant);
    let done = async move {
        loaded(&tenant, libraries.clone()).await?;
        let restore = move |all: &mut Libraries| {
            if policy == Policy::Flush {
                all.by_name.clear();
            }
            libraries.into_iter().try_for_each(|library| all.add(library, policy == Policy::Replace, true))
        };
        tenant.database.change_functions(restore).await
    };
    Ok(done.map(|done| answer(done, |(), reply| reply.ok())).boxed())
}

/// `FUNCTION DUMP`
fn dump(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let libraries = session.tenant.database.shared.functions.get();
    let texts = libraries.by_name.values().map(|library| &*library.library.text);
    reply.bulk(&dump_functions(RDB_VERSION, texts));
    Ok(())
}

/// `FUNCTION LIST [LIBRARYNAME pattern] [WITHCODE]`
#[derive(Default)]
struct Listed {
    pattern: Option<Vec<u8>>,
    with_code: bool,
}

impl Listed {
    fn read(request: Request<'_>) -> Result<Self> {
        let mut args = Args::new(request, 2);
        let mut listed = Self::default();
        while !args.is_empty() {
            if !listed.with_code && args.word("WITHCODE") {
                listed.with_code = true;
            } else if listed.pattern.is_none() && args.word("LIBRARYNAME") {
                let pattern: &[u8] =
                    Argument::take(&mut args).map_err(|_| Error::text("ERR library name argument was not given"))?;
                listed.pattern = Some(pattern.to_vec());
            } else {
                let word: &[u8] = Argument::take(&mut args)?;
                return Err(Error::Text(format!("ERR Unknown argument {}", String::from_utf8_lossy(word)).into()));
            }
        }
        Ok(listed)
    }

    fn write(&self, libraries: &Libraries, reply: &mut Reply) -> Result<()> {
        let glob = self.pattern.as_deref().map(Glob::new).transpose()?;
        let matches = |name: &str| glob.as_ref().is_none_or(|glob| glob.matches(name.as_bytes()));
        let listed: Vec<_> = libraries.by_name.values().filter(|library| matches(&library.library.name)).collect();
        reply.array(listed.len());
        for library in listed {
            reply.map(3 + usize::from(self.with_code));
            reply.bulk(b"library_name");
            reply.bulk(library.library.name.as_bytes());
            reply.bulk(b"engine");
            reply.bulk(b"LUA");
            reply.bulk(b"functions");
            let functions = library.functions().unwrap_or_default();
            reply.array(functions.len());
            for function in functions {
                reply.map(3);
                reply.bulk(b"name");
                reply.bulk(function.name.as_bytes());
                reply.bulk(b"description");
                match &function.description {
                    Some(description) => reply.bulk(description.as_bytes()),
                    None => reply.null(),
                }
                reply.bulk(b"flags");
                reply.set(function.flags.names().count());
                function.flags.names().for_each(|name| reply.simple(name));
            }
            if self.with_code {
                reply.bulk(b"library_code");
                reply.bulk(&library.library.text);
            }
        }
        Ok(())
    }
}

fn list_now(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    Listed::read(request)?.write(&session.tenant.database.shared.functions.get(), reply)
}

fn list(session: &mut Session, request: Request<'_>) -> Result<BoxFuture<'static, Answer>> {
    let listed = Listed::read(request)?;
    let tenant = Arc::clone(&session.tenant);
    Ok(async move {
        let done = loaded(&tenant, Vec::new()).await;
        answer(done, move |(), reply| {
            let start = reply.len();
            if let Err(error) = listed.write(&tenant.database.shared.functions.get(), reply) {
                reply.truncate(start);
                reply.error(&error.to_string());
            }
        })
    }
    .boxed())
}

/// `FUNCTION STATS`
fn stats(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let shared = &session.tenant.database.shared;
    let libraries = shared.functions.get();
    reply.map(2);
    reply.bulk(b"running_script");
    match shared.scripts.running() {
        Some(running) => {
            reply.map(3);
            reply.bulk(b"name");
            reply.bulk(running.title.as_bytes());
            reply.bulk(b"command");
            reply.array(running.request.len());
            running.request.iter().for_each(|word| reply.bulk(word));
            reply.bulk(b"duration_ms");
            reply.integer(running.elapsed_ms() as i64);
        }
        None => reply.null(),
    }
    reply.bulk(b"engines");
    reply.map(1);
    reply.bulk(b"LUA");
    reply.map(2);
    reply.bulk(b"libraries_count");
    reply.integer(libraries.by_name.len() as i64);
    reply.bulk(b"functions_count");
    let functions = libraries.by_name.values().map(|library| library.functions().map_or(0, <[_]>::len));
    reply.integer(functions.sum::<usize>() as i64);
    Ok(())
}

/// `FUNCTION KILL`
fn kill(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    end_running(session, true)?;
    reply.ok();
    Ok(())
}

/// `FUNCTION HELP`
fn show_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "FUNCTION",
        &[
            "LOAD [REPLACE] <FUNCTION CODE>",
            "    Create a new library with the given library name and code.",
            "DELETE <LIBRARY NAME>",
            "    Delete the given library.",
            "LIST [LIBRARYNAME PATTERN] [WITHCODE]",
            "    Return general information on all the libraries:",
            "    * Library name",
            "    * The engine used to run the Library",
            "    * Functions list",
            "    * Library code (if WITHCODE is given)",
            "    It also possible to get only function that matches a pattern using LIBRARYNAME argument.",
            "STATS",
            "    Return information about the current function running:",
            "    * Function name",
            "    * Command used to run the function",
            "    * Duration in MS that the function is running",
            "    If no function is running, return nil",
            "    In addition, returns a list of available engines.",
            "KILL",
            "    Kill the current running function.",
            "FLUSH [ASYNC|SYNC]",
            "    Delete all the libraries.",
            "DUMP",
            "    Return a serialized payload representing the current libraries, can be restored using FUNCTION RESTORE command",
            "RESTORE <PAYLOAD> [FLUSH|APPEND|REPLACE]",
            "    Restore the libraries represented by the given payload.",
        ],
    );
    Ok(())
}
