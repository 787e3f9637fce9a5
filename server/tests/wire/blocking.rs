//! Clients that wait in a blocking command: what they notice of each other, of their database, and of the server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::node::{Bench, Connection, calls};
use dormouse::keeper;
use dormouse_autoscaler::Autoscaler;
use dormouse_storage::store::StoreRequest;

/// Waits until so many clients are blocked.
#[track_caller]
fn until_blocked(bench: &Bench, count: usize) {
    let blocked = || bench.node.clients.list().iter().filter(|client| client.is_blocked.load(Ordering::SeqCst)).count();
    for _ in 0..20_000 {
        if blocked() == count {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{} clients are blocked, not {count}", blocked());
}

/// A request of words that may have spaces.
fn words(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{}", words.len(), words.concat())
}

/// A client that waits for `k`.
fn waiter(bench: &Bench, line: &str, count: usize) -> Connection {
    let mut client = bench.connect();
    client.send(&[line]);
    until_blocked(bench, count);
    client
}

#[test]
fn a_push_serves_the_clients_in_order() {
    let bench = Bench::new(&[]);
    let mut first = waiter(&bench, "BLPOP k other 0", 1);
    let mut second = waiter(&bench, "BRPOP k 0", 2);
    let mut pusher = bench.connect();
    // The pipeline goes on behind what was served.
    pusher.send(&["RPUSH k 1", "LPOP k", "RPUSH k 2 3", "LRANGE k 0 -1"]);
    pusher.expect(":1\r\n$-1\r\n:2\r\n*1\r\n$1\r\n2\r\n");
    first.expect("*2\r\n$1\r\nk\r\n$1\r\n1\r\n");
    second.expect("*2\r\n$1\r\nk\r\n$1\r\n3\r\n");
    until_blocked(&bench, 0);
}

#[test]
fn the_commands_behind_a_blocked_one_wait() {
    let bench = Bench::new(&[]);
    let (mut client, mut other) = (bench.connect(), bench.connect());
    client.send(&["SET a 1", "BLPOP k 0", "GET a", "BLPOP k 0", "PING"]);
    client.expect("+OK\r\n");
    until_blocked(&bench, 1);
    client.send(&["ECHO later"]);
    assert!(client.is_silent());
    other.check("SET a 2", "+OK\r\n");
    other.check("RPUSH k x", ":1\r\n");
    client.expect("*2\r\n$1\r\nk\r\n$1\r\nx\r\n$1\r\n2\r\n");
    until_blocked(&bench, 1);
    other.check("RPUSH k y", ":1\r\n");
    client.expect("*2\r\n$1\r\nk\r\n$1\r\ny\r\n+PONG\r\n$5\r\nlater\r\n");
}

#[test]
fn nothing_is_taken_for_a_client_that_has_gone() {
    let bench = Bench::new(&[]);
    let mut other = bench.connect();
    drop(waiter(&bench, "BLPOP k 0", 1));
    until_blocked(&bench, 0);
    // One that has sent more than is read ahead.
    let mut client = waiter(&bench, "BLPOP k 0", 1);
    let lines = vec!["PING"; 10_000];
    client.send(&lines);
    drop(client);
    until_blocked(&bench, 0);
    let killed = waiter(&bench, "BLPOP k 0", 1);
    other.check("CLIENT KILL SKIPME YES", ":1\r\n");
    other.check("RPUSH k x", ":1\r\n");
    other.check("LLEN k", ":1\r\n");
    drop(killed);
}

#[test]
fn timeouts_and_unblocking() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    client.check("CLIENT ID", ":1\r\n");
    for line in ["BLPOP k 0.01", "BLMOVE a b LEFT LEFT 0.01", "BZPOPMIN z 0.01", "XREAD BLOCK 10 STREAMS s $"] {
        client.check(line, "*-1\r\n");
    }
    let mut other = bench.connect();
    other.check("CLIENT UNBLOCK 1", ":0\r\n");
    for (how, reply) in
        [("", "*-1\r\n"), (" TIMEOUT", "*-1\r\n"), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")]
    {
        client.send(&["BLPOP k 0"]);
        until_blocked(&bench, 1);
        other.check(&format!("CLIENT UNBLOCK 1{how}"), ":1\r\n");
        client.expect(reply);
    }
    other.check("CLIENT UNBLOCK x", "-ERR value is not an integer or out of range\r\n");
    other.check("CLIENT UNBLOCK 1 NOW", "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n");
    other.check("CLIENT UNBLOCK 99", ":0\r\n");
    until_blocked(&bench, 0);
    other.check("RPUSH k x", ":1\r\n");
    other.check("LLEN k", ":1\r\n");
}

/// `WAIT` and `WAITAOF` wait for replicas that do not exist.
#[test]
fn clients_that_wait_for_replicas_are_unblocked() {
    let (bench, log) = Bench::logged();
    let (mut client, mut other) = (bench.connect(), bench.connect());
    client.check("CLIENT ID", ":1\r\n");
    const ERROR: &str = "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";
    let rows = [
        ("WAIT 1 0", "", ":0\r\n"),
        ("WAIT 1 100000", " TIMEOUT", ":0\r\n"),
        ("WAIT 1 0", " ERROR", ERROR),
        ("WAITAOF 0 1 0", "", "*2\r\n:1\r\n:0\r\n"),
        ("WAITAOF 1 1 100000", " ERROR", ERROR),
        ("WAITAOF 1 1 0", " TIMEOUT", "*2\r\n:1\r\n:0\r\n"),
    ];
    for (line, how, reply) in rows {
        client.send(&[line]);
        until_blocked(&bench, 1);
        other.check(&format!("CLIENT UNBLOCK 1{how}"), ":1\r\n");
        client.expect(reply);
        until_blocked(&bench, 0);
        other.check("CLIENT UNBLOCK 1", ":0\r\n");
    }
    // A wait for the log ends too, and says that nothing is durable yet.
    client.send(&["SET k v"]);
    let written = || bench.tenant("default").database.shared.sequence.load(Ordering::SeqCst) > 0;
    while !written() {
        std::thread::yield_now();
    }
    log.flush().expect("the store is well");
    client.expect("+OK\r\n");
    client.check("WAITAOF 1 0 0", "*2\r\n:1\r\n:0\r\n");
    client.check("WAIT 1 10", ":0\r\n");
    client.check("WAITAOF 1 1 10", "*2\r\n:1\r\n:0\r\n");
    // A client that has gone.
    client.send(&["WAIT 1 0"]);
    until_blocked(&bench, 1);
    other.check("CLIENT KILL SKIPME YES", ":1\r\n");
    client.expect_end();
    until_blocked(&bench, 0);
}

#[test]
fn a_user_who_may_not_wait_any_more_gets_an_error_and_no_element() {
    let bench = Bench::new(&[]);
    let mut admin = bench.connect();
    let names = ["blpop", "blmove", "bzpopmin", "xread"];
    let lines = ["BLPOP k 0", "BLMOVE k l LEFT LEFT 0", "BZPOPMIN z 0", "XREAD BLOCK 0 STREAMS s $"];
    for (line, name) in lines.iter().zip(names) {
        for (rule, denial) in [
            ("-@all", format!("-NOPERM User u has no permissions to run the '{name}' command\r\n")),
            ("resetkeys", "-NOPERM No permissions to access a key\r\n".to_owned()),
        ] {
            admin.check("ACL SETUSER u reset on nopass +@all ~*", "+OK\r\n");
            let mut client = bench.connect();
            client.check("AUTH u x", "+OK\r\n");
            client.send(&[line]);
            until_blocked(&bench, 1);
            let mut next = waiter(&bench, line, 2);
            admin.check(&format!("ACL SETUSER u {rule}"), "+OK\r\n");
            assert!(client.is_silent(), "Redis tells it when it would be served");
            admin.send(&["RPUSH k x", "ZADD z 1 m", "XADD s 1-1 f v"]);
            client.expect(&denial);
            // The next one gets what it would have got.
            until_blocked(&bench, 0);
            let mut one = [0];
            std::io::Read::read_exact(&mut next.stream, &mut one).expect("a reply");
            assert!([b'*', b'$'].contains(&one[0]), "{one:?}");
            admin.expect(":1\r\n:1\r\n$3\r\n1-1\r\n");
            admin.check("FLUSHALL", "+OK\r\n");
        }
    }
    // A change that does not concern it.
    admin.check("ACL SETUSER u reset on nopass +@all ~*", "+OK\r\n");
    let mut client = bench.connect();
    client.check("AUTH u x", "+OK\r\n");
    client.send(&["BLPOP k 0"]);
    until_blocked(&bench, 1);
    admin.check("ACL SETUSER u resetkeys ~k -@all +blpop", "+OK\r\n");
    admin.check("RPUSH k x", ":1\r\n");
    client.expect("*2\r\n$1\r\nk\r\n$1\r\nx\r\n");
}

#[test]
fn info_counts_the_keys_that_are_waited_for() {
    let bench = Bench::new(&[]);
    let mut other = bench.connect();
    let mut check = |timed: usize, keys: usize, ends: usize| {
        other.send(&["INFO clients"]);
        let mut text = String::new();
        let expected = format!(
            "clients_in_timeout_table:{timed}\r\ntotal_blocking_keys:{keys}\r\ntotal_blocking_keys_on_nokey:{ends}\r\n"
        );
        while !text.ends_with("\r\n\r\n") {
            let mut some = [0; 4096];
            let len = std::io::Read::read(&mut other.stream, &mut some).expect("a reply");
            text += &String::from_utf8_lossy(&some[..len]);
        }
        assert!(text.contains(&expected), "{expected} is not in {text}");
    };
    check(0, 0, 0);
    let lists = [waiter(&bench, "BLPOP a b 0", 1), waiter(&bench, "BLPOP b c 100", 2)];
    check(1, 3, 0);
    // A key counts once, whatever is waited for, and each index has its own.
    let others = [waiter(&bench, "BZPOPMIN a d 100", 3), waiter(&bench, "XREAD BLOCK 0 STREAMS a e $ $", 4)];
    check(2, 5, 0);
    let mut groups = bench.connect();
    groups.check("XGROUP CREATE e g $ MKSTREAM", "+OK\r\n");
    groups.send(&["XREADGROUP GROUP g c BLOCK 0 STREAMS e >"]);
    until_blocked(&bench, 5);
    let mut second = bench.connect();
    second.check("SELECT 1", "+OK\r\n");
    second.send(&["BLPOP a 0"]);
    until_blocked(&bench, 6);
    check(2, 6, 1);
    let wait = waiter(&bench, "WAIT 1 100000", 7);
    check(3, 6, 1);
    drop((lists, others, groups, second));
    until_blocked(&bench, 1);
    check(1, 0, 0);
    wait.stream.shutdown(std::net::Shutdown::Both).expect("an open connection");
    until_blocked(&bench, 0);
    check(0, 0, 0);
}

/// A client that is to run its command again waits for the store no longer than for another client.
#[test]
fn a_nudged_client_times_out_beside_a_slow_store() {
    let bench = Bench::new(&[]);
    let mut other = bench.connect();
    other.check("RPUSH source x", ":1\r\n");
    let mut client = waiter(&bench, "BLMOVE k target LEFT LEFT 0.3", 1);
    bench.sleep();
    bench.faults.hold(StoreRequest::Get);
    // Its own client has to load the key first.
    let waiters = &bench.tenant("default").database.waiters;
    waiters.nudge_all();
    client.expect("*-1\r\n");
    until_blocked(&bench, 0);
    bench.faults.release(StoreRequest::Get);
    other.check("RPUSH k x", ":1\r\n");
    other.check("LLEN k", ":1\r\n");
}

#[test]
fn a_transaction_does_not_wait() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    client.send(&["MULTI", "BLPOP k 0", "BLMOVE a b LEFT LEFT 0", "XREAD BLOCK 0 STREAMS s $", "EXEC"]);
    client.expect("+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n*-1\r\n$-1\r\n*-1\r\n");
    client.send(&["MULTI", "WAIT 1 0", "WAITAOF 0 1 0", "EXEC"]);
    client.expect("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:0\r\n*2\r\n:0\r\n:0\r\n");
}

/// As Redis 7.2: a script gets the reply that the command has when its time is over.
#[test]
fn a_script_does_not_wait() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    for (call, reply) in [
        ("'BLPOP','k',0", "$-1\r\n"),
        ("'BLMOVE','a','b','LEFT','LEFT',0", "$-1\r\n"),
        ("'BZMPOP',0,1,'a','MIN'", "$-1\r\n"),
        ("'WAIT',1,0", ":0\r\n"),
        ("'WAITAOF',0,1,0", "*2\r\n:0\r\n:0\r\n"),
    ] {
        client.write(&words(&["EVAL", &format!("return redis.call({call})"), "0"]));
        client.expect(reply);
    }
    client.write(&words(&["EVAL", "return redis.pcall('WAIT', 1, -1).err", "0"]));
    client.expect("$23\r\nERR timeout is negative\r\n");
}

#[test]
fn a_blocked_subscriber_gets_its_messages() {
    let bench = Bench::new(&[]);
    let (mut client, mut other) = (bench.connect(), bench.connect());
    client.send(&["HELLO 3", "SUBSCRIBE c"]);
    let mut reply = [0; 4096];
    let mut read = Vec::new();
    while !read.ends_with(b"$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n") {
        let more = std::io::Read::read(&mut client.stream, &mut reply).expect("a reply");
        read.extend_from_slice(&reply[..more]);
    }
    client.send(&["BLPOP k 0"]);
    until_blocked(&bench, 1);
    other.check("PUBLISH c m", ":1\r\n");
    client.expect(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
    other.check("RPUSH k x", ":1\r\n");
    client.expect("*2\r\n$1\r\nk\r\n$1\r\nx\r\n");
}

/// Push and pop are one entry of the log, and both replies wait for it.
#[test]
fn a_served_reply_waits_for_the_log() {
    let (bench, log) = Bench::logged();
    let mut first = waiter(&bench, "BLMOVE k l LEFT RIGHT 0", 1);
    let mut second = waiter(&bench, "BLPOP l 0", 2);
    let mut pusher = bench.connect();
    let before = bench.tenant("default").database.shared.sequence.load(Ordering::SeqCst);
    pusher.send(&["RPUSH k x"]);
    until_blocked(&bench, 0);
    let after = bench.tenant("default").database.shared.sequence.load(Ordering::SeqCst);
    assert_eq!(after, before + 1, "one entry");
    assert!(pusher.is_silent() && first.is_silent() && second.is_silent());
    log.flush().expect("the store is well");
    pusher.expect(":1\r\n");
    first.expect("$1\r\nx\r\n");
    second.expect("*2\r\n$1\r\nl\r\n$1\r\nx\r\n");
}

/// A database with blocked clients falls asleep and stays asleep, whatever they repeat, until a write serves them.
#[test]
fn a_database_sleeps_beside_its_blocked_clients() {
    let bench = Bench::new(&[]);
    let mut other = bench.connect();
    other.check("CONFIG SET sleep-after 1s", "+OK\r\n");
    let mut poller = waiter(&bench, "BLPOP k 0.05", 1);
    let mut endless = waiter(&bench, "BZPOPMIN z 0", 2);
    keeper_starts(&bench);
    let database = Arc::clone(&bench.tenant("default").database);
    let poll = |poller: &mut Connection| {
        poller.expect("*-1\r\n");
        poller.send(&["BLPOP k 0.05"]);
    };
    // Each attempt of the poller would be a use if it counted as one.
    let mut turns = 0;
    while database.is_awake() {
        poll(&mut poller);
        turns += 1;
        assert!(turns < 1000, "it stays awake");
    }
    poll(&mut poller);
    let wakes = bench.wakes("default");
    let commands = calls(&bench.totals("default"), "BLPOP");
    for _ in 0..20 {
        poll(&mut poller);
    }
    assert_eq!(bench.wakes("default"), wakes, "polling wakes nobody");
    assert!(!database.is_awake());
    assert!(calls(&bench.totals("default"), "BLPOP") >= commands + 20, "each of them counts as a command");
    other.check("ZADD z 1 m", ":1\r\n");
    endless.expect("*3\r\n$1\r\nz\r\n$1\r\nm\r\n$1\r\n1\r\n");
    other.check("RPUSH k x", ":1\r\n");
    poller.expect("*2\r\n$1\r\nk\r\n$1\r\nx\r\n");
}

fn keeper_starts(bench: &Bench) {
    let autoscaler = Autoscaler::new(bench.node.policy.clone()).expect("the default policy");
    let _entered = bench.runtime.enter();
    keeper::start(&bench.node, autoscaler);
}

#[test]
fn a_pause_holds_commands_back() {
    let bench = Bench::new(&[]);
    let (mut client, mut other) = (bench.connect(), bench.connect());
    other.check("CLIENT PAUSE x", "-ERR timeout is not an integer or out of range\r\n");
    other.check("CLIENT PAUSE -1", "-ERR timeout is negative\r\n");
    other.check("CLIENT PAUSE 1 SOME", "-ERR CLIENT PAUSE mode must be WRITE or ALL\r\n");
    other.check("CLIENT PAUSE 100000 WRITE", "+OK\r\n");
    client.check("GET k", "$-1\r\n");
    client.send(&["GET k", "SET k v", "GET k"]);
    client.expect("$-1\r\n");
    until_blocked(&bench, 1);
    other.check("GET k", "$-1\r\n");
    other.check("CLIENT UNPAUSE", "+OK\r\n");
    client.expect("+OK\r\n$1\r\nv\r\n");
    other.check("CLIENT PAUSE 100000", "+OK\r\n");
    client.send(&["MULTI", "PING", "EXEC"]);
    until_blocked(&bench, 1);
    assert!(client.is_silent());
    other.check("CLIENT UNPAUSE", "+OK\r\n");
    client.expect("+OK\r\n+QUEUED\r\n*1\r\n+PONG\r\n");
    other.check("CLIENT PAUSE 20", "+OK\r\n");
    client.check("PING", "+PONG\r\n");
}

/// Scripts that say that they do not write run while writes are held back.
#[test]
fn a_pause_of_writes_lets_scripts_read() {
    let bench = Bench::new(&[]);
    let mut other = bench.connect();
    let library = "#!lua name=lib\nredis.register_function{function_name='reads', callback=function() return 1 end, \
        flags={'no-writes'}}\nredis.register_function('writes', function() return 1 end)";
    other.write(&words(&["FUNCTION", "LOAD", library]));
    other.expect("$3\r\nlib\r\n");
    let reads = "#!lua flags=no-writes\nreturn 1";
    other.write(&words(&["SCRIPT", "LOAD", reads]));
    let mut sha = [0; 47];
    std::io::Read::read_exact(&mut other.stream, &mut sha).expect("a reply");
    let sha = String::from_utf8_lossy(&sha[5..45]).into_owned();
    let mut transaction = bench.connect();
    transaction.write(&words(&["MULTI"]));
    transaction.write(&words(&["EVAL", reads, "0"]));
    transaction.expect("+OK\r\n+QUEUED\r\n");
    other.check("CLIENT PAUSE 100000 WRITE", "+OK\r\n");
    let free = [
        words(&["EVAL", reads, "0"]),
        words(&["EVALSHA", &sha, "0"]),
        words(&["EVAL_RO", "return 1", "0"]),
        words(&["FCALL", "reads", "0"]),
        words(&["FCALL_RO", "reads", "0"]),
    ];
    for request in &free {
        other.write(request);
        other.expect(":1\r\n");
    }
    transaction.write(&words(&["EXEC"]));
    transaction.expect("*1\r\n:1\r\n");
    let held = [
        words(&["EVAL", "return 1", "0"]),
        words(&["EVAL", "#!lua\nreturn 1", "0"]),
        words(&["FCALL", "writes", "0"]),
        words(&["PUBLISH", "c", "m"]),
    ];
    let mut clients: Vec<Connection> = held.iter().map(|_| bench.connect()).collect();
    clients.iter_mut().zip(&held).for_each(|(client, request)| client.write(request));
    until_blocked(&bench, held.len());
    other.check("CLIENT UNPAUSE", "+OK\r\n");
    let (publisher, scripts) = clients.split_last_mut().expect("several");
    scripts.iter_mut().for_each(|client| client.expect(":1\r\n"));
    publisher.expect(":0\r\n");
}

#[test]
fn a_node_that_ends_lets_go_of_its_clients() {
    let bench = Bench::new(&[]);
    let mut endless = waiter(&bench, "BLPOP k 0", 1);
    bench.node.drain();
    endless.expect_end();
}

/// Bytes of a blocked client are charged to its database, and given back.
#[test]
fn a_blocked_client_is_charged_for() {
    let bench = Bench::new(&[]);
    let account = Arc::clone(&bench.tenant("default").account);
    let mut client = bench.connect();
    client.check("PING", "+PONG\r\n");
    let before = account.used();
    let key = "k".repeat(5000);
    client.send(&[&format!("BLPOP {key} 0")]);
    until_blocked(&bench, 1);
    assert!(account.used() > before + 5000, "{} and {before}", account.used());
    let mut other = bench.connect();
    other.check("PING", "+PONG\r\n");
    let with_other = account.used();
    other.check(&format!("RPUSH {key} x"), ":1\r\n");
    client.expect(&format!("*2\r\n$5000\r\n{key}\r\n$1\r\nx\r\n"));
    client.check("PING", "+PONG\r\n");
    assert!(account.used() < with_other - 5000, "{} and {with_other}", account.used());
}

#[test]
fn the_reply_of_a_served_client_leaves_before_that_of_the_one_that_serves_it() {
    let bench = Bench::new(&[]);
    let (mut waiter, mut other) = (bench.connect(), bench.connect());
    for round in 0..50 {
        waiter.send(&["BLPOP queue 0"]);
        until_blocked(&bench, 1);
        other.check("RPUSH queue element", ":1\r\n");
        // It is in the socket by now, whatever the machine does.
        assert!(!waiter.is_silent(), "round {round}");
        waiter.expect("2\r\n$5\r\nqueue\r\n$7\r\nelement\r\n");
    }
}

#[test]
fn a_wait_in_vain_is_remembered_until_something_changes() {
    const WAIT: &str = "BLPOP queue 0.01";
    let bench = Bench::new(&[]);
    let database = Arc::clone(&bench.tenant("default").database);
    let (mut client, mut other) = (bench.connect(), bench.connect());
    other.check("SET other 1", "+OK\r\n");
    client.check(WAIT, "*-1\r\n");
    bench.sleep();
    client.check(WAIT, "*-1\r\n");
    assert!(!database.is_awake(), "it has waited for this before the sleep");
    // Another request is not known, and neither is the same one in another index.
    client.check("BLPOP queue 0.02", "*-1\r\n");
    assert!(database.is_awake());
    bench.sleep();
    client.check("SELECT 1", "+OK\r\n");
    client.check(WAIT, "*-1\r\n");
    assert!(database.is_awake());
    client.check("SELECT 0", "+OK\r\n");
    // Between two waits an element comes.
    other.check("RPUSH queue element", ":1\r\n");
    bench.sleep();
    client.check(WAIT, "*2\r\n$5\r\nqueue\r\n$7\r\nelement\r\n");
}

/// The reply of a claim of `1-1`, up to its idle time.
const CLAIMED: &str = "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*4\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n";

#[test]
fn a_client_that_claims_is_served_when_time_has_passed() {
    let bench = Bench::new(&[]);
    let mut other = bench.connect();
    other.check("XADD s 1-1 f v", "$3\r\n1-1\r\n");
    other.check("XGROUP CREATE s g 0", "+OK\r\n");
    other.send(&["XREADGROUP GROUP g a STREAMS s >"]);
    other.expect("*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
    // Nothing changes while it waits, and the database falls asleep.
    let mut client = bench.connect();
    client.send(&[
        "XREADGROUP GROUP g b BLOCK 0 CLAIM 400 STREAMS s t >",
        "XREADGROUP GROUP g b BLOCK 0 CLAIM 400 STREAMS s >",
    ]);
    client.expect(
        "-ERR Unbalanced 'xreadgroup' list of streams: for each stream key an ID or '>' must be specified.\r\n",
    );
    bench.sleep();
    client.expect(CLAIMED);
    let idle: u64 = client.line().trim_start_matches(':').trim_end().parse().expect("a number");
    assert!(idle >= 400, "{idle}");
    client.expect(":1\r\n");
    other.check("XPENDING s g", "*4\r\n:1\r\n$3\r\n1-1\r\n$3\r\n1-1\r\n*1\r\n*2\r\n$1\r\nb\r\n$1\r\n1\r\n");
    until_blocked(&bench, 0);
}

#[test]
fn a_client_that_claims_is_served_when_an_entry_is_released() {
    let bench = Bench::new(&[]);
    let mut other = bench.connect();
    other.check("XADD s 1-1 f v", "$3\r\n1-1\r\n");
    other.check("XGROUP CREATE s g 0", "+OK\r\n");
    let mut first = waiter(&bench, "XREADGROUP GROUP g a BLOCK 0 CLAIM 1000000 STREAMS none s > >", 0);
    first.expect("-NOGROUP No such key 'none' or consumer group 'g' in XREADGROUP with GROUP option\r\n");
    other.send(&["XREADGROUP GROUP g a STREAMS s >"]);
    other.expect("*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
    let mut first = waiter(&bench, "XREADGROUP GROUP g b BLOCK 0 CLAIM 1000000 STREAMS s >", 1);
    let mut second = waiter(&bench, "XREADGROUP GROUP g c BLOCK 0 CLAIM 1000000 STREAMS s >", 2);
    other.check("XNACK s g FAIL IDS 1 1-1", ":1\r\n");
    first.expect(CLAIMED);
    first.line();
    first.expect(":1\r\n");
    until_blocked(&bench, 1);
    other.check("XNACK s g SILENT IDS 1 1-1", ":1\r\n");
    second.expect(CLAIMED);
    second.line();
    second.expect(":1\r\n");
    // It waits on for new entries.
    let mut third = waiter(&bench, "XREADGROUP GROUP g d BLOCK 0 CLAIM 1000000 STREAMS s >", 1);
    other.check("XADD s 2-1 f v", "$3\r\n2-1\r\n");
    third.expect(&CLAIMED.replace("1-1", "2-1"));
    third.expect(":0\r\n:0\r\n");
}
