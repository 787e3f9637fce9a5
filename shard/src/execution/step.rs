//! One command under its locks, and what goes before and after it.

use dormouse_protocol::{Reply, Request};

use super::plan::Plan;
use crate::commands::{self, Flags, Row, Run};
use crate::database::Database;
use crate::error::Error;
use crate::keyspace::eviction::{NoRoom, added_bytes};
use crate::keyspace::{Fault, Keyspace, Left};
use crate::memory::MEMORY;
use crate::shard::HeldShard;

/// A place that the request's keys need and that is not in memory.
pub fn missing(db: &Keyspace<'_>, row: &Row, request: Request<'_>) -> Option<Fault> {
    let here = row.key_indexes(request).find_map(|key| db.missing(db.position(request.arg(key))));
    here.or_else(|| {
        let (select, key) = row.elsewhere?(request)?;
        db.missing_in(select, db.position(request.arg(key)))
    })
}

/// What writes are admitted under the locks that are held.
#[derive(Debug)]
pub(super) struct Admission {
    /// Why the log takes no writes.
    refusal: Option<Error>,
    is_bounded: bool,
    /// What the held shards last published of their memory.
    published: usize,
}

impl Admission {
    pub(super) fn new(db: &Keyspace<'_>, held: &[HeldShard]) -> Self {
        Self {
            refusal: db.shared().journal.admit().err().map(Error::from),
            is_bounded: db.settings().memory_max > 0 || MEMORY.is_full(),
            published: held.iter().map(|held| held.gate().guarded.published()).sum(),
        }
    }

    /// Whether a command may run now. Room is made for what it adds.
    #[inline]
    fn admit(
        &self,
        db: &mut Keyspace<'_>,
        flags: Flags,
        adds: impl FnOnce(&Keyspace<'_>) -> usize,
    ) -> Result<(), NoRoom> {
        if let Some(refusal) = self.refusal.as_ref().filter(|_| flags.contains(Flags::WRITE)) {
            return Err(NoRoom::Refused(refusal.clone()));
        }
        if self.is_bounded && flags.contains(Flags::DENY_OOM) {
            let adds = adds(db);
            return db.make_room(self.published, adds);
        }
        Ok(())
    }

    /// The same for all commands of a plan at once, so that it is not refused halfway.
    pub(super) fn admit_all(&self, db: &mut Keyspace<'_>, plan: &Plan) -> Result<(), NoRoom> {
        let all = plan.commands().fold(Flags::empty(), |all, command| all | command.row.flags);
        let growing = plan.commands().filter(|command| command.row.flags.contains(Flags::DENY_OOM));
        db.select(plan.first_select());
        self.admit(db, all, |db| growing.map(|command| adds(db, command.row, command.request.as_request())).sum())
    }
}

/// About how many bytes a request adds, at most.
fn adds(db: &Keyspace<'_>, row: &Row, request: Request<'_>) -> usize {
    added_bytes(request).saturating_add(row.growth(db, request))
}

/// The command has to wait, for a place to be loaded or for memory to become free.
#[derive(Debug)]
pub(super) struct MustWait;

/// Admits and calls one command. A refusal is its reply.
///
/// # Errors
/// When it has to wait first.
#[inline]
pub(super) fn run_one(
    db: &mut Keyspace<'_>,
    admission: &Admission,
    (row, run): (&Row, Run),
    request: Request<'_>,
    reply: &mut Reply,
) -> Result<(), MustWait> {
    match admission.admit(db, row.flags, |db| adds(db, row, request)) {
        Ok(()) => commands::call(row, run, db, reply, request).map_err(|_| MustWait),
        Err(NoRoom::Wait(_)) => Err(MustWait),
        Err(NoRoom::Refused(refusal)) => {
            reply.error(&refusal.to_string());
            Ok(())
        }
    }
}

/// Ends what ran under the locks: its effects become one entry of the log. Big values that it dropped are freed elsewhere.
#[inline]
pub(super) fn finish(db: &mut Keyspace<'_>, database: &Database) -> Left {
    database.free(db.take_graveyard());
    db.finish()
}
