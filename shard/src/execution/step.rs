//! One command under its locks, and the steps before and after it.

use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Request};

use super::plan::{Plan, Step};
use super::serving::Replies;
use crate::commands::growth::{check_records, needs};
use crate::commands::{self, Flags, Row, Run};
use crate::database::Database;
use crate::error::Error;
use crate::keyspace::eviction::{Needs, NoRoom};
use crate::keyspace::{Fault, Keyspace, Left, RecordLimits};
use crate::memory::COUNTED_BYTES;
use crate::shard::HeldShard;

/// A place that the request's keys need and that is not in memory.
pub fn missing(db: &Keyspace<'_>, row: &Row, request: Request<'_>) -> Option<Fault> {
    let here = row.key_indexes(request).find_map(|key| db.missing(db.position(request.arg(key))));
    here.or_else(|| {
        let (select, key) = row.elsewhere?(request)?;
        db.missing_in(select, db.position(request.arg(key)))
    })
}

/// The conditions for admitting writes under the held locks.
#[derive(Debug)]
pub(super) struct Admission {
    /// Why the log takes no writes.
    refusal: Option<Error>,
    /// Why nothing may be added to data that cannot be stored.
    damage: Option<Error>,
    is_bounded: bool,
    /// Whether single records are bounded.
    limits_records: bool,
    /// The memory that the held shards last published.
    published: isize,
}

impl Admission {
    pub(super) fn new(db: &Keyspace<'_>, held: &[HeldShard]) -> Self {
        Self {
            refusal: match db.shared().lacks_replicas.load(Ordering::Relaxed) {
                true => Some(Error::NoReplicas),
                false => db.shared().journal.admit().err().map(Error::from),
            },
            damage: db.shared().damage.admit(&db.shared().journal).err(),
            is_bounded: db.settings().memory_max > 0 || db.shared().memory.is_full(),
            limits_records: db.settings().records != RecordLimits::NONE,
            published: held.iter().map(|held| held.gate().guarded.published()).sum(),
        }
    }

    /// Whether a command may run now. Room is made for the data that it adds, and much memory is reserved.
    #[inline]
    fn admit(&self, db: &mut Keyspace<'_>, row: &Row, request: Request<'_>) -> Result<(), NoRoom> {
        self.refuse(row.flags)?;
        if self.limits_records {
            check_records(db, row, request).map_err(NoRoom::Refused)?;
        }
        let grows = row.flags.contains(Flags::DENY_OOM);
        if grows && self.is_bounded || may_need_much(row, request) {
            let needs = needs(db, row, request);
            wait_for_log(db, needs)?;
            let adds = grows || needs.adds > 0;
            return if adds { db.make_room(self.published, needs) } else { db.reserve(needs.while_it_runs) };
        }
        Ok(())
    }

    /// The same of a command whose reply is kept in a receipt that takes about `bytes`: it writes, whatever it is.
    pub(super) fn admit_once(
        &self,
        db: &mut Keyspace<'_>,
        row: &Row,
        request: Request<'_>,
        bytes: usize,
    ) -> Result<(), NoRoom> {
        self.refuse(row.flags | Flags::WRITE)?;
        if self.limits_records {
            check_records(db, row, request).map_err(NoRoom::Refused)?;
        }
        if self.is_bounded || may_need_much(row, request) {
            let mut needs = needs(db, row, request);
            needs.add(Needs::of_receipt(bytes));
            wait_for_log(db, needs)?;
            return db.make_room(self.published, needs);
        }
        Ok(())
    }

    /// A command that replaces all data is how a database that cannot be stored is healed.
    #[inline]
    fn refuse(&self, flags: Flags) -> Result<(), NoRoom> {
        if !flags.contains(Flags::WRITE) {
            return Ok(());
        }
        let damage = self.damage.as_ref().filter(|_| !flags.contains(Flags::FREES_ALL));
        self.refusal.as_ref().or(damage).map_or(Ok(()), |refusal| Err(NoRoom::Refused(refusal.clone())))
    }

    /// The same for all commands of a plan at once, so that it is not refused halfway.
    pub(super) fn admit_all(&self, db: &mut Keyspace<'_>, plan: &Plan) -> Result<(), NoRoom> {
        plan.commands().try_for_each(|command| self.refuse(command.row.flags))?;
        let (mut all, mut adds) = (Needs::default(), false);
        if let Some(once) = &plan.once {
            let frees = plan.any(Flags::FREES_ALL) && plan.steps.len() == 1;
            self.refuse(if frees { Flags::WRITE | Flags::FREES_ALL } else { Flags::WRITE })?;
            all = Needs::of_receipt(once.bytes());
            adds = self.is_bounded;
        }
        for (at, step) in plan.steps.iter().enumerate() {
            let Step::Command(command) = step else { continue };
            let (row, request) = (command.row, command.request.as_request());
            let grows = row.flags.contains(Flags::DENY_OOM);
            if grows && self.is_bounded || may_need_much(row, request) {
                // Each sees an index of its own.
                db.select(command.context.select);
                db.bind_fields(plan.field_set(at));
                let needs = needs(db, row, request);
                adds |= grows || needs.adds > 0;
                all.add(needs);
            }
        }
        db.select(plan.first_select());
        wait_for_log(db, all)?;
        if adds { db.make_room(self.published, all) } else { db.reserve(all.while_it_runs) }
    }
}

/// Whether a request may need so much memory that it is reserved, as far as can be known without a look at its keys.
#[inline]
fn may_need_much(row: &Row, request: Request<'_>) -> bool {
    (row.grows.is_some() || row.needs.is_some()) && !row.is_modest.is_some_and(|is_modest| is_modest(request))
        || row.flags.contains(Flags::DENY_OOM) && request.bytes() >= COUNTED_BYTES
}

/// Checks again how much memory a command of a transaction needs, after the commands before it have run: see
/// [`Keyspace::check_growth`].
pub(super) fn check_growth(db: &mut Keyspace<'_>, row: &Row, request: Request<'_>, before: usize) -> Result<(), Error> {
    if !row.flags.contains(Flags::DENY_OOM) && !may_need_much(row, request) {
        return Ok(());
    }
    let needs = needs(db, row, request);
    db.check_growth(before, needs)
}

/// A large effect is not added to a log that already waits for the disk.
fn wait_for_log(db: &Keyspace<'_>, needs: Needs) -> Result<(), NoRoom> {
    db.shared().journal.crowded_before(needs.logged).map_or(Ok(()), |lsn| Err(NoRoom::Log(lsn)))
}

/// The command has to wait, for a place to be loaded, for memory to become free or for the log.
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
    match admission.admit(db, row, request) {
        Ok(()) => commands::call(row, run, db, reply, request).map_err(|_| MustWait),
        Err(NoRoom::Wait(_) | NoRoom::Log(_)) => Err(MustWait),
        Err(NoRoom::Refused(refusal)) => {
            reply.error(&refusal.to_string());
            Ok(())
        }
    }
}

/// Ends the work under the locks: its effects become one entry of the log. Big values that it dropped are freed
/// elsewhere. The replies of served waiters leave.
#[inline]
pub(super) fn finish(db: &mut Keyspace<'_>, database: &Database, replies: &mut Replies) -> Left {
    if let Some(dead) = db.take_graveyard() {
        database.free(dead);
    }
    let left = db.finish();
    replies.deliver(database, left);
    database.waiters.nudge_stirred();
    left
}
