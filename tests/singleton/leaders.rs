//! Querying and watching the leader.

use futures::StreamExt;
use lockkeeper::LeaseState;
use lockkeeper::session::SessionEvent;
use lockkeeper::singleton::SingletonOptions;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::common::events::session_event;
use crate::common::{SHORT, TestServer, eventually, proxied, shared, unique_path};
use crate::member::{Behavior, Member, SOON, connect, connect_for};

#[tokio::test]
async fn any_client_can_query_the_leader_and_is_told_of_changes() {
    let path = unique_path("leaders");
    let observer = connect(&shared().address()).await;
    let singleton = observer.singleton(&path).expect("a valid path");
    assert_eq!(singleton.leader().await, Ok(None));
    let mut leaders = singleton.leaders();
    let (actor, mut messages) = listener().await;
    singleton.subscribe(&actor, |leader| Observed(leader.expect("allowed").map(|leader| leader.identifier)));
    let mut next = async || {
        let leader = timeout(SOON, leaders.next()).await.expect("in time").expect("the stream goes on");
        let leader = leader.expect("allowed").map(|leader| leader.identifier);
        let observed = timeout(SOON, messages.recv()).await.expect("in time").expect("the actor runs");
        assert_eq!(leader, observed);
        leader
    };
    assert_eq!(next().await, None);

    let named = |name: &str| SingletonOptions::new().advertise(name);
    let address = shared().address();
    let mut one = Member::join_with(&address, &path, Behavior::default(), named("one:9000")).await;
    assert_eq!(next().await.as_deref(), Some("one:9000"));
    let (_, lease) = one.started().await;
    let leader = singleton.leader().await.expect("connected").expect("a leader");
    assert_eq!((leader.identifier.as_str(), leader.token), ("one:9000", lease.token()));

    let mut two = Member::join_with(&address, &path, Behavior::default(), named("two:9000")).await;
    eventually("it is queued", SOON, async || two.contenders().await == 2).await;
    one.shutdown().await;
    assert_eq!(next().await.as_deref(), Some("two:9000"));
    two.shutdown().await;
    assert_eq!(next().await, None);
    actor.stop(None);
}

#[tokio::test]
async fn a_path_that_does_not_exist_yet_is_watched() {
    let server = TestServer::start();
    let observer = connect(&server.address()).await;
    let mut leaders = observer.singleton("/not/there/yet").expect("a valid path").leaders();
    assert_eq!(leaders.next().await, Some(Ok(None)));
    let (watching, watched) = (leaders.next(), async {
        eventually("it is watched", SOON, async || server.mntr("zk_watch_count") == 1).await;
        let options = SingletonOptions::new();
        Member::join_with(&server.address(), "/not/there/yet", Behavior::default(), options).await
    });
    let (leader, _member) = futures::join!(watching, watched);
    assert!(matches!(leader, Some(Ok(Some(_)))), "{leader:?}");
}

#[tokio::test]
async fn watching_the_leader_survives_a_lost_session_and_ends_with_the_keeper() {
    let proxy = proxied().await;
    let path = unique_path("leaders-lost");
    let observer = connect_for(&proxy.address(), SHORT).await;
    let mut leaders = observer.singleton(&path).expect("a valid path").leaders();
    let mut next = async || timeout(SOON, leaders.next()).await.expect("in time");
    assert_eq!(next().await, Some(Ok(None)));
    let mut events = observer.events();
    proxy.black_hole(true);
    let lost = |event| matches!(event, SessionEvent::Lost { .. });
    timeout(SOON, async { while !lost(events.next().await.expect("an event")) {} })
        .await
        .expect("it is lost");
    let mut member = Member::join(&path, Behavior::default()).await;
    member.started().await;
    proxy.black_hole(false);
    proxy.cut();
    assert!(matches!(next().await, Some(Ok(Some(_)))));
    observer.close().await;
    assert_eq!(next().await, None);
}

/// An actor that forwards the leaders it is told of.
pub async fn listener() -> (ActorRef<Observed>, mpsc::UnboundedReceiver<Option<String>>) {
    let (sender, observed) = mpsc::unbounded_channel();
    let (actor, _) = Actor::spawn(None, Listener, sender).await.expect("it starts");
    (actor, observed)
}

struct Listener;

pub struct Observed(pub Option<String>);

#[cfg(feature = "cluster")]
impl ractor::Message for Observed {}

#[ractor::actor(
    message = Observed,
    state = mpsc::UnboundedSender<Option<String>>,
    arguments = mpsc::UnboundedSender<Option<String>>
)]
impl Listener {
    async fn pre_start(
        &self,
        _: ActorRef<Observed>,
        sender: mpsc::UnboundedSender<Option<String>>,
    ) -> Result<mpsc::UnboundedSender<Option<String>>, ActorProcessingErr> {
        Ok(sender)
    }

    async fn handle(
        &self,
        _: ActorRef<Observed>,
        Observed(leader): Observed,
        sender: &mut mpsc::UnboundedSender<Option<String>>,
    ) -> Result<(), ActorProcessingErr> {
        let _ = sender.send(leader);
        Ok(())
    }
}

/// The client cannot resume a session that watches more than 128 KiB of paths.
#[tokio::test]
async fn a_thousand_watched_singletons_do_not_lose_the_session() {
    const PATHS: usize = 1000;
    let (proxy, directory) = (proxied().await, unique_path(&"p".repeat(150)));
    let holder = connect(&shared().address()).await;
    let watcher = connect(&proxy.address()).await;
    let guard = watcher.lock(&unique_path("mine")).expect("a valid path").acquire().await.expect("free");
    let (mut candidates, mut watching) = (Vec::new(), Vec::new());
    for number in 0..PATHS {
        let path = format!("{directory}-{number}");
        candidates.push(holder.lock(&path).expect("a valid path").acquire().await.expect("free"));
        let mut leaders = watcher.singleton(&path).expect("a valid path").leaders();
        // The watcher's server may not know the contender yet.
        while leaders.next().await.expect("an answer").expect("connected").is_none() {}
        // Waiting for the next leader leaves a watch.
        watching.push(tokio::spawn(async move { leaders.next().await }));
    }
    let mut events = watcher.events();
    proxy.cut();
    session_event(&mut events, SessionEvent::Suspended { epoch: 1 }).await;
    session_event(&mut events, SessionEvent::Resumed { epoch: 1 }).await;
    assert_eq!(guard.state(), LeaseState::Held);
    watching.iter().for_each(|task| task.abort());
}
