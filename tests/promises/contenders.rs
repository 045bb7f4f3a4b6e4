//! Listing contenders, and removing them by hand.

use lockkeeper::error::{RemoveContenderError, TryAcquireError};
use lockkeeper::session::SessionEvent;
use lockkeeper::{LeaseState, LockOptions, Mode};
use zookeeper_client as zk;

use crate::common::events::{acquired, listen, queued, session_event};
use crate::common::kinds::Kind;
use crate::common::{
    SHORT, SOON, caught_up, connect, connect_through, eventually, options, proxied, refusal, shared,
};

promises! {
    every_kind:
        listing_contenders_creates_nothing;
    in_order:
        contenders_are_listed_in_queue_order_with_their_details;
    queued:
        foreign_contenders_count_if_a_pattern_matches_their_names,
        a_lock_that_outlives_sessions_survives_a_lost_session,
        a_crashed_holder_of_a_lock_that_outlives_sessions_is_found_and_removed_by_hand;
}

async fn listing_contenders_creates_nothing(kind: Kind) {
    let (site, keeper) = (kind.site("absent").await, connect().await);
    let lock = (kind.open)(&keeper, &format!("{}/below", site.path)).expect("a valid path");
    assert_eq!(lock.listed().await, Ok(0));
    for directory in site.directories() {
        assert_eq!(site.server.stat(&directory).await, None);
    }
}

async fn contenders_are_listed_in_queue_order_with_their_details(kind: Kind) {
    let site = kind.site("contenders").await;
    let (server, path) = (&site.server, &site.path);
    let named = options().identifier("keeper").connect(&shared().address()).await.expect("should connect");
    let guard = site.lock(&named).acquire().await.expect("the lock is free");
    let own = LockOptions::new().identifier("lock");
    let (_, mut second) = listen(&site.lock_with(&named, own));
    queued(&mut second).await;
    let (unnamed, nameless) = (connect().await, options().identifier("").connect(&shared().address()).await);
    let (_, mut third) = listen(&site.lock(&unnamed));
    queued(&mut third).await;
    let (_, mut fourth) = listen(&site.lock(&nameless.expect("should connect")));
    queued(&mut fourth).await;
    let foreign = server.contender(path, b"caf\xe9").await;
    server.create(&format!("{path}/notes"), b"unrelated", zk::CreateMode::Persistent).await;

    caught_up(&named).await;
    let contenders = site.queue(&named).contenders().await.expect("an answer");
    let identifiers: Vec<_> = contenders.iter().map(|c| c.identifier.as_str()).collect();
    let (user, process) = identifiers[2].split_once('@').expect("user@host:pid");
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!((user.is_empty(), process), (false, &*format!("{host}:{}", std::process::id())));
    assert_eq!(identifiers, ["keeper", "lock", identifiers[2], "", "caf\u{fffd}"]);
    assert!(contenders.iter().map(|c| c.position).eq(0..5));
    // Locks and write locks have the same name pattern on the server.
    assert!(contenders.iter().all(|c| c.mode == Mode::Lock));
    assert!(contenders.is_sorted_by(|before, after| before.token < after.token));
    assert_eq!(format!("{path}/{}", contenders[0].name), guard.node());
    assert_eq!(contenders[0].token, guard.token());
    assert_eq!(contenders[0].session, contenders[1].session);
    assert_eq!(format!("{path}/{}", contenders[4].name), foreign);
    assert_eq!(contenders[4].session, Some(server.0.session_id().0));
    let node = server.stat(&foreign).await.expect("the node");
    assert_eq!(contenders[4].token.as_u64(), node.czxid as u64);
}

async fn foreign_contenders_count_if_a_pattern_matches_their_names(kind: Kind) {
    let keeper = connect().await;
    for (name, pattern) in [
        ("x-mutex-", "-mutex-".to_owned()),
        ("x-7-", "^x-(?:[a-z]+|[0-9])-".to_owned()),
        ("x(.*)", regex::escape("(.*)")),
    ] {
        let site = kind.site("patterns").await;
        site.make().await;
        let foreign = format!("{}/{name}", site.path);
        let foreign = site.server.create(&foreign, b"it", zk::CreateMode::EphemeralSequential).await;
        assert!(foreign.ends_with(&format!("{name}0000000000")), "{foreign}");

        let plain = site.lock(&keeper);
        plain
            .try_acquire()
            .await
            .expect("without the pattern it is no contender")
            .release()
            .await
            .expect("released");
        assert_eq!(plain.listed().await, Ok(0));

        let options = LockOptions::new().extra_lock_patterns(["no such thing", &pattern]);
        let lock = site.lock_with(&keeper, options.clone());
        assert!(matches!(refusal(lock.try_acquire().await), TryAcquireError::Contended { .. }));
        let queue = keeper.lock_with(&site.path, options).expect("a valid pattern");
        assert_eq!(queue.contenders().await.expect("an answer")[0].identifier, "it");
        let (_, mut events) = listen(&lock);
        assert_eq!(queued(&mut events).await, 1);
        site.server.delete(&foreign).await;
        drop(acquired(&mut events).await);
    }
}

async fn a_lock_that_outlives_sessions_survives_a_lost_session(kind: Kind) {
    let (site, proxy) = (kind.site("outlives").await, proxied().await);
    let keeper = connect_through(&proxy, SHORT).await;
    let mut session = keeper.events();
    let lock = site.lock_with(&keeper, LockOptions::new().ephemeral(false));
    let guard = lock.acquire().await.expect("the lock is free");
    assert_eq!(guard.valid_until(), None);

    proxy.black_hole(true);
    eventually("it is suspended", SOON, async || guard.state() == LeaseState::Suspended).await;
    session_event(&mut session, SessionEvent::Lost { epoch: 1 }).await;
    assert_eq!(guard.state(), LeaseState::Suspended);
    proxy.black_hole(false);
    eventually("it is held again", SOON, async || guard.state() == LeaseState::Held).await;
    assert_eq!(site.nodes().await, guard.nodes());
    assert_eq!(guard.release().await, Ok(()));
    assert_eq!(site.nodes().await, [""; 0]);
}

async fn a_crashed_holder_of_a_lock_that_outlives_sessions_is_found_and_removed_by_hand(kind: Kind) {
    let (site, keeper) = (kind.site("crashed").await, connect().await);
    let (address, path) = (shared().address(), site.path.clone());
    let crash = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let keeper = options().identifier("crashed").session_timeout(SHORT);
            let keeper = keeper.connect(&address).await.expect("should connect");
            let options = LockOptions::new().ephemeral(false);
            let lock = (kind.rival)(&keeper, &path, options).expect("options");
            lock.acquire().await.expect("the lock is free")
        })
    });
    let guard = crash.join().expect("a guard whose runtime is gone");
    assert_eq!(guard.state(), LeaseState::Lost);

    let queue = site.queue(&keeper);
    let (_, mut waiter) = listen(&site.lock(&keeper));
    assert_eq!(queued(&mut waiter).await, 1);
    let contenders = queue.contenders().await.expect("an answer");
    let (crashed, waiting) = (&contenders[0], &contenders[1]);
    assert_eq!((crashed.identifier.as_str(), crashed.session), ("crashed", None));
    assert_eq!(crashed.token, guard.token());

    let session = waiting.session.expect("a session");
    let refused = RemoveContenderError::Ephemeral { name: waiting.name.clone(), session };
    assert_eq!(queue.remove_contender(waiting).await, Err(refused));
    assert!(waiter.try_recv().is_err(), "nothing has changed");
    assert_eq!(queue.remove_contender(crashed).await, Ok(()));
    drop(acquired(&mut waiter).await);
    assert_eq!(queue.remove_contender(crashed).await, Ok(()), "a missing contender counts as removed");
}
