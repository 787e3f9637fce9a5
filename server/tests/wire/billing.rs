//! The meters of a database: each request, reply and message is counted once, with the bytes that it takes on the wire.

use std::sync::atomic::Ordering;

use crate::node::{Bench, CLOCK_MS, Connection, calls};
use dormouse::commands::TABLE;
use dormouse::metering::{Meter, Totals};

/// Returns the meters that some requests move. A request is counted before its reply is sent.
fn spent(bench: &Bench, name: &str, requests: impl FnOnce()) -> Totals {
    let before = bench.totals(name);
    requests();
    bench.totals(name).since(&before)
}

#[track_caller]
fn check(spent: &Totals, requests: u128, units: u128, bytes_in: usize, bytes_out: usize) {
    let found = [Meter::Requests, Meter::RequestUnits, Meter::BytesIn, Meter::BytesOut].map(|meter| spent[meter]);
    assert_eq!(found, [requests, units, bytes_in as u128, bytes_out as u128]);
}

fn ready(bench: &Bench) -> Connection {
    let mut client = bench.connect();
    client.check("PING", "+PONG\r\n");
    client
}

#[test]
fn everybody_pays_for_what_he_ran() {
    let bench = Bench::new(&["dm_one_secret", "dm_two_secret"]);
    let mut client = bench.connect();
    client.check("AUTH dm_one_secret", "+OK\r\n");
    let lines: Vec<&str> =
        std::iter::repeat_n("SET a 1", 10).chain(["AUTH dm_two_secret", "SET b 1", "PING"]).collect();
    let two = spent(&bench, "two", || {
        let one = spent(&bench, "one", || {
            client.send(&lines);
            client.expect(&("+OK\r\n".repeat(12) + "+PONG\r\n"));
        });
        assert_eq!(calls(&one, "SET"), 10);
        check(&one, 10, 10, 10 * "SET a 1\r\n".len(), 10 * "+OK\r\n".len());
    });
    assert_eq!(calls(&two, "SET"), 1);
    check(&two, 3, 3, "AUTH dm_two_secret\r\nSET b 1\r\nPING\r\n".len(), "+OK\r\n+OK\r\n+PONG\r\n".len());
    client.check("DBSIZE", ":1\r\n");
}

#[test]
fn bytes_are_those_on_the_wire() {
    let bench = Bench::new(&[]);
    let mut client = ready(&bench);
    let value = "v".repeat(5000);
    for (request, reply, units) in [
        ("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n".to_owned(), "+OK\r\n".to_owned(), 1),
        (format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5000\r\n{value}\r\n"), "+OK\r\n".into(), 5),
        ("GET k\r\n".into(), format!("$5000\r\n{value}\r\n"), 5),
        // On the slow path.
        ("*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n".into(), "*1\r\n$1\r\nk\r\n".into(), 1),
        (format!("*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$5000\r\n{value}\r\n"), "*0\r\n".into(), 5),
        // Empty lines are skipped, but were sent.
        ("\r\n\r\nPING\r\n\r\n".into(), "+PONG\r\n".into(), 1),
    ] {
        let spent = spent(&bench, "default", || {
            client.write(&request);
            client.expect(&reply);
        });
        check(&spent, 1, units, request.len(), reply.len());
    }
}

#[test]
fn a_queued_command_is_counted_once() {
    let bench = Bench::new(&[]);
    let mut client = ready(&bench);
    let lines = ["MULTI", "SET a 1", "GET a", "EXEC"];
    let replies = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$1\r\n1\r\n";
    let spent = spent(&bench, "default", || {
        client.send(&lines);
        client.expect(replies);
    });
    for name in lines.map(|line| line.split(' ').next().unwrap_or(line)) {
        assert_eq!(calls(&spent, name), 1, "{name}");
    }
    check(&spent, 4, 4, lines.map(|line| line.len() + 2).iter().sum(), replies.len());
}

#[test]
fn refused_requests_take_bytes_and_units() {
    let bench = Bench::new(&[]);
    let mut client = ready(&bench);
    let long = format!("GET {}", "k ".repeat(1000));
    for (line, reply) in [
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("NONSENSE", "-ERR unknown command 'NONSENSE', with args beginning with: \r\n"),
        (long.as_str(), "-ERR wrong number of arguments for 'get' command\r\n"),
    ] {
        let spent = spent(&bench, "default", || client.check(line, reply));
        let bytes = line.len() + 2;
        check(&spent, 0, (bytes + reply.len()).div_ceil(1024) as u128, bytes, reply.len());
    }
    let request = "*1\r\nx\r\n";
    let reply = "-ERR Protocol error: expected '$', got 'x'\r\n";
    let spent = spent(&bench, "default", || {
        client.write(request);
        client.expect(reply);
        client.expect_end();
    });
    check(&spent, 0, 1, request.len(), reply.len());
}

#[test]
fn a_request_that_never_ends_takes_bytes_and_units() {
    let bench = Bench::new(&[]);
    let mut client = ready(&bench);
    let half = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5000\r\n{}", "v".repeat(3000));
    let spent = spent(&bench, "default", || {
        client.write(&half);
        drop(client);
        while bench.node.clients.count() > 0 {
            std::thread::yield_now();
        }
    });
    check(&spent, 0, 3, half.len(), 0);
}

#[test]
fn replies_that_are_left_out_cost_no_bytes() {
    let bench = Bench::new(&[]);
    let mut client = ready(&bench);
    let lines = ["CLIENT REPLY SKIP", "GET missing", "PING"];
    let spent = spent(&bench, "default", || {
        client.send(&lines);
        client.expect("+PONG\r\n");
    });
    check(&spent, 3, 3, lines.map(|line| line.len() + 2).iter().sum(), "+PONG\r\n".len());
}

#[test]
fn a_subscriber_pays_for_its_messages() {
    let bench = Bench::new(&[]);
    let (mut publisher, mut subscriber) = (ready(&bench), ready(&bench));
    subscriber.check("SUBSCRIBE ch", "*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n");
    let message = format!("*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$100\r\n{}\r\n", "m".repeat(100));
    let line = format!("PUBLISH ch {}", "m".repeat(100));
    let spent = spent(&bench, "default", || {
        for _ in 0..100 {
            publisher.check(&line, ":1\r\n");
            subscriber.expect(&message);
        }
    });
    // One unit for each request, and one for each KiB of messages.
    let units = 100 + 100 * message.len() / 1024;
    check(&spent, 100, units as u128, 100 * (line.len() + 2), 100 * (4 + message.len()));
}

/// Requests, request units, bytes in and bytes out.
type Traffic = [u128; 4];

const ALL: [Meter; 4] = [Meter::Requests, Meter::RequestUnits, Meter::BytesIn, Meter::BytesOut];
const UNBILLED: [Meter; 4] =
    [Meter::UnbilledRequests, Meter::UnbilledRequestUnits, Meter::UnbilledBytesIn, Meter::UnbilledBytesOut];

/// A client that counts what it sends and receives, by a rule of its own.
struct CountingClient {
    connection: Connection,
    all: Traffic,
    unbilled: Traffic,
}

impl CountingClient {
    fn new(bench: &Bench) -> Self {
        Self { connection: bench.connect(), all: [0; 4], unbilled: [0; 4] }
    }

    /// Sends a line, and expects a reply. `requests`: 0 if it is refused before it runs.
    #[track_caller]
    fn ask(&mut self, line: &str, reply: &str, requests: u128, is_billed: bool) {
        self.sent(line, reply, requests, is_billed);
        self.connection.check(line, reply);
    }

    /// Counts a request that another call sends, and its reply.
    fn sent(&mut self, line: &str, reply: &str, requests: u128, is_billed: bool) {
        let (bytes_in, bytes_out) = (line.len() + 2, reply.len());
        let units = (bytes_in + bytes_out).div_ceil(1024).max(1);
        let moved = [requests, units as u128, bytes_in as u128, bytes_out as u128];
        let add = |sums: &mut Traffic| sums.iter_mut().zip(moved).for_each(|(sum, more)| *sum += more);
        add(&mut self.all);
        if !is_billed {
            add(&mut self.unbilled);
        }
    }

    /// Counts messages, which take a unit for each KiB.
    fn received(&mut self, bytes: usize) {
        self.all[1] += bytes as u128 / 1024;
        self.all[3] += bytes as u128;
    }
}

/// Returns the meters when they have counted as much as expected. A request is counted before its reply is sent, but for
/// one whose client has left.
#[track_caller]
fn check_sums(bench: &Bench, before: &Totals, clients: &[&CountingClient]) {
    let mut expected = [[0; 4]; 2];
    for client in clients {
        for (sums, more) in expected.iter_mut().zip([client.all, client.unbilled]) {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }
    let spent = bench.totals("default").since(before);
    let found = [ALL, UNBILLED].map(|meters| meters.map(|meter| spent[meter]));
    assert_eq!(found, expected, "all and unbilled: requests, units, bytes in, bytes out");
}

#[test]
fn each_unit_is_billed_or_not_and_none_is_missing() {
    let bench = Bench::new(&[]);
    let before = bench.totals("default");
    let (mut client, mut other) = (CountingClient::new(&bench), CountingClient::new(&bench));
    let value = "v".repeat(3000);
    let bulk = format!("$3000\r\n{value}\r\n");
    let queued = "+QUEUED\r\n";
    // Each row: a line, its reply, the number of requests that it counts as, and whether it is billed.
    let rows: Vec<(String, String, u128, bool)> = [
        ("PING", "+PONG\r\n", 1, false),
        ("ECHO x", "$1\r\nx\r\n", 1, false),
        ("SELECT 0", "+OK\r\n", 1, false),
        ("CLIENT SETNAME me", "+OK\r\n", 1, false),
        ("CONFIG GET nothing", "*0\r\n", 1, false),
        ("PING 1 2 3", "-ERR wrong number of arguments for 'ping' command\r\n", 1, false),
        ("CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command\r\n", 0, false),
        (&format!("SET a {value}"), "+OK\r\n", 1, true),
        ("GET a", &bulk, 1, true),
        ("GET none", "$-1\r\n", 1, true),
        ("LPUSH l 1 2 3", ":3\r\n", 1, true),
        ("LPOP l", "$1\r\n3\r\n", 1, true),
        ("LPOP none", "$-1\r\n", 1, false),
        ("LPOP none 2", "*-1\r\n", 1, false),
        ("RPOPLPUSH none l", "$-1\r\n", 1, false),
        ("SPOP none", "$-1\r\n", 1, false),
        ("ZPOPMIN none", "*0\r\n", 1, false),
        ("XREAD STREAMS none 0", "*-1\r\n", 1, false),
        ("LRANGE none 0 -1", "*0\r\n", 1, true),
        ("INCR a", "-ERR value is not an integer or out of range\r\n", 1, true),
        ("LPOP a", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", 1, true),
        ("BLPOP none 0.001", "*-1\r\n", 1, false),
        ("BLPOP l 0", "*2\r\n$1\r\nl\r\n$1\r\n2\r\n", 1, true),
        ("EVAL return(redis.call([[lpop]],KEYS[1])) 1 none", "$-1\r\n", 1, true),
        ("EVAL return(redis.call([[get]],KEYS[1])) 1 a", &bulk, 1, true),
        ("MULTI", "+OK\r\n", 1, true),
        ("PING", queued, 1, true),
        ("LPOP none", queued, 1, true),
        ("GET a", queued, 1, true),
        ("EXEC", &format!("*3\r\n+PONG\r\n$-1\r\n{bulk}"), 1, true),
        ("ONCE k 1000 LPOP none", "$-1\r\n", 1, true),
        ("NOTHING", "-ERR unknown command 'NOTHING', with args beginning with: \r\n", 0, true),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n", 0, true),
        ("DEL l k", ":1\r\n", 1, true),
        ("ONCE k 1000 LPOP none", "$-1\r\n", 1, true),
    ]
    .map(|(line, reply, requests, is_billed)| (line.to_owned(), reply.to_owned(), requests, is_billed))
    .into();
    for (line, reply, requests, is_billed) in &rows {
        client.ask(line, reply, *requests, *is_billed);
        check_sums(&bench, &before, &[&client]);
    }
    // In one write, on the fast path as far as possible.
    let again = rows.iter().filter(|(line, ..)| !line.starts_with("ONCE"));
    let lines: Vec<&str> = again.clone().map(|(line, ..)| line.as_str()).collect();
    let replies: String = again.clone().map(|(_, reply, ..)| reply.as_str()).collect();
    again.for_each(|(line, reply, requests, is_billed)| client.sent(line, reply, *requests, *is_billed));
    client.connection.send(&lines);
    client.connection.expect(&replies);
    check_sums(&bench, &before, &[&client]);
    // Served by another client; unblocked by another client; gone while it waits.
    let blocked = || {
        while !bench.node.clients.list().iter().any(|client| client.is_blocked.load(Ordering::SeqCst)) {
            std::thread::yield_now();
        }
    };
    client.connection.send(&["BLPOP w 0"]);
    blocked();
    other.ask("RPUSH w x", ":1\r\n", 1, true);
    let reply = "*2\r\n$1\r\nw\r\n$1\r\nx\r\n";
    client.connection.expect(reply);
    client.sent("BLPOP w 0", reply, 1, true);
    check_sums(&bench, &before, &[&client, &other]);
    other.sent("CLIENT ID", "", 1, false);
    other.connection.send(&["CLIENT ID"]);
    let id = other.connection.line();
    other.all[3] += id.len() as u128 + 2;
    other.unbilled[3] += id.len() as u128 + 2;
    other.connection.send(&["BLPOP w 0"]);
    blocked();
    client.ask(&format!("CLIENT UNBLOCK {} ERROR", &id[1..]), ":1\r\n", 1, false);
    let reply = "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";
    other.connection.expect(reply);
    other.sent("BLPOP w 0", reply, 1, false);
    check_sums(&bench, &before, &[&client, &other]);
    // Messages are billed.
    other.ask("SUBSCRIBE ch", "*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n", 1, true);
    let message = format!("*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n{bulk}");
    client.ask(&format!("PUBLISH ch {value}"), ":1\r\n", 1, true);
    other.connection.expect(&message);
    other.received(message.len());
    other.ask("PING", "*2\r\n$4\r\npong\r\n$0\r\n\r\n", 1, false);
    check_sums(&bench, &before, &[&client, &other]);
    // The empty polls of a command can be told from its other calls.
    let polls = bench.totals("default").since(&before).command(TABLE.by_name(b"LPOP").expect("a command").id);
    assert_eq!((polls.calls, polls.unbilled), (12, 4));
}

#[test]
fn nothing_that_the_operator_does_is_billed() {
    let clock = || CLOCK_MS.load(Ordering::SeqCst);
    let bench = Bench::of(&["--token", "secret", "--admin-token", "root"], None, clock);
    let before = bench.totals("default");
    let mut client = CountingClient::new(&bench);
    client.ask("AUTH admin root", "+OK\r\n", 1, false);
    client.ask("SET a 1", "+OK\r\n", 1, false);
    client.ask("GET a", "$1\r\n1\r\n", 1, false);
    client.ask("NOTHING", "-ERR unknown command 'NOTHING', with args beginning with: \r\n", 0, false);
    check_sums(&bench, &before, &[&client]);
    client.ask("AUTH secret", "+OK\r\n", 1, false);
    client.ask("GET a", "$1\r\n1\r\n", 1, true);
    check_sums(&bench, &before, &[&client]);
}
