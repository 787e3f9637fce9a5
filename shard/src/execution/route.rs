//! Which shards a command needs.

use dormouse_protocol::Request;
use smallvec::SmallVec;

use super::plan::{Plan, Step};
use crate::commands::{self, Flags, Row, Straying};
use crate::database::Database;
use crate::keyspace::Shared;
use crate::topology::Topology;
pub use dormouse_types::segment::slot_of;

/// Indexes of shards, ascending.
pub type Shards = SmallVec<[usize; 4]>;

/// Whether a command names all its keys and is short as far as its row says: it can run inline.
pub fn is_plain(row: &Row) -> bool {
    !row.flags.intersects(Flags::WHOLE | Flags::SLOW_LANE | Flags::BY_CURSOR)
}

/// Whether all keys of a request are in the slots from `first` to before `end`.
pub fn belongs(row: &Row, request: Request<'_>, slots: (u16, u16)) -> bool {
    row.key_indexes(request).all(|key| covers(slots, request.arg(key)))
}

/// Whether a key is in the slots from `first` to before `end`.
pub fn covers((first, end): (u16, u16), key: &[u8]) -> bool {
    (first..end).contains(&slot_of(key))
}

/// Whether a request may use keys that it does not name.
pub fn strays(shared: &Shared, row: &Row, request: Request<'_>) -> bool {
    row.strays.is_some_and(|strays| strays(shared, request) != Straying::Never)
}

/// Whether all keys that waiters would write if a request makes its keys ready are in the slots from `first` to before
/// `end`.
pub fn follows_within(database: &Database, row: &Row, request: Request<'_>, (first, end): (u16, u16)) -> bool {
    let mut keys: Vec<Box<[u8]>> = row.key_indexes(request).map(|key| request.arg(key).into()).collect();
    database.waiters.follow(&mut keys) && keys.iter().all(|key| (first..end).contains(&slot_of(key)))
}

/// The shards that a plan needs: those of all keys that it names or watches, or that waiters would write if those became
/// ready.
pub(super) fn shards(database: &Database, topology: &Topology, plan: &Plan) -> Shards {
    if topology.shards.len() == 1 {
        return Shards::from_slice(&[0]);
    }
    let is_alone = plan.steps.len() == 1;
    let mut all = plan.any(if is_alone { Flags::WHOLE } else { Flags::WHOLE | Flags::BY_CURSOR });
    let mut shards = Shards::new();
    for step in &plan.steps {
        match step {
            Step::Command(command) => {
                let request = command.request.as_request();
                all |= strays(&database.shared, command.row, request);
                if command.row.flags.contains(Flags::BY_CURSOR) {
                    let cursor = request.get(1).and_then(commands::cursor_of).unwrap_or(0);
                    shards.push(topology.of_slot((cursor >> 39) as u16));
                }
                let keys = command.row.key_indexes(request).map(|key| request.arg(key));
                shards.extend(keys.map(|key| topology.of_key(key)));
            }
            Step::Watch { key, .. } => shards.push(topology.of_key(key)),
            Step::Count => all = true,
        }
    }
    if let Some(once) = &plan.once {
        shards.push(topology.of_key(once.key()));
    }
    if let Some(watching) = plan.watching.as_ref().filter(|_| !plan.adds_watches()) {
        shards.extend(watching.keys().iter().map(|(_, key)| topology.of_key(key)));
    }
    if !all && database.waiters.has_moves() {
        let requests = plan.commands().map(|command| (command.row, command.request.as_request()));
        let named =
            requests.flat_map(|(row, request)| row.key_indexes(request).map(move |key| request.arg(key).into()));
        let mut keys: Vec<Box<[u8]>> = named.collect();
        all = !database.waiters.follow(&mut keys);
        shards.extend(keys.iter().map(|key| topology.of_key(key)));
    }
    if all {
        return (0..topology.shards.len()).collect();
    }
    shards.sort_unstable();
    shards.dedup();
    if shards.is_empty() {
        shards.push(0);
    }
    shards
}
