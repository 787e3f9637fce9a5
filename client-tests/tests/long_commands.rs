//! Commands that take long are ended when the server ends, or when their clients go.

use std::time::{Duration, Instant};

use dormouse_client_tests::resp::{Connection, Reply, request};
use dormouse_client_tests::{Server, wait_for};

/// Texts whose table takes many seconds in a build for tests, and one or two in one for use.
const BYTES: usize = 32 << 10;

fn begin_long_read(server: &Server) -> (Connection, String) {
    let mut client = Connection::open(server.port());
    for (key, byte) in [("{t}a", "a"), ("{t}b", "b")] {
        client.run(&format!("SET {key} {}", byte.repeat(BYTES)));
    }
    let id = client.run("CLIENT ID").number().expect("a number").to_string();
    client.write(&request(&["LCS", "{t}a", "{t}b", "LEN"].map(|word| word.as_bytes().to_vec()))).expect("it is sent");
    (client, id)
}

#[test]
fn a_long_read_does_not_hold_up_the_end_of_the_server() {
    let mut server = Server::start();
    let _client = begin_long_read(&server);
    server.restart();
    let mut connection = Connection::open(server.port());
    assert_eq!(connection.run("STRLEN {t}a").number(), Some(BYTES as f64));
}

#[test]
fn a_long_read_ends_with_its_client() {
    let server = Server::start();
    let mut other = Connection::open(server.port());
    for kills in [true, false] {
        let (client, id) = begin_long_read(&server);
        let runs = || {
            let list = other.run("CLIENT LIST");
            let list = String::from_utf8_lossy(list.bytes().unwrap_or_default()).into_owned();
            list.lines().any(|line| line.contains("cmd=lcs")).then_some(())
        };
        wait_for(Duration::from_secs(20), runs).expect("it runs");
        if kills {
            assert_eq!(other.run(&format!("CLIENT KILL ID {id}")), Reply::Line(':', "1".into()));
        } else {
            drop(client);
        }
        let begun = Instant::now();
        other.run("SET {t}c 1");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
