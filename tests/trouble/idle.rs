//! Sessions that hold nothing when their connection breaks.

use futures::StreamExt;
use lockkeeper::Keeper;
use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::session::SessionEvent;
use zookeeper_client as zk;

use crate::common::site::Observer;
use crate::common::{BRISK, connect_through, proxied, run, unique_path};

#[test]
fn a_session_survives_without_the_directory_of_its_last_lock() {
    run(async {
        let (server, proxy, path) = (Observer::new().await, proxied().await, unique_path("gone"));
        let keeper = connect_through(&proxy, BRISK).await;
        used(&keeper, &format!("{path}/lock")).await;
        for directory in [&format!("{path}/lock"), &path] {
            server.0.delete(directory, None).await.expect("it is empty");
        }
        let mut events = keeper.events();
        proxy.cut();
        survives(&mut events).await;
    });
}

#[test]
fn a_session_survives_after_a_lock_was_denied() {
    run(async {
        let (server, proxy, path) = (Observer::new().await, proxied().await, unique_path("denied"));
        let keeper = connect_through(&proxy, BRISK).await;
        used(&keeper, &format!("{path}/lock")).await;
        let nobody = [Acl::new(Permission::READ, AuthId::anyone())];
        let directory = unique_path("others");
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::new(&nobody));
        server.0.create(&directory, &[], &options).await.expect("created");
        keeper.lock(&directory).expect("a path").acquire().await.expect_err("it is denied");
        let mut events = keeper.events();
        proxy.cut();
        survives(&mut events).await;
    });
}

async fn used(keeper: &Keeper, path: &str) {
    let guard = keeper.lock(path).expect("a path").acquire().await.expect("it is free");
    guard.release().await.expect("it is held");
}

/// The first session goes on after a suspension.
async fn survives(events: &mut lockkeeper::session::Events) {
    loop {
        match events.next().await.expect("the keeper is open") {
            SessionEvent::Resumed { epoch: 1 } => return,
            SessionEvent::Connected { epoch: 1 } | SessionEvent::Suspended { epoch: 1 } => {}
            event => panic!("{event:?}"),
        }
    }
}
