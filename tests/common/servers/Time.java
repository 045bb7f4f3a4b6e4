package org.apache.zookeeper.common;

import java.util.Date;

/** Takes the place of ZooKeeper's own class: the clock of its timeouts runs at another rate. */
public class Time {
    private static final double RATE = Double.parseDouble(System.getProperty("lockkeeper.clockRate"));

    public static long currentElapsedTime() {
        return (long) (System.nanoTime() / 1e6 * RATE);
    }

    public static long currentWallTime() {
        return System.currentTimeMillis();
    }

    public static Date elapsedTimeToDate(long elapsed) {
        return new Date(currentWallTime() + elapsed - currentElapsedTime());
    }
}
