import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisCommandExecutionException;
import io.lettuce.core.api.sync.RedisCommands;
import io.lettuce.core.codec.StringCodec;
import io.lettuce.core.output.StatusOutput;
import io.lettuce.core.protocol.CommandArgs;
import io.lettuce.core.protocol.ProtocolKeyword;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Callable;

/**
 * Runs the steps of an application, and puts the database to sleep beneath it. The runner's side of the protocol is
 * described in client-tests/src/lib.rs.
 */
final class Steps {
    static final int PORT = Integer.parseInt(System.getenv("DORMOUSE_TEST_PORT"));
    private static final boolean DORMOUSE = "dormouse".equals(System.getenv("DORMOUSE_TEST_SERVER"));
    /** A step takes seconds; a machine that is busy with a build may need far longer. */
    static final int LIMIT_MS = 40_000;

    interface Body {
        void run() throws Exception;
    }

    private record Step(String name, Body body) {}

    private enum Keyword implements ProtocolKeyword {
        DORMOUSE;

        @Override
        public byte[] getBytes() {
            return name().getBytes(StandardCharsets.US_ASCII);
        }
    }

    static final RedisCommands<String, String> OPERATOR =
            RedisClient.create("redis://127.0.0.1:" + PORT).connect().sync();

    private final List<Step> steps = new ArrayList<>();

    Steps step(String name, Body body) {
        steps.add(new Step(name, body));
        return this;
    }

    /** Runs each step on an empty database, and ends the program. */
    void run() {
        int failed = 0;
        for (Step step : steps) {
            long start = System.nanoTime();
            try {
                OPERATOR.flushall();
                step.body.run();
                System.out.printf("ok %s (%d ms)%n", step.name, (System.nanoTime() - start) / 1_000_000);
            } catch (Throwable problem) {
                failed++;
                System.out.println("not ok " + step.name);
                problem.printStackTrace(System.out);
            }
        }
        System.out.printf("%d passed, %d failed%n", steps.size() - failed, failed);
        System.exit(failed == 0 ? 0 : 1);
    }

    /** Puts the database to sleep from a connection of its own. */
    static void sleep() throws Exception {
        if (!DORMOUSE) {
            return;
        }
        until("it sleeps", () -> {
            try {
                CommandArgs<String, String> args = new CommandArgs<>(StringCodec.UTF8).add("SLEEP");
                return "OK".equals(OPERATOR.dispatch(Keyword.DORMOUSE, new StatusOutput<>(StringCodec.UTF8), args));
            } catch (RedisCommandExecutionException problem) {
                // A database that is written to in each round of its last checkpoint stays awake.
                if (!problem.getMessage().startsWith("ERR clients go on writing")) {
                    throw problem;
                }
                return false;
            }
        });
    }

    static void until(String what, Callable<Boolean> condition) throws Exception {
        long deadline = System.nanoTime() + LIMIT_MS * 1_000_000L;
        while (!condition.call()) {
            check(System.nanoTime() < deadline, "still not so: " + what);
            Thread.sleep(5);
        }
    }

    static void equal(Object actual, Object expected) {
        check(Objects.equals(actual, expected), "got " + actual + ", want " + expected);
    }

    static void check(boolean condition, String otherwise) {
        if (!condition) {
            throw new AssertionError(otherwise);
        }
    }
}
