//! The test suite of Redis or Valkey, in its external mode, against Dormouse.
//!
//! The suite is not part of this repository: it is given as the path of a checkout, which needs its `runtest`, `tests` and
//! `src/version.h`, and for the units that test them, its own command-line client and benchmark built in `src`.
//!
//! 1. The checkout's `tests` are copied, since the suite writes beside its own files.
//! 2. Each unit runs by itself, against a server of its own, so that no unit depends on what another has left.
//! 3. A test that makes no progress for a while has hung. The suite then gives up the unit, so the unit runs again
//!    without this test, which counts as failed.
//! 4. What the suite prints is read test by test ([`output`]). The suite skips what it cannot do with an external
//!    server: what restarts it, reads its files, or starts a second one.
//! 5. A failed test is either [`known`], with the reason why it fails, or a failure of this run. A known failure that
//!    passes is one, too, so that the list stays true.

pub mod known;
mod output;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::resp::Connection;
use crate::{Kind, Server, server, wait_for};

use self::known::Known;
use self::output::Outcomes;

/// The name of a failure outside of the unit's tests: in its preparations, for example.
const OUTSIDE: &str = "(outside of tests)";

/// Programs of the checkout that some units run.
const PROGRAMS: [&str; 4] = ["redis-cli", "redis-benchmark", "valkey-cli", "valkey-benchmark"];

/// Below those that the system gives to connections.
const PORT_FIRST: u16 = 10_000;
const PORTS_EACH: u16 = 40;
const UNITS_APART: u16 = 550;

/// Most tests of a unit that may hang before the unit is given up.
const HUNG_MAX: usize = 20;

#[derive(Clone, Debug)]
pub struct Settings {
    /// The checkout.
    pub suite: PathBuf,
    /// Units to run, or beginnings of their names; all if empty.
    pub units: Vec<String>,
    /// Time without progress after which a test has hung.
    pub patience: Duration,
    /// Time after which a unit is killed.
    pub limit: Duration,
    /// Number of units that run at the same time.
    pub jobs: usize,
    /// Prints what the suite says about each failed test.
    pub is_verbose: bool,
}

/// The results of the units in the suite's order.
#[derive(Debug, Default)]
pub struct Report {
    /// `Redis 7.2.6`
    pub version: String,
    pub units: Vec<(String, Unit)>,
}

/// The results of one unit.
#[derive(Debug, Default)]
pub struct Unit {
    pub passed: Vec<String>,
    /// By name, with what the suite said.
    pub failed: Vec<(String, String)>,
    /// Tests, and whole blocks of tests, that the suite skips.
    pub skipped: usize,
    pub seconds: u64,
}

impl Report {
    /// Failures that are not known, and known ones that passed.
    pub fn surprises(&self, known: &Known) -> Vec<String> {
        let mut surprises = Vec::new();
        for (name, unit) in &self.units {
            let unknown = unit.failed.iter().filter(|(test, _)| known.reason(name, test).is_none());
            surprises.extend(unknown.map(|(test, _)| format!("failed: {name}: {test}")));
            let has_failed = |test: &str| unit.failed.iter().any(|(failed, _)| failed == test);
            let mended = known.of_unit(name).filter(|test| !has_failed(test));
            surprises.extend(mended.map(|test| format!("known to fail, but passed or did not run: {name}: {test}")));
        }
        surprises
    }

    /// The lines of `results.txt`.
    pub fn lines(&self) -> String {
        let mut text = String::from(
            "# The results of the last complete run, written by `cargo xtask upstream --record`: each unit with the numbers of tests\n\
             # that passed, failed and were skipped, and the names of those that failed. `cargo xtask docs` reads this file.\n",
        );
        text += &format!("{}\n", self.version);
        for (name, unit) in &self.units {
            text += &format!("{name} {} {} {}\n", unit.passed.len(), unit.failed.len(), unit.skipped);
            let names: std::collections::BTreeSet<&str> = unit.failed.iter().map(|(test, _)| test.as_str()).collect();
            names.iter().for_each(|test| text += &format!("- {test}\n"));
        }
        text
    }
}

/// Runs the units. A problem with the suite itself, rather than with the server, is the error.
pub fn run(settings: &Settings, known: &Known) -> io::Result<Report> {
    let suite = Copied::of(&settings.suite)?;
    let units = suite.units()?;
    let is_wanted =
        |unit: &str| settings.units.is_empty() || settings.units.iter().any(|start| unit.starts_with(start.as_str()));
    let units: Vec<String> = units.into_iter().filter(|unit| is_wanted(unit)).collect();
    let waiting: Mutex<VecDeque<&String>> = Mutex::new(units.iter().collect());
    let done: Mutex<BTreeMap<&String, io::Result<Unit>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..settings.jobs {
            scope.spawn(|| {
                loop {
                    let Some(unit) = waiting.lock().expect("no job panics").pop_front() else { break };
                    let outcome = suite.run(unit, settings, known);
                    if let Ok(outcome) = &outcome {
                        tell(unit, outcome, settings.is_verbose);
                    }
                    done.lock().expect("no job panics").insert(unit, outcome);
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no job panics");
    let mut report = Report { version: version(&settings.suite)?, units: Vec::new() };
    for unit in &units {
        let outcome = done.remove(unit).expect("every unit was run")?;
        report.units.push((unit.clone(), outcome));
    }
    Ok(report)
}

fn tell(name: &str, unit: &Unit, is_verbose: bool) {
    let mut text = format!(
        "{name}: {} passed, {} failed, {} skipped, {} s\n",
        unit.passed.len(),
        unit.failed.len(),
        unit.skipped,
        unit.seconds
    );
    for (test, said) in &unit.failed {
        text += &format!("    failed: {test}\n");
        if is_verbose {
            said.lines().for_each(|line| text += &format!("        {line}\n"));
        }
    }
    // A closed terminal is no reason to stop.
    _ = io::stdout().write_all(text.as_bytes());
}

/// The name and version of the checkout's project.
fn version(suite: &Path) -> io::Result<String> {
    let text = fs::read_to_string(suite.join("src/version.h"))?;
    let defined = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")))?;
        Some(line.trim().trim_matches('"').to_string())
    };
    let named = [("VALKEY_VERSION", "Valkey"), ("REDIS_VERSION", "Redis")];
    let found = named.iter().find_map(|(name, project)| Some(format!("{project} {}", defined(name)?)));
    found.ok_or_else(|| io::Error::other("src/version.h names no version"))
}

/// A copy of the suite.
struct Copied {
    folder: TempDir,
}

/// Finds ports that nothing uses for the suite's own processes, which talk over one of the 32 below the one returned. Units
/// that run at the same time get others.
fn ports() -> io::Result<u16> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    for _ in 0..UNITS_APART {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        let base = PORT_FIRST + PORTS_EACH * ((std::process::id() as u16).wrapping_add(taken) % UNITS_APART);
        if (base - PORTS_EACH..=base).all(is_free) {
            return Ok(base);
        }
    }
    Err(io::Error::other("no ports are free for the suite"))
}

impl Copied {
    fn of(suite: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("dormouse-upstream-").tempdir()?;
        for part in ["runtest", "tests"] {
            let copied = Command::new("cp").arg("-r").arg(suite.join(part)).arg(folder.path()).status()?;
            if !copied.success() {
                return Err(io::Error::other(format!("{} is not a checkout with its tests", suite.display())));
            }
        }
        for program in PROGRAMS.map(|program| Path::new("src").join(program)) {
            if suite.join(&program).is_file() {
                fs::create_dir_all(folder.path().join("src"))?;
                fs::copy(suite.join(&program), folder.path().join(&program))?;
            }
        }
        fs::create_dir_all(folder.path().join("tests/tmp"))?;
        Ok(Self { folder })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("./runtest");
        command.current_dir(self.folder.path()).env("TERM", "dumb").stdin(Stdio::null());
        command
    }

    fn units(&self) -> io::Result<Vec<String>> {
        let output = self.command().arg("--list-tests").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let units: Vec<String> =
            text.lines().map(str::trim).filter(|line| line.contains('/')).map(str::to_string).collect();
        if units.is_empty() {
            return Err(io::Error::other(format!("the suite lists no units: {text}")));
        }
        Ok(units)
    }

    /// Runs a unit, again and again without the tests that have hung.
    fn run(&self, unit: &str, settings: &Settings, known: &Known) -> io::Result<Unit> {
        let started = Instant::now();
        let mut hung: Vec<String> = Vec::new();
        loop {
            let left_out = known.left_out(unit).map(|(test, _)| test.to_string());
            let without: Vec<String> = hung.iter().cloned().chain(left_out).collect();
            let mut outcomes = self.run_once(unit, &without, settings)?;
            match outcomes.hung.take().filter(|_| hung.len() < HUNG_MAX) {
                Some(test) if test != OUTSIDE && !hung.contains(&test) => hung.push(test),
                other => {
                    let said = format!("no progress for {:?}", settings.patience);
                    let left_out = known.left_out(unit).map(|(test, reason)| (test.to_string(), reason.to_string()));
                    let failed = hung.into_iter().chain(other).map(|test| (test, said.clone())).chain(left_out);
                    return Ok(Unit {
                        passed: outcomes.passed,
                        skipped: outcomes.skipped,
                        failed: failed.chain(outcomes.failed).collect(),
                        seconds: started.elapsed().as_secs(),
                    });
                }
            }
        }
    }

    fn run_once(&self, unit: &str, without: &[String], settings: &Settings) -> io::Result<Outcomes> {
        // The suite's own configuration has DEBUG, too, and keeps no log: its tests do not expect a write to be refused because
        // the disk is behind.
        let settings_of_server =
            server::Settings { takes_debug: true, loss_window: Some("1m"), ..server::Settings::default() };
        let server = Server::start_with(Kind::Dormouse, settings_of_server);
        let printed = self.folder.path().join(format!("{}.printed", unit.replace('/', "-")));
        let mut command = self.command();
        command.args(["--host", "127.0.0.1", "--port", &server.port().to_string(), "--single", unit, "--durable"]);
        command.args(["--baseport", &ports()?.to_string()]);
        command.args(["--dont-clean", "--dont-pre-clean", "--timeout", &settings.patience.as_secs().to_string()]);
        command.args(without.iter().flat_map(|test| ["--skiptest", test.as_str()]));
        let file = File::create(&printed)?;
        command.stdout(file.try_clone()?).stderr(file).process_group(0);
        let mut child = command.spawn()?;
        let status = wait_for(settings.limit, || child.try_wait().transpose());
        if status.is_none() {
            // The suite has a second process.
            _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            child.wait()?;
        }
        let text = String::from_utf8_lossy(&fs::read(&printed)?).into_owned();
        let mut outcomes = output::read(&text, unit);
        match status {
            None => outcomes.failed.push((OUTSIDE.into(), format!("the unit was not done after {:?}", settings.limit))),
            Some(_) if outcomes.hung.is_none() && !outcomes.is_done => {
                outcomes.failed.push((OUTSIDE.into(), format!("the unit ended early:\n{text}")));
            }
            Some(_) => {}
        }
        if Connection::try_open(server.port()).is_err() {
            outcomes.failed.push((OUTSIDE.into(), format!("the server has ended\n{}", server.log())));
        }
        Ok(outcomes)
    }
}
