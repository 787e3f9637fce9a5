//! The steps of requests that are run at most once: see [`once`].

use std::iter;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Request, Response, Version, translate};

use super::once::{self, Once, RECEIPT_BYTES, WORDS, Words};
use super::plan::{Ended, Outcome, Plan, Ran, Step};
use super::step::{Admission, MustWait};
use crate::commands::{self, Row, Run};
use crate::error::Error;
use crate::keyspace::eviction::NoRoom;
use crate::keyspace::receipts::{Receipt, ReceiptReply};
use crate::keyspace::{ALL_INDEXES, Asked, Fault, Keyspace};

/// The outcome of a plan that has a receipt.
///
/// # Errors
/// A place that must be loaded before anyone knows.
pub(super) fn recall_plan(db: &mut Keyspace<'_>, plan: &Plan, once: &Once) -> Result<Option<Outcome>, Fault> {
    if let Some(fault) = db.missing_receipt(once.key()) {
        return Err(fault);
    }
    let mut reply = Reply::within(version_of(plan), plan.budget.clone());
    let outcome = match recall(db, once.key(), fingerprint_of(db, plan, once), &mut reply) {
        Recalled::New => return Ok(None),
        Recalled::Refused(error) => Outcome::of(Ended::Refused(error)),
        Recalled::Repeated => {
            let (start, steps) = steps_of(plan, &reply.buffer);
            Outcome { replies: reply, start, steps, ..Outcome::of(Ended::Repeated) }
        }
    };
    Ok(Some(outcome))
}

/// Keeps the replies of a plan that has run. `changes`: those that were made before it.
pub(super) fn keep_plan(db: &mut Keyspace<'_>, plan: &Plan, once: &Once, outcome: &Outcome, changes: u64) {
    let replies = &outcome.replies.buffer;
    // The commands of a queue have run, whatever each of them was answered.
    let is_alone = plan.steps.len() == 1 && plan.array.is_none();
    if is_alone && !is_final(db, replies, changes) {
        return;
    }
    let receipt = Receipt::new(fingerprint_of(db, plan, once), number(version_of(plan)), replies);
    db.keep_receipt(once.key(), db.now() + once.ttl_ms(), &receipt);
}

fn fingerprint_of(db: &Keyspace<'_>, plan: &Plan, once: &Once) -> u128 {
    once.fingerprint(db, plan.commands().map(|command| (command.context.select, command.request.as_request())))
}

/// Answers one request with `ONCE` from its receipt, or admits and calls its command and keeps the reply. A refusal is its
/// reply. `request` is all of it, on behalf of `user`.
///
/// # Errors
/// When it has to wait first.
pub(super) fn run_one(
    db: &mut Keyspace<'_>,
    admission: &Admission,
    (user, request): (&[u8], Request<'_>),
    (row, run): (&Row, Run),
    reply: &mut Reply,
) -> Result<(), MustWait> {
    let Words { key, ttl_ms } = match Words::parse(request) {
        Ok(words) => words,
        Err(error) => {
            reply.error(&error.to_string());
            return Ok(());
        }
    };
    let command = request.skip(WORDS);
    let fingerprint = once::fingerprint(db, user, iter::once((db.selected(), command)));
    match recall(db, key, fingerprint, reply) {
        Recalled::New => {}
        Recalled::Repeated => return Ok(()),
        Recalled::Refused(error) => {
            reply.error(&error.to_string());
            return Ok(());
        }
    }
    match admission.admit_once(db, row, command, key.len() + RECEIPT_BYTES) {
        Ok(()) => {}
        Err(NoRoom::Wait(_) | NoRoom::Log(_)) => return Err(MustWait),
        Err(NoRoom::Refused(refusal)) => {
            reply.error(&refusal.to_string());
            return Ok(());
        }
    }
    let (start, changes) = (reply.len(), db.change_count());
    let asked = db.ask(Asked::Now);
    let done = commands::call(row, run, db, reply, command);
    db.ask(asked);
    done.map_err(|_| MustWait)?;
    if reply.is_deferred() {
        return Ok(());
    }
    // What the client itself must forget may stand behind the reply.
    let replied = &reply.buffer[start..];
    let replied = match db.tells_in_line() {
        true => Response::length(replied).map_or(replied, |length| &replied[..length]),
        false => replied,
    };
    if is_final(db, replied, changes) {
        let receipt = Receipt::new(fingerprint, number(reply.version()), replied);
        db.keep_receipt(key, db.now() + ttl_ms, &receipt);
    }
    Ok(())
}

/// The knowledge of a request.
enum Recalled {
    /// It has not been run.
    New,
    /// It has been run, and is answered.
    Repeated,
    /// It cannot be answered, and must not be run.
    Refused(Error),
}

/// Writes the answer of a request if it has a receipt, whose place must be in memory.
fn recall(db: &mut Keyspace<'_>, key: &[u8], fingerprint: u128, reply: &mut Reply) -> Recalled {
    let (start, shared) = (reply.len(), db.shared());
    if db.is_strict() {
        db.depend_on(Some(iter::once(key)));
    }
    let Some(value) = db.receipt(key) else { return Recalled::New };
    let Some(receipt) = Receipt::decode(value) else { return Recalled::Refused(Error::ReceiptUnreadable) };
    if receipt.fingerprint != fingerprint {
        return Recalled::Refused(Error::OnceMismatch);
    }
    match receipt.reply {
        ReceiptReply::TooLarge(bytes) => return Recalled::Refused(Error::OnceTooLarge(bytes)),
        ReceiptReply::Kept(version, kept) if version == number(reply.version()) => reply.raw(kept),
        ReceiptReply::Kept(_, kept) => match translate(kept, reply.version()) {
            Some(translated) => reply.raw(&translated),
            None => return Recalled::Refused(Error::ReceiptUnreadable),
        },
    }
    reply.settle(start);
    shared.repeated.fetch_add(1, Ordering::Relaxed);
    Recalled::Repeated
}

/// Errors that say that nothing was run.
const NOT_RUN: &[&str] = &[
    "OOM ",
    "BUSY ",
    "LOADING ",
    "MISCONF ",
    "NOAUTH ",
    "NOPERM ",
    "NOREPLICAS ",
    "NOSCRIPT ",
    "READONLY ",
    "STORE ",
    "TIMEOUT ",
    "ERR Script killed by user",
    "ERR Script ended after",
    "ERR Script ended since",
    "ERR Command ended before it was done",
    "ERR max key size exceeded",
    "ERR max single record size exceeded",
    "ERR a part of the database was not in memory",
];

/// Whether a reply is kept. An error after a change is, whatever it says: the request must not be run again.
fn is_final(db: &Keyspace<'_>, reply: &[u8], changes: u64) -> bool {
    let Some(error) = reply.strip_prefix(b"-") else { return true };
    db.change_count() != changes || !NOT_RUN.iter().any(|start| error.starts_with(start.as_bytes()))
}

/// The version in which the replies of a plan are written.
fn version_of(plan: &Plan) -> Version {
    plan.commands().next().map_or(Version::Resp2, |command| command.context.version)
}

/// A version of the protocol as receipts have it.
fn number(version: Version) -> u8 {
    match version {
        Version::Resp2 => 2,
        Version::Resp3 => 3,
    }
}

/// Where the replies of each step stand among those that a plan had when it ran, and where the first of them begins.
fn steps_of(plan: &Plan, replies: &[u8]) -> (usize, Vec<Ran>) {
    let head = |_| replies.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
    let start = plan.array.and_then(head).unwrap_or(0);
    let mut end = start;
    let steps = plan.steps.iter().map(|step| match step {
        Step::Command(_) => {
            end += replies.get(end..).and_then(Response::length).unwrap_or(0);
            Ran::Command { end, took: Default::default(), calls: None }
        }
        Step::Watch { .. } => Ran::Watch,
        Step::Count => Ran::Count(Box::new([(0, 0); ALL_INDEXES])),
    });
    (start, steps.collect())
}

#[cfg(test)]
mod tests;
