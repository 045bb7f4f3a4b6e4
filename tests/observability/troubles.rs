//! Six troubles, each visible in the metric that the documents name for it.

use std::time::Duration;

use futures::StreamExt;
use lockkeeper::error::{AcquireError, AcquireTimeoutError};
use lockkeeper::session::SessionEvent;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zookeeper_client as zk;

use crate::common::{
    BRISK, LONG, SHORT, SOON, client_as, connect, connect_through, eventually, proxied, refusal, unique_path,
};
use crate::scrape::Scrape;

#[tokio::test]
async fn a_stuck_holder_shows_in_requests_that_time_out() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let timed_out = || scrape.value("lockkeeper_refused_total", &[("kind", "lock"), ("reason", "timed_out")]);
    let lock = connect().await.lock(&unique_path("stuck")).expect("a valid path");
    let _stuck = lock.acquire().await.expect("it is free");
    assert_eq!(timed_out(), Some(0.0));
    let refused = refusal(lock.acquire_timeout(Duration::from_millis(50)).await);
    assert!(matches!(refused, AcquireTimeoutError::TimedOut { .. }), "{refused}");
    assert_eq!(timed_out(), Some(1.0));
}

#[tokio::test]
async fn a_slow_server_shows_in_heartbeats() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let proxy = proxied().await;
    let _keeper = connect_through(&proxy, BRISK).await;
    // A twentieth of the session timeout is 400 milliseconds.
    proxy.delay(Duration::from_millis(300));
    eventually("a slow heartbeat", SOON, async || {
        let answered = scrape.value("lockkeeper_heartbeat_seconds_count", &[]);
        let quick = scrape.value("lockkeeper_heartbeat_seconds_bucket", &[("le", "0.5")]);
        answered > quick
    })
    .await;
}

#[tokio::test]
async fn a_flapping_link_shows_in_suspended_sessions() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, LONG).await;
    let mut events = keeper.events();
    assert_eq!(events.next().await, Some(SessionEvent::Connected { epoch: 1 }));
    let guard =
        keeper.lock(&unique_path("flapping")).expect("a valid path").acquire().await.expect("it is free");
    for flap in 1..=3 {
        proxy.cut();
        assert_eq!(events.next().await, Some(SessionEvent::Suspended { epoch: 1 }));
        assert_eq!(events.next().await, Some(SessionEvent::Resumed { epoch: 1 }));
        assert_eq!(scrape.value("lockkeeper_sessions_suspended_total", &[]), Some(f64::from(flap)));
    }
    eventually("its lease was suspended as often", SOON, async || {
        scrape.value("lockkeeper_leases_suspended_total", &[]) == Some(3.0)
    })
    .await;
    assert_eq!(scrape.value("lockkeeper_sessions_lost_total", &[]), Some(0.0));
    drop(guard);
}

#[tokio::test]
async fn a_lost_session_shows_with_its_leases() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, SHORT).await;
    let guard = keeper.lock(&unique_path("lost")).expect("a valid path").acquire().await.expect("it is free");
    proxy.refuse(true);
    proxy.cut();
    timeout(SOON, guard.lost()).await.expect("it is lost");
    eventually("the loss is counted", SOON, async || {
        scrape.value("lockkeeper_sessions_lost_total", &[]) == Some(1.0)
            && scrape.value("lockkeeper_leases_lost_total", &[("kind", "lock")]) == Some(1.0)
            && scrape.value("lockkeeper_lease_margin_seconds_bucket", &[("le", "0.001")]) > Some(0.0)
            && scrape.value("lockkeeper_sessions_open", &[]) == Some(0.0)
            && scrape.value("lockkeeper_guards_held", &[]) == Some(0.0)
    })
    .await;
    proxy.refuse(false);
    eventually("the next session begins", SOON, async || {
        scrape.value("lockkeeper_sessions_begun_total", &[]) == Some(2.0)
            && scrape.value("lockkeeper_sessions_open", &[]) == Some(1.0)
    })
    .await;
}

#[tokio::test]
async fn a_storm_of_waiters_shows_in_waiting_requests() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let waiting = || scrape.value("lockkeeper_requests_waiting", &[("kind", "lock")]);
    let lock = connect().await.lock(&unique_path("storm")).expect("a valid path");
    let guard = lock.acquire().await.expect("it is free");
    let mut storm = JoinSet::new();
    for _ in 0..200 {
        storm.spawn(lock.acquire());
    }
    eventually("all wait", SOON, async || waiting() == Some(200.0)).await;
    drop(guard);
    while let Some(guard) = timeout(SOON, storm.join_next()).await.expect("they are granted") {
        drop(guard.expect("no panic").expect("it is free"));
    }
    assert_eq!(waiting(), Some(0.0));
    assert_eq!(scrape.value("lockkeeper_acquired_total", &[("kind", "lock")]), Some(201.0));
    eventually("their nodes are deleted", SOON, async || {
        scrape.value("lockkeeper_cleanups_pending", &[]) == Some(0.0)
            && scrape.value("lockkeeper_nodes_owned", &[]) == Some(0.0)
    })
    .await;
}

#[tokio::test]
async fn an_access_list_that_refuses_shows_in_refused_requests() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let path = unique_path("private");
    let owner = client_as("owner:secret").await;
    let private = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
    owner.create(&path, b"", &private).await.expect("a new node");
    let lock = connect().await.lock(&path).expect("a valid path");
    assert!(matches!(refusal(lock.acquire().await), AcquireError::NoAuth { .. }));
    let refused = scrape.value("lockkeeper_refused_total", &[("kind", "lock"), ("reason", "no_auth")]);
    assert_eq!(refused, Some(1.0));
}
