//! The memory that a request needs, and the records that it enlarges.

use dormouse_protocol::Request;

use crate::commands::{Access, Flags, Row};
use crate::error::{Error, Result};
use crate::keyspace::eviction::{Needs, added_bytes};
use crate::keyspace::{Keyspace, RecordLimits};

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

/// Checks the operator's limits on the records that a request may enlarge, before it runs. What counts is an upper bound: all
/// arguments as if they were new, or the growth that the row declares if that is more. A result that is made of other keys is
/// measured when it is known: [`Keyspace::put_result`].
///
/// A row without [`Flags::DENY_OOM`] adds to a key that it inserts into (`SMOVE`), and by the growth that it declares (a new
/// consumer of `XREADGROUP`).
///
/// # Errors
/// When a key or a value may become too large.
pub(crate) fn check_records(db: &Keyspace<'_>, row: &Row, request: Request<'_>) -> Result<()> {
    let records = db.settings().records;
    if records == RecordLimits::NONE || !row.flags.contains(Flags::WRITE) {
        return Ok(());
    }
    let growth = row.growth(db, request);
    let adds = row.flags.contains(Flags::DENY_OOM);
    for spec in row.keys {
        let access = row.access.filter(|_| spec.access.contains(Access::VARIABLE_FLAGS));
        let access = access.map_or(spec.access, |of| of(request));
        let is_replaced = access.contains(Access::OW) || row.flags.contains(Flags::REPLACES);
        let inserts = !is_replaced && access.contains(Access::INSERT);
        let grows = inserts || if adds { is_replaced || access.contains(Access::UPDATE) } else { growth > 0 };
        if !is_replaced && !grows {
            continue;
        }
        let (mut longest, mut sum, mut kept) = (0, 0, 0);
        let mut keys = spec.indexes(request).peekable();
        for (at, argument) in request.iter().enumerate().skip(1) {
            if keys.next_if_eq(&at).is_none() {
                longest = longest.max(argument.len());
                sum += argument.len();
                continue;
            }
            if argument.len() > records.key_bytes_max {
                return Err(Error::KeyTooLarge { limit: records.key_bytes_max, actual: argument.len() });
            }
            if !is_replaced {
                kept = kept.max(db.value_bytes(argument));
            }
        }
        let given = match is_replaced {
            // Each of several values that are replaced is an argument of its own.
            true => longest,
            false if adds || inserts => sum,
            false => 0,
        };
        if grows && kept.saturating_add(given.max(growth)) > records.value_bytes_max {
            return Err(Error::ValueTooLarge);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
