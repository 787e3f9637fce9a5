import static io.lettuce.core.SetArgs.Builder.ex;
import static io.lettuce.core.SetArgs.Builder.keepttl;
import static io.lettuce.core.SetArgs.Builder.nx;

import io.lettuce.core.ClientOptions;
import io.lettuce.core.CopyArgs;
import io.lettuce.core.ExpireArgs;
import io.lettuce.core.KeyScanCursor;
import io.lettuce.core.KeyValue;
import io.lettuce.core.LMPopArgs;
import io.lettuce.core.LMoveArgs;
import io.lettuce.core.LPosArgs;
import io.lettuce.core.Limit;
import io.lettuce.core.Range;
import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisFuture;
import io.lettuce.core.RedisURI;
import io.lettuce.core.ScanArgs;
import io.lettuce.core.ScanIterator;
import io.lettuce.core.ScoredValue;
import io.lettuce.core.SetArgs;
import io.lettuce.core.ZAddArgs;
import io.lettuce.core.ZStoreArgs;
import io.lettuce.core.api.StatefulRedisConnection;
import io.lettuce.core.api.sync.RedisCommands;
import io.lettuce.core.codec.ByteArrayCodec;
import io.lettuce.core.codec.StringCodec;
import io.lettuce.core.output.StatusOutput;
import io.lettuce.core.protocol.CommandArgs;
import io.lettuce.core.protocol.ProtocolKeyword;
import io.lettuce.core.protocol.ProtocolVersion;
import io.lettuce.core.pubsub.RedisPubSubAdapter;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** Lettuce's tour: mostly RESP3, which it asks for by itself. */
public final class LettuceTour {
    private static final RedisClient CLIENT = client(ProtocolVersion.RESP3);

    private interface Body {
        void run(RedisCommands<String, String> redis) throws Exception;
    }

    public static void main(String[] arguments) {
        new Tour()
                .step("strings", with(LettuceTour::strings))
                .step("keys and expiry", with(LettuceTour::keysAndExpiry))
                .step("hashes", with(LettuceTour::hashes))
                .step("lists", with(LettuceTour::lists))
                .step("sets", with(LettuceTour::sets))
                .step("sorted sets", with(LettuceTour::sortedSets))
                .step("scanning", with(LettuceTour::scanning))
                .step("pipelines", with(LettuceTour::pipelines))
                .step("transactions", with(LettuceTour::transactions))
                .step("publish and subscribe", with(LettuceTour::publishSubscribe))
                .step("values", with(LettuceTour::values))
                .step("concurrency", with(LettuceTour::concurrency))
                .step("errors", with(LettuceTour::errors))
                .step("RESP2", with(LettuceTour::resp2))
                .step("sleep and wake", with(LettuceTour::sleepAndWake))
                .step("restart", with(LettuceTour::restart))
                .run();
    }

    private static RedisClient client(ProtocolVersion version) {
        RedisURI uri = RedisURI.builder().withHost("127.0.0.1").withPort(Tour.PORT).withTimeout(Duration.ofSeconds(30)).build();
        RedisClient client = RedisClient.create(uri);
        client.setOptions(ClientOptions.builder().protocolVersion(version).build());
        return client;
    }

    private static Tour.Body with(Body body) {
        return () -> {
            try (StatefulRedisConnection<String, String> connection = CLIENT.connect()) {
                connection.sync().flushall();
                body.run(connection.sync());
            }
        };
    }

    private static void strings(RedisCommands<String, String> r) {
        Tour.equal(r.set("k", "v"), "OK");
        Tour.equal(r.set("k", "w", nx()), null);
        Tour.equal(r.setGet("k", "w", ex(100).xx()), "v");
        Tour.equal(r.set("k", "x", keepttl()), "OK");
        Tour.equal(r.ttl("k"), 100);
        r.set("k", "y", SetArgs.Builder.pxAt(4_000_000_000_123L));
        Tour.equal(r.pexpiretime("k"), 4_000_000_000_123L);
        r.set("k", "y", SetArgs.Builder.exAt(4_000_000_000L));
        Tour.equal(r.expiretime("k"), 4_000_000_000L);
        r.set("k", "z", SetArgs.Builder.px(100_000));
        Tour.equal(r.getdel("k"), "z");
        Tour.equal(r.get("k"), null);
        r.mset(Map.of("a", "1", "b", "2"));
        Tour.equal(r.mget("a", "none", "b"), List.of(KeyValue.just("a", "1"), KeyValue.empty("none"), KeyValue.just("b", "2")));
        Tour.equal(r.msetnx(Map.of("c", "3", "a", "9")), false);
        Tour.equal(r.incrby("a", 41), 42);
        Tour.equal(r.decr("a"), 41);
        Tour.equal(r.incrbyfloat("a", 0.25), 41.25);
        Tour.equal(r.append("s", "Hello World"), 11);
        Tour.equal(r.setrange("s", 6, "Redis"), 11);
        Tour.equal(r.getrange("s", -5, -1), "Redis");
    }

    private static void keysAndExpiry(RedisCommands<String, String> r) throws Exception {
        r.mset(Map.of("user:1", "a", "user:2", "b", "other", "c"));
        Tour.equal(Set.copyOf(r.keys("user:?")), Set.of("user:1", "user:2"));
        Tour.equal(r.exists("user:1", "user:1", "none"), 2);
        Tour.equal(r.type("user:1"), "string");
        Tour.equal(r.rename("other", "another"), "OK");
        Tour.equal(r.renamenx("another", "user:1"), false);
        Tour.equal(r.copy("user:1", "user:2", CopyArgs.Builder.replace(true)), true);
        Tour.equal(r.expire("user:1", 100), true);
        Tour.equal(r.expire("user:1", 50, ExpireArgs.Builder.gt()), false);
        Tour.equal(r.expire("user:1", 50, ExpireArgs.Builder.lt()), true);
        Tour.equal(List.of(r.ttl("user:1"), r.ttl("user:2"), r.ttl("none")), List.of(50L, -1L, -2L));
        Tour.equal(r.persist("user:1"), true);
        Tour.equal(r.pexpire("user:2", 1), true);
        Tour.until(() -> r.exists("user:2") == 0);
        Tour.equal(r.objectEncoding("user:1"), "embstr");
        Tour.equal(r.move("another", 3), true);
        Tour.equal(r.unlink("user:1", "none"), 1);
        Tour.equal(r.dbsize(), 0);
    }

    private static void hashes(RedisCommands<String, String> r) {
        Tour.equal(r.hset("h", Map.of("name", "Ada", "age", "36")), 2);
        Tour.equal(r.hgetall("h"), Map.of("name", "Ada", "age", "36"));
        Tour.equal(r.hmget("h", "name", "none"), List.of(KeyValue.just("name", "Ada"), KeyValue.empty("none")));
        Tour.equal(r.hincrby("h", "age", -6), 30);
        Tour.equal(r.hincrbyfloat("h", "age", 0.5), 30.5);
        Tour.equal(r.hsetnx("h", "name", "x"), false);
        Tour.equal(Set.copyOf(r.hkeys("h")), Set.of("name", "age"));
        Tour.equal(Set.copyOf(r.hrandfieldWithvalues("h", 5)), Set.of(KeyValue.just("name", "Ada"), KeyValue.just("age", "30.5")));
        Tour.equal(r.hdel("h", "name", "age", "none"), 2);
        Tour.equal(r.hlen("h"), 0);
    }

    private static void lists(RedisCommands<String, String> r) {
        Tour.equal(r.rpush("l", "a", "b", "c", "d"), 4);
        Tour.equal(r.lpush("l", "z"), 5);
        Tour.equal(r.lrange("l", 0, -1), List.of("z", "a", "b", "c", "d"));
        Tour.equal(r.linsert("l", false, "z", "y"), 6);
        Tour.equal(r.lset("l", -1, "e"), "OK");
        Tour.equal(r.lindex("l", -1), "e");
        Tour.equal(r.lpop("l", 2), List.of("z", "y"));
        Tour.equal(r.lpos("l", "c", LPosArgs.Builder.rank(-1)), 2);
        Tour.equal(r.lrem("l", 0, "c"), 1);
        Tour.equal(r.lmove("l", "m", LMoveArgs.Builder.rightLeft()), "e");
        Tour.equal(r.lmpop(LMPopArgs.Builder.left().count(9), "none", "l"), KeyValue.just("l", List.of("a", "b")));
        Tour.equal(r.rpushx("none", "x"), 0);
        Tour.equal(r.exists("l"), 0);
    }

    private static void sets(RedisCommands<String, String> r) {
        Tour.equal(r.sadd("a", "1", "2", "3", "3"), 3);
        Tour.equal(r.sadd("b", "2", "3", "4"), 3);
        Tour.equal(r.sinter("a", "b"), Set.of("2", "3"));
        Tour.equal(r.sunion("a", "b"), Set.of("1", "2", "3", "4"));
        Tour.equal(r.sdiff("a", "b"), Set.of("1"));
        Tour.equal(r.sunionstore("d", "a", "b"), 4);
        Tour.equal(r.sintercard(1, "a", "b"), 1);
        Tour.equal(r.smismember("a", "1", "9"), List.of(true, false));
        Tour.equal(r.smove("a", "b", "1"), true);
        Tour.equal(r.spop("b", 9), Set.of("1", "2", "3", "4"));
        Tour.equal(r.smembers("a"), Set.of("2", "3"));
    }

    private static void sortedSets(RedisCommands<String, String> r) {
        Tour.equal(r.zadd("z", 1.0, "a", 2.0, "b", 3.0, "c", 4.0, "d"), 4);
        Tour.equal(r.zadd("z", ZAddArgs.Builder.nx(), 9, "a"), 0);
        Tour.equal(r.zaddincr("z", ZAddArgs.Builder.xx().gt(), 0.5, "a"), 1.5);
        Tour.equal(r.zrange("z", 0, -1), List.of("a", "b", "c", "d"));
        Tour.equal(r.zrevrange("z", 0, 1), List.of("d", "c"));
        Range<Double> above = Range.from(Range.Boundary.excluding(1.5), Range.Boundary.unbounded());
        Tour.equal(r.zrangebyscore("z", above, Limit.create(1, 1)), List.of("c"));
        Tour.equal(r.zrevrangebyscore("z", Range.create(3, 4)), List.of("d", "c"));
        Tour.equal(r.zrangeWithScores("z", 0, 0), List.of(ScoredValue.just(1.5, "a")));
        Tour.equal(r.zrangestore("to", "z", Range.create(1L, 2L)), 2);
        "abcde".chars().forEach(member -> r.zadd("lex", 0, Character.toString(member)));
        Range<String> middle = Range.from(Range.Boundary.including("b"), Range.Boundary.excluding("e"));
        Tour.equal(r.zrangebylex("lex", middle), List.of("b", "c", "d"));
        Tour.equal(r.zrevrangebylex("lex", middle), List.of("d", "c", "b"));
        Tour.equal(r.zlexcount("lex", Range.unbounded()), 5);
        Tour.equal(r.zremrangebylex("lex", middle), 3);
        Tour.equal(r.zrank("z", "c"), 2);
        Tour.equal(r.zcount("z", Range.create(2, 3)), 2);
        r.zadd("y", 10.0, "a", Double.POSITIVE_INFINITY, "x");
        Tour.equal(r.zinterWithScores(ZStoreArgs.Builder.weights(2, 1), "z", "y"), List.of(ScoredValue.just(13, "a")));
        Tour.equal(r.zdiff("z", "y"), List.of("b", "c", "d"));
        Tour.equal(r.zunionstore("u", ZStoreArgs.Builder.max(), "z", "y"), 5);
        Tour.equal(r.zscore("u", "x"), Double.POSITIVE_INFINITY);
        Tour.equal(r.zpopmin("z"), ScoredValue.just(1.5, "a"));
        Tour.equal(r.zpopmax("z", 2), List.of(ScoredValue.just(4, "d"), ScoredValue.just(3, "c")));
    }

    private static void scanning(RedisCommands<String, String> r) {
        Map<String, String> pairs = IntStream.range(0, 2000).boxed().collect(Collectors.toMap(i -> "key:" + i, i -> "v"));
        r.mset(pairs);
        r.hset("hash", pairs);
        r.sadd("set", pairs.keySet().toArray(String[]::new));
        pairs.keySet().forEach(name -> r.zadd("zset", 1, name));
        Tour.equal(ScanIterator.scan(r, ScanArgs.Builder.matches("key:*").limit(100)).stream().collect(Collectors.toSet()), pairs.keySet());
        Tour.equal(ScanIterator.hscan(r, "hash").stream().map(KeyValue::getKey).collect(Collectors.toSet()), pairs.keySet());
        Tour.equal(ScanIterator.sscan(r, "set").stream().collect(Collectors.toSet()), pairs.keySet());
        Tour.equal(ScanIterator.zscan(r, "zset").stream().map(ScoredValue::getValue).collect(Collectors.toSet()), pairs.keySet());
        KeyScanCursor<String> page = r.scan(ScanArgs.Builder.limit(10));
        Set<String> found = new HashSet<>(page.getKeys());
        while (!page.isFinished()) {
            page = r.scan(page, ScanArgs.Builder.limit(10));
            found.addAll(page.getKeys());
        }
        Tour.equal(found.size(), 2003);
    }

    private static void pipelines(RedisCommands<String, String> unused) throws Exception {
        try (var connection = CLIENT.connect()) {
            connection.setAutoFlushCommands(false);
            List<RedisFuture<String>> answers = new ArrayList<>();
            for (int i = 0; i < 5000; i++) {
                connection.async().set("key:" + i, "" + i);
                answers.add(connection.async().get("key:" + i));
            }
            connection.flushCommands();
            for (int i = 0; i < 5000; i++) {
                Tour.equal(answers.get(i).get(30, TimeUnit.SECONDS), "" + i);
            }
        }
    }

    private static void transactions(RedisCommands<String, String> r) throws Exception {
        r.multi();
        r.set("a", "1");
        r.incrby("a", 41);
        Tour.equal(r.exec().stream().toList(), List.of("OK", 42L));
        try (var other = CLIENT.connect()) {
            r.watch("a");
            other.sync().set("a", "from elsewhere");
            r.multi();
            r.set("a", "mine");
            Tour.equal(r.exec().wasDiscarded(), true);
        }
        r.multi();
        r.set("a", "gone");
        Tour.equal(r.discard(), "OK");
        Tour.equal(r.get("a"), "from elsewhere");
        Tour.refused("ERR EXEC without MULTI", r::exec);
    }

    private static void publishSubscribe(RedisCommands<String, String> r) throws Exception {
        BlockingQueue<String> inbox = new ArrayBlockingQueue<>(100);
        try (var listener = CLIENT.connectPubSub()) {
            listener.addListener(new RedisPubSubAdapter<>() {
                @Override
                public void message(String channel, String message) {
                    inbox.add(channel + " " + message);
                }

                @Override
                public void message(String pattern, String channel, String message) {
                    inbox.add(pattern + " " + channel + " " + message);
                }
            });
            listener.sync().subscribe("news");
            listener.sync().psubscribe("user.*");
            Tour.equal(r.publish("news", "hello"), 1);
            Tour.equal(inbox.poll(10, TimeUnit.SECONDS), "news hello");
            Tour.equal(r.publish("user.7", "hi"), 1);
            Tour.equal(inbox.poll(10, TimeUnit.SECONDS), "user.* user.7 hi");
            Tour.equal(r.publish("nobody", "?"), 0);
            Tour.equal(r.pubsubNumsub("news"), Map.of("news", 1L));
            if (Tour.DORMOUSE) {
                sleep(r);
                Tour.equal(r.publish("news", "awake?"), 1);
                Tour.equal(inbox.poll(10, TimeUnit.SECONDS), "news awake?");
            }
        }
    }

    private static void values(RedisCommands<String, String> r) {
        try (var connection = CLIENT.connect(ByteArrayCodec.INSTANCE)) {
            var raw = connection.sync();
            raw.set(Tour.everyByte(), Tour.oneMiB());
            Tour.equal(raw.get(Tour.everyByte()), Tour.oneMiB());
            Tour.equal(raw.hset("h".getBytes(StandardCharsets.UTF_8), Tour.everyByte(), Tour.oneMiB()), true);
            Tour.equal(raw.hget("h".getBytes(StandardCharsets.UTF_8), Tour.everyByte()), Tour.oneMiB());
        }
        r.set("größe", "mäuschen 🐭");
        Tour.equal(r.get("größe"), "mäuschen 🐭");
    }

    private static void concurrency(RedisCommands<String, String> r) throws Exception {
        List<StatefulRedisConnection<String, String>> connections = new ArrayList<>();
        List<RedisFuture<Long>> answers = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            connections.add(CLIENT.connect());
        }
        for (int i = 0; i < 100; i++) {
            connections.forEach(connection -> answers.add(connection.async().incr("counter")));
        }
        for (RedisFuture<Long> answer : answers) {
            answer.get(30, TimeUnit.SECONDS);
        }
        connections.forEach(StatefulRedisConnection::close);
        Tour.equal(r.get("counter"), "5000");
    }

    private static void errors(RedisCommands<String, String> r) throws Exception {
        r.set("s", "text");
        Tour.refused(Tour.WRONG_TYPE, () -> r.lpush("s", "x"));
        Tour.refused("ERR value is not an integer or out of range", () -> r.incr("s"));
        Tour.refused("ERR invalid expire time in 'set' command", () -> r.set("s", "v", ex(0)));
        Tour.refused("ERR no such key", () -> r.rename("none", "x"));
        Tour.refused("ERR unknown command 'NONSENSE', with args beginning with: 'x' ", () -> dispatch(r, "NONSENSE", "x"));
        Tour.equal(r.get("s"), "text");
    }

    private static void resp2(RedisCommands<String, String> unused) throws Exception {
        RedisClient client = client(ProtocolVersion.RESP2);
        try (var connection = client.connect()) {
            List<Body> tours = List.of(LettuceTour::strings, LettuceTour::hashes, LettuceTour::lists, LettuceTour::sets,
                    LettuceTour::sortedSets, LettuceTour::scanning, LettuceTour::transactions, LettuceTour::errors);
            for (Body tour : tours) {
                connection.sync().flushall();
                tour.run(connection.sync());
            }
        }
        client.shutdown(Duration.ZERO, Duration.ofSeconds(5));
    }

    private static void sleepAndWake(RedisCommands<String, String> r) {
        if (!Tour.DORMOUSE) {
            return;
        }
        try (var connection = CLIENT.connect()) {
            var other = connection.sync();
            fill(r);
            List<Long> ids = List.of(r.clientId(), other.clientId());
            sleep(r);
            checkFilled(other);
            sleep(r);
            checkFilled(r);
            Tour.equal(List.of(r.clientId(), other.clientId()), ids);
            sleep(other);
            Tour.equal(r.incr("counter"), 8);
        }
    }

    private static void sleep(RedisCommands<String, String> r) {
        Tour.equal(dispatch(r, "DORMOUSE", "SLEEP"), "OK");
    }

    /** A command that Lettuce doesn't know. */
    private static String dispatch(RedisCommands<String, String> r, String name, String argument) {
        ProtocolKeyword keyword = new ProtocolKeyword() {
            @Override
            public byte[] getBytes() {
                return name.getBytes(StandardCharsets.UTF_8);
            }

            @Override
            public String toString() {
                return name;
            }
        };
        return r.dispatch(keyword, new StatusOutput<>(StringCodec.UTF8), new CommandArgs<>(StringCodec.UTF8).add(argument));
    }

    private static void restart(RedisCommands<String, String> r) throws Exception {
        fill(r);
        Tour.restartServer();
        checkFilled(r);
    }

    private static void fill(RedisCommands<String, String> r) {
        r.set("counter", "7");
        r.hset("hash", numbered("f"));
        r.rpush("list", Tour.numbers(1000).toArray(String[]::new));
        r.sadd("set", Tour.numbers(1000).toArray(String[]::new));
        for (int i = 0; i < 1000; i++) {
            r.zadd("zset", i / 2.0, "m" + i);
        }
    }

    private static void checkFilled(RedisCommands<String, String> r) {
        Tour.equal(r.get("counter"), "7");
        Tour.equal(r.hgetall("hash"), numbered("f"));
        Tour.equal(r.lrange("list", 0, -1), Tour.numbers(1000));
        Tour.equal(r.smembers("set"), Set.copyOf(Tour.numbers(1000)));
        Tour.equal(r.zrangeWithScores("zset", 0, -1),
                IntStream.range(0, 1000).mapToObj(i -> ScoredValue.just(i / 2.0, "m" + i)).toList());
    }

    private static Map<String, String> numbered(String prefix) {
        Map<String, String> pairs = new HashMap<>();
        IntStream.range(0, 1000).forEach(i -> pairs.put(prefix + i, "" + i));
        return pairs;
    }
}
