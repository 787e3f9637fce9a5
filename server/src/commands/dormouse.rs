//! `DORMOUSE`: commands that Redis does not have, for sleep, shards, branches and usage.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::Reply;
use dormouse_shard::checkpoint::SleepOutcome;
use dormouse_shard::commands::args::Rest;
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly, staging};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::keyspace::INDEXES;
use dormouse_shard::shard::ShardView;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::commands::{answer, help, later, now, tell};
use crate::databases::Tenant;
use crate::health;
use crate::keeper;
use crate::metering::UsageWindow;
use crate::options::{DEFAULT_DATABASE, branch_name};
use crate::rights::Rights;
use crate::session::Session;
use crate::table::{Answer, SessionRun};

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ADMIN: Flags = ANY_TIME.union(Flags::NO_SCRIPT).union(Flags::ADMIN).union(Flags::NO_MULTI);
const PATIENT: Flags = ADMIN.union(Flags::PATIENT);

/// Most shards that `DORMOUSE SPLIT` makes. Each has a lock, and a command over the whole database takes them all in
/// one turn of a worker, while other databases wait. The server's own splits follow the size and load of the data and
/// ignore this limit.
const SHARDS_MAX: usize = 256;

/// It works on all shards at once, also in a transaction.
const IMPORT: Flags =
    Flags::WRITE.union(Flags::WHOLE).union(Flags::BY_KEY).union(Flags::NO_SCRIPT).union(Flags::SWAPS_INDEXES);

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[Command::container(
        "DORMOUSE",
        &[
            Command::new("SLEEP", exactly(2), &[], PATIENT, later!(sleep, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of keys that changed since the last checkpoint",
                "Puts the database to sleep: writes its changes to the store and frees its memory.",
            ),
            Command::new("CHECKPOINT", exactly(2), &[], PATIENT, later!(checkpoint, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of keys that changed since the last checkpoint",
                "Writes the changes to the store; the database stays awake.",
            ),
            Command::new("SHARDS", exactly(2), &[], ADMIN, later!(shards, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of segments",
                "Returns the shards of the database; none while it sleeps.",
            ),
            Command::new("SPLIT", at_least(2), &[], PATIENT, later!(split, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of segments of the shard",
                "Splits the shard of a slot there, or the largest shard in its middle.",
            ),
            Command::new("MERGE", exactly(3), &[], PATIENT, later!(merge, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of segments of the shard",
                "Merges the shard that begins at a slot into the one before it.",
            ),
            Command::new("BRANCH", at_least(3), &[], PATIENT, later!(branch, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of keys that changed since the last checkpoint",
                "Makes a branch of this database as it is now; the two share unchanged data.",
            ),
            Command::new("DATABASES", exactly(2), &[], ADMIN, later!(databases, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of databases",
                "Returns the database and its branches.",
            ),
            Command::new("DELETE", exactly(3), &[], PATIENT, later!(delete, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of chunks that the branch has alone",
                "Deletes a branch of the database for good and disconnects its clients.",
            ),
            Command::new("USAGE", at_least(2), &[], ADMIN, now!(usage, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of commands",
                "Returns the meters of the database and its usage windows, or forgets windows that were taken.",
            ),
            Command::new("IMPORT", at_least(3), &[], IMPORT, SessionRun::Keyspace(staging::IMPORT)).doc(
                "0.2.0",
                "O(1): another thread frees the dropped data.",
                "Stages data beside the database, replaces the database with it, or ends an import.",
            ),
            Command::new("STAGED", exactly(3), &[], Flags::NO_SCRIPT, now!(staged, 2))
                .doc("0.2.0", "O(1)", "Selects a logical index of the data that is being staged.")
                .foresee(|request, context| context.select = staging::index(request.arg(2)).unwrap_or(context.select)),
            Command::new("HELP", exactly(2), &[], ANY_TIME, now!(show_help, 2)).doc(
                "0.1.0",
                "O(1)",
                "Returns helpful text about the different subcommands.",
            ),
        ],
    )
    .doc("0.1.0", "Depends on subcommand.", "A container for commands about sleep, shards, branches and usage.")],
};

/// `DORMOUSE STAGED index`
fn staged(session: &mut Session, reply: &mut Reply, (index,): (&[u8],)) -> Result<()> {
    session.select(staging::index(index).ok_or(Error::DbIndexOutOfRange)?);
    reply.ok();
    Ok(())
}

/// `DORMOUSE SLEEP`
fn sleep(session: &mut Session, (): ()) -> Result<BoxFuture<'static, Answer>> {
    let tenant = Arc::clone(&session.tenant);
    Ok(async move {
        let slept = match tenant.database.sleep().await {
            Ok(SleepOutcome::InUse) => Err(Error::text(
                "ERR clients go on writing to the database: what they have written is saved, but it stays awake",
            )),
            slept => slept,
        };
        answer(health::saved(&tenant, slept), |(), reply| reply.ok())
    }
    .boxed())
}

/// `DORMOUSE CHECKPOINT`
fn checkpoint(session: &mut Session, (): ()) -> Result<BoxFuture<'static, Answer>> {
    let tenant = Arc::clone(&session.tenant);
    Ok(async move {
        let written = tenant.database.checkpoint().await;
        answer(health::saved(&tenant, written), |(), reply| reply.ok())
    }
    .boxed())
}

/// `DORMOUSE SHARDS`
fn shards(session: &mut Session, (): ()) -> Result<BoxFuture<'static, Answer>> {
    let tenant = Arc::clone(&session.tenant);
    Ok(async move {
        let views = tenant.database.shards(false);
        tell(tenant.database.told_until(), move |reply| {
            reply.array(views.len());
            for view in &views {
                let lately = tenant.load_of(view.id);
                let fields = [
                    ("id", view.id),
                    ("first_slot", u64::from(view.first_slot)),
                    ("last_slot", u64::from(view.end_slot - 1)),
                    ("keys", view.keys as u64),
                    ("expiring", view.expiring as u64),
                    ("bytes", view.bytes as u64),
                    ("dirty_bytes", view.dirty_bytes as u64),
                    ("resident_segments", view.resident as u64),
                    ("stored_segments", view.stored as u64),
                    // Rates of the last second.
                    ("operations", lately.operations),
                    ("contended", lately.contended),
                ];
                reply.map(fields.len());
                for (name, value) in fields {
                    reply.bulk(name.as_bytes());
                    reply.integer(value as i64);
                }
            }
        })
    }
    .boxed())
}

/// `DORMOUSE SPLIT [slot]`
fn split(session: &mut Session, (slot,): (Option<i64>,)) -> Result<BoxFuture<'static, Answer>> {
    let slot = slot.map(slot_number).transpose()?;
    let database = Arc::clone(&session.tenant.database);
    Ok(async move {
        let done = async {
            database.awake().await?;
            if database.topology().is_some_and(|topology| topology.shards.len() >= SHARDS_MAX) {
                let text = format!("ERR the database has {SHARDS_MAX} shards or more: no others can be made by hand");
                return Err(Error::Text(text.into()));
            }
            let slot = match slot {
                Some(slot) => slot,
                None => middle(&database.shards(false))
                    .ok_or(Error::text("ERR no shard has more than one slot: nothing can be split"))?,
            };
            match database.split(slot).await? {
                true => Ok(()),
                false => Err(Error::Text(format!("ERR a shard begins at slot {slot} already").into())),
            }
        };
        answer(done.await, |(), reply| reply.ok())
    }
    .boxed())
}

/// `DORMOUSE MERGE slot`
fn merge(session: &mut Session, (slot,): (i64,)) -> Result<BoxFuture<'static, Answer>> {
    let slot = slot_number(slot)?;
    let database = Arc::clone(&session.tenant.database);
    Ok(async move {
        let done = async {
            database.awake().await?;
            match database.merge(slot).await? {
                true => Ok(()),
                false if slot == 0 => Err(Error::text("ERR the first shard has none before it")),
                false => Err(Error::Text(format!("ERR no shard begins at slot {slot}").into())),
            }
        };
        answer(done.await, |(), reply| reply.ok())
    }
    .boxed())
}

fn slot_number(slot: i64) -> Result<u16> {
    let slot = u16::try_from(slot).ok().filter(|slot| *slot < dormouse_shard::topology::SLOTS);
    slot.ok_or(Error::text("ERR slot is out of range (0-16383)"))
}

/// Returns the slot that halves the largest shard that can be split: half of its keys come before it, according to its
/// size histogram.
fn middle(views: &[ShardView]) -> Option<u16> {
    let splittable = views.iter().filter(|view| view.end_slot - view.first_slot > 1);
    let view = splittable.max_by_key(|view| view.keys)?;
    let (first, end) = (u32::from(view.first_slot), u32::from(view.end_slot));
    let parts = view.sizes.len() as f64;
    let half = view.sizes.iter().map(|&keys| f64::from(keys)).sum::<f64>() / 2.0;
    let mut before = 0.0;
    let mut place = 0.5;
    for (part, &keys) in view.sizes.iter().enumerate() {
        let keys = f64::from(keys);
        if keys > 0.0 && before + keys >= half {
            place = (part as f64 + (half - before) / keys) / parts;
            break;
        }
        before += keys;
    }
    let slot = first + (f64::from(end - first) * place).round() as u32;
    u16::try_from(slot.clamp(first + 1, end - 1)).ok()
}

/// `DORMOUSE BRANCH name [TTL milliseconds]`
fn branch(session: &mut Session, (name, options): (&[u8], Rest<'_>)) -> Result<BoxFuture<'static, Answer>> {
    check_owns_branches(session)?;
    let name = String::from_utf8_lossy(name).into_owned();
    let (node, tenant) = (Arc::clone(&session.node), Arc::clone(&session.tenant));
    branch_name(tenant.owner(), &name).map_err(|problem| Error::Text(format!("ERR {problem}").into()))?;
    let expires_ms = match options.len() {
        0 => None,
        2 if options.at(0).eq_ignore_ascii_case(b"TTL") => {
            let ttl_ms = number(options.at(1)).filter(|ttl_ms| *ttl_ms > 0);
            let end = ttl_ms.and_then(|ttl_ms| (node.engine.clock)().checked_add(ttl_ms));
            // Replies show it as a signed number.
            let end = end.filter(|end| i64::try_from(*end).is_ok());
            Some(end.ok_or(Error::text("ERR invalid expire time in 'dormouse|branch' command"))?)
        }
        _ => return Err(Error::Syntax),
    };
    Ok(async move {
        // The task runs to completion even if the client disconnects, so that nothing is left half made or half
        // deleted.
        let background = node.engine.background.clone();
        let made = background.spawn(async move {
            let made = node.tenants.branch(&tenant, &name, expires_ms).await;
            match made {
                Ok(()) | Err(Error::Store(_) | Error::Damaged(_)) => keeper::remember(&node, made),
                // This is not a store failure.
                Err(_) => made,
            }
        });
        answer(finished(made.await), |(), reply| reply.ok())
    }
    .boxed())
}

/// Refuses a connection whose token opens a single branch: the names of branches belong to their owner.
fn check_owns_branches(session: &Session) -> Result<()> {
    if session.rights < Rights::Database {
        return Err(Error::text("NOPERM this token opens one branch: it can neither make nor delete branches"));
    }
    Ok(())
}

fn finished(outcome: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    outcome.unwrap_or_else(|error| Err(Error::Store(format!("the command did not come to its end: {error}"))))
}

/// `DORMOUSE DATABASES`
fn databases(session: &mut Session, (): ()) -> Result<BoxFuture<'static, Answer>> {
    let visible: Vec<_> = session.node.tenants.all().filter(|tenant| may_see(session, tenant)).collect();
    Ok(async move {
        let (mut shown, mut awaited) = (Vec::with_capacity(visible.len()), 0);
        for tenant in visible {
            let keys = tenant.database.counts()[..INDEXES].iter().map(|(keys, _)| keys).sum::<u64>();
            awaited = awaited.max(tenant.database.told_until());
            shown.push((tenant, keys));
        }
        tell(awaited, move |reply| {
            reply.array(shown.len());
            for (tenant, keys) in &shown {
                let (database, lineage) = (&tenant.database, tenant.database.lineage());
                reply.map(10);
                reply.bulk(b"name");
                reply.bulk(tenant.name().as_bytes());
                reply.bulk(b"source");
                match lineage.source() {
                    Some(source) => reply.bulk(source.as_bytes()),
                    None => reply.null(),
                }
                reply.bulk(b"state");
                reply.bulk(health::state(tenant).as_bytes());
                reply.bulk(b"problem");
                match health::told_of(tenant).first() {
                    Some((_, text)) => reply.bulk(text.as_bytes()),
                    None => reply.null(),
                }
                for (name, value) in [
                    ("awake", Some(u64::from(database.is_awake()))),
                    ("keys", Some(*keys)),
                    ("stored_bytes", Some(database.counters.stored_bytes.load(Ordering::Relaxed))),
                    ("shared_bytes", Some(lineage.shared_bytes)),
                    ("created_ms", (lineage.created_ms > 0).then_some(lineage.created_ms)),
                    ("expires_ms", lineage.expires_ms),
                ] {
                    reply.bulk(name.as_bytes());
                    match value {
                        Some(value) => reply.integer(value as i64),
                        None => reply.null(),
                    }
                }
            }
        })
    }
    .boxed())
}

/// `DORMOUSE DELETE name`
fn delete(session: &mut Session, (name,): (&[u8],)) -> Result<BoxFuture<'static, Answer>> {
    check_owns_branches(session)?;
    let name = String::from_utf8_lossy(name).into_owned();
    let found = session.node.tenants.find_for(session.tenant.owner(), &name).filter(|tenant| may_see(session, tenant));
    let unknown = || Error::text("ERR no branch of that name: DORMOUSE DATABASES shows those of this database");
    let found = found.ok_or_else(unknown)?;
    if !found.is_branch() && session.rights < Rights::Node {
        return Err(Error::text("NOPERM only a branch can be deleted without the admin token"));
    }
    if !found.is_branch() && found.name() == DEFAULT_DATABASE {
        return Err(Error::text("ERR the database `default` cannot be deleted"));
    }
    if found.name() == session.tenant.name() {
        return Err(Error::text("ERR a database cannot be deleted from within: connect to another one"));
    }
    let node = Arc::clone(&session.node);
    Ok(async move {
        let background = node.engine.background.clone();
        let deleted = background.spawn(async move { keeper::delete(&node, &found).await }).await;
        answer(finished(deleted), |(), reply| reply.ok())
    }
    .boxed())
}

/// Whether a session may see a database: its own and that one's branches, or all with rights to the node.
fn may_see(session: &Session, tenant: &Tenant) -> bool {
    let own = &session.tenant;
    match session.rights {
        Rights::Node => true,
        Rights::Database => tenant.name() == own.name() || tenant.descends_from(own),
        Rights::Branch => tenant.name() == own.name(),
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `DORMOUSE USAGE [FORGET end-ms]`
fn usage(session: &mut Session, reply: &mut Reply, (words,): (Rest<'_>,)) -> Result<()> {
    let tenant = &session.tenant;
    if !words.is_empty() {
        let end_ms = words.iter().nth(1).and_then(number).filter(|_| words.len() == 2);
        let end_ms = end_ms.filter(|_| words.at(0).eq_ignore_ascii_case(b"FORGET")).ok_or(Error::Syntax)?;
        if session.rights != Rights::Node {
            return Err(Error::text("NOPERM usage windows are forgotten by the operator only"));
        }
        reply.integer(tenant.meters.forget_windows(end_ms) as i64);
        return Ok(());
    }
    let (_, now_ms) = session.worker.now();
    keeper::settle(tenant, now_ms);
    let totals = tenant.meters.totals(now_ms);
    let window = tenant.meters.usage(now_ms);
    let closed = tenant.meters.closed_windows();
    reply.map(4);
    reply.bulk(b"database");
    reply.bulk(tenant.name().as_bytes());
    reply.bulk(b"meters");
    reply.map(totals.meters().count());
    for (meter, total) in totals.meters() {
        reply.bulk(meter.name().as_bytes());
        reply.bulk(total.to_string().as_bytes());
    }
    reply.bulk(b"window");
    write_window(reply, &window);
    reply.bulk(b"closed");
    reply.array(closed.len());
    closed.iter().for_each(|window| write_window(reply, window));
    Ok(())
}

fn write_window(reply: &mut Reply, window: &UsageWindow) {
    reply.map(3);
    reply.bulk(b"start_ms");
    reply.integer(window.start_ms as i64);
    reply.bulk(b"end_ms");
    reply.integer(window.end_ms as i64);
    reply.bulk(b"events");
    reply.array(window.events().count());
    for event in window.events() {
        reply.map(3);
        reply.bulk(b"id");
        reply.bulk(event.id.as_bytes());
        reply.bulk(b"meter");
        reply.bulk(event.meter.name().as_bytes());
        reply.bulk(b"quantity");
        reply.bulk(event.quantity.as_bytes());
    }
}

/// `DORMOUSE HELP`
fn show_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "DORMOUSE",
        &[
            "SLEEP",
            "    Put the database to sleep. Answers when it sleeps; connections stay.",
            "CHECKPOINT",
            "    Write the changes since the last checkpoint to the store.",
            "SHARDS",
            "    Show the shards of the database: slots, keys, bytes, load in the last second.",
            "SPLIT [<slot>]",
            "    Split the shard that holds <slot> at that slot; without a slot, the largest shard in its middle.",
            "MERGE <slot>",
            "    Merge the shard that begins at <slot> into the one before it.",
            "BRANCH <name> [TTL <milliseconds>]",
            "    Make a branch of this database as it is now; with TTL, it is deleted after that time.",
            "DATABASES",
            "    Show the database and its branches.",
            "DELETE <name>",
            "    Delete a branch of the database for good and disconnect its clients.",
            "IMPORT BEGIN | SHOW [REPLACE] | END | DISCARD",
            "    Stage data beside the database; replace the database with it; let its keys expire again; drop staged data.",
            "STAGED <index>",
            "    Select a logical index of the staged data. SELECT leads back.",
            "USAGE [FORGET <end>]",
            "    Show the meters of the database, the open usage window, and the closed ones that were not taken yet;",
            "    or forget those that have ended by <end> (Unix milliseconds), as they were taken.",
        ],
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_shard_is_cut_where_half_of_its_keys_lie_before() {
        let view = |first_slot, end_slot, filled: &[(usize, u32)]| {
            let mut view = ShardView { first_slot, end_slot, ..ShardView::default() };
            for &(part, keys) in filled {
                view.sizes[part] = keys;
                view.keys += keys as usize;
            }
            view
        };
        let even: Vec<(usize, u32)> = (0..16).map(|part| (part, 10)).collect();
        for (views, expected) in [
            (vec![view(0, 16384, &even)], Some(8192)),
            (vec![view(0, 8192, &[(0, 1)]), view(8192, 16384, &even)], Some(12288)),
            (vec![view(0, 16384, &[])], Some(8192)),
            (vec![view(0, 16384, &[(15, 100)])], Some(15872)),
            (vec![view(0, 16384, &[(0, 100), (1, 300)])], Some(1365)),
            (vec![view(7, 9, &[(0, 100)])], Some(8)),
            // A shard with a single slot stays whole, however large.
            (vec![view(0, 1, &[(0, 100)]), view(1, 16384, &[(8, 2)])], Some(8704)),
            (vec![view(0, 1, &[(0, 100)])], None),
            (vec![], None),
        ] {
            assert_eq!(middle(&views), expected);
        }
    }
}
