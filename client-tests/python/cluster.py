"""redis-py's client of Redis Cluster, with a token for each database. client-tests/src/lib.rs describes the runner."""

import os
import sys
import time
import traceback

from redis.cluster import RedisCluster

PORT = int(os.environ["DORMOUSE_TEST_PORT"])
TOKENS = os.environ["DORMOUSE_TEST_TOKENS"].split()


def connect(token=TOKENS[0]):
    return RedisCluster(host="127.0.0.1", port=PORT, password=token, decode_responses=True)


def topology(r):
    assert [node.port for node in r.get_nodes()] == [PORT] and r.get_primaries() and not r.get_replicas()
    info = r.cluster_info(target_nodes=RedisCluster.RANDOM)
    assert info["cluster_state"] == "ok" and info["cluster_slots_assigned"] == "16384", info
    assert r.cluster_keyslot("{user}:1") == r.cluster_keyslot("{user}:2") == 5474
    r.mset_nonatomic({"{user}:1": 1, "{user}:2": 2})
    assert r.cluster_countkeysinslot(5474) == 2
    assert sorted(r.cluster_get_keys_in_slot(5474, 10)) == ["{user}:1", "{user}:2"]


def keys_of_many_slots(r):
    for n in range(300):
        assert r.set(f"key:{n}", n)
    assert [r.get(f"key:{n}") for n in range(300)] == [str(n) for n in range(300)]
    assert r.mget_nonatomic("key:1", "none", "key:2") == ["1", None, "2"]
    assert sorted(r.scan_iter("key:29?")) == [f"key:29{n}" for n in range(10)] and r.dbsize() == 300
    pipe = r.pipeline()
    for n in range(100):
        pipe.incr(f"key:{n}")
    assert pipe.execute() == [n + 1 for n in range(100)]
    assert r.delete(*[f"key:{n}" for n in range(300)]) == 300 and r.dbsize() == 0


def databases_apart(r):
    other = connect(TOKENS[1])
    other.flushall()
    r.set("whose", "first")
    assert other.get("whose") is None and other.set("whose", "second")
    assert r.get("whose") == "first" and other.get("whose") == "second"
    other.close()


def publish_subscribe(r):
    subscriber = r.pubsub()
    subscriber.subscribe("news")
    assert subscriber.get_message(timeout=10)["type"] == "subscribe"
    assert r.publish("news", "hello") == 1
    assert subscriber.get_message(timeout=10)["data"] == "hello"
    subscriber.close()


def restart(r):
    r.set("kept", "v")
    print("RESTART", flush=True)
    assert sys.stdin.readline() == "RESTARTED\n"
    deadline = time.monotonic() + 10
    while True:
        try:
            assert r.get("kept") == "v"
            return
        except Exception:
            assert time.monotonic() < deadline, "still not reachable after 10 s"


STEPS = [topology, keys_of_many_slots, databases_apart, publish_subscribe, restart]

if __name__ == "__main__":
    failed = 0
    for step in STEPS:
        try:
            client = connect()
            client.flushall()
            step(client)
            client.close()
            print(f"ok {step.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {step.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(STEPS) - failed} passed, {failed} failed")
    sys.exit(failed > 0)
