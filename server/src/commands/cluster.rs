//! `CLUSTER` and the commands of cluster-aware clients: all rows of Redis 7.2, and newer ones of Redis and Valkey.
//!
//! By default they are answered as by a Redis without cluster support, so that clients get the error they expect. With
//! `--cluster-mode emulated` they show a cluster of one node, for clients that insist on one: each database shows itself
//! as a cluster of its own, whose only node has all slots. The slots are real, but nothing is refused for its slot: keys
//! of different slots may stand in one command, and every logical index can be selected.
//!
//! The node tells each client to connect to where it has connected to, unless `--cluster-announce-host` and
//! `--cluster-announce-port` (over TLS `--cluster-announce-tls-port`) name a proxy.
//!
//! `COUNTKEYSINSLOT` and `GETKEYSINSLOT` do not need the emulation: the keys of a slot are what they are. What moves slots between
//! nodes is refused.

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::{
    Access, Category, Command, Databases, Family, Flags, KeySpec, at_least, cluster_scan, exactly, slots,
};
use dormouse_shard::error::{Error, Result, repeated};
use dormouse_shard::execution::route::slot_of;

use super::{absent, help, now};
use crate::peer::Peer;
use crate::session::Session;
use crate::table::SessionRun;

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ADMIN: Flags = Flags::ADMIN.union(Flags::STALE);
const CHANGES: Flags = ADMIN.union(Flags::NO_ASYNC_LOADING);
/// The keys of a slot are looked for in all places, like those of a pattern.
const SLOT: Flags = Flags::STALE.union(Flags::WHOLE).union(Flags::SLOW_LANE);
/// The keys of all slots are counted.
const SLOTS_OF_ALL: Flags = ANY_TIME.union(Flags::WHOLE).union(Flags::SLOW_LANE).union(Flags::ALL_RESIDENT);
const FLUSHES: Flags = Flags::ADMIN
    .union(Flags::NO_ASYNC_LOADING)
    .union(Flags::WRITE)
    .union(Flags::BY_KEY)
    .union(Flags::WHOLE)
    .union(Flags::SLOW_LANE);
/// Its tag says which node the cursor is for.
const CURSOR: &[KeySpec] = &[KeySpec::one(1, Access::NOT_KEY)];
/// The number of slots.
const SLOTS: u16 = 16384;
const VARIES: &[&str] = &["nondeterministic_output"];

pub const FAMILY: Family<SessionRun> = Family {
    group: "cluster",
    category: Category::empty(),
    commands: &[
        Command::container("CLUSTER", &[
            Command::new("ADDSLOTS", at_least(3), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the total number of hash slot arguments", "Assigns new hash slots to a node."),
            Command::new("ADDSLOTSRANGE", at_least(4), &[], CHANGES, SessionRun::Now(refuse)).doc("7.0.0", "O(N) where N is the total number of the slots between the start slot and end slot arguments.", "Assigns new hash slot ranges to a node."),
            Command::new("BUMPEPOCH", exactly(2), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Advances the cluster config epoch.").tips(VARIES),
            Command::new("CANCELSLOTMIGRATIONS", exactly(2), &[], CHANGES, SessionRun::Now(refuse_move)).doc("9.0.0", "O(N) where N is the number of slot migrations", "Cancels all slot migrations.").databases(Databases::All),
            Command::new("COUNT-FAILURE-REPORTS", exactly(3), &[], ADMIN, SessionRun::Now(failure_reports)).doc("3.0.0", "O(N) where N is the number of failure reports", "Returns the number of active failure reports for a node. No new reports are created once the node is marked as failed.").tips(VARIES),
            Command::new("COUNTKEYSINSLOT", exactly(3), &[], SLOT, SessionRun::Keyspace(slots::COUNT)).doc("3.0.0", "O(1)", "Returns the number of keys in a hash slot."),
            Command::new("DELSLOTS", at_least(3), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the total number of hash slot arguments", "Sets hash slots as unbound for a node."),
            Command::new("DELSLOTSRANGE", at_least(4), &[], CHANGES, SessionRun::Now(refuse)).doc("7.0.0", "O(N) where N is the total number of the slots between the start slot and end slot arguments.", "Sets hash slot ranges as unbound for a node."),
            Command::new("FAILOVER", at_least(2), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Forces a replica to perform a manual failover of its master."),
            Command::new("FLUSHSLOT", at_least(3), &[], FLUSHES, SessionRun::Keyspace(slots::FLUSH)).doc("9.0.0", "O(N) where N is the number of keys in the slot", "Removes all keys of a hash slot.").also(Category::KEYSPACE).databases(Databases::All),
            Command::new("FLUSHSLOTS", exactly(2), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Deletes all slots information from a node."),
            Command::new("FORGET", exactly(3), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Removes a node from the nodes table."),
            Command::new("GETKEYSINSLOT", exactly(4), &[], SLOT, SessionRun::Keyspace(slots::LIST)).doc("3.0.0", "O(N) where N is the number of requested keys", "Returns the key names in a hash slot.").tips(VARIES),
            Command::new("GETSLOTMIGRATIONS", exactly(2), &[], CHANGES, SessionRun::Now(refuse_move)).doc("9.0.0", "O(N) where N is the number of slot migrations", "Returns the status of slot migrations."),
            Command::new("HELP", exactly(2), &[], ANY_TIME, now!(show_help, 2)).doc("5.0.0", "O(1)", "Returns helpful text about the different subcommands."),
            Command::new("INFO", exactly(2), &[], ANY_TIME, now!(info, 2)).doc("3.0.0", "O(1)", "Returns information about the state of a node.").tips(VARIES),
            Command::new("KEYSLOT", exactly(3), &[], Flags::STALE, now!(keyslot, 2)).doc("3.0.0", "O(N) where N is the number of bytes in the key", "Returns the hash slot for a key."),
            Command::new("LINKS", exactly(2), &[], Flags::STALE, now!(links, 2)).doc("7.0.0", "O(N) where N is the total number of Cluster nodes", "Returns a list of all TCP links to and from peer nodes.").tips(VARIES),
            Command::new("MEET", at_least(4), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Forces a node to handshake with another node."),
            Command::new("MIGRATESLOTS", at_least(4), &[], CHANGES, SessionRun::Now(refuse_move)).doc("9.0.0", "O(N) where N is the number of slots", "Moves slots to another node.").databases(Databases::All),
            Command::new("MIGRATION", at_least(4), &[], CHANGES, SessionRun::Now(refuse_move)).doc("8.4.0", "O(N) where N is the number of slots", "Starts, cancels and reports migrations of slots."),
            Command::new("MYID", exactly(2), &[], ANY_TIME, now!(my_id, 2)).doc("3.0.0", "O(1)", "Returns the ID of a node."),
            Command::new("MYSHARDID", exactly(2), &[], ANY_TIME, now!(my_shard_id, 2)).doc("7.2.0", "O(1)", "Returns the shard ID of a node.").tips(VARIES),
            Command::new("NODES", exactly(2), &[], ANY_TIME, now!(nodes, 2)).doc("3.0.0", "O(N) where N is the total number of Cluster nodes", "Returns the cluster configuration for a node.").tips(VARIES),
            Command::new("REPLICAS", exactly(3), &[], ADMIN, SessionRun::Now(replicas)).doc("5.0.0", "O(N) where N is the number of replicas.", "Lists the replica nodes of a master node.").tips(VARIES),
            Command::new("REPLICATE", exactly(3), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Configures a node as replica of a master node or detaches a replica from its master."),
            Command::new("RESET", at_least(2), &[], ADMIN.union(Flags::NO_SCRIPT), SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the number of known nodes. The command may execute a FLUSHALL as a side effect.", "Resets a node."),
            Command::new("SAVECONFIG", exactly(2), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Forces a node to save the cluster configuration to disk."),
            Command::new("SET-CONFIG-EPOCH", exactly(3), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Sets the configuration epoch for a new node."),
            Command::new("SETSLOT", at_least(4), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Binds a hash slot to a node."),
            Command::new("SHARDS", exactly(2), &[], ANY_TIME, now!(shards, 2)).doc("7.0.0", "O(N) where N is the total number of cluster nodes", "Returns the mapping of cluster slots to shards.").tips(VARIES),
            Command::new("SLAVES", exactly(3), &[], ADMIN, SessionRun::Now(replicas)).doc("3.0.0", "O(N) where N is the number of replicas.", "Lists the replica nodes of a master node.").tips(VARIES),
            Command::new("SLOT-STATS", at_least(4), &[], SLOTS_OF_ALL, SessionRun::Keyspace(slots::STATS)).doc("8.2.0", "O(N) where N is the number of keys. O(N*log(N)) with ORDERBY, where N is the number of slots.", "Returns the number of keys of hash slots.").tips(&["nondeterministic_output", "request_policy:all_shards"]),
            Command::new("SLOTS", exactly(2), &[], ANY_TIME, now!(show_slots, 2)).doc("3.0.0", "O(N) where N is the total number of Cluster nodes", "Returns the mapping of cluster slots to nodes.").tips(VARIES),
            Command::new("SYNCSLOTS", at_least(3), &[], CHANGES, SessionRun::Now(refuse_move)).doc("8.4.0", "O(1)", "Copies slots between nodes. For servers, not for clients.").tips(VARIES),
        ]).doc("3.0.0", "Depends on subcommand.", "A container for Redis Cluster commands."),
        Command::new("CLUSTERSCAN", at_least(2), CURSOR, Flags::READ, SessionRun::Keyspace(cluster_scan::SCAN))
            .doc(
                "9.1.0",
                "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to \
                 return back to 0. N is the number of keys in the cluster.",
                "Iterates over the key names in a cluster.",
            )
            .tips(&["nondeterministic_output", "request_policy:special", "response_policy:special"])
            .cost(cluster_scan::COST)
            .also(Category::KEYSPACE),
        Command::new("ASKING", exactly(1), &[], Flags::FAST, now!(acknowledge))
            .doc("3.0.0", "O(1)", "Signals that a cluster client is following an -ASK redirect.")
            .also(Category::CONNECTION),
        Command::new("READONLY", exactly(1), &[], ANY_TIME.union(Flags::FAST), now!(acknowledge))
            .doc("3.0.0", "O(1)", "Enables read-only queries for a connection to a Redis Cluster replica node.")
            .also(Category::CONNECTION),
        Command::new("READWRITE", exactly(1), &[], ANY_TIME.union(Flags::FAST), now!(acknowledge))
            .doc("3.0.0", "O(1)", "Enables read-write queries for a connection to a Redis Cluster replica node.")
            .also(Category::CONNECTION),
    ],
};

/// Refuses a command that changes a cluster.
fn refuse(session: &mut Session, _: &mut Reply, _: Request<'_>) -> Result<()> {
    shown(session)?;
    Err(absent::GOSSIP)
}

/// Refuses a command that moves slots.
fn refuse_move(session: &mut Session, _: &mut Reply, _: Request<'_>) -> Result<()> {
    shown(session)?;
    Err(absent::SLOT_MOVES)
}

/// Fails unless the node shows a cluster.
fn shown(session: &Session) -> Result<()> {
    if session.node.facts.cluster.is_shown() { Ok(()) } else { Err(slots::NO_CLUSTER) }
}

/// `ASKING`, `READONLY` and `READWRITE`: the node has all slots, and is no replica.
fn acknowledge(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    shown(session)?;
    reply.ok();
    Ok(())
}

/// The only node, as one client sees it.
struct OnlyNode {
    id: String,
    shard_id: String,
    host: String,
    port: u16,
    /// Whether the port is for TLS.
    is_tls: bool,
}

impl OnlyNode {
    fn of(session: &Session) -> Result<Self> {
        shown(session)?;
        let facts = &session.node.facts;
        let (host, port) = match &session.client.peer() {
            Peer::Tcp { local, .. } => (local.ip().to_canonical().to_string(), local.port()),
            Peer::Unix(_) => ("127.0.0.1".to_owned(), facts.port),
        };
        let is_tls = session.client.peer().is_tls();
        let announced = if is_tls { facts.cluster.tls_port } else { facts.cluster.port };
        let id = session.node.run_id.clone();
        Ok(Self {
            shard_id: id.chars().rev().collect(),
            id,
            host: facts.cluster.host.clone().unwrap_or(host),
            port: announced.unwrap_or(port),
            is_tls,
        })
    }

    /// Fails for the id of another node.
    fn check(&self, id: &[u8]) -> Result<()> {
        match id == self.id.as_bytes() {
            true => Ok(()),
            false => Err(Error::Text(format!("ERR Unknown node {}", repeated(id)).into())),
        }
    }
}

/// `CLUSTER COUNT-FAILURE-REPORTS node-id`
fn failure_reports(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    OnlyNode::of(session)?.check(request.arg(2))?;
    reply.integer(0);
    Ok(())
}

/// `CLUSTER INFO`
fn info(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    shown(session)?;
    let text = format!(
        "cluster_state:ok\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{SLOTS}\r\ncluster_slots_pfail:0\r\n\
         cluster_slots_fail:0\r\ncluster_known_nodes:1\r\ncluster_size:1\r\ncluster_current_epoch:1\r\n\
         cluster_my_epoch:1\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
         total_cluster_links_buffer_limit_exceeded:0\r\n"
    );
    reply.verbatim("txt", text.as_bytes());
    Ok(())
}

/// `CLUSTER KEYSLOT key`
fn keyslot(session: &mut Session, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    shown(session)?;
    reply.integer(slot_of(key).into());
    Ok(())
}

/// `CLUSTER LINKS`
fn links(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    shown(session)?;
    reply.array(0);
    Ok(())
}

/// `CLUSTER MYID`
fn my_id(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    reply.bulk(OnlyNode::of(session)?.id.as_bytes());
    Ok(())
}

/// `CLUSTER MYSHARDID`
fn my_shard_id(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    reply.bulk(OnlyNode::of(session)?.shard_id.as_bytes());
    Ok(())
}

/// `CLUSTER NODES`
fn nodes(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let OnlyNode { id, host, port, .. } = OnlyNode::of(session)?;
    // The bus of a real node is 10,000 ports above. There is none here.
    let line = format!("{id} {host}:{port}@0 myself,master - 0 0 1 connected 0-{}\n", SLOTS - 1);
    reply.verbatim("txt", line.as_bytes());
    Ok(())
}

/// `CLUSTER REPLICAS node-id` and its older name
fn replicas(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    OnlyNode::of(session)?.check(request.arg(2))?;
    reply.array(0);
    Ok(())
}

/// `CLUSTER SHARDS`
fn shards(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let OnlyNode { id, host, port, is_tls, .. } = OnlyNode::of(session)?;
    let offset = session.tenant.replication.view().offset;
    reply.array(1);
    reply.map(2);
    reply.bulk(b"slots");
    reply.array(2);
    reply.integer(0);
    reply.integer(i64::from(SLOTS) - 1);
    reply.bulk(b"nodes");
    reply.array(1);
    reply.map(7);
    let texts = |reply: &mut Reply, fields: &[(&str, &str)]| {
        for (name, value) in fields {
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        }
    };
    texts(reply, &[("id", &id)]);
    reply.bulk(if is_tls { &b"tls-port"[..] } else { b"port" });
    reply.integer(port.into());
    texts(reply, &[("ip", &host), ("endpoint", &host), ("role", "master")]);
    reply.bulk(b"replication-offset");
    reply.integer(offset as i64);
    texts(reply, &[("health", "online")]);
    Ok(())
}

/// `CLUSTER SLOTS`
fn show_slots(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let OnlyNode { id, host, port, .. } = OnlyNode::of(session)?;
    reply.array(1);
    reply.array(3);
    reply.integer(0);
    reply.integer(i64::from(SLOTS) - 1);
    reply.array(4);
    reply.bulk(host.as_bytes());
    reply.integer(port.into());
    reply.bulk(id.as_bytes());
    reply.map(0);
    Ok(())
}

/// `CLUSTER HELP`
fn show_help(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    shown(session)?;
    help(
        reply,
        "CLUSTER",
        &[
            "COUNTKEYSINSLOT <slot>",
            "    Return the number of keys in <slot>.",
            "FLUSHSLOT <slot> [ASYNC|SYNC]",
            "    Remove all keys of a slot.",
            "GETKEYSINSLOT <slot> <count>",
            "    Return key names stored by current node in a slot.",
            "INFO",
            "    Return information about the cluster.",
            "KEYSLOT <key>",
            "    Return the hash slot for <key>.",
            "MYID",
            "    Return the node id.",
            "MYSHARDID",
            "    Return the node's shard id.",
            "NODES",
            "    Return cluster configuration seen by node. Output format:",
            "    <id> <ip:port@bus-port[,hostname]> <flags> <master> <pings> <pongs> <epoch> <link> <slot> ...",
            "REPLICAS <node-id>",
            "    Return <node-id> replicas.",
            "SLOT-STATS SLOTSRANGE <start> <end> | ORDERBY key-count [LIMIT <limit>] [ASC|DESC]",
            "    Return the number of keys of slots.",
            "SLOTS",
            "    Return information about slots range mappings. Each range is made of:",
            "    start, end, master and replicas IP addresses, ports and ids",
            "SHARDS",
            "    Return information about slot range mappings and the nodes associated with them.",
            "LINKS",
            "    Return information about all network links between this node and its peers.",
            "    Output format is an array where each array element is a map containing attributes of a link",
        ],
    );
    Ok(())
}
