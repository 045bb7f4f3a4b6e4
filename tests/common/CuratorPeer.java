import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.retry.RetryNTimes;

/**
 * A Curator client that executes commands from standard input, one per line: "acquire NUMBER KIND PATH",
 * "try NUMBER KIND PATH" and "release NUMBER", where KIND is mutex, read or write. Answers "NUMBER yes", "NUMBER no" or
 * "NUMBER EXCEPTION", in any order. Each number has its own thread, because Curator's locks belong to threads.
 */
public final class CuratorPeer {
    private static final Map<String, ExecutorService> THREADS = new ConcurrentHashMap<>();
    private static final Map<String, InterProcessMutex> LOCKS = new ConcurrentHashMap<>();

    public static void main(String[] arguments) throws Exception {
        int session = Integer.parseInt(arguments[1]);
        CuratorFramework curator =
            CuratorFrameworkFactory.newClient(arguments[0], session, 10_000, new RetryNTimes(20, 100));
        curator.start();
        curator.blockUntilConnected();
        System.out.println("ready");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            THREADS.computeIfAbsent(words[1], number -> Executors.newSingleThreadExecutor())
                .execute(() -> answer(words[1], () -> carryOut(curator, words)));
        }
        curator.close();
        System.exit(0);
    }

    private static boolean carryOut(CuratorFramework curator, String[] words) throws Exception {
        switch (words[0]) {
            case "acquire":
                lock(curator, words).acquire();
                return true;
            case "try":
                return lock(curator, words).acquire(50, TimeUnit.MILLISECONDS);
            case "release":
                LOCKS.remove(words[1]).release();
                return true;
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    private static InterProcessMutex lock(CuratorFramework curator, String[] words) {
        String path = words[3];
        InterProcessMutex lock;
        switch (words[2]) {
            case "mutex":
                lock = new InterProcessMutex(curator, path);
                break;
            case "read":
                lock = new InterProcessReadWriteLock(curator, path).readLock();
                break;
            case "write":
                lock = new InterProcessReadWriteLock(curator, path).writeLock();
                break;
            default:
                throw new IllegalArgumentException(words[2]);
        }
        LOCKS.put(words[1], lock);
        return lock;
    }

    private interface Step {
        boolean run() throws Exception;
    }

    private static void answer(String number, Step step) {
        String answer;
        try {
            answer = step.run() ? "yes" : "no";
        } catch (Exception failure) {
            answer = failure.getClass().getSimpleName();
        }
        synchronized (System.out) {
            System.out.println(number + " " + answer);
            System.out.flush();
        }
    }
}
