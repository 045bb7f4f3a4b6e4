//! ZooKeeper itself refuses a writer whose lock has ended. No token is needed: each transaction checks that the lock's
//! node still exists.
//!
//! `cargo run -p lockkeeper-fencing --bin fenced_znode -- <ZooKeeper's address>`

use lockkeeper::LockGuard;
use lockkeeper::error::FencedError;
use lockkeeper_fencing::Error;
use zookeeper_client::{Acls, Client, CreateMode};

const LOCK: &str = "/lockkeeper/fenced-znode";
const DATA: &str = "/lockkeeper/fenced-data";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        ["first", zookeeper] => lockkeeper_fencing::first(zookeeper, LOCK, set).await,
        [zookeeper] => {
            let client = Client::connect(zookeeper).await?;
            client.mkdir(DATA, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?;
            lockkeeper_fencing::tell(zookeeper, LOCK, &["first", zookeeper], set).await?;
            let (data, _) = client.get_data(DATA).await?;
            println!("node: {}", String::from_utf8_lossy(&data));
            Ok(())
        }
        _ => Err("the only argument is ZooKeeper's address, such as 127.0.0.1:2181".into()),
    }
}

/// Returns whether the data was written. The server writes only if the lock's node exists at that moment.
async fn set(guard: &LockGuard, data: &str) -> Result<bool, Error> {
    match guard.fenced().set(DATA, data).commit().await {
        Ok(()) => Ok(true),
        Err(FencedError::Lost) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
