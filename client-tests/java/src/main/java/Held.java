import io.lettuce.core.RedisClient;
import redis.clients.jedis.Jedis;

/** Increments a counter once, by the defaults of a library. client-tests/src/held.rs describes what is printed. */
final class Held {
    public static void main(String[] arguments) {
        String said;
        try {
            long number = arguments[0].equals("jedis") ? jedis(arguments[1]) : lettuce(arguments[1]);
            said = "reply " + number;
        } catch (RuntimeException problem) {
            said = "error " + problem.getMessage();
        }
        System.out.println(said);
        System.exit(0);
    }

    private static long jedis(String counter) {
        try (Jedis client = new Jedis("127.0.0.1", Tour.PORT)) {
            return client.incr(counter);
        }
    }

    private static long lettuce(String counter) {
        RedisClient client = RedisClient.create("redis://127.0.0.1:" + Tour.PORT);
        return client.connect().sync().incr(counter);
    }
}
