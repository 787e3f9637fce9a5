//! How fleets begin: on a new store, or on one that a lone process has used.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Barrier;

use dormouse_client_tests::ports::free_port;
use dormouse_client_tests::server::{command_on, terminate};
use dormouse_client_tests::{Server, Settings, wait_for};

use super::client::Client;
use super::fleet::{Bucket, Fleet, Options, token};
use super::history::assert_linearizable;
use super::traffic::Traffic;
use super::{LIMIT, eventually};

/// Two nodes start at the same moment, and clients of both use the same new databases at the same moment.
#[test]
fn nodes_that_begin_together_agree() {
    let Some(mut fleet) = Fleet::prepare(2, Options::with_databases(6), Bucket::honest()) else { return };
    fleet.start_all();
    let barrier = Barrier::new(2);
    let first: Vec<Vec<i64>> = std::thread::scope(|scope| {
        let users = (0..2).map(|node| {
            let (fleet, barrier) = (&fleet, &barrier);
            let each = move |database: &String| {
                let mut client = Client::beginning_at(fleet.ports(), &token(database), node);
                barrier.wait();
                // Refused commands are not carried out. An unknown outcome would be counted twice, and fails the test.
                client.insist("INCR first").integer().unwrap()
            };
            scope.spawn(move || fleet.options.databases.iter().map(each).collect::<Vec<i64>>())
        });
        let users: Vec<_> = users.collect();
        users.into_iter().map(|user| user.join().unwrap()).collect()
    });
    for (at, database) in fleet.options.databases.iter().enumerate() {
        let mut counts = [first[0][at], first[1][at]];
        counts.sort_unstable();
        assert_eq!(counts, [1, 2], "{database} has two histories");
    }
    // All start on the traffic of a fleet that has never seen it, each client at a node of its own.
    let traffic = Traffic::between(fleet.ports(), &fleet.options.databases, 14, |client| client);
    traffic.await_writes();
    assert_linearizable(&traffic.end(&fleet));
}

const SETTINGS: Settings = Settings {
    loss_window: Some("0"),
    tokens: &["dm_d0_abcdefgh", "dm_d1_abcdefgh", "dm_d2_abcdefgh"],
    max_clients: None,
    workers: None,
    http_port: None,
    is_cluster: false,
    sleep_after: None,
    takes_debug: false,
    tls: None,
    is_unchecked: false,
    options: &[],
};

/// A lone process has used the store, and ended.
fn begin_after(end: impl FnOnce(&mut Server)) {
    let Some(mut fleet) = Fleet::prepare(2, Options::with_databases(3), Bucket::honest()) else { return };
    let mut server = Server::start_on_with(&fleet.bucket.remote(), SETTINGS);
    for database in &fleet.options.databases {
        let mut client = Client::new([server.port()].into(), &token(database));
        for number in 0..20 {
            client.insist(&format!("SET key:{number} {database}"));
        }
        client.insist("DORMOUSE CHECKPOINT");
        client.insist("SET late value");
    }
    end(&mut server);
    fleet.start_all();
    let traffic = Traffic::start(&fleet, 15);
    traffic.await_writes();
    for database in &fleet.options.databases {
        let mut client = fleet.client(database);
        assert_eq!(client.insist("GET late").text(), Some("value"), "{database}");
        for number in 0..20 {
            assert_eq!(client.insist(&format!("GET key:{number}")).text(), Some(&**database));
        }
    }
    fleet.nodes[0].kill();
    traffic.await_writes();
    fleet.nodes[1].kill();
    fleet.start_all();
    traffic.await_writes();
    assert_linearizable(&traffic.end(&fleet));
    for database in &fleet.options.databases {
        assert_eq!(fleet.client(database).insist("GET late").text(), Some("value"), "{database}");
    }
}

#[test]
fn a_store_of_a_lone_process_that_ended_in_order_becomes_that_of_a_fleet() {
    begin_after(|server| assert!(server.stop().success()));
}

#[test]
fn a_store_of_a_lone_process_that_was_killed_becomes_that_of_a_fleet() {
    begin_after(Server::kill);
}

/// It does not know of the nodes, and would write beside them. When all have ended in order, it may have the store.
#[test]
fn a_lone_process_gets_the_store_of_a_fleet_only_when_all_nodes_have_ended() {
    let Some(mut fleet) = Fleet::start(2, Options::with_databases(3)) else { return };
    let traffic = Traffic::start(&fleet, 16);
    traffic.await_writes();
    refused(&fleet);
    fleet.nodes[0].kill();
    traffic.await_writes();
    refused(&fleet);
    fleet.nodes[1].kill();
    // Both may be alive, as far as the store tells.
    refused(&fleet);
    fleet.start_all();
    traffic.await_writes();
    for node in &mut fleet.nodes {
        node.terminate();
        assert!(node.wait().success());
    }
    // Clients of the lone process are clients of the fleet: it has the port of a node.
    let mut alone = lone(&fleet, fleet.nodes[0].port, Stdio::null());
    traffic.await_writes();
    terminate(&alone.0);
    let status = eventually("it ends", || alone.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
    fleet.start_all();
    traffic.await_writes();
    assert_linearizable(&traffic.end(&fleet));
}

struct Lone(Child);

impl Drop for Lone {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Starts a process without `--cluster` on the store of a fleet.
fn lone(fleet: &Fleet, port: u16, output: impl Into<Stdio>) -> Lone {
    let mut command = command_on(&fleet.bucket.remote(), port, SETTINGS);
    Lone(command.stderr(output).stdout(Stdio::null()).spawn().unwrap())
}

fn refused(fleet: &Fleet) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut process = lone(fleet, free_port(), File::create(&log).unwrap());
    let status = wait_for(LIMIT, || process.0.try_wait().unwrap());
    let said = read(&log);
    let status = status.unwrap_or_else(|| panic!("a lone process serves the store of a fleet: {said}"));
    assert!(!status.success() && said.contains("fleet"), "{status}: {said}");
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
