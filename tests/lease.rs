//! Heartbeats of a session with many nodes. What a lease guarantees otherwise is tested with the promises of every kind
//! of lock.

mod common;

use std::time::Instant;

use common::site::Observer;
use common::{BRISK, client, connect_for, eventually, options, proxied, unique_path};
use futures::future::join_all;
use lockkeeper::LeaseState;
use lockkeeper::auth::{Acl, AuthId, Permission};

#[tokio::test]
async fn more_nodes_than_one_heartbeat_can_check_are_held_and_each_loss_is_noticed() {
    let keeper = connect_for(BRISK).await;
    // 1200 paths of 100 bytes exceed 64 KiB.
    let root = format!("{}/{}", unique_path("wide"), "x".repeat(100));
    let mut guards = Vec::new();
    for number in 0..1200 {
        let lock = keeper.lock(&format!("{root}/{number}")).expect("a valid path");
        guards.push(lock.acquire().await.expect("free"));
    }
    let begun = Instant::now();
    eventually("heartbeats that check nodes extend the lease", 3 * BRISK, async || {
        guards[0].valid_until().expect("an end") > begun + BRISK
    })
    .await;
    // A slow machine may suspend leases for a moment, but a lost lease never becomes held again.
    eventually("all leases are held", BRISK, async || {
        guards.iter().all(|guard| guard.state() == LeaseState::Held)
    })
    .await;

    let client = client().await;
    for number in [0, 599, 1199] {
        client.delete(guards[number].node(), None).await.expect("deleted by hand");
    }
    eventually("those three leases are lost", 5 * BRISK, async || {
        [0, 599, 1199].iter().all(|number| guards[*number].state() == LeaseState::Lost)
    })
    .await;
    let lost = guards.iter().filter(|guard| guard.state() == LeaseState::Lost).count();
    assert_eq!(lost, 3, "only these three are lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn own_nodes_that_cannot_be_read_do_not_keep_heartbeats_from_extending_the_lease() {
    let (proxy, path) = (proxied().await, unique_path("unreadable"));
    Observer::new().await.make(&path).await;
    // A heartbeat is answered so late that 400 of them take longer than the session lasts.
    proxy.delay(BRISK / 400);
    let acl = vec![Acl::new(Permission::DELETE, AuthId::anyone())];
    let options = options().session_timeout(BRISK).acl(acl);
    let keeper = options.connect(&proxy.address()).await.expect("should connect");
    let lock = keeper.read_write(&path).expect("a valid path");
    let guards = join_all((0..400).map(|_| lock.read().acquire())).await;
    let begun = Instant::now();
    eventually("heartbeats extend the lease", 3 * BRISK, async || {
        guards.iter().flatten().all(|guard| guard.valid_until().expect("it is held") > begun + BRISK)
    })
    .await;
    assert!(guards.iter().all(Result::is_ok), "{guards:?}");
}
