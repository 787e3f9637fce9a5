//! A blocked client: its command has found nothing, and its connection waits for another client to serve it.
//!
//! The engine has the waiter ([`dormouse_shard::waiters`]); a [`Blocked`] is the connection's side of it.
//!
//! 1. A command that finds nothing leaves a `Blocked` in its session. The future that has run it ends, so that a blocked
//!    client needs little memory, and the connection gives its reply buffer back to the worker.
//! 2. The connection waits for the first of these: a reply, a nudge, the end of its timeout, `CLIENT UNBLOCK`, a message
//!    of a subscription, the end of the client. Meanwhile it reads ahead a little, to notice that the client closes the
//!    connection. Its further requests wait.
//! 3. A nudge makes it run the command again, as a plan of its own. It nudges itself when a pending entry may be claimed that its
//!    command asks for.
//!
//! Waiting costs no CPU, and is neither billed nor a use of the database: it may fall asleep, and the waiter stays.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dormouse_protocol::OwnedRequest;
use dormouse_shard::waiters::{ServedReply, WaitEvent, Waiter};
use dormouse_storage::log::Lsn;

use crate::clients::Client;
use crate::clock::{Alarm, Ring};
use crate::databases::Tenant;

/// A longer timeout is none.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The reason why a client waits no longer.
#[derive(Debug)]
pub enum Unblocked {
    Served(ServedReply),
    TimedOut,
    /// By `CLIENT UNBLOCK`.
    ByOther,
}

/// The next task of a blocked client's connection.
#[derive(Debug)]
pub enum BlockedEvent {
    Over(Unblocked),
    /// Run the command again.
    Nudged,
}

/// The costs of a command so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    pub bytes_in: u64,
    pub busy: Duration,
    pub cpu: Duration,
}

pub struct Blocked {
    pub waiter: Arc<Waiter>,
    client: Arc<Client>,
    tenant: Arc<Tenant>,
    /// As the client has sent it.
    request: OwnedRequest,
    /// Its command in the table.
    pub command: usize,
    timer: Option<Ring>,
    /// Unix milliseconds at which it looks again, and what rings then.
    look_at: Option<(u64, Ring)>,
    alarm: Alarm,
    deadline: Option<Instant>,
    /// Bytes charged to the client.
    held_bytes: usize,
    pub spent: Spent,
    /// The log position that its reply waits for in any case.
    pub awaited: Lsn,
}

impl Blocked {
    /// A command of `client` that began at `since` waits as `waiter`. `request` is what the client has sent, `command` its
    /// place in the table.
    pub fn new(
        (client, tenant, alarm): (&Arc<Client>, &Arc<Tenant>, &Alarm),
        since: Instant,
        waiter: Arc<Waiter>,
        request: OwnedRequest,
        command: usize,
    ) -> Self {
        let timeout = waiter.timeout_ms.map(Duration::from_millis).filter(|timeout| *timeout < TIMEOUT_MAX);
        // Before others see that the client waits.
        let timer = timeout.map(|timeout| alarm.after(since, timeout));
        let held_bytes = waiter.bytes();
        client.hold_anyway(held_bytes);
        client.block(&waiter);
        Self {
            client: Arc::clone(client),
            tenant: Arc::clone(tenant),
            request,
            command,
            timer,
            look_at: None,
            alarm: alarm.clone(),
            deadline: timeout.map(|timeout| since + timeout),
            held_bytes,
            spent: Spent::default(),
            awaited: 0,
            waiter,
        }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BlockedEvent> {
        let is_nudged = match self.waiter.poll(cx) {
            Poll::Ready(WaitEvent::Served(served)) => {
                return Poll::Ready(BlockedEvent::Over(Unblocked::Served(served)));
            }
            Poll::Ready(WaitEvent::Ended) => return Poll::Ready(BlockedEvent::Over(Unblocked::ByOther)),
            Poll::Ready(WaitEvent::Nudged) => true,
            Poll::Pending => false,
        };
        // Before a nudge is followed: others could nudge for ever.
        if self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            if self.tenant.database.waiters.time_out(&self.waiter, &self.request) {
                return Poll::Ready(BlockedEvent::Over(Unblocked::TimedOut));
            }
            // It is being served at this moment, or about to wait on.
            cx.waker().wake_by_ref();
        }
        if is_nudged || self.is_to_look(cx) { Poll::Ready(BlockedEvent::Nudged) } else { Poll::Pending }
    }

    /// Whether it is time to look again, though nothing has changed.
    fn is_to_look(&mut self, cx: &mut Context<'_>) -> bool {
        let at_ms = self.waiter.look_at_ms();
        if self.look_at.as_ref().map(|(at_ms, _)| *at_ms) != at_ms {
            self.look_at = at_ms.map(|at_ms| (at_ms, self.alarm.at(at_ms)));
        }
        let is_time = self.look_at.as_mut().is_some_and(|(_, ring)| ring.as_mut().poll(cx).is_ready());
        if is_time {
            self.look_at = None;
            self.waiter.nudge();
        }
        is_time
    }

    /// When it has waited long enough; `None`: never.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.waiter.end();
        self.tenant.database.waiters.remove(&self.waiter);
        self.client.unblocked();
        self.client.let_go(self.held_bytes);
    }
}
