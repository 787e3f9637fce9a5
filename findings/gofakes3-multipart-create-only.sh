#!/usr/bin/env bash
# gofakes3 1.2.0 (Go module github.com/johannesboyne/gofakes3): CompleteMultipartUpload with `If-None-Match: *` overwrites an
# existing object; a PUT with the same header is refused.
#
# Expected: 412 for both, as S3 documents for conditional writes, and as moto, versitygw, rclone and S3Mock answer.
# Seen: the PUT is answered 412, the completion of the multipart upload 200, and the object then holds the uploaded part.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
GOBIN="$folder" go install github.com/johannesboyne/gofakes3/cmd/gofakes3@v1.2.0
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/gofakes3" -backend mem -initialbucket bucket -host "127.0.0.1:$port" >"$folder/log" 2>&1 &
server=$!
python3 - "$port" <<'PYTHON'
import http.client, re, sys, time

port = int(sys.argv[1])

def ask(method, path, body=b"", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    return reply.status, reply.read(), reply.headers

for _ in range(600):
    try:
        ask("GET", "/")
        break
    except OSError:
        time.sleep(0.1)
assert ask("PUT", "/bucket/key", b"first")[0] == 200
create_only = {"If-None-Match": "*"}
put = ask("PUT", "/bucket/key", b"second", **create_only)[0]
upload = re.search(rb"<UploadId>(.*?)</UploadId>", ask("POST", "/bucket/key?uploads")[1]).group(1).decode()
part = ask("PUT", f"/bucket/key?partNumber=1&uploadId={upload}", b"third")[2]["ETag"]
parts = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{part}</ETag></Part></CompleteMultipartUpload>"
complete = ask("POST", f"/bucket/key?uploadId={upload}", parts.encode(), **create_only)[0]
body = ask("GET", "/bucket/key")[1]
print(f"PUT -> {put}, CompleteMultipartUpload -> {complete}; the object holds {body!r}")
sys.exit((put, complete, body) != (412, 200, b"third"))
PYTHON
