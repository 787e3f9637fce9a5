//! Kills a server at random moments, and checks that it has kept what it promised to keep.
//!
//! A **round**, of which many follow one another on the same store:
//!
//! 1. [`node`] starts the server, and measures the time until the first command is answered.
//! 2. [`client`]s write to all databases. A [`model`] of a Redis gives them the state after each of their operations.
//!    They note when each operation was sent and acknowledged. [`disturbance`]s make checkpoints, put databases to
//!    sleep, split and merge their shards, and change [settings](declared).
//! 3. At a random moment, often just after a disturbance has begun, the process gets SIGKILL; in a few rounds SIGTERM,
//!    which must lose nothing. Sometimes it is killed again while it recovers. On request, the disk is full for a while
//!    in half of the rounds, and stays so over some of the crashes.
//! 4. [`reading`] reads all that the server then holds, and [`verdict`] judges it by the promise of the [`mode`]. The
//!    next round begins with that state: data that has survived once has to stay.
//!
//! [`rivals`] has rounds of another kind: two processes that want the same bucket.
//!
//! Loads, moments and options of a round follow from the seed and the round's number. Threads of two programs
//! interleave freely, though, so a seed repeats the requests, and not every interleaving.

pub mod client;
pub mod declared;
pub mod disk;
pub mod disturbance;
pub mod full;
pub mod mode;
pub mod model;
pub mod node;
pub mod reading;
pub mod rivals;
pub mod verdict;
pub mod workload;

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;

use self::{
    client::{Client, History, Pace},
    declared::Declarations,
    disturbance::{Disturbance, Temper},
    mode::Mode,
    node::{Node, Target, unix_ms},
    reading::State,
    verdict::{Toll, Trial, Wrong},
    workload::{CLIENTS, DATABASES, Workload},
};
use crate::{Kind, script::Random};

/// How long the kill waits for the next disturbance to begin.
const AIM_LIMIT: Duration = Duration::from_millis(60);
/// A time longer than the briefest keys live.
const BRIEF_MS: u64 = 30;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub kind: Kind,
    pub mode: Mode,
    pub seed: u64,
    pub rounds: usize,
    /// After this many rounds, the next one begins with an empty store.
    pub rounds_per_store: usize,
    /// Judges each database by itself, as if it had a log of its own.
    pub each_database: bool,
    /// Whether the disk is full for a while in some rounds.
    pub full_disk: bool,
    /// Puts the store on a small file system of its own, of so many MiB. A full disk then is a really full one.
    /// Otherwise writes to files fail.
    pub disk_mib: Option<u32>,
}

/// Results of many rounds.
#[derive(Debug, Default)]
pub struct Summary {
    pub rounds: usize,
    pub toll: Toll,
    /// Requests that failed because of a full disk.
    pub refused: usize,
    /// Number of kills by the disturbance that was under way.
    pub killed_in: BTreeMap<String, usize>,
    /// Times from the start of the process to the first reply, after a crash.
    pub starts: Vec<Duration>,
    pub took: Duration,
}

/// Runs the rounds. An error says where it happened and what was expected. It names the path of the store, which is
/// kept. `progress` is called after each store.
pub fn run(settings: Settings, mut progress: impl FnMut(&Summary)) -> Result<Summary, String> {
    let begun = Instant::now();
    let mut summary = Summary::default();
    let mut stores = 0u64;
    while summary.rounds < settings.rounds {
        let folder = tempfile::Builder::new().prefix("dormouse-crash-").tempdir().map_err(|e| e.to_string())?;
        let mut store = Store::new(settings, folder.path())?;
        // Every second store is encrypted, and which one comes first is up to the seed.
        if settings.kind == Kind::Dormouse && stores.wrapping_add(settings.seed).is_multiple_of(2) {
            store.node.encrypt()?;
        }
        stores += 1;
        let rounds = settings.rounds_per_store.min(settings.rounds - summary.rounds);
        for _ in 0..rounds {
            let number = summary.rounds;
            if let Err(problem) = store.round(number, &mut summary) {
                return Err(failure(settings, number, &problem, &store, folder));
            }
            summary.rounds += 1;
        }
        summary.starts.append(&mut store.node.starts);
        progress(&summary);
    }
    summary.took = begun.elapsed();
    Ok(summary)
}

fn failure(settings: Settings, round: usize, problem: &str, store: &Store, folder: TempDir) -> String {
    let Settings { kind, mode, seed, .. } = settings;
    let log = store.node.log_tail();
    let folder = folder.keep();
    format!(
        "round {round} of {}, mode {mode}, seed {seed}: {problem}\n{log}\nthe store is kept: {}",
        kind.name(),
        folder.display()
    )
}

/// One store over its rounds, and the expected contents.
struct Store {
    settings: Settings,
    node: Node,
    running: Option<Target>,
    workloads: Vec<Workload>,
    state: State,
}

impl Store {
    fn new(settings: Settings, folder: &Path) -> Result<Self, String> {
        let mut node = Node::new(settings.kind, settings.mode, folder);
        if let Some(mib) = settings.disk_mib {
            node.use_small_disk(mib)?;
        }
        let workload = |client| Workload { is_newer: settings.kind == Kind::Dormouse, ..Workload::new(client) };
        let workloads = (0..CLIENTS).map(workload).collect();
        Ok(Self { settings, node, running: None, workloads, state: State::empty() })
    }

    fn round(&mut self, number: usize, summary: &mut Summary) -> Result<(), String> {
        let mut random = Random::new(self.settings.seed ^ (number as u64).wrapping_mul(0xd134_2543_de82_ef95));
        let target = match self.running.take() {
            Some(target) => target,
            None => self.node.start(&mut random)?,
        };
        let trial = self.load_and_kill(&target, &mut random, summary)?;
        let killed_ms = unix_ms();
        while random.one_in(4) {
            let after = Duration::from_micros(random.below(80_000) as u64);
            self.node.start_and_kill(&mut random, after)?;
            *summary.killed_in.entry("recovery".into()).or_insert(0) += 1;
        }
        let target = self.node.start(&mut random)?;
        while unix_ms() <= killed_ms + BRIEF_MS {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let found = State::read(&target).map_err(|problem| format!("the state cannot be read: {problem}"))?;
        let toll = trial.judge(&found).map_err(|wrong| explain(&trial, &found, &wrong))?;
        summary.toll.add(&toll);
        if self.node.empty_disk() {
            self.node.wait_until_accepting(&target)?;
        }
        self.state = found;
        self.running = Some(target);
        Ok(())
    }

    fn load_and_kill(&mut self, target: &Target, random: &mut Random, summary: &mut Summary) -> Result<Trial, String> {
        let connected = |problem| format!("a client cannot connect: {problem}");
        let clients: Vec<Client> =
            (0..CLIENTS).map(|_| Client::connect(target)).collect::<Result<_, _>>().map_err(connected)?;
        let disturbances: Vec<Disturbance> =
            (0..DATABASES).map(|n| Disturbance::connect(target, n)).collect::<Result<_, _>>().map_err(connected)?;
        let ending = &AtomicBool::new(false);
        let (begun, begins) = channel();
        let full = self.settings.full_disk && random.one_in(2);
        // Redis without its own log saves nothing when it is told to end.
        let saves = self.settings.kind == Kind::Dormouse || self.settings.mode.one_log();
        let orderly = random.one_in(12) && saves;
        std::thread::scope(|scope| {
            let mut writers = Vec::new();
            for ((client, workload), base) in clients.into_iter().zip(&mut self.workloads).zip(&self.state.spaces) {
                let (mut pace, mut random) = (Pace::random(random), fork(random));
                if full {
                    // An operation behind a refused one must not survive without it.
                    pace.batch_len_max = 1;
                }
                let base = base.clone();
                // On a busy machine the log may fall behind. The server then refuses writes rather than break its
                // promise.
                let may_refuse = full || self.settings.mode.one_log();
                writers.push(scope.spawn(move || client.run(workload, base, pace, &mut random, ending, may_refuse)));
            }
            let mut disturbers = Vec::new();
            for (disturbance, settings) in disturbances.into_iter().zip(self.state.settings) {
                let declarations = Declarations::after(settings);
                let (temper, mut random, begun) = (Temper::random(random), fork(random), begun.clone());
                disturbers.push(
                    scope.spawn(move || disturbance.run(temper, &mut random, declarations, (&begun, ending), full)),
                );
            }
            std::thread::park_timeout(self.settings.mode.load(random));
            let mut faults: Vec<String> = Vec::new();
            if full {
                faults.extend(self.node.fill_disk(random).err());
                std::thread::park_timeout(self.settings.mode.load(random));
                if orderly || random.one_in(2) {
                    faults.extend(self.node.relieve_disk().err());
                    std::thread::park_timeout(self.settings.mode.load(random) / 4);
                }
            }
            aim(&begins, random);
            ending.store(true, Ordering::Relaxed);
            let killed = (!orderly).then(Instant::now);
            let ended = if orderly { self.node.stop() } else { self.node.kill() };
            faults.extend(ended.err());
            let mut histories: Vec<History> = Vec::new();
            for writer in writers {
                let (history, fault) = writer.join().expect("a client does not panic");
                histories.push(history);
                faults.extend(fault);
            }
            let mut checkpoints = [None; DATABASES];
            let mut declared: [Declarations; DATABASES] = Default::default();
            for (database, disturber) in disturbers.into_iter().enumerate() {
                let ended = disturber.join().expect("a disturbance does not panic");
                checkpoints[database] = ended.checkpoint;
                declared[database] = ended.declared;
                faults.extend(ended.fault);
                summary.refused += ended.refused;
                if let Some(what) = ended.unanswered.filter(|_| !orderly) {
                    *summary.killed_in.entry(what).or_insert(0) += 1;
                }
            }
            let counters = self.state.counters.clone();
            let Settings { mode, each_database, .. } = self.settings;
            let one_log = mode.one_log() && !each_database;
            let records = histories.iter().flat_map(|history| &history.records);
            let last = records.filter_map(|record| record.acknowledged).max();
            // On a small disk the log has a reserve, so what was acknowledged before it was full is durable in time.
            let last_of_full = last.filter(|_| full && self.settings.disk_mib.is_none());
            match faults.is_empty() {
                true => Ok(Trial { mode, one_log, histories, counters, killed, last_of_full, checkpoints, declared }),
                false => Err(faults.join("\n")),
            }
        })
    }
}

/// Describes the fault, and whether it is only that databases have fallen behind each other.
fn explain(trial: &Trial, found: &State, wrong: &Wrong) -> String {
    if !trial.one_log {
        return wrong.to_string();
    }
    let by_itself = Trial { one_log: false, ..trial.clone() };
    match by_itself.judge(found) {
        Ok(_) => format!(
            "{wrong}
each database by itself is as it may be; together they are not one moment"
        ),
        Err(also) => format!(
            "{wrong}
judged each database by itself: {also}"
        ),
    }
}

/// Returns at once, or just after a disturbance has begun: often one of a chosen kind.
fn aim(begins: &Receiver<String>, random: &mut Random) {
    let Some(kind) = *random.pick(&[
        None,
        Some(""),
        Some("SLEEP"),
        Some("CHECKPOINT"),
        Some("SPLIT"),
        Some("MERGE"),
        Some("BRANCH"),
    ]) else {
        return;
    };
    // Ignore the disturbances that have begun before.
    while begins.try_recv().is_ok() {}
    let deadline = Instant::now() + AIM_LIMIT;
    while let Ok(begun) = begins.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if kind.is_empty() || begun == kind {
            break;
        }
    }
    let after_us = if random.one_in(2) { random.below(5000) } else { random.below(300) };
    if after_us > 50 {
        std::thread::park_timeout(Duration::from_micros(after_us as u64));
    }
}

/// Returns a generator for another thread.
fn fork(random: &mut Random) -> Random {
    Random::new(random.below(usize::MAX) as u64)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Toll { sent, acknowledged, promised, lost, lost_age_max } = self.toll;
        writeln!(f, "{} rounds in {:.1} s", self.rounds, self.took.as_secs_f64())?;
        writeln!(f, "operations: {sent} sent, {acknowledged} acknowledged, {promised} promised")?;
        writeln!(
            f,
            "lost, as allowed: {lost}, the oldest acknowledged {} ms before the kill",
            lost_age_max.as_millis()
        )?;
        if self.refused > 0 {
            writeln!(f, "refused for the full disk: {} requests", self.refused)?;
        }
        let killed_in = self.killed_in.iter().map(|(what, times)| format!("{what} {times}"));
        writeln!(f, "killed in: {}", killed_in.collect::<Vec<_>>().join(", "))?;
        let mut starts = self.starts.clone();
        starts.sort();
        let ms = |start: Option<&Duration>| start.map_or(0.0, |start| start.as_secs_f64() * 1000.0);
        let (min, median, max) = (ms(starts.first()), ms(starts.get(starts.len() / 2)), ms(starts.last()));
        write!(f, "first reply after a start: {min:.1} ms at least, {median:.1} ms in the median, {max:.1} ms at most")
    }
}
