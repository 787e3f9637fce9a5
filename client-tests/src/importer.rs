//! `dormouse import` as a child process that no failed assertion leaves behind.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{server, wait_for};

pub struct Importer {
    process: Child,
    folder: TempDir,
}

impl Importer {
    pub fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str| File::create(folder.path().join(name)).expect("a temporary file");
        let process = server::tool(&[&["import"], arguments].concat())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .expect("the program starts");
        Self { process, folder }
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("the importer is our child").is_none()
    }

    /// Returns its standard error so far.
    pub fn log(&self) -> String {
        self.read("err")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("a child can be sent signals");
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        self.process.kill().expect("a child can be killed");
        self.process.wait().expect("the importer is our child");
    }

    /// Waits for its end. Returns its status, standard error and output.
    pub fn wait(&mut self, limit: Duration) -> (ExitStatus, String, String) {
        let status = wait_for(limit, || self.process.try_wait().expect("the importer is our child"));
        let status = status.unwrap_or_else(|| panic!("the importer still runs after {limit:?}\n{}", self.log()));
        (status, self.log(), self.read("out"))
    }

    fn read(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        // It may have ended already.
        _ = self.process.kill();
        _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- the importer's log ---\n{}--- end ---", self.log());
        }
    }
}
