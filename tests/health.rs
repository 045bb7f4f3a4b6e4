//! `Keeper::health`, for readiness and liveness probes.

mod common;

use std::time::{Duration, Instant};

use common::events::session_event;
use common::site::Observer;
use common::{
    BRISK, LONG, SHORT, SLACK, SOON, client_as, connect, connect_through, eventually, options, proxied,
    shared, unique_path,
};
use futures::FutureExt;
use futures::future::join_all;
use lockkeeper::Keeper;
use lockkeeper::error::{AcquireError, ConnectError};
use lockkeeper::health::{Health, ProbeError};
use lockkeeper::session::{SessionEvent, SessionStatus};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use zookeeper_client as zk;

#[tokio::test]
async fn a_healthy_keeper_is_ready_and_alive_and_leaves_no_node() {
    let path = unique_path("health");
    let keeper = with_path(&path).await;
    let checks = join_all((0..20).map(|_| keeper.health())).await;
    for health in checks {
        assert!(health.is_ready() && health.is_alive(), "{health}");
        assert_eq!((health.status, health.session_timeout), (SessionStatus::Connected, PATIENT));
        assert!(health.margin <= PATIENT && health.probe.expect("acquired") < PATIENT / 10);
    }
    let observer = Observer::new().await;
    assert_eq!(observer.nodes(&path).await, [""; 0], "every release was confirmed");
    let removed = async || observer.stat(&path).await.is_none();
    eventually("the server removes the empty container", SOON, removed).await;
}

#[tokio::test]
async fn a_check_that_is_dropped_leaves_no_node() {
    let path = unique_path("health-dropped");
    let keeper = with_path(&path).await;
    let observer = Observer::new().await;
    let mut check = keeper.health();
    assert!((&mut check).now_or_never().is_none());
    drop(check);
    // Handled after the cancel, because messages to one path are handled in order.
    assert!(keeper.health().await.is_ready());
    eventually("no node is left", SOON, async || observer.nodes(&path).await.is_empty()).await;
}

#[tokio::test]
async fn silent_servers_fail_the_check_before_a_lease_is_suspended() {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, BRISK).await;
    let guard =
        keeper.lock(&unique_path("silent")).expect("a valid path").acquire().await.expect("it is free");
    let mut events = keeper.events();
    session_event(&mut events, SessionEvent::Connected { epoch: 1 }).await;
    assert!(ready(&keeper).await.is_alive());

    proxy.hold_replies(true);
    let begun = Instant::now();
    let health = keeper.health().await;
    let took = begun.elapsed();
    assert!(took < BRISK / 10 + SLACK, "{took:?}");
    assert_eq!(health.probe, Err(ProbeError::TimedOut { limit: BRISK / 10 }), "{health}");
    assert!(!health.is_ready() && health.is_alive(), "{health}");
    assert!(guard.is_held(), "{health}");

    session_event(&mut events, SessionEvent::Suspended { epoch: 1 }).await;
    let health = keeper.health().await;
    assert_eq!((health.status, &health.probe), (SessionStatus::Suspended, &Err(ProbeError::Disconnected)));
    assert!(!health.is_ready() && health.is_alive(), "{health}");

    proxy.hold_replies(false);
    ready(&keeper).await;
}

#[tokio::test]
async fn slow_servers_fail_the_check_while_leases_are_held() {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, BRISK).await;
    let guard = keeper.lock(&unique_path("slow")).expect("a valid path").acquire().await.expect("it is free");
    ready(&keeper).await;
    // A round trip takes a tenth of the session timeout, and a check takes two.
    proxy.delay(BRISK / 20);
    let health = keeper.health().await;
    assert!(!health.is_ready() && health.is_alive() && guard.is_held(), "{health}");
    assert_eq!(health.status, SessionStatus::Connected);
    proxy.delay(Duration::ZERO);
    ready(&keeper).await;
}

#[tokio::test]
async fn without_a_session_it_is_alive_and_not_ready() {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, SHORT).await;
    let mut events = keeper.events();
    proxy.refuse(true);
    proxy.cut();
    session_event(&mut events, SessionEvent::Lost { epoch: 1 }).await;
    let health = keeper.health().await;
    assert_eq!((health.status, health.margin), (SessionStatus::Lost, Duration::ZERO));
    assert!(!health.is_ready() && health.is_alive(), "{health}");
    proxy.refuse(false);
    ready(&keeper).await;
}

#[tokio::test]
async fn a_keeper_tells_that_it_is_alive_without_a_server() {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, LONG).await;
    proxy.black_hole(true);
    let asked = Instant::now();
    assert!(keeper.is_alive().await);
    assert!(asked.elapsed() < LONG / 10, "it is answered before its limit");
}

#[tokio::test]
async fn a_closed_keeper_is_not_alive() {
    let keeper = connect().await;
    assert!(keeper.is_alive().await);
    keeper.close().await;
    assert!(!keeper.is_alive().await);
    let health = keeper.health().await;
    assert!(!health.is_ready() && !health.is_alive(), "{health}");
    assert_eq!((health.status, health.probe), (SessionStatus::Closed, Err(ProbeError::Disconnected)));
}

#[tokio::test]
async fn a_health_path_that_cannot_be_used_is_reported() {
    let path = unique_path("health-private");
    let owner = client_as("owner:secret").await;
    let private = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
    owner.create(&path, b"", &private).await.expect("a new node");
    let health = with_path(&path).await.health().await;
    assert_eq!(health.probe, Err(AcquireError::NoAuth { path: path.clone() }.into()));
    assert!(!health.is_ready() && health.to_string().contains(&path), "{health}");

    let refused = options().health_path("no/slash").connect(&shared().address()).await;
    let refused = refused.expect_err("it is relative");
    assert!(matches!(&refused, ConnectError::InvalidOption { option: "a health path", .. }), "{refused}");
}

#[tokio::test]
async fn an_actor_is_told_by_message() {
    let keeper = with_path(&unique_path("health-message")).await;
    let (sender, told) = oneshot::channel();
    let (actor, _) = Actor::spawn(None, Listener, sender).await.expect("an actor");
    keeper.health().forward(&actor, Told);
    assert!(told.await.expect("a message").is_ready());
}

/// A busy machine may need seconds for a check, which has a tenth of this.
const PATIENT: Duration = Duration::from_secs(60);

async fn with_path(path: &str) -> Keeper {
    options()
        .session_timeout(PATIENT)
        .health_path(path)
        .connect(&shared().address())
        .await
        .expect("should connect")
}

/// Waits until the keeper is ready.
async fn ready(keeper: &Keeper) -> Health {
    let mut newest = keeper.health().await;
    eventually("it is ready", SOON, async || {
        newest = keeper.health().await;
        newest.is_ready()
    })
    .await;
    newest
}

struct Told(Health);

#[cfg(feature = "cluster")]
impl ractor::Message for Told {}

struct Listener;

#[ractor::actor(message = Told, state = Option<oneshot::Sender<Health>>, arguments = oneshot::Sender<Health>)]
impl Listener {
    async fn pre_start(
        &self,
        _: ActorRef<Told>,
        sender: oneshot::Sender<Health>,
    ) -> Result<Option<oneshot::Sender<Health>>, ActorProcessingErr> {
        Ok(Some(sender))
    }

    async fn handle(
        &self,
        _: ActorRef<Told>,
        Told(health): Told,
        sender: &mut Option<oneshot::Sender<Health>>,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(sender) = sender.take() {
            let _ = sender.send(health);
        }
        Ok(())
    }
}
