//! Missing permissions.

use lockkeeper::LeaseState;
use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::error::{AcquireError, AcquireTimeoutError, QueryError, TryAcquireError};
use tokio::time::timeout;
use zookeeper_client as zk;

use crate::common::kinds::Kind;
use crate::common::{LONG, SOON, connect, refusal, shared, unique_path};

promises! {
    every_kind:
        a_missing_permission_is_reported_with_the_path,
        a_keeper_without_delete_permission_can_close;
    queued:
        an_unreadable_contender_ahead_is_reported_with_its_path;
}

async fn a_missing_permission_is_reported_with_the_path(kind: Kind) {
    let (keeper, path) = (connect().await, unique_path("no-right"));
    let owner = owner().await;
    let private = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
    owner.create(&path, b"", &private).await.expect("a new node");
    owner.create(&format!("{path}/made"), b"", &private).await.expect("a new node");
    for path in [format!("{path}/missing"), format!("{path}/made"), path] {
        let lock = (kind.open)(&keeper, &path).expect("a valid path");
        let expect_no_auth = |error: &AcquireError| {
            let AcquireError::NoAuth { path: of } = error else { panic!("{error:?}") };
            assert!((kind.paths)(&path).contains(of) && error.to_string().contains(of), "{error}");
        };
        expect_no_auth(&refusal(timeout(SOON, lock.acquire()).await.expect("an answer")));
        match refusal(timeout(SOON, lock.try_acquire()).await.expect("an answer")) {
            TryAcquireError::Failed(error) => expect_no_auth(&error),
            other => panic!("{other:?}"),
        }
        match refusal(lock.acquire_timeout(LONG).await) {
            AcquireTimeoutError::Failed(error) => expect_no_auth(&error),
            other => panic!("{other:?}"),
        }
    }
}

async fn an_unreadable_contender_ahead_is_reported_with_its_path(kind: Kind) {
    let (site, keeper) = (kind.site("unreadable").await, connect().await);
    site.make().await;
    let private = zk::CreateMode::EphemeralSequential.with_acls(zk::Acls::creator_all());
    let prefix = format!("{}/0123456789abcdef0123456789abcdef__lock__", site.path);
    let owner = owner().await;
    let (_, number) = owner.create(&prefix, b"", &private).await.expect("a new node");
    let ahead = format!("{prefix}{number}");
    let acquire = timeout(SOON, site.lock(&keeper).acquire()).await.expect("an answer");
    assert_eq!(refusal(acquire), AcquireError::NoAuth { path: ahead.clone() });
    assert_eq!(site.lock(&keeper).listed().await, Err(QueryError::NoAuth { path: ahead.clone() }));
    site.until_nodes(1).await;
    assert_eq!(site.nodes().await, [ahead]);
}

async fn a_keeper_without_delete_permission_can_close(kind: Kind) {
    let (site, keeper) = (kind.site("no-delete").await, connect().await);
    site.make().await;
    let acl = [Acl::new(Permission::READ | Permission::CREATE, AuthId::anyone())];
    for path in (kind.paths)(&site.path) {
        site.server.0.set_acl(&path, &acl, None).await.expect("another access list");
    }
    let guard = site.lock(&keeper).acquire().await.expect("the lock is free");
    timeout(SOON, keeper.close()).await.expect("the session can be closed");
    assert_eq!(guard.state(), LeaseState::Lost);
    site.until_only(&[]).await;
}

async fn owner() -> zk::Client {
    let owner = zk::Client::connector().with_auth("digest", b"owner:secret");
    owner.connect(&shared().address()).await.expect("should connect")
}
