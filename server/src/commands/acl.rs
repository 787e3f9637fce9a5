//! `ACL`: the users of the database, and what they were denied. The rules themselves are in [`crate::acl`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{OwnedRequest, Reply, Request};
use dormouse_shard::commands::args::{LastOfSubcommand, Rest, integer, parse};
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result, repeated};
use futures::future::LocalBoxFuture;

use crate::acl::catalogue::category;
use crate::acl::denial::Denial;
use crate::acl::security_log::Denied;
use crate::acl::selector::{RulesForm, Selector};
use crate::acl::user::{DEFAULT_USER, User, has_spaces, join_selectors};
use crate::acl::{Acl, TooLarge, Users, password, user_token};
use crate::clients::Client;
use crate::commands::client_line::line;
use crate::commands::{TABLE, help, now};
use crate::databases::Tenant;
use crate::options::{named_database, named_secret};
use crate::pubsub::SubscriptionKind;
use crate::session::Session;
use crate::table::{CommandEntry, SessionRun};

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const BASE: Flags = ANY_TIME.union(Flags::NO_SCRIPT);
const ADMIN: Flags = BASE.union(Flags::ADMIN);
const EVERYWHERE: &[&str] = &["request_policy:all_nodes", "response_policy:all_succeeded"];

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[Command::container(
        "ACL",
        &[
            Command::new("CAT", at_least(2), &[], BASE, now!(cat, 2)).doc(
                "6.0.0",
                "O(1) since the categories and commands are a fixed set.",
                "Lists the ACL categories, or the commands inside a category.",
            ),
            Command::new("DELUSER", at_least(3), &[], ADMIN, SessionRun::Waits(deluser))
                .doc(
                    "6.0.0",
                    "O(1) amortized time considering the typical user.",
                    "Deletes ACL users, and terminates their connections.",
                )
                .tips(EVERYWHERE),
            Command::new("DRYRUN", at_least(4), &[], ADMIN, SessionRun::Waits(dryrun)).doc(
                "7.0.0",
                "O(1).",
                "Simulates the execution of a command by a user, without executing the command.",
            ),
            Command::new("GENPASS", at_least(2), &[], BASE, now!(genpass, 2)).doc(
                "6.0.0",
                "O(1)",
                "Generates a pseudorandom, secure password that can be used to identify ACL users.",
            ),
            Command::new("GETUSER", exactly(3), &[], ADMIN, now!(getuser, 2)).doc(
                "6.0.0",
                "O(N). Where N is the number of password, command and pattern rules that the user has.",
                "Lists the ACL rules of a user.",
            ),
            Command::new("LIST", exactly(2), &[], ADMIN, now!(list, 2)).doc(
                "6.0.0",
                "O(N). Where N is the number of configured users.",
                "Dumps the effective rules in ACL file format.",
            ),
            Command::new("LOAD", exactly(2), &[], ADMIN, now!(load_or_save, 2)).doc(
                "6.0.0",
                "O(N). Where N is the number of configured users.",
                "Reloads the rules from the configured ACL file.",
            ),
            Command::new("LOG", at_least(2), &[], ADMIN, now!(log, 2)).doc(
                "6.0.0",
                "O(N) with N being the number of entries shown.",
                "Lists recent security events generated due to ACL rules.",
            ),
            Command::new("RESTTOKEN", exactly(4), &[], BASE, now!(resttoken, 2)).doc(
                "0.3.0",
                "O(N) where N is the number of passwords defined for the user",
                "Returns a token for requests over HTTP as a user, who is shown by the password.",
            ),
            Command::new("SAVE", exactly(2), &[], ADMIN, now!(load_or_save, 2))
                .doc(
                    "6.0.0",
                    "O(N). Where N is the number of configured users.",
                    "Saves the effective ACL rules in the configured ACL file.",
                )
                .tips(EVERYWHERE),
            Command::new("SETUSER", at_least(3), &[], ADMIN, SessionRun::Waits(setuser))
                .doc(
                    "6.0.0",
                    "O(N). Where N is the number of rules provided.",
                    "Creates and modifies an ACL user and its rules.",
                )
                .tips(EVERYWHERE),
            Command::new("USERS", exactly(2), &[], ADMIN, now!(users, 2)).doc(
                "6.0.0",
                "O(N). Where N is the number of configured users.",
                "Lists all ACL users.",
            ),
            Command::new("WHOAMI", exactly(2), &[], BASE, now!(whoami, 2)).doc(
                "6.0.0",
                "O(1)",
                "Returns the authenticated username of the current connection.",
            ),
            Command::new("HELP", exactly(2), &[], ANY_TIME, now!(show_help, 2)).doc(
                "6.0.0",
                "O(1)",
                "Returns helpful text about the different subcommands.",
            ),
        ],
    )
    .doc("6.0.0", "Depends on subcommand.", "A container for Access List Control commands.")],
};

/// Most rules in one `ACL SETUSER`. Redis has no limit.
const RULES_MAX: usize = 10_000;

/// Most bits of a generated password.
const GENERATED_BITS_MAX: i64 = 4096;

/// `ACL CAT [category]`
fn cat(session: &mut Session, reply: &mut Reply, (name,): (LastOfSubcommand<&[u8]>,)) -> Result<()> {
    let Some(name) = name.0 else {
        let names: Vec<&str> = Category::all().names().collect();
        reply.array(names.len());
        names.iter().for_each(|name| reply.bulk(&name.as_bytes()[1..]));
        return Ok(());
    };
    let category = category(name).ok_or_else(|| {
        let shown = repeated(&name[..name.len().min(128)]).into_owned();
        Error::Text(format!("ERR Unknown category '{shown}'").into())
    })?;
    let found: Vec<_> = session.tenant.acl.catalogue.of_category(category).collect();
    reply.array(found.len());
    found.iter().for_each(|subject| reply.bulk(subject.name.as_bytes()));
    Ok(())
}

/// `ACL DELUSER username [username ...]`
fn deluser<'a>(session: &'a mut Session, reply: &'a mut Reply, request: Request<'a>) -> LocalBoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let names: Vec<Box<[u8]>> = request.iter().skip(2).map(Into::into).collect();
        if names.iter().any(|name| &**name == DEFAULT_USER) {
            return Err(Error::text("ERR The 'default' user cannot be removed"));
        }
        let own = session.client.id;
        let node = Arc::clone(&session.node);
        let tenant = Arc::clone(&session.tenant);
        let doomed = names.clone();
        let change = move |users: &mut Users, _: &Acl| {
            let before = users.len();
            names.iter().for_each(|name| drop(users.remove(name)));
            Ok(before - users.len())
        };
        let published = move |tenant: &Tenant| {
            for client in node.clients.of_database(tenant.name()) {
                if client.id != own && doomed.contains(&client.told.lock().user) {
                    client.kill();
                }
            }
        };
        let deleted = change_users(&tenant, change, published).await?;
        if tenant.acl.renewed(&session.permissions).is_none() {
            // The connection closes after the reply, but other clients no longer see it from now on.
            session.closing = true;
            session.client.leave();
        }
        reply.integer(deleted as i64);
        Ok(())
    })
}

/// `ACL SETUSER username [rule [rule ...]]`
fn setuser<'a>(session: &'a mut Session, reply: &'a mut Reply, request: Request<'a>) -> LocalBoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let (name, rules): (&[u8], Rest<'_>) = parse(request, 2)?;
        if has_spaces(name) {
            return Err(Error::text("ERR Usernames can't contain spaces or null characters"));
        }
        if rules.len() > RULES_MAX {
            return Err(Error::Text(format!("ERR ACL SETUSER takes at most {RULES_MAX} rules").into()));
        }
        let rules = join_selectors(rules.iter()).map_err(|word| {
            let word = repeated(word);
            Error::Text(format!("ERR Unmatched parenthesis in acl selector starting at '{word}'.").into())
        })?;
        let own = session.client.id;
        let tenant = Arc::clone(&session.tenant);
        let name: Box<[u8]> = name.into();
        let changed = name.clone();
        let change = move |users: &mut Users, acl: &Acl| {
            let mut user = users.get(&name).map_or_else(|| acl.new_user(&name), |user| User::clone(user));
            for rule in &rules {
                user.apply(rule, acl.catalogue).map_err(|error| {
                    Error::Text(format!("ERR Error in ACL SETUSER modifier '{}': {error}", repeated(rule)).into())
                })?;
            }
            users.insert(name, Arc::new(user));
            Ok(())
        };
        let published = move |tenant: &Tenant| close_listeners(tenant, &changed, own);
        change_users(&tenant, change, published).await?;
        let is_allowed = |listener: Arc<Client>| listener.id != own;
        if !listeners(&tenant, &session.permissions.user().name).into_iter().all(is_allowed) {
            session.closing = true;
        }
        reply.ok();
        Ok(())
    })
}

/// Changes the users of a database. `published` runs once the change is in force.
///
/// # Errors
/// Those of `change`, or when the store refuses: then nothing has changed.
async fn change_users<T: Send + 'static>(
    tenant: &Arc<Tenant>,
    change: impl FnOnce(&mut Users, &Acl) -> Result<T> + Send + 'static,
    published: impl FnOnce(&Tenant) + Send + 'static,
) -> Result<T> {
    let its = Arc::clone(tenant);
    let make = move || {
        let mut users = Users::clone(&its.acl.users());
        let outcome = change(&mut users, &its.acl)?;
        let text = Acl::text_of(&users).map_err(|TooLarge(limit)| {
            Error::Text(format!("ERR the users of a database may take at most {limit} bytes").into())
        })?;
        Ok((Some(text), (users, outcome)))
    };
    let its = Arc::clone(tenant);
    let publish = move |(users, outcome)| {
        its.acl.publish(users);
        published(&its);
        outcome
    };
    tenant.database.declare_users(make, publish).await
}

/// The clients of a user that listen to what he may not listen to.
fn listeners(tenant: &Tenant, name: &[u8]) -> Vec<Arc<Client>> {
    let Some(user) = tenant.acl.user(name).filter(|user| !user.is_unrestricted()) else { return Vec::new() };
    let is_pattern = |kind| kind == SubscriptionKind::Pattern;
    tenant.pubsub.listeners(
        |client| !client.is_admin.load(Ordering::Relaxed) && &*client.told.lock().user == name,
        |channel, kind| !user.may_use_channel(channel, is_pattern(kind)),
    )
}

/// Closes the connections of a user that listen to what he may not listen to any more, except `own`.
fn close_listeners(tenant: &Tenant, name: &[u8], own: u64) {
    listeners(tenant, name).iter().filter(|client| client.id != own).for_each(|client| client.kill());
}

/// `ACL GETUSER username`
fn getuser(session: &mut Session, reply: &mut Reply, (name,): (&[u8],)) -> Result<()> {
    let Some(user) = session.tenant.acl.user(name) else {
        reply.null();
        return Ok(());
    };
    reply.map(3 + fields_of(user.root()));
    reply.bulk(b"flags");
    let flags: Vec<&str> = user.flags().collect();
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"passwords");
    reply.array(user.passwords().len());
    user.passwords().iter().for_each(|hash| reply.bulk(hash.to_string().as_bytes()));
    write_selector(reply, user.root());
    reply.bulk(b"selectors");
    reply.array(user.selectors().len());
    for selector in user.selectors() {
        reply.map(fields_of(selector));
        write_selector(reply, selector);
    }
    Ok(())
}

type Describe = fn(&Selector, &mut Vec<u8>);

/// The fields of a selector. Redis knows no `db=`, so the last one is shown only where there is such a rule.
const SELECTOR_FIELDS: [(&str, Describe); 4] = [
    ("commands", Selector::describe_commands),
    ("keys", Selector::describe_keys),
    ("channels", Selector::describe_channels),
    ("databases", Selector::describe_databases),
];

fn fields_of(selector: &Selector) -> usize {
    SELECTOR_FIELDS.len() - usize::from(!selector.limits_databases())
}

fn write_selector(reply: &mut Reply, selector: &Selector) {
    for (name, describe) in &SELECTOR_FIELDS[..fields_of(selector)] {
        let mut text = Vec::new();
        describe(selector, &mut text);
        reply.bulk(name.as_bytes());
        reply.bulk(&text);
    }
}

/// `ACL LIST`
fn list(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let users = session.tenant.acl.users();
    reply.array(users.len());
    users.values().for_each(|user| reply.bulk(&user.describe(RulesForm::Shown)));
    Ok(())
}

/// `ACL USERS`
fn users(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let users = session.tenant.acl.users();
    reply.array(users.len());
    users.keys().for_each(|name| reply.bulk(name));
    Ok(())
}

/// `ACL WHOAMI`
fn whoami(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    reply.bulk(&session.permissions.user().name);
    Ok(())
}

/// `ACL LOAD` and `ACL SAVE`: the answer of a Redis without a file. Users are kept in the database's manifest.
fn load_or_save(_: &mut Session, _: &mut Reply, (): ()) -> Result<()> {
    Err(Error::text(
        "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.",
    ))
}

/// `ACL RESTTOKEN username password`
fn resttoken(session: &mut Session, reply: &mut Reply, (user, password): (&[u8], &[u8])) -> Result<()> {
    let database = session.tenant.name();
    let password = match named_database(password) {
        Some(named) if named == database => named_secret(password).1,
        _ => password,
    };
    if session.tenant.acl.authenticate(user, password, false).is_none() {
        session.guessed();
        let name = repeated(user).into_owned();
        return Err(Error::Text(format!("ERR Wrong password or user \"{name}\" does not exist").into()));
    }
    let secret = [b"dm_", database.as_bytes(), b"_", password].concat();
    reply.bulk(user_token::of(user, &secret).as_bytes());
    Ok(())
}

/// `ACL GENPASS [bits]`
fn genpass(_: &mut Session, reply: &mut Reply, (bits,): (LastOfSubcommand<&[u8]>,)) -> Result<()> {
    let bits = bits.0.map_or(Ok(256), integer)?;
    if !(1..=GENERATED_BITS_MAX).contains(&bits) {
        let text = format!(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to {GENERATED_BITS_MAX}"
        );
        return Err(Error::Text(text.into()));
    }
    reply.bulk(password::generate((bits as usize).div_ceil(4)).as_bytes());
    Ok(())
}

/// `ACL LOG [count | RESET]`
fn log(session: &mut Session, reply: &mut Reply, (operation,): (LastOfSubcommand<&[u8]>,)) -> Result<()> {
    let acl = &session.tenant.acl;
    let count = match operation.0 {
        None => 10,
        Some(word) if word.eq_ignore_ascii_case(b"RESET") => {
            acl.clear_log();
            reply.ok();
            return Ok(());
        }
        Some(count) => usize::try_from(integer(count)?).unwrap_or(0),
    };
    let (_, now_ms) = session.worker.now();
    let entries = acl.log.newest(count);
    reply.array(entries.len());
    for entry in entries {
        reply.map(10);
        reply.bulk(b"count");
        reply.integer(entry.count as i64);
        for (name, text) in [
            ("reason", entry.reason.name().as_bytes()),
            ("context", entry.origin.name().as_bytes()),
            ("object", &entry.object),
            ("username", &entry.user),
        ] {
            reply.bulk(name.as_bytes());
            reply.bulk(text);
        }
        reply.bulk(b"age-seconds");
        reply.double(now_ms.saturating_sub(entry.updated_ms) as f64 / 1000.0);
        reply.bulk(b"client-info");
        reply.bulk(entry.client.as_bytes());
        for (name, number) in [
            ("entry-id", entry.id),
            ("timestamp-created", entry.created_ms),
            ("timestamp-last-updated", entry.updated_ms),
        ] {
            reply.bulk(name.as_bytes());
            reply.integer(number as i64);
        }
    }
    Ok(())
}

/// `ACL DRYRUN username command [arg ...]`
fn dryrun<'a>(session: &'a mut Session, reply: &'a mut Reply, request: Request<'a>) -> LocalBoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let name = request.arg(2);
        let refused = |text: String| Error::Text(format!("ERR {text}").into());
        let user = session.tenant.acl.user(name);
        let user = user.ok_or_else(|| refused(format!("User '{}' not found", repeated(name))))?;
        let words: Vec<&[u8]> = request.iter().skip(3).collect();
        let entry = named(&words);
        let entry = entry.ok_or_else(|| refused(format!("Command '{}' not found", repeated(words[0]))))?;
        if !entry.row.arity.accepts(words.len()) {
            return Err(Error::WrongArity(entry.name.to_string()));
        }
        let its = OwnedRequest::from_args(&words);
        match session.check_as(&user, entry, &its, session.select).await {
            // Redis simulates no more than the check before the command.
            Ok(()) | Err(Denial::UnnamedKeys(_)) => reply.ok(),
            Err(denial) => {
                let subject = session.tenant.acl.catalogue.get(entry.id);
                reply.bulk(&denial.verbose(&user.name, subject, its.as_request()));
            }
        }
        Ok(())
    })
}

/// The command or container that a request names.
fn named(words: &[&[u8]]) -> Option<&'static CommandEntry> {
    let entry = TABLE.by_name(words[0])?;
    match words.get(1) {
        Some(sub) if !entry.subcommands.is_empty() => TABLE.subcommand(entry, sub),
        _ => Some(entry),
    }
}

/// Logs a denial in a database's log.
pub fn note(client: &Client, tenant: &Tenant, denied: Denied<'_>) {
    let now_ms = (tenant.database.engine.clock)();
    tenant.acl.note(denied, line(client, now_ms), now_ms, tenant.settings().acl_log_len_max);
}

/// `ACL HELP`
fn show_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "ACL",
        &[
            "CAT [<category>]",
            "    List all commands that belong to <category>, or all command categories",
            "    when no category is specified.",
            "DELUSER <username> [<username> ...]",
            "    Delete a list of users.",
            "DRYRUN <username> <command> [<arg> ...]",
            "    Returns whether the user can execute the given command without executing the command.",
            "GETUSER <username>",
            "    Get the user's details.",
            "GENPASS [<bits>]",
            "    Generate a secure 256-bit user password. The optional `bits` argument can",
            "    be used to specify a different size.",
            "LIST",
            "    Show users details in config file format.",
            "LOAD",
            "    Reload users from the ACL file.",
            "LOG [<count> | RESET]",
            "    Show the ACL log entries.",
            "RESTTOKEN <username> <password>",
            "    Return a token for requests over HTTP as the user.",
            "SAVE",
            "    Save the current config to the ACL file.",
            "SETUSER <username> <attribute> [<attribute> ...]",
            "    Create or modify a user with the specified attributes.",
            "USERS",
            "    List all the registered usernames.",
            "WHOAMI",
            "    Return the current connection username.",
        ],
    );
    Ok(())
}
