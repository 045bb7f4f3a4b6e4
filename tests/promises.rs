//! What an exclusive lock promises, one test a promise, through the public API and against a real server.
//!
//! The tests share one server, and each keeps to a path of its own.

mod common;

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use common::{Proxy, TestServer, eventually, proxied, shared, unique_path};
use futures::StreamExt;
use lockkeeper::{
    Acl, AcquireError, AcquireTimeoutError, AuthId, ContendersError, Keeper, KeeperOptions, LeaseState,
    LockEvent, LockGuard, LockMessage, LockOptions, Lost, Mode, Pending, Permission, Refused, ReleaseError,
    SessionEvent, Ticket, TryAcquireError,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout};
use zookeeper_client as zk;

// ---- acquiring ----

#[test]
fn a_free_lock_is_granted() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("free"));
        let lock = keeper.lock(&path).expect("a path");
        let guard = lock.acquire().await.expect("a free lock");
        assert_eq!((guard.state(), guard.path()), (LeaseState::Held, path.as_str()));
        assert_eq!(server.nodes(&path).await, [guard.node()]);
        guard.release().await.expect("a release");

        lock.try_acquire().await.expect("a free lock").release().await.expect("a release");
        lock.acquire_timeout(SOON).await.expect("a free lock").release().await.expect("a release");
        let at_once = lock.acquire_timeout(Duration::ZERO).await;
        at_once.expect("a timeout of zero is one try").release().await.expect("a release");
        let some_day = lock.acquire_timeout(Duration::MAX).await;
        some_day.expect("a timeout too long to be counted is none").release().await.expect("a release");
    });
}

#[test]
fn a_try_at_a_contended_lock_answers_contended_and_writes_nothing() {
    run(async {
        let (keeper, other, path) = (connect().await, connect().await, unique_path("try"));
        let server = Observer::new().await;
        let _guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
        let before = server.stat(&path).await.expect("the directory");
        for keeper in [&keeper, &other] {
            let lock = keeper.lock(&path).expect("a path");
            assert_eq!(refusal(lock.try_acquire().await), TryAcquireError::Contended);
            let at_once = lock.acquire_timeout(Duration::ZERO).await;
            assert_eq!(refusal(at_once), AcquireTimeoutError::TimedOut);
        }
        // Both count every child that was ever made or deleted.
        let after = server.stat(&path).await.expect("the directory");
        assert_eq!((after.cversion, after.pzxid), (before.cversion, before.pzxid));
    });
}

#[test]
fn an_acquire_with_a_timeout_answers_timed_out_and_leaves_neither_node_nor_watch() {
    run(async {
        let (keeper, other, path) = (connect().await, connect().await, unique_path("timeout"));
        let server = Observer::new().await;
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
        for keeper in [&keeper, &other] {
            let begun = Instant::now();
            let acquire = keeper.lock(&path).expect("a path").acquire_timeout(Duration::from_millis(300));
            assert_eq!(refusal(acquire.await), AcquireTimeoutError::TimedOut);
            assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
            server.until_nodes(&path, &[guard.node()]).await;
            let unwatched = async || !is_watched(guard.node());
            eventually("nobody watches the node ahead any more", SOON, unwatched).await;
        }
    });
}

#[test]
fn one_deadline_covers_a_wait_with_many_wake_ups() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("deadline"));
        server.make(&path).await;
        let mut ahead = Vec::new();
        for _ in 0..4 {
            ahead.push(server.contender(&path, b"").await);
        }
        let begun = Instant::now();
        let lock = keeper.lock(&path).expect("a path");
        let acquire = tokio::spawn(lock.acquire_timeout(Duration::from_secs(4)));
        // Each that leaves is the one that the waiter watches; the last stays.
        for leaves in (1..4).rev() {
            eventually("it is watched", SOON, async || is_watched(&ahead[leaves])).await;
            sleep_until((begun + Duration::from_millis(1200) * (4 - leaves as u32)).into()).await;
            server.delete(&ahead[leaves]).await;
        }
        let refused = refusal(acquire.await.expect("no panic"));
        assert_eq!(refused, AcquireTimeoutError::TimedOut);
        let took = begun.elapsed();
        // A time that began again at a wake-up would end after 7.6 seconds.
        assert!((Duration::from_secs(4)..Duration::from_secs(6)).contains(&took), "{took:?}");
        server.until_nodes(&path, &[&ahead[0]]).await;
    });
}

#[test]
fn the_lock_is_not_reentrant() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("reentrant"));
        let lock = keeper.lock(&path).expect("a path");
        let first = lock.acquire().await.expect("a free lock");
        assert_eq!(refusal(lock.try_acquire().await), TryAcquireError::Contended);
        let in_vain = lock.acquire_timeout(Duration::from_millis(100)).await;
        assert_eq!(refusal(in_vain), AcquireTimeoutError::TimedOut);

        let (_, mut events) = listen(lock.acquire());
        assert_eq!(queued(&mut events).await, 1);
        assert!(events.try_recv().is_err(), "it waits as long as the first guard is there");
        server.until_node_count(&path, 2).await;
        let token = first.token();
        drop(first);
        assert!(acquired(&mut events).await.token() > token);
    });
}

#[test]
fn locks_are_granted_in_the_order_of_asking_across_keepers() {
    run(async {
        let (keepers, path) = ([connect().await, connect().await], unique_path("order"));
        let (sender, mut granted) = mpsc::unbounded_channel();
        for number in 0..6 {
            let lock = keepers[number % 2].lock(&path).expect("a path");
            let (sender, (heard, mut standing)) = (sender.clone(), mpsc::unbounded_channel());
            lock.acquire().listen(move |event| {
                let _ = heard.send(());
                if let LockEvent::Acquired { guard, .. } = event {
                    let _ = sender.send((number, guard));
                }
            });
            standing.recv().await.expect("it is queued, or granted");
        }
        let mut token = None;
        for expected in 0..6 {
            let (number, guard) = granted.recv().await.expect("a grant");
            assert_eq!(number, expected);
            assert!(Some(guard.token()) > token, "tokens grow with every grant");
            token = Some(guard.token());
        }
    });
}

#[test]
fn handles_of_one_keeper_hand_over_without_waiting_for_the_server() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("hand-over"));
        let keeper = connect_through(&proxy, LONG).await;
        let lock = || keeper.lock(&path).expect("a path");
        let guard = lock().acquire().await.expect("a free lock");
        let (_, mut second) = listen(lock().acquire());
        assert_eq!(queued(&mut second).await, 1);
        let (_, mut third) = listen(lock().acquire());
        assert_eq!(queued(&mut third).await, 2);

        proxy.hold_replies(true);
        drop(guard);
        let guard = acquired(&mut second).await;
        assert_eq!(guard.state(), LeaseState::Held);
        assert!(third.try_recv().is_err(), "it is not its turn yet");
        drop(guard);
        assert_eq!(acquired(&mut third).await.state(), LeaseState::Held);
        proxy.hold_replies(false);
        Observer::new().await.until_nodes(&path, &[]).await;
    });
}

// ---- cancelling ----

#[test]
fn dropping_the_future_while_it_waits_leaves_no_node() {
    run(async {
        let (keeper, other, path) = (connect().await, connect().await, unique_path("drop"));
        let server = Observer::new().await;
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
        for keeper in [&keeper, &other] {
            let waiting = tokio::spawn(keeper.lock(&path).expect("a path").acquire());
            server.until_node_count(&path, 2).await;
            waiting.abort();
            server.until_nodes(&path, &[guard.node()]).await;
        }
    });
}

#[test]
fn an_acquire_sends_nothing_before_it_is_polled() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("lazy"));
        let lock = keeper.lock(&path).expect("a path");
        let mut acquire = pin!(lock.acquire());
        drop(lock.acquire());
        // Whatever was sent before is answered before this.
        assert_eq!(lock.contenders().await, Ok(vec![]));
        assert_eq!(server.stat(&path).await, None);

        assert!(poll_once(acquire.as_mut()).await.is_pending());
        server.until_node_count(&path, 1).await;
        drop(acquire.await.expect("a free lock"));
    });
}

#[test]
fn a_guard_that_nobody_received_is_released() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("unread"));
        let lock = keeper.lock(&path).expect("a path");

        let (_, events) = listen(lock.acquire());
        eventually("the grant is told", SOON, async || !events.is_empty()).await;
        server.until_node_count(&path, 1).await;
        drop(events);
        server.until_nodes(&path, &[]).await;

        let mut acquire = Box::pin(lock.acquire());
        assert!(poll_once(acquire.as_mut()).await.is_pending());
        server.until_node_count(&path, 1).await;
        let contenders = lock.contenders().await.expect("an answer, behind that of the create");
        assert_eq!(contenders.len(), 1);
        drop(acquire);
        server.until_nodes(&path, &[]).await;
    });
}

#[test]
fn a_cancelled_ticket_is_refused_and_leaves_no_node() {
    run(async {
        let (keeper, other, path) = (connect().await, connect().await, unique_path("cancel"));
        let server = Observer::new().await;
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
        let (actor, mut heard) = Ear::start().await;
        for keeper in [&keeper, &other] {
            let lock = keeper.lock(&path).expect("a path");
            let ticket = lock.acquire().forward(&actor, Heard);
            assert_eq!(queued(&mut heard).await, 1);
            lock.cancel(ticket);
            assert_eq!(refused(&mut heard).await, (ticket, Refused::Cancelled));
            server.until_nodes(&path, &[guard.node()]).await;
        }
        actor.stop(None);
    });
}

#[test]
fn a_cancel_hits_no_request_but_its_own() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cancel-others"));
        let lock = keeper.lock(&path).expect("a path");
        lock.cancel(Ticket::new());
        let (done, mut events) = listen(lock.acquire());
        let guard = acquired(&mut events).await;
        assert_eq!(guard.ticket(), done);
        guard.release().await.expect("a release");

        lock.cancel(done);
        let guard = lock.acquire().await.expect("a cancel does not stick");
        // Nor does it take the lock away from who has it.
        lock.cancel(guard.ticket());
        assert_eq!(lock.contenders().await.expect("an answer").len(), 1);
        assert_eq!(guard.state(), LeaseState::Held);
        guard.release().await.expect("a release");
    });
}

// ---- losing ----

#[test]
fn a_waiter_whose_session_is_lost_queues_again_at_the_tail_and_gets_the_lock_in_the_end() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("waiter-lost"));
        let proxy = proxied().await;
        let cut_off = connect_through(&proxy, SHORT).await;
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
        let (_, mut waiter) = listen(cut_off.lock(&path).expect("a path").acquire());
        assert_eq!(queued(&mut waiter).await, 1);
        let (_, mut later) = listen(keeper.lock(&path).expect("a path").acquire());
        assert_eq!(queued(&mut later).await, 2);

        let mut session = cut_off.events();
        proxy.black_hole(true);
        session_event(&mut session, SessionEvent::Lost { epoch: 1 }).await;
        proxy.black_hole(false);
        let ahead = queued(&mut waiter).await;
        assert!(ahead >= 2, "whoever came later stands ahead now: {ahead}");
        drop(guard);
        let guard = acquired(&mut later).await;
        assert!(waiter.try_recv().is_err(), "it is not its turn yet");
        drop(guard);
        assert_eq!(acquired(&mut waiter).await.state(), LeaseState::Held);
    });
}

#[test]
fn a_holder_cut_off_reads_suspended_and_then_lost_before_anybody_else_is_granted() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("holder-lost"));
        let proxy = proxied().await;
        let cut_off = connect_through(&proxy, SHORT).await;
        let (ticket, mut events) = listen(cut_off.lock(&path).expect("a path").acquire());
        let guard = acquired(&mut events).await;
        let (_, mut waiter) = listen(keeper.lock(&path).expect("a path").acquire());
        assert_eq!(queued(&mut waiter).await, 1);

        proxy.black_hole(true);
        eventually("it reads suspended", SOON, async || guard.state() == LeaseState::Suspended).await;
        let until = guard.valid_until().expect("the end of the lease");
        assert!(waiter.try_recv().is_err(), "nobody else can hold it yet");

        let other = acquired(&mut waiter).await;
        let granted = Instant::now();
        assert_eq!(guard.state(), LeaseState::Lost);
        assert!(until < granted, "granted {:?} before the lease ended", until - granted);
        assert!(other.token() > guard.token());
        timeout(SOON, guard.lost()).await.expect("it is lost already");
        let mut told = Vec::new();
        while let Some(event) = events.recv().await {
            told.push(event);
        }
        let [.., LockEvent::Suspended(first), LockEvent::Lost(last)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((*first, *last), (ticket, ticket));
        assert_eq!(guard.release().await, Err(ReleaseError::Lost));

        proxy.black_hole(false);
        drop(other);
        drop(cut_off.lock(&path).expect("a path").acquire().await.expect("a lock, in the next session"));
    });
}

#[test]
fn a_holder_whose_node_is_deleted_reads_lost_at_a_heartbeat() {
    run(async {
        let session = Duration::from_secs(8);
        let keeper = options().session_timeout(session).connect(&shared().address()).await.expect("a server");
        let (path, server) = (unique_path("holder-deleted"), Observer::new().await);
        let (ticket, mut events) = listen(keeper.lock(&path).expect("a path").acquire());
        let guard = acquired(&mut events).await;
        server.delete(guard.node()).await;
        timeout(session / 4, guard.lost()).await.expect("an eighth of the session timeout, and the answer");
        assert_eq!(guard.state(), LeaseState::Lost);
        let lost = events.recv().await;
        assert!(matches!(lost, Some(LockEvent::Lost(told)) if told == ticket), "{lost:?}");
        // The session has lost nothing else.
        drop(keeper.lock(&path).expect("a path").try_acquire().await.expect("a free lock"));
    });
}

#[test]
fn a_waiter_whose_node_is_deleted_queues_again() {
    run(async {
        let session = Duration::from_secs(8);
        let other = options().session_timeout(session).connect(&shared().address()).await.expect("a server");
        let (keeper, path) = (connect().await, unique_path("waiter-deleted"));
        let server = Observer::new().await;
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
        let (_, mut waiter) = listen(other.lock(&path).expect("a path").acquire());
        assert_eq!(queued(&mut waiter).await, 1);
        server.delete(&server.nodes(&path).await[1]).await;
        assert_eq!(queued(&mut waiter).await, 1);
        server.until_node_count(&path, 2).await;
        drop(guard);
        assert_eq!(acquired(&mut waiter).await.state(), LeaseState::Held);
    });
}

#[test]
fn a_lock_directory_that_was_deleted_is_made_again_and_tokens_go_on_growing() {
    run(async {
        let (keeper, other, path) = (connect().await, connect().await, unique_path("directory"));
        let server = Observer::new().await;
        let mut tokens = Vec::new();
        for round in 0..3 {
            for keeper in [&keeper, &other] {
                let guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
                tokens.push(guard.token());
                guard.release().await.expect("a release");
            }
            if round == 1 {
                server.delete(&path).await;
            }
        }
        assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
    });
}

#[test]
fn protected_work_ends_with_the_lease() {
    run(async {
        let proxy = proxied().await;
        let keeper = connect_through(&proxy, SHORT).await;
        let lock = keeper.lock(&unique_path("protect")).expect("a path");
        let guard = lock.acquire().await.expect("a free lock");
        assert_eq!(guard.protect(async { 42 }).await, Ok(42));

        proxy.black_hole(true);
        let dropped = Arc::new(AtomicBool::new(false));
        let set = OnDrop(dropped.clone());
        let work = async move {
            pending::<()>().await;
            drop(set);
        };
        assert_eq!(guard.protect(work).await, Err(Lost));
        assert!(dropped.load(Ordering::SeqCst), "the work is dropped where it stood");
        assert_eq!(guard.protect(async { unreachable!("it is lost already") }).await, Err::<(), _>(Lost));
    });
}

// ---- holding and releasing ----

#[test]
fn a_held_guard_is_valid_for_a_while_and_at_most_for_the_session_timeout() {
    run(async {
        let session = Duration::from_secs(4);
        let keeper = options().session_timeout(session).connect(&shared().address()).await.expect("a server");
        let lock = keeper.lock(&unique_path("valid")).expect("a path");
        let guard = lock.acquire().await.expect("a free lock");
        let first = guard.valid_until().expect("an end");
        eventually("heartbeats move the end of the lease on", SOON, async || {
            let (before, until) = (Instant::now(), guard.valid_until().expect("an end"));
            if guard.state() == LeaseState::Held {
                assert!(until > before, "held, but over since {:?}", before - until);
                assert!(until <= Instant::now() + session, "{:?} ahead", until - before);
            }
            until > first
        })
        .await;
    });
}

#[test]
fn a_guard_goes_wherever_its_owner_goes() {
    fn goes_anywhere<T: Send + Sync + 'static>(value: T) -> T {
        value
    }
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("send"));
        let guard = {
            let lock = goes_anywhere(keeper.lock(&path).expect("a path"));
            goes_anywhere(lock.acquire().await.expect("a free lock"))
        };
        let thread = std::thread::spawn(move || {
            assert_eq!(guard.state(), LeaseState::Held);
            drop(guard);
        });
        thread.join().expect("a guard needs no runtime around it");
        server.until_nodes(&path, &[]).await;
    });
}

#[test]
fn the_node_is_gone_when_a_release_returns() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("release"));
        let lock = keeper.lock(&path).expect("a path");
        for _ in 0..10 {
            let guard = lock.acquire().await.expect("a free lock");
            assert_eq!(server.nodes(&path).await, [guard.node()]);
            assert_eq!(guard.release().await, Ok(()));
            assert_eq!(server.nodes(&path).await, [""; 0]);
        }
    });
}

#[test]
fn a_release_goes_on_when_its_future_is_dropped() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("release-dropped"));
        let lock = keeper.lock(&path).expect("a path");
        for polled in [true, false] {
            let guard = lock.acquire().await.expect("a free lock");
            let mut release = Box::pin(guard.release());
            if polled {
                assert!(poll_once(release.as_mut()).await.is_pending());
            }
            drop(release);
            server.until_nodes(&path, &[]).await;
        }
    });
}

#[test]
fn a_node_that_is_gone_already_counts_as_released() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("gone"));
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
        server.delete(guard.node()).await;
        // A heartbeat that comes in between has noticed.
        let released = guard.release().await;
        assert!(matches!(released, Ok(()) | Err(ReleaseError::Lost)), "{released:?}");
        drop(keeper.lock(&path).expect("a path").try_acquire().await.expect("a free lock"));
    });
}

#[test]
fn a_guard_releases_at_the_end_of_its_scope() {
    run(async {
        let (keeper, other, path) = (connect().await, connect().await, unique_path("scope"));
        let server = Observer::new().await;
        {
            let _guard = keeper.lock(&path).expect("a path").acquire().await.expect("a free lock");
            server.until_node_count(&path, 1).await;
        }
        let next = other.lock(&path).expect("a path").acquire_timeout(SOON).await;
        drop(next.expect("a lock that is free again"));
        server.until_nodes(&path, &[]).await;
    });
}

// ---- who is there ----

#[test]
fn contenders_are_told_in_the_order_of_the_queue_with_what_is_known_of_them() {
    run(async {
        let (server, path) = (Observer::new().await, unique_path("contenders"));
        let named = options().identifier("keeper").connect(&shared().address()).await.expect("a server");
        let lock = named.lock(&path).expect("a path");
        let guard = lock.acquire().await.expect("a free lock");
        let own = LockOptions::new().identifier("lock");
        let (_, mut second) = listen(named.lock_with(&path, own).expect("options").acquire());
        queued(&mut second).await;
        let (_, mut third) = listen(connect().await.lock(&path).expect("a path").acquire());
        queued(&mut third).await;
        let foreign = server.contender(&path, b"caf\xe9").await;
        server.create(&format!("{path}/notes"), b"of no matter", zk::CreateMode::Persistent).await;

        let contenders = lock.contenders().await.expect("an answer");
        let identifiers: Vec<_> = contenders.iter().map(|c| c.identifier.as_str()).collect();
        assert_eq!(identifiers, ["keeper", "lock", "", "caf\u{fffd}"]);
        assert!(contenders.iter().map(|c| c.position).eq(0..4));
        assert!(contenders.iter().all(|c| c.mode == Mode::Lock));
        assert!(contenders.is_sorted_by(|before, after| before.token < after.token));
        assert_eq!(format!("{path}/{}", contenders[0].name), guard.node());
        assert_eq!(contenders[0].token, guard.token());
        assert_eq!(contenders[0].session, contenders[1].session);
        assert_eq!(format!("{path}/{}", contenders[3].name), foreign);
        assert_eq!(contenders[3].session, Some(server.0.session_id().0));
        let node = server.stat(&foreign).await.expect("the node");
        assert_eq!(contenders[3].token.as_u64(), node.czxid as u64);
    });
}

#[test]
fn asking_for_contenders_makes_nothing() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("absent"));
        let lock = keeper.lock(&format!("{path}/below")).expect("a path");
        assert_eq!(lock.contenders().await, Ok(vec![]));
        assert_eq!(server.stat(&path).await, None);
    });
}

// ---- options ----

#[test]
fn foreign_contenders_count_where_their_pattern_is_given_and_as_plain_text() {
    run(async {
        let (keeper, server) = (connect().await, Observer::new().await);
        for (name, pattern) in [("x-mutex-", "-mutex-"), ("a[", "a["), ("x(.*)", "(.*)")] {
            let path = unique_path("patterns");
            server.make(&path).await;
            let foreign = format!("{path}/{name}");
            let foreign = server.create(&foreign, b"it", zk::CreateMode::EphemeralSequential).await;
            assert!(foreign.ends_with(&format!("{name}0000000000")), "{foreign}");

            let plain = keeper.lock(&path).expect("a path");
            plain.try_acquire().await.expect("it is nobody").release().await.expect("a release");
            assert_eq!(plain.contenders().await, Ok(vec![]));

            let options = LockOptions::new().extra_lock_patterns(["no such thing", pattern]);
            let lock = keeper.lock_with(&path, options).expect("plain text");
            assert_eq!(refusal(lock.try_acquire().await), TryAcquireError::Contended);
            assert_eq!(lock.contenders().await.expect("an answer")[0].identifier, "it");
            let (_, mut events) = listen(lock.acquire());
            assert_eq!(queued(&mut events).await, 1);
            server.delete(&foreign).await;
            drop(acquired(&mut events).await);
        }
    });
}

#[test]
fn a_lock_that_outlives_sessions_is_kept_across_a_lost_one() {
    run(async {
        let proxy = proxied().await;
        let keeper = connect_through(&proxy, SHORT).await;
        let (server, path) = (Observer::new().await, unique_path("outlives"));
        let lock = keeper.lock_with(&path, LockOptions::new().ephemeral(false)).expect("options");
        let guard = lock.acquire().await.expect("a free lock");
        assert_eq!(guard.valid_until(), None);

        let mut session = keeper.events();
        proxy.black_hole(true);
        eventually("it reads suspended", SOON, async || guard.state() == LeaseState::Suspended).await;
        session_event(&mut session, SessionEvent::Lost { epoch: 1 }).await;
        assert_eq!(guard.state(), LeaseState::Suspended);
        proxy.black_hole(false);
        eventually("it is held again", SOON, async || guard.state() == LeaseState::Held).await;
        assert_eq!(server.nodes(&path).await, [guard.node()]);
        assert_eq!(guard.release().await, Ok(()));
        assert_eq!(server.nodes(&path).await, [""; 0]);
    });
}

#[test]
fn a_crashed_holder_of_a_lock_that_outlives_sessions_is_found_and_removed_by_hand() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("crashed"));
        let (address, crashing) = (shared().address(), path.clone());
        let crash = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let keeper = options().identifier("crashed").session_timeout(SHORT);
                let keeper = keeper.connect(&address).await.expect("a server");
                let options = LockOptions::new().ephemeral(false);
                keeper.lock_with(&crashing, options).expect("options").acquire().await.expect("a free lock")
            })
        });
        let guard = crash.join().expect("a guard whose runtime is gone");
        assert_eq!(guard.state(), LeaseState::Lost);

        let lock = keeper.lock(&path).expect("a path");
        let (_, mut waiter) = listen(lock.acquire());
        assert_eq!(queued(&mut waiter).await, 1);
        let contenders = lock.contenders().await.expect("an answer");
        let (crashed, waiting) = (&contenders[0], &contenders[1]);
        assert_eq!((crashed.identifier.as_str(), crashed.session), ("crashed", None));
        assert_eq!(crashed.token, guard.token());

        let session = waiting.session.expect("a session");
        let refused = ContendersError::Ephemeral { name: waiting.name.clone(), session };
        assert_eq!(lock.remove_contender(waiting).await, Err(refused));
        assert!(waiter.try_recv().is_err(), "nothing has changed");
        assert_eq!(lock.remove_contender(crashed).await, Ok(()));
        drop(acquired(&mut waiter).await);
        assert_eq!(lock.remove_contender(crashed).await, Ok(()), "one that is gone counts as removed");
    });
}

#[test]
fn an_access_list_keeps_everybody_else_out() {
    run(async {
        let address = shared().address();
        let acl = || vec![Acl::new(Permission::ALL, AuthId::authed())];
        let auth = || options().auth("digest", b"owner:secret");
        let owner = zk::Client::connector().with_auth("digest", b"owner:secret");
        let owner = owner.connect(&address).await.expect("a server");
        let listed = auth().acl(acl()).connect(&address).await.expect("a server");
        let unlisted = auth().connect(&address).await.expect("a server");
        let path = unique_path("acl");
        for (path, owners, options) in [
            (format!("{path}-keeper"), &listed, LockOptions::new()),
            (format!("{path}-lock"), &unlisted, LockOptions::new().acl(acl())),
        ] {
            let lock = owners.lock_with(&path, options).expect("options");
            let guard = lock.acquire().await.expect("a free lock");
            for node in [&path, guard.node()] {
                let (list, _) = owner.get_acl(node).await.expect("an access list");
                let [entry] = &list[..] else { panic!("{list:?}") };
                assert_eq!((entry.scheme(), entry.permission()), ("digest", Permission::ALL));
                assert!(entry.id().starts_with("owner:"), "{entry:?}");
            }
            let stranger = connect().await.lock(&path).expect("a path");
            let refused = AcquireError::NoAuth { path: path.clone() };
            assert_eq!(refusal(stranger.acquire().await), refused);
            assert_eq!(refusal(stranger.try_acquire().await), TryAcquireError::Failed(refused));
            let refused = ContendersError::NoAuth { path: path.clone() };
            assert_eq!(stranger.contenders().await, Err(refused));
            assert_eq!(guard.release().await, Ok(()));
        }
    });
}

#[test]
fn a_chroot_is_made_when_a_lock_needs_it_and_shows_in_no_path() {
    run(async {
        let (server, root) = (Observer::new().await, unique_path("chroot"));
        let address = format!("{}{root}/app", shared().address());
        let keeper = options().session_timeout(Duration::from_secs(8)).connect(&address).await;
        let keeper = keeper.expect("a server");
        let lock = keeper.lock("/locks/ledger").expect("a path");
        assert_eq!(lock.contenders().await, Ok(vec![]));
        assert_eq!(server.stat(&root).await, None);
        let guard = lock.acquire().await.expect("a free lock");
        assert_eq!(guard.path(), "/locks/ledger");
        let (directory, node) = (format!("{root}/app/locks/ledger"), guard.node());
        assert_eq!(server.nodes(&directory).await, [format!("{root}/app{node}")]);
        server.delete(&format!("{root}/app{node}")).await;
        timeout(SOON, guard.lost()).await.expect("it is checked where it is");
    });
}

#[test]
fn directories_made_as_containers_go_when_they_have_been_emptied() {
    run(async {
        let server = TestServer::start();
        let keeper = options().connect(&server.address()).await.expect("a server");
        let server = Observer::of(&server).await;
        let lock = |path| {
            let options = LockOptions::new().container_directories(true);
            keeper.lock_with(path, options).expect("options")
        };
        let plain = keeper.lock("/plain/below").expect("a path").acquire().await.expect("a free lock");
        assert_eq!(plain.release().await, Ok(()));
        for _ in 0..2 {
            let guard = lock("/container/below").acquire().await.expect("a free lock");
            assert_eq!(server.nodes("/container/below").await, [guard.node()]);
            assert_eq!(guard.release().await, Ok(()));
            let gone = async || server.stat("/container").await.is_none();
            eventually("the container and all that led to it are gone", SOON, gone).await;
        }
        assert!(server.stat("/plain/below").await.is_some());
    });
}

// ---- by message ----

#[test]
fn an_actor_is_told_of_its_lock_by_message_and_releases_by_dropping_the_guard() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("actor"));
        let lock = keeper.lock(&path).expect("a path");
        let (actor, mut heard) = Ear::start().await;
        let first = lock.acquire().forward(&actor, Heard);
        let guard = acquired(&mut heard).await;
        assert_eq!(guard.ticket(), first);
        let second = lock.acquire().forward(&actor, Heard);
        assert_eq!(queued(&mut heard).await, 1);
        let tried = lock.try_acquire().forward(&actor, Heard);
        assert_eq!(refused(&mut heard).await, (tried, Refused::Contended));
        let timed = lock.acquire_timeout(Duration::from_millis(500)).forward(&actor, Heard);
        assert_eq!(queued(&mut heard).await, 2);
        assert_eq!(refused(&mut heard).await, (timed, Refused::TimedOut));

        drop(guard);
        let guard = acquired(&mut heard).await;
        assert_eq!(guard.ticket(), second);
        drop(guard);
        server.until_nodes(&path, &[]).await;

        // An actor that is gone drops what it is sent.
        actor.stop_and_wait(None, None).await.expect("it stops");
        lock.acquire().forward(&actor, Heard);
        drop(lock.acquire_timeout(SOON).await.expect("a lock that nobody kept"));
    });
}

#[test]
fn a_lock_is_asked_and_released_by_message() {
    run(async {
        let (keeper, server, path) = (connect().await, Observer::new().await, unique_path("message"));
        let lock = keeper.lock(&path).expect("a path");
        let guard = lock.acquire().await.expect("a free lock");
        let (waiting, mut events) = listen(lock.acquire());
        assert_eq!(queued(&mut events).await, 1);

        let (reply, answer) = oneshot::channel();
        lock.send(LockMessage::Contenders([].into(), reply.into()));
        let contenders = answer.await.expect("a reply").expect("an answer");
        assert_eq!(contenders.len(), 2);
        assert_eq!(contenders[0].token, guard.token());

        lock.send(LockMessage::Cancel(waiting));
        assert_eq!(refused(&mut events).await, (waiting, Refused::Cancelled));

        let (reply, answer) = oneshot::channel();
        lock.send(LockMessage::Release(guard.ticket(), Some(reply.into())));
        assert_eq!(answer.await.expect("a reply"), Ok(()));
        assert_eq!(server.nodes(&path).await, [""; 0]);
        eventually("its guard reads lost", SOON, async || guard.state() == LeaseState::Lost).await;
    });
}

#[test]
fn a_guard_whose_lock_was_released_by_message_is_not_held_when_the_next_one_is_granted() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("message-release"));
        let keeper = connect_through(&proxy, LONG).await;
        let lock = keeper.lock(&path).expect("a path");
        let guard = lock.acquire().await.expect("a free lock");
        let (_, mut next) = listen(lock.acquire());
        assert_eq!(queued(&mut next).await, 1);
        proxy.hold_replies(true);
        lock.send(LockMessage::Release(guard.ticket(), None));
        let next = acquired(&mut next).await;
        assert_eq!((guard.state(), next.state()), (LeaseState::Lost, LeaseState::Held));
    });
}

#[test]
fn session_events_are_told_each_once_and_in_order() {
    run(async {
        let proxy = proxied().await;
        let keeper = connect_through(&proxy, SHORT).await;
        let mut events = keeper.events();
        assert_eq!(events.next().await, Some(SessionEvent::Connected { epoch: 1 }));
        proxy.black_hole(true);
        let mut told = Vec::new();
        while told.last() != Some(&SessionEvent::Connected { epoch: 2 }) {
            match events.next().await.expect("the keeper is open") {
                // Doubts that pass are the machine's.
                SessionEvent::Resumed { epoch: 1 } => {
                    assert_eq!(told.pop(), Some(SessionEvent::Suspended { epoch: 1 }));
                }
                event => told.push(event),
            }
            if told.last() == Some(&SessionEvent::Lost { epoch: 1 }) {
                proxy.black_hole(false);
            }
        }
        let [suspended, lost] = [SessionEvent::Suspended { epoch: 1 }, SessionEvent::Lost { epoch: 1 }];
        assert_eq!(told, [suspended, lost, SessionEvent::Connected { epoch: 2 }]);
        keeper.close().await;
        session_event(&mut events, SessionEvent::Closed).await;
        assert_eq!(events.next().await, None);
    });
}

#[test]
fn who_asks_for_session_events_late_is_told_the_newest_first() {
    run(async {
        let keeper = connect().await;
        assert_eq!(keeper.events().next().await, Some(SessionEvent::Connected { epoch: 1 }));
        assert_eq!(keeper.clone().events().next().await, Some(SessionEvent::Connected { epoch: 1 }));
    });
}

// ---- what the tests use ----

/// A session timeout under which no busy machine loses a session.
const LONG: Duration = Duration::from_secs(20);
/// For sessions that are to be lost.
const SHORT: Duration = Duration::from_secs(2);
/// For what is done in milliseconds when nothing is wrong.
const SOON: Duration = Duration::from_secs(10);

/// Runs a test, and ends it when it hangs.
fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(Duration::from_secs(60), test).await.expect("the test hangs") });
}

fn options() -> KeeperOptions {
    Keeper::options().session_timeout(LONG)
}

async fn connect() -> Keeper {
    options().connect(&shared().address()).await.expect("a server")
}

async fn connect_through(proxy: &Proxy, session: Duration) -> Keeper {
    options().session_timeout(session).connect(&proxy.address()).await.expect("a server")
}

fn refusal<E>(result: Result<LockGuard, E>) -> E {
    result.expect_err("it must not be granted")
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

type Events = mpsc::UnboundedReceiver<LockEvent<LockGuard>>;

fn listen<E>(acquire: Pending<E>) -> (Ticket, Events) {
    let (sender, events) = mpsc::unbounded_channel();
    let ticket = acquire.listen(move |event| {
        let _ = sender.send(event);
    });
    (ticket, events)
}

async fn queued(events: &mut Events) -> usize {
    match events.recv().await {
        Some(LockEvent::Queued { ahead, .. }) => ahead,
        other => panic!("it should be queued: {other:?}"),
    }
}

async fn acquired(events: &mut Events) -> LockGuard {
    match events.recv().await {
        Some(LockEvent::Acquired { guard, .. }) => guard,
        other => panic!("it should be granted: {other:?}"),
    }
}

async fn refused(events: &mut Events) -> (Ticket, Refused) {
    match events.recv().await {
        Some(LockEvent::Refused(ticket, refused)) => (ticket, refused),
        other => panic!("it should be refused: {other:?}"),
    }
}

/// Waits for an event of the session, and passes over those before.
async fn session_event(events: &mut lockkeeper::Events, wanted: SessionEvent) {
    while events.next().await.expect("the keeper is open") != wanted {}
}

/// An actor that passes on what it hears of its locks.
struct Ear;

struct Heard(LockEvent<LockGuard>);

#[cfg(feature = "cluster")]
impl ractor::Message for Heard {}

impl Ear {
    async fn start() -> (ActorRef<Heard>, Events) {
        let (sender, events) = mpsc::unbounded_channel();
        let (actor, _) = Actor::spawn(None, Ear, sender).await.expect("an actor");
        (actor, events)
    }
}

#[ractor::actor(message = Heard, state = mpsc::UnboundedSender<LockEvent<LockGuard>>, arguments = mpsc::UnboundedSender<LockEvent<LockGuard>>)]
impl Ear {
    async fn pre_start(
        &self,
        _myself: ActorRef<Heard>,
        sender: mpsc::UnboundedSender<LockEvent<LockGuard>>,
    ) -> Result<mpsc::UnboundedSender<LockEvent<LockGuard>>, ActorProcessingErr> {
        Ok(sender)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Heard>,
        Heard(event): Heard,
        sender: &mut mpsc::UnboundedSender<LockEvent<LockGuard>>,
    ) -> Result<(), ActorProcessingErr> {
        let _ = sender.send(event);
        Ok(())
    }
}

/// Sets the flag when it is dropped.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Whether anybody watches this node.
fn is_watched(node: &str) -> bool {
    shared().four_letter("wchp").lines().any(|line| line == node)
}

/// Somebody else on the same server, who looks at nodes, and makes and deletes them.
struct Observer(zk::Client);

impl Observer {
    async fn new() -> Observer {
        Observer::of(shared()).await
    }

    async fn of(server: &TestServer) -> Observer {
        Observer(zk::Client::connect(&server.address()).await.expect("a server"))
    }

    async fn stat(&self, path: &str) -> Option<zk::Stat> {
        self.0.check_stat(path).await.expect("a stat")
    }

    /// The paths of the nodes in a directory, in the order of their numbers; none where there is no directory.
    async fn nodes(&self, directory: &str) -> Vec<String> {
        let mut names = match self.0.list_children(directory).await {
            Err(zk::Error::NoNode) => Vec::new(),
            names => names.expect("a list"),
        };
        names.sort_by_key(|name| name[name.len().saturating_sub(10)..].to_owned());
        names.iter().map(|name| format!("{directory}/{name}")).collect()
    }

    async fn until_nodes(&self, directory: &str, expected: &[&str]) {
        let what = format!("{directory} contains just {expected:?}");
        eventually(&what, SOON, async || self.nodes(directory).await == expected).await;
    }

    async fn until_node_count(&self, directory: &str, count: usize) {
        let what = format!("{directory} contains {count} nodes");
        eventually(&what, SOON, async || self.nodes(directory).await.len() == count).await;
    }

    async fn make(&self, directory: &str) {
        self.create(directory, b"", zk::CreateMode::Persistent).await;
    }

    /// The node's path: with its number if it has one.
    async fn create(&self, path: &str, data: &[u8], mode: zk::CreateMode) -> String {
        let options = mode.with_acls(zk::Acls::anyone_all());
        let (_, number) = self.0.create(path, data, &options).await.expect("a new node");
        match mode {
            zk::CreateMode::EphemeralSequential => format!("{path}{number}"),
            _ => path.to_owned(),
        }
    }

    /// A contender as kazoo makes it.
    async fn contender(&self, directory: &str, identifier: &[u8]) -> String {
        let path = format!("{directory}/0123456789abcdef0123456789abcdef__lock__");
        self.create(&path, identifier, zk::CreateMode::EphemeralSequential).await
    }

    async fn delete(&self, path: &str) {
        self.0.delete(path, None).await.expect("a node to delete");
    }
}
