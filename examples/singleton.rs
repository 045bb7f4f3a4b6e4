//! Three processes, one scheduler. The process that runs it is killed, and another takes over. That one is asked to
//! leave, and the third takes over at once.
//!
//! `cargo run --example singleton` starts a ZooKeeper server in the first process; an address after `--` selects a real
//! one.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use lockkeeper::Keeper;
use lockkeeper::inspect::Contender;
use lockkeeper::run::{LeaseEvent, LeaseView};
use lockkeeper::singleton::{Leaders, SingletonOptions};
use lockkeeper_embedded::Embedded;
use ractor::{ActorProcessingErr, ActorRef};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PATH: &str = "/singletons/scheduler";
/// How long each leader runs before the example removes it.
const WORK: Duration = Duration::from_millis(500);
const SESSION_TIMEOUT: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["member", address, name] => member(address, name).await,
        [address] => cluster(address).await,
        _ => {
            // A short tick allows short sessions.
            let embedded = Embedded::options().tick(Duration::from_millis(200)).start().await?;
            cluster(&embedded.address()).await
        }
    }
}

/// Runs one member process.
async fn member(address: &str, name: &str) -> Result<()> {
    let keeper = Keeper::options().session_timeout(SESSION_TIMEOUT).connect(address).await?;
    let options = SingletonOptions::new().advertise(name);
    let scheduler = keeper.singleton_with(PATH, options)?;
    let name = name.to_owned();
    let candidate = scheduler.run(move |lease| (Scheduler, (name.clone(), lease)), Some);

    // Run until the parent closes our standard input, then shut down cleanly.
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    candidate.shutdown().await;
    keeper.close().await;
    Ok(())
}

/// The actor that runs only once in the cluster.
struct Scheduler;

#[ractor::actor(message = LeaseEvent, state = (String, LeaseView), arguments = (String, LeaseView))]
impl Scheduler {
    async fn pre_start(
        &self,
        _: ActorRef<LeaseEvent>,
        (name, lease): (String, LeaseView),
    ) -> std::result::Result<(String, LeaseView), ActorProcessingErr> {
        println!("    {name}: the scheduler runs here, under token {:#x}", lease.token());
        Ok((name, lease))
    }

    /// The session is suspended or resumed.
    async fn handle(
        &self,
        _: ActorRef<LeaseEvent>,
        event: LeaseEvent,
        (name, _): &mut (String, LeaseView),
    ) -> std::result::Result<(), ActorProcessingErr> {
        println!("    {name}: {event:?}");
        Ok(())
    }

    /// This runs before another member can start the scheduler.
    async fn post_stop(
        &self,
        _: ActorRef<LeaseEvent>,
        (name, lease): &mut (String, LeaseView),
    ) -> std::result::Result<(), ActorProcessingErr> {
        println!("    {name}: the scheduler stops here, the lock is {:?}", lease.state());
        Ok(())
    }
}

/// Starts the three processes and observes them.
async fn cluster(address: &str) -> Result<()> {
    println!("ZooKeeper at {address}, session timeout {SESSION_TIMEOUT:?}");
    let observer = Keeper::connect(address).await?;
    let mut leaders = observer.singleton(PATH)?.leaders();
    let mut members = Vec::new();
    for name in ["one", "two", "three"] {
        members.push((name, start(address, name)?));
    }
    let first = next(&mut leaders).await?;
    println!("{} leads", first.identifier);
    tokio::time::sleep(WORK).await;

    println!("kill -9 {}", first.identifier);
    let killed = Instant::now();
    process(&mut members, &first)?.kill()?;
    let second = next(&mut leaders).await?;
    println!("{} leads, {:.1} s later", second.identifier, killed.elapsed().as_secs_f64());
    tokio::time::sleep(WORK).await;

    println!("{} is asked to leave", second.identifier);
    let asked = Instant::now();
    drop(process(&mut members, &second)?.stdin.take());
    let third = next(&mut leaders).await?;
    println!("{} leads, {} ms later", third.identifier, asked.elapsed().as_millis());
    tokio::time::sleep(WORK).await;
    println!("tokens grow: {}", first.token < second.token && second.token < third.token);

    for (_, process) in &mut members {
        drop(process.stdin.take());
        process.wait()?;
    }
    observer.close().await;
    Ok(())
}

fn start(address: &str, name: &str) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    Ok(command.args(["member", address, name]).stdin(Stdio::piped()).spawn()?)
}

fn process<'a>(members: &'a mut [(&str, Child)], leader: &Contender) -> Result<&'a mut Child> {
    let found = members.iter_mut().find(|(name, _)| *name == leader.identifier);
    Ok(&mut found.ok_or("somebody else leads")?.1)
}

/// Waits for the next leader. There may be none for a while.
async fn next(leaders: &mut Leaders) -> Result<Contender> {
    while let Some(leader) = leaders.next().await {
        if let Some(leader) = leader? {
            return Ok(leader);
        }
    }
    Err("the keeper is closed".into())
}
