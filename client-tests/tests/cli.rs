//! redis-cli, as people and scripts use it.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use dormouse_client_tests::{Kind, Server, resp::request, toolchain};

struct Cli {
    server: Server,
}

impl Cli {
    /// Starts the server. Returns nothing if redis-cli is missing.
    fn start() -> Option<Self> {
        let present = toolchain::present("redis-cli", &[("redis-cli", "redis-tools")]);
        present.then(|| Self { server: Server::start() })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.server.port().to_string()]);
        command
    }

    /// Returns the output of `redis-cli <arguments>` into a pipe.
    #[track_caller]
    fn says(&self, arguments: &str, expected: &str) {
        let output = self.command().args(arguments.split(' ')).output().expect("redis-cli runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), expected, "redis-cli {arguments}");
    }

    /// Returns its output for lines on its standard input, all on one connection.
    fn answers(&self, options: &[&str], input: &[u8]) -> String {
        let mut process =
            self.command().args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("redis-cli runs");
        process.stdin.take().expect("a pipe").write_all(input).expect("redis-cli reads");
        let output = process.wait_with_output().expect("redis-cli ends");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn single_commands() {
    let Some(cli) = Cli::start() else { return };
    cli.says("PING", "PONG");
    cli.says("SET k v EX 100 GET", "");
    cli.says("TTL k", "100");
    cli.says("RPUSH l a b c", "3");
    cli.says("LRANGE l 0 -1", "a\nb\nc");
    cli.says("--no-raw LRANGE l 0 -1", "1) \"a\"\n2) \"b\"\n3) \"c\"");
    cli.says("--no-raw GET none", "(nil)");
    cli.says("--csv LRANGE l 0 -1", "\"a\",\"b\",\"c\"");
    cli.says("LPUSH k x", "WRONGTYPE Operation against a key holding the wrong kind of value");
    cli.says("NONSENSE a b", "ERR unknown command 'NONSENSE', with args beginning with: 'a' 'b'");
    cli.says("-n 3 SET other 1", "OK");
    cli.says("-n 3 DBSIZE", "1");
    cli.says("DBSIZE", "2");
    cli.says("HSET h a 1 b 2", "2");
    cli.says("-3 --no-raw HGETALL h", "1# \"a\" => \"1\"\n2# \"b\" => \"2\"");
    cli.says("ZADD z 1.5 a 2 b", "2");
    cli.says("-3 --no-raw ZRANGE z 0 -1 WITHSCORES", "1) 1) \"a\"\n   2) (double) 1.5\n2) 1) \"b\"\n   2) (double) 2");
    cli.says("--raw ZRANGE z 0 -1 WITHSCORES", "a\n1.5\nb\n2");
}

#[test]
fn a_session_with_a_sleep() {
    let Some(cli) = Cli::start() else { return };
    let sleep = if cli.server.kind() == Kind::Dormouse { "DORMOUSE SLEEP" } else { "PING" };
    let slept = if cli.server.kind() == Kind::Dormouse { "OK" } else { "PONG" };
    let session = format!("SET a 1\nMULTI\nINCR a\nGET a\nEXEC\n{sleep}\nGET a\nINCR a\nSELECT 2\nGET a\n");
    let expected = format!("OK\nOK\nQUEUED\nQUEUED\n2\n2\n{slept}\n2\n3\nOK\n\n");
    assert_eq!(cli.answers(&[], session.as_bytes()), expected);
}

#[test]
fn mass_insertion_and_scan() {
    let Some(mut cli) = Cli::start() else { return };
    let commands: Vec<u8> =
        (0..10_000).flat_map(|i| request(&["SET".into(), format!("key:{i}"), i.to_string()])).collect();
    let report = cli.answers(&["--pipe"], &commands);
    assert!(report.contains("errors: 0, replies: 10000"), "{report}");
    cli.says("DBSIZE", "10000");
    cli.server.restart();
    cli.says("GET key:9999", "9999");
    let found = cli.answers(&["--scan", "--pattern", "key:99?"], b"");
    let mut found: Vec<_> = found.lines().collect();
    found.sort_unstable();
    assert_eq!(found, (990..1000).map(|i| format!("key:{i}")).collect::<Vec<_>>());
    cli.says("-x SET", "ERR wrong number of arguments for 'set' command");
    assert_eq!(cli.answers(&["-x", "SET", "from-stdin"], b"line one\r\nline two\0"), "OK\n");
    cli.says("STRLEN from-stdin", "19");
    let biggest = cli.answers(&["--bigkeys"], b"");
    assert!(biggest.contains("Sampled 10001 keys in the keyspace!"), "{biggest}");
}

#[test]
fn subscriptions() {
    let Some(cli) = Cli::start() else { return };
    let mut listener = cli
        .command()
        .args(["--csv", "PSUBSCRIBE", "news.*"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli runs");
    // Older versions first print how to quit.
    let lines = BufReader::new(listener.stdout.take().expect("a pipe")).lines().map(|line| line.expect("text"));
    let mut lines = lines.filter(|line| line.starts_with('"'));
    assert_eq!(lines.next().as_deref(), Some("\"psubscribe\",\"news.*\",1"));
    cli.says("PUBLISH news.sport hello", "1");
    assert_eq!(lines.next().as_deref(), Some("\"pmessage\",\"news.*\",\"news.sport\",\"hello\""));
    _ = listener.kill();
    _ = listener.wait();
}
