#!/usr/bin/env bash
# burner-redis 0.1.7 (PyPI), an embedded stand-in for redis.asyncio: XAUTOCLAIM reports a deleted entry as removed from the pending
# entries and keeps it there.
#
# Expected: an ID in the third element of the reply is no longer pending (documentation of XAUTOCLAIM), so each is reported once.
# Seen: each call reports the deleted entry again; it stays pending and its delivery count rises.
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
    await db.xadd("jobs", {"task": "a"}, id="1-1")
    await db.xgroup_create("jobs", "workers", "0")
    await db.xreadgroup("workers", "one", {"jobs": ">"})
    await db.xdel("jobs", "1-1")
    seen = []
    for _ in range(3):
        _, claimed, removed = await db.xautoclaim("jobs", "workers", "two", 0)
        pending = await db.xpending_range("jobs", "workers", "-", "+", 10)
        seen.append((claimed, removed, [(entry[b"message_id"], entry[b"times_delivered"]) for entry in pending]))
    print("claimed, reported as removed, pending with its delivery count:", *seen, sep="\n")
    return seen != [([], [b"1-1"], [(b"1-1", count)]) for count in (2, 3, 4)]

sys.exit(asyncio.run(main()))
PYTHON
