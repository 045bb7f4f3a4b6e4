//! Six workers in separate sessions, and a semaphore that lets two of them work at a time, whatever process they run
//! in.
//!
//! `cargo run --example workers` starts a ZooKeeper server in this process; an address after `--` selects a real one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockkeeper::Keeper;
use lockkeeper_embedded::Embedded;
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const WORKERS: usize = 6;
const AT_A_TIME: u32 = 2;

#[tokio::main]
async fn main() -> Result<()> {
    let embedded = Embedded::start().await?;
    let address = std::env::args().nth(1).unwrap_or_else(|| embedded.address());
    println!("ZooKeeper at {address}; {WORKERS} workers, {AT_A_TIME} at a time:");
    let working = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for number in 1..=WORKERS {
        workers.spawn(worker(address.clone(), number, working.clone()));
    }
    let mut most = 0;
    while let Some(seen) = workers.join_next().await {
        most = most.max(seen??);
    }
    println!("at most {most} worked at the same time");
    Ok(())
}

/// Returns how many workers were working when this one began.
async fn worker(address: String, number: usize, working: Arc<AtomicUsize>) -> Result<usize> {
    let keeper = Keeper::options().identifier(format!("worker-{number}")).connect(&address).await?;
    let permits = keeper.semaphore("/pools/reports", AT_A_TIME)?;
    let permit = permits.acquire().await?;
    let seen = working.fetch_add(1, Ordering::SeqCst) + 1;
    println!("  worker-{number} works");
    // The sleep simulates work. `protect` ends it early if the lease ends, because then other workers may hold the
    // permit.
    let worked = permit.protect(tokio::time::sleep(Duration::from_millis(50))).await;
    working.fetch_sub(1, Ordering::SeqCst);
    worked?;
    permit.release().await?;
    keeper.close().await;
    Ok(seen)
}
