//! A disk that stays full: the files, messages and processor time of a server that is written to all the while.

use std::{
    fmt, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::disk::SmallDisk;
use crate::{
    ports::free_port,
    resp::{Connection, Reply},
    script::Random,
    server::{dormouse, terminate},
    wait_for,
};

const START_LIMIT: Duration = Duration::from_secs(30);
const VALUE_BYTES: usize = 512;
/// Time between two refused writes.
const PAUSE: Duration = Duration::from_millis(100);
/// Clock ticks a second in `/proc`: fixed by the kernel's interface.
const TICKS: f64 = 100.0;

/// Measurements of the server from the first refusal on.
#[derive(Debug)]
pub struct Report {
    pub lasted: Duration,
    pub accepted: usize,
    pub refused: usize,
    pub longest_reply: Duration,
    /// Files of the log.
    pub files: usize,
    pub log_lines: usize,
    /// Share of one core.
    pub cpu_share: f64,
    /// Whether the server accepted writes again when there was room.
    pub healed: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "full for {} s", self.lasted.as_secs())?;
        writeln!(f, "files of the log   {:>10}", self.files)?;
        writeln!(f, "log lines          {:>10}", self.log_lines)?;
        writeln!(f, "CPU of one core    {:>10}", format!("{:.2} %", self.cpu_share * 100.0))?;
        writeln!(f, "writes refused     {:>10}", self.refused)?;
        writeln!(f, "longest reply      {:>10}", format!("{} ms", self.longest_reply.as_millis()))?;
        write!(f, "healed             {:>10}", if self.healed { "yes" } else { "no" })
    }
}

/// Fills a file system of `mib` MiB through a server with this loss window, and continues to write for `lasts`. Then
/// makes room.
///
/// # Errors
/// When a file system cannot be mounted, or the server does not answer.
pub fn measure(mib: u32, window: &str, lasts: Duration) -> Result<Report, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let data = folder.path().join("data");
    let disk = SmallDisk::mount(&data, mib)?;
    let port = free_port();
    let mut server = Command::new(dormouse());
    server.args(["--port", &port.to_string(), "--http-port", "0", "--loss-window", window]);
    server.arg("--store").arg(format!("file://{}", data.display()));
    // The variables of the tests are not options of the server.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DORMOUSE_")) {
        server.env_remove(name);
    }
    let mut process = server
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start the server: {e}"))?;
    let says = process.stderr.take().expect("it is a pipe");
    let lines = &AtomicUsize::new(0);
    let pid = process.id();
    std::thread::scope(|scope| {
        scope.spawn(move || BufReader::new(says).lines().for_each(|_| _ = lines.fetch_add(1, Ordering::Relaxed)));
        let measured = write_on(port, pid, lasts, &data, &disk, lines);
        terminate(&process);
        if wait_for(START_LIMIT, || process.try_wait().ok().flatten()).is_none() {
            _ = process.kill();
            _ = process.wait();
        }
        measured
    })
}

fn write_on(
    port: u16,
    pid: u32,
    lasts: Duration,
    data: &Path,
    disk: &SmallDisk,
    lines: &AtomicUsize,
) -> Result<Report, String> {
    let mut connection =
        wait_for(START_LIMIT, || Connection::try_open(port).ok()).ok_or("the server does not listen")?;
    let mut random = Random::new(1);
    let mut key = 0;
    let mut set = |connection: &mut Connection| {
        key += 1;
        let value: String = (0..VALUE_BYTES).map(|_| char::from(b'!' + random.below(90) as u8)).collect();
        let begun = Instant::now();
        let reply = connection.try_call(&["SET", &format!("key:{key}"), &value]).map_err(|e| e.to_string())?;
        Ok::<_, String>((!reply.is_error(), begun.elapsed()))
    };
    while set(&mut connection)?.0 {}
    let (begun, busy) = (Instant::now(), cpu_seconds(pid));
    let (mut accepted, mut refused, mut longest_reply) = (0, 0, Duration::ZERO);
    while begun.elapsed() < lasts {
        let (is_accepted, took) = set(&mut connection)?;
        longest_reply = longest_reply.max(took);
        if is_accepted {
            accepted += 1;
        } else {
            refused += 1;
            std::thread::park_timeout(PAUSE);
        }
    }
    let lasted = begun.elapsed();
    let cpu_share = (cpu_seconds(pid) - busy) / lasted.as_secs_f64();
    let (files, log_lines) = (files(&data.join("log")), lines.load(Ordering::Relaxed));
    if !matches!(connection.try_call(&["GET", "key:1"]), Ok(Reply::Bulk(_, Some(_)))) {
        return Err("reads are not served".into());
    }
    disk.grow(4)?;
    let healed = wait_for(Duration::from_secs(90), || match set(&mut connection) {
        Ok((true, _)) => Some(()),
        _ => {
            std::thread::park_timeout(PAUSE);
            None
        }
    });
    Ok(Report { lasted, accepted, refused, longest_reply, files, log_lines, cpu_share, healed: healed.is_some() })
}

/// Returns the number of files below a folder.
fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            _ => 1,
        })
        .sum()
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_ascii_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS
}
