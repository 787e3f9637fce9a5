// examples/exactly_once.mjs over a wire that loses answers.
import assert from 'node:assert/strict';
import { Redis } from '@upstash/redis';
import { createClient } from '@vercel/kv';
import { range, run } from './tour.js';

const { exactlyOnce } = await import(`${process.env.DORMOUSE_TEST_EXAMPLES}/exactly_once.mjs`);
const { equal, deepEqual, ok } = assert;
const token = 'any';
const direct = `http://127.0.0.1:${process.env.DORMOUSE_TEST_HTTP_PORT}`;
const losing = `http://127.0.0.1:${process.env.DORMOUSE_TEST_LOSING_PORT}`;
const retry = { retries: 50, backoff: () => 0 };

process.env.UPSTASH_DISABLE_TELEMETRY = '1';

const calls = 100;
const transfer = "redis.call('DECRBY', KEYS[1], ARGV[1]) return redis.call('INCRBY', KEYS[2], ARGV[1])";

function connect() {
  const redis = new Redis({ url: direct, token });
  redis.sendOrCall = (...words) => redis.exec(words);
  redis.end = () => {};
  return redis;
}

/** Makes the same calls with any client. Returns its answers. */
async function work(client) {
  const answers = [];
  for (const call of range(calls)) {
    answers.push(await client.incrby('balance', 7));
    answers.push(await client.rpush('entries', `entry ${call}`));
  }
  return answers;
}

// The wire is as bad as it seems: without keys, commands are applied again.
async function aPlainClientCountsTooMuch(r) {
  await work(new Redis({ url: losing, token, retry }));
  ok((await r.get('balance')) > 7 * calls);
  ok((await r.llen('entries')) > calls);
}

async function everyCommandCountsOnce(r) {
  for (const enableAutoPipelining of [true, false]) {
    await r.flushdb();
    const answers = await work(exactlyOnce(new Redis({ url: losing, token, retry, enableAutoPipelining })));
    deepEqual(answers, range(calls).flatMap((call) => [7 * (call + 1), call + 1]));
    equal(await r.get('balance'), 7 * calls);
    deepEqual(await r.lrange('entries', 0, -1), range(calls, (call) => `entry ${call}`));
  }
}

async function pipelinesTransactionsAndScripts(r) {
  const client = exactlyOnce(new Redis({ url: losing, token, retry }));
  const script = client.createScript(transfer);
  for (const call of range(calls / 2)) {
    const piped = await client.pipeline().incr('piped').get('piped').incrbyfloat('float', 0.5).exec();
    equal(piped[0], call + 1);
    deepEqual(await client.multi().incr('one').decr('other').exec(), [call + 1, -call - 1]);
    equal(await script.exec(['from', 'to'], [3]), 3 * (call + 1));
    await Promise.all(range(20, () => client.incr('together')));
  }
  deepEqual(await r.mget('piped', 'one', 'other', 'from', 'to'), [50, 50, -50, -150, 150]);
  deepEqual(await r.mget('float', 'together'), [25, 1000]);
}

async function vercel(r) {
  const kv = exactlyOnce(createClient({ url: losing, token, retry }));
  for (const call of range(calls)) equal(await kv.hincrby('hash', 'field', 2), 2 * (call + 1));
  equal(await r.hget('hash', 'field'), 2 * calls);
}

await run([aPlainClientCountsTooMuch, everyCommandCountsOnce, pipelinesTransactionsAndScripts, vercel], connect);
