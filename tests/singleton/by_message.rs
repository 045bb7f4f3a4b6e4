//! Candidates by message: what an actor is told of a candidate's states and failures, and what it can ask for.

use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use lockkeeper::Keeper;
use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::error::{AdvertiseError, QueryError};
use lockkeeper::inspect::Contender;
use lockkeeper::messages::CandidateMessage;
use lockkeeper::run::{Crash, RunFailure};
use lockkeeper::session::SessionEvent;
use lockkeeper::singleton::{CandidateState, RestReason, RunFailed, SingletonOptions};
use ractor::{Actor, ActorProcessingErr, ActorRef, call};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::common::site::Observer;
use crate::common::{LONG, SHORT, eventually, proxied, shared, unique_path};
use crate::member::{Arguments, Behavior, FOREVER, Member, Order, Probe, SOON, connect, connect_for};

/// An actor of an application, which reports what it is sent.
struct Listener;

enum Heard {
    State(CandidateState<Order>),
    Failed(RunFailed),
    Leader(Result<Option<Contender>, QueryError>),
}

macro_rules! hears {
    ($($variant:ident($part:ty)),+) => {$(
        impl From<$part> for Heard {
            fn from(part: $part) -> Heard {
                Heard::$variant(part)
            }
        }

        impl TryFrom<Heard> for $part {
            type Error = &'static str;

            fn try_from(heard: Heard) -> Result<$part, &'static str> {
                match heard {
                    Heard::$variant(part) => Ok(part),
                    _ => Err("another part"),
                }
            }
        }
    )+};
}

hears!(State(CandidateState<Order>), Leader(Result<Option<Contender>, QueryError>));

#[cfg(feature = "cluster")]
impl ractor::Message for Heard {}

type Reports = mpsc::UnboundedSender<Heard>;

#[ractor::actor(message = Heard, state = Reports, arguments = Reports)]
impl Listener {
    async fn pre_start(&self, _: ActorRef<Heard>, reports: Reports) -> Result<Reports, ActorProcessingErr> {
        Ok(reports)
    }

    async fn handle(
        &self,
        _: ActorRef<Heard>,
        heard: Heard,
        reports: &mut Reports,
    ) -> Result<(), ActorProcessingErr> {
        let _ = reports.send(heard);
        Ok(())
    }

    /// It supervises keepers in some tests.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Heard>,
        _: ractor::SupervisionEvent,
        _: &mut Reports,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

struct Ear {
    actor: ActorRef<Heard>,
    heard: mpsc::UnboundedReceiver<Heard>,
}

impl Ear {
    async fn new() -> Ear {
        let (reports, heard) = mpsc::unbounded_channel();
        let (actor, _) = Actor::spawn(None, Listener, reports).await.expect("it starts");
        Ear { actor, heard }
    }

    async fn next(&mut self) -> Heard {
        timeout(SOON, self.heard.recv()).await.expect("in time").expect("the actor runs")
    }

    async fn state(&mut self) -> CandidateState<Order> {
        match self.next().await {
            Heard::State(state) => state,
            Heard::Failed(_) | Heard::Leader(_) => panic!("not a state"),
        }
    }

    async fn failure(&mut self) -> RunFailed {
        match self.next().await {
            Heard::Failed(failed) => failed,
            Heard::State(_) | Heard::Leader(_) => panic!("not a failure"),
        }
    }

    async fn leader(&mut self) -> Option<String> {
        match self.next().await {
            Heard::Leader(leader) => leader.expect("allowed").map(|leader| leader.identifier),
            Heard::State(_) | Heard::Failed(_) => panic!("not a leader"),
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.actor.stop(None);
    }
}

/// The names of the states up to and including `last`.
async fn states_until(ear: &mut Ear, last: &str) -> Vec<String> {
    let mut names = Vec::new();
    while names.last().is_none_or(|name| name != last) {
        let state = format!("{:?}", ear.state().await);
        names.push(state.split(['(', ' ']).next().unwrap_or_default().to_owned());
    }
    names
}

#[tokio::test]
async fn every_subscriber_is_sent_all_states_in_order_and_a_late_one_the_newest_first() {
    let path = unique_path("states");
    let other = connect(&shared().address()).await;
    let guard = other.lock(&path).expect("a valid path").acquire().await.expect("free");
    let mut member = Member::join(&path, Behavior::default()).await;
    let (mut one, mut two) = (Ear::new().await, Ear::new().await);
    member.candidate().subscribe(&one.actor, Heard::State);
    let subscribe = CandidateMessage::Subscribe(two.actor.get_derived());
    member.candidate().actor().cast(subscribe).expect("the handle lives");
    assert!(matches!(
        (one.state().await, two.state().await),
        (CandidateState::Waiting, CandidateState::Waiting)
    ));
    guard.release().await.expect("held");

    let (actor, lease) = member.started().await;
    for ear in [&mut one, &mut two] {
        assert!(matches!(ear.state().await, CandidateState::Starting(view) if view.token() == lease.token()));
        let CandidateState::Running { lease: view, actor: running, .. } = ear.state().await else {
            panic!("it runs")
        };
        assert_eq!((view.token(), running.get_id()), (lease.token(), actor.get_id()));
    }
    let mut late = Ear::new().await;
    member.candidate().subscribe(&late.actor, Heard::State);
    assert_eq!(states_until(&mut late, "Running").await, ["Running"]);

    actor.cast(Order::Panic).expect("it runs");
    let again = ["Releasing", "Resting", "Waiting", "Starting", "Running"];
    for ear in [&mut one, &mut two, &mut late] {
        assert_eq!(states_until(ear, "Running").await, again);
    }
    member.shutdown().await;
    for ear in [&mut one, &mut two, &mut late] {
        assert_eq!(states_until(ear, "Over").await, ["Releasing", "Over"]);
        assert!(ear.heard.try_recv().is_err(), "nothing follows the end");
    }
}

#[tokio::test]
async fn a_dead_subscriber_is_forgotten() {
    let mut member = Member::join(&unique_path("forgotten"), Behavior::default()).await;
    member.candidate().running().await.expect("it runs");
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let (ear, mut alive) = (Ear::new().await, Ear::new().await);
    member.candidate().subscribe(&ear.actor, Heard::State);
    member.candidate().subscribe(&alive.actor, Heard::State);
    assert_eq!(states_until(&mut alive, "Running").await, ["Running"]);
    ear.actor.kill();
    // Fewer, if connecting had not quite ended.
    let gone = async || metrics.num_alive_tasks() <= before + 2;
    eventually("only the other actor and its subscription are left", SOON, gone).await;
    member.shutdown().await;
    assert_eq!(states_until(&mut alive, "Over").await, ["Releasing", "Over"]);
}

#[tokio::test]
async fn the_running_actor_is_reached_without_a_name_and_each_run_has_its_own() {
    let path = unique_path("reached");
    let mut member = Member::join(&path, Behavior::default()).await;
    let (actor, _) = member.started().await;
    member.candidate().running().await.expect("it runs");
    let running = member.candidate().running_actor().expect("it runs");
    assert_eq!(running.get_id(), actor.get_id());
    let mut second = Member::join(&path, Behavior::default()).await;
    eventually("it is queued", SOON, async || second.contenders().await == 2).await;
    assert!(second.candidate().running_actor().is_none(), "it runs elsewhere");

    running.cast(Order::End).expect("it takes messages");
    let (next, _) = second.started().await;
    second.candidate().running().await.expect("it runs");
    let member_actor = second.candidate().actor();
    let told = call!(member_actor, CandidateMessage::RunningActor).expect("answered").expect("it runs");
    assert_eq!(told.get_id(), next.get_id());
    assert!(running.cast(Order::End).is_err(), "it has ended");
    assert!(member.candidate().running_actor().is_none(), "it has moved");
}

/// A member whose failures are reported.
async fn supervised(
    keeper: Keeper,
    name: &str,
    behavior: Behavior,
    options: SingletonOptions,
) -> (Member, Ear) {
    let ear = Ear::new().await;
    let options = options.supervisor(&ear.actor, Heard::Failed);
    (Member::new(keeper, &unique_path(name), behavior, options), ear)
}

#[tokio::test]
async fn the_supervisor_is_told_why_each_run_failed() {
    let keeper = connect(&shared().address()).await;
    let options = || SingletonOptions::new().grace(Duration::from_millis(50));
    let behavior = Behavior { fails_to_start: true, ..Behavior::default() };
    let (mut broken, mut ear) = supervised(keeper.clone(), "broken", behavior, options()).await;
    let failed = ear.failure().await;
    assert_eq!(failed.path, broken.singleton.path());
    let RunFailure::NotStarted(Crash::Error(error)) = failed.failure else { panic!("{failed:?}") };
    assert_eq!(error.to_string(), "on purpose");
    broken.shutdown().await;

    let (mut member, mut ear) = supervised(keeper.clone(), "failing", Behavior::default(), options()).await;
    let (actor, lease) = member.started().await;
    actor.cast(Order::Panic).expect("it runs");
    let failed = ear.failure().await;
    assert_eq!(failed.token, lease.token());
    assert!(
        matches!(&failed.failure, RunFailure::Failed(Crash::Panic(text)) if text == "on purpose"),
        "{failed:?}"
    );

    // An actor that ends by itself has not failed: the next report is about the next run.
    member.started().await.0.cast(Order::End).expect("it runs");
    member.note().await;
    let (actor, lease) = member.started().await;
    actor.kill();
    let failed = ear.failure().await;
    assert_eq!(failed.token, lease.token());
    assert!(matches!(failed.failure, RunFailure::Killed), "{failed:?}");

    let (actor, lease) = member.started().await;
    let operator = zookeeper_client::Client::connect(&shared().address()).await.expect("connected");
    actor.cast(Order::Hang).expect("it runs");
    operator.delete(lease.node(), None).await.expect("it is there");
    let failed = ear.failure().await;
    assert!(matches!(failed.failure, RunFailure::LeaseEnded { killed: true }), "{failed:?}");

    member.note().await;
    member.started().await.0.cast(Order::Hang).expect("it runs");
    member.shutdown().await;
    let failed = ear.failure().await;
    assert!(matches!(failed.failure, RunFailure::NotStopped), "{failed:?}");

    // A run that stops in time has not failed.
    let (mut member, mut ear) = supervised(keeper, "stopping", Behavior::default(), options()).await;
    member.started().await;
    member.shutdown().await;
    assert!(ear.heard.try_recv().is_err());
}

#[tokio::test]
async fn the_supervisor_is_told_of_a_closure_that_panics_and_the_candidate_rests() {
    let keeper = connect(&shared().address()).await;
    let mut ear = Ear::new().await;
    let options = SingletonOptions::new().backoff(FOREVER, FOREVER).supervisor(&ear.actor, Heard::Failed);
    let singleton = keeper.singleton_with(&unique_path("closure"), options).expect("a valid path");
    let candidate = singleton.run(|_| -> (Probe, _) { panic!("on purpose") }, |_| None);
    let failed = ear.failure().await;
    assert!(
        matches!(&failed.failure, RunFailure::NotStarted(Crash::Panic(text)) if text == "on purpose"),
        "{failed:?}"
    );
    candidate.subscribe(&ear.actor, Heard::State);
    let resting = async {
        loop {
            if let CandidateState::Resting { reason, .. } = ear.state().await {
                return reason;
            }
        }
    };
    let reason = timeout(SOON, resting).await.expect("it rests");
    assert!(matches!(reason, RestReason::Failed(RunFailure::NotStarted(_))), "{reason}");
}

#[tokio::test]
async fn a_supervisor_that_has_ended_or_cannot_be_told_does_not_stop_the_candidate() {
    let keeper = connect(&shared().address()).await;
    let (mut member, ear) =
        supervised(keeper.clone(), "no-supervisor", Behavior::default(), SingletonOptions::new()).await;
    ear.actor.stop_and_wait(None, Some(SOON)).await.expect("it stops");
    member.started().await.0.cast(Order::Panic).expect("it runs");
    member.started().await;

    let ear = Ear::new().await;
    let options = SingletonOptions::new().supervisor(&ear.actor, |_| panic!("on purpose"));
    let mut member = Member::new(keeper, &unique_path("deaf"), Behavior::default(), options);
    member.started().await.0.cast(Order::Panic).expect("it runs");
    member.started().await;
}

#[tokio::test]
async fn the_death_of_the_keeper_ends_the_states_and_is_a_failure_of_the_run() {
    let mut ear = Ear::new().await;
    let options = Keeper::options().session_timeout(LONG);
    let (root, _) = Actor::spawn(None, Listener, mpsc::unbounded_channel().0).await.expect("it starts");
    let keeper = options.connect_linked(&shared().address(), &root.get_cell()).await.expect("connected");
    let (mut member, mut supervisor) =
        supervised(keeper, "keeper-dies", Behavior::default(), SingletonOptions::new()).await;
    member.candidate().running().await.expect("it runs");
    member.candidate().subscribe(&ear.actor, Heard::State);
    assert_eq!(states_until(&mut ear, "Running").await, ["Running"]);
    root.kill();
    let failed = supervisor.failure().await;
    assert!(matches!(failed.failure, RunFailure::Killed | RunFailure::LeaseEnded { .. }), "{failed:?}");
    assert_eq!(states_until(&mut ear, "Over").await, ["Over"]);
    assert!(member.candidate().running_actor().is_none());
}

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
    let keeper = connect_for(&proxy.address(), SHORT).await;
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
    let contenders = lock.contenders().await.expect("connected");
    assert_eq!(contenders.last().expect("two contenders").identifier, "load 10");
    guard.release().await.expect("held");
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

#[tokio::test]
async fn an_actor_asks_a_candidate_for_all_that_its_handle_can_do() {
    let mut member = Member::join(&unique_path("asked"), Behavior::default()).await;
    let (_, lease) = member.started().await;
    member.candidate().running().await.expect("it runs");
    let (actor, mut ear) = (member.candidate().actor(), Ear::new().await);
    assert_eq!(member.candidate().actor().get_id(), actor.get_id(), "one actor for a handle");
    let state = call!(actor, CandidateMessage::State).expect("answered");
    assert!(matches!(state, CandidateState::Running { lease: view, .. } if view.token() == lease.token()));
    call!(actor, CandidateMessage::Advertise, "asked".to_owned()).expect("answered").expect("connected");
    let subscribe = CandidateMessage::SubscribeToLeaders(ear.actor.get_derived());
    actor.cast(subscribe).expect("the handle lives");
    assert_eq!(ear.leader().await.as_deref(), Some("asked"));
    let leader = call!(actor, CandidateMessage::Leader).expect("answered").expect("connected");
    assert_eq!(leader.map(|leader| leader.token), Some(lease.token()));
    call!(actor, CandidateMessage::Shutdown).expect("answered");
    assert_eq!(lease.state(), lockkeeper::LeaseState::Lost, "released");
    assert_eq!(ear.leader().await, None);
    let state = call!(actor, CandidateMessage::State).expect("answered");
    assert!(matches!(state, CandidateState::Over));
    drop(member.candidate.take());
    timeout(SOON, actor.wait(None)).await.expect("it ends with its handle").expect("no time limit");
}

#[tokio::test]
async fn a_candidate_of_a_closed_keeper_answers_every_message() {
    let mut member = Member::join(&unique_path("closed"), Behavior::default()).await;
    member.started().await;
    let actor = member.candidate().actor();
    let mut ear = Ear::new().await;
    let ask = async |ear: &mut Ear| {
        let subscribe = CandidateMessage::Subscribe(ear.actor.get_derived());
        actor.cast(subscribe).expect("the handle lives");
        let state = call!(actor, CandidateMessage::State).expect("answered");
        call!(actor, CandidateMessage::RunningActor).expect("answered");
        let advertised = call!(actor, CandidateMessage::Advertise, "late".to_owned()).expect("answered");
        let leader = call!(actor, CandidateMessage::Leader).expect("answered");
        call!(actor, CandidateMessage::Shutdown).expect("answered");
        states_until(ear, "Over").await;
        (state, advertised, leader)
    };
    let all = async { tokio::join!(member.keeper.close(), ask(&mut ear)) };
    let _ = timeout(SOON, all).await.expect("every message is answered while it closes");
    let closed = timeout(SOON, ask(&mut ear)).await.expect("every message is answered once it is closed");
    let (CandidateState::Over, Err(AdvertiseError::Closed), Err(QueryError::Closed)) = closed else {
        panic!("{closed:?}")
    };
    let advertised = member.candidate().advertise("late").await;
    assert_eq!(advertised, Err(AdvertiseError::Closed));
}
