//! redis-rs: each test has a server of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use dormouse_client_tests::{Kind, Server, wait_for};
use redis::{
    Client, Commands, Connection, Direction, ErrorKind, ExistenceCheck, ExpireOption, FromRedisValue, RedisResult,
    ServerErrorKind, SetExpiry, SetOptions, Value, cmd, pipe,
};

type Nothing = RedisResult<()>;

fn connect(server: &Server) -> Connection {
    connect_to(&format!("redis://127.0.0.1:{}", server.port()))
}

fn connect_resp3(server: &Server) -> Connection {
    connect_to(&format!("redis://127.0.0.1:{}?protocol=resp3", server.port()))
}

fn connect_to(url: &str) -> Connection {
    let connection = Client::open(url).and_then(|client| client.get_connection()).expect("the server is up");
    connection.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
    connection
}

/// Runs a test in both versions of the protocol.
fn both(test: impl Fn(&mut Connection) -> Nothing) -> Nothing {
    let server = Server::start();
    test(&mut connect(&server))?;
    let mut resp3 = connect_resp3(&server);
    resp3.flushall::<()>()?;
    test(&mut resp3)
}

#[track_caller]
fn refused<T: FromRedisValue + std::fmt::Debug>(reply: RedisResult<T>, text: &str) {
    let error = reply.expect_err("the server refuses");
    let said = format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default());
    assert_eq!(said.trim(), text);
}

#[test]
fn strings() -> Nothing {
    both(|c| {
        assert!(c.set::<_, _, bool>("k", "v")?);
        let only = |check| SetOptions::default().conditional_set(check);
        assert_eq!(c.set_options::<_, _, Option<String>>("k", "w", only(ExistenceCheck::NX))?, None);
        let options = only(ExistenceCheck::XX).get(true).with_expiration(SetExpiry::EX(100));
        assert_eq!(c.set_options::<_, _, Option<String>>("k", "w", options)?.as_deref(), Some("v"));
        c.set_options::<_, _, ()>("k", "x", SetOptions::default().with_expiration(SetExpiry::KEEPTTL))?;
        assert_eq!(c.ttl::<_, i64>("k")?, 100);
        c.set_options::<_, _, ()>("k", "y", SetOptions::default().with_expiration(SetExpiry::PXAT(4_000_000_000_123)))?;
        assert_eq!(c.pexpire_time::<_, i64>("k")?, 4_000_000_000_123);
        assert_eq!(c.get_ex::<_, String>("k", redis::Expiry::PERSIST)?, "y");
        assert_eq!(c.get_del::<_, Option<String>>("k")?.as_deref(), Some("y"));
        assert_eq!(c.get::<_, Option<String>>("k")?, None);
        c.mset::<_, _, ()>(&[("a", 1), ("b", 2)])?;
        assert_eq!(c.mget::<_, Vec<Option<i32>>>(&["a", "none", "b"])?, [Some(1), None, Some(2)]);
        assert!(!c.mset_nx::<_, _, bool>(&[("c", 3), ("a", 9)])?);
        assert_eq!(c.incr::<_, _, i64>("a", 41)?, 42);
        assert_eq!(c.incr::<_, _, f64>("a", 0.25)?, 42.25);
        assert_eq!(c.append::<_, _, usize>("s", "Hello World")?, 11);
        assert_eq!(c.setrange::<_, _, usize>("s", 6, "Redis")?, 11);
        assert_eq!(c.getrange::<_, String>("s", -5, -1)?, "Redis");
        c.mset::<_, _, ()>(&[("x", "ohmytext"), ("y", "mynewtext")])?;
        assert_eq!(cmd("LCS").arg(&["x", "y"]).query::<String>(c)?, "mytext");
        Ok(())
    })
}

#[test]
fn keys_and_expiry() -> Nothing {
    both(|c| {
        c.mset::<_, _, ()>(&[("user:1", "a"), ("user:2", "b"), ("other", "c")])?;
        assert_eq!(c.keys::<_, BTreeSet<String>>("user:?")?, BTreeSet::from(["user:1".into(), "user:2".into()]));
        assert_eq!(c.exists::<_, usize>(&["user:1", "user:1", "none"])?, 2);
        assert!(!c.rename_nx::<_, _, bool>("other", "user:1")?);
        c.rename::<_, _, ()>("other", "another")?;
        assert!(c.expire::<_, bool>("user:1", 100)?);
        let gt = |c: &mut Connection, seconds: i64| -> RedisResult<bool> {
            cmd("EXPIRE").arg("user:1").arg(seconds).arg(ExpireOption::GT).query(c)
        };
        assert_eq!([gt(c, 50)?, gt(c, 200)?], [false, true]);
        assert_eq!([c.ttl::<_, i64>("user:1")?, c.ttl("user:2")?, c.ttl("none")?], [200, -1, -2]);
        assert!(c.persist::<_, bool>("user:1")?);
        c.pexpire::<_, ()>("user:2", 1)?;
        let gone = wait_for(Duration::from_secs(10), || (!c.exists::<_, bool>("user:2").ok()?).then_some(()));
        assert!(gone.is_some());
        assert_eq!(c.object_encoding::<_, String>("user:1")?, "embstr");
        assert_eq!(c.unlink::<_, usize>(&["user:1", "another", "none"])?, 2);
        assert_eq!(cmd("DBSIZE").query::<usize>(c)?, 0);
        Ok(())
    })
}

#[test]
fn hashes() -> Nothing {
    both(|c| {
        c.hset_multiple::<_, _, _, ()>("h", &[("name", "Ada"), ("age", "36")])?;
        let all: BTreeMap<String, String> = c.hgetall("h")?;
        assert_eq!(all, BTreeMap::from([("age".into(), "36".into()), ("name".into(), "Ada".into())]));
        assert_eq!(c.hmget::<_, _, Vec<Option<String>>>("h", &["name", "none"])?, [Some("Ada".into()), None]);
        assert_eq!(c.hincr::<_, _, _, i64>("h", "age", -6)?, 30);
        assert_eq!(c.hincr::<_, _, _, f64>("h", "age", 0.5)?, 30.5);
        assert!(!c.hset_nx::<_, _, _, bool>("h", "name", "x")?);
        assert!(c.hexists::<_, _, bool>("h", "name")?);
        assert_eq!(c.hdel::<_, _, usize>("h", &["name", "age", "none"])?, 2);
        assert!(!c.exists::<_, bool>("h")?);
        Ok(())
    })
}

#[test]
fn lists() -> Nothing {
    both(|c| {
        assert_eq!(c.rpush::<_, _, usize>("l", &["a", "b", "c", "d"])?, 4);
        assert_eq!(c.lpush::<_, _, usize>("l", "z")?, 5);
        assert_eq!(c.linsert_after::<_, _, _, isize>("l", "z", "y")?, 6);
        c.lset::<_, _, ()>("l", -1, "e")?;
        assert_eq!(c.lrange::<_, Vec<String>>("l", 0, -1)?, ["z", "y", "a", "b", "c", "e"]);
        assert_eq!(c.lpop::<_, Vec<String>>("l", 2.try_into().ok())?, ["z", "y"]);
        assert_eq!(c.lrem::<_, _, usize>("l", 0, "c")?, 1);
        assert_eq!(c.lmove::<_, _, String>("l", "m", Direction::Right, Direction::Left)?, "e");
        let popped: Option<(String, Vec<String>)> = c.lmpop(2, &["none", "l"], Direction::Left, 9)?;
        assert_eq!(popped, Some(("l".into(), vec!["a".into(), "b".into()])));
        assert_eq!(c.rpush_exists::<_, _, usize>("none", "x")?, 0);
        Ok(())
    })
}

#[test]
fn sets() -> Nothing {
    both(|c| {
        let set = |members: &[i32]| members.iter().copied().collect::<BTreeSet<i32>>();
        assert_eq!(c.sadd::<_, _, usize>("a", &[1, 2, 3, 3])?, 3);
        assert_eq!(c.sadd::<_, _, usize>("b", &[2, 3, 4])?, 3);
        assert_eq!(c.sinter::<_, BTreeSet<i32>>(&["a", "b"])?, set(&[2, 3]));
        assert_eq!(c.sunion::<_, BTreeSet<i32>>(&["a", "b"])?, set(&[1, 2, 3, 4]));
        assert_eq!(c.sdiff::<_, BTreeSet<i32>>(&["a", "b"])?, set(&[1]));
        assert_eq!(c.sunionstore::<_, _, usize>("d", &["a", "b"])?, 4);
        assert_eq!(c.smismember::<_, _, Vec<bool>>("a", &[1, 9])?, [true, false]);
        assert!(c.smove::<_, _, _, bool>("a", "b", 1)?);
        assert_eq!(cmd("SPOP").arg("b").arg(9).query::<BTreeSet<i32>>(c)?, set(&[1, 2, 3, 4]));
        assert_eq!(c.smembers::<_, BTreeSet<i32>>("a")?, set(&[2, 3]));
        Ok(())
    })
}

#[test]
fn sorted_sets() -> Nothing {
    both(|c| {
        assert_eq!(c.zadd_multiple::<_, _, _, usize>("z", &[(1.0, "a"), (2.0, "b"), (3.0, "c"), (4.0, "d")])?, 4);
        assert_eq!(c.zincr::<_, _, _, f64>("z", "a", 0.5)?, 1.5);
        assert_eq!(c.zscore::<_, _, Option<f64>>("z", "none")?, None);
        let mut range = |rest: &str| -> RedisResult<Vec<String>> {
            cmd("ZRANGE").arg(rest.split(' ').collect::<Vec<_>>()).query(c)
        };
        assert_eq!(range("z 0 -1")?, ["a", "b", "c", "d"]);
        assert_eq!(range("z 0 1 REV")?, ["d", "c"]);
        assert_eq!(range("z (1.5 +inf BYSCORE LIMIT 1 1")?, ["c"]);
        assert_eq!(range("z +inf (2 BYSCORE REV")?, ["d", "c"]);
        assert_eq!(c.zrange_withscores::<_, Vec<(String, f64)>>("z", 0, 0)?, [("a".into(), 1.5)]);
        assert_eq!(c.zrangebyscore::<_, _, _, Vec<String>>("z", 2, "(4")?, ["b", "c"]);
        c.zadd_multiple::<_, _, _, ()>("lex", &[(0, "a"), (0, "b"), (0, "c"), (0, "d")])?;
        assert_eq!(c.zrangebylex::<_, _, _, Vec<String>>("lex", "[b", "(d")?, ["b", "c"]);
        assert_eq!(c.zrevrangebylex::<_, _, _, Vec<String>>("lex", "+", "[c")?, ["d", "c"]);
        assert_eq!(c.zrembylex::<_, _, _, usize>("lex", "[a", "[b")?, 2);
        assert_eq!([c.zrank::<_, _, i64>("z", "c")?, c.zrevrank("z", "c")?, c.zcount("z", 2, 3)?], [2, 1, 2]);
        c.zadd_multiple::<_, _, _, ()>("y", &[(10.0, "a"), (f64::INFINITY, "x")])?;
        assert_eq!(c.zunionstore_max::<_, _, usize>("u", &["z", "y"])?, 5);
        assert_eq!(c.zscore::<_, _, f64>("u", "x")?, f64::INFINITY);
        assert_eq!(c.zinterstore::<_, _, usize>("i", &["z", "y"])?, 1);
        assert_eq!(c.zpopmin::<_, Vec<(String, f64)>>("z", 2)?, [("a".into(), 1.5), ("b".into(), 2.0)]);
        Ok(())
    })
}

#[test]
fn scanning() -> Nothing {
    both(|c| {
        let names: BTreeSet<String> = (0..2000).map(|i| format!("key:{i}")).collect();
        let pairs: Vec<_> = names.iter().map(|name| (name, "v")).collect();
        c.mset::<_, _, ()>(&pairs)?;
        c.hset_multiple::<_, _, _, ()>("hash", &pairs)?;
        c.sadd::<_, _, ()>("set", names.iter().collect::<Vec<_>>())?;
        let scored: Vec<_> = names.iter().map(|name| (1, name)).collect();
        c.zadd_multiple::<_, _, _, ()>("zset", &scored)?;
        assert_eq!(c.scan_match::<_, String>("key:*")?.collect::<RedisResult<BTreeSet<_>>>()?, names);
        let fields = c.hscan::<_, (String, String)>("hash")?.map(|pair| pair.map(|(field, _)| field));
        assert_eq!(fields.collect::<RedisResult<BTreeSet<_>>>()?, names);
        assert_eq!(c.sscan::<_, String>("set")?.collect::<RedisResult<BTreeSet<_>>>()?, names);
        let members = c.zscan::<_, (String, f64)>("zset")?.map(|pair| pair.map(|(member, _)| member));
        assert_eq!(members.collect::<RedisResult<BTreeSet<_>>>()?, names);
        Ok(())
    })
}

#[test]
fn pipelines() -> Nothing {
    both(|c| {
        let mut batch = pipe();
        for i in 0..5000 {
            batch.set(format!("key:{i}"), i).ignore().get(format!("key:{i}"));
        }
        assert_eq!(batch.query::<Vec<i32>>(c)?, (0..5000).collect::<Vec<_>>());
        Ok(())
    })
}

#[test]
fn transactions() -> Nothing {
    let server = Server::start();
    let (mut c, mut other) = (connect(&server), connect(&server));
    let sum: (i64,) = pipe().atomic().set("a", 1).ignore().incr("a", 41).query(&mut c)?;
    assert_eq!(sum, (42,));
    let mut attempts = 0;
    let balance: (i64,) = redis::transaction(&mut c, &["a"], |c, pipe| {
        attempts += 1;
        let seen: i64 = c.get("a")?;
        if attempts == 1 {
            other.set::<_, _, ()>("a", 100)?; // The first try must fail.
        }
        pipe.set("a", seen + 1).ignore().get("a").query(c)
    })?;
    assert_eq!((attempts, balance), (2, (101,)));
    cmd("MULTI").exec(&mut c)?;
    assert_eq!(cmd("SET").arg(&["a", "gone"]).query::<String>(&mut c)?, "QUEUED");
    cmd("DISCARD").exec(&mut c)?;
    refused(cmd("EXEC").query::<Value>(&mut c), "ERR EXEC without MULTI");
    assert_eq!(c.get::<_, i64>("a")?, 101);
    Ok(())
}

#[test]
fn publish_subscribe() -> Nothing {
    let server = Server::start();
    let (mut c, mut listening) = (connect(&server), connect(&server));
    let mut listener = listening.as_pubsub();
    listener.subscribe("news")?;
    listener.psubscribe("user.*")?;
    assert_eq!(c.publish::<_, _, usize>("news", "hello")?, 1);
    assert_eq!(c.publish::<_, _, usize>("user.7", "hi")?, 1);
    assert_eq!(c.publish::<_, _, usize>("nobody", "?")?, 0);
    let message = listener.get_message()?;
    assert_eq!((message.get_channel_name(), message.get_payload::<String>()?), ("news", "hello".into()));
    let message = listener.get_message()?;
    assert_eq!((message.get_pattern::<String>()?, message.get_channel_name()), ("user.*".into(), "user.7"));
    Ok(())
}

#[test]
fn values() -> Nothing {
    both(|c| {
        let every: Vec<u8> = (0..=255).collect();
        let big = every.repeat(4096);
        c.set::<_, _, ()>(&every, &big)?;
        assert!(c.get::<_, Vec<u8>>(&every)? == big);
        c.hset::<_, _, _, ()>("h", &big, &every)?;
        assert!(c.hget::<_, _, Vec<u8>>("h", &big)? == every);
        c.set::<_, _, ()>("größe", "mäuschen 🐭")?;
        assert_eq!(c.get::<_, String>("größe")?, "mäuschen 🐭");
        Ok(())
    })
}

#[test]
fn concurrency() -> Nothing {
    let server = Server::start();
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let mut own = connect(&server);
                for _ in 0..100 {
                    own.incr::<_, _, ()>("counter", 1).expect("the server counts");
                }
            });
        }
    });
    assert_eq!(connect(&server).get::<_, i64>("counter")?, 5000);
    Ok(())
}

#[test]
fn errors() -> Nothing {
    both(|c| {
        c.set::<_, _, ()>("s", "text")?;
        let text = "WRONGTYPE Operation against a key holding the wrong kind of value";
        refused(c.lpush::<_, _, usize>("s", "x"), text);
        refused(c.incr::<_, _, i64>("s", 1), "ERR value is not an integer or out of range");
        refused(cmd("SET").arg(&["s", "v", "SIDEWAYS"]).query::<Value>(c), "ERR syntax error");
        refused(cmd("GET").query::<Value>(c), "ERR wrong number of arguments for 'get' command");
        let error = c.rename::<_, _, ()>("none", "x").expect_err("there is no such key");
        assert_eq!(error.kind(), ErrorKind::Server(ServerErrorKind::ResponseError));
        assert_eq!(c.get::<_, String>("s")?, "text");
        Ok(())
    })
}

#[test]
fn sleep_and_wake() -> Nothing {
    let server = Server::start();
    if server.kind() != Kind::Dormouse {
        return Ok(());
    }
    let (mut c, mut other) = (connect(&server), connect_resp3(&server));
    fill(&mut c)?;
    let ids: (i64, i64) = (cmd("CLIENT").arg("ID").query(&mut c)?, cmd("CLIENT").arg("ID").query(&mut other)?);
    for _ in 0..3 {
        assert_eq!(cmd("DORMOUSE").arg("SLEEP").query::<String>(&mut c)?, "OK");
        check_filled(&mut other)?;
        assert_eq!(cmd("DORMOUSE").arg("SLEEP").query::<String>(&mut other)?, "OK");
        check_filled(&mut c)?;
    }
    assert_eq!(ids, (cmd("CLIENT").arg("ID").query(&mut c)?, cmd("CLIENT").arg("ID").query(&mut other)?));
    cmd("DORMOUSE").arg("SLEEP").exec(&mut c)?;
    assert_eq!(other.incr::<_, _, i64>("counter", 1)?, 8);
    Ok(())
}

#[test]
fn restart() -> Nothing {
    let mut server = Server::start();
    fill(&mut connect(&server))?;
    server.restart();
    check_filled(&mut connect(&server))?;
    server.restart();
    check_filled(&mut connect_resp3(&server))
}

fn fill(c: &mut Connection) -> Nothing {
    let mut batch = pipe();
    batch.set("counter", 7);
    for i in 0..1000 {
        batch.hset("hash", format!("f{i}"), i).rpush("list", i).sadd("set", i);
        batch.zadd("zset", format!("m{i}"), f64::from(i) / 2.0);
    }
    batch.exec(c)
}

fn check_filled(c: &mut Connection) -> Nothing {
    assert_eq!(c.get::<_, i64>("counter")?, 7);
    assert_eq!(c.hgetall::<_, BTreeMap<String, i32>>("hash")?, (0..1000).map(|i| (format!("f{i}"), i)).collect());
    assert_eq!(c.lrange::<_, Vec<i32>>("list", 0, -1)?, (0..1000).collect::<Vec<_>>());
    assert_eq!(c.smembers::<_, BTreeSet<i32>>("set")?, (0..1000).collect());
    let scored: Vec<(String, f64)> = c.zrange_withscores("zset", 0, -1)?;
    assert_eq!(scored, (0..1000).map(|i| (format!("m{i}"), f64::from(i) / 2.0)).collect::<Vec<_>>());
    Ok(())
}
