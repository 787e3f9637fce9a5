#!/usr/bin/env bash
# jedis-mock 1.1.18 (Maven com.github.fppt:jedis-mock): EXEC stops at the first command that fails, keeps what was written before
# it, and answers nil, which is the reply of a transaction that a watched key has aborted.
#
# Expected: every queued command runs, whether another fails or not, and EXEC answers an array of their replies, errors among them
# (Redis documentation, Transactions). A client that gets nil runs its transaction again.
# Seen: of SET a, LPUSH on a string, SET b the first has been done and the last has not; EXEC answers nil.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
cd "$folder"
cat >pom.xml <<'XML'
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
  <groupId>finding</groupId><artifactId>finding</artifactId><version>1</version>
  <dependencies><dependency><groupId>com.github.fppt</groupId><artifactId>jedis-mock</artifactId>
    <version>1.1.18</version></dependency></dependencies>
</project>
XML
mvn --quiet --batch-mode dependency:copy-dependencies -DoutputDirectory=libraries >/dev/null
cat >Serve.java <<'JAVA'
public class Serve {
    public static void main(String[] arguments) throws Exception {
        com.github.fppt.jedismock.RedisServer.newRedisServer(Integer.parseInt(arguments[0])).start();
        Thread.sleep(600_000);
    }
}
JAVA
javac -cp 'libraries/*' Serve.java
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
java -cp 'libraries/*:.' Serve "$port" >log 2>&1 &
server=$!
python3 - "$port" <<'PYTHON'
import socket, sys, time

for _ in range(300):
    try:
        stream = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
        break
    except OSError:
        time.sleep(0.1)
file = stream.makefile("rb")

def reply():
    line = file.readline().rstrip(b"\r\n")
    if line[:1] == b"*":
        return None if int(line[1:]) < 0 else [reply() for _ in range(int(line[1:]))]
    if line[:1] == b"$":
        return None if int(line[1:]) < 0 else file.read(int(line[1:]) + 2)[:-2]
    return line

def ask(*words):
    stream.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words))
    return reply()

ask("SET", "text", "x")
ask("MULTI")
for command in (("SET", "a", "1"), ("LPUSH", "text", "y"), ("SET", "b", "2")):
    assert ask(*command) == b"+QUEUED"
answer = ask("EXEC")
values = ask("MGET", "a", "b")
print("EXEC answers", answer, "and MGET a b", values)
sys.exit((answer, values) != (None, [b"1", None]))
PYTHON
