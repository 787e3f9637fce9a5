//! What the system knows of this process.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Clock ticks a second in `/proc`: fixed by the kernel's interface.
const TICKS: f64 = 100.0;

/// User and system CPU seconds so far; zeros where the system does not say.
pub fn cpu_seconds() -> (f64, f64) {
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else { return (0.0, 0.0) };
    // The name in parentheses may hold spaces: fields are counted after it.
    let Some((_, fields)) = stat.rsplit_once(')') else { return (0.0, 0.0) };
    let mut fields = fields.split_ascii_whitespace().skip(11).map(|field| field.parse::<f64>().unwrap_or(0.0) / TICKS);
    (fields.next().unwrap_or(0.0), fields.next().unwrap_or(0.0))
}

/// Resident memory in bytes; 0 where the system does not say.
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Files that a process needs beside its clients' connections: the store, the event loops, the HTTP port.
const FILES_BESIDE: u64 = 64;

/// Raises the limit of open files so that `clients` can connect, as far as the system lets us. Answers how many can.
pub fn allow_clients(clients: u64) -> u64 {
    let wanted = clients + FILES_BESIDE;
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = |limit: &Rlimit| limit.current.unwrap_or(u64::MAX);
    if allowed(&limit) < wanted {
        limit.current = Some(limit.maximum.map_or(wanted, |maximum| wanted.min(maximum)));
        // Refused: then it is what it was.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    allowed(&getrlimit(Resource::Nofile)).saturating_sub(FILES_BESIDE).min(clients)
}

/// The system's memory in bytes; 0 where it does not say.
pub fn system_memory_bytes() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The system's name, release and machine, as `uname` says them.
pub fn system() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {} {}", release.trim(), std::env::consts::ARCH)
}
