//! Clients that read and write all the time, whatever happens to the nodes.
//!
//! Each client goes around the databases, so that all of them are asked, and waits for a reply before it sends the next
//! command. Each database has registers, which are set to values that are never used twice, and counters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dormouse_client_tests::script::Random;

use super::client::{Client, Outcome};
use super::fleet::{Fleet, token};
use super::history::{Operation, now_ns};
use super::{LIMIT, eventually};

const CLIENTS: usize = 4;
/// Keys of each kind in each database.
const KEYS: usize = 2;
/// Rest of a client after an answer, and after a refusal.
const REST: Duration = Duration::from_millis(4);
const REST_AFTER_REFUSAL: Duration = Duration::from_millis(20);
/// Time without an answer after which a client gives up a node for all its databases.
const SILENCE: Duration = Duration::from_millis(2500);

pub struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
}

struct Shared {
    databases: Vec<String>,
    ended: AtomicBool,
    /// For each database, when the newest acknowledged write began.
    written_ns: Vec<AtomicU64>,
    answers: AtomicUsize,
    /// How often each failure was seen, by its text without numbers.
    failures: Mutex<BTreeMap<String, usize>>,
}

impl Traffic {
    /// Starts clients of all databases of a fleet.
    pub fn start(fleet: &Fleet, seed: u64) -> Self {
        Self::between(fleet.ports(), &fleet.options.databases, seed, |client| client)
    }

    /// Clients of these ports. `first`: the position of the port that a client asks first.
    pub fn between(ports: Arc<[u16]>, databases: &[String], seed: u64, first: impl Fn(usize) -> usize) -> Self {
        let shared = Arc::new(Shared {
            databases: databases.to_vec(),
            ended: AtomicBool::new(false),
            written_ns: databases.iter().map(|_| AtomicU64::new(0)).collect(),
            answers: AtomicUsize::new(0),
            failures: Mutex::default(),
        });
        let clients = (0..CLIENTS).map(|number| {
            let (shared, ports, first) = (Arc::clone(&shared), Arc::clone(&ports), first(number));
            let of = |database: &String| Client::beginning_at(Arc::clone(&ports), &token(database), first);
            let connections: Vec<Client> = shared.databases.iter().map(of).collect();
            let random = Random::new(seed.wrapping_mul(1000).wrapping_add(number as u64));
            std::thread::spawn(move || Worker { number, shared, random, operations: Vec::new() }.run(connections))
        });
        Self { clients: clients.collect(), shared }
    }

    /// Waits until each database has acknowledged a write that began after this call. Returns how long that took.
    pub fn await_writes(&self) -> Duration {
        let (now, began) = (now_ns(), Instant::now());
        let lags = |(at, _): &(usize, &String)| self.shared.written_ns[*at].load(Ordering::SeqCst) < now;
        let all = || self.shared.databases.iter().enumerate();
        let written = dormouse_client_tests::wait_for(LIMIT, || (!all().any(|each| lags(&each))).then_some(()));
        let without: Vec<&String> = all().filter(lags).map(|(_, database)| database).collect();
        assert!(written.is_some(), "no writes to {without:?} within {LIMIT:?}; failures: {:#?}", self.failures());
        began.elapsed()
    }

    /// Whether each database acknowledges a write that begins after this call, within a limit.
    pub fn writes_within(&self, limit: Duration) -> bool {
        let now = now_ns();
        let written = || self.shared.written_ns.iter().all(|moment| moment.load(Ordering::SeqCst) >= now).then_some(());
        dormouse_client_tests::wait_for(limit, written).is_some()
    }

    /// Waits for so many answers.
    pub fn await_answers(&self, count: usize) {
        let until = self.answers() + count;
        eventually("answers", || (self.answers() >= until).then_some(()));
    }

    pub fn answers(&self) -> usize {
        self.shared.answers.load(Ordering::SeqCst)
    }

    /// How often clients were refused, or did not learn the outcome, by the reason.
    pub fn failures(&self) -> BTreeMap<String, usize> {
        self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the clients, and reads every key once more. Returns all operations.
    pub fn end(mut self, fleet: &Fleet) -> Vec<Operation> {
        self.shared.ended.store(true, Ordering::SeqCst);
        let mut operations: Vec<Operation> = Vec::new();
        for client in self.clients.drain(..) {
            operations.extend(client.join().expect("a client does not panic"));
        }
        for database in &self.shared.databases {
            let mut client = fleet.client(database);
            for key in (0..KEYS).flat_map(|number| [format!("r{number}"), format!("c{number}")]) {
                let call_ns = now_ns();
                let reply = client.insist(&format!("GET {key}"));
                let output = Some(reply.text().unwrap_or_default().to_owned());
                let (key, return_ns) = (format!("{database}/{key}"), now_ns());
                let input = String::new();
                operations.push(Operation { client: CLIENTS, key, kind: "get", input, output, call_ns, return_ns });
            }
        }
        operations
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            _ = client.join();
        }
        if std::thread::panicking() {
            eprintln!("{} answers; failures: {:#?}", self.answers(), self.failures());
        }
    }
}

struct Worker {
    number: usize,
    shared: Arc<Shared>,
    random: Random,
    operations: Vec<Operation>,
}

impl Worker {
    fn run(mut self, mut connections: Vec<Client>) -> Vec<Operation> {
        for at in (0..connections.len()).cycle().skip(self.number) {
            if self.shared.ended.load(Ordering::SeqCst) {
                break;
            }
            let (port, began) = (connections[at].port(), Instant::now());
            let is_answered = self.operate(at, &mut connections[at]);
            if !is_answered && began.elapsed() > SILENCE {
                // Otherwise it would wait for a node that is stopped once for each database.
                connections.iter_mut().for_each(|client| client.leave(port));
            }
            std::thread::park_timeout(if is_answered { REST } else { REST_AFTER_REFUSAL });
        }
        self.operations
    }

    /// One operation on a database. Returns whether it was answered.
    fn operate(&mut self, at: usize, client: &mut Client) -> bool {
        let number = self.random.below(KEYS);
        let (kind, key) = match self.random.below(6) {
            0 => ("get", format!("r{number}")),
            1 => ("get", format!("c{number}")),
            2 | 3 => ("set", format!("r{number}")),
            _ => ("incr", format!("c{number}")),
        };
        let input = match kind {
            "set" => format!("{}-{}", self.number, self.operations.len()),
            _ => String::new(),
        };
        let mut words = vec![kind.to_owned(), key.clone()];
        words.extend((kind == "set").then(|| input.clone()));
        let call_ns = now_ns();
        let outcome = client.run(&words);
        let return_ns = now_ns();
        let output = match outcome {
            Outcome::Answered(reply) => {
                let number = reply.integer().map(|number| number.to_string());
                Some(number.unwrap_or_else(|| reply.text().unwrap_or_default().to_owned()))
            }
            Outcome::Unknown(problem) => {
                self.note(&problem);
                None
            }
            Outcome::Refused(problem) => {
                self.note(&problem);
                return false;
            }
        };
        let is_answered = output.is_some();
        if is_answered {
            self.shared.answers.fetch_add(1, Ordering::SeqCst);
            if kind != "get" {
                self.shared.written_ns[at].fetch_max(call_ns, Ordering::SeqCst);
            }
        }
        let key = format!("{}/{key}", self.shared.databases[at]);
        self.operations.push(Operation { client: self.number, key, kind, input, output, call_ns, return_ns });
        is_answered
    }

    fn note(&self, problem: &str) {
        let text: String = problem.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        *self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).entry(text).or_default() += 1;
    }
}
