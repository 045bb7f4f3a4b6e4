//! Six workers, in sessions of their own, and a semaphore that lets two of them work at a time, wherever they run.
//!
//! `cargo run --example workers` starts a ZooKeeper inside the process; with an address behind `--` it uses a real
//! one.

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

/// Tells how many worked while this one did.
async fn worker(address: String, number: usize, working: Arc<AtomicUsize>) -> Result<usize> {
    let keeper = Keeper::options().identifier(format!("worker-{number}")).connect(&address).await?;
    let permits = keeper.semaphore("/pools/reports", AT_A_TIME)?;
    let permit = permits.acquire().await?;
    let seen = working.fetch_add(1, Ordering::SeqCst) + 1;
    println!("  worker-{number} works");
    // Cut short when the lease ends first: then others may be at work.
    permit.protect(tokio::time::sleep(Duration::from_millis(50))).await?;
    working.fetch_sub(1, Ordering::SeqCst);
    permit.release().await?;
    keeper.close().await;
    Ok(seen)
}
