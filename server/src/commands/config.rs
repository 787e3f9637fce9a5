//! `CONFIG`: shows and changes settings. The parameters themselves are in [`crate::config`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::glob::reading_cost;
use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::args::{self, Pairs, Rest};
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::execution::budget::TURN;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::commands::{access, answer, help, now, parsed};
use crate::config::{self, Access};
use crate::keeper;
use crate::session::Session;
use crate::table::{Answer, SessionRun, Weighed};

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ADMIN: Flags = ANY_TIME.union(Flags::NO_SCRIPT).union(Flags::ADMIN);
const EVERYWHERE: &[&str] = &["request_policy:all_nodes", "response_policy:all_succeeded"];

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[Command::container(
        "CONFIG",
        &[
            Command::new("GET", at_least(3), &[], ADMIN, SessionRun::Weighed(GET)).doc(
                "2.0.0",
                "O(N) when N is the number of configuration parameters provided",
                "Returns the effective values of configuration parameters.",
            ),
            Command::new(
                "SET",
                at_least(4),
                &[],
                ADMIN.union(Flags::PATIENT),
                SessionRun::Either(set_at_once, set_and_secure),
            )
            .doc(
                "2.0.0",
                "O(N) when N is the number of configuration parameters provided",
                "Sets configuration parameters in-flight.",
            )
            .tips(EVERYWHERE),
            Command::new("RESETSTAT", exactly(2), &[], ADMIN, now!(resetstat, 2))
                .doc("2.0.0", "O(1)", "Resets the server's statistics.")
                .tips(EVERYWHERE),
            Command::new(
                "REWRITE",
                exactly(2),
                &[],
                ADMIN.union(Flags::PATIENT),
                SessionRun::Either(rewrite_in_transaction, rewrite),
            )
            .doc("2.8.0", "O(1)", "Persists the effective configuration to file.")
            .tips(EVERYWHERE),
            Command::new("HELP", exactly(2), &[], ANY_TIME, now!(show_help, 2)).doc(
                "5.0.0",
                "O(1)",
                "Returns helpful text about the different subcommands.",
            ),
        ],
    )
    .doc("2.0.0", "Depends on subcommand.", "A container for server configuration commands.")],
};

/// Number of patterns that are compared with all names in one turn.
const PATTERNS_OF_A_TURN: usize = TURN / COST_OF_PATTERN;
const COST_OF_PATTERN: usize = 250;

const GET: Weighed = Weighed {
    run: parsed!(get, 2),
    weigh: |_, request| request.iter().skip(2).map(|pattern| COST_OF_PATTERN + reading_cost(pattern)).sum(),
    in_turns: |session, reply, request| Box::pin(get_in_turns(session, reply, request)),
};

/// `CONFIG GET parameter [parameter ...]`
fn get(session: &mut Session, reply: &mut Reply, (patterns,): (Rest<'_>,)) -> Result<()> {
    let patterns: Vec<&[u8]> = patterns.iter().collect();
    let found = config::get(&session.node.settings_for(&session.tenant), &patterns, access(session));
    write_found(reply, &found);
    Ok(())
}

/// The same for many or long patterns.
async fn get_in_turns(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let (patterns,): (Rest<'_>,) = args::parse(request, 2)?;
    let settings = session.node.settings_for(&session.tenant);
    let mut shown = config::ShownParameters::default();
    for (at, pattern) in patterns.iter().enumerate() {
        shown.add(&settings, pattern, access(session));
        if at % PATTERNS_OF_A_TURN == 0 || reading_cost(pattern) > COST_OF_PATTERN {
            session.pass_turn().await;
        }
    }
    write_found(reply, &shown.found);
    Ok(())
}

fn write_found(reply: &mut Reply, found: &[(String, String)]) {
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}

/// `CONFIG SET parameter value [parameter value ...]`
fn set_and_secure(session: &mut Session, request: Request<'_>) -> Result<BoxFuture<'static, Answer>> {
    set(session, args::parse(request, 2)?)
}

/// The same in a transaction, which cannot wait.
fn set_at_once(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let (words,): (Rest<'_>,) = args::parse(request, 2)?;
    let pairs = Pairs::new(words).ok_or(Error::Syntax)?;
    if pairs.iter().any(changes_window) {
        return Err(Error::text("ERR loss-window cannot be set in a transaction: it has to be waited for"));
    }
    // Without a new window, the command need not wait.
    drop(set(session, (words,))?);
    reply.ok();
    Ok(())
}

fn names_window((name, _): (&[u8], &[u8])) -> bool {
    name.eq_ignore_ascii_case(b"loss-window")
}

/// Whether a pair may change the loss window.
fn changes_window((name, value): (&[u8], &[u8])) -> bool {
    names_window((name, value)) || name.eq_ignore_ascii_case(b"appendfsync")
}

fn set(session: &mut Session, (words,): (Rest<'_>,)) -> Result<BoxFuture<'static, Answer>> {
    let pairs: Vec<(&[u8], &[u8])> = Pairs::new(words).ok_or(Error::Syntax)?.iter().collect();
    let node = &session.node;
    // Two concurrent changes must not undo each other.
    let _changing = node.changing.lock();
    let mut settings = node.settings_for(&session.tenant);
    let window_before = settings.database.loss_window;
    let changes = config::set(&mut settings, &pairs, access(session))
        .map_err(|error| Error::Text(format!("ERR {error}").into()))?;
    if changes.node {
        node.configure(settings.node);
    }
    // The database keeps a loss window that was named or changed. `appendfsync` may name the present one in other words.
    let is_declared = settings.database.loss_window != window_before || pairs.iter().copied().any(names_window);
    let declared = is_declared.then_some(settings.database.loss_window);
    if changes.database {
        session.tenant.acl.truncate_log(settings.database.acl_log_len_max);
        session.tenant.configure(settings.database);
    }
    let tenant = Arc::clone(&session.tenant);
    Ok(async move {
        // After OK the new promise holds; after an error the previous one does.
        let kept = match declared {
            Some(window) => tenant.database.declare_window(window).await,
            None => Ok(()),
        };
        answer(kept, |(), reply| reply.ok())
    }
    .boxed())
}

/// `CONFIG RESETSTAT`
fn resetstat(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let (_, now_ms) = session.worker.now();
    keeper::settle(&session.tenant, now_ms);
    session.tenant.meters.reset_statistics(now_ms);
    session.tenant.errors.reset();
    session.tenant.acl.log.reset_counts();
    session.tenant.connections.store(0, Ordering::Relaxed);
    if access(session) == Access::Node {
        session.node.clients.rejected.store(0, Ordering::Relaxed);
    }
    reply.ok();
    Ok(())
}

/// `CONFIG REWRITE`
fn rewrite(session: &mut Session, _: Request<'_>) -> Result<BoxFuture<'static, Answer>> {
    let tenant = Arc::clone(&session.tenant);
    Ok(async move { answer(tenant.keep_settings().await, |(), reply| reply.ok()) }.boxed())
}

/// The same in a transaction, which cannot wait.
fn rewrite_in_transaction(_: &mut Session, _: &mut Reply, _: Request<'_>) -> Result<()> {
    Err(Error::text("ERR CONFIG REWRITE cannot be in a transaction: it has to be waited for"))
}

/// `CONFIG HELP`
fn show_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "CONFIG",
        &[
            "GET <pattern>",
            "    Return parameters matching the glob-like <pattern> and their values.",
            "SET <directive> <value>",
            "    Set the configuration <directive> to <value>.",
            "RESETSTAT",
            "    Reset statistics reported by the INFO command.",
            "REWRITE",
            "    Rewrite the configuration file.",
        ],
    );
    Ok(())
}
