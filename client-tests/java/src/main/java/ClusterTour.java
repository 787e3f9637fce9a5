import io.lettuce.core.RedisURI;
import io.lettuce.core.cluster.RedisClusterClient;
import io.lettuce.core.cluster.SlotHash;
import io.lettuce.core.cluster.api.sync.RedisAdvancedClusterCommands;
import io.lettuce.core.cluster.models.partitions.RedisClusterNode;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;

/** Lettuce's client of Redis Cluster, with a token for each database. */
public final class ClusterTour {
    private static final String[] TOKENS = System.getenv("DORMOUSE_TEST_TOKENS").split(" ");

    private interface Body {
        void run(RedisAdvancedClusterCommands<String, String> redis) throws Exception;
    }

    public static void main(String[] arguments) {
        new Tour()
                .step("topology", with(0, ClusterTour::topology))
                .step("keys of many slots", with(0, ClusterTour::keysOfManySlots))
                .step("databases apart", with(0, ClusterTour::databasesApart))
                .step("restart", with(0, ClusterTour::restart))
                .run();
    }

    private static Tour.Body with(int database, Body body) {
        return () -> {
            RedisURI uri = RedisURI.builder()
                    .withHost("127.0.0.1")
                    .withPort(Tour.PORT)
                    .withPassword(TOKENS[database].toCharArray())
                    .withTimeout(Duration.ofSeconds(30))
                    .build();
            RedisClusterClient client = RedisClusterClient.create(uri);
            try {
                RedisAdvancedClusterCommands<String, String> redis = client.connect().sync();
                redis.flushall();
                body.run(redis);
            } finally {
                client.shutdown();
            }
        };
    }

    private static void topology(RedisAdvancedClusterCommands<String, String> redis) {
        RedisClusterNode node = redis.getStatefulConnection().getPartitions().getPartition(0);
        Tour.equal(redis.getStatefulConnection().getPartitions().size(), 1);
        Tour.equal(node.getUri().getPort(), Tour.PORT);
        Tour.equal(node.getSlots().size(), SlotHash.SLOT_COUNT);
        Tour.equal(redis.clusterKeyslot("{user}:1"), SlotHash.getSlot("{user}:1"));
        redis.set("{user}:1", "1");
        Tour.equal(redis.clusterCountKeysInSlot(SlotHash.getSlot("user")), 1);
    }

    private static void keysOfManySlots(RedisAdvancedClusterCommands<String, String> redis) {
        Map<String, String> values = new HashMap<>();
        for (int n = 0; n < 300; n++) {
            values.put("key:" + n, String.valueOf(n));
        }
        Tour.equal(redis.mset(values), "OK");
        values.forEach((key, value) -> Tour.equal(redis.get(key), value));
        Tour.equal(redis.dbsize(), 300);
        Tour.equal(redis.del(values.keySet().toArray(String[]::new)), 300);
    }

    private static void databasesApart(RedisAdvancedClusterCommands<String, String> redis) throws Exception {
        redis.set("whose", "first");
        with(1, other -> {
            Tour.equal(other.get("whose"), null);
            other.set("whose", "second");
        }).run();
        Tour.equal(redis.get("whose"), "first");
    }

    private static void restart(RedisAdvancedClusterCommands<String, String> redis) throws Exception {
        redis.set("kept", "v");
        Tour.restartServer();
        Tour.until(() -> {
            try {
                return "v".equals(redis.get("kept"));
            } catch (RuntimeException problem) {
                return false;
            }
        });
    }
}
