import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.LongAdder;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.RetryNTimes;

/**
 * Runs contenders of Curator, and measures them in this process: `CuratorDriver SESSION_MILLISECONDS`. Serves the
 * requests that `src/driver/mod.rs` describes. Each contender has a thread, because Curator's locks belong to threads,
 * and its own lock object.
 */
public final class CuratorDriver {
    /** Between a failure and the next attempt. */
    private static final long PAUSE_MILLISECONDS = 50;

    private final int sessionMilliseconds;
    private final List<CuratorFramework> clients = new ArrayList<>();
    private final List<Thread> threads = Collections.synchronizedList(new ArrayList<>());
    private final Map<String, InterProcessMutex> held = new HashMap<>();
    private Counts counts = new Counts();

    /** What the contenders since the last close have done. */
    private static final class Counts {
        final LongAdder cycles = new LongAdder();
        volatile long last;
        volatile boolean closing;
        final Queue<String> failures = new ConcurrentLinkedQueue<>();
    }

    private interface Work {
        void run() throws Exception;
    }

    private CuratorDriver(int sessionMilliseconds) {
        this.sessionMilliseconds = sessionMilliseconds;
    }

    public static void main(String[] arguments) throws Exception {
        CuratorDriver driver = new CuratorDriver(Integer.parseInt(arguments[0]));
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String answer;
            try {
                answer = "ok" + driver.carryOut(line.split(" "));
            } catch (Exception failure) {
                answer = "error " + failure.toString().replace('\n', ' ');
            }
            System.out.println(answer);
            System.out.flush();
        }
        // Without waiting for the threads.
        Runtime.getRuntime().halt(0);
    }

    private String carryOut(String[] words) throws Exception {
        switch (words[0]) {
            case "connect":
                close();
                connect(words[1], Integer.parseInt(words[2]));
                return "";
            case "start":
            case "persist":
                for (int number = 0; number < Integer.parseInt(words[2]); number++) {
                    start(words[1], number, words[0].equals("persist"));
                }
                return "";
            case "count":
                if (!counts.failures.isEmpty()) {
                    throw new IllegalStateException(counts.failures.peek());
                }
                long last = counts.last;
                return " " + counts.cycles.sum() + " " + last;
            case "acquire":
                InterProcessMutex mutex = new InterProcessMutex(clients.get(0), words[1]);
                mutex.acquire();
                long granted = System.nanoTime();
                held.put(words[1], mutex);
                return " " + granted;
            case "release":
                long begun = System.nanoTime();
                held.remove(words[1]).release();
                return " " + begun;
            case "wait":
                startWaiting(words[1], Integer.parseInt(words[2]));
                return "";
            case "close":
                close();
                return "";
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    private void connect(String address, int sessions) throws Exception {
        for (int number = 0; number < sessions; number++) {
            RetryNTimes retries = new RetryNTimes(20, 100);
            clients.add(CuratorFrameworkFactory.newClient(address, sessionMilliseconds, 10_000, retries));
        }
        clients.forEach(CuratorFramework::start);
        for (CuratorFramework client : clients) {
            if (!client.blockUntilConnected(30, TimeUnit.SECONDS)) {
                throw new IllegalStateException("no connection");
            }
        }
    }

    private void start(String path, int number, boolean persist) {
        InterProcessMutex mutex = new InterProcessMutex(clients.get(number % clients.size()), path);
        Counts counts = this.counts;
        spawn(counts, () -> {
            while (!counts.closing) {
                try {
                    mutex.acquire();
                    mutex.release();
                    counts.cycles.increment();
                    counts.last = System.nanoTime();
                } catch (Exception failure) {
                    if (!persist || counts.closing) {
                        throw failure;
                    }
                    Thread.sleep(PAUSE_MILLISECONDS);
                }
            }
        });
    }

    /** From a thread, because those that run already slow down the start of the next ones. */
    private void startWaiting(String directory, int count) {
        CuratorFramework client = clients.get(0);
        Counts counts = this.counts;
        spawn(counts, () -> {
            for (int number = 0; number < count && !counts.closing; number++) {
                InterProcessMutex mutex = new InterProcessMutex(client, String.format("%s/%05d", directory, number));
                spawn(counts, mutex::acquire);
            }
        });
    }

    private void spawn(Counts counts, Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Exception failure) {
                if (!counts.closing) {
                    counts.failures.add(failure.toString());
                }
            }
        });
        thread.setDaemon(true);
        threads.add(thread);
        thread.start();
    }

    private void close() {
        counts.closing = true;
        threads.forEach(Thread::interrupt);
        clients.forEach(CuratorFramework::close);
        threads.clear();
        clients.clear();
        held.clear();
        counts = new Counts();
    }
}
