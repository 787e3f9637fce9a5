//! Moving in from a real redis-server under load, while links drop, the importer is killed and the target restarts: in
//! the end both hold the same, to the last INCR.
//!
//! 1. A [`Load`] writes to the source before the importer starts, so that the importer begins in the middle.
//! 2. The importer reaches both servers through a [`Proxy`] each.
//! 3. Mishaps follow one another, each once the target has progressed since the previous one: the compared data has
//!    been through all of them.
//! 4. The load ends, everything that is about to expire does so, the import is cut over, and every key is compared.

mod expiry;
mod newer;
mod replace;

use std::time::Duration;

use dormouse_client_tests::{
    Kind, Server, Settings,
    importer::Importer,
    load::Load,
    ports,
    proxy::Proxy,
    resp::{Connection, Reply},
    sameness,
    script::Random,
    toolchain,
    unrest::Unrest,
    wait_for,
};
use rustix::process::Signal;

const KEY: &str = "__dormouse_import__";
const LIMIT: Duration = Duration::from_secs(120);
/// Keys that expire within this time are gone before the comparison.
const SOON_MS: f64 = 600_000.0;

/// Counters above all: they show a command that is applied twice or not at all.
#[test]
fn counters_survive_dropped_links_a_killed_importer_and_a_target_that_restarts() {
    let Some(mut move_in) = MoveIn::start(Kind::under_test(), 1) else { return };
    let load = Load::of_counters(move_in.source.port(), 1, true);
    move_in.importer = Some(move_in.follow(&[]));
    for round in 0..18 {
        move_in.get_further();
        match round % 9 {
            0 => move_in.to_target.drop_links(),
            1 => move_in.to_source.drop_links(),
            2 => move_in.kill_and_start_again(),
            3 => (0..10).for_each(|_| move_in.drop_at_random()),
            4 => move_in.target.restart(),
            5 => {
                for _ in 0..8 {
                    let moment = Duration::from_millis(move_in.random.below(150) as u64);
                    move_in.to_target.drop_links_late(moment);
                    move_in.get_further();
                }
            }
            6 => {
                move_in.to_source.drop_links();
                move_in.to_target.drop_links();
            }
            7 => move_in.compete(),
            // A Redis writes its file only now and then, and would begin without the bookkeeping.
            _ if move_in.target.kind() == Kind::Redis => {}
            _ => {
                let mut target = Connection::open(move_in.target.port());
                assert_eq!(target.run("DORMOUSE CHECKPOINT"), Reply::Line('+', "OK".into()));
                move_in.get_further();
                move_in.get_further();
                move_in.target.crash();
            }
        }
    }
    move_in.get_further();
    let written = load.end();
    move_in.let_expire();
    let (log, said) = move_in.cut_over();
    assert!(log.contains("the source goes on from offset"), "{log}");
    assert!(said.starts_with("cut over: "), "{said}");
    assert!(written > 1000, "{written}");
    move_in.compare();
}

/// Every write command, FLUSHALL and SWAPDB included, into a database that sleeps, splits and merges.
#[test]
fn random_scripts_arrive_whole() {
    let Some(mut move_in) = MoveIn::start(Kind::under_test(), 2) else { return };
    let load = Load::of_scripts(move_in.source.port(), 2);
    let unrest = (move_in.target.kind() == Kind::Dormouse)
        .then(|| (Unrest::of_sleep(move_in.target.port(), 2), Unrest::of_shards(move_in.target.port(), 3)));
    move_in.importer = Some(move_in.follow(&[]));
    for round in 0..20 {
        move_in.get_further();
        match round % 4 {
            0 => move_in.to_target.drop_links(),
            1 => move_in.kill_and_start_again(),
            2 => move_in.to_source.drop_links(),
            _ => move_in.drop_at_random(),
        }
    }
    move_in.get_further();
    drop(unrest);
    load.end();
    move_in.let_expire();
    move_in.cut_over();
    move_in.compare();
}

/// The importer does not depend on Dormouse: it fills a Redis as well. Here the backlog is too small to go on from, so
/// that everything is copied again, and the source announces its RDB's length, not its end mark.
#[test]
fn a_source_that_has_forgotten_is_copied_again() {
    let Some(mut move_in) = MoveIn::start(Kind::Redis, 3) else { return };
    let mut source = Connection::open(move_in.source.port());
    source.run("CONFIG SET repl-diskless-sync no");
    source.run("CONFIG SET repl-backlog-size 16384");
    let load = Load::of_counters(move_in.source.port(), 3, false);
    move_in.importer = Some(move_in.follow(&[]));
    move_in.get_further();
    // The importer is kept from the source until the source has forgotten the stream.
    move_in.to_source.hold_back();
    let offset = offset(&mut source);
    assert!(wait_for(LIMIT, || (self::offset(&mut source) > offset + 65536).then_some(())).is_some());
    move_in.kill();
    move_in.to_source.let_through();
    move_in.importer = Some(move_in.follow(&["--stop-when-caught-up", "--pause-source", "30s"]));
    let importer = move_in.importer.as_mut().expect("it was started");
    let (status, log, said) = importer.wait(LIMIT);
    assert!(status.success(), "{log}");
    assert!(log.contains("the source has no longer what followed"), "{log}");
    assert!(said.contains("the source takes no writes for another"), "{said}");
    // The pause holds the load's writes back, so nothing can be missing.
    move_in.importer = None;
    move_in.compare_paused();
    source.run("CLIENT UNPAUSE");
    load.end();
}

/// A replica passes on its master's stream, which differs from a stream of its own: the selected index comes with the
/// RDB, and the history continues when it becomes a master.
#[test]
fn a_replica_is_a_source_and_stays_one_when_it_is_promoted() {
    let Some(mut move_in) = MoveIn::start(Kind::under_test(), 4) else { return };
    let master = Server::start_with(Kind::Redis, Settings::default());
    Connection::open(master.port()).run("CONFIG SET repl-diskless-sync-delay 0");
    let mut replica = Connection::open(move_in.source.port());
    let load = Load::of_counters(master.port(), 4, false);
    replica.run(&format!("REPLICAOF 127.0.0.1 {}", master.port()));
    let linked = || {
        let text = replica.run("INFO replication");
        let text = String::from_utf8_lossy(text.bytes().unwrap_or_default()).into_owned();
        text.contains("master_link_status:up").then_some(())
    };
    assert!(wait_for(LIMIT, linked).is_some(), "the replica does not reach its master");
    move_in.importer = Some(move_in.follow(&[]));
    for _ in 0..3 {
        move_in.get_further();
        move_in.drop_at_random();
    }
    move_in.get_further();
    load.end();
    let offset = offset(&mut Connection::open(master.port()));
    assert!(wait_for(LIMIT, || (self::offset(&mut replica) >= offset).then_some(())).is_some());
    replica.run("REPLICAOF NO ONE");
    let load = Load::of_counters(move_in.source.port(), 5, false);
    move_in.get_further();
    move_in.drop_at_random();
    move_in.get_further();
    load.end();
    move_in.let_expire();
    let (log, _) = move_in.cut_over();
    assert!(log.contains("the source is itself a replica"), "{log}");
    assert!(!log.contains("everything is copied again"), "{log}");
    move_in.compare();
}

#[test]
fn what_is_in_the_way_is_said() {
    if !toolchain::present("imports from redis-server", &[("redis-server", "redis-server")]) {
        return;
    }
    let source = Server::start_with(Kind::Redis, Settings { tokens: &["s3cret/@"], ..Settings::default() });
    let target = Server::start_with(Kind::under_test(), Settings { tokens: &["dm_shop_x1"], ..Settings::default() });
    let (from, to) = (source.port(), target.port());
    let mut connection = Connection::open(from);
    connection.run("AUTH s3cret/@");
    connection.run("CONFIG SET repl-diskless-sync-delay 0");
    connection.run("SET in-0 a");
    connection.run("SELECT 7");
    connection.run("XADD a-stream * field value");
    connection.run("SET in-7 b PX 100000000");
    connection.run("FUNCTION LOAD #!lua\x20name=l\nredis.register_function('f',function()return\x201\x20end)");
    let (good, open) =
        (format!("redis://:s3cret%2f%40@127.0.0.1:{from}"), format!("redis://:dm_shop_x1@127.0.0.1:{to}"));
    let ends = |arguments: &[&str]| {
        let mut importer = Importer::start(arguments);
        let (status, log, said) = importer.wait(LIMIT);
        (status.success(), log + &said)
    };
    for (from, to, part) in [
        (format!("redis://127.0.0.1:{from}"), open.clone(), "NOAUTH"),
        (format!("redis://:wrong@127.0.0.1:{from}"), open.clone(), "WRONGPASS"),
        (good.clone() + "/3", open.clone(), "all SELECT indexes"),
        (format!("redis://127.0.0.1:{}", ports::free_port()), open.clone(), "refused"),
        (good.clone(), open.replace("x1", "x2"), "the target"),
        (good.clone(), good.clone(), "the same server"),
    ] {
        let (success, text) = ends(&[&from, "--to", &to, "--replace"]);
        assert!(!success && text.contains(part), "{part}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    let stream_refused = |text: &str| text.contains("a stream") || text.contains("a library of functions");
    let (success, text) = ends(&[&good, "--to", &open]);
    if !success {
        assert!(stream_refused(&text), "{text}");
    }
    // The next import of the same source replaces an unfinished one without further options.
    let (success, text) = ends(&[&good, "--to", &open, "--skip-unsupported", "--replace"]);
    assert!(success && text.contains("imported "), "{text}");
    let mut connection = Connection::open(to);
    connection.run("AUTH dm_shop_x1");
    assert_eq!(connection.run("GET in-0").bytes(), Some(&b"a"[..]));
    assert_eq!(connection.run(&format!("EXISTS {KEY}")).number(), Some(0.0));
    connection.run("SELECT 7");
    assert_eq!(connection.run("GET in-7").bytes(), Some(&b"b"[..]));
    assert!(connection.run("PTTL in-7").number() > Some(SOON_MS));
    // Existing data is overwritten only on request.
    let (success, text) = ends(&[&good, "--to", &open, "--skip-unsupported"]);
    assert!(!success && text.contains("--replace to replace all of its data"), "{text}");
    connection.run("SET not-from-there 1");
    let (success, text) = ends(&[&good, "--to", &open, "--skip-unsupported", "--replace"]);
    assert!(success && text.contains("the target keeps its "), "{text}");
    assert_eq!(connection.run("EXISTS not-from-there").number(), Some(0.0));
}

/// A source under load, a target, and the proxies between them.
struct MoveIn {
    source: Server,
    target: Server,
    to_source: Proxy,
    to_target: Proxy,
    importer: Option<Importer>,
    /// The output of the killed importers.
    log: String,
    random: Random,
    seen: String,
}

impl MoveIn {
    fn start(target: Kind, seed: u64) -> Option<Self> {
        Self::start_from(Kind::Redis, target, seed)
    }

    fn start_from(source: Kind, target: Kind, seed: u64) -> Option<Self> {
        Self::start_over(source, target, Settings::default(), Proxy::start, seed)
    }

    /// From a server of Redis 8.10. What it sends has another module's values in place of its vector sets: Dormouse knows all
    /// types that such a server has by itself.
    fn start_with_unknown(target: Kind, seed: u64) -> Option<Self> {
        const VECTOR_SET: &[u8; 9] = b"\x81\xbd\xe7\x2d\xa2\xbb\x1e\xb4\x00";
        const UNKNOWN: &[u8; 9] = b"\x81\xbd\xe7\x2d\xa2\xbb\x1e\xb8\x00";
        let settings = Settings { is_unchecked: true, ..Settings::default() };
        let wire = |port| Proxy::changing(port, VECTOR_SET, UNKNOWN);
        Self::start_over(Kind::Redis8, target, settings, wire, seed)
    }

    fn start_over(
        source: Kind,
        target: Kind,
        settings: Settings,
        wire: impl FnOnce(u16) -> Proxy,
        seed: u64,
    ) -> Option<Self> {
        if !source.is_present("imports from running servers") {
            return None;
        }
        let source = Server::start_with(source, settings);
        let target = Server::start_with(target, Settings { workers: Some(3), ..Settings::default() });
        let mut connection = Connection::open(source.port());
        connection.run("CONFIG SET repl-diskless-sync-delay 0");
        connection.run("CONFIG SET repl-backlog-size 268435456");
        let (to_source, to_target) = (wire(source.port()), Proxy::start(target.port()));
        let (log, seen) = (String::new(), String::new());
        Some(Self { source, target, to_source, to_target, importer: None, log, random: Random::new(seed), seen })
    }

    fn follow(&self, more: &[&str]) -> Importer {
        let from = format!("redis://127.0.0.1:{}", self.to_source.port());
        let to = format!("redis://127.0.0.1:{}", self.to_target.port());
        Importer::start(&[&[from.as_str(), "--to", &to, "--follow"], more].concat())
    }

    /// Waits until the target follows, and from another place than last time.
    fn get_further(&mut self) {
        let further = wait_for(LIMIT, || {
            let importer = self.importer.as_mut().expect("it was started");
            assert!(importer.is_running(), "the importer has ended\n{}", importer.log());
            let place = Connection::open(self.target.port()).run(&format!("GET {KEY}"));
            let place = String::from_utf8_lossy(place.bytes().unwrap_or_default()).into_owned();
            (place.starts_with("1 following ") && place != self.seen).then_some(place)
        });
        let Some(place) = further else {
            panic!(
                "the importer gets no further than {}\n{}",
                self.seen,
                self.importer.as_ref().map_or_else(String::new, Importer::log)
            );
        };
        self.seen = place;
    }

    fn drop_at_random(&mut self) {
        if self.random.one_in(2) {
            self.to_source.drop_links()
        } else {
            self.to_target.drop_links()
        }
        std::thread::park_timeout(Duration::from_millis(self.random.below(60) as u64));
    }

    fn kill(&mut self) {
        let mut importer = self.importer.take().expect("it was started");
        importer.kill();
        self.log += &importer.log();
    }

    fn kill_and_start_again(&mut self) {
        self.kill();
        let importer = self.follow(&[]);
        // Before the importer has reached both servers once, a dropped link ends it: the addresses may be wrong.
        let reached = || {
            let log = importer.log();
            (log.contains("goes on from offset") || log.contains("full sync")).then_some(())
        };
        assert!(wait_for(LIMIT, reached).is_some(), "{}", importer.log());
        self.importer = Some(importer);
    }

    /// Runs two importers that take turns with the same bookkeeping, until one is killed.
    fn compete(&mut self) {
        let mut other = self.follow(&[]);
        let overtaken = wait_for(LIMIT, || {
            [Some(&other), self.importer.as_ref()]
                .into_iter()
                .flatten()
                .any(|importer| importer.log().contains("was changed by another import"))
                .then_some(())
        });
        assert!(overtaken.is_some(), "{}", other.log());
        other.kill();
    }

    /// Waits until the source holds no key that expires soon. Only SCAN finds expired keys: it deletes them and tells
    /// the importer so. KEYS passes over them.
    fn let_expire(&mut self) {
        assert_eq!(sameness::let_expire(self.source.port(), SOON_MS, LIMIT), Ok(()));
    }

    /// Cuts over by Ctrl-C. Returns the importers' output.
    fn cut_over(&mut self) -> (String, String) {
        let mut importer = self.importer.take().expect("it was started");
        importer.signal(Signal::INT);
        let (status, log, said) = importer.wait(LIMIT);
        self.log += &log;
        assert!(status.success(), "{}", self.log);
        println!("{}{said}", self.log);
        (self.log.clone(), said)
    }

    fn compare(&self) {
        let difference = self.difference();
        assert_eq!(difference, None, "{}", self.log);
    }

    /// Compares with a source that takes no writes, not even expiries.
    fn compare_paused(&self) {
        // Neither server shows expired keys. More may expire between the two questions.
        assert_eq!(wait_for(LIMIT, || self.difference().is_none().then_some(())), Some(()), "{:?}", self.difference());
    }

    /// Waits until the target has everything that the source has sent so far.
    fn catch_up(&mut self) {
        let is_there = sameness::catch_up(self.source.port(), self.target.port(), LIMIT);
        let log = || self.importer.as_ref().map_or_else(String::new, Importer::log);
        assert!(is_there, "the target does not catch up\n{}", log());
    }

    fn difference(&self) -> Option<String> {
        self.difference_to(self.source.port())
    }

    /// Returns where the target differs from the server at `port`. The import's own key is left out.
    fn difference_to(&self, port: u16) -> Option<String> {
        sameness::difference_of_follower(self.target.port(), port, &[KEY])
    }
}

fn offset(source: &mut Connection) -> u64 {
    field(source, "replication", "master_repl_offset").parse().expect("Redis tells its offset")
}

/// Returns a field of a section of INFO, or an empty text if it is missing.
fn field(connection: &mut Connection, section: &str, name: &str) -> String {
    let text = connection.run(&format!("INFO {section}"));
    let text = String::from_utf8_lossy(text.bytes().unwrap_or_default()).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
}
