//! Other servers for a store, started on loopback with an empty bucket.
//!
//! `cargo xtask clients` fetches moto into `target/tools`. `cargo xtask clients --long` fetches the others too, which
//! takes minutes to build or download. docs/stores.md describes each of them.

mod gcs;

use std::{
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{ports::free_port, server::Remote, toolchain, wait_for};

const START_LIMIT: Duration = Duration::from_secs(60);
const BUCKET: &str = "bucket";
/// Access key, for servers that ask for one.
const KEY: &str = "dormouse-test";
const SECRET: &str = "dormouse-test-secret";
/// Azurite's own account, which its documentation publishes.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulator {
    /// moto's server, in memory.
    Moto,
    /// gofakes3, in memory.
    Gofakes3,
    /// gofakes3 over a folder. It refuses to list an empty result.
    Gofakes3Folder,
    /// `rclone serve s3` over a folder.
    Rclone,
    /// Azure's own, over a folder.
    Azurite,
    /// fake-gcs-server over a folder, behind a translation for the requests that it lacks.
    FakeGcs,
    /// s3s-fs over a folder: many concurrent creates of one object win.
    S3sFs,
}

use Emulator::{Azurite, FakeGcs, Gofakes3, Gofakes3Folder, Moto, Rclone, S3sFs};

impl Emulator {
    /// Whether its tests run only on request: `cargo xtask test --long`.
    fn is_long(self) -> bool {
        self != Moto
    }

    fn program(self) -> PathBuf {
        let tools = toolchain::target().join("tools");
        match self {
            Moto => tools.join("moto/bin/moto_server"),
            Gofakes3 | Gofakes3Folder => tools.join("gofakes3"),
            Rclone => tools.join("rclone"),
            Azurite => tools.join("azurite/node_modules/node/bin/node"),
            FakeGcs => tools.join("fake-gcs-server"),
            S3sFs => tools.join("s3s-fs/bin/s3s-fs"),
        }
    }

    /// Returns its command line. `public`: the port that clients will use.
    fn command(self, port: u16, public: u16, folder: &TempDir) -> Command {
        let mut command = Command::new(self.program());
        let data = folder.path().join("data");
        fs::create_dir_all(data.join(BUCKET)).expect("a temporary folder");
        let address = format!("127.0.0.1:{port}");
        match self {
            Moto => command.args(["-H", "127.0.0.1", "-p", &port.to_string()]),
            Gofakes3 => command.args(["-backend", "mem", "-initialbucket", BUCKET, "-host", &address]),
            Gofakes3Folder => {
                let path = folder.path().join("buckets");
                command.args(["-backend", "fs", "-fs.create", "-initialbucket", BUCKET, "-host", &address]);
                command.arg("-fs.path").arg(path)
            }
            Rclone => {
                command.args(["serve", "s3", "--addr", &address, "--auth-key", &format!("{KEY},{SECRET}")]);
                command.arg("--config").arg(folder.path().join("rclone.conf")).arg(&data)
            }
            Azurite => {
                let module = self.program().with_file_name("../../azurite/dist/src/blob/main.js");
                command.arg(module).args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"]);
                command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--location"]).arg(&data)
            }
            FakeGcs => {
                command.args([
                    "-scheme",
                    "http",
                    "-host",
                    "127.0.0.1",
                    "-port",
                    &port.to_string(),
                    "-log-level",
                    "error",
                ]);
                command.args(["-public-host", &format!("127.0.0.1:{public}"), "-backend", "filesystem"]);
                command.arg("-filesystem-root").arg(&data)
            }
            S3sFs => {
                command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
                command.args(["--access-key", KEY, "--secret-key", SECRET]).arg(&data)
            }
        };
        command
    }
}

/// A running server; it ends with its value.
pub struct Emulated {
    emulator: Emulator,
    /// The port that clients use.
    port: u16,
    process: Child,
    _folder: TempDir,
    _translation: Option<gcs::Translation>,
}

impl Emulated {
    /// Starts the server. Returns nothing if it was not requested, or, saying so loudly, if it is missing.
    pub fn start(emulator: Emulator) -> Option<Self> {
        let name = format!("a store on {emulator:?}");
        if emulator.is_long() && env::var_os("DORMOUSE_LONG").is_none() {
            return None;
        }
        if !emulator.program().exists() {
            let long = if emulator.is_long() { " --long" } else { "" };
            let program = emulator.program();
            toolchain::skip(
                &name,
                &format!("{} is missing; `cargo xtask clients{long} stores` fetches it", program.display()),
            );
            return None;
        }
        for _ in 0..3 {
            let folder = tempfile::Builder::new().prefix("dormouse-store-").tempdir().expect("a temporary folder");
            let server = free_port();
            let before = (emulator == FakeGcs).then(gcs::Translation::bind);
            let port = before.as_ref().map_or(server, |(_, port)| *port);
            let mut process = emulator
                .command(server, port, &folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{emulator:?}: {error}"));
            let serves = wait_for(START_LIMIT, || match process.try_wait() {
                // Another process took the port.
                Ok(Some(_)) => Some(false),
                _ => TcpStream::connect((Ipv4Addr::LOCALHOST, server)).ok().map(|_| true),
            });
            let translation = before.map(|(listener, _)| gcs::Translation::before(server, listener));
            let started = Self { emulator, port, process, _folder: folder, _translation: translation };
            if serves == Some(true) {
                started.make_bucket();
                return Some(started);
            }
        }
        panic!("{emulator:?} does not serve");
    }

    /// Makes the bucket if the folder did not.
    fn make_bucket(&self) {
        match self.emulator {
            Moto => {
                let made = wait_for(START_LIMIT, || {
                    self.ask("PUT", &format!("/{BUCKET}")).ok().filter(|said| said.contains(" 200 "))
                });
                assert!(made.is_some(), "moto makes no bucket");
            }
            Azurite => {
                let script = include_str!("emulator/container.js");
                let mut node = Command::new(self.emulator.program());
                node.arg("-e").arg(script).env("PORT", self.port.to_string()).env("CONTAINER", BUCKET);
                let output = node.output().expect("node runs");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            Gofakes3 | Gofakes3Folder | Rclone | FakeGcs | S3sFs => {}
        }
    }

    fn ask(&self, method: &str, path: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n", self.port);
        write!(connection, "{head}Content-Length: 0\r\nConnection: close\r\n\r\n")?;
        let mut said = String::new();
        connection.read_to_string(&mut said)?;
        Ok(said)
    }

    /// Returns a store in its bucket.
    pub fn store(&self) -> Remote {
        let address = format!("http://127.0.0.1:{}", self.port);
        let mut environment = match self.emulator {
            Azurite => vec![("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()), ("AZURITE_BLOB_STORAGE_URL", address)],
            FakeGcs => vec![
                ("GOOGLE_BASE_URL", address),
                ("GOOGLE_ALLOW_HTTP", "true".to_owned()),
                ("GOOGLE_BEARER_TOKEN", "anything".to_owned()),
            ],
            _ => vec![
                ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
                ("AWS_ENDPOINT_URL", address),
                ("AWS_ALLOW_HTTP", "true".to_owned()),
            ],
        };
        environment.push(("NO_PROXY", "127.0.0.1".to_owned()));
        environment.push(("DORMOUSE_CHECKPOINT_EVERY", "never".to_owned()));
        let url = match self.emulator {
            Azurite => format!("az://{BUCKET}@{AZURITE_ACCOUNT}/some/folder"),
            FakeGcs => format!("gs://{BUCKET}/some/folder"),
            _ => format!("s3://{BUCKET}/some/folder"),
        };
        Remote { url, environment }
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
