//! What goes through a forwarded connection, and its end.

use std::io::Read;
use std::net::Shutdown;
use std::sync::atomic::Ordering;

use dormouse::metering::Meter;

use super::{Pair, clients, until, write};
use crate::node::calls;

#[test]
fn pipelines_and_transactions() {
    let pair = Pair::new();
    let mut client = pair.a.connect();
    // The login too is in the pipeline.
    let mut lines = vec!["AUTH dm_shop_s3cret"];
    lines.extend(["INCR n"; 2000]);
    lines.extend(["MULTI", "SET a 1", "INCR a", "EXEC"]);
    client.send(&lines);
    let counts: String = (1..=2000).map(|n| format!(":{n}\r\n")).collect();
    client.expect(&format!("+OK\r\n{counts}+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:2\r\n"));
}

#[test]
fn blocked_clients_are_served_and_noticed_when_they_leave() {
    let pair = Pair::new();
    let (mut client, mut direct) = (pair.shop(), pair.direct());
    client.send(&["BLPOP list 0"]);
    until(|| clients(&pair.b).iter().any(|client| client.is_blocked.load(Ordering::SeqCst)));
    direct.check("RPUSH list x", ":1\r\n");
    client.expect("*2\r\n$4\r\nlist\r\n$1\r\nx\r\n");
    client.send(&["BLPOP list 0"]);
    until(|| clients(&pair.b).iter().any(|client| client.is_blocked.load(Ordering::SeqCst)));
    drop(client);
    until(|| clients(&pair.b).len() == 1 && clients(&pair.a).is_empty());
    direct.check("RPUSH list y", ":1\r\n");
    direct.check("LLEN list", ":1\r\n");
    assert_eq!(pair.a.node.forwarded.snapshot().connections, 0);
}

#[test]
fn large_values_go_both_ways() {
    let pair = Pair::new();
    let mut client = pair.shop();
    let value: Vec<u8> = (0..10 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    write(&mut client, &[b"SET", b"large", &value]);
    client.expect("+OK\r\n");
    client.send(&["GET large"]);
    client.expect(&format!("${}\r\n", value.len()));
    let mut got = vec![0; value.len() + 2];
    client.stream.read_exact(&mut got).unwrap();
    assert!(got[..value.len()] == value[..], "the value has changed on its way");
    // Bytes are counted when they are copied.
    until(|| pair.a.node.forwarded.snapshot().bytes > 20 << 20);
    assert_eq!(pair.a.node.forwarded.snapshot().connections, 1);
}

#[test]
fn a_slow_reader_holds_back_the_other_node() {
    const REPLIES: usize = 64;
    let pair = Pair::new();
    let mut client = pair.shop();
    write(&mut client, &[b"SET", b"large", &vec![b'x'; 1 << 20]]);
    client.expect("+OK\r\n");
    client.send(&["GET large"; REPLIES]);
    let its = clients(&pair.a).remove(0);
    until(|| its.held_bytes() > 32 << 10);
    // Nothing more comes while it does not read.
    let bytes = || pair.a.node.forwarded.snapshot().bytes;
    let mut before = 0;
    until(|| std::mem::replace(&mut before, bytes()) == bytes());
    assert!(before < 32 << 20, "{before}");
    assert!(its.held_bytes() < 256 << 10, "{}", its.held_bytes());
    // Others of the worker are served meanwhile.
    pair.shop().check("PING", "+PONG\r\n");
    for _ in 0..REPLIES {
        client.expect("$1048576\r\n");
        let mut value = vec![0; (1 << 20) + 2];
        client.stream.read_exact(&mut value).unwrap();
    }
    until(|| its.held_bytes() < 16 << 10);
    client.check("PING", "+PONG\r\n");
}

#[test]
fn one_that_is_killed_ends_on_both_nodes() {
    let pair = Pair::new();
    let mut client = pair.shop();
    clients(&pair.a)[0].kill();
    client.expect_end();
    until(|| clients(&pair.b).is_empty());
    let mut client = pair.shop();
    until(|| clients(&pair.b).len() == 1);
    clients(&pair.b)[0].kill();
    client.expect_end();
    until(|| clients(&pair.a).is_empty());
    // By a command of its database.
    let mut client = pair.shop();
    client.check("CLIENT SETNAME victim", "+OK\r\n");
    let id = clients(&pair.b)[0].id;
    pair.direct().check(&format!("CLIENT KILL ID {id}"), ":1\r\n");
    client.expect_end();
}

#[test]
fn a_client_that_has_closed_its_side_gets_its_replies() {
    let pair = Pair::new();
    let mut client = pair.shop();
    client.send(&["SET key value", "GET key", "ECHO bye"]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.expect("+OK\r\n$5\r\nvalue\r\n$3\r\nbye\r\n");
    client.expect_end();
}

#[test]
fn a_node_that_drains_ends_what_it_forwards() {
    let pair = Pair::new();
    let mut client = pair.shop();
    client.send(&["ECHO before"]);
    client.expect("$6\r\nbefore\r\n");
    pair.a.node.drain();
    client.expect_end();
    until(|| clients(&pair.b).is_empty());
}

#[test]
fn a_node_that_ends_closes_its_clients_elsewhere() {
    let pair = Pair::new();
    let mut client = pair.shop();
    pair.b.node.drain();
    client.expect_end();
    until(|| clients(&pair.a).is_empty());
}

#[test]
fn requests_are_billed_once() {
    let pair = Pair::new();
    let mut client = pair.shop();
    client.send(&["SET key value"; 10]);
    client.expect(&"+OK\r\n".repeat(10));
    client.check("QUIT", "+OK\r\n");
    client.expect_end();
    until(|| clients(&pair.b).is_empty());
    let (here, there) = (pair.a.totals("shop"), pair.b.totals("shop"));
    assert_eq!((calls(&here, "set"), calls(&there, "set")), (0, 10));
    assert_eq!((here[Meter::BytesIn], here[Meter::BytesOut]), (0, 0));
    assert!(there[Meter::BytesIn] >= 150 && there[Meter::BytesOut] >= 50);
    assert_eq!(pair.a.totals("default")[Meter::BytesIn], 0);
}

#[test]
fn an_idle_client_keeps_little() {
    let pair = Pair::new();
    let mut client = pair.shop();
    client.check("PING", "+PONG\r\n");
    let its = clients(&pair.a).remove(0);
    until(|| its.held_bytes() <= 8 << 10);
}
