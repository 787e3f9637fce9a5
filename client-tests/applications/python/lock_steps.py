"""redis-py's own lock, and its asynchronous twin."""

import asyncio
import sys
import threading

import redis
import redis.asyncio
from redis.exceptions import LockError, LockNotOwnedError

from steps import PORT, run, sleep

client = redis.Redis(port=PORT)


def refused(kind, call, *args):
    try:
        call(*args)
    except kind:
        return
    raise AssertionError(f"{call} was not refused with {kind}")


def one_holder_at_a_time():
    lock, other = client.lock("door", timeout=60), client.lock("door", timeout=60)
    assert lock.acquire() and lock.owned() and not other.acquire(blocking=False)
    sleep()
    assert not other.acquire(blocking=False) and other.locked() and not other.owned()
    assert not other.acquire(blocking_timeout=0.05)
    sleep()
    lock.release()
    assert other.acquire(blocking=False)
    other.release()
    refused(LockError, other.release)


def nobody_releases_the_lock_of_another():
    lock = client.lock("door", timeout=60)
    lock.acquire()
    thief = client.lock("door", timeout=60, thread_local=False)
    thief.local.token = b"guessed"
    sleep()
    refused(LockNotOwnedError, thief.extend, 10)
    refused(LockNotOwnedError, thief.reacquire)
    refused(LockNotOwnedError, thief.release)
    assert lock.owned()
    lock.release()
    assert not client.exists("door")


def a_lock_is_extended():
    lock = client.lock("door", timeout=60)
    lock.acquire()
    sleep()
    assert lock.extend(60) and 110_000 < client.pttl("door") <= 120_000
    assert lock.extend(30, replace_ttl=True) and client.pttl("door") <= 30_000
    sleep()
    assert lock.reacquire() and 50_000 < client.pttl("door") <= 60_000
    lock.release()


def a_lock_times_out():
    lock = client.lock("door", timeout=0.3)
    lock.acquire()
    sleep()
    other = client.lock("door", timeout=60, sleep=0.01)
    assert other.acquire(blocking_timeout=30)
    refused(LockNotOwnedError, lock.extend, 10)
    refused(LockNotOwnedError, lock.release)
    assert other.owned()
    other.release()


def waiting_threads_take_turns():
    seen, inside = [], threading.Lock()

    def enter(n):
        with client.lock("door", timeout=60, sleep=0.01):
            assert inside.acquire(blocking=False), "two hold the lock"
            client.rpush("visits", n)
            seen.append(n)
            inside.release()

    threads = [threading.Thread(target=enter, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    sleep()
    for thread in threads:
        thread.join(40)
    assert sorted(seen) == list(range(8)) and client.lrange("visits", 0, -1) == [b"%d" % n for n in seen]


def asynchronous_locks():
    async def main():
        async with redis.asyncio.Redis(port=PORT) as r:
            lock, other = r.lock("door", timeout=60), r.lock("door", timeout=60)
            assert await lock.acquire() and not await other.acquire(blocking=False)
            await asyncio.to_thread(sleep)
            assert await lock.extend(60) and await lock.owned()
            waiting = asyncio.create_task(other.acquire(blocking_timeout=30))
            await asyncio.to_thread(sleep)
            await lock.release()
            assert await waiting
            await other.release()

    asyncio.run(main())


failed = run(
    one_holder_at_a_time,
    nobody_releases_the_lock_of_another,
    a_lock_is_extended,
    a_lock_times_out,
    waiting_threads_take_turns,
    asynchronous_locks,
)
sys.exit(failed > 0)
