"""The tasks of dramatiq, huey and taskiq, for their workers and for the steps."""

import dramatiq
import huey
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from steps import operator, patient_url, url

broker = RedisBroker(url=patient_url())
broker.add_middleware(Results(backend=RedisBackend(url=patient_url())))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, min_backoff=10, max_backoff=20, max_retries=3)
def flaky_square(n, fails=0):
    if operator.incr(f"tries of {n}") <= fails:
        raise ValueError("once more")
    return n * n


tasks = huey.RedisHuey("paint", url=patient_url(), blocking=True)
by_priority = huey.PriorityRedisHuey("sorted", url=url())


@tasks.task(retries=2)
def twice(n, fails=0):
    if operator.incr(f"tries of {n}") <= fails:
        raise ValueError("once more")
    return 2 * n


@by_priority.task()
def note(text):
    operator.rpush("notes", text)


taskiq_broker = ListQueueBroker(url=url()).with_result_backend(RedisAsyncResultBackend(redis_url=url()))


@taskiq_broker.task
async def thrice(n):
    return 3 * n
