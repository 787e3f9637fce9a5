//! `DEBUG`, as test suites use it. Everything stays within the session's database.
//!
//! Subcommands that end or stop the process are refused, since it serves other databases too. `DEBUG SLEEP` holds up one
//! database, as `CLIENT PAUSE` does.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use dormouse_protocol::{OwnedRequest, Reply, Request, Version};
use dormouse_shard::checkpoint::SleepOutcome;
use dormouse_shard::commands::args::{self, integer};
use dormouse_shard::commands::debugging::{DIGEST, DIGEST_VALUE, OBJECT};
use dormouse_shard::commands::{Category, Command, Family, Flags, Row, Run, at_least, find};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::execution::{self, Ended, Plan, PlannedCommand, Step};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use crate::commands::help;
use crate::options::DebugCommand;
use crate::session::Session;
use crate::table::SessionRun;

const FLAGS: Flags = Flags::LOADING.union(Flags::STALE).union(Flags::ADMIN).union(Flags::NO_SCRIPT);

pub const FAMILY: Family<SessionRun> =
    Family {
        group: "server",
        category: Category::empty(),
        commands: &[Command::new("DEBUG", at_least(2), &[], FLAGS.union(Flags::PATIENT), SessionRun::Waits(debug))
            .doc("1.0.0", "Depends on subcommand.", "A container for debugging commands.")],
    };

/// Longest time that `DEBUG SLEEP` holds up a database.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
/// Most keys that `DEBUG POPULATE` adds, and how many of them in one plan.
const POPULATED_MAX: i64 = 10_000_000;
const POPULATED_TOGETHER: usize = 500;
/// Largest value of `DEBUG POPULATE`.
const POPULATED_BYTES_MAX: i64 = 1 << 20;
/// How often `DEBUG RELOAD` tries to put the database to sleep, beside clients that write.
const RELOADS_MAX: usize = 10;

const REFUSED: Error = Error::text(
    "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local \
     connection, otherwise you need to set this option in the configuration file, and then restart the server.",
);
const SHARED: Error = Error::text("ERR this would stop the process, which serves other databases too");

/// `DEBUG subcommand [argument ...]`
fn debug<'a>(session: &'a mut Session, reply: &'a mut Reply, request: Request<'a>) -> LocalBoxFuture<'a, Result<()>> {
    run(session, reply, request).boxed_local()
}

async fn run(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let is_allowed = match session.node.facts.debug_command {
        DebugCommand::No => false,
        DebugCommand::Local => session.client.is_local(),
        DebugCommand::Yes => true,
    };
    if !is_allowed {
        return Err(REFUSED);
    }
    let name = String::from_utf8_lossy(request.arg(1)).to_ascii_lowercase();
    match (name.as_str(), request.len()) {
        ("help", 2) => show_help(reply),
        ("sleep", 3) => sleep(session, reply, request.arg(2)).await?,
        ("object", 3 | 4) => {
            in_keyspace(session, reply, (&OBJECT, &request.iter().take(3).collect::<Vec<_>>())).await?
        }
        ("digest", 2) => in_keyspace(session, reply, (&DIGEST, &request.iter().collect::<Vec<_>>())).await?,
        ("digest-value", 2..) => {
            in_keyspace(session, reply, (&DIGEST_VALUE, &request.iter().collect::<Vec<_>>())).await?;
        }
        ("reload", 2..) if request.iter().skip(2).any(|word| !word.eq_ignore_ascii_case(b"MERGE")) => {
            return Err(Error::text(
                "ERR DEBUG RELOAD saves the database and loads it again: there is no other file to load",
            ));
        }
        ("reload", _) | ("loadaof", 2) => reload(session, reply).await?,
        ("populate", 3..=5) => populate(session, reply, request).await?,
        ("set-active-expire" | "pause-cron", 3) => {
            let (number,): (i64,) = args::parse(request, 2)?;
            let is_off = (number != 0) == (name == "pause-cron");
            session.tenant.is_left_alone.store(is_off, Ordering::Relaxed);
            reply.ok();
        }
        ("error", 3) => reply.error_bytes(&one_line(request.arg(2))),
        ("log", 3) => {
            let line = String::from_utf8_lossy(&one_line(request.arg(2))).into_owned();
            tracing::info!(database = session.tenant.name(), "DEBUG LOG: {line}");
            reply.ok();
        }
        ("protocol", 3) => protocol(reply, request.arg(2))?,
        // They tune structures that are others here.
        ("quicklist-packed-threshold" | "dict-resizing" | "set-skip-checksum-validation", 3) => reply.ok(),
        ("replybuffer", 4) => reply.ok(),
        ("segfault" | "panic" | "oom" | "assert" | "restart" | "crash-and-recover" | "leak", _) => return Err(SHARED),
        _ => {
            let text = format!(
                "ERR unknown subcommand or wrong number of arguments for '{}'. Try DEBUG HELP.",
                String::from_utf8_lossy(&request.arg(1)[..request.arg(1).len().min(128)])
            );
            return Err(Error::Text(text.into()));
        }
    }
    Ok(())
}

/// An error or a line of the log has no line ends.
fn one_line(text: &[u8]) -> Vec<u8> {
    text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect()
}

/// `DEBUG SLEEP seconds`: all commands of the database wait.
async fn sleep(session: &mut Session, reply: &mut Reply, seconds: &[u8]) -> Result<()> {
    let seconds = args::float(seconds).ok().filter(|seconds| *seconds > 0.0).unwrap_or(0.0);
    let time = Duration::try_from_secs_f64(seconds).unwrap_or(SLEEP_MAX).min(SLEEP_MAX);
    let (_, now_ms) = session.worker.now();
    session.tenant.pause.begin(now_ms, now_ms + time.as_millis() as u64, true);
    let client = Arc::clone(&session.client);
    let mut over = pin!(tokio::time::sleep(time));
    poll_fn(|cx| {
        client.waker.register(cx.waker());
        if client.is_killed() { Poll::Ready(()) } else { over.as_mut().poll(cx) }
    })
    .await;
    // It counts as the time that the command has taken, but not as work.
    session.elsewhere += time;
    reply.ok();
    Ok(())
}

/// Runs a command that looks at keys.
async fn in_keyspace(
    session: &mut Session,
    reply: &mut Reply,
    (command, words): (&'static Command<Run>, &[&[u8]]),
) -> Result<()> {
    let Some(run) = command.run else { return Err(Error::Syntax) };
    let (_, now_ms) = session.worker.now();
    let planned = planned(session, &command.row, run, words);
    let plan = Plan::one(planned, now_ms, session.worker.random());
    let outcome = perform(session, plan).await?;
    reply.append(outcome);
    Ok(())
}

fn planned(session: &Session, row: &'static Row, run: Run, words: &[&[u8]]) -> PlannedCommand {
    PlannedCommand { row, run, request: OwnedRequest::from_args(words), context: session.context() }
}

/// Runs a plan, and returns its replies.
async fn perform(session: &mut Session, mut plan: Plan) -> Result<Reply> {
    plan.budget = Some(Arc::clone(&session.client) as _);
    let outcome = execution::run(&session.tenant.database, &Arc::new(plan), &session.turn()).await?;
    session.note_elsewhere(&outcome);
    session.note(outcome.left);
    match outcome.ended {
        Ended::Refused(error) => Err(error),
        Ended::Done | Ended::Changed | Ended::Repeated => Ok(outcome.replies),
    }
}

/// `DEBUG POPULATE count [prefix] [size]`: keys that exist already stay as they are.
async fn populate(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let positive = |text: &[u8], max: i64| {
        integer(text).ok().filter(|number| (0..=max).contains(number)).ok_or(Error::NotPositive)
    };
    let count = positive(request.arg(2), POPULATED_MAX)?;
    let prefix = request.get(3).unwrap_or(b"key");
    let size = request.get(4).map(|size| positive(size, POPULATED_BYTES_MAX)).transpose()?;
    let setnx = OwnedRequest::from_args(&[b"SETNX", b"k", b"v"]);
    let (row, run) = find(setnx.as_request()).ok_or(Error::Syntax)?;
    let mut numbers = 0..count;
    loop {
        let (_, now_ms) = session.worker.now();
        let mut plan = Plan::new(now_ms, session.worker.random());
        for number in numbers.by_ref().take(POPULATED_TOGETHER) {
            let key = [prefix, format!(":{number}").as_bytes()].concat();
            let mut value = format!("value:{number}").into_bytes();
            if let Some(size) = size.filter(|size| *size > 0) {
                value.resize(size as usize, 0);
            }
            let words: [&[u8]; 3] = [b"SETNX", &key, &value];
            plan.steps.push(Step::Command(planned(session, row, run, &words)));
        }
        if plan.steps.is_empty() {
            break;
        }
        let replies = perform(session, plan).await?;
        if replies.buffer.first() == Some(&b'-') {
            reply.append(replies);
            return Ok(());
        }
        session.pass_turn().await;
    }
    reply.ok();
    Ok(())
}

/// `DEBUG RELOAD` and `DEBUG LOADAOF`: everything goes into the store, and comes back from it.
async fn reload(session: &mut Session, reply: &mut Reply) -> Result<()> {
    let database = Arc::clone(&session.tenant.database);
    for _ in 0..RELOADS_MAX {
        if let SleepOutcome::InUse = database.sleep().await? {
            continue;
        }
        database.awake().await?;
        reply.ok();
        return Ok(());
    }
    Err(Error::text("ERR clients go on writing to the database, so it stays awake"))
}

/// `DEBUG PROTOCOL type`
fn protocol(reply: &mut Reply, kind: &[u8]) -> Result<()> {
    let is_resp3 = reply.version() == Version::Resp3;
    match kind.to_ascii_lowercase().as_slice() {
        b"string" => reply.bulk(b"Hello World"),
        b"integer" => reply.integer(12345),
        #[expect(clippy::approx_constant, reason = "the number that Redis replies")]
        b"double" => reply.double(3.141),
        b"bignum" => reply.big_number("1234567999999999999999999999999999999"),
        b"null" => reply.null(),
        b"array" => {
            reply.array(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"set" => {
            reply.set(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"map" => {
            reply.map(3);
            for number in 0..3 {
                reply.integer(number);
                reply.boolean(number == 1);
            }
        }
        b"attrib" => {
            if is_resp3 {
                reply.raw(b"|1\r\n");
                reply.bulk(b"key-popularity");
                reply.array(2);
                reply.bulk(b"key:123");
                reply.integer(90);
            }
            reply.bulk(b"Some real reply following the attribute");
        }
        b"push" if is_resp3 => {
            reply.push(2);
            reply.bulk(b"server-cpu-usage");
            reply.integer(42);
            reply.bulk(b"Some real reply following the push reply");
        }
        b"push" => return Err(Error::text("ERR RESP2 is not supported by this command")),
        b"verbatim" => reply.verbatim("txt", b"This is a verbatim\nstring"),
        b"true" => reply.boolean(true),
        b"false" => reply.boolean(false),
        _ => {
            return Err(Error::text(
                "ERR Wrong protocol type name. Please use one of the following: \
                 string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(())
}

/// `DEBUG HELP`
fn show_help(reply: &mut Reply) {
    help(
        reply,
        "DEBUG",
        &[
            "DIGEST",
            "    Output a hex signature representing the current content of the database.",
            "DIGEST-VALUE <key> [<key> ...]",
            "    Output a hex signature of the values of all the specified keys.",
            "ERROR <string>",
            "    Return an error with <string> as message.",
            "LOADAOF",
            "    The same as RELOAD.",
            "LOG <message>",
            "    Write <message> to the server log.",
            "OBJECT <key>",
            "    Show low level info about <key> and its value.",
            "PAUSE-CRON <0|1>",
            "    Stop the removal of expired keys that are not accessed.",
            "POPULATE <count> [<prefix>] [<size>]",
            "    Create <count> string keys named key:<num>.",
            "PROTOCOL <type>",
            "    Reply with a test value of the specified type.",
            "RELOAD",
            "    Save the database, drop it from memory and load it again.",
            "SET-ACTIVE-EXPIRE <0|1>",
            "    Setting it to 0 stops the removal of expired keys that are not accessed.",
            "SLEEP <seconds>",
            "    Hold up all commands of the database for <seconds>. Decimals allowed.",
        ],
    );
}
