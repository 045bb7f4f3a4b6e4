//! What an actor is told of a suspended session, and when it is stopped or killed.

use lockkeeper::LeaseState;
use lockkeeper::run::LeaseEvent;
use lockkeeper::singleton::SingletonOptions;
use tokio::time::timeout;

use crate::common::{eventually, proxied, unique_path};
use crate::member::{Behavior, LOST, Member, Note, Order, SOON, connect_for};

#[tokio::test]
async fn a_short_suspension_is_reported_and_stops_nothing() {
    let proxy = proxied().await;
    let path = unique_path("doubt");
    let options = SingletonOptions::new();
    let mut member = Member::join_with(&proxy.address(), &path, Behavior::default(), options).await;
    let (_, lease) = member.started().await;
    proxy.refuse(true);
    proxy.cut();
    assert!(matches!(member.note().await, Note::Told(LeaseEvent::Suspended)));
    proxy.refuse(false);
    assert!(matches!(member.note().await, Note::Told(LeaseEvent::Resumed)));
    assert_eq!(lease.state(), LeaseState::Held);
}

#[tokio::test]
async fn a_suspension_stops_the_actor_if_so_configured() {
    let proxy = proxied().await;
    let options = SingletonOptions::new().stop_when_suspended(true);
    let path = unique_path("first-doubt");
    let mut member = Member::join_with(&proxy.address(), &path, Behavior::default(), options).await;
    let (_, lease) = member.started().await;
    proxy.refuse(true);
    proxy.cut();
    assert!(matches!(member.note().await, Note::Stopped(LeaseState::Suspended)));
    proxy.refuse(false);
    let (_, next) = member.started().await;
    assert!(next.token() > lease.token());
}

#[tokio::test]
async fn a_disconnected_actor_is_stopped_before_its_lease_ends_and_the_next_starts_afterwards() {
    let proxy = proxied().await;
    let path = unique_path("cut-off");
    let keeper = connect_for(&proxy.address(), LOST).await;
    let mut alone = Member::new(keeper, &path, Behavior::default(), SingletonOptions::new());
    let (_, lease) = alone.started().await;
    let mut other = Member::join(&path, Behavior::default()).await;
    eventually("it is queued", SOON, async || other.contenders().await == 2).await;
    proxy.black_hole(true);
    assert_ne!(
        alone.suspended_and_stopped().await,
        LeaseState::Lost,
        "stopped only after the lease was lost"
    );
    let (_, next) = other.started().await;
    assert!(next.token() > lease.token());
    assert_eq!(lease.state(), LeaseState::Lost);
}

#[tokio::test]
async fn a_hanging_handler_and_its_children_are_killed_before_the_lease_ends() {
    let proxy = proxied().await;
    let path = unique_path("hangs");
    let options = SingletonOptions::new().grace(SOON);
    let keeper = connect_for(&proxy.address(), LOST).await;
    let mut alone = Member::new(keeper, &path, Behavior::default(), options);
    let (actor, _) = alone.started().await;
    actor.cast(Order::Child).expect("it runs");
    let (child, _) = alone.started().await;
    actor.cast(Order::Hang).expect("it runs");
    proxy.black_hole(true);
    for _ in 0..2 {
        let Note::Cut(state) = alone.note().await else { panic!("not killed") };
        assert_ne!(state, LeaseState::Lost, "killed only after the lease was lost");
    }
    timeout(SOON, child.wait(None)).await.expect("it ends").expect("no time limit");
}
