//! `CLIENT`: the connection itself and the other connections to the same database. Connections to other databases are
//! neither shown nor can they be closed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::args::{Args, Argument, LastOfSubcommand, Rest, integer, parse};
use dormouse_shard::commands::blocking::Timeout;
use dormouse_shard::commands::{Category, Command, Context, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result, repeated};
use dormouse_shard::execution::budget::TURN;

use crate::clients::Client;
use crate::commands::client_filter::{ClientFilter, is_old_kill};
use crate::commands::client_line::line;
use crate::commands::connection::{check_name_length, set_name};
use crate::commands::{absent, client_tracking, help, now};
use crate::rights::Rights;
use crate::session::{ReplyMode, Session};
use crate::table::{SessionRun, Weighed};

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE).union(Flags::KEEPS_CACHING);
const BASE: Flags = ANY_TIME.union(Flags::NO_SCRIPT);
const ADMIN: Flags = BASE.union(Flags::ADMIN);
const EVERYWHERE: &[&str] = &["request_policy:all_nodes", "response_policy:all_succeeded"];
const VARIES: &[&str] = &["nondeterministic_output"];

pub const FAMILY: Family<SessionRun> = Family {
    group: "connection",
    category: Category::CONNECTION,
    commands: &[Command::container(
        "CLIENT",
        &[
            Command::new("ID", exactly(2), &[], BASE, now!(id, 2)).doc(
                "5.0.0",
                "O(1)",
                "Returns the unique client ID of the connection.",
            ),
            Command::new("INFO", exactly(2), &[], BASE, now!(info, 2))
                .doc("6.2.0", "O(1)", "Returns information about the connection.")
                .tips(VARIES),
            Command::new("CAPA", at_least(3), &[], BASE.union(Flags::ALLOW_BUSY), now!(capa, 2)).doc(
                "8.0.0",
                "O(1)",
                "Tells the server what the client can do.",
            ),
            Command::new("IMPORT-SOURCE", exactly(3), &[], BASE, now!(import_source, 2)).doc(
                "8.1.0",
                "O(1)",
                "Marks a connection as the source of an import.",
            ),
            Command::new("LIST", at_least(2), &[], ADMIN, SessionRun::Weighed(LIST))
                .doc("2.4.0", "O(N) where N is the number of client connections", "Lists open connections.")
                .tips(VARIES),
            Command::new("SETNAME", exactly(3), &[], BASE, now!(setname, 2))
                .doc("2.6.9", "O(1)", "Sets the connection name.")
                .tips(EVERYWHERE),
            Command::new("GETNAME", exactly(2), &[], BASE, now!(getname, 2)).doc(
                "2.6.9",
                "O(1)",
                "Returns the name of the connection.",
            ),
            Command::new("SETINFO", exactly(4), &[], BASE, now!(setinfo, 2))
                .doc("7.2.0", "O(1)", "Sets information specific to the client or connection.")
                .tips(EVERYWHERE),
            Command::new("KILL", at_least(3), &[], ADMIN, SessionRun::Weighed(KILL)).doc(
                "2.4.0",
                "O(N) where N is the number of client connections",
                "Terminates open connections.",
            ),
            Command::new("PAUSE", at_least(3), &[], ADMIN, SessionRun::Now(pause)).doc(
                "3.0.0",
                "O(1)",
                "Suspends commands processing.",
            ),
            Command::new("UNPAUSE", exactly(2), &[], ADMIN.union(Flags::WHILE_PAUSED), now!(unpause, 2)).doc(
                "6.2.0",
                "O(N) Where N is the number of paused clients",
                "Resumes processing commands from paused clients.",
            ),
            Command::new("UNBLOCK", at_least(3), &[], ADMIN, SessionRun::Now(unblock)).doc(
                "5.0.0",
                "O(log N) where N is the number of client connections",
                "Unblocks a client blocked by a blocking command from a different connection.",
            ),
            Command::new("NO-EVICT", exactly(3), &[], ADMIN, now!(no_evict, 2)).doc(
                "7.0.0",
                "O(1)",
                "Sets the client eviction mode of the connection.",
            ),
            Command::new("NO-TOUCH", exactly(3), &[], BASE, now!(no_touch, 2))
                .doc(
                    "7.2.0",
                    "O(1)",
                    "Controls whether commands sent by the client affect the LRU/LFU of accessed keys.",
                )
                .foresee(foresee_no_touch),
            Command::new("REPLY", exactly(3), &[], BASE.union(Flags::NO_QUEUE), now!(reply_mode, 2)).doc(
                "3.2.0",
                "O(1)",
                "Instructs the server whether to reply to commands.",
            ),
            Command::new("TRACKING", at_least(3), &[], BASE, SessionRun::Now(client_tracking::tracking))
                .doc(
                    "6.0.0",
                    "O(1). Some options may introduce additional complexity.",
                    "Controls server-assisted client-side caching for the connection.",
                )
                .foresee(client_tracking::foresee_tracking),
            Command::new("CACHING", exactly(3), &[], BASE, now!(client_tracking::caching, 2))
                .doc("6.0.0", "O(1)", "Instructs the server whether to track the keys in the next request.")
                .foresee(client_tracking::foresee_caching),
            Command::new("GETREDIR", exactly(2), &[], BASE, now!(client_tracking::getredir, 2)).doc(
                "6.0.0",
                "O(1)",
                "Returns the client ID to which the connection's tracking notifications are redirected.",
            ),
            Command::new("TRACKINGINFO", exactly(2), &[], BASE, now!(client_tracking::trackinginfo, 2)).doc(
                "6.2.0",
                "O(1)",
                "Returns information about server-assisted client-side caching for the connection.",
            ),
            Command::new("HELP", exactly(2), &[], ANY_TIME, now!(show_help, 2)).doc(
                "5.0.0",
                "O(1)",
                "Returns helpful text about the different subcommands.",
            ),
        ],
    )
    .doc("2.4.0", "Depends on subcommand.", "A container for client connection commands.")],
};

/// `CLIENT ID`
fn id(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    reply.integer(session.client.id as i64);
    Ok(())
}

/// `CLIENT INFO`
fn info(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let (_, now_ms) = session.worker.now();
    reply.verbatim("txt", format!("{}\n", line(&session.client, now_ms)).as_bytes());
    Ok(())
}

/// The cost of a client's line, or of a look at all that a filter may ask for.
const COST_OF_CLIENT: usize = 20;
/// Clients that are looked at in a turn.
const CLIENTS_OF_A_TURN: usize = TURN / COST_OF_CLIENT;

const LIST: Weighed = Weighed {
    run: list,
    weigh: weigh_clients,
    in_turns: |session, reply, request| Box::pin(list_in_turns(session, reply, request)),
};

const KILL: Weighed = Weighed {
    run: kill,
    weigh: weigh_clients,
    in_turns: |session, reply, request| Box::pin(kill_in_turns(session, reply, request)),
};

/// All of the node's clients are gone through, and those of the database are looked at.
fn weigh_clients(session: &Session, _: Request<'_>) -> usize {
    let clients = &session.node.clients;
    clients.count() / 2 + clients.count_of(session.tenant.name()) * COST_OF_CLIENT
}

/// `CLIENT LIST [filter value ...]`
fn list(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let filter = ClientFilter::of_list(request, &session.tenant.acl)?;
    let clients = session.node.clients.of_database(session.tenant.name());
    let mut text = String::new();
    show(session, &filter, &clients, &mut text);
    reply.verbatim("txt", text.as_bytes());
    Ok(())
}

/// The same among many clients.
async fn list_in_turns(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let filter = ClientFilter::of_list(request, &session.tenant.acl)?;
    let (mut text, mut from) = (String::new(), Some(0));
    while let Some(first) = from {
        let (clients, next) = session.node.clients.some_of_database(session.tenant.name(), first, CLIENTS_OF_A_TURN);
        show(session, &filter, &clients, &mut text);
        from = next;
        session.pass_turn().await;
    }
    reply.verbatim("txt", text.as_bytes());
    Ok(())
}

/// Appends the lines of those clients that a filter takes.
fn show(session: &Session, filter: &ClientFilter<'_>, clients: &[Arc<Client>], text: &mut String) {
    let (_, now_ms) = session.worker.now();
    for client in clients.iter().filter(|client| filter.takes(client, &session.client, now_ms)) {
        *text += &line(client, now_ms);
        text.push('\n');
    }
}

/// `CLIENT SETNAME connection-name`
fn setname(session: &mut Session, reply: &mut Reply, (name,): (&[u8],)) -> Result<()> {
    set_name(session, name)?;
    reply.ok();
    Ok(())
}

/// `CLIENT GETNAME`
fn getname(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    match &*session.client.told.lock().name {
        b"" => reply.null(),
        name => reply.bulk(name),
    }
    Ok(())
}

/// `CLIENT SETINFO <LIB-NAME libname | LIB-VER libver>`
fn setinfo(session: &mut Session, reply: &mut Reply, (what, value): (&[u8], &[u8])) -> Result<()> {
    let is_name = what.eq_ignore_ascii_case(b"lib-name");
    if !is_name && !what.eq_ignore_ascii_case(b"lib-ver") {
        return Err(Error::Text(format!("ERR Unrecognized option '{}'", repeated(what)).into()));
    }
    let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| (b'!'..=b'~').contains(&byte)));
    let unclean =
        || Error::Text(format!("ERR {} cannot contain spaces, newlines or special characters.", repeated(what)).into());
    let text = text.ok_or_else(unclean)?;
    check_name_length(value)?;
    let mut told = session.client.told.lock();
    *(if is_name { &mut told.library } else { &mut told.library_version }) = text.into();
    reply.ok();
    Ok(())
}

/// `CLIENT KILL <ip:port | filter value [filter value ...]>`
fn kill(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let acl = Arc::clone(&session.tenant.acl);
    let filter = ClientFilter::of_kill(request, &acl)?;
    let clients = session.node.clients.of_database(session.tenant.name());
    let killed = kill_some(session, &filter, &clients);
    write_killed(reply, request, killed)
}

/// The same among many clients.
async fn kill_in_turns(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let acl = Arc::clone(&session.tenant.acl);
    let filter = ClientFilter::of_kill(request, &acl)?;
    let (mut killed, mut from) = (0, Some(0));
    while let Some(first) = from {
        let (clients, next) = session.node.clients.some_of_database(session.tenant.name(), first, CLIENTS_OF_A_TURN);
        killed += kill_some(session, &filter, &clients);
        from = next;
        session.pass_turn().await;
    }
    write_killed(reply, request, killed)
}

fn kill_some(session: &mut Session, filter: &ClientFilter<'_>, clients: &[Arc<Client>]) -> i64 {
    let (_, now_ms) = session.worker.now();
    let mut killed = 0;
    for client in clients {
        let is_beyond_reach = session.rights != Rights::Node && client.is_admin.load(Ordering::Relaxed);
        if is_beyond_reach || !filter.takes(client, &session.client, now_ms) {
            continue;
        }
        if client.id == session.client.id {
            // The connection closes after the reply, but other clients no longer see it from now on.
            session.closing = true;
            client.leave();
        } else {
            client.kill();
        }
        killed += 1;
    }
    killed
}

fn write_killed(reply: &mut Reply, request: Request<'_>, killed: i64) -> Result<()> {
    match (is_old_kill(request), killed) {
        (true, 0) => return Err(Error::text("ERR No such client")),
        (true, _) => reply.ok(),
        (false, killed) => reply.integer(killed),
    }
    Ok(())
}

/// `CLIENT CAPA capability [capability ...]`: one that is not known is passed over.
fn capa(session: &mut Session, reply: &mut Reply, (words,): (Rest<'_>,)) -> Result<()> {
    if words.iter().any(|word| word.eq_ignore_ascii_case(b"REDIRECT")) {
        session.client.can_redirect.store(true, Ordering::Relaxed);
    }
    reply.ok();
    Ok(())
}

/// `CLIENT IMPORT-SOURCE <ON | OFF>`: as in Valkey outside of its mode for imports.
fn import_source(_: &mut Session, reply: &mut Reply, (mode,): (&[u8],)) -> Result<()> {
    match mode.eq_ignore_ascii_case(b"OFF") {
        true => reply.ok(),
        false => return Err(absent::IMPORT_SOURCE),
    }
    Ok(())
}

/// `CLIENT PAUSE timeout [WRITE | ALL]`
fn pause(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let mut args = Args::new(request, 2);
    let timeout = args.bytes()?;
    let LastOfSubcommand(mode) = args.take::<LastOfSubcommand<PauseMode>>()?;
    let (_, now_ms) = session.worker.now();
    let timeout_ms = Timeout::milliseconds(timeout)?.after(now_ms)?;
    let until_ms = now_ms + timeout_ms.unwrap_or(0);
    session.tenant.pause(now_ms, until_ms, mode.is_none_or(|PauseMode(is_all)| is_all));
    reply.ok();
    Ok(())
}

/// Whether all commands wait.
struct PauseMode(bool);

impl<'a> Argument<'a> for PauseMode {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        match args.word("ALL") {
            true => Ok(Self(true)),
            false if args.word("WRITE") => Ok(Self(false)),
            false => Err(Error::text("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        }
    }
}

/// `CLIENT UNPAUSE`
fn unpause(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    session.tenant.unpause();
    reply.ok();
    Ok(())
}

/// `CLIENT UNBLOCK client-id [TIMEOUT | ERROR]`
fn unblock(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let mut args = Args::new(request, 2);
    let id = args.bytes()?;
    let LastOfSubcommand(reason) = args.take::<LastOfSubcommand<UnblockReason>>()?;
    let id = integer(id)?;
    let clients = session.node.clients.of_database(session.tenant.name());
    let client = clients.iter().find(|client| u64::try_from(id).is_ok_and(|id| client.id == id));
    let with_error = reason.is_some_and(|UnblockReason(with_error)| with_error);
    let unblocked = client.is_some_and(|client| client.unblock(with_error));
    reply.integer(i64::from(unblocked));
    Ok(())
}

/// Whether the client gets an error.
struct UnblockReason(bool);

impl<'a> Argument<'a> for UnblockReason {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        match args.word("ERROR") {
            true => Ok(Self(true)),
            false if args.word("TIMEOUT") => Ok(Self(false)),
            false => Err(Error::text("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        }
    }
}

/// `CLIENT NO-EVICT <ON | OFF>`
fn no_evict(session: &mut Session, reply: &mut Reply, (switch,): (Switch,)) -> Result<()> {
    session.client.no_evict.store(switch.0, Ordering::Relaxed);
    reply.ok();
    Ok(())
}

/// `CLIENT NO-TOUCH <ON | OFF>`
fn no_touch(session: &mut Session, reply: &mut Reply, (switch,): (Switch,)) -> Result<()> {
    session.client.no_touch.store(switch.0, Ordering::Relaxed);
    reply.ok();
    Ok(())
}

fn foresee_no_touch(request: Request<'_>, context: &mut Context) {
    if let Ok((switch,)) = parse::<(Switch,)>(request, 2) {
        context.no_touch = switch.0;
    }
}

struct Switch(bool);

impl<'a> Argument<'a> for Switch {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        match args.word("ON") {
            true => Ok(Self(true)),
            false if args.word("OFF") => Ok(Self(false)),
            false => Err(Error::Syntax),
        }
    }
}

/// `CLIENT REPLY <ON | OFF | SKIP>`
fn reply_mode(session: &mut Session, reply: &mut Reply, (mode,): (ReplyMode,)) -> Result<()> {
    match mode {
        ReplyMode::On => {
            session.reply_mode = ReplyMode::On;
            reply.ok();
        }
        ReplyMode::SkipNext | ReplyMode::Skip if session.reply_mode == ReplyMode::Off => {}
        mode => session.reply_mode = mode,
    }
    Ok(())
}

impl<'a> Argument<'a> for ReplyMode {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        for (word, mode) in [("ON", Self::On), ("OFF", Self::Off), ("SKIP", Self::SkipNext)] {
            if args.word(word) {
                return Ok(mode);
            }
        }
        Err(Error::Syntax)
    }
}

/// `CLIENT HELP`
fn show_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "CLIENT",
        &[
            "CACHING (YES|NO)",
            "    Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes.",
            "CAPA <option> [options...]",
            "    Tell the server what the client can do. Options are:",
            "    * REDIRECT",
            "GETREDIR",
            "    Return the client ID we are redirecting to when tracking is enabled.",
            "GETNAME",
            "    Return the name of the current connection.",
            "ID",
            "    Return the ID of the current connection.",
            "INFO",
            "    Return information about the current client connection.",
            "KILL <ip:port>",
            "    Kill connection made from <ip:port>.",
            "KILL <option> <value> [<option> <value> [...]]",
            "    Kill connections. Options are:",
            "    * ADDR (<ip:port>|<unixsocket>:0)",
            "      Kill connections made from the specified address",
            "    * LADDR (<ip:port>|<unixsocket>:0)",
            "      Kill connections made to specified local address",
            "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
            "      Kill connections by type.",
            "    * USER <username>",
            "      Kill connections authenticated by <username>.",
            "    * SKIPME (YES|NO)",
            "      Skip killing current connection (default: yes).",
            "    * ID <client-id> [<client-id>...]",
            "      Kill connections by client id.",
            "    * MAXAGE <maxage>",
            "      Kill connections older than the specified age.",
            "    * IDLE <idle>",
            "      Kill connections that have been idle for at least so many seconds.",
            "    * FLAGS <flags> | NAME <name> | LIB-NAME <name> | LIB-VER <version> | DB <index> | CAPA <capa> | IP <ip>",
            "      Kill connections with these properties.",
            "    * NOT-<option>",
            "      Kill connections without it. There is none for SKIPME, MAXAGE and IDLE.",
            "LIST [options ...]",
            "    Return information about client connections. Options:",
            "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
            "      Return clients of specified type.",
            "    * ID <client-id> [<client-id> ...]",
            "      Return clients with the specified ids.",
            "    * The other options of KILL. SKIPME is off by default.",
            "UNPAUSE",
            "    Stop the current client pause, resuming traffic.",
            "PAUSE <timeout> [WRITE|ALL]",
            "    Suspend all, or just write, clients for <timeout> milliseconds.",
            "REPLY (ON|OFF|SKIP)",
            "    Control the replies sent to the current connection.",
            "SETNAME <name>",
            "    Assign the name <name> to the current connection.",
            "SETINFO <option> <value>",
            "    Set client meta attr. Options are:",
            "    * LIB-NAME: the client lib name.",
            "    * LIB-VER: the client lib version.",
            "UNBLOCK <clientid> [TIMEOUT|ERROR]",
            "    Unblock the specified blocked client.",
            "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]]",
            "         [OPTIN] [OPTOUT] [NOLOOP]",
            "    Control server assisted client side caching.",
            "TRACKINGINFO",
            "    Report tracking status for the current connection.",
            "NO-EVICT (ON|OFF)",
            "    Protect current client connection from eviction.",
            "NO-TOUCH (ON|OFF)",
            "    Will not touch LRU/LFU stats when this mode is on.",
        ],
    );
    Ok(())
}
