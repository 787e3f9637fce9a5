//! A fleet of processes over one etcd and one bucket.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dormouse_client_tests::emulator::{Emulated, Emulator};
use dormouse_client_tests::honest::HonestBucket;
use dormouse_client_tests::ports::free_port;
use dormouse_client_tests::proxy::Proxy;
use dormouse_client_tests::server::{Remote, tool};
use dormouse_client_tests::{Kind, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::Client;
use super::etcd::Etcd;
use super::{LIMIT, eventually};

/// Delay of the bucket for each request.
const STORE_DELAY: Duration = Duration::from_millis(2);
const ADMIN_TOKEN: &str = "root-of-the-fleet";
/// The exit code of a process that another has taken over.
pub const TAKEN: i32 = 3;

/// Settings of all nodes.
#[derive(Debug, Clone)]
pub struct Options {
    pub lease: String,
    pub loss_window: &'static str,
    /// The databases; each has a token.
    pub databases: Vec<String>,
    /// More databases, without traffic.
    pub others: Vec<String>,
}

impl Options {
    /// Databases `d0`, `d1`, ... with a loss window of 0.
    pub fn with_databases(count: usize) -> Self {
        Self {
            lease: std::env::var("DORMOUSE_FLEET_LEASE").unwrap_or_else(|_| "3s".to_owned()),
            loss_window: "0",
            databases: (0..count).map(|number| format!("d{number}")).collect(),
            others: Vec::new(),
        }
    }
}

/// The token of a database.
pub fn token(database: &str) -> String {
    format!("dm_{database}_abcdefgh")
}

/// A bucket: one of this process, which is quick, or moto's, which others wrote.
pub enum Bucket {
    Honest(HonestBucket),
    Moto(Emulated),
}

impl Bucket {
    pub fn honest() -> Self {
        Self::Honest(HonestBucket::start(STORE_DELAY).unwrap())
    }

    /// Returns nothing, loudly, where moto is not installed.
    pub fn moto() -> Option<Self> {
        Emulated::start(Emulator::Moto).map(Self::Moto)
    }

    pub fn remote(&self) -> Remote {
        match self {
            Self::Honest(bucket) => bucket.store("fleet"),
            Self::Moto(emulated) => emulated.store(),
        }
    }
}

/// Nodes, which can be told apart by their position. Whatever runs ends with this.
pub struct Fleet {
    pub nodes: Vec<Node>,
    pub etcd: Etcd,
    pub bucket: Bucket,
    pub options: Options,
    _folder: TempDir,
}

impl Fleet {
    /// Starts nodes `a`, `b`, ... and waits until all serve. Returns nothing where a tool is missing.
    pub fn start(count: usize, options: Options) -> Option<Self> {
        let mut fleet = Self::prepare(count, options, Bucket::honest())?;
        fleet.start_all();
        Some(fleet)
    }

    /// Prepares nodes, and starts none.
    pub fn prepare(count: usize, options: Options, bucket: Bucket) -> Option<Self> {
        if Kind::under_test() != Kind::Dormouse {
            return None;
        }
        let etcd = Etcd::start()?;
        let folder = tempfile::Builder::new().prefix("dormouse-fleet-").tempdir().unwrap();
        let remote = bucket.remote();
        let nodes = (b'a'..).take(count).map(|letter| {
            let name = char::from(letter).to_string();
            Node::new(name, etcd.port(), &remote, folder.path().join(char::from(letter).to_string()), &options)
        });
        Some(Self { nodes: nodes.collect(), etcd, bucket, options, _folder: folder })
    }

    pub fn start_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::spawn);
        self.nodes.iter_mut().for_each(Node::await_serving);
    }

    pub fn kill_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::kill);
    }

    /// The ports for clients.
    pub fn ports(&self) -> Arc<[u16]> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// A client of a database, of whichever node serves it.
    pub fn client(&self, database: &str) -> Client {
        Client::new(self.ports(), &token(database))
    }

    /// Ends all nodes in order, and checks the store.
    pub fn end(mut self) {
        self.nodes.iter().for_each(Node::terminate);
        for node in &mut self.nodes {
            let status = node.wait();
            // One that was taken over may not have noticed before.
            let ends = status.success() || status.code() == Some(TAKEN);
            assert!(ends, "{} ended with {status}\n{}", node.name, node.log_tail());
            assert!(!node.log().contains("panicked"), "{}", node.log());
        }
        let remote = self.bucket.remote();
        let environment = remote.environment.iter().filter(|(name, _)| !name.starts_with("DORMOUSE_"));
        let mut check = tool(&["check", "--store", &remote.url]);
        let output = check.envs(environment.map(|(name, value)| (name, value))).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{}: {said}", output.status);
    }

    /// The position of the node that serves a database.
    pub fn owner(&self, database: &str) -> usize {
        let port = self.client(database).serving_port();
        self.nodes.iter().position(|node| node.port == port).expect("a port of the fleet")
    }

    /// The node that serves most databases, and these.
    pub fn busiest(&self) -> (usize, Vec<String>) {
        let owners: Vec<usize> = self.options.databases.iter().map(|database| self.owner(database)).collect();
        let of = |node: usize| owners.iter().filter(|owner| **owner == node).count();
        let busiest = (0..self.nodes.len()).max_by_key(|node| of(*node)).expect("a fleet has nodes");
        let its = self.options.databases.iter().zip(&owners).filter(|(_, owner)| **owner == busiest);
        (busiest, its.map(|(database, _)| database.clone()).collect())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // All at once, so that none takes over another.
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                _ = process.kill();
            }
        }
        if std::thread::panicking() {
            self.nodes.iter().for_each(|node| eprintln!("--- log of {} ---\n{}", node.name, node.log_tail()));
        }
    }
}

/// A place for a process: its ports and wires stay, even when processes come and go.
pub struct Node {
    pub name: String,
    pub port: u16,
    /// Its wire to etcd.
    pub etcd: Proxy,
    /// Its wire to the bucket.
    pub store: Proxy,
    http_port: u16,
    remote: Remote,
    options: Options,
    log: PathBuf,
    /// The length of the log when the process was started.
    log_before: usize,
    process: Option<Child>,
}

impl Node {
    fn new(name: String, etcd: u16, remote: &Remote, log: PathBuf, options: &Options) -> Self {
        let mut remote = remote.clone();
        let endpoint = remote.environment.iter_mut().find(|(name, _)| *name == "AWS_ENDPOINT_URL").unwrap();
        let port = endpoint.1.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap();
        let store = Proxy::start(port);
        endpoint.1 = format!("http://127.0.0.1:{}", store.port());
        let (port, http_port) = (free_port(), free_port());
        Self {
            name,
            port,
            etcd: Proxy::start(etcd),
            store,
            http_port,
            remote,
            options: options.clone(),
            log,
            log_before: 0,
            process: None,
        }
    }

    /// Starts a process, and does not wait for it.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.name);
        self.log_before = self.log().len();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = tool(&["serve", "--bind", "127.0.0.1", "--sleep-after", "never", "--workers", "2"]);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.envs(self.remote.environment.iter().map(|(name, value)| (name, value)));
        command.args(["--port", &self.port.to_string(), "--http-port", &self.http_port.to_string()]);
        command.args(["--store", &self.remote.url, "--loss-window", self.options.loss_window]);
        command.args(["--cluster", &format!("etcd://127.0.0.1:{}/fleet", self.etcd.port())]);
        command.args(["--node-name", &self.name, "--lease", &self.options.lease]);
        command.args(["--admin-token", ADMIN_TOKEN]);
        for database in self.options.databases.iter().chain(&self.options.others) {
            command.args(["--token", &token(database)]);
        }
        let errors = log.try_clone().unwrap();
        self.process = Some(command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().unwrap());
    }

    pub fn await_serving(&mut self) {
        let port = self.port;
        let process = self.process.as_mut().expect("it was started");
        let serves = wait_for(LIMIT, || match process.try_wait().unwrap() {
            Some(status) => Some(Err(status)),
            None => ping(port).then_some(Ok(())),
        });
        assert!(matches!(serves, Some(Ok(()))), "{} does not serve: {serves:?}\n{}", self.name, self.log_tail());
    }

    pub fn start(&mut self) {
        self.spawn();
        self.await_serving();
    }

    /// Ends the process without a warning.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// The same, without waiting for its end.
    pub fn send_kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Asks the process to end in order.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        // The process may have ended already. The signal then has no receiver.
        _ = kill_process(Pid::from_child(process), signal);
    }

    /// The exit status of a process that has ended. It can be started again then.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut().expect("it was started").try_wait().unwrap()?;
        self.process = None;
        Some(status)
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("{name} ends"), || self.ended())
    }

    /// Asks this node's admin API to move a database to the node of that name, whichever node serves it. Returns the
    /// answer: its status line and its body.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn move_database(&self, database: &str, to: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.http_port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let body = format!("{{\"node\":\"{to}\"}}");
        write!(
            stream,
            "POST /v1/databases/{database}/move HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    pub fn has_process(&self) -> bool {
        self.process.is_some()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_some() && self.ended().is_none()
    }

    /// Whether the newest process has come to serve.
    pub fn has_served(&self) -> bool {
        self.log()[self.log_before..].contains("listens on")
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            _ = process.kill();
            _ = process.wait();
        }
    }
}

/// Whether a server answers, even if it first asks for a token.
fn ping(port: u16) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"PING\r\n")?;
        let mut reply = [0; 5];
        stream.read_exact(&mut reply).map(|()| reply)
    };
    ask().is_ok_and(|reply| [b"+PONG", b"-NOAU"].contains(&&reply))
}
