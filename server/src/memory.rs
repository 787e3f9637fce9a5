//! The memory of the process: how much it uses, how much it may, and what is done about the difference.
//!
//! A thread looks ten times a second, and more often when little is left:
//!
//! 1. It measures what is used: pages that hold something in the allocator, the allocator's own, and what the process has
//!    beside the allocator. Pages that the allocator keeps free are no use; they are given back when they are in the way.
//! 2. What `--max-memory-total` leaves is said to the engine ([`MEMORY`]), which refuses writes, loads and new clients when
//!    nothing is left, and to the account of all clients, which refuses what they would make the server keep.
//! 3. A database and its branches share the limit of one database. What that leaves is said to each of them; while all have
//!    more in memory, the one that was not used for longest is put to sleep.
//! 4. Above nine tenths the database that was not used for longest is put to sleep ([`relief`]), one at a time.
//! 5. In an account that is crowded the largest clients are closed.
//!
//! So a burst between two looks is bounded too: what clients make the server keep is charged before it is kept, and large
//! changes of the data are counted as they happen.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dormouse_shard::memory::{MEMORY, RESERVE_PART};
use tikv_jemalloc_ctl::{Access, AsName, arenas, epoch, stats};

use crate::node::Node;
use crate::process;
use crate::relief::{self, Relief};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same when more than four fifths of the memory are used.
const LOOK_CLOSELY_EVERY: Duration = Duration::from_millis(20);
const CLOSE_FROM: f64 = 0.8;
/// From this part on databases are put to sleep.
const RELIEF_FROM: f64 = 0.9;
/// Free pages are given back to the system when it would make so much difference, and not more often than this.
const GIVEN_BACK_MIN: u64 = 16 << 20;
const GIVE_BACK_EVERY: Duration = Duration::from_millis(200);

/// Starts the thread that watches the memory of a node. It ends with the node, or when that drains.
///
/// # Errors
/// When the system refuses a thread.
pub fn watch(node: &Arc<Node>) -> std::io::Result<()> {
    let node = Arc::downgrade(node);
    std::thread::Builder::new().name("memory".into()).spawn(move || Watch::default().run(&node)).map(drop)
}

#[derive(Debug, Default)]
struct Watch {
    relief: Relief,
    given_back: Option<Instant>,
}

impl Watch {
    fn run(mut self, node: &Weak<Node>) {
        while let Some(node) = node.upgrade().filter(|node| !node.is_draining()) {
            let every = self.look(&node);
            drop(node);
            std::thread::park_timeout(every);
        }
    }

    /// One look at everything; answers when the next one is due.
    fn look(&mut self, node: &Arc<Node>) -> Duration {
        let crowded = relief::divide_among_families(node);
        if !crowded.is_empty() {
            self.relief.put_one_to_sleep(node, crowded.into_iter(), "its branches share its max-memory");
        }
        let used = self.measure(node);
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
            if share > CLOSE_FROM || process::resident_bytes() as f64 > total as f64 * CLOSE_FROM {
                every = LOOK_CLOSELY_EVERY;
            }
            if share > RELIEF_FROM {
                let why = format!("{} % of max-memory-total is used", (share * 100.0) as u64);
                self.relief.put_one_to_sleep(node, node.tenants.all(), &why);
            }
        }
        relief::close_hoarders(node);
        every
    }

    /// What is used, after what is not was given back if that is in the way.
    fn measure(&mut self, node: &Node) -> u64 {
        let (used, resident) = (used_bytes(), process::resident_bytes());
        let total = node.facts.max_memory_total;
        // Nothing else helps when that is more than there may be.
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

/// Bytes that the process uses: with the allocator's pages that hold something, without those that it keeps free.
pub fn used_bytes() -> u64 {
    let _ = epoch::advance();
    let read = |bytes: Result<usize, _>| bytes.map_or(0, |bytes: usize| bytes as u64);
    let beside = process::resident_bytes().saturating_sub(read(stats::resident::read()));
    read(stats::active::read()) + read(stats::metadata::read()) + beside
}

/// Gives what was freed back to the system at once.
///
/// An arena whose decay time is set to zero purges its unused pages there and then; afterwards the time is as before, so
/// that a busy server does not pay for returning pages that it needs again.
pub fn give_back() {
    let count = arenas::narenas::read().unwrap_or(0);
    for arena in 0..count {
        for kind in ["dirty", "muzzy"] {
            let name = format!("arena.{arena}.{kind}_decay_ms\0");
            let name = name.as_bytes().name();
            // An arena that was never used refuses, and has nothing to give.
            let before: Result<isize, _> = name.read();
            if let Ok(before) = before
                && name.write(0_isize).is_ok()
            {
                let _ = name.write(before);
            }
        }
    }
}

/// Bytes that the allocator has handed out and not got back.
pub fn allocated_bytes() -> u64 {
    let _ = epoch::advance();
    stats::allocated::read().map_or(0, |bytes| bytes as u64)
}
