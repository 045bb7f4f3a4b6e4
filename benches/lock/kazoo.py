"""Runs cycles of kazoo's recipes and reports how long they took.

    kazoo.py HOSTS SESSION_TIMEOUT

Reads one JSON object per line from standard input, such as

    {"recipe": "Semaphore", "path": "/x", "limit": 8, "clients": 64, "threads": 64, "cycles": 4}

and answers with one line, {"seconds": 1.25} or {"error": "..."}. Each thread runs `cycles` acquires and releases with
its own lock object, which is reused by later requests for the same path. The clients are reused too. The time starts
when all threads are ready.
"""

import json
import os
import sys
import threading
import time

from kazoo.client import KazooClient


class Crowd:
    """The threads' objects for one path."""

    def __init__(self, clients, request):
        self.locks = []
        for thread in range(request["threads"]):
            recipe = getattr(clients[thread % request["clients"]], request["recipe"])
            options = {"max_leases": request["limit"]} if request["limit"] else {}
            self.locks.append(recipe(request["path"], **options))

    def run(self, cycles):
        failures = []
        ready = threading.Barrier(len(self.locks) + 1)

        def work(lock):
            ready.wait()
            try:
                for _ in range(cycles):
                    if not lock.acquire() or not lock.release():
                        raise RuntimeError("not granted, or not released")
            except Exception as error:  # every exception is reported as the answer
                failures.append(repr(error))

        threads = [threading.Thread(target=work, args=(lock,), daemon=True) for lock in self.locks]
        for thread in threads:
            thread.start()
        ready.wait()
        begun = time.perf_counter()
        for thread in threads:
            thread.join()
        lasted = time.perf_counter() - begun
        if failures:
            raise RuntimeError(failures[0])
        return lasted


def serve(hosts, session_timeout):
    clients, crowds = [], {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            new = [KazooClient(hosts, timeout=session_timeout) for _ in range(len(clients), request["clients"])]
            for connected in [client.start_async() for client in new]:
                if not connected.wait(30):
                    raise RuntimeError("no connection")
            clients += new
            if request["path"] not in crowds:
                crowds[request["path"]] = Crowd(clients, request)
            answer = {"seconds": crowds[request["path"]].run(request["cycles"])}
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


serve(sys.argv[1], float(sys.argv[2]))
# Without waiting for the clients' threads.
os._exit(0)
