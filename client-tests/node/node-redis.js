// node-redis's tour.
import assert from 'node:assert/strict';
import { createClient, createClientPool, RESP_TYPES, WatchError } from 'redis';
import { Inbox, everyByte, isDormouse, oneMiB, port, range, restartServer, run, until } from './tour.js';

const { equal, deepEqual, rejects } = assert;
const same = (actual, expected) => deepEqual([...actual].sort(), [...expected].sort());
const plain = (object) => ({ ...object });

async function connect(options = {}) {
  const client = createClient({ socket: { host: '127.0.0.1', port }, RESP: 2, ...options });
  client.on('error', () => {}); // A restart breaks every connection; the client makes a new one.
  client.sendOrCall = (...words) => client.sendCommand(words);
  client.end = () => client.destroy();
  return client.connect();
}

async function strings(c) {
  equal(await c.set('k', 'v'), 'OK');
  equal(await c.set('k', 'w', { condition: 'NX' }), null);
  equal(await c.set('k', 'w', { condition: 'XX', GET: true }), 'v');
  await c.set('k', 'x', { expiration: { type: 'EX', value: 100 } });
  equal(await c.set('k', 'y', { expiration: 'KEEPTTL' }), 'OK');
  equal(await c.ttl('k'), 100);
  await c.set('k', 'z', { expiration: { type: 'PXAT', value: 4_000_000_000_123 } });
  equal(await c.pExpireTime('k'), 4_000_000_000_123);
  await c.set('k', 'z', { expiration: { type: 'EXAT', value: 4_000_000_000 } });
  equal(await c.expireTime('k'), 4_000_000_000);
  await c.set('k', 'z', { expiration: { type: 'PX', value: 100_000 } });
  equal(await c.getEx('k', { type: 'PERSIST' }), 'z');
  equal(await c.ttl('k'), -1);
  equal(await c.getDel('k'), 'z');
  equal(await c.get('k'), null);
  await c.mSet({ a: '1', b: '2' });
  deepEqual(await c.mGet(['a', 'none', 'b']), ['1', null, '2']);
  equal(await c.mSetNX({ c: '3', a: '9' }), 0);
  equal(await c.incr('a'), 2);
  equal(await c.incrBy('a', 40), 42);
  equal(await c.decrBy('a', 2), 40);
  equal(await c.incrByFloat('a', 0.25), '40.25');
  equal(await c.append('s', 'Hello World'), 11);
  equal(await c.setRange('s', 6, 'Redis'), 11);
  equal(await c.getRange('s', 6, -1), 'Redis');
  equal(await c.strLen('s'), 11);
  await c.mSet({ x: 'ohmytext', y: 'mynewtext' });
  equal(await c.lcs('x', 'y'), 'mytext');
  equal(await c.lcsLen('x', 'y'), 6);
}

async function keysAndExpiry(c) {
  await c.mSet({ 'user:1': 'a', 'user:2': 'b', other: 'c' });
  same(await c.keys('user:?'), ['user:1', 'user:2']);
  equal(await c.dbSize(), 3);
  equal(await c.exists(['user:1', 'user:1', 'none']), 2);
  equal(await c.type('user:1'), 'string');
  equal(await c.rename('other', 'another'), 'OK');
  equal(await c.renameNX('another', 'user:1'), 0);
  equal(await c.copy('user:1', 'user:2', { REPLACE: true }), 1);
  equal(await c.get('user:2'), 'a');
  equal(await c.expire('user:1', 100), 1);
  equal(await c.expire('user:1', 50, 'GT'), 0);
  equal(await c.expire('user:1', 50, 'LT'), 1);
  equal(await c.expire('user:1', 10, 'NX'), 0);
  deepEqual(await Promise.all([c.ttl('user:1'), c.ttl('user:2'), c.ttl('none')]), [50, -1, -2]);
  equal(await c.persist('user:1'), 1);
  equal(await c.pExpire('user:2', 1), 1);
  await until(async () => (await c.exists('user:2')) === 0);
  equal(await c.objectEncoding('user:1'), 'embstr');
  equal(await c.del(['user:1', 'none']), 1);
  equal(await c.unlink('another'), 1);
}

async function hashes(c) {
  equal(await c.hSet('h', { name: 'Ada', age: 36 }), 2);
  deepEqual(plain(await c.hGetAll('h')), { name: 'Ada', age: '36' });
  deepEqual(await c.hmGet('h', ['name', 'none']), ['Ada', null]);
  equal(await c.hIncrBy('h', 'age', -6), 30);
  equal(await c.hIncrByFloat('h', 'age', 0.5), '30.5');
  equal(await c.hSetNX('h', 'name', 'x'), 0);
  same(await c.hKeys('h'), ['age', 'name']);
  same(await c.hVals('h'), ['30.5', 'Ada']);
  equal(await c.hExists('h', 'name'), 1);
  equal(await c.hStrLen('h', 'name'), 3);
  equal(await c.hDel('h', ['name', 'age', 'none']), 2);
  equal(await c.exists('h'), 0);
}

async function lists(c) {
  equal(await c.rPush('l', ['a', 'b', 'c', 'd']), 4);
  equal(await c.lPush('l', 'z'), 5);
  deepEqual(await c.lRange('l', 0, -1), [...'zabcd']);
  equal(await c.lInsert('l', 'AFTER', 'z', 'y'), 6);
  equal(await c.lSet('l', -1, 'e'), 'OK');
  equal(await c.lIndex('l', -1), 'e');
  deepEqual(await c.lPopCount('l', 2), ['z', 'y']);
  equal(await c.lPos('l', 'c', { RANK: -1 }), 2);
  equal(await c.lRem('l', 0, 'c'), 1);
  equal(await c.lMove('l', 'm', 'RIGHT', 'LEFT'), 'e');
  deepEqual(await c.lmPop(['none', 'l'], 'LEFT', { COUNT: 9 }), ['l', ['a', 'b']]);
  equal(await c.exists('l'), 0);
  equal(await c.rPushX('l', 'x'), 0);
  await c.rPush('t', range(1000, String));
  await c.lTrim('t', -2, -1);
  deepEqual(await c.lRange('t', 0, -1), ['998', '999']);
}

async function sets(c) {
  equal(await c.sAdd('a', ['1', '2', '3', '3']), 3);
  equal(await c.sAdd('b', ['2', '3', '4']), 3);
  same(await c.sInter(['a', 'b']), ['2', '3']);
  same(await c.sUnion(['a', 'b']), ['1', '2', '3', '4']);
  same(await c.sDiff(['a', 'b']), ['1']);
  equal(await c.sUnionStore('d', ['a', 'b']), 4);
  equal(await c.sInterCard(['a', 'b'], 1), 1);
  deepEqual(await c.smIsMember('a', ['1', '9']), [1, 0]);
  equal(await c.sMove('a', 'b', '1'), 1);
  equal(await c.objectEncoding('b'), 'intset');
  same(await c.sPopCount('b', 9), ['1', '2', '3', '4']);
  equal(await c.sRem('a', ['2', '9']), 1);
  same(await c.sMembers('a'), ['3']);
}

async function sortedSets(c) {
  equal(await c.zAdd('z', range(4, (i) => ({ value: 'abcd'[i], score: i + 1 }))), 4);
  equal(await c.zAdd('z', { value: 'a', score: 9 }, { condition: 'NX' }), 0);
  equal(await c.zAdd('z', { value: 'a', score: 0.5 }, { comparison: 'LT', CH: true }), 1);
  equal(await c.zIncrBy('z', 0.5, 'a'), 1);
  deepEqual(await c.zmScore('z', ['a', 'none']), [1, null]);
  deepEqual(await c.zRange('z', 0, -1), [...'abcd']);
  deepEqual(await c.zRange('z', 0, 1, { REV: true }), ['d', 'c']);
  deepEqual(await c.zRange('z', '(1', '+inf', { BY: 'SCORE', LIMIT: { offset: 1, count: 1 } }), ['c']);
  deepEqual(await c.zRange('z', '+inf', '(2', { BY: 'SCORE', REV: true }), ['d', 'c']);
  deepEqual(await c.zRangeWithScores('z', 0, 0), [{ value: 'a', score: 1 }]);
  equal(await c.zRangeStore('to', 'z', 1, 2), 2);
  await c.zAdd('lex', [...'abcde'].map((value) => ({ value, score: 0 })));
  deepEqual(await c.zRange('lex', '[b', '(e', { BY: 'LEX' }), [...'bcd']);
  deepEqual(await c.zRange('lex', '+', '[d', { BY: 'LEX', REV: true }), ['e', 'd']);
  equal(await c.zLexCount('lex', '-', '+'), 5);
  equal(await c.zRemRangeByLex('lex', '[a', '[b'), 2);
  equal(await c.zRemRangeByScore('lex', 0, 0), 3);
  equal(await c.zRank('z', 'c'), 2);
  equal(await c.zRevRank('z', 'c'), 1);
  equal(await c.zCount('z', 2, 3), 2);
  await c.zAdd('y', [{ value: 'a', score: 10 }, { value: 'x', score: Infinity }]);
  deepEqual(await c.zInterWithScores(['z', 'y']), [{ value: 'a', score: 11 }]);
  deepEqual(await c.zDiff(['z', 'y']), [...'bcd']);
  equal(await c.zUnionStore('u', ['z', 'y'], { AGGREGATE: 'MAX' }), 5);
  equal(await c.zScore('u', 'x'), Infinity);
  deepEqual(await c.zPopMin('z'), { value: 'a', score: 1 });
  deepEqual(await c.zPopMaxCount('z', 2), [{ value: 'd', score: 4 }, { value: 'c', score: 3 }]);
}

async function scanning(c) {
  const names = range(2000, (i) => `key:${i}`);
  await c.mSet(names.flatMap((name) => [name, 'v']));
  await c.hSet('hash', names.flatMap((name) => [name, 'v']));
  await c.sAdd('set', names);
  await c.zAdd('zset', names.map((value, score) => ({ value, score })));
  const collect = async (pages) => {
    const found = new Set();
    for await (const page of pages) for (const item of page) found.add(item.field ?? item.value ?? item);
    return found;
  };
  same(await collect(c.scanIterator({ MATCH: 'key:*', COUNT: 100 })), names);
  same(await collect(c.scanIterator({ TYPE: 'hash' })), ['hash']);
  same(await collect(c.hScanIterator('hash')), names);
  same(await collect(c.sScanIterator('set', { MATCH: 'key:1?' })), range(10, (i) => `key:1${i}`));
  same(await collect(c.zScanIterator('zset', { COUNT: 500 })), names);
}

async function pipelines(c) {
  // Commands of one tick go out together.
  const answers = await Promise.all(range(10_000, (i) => (i % 2 === 0 ? c.set(`key:${i}`, i) : c.get(`key:${i - 1}`))));
  deepEqual(answers, range(10_000, (i) => (i % 2 === 0 ? 'OK' : String(i - 1))));
}

async function transactions(c) {
  deepEqual(await c.multi().set('a', '1').incr('a').get('a').exec(), ['OK', 2, '2']);
  const failing = await c.multi().lPush('a', 'x').incr('a').exec().catch((error) => error.replies);
  match(failing[0].message, 'WRONGTYPE Operation against a key holding the wrong kind of value');
  equal(failing[1], 3);
  const other = await connect();
  await c.watch('a');
  await other.set('a', 'from elsewhere');
  await rejects(c.multi().set('a', 'mine').exec(), WatchError);
  equal(await c.get('a'), 'from elsewhere');
  await c.sendCommand(['MULTI']);
  equal(await c.sendCommand(['SET', 'a', 'gone']), 'QUEUED');
  equal(await c.sendCommand(['DISCARD']), 'OK');
  await rejects(c.sendCommand(['EXEC']), { message: 'ERR EXEC without MULTI' });
  equal(await c.get('a'), 'from elsewhere');
  other.destroy();
}

function match(actual, expected) {
  equal(actual.replace(/^ERR /, ''), expected);
}

async function publishSubscribe(c) {
  const listener = await connect();
  const inbox = new Inbox();
  await listener.subscribe('news', inbox.put);
  await listener.pSubscribe('user.*', inbox.put);
  equal(await c.publish('news', 'hello'), 1);
  equal(await c.publish('user.7', 'hi'), 1);
  equal(await c.publish('nobody', '?'), 0);
  deepEqual(await inbox.next(), ['hello', 'news']);
  deepEqual(await inbox.next(), ['hi', 'user.7']);
  deepEqual(await c.pubSubChannels(), ['news']);
  equal(await c.pubSubNumPat(), 1);
  await listener.unsubscribe('news');
  equal(await c.publish('news', 'nobody'), 0);
  listener.destroy();
}

async function documents(c) {
  // Other servers have JSON in a module.
  if (!isDormouse) return;
  equal(await c.json.set('doc', '$', { a: 1, list: [1, 'x', null], nested: { a: 'é' } }), 'OK');
  deepEqual(await c.json.get('doc'), { a: 1, list: [1, 'x', null], nested: { a: 'é' } });
  deepEqual(await c.json.get('doc', { path: ['$..a'] }), [1, 'é']);
  deepEqual(await c.json.numIncrBy('doc', '$.a', 2), [3]);
  deepEqual(await c.json.arrAppend('doc', '$.list', 4, { n: true }), [5]);
  deepEqual(await c.json.arrPop('doc', { path: '$.list', index: -1 }), [{ n: true }]);
  deepEqual(await c.json.mGet(['doc', 'none'], '$.a'), [[3], null]);
  deepEqual(await c.json.objKeys('doc', { path: '$.nested' }), [['a']]);
  equal(await c.json.merge('doc', '$', { list: null }), 'OK');
  equal(await c.json.del('doc', { path: '$.nested' }), 1);
  deepEqual(await c.json.get('doc'), { a: 3 });
  await rejects(c.json.set('fresh', '$.a', 1), /new objects must be created at the root/);
}

async function values(c) {
  const raw = c.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  await raw.set(everyByte, oneMiB);
  deepEqual(await raw.get(everyByte), oneMiB);
  deepEqual(await raw.keys('*'), [everyByte]);
  await raw.hSet('h', everyByte, oneMiB);
  deepEqual(await raw.hGet('h', everyByte), oneMiB);
  await c.set('größe', 'mäuschen 🐭');
  equal(await c.get('größe'), 'mäuschen 🐭');
  await c.set('', '');
  equal(await c.get(''), '');
}

async function concurrency(c) {
  const clients = await Promise.all(range(100, () => connect()));
  await Promise.all(clients.flatMap((client) => range(20, () => client.incr('counter'))));
  equal(await c.get('counter'), '2000');
  clients.forEach((client) => client.destroy());
  const pool = await createClientPool({ socket: { host: '127.0.0.1', port }, RESP: 2 }, { maximum: 20 }).connect();
  await Promise.all(range(500, (i) => pool.rPush('queue', String(i))));
  equal(await pool.lLen('queue'), 500);
  pool.destroy();
}

async function errors(c) {
  await c.set('s', 'text');
  const refused = (call, message) => rejects(call, { message });
  await refused(c.lPush('s', 'x'), 'WRONGTYPE Operation against a key holding the wrong kind of value');
  await refused(c.incr('s'), 'ERR value is not an integer or out of range');
  await refused(c.sendCommand(['SET', 's', 'v', 'SIDEWAYS']), 'ERR syntax error');
  await refused(c.sendCommand(['GET']), "ERR wrong number of arguments for 'get' command");
  await refused(c.sendCommand(['NONSENSE', 'x']), "ERR unknown command 'NONSENSE', with args beginning with: 'x' ");
  await refused(c.rename('none', 'x'), 'ERR no such key');
  equal(await c.get('s'), 'text');
}

async function resp3() {
  const c = await connect({ RESP: 3, clientInfoTag: 'tour' });
  const hello = await c.hello(3);
  equal(hello.proto, 3);
  equal(hello.role, 'master');
  for (const tour of [strings, keysAndExpiry, hashes, lists, sets, sortedSets, scanning, transactions, errors]) {
    await c.flushAll();
    await tour(c);
  }
  // In RESP3 a connection that subscribes goes on answering commands.
  const inbox = new Inbox();
  await c.subscribe('news', inbox.put);
  equal(await c.publish('news', 'to myself'), 1);
  deepEqual(await inbox.next(), ['to myself', 'news']);
  equal(await c.ping(), 'PONG');
  c.destroy();
}

async function clientSideCaching(c) {
  const cached = await connect({ RESP: 3, clientSideCache: { ttl: 0, maxEntries: 0, evictPolicy: 'LRU' } });
  await c.set('k', '1');
  equal(await cached.get('k'), '1');
  equal(await cached.get('k'), '1');
  for (const change of [() => c.set('k', '2'), () => c.del('k'), () => cached.set('k', '3'), () => c.flushAll()]) {
    await change();
    await until(async () => (await cached.get('k')) === (await c.get('k')));
  }
  await c.set('k', '4');
  await until(async () => (await cached.get('k')) === '4');
  if (isDormouse) {
    await c.sendOrCall('DORMOUSE', 'SLEEP');
    equal(await cached.get('k'), '4');
    await c.set('k', '5');
    await until(async () => (await cached.get('k')) === '5');
  }
  cached.end();
}

async function sleepAndWake(c) {
  if (!isDormouse) return;
  const [other, listener] = await Promise.all([connect(), connect()]);
  const inbox = new Inbox();
  await listener.subscribe('news', inbox.put);
  await fill(c);
  const ids = await Promise.all([c.clientId(), other.clientId()]);
  equal(await c.sendCommand(['DORMOUSE', 'SLEEP']), 'OK');
  await checkFilled(other);
  equal(await c.sendCommand(['DORMOUSE', 'SLEEP']), 'OK');
  await checkFilled(c);
  deepEqual(await Promise.all([c.clientId(), other.clientId()]), ids);
  equal(await c.sendCommand(['DORMOUSE', 'SLEEP']), 'OK');
  equal(await c.publish('news', 'awake?'), 1);
  deepEqual(await inbox.next(), ['awake?', 'news']);
  equal(await c.rPush('list', 'after'), 1001);
  other.destroy();
  listener.destroy();
}

async function restart(c) {
  await fill(c);
  await restartServer();
  await checkFilled(c);
}

async function fill(c) {
  await c.set('text', 'x'.repeat(1000), { expiration: { type: 'EX', value: 10_000 } });
  await c.hSet('hash', Object.fromEntries(range(1000, (i) => [`f${i}`, String(i)])));
  await c.rPush('list', range(1000, String));
  await c.sAdd('set', range(1000, String));
  await c.zAdd('zset', range(1000, (i) => ({ value: `m${i}`, score: i / 2 })));
}

async function checkFilled(c) {
  equal(await c.dbSize(), 5);
  equal(await c.get('text'), 'x'.repeat(1000));
  const ttl = await c.ttl('text');
  assert(ttl > 9_900 && ttl <= 10_000, `ttl ${ttl}`);
  deepEqual(plain(await c.hGetAll('hash')), Object.fromEntries(range(1000, (i) => [`f${i}`, String(i)])));
  deepEqual(await c.lRange('list', 0, -1), range(1000, String));
  same(await c.sMembers('set'), range(1000, String));
  deepEqual(await c.zRangeWithScores('zset', 0, -1), range(1000, (i) => ({ value: `m${i}`, score: i / 2 })));
}

await run(
  [
    strings, keysAndExpiry, hashes, lists, sets, sortedSets, scanning, pipelines, transactions, publishSubscribe,
    documents, values, concurrency, errors, resp3, clientSideCaching, sleepAndWake, restart,
  ],
  connect,
);
