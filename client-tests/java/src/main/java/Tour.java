import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.function.BooleanSupplier;
import java.util.stream.IntStream;

/** What both suites share: the steps' runner and its side of the protocol in client-tests/src/lib.rs. */
final class Tour {
    static final int PORT = Integer.parseInt(System.getenv("DORMOUSE_TEST_PORT"));
    static final boolean DORMOUSE = "dormouse".equals(System.getenv("DORMOUSE_TEST_SERVER"));
    static final String WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value";

    interface Body {
        void run() throws Exception;
    }

    private record Step(String name, Body body) {}

    private static final BufferedReader INPUT = new BufferedReader(new InputStreamReader(System.in));
    private final List<Step> steps = new ArrayList<>();

    Tour step(String name, Body body) {
        steps.add(new Step(name, body));
        return this;
    }

    /** Runs all steps and ends the program. */
    void run() {
        int failed = 0;
        for (Step step : steps) {
            try {
                step.body.run();
                System.out.println("ok " + step.name);
            } catch (Throwable problem) {
                failed++;
                System.out.println("not ok " + step.name);
                problem.printStackTrace(System.out);
            }
        }
        System.out.printf("%d passed, %d failed%n", steps.size() - failed, failed);
        System.exit(failed == 0 ? 0 : 1);
    }

    static void equal(Object actual, Object expected) {
        // An Integer and a Long of the same value are equal to a reader.
        Object left = actual instanceof Integer i ? (Object) i.longValue() : actual;
        Object right = expected instanceof Integer i ? (Object) i.longValue() : expected;
        check(Objects.deepEquals(left, right), "got " + actual + ", want " + expected);
    }

    static void check(boolean condition, String otherwise) {
        if (!condition) {
            throw new AssertionError(otherwise);
        }
    }

    /** The server must refuse with this very message. */
    static void refused(String message, Body body) throws Exception {
        try {
            body.run();
        } catch (RuntimeException problem) {
            equal(problem.getMessage(), message);
            return;
        }
        throw new AssertionError("not refused: " + message);
    }

    static void until(BooleanSupplier condition) throws InterruptedException {
        long deadline = System.nanoTime() + 10_000_000_000L;
        while (!condition.getAsBoolean()) {
            check(System.nanoTime() < deadline, "still not so after 10 s");
            Thread.sleep(1);
        }
    }

    static void restartServer() throws IOException {
        System.out.println("RESTART");
        equal(INPUT.readLine(), "RESTARTED");
    }

    static List<String> numbers(int count) {
        return IntStream.range(0, count).mapToObj(String::valueOf).toList();
    }

    static byte[] everyByte() {
        byte[] bytes = new byte[256];
        IntStream.range(0, 256).forEach(i -> bytes[i] = (byte) i);
        return bytes;
    }

    static byte[] oneMiB() {
        byte[] bytes = new byte[1 << 20];
        IntStream.range(0, bytes.length).forEach(i -> bytes[i] = (byte) i);
        return bytes;
    }
}
