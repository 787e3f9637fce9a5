//! Replicas over TCP, as they speak: what they say about themselves, everything, the stream, and what others see of them.

use crate::served::{Connection, Served};

/// A connection as a replica.
struct Replica {
    connection: Connection,
    id: String,
    offset: u64,
}

impl Replica {
    /// Asks for everything, and skips it.
    fn start(server: &Served) -> Self {
        let mut connection = server.connect();
        assert_eq!(connection.say("REPLCONF listening-port 7777 ip-address 10.1.2.3").to_string(), "+OK");
        assert_eq!(connection.say("REPLCONF capa psync2 version 9.1.2").to_string(), "+OK");
        connection.send(&["PSYNC", "?", "-1"]);
        let answer = connection.line();
        let [_, id, offset] = answer.split(' ').collect::<Vec<_>>()[..] else { panic!("{answer}") };
        assert!(answer.starts_with("+FULLRESYNC ") && id.len() == 40, "{answer}");
        let (id, offset) = (id.to_owned(), offset.parse().unwrap());
        let length = connection.line();
        let rdb = connection.bytes(length.strip_prefix('$').expect("a length").parse().unwrap());
        assert!(rdb.starts_with(b"REDIS0010"), "{rdb:?}");
        Self { connection, id, offset }
    }

    /// The next command that is no PING.
    fn told(&mut self) -> String {
        loop {
            let command = self.connection.read().expect("the stream goes on");
            let words: Vec<&str> = command.items().iter().map(|word| word.text()).collect();
            let lengths: usize = words.iter().map(|word| word.len() + word.len().to_string().len() + 5).sum();
            self.offset += (lengths + words.len().to_string().len() + 3) as u64;
            if words != ["PING"] {
                return words.join(" ");
            }
        }
    }
}

/// The first bytes of the RDB that a client gets which says `words` about itself; `None`: the server gives up in the middle.
fn rdb_of(server: &Served, words: &str) -> Option<String> {
    let mut connection = server.connect();
    assert_eq!(connection.say(&format!("REPLCONF {words}")).to_string(), "+OK");
    connection.send(&["PSYNC", "?", "-1"]);
    assert!(connection.bytes_until(b"\r\n")?.starts_with(b"+FULLRESYNC "));
    let length = String::from_utf8(connection.bytes_until(b"\r\n")?).unwrap();
    let rdb = match length.strip_prefix("$EOF:") {
        Some(mark) => connection.bytes_until(mark.as_bytes())?,
        None => connection.bytes(length.strip_prefix('$').expect("a length").parse().unwrap()),
    };
    Some(String::from_utf8_lossy(&rdb[..9]).into_owned())
}

/// Version 10 cannot hold fields that expire.
#[test]
fn a_copy_with_fields_that_expire_is_of_a_version_that_holds_them() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("HSET hash field value");
    for words in ["capa psync2", "capa eof", "rdb-only 1 capa eof"] {
        assert_eq!(rdb_of(&server, words).as_deref(), Some("REDIS0010"), "{words}");
    }
    client.say("HEXPIRE hash 1000 FIELDS 1 field");
    assert_eq!(rdb_of(&server, "rdb-only 1 capa eof").as_deref(), Some("REDIS0011"), "redis-cli does not ask again");
    assert_eq!(rdb_of(&server, "capa eof").as_deref(), Some("REDIS0011"));
    assert_eq!(rdb_of(&server, "capa eof version 9.1.2").as_deref(), Some("VALKEY080"));
    assert_eq!(rdb_of(&server, "capa eof version 8.1.4").as_deref(), Some("REDIS0011"));
}

#[test]
fn a_replica_with_fields_that_expire_gets_a_copy_when_it_asks_again() {
    let server = Served::start(&[]);
    server.connect().say("HSETEX hash EX 1000 FIELDS 1 field value");
    assert_eq!(rdb_of(&server, "capa eof"), None);
    assert_eq!(rdb_of(&server, "capa eof").as_deref(), Some("REDIS0011"));
}

#[test]
fn a_replica_gets_everything_and_then_each_change() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("SET before 1");
    let mut replica = Replica::start(&server);
    client.say("SET k v EX 1000");
    client.say("SELECT 3");
    client.say("INCR n");
    client.say("MULTI");
    client.say("INCR n");
    client.say("SELECT 0");
    client.say("DEL k");
    client.say("EXEC");
    assert_eq!(replica.told(), "SELECT 0");
    assert!(replica.told().starts_with("SET k v PXAT 1"));
    for told in ["SELECT 3", "INCR n", "MULTI", "INCR n", "SELECT 0", "DEL k", "EXEC"] {
        assert_eq!(replica.told(), told);
    }
    // Acknowledgements have no reply, nor has anything else that a replica sends.
    replica.connection.send(&["REPLCONF", "ACK", &replica.offset.to_string()]);
    replica.connection.send(&["GET", "before"]);
    replica.connection.write(b"\n");
    let line = format!("\"10.1.2.3\" \"7777\" \"{}\"", replica.offset);
    client.say_until("ROLE", |role| role.to_string().contains(&line));
    client.say("SET last 1");
    assert_eq!(replica.told(), "SET last 1");
    let list = client.say("CLIENT LIST TYPE replica").to_string();
    assert!(list.contains("flags=S ") && list.contains("cmd=get"), "{list}");
    let info = client.say("INFO replication").to_string();
    let slave = "slave0:ip=10.1.2.3,port=7777,state=online,offset=";
    assert!(info.contains("connected_slaves:1") && info.contains(slave) && info.contains(&replica.id), "{info}");

    // It goes on where it was, even if it has missed something.
    let Replica { connection, id, offset } = replica;
    drop(connection);
    client.say_until("ROLE", |role| role.to_string().ends_with("[]]"));
    client.say("SET missed 1");
    let mut connection = server.connect();
    assert_eq!(connection.say("REPLCONF capa psync2").to_string(), "+OK");
    connection.send(&["PSYNC", &id, &(offset + 1).to_string()]);
    assert_eq!(connection.line(), format!("+CONTINUE {id}"));
    let mut replica = Replica { connection, id, offset };
    assert_eq!(replica.told(), "SET missed 1");
    client.say("SET new 1");
    assert_eq!(replica.told(), "SET new 1");

    // From another history, or beyond the end, it gets everything.
    for (id, offset) in [("0".repeat(40), replica.offset + 1), (replica.id.clone(), replica.offset + 1000)] {
        let mut connection = server.connect();
        connection.send(&["PSYNC", &id, &offset.to_string()]);
        let answer = connection.line();
        assert!(answer.starts_with("+FULLRESYNC"), "{answer}");
    }
    assert!(client.say("CLIENT KILL TYPE replica SKIPME no").integer() >= 1);
    client.say_until("INFO replication", |info| info.to_string().contains("connected_slaves:0"));
}

/// A reader that knows the mark at the end of an RDB gets the stream when it has acknowledged the end.
#[test]
fn an_rdb_ends_with_its_mark() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("SET before 1");
    for (more, has_keys) in [("rdb-only 1", true), ("rdb-only 0", true), ("rdb-filter-only functions", false)] {
        let mut connection = server.connect();
        assert_eq!(connection.say("REPLCONF capa eof").to_string(), "+OK");
        assert_eq!(connection.say(&format!("REPLCONF {more}")).to_string(), "+OK");
        connection.send(&["SYNC"]);
        let line = connection.line();
        let mark = line.strip_prefix("$EOF:").expect("a mark").as_bytes().to_vec();
        let mut rdb = Vec::new();
        while !rdb.ends_with(&mark) {
            rdb.extend_from_slice(&connection.bytes(1));
        }
        assert_eq!(rdb.windows(6).any(|part| part == b"before"), has_keys, "{more}");
        client.say("SET after 1");
        if more == "rdb-only 0" {
            connection.send(&["REPLCONF", "ACK", "0"]);
            let mut replica = Replica { connection, id: String::new(), offset: 0 };
            assert_eq!((replica.told(), replica.told()), ("SELECT 0".to_owned(), "SET after 1".to_owned()));
        }
    }
}

#[test]
fn what_replicas_say_is_checked() {
    let server = Served::start(&["--token", "dm_shop_abcdefgh"]);
    let mut stranger = server.connect_without();
    for line in ["REPLCONF capa eof", "PSYNC ? -1", "SYNC", "ROLE"] {
        assert_eq!(stranger.say(line).to_string(), "-NOAUTH Authentication required.", "{line}");
    }
    let mut client = server.connect();
    for (line, reply) in [
        ("REPLCONF", "+OK"),
        ("REPLCONF capa", "-ERR syntax error"),
        ("REPLCONF listening-port x", "-ERR value is not an integer or out of range"),
        ("REPLCONF listening-port 70000", "-ERR value is out of range"),
        ("REPLCONF what 1", "-ERR Unrecognized REPLCONF option: what"),
        ("REPLCONF rdb-filter-only keys", "-ERR Unsupported rdb-filter-only option: keys"),
        ("SYNC", "-ERR Filtered replica requires EOF capability"),
        ("PSYNC ? x", "-ERR value is not an integer or out of range"),
        ("REPLICAOF NO ONE", "+OK"),
        ("SLAVEOF no one", "+OK"),
        ("ROLE", "[\"master\" :0 []]"),
    ] {
        assert_eq!(client.say(line).to_string(), reply, "{line}");
    }
    for line in
        ["REPLICAOF localhost 6379", "SLAVEOF localhost 6379", "FAILOVER", "PSYNC ? 1 FAILOVER", "MODULE LOAD x"]
    {
        let refused = client.say(line).to_string();
        assert!(refused.starts_with("-ERR Dormouse "), "{line}: {refused}");
    }
}

/// WAIT is answered by replicas that have acknowledged.
#[test]
fn wait_counts_acknowledgements() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    assert_eq!(client.say("WAIT 1 10").to_string(), ":0");
    let mut replica = Replica::start(&server);
    client.say("SET k v");
    assert_eq!((client.say("WAIT 1 10").to_string(), client.say("WAIT 0 0").to_string()), (":0".into(), ":0".into()));
    client.send(&["WAIT", "1", "0"]);
    // The third question is the one that waits.
    let asked = |replica: &mut Replica| while replica.told() != "REPLCONF GETACK *" {};
    (0..3).for_each(|_| asked(&mut replica));
    replica.connection.send(&["REPLCONF", "ACK", &replica.offset.to_string()]);
    assert_eq!(client.read().unwrap().to_string(), ":1");
    for line in ["MULTI", "WAIT 1 0"] {
        client.say(line);
    }
    assert_eq!(client.say("EXEC").to_string(), "[:1]");
}

/// WAITAOF is answered by replicas that have acknowledged their append-only file.
#[test]
fn waitaof_counts_durable_copies() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    let mut replica = Replica::start(&server);
    let asked = |replica: &mut Replica| while replica.told() != "REPLCONF GETACK *" {};
    client.say("SET k v");
    client.send(&["WAITAOF", "0", "1", "0"]);
    asked(&mut replica);
    // It has received everything, and keeps no file or has not written it yet.
    let offset = replica.offset.to_string();
    replica.connection.send(&["REPLCONF", "ACK", &offset]);
    replica.connection.send(&["REPLCONF", "ACK", &offset, "FACK", "0"]);
    let mut other = server.connect();
    other.say_until("ROLE", |role| role.to_string().contains(&format!("\"{offset}\"")));
    assert!(other.say("INFO clients").to_string().contains("blocked_clients:1\\r"), "it waits");
    replica.connection.send(&["REPLCONF", "ACK", &offset, "FACK", &offset]);
    let reply = client.read().unwrap().to_string();
    assert!(["[:0 :1]", "[:1 :1]"].contains(&&*reply), "{reply}");
}

#[test]
fn a_database_is_told_to_its_own_replicas_only() {
    let server = Served::start(&["--token", "dm_shop_abcdefgh", "--token", "dm_other_abcdefgh"]);
    let (mut shop, mut other) = (server.connect_with("dm_shop_abcdefgh"), server.connect_with("dm_other_abcdefgh"));
    let mut replica = Replica::start(&server);
    other.say("SET secret 1");
    shop.say("SET mine 1");
    assert_eq!((replica.told(), replica.told()), ("SELECT 0".to_owned(), "SET mine 1".to_owned()));
    assert_eq!(other.say("ROLE").to_string(), "[\"master\" :0 []]");
    assert_eq!(other.say("CLIENT KILL TYPE replica").integer(), 0);
}

#[test]
fn an_emulated_cluster_is_one_node_with_all_slots() {
    let options = ["--cluster-mode", "emulated", "--cluster-announce-host", "redis.example.com"];
    let server = Served::start(&[&options[..], &["--cluster-announce-port", "7000"]].concat());
    let mut client = server.connect();
    let id = client.say("CLUSTER MYID").text().to_owned();
    for (line, reply) in [
        ("CLUSTER KEYSLOT {user}:1", ":5474".to_owned()),
        ("CLUSTER SLOTS", format!("[[:0 :16383 [\"redis.example.com\" :7000 \"{id}\" []]]]")),
        ("CLUSTER LINKS", "[]".to_owned()),
        ("CLUSTER REPLICAS x", "-ERR Unknown node x".to_owned()),
        ("ASKING", "+OK".to_owned()),
        ("READONLY", "+OK".to_owned()),
        ("READWRITE", "+OK".to_owned()),
        ("MSET a 1 b 2", "+OK".to_owned()),
        ("CLUSTER COUNTKEYSINSLOT 15495", ":1".to_owned()),
        ("CLUSTER GETKEYSINSLOT 15495 10", "[\"a\"]".to_owned()),
        ("CLUSTER GETKEYSINSLOT 16384 10", "-ERR Invalid slot or number of keys".to_owned()),
        ("CONFIG GET cluster-enabled", "[\"cluster-enabled\" \"yes\"]".to_owned()),
    ] {
        assert_eq!(client.say(line).to_string(), reply, "{line}");
    }
    assert_eq!(client.say(&format!("CLUSTER REPLICAS {id}")).to_string(), "[]");
    assert!(
        client.say("CLUSTER NODES").text().contains("redis.example.com:7000@0 myself,master - 0 0 1 connected 0-16383")
    );
    assert!(client.say("CLUSTER INFO").text().contains("cluster_state:ok"));
    assert!(client.say("CLUSTER SHARDS").to_string().contains("\"endpoint\" \"redis.example.com\""));
    assert!(client.say("INFO").text().contains("cluster_enabled:1"));
    assert!(client.say("HELLO").to_string().contains("\"mode\" \"cluster\""));
    let refused = client.say("CLUSTER MEET 127.0.0.1 7001").to_string();
    assert!(refused.starts_with("-ERR Dormouse "), "{refused}");
    // By default a client is told of the address that it has used.
    let server = Served::start(&["--cluster-mode", "emulated"]);
    let mut client = server.connect();
    let port = client.say("CONFIG GET port").items()[1].text().to_owned();
    let slots = client.say("CLUSTER SLOTS").to_string();
    assert!(slots.contains(&format!("[\"127.0.0.1\" :{port} ")), "{slots}");
    assert!(client.say("CLUSTER MYSHARDID").text().len() == 40);
}

#[test]
fn messages_reach_replicas_as_in_redis() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("SET before 1");
    let mut replica = Replica::start(&server);
    for command in ["PUBLISH news hello", "SPUBLISH shard hello", "SET k 1", "MULTI", "PUBLISH news again", "EXEC"] {
        client.say(command);
    }
    client.run(&["EVAL", "redis.call('PUBLISH', 'news', 'scripted')", "0"]);
    client.say("SET k 2");
    for told in [
        "PUBLISH news hello",
        "SPUBLISH shard hello",
        "SELECT 0",
        "SET k 1",
        "PUBLISH news again",
        "PUBLISH news scripted",
        "SET k 2",
    ] {
        assert_eq!(replica.told(), told);
    }
}
