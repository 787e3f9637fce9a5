//! Databases move while they are used.

use std::time::{Duration, Instant};

use dormouse_client_tests::script::Random;

use super::client::Client;
use super::eventually;
use super::fleet::{Fleet, Options, token};
use super::history::assert_linearizable;
use super::traffic::Traffic;

const MOVES: usize = 10;

/// Moves a database by a request to any node, until it is there.
fn move_to(fleet: &Fleet, asked: usize, database: &str, to: usize) {
    let mut last = None;
    let moved = dormouse_client_tests::wait_for(super::LIMIT, || {
        let answer = fleet.nodes[asked].move_database(database, &fleet.nodes[to].name);
        let is_moved = answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
        last = Some(answer);
        is_moved.then_some(())
    });
    assert!(moved.is_some(), "{database} does not move: {last:?}");
}

#[test]
fn databases_move_around() {
    let Some(fleet) = Fleet::start(3, Options::with_databases(3)) else { return };
    let traffic = Traffic::start(&fleet, 17);
    traffic.await_writes();
    let (mut random, mut slowest) = (Random::new(17), Duration::ZERO);
    for _ in 0..MOVES {
        let database = random.pick(&fleet.options.databases).clone();
        let (asked, to) = (random.below(3), random.below(3));
        let began = Instant::now();
        move_to(&fleet, asked, &database, to);
        let moved = began.elapsed();
        let began = Instant::now();
        for at in 0..3 {
            let mut client = Client::beginning_at(fleet.ports(), &token(&database), at);
            assert_eq!(client.serving_port(), fleet.nodes[to].port, "{database}");
        }
        println!("{database} moved to {to} within {moved:?}, and was found within {:?}", began.elapsed());
        slowest = slowest.max(began.elapsed());
    }
    println!("found again through all nodes within {slowest:?}");
    println!("{MOVES} moves; writes after {:?}; failures: {:#?}", traffic.await_writes(), traffic.failures());
    // Clients take a wrong password for final. Nodes that do not agree are slow.
    for never in ["WRONGPASS", "do not agree"] {
        assert!(!traffic.failures().keys().any(|text| text.contains(never)), "{:#?}", traffic.failures());
    }
    assert_linearizable(&traffic.end(&fleet));
}

/// Both ends of a move die, one after the other, while moves go on.
#[test]
fn databases_move_while_nodes_die() {
    let Some(mut fleet) = Fleet::start(3, Options::with_databases(3)) else { return };
    let traffic = Traffic::start(&fleet, 18);
    traffic.await_writes();
    for round in 0..3 {
        let (from, to, other) = (round % 3, (round + 1) % 3, (round + 2) % 3);
        for database in &fleet.options.databases {
            move_to(&fleet, other, database, from);
        }
        let dies = if round == 1 { from } else { to };
        let (beside, name) = (&fleet.nodes[other], &fleet.nodes[to].name);
        std::thread::scope(|scope| {
            for database in &fleet.options.databases {
                // The outcome is open: it has moved, or not.
                scope.spawn(move || _ = beside.move_database(database, name));
            }
            traffic.await_answers(1);
            fleet.nodes[dies].send_kill();
        });
        fleet.nodes[dies].wait();
        println!("{} died: {:?}", fleet.nodes[dies].name, traffic.await_writes());
        fleet.nodes[dies].start();
        eventually("all run", || fleet.nodes.iter_mut().all(super::fleet::Node::is_running).then_some(()));
    }
    assert_linearizable(&traffic.end(&fleet));
}
