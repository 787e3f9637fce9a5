//! A node dies, and the others take over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dormouse_client_tests::resp::Reply;

use super::client::{Client, Outcome};
use super::fleet::{Bucket, Fleet, Options};
use super::history::assert_linearizable;
use super::traffic::Traffic;

const WINDOW: Duration = Duration::from_secs(1);

/// Appends numbers to a list until a command fails. Returns when each was acknowledged.
fn append(client: &mut Client, ended: &AtomicBool) -> Vec<Instant> {
    let mut acknowledged = Vec::new();
    while !ended.load(Ordering::SeqCst) {
        let words = ["RPUSH", "list", &acknowledged.len().to_string()].map(str::to_owned);
        match client.run(&words) {
            Outcome::Answered(_) => acknowledged.push(Instant::now()),
            Outcome::Refused(_) if acknowledged.is_empty() => {}
            _ => break,
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    acknowledged
}

/// Kills the node that serves most databases. With a loss window, databases lose no more than its end.
fn survivors_take_over(bucket: Bucket) {
    let lossy: Vec<String> = (0..6).map(|number| format!("lossy{number}")).collect();
    let options = Options { others: lossy.clone(), ..Options::with_databases(5) };
    let Some(mut fleet) = Fleet::prepare(3, options, bucket) else { return };
    fleet.start_all();
    let mut admin: Vec<Client> = lossy.iter().map(|database| fleet.client(database)).collect();
    for client in &mut admin {
        assert_eq!(client.insist("CONFIG SET loss-window 1s").text(), Some("OK"));
    }
    let traffic = Traffic::start(&fleet, 1);
    traffic.await_writes();
    let (busiest, its) = fleet.busiest();
    assert!(!its.is_empty());
    let ended = AtomicBool::new(false);
    let (killed, taken_over, lists) = std::thread::scope(|scope| {
        let lists: Vec<_> = admin.iter_mut().map(|client| scope.spawn(|| append(client, &ended))).collect();
        // Long enough for the window to matter.
        let began = Instant::now();
        while began.elapsed() < WINDOW * 2 {
            traffic.await_answers(1);
        }
        let killed = Instant::now();
        fleet.nodes[busiest].kill();
        let taken_over = traffic.await_writes();
        ended.store(true, Ordering::SeqCst);
        (killed, taken_over, lists.into_iter().map(|list| list.join().unwrap()).collect::<Vec<_>>())
    });
    println!("{its:?} were taken over {taken_over:?} after the kill; failures: {:#?}", traffic.failures());
    assert_linearizable(&traffic.end(&fleet));
    let mut hit = 0;
    for (database, acknowledged) in lossy.iter().zip(lists) {
        let reply = fleet.client(database).insist("LRANGE list 0 -1");
        let found: Vec<&str> = reply.items().unwrap().iter().filter_map(Reply::text).collect();
        let expected: Vec<String> = (0..found.len()).map(|number| number.to_string()).collect();
        assert_eq!(found, expected, "{database}: a part is missing");
        let safe = acknowledged.iter().filter(|moment| **moment + WINDOW <= killed).count();
        assert!(found.len() >= safe, "{database}: {} elements, but {safe} were older than the window", found.len());
        hit += usize::from(found.len() < acknowledged.len());
    }
    println!("{hit} of {} databases with a loss window lost its end", lossy.len());
    // The dead node comes back, and serves again.
    fleet.nodes[busiest].start();
    fleet.options.databases.iter().for_each(|database| drop(fleet.client(database).insist("GET r0")));
}

#[test]
fn survivors_take_over_what_a_killed_node_served() {
    survivors_take_over(Bucket::honest());
}

#[test]
fn survivors_take_over_in_a_bucket_of_moto() {
    let Some(bucket) = Bucket::moto() else { return };
    survivors_take_over(bucket);
}

/// The last node serves what it takes over from the others.
#[test]
fn the_last_node_serves_everything() {
    let Some(mut fleet) = Fleet::start(3, Options::with_databases(4)) else { return };
    let traffic = Traffic::start(&fleet, 2);
    traffic.await_writes();
    for node in [1, 0] {
        fleet.nodes[node].kill();
        println!("{} is dead: {:?}", fleet.nodes[node].name, traffic.await_writes());
    }
    assert_linearizable(&traffic.end(&fleet));
    assert!(fleet.options.databases.iter().all(|database| fleet.owner(database) == 2));
}
