//! Keyspace notifications: the moment at which they are told, their bounds, and whose they are.

use crate::served::{Connection, Served};

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

/// The channels and the texts are those of Redis 8.10.2.
#[test]
fn fields_are_named_to_those_who_ask() {
    let server = Served::start(&[]);
    let mut listener = server.connect();
    let mut client = server.connect();
    listener.say("CONFIG SET notify-keyspace-events hSTIV");
    listener.say("PSUBSCRIBE __*");
    let all = |listener: &mut Connection, event: &str, fields: &[&str]| {
        let list = fields.iter().map(|field| format!("{}:{field}", field.len())).collect::<Vec<_>>().join(",");
        let mut expected =
            vec![format!("__subkeyspace@0__:h {event}|{list}"), format!("__subkeyevent@0__:{event} 1:h|{list}")];
        expected.extend(fields.iter().map(|field| format!("__subkeyspaceitem@0__:h\n{field} {event}")));
        expected.push(format!("__subkeyspaceevent@0__:{event}|h {list}"));
        assert_eq!(heard(listener, expected.len()), expected);
    };
    for (command, events) in [
        ("HSET h a 1 bcd 2", &[("hset", &["a", "bcd"][..])][..]),
        ("HMSET h a 1 a 2", &[("hset", &["a", "a"])]),
        ("HSETNX h a 1", &[]),
        ("HSETNX h c 1", &[("hset", &["c"])]),
        ("HINCRBY h n 5", &[("hincrby", &["n"])]),
        ("HINCRBYFLOAT h f 1.5", &[("hincrbyfloat", &["f"])]),
        ("HDEL h a a nope", &[("hdel", &["a"])]),
        ("HSET h x 1 y 2 z 3", &[("hset", &["x", "y", "z"])]),
        ("HEXPIRE h 100 FIELDS 3 x y nope", &[("hexpire", &["x", "y"])]),
        ("HPERSIST h FIELDS 2 x z", &[("hpersist", &["x"])]),
        ("HEXPIRE h 0 FIELDS 1 x", &[("hdel", &["x"])]),
        ("HGETDEL h FIELDS 2 y nope", &[("hdel", &["y"])]),
        ("HGETEX h EX 100 FIELDS 1 z", &[("hexpire", &["z"])]),
        ("HGETEX h PERSIST FIELDS 1 z", &[("hpersist", &["z"])]),
        ("HSETEX h EX 100 FIELDS 2 q 1 r 2", &[("hset", &["q", "r"]), ("hexpire", &["q", "r"])]),
        ("HSETEX h PXAT 1 FIELDS 2 s 1 q 2", &[("hset", &["s", "q"]), ("hdel", &["s", "q"])]),
        ("HIMPORT PREPARE set f g", &[]),
        ("HIMPORT SET h set 1 2", &[("hset", &["f", "g"])]),
        ("HSETEX h PX 10 FIELDS 1 t 1", &[("hset", &["t"]), ("hexpire", &["t"]), ("hexpired", &["t"])]),
        ("DEL h", &[]),
    ] {
        client.say(command);
        events.iter().for_each(|(event, fields)| all(&mut listener, event, fields));
    }
    // The name of such a channel could not be read back.
    client.run(&["HSET", "k\nl", "a,b", "1"]);
    let expected = [
        "__subkeyspace@0__:k\nl hset|3:a,b",
        "__subkeyevent@0__:hset 3:k\nl|3:a,b",
        "__subkeyspaceevent@0__:hset|k\nl 3:a,b",
    ];
    assert_eq!(heard(&mut listener, 3), expected);
    client.say("CONFIG SET notify-keyspace-events KhS");
    client.say("HSET only a 1");
    client.say("HDEL only a");
    let expected = [
        "__keyspace@0__:only hset",
        "__subkeyspace@0__:only hset|1:a",
        "__keyspace@0__:only hdel",
        "__subkeyspace@0__:only hdel|1:a",
    ];
    assert_eq!(heard(&mut listener, 4), expected);
}

/// As in Redis 8.10.2: before the event of the command, but after those that name two keys.
#[test]
fn overwritten_values_are_told() {
    let server = Served::start(&[]);
    let mut listener = listener(&server, "Eoc$g");
    let mut client = server.connect();
    for (command, events) in [
        ("SET s 1", &["set s"][..]),
        ("SET s 2", &["overwritten s", "set s"]),
        ("APPEND s x", &["append s"]),
        ("GETSET s 5", &["overwritten s", "set s"]),
        ("RPUSH l 1", &[]),
        ("SET l 1", &["overwritten l", "type_changed l", "set l"]),
        ("MSET s 1 new 3", &["overwritten s", "set s", "set new"]),
        ("SADD a 1 2", &[]),
        ("SUNIONSTORE s a", &["overwritten s", "type_changed s"]),
        ("SUNIONSTORE s a", &["overwritten s"]),
        ("SINTERSTORE s a nope", &["del s"]),
        ("RENAME new l", &["rename_from new", "rename_to l", "overwritten l"]),
        ("COPY a l REPLACE", &["copy_to l", "overwritten l", "type_changed l"]),
        ("SETEX l 100 v", &["overwritten l", "type_changed l", "set l", "expire l"]),
        ("SETNX l v", &[]),
        ("INCR n", &["incrby n"]),
    ] {
        client.say(command);
        let expected: Vec<String> = events.iter().map(|event| format!("__keyevent@0__:{event}")).collect();
        assert_eq!(heard(&mut listener, events.len()), expected, "{command}");
    }
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
    let long = "for n = 1, 100000 do redis.call('SET', 'key:' .. n, n) end return redis.call('DBSIZE')";
    assert_eq!(client.run(&["EVAL", long, "0"]).integer(), 100_000);
    while listener.read().is_some() {}
    client.say_until("PUBSUB NUMPAT", |patterns| patterns.integer() == 0);
    // The memory of the queue is free again.
    assert_eq!(client.run(&["EVAL", long, "0"]).integer(), 100_000);
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
