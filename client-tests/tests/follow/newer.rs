//! Valkey 9.1.2 and Redis 8.10.2 as sources: the test sends each of their write commands, or lists a reason not to. So
//! a command that a later version adds is noticed.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dormouse_client_tests::{
    Kind, Server, Settings,
    importer::Importer,
    resp::{Connection, Reply, Words},
};

use super::{LIMIT, MoveIn, wait_for};

const ROUNDS: usize = 8;

/// Commands, with lines that make each take effect. `#` is the round's number.
const SENT: &[(&str, &[&str])] = &[
    ("APPEND", &["APPEND text:# a", "APPEND text:# b"]),
    ("ARDEL", &["ARSET ar:# 0 a b c d", "ARDEL ar:# 1 9", "ARSET gone:# 5 v", "ARDEL gone:# 5"]),
    ("ARDELRANGE", &["ARSET ar:# 0 a b c d", "ARDELRANGE ar:# 1 2 90 80"]),
    ("ARINSERT", &["ARINSERT ins:# one 2 3.5", "ARINSERT ins:# four"]),
    ("ARMSET", &["ARMSET ar:# 7 x 100000 y 18446744073709551614 z"]),
    ("ARRING", &["ARRING ring:# 3 a b c d", "ARRING ring:# 5 e", "ARRING ring:# 2 f"]),
    ("ARSEEK", &["ARSEEK ins:# 100", "ARINSERT ins:# far", "ARSEEK ins:# 0"]),
    ("ARSET", &["ARSET ar:# 4096 v w", "ARSET ar:# 4097 0.1"]),
    ("BITFIELD", &["BITFIELD bits:# SET u8 3 200 OVERFLOW SAT INCRBY i5 9 30"]),
    ("BITOP", &["SETBIT bits:1:# 100 1", "BITOP XOR bits:2:# bits:# bits:1:#", "BITOP NOT bits:3:# bits:#"]),
    ("BLMOVE", &["RPUSH a:# 1 2", "BLMOVE a:# b:# LEFT RIGHT 1"]),
    ("BLMOVEM", &["RPUSH a:# 1 2 3", "BLMOVEM a:# b:# LEFT LEFT 1 COUNT 2 BULK", "BLMOVEM a:# b:# LEFT RIGHT 1"]),
    ("BLMPOP", &["RPUSH a:# 1 2 3", "BLMPOP 1 1 a:# LEFT COUNT 2"]),
    ("BLPOP", &["RPUSH a:# 1 2 3", "BLPOP a:# 1"]),
    ("BRPOP", &["RPUSH a:# 1 2 3", "BRPOP a:# 1"]),
    ("BRPOPLPUSH", &["RPUSH a:# 1 2 3", "BRPOPLPUSH a:# b:# 1"]),
    ("BZMPOP", &["ZADD z:# 1 a 2 b 3 c", "BZMPOP 1 1 z:# MIN COUNT 2"]),
    ("BZPOPMAX", &["ZADD z:# 1 a 2 b 3 c", "BZPOPMAX z:# 1"]),
    ("BZPOPMIN", &["ZADD z:# 1 a 2 b 3 c", "BZPOPMIN z:# 1"]),
    ("COPY", &["SET s:# v", "COPY s:# copy:# REPLACE", "COPY s:# copy:# DB 3 REPLACE"]),
    ("DECR", &["DECR n:#"]),
    ("DECRBY", &["DECRBY n:# 5"]),
    ("DEL", &["SET gone:# v", "DEL gone:#"]),
    (
        "DELEX",
        &[
            "SET gone:# v",
            "DELEX gone:# IFEQ w",
            "DELEX gone:# IFEQ v",
            "RPUSH gone:# v",
            "DELEX gone:#",
            "SET gone:# foo",
            "DELEX gone:# IFDEQ ab6e5f64077e7d8a",
            "SET stays:# foo",
            "DELEX stays:# IFNE foo",
        ],
    ),
    ("DELIFEQ", &["SET gone:# v", "DELIFEQ gone:# v"]),
    ("EXPIRE", &["SET e1:# v", "EXPIRE e1:# 100000"]),
    ("EXPIREAT", &["SET e2:# v", "EXPIREAT e2:# 4000000000"]),
    // Sent once, in a later round.
    ("FLUSHALL", &[]),
    ("FLUSHDB", &["SELECT 9", "SET x:# v", "FLUSHDB", "SET y:# v", "SELECT 0"]),
    ("GEOADD", &["GEOADD geo:# 13.361389 38.115556 Palermo"]),
    ("GEORADIUS", &["GEORADIUS geo:# 15 37 500 km STORE geo:1:#"]),
    ("GEORADIUSBYMEMBER", &["GEORADIUSBYMEMBER geo:# Palermo 1 km STOREDIST geo:2:#"]),
    ("GEOSEARCHSTORE", &["GEOSEARCHSTORE geo:3:# geo:# FROMMEMBER Palermo BYBOX 9 9 km"]),
    ("GETDEL", &["SET gone:# v", "GETDEL gone:#"]),
    ("GETEX", &["SET e3:# v", "GETEX e3:# EX 100000", "SET e4:# v EX 100000", "GETEX e4:# PERSIST"]),
    ("GETSET", &["GETSET s:# w"]),
    ("HDEL", &["HSET h:# a 1 b 2", "HDEL h:# a"]),
    ("HGETDEL", &["HSET h:# a 1 b 2 c 3", "HGETDEL h:# FIELDS 2 a b"]),
    ("HEXPIRE", &["HSET ttl:# a 1 b 2 c 3", "HEXPIRE ttl:# 100000 FIELDS 3 a b none", "HEXPIRE ttl:# 0 FIELDS 1 c"]),
    ("HEXPIREAT", &["HSET ttl:# d 4", "HEXPIREAT ttl:# 4000000000 NX FIELDS 2 a d"]),
    (
        "HGETEX",
        &[
            "HGETEX h:# FIELDS 1 c",
            "HSET ttl:# g 1 h 2 i 3",
            "HGETEX ttl:# EX 100000 FIELDS 3 g h i",
            "HGETEX ttl:# PERSIST FIELDS 1 h",
            "HGETEX ttl:# EXAT 1 FIELDS 1 i",
        ],
    ),
    // Replicas get it as a RESTORE with a form of its own, without a checksum.
    ("HIMPORT|SET", &["HIMPORT PREPARE fields f g", "HIMPORT SET himported:# fields 1 two"]),
    ("HINCRBY", &["HINCRBY h:# n 5"]),
    ("HINCRBYFLOAT", &["HINCRBYFLOAT h:# f 0.5", "HINCRBYFLOAT h:# n 1.25"]),
    ("HPERSIST", &["HSETEX ttl:# EX 1000 FIELDS 2 p 1 q 2", "HPERSIST ttl:# FIELDS 2 p none"]),
    ("HPEXPIRE", &["HSET ttl:# j 1", "HPEXPIRE ttl:# 100000000 FIELDS 1 j", "HPEXPIRE ttl:# 200000000 GT FIELDS 1 j"]),
    ("HPEXPIREAT", &["HSET ttl:# k 1", "HPEXPIREAT ttl:# 4000000000000 FIELDS 1 k"]),
    ("HMSET", &["HMSET h:# d 4 e 5"]),
    ("HSET", &["HSET h:# d 5"]),
    ("HSETEX", &["HSETEX h:# FIELDS 1 x 1", "HSETEX h:# FNX FIELDS 1 only:# 1", "HSETEX h:# FXX KEEPTTL FIELDS 1 x 2"]),
    (
        "HSETEX",
        &[
            "HSETEX ttl:# EX 100000 FIELDS 2 l 1 m 2",
            "HSETEX ttl:# KEEPTTL FIELDS 1 l 3",
            "HSETEX ttl:# FIELDS 1 m 3",
            "HSETEX ttl:# PXAT 1 FIELDS 2 l 1 never 1",
            // Counters keep their expiries.
            "HSETEX ttl:# EX 100000 FIELDS 2 n 1 o 1",
            "HINCRBY ttl:# n 1",
            "HINCRBYFLOAT ttl:# o 0.5",
        ],
    ),
    ("HSETNX", &["HSETNX h:# once v"]),
    ("INCR", &["INCR n:#"]),
    ("INCRBY", &["INCRBY n:# 7"]),
    ("INCRBYFLOAT", &["INCRBYFLOAT f:# 1.5"]),
    (
        "INCREX",
        &[
            "INCREX n:# BYINT 3",
            "INCREX m:# EX 100000",
            "INCREX m:# UBOUND 1",
            "INCREX m:# UBOUND 1 SATURATE",
            "INCREX m:# BYFLOAT 0.5 PERSIST",
            "INCREX m:gone:# EX 100",
            "INCREX m:gone:# PXAT 1",
        ],
    ),
    ("LINSERT", &["RPUSH l:# b", "LINSERT l:# BEFORE b a"]),
    ("LMOVE", &["RPUSH a:# 1", "LMOVE a:# b:# RIGHT LEFT"]),
    (
        "LMOVEM",
        &[
            "RPUSH a:# 1 2 3 4 5 6 7 8 9 10 11 12",
            "LMOVEM a:# b:# LEFT LEFT COUNT 3 OBO",
            "LMOVEM a:# b:# LEFT LEFT COUNT 3 BULK",
            "LMOVEM a:# b:# RIGHT RIGHT EXACTLY 2 BULK",
            "LMOVEM b:# b:# LEFT LEFT EXACTLY 3 OBO",
            "LMOVEM b:# b:# LEFT RIGHT COUNT 2 BULK",
            "LMOVEM a:# c:# RIGHT LEFT COUNT 1000 OBO",
            "LMOVEM c:# none:# LEFT LEFT EXACTLY 1000 OBO",
            "EXPIRE c:# 100000",
            "LMOVEM c:# c:# LEFT LEFT COUNT 1000 OBO",
        ],
    ),
    ("LMPOP", &["RPUSH a:# 1 2 3", "LMPOP 1 a:# RIGHT COUNT 2"]),
    ("LPOP", &["LPOP b:#"]),
    ("LPUSH", &["LPUSH l:# z"]),
    ("LPUSHX", &["LPUSHX l:# y"]),
    ("LREM", &["LREM l:# 1 y"]),
    ("LSET", &["LSET l:# 0 first"]),
    ("LTRIM", &["LTRIM l:# 0 5"]),
    ("MOVE", &["SELECT 5", "DEL moved:#", "SELECT 0", "SET moved:# v", "MOVE moved:# 5"]),
    ("MSET", &["MSET p:# 1 q:# 2"]),
    (
        "MSETEX",
        &[
            "MSETEX 2 p:# 3 q:# 4 EX 100000",
            "MSETEX 2 r:# 3 q:# 5",
            "MSETEX 1 q:# 6 XX KEEPTTL",
            "MSETEX 2 msetex:# 1 msetex:# 2 NX EXAT 4000000000",
            "MSETEX 1 msetex:# 3 NX",
        ],
    ),
    ("MSETNX", &["DEL p:# q:#", "MSETNX p:# 1 q:# 2"]),
    ("PERSIST", &["SET e5:# v EX 1000", "PERSIST e5:#"]),
    ("PEXPIRE", &["SET e6:# v", "PEXPIRE e6:# 100000000"]),
    ("PEXPIREAT", &["SET e7:# v", "PEXPIREAT e7:# 4000000000000"]),
    ("PFADD", &["PFADD hll:# a b c", "PFADD hll:1:# c d e"]),
    ("PFCOUNT", &["PFCOUNT hll:#"]),
    ("PFDEBUG", &["PFDEBUG TODENSE hll:1:#"]),
    ("PFMERGE", &["PFMERGE hll:2:# hll:# hll:1:#"]),
    ("PSETEX", &["PSETEX e8:# 100000000 v"]),
    ("RENAME", &["SET r:# v", "RENAME r:# renamed:#"]),
    ("RENAMENX", &["SET r:# v", "DEL new:#", "RENAMENX r:# new:#"]),
    ("RPOP", &["RPOP l:#"]),
    ("RPOPLPUSH", &["RPUSH a:# 1", "RPOPLPUSH a:# b:#"]),
    ("RPUSH", &["RPUSH l:# q"]),
    ("RPUSHX", &["RPUSHX l:# w"]),
    ("SADD", &["SADD m:1:# a b c", "SADD m:2:# b c d"]),
    ("SDIFFSTORE", &["SDIFFSTORE m:3:# m:1:# m:2:#"]),
    ("SET", &["SET s:# v", "SET s:# w IFEQ v", "SET s:# x IFEQ w GET", "SET s:# y IFEQ x EX 100000"]),
    ("SETBIT", &["SETBIT bits:4:# 1000 1", "SETBIT bits:4:# 3 1"]),
    ("SETEX", &["SETEX e9:# 100000 v"]),
    ("SETNX", &["DEL s:#", "SETNX s:# v"]),
    ("SETRANGE", &["SETRANGE text:# 3 xyz"]),
    ("SINTERSTORE", &["SINTERSTORE m:4:# m:1:# m:2:#"]),
    ("SMOVE", &["SADD m:1:# moved", "SMOVE m:1:# m:5:# moved"]),
    ("SORT", &["RPUSH unsorted:# 3 1 2", "SORT unsorted:# STORE sorted:#"]),
    ("SPOP", &["SADD m:6:# a b c d e f", "SPOP m:6:#", "SPOP m:6:# 2"]),
    ("SREM", &["SADD m:1:# gone", "SREM m:1:# gone"]),
    ("SUNIONSTORE", &["SUNIONSTORE m:7:# m:1:# m:2:#"]),
    ("SWAPDB", &["SELECT 7", "SET swapped:# v", "SELECT 0", "SWAPDB 7 8"]),
    ("UNLINK", &["SET gone:# v", "UNLINK gone:#"]),
    ("ZADD", &["ZADD z:# 1 a 2 b 3 c", "ZADD z:# GT CH 9 a"]),
    ("ZDIFFSTORE", &["ZADD y:# 1 b", "ZDIFFSTORE z:2:# 2 z:# y:#"]),
    ("ZINCRBY", &["ZINCRBY z:# 2.5 a"]),
    ("ZINTERSTORE", &["ZINTERSTORE z:3:# 2 z:# y:# WEIGHTS 1 2"]),
    ("ZMPOP", &["ZADD w:# 1 a 2 b", "ZMPOP 1 w:# MAX"]),
    ("ZPOPMAX", &["ZADD w:# 1 a 2 b", "ZPOPMAX w:#"]),
    ("ZPOPMIN", &["ZADD w:# 1 a 2 b", "ZPOPMIN w:#"]),
    ("ZRANGESTORE", &["ZRANGESTORE z:4:# z:# 0 -1"]),
    ("ZREM", &["ZADD z:# 1 gone", "ZREM z:# gone"]),
    ("ZREMRANGEBYLEX", &["ZADD v:# 0 a 0 b 0 c", "ZREMRANGEBYLEX v:# [a [b"]),
    ("ZREMRANGEBYRANK", &["ZADD u:# 1 a 2 b", "ZREMRANGEBYRANK u:# 0 0"]),
    ("ZREMRANGEBYSCORE", &["ZADD t:# 1 a 2 b", "ZREMRANGEBYSCORE t:# 1 1"]),
    ("ZUNIONSTORE", &["ZUNIONSTORE z:5:# 2 z:# y:#"]),
];

/// Commands that only Redis 8 has.
const SENT_TO_REDIS: &[&str] = &[
    "SET s:# v",
    "SET s:# w IFNE other",
    "SET s:# x IFDNE 0123456789abcdef GET",
    "SET s:# z IFNE w KEEPTTL",
    "BITOP DIFF bits:5:# bits:4:# bits:#",
    "BITOP DIFF1 bits:6:# bits:4:# bits:#",
    "BITOP ANDOR bits:7:# bits:4:# bits:# bits:1:#",
    "BITOP ONE bits:8:# bits:4:# bits:# bits:1:#",
    "ZUNIONSTORE z:6:# 2 z:# y:# WEIGHTS 2 3 AGGREGATE COUNT",
    "ZINTERSTORE z:7:# 2 z:# y:# AGGREGATE COUNT",
];

/// Options that only Valkey has.
const SENT_TO_VALKEY: &[&str] = &[
    "GEOSEARCHSTORE geo:4:# geo:# BYPOLYGON 3 13 37 16 37 13 39",
    "GEOSEARCHSTORE geo:5:# geo:# BYPOLYGON 3 13 37 16 37 13 39 STOREDIST",
];

/// Commands that are not sent, by name prefix, and why.
const NOT_SENT: &[(&str, &str)] = &[
    ("CLUSTER", "it is for clusters"),
    ("FUNCTION", "`functions_come_with_the_data` sends them"),
    ("MIGRATE", "it needs another server; replicas are sent DEL"),
    ("RESTORE-ASKING", "it is for clusters"),
    ("TRIMSLOTS", "it is for clusters"),
    ("V", "the comparison of data does not read vector sets"),
    ("X", "the comparison of data does not read streams"),
];

#[test]
fn every_write_of_valkey_arrives() {
    every_write_arrives(Kind::Valkey);
}

#[test]
fn every_write_of_redis_8_arrives() {
    every_write_arrives(Kind::Redis8);
}

fn every_write_arrives(kind: Kind) {
    let Some(mut move_in) = MoveIn::start_from(kind, Kind::under_test(), 31) else { return };
    if move_in.target.kind() != Kind::Dormouse {
        return;
    }
    let mut source = Connection::open(move_in.source.port());
    assert!(!source.run("FLUSHALL").is_error());
    let writes = writes(&mut source);
    assert!(writes.len() > 90, "{writes:?}");
    let is_sent = |name: &str| name == "RESTORE" || SENT.iter().any(|(sent, _)| *sent == name);
    let has_reason = |name: &str| NOT_SENT.iter().any(|(start, _)| name.starts_with(start));
    let forgotten: Vec<&String> = writes.iter().filter(|name| !is_sent(name) && !has_reason(name)).collect();
    assert!(forgotten.is_empty(), "say how these are sent to the target, or why not: {forgotten:?}");
    // The first half is in the copy, or between it and the stream.
    for round in 0..ROUNDS {
        if round == ROUNDS / 2 {
            move_in.importer = Some(move_in.follow(&[]));
        }
        if round == ROUNDS - 2 {
            send(&mut source, "FLUSHALL", round);
        }
        for (name, lines) in SENT {
            if writes.contains(*name) {
                lines.iter().for_each(|line| send(&mut source, line, round));
            }
        }
        let only = if kind == Kind::Redis8 { SENT_TO_REDIS } else { SENT_TO_VALKEY };
        only.iter().for_each(|line| send(&mut source, line, round));
        restore(&mut source, round);
        if round > ROUNDS / 2 {
            move_in.get_further();
            move_in.catch_up();
            assert_eq!(move_in.difference(), None, "after round {round}");
        }
    }
    // Commands that change no data are passed over.
    for line in ["PUBLISH channel message", "SPUBLISH channel message", "SET last 1"] {
        send(&mut source, line, 0);
    }
    move_in.catch_up();
    move_in.cut_over();
    move_in.compare();
}

/// Fields expire when the source says so, and by the target's clock after the cutover.
#[test]
fn fields_expire_by_the_clock_of_the_source() {
    for kind in [Kind::Valkey, Kind::Redis8] {
        let Some(mut move_in) = MoveIn::start_from(kind, Kind::under_test(), 35) else { continue };
        if move_in.target.kind() != Kind::Dormouse {
            return;
        }
        let mut source = Connection::open(move_in.source.port());
        let mut target = Connection::open(move_in.target.port());
        for line in ["HSETEX copied PX 40 FIELDS 2 a 1 b 2", "HSET copied c 3", "HSETEX only PX 40 FIELDS 1 a 1"] {
            send(&mut source, line, 0);
        }
        move_in.importer = Some(move_in.follow(&[]));
        move_in.get_further();
        send(&mut source, "HSETEX streamed PX 40 FIELDS 2 a 1 b 2", 0);
        send(&mut source, "HSETEX kept PX 600000 FIELDS 1 a 1", 0);
        move_in.catch_up();
        let gone = || (target.run("EXISTS only streamed").number() == Some(0.0)).then_some(());
        assert!(wait_for(LIMIT, gone).is_some(), "{kind:?}");
        move_in.catch_up();
        send(&mut source, "HSETEX last PX 1 FIELDS 1 a 1", 0);
        move_in.cut_over();
        let gone = || (target.run("EXISTS last").number() == Some(0.0)).then_some(());
        assert!(wait_for(LIMIT, gone).is_some(), "{kind:?}");
        assert_eq!(target.run("HLEN copied").number(), Some(1.0));
        assert_eq!(target.run("HTTL kept FIELDS 1 a").items().map(<[Reply]>::len), Some(1));
    }
}

/// Values that Dormouse lacks are named, or left out. The import ends either way, and asks the source once.
#[test]
fn unsupported_values_are_named() {
    let Some(move_in) = MoveIn::start_with_unknown(Kind::under_test(), 32) else { return };
    if move_in.target.kind() != Kind::Dormouse {
        return;
    }
    let mut source = Connection::open(move_in.source.port());
    for line in ["VADD vectors VALUES 2 1 2 v", "HSET plain f v", "SET k v"] {
        send(&mut source, line, 0);
    }
    let mut importer = move_in.follow(&["--stop-when-caught-up"]);
    let (status, log, _) = importer.wait(LIMIT);
    assert!(!status.success() && log.contains("`vectors`"), "{log}");
    assert!(!log.contains("output-buffer"), "{log}");
    let mut target = Connection::open(move_in.target.port());
    assert_eq!(target.run("DBSIZE"), Reply::Line(':', "0".into()));
    let mut importer = move_in.follow(&["--stop-when-caught-up", "--skip-unsupported"]);
    let (status, log, said) = importer.wait(LIMIT);
    assert!(status.success() && said.contains("cut over"), "{log}");
    assert!(log.contains("left out: "), "{log}");
    assert_eq!(target.run("EXISTS k plain vectors"), Reply::Line(':', "2".into()));
}

/// It does not send everything to replicas.
#[test]
fn a_dormouse_is_no_source_of_types_that_its_replicas_lack() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let [source, target] = [(); 2].map(|()| Server::start_with(Kind::Dormouse, Settings::default()));
    let addresses = [&source, &target].map(|server| format!("redis://127.0.0.1:{}", server.port()));
    let import = |options: &[&str]| {
        let arguments: Vec<&str> = [&*addresses[0], "--to", &addresses[1]].iter().chain(options).copied().collect();
        let (status, log, said) = Importer::start(&arguments).wait(LIMIT);
        (status.success(), log + &said)
    };
    let mut connection = Connection::open(source.port());
    for line in ["JSON.SET document $ 1", "BF.ADD bloom a", "CF.ADD cuckoo a", "VADD v VALUES 1 1 a", "ARSET array 1 a"]
    {
        assert!(!matches!(connection.run(line), Reply::Line('-', _)), "{line}");
        let key = line.split(' ').nth(1).expect("a key");
        let (success, text) = import(&[]);
        assert!(!success && text.contains(&format!("`{key}`")) && text.contains("dormouse backup"), "{line}: {text}");
        connection.run("FLUSHALL");
    }
    connection.run("XADD stream * a 1");
    let (success, text) = import(&[]);
    assert!(success && text.contains("imported 1 key"), "{text}");
}

/// A later write to a key that the copy has left out is left out too, until the key is deleted.
#[test]
fn a_key_that_was_left_out_stays_out() {
    let Some(mut move_in) = MoveIn::start_with_unknown(Kind::under_test(), 33) else { return };
    if move_in.target.kind() != Kind::Dormouse {
        return;
    }
    let mut source = Connection::open(move_in.source.port());
    for line in ["VADD vectors VALUES 2 1 2 v", "VADD gone VALUES 2 1 2 v"] {
        send(&mut source, line, 0);
    }
    move_in.importer = Some(move_in.follow(&["--skip-unsupported"]));
    move_in.get_further();
    for line in ["EXPIRE vectors 100000", "RENAME vectors moved", "PERSIST moved", "DEL gone", "HSET gone a b"] {
        send(&mut source, line, 0);
    }
    move_in.catch_up();
    move_in.cut_over();
    let mut target = Connection::open(move_in.target.port());
    assert_eq!(target.run("EXISTS vectors moved"), Reply::Line(':', "0".into()));
    assert_eq!(target.run("HLEN gone"), Reply::Line(':', "1".into()));
}

/// The stream is read again from the target's place, and judged as before: left-out items are counted once, and a moved
/// mark is where it was before.
#[test]
fn what_was_left_out_is_the_same_when_the_stream_is_read_again() {
    let Some(mut move_in) = MoveIn::start_with_unknown(Kind::under_test(), 34) else { return };
    if move_in.target.kind() != Kind::Dormouse {
        return;
    }
    let mut source = Connection::open(move_in.source.port());
    for name in ["a", "b", "c", "d"] {
        send(&mut source, &format!("VADD {name} VALUES 2 1 2 v"), 0);
    }
    move_in.importer = Some(move_in.follow(&["--skip-unsupported"]));
    move_in.get_further();
    // Each batch is read and sent, and the link is cut before it arrives.
    for lines in [
        ["RENAME a moved", "EXPIRE moved 100000"],
        ["DEL b", "HSET b g 1"],
        ["SET c v", "APPEND c w"],
        ["EXPIRE d 100000", "PERSIST d"],
    ] {
        let mut cut = move_in.to_target.cut_when_used();
        lines.iter().for_each(|line| send(&mut source, line, 0));
        send(&mut source, "INCR sent", 0);
        cut.wait();
        move_in.catch_up();
    }
    for line in ["PERSIST moved", "HSET b h 2", "EXPIRE d 100000"] {
        send(&mut source, line, 0);
    }
    move_in.catch_up();
    let (log, _) = move_in.cut_over();
    let mut target = Connection::open(move_in.target.port());
    for (line, expected) in [("EXISTS a moved d", "0"), ("HLEN b", "2"), ("STRLEN c", "2"), ("GET sent", "4")] {
        assert_eq!(target.run(line).number(), expected.parse().ok(), "{line}\n{log}");
    }
    // RENAME, two writes to the moved key, three to d.
    assert!(log.contains("left out: writes to keys that the copy has left out, 6 times"), "{log}");
    assert!(!log.contains("no such key"), "{log}");
}

/// Returns the names of all commands that write, in capitals, `CONTAINER|NAME` for subcommands.
fn writes(source: &mut Connection) -> BTreeSet<String> {
    let reply = source.run("COMMAND");
    let mut names = BTreeSet::new();
    for row in reply.items().expect("COMMAND answers a list") {
        add_write(row, &mut names);
    }
    names
}

fn add_write(row: &Reply, names: &mut BTreeSet<String>) {
    let Some(items) = row.items() else { return };
    let text = |reply: &Reply| String::from_utf8_lossy(reply.bytes().unwrap_or_default()).to_uppercase();
    let flags = items.get(2).and_then(Reply::items).unwrap_or_default();
    if flags.iter().any(|flag| text(flag) == "WRITE") {
        names.insert(text(&items[0]));
    }
    for subcommand in items.get(9).and_then(Reply::items).unwrap_or_default() {
        add_write(subcommand, names);
    }
}

fn send(source: &mut Connection, line: &str, round: usize) {
    let line = line.replace('#', &round.to_string());
    let reply = source.run(&line);
    assert!(!reply.is_error(), "{line}: {reply:?}");
}

/// Sends each type through DUMP and RESTORE, in the source's own version.
fn restore(source: &mut Connection, round: usize) {
    for key in ["text", "n", "h", "l", "m:1", "z", "b", "m:6"] {
        let key = format!("{key}:{round}");
        let dumped = source.call(&[b"DUMP", key.as_bytes()]);
        let payload = dumped.bytes().unwrap_or_else(|| panic!("{key} is not there")).to_vec();
        let copy = format!("restored:{key}");
        let words: Words = ["RESTORE", &copy, "100000000"].iter().map(|word| word.as_bytes().to_vec()).collect();
        let reply = source.call(&[words, vec![payload, b"REPLACE".to_vec()]].concat());
        assert!(!reply.is_error(), "{key}: {reply:?}");
    }
}

/// A source that ends each full sync before its first byte forks each time. The importer does not ask it forever.
#[test]
fn a_source_that_ends_every_full_sync_is_given_up() {
    let target = Server::start_with(Kind::under_test(), Settings::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("a bound address").port();
    let over = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let source = {
        let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
        std::thread::spawn(move || {
            std::thread::scope(|scope| {
                for client in listener.incoming().flatten() {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let asked = &asked;
                    scope.spawn(move || close_after_full_resync(client, asked));
                }
            });
        })
    };
    let from = format!("redis://127.0.0.1:{port}");
    let to = format!("redis://127.0.0.1:{}", target.port());
    let mut importer = Importer::start(&[&from, "--to", &to, "--follow"]);
    let (status, log, _) = importer.wait(LIMIT);
    assert!(!status.success() && log.contains("before it sent any of its data"), "{log}");
    assert!(!log.contains("output-buffer"), "{log}");
    assert!((2..=5).contains(&asked.load(Ordering::SeqCst)), "{log}");
    over.store(true, Ordering::SeqCst);
    // The listener wakes up and sees that the test is over.
    drop(TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
    source.join().expect("the source found nothing wrong");
}

fn close_after_full_resync(mut client: TcpStream, asked: &AtomicUsize) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        if text.contains("PSYNC") {
            asked.fetch_add(1, Ordering::SeqCst);
            // The importer may be gone.
            let _ = client.write_all(format!("+FULLRESYNC {} 0\r\n", "a".repeat(40)).as_bytes());
            return;
        }
        for _ in text.matches('*') {
            let _ = client.write_all(b"+OK\r\n");
        }
    }
}
