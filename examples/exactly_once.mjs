// Exactly once with @upstash/redis.
//
// The SDK sends a request again, up to five times, if its answer is lost: a counter may count twice. With this, all attempts of
// one call have the same key, and the server runs the call once:
//
//   const redis = exactlyOnce(new Redis({ url, token }));
//   await redis.incr('visits');
//
// Pipelines, transactions and scripts are calls as well. It works with @vercel/kv too.

/** Gives each request of a client a key of its own. Returns the client. */
export function exactlyOnce(redis) {
  redis.use((request, send) => {
    const headers = { ...request.headers, 'Idempotency-Key': crypto.randomUUID() };
    return send({ ...request, headers });
  });
  return redis;
}
