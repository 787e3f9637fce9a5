//! Tests of the effects for replicas, which run them at another time and know the commands of Redis 7.0.

use std::sync::Arc;

use dormouse_protocol::Response;
use dormouse_storage::log::Tap;
use dormouse_storage::shown::first_ids;
use dormouse_types::Limits;
use parking_lot::Mutex;

use super::testing::Bench;
use super::{Command, FAMILIES, Flags, Run};
use crate::replication::ReplicaStream;

/// Commands whose effect is the command itself, as Redis 7.0 runs it: it depends on the key and the arguments alone.
const VERBATIM: &[&str] = &[
    "APPEND",
    "BITFIELD",
    "DECR",
    "DECRBY",
    "GEOADD",
    "GETDEL",
    "GETSET",
    "HDEL",
    "HINCRBY",
    "HMSET",
    "HSET",
    "HSETNX",
    "INCR",
    "INCRBY",
    "LINSERT",
    "LPOP",
    "LPUSH",
    "LPUSHX",
    "LREM",
    "LSET",
    "LTRIM",
    "PFADD",
    "PFDEBUG",
    "RPOP",
    "RPUSH",
    "RPUSHX",
    "SADD",
    "SETBIT",
    "SETNX",
    "SETRANGE",
    "SREM",
    "XACK",
    "XDEL",
    "XGROUP|CREATE",
    "XGROUP|CREATECONSUMER",
    "XGROUP|DELCONSUMER",
    "XGROUP|DESTROY",
    "XGROUP|SETID",
    "XSETID",
    "ZADD",
    "ZINCRBY",
    "ZPOPMAX",
    "ZPOPMIN",
    "ZREM",
    "ZREMRANGEBYLEX",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
];

/// A new command that is not among these needs [`Flags::BY_KEY`], [`Flags::BY_KEY_TO_REPLICAS`],
/// [`Flags::NAMED_TO_REPLICAS`] or [`Flags::NOT_TO_REPLICAS`], or is one that Redis 7.0 runs alike at any time.
#[test]
fn only_commands_of_redis_7_0_are_sent_as_they_are() {
    let mut verbatim = Vec::new();
    let mut look = |name: String, command: &Command<Run>| {
        let row = &command.row;
        let own = Flags::BY_KEY | Flags::BY_KEY_TO_REPLICAS | Flags::NAMED_TO_REPLICAS | Flags::NOT_TO_REPLICAS;
        let is_own = row.flags.intersects(own);
        if row.flags.contains(Flags::WRITE) && !is_own && !row.keys.is_empty() {
            verbatim.push(name);
        }
    };
    for command in FAMILIES.iter().flat_map(|family| family.commands) {
        look(command.row.name.to_owned(), command);
        command.subcommands.iter().for_each(|sub| look(format!("{}|{}", command.row.name, sub.row.name), sub));
    }
    verbatim.sort();
    assert_eq!(verbatim, VERBATIM);
}

#[derive(Debug, Default)]
struct Entries(Mutex<Vec<Vec<u8>>>);

impl Tap for Entries {
    fn entry(&self, _: u64, items: &[u8]) {
        self.0.lock().push(items.to_vec());
    }

    fn command(&self, _: &[u8]) {}
}

/// A database with a replica.
struct Source {
    bench: Bench,
    entries: Arc<Entries>,
    stream: ReplicaStream,
}

impl Source {
    fn new() -> Self {
        let (bench, entries) = (Bench::new(), Arc::new(Entries::default()));
        bench.shared.journal.tap(Some(Arc::clone(&entries) as _));
        let mut stream = ReplicaStream::new(first_ids(), Limits::REDIS);
        // So that tests need not expect the selection of index 0.
        let mut out = Vec::new();
        let mut items = Vec::new();
        dormouse_storage::log::format::write_effect(&mut items, 0, 0, |body| {
            dormouse_storage::effect::delete(body, b"k");
        });
        stream.entry(&items, &mut out).unwrap();
        Self { bench, entries, stream }
    }

    /// Runs a line and returns the commands that a replica gets for it.
    fn told(&mut self, line: &str) -> Vec<Vec<Vec<u8>>> {
        let reply = self.bench.run(line);
        assert!(!reply.starts_with("(error)"), "{line}: {reply}");
        let mut out = Vec::new();
        for entry in self.entries.0.lock().drain(..) {
            self.stream.entry(&entry, &mut out).unwrap();
        }
        let mut rest = &out[..];
        let mut commands = Vec::new();
        while !rest.is_empty() {
            let Response::Many(_, Some(words)) = Response::read(&mut rest).unwrap() else { panic!("{line}") };
            commands.push(words.iter().map(|word| word.bytes().unwrap().to_vec()).collect());
        }
        commands
    }

    fn shown(&mut self, line: &str) -> String {
        let shown = |words: Vec<Vec<u8>>| {
            words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>().join(" ")
        };
        self.told(line).into_iter().map(shown).collect::<Vec<_>>().join("; ")
    }
}

#[test]
fn effects_depend_on_no_clock_and_no_newer_command() {
    let mut source = Source::new();
    for (line, told) in [
        ("SET k v", "SET k v"),
        ("SET k w XX GET EX 10", "SET k w PXAT 1700000010000"),
        ("SET k x KEEPTTL", "SET k x PXAT 1700000010000"),
        ("SET k y NX", ""),
        ("GETEX k PERSIST", "PERSIST k"),
        ("EXPIRE k 5", "PEXPIREAT k 1700000005000"),
        ("EXPIRE k -5", "DEL k"),
        ("SETEX k 10 v", "SET k v PXAT 1700000010000"),
        ("PSETEX k 10 v", "SET k v PXAT 1700000000010"),
        ("INCRBYFLOAT f 0.1", "SET f 0.1"),
        ("SET c v IFNE w", "SET c v"),
        ("SET c w IFEQ v GET", "SET c w"),
        ("SET c x IFEQ v", ""),
        ("SET c x IFEQ w EX 10", "SET c x PXAT 1700000010000"),
        ("SET c foo IFDNE 0123456789abcdef KEEPTTL", "SET c foo PXAT 1700000010000"),
        ("SET c x IFDEQ ab6e5f64077e7d8a", "SET c x"),
        ("DELEX c IFEQ y", ""),
        ("DELEX c IFNE y", "DEL c"),
        ("DELIFEQ c y", ""),
        ("SET c y", "SET c y"),
        ("DELIFEQ c y", "DEL c"),
        ("DELEX k", "DEL k"),
        ("MSETEX 2 a 1 b 2", "MULTI; SET a 1; SET b 2; EXEC"),
        ("MSETEX 2 a 1 b 2 NX", ""),
        ("MSETEX 2 a 3 b 4 XX EX 10", "MULTI; SET a 3 PXAT 1700000010000; SET b 4 PXAT 1700000010000; EXEC"),
        ("MSETEX 1 a 5 KEEPTTL", "SET a 5 PXAT 1700000010000"),
        ("INCREX a", "SET a 6 PXAT 1700000010000"),
        ("INCREX a UBOUND 6", ""),
        ("INCREX a PERSIST", "SET a 7"),
        ("INCREX a BYFLOAT 0.5 PX 10", "SET a 7.5 PXAT 1700000000010"),
        ("INCREX a BYFLOAT 0.5 PXAT 1", "DEL a"),
        ("INCREX a BYINT 3 UBOUND 2 SATURATE", "SET a 2"),
        ("DEL a b", "MULTI; DEL a; DEL b; EXEC"),
        ("RPUSH from 1 2 3 4 5 6 7", "RPUSH from 1 2 3 4 5 6 7"),
        ("RPUSH to x", "RPUSH to x"),
        ("LMOVEM from to LEFT LEFT COUNT 2 OBO", "MULTI; LPUSH to 1 2; LPOP from 2; EXEC"),
        ("LMOVEM from to RIGHT LEFT EXACTLY 2 BULK", "MULTI; LPUSH to 7 6; RPOP from 2; EXEC"),
        ("LMOVEM from from LEFT RIGHT COUNT 2 OBO", "MULTI; LPOP from 2; RPUSH from 3 4; EXEC"),
        ("BLMOVEM from to LEFT RIGHT 0 COUNT 9 OBO", "MULTI; RPUSH to 5 3 4; LPOP from 3; EXEC"),
        ("LMOVEM none to LEFT RIGHT", ""),
        ("DEL to", "DEL to"),
        ("HINCRBYFLOAT h f 0.5", "HSET h f 0.5"),
        ("HSET h g 1", "HSET h g 1"),
        ("XADD s * f v", "XADD s 1700000000000-0 f v"),
        ("XADD s 1700000000001-* f v", "XADD s 1700000000001-0 f v"),
        (
            "XADD s NOMKSTREAM MAXLEN = 2 1700000000001-* f w",
            "MULTI; XADD s 1700000000001-1 f w; XTRIM s MAXLEN = 2; EXEC",
        ),
        ("XADD none NOMKSTREAM * f v", ""),
        ("XTRIM s MINID 1700000000001-1", "XTRIM s MAXLEN = 1"),
        ("XTRIM s MAXLEN ~ 100", ""),
        ("XGROUP CREATE s g 0", "XGROUP CREATE s g 0"),
        ("XREADGROUP GROUP g c STREAMS s >", "XREADGROUP GROUP g c COUNT 0 STREAMS s >"),
        (
            "XCLAIM s g d 0 1700000000001-1 IDLE 1000 RETRYCOUNT 7 JUSTID",
            "XCLAIM s g d 0 1700000000001-1 TIME 1699999999000 RETRYCOUNT 7 JUSTID",
        ),
        ("XCLAIM s g d 99999 1700000000001-1", ""),
        ("XCLAIM s g e 99999 1700000000001-1", "XGROUP CREATECONSUMER s g e"),
        (
            "XCLAIM s g d 99999 1-1 LASTID 1700000000002-0",
            "XCLAIM s g d 0 0-0 TIME 1700000000000 LASTID 1700000000002-0",
        ),
        ("XAUTOCLAIM s g e 0 0 COUNT 5", "XCLAIM s g e 0 1700000000001-1 TIME 1700000000000"),
        ("XDEL s 1700000000001-1", "XDEL s 1700000000001-1"),
        ("XAUTOCLAIM s g e 0 0", "XCLAIM s g e 0 1700000000001-1 TIME 1700000000000"),
        ("MSET a 1 b 2", "MULTI; SET a 1; SET b 2; EXEC"),
        ("RENAME a c", "MULTI; DEL a; SET c 1; EXEC"),
        ("SADD set one", "SADD set one"),
        ("SPOP set", "SREM set one"),
        // Redis 7.0 has no arrays. What was under their key goes.
        ("ARSET array 0 one 2", ""),
        ("ARINSERT array three", ""),
        ("ARDEL array 0", ""),
        ("EXPIRE array 100", "PEXPIREAT array 1700000100000"),
        ("COPY array copied", "DEL copied"),
        ("RENAME array set", "MULTI; DEL array; DEL set; EXEC"),
        ("DEL set", "DEL set"),
        ("VADD v VALUES 1 1 a", ""),
        ("vadd v VALUES 1 2 a", ""),
        ("VSETATTR v a {}", ""),
        ("EXPIRE v 5", "PEXPIREAT v 1700000005000"),
        ("COPY v w", "DEL w"),
        ("RENAME v u", "MULTI; DEL v; DEL u; EXEC"),
        ("VREM u a", ""),
        ("SWAPDB 0 1", "SWAPDB 0 1"),
        ("FLUSHDB", "FLUSHDB"),
        ("FLUSHALL", "FLUSHALL"),
    ] {
        assert_eq!(source.shown(line), told, "{line}");
    }
}

/// Redis 7.0 has no filters. A key that becomes one goes.
#[test]
fn what_replicas_cannot_have_is_left_out() {
    let mut source = Source::new();
    for (line, told) in [
        ("BF.ADD f x", ""),
        ("BF.RESERVE g 0.1 10", ""),
        ("CF.INSERT c ITEMS x y", ""),
        ("CF.DEL c x", ""),
        ("SET k v", "SET k v"),
        ("COPY f k REPLACE", "DEL k"),
        ("PEXPIREAT k 1800000000000", "PEXPIREAT k 1800000000000"),
        ("DEL k", "DEL k"),
    ] {
        assert_eq!(source.shown(line), told, "{line}");
    }
}

/// Commands that replicas of Redis 7.0 lack, and those that they get instead.
#[test]
fn newer_streams_are_told_as_far_as_replicas_know_them() {
    let mut source = Source::new();
    for (line, told) in [
        ("XADD s IDMP p i * f 1", "XADD s 1700000000000-0 f 1"),
        ("XADD s IDMP p i * f 1", ""),
        ("XADD s IDMPAUTO p MAXLEN 1 * f 2", "MULTI; XADD s 1700000000000-1 f 2; XTRIM s MAXLEN = 1; EXEC"),
        ("XCFGSET s IDMP-MAXSIZE 5", ""),
        ("XIDMPRECORD s p i 1700000000000-1", ""),
        ("XADD t 1 f 1", "XADD t 1-0 f 1"),
        ("XADD t 2 f 2", "XADD t 2-0 f 2"),
        ("XADD t 3 f 3", "XADD t 3-0 f 3"),
        ("XADD t 4 f 4", "XADD t 4-0 f 4"),
        ("XADD t 5 f 5", "XADD t 5-0 f 5"),
        ("XGROUP CREATE t g 0", "XGROUP CREATE t g 0"),
        ("XREADGROUP GROUP g a COUNT 3 MAXCOUNT 3 STREAMS t >", "XREADGROUP GROUP g a COUNT 3 STREAMS t >"),
        ("XREADGROUP GROUP g b CLAIM 5 MAXCOUNT 1 STREAMS t >", "XREADGROUP GROUP g b COUNT 1 STREAMS t >"),
        ("XREADGROUP GROUP g c CLAIM 0 COUNT 2 STREAMS t >", "XCLAIM t g c 0 1-0 2-0 TIME 1700000000000"),
        (
            "XREADGROUP GROUP g d CLAIM 0 NOACK COUNT 5 STREAMS t >",
            "MULTI; XCLAIM t g d 0 3-0 4-0 1-0 2-0 TIME 1700000000000; XREADGROUP GROUP g d COUNT 1 NOACK STREAMS t >; EXEC",
        ),
        ("XREADGROUP GROUP g e CLAIM 5 STREAMS t >", "XGROUP CREATECONSUMER t g e"),
        ("XNACK t g SILENT IDS 1 1-0", "XCLAIM t g  0 1-0 TIME 0 RETRYCOUNT 2 FORCE JUSTID"),
        (
            "XNACK t g FATAL IDS 3 5-0 2-0 99 FORCE",
            "MULTI; XCLAIM t g  0 5-0 TIME 0 RETRYCOUNT 9223372036854775807 FORCE JUSTID; XCLAIM t g  0 2-0 TIME 0 RETRYCOUNT 9223372036854775807 FORCE JUSTID; EXEC",
        ),
        ("XACKDEL t g ACKED IDS 2 3-0 9", "MULTI; XACK t g 3-0; XDEL t 3-0; EXEC"),
        ("XTRIM t ACKED MAXLEN 2", ""),
        ("XACK t g 4-0", "XACK t g 4-0"),
        ("XTRIM t ACKED MAXLEN 1", "XDEL t 4-0"),
        ("XDELEX t DELREF IDS 2 5-0 77", "MULTI; XACK t g 5-0 77-0; XDEL t 5-0; EXEC"),
        ("XDELEX t ACKED IDS 1 1-0", ""),
        ("XTRIM t DELREF MAXLEN 1", "MULTI; XACK t g 1-0; XTRIM t MAXLEN = 1; EXEC"),
        ("XADD t ACKED MAXLEN 5 * f 6", "XADD t 1700000000000-0 f 6"),
    ] {
        assert_eq!(source.shown(line), told, "{line}");
    }
}

/// A key that has expired goes before the command that found it writes.
#[test]
fn expired_keys_are_told() {
    let mut source = Source::new();
    source.told("SET n 5 PX 10");
    source.bench.now_ms += 10;
    assert_eq!(source.shown("INCR n"), "MULTI; DEL n; INCR n; EXEC");
    source.told("SET n 5 PX 10");
    source.bench.now_ms += 10;
    assert_eq!(source.shown("GET n"), "DEL n");
}
