//! Requests, answers and releases as messages instead of futures.

use std::time::Duration;

use lockkeeper::{Known, LeaseState, LockMessage, Refused, ReleaseError};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::common::events::{Recorder, acquired, listen, queued, refused};
use crate::common::kinds::{Kind, Wait};
use crate::common::{LONG, SOON, connect, connect_through, eventually, proxied};

promises! {
    every_kind:
        an_actor_gets_its_lock_by_message_and_releases_by_dropping_the_guard;
    // A semaphore's actor cannot be reached by messages.
    queued:
        a_lock_is_listed_cancelled_and_released_by_message,
        releasing_a_waiting_request_fails_and_it_keeps_waiting,
        queries_are_answered_after_the_last_handle_is_dropped,
        a_guard_released_by_message_is_lost_when_the_next_one_is_granted;
}

async fn an_actor_gets_its_lock_by_message_and_releases_by_dropping_the_guard(kind: Kind) {
    let (site, keeper) = (kind.site("actor").await, connect().await);
    let (lock, rival) = (site.lock(&keeper), site.rival(&keeper));
    let (actor, mut events) = Recorder::start().await;
    let first = rival.forward(Wait::Forever, &actor);
    let guard = acquired(&mut events).await;
    assert_eq!(guard.ticket(), first);
    let second = lock.forward(Wait::Forever, &actor);
    assert_eq!(queued(&mut events).await, (kind.ahead)(1, 0));
    let tried = lock.forward(Wait::Try, &actor);
    assert_eq!(refused(&mut events).await, (tried, Refused::Contended));
    let timed = lock.forward(Wait::For(Duration::from_millis(500)), &actor);
    assert_eq!(queued(&mut events).await, (kind.ahead)(1, 1));
    assert_eq!(refused(&mut events).await, (timed, Refused::TimedOut));

    drop(guard);
    let guard = acquired(&mut events).await;
    assert_eq!(guard.ticket(), second);
    drop(guard);
    site.until_only(&[]).await;

    // A message to a stopped actor is dropped, and with it the guard.
    actor.stop_and_wait(None, None).await.expect("it stops");
    lock.forward(Wait::Forever, &actor);
    drop(rival.acquire_timeout(SOON).await.expect("the dropped guard was released"));
}

async fn a_lock_is_listed_cancelled_and_released_by_message(kind: Kind) {
    let (site, keeper) = (kind.site("message").await, connect().await);
    let queue = site.queue(&keeper);
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let (waiting, mut events) = listen(&site.lock(&keeper));
    assert_eq!(queued(&mut events).await, 1);

    let (reply, answer) = oneshot::channel();
    queue.send(LockMessage::Contenders([].into(), reply.into()));
    let contenders = answer.await.expect("a reply").expect("an answer");
    assert_eq!(contenders.len(), 2);
    assert_eq!(contenders[0].token, guard.token());

    queue.send(LockMessage::Cancel(waiting));
    assert_eq!(refused(&mut events).await, (waiting, Refused::Cancelled));

    let (reply, answer) = oneshot::channel();
    queue.send(LockMessage::Release(guard.ticket(), Some(reply.into())));
    assert_eq!(answer.await.expect("a reply"), Ok(()));
    assert_eq!(site.nodes().await, [""; 0]);
    eventually("its guard is lost", SOON, async || guard.state() == LeaseState::Lost).await;
}

async fn a_guard_released_by_message_is_lost_when_the_next_one_is_granted(kind: Kind) {
    let (site, proxy) = (kind.site("message-release").await, proxied().await);
    let keeper = connect_through(&proxy, LONG).await;
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let (_, mut next) = listen(&site.lock(&keeper));
    assert_eq!(queued(&mut next).await, 1);
    proxy.hold_replies(true);
    site.queue(&keeper).send(LockMessage::Release(guard.ticket(), None));
    let next = acquired(&mut next).await;
    assert_eq!((guard.state(), next.state()), (LeaseState::Lost, LeaseState::Held));
}

async fn releasing_a_waiting_request_fails_and_it_keeps_waiting(kind: Kind) {
    let (site, keeper) = (kind.site("not-granted").await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let (waiting, mut events) = listen(&site.lock(&keeper));
    assert_eq!(queued(&mut events).await, 1);
    let (reply, answer) = oneshot::channel();
    site.queue(&keeper).send(LockMessage::Release(waiting, Some(reply.into())));
    let answer = timeout(SOON, answer).await.expect("at once").expect("a reply");
    assert_eq!(answer, Err(ReleaseError::NotGranted));
    drop(guard);
    assert_eq!(acquired(&mut events).await.state(), LeaseState::Held);
}

async fn queries_are_answered_after_the_last_handle_is_dropped(kind: Kind) {
    for last in ["last handle of the path", "last handle of the keeper"] {
        let (site, proxy) = (kind.site("last-question").await, proxied().await);
        let keeper = connect_through(&proxy, LONG).await;
        let guard = site.rival(&connect().await).acquire().await.expect("the lock is free");
        let queue = site.queue(&keeper);
        proxy.hold_replies(true);
        let ((reply, listed), (first, first_answer)) = (oneshot::channel(), oneshot::channel());
        queue.send(LockMessage::Contenders([].into(), reply.into()));
        queue.send(LockMessage::First([].into(), Known::Nothing, first));
        drop(queue);
        let kept = (last == "last handle of the path").then_some(keeper);
        // By the time of this answer, the end of the handle has had its effect.
        let absent = site.queue(&connect().await).contenders().await;
        assert_eq!(absent.expect("an answer").len(), 1);
        proxy.hold_replies(false);
        let listed = timeout(SOON, listed).await.expect("in time").expect(last).expect("an answer");
        assert_eq!(listed[0].token, guard.token(), "{last}");
        let first = timeout(SOON, first_answer).await.expect("in time").expect(last).expect("an answer");
        assert_eq!(first.expect("it is held").token, guard.token(), "{last}");
        drop(kept);
    }
}
