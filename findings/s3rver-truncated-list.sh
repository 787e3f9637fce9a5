#!/usr/bin/env bash
# s3rver 3.7.1 (npm) on Node.js 17 or newer: a list that needs a second page is answered with HTTP 500.
#
# Expected: the first page with IsTruncated and a token for the next one.
# Seen: a list that fits one page works; with max-keys below the number of objects the reply is 500 InternalError. The token
# is encrypted with a cipher that OpenSSL 3 has moved to its legacy provider; with NODE_OPTIONS=--openssl-legacy-provider the
# same request is answered 200.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${plain:-}" "${legacy:-}" 2>/dev/null && wait || true; rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" s3rver@3.7.1 >/dev/null
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
first=$(port)
second=$(port)
mkdir one two
node_modules/.bin/s3rver -d one -a 127.0.0.1 -p "$first" --configure-bucket bucket >plain.log 2>&1 &
plain=$!
NODE_OPTIONS=--openssl-legacy-provider node_modules/.bin/s3rver -d two -a 127.0.0.1 -p "$second" --configure-bucket bucket >legacy.log 2>&1 &
legacy=$!
cat >ask.mjs <<'NODE'
const ask = async (port, method, path) => {
  for (let attempt = 0; ; attempt++) {
    try {
      const body = method === "PUT" ? "x" : undefined;
      return (await fetch(`http://127.0.0.1:${port}/bucket${path}`, { method, body })).status;
    } catch (error) {
      if (attempt === 300) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
};
const seen = {};
for (const port of process.argv.slice(2)) {
  for (const key of ["a", "b", "c"]) await ask(port, "PUT", `/${key}`);
  seen[port] = [await ask(port, "GET", "?list-type=2"), await ask(port, "GET", "?list-type=2&max-keys=2")];
}
const text = JSON.stringify(Object.values(seen));
console.log(`Node ${process.version}: [all keys, max-keys=2], plain and with the legacy provider: ${text}`);
process.exit(text === "[[200,500],[200,200]]" ? 0 : 1);
NODE
node ask.mjs "$first" "$second"
