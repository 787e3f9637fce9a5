"""RQ: a worker with a scheduler, and a client that enqueues its jobs."""

import sys
import time
from datetime import timedelta

import redis
from rq import Callback, Queue, Retry, Worker
from rq.command import send_stop_job_command
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry

import rq_tasks
from steps import operator, program, run, sleep, until, url

connection = redis.Redis.from_url(url())
queue = Queue("paint", connection=connection)


def ended(job):
    return until(lambda: job.get_status(refresh=True) in ("finished", "failed", "stopped") and job.get_status())


def jobs_are_done():
    jobs = [queue.enqueue(rq_tasks.add, n, n) for n in range(5)]
    sleep()
    assert [ended(job) for job in jobs] == ["finished"] * 5
    sleep()
    assert [job.return_value(refresh=True) for job in jobs] == [2 * n for n in range(5)]
    assert set(FinishedJobRegistry(queue=queue).get_job_ids()) >= {job.id for job in jobs}
    assert Job.fetch(jobs[3].id, connection=connection).args == (3, 3)


def a_job_goes_on_after_a_sleep():
    job = queue.enqueue(rq_tasks.paint)
    until(lambda: job.get_meta(refresh=True).get("done") == 50)
    sleep()
    assert job.get_status() == "started"
    operator.set("go on", "1")
    assert ended(job) == "finished" and job.return_value(refresh=True) == "painted"
    operator.delete("go on")


def jobs_depend_on_each_other():
    first = queue.enqueue(rq_tasks.paint)
    second = queue.enqueue(rq_tasks.add, 1, 1, depends_on=first)
    third = queue.enqueue(rq_tasks.add, 2, 2, depends_on=[first, second])
    sleep()
    assert second.get_status() == "deferred" and third.get_status() == "deferred"
    operator.set("go on", "1")
    assert [ended(job) for job in (first, second, third)] == ["finished"] * 3
    operator.delete("go on")


def failures_are_tried_again():
    job = queue.enqueue(rq_tasks.flaky, 2, retry=Retry(max=3))
    sleep()
    assert ended(job) == "finished" or job.retries_left == 0
    until(lambda: job.get_status(refresh=True) == "finished")
    assert operator.get("tries") == "3"
    operator.delete("tries")
    hopeless = queue.enqueue(rq_tasks.flaky, 1)
    assert ended(hopeless) == "failed"
    sleep()
    failed = FailedJobRegistry(queue=queue)
    assert hopeless.id in failed.get_job_ids()
    assert "ValueError: try 1" in hopeless.latest_result().exc_string
    failed.requeue(hopeless.id)
    until(lambda: hopeless.get_status(refresh=True) == "finished")


def callbacks_are_called():
    good = queue.enqueue(rq_tasks.add, 1, 2, on_success=Callback(rq_tasks.note))
    bad = queue.enqueue(rq_tasks.flaky, 99, on_failure=Callback(rq_tasks.complain))
    sleep()
    until(lambda: operator.llen("notes") == 2)
    assert operator.lrange("notes", 0, -1) == [f"{good.id} ended with 3", f"{bad.id} failed: try 3"]


def jobs_are_scheduled():
    start = time.time()
    job = queue.enqueue_in(timedelta(seconds=2), rq_tasks.add, 20, 22)
    sleep()
    assert job.get_status() == "scheduled"
    assert ended(job) == "finished" and time.time() - start >= 1, "it counts whole seconds"
    later = queue.enqueue_in(timedelta(hours=1), rq_tasks.add, 1, 1)
    sleep()
    later.cancel()
    assert later.get_status(refresh=True) == "canceled" and not queue.scheduled_job_registry.get_job_ids()


def a_running_job_is_stopped():
    job = queue.enqueue(rq_tasks.paint)
    until(lambda: job.get_meta(refresh=True).get("done") == 50)
    sleep()
    until(lambda: job.get_status(refresh=True) == "started")
    send_stop_job_command(connection, job.id)
    assert ended(job) == "stopped"


def workers_are_listed():
    sleep()
    (worker,) = Worker.all(connection=connection)
    until(lambda: worker.get_state() == "idle" or worker.refresh())
    assert worker.queue_names() == ["paint"] and queue.count == 0 and worker.successful_job_count > 5


worker = [sys.executable, "-B", "-m", "rq.cli", "worker", "--with-scheduler", "--quiet", "--url", url(), "paint"]
if __name__ == "__main__":
    operator.flushall()
    with program(*worker):
        until(lambda: Worker.all(connection=connection))
        failed = run(
            jobs_are_done,
            a_job_goes_on_after_a_sleep,
            jobs_depend_on_each_other,
            failures_are_tried_again,
            callbacks_are_called,
            jobs_are_scheduled,
            a_running_job_is_stopped,
            workers_are_listed,
            # The worker has written itself into the database.
            flush=False,
        )
    sys.exit(failed > 0)
