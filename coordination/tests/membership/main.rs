//! Processes of a fleet, with a real etcd.

#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod faults;
mod fleet;
mod server;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dormouse_coordination::{ClusterUrl, CoordinationError, FleetMember, FleetMembers, Membership};
use rustix::time::{ClockId, clock_gettime};

const LIMIT: Duration = Duration::from_secs(60);
/// The shortest lease that etcd grants by default.
const SHORT: Duration = Duration::from_secs(2);
/// A lease that does not end during a test.
const LONG: Duration = Duration::from_secs(600);

/// Monotonic milliseconds, the same in all processes of a machine.
fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).unwrap()
}

fn member(name: &str, writer: u64) -> FleetMember {
    FleetMember {
        name: name.to_owned(),
        writer,
        advertise: format!("{name}.example:6379"),
        http: Some(format!("{name}.example:8080")),
        zone: (writer.is_multiple_of(2)).then(|| "z".to_owned()),
        is_draining: false,
        version: "0.2.0".to_owned(),
    }
}

async fn try_join(url: &str, member: FleetMember, lease: Duration) -> Result<Membership, CoordinationError> {
    let url: ClusterUrl = url.parse().unwrap();
    Membership::join(&url, member, lease, clock).await
}

async fn join(url: &str, member: FleetMember, lease: Duration) -> Membership {
    try_join(url, member, lease).await.unwrap()
}

/// Waits until a condition of the members holds.
async fn until(membership: &Membership, what: &str, condition: impl FnMut(&Arc<FleetMembers>) -> bool) {
    let mut members = membership.subscribe();
    let waited = tokio::time::timeout(LIMIT, members.wait_for(condition)).await;
    assert!(waited.is_ok_and(|waited| waited.is_ok()), "{what}: {:?}", membership.members());
}

/// Waits until something holds that nothing announces.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}"))
}

fn may_serve(membership: &Membership) -> bool {
    membership.lease_end_ms().load(Ordering::Acquire) > clock()
}
