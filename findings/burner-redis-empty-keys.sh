#!/usr/bin/env bash
# burner-redis 0.1.7 (PyPI), an embedded stand-in for redis.asyncio: a hash, set or sorted set still exists once its last element
# is removed.
#
# Expected: the key is gone with its last element (Redis documentation, automatic creation and removal of keys), as a list's is
# in burner-redis too.
# Seen: EXISTS counts the emptied hash, set and sorted set, and SET NX of their names is refused.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'burner-redis==0.1.7'
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio, sys
from burner_redis import BurnerRedis

async def main():
    db = BurnerRedis()
    await db.hset("hash", "f", "v")
    await db.hdel("hash", "f")
    await db.sadd("set", "m")
    await db.srem("set", "m")
    await db.zadd("sorted", {"m": 1})
    await db.zrem("sorted", "m")
    await db.rpush("list", "x")
    await db.lpop("list")
    names = ["hash", "set", "sorted", "list"]
    exists = [await db.exists(name) for name in names]
    lock = [await db.set(name, "owner", nx=True) for name in names]
    print(f"of {names}: EXISTS {exists}, SET NX {lock}")
    return (exists, lock) != ([1, 1, 1, 0], [None, None, None, True])

sys.exit(asyncio.run(main()))
PYTHON
