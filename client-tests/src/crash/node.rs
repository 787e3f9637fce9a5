//! The process that is killed. Its options change from start to start; its store stays.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{
    disk::SmallDisk,
    mode::Mode,
    workload::{DATABASES, INDEXES},
};
use crate::{
    ports::free_port,
    resp::{Connection, Reply},
    script::Random,
    server::{Kind, dormouse, terminate},
    wait_for,
};

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// A time longer than the longest pause between two attempts to write.
const HEAL_LIMIT: Duration = Duration::from_secs(90);
const TOKENS: [&str; DATABASES] = ["dm_alpha_1", "dm_beta_2", "dm_gamma_3"];

/// The address for clients.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub kind: Kind,
    pub port: u16,
}

impl Target {
    /// Connects to a database, in its first index. Redis has no databases but indexes.
    pub fn connect(&self, database: usize) -> io::Result<Connection> {
        let mut connection = Connection::try_open(self.port)?;
        let greeting = match self.kind {
            Kind::Dormouse => ["AUTH".to_string(), TOKENS[database].to_string()],
            Kind::Redis | Kind::Valkey | Kind::Redis8 => ["SELECT".to_string(), self.first_index(database).to_string()],
        };
        match connection.try_call(&greeting)? {
            Reply::Line('+', _) => Ok(connection),
            other => Err(io::Error::other(format!("{} was answered {other:?}", greeting[0]))),
        }
    }

    /// Returns the server's number of the first index of a database.
    pub fn first_index(&self, database: usize) -> usize {
        if self.kind == Kind::Dormouse { 0 } else { INDEXES * database }
    }
}

pub struct Node {
    kind: Kind,
    mode: Mode,
    folder: PathBuf,
    process: Option<(Child, u16)>,
    /// The small disk of the store, if it has one.
    disk: Option<SmallDisk>,
    /// Whether the store is encrypted.
    is_encrypted: bool,
    /// Times from each start to the first answered command.
    pub starts: Vec<Duration>,
}

impl Node {
    pub fn new(kind: Kind, mode: Mode, folder: &Path) -> Self {
        Self {
            kind,
            mode,
            folder: folder.to_path_buf(),
            process: None,
            disk: None,
            is_encrypted: false,
            starts: Vec::new(),
        }
    }

    /// Puts the store on a file system of its own.
    ///
    /// # Errors
    /// When the system refuses that.
    pub fn use_small_disk(&mut self, mib: u32) -> Result<(), String> {
        self.disk = Some(SmallDisk::mount(&self.folder.join("data"), mib)?);
        Ok(())
    }

    /// Encrypts the store, which must not have been used yet.
    ///
    /// # Errors
    /// When the file of the key cannot be written.
    pub fn encrypt(&mut self) -> Result<(), String> {
        self.is_encrypted = true;
        fs::write(self.key(), "5e".repeat(32)).map_err(|error| error.to_string())
    }

    /// The file of the master key.
    fn key(&self) -> PathBuf {
        self.folder.join("master-key")
    }

    /// Fills the disk, but for a few bytes.
    pub fn fill_disk(&self, random: &mut Random) -> Result<(), String> {
        let bytes = random.below(30_000) as u64;
        match &self.disk {
            Some(disk) => disk.fill(bytes),
            None => self.limit_files(Some(bytes)),
        }
    }

    /// Makes room again.
    pub fn relieve_disk(&self) -> Result<(), String> {
        match &self.disk {
            Some(disk) => {
                disk.relieve();
                Ok(())
            }
            None => self.limit_files(None),
        }
    }

    /// Makes room on a small disk that a round has left full. Returns whether one was full.
    pub fn empty_disk(&self) -> bool {
        self.disk.as_ref().is_some_and(SmallDisk::relieve)
    }

    /// Waits until a server whose disk was full accepts writes again.
    pub fn wait_until_accepting(&self, target: &Target) -> Result<(), String> {
        for database in 0..DATABASES {
            let mut connection = target.connect(database).map_err(|e| e.to_string())?;
            let mut last = String::new();
            let accepted = wait_for(HEAL_LIMIT, || match connection.try_call(&["DEL", "nosuch"]) {
                Ok(Reply::Line('-', text)) => {
                    last = text;
                    None
                }
                Ok(_) => Some(()),
                Err(problem) => {
                    last = problem.to_string();
                    None
                }
            });
            accepted.ok_or_else(|| format!("writes are still refused {HEAL_LIMIT:?} after there was room: {last}"))?;
        }
        Ok(())
    }

    /// Starts the process and waits until it has answered a command of its first database.
    pub fn start(&mut self, random: &mut Random) -> Result<Target, String> {
        let begun = self.launch(random)?;
        let (process, port) = self.process.as_mut().expect("it was just launched");
        let target = Target { kind: self.kind, port: *port };
        let deadline = begun + START_LIMIT;
        let mut problem = io::Error::other("no answer");
        while Instant::now() < deadline {
            if let Ok(Some(status)) = process.try_wait() {
                return Err(format!("the server ended with {status} instead of serving"));
            }
            match target.connect(0).and_then(|mut connection| connection.try_call(&["GET", "c0:text:0"])) {
                Ok(Reply::Line('-', text)) if !text.starts_with("LOADING") => {
                    return Err(format!("the server came up, but answers {text}"));
                }
                Ok(Reply::Line('-', text)) => problem = io::Error::other(text),
                Ok(_) => {
                    self.starts.push(begun.elapsed());
                    return Ok(target);
                }
                Err(error) => problem = error,
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Err(format!("the server did not serve within {START_LIMIT:?}: {problem}"))
    }

    /// Starts the process and kills it `after` this time, whether or not it serves by then.
    pub fn start_and_kill(&mut self, random: &mut Random, after: Duration) -> Result<(), String> {
        self.launch(random)?;
        std::thread::park_timeout(after);
        self.kill()
    }

    /// Kills the process (SIGKILL). It is a fault if the process had already ended.
    pub fn kill(&mut self) -> Result<(), String> {
        let (mut process, _) = self.process.take().expect("it was started");
        let ended = process.try_wait();
        _ = process.kill();
        _ = process.wait();
        match ended {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("the server ended with {status} before it was killed")),
            Err(problem) => Err(format!("the server cannot be killed: {problem}")),
        }
    }

    /// Makes writes fail beyond this many bytes of a file, as on a full disk; `None` lifts the limit.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<(), String> {
        let (process, _) = self.process.as_ref().expect("it was started");
        // The upper limit stays as it is: any user may ask for up to that.
        let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
        let limit = Rlimit { current: bytes.or(maximum), maximum };
        let limited = prlimit(Some(Pid::from_child(process)), Resource::Fsize, limit);
        limited.map(drop).map_err(|problem| format!("cannot limit the size of files: {problem}"))
    }

    /// Ends the process (SIGTERM), which loses nothing.
    pub fn stop(&mut self) -> Result<(), String> {
        let (mut process, _) = self.process.take().expect("it was started");
        terminate(&process);
        let status = wait_for(STOP_LIMIT, || process.try_wait().ok().flatten());
        _ = process.kill();
        _ = process.wait();
        match status {
            Some(status) if ExitStatus::success(&status) => Ok(()),
            Some(status) => Err(format!("the server ended with {status} after SIGTERM")),
            None => Err(format!("the server still ran {STOP_LIMIT:?} after SIGTERM")),
        }
    }

    pub fn log_tail(&self) -> String {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(6000)..]).into_owned();
        format!("--- the end of the server's log ---\n{tail}--- end ---")
    }

    fn launch(&mut self, random: &mut Random) -> Result<Instant, String> {
        let data = self.folder.join("data");
        fs::create_dir_all(&data).map_err(|e| format!("cannot create {}: {e}", data.display()))?;
        let mut log =
            File::options().create(true).append(true).open(self.folder.join("log")).map_err(|e| e.to_string())?;
        let port = free_port();
        // The output goes through a pipe, since it must not fail when files are limited.
        let (mut said, says) = io::pipe().map_err(|e| e.to_string())?;
        let mut command = self.command(port, &data, random);
        command.stdin(Stdio::null()).stdout(says.try_clone().map_err(|e| e.to_string())?).stderr(says);
        // The variables of the tests are not options of the server.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DORMOUSE_")) {
            command.env_remove(name);
        }
        let begun = Instant::now();
        let process = command.spawn();
        self.process = Some((process.map_err(|e| format!("cannot start {}: {e}", self.kind.name()))?, port));
        // The thread ends with the process. Its log may miss output because of a full disk, which is not a failure.
        std::thread::spawn(move || _ = io::copy(&mut said, &mut log));
        Ok(begun)
    }

    /// Returns a command line with small, varying values, so that checkpoints, sleep, splits and merges also come by
    /// themselves.
    fn command(&self, port: u16, data: &Path, random: &mut Random) -> Command {
        let port = port.to_string();
        let mut option = |values: &[&str]| random.pick(values).to_string();
        let mut command;
        match self.kind {
            Kind::Dormouse => {
                // A write past a limit raises a signal. If that is ignored, the write returns an error.
                command = Command::new("sh");
                command.args(["-c", "trap '' XFSZ && exec \"$0\" \"$@\""]).arg(dormouse());
                command.args(["--bind", "127.0.0.1", "--port", &port, "--http-port", "0", "--log-level", "info"]);
                command.arg("--store").arg(format!("file://{}", data.display()));
                command.args(["--checkpoint-every", &option(&["never", "20ms", "100ms", "1s"])]);
                command.args(["--checkpoint-size", &option(&["64kb", "256mb"])]);
                command.args(["--sleep-after", &option(&["never", "never", "5ms", "50ms"])]);
                command.args(["--split-keys", &option(&["400", "4000000"]), "--split-size-window", "10ms"]);
                command.args(["--merge-window", &option(&["10ms", "1m"])]);
                command.args(["--workers", &option(&["1", "2", "4"])]);
                TOKENS.iter().for_each(|token| _ = command.args(["--token", token]));
                if self.is_encrypted {
                    command.args(["--master-key", &format!("file:{}", self.key().display())]);
                }
                match self.mode {
                    Mode::Window(_) | Mode::NoLog => _ = command.args(["--loss-window", &self.mode.to_string()]),
                    Mode::Checkpoint => {}
                }
            }
            Kind::Redis | Kind::Valkey | Kind::Redis8 => {
                command = Command::new(self.kind.program());
                command.args(["--bind", "127.0.0.1", "--port", &port, "--save", ""]).arg("--dir").arg(data);
                command.args(["--databases", &(DATABASES * INDEXES).to_string()]);
                match self.mode.window() {
                    Some(Duration::ZERO) => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
                    Some(_) => command.args(["--appendonly", "yes", "--appendfsync", "everysec"]),
                    None => command.args(["--appendonly", "no"]),
                };
            }
        }
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some((mut process, _)) = self.process.take() {
            _ = process.kill();
            _ = process.wait();
        }
    }
}

/// Milliseconds of the Unix clock.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
