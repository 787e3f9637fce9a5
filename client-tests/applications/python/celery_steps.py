"""Celery with Redis as its broker and for its results: a worker, and a client that calls its tasks."""

import sys
from datetime import datetime, timedelta, timezone

from celery import chain, chord, group
from celery.exceptions import TaskRevokedError

from celery_tasks import add, app, broken, flaky, join, progress, total
from steps import LIMIT, operator, program, run, sleep, until


def get(result):
    return result.get(timeout=LIMIT, interval=0.01)


def results_come_back():
    assert get(add.delay(2, 3)) == 5
    sleep()
    calls = [add.delay(n, n) for n in range(20)]
    sleep()
    assert [get(call) for call in calls] == [2 * n for n in range(20)]
    sleep()
    assert calls[7].successful() and calls[7].result == 14 and calls[7].args == [7, 7]
    calls[7].forget()
    assert calls[7].state == "PENDING"


def states_are_followed():
    call = progress.delay()
    until(lambda: call.state == "PAINTING")
    sleep()
    assert call.info == {"done": 50}
    operator.set("go on", "1")
    assert get(call) == "painted" and call.state == "SUCCESS"


def chains_and_groups():
    assert get(chain(add.s(1, 2), add.s(4), add.s(8))()) == 15
    sleep()
    call = group(add.s(n, 1) for n in range(10))()
    sleep()
    assert get(call) == list(range(1, 11))
    call.save()
    sleep()
    assert get(app.GroupResult.restore(call.id)) == list(range(1, 11))


def chords_join_their_parts():
    assert get(chord(add.s(n, n) for n in range(20))(total.s())) == 380
    operator.delete("go on")
    call = chord([progress.s(), progress.s()])(join.s())
    until(lambda: call.parent[0].state == "PAINTING")
    sleep()
    operator.set("go on", "1")
    assert get(call) == "painted, painted"


def failures_are_told_and_tried_again():
    call = flaky.delay(2)
    sleep()
    assert get(call) == 2
    hopeless = broken.delay()
    until(hopeless.failed)
    sleep()
    assert repr(hopeless.result) == "KeyError('lost')" and "KeyError" in hopeless.traceback
    exhausted = flaky.delay(9)
    until(exhausted.failed)
    assert repr(exhausted.result) == "ValueError('try 3')"


def tasks_wait_for_their_time():
    now = datetime.now(timezone.utc)
    by_eta = add.apply_async((1, 1), eta=now + timedelta(seconds=1))
    by_countdown = add.apply_async((2, 2), countdown=0.5)
    sleep()
    assert get(by_eta) == 2 and datetime.now(timezone.utc) >= now + timedelta(seconds=1)
    assert get(by_countdown) == 4
    expired = add.apply_async((3, 3), countdown=0.2, expires=0.1)
    until(lambda: expired.state == "REVOKED")


def workers_are_controlled():
    def answers():
        return [list(answer.values()) for answer in app.control.ping(timeout=LIMIT, limit=1)]

    assert answers() == [[{"ok": "pong"}]]
    sleep()
    assert answers() == [[{"ok": "pong"}]]
    late = add.apply_async((1, 1), countdown=3600)
    until(lambda: any(app.control.inspect(timeout=LIMIT, limit=1).scheduled().values()))
    sleep()
    app.control.revoke(late.id, reply=True, timeout=LIMIT, limit=1)
    ended = add.apply_async((1, 1), task_id=late.id)
    try:
        get(ended)
        raise AssertionError("a revoked task has run")
    except TaskRevokedError:
        pass


def queues_are_emptied():
    for n in range(5):
        add.apply_async((n, n), queue="other")
    sleep()
    assert operator.llen("other") == 5
    with app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge("other") == 5


worker = [sys.executable, "-B", "-m", "celery", "-A", "celery_tasks", "worker", "--loglevel=WARNING", "--concurrency=2"]
if __name__ == "__main__":
    operator.flushall()
    with program(*worker):
        until(lambda: app.control.ping(timeout=0.5, limit=1))
        failed = run(
            results_come_back,
            states_are_followed,
            chains_and_groups,
            chords_join_their_parts,
            failures_are_told_and_tried_again,
            tasks_wait_for_their_time,
            workers_are_controlled,
            queues_are_emptied,
            # The worker's bindings of its queues are in the database.
            flush=False,
        )
    sys.exit(failed > 0)
