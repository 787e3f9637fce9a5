import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import org.redisson.Redisson;
import org.redisson.api.RAtomicLong;
import org.redisson.api.RBlockingQueue;
import org.redisson.api.RBucket;
import org.redisson.api.RDelayedQueue;
import org.redisson.api.RLock;
import org.redisson.api.RMapCache;
import org.redisson.api.RRateLimiter;
import org.redisson.api.RScoredSortedSet;
import org.redisson.api.RSemaphore;
import org.redisson.api.RTopic;
import org.redisson.api.RTransaction;
import org.redisson.api.RateType;
import org.redisson.api.RedissonClient;
import org.redisson.api.TransactionOptions;
import org.redisson.client.codec.StringCodec;
import org.redisson.config.Config;

/** Redisson: locks that are renewed, maps whose entries expire, topics and queues. */
public final class RedissonSteps {
    /** A lock without a lease is held this long, and renewed each third of it. */
    private static final long WATCHDOG_MS = 3_000;

    private final RedissonClient here = open();
    private final RedissonClient there = open();

    private static RedissonClient open() {
        Config config = new Config().setLockWatchdogTimeout(WATCHDOG_MS).setCodec(StringCodec.INSTANCE);
        // On a busy machine a command may take long.
        config.useSingleServer()
                .setAddress("redis://127.0.0.1:" + Steps.PORT)
                .setTimeout(Steps.LIMIT_MS)
                .setConnectionMinimumIdleSize(2)
                .setConnectionPoolSize(8);
        return Redisson.create(config);
    }

    public static void main(String[] arguments) {
        RedissonSteps redisson = new RedissonSteps();
        new Steps()
                .step("a lock is renewed while it is held", redisson::aLockIsRenewed)
                .step("a lock passes to the client that waits", redisson::aLockPassesOn)
                .step("entries of a map expire", redisson::entriesExpire)
                .step("topics are heard", redisson::topicsAreHeard)
                .step("queues block and delay", redisson::queuesBlockAndDelay)
                .step("permits and rates are limited", redisson::permitsAreLimited)
                .step("a transaction is whole", redisson::aTransactionIsWhole)
                .run();
    }

    private void aLockIsRenewed() throws Exception {
        RLock lock = here.getLock("door");
        lock.lock();
        try {
            long end = System.nanoTime() + 3 * WATCHDOG_MS * 1_000_000;
            while (System.nanoTime() < end) {
                Steps.sleep();
                Steps.check(!there.getLock("door").tryLock(), "two clients hold the lock");
                Steps.check(lock.isHeldByCurrentThread(), "the lock was lost");
                Thread.sleep(WATCHDOG_MS / 5);
            }
            lock.lock();
            Steps.sleep();
            Steps.equal(lock.getHoldCount(), 2);
            lock.unlock();
        } finally {
            lock.unlock();
        }
        Steps.check(!lock.isLocked(), "it is still locked");
    }

    private void aLockPassesOn() throws Exception {
        RLock lock = here.getFairLock("door");
        lock.lock(60, TimeUnit.SECONDS);
        CompletableFuture<Boolean> theirs = CompletableFuture.supplyAsync(() -> {
            RLock other = there.getFairLock("door");
            other.lock(60, TimeUnit.SECONDS);
            other.unlock();
            return true;
        });
        Steps.until("the other waits", () -> Steps.OPERATOR.llen("redisson_lock_queue:{door}") == 1);
        Steps.sleep();
        Steps.check(!theirs.isDone(), "two clients hold the lock");
        lock.unlock();
        Steps.equal(theirs.get(Steps.LIMIT_MS, TimeUnit.MILLISECONDS), true);
    }

    private void entriesExpire() throws Exception {
        RMapCache<String, String> map = here.getMapCache("users");
        map.put("ada", "1", 1, TimeUnit.SECONDS);
        map.put("bob", "2", 1, TimeUnit.HOURS);
        map.put("eve", "3");
        map.addAndGet("eve", 4);
        Steps.sleep();
        Steps.equal(there.getMapCache("users", StringCodec.INSTANCE).get("bob"), "2");
        Steps.until("an entry has expired", () -> map.get("ada") == null);
        Steps.sleep();
        Steps.equal(map.getAll(Set.of("ada", "bob", "eve")), Map.of("bob", "2", "eve", "7"));
        Steps.equal(map.fastPutIfAbsent("bob", "9"), false);
        RBucket<String> bucket = here.getBucket("cup");
        bucket.set("tea", java.time.Duration.ofHours(1));
        Steps.sleep();
        Steps.check(bucket.compareAndSet("tea", "milk") && bucket.get().equals("milk"), "it was not exchanged");
        map.destroy();
    }

    private void topicsAreHeard() throws Exception {
        List<String> heard = new CopyOnWriteArrayList<>();
        RTopic topic = there.getTopic("news");
        int listener = topic.addListener(String.class, (channel, text) -> heard.add(text));
        there.getPatternTopic("weather.*").addListener(String.class, (pattern, channel, text) -> heard.add(channel + text));
        Steps.equal(here.getTopic("news").publish("first"), 1L);
        Steps.sleep();
        Steps.equal(here.getTopic("news").publish("second"), 1L);
        Steps.equal(here.getTopic("weather.today").publish(" sun"), 1L);
        Steps.until("all are heard", () -> heard.size() == 3);
        Steps.equal(Set.copyOf(heard), Set.of("first", "second", "weather.today sun"));
        topic.removeListener(listener);
        Steps.sleep();
        Steps.equal(here.getTopic("news").publish("third"), 0L);
    }

    private void queuesBlockAndDelay() throws Exception {
        RBlockingQueue<String> queue = here.getBlockingQueue("jobs");
        CompletableFuture<String> taken = queue.takeAsync().toCompletableFuture();
        Steps.sleep();
        Steps.check(!taken.isDone(), "there was nothing to take");
        there.getBlockingQueue("jobs", StringCodec.INSTANCE).add("one");
        Steps.equal(taken.get(Steps.LIMIT_MS, TimeUnit.MILLISECONDS), "one");
        RDelayedQueue<String> delayed = here.getDelayedQueue(queue);
        long start = System.nanoTime();
        delayed.offer("late", 1, TimeUnit.SECONDS);
        Steps.sleep();
        Steps.equal(queue.poll(Steps.LIMIT_MS, TimeUnit.MILLISECONDS), "late");
        Steps.check(System.nanoTime() - start >= 1_000_000_000L, "it came early");
        delayed.destroy();
        RScoredSortedSet<String> scores = here.getScoredSortedSet("scores");
        scores.addAll(Map.of("ada", 2.0, "bob", 1.0));
        Steps.sleep();
        Steps.equal(scores.pollFirst(), "bob");
    }

    private void permitsAreLimited() throws Exception {
        RSemaphore permits = here.getSemaphore("seats");
        permits.trySetPermits(2);
        permits.acquire(2);
        CompletableFuture<Void> theirs = there.getSemaphore("seats").acquireAsync().toCompletableFuture();
        Steps.sleep();
        Steps.check(!theirs.isDone(), "three seats were taken");
        permits.release();
        theirs.get(Steps.LIMIT_MS, TimeUnit.MILLISECONDS);
        RRateLimiter limiter = here.getRateLimiter("rate");
        limiter.trySetRate(RateType.OVERALL, 2, java.time.Duration.ofHours(1));
        Steps.check(limiter.tryAcquire(), "the first");
        Steps.sleep();
        Steps.check(there.getRateLimiter("rate").tryAcquire() && !limiter.tryAcquire(), "the rate is not kept");
        RAtomicLong count = here.getAtomicLong("count");
        count.set(5);
        Steps.sleep();
        Steps.check(count.compareAndSet(5, 7) && count.getAndIncrement() == 7, "it does not count");
    }

    private void aTransactionIsWhole() throws Exception {
        here.getMap("accounts").put("ada", "5");
        RTransaction transaction = here.createTransaction(TransactionOptions.defaults());
        transaction.getMap("accounts").put("ada", "4");
        transaction.getMap("accounts").put("bob", "1");
        Steps.sleep();
        Steps.equal(there.getMap("accounts").get("ada"), "5");
        transaction.commit();
        Steps.sleep();
        Steps.equal(there.getMap("accounts").readAllMap(), Map.of("ada", "4", "bob", "1"));
    }
}
