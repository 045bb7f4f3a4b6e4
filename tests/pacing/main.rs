//! Requests that fail, once or permanently: every kind of request is retried, at growing intervals.

mod failing;
mod inspecting;

#[path = "../common/mod.rs"]
mod common;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use common::internals::{contender_options, keeper_settings, until_no_nodes};
use common::{client, eventually, proxied, shared, unique_path};
use failing::{Failing, Kind};
use futures::FutureExt;
use futures::future::join_all;

use lockkeeper_actors::api::event::{EventSink, LockEvent};
use lockkeeper_actors::api::keep_alive::KeepAlive;
use lockkeeper_actors::api::messages::{LockMessage, MultiLockMessage, RegistryMessage, SemaphoreMessage};
use lockkeeper_actors::api::request::Wait;
use lockkeeper_actors::api::request::{AcquireRequest, MultiLockPart, MultiLockRequest, Permits, Ticket};
use lockkeeper_actors::api::resource::Resource;
use lockkeeper_actors::keeper::{self, KeeperSettings, Started};
use lockkeeper_actors::machine::Failure;
use ractor::ActorCell;
use tokio::sync::{mpsc, oneshot};
use zookeeper_client::{Acls, CreateMode};

const SOON: Duration = Duration::from_secs(20);

/// How long requests are counted, and the largest number of one kind allowed in that time. Pauses double from 100 ms,
/// each shortened by up to half, so there are at most seven, plus the first request without a pause. A slow machine
/// sends fewer.
const WINDOW: Duration = Duration::from_secs(3);
const MAX_REQUESTS: usize = 10;

/// A keeper whose requests can be made to fail.
struct Test {
    started: Started,
    keep_alive: Arc<KeepAlive>,
    path: String,
    failing: Arc<Failing>,
    observer: zookeeper_client::Client,
}

type Events = mpsc::UnboundedReceiver<LockEvent>;

impl Test {
    async fn new(name: &str) -> Test {
        Test::at(&shared().address(), name).await
    }

    async fn at(address: &str, name: &str) -> Test {
        let failing = Failing::new(address);
        let settings = KeeperSettings { connect_timeout: SOON, ..keeper_settings(failing.clone()) };
        let started = keeper::start(settings).await.expect("should connect");
        let keep_alive = Arc::new(KeepAlive::new(started.keeper.get_derived(), None));
        let observer = client().await;
        Test { started, keep_alive, path: unique_path(name), failing, observer }
    }

    fn lock(&self) -> (Ticket, Events) {
        self.acquire(Resource::lock(&self.path), None)
    }

    fn permit(&self) -> (Ticket, Events) {
        let permits = Permits { count: 1, limit: Some(1), agreed: false };
        self.acquire(Resource::semaphore(&self.path), Some(permits))
    }

    fn acquire(&self, resource: Resource, permits: Option<Permits>) -> (Ticket, Events) {
        let (ticket, (sender, events)) = (Ticket::new(), mpsc::unbounded_channel());
        let sink = EventSink::new(ticket, resource.path().clone(), move |event| {
            let _ = sender.send(event);
        });
        let request =
            AcquireRequest::new(ticket, contender_options(), Wait::Forever, sink, self.keep_alive.clone());
        self.tell(RegistryMessage::Open(resource.clone()));
        let path = resource.path().clone();
        self.tell(match permits {
            Some(permits) => RegistryMessage::Semaphore(path, SemaphoreMessage::Acquire(request, permits)),
            None => RegistryMessage::Lock(path, LockMessage::Acquire(request)),
        });
        (ticket, events)
    }

    /// Acquires this path and another one as a multi-lock; returns the other path.
    async fn lock_two(&self) -> String {
        let other = unique_path("pacing-other");
        self.make(&other).await;
        let sink = EventSink::new(Ticket::new(), "both".into(), |_| {});
        let part = |path: &String| MultiLockPart { path: path.as_str().into(), options: contender_options() };
        let parts = [&self.path, &other].map(part);
        let request =
            MultiLockRequest::new(Ticket::new(), parts.into(), Wait::Forever, sink, self.keep_alive.clone());
        self.tell(RegistryMessage::MultiLock(MultiLockMessage::Acquire(request)));
        other
    }

    fn ask(&self, resource: Resource, question: RegistryMessage) {
        self.tell(RegistryMessage::Open(resource));
        self.tell(question);
    }

    fn tell(&self, message: RegistryMessage) {
        self.started.registry.send_message(message).expect("it runs");
    }

    async fn make(&self, directory: &str) {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.observer.mkdir(directory, &options).await.expect("a directory");
    }

    /// Creates the contender of another client.
    async fn create_foreign_contender(&self) {
        self.make(&self.path).await;
        let name = format!("{}/0123456789abcdef0123456789abcdef__lock__", self.path);
        let contender = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
        self.observer.create(&name, b"", &contender).await.expect("a new node");
    }

    /// Kills the actors of the paths, as a panic would end them.
    fn kill_actors(&self) {
        self.started.registry.get_children().iter().for_each(|actor| actor.kill());
    }

    /// Checks that requests of this kind are retried, but not too often.
    async fn expect_paced_retries(&self, kind: Kind, failure: &Failure) {
        let what = format!("{kind:?} is retried after {failure:?}");
        eventually(&what, SOON, async || self.failing.failed() >= 2).await;
        // There is no event to wait for: the absence of further requests is what is tested.
        tokio::time::sleep(WINDOW).await;
        let sent = self.failing.failed();
        assert!(sent <= MAX_REQUESTS, "{kind:?}, {failure:?}: {sent} requests in {WINDOW:?}");
    }
}

async fn granted(events: &mut Events) -> LockEvent {
    loop {
        match events.recv().await.expect("the keeper runs") {
            LockEvent::Enqueued { .. } => {}
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

/// The operation during which requests of a kind fail.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Lock,
    LockBehindAnother,
    LockTwo,
    Release,
    /// The lock's actor dies while it holds, and its node must be deleted.
    Die,
    Permit,
    /// A permit of a semaphore whose root exists.
    NextPermit,
    PermitBehindAnother,
    ReturnPermit,
    DieWithPermit,
}

async fn retries_are_paced(kind: Kind, operation: Operation, failure: Failure) {
    let test = Test::new("pacing").await;
    match operation {
        Operation::Lock | Operation::LockTwo | Operation::Permit => {}
        Operation::LockBehindAnother => test.create_foreign_contender().await,
        Operation::Release | Operation::Die => {
            let held = granted(&mut test.lock().1).await;
            test.failing.fail(kind, failure.clone());
            match operation {
                Operation::Die => test.kill_actors(),
                _ => drop(held),
            }
            return test.expect_paced_retries(kind, &failure).await;
        }
        Operation::NextPermit
        | Operation::PermitBehindAnother
        | Operation::ReturnPermit
        | Operation::DieWithPermit => {
            let (_, mut events) = test.permit();
            let held = granted(&mut events).await;
            match operation {
                Operation::NextPermit => {
                    drop(held);
                    while !matches!(events.recv().await, Some(LockEvent::Released(_))) {}
                    test.failing.fail(kind, failure.clone());
                    test.permit();
                }
                Operation::PermitBehindAnother => {
                    test.failing.fail(kind, failure.clone());
                    test.permit();
                    test.expect_paced_retries(kind, &failure).await;
                    return drop(held);
                }
                Operation::DieWithPermit => {
                    test.failing.fail(kind, failure.clone());
                    test.kill_actors();
                }
                _ => {
                    test.failing.fail(kind, failure.clone());
                    drop(held);
                }
            }
            return test.expect_paced_retries(kind, &failure).await;
        }
    }
    test.failing.fail(kind, failure.clone());
    match operation {
        Operation::Permit => drop(test.permit()),
        Operation::LockTwo => drop(test.lock_two().await),
        _ => drop(test.lock()),
    }
    test.expect_paced_retries(kind, &failure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_keep_failing_are_retried_ever_more_slowly() {
    let refusals = || [lost(), throttled(), Failure::NoAuth];
    let mut cases = vec![
        (Kind::Create, Operation::Lock, lost()),
        (Kind::CreateAll, Operation::LockTwo, lost()),
        (Kind::MakeDirectories, Operation::Lock, lost()),
        (Kind::Children, Operation::Lock, lost()),
        (Kind::Watch, Operation::LockBehindAnother, lost()),
        (Kind::Watch, Operation::LockBehindAnother, throttled()),
        (Kind::Make, Operation::Permit, lost()),
        (Kind::Take, Operation::Permit, lost()),
        (Kind::WatchRoot, Operation::PermitBehindAnother, lost()),
        (Kind::WatchChildren, Operation::PermitBehindAnother, lost()),
        (Kind::Create, Operation::NextPermit, lost()),
    ];
    for operation in [Operation::Release, Operation::Die, Operation::ReturnPermit, Operation::DieWithPermit] {
        cases.extend(refusals().map(|failure| (Kind::Delete, operation, failure)));
    }
    for kind in [Kind::Children, Kind::Sync] {
        cases.extend(refusals().map(|failure| (kind, Operation::Die, failure)));
    }
    // All cases run concurrently: each has its own keeper, whose requests are counted separately.
    let cases =
        cases.into_iter().map(|(kind, operation, failure)| {
            let what = format!("{kind:?}, {operation:?}, {failure:?}");
            async move {
                (what, AssertUnwindSafe(retries_are_paced(kind, operation, failure)).catch_unwind().await)
            }
        });
    let failed: Vec<String> =
        (join_all(cases).await.into_iter()).filter_map(|(what, result)| result.err().map(|_| what)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The node of a multi-lock is created after the actor of its path died and after the clean-up for that actor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_delete_leaves_no_node_of_a_multi_lock_behind() {
    for failure in [throttled(), lost()] {
        let test = Test::new("pacing-joint").await;
        let (held, other, request) = lock_two_and_kill_the_second(&test).await;
        test.failing.fail_times(Kind::Delete, failure, 1);
        drop(held);
        eventually("a delete failed", SOON, async || test.failing.failed() == 1).await;
        request.kill();
        until_no_nodes(&test.observer, &other, SOON).await;
    }
}

/// As above, but the answer to the create is lost: it is not known whether there is a node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_leaves_no_node_of_a_multi_lock_behind() {
    let proxy = proxied().await;
    let test = Test::at(&proxy.address(), "pacing-joint").await;
    let (held, other, request) = lock_two_and_kill_the_second(&test).await;
    // Every answer to a request before this one has been received when it is answered.
    let (reply, answered) = oneshot::channel();
    let question = LockMessage::Contenders(Default::default(), reply.into());
    test.ask(Resource::lock(&other), RegistryMessage::Lock(other.as_str().into(), question));
    answered.await.expect("the actor runs").expect("connected");
    request.kill();
    proxy.drop_replies_then_cut();
    drop(held);
    let created = async || test.observer.list_children(&other).await.is_ok_and(|nodes| !nodes.is_empty());
    eventually("the nodes are created", SOON, created).await;
    proxy.cut();
    until_no_nodes(&test.observer, &other, SOON).await;
}

/// Requests a multi-lock, and kills the actor of its second path, which is not the one that creates the nodes. Returns
/// what holds back the create, the second path and the actor of the request.
async fn lock_two_and_kill_the_second(test: &Test) -> (oneshot::Sender<()>, String, ActorCell) {
    test.create_foreign_contender().await;
    let held = test.failing.hold(Kind::CreateAll);
    let other = test.lock_two().await;
    eventually("the create is requested", SOON, async || test.failing.count(Kind::CreateAll) == 1).await;
    let mut actors = test.started.registry.get_children();
    // By age: the actor of the request, of the first path, and of the second path.
    actors.sort_by_key(|actor| actor.get_id().pid());
    let syncs = test.failing.count(Kind::Sync);
    actors[2].kill();
    eventually("the clean-up has begun", SOON, async || test.failing.count(Kind::Sync) > syncs).await;
    (held, other, actors.swap_remove(0))
}

/// A directory may have thousands of nodes of almost 1 MiB each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listing_reads_a_few_nodes_at_a_time_and_truncates_long_data() {
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
    let path: Arc<str> = test.path.as_str().into();
    let list = async || {
        let (list, listed) = oneshot::channel();
        let contenders = LockMessage::Contenders(Default::default(), list.into());
        test.ask(Resource::Lock(path.clone()), RegistryMessage::Lock(path.clone(), contenders));
        listed.await.expect("a reply").expect("an answer")
    };
    // The member of an ensemble that the keeper is connected to may learn of them later than the observer's.
    eventually("all are listed", SOON, async || list().await.len() == 100).await;
    let contenders = list().await;
    let (hold, held) = oneshot::channel();
    let holders = SemaphoreMessage::LeaseHolders(hold.into());
    test.ask(Resource::Semaphore(path.clone()), RegistryMessage::Semaphore(path.clone(), holders));
    let holders = held.await.expect("a reply").expect("an answer");
    assert_eq!((contenders.len(), holders.len()), (100, 100));
    assert!(test.failing.most_reads() <= AT_A_TIME, "{} at a time", test.failing.most_reads());
    assert_eq!(contenders[1].identifier, short);
    let identifiers = holders.iter().map(|holder| &holder.identifier).chain([&contenders[50].identifier]);
    let cut: Vec<_> = identifiers.filter(|identifier| *identifier != short).collect();
    assert_eq!(cut.len(), 2);
    // One byte less than the limit, because the next character would be split.
    assert!(
        cut.iter().all(|cut| cut.len() == SHOWN - 1 && long.starts_with(cut.as_str())),
        "{}",
        cut[0].len()
    );
}

/// No request of the locks fails unless it is told to.
#[tokio::test]
async fn the_failing_client_forwards_requests_that_are_not_to_fail() {
    let test = Test::new("pacing-passes").await;
    drop(granted(&mut test.lock().1).await);
    drop(granted(&mut test.permit().1).await);
    assert_eq!(test.failing.failed(), 0);
    assert!([Kind::Create, Kind::Take].into_iter().all(|kind| test.failing.count(kind) > 0));
}
