//! `SCRIPT`: the known scripts of a database, and the one that runs.

use dormouse_protocol::Reply;
use dormouse_scripting::Sha;
use dormouse_shard::commands::args::{Args, Argument, Rest};
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly, scripting};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::keyspace::scripts::Unkillable;

use crate::commands::{help, now};
use crate::session::Session;
use crate::table::SessionRun;

const BASE: Flags = Flags::NO_SCRIPT;

pub const FAMILY: Family<SessionRun> = Family {
    group: "scripting",
    category: Category::empty(),
    commands: &[Command::container("SCRIPT", SCRIPT).doc(
        "2.6.0",
        "Depends on subcommand.",
        "A container for Lua scripts management commands.",
    )],
};

const SCRIPT: &[Command<SessionRun>] = &[
    Command::new("DEBUG", exactly(3), &[], BASE, now!(debug, 2))
        .doc("3.2.0", "O(1)", "Sets the debug mode of server-side Lua scripts.")
        .also(Category::SCRIPTING),
    Command::new("EXISTS", at_least(3), &[], BASE, now!(exists, 2))
        .doc(
            "2.6.0",
            "O(N) with N being the number of scripts to check (so checking a single script is an O(1) operation).",
            "Determines whether server-side Lua scripts exist in the script cache.",
        )
        .tips(&["request_policy:all_shards", "response_policy:agg_logical_and"])
        .also(Category::SCRIPTING),
    Command::new("FLUSH", at_least(2), &[], BASE, now!(flush, 2))
        .doc(
            "2.6.0",
            "O(N) with N being the number of scripts in cache",
            "Removes all server-side Lua scripts from the script cache.",
        )
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .also(Category::SCRIPTING),
    Command::new("HELP", exactly(2), &[], Flags::LOADING.union(Flags::STALE), now!(show_help, 2))
        .doc("5.0.0", "O(1)", "Returns helpful text about the different subcommands.")
        .also(Category::SCRIPTING),
    Command::new("KILL", exactly(2), &[], BASE.union(Flags::ALLOW_BUSY), now!(kill, 2))
        .doc("2.6.0", "O(1)", "Terminates a server-side Lua script during execution.")
        .tips(&["request_policy:all_shards", "response_policy:one_succeeded"])
        .also(Category::SCRIPTING),
    Command::new("LOAD", exactly(3), &[], BASE.union(Flags::STALE), now!(load, 2))
        .doc(
            "2.6.0",
            "O(N) with N being the length in bytes of the script body.",
            "Loads a server-side Lua script to the script cache.",
        )
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .also(Category::SCRIPTING),
    Command::new("SHOW", exactly(3), &[], BASE.union(Flags::STALE), now!(show, 2))
        .doc("8.0.0", "O(1).", "Shows a server-side Lua script in the script cache.")
        .also(Category::SCRIPTING),
];

/// `SCRIPT DEBUG YES | SYNC | NO`
fn debug(_: &mut Session, reply: &mut Reply, (mode,): (&[u8],)) -> Result<()> {
    if mode.eq_ignore_ascii_case(b"no") {
        reply.ok();
        return Ok(());
    }
    if mode.eq_ignore_ascii_case(b"yes") || mode.eq_ignore_ascii_case(b"sync") {
        return Err(Error::text("ERR Dormouse has no script debugger"));
    }
    Err(Error::text("ERR Use SCRIPT DEBUG YES/SYNC/NO"))
}

/// `SCRIPT EXISTS sha1 [sha1 ...]`
fn exists(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    let scripts = &session.tenant.database.shared.scripts;
    reply.array(names.len());
    for name in names.iter() {
        reply.integer(i64::from(Sha::parse(name).is_some_and(|sha| scripts.get(sha).is_some())));
    }
    Ok(())
}

/// `[ASYNC | SYNC]`
struct Manner;

impl<'a> Argument<'a> for Manner {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.is_empty() || (args.word("ASYNC") || args.word("SYNC")) && args.is_empty() {
            return Ok(Self);
        }
        Err(Error::text("ERR SCRIPT FLUSH only support SYNC|ASYNC option"))
    }
}

/// `SCRIPT FLUSH [ASYNC | SYNC]`
fn flush(session: &mut Session, reply: &mut Reply, (_,): (Manner,)) -> Result<()> {
    let shared = &session.tenant.database.shared;
    shared.scripts.flush(&shared.used);
    reply.ok();
    Ok(())
}

/// `SCRIPT KILL`
fn kill(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    end_running(session, false)?;
    reply.ok();
    Ok(())
}

/// Ends the script or the function that runs.
pub fn end_running(session: &Session, is_function: bool) -> Result<()> {
    session.tenant.database.shared.scripts.kill(is_function).map_err(|why| match why {
        Unkillable::NotRunning => Error::text("NOTBUSY No scripts in execution right now."),
        Unkillable::HasWritten => Error::text(
            "UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.",
        ),
        Unkillable::OtherKind => Error::Text(busy(session).into()),
    })
}

/// The reply to commands of other clients while a script runs for long.
pub fn busy(session: &Session) -> String {
    let running = session.tenant.database.shared.scripts.running();
    let kind = if running.is_some_and(|running| running.is_function) { "FUNCTION" } else { "SCRIPT" };
    format!("BUSY Redis is busy running a script. You can only call {kind} KILL or SHUTDOWN NOSAVE.")
}

/// `SCRIPT LOAD script`
fn load(session: &mut Session, reply: &mut Reply, (text,): (&[u8],)) -> Result<()> {
    let sha = scripting::load(&session.tenant.database.shared, text)?;
    reply.bulk(sha.to_string().as_bytes());
    Ok(())
}

/// `SCRIPT SHOW sha1`
fn show(session: &mut Session, reply: &mut Reply, (name,): (&[u8],)) -> Result<()> {
    let known = Sha::parse(name).and_then(|sha| session.tenant.database.shared.scripts.get(sha));
    let known = known.ok_or(Error::text("NOSCRIPT No matching script."))?;
    reply.bulk(&known.script.text);
    Ok(())
}

/// `SCRIPT HELP`
fn show_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "SCRIPT",
        &[
            "DEBUG (YES|SYNC|NO)",
            "    There is no debugger: only NO is accepted.",
            "EXISTS <sha1> [<sha1> ...]",
            "    Return information about the existence of the scripts in the script cache.",
            "FLUSH [ASYNC|SYNC]",
            "    Flush the Lua scripts cache.",
            "KILL",
            "    Kill the currently executing Lua script.",
            "LOAD <script>",
            "    Load a script into the scripts cache without executing it.",
            "SHOW <sha1>",
            "    Show a script from the scripts cache.",
        ],
    );
    Ok(())
}
