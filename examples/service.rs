//! A plain Tokio service without actors: two instances of a billing service, of which one bills at a time. It works in
//! rounds, each cancelled if the lease ends; it passes the fencing token to its database; and it shuts down cleanly.
//!
//! `cargo run --example service` starts a ZooKeeper server in this process; an address after `--` selects a real one.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lockkeeper::error::{AcquireError, LostError};
use lockkeeper::{FencingToken, Keeper};
use lockkeeper_embedded::Embedded;
use tokio::sync::watch;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let embedded = Embedded::start().await?;
    let address = std::env::args().nth(1).unwrap_or_else(|| embedded.address());
    println!("ZooKeeper at {address}");
    let database = Arc::new(Database::default());
    let (one, two) = (watch::Sender::new(false), watch::Sender::new(false));
    let first = tokio::spawn(serve(address.clone(), "one", database.clone(), one.subscribe()));
    let second = tokio::spawn(serve(address.clone(), "two", database.clone(), two.subscribe()));

    // This stands for the shutdown signal of a deployment: each instance gets one after it has billed for a while.
    database.rows(10).await;
    one.send_replace(true);
    first.await??;
    database.rows(20).await;
    two.send_replace(true);
    second.await??;
    let (_, written, refused) = *database.row();
    println!("the database accepted {written} writes, and refused {refused}");
    Ok(())
}

/// Runs one instance of the service until it is told to stop.
async fn serve(
    address: String,
    name: &'static str,
    database: Arc<Database>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let keeper =
        Keeper::options().session_timeout(Duration::from_secs(4)).identifier(name).connect(&address).await?;
    let lock = keeper.lock("/services/billing")?;
    while !*stop.borrow() {
        // A stop that comes first drops the future, which leaves the queue.
        let guard = tokio::select! {
            acquired = lock.acquire() => match acquired {
                Ok(guard) => guard,
                Err(AcquireError::Closed) => break,
                Err(error) => return Err(error.into()),
            },
            _ = stop.changed() => break,
        };
        println!("  {name} bills, under token {:#x}", guard.token());
        while !*stop.borrow() {
            match guard.protect(bill(&database, guard.token())).await {
                Ok(()) => {}
                // The other instance may bill by now: queue again.
                Err(LostError) => break,
            }
        }
        // An unconfirmed release is harmless: the lease ends with the session.
        let _ = guard.release().await;
    }
    println!("  {name} leaves");
    keeper.close().await;
    Ok(())
}

async fn bill(database: &Database, token: FencingToken) {
    tokio::time::sleep(Duration::from_millis(20)).await;
    database.write(token);
}

/// Remembers the largest token and refuses smaller ones: those of an instance that was paused past its lease.
#[derive(Default)]
struct Database(Mutex<(u64, u32, u32)>);

impl Database {
    fn write(&self, token: FencingToken) {
        let mut row = self.row();
        match token.as_u64() >= row.0 {
            true => *row = (token.as_u64(), row.1 + 1, row.2),
            false => row.2 += 1,
        }
    }

    /// The largest token, the number of rows written, and the number of writes refused.
    fn row(&self) -> MutexGuard<'_, (u64, u32, u32)> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until there are this many rows.
    async fn rows(&self, rows: u32) {
        while self.row().1 < rows {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
