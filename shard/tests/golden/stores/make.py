#!/usr/bin/env python3
"""Makes a golden store with the binary of a release: make.py BINARY VERSION

It writes VERSION.tar.gz: the folder `store`, as a kill -9 leaves it, and `expected.txt`, what the databases in it hold as
that binary itself answers, one key a line. It is run once for each release, by that release's own binary, and never
again: the file is what later versions are held to.
"""

import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
# 2100-01-01, so that nothing expires while the file is in use.
LATER_MS = 4102444800000


class Client:
    def __init__(self, port, database):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.reader = self.socket.makefile("rb")
        self("AUTH", f"dm_{database}_x")

    def __call__(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(words)] + [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.socket.sendall(b"".join(parts))
        return self.reply()

    def reply(self):
        line = self.reader.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self.reader.read(length + 2)[:-2]
        return [self.reply() for _ in range(int(rest))]


def fill(run):
    run("SET", "int", -9000000000000000001)
    run("SET", "text", "hello world")
    run("SET", "empty", "")
    run("SET", "binary", bytes(range(256)))
    run("SET", "long", "dormouse " * 3000)
    run("SET", "expires", "soon", "PXAT", LATER_MS + 1)
    for count in (3, 300):
        for at in range(count):
            run("RPUSH", f"list:{count}", f"element {at}", at)
            run("HSET", f"hash:{count}", f"field {at}", f"value {at}")
            run("SADD", f"set:{count}", f"member {at}")
            run("SADD", f"intset:{count}", at * 1000 - 5)
            run("ZADD", f"zset:{count}", at / 8 - 1, f"member {at}")
    for kind in ("list", "hash", "set", "zset"):
        run("PEXPIREAT", f"{kind}:3", LATER_MS + 2)
    for at in range(500):
        run("SET", f"many:{at}", f"value {at}")


def make(binary, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--http-port", "0", "--store", f"file://{folder}", "--loss-window", "0"]
    quiet = ["--checkpoint-every", "never", "--sleep-after", "never", "--workers", "1"]
    tokens = dict(os.environ, DORMOUSE_TOKEN="dm_default_x dm_unsaved_x")
    server = subprocess.Popen([binary, *options, *quiet], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=tokens)
    try:
        server.stdout.readline()
        run = Client(port, "default")
        fill(run)
        for index in (1, 2, 3, 5):
            run("SELECT", index)
            run("SET", "index", index)
        run("FLUSHDB")
        run("SET", "after the flush", 1)
        run("SWAPDB", 2, 3)
        run("SELECT", 0)
        run("DORMOUSE", "CHECKPOINT")
        # Changes of a few keys make tails.
        for turn in range(3):
            run("SET", "text", f"tail {turn}")
            run("HSET", "hash:300", "field 1", f"tail {turn}")
            run("DEL", f"many:{turn}")
            run("DORMOUSE", "CHECKPOINT")
        run("DORMOUSE", "BRANCH", "branch")
        branch = Client(port, "branch")
        branch("SET", "only in the branch", 1)
        branch("DEL", "list:300")
        branch("DORMOUSE", "CHECKPOINT")
        # What follows is in the log only.
        for to, name in ((run, "default"), (branch, "branch")):
            to("SET", "log", name)
            to("INCRBYFLOAT", "float", "1.25")
            to("LPUSH", "list:3", "log")
            to("ZADD", "zset:300", "INCR", 100, "member 5")
            to("PEXPIREAT", "many:100", LATER_MS + 3)
            to("SPOP", "intset:300", 5)
            to("RENAME", "many:200", "renamed")
            to("SELECT", 7)
            to("SET", "in another index", name)
            to("SELECT", 0)
        Client(port, "unsaved")("SET", "a", 1)
        lines = []
        for name in ("default", "branch", "unsaved"):
            lines += shown(Client(port, name), name)
        return lines
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


def shown(run, name):
    lines = []
    for index in range(16):
        run("SELECT", index)
        for key in sorted(run("KEYS", "*")):
            kind = run("TYPE", key).decode()
            if kind == "string":
                elements = [run("GET", key)]
            elif kind == "list":
                elements = run("LRANGE", key, 0, -1)
            elif kind == "set":
                elements = sorted(run("SMEMBERS", key))
            elif kind == "hash":
                flat = run("HGETALL", key)
                elements = sorted(field + b"=" + value for field, value in zip(flat[::2], flat[1::2]))
            else:
                flat = run("ZRANGE", key, 0, -1, "WITHSCORES")
                elements = sorted(member + b"=" + score for member, score in zip(flat[::2], flat[1::2]))
            expiry = run("PEXPIRETIME", key)
            fields = [name.encode(), b"%d" % index, key, kind.encode(), b"%d" % expiry, *elements]
            lines.append("\t".join(escaped(field) for field in fields))
    return lines


def escaped(text):
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in text)


def main():
    binary, version = sys.argv[1:]
    archive = os.path.join(HERE, version + ".tar.gz")
    if os.path.exists(archive):
        sys.exit(f"{version} is there already: golden files are never made again")
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        lines = make(os.path.abspath(binary), store)
        text = os.path.join(folder, "expected.txt")
        with open(text, "w", encoding="ascii") as out:
            out.write("\n".join(lines) + "\n")
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(store, "store")
            tar.add(text, "expected.txt")


main()
