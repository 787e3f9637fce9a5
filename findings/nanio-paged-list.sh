#!/usr/bin/env bash
# nanio 0.1.7 (PyPI): a list of objects that needs more than one page leaves keys out and reports others twice.
#
# Expected: the pages together hold each key once, as S3 documents ListObjectsV2, whose pagination the README claims.
# Seen: of the keys a-b, a.c, a/1, b/1 and z, pages of one hold a/1, b/1 and z. Folders are walked before the names that sort
# ahead of them, and the next page then begins after the last key of that walk. With pages of the default size the same happens
# from 1,000 objects on.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'nanio==0.1.7' 'boto3==1.44.8'
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export AWS_ACCESS_KEY_ID=example AWS_SECRET_ACCESS_KEY=examplesecret AWS_DEFAULT_REGION=us-east-1
NANIO_ACCESS_KEY=example NANIO_SECRET_KEY=examplesecret "$folder/venv/bin/nanio" serve --data-dir "$folder/data" \
    --host 127.0.0.1 --port "$port" >"$folder/log" 2>&1 &
server=$!
"$folder/venv/bin/python" - "$port" <<'PYTHON'
import sys, time
import boto3
from botocore.exceptions import ConnectionError

client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{sys.argv[1]}")
for _ in range(300):
    try:
        client.create_bucket(Bucket="bucket")
        break
    except ConnectionError:
        time.sleep(0.1)
keys = ["a-b", "a.c", "a/1", "b/1", "z"]
for key in keys:
    client.put_object(Bucket="bucket", Key=key, Body=b"x")

def listed(size):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket", PaginationConfig={"PageSize": size})
    return [item["Key"] for page in pages for item in page.get("Contents", [])]

seen = {size: listed(size) for size in (1000, 2, 1)}
print("keys by size of a page:", seen)
sys.exit(seen != {1000: keys, 2: ["a-b", "a/1", "a.c", "a/1", "a/1", "b/1", "z"], 1: ["a/1", "b/1", "z"]})
PYTHON
