//! Tests of blocking commands: who waits, who is served, in which order, and what the log has of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};

use dormouse_protocol::{OwnedRequest, Response, Version};
use fastrand::Rng;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use super::route::slot_of;
use super::tests::engine;
use super::*;
use crate::checkpoint::SleepOutcome;
use crate::commands::find;
use crate::commands::testing::{Bench, show};
use crate::database::Engine;
use crate::keyspace::changes::{EventClass, KeyEvent};
use crate::lane::Lane;
use crate::waiters::{ServedReply, WaitEvent};

const NOW_MS: u64 = 1_700_000_000_000;

/// A database, and the clients that wait in it, by number.
struct Clients {
    runtime: Runtime,
    database: Arc<Database>,
    waiting: BTreeMap<usize, Arc<Waiter>>,
    last: usize,
}

fn text(reply: &Reply) -> String {
    let mut rest = &reply.buffer[..];
    let mut shown = Vec::new();
    while !rest.is_empty() {
        shown.push(show(&Response::read(&mut rest).expect("a reply")));
    }
    shown.join(" | ")
}

impl Clients {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let engine = engine(runtime.handle());
        Self::over(runtime, engine)
    }

    fn over(runtime: Runtime, engine: Engine) -> Self {
        let database = runtime.block_on(Database::open("test", 7, engine));
        Self { runtime, database, waiting: BTreeMap::new(), last: 0 }
    }

    fn command(line: &str) -> PlannedCommand {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let request = OwnedRequest::from_args(&args);
        let (row, run) = find(request.as_request()).expect("a command");
        PlannedCommand {
            row,
            run,
            request,
            context: Context { select: 0, version: Version::Resp2, no_touch: false, tracker: Default::default() },
        }
    }

    fn run(&self, plan: Plan) -> Outcome {
        let (plan, turn) = (Arc::new(plan), Arc::new(Turn::endless(None)));
        let ran = run(&self.database, &plan, &turn);
        self.runtime.block_on(ran).expect("it runs")
    }

    /// Sends a command from a new client. `None`: the client waits.
    fn send(&mut self, line: &str) -> Option<String> {
        let mut plan = Plan::one(Self::command(line), NOW_MS, 1);
        plan.blocking = Blocking::First;
        let outcome = self.run(plan);
        self.last += 1;
        match outcome.blocked {
            Some(waiter) => {
                self.waiting.insert(self.last, waiter);
                None
            }
            None => Some(text(&outcome.replies)),
        }
    }

    fn replies(&mut self, line: &str) -> String {
        self.send(line).expect("a reply")
    }

    fn transaction(&self, queue: &[&str]) -> String {
        let mut plan = Plan::new(NOW_MS, 1);
        plan.steps.extend(queue.iter().map(|line| Step::Command(Self::command(line))));
        text(&self.run(plan).replies)
    }

    /// The replies of clients that were served since the last call. Nudged clients run their commands again, the last
    /// of them first.
    fn served(&mut self) -> BTreeMap<usize, String> {
        let mut served = BTreeMap::new();
        loop {
            let mut nudged = None;
            let mut over = Vec::new();
            for (client, waiter) in &self.waiting {
                match waiter.poll(&mut std::task::Context::from_waker(Waker::noop())) {
                    Poll::Ready(WaitEvent::Served(ServedReply { reply, .. })) => over.push((*client, text(&reply))),
                    Poll::Ready(WaitEvent::Nudged) => nudged = Some((*client, Arc::clone(waiter))),
                    Poll::Ready(WaitEvent::Ended) | Poll::Pending => {}
                }
            }
            for (client, reply) in over {
                self.waiting.remove(&client);
                served.insert(client, reply);
            }
            let Some((client, waiter)) = nudged else { return served };
            let (row, run, request, context) = (waiter.row, waiter.run, waiter.request.clone(), waiter.context);
            let mut plan = Plan::one(PlannedCommand { row, run, request, context }, NOW_MS, 1);
            plan.blocking = Blocking::Again(waiter);
            let outcome = self.run(plan);
            if outcome.blocked.is_none() {
                self.waiting.remove(&client);
                served.insert(client, text(&outcome.replies));
            }
        }
    }

    fn leave(&mut self, client: usize) {
        let waiter = self.waiting.remove(&client).expect("it waits");
        assert!(waiter.end());
        self.database.waiters.remove(&waiter);
    }

    fn split(&self, slot: u16) {
        self.runtime.block_on(self.database.split(slot)).expect("it splits");
    }

    fn sleep(&self) {
        let slept = self.runtime.block_on(self.database.sleep_promptly()).expect("it can be stored");
        assert_eq!(slept, SleepOutcome::FellAsleep);
    }

    fn merge(&self, slot: u16) {
        self.runtime.block_on(self.database.merge(slot)).expect("it merges");
    }

    /// Whether the place of a key is in memory.
    fn has_loaded(&self, key: &str) -> bool {
        let topology = self.database.topology().expect("it is awake");
        let gate = &topology.shards[topology.of_slot(slot_of(key.as_bytes()))];
        let held = gate.try_hold().expect("no command runs");
        let mut contents = held.contents();
        let db = Keyspace::new([&mut *contents], &self.database.shared, 0, NOW_MS, 1);
        db.missing(db.position(key.as_bytes())).is_none()
    }
}

#[track_caller]
fn check_served(clients: &mut Clients, expected: &[(usize, &str)]) {
    let expected: BTreeMap<usize, String> = expected.iter().map(|(client, reply)| (*client, (*reply).into())).collect();
    assert_eq!(clients.served(), expected);
}

#[test]
fn the_first_to_come_is_served_first() {
    let mut clients = Clients::new();
    assert_eq!(clients.send("BLPOP a b 0"), None);
    assert_eq!(clients.send("BRPOP b a 0"), None);
    assert_eq!(clients.replies("RPUSH b 1"), "1");
    check_served(&mut clients, &[(1, "[b 1]")]);
    assert_eq!(clients.replies("RPUSH a 2 3"), "2");
    check_served(&mut clients, &[(2, "[a 3]")]);
    assert_eq!(clients.replies("LRANGE a 0 -1"), "[2]");
    assert_eq!(clients.replies("EXISTS b"), "0");
}

#[test]
fn a_client_that_has_left_takes_nothing() {
    let mut clients = Clients::new();
    assert_eq!(clients.send("BLPOP a 0"), None);
    assert_eq!(clients.send("BLPOP a 0"), None);
    clients.leave(1);
    assert_eq!(clients.replies("RPUSH a 1 2"), "2");
    check_served(&mut clients, &[(2, "[a 1]")]);
    assert_eq!(clients.replies("LRANGE a 0 -1"), "[2]");
}

#[test]
fn a_served_move_serves_others() {
    for shards in [1, 4] {
        let mut clients = Clients::new();
        clients.replies("EXISTS a");
        (1..shards).for_each(|shard| clients.split(16384 / shards * shard));
        for line in ["BLMOVE a b LEFT RIGHT 0", "BLMOVE b c LEFT RIGHT 0", "BLPOP c 0", "BLMOVE c a LEFT RIGHT 0"] {
            assert_eq!(clients.send(line), None, "{line}");
        }
        assert_eq!(clients.replies("RPUSH a x"), "1");
        check_served(&mut clients, &[(2, "x"), (3, "x"), (4, "[c x]")]);
        assert_eq!(clients.replies("EXISTS a b c"), "0", "{shards}");
        // A circle ends when nobody waits any more.
        assert_eq!(clients.send("BLMOVE a c LEFT LEFT 0"), None);
        assert_eq!(clients.replies("RPUSH a y"), "1");
        check_served(&mut clients, &[(5, "y"), (8, "y")]);
        assert_eq!(clients.replies("LRANGE a 0 -1"), "[y]");
    }
}

/// A command loads the places that it lets waiters write, so that their order does not depend on the pace of loading.
#[test]
fn waiters_are_served_in_order_after_a_wake() {
    for merges in [false, true] {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        // Nothing is ever loaded in the background: this runtime stands still.
        let idle = Builder::new_current_thread().build().expect("a runtime");
        let engine = Engine { patient: Lane::on(idle.handle()), ..engine(runtime.handle()) };
        let mut clients = Clients::over(runtime, engine);
        for line in ["RPUSH {a} kept", "RPUSH {b} kept", "RPUSH c first"] {
            clients.replies(line);
        }
        // The slots of `b`, `c` and `a` are 3,300, 7,365 and 15,495: each is in another place.
        [5_000, 10_000].into_iter().for_each(|slot| clients.split(slot));
        for line in ["BLMOVE a c LEFT RIGHT 0", "BLMOVE b c LEFT RIGHT 0"] {
            assert_eq!(clients.send(line), None);
        }
        clients.sleep();
        for key in ["a", "b"] {
            assert_eq!(clients.replies(&format!("LLEN {key}")), "0");
        }
        if merges {
            [5_000, 10_000].into_iter().for_each(|slot| clients.merge(slot));
        }
        assert_eq!(["a", "b", "c"].map(|key| clients.has_loaded(key)), [true, true, false]);
        assert_eq!(clients.transaction(&["RPUSH a x", "RPUSH b y"]), "1 | 1");
        check_served(&mut clients, &[(4, "x"), (5, "y")]);
        assert_eq!(clients.replies("LRANGE c 0 -1"), "[first x y]");
    }
}

#[test]
fn a_transaction_serves_when_it_has_run() {
    let mut clients = Clients::new();
    assert_eq!(clients.send("BLPOP a 0"), None);
    assert_eq!(clients.transaction(&["RPUSH a 1", "LPOP a"]), "1 | 1");
    check_served(&mut clients, &[]);
    assert_eq!(clients.transaction(&["RPUSH a 1 2", "DEL a", "RPUSH a 3"]), "2 | 1 | 1");
    check_served(&mut clients, &[(1, "[a 3]")]);
    assert_eq!(
        clients.transaction(&["BLPOP a 0", "BLMOVE a b LEFT LEFT 0", "BZPOPMIN a 0", "XREAD BLOCK 0 STREAMS s $"]),
        "nil | nil | nil | nil"
    );
}

#[test]
fn a_script_serves_when_it_has_run_and_does_not_wait() {
    let mut clients = Clients::new();
    assert_eq!(clients.send("BLPOP k 0"), None);
    let script = "redis.call('rpush',KEYS[1],'1','2');return(redis.call('lpop',KEYS[1]))";
    assert_eq!(clients.replies(&format!("EVAL {script} 1 k")), "1");
    check_served(&mut clients, &[(1, "[k 2]")]);
    assert_eq!(clients.replies("EVAL return(redis.call('blpop',KEYS[1],0)) 1 k"), "nil");
}

#[test]
fn a_key_of_another_type_is_passed_over_while_waiting() {
    let mut clients = Clients::new();
    assert_eq!(clients.send("BLPOP a b 0"), None);
    assert_eq!(clients.send("BZPOPMAX a 0"), None);
    assert_eq!(clients.send("BLMOVE b s LEFT LEFT 0"), None);
    clients.replies("SET a x");
    clients.replies("SADD s x");
    check_served(&mut clients, &[]);
    assert_eq!(clients.replies("RPUSH b 1 2"), "2");
    let wrong = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
    // The target of a move is written, so its type is an error. The element stays.
    check_served(&mut clients, &[(1, "[b 1]"), (3, wrong)]);
    assert_eq!(clients.replies("LRANGE b 0 -1"), "[2]");
    assert_eq!(clients.replies("BLPOP a 0"), wrong);
    clients.replies("DEL a");
    assert_eq!(clients.replies("ZADD a 1 x 2 y"), "2");
    check_served(&mut clients, &[(2, "[a y 2]")]);
}

#[test]
fn keys_that_come_from_elsewhere_are_ready() {
    for (prepare, line, reply) in [
        (&["RPUSH s 1"][..], "RENAME s k", "[k 1]"),
        (&["RPUSH s 1"], "RENAMENX s k", "[k 1]"),
        (&["RPUSH s 1"], "COPY s k", "[k 1]"),
        (&["RPUSH s 2 1"], "SORT s STORE k", "[k 1]"),
        (&["RPUSH s 1"], "LMOVE s k LEFT LEFT", "[k 1]"),
        (&[], "LPUSH k 2 1", "[k 1]"),
    ] {
        let mut clients = Clients::new();
        assert_eq!(clients.send("BLPOP k 0"), None);
        for line in prepare {
            clients.replies(line);
        }
        clients.replies(line);
        assert_eq!(clients.served().get(&1).map(String::as_str), Some(reply), "{line}");
    }
}

#[test]
fn clients_look_again_when_indexes_are_swapped_or_flushed() {
    let mut clients = Clients::new();
    assert_eq!(clients.send("BLPOP k 0"), None);
    assert_eq!(clients.send("BLPOP k 0"), None);
    assert_eq!(clients.send("BZPOPMIN z 0"), None);
    for line in ["RPUSH s 1 2", "ZADD t 1 m", "XADD x 1 f v", "XGROUP CREATE x g $"] {
        clients.replies(line);
    }
    assert_eq!(clients.send("XREADGROUP GROUP g c BLOCK 0 STREAMS x >"), None);
    for line in ["COPY s k DB 1", "COPY t z DB 1", "COPY x x DB 1"] {
        assert_eq!(clients.replies(line), "1");
    }
    check_served(&mut clients, &[]);
    clients.replies("SWAPDB 0 1");
    check_served(&mut clients, &[(1, "[k 1]"), (2, "[k 2]"), (3, "[z m 1]")]);
    clients.replies("FLUSHALL");
    let gone = "(error) NOGROUP No such key 'x' or consumer group 'g' in XREADGROUP with GROUP option";
    assert_eq!(clients.served().into_values().collect::<Vec<_>>(), [gone]);
    assert!(!clients.database.shared.interest.is_any());
}

#[test]
fn readers_of_streams_wait_for_what_comes() {
    let mut clients = Clients::new();
    clients.replies("XADD s 1 f v");
    clients.replies("XGROUP CREATE s g $");
    assert_eq!(clients.send("XREAD BLOCK 0 STREAMS s t $ 0"), None);
    assert_eq!(clients.send("XREAD BLOCK 0 STREAMS s 9"), None);
    assert_eq!(clients.send("XREADGROUP GROUP g a BLOCK 0 STREAMS s >"), None);
    assert_eq!(clients.send("XREADGROUP GROUP g b BLOCK 0 STREAMS s >"), None);
    clients.replies("SET t x");
    check_served(&mut clients, &[]);
    clients.replies("XADD s 2 f w");
    check_served(&mut clients, &[(3, "[[s [[2-0 [f w]]]]]"), (5, "[[s [[2-0 [f w]]]]]")]);
    assert_eq!(clients.replies("XPENDING s g"), "[1 2-0 2-0 [[a 1]]]");
    assert_eq!(clients.send("XREADGROUP GROUP g c BLOCK 0 STREAMS s >"), None);
    clients.replies("XGROUP DELCONSUMER s g c");
    assert_eq!(clients.replies("XINFO CONSUMERS s g").matches(" c ").count(), 0, "it is made when it gets something");
    clients.replies("XGROUP DESTROY s g");
    let gone = "(error) NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option";
    assert_eq!(clients.served().into_values().collect::<Vec<_>>(), [gone, gone]);
    clients.replies("XADD s 10 f x");
    check_served(&mut clients, &[(4, "[[s [[10-0 [f x]]]]]")]);
}

/// More clients than one turn serves: the rest are served by each other.
#[test]
fn a_turn_serves_some_and_the_others_follow() {
    let mut clients = Clients::new();
    let count = 3 * budget::TURN / 10;
    for _ in 0..count {
        assert_eq!(clients.send("BLPOP k other 0"), None);
    }
    let elements: Vec<String> = (1..=count + 1).map(|n| n.to_string()).collect();
    for chunk in elements.chunks(count / 2 + 1) {
        clients.transaction(&["EXISTS k", &format!("RPUSH k {}", chunk.join(" "))]);
    }
    let served = clients.served();
    let expected: BTreeMap<usize, String> = (1..=count).map(|client| (client, format!("[k {client}]"))).collect();
    assert!(served == expected, "{} were served", served.len());
    assert_eq!(clients.replies("LRANGE k 0 -1"), format!("[{}]", count + 1));
}

/// A nudged client that leaves, or is served by another key, does not keep those behind it from being served.
#[test]
fn a_nudge_is_not_lost() {
    let mut clients = Clients::new();
    for line in ["BLPOP k other 0", "BLPOP k 0", "BLPOP k 0"] {
        assert_eq!(clients.send(line), None);
    }
    clients.transaction(&["RPUSH hidden 1 2", "EXISTS k"]);
    // As if the turn had ended before the first of them.
    let nudge = |clients: &Clients, client: usize| clients.waiting[&client].nudge();
    nudge(&clients, 1);
    clients.leave(1);
    assert!(matches!(poll(&clients, 2), Poll::Ready(WaitEvent::Nudged)));
    check_served(&mut clients, &[]);
    nudge(&clients, 2);
    clients.replies("RPUSH k 1");
    assert!(matches!(poll(&clients, 3), Poll::Ready(WaitEvent::Nudged)), "the one before has been served");
    check_served(&mut clients, &[(2, "[k 1]")]);
}

fn poll(clients: &Clients, client: usize) -> Poll<WaitEvent> {
    clients.waiting[&client].poll(&mut std::task::Context::from_waker(Waker::noop()))
}

/// `EXACTLY` waits until there are enough, and lets others take what is not enough for it. `COUNT` takes what comes first.
#[test]
fn moves_of_several_wait_for_as_many_as_they_need() {
    let mut clients = Clients::new();
    assert_eq!(clients.send("BLMOVEM k l LEFT RIGHT 0 EXACTLY 3 OBO"), None);
    assert_eq!(clients.send("BLMOVEM k m LEFT RIGHT 0 COUNT 3 OBO"), None);
    assert_eq!(clients.replies("RPUSH k 1"), "1");
    check_served(&mut clients, &[(2, "[1]")]);
    assert_eq!(clients.replies("RPUSH k 2"), "1");
    assert_eq!(clients.replies("RPUSH k 3"), "2");
    check_served(&mut clients, &[]);
    // A list that exists may be too short for a client that begins to wait.
    assert_eq!(clients.send("BLMOVEM k n RIGHT LEFT 0 EXACTLY 2 BULK"), Some("[2 3]".into()));
    assert_eq!(clients.replies("RPUSH k 4 5"), "2");
    assert_eq!(clients.send("BLMOVEM k k LEFT RIGHT 0 EXACTLY 4 BULK"), None);
    check_served(&mut clients, &[]);
    clients.runtime.block_on(clients.database.sleep()).expect("it sleeps");
    assert_eq!(clients.replies("LPUSH k 3 2"), "4");
    check_served(&mut clients, &[(1, "[2 3 4]")]);
    assert_eq!(clients.replies("RPUSH k 6 7 8"), "4");
    let last = *clients.waiting.keys().next().expect("one waits");
    check_served(&mut clients, &[(last, "[5 6 7 8]")]);
    assert_eq!(clients.replies("LRANGE l 0 -1"), "[2 3 4]");
    // A wrong type of the target is found when it is served, and nothing is taken.
    clients.replies("SET s v");
    clients.replies("DEL k");
    assert_eq!(clients.send("BLMOVEM k s LEFT LEFT 0 EXACTLY 2 BULK"), None);
    assert_eq!(clients.replies("RPUSH k 1"), "1");
    assert_eq!(clients.replies("RPUSH k 2"), "2");
    let wrong = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
    let last = *clients.waiting.keys().next().expect("one waits");
    check_served(&mut clients, &[(last, wrong)]);
    assert_eq!(clients.replies("LRANGE k 0 -1"), "[1 2]");
    assert_eq!(clients.transaction(&["BLMOVEM k l LEFT LEFT 0 EXACTLY 3 BULK"]), "nil");
}

/// A sleeping database stays asleep while clients wait, and while they repeat requests that have found nothing.
#[test]
fn waiting_wakes_nobody() {
    let mut clients = Clients::new();
    assert_eq!(clients.send("BLPOP k 5"), None);
    assert_eq!(clients.send("BLMOVE k l LEFT LEFT 0"), None);
    clients.runtime.block_on(clients.database.sleep()).expect("it sleeps");
    let time_out = |clients: &mut Clients, client: usize| {
        let waiter = clients.waiting.remove(&client).expect("it waits");
        assert!(clients.database.waiters.time_out(&waiter, &waiter.request));
        clients.database.waiters.remove(&waiter);
    };
    time_out(&mut clients, 1);
    for client in 3..6 {
        assert_eq!(clients.send("BLPOP k 5"), None);
        time_out(&mut clients, client);
    }
    assert_eq!(clients.send("BLPOP k 5"), None);
    assert!(!clients.database.is_awake());
    // The element is moved for the one that has waited longest.
    assert_eq!(clients.replies("RPUSH k 1 2 3"), "3");
    check_served(&mut clients, &[(2, "1"), (6, "[k 2]")]);
    assert_eq!(clients.replies("LRANGE l 0 -1"), "[1]");
    clients.runtime.block_on(clients.database.sleep()).expect("it sleeps");
    assert_eq!(clients.replies("BLPOP k 5"), "[k 3]", "nothing is remembered from before the write");
}

/// Clients as Redis describes them: a keyspace without waiters, and a list of clients that wait.
struct Model {
    bench: Bench,
    changed: Arc<Mutex<Vec<Vec<u8>>>>,
    waiting: Vec<(usize, Vec<String>)>,
}

impl Model {
    fn new() -> Self {
        let bench = Bench::new();
        let changed: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let noted = Arc::clone(&changed);
        let listen = move |event: KeyEvent, _: u8, key: &[u8]| {
            if !matches!(event.class, EventClass::KeyMiss | EventClass::New) {
                noted.lock().push(key.to_vec());
            }
        };
        assert!(bench.shared.listener.set(Box::new(listen)).is_ok());
        Self { bench, changed, waiting: Vec::new() }
    }

    /// Runs commands as one; then serves.
    fn run(&mut self, queue: &[&str]) -> (String, BTreeMap<usize, String>) {
        let replies: Vec<String> = queue.iter().map(|line| self.bench.run(line)).collect();
        (replies.join(" | "), self.serve())
    }

    fn serve(&mut self) -> BTreeMap<usize, String> {
        let mut served = BTreeMap::new();
        loop {
            let changed = std::mem::take(&mut *self.changed.lock());
            if changed.is_empty() {
                return served;
            }
            for key in changed {
                let key = String::from_utf8(key).expect("keys are text");
                let mut at = 0;
                while at < self.waiting.len() {
                    match self.try_serve(at, &key) {
                        Some(reply) => {
                            let (client, _) = self.waiting.remove(at);
                            served.insert(client, reply);
                        }
                        None => at += 1,
                    }
                }
            }
        }
    }

    fn try_serve(&mut self, at: usize, key: &str) -> Option<String> {
        let words = self.waiting[at].1.clone();
        let keys = match words[0].as_str() {
            "BLMOVE" | "BLMOVEM" => &words[1..2],
            _ => &words[1..words.len() - 1],
        };
        if !keys.iter().any(|one| one == key) {
            return None;
        }
        let wanted = if words[0].starts_with("BZ") { "zset" } else { "list" };
        if self.bench.run(&format!("TYPE {key}")) != wanted {
            return None;
        }
        let line = match words[0].as_str() {
            "BLMOVE" | "BLMOVEM" => words.join(" "),
            name => format!("{name} {key} 0"),
        };
        let reply = self.bench.run(&line);
        // It waits for more elements than there are.
        (reply != "nil").then_some(reply)
    }
}

#[test]
fn clients_are_served_as_in_a_model() {
    for seed in 0..200 {
        let mut chance = Rng::with_seed(seed);
        let (mut clients, mut model) = (Clients::new(), Model::new());
        clients.replies("EXISTS a");
        let keys = ["a", "b", "c", "d"];
        for step in 0..150 {
            let mut key = || keys[chance.usize(..keys.len())];
            let (one, two) = (key(), key());
            let end = |left| if left { "LEFT" } else { "RIGHT" };
            let (from, to) = (end(chance.bool()), end(chance.bool()));
            let writes = [
                format!("RPUSH {one} {step}"),
                format!("LPUSH {one} {step} x{step}"),
                format!("ZADD {one} {step} m{step}"),
                format!("LPOP {one}"),
                format!("DEL {one}"),
                format!("SET {one} v"),
                format!("RENAME {one} {two}"),
                format!("COPY {one} {two} REPLACE"),
                format!("LMOVE {one} {two} {from} {to}"),
                format!("LMOVEM {one} {two} {from} {to} COUNT 2 OBO"),
                format!("RPUSH {one} {step} y{step} z{step}"),
                format!("DEL {one} {two}"),
            ];
            let blocks = [
                format!("BLPOP {one} 0"),
                format!("BRPOP {one} {two} 0"),
                format!("BLMOVE {one} {two} {from} {to} 0"),
                format!("BLMOVEM {one} {two} {from} {to} 0 EXACTLY 3 BULK"),
                format!("BLMOVEM {one} {two} {from} {to} 0 COUNT 2 OBO"),
                format!("BZPOPMIN {one} 0"),
                format!("BZPOPMAX {one} {two} 0"),
            ];
            let context = format!("seed {seed}, step {step}");
            match chance.u8(..20) {
                0..7 => {
                    let line = &writes[chance.usize(..writes.len())];
                    let reply = clients.send(line);
                    let (expected, served) = model.run(&[line]);
                    assert_eq!(reply.as_ref(), Some(&expected), "{context}: {line}");
                    assert_eq!(clients.served(), served, "{context}: {line}");
                }
                7..9 => {
                    let queue = [0, 1, 2].map(|_| writes[chance.usize(..writes.len())].as_str());
                    let (expected, served) = model.run(&queue);
                    assert_eq!(clients.transaction(&queue), expected, "{context}: {queue:?}");
                    assert_eq!(clients.served(), served, "{context}: {queue:?}");
                }
                9..17 => {
                    let line = &blocks[chance.usize(..blocks.len())];
                    let reply = clients.send(line);
                    let (expected, served) = model.run(&[line]);
                    if expected == "nil" {
                        assert_eq!(reply, None, "{context}: {line}");
                        model.waiting.push((clients.last, line.split(' ').map(str::to_owned).collect()));
                    } else {
                        assert_eq!(reply, Some(expected), "{context}: {line}");
                    }
                    assert_eq!(clients.served(), served, "{context}: {line}");
                }
                17 => {
                    let all: Vec<usize> = clients.waiting.keys().copied().collect();
                    if let Some(client) = chance.choice(all) {
                        clients.leave(client);
                        model.waiting.retain(|(other, _)| *other != client);
                    }
                }
                18 => clients.split(chance.u16(1..16384)),
                _ => {
                    clients.runtime.block_on(clients.database.sleep()).expect("it sleeps");
                }
            }
        }
        for key in keys {
            for line in [format!("TYPE {key}"), format!("LRANGE {key} 0 -1"), format!("ZRANGE {key} 0 -1")] {
                assert_eq!(clients.replies(&line), model.bench.run(&line), "seed {seed}: {line}");
            }
        }
        let waiting: Vec<usize> = clients.waiting.keys().copied().collect();
        waiting.into_iter().for_each(|client| clients.leave(client));
        assert!(!clients.database.shared.interest.is_any(), "seed {seed}");
        assert!(!clients.database.waiters.has_moves(), "seed {seed}");
    }
}
