//! Faults of kazoo's locks that their users reported, and that ours must not have.
//!
//! | kazoo | here |
//! |---|---|
//! | nobody is told of a session lost while holding, and somebody else acquires | [`losing::a_holder_cut_off_reads_suspended_and_then_lost_before_anybody_else_is_granted`](super::losing) |
//! | 1. a clean-up that fails leaves the node, and blocks everybody | [`one_a_clean_up_that_fails_is_repeated_until_the_node_is_gone`] |
//! | 2. after a create in doubt and a timeout, a stale name is deleted and the new node leaked | [`two_after_a_create_in_doubt_and_a_timeout_no_node_is_left`] |
//! | 3. the time limit begins again at every wake-up | [`three_one_deadline_covers_a_wait_with_many_wake_ups`] |
//! | 4. a node with the own prefix is adopted, whatever session it belongs to | [`four_a_node_of_an_older_session_is_not_adopted`] |
//! | 5. an attempt that does not wait writes twice and reads once, however obvious the answer | [`acquiring::a_try_at_a_contended_lock_answers_contended_and_writes_nothing`](super::acquiring) |
//! | 6. all children are listed at every wake-up, and a watch is left behind after a timeout | [`six_a_wake_up_lists_nothing`], [`six_a_timeout_leaves_no_watch`] |
//! | 7. a release that fails leaves the lock's own state out of step | [`seven_after_a_release_in_doubt_the_lock_is_as_good_as_new`] |
//! | semaphore: a try is refused while others queue for the mutex, although permits are free | `tests/semaphore.rs` |
//! | semaphore: a cancel does not reach who queues for the mutex | [`semaphore_a_cancel_reaches_who_queues_for_the_mutex`] |
//!
//! A semaphore has to list its leases at every wake-up: its children are what it waits for.

use std::time::{Duration, Instant};

use lockkeeper::{
    Acl, AcquireTimeoutError, AuthId, LeaseState, Permission, Refused, ReleaseError, SessionEvent,
};
use tokio::time::sleep_until;

use crate::common::hearing::{
    acquired, granted, listen, listen_for, queued, refused, released, session_event,
};
use crate::common::kinds::{Kind, Wait};
use crate::common::{LONG, SHORT, SOON, connect, connect_through, eventually, proxied, refusal};

promises! {
    every_kind:
        one_a_clean_up_that_fails_is_repeated_until_the_node_is_gone,
        two_after_a_create_in_doubt_and_a_timeout_no_node_is_left,
        three_one_deadline_covers_a_wait_with_many_wake_ups,
        four_a_node_of_an_older_session_is_not_adopted,
        six_a_timeout_leaves_no_watch,
        seven_after_a_release_in_doubt_the_lock_is_as_good_as_new;
    queued:
        six_a_wake_up_lists_nothing;
    [semaphore]:
        semaphore_a_cancel_reaches_who_queues_for_the_mutex;
}

async fn one_a_clean_up_that_fails_is_repeated_until_the_node_is_gone(kind: Kind) {
    let (site, proxy) = (kind.site("clean-up").await, proxied().await);
    let (cut_off, other) = (connect_through(&proxy, LONG).await, connect().await);
    let guard = site.rival(&other).acquire().await.expect("a free lock");
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
        // Whether the server got the delete or not, its answer is lost.
        match arrives {
            false => site.until_nodes(2).await,
            true => site.until_only(&[&guard]).await,
        }
        proxy.cut();
        proxy.black_hole(false);
        site.until_only(&[&guard]).await;
    }
    // Nobody is in the way, in the same session.
    drop(guard);
    drop(site.rival(&other).acquire_timeout(SOON).await.expect("a free lock"));
    drop(site.lock(&cut_off).acquire_timeout(SOON).await.expect("a free lock"));
    site.until_only(&[]).await;
}

async fn two_after_a_create_in_doubt_and_a_timeout_no_node_is_left(kind: Kind) {
    let (site, proxy) = (kind.site("stale").await, proxied().await);
    let (doubtful, other) = (connect_through(&proxy, LONG).await, connect().await);
    let guard = site.rival(&other).acquire().await.expect("a free lock");
    for way in ["while its answer is awaited", "while it is looked for", "after it was found"] {
        proxy.drop_replies_then_cut();
        let limit = Wait::For(Duration::from_millis(500));
        let (ticket, mut events) = listen_for(&site.lock(&doubtful), limit);
        site.until_nodes(2).await;
        match way {
            "while its answer is awaited" => {}
            "while it is looked for" => {
                proxy.black_hole(true);
                proxy.cut();
            }
            _ => proxy.cut(),
        }
        assert_eq!(refused(&mut events).await, (ticket, Refused::TimedOut), "{way}");
        if way == "while its answer is awaited" {
            proxy.cut();
        }
        proxy.black_hole(false);
        site.until_only(&[&guard]).await;
    }
    drop(guard);
    drop(site.rival(&other).acquire_timeout(SOON).await.expect("a free lock"));
}

async fn three_one_deadline_covers_a_wait_with_many_wake_ups(kind: Kind) {
    let (site, keeper) = (kind.site("deadline").await, connect().await);
    site.make().await;
    let mut ahead = Vec::new();
    for _ in 0..4 {
        ahead.push(site.obstruct().await);
    }
    let begun = Instant::now();
    let acquire = tokio::spawn(site.lock(&keeper).acquire_timeout(Duration::from_secs(3)));
    // Each that leaves wakes the waiter; the last stays.
    for leaves in (1..4).rev() {
        site.until_watched(&ahead[leaves]).await;
        sleep_until((begun + Duration::from_millis(900) * (4 - leaves as u32)).into()).await;
        site.clear(&ahead[leaves]).await;
    }
    let refused = refusal(acquire.await.expect("no panic"));
    assert!(matches!(refused, AcquireTimeoutError::TimedOut { .. }));
    let took = begun.elapsed();
    // A time that began again at a wake-up would end after 5.7 seconds.
    assert!((Duration::from_secs(3)..Duration::from_millis(5500)).contains(&took), "{took:?}");
    site.until_just(vec![ahead[0].node.clone()]).await;
}

async fn four_a_node_of_an_older_session_is_not_adopted(kind: Kind) {
    let (site, proxy) = (kind.site("adopt").await, proxied().await);
    let keeper = connect_through(&proxy, SHORT).await;
    site.make().await;
    // Carried out, and nobody here can know.
    proxy.drop_replies_then_cut();
    let (_, mut events) = listen(&site.lock(&keeper));
    site.until_nodes(1).await;
    let old = site.nodes().await;
    let session = site.server.owner(&old[0]).await;
    let mut told = keeper.events();
    session_event(&mut told, SessionEvent::Lost { epoch: 1 }).await;
    proxy.cut();
    let guard = granted(&mut events).await;
    for node in guard.nodes() {
        assert!(!old.contains(&node), "the old node goes with the old session");
        assert_ne!(site.server.owner(&node).await, session);
    }
    site.until_only(&[&guard]).await;
    assert_eq!(guard.release().await, Ok(()));
    released(&mut events).await;
    site.until_only(&[]).await;
}

async fn six_a_wake_up_lists_nothing(kind: Kind) {
    let (site, keeper) = (kind.site("wake-up").await, connect().await);
    site.make().await;
    let ahead = [site.obstruct().await, site.obstruct().await, site.obstruct().await];
    let (_, mut events) = listen(&site.lock(&keeper));
    assert_eq!(queued(&mut events).await, 3);
    // From now on whoever lists is refused, and would say so.
    let unlisted = Permission::CREATE | Permission::WRITE | Permission::DELETE | Permission::ADMIN;
    let unlisted = [Acl::new(unlisted, AuthId::anyone())];
    site.server.0.set_acl(&site.path, &unlisted, None).await.expect("another access list");
    for obstacle in ahead.iter().rev() {
        site.until_watched(obstacle).await;
        assert!(events.try_recv().is_err(), "it waits");
        site.clear(obstacle).await;
    }
    let guard = acquired(&mut events).await;
    assert_eq!((guard.state(), guard.release().await), (LeaseState::Held, Ok(())));
    let another = site.lock(&keeper).acquire().await;
    assert!(another.is_err(), "who has to list sees that it cannot");
}

async fn six_a_timeout_leaves_no_watch(kind: Kind) {
    let (site, keeper) = (kind.site("watch").await, connect().await);
    site.make().await;
    let ahead = site.obstruct().await;
    // An actor without handles ends, and its watches with it.
    let lock = site.lock(&keeper);
    let (_, mut events) = listen_for(&lock, Wait::For(Duration::from_secs(1)));
    site.until_watched(&ahead).await;
    assert_eq!(refused(&mut events).await.1, Refused::TimedOut);
    site.until_unwatched().await;
    site.until_just(vec![ahead.node]).await;
}

async fn seven_after_a_release_in_doubt_the_lock_is_as_good_as_new(kind: Kind) {
    let (site, proxy) = (kind.site("release").await, proxied().await);
    let (keeper, other) = (connect_through(&proxy, LONG).await, connect().await);
    let lock = site.lock(&keeper);
    for arrives in [true, false] {
        let guard = lock.acquire().await.expect("a free lock");
        match arrives {
            true => proxy.drop_replies_then_cut(),
            false => proxy.black_hole(true),
        }
        let release = tokio::spawn(guard.release());
        match arrives {
            true => site.until_only(&[]).await,
            false => site.until_nodes(1).await,
        }
        assert!(!release.is_finished(), "nobody here can know");
        proxy.cut();
        proxy.black_hole(false);
        assert_eq!(release.await.expect("no panic"), Ok::<(), ReleaseError>(()));
        assert_eq!(site.nodes().await, [""; 0]);
        // Neither the others nor its own handle find anybody in the way.
        drop(site.rival(&other).try_acquire().await.expect("a free lock"));
        drop(lock.acquire_timeout(SOON).await.expect("a free lock"));
        site.until_only(&[]).await;
        eventually("the connection is sure again", SOON, async || lock.listed().await == Ok(0)).await;
    }
}

async fn semaphore_a_cancel_reaches_who_queues_for_the_mutex(kind: Kind) {
    let (site, first, second) = (kind.site("mutex").await, connect().await, connect().await);
    let guard = site.lock(&first).acquire().await.expect("a free permit");
    // One waits with the mutex in hand, the other one for the mutex.
    let (_, mut with) = listen(&site.lock(&first));
    queued(&mut with).await;
    let (ticket, mut without) = listen(&site.lock(&second));
    assert_eq!(queued(&mut without).await, 1);
    site.until_nodes(3).await;
    site.lock(&second).cancel(ticket);
    assert_eq!(refused(&mut without).await, (ticket, Refused::Cancelled));
    site.until_nodes(2).await;
    drop(guard);
    drop(acquired(&mut with).await);
    site.until_only(&[]).await;
}
