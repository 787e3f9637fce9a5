//! The allocator's memory.

use tikv_jemalloc_ctl::{Access, AsName, arenas, epoch, stats};

/// Gives what was freed back to the system at once.
///
/// An arena whose decay time is set to zero purges its unused pages there and then; afterwards the time is as before, so
/// that a busy server does not pay for returning pages that it needs again.
pub fn give_back() {
    let count = arenas::narenas::read().unwrap_or(0);
    for arena in 0..count {
        for kind in ["dirty", "muzzy"] {
            let name = format!("arena.{arena}.{kind}_decay_ms\0");
            let name = name.as_bytes().name();
            // An arena that was never used refuses, and has nothing to give.
            let before: Result<isize, _> = name.read();
            if let Ok(before) = before
                && name.write(0_isize).is_ok()
            {
                let _ = name.write(before);
            }
        }
    }
}

/// Bytes that the allocator has handed out and not got back.
pub fn allocated_bytes() -> u64 {
    let _ = epoch::advance();
    stats::allocated::read().map_or(0, |bytes| bytes as u64)
}
