//! The measures, one file each: its servers, its load, and its tables.

mod applications;
mod connections;
mod cpu;
mod databases;
mod durability;
mod eviction;
mod expiry;
mod http;
mod memory;
mod once;
mod restart;
mod sidecar;
mod stalls;
mod tls;
mod triggers;
mod vectors;
mod waiting;
mod wake;

use clap::ValueEnum;

pub(crate) use self::durability::Part;
use crate::report::Table;
use crate::{Bench, Result};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measure {
    /// Server CPU per command, and throughput, by pipeline.
    Cpu,
    /// Bytes per key or element.
    Memory,
    /// First reply after sleep, full load, checkpoint.
    Wake,
    /// Replies during a checkpoint, a split, a background load.
    Stalls,
    /// Memory of an idle connection, ten thousand at once.
    Connections,
    /// Ten thousand clients in a blocking command, and how long it takes to serve one.
    Waiting,
    /// What the log costs, recovery, incremental checkpoints, import.
    Durability,
    /// Start after a crash, over a bucket.
    Restart,
    /// Keys that have expired, under writes and all at once.
    Expiry,
    /// A memory limit under values of all sizes, and what is found again.
    Eviction,
    /// Jobs of BullMQ, a queue in Node.
    Applications,
    /// Databases made at run time, and a hundred thousand that sleep.
    Databases,
    /// Commands over TLS, and a thousand functions that connect at once.
    Tls,
    /// Server CPU of commands over HTTP beside RESP.
    Http,
    /// CPU that `ONCE` adds to a command.
    Once,
    /// Time that the sidecar adds to a GET, and that a copy saves.
    Sidecar,
    /// CPU that triggers add to a SET, and events that one core delivers.
    Triggers,
    /// Searches in a vector set with their recall, and bytes a vector.
    Vectors,
}

impl Measure {
    pub fn chosen(named: &[Self]) -> Vec<Self> {
        if named.is_empty() { Self::value_variants().to_vec() } else { named.to_vec() }
    }

    pub fn name(self) -> &'static str {
        match self {
            Measure::Cpu => "cpu",
            Measure::Memory => "memory",
            Measure::Wake => "wake",
            Measure::Stalls => "stalls",
            Measure::Connections => "connections",
            Measure::Waiting => "waiting",
            Measure::Durability => "durability",
            Measure::Restart => "restart",
            Measure::Expiry => "expiry",
            Measure::Eviction => "eviction",
            Measure::Applications => "applications",
            Measure::Databases => "databases",
            Measure::Tls => "tls",
            Measure::Http => "http",
            Measure::Once => "once",
            Measure::Sidecar => "sidecar",
            Measure::Triggers => "triggers",
            Measure::Vectors => "vectors",
        }
    }

    /// Whether the newest Valkey and Redis are measured too, besides Debian's Redis.
    pub fn has_newest_peers(self) -> bool {
        matches!(self, Measure::Cpu | Measure::Memory | Measure::Applications | Measure::Waiting | Measure::Vectors)
    }

    /// Whether the bare loop is measured too.
    pub fn has_limit(self) -> bool {
        self == Measure::Cpu
    }

    pub fn run(self, bench: &Bench) -> Result<Vec<Table>> {
        match self {
            Measure::Cpu => cpu::measure(bench),
            Measure::Memory => memory::measure(bench),
            Measure::Wake => wake::measure(bench),
            Measure::Stalls => stalls::measure(bench),
            Measure::Connections => connections::measure(bench),
            Measure::Waiting => waiting::measure(bench),
            Measure::Durability => durability::measure(bench),
            Measure::Restart => restart::measure(bench),
            Measure::Expiry => expiry::measure(bench),
            Measure::Eviction => eviction::measure(bench),
            Measure::Applications => applications::measure(bench),
            Measure::Databases => databases::measure(bench),
            Measure::Tls => tls::measure(bench),
            Measure::Http => http::measure(bench),
            Measure::Once => once::measure(bench),
            Measure::Sidecar => sidecar::measure(bench),
            Measure::Triggers => triggers::measure(bench),
            Measure::Vectors => vectors::measure(bench),
        }
    }
}
