//! Databases made at run time: the time to make one, and the cost of a hundred thousand unused ones.
//!
//! 1. Databases are made over the admin API, one after the other over one connection, on a local store: each is durable
//!    before it is answered.
//! 2. Several connections make the rest. Resident memory after that, less what it was before, by databases.
//! 3. Some of them get a value of 1 KiB and sleep: the time to the first reply of each, over a connection that waits for it.
//! 4. The server is killed and started again on the same store: the time to the first reply of a database.
//!
//! The third is also done over a bucket in the memory of this process, which takes 20 ms for each request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dormouse_client_tests::honest::HonestBucket;
use dormouse_client_tests::server::Remote;

use crate::client::Client;
use crate::process::settled_resident_bytes;
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Program, new_folder};
use crate::statistics::percentile;
use crate::{Bench, Result};

const TIMED: usize = 2_000;
const DATABASES: usize = 100_000;
const WOKEN: usize = 500;
/// A bucket in the same region.
const ROUND_TRIP: Duration = Duration::from_millis(20);
const CONNECTIONS: usize = 32;
const ADMIN_TOKEN: &str = "the-admin-token";
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The server takes 2,000 requests a second.
const PAUSE: Duration = Duration::from_millis(20);

struct Cost {
    made_ms: Vec<f64>,
    wakes_ms: Vec<f64>,
    resident: f64,
    start_ms: f64,
}

/// The place of the databases.
#[derive(Clone, Copy)]
enum Place<'a> {
    Folder(&'a Path),
    Bucket(&'a Remote),
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let costs = bench.of_each(|program| (program.kind == Kind::Dormouse).then(|| cost(bench, program)).transpose())?;
    let costs: Vec<Option<Cost>> = costs.into_iter().map(Option::flatten).collect();
    let of = |field: &dyn Fn(&Cost) -> f64| costs.iter().map(|cost| cost.as_ref().map(field)).collect::<Vec<_>>();
    let count = bench.amount(DATABASES, 300);
    let mut table = Table::new("Databases that are made at run time", &bench.programs);
    for (label, percent) in [("p50", 50.0), ("p99", 99.0)] {
        let target = (percent > 90.0).then_some(Target::Most(3.0));
        let label = format!("one is made over the admin API, {label}");
        let values = costs.iter().map(|cost| percentile(&cost.as_ref()?.made_ms, percent)).collect();
        table.row(label, Unit::Milliseconds, values, target);
    }
    let label = format!("memory of one that sleeps, of {count}");
    table.row(label, Unit::Bytes, of(&|cost| cost.resident), Some(Target::Most(256.0)));
    let label = format!("start with {count}, to the first reply");
    table.row(label, Unit::Milliseconds, of(&|cost| cost.start_ms), Some(Target::Most(1000.0)));
    let over_bucket = bench.of_each(|program| match program.kind {
        Kind::Dormouse => wakes_over_a_bucket(bench, program).map(Some),
        _ => Ok(None),
    })?;
    let local = costs.iter().map(|cost| cost.as_ref().map(|cost| cost.wakes_ms.clone())).collect();
    let over_bucket = over_bucket.into_iter().map(Option::flatten).collect();
    let bucket = format!("a bucket, {} ms a request", ROUND_TRIP.as_millis());
    for (place, wakes, most) in [("a local store", local, 5.0), (bucket.as_str(), over_bucket, 60.0)] {
        let wakes: Vec<Option<Vec<f64>>> = wakes;
        for (name, percent) in [("p50", 50.0), ("p99", 99.0)] {
            let target = (percent > 90.0).then_some(Target::Most(most));
            let label = format!("first reply of one of {count} that sleep, {place}, {name}");
            let values = wakes.iter().map(|wakes| percentile(wakes.as_ref()?, percent)).collect();
            table.row(label, Unit::Milliseconds, values, target);
        }
    }
    Ok(vec![table])
}

fn wakes_over_a_bucket(bench: &Bench, program: &Program) -> Result<Vec<f64>> {
    let bucket = HonestBucket::start(ROUND_TRIP)?;
    let server = Running::start(program, Place::Bucket(&bucket.store("bench")))?;
    let mut api = server.api()?;
    let woken = bench.amount(WOKEN, 5);
    let tokens = (0..woken).map(|number| api.create(&format!("timed-{number}"))).collect::<Result<Vec<_>>>()?;
    create_others(&server, bench.amount(DATABASES, 300).saturating_sub(woken))?;
    wakes(&server, &tokens)
}

/// Makes so many databases over several connections.
fn create_others(server: &Running, count: usize) -> Result<()> {
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let make = |turn: usize| {
            let mut api = server.api()?;
            (turn..count).step_by(CONNECTIONS).try_for_each(|number| {
                api.create(&format!("preview-{number}"))?;
                Ok(())
            })
        };
        let threads: Vec<_> = (0..CONNECTIONS).map(|turn| scope.spawn(move || make(turn))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    results.into_iter().collect()
}

/// Gives the databases `timed-0` and so on, which have these tokens, a value, puts them to sleep, and wakes one after the
/// other. Returns the times of their first replies in milliseconds.
fn wakes(server: &Running, tokens: &[String]) -> Result<Vec<f64>> {
    let mut api = server.api()?;
    let mut clients = Vec::new();
    for (number, token) in tokens.iter().enumerate() {
        let mut client = Client::connect(server.address)?;
        client.call(&["AUTH", token])?;
        client.call(&["SET", "session", &"x".repeat(1024)])?;
        api.sleep(&format!("timed-{number}"))?;
        clients.push(client);
    }
    let mut times_ms = Vec::new();
    for client in &mut clients {
        let began = Instant::now();
        if client.call(&["GET", "session"])?.len() != 1024 {
            return Err("a value is not as it was".into());
        }
        times_ms.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times_ms)
}

fn cost(bench: &Bench, program: &Program) -> Result<Cost> {
    let folder = new_folder()?;
    let server = Running::start(program, Place::Folder(folder.path()))?;
    let before = settled_resident_bytes(server.child.id())?;
    let mut api = server.api()?;
    let (mut made_ms, mut tokens) = (Vec::new(), Vec::new());
    for number in 0..bench.amount(TIMED, 20) {
        let began = Instant::now();
        tokens.push(api.create(&format!("timed-{number}"))?);
        made_ms.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let count = bench.amount(DATABASES, 300);
    create_others(&server, count.saturating_sub(made_ms.len()))?;
    let resident = settled_resident_bytes(server.child.id())?.saturating_sub(before) as f64 / count as f64;
    let last = tokens.last().ok_or("no database was made")?.clone();
    tokens.truncate(bench.amount(WOKEN, 5));
    let wakes_ms = wakes(&server, &tokens)?;
    drop(server);
    let began = Instant::now();
    let server = Running::start(program, Place::Folder(folder.path()))?;
    let mut client = Client::connect(server.address)?;
    client.call(&["AUTH", &last])?;
    client.call(&["GET", "key"])?;
    let start_ms = began.elapsed().as_secs_f64() * 1000.0;
    drop(server);
    Ok(Cost { made_ms, wakes_ms, resident, start_ms })
}

/// A server with an admin token; dropping it ends it.
struct Running {
    child: Child,
    address: SocketAddr,
    http: SocketAddr,
}

impl Running {
    fn start(program: &Program, place: Place<'_>) -> Result<Self> {
        let port = || -> Result<u16> { Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port()) };
        let (port, http_port) = (port()?, port()?);
        let mut command = program.command();
        command.args(["--port", &port.to_string(), "--http-port", &http_port.to_string(), "--workers", "1"]);
        match place {
            Place::Folder(folder) => command.args(["--store", &format!("file://{}", folder.join("store").display())]),
            Place::Bucket(remote) => {
                let variables = remote.environment.iter().map(|(name, value)| (name, value));
                command.args(["--store", &remote.url]).envs(variables)
            }
        };
        command.env("DORMOUSE_ADMIN_TOKEN", ADMIN_TOKEN);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let of = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Self { child: command.spawn()?, address: of(port), http: of(http_port) };
        let began = Instant::now();
        while TcpStream::connect(server.http).is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("dormouse ended by itself ({status})").into());
            }
            if began.elapsed() > START_TIMEOUT {
                return Err(format!("dormouse does not answer after {START_TIMEOUT:?}").into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }

    fn api(&self) -> Result<Api> {
        let stream = TcpStream::connect(self.http)?;
        stream.set_nodelay(true)?;
        Ok(Api { http: self.http, stream: BufReader::new(stream) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to the admin API.
struct Api {
    http: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Api {
    /// Makes a database, and returns its token.
    fn create(&mut self, name: &str) -> Result<String> {
        loop {
            let (status, body) = self.post("/v1/databases", &format!("{{\"name\":\"{name}\"}}"))?;
            match status {
                201 => {
                    let token = body.split("\"token\":\"").nth(1).and_then(|rest| rest.split('"').next());
                    return Ok(token.ok_or("an answer without a token")?.to_owned());
                }
                429 => thread::sleep(PAUSE),
                // The answer to the first attempt was lost.
                409 => return Ok(String::new()),
                _ => return Err(format!("{status} {body}").into()),
            }
        }
    }

    fn sleep(&mut self, name: &str) -> Result<()> {
        loop {
            match self.post(&format!("/v1/databases/{name}/sleep"), "")? {
                (200..300, _) => return Ok(()),
                (429, _) => thread::sleep(PAUSE),
                (status, body) => return Err(format!("{status} {body}").into()),
            }
        }
    }

    fn post(&mut self, path: &str, body: &str) -> Result<(u16, String)> {
        self.call(path, body).or_else(|_| {
            // The server closes a connection after some minutes.
            self.stream = BufReader::new(TcpStream::connect(self.http)?);
            self.call(path, body)
        })
    }

    fn call(&mut self, path: &str, body: &str) -> Result<(u16, String)> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {ADMIN_TOKEN}\r\ncontent-length: {}\r\n\r\n{body}",
            self.http,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err("the connection was closed".into());
            }
            let text = line.trim_end().to_ascii_lowercase();
            if text.is_empty() {
                break;
            }
            if let Some(rest) = text.strip_prefix("http/1.1 ") {
                status = rest.split(' ').next().unwrap_or_default().parse()?;
            }
            if let Some(rest) = text.strip_prefix("content-length: ") {
                length = rest.parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, String::from_utf8(body)?))
    }
}
