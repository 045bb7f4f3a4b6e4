//! A member of the cluster, and the actor that it runs.

use std::time::Duration;

use lockkeeper::{Candidate, Keeper, LeaseState, Singleton, SingletonOptions, Term, TermEvent};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::common::{LONG, shared};

pub const SOON: Duration = Duration::from_secs(30);

/// The timeout of sessions that a test loses. Its parts are still long for a busy machine.
pub const LOST: Duration = Duration::from_secs(6);

/// For ever, as far as a test is concerned.
pub const FOREVER: Duration = Duration::from_secs(3600);

/// What an actor under test does.
#[derive(Clone, Copy, Default)]
pub struct Ways {
    pub fails_to_start: bool,
    pub slow_to_start: Duration,
    pub slow_to_stop: Duration,
    /// How long it blocks its thread when a method is cut short.
    pub slow_to_die: Duration,
}

pub enum Order {
    Told(TermEvent),
    Panic,
    End,
    /// Stops, and gives this reason.
    EndBecause(&'static str),
    /// Awaits for ever.
    Hang,
    /// Starts a child that awaits for ever.
    Child,
    /// Starts an actor beside itself, under the same supervisor, that stops at once.
    Sibling,
}

#[cfg(feature = "cluster")]
impl ractor::Message for Order {}

/// What became of it.
#[derive(Debug)]
pub enum Note {
    /// A method that takes long has begun: `pre_start`, a handler that hangs, or `post_stop`.
    Busy,
    /// `pre_start` is over.
    Started(ActorRef<Order>, Term),
    Told(TermEvent),
    /// `post_stop` is over; what the lease said then.
    Stopped(LeaseState),
    /// A method was cut short; what the lease said then.
    Cut(LeaseState),
}

pub struct Probe;

pub type Arguments = (Term, Ways, mpsc::UnboundedSender<Note>);

/// Notes when a method is cut short.
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
        let Some((term, ways, notes)) = self.0.take() else { return };
        std::thread::sleep(ways.slow_to_die);
        let _ = notes.send(Note::Cut(term.state()));
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
            return Err("as it was told to".into());
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
        let (term, ways, notes) = &*arguments;
        match order {
            Order::Told(event) => drop(notes.send(Note::Told(event))),
            Order::Panic => panic!("as it was told to"),
            Order::End => myself.stop(None),
            Order::EndBecause(reason) => myself.stop(Some(reason.into())),
            Order::Hang => {
                let _busy = Busy::begin(arguments);
                std::future::pending::<()>().await;
            }
            Order::Child => {
                let (sender, mut child_notes) = mpsc::unbounded_channel();
                let arguments = (term.clone(), *ways, sender);
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
                let arguments = (term.clone(), *ways, sender);
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
        let (term, _, notes) = arguments;
        let _ = notes.send(Note::Stopped(term.state()));
        Ok(())
    }
}

/// One member of the cluster.
pub struct Member {
    pub keeper: Keeper,
    pub singleton: Singleton,
    pub candidate: Option<Candidate>,
    pub notes: mpsc::UnboundedReceiver<Note>,
}

impl Member {
    /// In a session that is not lost.
    pub async fn join(path: &str, ways: Ways) -> Member {
        Member::join_with(&shared().address(), path, ways, SingletonOptions::new()).await
    }

    pub async fn join_with(address: &str, path: &str, ways: Ways, options: SingletonOptions) -> Member {
        Member::new(connect(address).await, path, ways, options)
    }

    pub fn new(keeper: Keeper, path: &str, ways: Ways, options: SingletonOptions) -> Member {
        let options = options.backoff(Duration::from_millis(20), Duration::from_millis(200));
        let singleton = keeper.singleton_with(path, options).expect("a good path");
        let (sender, notes) = mpsc::unbounded_channel();
        let candidate = singleton
            .run(move |term| (Probe, (term, ways, sender.clone())), |event| Some(Order::Told(event)));
        Member { keeper, singleton, candidate: Some(candidate), notes }
    }

    /// What happens next.
    pub async fn note(&mut self) -> Note {
        note(&mut self.notes).await
    }

    pub async fn started(&mut self) -> (ActorRef<Order>, Term) {
        started(&mut self.notes).await
    }

    /// It has begun what takes long.
    pub async fn busy(&mut self) {
        match anything(&mut self.notes).await {
            Note::Busy => {}
            other => panic!("not busy, but {other:?}"),
        }
    }

    pub fn candidate(&mut self) -> &mut Candidate {
        self.candidate.as_mut().expect("a candidate")
    }

    pub async fn shutdown(&mut self) {
        let candidate = self.candidate.take().expect("a candidate");
        timeout(SOON, candidate.shutdown()).await.expect("it hands over");
    }

    pub async fn contenders(&self) -> usize {
        let lock = self.keeper.lock(self.singleton.path()).expect("a good path");
        lock.contenders().await.expect("connected").len()
    }
}

/// What happens next, busy or not.
pub async fn anything(notes: &mut mpsc::UnboundedReceiver<Note>) -> Note {
    timeout(SOON, notes.recv()).await.expect("a note in time").expect("a sender is kept")
}

/// What happens next.
pub async fn note(notes: &mut mpsc::UnboundedReceiver<Note>) -> Note {
    loop {
        match anything(notes).await {
            Note::Busy => {}
            note => return note,
        }
    }
}

pub async fn started(notes: &mut mpsc::UnboundedReceiver<Note>) -> (ActorRef<Order>, Term) {
    match note(notes).await {
        Note::Started(actor, term) => (actor, term),
        other => panic!("not started, but {other:?}"),
    }
}

pub async fn connect(address: &str) -> Keeper {
    connect_for(address, LONG).await
}

pub async fn connect_for(address: &str, session: Duration) -> Keeper {
    Keeper::options().session_timeout(session).connect(address).await.expect("connected")
}
