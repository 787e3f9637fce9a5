"""The functions that RQ's worker calls."""

from rq import get_current_job

from steps import operator, until


def add(x, y):
    return x + y


def paint():
    job = get_current_job()
    job.meta["done"] = 50
    job.save_meta()
    until(lambda: operator.get("go on"))
    return "painted"


def flaky(fails):
    tries = operator.incr("tries")
    if tries <= fails:
        raise ValueError(f"try {tries}")
    return tries


def note(job, connection, result, *_):
    connection.rpush("notes", f"{job.id} ended with {result}")


def complain(job, connection, kind, value, *_):
    connection.rpush("notes", f"{job.id} failed: {value}")
