//! Applications that stop, or panic.

use lockkeeper::{AcquireError, LeaseState, LockEvent, Refused, ReleaseError};
use tokio::time::timeout;

use crate::common::hearing::{acquired, listen, queued};
use crate::common::kinds::{Kind, Wait};
use crate::common::site::is_known;
use crate::common::{SHORT, SOON, connect, options, refusal, shared};

promises! {
    every_kind:
        a_lock_held_by_a_runtime_that_is_shut_down_is_free_again_with_its_session,
        a_listener_that_panics_ends_its_own_request_and_nothing_else;
    // Those that have an actor of their own for a path, which their listeners run in.
    [lock, write_lock, read_lock, semaphore]:
        an_actor_that_dies_costs_the_guards_of_its_path_and_leaves_no_node;
}

async fn a_lock_held_by_a_runtime_that_is_shut_down_is_free_again_with_its_session(kind: Kind) {
    let (site, other) = (kind.site("runtime").await, connect().await);
    let (address, path) = (shared().address(), site.path.clone());
    let stopped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let keeper = options().session_timeout(SHORT).connect(&address).await.expect("a server");
            (kind.open)(&keeper, &path).expect("a path").acquire().await.expect("a free lock")
        })
    });
    let guard = stopped.join().expect("a guard whose runtime is gone");
    assert_eq!(guard.state(), LeaseState::Lost);
    drop(site.rival(&other).acquire_timeout(SOON).await.expect("a free lock"));
    site.until_only(&[]).await;
}

async fn a_listener_that_panics_ends_its_own_request_and_nothing_else(kind: Kind) {
    let keeper = connect().await;
    let panics = |_| panic!("a listener that panics, as this test wants it");
    // What comes first when several things are dropped may be left to chance.
    for _ in 0..4 {
        let site = kind.site("panic").await;
        let (lock, rival) = (site.lock(&keeper), site.rival(&keeper));
        let guard = rival.acquire().await.expect("a free lock");
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

        // The guard that it was given is released.
        rival.listen(Wait::Forever, Box::new(panics));
        drop(lock.acquire_timeout(SOON).await.expect("a free lock"));
        site.until_only(&[]).await;
    }
}

async fn an_actor_that_dies_costs_the_guards_of_its_path_and_leaves_no_node(kind: Kind) {
    let (site, elsewhere) = (kind.site("dies").await, kind.site("lives").await);
    let keeper = connect().await;
    let untouched = elsewhere.lock(&keeper).acquire().await.expect("a free lock");
    let (lock, rival) = (site.lock(&keeper), site.rival(&keeper));
    let guard = rival.acquire().await.expect("a free lock");
    let waiter = tokio::spawn(lock.acquire());
    let (ticket, mut heard) = listen(&lock);
    queued(&mut heard).await;
    let session = site.server.owner(&guard.node()).await;

    // What a listener owns is dropped where it ran, once it has heard the last word.
    let owned = PanicsWhenDropped;
    let hear = move |_| {
        let _owns = &owned;
    };
    lock.listen(Wait::Try, Box::new(hear));
    timeout(SOON, guard.lost()).await.expect("its actor is gone");
    assert_eq!(guard.state(), LeaseState::Lost);
    let stopped = AcquireError::Stopped { path: (kind.paths)(&site.path).swap_remove(0) };
    let told = timeout(SOON, waiter).await.expect("the waiter is told").expect("no panic");
    assert_eq!(refusal(told), stopped);
    let (told, why) = (heard.recv().await, Refused::Failed(stopped));
    let refused = matches!(&told, Some(LockEvent::Refused(of, told)) if *of == ticket && *told == why);
    assert!(refused, "{told:?}");
    // Its nodes go although the session lives.
    site.until_only(&[]).await;
    assert!(is_known(session));
    let again = rival.acquire_timeout(SOON).await.expect("a free lock");
    assert!(again.token() > guard.token());
    assert_eq!(guard.release().await, Err(ReleaseError::Lost));
    assert_eq!(again.state(), LeaseState::Held);
    assert_eq!(untouched.state(), LeaseState::Held, "other paths have nothing to do with it");
    assert_eq!(again.release().await, Ok(()));
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("a destructor that panics, as this test wants it");
    }
}
