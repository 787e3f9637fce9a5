//! Quiet tenants: a command every millisecond or so, each reply timed and checked.

use std::{
    fmt, io,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::Target;
use crate::resp::{Connection, Reply, request};

const PAUSE: Duration = Duration::from_millis(1);
const KEYS: u64 = 100;

/// One quiet tenant.
pub struct Quiet {
    name: String,
    latencies: Arc<Mutex<Vec<Duration>>>,
    thread: JoinHandle<io::Result<Option<String>>>,
}

impl Quiet {
    pub fn start(target: &Target, name: &str) -> Self {
        let latencies = Arc::new(Mutex::new(Vec::new()));
        let (target, tenant, noted) = (target.clone(), name.to_owned(), Arc::clone(&latencies));
        let thread = thread::spawn(move || live(&target, &tenant, &noted));
        Self { name: name.to_owned(), latencies, thread }
    }

    /// Takes the latencies since the last call.
    pub fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.latencies.lock().expect("no holder panics"))
    }

    /// Waits for the end. Returns the fault of the tenant's run, if any.
    pub fn end(self) -> Option<String> {
        match self.thread.join() {
            Ok(Ok(problem)) => problem.map(|problem| format!("{}: {problem}", self.name)),
            Ok(Err(error)) => Some(format!("{}: {error}", self.name)),
            Err(_) => Some(format!("{}: panicked", self.name)),
        }
    }
}

/// Writes and reads until the siege is over. Returns the first wrong reply.
fn live(target: &Target, name: &str, latencies: &Mutex<Vec<Duration>>) -> io::Result<Option<String>> {
    super::be_prompt();
    let mut connection = target.connect(name)?;
    connection.set_patience(Duration::from_secs(30))?;
    let mut values = [0u64; KEYS as usize];
    let mut turn = 0;
    while !target.is_over() {
        turn += 1;
        let key = turn % KEYS;
        let (words, expected) = match turn % 3 {
            0 => {
                values[key as usize] = turn;
                (vec!["SET".into(), format!("key{key}"), turn.to_string()], Reply::Line('+', "OK".into()))
            }
            1 => {
                values[key as usize] += 1;
                (vec!["INCR".into(), format!("key{key}")], Reply::Line(':', values[key as usize].to_string()))
            }
            _ => (vec!["GET".into(), format!("key{key}")], of(values[key as usize])),
        };
        let request = request(&words);
        // Nothing is allocated while the time is taken: the threads that make the noise may hold the allocator's locks.
        let began = Instant::now();
        connection.write(&request)?;
        connection.await_reply()?;
        let took = began.elapsed();
        latencies.lock().expect("no holder panics").push(took);
        let reply = connection.read()?;
        if reply != expected {
            return Ok(Some(format!("{words:?}: {reply:?} instead of {expected:?}")));
        }
        thread::sleep(PAUSE);
    }
    check(&mut connection, &values)
}

/// Compares every key with its expected value.
fn check(connection: &mut Connection, values: &[u64]) -> io::Result<Option<String>> {
    for (key, value) in values.iter().enumerate() {
        let reply = connection.try_call(&["GET".to_owned(), format!("key{key}")])?;
        if reply != of(*value) {
            return Ok(Some(format!("key{key} is {reply:?} in the end, not {value}")));
        }
    }
    Ok(None)
}

fn of(value: u64) -> Reply {
    Reply::Bulk('$', (value > 0).then(|| value.to_string().into_bytes()))
}

/// Latencies of replies, sorted.
#[derive(Debug)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn of(latencies: impl Iterator<Item = Duration>) -> Self {
        let mut sorted: Vec<Duration> = latencies.collect();
        sorted.sort_unstable();
        Self(sorted)
    }

    /// Returns the latency that this part of the replies did not exceed.
    pub fn at(&self, part: f64) -> Duration {
        let at = (self.0.len() as f64 * part) as usize;
        self.0.get(at.min(self.0.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|part| self.at(part));
        write!(f, "{} replies, p50 {p50:.1?}, p99 {p99:.1?}, p99.9 {p999:.1?}, max {max:.1?}", self.count())
    }
}
