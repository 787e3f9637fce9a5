//! Two processes that want one bucket, started and killed at random moments, and the loss of acknowledged writes.
//!
//! A **round**, of which many follow one another on the same store:
//!
//! 1. One or two processes start, at the same moment or shortly after each other, beside the one that the previous
//!    round left. A process that ends with 3 has lost the store to another one, as intended. Every other early end is a
//!    failure.
//! 2. Clients write to each process that serves, each key once, and increment a counter that all of them share. They
//!    note each acknowledged write, and when it was acknowledged.
//! 3. Each process gets SIGKILL at a random moment, or SIGTERM, or ends by itself because it was overtaken.
//! 4. One more process starts. It has to serve, and to hold the acknowledged writes. With loss window 0 it must hold
//!    all of them. Otherwise it must hold those that were acknowledged longer ago than the window before the process
//!    was killed, or the next one started, or the last write was acknowledged. With 0 no value of the counter was
//!    acknowledged twice.
//!
//! Why the last write: a process cannot make a write durable that its store does not take. If a request to the bucket
//! takes three seconds, the preceding writes are three seconds old when the process is killed, whatever the server
//! does. It can only stop acknowledging: once the oldest non-durable write has waited for half of the window, writes
//! wait, and then are refused. So the loss of a crash spans no more than a window: from the oldest lost write to the
//! last acknowledged one. While the store keeps up, the last one comes at the moment of the kill, since clients write
//! all the time and retry refused writes. So the exception excuses nothing then.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::node::unix_ms;
use crate::{
    Settings as ServerSettings,
    honest::HonestBucket,
    ports::free_port,
    resp::{Connection, Reply},
    script::Random,
    server::{Remote, command_on, terminate},
    wait_for,
};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const CLIENTS: usize = 2;
/// Pause of a refused client before it tries again.
const PAUSE: Duration = Duration::from_millis(5);
/// Exit code of a process that has lost the store.
const TAKEN: i32 = 3;
/// Time that a busy machine may add to a loss window.
const SLACK: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub seed: u64,
    pub rounds: usize,
    pub rounds_per_store: usize,
    /// `0`, or a second.
    pub window: Duration,
    /// The duration of a request to the bucket.
    pub delay: Duration,
}

#[derive(Debug, Default)]
pub struct Summary {
    pub rounds: usize,
    pub processes: usize,
    /// Processes that have lost the store, at their start or later.
    pub overtaken: usize,
    pub acknowledged: usize,
    /// Lost writes within a loss window.
    pub lost: usize,
    pub took: Duration,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rounds, processes, overtaken, acknowledged, lost, took } = self;
        write!(
            f,
            "{rounds} rounds in {:.1} s: {processes} processes, {overtaken} of them overtaken; {acknowledged} writes \
             acknowledged, {lost} of them lost within their window",
            took.as_secs_f64()
        )
    }
}

/// The acknowledged writes: keys, and values of the counter.
#[derive(Default)]
struct Acknowledged {
    keys: Vec<(String, Instant)>,
    counts: Vec<i64>,
}

struct Process {
    child: Child,
    port: u16,
    number: usize,
    started: Instant,
    ending: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Acknowledged>>,
}

impl Process {
    fn start(remote: &Remote, window: Duration, folder: &Path, number: usize) -> Result<Self, String> {
        let port = free_port();
        let log = File::create(folder.join(format!("process-{number}.log"))).map_err(|error| error.to_string())?;
        let mut command = command_on(remote, port, ServerSettings { workers: Some(1), ..ServerSettings::default() });
        let declared = if window.is_zero() { "0".to_owned() } else { format!("{}ms", window.as_millis()) };
        command.env("DORMOUSE_LOSS_WINDOW", declared).env("DORMOUSE_CHECKPOINT_EVERY", "1s");
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(|error| error.to_string())?).stderr(log);
        let started = Instant::now();
        let child = command.spawn().map_err(|error| format!("cannot start the server: {error}"))?;
        Ok(Self { child, port, number, started, ending: Arc::default(), writers: Vec::new() })
    }

    /// Waits until the process serves. Returns false if it has lost the store.
    fn serves(&mut self) -> Result<bool, String> {
        let (port, number) = (self.port, self.number);
        let child = &mut self.child;
        let served = wait_for(START_LIMIT, || match child.try_wait() {
            Ok(Some(status)) if status.code() == Some(TAKEN) => Some(Ok(false)),
            Ok(Some(status)) => Some(Err(format!("process {number} ended with {status} instead of serving"))),
            _ => matches!(ask(port, &["PING"]), Ok(Reply::Line('+', _))).then_some(Ok(true)),
        });
        served.unwrap_or_else(|| Err(format!("process {number} does not serve after {START_LIMIT:?}")))
    }

    fn write(&mut self, round: usize) {
        for client in 0..CLIENTS {
            let (port, ending) = (self.port, Arc::clone(&self.ending));
            let key = format!("{round}:{}:{client}", self.number);
            self.writers.push(thread::spawn(move || {
                let mut acknowledged = Acknowledged::default();
                // The process may have ended by now.
                _ = write(port, &key, &ending, &mut acknowledged);
                acknowledged
            }));
        }
    }

    /// Whether the process has ended because it was overtaken.
    fn has_ended(&mut self) -> Result<bool, String> {
        match self.child.try_wait().map_err(|error| error.to_string())? {
            None => Ok(false),
            Some(status) if status.code() == Some(TAKEN) => Ok(true),
            Some(status) => Err(format!("process {} ended with {status}", self.number)),
        }
    }

    fn kill(&mut self) {
        // The process may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
    }

    /// Stops the process. Returns whether it was overtaken.
    fn stop(&mut self) -> Result<bool, String> {
        terminate(&self.child);
        let child = &mut self.child;
        let number = self.number;
        let status = wait_for(STOP_LIMIT, || child.try_wait().ok().flatten());
        match status.map(|status| status.code()) {
            Some(Some(0)) => Ok(false),
            Some(Some(TAKEN)) => Ok(true),
            other => Err(format!("process {number} ended with {other:?} after SIGTERM")),
        }
    }

    fn acknowledged(&mut self) -> Vec<Acknowledged> {
        self.ending.store(true, Ordering::Relaxed);
        let ended = self.writers.drain(..).map(|writer| writer.join());
        ended.map(|acknowledged| acknowledged.expect("a client does not panic")).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn ask(port: u16, words: &[&str]) -> io::Result<Reply> {
    Connection::try_open(port)?.try_call(words)
}

fn write(port: u16, key: &str, ending: &AtomicBool, acknowledged: &mut Acknowledged) -> io::Result<()> {
    let mut connection = Connection::try_open(port)?;
    for n in 0.. {
        if ending.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{key}:{n}");
        if matches!(connection.try_call(&["SET", &key, "1"])?, Reply::Line('+', _)) {
            acknowledged.keys.push((key, Instant::now()));
        }
        let count = connection.try_call(&["INCR", "counter"])?;
        match count.number().filter(|_| !count.is_error()) {
            Some(count) => acknowledged.counts.push(count as i64),
            // The write was refused, or its outcome is unknown. Later writes may be accepted.
            None => thread::park_timeout(PAUSE),
        }
    }
    Ok(())
}

/// Runs the rounds. An error says where it happened. It names the folder with the processes' logs, which is kept.
///
/// # Errors
/// Lost writes, refused databases, and processes that ended wrongly.
pub fn run(settings: Settings, mut progress: impl FnMut(&Summary)) -> Result<Summary, String> {
    let begun = Instant::now();
    let bucket = HonestBucket::start(settings.delay).map_err(|error| error.to_string())?;
    let folder = tempfile::Builder::new().prefix("dormouse-rivals-").tempdir().map_err(|error| error.to_string())?;
    let mut summary = Summary::default();
    let (mut left, mut most): (Option<Process>, i64) = (None, 0);
    while summary.rounds < settings.rounds {
        let number = summary.rounds;
        if number.is_multiple_of(settings.rounds_per_store.max(1)) {
            (left, most) = (None, 0);
            bucket.clear("");
        }
        let remote = bucket.store(&format!("store-{}", number / settings.rounds_per_store.max(1)));
        let round = Round { settings, remote: &remote, folder: folder.path(), number };
        match round.run(left.take(), &mut most, &mut summary) {
            Ok(process) => left = Some(process),
            Err(problem) => {
                let folder = folder.keep();
                let seed = settings.seed;
                return Err(format!("round {number}, seed {seed}: {problem}\nlogs are kept: {}", folder.display()));
            }
        }
        summary.rounds += 1;
        progress(&summary);
    }
    summary.took = begun.elapsed();
    Ok(summary)
}

struct Round<'a> {
    settings: Settings,
    remote: &'a Remote,
    folder: &'a Path,
    number: usize,
}

impl Round<'_> {
    fn run(&self, left: Option<Process>, most: &mut i64, summary: &mut Summary) -> Result<Process, String> {
        let mut random = Random::new(self.settings.seed ^ (self.number as u64).wrapping_mul(0xd134_2543_de82_ef95));
        let window = self.settings.window;
        let mut processes: Vec<Process> = Vec::new();
        if let Some(mut left) = left {
            // The round may begin without a process.
            if random.one_in(3) { left.kill() } else { processes.push(left) }
        }
        processes.iter_mut().for_each(|process| process.write(self.number));
        let count = 2 - usize::from(!processes.is_empty() && random.one_in(2));
        let mut starts: Vec<Instant> = Vec::new();
        for _ in 0..count {
            let gap = *random.pick(&[0, 0, 0, 10_000, 40_000, 200_000]);
            let gap = random.below(gap + 1) as u64;
            thread::park_timeout(Duration::from_micros(gap));
            summary.processes += 1;
            let process = Process::start(self.remote, window, self.folder, summary.processes)?;
            starts.push(process.started);
            processes.push(process);
        }
        // Each process gets writes as soon as it serves. None waits for the slowest.
        let problems = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for process in processes.iter_mut().filter(|process| process.writers.is_empty()) {
                let problems = &problems;
                scope.spawn(move || match process.serves() {
                    Ok(true) => process.write(self.number),
                    Ok(false) => {}
                    Err(problem) => problems.lock().unwrap_or_else(PoisonError::into_inner).push(problem),
                });
            }
        });
        if let Some(problem) = problems.into_inner().unwrap_or_else(PoisonError::into_inner).pop() {
            return Err(problem);
        }
        let load = Duration::from_millis(50 + random.below(400) as u64) + window + window / 4;
        thread::park_timeout(load);
        let mut due: Vec<(String, bool)> = Vec::new();
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        while !processes.is_empty() {
            let mut process = processes.swap_remove(random.below(processes.len()));
            let (ended, orderly) = (process.has_ended()?, random.one_in(6));
            let is_saved = if ended {
                summary.overtaken += 1;
                false
            } else if orderly {
                let overtaken = process.stop()?;
                summary.overtaken += usize::from(overtaken);
                !overtaken
            } else {
                process.kill();
                false
            };
            // Another process of this round may have sealed its log at any time since that process started. Otherwise
            // it was killed just now.
            let end = starts.iter().copied().filter(|start| *start != process.started).min();
            let end = end.unwrap_or_else(Instant::now);
            let all = process.acknowledged();
            // A log that falls behind has writes refused. The window counts until the last acknowledged write.
            let last = all.iter().filter_map(|acknowledged| Some(acknowledged.keys.last()?.1)).max();
            let end = last.map_or(end, |last| last.min(end));
            for acknowledged in all {
                for (key, at) in acknowledged.keys {
                    let is_promised = is_saved || window.is_zero() || at + window + SLACK < end;
                    due.push((key, is_promised));
                }
                for count in acknowledged.counts {
                    if let Some(other) = counts.insert(count, process.number).filter(|_| window.is_zero()) {
                        return Err(format!("count {count} was acknowledged by {other} and by {}", process.number));
                    }
                }
            }
            thread::park_timeout(Duration::from_micros(random.below(30_000) as u64));
        }
        summary.processes += 1;
        let mut last = Process::start(self.remote, window, self.folder, summary.processes)?;
        if !last.serves()? {
            return Err(format!("process {} lost the store to no other process", last.number));
        }
        if window.is_zero()
            && let Some((count, by)) = counts.first_key_value().filter(|(count, _)| **count <= *most)
        {
            return Err(format!("count {count} was acknowledged by {by}, and {most} before this round"));
        }
        self.check(&last, &due, counts.last_key_value().map_or(0, |(count, _)| *count), most, summary)?;
        Ok(last)
    }

    fn check(
        &self,
        process: &Process,
        due: &[(String, bool)],
        count: i64,
        most: &mut i64,
        summary: &mut Summary,
    ) -> Result<(), String> {
        let cannot = |error: io::Error| format!("process {} cannot be read: {error}", process.number);
        let mut connection = Connection::try_open(process.port).map_err(cannot)?;
        for some in due.chunks(500) {
            let words: Vec<&str> = ["MGET"].into_iter().chain(some.iter().map(|(key, _)| key.as_str())).collect();
            // After a load at full speed, part of the database may take long to load. The command was not run then.
            let read = wait_for(START_LIMIT, || match connection.try_call(&words) {
                Ok(Reply::Line('-', text)) if text.starts_with("TIMEOUT") => None,
                read => Some(read),
            });
            let reply = read.ok_or_else(|| format!("process {} loads no keys", process.number))?.map_err(cannot)?;
            let found = reply.items().ok_or_else(|| format!("process {} answered {reply:?}", process.number))?;
            for ((key, is_promised), found) in some.iter().zip(found) {
                let is_there = found.bytes() == Some(b"1");
                if *is_promised && !is_there {
                    return Err(format!("`{key}` was acknowledged and is lost"));
                }
                summary.lost += usize::from(!is_there);
            }
        }
        summary.acknowledged += due.len();
        let reply = connection.try_call(&["INCRBY", "counter", "0"]).map_err(cannot)?;
        let found = reply.number().ok_or_else(|| format!("the counter was answered {reply:?}"))? as i64;
        if self.settings.window.is_zero() && found < count {
            return Err(format!("the counter is {found}, and {count} was acknowledged"));
        }
        *most = found;
        Ok(())
    }
}

/// Measures many takeovers of a process under load, from the start of the taker to its first acknowledged write.
///
/// # Errors
/// When a process ends wrongly.
pub fn takeovers(times: usize, clients: usize, delay: Duration) -> Result<Vec<Duration>, String> {
    let bucket = HonestBucket::start(delay).map_err(|error| error.to_string())?;
    let folder = tempfile::Builder::new().prefix("dormouse-takeover-").tempdir().map_err(|error| error.to_string())?;
    let remote = bucket.store("");
    let mut first = Process::start(&remote, Duration::ZERO, folder.path(), 0)?;
    first.serves()?;
    let mut took = Vec::new();
    for number in 1..=times {
        for client in 0..clients {
            let (port, ending, key) = (first.port, Arc::clone(&first.ending), format!("{number}:{client}"));
            first.writers.push(thread::spawn(move || {
                let mut acknowledged = Acknowledged::default();
                // The write ends with the process.
                _ = write(port, &key, &ending, &mut acknowledged);
                acknowledged
            }));
        }
        thread::park_timeout(Duration::from_millis(1000 + unix_ms() % 100));
        let mut second = Process::start(&remote, Duration::ZERO, folder.path(), number)?;
        let wrote = wait_for(START_LIMIT, || match second.child.try_wait() {
            Ok(Some(status)) => Some(Err(format!("the taker ended with {status}"))),
            _ => matches!(ask(second.port, &["SET", "taken", "1"]), Ok(Reply::Line('+', _))).then_some(Ok(())),
        });
        took.push(second.started.elapsed());
        wrote.unwrap_or_else(|| Err("the taker does not serve".into()))?;
        let acknowledged: usize = first.acknowledged().iter().map(|acknowledged| acknowledged.keys.len()).sum();
        if acknowledged == 0 {
            return Err("the process that was taken over was not written to".into());
        }
        first = second;
    }
    Ok(took)
}
