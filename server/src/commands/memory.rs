//! `MEMORY STATS`, `DOCTOR`, `PURGE` and `MALLOC-STATS`. `MEMORY USAGE` is a command over the keyspace.
//!
//! The figures are those of the session's database. Only the process as a whole has an allocator, so its figures are the
//! process's, as in INFO.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dormouse_protocol::Reply;
use dormouse_shard::commands::{Category, Command, Family, Flags, exactly};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::keyspace::{INDEXES, Left};

use crate::clock;
use crate::commands::{help, now};
use crate::databases::Tenant;
use crate::memory::{self, Allocator};
use crate::node::Node;
use crate::process;
use crate::rights::Rights;
use crate::session::Session;
use crate::table::SessionRun;

const HELP: Flags = Flags::LOADING.union(Flags::STALE);
const VARIES: &[&str] = &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"];

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[Command::container(
        "MEMORY",
        &[
            Command::new("DOCTOR", exactly(2), &[], Flags::empty(), now!(doctor, 2))
                .doc("4.0.0", "O(1)", "Outputs a memory problems report.")
                .tips(VARIES),
            Command::new("MALLOC-STATS", exactly(2), &[], Flags::empty(), now!(malloc_stats, 2))
                .doc("4.0.0", "O(1)", "Returns the allocator statistics.")
                .tips(VARIES),
            Command::new("PURGE", exactly(2), &[], Flags::empty(), now!(purge, 2))
                .doc("4.0.0", "O(1)", "Asks the allocator to release memory.")
                .tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
            Command::new("STATS", exactly(2), &[], Flags::empty(), now!(stats, 2))
                .doc("4.0.0", "O(1)", "Returns details about memory usage.")
                .tips(VARIES),
            Command::new("HELP", exactly(2), &[], HELP, now!(show_help, 2)).doc(
                "4.0.0",
                "O(1)",
                "Returns helpful text about the different subcommands.",
            ),
        ],
    )],
};

/// The memory of one database, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct MemoryUse {
    /// Its data, with scripts and functions, now and at most.
    pub data: u64,
    pub data_peak: u64,
    /// Bytes kept for its clients: now, at the peak, and those of replicas among them.
    pub clients: u64,
    pub clients_peak: u64,
    pub replicas: u64,
    pub backlog: u64,
    pub scripts: u64,
    pub functions: u64,
}

impl MemoryUse {
    pub fn of(node: &Node, tenant: &Tenant) -> Self {
        let data = tenant.database.used_bytes() as u64;
        let shared = &tenant.database.shared;
        let clients = node.clients.of_database(tenant.name());
        let replicas = clients.iter().filter(|client| client.is_replica.load(Ordering::Relaxed));
        Self {
            data,
            data_peak: tenant.memory_peak.fetch_max(data, Ordering::Relaxed).max(data),
            clients: tenant.account.used() as u64,
            clients_peak: tenant.account.peak() as u64,
            replicas: replicas.map(|client| client.held_bytes() as u64).sum(),
            backlog: tenant.replication.view().backlog_bytes as u64,
            scripts: shared.scripts.size().1 as u64,
            functions: shared.functions.get().bytes() as u64,
        }
    }

    pub fn total(&self) -> u64 {
        self.data + self.clients
    }

    pub fn peak(&self) -> u64 {
        (self.data_peak + self.clients_peak).max(self.total())
    }

    /// Bytes of everything but data.
    pub fn overhead(&self) -> u64 {
        self.clients + self.scripts + self.functions
    }

    /// Keys with their values.
    pub fn dataset(&self) -> u64 {
        self.data.saturating_sub(self.scripts + self.functions)
    }
}

enum Figure {
    Bytes(u64),
    Ratio(f64),
}

use Figure::{Bytes, Ratio};

/// `MEMORY STATS`
fn stats(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let (used, allocator) = (MemoryUse::of(&session.node, &session.tenant), memory::allocator());
    let keys = session.tenant.database.counts()[..INDEXES].iter().map(|(keys, _)| keys).sum();
    // The number of keys may report writes that are not durable yet.
    session.note(Left { awaited: session.tenant.database.told_until(), written: 0 });
    let figures = figures(&used, &allocator, keys, process::resident_bytes());
    reply.map(figures.len());
    for (name, figure) in figures {
        reply.bulk(name.as_bytes());
        match figure {
            Bytes(bytes) => reply.integer(bytes as i64),
            Ratio(ratio) => reply.double(ratio),
        }
    }
    Ok(())
}

fn figures(used: &MemoryUse, allocator: &Allocator, keys: u64, resident: u64) -> Vec<(&'static str, Figure)> {
    let ratio = |part: u64, whole: u64| Ratio(part as f64 / whole.max(1) as f64);
    let percent = |part: u64, whole: u64| Ratio(part as f64 * 100.0 / whole.max(1) as f64);
    let more = |whole: u64, part: u64| Bytes(whole.saturating_sub(part));
    vec![
        ("peak.allocated", Bytes(used.peak())),
        ("total.allocated", Bytes(used.total())),
        // An empty database takes none.
        ("startup.allocated", Bytes(0)),
        ("replication.backlog", Bytes(used.backlog)),
        ("clients.slaves", Bytes(used.replicas)),
        ("clients.normal", Bytes(used.clients.saturating_sub(used.replicas + used.backlog))),
        ("cluster.links", Bytes(0)),
        ("aof.buffer", Bytes(0)),
        ("lua.caches", Bytes(used.scripts)),
        ("functions.caches", Bytes(used.functions)),
        ("overhead.total", Bytes(used.overhead())),
        ("keys.count", Bytes(keys)),
        ("keys.bytes-per-key", Bytes(used.dataset().checked_div(keys).unwrap_or(0))),
        ("dataset.bytes", Bytes(used.dataset())),
        ("dataset.percentage", percent(used.dataset(), used.total())),
        ("peak.percentage", percent(used.total(), used.peak())),
        ("allocator.allocated", Bytes(allocator.allocated)),
        ("allocator.active", Bytes(allocator.active)),
        ("allocator.resident", Bytes(allocator.resident)),
        ("allocator-fragmentation.ratio", ratio(allocator.active, allocator.allocated)),
        ("allocator-fragmentation.bytes", more(allocator.active, allocator.allocated)),
        ("allocator-rss.ratio", ratio(allocator.resident, allocator.active)),
        ("allocator-rss.bytes", more(allocator.resident, allocator.active)),
        ("rss-overhead.ratio", ratio(resident, allocator.resident)),
        ("rss-overhead.bytes", more(resident, allocator.resident)),
        ("fragmentation", ratio(resident, allocator.allocated)),
        ("fragmentation.bytes", more(resident, allocator.allocated)),
    ]
}

/// `MEMORY DOCTOR`
fn doctor(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let used = MemoryUse::of(&session.node, &session.tenant);
    let settings = session.tenant.settings();
    let connections = session.node.clients.of_database(session.tenant.name()).len() as u64;
    let refusals = session.tenant.account.refusals();
    reply.verbatim("txt", report(&used, settings.max_memory, connections, refusals).as_bytes());
    Ok(())
}

/// Below this, parts of the memory say little.
const SMALL_BYTES: u64 = 5 << 20;
/// Bytes of an average client that are many.
const LARGE_CLIENT_BYTES: u64 = 200 << 10;

fn report(used: &MemoryUse, max_memory: u64, connections: u64, refusals: usize) -> String {
    let mut text = String::new();
    let mut problem = |args: std::fmt::Arguments<'_>| {
        let _ = text.write_fmt(args);
        text.push('\n');
    };
    if max_memory > 0 && used.data > max_memory / 10 * 9 {
        problem(format_args!(
            "Nearly full: the data takes {} of {max_memory} bytes of maxmemory. Raise it, delete keys, or set a \
             maxmemory-policy that evicts some.",
            used.data
        ));
    }
    if used.total() > SMALL_BYTES && used.peak() > used.total() / 2 * 3 {
        problem(format_args!(
            "High peak: at most {} bytes were used, now {}. The memory between them went back to the system.",
            used.peak(),
            used.total()
        ));
    }
    if connections > 0 && used.clients.saturating_sub(used.backlog) / connections > LARGE_CLIENT_BYTES {
        problem(format_args!(
            "Large clients: {connections} connections make the server keep {} bytes. CLIENT LIST shows whose requests \
             or replies are large.",
            used.clients
        ));
    }
    if refusals > 0 {
        problem(format_args!("Refused clients: maxmemory-clients was too small {refusals} times."));
    }
    if used.scripts > SMALL_BYTES {
        problem(format_args!(
            "Many scripts: their texts take {} bytes. Pass what varies as arguments; SCRIPT FLUSH forgets them.",
            used.scripts
        ));
    }
    match text.is_empty() {
        true => "No problem with the memory of this database was found.\n".to_string(),
        false => text,
    }
}

/// The allocator belongs to all databases, so none may keep it busy. A purge that is refused would have found little: one
/// runs, or has just run.
static PURGES: Purges = Purges { is_running: AtomicBool::new(false), from_ms: AtomicU64::new(0) };

/// Shortest time between the beginnings of two purges.
const PURGE_PAUSE_MS: u64 = 1000;

struct Purges {
    is_running: AtomicBool,
    /// When the next one may begin.
    from_ms: AtomicU64,
}

impl Purges {
    /// Begins a purge, which ends when the result is dropped.
    fn begin(&self, now_ms: u64) -> Option<Purge<'_>> {
        if self.is_running.swap(true, Ordering::SeqCst) {
            return None;
        }
        let purge = Purge(self);
        let is_due = now_ms >= self.from_ms.load(Ordering::SeqCst);
        is_due.then(|| {
            self.from_ms.store(now_ms + PURGE_PAUSE_MS, Ordering::SeqCst);
            purge
        })
    }
}

struct Purge<'a>(&'a Purges);

impl Drop for Purge<'_> {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::SeqCst);
    }
}

/// `MEMORY PURGE`
fn purge(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    // It reads the allocator's whole state, so it does not run on a worker.
    if let Some(turn) = PURGES.begin(clock::monotonic_ms()) {
        session.node.engine.background.spawn(async move {
            memory::give_back();
            drop(turn);
        });
    }
    reply.ok();
    Ok(())
}

/// `MEMORY MALLOC-STATS`
fn malloc_stats(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    if session.rights != Rights::Node {
        return Err(Error::text("ERR The allocator belongs to all databases: this needs the admin token"));
    }
    let Allocator { allocated, active, resident, metadata, mapped, retained } = memory::allocator();
    let text = format!(
        "___ Begin jemalloc statistics ___\nAllocated: {allocated}, active: {active}, metadata: {metadata}, \
         resident: {resident}, mapped: {mapped}, retained: {retained}\n--- End jemalloc statistics ---\n"
    );
    reply.verbatim("txt", text.as_bytes());
    Ok(())
}

/// `MEMORY HELP`
fn show_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "MEMORY",
        &[
            "DOCTOR",
            "    Return memory problems reports.",
            "MALLOC-STATS",
            "    Return internal statistics report from the memory allocator.",
            "PURGE",
            "    Attempt to purge dirty pages for reclamation by the allocator.",
            "STATS",
            "    Return information about the memory usage of the server.",
            "USAGE <key> [SAMPLES <count>]",
            "    Return memory in bytes used by <key> and its value. The count is exact, nothing",
            "    is sampled.",
        ],
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purges_neither_overlap_nor_follow_at_once() {
        let purges = Purges { is_running: AtomicBool::new(false), from_ms: AtomicU64::new(0) };
        let first = purges.begin(10_000);
        assert!(first.is_some());
        assert!(purges.begin(20_000).is_none(), "one runs");
        drop(first);
        assert!(purges.begin(10_000 + PURGE_PAUSE_MS - 1).is_none(), "one has just run");
        assert!(purges.begin(10_000 + PURGE_PAUSE_MS).is_some(), "a refused one holds up none");
    }

    #[test]
    fn a_report_names_what_is_wrong() {
        let calm = MemoryUse {
            data: 8 << 20,
            data_peak: 9 << 20,
            clients: 10_000,
            clients_peak: 20_000,
            replicas: 0,
            backlog: 0,
            scripts: 100,
            functions: 0,
        };
        assert_eq!(report(&calm, 0, 2, 0), "No problem with the memory of this database was found.\n");
        assert!(report(&calm, 8 << 20, 2, 0).starts_with("Nearly full"));
        assert!(report(&MemoryUse { data_peak: 90 << 20, ..calm }, 0, 2, 0).starts_with("High peak"));
        assert!(report(&MemoryUse { clients: 9 << 20, ..calm }, 0, 2, 0).starts_with("Large clients"));
        assert!(report(&calm, 0, 2, 1).starts_with("Refused clients"));
        assert!(report(&MemoryUse { scripts: 7 << 20, ..calm }, 0, 2, 0).starts_with("Many scripts"));
    }
}
