// ioredis's tour.
import assert from 'node:assert/strict';
import { Redis } from 'ioredis';
import { Inbox, everyByte, isDormouse, oneMiB, port, range, restartServer, run, tls, until } from './tour.js';

const { equal, deepEqual, rejects } = assert;
const same = (actual, expected) => deepEqual([...actual].sort(), [...expected].sort());

function connect(options = {}) {
  const redis = new Redis({ port, host: '127.0.0.1', tls, protocol: 2, retryStrategy: () => 20, ...options });
  redis.on('error', () => {}); // A restart breaks every connection; ioredis makes a new one.
  redis.sendOrCall = (...words) => redis.call(...words);
  redis.end = () => redis.disconnect();
  return redis;
}

async function strings(r) {
  equal(await r.set('k', 'v'), 'OK');
  equal(await r.set('k', 'w', 'NX'), null);
  equal(await r.set('k', 'w', 'EX', 100, 'XX', 'GET'), 'v');
  equal(await r.set('k', 'x', 'KEEPTTL'), 'OK');
  equal(await r.ttl('k'), 100);
  await r.set('k', 'y', 'PXAT', 4_000_000_000_123);
  equal(await r.pexpiretime('k'), 4_000_000_000_123);
  await r.set('k', 'z', 'PX', 100_000);
  equal(await r.getex('k', 'EXAT', 4_000_000_000), 'z');
  equal(await r.expiretime('k'), 4_000_000_000);
  equal(await r.getdel('k'), 'z');
  equal(await r.get('k'), null);
  await r.mset(new Map([['a', 1], ['b', 2]]));
  deepEqual(await r.mget('a', 'none', 'b'), ['1', null, '2']);
  equal(await r.msetnx({ a: 9, c: 3 }), 0);
  equal(await r.incrby('a', 41), 42);
  equal(await r.decr('a'), 41);
  equal(await r.incrbyfloat('a', '-0.5'), '40.5');
  equal(await r.append('s', 'Hello World'), 11);
  equal(await r.setrange('s', 12, '!'), 13);
  equal(await r.getrange('s', 10, -1), 'd\0!');
  equal(await r.strlen('s'), 13);
  await r.mset('x', 'ohmytext', 'y', 'mynewtext');
  equal(await r.lcs('x', 'y'), 'mytext');
}

async function keysAndExpiry(r) {
  await r.mset('a', 1, 'b', 2, 'c', 3);
  same(await r.keys('[ab]'), ['a', 'b']);
  equal(await r.exists('a', 'a', 'none'), 2);
  equal(await r.type('a'), 'string');
  equal(await r.object('ENCODING', 'a'), 'int');
  equal(await r.rename('c', 'd'), 'OK');
  equal(await r.copy('a', 'd', 'REPLACE'), 1);
  equal(await r.move('d', 4), 1);
  equal(await r.dbsize(), 2);
  equal(await r.expire('a', 100), 1);
  equal(await r.expire('a', 200, 'NX'), 0);
  equal(await r.expire('a', 200, 'GT'), 1);
  deepEqual([await r.ttl('a'), await r.ttl('b'), await r.ttl('none')], [200, -1, -2]);
  equal(await r.persist('a'), 1);
  await r.pexpire('b', 1);
  await until(async () => (await r.exists('b')) === 0);
  equal(await r.unlink('a', 'b'), 1);
  equal(await r.randomkey(), null);
}

async function hashes(r) {
  equal(await r.hset('h', { name: 'Ada', age: 36 }), 2);
  deepEqual({ ...(await r.hgetall('h')) }, { name: 'Ada', age: '36' });
  deepEqual(await r.hmget('h', 'name', 'none'), ['Ada', null]);
  equal(await r.hincrby('h', 'age', 1), 37);
  equal(await r.hincrbyfloat('h', 'age', 0.5), '37.5');
  equal(await r.hlen('h'), 2);
  equal(await r.hexists('h', 'none'), 0);
  same(await r.hkeys('h'), ['age', 'name']);
  equal(await r.hdel('h', 'name', 'none'), 1);
  deepEqual(await r.hvals('h'), ['37.5']);
  deepEqual(await r.hrandfield('h', 1, 'WITHVALUES'), ['age', '37.5']);
}

async function lists(r) {
  equal(await r.rpush('l', ...'abc'), 3);
  equal(await r.lpush('l', 'z', 'y'), 5);
  deepEqual(await r.lrange('l', 0, -1), [...'yzabc']);
  equal(await r.linsert('l', 'BEFORE', 'a', '-'), 6);
  equal(await r.linsert('l', 'BEFORE', 'none', '-'), -1);
  equal(await r.lindex('l', 2), '-');
  equal(await r.lrem('l', 1, '-'), 1);
  deepEqual(await r.lpos('l', 'a', 'COUNT', 0), [2]);
  deepEqual(await r.rpop('l', 2), ['c', 'b']);
  equal(await r.lmove('l', 'm', 'LEFT', 'RIGHT'), 'y');
  equal(await r.rpoplpush('l', 'm'), 'a');
  deepEqual(await r.lmpop(2, 'm', 'l', 'RIGHT', 'COUNT', 5), ['m', ['y', 'a']]);
  equal(await r.ltrim('l', 1, 0), 'OK');
  equal(await r.exists('l', 'm'), 0);
}

async function sets(r) {
  equal(await r.sadd('a', 'x', 'y', 'z'), 3);
  equal(await r.sadd('b', 'y', 'z', 'w'), 3);
  same(await r.sinter('a', 'b'), ['y', 'z']);
  same(await r.sunion('a', 'b'), ['w', 'x', 'y', 'z']);
  same(await r.sdiff('a', 'b', 'none'), ['x']);
  equal(await r.sinterstore('c', 'a', 'b'), 2);
  equal(await r.sintercard(2, 'a', 'b', 'LIMIT', 1), 1);
  deepEqual(await r.smismember('c', 'y', 'x'), [1, 0]);
  equal(await r.smove('a', 'c', 'x'), 1);
  same(await r.smembers('c'), ['x', 'y', 'z']);
  same(await r.spop('c', 3), ['x', 'y', 'z']);
  equal(await r.srem('b', 'w', 'none'), 1);
  equal(await r.scard('b'), 2);
}

async function sortedSets(r) {
  equal(await r.zadd('z', 1, 'a', 2, 'b', '+inf', 'c'), 3);
  equal(await r.zadd('z', 'GT', 'CH', 0, 'a', 5, 'b', 9, 'd'), 2);
  equal(await r.zadd('z', 'XX', 'INCR', 1.5, 'a'), '2.5');
  equal(await r.zadd('z', 'NX', 'INCR', 1, 'a'), null);
  deepEqual(await r.zrange('z', 0, -1, 'WITHSCORES'), ['a', '2.5', 'b', '5', 'd', '9', 'c', 'inf']);
  deepEqual(await r.zrange('z', 0, 1, 'REV'), ['c', 'd']);
  deepEqual(await r.zrange('z', '(2.5', 'inf', 'BYSCORE', 'LIMIT', 1, 1), ['d']);
  deepEqual(await r.zrange('z', 'inf', 5, 'BYSCORE', 'REV', 'LIMIT', 1, -1), ['d', 'b']);
  deepEqual(await r.zrangebyscore('z', '-inf', 5), ['a', 'b']);
  equal(await r.zrangestore('to', 'z', 0, 0, 'REV'), 1);
  await r.zadd('lex', ...[...'abcde'].flatMap((member) => [0, member]));
  deepEqual(await r.zrange('lex', '(a', '[c', 'BYLEX'), ['b', 'c']);
  deepEqual(await r.zrange('lex', '+', '-', 'BYLEX', 'REV', 'LIMIT', 1, 2), ['d', 'c']);
  deepEqual(await r.zrevrangebylex('lex', '[b', '-'), ['b', 'a']);
  equal(await r.zremrangebyrank('lex', 1, -1), 4);
  equal(await r.zrank('z', 'd'), 2);
  equal(await r.zrevrank('z', 'none'), null);
  equal(await r.zincrby('z', 1e20, 'a'), '1e+20');
  equal(await r.zscore('z', 'none'), null);
  await r.zadd('y', 1, 'a', 2, 'b');
  deepEqual(await r.zinter(2, 'z', 'y', 'WEIGHTS', 1, 2, 'AGGREGATE', 'MIN', 'WITHSCORES'), ['a', '2', 'b', '4']);
  deepEqual(await r.zunion(2, 'y', 'lex'), ['a', 'b']);
  equal(await r.zdiffstore('diff', 2, 'z', 'y'), 2);
  deepEqual(await r.zpopmax('z', 2), ['c', 'inf', 'a', '1e+20']);
  deepEqual(await r.zmpop(2, 'none', 'y', 'MIN', 'COUNT', 1), ['y', [['a', '1']]]);
}

async function scanning(r) {
  const names = range(2000, (i) => `key:${i}`);
  await r.mset(names.flatMap((name) => [name, 'v']));
  await r.hset('hash', names.flatMap((name) => [name, 'v']));
  await r.sadd('set', names);
  await r.zadd('zset', names.flatMap((name, i) => [i, name]));
  const collect = async (stream, width = 1) => {
    const found = new Set();
    for await (const page of stream) page.filter((_, i) => i % width === 0).forEach((item) => found.add(item));
    return found;
  };
  same(await collect(r.scanStream({ match: 'key:*', count: 100 })), names);
  same(await collect(r.scanStream({ type: 'zset' })), ['zset']);
  same(await collect(r.hscanStream('hash'), 2), names);
  same(await collect(r.sscanStream('set', { match: '*9' })), names.filter((name) => name.endsWith('9')));
  same(await collect(r.zscanStream('zset'), 2), names);
}

async function pipelines(r) {
  const pipeline = r.pipeline();
  range(5_000).forEach((i) => pipeline.set(`key:${i}`, i).get(`key:${i}`));
  const answers = await pipeline.exec();
  deepEqual(answers, range(10_000, (i) => (i % 2 === 0 ? [null, 'OK'] : [null, String((i - 1) / 2)])));
  const [[wrong], [none, right]] = await r.pipeline().lpush('key:0', 'x').get('key:0').exec();
  equal(wrong.message, 'WRONGTYPE Operation against a key holding the wrong kind of value');
  deepEqual([none, right], [null, '0']);
}

async function transactions(r) {
  deepEqual(await r.multi().set('a', 1).incr('a').lpop('b').exec(), [[null, 'OK'], [null, 2], [null, null]]);
  const other = connect();
  await r.watch('a', 'b');
  await other.set('b', 'from elsewhere');
  equal(await r.multi().set('a', 'mine').exec(), null);
  await r.watch('a');
  await r.unwatch();
  await other.set('a', 3);
  deepEqual(await r.multi().incr('a').exec(), [[null, 4]]);
  await rejects(r.multi().set('a').exec(), {
    message: 'EXECABORT Transaction discarded because of previous errors.',
  });
  equal(await r.multi({ pipeline: false }), 'OK');
  equal(await r.set('a', 'gone'), 'QUEUED');
  equal(await r.discard(), 'OK');
  equal(await r.get('a'), '4');
  other.disconnect();
}

async function publishSubscribe(r) {
  const listener = connect();
  const inbox = new Inbox();
  listener.on('message', inbox.put).on('pmessage', inbox.put);
  equal(await listener.subscribe('news', 'weather'), 2);
  equal(await listener.psubscribe('user.*', '*'), 4);
  equal(await r.publish('user.7', 'hi'), 2);
  same([await inbox.next(), await inbox.next()].map(([pattern]) => pattern), ['*', 'user.*']);
  await listener.punsubscribe('*');
  equal(await r.publish('news', 'hello'), 1);
  deepEqual(await inbox.next(), ['news', 'hello']);
  deepEqual(await r.pubsub('NUMSUB', 'news', 'none'), ['news', 1, 'none', 0]);
  listener.disconnect();
}

async function shardedChannels(r) {
  const listener = connect();
  const inbox = new Inbox();
  listener.on('smessage', inbox.put);
  equal(await listener.ssubscribe('news', 'weather'), 2);
  equal(await r.spublish('news', 'hello'), 1);
  equal(await r.publish('news', '?'), 0);
  deepEqual(await inbox.next(), ['news', 'hello']);
  deepEqual(await r.pubsub('SHARDNUMSUB', 'news', 'none'), ['news', 1, 'none', 0]);
  equal(await listener.sunsubscribe('news'), 1);
  equal(await r.spublish('news', 'nobody'), 0);
  listener.disconnect();
}

async function keyspaceEvents(r) {
  equal(await r.config('SET', 'notify-keyspace-events', 'KEA'), 'OK');
  const listener = connect();
  const inbox = new Inbox();
  listener.on('pmessage', (_, channel, message) => inbox.put(channel, message));
  await listener.psubscribe('__key*');
  await r.rpush('l', 'a');
  await r.lpop('l');
  const expected = [['rpush', 'l'], ['lpop', 'l'], ['del', 'l']].flatMap(([event, key]) => [
    [`__keyspace@0__:${key}`, event],
    [`__keyevent@0__:${event}`, key],
  ]);
  for (const told of expected) deepEqual(await inbox.next(), told);
  equal(await r.config('SET', 'notify-keyspace-events', ''), 'OK');
  listener.disconnect();
}

async function documents(r) {
  // Other servers have JSON in a module.
  if (!isDormouse) return;
  equal(await r.call('JSON.SET', 'doc', '$', '{"a":1,"list":[1,2]}'), 'OK');
  equal(await r.call('JSON.GET', 'doc', '$.list'), '[[1,2]]');
  deepEqual(await r.call('JSON.ARRAPPEND', 'doc', '$.list', '3'), [3]);
  deepEqual(await r.multi().call('JSON.NUMINCRBY', 'doc', '.a', '1').call('JSON.GET', 'doc', '.a').exec(), [
    [null, '2'],
    [null, '2'],
  ]);
}

async function values(r) {
  await r.set(everyByte, oneMiB);
  deepEqual(await r.getBuffer(everyByte), oneMiB);
  deepEqual(await r.keysBuffer('*'), [everyByte]);
  await r.rpush('l', oneMiB, everyByte, '');
  deepEqual(await r.lrangeBuffer('l', 0, -1), [oneMiB, everyByte, Buffer.alloc(0)]);
  await r.set('größe', 'mäuschen 🐭');
  equal(await r.get('größe'), 'mäuschen 🐭');
}

async function concurrency(r) {
  const clients = range(100, () => connect({ enableAutoPipelining: true }));
  await Promise.all(clients.flatMap((client) => range(20, () => client.incr('counter'))));
  equal(await r.get('counter'), '2000');
  clients.forEach((client) => client.disconnect());
}

async function errors(r) {
  await r.set('s', 'text');
  await rejects(r.hget('s', 'f'), { message: 'WRONGTYPE Operation against a key holding the wrong kind of value' });
  await rejects(r.set('s', 'v', 'SIDEWAYS'), { message: 'ERR syntax error' });
  await rejects(r.call('GET'), { message: "ERR wrong number of arguments for 'get' command" });
  await rejects(r.incr('s'), { message: 'ERR value is not an integer or out of range' });
  await rejects(r.zadd('z', 'NX', 'GT', 1, 'a'), {
    message: 'ERR GT, LT, and/or NX options at the same time are not compatible',
  });
  await rejects(r.select(99), { message: 'ERR DB index is out of range' });
}

async function resp3() {
  const r = connect({ protocol: 3, replyMapping: 'resp3' });
  equal((await r.call('HELLO')).proto, 3);
  await r.hset('h', { a: 1, b: 2 });
  deepEqual({ ...(await r.hgetall('h')) }, { a: '1', b: '2' });
  await r.zadd('z', 1.5, 'a');
  equal(await r.zscore('z', 'a'), 1.5);
  equal(await r.get('none'), null);
  r.disconnect();
}

async function sleepAndWake(r) {
  if (!isDormouse) return;
  const [other, listener, inbox] = [connect({ db: 2 }), connect(), new Inbox()];
  listener.on('message', inbox.put);
  await listener.subscribe('news');
  await other.set('in two', 'still');
  await fill(r);
  const ids = [await r.client('ID'), await other.client('ID')];
  equal(await r.call('DORMOUSE', 'SLEEP'), 'OK');
  equal(await other.get('in two'), 'still');
  await checkFilled(r);
  equal(await r.call('DORMOUSE', 'SLEEP'), 'OK');
  deepEqual((await r.multi().incr('counter').lindex('list', 500).exec()), [[null, 8], [null, '500']]);
  deepEqual([await r.client('ID'), await other.client('ID')], ids);
  equal(await r.publish('news', 'awake?'), 1);
  deepEqual(await inbox.next(), ['news', 'awake?']);
  [other, listener].forEach((client) => client.disconnect());
}

async function restart(r) {
  await fill(r);
  await restartServer();
  await checkFilled(r);
}

async function fill(r) {
  await r.set('counter', 7);
  await r.hset('hash', Object.fromEntries(range(1000, (i) => [`f${i}`, i])));
  await r.rpush('list', range(1000));
  await r.sadd('set', range(1000));
  await r.zadd('zset', range(1000, (i) => [i / 2, `m${i}`]).flat());
}

async function checkFilled(r) {
  equal(await r.get('counter'), '7');
  equal(await r.hget('hash', 'f999'), '999');
  equal(await r.hlen('hash'), 1000);
  deepEqual(await r.lrange('list', 0, -1), range(1000, String));
  same(await r.smembers('set'), range(1000, String));
  deepEqual(await r.zrange('zset', 0, -1, 'WITHSCORES'), range(1000, (i) => [`m${i}`, String(i / 2)]).flat());
}

await run(
  [
    strings, keysAndExpiry, hashes, lists, sets, sortedSets, scanning, pipelines, transactions, publishSubscribe,
    shardedChannels, keyspaceEvents,
    documents, values, concurrency, errors, resp3, sleepAndWake, restart,
  ],
  connect,
);
