//! The machine of a measurement: recorded with each number, which means nothing without it.

use std::fs;
use std::process::Command;

use serde::Serialize;

use crate::server::Program;

#[derive(Clone, Serialize)]
pub(crate) struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub commit: String,
    pub date: String,
    pub servers: Vec<String>,
}

impl Machine {
    pub fn look(programs: &[Program]) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
        if !output("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty() {
            commit.push_str(" and uncommitted changes");
        }
        Self {
            cpu: after_colon(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_mib: after_colon(&meminfo, "MemTotal").and_then(kib).unwrap_or(0) / 1024,
            kernel: kernel.trim().to_owned(),
            commit,
            date: output("date", &["-u", "+%Y-%m-%d"]),
            servers: programs.iter().map(|program| format!("{} {}", program.kind.name(), program.version)).collect(),
        }
    }

    pub fn summary(&self) -> String {
        format!(
            "{} x {}, {} MiB, Linux {}; {}; commit {}, {}",
            self.cores,
            self.cpu,
            self.memory_mib,
            self.kernel,
            self.servers.join(", "),
            self.commit,
            self.date
        )
    }
}

/// The value of a `name : value` line, as in `/proc/cpuinfo`, `/proc/meminfo` and `/proc/PID/status`.
pub(crate) fn after_colon<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// The number of `1234 kB`.
pub(crate) fn kib(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse().ok()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_of_proc() {
        let status = "Name:\tredis-server\nVmPeak:\t   99 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!(after_colon(status, "VmRSS").and_then(kib), Some(10240));
        assert_eq!(after_colon("model name\t: A CPU @ 2:1\n", "model name"), Some("A CPU @ 2:1"));
        assert_eq!(after_colon(status, "Vm"), None);
        assert_eq!(kib("10240"), None);
    }
}
