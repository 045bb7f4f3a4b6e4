//! ZooKeeper itself refuses a writer whose lock has ended. No token is needed: each write checks that the lock's node
//! still exists.
//!
//! `cargo run --example fenced_znode` starts a ZooKeeper server in this process; an address after `--` selects a real
//! one.

use std::time::Duration;

use lockkeeper::{Keeper, LockGuard};
use lockkeeper_embedded::{Embedded, Proxy};
use zookeeper_client::{Acls, Client, CreateMode, Error, MultiWriteError};

const PATH: &str = "/lockkeeper/fenced-znode";
const DATA: &str = "/lockkeeper/fenced-data";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let embedded = Embedded::start().await?;
    let address = std::env::args().nth(1).unwrap_or_else(|| embedded.address());
    let client = Client::connect(&address).await?;
    client.mkdir(DATA, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?;
    let cable = Proxy::start(&address).await?;
    let (slow, next) = (connect(&cable.address()).await?, connect(&address).await?);

    let old = slow.lock(PATH)?.acquire().await?;
    println!("the first holder writes: {}", set(&client, &old, b"from the first").await?);
    cable.black_hole(true); // a partition; an equally long pause of the process has the same effect
    let new = next.lock(PATH)?.acquire().await?;
    println!("the next holder writes: {}", set(&client, &new, b"from the next").await?);
    println!("the first holder, late, writes: {}", set(&client, &old, b"from the first, late").await?);

    let (data, _) = client.get_data(DATA).await?;
    println!("node: {}", String::from_utf8_lossy(&data));
    new.release().await?;
    Ok(())
}

/// Returns whether the data was written. The server writes only if the lock's node exists at that moment.
async fn set(client: &Client, guard: &LockGuard, data: &[u8]) -> Result<bool, MultiWriteError> {
    let mut both = client.new_multi_writer();
    both.add_check_version(guard.node(), -1)?;
    both.add_set_data(DATA, data, None)?;
    match both.commit().await {
        Ok(_) => Ok(true),
        Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn connect(address: &str) -> Result<Keeper, lockkeeper::error::ConnectError> {
    Keeper::options().session_timeout(Duration::from_secs(2)).connect(address).await
}
