#!/usr/bin/env bash
# throttled-py 3.5.0 (PyPI), rate limits in memory or in Redis: with the algorithm fixed_window a refused request uses up what is
# left of the window.
#
# Expected: of 60 a minute, after 10 and a refused request for 100, a request for 1 passes, as with the package's other four
# algorithms: sliding_window, leaking_bucket, token_bucket, gcra.
# Seen: it is refused, and peek() shows 0 of 50 left. The store in Redis behaves alike.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'throttled-py==3.5.0'
"$folder/venv/bin/python" - <<'PYTHON'
import sys, time
from throttled import RateLimiterType, Throttled, rate_limiter, store

# A window must not end meanwhile.
if time.time() % 60 > 50:
    time.sleep(10)
seen = {}
for algorithm in RateLimiterType:
    limit = Throttled(using=algorithm.value, quota=rate_limiter.per_min(60, burst=60), store=store.MemoryStore()).limit
    seen[algorithm.value] = [not limit("user", cost=cost).limited for cost in (10, 100, 1)]
for name, passed in seen.items():
    print(f"{name}: 10, 100, 1 of 60 pass: {passed}")
fixed = seen.pop("fixed_window")
sys.exit(fixed != [True, False, False] or any(passed != [True, False, True] for passed in seen.values()))
PYTHON
