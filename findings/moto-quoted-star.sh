#!/usr/bin/env bash
# moto 5.2.5 (PyPI, moto[server]): PUT with `If-None-Match: "*"`, quoted, overwrites an existing object; unquoted it refuses.
#
# Expected: 412 for both spellings, as versitygw, rclone and S3Mock answer, or 400 for the quoted one.
# Seen: `*` is answered 412, `"*"` 200, and the object then holds the second body. The quoted star is taken for the ETag of
# some object, which the existing one does not have.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'moto[server]==5.2.5'
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/venv/bin/moto_server" -H 127.0.0.1 -p "$port" >"$folder/log" 2>&1 &
server=$!
"$folder/venv/bin/python" - "$port" <<'PYTHON'
import http.client, sys, time

port = int(sys.argv[1])

def ask(method, path, body=b"", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"}
    connection.request(method, path, body, {**signed, **headers})
    reply = connection.getresponse()
    return reply.status, reply.read()

for _ in range(600):
    try:
        ask("GET", "/")
        break
    except OSError:
        time.sleep(0.1)
ask("PUT", "/bucket")
assert ask("PUT", "/bucket/key", b"first")[0] == 200
plain = ask("PUT", "/bucket/key", b"second", **{"If-None-Match": "*"})[0]
quoted = ask("PUT", "/bucket/key", b"third", **{"If-None-Match": '"*"'})[0]
body = ask("GET", "/bucket/key")[1]
print(f"If-None-Match: * -> {plain}; \"*\" -> {quoted}; the object holds {body!r}")
sys.exit((plain, quoted, body) != (412, 200, b"third"))
PYTHON
