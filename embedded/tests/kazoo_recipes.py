"""All of kazoo's recipes, and the client features that they use, against one server.

    kazoo_recipes.py HOSTS

Each part has its own path and clients. The script prints "ok NAME" for each part that succeeds. At
the first failure it prints a traceback and exits with a nonzero status. It requests faults by printing
the lines

    fault reset SESSION
    fault expire SESSION

and continues when it reads the line "done", which means that the fault is in effect.
"""

import datetime
import os
import sys
import threading
import time
import traceback

from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    CancelledError,
    InvalidACLError,
    LockTimeout,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.protocol.states import EventType, KazooState
from kazoo.recipe.cache import TreeCache, TreeEvent
from kazoo.recipe.watchers import PatientChildrenWatch
from kazoo.security import OPEN_ACL_UNSAFE, make_acl, make_digest_acl

# The limit for every wait, in seconds. It only stops parts that would hang.
LIMIT = 20.0


class Failed(Exception):
    pass


def check(holds, what):
    if not holds:
        raise Failed(what)


def equal(found, expected, what):
    check(found == expected, "%s: %r instead of %r" % (what, found, expected))


def raises(kind, function, *args, **kwargs):
    try:
        result = function(*args, **kwargs)
    except kind:
        return
    raise Failed("%s was expected, but the call returned %r" % (kind.__name__, result))


def eventually(condition, what):
    end = time.monotonic() + LIMIT
    while not condition():
        check(time.monotonic() < end, what)
        time.sleep(0.005)


class Background(threading.Thread):
    """A call in a separate thread."""

    def __init__(self, function, *args, **kwargs):
        super().__init__(daemon=True)
        self.call = lambda: function(*args, **kwargs)
        self.value = self.error = None
        self.start()

    def run(self):
        try:
            self.value = self.call()
        except BaseException as error:  # raised again by result()
            self.error = error

    def result(self):
        self.join(LIMIT)
        check(not self.is_alive(), "a background call does not return")
        if self.error is not None:
            raise self.error
        return self.value


class Gauge:
    """Counts the current holders, the maximum number of holders and all entries."""

    def __init__(self):
        self.guard = threading.Lock()
        self.now = self.most = self.entries = 0

    def __enter__(self):
        with self.guard:
            self.now += 1
            self.entries += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_):
        with self.guard:
            self.now -= 1


class States:
    """Records the states of a client's connection from now on."""

    def __init__(self, client):
        self.seen = []
        self.changed = threading.Condition()
        client.add_listener(self.note)

    def note(self, state):
        with self.changed:
            self.seen.append(state)
            self.changed.notify_all()

    def wait_for(self, *states):
        with self.changed:
            came = self.changed.wait_for(lambda: self.seen == list(states), LIMIT)
        check(came, "the connection states were %s instead of %s" % (self.seen, list(states)))


class Part:
    """The path and the clients of one part of the test."""

    def __init__(self, hosts, name):
        self.hosts, self.path = hosts, "/recipes/" + name
        self.clients = []

    def client(self, chroot="", **options):
        client = KazooClient(hosts=self.hosts + chroot, timeout=10.0, **options)
        self.clients.append(client)
        client.start(timeout=LIMIT)
        return client

    def pair(self):
        return self.client(), self.client()

    def end(self):
        for client in self.clients:
            client.stop()
            client.close()


def request_fault(fault, client):
    print("fault", fault, client.client_id[0], flush=True)
    equal(sys.stdin.readline(), "done\n", "the response of the test")


def crowd(gauge, locks, rounds=8):
    """Acquires and releases each lock concurrently, `rounds` times."""

    def visit(lock):
        for _ in range(rounds):
            check(lock.acquire(timeout=LIMIT), "a lock was not acquired")
            with gauge:
                # Hold it long enough for another holder to be noticed.
                time.sleep(0.001)
            lock.release()

    for visitor in [Background(visit, lock) for lock in locks]:
        visitor.result()
    equal(gauge.entries, rounds * len(locks), "entries")
    equal(gauge.now, 0, "holders at the end")


# ---------------------------------------------------------------------------------------------
# The client features that the recipes use.


def nodes(part):
    zk, other = part.pair()
    path = part.path
    equal(zk.create(path + "/a/b", b"1", makepath=True), path + "/a/b", "the created path")
    raises(NodeExistsError, zk.create, path + "/a/b")
    raises(NoNodeError, zk.create, path + "/x/y")
    equal(zk.create(path + "/s-", sequence=True), path + "/s-0000000001", "a sequential name")
    created, stat = zk.create(path + "/e", b"mine", ephemeral=True, include_data=True)
    equal((created, stat.owner_session_id), (path + "/e", zk.client_id[0]), "an ephemeral node")
    data, stat = other.get(path + "/a/b")
    equal((data, stat.version, stat.data_length), (b"1", 0, 1), "data and stat")
    equal(other.set(path + "/a/b", b"two", version=0).version, 1, "the next version")
    raises(BadVersionError, zk.set, path + "/a/b", b"three", version=0)
    raises(BadVersionError, zk.delete, path + "/a/b", version=0)
    raises(NotEmptyError, zk.delete, path + "/a")
    names, stat = zk.get_children(path, include_data=True)
    equal((sorted(names), stat.children_count), (["a", "e", "s-0000000001"], 3), "children")
    equal(zk.exists(path + "/nothing"), None, "a node that does not exist")
    equal(zk.sync(path), path, "sync")
    check(zk.ensure_path(path + "/a/c/d"), "ensure_path")
    part.clients.remove(zk)
    zk.stop()
    zk.close()
    eventually(lambda: other.exists(path + "/e") is None, "the ephemeral node was not deleted with its session")
    other.delete(path + "/a", recursive=True)
    equal(other.get_children(path), ["s-0000000001"], "the remaining children")
    equal(other.command(b"ruok"), "imok", "a four-letter word")


def chroot(part):
    outside = part.client()
    outside.ensure_path(part.path)
    inside = part.client(chroot=part.path)
    equal(inside.create("/n", b"x"), "/n", "the path inside the chroot")
    equal(outside.get(part.path + "/n")[0], b"x", "the data read from outside the chroot")
    equal(inside.get_children("/"), ["n"], "the children of the chroot")


def server_version(part):
    zk = part.client()
    equal(zk.server_version()[:2], (3, 9), "the version reported by envi")
    equal(zk.command(b"ruok"), "imok", "the response to ruok")


def many_requests(part):
    zk = part.client()
    zk.ensure_path(part.path)
    for creation in [zk.create_async(part.path + "/%03d" % i, bytes([i % 256])) for i in range(300)]:
        creation.get(timeout=LIMIT)
    reads = [zk.get_async(part.path + "/%03d" % i) for i in range(300)]
    for i, read in enumerate(reads):
        equal(read.get(timeout=LIMIT)[0], bytes([i % 256]), "the reply to request %d" % i)
    large = os.urandom(900 * 1024)
    zk.create(part.path + "/large", large)
    check(zk.get(part.path + "/large")[0] == large, "the data of a large node is wrong")


def transactions(part):
    zk = part.client()
    path = part.path
    zk.create(path, b"0", makepath=True)
    transaction = zk.transaction()
    transaction.check(path, version=0)
    transaction.create(path + "/a", b"1")
    transaction.create(path + "/q-", sequence=True)
    transaction.set_data(path, b"2", version=0)
    transaction.delete(path + "/a")
    results = transaction.commit()
    equal(results[:3], [True, path + "/a", path + "/q-0000000001"], "results")
    equal((results[3].version, results[4]), (1, True), "more results")
    transaction = zk.transaction()
    transaction.create(path + "/b")
    transaction.check(path, version=0)
    transaction.delete(path + "/q-0000000001")
    kinds = [type(result) for result in transaction.commit()]
    equal(kinds, [RolledBackError, BadVersionError, RuntimeInconsistency], "results of a failure")
    equal(zk.get_children(path), ["q-0000000001"], "children after the failure")


def access_control(part):
    me = part.client(auth_data=[("digest", "me:secret")])
    other = part.client()
    path = part.path
    me.ensure_path("/recipes")
    acl = [make_digest_acl("me", "secret", all=True), make_acl("world", "anyone", read=True)]
    me.create(path, b"mine", acl=acl)
    equal(other.get(path)[0], b"mine", "data that everyone may read")
    raises(NoAuthError, other.set, path, b"not yours")
    raises(NoAuthError, other.create, path + "/x")
    raises(NoAuthError, other.set_acls, path, OPEN_ACL_UNSAFE)
    me.set_acls(path, [make_acl("auth", "", all=True)])
    equal([entry.id.scheme for entry in me.get_acls(path)[0]], ["digest"], "the scheme that replaces auth")
    raises(NoAuthError, other.get, path)
    raises(InvalidACLError, other.create, "/recipes/nobody", acl=[make_acl("auth", "", all=True)])
    other.add_auth("digest", "me:secret")
    equal(other.get(path)[0], b"mine", "data read by another client with the same credentials")
    states = States(me)
    request_fault("reset", me)
    states.wait_for(KazooState.SUSPENDED, KazooState.CONNECTED)
    equal(me.set(path, b"still mine").version, 1, "the version after a write on the new connection")


def watches(part):
    zk, other = part.pair()
    path = part.path
    zk.ensure_path(path)
    events = []
    came = threading.Semaphore(0)

    def note(event):
        events.append((event.type, event.path))
        came.release()

    def expect(*expected):
        for _ in expected:
            check(came.acquire(timeout=LIMIT), "an event is missing, received so far: %s" % events)
        equal(sorted(events), sorted(expected), "events")
        events.clear()

    zk.exists(path + "/a", watch=note)
    zk.get_children(path, watch=note)
    other.create(path + "/a")
    expect((EventType.CREATED, path + "/a"), (EventType.CHILD, path))
    zk.get(path + "/a", watch=note)
    other.set(path + "/a", b"1")
    expect((EventType.CHANGED, path + "/a"))
    other.set(path + "/a", b"2")
    zk.get(path + "/a", watch=note)
    zk.get_children(path + "/a", watch=note)
    other.delete(path + "/a")
    # The server sends one event. The client passes it to both watchers.
    expect((EventType.DELETED, path + "/a"), (EventType.DELETED, path + "/a"))


def session_resumed(part):
    zk, other = part.pair()
    path = part.path
    zk.ensure_path(path)
    zk.create(path + "/e", ephemeral=True)
    told = []
    zk.get(path, watch=lambda event: told.append(event.type))
    session, states = zk.client_id, States(zk)
    request_fault("reset", zk)
    states.wait_for(KazooState.SUSPENDED, KazooState.CONNECTED)
    equal(zk.client_id, session, "the session")
    check(zk.exists(path + "/e"), "the ephemeral node was deleted with the connection")
    # kazoo notifies its watchers that their watches are lost. It does not re-arm them.
    eventually(lambda: told == [EventType.NONE], "the watcher was not notified")
    zk.get(path, watch=lambda event: told.append(event.type))
    other.set(path, b"x")
    eventually(lambda: told == [EventType.NONE, EventType.CHANGED], "a watch on the new connection did not fire")


def session_expired(part):
    zk, other = part.pair()
    path = part.path
    zk.ensure_path(path)
    zk.create(path + "/e", ephemeral=True)
    gone = threading.Event()
    other.exists(path + "/e", watch=lambda _event: gone.set())
    session, states = zk.client_id, States(zk)
    request_fault("expire", zk)
    check(gone.wait(LIMIT), "the ephemeral node was not deleted with its session")
    states.wait_for(KazooState.SUSPENDED, KazooState.LOST, KazooState.CONNECTED)
    check(zk.client_id[0] != session[0], "the same session came back")
    equal(zk.get_children(path), [], "children")


# ---------------------------------------------------------------------------------------------
# Recipes.


def lock(part):
    a, b = part.pair()
    path = part.path
    gauge = Gauge()
    crowd(gauge, [client.Lock(path, name) for client in (a, b) for name in ("one", "two")])
    equal(gauge.most, 1, "the maximum number of holders")
    first, second, third = a.Lock(path, "first"), b.Lock(path, "second"), b.Lock(path, "third")
    with first:
        check(not second.acquire(blocking=False), "a held lock was acquired")
        raises(LockTimeout, second.acquire, timeout=0.05)
        cancelled = Background(second.acquire)
        eventually(lambda: a.Lock(path).contenders() == ["first", "second"], "the second is not in the queue")
        waiting = Background(third.acquire)
        line = ["first", "second", "third"]
        eventually(lambda: a.Lock(path).contenders() == line, "the third is not in the queue")
        second.cancel()
        raises(CancelledError, cancelled.result)
        check(waiting.is_alive(), "the third got the lock while the first held it")
    check(waiting.result(), "the third does not get the lock")
    third.release()
    equal(a.Lock(path).contenders(), [], "contenders at the end")


def lock_after_faults(part):
    a, b = part.pair()
    path = part.path
    held, next_one = a.Lock(path, "held"), b.Lock(path, "next")
    check(held.acquire(timeout=LIMIT), "a free lock was not acquired")
    waiting = Background(next_one.acquire)
    eventually(lambda: b.Lock(path).contenders() == ["held", "next"], "the second is not in the queue")
    for client in (a, b):
        states = States(client)
        request_fault("reset", client)
        states.wait_for(KazooState.SUSPENDED, KazooState.CONNECTED)
    check(waiting.is_alive(), "a reset connection released the lock")
    request_fault("expire", a)
    check(waiting.result(), "the next one does not get the lock after the holder's session expired")
    next_one.release()


def read_and_write_lock(part):
    a, b = part.pair()
    path = part.path
    readers = [a.ReadLock(path, "r1"), b.ReadLock(path, "r2")]
    for reader in readers:
        check(reader.acquire(timeout=LIMIT), "a reader blocks another one")
    writer = b.WriteLock(path, "w")
    check(not writer.acquire(blocking=False), "a writer got the lock while readers held it")
    writing = Background(writer.acquire)
    eventually(lambda: len(a.get_children(path)) == 3, "the writer is not in the queue")
    late = a.ReadLock(path, "late")
    check(not late.acquire(blocking=False), "a reader overtook a writer")
    readers[0].release()
    check(writing.is_alive(), "a writer got the lock while a reader held it")
    readers[1].release()
    check(writing.result(), "the writer does not get the lock")
    reading = Background(late.acquire)
    eventually(lambda: len(a.get_children(path)) == 2, "the reader is not in the queue")
    check(reading.is_alive(), "a reader got the lock while a writer held it")
    writer.release()
    check(reading.result(), "the reader does not get the lock")
    late.release()
    gauge = Gauge()
    crowd(gauge, [client.WriteLock(path, name) for client in (a, b) for name in ("x", "y")])
    equal(gauge.most, 1, "the maximum number of writers")


def semaphore(part):
    a, b = part.pair()
    path = part.path
    gauge = Gauge()
    crowd(gauge, [c.Semaphore(path, n, max_leases=2) for c in (a, b) for n in ("one", "two", "three")])
    check(gauge.most <= 2, "%d leases were held at once" % gauge.most)
    one, two, three = (c.Semaphore(path, n, max_leases=2) for c, n in ((a, "1"), (b, "2"), (a, "3")))
    check(one.acquire(timeout=LIMIT) and two.acquire(timeout=LIMIT), "a free lease was not acquired")
    check(not three.acquire(blocking=False), "a third lease was granted")
    equal(sorted(one.lease_holders()), ["1", "2"], "the holders")
    raises(ValueError, a.Semaphore(path, max_leases=3).acquire, blocking=False)
    waiting = Background(three.acquire)
    request_fault("expire", b)
    check(waiting.result(), "the lease of an expired session is not granted again")
    one.release()
    three.release()


def barrier(part):
    a, b = part.pair()
    barrier, same = a.Barrier(part.path), b.Barrier(part.path)
    equal(same.wait(timeout=LIMIT), True, "waiting without a barrier")
    barrier.create()
    equal(same.wait(timeout=0.05), False, "waiting at a barrier")
    waiting = Background(same.wait, LIMIT)
    check(waiting.is_alive(), "the barrier does not block")
    check(barrier.remove(), "the barrier did not exist")
    equal(waiting.result(), True, "waiting at a barrier that is removed")
    equal(barrier.remove(), False, "removing a barrier that does not exist")


def double_barrier(part):
    clients = [part.client() for _ in range(3)]
    barriers = [client.DoubleBarrier(part.path, 3, "b%d" % i) for i, client in enumerate(clients)]
    entering = [Background(barrier.enter) for barrier in barriers[:2]]
    exists = clients[2].exists
    eventually(
        lambda: exists(part.path) is not None and len(clients[2].get_children(part.path)) == 2,
        "two clients do not enter",
    )
    check(all(thread.is_alive() for thread in entering), "a client did not wait for the last one to enter")
    barriers[2].enter()
    for thread in entering:
        thread.result()
    check(all(barrier.participating for barrier in barriers), "a client did not enter")
    leaving = [Background(barrier.leave) for barrier in barriers[:2]]
    eventually(lambda: len(clients[2].get_children(part.path)) <= 2, "no client leaves")
    check(any(thread.is_alive() for thread in leaving), "no client waits for the last one to leave")
    barriers[2].leave()
    for thread in leaving:
        thread.result()
    equal(clients[0].get_children(part.path), [], "the remaining clients")


def queue(part):
    a, b = part.pair()
    ours, same = a.Queue(part.path), b.Queue(part.path)
    equal(ours.get(), None, "nothing")
    for value, priority in ((b"late", 200), (b"one", 100), (b"two", 100), (b"early", 1)):
        ours.put(value, priority)
    equal(len(same), 4, "the length")
    equal([same.get() for _ in range(5)], [b"early", b"one", b"two", b"late", None], "the order")
    for i in range(40):
        ours.put(b"%d" % i)

    def drain(queue):
        return list(iter(queue.get, None))

    taken = [Background(drain, q) for q in (ours, same)]
    taken = [int(value) for thread in taken for value in thread.result()]
    equal(sorted(taken), list(range(40)), "the values taken")


def locking_queue(part):
    a, b = part.pair()
    ours, same = a.LockingQueue(part.path), b.LockingQueue(part.path)
    equal(ours.get(timeout=0.05), None, "nothing")
    waiting = Background(same.get, LIMIT)
    ours.put(b"one")
    equal(waiting.result(), b"one", "the value received")
    check(same.holds_lock() and not ours.holds_lock(), "the entry is locked by the wrong client")
    ours.put_all([b"two", b"three"])
    equal((ours.get(LIMIT), ours.get(LIMIT)), (b"two", b"two"), "the value until it is consumed")
    check(ours.consume(), "a held entry cannot be consumed")
    equal(ours.get(LIMIT), b"three", "the next value")
    check(ours.release(), "a held entry cannot be released")
    request_fault("expire", b)
    taken = []
    for _ in range(2):
        taken.append(ours.get(LIMIT))
        check(ours.consume(), "a held entry cannot be consumed")
    equal(sorted(taken), [b"one", b"three"], "the released values")
    equal(len(ours), 0, "the length")


def election(part):
    a, b = part.pair()
    first, second, third = a.Election(part.path, "1"), b.Election(part.path, "2"), b.Election(part.path, "3")
    leads, enough = threading.Event(), threading.Event()
    leaders = []

    def lead(name):
        leaders.append(name)
        leads.set()
        check(enough.wait(LIMIT), "the leader waits too long")

    one = Background(first.run, lead, "1")
    check(leads.wait(LIMIT), "there is no leader")
    two = Background(second.run, lead, "2")
    eventually(lambda: first.contenders() == ["1", "2"], "the second is not a candidate")
    three = Background(third.run, lead, "3")
    eventually(lambda: first.contenders() == ["1", "2", "3"], "the third is not a candidate")
    second.cancel()
    two.result()
    equal(leaders, ["1"], "the leaders so far")
    enough.set()
    one.result()
    three.result()
    equal(leaders, ["1", "3"], "the leaders")


def party(part):
    a, b = part.pair()
    for kind in ("Party", "ShallowParty"):
        path = part.path + "/" + kind
        ours, theirs = getattr(a, kind)(path, "alice"), getattr(b, kind)(path, "bob")
        equal((len(ours), list(ours)), (0, []), "an empty " + kind)
        ours.join()
        theirs.join()
        equal((len(ours), sorted(theirs)), (2, ["alice", "bob"]), kind)
        ours.leave()
        equal(list(theirs), ["bob"], "a %s after a member has left" % kind)
    request_fault("expire", b)
    for kind in ("Party", "ShallowParty"):
        equal(list(getattr(a, kind)(part.path + "/" + kind)), [], "a %s after its last member has expired" % kind)


def counter(part):
    a, b = part.pair()
    # The first read creates the node. Otherwise both counters could create the node's parents at the same time.
    ours, same = a.Counter(part.path + "/int"), b.Counter(part.path + "/int")
    equal(ours.value, 0, "the initial value")

    def count(counter):
        for _ in range(25):
            counter += 1

    for thread in [Background(count, c) for c in (ours, same)]:
        thread.result()
    equal((ours.value, same.value), (50, 50), "the sum")
    same -= 8
    equal((ours.value, same.pre_value, same.post_value), (42, 50, 42), "the difference")
    half = a.Counter(part.path + "/float", default=1.0)
    half += 0.5
    equal(half.value, 1.5, "a sum of fractions")
    curators = a.Counter(part.path + "/curator", support_curator=True)
    curators += 7
    equal(b.get(part.path + "/curator")[0], b"\x00\x00\x00\x07", "the value in Curator's format")


def set_partitioner(part):
    a, b = part.pair()
    numbers = tuple(range(7))
    # The time boundary is how long the party must not change, so it also determines how long this takes.
    options = {"set": numbers, "time_boundary": 0.2}
    ours = a.SetPartitioner(part.path, identifier="a", **options)
    eventually(lambda: ours.acquired, "the only partitioner does not acquire the set")
    equal(sorted(ours), list(numbers), "the share of the only partitioner")
    theirs = b.SetPartitioner(part.path, identifier="b", **options)
    eventually(lambda: ours.release, "the first does not notice the second")
    ours.release_set()
    eventually(lambda: ours.acquired and theirs.acquired, "two partitioners do not acquire the set")
    equal(sorted(list(ours) + list(theirs)), list(numbers), "both shares")
    check(abs(len(list(ours)) - len(list(theirs))) == 1, "the shares are not even")
    theirs.finish()
    eventually(lambda: ours.release, "the first does not notice that the second has left")
    ours.release_set()
    eventually(lambda: ours.acquired, "the set is not acquired again")
    equal(sorted(ours), list(numbers), "the share of the remaining partitioner")
    ours.finish()


def tree_cache(part):
    zk, other = part.pair()
    path = part.path
    other.create(path + "/a/b", b"1", makepath=True)
    cache = TreeCache(zk, path)
    events, faults = [], []
    ready = threading.Event()

    def note(event):
        events.append(event.event_type)
        if event.event_type == TreeEvent.INITIALIZED:
            ready.set()

    def data(node):
        found = cache.get_data(path + node)
        return None if found is None else found.data

    cache.listen(note)
    cache.listen_fault(faults.append)
    cache.start()
    check(ready.wait(LIMIT), "the cache is not initialized")
    equal(data("/a/b"), b"1", "the initial data")
    other.set(path + "/a/b", b"2")
    eventually(lambda: data("/a/b") == b"2", "a change of data is not noticed")
    other.create(path + "/a/b/c", b"3")
    eventually(lambda: data("/a/b/c") == b"3", "a new node is not noticed")
    states = States(zk)
    request_fault("reset", zk)
    states.wait_for(KazooState.SUSPENDED, KazooState.CONNECTED)
    other.delete(path + "/a/b", recursive=True)
    eventually(lambda: cache.get_children(path + "/a") == frozenset(), "a deletion is not noticed")
    other.create(path + "/a/d", b"4")
    eventually(lambda: data("/a/d") == b"4", "a new node is not noticed after a reset")
    check(TreeEvent.CONNECTION_RECONNECTED in events, "the reset was not noticed")
    cache.close()
    equal(faults, [], "faults")


def children_watch(part):
    zk, other = part.pair()
    path = part.path
    zk.ensure_path(path)
    seen = []

    def note(names):
        seen.append(sorted(names))
        return len(names) < 3

    zk.ChildrenWatch(path, note)

    other.create(path + "/a")
    eventually(lambda: seen[-1] == ["a"], "a child is not noticed")
    states = States(zk)
    request_fault("reset", zk)
    states.wait_for(KazooState.SUSPENDED, KazooState.CONNECTED)
    other.create(path + "/b")
    eventually(lambda: seen[-1] == ["a", "b"], "a child is not noticed after a reset")
    request_fault("expire", zk)
    resumed = [KazooState.SUSPENDED, KazooState.CONNECTED]
    states.wait_for(*resumed, KazooState.SUSPENDED, KazooState.LOST, KazooState.CONNECTED)
    other.create(path + "/c")
    eventually(lambda: seen[-1] == ["a", "b", "c"], "a child is not noticed in a new session")
    equal(seen[0], [], "the first call")
    # The callback has returned False, so it is not called again.
    other.create(path + "/d")
    equal(zk.get_children(path + "/d"), [], "the children of the new node")
    equal(seen[-1], ["a", "b", "c"], "the last call")


def data_watch(part):
    zk, other = part.pair()
    path = part.path
    zk.ensure_path("/recipes")
    seen = []

    def note(data, stat, event):
        seen.append((data, None if event is None else event.type))

    zk.DataWatch(path, note)
    eventually(lambda: seen == [(None, None)], "the first call is missing")
    other.create(path, b"1")
    eventually(lambda: seen[-1] == (b"1", EventType.CREATED), "the creation is not noticed")
    other.set(path, b"2")
    eventually(lambda: seen[-1] == (b"2", EventType.CHANGED), "a change is not noticed")
    states = States(zk)
    request_fault("reset", zk)
    states.wait_for(KazooState.SUSPENDED, KazooState.CONNECTED)
    other.set(path, b"3")
    eventually(lambda: seen[-1][0] == b"3", "a change is not noticed after a reset")
    other.delete(path)
    # The type of the event depends on whether kazoo has already read the node again after the reset.
    eventually(lambda: seen[-1][0] is None, "the deletion is not noticed")


def patient_children_watch(part):
    zk, other = part.pair()
    path = part.path
    zk.ensure_path(path)
    result = PatientChildrenWatch(zk, path, time_boundary=0.2).start()
    for name in ("a", "b", "c"):
        other.create(path + "/" + name)
    names, changed = result.get(timeout=LIMIT)
    equal(sorted(names), ["a", "b", "c"], "the children after they stopped changing")
    other.create(path + "/d")
    changed.get(timeout=LIMIT)


def leases(part):
    a, b = part.pair()
    hour, now = datetime.timedelta(hours=1), [datetime.datetime(2030, 1, 1)]

    def lease(client, name):
        return client.NonBlockingLease(part.path + "/one", hour, identifier=name, utcnow=lambda: now[0])

    check(lease(a, "a"), "a free lease was not granted")
    check(not lease(b, "b"), "a lease was granted twice")
    check(lease(a, "a"), "a lease cannot be renewed")
    now[0] += 2 * hour
    check(lease(b, "b"), "an expired lease is not granted again")
    granted = [
        bool(client.MultiNonBlockingLease(2, part.path + "/two", hour, identifier=str(i)))
        for i, client in enumerate((a, b, a))
    ]
    equal(granted, [True, True, False], "two leases for three clients")


PARTS = [
    nodes,
    chroot,
    server_version,
    many_requests,
    transactions,
    access_control,
    watches,
    session_resumed,
    session_expired,
    lock,
    lock_after_faults,
    read_and_write_lock,
    semaphore,
    barrier,
    double_barrier,
    queue,
    locking_queue,
    election,
    party,
    counter,
    set_partitioner,
    tree_cache,
    children_watch,
    data_watch,
    patient_children_watch,
    leases,
]


def main(hosts):
    for run in PARTS:
        part = Part(hosts, run.__name__)
        try:
            run(part)
            part.end()
        except BaseException:
            traceback.print_exc()
            print("in", run.__name__, file=sys.stderr, flush=True)
            # Exit without waiting for threads that may hang.
            os._exit(1)
        print("ok", run.__name__, flush=True)
    print("all", len(PARTS), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
