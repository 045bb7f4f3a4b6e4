//! What an actor owns may take long to be dropped. It has ended only when that is over: nobody else may run meanwhile.

use std::thread;
use std::time::Duration;

use lockkeeper::Keeper;
use lockkeeper::run::{EndReason, StopPolicy};
use lockkeeper::singleton::{Candidate, SingletonOptions};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorStatus};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::common::{LONG, eventually, shared, unique_path};
use crate::member::{Arguments, Behavior, FOREVER, Probe, SOON, connect};

/// How the actor ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Stops,
    /// The drop of its state panics.
    StopsAndPanics,
    Panics,
    ReturnsAnError,
    /// Its `post_stop` returns an error.
    FailsToStop,
    IsKilled,
    /// It is killed while its `post_stop` runs.
    IsKilledWhileItStops,
    /// The actor that supervises it is killed.
    IsKilledFromAbove,
}

const WAYS: [Way; 8] = [
    Way::Stops,
    Way::StopsAndPanics,
    Way::Panics,
    Way::ReturnsAnError,
    Way::FailsToStop,
    Way::IsKilled,
    Way::IsKilledWhileItStops,
    Way::IsKilledFromAbove,
];

#[cfg(feature = "cluster")]
impl ractor::Message for Way {}

#[derive(Debug)]
enum Note {
    Started(ActorRef<Way>),
    Stopping,
    Dropped(&'static str),
}

type Notes = mpsc::UnboundedSender<Note>;

/// What the actor owns: it is slow to drop.
struct Owned(&'static str, Notes);

impl Drop for Owned {
    fn drop(&mut self) {
        // The task that a thread woke last is taken over by no other thread. This makes it another one.
        tokio::spawn(async {});
        thread::sleep(Duration::from_millis(150));
        let _ = self.1.send(Note::Dropped(self.0));
    }
}

struct Owner(#[allow(dead_code)] Owned);

struct State {
    way: Option<Way>,
    owned: Owned,
}

impl Drop for State {
    fn drop(&mut self) {
        assert!(self.way != Some(Way::StopsAndPanics), "on purpose");
    }
}

#[ractor::actor(message = Way, state = State, arguments = Notes)]
impl Owner {
    async fn pre_start(&self, myself: ActorRef<Way>, notes: Notes) -> Result<State, ActorProcessingErr> {
        let _ = notes.send(Note::Started(myself));
        Ok(State { way: None, owned: Owned("the state", notes) })
    }

    async fn handle(
        &self,
        myself: ActorRef<Way>,
        way: Way,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.way = Some(way);
        match way {
            Way::Stops | Way::StopsAndPanics | Way::FailsToStop | Way::IsKilledWhileItStops => {
                myself.stop(None)
            }
            Way::Panics => panic!("on purpose"),
            Way::ReturnsAnError => return Err("on purpose".into()),
            Way::IsKilled => myself.kill(),
            Way::IsKilledFromAbove => myself.try_get_supervisor().ok_or("it runs alone")?.kill(),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Way>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _ = state.owned.1.send(Note::Stopping);
        match state.way {
            Some(Way::FailsToStop) => Err("on purpose".into()),
            Some(Way::IsKilledWhileItStops) => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

async fn next(notes: &mut mpsc::UnboundedReceiver<Note>) -> Note {
    timeout(SOON, notes.recv()).await.expect("a note in time").expect("a sender is kept")
}

async fn started(notes: &mut mpsc::UnboundedReceiver<Note>) -> ActorRef<Way> {
    match next(notes).await {
        Note::Started(actor) => actor,
        other => panic!("not started, but {other:?}"),
    }
}

/// Makes the actor end in this way.
async fn end(actor: &ActorRef<Way>, way: Way, notes: &mut mpsc::UnboundedReceiver<Note>) {
    actor.cast(way).expect("it runs");
    if way == Way::IsKilledWhileItStops {
        assert!(matches!(next(notes).await, Note::Stopping));
        actor.kill();
    }
}

/// What is dropped before the actor starts again, in alphabetical order.
async fn dropped_before_the_next_start(notes: &mut mpsc::UnboundedReceiver<Note>) -> Vec<&'static str> {
    let mut dropped = Vec::new();
    loop {
        match next(notes).await {
            Note::Started(_) => break,
            Note::Stopping => {}
            Note::Dropped(what) => dropped.push(what),
        }
    }
    dropped.sort_unstable();
    dropped
}

/// What has been dropped, in alphabetical order.
fn dropped_so_far(notes: &mut mpsc::UnboundedReceiver<Note>) -> Vec<&'static str> {
    let mut dropped = Vec::new();
    while let Ok(note) = notes.try_recv() {
        dropped.extend(if let Note::Dropped(what) = note { Some(what) } else { None });
    }
    dropped.sort_unstable();
    dropped
}

fn join(keeper: &Keeper, path: &str, notes: &Notes) -> Candidate<Way> {
    // Long pauses, so that a member that has failed does not run the actor again.
    let options = SingletonOptions::new().backoff(SOON, SOON);
    let (singleton, notes) = (keeper.singleton_with(path, options).expect("a valid path"), notes.clone());
    singleton.run(move |_| (Owner(Owned("the actor", notes.clone())), notes.clone()), |_| None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_next_member_starts_when_the_actor_and_its_state_are_dropped() {
    let (one, other) = (connect(&shared().address()).await, connect(&shared().address()).await);
    for way in WAYS {
        let (path, (sender, mut notes)) = (unique_path("dropped-first"), mpsc::unbounded_channel());
        let first = join(&one, &path, &sender);
        let actor = started(&mut notes).await;
        let second = join(&other, &path, &sender);
        let lock = other.lock(&path).expect("a valid path");
        let queued = async || lock.contenders().await.is_ok_and(|contenders| contenders.len() == 2);
        eventually("the next member is queued", SOON, queued).await;
        end(&actor, way, &mut notes).await;
        assert_eq!(dropped_before_the_next_start(&mut notes).await, ["the actor", "the state"], "{way:?}");
        timeout(SOON, second.shutdown()).await.expect("it hands over");
        drop(first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guard_comes_back_when_the_actor_and_its_state_are_dropped() {
    let keeper = connect(&shared().address()).await;
    let lock = keeper.lock(&unique_path("dropped-first")).expect("a valid path");
    let mut guard = lock.acquire().await.expect("connected");
    for way in WAYS {
        let (sender, mut notes) = mpsc::unbounded_channel();
        let make = move |_| (Owner(Owned("the actor", sender.clone())), sender);
        let run = guard.run(StopPolicy::default(), make, |_| None);
        let actor = started(&mut notes).await;
        end(&actor, way, &mut notes).await;
        let ended = timeout(SOON, run.ended()).await.expect("it ends").expect("it was started");
        assert_eq!(dropped_so_far(&mut notes), ["the actor", "the state"], "{way:?}");
        let stopped = matches!(way, Way::Stops | Way::StopsAndPanics);
        let reason = if stopped { EndReason::Finished } else { EndReason::Failed };
        assert_eq!(ended.reason, reason, "{way:?}");
        guard = ended.guard;
    }
}

struct Patient;

/// What the actor owns: its drop waits for the end of a child.
struct Waits(ActorCell, mpsc::UnboundedSender<ActorStatus>);

impl Drop for Waits {
    fn drop(&mut self) {
        let ended = || self.0.get_status() == ActorStatus::Stopped;
        let _ = (0..1000).find(|_| {
            ended() || {
                thread::sleep(Duration::from_millis(10));
                false
            }
        });
        let _ = self.1.send(self.0.get_status());
    }
}

#[ractor::actor(message = Way, state = Waits, arguments = (Arguments, mpsc::UnboundedSender<ActorStatus>))]
impl Patient {
    async fn pre_start(
        &self,
        myself: ActorRef<Way>,
        (child, seen): (Arguments, mpsc::UnboundedSender<ActorStatus>),
    ) -> Result<Waits, ActorProcessingErr> {
        let (child, _) = Actor::spawn_linked(None, Probe, child, myself.get_cell()).await?;
        child.stop(None);
        while child.get_status() < ActorStatus::Stopping {
            yield_now().await;
        }
        let _ = seen.send(ActorStatus::Running);
        Ok(Waits(child.get_cell(), seen))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_child_that_does_not_stop_is_killed_while_the_state_of_its_parent_is_dropped() {
    let keeper = connect(&shared().address()).await;
    let lock = keeper.lock(&unique_path("slow-drop")).expect("a valid path");
    let guard = lock.acquire().await.expect("connected");
    let (sender, mut seen) = mpsc::unbounded_channel();
    let make = |lease| {
        let behavior = Behavior { slow_to_stop: FOREVER, ..Behavior::default() };
        (Patient, ((lease, behavior, mpsc::unbounded_channel().0), sender))
    };
    let run = guard.run(StopPolicy::new().grace(Duration::from_millis(200)), make, |_| None);
    assert_eq!(timeout(SOON, seen.recv()).await.expect("it starts"), Some(ActorStatus::Running));
    run.stop();
    timeout(SOON, run.ended()).await.expect("it ends").expect("it was started");
    assert_eq!(seen.recv().await, Some(ActorStatus::Stopped), "the child, when the drop was over");
}

/// A keeper that is closed while its actor does not stop, and another one that waits for the lock.
async fn hasty_and_patient() -> (Keeper, Keeper) {
    let hasty = Keeper::options().session_timeout(LONG).close_timeout(Duration::from_millis(100));
    (hasty.connect(&shared().address()).await.expect("connected"), connect(&shared().address()).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_next_member_starts_when_an_actor_that_a_close_has_killed_is_dropped() {
    let (one, other) = hasty_and_patient().await;
    let (path, (sender, mut notes)) = (unique_path("hasty-close"), mpsc::unbounded_channel());
    let _first = join(&one, &path, &sender);
    let actor = started(&mut notes).await;
    let _second = join(&other, &path, &sender);
    let lock = other.lock(&path).expect("a valid path");
    let queued = async || lock.contenders().await.is_ok_and(|contenders| contenders.len() == 2);
    eventually("the next member is queued", SOON, queued).await;
    actor.cast(Way::IsKilledWhileItStops).expect("it runs");
    assert!(matches!(next(&mut notes).await, Note::Stopping));
    timeout(SOON, one.close()).await.expect("it does not wait for the actor to stop");
    assert_eq!(dropped_before_the_next_start(&mut notes).await, ["the actor", "the state"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_next_holder_has_the_lock_when_an_actor_that_a_close_has_killed_is_dropped() {
    let (one, other) = hasty_and_patient().await;
    let (path, (sender, mut notes)) = (unique_path("hasty-close"), mpsc::unbounded_channel());
    let guard = one.lock(&path).expect("a valid path").acquire().await.expect("connected");
    let make = move |_| (Owner(Owned("the actor", sender.clone())), sender);
    let _run = guard.run(StopPolicy::default(), make, |_| None);
    let actor = started(&mut notes).await;
    let waiting = tokio::spawn(other.lock(&path).expect("a valid path").acquire());
    actor.cast(Way::IsKilledWhileItStops).expect("it runs");
    assert!(matches!(next(&mut notes).await, Note::Stopping));
    timeout(SOON, one.close()).await.expect("it does not wait for the actor to stop");
    let _guard = timeout(SOON, waiting).await.expect("it is released").expect("no panic").expect("connected");
    assert_eq!(dropped_so_far(&mut notes), ["the actor", "the state"]);
}
