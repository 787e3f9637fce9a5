//! Nodes, and etcd, end and come back.

use super::eventually;
use super::fleet::{Fleet, Options};
use super::history::assert_linearizable;
use super::traffic::Traffic;

#[test]
fn a_node_that_ends_in_order_hands_its_databases_over() {
    let Some(mut fleet) = Fleet::start(3, Options::with_databases(5)) else { return };
    let traffic = Traffic::start(&fleet, 8);
    traffic.await_writes();
    for _ in 0..2 {
        let (busiest, its) = fleet.busiest();
        fleet.nodes[busiest].terminate();
        println!("{its:?} moved within {:?}", traffic.await_writes());
        let status = fleet.nodes[busiest].wait();
        assert!(status.success(), "{status}\n{}", fleet.nodes[busiest].log());
        traffic.await_writes();
        fleet.nodes[busiest].start();
    }
    println!("failures: {:#?}", traffic.failures());
    assert_linearizable(&traffic.end(&fleet));
}

/// The last node has no other to hand its databases to: they sleep, and any node may take them.
#[test]
fn all_nodes_end_in_order_and_others_begin() {
    let Some(mut fleet) = Fleet::start(2, Options::with_databases(3)) else { return };
    let traffic = Traffic::start(&fleet, 9);
    traffic.await_writes();
    fleet.nodes.iter().for_each(|node| node.terminate());
    for node in &mut fleet.nodes {
        let status = node.wait();
        assert!(status.success(), "{status}\n{}", node.log());
        node.name = format!("other-{}", node.name);
    }
    fleet.start_all();
    traffic.await_writes();
    assert_linearizable(&traffic.end(&fleet));
}

#[test]
fn all_nodes_die_at_once() {
    let Some(mut fleet) = Fleet::start(3, Options::with_databases(4)) else { return };
    let traffic = Traffic::start(&fleet, 10);
    traffic.await_writes();
    fleet.kill_all();
    fleet.start_all();
    println!("under the same names: {:?}", traffic.await_writes());
    fleet.kill_all();
    fleet.nodes.iter_mut().for_each(|node| node.name = format!("other-{}", node.name));
    fleet.start_all();
    println!("under other names: {:?}", traffic.await_writes());
    // Some under each, while the others stay away.
    fleet.kill_all();
    fleet.nodes[0].name = "a".to_owned();
    fleet.nodes[0].start();
    println!("one alone: {:?}", traffic.await_writes());
    assert_linearizable(&traffic.end(&fleet));
}

/// Two processes under one name: the newer takes over from the older, as a lone process would.
#[test]
fn the_newer_process_of_a_name_takes_over() {
    let Some(mut fleet) = Fleet::start(2, Options::with_databases(4)) else { return };
    let traffic = Traffic::start(&fleet, 11);
    traffic.await_writes();
    fleet.nodes[1].kill();
    traffic.await_writes();
    fleet.nodes[1].name = "a".to_owned();
    fleet.nodes[1].start();
    let status = fleet.nodes[0].wait();
    assert_eq!(status.code(), Some(super::fleet::TAKEN), "{status}\n{}", fleet.nodes[0].log());
    traffic.await_writes();
    assert_linearizable(&traffic.end(&fleet));
}

/// Nodes need etcd once in a lease.
#[test]
fn etcd_may_be_away_for_less_than_the_lease() {
    let options = Options { lease: "60s".to_owned(), ..Options::with_databases(4) };
    let Some(mut fleet) = Fleet::start(2, options) else { return };
    let traffic = Traffic::start(&fleet, 12);
    traffic.await_writes();
    // Each client has found the nodes.
    traffic.await_answers(200);
    let before = traffic.failures();
    fleet.etcd.kill();
    traffic.await_answers(300);
    fleet.etcd.start_again();
    traffic.await_answers(100);
    fleet.etcd.stop();
    traffic.await_answers(300);
    fleet.etcd.go_on();
    traffic.await_answers(100);
    assert_eq!(before, traffic.failures());
    assert_linearizable(&traffic.end(&fleet));
}

/// Without a lease no node serves. When etcd is back, all do, and none was taken for dead.
#[test]
fn etcd_may_be_away_for_longer_than_the_lease() {
    let Some(mut fleet) = Fleet::start(2, Options::with_databases(4)) else { return };
    let traffic = Traffic::start(&fleet, 13);
    traffic.await_writes();
    fleet.etcd.kill();
    eventually("nodes refuse", || traffic.failures().keys().any(|text| text.contains("CLUSTERDOWN")).then_some(()));
    fleet.etcd.start_again();
    println!("served {:?} after etcd", traffic.await_writes());
    assert!(fleet.nodes.iter_mut().all(|node| node.is_running()));
    // A node that begins without etcd has no wrong option: a supervisor may start it again.
    fleet.nodes[0].kill();
    fleet.nodes[0].etcd.hold_back();
    fleet.nodes[0].spawn();
    let status = fleet.nodes[0].wait();
    let log = fleet.nodes[0].log();
    assert!(status.code() == Some(1) && log.contains("Check that etcd is running"), "{status}\n{log}");
    assert_linearizable(&traffic.end(&fleet));
}
