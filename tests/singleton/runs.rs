//! Actors that run under a guard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockkeeper::LeaseState;
use lockkeeper::run::{EndReason, LeaseView, RunFailure, StopPolicy};
use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus};
use tokio::sync::{Notify, mpsc};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::common::events::Recorder;
use crate::common::{client, shared, unique_path};
use crate::member::{Arguments, Behavior, FOREVER, Note, Order, Probe, SOON, any_note, connect, started};

#[tokio::test]
async fn an_actor_under_a_guard_returns_the_guard_however_it_ends() {
    let keeper = connect(&shared().address()).await;
    let lock = keeper.lock(&unique_path("under-guard")).expect("a valid path");
    let mut guard = lock.acquire().await.expect("connected");
    let ends = [
        (Some(Order::End), EndReason::Finished),
        (Some(Order::EndBecause("killed")), EndReason::Finished),
        (Some(Order::Panic), EndReason::Failed),
        (None, EndReason::Stopped),
    ];
    for (order, reason) in ends {
        let (sender, mut notes) = mpsc::unbounded_channel();
        let token = guard.token();
        let make = move |lease: LeaseView| (Probe, (lease, Behavior::default(), sender));
        let run = guard.run(StopPolicy::default(), make, |event| Some(Order::Told(event)));
        let (actor, lease) = started(&mut notes).await;
        assert_eq!(lease.token(), token);
        assert!(lock.try_acquire().await.is_err(), "held while it works");
        match order {
            Some(order) => actor.cast(order).expect("it runs"),
            None => run.stop(),
        }
        let ended = timeout(SOON, run.ended()).await.expect("it ends").expect("the guard was held");
        assert_eq!(ended.reason, reason);
        assert_eq!(ended.failure.is_some(), reason == EndReason::Failed);
        assert_eq!(ended.guard.state(), LeaseState::Held);
        guard = ended.guard;
    }
}

#[tokio::test]
async fn an_actor_under_a_guard_is_killed_when_its_node_is_deleted() {
    let keeper = connect(&shared().address()).await;
    let guard =
        keeper.lock(&unique_path("by-hand")).expect("a valid path").acquire().await.expect("connected");
    let node = guard.node().to_owned();
    let (sender, mut notes) = mpsc::unbounded_channel();
    let make = move |lease: LeaseView| (Probe, (lease, Behavior::default(), sender));
    let run = guard.run(StopPolicy::default(), make, |_| None);
    let (actor, _) = started(&mut notes).await;
    actor.cast(Order::Hang).expect("it runs");
    let operator = client().await;
    operator.delete(&node, None).await.expect("it is there");
    let ended = timeout(SOON, run.ended()).await.expect("it ends").expect("the guard was held");
    assert_eq!((ended.reason, ended.guard.state()), (EndReason::Lease, LeaseState::Lost));
}

#[tokio::test]
async fn no_actor_is_started_under_a_guard_that_is_lost_already() {
    let keeper = connect(&shared().address()).await;
    let guard =
        keeper.lock(&unique_path("lost-before")).expect("a valid path").acquire().await.expect("connected");
    let operator = client().await;
    operator.delete(guard.node(), None).await.expect("it is there");
    timeout(SOON, guard.lost()).await.expect("a heartbeat notices it");
    let (sender, mut notes) = mpsc::unbounded_channel();
    let made = Arc::new(AtomicBool::new(false));
    let make = {
        let made = made.clone();
        move |lease: LeaseView| {
            made.store(true, Ordering::SeqCst);
            (Probe, (lease, Behavior::default(), sender))
        }
    };
    let run = guard.run(StopPolicy::default(), make, |_| None);
    let ended = timeout(SOON, run.ended()).await.expect("it ends").expect("the keeper is open");
    assert!(!made.load(Ordering::SeqCst), "something of the application has run");
    assert_eq!(ended.reason, EndReason::Lease);
    assert!(matches!(ended.failure, Some(RunFailure::LeaseEnded { killed: false })), "{:?}", ended.failure);
    assert!(notes.recv().await.is_none(), "the actor has not run");
}

#[tokio::test]
async fn dropping_a_run_stops_the_actor_and_then_releases_the_lock() {
    let keeper = connect(&shared().address()).await;
    let lock = keeper.lock(&unique_path("run-dropped")).expect("a valid path");
    let guard = lock.acquire().await.expect("connected");
    let (sender, mut notes) = mpsc::unbounded_channel();
    let behavior = Behavior { slow_to_stop: Duration::from_millis(100), ..Behavior::default() };
    let run = guard.run(StopPolicy::default(), move |lease| (Probe, (lease, behavior, sender)), |_| None);
    started(&mut notes).await;
    drop(run);
    let next = timeout(SOON, lock.acquire()).await.expect("released").expect("connected");
    assert!(matches!(notes.try_recv(), Ok(Note::Busy)), "stopped before");
    assert!(matches!(notes.try_recv(), Ok(Note::Stopped(LeaseState::Held))), "stopped before");
    next.release().await.expect("the guard was held");
}

#[tokio::test]
async fn an_actor_killed_from_outside_counts_as_failed() {
    let keeper = connect(&shared().address()).await;
    let mut guard =
        keeper.lock(&unique_path("killed")).expect("a valid path").acquire().await.expect("connected");
    for order in [None, Some(Order::Hang), Some(Order::End)] {
        let (sender, mut notes) = mpsc::unbounded_channel();
        let behavior = Behavior { slow_to_stop: FOREVER, ..Behavior::default() };
        let run = guard.run(StopPolicy::default(), move |lease| (Probe, (lease, behavior, sender)), |_| None);
        let (actor, _) = started(&mut notes).await;
        if let Some(order) = order {
            actor.cast(order).expect("it runs");
            assert!(matches!(any_note(&mut notes).await, Note::Busy), "a method has begun");
        }
        actor.kill();
        let ended = timeout(SOON, run.ended()).await.expect("it ends").expect("the guard was held");
        assert_eq!(ended.reason, EndReason::Failed, "{:?}", ended.failure);
        guard = ended.guard;
    }
}

#[tokio::test]
async fn a_sibling_actor_that_stops_does_not_end_the_run() {
    let keeper = connect(&shared().address()).await;
    let guard =
        keeper.lock(&unique_path("beside")).expect("a valid path").acquire().await.expect("connected");
    let (sender, mut notes) = mpsc::unbounded_channel();
    let make = move |lease: LeaseView| (Probe, (lease, Behavior::default(), sender));
    let policy = StopPolicy::new().grace(Duration::from_millis(50));
    let run = guard.run(policy, make, |_| None);
    let (actor, _) = started(&mut notes).await;
    actor.cast(Order::Sibling).expect("it runs");
    // This is handled after the sibling has stopped.
    actor.cast(Order::Hang).expect("it runs");
    assert!(matches!(any_note(&mut notes).await, Note::Busy), "the run continues");
    run.stop();
    let ended = timeout(SOON, run.ended()).await.expect("it ends").expect("the guard was held");
    assert_eq!(ended.reason, EndReason::Stopped, "it ran until it was asked to stop");
}

#[tokio::test]
async fn a_run_that_begins_just_before_its_keeper_closes_is_stopped_while_the_lock_is_held() {
    let keeper = connect(&shared().address()).await;
    let guard =
        keeper.lock(&unique_path("closing")).expect("a valid path").acquire().await.expect("connected");
    let (sender, mut notes) = mpsc::unbounded_channel();
    let behavior = Behavior { slow_to_stop: Duration::from_millis(100), ..Behavior::default() };
    let run = guard.run(StopPolicy::default(), move |lease| (Probe, (lease, behavior, sender)), |_| None);
    // The task of the run has not begun: this test has only one thread.
    timeout(SOON, keeper.close()).await.expect("it closes");
    started(&mut notes).await;
    assert!(matches!(notes.try_recv(), Ok(Note::Busy)), "it has ended before the keeper is closed");
    assert!(matches!(notes.try_recv(), Ok(Note::Stopped(LeaseState::Held))), "stopped in order");
    let ended = timeout(SOON, run.ended()).await.expect("it ends").expect("the guard was held");
    assert_eq!(ended.reason, EndReason::Stopped);
}

#[tokio::test]
async fn a_run_whose_runtime_ends_before_it_starts_does_not_keep_its_keeper_from_closing() {
    let keeper = connect(&shared().address()).await;
    let lock = keeper.lock(&unique_path("no-runtime")).expect("a valid path");
    let guard = lock.acquire().await.expect("connected");
    let other = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let run = {
        let _entered = other.enter();
        guard.run(StopPolicy::default(), |_| -> (Probe, Arguments) { unreachable!() }, |_| None)
    };
    other.shutdown_background();
    assert!(run.ended().await.is_err(), "it was not started");
    drop(timeout(SOON, lock.acquire()).await.expect("released").expect("connected"));
    timeout(SOON, keeper.close()).await.expect("it closes");
}

#[tokio::test]
async fn a_run_under_a_guard_of_a_closed_keeper_does_not_start() {
    let keeper = connect(&shared().address()).await;
    let guard =
        keeper.lock(&unique_path("closed")).expect("a valid path").acquire().await.expect("connected");
    keeper.close().await;
    let run = guard.run(StopPolicy::default(), |_| -> (Probe, Arguments) { unreachable!() }, |_| None);
    assert!(timeout(SOON, run.ended()).await.expect("it ends").is_err(), "it was not started");
}

/// ractor has one supervisor for each actor, and reports an end to that one only.
#[tokio::test]
async fn a_run_ends_with_its_actor_though_that_is_linked_to_another_supervisor() {
    let keeper = connect(&shared().address()).await;
    let lock = keeper.lock(&unique_path("linked-elsewhere")).expect("a valid path");
    let mut guard = lock.acquire().await.expect("connected");
    for (order, reason) in [(Some(Order::End), EndReason::Finished), (None, EndReason::Stopped)] {
        let (supervisor, _events) = Recorder::start().await;
        let (sender, mut notes) = mpsc::unbounded_channel();
        let make = move |lease: LeaseView| (Probe, (lease, Behavior::default(), sender));
        let run = guard.run(StopPolicy::default(), make, |_| None);
        let (actor, _) = started(&mut notes).await;
        actor.get_cell().link(supervisor.get_cell());
        match order {
            Some(order) => actor.cast(order).expect("it runs"),
            None => run.stop(),
        }
        let ended = timeout(SOON, run.ended()).await.expect("it ends").expect("the guard was held");
        assert_eq!(ended.reason, reason);
        guard = ended.guard;
    }
}

/// A method of an actor.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    PreStart,
    PostStart,
    Handle,
}

#[cfg(feature = "cluster")]
impl ractor::Message for Method {}

/// Links a child in the middle of this method.
struct Parent(Method);

struct Child {
    /// Says that the method has begun.
    begun: Arc<Notify>,
    /// Lets the method go on.
    go_on: Arc<Notify>,
    arguments: Arguments,
}

impl Parent {
    /// The child is in its `post_stop` when this returns, so that the end of the parent does not end it.
    async fn link(
        &self,
        method: Method,
        myself: &ActorRef<Method>,
        child: &Child,
    ) -> Result<(), ActorProcessingErr> {
        if method != self.0 {
            return Ok(());
        }
        child.begun.notify_one();
        child.go_on.notified().await;
        let (child, _) = Actor::spawn_linked(None, Probe, child.arguments.clone(), myself.get_cell()).await?;
        child.stop(None);
        while child.get_status() < ActorStatus::Stopping {
            yield_now().await;
        }
        Ok(())
    }
}

#[ractor::actor(message = Method, state = Child, arguments = Child)]
impl Parent {
    async fn pre_start(&self, myself: ActorRef<Method>, child: Child) -> Result<Child, ActorProcessingErr> {
        self.link(Method::PreStart, &myself, &child).await?;
        Ok(child)
    }

    async fn post_start(
        &self,
        myself: ActorRef<Method>,
        child: &mut Child,
    ) -> Result<(), ActorProcessingErr> {
        self.link(Method::PostStart, &myself, child).await?;
        Ok(myself.cast(Method::Handle)?)
    }

    async fn handle(
        &self,
        myself: ActorRef<Method>,
        method: Method,
        child: &mut Child,
    ) -> Result<(), ActorProcessingErr> {
        self.link(method, &myself, child).await
    }
}

#[tokio::test]
async fn a_run_that_is_stopped_ends_after_the_children_that_its_actor_has_linked_since() {
    let keeper = connect(&shared().address()).await;
    let lock = keeper.lock(&unique_path("linked-late")).expect("a valid path");
    let mut guard = lock.acquire().await.expect("connected");
    for method in [Method::PreStart, Method::PostStart, Method::Handle] {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (sender, mut notes) = mpsc::unbounded_channel();
        let make = {
            let (begun, go_on) = (begun.clone(), go_on.clone());
            move |lease: LeaseView| {
                let behavior = Behavior { slow_to_stop: Duration::from_millis(300), ..Behavior::default() };
                (Parent(method), Child { begun, go_on, arguments: (lease, behavior, sender) })
            }
        };
        let run = guard.run(StopPolicy::default(), make, |_| None);
        timeout(SOON, begun.notified()).await.expect("it begins");
        run.stop();
        // The run handles the stop before the actor goes on: this test has only one thread.
        go_on.notify_one();
        let ended = timeout(SOON, run.ended()).await.expect("it ends").expect("the guard was held");
        started(&mut notes).await;
        assert!(matches!(notes.try_recv(), Ok(Note::Busy)), "{method:?}: the child has begun to stop");
        assert!(matches!(notes.try_recv(), Ok(Note::Stopped(LeaseState::Held))), "{method:?}: it works on");
        assert_eq!(ended.reason, EndReason::Stopped);
        guard = ended.guard;
    }
}
