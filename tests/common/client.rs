//! Clients beside the library, for what a keeper does not do: they read, write and delete nodes.

use zookeeper_client as zk;

use super::{shared, tls};

/// A client of the shared server.
pub async fn client() -> zk::Client {
    tls::connect(zk::Client::connector(), &shared().address()).await
}

/// The same, logged in as a user: `name:password`.
pub async fn client_as(user: &str) -> zk::Client {
    let connector = zk::Client::connector().with_auth("digest", user.as_bytes());
    tls::connect(connector, &shared().address()).await
}

/// Returns when the server of this client knows every write that was confirmed before. A write comes after all of them,
/// also one that only checks a node. A `sync` does not: a leader answers those of its own clients at once, maybe before it
/// has applied what a follower has confirmed.
pub async fn catch_up(client: &zk::Client) {
    let mut write = client.new_multi_writer();
    write.add_check_version("/zookeeper", -1).expect("a valid path");
    write.commit().await.expect("should connect");
}
