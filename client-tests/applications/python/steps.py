"""Runs the steps of an application, and puts the database to sleep beneath it.

The runner's side of the protocol is described in client-tests/src/lib.rs.
"""

import contextlib
import math
import os
import subprocess
import sys
import time
import traceback

import redis

PORT = int(os.environ["DORMOUSE_TEST_PORT"])
DORMOUSE = os.environ["DORMOUSE_TEST_SERVER"] == "dormouse"

# A step takes seconds; a machine that is busy with a build may need far longer.
LIMIT = 40

# For so long a database is awake because it does not know the habits of idle workers yet.
LEARNING = 30

# By default redis-py waits five seconds for a reply.
operator = redis.Redis(port=PORT, decode_responses=True, socket_timeout=LIMIT)


def url(index=0):
    return f"redis://127.0.0.1:{PORT}/{index}"


def patient_url():
    """The same for applications that wait for a reply as long as the command may block: by default redis-py gives up a
    BRPOPLPUSH after five seconds, whatever timeout that has of its own."""
    return f"{url()}?socket_timeout={2 * LIMIT}"


def sleep():
    """Puts the database to sleep from a connection of its own."""
    if not DORMOUSE:
        return

    def slept():
        try:
            return operator.execute_command("DORMOUSE", "SLEEP") in ("OK", b"OK", True)
        except redis.ResponseError as problem:
            # A database that is written to in each round of its last checkpoint stays awake.
            if not str(problem).startswith("clients go on writing"):
                raise
            return False

    until(slept)


def quiet(wakes_a_minute=0):
    """Waits until the idle database has fallen asleep by itself, and checks that it stays asleep for a while, but for
    the commands of a worker that need data now and then: it falls asleep again after each."""
    if not DORMOUSE:
        return

    def state():
        meters = operator.execute_command("DORMOUSE", "USAGE")["meters"]
        return operator.info("dormouse")["awake"], int(meters["wakes"])

    until(lambda: state()[0] == 0)
    seconds = float(os.environ["DORMOUSE_TEST_QUIET_SECONDS"])
    before, start, awake = state()[1], time.monotonic(), 0.0
    wakes_max = wakes_a_minute * math.ceil(seconds / 60)
    while (now := time.monotonic()) < start + seconds:
        is_awake, wakes = state()
        assert wakes - before <= wakes_max, f"it woke up {wakes - before} times in {now - start:.0f} s"
        assert not is_awake or wakes_max > 0, "it is awake"
        time.sleep(0.05)
        awake += is_awake * (time.monotonic() - now)
    print(f"asleep for {seconds - awake:.0f} of {seconds:.0f} s, {wakes - before} wakes", flush=True)
    # Until their habits are known, it falls asleep when it has been idle for a second, and the keeper looks once a second.
    assert awake <= wakes - before + LEARNING, f"it was awake for {awake:.0f} s"


def until(condition):
    """Waits until `condition` is true, and returns its value."""
    deadline = time.monotonic() + LIMIT
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still not so after {LIMIT} s"
        time.sleep(0.005)
    return value


@contextlib.contextmanager
def program(*command):
    """A program that runs beside the steps. Its output is shown with the test's."""
    process = subprocess.Popen(
        command, cwd=os.path.dirname(__file__), stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(*steps, flush=True):
    """Calls each of `steps`, on an empty database unless `flush` is false."""
    failed = 0
    for step in steps:
        if flush:
            operator.flushall()
        start = time.monotonic()
        try:
            step()
            print(f"ok {step.__name__} ({(time.monotonic() - start) * 1000:.0f} ms)", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {step.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(steps) - failed} passed, {failed} failed", flush=True)
    return failed
