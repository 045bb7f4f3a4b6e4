//! A member of the cluster and the actor that it runs.

use std::time::Duration;

use lockkeeper::run::{LeaseEvent, LeaseView};
use lockkeeper::singleton::{Candidate, Singleton, SingletonOptions};
use lockkeeper::{Keeper, LeaseState};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::common::{LONG, shared};

pub const SOON: Duration = Duration::from_secs(30);

/// The timeout of sessions that a test lets expire. It is long enough that its fractions, such as the heartbeat
/// interval, are still long for a busy machine.
pub const LOST: Duration = Duration::from_secs(6);

/// Longer than any test runs.
pub const FOREVER: Duration = Duration::from_secs(3600);

/// The behavior of an actor under test.
#[derive(Clone, Copy, Default)]
pub struct Behavior {
    pub fails_to_start: bool,
    pub slow_to_start: Duration,
    pub slow_to_stop: Duration,
    /// How long it blocks its thread when one of its methods is cancelled.
    pub slow_to_die: Duration,
}

pub enum Order {
    Told(LeaseEvent),
    Panic,
    End,
    /// Stop with this reason.
    EndBecause(&'static str),
    /// Never return from the handler.
    Hang,
    /// Start a child whose handler never returns.
    Child,
    /// Start a sibling, under the same supervisor, that stops at once.
    Sibling,
}

#[cfg(feature = "cluster")]
impl ractor::Message for Order {}

/// What the actor reports.
#[derive(Debug)]
pub enum Note {
    /// A method that may take long has begun: `pre_start`, a handler that hangs, or `post_stop`.
    Busy,
    /// `pre_start` has completed.
    Started(ActorRef<Order>, LeaseView),
    Told(LeaseEvent),
    /// `post_stop` has completed; the state of the lease at that time.
    Stopped(LeaseState),
    /// A method was cancelled; the state of the lease at that time.
    Cut(LeaseState),
}

pub struct Probe;

pub type Arguments = (LeaseView, Behavior, mpsc::UnboundedSender<Note>);

/// Reports when a method is cancelled.
struct Busy(Option<Arguments>);

impl Busy {
    fn begin(arguments: &Arguments) -> Busy {
        let _ = arguments.2.send(Note::Busy);
        Busy(Some(arguments.clone()))
    }

    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Some((lease, behavior, notes)) = self.0.take() else { return };
        std::thread::sleep(behavior.slow_to_die);
        let _ = notes.send(Note::Cut(lease.state()));
    }
}

#[ractor::actor(message = Order, state = Arguments, arguments = Arguments)]
impl Probe {
    async fn pre_start(
        &self,
        myself: ActorRef<Order>,
        arguments: Arguments,
    ) -> Result<Arguments, ActorProcessingErr> {
        let busy = Busy::begin(&arguments);
        sleep(arguments.1.slow_to_start).await;
        busy.end();
        if arguments.1.fails_to_start {
            return Err("on purpose".into());
        }
        let _ = arguments.2.send(Note::Started(myself, arguments.0.clone()));
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: ActorRef<Order>,
        order: Order,
        arguments: &mut Arguments,
    ) -> Result<(), ActorProcessingErr> {
        let (lease, behavior, notes) = &*arguments;
        match order {
            Order::Told(event) => drop(notes.send(Note::Told(event))),
            Order::Panic => panic!("on purpose"),
            Order::End => myself.stop(None),
            Order::EndBecause(reason) => myself.stop(Some(reason.into())),
            Order::Hang => {
                let _busy = Busy::begin(arguments);
                std::future::pending::<()>().await;
            }
            Order::Child => {
                let (sender, mut child_notes) = mpsc::unbounded_channel();
                let arguments = (lease.clone(), *behavior, sender);
                let (child, _) = Actor::spawn_linked(None, Probe, arguments, myself.get_cell()).await?;
                child.cast(Order::Hang)?;
                let notes = notes.clone();
                tokio::spawn(async move {
                    while let Some(note) = child_notes.recv().await {
                        let _ = notes.send(note);
                    }
                });
            }
            Order::Sibling => {
                let supervisor = myself.try_get_supervisor().ok_or("it runs without a supervisor")?;
                let (sender, _) = mpsc::unbounded_channel();
                let arguments = (lease.clone(), *behavior, sender);
                let (sibling, _) = Actor::spawn_linked(None, Probe, arguments, supervisor).await?;
                sibling.stop_and_wait(None, Some(SOON)).await?;
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Order>,
        arguments: &mut Arguments,
    ) -> Result<(), ActorProcessingErr> {
        let busy = Busy::begin(arguments);
        sleep(arguments.1.slow_to_stop).await;
        busy.end();
        let (lease, _, notes) = arguments;
        let _ = notes.send(Note::Stopped(lease.state()));
        Ok(())
    }
}

pub struct Member {
    pub keeper: Keeper,
    pub singleton: Singleton,
    pub candidate: Option<Candidate<Order>>,
    pub notes: mpsc::UnboundedReceiver<Note>,
}

impl Member {
    /// Joins with a session that does not expire.
    pub async fn join(path: &str, behavior: Behavior) -> Member {
        Member::join_with(&shared().address(), path, behavior, SingletonOptions::new()).await
    }

    pub async fn join_with(
        address: &str,
        path: &str,
        behavior: Behavior,
        options: SingletonOptions,
    ) -> Member {
        Member::new(connect(address).await, path, behavior, options)
    }

    pub fn new(keeper: Keeper, path: &str, behavior: Behavior, options: SingletonOptions) -> Member {
        let options = options.backoff(Duration::from_millis(20), Duration::from_millis(200));
        let singleton = keeper.singleton_with(path, options).expect("a valid path");
        let (sender, notes) = mpsc::unbounded_channel();
        let candidate = singleton
            .run(move |lease| (Probe, (lease, behavior, sender.clone())), |event| Some(Order::Told(event)));
        Member { keeper, singleton, candidate: Some(candidate), notes }
    }

    /// The next report, other than `Busy`.
    pub async fn note(&mut self) -> Note {
        note(&mut self.notes).await
    }

    pub async fn started(&mut self) -> (ActorRef<Order>, LeaseView) {
        started(&mut self.notes).await
    }

    /// Waits until it is stopped because of a suspension that it was told of. Returns the state of the lease then. A busy
    /// machine may suspend it for a moment before.
    pub async fn suspended_and_stopped(&mut self) -> LeaseState {
        let mut suspended = false;
        loop {
            match self.note().await {
                Note::Told(LeaseEvent::Suspended) if !suspended => suspended = true,
                Note::Told(LeaseEvent::Resumed) if suspended => suspended = false,
                Note::Stopped(state) if suspended => return state,
                other => panic!("not suspended and stopped, but {other:?}"),
            }
        }
    }

    /// Waits until a method that takes long has begun.
    pub async fn busy(&mut self) {
        match any_note(&mut self.notes).await {
            Note::Busy => {}
            other => panic!("not busy, but {other:?}"),
        }
    }

    pub fn candidate(&mut self) -> &mut Candidate<Order> {
        self.candidate.as_mut().expect("a candidate")
    }

    pub async fn shutdown(&mut self) {
        let candidate = self.candidate.take().expect("a candidate");
        timeout(SOON, candidate.shutdown()).await.expect("it hands over");
    }

    pub async fn contenders(&self) -> usize {
        let lock = self.keeper.lock(self.singleton.path()).expect("a valid path");
        lock.contenders().await.expect("connected").len()
    }
}

/// The next report, including `Busy`.
pub async fn any_note(notes: &mut mpsc::UnboundedReceiver<Note>) -> Note {
    timeout(SOON, notes.recv()).await.expect("a note in time").expect("a sender is kept")
}

/// The next report, other than `Busy`.
pub async fn note(notes: &mut mpsc::UnboundedReceiver<Note>) -> Note {
    loop {
        match any_note(notes).await {
            Note::Busy => {}
            note => return note,
        }
    }
}

pub async fn started(notes: &mut mpsc::UnboundedReceiver<Note>) -> (ActorRef<Order>, LeaseView) {
    match note(notes).await {
        Note::Started(actor, lease) => (actor, lease),
        other => panic!("not started, but {other:?}"),
    }
}

pub async fn connect(address: &str) -> Keeper {
    connect_for(address, LONG).await
}

pub async fn connect_for(address: &str, session: Duration) -> Keeper {
    Keeper::options().session_timeout(session).connect(address).await.expect("connected")
}
