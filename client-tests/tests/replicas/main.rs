//! Moving out: real servers as replicas of a Dormouse under random writes, while links drop and servers end. In the end
//! both hold the same.
//!
//! 1. A [`Load`] writes to Dormouse before the replica starts, so that the replica begins in the middle.
//! 2. The replica reaches Dormouse through a [`Proxy`].
//! 3. Mishaps follow one another, each once the replica has got further since the previous one.
//! 4. The load ends, everything that is about to expire does so, the replica is promoted, and every key is compared.

use std::process::{Command, Stdio};
use std::time::Duration;

use dormouse_client_tests::{
    Kind, Server, Settings,
    importer::Importer,
    load::Load,
    proxy::Proxy,
    resp::{Connection, Reply},
    sameness,
    unrest::Unrest,
    wait_for,
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(120);
/// Keys that expire within this time are gone before the comparison.
const SOON_MS: f64 = 600_000.0;
const SUITE: &str = "replicas of Dormouse";
/// The place of an import in its target.
const MARKER: &str = "__dormouse_import__";

#[test]
fn redis_7_0_follows_every_command() {
    follows_every_command(Kind::Redis, 1);
}

#[test]
fn valkey_9_1_follows_every_command() {
    follows_every_command(Kind::Valkey, 2);
}

#[test]
fn redis_8_10_follows_every_command() {
    follows_every_command(Kind::Redis8, 3);
}

/// Every write command, FLUSHALL and SWAPDB included, from a database that sleeps, splits and merges.
fn follows_every_command(kind: Kind, seed: u64) {
    let Some(mut moving) = MoveOut::start(kind, Settings::default()) else { return };
    let load = Load::of_scripts(moving.source.port(), seed);
    let unrest = (Unrest::of_sleep(moving.source.port(), seed), Unrest::of_shards(moving.source.port(), seed + 1));
    moving.follow();
    for round in 0..12 {
        moving.get_further();
        match round % 4 {
            0 | 2 => moving.wire.drop_links(),
            1 => moving.replica.crash(),
            _ => moving.replica.restart(),
        }
        if round % 2 == 1 {
            // It has forgotten what it was told.
            moving.follow();
        }
    }
    moving.get_further();
    drop(unrest);
    let written = load.end();
    assert!(written > 1000, "{written}");
    moving.compare();
}

/// Counters show a command that is applied twice or not at all.
#[test]
fn counters_survive_dropped_links_and_a_source_that_crashes() {
    let Some(mut moving) = MoveOut::start(Kind::Redis, Settings::default()) else { return };
    let load = Load::of_counters(moving.source.port(), 4, true);
    moving.follow();
    for _ in 0..10 {
        moving.get_further();
        moving.wire.drop_links();
    }
    moving.get_further();
    load.end();
    let partial = moving.replica.log().matches("accepted a Partial Resynchronization").count();
    assert!(partial >= 5, "{partial} partial resynchronizations\n{}", moving.replica.log());
    // The replica has writes that a crash loses, until it gets everything again.
    let mut source = Connection::open(moving.source.port());
    source.run("SET before-the-crash 1");
    moving.catch_up();
    moving.source.crash();
    let load = Load::of_counters(moving.source.port(), 5, true);
    moving.get_further();
    load.end();
    moving.compare();
}

/// Libraries of functions stand in no log, and a copy that is under way may have them already.
#[test]
fn functions_reach_every_kind_of_replica() {
    for kind in [Kind::Redis, Kind::Valkey, Kind::Redis8] {
        let Some(mut moving) = MoveOut::start(kind, Settings::default()) else { continue };
        let load = |name: &str, source: &mut Connection| {
            let library = format!("#!lua name={name}\nredis.register_function('{name}', function() return 1 end)");
            assert_eq!(source.call(&["FUNCTION", "LOAD", &library]).bytes(), Some(name.as_bytes()));
        };
        let mut source = Connection::open(moving.source.port());
        load("before", &mut source);
        moving.follow();
        load("during", &mut source);
        moving.until_online();
        load("after", &mut source);
        source.run("FUNCTION DELETE before");
        source.run("SET n 1");
        moving.catch_up();
        let libraries = |port: u16| {
            let reply = Connection::open(port).run("FUNCTION LIST");
            let name = |library: &Reply| Some(String::from_utf8_lossy(library.items()?.get(1)?.bytes()?).into_owned());
            let mut names: Vec<String> = reply.items().expect("a list").iter().filter_map(name).collect();
            names.sort();
            names
        };
        assert_eq!(libraries(moving.replica.port()), ["after", "during"]);
        source.run("FUNCTION FLUSH");
        moving.catch_up();
        assert_eq!(libraries(moving.replica.port()), [""; 0]);
    }
}

/// A loss window of `none` logs nothing by itself, and a database that sleeps is copied without a wake.
#[test]
fn a_database_that_sleeps_or_is_not_logged_is_followed_too() {
    let Some(mut moving) = MoveOut::start(Kind::Redis, Settings::default()) else { return };
    let mut source = Connection::open(moving.source.port());
    assert_eq!(source.run("CONFIG SET loss-window none"), Reply::Line('+', "OK".into()));
    source.run("SET n 1");
    source.run("SET gone 1 PX 1");
    source.run("XADD stream 1-1 f v");
    for _ in 0..3 {
        assert_eq!(source.run("DORMOUSE SLEEP"), Reply::Line('+', "OK".into()));
    }
    moving.follow();
    moving.until_online();
    assert_eq!(info(moving.source.port(), "dormouse", "awake"), "0", "the copy has woken it");
    source.run("INCR n");
    moving.catch_up();
    assert_eq!(source.run("DORMOUSE SLEEP"), Reply::Line('+', "OK".into()));
    let role = source.run("ROLE");
    let [Reply::Bulk(_, Some(name)), _, Reply::Many(_, Some(replicas))] = role.items().expect("a list") else {
        panic!("{role:?}")
    };
    assert_eq!((&name[..], replicas.len()), (&b"master"[..], 1));
    let line = info(moving.source.port(), "replication", "slave0");
    assert!(line.contains("ip=127.0.0.1") && line.contains("state=online"), "{line}");
    assert_eq!(info(moving.source.port(), "dormouse", "awake"), "0");
    moving.compare();
}

/// Masteruser and masterauth name the database.
#[test]
fn a_token_names_the_database_that_is_followed() {
    const TOKENS: &[&str] = &["dm_shop_abcdef", "dm_other_abcdef"];
    let Some(moving) = MoveOut::start(Kind::Redis, Settings { tokens: TOKENS, ..Settings::default() }) else { return };
    for token in TOKENS {
        let mut source = Connection::open(moving.source.port());
        source.run(&format!("AUTH {token}"));
        source.run(&format!("SET whose {token}"));
    }
    let mut replica = Connection::open(moving.replica.port());
    replica.run("CONFIG SET masteruser shop");
    replica.run("CONFIG SET masterauth dm_shop_abcdef");
    moving.follow();
    let whose = || (replica.run("GET whose").bytes() == Some(b"dm_shop_abcdef")).then_some(());
    assert_eq!(wait_for(LIMIT, whose), Some(()), "{}", moving.replica.log());
    assert_eq!(replica.run("DBSIZE").number(), Some(1.0));
    // Without a token nothing is told.
    let mut stranger = Connection::open(moving.source.port());
    for line in ["PSYNC ? -1", "SYNC", "REPLCONF capa eof", "ROLE"] {
        assert!(matches!(stranger.run(line), Reply::Line('-', text) if text.starts_with("NOAUTH")), "{line}");
    }
}

/// A replica that does not read what it is told is closed, and the source neither waits for it nor keeps more.
#[test]
fn a_replica_that_does_not_read_is_closed() {
    let source = Server::start_with(Kind::Dormouse, Settings::default());
    let mut client = Connection::open(source.port());
    let limit = [&b"CONFIG"[..], b"SET", b"client-output-buffer-limit", b"replica 4mb 4mb 60"];
    assert_eq!(client.call(&limit), Reply::Line('+', "OK".into()));
    client.run("SET n 0");
    let mut replica = Connection::open(source.port());
    assert_eq!(replica.run("REPLCONF listening-port 1 capa psync2"), Reply::Line('+', "OK".into()));
    replica.write(b"PSYNC ? -1\r\n").expect("it is connected");
    let count = |expected: &str| info(source.port(), "replication", "connected_slaves") == expected;
    assert_eq!(wait_for(LIMIT, || count("1").then_some(())), Some(()));
    let value = "x".repeat(100_000);
    let closed = wait_for(LIMIT, || {
        assert_eq!(client.run(&format!("SET n {value}")), Reply::Line('+', "OK".into()));
        count("0").then_some(())
    });
    assert_eq!(closed, Some(()));
}

/// `redis-cli --rdb` gets everything, `--functions-rdb` the libraries alone, and servers load the files.
#[test]
fn redis_cli_takes_an_rdb() {
    if !Kind::Redis.is_present(SUITE) {
        return;
    }
    let source = Server::start_with(Kind::Dormouse, Settings::default());
    let load = Load::of_scripts(source.port(), 6);
    let loaded = || info(source.port(), "stats", "total_commands_processed").parse::<u64>().is_ok_and(|n| n > 5_000);
    assert_eq!(wait_for(LIMIT, || loaded().then_some(())), Some(()));
    load.end();
    assert_eq!(sameness::let_expire(source.port(), SOON_MS, LIMIT), Ok(()));
    let library = "#!lua name=one\nredis.register_function('one', function() return 1 end)";
    assert!(!Connection::open(source.port()).call(&["FUNCTION", "LOAD", library]).is_error());
    let mut target = Server::start_with(Kind::Redis, Settings::default());
    for option in ["--rdb", "--functions-rdb"] {
        assert!(target.stop().success());
        let file = target.data().join("dump.rdb");
        let done = Command::new("redis-cli")
            .args(["-p", &source.port().to_string(), option])
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .expect("redis-cli runs");
        assert!(done.status.success(), "{done:?}");
        target.resume();
        if option == "--rdb" {
            assert_eq!(sameness::difference(Kind::Redis, source.port(), target.port(), &[]), None);
        }
        assert_eq!(Connection::open(target.port()).run("FCALL one 0").number(), Some(1.0), "{option}");
    }
    assert_eq!(Connection::open(target.port()).run("DBSIZE").number(), Some(0.0));
}

/// Another Dormouse follows like an importer of any source.
#[test]
fn another_dormouse_follows() {
    let source = Server::start_with(Kind::Dormouse, Settings::default());
    let target = Server::start_with(Kind::Dormouse, Settings::default());
    let load = Load::of_scripts(source.port(), 7);
    let wire = Proxy::start(source.port());
    let (from, to) = (format!("redis://127.0.0.1:{}", wire.port()), format!("redis://127.0.0.1:{}", target.port()));
    let mut importer = Importer::start(&[&from, "--to", &to, "--follow"]);
    let mut seen = String::new();
    for round in 0..6 {
        let further = wait_for(LIMIT, || {
            let place = Connection::open(target.port()).run(&format!("GET {MARKER}"));
            let place = String::from_utf8_lossy(place.bytes().unwrap_or_default()).into_owned();
            (place.starts_with("1 following ") && place != seen).then_some(place)
        });
        seen = further.unwrap_or_else(|| panic!("no further than {seen}\n{}", importer.log()));
        if round < 5 {
            wire.drop_links();
        }
    }
    load.end();
    assert_eq!(sameness::let_expire(source.port(), SOON_MS, LIMIT), Ok(()));
    importer.signal(Signal::INT);
    let (status, log, _) = importer.wait(LIMIT);
    assert!(status.success() && log.contains("the source goes on from offset"), "{log}");
    let left_out = [MARKER];
    assert_eq!(sameness::difference(Kind::Dormouse, target.port(), source.port(), &left_out), None, "{log}");
}

/// The source, a replica, and the wire between them.
struct MoveOut {
    source: Server,
    replica: Server,
    wire: Proxy,
    seen: u64,
}

impl MoveOut {
    fn start(kind: Kind, settings: Settings) -> Option<Self> {
        if !kind.is_present(SUITE) {
            return None;
        }
        let source = Server::start_with(Kind::Dormouse, Settings { workers: Some(3), ..settings });
        let replica = Server::start_with(kind, Settings::default());
        let wire = Proxy::start(source.port());
        Some(Self { source, replica, wire, seen: 0 })
    }

    fn follow(&self) {
        let mut replica = Connection::open(self.replica.port());
        let asked = replica.run(&format!("REPLICAOF 127.0.0.1 {}", self.wire.port()));
        assert_eq!(asked, Reply::Line('+', "OK".into()));
    }

    fn until_online(&self) {
        let up = || (info(self.replica.port(), "replication", "master_link_status") == "up").then_some(());
        assert_eq!(wait_for(LIMIT, up), Some(()), "{}{}", self.source.log(), self.replica.log());
    }

    /// Waits until the replica follows, and from another offset than last time.
    fn get_further(&mut self) {
        let further = wait_for(LIMIT, || {
            let is_up = info(self.replica.port(), "replication", "master_link_status") == "up";
            let offset = info(self.replica.port(), "replication", "slave_repl_offset").parse().ok()?;
            (is_up && offset != self.seen).then_some(offset)
        });
        let further = further.unwrap_or_else(|| panic!("no further than {}\n{}", self.seen, self.replica.log()));
        self.seen = further;
    }

    /// Waits until the replica has everything that the source has sent so far.
    fn catch_up(&mut self) {
        let is_there = sameness::catch_up(self.source.port(), self.replica.port(), LIMIT);
        assert!(is_there, "the replica does not catch up\n{}", self.replica.log());
    }

    /// Lets keys expire, waits until the replica has everything, promotes it and compares.
    fn compare(&mut self) {
        assert_eq!(sameness::let_expire(self.source.port(), SOON_MS, LIMIT), Ok(()));
        self.catch_up();
        let mut replica = Connection::open(self.replica.port());
        assert_eq!(replica.run("REPLICAOF NO ONE"), Reply::Line('+', "OK".into()));
        let kind = self.replica.kind();
        let difference = sameness::difference(kind, self.source.port(), self.replica.port(), &[]);
        assert_eq!(difference, None, "{}", self.replica.log());
        let log = self.replica.log();
        assert!(!log.contains("sending an error to its master"), "{log}");
    }
}

/// Returns a field of a section of INFO, or an empty text if it is missing.
fn info(port: u16, section: &str, name: &str) -> String {
    let text = Connection::open(port).run(&format!("INFO {section}"));
    let text = String::from_utf8_lossy(text.bytes().unwrap_or_default()).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
}
