"""valkey-glide: one multiplexed connection for all commands of a client. Tested with `--long`, with the packages of arq."""

import asyncio
import sys
import time

from glide import (
    Batch,
    ConditionalChange,
    ExpirySet,
    ExpiryType,
    GlideClient,
    GlideClientConfiguration,
    NodeAddress,
    RequestError,
    Script,
    StreamReadGroupOptions,
)

from steps import LIMIT, PORT, run
from steps import sleep as put_to_sleep

Modes = GlideClientConfiguration.PubSubChannelModes


async def sleep():
    await asyncio.to_thread(put_to_sleep)


async def open_client(subscriptions=None):
    # On a busy machine a command may take long.
    configuration = GlideClientConfiguration(
        [NodeAddress("127.0.0.1", PORT)], request_timeout=LIMIT * 1000, pubsub_subscriptions=subscriptions
    )
    return await GlideClient.create(configuration)


async def commands_share_a_connection(client):
    await asyncio.gather(*(client.set(f"key:{n}", f"{n}") for n in range(100)))
    await sleep()
    counts = await asyncio.gather(*(client.incr(f"key:{n}") for n in range(100)))
    assert counts == list(range(1, 101))
    await sleep()
    assert await client.mget(["key:7", "none"]) == [b"8", None]
    cursor, seen = b"0", set()
    while True:
        cursor, keys = await client.scan(cursor, match="key:*", count=10)
        seen.update(keys)
        if cursor == b"0":
            break
    assert len(seen) == 100


async def locks_expire(client):
    lock = {"conditional_set": ConditionalChange.ONLY_IF_DOES_NOT_EXIST}
    assert await client.set("door", "mine", expiry=ExpirySet(ExpiryType.MILLSEC, 1500), **lock) == "OK"
    assert await client.set("door", "theirs", **lock) is None
    start = time.monotonic()
    await sleep()
    left = await client.pttl("door")
    # On a busy machine it has expired by then.
    assert 0 < left <= 1500 or time.monotonic() - start > 1, left
    while await client.set("door", "theirs", **lock) is None:
        await asyncio.sleep(0.02)
    await sleep()
    release = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end")
    assert await client.invoke_script(release, ["door"], ["mine"]) == 0
    assert await client.invoke_script(release, ["door"], ["theirs"]) == 1


async def transactions_are_whole(client):
    other = await open_client()
    try:
        await client.watch(["balance"])
        await sleep()
        batch = Batch(is_atomic=True)
        batch.incrby("balance", 5)
        batch.hset("log", {"last": "5"})
        assert await client.exec(batch, raise_on_error=True) == [5, 1]
        await client.watch(["balance"])
        await other.incr("balance")
        await sleep()
        assert await client.exec(batch, raise_on_error=True) is None
        pipeline = Batch(is_atomic=False)
        pipeline.get("balance")
        pipeline.incr("log")
        balance, problem = await client.exec(pipeline, raise_on_error=False)
        assert balance == b"6" and isinstance(problem, RequestError) and "wrong kind of value" in str(problem)
    finally:
        await other.close()


async def messages_arrive(client):
    wanted = {Modes.Exact: {"news"}, Modes.Pattern: {"weather.*"}}
    listener = await open_client(GlideClientConfiguration.PubSubSubscriptions(wanted, None, None))
    try:
        while await client.publish("first", "news") != 1:
            await asyncio.sleep(0.02)
        await sleep()
        assert await client.publish("sun", "weather.today") == 1
        await sleep()
        assert await client.publish("second", "news") == 1
        heard = [await asyncio.wait_for(listener.get_pubsub_message(), LIMIT) for _ in range(3)]
        assert [message.message for message in heard] == [b"first", b"sun", b"second"]
        assert heard[1].pattern == b"weather.*"
    finally:
        await listener.close()


async def consumers_share_a_stream(client):
    await client.xadd("tasks", [("n", "0")])
    await client.xgroup_create("tasks", "painters", "0")
    ada, bob = [await open_client() for _ in range(2)]
    try:
        options = StreamReadGroupOptions(block_ms=LIMIT * 1000, count=1)
        first = await ada.xreadgroup({"tasks": ">"}, "painters", "ada", options)
        (first_id,) = first[b"tasks"]
        waiting = asyncio.create_task(bob.xreadgroup({"tasks": ">"}, "painters", "bob", options))
        await asyncio.sleep(0.05)
        await sleep()
        second_id = await client.xadd("tasks", [("n", "1")])
        assert (await waiting)[b"tasks"] == {second_id: [[b"n", b"1"]]}
        await sleep()
        assert await client.xack("tasks", "painters", [first_id]) == 1
        pending = await client.xpending("tasks", "painters")
        assert pending[0] == 1 and pending[1] == second_id
    finally:
        await ada.close()
        await bob.close()


def step(body):
    async def main():
        client = await open_client()
        try:
            await body(client)
        finally:
            await client.close()

    def call():
        asyncio.run(main())

    call.__name__ = body.__name__
    return call


steps = [
    commands_share_a_connection,
    locks_expire,
    transactions_are_whole,
    messages_arrive,
    consumers_share_a_stream,
]
sys.exit(run(*map(step, steps)) > 0)
