//! Fuzzing of the code that replays the log: the body of the target in `fuzz/`, which `tests/fuzz_smoke.rs` runs too.
//! On any input, the code may not panic, hang, or allocate much more than the input's size.

use dormouse_storage::shown::ALL_INDEXES;
use dormouse_types::segment::{SLOTS, SlotPlacement};

use crate::commands;
use crate::keyspace::{Contents, Keyspace, Shared};

const PLACEMENT: SlotPlacement = SlotPlacement { seed: 0x0123_4567_89ab_cdef };

/// Effects one after the other, each with a byte for its length before it, replayed onto one keyspace.
pub fn effects(mut input: &[u8]) {
    let shared = Shared::new("fuzz", PLACEMENT.seed);
    let mut contents = Contents::empty(0, SLOTS, PLACEMENT, [0; ALL_INDEXES]);
    while let Some((length, rest)) = input.split_first() {
        let (body, after) = rest.split_at(rest.len().min(usize::from(*length)));
        input = after;
        let mut db = Keyspace::new([&mut contents], &shared, 0, 1_700_000_000_000, 0);
        // A malformed effect is refused, and the next may be good.
        let _ = commands::replay(&mut db, body);
    }
}
