//! The task that keeps this process's lease and key.
//!
//! 1. A third of the TTL after each keepalive, the next is sent. One that gets no answer is repeated soon.
//! 2. An answer with a TTL moves the end of the lease to the moment before its request was sent, plus the TTL, less a margin.
//!    etcd counts from when it has the request, which is later. So this process gives up first, however long the answer took
//!    or the process was stopped, unless the clocks drift apart by more than the margin during one TTL.
//! 3. An answer without a TTL says that the lease has ended. The end is set to 0, the loss is told, and only then another
//!    lease is granted and the key put again.
//! 4. A key is put only over the own last one, or where there is none. At the start the process puts it whatever is there: the
//!    newest process of a name has the key.
//! 5. If the key has another writer in a later revision, the process was replaced. It gives its lease back, and the task ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::etcd::{Etcd, EtcdFailure, Put};
use crate::keys::Keys;
use crate::member::FleetMember;
use crate::pause::Pauses;
use crate::secret;
use crate::standing::Standing;
use crate::view::{OwnKey, Published, read_member};

/// Attempts to put the key while others change it.
const PUTS_MAX: usize = 5;
const MARGIN_MS_MIN: u64 = 500;
/// No lease is longer, whatever etcd answers.
const TTL_SECONDS_MAX: u64 = 24 * 3600;

/// A request to leave, and where to say that it is done.
pub(crate) type Leave = oneshot::Sender<Result<(), EtcdFailure>>;

/// The parts of a process that its tasks and its handles share.
pub(crate) struct Tenancy {
    pub(crate) etcd: Arc<Etcd>,
    pub(crate) keys: Keys,
    /// Seconds that a lease is asked for.
    pub(crate) ttl: u64,
    /// This process as it wants to be seen.
    pub(crate) me: watch::Sender<FleetMember>,
    pub(crate) standing: watch::Sender<Standing>,
    /// Monotonic milliseconds; 0 without a lease.
    pub(crate) lease_end_ms: Arc<AtomicU64>,
    pub(crate) published: Arc<Published>,
}

/// The lease of a process, and the key under it.
pub(crate) struct Tenure {
    shared: Arc<Tenancy>,
    /// Changes of the process's description since the first put.
    me: watch::Receiver<FleetMember>,
    /// The lease's id.
    lease: Option<i64>,
    /// The revision of this process's last put of its key, 0 before.
    put_revision: i64,
    /// When to put the key, which may differ from what the process wants.
    put_at: Option<Instant>,
    renew_at: Instant,
    /// A third of the TTL that was granted.
    interval: Duration,
    /// Between attempts to join again.
    pauses: Pauses,
    /// Between attempts to put the key.
    put_pauses: Pauses,
    /// Whether the last keepalive got no answer.
    is_unanswered: bool,
}

impl Tenure {
    /// Gets a lease and puts the key under it, over that of an older process.
    pub(crate) async fn begin(shared: Arc<Tenancy>) -> Result<Self, EtcdFailure> {
        let mut tenure = Self {
            me: shared.me.subscribe(),
            shared,
            lease: None,
            put_revision: 0,
            put_at: None,
            renew_at: Instant::now(),
            interval: Duration::ZERO,
            pauses: Pauses::default(),
            put_pauses: Pauses::default(),
            is_unanswered: false,
        };
        let (id, end_ms) = tenure.grant().await?;
        tenure.lease = Some(id);
        let (key, value) = tenure.own();
        match tenure.shared.etcd.put(&key, &value, id).await {
            Ok(revision) => tenure.put_revision = revision,
            Err(failure) => {
                tenure.retire().await;
                return Err(failure);
            }
        }
        tenure.shared.lease_end_ms.store(end_ms, Ordering::Release);
        Ok(tenure)
    }

    /// Runs until the process leaves or is replaced.
    pub(crate) async fn run(mut self, mut leaves: mpsc::Receiver<Leave>) {
        let mut own = self.shared.published.own.subscribe();
        own.mark_changed();
        loop {
            let put_at = self.put_at.filter(|_| self.lease.is_some());
            tokio::select! {
                // The last handle aborts this task when it is dropped, and does not leave.
                Some(leave) = leaves.recv() => return self.leave(leave).await,
                () = sleep_until(self.renew_at) => match self.lease {
                    Some(id) => self.renew(id).await,
                    None => self.register().await,
                },
                () = sleep_until(put_at.unwrap_or(self.renew_at)), if put_at.is_some() => self.put_again().await,
                Ok(()) = own.changed() => {
                    let own = *own.borrow_and_update();
                    self.look_at(own).await;
                }
                Ok(()) = self.me.changed() => {
                    self.put_at = Some(Instant::now());
                }
            }
            if self.shared.standing.borrow().replaced_by.is_some() {
                return self.retire().await;
            }
        }
    }

    /// Sends a keepalive.
    async fn renew(&mut self, id: i64) {
        let started = Instant::now();
        // Several attempts fit into what is left after the first.
        let limit = (self.interval / 2).clamp(Duration::from_millis(300), Duration::from_secs(5));
        match self.shared.etcd.keep_alive(id, limit).await {
            Ok((0, _)) | Err(EtcdFailure::LeaseGone) => self.lose(),
            Ok((ttl, sent_ms)) => {
                if std::mem::take(&mut self.is_unanswered) {
                    info!("the coordinator answers again");
                }
                self.shared.lease_end_ms.store(end_ms(sent_ms, ttl), Ordering::Release);
                self.interval = interval(ttl);
                self.renew_at = started + self.interval;
                self.pauses.reset();
            }
            Err(failure) => {
                if !std::mem::replace(&mut self.is_unanswered, true) {
                    warn!("failed to renew the lease, will try again: {failure}");
                }
                let pause = (self.interval / 4).clamp(Duration::from_millis(100), Duration::from_secs(1));
                self.renew_at = Instant::now() + pause;
            }
        }
    }

    /// Notes that etcd has given the lease away, and asks for another at once.
    fn lose(&mut self) {
        // Before anything else: the process must not serve while others may have adopted its databases.
        self.shared.lease_end_ms.store(0, Ordering::Release);
        if self.lease.take().is_some() {
            warn!("the lease has ended, will ask for another");
            self.shared.standing.send_modify(|standing| standing.leases_lost += 1);
        }
        self.put_at = None;
        self.is_unanswered = false;
        self.renew_at = Instant::now();
    }

    /// Gets another lease, and puts the key again unless a newer process has it.
    async fn register(&mut self) {
        match self.try_register().await {
            Ok(()) => self.pauses.reset(),
            Err(failure) => {
                let pause = self.pauses.next();
                warn!("failed to join again, next attempt in {} ms: {failure}", pause.as_millis());
                self.renew_at = Instant::now() + pause;
            }
        }
    }

    async fn try_register(&mut self) -> Result<(), EtcdFailure> {
        let (id, end_ms) = self.grant().await?;
        // etcd may have lost its disks.
        let secret = secret::establish(&self.shared.etcd, &self.shared.keys, self.shared.published.secret()).await?;
        self.shared.published.set_secret(secret);
        self.put_at = None;
        if self.put(id).await? {
            self.lease = Some(id);
            self.shared.lease_end_ms.store(end_ms, Ordering::Release);
            info!("joined the fleet again");
        }
        Ok(())
    }

    /// Returns the id of a new lease and its end.
    async fn grant(&mut self) -> Result<(i64, u64), EtcdFailure> {
        let started = Instant::now();
        let (id, ttl, sent_ms) = self.shared.etcd.grant(self.shared.ttl).await?;
        self.interval = interval(ttl);
        self.renew_at = started + self.interval;
        Ok((id, end_ms(sent_ms, ttl)))
    }

    async fn put_again(&mut self) {
        self.put_at = None;
        let Some(id) = self.lease else { return };
        match self.put(id).await {
            Ok(_) => self.put_pauses.reset(),
            Err(EtcdFailure::LeaseGone) => self.lose(),
            Err(failure) => {
                let pause = self.put_pauses.next();
                warn!("failed to describe this process, next attempt in {} ms: {failure}", pause.as_millis());
                self.put_at = Some(Instant::now() + pause);
            }
        }
    }

    /// Puts the key over the own last one, or where there is none. Returns whether it is there; else the process was replaced.
    async fn put(&mut self, id: i64) -> Result<bool, EtcdFailure> {
        let (key, value) = self.own();
        for _ in 0..PUTS_MAX {
            match self.shared.etcd.put_over(self.put_revision, &key, &value, Some(id)).await? {
                Put::Done(revision) => {
                    self.put_revision = revision;
                    return Ok(true);
                }
                Put::Refused(None) => self.put_revision = 0,
                Put::Refused(Some(kv)) => {
                    let (name, writer) = self.name_and_writer();
                    match read_member(&name, &kv.value) {
                        Some(other) if other.writer != writer => {
                            self.be_replaced(other.writer);
                            return Ok(false);
                        }
                        // An earlier put whose answer was lost, or a value that means nothing.
                        _ => self.put_revision = kv.mod_revision,
                    }
                }
            }
        }
        Err(EtcdFailure::Refused(format!("{key} changes all the time")))
    }

    /// Compares the own key, as the watch shows it, with what it should be.
    async fn look_at(&mut self, own: OwnKey) {
        match own.holder {
            Some((writer, revision)) if writer != self.name_and_writer().1 && revision > self.put_revision => {
                self.be_replaced(writer);
            }
            // Others take this process for dead. Either its lease has ended, or its key was deleted.
            None if own.revision >= self.put_revision => {
                if let Some(id) = self.lease {
                    self.put_at = Some(Instant::now());
                    self.renew(id).await;
                }
            }
            _ => {}
        }
    }

    fn be_replaced(&self, writer: u64) {
        self.shared.lease_end_ms.store(0, Ordering::Release);
        warn!(writer, "another process has joined the fleet under the name of this one");
        self.shared.standing.send_modify(|standing| standing.replaced_by = Some(writer));
    }

    /// Gives the lease back, without which the key goes unless it is that of another process.
    pub(crate) async fn retire(self) {
        self.shared.lease_end_ms.store(0, Ordering::Release);
        if let Some(id) = self.lease
            && let Err(failure) = self.shared.etcd.revoke(id).await
        {
            info!("failed to give a lease back, which will end by itself: {failure}");
        }
    }

    async fn leave(self, leave: Leave) {
        let shared = self.shared;
        shared.lease_end_ms.store(0, Ordering::Release);
        let outcome = match self.lease {
            Some(id) => shared.etcd.revoke(id).await,
            None => Ok(()),
        };
        shared.standing.send_modify(|standing| standing.has_left = true);
        // The caller may have stopped waiting.
        _ = leave.send(outcome);
    }

    /// The own key and its value.
    fn own(&self) -> (String, Vec<u8>) {
        let me = self.shared.me.borrow();
        let value = serde_json::to_vec(&*me).expect("texts and numbers are JSON");
        (self.shared.keys.node(&me.name), value)
    }

    fn name_and_writer(&self) -> (String, u64) {
        let me = self.shared.me.borrow();
        (me.name.clone(), me.writer)
    }
}

/// The moment until which the process may serve, for a keepalive that was sent at `sent_ms`.
fn end_ms(sent_ms: u64, ttl: u64) -> u64 {
    let ttl_ms = ttl.min(TTL_SECONDS_MAX) * 1000;
    let margin_ms = (ttl_ms / 4).max(MARGIN_MS_MIN);
    sent_ms.saturating_add(ttl_ms.saturating_sub(margin_ms))
}

fn interval(ttl: u64) -> Duration {
    Duration::from_secs(ttl.clamp(1, TTL_SECONDS_MAX)) / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_gives_up_before_its_lease_ends() {
        for (ttl, served_ms) in [(0, 0), (1, 500), (2, 1_500), (10, 7_500), (60, 45_000), (u64::MAX, 64_800_000)] {
            assert_eq!(end_ms(100, ttl) - 100, served_ms, "TTL {ttl}");
            let renewed_ms = u64::try_from(interval(ttl).as_millis()).unwrap();
            assert!(ttl == 0 || renewed_ms < served_ms, "TTL {ttl}");
        }
        assert_eq!(end_ms(u64::MAX, 10), u64::MAX);
    }
}
