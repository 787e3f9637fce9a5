import static redis.clients.jedis.params.SetParams.setParams;
import static redis.clients.jedis.params.ZRangeParams.zrangeByLexParams;
import static redis.clients.jedis.params.ZRangeParams.zrangeByScoreParams;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import redis.clients.jedis.ConnectionPoolConfig;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.JedisPubSub;
import redis.clients.jedis.Protocol.Command;
import redis.clients.jedis.RedisClient;
import redis.clients.jedis.RedisProtocol;
import redis.clients.jedis.Response;
import redis.clients.jedis.args.ExpiryOption;
import redis.clients.jedis.args.ListDirection;
import redis.clients.jedis.args.ListPosition;
import redis.clients.jedis.exceptions.JedisDataException;
import redis.clients.jedis.params.GetExParams;
import redis.clients.jedis.params.LPosParams;
import redis.clients.jedis.params.ScanParams;
import redis.clients.jedis.params.ZAddParams;
import redis.clients.jedis.params.ZParams;
import redis.clients.jedis.params.ZRangeParams;
import redis.clients.jedis.resps.ScanResult;
import redis.clients.jedis.resps.Tuple;

/** Jedis's tour. */
public final class JedisTour {
    private interface Body {
        void run(Jedis jedis) throws Exception;
    }

    public static void main(String[] arguments) {
        new Tour()
                .step("strings", with(JedisTour::strings))
                .step("keys and expiry", with(JedisTour::keysAndExpiry))
                .step("hashes", with(JedisTour::hashes))
                .step("lists", with(JedisTour::lists))
                .step("sets", with(JedisTour::sets))
                .step("sorted sets", with(JedisTour::sortedSets))
                .step("scanning", with(JedisTour::scanning))
                .step("pipelines", with(JedisTour::pipelines))
                .step("transactions", with(JedisTour::transactions))
                .step("publish and subscribe", with(JedisTour::publishSubscribe))
                .step("values", with(JedisTour::values))
                .step("concurrency", with(JedisTour::concurrency))
                .step("errors", with(JedisTour::errors))
                .step("RESP3", with(JedisTour::resp3))
                .step("sleep and wake", with(JedisTour::sleepAndWake))
                .step("restart", with(JedisTour::restart))
                .run();
    }

    private static Jedis connect(RedisProtocol protocol) {
        var config = DefaultJedisClientConfig.builder().protocol(protocol).socketTimeoutMillis(30_000).build();
        return new Jedis(new HostAndPort("127.0.0.1", Tour.PORT), config);
    }

    /** Tests a connection before it lends it, and so notices those that a restart broke. */
    private static RedisClient pool() {
        var config = new ConnectionPoolConfig();
        config.setMaxTotal(50);
        config.setTestOnBorrow(true);
        return RedisClient.builder().hostAndPort("127.0.0.1", Tour.PORT).poolConfig(config).build();
    }

    private static Tour.Body with(Body body) {
        return () -> {
            try (Jedis jedis = connect(RedisProtocol.RESP2)) {
                jedis.flushAll();
                body.run(jedis);
            }
        };
    }

    private static void strings(Jedis j) {
        Tour.equal(j.set("k", "v"), "OK");
        Tour.equal(j.set("k", "w", setParams().nx()), null);
        Tour.equal(j.setGet("k", "w", setParams().xx().ex(100)), "v");
        Tour.equal(j.set("k", "x", setParams().keepTtl()), "OK");
        Tour.equal(j.ttl("k"), 100);
        j.set("k", "y", setParams().pxAt(4_000_000_000_123L));
        Tour.equal(j.pexpireTime("k"), 4_000_000_000_123L);
        j.set("k", "y", setParams().exAt(4_000_000_000L));
        Tour.equal(j.expireTime("k"), 4_000_000_000L);
        j.set("k", "z", setParams().px(100_000));
        Tour.equal(j.getEx("k", GetExParams.getExParams().persist()), "z");
        Tour.equal(j.ttl("k"), -1);
        Tour.equal(j.getDel("k"), "z");
        Tour.equal(j.get("k"), null);
        j.mset("a", "1", "b", "2");
        Tour.equal(j.mget("a", "none", "b"), Arrays.asList("1", null, "2"));
        Tour.equal(j.msetnx("c", "3", "a", "9"), 0);
        Tour.equal(j.incrBy("a", 41), 42);
        Tour.equal(j.decr("a"), 41);
        Tour.equal(j.incrByFloat("a", 0.25), 41.25);
        Tour.equal(j.append("s", "Hello World"), 11);
        Tour.equal(j.setrange("s", 6, "Redis"), 11);
        Tour.equal(j.getrange("s", -5, -1), "Redis");
        Tour.equal(j.strlen("s"), 11);
    }

    private static void keysAndExpiry(Jedis j) throws Exception {
        j.mset("user:1", "a", "user:2", "b", "other", "c");
        Tour.equal(j.keys("user:?"), Set.of("user:1", "user:2"));
        Tour.equal(j.dbSize(), 3);
        Tour.equal(j.exists("user:1", "user:1", "none"), 2);
        Tour.equal(j.type("user:1"), "string");
        Tour.equal(j.rename("other", "another"), "OK");
        Tour.equal(j.renamenx("another", "user:1"), 0);
        Tour.equal(j.copy("user:1", "user:2", true), true);
        Tour.equal(j.expire("user:1", 100), 1);
        Tour.equal(j.expire("user:1", 50, ExpiryOption.GT), 0);
        Tour.equal(j.expire("user:1", 50, ExpiryOption.LT), 1);
        Tour.equal(List.of(j.ttl("user:1"), j.ttl("user:2"), j.ttl("none")), List.of(50L, -1L, -2L));
        Tour.equal(j.persist("user:1"), 1);
        Tour.equal(j.pexpire("user:2", 1), 1);
        Tour.until(() -> !j.exists("user:2"));
        Tour.equal(j.objectEncoding("user:1"), "embstr");
        Tour.equal(j.move("another", 3), 1);
        Tour.equal(j.unlink("user:1", "none"), 1);
        Tour.equal(j.randomKey(), null);
    }

    private static void hashes(Jedis j) {
        Tour.equal(j.hset("h", Map.of("name", "Ada", "age", "36")), 2);
        Tour.equal(j.hgetAll("h"), Map.of("name", "Ada", "age", "36"));
        Tour.equal(j.hmget("h", "name", "none"), Arrays.asList("Ada", null));
        Tour.equal(j.hincrBy("h", "age", -6), 30);
        Tour.equal(j.hincrByFloat("h", "age", 0.5), 30.5);
        Tour.equal(j.hsetnx("h", "name", "x"), 0);
        Tour.equal(j.hkeys("h"), Set.of("name", "age"));
        Tour.equal(j.hexists("h", "name"), true);
        Tour.equal(j.hstrlen("h", "name"), 3);
        Tour.equal(j.hdel("h", "name", "age", "none"), 2);
        Tour.equal(j.exists("h"), false);
    }

    private static void lists(Jedis j) {
        Tour.equal(j.rpush("l", "a", "b", "c", "d"), 4);
        Tour.equal(j.lpush("l", "z"), 5);
        Tour.equal(j.lrange("l", 0, -1), List.of("z", "a", "b", "c", "d"));
        Tour.equal(j.linsert("l", ListPosition.AFTER, "z", "y"), 6);
        Tour.equal(j.lset("l", -1, "e"), "OK");
        Tour.equal(j.lindex("l", -1), "e");
        Tour.equal(j.lpop("l", 2), List.of("z", "y"));
        Tour.equal(j.lpos("l", "c", LPosParams.lPosParams().rank(-1)), 2);
        Tour.equal(j.lrem("l", 0, "c"), 1);
        Tour.equal(j.lmove("l", "m", ListDirection.RIGHT, ListDirection.LEFT), "e");
        var popped = j.lmpop(ListDirection.LEFT, 9, "none", "l");
        Tour.equal(popped.getKey(), "l");
        Tour.equal(popped.getValue(), List.of("a", "b"));
        Tour.equal(j.rpushx("none", "x"), 0);
        j.rpush("t", Tour.numbers(1000).toArray(String[]::new));
        Tour.equal(j.ltrim("t", -2, -1), "OK");
        Tour.equal(j.lrange("t", 0, -1), List.of("998", "999"));
    }

    private static void sets(Jedis j) {
        Tour.equal(j.sadd("a", "1", "2", "3", "3"), 3);
        Tour.equal(j.sadd("b", "2", "3", "4"), 3);
        Tour.equal(j.sinter("a", "b"), Set.of("2", "3"));
        Tour.equal(j.sunion("a", "b"), Set.of("1", "2", "3", "4"));
        Tour.equal(j.sdiff("a", "b"), Set.of("1"));
        Tour.equal(j.sunionstore("d", "a", "b"), 4);
        Tour.equal(j.sintercard(1, "a", "b"), 1);
        Tour.equal(j.smismember("a", "1", "9"), List.of(true, false));
        Tour.equal(j.smove("a", "b", "1"), 1);
        Tour.equal(j.srem("a", "2", "9"), 1);
        Tour.equal(j.spop("b", 9), Set.of("1", "2", "3", "4"));
        Tour.equal(j.srandmember("a", -2), List.of("3", "3"));
    }

    private static void sortedSets(Jedis j) {
        Tour.equal(j.zadd("z", Map.of("a", 1.0, "b", 2.0, "c", 3.0, "d", 4.0)), 4);
        Tour.equal(j.zadd("z", 9, "a", ZAddParams.zAddParams().nx()), 0);
        Tour.equal(j.zaddIncr("z", 0.5, "a", ZAddParams.zAddParams().xx().gt()), 1.5);
        Tour.equal(j.zmscore("z", "a", "none"), Arrays.asList(1.5, null));
        Tour.equal(j.zrange("z", 0, -1), List.of("a", "b", "c", "d"));
        Tour.equal(j.zrange("z", ZRangeParams.zrangeParams(0, 1).rev()), List.of("d", "c"));
        var above = zrangeByScoreParams(2, Double.POSITIVE_INFINITY);
        Tour.equal(j.zrange("z", above.limit(1, 1)), List.of("c"));
        Tour.equal(j.zrange("z", zrangeByScoreParams(Double.POSITIVE_INFINITY, 3).rev()), List.of("d", "c"));
        Tour.equal(j.zrangeWithScores("z", 0, 0), List.of(new Tuple("a", 1.5)));
        Tour.equal(j.zcount("z", "(1.5", "(4"), 2);
        Tour.equal(j.zrangestore("to", "z", ZRangeParams.zrangeParams(1, 2)), 2);
        "abcde".chars().forEach(member -> j.zadd("lex", 0, Character.toString(member)));
        Tour.equal(j.zrange("lex", zrangeByLexParams("[b", "(e")), List.of("b", "c", "d"));
        Tour.equal(j.zrange("lex", zrangeByLexParams("+", "[d").rev()), List.of("e", "d"));
        Tour.equal(j.zlexcount("lex", "-", "+"), 5);
        Tour.equal(j.zremrangeByLex("lex", "[a", "[b"), 2);
        Tour.equal(j.zremrangeByScore("lex", 0, 0), 3);
        Tour.equal(j.zrank("z", "c"), 2);
        Tour.equal(j.zrevrank("z", "c"), 1);
        Tour.equal(j.zcount("z", 2, 3), 2);
        j.zadd("y", Map.of("a", 10.0, "x", Double.POSITIVE_INFINITY));
        Tour.equal(j.zinterWithScores(new ZParams().weights(2, 1), "z", "y"), List.of(new Tuple("a", 13.0)));
        Tour.equal(j.zdiff("z", "y"), List.of("b", "c", "d"));
        Tour.equal(j.zunionstore("u", new ZParams().aggregate(ZParams.Aggregate.MAX), "z", "y"), 5);
        Tour.equal(j.zscore("u", "x"), Double.POSITIVE_INFINITY);
        Tour.equal(j.zpopmin("z"), new Tuple("a", 1.5));
        Tour.equal(j.zpopmax("z", 2), List.of(new Tuple("d", 4.0), new Tuple("c", 3.0)));
    }

    private static void scanning(Jedis j) {
        Set<String> names = IntStream.range(0, 2000).mapToObj(i -> "key:" + i).collect(Collectors.toSet());
        try (var pipeline = j.pipelined()) {
            names.forEach(name -> {
                pipeline.set(name, "v");
                pipeline.hset("hash", name, "v");
                pipeline.sadd("set", name);
                pipeline.zadd("zset", 1, name);
            });
        }
        Tour.equal(scanAll(cursor -> j.scan(cursor, new ScanParams().match("key:*").count(100))), names);
        Tour.equal(scanAll(cursor -> j.scan(cursor, new ScanParams(), "zset")), Set.of("zset"));
        Set<Map.Entry<String, String>> fields = scanAll(cursor -> j.hscan("hash", cursor));
        Tour.equal(fields.stream().map(Map.Entry::getKey).collect(Collectors.toSet()), names);
        Tour.equal(scanAll(cursor -> j.sscan("set", cursor, new ScanParams().count(500))), names);
        Set<Tuple> scored = scanAll(cursor -> j.zscan("zset", cursor));
        Tour.equal(scored.stream().map(Tuple::getElement).collect(Collectors.toSet()), names);
    }

    private static <T> Set<T> scanAll(Function<String, ScanResult<T>> scan) {
        Set<T> found = new HashSet<>();
        String cursor = ScanParams.SCAN_POINTER_START;
        do {
            ScanResult<T> page = scan.apply(cursor);
            found.addAll(page.getResult());
            cursor = page.getCursor();
        } while (!cursor.equals(ScanParams.SCAN_POINTER_START));
        return found;
    }

    private static void pipelines(Jedis j) {
        var pipeline = j.pipelined();
        List<Response<String>> answers = new ArrayList<>();
        for (int i = 0; i < 5000; i++) {
            pipeline.set("key:" + i, "" + i);
            answers.add(pipeline.get("key:" + i));
        }
        Response<Long> wrong = pipeline.lpush("key:0", "x");
        pipeline.sync();
        Tour.equal(answers.stream().map(Response::get).toList(), Tour.numbers(5000));
        try {
            wrong.get();
            throw new AssertionError("not refused");
        } catch (JedisDataException problem) {
            Tour.equal(problem.getMessage(), Tour.WRONG_TYPE);
        }
    }

    private static void transactions(Jedis j) throws Exception {
        var transaction = j.multi();
        transaction.set("a", "1");
        Response<Long> sum = transaction.incrBy("a", 41);
        Tour.equal(transaction.exec(), List.of("OK", 42L));
        Tour.equal(sum.get(), 42);
        try (Jedis other = connect(RedisProtocol.RESP2)) {
            j.watch("a");
            other.set("a", "from elsewhere");
            var conflict = j.multi();
            conflict.set("a", "mine");
            Tour.equal(conflict.exec(), null);
        }
        var discarded = j.multi();
        discarded.set("a", "gone");
        Tour.equal(discarded.discard(), "OK");
        Tour.equal(j.get("a"), "from elsewhere");
        Tour.refused("ERR EXEC without MULTI", () -> j.sendCommand(Command.EXEC));
        j.sendCommand(Command.MULTI);
        Tour.refused("ERR wrong number of arguments for 'get' command", () -> j.sendCommand(Command.GET));
        Tour.refused("EXECABORT Transaction discarded because of previous errors.", () -> j.sendCommand(Command.EXEC));
    }

    private static final class Listener extends JedisPubSub {
        final BlockingQueue<String> inbox = new ArrayBlockingQueue<>(100);

        @Override
        public void onSubscribe(String channel, int count) {
            inbox.add("subscribed " + channel);
        }

        @Override
        public void onPSubscribe(String pattern, int count) {
            inbox.add("subscribed " + pattern);
        }

        @Override
        public void onMessage(String channel, String message) {
            inbox.add(channel + " " + message);
        }

        @Override
        public void onPMessage(String pattern, String channel, String message) {
            inbox.add(pattern + " " + channel + " " + message);
        }

        /** Listens on a connection and a thread of its own, until it has unsubscribed from all. */
        Thread listen() throws Exception {
            Thread thread = new Thread(() -> {
                try (Jedis own = connect(RedisProtocol.RESP2)) {
                    own.subscribe(this, "news");
                }
            });
            thread.setDaemon(true);
            thread.start();
            expect("subscribed news");
            return thread;
        }

        void expect(String message) throws Exception {
            Tour.equal(inbox.poll(10, TimeUnit.SECONDS), message);
        }
    }

    private static void publishSubscribe(Jedis j) throws Exception {
        Listener listener = new Listener();
        Thread thread = listener.listen();
        listener.psubscribe("user.*");
        listener.expect("subscribed user.*");
        Tour.equal(j.publish("news", "hello"), 1);
        Tour.equal(j.publish("user.7", "hi"), 1);
        Tour.equal(j.publish("nobody", "?"), 0);
        listener.expect("news hello");
        listener.expect("user.* user.7 hi");
        Tour.equal(j.pubsubChannels(), List.of("news"));
        Tour.equal(j.pubsubNumSub("news", "none"), Map.of("news", 1L, "none", 0L));
        listener.unsubscribe();
        listener.punsubscribe();
        thread.join(10_000);
        Tour.equal(thread.isAlive(), false);
    }

    private static void values(Jedis j) {
        byte[] key = Tour.everyByte();
        byte[] big = Tour.oneMiB();
        j.set(key, big);
        Tour.equal(j.get(key), big);
        j.rpush("l".getBytes(StandardCharsets.UTF_8), key, big, new byte[0]);
        Tour.equal(j.lrange("l".getBytes(StandardCharsets.UTF_8), 0, -1).toArray(), new byte[][] {key, big, {}});
        j.set("größe", "mäuschen 🐭");
        Tour.equal(j.get("größe"), "mäuschen 🐭");
    }

    private static void concurrency(Jedis j) throws Exception {
        try (RedisClient pool = pool()) {
            List<Thread> threads = IntStream.range(0, 50)
                    .mapToObj(i -> new Thread(() -> IntStream.range(0, 100).forEach(n -> pool.incr("counter"))))
                    .toList();
            threads.forEach(Thread::start);
            for (Thread thread : threads) {
                thread.join();
            }
        }
        Tour.equal(j.get("counter"), "5000");
    }

    private static void errors(Jedis j) throws Exception {
        j.set("s", "text");
        Tour.refused(Tour.WRONG_TYPE, () -> j.lpush("s", "x"));
        Tour.refused("ERR value is not an integer or out of range", () -> j.incr("s"));
        Tour.refused("ERR syntax error", () -> j.sendCommand(Command.SET, "s", "v", "SIDEWAYS"));
        Tour.refused("ERR invalid expire time in 'set' command", () -> j.set("s", "v", setParams().ex(0)));
        Tour.refused("ERR no such key", () -> j.rename("none", "x"));
        Tour.refused("ERR unknown command 'NONSENSE', with args beginning with: 'x' ",
                () -> j.sendCommand(() -> "NONSENSE".getBytes(StandardCharsets.UTF_8), "x"));
        Tour.equal(j.get("s"), "text");
    }

    private static void resp3(Jedis unused) throws Exception {
        try (Jedis j = connect(RedisProtocol.RESP3)) {
            List<Body> tours = List.of(JedisTour::strings, JedisTour::hashes, JedisTour::lists, JedisTour::sets,
                    JedisTour::sortedSets, JedisTour::scanning, JedisTour::transactions, JedisTour::errors);
            for (Body tour : tours) {
                j.flushAll();
                tour.run(j);
            }
        }
    }

    private static void sleepAndWake(Jedis j) throws Exception {
        if (!Tour.DORMOUSE) {
            return;
        }
        Listener listener = new Listener();
        listener.listen();
        try (Jedis other = connect(RedisProtocol.RESP3)) {
            fill(j);
            long id = j.clientId();
            long otherId = other.clientId();
            sleep(j);
            checkFilled(other);
            sleep(other);
            checkFilled(j);
            Tour.equal(j.clientId(), id);
            Tour.equal(other.clientId(), otherId);
            sleep(j);
            Tour.equal(j.publish("news", "awake?"), 1);
            listener.expect("news awake?");
            Tour.equal(other.incr("counter"), 8);
        }
        listener.unsubscribe();
    }

    private static void sleep(Jedis j) {
        Object reply = j.sendCommand(() -> "DORMOUSE".getBytes(StandardCharsets.UTF_8), "SLEEP");
        Tour.equal(new String((byte[]) reply, StandardCharsets.UTF_8), "OK");
    }

    private static void restart(Jedis j) throws Exception {
        fill(j);
        try (RedisClient pool = pool()) {
            Tour.equal(pool.get("counter"), "7");
            Tour.restartServer();
            Tour.equal(pool.get("counter"), "7");
        }
        try (Jedis after = connect(RedisProtocol.RESP3)) {
            checkFilled(after);
        }
    }

    private static void fill(Jedis j) {
        j.set("counter", "7");
        try (var pipeline = j.pipelined()) {
            for (int i = 0; i < 1000; i++) {
                pipeline.hset("hash", "f" + i, "" + i);
                pipeline.rpush("list", "" + i);
                pipeline.sadd("set", "" + i);
                pipeline.zadd("zset", i / 2.0, "m" + i);
            }
        }
    }

    private static void checkFilled(Jedis j) {
        Map<String, String> fields = new HashMap<>();
        List<Tuple> scored = new ArrayList<>();
        for (int i = 0; i < 1000; i++) {
            fields.put("f" + i, "" + i);
            scored.add(new Tuple("m" + i, i / 2.0));
        }
        Tour.equal(j.get("counter"), "7");
        Tour.equal(j.hgetAll("hash"), fields);
        Tour.equal(j.lrange("list", 0, -1), Tour.numbers(1000));
        Tour.equal(j.smembers("set"), Set.copyOf(Tour.numbers(1000)));
        Tour.equal(j.zrangeWithScores("zset", 0, -1), scored);
    }
}
