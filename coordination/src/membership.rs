//! The handle of a process that has joined a fleet.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::error::CoordinationError;
use crate::etcd::{Etcd, EtcdFailure};
use crate::follow;
use crate::keys::{Keys, check_name, number_text};
use crate::member::{FleetMember, FleetMembers};
use crate::secret;
use crate::standing::Standing;
use crate::tenure::{Leave, Tenancy, Tenure};
use crate::url::{ClusterUrl, Coordinator};
use crate::view::{MEMBER_LENGTH_MAX, Published, View};

const LEASE_MIN: Duration = Duration::from_secs(1);
const LEASE_MAX: Duration = Duration::from_secs(3600);

/// A process's place in a fleet. Clones are handles of the same.
///
/// Two tasks of the runtime in which it has joined do its work. They end when the last handle is dropped, without a word to
/// the coordinator: others see the process until its lease ends, as if it had crashed. [`Membership::leave`] says it at once.
#[derive(Clone)]
pub struct Membership {
    inner: Arc<Inner>,
}

struct Inner {
    url: String,
    shared: Arc<Tenancy>,
    leaves: mpsc::Sender<Leave>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Membership {
    /// Joins a fleet. Others see the process when this returns, and it sees itself and them.
    ///
    /// The coordinator declares the process dead when it has heard nothing of it for `lease`, in whole seconds rounded up: from
    /// 1 s to 1 h, of which etcd makes at least 2 s by default. `clock` returns monotonic milliseconds. It should also count
    /// while the machine is suspended, as Linux's `CLOCK_BOOTTIME` does.
    ///
    /// # Errors
    /// The coordinator cannot be reached, refuses, or is of a kind that is not supported; the member's name, its length, or the
    /// lease are invalid.
    ///
    /// # Panics
    /// Outside a runtime of tokio.
    pub async fn join(
        url: &ClusterUrl,
        member: FleetMember,
        lease: Duration,
        clock: fn() -> u64,
    ) -> Result<Self, CoordinationError> {
        check(&member, lease)?;
        let Coordinator::Etcd { credentials, endpoints, prefix } = &url.coordinator else {
            return Err(CoordinationError::Unsupported { url: url.to_string() });
        };
        let (url, keys) = (url.to_string(), Keys::new(prefix));
        let etcd = Etcd::new(endpoints.clone(), credentials.clone(), clock).map_err(|failure| error(&url, failure))?;
        let ttl = lease.as_secs() + u64::from(lease.subsec_nanos() > 0);
        Self::join_etcd(url.clone(), Arc::new(etcd), keys, member, ttl).await.map_err(|failure| error(&url, failure))
    }

    async fn join_etcd(
        url: String,
        etcd: Arc<Etcd>,
        keys: Keys,
        member: FleetMember,
        ttl: u64,
    ) -> Result<Self, EtcdFailure> {
        let secret = secret::establish(&etcd, &keys, secret::random()?).await?;
        let published = Arc::new(Published::new(secret));
        let mut view = View::new(keys.clone(), member.name.clone(), Arc::clone(&published));
        let root = keys.root();
        let shared = Arc::new(Tenancy {
            etcd,
            keys,
            ttl,
            me: watch::Sender::new(member),
            standing: watch::Sender::new(Standing::default()),
            lease_end_ms: Arc::default(),
            published,
        });
        let tenure = Tenure::begin(Arc::clone(&shared)).await?;
        let revision = match follow::read(&shared.etcd, &root, &mut view).await {
            Ok(revision) => revision,
            Err(failure) => {
                tenure.retire().await;
                return Err(failure);
            }
        };
        let (leaves, asked) = mpsc::channel(1);
        let tasks = [
            tokio::spawn(tenure.run(asked)),
            tokio::spawn(follow::follow(Arc::clone(&shared.etcd), root, view, revision)),
        ];
        Ok(Self { inner: Arc::new(Inner { url, shared, leaves, tasks }) })
    }

    /// The members as they were last heard of, this process among them.
    pub fn members(&self) -> Arc<FleetMembers> {
        Arc::clone(&self.inner.shared.published.members.borrow())
    }

    /// The members as they change. Changes that follow each other closely may be seen as one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<FleetMembers>> {
        self.inner.shared.published.members.subscribe()
    }

    /// The monotonic milliseconds, by the clock of [`Membership::join`], until which this process may serve. 0 or a moment of
    /// the past says that it may not.
    pub fn lease_end_ms(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.inner.shared.lease_end_ms)
    }

    /// Returns the changes of this process's lease and name. Unlike [`Membership::until_lost`] it misses nothing.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.inner.shared.standing.subscribe()
    }

    /// Waits until a lease of this process ends that it had not lost before the call. It then joins again by itself; whether it
    /// may go on is decided by the object store.
    pub async fn until_lost(&self) {
        let mut standing = self.standing();
        let before = standing.borrow_and_update().leases_lost;
        // The sender lives as long as this handle.
        _ = standing.wait_for(|standing| standing.leases_lost > before).await;
    }

    /// Waits until a newer process joins under this name, and returns its writer. This process is then no member any more.
    pub async fn until_replaced(&self) -> u64 {
        let mut standing = self.standing();
        loop {
            if let Some(writer) = standing.borrow_and_update().replaced_by {
                return writer;
            }
            if standing.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells the others whether this node gives its databases away. If the coordinator cannot be reached, it is told later.
    pub fn set_draining(&self, is_draining: bool) {
        self.inner.shared.me.send_if_modified(|me| std::mem::replace(&mut me.is_draining, is_draining) != is_draining);
    }

    /// Leaves the fleet: gives the lease back, so that others see it at once. From then on the process may not serve.
    ///
    /// # Errors
    /// The coordinator cannot be reached or refuses. Then the lease ends by itself.
    pub async fn leave(&self) -> Result<(), CoordinationError> {
        let (done, outcome) = oneshot::channel();
        if self.inner.leaves.send(done).await.is_err() {
            return Ok(());
        }
        // Without an answer the task was at its end already.
        let outcome = outcome.await.unwrap_or(Ok(()));
        outcome.map_err(|failure| error(&self.inner.url, failure))
    }

    /// A secret that all nodes of the fleet share, for connections between them. The first node makes it. Ask again for each
    /// connection: it changes if the coordinator loses its disks, or an operator replaces it.
    pub fn secret(&self) -> Arc<str> {
        self.inner.shared.published.secret()
    }

    /// Tells all nodes a number, unless they know of a larger one. Writes nothing if the fleet knows it.
    ///
    /// # Errors
    /// The coordinator cannot be reached or refuses, or the topic's name is invalid.
    pub async fn announce(&self, topic: &str, number: u64) -> Result<(), CoordinationError> {
        check_name("topic", topic)?;
        let shared = &self.inner.shared;
        if number <= *shared.published.heard(topic).borrow() {
            return Ok(());
        }
        let announced = shared.etcd.put_larger(&shared.keys.topic(topic), number_text(number).as_bytes()).await;
        announced.map_err(|failure| error(&self.inner.url, failure))
    }

    /// The largest number that was announced for a topic, as it grows; 0 before the first.
    pub fn heard(&self, topic: &str) -> watch::Receiver<u64> {
        self.inner.shared.published.heard(topic)
    }
}

fn check(member: &FleetMember, lease: Duration) -> Result<(), CoordinationError> {
    check_name("node name", &member.name)?;
    if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
        return Err(CoordinationError::Invalid { what: "lease", text: format!("{lease:?}"), expected: "1s to 1h" });
    }
    let length = serde_json::to_vec(member).expect("texts and numbers are JSON").len();
    if length > MEMBER_LENGTH_MAX {
        let text = format!("{} with {length} bytes", member.name);
        return Err(CoordinationError::Invalid { what: "member", text, expected: "at most 16 KiB" });
    }
    Ok(())
}

fn error(url: &str, failure: EtcdFailure) -> CoordinationError {
    let (url, reason) = (url.to_owned(), failure.to_string());
    match failure {
        EtcdFailure::Unreachable(_) => CoordinationError::Unreachable { url, reason },
        EtcdFailure::LeaseGone | EtcdFailure::Unauthenticated(_) | EtcdFailure::Refused(_) => {
            CoordinationError::Refused { url, reason }
        }
    }
}
