#!/usr/bin/env bash
# gofakes3 1.2.0 and rclone 1.76.0 (`rclone serve s3`), which uses a fork of it: a suffix range that is longer than the object is
# refused.
#
# Expected: 206 with the whole object: "If the selected representation is shorter than the specified suffix-length, the entire
# representation is used" (RFC 9110, 14.1.2), as S3 and most of its like answer.
# Seen: `Range: bytes=-100` on an object of 20 bytes is answered 416 by both; `bytes=-16` is answered 206. gofakes3 is shown, since
# rclone takes minutes to build.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
GOBIN="$folder" go install github.com/johannesboyne/gofakes3/cmd/gofakes3@v1.2.0
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/gofakes3" -backend mem -initialbucket bucket -host "127.0.0.1:$port" >"$folder/log" 2>&1 &
server=$!
python3 - "$port" <<'PYTHON'
import http.client, sys, time

port = int(sys.argv[1])

def ask(method, path, body=b"", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    return reply.status, reply.read()

for _ in range(600):
    try:
        ask("GET", "/")
        break
    except OSError:
        time.sleep(0.1)
assert ask("PUT", "/bucket/key", b"x" * 20)[0] == 200
seen = {suffix: ask("GET", "/bucket/key", Range=f"bytes=-{suffix}")[0] for suffix in (16, 20, 100)}
print("status by length of the suffix:", seen)
sys.exit(seen != {16: 206, 20: 206, 100: 416})
PYTHON
