"""redis-py's tour. The runner's side of it is described in client-tests/src/lib.rs."""

import asyncio
import os
import sys
import threading
import time
import traceback
from datetime import timedelta

import redis
import redis.asyncio
import redis.cache
import redis.connection

PORT = int(os.environ["DORMOUSE_TEST_PORT"])
DORMOUSE = os.environ["DORMOUSE_TEST_SERVER"] == "dormouse"
AUTHORITY = os.environ.get("DORMOUSE_TEST_TLS_CA")
OVER_TLS = {"ssl": True, "ssl_ca_certs": AUTHORITY} if AUTHORITY else {}


def connect(**options):
    return redis.Redis(port=PORT, **{"protocol": 2, "decode_responses": True, **OVER_TLS, **options})


def error(kind, text, call, *args, **options):
    """The call must fail with this very text, less the leading ERR that redis-py takes away."""
    try:
        answer = call(*args, **options)
    except kind as problem:
        assert str(problem) == text, f"{problem} instead of {text}"
    else:
        raise AssertionError(f"{answer} instead of an error")


def strings(r):
    assert r.set("k", "v") is True and r.get("k") == "v"
    assert r.set("k", "w", nx=True) is None and r.set("k", "w", xx=True, get=True) == "v"
    assert r.set("fresh", "1", nx=True, get=True) is None and r.get("fresh") == "1"
    assert r.set("k", "x", ex=100) and 99 <= r.ttl("k") <= 100
    assert r.set("k", "y", keepttl=True) and 99 <= r.ttl("k") <= 100
    assert r.set("k", "z", px=timedelta(seconds=50)) and 49_000 < r.pttl("k") <= 50_000
    assert r.set("k", "z", exat=4_000_000_000) and r.expiretime("k") == 4_000_000_000
    assert r.set("k", "z", pxat=4_000_000_000_123) and r.pexpiretime("k") == 4_000_000_000_123
    assert r.set("k", "plain") and r.ttl("k") == -1
    assert r.getex("k", ex=10) == "plain" and r.ttl("k") == 10 and r.getex("k", persist=True) == "plain"
    assert r.ttl("k") == -1 and r.getdel("k") == "plain" and r.getdel("k") is None
    assert r.mset({"a": 1, "b": 2}) and r.mget("a", "none", "b") == ["1", None, "2"]
    assert r.msetnx({"c": 1, "a": 9}) is False and r.exists("c") == 0
    assert r.incr("a") == 2 and r.incrby("a", 40) == 42 and r.decr("a", 2) == 40
    assert r.incrbyfloat("a", 2.5) == 42.5 and r.get("a") == "42.5"
    assert r.append("s", "Hello ") == 6 and r.append("s", "World") == 11 and r.strlen("s") == 11
    assert r.setrange("s", 6, "Redis") == 11 and r.getrange("s", -5, -1) == "Redis"
    r.mset({"x": "ohmytext", "y": "mynewtext"})
    assert r.lcs("x", "y") == "mytext" and r.lcs("x", "y", len=True) == 6
    assert r.execute_command("SETEX", "e", 100, "v") and not r.execute_command("SETNX", "e", "w")
    assert r.execute_command("PSETEX", "e", 100_000, "w") and r.execute_command("GETSET", "e", "n") == "w" and r.ttl("e") == -1


def keys_and_expiry(r):
    r.mset({"user:1": "a", "user:2": "b", "other": "c"})
    assert sorted(r.keys("user:*")) == ["user:1", "user:2"] and r.keys("user:[^1]") == ["user:2"] and r.dbsize() == 3
    assert r.exists("user:1", "user:1", "none") == 2 and r.type("user:1") == "string" and r.type("none") == "none"
    assert r.randomkey() in {"user:1", "user:2", "other"} and r.touch("user:1", "none") == 1
    assert r.rename("other", "another") and r.renamenx("another", "user:1") is False
    assert r.copy("user:1", "copy") and not r.copy("user:1", "user:2") and r.copy("user:1", "user:2", replace=True)
    assert r.get("user:2") == "a" and r.move("copy", 5) and r.exists("copy") == 0
    assert r.expire("user:1", 100) and not r.expire("user:1", 50, gt=True) and r.expire("user:1", 50, lt=True)
    assert not r.expire("user:1", 10, nx=True) and not r.expire("user:2", 10, xx=True) and not r.expire("none", 10)
    assert r.ttl("user:1") == 50 and r.ttl("user:2") == -1 and r.ttl("none") == -2 and r.persist("user:1")
    assert r.expireat("user:1", 4_000_000_000) and r.expiretime("user:1") == 4_000_000_000
    assert r.pexpire("user:2", 1) and until(lambda: r.exists("user:2") == 0)
    assert r.object("encoding", "user:1") == "embstr" and r.object("refcount", "user:1") == 1
    assert r.delete("user:1", "none") == 1 and r.unlink("another") == 1 and r.dbsize() == 0
    r.swapdb(0, 5)
    assert r.get("copy") == "a" and r.flushdb() and r.dbsize() == 0


def hashes(r):
    assert r.hset("h", mapping={"name": "Ada", "age": 36}) == 2 and r.hset("h", "age", 37) == 0
    assert r.hgetall("h") == {"name": "Ada", "age": "37"} and r.hmget("h", "name", "none") == ["Ada", None]
    assert r.hincrby("h", "age", -7) == 30 and r.hincrbyfloat("h", "age", 0.5) == 30.5
    assert r.hexists("h", "name") and r.hlen("h") == 2 and r.hstrlen("h", "name") == 3 and not r.hsetnx("h", "name", "x")
    assert sorted(r.hkeys("h")) == ["age", "name"] and sorted(r.hvals("h")) == ["30.5", "Ada"]
    assert set(r.hrandfield("h", 5)) == {"age", "name"} and r.hdel("h", "age", "name", "none") == 2
    assert r.exists("h") == 0 and r.hget("h", "name") is None
    big = {f"field:{i}": str(i) for i in range(5000)}
    assert r.hset("big", mapping=big) == 5000 and r.hgetall("big") == big and r.object("encoding", "big") == "hashtable"


def lists(r):
    assert r.rpush("l", "a", "b", "c", "d") == 4 and r.lpush("l", "z") == 5 and r.lrange("l", 0, -1) == list("zabcd")
    assert r.lindex("l", -1) == "d" and r.linsert("l", "BEFORE", "a", "y") == 6 and r.lset("l", 0, "x")
    assert r.lpop("l") == "x" and r.lpop("l", 2) == ["y", "a"] and r.rpop("l") == "d" and r.llen("l") == 2
    assert r.lpushx("none", "v") == 0 and r.rpushx("l", "b") == 3 and r.lpos("l", "b", rank=-1) == 2
    assert r.lpos("l", "b", count=0) == [0, 2] and r.lpos("l", "none") is None and r.lrem("l", -1, "b") == 1
    assert r.lmove("l", "m", "RIGHT", "LEFT") == "c" and r.rpoplpush("l", "m") == "b" and r.exists("l") == 0
    assert r.lmpop(2, "none", "m", direction="RIGHT", count=5) == ["m", ["c", "b"]]
    r.rpush("t", *range(1000))
    assert r.ltrim("t", 990, -1) and r.lrange("t", 0, 2) == ["990", "991", "992"] and r.lrange("t", 5, 2) == []


def sets(r):
    assert r.sadd("a", 1, 2, 3, 3) == 3 and r.sadd("b", 2, 3, 4) == 3 and r.smembers("a") == {"1", "2", "3"}
    assert r.sinter("a", "b") == {"2", "3"} and r.sunion("a", "b") == {"1", "2", "3", "4"} and r.sdiff("a", "b") == {"1"}
    assert r.sinterstore("d", "a", "b") == 2 and r.sunionstore("d", "a", "b") == 4 and r.sdiffstore("d", "a", "b") == 1
    assert r.sintercard(2, ["a", "b"]) == 2 and r.sintercard(2, ["a", "b"], limit=1) == 1
    assert r.sismember("a", 1) == 1 and r.smismember("a", 1, 9) == [1, 0] and r.scard("a") == 3
    assert r.smove("a", "b", 1) and r.srem("a", 2, 9) == 1 and r.smembers("b") == {"1", "2", "3", "4"}
    assert r.object("encoding", "b") == "intset" and r.sadd("b", "x") == 1 and r.srandmember("a", -3) == ["3"] * 3
    assert set(r.spop("b", 9)) == {"1", "2", "3", "4", "x"} and r.spop("b") is None


def sorted_sets(r):
    assert r.zadd("z", {"a": 1, "b": 2, "c": 3, "d": 4}) == 4 and r.zadd("z", {"a": 5}, nx=True) == 0
    assert r.zadd("z", {"a": 1.5, "e": 5}, xx=True, ch=True) == 1 and r.zadd("z", {"a": 1}, lt=True, ch=True) == 1
    assert r.zadd("z", {"a": 2}, incr=True, gt=True) == 3 and r.zincrby("z", -2, "a") == 1 and r.zscore("z", "a") == 1
    assert r.zmscore("z", ["a", "none"]) == [1, None] and r.zcard("z") == 4 and r.zcount("z", "(1", 3) == 2
    assert r.zrank("z", "c") == 2 and r.zrevrank("z", "c") == 1 and r.zrank("z", "none") is None
    assert r.zrange("z", 0, -1) == list("abcd") and r.zrange("z", 0, 1, desc=True) == ["d", "c"]
    assert r.zrange("z", "-inf", "(3", byscore=True, withscores=True, score_cast_func=int) == pairs(("a", 1), ("b", 2))
    assert r.zrange("z", "+inf", "(1", byscore=True, desc=True, offset=1, num=1) == ["c"]
    assert r.zrangebyscore("z", 2, 3) == ["b", "c"] and r.zrevrangebyscore("z", 3, 2, start=0, num=1) == ["c"]
    assert r.zrevrange("z", 0, 0) == ["d"] and r.zrangestore("to", "z", 1, 2) == 2 and r.zrange("to", 0, -1) == ["b", "c"]
    r.zadd("lex", dict.fromkeys("abcde", 0))
    assert r.zrange("lex", "[b", "(e", bylex=True) == list("bcd") and r.zrange("lex", "+", "[d", bylex=True, desc=True) == ["e", "d"]
    assert r.zrangebylex("lex", "-", "[b") == ["a", "b"] and r.zrevrangebylex("lex", "(c", "-") == ["b", "a"]
    assert r.zlexcount("lex", "-", "+") == 5 and r.zremrangebylex("lex", "[a", "[b") == 2
    assert r.zremrangebyrank("lex", 0, 0) == 1 and r.zremrangebyscore("lex", 0, 0) == 2
    r.zadd("y", {"a": 10, "x": 20})
    assert r.zunionstore("u", {"z": 2, "y": 1}, aggregate="MAX") == 5 and r.zscore("u", "a") == 10 and r.zscore("u", "d") == 8
    assert r.zinterstore("i", ["z", "y"]) == 1 and r.zscore("i", "a") == 11 and r.zdiff(["z", "y"]) == list("bcd")
    assert r.zinter(["z", "y"]) == ["a"] and r.zunion(["z", "y"]) == ["b", "c", "d", "a", "x"] and r.zintercard(2, ["z", "y"]) == 1
    assert [m for m, _ in map(tuple, r.zpopmin("z", 2))] == ["a", "b"] and r.zmpop(1, ["z"], max=True)[0] == "z"
    assert set(r.zrandmember("y", 9)) == {"a", "x"} and r.zrem("y", "a", "none") == 1
    r.zadd("inf", {"low": float("-inf"), "high": float("inf"), "pi": 3.141592653589793})
    assert [r.zscore("inf", m) for m in ("low", "pi", "high")] == [float("-inf"), 3.141592653589793, float("inf")]
    r.zadd("big", {f"m{i:05}": i % 100 for i in range(5000)})
    assert r.zrange("big", 49, 50) == ["m04900", "m00001"] and r.zrank("big", "m04999") == 4999 and r.zcount("big", 7, 7) == 50


def pairs(*expected):
    """RESP2 brings members and scores as tuples, RESP3 as lists; `Pairs` is equal to both."""
    return Pairs(expected)


class Pairs(list):
    def __eq__(self, other):
        return [tuple(pair) for pair in self] == [tuple(pair) for pair in other]


def scanning(r):
    names = {f"key:{i}" for i in range(2000)}
    r.mset(dict.fromkeys(names, "v"))
    r.hset("hash", mapping=dict.fromkeys(names, "v"))
    r.sadd("set", *names)
    r.zadd("zset", {name: i for i, name in enumerate(names)})
    assert set(r.scan_iter(match="key:*", count=100)) == names and set(r.scan_iter(_type="zset")) == {"zset"}
    assert dict(r.hscan_iter("hash", count=50)) == dict.fromkeys(names, "v")
    assert set(r.sscan_iter("set", match="key:1?")) == {f"key:1{i}" for i in range(10)}
    assert {member for member, _ in r.zscan_iter("zset")} == names


def pipelines(r):
    with r.pipeline(transaction=False) as pipe:
        for i in range(10_000):
            pipe.set(f"key:{i}", i) if i % 2 == 0 else pipe.get(f"key:{i - 1}")
        answers = pipe.execute()
    assert answers == [True if i % 2 == 0 else str(i - 1) for i in range(10_000)]
    with r.pipeline(transaction=False) as pipe:
        ok, wrong, after = pipe.set("s", "v").lpush("s", "x").get("s").execute(raise_on_error=False)
    assert ok is True and isinstance(wrong, redis.ResponseError) and after == "v"


def transactions(r):
    with r.pipeline() as pipe:
        assert pipe.set("a", 1).incr("a").lpush("a", "x").get("a").execute(raise_on_error=False)[3] == "2"
    with r.pipeline() as pipe:
        pipe.watch("a")
        r.set("a", "from elsewhere")
        pipe.multi()
        pipe.set("a", "mine")
        error(redis.WatchError, "Watched variable changed.", pipe.execute)
    assert r.get("a") == "from elsewhere"
    assert r.transaction(lambda pipe: pipe.multi() or pipe.set("a", "done"), "a") == [True]
    one = r.client()
    assert one.execute_command("MULTI") in (True, "OK") and one.execute_command("RPUSH", "gone", "x") == "QUEUED"
    assert one.execute_command("DISCARD") in (True, "OK") and r.exists("gone") == 0
    error(redis.ResponseError, "EXEC without MULTI", one.execute_command, "EXEC")
    one.execute_command("MULTI")
    error(redis.ResponseError, "unknown command 'NONSENSE', with args beginning with: 'x' ", one.execute_command, "NONSENSE", "x")
    error(redis.exceptions.ExecAbortError, "Transaction discarded because of previous errors.", one.execute_command, "EXEC")
    one.close()


def publish_subscribe(r):
    listener = r.pubsub()
    listener.subscribe("news")
    listener.psubscribe("user.*")
    assert [next_message(listener)["type"] for _ in range(2)] == ["subscribe", "psubscribe"]
    assert r.pubsub_channels() == ["news"] and r.pubsub_numpat() == 1 and r.pubsub_numsub("news") == [("news", 1)]
    assert r.publish("news", "hello") == 1 and r.publish("user.7", "hi") == 1 and r.publish("other", "?") == 0
    assert next_message(listener) == {"type": "message", "pattern": None, "channel": "news", "data": "hello"}
    assert next_message(listener) == {"type": "pmessage", "pattern": "user.*", "channel": "user.7", "data": "hi"}
    listener.unsubscribe("news")
    assert next_message(listener)["type"] == "unsubscribe" and r.publish("news", "nobody") == 0
    listener.close()


def sharded_channels(r):
    listener = r.pubsub()
    listener.ssubscribe("news")
    assert next_message(listener)["type"] == "ssubscribe"
    assert r.pubsub_shardchannels() == ["news"] and r.pubsub_shardnumsub("news", "none") == [("news", 1), ("none", 0)]
    assert r.spublish("news", "hello") == 1 and r.publish("news", "?") == 0
    assert next_message(listener) == {"type": "smessage", "pattern": None, "channel": "news", "data": "hello"}
    listener.sunsubscribe("news")
    assert next_message(listener)["type"] == "sunsubscribe" and r.spublish("news", "nobody") == 0
    listener.close()


def keyspace_events(r):
    assert r.config_set("notify-keyspace-events", "KEAmn")
    assert r.config_get("notify-keyspace-events") == {"notify-keyspace-events": "AKEm"}
    listener = r.pubsub()
    listener.psubscribe("__keyevent@*__:*")
    listener.subscribe("__keyspace@0__:a")
    assert [next_message(listener)["type"] for _ in range(2)] == ["psubscribe", "subscribe"]
    r.set("a", 1)
    r.get("none")
    r.pexpire("a", 1)
    heard = [next_message(listener) for _ in range(9)]
    of_a = ["new", "set", "expire", "expired"]
    assert [told["data"] for told in heard if told["channel"] == "__keyspace@0__:a"] == of_a, heard
    events = [("new", "a"), ("set", "a"), ("keymiss", "none"), ("expire", "a"), ("expired", "a")]
    told = [(told["channel"], told["data"]) for told in heard if told["type"] == "pmessage"]
    assert told == [(f"__keyevent@0__:{event}", key) for event, key in events], told
    assert r.config_set("notify-keyspace-events", "")
    r.set("a", 2)
    assert listener.get_message(timeout=0.1) is None
    listener.close()


def next_message(listener):
    message = listener.get_message(timeout=10)
    assert message is not None, "no message in 10 s"
    return message


def documents(r):
    # Other servers have JSON in a module.
    if not DORMOUSE:
        return
    for client in r, connect(protocol=3):
        client.flushall()
        json = client.json()
        assert json.set("doc", "$", {"a": 1, "list": [1, 2, 3], "nested": {"a": "x", "on": True}}) is True
        assert json.get("doc") == {"a": 1, "list": [1, 2, 3], "nested": {"a": "x", "on": True}}
        assert json.get("doc", "$..a") == [1, "x"] and json.get("doc", ".nested.a") == "x"
        assert json.get("doc", "$.a", "$.none") == {"$.a": [1], "$.none": []}
        assert json.set("doc", "$.a", 5, nx=True) is None and json.set("doc", "$.b", 5, nx=True) is True
        assert json.numincrby("doc", "$.a", 2) == [3] and json.nummultby("doc", "$.a", 0.5) == [1.5]
        assert json.arrappend("doc", "$.list", 4, {"n": None}) == [5] and json.arrlen("doc", "$.list") == [5]
        assert json.arrindex("doc", "$.list", 3) == [2] and json.arrtrim("doc", "$.list", 1, 2) == [2]
        assert json.strappend("doc", "y", "$.nested.a") == [2] and json.strlen("doc", "$.nested.a") == [2]
        assert json.toggle("doc", "$.nested.on") == [0] and json.objkeys("doc", "$.nested") == [["a", "on"]]
        assert json.mget(["doc", "none"], "$.b") == [[5], None] and json.objlen("doc", "$") == [4]
        assert json.mset([("doc", "$.b", 6), ("other", "$", [])]) is True and json.get("other") == []
        assert json.merge("doc", "$", {"b": None, "c": {"d": 1}}) is True and json.get("doc", "$.c") == [{"d": 1}]
        assert json.clear("doc", "$.list") == 1 and json.delete("doc", "$.nested") == 1 and json.forget("doc", "$.c") == 1
        assert json.get("doc") == {"a": 1.5, "list": []} and client.type("doc") == "ReJSON-RL"
        pipe = client.json().pipeline()
        pipe.set("piped", "$", {"n": 1})
        pipe.numincrby("piped", "$.n", 1)
        pipe.get("piped", "$.n")
        assert pipe.execute()[0] is True and json.get("piped", "$.n") == [2]
        error(redis.ResponseError, "new objects must be created at the root", json.set, "fresh", "$.a", 1)


def values(_r):
    raw = connect(decode_responses=False)
    every_byte = bytes(range(256))
    big = every_byte * 4096
    assert raw.set(every_byte, every_byte) and raw.get(every_byte) == every_byte and raw.keys() == [every_byte]
    assert raw.set("big", big) and raw.get("big") == big and raw.strlen("big") == 1 << 20
    assert raw.hset("h", every_byte, big) == 1 and raw.hgetall("h") == {every_byte: big}
    assert raw.set("", "") and raw.get("") == b"" and raw.rpush("l", "", every_byte) == 2
    assert raw.lrange("l", 0, -1) == [b"", every_byte]
    assert connect(encoding="utf-8").set("größe", "mäuschen 🐭") and connect().get("größe") == "mäuschen 🐭"


def concurrency(r):
    def count():
        own = connect()
        for _ in range(50):
            own.incr("counter")
        own.close()

    threads = [threading.Thread(target=count) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert r.get("counter") == "2500"

    async def many():
        kind = {"connection_class": redis.asyncio.SSLConnection, "ssl_ca_certs": AUTHORITY} if AUTHORITY else {}
        # Each connection loads the authorities anew, which keeps the loop from others that are to connect in time.
        most = 20 if AUTHORITY else 200
        pool = redis.asyncio.BlockingConnectionPool(port=PORT, protocol=2, max_connections=most, **kind)
        async with redis.asyncio.Redis.from_pool(pool) as shared:
            await asyncio.gather(*(shared.rpush("queue", i) for i in range(1000)))
            return await shared.llen("queue")

    assert asyncio.run(many()) == 1000


def errors(r):
    r.set("s", "text")
    error(redis.ResponseError, "WRONGTYPE Operation against a key holding the wrong kind of value", r.lpush, "s", "x")
    error(redis.ResponseError, "value is not an integer or out of range", r.incr, "s")
    error(redis.ResponseError, "syntax error", r.execute_command, "SET", "s", "v", "SIDEWAYS")
    error(redis.ResponseError, "wrong number of arguments for 'get' command", r.execute_command, "GET")
    error(redis.ResponseError, "invalid expire time in 'set' command", r.set, "s", "v", ex=0)
    error(redis.ResponseError, "no such key", r.rename, "none", "x")
    error(redis.ResponseError, "index out of range", connect().execute_command, "LSET", r.rpush("l", "a") and "l", 9, "x")
    error(redis.ResponseError, "DB index is out of range", r.client().execute_command, "SELECT", 16)
    assert r.get("s") == "text"


def connections(r):
    one = connect(client_name="tour", db=3)
    assert one.ping() and one.echo("hello") == "hello" and one.client_getname() == "tour" and one.set("k", "three")
    assert r.get("k") is None and any(c["name"] == "tour" and c["db"] == "3" for c in r.client_list())
    assert one.info("server")["redis_version"].startswith("7.") and one.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert abs(one.time()[0] - time.time()) < 60 and one.command_count() > 150
    assert r.client_kill_filter(_id=one.client_id()) == 1 and one.get("k") == "three"


def resp3(_r):
    three = connect(protocol=3)
    hello = three.execute_command("HELLO", 3)
    assert hello["proto"] == 3 and hello["role"] == "master" and hello["mode"] == "standalone"
    for tour in (strings, hashes, lists, sets, sorted_sets, scanning, transactions, publish_subscribe, errors):
        three.flushall()
        tour(three)


def client_side_caching(r):
    # redis-py asks for a server that calls itself 7.4, though nothing that it needs is newer than 6.
    redis.connection.CacheProxyConnection.MIN_ALLOWED_VERSION = "7.0.0"
    with connect(protocol=3, cache_config=redis.cache.CacheConfig()) as cached:
        r.mset({"k": "1", "l": "1"})
        assert cached.get("k") == "1" and cached.mget("k", "l") == ["1", "1"] and cached.get_cache().size == 2
        assert cached.set("k", "2") and until(lambda: cached.get("k") == "2")
        for change in (lambda: r.set("k", "3"), lambda: r.eval("redis.call('del', KEYS[1])", 1, "k"), lambda: r.flushall()):
            before = cached.get("k")
            change()
            assert until(lambda: cached.get("k") == r.get("k")), before
            r.set("k", before or "4")
            assert until(lambda: cached.get("k") == r.get("k"))
        if not DORMOUSE:
            return
        r.set("kept", "4")
        assert cached.get("kept") == "4"
        r.execute_command("DORMOUSE", "SLEEP")
        assert cached.get("kept") == "4" and r.info("dormouse")["awake"] == 0, "a copy needs no database that is awake"
        r.set("kept", "5")
        assert until(lambda: cached.get("kept") == "5")


def sleep_and_wake(r):
    if not DORMOUSE:
        return
    fill(r)
    other, listener = connect(), r.pubsub()
    listener.subscribe("news")
    assert next_message(listener)["type"] == "subscribe" and other.ping()
    ids = r.client_id(), other.client_id()
    assert r.execute_command("DORMOUSE", "SLEEP") in (True, "OK", b"OK")
    check_filled(other)
    assert r.execute_command("DORMOUSE", "SLEEP") in (True, "OK", b"OK")
    check_filled(r)
    assert (r.client_id(), other.client_id()) == ids, "sleeping closed a connection"
    assert r.execute_command("DORMOUSE", "SLEEP") in (True, "OK", b"OK")
    assert other.publish("news", "awake?") == 1 and next_message(listener)["data"] == "awake?"
    assert r.rpush("list", "after") == 1001 and r.incr("counter") == 8
    listener.close()


def restart(r):
    fill(r)
    other = connect(db=7)
    other.set("elsewhere", "seven")
    print("RESTART", flush=True)
    assert sys.stdin.readline() == "RESTARTED\n"
    retry(r.ping)
    check_filled(r)
    retry(other.ping)
    assert other.get("elsewhere") == "seven"


def fill(r):
    r.set("text", "x" * 1000)
    r.set("counter", 7, ex=10_000)
    r.hset("hash", mapping={f"f{i}": i for i in range(1000)})
    r.rpush("list", *range(1000))
    r.sadd("set", *range(1000))
    r.zadd("zset", {f"m{i}": i / 2 for i in range(1000)})


def bloom_filters(r):
    if not DORMOUSE:
        return
    bf = r.bf()
    assert bf.create("bf", 0.01, 1000) and r.type("bf") == "MBbloom--"
    error(redis.ResponseError, "item exists", bf.create, "bf", 0.01, 1000)
    assert bf.add("bf", "a") == 1 and bf.add("bf", "a") == 0
    assert bf.madd("bf", "a", "b", "c") == [0, 1, 1]
    assert bf.exists("bf", "b") == 1 and bf.mexists("bf", "a", "z") == [1, 0] and bf.card("bf") == 3
    assert bf.insert("made", ["x", "y"], capacity=50, error=0.1, expansion=4) == [1, 1]
    info = bf.info("made")
    assert (info.capacity, info.filterNum, info.insertedNum, info.expansionRate) == (50, 1, 2, 4)
    error(redis.ResponseError, "not found", bf.insert, "none", ["x"], noCreate=1)
    assert bf.create("fixed", 0.1, 1, noScale=True) and bf.add("fixed", "x") == 1
    error(redis.ResponseError, "non scaling filter is full", bf.add, "fixed", "y")
    raw = connect(decode_responses=False)
    iterator, chunks = 0, []
    while True:
        iterator, data = raw.bf().scandump("bf", iterator)
        if iterator == 0:
            break
        chunks.append((iterator, data))
    for chunk in chunks:
        assert raw.bf().loadchunk("copy", *chunk)
    assert bf.mexists("copy", "a", "b", "c", "z") == [1, 1, 1, 0]
    assert raw.restore("restored", 0, raw.dump("bf")) and bf.card("restored") == 3
    with connect(protocol=3) as three:
        assert three.bf().add("bf", "d") is True and three.bf().exists("bf", "z") is False


def cuckoo_filters(r):
    if not DORMOUSE:
        return
    cf = r.cf()
    assert cf.create("cf", 1000, bucket_size=4, max_iterations=10, expansion=2) and r.type("cf") == "MBbloomCF"
    assert cf.add("cf", "a") == 1 and cf.add("cf", "a") == 1 and cf.addnx("cf", "a") == 0
    assert cf.count("cf", "a") == 2 and cf.exists("cf", "a") == 1 and cf.mexists("cf", "a", "z") == [1, 0]
    assert cf.delete("cf", "a") == 1 and cf.count("cf", "a") == 1 and cf.delete("cf", "z") == 0
    assert cf.insert("cf", ["b", "c"]) == [1, 1] and cf.insertnx("cf", ["b", "d"]) == [0, 1]
    error(redis.ResponseError, "Not found", cf.delete, "none", "x")
    info = cf.info("cf")
    assert (info.insertedNum, info.deletedNum, info.bucketSize, info.expansionRate) == (4, 1, 4, 2)
    raw = connect(decode_responses=False)
    iterator, data = raw.cf().scandump("cf", 0)
    while iterator:
        assert raw.cf().loadchunk("copy", iterator, data)
        iterator, data = raw.cf().scandump("cf", iterator)
    assert cf.mexists("copy", "a", "b", "c", "d", "z") == [1, 1, 1, 1, 0]


def check_filled(r):
    assert r.get("text") == "x" * 1000 and r.get("counter") == "7" and 9_900 < r.ttl("counter") <= 10_000
    assert r.hgetall("hash") == {f"f{i}": str(i) for i in range(1000)} and r.dbsize() == 6
    assert r.lrange("list", 0, -1) == [str(i) for i in range(1000)] and r.smembers("set") == {str(i) for i in range(1000)}
    assert r.zrange("zset", 0, -1, withscores=True) == pairs(*((f"m{i}", i / 2) for i in range(1000)))


def retry(call):
    """A connection that the restart broke is noticed by its next use."""
    try:
        call()
    except redis.ConnectionError:
        call()


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "still not so after 10 s"
        time.sleep(0.001)
    return True


STEPS = [
    strings, keys_and_expiry, hashes, lists, sets, sorted_sets, scanning, pipelines, transactions, publish_subscribe,
    sharded_channels, keyspace_events, documents, values, bloom_filters, cuckoo_filters, concurrency, errors, connections, resp3, client_side_caching, sleep_and_wake, restart,
]  # fmt: skip

if __name__ == "__main__":
    failed = 0
    for step in STEPS:
        try:
            client = connect()
            client.flushall()
            step(client)
            print(f"ok {step.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {step.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(STEPS) - failed} passed, {failed} failed")
    sys.exit(failed > 0)
