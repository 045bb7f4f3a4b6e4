//! What the library concludes from a read must hold. A leader that was deposed answers reads, and a `sync`, alone.

#[path = "common/servers/mod.rs"]
mod common;

use std::time::Duration;

use common::TestServer;
use lockkeeper_actors::zookeeper::{Connect, Connected, Connector};
use zookeeper_client::{Acls, Client, CreateMode};

const SOON: Duration = Duration::from_secs(20);

/// Every write has a number of its own, also one that changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_brought_up_to_date_by_a_write() {
    // Nobody else writes there.
    let server = tokio::task::block_in_place(TestServer::start);
    let observer = Client::connect(&server.address()).await.expect("connected");
    let Connected { client, .. } =
        Connector::new(&server.address(), SOON).connect().await.expect("connected");
    let mark = async |path| {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        observer.create(path, b"", &options).await.expect("created").0.czxid
    };
    let before = mark("/before").await;
    client.sync("/").await.expect("written");
    assert_eq!(mark("/after").await, before + 2);
}
