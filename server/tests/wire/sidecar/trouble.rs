//! Clients and servers that the sidecar must not let others suffer from.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::wire::Wire;
use super::{PATIENCE, Sidecar, free_port, until, url};
use crate::served::{Connection, Served};
use crate::tls::certificates::Certificates;

/// Requests as clients write them, one behind the other; spaces separate the words.
fn requests(lines: &[&str]) -> String {
    let request = |line: &&str| {
        let words: Vec<&str> = line.split(' ').collect();
        let head = format!("*{}\r\n", words.len());
        head + &words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect::<String>()
    };
    lines.iter().map(request).collect()
}

fn replies(client: &mut Connection, count: usize) -> Vec<String> {
    (0..count).map(|_| client.read().unwrap().to_string()).collect()
}

#[test]
fn a_transaction_that_goes_on_is_the_matter_of_its_client() {
    let server = Served::start(&[]);
    let sidecar = Sidecar::start(&url(server.port()), &[]);
    let mut other = sidecar.connect();
    for lines in [
        &["MULTI", "SET a 1", "DISCARD now"][..],
        &["MULTI", "SET a 1", "EXEC now"],
        &["MULTI", "NOSUCH", "DISCARD now"],
        &["MULTI now", "SET a 1", "DISCARD now"],
        &["MULTI", "MULTI", "DISCARD now"],
    ] {
        let mut client = sidecar.connect();
        client.write(requests(lines).as_bytes());
        let last = replies(&mut client, lines.len()).pop().unwrap();
        assert!(last.starts_with("-ERR") || last.starts_with("-EXECABORT"), "{lines:?}: {last}");
        assert_eq!(other.say("SET b 1").to_string(), "+OK", "{lines:?}");
    }
}

#[test]
fn a_server_that_reads_no_more_is_left() {
    let server = Served::start(&[]);
    let wire = Wire::to(server.port());
    let sidecar = Sidecar::start(&url(wire.port), &["--upstream-timeout", "500ms"]);
    let mut client = sidecar.connect();
    assert_eq!(client.say("SET a 1").to_string(), "+OK");
    wire.stop();
    // More than sockets take.
    client.send(&["SET", "a", &"x".repeat(32 << 20)]);
    let reply = client.read().unwrap().to_string();
    assert!(reply.starts_with("-UNCERTAIN"), "{reply}");
}

#[test]
fn a_client_that_reads_nothing_is_closed() {
    const VALUE: usize = 8 << 20;
    const READS: usize = 40;
    let server = Served::start(&["--max-memory-clients", "1gb", "--client-output-buffer-limit", "normal 0 0 0"]);
    let mut direct = server.connect();
    direct.run(&["SET", "big", &"x".repeat(VALUE)]);
    let sidecar = Sidecar::start(&url(server.port()), &[]);
    let mut client = TcpStream::connect(("127.0.0.1", sidecar.port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(requests(&["GET big"; READS]).as_bytes()).unwrap();
    // The sidecar has them when another client gets an answer that comes behind.
    assert_eq!(sidecar.connect().say("STRLEN big").integer(), VALUE as i64);
    let (mut bytes, mut read) = (vec![0; 1 << 20], 0);
    while let Ok(more @ 1..) = client.read(&mut bytes) {
        read += more;
    }
    assert!(read < READS * VALUE, "it got all");
    assert_eq!(sidecar.connect().say("PING").to_string(), "+PONG");
}

#[test]
fn requests_keep_their_order_when_the_version_changes() {
    let server = Served::start(&[]);
    let sidecar = Sidecar::start(&url(server.port()), &["--cache", "0"]);
    let mut client = sidecar.connect();
    // The first request over a connection waits for it.
    client.say("PING");
    for n in 0..300 {
        let value = format!("{n}{}", "x".repeat(1000));
        client.write(requests(&[&format!("SET a {value}"), "HELLO 3", "GET a", &format!("SET b {value}")]).as_bytes());
        client.write(requests(&["HELLO 2", "GET b", "SET a old", "RESET", "GET a"]).as_bytes());
        let found: Vec<_> = (0..9).map(|_| client.read().unwrap()).collect();
        assert!(found[2].text() == value && found[5].text() == value && found[8].text() == "old", "{n}");
    }
}

#[test]
fn the_server_is_reached_over_tls() {
    let certificates = Certificates::new();
    let port = free_port();
    let options = certificates.options(port);
    let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
    words.extend(["--token", "dm_shop_secret"]);
    let server = Served::start(&words);
    let upstream = format!("rediss://:dm_shop_secret@localhost:{port}");
    let authority = certificates.path("ca.crt").display().to_string();
    let sidecar = Sidecar::start(&upstream, &["--tls-ca-cert-file", &authority]);
    let (mut client, mut other) = (sidecar.connect(), sidecar.connect());
    other.say("HELLO 3");
    // More than a record of TLS and the buffers of a socket; a debug build is slow at it.
    let large = "v".repeat(512 << 10);
    for client in [&mut client, &mut other] {
        assert_eq!(client.run(&["SET", "large", &large]).to_string(), "+OK");
        assert_eq!(client.say("GET large").text(), large);
        assert_eq!(client.say("SET a 1").to_string(), "+OK");
    }
    until("hit", || {
        assert_eq!(client.say("GET a").text(), "1");
        (sidecar.hits() > 0).then_some(())
    });
    server.connect().say("SET a 2");
    client.say_until("GET a", |value| value.text() == "2");
    // A connection of its own.
    other.send(&["BLPOP", "queue", "0"]);
    client.say_until("INFO clients", |info| info.field("blocked_clients") == "1");
    client.say("RPUSH queue job");
    assert_eq!(other.read().unwrap().to_string(), "[\"queue\" \"job\"]");
    // Who the server is has to be proved.
    let sidecar = Sidecar::start(&upstream, &["--upstream-timeout", "100ms"]);
    let reply = sidecar.connect().say("GET a").to_string();
    assert!(reply.starts_with("-TRYAGAIN") && reply.contains("certificate") && !reply.contains("secret"), "{reply}");
    assert_eq!(sidecar.health().0, 503);
}
