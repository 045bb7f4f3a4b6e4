//! The lower bounds: only the requests that a lock needs, without a lock around them.

use zookeeper_client::{Acls, Client, CreateMode};

use crate::{Result, SESSION_TIMEOUT};

/// Connects with a new session.
pub async fn connect(address: &str) -> Result<Client> {
    Ok(Client::connector().with_session_timeout(SESSION_TIMEOUT).connect(address).await?)
}

pub async fn make_directory(client: &Client, path: &str) -> Result<()> {
    Ok(client.mkdir(path, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?)
}

/// A create, then a delete.
pub async fn pair(client: &Client, directory: &str) -> Result<()> {
    let node = create(client, directory).await?;
    Ok(client.delete(&node, None).await?)
}

/// Returns the path of the new node.
pub async fn create(client: &Client, directory: &str) -> Result<String> {
    let prefix = prefix(directory);
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let (_, sequence) = client.create(&prefix, b"", &options).await?;
    Ok(format!("{prefix}{sequence}"))
}

/// A create and a list, both sent before either is awaited, then a delete.
pub async fn triple(client: &Client, directory: &str) -> Result<()> {
    let node = enter(client, directory).await?;
    Ok(client.delete(&node, None).await?)
}

/// Like `triple`, without waiting for the delete.
pub async fn triple_unconfirmed(client: &Client, directory: &str) -> Result<()> {
    let node = enter(client, directory).await?;
    // The call itself sends the request.
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

/// A name prefix as long as that of a contender.
fn prefix(directory: &str) -> String {
    format!("{directory}/00000000000000000000000000000000__lock__")
}
