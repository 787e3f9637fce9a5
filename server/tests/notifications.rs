//! Keyspace notifications: the moment at which they are told, their bounds, and whose they are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[allow(dead_code, reason = "shared with tests that need more of it")]
mod served;

use served::{Connection, Served};

/// Listens to events of all keys, if `classes` are told.
fn listener(server: &Served, classes: &str) -> Connection {
    let mut listener = server.connect();
    assert_eq!(listener.say(&format!("CONFIG SET notify-keyspace-events {classes}")).to_string(), "+OK");
    listener.say("PSUBSCRIBE __key*");
    listener
}

/// The channels and texts of the next messages.
fn heard(listener: &mut Connection, messages: usize) -> Vec<String> {
    let next = |_| {
        let message = listener.read().expect("a message comes");
        let words: Vec<_> = message.items().iter().rev().take(2).map(|word| word.text().to_owned()).collect();
        format!("{} {}", words[1], words[0])
    };
    (0..messages).map(next).collect()
}

#[test]
fn messages_come_between_the_events_before_and_after_them() {
    for window in ["none", "1s", "0"] {
        let server = Served::start(&["--loss-window", window]);
        let mut listener = listener(&server, "EA");
        let mut client = server.connect();
        client.write(
            b"SET a 1\r\nPUBLISH __key:said 1\r\nSET b 1\r\nDEL a b\r\nPUBLISH __key:said 2\r\nSET c 1 EX 9\r\n",
        );
        (0..6).for_each(|_| drop(client.read()));
        client.run(&[
            "EVAL",
            "redis.call('SET', 'd', 1) redis.call('PUBLISH', '__key:said', 'x') redis.call('DEL', 'd')",
            "0",
        ]);
        let expected = [
            "__keyevent@0__:set a",
            "__key:said 1",
            "__keyevent@0__:set b",
            "__keyevent@0__:del a",
            "__keyevent@0__:del b",
            "__key:said 2",
            "__keyevent@0__:set c",
            "__keyevent@0__:expire c",
            "__keyevent@0__:set d",
            "__key:said x",
            "__keyevent@0__:del d",
        ];
        assert_eq!(heard(&mut listener, expected.len()), expected, "loss window {window}");
    }
}

#[test]
fn blocked_clients_that_are_served_change_keys_too() {
    let server = Served::start(&[]);
    let mut listener = listener(&server, "EA");
    let (mut waiting, mut client) = (server.connect(), server.connect());
    waiting.send(&["BLMOVE", "from", "to", "LEFT", "RIGHT", "0"]);
    client.say_until("INFO clients", |info| info.field("blocked_clients") == "1");
    client.say("RPUSH from x");
    assert_eq!(waiting.read().map(|moved| moved.to_string()).as_deref(), Some("\"x\""));
    let expected = ["rpush from", "rpush to", "lpop from", "del from"].map(|event| format!("__keyevent@0__:{event}"));
    assert_eq!(heard(&mut listener, 4), expected);
}

#[test]
fn keys_that_nobody_looks_for_are_told() {
    let server = Served::start(&[]);
    let mut listener = listener(&server, "KxhE");
    let mut client = server.connect();
    client.say("SELECT 3");
    client.say("SET k v PX 10");
    client.say("HSETEX h PX 10 FIELDS 1 f v");
    let mut events = heard(&mut listener, 8);
    events.sort();
    let expected = [
        "__keyevent@3__:expired k",
        "__keyevent@3__:hexpire h",
        "__keyevent@3__:hexpired h",
        "__keyevent@3__:hset h",
        "__keyspace@3__:h hexpire",
        "__keyspace@3__:h hexpired",
        "__keyspace@3__:h hset",
        "__keyspace@3__:k expired",
    ];
    assert_eq!(events, expected);
}

#[test]
fn evicted_keys_are_told() {
    let server = Served::start(&[]);
    let mut listener = listener(&server, "Ee");
    let mut client = server.connect();
    client.say("CONFIG SET maxmemory 4mb maxmemory-policy allkeys-lru");
    let value = "v".repeat(10_000);
    (0..1000).for_each(|n| assert_eq!(client.run(&["SET", &n.to_string(), &value]).to_string(), "+OK"));
    let events = heard(&mut listener, 400);
    assert!(events.iter().all(|event| event.starts_with("__keyevent@0__:evicted ")), "{events:?}");
}

#[test]
fn who_cannot_be_told_everything_is_closed() {
    let server = Served::start(&["--max-memory-clients", "8mb"]);
    let mut listener = listener(&server, "KEA");
    let mut client = server.connect();
    let long = "for n = 1, 200000 do redis.call('SET', 'key:' .. n, n) end return redis.call('DBSIZE')";
    assert_eq!(client.run(&["EVAL", long, "0"]).integer(), 200_000);
    while listener.read().is_some() {}
    client.say_until("PUBSUB NUMPAT", |patterns| patterns.integer() == 0);
    // The memory of the queue is free again.
    assert_eq!(client.run(&["EVAL", long, "0"]).integer(), 200_000);
    let mut listener = self::listener(&server, "KEA");
    client.say("SET a 1");
    assert_eq!(heard(&mut listener, 1), ["__keyspace@0__:a set"]);
}

#[test]
fn each_database_has_events_of_its_own() {
    let server = Served::start(&["--token", "dm_one_secret", "--token", "dm_two_secret"]);
    let mut listener = server.connect_with("dm_one_secret");
    listener.say("CONFIG SET notify-keyspace-events KEA");
    listener.say("PSUBSCRIBE *");
    let (mut one, mut two) = (server.connect_with("dm_one_secret"), server.connect_with("dm_two_secret"));
    assert_eq!(two.say("CONFIG GET notify-keyspace-events").at("notify-keyspace-events").text(), "");
    two.say("SET a 1");
    one.say("SET b 1");
    assert_eq!(heard(&mut listener, 2), ["__keyspace@0__:b set", "__keyevent@0__:set b"]);
    one.say("CONFIG SET notify-keyspace-events Kl");
    one.say("SET b 2");
    one.say("RPUSH c 2");
    assert_eq!(heard(&mut listener, 1), ["__keyspace@0__:c rpush"]);
    server.connect_as_admin().send(&["SHUTDOWN", "NOSAVE"]);
    assert!(server.ended().is_ok(), "it ends although clients listen");
}
