"""arq: a worker and a client that enqueues its jobs. Tested with `--long`, for arq wants an older redis-py than the rest."""

import asyncio
import contextlib
import sys
import time
from datetime import timedelta

from arq import Retry, cron, func
from arq.connections import RedisSettings, create_pool
from arq.jobs import JobStatus
from arq.worker import Worker

from steps import LIMIT, PORT, operator, run, until
from steps import sleep as put_to_sleep

# On a busy machine a connection may take long.
settings = RedisSettings(host="127.0.0.1", port=PORT, conn_timeout=LIMIT)


async def sleep():
    await asyncio.to_thread(put_to_sleep)


async def square(_context, n):
    return n * n


async def flaky(context, fails):
    """Fails `fails` times, and is tried again at once."""
    if context["job_try"] <= fails:
        raise Retry(defer=timedelta(milliseconds=20))
    return context["job_try"]


async def hopeless(_context):
    raise ValueError("no")


async def gated(_context):
    await asyncio.to_thread(until, lambda: operator.exists("gate"))
    return "through"


async def endless(_context):
    operator.set("began", "1")
    await asyncio.sleep(3600)


async def tick(_context):
    operator.incr("ticks")


@contextlib.asynccontextmanager
async def worker(**more):
    functions = [square, func(flaky, max_tries=5), func(hopeless, max_tries=1), gated, endless]
    running = Worker(
        functions, redis_settings=settings, poll_delay=0.05, handle_signals=False, allow_abort_jobs=True, **more
    )
    task = asyncio.create_task(running.async_run())
    try:
        yield running
        # Closed while it stores a result, it would not say so but fail.
        async with asyncio.timeout(LIMIT):
            while running.tasks:
                await asyncio.sleep(0.02)
    finally:
        await running.close()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def result(job):
    return await job.result(timeout=LIMIT, poll_delay=0.02)


async def jobs_are_done(pool):
    jobs = [await pool.enqueue_job("square", n) for n in range(10)]
    await sleep()
    async with worker():
        assert [await result(job) for job in jobs] == [n * n for n in range(10)]
        await sleep()
        job = await pool.enqueue_job("gated")
        while await job.status() != JobStatus.in_progress:
            await asyncio.sleep(0.02)
        await sleep()
        operator.set("gate", "1")
        assert await result(job) == "through"
    await sleep()
    info = await jobs[3].result_info()
    assert info.success and info.args == (3,) and await jobs[3].status() == JobStatus.complete
    assert len(await pool.all_job_results()) == 11


async def failures_are_tried_again(pool):
    async with worker():
        job = await pool.enqueue_job("flaky", 3)
        await sleep()
        assert await result(job) == 4
        lost = await pool.enqueue_job("hopeless")
        await sleep()
        try:
            await result(lost)
        except ValueError as problem:
            assert str(problem) == "no"
        else:
            raise AssertionError("it succeeded")


async def jobs_wait_for_their_time(pool):
    start = time.time()
    late = await pool.enqueue_job("square", 7, _defer_by=1)
    later = await pool.enqueue_job("square", 8, _defer_by=3600)
    await sleep()
    # On a busy machine it is due by then.
    assert await late.status() == JobStatus.deferred or time.time() - start > 0.5
    async with worker():
        await sleep()
        assert await result(late) == 49 and time.time() - start >= 1
        assert await later.status() == JobStatus.deferred
    assert len(await pool.queued_jobs()) == 1


async def a_job_is_enqueued_once(pool):
    first = await pool.enqueue_job("square", 2, _job_id="two")
    await sleep()
    assert first is not None and await pool.enqueue_job("square", 2, _job_id="two") is None
    async with worker():
        await sleep()
        assert await result(first) == 4


async def a_job_is_aborted(pool):
    async with worker():
        job = await pool.enqueue_job("endless")
        await asyncio.to_thread(until, lambda: operator.exists("began"))
        await sleep()
        assert await job.abort(timeout=LIMIT, poll_delay=0.02)


async def a_schedule_is_kept(pool):
    async with worker(cron_jobs=[cron(tick, second=set(range(60)))]):
        await asyncio.to_thread(until, lambda: int(operator.get("ticks") or 0) >= 1)
        await sleep()
        seen = int(operator.get("ticks"))
        await asyncio.to_thread(until, lambda: int(operator.get("ticks")) > seen)


def step(body):
    async def main():
        pool = await create_pool(settings)
        try:
            await body(pool)
        finally:
            await pool.aclose()

    def call():
        asyncio.run(main())

    call.__name__ = body.__name__
    return call


steps = [
    jobs_are_done,
    failures_are_tried_again,
    jobs_wait_for_their_time,
    a_job_is_enqueued_once,
    a_job_is_aborted,
    a_schedule_is_kept,
]
sys.exit(run(*map(step, steps)) > 0)
