//! Facts that the system reports about this process.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

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

/// CPU time of all threads so far, to the nanosecond.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Resident memory in bytes; 0 where the system does not say.
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Number of files that a process needs beside its clients' connections: the store, the event loops, the HTTP port.
const FILES_BESIDE: u64 = 64;

/// Raises the limit of open files so that `clients` can connect, as far as the system allows. Returns how many can.
pub fn allow_clients(clients: u64) -> u64 {
    let wanted = clients + FILES_BESIDE;
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = |limit: &Rlimit| limit.current.unwrap_or(u64::MAX);
    if allowed(&limit) < wanted {
        limit.current = Some(limit.maximum.map_or(wanted, |maximum| wanted.min(maximum)));
        // If refused, the limit stays as it was.
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

/// The least memory that the control groups of this process allow, in bytes; `None` where there is no limit.
pub fn group_memory_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().filter_map(|line| group_limit(line, |path| fs::read_to_string(path).ok())).min()
}

/// The controller of memory in a line of version 1.
const CONTROLLER: &str = "memory";

/// Returns the limit that a line of `/proc/self/cgroup` leads to: `0::PATH` (version 2) or `N:memory:PATH` (version 1).
/// The parent groups count too. Within a container the path may be that of the machine, while the container's own group
/// is the root.
fn group_limit(line: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|name| name == CONTROLLER) => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([0, path.len()]);
    let limits = ends.filter_map(|end| read(&format!("{root}{}/{file}", path[..end].trim_end_matches('/'))));
    // Without a limit version 2 says `max`, and version 1 a number close to the largest.
    limits.filter_map(|text| text.trim().parse::<u64>().ok()).filter(|bytes| *bytes < 1 << 62).min()
}

/// Most bytes of addresses that the process may use (`ulimit -v`); `None`: no limit.
pub fn address_space_bytes() -> Option<u64> {
    getrlimit(Resource::As).current
}

/// The system's name, release and machine, as in `uname`.
pub fn system() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {} {}", release.trim(), std::env::consts::ARCH)
}

/// Share of the machine's or the container's memory that the process takes by default.
const PART_BY_DEFAULT: f64 = 0.75;
/// Share of an address space, of which some is never used.
const PART_OF_ADDRESSES: f64 = 0.5;

/// Most bytes for the process by default: a part of the least that the machine, a control group (version 1 or 2) or a
/// limit of the address space allows. 0 if the system does not say.
pub fn memory_by_default() -> u64 {
    let part = |bytes: u64, part: f64| (bytes as f64 * part) as u64;
    let memory = [Some(system_memory_bytes()), group_memory_bytes()];
    let memory = memory.into_iter().flatten().filter(|bytes| *bytes > 0).min();
    let limits = [
        memory.map(|bytes| part(bytes, PART_BY_DEFAULT)),
        address_space_bytes().map(|bytes| part(bytes, PART_OF_ADDRESSES)),
    ];
    limits.into_iter().flatten().min().unwrap_or(0)
}

/// Returns a seed from the system's randomness, through the standard library's hash keys; never 0. It seeds values that
/// tenants must not guess: `fastrand` alone starts from a clock.
pub fn random_seed() -> u64 {
    RandomState::new().hash_one(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nor do they follow from each other as those of a generator do.
    #[test]
    fn seeds_do_not_repeat() {
        let mut seeds: Vec<u64> = std::iter::repeat_with(random_seed).take(1000).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 1000);
        let ones: u32 = seeds.iter().map(|seed| seed.count_ones()).sum();
        assert!((31_000..33_000).contains(&ones), "{ones} of 64,000 bits");
    }

    #[test]
    fn the_least_limit_of_all_groups_counts() {
        let files = |path: &str| {
            let text = match path {
                "/sys/fs/cgroup/memory.max" => "max\n",
                "/sys/fs/cgroup/a/memory.max" => "1000\n",
                "/sys/fs/cgroup/a/b/memory.max" => "2000\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes" => "9223372036854771712\n",
                "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" => "300\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        for (line, expected) in [
            ("0::/a/b", Some(1000)),
            ("0::/a", Some(1000)),
            ("0::/", None),
            // Within a container: only the root is visible.
            ("0::/elsewhere/b", None),
            ("4:memory:/x", Some(300)),
            ("4:memory:/", None),
            ("4:cpu,memory:/x/y", Some(300)),
            ("3:cpu:/x", None),
            ("", None),
        ] {
            assert_eq!(group_limit(line, files), expected, "{line}");
        }
    }
}
