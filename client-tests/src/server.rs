//! One server process: started, restarted, and never left behind.

use std::{
    fs,
    fs::File,
    io,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{certificates::Certificates, ports::free_port, toolchain, wait_for};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Dormouse,
    /// Debian's redis-server, 7.0.
    Redis,
    /// Valkey 9.1.2, with its own RDB format.
    Valkey,
    /// Redis 8.10.2. Its RDB format is newer than the one common to Valkey and Redis.
    Redis8,
}

impl Kind {
    /// Returns the server under test: Dormouse, unless `DORMOUSE_TEST_SERVER=redis`.
    pub fn under_test() -> Self {
        match std::env::var("DORMOUSE_TEST_SERVER").as_deref() {
            Ok("redis") => Self::Redis,
            Ok("dormouse") | Err(_) => Self::Dormouse,
            Ok(other) => panic!("DORMOUSE_TEST_SERVER is `{other}`, not `dormouse` or `redis`"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Dormouse => "dormouse",
            Self::Redis => "redis",
            Self::Valkey => "valkey",
            Self::Redis8 => "redis8",
        }
    }

    /// Whether a test can start a server of this kind. A missing one skips `test` loudly, and fails it under `CI=true`.
    pub fn is_present(self, test: &str) -> bool {
        match self {
            Self::Dormouse => true,
            Self::Redis => toolchain::present(test, &[("redis-server", "redis-server")]),
            Self::Valkey | Self::Redis8 => {
                let program = self.program();
                let exists = program.exists();
                if !exists {
                    let why =
                        format!("{} is missing; `cargo xtask clients {}` fetches it", program.display(), self.name());
                    toolchain::skip(test, &why);
                }
                exists
            }
        }
    }

    /// Returns the program of this kind. `cargo xtask` fetches today's peers into `target/tools`, unless the
    /// environment names others.
    pub fn program(self) -> PathBuf {
        let fetched = |variable: &str, name: &str| match std::env::var_os(variable) {
            Some(program) => PathBuf::from(program),
            None => toolchain::target().join("tools").join(name),
        };
        match self {
            Self::Dormouse => dormouse().to_path_buf(),
            Self::Redis => PathBuf::from("redis-server"),
            Self::Valkey => fetched("DORMOUSE_VALKEY_SERVER", "valkey-server"),
            Self::Redis8 => fetched("DORMOUSE_REDIS8_SERVER", "redis-8-test-server"),
        }
    }
}

/// Settings that a test may change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    pub max_clients: Option<u32>,
    /// Worker threads of Dormouse.
    pub workers: Option<u32>,
    /// Dormouse's port for HTTP; none by default.
    pub http_port: Option<u16>,
    /// The tokens. Without one, every client is served. Redis takes the first for its password.
    pub tokens: &'static [&'static str],
    /// Whether Dormouse shows a cluster.
    pub is_cluster: bool,
    /// When an idle database falls asleep; never by default.
    pub sleep_after: Option<&'static str>,
    /// Dormouse's loss window; a second by default.
    pub loss_window: Option<&'static str>,
    /// Whether Dormouse takes `DEBUG` from clients of this machine.
    pub takes_debug: bool,
    /// The value of `--tls-auth-clients`, for a server with a second port for TLS.
    pub tls: Option<&'static str>,
    /// Whether Redis writes files and copies of its data without a checksum.
    pub is_unchecked: bool,
    /// Further options of Dormouse.
    pub options: &'static [&'static str],
}

/// A store behind a network: its URL, and the environment with its settings.
#[derive(Clone, Debug)]
pub struct Remote {
    pub url: String,
    pub environment: Vec<(&'static str, String)>,
}

pub struct Server {
    kind: Kind,
    port: u16,
    settings: Settings,
    tls: Option<(u16, Certificates)>,
    remote: Option<Remote>,
    folder: TempDir,
    process: Option<Child>,
}

impl Server {
    /// Starts the server under test with its defaults.
    pub fn start() -> Self {
        Self::start_with(Kind::under_test(), Settings::default())
    }

    /// Starts Dormouse with its data on a remote store.
    pub fn start_on(remote: &Remote) -> Self {
        Self::start_on_with(remote, Settings::default())
    }

    pub fn start_on_with(remote: &Remote, settings: Settings) -> Self {
        Self::start_somewhere(Kind::Dormouse, settings, Some(remote.clone()))
    }

    pub fn start_with(kind: Kind, settings: Settings) -> Self {
        Self::start_somewhere(kind, settings, None)
    }

    /// Starts a server on a free port. Another process can take the port before the server binds it, hence the retries.
    fn start_somewhere(kind: Kind, settings: Settings, remote: Option<Remote>) -> Self {
        let mut complaint = String::new();
        for _ in 0..3 {
            let folder = tempfile::Builder::new().prefix("dormouse-test-").tempdir().expect("a temporary folder");
            let remote = remote.clone();
            let tls = settings.tls.map(|_| (free_port(), Certificates::default()));
            let mut server = Self { kind, port: free_port(), settings, tls, remote, folder, process: None };
            match server.launch() {
                Ok(()) => return server,
                Err(problem) => complaint = problem,
            }
        }
        panic!("{complaint}");
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn http_port(&self) -> Option<u16> {
        self.settings.http_port
    }

    /// Returns the port for TLS, of a server that has one.
    pub fn tls_port(&self) -> u16 {
        self.tls.as_ref().expect("the settings ask for TLS").0
    }

    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns the certificates of such a server and its clients.
    pub fn certificates(&self) -> &Certificates {
        &self.tls.as_ref().expect("the settings ask for TLS").1
    }

    /// Returns the resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let pid = self.process.as_ref().expect("the server was started").id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux tells about our child");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a running process has memory");
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB")
    }

    /// Returns the folder that holds the server's data.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Ends the server as an operator does (SIGTERM) and starts it again on the same port and data.
    pub fn restart(&mut self) {
        let status = self.stop();
        assert!(status.success(), "the server ended with {status} after SIGTERM\n{}", self.log_tail());
        self.resume();
    }

    /// Starts a stopped server again on the same port and data.
    pub fn resume(&mut self) {
        if let Err(complaint) = self.launch() {
            panic!("{complaint}");
        }
    }

    /// Ends the server without a warning (SIGKILL).
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the server was started");
        process.kill().expect("the server is our child");
        process.wait().expect("the server is our child");
    }

    /// Ends the server without a warning (SIGKILL) and starts it again on the same port and data.
    pub fn crash(&mut self) {
        self.kill();
        if let Err(complaint) = self.launch() {
            panic!("{complaint}");
        }
    }

    /// Returns the server's standard output and error so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Asks the server to end and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        terminate(self.process.as_ref().expect("the server was started"));
        self.wait()
    }

    /// Waits until the server has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the server was started");
        match wait_for(STOP_LIMIT, || process.try_wait().expect("the server is our child")) {
            Some(status) => status,
            None => {
                _ = process.kill();
                _ = process.wait();
                panic!("the server still ran after {STOP_LIMIT:?}\n{}", self.log_tail());
            }
        }
    }

    fn launch(&mut self) -> Result<(), String> {
        fs::create_dir_all(self.data()).map_err(|e| format!("cannot create {}: {e}", self.data().display()))?;
        let log = File::options().create(true).append(true).open(self.log_path()).map_err(|e| e.to_string())?;
        let mut command = match &self.remote {
            Some(remote) => command_on(remote, self.port, self.settings),
            None => command(self.kind, self.port, &self.data(), self.settings),
        };
        if let (Some((port, certificates)), Some(clients)) = (&self.tls, self.settings.tls) {
            // The options have the same names everywhere.
            command.args(["--tls-port", &port.to_string(), "--tls-auth-clients", clients]);
            command.arg("--tls-cert-file").arg(certificates.path("server.crt"));
            command.arg("--tls-key-file").arg(certificates.path("server.key"));
            command.arg("--tls-ca-cert-file").arg(certificates.path("ca.crt"));
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("cannot start {}: {e}", self.kind.name()))?;
        let process = self.process.insert(process);
        let port = self.port;
        let answer = wait_for(START_LIMIT, || match process.try_wait() {
            Ok(Some(status)) => Some(Err(format!("ended with {status} instead of serving"))),
            _ => ping(port).ok().map(Ok),
        });
        match answer {
            Some(Ok(())) => Ok(()),
            Some(Err(problem)) => Err(format!("{} {problem}\n{}", self.kind.name(), self.log_tail())),
            None => Err(format!("{} answers no PING after {START_LIMIT:?}\n{}", self.kind.name(), self.log_tail())),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned();
        format!("--- the end of the server's log ---\n{tail}--- end ---")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            _ = process.kill();
            _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// Returns the command line of a server, also for tests that expect it to fail.
pub fn command(kind: Kind, port: u16, data: &Path, settings: Settings) -> Command {
    match kind {
        Kind::Dormouse => dormouse_command(&format!("file://{}", data.display()), port, settings),
        Kind::Redis | Kind::Valkey | Kind::Redis8 => {
            let mut command = Command::new(kind.program());
            let port = port.to_string();
            command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "3600 1"]).arg("--dir").arg(data);
            if let Some(count) = settings.max_clients {
                command.args(["--maxclients", &count.to_string()]);
            }
            if let Some(password) = settings.tokens.first() {
                command.args(["--requirepass", password]);
            }
            if settings.is_unchecked {
                command.args(["--rdbchecksum", "no"]);
            }
            command
        }
    }
}

/// Returns the command line and environment of Dormouse with its data behind a network.
pub fn command_on(remote: &Remote, port: u16, settings: Settings) -> Command {
    let mut command = dormouse_command(&remote.url, port, settings);
    // The server must not inherit the store settings of the tests' environment.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.envs(remote.environment.iter().map(|(name, value)| (name, value)));
    command
}

fn dormouse_command(store: &str, port: u16, settings: Settings) -> Command {
    let mut command = tool(&[]);
    let port = port.to_string();
    let http_port = settings.http_port.unwrap_or(0).to_string();
    command.args(["--bind", "127.0.0.1", "--port", &port, "--http-port", &http_port]);
    command.args(["--sleep-after", settings.sleep_after.unwrap_or("never")]);
    command.args(["--store", store]);
    if let Some(window) = settings.loss_window {
        command.args(["--loss-window", window]);
    }
    if let Some(count) = settings.max_clients {
        command.args(["--max-clients", &count.to_string()]);
    }
    if let Some(count) = settings.workers {
        command.args(["--workers", &count.to_string()]);
    }
    for token in settings.tokens {
        command.args(["--token", token]);
    }
    if settings.is_cluster {
        command.args(["--cluster-mode", "emulated"]);
    }
    if settings.takes_debug {
        command.args(["--enable-debug-command", "local"]);
    }
    command.args(settings.options);
    command
}

/// Returns the program under test as a tool: `dormouse export ...`.
pub fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(dormouse());
    command.args(arguments).stdin(Stdio::null());
    // The variables of the tests are not options of the tool.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DORMOUSE_")) {
        command.env_remove(name);
    }
    command
}

/// Returns the program under test. Cargo is asked each time, so that a stale build is never tested.
pub fn dormouse() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("DORMOUSE_BIN") {
            return fs::canonicalize(&path).unwrap_or_else(|e| panic!("DORMOUSE_BIN {}: {e}", path.display()));
        }
        let (profile, folder) = if cfg!(debug_assertions) { ("dev", "debug") } else { ("release", "release") };
        let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--package", "dormouse", "--profile", profile])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the server does not build");
        toolchain::target().join(folder).join("dormouse")
    })
}

pub fn terminate(process: &Child) {
    let pid = Pid::from_child(process);
    // The process may have ended already. The signal then has no receiver.
    _ = kill_process(pid, Signal::TERM);
}

fn ping(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"PING\r\n")?;
    let mut reply = [0; 5];
    stream.read_exact(&mut reply)?;
    // A server that first asks for a token counts as serving.
    if [b"+PONG", b"-NOAU"].contains(&&reply) { Ok(()) } else { Err(io::Error::other("no PONG")) }
}
