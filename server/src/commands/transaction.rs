//! Transactions: MULTI queues, EXEC runs the queue under the locks of all the shards that it needs, WATCH says when not to.
//!
//! A transaction's effects are one entry of the log, also across shards, and nobody sees it half done: its locks are taken in shard
//! order before its first command and let go after its last.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use dormouse_protocol::{OwnedRequest, Reply, Request};
use dormouse_shard::commands::{self, Category, Command, Family, Flags, KeySpec, at_least, exactly};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::keyspace::eviction::{NoRoom, added_bytes};
use dormouse_shard::keyspace::{Contents, INDEXES, Keyspace};
use dormouse_shard::shard::{HeldShard, ShardGate};
use dormouse_shard::topology::{Topology, hold};
use parking_lot::MutexGuard;

use crate::account::{self, ENTRY_BYTES};
use crate::commands::info::State;
use crate::commands::now;
use crate::session::{Session, SessionRun, Transaction, Watching, missing};
use crate::table::{Action, Entry, TABLE};
use crate::turn::Waits;

/// Bytes that a transaction may queue: the query buffer limit of one client.
const QUEUED_BYTES_MAX: usize = 1 << 30;

const BASE: Flags = Flags::NO_SCRIPT.union(Flags::LOADING).union(Flags::STALE).union(Flags::FAST);
const ALONE: Flags = BASE.union(Flags::ALLOW_BUSY).union(Flags::NO_MULTI);

pub const FAMILY: Family<SessionRun> = Family {
    group: "transactions",
    category: Category::TRANSACTION,
    commands: &[
        Command::new("MULTI", exactly(1), &[], ALONE, now!(multi)).doc("1.2.0", "O(1)", "Starts a transaction."),
        Command::new(
            "EXEC",
            exactly(1),
            &[],
            Flags::NO_SCRIPT.union(Flags::LOADING).union(Flags::STALE).union(Flags::SKIP_SLOWLOG),
            SessionRun::Exec,
        )
        .doc("1.2.0", "Depends on commands in the transaction", "Executes all commands in a transaction."),
        Command::new("DISCARD", exactly(1), &[], BASE.union(Flags::ALLOW_BUSY), now!(discard)).doc(
            "2.0.0",
            "O(N), when N is the number of queued commands",
            "Discards a transaction.",
        ),
        Command::new("WATCH", at_least(2), &[KeySpec::rest(1, commands::Access::RO)], ALONE, SessionRun::Watch).doc(
            "2.2.0",
            "O(1) for every key.",
            "Monitors changes to keys to determine the execution of a transaction.",
        ),
        Command::new("UNWATCH", exactly(1), &[], BASE.union(Flags::ALLOW_BUSY), now!(unwatch)).doc(
            "2.2.0",
            "O(1)",
            "Forgets about watched keys of a transaction.",
        ),
    ],
};

/// `MULTI`
fn multi(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    if session.transaction.is_some() {
        return Err(Error::text("ERR MULTI calls can not be nested"));
    }
    session.transaction = Some(Box::new(Transaction::default()));
    session.client.queued.store(0, Ordering::Relaxed);
    reply.ok();
    Ok(())
}

/// `DISCARD`
fn discard(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    if session.transaction.is_none() {
        return Err(Error::text("ERR DISCARD without MULTI"));
    }
    abort(session);
    reply.ok();
    Ok(())
}

/// `UNWATCH`
fn unwatch(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    session.unwatch();
    reply.ok();
    Ok(())
}

/// Forgets what is queued and watched.
pub fn abort(session: &mut Session) {
    session.unwatch();
    session.client.queued.store(u32::MAX, Ordering::Relaxed);
    session.client.queued_bytes.store(0, Ordering::Relaxed);
    if let Some(transaction) = session.transaction.take() {
        session.client.let_go(transaction.bytes);
    }
}

/// Whether a command is run in the middle of a transaction rather than queued.
pub fn runs_at_once(entry: &Entry) -> bool {
    matches!(&*entry.name, "exec" | "discard" | "multi" | "watch" | "quit" | "reset")
}

/// Queues a command, or says why it cannot be.
pub fn enqueue(session: &mut Session, entry: &Entry, request: OwnedRequest, reply: &mut Reply) {
    let Some(transaction) = &mut session.transaction else { return };
    if &*entry.name == "client|reply" {
        // Replies that were left out of the one to EXEC would leave it a frame that never ends. Redis sends such a frame.
        transaction.broken = true;
        reply.error("ERR Command 'client|reply' not allowed inside a transaction");
        return;
    }
    let waits = matches!(entry.action, Action::Session(SessionRun::Later(_)));
    // The transaction holds the locks of one database: it cannot go on in another.
    let needs_token = session.node.tenants.needs_token();
    let other = |user: Option<&[u8]>| user.is_some_and(|user| needs_token || user != session.tenant.name().as_bytes());
    let words = request.as_request();
    let leaves = match &*entry.name {
        "auth" if words.len() == 2 => needs_token,
        "auth" => other(words.iter().nth(1)),
        // The last AUTH of several counts, and a name may be spelled like an option: each is looked at.
        "hello" => (2..words.len().saturating_sub(1))
            .any(|at| words.arg(at).eq_ignore_ascii_case(b"AUTH") && other(Some(words.arg(at + 1)))),
        _ => false,
    };
    if entry.row.flags.contains(Flags::NO_MULTI) || waits || leaves {
        transaction.broken = true;
        reply.error("ERR Command not allowed inside a transaction");
        return;
    }
    if session.tenant.database.shared.is_full() {
        transaction.broken = true;
        reply.error(&Error::OutOfMemory.to_string());
        return;
    }
    let bytes = request.heap_bytes() + size_of::<OwnedRequest>();
    let held = if transaction.bytes + bytes > QUEUED_BYTES_MAX {
        Err(Error::text("ERR the transaction is larger than the query buffer limit"))
    } else {
        session.client.hold(bytes).map_err(account::refusal)
    };
    if let Err(error) = held {
        transaction.broken = true;
        transaction.queue = Vec::new();
        session.client.let_go(std::mem::take(&mut transaction.bytes));
        reply.error(&error.to_string());
        return;
    }
    transaction.bytes += bytes;
    transaction.queue.push(request);
    session.client.queued.store(transaction.queue.len() as u32, Ordering::Relaxed);
    session.client.queued_bytes.store(transaction.bytes, Ordering::Relaxed);
    reply.simple("QUEUED");
}

/// `EXEC`
pub async fn exec(session: &mut Session, reply: &mut Reply, now_ms: u64) {
    let Some(transaction) = session.transaction.take() else {
        reply.error("ERR EXEC without MULTI");
        return;
    };
    session.client.queued.store(u32::MAX, Ordering::Relaxed);
    session.client.queued_bytes.store(0, Ordering::Relaxed);
    if transaction.broken {
        session.client.let_go(transaction.bytes);
        session.unwatch();
        reply.error("EXECABORT Transaction discarded because of previous errors.");
        return;
    }
    let outcome = run_queue(session, &transaction, reply, now_ms).await;
    session.client.let_go(transaction.bytes);
    session.gathered = None;
    session.unwatch();
    if let Err(error) = outcome {
        reply.error(&format!("EXECABORT Transaction discarded because of: {error}"));
    }
}

/// Takes the locks, looks at the watched keys, and runs the queue.
async fn run_queue(session: &mut Session, transaction: &Transaction, reply: &mut Reply, now_ms: u64) -> Result<()> {
    let database = Arc::clone(&session.tenant.database);
    let entries: Vec<&Entry> =
        transaction.queue.iter().filter_map(|request| TABLE.resolve(request.as_request()).ok()).collect();
    let turn = session.turn();
    if entries.iter().any(|entry| is_info(entry)) {
        // Under the locks nothing can be waited for.
        let (node, tenant) = (Arc::clone(&session.node), Arc::clone(&session.tenant));
        session.gathered = Some(Box::new(State::gather(node, tenant)));
    }
    if session.watching.is_none() && !entries.iter().any(|entry| matches!(entry.action, Action::Keyspace(_))) {
        // Nothing is asked of the keyspace, so it need not be woken.
        run_commands(session, transaction, &entries, reply, None);
        return Ok(());
    }
    session.client.worked_ms.store(now_ms, Ordering::Relaxed);
    let select = session.select;
    loop {
        let topology = turn.wait(Waits::Wake, database.awake()).await??;
        if entries.iter().any(|entry| entry.row.flags.contains(Flags::ALL_RESIDENT)) {
            turn.wait(Waits::Load, database.load_all()).await??;
        }
        let shards = route(session, &topology, transaction, &entries);
        let gates: Vec<ShardGate> = shards.iter().map(|&shard| Arc::clone(&topology.shards[shard])).collect();
        let held = turn.wait(Waits::Lock, hold(gates)).await?;
        turn.enter()?;
        let start = reply.len();
        match under(session, &topology, &shards, &held, transaction, &entries, reply, now_ms) {
            Ran::Done => return Ok(()),
            Ran::Refused(error) => return Err(error),
            Ran::Rerouted => turn.wait_again(),
            Ran::Fault(fault) => {
                drop(held);
                reply.truncate(start);
                session.select(select);
                turn.wait_again();
                turn.wait(Waits::Load, database.load(fault)).await??;
            }
            Ran::Short(bytes) => {
                drop(held);
                reply.truncate(start);
                session.select(select);
                turn.wait_again();
                turn.wait(Waits::Room, database.make_room(bytes)).await??;
            }
        }
    }
}

enum Ran {
    Done,
    /// Before its first command.
    Refused(Error),
    Rerouted,
    Fault(dormouse_shard::keyspace::Fault),
    /// So many bytes must be free first.
    Short(usize),
}

/// The shards of all keys that are queued or watched.
fn route(session: &Session, topology: &Topology, transaction: &Transaction, entries: &[&Entry]) -> Vec<usize> {
    let whole = Flags::WHOLE.union(Flags::BY_CURSOR);
    if entries.iter().any(|entry| entry.row.flags.intersects(whole) || is_info(entry)) {
        return (0..topology.shards.len()).collect();
    }
    let mut shards: Vec<usize> = Vec::new();
    for (request, entry) in transaction.queue.iter().zip(entries) {
        let request = request.as_request();
        if matches!(entry.action, Action::Keyspace(_)) {
            shards.extend(entry.row.key_indexes(request).map(|key| topology.of_key(request.arg(key))));
        }
    }
    if let Some(watching) = &session.watching {
        shards.extend(watching.keys.iter().map(|(_, key)| topology.of_key(key)));
    }
    if shards.is_empty() {
        shards.push(0);
    }
    shards.sort_unstable();
    shards.dedup();
    shards
}

#[expect(clippy::too_many_arguments, reason = "the state of one transaction between two awaits")]
fn under(
    session: &mut Session,
    topology: &Topology,
    shards: &[usize],
    held: &[HeldShard],
    transaction: &Transaction,
    entries: &[&Entry],
    reply: &mut Reply,
    now_ms: u64,
) -> Ran {
    let mut contents: Vec<MutexGuard<'_, Contents>> = held.iter().map(HeldShard::contents).collect();
    let moved =
        contents.iter().zip(shards).any(|(contents, &shard)| contents.retired || !topology.matches(shard, contents));
    if contents.len() != shards.len() || moved {
        return Ran::Rerouted;
    }
    let published = held.iter().map(|held| held.gate().guarded.published()).sum();
    let database = Arc::clone(&session.tenant.database);
    let seed = session.worker.random();
    let parts = contents.iter_mut().map(|contents| &mut **contents);
    let mut db = Keyspace::new(parts, &database.shared, session.select, now_ms, seed);
    db.no_touch(session.client.no_touch.load(Ordering::Relaxed));
    if let Some(watching) = &session.watching {
        for (select, key) in &watching.keys {
            db.select(*select);
            if let Some(fault) = db.missing(db.position(key))
                && !watching.touched.load(Ordering::SeqCst)
            {
                return Ran::Fault(fault);
            }
            // A watched key that has expired counts as changed: looking at it says so.
            db.expire(key);
        }
        db.select(session.select);
        if watching.touched.load(Ordering::SeqCst) {
            // It tells of somebody's write.
            db.depend_on_all();
            reply.null_array();
            session.note(db.finish());
            return Ran::Done;
        }
    }
    // Everything that the queue needs must be there before its first command changes anything.
    let swaps = entries.iter().any(|entry| &*entry.name == "swapdb");
    let mut select = session.select;
    for (request, entry) in transaction.queue.iter().zip(entries) {
        let request = request.as_request();
        if &*entry.name == "select" {
            select = commands::args::integer(request.arg(1))
                .ok()
                .and_then(|n| u8::try_from(n).ok())
                .filter(|n| usize::from(*n) < INDEXES)
                .unwrap_or(select);
        }
        if &*entry.name == "dormouse|staged" {
            select = commands::staging::index(request.arg(2)).unwrap_or(select);
        }
        // After a SWAPDB a command may see any index.
        for index in if swaps { 0..INDEXES as u8 } else { select..select + 1 } {
            db.select(index);
            if let Some(fault) = missing(&db, entry.row, request) {
                return Ran::Fault(fault);
            }
            if entry.row.flags.intersects(Flags::WHOLE | Flags::BY_CURSOR)
                // What writes the whole need not read it, unless it starts from a key: SORT follows patterns anywhere.
                && (!entry.row.flags.contains(Flags::WRITE) || !entry.row.keys.is_empty())
                && let Some(fault) = db.any_missing()
            {
                return Ran::Fault(fault);
            }
            // A flush or a swap in the queue says which watched keys it changes.
            if entry.row.flags.contains(Flags::WHOLE | Flags::WRITE)
                && let Some(fault) = db.watched_missing()
            {
                return Ran::Fault(fault);
            }
        }
    }
    db.select(session.select);
    if entries.iter().any(|entry| entry.row.flags.contains(Flags::WRITE))
        && let Err(error) = database.shared.journal.admit()
    {
        return Ran::Refused(error.into());
    }
    // Room is made once: a transaction is not refused halfway.
    let queue = transaction.queue.iter().zip(entries);
    let growing = queue.filter(|(_, entry)| entry.row.flags.contains(Flags::DENY_OOM));
    let adds: usize = growing.map(|(request, _)| added_bytes(request.as_request())).sum();
    match if adds > 0 { db.make_room(published, adds) } else { Ok(()) } {
        Ok(()) => {}
        Err(NoRoom::Refused(error)) => return Ran::Refused(error),
        Err(NoRoom::Wait(bytes)) => return Ran::Short(bytes),
    }
    run_commands(session, transaction, entries, reply, Some(&mut db));
    session.note(db.finish());
    session.count_keyspace(db.hits, db.misses);
    database.free(db.take_graveyard());
    Ran::Done
}

/// Runs the queue; `db`: where something is asked of the keyspace.
fn run_commands(
    session: &mut Session,
    transaction: &Transaction,
    entries: &[&Entry],
    reply: &mut Reply,
    mut db: Option<&mut Keyspace<'_>>,
) {
    reply.array(transaction.queue.len());
    let mut mark = Instant::now();
    for (request, entry) in transaction.queue.iter().zip(entries) {
        let request = request.as_request();
        let before = reply.len();
        match (entry.action, &mut db) {
            (Action::Keyspace(run), Some(db)) => {
                if commands::call(entry.row, run, db, reply, request).is_err() {
                    reply.error("ERR a part of the database was not in memory");
                }
            }
            (Action::Session(SessionRun::Now(run) | SessionRun::Either(run, _)), db) => {
                if let (Some(state), Some(db)) = (&mut session.gathered, &db) {
                    state.recount(db);
                }
                if let Err(error) = run(session, reply, request) {
                    reply.truncate(before);
                    reply.error(&error.to_string());
                }
                if let Some(db) = db {
                    db.select(session.select);
                }
            }
            _ => reply.error("ERR Command not allowed inside a transaction"),
        }
        reply.settle(before);
        reply.set_version(session.version);
        let now = Instant::now();
        session.count_queued(entry, request, reply, before, now.duration_since(mark));
        mark = now;
    }
}

fn is_info(entry: &Entry) -> bool {
    &*entry.name == "info"
}

/// `WATCH key [key ...]`
pub async fn watch(session: &mut Session, reply: &mut Reply, request: Request<'_>, now_ms: u64) {
    if session.transaction.is_some() {
        reply.error("ERR WATCH inside MULTI is not allowed");
        return;
    }
    match watch_keys(session, request, now_ms).await {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(&error.to_string()),
    }
}

async fn watch_keys(session: &mut Session, request: Request<'_>, now_ms: u64) -> Result<()> {
    let database = Arc::clone(&session.tenant.database);
    let turn = session.turn();
    for key in request.iter().skip(1) {
        loop {
            let topology = turn.wait(Waits::Wake, database.awake()).await??;
            let shard = topology.of_key(key);
            let held = turn.wait(Waits::Lock, hold(vec![Arc::clone(&topology.shards[shard])])).await?;
            let ran = held.first().map(|held| watch_key(session, held, &topology, shard, key, now_ms));
            // A load needs the lock.
            drop(held);
            match ran {
                Some(Ran::Done) => break,
                Some(Ran::Refused(error)) => return Err(error),
                Some(Ran::Fault(fault)) => turn.wait(Waits::Load, database.load(fault)).await??,
                // A watch adds nothing, so it is never short of memory.
                Some(Ran::Rerouted | Ran::Short(_)) | None => {}
            }
        }
    }
    if let Some(watching) = &session.watching {
        session.client.watching.store(watching.keys.len() as u32, Ordering::Relaxed);
    }
    Ok(())
}

/// Watches one key under its shard's lock.
fn watch_key(
    session: &mut Session,
    held: &HeldShard,
    topology: &Topology,
    shard: usize,
    key: &[u8],
    now_ms: u64,
) -> Ran {
    let database = Arc::clone(&session.tenant.database);
    let mut contents = held.contents();
    if contents.retired || !topology.matches(shard, &contents) {
        return Ran::Rerouted;
    }
    let select = session.select;
    let mut db = Keyspace::new([&mut *contents], &database.shared, select, now_ms, 1);
    if let Some(fault) = db.missing(db.position(key)) {
        return Ran::Fault(fault);
    }
    // What has expired already does not count as changed later.
    db.expire(key);
    let watching = session.watching.get_or_insert_with(|| Box::new(Watching::default()));
    if watching.keys.contains(&(select, key.into())) {
        return Ran::Done;
    }
    // Two maps know it.
    let bytes = 2 * (key.len() + ENTRY_BYTES);
    if let Err(limit) = session.client.hold(bytes) {
        return Ran::Refused(account::refusal(limit));
    }
    watching.bytes += bytes;
    watching.keys.insert((select, key.into()));
    database.shared.watches.add(select, key, &watching.touched);
    Ran::Done
}
