//! The supervising actors of a running actor are killed: no successor may start while it still runs, and no request may
//! hang.

use std::time::Duration;

use lockkeeper::run::{EndReason, Ended, Run, StopPolicy};
use lockkeeper::singleton::{Candidate, CandidateState, SingletonOptions};
use lockkeeper::{Keeper, LeaseState};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::common::{LONG, eventually, shared, unique_path};
use crate::member::{Behavior, FOREVER, Note, Order, Probe, SOON, connect};

/// What the actor is doing when its supervising actor is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Starting,
    Running,
    Stopping,
}

const STAGES: [Stage; 3] = [Stage::Starting, Stage::Running, Stage::Stopping];

/// Which actor is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    /// The application's supervisor, the parent of the keeper.
    Supervisor,
    /// The keeper's actor that supervises the run.
    Run,
}

/// What runs the actor.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Under {
    Candidate,
    Guard,
}

struct Root;

#[ractor::actor(message = (), state = (), arguments = ())]
impl Root {
    async fn pre_start(&self, _: ActorRef<()>, _: ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        _: SupervisionEvent,
        _: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// Runs the actor until it is dropped.
enum Running {
    Candidate(Candidate<Order>),
    Guard(Run),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_successor_starts_while_an_actor_whose_supervisor_was_killed_still_runs() {
    for under in [Under::Candidate, Under::Guard] {
        for stage in STAGES {
            kill(Victim::Supervisor, stage, under).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_successor_starts_while_an_actor_whose_run_was_killed_still_runs() {
    for under in [Under::Candidate, Under::Guard] {
        for stage in STAGES {
            kill(Victim::Run, stage, under).await;
        }
    }
}

async fn kill(victim: Victim, stage: Stage, under: Under) {
    let case = format!("{victim:?}, {stage:?}, {under:?}");
    let path = unique_path("killed-above");
    let (root, _) = Actor::spawn(None, Root, ()).await.expect("it starts");
    let keeper = Keeper::options().session_timeout(LONG);
    let keeper = keeper.connect_linked(&shared().address(), &root.get_cell()).await.expect("connected");
    let slow = |at| if stage == at { FOREVER } else { Duration::ZERO };
    let behavior = Behavior {
        slow_to_start: slow(Stage::Starting),
        slow_to_stop: slow(Stage::Stopping),
        slow_to_die: Duration::from_millis(500),
        ..Behavior::default()
    };
    let above = root.get_children()[0].get_children();
    let (sender, mut notes) = mpsc::unbounded_channel();
    let running = start(&keeper, &path, behavior, sender.clone(), under).await;
    let mut next = async || timeout(SOON, notes.recv()).await.expect(&case).expect("a sender is kept");

    assert!(matches!(next().await, Note::Busy), "{case}: it starts");
    if stage != Stage::Starting {
        let Note::Started(actor, _) = next().await else { panic!("{case}: not started") };
        match stage {
            Stage::Running => actor.cast(Order::Hang).expect("it runs"),
            Stage::Starting | Stage::Stopping => actor.stop(None),
        }
        assert!(matches!(next().await, Note::Busy), "{case}: the method has begun");
    }

    let other = connect(&shared().address()).await;
    let options = SingletonOptions::new().grace(LONG);
    let singleton = other.singleton_with(&path, options).expect("a valid path");
    let usual = (Behavior::default(), sender.clone());
    let successor = singleton
        .run(move |lease| (Probe, (lease, usual.0, usual.1.clone())), |event| Some(Order::Told(event)));
    let lock = other.lock(&path).expect("a valid path");
    let queued = async || lock.contenders().await.is_ok_and(|contenders| contenders.len() == 2);
    eventually("the successor is queued", SOON, queued).await;

    match victim {
        Victim::Supervisor => root.kill(),
        Victim::Run => run_actor(&root.get_children()[0], &above, under).kill(),
    }
    let after = next().await;
    assert!(matches!(after, Note::Cut(_)), "{case}: {after:?} before the first actor had ended");
    let running = match running {
        Running::Guard(run) => {
            let ended = timeout(SOON, run.ended()).await.expect("it reports its end");
            let Ended { reason, failure, guard, .. } = ended.expect("it was started");
            let state = match victim {
                Victim::Supervisor => LeaseState::Lost,
                Victim::Run => LeaseState::Held,
            };
            assert_eq!((reason, guard.state()), (EndReason::Failed, state), "{case}: {failure:?}");
            None
        }
        Running::Candidate(candidate) => Some(candidate),
    };
    assert!(matches!(next().await, Note::Busy), "{case}: the successor starts");
    assert!(matches!(next().await, Note::Started(..)), "{case}: the successor starts");
    if let Some(mut first) = running {
        match victim {
            Victim::Supervisor => {
                let over = async { while !matches!(first.changed().await, CandidateState::Over) {} };
                timeout(SOON, over).await.expect("it ends with its keeper");
            }
            Victim::Run => eventually("the first one queues again", SOON, queued).await,
        }
    }
    timeout(SOON, successor.shutdown()).await.expect("it hands over");
    root.kill();
}

/// The keeper is asked to supervise the run, and dies before it has read the request.
#[tokio::test]
async fn a_run_started_while_its_keeper_dies_ends_at_once() {
    for under in [Under::Candidate, Under::Guard] {
        let path = unique_path("dying");
        let (root, _) = Actor::spawn(None, Root, ()).await.expect("it starts");
        let keeper = Keeper::options().session_timeout(LONG);
        let keeper = keeper.connect_linked(&shared().address(), &root.get_cell()).await.expect("connected");
        let (sender, _notes) = mpsc::unbounded_channel();
        let behavior = Behavior { slow_to_start: FOREVER, ..Behavior::default() };
        let running = start(&keeper, &path, behavior, sender, under).await;
        root.kill();
        match running {
            Running::Candidate(mut candidate) => {
                let over = async { while !matches!(candidate.changed().await, CandidateState::Over) {} };
                timeout(SOON, over).await.expect("the candidate must end");
            }
            Running::Guard(run) => {
                let ended = timeout(SOON, run.ended()).await.expect("its lock is lost");
                assert!(ended.is_ok_and(|ended| ended.guard.state() == LeaseState::Lost));
            }
        }
    }
}

async fn start(
    keeper: &Keeper,
    path: &str,
    behavior: Behavior,
    notes: mpsc::UnboundedSender<Note>,
    under: Under,
) -> Running {
    match under {
        Under::Candidate => {
            let options = SingletonOptions::new().grace(LONG);
            let singleton = keeper.singleton_with(path, options).expect("a valid path");
            let make = move |lease| (Probe, (lease, behavior, notes.clone()));
            Running::Candidate(singleton.run(make, |_| None))
        }
        Under::Guard => {
            let guard = keeper.lock(path).expect("a valid path").acquire().await.expect("free");
            let policy = StopPolicy::new().grace(LONG);
            Running::Guard(guard.run(policy, move |lease| (Probe, (lease, behavior, notes)), |_| None))
        }
    }
}

/// The direct supervisor of the running actor: a child of the keeper, or of its candidate.
fn run_actor(keeper: &ActorCell, before: &[ActorCell], under: Under) -> ActorCell {
    let new = |actor: &ActorCell| before.iter().all(|other| other.get_id() != actor.get_id());
    let added = keeper.get_children().into_iter().find(new).expect("it is linked to the keeper");
    match under {
        Under::Candidate => added.get_children()[0].clone(),
        Under::Guard => added,
    }
}
