"""dramatiq, huey, taskiq, saq, django-redis, channels_redis and limits: tested with `--long`."""

import asyncio
import sys
import time

import saq
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.conf import settings
from huey.consumer import Consumer
from huey.exceptions import TaskException
from limits import RateLimitItemPerMinute, strategies
from limits.storage import RedisStorage

import dramatiq
import more_tasks
from steps import LIMIT, operator, run, sleep, until, url


def dramatiq_works():
    worker = dramatiq.Worker(more_tasks.broker, worker_timeout=50, worker_threads=2)
    calls = [more_tasks.flaky_square.send(n) for n in range(10)]
    sleep()
    worker.start()
    try:
        assert [call.get_result(block=True, timeout=LIMIT * 1000) for call in calls] == [n * n for n in range(10)]
        sleep()
        assert more_tasks.flaky_square.send(20, fails=2).get_result(block=True, timeout=LIMIT * 1000) == 400
        start = time.time()
        late = more_tasks.flaky_square.send_with_options(args=(30,), delay=500)
        sleep()
        assert late.get_result(block=True, timeout=LIMIT * 1000) == 900 and time.time() - start >= 0.5
        chain = dramatiq.group([more_tasks.flaky_square.message(n) for n in (40, 50)]).run()
        sleep()
        assert list(chain.get_results(block=True, timeout=LIMIT * 1000)) == [1600, 2500]
    finally:
        worker.stop()


def huey_works():
    consumer = Consumer(more_tasks.tasks, workers=2, periodic=False, scheduler_interval=1)
    calls = [more_tasks.twice(n) for n in range(10)]
    sleep()
    consumer.start()
    try:
        assert [call(blocking=True, timeout=LIMIT) for call in calls] == [2 * n for n in range(10)]
        sleep()
        flaky = more_tasks.twice(20, fails=1)
        until(lambda: ended(flaky) == 40)
        late = more_tasks.twice.schedule((30,), delay=1)
        sleep()
        assert late(blocking=True, timeout=LIMIT) == 60
        revoked = more_tasks.twice.schedule((40,), delay=1)
        revoked.revoke()
        sleep()
        assert revoked.is_revoked()
        with more_tasks.tasks.lock_task("door"):
            sleep()
            assert more_tasks.tasks.is_locked("door")
    finally:
        consumer.stop()


def ended(call):
    """The result, or nothing while there is none or that of a try that has failed."""
    call.reset()
    try:
        return call.get(preserve=True)
    except TaskException:
        return None


def huey_sorts():
    for priority, text in [(1, "low"), (9, "high"), (5, "middle")]:
        more_tasks.by_priority.enqueue(
            more_tasks.note.s(text, priority=priority)
        )
    sleep()
    for _ in range(3):
        more_tasks.by_priority.execute(more_tasks.by_priority.dequeue())
    assert operator.lrange("notes", 0, -1) == ["high", "middle", "low"]


def taskiq_works():
    async def main():
        broker = more_tasks.taskiq_broker
        from taskiq.api import run_receiver_task

        await broker.startup()
        calls = [await more_tasks.thrice.kiq(n) for n in range(10)]
        await asyncio.to_thread(sleep)
        receiver = asyncio.create_task(run_receiver_task(broker))
        results = [await call.wait_result(timeout=LIMIT, check_interval=0.02) for call in calls]
        assert [result.return_value for result in results] == [3 * n for n in range(10)]
        await asyncio.to_thread(sleep)
        call = await more_tasks.thrice.kiq(20)
        assert (await call.wait_result(timeout=LIMIT, check_interval=0.02)).return_value == 60
        receiver.cancel()
        await broker.shutdown()

    asyncio.run(main())


async def add(_context, *, x, y):
    return x + y


async def completed(job):
    # `refresh(until_complete=...)` subscribes after it has looked, and may miss what happens in between.
    while not job.completed:
        await asyncio.sleep(0.01)
        await job.refresh()


def saq_works():
    async def main():
        queue = saq.Queue.from_url(url())
        await queue.connect()
        worker = saq.Worker(queue, functions=[("add", add)], concurrency=2)
        task = asyncio.create_task(worker.start())
        # A worker that has just started sweeps: it aborts a job that is taken but not marked as active yet.
        await asyncio.to_thread(until, lambda: operator.exists("saq:default:sweep"))
        jobs = [await queue.enqueue("add", x=n, y=n) for n in range(5)]
        await asyncio.to_thread(sleep)
        for n, job in enumerate(jobs):
            await completed(job)
            assert job.result == 2 * n, job
        await asyncio.to_thread(sleep)
        more = await queue.enqueue("add", x=20, y=22)
        await completed(more)
        assert more.result == 42, more
        late = await queue.enqueue("add", x=1, y=1, scheduled=time.time() + 1)
        await asyncio.to_thread(sleep)
        await completed(late)
        assert late.result == 2
        await worker.stop()
        task.cancel()
        await queue.disconnect()

    asyncio.run(main())


def django_caches():
    from django.contrib.sessions.backends.cache import SessionStore
    from django.core.cache import cache

    cache.set("user", {"name": "Ada", "langs": ["en"]}, timeout=60)
    assert cache.add("user", "other") is False and cache.get("none", 7) == 7
    sleep()
    assert cache.get("user") == {"name": "Ada", "langs": ["en"]} and 50 < cache.ttl("user") <= 60
    cache.set_many({"a": 1, "b": 2, "c": 3})
    sleep()
    assert cache.get_many(["a", "b", "none"]) == {"a": 1, "b": 2}
    assert cache.incr("a", 5) == 6 and cache.decr("b") == 1
    assert sorted(cache.keys("*")) == ["a", "b", "c", "user"] and cache.delete_pattern("[ab]") == 2
    assert cache.touch("c", 100) and cache.persist("c") and cache.ttl("c") is None
    with cache.lock("door", timeout=60, blocking_timeout=LIMIT):
        sleep()
        assert not cache.lock("door", timeout=60).acquire(blocking=False)
    assert cache.get_or_set("computed", lambda: 42) == 42
    session = SessionStore()
    session["cart"] = [1, 2]
    session.save()
    sleep()
    again = SessionStore(session.session_key)
    assert again["cart"] == [1, 2]
    again.cycle_key()
    assert not SessionStore().exists(session.session_key) and SessionStore(again.session_key)["cart"] == [1, 2]
    again.flush()
    cache.clear()
    assert operator.dbsize() == 0


settings.configure(
    CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url()}},
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
)


def channel_layers(kind):
    async def main():
        layer = kind(hosts=[url()])
        mine, other = await layer.new_channel(), await layer.new_channel()
        receiver = asyncio.create_task(layer.receive(mine))
        await asyncio.sleep(0.05)
        await layer.send(mine, {"type": "hello", "n": 1})
        assert await asyncio.wait_for(receiver, LIMIT) == {"type": "hello", "n": 1}
        for channel in (mine, other):
            await layer.group_add("room", channel)
        await asyncio.to_thread(sleep)
        waiting = [asyncio.create_task(layer.receive(channel)) for channel in (mine, other)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(sleep)
        await layer.group_send("room", {"type": "said", "text": "to all"})
        assert [await asyncio.wait_for(task, LIMIT) for task in waiting] == [{"type": "said", "text": "to all"}] * 2
        await layer.group_discard("room", other)
        await asyncio.to_thread(sleep)
        await layer.group_send("room", {"type": "said", "text": "to one"})
        assert (await asyncio.wait_for(layer.receive(mine), LIMIT))["text"] == "to one"
        await layer.flush()

    asyncio.run(main())


def channels_through_lists():
    channel_layers(RedisChannelLayer)


def channels_through_messages():
    channel_layers(RedisPubSubChannelLayer)


def limits_hold():
    storage = RedisStorage(url())
    assert storage.check()
    for kind in (
        strategies.FixedWindowRateLimiter,
        strategies.MovingWindowRateLimiter,
        strategies.SlidingWindowCounterRateLimiter,
    ):
        limiter, item, user = kind(storage), RateLimitItemPerMinute(5), kind.__name__
        assert all(limiter.hit(item, user) for _ in range(3)) and limiter.test(item, user)
        sleep()
        assert limiter.get_window_stats(item, user).remaining == 2
        assert limiter.hit(item, user, cost=2) and not limiter.hit(item, user)
        sleep()
        assert not limiter.test(item, user)
        limiter.clear(item, user)
        assert limiter.hit(item, user)
    storage.reset()


if __name__ == "__main__":
    failed = run(
        dramatiq_works,
        huey_works,
        huey_sorts,
        taskiq_works,
        saq_works,
        django_caches,
        channels_through_lists,
        channels_through_messages,
        limits_hold,
    )
    sys.exit(failed > 0)
