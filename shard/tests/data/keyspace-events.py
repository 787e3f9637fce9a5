#!/usr/bin/env python3
"""Fills `keyspace-events.txt` with the events that a real Redis publishes.

    ./keyspace-events.py [path/to/redis-server] [keyspace-events-8.txt | keyspace-events-valkey-9.txt]

The file has a line for each command, and below it, indented, a line for each event in order: the letter of its class in
`notify-keyspace-events`, its name, its key, and its logical index unless that is 0. This script keeps the commands and
writes the events anew. Each scenario begins with an empty database; an empty line ends it. `@ MS` lets time pass.
"""

import pathlib
import shlex
import socket
import subprocess
import sys
import tempfile
import time

CLASSES = "g$lshztxenm"
# Classes that only a newer Redis knows.
NEWER_CLASSES = "a"
FILE = pathlib.Path(__file__).with_suffix(".txt")
MARK = "end of a command"


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.reader = self.socket.makefile("rb")

    def send(self, *words):
        words = [word if isinstance(word, bytes) else word.encode("latin-1") for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))

    def read(self):
        line = self.reader.readline()[:-2].decode("latin-1")
        kind, rest = line[0], line[1:]
        if kind == "$":
            return None if rest == "-1" else self.reader.read(int(rest) + 2)[:-2].decode("latin-1")
        if kind == "*":
            return [self.read() for _ in range(int(rest))]
        return line if kind == "-" else rest

    def say(self, *words):
        self.send(*words)
        return self.read()


def words(line):
    """As the table's reader splits them: spaces, double quotes, `\\xHH`."""
    return [word.encode("latin-1").decode("unicode_escape") for word in shlex.split(line.replace("\\", "\\\\"))]


def run(client, subscriber, lines, classes):
    """The events of each command, if only those of `classes` are published."""
    assert client.say("CONFIG", "SET", "notify-keyspace-events", "E" + classes) == "OK"
    client.say("FLUSHALL")
    events = []
    for line in lines:
        if not line:
            client.say("FLUSHALL")
        elif line.startswith("@"):
            time.sleep(int(line.split()[1]) / 1000 + 0.001)
        else:
            client.say(*words(line))
        client.say("PUBLISH", "__keyevent@0__:mark", MARK)
        events.append([])
        while True:
            _, _, channel, key = subscriber.read()
            if key == MARK:
                break
            index, name = channel.removeprefix("__keyevent@").split("__:")
            events[-1].append(f"{name} {key}" if index == "0" else f"{name} {key} {index}")
    return events


def main():
    server = sys.argv[1] if len(sys.argv) > 1 else "redis-server"
    file = FILE.with_name(sys.argv[2]) if len(sys.argv) > 2 else FILE
    classes = CLASSES + NEWER_CLASSES if file.name.endswith("-8.txt") else CLASSES
    text = file.read_text().splitlines()
    head = [line for line in text if line.startswith("#")]
    lines = [line for line in text if not line.startswith(("#", " "))]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--dir", folder, "--enable-debug-command", "yes"]
        process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
        try:
            while not pathlib.Path(path).exists():
                assert process.poll() is None, "the server has ended"
                time.sleep(0.01)
            client, subscriber = Client(path), Client(path)
            # Only when a key is looked at does it expire, so that the order is the same each time.
            assert client.say("DEBUG", "SET-ACTIVE-EXPIRE", "0") == "OK"
            subscriber.say("PSUBSCRIBE", "__keyevent@*__:*")
            all_events = run(client, subscriber, lines, classes)
            by_class = {letter: run(client, subscriber, lines, letter) for letter in classes}
        finally:
            process.terminate()
            process.wait()
    written = head
    for at, line in enumerate(lines):
        written.append(line)
        for event in all_events[at]:
            letters = [letter for letter in classes if event in by_class[letter][at]]
            assert len(letters) == 1, (line, event, letters)
            written.append(f"    {letters[0]} {event}")
    file.write_text("\n".join(written) + "\n")


if __name__ == "__main__":
    main()
