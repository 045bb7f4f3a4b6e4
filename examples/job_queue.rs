//! Two clerks in separate sessions get the same jobs, and each job is done once. The clerk that holds the job's lock
//! looks for the job's marker, does the job, and creates the marker. The other one finds the marker, and skips the job.
//!
//! `cargo run --example job_queue` starts a ZooKeeper server in this process; an address after `--` selects a real one.

use std::sync::Arc;
use std::time::Duration;

use lockkeeper::error::FencedError;
use lockkeeper::{Keeper, LockGuard};
use lockkeeper_embedded::Embedded;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use uuid::Uuid;
use zookeeper_client::Client;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let embedded = Embedded::start().await?;
    let address = std::env::args().nth(1).unwrap_or_else(|| embedded.address());
    let jobs: Arc<[Job]> = jobs().into();
    println!("ZooKeeper at {address}; two clerks, the same {} jobs for both:", jobs.len());
    let mut clerks = JoinSet::new();
    for name in ["ada", "ben"] {
        clerks.spawn(clerk(name, address.clone(), jobs.clone()));
    }
    while let Some(finished) = clerks.join_next().await {
        finished??;
    }
    for job in jobs.iter() {
        let times = *job.times.lock().await;
        if times != 1 {
            return Err(format!("{} was done {times} times", job.name).into());
        }
    }
    println!("each job was done once, by one clerk");
    Ok(())
}

async fn clerk(name: &str, address: String, jobs: Arc<[Job]>) -> Result<()> {
    let keeper = Keeper::options().identifier(name).connect(&address).await?;
    let mut zookeeper = Client::connect(&address).await?; // reads the markers
    for job in jobs.iter() {
        let lock = keeper.lock(&format!("{}/lock", job.path))?;
        loop {
            let guard = lock.acquire().await?;
            // Unlike the keeper, this client does not replace a session that has ended.
            if zookeeper.state().is_terminated() {
                zookeeper = Client::connect(&address).await?;
            }
            let outcome = match guard.protect(once(job, &guard, &zookeeper)).await {
                Ok(outcome) => outcome?,
                Err(_lost) => Outcome::Uncertain,
            };
            println!("  {name}, {} under token {:#x}: {outcome:?}", job.name, guard.token());
            if outcome != Outcome::Uncertain {
                break;
            }
        }
    }
    keeper.close().await;
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Done,
    FoundDone,
    /// The lock was lost, or an answer about the marker. The next attempt finds out whether the job is done.
    Uncertain,
}

/// Does a job, unless its marker exists.
async fn once(job: &Job, guard: &LockGuard, zookeeper: &Client) -> Result<Outcome> {
    let marker = format!("{}/done", job.path);
    // The former holder may have created the marker at a server that is ahead of the one that is asked here.
    let found = match catch_up(zookeeper, guard.node()).await {
        Ok(()) => zookeeper.check_stat(&marker).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(None) => {}
        Ok(Some(_)) => return Ok(Outcome::FoundDone),
        Err(error @ zookeeper_client::Error::NoAuth) => return Err(error.into()),
        // The connection broke, the session has ended, or the lock was lost.
        Err(_) => return Ok(Outcome::Uncertain),
    }
    job.work().await?;
    match guard.fenced().create(marker, guard.token().to_string()).commit().await {
        Ok(()) => Ok(Outcome::Done),
        Err(FencedError::Lost | FencedError::Unknown { .. }) => Ok(Outcome::Uncertain),
        Err(error) => Err(error.into()),
    }
}

/// Brings the client's server up to date, with a write that changes nothing: it checks that this node exists. A `sync`
/// does not suffice, because a leader answers it alone, also one that was deposed.
async fn catch_up(zookeeper: &Client, node: &str) -> std::result::Result<(), zookeeper_client::Error> {
    let mut write = zookeeper.new_multi_writer();
    write.add_check_version(node, -1)?; // any version
    write.commit().await?;
    Ok(())
}

struct Job {
    name: &'static str,
    /// The lock's directory and the marker are below this node.
    path: String,
    /// How often the work was completed. It is locked while the work is in progress.
    times: Mutex<u32>,
}

impl Job {
    /// Simulates the work. Fails if another clerk does the same job at this moment.
    async fn work(&self) -> Result<()> {
        let mut times = self.times.try_lock().map_err(|_| format!("two clerks do {} at once", self.name))?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        *times += 1;
        Ok(())
    }
}

fn jobs() -> Vec<Job> {
    let run = Uuid::new_v4(); // so that a server has no markers of an earlier run
    let names = ["invoices", "reminders", "payroll", "archive"];
    names.map(|name| Job { name, path: format!("/jobs/{run}/{name}"), times: Mutex::new(0) }).into()
}
