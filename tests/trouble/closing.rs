//! Closing keepers, and dropping their last handle.

use std::time::Duration;

use futures::StreamExt;
use lockkeeper::error::{
    AcquireError, AcquireTimeoutError, QueryError, Refused, ReleaseError, ResizeError, TryAcquireError,
};
use lockkeeper::messages::LockEvent;
use lockkeeper::run::{LeaseView, StopPolicy};
use lockkeeper::session::SessionEvent;
use lockkeeper::{LeaseState, LockOptions};
use ractor::{ActorProcessingErr, ActorRef};
use tokio::time::timeout;

use crate::common::events::{acquired, listen, queued, session_event};
use crate::common::kinds::{self, Kind};
use crate::common::logs::Logs;
use crate::common::site::is_known;
use crate::common::{
    BRISK, LONG, SHORT, SLACK, SOON, connect, connect_for, connect_through, eventually,
    keeper_failing_to_reconnect, options, proxied, refusal, run, shared, unique_path,
};

promises! {
    every_kind:
        closing_answers_all_requests_and_leaves_nothing,
        a_closed_keeper_refuses_every_request_at_once,
        closing_without_a_connection_completes_when_the_session_expires,
        closing_while_reconnecting_answers_all_requests_at_once,
        dropping_all_handles_closes_the_session_but_a_guard_keeps_it_open,
        a_pending_request_keeps_the_session_open_without_any_handle;
    queued:
        closing_deletes_nodes_that_would_outlive_the_session;
}

async fn closing_answers_all_requests_and_leaves_nothing(kind: Kind) {
    let proxy = proxied().await;
    let (keeper, other) = (connect_through(&proxy, LONG).await, connect().await);
    let (held, contended) = (kind.site("close-held").await, kind.site("close-contended").await);
    let guard = held.rival(&keeper).acquire().await.expect("the lock is free");
    let theirs = contended.rival(&other).acquire().await.expect("the lock is free");
    let local = tokio::spawn(held.lock(&keeper).acquire());
    let remote = tokio::spawn(contended.lock(&keeper).acquire_timeout(LONG));
    let (ticket, mut contended_events) = listen(&contended.lock(&keeper));
    held.until_nodes(2).await;
    queued(&mut contended_events).await;
    let session = held.server.owner(&guard.node()).await;
    assert!(is_known(session));
    let mut events = keeper.events();

    timeout(SOON, keeper.close()).await.expect("the keeper closes");
    assert_eq!(guard.state(), LeaseState::Lost);
    assert_eq!(refusal(local.await.expect("no panic")), AcquireError::Closed);
    let refused = AcquireTimeoutError::Failed(AcquireError::Closed);
    assert_eq!(refusal(remote.await.expect("no panic")), refused);
    let received = contended_events.recv().await;
    let closed = Refused::Failed(AcquireError::Closed);
    let refused = matches!(&received, Some(LockEvent::Refused(of, why)) if *of == ticket && *why == closed);
    assert!(refused, "{received:?}");
    assert_eq!(held.nodes().await, [""; 0]);
    assert!(contended.has_only(&theirs.nodes()).await);
    session_event(&mut events, SessionEvent::Closed).await;
    assert_eq!(events.next().await, None);
    eventually("the session is gone", SOON, async || !is_known(session)).await;
    eventually("the connection is gone", SOON, async || proxy.open() == 0).await;
    timeout(SOON, guard.lost()).await.expect("it is already lost");
    assert_eq!(guard.release().await, Err(ReleaseError::Lost));
}

async fn a_closed_keeper_refuses_every_request_at_once(kind: Kind) {
    let (site, keeper) = (kind.site("closed").await, connect().await);
    let lock = site.lock(&keeper);
    drop(lock.acquire().await.expect("the lock is free"));
    keeper.close().await;
    let late = kind.site("late").await.lock(&keeper);
    for lock in [&lock, &late] {
        let error = refusal(timeout(SLACK, lock.acquire()).await.expect("an answer at once"));
        assert_eq!(error, AcquireError::Closed);
        let tried = timeout(SLACK, lock.try_acquire()).await.expect("an answer at once");
        assert!(matches!(refusal(tried), TryAcquireError::Failed(_)));
        assert_eq!(lock.listed().await, Err(QueryError::Closed));
    }
    timeout(SLACK, keeper.close()).await.expect("it is already closed");
    assert_eq!(keeper.events().collect::<Vec<_>>().await, [SessionEvent::Closed]);
}

async fn closing_deletes_nodes_that_would_outlive_the_session(kind: Kind) {
    let (site, keeper) = (kind.site("close-outlives").await, connect().await);
    let lock = site.lock_with(&keeper, LockOptions::new().ephemeral(false));
    let guard = lock.acquire().await.expect("the lock is free");
    timeout(SOON, keeper.close()).await.expect("the keeper closes");
    assert_eq!(guard.state(), LeaseState::Lost);
    assert_eq!(site.nodes().await, [""; 0]);
}

async fn closing_without_a_connection_completes_when_the_session_expires(kind: Kind) {
    let (site, proxy) = (kind.site("close-cut-off").await, proxied().await);
    let (keeper, other) = (connect_through(&proxy, SHORT).await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let waiter = tokio::spawn(site.lock(&keeper).acquire());
    site.until_nodes(2).await;
    proxy.black_hole(true);
    timeout(SOON, keeper.close()).await.expect("it closes when the session expires");
    assert_eq!(guard.state(), LeaseState::Lost);
    assert_eq!(refusal(waiter.await.expect("no panic")), AcquireError::Closed);
    // The server expires the session.
    site.until_only(&[]).await;
    drop(site.lock(&other).acquire().await.expect("the lock is free"));
}

async fn closing_while_reconnecting_answers_all_requests_at_once(kind: Kind) {
    let (site, proxy) = (kind.site("close-lost").await, proxied().await);
    let keeper = keeper_failing_to_reconnect(&proxy).await;
    let (_, mut waiter) = listen(&site.lock(&keeper));
    timeout(SLACK, keeper.close()).await.expect("it closes at once");
    let received = waiter.recv().await;
    let closed = Refused::Failed(AcquireError::Closed);
    assert!(matches!(&received, Some(LockEvent::Refused(_, why)) if *why == closed), "{received:?}");
    proxy.refuse(false);
    assert_eq!(keeper.events().collect::<Vec<_>>().await, [SessionEvent::Closed]);
    eventually("no connection attempt is left", SOON, async || proxy.open() == 0).await;
}

async fn dropping_all_handles_closes_the_session_but_a_guard_keeps_it_open(kind: Kind) {
    let (site, keeper) = (kind.site("dropped").await, connect_for(BRISK).await);
    let lock = site.lock(&keeper);
    let guard = lock.acquire().await.expect("the lock is free");
    let session = site.server.owner(&guard.node()).await;
    let until = guard.valid_until();
    drop((keeper.clone(), keeper, lock));
    eventually("heartbeats continue", SOON, async || guard.valid_until() > until).await;
    assert_ne!(guard.state(), LeaseState::Lost);
    assert!(is_known(session));
    drop(guard);
    site.until_only(&[]).await;
    eventually("the session is gone", SOON, async || !is_known(session)).await;
}

async fn a_pending_request_keeps_the_session_open_without_any_handle(kind: Kind) {
    let (site, other) = (kind.site("pending").await, connect().await);
    let guard = site.rival(&other).acquire().await.expect("the lock is free");
    let (_, mut events) = {
        let keeper = connect().await;
        listen(&site.lock(&keeper))
    };
    queued(&mut events).await;
    drop(guard);
    assert_eq!(acquired(&mut events).await.state(), LeaseState::Held);
}

#[test]
fn an_orderly_close_is_reported_as_closed_and_not_as_lost() {
    run(async {
        for round in 0..20 {
            let keeper = connect().await;
            let guard = keeper.lock(&unique_path("orderly")).expect("a valid path").acquire().await;
            let events = keeper.events();
            keeper.close().await;
            assert_eq!(guard.expect("the lock is free").state(), LeaseState::Lost);
            let mut received: Vec<_> = timeout(SOON, events.collect()).await.expect("the events end");
            // A slow machine may suspend the session for a moment.
            received.retain(|event| {
                !matches!(event, SessionEvent::Suspended { .. } | SessionEvent::Resumed { .. })
            });
            assert_eq!(
                received,
                [SessionEvent::Connected { epoch: 1 }, SessionEvent::Closed],
                "round {round}"
            );
        }
    });
}

#[test]
fn a_closed_keeper_answers_every_query_with_closed() {
    run(async {
        let keeper = connect().await;
        let lock = keeper.lock(&unique_path("questions")).expect("a valid path");
        let guard = lock.acquire().await.expect("the lock is free");
        let contenders = lock.contenders().await.expect("a list");
        drop(guard);
        let singleton = keeper.singleton(lock.path()).expect("a valid path");
        let pool = keeper.semaphore(&unique_path("questions"), 1).expect("a valid path");
        keeper.close().await;
        assert_eq!(lock.contenders().await, Err(QueryError::Closed));
        assert_eq!(lock.remove_contender(&contenders[0]).await, Err(QueryError::Closed.into()));
        assert_eq!(singleton.leader().await, Err(QueryError::Closed));
        assert_eq!(singleton.leaders().next().await, None);
        assert_eq!(pool.lease_holders().await, Err(QueryError::Closed));
        assert_eq!(pool.resize(2).await, Err(ResizeError::Failed(QueryError::Closed)));
    });
}

#[test]
fn a_query_pending_while_the_keeper_closes_is_answered_with_closed() {
    run(async {
        let proxy = proxied().await;
        let limited = options().close_timeout(Duration::from_millis(300));
        let keeper = limited.connect(&proxy.address()).await.expect("should connect");
        let lock = keeper.lock(&unique_path("under-way")).expect("a valid path");
        let pool = keeper.semaphore(&unique_path("under-way"), 1).expect("a valid path");
        assert_eq!(lock.contenders().await, Ok(vec![]));
        assert_eq!(pool.lease_holders().await, Ok(vec![]));
        proxy.hold_replies(true);
        let inspector = keeper.inspector();
        let mut look = Box::pin(inspector.look(lock.path()));
        assert!(futures::poll!(&mut look).is_pending());
        let (mut list, mut resize) = (Box::pin(lock.contenders()), Box::pin(pool.resize(2)));
        assert!(futures::poll!(&mut list).is_pending());
        assert!(futures::poll!(&mut resize).is_pending());
        let closing = tokio::spawn({
            let keeper = keeper.clone();
            async move { keeper.close().await }
        });
        assert_eq!(timeout(SOON, list).await, Ok(Err(QueryError::Closed)));
        assert_eq!(timeout(SOON, look).await, Ok(Err(QueryError::Closed.into())));
        assert_eq!(timeout(SOON, resize).await, Ok(Err(ResizeError::Failed(QueryError::Closed))));
        proxy.hold_replies(false);
        closing.await.expect("no panic");
    });
}

// On a single thread, because the log is captured per thread.
#[tokio::test]
async fn closing_without_a_connection_warns_of_each_node_left_behind() {
    let logs = Logs::start();
    let (site, proxy) = (kinds::lock().site("stays").await, proxied().await);
    let keeper = connect_through(&proxy, SHORT).await;
    let lock = site.lock_with(&keeper, LockOptions::new().ephemeral(false));
    let guard = lock.acquire().await.expect("the lock is free");
    let waiting = tokio::spawn(lock.acquire());
    site.until_nodes(2).await;
    let ephemeral_waiter = tokio::spawn(site.lock(&keeper).acquire());
    site.until_nodes(3).await;
    proxy.black_hole(true);
    timeout(SOON, keeper.close()).await.expect("it closes when the session expires");
    assert_eq!(guard.state(), LeaseState::Lost);
    for waiting in [waiting, ephemeral_waiter] {
        assert_eq!(refusal(waiting.await.expect("no panic")), AcquireError::Closed);
    }
    // The third node is ephemeral, and the server removes it.
    site.until_nodes(2).await;
    for node in site.nodes().await {
        let without_number = &node[..node.len() - 10];
        let warned = logs.with(&["WARN", "may be left", without_number]);
        assert_eq!(warned.len(), 1, "{node}: {warned:?}");
    }
    let warned = logs.with(&["may be left"]);
    assert_eq!(warned.len(), 2, "no other warnings: {warned:?}");
    site.delete_all().await;
}

#[tokio::test]
async fn a_closed_keeper_leaves_no_task_that_waits_for_its_close_timeout() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let limited = options().close_timeout(SOON * 100).connect(&shared().address()).await;
    let keeper = limited.expect("should connect");
    keeper.close().await;
    let gone = async || metrics.num_alive_tasks() == before;
    eventually("every actor and task is gone", SOON, gone).await;
}

/// An actor whose handler blocks its thread until it is told to end.
struct Blocked;

struct Block {
    begun: tokio::sync::oneshot::Sender<LeaseView>,
    lease: LeaseView,
    finish: std::sync::mpsc::Receiver<()>,
}

#[cfg(feature = "cluster")]
impl ractor::Message for Block {}

#[ractor::actor(message = Block, state = (), arguments = Block)]
impl Blocked {
    async fn pre_start(&self, myself: ActorRef<Block>, block: Block) -> Result<(), ActorProcessingErr> {
        Ok(myself.cast(block)?)
    }

    async fn handle(&self, _: ActorRef<Block>, block: Block, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let _ = block.begun.send(block.lease);
        let _ = block.finish.recv();
        Ok(())
    }
}

#[test]
fn closing_respects_its_timeout_even_if_a_handler_blocks() {
    run(async {
        let site = kinds::lock().site("close-timeout").await;
        let limited = options().close_timeout(Duration::from_millis(300));
        let keeper = limited.connect(&shared().address()).await.expect("should connect");
        let guard = site.queue(&keeper).acquire().await.expect("the lock is free");
        let another = keeper.lock(&format!("{}-another", site.path)).expect("a valid path");
        let another = another.acquire().await.expect("the lock is free");
        let outliving = LockOptions::new().ephemeral(false);
        let outliving = keeper.lock_with(&format!("{}-outliving", site.path), outliving).expect("options");
        let outliving = outliving.acquire().await.expect("the lock is free");
        let session = site.server.owner(guard.node()).await;
        let (begun, blocked) = tokio::sync::oneshot::channel();
        // Dropped at the end of the test, even if it fails, which ends the handler.
        let (_running, finish) = std::sync::mpsc::channel();
        let make = move |lease: LeaseView| (Blocked, Block { begun, lease, finish });
        let worker = guard.run(StopPolicy::default(), make, |_| None);
        let lease = blocked.await.expect("it starts");

        let waiting = tokio::spawn(site.queue(&keeper).acquire());
        site.until_nodes(2).await;
        let mut events = keeper.events();
        timeout(SOON, keeper.close()).await.expect("it closes within its timeout");
        assert_eq!(refusal(waiting.await.expect("no panic")), AcquireError::Closed);
        assert_eq!(lease.state(), LeaseState::Lost);
        assert_eq!((another.state(), outliving.state()), (LeaseState::Lost, LeaseState::Lost));
        session_event(&mut events, SessionEvent::Closed).await;
        assert_eq!(events.next().await, None);
        eventually("the session is gone", SOON, async || !is_known(session)).await;
        drop(worker);
    });
}
