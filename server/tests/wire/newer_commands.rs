//! Commands of the server that came after Redis 7.2, over TCP.

use std::collections::BTreeSet;

use crate::served::{Connection, Served, Value};

/// The sizes are those of Valkey 9.1.2.
#[test]
fn large_requests_and_replies_are_logged() {
    let server = Served::start(&["--token", "dm_one_s", "--token", "dm_two_s"]);
    let (mut client, mut other, mut admin) =
        (server.connect_with("dm_one_s"), server.connect_with("dm_two_s"), server.connect_as_admin());
    let log = |client: &mut Connection, kind: &str| -> Vec<(i64, String)> {
        let entries = client.say(&format!("COMMANDLOG GET -1 {kind}"));
        let entry = |entry: &Value| {
            let words: Vec<&str> = entry.items()[3].items().iter().map(Value::text).collect();
            (entry.items()[2].integer(), words[0].to_string())
        };
        entries.items().iter().map(entry).collect()
    };
    admin.say("CONFIG SET commandlog-request-larger-than 100 commandlog-reply-larger-than -1");
    let (long, longer) = ("1".repeat(110), "1".repeat(120));
    client.run(&["SET", "a", &longer]);
    client.say("MULTI");
    client.run(&["SET", "b", &long]);
    client.say("EXEC");
    assert_eq!(log(&mut client, "large-request"), [(148, "SET".to_string())]);
    admin.say("CONFIG SET commandlog-request-larger-than -1 commandlog-reply-larger-than 100");
    client.say("GET a");
    client.say("MULTI");
    client.say("GET a");
    client.say("EXEC");
    client.run(&["EVAL", "return redis.call('GET', KEYS[1])", "1", "a"]);
    client.run(&["FOO", &longer]);
    let expected = [(128, "EVAL"), (128, "GET"), (128, "GET")].map(|(bytes, name)| (bytes, name.to_string()));
    assert_eq!(log(&mut client, "large-reply"), expected);
    // That reply was large, too.
    assert_eq!(client.say("COMMANDLOG LEN LARGE-REPLY").integer(), 4);
    assert_eq!(other.say("COMMANDLOG LEN large-reply").integer(), 0);
    assert_eq!(client.say("COMMANDLOG RESET large-reply").to_string(), "+OK");
    assert_eq!(client.say("COMMANDLOG LEN large-reply").integer(), 0);
    admin.say("CONFIG SET commandlog-large-reply-max-len 2");
    (0..3).for_each(|_| drop(client.say("GET a")));
    assert_eq!(client.say("COMMANDLOG LEN large-reply").integer(), 2);
    admin.say("CONFIG SET commandlog-large-reply-max-len 0");
    admin.say("CONFIG SET commandlog-execution-slower-than 0");
    assert_eq!(admin.say("CONFIG GET slowlog-log-slower-than").at("slowlog-log-slower-than").text(), "0");
    client.say("GET a");
    let slow = client.say("SLOWLOG LEN").integer();
    assert!(slow > 0 && client.say("COMMANDLOG LEN slow").integer() > slow, "{slow}");
    for (command, reply) in [
        ("COMMANDLOG GET -2 slow", "-ERR count should be greater than or equal to -1"),
        ("COMMANDLOG GET x y", "-ERR count should be greater than or equal to -1"),
        ("COMMANDLOG GET 1 y", "-ERR type should be one of the following: slow, large-request, large-reply"),
        ("COMMANDLOG LEN", "-ERR wrong number of arguments for 'commandlog|len' command"),
        ("COMMANDLOG FOO", "-ERR unknown subcommand 'FOO'. Try COMMANDLOG HELP."),
    ] {
        assert_eq!(client.say(command).to_string(), reply, "{command}");
    }
}

#[test]
fn fieldsets_belong_to_the_connection() {
    let server = Served::start(&[]);
    let (mut client, mut other) = (server.connect(), server.connect());
    const NONE: &str = "-ERR no such fieldset";
    for (command, reply) in [
        ("HIMPORT PREPARE s a a", "-ERR duplicate field name in fieldset"),
        ("HIMPORT PREPARE s a b", "+OK"),
        ("HSET k old 1", ":1"),
        ("EXPIRE k 100", ":1"),
        ("HIMPORT SET k s 1", "-ERR value count does not match fieldset field count"),
        ("HIMPORT SET k s 1 2", "+OK"),
        ("HIMPORT DISCARD x", ":0"),
        ("HIMPORT DISCARD s", ":1"),
        ("HIMPORT SET k s 3 4", NONE),
        ("HIMPORT PREPARE t b a", "+OK"),
        ("MULTI", "+OK"),
        ("HIMPORT SET k1 t 1 2", "+QUEUED"),
        ("HIMPORT PREPARE t a b", "+QUEUED"),
        ("HIMPORT SET k2 t 1 2", "+QUEUED"),
        ("HIMPORT DISCARDALL", "+QUEUED"),
        ("HIMPORT SET k3 t 1 2", "+QUEUED"),
    ] {
        assert_eq!(client.say(command).to_string(), reply, "{command}");
    }
    let exec: Vec<String> = client.say("EXEC").items().iter().map(ToString::to_string).collect();
    assert_eq!(exec, ["+OK", "+OK", "+OK", ":1", NONE]);
    let script = "redis.call('HIMPORT','PREPARE','z','a') return redis.call('HIMPORT','SET',KEYS[1],'z','5')";
    assert_eq!(client.run(&["EVAL", script, "1", "k4"]).to_string(), "+OK");
    let script = "return redis.pcall('HIMPORT','SET',KEYS[1],'z','5')";
    client.say("HIMPORT PREPARE z q");
    for (command, reply) in [
        ("HIMPORT SET k5 z 1", "+OK"),
        ("HGET k a", "\"1\""),
        ("TTL k", ":-1"),
        ("HGET k1 b", "\"1\""),
        ("HGET k2 a", "\"1\""),
        ("EXISTS k3", ":0"),
        ("HGET k4 a", "\"5\""),
    ] {
        assert_eq!(client.say(command).to_string(), reply, "{command}");
    }
    assert_eq!(client.run(&["EVAL", script, "1", "k4"]).to_string(), NONE);
    assert_eq!(other.say("HIMPORT SET k z 1").to_string(), NONE);
    // They are charged to the client, and end with its session.
    let memory = |other: &mut Connection| -> u64 {
        let line = other.say("CLIENT LIST SKIPME yes").text().to_string();
        line.split(' ').find_map(|field| field.strip_prefix("tot-mem=")).unwrap().parse().unwrap()
    };
    let before = memory(&mut other);
    assert_eq!(client.run(&["HIMPORT", "PREPARE", "large", &"x".repeat(1 << 20)]).to_string(), "+OK");
    assert!(memory(&mut other) > before + (1 << 20));
    for n in 0..10 {
        client.run(&["HIMPORT", "PREPARE", &format!("large:{n}"), &"x".repeat(1 << 20)]);
    }
    let refused = client.run(&["HIMPORT", "PREPARE", "more", &"x".repeat(1 << 20)]);
    assert!(refused.to_string().contains("fieldsets of a connection may take at most"), "{refused}");
    client.say("RESET");
    assert!(memory(&mut other) < before + (1 << 20));
    assert_eq!(client.say("HIMPORT SET k z 1").to_string(), NONE);
}

#[test]
fn hot_keys_are_those_of_the_database() {
    let server = Served::start(&["--token", "dm_one_s", "--token", "dm_two_s"]);
    let (mut client, mut other) = (server.connect_with("dm_one_s"), server.connect_with("dm_two_s"));
    assert_eq!(client.say("HOTKEYS GET").to_string(), "nil");
    assert_eq!(client.say("HOTKEYS STOP").to_string(), "nil");
    assert_eq!(client.say("HOTKEYS START METRICS 2 CPU NET COUNT 2").to_string(), "+OK");
    let running = "-ERR hotkey tracking session already in progress";
    assert_eq!(client.say("HOTKEYS START METRICS 1 CPU").to_string(), running);
    other.say("SET theirs 1");
    client.write(&b"GET hot\r\n".repeat(1000));
    (0..1000).for_each(|_| drop(client.read()));
    client.run(&["SET", "large", &"x".repeat(100_000)]);
    client.say("MSET a 1 b 2");
    client.say("MULTI");
    client.say("GET hot");
    client.say("EXEC");
    assert_eq!(other.say("HOTKEYS GET").to_string(), "nil");
    assert_eq!(client.say("HOTKEYS STOP").to_string(), "+OK");
    client.say("GET hot");
    client.say("HELLO 3");
    let found = client.say("HOTKEYS GET");
    let found = &found.items()[0];
    assert_eq!((found.at("tracking-active").integer(), found.at("sample-ratio").integer()), (0, 1));
    let list = |name: &str| -> Vec<(String, i64)> {
        found.at(name).items().chunks(2).map(|pair| (pair[0].text().to_string(), pair[1].integer())).collect()
    };
    let bytes = list("by-net-bytes");
    assert_eq!(bytes.len(), 2);
    assert_eq!(bytes[0].0, "large");
    // 9 bytes of a plain line, 5 of the reply; and once in a transaction.
    assert!(bytes[1].0 == "hot" && (14_000..14_050).contains(&bytes[1].1), "{bytes:?}");
    assert!(list("by-cpu-time-us").iter().any(|(key, us)| key == "hot" && *us > 0), "{found}");
    assert!(found.at("net-bytes-all-commands-all-slots").integer() > bytes[0].1 + bytes[1].1);
    assert_eq!(client.say("HOTKEYS RESET").to_string(), "+OK");
    assert_eq!(client.say("HOTKEYS GET").to_string(), "nil");
}

#[test]
fn slots_are_scanned_flushed_and_counted_in_a_cluster() {
    let disabled = "-ERR This instance has cluster support disabled";
    let plain = Served::start(&[]);
    for command in
        ["CLUSTERSCAN 0", "CLUSTER SLOT-STATS SLOTSRANGE 0 1", "CLUSTER FLUSHSLOT 1", "CLUSTER MIGRATESLOTS a b"]
    {
        assert_eq!(plain.connect().say(command).to_string(), disabled, "{command}");
    }
    let server = Served::start(&["--cluster-mode", "emulated"]);
    let mut client = server.connect();
    (0..500).for_each(|n| drop(client.say(&format!("SET key:{n} 1"))));
    client.say("MSET {x}1 1 {x}2 2");
    client.say("DORMOUSE SPLIT 8000");
    let (mut found, mut cursor) = (BTreeSet::new(), "0".to_string());
    loop {
        let page = client.say(&format!("CLUSTERSCAN {cursor} COUNT 50"));
        page.items()[1].items().iter().for_each(|key| assert!(found.insert(key.text().to_string()), "{key} twice"));
        cursor = page.items()[0].text().to_string();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found.len(), 502);
    let slot = client.say("CLUSTER KEYSLOT {x}").integer();
    let count = client.say(&format!("CLUSTER COUNTKEYSINSLOT {slot}")).integer();
    let stats = client.say(&format!("CLUSTER SLOT-STATS SLOTSRANGE {slot} {slot}"));
    assert_eq!(stats.items()[0].items()[1].at("key-count").integer(), count);
    assert_eq!(client.say(&format!("CLUSTER FLUSHSLOT {slot} ASYNC")).to_string(), "+OK");
    assert_eq!(client.say("EXISTS {x}1 {x}2").integer(), 0);
    assert_eq!(client.say("DBSIZE").integer(), 502 - count);
    assert!(client.say("CLUSTER MIGRATION STATUS ALL").to_string().starts_with("-ERR Dormouse moves no slots"));
}

#[test]
fn what_there_is_not_is_refused_with_its_name() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    for command in ["BACKUP START", "BACKUP STATUS", "TRIMSLOTS RANGES 1 0 1"] {
        assert!(client.say(command).to_string().starts_with("-ERR Dormouse "), "{command}");
    }
    let sha = client.run(&["SCRIPT", "LOAD", "return 1"]).text().to_string();
    assert_eq!(client.say(&format!("SCRIPT SHOW {sha}")).text(), "return 1");
    assert_eq!(client.say("SCRIPT SHOW x").to_string(), "-NOSCRIPT No matching script.");
    client.say("CONFIG SET maxmemory-policy allkeys-lrm");
    client.say("SET a 1");
    assert_eq!(client.say("OBJECT IDLETIME a").integer(), 0);
    assert!(client.say("OBJECT FREQ a").to_string().starts_with("-ERR An LFU maxmemory policy is not selected"));
}
