#!/usr/bin/env bash
# credish 0.1.0 (PyPI), an embedded cache with a redis-py interface: keys set with an expiry never expire once the cache has been
# opened again, unless it is saved by snapshots alone.
#
# Expected: the expiry is stored with the key in each mode of persistence, "aof" and the default "hybrid" included, and a key
# whose time has come while the cache was closed is gone.
# Seen: with "rdb" both hold. With "aof" and "hybrid" the log has the SET without its expiry, and on opening the log wins over the
# snapshot: a key with 100 s left has none, and a key that had expired is back for good.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'credish==0.1.0'
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os, sys, time
from credish import CredishClient

seen = {}
for mode in ("rdb", "aof", "hybrid"):
    folder = os.path.join(sys.argv[1], mode)
    os.mkdir(folder)
    client = CredishClient(data_dir=folder, persistence=mode)
    client.set("long", "v", ex=100)
    client.set("short", "v", px=100)
    client.close()
    time.sleep(0.5)
    client = CredishClient(data_dir=folder, persistence=mode)
    seen[mode] = client.ttl("long") > 0, client.get("short")
    client.close()
print("mode: (the long one still expires, value of the expired one):", seen)
sys.exit(seen != {"rdb": (True, None), "aof": (False, b"v"), "hybrid": (False, b"v")})
PYTHON
