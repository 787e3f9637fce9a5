//! `CLIENT`: the connection itself and the other connections to the same database. Connections to other databases are
//! neither shown nor can they be closed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::args::{Args, Argument, LastOfSubcommand, Rest, integer, parse};
use dormouse_shard::commands::blocking::Timeout;
use dormouse_shard::commands::{Category, Command, Context, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result, repeated};
use dormouse_shard::execution::budget::TURN;

use crate::acl::Acl;
use crate::clients::Client;
use crate::commands::client_line::line;
use crate::commands::connection::{check_name_length, set_name};
use crate::commands::{client_tracking, help, now, parsed};
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
    run: parsed!(list, 2),
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

/// `CLIENT LIST [TYPE type] [ID id [id ...]]`
fn list(session: &mut Session, reply: &mut Reply, (which,): (Which,)) -> Result<()> {
    let (_, now_ms) = session.worker.now();
    let mut text = String::new();
    which.show(&session.node.clients.of_database(session.tenant.name()), now_ms, &mut text);
    reply.verbatim("txt", text.as_bytes());
    Ok(())
}

/// The same among many clients.
async fn list_in_turns(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let (which,): (Which,) = parse(request, 2)?;
    let (mut text, mut from) = (String::new(), Some(0));
    while let Some(first) = from {
        let (_, now_ms) = session.worker.now();
        let (clients, next) = session.node.clients.some_of_database(session.tenant.name(), first, CLIENTS_OF_A_TURN);
        which.show(&clients, now_ms, &mut text);
        from = next;
        session.pass_turn().await;
    }
    reply.verbatim("txt", text.as_bytes());
    Ok(())
}

enum Which {
    All,
    Class(Class),
    Ids(BTreeSet<i64>),
}

impl Which {
    /// Appends the lines of those clients that it takes.
    fn show(&self, clients: &[Arc<Client>], now_ms: u64, text: &mut String) {
        for client in clients.iter().filter(|client| self.takes(client)) {
            *text += &line(client, now_ms);
            text.push('\n');
        }
    }
}

impl<'a> Argument<'a> for Which {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.is_empty() {
            return Ok(Self::All);
        }
        if args.len() == 2 && args.word("TYPE") {
            return Class::named(args.bytes()?).map(Self::Class);
        }
        if args.len() >= 2 && args.word("ID") {
            let ids: Rest<'_> = args.take()?;
            let invalid = || Error::text("ERR Invalid client ID");
            return ids.iter().map(|id| integer(id).map_err(|_| invalid())).collect::<Result<_>>().map(Self::Ids);
        }
        Err(Error::Syntax)
    }
}

impl Which {
    fn takes(&self, client: &Client) -> bool {
        match self {
            Self::All => true,
            Self::Class(class) => *class == Class::of(client),
            Self::Ids(ids) => ids.contains(&(client.id as i64)),
        }
    }
}

/// Redis's client types. This server has no master, but a request may ask for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Normal,
    PubSub,
    Replica,
    Master,
}

impl Class {
    fn named(name: &[u8]) -> Result<Self> {
        match name.to_ascii_lowercase().as_slice() {
            b"normal" => Ok(Self::Normal),
            b"pubsub" => Ok(Self::PubSub),
            b"slave" | b"replica" => Ok(Self::Replica),
            b"master" => Ok(Self::Master),
            _ => Err(Error::Text(format!("ERR Unknown client type '{}'", repeated(name)).into())),
        }
    }

    fn of(client: &Client) -> Self {
        match client.is_replica.load(Ordering::Relaxed) {
            true => Self::Replica,
            false if client.is_subscriber() => Self::PubSub,
            false => Self::Normal,
        }
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

/// `CLIENT KILL <ip:port | [ID id] [TYPE type] [USER user] [ADDR ip:port] [LADDR ip:port] [SKIPME yes|no] [MAXAGE s] ...>`
fn kill(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let acl = Arc::clone(&session.tenant.acl);
    let filter = Filter::of(request, &acl)?;
    let clients = session.node.clients.of_database(session.tenant.name());
    let killed = kill_some(session, &filter, &clients);
    write_killed(reply, request, killed)
}

/// The same among many clients.
async fn kill_in_turns(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let acl = Arc::clone(&session.tenant.acl);
    let filter = Filter::of(request, &acl)?;
    let (mut killed, mut from) = (0, Some(0));
    while let Some(first) = from {
        let (clients, next) = session.node.clients.some_of_database(session.tenant.name(), first, CLIENTS_OF_A_TURN);
        killed += kill_some(session, &filter, &clients);
        from = next;
        session.pass_turn().await;
    }
    write_killed(reply, request, killed)
}

fn kill_some(session: &mut Session, filter: &Filter<'_>, clients: &[Arc<Client>]) -> i64 {
    let (_, now_ms) = session.worker.now();
    let mut killed = 0;
    for client in clients {
        if !filter.takes(client, session, now_ms) {
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
    match (is_old_form(request), killed) {
        (true, 0) => return Err(Error::text("ERR No such client")),
        (true, _) => reply.ok(),
        (false, killed) => reply.integer(killed),
    }
    Ok(())
}

struct Filter<'a> {
    id: Option<u64>,
    class: Option<Class>,
    address: Option<&'a [u8]>,
    local_address: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    age_seconds: Option<u64>,
    skip_me: bool,
}

impl Default for Filter<'_> {
    fn default() -> Self {
        Self { id: None, class: None, address: None, local_address: None, user: None, age_seconds: None, skip_me: true }
    }
}

/// `CLIENT KILL ip:port`
fn is_old_form(request: Request<'_>) -> bool {
    request.len() == 3
}

impl<'a> Filter<'a> {
    /// The filter of a request.
    fn of(request: Request<'a>, acl: &Acl) -> Result<Self> {
        let mut args = Args::new(request, 2);
        match is_old_form(request) {
            true => Ok(Self { address: Some(args.bytes()?), skip_me: false, ..Self::default() }),
            false => Self::take(&mut args, acl),
        }
    }

    /// Reads the filter.
    fn take(args: &mut Args<'a>, acl: &Acl) -> Result<Self> {
        let mut filter = Self::default();
        while !args.is_empty() {
            let word = args.upper().ok_or(Error::Syntax)?;
            args.skip();
            let value = args.bytes()?;
            match word.as_bytes() {
                b"ID" => filter.id = Some(positive(value, "ERR client-id should be greater than 0")?),
                b"TYPE" => filter.class = Some(Class::named(value)?),
                b"USER" if acl.user(value).is_some() => filter.user = Some(value),
                b"USER" => return Err(Error::Text(format!("ERR No such user '{}'", repeated(value)).into())),
                b"ADDR" => filter.address = Some(value),
                b"LADDR" => filter.local_address = Some(value),
                b"SKIPME" if value.eq_ignore_ascii_case(b"yes") => filter.skip_me = true,
                b"SKIPME" if value.eq_ignore_ascii_case(b"no") => filter.skip_me = false,
                b"MAXAGE" => {
                    let seconds =
                        integer(value).map_err(|_| Error::text("ERR maxage is not an integer or out of range"))?;
                    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
                    filter.age_seconds = Some(seconds.ok_or(Error::text("ERR maxage should be greater than 0"))?);
                }
                _ => return Err(Error::Syntax),
            }
        }
        Ok(filter)
    }
}

fn positive(value: &[u8], otherwise: &'static str) -> Result<u64> {
    integer(value).ok().and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).ok_or(Error::text(otherwise))
}

impl Filter<'_> {
    fn takes(&self, client: &Arc<Client>, session: &Session, now_ms: u64) -> bool {
        let age_seconds = now_ms.saturating_sub(client.connected_ms) / 1000;
        self.id.is_none_or(|id| id == client.id)
            && self.class.is_none_or(|class| class == Class::of(client))
            && self.address.is_none_or(|address| address == client.peer.to_string().as_bytes())
            && self.local_address.is_none_or(|address| address == client.peer.local().as_bytes())
            && self.user.is_none_or(|user| user == &*client.told.lock().user)
            && self.age_seconds.is_none_or(|age| age_seconds >= age)
            && !(self.skip_me && client.id == session.client.id)
            && (session.rights == Rights::Node || !client.is_admin.load(Ordering::Relaxed))
    }
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
            "    * ID <client-id>",
            "      Kill connections by client id.",
            "    * MAXAGE <maxage>",
            "      Kill connections older than the specified age.",
            "LIST [options ...]",
            "    Return information about client connections. Options:",
            "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
            "      Return clients of specified type.",
            "    * ID <client-id> [<client-id> ...]",
            "      Return clients with the specified ids.",
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
