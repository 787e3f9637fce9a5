//! `ONCE` as clients use it: pipelines, transactions, users, scripts, sleep.

use crate::served::{Connection, Served};

const MISMATCH: &str = "-ONCEMISMATCH this key was used for another request";

#[track_caller]
fn check(connection: &mut Connection, line: &str, reply: &str) {
    assert_eq!(connection.say(line).to_string(), reply, "{line}");
}

#[test]
fn a_request_is_run_once() {
    let served = Served::start(&[]);
    let (mut first, mut second) = (served.connect(), served.connect());
    check(&mut first, "ONCE a 60000 INCRBY n 5", ":5");
    check(&mut second, "once a 60000 INCRBY n 5", ":5");
    check(&mut first, "ONCE a 60000 INCRBY n 6", MISMATCH);
    check(&mut first, "GET n", "\"5\"");
    // One pipeline, with other commands between them.
    let lines = [
        "ONCE b 60000 INCR n",
        "GET n",
        "ONCE b 60000 INCR n",
        "ONCE c 60000 LPUSH n x",
        "INCR n",
        "ONCE a 60000 INCRBY n 5",
    ];
    lines.iter().for_each(|line| first.send(&line.split(' ').collect::<Vec<_>>()));
    let replies: Vec<String> = lines.iter().map(|_| first.read().unwrap().to_string()).collect();
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value";
    assert_eq!(replies, [":6", "\"6\"", ":6", wrong, ":7", ":5"]);
    for (line, reply) in [
        ("ONCE", "-ERR wrong number of arguments for 'once' command"),
        ("ONCE k 1", "-ERR wrong number of arguments for 'once' command"),
        ("ONCE k 60000 INCR", "-ERR wrong number of arguments for 'incr' command"),
        ("ONCE k 60000 NOSUCH a", "-ERR unknown command 'NOSUCH', with args beginning with: 'a' "),
        ("ONCE k 60000 PING", "-ERR ONCE takes a command over keys, or EXEC"),
        ("ONCE k 60000 ONCE j 60000 INCR n", "-ERR ONCE takes a command over keys, or EXEC"),
        ("ONCE k 60000 EXEC", "-ERR EXEC without MULTI"),
        ("ONCE k 0 INCR n", "-ERR invalid expire time in 'once' command"),
        ("ONCE k soon INCR n", "-ERR value is not an integer or out of range"),
        ("GET n", "\"7\""),
        ("COMMAND GETKEYS ONCE k 60000 MSET x 1 y 2", "[\"x\" \"y\"]"),
        ("ONCE s 60000 XGROUP CREATE stream group $ MKSTREAM", "+OK"),
        ("ONCE s 60000 XGROUP CREATE stream group $ MKSTREAM", "+OK"),
    ] {
        check(&mut first, line, reply);
    }
    let info = first.say("INFO everything");
    assert_eq!((info.field("once_receipts"), info.field("once_repeated")), ("4", "4"));
    assert!(info.field("cmdstat_once").starts_with("calls="), "{info}");
    assert!(info.field("once_receipt_bytes").parse::<u64>().unwrap() > 100);
}

#[test]
fn receipts_sleep_and_wake_with_their_database() {
    let served = Served::start(&[]);
    let mut client = served.connect();
    check(&mut client, "ONCE a 60000 INCRBY n 5", ":5");
    check(&mut client, "DORMOUSE SLEEP", "+OK");
    check(&mut client, "DORMOUSE BRANCH copy", "+OK");
    assert_eq!(client.say("INFO dormouse").field("once_receipts"), "1");
    check(&mut client, "ONCE a 60000 INCRBY n 5", ":5");
    let mut branch = served.connect();
    check(&mut branch, "AUTH default.copy x", "+OK");
    check(&mut branch, "ONCE a 60000 INCRBY n 5", ":5");
    check(&mut branch, "ONCE b 60000 INCRBY n 5", ":10");
    check(&mut client, "ONCE b 60000 INCRBY n 6", ":11");
    check(&mut client, "DORMOUSE SPLIT 8000", "+OK");
    // The keys of these requests and their receipts are on both sides.
    for at in 0..20 {
        let line = format!("ONCE r{at} 60000 INCR counter:{at}");
        check(&mut client, &line, ":1");
        check(&mut client, &line, ":1");
    }
}

#[test]
fn a_transaction_is_run_once() {
    let served = Served::start(&[]);
    let mut client = served.connect();
    for _ in 0..2 {
        for line in ["MULTI", "INCR a", "RPUSH l x"] {
            client.say(line);
        }
        check(&mut client, "ONCE t 60000 EXEC", "[:1 :1]");
    }
    check(&mut client, "GET a", "\"1\"");
    client.say("MULTI");
    client.say("INCR a");
    check(&mut client, "ONCE t 60000 EXEC", MISMATCH);
    check(&mut client, "GET a", "\"1\"");
    // Its replies are made elsewhere.
    client.say("MULTI");
    client.say("INCR a");
    client.say("PING");
    let refused = client.say("ONCE u 60000 EXEC").to_string();
    assert!(refused.starts_with("-EXECABORT") && refused.contains("ONCE"), "{refused}");
    client.say("MULTI");
    check(&mut client, "ONCE v 60000 INCR a", "-ERR inside MULTI, ONCE goes in front of EXEC");
    check(&mut client, "EXEC", "-EXECABORT Transaction discarded because of previous errors.");
    // A transaction that was not run leaves no receipt.
    let mut other = served.connect();
    client.say("WATCH a");
    other.say("SET a 5");
    for (expected, change) in [("nil", false), ("[:6]", true), ("[:6]", true)] {
        client.say("MULTI");
        client.say("INCR a");
        check(&mut client, "ONCE w 60000 EXEC", expected);
        if change {
            other.say("SET b 1");
        }
    }
}

#[test]
fn scripts_run_once() {
    let served = Served::start(&[]);
    let mut client = served.connect();
    let plain = "return redis.call('INCR', KEYS[1])";
    let long = "for _ = 1, 3 do redis.call('INCR', KEYS[1]) end return redis.error_reply('LATE it is done')";
    for _ in 0..2 {
        assert_eq!(client.run(&["ONCE", "plain", "60000", "EVAL", plain, "1", "n"]).to_string(), ":1");
        assert_eq!(client.run(&["ONCE", "long", "60000", "EVAL", long, "1", "m"]).to_string(), "-LATE it is done");
    }
    assert_eq!((client.say("GET n").to_string(), client.say("GET m").to_string()), ("\"1\"".into(), "\"3\"".into()));
    let missing = client.say("ONCE sha 60000 EVALSHA ffffffffffffffffffffffffffffffffffffffff 0").to_string();
    assert!(missing.starts_with("-NOSCRIPT"), "{missing}");
    let inside = client.run(&["EVAL", "return redis.pcall('ONCE', 'k', '60000', 'INCR', 'n')", "0"]).to_string();
    assert!(inside.starts_with("-ERR"), "{inside}");
}

#[test]
fn a_user_needs_both_permissions() {
    let served = Served::start(&["--token", "dm_shop_abcdefgh"]);
    let mut owner = served.connect();
    check(&mut owner, "ACL SETUSER app on nopass ~app:* +incr +get", "+OK");
    check(&mut owner, "ACL SETUSER both on nopass ~app:* +incr +once", "+OK");
    let enter = |user: &str| {
        let mut connection = served.connect_without();
        check(&mut connection, &format!("AUTH {user} dm_shop_abcdefgh"), "+OK");
        connection
    };
    let denied = "-NOPERM User app has no permissions to run the 'once' command";
    check(&mut enter("app"), "ONCE a 60000 INCR app:n", denied);
    let mut both = enter("both");
    check(&mut both, "ONCE a 60000 INCR app:n", ":1");
    check(&mut both, "ONCE a 60000 INCR app:n", ":1");
    check(&mut both, "ONCE b 60000 INCR other", "-NOPERM No permissions to access a key");
    check(&mut both, "ONCE b 60000 DECR app:n", "-NOPERM User both has no permissions to run the 'decr' command");
    // What was refused may be asked for again, and another user's key is of no use.
    check(&mut owner, "ACL SETUSER both ~*", "+OK");
    check(&mut both, "ONCE b 60000 INCR other", ":1");
    check(&mut owner, "ONCE a 60000 INCR app:n", MISMATCH);
}

#[test]
fn a_tracking_client_is_told_once() {
    let served = Served::start(&[]);
    let mut client = served.connect();
    client.say("HELLO 3");
    check(&mut client, "CLIENT TRACKING ON", "+OK");
    check(&mut client, "SET n 1", "+OK");
    check(&mut client, "GET n", "\"1\"");
    // The reply, and behind it what the client must forget, which is no part of the receipt.
    check(&mut client, "ONCE a 60000 INCR n", ":2");
    assert_eq!(client.read().unwrap().to_string(), ">[\"invalidate\" [\"n\"]]");
    check(&mut client, "ONCE a 60000 INCR n", ":2");
    check(&mut client, "PING", "+PONG");
}
