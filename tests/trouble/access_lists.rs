//! Missing permissions.

use futures::StreamExt;
use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::error::{AcquireError, AcquireTimeoutError, QueryError, TryAcquireError};
use lockkeeper::session::SessionEvent;
use lockkeeper::{KeeperOptions, LeaseState};
use tokio::time::timeout;
use zookeeper_client as zk;

use crate::common::events::session_event;
use crate::common::kinds::Kind;
use crate::common::logs::Logs;
use crate::common::{
    LONG, SOON, TestServer, client_as, connect, eventually, options, proxied, refusal, shared, tls,
    unique_path,
};

promises! {
    every_kind:
        another_user_can_neither_enter_nor_break_nor_read_a_lock,
        a_missing_permission_is_reported_with_the_path,
        a_keeper_without_delete_permission_can_close;
    queued:
        an_unreadable_contender_ahead_is_reported_with_its_path;
}

async fn another_user_can_neither_enter_nor_break_nor_read_a_lock(kind: Kind) {
    let (site, proxy) = (kind.site("private").await, proxied().await);
    let (owner, other) = (private("owner").identifier("the owner's host"), private("other"));
    let second = owner.clone().connect(&shared().address()).await.expect("should connect");
    let owner = owner.connect(&proxy.address()).await.expect("should connect");
    let other = other.connect(&shared().address()).await.expect("should connect");
    let guard = site.lock(&owner).acquire().await.expect("the lock is free");

    let paths = site.directories();
    let is_denied = |path: &String| paths.contains(path);
    let lock = site.rival(&other);
    let refused = refusal(timeout(SOON, lock.acquire()).await.expect("an answer"));
    assert!(matches!(&refused, AcquireError::NoAuth { path } if is_denied(path)), "{refused:?}");
    let refused = lock.listed().await;
    assert!(matches!(&refused, Err(QueryError::NoAuth { path }) if is_denied(path)), "{refused:?}");
    // Whatever a client of that user sends.
    let client = client_as("other:secret").await;
    let open = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
    for directory in site.directories() {
        assert_eq!(client.list_children(&directory).await, Err(zk::Error::NoAuth), "{directory}");
        let node = format!("{directory}/0123456789abcdef0123456789abcdef__lock__0000000000");
        assert_eq!(client.create(&node, b"", &open).await.map(drop), Err(zk::Error::NoAuth), "{node}");
        let opened = client.set_acl(&directory, &[Acl::new(Permission::ALL, AuthId::anyone())], None).await;
        assert_eq!(opened.map(drop), Err(zk::Error::NoAuth), "{directory}");
    }
    for node in guard.nodes() {
        assert_eq!(client.delete(&node, None).await, Err(zk::Error::NoAuth), "{node}");
        assert_eq!(client.get_data(&node).await.map(drop), Err(zk::Error::NoAuth), "{node}");
        assert_eq!(client.set_data(&node, b"", None).await.map(drop), Err(zk::Error::NoAuth), "{node}");
    }

    // The owner's keepers go on, also over a new connection.
    let mut events = owner.events();
    assert_eq!(events.next().await, Some(SessionEvent::Connected { epoch: 1 }));
    proxy.cut();
    session_event(&mut events, SessionEvent::Resumed { epoch: 1 }).await;
    let (next, released) = tokio::join!(site.rival(&second).acquire_timeout(SOON), guard.release());
    assert_eq!(released, Ok(()));
    let next = next.expect("the lock is free");
    assert_eq!(next.state(), LeaseState::Held);
    assert_eq!(next.release().await, Ok(()));
}

/// The options of a keeper whose nodes are for this user alone.
fn private(user: &str) -> KeeperOptions {
    let acl = vec![Acl::new(Permission::ALL, AuthId::authed())];
    options().auth("digest", format!("{user}:secret").as_bytes()).acl(acl)
}

async fn a_missing_permission_is_reported_with_the_path(kind: Kind) {
    let (keeper, parent) = (connect().await, unique_path("no-right"));
    let made = format!("{parent}/made");
    let owner = client_as("owner:secret").await;
    let private = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
    for path in [&parent, &made] {
        owner.create(path, b"", &private).await.expect("a new node");
    }
    // Of the second one, a kind may need more than one directory, and the others are missing.
    for (path, denied) in [
        (format!("{parent}/missing"), vec![&parent]),
        (format!("{parent}/missing/below"), vec![&parent]),
        (made.clone(), vec![&made, &parent]),
        (parent.clone(), vec![&parent]),
    ] {
        let lock = (kind.open)(&keeper, &path).expect("a valid path");
        let expect_no_auth = |error: &AcquireError| {
            let AcquireError::NoAuth { path: of } = error else { panic!("{error:?}") };
            assert!(denied.contains(&of) && error.to_string().contains(of), "{path}: {error}");
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

#[tokio::test]
async fn the_node_that_denies_a_semaphore_is_named() {
    let (keeper, owner) = (connect().await, client_as("owner:secret").await);
    let (nothing, enter) = (Permission::NONE, Permission::READ | Permission::CREATE);
    // What others may do in the queue and at the path. The transaction that takes a permit deletes the node in the queue.
    for (queue, pool, denied) in [
        (nothing, Permission::ALL, "-__lock__"),
        (enter, Permission::ALL, "-__lock__"),
        (enter | Permission::DELETE, nothing, ""),
    ] {
        let path = unique_path("no-right-pool");
        // Nodes have their lists from the start. After a change of a list, a leader goes by the old one until it has
        // applied the change itself, which a client of a follower cannot see.
        for (node, rights) in [(format!("{path}-__lock__"), queue), (path.clone(), pool)] {
            let acl = [Acl::new(rights, AuthId::anyone()), Acl::new(Permission::ADMIN, AuthId::authed())];
            let mode = zk::CreateMode::Persistent.with_acls(zk::Acls::from(&acl[..]));
            owner.create(&node, b"1", &mode).await.expect("a new node");
        }
        let semaphore = keeper.semaphore(&path, 1).expect("a valid path");
        let error = refusal(timeout(SOON, semaphore.acquire()).await.expect("an answer"));
        assert_eq!(error, AcquireError::NoAuth { path: format!("{path}{denied}") });
    }
}

#[tokio::test]
async fn a_node_above_the_chroot_that_denies_a_lock_is_named() {
    let chroot = unique_path("no-right-root");
    let private = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
    client_as("owner:secret").await.create(&chroot, b"", &private).await.expect("a new node");
    for (below, denied) in [("", "/"), ("/missing", &*chroot)] {
        let address = format!("{}{chroot}{below}", shared().address());
        let keeper = options().connect(&address).await.expect("should connect");
        let lock = keeper.lock("/locks/ledger").expect("a valid path");
        let error = refusal(timeout(SOON, lock.acquire()).await.expect("an answer"));
        assert_eq!(error, AcquireError::NoAuth { path: denied.to_owned() });
        let resized = keeper.semaphore("/pool", 1).expect("a valid path").resize(2).await;
        assert_eq!(resized, Err(QueryError::NoAuth { path: denied.to_owned() }.into()));
    }
}

async fn an_unreadable_contender_ahead_is_reported_with_its_path(kind: Kind) {
    let (site, keeper) = (kind.site("unreadable").await, connect().await);
    site.make().await;
    let private = zk::CreateMode::EphemeralSequential.with_acls(zk::Acls::creator_all());
    let prefix = format!("{}/0123456789abcdef0123456789abcdef__lock__", site.path);
    let owner = client_as("owner:secret").await;
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

/// Every heartbeat reads the access list of this node.
#[tokio::test]
async fn an_access_list_that_denies_heartbeats_is_logged() {
    let (log, server) = (Logs::start(), TestServer::start());
    let options = options().session_timeout(LONG);
    let keeper = options.clone().connect(&server.address()).await.expect("should connect");
    let owner = zk::Client::connector().with_auth("digest", b"owner:secret");
    let owner = tls::connect(owner, &server.address()).await;
    let set = async |who| {
        let acl = [Acl::new(Permission::ALL, who)];
        owner.set_acl("/zookeeper", &acl, None).await.expect("another access list");
    };
    set(AuthId::authed()).await;
    let warnings = || log.with(&["WARN", "/zookeeper", "leases cannot be proven"]).len();
    eventually("it is logged", SOON, async || warnings() == 1).await;
    let late = options.connect(&server.address()).await.expect("should connect");
    eventually("it is logged for a new session", SOON, async || warnings() == 2).await;

    set(AuthId::anyone()).await;
    for keeper in [&keeper, &late] {
        eventually("leases are proven again", SOON, async || keeper.health().await.is_ready()).await;
    }
    assert_eq!(keeper.state().get().epoch, 1, "the session was not lost");
}
