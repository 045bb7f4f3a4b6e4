//! An SQL database refuses a writer whose lock has ended.
//!
//! `cargo run --example fenced_row` starts a ZooKeeper server in this process; an address after `--` selects a real
//! one.

use std::time::Duration;

use lockkeeper::{FencingToken, Keeper};
use lockkeeper_embedded::{Embedded, Proxy};
use rusqlite::Connection;

const PATH: &str = "/lockkeeper/fenced-row";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let database = Connection::open_in_memory()?;
    database.execute_batch(
        "CREATE TABLE account (name TEXT PRIMARY KEY, balance INTEGER NOT NULL, token INTEGER NOT NULL);
         INSERT INTO account VALUES ('ledger', 100, 0);",
    )?;

    let embedded = Embedded::start().await?;
    let address = std::env::args().nth(1).unwrap_or_else(|| embedded.address());
    let cable = Proxy::start(&address).await?;
    let (slow, next) = (connect(&cable.address()).await?, connect(&address).await?);

    let old = slow.lock(PATH)?.acquire().await?;
    println!("the first holder adds 10: {}", deposit(&database, old.token(), 10)?);
    cable.black_hole(true); // a partition; an equally long pause of the process has the same effect
    let new = next.lock(PATH)?.acquire().await?;
    println!("the next holder adds 20: {}", deposit(&database, new.token(), 20)?);
    println!("the first holder, late, adds 1000: {}", deposit(&database, old.token(), 1000)?);

    let balance: i64 = database.query_row("SELECT balance FROM account", [], |row| row.get(0))?;
    println!("balance: {balance}");
    new.release().await?;
    Ok(())
}

/// Returns whether the row was changed. The check and the write are one statement, so they are atomic.
fn deposit(database: &Connection, token: FencingToken, amount: i64) -> rusqlite::Result<bool> {
    let token = i64::try_from(token.as_u64()).expect("ZooKeeper's ids have 63 bits");
    let rows = database.execute(
        "UPDATE account SET balance = balance + ?1, token = ?2 WHERE name = 'ledger' AND token <= ?2",
        (amount, token),
    )?;
    Ok(rows == 1)
}

async fn connect(address: &str) -> Result<Keeper, lockkeeper::error::ConnectError> {
    Keeper::options().session_timeout(Duration::from_secs(2)).connect(address).await
}
