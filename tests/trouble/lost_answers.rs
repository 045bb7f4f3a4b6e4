//! Replies that are lost. `promises/kazoo_faults.rs` has more cases: lost replies of a release, and of a create in a
//! session that expires.

use std::time::Duration;

use lockkeeper::LockOptions;
use lockkeeper::error::{AcquireTimeoutError, Refused};
use tokio::time::timeout;

use crate::common::events::{granted, listen, refused, released};
use crate::common::kinds::Kind;
use crate::common::{LONG, SOON, connect_through, proxied, refusal};

promises! {
    every_kind:
        a_create_whose_reply_is_lost_is_found_and_granted_once,
        a_create_that_never_arrived_is_sent_again,
        a_request_abandoned_while_its_create_is_in_doubt_leaves_no_node;
    queued:
        a_create_of_a_node_that_outlives_sessions_is_found_when_its_reply_is_lost;
}

async fn a_create_whose_reply_is_lost_is_found_and_granted_once(kind: Kind) {
    found_and_granted_once(kind, LockOptions::new()).await;
}

async fn a_create_of_a_node_that_outlives_sessions_is_found_when_its_reply_is_lost(kind: Kind) {
    found_and_granted_once(kind, LockOptions::new().ephemeral(false)).await;
}

async fn found_and_granted_once(kind: Kind, options: LockOptions) {
    let (site, proxy) = (kind.site("create").await, proxied().await);
    let keeper = connect_through(&proxy, LONG).await;
    site.make().await;
    proxy.drop_replies_then_cut();
    let (_, mut events) = listen(&site.lock_with(&keeper, options));
    site.until_nodes(1).await;
    assert!(events.try_recv().is_err(), "the client cannot know yet");
    proxy.cut();

    let guard = granted(&mut events).await;
    site.until_only(&[&guard]).await;
    assert_eq!(guard.release().await, Ok(()));
    released(&mut events).await;
    site.until_only(&[]).await;
}

async fn a_create_that_never_arrived_is_sent_again(kind: Kind) {
    let (site, proxy) = (kind.site("never-arrived").await, proxied().await);
    let keeper = connect_through(&proxy, LONG).await;
    site.make().await;
    proxy.black_hole(true);
    let (_, mut events) = listen(&site.lock(&keeper));
    proxy.cut();
    proxy.black_hole(false);
    let guard = granted(&mut events).await;
    site.until_only(&[&guard]).await;
}

async fn a_request_abandoned_while_its_create_is_in_doubt_leaves_no_node(kind: Kind) {
    let (site, proxy) = (kind.site("given-up").await, proxied().await);
    let keeper = connect_through(&proxy, LONG).await;
    site.make().await;
    let lock = site.lock(&keeper);
    for outcome in ["cancelled", "timed out", "dropped"] {
        proxy.drop_replies_then_cut();
        match outcome {
            "cancelled" => {
                let (ticket, mut events) = listen(&lock);
                site.until_nodes(1).await;
                lock.cancel(ticket);
                assert_eq!(refused(&mut events).await, (ticket, Refused::Cancelled));
            }
            "timed out" => {
                let acquire = tokio::spawn(lock.acquire_timeout(Duration::from_millis(1500)));
                site.until_nodes(1).await;
                let refused = refusal(acquire.await.expect("no panic"));
                assert!(matches!(refused, AcquireTimeoutError::TimedOut { .. }));
            }
            _ => {
                let acquire = tokio::spawn(lock.acquire());
                site.until_nodes(1).await;
                acquire.abort();
            }
        }
        site.until_nodes(1).await;
        proxy.cut();
        site.until_only(&[]).await;
        drop(timeout(SOON, lock.acquire()).await.expect("an answer").expect("the lock is free"));
        site.until_only(&[]).await;
    }
}
