//! The connection: the client's identity, its protocol, and its logical index.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Request, Version};
use dormouse_shard::commands::args::{Args, Argument, Rest, parse};
use dormouse_shard::commands::reach::database_at;
use dormouse_shard::commands::{Category, Command, Context, Databases, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result, repeated};

use crate::acl::security_log::{DenialContext, DenialReason, Denied};
use crate::acl::user::DEFAULT_USER;
use crate::commands::{acl, in_script, now, parsed};
use crate::databases::login::Unopened;
use crate::metrics::REDIS_VERSION;
use crate::options::DEFAULT_DATABASE;
use crate::session::{ReplyMode, Session, rights_without_token};
use crate::table::{LogIn, SessionRun};

/// Longest name of a connection or its library, in bytes. Redis has no limit.
const NAME_LEN_MAX: usize = 1024;

const FAST: Flags = Flags::FAST;
const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ANY_TIME_AND_PLACE: Flags = UNKNOWN.union(Flags::AT_ONCE).union(Flags::WHILE_SUBSCRIBED);
const UNKNOWN: Flags = Flags::NO_SCRIPT.union(ANY_TIME).union(FAST).union(Flags::NO_AUTH).union(Flags::ALLOW_BUSY);

const AUTH: LogIn = LogIn { run: parsed!(auth, 1), leaves: auth_leaves, shows_token: |_| true, shown: shown_by_auth };
const HELLO: LogIn = LogIn {
    run: parsed!(hello, 1),
    leaves: hello_leaves,
    shows_token: |request| request.len() > 2,
    shown: shown_by_hello,
};

pub const FAMILY: Family<SessionRun> = Family {
    group: "connection",
    category: Category::CONNECTION,
    commands: &[
        Command::new("PING", at_least(1), &[], FAST.union(Flags::WHILE_SUBSCRIBED), now!(ping))
            .doc("1.0.0", "O(1)", "Returns the server's liveliness response.")
            .in_script(in_script::ping)
            .stateless(true)
            .tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
        Command::new("ECHO", exactly(2), &[], ANY_TIME.union(FAST), now!(echo))
            .doc("1.0.0", "O(1)", "Returns the given string.")
            .in_script(in_script::echo)
            .stateless(true),
        Command::new("SELECT", exactly(2), &[], ANY_TIME.union(FAST), SessionRun::Now(select))
            .doc("1.0.0", "O(1)", "Changes the selected database.")
            .databases(Databases::Named(|request| [database_at(request, 1), None]))
            .in_script(in_script::select)
            .foresee(|request, context| context.select = in_script::index(request).unwrap_or(context.select)),
        Command::new("AUTH", at_least(2), &[], UNKNOWN, SessionRun::LogIn(AUTH)).doc(
            "1.0.0",
            "O(N) where N is the number of passwords defined for the user",
            "Authenticates the connection.",
        ),
        Command::new("HELLO", at_least(1), &[], UNKNOWN, SessionRun::LogIn(HELLO))
            .doc("6.0.0", "O(1)", "Handshakes with the Redis server.")
            .foresee(foresee_hello),
        Command::new("QUIT", at_least(1), &[], ANY_TIME_AND_PLACE, SessionRun::Now(quit)).doc(
            "1.0.0",
            "O(1)",
            "Closes the connection.",
        ),
        Command::new("RESET", exactly(1), &[], ANY_TIME_AND_PLACE, now!(reset)).doc(
            "6.2.0",
            "O(1)",
            "Resets the connection.",
        ),
    ],
};

/// `PING [message]`
fn ping(session: &mut Session, reply: &mut Reply, (words,): (Rest<'_>,)) -> Result<()> {
    let message = words.iter().next();
    if words.len() > 1 {
        return Err(Error::WrongArity("ping".into()));
    }
    if session.version == Version::Resp2 && session.subscriptions.is_some() {
        reply.array(2);
        reply.bulk(b"pong");
        reply.bulk(message.unwrap_or_default());
        return Ok(());
    }
    match message {
        Some(message) => reply.bulk(message),
        None => reply.simple("PONG"),
    }
    Ok(())
}

/// `ECHO message`
fn echo(_: &mut Session, reply: &mut Reply, (message,): (&[u8],)) -> Result<()> {
    reply.bulk(message);
    Ok(())
}

/// `SELECT index`
fn select(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    session.select(in_script::index(request)?);
    reply.ok();
    Ok(())
}

/// `AUTH [username] <token | password>`
fn auth(session: &mut Session, reply: &mut Reply, (words,): (Rest<'_>,)) -> Result<()> {
    match words.len() {
        1 => {
            if !session.node.tenants.needs_token() && session.node.tenants.default().acl.default_user().is_nopass {
                return Err(Error::text(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                ));
            }
            log_in(session, b"", words.at(0), b"AUTH")?;
        }
        2 => log_in(session, words.at(0), words.at(1), b"AUTH")?,
        _ => return Err(Error::Syntax),
    }
    reply.ok();
    Ok(())
}

fn shown_by_auth(request: Request<'_>) -> Option<(&[u8], &[u8])> {
    match request.len() {
        2 => Some((b"", request.arg(1))),
        3 => Some((request.arg(1), request.arg(2))),
        _ => None,
    }
}

/// Whether AUTH would lead to another database.
fn auth_leaves(session: &Session, request: Request<'_>) -> bool {
    match request.len() {
        2 => session.node.tenants.needs_token(),
        _ => is_other(session, request.arg(1)),
    }
}

/// Whether a name, with a token where tokens are required, may lead to another database.
fn is_other(session: &Session, user: &[u8]) -> bool {
    let tenants = &session.node.tenants;
    let is_here = user == session.tenant.name().as_bytes()
        || session.tenant.name() == DEFAULT_DATABASE && session.tenant.acl.user(user).is_some();
    tenants.needs_token() || !is_here
}

/// Enters the database that a secret opens: see [`crate::databases::login`]. `command`: its name, for `ACL LOG`.
pub fn log_in(session: &mut Session, user: &[u8], secret: &[u8], command: &[u8]) -> Result<()> {
    let entered = enter_with(session, user, secret, command);
    session.audit_login(Some(secret), entered.as_ref().err().map(|(reason, _)| *reason));
    entered.map_err(|(_, error)| error)
}

/// The same. A refusal has its reason in a word, for the audit log.
fn enter_with(
    session: &mut Session,
    user: &[u8],
    secret: &[u8],
    command: &[u8],
) -> std::result::Result<(), (&'static str, Error)> {
    let node = Arc::clone(&session.node);
    let opened = match node.tenants.needs_token() {
        true => node.tenants.log_in(user, secret).ok_or(Unopened::Wrong),
        false => node.tenants.log_in_without_token(user, secret, rights_without_token(&session.client)),
    };
    let entrance = match opened {
        Ok(entrance) => entrance,
        Err(Unopened::Wrong) => {
            // Clients take a wrong password for final, and it counts as a guess.
            if let Some(database) = node.tenants.missed_by(user, secret) {
                return Err(("elsewhere", Error::Elsewhere(database.into())));
            }
            session.guessed();
            if let Some(tenant) = node.tenants.aimed_at(secret) {
                let user = if user.is_empty() { DEFAULT_USER } else { user };
                let origin = if session.transaction.is_some() { DenialContext::Multi } else { DenialContext::Toplevel };
                acl::note(
                    &session.client,
                    &tenant,
                    Denied { reason: DenialReason::Auth, origin, object: command, user },
                );
            }
            return Err(("wrong-secret", wrong_password()));
        }
        Err(Unopened::Unknown) => {
            session.dismiss();
            let name = String::from_utf8_lossy(user).escape_debug().to_string();
            let error = Error::Text(format!("WRONGPASS there is no database '{name}'").into());
            return Err(("unknown-database", error));
        }
    };
    let (tenant, token) = (Arc::clone(&entrance.tenant), entrance.token.clone());
    session.enter(entrance).map_err(|error| ("no-room", error))?;
    // Deleting a database disconnects its clients. A client that enters too late to be among them finds here that the
    // database is gone. The same goes for a token that is revoked.
    if !node.tenants.has(&tenant) || !token.is_none_or(|token| node.tenants.is_granted(&token)) {
        session.dismiss();
        return Err(match node.tenants.missed_by(user, secret) {
            Some(database) => ("elsewhere", Error::Elsewhere(database.into())),
            None => ("wrong-secret", wrong_password()),
        });
    }
    Ok(())
}

fn wrong_password() -> Error {
    Error::text("WRONGPASS invalid username-password pair or user is disabled.")
}

/// `HELLO [protover [AUTH username token] [SETNAME name]]`
fn hello(session: &mut Session, reply: &mut Reply, (options,): (Option<Hello>,)) -> Result<()> {
    if let Some(options) = &options
        && let Some((user, token)) = options.auth
    {
        log_in(session, user, token, b"HELLO")?;
    }
    if !session.authenticated {
        return Err(Error::text(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(options) = options {
        if let Some(name) = options.name {
            set_name(session, name)?;
        }
        session.set_version(options.version);
        reply.set_version(options.version);
    }
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(if session.version == Version::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(session.client.id as i64);
    reply.bulk(b"mode");
    reply.bulk(session.node.facts.cluster.mode_name().as_bytes());
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

fn shown_by_hello(request: Request<'_>) -> Option<(&[u8], &[u8])> {
    parse::<(Option<Hello<'_>>,)>(request, 1).ok().and_then(|(hello,)| hello?.auth)
}

/// Whether HELLO would lead to another database. If several AUTH options are given, the last counts, and a name may be
/// spelled like an option; so each is checked.
fn hello_leaves(session: &Session, request: Request<'_>) -> bool {
    let names = (2..request.len().saturating_sub(1)).filter(|at| request.arg(*at).eq_ignore_ascii_case(b"AUTH"));
    names.into_iter().any(|at| is_other(session, request.arg(at + 1)))
}

/// Checks a HELLO in a transaction. It stays in the database, so only its own arguments can be wrong.
fn foresee_hello(request: Request<'_>, context: &mut Context) {
    if let Ok((Some(hello),)) = parse::<(Option<Hello<'_>>,)>(request, 1)
        && hello.name.is_none_or(|name| is_name(name) && check_name_length(name).is_ok())
    {
        context.version = hello.version;
    }
}

struct Hello<'a> {
    version: Version,
    auth: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

impl<'a> Argument<'a> for Hello<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let version = match args.take::<i64>() {
            Ok(2) => Version::Resp2,
            Ok(3) => Version::Resp3,
            Ok(_) => return Err(Error::text("NOPROTO unsupported protocol version")),
            Err(_) => return Err(Error::text("ERR Protocol version is not an integer or out of range")),
        };
        let mut hello = Self { version, auth: None, name: None };
        while let Some(word) = args.peek() {
            let unknown = || Error::Text(format!("ERR Syntax error in HELLO option '{}'", repeated(word)).into());
            if args.word("AUTH") && args.len() >= 2 {
                hello.auth = Some((args.bytes()?, args.bytes()?));
            } else if args.word("SETNAME") && !args.is_empty() {
                hello.name = Some(args.bytes()?);
            } else {
                return Err(unknown());
            }
        }
        Ok(hello)
    }
}

/// Names the connection for `CLIENT LIST`.
///
/// # Errors
/// When the name has spaces or unprintable characters, or is too long.
pub fn set_name(session: &Session, name: &[u8]) -> Result<()> {
    check_name_length(name)?;
    if !is_name(name) {
        return Err(Error::text("ERR Client names cannot contain spaces, newlines or special characters."));
    }
    session.client.told.lock().name = name.into();
    Ok(())
}

/// # Errors
/// When the name of a connection or its library is longer than this server keeps. `CLIENT LIST` repeats it for each
/// connection.
pub fn check_name_length(name: &[u8]) -> Result<()> {
    if name.len() > NAME_LEN_MAX {
        return Err(Error::Text(format!("ERR a name may have at most {NAME_LEN_MAX} bytes").into()));
    }
    Ok(())
}

fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// `QUIT`
fn quit(session: &mut Session, reply: &mut Reply, _: Request<'_>) -> Result<()> {
    reply.ok();
    session.closing = true;
    Ok(())
}

/// `RESET`
fn reset(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    session.forget();
    session.set_version(Version::Resp2);
    reply.set_version(Version::Resp2);
    if session.reply_mode != ReplyMode::Skip {
        session.reply_mode = ReplyMode::On;
    }
    session.client.told.lock().name = Box::default();
    session.client.no_evict.store(false, Ordering::Relaxed);
    session.client.no_touch.store(false, Ordering::Relaxed);
    reply.simple("RESET");
    Ok(())
}
