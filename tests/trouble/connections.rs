//! Broken connections, and servers that are down or restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use lockkeeper::error::{AcquireTimeoutError, QueryError, ReleaseError, TryAcquireError};
use lockkeeper::messages::LockEvent;
use lockkeeper::session::SessionEvent;
use lockkeeper::{LeaseState, LockGuard};
use lockkeeper_embedded::Embedded;
use tokio::time::sleep;

use crate::common::events::{acquired, listen, queued, session_event};
use crate::common::kinds::Kind;
use crate::common::{
    LONG, SHORT, SLACK, SOON, TestServer, connect, connect_through, eventually, keeper_failing_to_reconnect,
    options, proxied, refusal, run,
};

promises! {
    every_kind:
        a_holder_keeps_its_lock_across_a_connection_reset,
        a_waiter_keeps_its_place_across_a_connection_reset,
        a_predecessor_deleted_while_disconnected_is_noticed_after_reconnecting,
        while_suspended_try_acquire_fails_at_once_and_acquire_waits,
        a_keeper_recovers_after_a_long_server_outage;
    [lock, semaphore]:
        a_server_restart_never_lets_two_hold;
}

async fn a_holder_keeps_its_lock_across_a_connection_reset(kind: Kind) {
    let (site, proxy) = (kind.site("reset-holder").await, proxied().await);
    let keeper = connect_through(&proxy, LONG).await;
    let mut session = keeper.events();
    assert_eq!(session.next().await, Some(SessionEvent::Connected { epoch: 1 }));
    let (ticket, mut events) = listen(&site.lock(&keeper));
    let guard = acquired(&mut events).await;
    let (token, nodes) = (guard.token(), guard.nodes());
    for _ in 0..3 {
        proxy.cut();
        let received = events.recv().await;
        assert!(matches!(received, Some(LockEvent::Suspended(of)) if of == ticket), "{received:?}");
        let received = events.recv().await;
        assert!(matches!(received, Some(LockEvent::Resumed(of)) if of == ticket), "{received:?}");
        assert_eq!(session.next().await, Some(SessionEvent::Suspended { epoch: 1 }));
        assert_eq!(session.next().await, Some(SessionEvent::Resumed { epoch: 1 }));
        assert_eq!((guard.state(), guard.token()), (LeaseState::Held, token));
        assert_eq!(site.nodes().await, nodes);
    }
    assert_eq!(guard.release().await, Ok(()));
}

async fn a_waiter_keeps_its_place_across_a_connection_reset(kind: Kind) {
    let (site, proxy) = (kind.site("reset-waiter").await, proxied().await);
    let (cut_off, other) = (connect_through(&proxy, LONG).await, connect().await);
    let guard = site.rival(&other).acquire().await.expect("the lock is free");
    let (_, mut waiter) = listen(&site.lock(&cut_off));
    queued(&mut waiter).await;
    let (_, mut later) = listen(&site.rival(&other));
    queued(&mut later).await;
    let nodes = site.nodes().await;

    let mut session = cut_off.events();
    for _ in 0..3 {
        proxy.cut();
        session_event(&mut session, SessionEvent::Suspended { epoch: 1 }).await;
        session_event(&mut session, SessionEvent::Resumed { epoch: 1 }).await;
        assert_eq!(site.nodes().await, nodes);
    }
    drop(guard);
    let guard = acquired(&mut waiter).await;
    assert!(later.try_recv().is_err(), "it is not granted yet");
    drop(guard);
    drop(acquired(&mut later).await);
}

async fn a_predecessor_deleted_while_disconnected_is_noticed_after_reconnecting(kind: Kind) {
    let (site, proxy) = (kind.site("gone-meanwhile").await, proxied().await);
    let (cut_off, other) = (connect_through(&proxy, LONG).await, connect().await);
    let guard = site.rival(&other).acquire().await.expect("the lock is free");
    let (_, mut waiter) = listen(&site.lock(&cut_off));
    queued(&mut waiter).await;
    proxy.refuse(true);
    proxy.cut();
    assert_eq!(guard.release().await, Ok(()));
    proxy.refuse(false);
    assert_eq!(acquired(&mut waiter).await.state(), LeaseState::Held);
}

async fn while_suspended_try_acquire_fails_at_once_and_acquire_waits(kind: Kind) {
    let (site, proxy) = (kind.site("in-doubt").await, proxied().await);
    let keeper = connect_through(&proxy, Duration::from_secs(12)).await;
    let lock = site.lock(&keeper);
    let mut events = keeper.events();
    proxy.refuse(true);
    proxy.cut();
    session_event(&mut events, SessionEvent::Suspended { epoch: 1 }).await;
    assert_eq!(refusal(lock.try_acquire().await), TryAcquireError::Suspended);
    let (limit, begun) = (Duration::from_millis(200), Instant::now());
    assert!(matches!(refusal(lock.acquire_timeout(limit).await), AcquireTimeoutError::TimedOut { .. }));
    assert!((limit..limit + SLACK).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let waiting = tokio::spawn(lock.acquire());
    proxy.refuse(false);
    let guard = waiting.await.expect("no panic").expect("the lock is free");
    site.until_only(&[&guard]).await;
}

async fn a_keeper_recovers_after_a_long_server_outage(kind: Kind) {
    let (site, proxy) = (kind.site("absence").await, proxied().await);
    let keeper = keeper_failing_to_reconnect(&proxy).await;
    let (lock, mut events) = (site.lock(&keeper), keeper.events());
    assert_eq!(events.next().await, Some(SessionEvent::Lost { epoch: 1 }));
    assert_eq!(lock.listed().await, Err(QueryError::Disconnected));
    assert_eq!(refusal(lock.try_acquire().await), TryAcquireError::Suspended);
    let waiting = tokio::spawn(lock.acquire());
    proxy.refuse(false);
    drop(waiting.await.expect("no panic").expect("the lock is free"));
    assert!(matches!(events.next().await, Some(SessionEvent::Connected { .. })));
}

async fn a_server_restart_never_lets_two_hold(kind: Kind) {
    let server = TestServer::start();
    let session = options().session_timeout(Duration::from_secs(6));
    let holding = session.clone().connect(&server.address()).await.expect("should connect");
    let waiting = session.connect(&server.address()).await.expect("should connect");
    let site = kind.site_on(&server, "/restart").await;
    let guard = Arc::new(site.lock(&holding).acquire().await.expect("the lock is free"));
    let acquire = site.rival(&waiting).acquire();
    let first = Arc::downgrade(&guard);
    let waiter = tokio::spawn(async move {
        let second = acquire.await.expect("the lock is granted eventually");
        (first.upgrade().map(|first| first.state()), second)
    });
    site.until_nodes(2).await;
    for _ in 0..2 {
        server.restart();
        eventually("it is held again, or lost", SOON, async || guard.state() != LeaseState::Suspended).await;
    }
    match guard.state() {
        LeaseState::Lost => {}
        held => {
            assert_eq!(held, LeaseState::Held);
            assert!(!waiter.is_finished(), "the first client still holds");
            let guard = Arc::into_inner(guard).expect("the only reference");
            // The lease may end at this very moment.
            let released = guard.release().await;
            assert!(matches!(released, Ok(()) | Err(ReleaseError::Lost)), "{released:?}");
        }
    }
    let (first, second) = waiter.await.expect("no panic");
    assert!(matches!(first, None | Some(LeaseState::Lost)), "granted while the first one was {first:?}");
    let released = second.release().await;
    assert!(matches!(released, Ok(()) | Err(ReleaseError::Lost)), "{released:?}");
}

#[test]
fn an_outage_of_a_fifth_of_the_session_timeout_costs_no_lock() {
    run(async {
        let (server, time) = (Embedded::start().await.expect("a port"), Duration::from_millis(11_400));
        let keeper =
            options().session_timeout(time).connect(&server.address()).await.expect("should connect");
        let guard = keeper.lock("/outage").expect("a path").acquire().await.expect("free");
        extended(&guard, time).await;
        let mut events = keeper.events();
        server.controls().take_down().await;
        session_event(&mut events, SessionEvent::Suspended { epoch: 1 }).await;
        sleep(time / 5).await;
        server.controls().bring_up().await.expect("the same port");
        assert_eq!(events.next().await, Some(SessionEvent::Resumed { epoch: 1 }));
        assert_eq!(guard.state(), LeaseState::Held);
    });
}

/// Waits until heartbeats have extended a lease. A new one lasts longer than that.
async fn extended(guard: &LockGuard, session: Duration) {
    let later = guard.valid_until().expect("it is held") + session / 16;
    let extended = async || guard.valid_until().is_some_and(|until| until > later);
    eventually("heartbeats extend the lease", session, extended).await;
}

#[test]
fn epochs_count_sessions_and_not_connection_attempts() {
    run(async {
        let proxy = proxied().await;
        let keeper = keeper_failing_to_reconnect(&proxy).await;
        let mut events = keeper.events();
        assert_eq!(events.next().await, Some(SessionEvent::Lost { epoch: 1 }));
        proxy.refuse(false);
        assert_eq!(events.next().await, Some(SessionEvent::Connected { epoch: 2 }));
    });
}

#[test]
fn session_events_are_delivered_once_and_in_order() {
    run(async {
        let proxy = proxied().await;
        let keeper = connect_through(&proxy, SHORT).await;
        let mut events = keeper.events();
        proxy.black_hole(true);
        let mut received = Vec::new();
        while received.last() != Some(&SessionEvent::Connected { epoch: 2 }) {
            match events.next().await.expect("the keeper is open") {
                // The newest event when it subscribed.
                SessionEvent::Connected { epoch: 1 } if received.is_empty() => {}
                // A slow machine may suspend the session for a moment, also before that.
                SessionEvent::Resumed { epoch: 1 } => {
                    assert!(matches!(received.pop(), None | Some(SessionEvent::Suspended { epoch: 1 })));
                }
                event => received.push(event),
            }
            if received.last() == Some(&SessionEvent::Lost { epoch: 1 }) {
                proxy.black_hole(false);
            }
        }
        let [suspended, lost] = [SessionEvent::Suspended { epoch: 1 }, SessionEvent::Lost { epoch: 1 }];
        assert_eq!(received, [suspended, lost, SessionEvent::Connected { epoch: 2 }]);
        keeper.close().await;
        session_event(&mut events, SessionEvent::Closed).await;
        assert_eq!(events.next().await, None);
    });
}

#[test]
fn a_late_subscriber_gets_the_latest_session_event_first() {
    run(async {
        let keeper = connect().await;
        assert_eq!(keeper.events().next().await, Some(SessionEvent::Connected { epoch: 1 }));
        assert_eq!(keeper.clone().events().next().await, Some(SessionEvent::Connected { epoch: 1 }));
    });
}
