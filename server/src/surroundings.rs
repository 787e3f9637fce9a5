//! Services outside the engine for the scripts of a database: subscribers, the clock, the log.

use std::sync::Arc;

use dormouse_protocol::Request;
use dormouse_shard::keyspace::scripts::ScriptSurroundings;

use crate::acl::catalogue::Catalogue;
use crate::clock::unix_ns;
use crate::monitors::{self, CommandOrigin, Monitors};
use crate::pubsub::PubSub;
use crate::replication::{ReplicaCopy, Replication};

/// Most characters of a script's line in the log, as in Redis.
const SCRIPT_LINE_CHARS_MAX: usize = 1024;

/// The surroundings of the database `name`.
pub struct OfDatabase {
    pub name: Box<str>,
    pub pubsub: Arc<PubSub>,
    pub replication: Arc<Replication>,
    pub monitors: Arc<Monitors>,
    pub shows_cluster: bool,
    /// All commands.
    pub catalogue: &'static Catalogue,
}

impl ScriptSurroundings for OfDatabase {
    fn receivers(&self, channel: &[u8], is_sharded: bool) -> usize {
        // A thread of the slow lane, which gives way while it matches, must not hold the lock.
        if is_sharded { self.pubsub.receivers(channel, true) } else { self.pubsub.receivers_unlocked(channel) }
    }

    fn replicas_in_step(&self, in_file: bool) -> usize {
        let copy = if in_file { ReplicaCopy::Durable } else { ReplicaCopy::Received };
        self.replication.acknowledged(self.replication.view().offset, copy)
    }

    fn now_us(&self) -> u64 {
        unix_ns() / 1000
    }

    fn shows_cluster(&self) -> bool {
        self.shows_cluster
    }

    fn log(&self, level: i64, line: &str) {
        let database = &*self.name;
        // A tenant must not begin a line of its own.
        let line = line.chars().take(SCRIPT_LINE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c });
        let line: String = line.collect();
        match level {
            3 => tracing::warn!(database, "a script says: {line}"),
            2 => tracing::info!(database, "a script says: {line}"),
            _ => tracing::debug!(database, "a script says: {line}"),
        }
    }

    fn append_shown(&self, command: usize, select: u8, request: Request<'_>, lines: &mut Vec<u8>) {
        if self.monitors.is_watched()
            && !self.monitors.is_empty()
            && monitors::is_shown(self.catalogue.get(command).row)
        {
            monitors::append_line(lines, self.now_us(), select, CommandOrigin::Script, request);
        }
    }

    fn show(&self, lines: &[u8]) {
        self.monitors.show(lines, self.now_us() / 1000);
    }
}
