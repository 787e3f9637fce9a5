//! A real etcd of one member.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dormouse_client_tests::ports::free_port;
use dormouse_client_tests::{toolchain, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// The server, which is killed when dropped. It keeps its port over restarts.
pub struct Server {
    port: u16,
    peer_port: u16,
    folder: TempDir,
    process: Child,
}

impl Server {
    /// Returns nothing on a machine without etcd, unless that fails the test.
    pub fn start() -> Option<Self> {
        if !toolchain::present("coordination", &[("etcd", "etcd-server")]) {
            return None;
        }
        let (port, peer_port) = (free_port(), free_port());
        let folder = tempfile::tempdir().unwrap();
        let process = spawn(&folder, port, peer_port);
        Some(Self { port, peer_port, folder, process })
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
        self.process = spawn(&self.folder, self.port, self.peer_port);
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

fn spawn(folder: &TempDir, port: u16, peer_port: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(folder.path().join("data"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"]);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    let serves = || TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(());
    let serves = wait_for(LIMIT, serves).is_some();
    if !serves {
        _ = process.kill();
        _ = process.wait();
        panic!("etcd did not start within {:?}", started.elapsed());
    }
    process
}
