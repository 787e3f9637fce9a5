"""Upstash's libraries, over HTTP. The runner's side of it is described in client-tests/src/lib.rs."""

import asyncio
import os
import sys
import threading
import traceback

from upstash_ratelimit import FixedWindow, Ratelimit, SlidingWindow, TokenBucket
from upstash_redis import Redis
from upstash_redis.asyncio import Redis as AsyncRedis
from upstash_redis.errors import UpstashError

URL = f"http://127.0.0.1:{os.environ['DORMOUSE_TEST_HTTP_PORT']}"
TOKEN = os.environ.get("DORMOUSE_TEST_TOKEN", "any")


def connect(**options):
    return Redis(URL, TOKEN, rest_retries=8, rest_retry_interval=0.2, allow_telemetry=False, **options)


def fails(text, call, *args, **options):
    try:
        answer = call(*args, **options)
    except UpstashError as problem:
        assert text in str(problem), problem
    else:
        raise AssertionError(f"{answer} instead of an error")


def values(r):
    assert r.set("k", "v") is True and r.get("k") == "v"
    assert r.set("k", "w", nx=True) is False and r.set("k", "é\n\0", ex=100) is True
    assert r.get("k") == "é\n\0" and r.ttl("k") == 100 and r.get("none") is None
    assert r.incrby("n", 41) == 41 and r.incrbyfloat("n", 0.5) == 41.5
    assert r.mset({"a": 1, "b": "two"}) and r.mget("a", "none", "b") == ["1", None, "two"]
    assert r.hset("h", values={"a": 1, "b": "x"}) == 2 and r.hgetall("h") == {"a": "1", "b": "x"}
    assert r.hgetall("none") == {} and r.hmget("h", "a", "none") == ["1", None]
    assert r.rpush("l", "a", "b") == 2 and r.lrange("l", 0, -1) == ["a", "b"]
    assert r.sadd("s", "x") == 1 and r.smismember("s", "x", "y") == [True, False]
    assert r.zadd("z", {"m": 1.5}) == 1 and r.zrange("z", 0, -1, withscores=True) == [("m", 1.5)]
    assert r.execute(["XADD", "x", "1-1", "f", "v"]) == "1-1"
    assert sorted(r.scan(0, match="[kn]")[1]) == ["k", "n"] and r.ping() == "PONG"
    fails("WRONGTYPE", r.lpush, "k", "x")
    fails("unknown command", r.execute, ["NOTHING"])


def pipelines(r):
    pipeline = r.pipeline()
    for i in range(300):
        pipeline.set(f"k{i}", i)
        pipeline.get(f"k{i}")
    assert pipeline.exec()[1::2] == [str(i) for i in range(300)]
    multi = r.multi()
    multi.set("a", 1)
    multi.incr("a")
    assert multi.exec() == [True, 2]
    multi = r.multi()
    multi.set("a", "lost")
    multi.execute(["GETRANGE", "a"])
    try:
        answer = multi.exec()
    except Exception:  # The library takes the error for a list.
        assert r.get("a") == "2"
    else:
        raise AssertionError(f"{answer} instead of an error")


def scripts(r):
    assert r.eval("return {KEYS[1], ARGV[1]}", ["k"], ["v"]) == ["k", "v"]
    digest = r.script_load("return redis.call('INCR', KEYS[1])")
    assert r.evalsha(digest, ["n"]) == 1 and r.evalsha(digest, ["n"]) == 2
    fails("NOSCRIPT", r.evalsha, "0" * 40)


def rate_limits(r):
    for limiter in [FixedWindow(5, 600), SlidingWindow(5, 600), TokenBucket(5, 600, 5)]:
        limit = Ratelimit(r, limiter, prefix=type(limiter).__name__)
        assert [limit.limit("user").allowed for _ in range(7)] == [True] * 5 + [False] * 2, limiter
        assert limit.limit("other").allowed and limit.get_remaining("user") == 0


def threads(r):
    def count():
        with connect() as own:
            for _ in range(50):
                own.incr("n")

    all_threads = [threading.Thread(target=count) for _ in range(8)]
    [thread.start() for thread in all_threads]
    [thread.join() for thread in all_threads]
    assert r.get("n") == "400"


def tasks(_):
    async def count():
        async with AsyncRedis(URL, TOKEN, allow_telemetry=False) as own:
            await asyncio.gather(*(own.incr("n") for _ in range(200)))
            return await own.get("n")

    assert asyncio.run(count()) == "200"


STEPS = [values, pipelines, scripts, rate_limits, threads, tasks]

if __name__ == "__main__":
    failed = 0
    for step in STEPS:
        try:
            with connect() as client:
                client.flushall()
                step(client)
            print(f"ok {step.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {step.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(STEPS) - failed} passed, {failed} failed")
    sys.exit(failed > 0)
