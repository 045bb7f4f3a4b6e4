//! Options of keepers and locks.

use lockkeeper::LockOptions;
use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::error::{AcquireError, QueryError, TryAcquireError};
use tokio::time::timeout;

use crate::common::client::{catch_up, client_as};
use crate::common::kinds::Kind;
use crate::common::{BRISK, SOON, connect, eventually, options, refusal, shared, unique_path};

promises! {
    every_kind:
        an_access_list_keeps_everybody_else_out,
        a_chroot_is_created_on_demand_and_appears_in_no_path;
    // Not for semaphores: the root stays, because it stores the number of permits.
    queued:
        container_directories_are_removed_once_empty;
}

async fn an_access_list_keeps_everybody_else_out(kind: Kind) {
    let address = shared().address();
    // Not `authed`, which would also name the certificate that clients show over TLS.
    let id = "owner:Vj++wdU3sMAbt+g9TyKj1BT+usI=";
    let acl = || vec![Acl::new(Permission::ALL, AuthId::new("digest", id))];
    let auth = || options().auth("digest", b"owner:secret");
    let owner = client_as("owner:secret").await;
    let listed = auth().acl(acl()).connect(&address).await.expect("should connect");
    let unlisted = auth().connect(&address).await.expect("should connect");
    for (name, owners, options) in
        [("acl-keeper", &listed, LockOptions::new()), ("acl-lock", &unlisted, LockOptions::new().acl(acl()))]
    {
        let site = kind.site(name).await;
        let guard = site.lock_with(owners, options).acquire().await.expect("the lock is free");
        // The ensemble member that the owner is connected to may lag behind.
        catch_up(&owner).await;
        for node in [site.directories(), guard.nodes()].concat() {
            let (list, _) = owner.get_acl(&node).await.expect("an access list");
            let [entry] = &list[..] else { panic!("{list:?}") };
            assert_eq!((entry.scheme(), entry.permission()), ("digest", Permission::ALL));
            assert_eq!(entry.id(), id);
        }
        let stranger = site.lock(&connect().await);
        let paths = site.directories();
        let refused = refusal(stranger.acquire().await);
        assert!(matches!(&refused, AcquireError::NoAuth { path } if paths.contains(path)), "{refused:?}");
        let TryAcquireError::Failed(refused) = refusal(stranger.try_acquire().await) else {
            panic!("a failure")
        };
        assert!(matches!(&refused, AcquireError::NoAuth { path } if paths.contains(path)), "{refused:?}");
        let path = paths[0].clone();
        assert_eq!(stranger.listed().await, Err(QueryError::NoAuth { path }));
        assert_eq!(guard.release().await, Ok(()));
    }
}

async fn a_chroot_is_created_on_demand_and_appears_in_no_path(kind: Kind) {
    let root = unique_path("chroot");
    let inside = "/locks/ledger";
    let site = kind.site_at(&format!("{root}/app{inside}")).await;
    let address = format!("{}{root}/app", shared().address());
    let keeper = options().session_timeout(BRISK).connect(&address).await;
    let lock = (kind.open)(&keeper.expect("should connect"), inside).expect("a valid path");
    assert_eq!(lock.listed().await, Ok(0));
    assert_eq!(site.server.stat(&root).await, None);
    let guard = lock.acquire().await.expect("the lock is free");
    assert_eq!(guard.paths(), (kind.paths)(inside));
    let nodes: Vec<_> = guard.nodes().iter().map(|node| format!("{root}/app{node}")).collect();
    assert_eq!(site.nodes().await, nodes);
    site.server.delete(&nodes[0]).await;
    timeout(SOON, guard.lost()).await.expect("heartbeats check the node inside the chroot");
}

async fn container_directories_are_removed_once_empty(kind: Kind) {
    let (keeper, above) = (connect().await, unique_path("container"));
    let container = kind.site_at(&format!("{above}/below")).await;
    let plain = kind.site("plain").await;
    let guard = plain.lock(&keeper).acquire().await.expect("the lock is free");
    assert_eq!(guard.release().await, Ok(()));
    for _ in 0..2 {
        let options = LockOptions::new().container_directories(true);
        let guard = container.lock_with(&keeper, options).acquire().await.expect("the lock is free");
        assert_eq!(container.nodes().await, guard.nodes());
        assert_eq!(guard.release().await, Ok(()));
        let gone = async || container.server.stat(&above).await.is_none();
        eventually("the container and its parents are gone", SOON, gone).await;
    }
    for directory in plain.directories() {
        assert!(plain.server.stat(&directory).await.is_some());
    }
}
