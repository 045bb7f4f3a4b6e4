//! Applications that stop or panic.

use lockkeeper::LeaseState;
use lockkeeper::error::{AcquireError, Refused, ReleaseError, TryAcquireError};
use lockkeeper::messages::LockEvent;
use tokio::time::timeout;

use crate::common::events::{acquired, listen, queued};
use crate::common::kinds::{Kind, Wait};
use crate::common::logs::with_a_log_that_panics;
use crate::common::site::is_known;
use crate::common::{SHORT, SOON, connect, options, refusal, shared};

promises! {
    every_kind:
        a_lock_of_a_stopped_runtime_is_freed_when_its_session_ends,
        a_panicking_listener_ends_only_its_own_request,
        a_listener_that_panics_when_it_is_dropped_ends_only_its_own_request;
    // The kinds that have an actor for each path, in which their listeners run.
    [lock, write_lock, read_lock, semaphore]:
        a_dead_lock_actor_loses_the_guards_of_its_path_and_leaves_no_node;
}

async fn a_lock_of_a_stopped_runtime_is_freed_when_its_session_ends(kind: Kind) {
    let (site, other) = (kind.site("runtime").await, connect().await);
    let (address, path) = (shared().address(), site.path.clone());
    let stopped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let keeper = options().session_timeout(SHORT).connect(&address).await.expect("should connect");
            (kind.open)(&keeper, &path).expect("a valid path").acquire().await.expect("the lock is free")
        })
    });
    let guard = stopped.join().expect("a guard whose runtime is gone");
    assert_eq!(guard.state(), LeaseState::Lost);
    drop(site.rival(&other).acquire_timeout(SOON).await.expect("the lock is free"));
    site.until_only(&[]).await;
}

async fn a_panicking_listener_ends_only_its_own_request(kind: Kind) {
    let keeper = connect().await;
    let panics = |_| panic!("a listener that panics, on purpose");
    // Repeated, because the drop order may depend on chance.
    for _ in 0..4 {
        let site = kind.site("panic").await;
        let (lock, rival) = (site.lock(&keeper), site.rival(&keeper));
        let guard = rival.acquire().await.expect("the lock is free");
        lock.listen(Wait::Forever, Box::new(panics));
        let (_, mut waiter) = listen(&lock);
        queued(&mut waiter).await;
        site.until_nodes(2).await;
        assert_eq!(guard.state(), LeaseState::Held);
        let nodes = site.nodes().await;
        assert!(guard.nodes().iter().all(|node| nodes.contains(node)));
        drop(guard);
        drop(acquired(&mut waiter).await);
        site.until_only(&[]).await;

        // The guard passed to the panicking listener is released.
        rival.listen(Wait::Forever, Box::new(panics));
        drop(lock.acquire_timeout(SOON).await.expect("the lock is free"));
        site.until_only(&[]).await;
    }
}

async fn a_listener_that_panics_when_it_is_dropped_ends_only_its_own_request(kind: Kind) {
    let (site, keeper) = (kind.site("panic-drop").await, connect().await);
    let (lock, rival) = (site.lock(&keeper), site.rival(&keeper));
    let guard = rival.acquire().await.expect("the lock is free");
    for panics_before in [false, true] {
        let owned = PanicsWhenDropped;
        let hear = move |_| {
            let _owns = &owned;
            assert!(!panics_before, "a listener that panics, on purpose");
        };
        // It is dropped after the refusal, and the next try is answered later.
        lock.listen(Wait::Try, Box::new(hear));
        let tried = refusal(lock.try_acquire().await);
        assert!(matches!(tried, TryAcquireError::Contended { .. }), "{tried:?}");
        assert_eq!(guard.state(), LeaseState::Held);
    }
    assert_eq!(guard.release().await, Ok(()));
}

async fn a_dead_lock_actor_loses_the_guards_of_its_path_and_leaves_no_node(kind: Kind) {
    let (site, elsewhere) = (kind.site("dies").await, kind.site("lives").await);
    let keeper = connect().await;
    let untouched = elsewhere.lock(&keeper).acquire().await.expect("the lock is free");
    let (lock, rival) = (site.lock(&keeper), site.rival(&keeper));
    let guard = rival.acquire().await.expect("the lock is free");
    let mut waiter = Box::pin(lock.acquire());
    assert!(futures::poll!(&mut waiter).is_pending(), "it is sent");
    let (ticket, mut events) = listen(&lock);
    queued(&mut events).await;
    let session = site.server.owner(&guard.node()).await;

    with_a_log_that_panics(|| listen(&lock));
    timeout(SOON, guard.lost()).await.expect("its actor is gone");
    assert_eq!(guard.state(), LeaseState::Lost);
    let stopped = AcquireError::Stopped { path: (kind.paths)(&site.path).swap_remove(0) };
    let received = timeout(SOON, waiter).await.expect("the waiter gets an answer");
    assert_eq!(refusal(received), stopped);
    let (received, why) = (events.recv().await, Refused::Failed(stopped));
    let refused =
        matches!(&received, Some(LockEvent::Refused(of, received)) if *of == ticket && *received == why);
    assert!(refused, "{received:?}");
    // Its nodes are deleted although the session lives.
    site.until_only(&[]).await;
    assert!(is_known(session));
    let again = rival.acquire_timeout(SOON).await.expect("the lock is free");
    assert!(again.token() > guard.token());
    assert_eq!(guard.release().await, Err(ReleaseError::Lost));
    assert_eq!(again.state(), LeaseState::Held);
    assert_eq!(untouched.state(), LeaseState::Held, "other paths are not affected");
    assert_eq!(again.release().await, Ok(()));
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("a destructor that panics, on purpose");
    }
}
