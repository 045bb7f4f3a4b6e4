//! Multi-locks: all paths or none, no deadlock with other contenders, and nothing left behind.

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use common::{BRISK, SOON, TestServer, caught_up, eventually, proxied, shared, unique_path};
use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::error::{
    AcquireError, AcquireTimeoutError, InvalidHandle, LostError, Refused, ReleaseError, TryAcquireError,
};
use lockkeeper::future::Pending;
use lockkeeper::messages::LockEvent;
use lockkeeper::run::{EndReason, LeaseView, StopPolicy};
use lockkeeper::{Dialect, FencingToken, Keeper, LeaseState, Lock, LockOptions, Mode, MultiGuard, MultiLock};
use ractor::{ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zookeeper_client as zk;

/// An upper limit that is only reached when a test fails.
const LIMIT: Duration = Duration::from_secs(60);
/// The timeout of sessions that a test lets expire.
const SHORT: Duration = Duration::from_secs(2);

async fn connect() -> Keeper {
    connect_to(&shared().address(), Duration::from_secs(20)).await
}

async fn connect_to(address: &str, session: Duration) -> Keeper {
    (Keeper::options().session_timeout(session).connect(address).await).expect("should connect")
}

/// Paths that no other test uses, in a directory that does not exist yet.
fn paths<const N: usize>(name: &str) -> [String; N] {
    let directory = unique_path(name);
    std::array::from_fn(|number| format!("{directory}/{number}"))
}

fn all(keeper: &Keeper, paths: &[String]) -> MultiLock {
    keeper.multi_lock(paths).expect("paths")
}

fn one(keeper: &Keeper, path: &str) -> Lock {
    keeper.lock(path).expect("a valid path")
}

/// Waits until this many contenders are queued on a path.
async fn until_queued(keeper: &Keeper, path: &str, count: usize) {
    let lock = one(keeper, path);
    eventually(&format!("{count} contenders on {path}"), LIMIT, async || {
        lock.contenders().await.is_ok_and(|contenders| contenders.len() == count)
    })
    .await;
}

async fn nothing_left(keeper: &Keeper, paths: &[String]) {
    for path in paths {
        until_queued(keeper, path, 0).await;
    }
}

async fn no_watch_left(server: &TestServer) {
    eventually("no watch is left", LIMIT, async || server.mntr("zk_watch_count") == 0).await;
}

type Events = mpsc::UnboundedReceiver<LockEvent<MultiGuard>>;

fn listen<E>(acquire: Pending<E, MultiLock>) -> (lockkeeper::messages::Ticket, Events) {
    let (sender, events) = mpsc::unbounded_channel();
    let ticket = acquire.listen(move |event| {
        let _ = sender.send(event);
    });
    (ticket, events)
}

async fn next(events: &mut Events) -> LockEvent<MultiGuard> {
    timeout(LIMIT, events.recv()).await.expect("an event").expect("more events")
}

/// Waits for the grant, skipping any number of `Queued` events.
async fn granted(events: &mut Events) -> MultiGuard {
    loop {
        match next(events).await {
            LockEvent::Enqueued { .. } => {}
            LockEvent::Acquired { guard, .. } => return guard,
            other => panic!("no grant, but {other:?}"),
        }
    }
}

// ---- normal operation ----

#[tokio::test]
async fn all_paths_are_held_under_one_guard_with_a_token_each_and_released_together() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<3>("held"));
    let before = one(&keeper, &paths[1]).acquire().await.expect("free");
    let earlier = before.token();
    before.release().await.expect("released");

    let guard = all(&keeper, &paths).acquire().await.expect("free");
    assert_eq!(guard.state(), LeaseState::Held);
    assert!(guard.valid_until().is_some_and(|end| end > Instant::now()));
    assert!(guard.tokens().map(|(path, _)| path).eq(&paths), "in the order of the request");
    assert!(guard.token(&paths[1]).is_some_and(|token| token > earlier), "tokens of a path grow");
    assert_eq!(guard.token("/another"), None);
    for (path, node) in paths.iter().zip(guard.nodes()) {
        assert!(node.starts_with(path.as_str()), "{node}");
        let seen = one(&other, path);
        assert!(matches!(seen.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
        let [contender] = &seen.contenders().await.expect("connected")[..] else { panic!("one contender") };
        assert_eq!(Some(contender.token), guard.token(path));
    }
    assert_eq!(guard.protect(async { 7 }).await, Ok(7));

    let tokens: Vec<_> = guard.tokens().map(|(path, token)| (path.to_owned(), token)).collect();
    let waiting: Vec<_> = paths.iter().map(|path| tokio::spawn(one(&other, path).acquire())).collect();
    for path in &paths {
        until_queued(&keeper, path, 2).await;
    }
    assert!(waiting.iter().all(|task| !task.is_finished()));
    guard.release().await.expect("released");
    for (task, (_, token)) in waiting.into_iter().zip(tokens) {
        let next = timeout(LIMIT, task).await.expect("in time").expect("no panic").expect("granted");
        assert!(next.token() > token);
        next.release().await.expect("released");
    }
    drop(all(&keeper, &paths).acquire().await.expect("free"));
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn invalid_requests_are_refused_without_asking_the_server() {
    let proxy = proxied().await;
    let keeper = connect_to(&proxy.address(), Duration::from_secs(20)).await;
    proxy.black_hole(true);
    let refusal = |paths: &[&str]| keeper.multi_lock(paths).err();
    assert_eq!(refusal(&[]), Some(InvalidHandle::NoPaths));
    assert_eq!(refusal(&["/a", "/b", "/a"]), Some(InvalidHandle::DuplicatePath { path: "/a".into() }));
    assert!(matches!(refusal(&["/a", "b"]), Some(InvalidHandle::Path(_))));
    let with = |options| keeper.multi_lock_with([("/a", Mode::Read)], options).err();
    assert_eq!(with(LockOptions::new().ephemeral(false)), Some(InvalidHandle::NotEphemeral));
    assert!(matches!(with(LockOptions::new().extra_lock_patterns([""])), Some(InvalidHandle::Pattern(_))));
    let many = (0..40).map(|number| (format!("/{number}"), Mode::Lock));
    let large = LockOptions::new().identifier("x".repeat(32 * 1024));
    assert!(matches!(keeper.multi_lock_with(many, large).err(), Some(InvalidHandle::TooLarge { .. })));
}

#[tokio::test]
async fn the_size_of_a_request_includes_the_chroot() {
    let paths: Vec<_> = (0..500).map(|number| format!("/{number}")).collect();
    for (chroot, fits) in [(String::new(), true), (format!("/{}", "x".repeat(2000)), false)] {
        let keeper = connect_to(&format!("{}{chroot}", shared().address()), Duration::from_secs(20)).await;
        let opened = keeper.multi_lock(&paths);
        assert!(opened.is_ok() == fits, "{:?}", opened.err());
        let too_large = matches!(opened.err(), Some(InvalidHandle::TooLarge { bytes }) if bytes > 500 * 2000);
        assert_eq!(!too_large, fits);
    }
}

#[tokio::test]
async fn each_path_has_its_mode() {
    let (keeper, other, [index, log]) = (connect().await, connect().await, paths("modes"));
    let options = LockOptions::new().identifier("reindex");
    let multi = keeper.multi_lock_with([(&index, Mode::Write), (&log, Mode::Read)], options).expect("paths");
    let guard = multi.acquire().await.expect("free");
    let (index, log) =
        (other.read_write(&index).expect("a valid path"), other.read_write(&log).expect("a valid path"));
    assert!(matches!(index.read().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    assert!(matches!(log.write().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let beside = log.read().try_acquire().await.expect("shared with a reader");
    let contenders = log.read().contenders().await.expect("connected");
    assert_eq!((contenders[0].mode, contenders[0].identifier.as_str()), (Mode::Read, "reindex"));
    assert!(matches!(multi.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    drop(guard);
    let again = timeout(LIMIT, multi.acquire()).await.expect("in time").expect("granted");
    again.release().await.expect("released");
    beside.release().await.expect("released");
}

#[tokio::test]
async fn try_acquire_with_one_path_taken_writes_nothing() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<3>("try"));
    let multi = all(&keeper, &paths);
    multi.try_acquire().await.expect("free").release().await.expect("released");
    let held = one(&other, &paths[2]).acquire().await.expect("free");
    let server = zk::Client::connect(&shared().address()).await.expect("should connect");
    let changes = async || {
        let mut changes = Vec::new();
        for path in &paths {
            let stat = server.check_stat(path).await.expect("a stat").expect("a directory");
            changes.push((stat.cversion, stat.pzxid));
        }
        changes
    };
    caught_up(&keeper).await;
    let before = changes().await;
    assert!(matches!(multi.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    assert!(matches!(
        multi.acquire_timeout(Duration::ZERO).await.err(),
        Some(AcquireTimeoutError::TimedOut { .. })
    ));
    assert_eq!(changes().await, before);
    held.release().await.expect("released");
    // The server of this keeper may not know of the release yet.
    eventually("it is free", SOON, async || match multi.try_acquire().await {
        Ok(guard) => guard.release().await.is_ok(),
        Err(_) => false,
    })
    .await;
}

#[tokio::test]
async fn one_deadline_covers_all_paths_and_partial_locks_are_released() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<2>("deadline"));
    let held = one(&other, &paths[1]).acquire().await.expect("free");
    let (limit, begun) = (Duration::from_millis(200), Instant::now());
    let refused = all(&keeper, &paths).acquire_timeout(limit).await.err();
    assert!(matches!(refused, Some(AcquireTimeoutError::TimedOut { .. })));
    assert!((limit..limit + Duration::from_secs(5)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // At once within this process, because a local hand-off does not wait for the server.
    one(&keeper, &paths[0])
        .try_acquire()
        .await
        .expect("released meanwhile")
        .release()
        .await
        .expect("released");
    held.release().await.expect("released");
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn an_actor_is_notified_by_message_and_cancels_by_ticket() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<2>("message"));
    let ahead = all(&other, &paths).acquire().await.expect("free");
    let multi = all(&keeper, &paths);
    let (ticket, mut events) = listen(multi.acquire());
    let event = next(&mut events).await;
    assert!(matches!(event, LockEvent::Enqueued { ticket: of, ahead: 2 } if of == ticket), "{event:?}");
    multi.cancel(ticket);
    let event = next(&mut events).await;
    assert!(matches!(event, LockEvent::Refused(of, Refused::Cancelled) if of == ticket), "{event:?}");
    assert!(timeout(LIMIT, events.recv()).await.expect("the end").is_none(), "no further event");
    for path in &paths {
        until_queued(&other, path, 1).await;
    }

    // Cancelled before it can have been handled.
    let (early, mut events) = listen(multi.acquire());
    multi.cancel(early);
    assert!(matches!(next(&mut events).await, LockEvent::Refused(_, Refused::Cancelled)));

    let (ticket, mut events) = listen(multi.acquire());
    next(&mut events).await;
    ahead.release().await.expect("released");
    let guard = granted(&mut events).await;
    assert_eq!(guard.ticket(), ticket);
    multi.cancel(ticket);
    assert_eq!(guard.state(), LeaseState::Held, "a holder is not cancelled");
    guard.release().await.expect("released");
    let event = next(&mut events).await;
    assert!(matches!(event, LockEvent::Released(of) if of == ticket), "{event:?}");
    assert!(timeout(LIMIT, events.recv()).await.expect("the end").is_none(), "no further event");
    nothing_left(&other, &paths).await;
}

// ---- contention ----

/// Checks from outside who holds a path: readers are counted, a writer must be alone.
#[derive(Default)]
struct Witness {
    inside: AtomicI64,
    newest: AtomicU64,
}

impl Witness {
    fn enter(&self, mode: Mode, token: u64) {
        match mode {
            Mode::Read => {
                assert!(
                    self.inside.fetch_add(1, Ordering::SeqCst) >= 0,
                    "a reader entered while a writer holds"
                );
                assert!(
                    self.newest.load(Ordering::SeqCst) < token,
                    "a reader's token is not larger than every writer's"
                );
            }
            _ => {
                assert_eq!(self.inside.swap(-1, Ordering::SeqCst), 0, "a writer is not alone");
                assert!(self.newest.swap(token, Ordering::SeqCst) < token, "a token did not grow");
            }
        }
    }

    fn leave(&self, mode: Mode) {
        match mode {
            Mode::Read => assert!(self.inside.fetch_sub(1, Ordering::SeqCst) > 0, "a writer entered"),
            _ => assert_eq!(self.inside.swap(0, Ordering::SeqCst), -1, "another client entered"),
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }

    /// Some paths in random order, each to write or to read.
    fn subset(&mut self, paths: usize) -> Vec<(usize, Mode)> {
        let mut rest: Vec<usize> = (0..paths).collect();
        let count = 1 + self.below(paths.min(4));
        let mode = |number| if number == 0 { Mode::Read } else { Mode::Write };
        (0..count).map(|_| (rest.swap_remove(self.below(rest.len())), mode(self.below(3)))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_subsets_from_many_sessions_exclude_each_other_and_never_deadlock() {
    const ROUNDS: usize = 40;
    let server = TestServer::start();
    let paths = Arc::new(paths::<6>("random"));
    let witnesses: Arc<[Witness; 6]> = Arc::default();
    let (mut keepers, mut workers) = (Vec::new(), JoinSet::new());
    for session in 0..6 {
        let keeper = connect_to(&server.address(), Duration::from_secs(20)).await;
        for worker in 0..2 {
            let (keeper, paths, witnesses) = (keeper.clone(), paths.clone(), witnesses.clone());
            workers.spawn(async move {
                let mut random = Random(2 * session + worker);
                for _ in 0..ROUNDS {
                    let subset = random.subset(6);
                    let named = subset.iter().map(|(path, mode)| (&paths[*path], *mode));
                    let multi = keeper.multi_lock_with(named, LockOptions::new()).expect("paths");
                    let patience = Duration::from_micros(random.below(20_000) as u64);
                    let guard = match random.below(8) {
                        0 => multi.try_acquire().await.ok(),
                        1 => multi.acquire_timeout(patience).await.ok(),
                        2 => timeout(patience, multi.acquire())
                            .await
                            .ok()
                            .map(|granted| granted.expect("granted")),
                        _ => Some(multi.acquire().await.expect("granted")),
                    };
                    let Some(guard) = guard else { continue };
                    for (path, mode) in &subset {
                        let token = guard.token(&paths[*path]).expect("asked for").as_u64();
                        witnesses[*path].enter(*mode, token);
                    }
                    tokio::task::yield_now().await;
                    for (path, mode) in &subset {
                        witnesses[*path].leave(*mode);
                    }
                    drop(guard);
                }
            });
        }
        keepers.push(keeper);
    }
    timeout(LIMIT, workers.join_all()).await.expect("every worker should finish");
    nothing_left(&keepers[0], &paths[..]).await;
    no_watch_left(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_paths_does_not_matter_and_single_locks_interleave() {
    let (paths, mut workers) = (paths::<2>("order"), JoinSet::new());
    let witnesses: Arc<[Witness; 2]> = Arc::default();
    for worker in 0..6 {
        let (keeper, paths, witnesses) = (connect().await, paths.clone(), witnesses.clone());
        workers.spawn(async move {
            let backwards: Vec<String> = paths.iter().rev().cloned().collect();
            for _ in 0..25 {
                let token = |guard: &MultiGuard, path: &str| guard.token(path).expect("asked for").as_u64();
                match worker % 3 {
                    0 | 1 => {
                        let named = if worker % 3 == 0 { &paths[..] } else { &backwards[..] };
                        let guard = all(&keeper, named).acquire().await.expect("granted");
                        for (path, witness) in paths.iter().zip(&*witnesses) {
                            witness.enter(Mode::Lock, token(&guard, path));
                        }
                        tokio::task::yield_now().await;
                        witnesses.iter().for_each(|witness| witness.leave(Mode::Lock));
                    }
                    _ => {
                        let guard = one(&keeper, &paths[worker % 2]).acquire().await.expect("granted");
                        witnesses[worker % 2].enter(Mode::Lock, guard.token().as_u64());
                        tokio::task::yield_now().await;
                        witnesses[worker % 2].leave(Mode::Lock);
                    }
                }
            }
        });
    }
    timeout(LIMIT, workers.join_all()).await.expect("every worker should finish");
    nothing_left(&connect().await, &paths).await;
}

#[tokio::test]
async fn waiting_takes_one_watch_per_path_and_none_for_local_predecessors() {
    let server = TestServer::start();
    let address = server.address();
    let [theirs, ours] = [(); 2].map(|()| connect_to(&address, Duration::from_secs(20)));
    let (theirs, ours, paths) = (theirs.await, ours.await, paths::<3>("watches"));
    let held = all(&theirs, &paths).acquire().await.expect("free");
    let multi = all(&ours, &paths);
    let mut waiting: Vec<_> = (0..4).map(|_| listen(multi.acquire())).collect();
    for path in &paths {
        until_queued(&theirs, path, 5).await;
    }
    eventually("one watch per path", LIMIT, async || server.mntr("zk_watch_count") == 3).await;
    held.release().await.expect("released");
    for (_, events) in &mut waiting {
        drop(granted(events).await);
    }
    nothing_left(&theirs, &paths).await;
    assert_eq!(server.mntr("zk_watch_count"), 0);
}

#[tokio::test]
async fn requests_dropped_at_random_leave_no_node_and_no_task() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<3>("dropped"));
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let multi = all(&keeper, &paths);
    let mut random = Random(7);
    for _ in 0..300 {
        let patience = Duration::from_micros(random.below(2_500) as u64);
        drop(timeout(patience, multi.acquire()).await);
    }
    for _ in 0..50 {
        let mut acquire = pin!(multi.acquire());
        assert!(acquire.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let guard = timeout(LIMIT, multi.acquire()).await.expect("no contender is left");
    guard.expect("free").release().await.expect("released");
    nothing_left(&other, &paths).await;
    eventually("every task is gone", LIMIT, async || tasks.num_alive_tasks() <= before).await;
}

// ---- faults ----

#[tokio::test]
async fn missing_directories_are_created_and_the_request_is_retried() {
    let (keeper, [missing, there, deeper]) = (connect().await, paths("missing"));
    one(&keeper, &there).acquire().await.expect("free").release().await.expect("released");
    let deeper = format!("{deeper}/down/below");
    let multi = all(&keeper, &[there.clone(), missing.clone(), deeper.clone()]);
    let guard = timeout(LIMIT, multi.acquire()).await.expect("in time").expect("free");
    for path in [there, missing, deeper] {
        until_queued(&keeper, &path, 1).await;
    }
    guard.release().await.expect("released");
}

#[tokio::test]
async fn a_path_without_permission_is_reported_and_the_others_are_released() {
    let (keeper, [open, private]) = (connect().await, paths("no-right"));
    one(&keeper, &open).acquire().await.expect("free").release().await.expect("released");
    let owner = zk::Client::connector().with_auth("digest", b"owner:secret");
    let owner = owner.connect(&shared().address()).await.expect("should connect");
    let creator = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
    owner.create(&private, b"", &creator).await.expect("a new node");
    for named in [[&open, &private], [&private, &open]] {
        let multi = keeper.multi_lock(named).expect("paths");
        let error = AcquireError::NoAuth { path: private.clone() };
        let acquire = timeout(LIMIT, multi.acquire()).await.expect("an answer");
        assert_eq!(acquire.err(), Some(error.clone()));
        assert_eq!(multi.try_acquire().await.err(), Some(TryAcquireError::Failed(error)));
        until_queued(&keeper, &open, 0).await;
    }
}

#[tokio::test]
async fn a_path_of_another_dialect_fails_and_the_others_are_released() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<2>("dialect"));
    let options = LockOptions::new().dialect(Dialect::Curator);
    let curators = other.lock_with(&paths[1], options).expect("a valid path");
    let held = curators.acquire().await.expect("free");
    let multi = all(&keeper, &paths);
    let refused = timeout(LIMIT, multi.acquire()).await.expect("an answer").err();
    assert_eq!(refused, Some(AcquireError::MixedDialects { contender: held.node().to_owned() }));
    until_queued(&other, &paths[0], 0).await;
    until_queued(&other, &paths[1], 1).await;
}

#[tokio::test]
async fn a_transaction_whose_reply_is_lost_is_found_and_granted_once() {
    let (proxy, paths) = (proxied().await, paths::<2>("lost-answer"));
    let keeper = connect_to(&proxy.address(), Duration::from_secs(20)).await;
    let other = connect().await;
    let multi = all(&keeper, &paths);
    multi.acquire().await.expect("free").release().await.expect("released");
    proxy.drop_replies_then_cut();
    let (_, mut events) = listen(multi.acquire());
    for path in &paths {
        until_queued(&other, path, 1).await;
    }
    let seen = one(&other, &paths[0]).contenders().await.expect("connected");
    assert!(events.try_recv().is_err(), "the client cannot know yet");
    proxy.cut();
    let guard = granted(&mut events).await;
    assert_eq!(guard.token(&paths[0]), Some(seen[0].token), "the same node");
    for path in &paths {
        until_queued(&other, path, 1).await;
    }
    guard.release().await.expect("released");
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn a_transaction_that_never_arrived_is_sent_again_and_one_abandoned_in_doubt_leaves_nothing() {
    let (proxy, paths) = (proxied().await, paths::<2>("never-arrived"));
    let keeper = connect_to(&proxy.address(), Duration::from_secs(20)).await;
    let other = connect().await;
    let multi = all(&keeper, &paths);
    multi.acquire().await.expect("free").release().await.expect("released");
    proxy.black_hole(true);
    let (_, mut events) = listen(multi.acquire());
    proxy.cut();
    proxy.black_hole(false);
    granted(&mut events).await.release().await.expect("released");

    proxy.drop_replies_then_cut();
    let (ticket, mut events) = listen(multi.acquire());
    for path in &paths {
        until_queued(&other, path, 1).await;
    }
    multi.cancel(ticket);
    assert!(matches!(next(&mut events).await, LockEvent::Refused(_, Refused::Cancelled)));
    proxy.cut();
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn a_lost_session_ends_the_lease_and_makes_a_waiter_queue_again() {
    let (proxy, paths) = (proxied().await, paths::<2>("lost"));
    let (keeper, other) = (connect_to(&proxy.address(), SHORT).await, connect().await);
    let multi = all(&keeper, &paths);
    let (ticket, mut events) = listen(multi.acquire());
    let guard = granted(&mut events).await;
    // A request with one free path and one that is held.
    let half = [paths[0].clone(), unique_path("lost-free")];
    let (_, mut waiting) = listen(all(&keeper, &half).acquire());
    assert!(matches!(next(&mut waiting).await, LockEvent::Enqueued { ahead: 1, .. }));
    let theirs = tokio::spawn(all(&other, &paths).acquire());
    until_queued(&other, &paths[1], 2).await;

    proxy.refuse(true);
    proxy.cut();
    timeout(LIMIT, guard.lost()).await.expect("the lease ends");
    assert_eq!(guard.state(), LeaseState::Lost);
    assert_eq!(guard.protect(async {}).await, Err(LostError));
    let theirs = timeout(LIMIT, theirs).await.expect("in time").expect("no panic").expect("granted");
    assert_eq!(guard.state(), LeaseState::Lost);
    let mut received = Vec::new();
    while let Some(event) = timeout(LIMIT, events.recv()).await.expect("the end") {
        match event {
            // A busy machine may suspend it for a moment.
            LockEvent::Resumed(_) => assert!(matches!(received.pop(), Some(LockEvent::Suspended(_)))),
            event => received.push(event),
        }
    }
    let [LockEvent::Suspended(first), LockEvent::Lost(last)] = &received[..] else { panic!("{received:?}") };
    assert_eq!((*first, *last), (ticket, ticket));
    assert_eq!(guard.release().await, Err(ReleaseError::Lost));

    proxy.refuse(false);
    until_queued(&other, &half[1], 1).await;
    assert!(matches!(next(&mut waiting).await, LockEvent::Enqueued { .. }), "queued again");
    theirs.release().await.expect("released");
    granted(&mut waiting).await.release().await.expect("released");
    nothing_left(&other, &[&paths[..], &half[..]].concat()).await;
}

#[tokio::test]
async fn a_holder_and_a_waiter_survive_a_connection_reset() {
    let (proxy, paths) = (proxied().await, paths::<2>("reset"));
    let (keeper, other) = (connect_to(&proxy.address(), Duration::from_secs(20)).await, connect().await);
    let (_, mut holding) = listen(all(&keeper, &paths).acquire());
    let guard = granted(&mut holding).await;
    let (_, mut waiting) = listen(all(&keeper, &paths).acquire());
    next(&mut waiting).await;
    caught_up(&other).await;
    let before = one(&other, &paths[1]).contenders().await.expect("connected");
    proxy.cut();
    assert!(matches!(next(&mut holding).await, LockEvent::Suspended(_)));
    assert!(matches!(next(&mut holding).await, LockEvent::Resumed(_)));
    assert_eq!(guard.state(), LeaseState::Held);
    assert_eq!(one(&other, &paths[1]).contenders().await.expect("connected"), before);
    guard.release().await.expect("released");
    granted(&mut waiting).await.release().await.expect("released");
}

#[tokio::test]
async fn a_node_deleted_by_hand_makes_a_waiter_queue_again_and_a_holder_lose_its_lease() {
    let (keeper, other, paths) =
        (connect_to(&shared().address(), BRISK).await, connect().await, paths::<2>("by-hand"));
    let server = zk::Client::connect(&shared().address()).await.expect("should connect");
    let held = one(&other, &paths[1]).acquire().await.expect("free");
    let (_, mut events) = listen(all(&keeper, &paths).acquire());
    next(&mut events).await;
    caught_up(&other).await;
    let contenders = one(&other, &paths[1]).contenders().await.expect("connected");
    let first = one(&other, &paths[0]).contenders().await.expect("connected")[0].clone();
    // It holds the first path by then.
    server.delete(&format!("{}/{}", paths[1], contenders[1].name), None).await.expect("deleted");
    assert!(matches!(next(&mut events).await, LockEvent::Enqueued { ahead: 1, .. }), "queued again");
    eventually("both places are new", LIMIT, async || {
        let now = one(&other, &paths[0]).contenders().await.expect("connected");
        matches!(&now[..], [only] if only.token > first.token)
    })
    .await;
    held.release().await.expect("released");
    let guard = granted(&mut events).await;
    let node = guard.nodes().next().expect("two nodes").to_owned();
    server.delete(&node, None).await.expect("deleted");
    timeout(LIMIT, guard.lost()).await.expect("a heartbeat finds out");
    assert_eq!(guard.state(), LeaseState::Lost);
    assert!(matches!(next(&mut events).await, LockEvent::Lost(_)));
    drop(guard);
    nothing_left(&other, &paths).await;
}

/// Reports the tokens of its locks, and then runs until it is ended.
struct Worker;

type Tokens = Vec<(String, FencingToken)>;

#[ractor::actor(message = (), state = LeaseView, arguments = (LeaseView, mpsc::UnboundedSender<Tokens>))]
impl Worker {
    async fn pre_start(
        &self,
        _: ActorRef<()>,
        (view, report): (LeaseView, mpsc::UnboundedSender<Tokens>),
    ) -> Result<LeaseView, ActorProcessingErr> {
        let tokens = view.tokens().map(|(path, token)| (path.to_owned(), token)).collect();
        report.send(tokens)?;
        Ok(view)
    }
}

#[tokio::test]
async fn an_actor_runs_while_all_locks_are_held_and_is_killed_when_one_is_lost() {
    let (keeper, paths) = (connect_to(&shared().address(), BRISK).await, paths::<2>("run"));
    let server = zk::Client::connect(&shared().address()).await.expect("should connect");
    for is_lost in [false, true] {
        let guard = all(&keeper, &paths).acquire().await.expect("they are free");
        let (view, second) = (guard.view(), guard.nodes().nth(1).expect("a node").to_owned());
        let expected: Tokens = guard.tokens().map(|(path, token)| (path.to_owned(), token)).collect();
        let (report, mut reports) = mpsc::unbounded_channel();
        let run = guard.run(StopPolicy::default(), |view| (Worker, (view, report)), |_| None);
        assert_eq!(reports.recv().await.expect("it starts"), expected);
        assert!(view.is_held() && view.valid_until() > Some(Instant::now()));
        match is_lost {
            false => run.stop(),
            true => server.delete(&second, None).await.expect("deleted"),
        }
        let ended = timeout(LIMIT, run.ended()).await.expect("it ends").expect("it was started");
        assert!(reports.recv().await.is_none(), "the actor is gone");
        match is_lost {
            false => {
                assert_eq!((ended.reason, ended.guard.state()), (EndReason::Stopped, LeaseState::Held));
                ended.guard.release().await.expect("it is held");
            }
            true => assert_eq!((ended.reason, ended.guard.state()), (EndReason::Lease, LeaseState::Lost)),
        }
        assert_eq!(view.state(), LeaseState::Lost, "released or lost");
        assert!(view.valid_until().is_some_and(|end| end <= Instant::now()), "an end that has passed");
    }
    nothing_left(&keeper, &paths).await;
}

#[tokio::test]
async fn closing_refuses_waiters_and_ends_leases() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<2>("closing"));
    let guard = all(&keeper, &paths).acquire().await.expect("free");
    let (_, mut waiting) = listen(all(&keeper, &paths).acquire());
    next(&mut waiting).await;
    timeout(LIMIT, keeper.close()).await.expect("it closes");
    assert_eq!(guard.state(), LeaseState::Lost);
    let event = next(&mut waiting).await;
    assert!(matches!(event, LockEvent::Refused(_, Refused::Failed(AcquireError::Closed))), "{event:?}");
    let closed = timeout(LIMIT, all(&keeper, &paths).acquire()).await.expect("an answer").err();
    assert_eq!(closed, Some(AcquireError::Closed));
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn the_last_guard_keeps_the_session_open_and_its_drop_closes_it() {
    let (other, paths) = (connect().await, paths::<2>("last"));
    let keeper = connect().await;
    let mut session = keeper.events();
    let guard = all(&keeper, &paths).acquire().await.expect("free");
    drop(keeper);
    assert!(one(&other, &paths[0]).try_acquire().await.is_err(), "it is held");
    assert_eq!(guard.state(), LeaseState::Held);
    drop(guard);
    let closed = async { while futures::StreamExt::next(&mut session).await.is_some() {} };
    timeout(LIMIT, closed).await.expect("it closes");
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn a_panicking_listener_releases_all_paths_and_harms_nothing_else() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<2>("panics"));
    let held = one(&other, &paths[0]).acquire().await.expect("free");
    all(&keeper, &paths).acquire().listen(|event| panic!("on {event:?}, on purpose"));
    until_queued(&other, &paths[1], 0).await;
    held.release().await.expect("released");
    let guard = timeout(LIMIT, all(&keeper, &paths).acquire()).await.expect("in time").expect("free");
    guard.release().await.expect("released");
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn access_lists_and_options_apply_to_every_node() {
    let (keeper, paths) = (connect().await, paths::<2>("options"));
    let acl = vec![
        Acl::new(Permission::ALL, AuthId::anyone()),
        Acl::new(Permission::READ, AuthId::new("ip", "127.0.0.1")),
    ];
    let options = LockOptions::new().acl(acl.clone()).identifier("both");
    let named = paths.iter().map(|path| (path, Mode::Lock));
    let guard = keeper.multi_lock_with(named, options).expect("paths").acquire().await.expect("free");
    let server = zk::Client::connect(&shared().address()).await.expect("should connect");
    for node in guard.nodes() {
        let (found, stat) = server.get_acl(node).await.expect("an access list");
        assert_eq!(found, acl);
        assert_ne!(stat.ephemeral_owner, 0);
        assert_eq!(server.get_data(node).await.expect("data").0, b"both");
    }
}
