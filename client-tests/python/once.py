"""examples/exactly_once.py over a wire that loses replies."""

import os
import random
import socket
import sys
import threading

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

sys.path.insert(0, os.environ["DORMOUSE_TEST_EXAMPLES"])
from exactly_once import ExactlyOnce  # noqa: E402

PORT = int(os.environ["DORMOUSE_TEST_PORT"])


class LosingWire:
    """Passes every request on. Loses some replies, and the connection with each of them."""

    def __init__(self, lost_percent, seed):
        self.lost_percent, self.random, self.lost = lost_percent, random.Random(seed), 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", PORT))
            threading.Thread(target=self.pass_requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self.pass_replies, args=(client, server), daemon=True).start()

    def pass_requests(self, client, server):
        try:
            while read := client.recv(65536):
                server.sendall(read)
        except OSError:
            pass
        finally:
            end(server)

    def pass_replies(self, client, server):
        try:
            while read := server.recv(65536):
                # A handshake is not a request of the application.
                if b"redis_version" not in read and read != b"+OK\r\n" and self.random.randrange(100) < self.lost_percent:
                    self.lost += 1
                    break
                client.sendall(read)
        except OSError:
            pass
        finally:
            end(client)
            end(server)


def end(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def count(make_client, wire, calls):
    client = make_client(
        port=wire.port,
        retry=Retry(NoBackoff(), 50),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
        decode_responses=True,
    )
    client.delete("balance", "entries")
    answers = []
    for call in range(calls):
        answers.append(client.incrby("balance", 7))
        client.rpush("entries", f"entry {call}")
    return answers, int(client.get("balance")), client.lrange("entries", 0, -1)


passed = 0


def check(what, holds):
    global passed
    if not holds:
        print(f"failed: {what}")
        print(f"{passed} passed, 1 failed")
        sys.exit(1)
    passed += 1


wire = LosingWire(30, seed=1)
answers, balance, entries = count(ExactlyOnce, wire, 100)
check("replies were lost", wire.lost > 20)
check("every increment counts once", balance == 700)
check("every answer is the first one", answers == [7 * (call + 1) for call in range(100)])
check("every entry is there once, in order", entries == [f"entry {call}" for call in range(100)])
# The wire is as bad as it seems: without keys, commands are applied again.
plain = LosingWire(30, seed=1)
_, balance, entries = count(redis.Redis, plain, 100)
check("a plain client counts too much", balance > 700 and len(entries) > 100)
# Replies have the types that the client gives them.
client = ExactlyOnce(port=PORT, decode_responses=True)
check("a reply is parsed as the command's own", client.set("key", "value") is True and client.getdel("key") == "value")
check("a command that reads carries no key", client.get("key") is None)
print(f"{passed} passed, 0 failed")
