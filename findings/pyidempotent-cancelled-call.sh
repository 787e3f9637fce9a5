#!/usr/bin/env bash
# pyidempotent 0.1.0 (PyPI): a call that is cancelled, by a timeout or a client that has gone, blocks its idempotency key until the
# key expires, 24 hours later by default.
#
# Expected: a failed call releases its key so that the client can try again, as one does that ends with an error. A timeout is what
# makes a client try again in the first place.
# Seen: after an error the second try runs. After a cancellation the second try waits for wait_timeout and is refused as still being
# processed, though nothing runs; so is each one after it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'pyidempotent==0.1.0'
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio, sys
from pyidempotent import IdempotencyProcessing, idempotent
from pyidempotent.backends.memory import MemoryBackend

class Request:
    method = "POST"

    def __init__(self, key):
        self.headers = {"Idempotency-Key": key}

runs = []

@idempotent(backend=MemoryBackend(), wait_timeout=0.2)
async def pay(request, amount):
    runs.append(request.headers["Idempotency-Key"])
    if runs == ["error"]:
        raise ValueError
    if runs[1:] == ["error", "cancelled"]:
        await asyncio.sleep(60)
    return amount

async def outcome(key):
    try:
        return await asyncio.wait_for(pay(Request(key), 5), timeout=2)
    except (ValueError, asyncio.TimeoutError, IdempotencyProcessing) as error:
        return type(error).__name__

async def main():
    seen = {key: [await outcome(key) for _ in range(3)] for key in ("error", "cancelled")}
    print("outcomes of three tries with one key:", seen)
    return seen != {"error": ["ValueError", 5, 5], "cancelled": ["TimeoutError", "IdempotencyProcessing", "IdempotencyProcessing"]}

sys.exit(asyncio.run(main()))
PYTHON
