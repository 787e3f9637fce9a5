// examples/cloudflare-worker in workerd, the runtime of Cloudflare Workers, before a real server.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import workerd from 'workerd';

const { DORMOUSE_TEST_EXAMPLES, DORMOUSE_TEST_HTTP_PORT, DORMOUSE_TEST_TOKEN } = process.env;
const server = `http://127.0.0.1:${DORMOUSE_TEST_HTTP_PORT}`;
const packages = fileURLToPath(new URL('node_modules', import.meta.url));

/** The example as one file, as wrangler would upload it. */
async function bundle(folder) {
  await build({
    entryPoints: [join(DORMOUSE_TEST_EXAMPLES, 'cloudflare-worker/src/index.js')],
    outfile: join(folder, 'worker.js'),
    bundle: true,
    format: 'esm',
    conditions: ['workerd', 'worker', 'browser'],
    nodePaths: [packages],
  });
}

const config = `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "shop", worker = (
      modules = [(name = "worker.js", esModule = embed "worker.js")],
      bindings = [
        (name = "UPSTASH_REDIS_REST_URL", text = "${server}"),
        (name = "UPSTASH_REDIS_REST_TOKEN", text = "${DORMOUSE_TEST_TOKEN}"),
        (name = "UPSTASH_DISABLE_TELEMETRY", text = "1"),
      ],
      compatibilityDate = "2026-01-01",
      globalOutbound = "here")),
    (name = "here", network = (allow = ["local"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "shop")],
);
`;

/** Starts the runtime, and returns it with its address. */
async function start(folder) {
  const runtime = spawn(workerd.default, ['serve', '--control-fd=3', join(folder, 'config.capnp')], {
    stdio: ['ignore', 'inherit', 'inherit', 'pipe'],
  });
  for await (const line of createInterface({ input: runtime.stdio[3] })) {
    const { event, port } = JSON.parse(line);
    if (event === 'listen') {
      return { runtime, address: `http://127.0.0.1:${port}` };
    }
  }
  throw new Error('workerd has ended');
}

async function said(...command) {
  const headers = { authorization: `Bearer ${DORMOUSE_TEST_TOKEN}` };
  const answer = await fetch(server, { method: 'POST', headers, body: JSON.stringify(command) });
  return (await answer.json()).result;
}

const folder = await mkdtemp(join(tmpdir(), 'worker-'));
let runtime;
try {
  await bundle(folder);
  await writeFile(join(folder, 'config.capnp'), config);
  let address;
  ({ runtime, address } = await start(folder));
  const ask = async (method, path) => {
    const answer = await fetch(address + path, { method });
    assert.equal(answer.status, 200, path);
    return answer.json();
  };
  assert.deepEqual(await ask('GET', '/'), { visits: 1 });
  assert.deepEqual(await ask('GET', '/'), { visits: 2 });
  assert.match(await said('GET', 'last-visit'), /^20\d\d-.*Z$/);
  await said('SET', 'stock', '10');
  // The second request for an order orders nothing.
  assert.deepEqual(await ask('POST', '/orders/1138'), { order: '1138', left: 9 });
  assert.deepEqual(await ask('POST', '/orders/1138'), { order: '1138', left: 9 });
  assert.deepEqual(await ask('POST', '/orders/1139'), { order: '1139', left: 8 });
  assert.equal(await said('GET', 'stock'), '8');
  assert.equal((await fetch(`${address}/orders`, { method: 'POST' })).status, 404);
} finally {
  runtime?.kill();
  await rm(folder, { recursive: true });
}
console.log('1 passed, 0 failed');
