//! Blocking commands over the wire: several clients with the same schedule on Dormouse and on real servers, and what only
//! a server can show.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use dormouse_client_tests::{
    Kind, Server, Settings,
    resp::{Connection, Reply},
    unrest::Unrest,
    wait_for,
};
use fastrand::Rng;

const TEST: &str = "blocking commands beside real servers";
const CLIENTS: usize = 6;
const STEPS: usize = 400;
const LIMIT: Duration = Duration::from_secs(20);
const WORKERS: Settings = Settings {
    max_clients: None,
    workers: Some(3),
    http_port: None,
    tokens: &[],
    is_cluster: false,
    sleep_after: None,
    loss_window: None,
    takes_debug: false,
    tls: None,
    is_unchecked: false,
    options: &[],
};

/// Several clients of one server.
struct Side {
    clients: Vec<Connection>,
    ids: Vec<String>,
    control: Connection,
}

impl Side {
    fn new(server: &Server) -> Self {
        let mut clients: Vec<Connection> = (0..CLIENTS).map(|_| Connection::open(server.port())).collect();
        clients.iter().for_each(|client| client.set_patience(LIMIT).expect("a socket takes a timeout"));
        let ids = clients.iter_mut().map(|client| shown(&client.run("CLIENT ID")).replace(':', "")).collect();
        let mut control = Connection::open(server.port());
        control.run("FLUSHALL");
        Self { clients, ids, control }
    }

    fn send(&mut self, client: usize, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        self.clients[client].write(&dormouse_client_tests::resp::request(&words)).expect("the server reads");
    }

    fn read(&mut self, client: usize) -> Reply {
        self.clients[client].read().unwrap_or_else(|error| panic!("client {client} has no reply: {error}"))
    }

    /// Whether a client is blocked, by its line of `CLIENT LIST`.
    fn is_blocked(&mut self, client: usize) -> bool {
        let line = text(&self.control.run(&format!("CLIENT LIST ID {}", self.ids[client])));
        line.split(' ').any(|field| field.starts_with("flags=") && field.contains('b'))
    }
}

fn text(reply: &Reply) -> String {
    match reply {
        Reply::Bulk(_, Some(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("{other:?} is no text"),
    }
}

fn shown(reply: &Reply) -> String {
    format!("{reply:?}")
}

#[test]
fn a_schedule_of_several_clients_gets_the_replies_of_redis() {
    several_clients_get_the_replies_of(Kind::Redis);
}

#[test]
fn a_schedule_of_several_clients_gets_the_replies_of_valkey() {
    several_clients_get_the_replies_of(Kind::Valkey);
}

#[test]
fn a_schedule_of_several_clients_gets_the_replies_of_redis_8() {
    several_clients_get_the_replies_of(Kind::Redis8);
}

fn several_clients_get_the_replies_of(peer: Kind) {
    if !peer.is_present(TEST) {
        return;
    }
    let (ours, theirs) =
        (Server::start_with(Kind::under_test(), WORKERS), Server::start_with(peer, Settings::default()));
    for seed in 0..6 {
        // In some schedules shards split and merge all the time, in some the database falls asleep all the time.
        let unrest = (Kind::under_test() == Kind::Dormouse).then(|| {
            let (shards, sleep) = (seed % 3 > 0, seed % 3 > 1);
            (shards.then(|| Unrest::of_shards(ours.port(), seed)), sleep.then(|| Unrest::of_sleep(ours.port(), seed)))
        });
        compare(seed, &ours, &theirs);
        drop(unrest);
    }
}

/// A random command. Newer servers run the whole command of a waiting client again, so an earlier key that has come to be of
/// another type makes it fail, and one that was filled together with the ready one comes first. Redis 7.0 gives it what has
/// become ready. So for them a key has one type for ever, and only one becomes ready at a time.
fn next_line(chance: &mut Rng, step: usize, serves_ready_key: bool) -> String {
    let line = mixed_line(chance, step);
    if serves_ready_key {
        return line;
    }
    if chance.u8(..6) == 0 {
        let key = ["sa", "sb"][chance.usize(..2)];
        return match chance.u8(..6) {
            0 => format!("XGROUP CREATE {key} g $ MKSTREAM"),
            1 => format!("XGROUP DESTROY {key} g"),
            2 => format!("XGROUP DELCONSUMER {key} g c1"),
            _ => format!("XREADGROUP GROUP g c{} COUNT 1 BLOCK 0 STREAMS {key} >", step % 3),
        };
    }
    let prefix = match line.split(' ').next().unwrap_or_default() {
        "SET" => return format!("DEL {}", ["a", "b", "c", "za", "sb"][step % 5]),
        "BLMOVE" | "BRPOPLPUSH" => return "BLPOP a 0".into(),
        name if name.contains('Z') => "z",
        name if name.starts_with('X') => "s",
        _ => return line,
    };
    let is_key = |word: &str| ["a", "b", "c"].contains(&word);
    let words = line.split(' ').map(|word| if is_key(word) { format!("{prefix}{word}") } else { word.to_owned() });
    words.collect::<Vec<_>>().join(" ")
}

fn mixed_line(chance: &mut Rng, step: usize) -> String {
    let keys = ["a", "b", "c"];
    let mut key = || keys[chance.usize(..keys.len())];
    let (one, two, three) = (key(), key(), key());
    let mut end = || if chance.bool() { "LEFT" } else { "RIGHT" };
    let (from, to) = (end(), end());
    match chance.u8(..32) {
        0..3 => format!("RPUSH {one} v{step}"),
        3 => format!("LPUSH {one} v{step} w{step}"),
        4 => format!("LPOP {one}"),
        5..8 => format!("DEL {one}"),
        8 => format!("DEL {one} {two} {three}"),
        9 => format!("ZADD {one} {step} m{step}"),
        10 => format!("ZADD {one} 1 m{step} 2 n{step}"),
        11 => format!("XADD {one} * f v"),
        12 => format!("XADD {one} {step}-1 f v{step}"),
        13 => format!("RENAME {one} {two}"),
        14 => format!("COPY {one} {two} REPLACE"),
        15 => format!("LMOVE {one} {two} {from} {to}"),
        16 => format!("SET {one} s"),
        17..20 => format!("BLPOP {one} 0"),
        20 => format!("BRPOP {one} {two} 0"),
        21 => format!("BLPOP {one} {two} {three} 0"),
        22..24 => format!("BLMOVE {one} {two} {from} {to} 0"),
        24 => format!("BRPOPLPUSH {one} {two} 0"),
        25 => format!("BLMPOP 0 2 {one} {two} {from} COUNT 2"),
        26 => format!("BZPOPMIN {one} {two} 0"),
        27 => format!("BZPOPMAX {one} 0"),
        28 => format!("BZMPOP 0 2 {one} {two} MIN COUNT 2"),
        29 => format!("XREAD BLOCK 0 STREAMS {one} $"),
        30 => format!("XREAD COUNT 2 BLOCK 0 STREAMS {one} {step}"),
        _ => format!("BLPOP {one} 0.01"),
    }
}

/// Runs a schedule: a client sends a command and is answered, or is blocked, before the next one sends its own.
fn compare(seed: u64, ours: &Server, theirs: &Server) {
    let serves_ready_key = theirs.kind() == Kind::Redis;
    let mut chance = Rng::with_seed(seed);
    let (mut ours, mut theirs) = (Side::new(ours), Side::new(theirs));
    let mut waiting: BTreeMap<usize, String> = BTreeMap::new();
    let mut history: Vec<String> = Vec::new();
    for step in 1..=STEPS {
        let free: Vec<usize> = (0..CLIENTS).filter(|client| !waiting.contains_key(client)).collect();
        let report =
            |history: &[String]| format!("seed {seed}:\n{}", history[history.len().saturating_sub(25)..].join("\n"));
        // One client at least can still write.
        let must_unblock = free.len() == 1 && chance.u8(..3) == 0;
        if must_unblock || (!waiting.is_empty() && chance.u8(..25) == 0) {
            let all: Vec<usize> = waiting.keys().copied().collect();
            let client = all[chance.usize(..all.len())];
            let how = ["TIMEOUT", "ERROR"][chance.usize(..2)];
            for side in [&mut ours, &mut theirs] {
                let unblock = format!("CLIENT UNBLOCK {} {how}", side.ids[client]);
                assert_eq!(shown(&side.control.run(&unblock)), ":1", "{}", report(&history));
            }
            let line = waiting.remove(&client).expect("it waits");
            history.push(format!("{client} is unblocked: {line}"));
            let (got, expected) = (ours.read(client), theirs.read(client));
            assert_eq!(got, expected, "{}", report(&history));
            continue;
        }
        let client = free[chance.usize(..free.len())];
        let mut line = next_line(&mut chance, step, serves_ready_key);
        // The last that can write does not wait.
        while free.len() == 1 && line.starts_with('B') && !line.ends_with("0.01")
            || free.len() == 1 && line.contains("BLOCK")
        {
            line = next_line(&mut chance, step, serves_ready_key);
        }
        let in_transaction = serves_ready_key && chance.u8(..10) == 0 && !line.contains(" * ");
        let lines = match in_transaction {
            true => {
                let mut other = next_line(&mut chance, step, serves_ready_key);
                while other.contains(" * ") {
                    other = next_line(&mut chance, step, serves_ready_key);
                }
                vec!["MULTI".to_owned(), line, other, "EXEC".to_owned()]
            }
            false if line.contains(" * ") => vec![line.replace(" * ", &format!(" {}-{step} ", u32::MAX))],
            false => vec![line],
        };
        let mut blocked = false;
        for line in &lines {
            history.push(format!("{client}: {line}"));
            ours.send(client, line);
            theirs.send(client, line);
            let may_block =
                lines.len() == 1 && (line.starts_with('B') || line.contains("BLOCK")) && !line.ends_with("0.01");
            if may_block && theirs.is_blocked_soon(client) {
                blocked = true;
                let is_blocked = wait_for(LIMIT, || ours.is_blocked(client).then_some(()));
                assert!(is_blocked.is_some(), "not blocked\n{}", report(&history));
                waiting.insert(client, line.clone());
                history.push(format!("{client} waits"));
            } else {
                let (got, expected) = (ours.read(client), theirs.read(client));
                history.push(format!("   {expected:?}"));
                assert_eq!(got, expected, "{}", report(&history));
            }
        }
        if blocked {
            continue;
        }
        // The peer has served its clients before it replied.
        let served: Vec<usize> = waiting.keys().copied().filter(|client| !theirs.is_blocked(*client)).collect();
        for client in served {
            let line = waiting.remove(&client).expect("it waits");
            history.push(format!("{client} is served: {line}"));
            let expected = theirs.read(client);
            history.push(format!("   {expected:?}"));
            assert_eq!(ours.read(client), expected, "{}", report(&history));
        }
        for client in waiting.keys() {
            assert!(ours.is_blocked(*client), "{client} does not wait any more\n{}", report(&history));
        }
    }
    for key in ["a", "b", "c", "za", "zb", "zc", "sa", "sb", "sc"] {
        for line in [
            format!("TYPE {key}"),
            format!("LRANGE {key} 0 -1"),
            format!("ZRANGE {key} 0 -1"),
            format!("XRANGE {key} - +"),
        ] {
            assert_eq!(shown(&ours.control.run(&line)), shown(&theirs.control.run(&line)), "seed {seed}: {line}");
        }
    }
    let counted = format!("blocked_clients:{}\r\n", waiting.len());
    let info = ours.control.run("INFO clients");
    assert!(text(&info).contains(&counted), "{counted} is not in {}", text(&info));
}

impl Side {
    /// Whether a command that has been sent to Redis blocks. It has been run when the control connection, which speaks
    /// to the same thread, finds the client blocked, or its reply is there.
    fn is_blocked_soon(&mut self, client: usize) -> bool {
        let decided = wait_for(LIMIT, || {
            if self.is_blocked(client) {
                return Some(true);
            }
            self.clients[client].has_reply().then_some(false)
        });
        decided.expect("the command is run")
    }
}

const QUEUES: usize = 5;
const PRODUCERS: usize = 2;
const PUSHED_EACH: usize = 1500;

/// Elements that a reply of BLPOP, BRPOP or BLMPOP has taken.
fn taken(reply: &Reply, into: &mut Vec<String>) {
    let items = reply.items().unwrap_or_default();
    match items {
        [_, Reply::Many(_, Some(many))] => into.extend(many.iter().map(text)),
        [_, one] => into.push(text(one)),
        _ => {}
    }
}

/// Clients push, pop, move and are unblocked at once, while shards split and merge and the database falls asleep: each
/// element is taken once, and no client waits beside one.
#[test]
fn elements_are_neither_lost_nor_taken_twice() {
    let server = Server::start_with(Kind::under_test(), WORKERS);
    let port = server.port();
    let unrest = (Kind::under_test() == Kind::Dormouse)
        .then(|| (Unrest::of_shards(port, 1), Unrest::of_shards(port, 2), Unrest::of_sleep(port, 3)));
    let is_over = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..PRODUCERS).map(|producer| thread::spawn(move || produce(port, producer))).collect();
    let consumers: Vec<_> = (0..6)
        .map(|consumer| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || consume(port, consumer, &is_over))
        })
        .collect();
    let unblocker = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || {
            let (mut control, mut chance) = (Connection::open(port), Rng::with_seed(7));
            while !is_over.load(Ordering::SeqCst) {
                control.run(&format!("CLIENT UNBLOCK {}", chance.u8(1..20)));
                thread::yield_now();
            }
        })
    };
    producers.into_iter().for_each(|producer| producer.join().expect("a producer"));
    let mut control = Connection::open(port);
    let lengths = |control: &mut Connection| -> Vec<String> {
        (0..QUEUES).map(|queue| shown(&control.run(&format!("LLEN q{queue}")))).collect()
    };
    let is_empty = wait_for(LIMIT, || lengths(&mut control).iter().all(|length| length == ":0").then_some(()));
    assert!(is_empty.is_some(), "clients wait beside elements: {:?}", lengths(&mut control));
    is_over.store(true, Ordering::SeqCst);
    unblocker.join().expect("the unblocker");
    // Those that wait for ever end with one more element each.
    let have_ended = wait_for(LIMIT, || {
        if shown(&control.run("LLEN q0")) == ":0" {
            control.run("RPUSH q0 stop");
        }
        consumers.iter().all(thread::JoinHandle::is_finished).then_some(())
    });
    assert!(have_ended.is_some(), "a client waits beside an element");
    let mut all: Vec<String> =
        consumers.into_iter().flat_map(|consumer| consumer.join().expect("a consumer")).collect();
    drop(unrest);
    all.retain(|element| element != "stop");
    all.sort_unstable();
    let mut expected: Vec<String> =
        (0..PRODUCERS).flat_map(|producer| (0..PUSHED_EACH).map(move |n| format!("{producer}-{n}"))).collect();
    expected.sort_unstable();
    let missing: Vec<_> = expected.iter().filter(|element| all.binary_search(element).is_err()).collect();
    assert!(missing.is_empty(), "lost: {missing:?}");
    assert_eq!(all.len(), expected.len(), "taken twice");
}

fn produce(port: u16, producer: usize) {
    let (mut client, mut chance) = (Connection::open(port), Rng::with_seed(producer as u64));
    let mut n = 0;
    while n < PUSHED_EACH {
        let some = chance.usize(1..4).min(PUSHED_EACH - n);
        let elements: Vec<String> = (n..n + some).map(|n| format!("{producer}-{n}")).collect();
        let line = format!("RPUSH q{} {}", chance.usize(..QUEUES), elements.join(" "));
        if chance.bool() {
            client.run(&line);
        } else {
            client.run("MULTI");
            client.run(&line);
            client.run("EXEC");
        }
        n += some;
    }
}

/// Consumers that wait for ever.
const ENDLESS: [usize; 2] = [0, 1];

/// Takes elements until all is over, or one that says so. Returns what it has taken.
fn consume(port: u16, consumer: usize, is_over: &AtomicBool) -> Vec<String> {
    let (mut client, mut chance) = (Connection::open(port), Rng::with_seed(100 + consumer as u64));
    client.set_patience(3 * LIMIT).expect("a socket takes a timeout");
    let mut all = Vec::new();
    let queues: Vec<String> = (0..QUEUES).map(|queue| format!("q{queue}")).collect();
    loop {
        let [one, two] = [0, 1].map(|_| chance.usize(..QUEUES));
        if ENDLESS.contains(&consumer) {
            taken(&client.run(&format!("BLPOP {} 0", queues.join(" "))), &mut all);
            if all.last().is_some_and(|last| last == "stop") {
                return all;
            }
            continue;
        }
        if is_over.load(Ordering::SeqCst) {
            return all;
        }
        match chance.u8(..4) {
            0 => _ = client.run(&format!("BLMOVE q{one} q{two} LEFT RIGHT 0.02")),
            1 => taken(&client.run(&format!("BLMPOP 0.02 2 q{one} q{two} LEFT COUNT 3")), &mut all),
            2 => taken(&client.run(&format!("BRPOP q{one} q{two} 0.02")), &mut all),
            _ => taken(&client.run(&format!("BLPOP q{one} 0.02")), &mut all),
        }
    }
}
