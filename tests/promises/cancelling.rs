//! Not wanting a lock any more, at whatever moment.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use lockkeeper::{LeaseState, Refused, Ticket};

use crate::common::hearing::{Ear, acquired, listen, queued, refused};
use crate::common::kinds::{Kind, Wait};
use crate::common::{SOON, connect, eventually};

promises! {
    every_kind:
        dropping_the_future_while_it_waits_leaves_no_node,
        an_acquire_sends_nothing_before_it_is_polled,
        a_guard_that_nobody_received_is_released,
        a_cancelled_ticket_is_refused_and_leaves_no_node,
        a_cancel_hits_no_request_but_its_own,
        who_gives_up_lets_those_behind_pass;
}

async fn dropping_the_future_while_it_waits_leaves_no_node(kind: Kind) {
    let (site, keeper, other) = (kind.site("drop").await, connect().await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("a free lock");
    for keeper in [&keeper, &other] {
        // An actor without handles ends, and its watches with it.
        let lock = site.lock(keeper);
        let waiting = tokio::spawn(lock.acquire());
        site.until_nodes(2).await;
        waiting.abort();
        site.until_only(&[&guard]).await;
        site.until_unwatched().await;
    }
}

async fn an_acquire_sends_nothing_before_it_is_polled(kind: Kind) {
    let (site, keeper) = (kind.site("lazy").await, connect().await);
    let lock = site.lock(&keeper);
    let mut acquire = lock.acquire();
    drop(lock.acquire());
    // Whatever was sent before is answered before this.
    assert_eq!(lock.listed().await, Ok(0));
    for directory in site.directories() {
        assert_eq!(site.server.stat(&directory).await, None);
    }

    let guard = match poll_once(acquire.as_mut()).await {
        Poll::Ready(granted) => granted,
        Poll::Pending => acquire.await,
    };
    site.until_nodes(1).await;
    drop(guard.expect("a free lock"));
}

async fn a_guard_that_nobody_received_is_released(kind: Kind) {
    let (site, keeper) = (kind.site("unread").await, connect().await);
    let lock = site.lock(&keeper);

    let (_, events) = listen(&lock);
    eventually("the grant is told", SOON, async || !events.is_empty()).await;
    site.until_nodes(1).await;
    drop(events);
    site.until_only(&[]).await;

    let mut acquire = lock.acquire();
    // On a machine that is quick to answer, the grant may be received already.
    let received = poll_once(acquire.as_mut()).await;
    // It shows in the answer to a question, so the grant is there, or on its way.
    eventually("it is listed", SOON, async || lock.listed().await == Ok(1)).await;
    drop((received, acquire));
    site.until_only(&[]).await;
}

async fn a_cancelled_ticket_is_refused_and_leaves_no_node(kind: Kind) {
    let (site, keeper, other) = (kind.site("cancel").await, connect().await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("a free lock");
    let (actor, mut heard) = Ear::start().await;
    for keeper in [&keeper, &other] {
        let lock = site.lock(keeper);
        let ticket = lock.forward(Wait::Forever, &actor);
        assert_eq!(queued(&mut heard).await, (kind.ahead)(1, 0));
        lock.cancel(ticket);
        assert_eq!(refused(&mut heard).await, (ticket, Refused::Cancelled));
        site.until_only(&[&guard]).await;
        // Before anything of it can have happened.
        let ticket = lock.forward(Wait::Forever, &actor);
        lock.cancel(ticket);
        assert_eq!(refused(&mut heard).await, (ticket, Refused::Cancelled));
        // Whatever was sent for it is answered before this.
        lock.listed().await.expect("an answer");
        site.until_only(&[&guard]).await;
    }
    actor.stop(None);
}

async fn a_cancel_hits_no_request_but_its_own(kind: Kind) {
    let (site, keeper) = (kind.site("cancel-others").await, connect().await);
    let lock = site.lock(&keeper);
    lock.cancel(Ticket::new());
    let (done, mut events) = listen(&lock);
    let guard = acquired(&mut events).await;
    assert_eq!(guard.ticket(), done);
    guard.release().await.expect("a release");

    lock.cancel(done);
    let guard = lock.acquire().await.expect("a cancel does not stick");
    // Nor does it take the lock away from who has it.
    lock.cancel(guard.ticket());
    assert_eq!(lock.listed().await, Ok(1));
    assert_eq!(guard.state(), LeaseState::Held);
    guard.release().await.expect("a release");
}

async fn who_gives_up_lets_those_behind_pass(kind: Kind) {
    let (site, keeper, other) = (kind.site("behind").await, connect().await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("a free lock");
    let (ticket, mut first) = listen(&site.lock(&other));
    queued(&mut first).await;
    let (_, mut second) = listen(&site.rival(&keeper));
    queued(&mut second).await;
    let (_, mut third) = listen(&site.lock(&other));
    queued(&mut third).await;
    site.lock(&other).cancel(ticket);
    assert_eq!(refused(&mut first).await, (ticket, Refused::Cancelled));
    assert!(second.try_recv().is_err(), "it is still held");
    drop(guard);
    // Which of them comes first is not the same for all kinds.
    let (second, third) =
        tokio::join!(async { drop(acquired(&mut second).await) }, async { drop(acquired(&mut third).await) });
    let ((), ()) = (second, third);
    site.until_only(&[]).await;
}

async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
