//! Holding a lock and releasing it.

use std::time::Instant;

use futures::{FutureExt, StreamExt};
use lockkeeper::error::{AcquireError, ReleaseError, WithError};
use lockkeeper::session::SessionEvent;
use lockkeeper::{LeaseState, LockGuard, Permit, ReadGuard, WriteGuard};
use tokio::time::sleep;

use crate::common::kinds::Kind;
use crate::common::{BRISK, SOON, connect, connect_for, eventually};

promises! {
    every_kind:
        a_lease_is_extended_and_lasts_at_most_the_session_timeout,
        a_guard_is_held_for_longer_than_a_session_timeout,
        a_guard_can_be_moved_to_any_thread,
        a_release_continues_when_its_future_is_dropped,
        a_node_that_is_gone_already_counts_as_released,
        a_guard_releases_at_the_end_of_its_scope;
    own_nodes:
        the_node_is_gone_when_a_release_returns;
    [lock]:
        work_runs_under_the_lock_and_releases_it_however_it_ends;
}

async fn a_lease_is_extended_and_lasts_at_most_the_session_timeout(kind: Kind) {
    let (site, keeper) = (kind.site("valid").await, connect_for(BRISK).await);
    let guard = site.lock(&keeper).acquire().await.expect("the lock is free");
    let first = guard.valid_until().expect("an end");
    eventually("heartbeats extend the lease", SOON, async || {
        let (before, until) = (Instant::now(), guard.valid_until().expect("an end"));
        if guard.state() == LeaseState::Held {
            assert!(until > before, "held, but over since {:?}", before - until);
            assert!(until <= Instant::now() + BRISK, "{:?} ahead", until - before);
        }
        until > first
    })
    .await;
}

async fn a_guard_is_held_for_longer_than_a_session_timeout(kind: Kind) {
    let (site, keeper) = (kind.site("long").await, connect_for(BRISK).await);
    let mut events = keeper.events();
    let guard = site.lock(&keeper).acquire().await.expect("the lock is free");
    // `protect` would end early if the lease ended first.
    let work = guard.protect(sleep(BRISK * 3 / 2).map(|()| 3).boxed());
    assert_eq!(work.await, Ok(3));
    eventually("it is held", SOON, async || guard.state() == LeaseState::Held).await;
    assert_eq!(guard.release().await, Ok(()));
    while let Some(event) = events.next().now_or_never().flatten() {
        // A slow machine may suspend the session for a moment.
        let passes = matches!(event, SessionEvent::Suspended { .. } | SessionEvent::Resumed { .. });
        assert!(passes || event == SessionEvent::Connected { epoch: 1 }, "{event:?}");
    }
}

async fn a_guard_can_be_moved_to_any_thread(kind: Kind) {
    fn anywhere<T: Send + Sync + 'static>() {}
    anywhere::<LockGuard>();
    anywhere::<ReadGuard>();
    anywhere::<WriteGuard>();
    anywhere::<Permit>();
    let (site, keeper) = (kind.site("send").await, connect().await);
    let guard = site.lock(&keeper).acquire().await.expect("the lock is free");
    drop(keeper);
    let thread = std::thread::spawn(move || {
        assert_eq!(guard.state(), LeaseState::Held);
        drop(guard);
    });
    thread.join().expect("a guard needs no runtime around it");
    site.until_only(&[]).await;
}

async fn the_node_is_gone_when_a_release_returns(kind: Kind) {
    let (site, keeper) = (kind.site("release").await, connect().await);
    let lock = site.lock(&keeper);
    for _ in 0..10 {
        let guard = lock.acquire().await.expect("the lock is free");
        assert_eq!(site.nodes().await, guard.nodes());
        assert_eq!(guard.release().await, Ok(()));
        assert_eq!(site.nodes().await, [""; 0]);
    }
}

async fn a_release_continues_when_its_future_is_dropped(kind: Kind) {
    let (site, keeper) = (kind.site("release-dropped").await, connect().await);
    let lock = site.lock(&keeper);
    for polled in [true, false] {
        let mut release = lock.acquire().await.expect("the lock is free").release();
        if polled {
            // The release of a node that lingers may be over at once.
            let _ = futures::poll!(&mut release);
        }
        drop(release);
        site.until_only(&[]).await;
    }
}

async fn a_node_that_is_gone_already_counts_as_released(kind: Kind) {
    let (site, keeper) = (kind.site("gone").await, connect().await);
    let mut released = Err(ReleaseError::Lost);
    for _ in 0..20 {
        let guard = site.lock(&keeper).acquire().await.expect("the lock is free");
        site.server.delete(&guard.node()).await;
        released = guard.release().await;
        // A heartbeat in between may have noticed, or the watch of a node that lingers.
        if !matches!(released, Err(ReleaseError::Lost)) {
            break;
        }
    }
    assert!(matches!(released, Ok(())), "{released:?}");
    drop(site.lock(&keeper).try_acquire().await.expect("the lock is free"));
}

async fn a_guard_releases_at_the_end_of_its_scope(kind: Kind) {
    let (site, keeper, other) = (kind.site("scope").await, connect().await, connect().await);
    {
        let _guard = site.lock(&keeper).acquire().await.expect("the lock is free");
        site.until_nodes(1).await;
    }
    let next = site.rival(&other).acquire_timeout(SOON).await;
    drop(next.expect("a lock that is free again"));
    site.until_only(&[]).await;
}

async fn work_runs_under_the_lock_and_releases_it_however_it_ends(kind: Kind) {
    let (site, keeper) = (kind.site("with").await, connect().await);
    let lock = site.queue(&keeper);
    let spawned = tokio::spawn({
        let lock = lock.clone();
        async move { lock.with(async |guard| (guard.state(), guard.token())).await }
    });
    let (state, token) = spawned.await.expect("no panic").expect("it is free");
    assert_eq!(state, LeaseState::Held);
    assert_eq!(site.nodes().await, [""; 0], "the release was confirmed");

    let panicking = {
        let lock = lock.clone();
        async move { lock.with(async |_: &LockGuard| panic!("the work fails")).await }
    };
    assert!(tokio::spawn(panicking).await.is_err());
    site.until_only(&[]).await;

    let work = async |guard: &LockGuard| {
        assert!(guard.token() > token);
        site.server.delete(guard.node()).await;
        std::future::pending::<()>().await
    };
    assert!(matches!(lock.with(work).await, Err(WithError::Lost(_))));
    keeper.close().await;
    assert_eq!(lock.with(async |_| ()).await, Err(WithError::Acquire(AcquireError::Closed)));
}
