//! Serving waiters: the commands of blocked clients run under the locks of the command that has made their key ready.
//!
//! 1. After each command, or after all commands of a transaction, look at the keys that have become ready, in order.
//! 2. Of each key, run the command of one waiter after the other, as long as the key has what they want. A served
//!    `BLMOVE` may make another key ready, which comes last.
//! 3. The effects belong to the entry of the log that the serving command leaves. When that is appended, the replies
//!    are delivered: they wait for it as any reply does.
//!
//! A user whose rules have changed meanwhile is told so instead, and the next waiter gets what is there.
//!
//! A served command is not refused for want of memory or by the log: the write that serves it was admitted, and a move
//! adds nothing.
//!
//! A turn has a budget. When it is spent, the next waiter is nudged: its client runs its command, and serves the others from
//! there on ([`crate::waiters`]).

use std::sync::Arc;

use dormouse_protocol::{Reply, Request};
use dormouse_types::pace;

use super::budget::{self, TURN};
use super::plan::ServedCommand;
use crate::commands::{self, Flags, Row};
use crate::database::Database;
use crate::keyspace::tracking::Tracker;
use crate::keyspace::{Asked, Fault, Keyspace, Left, Offer, ReadyKey, Wait};
use crate::waiters::{ServedReply, Waiter};

/// Finding, claiming and waking a waiter, as a cost.
const WAITER_COST: usize = 10;

/// Waiters whose commands were run. Their replies leave when the log has their effects.
#[derive(Debug, Default)]
pub(super) struct Replies {
    all: Vec<(Arc<Waiter>, Reply)>,
    /// The same for a witness.
    told: Option<Vec<ServedCommand>>,
}

impl Replies {
    /// `is_told`: there is a witness.
    pub fn told(is_told: bool) -> Self {
        Self { all: Vec::new(), told: is_told.then(Vec::new) }
    }

    pub fn take_told(&mut self) -> Vec<ServedCommand> {
        self.told.take().unwrap_or_default()
    }

    fn add(&mut self, waiter: Arc<Waiter>, key: &[u8], reply: Reply) {
        if let Some(told) = &mut self.told {
            told.push(ServedCommand { waiter: Arc::clone(&waiter), key: key.into(), reply: reply.buffer.clone() });
        }
        self.all.push((waiter, reply));
    }

    /// Delivers the replies after the entry has been appended that they wait for.
    #[inline]
    pub fn deliver(&mut self, database: &Database, left: Left) {
        if !self.all.is_empty() {
            database.waiters.count_served(self.all.len());
            for (waiter, reply) in self.all.drain(..) {
                waiter.deliver(ServedReply { reply, left });
            }
        }
    }
}

/// A place that is not in memory, and that a waiter would write if a request of a command made its key ready. It is loaded
/// before the command runs, since a waiter that has to be nudged is served after those of other keys.
pub(super) fn missing_target(
    db: &Keyspace<'_>,
    database: &Database,
    row: &Row,
    request: Request<'_>,
    select: u8,
) -> Option<Fault> {
    if row.flags.contains(Flags::READ) || !database.waiters.has_moves() {
        return None;
    }
    let mut keys: Vec<Box<[u8]>> = row.key_indexes(request).map(|key| request.arg(key).into()).collect();
    let named = keys.len();
    // If there are too many to follow, the missing ones are nudged.
    let is_followed = database.waiters.follow(&mut keys);
    let mut targets = keys.iter().skip(named).filter(|key| is_followed && db.holds(key));
    targets.find_map(|key| db.missing_in(select, db.position(key)))
}

/// Serves the waiters of the keys that have become ready. Returns the cost.
#[inline]
pub(super) fn serve(db: &mut Keyspace<'_>, database: &Database, replies: &mut Replies) -> usize {
    if db.has_ready() { serve_all(db, database, replies) } else { 0 }
}

#[cold]
fn serve_all(db: &mut Keyspace<'_>, database: &Database, replies: &mut Replies) -> usize {
    let (select, no_touch, asked) = (db.selected(), db.is_no_touch(), db.ask(Asked::Now));
    let (tracker, in_line) = (db.tracker(), db.tells_in_line());
    db.tell_in_line(false);
    let mut spent = 0;
    while db.has_ready() {
        for ready in db.take_ready() {
            // A change of the key may serve clients, or tell those that wait for a group that it is gone.
            let offered = db.offered_in(ready.select, &ready.key);
            let wanted = offered.filter(|offered| *offered != Offer::Group).into_iter().chain([Offer::Group]);
            wanted.for_each(|wanted| serve_queue(db, database, (&ready, wanted), replies, &mut spent));
        }
    }
    db.select(select);
    db.no_touch(no_touch);
    db.set_tracker(tracker);
    db.tell_in_line(in_line);
    db.ask(asked);
    spent
}

/// Runs the commands of the waiters for one kind of value under a key.
fn serve_queue(
    db: &mut Keyspace<'_>,
    database: &Database,
    (ready, wanted): (&ReadyKey, Offer),
    replies: &mut Replies,
    spent: &mut usize,
) {
    let ReadyKey { select, key, after } = ready;
    let mut after = *after;
    while let Some(waiter) = database.waiters.next(*select, key, wanted, after) {
        if wanted != Offer::Group && db.offered_in(*select, key) != Some(wanted) {
            return;
        }
        after = waiter.number();
        let Some(claim) = waiter.claim() else { continue };
        *spent += WAITER_COST + budget::cost(db, waiter.row, waiter.request.as_request());
        if *spent > TURN || needs_more(db, &waiter) {
            drop(claim);
            waiter.nudge();
            return;
        }
        db.ask(Asked::Ready(key.clone()));
        match run(db, &waiter) {
            Ran::Served(reply) => {
                database.waiters.remove(&waiter);
                if let Some(waiter) = claim.serve() {
                    replies.add(waiter, key, reply);
                }
            }
            Ran::Waits(wait) => waiter.waits_on(&wait, false),
            Ran::NeedsMore => {
                drop(claim);
                waiter.nudge();
                return;
            }
        }
    }
}

/// Whether the waiter's command needs a shard that is not held, or a place that is not in memory.
fn needs_more(db: &mut Keyspace<'_>, waiter: &Waiter) -> bool {
    db.select(waiter.context.select);
    waiter.target().is_some_and(|target| !db.holds(target) || db.missing(db.position(target)).is_some())
}

enum Ran {
    Served(Reply),
    Waits(Box<Wait>),
    NeedsMore,
}

fn run(db: &mut Keyspace<'_>, waiter: &Waiter) -> Ran {
    db.select(waiter.context.select);
    db.no_touch(waiter.context.no_touch);
    // Its own invalidations reach it as those of other clients do: nothing is written behind this reply.
    db.set_tracker(Tracker { is_in_line: false, ..waiter.context.tracker });
    let mut reply = Reply::within(waiter.context.version, waiter.budget.clone());
    if let Some(denial) = waiter.denial() {
        reply.error(&denial);
        return Ran::Served(reply);
    }
    // Its client is another than the one that may want this thread's work to end.
    let _undisturbed = pace::listen(None);
    let done = commands::call(waiter.row, waiter.run, db, &mut reply, waiter.request.as_request());
    match (done, db.take_wait()) {
        (Err(_), _) => Ran::NeedsMore,
        (Ok(()), Some(wait)) => Ran::Waits(wait),
        (Ok(()), None) => Ran::Served(reply),
    }
}

/// The keys of a waiter whose own plan has run: those behind it in its queues come next.
pub(super) fn continue_after(db: &mut Keyspace<'_>, waiter: &Waiter) {
    for key in waiter.keys() {
        db.add_ready(ReadyKey { select: waiter.context.select, key: key.into(), after: waiter.number() });
    }
}
