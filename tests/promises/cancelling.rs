//! Cancelling a request, at any stage.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use lockkeeper::LeaseState;
use lockkeeper::error::Refused;
use lockkeeper::messages::Ticket;

use crate::common::events::{Recorder, acquired, listen, queued, refused};
use crate::common::kinds::{Kind, Wait};
use crate::common::{SOON, connect, eventually};

promises! {
    every_kind:
        dropping_the_future_while_it_waits_leaves_no_node,
        an_acquire_sends_nothing_before_it_is_polled,
        a_guard_that_nobody_received_is_released,
        a_cancelled_ticket_is_refused_and_leaves_no_node,
        a_cancel_affects_only_its_own_request,
        a_cancelled_waiter_lets_those_behind_it_pass;
}

async fn dropping_the_future_while_it_waits_leaves_no_node(kind: Kind) {
    let (site, keeper, other) = (kind.site("drop").await, connect().await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    for keeper in [&keeper, &other] {
        // Without a handle the actor would end, and its watches with it.
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
    // Requests that were sent earlier are answered before this one.
    assert_eq!(lock.listed().await, Ok(0));
    for directory in site.directories() {
        assert_eq!(site.server.stat(&directory).await, None);
    }

    let guard = match poll_once(acquire.as_mut()).await {
        Poll::Ready(granted) => granted,
        Poll::Pending => acquire.await,
    };
    site.until_nodes(1).await;
    drop(guard.expect("the lock is free"));
}

async fn a_guard_that_nobody_received_is_released(kind: Kind) {
    let (site, keeper) = (kind.site("unread").await, connect().await);
    let lock = site.lock(&keeper);

    let (_, events) = listen(&lock);
    eventually("the grant is received", SOON, async || !events.is_empty()).await;
    site.until_nodes(1).await;
    drop(events);
    site.until_only(&[]).await;

    let mut acquire = lock.acquire();
    // On a fast machine the grant may have been received already.
    let received = poll_once(acquire.as_mut()).await;
    // Once it is listed, the grant is there or on its way.
    eventually("it is listed", SOON, async || lock.listed().await == Ok(1)).await;
    drop((received, acquire));
    site.until_only(&[]).await;
}

async fn a_cancelled_ticket_is_refused_and_leaves_no_node(kind: Kind) {
    let (site, keeper, other) = (kind.site("cancel").await, connect().await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let (actor, mut events) = Recorder::start().await;
    for keeper in [&keeper, &other] {
        let lock = site.lock(keeper);
        let ticket = lock.forward(Wait::Forever, &actor);
        assert_eq!(queued(&mut events).await, (kind.ahead)(1, 0));
        lock.cancel(ticket);
        assert_eq!(refused(&mut events).await, (ticket, Refused::Cancelled));
        site.until_only(&[&guard]).await;
        // Cancelled before the request can have been handled.
        let ticket = lock.forward(Wait::Forever, &actor);
        lock.cancel(ticket);
        assert_eq!(refused(&mut events).await, (ticket, Refused::Cancelled));
        // Requests that were sent for it are answered before this one.
        lock.listed().await.expect("an answer");
        site.until_only(&[&guard]).await;
    }
    actor.stop(None);
}

async fn a_cancel_affects_only_its_own_request(kind: Kind) {
    let (site, keeper) = (kind.site("cancel-others").await, connect().await);
    let lock = site.lock(&keeper);
    lock.cancel(Ticket::new());
    let (done, mut events) = listen(&lock);
    let guard = acquired(&mut events).await;
    assert_eq!(guard.ticket(), done);
    guard.release().await.expect("released");

    lock.cancel(done);
    let guard = lock.acquire().await.expect("an earlier cancel has no effect");
    // It does not end the lease of a holder either.
    lock.cancel(guard.ticket());
    assert_eq!(lock.listed().await, Ok(1));
    assert_eq!(guard.state(), LeaseState::Held);
    guard.release().await.expect("released");
}

async fn a_cancelled_waiter_lets_those_behind_it_pass(kind: Kind) {
    let (site, keeper, other) = (kind.site("behind").await, connect().await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
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
    // Which of them is granted first depends on the kind.
    let (second, third) =
        tokio::join!(async { drop(acquired(&mut second).await) }, async { drop(acquired(&mut third).await) });
    let ((), ()) = (second, third);
    site.until_only(&[]).await;
}

async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
