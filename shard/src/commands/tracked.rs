//! Commands of clients that keep copies of what they read: see [`tracking`](crate::keyspace::tracking).

use dormouse_protocol::{Reply, Request};

use super::{Flags, Row, Run, depend, run_and_record};
use crate::keyspace::tracking::{Invalidated, TrackingMode};
use crate::keyspace::{Fault, Keyspace};

/// Runs a command whose client tracks keys, or whose reply waits for earlier writes.
///
/// # Errors
/// As [`call`](super::call).
pub(super) fn attend(
    row: &Row,
    run: Run,
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    request: Request<'_>,
) -> Result<(), Fault> {
    if db.is_strict() {
        depend(row, db, request);
    }
    let tracker = db.tracker();
    if tracker.mode == TrackingMode::Off {
        return run_and_record(row, run, db, reply, request);
    }
    let start = reply.len();
    db.begin_tracked();
    let done = run_and_record(row, run, db, reply, request);
    if done.is_ok() && reads(row) && tracker.notes_reads() {
        row.for_each_key(request, |key| db.note_read(request.arg(key)));
    }
    if db.end_tracked() && db.tells_in_line() && done.is_ok() && !reply.was_deferred(start) && !db.has_wait() {
        db.take_own().iter().for_each(|own| write(own, reply));
    }
    done
}

/// Whether the keys of a command are tracked. Those of a script are not: its commands are, each by itself.
fn reads(row: &Row) -> bool {
    row.flags.contains(Flags::READ) && row.has_keys() && !row.flags.intersects(Flags::NO_MANDATORY_KEYS | Flags::PUBSUB)
}

/// Writes the push that tells a client what to forget.
pub fn write(invalidated: &Invalidated, reply: &mut Reply) {
    reply.push(2);
    reply.bulk(b"invalidate");
    match invalidated {
        Invalidated::Key(key) => {
            reply.array(1);
            reply.bulk(key);
        }
        Invalidated::All => reply.null(),
    }
}
