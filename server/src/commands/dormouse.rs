//! `DORMOUSE`: commands that Redis does not have, for sleep, shards, branches, triggers and usage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::Reply;
use dormouse_shard::checkpoint::SleepOutcome;
use dormouse_shard::commands::args::Rest;
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly, staging};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::history::HistoryState;
use dormouse_shard::keyspace::INDEXES;
use dormouse_shard::shard::ShardView;
use dormouse_storage::directory::{DatabaseRecord, Deletion};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::commands::forwarded::forwarded;
use crate::commands::trigger::trigger;
use crate::commands::usage::usage;
use crate::commands::{answer, help, later, now, tell};
use crate::databases::{Removal, Tenant};
use crate::directory::ChangeRefusal;
use crate::health;
use crate::keeper;
use crate::node::Node;
use crate::options::{DEFAULT_DATABASE, PastMoment, branch_name};
use crate::rights::Rights;
use crate::session::Session;
use crate::table::{Answer, SessionRun};

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ADMIN: Flags = ANY_TIME.union(Flags::NO_SCRIPT).union(Flags::ADMIN).union(Flags::NO_MULTI);
/// Its arguments may hold secrets.
const SECRETIVE: Flags = ADMIN.union(Flags::SKIP_SLOWLOG).union(Flags::SKIP_MONITOR);
/// It is for nodes of a fleet, which have a secret of their own.
const INTRODUCES: Flags = SECRETIVE.union(Flags::NO_AUTH).union(Flags::ALLOW_BUSY);
const PATIENT: Flags = ADMIN.union(Flags::PATIENT);

/// Most shards that `DORMOUSE SPLIT` makes. Each has a lock, and a command over the whole database takes them all in
/// one turn of a worker, while other databases wait. The server's own splits follow the size and load of the data and
/// ignore this limit.
const SHARDS_MAX: usize = 256;

/// Most databases that `DORMOUSE DATABASES` opens to report on them. `GET /v1/databases` lists any number.
const OPENED_MAX: usize = 1000;

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
                "Makes a branch of this database as it is now or was at a moment; the two share unchanged data.",
            ),
            Command::new("HISTORY", exactly(2), &[], ADMIN, now!(history, 2)).doc(
                "0.3.0",
                "O(1)",
                "Returns which moments of the past a branch of this database can be made of.",
            ),
            Command::new("DATABASES", at_least(2), &[], ADMIN, later!(databases, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of databases",
                "Returns the database and its branches, or those that were deleted and can be brought back.",
            ),
            Command::new("DELETE", at_least(3), &[], PATIENT, later!(delete, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of chunks that the branch has alone",
                "Deletes a branch of the database and disconnects its clients, with NOW for good.",
            ),
            Command::new("UNDELETE", exactly(3), &[], PATIENT, later!(undelete, 2)).doc(
                "0.3.0",
                "O(1)",
                "Brings a deleted branch of the database back.",
            ),
            Command::new("USAGE", at_least(2), &[], ADMIN, later!(usage, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of commands, or of the windows of the node in the period",
                "Returns the meters of the database, its usage in a period, or the calls of each command.",
            ),
            Command::new("IMPORT", at_least(3), &[], IMPORT, SessionRun::Keyspace(staging::IMPORT)).doc(
                "0.2.0",
                "O(1): another thread frees the dropped data.",
                "Stages data beside the database, replaces the database with it, or ends an import.",
            ),
            Command::new("STAGED", exactly(3), &[], Flags::NO_SCRIPT, now!(staged, 2))
                .doc("0.2.0", "O(1)", "Selects a logical index of the data that is being staged.")
                .foresee(|request, context| context.select = staging::index(request.arg(2)).unwrap_or(context.select)),
            Command::new("TRIGGER", at_least(3), &[], SECRETIVE, later!(trigger, 2)).doc(
                "0.3.0",
                "O(N) where N is the number of triggers of the database, or of events that a removed one has not delivered",
                "Adds, lists, removes or pauses triggers, which deliver the events of keys to a URL.",
            ),
            Command::new("FORWARDED", exactly(6), &[], INTRODUCES, now!(forwarded, 2)).doc(
                "0.3.0",
                "O(1)",
                "Introduces a client that another node of the fleet passes on. It is not for clients.",
            ),
            Command::new("HELP", exactly(2), &[], ANY_TIME, now!(show_help, 2)).doc(
                "0.1.0",
                "O(1)",
                "Returns helpful text about the different subcommands.",
            ),
        ],
    )
    .doc("0.1.0", "Depends on subcommand.", "A container for commands about sleep, shards, branches, triggers and usage.")],
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

/// `DORMOUSE BRANCH name [TTL milliseconds] [AT time]`
fn branch(session: &mut Session, (name, options): (&[u8], Rest<'_>)) -> Result<BoxFuture<'static, Answer>> {
    check_owns_branches(session)?;
    let name = String::from_utf8_lossy(name).into_owned();
    let (node, tenant) = (Arc::clone(&session.node), Arc::clone(&session.tenant));
    let full = branch_name(tenant.owner(), &name).map_err(|problem| Error::Text(format!("ERR {problem}").into()))?;
    session.about = Some(full.into());
    let now_ms = (node.engine.clock)();
    let BranchOptions { expires_ms, at_ms } = BranchOptions::read(&options, now_ms)?;
    Ok(async move {
        // The task runs to completion even if the client disconnects, so that nothing is left half made or half
        // deleted.
        let background = node.engine.background.clone();
        let made = background.spawn(async move {
            let made = node.tenants.branch(&tenant, &name, expires_ms, at_ms).await;
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

/// The options of `DORMOUSE BRANCH`, in unix milliseconds.
#[derive(Default)]
struct BranchOptions {
    expires_ms: Option<u64>,
    at_ms: Option<u64>,
}

impl BranchOptions {
    fn read(words: &Rest<'_>, now_ms: u64) -> Result<Self> {
        let mut options = Self::default();
        if !words.len().is_multiple_of(2) {
            return Err(Error::Syntax);
        }
        for at in (0..words.len()).step_by(2) {
            let (option, value) = (words.at(at), words.at(at + 1));
            if option.eq_ignore_ascii_case(b"TTL") && options.expires_ms.is_none() {
                let ttl_ms = number(value).filter(|ttl_ms| *ttl_ms > 0);
                let end = ttl_ms.and_then(|ttl_ms| now_ms.checked_add(ttl_ms));
                // Replies show it as a signed number.
                let end = end.filter(|end| i64::try_from(*end).is_ok());
                options.expires_ms =
                    Some(end.ok_or(Error::text("ERR invalid expire time in 'dormouse|branch' command"))?);
            } else if option.eq_ignore_ascii_case(b"AT") && options.at_ms.is_none() {
                let moment: std::result::Result<PastMoment, _> = String::from_utf8_lossy(value).parse();
                let moment = moment.map_err(|problem| Error::Text(format!("ERR {problem}").into()))?;
                options.at_ms = Some(moment.at_ms(now_ms));
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(options)
    }
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

/// `DORMOUSE DATABASES [DELETED]`
fn databases(session: &mut Session, (options,): (Rest<'_>,)) -> Result<BoxFuture<'static, Answer>> {
    let (node, seen) = (Arc::clone(&session.node), Sight::of(session));
    let deleted = match options.len() {
        0 => false,
        1 if options.at(0).eq_ignore_ascii_case(b"DELETED") => true,
        _ => return Err(Error::Syntax),
    };
    Ok(async move {
        if deleted {
            return answer(Ok(seen.deleted(&node)), |deleted, reply| show_deleted(&deleted, reply));
        }
        let visible = seen.databases(&node).await;
        let (mut shown, mut awaited) = (Vec::with_capacity(visible.len()), 0);
        for tenant in visible {
            let keys = tenant.database.counts()[..INDEXES].iter().map(|(keys, _)| keys).sum::<u64>();
            awaited = awaited.max(tenant.database.told_until());
            // A database that is not a branch has its time to live there alone.
            let record = node.tenants.directory.find(tenant.name());
            shown.push((tenant, keys, record));
        }
        tell(awaited, move |reply| {
            reply.array(shown.len());
            for (tenant, keys, record) in &shown {
                let (database, lineage) = (&tenant.database, tenant.database.lineage());
                let created_ms = record.as_ref().map_or(lineage.created_ms, |record| record.created_ms);
                let expires_ms = record.as_ref().map_or(lineage.expires_ms, |record| record.expires_ms);
                reply.map(11);
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
                    ("keys_estimated", Some(u64::from(database.has_estimated_counts()))),
                    ("stored_bytes", Some(database.counters.stored_bytes.load(Ordering::Relaxed))),
                    ("shared_bytes", Some(lineage.shared_bytes)),
                    ("created_ms", (created_ms > 0).then_some(created_ms)),
                    ("expires_ms", expires_ms),
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

/// `DORMOUSE DELETE name [NOW]`
fn delete(session: &mut Session, (name, options): (&[u8], Rest<'_>)) -> Result<BoxFuture<'static, Answer>> {
    check_owns_branches(session)?;
    let removal = match options.len() {
        0 => Removal::Recoverable,
        1 if options.at(0).eq_ignore_ascii_case(b"NOW") => Removal::ForGood,
        _ => return Err(Error::Syntax),
    };
    let name = String::from_utf8_lossy(name).into_owned();
    session.about = Some(name.as_str().into());
    let (node, seen) = (Arc::clone(&session.node), Sight::of(session));
    Ok(async move {
        let background = node.engine.background.clone();
        let deleted = background.spawn(async move {
            if let Some(name) = seen.find_deleted(&node, &name).filter(|_| removal == Removal::ForGood) {
                return node.tenants.purge(&name).await;
            }
            let found = seen.find_deletable(&node, &name).await?;
            keeper::delete(&node, &found, removal).await.map(drop)
        });
        answer(finished(deleted.await), |(), reply| reply.ok())
    }
    .boxed())
}

/// `DORMOUSE UNDELETE name`
fn undelete(session: &mut Session, (name,): (&[u8],)) -> Result<BoxFuture<'static, Answer>> {
    check_owns_branches(session)?;
    let name = String::from_utf8_lossy(name).into_owned();
    let (node, seen) = (Arc::clone(&session.node), Sight::of(session));
    Ok(async move {
        let background = node.engine.background.clone();
        let done = background.spawn(async move {
            let unknown = || {
                Error::text("ERR nothing of that name can be brought back: DORMOUSE DATABASES DELETED shows what can")
            };
            let name = seen.find_deleted(&node, &name).ok_or_else(unknown)?;
            let refused = |refusal: ChangeRefusal| Error::Text(format!("ERR {refusal}").into());
            node.tenants.undelete(&name).await.map_err(refused)
        });
        answer(finished(done.await), |(), reply| reply.ok())
    }
    .boxed())
}

/// Writes deleted databases that can be brought back.
fn show_deleted(deleted: &[DatabaseRecord], reply: &mut Reply) {
    reply.array(deleted.len());
    for record in deleted {
        let Deletion { at_ms, until_ms } = record.deleted.unwrap_or(Deletion { at_ms: 0, until_ms: 0 });
        reply.map(3);
        reply.bulk(b"name");
        reply.bulk(record.name.as_bytes());
        for (name, value) in [("deleted_ms", at_ms), ("recoverable_until_ms", until_ms)] {
            reply.bulk(name.as_bytes());
            reply.integer(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

/// The databases that a session may see: its own and that one's branches, or all with rights to the node.
struct Sight {
    own: Arc<Tenant>,
    rights: Rights,
}

impl Sight {
    fn of(session: &Session) -> Self {
        Self { own: Arc::clone(&session.tenant), rights: session.rights }
    }

    fn may_see(&self, tenant: &Tenant) -> bool {
        match self.rights {
            Rights::Node => true,
            Rights::Database => tenant.name() == self.own.name() || tenant.descends_from(&self.own),
            Rights::Branch => tenant.name() == self.own.name(),
        }
    }

    /// Returns them in the order of their names, opening those that are not in memory. Without rights to the node these
    /// are few; with them, those beyond a number are left out.
    async fn databases(&self, node: &Node) -> Vec<Arc<Tenant>> {
        let prefix = if self.rights == Rights::Node { String::new() } else { format!("{}.", self.own.owner()) };
        let known: Vec<Box<str>> = match self.rights {
            Rights::Branch => Vec::new(),
            _ => node.tenants.directory.known().after("", &prefix).take(OPENED_MAX).map(|record| record.name).collect(),
        };
        let mut seen: BTreeMap<Box<str>, Arc<Tenant>> =
            node.tenants.all().map(|tenant| (tenant.name().into(), tenant)).collect();
        for name in known {
            if !seen.contains_key(&name)
                && let Some(tenant) = node.tenants.opened(&name).await
            {
                seen.insert(name, tenant);
            }
        }
        seen.into_values().filter(|tenant| self.may_see(tenant)).collect()
    }

    /// Returns the deleted databases that it would see if they were not, in the order of their names.
    fn deleted(&self, node: &Node) -> Vec<DatabaseRecord> {
        let prefix = format!("{}.", self.own.owner());
        let is_seen = |record: &DatabaseRecord| match self.rights {
            Rights::Node => true,
            Rights::Database => record.name.starts_with(&prefix),
            Rights::Branch => false,
        };
        node.tenants.directory.known().all_deleted().filter(is_seen).collect()
    }

    /// Returns the full name of a deleted database.
    fn find_deleted(&self, node: &Node, name: &str) -> Option<Box<str>> {
        let branch = branch_name(self.own.owner(), name).ok();
        let mut seen = self.deleted(node);
        seen.sort_by_key(|record| branch.as_deref() != Some(&*record.name));
        let is_it = |record: &DatabaseRecord| &*record.name == name || branch.as_deref() == Some(&*record.name);
        seen.into_iter().find(is_it).map(|record| record.name)
    }

    async fn find_deletable(&self, node: &Node, name: &str) -> Result<Arc<Tenant>> {
        let sees_all = self.rights == Rights::Node;
        let found = node.tenants.opened_for(self.own.owner(), name, sees_all).await;
        let found = found.filter(|tenant| self.may_see(tenant));
        let unknown = || Error::text("ERR no branch of that name: DORMOUSE DATABASES shows those of this database");
        let found = found.ok_or_else(unknown)?;
        if !found.is_branch() && self.rights < Rights::Node {
            return Err(Error::text("NOPERM only a branch can be deleted without the admin token"));
        }
        if !found.is_branch() && found.name() == DEFAULT_DATABASE {
            return Err(Error::text("ERR the database `default` cannot be deleted"));
        }
        if found.name() == self.own.name() {
            return Err(Error::text("ERR a database cannot be deleted from within: connect to another one"));
        }
        Ok(found)
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `DORMOUSE HISTORY`
fn history(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let tenant = &session.tenant;
    let HistoryState { from_ms, until_ms, bytes, stretches } = tenant.database.history();
    reply.map(6);
    reply.bulk(b"database");
    reply.bulk(tenant.name().as_bytes());
    reply.bulk(b"kept_for");
    reply.bulk(tenant.limits().history.to_string().as_bytes());
    for (name, value) in [
        ("from_ms", from_ms),
        ("until_ms", from_ms.map(|_| until_ms)),
        ("stored_bytes", Some(bytes)),
        ("stretches", Some(stretches as u64)),
    ] {
        reply.bulk(name.as_bytes());
        match value {
            Some(value) => reply.integer(value as i64),
            None => reply.null(),
        }
    }
    Ok(())
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
            "BRANCH <name> [TTL <milliseconds>] [AT <time>]",
            "    Make a branch of this database as it is now, or as it was at a time of its history, such as",
            "    2026-11-27T12:00:00Z or -1h; with TTL, it is deleted after that time.",
            "HISTORY",
            "    Show which moments of the past a branch of this database can be made of.",
            "DATABASES [DELETED]",
            "    Show the database and its branches; or the deleted ones that can be brought back.",
            "DELETE <name> [NOW]",
            "    Delete a branch of the database and disconnect its clients; with NOW, for good.",
            "UNDELETE <name>",
            "    Bring back a branch that was deleted, within the time that the server declares (--deleted-grace).",
            "IMPORT BEGIN | SHOW [REPLACE] | END | DISCARD",
            "    Stage data beside the database; replace the database with it; let its keys expire again; drop staged data.",
            "STAGED <index>",
            "    Select a logical index of the staged data. SELECT leads back.",
            "TRIGGER ADD <json> | LIST | SHOW <name> | REMOVE <name> | PAUSE <name> | RESUME <name>",
            "    Deliver the events of keys to a URL. <json> has the fields of the admin API; replies are in JSON too.",
            "USAGE [HOURS <from> <to> | WINDOWS <from> <to> | COMMANDS | PREFIXES [<milliseconds> [DEPTH <parts>]]]",
            "    Show the meters of the database, the open usage window, and the closed ones that are not in the ledger yet;",
            "    or the closed windows that have ended after <from> and by <to> (Unix milliseconds), summed up by hours or one",
            "    by one; or the calls of each command, and how many of them are not billed; or begin to count requests by the",
            "    prefixes of their keys for some time, and show the count.",
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
