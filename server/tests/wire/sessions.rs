//! Behavior of a connection as its client sees it: order, transactions, and subscriptions.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::node::{Bench, CLOCK_MS, Connection};
use dormouse::clients::{Client, OutputLimit};
use dormouse::clock;
use dormouse::commands::{COUNTED, SUBJECTS};
use dormouse::databases::Tenant;
use dormouse::keeper;
use dormouse::metering::Recorded;
use dormouse_autoscaler::Autoscaler;
use dormouse_shard::checkpoint::SleepOutcome;
use dormouse_shard::database::Engine;
use dormouse_shard::keyspace::{INDEXES, Keyspace};
use dormouse_storage::log::Log;
use dormouse_storage::log::sink::Objects;
use dormouse_storage::store::{Store, StoreFault, StoreRequest};

#[test]
fn replies_come_in_order_whatever_way_commands_take() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    client.send(&["SET a 1", "DBSIZE", "INCR a", "KEYS a", "NONSENSE", "GET", "PING", "SCAN 0", "GET a"]);
    client
        .expect("+OK\r\n:1\r\n:2\r\n*1\r\n$1\r\na\r\n-ERR unknown command 'NONSENSE', with args beginning with: \r\n");
    client.expect("-ERR wrong number of arguments for 'get' command\r\n+PONG\r\n");
    client.expect("*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n$1\r\n2\r\n");
    client.send(&["SET b 2", "GET b", "*1", "x", "GET a"]);
    client.expect("+OK\r\n$1\r\n2\r\n-ERR Protocol error: expected '$', got 'x'\r\n");
    client.expect_end();
}

#[test]
fn a_watch_survives_sleep() {
    let bench = Bench::new(&[]);
    let (mut client, mut other) = (bench.connect(), bench.connect());
    for (meanwhile, answer) in [("FLUSHALL", "+OK\r\n"), ("DEL k", ":1\r\n"), ("SWAPDB 0 1", "+OK\r\n")] {
        client.check("FLUSHALL", "+OK\r\n");
        client.check("SET k v", "+OK\r\n");
        client.check("WATCH k", "+OK\r\n");
        bench.unload();
        other.check(meanwhile, answer);
        client.send(&["MULTI", "SET k w", "EXEC"]);
        client.expect("+OK\r\n+QUEUED\r\n*-1\r\n");
    }
    client.check("SET k v", "+OK\r\n");
    client.check("WATCH k", "+OK\r\n");
    bench.unload();
    client.send(&["MULTI", "GET k", "EXEC"]);
    client.expect("+OK\r\n+QUEUED\r\n*1\r\n$1\r\nv\r\n");
    // A flush does not change a missing key, however little of the database is in memory.
    client.check("SET other v", "+OK\r\n");
    client.check("WATCH missing", "+OK\r\n");
    bench.unload();
    other.check("FLUSHALL", "+OK\r\n");
    client.send(&["MULTI", "PING", "EXEC"]);
    client.expect("+OK\r\n+QUEUED\r\n*1\r\n+PONG\r\n");
}

#[test]
fn a_watched_key_that_expires_while_the_database_sleeps_was_changed() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    client.check("SET k v PX 60", "+OK\r\n");
    client.check("WATCH k", "+OK\r\n");
    bench.unload();
    let until = std::time::Instant::now() + Duration::from_millis(80);
    while std::time::Instant::now() < until {
        client.check("PING", "+PONG\r\n");
    }
    client.send(&["MULTI", "PING", "EXEC"]);
    client.expect("+OK\r\n+QUEUED\r\n*-1\r\n");
}

/// Data that a transaction reads through another index is in memory before its first command runs.
#[test]
fn a_transaction_on_a_sleeping_database_is_whole() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    for (lines, replies) in [
        (&["COPY a b DB 1", "SELECT 1", "GET b"][..], ":1\r\n+OK\r\n$1\r\n1\r\n"),
        (&["MOVE a 2", "SELECT 2", "GET a"], ":1\r\n+OK\r\n$1\r\n1\r\n"),
        (&["SWAPDB 0 1", "GET x", "GET y"], "+OK\r\n$1\r\n7\r\n$1\r\n8\r\n"),
    ] {
        client.send(&["FLUSHALL", "SELECT 1", "MSET x 7 y 8", "SELECT 2", "SET z 9", "SELECT 0", "SET a 1"]);
        client.expect(&"+OK\r\n".repeat(7));
        bench.unload();
        client.send(&["MULTI"]);
        client.send(lines);
        client.send(&["EXEC", "SELECT 0"]);
        let queued = "+QUEUED\r\n".repeat(lines.len());
        client.expect(&format!("+OK\r\n{queued}*{}\r\n{replies}+OK\r\n", lines.len()));
    }
}

/// The client leaves the subscribed state with the confirmation: it would take a later message for a reply.
#[test]
fn no_message_comes_after_the_last_confirmation() {
    let bench = Bench::new(&[]);
    let tenant = bench.tenant("default");
    // The client may be slow here if others have the cores. It is not closed for that.
    let limit = OutputLimit { hard_bytes: 0, soft_bytes: 0, soft_seconds: 0 };
    for (leave, confirmed) in
        [("UNSUBSCRIBE", "*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n"), ("RESET", "+RESET\r\n")]
    {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let publisher = {
            let (tenant, stop) = (Arc::clone(&tenant), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    tenant.pubsub.publish(b"c", b"m", limit, 0);
                }
            })
        };
        for _ in 0..300 {
            let mut client = bench.connect();
            let pings = ["PING"; 100];
            client.send(&[&["SUBSCRIBE c"], &pings[..], &[leave]].concat());
            let mut text = String::new();
            let mut seen = 0;
            while !text[seen..].contains(confirmed) {
                seen = text.len().saturating_sub(confirmed.len());
                let mut bytes = [0; 4096];
                let len = client.stream.read(&mut bytes).expect("an open connection");
                assert!(len > 0, "closed before {leave} was confirmed");
                text += std::str::from_utf8(&bytes[..len]).expect("text");
            }
            client.stream.shutdown(std::net::Shutdown::Write).expect("an open connection");
            client.stream.read_to_string(&mut text).expect("an end");
            assert!(text.ends_with(confirmed), "something follows {leave}: {text}");
        }
        stop.store(true, Ordering::SeqCst);
        publisher.join().expect("it does not panic");
    }
}

#[test]
fn many_channels_and_watched_keys_cost_no_more_each() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    let names: Vec<String> = (0..100_000).map(|n| format!("{n:06}")).collect();
    let request = |command: &str| {
        let args: String = names.iter().map(|name| format!("$6\r\n{name}\r\n")).collect();
        format!("*{}\r\n${}\r\n{command}\r\n{args}", names.len() + 1, command.len())
    };
    let mut writer = client.stream.try_clone().expect("a socket");
    let requests = request("WATCH") + &request("SUBSCRIBE") + &request("UNSUBSCRIBE");
    let sender = std::thread::spawn(move || writer.write_all(requests.as_bytes()).expect("an open connection"));
    client.expect("+OK\r\n");
    for (at, name) in (1..).zip(&names) {
        client.expect(&format!("*3\r\n$9\r\nsubscribe\r\n$6\r\n{name}\r\n:{at}\r\n"));
    }
    for (at, name) in (1..).zip(&names) {
        client.expect(&format!("*3\r\n$11\r\nunsubscribe\r\n$6\r\n{name}\r\n:{}\r\n", names.len() - at));
    }
    sender.join().expect("it does not panic");
}

#[test]
fn a_transaction_stays_in_its_database() {
    let bench = Bench::new(&["dm_one_secret", "dm_two_secret"]);
    let mut client = bench.connect();
    client.check("AUTH dm_one_secret", "+OK\r\n");
    for login in ["AUTH dm_two_secret", "HELLO 2 AUTH default dm_two_secret"] {
        client.send(&["MULTI", login, "SET a 1", "EXEC"]);
        client.expect("+OK\r\n-ERR Command not allowed inside a transaction\r\n+QUEUED\r\n");
        client.expect("-EXECABORT Transaction discarded because of previous errors.\r\n");
    }
}

#[test]
fn a_transaction_with_info_waits_no_longer_than_others() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    client.send(&["SET a 1", "CONFIG SET reply-timeout 20ms", "MULTI", "INFO server", "SET a 2"]);
    client.expect("+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n");
    let database = Arc::clone(&bench.tenant("default").database);
    let held = bench.runtime.block_on(database.hold_all()).expect("it is awake");
    client.check(
        "EXEC",
        "-EXECABORT Transaction discarded because of: TIMEOUT no reply within 20 ms: the command waited for the lock \
         of a shard and was not run\r\n",
    );
    drop(held);
    client.check("GET a", "$1\r\n1\r\n");
}

#[test]
fn a_late_reply_does_not_wait_for_those_behind_it() {
    let bench = Bench::new(&[]);
    let (mut client, mut listener) = (bench.connect(), bench.connect());
    client.send(&["SET a 1", "SET b 1", "CONFIG SET reply-timeout 3s"]);
    client.expect("+OK\r\n+OK\r\n+OK\r\n");
    let database = Arc::clone(&bench.tenant("default").database);
    let held = bench.runtime.block_on(database.hold_all()).expect("it is awake");
    client.send(&["INCR a", "INCR a", "GET a"]);
    // A client that has closed its side behind its requests still waits for the replies.
    listener.send(&["INCR b", "INCR b", "GET b"]);
    listener.stream.shutdown(std::net::Shutdown::Write).expect("an open connection");
    let late = "-TIMEOUT no reply within 3000 ms: the command waited for the lock of a shard and was not run\r\n";
    client.expect(late);
    listener.expect(late);
    // The second waits by now, and has its own three seconds.
    drop(held);
    client.expect(":2\r\n$1\r\n2\r\n");
    listener.expect(":2\r\n$1\r\n2\r\n");
    listener.expect_end();
}

#[test]
fn nothing_is_run_for_a_client_that_has_given_up() {
    let bench = Bench::new(&["dm_a_1", "dm_b_1"]);
    let [mut client, mut other] = ["a", "b"].map(|name| {
        let mut client = bench.connect();
        client.send(&[&format!("AUTH dm_{name}_1"), "SET n 1"]);
        client.expect("+OK\r\n+OK\r\n");
        client
    });
    let database = Arc::clone(&bench.tenant("a").database);
    let held = bench.runtime.block_on(database.hold_all()).expect("it is awake");
    let of_a = || bench.node.clients.list().into_iter().find(|client| &*client.told.lock().database == "a");
    let last = || of_a().map(|client| client.last_command.load(Ordering::Relaxed));
    let before = last();
    client.send(&["INCR n"]);
    while last() == before {
        std::thread::yield_now();
    }
    // No library gives up sooner.
    other.check("BLPOP missing 0.3", "*-1\r\n");
    drop(client);
    while of_a().is_some() {
        std::thread::yield_now();
    }
    drop(held);
    let mut client = bench.connect();
    client.send(&["AUTH dm_a_1", "GET n"]);
    client.expect("+OK\r\n$1\r\n1\r\n");
}

#[test]
fn an_import_that_begins_in_a_transaction_is_not_taken_for_an_abandoned_one() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    let database = Arc::clone(&bench.tenant("default").database);
    for n in 0..200 {
        client.check("SET a 1", "+OK\r\n");
        let held = bench.runtime.block_on(database.hold_all()).expect("it is awake");
        client.send(&["MULTI", "DORMOUSE IMPORT BEGIN", "DORMOUSE STAGED 0", &format!("SET n {n}")]);
        client.expect(&("+OK\r\n".to_owned() + &"+QUEUED\r\n".repeat(3)));
        client.send(&["EXEC"]);
        // The keeper looks for abandoned imports as soon as the transaction gives its locks back.
        let (database, node) = (Arc::clone(&database), Arc::clone(&bench.node));
        let is_over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&is_over);
        let settled = bench.runtime.spawn(async move {
            let clients = || node.clients.of_database("default");
            let is_filling = |client: &Arc<Client>| usize::from(client.select.load(Ordering::Relaxed)) >= INDEXES;
            while database.shared.followed.load(Ordering::Relaxed) == 0 && !ended.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
            database.settle_import(|| clients().iter().any(is_filling)).await;
        });
        drop(held);
        client.expect("*3\r\n+OK\r\n+OK\r\n+OK\r\n");
        is_over.store(true, Ordering::Relaxed);
        bench.runtime.block_on(settled).expect("no panic");
        client.send(&["GET n", "DORMOUSE IMPORT DISCARD", "SELECT 0"]);
        client.expect(&format!("${}\r\n{n}\r\n+OK\r\n+OK\r\n", n.to_string().len()));
    }
}

/// Starts jobs that keep the slow lane of a database busy until they are dropped.
fn occupy(bench: &Bench, name: &str, jobs: usize) -> std::sync::mpsc::Sender<()> {
    let (end, until) = std::sync::mpsc::channel::<()>();
    let until = Arc::new(std::sync::Mutex::new(until));
    for _ in 0..jobs {
        let until = Arc::clone(&until);
        bench.tenant(name).database.lane.run(move || drop(until.lock().map(|until| until.recv()))).expect("room");
    }
    end
}

#[test]
fn a_command_that_waits_for_the_slow_lane_holds_no_lock() {
    let bench = Bench::new(&["dm_a_1", "dm_b_2"]);
    let (mut slow, mut fast, mut other) = (bench.connect(), bench.connect(), bench.connect());
    slow.check("AUTH dm_a_1", "+OK\r\n");
    fast.check("AUTH dm_a_1", "+OK\r\n");
    other.check("AUTH dm_b_2", "+OK\r\n");
    slow.check("SET k v", "+OK\r\n");
    other.check("SET k b", "+OK\r\n");
    let end = occupy(&bench, "a", 2);
    slow.send(&["KEYS *"]);
    // It waits in its database's queue once the meter says so.
    while bench.tenant("a").database.lane.waiting() == 0 {
        std::thread::yield_now();
    }
    fast.check("SET l w", "+OK\r\n");
    fast.check("GET k", "$1\r\nv\r\n");
    // One database has both threads; another gets one of its own.
    other.check("KEYS *", "*1\r\n$1\r\nk\r\n");
    drop(end);
    slow.expect("*2\r\n$1\r\n");
    fast.check("DEL k l", ":2\r\n");
}

#[test]
fn a_command_that_finds_the_slow_lane_full_says_so() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    client.check("SET k v", "+OK\r\n");
    let end = occupy(&bench, "default", 2);
    while bench.tenant("default").database.lane.waiting() > 0 {
        std::thread::yield_now();
    }
    for _ in 0..dormouse_shard::lane::QUEUE_MAX {
        bench.tenant("default").database.lane.run(|| ()).expect("room");
    }
    client.check("KEYS *", "-BUSY 1024 slow commands of this database wait already: this one was not run\r\n");
    client.check("GET k", "$1\r\nv\r\n");
    drop(end);
    while bench.tenant("default").database.lane.waiting() > 0 {
        std::thread::yield_now();
    }
    client.check("KEYS *", "*1\r\n$1\r\nk\r\n");
}

/// Checks INFO and `/metrics` of a database.
fn report(bench: &Bench, client: &mut Connection, keys: u64) {
    client.send(&["INFO keyspace"]);
    client.expect(&format!("${}\r\n# Keyspace\r\n", 43 + keys.to_string().len()));
    client.expect(&format!("db0:keys={keys},expires=0,avg_ttl=0\r\n\r\n"));
    let snapshot = dormouse::snapshot::of_node(&bench.node);
    let database = snapshot.databases.iter().find(|database| database.name == "a").expect("a database of that name");
    assert_eq!((database.awake, database.keys()), (true, keys));
}

#[test]
fn a_store_that_hangs_keeps_nobody_waiting_while_a_database_falls_asleep() {
    let bench = Bench::new(&["dm_a_1", "dm_b_2"]);
    let (mut client, mut other) = (bench.connect(), bench.connect());
    client.check("AUTH dm_a_1", "+OK\r\n");
    other.check("AUTH dm_b_2", "+OK\r\n");
    client.check("SET k v", "+OK\r\n");
    other.check("SET k v", "+OK\r\n");
    let database = Arc::clone(&bench.tenant("a").database);
    for sleeps in [true, false] {
        bench.runtime.block_on(database.checkpoint()).expect("the store is well");
        bench.faults.hold(StoreRequest::Put);
        let asked = bench.faults.asked(StoreRequest::Put);
        let held = Arc::clone(&database);
        let saving = bench.runtime.spawn(async move {
            match sleeps {
                true => held.sleep().await.map(|slept| assert_eq!(slept, SleepOutcome::FellAsleep)),
                false => held.branch("a.branch", None).await,
            }
        });
        // Only the manifest of that moment is left to write.
        while bench.faults.asked(StoreRequest::Put) == asked {
            std::thread::yield_now();
        }
        client.check("SET l w", "+OK\r\n");
        client.check("GET k", "$1\r\nv\r\n");
        other.check("SET k w", "+OK\r\n");
        report(&bench, &mut client, 2);
        bench.faults.release(StoreRequest::Put);
        bench.runtime.block_on(saving).expect("no panic").expect("the store is well");
        assert_eq!(database.is_awake(), !sleeps);
        client.check("GET l", "$1\r\nw\r\n");
    }
}

#[test]
fn reports_do_not_wait_for_a_lock() {
    let bench = Bench::new(&["dm_a_1"]);
    let mut client = bench.connect();
    client.check("AUTH dm_a_1", "+OK\r\n");
    client.check("SET k v", "+OK\r\n");
    let database = &bench.tenant("a").database;
    let (_, held) = bench.runtime.block_on(database.hold_all()).expect("it is awake");
    report(&bench, &mut client, 1);
    client.send(&["DORMOUSE SHARDS"]);
    client.expect("*1\r\n*22\r\n$2\r\nid\r\n");
    drop(held);
}

#[test]
fn a_pipeline_of_large_writes_ends_where_the_log_has_enough_of_them() {
    // This log has no flusher.
    let (log, _) = Log::over(Box::new(Objects::new(Arc::new(Store::memory()))), 1, || 0).expect("an empty log");
    let bench = Bench::with(&[], Some(Arc::clone(&log)));
    let mut client = bench.connect();
    client.check("CONFIG SET reply-timeout 10ms", "+OK\r\n");
    client.check("SETRANGE k 1048575 x", ":1048576\r\n");
    let copies: Vec<String> = (0..200).map(|n| format!("COPY k {n}")).collect();
    client.send(&copies.iter().map(String::as_str).collect::<Vec<_>>());
    client.send(&["PING end"]);
    let (mut replies, mut part) = (Vec::new(), [0; 4096]);
    while !replies.ends_with(b"end\r\n") {
        let read = client.stream.read(&mut part).expect("replies");
        replies.extend_from_slice(&part[..read]);
    }
    let replies = String::from_utf8_lossy(&replies);
    assert!(replies.contains("-UNCERTAIN") && replies.contains("-TIMEOUT"), "{replies}");
    assert!(log.end() < 16 << 20, "{} bytes were kept", log.end());
}

#[test]
fn nothing_is_told_before_it_is_durable() {
    let (bench, log) = Bench::logged();
    let (mut writer, mut listener) = (bench.connect(), bench.connect());
    writer.check("CONFIG SET reply-timeout never", "+OK\r\n");
    listener.check("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    writer.send(&["MULTI", "SET a 1", "PUBLISH news a-is-set", "EXEC", "PUBLISH news after"]);
    let database = Arc::clone(&bench.tenant("default").database);
    while database.shared.sequence.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let pong = "*2\r\n$4\r\npong\r\n$0\r\n\r\n";
    // The worker has run the transaction when it answers this, and no message comes before.
    listener.check("PING", pong);
    let told = ["INFO keyspace", "DORMOUSE SHARDS", "DORMOUSE DATABASES"].map(|command| {
        let mut reader = bench.connect();
        reader.send(&[command]);
        (command, reader)
    });
    let mut queued = bench.connect();
    queued.send(&["MULTI", "INFO keyspace", "EXEC"]);
    listener.check("PING", pong);
    let mut readers: Vec<_> = told.into_iter().chain([("INFO in a transaction", queued)]).collect();
    for (command, reader) in &mut readers {
        assert!(reader.is_silent(), "{command} tells of a key that may be lost");
    }
    log.flush().expect("memory has room");
    writer.expect("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:1\r\n:1\r\n");
    listener.expect(&["a-is-set", "after"].map(message).concat());
    for (_, reader) in &mut readers {
        reader.stream.read_exact(&mut [0]).expect("a reply");
    }
}

fn message(text: &str) -> String {
    format!("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n${}\r\n{text}\r\n", text.len())
}

/// Runs `act` at each write to the store, until `saving` has ended. Returns its result.
fn at_each_put<T: Send + 'static>(
    bench: &Bench,
    saving: impl Future<Output = T> + Send + 'static,
    mut act: impl FnMut(usize),
) -> T {
    let before = bench.faults.asked(StoreRequest::Put);
    let saving = bench.runtime.spawn(saving);
    let mut puts = 0;
    while !saving.is_finished() {
        if bench.faults.asked(StoreRequest::Put) > before + puts {
            puts += 1;
            act(puts);
            bench.faults.let_one_through(StoreRequest::Put);
        }
        std::thread::yield_now();
    }
    bench.runtime.block_on(saving).expect("no panic")
}

#[test]
fn a_database_that_is_written_to_all_the_while_stays_awake() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    client.check("SET before v", "+OK\r\n");
    let database = Arc::clone(&bench.tenant("default").database);
    bench.faults.hold(StoreRequest::Put);
    let of = Arc::clone(&database);
    let sleep = async move { of.sleep().await };
    let mut last = 0;
    let slept = at_each_put(&bench, sleep, |put| {
        client.check(&format!("SET k {put}"), "+OK\r\n");
        last = put;
    });
    assert_eq!(slept, Ok(SleepOutcome::InUse));
    assert!(database.is_awake() && last > 2);
    assert_eq!(database.stored_counts()[0].0, 2, "what was written before is in the store");
    bench.faults.release(StoreRequest::Put);
    bench.sleep();
    client.check("GET k", &format!("${}\r\n{last}\r\n", last.to_string().len()));
    client.check("GET before", "$1\r\nv\r\n");
}

#[test]
fn a_database_that_is_closed_serves_until_its_last_checkpoint_and_again_if_that_fails() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    client.check("SET k 0", "+OK\r\n");
    let database = Arc::clone(&bench.tenant("default").database);
    bench.faults.hold(StoreRequest::Put);
    let mut last = 0;
    for fails in [true, false] {
        let of = Arc::clone(&database);
        let close = async move { of.close().await };
        let mut refused = false;
        let closed = at_each_put(&bench, close, |_| {
            if database.is_awake() {
                last += 1;
                client.check("INCR k", &format!(":{last}\r\n"));
                return;
            }
            // The client does not wait for the store.
            client.check("INCR k", "-ERR the server is shutting down\r\n");
            refused = true;
            if fails {
                bench.faults.fail(StoreRequest::Put, 0, 1, StoreFault::Full);
            }
        });
        assert!(refused);
        assert_eq!((closed.is_err(), database.is_awake()), (fails, fails), "{closed:?}");
        if fails {
            last += 1;
            client.check("INCR k", &format!(":{last}\r\n"));
        }
    }
    client.check("GET k", "-ERR the server is shutting down\r\n");
    bench.faults.release(StoreRequest::Put);
    let engine = bench.node.engine.clone();
    let again = bench.runtime.block_on(Tenant::open(
        "default",
        &engine,
        &bench.node.settings_for(&bench.tenant("default")),
        &COUNTED,
        &SUBJECTS,
        1,
        Recorded::default(),
    ));
    let held = bench.runtime.block_on(async {
        again.database.awake().await.expect("the store is well");
        again.database.load_all().await.expect("the store is well");
        again.database.hold_all().await.expect("it is awake").1
    });
    let mut contents: Vec<_> = held.iter().map(|held| held.contents()).collect();
    let now_ms = CLOCK_MS.load(Ordering::SeqCst);
    let mut db =
        Keyspace::new(contents.iter_mut().map(|contents| &mut **contents), &again.database.shared, 0, now_ms, 1);
    let text = db.string(b"k").expect("a string").map(|text| text.to_vec());
    assert_eq!(text, Some(last.to_string().into_bytes()));
}

#[test]
fn a_lock_that_is_held_keeps_no_other_database_from_expiring() {
    let bench = Bench::at(&["dm_a_1", "dm_b_2"], None, clock::now_ms);
    let databases = ["a", "b"].map(|name| Arc::clone(&bench.tenant(name).database));
    for token in ["dm_a_1", "dm_b_2"] {
        let mut client = bench.connect();
        client.check(&format!("AUTH {token}"), "+OK\r\n");
        client.check("SET k v PX 1", "+OK\r\n");
    }
    let (_, held) = bench.runtime.block_on(databases[0].hold_all()).expect("it is awake");
    let autoscaler = Autoscaler::new(bench.node.policy.clone()).expect("the default policy");
    let entered = bench.runtime.enter();
    keeper::start(&bench.node, autoscaler);
    drop(entered);
    while databases[1].counts()[0].0 > 0 {
        std::thread::yield_now();
    }
    assert_eq!(databases[0].counts()[0].0, 1);
    drop(held);
    while databases[0].counts()[0].0 > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn saves_that_are_asked_for_meanwhile_become_one() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    client.check("SET k 0", "+OK\r\n");
    let tenant = bench.tenant("default");
    let counters = &tenant.database.counters;
    bench.faults.hold(StoreRequest::Put);
    let asked = bench.faults.asked(StoreRequest::Put);
    client.check("BGSAVE", "+Background saving started\r\n");
    while bench.faults.asked(StoreRequest::Put) == asked {
        std::thread::yield_now();
    }
    let one = counters.checkpoint_running.load(Ordering::SeqCst);
    client.check("SET k 1", "+OK\r\n");
    for _ in 0..50 {
        client.check("BGREWRITEAOF", "+Background append only file rewriting scheduled\r\n");
        client.check("BGSAVE SCHEDULE", "+Background saving scheduled\r\n");
        client.check("BGSAVE", "-ERR Background save already in progress\r\n");
    }
    assert_eq!(counters.checkpoint_running.load(Ordering::SeqCst), one + 1, "a single one waits");
    bench.faults.release(StoreRequest::Put);
    while counters.checkpoint_running.load(Ordering::SeqCst) > 0 {
        std::thread::yield_now();
    }
    let dirty: usize = tenant.database.shards(false).iter().map(|shard| shard.dirty_bytes).sum();
    assert_eq!(dirty, 0, "what was written before the last request is saved");
}

#[test]
fn rewritten_settings_outlast_the_process_and_pass_on_to_branches() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    let command_line = bench.node.settings_for(&bench.tenant("default"));
    // Opens a database as the next process would.
    let reopened = |name: &str| {
        let opened = Tenant::open(name, &bench.node.engine, &command_line, &COUNTED, &SUBJECTS, 1, Recorded::default());
        let settings = bench.runtime.block_on(opened).settings();
        (settings.max_memory_policy.name(), settings.set_max_intset_entries, settings.replica_ping_seconds)
    };
    client.check("CONFIG SET maxmemory-policy allkeys-lru set-max-intset-entries 7", "+OK\r\n");
    assert_eq!(reopened("default"), ("noeviction", 512, 10), "nothing asked to keep them");
    bench.faults.fail(StoreRequest::Put, 0, 1, StoreFault::Full);
    client.send(&["CONFIG REWRITE"]);
    let mut refused = [0; 1024];
    let len = client.stream.read(&mut refused).expect("an error");
    assert!(
        refused.starts_with(b"-") && refused[..len].ends_with(b"\r\n"),
        "{}",
        String::from_utf8_lossy(&refused[..len])
    );
    assert_eq!(reopened("default"), ("noeviction", 512, 10), "the store refused them");
    client.check("CONFIG REWRITE", "+OK\r\n");
    assert_eq!(reopened("default"), ("allkeys-lru", 7, 10));
    client.send(&["MULTI", "CONFIG REWRITE", "EXEC"]);
    client
        .expect("+OK\r\n+QUEUED\r\n*1\r\n-ERR CONFIG REWRITE cannot be in a transaction: it has to be waited for\r\n");
    // A branch begins as its source is, and keeps what its source keeps.
    client.check("CONFIG SET repl-ping-replica-period 3", "+OK\r\n");
    client.check("DORMOUSE BRANCH b", "+OK\r\n");
    let branch = bench.tenant("default.b").settings();
    assert_eq!((branch.max_memory_policy.name(), branch.replica_ping_seconds), ("allkeys-lru", 3));
    assert_eq!(reopened("default.b"), ("allkeys-lru", 7, 10));
    // A sleeping database keeps them as well; what is as on the command line is no longer kept.
    bench.sleep();
    client.check("CONFIG SET maxmemory-policy noeviction", "+OK\r\n");
    client.check("CONFIG REWRITE", "+OK\r\n");
    assert_eq!(reopened("default"), ("noeviction", 7, 3));
    assert_eq!(reopened("default.b"), ("allkeys-lru", 7, 10));
}

#[test]
fn settings_that_another_process_keeps_meanwhile_are_taken_over_with_the_database() {
    let (bench, _log) = Bench::logged();
    let mut client = bench.connect();
    client.check("CONFIG SET set-max-intset-entries 7", "+OK\r\n");
    client.check("CONFIG REWRITE", "+OK\r\n");
    let command_line = bench.node.settings_for(&bench.tenant("default"));
    let sink = Box::new(Objects::new(Arc::new(Store::memory())));
    let (log, _) = Log::over(sink, 2, || CLOCK_MS.load(Ordering::SeqCst)).expect("an empty store");
    let engine = Engine { writer: 2, log: Some(log), ..bench.node.engine.clone() };
    let next = bench.runtime.block_on(Tenant::open(
        "default",
        &engine,
        &command_line,
        &COUNTED,
        &SUBJECTS,
        1,
        Recorded::default(),
    ));
    assert_eq!(next.settings().set_max_intset_entries, 7);
    // The other process still serves the database until the next one does.
    client.check("CONFIG SET set-max-intset-entries 8", "+OK\r\n");
    client.check("CONFIG REWRITE", "+OK\r\n");
    bench.runtime.block_on(next.database.awake()).expect("the store is well");
    assert_eq!(next.settings().set_max_intset_entries, 8);
}
