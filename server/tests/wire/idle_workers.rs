//! Workers of job queues that have nothing to do, and subscribers: their database falls asleep and stays asleep.
//!
//! Each client repeats the commands of its library in a loop, as soon as the timeout of the last one is over: in an hour a
//! worker that waits five seconds at a time does so 720 times. Here such an hour is shorter: each wait takes 20 ms. Only a
//! script that needs data wakes the database.

use std::sync::Arc;

use crate::node::{Bench, Connection};
use dormouse::keeper;
use dormouse_autoscaler::Autoscaler;

/// A client that repeats one command.
struct Idler {
    connection: Connection,
    line: String,
    reply: &'static str,
}

impl Idler {
    fn new(bench: &Bench, line: &str, reply: &'static str) -> Self {
        Self { connection: bench.connect(), line: line.to_owned(), reply }
    }

    fn begin(&mut self) {
        self.connection.send(&[&self.line]);
    }

    fn end(&mut self) {
        self.connection.expect(self.reply);
    }
}

/// Waits of five seconds in an hour.
const WAITS_IN_AN_HOUR: usize = 720;

const NOTHING: &str = "*-1\r\n";

/// Queues of several priorities, as kombu names them.
fn queues(count: usize) -> String {
    (0..count).map(|number| format!("celery\u{6}\u{16}{number}")).collect::<Vec<_>>().join(" ")
}

fn idlers(bench: &Bench) -> Vec<Idler> {
    let mut subscriber = Idler::new(bench, "PING", "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    subscriber.connection.check("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    let mut all = vec![
        // BullMQ waits for a marker.
        Idler::new(bench, "BZPOPMIN bull:mail:marker 0.02", NOTHING),
        Idler::new(bench, "BZPOPMIN bull:video:marker 0.02", NOTHING),
        // Celery: several workers with the same queues, and one with others.
        Idler::new(bench, &format!("BRPOP {} 0.02", queues(4)), NOTHING),
        Idler::new(bench, &format!("BRPOP {} 0.02", queues(4)), NOTHING),
        Idler::new(bench, &format!("BRPOP {} 0.02", queues(12)), NOTHING),
        // Its heartbeats.
        Idler::new(bench, "PUBLISH /0.celeryev/worker.heartbeat {}", ":0\r\n"),
        // Other queues.
        Idler::new(bench, "BLMOVE jobs jobs:active RIGHT LEFT 0.02", NOTHING),
        Idler::new(bench, "BLMPOP 0.02 2 high low LEFT", NOTHING),
        Idler::new(bench, "XREAD BLOCK 20 STREAMS events $", NOTHING),
        Idler::new(bench, "XREADGROUP GROUP g c BLOCK 20 STREAMS tasks >", NOTHING),
    ];
    all.push(subscriber);
    all
}

/// All clients do once what they do.
fn round(idlers: &mut [Idler]) {
    idlers.iter_mut().for_each(Idler::begin);
    idlers.iter_mut().for_each(Idler::end);
}

/// Rounds until the database has slept through some of them. A request that was between two waits when the database fell
/// asleep wakes it once.
#[track_caller]
fn until_asleep(bench: &Bench, idlers: &mut [Idler]) {
    let database = Arc::clone(&bench.tenant("default").database);
    const ASLEEP: usize = 5;
    let mut asleep = 0;
    for _ in 0..5_000 {
        let before = bench.wakes("default");
        round(idlers);
        asleep = if database.is_awake() || bench.wakes("default") > before { 0 } else { asleep + 1 };
        if asleep == ASLEEP {
            return;
        }
    }
    panic!("it stays awake");
}

#[test]
fn idle_workers_and_subscribers_let_their_database_sleep() {
    let bench = Bench::new(&[]);
    let mut other = bench.connect();
    other.check("CONFIG SET sleep-after 1s", "+OK\r\n");
    other.check("XGROUP CREATE tasks g $ MKSTREAM", "+OK\r\n");
    other.check("HSET bull:mail:meta paused 0", ":1\r\n");
    // BullMQ looks whether its queue is paused.
    let words = ["EVAL", "return redis.call('HGET', KEYS[1], 'paused')", "1", "bull:mail:meta"];
    let words: Vec<String> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    let script = format!("*{}\r\n{}", words.len(), words.concat());
    other.write(&script);
    other.expect("$1\r\n0\r\n");
    let mut idlers = idlers(&bench);
    let autoscaler = Autoscaler::new(bench.node.policy.clone()).expect("the default policy");
    let entered = bench.runtime.enter();
    keeper::start(&bench.node, autoscaler);
    drop(entered);
    let database = Arc::clone(&bench.tenant("default").database);
    until_asleep(&bench, &mut idlers);

    let before = bench.wakes("default");
    for _ in 0..WAITS_IN_AN_HOUR {
        round(&mut idlers);
        assert!(!database.is_awake());
    }
    assert_eq!(bench.wakes("default"), before, "idle clients wake nothing");

    // A script that needs data wakes it once, and it falls asleep again.
    other.write(&script);
    other.expect("$1\r\n0\r\n");
    assert_eq!(bench.wakes("default"), before + 1);
    until_asleep(&bench, &mut idlers);

    // Nobody was forgotten.
    idlers.iter_mut().for_each(Idler::begin);
    other.check("ZADD bull:mail:marker 0 0", ":1\r\n");
    idlers[0].connection.expect("*3\r\n$16\r\nbull:mail:marker\r\n$1\r\n0\r\n$1\r\n0\r\n");
}
