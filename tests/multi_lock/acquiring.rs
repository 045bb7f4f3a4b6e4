//! Requests on servers without faults: tokens, modes, tries, deadlines, events, and options.

use std::time::{Duration, Instant};

use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::error::{AcquireTimeoutError, InvalidHandle, Refused, TryAcquireError};
use lockkeeper::messages::LockEvent;
use lockkeeper::{LeaseState, LockOptions, Mode};
use tokio::time::timeout;

use super::{LIMIT, all, connect, connect_to, granted, listen, next, nothing_left, one, paths, until_queued};
use crate::common::site::Observer;
use crate::common::{SOON, caught_up, client, eventually, proxied, shared};

#[tokio::test]
async fn all_paths_are_held_under_one_guard_with_a_token_each_and_released_together() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<3>("held"));
    let before = one(&keeper, &paths[1]).acquire().await.expect("free");
    let earlier = before.token();
    before.release().await.expect("released");

    let guard = all(&keeper, &paths).acquire().await.expect("free");
    assert_eq!(guard.state(), LeaseState::Held);
    assert!(guard.valid_until().is_some_and(|end| end > Instant::now()));
    assert!(guard.tokens().map(|(path, _)| path).eq(&paths), "in the order of the request");
    assert!(guard.token(&paths[1]).is_some_and(|token| token > earlier), "tokens of a path grow");
    assert_eq!(guard.token("/another"), None);
    for (path, node) in paths.iter().zip(guard.nodes()) {
        assert!(node.starts_with(path.as_str()), "{node}");
        let seen = one(&other, path);
        assert!(matches!(seen.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
        let [contender] = &seen.contenders().await.expect("connected")[..] else { panic!("one contender") };
        assert_eq!(Some(contender.token), guard.token(path));
    }
    assert_eq!(guard.protect(async { 7 }).await, Ok(7));

    let tokens: Vec<_> = guard.tokens().map(|(path, token)| (path.to_owned(), token)).collect();
    let waiting: Vec<_> = paths.iter().map(|path| tokio::spawn(one(&other, path).acquire())).collect();
    for path in &paths {
        until_queued(&keeper, path, 2).await;
    }
    assert!(waiting.iter().all(|task| !task.is_finished()));
    guard.release().await.expect("released");
    for (task, (_, token)) in waiting.into_iter().zip(tokens) {
        let next = timeout(LIMIT, task).await.expect("in time").expect("no panic").expect("granted");
        assert!(next.token() > token);
        next.release().await.expect("released");
    }
    drop(all(&keeper, &paths).acquire().await.expect("free"));
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn invalid_requests_are_refused_without_asking_the_server() {
    let proxy = proxied().await;
    let keeper = connect_to(&proxy.address(), Duration::from_secs(20)).await;
    proxy.black_hole(true);
    let refusal = |paths: &[&str]| keeper.multi_lock(paths).err();
    assert_eq!(refusal(&[]), Some(InvalidHandle::NoPaths));
    assert_eq!(refusal(&["/a", "/b", "/a"]), Some(InvalidHandle::DuplicatePath { path: "/a".into() }));
    assert!(matches!(refusal(&["/a", "b"]), Some(InvalidHandle::Path(_))));
    let with = |options| keeper.multi_lock_with([("/a", Mode::Read)], options).err();
    assert_eq!(with(LockOptions::new().ephemeral(false)), Some(InvalidHandle::NotEphemeral));
    assert!(matches!(with(LockOptions::new().extra_lock_patterns([""])), Some(InvalidHandle::Pattern(_))));
    let many = (0..40).map(|number| (format!("/{number}"), Mode::Lock));
    let large = LockOptions::new().identifier("x".repeat(32 * 1024));
    assert!(matches!(keeper.multi_lock_with(many, large).err(), Some(InvalidHandle::TooLarge { .. })));
}

#[tokio::test]
async fn the_size_of_a_request_includes_the_chroot() {
    let paths: Vec<_> = (0..500).map(|number| format!("/{number}")).collect();
    for (chroot, fits) in [(String::new(), true), (format!("/{}", "x".repeat(2000)), false)] {
        let keeper = connect_to(&format!("{}{chroot}", shared().address()), Duration::from_secs(20)).await;
        let opened = keeper.multi_lock(&paths);
        assert!(opened.is_ok() == fits, "{:?}", opened.err());
        let too_large = matches!(opened.err(), Some(InvalidHandle::TooLarge { bytes }) if bytes > 500 * 2000);
        assert_eq!(!too_large, fits);
    }
}

#[tokio::test]
async fn each_path_has_its_mode() {
    let (keeper, other, [index, log]) = (connect().await, connect().await, paths("modes"));
    let options = LockOptions::new().identifier("reindex");
    let multi = keeper.multi_lock_with([(&index, Mode::Write), (&log, Mode::Read)], options).expect("paths");
    let guard = multi.acquire().await.expect("free");
    let (index, log) =
        (other.read_write(&index).expect("a valid path"), other.read_write(&log).expect("a valid path"));
    assert!(matches!(index.read().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    assert!(matches!(log.write().try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    let beside = log.read().try_acquire().await.expect("shared with a reader");
    let contenders = log.read().contenders().await.expect("connected");
    assert_eq!((contenders[0].mode, contenders[0].identifier.as_str()), (Mode::Read, "reindex"));
    assert!(matches!(multi.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    drop(guard);
    let again = timeout(LIMIT, multi.acquire()).await.expect("in time").expect("granted");
    again.release().await.expect("released");
    beside.release().await.expect("released");
}

#[tokio::test]
async fn try_acquire_with_one_path_taken_writes_nothing() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<3>("try"));
    let multi = all(&keeper, &paths);
    multi.try_acquire().await.expect("free").release().await.expect("released");
    let held = one(&other, &paths[2]).acquire().await.expect("free");
    let server = Observer::new().await;
    let changes = async || {
        let mut changes = Vec::new();
        for path in &paths {
            let stat = server.stat(path).await.expect("a directory");
            changes.push((stat.cversion, stat.pzxid));
        }
        changes
    };
    caught_up(&keeper).await;
    let before = changes().await;
    assert!(matches!(multi.try_acquire().await.err(), Some(TryAcquireError::Contended { .. })));
    assert!(matches!(
        multi.acquire_timeout(Duration::ZERO).await.err(),
        Some(AcquireTimeoutError::TimedOut { .. })
    ));
    assert_eq!(changes().await, before);
    held.release().await.expect("released");
    // The server of this keeper may not know of the release yet.
    eventually("it is free", SOON, async || match multi.try_acquire().await {
        Ok(guard) => guard.release().await.is_ok(),
        Err(_) => false,
    })
    .await;
}

#[tokio::test]
async fn one_deadline_covers_all_paths_and_partial_locks_are_released() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<2>("deadline"));
    let held = one(&other, &paths[1]).acquire().await.expect("free");
    let (limit, begun) = (Duration::from_millis(200), Instant::now());
    let refused = all(&keeper, &paths).acquire_timeout(limit).await.err();
    assert!(matches!(refused, Some(AcquireTimeoutError::TimedOut { .. })));
    assert!((limit..limit + Duration::from_secs(5)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // At once within this process, because a local hand-off does not wait for the server.
    one(&keeper, &paths[0])
        .try_acquire()
        .await
        .expect("released meanwhile")
        .release()
        .await
        .expect("released");
    held.release().await.expect("released");
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn an_actor_is_notified_by_message_and_cancels_by_ticket() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<2>("message"));
    let ahead = all(&other, &paths).acquire().await.expect("free");
    let multi = all(&keeper, &paths);
    let (ticket, mut events) = listen(multi.acquire());
    let event = next(&mut events).await;
    assert!(matches!(event, LockEvent::Enqueued { ticket: of, ahead: 2 } if of == ticket), "{event:?}");
    multi.cancel(ticket);
    let event = next(&mut events).await;
    assert!(matches!(event, LockEvent::Refused(of, Refused::Cancelled) if of == ticket), "{event:?}");
    assert!(timeout(LIMIT, events.recv()).await.expect("the end").is_none(), "no further event");
    for path in &paths {
        until_queued(&other, path, 1).await;
    }

    // Cancelled before it can have been handled.
    let (early, mut events) = listen(multi.acquire());
    multi.cancel(early);
    assert!(matches!(next(&mut events).await, LockEvent::Refused(_, Refused::Cancelled)));

    let (ticket, mut events) = listen(multi.acquire());
    next(&mut events).await;
    ahead.release().await.expect("released");
    let guard = granted(&mut events).await;
    assert_eq!(guard.ticket(), ticket);
    multi.cancel(ticket);
    assert_eq!(guard.state(), LeaseState::Held, "a holder is not cancelled");
    guard.release().await.expect("released");
    let event = next(&mut events).await;
    assert!(matches!(event, LockEvent::Released(of) if of == ticket), "{event:?}");
    assert!(timeout(LIMIT, events.recv()).await.expect("the end").is_none(), "no further event");
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn access_lists_and_options_apply_to_every_node() {
    let (keeper, paths) = (connect().await, paths::<2>("options"));
    let acl = vec![
        Acl::new(Permission::ALL, AuthId::anyone()),
        Acl::new(Permission::READ, AuthId::new("ip", "127.0.0.1")),
    ];
    let options = LockOptions::new().acl(acl.clone()).identifier("both");
    let named = paths.iter().map(|path| (path, Mode::Lock));
    let guard = keeper.multi_lock_with(named, options).expect("paths").acquire().await.expect("free");
    let server = client().await;
    for node in guard.nodes() {
        let (found, stat) = server.get_acl(node).await.expect("an access list");
        assert_eq!(found, acl);
        assert_ne!(stat.ephemeral_owner, 0);
        assert_eq!(server.get_data(node).await.expect("data").0, b"both");
    }
}
