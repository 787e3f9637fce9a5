//! A suite in another language: started, monitored, answered, and ended in time.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::{Kind, Server, Settings, ports::free_port, proxy::Proxy, server::tool, unrest::Unrest, wait_for};

/// A time far longer than any suite needs (about 3 s), even on a machine that is busy with a build.
const LIMIT: Duration = Duration::from_secs(180);

pub struct Suite {
    process: Child,
}

/// `dormouse sidecar` in front of a server, killed when it is dropped.
struct Sidecar {
    process: Child,
    port: u16,
}

impl Sidecar {
    fn before(server: u16) -> Self {
        let mut command = tool(&["sidecar", "--listen", "127.0.0.1:0", "--health-port", "0"]);
        command.env("DORMOUSE_UPSTREAM", format!("redis://127.0.0.1:{server}"));
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the program runs");
        let mut line = String::new();
        let output = process.stdout.take().expect("its output is a pipe");
        BufReader::new(output).read_line(&mut line).expect("it says where it listens");
        let port = line.split(['\n', ' ', ';', ':']).find_map(|word| word.parse().ok());
        Self { process, port: port.unwrap_or_else(|| panic!("no port in {line:?}")) }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Suite {
    /// Runs `command` against a fresh server and fails unless every step passed.
    pub fn run(command: &mut Command) {
        Self::run_on(&mut Server::start(), command);
    }

    /// Runs `command` against a fresh Dormouse whose database is put to sleep again and again.
    pub fn run_among_sleeps(command: &mut Command) {
        if Kind::under_test() != Kind::Dormouse {
            return;
        }
        let mut server = Server::start();
        let unrest = Unrest::of_sleep(server.port(), 1);
        Self::run_on(&mut server, command);
        drop(unrest);
    }

    /// Runs `command` against a fresh Dormouse whose database falls asleep when it has been idle for a second. The suite
    /// checks that it then stays asleep for `quiet`, which it finds in `DORMOUSE_TEST_QUIET_SECONDS`.
    pub fn run_idle(command: &mut Command, quiet: Duration) {
        if Kind::under_test() != Kind::Dormouse {
            return;
        }
        let settings = Settings { sleep_after: Some("1s"), ..Settings::default() };
        command.env("DORMOUSE_TEST_QUIET_SECONDS", quiet.as_secs().to_string());
        Self::run_within(LIMIT + quiet, &mut Server::start_with(Kind::Dormouse, settings), command);
    }

    /// Runs `command` against Dormouse as a cluster, with a token for each of two databases.
    pub fn run_in_cluster(command: &mut Command) {
        const TOKENS: &[&str] = &["dm_shop_abcdefgh", "dm_other_abcdefgh"];
        let settings = Settings { tokens: TOKENS, is_cluster: true, ..Settings::default() };
        let mut server = Server::start_with(Kind::Dormouse, settings);
        Self::run_on(&mut server, command.env("DORMOUSE_TEST_TOKENS", TOKENS.join(" ")));
    }

    /// Runs `command` against a fresh server over TLS.
    pub fn run_over_tls(command: &mut Command) {
        let settings = Settings { tls: Some("no"), ..Settings::default() };
        let mut server = Server::start_with(Kind::under_test(), settings);
        let authority = server.certificates().file("ca.crt");
        Self::run_on(&mut server, command.env("DORMOUSE_TEST_TLS_CA", authority));
    }

    /// Runs `command` against a fresh Dormouse with a sidecar in front of it.
    pub fn run_through_sidecar(command: &mut Command) {
        if Kind::under_test() != Kind::Dormouse {
            return;
        }
        let mut server = Server::start();
        let sidecar = Sidecar::before(server.port());
        Self::run_at(sidecar.port, LIMIT, &mut server, command);
    }

    /// Runs `command` against a fresh Dormouse with an HTTP port, as a client of the first token if there are any.
    pub fn run_over_http(command: &mut Command, tokens: &'static [&'static str]) {
        if Kind::under_test() != Kind::Dormouse {
            return;
        }
        if let Some(token) = tokens.first() {
            command.env("DORMOUSE_TEST_TOKEN", token);
        }
        let settings = Settings { tokens, http_port: Some(free_port()), ..Settings::default() };
        Self::run_on(&mut Server::start_with(Kind::Dormouse, settings), command);
    }

    /// The same without a token, while the database is put to sleep again and again.
    pub fn run_over_http_among_sleeps(command: &mut Command) {
        if Kind::under_test() != Kind::Dormouse {
            return;
        }
        let settings = Settings { http_port: Some(free_port()), ..Settings::default() };
        let mut server = Server::start_with(Kind::Dormouse, settings);
        let unrest = Unrest::of_sleep(server.port(), 1);
        Self::run_on(&mut server, command.env("DORMOUSE_TEST_AMONG_SLEEPS", "1"));
        drop(unrest);
    }

    /// Runs `command` against a fresh Dormouse with an HTTP port, and beside it a wire to this that loses a third of all
    /// answers.
    pub fn run_over_losing_http(command: &mut Command) {
        if Kind::under_test() != Kind::Dormouse {
            return;
        }
        let http_port = free_port();
        let settings = Settings { http_port: Some(http_port), ..Settings::default() };
        let mut server = Server::start_with(Kind::Dormouse, settings);
        let wire = Proxy::losing(http_port, 3, 1);
        Self::run_on(&mut server, command.env("DORMOUSE_TEST_LOSING_PORT", wire.port().to_string()));
        assert!(wire.lost() > 100, "the wire has lost {} answers", wire.lost());
    }

    fn run_on(server: &mut Server, command: &mut Command) {
        Self::run_within(LIMIT, server, command);
    }

    fn run_within(limit: Duration, server: &mut Server, command: &mut Command) {
        let port = if server.has_tls() { server.tls_port() } else { server.port() };
        Self::run_at(port, limit, server, command);
    }

    /// `port`: where the suite connects.
    fn run_at(port: u16, limit: Duration, server: &mut Server, command: &mut Command) {
        let mut suite = Self::spawn(command, port, server);
        let (lines, received) = mpsc::channel();
        suite.forward_lines(lines);
        let deadline = Instant::now() + limit;
        let mut last_line = String::new();
        loop {
            match received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line == "RESTART" => {
                    server.restart();
                    let input = suite.process.stdin.as_mut().expect("its input is a pipe");
                    input.write_all(b"RESTARTED\n").expect("the suite waits for this line");
                }
                Ok(line) => {
                    println!("{line}");
                    last_line = line;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the suite still runs after {limit:?}"),
            }
        }
        let ended = wait_for(Duration::from_secs(10), || suite.process.try_wait().expect("it is our child"));
        let status = ended.expect("a suite that closed its output ends");
        assert!(status.success(), "the suite ended with {status}: {last_line}");
        let passed: u32 = last_line
            .strip_suffix(" passed, 0 failed")
            .and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("the suite's last line is `{last_line}`, not `N passed, 0 failed`"));
        assert!(passed > 0, "the suite checked nothing");
    }

    fn spawn(command: &mut Command, port: u16, server: &Server) -> Self {
        let process = command
            .env("DORMOUSE_TEST_PORT", port.to_string())
            .env("DORMOUSE_TEST_HTTP_PORT", server.http_port().unwrap_or(0).to_string())
            .env("DORMOUSE_TEST_SERVER", server.kind().name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Self { process }
    }

    /// Forwards standard output to `lines`, standard error to the test's own. Both threads end with the process.
    fn forward_lines(&mut self, lines: mpsc::Sender<String>) {
        let output = BufReader::new(self.process.stdout.take().expect("its output is a pipe"));
        let errors = BufReader::new(self.process.stderr.take().expect("its errors are a pipe"));
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        std::thread::spawn(move || errors.lines().map_while(Result::ok).for_each(|line| eprintln!("{line}")));
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
