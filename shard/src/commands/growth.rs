//! The memory that a request needs.

use dormouse_protocol::Request;

use crate::commands::{Flags, Row};
use crate::keyspace::Keyspace;
use crate::keyspace::eviction::{Needs, added_bytes};

/// About how many bytes a request needs, at most. A row without [`Flags::DENY_OOM`] may have a growth all the same:
/// `XREADGROUP` adds nothing where it finds nothing new, and is then not refused.
pub(crate) fn needs(db: &Keyspace<'_>, row: &Row, request: Request<'_>) -> Needs {
    let arguments = if row.flags.contains(Flags::DENY_OOM) { added_bytes(request) } else { 0 };
    let adds = arguments.saturating_add(row.growth(db, request));
    let need = row.need(db, request);
    // An effect is written once into the entry and copied from there into the log.
    let effect = match (db.shared().journal.is_recording(), row.flags.contains(Flags::BY_KEY)) {
        (false, _) => 0,
        (true, true) => adds.max(need),
        (true, false) => request.bytes(),
    };
    let logged = if row.flags.contains(Flags::WRITE) { effect } else { 0 };
    Needs { adds, while_it_runs: adds.saturating_add(need).saturating_add(effect.saturating_mul(2)), logged }
}
