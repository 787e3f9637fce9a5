//! `MONITOR`, as its client and the clients of its database see it.

use std::io::Read;

use crate::node::{Bench, Connection};

/// Reads `count` lines without their times.
fn lines(monitor: &mut Connection, count: usize) -> Vec<String> {
    let cut = |line: String| {
        let (time, rest) = line.split_once(" [").expect("a line of a monitor");
        let (seconds, micros) = time.strip_prefix('+').and_then(|time| time.split_once('.')).expect("a time");
        assert!(seconds.parse::<u64>().is_ok() && micros.len() == 6 && micros.parse::<u64>().is_ok(), "{time}");
        let (origin, words) = rest.split_once("] ").expect("an origin");
        let (select, peer) = origin.split_once(' ').expect("an index and an address");
        let peer = if peer == "lua" { "lua" } else { "client" };
        format!("{select} {peer} {words}")
    };
    (0..count).map(|_| cut(line(monitor))).collect()
}

fn line(connection: &mut Connection) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        connection.stream.read_exact(&mut byte).expect("a line");
        line.extend_from_slice(&byte);
    }
    String::from_utf8(line).expect("a line of ASCII").trim_end().into()
}

fn monitored(commands: &[&str], expected: &[&str]) {
    let bench = Bench::new(&[]);
    let (mut monitor, mut client) = (bench.connect(), bench.connect());
    monitor.check("MONITOR", "+OK\r\n");
    client.send(commands);
    client.send(&["ECHO end"]);
    let shown = lines(&mut monitor, expected.len() + 1);
    let expected: Vec<&str> = expected.iter().copied().chain(["0 client \"ECHO\" \"end\""]).collect();
    assert_eq!(shown, expected);
}

#[test]
fn commands_are_shown_as_they_were_sent() {
    monitored(
        &["set k v", "GET k", "INCR k", "NOPE", "GET", "PING", "SELECT 3", "GET x", "SELECT 0", "DBSIZE", "SORT k"],
        &[
            "0 client \"set\" \"k\" \"v\"",
            "0 client \"GET\" \"k\"",
            "0 client \"INCR\" \"k\"",
            "0 client \"PING\"",
            "3 client \"SELECT\" \"3\"",
            "3 client \"GET\" \"x\"",
            "0 client \"SELECT\" \"0\"",
            "0 client \"DBSIZE\"",
            "0 client \"SORT\" \"k\"",
        ],
    );
}

#[test]
fn secrets_and_administration_are_not_shown() {
    monitored(
        &[
            "AUTH s",
            "HELLO 2 AUTH default s",
            "ACL WHOAMI",
            "ACL SETUSER bob >x",
            "CONFIG SET maxmemory 0",
            "CLIENT LIST",
        ],
        &[
            "0 client \"AUTH\" \"(redacted)\"",
            "0 client \"HELLO\" \"2\" \"AUTH\" \"(redacted)\" \"(redacted)\"",
            "0 client \"ACL\" \"WHOAMI\"",
        ],
    );
}

#[test]
fn the_commands_of_a_transaction_are_shown_when_they_run() {
    monitored(
        &[
            "MULTI",
            "SET a 1",
            "SELECT 2",
            "LPUSH a 1",
            "SELECT 0",
            "CONFIG GET maxmemory",
            "EXEC",
            "MULTI",
            "GET",
            "EXEC",
        ],
        &[
            "0 client \"MULTI\"",
            "0 client \"SET\" \"a\" \"1\"",
            "2 client \"SELECT\" \"2\"",
            "2 client \"LPUSH\" \"a\" \"1\"",
            "0 client \"SELECT\" \"0\"",
            "0 client \"EXEC\"",
            "0 client \"MULTI\"",
            "0 client \"EXEC\"",
        ],
    );
}

#[test]
fn calls_of_scripts_follow_their_script() {
    // The first is short enough for a worker, the second has a loop.
    for script in ["redis.call([[set]],KEYS[1],ARGV[1])", "repeat(redis.call)([[set]],KEYS[1],ARGV[1])until(true)"] {
        let eval = format!("EVAL {script} 1 k v");
        let shown = format!("0 client \"EVAL\" \"{script}\" \"1\" \"k\" \"v\"");
        monitored(
            &[&eval, "MULTI", &eval, "GET k", "EXEC"],
            &[
                &shown,
                "0 lua \"set\" \"k\" \"v\"",
                "0 client \"MULTI\"",
                &shown,
                "0 lua \"set\" \"k\" \"v\"",
                "0 client \"GET\" \"k\"",
                "0 client \"EXEC\"",
            ],
        );
    }
}

#[test]
fn a_waiting_command_is_shown_once() {
    let bench = Bench::new(&[]);
    let (mut monitor, mut client, mut other) = (bench.connect(), bench.connect(), bench.connect());
    monitor.check("MONITOR", "+OK\r\n");
    client.send(&["BLPOP list 0"]);
    assert_eq!(lines(&mut monitor, 1), ["0 client \"BLPOP\" \"list\" \"0\""]);
    other.check("RPUSH list x", ":1\r\n");
    client.expect("*2\r\n$4\r\nlist\r\n$1\r\nx\r\n");
    client.check("PING", "+PONG\r\n");
    assert_eq!(lines(&mut monitor, 2), ["0 client \"RPUSH\" \"list\" \"x\"", "0 client \"PING\""]);
}

#[test]
fn a_monitor_sees_its_own_database_until_it_ends() {
    let bench = Bench::new(&[]);
    let (mut monitor, mut client) = (bench.connect(), bench.connect());
    monitor.check("MONITOR", "+OK\r\n");
    monitor.check("GET k", "-ERR Replica can't interact with the keyspace\r\n");
    monitor.send(&["PING"]);
    monitor.expect("+PONG\r\n");
    assert_eq!(lines(&mut monitor, 1), ["0 client \"PING\""]);
    monitor.check("RESET", "+RESET\r\n");
    client.check("SET k v", "+OK\r\n");
    monitor.check("GET k", "$1\r\nv\r\n");
    monitor.send(&["MULTI", "MONITOR", "EXEC"]);
    monitor.expect("+OK\r\n+QUEUED\r\n*1\r\n-ERR MONITOR isn't allowed for DENY BLOCKING client\r\n");
    monitor.check("QUIT", "+OK\r\n");
}
