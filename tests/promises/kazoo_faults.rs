//! Faults of kazoo's locks that were reported by users, and that our locks must not have.
//!
//! | kazoo | here |
//! |---|---|
//! | a holder is not told that its session is lost, while another client acquires | [`losing::a_disconnected_holder_is_suspended_and_then_lost_before_another_is_granted`](super::losing) |
//! | 1. a failed clean-up leaves a node that blocks all others | [`fault_1_a_failed_clean_up_is_repeated_until_the_node_is_gone`] |
//! | 2. after a create in doubt and a timeout, a stale name is deleted and the new node leaks | [`fault_2_no_node_is_left_after_a_create_in_doubt_and_a_timeout`] |
//! | 3. the time limit starts again at every wake-up | [`fault_3_one_deadline_covers_a_wait_with_many_wake_ups`] |
//! | 4. a node with the own prefix is adopted even if it belongs to another session | [`fault_4_a_node_of_an_older_session_is_not_adopted`] |
//! | 5. a non-blocking attempt writes twice and reads once even if the lock is obviously held | [`acquiring::try_acquire_of_a_contended_lock_fails_and_writes_nothing`](super::acquiring) |
//! | 6. all children are listed at every wake-up, and a watch is left behind after a timeout | [`fault_6_a_wake_up_lists_nothing`], [`fault_6_a_timeout_leaves_no_watch`] |
//! | 7. a failed release leaves the lock object in an inconsistent state | [`fault_7_the_lock_is_usable_after_a_release_in_doubt`] |
//! | semaphore: a non-blocking attempt fails while others queue for the mutex, although permits are free | `tests/semaphore.rs` |
//! | semaphore: a cancel does not reach a request that is queued for the mutex | [`semaphore_a_cancel_reaches_a_request_queued_for_the_mutex`] |
//!
//! The exception to 6 is the semaphore. It waits for its children to change, so it lists them at every wake-up.

use std::time::{Duration, Instant};

use lockkeeper::LeaseState;
use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::error::{AcquireTimeoutError, Refused, ReleaseError};
use lockkeeper::session::SessionEvent;
use tokio::time::{sleep_until, timeout_at};

use crate::common::events::{
    acquired, granted, listen, listen_for, queued, refused, released, session_event,
};
use crate::common::kinds::{Kind, Wait};
use crate::common::{LONG, SHORT, SOON, caught_up, connect, connect_through, eventually, proxied, refusal};

promises! {
    every_kind:
        fault_1_a_failed_clean_up_is_repeated_until_the_node_is_gone,
        fault_2_no_node_is_left_after_a_create_in_doubt_and_a_timeout,
        fault_3_one_deadline_covers_a_wait_with_many_wake_ups,
        fault_4_a_node_of_an_older_session_is_not_adopted,
        fault_6_a_timeout_leaves_no_watch;
    own_nodes:
        fault_7_the_lock_is_usable_after_a_release_in_doubt;
    queued:
        fault_6_a_wake_up_lists_nothing;
    [semaphore]:
        semaphore_a_cancel_reaches_a_request_queued_for_the_mutex;
}

async fn fault_1_a_failed_clean_up_is_repeated_until_the_node_is_gone(kind: Kind) {
    let (site, proxy) = (kind.site("clean-up").await, proxied().await);
    let (cut_off, other) = (connect_through(&proxy, LONG).await, connect().await);
    let guard = site.rival(&other).acquire().await.expect("the lock is free");
    for arrives in [false, true] {
        let (ticket, mut events) = listen(&site.lock(&cut_off));
        queued(&mut events).await;
        site.until_nodes(2).await;
        match arrives {
            false => proxy.black_hole(true),
            true => proxy.drop_replies_then_cut(),
        }
        site.lock(&cut_off).cancel(ticket);
        assert_eq!(refused(&mut events).await, (ticket, Refused::Cancelled));
        // Whether or not the server got the delete, the reply is lost.
        match arrives {
            false => site.until_nodes(2).await,
            true => site.until_only(&[&guard]).await,
        }
        proxy.cut();
        proxy.black_hole(false);
        site.until_only(&[&guard]).await;
    }
    // Nothing blocks the others, and the session is still the same.
    drop(guard);
    drop(site.rival(&other).acquire_timeout(SOON).await.expect("the lock is free"));
    drop(site.lock(&cut_off).acquire_timeout(SOON).await.expect("the lock is free"));
    site.until_only(&[]).await;
}

async fn fault_2_no_node_is_left_after_a_create_in_doubt_and_a_timeout(kind: Kind) {
    let (site, proxy) = (kind.site("stale").await, proxied().await);
    let (doubtful, other) = (connect_through(&proxy, LONG).await, connect().await);
    let guard = site.rival(&other).acquire().await.expect("the lock is free");
    for way in ["while its reply is pending", "while its node is searched", "after its node was found"] {
        proxy.drop_replies_then_cut();
        // Long enough for the create to be sent.
        let limit = Wait::For(Duration::from_millis(1500));
        let (ticket, mut events) = listen_for(&site.lock(&doubtful), limit);
        site.until_nodes(2).await;
        match way {
            "while its reply is pending" => {}
            "while its node is searched" => {
                proxy.black_hole(true);
                proxy.cut();
            }
            _ => proxy.cut(),
        }
        assert_eq!(refused(&mut events).await, (ticket, Refused::TimedOut), "{way}");
        if way == "while its reply is pending" {
            proxy.cut();
        }
        proxy.black_hole(false);
        site.until_only(&[&guard]).await;
    }
    drop(guard);
    drop(site.rival(&other).acquire_timeout(SOON).await.expect("the lock is free"));
}

async fn fault_3_one_deadline_covers_a_wait_with_many_wake_ups(kind: Kind) {
    let (site, keeper) = (kind.site("deadline").await, connect().await);
    site.make().await;
    let mut ahead = Vec::new();
    for _ in 0..4 {
        ahead.push(site.obstruct().await);
    }
    let mut woken = Duration::ZERO;
    // A busy machine may not get to the watch, or not see it, in the first of these times.
    for limit in [3, 9].map(Duration::from_secs) {
        let begun = Instant::now();
        let acquire = site.lock(&keeper).acquire_timeout(limit);
        let acquire = tokio::spawn(async move { (acquire.await, begun.elapsed()) });
        // Each deletion wakes the waiter. The last obstacle stays, so that the deadline ends the wait. The deletions are
        // spread over the time limit. On a busy machine there may be fewer.
        for number in 1..4 {
            let last = ahead.last().expect("an obstacle");
            if timeout_at((begun + limit).into(), site.until_watched(last)).await.is_err() {
                break;
            }
            sleep_until((begun + limit * 3 / 10 * number).into()).await;
            woken = begun.elapsed();
            site.clear(last).await;
            ahead.pop();
        }
        let (refused, took) = acquire.await.expect("no panic");
        assert!(matches!(refusal(refused), AcquireTimeoutError::TimedOut { .. }));
        assert!(took >= limit, "{took:?}");
        if !woken.is_zero() {
            // A time limit that started again at each wake-up would not end before.
            assert!(took < woken + limit, "{took:?}, woken after {woken:?}");
            break;
        }
    }
    assert!(!woken.is_zero(), "it was not seen to wait");
    site.until_only_nodes(ahead.into_iter().map(|obstacle| obstacle.node).collect()).await;
}

async fn fault_4_a_node_of_an_older_session_is_not_adopted(kind: Kind) {
    let (site, proxy) = (kind.site("adopt").await, proxied().await);
    let keeper = connect_through(&proxy, SHORT).await;
    let mut session_events = keeper.events();
    site.make().await;
    // The create is carried out, but the client cannot know.
    proxy.drop_replies_then_cut();
    let (_, mut events) = listen(&site.lock(&keeper));
    site.until_nodes(1).await;
    let old = site.nodes().await;
    let session = site.server.owner(&old[0]).await;
    session_event(&mut session_events, SessionEvent::Lost { epoch: 1 }).await;
    proxy.cut();
    let guard = granted(&mut events).await;
    for node in guard.nodes() {
        assert!(!old.contains(&node), "the old node ends with the old session");
        assert_ne!(site.server.owner(&node).await, session);
    }
    site.until_only(&[&guard]).await;
    assert_eq!(guard.release().await, Ok(()));
    released(&mut events).await;
    site.until_only(&[]).await;
}

async fn fault_6_a_wake_up_lists_nothing(kind: Kind) {
    let (site, keeper) = (kind.site("wake-up").await, connect().await);
    site.make().await;
    let ahead = [site.obstruct().await, site.obstruct().await, site.obstruct().await];
    let (_, mut events) = listen(&site.lock(&keeper));
    assert_eq!(queued(&mut events).await, 3);
    // From now on listing is not permitted, so a request that lists would fail.
    let unlisted = Permission::CREATE | Permission::WRITE | Permission::DELETE | Permission::ADMIN;
    let unlisted = [Acl::new(unlisted, AuthId::anyone())];
    site.server.0.set_acl(&site.path, &unlisted, None).await.expect("another access list");
    for obstacle in ahead.iter().rev() {
        site.until_watched(obstacle).await;
        assert!(events.try_recv().is_err(), "it keeps waiting");
        site.clear(obstacle).await;
    }
    let guard = acquired(&mut events).await;
    assert_eq!((guard.state(), guard.release().await), (LeaseState::Held, Ok(())));
    let another = site.lock(&keeper).acquire().await;
    assert!(another.is_err(), "a request that has to list must fail");
}

async fn fault_6_a_timeout_leaves_no_watch(kind: Kind) {
    let (site, keeper) = (kind.site("watch").await, connect().await);
    site.make().await;
    let ahead = site.obstruct().await;
    // Without a handle the actor would end, and its watches with it.
    let lock = site.lock(&keeper);
    // A busy machine may not get to the watch, or not see it, in the first of these times.
    for patience in [1, 4, 16].map(Duration::from_secs) {
        let (_, mut events) = listen_for(&lock, Wait::For(patience));
        let watched = tokio::select! {
            () = site.until_watched(&ahead) => true,
            (_, why) = refused(&mut events) => {
                assert_eq!(why, Refused::TimedOut);
                false
            }
        };
        if watched {
            assert_eq!(refused(&mut events).await.1, Refused::TimedOut);
            break;
        }
    }
    site.until_unwatched().await;
    site.until_only_nodes(vec![ahead.node]).await;
}

async fn fault_7_the_lock_is_usable_after_a_release_in_doubt(kind: Kind) {
    let (site, proxy) = (kind.site("release").await, proxied().await);
    let (keeper, other) = (connect_through(&proxy, LONG).await, connect().await);
    let lock = site.lock(&keeper);
    for arrives in [true, false] {
        let guard = lock.acquire().await.expect("the lock is free");
        match arrives {
            true => proxy.drop_replies_then_cut(),
            false => proxy.black_hole(true),
        }
        let release = tokio::spawn(guard.release());
        match arrives {
            true => site.until_only(&[]).await,
            false => site.until_nodes(1).await,
        }
        assert!(!release.is_finished(), "the client cannot know yet");
        proxy.cut();
        proxy.black_hole(false);
        assert_eq!(release.await.expect("no panic"), Ok::<(), ReleaseError>(()));
        assert_eq!(site.nodes().await, [""; 0]);
        // Nothing blocks other clients or the same handle.
        caught_up(&other).await;
        drop(site.rival(&other).try_acquire().await.expect("the lock is free"));
        drop(lock.acquire_timeout(SOON).await.expect("the lock is free"));
        site.until_only(&[]).await;
        eventually("the connection works again", SOON, async || lock.listed().await == Ok(0)).await;
    }
}

async fn semaphore_a_cancel_reaches_a_request_queued_for_the_mutex(kind: Kind) {
    let (site, first, second) = (kind.site("mutex").await, connect().await, connect().await);
    let guard = site.lock(&first).acquire().await.expect("a free permit");
    // The first waiter holds the mutex; the second is queued for it.
    let (_, mut holds_mutex) = listen(&site.lock(&first));
    queued(&mut holds_mutex).await;
    let (ticket, mut wants_mutex) = listen(&site.lock(&second));
    assert_eq!(queued(&mut wants_mutex).await, 1);
    site.until_nodes(3).await;
    site.lock(&second).cancel(ticket);
    assert_eq!(refused(&mut wants_mutex).await, (ticket, Refused::Cancelled));
    site.until_nodes(2).await;
    drop(guard);
    drop(acquired(&mut holds_mutex).await);
    site.until_only(&[]).await;
}
