//! Rounds of random failures, drawn from a seed, beneath clients whose history must be linearizable.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use dormouse_client_tests::script::Random;
use dormouse_client_tests::wait_for;

use super::fleet::{Fleet, Options, TAKEN};
use super::history::assert_linearizable;
use super::traffic::Traffic;

const NODES: usize = 3;
const SIGTERM: i32 = 15;
/// Rounds after which the history is checked, and begins again on a new fleet.
const ROUNDS_TOGETHER: usize = 10;

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`, not a number")),
        Err(_) => otherwise,
    }
}

/// A failure, and whether the others have the time to take over.
#[derive(Debug, Clone, Copy)]
enum Failure {
    Kill,
    KillAll,
    Stop,
    CutFromEtcd,
    CutFromStore,
    CutFromBoth,
    End,
    EtcdRestarts,
    KillTwo,
    EndBesideAKill,
    /// Databases move; the node that they come from, or one that they may go to, may die meanwhile.
    Moves,
}

const FAILURES: [Failure; 11] = [
    Failure::Kill,
    Failure::KillAll,
    Failure::Stop,
    Failure::CutFromEtcd,
    Failure::CutFromStore,
    Failure::CutFromBoth,
    Failure::End,
    Failure::EtcdRestarts,
    Failure::KillTwo,
    Failure::EndBesideAKill,
    Failure::Moves,
];

/// A while that is sometimes shorter than the lease, sometimes about as long, or the time that the others need to take over.
fn a_while(random: &mut Random, traffic: &Traffic) {
    match random.below(3) {
        0 => _ = wait_for(Duration::from_millis(random.below(1000) as u64), || None::<()>),
        1 => _ = wait_for(Duration::from_millis(2500 + random.below(1500) as u64), || None::<()>),
        // The others may have ended, too, and are started again later.
        _ => _ = traffic.writes_within(Duration::from_secs(10)),
    }
}

fn round(fleet: &mut Fleet, traffic: &Traffic, failure: Failure, random: &mut Random) {
    let (node, other) = (random.below(NODES), 1 + random.below(NODES - 1));
    let other = (node + other) % NODES;
    match failure {
        Failure::Kill => {
            fleet.nodes[node].kill();
            a_while(random, traffic);
        }
        Failure::KillTwo => {
            fleet.nodes[node].kill();
            fleet.nodes[other].kill();
            a_while(random, traffic);
        }
        Failure::KillAll => fleet.kill_all(),
        Failure::Stop => {
            fleet.nodes[node].stop();
            a_while(random, traffic);
            fleet.nodes[node].go_on();
        }
        Failure::CutFromEtcd => {
            fleet.nodes[node].etcd.hold_back();
            a_while(random, traffic);
            fleet.nodes[node].etcd.let_through();
        }
        Failure::CutFromStore => {
            fleet.nodes[node].store.hold_back();
            // The others cannot take over: it lives.
            _ = wait_for(Duration::from_millis(random.below(4000) as u64), || None::<()>);
            fleet.nodes[node].store.let_through();
        }
        Failure::CutFromBoth => {
            fleet.nodes[node].etcd.hold_back();
            fleet.nodes[node].store.hold_back();
            a_while(random, traffic);
            let wires = [&fleet.nodes[node].etcd, &fleet.nodes[node].store];
            let first = random.below(2);
            wires[first].let_through();
            wires[1 - first].let_through();
        }
        Failure::End => {
            fleet.nodes[node].terminate();
            let status = fleet.nodes[node].wait();
            // It may have been taken over shortly before, or have been starting, which the signal ends at once.
            let ends = [Some(0), Some(TAKEN)].contains(&status.code()) || status.signal() == Some(SIGTERM);
            assert!(ends, "{status}\n{}", fleet.nodes[node].log());
        }
        Failure::EndBesideAKill => {
            fleet.nodes[node].terminate();
            fleet.nodes[other].kill();
            _ = fleet.nodes[node].wait();
        }
        Failure::Moves => {
            let dies = random.one_in(2);
            let targets: Vec<usize> = fleet.options.databases.iter().map(|_| random.below(NODES)).collect();
            let nodes = &fleet.nodes;
            std::thread::scope(|scope| {
                for (database, to) in fleet.options.databases.iter().zip(targets) {
                    // Whether it moves is open, as long as nothing is lost.
                    scope.spawn(move || _ = nodes[node].move_database(database, &nodes[to].name));
                }
                if dies {
                    traffic.await_answers(random.below(20));
                    nodes[other].send_kill();
                }
            });
            if dies {
                fleet.nodes[other].wait();
            }
        }
        Failure::EtcdRestarts => {
            fleet.etcd.kill();
            _ = wait_for(Duration::from_millis(random.below(4000) as u64), || None::<()>);
            fleet.etcd.start_again();
        }
    }
    // Processes that have ended begin again, and those that were taken over, when they notice.
    let begins = random.one_in(2);
    if begins {
        start_ended(fleet);
    }
    let served = dormouse_client_tests::wait_for(super::LIMIT, || {
        start_ended(fleet);
        traffic.writes_within(Duration::from_secs(1)).then_some(())
    });
    assert!(served.is_some(), "no writes after {failure:?}: {:#?}", traffic.failures());
}

/// Starts processes that have ended. Only those that were taken over end by themselves.
fn start_ended(fleet: &mut Fleet) {
    for node in &mut fleet.nodes {
        if node.has_process() {
            let Some(status) = node.ended() else { continue };
            // One that starts needs etcd and the bucket.
            let ends = status.code() == Some(TAKEN) || !node.has_served() && status.code() == Some(1);
            assert!(ends, "{} ended with {status}\n{}", node.name, node.log());
        }
        node.spawn();
    }
}

#[test]
fn random_failures_leave_a_linearizable_history() {
    let otherwise = if std::env::var_os("DORMOUSE_LONG").is_some() { 200 } else { 6 };
    let (rounds, seed) = (number("DORMOUSE_FLEET_ROUNDS", otherwise), number("DORMOUSE_FLEET_SEED", 1));
    let mut random = Random::new(seed);
    let mut done = 0;
    while done < rounds {
        let Some(mut fleet) = Fleet::start(NODES, Options::with_databases(3)) else { return };
        let traffic = Traffic::start(&fleet, seed.wrapping_add(done));
        traffic.await_writes();
        for _ in 0..ROUNDS_TOGETHER.min((rounds - done) as usize) {
            let failure = *random.pick(&FAILURES);
            println!("round {done} of seed {seed}: {failure:?}");
            round(&mut fleet, &traffic, failure, &mut random);
            done += 1;
        }
        println!("{} answers; failures: {:#?}", traffic.answers(), traffic.failures());
        let operations = traffic.end(&fleet);
        assert_linearizable(&operations);
        fleet.end();
    }
}
