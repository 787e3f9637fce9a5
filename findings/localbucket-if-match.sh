#!/usr/bin/env bash
# localbucket 1.2.1 (PyPI) ignores If-Match: a PUT, GET or DELETE with an ETag that does not match is carried out, though a PUT with
# `If-None-Match: *` is refused.
#
# Expected: 412, as S3 documents for all three, or the 501 that localbucket answers to what it does not support. A client that
# replaces a pointer by its ETag otherwise overwrites another client's update without knowing.
# Seen: create-only PUT of an existing object 412; with the ETag of an older version PUT 200, GET 200, DELETE 204. CopyObject with
# x-amz-copy-source-if-match is answered 412.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'localbucket==1.2.1'
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/venv/bin/localbucket" "$folder/data" --port "$port" >"$folder/log" 2>&1 &
server=$!
python3 - "$port" <<'PYTHON'
import http.client, sys, time

def ask(method, path, body=b"", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    reply.read()
    return reply

for _ in range(300):
    try:
        ask("PUT", "/bucket")
        break
    except OSError:
        time.sleep(0.1)
old = ask("PUT", "/bucket/pointer", b"one").getheader("ETag")
assert ask("PUT", "/bucket/pointer", b"two").getheader("ETag") != old
seen = {
    "PUT If-None-Match": ask("PUT", "/bucket/pointer", b"three", If_None_Match="*").status,
    "PUT": ask("PUT", "/bucket/pointer", b"three", If_Match=old).status,
    "GET": ask("GET", "/bucket/pointer", If_Match=old).status,
    "CopyObject": ask("PUT", "/bucket/copy", x_amz_copy_source="/bucket/pointer", x_amz_copy_source_if_match=old).status,
    "DELETE": ask("DELETE", "/bucket/pointer", If_Match=old).status,
}
print("with the ETag of an older version:", seen)
sys.exit(seen != {"PUT If-None-Match": 412, "PUT": 200, "GET": 200, "CopyObject": 412, "DELETE": 204})
PYTHON
