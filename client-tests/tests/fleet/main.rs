//! Fleets of real processes: a real etcd, a bucket, and nodes that are killed, stopped, and cut off.
//!
//! 1. [`fleet`] starts the processes. Each node reaches etcd and the bucket over wires of its own, which can be cut.
//!    Everything ends with its value.
//! 2. [`traffic`] reads and writes meanwhile, as applications do: it finds a node that serves, and when that fails, another.
//!    It records each operation with the moments before and after it, and with its answer, if that came.
//! 3. [`history`] has these operations checked: is there one order of all of them that explains every answer, and in
//!    which no operation begins before another one that had ended? That is linearizability, and at a loss window of 0 a fleet
//!    promises it whatever happens to its nodes. The checker is porcupine, which others wrote; `checker/` tells it
//!    how registers and counters behave.
//! 4. The tests cause failures and say who must serve when. Each of them waits for conditions with a bound.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `DORMOUSE_FLEET_ROUNDS` | rounds of random failures: 6, with `DORMOUSE_LONG` 200 |
//! | `DORMOUSE_FLEET_SEED` | the seed of their choices |
//! | `DORMOUSE_FLEET_LEASE` | the lease of the nodes: `3s` |

#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod beginnings;
mod client;
mod cuts;
mod etcd;
mod failover;
mod fleet;
mod history;
mod moves;
mod restarts;
mod rounds;
mod stops;
mod traffic;

use std::time::Duration;

/// Longest wait for anything, on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
fn eventually<T>(subject: &str, condition: impl FnMut() -> Option<T>) -> T {
    dormouse_client_tests::wait_for(LIMIT, condition).unwrap_or_else(|| panic!("after {LIMIT:?}: {subject}"))
}
