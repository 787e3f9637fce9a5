// rate-limiter-flexible, over ioredis and over node-redis.
import assert from 'node:assert/strict';
import { Redis } from 'ioredis';
import { createClient } from 'redis';
import { BurstyRateLimiter, RateLimiterQueue, RateLimiterRedis, RateLimiterUnion } from 'rate-limiter-flexible';
import { connection, range, run, sleep, until } from './steps.js';

const { equal, deepEqual, ok, rejects } = assert;

/** A minute, so that no window ends during a step. */
const MINUTE = 60;

function limiter(close, options) {
  const storeClient = new Redis(connection);
  close({ close: () => storeClient.disconnect() });
  return new RateLimiterRedis({ storeClient, ...options });
}

const isRefused = ({ msBeforeNext, remainingPoints }) => msBeforeNext > 0 && remainingPoints === 0;

async function pointsAreConsumed(close) {
  const login = limiter(close, { keyPrefix: 'login', points: 5, duration: MINUTE });
  for (const used of [1, 2, 3]) {
    const { consumedPoints, remainingPoints } = await login.consume('ada');
    deepEqual([consumedPoints, remainingPoints], [used, 5 - used]);
  }
  await sleep();
  equal((await login.consume('ada', 2)).remainingPoints, 0);
  await rejects(login.consume('ada'), isRefused);
  await sleep();
  await rejects(login.consume('ada'), isRefused);
  equal((await login.consume('bob')).remainingPoints, 4);
  equal((await login.get('bob')).consumedPoints, 1);
  await login.penalty('bob', 2);
  await login.reward('bob', 1);
  equal((await login.get('bob')).consumedPoints, 2);
  ok(await login.delete('ada'));
  equal(await login.get('ada'), null);
}

async function aWindowEnds(close) {
  const calls = limiter(close, { points: 2, duration: 1 });
  await calls.consume('ada', 2);
  await sleep();
  await until(() => calls.consume('ada').then(() => true, () => false));
}

async function concurrentCallersShareALimit(close) {
  const limiters = range(4, () => limiter(close, { points: 30, duration: MINUTE }));
  const calls = range(100, (n) => limiters[n % 4].consume('everybody').then(() => 1, () => 0));
  await sleep();
  equal((await Promise.all(calls)).reduce((sum, taken) => sum + taken), 30);
}

async function anOffenderIsBlocked(close) {
  const api = limiter(close, { points: 2, duration: 1, blockDuration: MINUTE });
  await api.consume('ada', 2);
  await rejects(api.consume('ada'));
  await sleep();
  await rejects(api.consume('ada'), ({ msBeforeNext }) => msBeforeNext > 1_000 && msBeforeNext <= 60_000);
  await api.block('bob', MINUTE);
  await sleep();
  await rejects(api.consume('bob'));
}

async function limitersAreCombined(close) {
  const second = limiter(close, { keyPrefix: 'second', points: 2, duration: MINUTE });
  const hour = limiter(close, { keyPrefix: 'hour', points: 5, duration: 60 * MINUTE });
  const union = new RateLimiterUnion(second, hour);
  await union.consume('ada', 2);
  await sleep();
  await rejects(union.consume('ada'));
  const bursty = new BurstyRateLimiter(second, hour);
  await bursty.consume('bob', 2);
  await bursty.consume('bob', 2);
  await sleep();
  equal((await hour.get('bob')).consumedPoints, 2);
}

async function aQueueWaitsForPoints(close) {
  const queue = new RateLimiterQueue(limiter(close, { points: 2, duration: 1 }), { maxQueueSize: 10 });
  const waiting = range(4, () => queue.removeTokens(1));
  await sleep();
  deepEqual((await Promise.all(waiting)).length, 4);
}

async function nodeRedisWorksToo(close) {
  const storeClient = createClient({ socket: connection });
  await storeClient.connect();
  close({ close: () => storeClient.destroy() });
  const api = new RateLimiterRedis({ storeClient, useRedisPackage: true, points: 3, duration: MINUTE });
  await api.consume('ada', 2);
  await sleep();
  equal((await api.consume('ada')).remainingPoints, 0);
  await rejects(api.consume('ada'), isRefused);
}

await run(
  pointsAreConsumed,
  aWindowEnds,
  concurrentCallersShareALimit,
  anOffenderIsBlocked,
  limitersAreCombined,
  aQueueWaitsForPoints,
  nodeRedisWorksToo,
);
