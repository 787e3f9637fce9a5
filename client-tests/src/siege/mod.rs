//! A server under siege: misbehaving tenants of every kind, beside quiet ones whose latency is measured.
//!
//! 1. The server starts with a small limit for the whole process, a token for each tenant, and a store in a folder.
//! 2. Quiet tenants write and read a few keys at a steady pace and know the expected values ([`quiet`]). They begin
//!    alone: this is the baseline for the run with noise.
//! 3. Then the noisy tenants begin: each has one [`noise::Kind`] of misbehaviour, and all kinds run at the same time.
//! 4. At the end the server must be alive, its memory within the limit, every quiet tenant's data right, and SIGTERM
//!    must end it with 0. The latency of the quiet tenants is printed; [`Settings::is_strict`] makes it count.

use std::{
    fmt,
    io::{self, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    ports,
    resp::{Connection, Reply},
    server, wait_for,
};

pub mod noise;
pub mod quiet;

use quiet::{Latencies, Quiet};

/// Allowed delay of a quiet tenant's reply under noise, above the baseline: for 99 of 100, and 999 of 1000.
const ALLOWED: [(f64, Duration); 2] = [(0.99, Duration::from_millis(2)), (0.999, Duration::from_millis(5))];
/// Allowed ratio of resident memory to the limit: the allocator keeps freed pages for a moment, which the limit does
/// not count.
const RESIDENT_OVER_LIMIT: f64 = 1.25;
/// Time after which unanswered noise moves on.
const PATIENCE: Duration = Duration::from_secs(5);
/// Limit of the time to stop: all databases are saved before the server ends.
const STOP_LIMIT: Duration = Duration::from_secs(180);
const QUIET_TENANTS: usize = 4;
/// Niceness of the threads that make the noise.
const NOISE_NICER: i32 = 19;
/// Limit of noisy tenants that are active at the same time.
const NOISY_THREADS_MAX: usize = 64;

#[derive(Debug, Clone)]
pub struct Settings {
    pub seconds: u64,
    pub tenants: usize,
    /// The limit of the server's memory.
    pub memory_mib: u64,
    pub workers: usize,
    /// The server's loss window. Its log must not fall behind it; a busy machine needs a wide one.
    pub loss_window: String,
    /// Elements of the large collections that the noise is made with.
    pub elements: usize,
    pub seed: u64,
    /// Fails the run if a quiet tenant's replies are later than allowed.
    pub is_strict: bool,
    /// The only kind of noise, if set.
    pub only: Option<noise::Kind>,
}

/// The server under siege.
#[derive(Debug, Clone)]
pub struct Target {
    pub port: u16,
    /// Elements of a large collection.
    pub elements: usize,
    stopped: Arc<AtomicBool>,
}

impl Target {
    pub fn is_over(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Returns a connection that has presented the token of `tenant`.
    pub fn connect(&self, tenant: &str) -> io::Result<Connection> {
        let mut connection = self.connect_as_stranger()?;
        match connection.try_call(&["AUTH", &token(tenant)])? {
            Reply::Line('+', _) => Ok(connection),
            other => Err(io::Error::other(format!("AUTH: {other:?}"))),
        }
    }

    /// Returns a connection that has presented no token.
    pub fn connect_as_stranger(&self) -> io::Result<Connection> {
        let connection = Connection::try_open(self.port)?;
        connection.set_patience(PATIENCE)?;
        Ok(connection)
    }

    /// Waits, but no longer than the siege.
    pub fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_over() {
            thread::sleep(Duration::from_millis(20).min(time));
        }
    }
}

fn token(tenant: &str) -> String {
    format!("dm_{tenant}_secret-of-{tenant}")
}

/// Results of a siege.
#[derive(Debug)]
pub struct Report {
    pub alone: Latencies,
    pub beside_noise: Latencies,
    pub resident_mib_max: u64,
    pub memory_mib: u64,
    /// Rounds of noise, by kind.
    pub rounds: Vec<(noise::Kind, u64)>,
    /// Failures of the server.
    pub failures: Vec<String>,
}

impl Report {
    /// Describes the quiet tenants' replies that are later than allowed.
    fn late(&self) -> impl Iterator<Item = String> {
        ALLOWED.iter().filter_map(|(part, allowed)| {
            let (alone, beside) = (self.alone.at(*part), self.beside_noise.at(*part));
            (beside > alone + *allowed).then(|| {
                format!("{:.1} % of the quiet replies took up to {beside:.1?}, alone {alone:.1?}", part * 100.0)
            })
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds: Vec<_> = self.rounds.iter().map(|(kind, rounds)| format!("{kind:?} {rounds}")).collect();
        writeln!(f, "noise, rounds: {}", rounds.join(", "))?;
        writeln!(f, "memory: at most {} MiB resident, limit {} MiB", self.resident_mib_max, self.memory_mib)?;
        writeln!(f, "quiet tenants, alone:        {}", self.alone)?;
        writeln!(f, "quiet tenants, beside noise: {}", self.beside_noise)?;
        self.late().try_for_each(|late| writeln!(f, "late: {late}"))?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "FAILED: {failure}"))
    }
}

/// Runs one siege.
///
/// # Errors
/// When the server cannot be started.
pub fn run(settings: &Settings) -> io::Result<Report> {
    let folder = TempDir::new()?;
    let port = ports::free_port();
    let quiet: Vec<String> = (0..QUIET_TENANTS).map(|n| format!("quiet{n}")).collect();
    let noisy: Vec<String> =
        (0..settings.tenants.saturating_sub(QUIET_TENANTS).max(1)).map(|n| format!("noisy{n}")).collect();
    let mut process = Besieged::start(settings, port, &folder, quiet.iter().chain(&noisy))?;
    let stopped = Arc::new(AtomicBool::new(false));
    let target = Target { port, elements: settings.elements, stopped: Arc::clone(&stopped) };
    let watch = {
        let (pid, stopped) = (process.child.id(), Arc::clone(&stopped));
        thread::spawn(move || resident_mib_max(pid, &stopped))
    };
    let listeners: Vec<Quiet> = quiet.iter().map(|name| Quiet::start(&target, name)).collect();
    let alone_for = Duration::from_secs((settings.seconds / 4).clamp(2, 60));
    thread::sleep(alone_for);
    let alone = Latencies::of(listeners.iter().flat_map(Quiet::take));
    let counts: Vec<(noise::Kind, AtomicU64)> = noise::Kind::ALL.map(|kind| (kind, AtomicU64::new(0))).into();
    let until = Instant::now() + Duration::from_secs(settings.seconds).saturating_sub(alone_for);
    let mut failures = Vec::new();
    thread::scope(|scope| {
        let threads = noisy.len().min(NOISY_THREADS_MAX);
        for thread in 0..threads {
            let (target, noisy, counts) = (&target, &noisy, &counts);
            scope.spawn(move || {
                be_patient();
                let mut round = settings.seed.wrapping_add(thread as u64);
                // Each thread serves its part of the tenants, one after the other.
                for tenant in (thread..noisy.len()).step_by(threads).cycle() {
                    if target.is_over() {
                        return;
                    }
                    let kind = settings.only.unwrap_or(noise::Kind::ALL[tenant % noise::Kind::ALL.len()]);
                    round += 1;
                    // Noise expects refusals.
                    let _ = kind.make(target, &noisy[tenant], round);
                    counts
                        .iter()
                        .filter(|(of, _)| *of == kind)
                        .for_each(|(_, count)| _ = count.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
        while Instant::now() < until {
            thread::sleep(Duration::from_millis(100));
            if let Some(status) = process.child.try_wait().ok().flatten() {
                failures.push(format!("the server ended under siege: {status}; {}", process.log_tail()));
                break;
            }
        }
        stopped.store(true, Ordering::Relaxed);
    });
    let beside_noise = Latencies::of(listeners.iter().flat_map(Quiet::take));
    for listener in listeners {
        failures.extend(listener.end());
    }
    if failures.is_empty() {
        failures.extend(process.stop());
    }
    let resident_mib_max = watch.join().unwrap_or_default();
    if resident_mib_max as f64 > settings.memory_mib as f64 * RESIDENT_OVER_LIMIT {
        failures.push(format!("{resident_mib_max} MiB were resident, the limit is {} MiB", settings.memory_mib));
    }
    let rounds = counts.into_iter().map(|(kind, count)| (kind, count.into_inner())).collect();
    let mut report =
        Report { alone, beside_noise, resident_mib_max, memory_mib: settings.memory_mib, rounds, failures };
    if settings.is_strict {
        let late: Vec<_> = report.late().collect();
        report.failures.extend(late);
    }
    Ok(report)
}

/// Lets the calling thread, which makes noise, wait for those of the quiet tenants. They share the machine; the latency of
/// the quiet must be the server's, not that of their own threads.
fn be_patient() {
    // Without both, or where they are refused, their latency includes the wait for a processor. A thread that runs only
    // when the processor is idle gives way at once to one that wakes; a niceness lets it finish its slice.
    let _ = rustix::process::nice(NOISE_NICER);
    schedule(&["--idle", "--pid", "0"]);
}

/// Lets the calling thread, a quiet tenant's, run as soon as its reply has come. As if it were on another machine, it never
/// waits for the server's own threads. Where this is refused, its latency includes the wait.
fn be_prompt() {
    schedule(&["--fifo", "--pid", "1"]);
}

fn schedule(policy: &[&str]) {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut chrt = Command::new("chrt");
    let _ = chrt.args(policy).arg(&thread).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// The server, killed when it is dropped.
struct Besieged {
    child: Child,
    log: PathBuf,
}

impl Besieged {
    fn start<'n>(
        settings: &Settings,
        port: u16,
        folder: &TempDir,
        tenants: impl Iterator<Item = &'n String>,
    ) -> io::Result<Self> {
        let log = folder.path().join("log");
        let tokens: Vec<String> = tenants.map(|tenant| token(tenant)).collect();
        let mut command = server::tool(&[]);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--http-port", "0"]);
        command.args(["--workers", &settings.workers.to_string(), "--max-memory", "64mb", "--max-branches", "8"]);
        command.args(["--max-memory-total", &format!("{}mb", settings.memory_mib)]);
        command.args(["--loss-window", &settings.loss_window]);
        command.arg("--store").arg(format!("file://{}", folder.path().join("data").display()));
        command.env("DORMOUSE_TOKEN", tokens.join(" "));
        command.stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
        let mut besieged = Self { child: command.spawn()?, log };
        let is_up = wait_for(Duration::from_secs(60), || Connection::try_open(port).is_ok().then_some(()));
        match is_up {
            Some(()) => Ok(besieged),
            None => {
                _ = besieged.child.kill();
                Err(io::Error::other(format!("the server does not start: {}", besieged.log_tail())))
            }
        }
    }

    fn log_tail(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(&self.log) {
            _ = file.read_to_string(&mut text);
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Stops the server. Returns what is wrong with its end.
    fn stop(&mut self) -> Option<String> {
        server::terminate(&self.child);
        match wait_for(STOP_LIMIT, || self.child.try_wait().ok().flatten()) {
            Some(status) if status.success() => None,
            Some(status) => Some(format!("SIGTERM ended the server with {status}: {}", self.log_tail())),
            None => Some(format!("SIGTERM did not end the server within {STOP_LIMIT:?}: {}", self.log_tail())),
        }
    }
}

impl Drop for Besieged {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Returns the peak resident memory of a process until the siege is over, in MiB.
fn resident_mib_max(pid: u32, stopped: &AtomicBool) -> u64 {
    let mut most = 0;
    while !stopped.load(Ordering::Relaxed) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
        most = most.max(kib / 1024);
        thread::sleep(Duration::from_millis(20));
    }
    most
}
