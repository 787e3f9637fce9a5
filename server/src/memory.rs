//! The memory of the process: its use, its limit, and the actions that keep it within the limit.
//!
//! A thread looks ten times a second, more often when little is left, and once a second while the process does nothing:
//!
//! 1. It measures the used memory: pages in use by the allocator, the allocator's own, and the process's memory beside
//!    the allocator. Free pages that the allocator keeps do not count as used; they are given back when they are in the
//!    way.
//! 2. It tells the engine ([`MEMORY`]) what `--max-memory-total` leaves. The engine refuses writes, loads and new
//!    clients when nothing is left. The account of all clients gets a limit too, and refuses what they would make the
//!    server keep.
//! 3. A database and its branches share the limit of one database. Each is told what the others leave. If all together
//!    have more in memory, the least recently used one is put to sleep.
//! 4. Above nine tenths, the least recently used database is put to sleep ([`relief`]), one at a time.
//! 5. The largest clients of a crowded account are closed.
//!
//! A burst between two looks is bounded too: clients' memory is charged before it is kept, and large changes of the
//! data are counted as they happen.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dormouse_shard::memory::{MEMORY, RESERVE_PART, flush_cache, slab_bytes};
use tikv_jemalloc_ctl::{Access, AsName, arenas, epoch, stats};
use tokio::sync::Notify;

use crate::node::Node;
use crate::process;
use crate::relief::{self, Relief};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// CPU time without which memory cannot have grown much: the system alone takes about that long for ten megabytes of new pages.
const CALM_BELOW: Duration = Duration::from_millis(1);
/// Interval of looks at a process that does nothing.
const LOOK_ANYWAY_EVERY: Duration = Duration::from_secs(1);
/// Interval of looks when more than four fifths of the memory are used.
const LOOK_CLOSELY_EVERY: Duration = Duration::from_millis(20);
const CLOSE_FROM: f64 = 0.8;
/// Share of the memory from which databases are put to sleep.
const RELIEF_FROM: f64 = 0.9;
/// Free pages are given back to the system if that frees this many bytes, and at most at this interval.
const GIVEN_BACK_MIN: u64 = 16 << 20;
const GIVE_BACK_EVERY: Duration = Duration::from_millis(200);

/// Starts the thread that watches the memory of a node. It ends with the node, or when the node drains.
///
/// # Errors
/// When the system refuses a thread.
pub fn watch(node: &Arc<Node>) -> std::io::Result<()> {
    let node = Arc::downgrade(node);
    let run = move || {
        purge_elsewhere();
        Watch::default().run(&node);
    };
    std::thread::Builder::new().name("memory".into()).spawn(run).map(drop)
}

#[derive(Debug, Default)]
struct Watch {
    relief: Relief,
    given_back: Option<Instant>,
    /// `None`: the last look found something to do.
    calm_since: Option<Calm>,
}

/// A look that found nothing to do.
#[derive(Debug, Clone, Copy)]
struct Calm {
    at: Instant,
    /// The CPU time of the process.
    cpu: Duration,
}

impl Calm {
    fn now() -> Self {
        Self { at: Instant::now(), cpu: process::cpu_time() }
    }

    /// Whether hardly anything has happened from then until `now`, and it is not long ago.
    fn lasts_until(self, now: Self) -> bool {
        now.at.duration_since(self.at) < LOOK_ANYWAY_EVERY && now.cpu.saturating_sub(self.cpu) < CALM_BELOW
    }
}

impl Watch {
    fn run(mut self, node: &Weak<Node>) {
        while let Some(node) = node.upgrade().filter(|node| !node.is_draining()) {
            let every = if self.is_calm() { LOOK_EVERY } else { self.look(&node) };
            drop(node);
            std::thread::park_timeout(every);
        }
    }

    /// Whether hardly anything has happened since the last look, which found nothing to do. A look costs a hundred times as
    /// much as this question.
    fn is_calm(&self) -> bool {
        self.calm_since.is_some_and(|since| since.lasts_until(Calm::now()))
    }

    /// Looks once at everything. Returns the time until the next look.
    fn look(&mut self, node: &Arc<Node>) -> Duration {
        let crowded = relief::divide_among_families(node);
        let is_crowded = !crowded.is_empty();
        if is_crowded {
            self.relief.put_one_to_sleep(node, crowded.into_iter(), "its branches share its max-memory");
        }
        let resident = process::resident_bytes();
        let used = self.measure(node, resident);
        node.memory_used.store(used, Ordering::Relaxed);
        let total = node.facts.max_memory_total;
        let mut every = LOOK_EVERY;
        if total > 0 {
            let clients = node.clients.memory.used();
            let beside = usize::try_from(used).unwrap_or(usize::MAX).saturating_sub(clients);
            let total_bytes = usize::try_from(total).unwrap_or(usize::MAX);
            // Clients leave the reserve to databases that use little.
            node.clients.memory.set_limit((total_bytes - total_bytes / RESERVE_PART).saturating_sub(beside));
            let left = isize::try_from(i128::from(total) - i128::from(used)).unwrap_or(isize::MAX);
            let databases = node.tenants.all().filter(|tenant| tenant.database.is_awake()).count();
            MEMORY.measured(left, total_bytes, databases);
            let share = used as f64 / total as f64;
            if share > CLOSE_FROM || resident as f64 > total as f64 * CLOSE_FROM {
                every = LOOK_CLOSELY_EVERY;
            }
            if share > RELIEF_FROM {
                let why = format!("{} % of max-memory-total is used", (share * 100.0) as u64);
                self.relief.put_one_to_sleep(node, node.tenants.all(), &why);
            }
        }
        relief::close_hoarders(node);
        let is_calm = !is_crowded && every == LOOK_EVERY;
        self.calm_since = is_calm.then(Calm::now);
        every
    }

    /// Returns the used bytes. Before that, gives back unused memory if that is in the way.
    fn measure(&mut self, node: &Node, resident: u64) -> u64 {
        let used = used_beside(resident);
        let total = node.facts.max_memory_total;
        // If resident memory exceeds the limit, nothing else helps.
        let is_too_much = total > 0 && resident > total;
        let is_in_the_way = node.facts.max_memory_total > 0
            && resident as f64 > node.facts.max_memory_total as f64 * RELIEF_FROM
            && resident > used + GIVEN_BACK_MIN;
        if is_in_the_way && (is_too_much || self.given_back.is_none_or(|last| last.elapsed() > GIVE_BACK_EVERY)) {
            self.given_back = Some(Instant::now());
            give_back();
        }
        used
    }
}

/// Gives this thread memory of its own to allocate from. Otherwise it shares the allocator's locks with threads of a lower
/// priority, and waits while one that holds such a lock has no processor.
pub fn allocate_apart() {
    let arena: Result<u32, _> = b"arenas.create\0".name().read();
    // Refused: then it shares memory with the others.
    let _ = arena.and_then(|arena| b"thread.arena\0".name().write(arena));
}

/// Lets threads of the allocator return freed pages to the system, where it has such threads: a thread that frees a large
/// value would otherwise return pages that others have freed.
fn purge_elsewhere() {
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
}

/// Bytes that the process uses, including the allocator's pages in use, without its free pages.
pub fn used_bytes() -> u64 {
    used_beside(process::resident_bytes())
}

/// The same if so many bytes are resident.
fn used_beside(resident: u64) -> u64 {
    let _ = epoch::advance();
    let read = |bytes: Result<usize, _>| bytes.map_or(0, |bytes: usize| bytes as u64);
    let beside = resident.saturating_sub(read(stats::resident::read()));
    read(stats::active::read()) + read(stats::metadata::read()) + beside
}

/// Tells the workers that memory is given back.
static GIVING_BACK: Notify = Notify::const_new();

/// Gives freed memory back to the system at once.
///
/// Free blocks in the caches of threads keep the slabs around them, so this thread flushes its cache, and workers are
/// told to flush theirs. Other threads do so whenever they have no work left.
///
/// An arena whose decay time is set to zero purges its unused pages immediately. The decay time is then restored, so
/// that a busy server does not pay for returning pages that it needs again.
pub fn give_back() {
    flush_cache();
    GIVING_BACK.notify_waiters();
    purge();
}

fn purge() {
    let count = arenas::narenas::read().unwrap_or(0);
    for arena in 0..count {
        for kind in ["dirty", "muzzy"] {
            let name = format!("arena.{arena}.{kind}_decay_ms\0");
            let name = name.as_bytes().name();
            // An arena that was never used refuses, and has nothing to give back.
            let before: Result<isize, _> = name.read();
            if let Ok(before) = before
                && name.write(0_isize).is_ok()
            {
                let _ = name.write(before);
            }
        }
    }
}

/// Flushes the cache of a worker whenever memory is given back. Never ends.
pub async fn flush_when_given_back() {
    loop {
        GIVING_BACK.notified().await;
        let before = slab_bytes();
        flush_cache();
        if slab_bytes() < before {
            purge();
        }
    }
}

/// Bytes of the process as its allocator counts them.
#[derive(Debug, Clone, Copy)]
pub struct Allocator {
    /// Handed out and not received back.
    pub allocated: u64,
    /// Pages with anything in them.
    pub active: u64,
    pub resident: u64,
    /// Its own.
    pub metadata: u64,
    pub mapped: u64,
    /// Addresses that it keeps, without memory.
    pub retained: u64,
}

/// Returns what the allocator says now.
pub fn allocator() -> Allocator {
    let _ = epoch::advance();
    let read = |bytes: Result<usize, _>| bytes.map_or(0, |bytes: usize| bytes as u64);
    Allocator {
        allocated: read(stats::allocated::read()),
        active: read(stats::active::read()),
        resident: read(stats::resident::read()),
        metadata: read(stats::metadata::read()),
        mapped: read(stats::mapped::read()),
        retained: read(stats::retained::read()),
    }
}

/// Bytes that the allocator has handed out and not received back.
pub fn allocated_bytes() -> u64 {
    let _ = epoch::advance();
    stats::allocated::read().map_or(0, |bytes| bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_calm_for_a_second_unless_it_works() {
        let began = Calm { at: Instant::now(), cpu: Duration::from_secs(5) };
        for (after_ms, worked_us, expected) in [
            (0, 0, true),
            (100, 900, true),
            (999, 999, true),
            (1_000, 0, false),
            (100, 1_000, false),
            (100, 50_000, false),
            (5_000, 5_000, false),
        ] {
            let now = Calm {
                at: began.at + Duration::from_millis(after_ms),
                cpu: began.cpu + Duration::from_micros(worked_us),
            };
            assert_eq!(began.lasts_until(now), expected, "{after_ms} ms later, {worked_us} us of work");
        }
    }

    #[test]
    fn without_a_look_that_found_nothing_to_do_there_is_no_calm() {
        let mut watch = Watch::default();
        assert!(!watch.is_calm(), "it has not looked yet");
        // Work of this process's other tests may end it at once, but the last look is long ago in any case.
        let at = Instant::now().checked_sub(2 * LOOK_ANYWAY_EVERY);
        watch.calm_since = at.map(|at| Calm { at, cpu: process::cpu_time() });
        assert!(!watch.is_calm());
    }
}
