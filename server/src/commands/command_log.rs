//! `COMMANDLOG`: the commands of a database that took long, or had large requests or replies. `SLOWLOG` is its older name for the
//! first kind.

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::args::{Args, Argument, LastOfSubcommand, parse};
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::execution::budget::TURN;

use crate::command_log::{CommandLog, LoggedCommand};
use crate::commands::{help, now};
use crate::log_rules::LogKind;
use crate::session::Session;
use crate::table::{SessionRun, Weighed};

/// `weighed!(slowlog_asked)` makes a row's run that answers what `fn slowlog_asked(request)` reads from a request.
macro_rules! weighed {
    ($asked:path) => {
        Weighed {
            run: |session, reply, request| {
                write_newest(session, reply, $asked(request)?);
                Ok(())
            },
            weigh: |session, request| weigh(session, $asked(request)),
            in_turns: |session, reply, request| Box::pin(write_in_turns(session, reply, $asked(request))),
        }
    };
}

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ADMIN: Flags = ANY_TIME.union(Flags::ADMIN);
const GETS: &[&str] = &["request_policy:all_nodes", "nondeterministic_output"];
const COUNTS: &[&str] = &["request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"];
const RESETS: &[&str] = &["request_policy:all_nodes", "response_policy:all_succeeded"];
const HELP_DOC: &str = "Returns helpful text about the different subcommands.";

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[
        Command::container(
            "SLOWLOG",
            &[
                Command::new("GET", at_least(2), &[], ADMIN, SessionRun::Weighed(SLOWLOG_GET))
                    .doc("2.2.12", "O(N) where N is the number of entries returned", "Returns the slow log's entries.")
                    .tips(GETS),
                Command::new("LEN", exactly(2), &[], ADMIN, now!(slowlog_len, 2))
                    .doc("2.2.12", "O(1)", "Returns the number of entries in the slow log.")
                    .tips(COUNTS),
                Command::new("RESET", exactly(2), &[], ADMIN, now!(slowlog_reset, 2))
                    .doc(
                        "2.2.12",
                        "O(N) where N is the number of entries in the slowlog",
                        "Clears all entries from the slow log.",
                    )
                    .tips(RESETS),
                Command::new("HELP", exactly(2), &[], ANY_TIME, now!(slowlog_help, 2)).doc("6.2.0", "O(1)", HELP_DOC),
            ],
        )
        .doc("2.2.12", "Depends on subcommand.", "A container for slow log commands."),
        Command::container(
            "COMMANDLOG",
            &[
                Command::new("GET", exactly(4), &[], ADMIN, SessionRun::Weighed(COMMANDLOG_GET))
                    .doc(
                        "8.1.0",
                        "O(N) where N is the number of entries returned",
                        "Returns the entries of a command log.",
                    )
                    .tips(GETS),
                Command::new("LEN", exactly(3), &[], ADMIN, now!(commandlog_len, 2))
                    .doc("8.1.0", "O(1)", "Returns the number of entries in a command log.")
                    .tips(COUNTS),
                Command::new("RESET", exactly(3), &[], ADMIN, now!(commandlog_reset, 2))
                    .doc(
                        "8.1.0",
                        "O(N) where N is the number of entries in the log",
                        "Clears all entries from a command log.",
                    )
                    .tips(RESETS),
                Command::new("HELP", exactly(2), &[], ANY_TIME, now!(commandlog_help, 2))
                    .doc("8.1.0", "O(1)", HELP_DOC),
            ],
        )
        .doc("8.1.0", "Depends on subcommand.", "A container for command log commands."),
    ],
};

/// The cost of an entry: it may have 32 words.
const COST_OF_ENTRY: usize = 50;
const ENTRIES_OF_A_TURN: usize = TURN / COST_OF_ENTRY;

const SLOWLOG_GET: Weighed = weighed!(slowlog_asked);
const COMMANDLOG_GET: Weighed = weighed!(commandlog_asked);

/// The entries that a request asks for: of one log, and how many at most.
type Asked = (LogKind, usize);

/// `SLOWLOG GET [count]`
fn slowlog_asked(request: Request<'_>) -> Result<Asked> {
    let (count,): (LastOfSubcommand<Count>,) = parse(request, 2)?;
    Ok((LogKind::Slow, count.0.map_or(10, |count| count.0)))
}

/// `COMMANDLOG GET count type`
fn commandlog_asked(request: Request<'_>) -> Result<Asked> {
    let (Count(count), kind): (Count, LogKind) = parse(request, 2)?;
    Ok((kind, count))
}

fn weigh(session: &Session, asked: Result<Asked>) -> usize {
    asked.map_or(0, |(kind, count)| count.min(session.tenant.logs.of(kind).len()) * COST_OF_ENTRY)
}

fn write_newest(session: &Session, reply: &mut Reply, (kind, count): Asked) {
    let entries = session.tenant.logs.of(kind).newest(count);
    reply.array(entries.len());
    entries.iter().for_each(|entry| write_entry(reply, entry));
}

/// The same for many entries.
async fn write_in_turns(session: &Session, reply: &mut Reply, asked: Result<Asked>) -> Result<()> {
    let (kind, count) = asked?;
    let log: &CommandLog = session.tenant.logs.of(kind);
    let mut entries = Vec::new();
    let (left, mut before) = (count.min(log.len()), None);
    while entries.len() < left {
        let some = log.newest_before(before, ENTRIES_OF_A_TURN.min(left - entries.len()));
        let Some(last) = some.last() else { break };
        before = Some(last.id);
        entries.extend(some);
        session.pass_turn().await;
    }
    reply.array(entries.len());
    for some in entries.chunks(ENTRIES_OF_A_TURN) {
        some.iter().for_each(|entry| write_entry(reply, entry));
        session.pass_turn().await;
    }
    Ok(())
}

fn write_entry(reply: &mut Reply, entry: &LoggedCommand) {
    reply.array(6);
    reply.integer(entry.id as i64);
    reply.integer(entry.at_seconds as i64);
    reply.integer(entry.value as i64);
    reply.array(entry.arguments.len());
    entry.arguments.iter().for_each(|argument| reply.bulk(argument));
    reply.bulk(entry.peer.as_bytes());
    reply.bulk(&entry.name);
}

/// A number of entries; -1 is for all.
struct Count(usize);

impl<'a> Argument<'a> for Count {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let wrong = Error::text("ERR count should be greater than or equal to -1");
        match args.take::<i64>() {
            Ok(-1) => Ok(Self(usize::MAX)),
            Ok(count) => usize::try_from(count).map(Self).map_err(|_| wrong),
            Err(_) => Err(wrong),
        }
    }
}

impl<'a> Argument<'a> for LogKind {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let name = args.bytes()?;
        let found = Self::ALL.into_iter().find(|kind| name.eq_ignore_ascii_case(kind.name().as_bytes()));
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::Text(format!("ERR type should be one of the following: {names}").into())
        })
    }
}

/// `SLOWLOG LEN`
fn slowlog_len(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    commandlog_len(session, reply, (LogKind::Slow,))
}

/// `COMMANDLOG LEN type`
fn commandlog_len(session: &mut Session, reply: &mut Reply, (kind,): (LogKind,)) -> Result<()> {
    reply.integer(session.tenant.logs.of(kind).len() as i64);
    Ok(())
}

/// `SLOWLOG RESET`
fn slowlog_reset(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    commandlog_reset(session, reply, (LogKind::Slow,))
}

/// `COMMANDLOG RESET type`
fn commandlog_reset(session: &mut Session, reply: &mut Reply, (kind,): (LogKind,)) -> Result<()> {
    session.tenant.logs.of(kind).reset();
    reply.ok();
    Ok(())
}

/// `SLOWLOG HELP`
fn slowlog_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "SLOWLOG",
        &[
            "GET [<count>]",
            "    Return top <count> entries from the slowlog (default: 10, -1 mean all).",
            "    Entries are made of:",
            "    id, timestamp, time in microseconds, arguments array, client IP and port,",
            "    client name",
            "LEN",
            "    Return the length of the slowlog.",
            "RESET",
            "    Reset the slowlog.",
        ],
    );
    Ok(())
}

/// `COMMANDLOG HELP`
fn commandlog_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "COMMANDLOG",
        &[
            "GET <count> <type>",
            "    Return top <count> entries of the specified <type> from the commandlog (-1 mean all).",
            "    Entries are made of:",
            "    id, timestamp,",
            "        time in microseconds for type of slow,",
            "        or size in bytes for type of large-request,",
            "        or size in bytes for type of large-reply",
            "    arguments array, client IP and port,",
            "    client name",
            "LEN <type>",
            "    Return the length of the specified type of commandlog.",
            "RESET <type>",
            "    Reset the specified type of commandlog.",
        ],
    );
    Ok(())
}
