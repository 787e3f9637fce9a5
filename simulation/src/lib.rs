//! The engine on a simulated disk under a held clock: one process after the other, each step decided by a seed.
//!
//! 1. A seed decides a [`plan`] and then every step: the next command, the next answer of the store and the request
//!    that it goes to, when the log is flushed, a checkpoint begins, a shard splits, the clock moves, the process dies.
//! 2. All of the engine runs on one thread: its lanes are tasks of the run's runtime, the log has no flusher, and
//!    requests to the store wait until the schedule answers them ([`disk`]). So the same seed gives the same run.
//! 3. [`model`]s run the same commands, and must answer the same.
//! 4. After a crash the [`book`] checks all keys and databases at once: every promised write has survived, and the
//!    surviving state has once existed.
//! 5. [`features`] add rarer conditions to some of the schedules.
//!
//! | feature | covers |
//! | --- | --- |
//! | plain | commands of all types, transactions, expiry, splits and merges, checkpoints, sleep, loss windows, crashes, power cuts, requests to the store that fail, are lost, or are done without an answer |
//! | `full_disk` | a disk without room for chunks: tails of the log's effects |
//! | `large_values` | values that are stored, loaded and freed in pieces |
//! | `eager_clients` | writes that race with the last checkpoint of a process |
//! | `watches` | transactions that [watch](watches) keys |
//! | `eviction` | limits of memory with every policy: what is dropped, what is refused, how far the limit is exceeded |
//! | `pages` | manifests in two levels |
//! | `damage` | [damage] of durable data: it is noticed, never served, and concerns no other database |
//! | `branches` | [branches] that must stay as they were made, beside eviction and everything else |
//! | `imports` | data that is staged beside a database and replaces it at once, whatever happens in between |
//! | `waits` | clients that [wait](waits) in blocking commands, and leave; they are served in the entry that serves them |
//! | `fields` | fields of hashes that expire, by name and by sweeps |
//! | `streams` | streams, their groups and pending entries; clients that wait for entries |
//! | `scripts` | scripts and functions over several keys, each of which survives as a whole or not at all |
//! | `settings` | users and libraries of functions, which survive once their change is answered: see [`declared`] |
//! | `deliveries` | requests with `ONCE` that are delivered up to three times at once, and again after crashes: they change everything once |
//! | `history` | databases that keep their history: branches of moments that have passed, across crashes |
//! | `backups` | [backups] of what a crash has left, which are restored elsewhere |
//! | `deletions` | branches that are deleted, while others and histories share their objects |
//! | `counts` | `DBSIZE` while keys expire; after a sweep, every count is that of the keys held |
//!
//! [`rivals`] has schedules of another kind: several processes at once on a store that has no lock.
//!
//! The engine is the real one, from the commands down to the bytes. Only the log's files have a twin ([`files`]), since
//! a real file cannot show the effect of a power cut.

#![forbid(unsafe_code)]

pub mod act;
pub mod arrays;
pub mod backups;
pub mod book;
pub mod branches;
pub mod chance;
pub mod client;
pub mod clock;
pub mod damage;
pub mod declared;
pub mod disk;
pub mod documents;
pub mod features;
pub mod file;
pub mod files;
pub mod model;
pub mod node;
pub mod plan;
pub mod rivals;
pub mod run;
pub mod script;
pub mod scripted;
pub mod state;
pub mod streams;
pub mod trace;
pub mod verdict;
pub mod waits;
pub mod watches;

pub use features::Features;
pub use run::{Outcome, run};
