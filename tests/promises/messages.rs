//! Requests, answers and releases as messages instead of futures.

use std::time::{Duration, Instant};

use futures::poll;
use lockkeeper::LeaseState;
use lockkeeper::error::{AcquireError, QueryError, Refused, ReleaseError, RemoveContenderError};
use lockkeeper::messages::{self, LockEvent, LockMessage, Ticket};
use ractor::call;
use tokio::time::timeout;

use crate::common::events::{Recorder, acquired, granted, listen, queued, refused};
use crate::common::kinds::{Kind, Wait};
use crate::common::{LONG, SOON, caught_up, connect, connect_through, eventually, options, proxied, shared};

promises! {
    every_kind:
        an_actor_gets_its_lock_by_message_and_releases_by_dropping_the_guard,
        a_call_is_answered_with_the_guard_or_the_refusal,
        the_timeout_of_a_call_ends_its_wait,
        a_caller_that_has_gone_keeps_its_place_until_it_is_granted,
        a_ticket_cancels_a_waiting_request_and_releases_a_granted_one,
        a_guard_released_by_message_is_not_valid_any_more,
        a_ticket_is_known_to_every_handle_of_its_paths,
        a_ticket_in_use_is_refused_and_its_request_continues,
        events_go_to_an_actor_and_its_end_cancels_the_request,
        messages_sent_before_the_handle_is_dropped_are_handled,
        a_closed_keeper_answers_every_message,
        the_end_of_the_supervisor_ends_every_request;
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
    let timed = lock.forward(Wait::For(Duration::from_secs(2)), &actor);
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

async fn a_caller_that_has_gone_keeps_its_place_until_it_is_granted(kind: Kind) {
    let (site, keeper) = (kind.site("call-dropped").await, connect().await);
    let guard = site.rival(&connect().await).acquire().await.expect("the lock is free");
    let lock = site.lock(&keeper);
    let mut called = lock.call(Ticket::new(), messages::Wait::Forever, None);
    assert!(poll!(&mut called).is_pending(), "it is sent");
    site.until_nodes(2).await;
    drop(called);
    // A cancel would have been handled before this is answered, and its node deleted.
    lock.listed().await.expect("an answer");
    site.until_nodes(2).await;
    drop(guard);
    site.until_only(&[]).await;
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

async fn a_guard_released_by_message_is_not_valid_any_more(kind: Kind) {
    let (site, keeper) = (kind.site("valid-until").await, connect().await);
    let lock = site.lock(&keeper);
    let guard = lock.acquire().await.expect("the lock is free");
    assert!(guard.valid_until().is_some_and(|end| end > Instant::now()));
    assert_eq!(lock.release_by_message(guard.ticket()).await.expect("an answer"), Ok(()));
    eventually("its guard is lost", SOON, async || guard.state() == LeaseState::Lost).await;
    assert!(guard.valid_until().is_some_and(|end| end <= Instant::now()), "an end that has passed");
}

async fn a_ticket_is_known_to_every_handle_of_its_paths(kind: Kind) {
    let (site, keeper) = (kind.site("ticket-handles").await, connect().await);
    let (lock, other) = (site.lock(&keeper), site.lock(&keeper));
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let ticket = Ticket::new();
    // A cancel that comes before its request has no effect.
    lock.cancel_by_message(ticket);
    let (mut events, _listening) = lock.call_for_events(ticket, messages::Wait::Forever).await;
    queued(&mut events).await;
    // Of these two, the one that fits the request has an effect.
    other.cancel_by_message(ticket);
    let answer = other.release_by_message(ticket).await.expect("an answer");
    assert_eq!(answer, Err(ReleaseError::Lost), "it does not wait any more");
    assert_eq!(refused(&mut events).await, (ticket, Refused::Cancelled));
    drop(guard);

    let ticket = Ticket::new();
    let (mut events, _listening) = lock.call_for_events(ticket, messages::Wait::Forever).await;
    let guard = granted(&mut events).await;
    other.cancel_by_message(ticket);
    assert_eq!(other.release_by_message(ticket).await.expect("an answer"), Ok(()));
    assert_eq!(guard.state(), LeaseState::Lost);
    let event = events.recv().await;
    assert!(matches!(event, Some(LockEvent::Released(released)) if released == ticket), "{event:?}");
}

async fn a_ticket_in_use_is_refused_and_its_request_continues(kind: Kind) {
    let (site, keeper) = (kind.site("ticket-twice").await, connect().await);
    let guard = site.rival(&keeper).acquire().await.expect("the lock is free");
    let (lock, ticket) = (site.lock(&keeper), Ticket::new());
    let (mut events, _listening) = lock.call_for_events(ticket, messages::Wait::Forever).await;
    queued(&mut events).await;
    let again = lock.call(ticket, messages::Wait::Forever, None).await.expect("an answer");
    let again = again.expect_err("the ticket is in use");
    assert!(matches!(again, Refused::Failed(AcquireError::Stopped { .. })), "{again:?}");
    drop(guard);
    assert_eq!(granted(&mut events).await.ticket(), ticket);
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

async fn the_end_of_the_supervisor_ends_every_request(kind: Kind) {
    let (site, (supervisor, _events)) = (kind.site("supervisor").await, Recorder::start().await);
    let keeper = options().connect_linked(&shared().address(), &supervisor.get_cell()).await;
    let keeper = keeper.expect("should connect");
    let (lock, rival) = (site.lock(&keeper), site.rival(&keeper));
    let guard = rival.acquire().await.expect("the lock is free");
    let (mut waiting, _listening) = lock.call_for_events(Ticket::new(), messages::Wait::Forever).await;
    queued(&mut waiting).await;
    supervisor.kill();
    let (_, refused) = refused(&mut waiting).await;
    assert!(
        matches!(refused, Refused::Failed(AcquireError::Closed | AcquireError::Stopped { .. })),
        "{refused:?}"
    );
    timeout(SOON, guard.lost()).await.expect("its keeper has ended");
    eventually("a request is refused", SOON, async || {
        let called = lock.call(Ticket::new(), messages::Wait::Forever, None).await;
        called.expect("an answer").is_err_and(|refused| refused == Refused::Failed(AcquireError::Closed))
    })
    .await;
    site.until_only(&[]).await;
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
        let other = connect().await;
        let guard = site.rival(&other).acquire().await.expect("the lock is free");
        caught_up(&keeper).await;
        let queue = site.queue(&keeper);
        let actor = queue.actor();
        proxy.hold_replies(true);
        let mut listed = Box::pin(async { call!(actor, LockMessage::Contenders) });
        assert!(poll!(&mut listed).is_pending(), "it is sent");
        drop(queue);
        let kept = (last == "last handle of the path").then_some(keeper);
        // By the time of this answer, the end of the handle has had its effect.
        let absent = site.queue(&other).contenders().await;
        assert_eq!(absent.expect("an answer").len(), 1);
        proxy.hold_replies(false);
        let listed = timeout(SOON, listed).await.expect("in time").expect(last).expect("an answer");
        assert_eq!(listed[0].token, guard.token(), "{last}");
        drop(kept);
    }
}
