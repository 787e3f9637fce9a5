"""The tasks of the Celery application, for its worker and its clients."""

import os

from celery import Celery

PORT = os.environ["DORMOUSE_TEST_PORT"]

app = Celery("tasks", broker=f"redis://127.0.0.1:{PORT}/0", backend=f"redis://127.0.0.1:{PORT}/1")
app.conf.update(
    result_expires=3600,
    broker_connection_retry_on_startup=True,
    task_track_started=True,
    worker_hijack_root_logger=False,
    result_extended=True,
)


@app.task
def add(x, y):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def join(texts):
    return ", ".join(texts)


@app.task(bind=True, max_retries=3, default_retry_delay=0.1)
def flaky(self, fails):
    if self.request.retries < fails:
        raise self.retry(exc=ValueError(f"try {self.request.retries}"))
    return self.request.retries


@app.task
def broken():
    raise KeyError("lost")


@app.task(bind=True)
def progress(self):
    from steps import operator, until

    self.update_state(state="PAINTING", meta={"done": 50})
    until(lambda: operator.get("go on"))
    return "painted"
