//! `CLUSTER` and the commands of cluster-aware clients: all of Redis 7.2's rows, answered as by a Redis without cluster
//! support, so that clients get the error they expect.

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result};

use crate::session::Session;
use crate::table::SessionRun;

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ADMIN: Flags = Flags::ADMIN.union(Flags::STALE);
const CHANGES: Flags = ADMIN.union(Flags::NO_ASYNC_LOADING);
const VARIES: &[&str] = &["nondeterministic_output"];

pub const FAMILY: Family<SessionRun> = Family {
    group: "cluster",
    category: Category::empty(),
    commands: &[
        Command::container("CLUSTER", &[
            Command::new("ADDSLOTS", at_least(3), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the total number of hash slot arguments", "Assigns new hash slots to a node."),
            Command::new("ADDSLOTSRANGE", at_least(4), &[], CHANGES, SessionRun::Now(refuse)).doc("7.0.0", "O(N) where N is the total number of the slots between the start slot and end slot arguments.", "Assigns new hash slot ranges to a node."),
            Command::new("BUMPEPOCH", exactly(2), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Advances the cluster config epoch.").tips(VARIES),
            Command::new("COUNT-FAILURE-REPORTS", exactly(3), &[], ADMIN, SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the number of failure reports", "Returns the number of active failure reports for a node. No new reports are created once the node is marked as failed.").tips(VARIES),
            Command::new("COUNTKEYSINSLOT", exactly(3), &[], Flags::STALE, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Returns the number of keys in a hash slot."),
            Command::new("DELSLOTS", at_least(3), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the total number of hash slot arguments", "Sets hash slots as unbound for a node."),
            Command::new("DELSLOTSRANGE", at_least(4), &[], CHANGES, SessionRun::Now(refuse)).doc("7.0.0", "O(N) where N is the total number of the slots between the start slot and end slot arguments.", "Sets hash slot ranges as unbound for a node."),
            Command::new("FAILOVER", at_least(2), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Forces a replica to perform a manual failover of its master."),
            Command::new("FLUSHSLOTS", exactly(2), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Deletes all slots information from a node."),
            Command::new("FORGET", exactly(3), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Removes a node from the nodes table."),
            Command::new("GETKEYSINSLOT", exactly(4), &[], Flags::STALE, SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the number of requested keys", "Returns the key names in a hash slot.").tips(VARIES),
            Command::new("HELP", exactly(2), &[], ANY_TIME, SessionRun::Now(refuse)).doc("5.0.0", "O(1)", "Returns helpful text about the different subcommands."),
            Command::new("INFO", exactly(2), &[], ANY_TIME, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Returns information about the state of a node.").tips(VARIES),
            Command::new("KEYSLOT", exactly(3), &[], Flags::STALE, SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the number of bytes in the key", "Returns the hash slot for a key."),
            Command::new("LINKS", exactly(2), &[], Flags::STALE, SessionRun::Now(refuse)).doc("7.0.0", "O(N) where N is the total number of Cluster nodes", "Returns a list of all TCP links to and from peer nodes.").tips(VARIES),
            Command::new("MEET", at_least(4), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Forces a node to handshake with another node."),
            Command::new("MYID", exactly(2), &[], ANY_TIME, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Returns the ID of a node."),
            Command::new("MYSHARDID", exactly(2), &[], ANY_TIME, SessionRun::Now(refuse)).doc("7.2.0", "O(1)", "Returns the shard ID of a node.").tips(VARIES),
            Command::new("NODES", exactly(2), &[], ANY_TIME, SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the total number of Cluster nodes", "Returns the cluster configuration for a node.").tips(VARIES),
            Command::new("REPLICAS", exactly(3), &[], ADMIN, SessionRun::Now(refuse)).doc("5.0.0", "O(N) where N is the number of replicas.", "Lists the replica nodes of a master node.").tips(VARIES),
            Command::new("REPLICATE", exactly(3), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Configures a node as replica of a master node or detaches a replica from its master."),
            Command::new("RESET", at_least(2), &[], ADMIN.union(Flags::NO_SCRIPT), SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the number of known nodes. The command may execute a FLUSHALL as a side effect.", "Resets a node."),
            Command::new("SAVECONFIG", exactly(2), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Forces a node to save the cluster configuration to disk."),
            Command::new("SET-CONFIG-EPOCH", exactly(3), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Sets the configuration epoch for a new node."),
            Command::new("SETSLOT", at_least(4), &[], CHANGES, SessionRun::Now(refuse)).doc("3.0.0", "O(1)", "Binds a hash slot to a node."),
            Command::new("SHARDS", exactly(2), &[], ANY_TIME, SessionRun::Now(refuse)).doc("7.0.0", "O(N) where N is the total number of cluster nodes", "Returns the mapping of cluster slots to shards.").tips(VARIES),
            Command::new("SLAVES", exactly(3), &[], ADMIN, SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the number of replicas.", "Lists the replica nodes of a master node.").tips(VARIES),
            Command::new("SLOTS", exactly(2), &[], ANY_TIME, SessionRun::Now(refuse)).doc("3.0.0", "O(N) where N is the total number of Cluster nodes", "Returns the mapping of cluster slots to nodes.").tips(VARIES),
        ]).doc("3.0.0", "Depends on subcommand.", "A container for Redis Cluster commands."),
        Command::new("ASKING", exactly(1), &[], Flags::FAST, SessionRun::Now(refuse))
            .doc("3.0.0", "O(1)", "Signals that a cluster client is following an -ASK redirect.")
            .also(Category::CONNECTION),
        Command::new("READONLY", exactly(1), &[], ANY_TIME.union(Flags::FAST), SessionRun::Now(refuse))
            .doc("3.0.0", "O(1)", "Enables read-only queries for a connection to a Redis Cluster replica node.")
            .also(Category::CONNECTION),
        Command::new("READWRITE", exactly(1), &[], ANY_TIME.union(Flags::FAST), SessionRun::Now(refuse))
            .doc("3.0.0", "O(1)", "Enables read-write queries for a connection to a Redis Cluster replica node.")
            .also(Category::CONNECTION),
    ],
};

fn refuse(_: &mut Session, _: &mut Reply, _: Request<'_>) -> Result<()> {
    Err(Error::text("ERR This instance has cluster support disabled"))
}
