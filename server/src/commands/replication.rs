//! Commands of replicas and of clients that ask about them. See [`crate::replication`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::args::integer;
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result, repeated};

use super::absent::{self, refuse, replica_of};
use super::now;
use crate::replication::{Announced, RdbPart, Replica, ReplicaState, full};
use crate::session::{ReplyMode, Session};
use crate::table::SessionRun;

const ADMIN: Flags = Flags::ADMIN.union(Flags::NO_SCRIPT);
const SYNC: Flags = ADMIN.union(Flags::NO_ASYNC_LOADING).union(Flags::NO_MULTI);
const REPLICA_OF: Flags = ADMIN.union(Flags::NO_ASYNC_LOADING).union(Flags::STALE);
/// Some of its options have no reply, so it cannot be queued.
const CONFIGURE: Flags =
    ADMIN.union(Flags::LOADING).union(Flags::STALE).union(Flags::ALLOW_BUSY).union(Flags::NO_QUEUE);
const ASK: Flags = Flags::NO_SCRIPT.union(Flags::LOADING).union(Flags::STALE).union(Flags::FAST);

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[
        Command::new("REPLCONF", at_least(1), &[], CONFIGURE, SessionRun::Now(replconf))
            .doc("3.0.0", "O(1)", "An internal command for configuring the replication stream.")
            .stateless(false),
        Command::new("PSYNC", at_least(3), &[], SYNC, SessionRun::Now(psync))
            .doc(
                "2.8.0",
                "O(N) where N is the number of keys, unless the replica goes on where it was.",
                "An internal command used in replication.",
            )
            .stateless(false),
        Command::new("SYNC", exactly(1), &[], SYNC, now!(sync))
            .doc("1.0.0", "O(N) where N is the number of keys.", "An internal command used in replication.")
            .stateless(false),
        Command::new("ROLE", exactly(1), &[], ASK, now!(role))
            .doc("2.8.12", "O(1)", "Returns the replication role.")
            .also(Category::ADMIN.union(Category::DANGEROUS)),
        Command::new("REPLICAOF", exactly(3), &[], REPLICA_OF, SessionRun::Now(replica_of)).doc(
            "5.0.0",
            "O(1)",
            "Configures a server as replica of another, or promotes it to a master.",
        ),
        Command::new("SLAVEOF", exactly(3), &[], REPLICA_OF, SessionRun::Now(replica_of)).doc(
            "1.0.0",
            "O(1)",
            "Sets a Redis server as a replica of another, or promotes it to being a master.",
        ),
        Command::new("FAILOVER", at_least(1), &[], ADMIN.union(Flags::STALE), refuse!(absent::FAILOVER)).doc(
            "6.2.0",
            "O(1)",
            "Starts a coordinated failover from a server to one of its replicas.",
        ),
    ],
};

/// `REPLCONF [option value ...]`
fn replconf(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    if request.len().is_multiple_of(2) {
        return Err(Error::Syntax);
    }
    let (_, now_ms) = session.worker.now();
    let mut announced = session.announced.take().unwrap_or_default();
    for at in (1..request.len()).step_by(2) {
        let (option, value) = (request.arg(at), request.arg(at + 1));
        match &option.to_ascii_lowercase()[..] {
            // The reply to these would be taken for a part of the stream.
            b"ack" => {
                let offset = |value| integer(value).ok().and_then(|offset| u64::try_from(offset).ok());
                // Replicas with an append-only file go on: `FACK offset`.
                let has_durable = at + 3 < request.len() && request.arg(at + 2).eq_ignore_ascii_case(b"fack");
                let durable = has_durable.then(|| offset(request.arg(at + 3))).flatten();
                if let (Some(replica), Some(offset)) = (&session.replica, offset(value)) {
                    session.tenant.replication.acknowledge(replica, offset, durable, now_ms);
                    session.tenant.count_replicas();
                }
                session.announced = Some(announced);
                return Ok(());
            }
            b"getack" => {
                session.announced = Some(announced);
                return Ok(());
            }
            _ => {}
        }
        if let Err(error) = announce(&mut announced, option, value) {
            session.announced = Some(announced);
            return Err(error);
        }
    }
    session.announced = Some(announced);
    reply.ok();
    Ok(())
}

/// Notes what a replica says about itself.
fn announce(announced: &mut Announced, option: &[u8], value: &[u8]) -> Result<()> {
    const ADDRESS_BYTES_MAX: usize = 45;
    match &option.to_ascii_lowercase()[..] {
        b"listening-port" => {
            announced.port = u16::try_from(integer(value)?).map_err(|_| Error::OutOfRange)?;
        }
        b"ip-address" => {
            if value.len() > ADDRESS_BYTES_MAX {
                let text =
                    format!("ERR REPLCONF ip-address provided by replica instance is too long: {} bytes", value.len());
                return Err(Error::Text(text.into()));
            }
            let is_plain = value.iter().all(|byte| byte.is_ascii_alphanumeric() || b".:-_".contains(byte));
            announced.address = if is_plain { String::from_utf8_lossy(value).into() } else { "".into() };
        }
        b"capa" => {
            announced.knows_eof |= value.eq_ignore_ascii_case(b"eof");
            announced.knows_psync2 |= value.eq_ignore_ascii_case(b"psync2");
        }
        b"rdb-only" => announced.rdb_only = integer(value)? == 1,
        b"rdb-filter-only" => {
            announced.only = Some(RdbPart::Nothing);
            for part in value.split(|byte| *byte == b' ').filter(|part| !part.is_empty()) {
                if !part.eq_ignore_ascii_case(b"functions") {
                    let text = format!("ERR Unsupported rdb-filter-only option: {}", repeated(part));
                    return Err(Error::Text(text.into()));
                }
                announced.only = Some(RdbPart::Functions);
            }
        }
        // Only Valkey says it.
        b"version" => {
            let major = value.split(|byte| *byte == b'.').next().unwrap_or_default();
            announced.is_valkey_9 = integer(major).is_ok_and(|major| major >= 9);
        }
        _ => {
            return Err(Error::Text(format!("ERR Unrecognized REPLCONF option: {}", repeated(option)).into()));
        }
    }
    Ok(())
}

/// `PSYNC replicationid offset`: the stream from an offset on, or everything.
fn psync(session: &mut Session, _: &mut Reply, request: Request<'_>) -> Result<()> {
    let offset = integer(request.arg(2))?;
    if request.len() > 3 {
        // The old master of a failover says so.
        return Err(absent::FAILOVER);
    }
    let Some(replica) = begin(session, false)? else { return Ok(()) };
    let goes_on =
        u64::try_from(offset).is_ok_and(|offset| session.tenant.replication.goes_on(&replica, request.arg(1), offset));
    if !goes_on {
        full::begin(&session.node.copies, &session.tenant.database, &session.tenant.replication, &replica);
    }
    Ok(())
}

/// `SYNC`: everything, as replicas asked for it before Redis 2.8.
fn sync(session: &mut Session, _: &mut Reply, (): ()) -> Result<()> {
    if let Some(replica) = begin(session, true)? {
        full::begin(&session.node.copies, &session.tenant.database, &session.tenant.replication, &replica);
    }
    Ok(())
}

/// Makes the client a replica. Whatever else it asks from now on has no reply, which would be taken for a part of the
/// stream. `None`: it is one already.
fn begin(session: &mut Session, is_old: bool) -> Result<Option<Arc<Replica>>> {
    if session.replica.is_some() {
        return Ok(None);
    }
    session.node.check_owner()?;
    let announced = Announced { is_old, ..session.announced.as_deref().cloned().unwrap_or_default() };
    if announced.only.is_some() && !announced.knows_eof {
        return Err(Error::text("ERR Filtered replica requires EOF capability"));
    }
    let replica = Replica::new(Arc::clone(&session.node) as _, &session.client, announced);
    session.client.is_replica.store(true, Ordering::Relaxed);
    session.replica = Some(Arc::clone(&replica));
    session.reply_mode = ReplyMode::Off;
    Ok(Some(replica))
}

/// `ROLE`
fn role(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let view = session.tenant.replication.view();
    let online = view.replicas.iter().filter(|replica| replica.state() == ReplicaState::Online);
    reply.array(3);
    reply.bulk(b"master");
    reply.integer(view.offset as i64);
    let (start, mut len) = (reply.len(), 0);
    for replica in online {
        reply.array(3);
        reply.bulk(replica.address().as_bytes());
        reply.bulk_integer(replica.announced.port.into());
        reply.bulk_integer(replica.offset() as i64);
        len += 1;
    }
    reply.array_since(start, len);
    Ok(())
}
