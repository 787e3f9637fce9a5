#!/usr/bin/env python3
"""Makes a golden store with the binary of a release: make.py BINARY VERSION

It writes VERSION.tar.gz: the folder `store`, as a kill -9 leaves it, and `expected.txt`, what the databases in it hold as
that binary itself answers, one key a line. It is run once for each release, by that release's own binary, and never
again: the file is what later versions are held to. Versions before 0.2.0 have neither streams, scripts nor users.
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
        owner = database.split(".")[0]
        # A branch is entered with the token of its owner.
        self("AUTH", *([database] if owner != database else []), f"dm_{owner}_x")

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


LIBRARY = "#!lua name=golden\nredis.register_function('golden', function() return 'golden' end)"


def fill_newer(run):
    for at in range(1, 301):
        run("XADD", "stream:300", f"{at}-{at % 3}", "field", f"value {at}", f"field {at}", at)
    for at in range(1, 6):
        run("XADD", "stream:5", f"{LATER_MS}-{at}", "field", f"value {at}")
    run("XTRIM", "stream:300", "MAXLEN", "=", 280)
    run("XDEL", "stream:300", "150-0", "299-2")
    run("XGROUP", "CREATE", "stream:300", "early", 0)
    run("XGROUP", "CREATE", "stream:300", "late", "$")
    run("XGROUP", "CREATECONSUMER", "stream:300", "late", "idle")
    run("XREADGROUP", "GROUP", "early", "first", "COUNT", 40, "STREAMS", "stream:300", ">")
    run("XREADGROUP", "GROUP", "early", "second", "COUNT", 4, "STREAMS", "stream:300", ">")
    run("XACK", "stream:300", "early", "21-0", "22-1")
    run("XGROUP", "CREATE", "stream:empty", "only", "7-7", "MKSTREAM")
    for count in (3, 700):
        for at in range(count):
            run("HSETEX", f"fields:{count}", "PXAT", LATER_MS + at, "FIELDS", 1, f"field {at}", f"value {at}")
            run("HSET", f"fields:{count}", f"kept {at}", at)
    run("EVAL", "for at = 1, 20 do redis.call('SADD', KEYS[1], 'member ' .. at) end", 1, "scripted")
    run("FUNCTION", "LOAD", LIBRARY)
    run("ACL", "SETUSER", "golden", "on", ">golden", "~golden:*", "+@read")


def change_newer(run, turn):
    run("XADD", "stream:300", f"{1000 + turn}-0", "turn", turn)
    run("XREADGROUP", "GROUP", "early", "second", "COUNT", 1, "STREAMS", "stream:300", ">")
    run("HSETEX", "fields:700", "PXAT", LATER_MS + 9000 + turn, "FIELDS", 1, "field 5", f"turn {turn}")
    run("EVAL", "for _, key in ipairs(KEYS) do redis.call('INCRBY', key, ARGV[1]) end", 2, "one", "other", turn)


def make(binary, folder, newer):
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
        if newer:
            fill_newer(run)
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
            if newer:
                change_newer(run, turn)
            run("DORMOUSE", "CHECKPOINT")
        run("DORMOUSE", "BRANCH", "branch")
        # Since 0.2.0 the name of a branch begins with that of its owner.
        name_of_branch = "default.branch" if newer else "branch"
        branch = Client(port, name_of_branch)
        branch("SET", "only in the branch", 1)
        branch("DEL", "list:300")
        branch("DORMOUSE", "CHECKPOINT")
        # What follows is in the log only.
        for to, name in ((run, "default"), (branch, name_of_branch)):
            to("SET", "log", name)
            to("INCRBYFLOAT", "float", "1.25")
            to("LPUSH", "list:3", "log")
            to("ZADD", "zset:300", "INCR", 100, "member 5")
            to("PEXPIREAT", "many:100", LATER_MS + 3)
            to("SPOP", "intset:300", 5)
            to("RENAME", "many:200", "renamed")
            if newer:
                change_newer(to, 7)
                to("XTRIM", "stream:5", "MINID", "=", f"{LATER_MS}-3")
                to("HPERSIST", "fields:3", "FIELDS", 1, "field 2")
                to("XCLAIM", "stream:300", "early", "third", 0, "30-0", "31-1", "JUSTID")
            to("SELECT", 7)
            to("SET", "in another index", name)
            to("SELECT", 0)
        Client(port, "unsaved")("SET", "a", 1)
        lines = []
        for name in ("default", name_of_branch, "unsaved"):
            lines += shown(Client(port, name), name)
            if newer:
                lines += settings(Client(port, name), name)
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
            elif kind == "stream":
                elements = stream(run, key)
            elif kind == "list":
                elements = run("LRANGE", key, 0, -1)
            elif kind == "set":
                elements = sorted(run("SMEMBERS", key))
            elif kind == "hash":
                flat = run("HGETALL", key)
                expiries = [-1] * (len(flat) // 2)
                if key.startswith(b"fields:"):
                    expiries = run("HPEXPIRETIME", key, "FIELDS", len(expiries), *flat[::2])
                after = [b"" if expiry < 0 else b"@%d" % expiry for expiry in expiries]
                elements = sorted(map(b"%s=%s%s".__mod__, zip(flat[::2], flat[1::2], after)))
            else:
                flat = run("ZRANGE", key, 0, -1, "WITHSCORES")
                elements = sorted(member + b"=" + score for member, score in zip(flat[::2], flat[1::2]))
            expiry = run("PEXPIRETIME", key)
            fields = [name.encode(), b"%d" % index, key, kind.encode(), b"%d" % expiry, *elements]
            lines.append("\t".join(escaped(field) for field in fields))
    return lines


def stream(run, key):
    info = run("XINFO", "STREAM", key, "FULL", "COUNT", 0)
    info = dict(zip(info[::2], info[1::2]))
    head = [info[name] for name in (b"last-generated-id", b"max-deleted-entry-id")]
    elements = [b"head %s %s %d" % (*head, info[b"entries-added"])]
    for at, fields in info[b"entries"]:
        elements.append(at + b" " + b",".join(map(b"%s=%s".__mod__, zip(fields[::2], fields[1::2]))))
    for group in info[b"groups"]:
        group = dict(zip(group[::2], group[1::2]))
        elements.append(b"group %s %s" % (group[b"name"], group[b"last-delivered-id"]))
        for consumer in group[b"consumers"]:
            consumer = dict(zip(consumer[::2], consumer[1::2]))
            pending = [b" %s/%d" % (at, count) for at, _, count in consumer[b"pending"]]
            elements.append(b"consumer " + consumer[b"name"] + b"".join(pending))
    return sorted(elements)


def settings(run, name):
    libraries = run("FUNCTION", "LIST", "WITHCODE")
    found = [(b"library", dict(zip(one[::2], one[1::2]))[b"library_code"]) for one in libraries]
    found += [(b"user", user) for user in run("ACL", "LIST") if b"golden" in user]
    # They stand where an index after the last one would.
    lines = [[name.encode(), b"16", key, text] for key, text in found]
    return ["\t".join(escaped(field) for field in line) for line in lines]


def escaped(text):
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in text)


def main():
    binary, version = sys.argv[1:]
    archive = os.path.join(HERE, version + ".tar.gz")
    if os.path.exists(archive):
        sys.exit(f"{version} is there already: golden files are never made again")
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        lines = make(os.path.abspath(binary), store, not version.startswith("0.1"))
        text = os.path.join(folder, "expected.txt")
        with open(text, "w", encoding="ascii") as out:
            out.write("\n".join(lines) + "\n")
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(store, "store")
            tar.add(text, "expected.txt")


main()
