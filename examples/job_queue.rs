//! Two clerks in separate sessions process the same jobs, each under the job's lock, so that no job is processed by
//! both at once. The locks arrive as messages: no handler blocks, and a clerk can wait for many locks at a time.
//!
//! `cargo run --example job_queue` starts a ZooKeeper server in this process; an address after `--` selects a real one.

use std::collections::HashMap;
use std::time::Duration;

use lockkeeper::messages::{LockEvent, Ticket};
use lockkeeper::session::SessionEvent;
use lockkeeper::{Keeper, LockGuard};
use lockkeeper_embedded::Embedded;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const JOBS: [&str; 4] = ["invoices", "reminders", "payroll", "archive"];

/// The messages of a clerk.
enum Message {
    Job(&'static str),
    Lock(&'static str, LockEvent<LockGuard>),
    Done(Ticket),
    Session(SessionEvent),
}

#[cfg(feature = "cluster")]
impl ractor::Message for Message {}

struct Clerk;

struct State {
    name: &'static str,
    keeper: Keeper,
    /// The guards of the jobs in progress. Dropping a guard releases its lock, and so does the death of the clerk.
    guards: HashMap<Ticket, LockGuard>,
    finished: mpsc::UnboundedSender<()>,
}

#[ractor::actor(message = Message, state = State, arguments = State)]
impl Clerk {
    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        state: State,
    ) -> std::result::Result<State, ActorProcessingErr> {
        state.keeper.subscribe(&myself, Message::Session);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> std::result::Result<(), ActorProcessingErr> {
        let name = state.name;
        match message {
            Message::Job(job) => {
                let lock = state.keeper.lock(&format!("/jobs/{job}"))?;
                lock.acquire().forward(&myself, move |event| Message::Lock(job, event));
            }
            Message::Lock(job, LockEvent::Acquired { ticket, guard }) => {
                println!("  {name} works on {job} under token {:#x}", guard.token());
                // The work, simulated by the sleep, runs in a separate task, and ends with the lease at the latest.
                let work = guard.view();
                tokio::spawn(async move {
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(50)) => {}
                        () = work.lost() => {}
                    }
                    let _ = myself.cast(Message::Done(ticket));
                });
                state.guards.insert(ticket, guard);
            }
            Message::Lock(job, LockEvent::Released(_)) => {
                println!("  {name} is done with {job}");
                state.finished.send(())?;
            }
            Message::Lock(job, LockEvent::Enqueued { ahead, .. }) if ahead > 0 => {
                println!("  {name} waits for {job}");
            }
            Message::Lock(_, LockEvent::Enqueued { .. }) => {}
            Message::Lock(job, other) => println!("  {name}, about {job}: {other:?}"),
            Message::Done(ticket) => drop(state.guards.remove(&ticket)),
            Message::Session(event) => println!("  {name} is told {event:?}"),
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let embedded = Embedded::start().await?;
    let address = std::env::args().nth(1).unwrap_or_else(|| embedded.address());
    println!("ZooKeeper at {address}; two clerks, the same {} jobs for both:", JOBS.len());
    let (sender, mut finished) = mpsc::unbounded_channel();
    let mut clerks = Vec::new();
    for name in ["ada", "ben"] {
        let keeper = Keeper::options().identifier(name).connect(&address).await?;
        let state = State { name, keeper: keeper.clone(), guards: HashMap::new(), finished: sender.clone() };
        let (clerk, _) = Actor::spawn(None, Clerk, state).await?;
        for job in JOBS {
            clerk.cast(Message::Job(job))?;
        }
        clerks.push((clerk, keeper));
    }
    for _ in 0..2 * JOBS.len() {
        finished.recv().await.ok_or("a clerk has died")?;
    }
    println!("every job was done twice, and never by both at once");
    for (clerk, keeper) in clerks {
        clerk.stop_and_wait(None, None).await?;
        keeper.close().await;
    }
    Ok(())
}
