//! The kernel's view of a process: its CPU time, its memory, and the core of this one.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Result;
use crate::machine::{after_colon, kib};

/// Linux counts process times in hundredths of a second on every architecture.
const TICKS_A_SECOND: f64 = 100.0;

pub(crate) fn pin_to_core(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set)
        .map_err(|error| format!("cannot run on core {core}: {error}; the benches need two cores").into())
}

/// Ten thousand connections need ten thousand descriptors here, and (inherited) in the servers.
pub(crate) fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it is refused, the measure that needs it reports how many connections it got.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// CPU seconds, user and system, that the threads of a process have used.
///
/// The scheduler's own nanoseconds if the kernel provides them (the first number of `schedstat`), else the hundredths
/// of a second of `stat`. The former lack threads that have ended, and no server here ends one under load.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split_whitespace().next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
    }
    if nanoseconds > 0 {
        return Ok(nanoseconds as f64 / 1e9);
    }
    coarse_cpu_seconds(pid)
}

/// The same from `stat`: in hundredths of a second, including ended threads. For runs of many seconds.
pub(crate) fn coarse_cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = stat_ticks(&stat).ok_or_else(|| format!("cannot read /proc/{pid}/stat"))?;
    Ok(ticks as f64 / TICKS_A_SECOND)
}

/// Bytes that a process caused to be written to disks, in whole pages, including ended children.
pub(crate) fn written_bytes(pid: u32) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let bytes = after_colon(&io, "write_bytes").and_then(|bytes| bytes.parse().ok());
    Ok(bytes.ok_or_else(|| format!("/proc/{pid}/io has no write_bytes"))?)
}

/// `utime + stime`: fields 14 and 15, counted from after the command's name, which may hold spaces and parentheses.
fn stat_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Total memory of a process and its children (the fork of a BGSAVE), in bytes.
///
/// Without children, that is `VmRSS`. With children, pages are shared until either side writes to them, so each process
/// counts with its proportional share (`Pss`).
pub(crate) fn memory_bytes(pid: u32) -> Result<u64> {
    let children = children(pid);
    if children.is_empty() {
        return resident_bytes(pid);
    }
    // A child may end at any moment; then its pages belong to its parent.
    Ok(std::iter::once(pid).chain(children).filter_map(proportional_bytes).sum())
}

pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = after_colon(&status, "VmRSS").and_then(kib);
    Ok(resident.ok_or_else(|| format!("process {pid} has ended"))? * 1024)
}

/// Waits until resident memory is stable (within 64 KiB for a second), at most 15 s: allocators give back late.
pub(crate) fn settled_resident_bytes(pid: u32) -> Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(15);
    let mut reference = resident_bytes(pid)?;
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_secs(1) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
        let now = resident_bytes(pid)?;
        if now.abs_diff(reference) > 64 * 1024 {
            (reference, since) = (now, Instant::now());
        }
    }
    resident_bytes(pid)
}

fn proportional_bytes(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(after_colon(&rollup, "Pss").and_then(kib)? * 1024)
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_times_behind_an_awkward_name() {
        let stat = "4242 (a) b (c) S 1 4242 4242 0 -1 4194560 1 2 3 4 250 50 7 8 20 0 1 0 100 0 0";
        assert_eq!(stat_ticks(stat), Some(300));
        assert_eq!(stat_ticks("4242 (redis"), None);
    }

    #[test]
    fn sees_itself() {
        let pid = std::process::id();
        let busy = Instant::now();
        while busy.elapsed() < Duration::from_millis(30) {}
        assert!(cpu_seconds(pid).unwrap() > 0.0);
        assert!(memory_bytes(pid).unwrap() > 100 * 1024);
        assert!(written_bytes(pid).is_ok());
    }
}
