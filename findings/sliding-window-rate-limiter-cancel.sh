#!/usr/bin/env bash
# sliding-window-rate-limiter 6.0.1 (npm), memory backend: cancelling one reservation cancels every reservation of its millisecond.
#
# Expected: one token, one reservation, as the README has it for `cancel`, and as in the Redis backend.
# Seen: tokens are times in milliseconds. Reservations made in one millisecond share theirs, and the first cancel frees them all,
# those of other callers too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" sliding-window-rate-limiter@6.0.1 >/dev/null
cat >run.cjs <<'NODE'
const { SlidingWindowRateLimiter } = require("sliding-window-rate-limiter");
(async () => {
  const limiter = SlidingWindowRateLimiter.createLimiter({ interval: 60000 });
  const tokens = [];
  for (let i = 0; i < 200; i++) tokens.push((await limiter.reserve("key", 1000)).token);
  const count = (wanted) => tokens.filter((token) => token === wanted).length;
  const shared = tokens.find((token) => count(token) > 1);
  const sharing = count(shared);
  const { canceled } = await limiter.cancel("key", shared);
  const { usage } = await limiter.check("key", 1000);
  limiter.destroy();
  console.log(`200 reservations, ${new Set(tokens).size} tokens; cancel of one cancels ${canceled}, ${usage} are left`);
  process.exit(sharing > 1 && canceled === sharing && usage === 200 - sharing ? 0 : 1);
})();
NODE
node run.cjs
