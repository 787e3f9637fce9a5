#!/usr/bin/env bash
# redis-info 3.1.0 (npm), which parses INFO: with Redis 8.10.2 every database seems to be empty.
#
# Expected: `databases[0].keys` is 3 (section Keyspace: `db0:keys=3,expires=0,avg_ttl=0,subexpiry=0`), as with earlier servers.
# Seen: 0. INFO of Redis 8.10.2 goes on with a section Keysizes, without being asked for it, whose fields also begin with `db0`
# (`db0_distrib_strings_sizes:1=1,8=1`). The parser takes them for the database, and the last one wins.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund redis-info@3.1.0
cat >run.js <<'JAVASCRIPT'
const { parse } = require('redis-info')

const keyspace = ['# Keyspace', 'db0:keys=3,expires=0,avg_ttl=0,subexpiry=0']
const keysizes = ['', '# Keysizes', 'db0_distrib_strings_sizes:1=1,8=1', 'db0_distrib_hashes_items:1=1']
const keys = lines => parse(lines.join('\r\n') + '\r\n').databases[0].keys
const [before, now] = [keys(keyspace), keys([...keyspace, ...keysizes])]
console.log(`keys of database 0: ${before} without the section Keysizes, ${now} with it`)
process.exit(before === 3 && now === 0 ? 0 : 1)
JAVASCRIPT
node run.js
