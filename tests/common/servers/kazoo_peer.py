"""A kazoo client that executes commands from standard input.

    kazoo_peer.py setup DIRECTORY    creates a virtual environment with kazoo, prints its python
    kazoo_peer.py check              prints the version of the kazoo that can be imported
    kazoo_peer.py serve HOSTS SESSION_TIMEOUT

`serve` first prints {"id": 0, "ok": true, "result": <session id>} and then reads requests, one
JSON object per line, such as

    {"id": 1, "op": "acquire", "handle": 7, "path": "/x", "kind": "Lock"}

and answers each with one line, {"id": 1, "ok": true, "result": true} or
{"id": 1, "ok": false, "error": "LockTimeout"}, as soon as it is done. Answers may come out of
order, because an acquire may wait for the effect of a later request.

The process ends when its standard input does, without closing its session, like a crashed client.
Only the request `stop` closes the session.
"""

import json
import os
import sys
import threading

KAZOO_VERSION = "2.11.0"


# ---------------------------------------------------------------------------------------------
# setup


def setup(directory):
    import fcntl
    import shutil
    import subprocess
    import venv

    python = os.path.join(directory, "bin", "python")
    ready = os.path.join(directory, "ready-" + KAZOO_VERSION)
    # Other test processes may do the same at this time. The system releases the lock when the
    # process that holds it ends, for whatever reason.
    with open(directory + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(ready):
            shutil.rmtree(directory, ignore_errors=True)
            venv.create(directory, with_pip=True)
            install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
            # Standard output is reserved for the answer.
            subprocess.run(install + ["kazoo==" + KAZOO_VERSION], check=True, stdout=sys.stderr)
            with open(ready, "w"):
                pass
    print(python)


def check():
    import importlib.metadata

    import kazoo.client  # noqa: F401

    print(importlib.metadata.version("kazoo"))


# ---------------------------------------------------------------------------------------------
# serve


class Peer:
    def __init__(self, hosts, session_timeout):
        from kazoo.client import KazooClient

        self.client = KazooClient(hosts=hosts, timeout=session_timeout)
        # By the handle in each acquire request, so that it can be cancelled.
        self.locks = {}
        self.output = threading.Lock()

    def serve(self):
        self.start(0, self.op_connect, {})
        for line in sys.stdin:
            request = json.loads(line)
            operation = getattr(self, "op_" + request["op"])
            if request["op"] == "acquire":
                # Before the thread starts, so that a later cancel request finds it.
                self.locks[request["handle"]] = self.make_lock(request)
            self.start(request["id"], operation, request)

    def start(self, number, operation, request):
        thread = threading.Thread(target=self.answer, args=(number, operation, request))
        thread.daemon = True
        thread.start()

    def answer(self, number, operation, request):
        try:
            answer = {"id": number, "ok": True, "result": operation(request)}
        except Exception as error:  # every exception is reported as the answer
            answer = {"id": number, "ok": False, "error": type(error).__name__}
            print("request %s: %r" % (request, error), file=sys.stderr, flush=True)
        with self.output:
            print(json.dumps(answer), flush=True)
        if request.get("op") == "stop":
            os._exit(0)

    def op_connect(self, request):
        self.client.start(timeout=15)
        return self.client.client_id[0]

    def op_stop(self, request):
        self.client.stop()
        self.client.close()
        return True

    # Locks.

    def make_lock(self, request):
        path, identifier = request["path"], request.get("identifier")
        if request["kind"] == "Semaphore":
            return self.client.Semaphore(path, identifier, max_leases=request.get("max_leases", 1))
        recipe = getattr(self.client, request["kind"])
        return recipe(path, identifier, request.get("extra_lock_patterns", ()))

    def op_acquire(self, request):
        lock = self.locks[request["handle"]]
        got = lock.acquire(blocking=request.get("blocking", True), timeout=request.get("timeout"))
        return bool(got)

    def op_release(self, request):
        return bool(self.locks[request["handle"]].release())

    def op_cancel(self, request):
        self.locks[request["handle"]].cancel()

    def op_is_acquired(self, request):
        return self.locks[request["handle"]].is_acquired

    def op_node(self, request):
        lock = self.locks[request["handle"]]
        if hasattr(lock, "max_leases"):
            return lock.create_path
        return None if lock.node is None else lock.path + "/" + lock.node

    def op_contenders(self, request):
        return self.make_lock(request).contenders()

    def op_lease_holders(self, request):
        return self.make_lock(dict(request, kind="Semaphore")).lease_holders()

    # Plain nodes.

    def op_create(self, request):
        return self.client.create(
            request["path"],
            bytes.fromhex(request["data"]),
            ephemeral=request["ephemeral"],
            sequence=request["sequence"],
        )

    def op_ensure_path(self, request):
        self.client.ensure_path(request["path"])

    def op_delete(self, request):
        self.client.delete(request["path"], recursive=request["recursive"])

    def op_get(self, request):
        return self.client.get(request["path"])[0].hex()

    def op_set(self, request):
        return self.client.set(request["path"], bytes.fromhex(request["data"])).version

    def op_children(self, request):
        return sorted(self.client.get_children(request["path"]))

    def op_stat(self, request):
        stat = self.client.exists(request["path"])
        return None if stat is None else stat._asdict()


def main(arguments):
    task, rest = arguments[0], arguments[1:]
    if task == "setup":
        setup(*rest)
    elif task == "check":
        check()
    elif task == "serve":
        Peer(rest[0], float(rest[1])).serve()
        # Without waiting for the client's threads.
        os._exit(0)
    else:
        raise SystemExit("unknown task: " + task)


if __name__ == "__main__":
    main(sys.argv[1:])
