//! Permits that are split and merged: each part is released, dropped and lost by itself.

mod common;

use std::future::Future;

use common::events::session_event;
use common::site::Observer;
use common::{BRISK, LONG, SHORT, SOON, connect, connect_for, connect_through, eventually, proxied};
use common::{run, unique_path};
use futures::FutureExt;
use lockkeeper::error::{MergeError, ReleaseError};
use lockkeeper::messages::{LockEvent, SemaphoreMessage, Ticket};
use lockkeeper::session::SessionEvent;
use lockkeeper::{Keeper, LeaseState, Permit, Semaphore};
use ractor::call;
use tokio::sync::mpsc;
use tokio::time::timeout;

fn pool(keeper: &Keeper, path: &str) -> Semaphore {
    keeper.semaphore(path, 4).expect("a path and a number")
}

async fn acquire(pool: &Semaphore, count: u32) -> Permit {
    timeout(SOON, pool.acquire_many(count)).await.expect("they are free").expect("granted")
}

/// Waits until this many of the four permits are free.
async fn until_free(pool: &Semaphore, count: u32) {
    eventually(&format!("{count} are free"), SOON, async || pool.available().await == Ok(count)).await;
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("in time")
}

#[test]
fn each_part_is_released_or_dropped_alone_and_in_any_order() {
    run(async {
        let pool = pool(&connect().await, &unique_path("split"));
        for part_first in [true, false] {
            for dropped in [true, false] {
                let mut whole = acquire(&pool, 3).await;
                let (nodes, token, view) = (whole.nodes().to_vec(), whole.token(), whole.view());
                let part = whole.split(2).expect("two of three");
                assert_eq!((whole.count(), part.count()), (1, 2));
                assert_eq!([whole.nodes(), part.nodes()].concat(), nodes);
                assert_eq!((whole.node(), part.node()), (&*nodes[0], &*nodes[1]));
                assert_eq!((view.node(), part.view().node()), (whole.node(), part.node()));
                assert_eq!((whole.token(), part.token()), (token, token));
                assert_ne!(whole.ticket(), part.ticket());
                assert_eq!(pool.available().await, Ok(1), "nothing was released");

                let (first, second) = if part_first { (part, whole) } else { (whole, part) };
                let (first_view, second_view) = (first.view(), second.view());
                let left = 4 - second.count() as u32;
                match dropped {
                    true => drop(first),
                    false => soon(first.release()).await.expect("released"),
                }
                until_free(&pool, left).await;
                assert_eq!((first_view.state(), second_view.state()), (LeaseState::Lost, LeaseState::Held));
                soon(second.release()).await.expect("released");
                assert_eq!(pool.available().await, Ok(4));
            }
        }
    });
}

#[test]
fn both_parts_of_a_split_have_a_permit() {
    run(async {
        let pool = pool(&connect().await, &unique_path("none"));
        let mut permit = acquire(&pool, 2).await;
        let nodes = permit.nodes().to_vec();
        for count in [0, 2, 3, usize::MAX] {
            assert!(permit.split(count).is_none(), "{count} of 2");
            assert_eq!(permit.nodes(), nodes);
        }
        let mut part = permit.split(1).expect("one of two");
        assert!(part.split(1).is_none() && permit.split(1).is_none());
        drop((permit, part));
        until_free(&pool, 4).await;
    });
}

#[test]
fn many_parts_are_merged_again_and_released_together() {
    run(async {
        let pool = pool(&connect().await, &unique_path("again"));
        let mut whole = acquire(&pool, 4).await;
        let mut nodes = whole.nodes().to_vec();
        let mut parts = Vec::new();
        while let Some(part) = whole.split(1) {
            parts.push(part);
        }
        let first = parts.pop().expect("three parts");
        for part in parts {
            whole.merge(part).expect("parts of one permit");
        }
        whole.merge(first).expect("parts of one permit");
        assert_eq!((whole.count(), pool.available().await), (4, Ok(0)));
        let mut merged = whole.nodes().to_vec();
        merged.sort();
        nodes.sort();
        assert_eq!(merged, nodes);
        let part = whole.split(3).expect("three of four");
        soon(whole.release()).await.expect("released");
        assert_eq!(pool.available().await, Ok(1));
        soon(part.release()).await.expect("released");
        assert_eq!(pool.available().await, Ok(4));
    });
}

type Events = mpsc::UnboundedReceiver<LockEvent<Permit>>;

/// A permit that was acquired by message, with the events of its request.
async fn acquire_with_events(pool: &Semaphore) -> (Permit, Events) {
    let (sender, mut events) = mpsc::unbounded_channel();
    pool.acquire_many(2).listen(move |event| drop(sender.send(event)));
    match soon(events.recv()).await {
        Some(LockEvent::Acquired { guard, .. }) => (guard, events),
        other => panic!("it should be granted: {other:?}"),
    }
}

async fn until_released(events: &mut Events, ticket: Ticket) {
    let last = soon(events.recv()).await;
    assert!(matches!(last, Some(LockEvent::Released(released)) if released == ticket), "{last:?}");
    assert!(soon(events.recv()).await.is_none(), "it is the last event");
}

#[test]
fn a_merged_permit_has_the_larger_token_and_reports_to_both_requests() {
    run(async {
        let pool = pool(&connect().await, &unique_path("merged"));
        for into_older in [true, false] {
            let (older, mut older_events) = acquire_with_events(&pool).await;
            let (newer, mut newer_events) = acquire_with_events(&pool).await;
            let (token, tickets) = (newer.token(), (older.ticket(), newer.ticket()));
            assert!(older.token() < token, "each has a turn of its own");
            let (mut into, other) = if into_older { (older, newer) } else { (newer, older) };
            let (nodes, ticket) = ([into.nodes(), other.nodes()].concat(), into.ticket());
            let views = [into.view(), other.view()];
            into.merge(other).expect("of one semaphore");
            assert_eq!((into.nodes(), into.token(), into.ticket()), (&*nodes, token, ticket));
            assert_eq!((into.node(), into.view().token()), (&*nodes[0], token));
            assert_eq!(pool.available().await, Ok(0), "nothing was released");
            assert!(views.iter().all(|view| view.state() == LeaseState::Held));

            soon(into.release()).await.expect("released");
            assert!(views.iter().all(|view| view.state() == LeaseState::Lost));
            assert_eq!(pool.available().await, Ok(4));
            until_released(&mut older_events, tickets.0).await;
            until_released(&mut newer_events, tickets.1).await;
        }
    });
}

#[test]
fn the_events_of_a_request_are_about_the_permits_that_keep_its_ticket() {
    run(async {
        let pool = pool(&connect().await, &unique_path("events"));
        let (mut permit, mut events) = acquire_with_events(&pool).await;
        let part = permit.split(1).expect("one of two");
        soon(part.release()).await.expect("released");
        assert!(events.recv().now_or_never().is_none(), "no event about the part");
        let ticket = permit.ticket();
        drop(permit);
        until_released(&mut events, ticket).await;
    });
}

#[test]
fn permits_that_do_not_belong_together_are_given_back() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("unrelated"));
        let (pool, same_path) = (pool(&keeper, &path), pool(&connect().await, &path));
        let other_path = self::pool(&keeper, &unique_path("other"));
        let mut permit = acquire(&pool, 2).await;
        for foreign in [acquire(&same_path, 1).await, acquire(&other_path, 1).await] {
            let nodes = foreign.nodes().to_vec();
            let error = permit.merge(foreign).expect_err("of another semaphore or keeper");
            assert!(matches!(error, MergeError::Unrelated(_)), "{error:?}");
            let foreign = error.into_permit();
            assert_eq!((foreign.nodes(), foreign.state()), (&*nodes, LeaseState::Held));
            assert_eq!((permit.count(), permit.state()), (2, LeaseState::Held));
            soon(foreign.release()).await.expect("released");
        }
        soon(permit.release()).await.expect("released");
    });
}

#[test]
fn a_deleted_node_loses_the_part_that_it_belongs_to() {
    run(async {
        let (pool, observer) =
            (pool(&connect_for(BRISK).await, &unique_path("deleted")), Observer::new().await);
        let mut whole = acquire(&pool, 4).await;
        let mut part = whole.split(2).expect("two of four");
        observer.delete(&part.nodes()[1]).await;
        soon(part.lost()).await;
        until_free(&pool, 2).await;
        assert_eq!(whole.state(), LeaseState::Held);
        // Both directions, and a part of it.
        let lost = part.split(1).expect("one of two");
        assert_eq!(lost.state(), LeaseState::Lost);
        let error = whole.merge(lost).expect_err("it is lost");
        assert!(matches!(error, MergeError::Lost(_)), "{error:?}");
        let error = part.merge(whole).expect_err("it is lost");
        assert!(matches!(error, MergeError::Lost(_)), "{error:?}");
        let whole = error.into_permit();
        assert_eq!((whole.count(), whole.state()), (2, LeaseState::Held));
        assert_eq!(soon(part.release()).await, Err(ReleaseError::Lost));
        soon(whole.release()).await.expect("released");
    });
}

#[test]
fn a_deleted_node_loses_a_merged_permit_and_tells_both_requests() {
    run(async {
        let (pool, observer) = (pool(&connect_for(BRISK).await, &unique_path("both")), Observer::new().await);
        let (mut permit, mut events) = acquire_with_events(&pool).await;
        let (other, mut other_events) = acquire_with_events(&pool).await;
        let views = [permit.view(), other.view()];
        permit.merge(other).expect("of one semaphore");
        observer.delete(&permit.nodes()[0]).await;
        for view in &views {
            soon(view.lost()).await;
        }
        until_free(&pool, 4).await;
        for (events, view) in [(&mut events, &views[0]), (&mut other_events, &views[1])] {
            let last = soon(events.recv()).await;
            assert!(matches!(last, Some(LockEvent::Lost(_))), "{last:?}");
            assert!(soon(events.recv()).await.is_none(), "it is the last event");
            assert_eq!(view.state(), LeaseState::Lost);
        }
        assert_eq!(soon(permit.release()).await, Err(ReleaseError::Lost));
    });
}

#[test]
fn all_parts_are_lost_with_the_session() {
    run(async {
        let (proxy, path) = (proxied().await, unique_path("session"));
        let keeper = connect_through(&proxy, SHORT).await;
        let (pool, mut session) = (pool(&keeper, &path), keeper.events());
        let mut permit = acquire(&pool, 4).await;
        let (part, merged) = (permit.split(1).expect("of four"), permit.split(1).expect("of three"));
        permit.merge(merged).expect("parts of one permit");
        proxy.black_hole(true);
        session_event(&mut session, SessionEvent::Lost { epoch: 1 }).await;
        assert_eq!((permit.state(), part.state()), (LeaseState::Lost, LeaseState::Lost));
        proxy.black_hole(false);
        let mut next = acquire(&pool, 2).await;
        let error = next.merge(part).expect_err("of an earlier session");
        assert!(matches!(error, MergeError::Lost(_)), "{error:?}");
        drop(error);
        let part = permit.split(1).expect("one of three");
        assert_eq!(part.state(), LeaseState::Lost);
        assert_eq!(soon(part.release()).await, Err(ReleaseError::Lost));
        // A busy machine may suspend it for a moment.
        assert_ne!(next.state(), LeaseState::Lost);
        assert_eq!(next.count(), 2);
    });
}

#[test]
fn closing_the_keeper_loses_and_deletes_all_parts() {
    run(async {
        let path = unique_path("closed");
        let (keeper, observer) = (connect_for(LONG).await, pool(&connect().await, &path));
        let mut permit = acquire(&pool(&keeper, &path), 3).await;
        let part = permit.split(1).expect("one of three");
        keeper.close().await;
        assert_eq!((permit.state(), part.state()), (LeaseState::Lost, LeaseState::Lost));
        let late = permit.split(1).expect("one of two");
        assert_eq!(late.state(), LeaseState::Lost);
        let error = permit.merge(late).expect_err("both are lost");
        assert!(matches!(error, MergeError::Lost(_)), "{error:?}");
        until_free(&observer, 4).await;
    });
}

#[test]
fn a_part_is_released_by_its_ticket_and_a_merged_permit_only_by_the_one_it_keeps() {
    run(async {
        let pool = pool(&connect().await, &unique_path("ticket"));
        let actor = pool.actor();
        let release =
            async |ticket| call!(actor, SemaphoreMessage::Release, ticket).expect("the actor answers");
        let mut permit = acquire(&pool, 3).await;
        let part = permit.split(1).expect("one of three");
        assert_eq!(release(part.ticket()).await, Ok(()));
        assert_eq!((part.state(), permit.state()), (LeaseState::Lost, LeaseState::Held));
        assert_eq!(pool.available().await, Ok(2));

        let other = permit.split(1).expect("one of two");
        let (ticket, view) = (other.ticket(), other.view());
        permit.merge(other).expect("parts of one permit");
        assert_eq!(release(ticket).await, Err(ReleaseError::Lost), "it names no permit any more");
        assert_eq!((permit.state(), view.state()), (LeaseState::Held, LeaseState::Held));
        assert_eq!(release(permit.ticket()).await, Ok(()));
        assert_eq!((permit.state(), view.state()), (LeaseState::Lost, LeaseState::Lost));
        assert_eq!(pool.available().await, Ok(4));
    });
}
