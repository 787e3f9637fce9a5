//! A node is stopped, and goes on after others have taken its databases.

use std::time::Duration;

use dormouse_client_tests::resp::{Connection, request};
use dormouse_client_tests::wait_for;

use super::client::log_in;
use super::fleet::{Fleet, Options, TAKEN, token};
use super::history::assert_linearizable;
use super::traffic::Traffic;
use super::{LIMIT, eventually};

/// Whether a connection is over, or refuses a read and a write. It never says what the old owner knew.
pub fn is_refused(connection: &mut Connection, old: &str, new: &str) -> bool {
    let Ok(read) = connection.try_call(&["GET", "witness"]) else { return true };
    assert_ne!(read.text(), Some(old), "an old value was read");
    let Ok(written) = connection.try_call(&["SET", "witness", "lost"]) else { return true };
    assert!(written.is_error(), "a node that was replaced acknowledged a write after {read:?}; it is {new} elsewhere");
    read.is_error()
}

#[test]
fn a_node_that_was_stopped_says_nothing_old() {
    let Some(mut fleet) = Fleet::start(3, Options::with_databases(5)) else { return };
    let traffic = Traffic::start(&fleet, 3);
    traffic.await_writes();
    let (old, its) = fleet.busiest();
    let database = &its[0];
    fleet.client(database).insist("SET witness old");
    let port = fleet.nodes[old].port;
    let mut idle = log_in(port, &token(database)).unwrap();
    let mut waiting = log_in(port, &token(database)).unwrap();
    fleet.nodes[old].stop();
    // These wait in its socket until it goes on.
    waiting.write(&request(&["GET", "witness"])).unwrap();
    waiting.write(&request(&["SET", "witness", "lost"])).unwrap();
    let taken_over = traffic.await_writes();
    println!("{its:?} were taken over {taken_over:?} after the stop");
    let mut client = fleet.client(database);
    client.insist("SET witness new");
    fleet.nodes[old].go_on();
    waiting.set_patience(LIMIT).unwrap();
    for expected in ["new", "OK"] {
        let Ok(reply) = waiting.read() else { break };
        assert!(reply.is_error() || expected == "new" && reply.text() == Some("new"), "{reply:?}");
    }
    assert!(is_refused(&mut idle, "old", "new"));
    // It notices that it was taken over, and ends.
    let status = fleet.nodes[old].wait();
    assert_eq!(status.code(), Some(TAKEN), "{status}\n{}", fleet.nodes[old].log());
    assert_eq!(client.insist("GET witness").text(), Some("new"));
    fleet.nodes[old].start();
    traffic.await_writes();
    assert_linearizable(&traffic.end(&fleet));
}

/// A stop that is shorter than the lease moves nothing.
#[test]
fn a_short_stop_is_waited_for() {
    let options = Options { lease: "60s".to_owned(), ..Options::with_databases(3) };
    let Some(mut fleet) = Fleet::start(2, options) else { return };
    let traffic = Traffic::start(&fleet, 4);
    traffic.await_writes();
    let owners: Vec<usize> = fleet.options.databases.iter().map(|database| fleet.owner(database)).collect();
    let (stopped, _) = fleet.busiest();
    for _ in 0..3 {
        fleet.nodes[stopped].stop();
        // A moment that a keepalive and requests fall into.
        _ = wait_for(Duration::from_millis(300), || None::<()>);
        fleet.nodes[stopped].go_on();
        traffic.await_writes();
    }
    let now: Vec<usize> = fleet.options.databases.iter().map(|database| fleet.owner(database)).collect();
    assert_eq!(owners, now);
    assert_linearizable(&traffic.end(&fleet));
    eventually("all run", || fleet.nodes.iter_mut().all(super::fleet::Node::is_running).then_some(()));
}
