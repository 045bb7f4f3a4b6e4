import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.Participant;
import org.apache.curator.framework.recipes.locks.InterProcessLock;
import org.apache.curator.framework.recipes.locks.InterProcessMultiLock;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.curator.retry.RetryNTimes;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.Watcher;

/**
 * Tests Curator's locks with two clients of one server.
 *
 * <p>The argument is the server's address. The program prints "ok NAME" for each part that succeeds. At the first
 * failure it prints a stack trace and exits with a nonzero status. It requests faults by printing the lines "fault
 * reset SESSION" and "fault expire SESSION", and continues when it reads the line "done", which means that the fault is
 * in effect.
 */
public final class CuratorLocks {
    /** The limit for every wait. It only stops parts that would hang. */
    private static final long LIMIT_MS = 20_000;
    /** How long to wait for something that must not happen. */
    private static final long BRIEFLY_MS = 50;
    private static final int ROUNDS = 10;

    private static final ExecutorService THREADS = Executors.newCachedThreadPool();
    private static final BufferedReader ANSWERS = new BufferedReader(new InputStreamReader(System.in));

    private interface Part {
        void run(Client a, Client b, String path) throws Exception;
    }

    public static void main(String[] arguments) {
        try {
            String address = arguments[0];
            run(address, "mutex", CuratorLocks::mutex);
            run(address, "mutexAfterReset", CuratorLocks::mutexAfterReset);
            run(address, "mutexAfterExpiry", CuratorLocks::mutexAfterExpiry);
            run(address, "readWriteLock", CuratorLocks::readWriteLock);
            run(address, "semaphore", CuratorLocks::semaphore);
            run(address, "multiLock", CuratorLocks::multiLock);
            run(address, "leaderLatch", CuratorLocks::leaderLatch);
            run(address, "watchesAfterReset", CuratorLocks::watchesAfterReset);
            run(address, "createModes", CuratorLocks::createModes);
            System.out.println("all");
            System.out.flush();
            System.exit(0);
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private static void run(String address, String name, Part part) throws Exception {
        try (Client a = new Client(address); Client b = new Client(address)) {
            part.run(a, b, "/curator/" + name);
        } catch (Throwable failure) {
            throw new Exception("in " + name, failure);
        }
        System.out.println("ok " + name);
        System.out.flush();
    }

    private static void mutex(Client a, Client b, String path) throws Exception {
        crowd(1, ROUNDS, a.mutex(path), b.mutex(path), a.mutex(path), b.mutex(path));
        InterProcessMutex held = a.mutex(path);
        InterProcessMutex other = b.mutex(path);
        held.acquire();
        check(held.acquire(LIMIT_MS, TimeUnit.MILLISECONDS), "the holder cannot acquire the mutex again");
        check(!tryLock(other, BRIEFLY_MS), "a held mutex was acquired");
        Future<?> waiting = start(() -> { acquire(other); other.release(); });
        eventually(() -> held.getParticipantNodes().size() == 2, "the second is not in the queue");
        held.release();
        check(held.isAcquiredInThisProcess() && !waiting.isDone(), "one release of two freed the mutex");
        held.release();
        end(waiting);
        eventually(() -> held.getParticipantNodes().isEmpty(), "the queue is not empty");
    }

    private static void mutexAfterReset(Client a, Client b, String path) throws Exception {
        InterProcessMutex held = a.mutex(path);
        InterProcessMutex other = b.mutex(path);
        acquire(held);
        Future<?> waiting = start(() -> { acquire(other); other.release(); });
        eventually(() -> held.getParticipantNodes().size() == 2, "the second is not in the queue");
        for (Client client : new Client[] {a, b}) {
            long session = client.session();
            requestFault("reset", client);
            client.expect(ConnectionState.SUSPENDED, ConnectionState.RECONNECTED);
            check(client.session() == session, "the session was not resumed");
        }
        check(held.getParticipantNodes().size() == 2 && !waiting.isDone(), "a reset released the mutex");
        held.release();
        end(waiting);
        crowd(1, ROUNDS, a.mutex(path), b.mutex(path));
    }

    private static void mutexAfterExpiry(Client a, Client b, String path) throws Exception {
        InterProcessMutex held = a.mutex(path);
        InterProcessMutex other = b.mutex(path);
        acquire(held);
        Future<?> waiting = start(() -> { acquire(other); other.release(); });
        eventually(() -> held.getParticipantNodes().size() == 2, "the second is not in the queue");
        long session = a.session();
        requestFault("expire", a);
        end(waiting);
        a.expect(ConnectionState.SUSPENDED, ConnectionState.LOST, ConnectionState.RECONNECTED);
        check(a.session() != session, "the same session came back");
        crowd(1, ROUNDS, a.mutex(path), b.mutex(path));
    }

    private static void readWriteLock(Client a, Client b, String path) throws Exception {
        InterProcessReadWriteLock ours = new InterProcessReadWriteLock(a.curator, path);
        InterProcessReadWriteLock theirs = new InterProcessReadWriteLock(b.curator, path);
        acquire(ours.readLock());
        acquire(theirs.readLock());
        check(!tryLock(new InterProcessReadWriteLock(a.curator, path).writeLock(), BRIEFLY_MS),
                "a writer got the lock while readers held it");
        ours.readLock().release();
        theirs.readLock().release();
        acquire(ours.writeLock());
        check(!tryLock(theirs.readLock(), BRIEFLY_MS), "a reader got the lock while a writer held it");
        check(!tryLock(theirs.writeLock(), BRIEFLY_MS), "a second writer got the lock");
        // A writer can downgrade to a reader without releasing the lock in between.
        acquire(ours.readLock());
        ours.writeLock().release();
        acquire(theirs.readLock());
        ours.readLock().release();
        theirs.readLock().release();

        // Readers share the lock, and a writer holds it alone.
        AtomicInteger readers = new AtomicInteger();
        AtomicInteger writers = new AtomicInteger();
        List<Future<?>> all = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            CuratorFramework curator = i % 2 == 0 ? a.curator : b.curator;
            InterProcessReadWriteLock lock = new InterProcessReadWriteLock(curator, path);
            boolean writes = i < 2;
            all.add(start(() -> {
                for (int round = 0; round < ROUNDS; round++) {
                    InterProcessMutex mine = writes ? lock.writeLock() : lock.readLock();
                    acquire(mine);
                    AtomicInteger mineInside = writes ? writers : readers;
                    int inside = mineInside.incrementAndGet();
                    check(writers.get() == 0 || readers.get() == 0, "a reader and a writer hold the lock at once");
                    check(!writes || inside == 1, "two writers hold the lock at once");
                    Thread.sleep(1);
                    check(!writes || readers.get() == 0, "a reader and a writer hold the lock at once");
                    mineInside.decrementAndGet();
                    mine.release();
                }
            }));
        }
        for (Future<?> one : all) {
            end(one);
        }
    }

    private static void semaphore(Client a, Client b, String path) throws Exception {
        InterProcessSemaphoreV2 ours = new InterProcessSemaphoreV2(a.curator, path, 2);
        InterProcessSemaphoreV2 theirs = new InterProcessSemaphoreV2(b.curator, path, 2);
        AtomicInteger inside = new AtomicInteger();
        List<Future<?>> all = new ArrayList<>();
        for (InterProcessSemaphoreV2 semaphore : Arrays.asList(ours, theirs, ours, theirs, theirs)) {
            all.add(start(() -> {
                for (int round = 0; round < ROUNDS; round++) {
                    Lease lease = semaphore.acquire(LIMIT_MS, TimeUnit.MILLISECONDS);
                    check(lease != null, "a lease was not granted");
                    int now = inside.incrementAndGet();
                    check(now <= 2, now + " hold it at once");
                    Thread.sleep(1);
                    inside.decrementAndGet();
                    semaphore.returnLease(lease);
                }
            }));
        }
        for (Future<?> one : all) {
            end(one);
        }
        Lease first = ours.acquire(LIMIT_MS, TimeUnit.MILLISECONDS);
        Lease second = theirs.acquire(LIMIT_MS, TimeUnit.MILLISECONDS);
        check(first != null && second != null, "a lease was not granted");
        check(ours.acquire(BRIEFLY_MS, TimeUnit.MILLISECONDS) == null, "a third lease was granted");
        Future<?> waiting = start(() -> {
            Lease third = ours.acquire(LIMIT_MS, TimeUnit.MILLISECONDS);
            check(third != null, "a lease is not granted again");
            ours.returnLease(third);
        });
        requestFault("expire", b);
        end(waiting);
        ours.returnLease(first);
        b.expect(ConnectionState.SUSPENDED, ConnectionState.LOST, ConnectionState.RECONNECTED);
    }

    private static void multiLock(Client a, Client b, String path) throws Exception {
        List<String> both = Arrays.asList(path + "/one", path + "/two");
        crowd(1, ROUNDS, new InterProcessMultiLock(a.curator, both), new InterProcessMultiLock(b.curator, both));
        InterProcessMutex part = a.mutex(path + "/two");
        InterProcessMultiLock whole = new InterProcessMultiLock(b.curator, both);
        acquire(part);
        check(!tryLock(whole, BRIEFLY_MS), "the multi-lock was acquired although one of its locks is held");
        // The failed attempt must have released the other lock.
        acquire(a.mutex(path + "/one"));
        part.release();
        Future<?> waiting = start(() -> { acquire(whole); whole.release(); });
        requestFault("expire", a);
        end(waiting);
        a.expect(ConnectionState.SUSPENDED, ConnectionState.LOST, ConnectionState.RECONNECTED);
    }

    private static void leaderLatch(Client a, Client b, String path) throws Exception {
        LeaderLatch ours = new LeaderLatch(a.curator, path, "a");
        LeaderLatch theirs = new LeaderLatch(b.curator, path, "b");
        ours.start();
        check(ours.await(LIMIT_MS, TimeUnit.MILLISECONDS), "there is no leader");
        theirs.start();
        eventually(() -> ours.getParticipants().size() == 2, "the second is not a candidate");
        check(!theirs.hasLeadership(), "there are two leaders");
        check(theirs.getLeader().equals(new Participant("a", true)), "the second does not know the leader");
        requestFault("expire", a);
        check(theirs.await(LIMIT_MS, TimeUnit.MILLISECONDS), "the second does not become the leader");
        eventually(() -> !ours.hasLeadership(), "the former leader does not notice that it lost the leadership");
        a.expect(ConnectionState.SUSPENDED, ConnectionState.LOST, ConnectionState.RECONNECTED);
        eventually(() -> theirs.getParticipants().size() == 2, "the former leader does not become a candidate again");
        theirs.close();
        check(ours.await(LIMIT_MS, TimeUnit.MILLISECONDS), "the first does not become the leader again");
        ours.close();
    }

    /** ZooKeeper's own client, which Curator uses, re-arms its watches when it reconnects. */
    private static void watchesAfterReset(Client a, Client b, String path) throws Exception {
        a.curator.create().creatingParentsIfNeeded().forPath(path);
        CountDownLatch changed = new CountDownLatch(1);
        CountDownLatch created = new CountDownLatch(1);
        CountDownLatch child = new CountDownLatch(1);
        a.curator.getData().usingWatcher(watcher("NodeDataChanged", changed)).forPath(path);
        a.curator.checkExists().usingWatcher(watcher("NodeCreated", created)).forPath(path + "/n");
        a.curator.getChildren().usingWatcher(watcher("NodeChildrenChanged", child)).forPath(path);
        requestFault("reset", a);
        // The watch must fire, no matter whether this happens before or after the client reconnects.
        b.curator.setData().forPath(path, new byte[] {1});
        a.expect(ConnectionState.SUSPENDED, ConnectionState.RECONNECTED);
        b.curator.create().forPath(path + "/n");
        for (CountDownLatch latch : new CountDownLatch[] {changed, created, child}) {
            check(latch.await(LIMIT_MS, TimeUnit.MILLISECONDS), "an event is missing");
        }
    }

    private static Watcher watcher(String type, CountDownLatch latch) {
        return event -> {
            if (event.getType().name().equals(type)) {
                latch.countDown();
            }
        };
    }

    private static void createModes(Client a, Client b, String path) throws Exception {
        String protectedPath = a.curator.create().creatingParentContainersIfNeeded().withProtection()
                .withMode(CreateMode.EPHEMERAL_SEQUENTIAL).forPath(path + "/n-", new byte[] {1});
        check(protectedPath.endsWith("n-0000000000"), "wrong name of a protected node: " + protectedPath);
        check(b.curator.checkExists().forPath(protectedPath).getEphemeralOwner() == a.session(), "wrong owner");
        a.curator.create().withTtl(600_000).withMode(CreateMode.PERSISTENT_WITH_TTL).forPath(path + "/ttl");
        int results = a.curator.transaction().forOperations(
                a.curator.transactionOp().create().forPath(path + "/t", new byte[] {2}),
                a.curator.transactionOp().setData().forPath(path + "/t", new byte[] {3}),
                a.curator.transactionOp().check().withVersion(1).forPath(path + "/t"),
                a.curator.transactionOp().delete().forPath(path + "/t")).size();
        check(results == 4, "wrong number of results: " + results);
        // A container is deleted after its last child.
        a.curator.delete().forPath(path + "/ttl");
        a.curator.delete().forPath(protectedPath);
        eventually(() -> b.curator.checkExists().forPath(path) == null, "an empty container was not deleted");
    }

    /** Acquires and releases each lock concurrently, and checks the maximum number of holders. */
    private static void crowd(int most, int rounds, InterProcessLock... locks) throws Exception {
        AtomicInteger inside = new AtomicInteger();
        List<Future<?>> all = new ArrayList<>();
        for (InterProcessLock lock : locks) {
            all.add(start(() -> {
                for (int round = 0; round < rounds; round++) {
                    acquire(lock);
                    int now = inside.incrementAndGet();
                    check(now <= most, now + " hold it at once");
                    // Hold it long enough for another holder to be noticed.
                    Thread.sleep(1);
                    inside.decrementAndGet();
                    lock.release();
                }
            }));
        }
        for (Future<?> one : all) {
            end(one);
        }
    }

    private static void acquire(InterProcessLock lock) throws Exception {
        check(lock.acquire(LIMIT_MS, TimeUnit.MILLISECONDS), "a lock was not acquired");
    }

    /** Tries from another thread, because Curator's locks are reentrant. */
    private static boolean tryLock(InterProcessLock lock, long ms) throws Exception {
        return THREADS.submit(() -> lock.acquire(ms, TimeUnit.MILLISECONDS)).get(LIMIT_MS, TimeUnit.MILLISECONDS);
    }

    private interface Action {
        void run() throws Exception;
    }

    private static Future<?> start(Action action) {
        return THREADS.submit(() -> {
            action.run();
            return null;
        });
    }

    private static void end(Future<?> future) throws Exception {
        future.get(LIMIT_MS * 2, TimeUnit.MILLISECONDS);
    }

    private static void eventually(Callable<Boolean> condition, String what) throws Exception {
        long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(LIMIT_MS);
        while (!condition.call()) {
            check(System.nanoTime() < end, what);
            Thread.sleep(5);
        }
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new IllegalStateException(what);
        }
    }

    private static void requestFault(String fault, Client client) throws Exception {
        System.out.println("fault " + fault + " " + client.session());
        System.out.flush();
        String answer = ANSWERS.readLine();
        check("done".equals(answer), "the test responded with " + answer);
    }

    private static final class Client implements AutoCloseable {
        final CuratorFramework curator;
        private final BlockingQueue<ConnectionState> states = new LinkedBlockingQueue<>();

        Client(String address) throws Exception {
            curator = CuratorFrameworkFactory.builder().connectString(address)
                    .sessionTimeoutMs(10_000).connectionTimeoutMs((int) LIMIT_MS)
                    .retryPolicy(new RetryNTimes(100, 50)).build();
            curator.getConnectionStateListenable().addListener((client, state) -> states.add(state));
            curator.start();
            expect(ConnectionState.CONNECTED);
        }

        InterProcessMutex mutex(String path) {
            return new InterProcessMutex(curator, path);
        }

        long session() throws Exception {
            return curator.getZookeeperClient().getZooKeeper().getSessionId();
        }

        void expect(ConnectionState... expected) throws Exception {
            for (ConnectionState one : expected) {
                ConnectionState state = states.poll(LIMIT_MS, TimeUnit.MILLISECONDS);
                check(state == one, "the connection is " + state + " instead of " + one);
            }
        }

        @Override
        public void close() {
            curator.close();
        }
    }
}
