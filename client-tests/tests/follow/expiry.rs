//! A follower does not expire by its own clock: keys that the source still writes to stay, whatever the target's clock
//! says. A real replica of the same source is the measure.

use std::time::Duration;

use dormouse_client_tests::{
    Kind, Server, Settings,
    resp::{Connection, Reply},
    sameness::{INDEXES, keys},
    wait_for,
};

use super::{KEY, LIMIT, MoveIn, field, offset};

/// Keys whose expiry is put off during the copy arrive as they do at a replica.
#[test]
fn keys_whose_expiry_is_put_off_during_the_copy_arrive_whole() {
    let Some(mut move_in) = MoveIn::start(Kind::under_test(), 11) else { return };
    if move_in.target.kind() == Kind::Redis {
        return;
    }
    let mut source = Connection::open(move_in.source.port());
    // The copy takes three seconds; the keys expire after two.
    source.run("CONFIG SET rdb-key-save-delay 10000");
    for n in 0..300 {
        source.run(&format!("SET filler:{n} {n}"));
    }
    for line in [
        "SET session:1 v PX 2000",
        "HSET session:2 user ada",
        "RPUSH session:3 a b c",
        "SET counter 41 PX 2000",
        "SADD session:4 a",
        "ZADD session:5 1 a",
        "SET gone v PX 2000",
    ] {
        source.run(line);
    }
    for n in 2..=5 {
        source.run(&format!("PEXPIRE session:{n} 2000"));
    }
    move_in.importer = Some(move_in.follow(&[]));
    let saving = || (field(&mut source, "persistence", "rdb_bgsave_in_progress") == "1").then_some(());
    assert!(wait_for(LIMIT, saving).is_some(), "the source saves nothing");
    for line in [
        "PEXPIRE session:1 1000000000",
        "HSET session:2 cart 4",
        "RPUSH session:3 d",
        "GETEX counter EX 1000000",
        "INCR counter",
        "SADD session:4 b",
        "PERSIST session:4",
        "ZINCRBY session:5 1 a",
        "PEXPIRE session:5 1000000000",
    ] {
        assert!(!source.run(line).is_error(), "{line}");
    }
    let replica = Replica::of(&move_in.source);
    move_in.get_further();
    move_in.catch_up();
    assert_eq!(source.run("CONFIG SET rdb-key-save-delay 0"), Reply::Line('+', "OK".into()));
    replica.catch_up(&mut source);
    // The test reads no expiring key of the source before the comparison, so the target has seen no DEL.
    for index in 0..INDEXES {
        let mut target = Connection::open(move_in.target.port());
        let mut oracle = Connection::open(replica.server.port());
        for connection in [&mut target, &mut oracle] {
            connection.run(&format!("SELECT {index}"));
        }
        let mut ours = keys(&mut target);
        ours.retain(|key| key != KEY.as_bytes());
        let mut theirs = keys(&mut oracle);
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "index {index}");
    }
    assert_eq!(move_in.difference_to(replica.server.port()), None);
    let mut target = Connection::open(move_in.target.port());
    assert_eq!(target.run("HGET session:2 user").bytes(), None, "its time is over: a read does not find it");
    assert_eq!(target.run("GET counter").bytes(), Some(&b"42"[..]));
    move_in.let_expire();
    move_in.cut_over();
    move_in.compare();
}

/// The same after a partial resync, after `kill -9` of the importer, and after a crash of the target: the target keeps
/// on its disk that it follows.
#[test]
fn a_target_that_crashes_goes_on_following() {
    let Some(mut move_in) = MoveIn::start(Kind::under_test(), 12) else { return };
    if move_in.target.kind() == Kind::Redis {
        return;
    }
    let mut source = Connection::open(move_in.source.port());
    source.run("SET first 1");
    move_in.importer = Some(move_in.follow(&[]));
    move_in.get_further();
    for round in 0..3 {
        for line in
            ["SET string:# 1 PX 700", "RPUSH list:# a", "PEXPIRE list:# 700", "HSET hash:# f 1", "PEXPIRE hash:# 700"]
        {
            source.run(&line.replace('#', &round.to_string()));
        }
        move_in.catch_up();
        move_in.to_source.hold_back();
        for line in
            ["PEXPIRE string:# 1000000", "INCR string:#", "PEXPIRE list:# 1000000", "RPUSH list:# b", "PERSIST hash:#"]
        {
            source.run(&line.replace('#', &round.to_string()));
        }
        // The target's clock goes on.
        let over = || {
            let mut target = Connection::open(move_in.target.port());
            let left = target.run(&format!("EXISTS string:{round} list:{round} hash:{round}"));
            (left.number() == Some(0.0)).then_some(())
        };
        assert!(wait_for(LIMIT, over).is_some(), "the keys' time is not over");
        let mut target = Connection::open(move_in.target.port());
        assert_eq!(target.run("DORMOUSE CHECKPOINT"), Reply::Line('+', "OK".into()));
        match round {
            0 => {}
            1 => move_in.target.crash(),
            _ => {
                move_in.kill();
                assert_eq!(target.run("DORMOUSE SLEEP"), Reply::Line('+', "OK".into()));
                move_in.target.crash();
                move_in.importer = Some(move_in.follow(&[]));
            }
        }
        move_in.to_source.let_through();
        move_in.get_further();
        move_in.catch_up();
    }
    assert_eq!(field(&mut Connection::open(move_in.target.port()), "dormouse", "import_following"), "1");
    move_in.cut_over();
    assert_eq!(field(&mut Connection::open(move_in.target.port()), "dormouse", "import_following"), "0");
    move_in.compare();
}

/// An abandoned target can be told from others, and its owner can free it.
#[test]
fn a_target_that_nobody_fills_any_more_can_be_freed() {
    let Some(mut move_in) = MoveIn::start(Kind::under_test(), 13) else { return };
    if move_in.target.kind() == Kind::Redis {
        return;
    }
    let mut source = Connection::open(move_in.source.port());
    source.run("SET short v PX 300");
    source.run("SET long v");
    move_in.importer = Some(move_in.follow(&[]));
    move_in.get_further();
    move_in.kill();
    let mut target = Connection::open(move_in.target.port());
    assert!(wait_for(LIMIT, || (target.run("EXISTS short").number() == Some(0.0)).then_some(())).is_some());
    assert_eq!(target.run("DBSIZE").number(), Some(3.0), "it has expired, and is there");
    assert_eq!(field(&mut target, "dormouse", "import_following"), "1");
    target.run(&format!("DEL {KEY}"));
    let freed = || (field(&mut target, "dormouse", "import_following") == "0").then_some(());
    assert!(wait_for(LIMIT, freed).is_some(), "it follows for ever");
    assert!(wait_for(LIMIT, || (target.run("DBSIZE").number() == Some(1.0)).then_some(())).is_some());
}

/// A replica of the source, of the source's own kind.
struct Replica {
    server: Server,
}

impl Replica {
    fn of(source: &Server) -> Self {
        let server = Server::start_with(source.kind(), Settings::default());
        let mut connection = Connection::open(server.port());
        assert_eq!(connection.run(&format!("REPLICAOF 127.0.0.1 {}", source.port())), Reply::Line('+', "OK".into()));
        Self { server }
    }

    fn catch_up(&self, source: &mut Connection) {
        let wanted = offset(source);
        let mut connection = Connection::open(self.server.port());
        let there = || {
            let linked = field(&mut connection, "replication", "master_link_status") == "up";
            (linked && offset(&mut connection) >= wanted).then_some(())
        };
        assert!(wait_for(Duration::from_secs(60), there).is_some(), "the replica does not catch up");
    }
}
