//! Which candidate runs the actor, and that nothing is left of it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use lockkeeper::LeaseState;
use lockkeeper::singleton::{CandidateState, SingletonOptions};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::common::{TestServer, eventually, shared, unique_path};
use crate::leaders::{Observed, listener};
use crate::member::{Arguments, Behavior, Member, Note, Order, Probe, SOON, connect};

#[tokio::test]
async fn one_of_three_candidates_runs_and_a_handover_starts_the_next_under_a_larger_token() {
    let path = unique_path("one-of-three");
    let behavior = Behavior { slow_to_stop: Duration::from_millis(100), ..Behavior::default() };
    let mut members = Vec::new();
    for number in 1..=3 {
        members.push(Member::join(&path, behavior).await);
        let all_queued = async || members[0].contenders().await == number;
        eventually("it is queued", SOON, all_queued).await;
    }
    let mut newest = None;
    for number in 0..3 {
        let (_, lease) = members[number].started().await;
        assert!(Some(lease.token()) > newest, "tokens must grow");
        newest = Some(lease.token());
        let running = members[number].candidate().running().await;
        assert_eq!(running.expect("it runs").token(), lease.token());
        for other in &mut members[number + 1..] {
            assert!(other.notes.try_recv().is_err(), "two members run the actor");
            assert!(other.candidate.as_ref().is_some_and(|candidate| candidate.lease().is_none()));
        }
        members[number].shutdown().await;
        let Note::Stopped(LeaseState::Held) = members[number].note().await else { panic!("not stopped") };
        assert_eq!(lease.state(), LeaseState::Lost, "released");
    }
    // Another server of the ensemble may see it a little later.
    eventually("no node is left", SOON, async || members[0].contenders().await == 0).await;
}

#[tokio::test]
async fn a_crash_moves_the_actor_to_the_next_member_and_each_run_has_its_own_token() {
    let path = unique_path("crash");
    let mut first = Member::join(&path, Behavior::default()).await;
    let (actor, lease) = first.started().await;
    let mut second = Member::join(&path, Behavior::default()).await;
    eventually("both are queued", SOON, async || second.contenders().await == 2).await;
    actor.cast(Order::Panic).expect("it runs");
    let (actor, next) = second.started().await;
    assert!(next.token() > lease.token());
    eventually("the first one queues again", SOON, async || second.contenders().await == 2).await;
    // An actor that ends by itself hands over too.
    actor.cast(Order::End).expect("it runs");
    let Note::Stopped(LeaseState::Held) = second.note().await else { panic!("not stopped") };
    let (_, last) = first.started().await;
    assert!(last.token() > next.token());
}

#[tokio::test]
async fn a_failed_start_is_reported_and_another_candidate_takes_over() {
    let path = unique_path("no-start");
    let behavior = Behavior { fails_to_start: true, ..Behavior::default() };
    let mut broken = Member::join(&path, behavior).await;
    let candidate = broken.candidate();
    timeout(SOON, async {
        loop {
            if let CandidateState::Resting { reason, .. } = candidate.changed().await {
                assert!(reason.to_string().contains("on purpose"), "{reason}");
                return;
            }
        }
    })
    .await
    .expect("the candidate backs off");
    let mut second = Member::join(&path, Behavior::default()).await;
    second.started().await;
}

#[tokio::test]
async fn a_panicking_closure_fails_only_its_own_run() {
    let keeper = connect(&shared().address()).await;
    let (sender, mut notes) = mpsc::unbounded_channel();
    let mut tries = 0;
    let options = SingletonOptions::new().backoff(Duration::from_millis(10), Duration::from_millis(20));
    let singleton = keeper.singleton_with(&unique_path("closure"), options).expect("a valid path");
    let candidate = singleton.run(
        move |lease| {
            tries += 1;
            assert!(tries > 2, "on purpose");
            (Probe, (lease, Behavior::default(), sender.clone()))
        },
        |_| None,
    );
    let begun = timeout(SOON, notes.recv()).await;
    assert!(matches!(begun, Ok(Some(Note::Busy))));
    candidate.shutdown().await;
}

struct PanicsWhenDropped(mpsc::UnboundedSender<()>);

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
        panic!("a destructor that panics, on purpose");
    }
}

#[tokio::test]
async fn a_closure_that_panics_when_it_is_dropped_does_not_harm_the_keeper() {
    let keeper = connect(&shared().address()).await;
    let path = unique_path("closure");
    let guard = keeper.lock(&path).expect("a valid path").acquire().await.expect("connected");
    let (sender, mut dropped) = mpsc::unbounded_channel();
    let owned = PanicsWhenDropped(sender);
    let make = move |_| -> (Probe, Arguments) { unreachable!("{:p}: the lock is taken", &owned) };
    let candidate = keeper.singleton(&path).expect("a valid path").run(make, |_| None);
    timeout(SOON, candidate.shutdown()).await.expect("it ends");
    assert_eq!(timeout(SOON, dropped.recv()).await, Ok(Some(())));
    let another = keeper.lock(&unique_path("closure")).expect("a valid path");
    drop(another.acquire().await.expect("the keeper works"));
    assert_eq!(guard.release().await, Ok(()));
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_killed() {
    let path = unique_path("slow-start");
    let behavior = Behavior { slow_to_start: Duration::from_secs(3600), ..Behavior::default() };
    let options = SingletonOptions::new().grace(Duration::from_millis(50));
    let mut slow = Member::join_with(&shared().address(), &path, behavior, options).await;
    slow.busy().await;
    assert!(matches!(slow.candidate().state(), CandidateState::Starting(_)), "{:?}", slow.candidate);
    assert!(slow.candidate().lease().is_none(), "it does not run yet");
    let running = timeout(Duration::from_millis(200), slow.candidate().running()).await;
    assert!(running.is_err(), "it does not run yet");
    slow.shutdown().await;
    assert_eq!(slow.contenders().await, 0);
}

#[tokio::test]
async fn closing_the_keeper_stops_the_actor_while_the_lock_is_held() {
    let behavior = Behavior { slow_to_stop: Duration::from_millis(100), ..Behavior::default() };
    let mut member = Member::join(&unique_path("close"), behavior).await;
    let (_, lease) = member.started().await;
    timeout(SOON, member.keeper.close()).await.expect("it closes");
    assert!(matches!(member.note().await, Note::Stopped(LeaseState::Held)));
    assert_eq!(lease.state(), LeaseState::Lost);
    let candidate = member.candidate.take().expect("a candidate");
    assert!(matches!(candidate.state(), CandidateState::Over));
    timeout(SOON, candidate.shutdown()).await.expect("it has already ended");
    // A candidate of a closed keeper ends at once.
    let mut late = member.singleton.run(|_| -> (Probe, Arguments) { unreachable!() }, |_| None);
    assert!(timeout(SOON, late.running()).await.expect("it ends").is_none());
}

#[tokio::test]
async fn a_candidate_that_waits_has_not_changed_until_its_turn() {
    let path = unique_path("waits");
    let mut first = Member::join(&path, Behavior::default()).await;
    first.started().await;
    let mut second = Member::join(&path, Behavior::default()).await;
    assert!(matches!(second.candidate().state(), CandidateState::Waiting));
    eventually("both are queued", SOON, async || second.contenders().await == 2).await;
    assert!(second.candidate().changed().now_or_never().is_none(), "it still waits");
    drop(first.candidate.take());
    let next = timeout(SOON, second.candidate().changed()).await.expect("it is its turn");
    assert!(matches!(next, CandidateState::Starting(_) | CandidateState::Running { .. }), "{next:?}");
}

#[tokio::test]
async fn a_dropped_candidate_hands_over_in_the_background() {
    let path = unique_path("dropped");
    let mut first = Member::join(&path, Behavior::default()).await;
    first.started().await;
    let mut second = Member::join(&path, Behavior::default()).await;
    drop(first.candidate.take());
    assert!(matches!(first.note().await, Note::Stopped(LeaseState::Held)));
    second.started().await;
}

#[tokio::test]
async fn nothing_is_left_of_candidates_runs_and_observers() {
    let server = Arc::new(TestServer::start());
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for round in 0..3 {
        let path = format!("/nothing-left-{round}");
        let options = SingletonOptions::new;
        let mut first = Member::join_with(&server.address(), &path, Behavior::default(), options()).await;
        let (run, _) = first.started().await;
        let mut second = Member::join_with(&server.address(), &path, Behavior::default(), options()).await;
        let (actor, observed) = listener().await;
        first.singleton.subscribe(&actor, |_| Observed(None));
        eventually("both are queued", SOON, async || second.contenders().await == 2).await;
        run.cast(Order::Panic).expect("it runs");
        second.started().await;
        assert!(metrics.num_alive_tasks() > before);
        first.keeper.close().await;
        second.keeper.close().await;
        actor.stop_and_wait(None, Some(SOON)).await.expect("it stops");
        drop((first, second, observed));
        let gone = async || metrics.num_alive_tasks() == before;
        eventually("every actor and task is gone", SOON, gone).await;
    }
    // Another server of an ensemble may see it a little later.
    eventually("no node is left", SOON, async || server.mntr("zk_ephemerals_count") == 0).await;
}
