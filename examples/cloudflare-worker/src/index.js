// A Cloudflare Worker that counts visits and takes orders exactly once.
//
// A Worker has no connection that outlives a request, so it speaks to Dormouse over HTTP. The address and the token are
// those that `dormouse db create shop --output env` prints.
import { Redis } from '@upstash/redis/cloudflare';

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    const [, collection, id] = pathname.split('/');
    if (request.method === 'GET' && pathname === '/') {
      // Commands of one tick go out as one pipeline.
      const redis = Redis.fromEnv(env, { enableAutoPipelining: true });
      const [visits] = await Promise.all([redis.incr('visits'), redis.set('last-visit', new Date().toISOString())]);
      return Response.json({ visits });
    }
    if (request.method === 'POST' && collection === 'orders' && id) {
      // A customer's second click, or a request that was sent again because its answer was lost, orders nothing more.
      const redis = once(Redis.fromEnv(env), `order:${encodeURIComponent(id)}`);
      const left = await redis.decr('stock');
      return Response.json({ order: id, left });
    }
    return new Response('not found\n', { status: 404 });
  },
};

/** Gives each request of a client, which makes one call, this key: the server runs the call once and repeats its answer. */
function once(redis, key) {
  redis.use((request, send) => send({ ...request, headers: { ...request.headers, 'Idempotency-Key': key } }));
  return redis;
}
