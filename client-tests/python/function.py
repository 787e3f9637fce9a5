"""The function of examples/lambda, with a sidecar where it connects."""

import functools
import importlib.util
import os

import redis

# On Lambda the sidecar listens on the port that redis-py takes by default.
redis.Redis = functools.partial(redis.Redis, port=int(os.environ["DORMOUSE_TEST_PORT"]))
path = os.path.join(os.environ["DORMOUSE_TEST_EXAMPLES"], "lambda/function.py")
spec = importlib.util.spec_from_file_location("example", path)
function = importlib.util.module_from_spec(spec)
spec.loader.exec_module(function)

answers = [function.handler({}, None) for _ in range(3)]
if answers != [{"calls": 1}, {"calls": 2}, {"calls": 3}]:
    print(f"the function has answered {answers}\n0 passed, 1 failed")
    raise SystemExit(1)
print("1 passed, 0 failed")
