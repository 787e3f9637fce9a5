//! A measured server: started on core 0 in a folder of its own, ended when its value is dropped.
//!
//! `setpriv --pdeathsig` makes the kernel kill it if this process ends in any other way (Ctrl-C, a panic that aborts),
//! and `taskset` pins it; both then become the server by `exec`, so its process id is the child's.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dormouse_client_tests::certificates::Certificates;
use dormouse_client_tests::server::Remote;
use serde::Serialize;
use tempfile::TempDir;

use crate::Result;
use crate::client::Client;

pub(crate) const SERVER_CORE: usize = 0;
pub(crate) const LOAD_CORE: usize = 1;

/// Prefix of the servers' folders; the id of the bench process follows.
const FOLDER: &str = "dormouse-bench-";

/// Names RedisJSON's module, `librejson.so`, for the newest Redis. No package brings it: it is built from its sources,
/// version 8.10.0.
const JSON_MODULE: &str = "DORMOUSE_REDIS_JSON_MODULE";

/// Loading five million keys takes a peer several seconds, or many on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The distribution's Redis: every measure has it.
    Redis,
    Valkey,
    /// The newest Redis.
    Redis8,
    /// See `limit/main.rs`.
    Limit,
    Dormouse,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Redis => "redis",
            Kind::Valkey => "valkey",
            Kind::Redis8 => "redis8",
            Kind::Limit => "limit",
            Kind::Dormouse => "dormouse",
        }
    }
}

/// The writes that a crash may lose: the same promise in each server's terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loss {
    /// Each server's default: Dormouse may lose the last second, peers all since their last snapshot.
    Default,
    /// All since the last checkpoint: no log.
    All,
    /// The last second.
    Second,
    /// Nothing that was acknowledged.
    Nothing,
}

/// How a server is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub loss: Loss,
    /// Dormouse's `--checkpoint-every`; peers save on request.
    pub checkpoint_every: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self { loss: Loss::All, checkpoint_every: "never" }
    }
}

impl Setup {
    /// Each server's defaults, except that peers make no snapshots of their own.
    pub const DEFAULT: Self = Self { loss: Loss::Default, checkpoint_every: "1m" };
}

impl Loss {
    /// Peers' `appendfsync`, if they keep a log at all.
    pub fn appendfsync(self) -> Option<&'static str> {
        match self {
            Loss::Default | Loss::All => None,
            Loss::Second => Some("everysec"),
            Loss::Nothing => Some("always"),
        }
    }

    /// Dormouse's `--loss-window`.
    pub fn window(self) -> &'static str {
        match self {
            Loss::All => "none",
            Loss::Default | Loss::Second => "1s",
            Loss::Nothing => "0",
        }
    }
}

/// A store behind a network, and the loss window over it.
pub(crate) struct Bucket<'a> {
    pub store: &'a Remote,
    pub loss_window: &'a str,
}

/// An installed server.
pub(crate) struct Program {
    pub kind: Kind,
    pub path: PathBuf,
    pub version: String,
    /// The reason why it cannot be measured: its columns stay empty.
    pub absent: Option<String>,
}

impl Program {
    /// A server that the measures do not require.
    pub fn find_or_absent(kind: Kind, path: Option<&Path>, hint: &str) -> Self {
        let found = path.ok_or_else(|| hint.into()).and_then(|path| Self::find(kind, path));
        found.unwrap_or_else(|error| Self {
            kind,
            path: PathBuf::new(),
            version: "not measured".to_owned(),
            absent: Some(error.to_string()),
        })
    }

    pub fn find(kind: Kind, path: &Path) -> Result<Self> {
        let argument = if kind == Kind::Dormouse { "version" } else { "--version" };
        let output = Command::new(path).arg(argument).output();
        let output = output.map_err(|error| format!("cannot run {}: {error}", path.display()))?;
        let version = version_number(&String::from_utf8_lossy(&output.stdout));
        Ok(Self { kind, path: path.to_owned(), version, absent: None })
    }

    /// Starts it empty in a new folder, without a log, and waits until it answers.
    pub fn start(&self) -> Result<Server> {
        self.start_as(Setup::default())
    }

    /// As [`Self::start`], with this setup.
    pub fn start_as(&self, setup: Setup) -> Result<Server> {
        self.start_in(new_folder()?, setup)
    }

    /// Starts it on the data of an earlier one in `folder` and waits until it answers.
    pub fn start_in(&self, folder: TempDir, setup: Setup) -> Result<Server> {
        self.wait_for(self.spawn(folder, setup)?)
    }

    /// Starts Dormouse with its data elsewhere; its output goes into the folder.
    pub fn start_over(&self, folder: TempDir, bucket: &Bucket<'_>) -> Result<Server> {
        self.wait_for(self.spawn_over(folder, Setup::default(), Some(bucket), &[])?)
    }

    /// As [`Self::start_as`], on an encrypted store.
    pub fn start_encrypted(&self, setup: Setup) -> Result<Server> {
        let folder = new_folder()?;
        let key = folder.path().join("master-key");
        std::fs::write(&key, "5e".repeat(32))?;
        let options = ["--master-key".to_owned(), format!("file:{}", key.display())];
        self.wait_for(self.spawn_over(folder, setup, None, &options)?)
    }

    /// As [`Self::start_as`], with more options.
    pub fn start_with(&self, setup: Setup, options: &[&str]) -> Result<Server> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        self.wait_for(self.spawn_over(new_folder()?, setup, None, &options)?)
    }

    /// As [`Self::start_as`], with the commands of JSON; `None` if it lacks them. The newest Redis has them if
    /// `DORMOUSE_REDIS_JSON_MODULE` names RedisJSON's module.
    pub fn start_with_json(&self, setup: Setup) -> Result<Option<Server>> {
        let module = std::env::var_os(JSON_MODULE);
        match (self.kind, module) {
            (Kind::Dormouse, _) => self.start_as(setup).map(Some),
            (Kind::Redis8, Some(module)) => {
                // The server changes its folder before it loads the module.
                let path = fs::canonicalize(&module).map_err(|error| format!("{JSON_MODULE}: {error}"))?;
                self.start_with(setup, &["--loadmodule", &path.to_string_lossy()]).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Starts it with a second port, for TLS. Returns the address of that.
    pub fn start_over_tls(&self, certificates: &Certificates) -> Result<(Server, SocketAddr)> {
        let port = free_port()?;
        // The options have the same names everywhere.
        let mut options =
            vec!["--tls-port".to_owned(), port.to_string(), "--tls-auth-clients".to_owned(), "no".to_owned()];
        let files =
            [("--tls-cert-file", "server.crt"), ("--tls-key-file", "server.key"), ("--tls-ca-cert-file", "ca.crt")];
        options.extend(files.iter().flat_map(|(option, name)| [(*option).to_owned(), certificates.file(name)]));
        let server = self.wait_for(self.spawn_over(new_folder()?, Setup::default(), None, &options)?)?;
        Ok((server, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
    }

    fn wait_for(&self, mut server: Server) -> Result<Server> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if Client::connect(server.address).and_then(|mut client| client.call(&["PING"])).is_ok() {
                return Ok(server);
            }
            server.check_running()?;
            if Instant::now() > deadline {
                return Err(format!("{} does not answer after {START_TIMEOUT:?}", self.path.display()).into());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts it and returns at once, before it listens.
    pub fn spawn(&self, folder: TempDir, setup: Setup) -> Result<Server> {
        self.spawn_over(folder, setup, None, &[])
    }

    fn spawn_over(
        &self,
        folder: TempDir,
        setup: Setup,
        bucket: Option<&Bucket<'_>>,
        more: &[String],
    ) -> Result<Server> {
        let (port, http_port) = (free_port()?, free_port()?);
        let mut command = self.command();
        command.arg("--port").arg(port.to_string());
        match self.kind {
            Kind::Limit => {}
            Kind::Redis | Kind::Valkey | Kind::Redis8 => {
                command.args(["--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder.path());
                match setup.loss.appendfsync() {
                    None => command.args(["--appendonly", "no"]),
                    // Its log is rewritten on request, as Dormouse makes a checkpoint on request.
                    Some(when) => command
                        .args(["--appendonly", "yes", "--appendfsync", when])
                        .args(["--auto-aof-rewrite-percentage", "0"]),
                };
            }
            Kind::Dormouse => {
                let store = match bucket {
                    Some(bucket) => bucket.store.url.clone(),
                    None => format!("file://{}", folder.path().join("store").display()),
                };
                let window = bucket.map_or(setup.loss.window(), |bucket| bucket.loss_window);
                let variables = bucket.iter().flat_map(|bucket| &bucket.store.environment);
                command.envs(variables.map(|(name, value)| (name, value)));
                command.args(["--bind", "127.0.0.1", "--http-port", &http_port.to_string(), "--store", &store]);
                command.args(["--sleep-after", "never", "--workers", "1"]);
                command.args(["--checkpoint-every", setup.checkpoint_every, "--loss-window", window]);
            }
        }
        command.args(more);
        let log = File::create(folder.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| format!("cannot run setpriv (of util-linux): {error}"))?;
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let http = (self.kind == Kind::Dormouse).then(|| at(http_port));
        Ok(Server { kind: self.kind, address: at(port), http, child, folder: Some(folder) })
    }

    /// The program without arguments, on the servers' core, killed when this process ends.
    pub fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "taskset", "--cpu-list", &SERVER_CORE.to_string()]).arg(&self.path);
        // Variables that hold the paths of peers are not options.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DORMOUSE_")) {
            command.env_remove(name);
        }
        command
    }
}

/// A new folder of this run, for a server or a file.
pub(crate) fn new_folder() -> Result<TempDir> {
    let prefix = format!("{FOLDER}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
}

/// A running server; dropping it ends it and removes its folder.
pub(crate) struct Server {
    pub kind: Kind,
    pub address: SocketAddr,
    /// Dormouse's HTTP port.
    pub http: Option<SocketAddr>,
    child: Child,
    folder: Option<TempDir>,
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address)
    }

    /// Kills it as a crash would and returns its folder.
    pub fn kill(mut self) -> Result<TempDir> {
        self.end();
        self.folder.take().ok_or_else(|| "the server has no folder".into())
    }

    /// Fails with the end of its log if it has ended by itself.
    pub fn check_running(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = self.folder.as_ref().map(|folder| fs::read_to_string(folder.path().join("log")));
        let log = log.transpose()?.unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(10)..].join("\n");
        Err(format!("{} ended by itself ({status}):\n{tail}", self.kind.name()).into())
    }

    fn end(&mut self) {
        // It may have ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port that is free now. If another process takes it before the server does, the server ends with a clear message.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Removes leftovers of interrupted runs: folders of processes that have ended.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let owner = entry.file_name().to_str().and_then(folder_owner);
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // A folder that cannot be removed may belong to another user: it stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn folder_owner(name: &str) -> Option<u32> {
    name.strip_prefix(FOLDER)?.split_once('-')?.0.parse().ok()
}

/// The first version number in a program's description of itself: `Redis server v=7.0.15 sha=...`.
fn version_number(text: &str) -> String {
    let words = text.split(|separator: char| separator.is_whitespace() || separator == '=');
    let mut numbers = words.map(|word| word.trim_start_matches('v'));
    let number = numbers.find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'));
    number.unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version() {
        for (text, expected) in [
            ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "7.0.15"),
            ("Server v=255.255.255 sha=1", "255.255.255"),
            ("dormouse 0.1.0\n", "0.1.0"),
            ("dormouse", "unknown"),
        ] {
            assert_eq!(version_number(text), expected);
        }
    }

    #[test]
    fn knows_its_own_folders() {
        for (name, owner) in
            [("dormouse-bench-4242-xYz", Some(4242)), ("dormouse-bench-xYz", None), ("dormouse-4242-xYz", None)]
        {
            assert_eq!(folder_owner(name), owner);
        }
    }

    #[test]
    fn a_server_runs_where_it_is_pinned_and_ends() {
        let Ok(program) = Program::find(Kind::Redis, Path::new("redis-server")) else {
            assert!(std::env::var_os("CI").is_none(), "redis-server is not installed");
            eprintln!("SKIPPED: redis-server is not installed");
            return;
        };
        let server = program.start().unwrap();
        let pid = server.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert_eq!(crate::machine::after_colon(&status, "Name"), Some("redis-server"));
        assert_eq!(crate::machine::after_colon(&status, "Cpus_allowed_list"), Some("0"));
        assert_eq!(server.client().unwrap().call(&["ECHO", "hi"]).unwrap(), "hi");
        let folder = server.kill().unwrap();
        assert!(folder.path().exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
