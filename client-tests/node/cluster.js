// The clients of Redis Cluster of ioredis and node-redis, with a token for each database.
import assert from 'node:assert/strict';
import { Cluster } from 'ioredis';
import { createCluster } from 'redis';
import { Inbox, restartServer } from './tour.js';

const { equal, deepEqual } = assert;
const port = Number(process.env.DORMOUSE_TEST_PORT);
const tokens = process.env.DORMOUSE_TEST_TOKENS.split(' ');
const numbers = Array.from({ length: 300 }, (_, n) => n);

const libraries = {
  ioredis: async (token) => {
    const cluster = new Cluster([{ host: '127.0.0.1', port }], {
      redisOptions: { password: token },
      clusterRetryStrategy: () => 20,
    });
    cluster.on('error', () => {});
    await cluster.set('ready', 1);
    return {
      client: cluster,
      nodes: () => cluster.nodes().map((node) => node.options.port),
      listen: async (channel) => {
        const inbox = new Inbox();
        cluster.on('message', (_, message) => inbox.put(message));
        await cluster.subscribe(channel);
        return inbox;
      },
      flush: () => cluster.flushall(),
      end: () => cluster.disconnect(),
    };
  },
  'node-redis': async (token) => {
    const cluster = createCluster({
      rootNodes: [{ socket: { host: '127.0.0.1', port } }],
      defaults: { password: token },
    });
    cluster.on('error', () => {});
    await cluster.connect();
    return {
      client: cluster,
      nodes: () => cluster.masters.map((node) => node.port),
      listen: async (channel) => {
        const inbox = new Inbox();
        await cluster.subscribe(channel, (message) => inbox.put(message));
        return inbox;
      },
      flush: async () => (await cluster.nodeClient(cluster.masters[0])).flushAll(),
      end: () => cluster.destroy(),
    };
  },
};

const open = libraries[process.argv[2]];

const steps = {
  topology: async ({ nodes }) => deepEqual(nodes(), [port]),

  'keys of many slots': async ({ client }) => {
    await Promise.all(numbers.map((n) => client.set(`key:${n}`, n)));
    deepEqual(await Promise.all(numbers.map((n) => client.get(`key:${n}`))), numbers.map(String));
    equal(await client.incr('key:7'), 8);
    equal(await client.del('key:7'), 1);
  },

  'databases apart': async ({ client }) => {
    const other = await open(tokens[1]);
    await other.flush();
    await client.set('whose', 'first');
    equal(await other.client.get('whose'), null);
    await other.client.set('whose', 'second');
    equal(await client.get('whose'), 'first');
    other.end();
  },

  'publish and subscribe': async ({ client, listen }) => {
    const inbox = await listen('news');
    await client.publish('news', 'hello');
    deepEqual(await inbox.next(), ['hello']);
  },

  restart: async ({ client }) => {
    await client.set('kept', 'v');
    await restartServer();
    const deadline = Date.now() + 20_000;
    for (;;) {
      try {
        equal(await client.get('kept'), 'v');
        return;
      } catch (problem) {
        if (Date.now() > deadline) throw problem;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  },
};

let failed = 0;
for (const [name, step] of Object.entries(steps)) {
  try {
    const opened = await open(tokens[0]);
    await opened.flush();
    await step(opened);
    opened.end();
    console.log('ok', name);
  } catch (problem) {
    failed += 1;
    console.log(`not ok ${name}\n${problem.stack}`);
  }
}
console.log(`${Object.keys(steps).length - failed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
