// Idle applications: the database falls asleep beneath all of them, stays asleep, and wakes for the next job or message.
import assert from 'node:assert/strict';
import { createAdapter } from '@socket.io/redis-streams-adapter';
import { Queue, QueueEvents, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { createClient } from 'redis';
import { Server } from 'socket.io';
import { connection, quiet, run, until } from './steps.js';

const { deepEqual, equal } = assert;

/** It runs a script every five seconds, and one that writes every 30. */
async function aWorkerOfBullmq(close) {
  const queue = close(new Queue('paint', { connection }));
  const events = close(new QueueEvents('paint', { connection, lastEventId: '0-0' }));
  const done = [];
  events.on('completed', ({ returnvalue }) => done.push(returnvalue));
  close(new Worker('paint', async (job) => job.data.n, { connection }));
  await queue.add('job', { n: 1 });
  await until(() => done.length === 1);
  return async () => {
    await queue.add('job', { n: 2 });
    await until(() => done.length === 2);
    // Its time comes while the database sleeps.
    await queue.add('job', { n: 3 }, { delay: 4_000 });
    await until(() => done.length === 3);
    deepEqual(done, [1, 2, 3]);
  };
}

async function anAdapterOfSocketIo(close) {
  const open = async () => {
    const client = createClient({ socket: connection });
    client.on('error', () => {});
    await client.connect();
    close({ close: () => client.destroy() });
    const server = new Server({ adapter: createAdapter(client) });
    close(server.of('/').adapter);
    return server;
  };
  const [here, there] = [await open(), await open()];
  let told = 0;
  there.on('hello', () => (told += 1));
  await until(() => {
    here.serverSideEmit('hello');
    return told > 0;
  });
  return async () => {
    const before = told;
    here.serverSideEmit('hello');
    await until(() => told > before);
  };
}

async function aSubscriber(close) {
  const [client, listener] = [new Redis(connection), new Redis(connection)];
  close({ close: () => client.disconnect() });
  close({ close: () => listener.disconnect() });
  const heard = [];
  listener.on('message', (_, text) => heard.push(text));
  await listener.subscribe('news');
  await client.set('some', 'data');
  return async () => {
    await client.publish('news', 'hello');
    await until(() => heard.length === 1);
    equal(await client.get('some'), 'data');
  };
}

/** Each begins to wait, and returns what wakes it. */
async function idleOnesLetTheDatabaseSleep(close) {
  const wake = [];
  for (const begin of [aWorkerOfBullmq, anAdapterOfSocketIo, aSubscriber]) wake.push(await begin(close));
  await quiet(16);
  for (const one of wake) await one();
}

await run(idleOnesLetTheDatabaseSleep);
