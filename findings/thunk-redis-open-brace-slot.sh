#!/usr/bin/env bash
# thunk-redis 2.2.4 (npm): a key with an opening brace and no closing one gets the wrong cluster slot.
#
# Expected: the whole key is hashed unless it has a { and a } to the right of it (Redis cluster specification, hash tags).
# Seen: what follows the brace is taken for a tag: the slot of "{user" is that of "user". Complete and empty tags are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" thunk-redis@2.2.4 >/dev/null
cat >run.cjs <<'NODE'
const slot = require("thunk-redis/lib/slot.js");
const crc16 = (text) => {
  let crc = 0;
  for (const byte of Buffer.from(text)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = ((crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
  }
  return crc % 16384;
};
const tag = (key) => /^[^{]*\{([^}]+)\}/.exec(key)?.[1] ?? key;
const keys = ["user", "{user}:1", "a{user}b{c}", "{}user", "user{}{c}", "{user", "a{user", "user{"];
const wrong = keys.filter((key) => slot(key) !== crc16(tag(key)));
console.log("wrong slots:", wrong, "slot of {user:", slot("{user"), "by the specification:", crc16("{user"));
process.exit(wrong.join() === "{user,a{user" && slot("{user") === slot("user") ? 0 : 1);
NODE
node run.cjs
