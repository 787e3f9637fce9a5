"""Idle workers: the database falls asleep beneath them, stays asleep, and wakes for the next job."""

import sys

import redis
from rq import Queue, Worker

import celery_steps
import rq_steps
import rq_tasks
from celery_tasks import add, app
from steps import PORT, program, quiet, run, until


def a_worker_of_celery_waits():
    with program(*celery_steps.worker):
        until(lambda: app.control.ping(timeout=0.5, limit=1))
        assert celery_steps.get(add.delay(1, 1)) == 2
        quiet()
        assert celery_steps.get(add.delay(2, 2)) == 4


def a_worker_of_rq_waits():
    connection = redis.Redis(port=PORT)
    queue = Queue("paint", connection=connection)
    # A scheduler would look for its jobs every second.
    with program(*(word for word in rq_steps.worker if word != "--with-scheduler")):
        until(lambda: Worker.all(connection=connection))
        assert rq_steps.ended(queue.enqueue(rq_tasks.add, 1, 1)) == "finished"
        quiet()
        assert rq_steps.ended(queue.enqueue(rq_tasks.add, 2, 2)) == "finished"


sys.exit(run(a_worker_of_celery_waits, a_worker_of_rq_waits) > 0)
