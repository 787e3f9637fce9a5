"""Idle workers: the database falls asleep beneath them, stays asleep but for what they look up, and wakes for jobs."""

import sys

import redis
from rq import Queue, Worker

import celery_steps
import rq_steps
import rq_tasks
from celery_tasks import add, app
from steps import PORT, program, quiet, run, until


def workers_of_celery_and_rq_wait():
    connection = redis.Redis(port=PORT)
    queue = Queue("paint", connection=connection)
    # A scheduler would look for its jobs every second.
    worker_of_rq = (word for word in rq_steps.worker if word != "--with-scheduler")
    with program(*celery_steps.worker), program(*worker_of_rq):
        until(lambda: app.control.ping(timeout=0.5, limit=1))
        until(lambda: Worker.all(connection=connection))
        assert celery_steps.get(add.delay(1, 1)) == 2
        assert rq_steps.ended(queue.enqueue(rq_tasks.add, 1, 1)) == "finished"
        # Celery looks for bindings that have expired every 60 s, and for unconfirmed messages every 100 s. RQ writes a sign of
        # life every 405 s.
        quiet(wakes_a_minute=3)
        assert celery_steps.get(add.delay(2, 2)) == 4
        assert rq_steps.ended(queue.enqueue(rq_tasks.add, 2, 2)) == "finished"


sys.exit(run(workers_of_celery_and_rq_wait) > 0)
