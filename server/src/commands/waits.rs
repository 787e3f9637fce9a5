//! Waits for replicas and for the disk.
//!
//! A client that waits here is no waiter of the engine: it waits for no key. Its wait ends like that of a blocking command,
//! after its timeout or by `CLIENT UNBLOCK`. A transaction and a script do not wait, and report the current state.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::args;
use dormouse_shard::commands::blocking::Timeout;
use dormouse_shard::commands::{Category, Command, Family, Flags, exactly};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::keyspace::{Keyspace, Shared};
use dormouse_storage::log::Window;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::clients::SessionWait;
use crate::commands::answer;
use crate::replication::ReplicaCopy;
use crate::session::Session;
use crate::table::{Answer, SessionRun};

const TIPS: &[&str] = &["request_policy:all_shards", "response_policy:agg_min"];
pub const UNBLOCKED: Error = Error::text("UNBLOCKED client unblocked via CLIENT UNBLOCK");

pub const FAMILY: Family<SessionRun> = Family {
    group: "generic",
    category: Category::CONNECTION,
    commands: &[
        Command::new("WAIT", exactly(3), &[], Flags::BLOCKING.union(Flags::PATIENT), SessionRun::Either(wait_at_once, wait))
        .doc(
            "3.0.0",
            "O(1)",
            "Blocks until the asynchronous replication of all preceding write commands sent by the connection is completed.",
        )
        .in_script(wait_in_script)
        .tips(TIPS),
        Command::new("WAITAOF", exactly(4), &[], Flags::BLOCKING.union(Flags::PATIENT), SessionRun::Either(wait_log_at_once, wait_log))
            .doc(
                "7.2.0",
                "O(1)",
                "Blocks until all of the preceding write commands sent by the connection are written to the append-only file of the master and/or replicas.",
            )
            .in_script(wait_log_in_script)
            .tips(TIPS),
    ],
};

/// `WAIT numreplicas timeout`: waits until so many replicas have acknowledged everything that was written until now.
fn wait(session: &mut Session, request: Request<'_>) -> Result<BoxFuture<'static, Answer>> {
    let (wanted, ms) = wait_arguments(request, session.now_us / 1000)?;
    let replication = Arc::clone(&session.tenant.replication);
    let client = Arc::clone(&session.client);
    Ok(async move {
        let wait = client.begin_wait(ms > 0);
        let patience = Patience { wait: &wait, limit: (ms > 0).then(|| Duration::from_millis(ms)) };
        let mut offset = None;
        let acknowledged =
            replication.until_acknowledged(usize::try_from(wanted).unwrap_or(0), ReplicaCopy::Received, &mut offset);
        let ended = patience.bound(acknowledged).await;
        let count = replication.acknowledged(offset.unwrap_or(u64::MAX), ReplicaCopy::Received);
        answer(ended.map(|()| count), |count, reply| reply.integer(count as i64))
    }
    .boxed())
}

/// How long a client waits: until its timeout, or `CLIENT UNBLOCK`.
struct Patience<'a> {
    wait: &'a SessionWait,
    limit: Option<Duration>,
}

impl Patience<'_> {
    /// Waits for `condition`. Running out of time is no error.
    ///
    /// # Errors
    /// When another client ends the wait with an error.
    async fn bound(self, condition: impl Future<Output = ()>) -> Result<()> {
        let timer = async {
            match self.limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = condition => Ok(()),
            with_error = self.wait.ended() => if with_error { Err(UNBLOCKED) } else { Ok(()) },
            () = timer => Ok(()),
        }
    }
}

/// The same in a transaction, which does not wait and reports the current state.
fn wait_at_once(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    wait_arguments(request, session.now_us / 1000)?;
    let replication = &session.tenant.replication;
    reply.integer(replication.acknowledged(replication.view().offset, ReplicaCopy::Received) as i64);
    Ok(())
}

/// `numreplicas timeout`, the latter in milliseconds; 0: for ever.
fn wait_arguments(request: Request<'_>, now_ms: u64) -> Result<(i64, u64)> {
    let (wanted, timeout): (i64, &[u8]) = args::parse(request, 1)?;
    Ok((wanted, timeout_ms(timeout, now_ms)?))
}

fn timeout_ms(word: &[u8], now_ms: u64) -> Result<u64> {
    Ok(Timeout::milliseconds(word)?.after(now_ms)?.unwrap_or(0))
}

/// The same in a script.
fn wait_in_script(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    wait_arguments(request, db.now())?;
    reply.integer(replicas_in_step(db, false) as i64);
    Ok(())
}

fn replicas_in_step(db: &Keyspace<'_>, in_file: bool) -> usize {
    db.shared().scripts.surroundings().map_or(0, |around| around.replicas_in_step(in_file))
}

/// `WAITAOF numlocal numreplicas timeout`: waits until the connection's last write is durable here, and everything that was
/// written until now on so many replicas.
fn wait_log(session: &mut Session, request: Request<'_>) -> Result<BoxFuture<'static, Answer>> {
    let Awaited { local, replicas, ms } = awaited(&session.tenant.database.shared, request, session.now_us / 1000)?;
    session.node.check_owner()?;
    let (database, replication) = (Arc::clone(&session.tenant.database), Arc::clone(&session.tenant.replication));
    let (node, client, written) = (Arc::clone(&session.node), Arc::clone(&session.client), session.written);
    Ok(async move {
        let log = database.shared.journal.log();
        let wait = client.begin_wait(ms > 0);
        let patience = Patience { wait: &wait, limit: (ms > 0).then(|| Duration::from_millis(ms)) };
        let mut offset = None;
        let durable = async {
            let is_lost = match log.filter(|_| local > 0) {
                Some(log) => log.durable(written).await.is_err(),
                None => false,
            };
            // Replicas cannot make up for a log that is lost.
            if !is_lost {
                replication.until_acknowledged(replicas, ReplicaCopy::Durable, &mut offset).await;
            }
        };
        let ended = patience.bound(durable).await;
        let is_durable = log.is_some_and(|log| log.flushed() >= written);
        let count = offset.map_or(0, |offset| replication.acknowledged(offset, ReplicaCopy::Durable));
        match ended.and_then(|()| if local > 0 && !is_durable { node.check_owner() } else { Ok(()) }) {
            Err(error) => answer(Err(error), |(), _| {}),
            Ok(()) => answer(Ok(()), move |(), reply| write_durable(reply, is_durable, count)),
        }
    }
    .boxed())
}

/// The same in a transaction, which does not wait and reports the current state. Its own writes are not included.
fn wait_log_at_once(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    awaited(&session.tenant.database.shared, request, session.now_us / 1000)?;
    session.node.check_owner()?;
    let log = session.tenant.database.shared.journal.log();
    let replication = &session.tenant.replication;
    let count = replication.acknowledged(replication.view().offset, ReplicaCopy::Durable);
    write_durable(reply, log.is_some_and(|log| log.flushed() >= session.written), count);
    Ok(())
}

/// The same in a script.
fn wait_log_in_script(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    awaited(db.shared(), request, db.now())?;
    write_durable(reply, is_logged(db.shared()), replicas_in_step(db, true));
    Ok(())
}

fn is_logged(shared: &Shared) -> bool {
    shared.journal.window() != Window::None && shared.journal.log().is_some()
}

struct Awaited {
    local: i64,
    replicas: usize,
    ms: u64,
}

/// Reads the arguments of `WAITAOF`. Fails if there is nothing to wait for.
fn awaited(shared: &Shared, request: Request<'_>, now_ms: u64) -> Result<Awaited> {
    let (local, replicas, timeout): (i64, &[u8], &[u8]) = args::parse(request, 1)?;
    if !(0..=1).contains(&local) {
        return Err(Error::text("ERR value is out of range, value must between 0 and 1"));
    }
    let replicas = args::integer(replicas).ok().and_then(|replicas| usize::try_from(replicas).ok());
    let replicas = replicas.ok_or(Error::NotPositive)?;
    let ms = timeout_ms(timeout, now_ms)?;
    if local > 0 && !is_logged(shared) {
        return Err(Error::text("ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled."));
    }
    Ok(Awaited { local, replicas, ms })
}

fn write_durable(reply: &mut Reply, is_durable: bool, replicas: usize) {
    reply.array(2);
    reply.integer(i64::from(is_durable));
    reply.integer(replicas as i64);
}
