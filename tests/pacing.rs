//! What a client that fails for ever, or once, makes of every kind of request: it is repeated, but ever more slowly.

#[path = "pacing/failing.rs"]
mod failing;

mod common;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use common::{eventually, shared, unique_path};
use failing::{Failing, Kind};
use futures::FutureExt;
use futures::future::join_all;
use lockkeeper::actors::machine::protocol::{Failure, Wait};
use lockkeeper::actors::machine::znode::{Dialect, Mode};
use lockkeeper::actors::messages::{
    AcquireRequest, ContenderOptions, Lifeline, Listener, LockEvent, LockMessage, Permits, Place, Ticket,
};
use lockkeeper::actors::multi::{MultiMessage, MultiPart, MultiRequest};
use lockkeeper::actors::supervisor::{self, KeeperSettings, RestartPolicy, Started};
use lockkeeper::actors::zookeeper::{Acl, AuthId, Permission};
use lockkeeper::actors::{Clock, PrimitivesMessage, Randomness};
use tokio::sync::{mpsc, oneshot};
use zookeeper_client::{Acls, CreateMode};

const SOON: Duration = Duration::from_secs(20);

/// For how long requests are counted, and how many of one kind there may be at most. Pauses double from a tenth of a
/// second, less up to a half: so there are seven at most, and one without a pause before them. A slow machine sends
/// fewer.
const WINDOW: Duration = Duration::from_secs(3);
const MOST: usize = 10;

/// A keeper whose requests fail on demand.
struct Test {
    started: Started,
    lifeline: Arc<Lifeline>,
    path: String,
    failing: Arc<Failing>,
    observer: zookeeper_client::Client,
}

type Events = mpsc::UnboundedReceiver<LockEvent>;

impl Test {
    async fn new(name: &str) -> Test {
        let failing = Failing::new(&shared().address());
        let settings = KeeperSettings {
            clock: Clock::start(),
            connector: failing.clone(),
            connect_timeout: SOON,
            tick: None,
            randomness: Randomness::default(),
            restart: RestartPolicy::default(),
            close_timeout: None,
        };
        let started = supervisor::start(settings).await.expect("the test's server takes connections");
        let lifeline = Arc::new(Lifeline::new(started.keeper.clone()));
        let observer = zookeeper_client::Client::connect(&shared().address()).await.expect("connected");
        Test { started, lifeline, path: unique_path(name), failing, observer }
    }

    fn lock(&self) -> (Ticket, Events) {
        self.acquire(Place::lock(&self.path), None)
    }

    fn permit(&self) -> (Ticket, Events) {
        let permits = Permits { count: 1, limit: Some(1), agreed: false };
        self.acquire(Place::semaphore(&self.path), Some(permits))
    }

    fn acquire(&self, place: Place, permits: Option<Permits>) -> (Ticket, Events) {
        let (ticket, (sender, events)) = (Ticket::new(), mpsc::unbounded_channel());
        let listener = Listener::new(ticket, place.path.clone(), move |event| {
            let _ = sender.send(event);
        });
        let mut request =
            AcquireRequest::new(ticket, options(), Wait::Forever, listener, self.lifeline.clone());
        if let Some(permits) = permits {
            request = request.permits(permits);
        }
        self.tell(PrimitivesMessage::Open(place.clone()));
        self.tell(PrimitivesMessage::Lock(place, LockMessage::Acquire(request)));
        (ticket, events)
    }

    /// The lock at this path and another one, both at once; tells where the other one is.
    async fn lock_two(&self) -> String {
        let other = unique_path("pacing-other");
        self.make(&other).await;
        let listener = Listener::new(Ticket::new(), "both".into(), |_| {});
        let part = |path: &String| MultiPart { path: path.as_str().into(), options: options() };
        let parts = [&self.path, &other].map(part);
        let request =
            MultiRequest::new(Ticket::new(), parts.into(), Wait::Forever, listener, self.lifeline.clone());
        self.tell(PrimitivesMessage::Multi(MultiMessage::Acquire(request)));
        other
    }

    fn ask(&self, place: Place, question: LockMessage) {
        self.tell(PrimitivesMessage::Open(place.clone()));
        self.tell(PrimitivesMessage::Lock(place, question));
    }

    fn tell(&self, message: PrimitivesMessage) {
        self.started.primitives.cast(message).expect("it runs");
    }

    async fn make(&self, directory: &str) {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.observer.mkdir(directory, &options).await.expect("a directory");
    }

    /// Somebody else's contender.
    async fn stranger(&self) {
        self.make(&self.path).await;
        let name = format!("{}/0123456789abcdef0123456789abcdef__lock__", self.path);
        let contender = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
        self.observer.create(&name, b"", &contender).await.expect("a new node");
    }

    /// Ends the actors of the paths, as a panic does.
    fn kill_actors(&self) {
        self.started.primitives.get_children().iter().for_each(|actor| actor.kill());
    }

    async fn until_nobody_is_at(&self, path: &str) {
        eventually("every node is gone", SOON, async || {
            self.observer.sync("/").await.expect("connected");
            self.observer.list_children(path).await.is_ok_and(|children| children.is_empty())
        })
        .await;
    }

    /// Counts what is sent of this kind, of which there is at least one.
    async fn is_paced(&self, kind: Kind, failure: &Failure) {
        let what = format!("{kind:?} is asked again after {failure:?}");
        eventually(&what, SOON, async || self.failing.failed() >= 2).await;
        tokio::time::sleep(WINDOW).await;
        let sent = self.failing.failed();
        assert!(sent <= MOST, "{kind:?}, {failure:?}: {sent} requests in {WINDOW:?}");
    }
}

fn options() -> Arc<ContenderOptions> {
    Arc::new(ContenderOptions {
        mode: Mode::Lock,
        dialect: Dialect::Kazoo,
        identifier: Vec::new(),
        patterns: Arc::from([]),
        ephemeral: true,
        container: false,
        acl: vec![Acl::new(Permission::ALL, AuthId::anyone())],
        max_waiting: None,
    })
}

async fn granted(events: &mut Events) -> LockEvent {
    loop {
        match events.recv().await.expect("the keeper runs") {
            LockEvent::Queued { .. } => {}
            event @ LockEvent::Acquired { .. } => return event,
            other => panic!("not granted, but {other:?}"),
        }
    }
}

fn lost() -> Failure {
    Failure::Unknown("the answer was lost".into())
}

fn throttled() -> Failure {
    Failure::Refused("throttled".into())
}

/// What is done while requests of a kind fail.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Lock,
    LockBehindStranger,
    LockTwo,
    Release,
    /// Its actor dies, and leaves a node.
    Die,
    Permit,
    /// In a root that is there.
    NextPermit,
    PermitBehindAnother,
    ReturnPermit,
    DieWithPermit,
}

async fn repeats_are_paced(kind: Kind, deed: Deed, failure: Failure) {
    let test = Test::new("pacing").await;
    match deed {
        Deed::Lock | Deed::LockTwo | Deed::Permit => {}
        Deed::LockBehindStranger => test.stranger().await,
        Deed::Release | Deed::Die => {
            let held = granted(&mut test.lock().1).await;
            test.failing.fail(kind, failure.clone());
            match deed {
                Deed::Die => test.kill_actors(),
                _ => drop(held),
            }
            return test.is_paced(kind, &failure).await;
        }
        Deed::NextPermit | Deed::PermitBehindAnother | Deed::ReturnPermit | Deed::DieWithPermit => {
            let (_, mut events) = test.permit();
            let held = granted(&mut events).await;
            match deed {
                Deed::NextPermit => {
                    drop(held);
                    while !matches!(events.recv().await, Some(LockEvent::Released(_))) {}
                    test.failing.fail(kind, failure.clone());
                    test.permit();
                }
                Deed::PermitBehindAnother => {
                    test.failing.fail(kind, failure.clone());
                    test.permit();
                    test.is_paced(kind, &failure).await;
                    return drop(held);
                }
                Deed::DieWithPermit => {
                    test.failing.fail(kind, failure.clone());
                    test.kill_actors();
                }
                _ => {
                    test.failing.fail(kind, failure.clone());
                    drop(held);
                }
            }
            return test.is_paced(kind, &failure).await;
        }
    }
    test.failing.fail(kind, failure.clone());
    match deed {
        Deed::Permit => drop(test.permit()),
        Deed::LockTwo => drop(test.lock_two().await),
        _ => drop(test.lock()),
    }
    test.is_paced(kind, &failure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_for_good_is_repeated_ever_more_slowly() {
    let refusals = || [lost(), throttled(), Failure::NoAuth];
    let mut cases = vec![
        (Kind::Create, Deed::Lock, lost()),
        (Kind::CreateAll, Deed::LockTwo, lost()),
        (Kind::MakeDirectories, Deed::Lock, lost()),
        (Kind::Children, Deed::Lock, lost()),
        (Kind::Watch, Deed::LockBehindStranger, lost()),
        (Kind::Watch, Deed::LockBehindStranger, throttled()),
        (Kind::Make, Deed::Permit, lost()),
        (Kind::Take, Deed::Permit, lost()),
        (Kind::WatchRoot, Deed::PermitBehindAnother, lost()),
        (Kind::WatchChildren, Deed::PermitBehindAnother, lost()),
        (Kind::Create, Deed::NextPermit, lost()),
    ];
    for deed in [Deed::Release, Deed::Die, Deed::ReturnPermit, Deed::DieWithPermit] {
        cases.extend(refusals().map(|failure| (Kind::Delete, deed, failure)));
    }
    for kind in [Kind::Children, Kind::Sync] {
        cases.extend(refusals().map(|failure| (kind, Deed::Die, failure)));
    }
    // All of them at once: what is counted is each keeper's own.
    let cases = cases.into_iter().map(|(kind, deed, failure)| {
        let what = format!("{kind:?}, {deed:?}, {failure:?}");
        async move { (what, AssertUnwindSafe(repeats_are_paced(kind, deed, failure)).catch_unwind().await) }
    });
    let failed: Vec<String> =
        (join_all(cases).await.into_iter()).filter_map(|(what, result)| result.err().map(|_| what)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Its node is made after its actor died, and after that was cleaned up after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_answer_leaves_no_node_of_a_multi_lock_behind() {
    for failure in [throttled(), lost()] {
        let test = Test::new("pacing-joint").await;
        test.stranger().await;
        let held = test.failing.hold();
        let other = test.lock_two().await;
        eventually("the nodes are to be made", SOON, async || test.failing.count(Kind::CreateAll) == 1).await;
        let mut actors = test.started.primitives.get_children();
        actors.sort_by_key(|actor| actor.get_id().pid());
        // The request's own, that of the first path, and that of the second, which is not the one that makes them.
        let syncs = test.failing.count(Kind::Sync);
        actors[2].kill();
        eventually("it is cleaned up after", SOON, async || test.failing.count(Kind::Sync) > syncs).await;
        test.failing.fail_times(Kind::Delete, failure, 1);
        drop(held);
        eventually("a delete failed", SOON, async || test.failing.failed() == 1).await;
        actors[0].kill();
        test.until_nobody_is_at(&other).await;
    }
}

/// A directory may have thousands of nodes, each of almost 1 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listing_reads_a_few_nodes_at_a_time_and_shows_the_beginning_of_long_data() {
    const AT_A_TIME: usize = 16;
    const SHOWN: usize = 1024;
    let test = Test::new("pacing-list").await;
    test.make(&test.path).await;
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let (long, short) = (format!("x{}", "é".repeat(100_000)), "short");
    for number in 0..100 {
        let path = format!("{}/{number:032x}__lock__", test.path);
        let data = if number == 50 { &long } else { short };
        test.observer.create(&path, data.as_bytes(), &options).await.expect("a new node");
    }
    let (list, listed) = oneshot::channel();
    test.ask(Place::lock(&test.path), LockMessage::Contenders([].into(), list.into()));
    let contenders = listed.await.expect("a reply").expect("an answer");
    let (hold, held) = oneshot::channel();
    test.ask(Place::semaphore(&test.path), LockMessage::LeaseHolders(hold.into()));
    let holders = held.await.expect("a reply").expect("an answer");
    assert_eq!((contenders.len(), holders.len()), (100, 100));
    assert!(test.failing.most_reads() <= AT_A_TIME, "{} at a time", test.failing.most_reads());
    assert_eq!(contenders[1].identifier, short);
    let identifiers = holders.iter().map(|holder| &holder.identifier).chain([&contenders[50].identifier]);
    let cut: Vec<_> = identifiers.filter(|identifier| *identifier != short).collect();
    assert_eq!(cut.len(), 2);
    // The next character would not be whole.
    assert!(
        cut.iter().all(|cut| cut.len() == SHOWN - 1 && long.starts_with(cut.as_str())),
        "{}",
        cut[0].len()
    );
}

/// Whatever the session does meanwhile is of no matter.
#[tokio::test]
async fn the_client_that_fails_passes_on_what_does_not() {
    let test = Test::new("pacing-passes").await;
    drop(granted(&mut test.lock().1).await);
    drop(granted(&mut test.permit().1).await);
    assert_eq!(test.failing.failed(), 0);
    assert!([Kind::Create, Kind::Take].into_iter().all(|kind| test.failing.count(kind) > 0));
}
