//! What ends a guard or its actor: a keeper that closes, the last handle, a listener that panics.

use std::time::Instant;

use lockkeeper::error::{AcquireError, Refused};
use lockkeeper::messages::LockEvent;
use lockkeeper::run::{EndReason, LeaseView, StopPolicy};
use lockkeeper::{FencingToken, LeaseState};
use ractor::{ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{LIMIT, all, connect, connect_to, listen, next, nothing_left, one, paths, until_queued};
use crate::common::{BRISK, caught_up, client, shared};

#[tokio::test]
async fn an_actor_runs_while_all_locks_are_held_and_is_killed_when_one_is_lost() {
    let (keeper, paths) = (connect_to(&shared().address(), BRISK).await, paths::<2>("run"));
    let server = client().await;
    for is_lost in [false, true] {
        let guard = all(&keeper, &paths).acquire().await.expect("they are free");
        let (view, second) = (guard.view(), guard.nodes().nth(1).expect("a node").to_owned());
        let expected: Tokens = guard.tokens().map(|(path, token)| (path.to_owned(), token)).collect();
        let (report, mut reports) = mpsc::unbounded_channel();
        let run = guard.run(StopPolicy::default(), |view| (Worker, (view, report)), |_| None);
        assert_eq!(reports.recv().await.expect("it starts"), expected);
        assert!(view.is_held() && view.valid_until() > Some(Instant::now()));
        match is_lost {
            false => run.stop(),
            true => server.delete(&second, None).await.expect("deleted"),
        }
        let ended = timeout(LIMIT, run.ended()).await.expect("it ends").expect("it was started");
        assert!(reports.recv().await.is_none(), "the actor is gone");
        match is_lost {
            false => {
                assert_eq!((ended.reason, ended.guard.state()), (EndReason::Stopped, LeaseState::Held));
                ended.guard.release().await.expect("it is held");
            }
            true => assert_eq!((ended.reason, ended.guard.state()), (EndReason::Lease, LeaseState::Lost)),
        }
        assert_eq!(view.state(), LeaseState::Lost, "released or lost");
        assert!(view.valid_until().is_some_and(|end| end <= Instant::now()), "an end that has passed");
    }
    nothing_left(&keeper, &paths).await;
}

#[tokio::test]
async fn closing_refuses_waiters_and_ends_leases() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<2>("closing"));
    let guard = all(&keeper, &paths).acquire().await.expect("free");
    let (_, mut waiting) = listen(all(&keeper, &paths).acquire());
    next(&mut waiting).await;
    timeout(LIMIT, keeper.close()).await.expect("it closes");
    assert_eq!(guard.state(), LeaseState::Lost);
    let event = next(&mut waiting).await;
    assert!(matches!(event, LockEvent::Refused(_, Refused::Failed(AcquireError::Closed))), "{event:?}");
    let closed = timeout(LIMIT, all(&keeper, &paths).acquire()).await.expect("an answer").err();
    assert_eq!(closed, Some(AcquireError::Closed));
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn the_last_guard_keeps_the_session_open_and_its_drop_closes_it() {
    let (other, paths) = (connect().await, paths::<2>("last"));
    let keeper = connect().await;
    let mut session = keeper.events();
    let guard = all(&keeper, &paths).acquire().await.expect("free");
    drop(keeper);
    assert!(one(&other, &paths[0]).try_acquire().await.is_err(), "it is held");
    assert_eq!(guard.state(), LeaseState::Held);
    drop(guard);
    let closed = async { while futures::StreamExt::next(&mut session).await.is_some() {} };
    timeout(LIMIT, closed).await.expect("it closes");
    nothing_left(&other, &paths).await;
}

#[tokio::test]
async fn a_panicking_listener_releases_all_paths_and_harms_nothing_else() {
    let (keeper, other, paths) = (connect().await, connect().await, paths::<2>("panics"));
    let held = one(&other, &paths[0]).acquire().await.expect("free");
    let (said, mut heard) = mpsc::unbounded_channel();
    all(&keeper, &paths).acquire().listen(move |event| {
        said.send(()).expect("the test listens");
        panic!("on {event:?}, on purpose")
    });
    timeout(LIMIT, heard.recv()).await.expect("it is queued").expect("an event");
    caught_up(&other).await;
    until_queued(&other, &paths[1], 0).await;
    held.release().await.expect("released");
    let guard = timeout(LIMIT, all(&keeper, &paths).acquire()).await.expect("in time").expect("free");
    guard.release().await.expect("released");
    nothing_left(&other, &paths).await;
}

/// Reports the tokens of its locks, and then runs until it is ended.
struct Worker;

type Tokens = Vec<(String, FencingToken)>;

#[ractor::actor(message = (), state = LeaseView, arguments = (LeaseView, mpsc::UnboundedSender<Tokens>))]
impl Worker {
    async fn pre_start(
        &self,
        _: ActorRef<()>,
        (view, report): (LeaseView, mpsc::UnboundedSender<Tokens>),
    ) -> Result<LeaseView, ActorProcessingErr> {
        let tokens = view.tokens().map(|(path, token)| (path.to_owned(), token)).collect();
        report.send(tokens)?;
        Ok(view)
    }
}
