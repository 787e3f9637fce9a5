#!/usr/bin/env bash
# opendal 0.47.12 (PyPI): list() on the memory and fs services takes `start_after` and `limit` and returns everything.
#
# Expected: what list() documents of the two, or Unsupported, since capability() reports that neither service has them: that is
# what write(append=True) and read(if_match=...) raise where they are missing.
# Seen: a list of a, b, c, d that is to start after b, or to hold one entry, is a, b, c, d. A loop that asks for each page by the
# last entry of the previous one gets the first page for ever.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'opendal==0.47.12'
mkdir "$folder/data"
"$folder/venv/bin/python" - "$folder/data" <<'PYTHON'
import sys
import opendal

seen = {}
for service, options in (("memory", {}), ("fs", {"root": sys.argv[1]})):
    operator = opendal.Operator(service, **options)
    for name in "abcd":
        operator.write(name, b"x")
    def names(**options):
        return "".join(sorted(entry.path for entry in operator.list("/", **options) if entry.path != "/"))
    capability = operator.capability()
    assert not capability.list_with_start_after and not capability.list_with_limit
    seen[service] = names(start_after="b"), names(limit=1)
try:
    opendal.Operator("memory").write("a", b"x", append=True)
    append = "done"
except opendal.exceptions.Unsupported:
    append = "Unsupported"
print("(start_after b, limit 1):", seen, "write(append=True) on memory:", append)
sys.exit(seen != {"memory": ("abcd", "abcd"), "fs": ("abcd", "abcd")} or append != "Unsupported")
PYTHON
