//! What the values mean, and that gauges come back to zero.

use std::time::Duration;

use lockkeeper::error::{ConnectError, TryAcquireError};
use lockkeeper::{Keeper, LockOptions};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::common::{
    BRISK, LONG, SOON, caught_up, connect, connect_for, connect_through, eventually, options, proxied,
    refusal, shared, unique_path,
};
use crate::scrape::Scrape;

#[tokio::test]
async fn gauges_come_back_to_zero_when_a_keeper_is_killed() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let (root, _) = Actor::spawn(None, Root, ()).await.expect("an actor");
    let address = shared().address();
    let keeper = Keeper::options().connect_linked(&address, &root.get_cell()).await.expect("should connect");
    let path = unique_path("killed");
    let lock = keeper.lock(&path).expect("a valid path");
    let guard = lock.acquire().await.expect("it is free");
    let pool = keeper.semaphore(&format!("{path}-pool"), 2).expect("a valid path");
    let mut permit = pool.acquire_many(2).await.expect("they are free");
    let part = permit.split(1).expect("it has two");
    let both = [format!("{path}-a"), path.clone()];
    let both = keeper.multi_lock(both).expect("valid paths");
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { lock.acquire().await.is_ok() });
    waiting.spawn(async move { pool.acquire().await.is_ok() });
    waiting.spawn(async move { both.acquire().await.is_ok() });
    let gauges = || GAUGES.map(|name| scrape.value(name, &[]).unwrap_or(-1.0));
    eventually("all wait, and have nodes", SOON, async || {
        let [waiting, held, .., nodes, watches] = gauges();
        (waiting, held) == (3.0, 3.0) && nodes >= 6.0 && watches >= 1.0
    })
    .await;
    root.kill();
    eventually("all are zero", SOON, async || gauges() == [0.0; GAUGES.len()]).await;
    assert_eq!(scrape.value("lockkeeper_sessions_lost_total", &[]), Some(1.0));
    timeout(SOON, guard.lost()).await.expect("it is lost");
    assert_eq!(scrape.value("lockkeeper_leases_lost_total", &[]), Some(3.0));
    assert_eq!(scrape.value("lockkeeper_refused_total", &[("reason", "stopped")]), Some(3.0));
    drop((permit, part));
}

const GAUGES: [&str; 6] = [
    "lockkeeper_requests_waiting",
    "lockkeeper_guards_held",
    "lockkeeper_cleanups_pending",
    "lockkeeper_sessions_open",
    "lockkeeper_nodes_owned",
    "lockkeeper_watches",
];

#[tokio::test]
async fn a_closed_keeper_loses_no_session_but_the_leases_that_are_held() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let keeper = connect().await;
    let lock = keeper.lock(&unique_path("closed")).expect("a valid path");
    lock.acquire().await.expect("it is free").release().await.expect("it is held");
    let guard = lock.acquire().await.expect("it is free");
    keeper.close().await;
    eventually("all are zero", SOON, async || GAUGES.iter().all(|name| scrape.value(name, &[]) == Some(0.0)))
        .await;
    assert_eq!(scrape.value("lockkeeper_sessions_lost_total", &[]), Some(0.0));
    assert_eq!(scrape.value("lockkeeper_leases_lost_total", &[]), Some(1.0));
    drop(guard);
}

#[tokio::test]
async fn grants_without_a_request_to_the_server_count_and_tries_do_not_wait() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let keeper = connect().await;
    let lingers = LockOptions::new().linger(SOON);
    let lock = keeper.lock_with(&unique_path("lingers"), lingers).expect("a valid path");
    for _ in 0..10 {
        lock.acquire().await.expect("it is free").release().await.expect("it is held");
    }
    let guard = lock.try_acquire().await.expect("it is free");
    let refused = refusal(lock.try_acquire().await);
    assert!(matches!(refused, TryAcquireError::Contended { .. }), "{refused}");
    assert_eq!(scrape.value("lockkeeper_acquired_total", &[]), Some(11.0));
    assert_eq!(scrape.value("lockkeeper_wait_seconds_count", &[]), Some(11.0));
    assert_eq!(scrape.value("lockkeeper_hold_seconds_count", &[]), Some(10.0));
    assert_eq!(scrape.value("lockkeeper_guards_held", &[]), Some(1.0));
    assert_eq!(scrape.value("lockkeeper_requests_waiting", &[]), Some(0.0));
    assert_eq!(scrape.value("lockkeeper_refused_total", &[("reason", "contended")]), Some(1.0));
    drop(guard);
}

#[tokio::test]
async fn probes_of_health_checks_are_not_counted() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    // A busy machine may need seconds for a check, which has a tenth of this.
    let keeper = connect_for(Duration::from_secs(60)).await;
    let health = keeper.health().await;
    assert!(health.probe.is_ok(), "{health}");
    let counted = ["acquired_total", "guards_held", "requests_waiting", "cleanups_pending"];
    assert_eq!(counted.map(|name| scrape.value(&format!("lockkeeper_{name}"), &[])), [None; 4]);
    let locks = keeper.read_write(&unique_path("read")).expect("a valid path");
    drop(locks.read().acquire().await.expect("it is free"));
    assert_eq!(scrape.value("lockkeeper_acquired_total", &[("kind", "read_lock")]), Some(1.0));
}

#[tokio::test]
async fn a_multi_lock_counts_once_and_permits_by_their_guards() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let (keeper, path) = (connect().await, unique_path("once"));
    let both = keeper.multi_lock([format!("{path}-a"), format!("{path}-b")]).expect("valid paths");
    let held = |kind| scrape.value("lockkeeper_guards_held", &[("kind", kind)]);
    let guard = both.acquire().await.expect("they are free");
    assert_eq!((held("multi_lock"), held("lock")), (Some(1.0), None));
    guard.release().await.expect("they are held");
    assert_eq!(held("multi_lock"), Some(0.0));
    assert_eq!(scrape.value("lockkeeper_acquired_total", &[]), Some(1.0));

    let pool = keeper.semaphore(&path, 3).expect("a valid path");
    let mut permit = pool.acquire_many(3).await.expect("they are free");
    let part = permit.split(1).expect("it has three");
    eventually("two guards", SOON, async || held("semaphore") == Some(2.0)).await;
    permit.merge(part).expect("they belong together");
    eventually("one guard", SOON, async || held("semaphore") == Some(1.0)).await;
    permit.release().await.expect("it is held");
    eventually("no guard", SOON, async || held("semaphore") == Some(0.0)).await;
    assert_eq!(scrape.value("lockkeeper_acquired_total", &[("kind", "semaphore")]), Some(1.0));
}

#[tokio::test]
async fn a_released_guard_is_neither_held_nor_lost_while_the_server_is_silent() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let (proxy, path) = (proxied().await, unique_path("silent"));
    let keeper = connect_through(&proxy, BRISK).await;
    let lock = keeper.lock(&path).expect("a valid path");
    let both = keeper.multi_lock([format!("{path}-a"), format!("{path}-b")]).expect("valid paths");
    let guards = (lock.acquire().await.expect("it is free"), both.acquire().await.expect("they are free"));
    proxy.black_hole(true);
    drop(guards);
    let both_kinds = |name: &str| {
        ["lock", "multi_lock"].map(|kind| scrape.value(&format!("lockkeeper_{name}"), &[("kind", kind)]))
    };
    eventually("both are being cleaned up", SOON, async || {
        both_kinds("guards_held") == [Some(0.0); 2] && both_kinds("cleanups_pending") == [Some(1.0); 2]
    })
    .await;
    assert_eq!(both_kinds("hold_seconds_count"), [Some(1.0); 2]);
    let all_are_over = async || both_kinds("cleanups_pending") == [Some(0.0); 2];
    eventually("the session is lost", 2 * BRISK, all_are_over).await;
    assert_eq!(both_kinds("leases_lost_total"), [Some(0.0); 2]);
}

#[tokio::test]
async fn a_transaction_without_an_answer_is_counted() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let (proxy, path) = (proxied().await, unique_path("unanswered"));
    let (keeper, other) = (connect_through(&proxy, LONG).await, connect().await);
    let paths = [format!("{path}-a"), format!("{path}-b")];
    let both = keeper.multi_lock(&paths).expect("valid paths");
    both.acquire().await.expect("they are free").release().await.expect("they are held");
    let unanswered = || scrape.value("lockkeeper_retries_total", &[]);
    assert_eq!(unanswered(), Some(0.0));
    // Otherwise it may take the old node for the new one.
    caught_up(&other).await;
    proxy.drop_replies_then_cut();
    let acquiring = tokio::spawn(both.acquire());
    let lock = other.lock(&paths[0]).expect("a valid path");
    eventually("it is carried out", SOON, async || {
        lock.contenders().await.is_ok_and(|contenders| contenders.len() == 1)
    })
    .await;
    proxy.cut();
    let guard = timeout(SOON, acquiring).await.expect("an answer").expect("no panic").expect("granted");
    assert_eq!(unanswered(), Some(1.0));
    drop(guard);
}

#[tokio::test]
async fn a_path_is_a_label_only_where_it_is_allowed() {
    let scrape = Scrape::start();
    let _installed = scrape.installed();
    let (orders, path) = (unique_path("orders"), unique_path("other"));
    let archive = format!("{orders}/archive");
    let keeper = options().metric_paths([&orders, &archive]).connect(&shared().address()).await;
    let keeper = keeper.expect("should connect");
    let paths =
        [orders.clone(), format!("{orders}/17"), format!("{archive}/17"), format!("{orders}-old"), path];
    for path in &paths {
        drop(keeper.lock(path).expect("a valid path").acquire().await.expect("it is free"));
    }
    let acquired = |path| scrape.value("lockkeeper_acquired_total", &[("path", path)]);
    assert_eq!((acquired(orders.as_str()), acquired(&archive)), (Some(2.0), Some(1.0)));
    assert_eq!(scrape.value("lockkeeper_acquired_total", &[]), Some(5.0));
    assert_eq!(scrape.label_values("path"), [orders, archive].into());
}

#[tokio::test]
async fn a_prefix_that_is_no_path_is_refused_before_anything_is_sent() {
    for prefix in ["", "locks", "/", "/locks/"] {
        let refused = Keeper::options().metric_paths([prefix]).connect("nobody.invalid:1").await;
        let error = refused.map(drop).expect_err("it is invalid");
        assert!(matches!(&error, ConnectError::InvalidOption { value, .. } if value == prefix), "{error}");
    }
}

/// Ends with its keeper.
struct Root;

#[ractor::actor(message = (), state = (), arguments = ())]
impl Root {
    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}
