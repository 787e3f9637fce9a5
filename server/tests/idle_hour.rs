//! An hour of idle workers under a held clock: their database sleeps beneath them, and each look of theirs wakes it for a moment.
//!
//! The folder `idle` has what the workers send, as it was recorded; `bullmq.txt` describes the form. Everything goes by the held
//! clock: what is sent when, how long clients wait, when keys expire, and the rounds of the keeper.

#[allow(dead_code, reason = "shared with tests that need more of it")]
#[path = "wire/node.rs"]
mod node;

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use dormouse::clients::blocked;
use dormouse::clock::Alarm;
use dormouse::databases::Tenant;
use dormouse::keeper::{self, Keeper};
use dormouse_autoscaler::Autoscaler;
use dormouse_protocol::Response;
use node::{Bench, CLOCK_MS};
use parking_lot::Mutex;
use tokio::sync::watch;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
/// Time in which the workers' habits become known: the rarest comes every 405 seconds.
const LEARNING_MS: u64 = 30 * MINUTE_MS;
/// The rounds of the keeper.
const TICK_MS: u64 = 100;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that a worker sends again and again.
struct Line {
    next_ms: u64,
    every_ms: u64,
    connection: String,
    words: Vec<String>,
}

impl Line {
    /// How long it may wait for its reply.
    fn timeout_ms(&self) -> Option<u64> {
        self.words.iter().find_map(|word| word.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
    }

    /// Whether it needs data, and therefore wakes the database.
    fn needs_data(&self) -> bool {
        self.timeout_ms().is_none() && self.words[0] != "PUBLISH"
    }
}

struct Worker {
    stream: BufReader<UnixStream>,
    /// When the wait for the reply of its last command ends.
    waits_until_ms: Option<u64>,
    /// The changes of the database before the end of its last wait.
    changes: u64,
}

impl Worker {
    fn new(bench: &Bench) -> Self {
        Self { stream: BufReader::new(bench.connect().stream), waits_until_ms: None, changes: 0 }
    }

    fn send(&mut self, words: &[String]) {
        let text: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        self.stream.get_mut().write_all(format!("*{}\r\n{text}", words.len()).as_bytes()).expect("an open connection");
    }

    fn reply(&mut self) -> Response {
        let reply = Response::read(&mut self.stream).expect("a reply");
        assert!(!matches!(reply, Response::Line('-', _)), "{reply:?}");
        reply
    }
}

/// An hour of one kind of worker.
struct Hour {
    bench: Bench,
    tenant: Arc<Tenant>,
    keeper: Keeper,
    alarm: watch::Sender<u64>,
    now_ms: u64,
    lines: Vec<Line>,
    workers: BTreeMap<String, Worker>,
}

/// What was seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Commands that need data and find the database asleep.
    looks: u64,
    /// The same of waits that begin after a change which came between two waits.
    waits: u64,
    wakes: u64,
    loads: u64,
    awake_ms: u64,
    /// The longest time from a look until the database slept again.
    awake_ms_max: u64,
}

impl Hour {
    fn new(recorded: &str) -> Self {
        let bench = Bench::new(&[]);
        let (alarm, held) = watch::channel(0);
        bench.node.alarm.set(Alarm::Held(held)).expect("no client has waited");
        let mut first = Worker::new(&bench);
        let mut run = |words: &[String]| {
            first.send(words);
            first.reply()
        };
        let words_of = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        run(&words_of("CONFIG SET sleep-after 60s"));
        // Enough for several segments, so that it can be seen what is loaded.
        for number in 0..8_000 {
            run(&words_of(&format!("SET other:{number} {number}")));
        }
        let (mut scripts, mut lines) = (BTreeMap::new(), Vec::new());
        for line in recorded.lines().filter(|line| !line.starts_with('#')) {
            let (head, rest) = line.split_once(' ').expect("a form that bullmq.txt describes");
            let rest = rest.replace(r"\x06", "\u{6}").replace(r"\x16", "\u{16}");
            match head {
                "begin" => drop(run(&words_of(&rest))),
                "script" => {
                    let (name, text) = rest.split_once(' ').expect("a name and a text");
                    let load = ["SCRIPT", "LOAD", text].map(str::to_owned);
                    let Response::Bulk('$', Some(sha)) = run(&load) else { panic!("no script: {text}") };
                    scripts.insert(format!("{{{name}}}"), String::from_utf8(sha).expect("digits"));
                }
                first_ms => {
                    let mut words = words_of(&rest);
                    let (every_ms, connection) = (words.remove(0), words.remove(0));
                    for word in &mut words {
                        if let Some(sha) = scripts.get(word) {
                            word.clone_from(sha);
                        }
                    }
                    lines.push(Line {
                        next_ms: first_ms.parse().expect("a time"),
                        every_ms: every_ms.parse().expect("a time"),
                        connection,
                        words,
                    });
                }
            }
        }
        let names: Vec<String> = lines.iter().map(|line| line.connection.clone()).collect();
        let workers = names.into_iter().map(|name| (name, Worker::new(&bench))).collect();
        let tenant = bench.tenant("default");
        let keeper = Keeper::new(Autoscaler::new(bench.node.policy.clone()).expect("the default policy"));
        Self { bench, tenant, keeper, alarm, now_ms: 0, lines, workers }
    }

    /// Sets the clock, ends the waits whose time has come, and lets the keeper have its rounds.
    fn advance_to(&mut self, now_ms: u64) {
        CLOCK_MS.fetch_add(now_ms - self.now_ms, Ordering::SeqCst);
        self.now_ms = now_ms;
        self.alarm.send(now_ms).expect("clients wait");
        for worker in self.workers.values_mut() {
            if worker.waits_until_ms.take_if(|until_ms| *until_ms <= now_ms).is_some() {
                let reply = worker.reply();
                assert!(reply.is_null(), "{reply:?}");
                worker.changes = self.tenant.database.shared.changes.load(Ordering::SeqCst);
            }
        }
        if now_ms.is_multiple_of(TICK_MS) {
            let entered = self.bench.runtime.enter();
            keeper::let_go(&self.bench.node);
            if now_ms.is_multiple_of(1_000) {
                self.keeper.look(&self.bench.node, now_ms);
            }
            drop(entered);
            until("the end of a sleep", || !self.tenant.saving.lock().is_running());
        }
    }

    fn send(&mut self, at: usize) {
        let line = &mut self.lines[at];
        line.next_ms += line.every_ms;
        let timeout_ms = line.timeout_ms();
        let in_seconds = |ms: u64| (ms / 1_000).to_string();
        let word_of = |word: &String| match (timeout_ms, &*line.words[0]) {
            (Some(ms), "XREAD") if word.starts_with('[') => ms.to_string(),
            (Some(ms), _) if word.starts_with('[') => in_seconds(ms),
            _ => word.replace("{now}", &CLOCK_MS.load(Ordering::SeqCst).to_string()),
        };
        let words: Vec<String> = line.words.iter().map(word_of).collect();
        let worker = self.workers.get_mut(&line.connection).expect("every connection is open");
        assert!(worker.waits_until_ms.is_none(), "{words:?} comes while its connection waits");
        worker.send(&words);
        match timeout_ms {
            Some(timeout_ms) => {
                worker.waits_until_ms = Some(self.now_ms + timeout_ms);
                let waiting = self.workers.values().filter(|worker| worker.waits_until_ms.is_some()).count();
                let is_waiting = || blocked(&self.bench.node.clients.of_database("default")) == waiting;
                until("a client that waits", is_waiting);
            }
            None => drop(worker.reply()),
        }
    }

    /// Plays what the workers send until then.
    fn play(&mut self, until_ms: u64) -> Seen {
        let (wakes, loads) = (self.wakes(), self.loads());
        let mut seen = Seen::default();
        let mut woke_ms = None;
        while self.now_ms < until_ms {
            let at = (0..self.lines.len()).min_by_key(|at| self.lines[*at].next_ms).expect("lines");
            let tick_ms = (self.now_ms / TICK_MS + 1) * TICK_MS;
            let before_ms = self.now_ms;
            if self.lines[at].next_ms >= tick_ms {
                self.advance_to(tick_ms);
            } else {
                let next_ms = self.lines[at].next_ms;
                if next_ms > self.now_ms {
                    self.advance_to(next_ms);
                }
                let needs_data = self.lines[at].needs_data();
                let was_awake = self.tenant.database.is_awake();
                let changes = self.tenant.database.shared.changes.load(Ordering::SeqCst);
                let has_missed = changes != self.workers[&self.lines[at].connection].changes;
                self.send(at);
                if !was_awake && self.tenant.database.is_awake() {
                    let is_wait = self.lines[at].timeout_ms().is_some();
                    assert!(needs_data || is_wait && has_missed, "woken by {:?}", self.lines[at].words);
                    seen.looks += u64::from(needs_data);
                    seen.waits += u64::from(is_wait);
                }
            }
            match (self.tenant.database.is_awake(), woke_ms) {
                (true, None) => woke_ms = Some(self.now_ms),
                (true, Some(_)) => seen.awake_ms += self.now_ms - before_ms,
                (false, Some(since_ms)) => {
                    seen.awake_ms += self.now_ms - before_ms;
                    seen.awake_ms_max = seen.awake_ms_max.max(self.now_ms - since_ms);
                    woke_ms = None;
                }
                (false, None) => {}
            }
        }
        Seen { wakes: self.wakes() - wakes, loads: self.loads() - loads, ..seen }
    }

    fn wakes(&self) -> u64 {
        self.bench.wakes("default") as u64
    }

    fn loads(&self) -> u64 {
        self.tenant.database.counters.loads.load(Ordering::SeqCst)
    }
}

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "still waiting for {what}");
        thread::yield_now();
    }
}

/// Plays an hour after the habits of the workers are known. `looks`: how often they need data. `loads_max`: the segments that
/// each look needs.
fn check(recorded: &str, looks: u64, loads_max: u64) {
    // The tests share the clock.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    let mut hour = Hour::new(recorded);
    hour.play(LEARNING_MS);
    let seen = hour.play(LEARNING_MS + HOUR_MS);
    println!("{seen:?}");
    assert_eq!(seen.wakes, seen.looks + seen.waits, "only what needs data wakes it");
    assert!(seen.looks > 0 && seen.looks <= looks && seen.waits <= looks / 10, "{seen:?}");
    assert!(seen.awake_ms_max <= 1_000, "it sleeps again within a second: {seen:?}");
    assert!(seen.loads <= seen.wakes * loads_max, "nothing is loaded that is not needed: {seen:?}");
    // No worker was forgotten, and the rest of the data is there.
    let mut other = hour.bench.connect();
    other.check("GET other:7999", "$4\r\n7999\r\n");
    other.check("DBSIZE", &format!(":{}\r\n", hour.tenant.database.counts()[0].0));
}

#[test]
fn beneath_an_idle_worker_of_bullmq_the_database_sleeps() {
    check(include_str!("idle/bullmq.txt"), 837, 6);
}

#[test]
fn beneath_an_idle_worker_of_celery_the_database_sleeps() {
    check(include_str!("idle/celery.txt"), 264, 4);
}

#[test]
fn beneath_an_idle_worker_of_rq_the_database_sleeps() {
    check(include_str!("idle/rq.txt"), 9, 5);
}
