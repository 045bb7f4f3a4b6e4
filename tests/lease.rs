//! A lease lasts for as long as the server answers, and is told when it does not.

mod common;

use std::time::{Duration, Instant};

use common::{eventually, proxied, shared, unique_path};
use futures::StreamExt;
use lockkeeper::{Keeper, LeaseState, SessionEvent};

const TIMEOUT: Duration = Duration::from_secs(1);

async fn connect(address: &str) -> Keeper {
    (Keeper::options().session_timeout(TIMEOUT).connect(address).await)
        .expect("the test's server takes connections")
}

#[tokio::test]
async fn a_guard_is_held_for_many_session_timeouts_and_its_end_moves_on() {
    let keeper = connect(&shared().address()).await;
    let mut events = keeper.events();
    assert_eq!(events.next().await, Some(SessionEvent::Connected { epoch: 1 }));
    let guard = keeper.lock(&unique_path("long")).expect("a path").acquire().await.expect("free");
    let begun = Instant::now();
    let long_held = guard.protect(async {
        eventually("five session timeouts have passed", 20 * TIMEOUT, async || {
            // Once proven, three eighths of the timeout are always left, less what the reply takes.
            let until = guard.valid_until().expect("an ephemeral lock");
            assert!(until <= Instant::now() + TIMEOUT);
            begun.elapsed() > 5 * TIMEOUT
        })
        .await;
    });
    assert_eq!(long_held.await, Ok(()));
    assert_eq!(guard.state(), LeaseState::Held);
    let next = tokio::time::timeout(Duration::from_millis(1), events.next()).await;
    assert!(next.is_err(), "nothing happened to the session, but {next:?}");
    guard.release().await.expect("released");
}

#[tokio::test]
async fn more_nodes_than_one_heartbeat_checks_are_held_and_each_is_missed() {
    let keeper = connect(&shared().address()).await;
    // Twelve hundred paths of 100 bytes are more than 64 KiB.
    let root = format!("{}/{}", unique_path("wide"), "x".repeat(100));
    let mut guards = Vec::new();
    for number in 0..1200 {
        let lock = keeper.lock(&format!("{root}/{number}")).expect("a path");
        guards.push(lock.acquire().await.expect("free"));
    }
    let begun = Instant::now();
    eventually("two session timeouts have passed", 20 * TIMEOUT, async || begun.elapsed() > 2 * TIMEOUT)
        .await;
    assert!(guards.iter().all(|guard| guard.state() == LeaseState::Held));

    let client = zookeeper_client::Client::connect(&shared().address()).await.expect("connected");
    for number in [0, 599, 1199] {
        client.delete(guards[number].node(), None).await.expect("deleted by hand");
    }
    eventually("those three are lost", 5 * TIMEOUT, async || {
        [0, 599, 1199].iter().all(|number| guards[*number].state() == LeaseState::Lost)
    })
    .await;
    let held = guards.iter().filter(|guard| guard.state() == LeaseState::Held).count();
    assert_eq!(held, 1197, "and no other");
}

#[tokio::test]
async fn a_short_interruption_suspends_and_costs_nothing() {
    let proxy = proxied().await;
    let keeper = connect(&proxy.address()).await;
    let mut events = keeper.events();
    let guard = keeper.lock(&unique_path("short")).expect("a path").acquire().await.expect("free");
    let token = guard.token();
    proxy.cut();
    for expected in [
        SessionEvent::Connected { epoch: 1 },
        SessionEvent::Suspended { epoch: 1 },
        SessionEvent::Resumed { epoch: 1 },
    ] {
        assert_eq!(events.next().await, Some(expected));
    }
    assert_eq!((guard.state(), guard.token()), (LeaseState::Held, token));
    guard.release().await.expect("released");
}

#[tokio::test]
async fn a_connection_that_hangs_suspends_then_loses_before_the_server_gives_the_lock_away() {
    let proxy = proxied().await;
    let cut_off = connect(&proxy.address()).await;
    let other = connect(&shared().address()).await;
    let path = unique_path("hangs");
    let guard = cut_off.lock(&path).expect("a path").acquire().await.expect("free");
    let waiting = tokio::spawn({
        let lock = other.lock(&path).expect("a path");
        async move { (lock.acquire().await.expect("its turn"), Instant::now()) }
    });
    proxy.black_hole(true);
    eventually("it is suspended", 5 * TIMEOUT, async || guard.state() == LeaseState::Suspended).await;
    guard.lost().await;
    let lost = Instant::now();
    assert_eq!(guard.protect(std::future::pending::<()>()).await, Err(lockkeeper::Lost));
    let (next, granted) = waiting.await.expect("no panic");
    assert!(lost < granted, "lost {:?} after the other was granted", lost - granted);
    assert!(next.token() > guard.token());
    assert!(guard.valid_until().expect("an ephemeral lock") < granted);
    proxy.black_hole(false);
    assert_eq!(guard.state(), LeaseState::Lost, "for good");
    assert!(guard.release().await.is_err());
}
