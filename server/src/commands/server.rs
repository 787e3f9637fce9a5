//! The server: saving, shutdown, and short replies for monitoring tools.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::args::{Args, Argument, Rest};
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::clock::unix_ns;
use crate::commands::TABLE;
use crate::commands::absent::{self, refuse};
use crate::commands::{access, answer, help, in_script, latency, later, now};
use crate::config::Access;
use crate::databases::Tenant;
use crate::health;
use crate::node::{Node, Shutdown};
use crate::session::Session;
use crate::table::{Answer, CommandEntry, SessionRun};

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ADMIN: Flags = ANY_TIME.union(Flags::ADMIN);
const ADMIN_ALONE: Flags = ADMIN.union(Flags::NO_SCRIPT);
const SAVES: Flags = Flags::ADMIN.union(Flags::NO_SCRIPT).union(Flags::NO_ASYNC_LOADING);
const LOADS_CODE: Flags = SAVES;
const BACKS_UP: Flags = Flags::ADMIN.union(Flags::NO_SCRIPT);
const TELLS_BACKUP: Flags = Flags::ADMIN.union(Flags::STALE);
const VARIES: &[&str] = &["nondeterministic_output"];
const VARIES_BY_NODE: &[&str] = &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"];
const HELP_DOC: &str = "Returns helpful text about the different subcommands.";

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[
        Command::new("TIME", exactly(1), &[], ANY_TIME.union(Flags::FAST), now!(time))
            .doc("2.6.0", "O(1)", "Returns the server time.")
            .in_script(in_script::time)
            .tips(VARIES),
        Command::new("SAVE", exactly(1), &[], SAVES.union(Flags::NO_MULTI).union(Flags::PATIENT), later!(save)).doc(
            "1.0.0",
            "O(N) where N is the total number of keys in all databases",
            "Synchronously saves the database(s) to disk.",
        ),
        Command::new("BGSAVE", at_least(1), &[], SAVES, now!(bgsave)).doc(
            "1.0.0",
            "O(1)",
            "Asynchronously saves the database(s) to disk.",
        ),
        Command::new("BGREWRITEAOF", exactly(1), &[], SAVES, now!(bgrewriteaof)).doc(
            "1.0.0",
            "O(1)",
            "Asynchronously rewrites the append-only file to disk.",
        ),
        Command::new("LASTSAVE", exactly(1), &[], ANY_TIME.union(Flags::FAST), now!(lastsave))
            .doc("1.0.0", "O(1)", "Returns the Unix timestamp of the last successful save to disk.")
            .tips(VARIES)
            .also(Category::ADMIN.union(Category::DANGEROUS)),
        Command::new(
            "SHUTDOWN",
            at_least(1),
            &[],
            ADMIN_ALONE.union(Flags::NO_MULTI).union(Flags::ALLOW_BUSY).union(Flags::PATIENT),
            later!(shutdown),
        )
        .doc(
            "1.0.0",
            "O(N) when saving, where N is the total number of keys in all databases when saving data, otherwise O(1)",
            "Synchronously saves the database(s) to disk and shuts down the Redis server.",
        ),
        Command::new("MONITOR", exactly(1), &[], ADMIN_ALONE, SessionRun::Either(monitor_in_transaction, monitor))
            .doc("1.0.0", "O(1)", "Listens for all requests received by the server in real-time.")
            .stateless(false),
        Command::container(
            "LATENCY",
            &[
                Command::new("DOCTOR", exactly(2), &[], ADMIN_ALONE, now!(latency::doctor, 2))
                    .doc("2.8.13", "O(1)", "Returns a human-readable latency analysis report.")
                    .tips(VARIES_BY_NODE),
                Command::new("GRAPH", exactly(3), &[], ADMIN_ALONE, now!(latency::graph, 2))
                    .doc("2.8.13", "O(1)", "Returns a latency graph for an event.")
                    .tips(VARIES_BY_NODE),
                Command::new("LATEST", exactly(2), &[], ADMIN_ALONE, now!(latency_latest, 2))
                    .doc("2.8.13", "O(1)", "Returns the latest latency samples for all events.")
                    .tips(VARIES_BY_NODE),
                Command::new("HISTORY", exactly(3), &[], ADMIN_ALONE, now!(latency_history, 2))
                    .doc("2.8.13", "O(1)", "Returns timestamp-latency samples for an event.")
                    .tips(VARIES_BY_NODE),
                Command::new("HISTOGRAM", at_least(2), &[], ADMIN_ALONE, now!(latency_histogram, 2))
                    .doc(
                        "7.0.0",
                        "O(N) where N is the number of commands with latency information being retrieved.",
                        "Returns the cumulative distribution of latencies of a subset or all commands.",
                    )
                    .tips(VARIES_BY_NODE),
                Command::new("RESET", at_least(2), &[], ADMIN_ALONE, now!(latency_reset, 2))
                    .doc("2.8.13", "O(1)", "Resets the latency data for one or more events.")
                    .tips(&["request_policy:all_nodes", "response_policy:agg_sum"]),
                Command::new("HELP", exactly(2), &[], ANY_TIME, now!(latency_help, 2)).doc("2.8.13", "O(1)", HELP_DOC),
            ],
        )
        .doc("2.8.13", "Depends on subcommand.", "A container for latency diagnostics commands."),
        Command::container(
            "BACKUP",
            &[
                Command::new("ABORT", exactly(2), &[], BACKS_UP, refuse!(absent::BACKUP)).doc(
                    "8.10.0",
                    "O(1)",
                    "Ends a backup and removes its files.",
                ),
                Command::new("CLEANUP", exactly(2), &[], BACKS_UP, refuse!(absent::BACKUP)).doc(
                    "8.10.0",
                    "O(N) where N is the number of files",
                    "Removes the files of a backup.",
                ),
                Command::new("HELP", exactly(2), &[], ANY_TIME, refuse!(absent::BACKUP))
                    .doc("8.10.0", "O(1)", HELP_DOC),
                Command::new("LIST", exactly(2), &[], TELLS_BACKUP, refuse!(absent::BACKUP)).doc(
                    "8.10.0",
                    "O(N) where N is the number of files",
                    "Returns the files of a backup.",
                ),
                Command::new("SEAL", exactly(2), &[], BACKS_UP, refuse!(absent::BACKUP)).doc(
                    "8.10.0",
                    "O(1)",
                    "Ends the recording of a backup, which is then complete.",
                ),
                Command::new("START", exactly(2), &[], BACKS_UP, refuse!(absent::BACKUP)).doc(
                    "8.10.0",
                    "O(N) where N is the number of keys",
                    "Begins a backup.",
                ),
                Command::new("STATUS", exactly(2), &[], TELLS_BACKUP, refuse!(absent::BACKUP)).doc(
                    "8.10.0",
                    "O(1)",
                    "Returns the state of a backup.",
                ),
            ],
        )
        .doc("8.10.0", "Depends on subcommand.", "A container for backup commands."),
        Command::new("TRIMSLOTS", at_least(5), &[], Flags::WRITE, refuse!(absent::SLOT_MOVES))
            .doc(
                "8.4.0",
                "O(N) where N is the number of keys",
                "Removes the keys of slots that have moved to another node.",
            )
            .also(Category::KEYSPACE.union(Category::DANGEROUS)),
        Command::container(
            "MODULE",
            &[
                Command::new("LIST", exactly(2), &[], Flags::ADMIN.union(Flags::NO_SCRIPT), now!(module_list, 2))
                    .doc("4.0.0", "O(N) where N is the number of loaded modules.", "Returns all loaded modules.")
                    .tips(&["nondeterministic_output_order"]),
                Command::new("LOAD", at_least(3), &[], LOADS_CODE, refuse!(absent::MODULES)).doc(
                    "4.0.0",
                    "O(1)",
                    "Loads a module.",
                ),
                Command::new("LOADEX", at_least(3), &[], LOADS_CODE, refuse!(absent::MODULES)).doc(
                    "7.0.0",
                    "O(1)",
                    "Loads a module using extended parameters.",
                ),
                Command::new("UNLOAD", exactly(3), &[], LOADS_CODE, refuse!(absent::MODULES)).doc(
                    "4.0.0",
                    "O(1)",
                    "Unloads a module.",
                ),
                Command::new("HELP", exactly(2), &[], ANY_TIME, now!(module_help, 2)).doc("5.0.0", "O(1)", HELP_DOC),
            ],
        )
        .doc("4.0.0", "Depends on subcommand.", "A container for module commands."),
    ],
};

/// `TIME`: the time at which the other commands of its batch run, so that no key that they let expire is gone too
/// early. A worker's clock may be ahead of the system's by the time it takes to read both, and workers differ in this.
fn time(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let now_us = session.now_us.min(unix_ns() / 1000);
    reply.array(2);
    reply.bulk_integer((now_us / 1_000_000) as i64);
    reply.bulk_integer((now_us % 1_000_000) as i64);
    Ok(())
}

/// `MONITOR`
fn monitor(session: &mut Session, _: Request<'_>) -> Result<BoxFuture<'static, Answer>> {
    if session.replica.is_some() {
        return Err(Error::text("ERR A replica cannot monitor its database"));
    }
    session.begin_monitor();
    Ok(std::future::ready(answer(Ok(()), |(), reply| reply.ok())).boxed())
}

/// The same in a transaction, whose reply the lines would divide.
fn monitor_in_transaction(_: &mut Session, _: &mut Reply, _: Request<'_>) -> Result<()> {
    Err(Error::text("ERR MONITOR isn't allowed for DENY BLOCKING client"))
}

/// `SAVE`
fn save(session: &mut Session, (): ()) -> Result<BoxFuture<'static, Answer>> {
    let (node, tenant) = (Arc::clone(&session.node), Arc::clone(&session.tenant));
    Ok(async move { answer(save_all(&node, &tenant).await, |(), reply| reply.ok()) }.boxed())
}

/// Writes changes. If nothing has changed, the database counts as saved now, and LASTSAVE reports that.
async fn save_all(node: &Node, tenant: &Tenant) -> Result<()> {
    health::saved(tenant, tenant.database.checkpoint().await)?;
    tenant.database.counters.saved_ms.store((node.engine.clock)(), Ordering::Relaxed);
    Ok(())
}

/// `BGSAVE [SCHEDULE]`
fn bgsave(session: &mut Session, reply: &mut Reply, (schedule,): (Option<Schedule>,)) -> Result<()> {
    session.node.check_owner()?;
    let (node, tenant) = (Arc::clone(&session.node), Arc::clone(&session.tenant));
    let running = tenant.database.counters.checkpoint_running.load(Ordering::Relaxed) > 0;
    match (running, schedule) {
        (true, None) => return Err(Error::text("ERR Background save already in progress")),
        // It waits for the running save.
        (true, Some(Schedule)) => reply.simple("Background saving scheduled"),
        (false, _) => reply.simple("Background saving started"),
    }
    save_in_background(node, tenant);
    Ok(())
}

/// `BGREWRITEAOF`: a checkpoint, from which on the log no longer needs what it has written before.
fn bgrewriteaof(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    session.node.check_owner()?;
    let (node, tenant) = (Arc::clone(&session.node), Arc::clone(&session.tenant));
    let running = tenant.database.counters.checkpoint_running.load(Ordering::Relaxed) > 0;
    let state = if running { "scheduled" } else { "started" };
    reply.simple(&format!("Background append only file rewriting {state}"));
    save_in_background(node, tenant);
    Ok(())
}

/// Saves once the save that runs, if any, has ended. One that has not begun yet includes everything written until now, so
/// no further one is added to it.
fn save_in_background(node: Arc<Node>, tenant: Arc<Tenant>) {
    if tenant.is_save_waiting.swap(true, Ordering::SeqCst) {
        return;
    }
    // Other commands see the save as running from here on.
    tenant.database.counters.checkpoint_running.fetch_add(1, Ordering::Relaxed);
    let background = node.engine.background.clone();
    background.spawn(async move {
        let turn = tenant.background_save.lock().await;
        tenant.is_save_waiting.store(false, Ordering::SeqCst);
        // A failure has been logged, and INFO reports it.
        let _ = save_all(&node, &tenant).await;
        drop(turn);
        tenant.database.counters.checkpoint_running.fetch_sub(1, Ordering::Relaxed);
    });
}

struct Schedule;

impl<'a> Argument<'a> for Schedule {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.word("SCHEDULE") { Ok(Self) } else { Err(Error::Syntax) }
    }
}

/// `LASTSAVE`
fn lastsave(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    session.node.check_owner()?;
    let saved_ms = session.tenant.database.counters.saved_ms.load(Ordering::Relaxed);
    let at_ms = if saved_ms > 0 { saved_ms } else { session.node.started_ms };
    reply.integer((at_ms / 1000) as i64);
    Ok(())
}

/// `SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]`
fn shutdown(session: &mut Session, (how,): (How,)) -> Result<BoxFuture<'static, Answer>> {
    if access(session) != Access::Node {
        return Err(Error::text("NOPERM SHUTDOWN needs the admin token: AUTH admin TOKEN"));
    }
    let node = Arc::clone(&session.node);
    Ok(async move {
        if how.save && !how.force {
            // If saving fails, the server keeps serving: no data is lost while the process lives.
            for tenant in node.tenants.all_with_hidden() {
                if tenant.database.checkpoint().await.is_err() {
                    return answer(Err(Error::text("ERR Errors trying to SHUTDOWN. Check logs.")), |(), _| {});
                }
            }
        }
        // Sending fails if the server is already ending. The connection closes without a reply.
        let _ = node.shutdown.send(if how.save { Shutdown::Save } else { Shutdown::NoSave });
        answer(Ok(()), |(), _| {})
    }
    .boxed())
}

struct How {
    save: bool,
    force: bool,
}

impl<'a> Argument<'a> for How {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let (mut save, mut force, mut abort, mut now) = (None, false, false, false);
        while !args.is_empty() {
            if args.word("NOW") {
                now = true;
            } else if args.word("FORCE") {
                force = true;
            } else if args.word("ABORT") {
                abort = true;
            } else if save.is_none() && args.word("SAVE") {
                save = Some(true);
            } else if save.is_none() && args.word("NOSAVE") {
                save = Some(false);
            } else {
                return Err(Error::Syntax);
            }
        }
        match abort {
            true if save.is_some() || force || now => Err(Error::Syntax),
            true => Err(Error::text("ERR No shutdown in progress.")),
            false => Ok(Self { save: save.unwrap_or(true), force }),
        }
    }
}

/// `LATENCY LATEST`
fn latency_latest(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let events = session.tenant.events.all();
    reply.array(events.len());
    for (name, event) in events {
        let (second, ms) = event.samples.back().copied().unwrap_or_default();
        reply.array(4);
        reply.bulk(name.as_bytes());
        [second, ms, event.max_ms].iter().for_each(|number| reply.integer(*number as i64));
    }
    Ok(())
}

/// `LATENCY HISTORY event`
fn latency_history(session: &mut Session, reply: &mut Reply, (event,): (&[u8],)) -> Result<()> {
    let samples = session.tenant.events.of(event).unwrap_or_default().samples;
    reply.array(samples.len());
    for (second, ms) in samples {
        reply.array(2);
        reply.integer(second as i64);
        reply.integer(ms as i64);
    }
    Ok(())
}

/// `LATENCY HISTOGRAM [command ...]`
fn latency_histogram(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    // The list may be long, so each name is resolved once.
    let named: HashSet<usize> =
        names.iter().filter_map(|name| TABLE.by_full_name(name)).map(|entry| entry.id).collect();
    let is_wanted = |entry: &CommandEntry| {
        let container = || entry.name.split('|').next().and_then(|name| TABLE.by_name(name.as_bytes()));
        names.is_empty() || named.contains(&entry.id) || container().is_some_and(|of| named.contains(&of.id))
    };
    let mut histograms = session.tenant.meters.histograms();
    histograms.retain(|id, histogram| histogram.calls() > 0 && is_wanted(TABLE.get(*id)));
    reply.map(histograms.len());
    for (id, histogram) in histograms {
        reply.bulk(TABLE.get(id).name.as_bytes());
        reply.map(2);
        reply.bulk(b"calls");
        reply.integer(histogram.calls() as i64);
        reply.bulk(b"histogram_usec");
        let steps = histogram.steps();
        reply.map(steps.len());
        for (microseconds, calls) in steps {
            reply.integer(microseconds as i64);
            reply.integer(calls as i64);
        }
    }
    Ok(())
}

/// `LATENCY RESET [event ...]`
fn latency_reset(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    let is_chosen = |event: &str| names.is_empty() || names.iter().any(|name| name == event.as_bytes());
    reply.integer(session.tenant.events.reset(is_chosen) as i64);
    Ok(())
}

/// `LATENCY HELP`
fn latency_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "LATENCY",
        &[
            "DOCTOR",
            "    Return a human readable latency analysis report.",
            "GRAPH <event>",
            "    Return an ASCII latency graph for the <event> class.",
            "HISTORY <event>",
            "    Return time-latency samples for the <event> class.",
            "LATEST",
            "    Return the latest latency samples for all events.",
            "RESET [<event> ...]",
            "    Reset latency data of one or more <event> classes.",
            "    (default: reset all data for all event classes)",
            "HISTOGRAM [COMMAND ...]",
            "    Return a cumulative distribution of latencies in the format of a histogram for the specified command names.",
            "    If no commands are specified then all histograms are replied.",
        ],
    );
    Ok(())
}

/// `MODULE LIST`
fn module_list(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    reply.array(0);
    Ok(())
}

/// `MODULE HELP`
fn module_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(reply, "MODULE", &["LIST", "    Return a list of loaded modules."]);
    Ok(())
}
