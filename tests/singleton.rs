//! One actor in the cluster: who runs it, what it is told, when it ends, and that nothing is left of it.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{TestServer, eventually, proxied, shared, unique_path};
use futures::StreamExt;
use lockkeeper::{
    Candidate, CandidateState, Keeper, LeaseState, Reason, SessionEvent, Singleton, SingletonOptions, Term,
    TermEvent, Terms,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(20);

/// Of sessions whose end a test waits for.
const SHORT: Duration = Duration::from_secs(2);

/// What an actor under test does.
#[derive(Clone, Copy, Default)]
struct Ways {
    fails_to_start: bool,
    slow_to_start: Duration,
    slow_to_stop: Duration,
}

enum Order {
    Told(TermEvent),
    Panic,
    End,
    /// Awaits for ever.
    Hang,
    /// Starts a child that awaits for ever.
    Child,
}

#[cfg(feature = "cluster")]
impl ractor::Message for Order {}

/// What became of it.
#[derive(Debug)]
enum Note {
    Started(ActorRef<Order>, Term),
    Told(TermEvent),
    /// `post_stop` is over; what the lease said then.
    Stopped(LeaseState),
    /// A handler was cut short; what the lease said then.
    Cut(LeaseState),
}

struct Probe;

type Arguments = (Term, Ways, mpsc::UnboundedSender<Note>);

/// Notes when it is dropped.
struct OnDrop(Term, mpsc::UnboundedSender<Note>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.1.send(Note::Cut(self.0.state()));
    }
}

#[ractor::actor(message = Order, state = Arguments, arguments = Arguments)]
impl Probe {
    async fn pre_start(
        &self,
        myself: ActorRef<Order>,
        arguments: Arguments,
    ) -> Result<Arguments, ActorProcessingErr> {
        sleep(arguments.1.slow_to_start).await;
        if arguments.1.fails_to_start {
            return Err("as it was told to".into());
        }
        let _ = arguments.2.send(Note::Started(myself, arguments.0.clone()));
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: ActorRef<Order>,
        order: Order,
        (term, ways, notes): &mut Arguments,
    ) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Told(event) => drop(notes.send(Note::Told(event))),
            Order::Panic => panic!("as it was told to"),
            Order::End => myself.stop(None),
            Order::Hang => {
                let _cut = OnDrop(term.clone(), notes.clone());
                std::future::pending::<()>().await;
            }
            Order::Child => {
                let (sender, mut child_notes) = mpsc::unbounded_channel();
                let arguments = (term.clone(), *ways, sender);
                let (child, _) = Actor::spawn_linked(None, Probe, arguments, myself.get_cell()).await?;
                child.cast(Order::Hang)?;
                let notes = notes.clone();
                tokio::spawn(async move {
                    while let Some(note) = child_notes.recv().await {
                        let _ = notes.send(note);
                    }
                });
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Order>,
        (term, ways, notes): &mut Arguments,
    ) -> Result<(), ActorProcessingErr> {
        sleep(ways.slow_to_stop).await;
        let _ = notes.send(Note::Stopped(term.state()));
        Ok(())
    }
}

/// One member of the cluster.
struct Member {
    keeper: Keeper,
    singleton: Singleton,
    candidate: Option<Candidate>,
    notes: mpsc::UnboundedReceiver<Note>,
}

impl Member {
    async fn join(path: &str, ways: Ways) -> Member {
        Member::join_with(&shared().address(), path, ways, SingletonOptions::new()).await
    }

    async fn join_with(address: &str, path: &str, ways: Ways, options: SingletonOptions) -> Member {
        let keeper = connect(address).await;
        let options = options.backoff(Duration::from_millis(20), Duration::from_millis(200));
        let singleton = keeper.singleton_with(path, options).expect("a good path");
        let (sender, notes) = mpsc::unbounded_channel();
        let candidate = singleton
            .run(move |term| (Probe, (term, ways, sender.clone())), |event| Some(Order::Told(event)));
        Member { keeper, singleton, candidate: Some(candidate), notes }
    }

    async fn note(&mut self) -> Note {
        let note = timeout(SOON, self.notes.recv()).await;
        note.expect("a note in time").expect("the candidate lives")
    }

    async fn started(&mut self) -> (ActorRef<Order>, Term) {
        match self.note().await {
            Note::Started(actor, term) => (actor, term),
            other => panic!("not started, but {other:?}"),
        }
    }

    async fn shutdown(&mut self) {
        let candidate = self.candidate.take().expect("a candidate");
        timeout(SOON, candidate.shutdown()).await.expect("it hands over");
    }

    async fn contenders(&self) -> usize {
        let lock = self.keeper.lock(self.singleton.path()).expect("a good path");
        lock.contenders().await.expect("connected").len()
    }
}

async fn connect(address: &str) -> Keeper {
    Keeper::options().session_timeout(SHORT).connect(address).await.expect("connected")
}

#[tokio::test]
async fn one_of_three_runs_and_handing_over_starts_the_next_under_a_larger_token() {
    let path = unique_path("one-of-three");
    let ways = Ways { slow_to_stop: Duration::from_millis(100), ..Ways::default() };
    let mut members = Vec::new();
    for number in 1..=3 {
        members.push(Member::join(&path, ways).await);
        let all_queued = async || members[0].contenders().await == number;
        eventually("it stands in the queue", SOON, all_queued).await;
    }
    let mut newest = None;
    for number in 0..3 {
        let (_, term) = members[number].started().await;
        assert!(Some(term.token()) > newest, "tokens grow");
        newest = Some(term.token());
        let told = members[number].candidate.as_mut().expect("a candidate").running().await;
        assert_eq!(told.expect("it runs").token(), term.token());
        for other in &mut members[number + 1..] {
            assert!(other.notes.try_recv().is_err(), "two were started");
            assert!(other.candidate.as_ref().is_some_and(|candidate| candidate.term().is_none()));
        }
        members[number].shutdown().await;
        let Note::Stopped(LeaseState::Held) = members[number].note().await else { panic!("not stopped") };
        assert_eq!(term.state(), LeaseState::Lost, "released");
    }
    assert_eq!(members[0].contenders().await, 0);
}

#[tokio::test]
async fn a_crash_moves_the_actor_to_the_next_member_and_each_run_has_a_token_of_its_own() {
    let path = unique_path("crash");
    let mut first = Member::join(&path, Ways::default()).await;
    let (actor, term) = first.started().await;
    let mut second = Member::join(&path, Ways::default()).await;
    eventually("both stand in the queue", SOON, async || second.contenders().await == 2).await;
    actor.cast(Order::Panic).expect("it runs");
    let (actor, next) = second.started().await;
    assert!(next.token() > term.token());
    eventually("the first one queues again", SOON, async || second.contenders().await == 2).await;
    // One that ends by itself hands over just as well.
    actor.cast(Order::End).expect("it runs");
    let Note::Stopped(LeaseState::Held) = second.note().await else { panic!("not stopped") };
    let (_, last) = first.started().await;
    assert!(last.token() > next.token());
}

#[tokio::test]
async fn an_actor_that_does_not_start_is_tried_again_by_others_and_the_reason_is_told() {
    let path = unique_path("no-start");
    let ways = Ways { fails_to_start: true, ..Ways::default() };
    let mut broken = Member::join(&path, ways).await;
    let candidate = broken.candidate.as_mut().expect("a candidate");
    timeout(SOON, async {
        loop {
            if let CandidateState::Resting { reason } = candidate.changed().await {
                assert!(reason.contains("as it was told to"), "{reason}");
                return;
            }
        }
    })
    .await
    .expect("it rests");
    let mut sound = Member::join(&path, Ways::default()).await;
    sound.started().await;
}

#[tokio::test]
async fn a_closure_that_panics_fails_its_run_and_nothing_else() {
    let keeper = connect(&shared().address()).await;
    let (sender, mut notes) = mpsc::unbounded_channel();
    let mut tries = 0;
    let options = SingletonOptions::new().backoff(Duration::from_millis(10), Duration::from_millis(20));
    let singleton = keeper.singleton_with(&unique_path("closure"), options).expect("a good path");
    let candidate = singleton.run(
        move |term| {
            tries += 1;
            assert!(tries > 2, "as it was told to");
            (Probe, (term, Ways::default(), sender.clone()))
        },
        |_| None,
    );
    let started = timeout(SOON, notes.recv()).await;
    assert!(matches!(started, Ok(Some(Note::Started(..)))));
    candidate.shutdown().await;
}

#[tokio::test]
async fn doubt_is_told_and_a_short_one_stops_nothing() {
    let proxy = proxied().await;
    let path = unique_path("doubt");
    let options = SingletonOptions::new();
    let mut member = Member::join_with(&proxy.address(), &path, Ways::default(), options).await;
    let (_, term) = member.started().await;
    proxy.refuse(true);
    proxy.cut();
    assert!(matches!(member.note().await, Note::Told(TermEvent::Suspended)));
    proxy.refuse(false);
    assert!(matches!(member.note().await, Note::Told(TermEvent::Resumed)));
    assert_eq!(term.state(), LeaseState::Held);
}

#[tokio::test]
async fn a_doubt_stops_it_where_that_was_chosen() {
    let proxy = proxied().await;
    let options = SingletonOptions::new().stop_when_suspended(true);
    let path = unique_path("first-doubt");
    let mut member = Member::join_with(&proxy.address(), &path, Ways::default(), options).await;
    let (_, term) = member.started().await;
    proxy.refuse(true);
    proxy.cut();
    assert!(matches!(member.note().await, Note::Stopped(LeaseState::Suspended)));
    proxy.refuse(false);
    let (_, next) = member.started().await;
    assert!(next.token() > term.token());
}

#[tokio::test]
async fn cut_off_it_is_stopped_before_its_lease_ends_and_the_next_one_starts_after_that() {
    let proxy = proxied().await;
    let path = unique_path("cut-off");
    let options = SingletonOptions::new();
    let mut alone = Member::join_with(&proxy.address(), &path, Ways::default(), options).await;
    let (_, term) = alone.started().await;
    let mut other = Member::join(&path, Ways::default()).await;
    eventually("it stands in the queue", SOON, async || other.contenders().await == 2).await;
    proxy.black_hole(true);
    assert!(matches!(alone.note().await, Note::Told(TermEvent::Suspended)));
    assert!(matches!(alone.note().await, Note::Stopped(LeaseState::Suspended)), "stopped too late");
    let (_, next) = other.started().await;
    assert!(next.token() > term.token());
    assert_eq!(term.state(), LeaseState::Lost);
}

#[tokio::test]
async fn a_handler_that_awaits_for_ever_is_killed_before_the_lease_ends_and_its_children_with_it() {
    let proxy = proxied().await;
    let path = unique_path("hangs");
    let options = SingletonOptions::new().grace(SOON);
    let mut alone = Member::join_with(&proxy.address(), &path, Ways::default(), options).await;
    let (actor, _) = alone.started().await;
    actor.cast(Order::Child).expect("it runs");
    let (child, _) = alone.started().await;
    actor.cast(Order::Hang).expect("it runs");
    proxy.black_hole(true);
    for _ in 0..2 {
        let Note::Cut(state) = alone.note().await else { panic!("not killed") };
        assert_eq!(state, LeaseState::Suspended, "killed too late");
    }
    timeout(SOON, child.wait(None)).await.expect("it ends").expect("no time limit");
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_killed_as_well() {
    let path = unique_path("slow-start");
    let ways = Ways { slow_to_start: Duration::from_secs(3600), ..Ways::default() };
    let options = SingletonOptions::new().grace(Duration::from_millis(50));
    let mut slow = Member::join_with(&shared().address(), &path, ways, options).await;
    let running = slow.candidate.as_mut().expect("a candidate").running();
    assert!(timeout(SOON, running).await.expect("its turn").is_some());
    slow.shutdown().await;
    assert_eq!(slow.contenders().await, 0);
}

#[tokio::test]
async fn closing_the_keeper_stops_the_actor_while_the_lock_is_held() {
    let ways = Ways { slow_to_stop: Duration::from_millis(100), ..Ways::default() };
    let mut member = Member::join(&unique_path("close"), ways).await;
    let (_, term) = member.started().await;
    timeout(SOON, member.keeper.close()).await.expect("it closes");
    assert!(matches!(member.note().await, Note::Stopped(LeaseState::Held)));
    assert_eq!(term.state(), LeaseState::Lost);
    let candidate = member.candidate.take().expect("a candidate");
    assert!(matches!(candidate.state(), CandidateState::Over));
    timeout(SOON, candidate.shutdown()).await.expect("it is over already");
    // A candidate of a closed keeper is over at once.
    let mut late = member.singleton.run(|_| -> (Probe, Arguments) { unreachable!() }, |_| None);
    assert!(timeout(SOON, late.running()).await.expect("it is told").is_none());
}

#[tokio::test]
async fn everybody_can_ask_who_leads_and_is_told_when_that_changes() {
    let path = unique_path("leaders");
    let observer = connect(&shared().address()).await;
    let singleton = observer.singleton(&path).expect("a good path");
    assert_eq!(singleton.leader().await, Ok(None));
    let mut leaders = singleton.leaders();
    let (actor, mut messages) = listener().await;
    singleton.subscribe(&actor, |leader| Heard(leader.expect("allowed").map(|leader| leader.identifier)));
    let mut next = async || {
        let leader = timeout(SOON, leaders.next()).await.expect("in time").expect("it goes on");
        let leader = leader.expect("allowed").map(|leader| leader.identifier);
        let heard = timeout(SOON, messages.recv()).await.expect("in time").expect("it lives");
        assert_eq!(leader, heard);
        leader
    };
    assert_eq!(next().await, None);

    let named = |name: &str| SingletonOptions::new().advertise(name);
    let address = shared().address();
    let mut one = Member::join_with(&address, &path, Ways::default(), named("one:9000")).await;
    assert_eq!(next().await.as_deref(), Some("one:9000"));
    let (_, term) = one.started().await;
    let leader = singleton.leader().await.expect("connected").expect("somebody");
    assert_eq!((leader.identifier.as_str(), leader.token), ("one:9000", term.token()));

    let mut two = Member::join_with(&address, &path, Ways::default(), named("two:9000")).await;
    eventually("it stands in the queue", SOON, async || two.contenders().await == 2).await;
    one.shutdown().await;
    assert_eq!(next().await.as_deref(), Some("two:9000"));
    two.shutdown().await;
    assert_eq!(next().await, None);
    actor.stop(None);
}

#[tokio::test]
async fn watching_who_leads_survives_a_lost_session_and_ends_with_the_keeper() {
    let proxy = proxied().await;
    let path = unique_path("leaders-lost");
    let observer = connect(&proxy.address()).await;
    let mut leaders = observer.singleton(&path).expect("a good path").leaders();
    let mut next = async || timeout(SOON, leaders.next()).await.expect("in time");
    assert_eq!(next().await, Some(Ok(None)));
    let mut events = observer.events();
    proxy.black_hole(true);
    let lost = |event| matches!(event, lockkeeper::SessionEvent::Lost { .. });
    timeout(SOON, async { while !lost(events.next().await.expect("told")) {} }).await.expect("it is lost");
    let mut member = Member::join(&path, Ways::default()).await;
    member.started().await;
    proxy.black_hole(false);
    proxy.cut();
    assert!(matches!(next().await, Some(Ok(Some(_)))));
    observer.close().await;
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn a_candidate_that_is_dropped_hands_over_in_the_background() {
    let path = unique_path("dropped");
    let mut first = Member::join(&path, Ways::default()).await;
    first.started().await;
    let mut second = Member::join(&path, Ways::default()).await;
    drop(first.candidate.take());
    assert!(matches!(first.note().await, Note::Stopped(LeaseState::Held)));
    second.started().await;
}

#[tokio::test]
async fn an_actor_under_a_guard_gives_the_guard_back_whatever_its_end() {
    let keeper = connect(&shared().address()).await;
    let lock = keeper.lock(&unique_path("under-guard")).expect("a good path");
    let mut guard = lock.acquire().await.expect("connected");
    let ends: [(Option<Order>, Reason); 3] =
        [(Some(Order::End), Reason::Finished), (Some(Order::Panic), Reason::Failed), (None, Reason::Stopped)];
    for (order, reason) in ends {
        let (sender, mut notes) = mpsc::unbounded_channel();
        let token = guard.token();
        let make = move |term: Term| (Probe, (term, Ways::default(), sender));
        let run = guard.run(Terms::default(), make, |event| Some(Order::Told(event)));
        let Ok(Some(Note::Started(actor, term))) = timeout(SOON, notes.recv()).await else {
            panic!("not started")
        };
        assert_eq!(term.token(), token);
        assert!(lock.try_acquire().await.is_err(), "held while it works");
        match order {
            Some(order) => actor.cast(order).expect("it runs"),
            None => run.stop(),
        }
        let ended = timeout(SOON, run.ended()).await.expect("it ends").expect("held");
        assert_eq!(ended.reason, reason);
        assert_eq!(ended.error.is_some(), reason == Reason::Failed);
        assert_eq!(ended.guard.state(), LeaseState::Held);
        guard = ended.guard;
    }
}

#[tokio::test]
async fn an_actor_under_a_guard_is_killed_with_a_node_that_was_deleted_by_hand() {
    let keeper = connect(&shared().address()).await;
    let guard =
        keeper.lock(&unique_path("by-hand")).expect("a good path").acquire().await.expect("connected");
    let node = guard.node().to_owned();
    let (sender, mut notes) = mpsc::unbounded_channel();
    let make = move |term: Term| (Probe, (term, Ways::default(), sender));
    let run = guard.run(Terms::default(), make, |_| None);
    let Ok(Some(Note::Started(actor, _))) = timeout(SOON, notes.recv()).await else { panic!("not started") };
    actor.cast(Order::Hang).expect("it runs");
    let operator = zookeeper_client::Client::connect(&shared().address()).await.expect("connected");
    operator.delete(&node, None).await.expect("it is there");
    let ended = timeout(SOON, run.ended()).await.expect("it ends").expect("told");
    assert_eq!((ended.reason, ended.guard.state()), (Reason::Lease, LeaseState::Lost));
}

#[tokio::test]
async fn dropping_a_run_stops_the_actor_and_releases_the_lock_after_that() {
    let keeper = connect(&shared().address()).await;
    let lock = keeper.lock(&unique_path("run-dropped")).expect("a good path");
    let guard = lock.acquire().await.expect("connected");
    let (sender, mut notes) = mpsc::unbounded_channel();
    let ways = Ways { slow_to_stop: Duration::from_millis(100), ..Ways::default() };
    let run = guard.run(Terms::default(), move |term| (Probe, (term, ways, sender)), |_| None);
    assert!(matches!(timeout(SOON, notes.recv()).await, Ok(Some(Note::Started(..)))));
    drop(run);
    let next = timeout(SOON, lock.acquire()).await.expect("released").expect("connected");
    assert!(matches!(notes.try_recv(), Ok(Note::Stopped(LeaseState::Held))), "stopped before");
    next.release().await.expect("held");
}

#[tokio::test]
async fn nothing_is_left_of_candidates_runs_and_observers() {
    let server = Arc::new(TestServer::start());
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for round in 0..3 {
        let path = format!("/nothing-left-{round}");
        let options = SingletonOptions::new;
        let mut first = Member::join_with(&server.address(), &path, Ways::default(), options()).await;
        let (run, _) = first.started().await;
        let mut second = Member::join_with(&server.address(), &path, Ways::default(), options()).await;
        let (actor, heard) = listener().await;
        first.singleton.subscribe(&actor, |_| Heard(None));
        eventually("both stand in the queue", SOON, async || second.contenders().await == 2).await;
        run.cast(Order::Panic).expect("it runs");
        second.started().await;
        assert!(metrics.num_alive_tasks() > before);
        first.keeper.close().await;
        second.keeper.close().await;
        actor.stop_and_wait(None, Some(SOON)).await.expect("it stops");
        drop((first, second, heard));
        let gone = async || metrics.num_alive_tasks() == before;
        eventually("every actor and task is gone", SOON, gone).await;
    }
    assert_eq!(server.mntr("zk_ephemerals_count"), 0);
}

/// An actor that passes on what it hears.
async fn listener() -> (ActorRef<Heard>, mpsc::UnboundedReceiver<Option<String>>) {
    let (sender, heard) = mpsc::unbounded_channel();
    let (actor, _) = Actor::spawn(None, Listener, sender).await.expect("it starts");
    (actor, heard)
}

struct Listener;

struct Heard(Option<String>);

#[cfg(feature = "cluster")]
impl ractor::Message for Heard {}

#[ractor::actor(
    message = Heard,
    state = mpsc::UnboundedSender<Option<String>>,
    arguments = mpsc::UnboundedSender<Option<String>>
)]
impl Listener {
    async fn pre_start(
        &self,
        _: ActorRef<Heard>,
        sender: mpsc::UnboundedSender<Option<String>>,
    ) -> Result<mpsc::UnboundedSender<Option<String>>, ActorProcessingErr> {
        Ok(sender)
    }

    async fn handle(
        &self,
        _: ActorRef<Heard>,
        Heard(leader): Heard,
        sender: &mut mpsc::UnboundedSender<Option<String>>,
    ) -> Result<(), ActorProcessingErr> {
        let _ = sender.send(leader);
        Ok(())
    }
}

/// The client resumes no session that watches more than 128 KiB of paths.
#[tokio::test]
async fn a_thousand_watched_singletons_do_not_cost_the_session() {
    const PATHS: usize = 1000;
    let (proxy, directory) = (proxied().await, unique_path(&"p".repeat(150)));
    let holder = connect(&shared().address()).await;
    let watcher = connect(&proxy.address()).await;
    let guard = watcher.lock(&unique_path("mine")).expect("a path").acquire().await.expect("free");
    let (mut candidates, mut watching) = (Vec::new(), Vec::new());
    for number in 0..PATHS {
        let path = format!("{directory}-{number}");
        candidates.push(holder.lock(&path).expect("a path").acquire().await.expect("free"));
        let mut leaders = watcher.singleton(&path).expect("a path").leaders();
        assert!(leaders.next().await.expect("an answer").expect("connected").is_some());
        // Whoever looks on leaves a watch.
        watching.push(tokio::spawn(async move { leaders.next().await }));
    }
    let mut events = watcher.events();
    assert_eq!(events.next().await, Some(SessionEvent::Connected { epoch: 1 }));
    proxy.cut();
    assert_eq!(events.next().await, Some(SessionEvent::Suspended { epoch: 1 }));
    assert_eq!(events.next().await, Some(SessionEvent::Resumed { epoch: 1 }));
    assert_eq!(guard.state(), LeaseState::Held);
    watching.iter().for_each(|task| task.abort());
}
