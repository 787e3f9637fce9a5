//! Scripts that were suspended on a thread that serves others, and go on on the slow lane.
//!
//! The locks go along with the script: others see all of it or nothing. So it gets a thread at once, beyond the bounds of
//! the lane ([`Queue::go_on`](crate::lane::Queue::go_on)), and its outcome is delivered whatever becomes of its client.

use std::any::Any;
use std::sync::Arc;

use dormouse_protocol::{OwnedRequest, Reply};
use dormouse_storage::stopwatch::{CpuStopwatch, Stopwatch};
use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::plan::{Ended, Outcome, Ran, Witness};
use super::serving::{Replies, serve};
use super::step;
use crate::commands::{self, Row};
use crate::database::Database;
use crate::gate::Guarded;
use crate::keyspace::{Contents, DetachedKeyspace, Keyspace};
use crate::shard::HeldShard;

/// A suspended script, with everything but its locks.
pub(super) struct Suspended {
    pub database: Arc<Database>,
    pub row: &'static Row,
    pub request: OwnedRequest,
    /// Takes its reply.
    pub reply: Reply,
    pub keyspace: DetachedKeyspace,
    pub script: Box<dyn Any + Send>,
    pub witness: Option<Witness>,
}

impl Suspended {
    /// Lets it go on, and tells `done` its outcome when it has given the locks back.
    pub fn go_on(self: Box<Self>, held: Vec<HeldShard>, done: impl FnOnce(Outcome) + Send + 'static) {
        let database = Arc::clone(&self.database);
        database.go_on(move || {
            let outcome = self.finish(&held);
            drop(held);
            done(outcome);
        });
    }

    fn finish(self, held: &[HeldShard]) -> Outcome {
        let Self { database, row, request, mut reply, keyspace, script, witness } = self;
        let (started, mut cpu) = (Stopwatch::start(), CpuStopwatch::start());
        let mut contents: SmallVec<[MutexGuard<'_, Contents>; 4]> = held.iter().map(HeldShard::contents).collect();
        let mut db = Keyspace::attach(contents.iter_mut().map(|contents| &mut **contents), &database.shared, keyspace);
        commands::go_on(row, &mut db, &mut reply, request.as_request(), script);
        let took = started.elapsed();
        let mut outcome = Outcome::of(Ended::Done);
        outcome.steps.push(Ran::Command { end: reply.len(), took, calls: db.take_calls() });
        outcome.replies = reply;
        outcome.published = db.take_published();
        (outcome.hits, outcome.misses) = (db.hits, db.misses);
        let mut replies = Replies::told(witness.is_some());
        serve(&mut db, &database, &mut replies);
        outcome.has_changed = db.has_changed();
        outcome.left = step::finish(&mut db, &database, &mut replies);
        outcome.served = replies.take_told();
        if let Some(witness) = witness {
            witness.ran(&outcome, db.now());
        }
        drop(db);
        drop(contents);
        // As for every command that has run elsewhere: its caller may ask for the counts at once.
        held.iter().for_each(|held| held.gate().guarded.publish());
        outcome.elsewhere = started.elapsed();
        outcome.elsewhere_cpu = cpu.lap();
        outcome
    }
}
