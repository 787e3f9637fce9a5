//! A node is cut off from etcd, or from the bucket.

use super::client::{Client, log_in};
use super::eventually;
use super::fleet::{Fleet, Options, TAKEN, token};
use super::history::assert_linearizable;
use super::stops::is_refused;
use super::traffic::Traffic;

#[test]
fn a_node_that_is_cut_off_from_etcd_refuses() {
    let Some(mut fleet) = Fleet::start(3, Options::with_databases(5)) else { return };
    let traffic = Traffic::start(&fleet, 5);
    traffic.await_writes();
    let (old, its) = fleet.busiest();
    let database = &its[0];
    fleet.client(database).insist("SET witness old");
    let port = fleet.nodes[old].port;
    let mut connection = log_in(port, &token(database)).unwrap();
    fleet.nodes[old].etcd.hold_back();
    // It serves until its lease ends. Until then nothing else does.
    eventually("it refuses", || match connection.try_call(&["GET", "witness"]) {
        Ok(reply) if reply.text() == Some("old") => None,
        Ok(reply) => reply.is_error().then_some(()),
        Err(_) => Some(()),
    });
    println!("{its:?} were taken over {:?} after the lease", traffic.await_writes());
    let mut client = fleet.client(database);
    client.insist("SET witness new");
    for _ in 0..3 {
        assert!(is_refused(&mut connection, "old", "new"));
        let Ok(again) = log_in(port, &token(database)) else { continue };
        connection = again;
    }
    fleet.nodes[old].etcd.let_through();
    // A process whose log is sealed has no use.
    let status = eventually("it ends", || {
        assert!(is_refused(&mut connection, "old", "new"));
        fleet.nodes[old].ended()
    });
    assert_eq!(status.code(), Some(TAKEN), "{status}");
    assert_eq!(client.insist("GET witness").text(), Some("new"));
    fleet.nodes[old].start();
    traffic.await_writes();
    assert_linearizable(&traffic.end(&fleet));
}

/// It hears from etcd again, and its lease goes on, before anything tells it that its log is sealed: no client writes to it.
#[test]
fn a_node_that_was_cut_off_from_etcd_reads_nothing_old() {
    let Some(mut fleet) = Fleet::start(2, Options::with_databases(4)) else { return };
    let (old, its) = fleet.busiest();
    let mut connections: Vec<_> = its
        .iter()
        .map(|database| {
            fleet.client(database).insist("SET witness old");
            log_in(fleet.nodes[old].port, &token(database)).unwrap()
        })
        .collect();
    fleet.nodes[old].etcd.hold_back();
    // Clients of the other node alone: those of the old one would tell it.
    let others: Vec<u16> = fleet.ports().iter().copied().filter(|port| *port != fleet.nodes[old].port).collect();
    for database in &its {
        let mut client = Client::new(others.clone().into(), &token(database));
        // Until its lease ends, the other node passes clients on to it.
        eventually("the other serves", || (client.serving_port() == others[0]).then_some(()));
        client.insist("SET witness new");
    }
    fleet.nodes[old].etcd.let_through();
    let status = eventually("it ends", || {
        for (connection, database) in connections.iter_mut().zip(&its) {
            for again in [false, true] {
                if again && let Ok(new) = log_in(fleet.nodes[old].port, &token(database)) {
                    *connection = new;
                }
                let Ok(reply) = connection.try_call(&["GET", "witness"]) else { continue };
                let is_passed_on = again && reply.text() == Some("new");
                assert!(reply.is_error() || is_passed_on, "{database}: {reply:?}");
            }
        }
        fleet.nodes[old].ended()
    });
    assert_eq!(status.code(), Some(TAKEN), "{status}\n{}", fleet.nodes[old].log());
}

/// The coordinator knows that the node lives, and so does the node: nothing moves. Writes wait, reads are answered.
#[test]
fn a_node_that_is_cut_off_from_the_bucket_waits() {
    let Some(mut fleet) = Fleet::start(3, Options::with_databases(5)) else { return };
    let traffic = Traffic::start(&fleet, 6);
    traffic.await_writes();
    let (cut, its) = fleet.busiest();
    let others: Vec<&String> = fleet.options.databases.iter().filter(|database| !its.contains(database)).collect();
    let mut client = fleet.client(&its[0]);
    client.insist("SET witness old");
    fleet.nodes[cut].store.hold_back();
    // A write that is not durable is not acknowledged.
    let port = fleet.nodes[cut].port;
    let mut connection = log_in(port, &token(&its[0])).unwrap();
    let written = connection.try_call(&["SET", "witness", "unsure"]);
    assert!(written.as_ref().map_or(true, |reply| reply.is_error()), "{written:?}");
    for database in others {
        fleet.client(database).insist("SET witness fine");
    }
    fleet.nodes[cut].store.let_through();
    println!("{its:?} were written to {:?} after the cut", traffic.await_writes());
    let found = client.insist("GET witness");
    assert!(["old", "unsure"].map(Some).contains(&found.text()), "{found:?}");
    assert!(fleet.nodes[cut].is_running(), "{}", fleet.nodes[cut].log());
    assert_linearizable(&traffic.end(&fleet));
}

/// A node that is cut off from both is dead to the others, which take over. It never learns that before it is back.
#[test]
fn a_node_that_is_cut_off_from_everything_but_clients_is_replaced() {
    let Some(mut fleet) = Fleet::start(2, Options::with_databases(4)) else { return };
    let traffic = Traffic::start(&fleet, 7);
    traffic.await_writes();
    let (old, its) = fleet.busiest();
    fleet.client(&its[0]).insist("SET witness old");
    let mut connection = log_in(fleet.nodes[old].port, &token(&its[0])).unwrap();
    fleet.nodes[old].etcd.hold_back();
    fleet.nodes[old].store.hold_back();
    println!("{its:?} were taken over {:?} after the cut", traffic.await_writes());
    fleet.client(&its[0]).insist("SET witness new");
    assert!(is_refused(&mut connection, "old", "new"));
    fleet.nodes[old].store.let_through();
    fleet.nodes[old].etcd.let_through();
    let status = fleet.nodes[old].wait();
    assert_eq!(status.code(), Some(TAKEN), "{status}\n{}", fleet.nodes[old].log());
    fleet.nodes[old].start();
    traffic.await_writes();
    assert_linearizable(&traffic.end(&fleet));
}
