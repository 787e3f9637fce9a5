// Socket.IO: two servers that share rooms by one of the adapters; its name is the argument.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { createAdapter as createPubSubAdapter, createShardedAdapter } from '@socket.io/redis-adapter';
import { createAdapter as createStreamsAdapter } from '@socket.io/redis-streams-adapter';
import { Redis } from 'ioredis';
import { createClient } from 'redis';
import { Server } from 'socket.io';
import { io as connect } from 'socket.io-client';
import { connection, run, sleep, until } from './steps.js';

const { equal, deepEqual, ok } = assert;

const adapters = {
  'pub-sub-ioredis': async (close) => createPubSubAdapter(...ioredis(close)),
  'pub-sub-node-redis': async (close) => createPubSubAdapter(await nodeRedis(close), await nodeRedis(close)),
  'sharded-ioredis': async (close) => createShardedAdapter(...ioredis(close)),
  // By default each private room of a server has a channel too; here rooms of all kinds do.
  'sharded-node-redis': async (close) =>
    createShardedAdapter(await nodeRedis(close), await nodeRedis(close), { subscriptionMode: 'dynamic-private' }),
  streams: async (close) => createStreamsAdapter(await nodeRedis(close)),
};

function ioredis(close) {
  const clients = [new Redis(connection), new Redis(connection)];
  for (const client of clients) close({ close: () => client.disconnect() });
  return clients;
}

async function nodeRedis(close) {
  const client = createClient({ socket: connection });
  client.on('error', () => {});
  await client.connect();
  // One that is blocked in a read would have to wait for its end.
  close({ close: () => (adapter === adapters.streams ? client.destroy() : client.close()) });
  return client;
}

const adapter = adapters[process.argv[2]];

/** A server with what is needed to connect to it. */
async function serve(close, options = {}) {
  const http = createServer();
  const server = new Server(http, { adapter: await adapter(close), ...options });
  close({ close: () => server.close() });
  server.on('connection', (socket) => {
    socket.on('join', (room, done) => {
      socket.join(room);
      done();
    });
    socket.on('say', (room, text) => socket.to(room).emit('said', text));
  });
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  server.url = `http://127.0.0.1:${http.address().port}`;
  return server;
}

/** A client that has joined `rooms`, with all that it is told. */
async function join(close, server, ...rooms) {
  const client = connect(server.url, { transports: ['websocket'], forceNew: true, reconnectionDelay: 20 });
  close({ close: () => client.close() });
  client.heard = [];
  client.on('said', (text, done) => {
    client.heard.push(text);
    // Where connections are recovered, a message without an acknowledgement ends with its place in the stream.
    if (typeof done === 'function') done(`${text} to ${rooms[0]}`);
  });
  await once(client, 'connect');
  for (const room of rooms) await client.emitWithAck('join', room);
  return client;
}

/** Two servers that know each other. */
async function pair(close, options) {
  const servers = [await serve(close, options), await serve(close, options)];
  await until(async () => (await servers[0].of('/').adapter.serverCount()) === 2);
  return servers;
}

async function roomsSpanServers(close) {
  const [here, there] = await pair(close);
  const ada = await join(close, here, 'red');
  const bob = await join(close, there, 'red', 'blue');
  const eve = await join(close, there, 'green');
  ada.emit('say', 'red', 'hello');
  await until(() => bob.heard.length === 1);
  await sleep();
  bob.emit('say', 'red', 'back');
  await until(() => ada.heard.length === 1);
  await sleep();
  here.emit('said', 'all');
  await until(() => [ada, bob, eve].every(({ heard }) => heard.at(-1) === 'all'));
  here.to('blue').to('green').except('red').emit('said', 'some');
  await until(() => eve.heard.at(-1) === 'some');
  there.to('red').emit('said', 'end');
  await until(() => bob.heard.at(-1) === 'end' && ada.heard.at(-1) === 'end');
  deepEqual([ada.heard, bob.heard, eve.heard], [['back', 'all', 'end'], ['hello', 'all', 'end'], ['all', 'some']]);
}

async function answersComeFromAllServers(close) {
  const [here, there] = await pair(close);
  await join(close, here, 'red');
  await join(close, there, 'red');
  await join(close, there, 'blue');
  const answers = async () => (await here.timeout(10_000).to('red').emitWithAck('said', 'hi')).sort();
  deepEqual(await answers(), ['hi to red', 'hi to red']);
  await sleep();
  deepEqual(await answers(), ['hi to red', 'hi to red']);
}

async function socketsOfAllServersAreManaged(close) {
  const [here, there] = await pair(close);
  const ada = await join(close, here, 'red');
  const bob = await join(close, there, 'red');
  const ids = async (room) => (await here.in(room).fetchSockets()).map(({ id }) => id).sort();
  deepEqual(await ids('red'), [ada.id, bob.id].sort());
  await sleep();
  deepEqual(await ids('red'), [ada.id, bob.id].sort());
  here.in(bob.id).socketsJoin('blue');
  await until(async () => (await ids('blue')).length === 1);
  await sleep();
  here.in('red').socketsLeave('red');
  await until(async () => (await ids('red')).length === 0);
  here.in('blue').disconnectSockets(true);
  await until(() => bob.id === undefined);
  ok(ada.connected);
}

async function serversTalkToEachOther(close) {
  const [here, there] = await pair(close);
  there.on('stock', (item, done) => done(`42 ${item}`));
  deepEqual(await here.serverSideEmitWithAck('stock', 'nuts'), ['42 nuts']);
  await sleep();
  deepEqual(await here.serverSideEmitWithAck('stock', 'bolts'), ['42 bolts']);
  let gone = false;
  here.on('bye', () => (gone = true));
  await sleep();
  there.serverSideEmit('bye');
  await until(() => gone);
}

/** A client that has lost its connection continues on another server, and gets what it has missed. */
async function lostConnectionsAreRecovered(close) {
  const [here, there] = await pair(close, { connectionStateRecovery: { maxDisconnectionDuration: 60_000 } });
  const ada = await join(close, here, 'red');
  const { id } = ada;
  there.to('red').emit('said', 'first');
  await until(() => ada.heard.length === 1);
  ada.io.uri = there.url;
  ada.io.engine.close();
  await until(() => !ada.connected);
  there.to('red').emit('said', 'missed');
  await sleep();
  await until(() => ada.connected && ada.heard.length === 2);
  deepEqual([ada.recovered, ada.id, ada.heard], [true, id, ['first', 'missed']]);
  here.to('red').emit('said', 'after');
  await until(() => ada.heard.length === 3);
}

const steps = [roomsSpanServers, answersComeFromAllServers, socketsOfAllServersAreManaged, serversTalkToEachOther];
if (process.argv[2] === 'streams') steps.push(lostConnectionsAreRecovered);
await run(...steps);
