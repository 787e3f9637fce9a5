// bee-queue, sessions of Express in connect-redis, and redlock: tested with `--long`.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Redlock } from '@sesamecare-oss/redlock';
import BeeQueue from 'bee-queue';
import { RedisStore } from 'connect-redis';
import express from 'express';
import session from 'express-session';
import { Redis } from 'ioredis';
import { createClient } from 'redis';
import { connection, gated, range, run, sleep, until } from './steps.js';

const { deepEqual, equal, ok, rejects } = assert;

function bee(close, settings = {}) {
  const queue = new BeeQueue('paint', { redis: connection, activateDelayedJobs: true, ...settings });
  return close(queue);
}

async function beeQueueProcesses(close) {
  const queue = bee(close);
  const jobs = await Promise.all(range(10, (n) => queue.createJob({ n }).save()));
  const told = new Map();
  for (const job of jobs) job.on('succeeded', (result) => told.set(job.id, result));
  await sleep();
  const gate = gated();
  queue.process(3, async (job) => {
    if (job.data.n === 5) await gate.promise;
    if (job.data.n === 100 && job.options.retries > 0) throw new Error('once more');
    return job.data.n ** 2;
  });
  await until(() => told.size === 9);
  await sleep();
  gate.resolve();
  await until(() => told.size === 10);
  deepEqual(jobs.map(({ id }) => told.get(id)), range(10, (n) => n ** 2));
  const flaky = await queue.createJob({ n: 100 }).retries(1).save();
  await sleep();
  await until(async () => (await queue.getJob(flaky.id)).status === 'succeeded');
  const late = Date.now() + 300;
  const delayed = await queue.createJob({ n: 3 }).delayUntil(late).save();
  const succeeded = once(delayed, 'succeeded');
  await sleep();
  await succeeded;
  ok(Date.now() >= late);
  const health = await queue.checkHealth();
  deepEqual([health.waiting, health.active, health.succeeded, health.failed], [0, 0, 12, 0]);
}

async function sessionsAreKept(close) {
  const client = createClient({ socket: connection });
  await client.connect();
  close({ close: () => client.destroy() });
  const app = express();
  app.use(session({ store: new RedisStore({ client }), secret: 'paint', resave: false, saveUninitialized: false }));
  app.get('/', (request, response) => {
    request.session.visits = (request.session.visits ?? 0) + 1;
    response.send(`${request.session.visits}`);
  });
  app.get('/out', (request, response) => request.session.destroy(() => response.send('bye')));
  const server = app.listen(0, '127.0.0.1');
  await once(server, 'listening');
  close({ close: () => server.close() });
  const url = `http://127.0.0.1:${server.address().port}`;
  const first = await fetch(url);
  const cookie = first.headers.get('set-cookie').split(';')[0];
  const visit = async (path = '/') => (await fetch(url + path, { headers: { cookie } })).text();
  equal(await first.text(), '1');
  await sleep();
  equal(await visit(), '2');
  await sleep();
  equal(await visit(), '3');
  equal(await client.dbSize(), 1);
  ok((await client.ttl((await client.keys('sess:*'))[0])) > 86_000);
  equal(await visit('/out'), 'bye');
  equal(await client.dbSize(), 0);
  equal(await visit(), '1');
}

async function redlockLocks(close) {
  const clients = range(2, () => new Redis(connection));
  for (const client of clients) close({ close: () => client.disconnect() });
  const [mine, other] = clients.map((client) => new Redlock([client], { retryCount: 0 }));
  let lock = await mine.acquire(['door', 'window'], 60_000);
  await sleep();
  await rejects(other.acquire(['window'], 1_000));
  lock = await lock.extend(60_000);
  await sleep();
  await lock.release();
  const theirs = await other.acquire(['window'], 60_000);
  await rejects(mine.acquire(['door', 'window'], 1_000));
  await theirs.release();
  const patient = new Redlock([clients[0]], { retryCount: -1, retryDelay: 10 });
  let inside = 0;
  await Promise.all(range(8, () => patient.using(['door'], 10_000, async () => {
    equal((inside += 1), 1);
    if (Math.random() < 0.3) await sleep();
    inside -= 1;
  })));
}

await run(beeQueueProcesses, sessionsAreKept, redlockLocks);
