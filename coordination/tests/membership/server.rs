//! A real etcd, of one member or several. The variable `DORMOUSE_ETCD` names the program of another version than Debian's.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dormouse_client_tests::ports::free_port;
use dormouse_client_tests::{toolchain, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// One member, which is killed when dropped. It keeps its ports over restarts.
pub struct Server {
    port: u16,
    /// The arguments that tell its place in the cluster.
    place: Vec<String>,
    folder: TempDir,
    process: Child,
}

impl Server {
    /// Returns nothing on a machine without etcd, unless that fails the test.
    pub fn start() -> Option<Self> {
        Self::cluster(1).map(|mut servers| servers.remove(0))
    }

    /// Starts a cluster of several members.
    pub fn cluster(size: usize) -> Option<Vec<Self>> {
        if !toolchain::present("coordination", &[(&program(), "etcd-server")]) {
            return None;
        }
        let ports: Vec<(u16, u16)> = (0..size).map(|_| (free_port(), free_port())).collect();
        let peer = |(port, peer): &(u16, u16)| format!("m{port}=http://127.0.0.1:{peer}");
        let cluster = ports.iter().map(peer).collect::<Vec<_>>().join(",");
        let start = |&(port, peer): &(u16, u16)| {
            let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
            let place: Vec<String> = [
                ("name", format!("m{port}")),
                ("listen-client-urls", client.clone()),
                ("advertise-client-urls", client),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer),
                ("initial-cluster", cluster.clone()),
            ]
            .into_iter()
            .map(|(name, value)| format!("--{name}={value}"))
            .collect();
            let folder = tempfile::tempdir().unwrap();
            let process = spawn(&folder, &place);
            Self { port, place, folder, process }
        };
        let mut servers: Vec<Self> = ports.iter().map(start).collect();
        servers.iter_mut().for_each(Self::wait);
        Some(servers)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        url(self.port)
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts a killed server again on its data.
    pub fn restart(&mut self) {
        self.restart_alone();
        self.wait();
    }

    /// Does not wait until it serves, which takes a majority.
    pub fn restart_alone(&mut self) {
        self.process = spawn(&self.folder, &self.place);
    }

    fn wait(&mut self) {
        let serves = || TcpStream::connect(("127.0.0.1", self.port)).is_ok().then_some(());
        assert!(wait_for(LIMIT, serves).is_some(), "etcd does not serve");
    }

    /// Starts a killed server again with empty disks.
    pub fn restart_empty(&mut self) {
        self.folder = tempfile::tempdir().unwrap();
        self.restart();
    }

    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Sends a request past the crate under test. Returns the answer, a success.
    pub async fn ask(&self, path: &str, body: Value) -> Value {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("http://127.0.0.1:{}/v3/{path}", self.port)).body(body.to_string());
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The newest revision.
    pub async fn revision(&self) -> i64 {
        let answer = self.ask("kv/range", json!({ "key": STANDARD.encode("x") })).await;
        answer["header"]["revision"].as_str().unwrap().parse().unwrap()
    }

    /// The value of a key of the fleet, and the id of its lease.
    pub async fn value(&self, key: &str) -> Option<(String, String)> {
        let answer = self.ask("kv/range", json!({ "key": full(key) })).await;
        let kv = answer["kvs"].get(0)?;
        let value = STANDARD.decode(kv["value"].as_str().unwrap_or_default()).unwrap();
        Some((String::from_utf8(value).unwrap(), kv["lease"].as_str().unwrap_or_default().to_owned()))
    }

    pub async fn put(&self, key: &str, value: &str) {
        self.ask("kv/put", json!({ "key": full(key), "value": STANDARD.encode(value) })).await;
    }

    pub async fn delete(&self, key: &str) {
        self.ask("kv/deleterange", json!({ "key": full(key) })).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

pub fn url(port: u16) -> String {
    format!("etcd://127.0.0.1:{port}/dormouse")
}

fn full(key: &str) -> String {
    STANDARD.encode(format!("dormouse/{key}"))
}

/// Debian's etcd, or another version.
fn program() -> String {
    std::env::var("DORMOUSE_ETCD").unwrap_or_else(|_| "etcd".to_owned())
}

fn spawn(folder: &TempDir, place: &[String]) -> Child {
    let mut command = Command::new(program());
    command.arg("--data-dir").arg(folder.path().join("data")).args(place).args(["--log-level", "error"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
