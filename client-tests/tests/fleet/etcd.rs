//! A real etcd of one member.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};

use dormouse_client_tests::ports::free_port;
use dormouse_client_tests::toolchain;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually;

/// The server, which is killed when dropped. It keeps its ports and data over restarts.
pub struct Etcd {
    port: u16,
    peer_port: u16,
    folder: TempDir,
    process: Child,
}

impl Etcd {
    /// Returns nothing on a machine without etcd, unless that fails the test.
    pub fn start() -> Option<Self> {
        if !toolchain::present("a fleet", &[("etcd", "etcd-server")]) {
            return None;
        }
        let (port, peer_port) = (free_port(), free_port());
        let folder = tempfile::Builder::new().prefix("dormouse-etcd-").tempdir().unwrap();
        let process = spawn(&folder, port, peer_port);
        let etcd = Self { port, peer_port, folder, process };
        etcd.await_serving();
        Some(etcd)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts a killed server again on its data.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.folder, self.port, self.peer_port);
        self.await_serving();
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

    fn await_serving(&self) {
        eventually("etcd listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok());
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn spawn(folder: &TempDir, port: u16, peer_port: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(folder.path().join("data"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
