//! Requests, answers and releases as messages instead of futures.

use std::time::Duration;

use futures::poll;
use lockkeeper::LeaseState;
use lockkeeper::error::{AcquireError, QueryError, Refused, ReleaseError, RemoveContenderError};
use lockkeeper::messages::{self, LockMessage};
use lockkeeper::messages::{LockEvent, Ticket};
use ractor::call;
use tokio::time::timeout;

use crate::common::events::{Recorder, acquired, granted, listen, queued, refused};
use crate::common::kinds::{Kind, Wait};
use crate::common::{LONG, SOON, connect, connect_through, eventually, proxied};

promises! {
    every_kind:
        an_actor_gets_its_lock_by_message_and_releases_by_dropping_the_guard,
        a_call_is_answered_with_the_guard_or_the_refusal,
        the_timeout_of_a_call_ends_its_wait,
        a_ticket_cancels_a_waiting_request_and_releases_a_granted_one,
        events_go_to_an_actor_and_its_end_cancels_the_request,
        messages_sent_before_the_handle_is_dropped_are_handled,
        a_closed_keeper_answers_every_message;
    queued:
        a_lock_is_listed_by_message,
        a_guard_released_by_message_is_lost_when_the_next_one_is_granted,
        queries_are_answered_after_the_last_handle_is_dropped;
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

async fn a_call_is_answered_with_the_guard_or_the_refusal(kind: Kind) {
    let (site, keeper) = (kind.site("call").await, connect().await);
    let (lock, rival) = (site.lock(&keeper), site.rival(&keeper));
    let (first, second) = (Ticket::new(), Ticket::new());
    let guard =
        rival.call(first, messages::Wait::Forever, None).await.expect("an answer").expect("it is free");
    assert_eq!((guard.ticket(), guard.state()), (first, LeaseState::Held));
    let tried = lock.call(Ticket::new(), messages::Wait::Try, None).await.expect("an answer");
    assert_eq!(tried.expect_err("it is held"), Refused::Contended);
    let soon = messages::Wait::timeout(Duration::from_millis(200));
    let timed = lock.call(Ticket::new(), soon, None).await.expect("an answer");
    assert_eq!(timed.expect_err("it is held"), Refused::TimedOut);
    let waiting = tokio::spawn(lock.call(second, messages::Wait::Forever, None));
    drop(guard);
    let guard = waiting.await.expect("no panic").expect("an answer").expect("it was released");
    assert_eq!(guard.ticket(), second);
}

async fn the_timeout_of_a_call_ends_its_wait(kind: Kind) {
    let (site, keeper) = (kind.site("call-timeout").await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let lock = site.lock(&keeper);
    let called = lock.call(Ticket::new(), messages::Wait::Forever, Some(Duration::from_millis(300)));
    if let Some(answer) = called.await {
        assert_eq!(answer.expect_err("it is held"), Refused::TimedOut);
    }
    // Only the holder's node is left.
    site.until_only(&[&guard]).await;
}

async fn a_ticket_cancels_a_waiting_request_and_releases_a_granted_one(kind: Kind) {
    let (site, keeper) = (kind.site("ticket").await, connect().await);
    let (lock, rival) = (site.lock(&keeper), site.rival(&keeper));
    let guard = rival.acquire().await.expect("the lock is free");
    let waiting = Ticket::new();
    let (mut events, _listening) = lock.call_for_events(waiting, messages::Wait::Forever).await;
    queued(&mut events).await;
    let answer = lock.release_by_message(waiting).await.expect("an answer");
    assert_eq!(answer, Err(ReleaseError::NotGranted), "it waits");
    lock.cancel_by_message(guard.ticket());
    lock.cancel_by_message(Ticket::new());
    lock.cancel_by_message(waiting);
    assert_eq!(refused(&mut events).await, (waiting, Refused::Cancelled));
    assert_eq!(guard.state(), LeaseState::Held, "a cancel does not end a granted request");

    assert_eq!(rival.release_by_message(guard.ticket()).await.expect("an answer"), Ok(()));
    assert_eq!(site.nodes().await, [""; 0], "the answer comes after the delete");
    eventually("its guard is lost", SOON, async || guard.state() == LeaseState::Lost).await;
    let again = rival.release_by_message(guard.ticket()).await.expect("an answer");
    assert_eq!(again, Err(ReleaseError::Lost), "it has ended");
}

async fn events_go_to_an_actor_and_its_end_cancels_the_request(kind: Kind) {
    let (site, keeper) = (kind.site("events").await, connect().await);
    let (lock, rival) = (site.lock(&keeper), site.rival(&keeper));
    let (mut events, _listening) = rival.call_for_events(Ticket::new(), messages::Wait::Forever).await;
    let guard = granted(&mut events).await;
    let (mut waiting, listening) = lock.call_for_events(Ticket::new(), messages::Wait::Forever).await;
    assert_eq!(queued(&mut waiting).await, (kind.ahead)(1, 0));
    drop(listening);
    site.until_only(&[&guard]).await;
    drop(guard);
    let event = events.recv().await;
    assert!(matches!(event, Some(LockEvent::Released(_))), "{event:?}");
}

async fn messages_sent_before_the_handle_is_dropped_are_handled(kind: Kind) {
    let (site, keeper) = (kind.site("dropped").await, connect().await);
    let lock = site.lock(&keeper);
    let mut call = lock.call(Ticket::new(), messages::Wait::Forever, None);
    assert!(poll!(&mut call).is_pending(), "it is sent");
    drop((lock, keeper));
    let guard = call.await.expect("an answer").expect("it is free");
    assert_eq!(guard.state(), LeaseState::Held);
    drop(guard);
    site.until_only(&[]).await;
}

async fn a_closed_keeper_answers_every_message(kind: Kind) {
    let (site, keeper) = (kind.site("closed").await, connect().await);
    let (lock, rival, queue) = (site.lock(&keeper), site.rival(&keeper), site.queue(&keeper));
    let guard = rival.acquire().await.expect("the lock is free");
    let (mut waiting, _listening) = lock.call_for_events(Ticket::new(), messages::Wait::Forever).await;
    queued(&mut waiting).await;
    keeper.close().await;
    let closed = Refused::Failed(AcquireError::Closed);
    assert_eq!(refused(&mut waiting).await.1, closed);
    let called = lock.call(Ticket::new(), messages::Wait::Forever, None).await;
    assert_eq!(called.expect("an answer").expect_err("it is closed"), closed);
    let (mut events, _listening) = lock.call_for_events(Ticket::new(), messages::Wait::Forever).await;
    assert_eq!(refused(&mut events).await.1, closed);
    let release = rival.release_by_message(guard.ticket()).await;
    assert_eq!(release.expect("an answer"), Err(ReleaseError::Lost));
    let contenders = call!(queue.actor(), LockMessage::Contenders).expect("an answer");
    assert_eq!(contenders, Err(QueryError::Closed));
    let holder = call!(queue.actor(), LockMessage::Holder).expect("an answer");
    assert_eq!(holder, Err(QueryError::Closed));
}

async fn a_lock_is_listed_by_message(kind: Kind) {
    let (site, keeper) = (kind.site("message").await, connect().await);
    let queue = site.queue(&keeper);
    let actor = queue.actor();
    assert_eq!(call!(actor, LockMessage::Holder).expect("an answer"), Ok(None));
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let (_, mut events) = listen(&site.lock(&keeper));
    assert_eq!(queued(&mut events).await, 1);
    let contenders = call!(actor, LockMessage::Contenders).expect("an answer").expect("it is listed");
    assert_eq!(contenders.len(), 2);
    let holder = call!(actor, LockMessage::Holder).expect("an answer").expect("it is listed");
    assert_eq!(holder.expect("it is held"), contenders[0]);
    assert_eq!(contenders[0].token, guard.token());
    let removed = call!(actor, LockMessage::RemoveContender, contenders[0].clone()).expect("an answer");
    assert!(matches!(removed, Err(RemoveContenderError::Ephemeral { .. })), "{removed:?}");
}

async fn a_guard_released_by_message_is_lost_when_the_next_one_is_granted(kind: Kind) {
    let (site, proxy) = (kind.site("message-release").await, proxied().await);
    let keeper = connect_through(&proxy, LONG).await;
    let rival = site.rival(&keeper);
    let guard = rival.acquire().await.expect("the lock is free");
    let (_, mut next) = listen(&site.lock(&keeper));
    assert_eq!(queued(&mut next).await, 1);
    proxy.hold_replies(true);
    let _unanswered = tokio::spawn(rival.release_by_message(guard.ticket()));
    let next = acquired(&mut next).await;
    assert_eq!((guard.state(), next.state()), (LeaseState::Lost, LeaseState::Held));
}

async fn queries_are_answered_after_the_last_handle_is_dropped(kind: Kind) {
    for last in ["last handle of the path", "last handle of the keeper"] {
        let (site, proxy) = (kind.site("last-question").await, proxied().await);
        let keeper = connect_through(&proxy, LONG).await;
        let guard = site.rival(&connect().await).acquire().await.expect("the lock is free");
        let queue = site.queue(&keeper);
        let actor = queue.actor();
        proxy.hold_replies(true);
        let mut listed = Box::pin(async { call!(actor, LockMessage::Contenders) });
        assert!(poll!(&mut listed).is_pending(), "it is sent");
        drop(queue);
        let kept = (last == "last handle of the path").then_some(keeper);
        // By the time of this answer, the end of the handle has had its effect.
        let absent = site.queue(&connect().await).contenders().await;
        assert_eq!(absent.expect("an answer").len(), 1);
        proxy.hold_replies(false);
        let listed = timeout(SOON, listed).await.expect("in time").expect(last).expect("an answer");
        assert_eq!(listed[0].token, guard.token(), "{last}");
        drop(kept);
    }
}
