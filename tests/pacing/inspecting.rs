//! Questions about locks, while requests are held back or fail: no change is missed, and nothing is asked in vain.

use std::sync::Arc;

use lockkeeper_actors::api::contender::{Contender, Known};
use lockkeeper_actors::api::error::QueryError;
use lockkeeper_actors::api::messages::{InspectMessage, LockMessage, RegistryMessage};
use lockkeeper_actors::api::resource::Resource;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::common::{eventually, unique_path};
use super::failing::Kind;
use super::{SOON, Test, lost};

type Front = oneshot::Receiver<Result<Option<Contender>, QueryError>>;

impl Test {
    /// Asks for the front of the queue, once it differs from this.
    fn front(&self, known: Known) -> Front {
        let (reply, answer) = oneshot::channel();
        let path: Arc<str> = self.path.as_str().into();
        let question = LockMessage::First(Default::default(), known, reply);
        self.ask(Resource::Lock(path.clone()), RegistryMessage::Lock(path, question));
        answer
    }

    /// Waits until a request of this kind is sent or held back.
    async fn until_asked(&self, kind: Kind, before: usize) {
        eventually("it is asked", SOON, async || self.failing.count(kind) > before).await;
    }

    async fn set(&self, path: &str, data: &[u8]) {
        self.observer.set_data(path, data, None).await.expect("the node");
    }
}

async fn contender(front: Front) -> Contender {
    let answer = timeout(SOON, front).await.expect("in time").expect("a reply");
    answer.expect("connected").expect("there is one")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_data_of_a_leader_are_not_missed_while_a_spare_session_sets_the_watch() {
    // Two watches on such paths fill the main session.
    let long = "x".repeat(30_000);
    let (mut test, mut waiting) = (Test::new(&long).await, Vec::new());
    for number in 0..2 {
        test.create_foreign_contender().await;
        waiting.push(test.lock());
        test.until_asked(Kind::Watch, number).await;
        test.path = unique_path(&long);
    }
    test.create_foreign_contender().await;
    let leader = contender(test.front(Known::Nobody)).await;
    let (gate, watches) = (test.failing.hold(Kind::Watch), test.failing.count(Kind::Watch));
    let next = test.front(Known::First(leader.clone()));
    test.until_asked(Kind::Watch, watches).await;
    test.set(&format!("{}/{}", test.path, leader.name), b"new").await;
    drop(gate);
    assert_eq!(contender(next).await.identifier, "new");
}

/// What the server does not know yet happens here while the write that brings it up to date is held back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lags_brings_no_former_leader_and_no_former_data_back() {
    let test = Test::new("lagging").await;
    test.create_foreign_contender().await;
    let former = contender(test.front(Known::Nobody)).await;
    let former_node = format!("{}/{}", test.path, former.name);

    // The new data are known already.
    let mut known = former.clone();
    known.identifier = "new".to_owned();
    let (gate, syncs) = (test.failing.hold(Kind::Sync), test.failing.count(Kind::Sync));
    let next = test.front(Known::First(known));
    test.until_asked(Kind::Sync, syncs).await;
    test.set(&former_node, b"new").await;
    drop(gate);
    test.set(&former_node, b"newest").await;
    assert_eq!(contender(next).await.identifier, "newest");

    // It is known already that nobody leads.
    let (gate, syncs) = (test.failing.hold(Kind::Sync), test.failing.count(Kind::Sync));
    let next = test.front(Known::Nobody);
    test.until_asked(Kind::Sync, syncs).await;
    test.observer.delete(&former_node, None).await.expect("the node");
    drop(gate);
    test.create_foreign_contender().await;
    let leader = contender(next).await;
    assert!(leader.token > former.token, "{leader:?}");

    // A leader is known already, and no server shows an older one first.
    let mut known = leader.clone();
    known.token = u64::MAX.into();
    let (gate, syncs) = (test.failing.hold(Kind::Sync), test.failing.count(Kind::Sync));
    let next = test.front(Known::First(known));
    test.until_asked(Kind::Sync, syncs).await;
    drop(gate);
    assert_eq!(contender(next).await, leader);
}

/// The watch on the data is the only one that fires when the number of permits changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_a_change_ends_if_the_data_cannot_be_watched() {
    let test = Test::new("unwatched").await;
    for path in [&test.path, &format!("{}-__lock__", test.path)] {
        test.make(path).await;
    }
    test.set(&test.path, b"2").await;
    let path: Arc<str> = test.path.as_str().into();
    let mut known = None;
    eventually("it is seen", SOON, async || {
        let (reply, look) = oneshot::channel();
        test.tell(RegistryMessage::Inspect(InspectMessage::Look(path.clone(), reply)));
        known = look.await.expect("a reply").expect("connected");
        known.is_some()
    })
    .await;
    test.failing.fail_times(Kind::WatchRoot, lost(), 1);
    let (reply, changed) = oneshot::channel();
    test.tell(RegistryMessage::Inspect(InspectMessage::Changed(path, known, reply)));
    let answer = timeout(SOON, changed).await.expect("in time").expect("a reply");
    assert!(matches!(answer, Err(QueryError::Unanswered { .. })), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walk_and_a_look_end_with_their_callers() {
    let (test, path): (Test, Arc<str>) = (Test::new("gone").await, "/".into());
    let (walk, walked) = oneshot::channel();
    let (look, looked) = oneshot::channel();
    let walk = InspectMessage::Walk(path.clone(), Default::default(), walk);
    let look = InspectMessage::Look("/gone".into(), look);
    for (question, caller) in [(walk, drop_later(walked)), (look, drop_later(looked))] {
        let (mut gate, lists) = (test.failing.hold(Kind::List), test.failing.count(Kind::List));
        test.tell(RegistryMessage::Inspect(question));
        test.until_asked(Kind::List, lists).await;
        drop(caller);
        timeout(SOON, gate.closed()).await.expect("it ends");
    }
}

/// A caller that goes when this is dropped.
fn drop_later<T: Send + 'static>(answer: oneshot::Receiver<T>) -> Box<dyn Send> {
    Box::new(answer)
}
