//! The meters of a database: each request, reply and message is counted once, with the bytes that it takes on the wire.

#[expect(dead_code, reason = "other tests use the rest")]
mod node;

use dormouse::metering::{Meter, Totals};
use node::{Bench, Connection, calls};

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
