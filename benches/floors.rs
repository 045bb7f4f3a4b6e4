//! The requests that a lock cannot do without, sent with nothing around them.

use zookeeper_client::{Acls, Client, CreateMode};

use crate::{Bench, Result, SESSION_TIMEOUT};

/// A session of its own.
pub async fn connect(bench: &Bench) -> Result<Client> {
    Ok(Client::connector().with_session_timeout(SESSION_TIMEOUT).connect(&bench.address).await?)
}

pub async fn make_directory(client: &Client, path: &str) -> Result<()> {
    Ok(client.mkdir(path, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?)
}

/// Create, then delete.
pub async fn pair(client: &Client, directory: &str) -> Result<()> {
    let prefix = prefix(directory);
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let (_, sequence) = client.create(&prefix, b"", &options).await?;
    Ok(client.delete(&format!("{prefix}{sequence}"), None).await?)
}

/// Create and list, both sent before either is awaited, then delete.
pub async fn triple(client: &Client, directory: &str) -> Result<()> {
    let node = enter(client, directory).await?;
    Ok(client.delete(&node, None).await?)
}

/// The same without waiting for the delete.
pub async fn triple_unconfirmed(client: &Client, directory: &str) -> Result<()> {
    let node = enter(client, directory).await?;
    // Sent by the call.
    drop(client.delete(&node, None));
    Ok(())
}

async fn enter(client: &Client, directory: &str) -> Result<String> {
    let prefix = prefix(directory);
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let created = client.create(&prefix, b"", &options);
    let listed = client.list_children(directory);
    let (_, sequence) = created.await?;
    listed.await?;
    Ok(format!("{prefix}{sequence}"))
}

/// As long as a contender's.
fn prefix(directory: &str) -> String {
    format!("{directory}/00000000000000000000000000000000__lock__")
}
