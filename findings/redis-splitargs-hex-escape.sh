#!/usr/bin/env bash
# redis-splitargs 1.0.2 (npm), which splits arguments as redis-cli does: hexadecimal escapes lose their backslash.
#
# Expected: "\x41" in double quotes is the byte 0x41, as redis-cli reads it and as MONITOR, SLOWLOG and redis-cli write it.
# Seen: the argument is the three characters x41, so a line copied from MONITOR sets another value; "\n" and "\t" are read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" redis-splitargs@1.0.2 >/dev/null
cat >run.cjs <<'NODE'
const split = require("redis-splitargs");
const seen = JSON.stringify(split(String.raw`set key "\x41\x42" "\n"`));
console.log(String.raw`set key "\x41\x42" "\n" is split into`, seen);
process.exit(seen === '["set","key","x41x42","\\n"]' ? 0 : 1);
NODE
node run.cjs
