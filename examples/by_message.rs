//! An application of ractor actors that uses locks by messages only. Its supervisor connects the keeper as its own
//! child, and gives the workers a reference to the lock. When the keeper dies, because the servers are down for longer
//! than `give_up_after`, the supervisor connects again until it succeeds, and the workers get a new reference.
//!
//! `cargo run --example by_message` starts a ZooKeeper server in this process; an address after `--` selects a real one.

use std::time::Duration;

use lockkeeper::error::{AcquireError, ConnectError, Refused, ReleaseError};
use lockkeeper::messages::{LockEvent, LockMessage, Ticket, Wait};
use lockkeeper::{Keeper, Lock, LockGuard};
use lockkeeper_embedded::{Embedded, Proxy};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

type Result<T> = std::result::Result<T, ActorProcessingErr>;

const WORKERS: [&str; 3] = ["ada", "ben", "eve"];
const JOBS_EACH: u32 = 3;
/// The servers go down when this many jobs are done.
const DOWN_AFTER: u32 = 4;

/// The messages of the supervisor.
enum Message {
    Connect,
    Connected(std::result::Result<Keeper, ConnectError>),
    JobDone,
}

struct Supervisor;

struct State {
    servers: Proxy,
    workers: Vec<ActorRef<Work>>,
    /// The lock's actor ends with the last clone of its handle.
    connected: Option<(Keeper, Lock)>,
    done: u32,
}

#[ractor::actor(message = Message, state = State, arguments = Proxy)]
impl Supervisor {
    async fn pre_start(&self, myself: ActorRef<Message>, servers: Proxy) -> Result<State> {
        let mut workers = Vec::new();
        for name in WORKERS {
            let supervisor = myself.get_cell();
            workers.push(Actor::spawn_linked(None, Worker(name), myself.clone(), supervisor).await?.0);
        }
        myself.cast(Message::Connect)?;
        Ok(State { servers, workers, connected: None, done: 0 })
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, state: &mut State) -> Result<()> {
        match message {
            Message::Connect => {
                let address = state.servers.address();
                // A task waits for the servers, not this handler.
                tokio::spawn(async move {
                    let options = Keeper::options().session_timeout(Duration::from_secs(1));
                    let options = options.give_up_after(Duration::from_millis(200));
                    let connected = options.connect_linked(&address, &myself.get_cell()).await;
                    // If the supervisor has ended, this drops the keeper.
                    let _ = myself.cast(Message::Connected(connected));
                });
            }
            Message::Connected(Err(error)) if error.is_retryable() => {
                println!("no keeper yet: {error}");
                myself.send_after(Duration::from_secs(1), || Message::Connect);
            }
            Message::Connected(Err(error)) => return Err(error.into()),
            Message::Connected(Ok(keeper)) => {
                let ledger = keeper.lock("/by-message/ledger")?;
                println!("the keeper is connected");
                for worker in &state.workers {
                    worker.cast(Work::Ledger(ledger.actor()))?;
                }
                state.connected = Some((keeper, ledger));
            }
            Message::JobDone => {
                state.done += 1;
                if state.done == DOWN_AFTER {
                    println!("the servers are down");
                    state.servers.refuse(true);
                    state.servers.cut();
                }
                if state.done == JOBS_EACH * WORKERS.len() as u32 {
                    if let Some((keeper, _)) = state.connected.take() {
                        keeper.close().await;
                    }
                    println!("all {} jobs are done", state.done);
                    myself.stop(None);
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<()> {
        let SupervisionEvent::ActorFailed(child, error) = event else { return Ok(()) };
        // If a worker has failed, the application fails.
        if state.workers.iter().any(|worker| worker.get_id() == child.get_id()) {
            return Err(error);
        }
        println!("the keeper has died: {error}");
        state.connected = None;
        state.servers.refuse(false);
        Ok(myself.cast(Message::Connect)?)
    }
}

/// The messages of a worker.
enum Work {
    /// The reference to the lock, or a new one.
    Ledger(ActorRef<LockMessage>),
    Event(LockEvent<LockGuard>),
    /// The time to ask again, if this is still the latest request.
    AskAgain(Ticket),
    /// The work under this ticket is finished.
    Finished(Ticket),
    Released(std::result::Result<(), ReleaseError>),
}

// These two conversions make an `ActorRef<Work>` a reference to which the lock can send its events.
impl From<LockEvent<LockGuard>> for Work {
    fn from(event: LockEvent<LockGuard>) -> Work {
        Work::Event(event)
    }
}

impl TryFrom<Work> for LockEvent<LockGuard> {
    type Error = Work;

    fn try_from(work: Work) -> std::result::Result<LockEvent<LockGuard>, Work> {
        match work {
            Work::Event(event) => Ok(event),
            other => Err(other),
        }
    }
}

struct Worker(&'static str);

struct Job {
    supervisor: ActorRef<Message>,
    ledger: Option<ActorRef<LockMessage>>,
    /// The latest request. Events of earlier ones are ignored.
    ticket: Ticket,
    guard: Option<LockGuard>,
    left: u32,
}

#[ractor::actor(message = Work, state = Job, arguments = ActorRef<Message>)]
impl Worker {
    async fn pre_start(&self, _: ActorRef<Work>, supervisor: ActorRef<Message>) -> Result<Job> {
        Ok(Job { supervisor, ledger: None, ticket: Ticket::new(), guard: None, left: JOBS_EACH })
    }

    async fn handle(&self, myself: ActorRef<Work>, message: Work, job: &mut Job) -> Result<()> {
        let name = self.0;
        match message {
            Work::Ledger(ledger) => {
                job.ledger = Some(ledger);
                job.ask(&myself);
            }
            Work::Event(event) => self.event(&myself, event, job)?,
            Work::AskAgain(ticket) if ticket == job.ticket => job.ask(&myself),
            Work::Finished(ticket) if ticket == job.ticket => {
                // The answer arrives as a message, too.
                let release = |reply| LockMessage::Release(ticket, reply);
                if let Some(ledger) = &job.ledger {
                    let _ = ledger.call_and_forward(release, &myself, Work::Released, None);
                }
            }
            Work::Released(Ok(())) => {
                println!("  {name} is done");
                (job.guard, job.left) = (None, job.left - 1);
                job.supervisor.cast(Message::JobDone)?;
                job.ask(&myself);
            }
            // `LockEvent::Lost` follows an unconfirmed release.
            Work::AskAgain(_) | Work::Finished(_) | Work::Released(Err(_)) => {}
        }
        Ok(())
    }
}

impl Worker {
    fn event(&self, myself: &ActorRef<Work>, event: LockEvent<LockGuard>, job: &mut Job) -> Result<()> {
        let name = self.0;
        match event {
            LockEvent::Acquired { ticket, guard } if ticket == job.ticket => {
                println!("  {name} works under token {:#x}", guard.token());
                job.guard = Some(guard);
                // This stands for the work.
                myself.send_after(Duration::from_millis(50), move || Work::Finished(ticket));
            }
            // Eve does not wait behind others: she cancels, and asks again later.
            LockEvent::Enqueued { ticket, ahead: 1.. } if ticket == job.ticket && name == "eve" => {
                job.send(LockMessage::Cancel(ticket));
            }
            LockEvent::Refused(ticket, Refused::Cancelled) if ticket == job.ticket => {
                println!("  {name} has cancelled");
                myself.send_after(Duration::from_millis(200), move || Work::AskAgain(ticket));
            }
            LockEvent::Refused(ticket, Refused::Failed(AcquireError::Closed)) if ticket == job.ticket => {
                println!("  {name} waits for a new keeper");
            }
            LockEvent::Refused(ticket, refused) if ticket == job.ticket => {
                return Err(format!("{name} is refused: {refused:?}").into());
            }
            LockEvent::Lost(ticket) if ticket == job.ticket => {
                println!("  {name} has lost the lock, and begins again");
                job.ask(myself);
            }
            // A guard of an earlier request is dropped here, which releases it.
            _ => {}
        }
        Ok(())
    }
}

impl Job {
    fn ask(&mut self, myself: &ActorRef<Work>) {
        if self.left == 0 {
            return;
        }
        (self.ticket, self.guard) = (Ticket::new(), None);
        self.send(LockMessage::AcquireWithEvents(self.ticket, Wait::Forever, myself.get_derived()));
    }

    fn send(&self, message: LockMessage) {
        if let Some(ledger) = &self.ledger {
            // The keeper may have died. Then a new reference follows.
            let _ = ledger.cast(message);
        }
    }
}

#[cfg(feature = "cluster")]
mod cluster {
    impl ractor::Message for super::Message {}
    impl ractor::Message for super::Work {}
}

#[tokio::main]
async fn main() -> Result<()> {
    let embedded = Embedded::start().await?;
    let address = std::env::args().nth(1).unwrap_or_else(|| embedded.address());
    println!("ZooKeeper at {address}; {} workers with {JOBS_EACH} jobs each", WORKERS.len());
    let servers = Proxy::start(address).await?;
    let (_, ended) = Actor::spawn(None, Supervisor, servers).await?;
    Ok(ended.await?)
}
