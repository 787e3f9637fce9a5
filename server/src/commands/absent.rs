//! Errors of commands that exist only to be refused. They name the feature that is missing, and what to use instead.

use dormouse_protocol::{Reply, Request};
use dormouse_shard::error::{Error, Result};

use crate::session::Session;

pub const REPLICA: Error = Error::text(
    "ERR Dormouse is never a replica of another server: `dormouse import redis://HOST:PORT --follow` brings its data in \
     and follows its writes until the cutover",
);
pub const FAILOVER: Error = Error::text(
    "ERR Dormouse has no failover: its data is in the store, from which another process takes over. Replicas are for \
     leaving: they follow until they are promoted with REPLICAOF NO ONE",
);
pub const MODULES: Error = Error::text("ERR Dormouse loads no modules");
pub const GOSSIP: Error = Error::text(
    "ERR Dormouse has no cluster bus: the cluster that it shows (--cluster-mode emulated) is this node with all slots, and \
     cannot be changed",
);

pub const SLOT_MOVES: Error = Error::text(
    "ERR Dormouse moves no slots: each of its databases is a cluster of one node that has all of them, and grows over the cores \
     of its machine by itself",
);
pub const IMPORT_SOURCE: Error = Error::text(
    "ERR Dormouse has no mode for imports: `dormouse import` fills a database beside its old data, and nothing expires there before \
     the cutover",
);
pub const BACKUP: Error = Error::text(
    "ERR Dormouse writes no backup into a folder of the server: `dormouse backup` copies databases into another bucket while \
     they are in use, and `dormouse db branch` keeps a database as it is now",
);

/// Refuses a command: `refuse!(absent::MODULES)` is its row's function.
macro_rules! refuse {
    ($error:path) => {{
        fn run(
            _: &mut $crate::session::Session,
            _: &mut ::dormouse_protocol::Reply,
            _: ::dormouse_protocol::Request<'_>,
        ) -> ::dormouse_shard::error::Result<()> {
            Err($error)
        }
        $crate::table::SessionRun::Now(run)
    }};
}
pub(crate) use refuse;

/// `REPLICAOF host port` and its older name: `NO ONE` is what the node is anyway.
pub fn replica_of(_: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    if request.arg(1).eq_ignore_ascii_case(b"NO") && request.arg(2).eq_ignore_ascii_case(b"ONE") {
        reply.ok();
        return Ok(());
    }
    Err(REPLICA)
}
