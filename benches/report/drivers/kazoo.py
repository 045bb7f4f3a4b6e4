"""Runs contenders of kazoo, and measures them in this process.

    kazoo.py SESSION_TIMEOUT

Serves the requests that `src/driver/mod.rs` describes. Each contender has a thread, and its own lock object.
"""

import os
import sys
import threading
import time

from kazoo.client import KazooClient

# 10,000 threads that do little fit into the memory, and starting one takes less time.
threading.stack_size(256 * 1024)


# Seconds between a failure and the next attempt.
PAUSE = 0.05


def start_thread(work, *arguments):
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def at_once(calls):
    threads = [start_thread(call) for call in calls]
    for thread in threads:
        thread.join()


class Contenders:
    def __init__(self, session_timeout):
        self.session_timeout = session_timeout
        self.clients = []
        self.forget()

    def forget(self):
        # One number for each thread, so that none is lost.
        self.cycles = []
        self.locks = {}
        self.last = 0
        self.failures = []
        self.closing = threading.Event()

    def connect(self, address, sessions):
        self.close()
        self.clients = [KazooClient(address, timeout=self.session_timeout) for _ in range(int(sessions))]
        for connected in [client.start_async() for client in self.clients]:
            if not connected.wait(30):
                raise RuntimeError("no connection")

    def start(self, path, contenders, persist=False):
        count = int(contenders)
        self.cycles = [0] * count
        for number in range(count):
            lock = self.clients[number % len(self.clients)].Lock(path)
            start_thread(self.cycle, lock, number, self.closing, persist)

    def persist(self, path, contenders):
        self.start(path, contenders, persist=True)

    def cycle(self, lock, number, closing, persist):
        while not closing.is_set():
            try:
                # It is still acquired if its release has failed.
                if not lock.is_acquired and not lock.acquire() or not lock.release():
                    raise RuntimeError("not granted, or not released")
                self.cycles[number] += 1
                self.last = time.monotonic_ns()
            except Exception as error:
                if not persist and not closing.is_set():
                    self.failures.append(repr(error))
                    return
                closing.wait(PAUSE)

    def count(self):
        if self.failures:
            raise RuntimeError(self.failures[0])
        return sum(self.cycles), self.last

    def acquire(self, path):
        if path not in self.locks:
            self.locks[path] = self.clients[0].Lock(path)
        if not self.locks[path].acquire():
            raise RuntimeError("not granted")
        return (time.monotonic_ns(),)

    def release(self, path):
        now = time.monotonic_ns()
        if not self.locks[path].release():
            raise RuntimeError("not released")
        return (now,)

    def wait(self, directory, count):
        # From a thread, because those that run already slow down the start of the next ones.
        start_thread(self.start_waiting, directory, int(count), self.clients[0], self.closing)

    def start_waiting(self, directory, count, client, closing):
        for number in range(count):
            if not closing.is_set():
                start_thread(self.hold, client.Lock("%s/%05d" % (directory, number)), closing)

    def hold(self, lock, closing):
        try:
            lock.acquire()
        except Exception as error:
            if not closing.is_set():
                self.failures.append(repr(error))

    def close(self):
        self.closing.set()
        # The end of the session wakes the threads that wait, and they end.
        at_once([client.stop for client in self.clients])
        at_once([client.close for client in self.clients])
        self.clients = []
        self.forget()


def serve(contenders):
    for line in sys.stdin:
        request, *arguments = line.split()
        try:
            numbers = getattr(contenders, request)(*arguments) or ()
            answer = " ".join(["ok", *map(str, numbers)])
        except Exception as error:
            answer = "error " + repr(error).replace("\n", " ")
        print(answer, flush=True)


serve(Contenders(float(sys.argv[1])))
# Without waiting for the threads.
os._exit(0)
