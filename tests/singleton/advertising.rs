//! The data that a candidate advertises: which node has them, and when the caller is told.

use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::error::AdvertiseError;
use lockkeeper::session::SessionEvent;
use lockkeeper::singleton::SingletonOptions;
use lockkeeper::{Dialect, LockOptions};
use tokio::time::timeout;

use crate::common::site::Observer;
use crate::common::{client, eventually, proxied, shared, unique_path};
use crate::member::{Arguments, Behavior, LOST, Member, Order, Probe, SOON, connect, connect_for};

#[tokio::test]
async fn advertised_data_can_be_changed_while_it_waits_and_while_it_runs() {
    let path = unique_path("advertised");
    let observer = connect(&shared().address()).await;
    let (singleton, lock) = (observer.singleton(&path).expect("valid"), observer.lock(&path).expect("valid"));
    let mut one = Member::join(&path, Behavior::default()).await;
    let (_, lease) = one.started().await;
    one.candidate().running().await.expect("it runs");
    let mut leaders = singleton.leaders();
    // Another member of an ensemble may not know the leader yet.
    let mut leader = async || loop {
        let leader = timeout(SOON, leaders.next()).await.expect("in time").expect("the stream goes on");
        if let Some(leader) = leader.expect("allowed") {
            break leader;
        }
    };
    assert_eq!(leader().await.token, lease.token());

    one.candidate().advertise("one, busy").await.expect("connected");
    let shown = leader().await;
    assert_eq!((&*shown.identifier, shown.token), ("one, busy", lease.token()));
    assert_eq!(lease.state(), lockkeeper::LeaseState::Held);

    // The change meets the create in flight.
    let mut two = Member::join(&path, Behavior::default()).await;
    two.candidate().advertise("two, early").await.expect("connected");
    let second = async |expected: &str| {
        let contenders = lock.contenders().await.expect("connected");
        contenders.get(1).is_some_and(|contender| contender.identifier == expected)
    };
    eventually("the data are shown", SOON, async || second("two, early").await).await;
    two.candidate().advertise("two, idle").await.expect("connected");
    eventually("the change is shown", SOON, async || second("two, idle").await).await;

    one.shutdown().await;
    assert_eq!(leader().await.identifier, "two, idle");
    // The next node has the data, too.
    let (actor, lease) = two.started().await;
    actor.cast(Order::Panic).expect("it runs");
    let (_, next) = two.started().await;
    assert!(next.token() > lease.token());
    let shown = async || {
        singleton.leader().await.is_ok_and(|leader| {
            leader.is_some_and(|leader| (&*leader.identifier, leader.token) == ("two, idle", next.token()))
        })
    };
    eventually("the next node has the data", SOON, shown).await;
}

#[tokio::test]
async fn advertised_data_that_change_without_a_session_are_written_to_the_next_node() {
    let (proxy, path) = (proxied().await, unique_path("advertised-offline"));
    let other = connect(&shared().address()).await;
    let lock = other.lock(&path).expect("a valid path");
    let guard = lock.acquire().await.expect("free");
    let keeper = connect_for(&proxy.address(), LOST).await;
    let mut events = keeper.events();
    let mut member = Member::new(keeper, &path, Behavior::default(), SingletonOptions::new());
    eventually("it is queued", SOON, async || lock.contenders().await.is_ok_and(|all| all.len() == 2)).await;
    proxy.refuse(true);
    proxy.cut();
    let lost = async { while !matches!(events.next().await, Some(SessionEvent::Lost { .. })) {} };
    timeout(SOON, lost).await.expect("it is lost");

    let candidate = member.candidate();
    // Several times, as a load that is reported again and again.
    let advertised = join_all((1..=10).map(|load| candidate.advertise(format!("load {load}"))));
    let mut advertised = std::pin::pin!(advertised);
    let early = timeout(Duration::from_millis(200), &mut advertised).await;
    assert!(early.is_err(), "there is no node yet: {early:?}");
    proxy.refuse(false);
    let answers = timeout(SOON, advertised).await.expect("it is written");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let server = Observer::new().await;
    let nodes = server.nodes(&path).await;
    let node = nodes.last().expect("the node of the new session");
    assert_eq!(server.stat(node).await.expect("it is still there").version, 1, "written once for all");
    assert_eq!(server.0.get_data(node).await.expect("it is still there").0, b"load 10");
    guard.release().await.expect("held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_are_advertised_between_the_loss_and_the_end_of_a_run_wait_for_the_next_node() {
    let path = unique_path("advertised-lost");
    let behavior = Behavior { slow_to_die: Duration::from_secs(1), ..Behavior::default() };
    let mut member = Member::join(&path, behavior).await;
    let (actor, lease) = member.started().await;
    actor.cast(Order::Hang).expect("it runs");
    member.busy().await;
    let operator = client().await;
    operator.delete(lease.node(), None).await.expect("it is there");
    timeout(SOON, lease.lost()).await.expect("a heartbeat notices it");
    let advertised = member.candidate().advertise("after the loss");
    timeout(SOON, advertised).await.expect("it is written").expect("the next node has it");
    let shown = async || {
        let leader = member.singleton.leader().await.expect("connected");
        leader.is_some_and(|leader| leader.identifier == "after the loss")
    };
    eventually("the next node has the data", SOON, shown).await;
}

#[tokio::test]
async fn data_that_are_advertised_while_the_lock_is_refused_wait_for_the_first_node() {
    let path = unique_path("advertised-refused");
    let other = connect(&shared().address()).await;
    let curator = LockOptions::new().dialect(Dialect::Curator);
    let guard = other.lock_with(&path, curator).expect("valid").acquire().await.expect("free");
    let mut member = Member::join(&path, Behavior::default()).await;
    let advertised = member.candidate().advertise("at last");
    let mut advertised = std::pin::pin!(advertised);
    // The member tries a few times.
    let early = timeout(Duration::from_millis(300), &mut advertised).await;
    assert!(early.is_err(), "there is no node yet: {early:?}");
    guard.release().await.expect("held");
    timeout(SOON, advertised).await.expect("it is written").expect("the lock is granted");
}

#[tokio::test]
async fn data_that_are_too_long_are_refused_before_anything_is_sent() {
    let mut member = Member::join(&unique_path("too-long"), Behavior::default()).await;
    member.candidate().running().await.expect("it runs");
    member.candidate().advertise("before").await.expect("connected");
    let (bytes, limit) = (960 * 1024 + 1, 960 * 1024);
    let refused = member.candidate().advertise("x".repeat(bytes)).await;
    assert_eq!(refused, Err(AdvertiseError::TooLong { bytes, limit }));
    let leader = member.singleton.leader().await.expect("connected").expect("it leads");
    assert_eq!(leader.identifier, "before");
    member.candidate().advertise("x".repeat(limit)).await.expect("as long as allowed");

    // Also together with the access list of the next node.
    let user = Acl::new(Permission::ALL, AuthId::new("digest", &"x".repeat(20 * 1024)));
    let options = SingletonOptions::new().acl(vec![user]);
    let listed = member.keeper.singleton_with(member.singleton.path(), options).expect("valid options");
    let candidate = listed.run(|_| -> (Probe, Arguments) { unreachable!() }, |_| None);
    let refused = candidate.advertise("x".repeat(limit)).now_or_never();
    let shorter = |limit| limit < 960 * 1024 && limit > 955 * 1024;
    assert!(
        matches!(refused, Some(Err(AdvertiseError::TooLong { limit, .. })) if shorter(limit)),
        "{refused:?}"
    );
}
