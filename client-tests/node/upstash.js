// Upstash's libraries, over HTTP.
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from '@upstash/redis';
import { Ratelimit } from '@upstash/ratelimit';
import { Lock } from '@upstash/lock';
import { Realtime } from '@upstash/realtime';
import { createClient } from '@vercel/kv';
import * as z from 'zod';
import { Inbox, range, restartServer, run, until } from './tour.js';

const { equal, deepEqual, ok, rejects } = assert;
const url = `http://127.0.0.1:${process.env.DORMOUSE_TEST_HTTP_PORT}`;
const token = process.env.DORMOUSE_TEST_TOKEN ?? 'any';

process.env.UPSTASH_DISABLE_TELEMETRY = '1';

function connect(options = {}) {
  const redis = new Redis({ url, token, retry: { retries: 8, backoff: () => 100 }, ...options });
  redis.sendOrCall = (...words) => redis.exec(words);
  redis.end = () => {};
  return redis;
}

async function values(r) {
  equal(await r.set('k', 'v'), 'OK');
  equal(await r.get('k'), 'v');
  equal(await r.set('k', 'w', { nx: true }), null);
  equal(await r.set('k', { a: [1, 'x', null] }, { ex: 100 }), 'OK');
  deepEqual(await r.get('k'), { a: [1, 'x', null] });
  equal(await r.ttl('k'), 100);
  equal(await r.get('none'), null);
  equal(await r.set('text', 'OK'), 'OK');
  equal(await r.get('text'), 'OK');
  equal(await r.set('umlaut', 'é\u{1f600}\0\n"'), 'OK');
  equal(await r.get('umlaut'), 'é\u{1f600}\0\n"');
  equal(await r.incrby('n', 41), 41);
  equal(await r.incrbyfloat('n', 0.5), 41.5);
  await r.mset({ a: 1, b: 'two' });
  deepEqual(await r.mget('a', 'none', 'b'), [1, null, 'two']);
  equal(await r.ping(), 'PONG');
  equal(await r.echo('hi'), 'hi');
  equal(await r.dbsize(), 6);
  equal(await r.type('k'), 'string');
  await rejects(r.lpush('k', 'x'), /WRONGTYPE/);
  await rejects(r.exec(['NOTHING']), /unknown command/);
}

async function documents(r) {
  equal(await r.json.set('doc', '$', { a: 1, list: [1, 'x', null], nested: { a: 'é' } }), 'OK');
  deepEqual(await r.json.get('doc'), { a: 1, list: [1, 'x', null], nested: { a: 'é' } });
  deepEqual(await r.json.get('doc', '$..a'), [1, 'é']);
  deepEqual(await r.json.numincrby('doc', '$.a', 2), [3]);
  deepEqual(await r.json.arrappend('doc', '$.list', 4, { n: true }), [5]);
  deepEqual(await r.json.arrlen('doc', '$.list'), [5]);
  deepEqual(await r.json.mget(['doc', 'none'], '$.a'), [[3], null]);
  deepEqual(await r.json.objkeys('doc', '$.nested'), [['a']]);
  deepEqual(await r.json.type('doc', '$.list'), ['array']);
  equal(await r.json.merge('doc', '$', { list: null }), 'OK');
  equal(await r.json.del('doc', '$.nested'), 1);
  deepEqual(await r.json.get('doc'), { a: 3 });
  equal(await r.json.set('doc', '$.a', 1, { nx: true }), null);
  equal(await r.json.get('none'), null);
  equal(await r.type('doc'), 'ReJSON-RL');
  await rejects(r.json.set('fresh', '$.a', 1), /new objects must be created at the root/);
}

async function collections(r) {
  equal(await r.hset('h', { a: 1, b: { c: true } }), 2);
  deepEqual(await r.hgetall('h'), { a: 1, b: { c: true } });
  equal(await r.hgetall('none'), null);
  deepEqual(await r.hmget('h', 'a', 'none'), { a: 1, none: null });
  equal(await r.hincrby('h', 'a', 5), 6);
  equal(await r.rpush('l', 'a', 'b', 'c'), 3);
  deepEqual(await r.lrange('l', 0, -1), ['a', 'b', 'c']);
  equal(await r.lpop('l'), 'a');
  equal(await r.sadd('s', 'x', 'y'), 2);
  deepEqual(await r.smismember('s', ['x', 'z']), [1, 0]);
  deepEqual((await r.smembers('s')).sort(), ['x', 'y']);
  equal(await r.zadd('z', { score: 1.5, member: 'm' }, { score: 2, member: 'n' }), 2);
  deepEqual(await r.zrange('z', 0, -1, { withScores: true }), ['m', 1.5, 'n', 2]);
  equal(await r.zscore('z', 'm'), 1.5);
  deepEqual(await r.zunion(1, ['z'], { withScores: true }), ['m', 1.5, 'n', 2]);
  equal(await r.geoadd('g', { longitude: 13.361389, latitude: 38.115556, member: 'Palermo' }), 1);
  equal((await r.geopos('g', 'Palermo'))[0].lng.toFixed(3), '13.361');
  const id = await r.xadd('x', '*', { field: 'value' });
  deepEqual(await r.xrange('x', '-', '+'), { [id]: { field: 'value' } });
  equal(await r.xgroup('x', { type: 'CREATE', group: 'g', id: '0' }), 'OK');
  deepEqual(await r.xreadgroup('g', 'me', 'x', '>'), [['x', [[id, ['field', 'value']]]]]);
  let [cursor, found] = ['0', []];
  await r.mset(Object.fromEntries(range(500, (i) => [`key:${i}`, i])));
  do {
    const [next, keys] = await r.scan(cursor, { match: 'key:*', count: 100 });
    [cursor, found] = [next, [...found, ...keys]];
  } while (cursor !== '0');
  equal(new Set(found).size, 500);
}

async function pipelines(r) {
  const pipeline = r.pipeline();
  range(300).forEach((i) => pipeline.set(`k${i}`, i).get(`k${i}`));
  const results = await pipeline.exec();
  deepEqual(results.filter((_, at) => at % 2 === 1), range(300));
  const failing = await r.pipeline().set('a', 1).lpush('a', 'x').get('a').exec({ keepErrors: true });
  deepEqual([failing[0].result, failing[2].result], ['OK', 1]);
  ok(failing[1].error.includes('WRONGTYPE'));
  await rejects(r.pipeline().set('a', 1).lpush('a', 'x').exec(), /Command 2 \[ lpush \] failed: WRONGTYPE/);
}

// Commands of one tick go in one request by themselves.
async function autoPipelines(r) {
  const before = r.pipelineCounter ?? 0;
  await Promise.all(range(500, (i) => r.set(`k${i}`, i)));
  deepEqual(await Promise.all(range(500, (i) => r.get(`k${i}`))), range(500));
  ok(before >= 0);
  const outcomes = await Promise.allSettled([r.get('k1'), r.lpush('k1', 'x'), r.incr('k1')]);
  deepEqual(outcomes.map((outcome) => outcome.status), ['fulfilled', 'rejected', 'fulfilled']);
}

async function transactions(r) {
  deepEqual(await r.multi().set('a', 1).incr('a').get('a').exec(), ['OK', 2, 2]);
  await rejects(r.multi().set('a', 'lost').getrange('a').exec(), /EXECABORT/);
  equal(await r.get('a'), 2);
  const counts = await Promise.all(range(50, () => r.multi().incr('n').incr('n').exec()));
  counts.forEach(([first, second]) => equal(second, first + 1));
  equal(await r.get('n'), 100);
}

async function scripts(r) {
  const text = 'return {KEYS[1], ARGV[1], redis.call("INCRBY", KEYS[1], ARGV[1])}';
  deepEqual(await r.eval(text, ['n'], [5]), ['n', 5, 5]);
  const script = r.createScript('return redis.call("GET", KEYS[1])');
  equal(await script.exec(['n'], []), 5);
  equal(await script.exec(['n'], []), 5);
  await rejects(r.evalsha('0'.repeat(40), [], []), /NOSCRIPT/);
}

async function largeValues(r) {
  const value = 'é"\n'.repeat(1_000_000);
  equal(await r.set('large', value), 'OK');
  equal(await r.get('large'), value);
  const twice = await r.pipeline().get('large').strlen('large').get('large').exec();
  deepEqual([twice[0] === value, twice[1], twice[2] === value], [true, 4_000_000, true]);
}

async function subscriptions(r) {
  const channel = 'chat/1?x=y';
  const inbox = new Inbox();
  const subscriber = r.subscribe(channel);
  subscriber.on('error', (error) => inbox.put('error', error.message));
  subscriber.on('subscribe', (count) => inbox.put('subscribe', count));
  subscriber.on('message', ({ channel, message }) => inbox.put(channel, message));
  deepEqual(await inbox.next(), ['subscribe', 1]);
  equal(await r.publish(channel, { text: 'hello, "you"' }), 1);
  deepEqual(await inbox.next(), [channel, { text: 'hello, "you"' }]);
  for (const i of range(1000)) r.publish(channel, i);
  deepEqual((await Promise.all(range(1000, () => inbox.next()))).map(([, i]) => i).sort((a, b) => a - b), range(1000));
  const pattern = r.psubscribe('news:*');
  pattern.on('psubscribe', (count) => inbox.put('psubscribe', count));
  pattern.on('pmessage', ({ pattern, channel, message }) => inbox.put(pattern, channel, message));
  deepEqual(await inbox.next(), ['psubscribe', 1]);
  await r.publish('news:de', { n: 1 });
  deepEqual(await inbox.next(), ['news:*', 'news:de', { n: 1 }]);
  await Promise.all([subscriber.unsubscribe(), pattern.unsubscribe()]);
  // The end of a stream is the end of its client.
  await until(async () => (await r.publish(channel, 'gone')) === 0);
  await until(async () => (await r.publish('news:de', 'gone')) === 0);
}

async function rateLimits(r) {
  const limiters = {
    fixed: Ratelimit.fixedWindow(5, '600 s'),
    sliding: Ratelimit.slidingWindow(5, '600 s'),
    bucket: Ratelimit.tokenBucket(5, '600 s', 5),
    cached: Ratelimit.cachedFixedWindow(5, '600 s'),
  };
  for (const [prefix, limiter] of Object.entries(limiters)) {
    const limit = new Ratelimit({ redis: r, limiter, prefix, ephemeralCache: new Map() });
    const found = [];
    for (const _ of range(7)) found.push((await limit.limit('user')).success);
    deepEqual(found, [true, true, true, true, true, false, false], prefix);
    ok((await limit.limit('other')).success, prefix);
    equal((await limit.getRemaining('user')).remaining, 0, prefix);
    await limit.resetUsedTokens('user');
    if (prefix !== 'cached') ok((await limit.limit('user')).success, prefix);
  }
  const counting = new Ratelimit({ redis: r, limiter: Ratelimit.fixedWindow(5, '600 s'), analytics: true });
  const outcome = await counting.limit('user');
  ok(outcome.success);
  await outcome.pending;
}

async function locks(r) {
  const lock = new Lock({ id: 'job', redis: r, lease: 60_000, retry: { attempts: 1, delay: 1 } });
  const rival = new Lock({ id: 'job', redis: r, lease: 60_000, retry: { attempts: 1, delay: 1 } });
  deepEqual([await lock.acquire(), await rival.acquire()], [true, false]);
  equal(await lock.extend(60_000), true);
  ok((await r.pttl('job')) > 60_000);
  equal(await rival.release(), false);
  equal(await lock.release(), true);
  equal(await rival.acquire(), true);
}

async function realtime(r) {
  const schema = { chat: { message: z.object({ text: z.string() }) } };
  const room = new Realtime({ redis: r, schema, history: { maxLength: 100 } }).channel('room');
  const inbox = new Inbox();
  await room.emit('chat.message', { text: 'before' });
  const end = await room.subscribe({ events: ['chat.message'], history: true, onData: ({ data }) => inbox.put(data.text) });
  deepEqual(await inbox.next(), ['before']);
  await room.emit('chat.message', { text: 'after' });
  deepEqual(await inbox.next(), ['after']);
  equal((await room.history()).length, 2);
  await end();
}

async function vercel() {
  const kv = createClient({ url, token });
  await kv.set('user', { name: 'ada' });
  deepEqual(await kv.get('user'), { name: 'ada' });
  await kv.hset('hash', Object.fromEntries(range(100, (i) => [`f${i}`, i])));
  const found = [];
  for await (const item of kv.hscanIterator('hash')) found.push(item);
  equal(found.length, 200);
  const keys = [];
  for await (const key of kv.scanIterator()) keys.push(key);
  deepEqual(keys.sort(), ['hash', 'user']);
}

async function tokens(r) {
  await r.exec(['ACL', 'SETUSER', 'reader', 'reset', 'on', '>pw', '~public:*', '+@read', '-keys', '-scan']);
  await r.set('public:a', 1);
  const reader = connect({ token: await r.exec(['ACL', 'RESTTOKEN', 'reader', 'pw']) });
  equal(await reader.get('public:a'), 1);
  await rejects(reader.set('public:a', 2), /NOPERM/);
  await rejects(reader.get('private'), /NOPERM/);
  await rejects(reader.keys('*'), /NOPERM/);
  await r.exec(['ACL', 'DELUSER', 'reader']);
  await rejects(connect({ token: 'dm_default_wrong' }).exec(['ACL', 'WHOAMI']).then((name) => {
    // Without tokens the user `default` takes any.
    if (name === 'default' && token === 'any') throw new Error('WRONGPASS');
  }), /WRONGPASS/);
}

async function lostConnections() {
  // However long the restart takes.
  const r = connect({ retry: { retries: 600, backoff: () => 100 } });
  await r.set('kept', 1);
  const writing = [];
  const restarted = restartServer();
  for (const i of range(20)) {
    writing.push(r.set(`during${i}`, i));
    await sleep(5);
  }
  await restarted;
  await Promise.all(writing);
  deepEqual(await Promise.all(range(20, (i) => r.get(`during${i}`))), range(20));
  equal(await r.get('kept'), 1);
}

const steps = [values, documents, collections, pipelines, autoPipelines, transactions, scripts, largeValues, subscriptions, rateLimits,
  locks, realtime, vercel, tokens];
// The restart would cut the connection of whoever puts the database to sleep.
if (!process.env.DORMOUSE_TEST_AMONG_SLEEPS) steps.push(lostConnections);

await run(steps, () => connect());
