//! Heartbeats of a session with more nodes than one of them can check. What a lease promises of itself is among the
//! promises of every kind of lock.

mod common;

use std::time::Instant;

use common::{BRISK, connect_for, eventually, shared, unique_path};
use lockkeeper::LeaseState;

#[tokio::test]
async fn more_nodes_than_one_heartbeat_checks_are_held_and_each_is_missed() {
    let keeper = connect_for(BRISK).await;
    // Twelve hundred paths of 100 bytes are more than 64 KiB.
    let root = format!("{}/{}", unique_path("wide"), "x".repeat(100));
    let mut guards = Vec::new();
    for number in 0..1200 {
        let lock = keeper.lock(&format!("{root}/{number}")).expect("a path");
        guards.push(lock.acquire().await.expect("free"));
    }
    let begun = Instant::now();
    eventually("heartbeats that check nodes have proven the session anew", 3 * BRISK, async || {
        guards[0].valid_until().expect("an end") > begun + BRISK
    })
    .await;
    // Doubts that pass are the machine's; none that is lost is held again.
    eventually("all are held", BRISK, async || guards.iter().all(|guard| guard.state() == LeaseState::Held))
        .await;

    let client = zookeeper_client::Client::connect(&shared().address()).await.expect("connected");
    for number in [0, 599, 1199] {
        client.delete(guards[number].node(), None).await.expect("deleted by hand");
    }
    eventually("those three are lost", 5 * BRISK, async || {
        [0, 599, 1199].iter().all(|number| guards[*number].state() == LeaseState::Lost)
    })
    .await;
    let lost = guards.iter().filter(|guard| guard.state() == LeaseState::Lost).count();
    assert_eq!(lost, 3, "and no other");
}
