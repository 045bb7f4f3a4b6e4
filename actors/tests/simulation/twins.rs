//! Broken variants of what is below the actors, called twins. Each alters one request, answer or message, as a bug of
//! the product would. The checkers must catch all of them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{self, BoxFuture};
use futures::stream::StreamExt;
use futures::{FutureExt, TryFutureExt};

use lockkeeper_actors::api::messages::{LockMessage, MultiLockMessage, RegistryMessage, SemaphoreMessage};
use lockkeeper_actors::api::request::{Ticket, Wait};
use lockkeeper_actors::api::resource::Resource;
use lockkeeper_actors::machine::Failure;
use lockkeeper_actors::machine::semaphore::{Leases, Root, TakeFailure};
use lockkeeper_actors::zookeeper::{
    Acl, Answer, CheckFailure, Connect, Connected, CreatedNode, CreatedNodes, Fired, LinkState, NewNode,
    Node, NotCreated, TakeRequest, TransactionFailure, Unconnected, Watching, Write, ZooKeeper,
};

use crate::coverage::{Fault, Stage};
use crate::witness::Checker;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// Nothing is altered.
    None,
    /// A create of unknown outcome counts as not carried out.
    LostCreateIsForgotten,
    /// Nodes that should outlive sessions end with them.
    NodeEndsWithSession,
    /// Heartbeats are reads, which a follower answers without its leader.
    CheckIsARead,
    /// Heartbeats are syncs and reads, which a deposed leader answers without a quorum.
    CheckIsASync,
    /// Heartbeats count as answered as soon as they are sent.
    CheckIsBelieved,
    /// The session timeout is reported as twice as long.
    TimeoutIsDoubled,
    /// Clocks run at half of the servers' rate, which breaks an assumption instead of the product.
    ClocksAreSlow,
    /// The end of the session is reported as a reconnect, and failed heartbeats count as successful.
    ResumedAfterLoss,
    WatchNeverFires,
    /// Watches set before the connection broke do not fire any more.
    WatchIsLostOnReconnect,
    /// Any change of a watched node is reported as its deletion.
    ChangeIsTakenForGone,
    /// A watch that is no longer needed is not removed.
    WatchIsKept,
    /// Deletes are not sent, but reported as successful.
    DeleteIsSwallowed,
    /// A delete of unknown outcome counts as successful.
    LostDeleteIsForgotten,
    /// The list of contenders shows only those of this process.
    ListHidesOthers,
    /// The list is sent before the create, and shows the created node all the same.
    ListIsTooEarly,
    /// No sync is sent before the list that searches for a create of unknown outcome.
    SyncIsSkipped,
    /// The token is the sequence number, which restarts with the directory.
    TokenFromSequence,
    /// A heartbeat does not report a missing node.
    MissingIsIgnored,
    /// The session is not closed when the last handle is dropped.
    SessionIsKept,
    /// A cancel does not arrive.
    CancelIsSwallowed,
    /// The deadline of a request does not arrive.
    DeadlineIsSwallowed,
    /// A task of each session goes on after it.
    TaskIsKept,
    /// The list of leases is empty.
    LeasesAreEmpty,
    /// A take of unknown outcome counts as not carried out.
    LostTakeIsForgotten,
    /// The watches on a semaphore's root and its leases do not fire.
    LeaseWatchNeverFires,
}

/// All twins, each with the checkers of which at least one must catch it.
pub const TWINS: [(Twin, &[Checker]); 26] = [
    (Twin::LostCreateIsForgotten, &[Checker::Progress, Checker::Orphans]),
    (Twin::NodeEndsWithSession, &[Checker::Backing, Checker::Exclusion]),
    (Twin::CheckIsARead, &[Checker::Backing, Checker::Validity, Checker::Exclusion]),
    (Twin::CheckIsASync, &[Checker::Backing, Checker::Validity, Checker::Exclusion]),
    (Twin::CheckIsBelieved, &[Checker::Backing, Checker::Validity, Checker::Exclusion]),
    (Twin::TimeoutIsDoubled, &[Checker::Backing, Checker::Validity, Checker::Exclusion]),
    (Twin::ClocksAreSlow, &[Checker::Backing, Checker::Validity, Checker::Exclusion]),
    (Twin::ResumedAfterLoss, &[Checker::Progress, Checker::Backing, Checker::Validity]),
    (Twin::WatchNeverFires, &[Checker::Progress]),
    (Twin::WatchIsLostOnReconnect, &[Checker::Progress]),
    (Twin::ChangeIsTakenForGone, &[Checker::Queue, Checker::Validity, Checker::Exclusion]),
    (Twin::WatchIsKept, &[Checker::Watches]),
    (Twin::DeleteIsSwallowed, &[Checker::Release, Checker::Orphans, Checker::Progress]),
    (Twin::LostDeleteIsForgotten, &[Checker::Release, Checker::Orphans, Checker::Progress]),
    (Twin::ListHidesOthers, &[Checker::Queue, Checker::Validity, Checker::Exclusion, Checker::Tokens]),
    (Twin::ListIsTooEarly, &[Checker::Queue, Checker::Validity, Checker::Exclusion]),
    (Twin::SyncIsSkipped, &[Checker::Progress, Checker::Orphans, Checker::Watches]),
    (Twin::TokenFromSequence, &[Checker::Tokens]),
    (Twin::MissingIsIgnored, &[Checker::Backing]),
    (Twin::SessionIsKept, &[Checker::Sessions, Checker::Progress]),
    (Twin::CancelIsSwallowed, &[Checker::Answers]),
    (Twin::DeadlineIsSwallowed, &[Checker::Deadline]),
    (Twin::TaskIsKept, &[Checker::Tasks]),
    (Twin::LeasesAreEmpty, &[Checker::Validity, Checker::Exclusion]),
    (Twin::LostTakeIsForgotten, &[Checker::Progress, Checker::Orphans]),
    (Twin::LeaseWatchNeverFires, &[Checker::Progress]),
];

impl Twin {
    /// The faults under which the twin misbehaves. They make up half of the faults in its schedules.
    pub fn favours(self) -> &'static [(Fault, Option<Stage>)] {
        match self {
            Twin::LostCreateIsForgotten => &[(Fault::CutAfter, Some(Stage::Creating))],
            Twin::SyncIsSkipped => &[(Fault::Lag, None), (Fault::CutAfter, Some(Stage::Creating))],
            Twin::CheckIsARead | Twin::CheckIsBelieved | Twin::TimeoutIsDoubled | Twin::ClocksAreSlow => {
                &[(Fault::CutOff, Some(Stage::Held)), (Fault::HalfOpen, Some(Stage::Held))]
            }
            Twin::CheckIsASync => &[(Fault::Deposed, Some(Stage::Held))],
            Twin::WatchIsLostOnReconnect => &[(Fault::CutAfter, Some(Stage::Waiting))],
            Twin::ChangeIsTakenForGone => &[(Fault::NodeWritten, Some(Stage::Held))],
            Twin::LostDeleteIsForgotten => &[(Fault::CutBefore, Some(Stage::Deleting))],
            Twin::TokenFromSequence => &[(Fault::DirectoryDeleted, None)],
            Twin::LostTakeIsForgotten => &[(Fault::CutAfter, Some(Stage::Taking))],
            Twin::MissingIsIgnored => &[(Fault::NodeDeleted, Some(Stage::Held))],
            Twin::NodeEndsWithSession => {
                &[(Fault::HalfOpen, Some(Stage::Held)), (Fault::CutOff, Some(Stage::Held))]
            }
            Twin::None
            | Twin::ResumedAfterLoss
            | Twin::WatchNeverFires
            | Twin::WatchIsKept
            | Twin::DeleteIsSwallowed
            | Twin::ListHidesOthers
            | Twin::ListIsTooEarly
            | Twin::SessionIsKept
            | Twin::CancelIsSwallowed
            | Twin::DeadlineIsSwallowed
            | Twin::TaskIsKept
            | Twin::LeasesAreEmpty
            | Twin::LeaseWatchNeverFires => &[],
        }
    }

    pub fn connector(self, inner: Arc<dyn Connect>) -> Arc<dyn Connect> {
        match self {
            Twin::None | Twin::ClocksAreSlow | Twin::CancelIsSwallowed | Twin::DeadlineIsSwallowed => inner,
            twin => Arc::new(TwistedConnector { inner, twin }),
        }
    }

    /// How fast clocks run, in thousandths of the servers' clocks.
    pub fn rate(self) -> Option<u64> {
        (self == Twin::ClocksAreSlow).then_some(500)
    }

    pub fn wait(self, wait: Wait) -> Wait {
        match (self, wait) {
            (Twin::DeadlineIsSwallowed, Wait::Until(_)) => Wait::Forever,
            (_, wait) => wait,
        }
    }

    pub fn cancel(self, resource: Option<&Resource>, ticket: Ticket) -> RegistryMessage {
        // The cancel of an unknown ticket is ignored.
        let ticket = if self == Twin::CancelIsSwallowed { Ticket::new() } else { ticket };
        match resource.cloned() {
            Some(Resource::Lock(path)) => RegistryMessage::Lock(path, LockMessage::Cancel(ticket)),
            Some(Resource::Semaphore(path)) => {
                RegistryMessage::Semaphore(path, SemaphoreMessage::Cancel(ticket))
            }
            None => RegistryMessage::MultiLock(MultiLockMessage::Cancel(ticket)),
        }
    }
}

struct TwistedConnector {
    inner: Arc<dyn Connect>,
    twin: Twin,
}

impl Connect for TwistedConnector {
    fn connect(&self) -> BoxFuture<'static, Result<Connected, Unconnected>> {
        let (connected, twin) = (self.inner.connect(), self.twin);
        Box::pin(async move {
            let Connected { client, states } = connected.await?;
            if twin == Twin::TaskIsKept {
                tokio::spawn(future::pending::<()>());
            }
            if twin == Twin::SessionIsKept {
                std::mem::forget(client.clone());
            }
            let cuts = Arc::new(AtomicU64::new(0));
            let seen = cuts.clone();
            let states = states.map(move |state| {
                if state == LinkState::Down {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                match twin {
                    Twin::ResumedAfterLoss => LinkState::Up,
                    _ => state,
                }
            });
            let client = Twisted {
                inner: client,
                twin,
                cuts,
                early: Mutex::new(None),
                own: Arc::default(),
                kept: Mutex::default(),
            };
            Ok(Connected { client: Arc::new(client), states: states.boxed() })
        })
    }

    fn address(&self) -> &str {
        self.inner.address()
    }
}

struct Twisted {
    inner: Arc<dyn ZooKeeper>,
    twin: Twin,
    /// How often the connection broke.
    cuts: Arc<AtomicU64>,
    early: Mutex<Option<Answer<Vec<String>>>>,
    /// The beginnings of the names of own nodes.
    own: Arc<Mutex<BTreeSet<String>>>,
    kept: Mutex<Vec<SharedFired>>,
}

type SharedFired = Arc<Mutex<BoxFuture<'static, Fired>>>;

impl ZooKeeper for Twisted {
    fn session(&self) -> i64 {
        self.inner.session()
    }

    fn timeout(&self) -> Duration {
        match self.twin {
            Twin::TimeoutIsDoubled => self.inner.timeout() * 2,
            _ => self.inner.timeout(),
        }
    }

    fn create(
        &self,
        prefix: String,
        data: Arc<[u8]>,
        ephemeral: bool,
        acl: Arc<[Acl]>,
    ) -> Answer<CreatedNode> {
        if self.twin == Twin::ListIsTooEarly {
            let directory = prefix.rsplit_once('/').map_or("/", |(directory, _)| directory);
            *self.early.lock().unwrap() = Some(self.inner.children(directory));
        }
        self.own.lock().unwrap().extend(prefix.rsplit('/').next().map(str::to_owned));
        let twin = self.twin;
        let ephemeral = ephemeral || twin == Twin::NodeEndsWithSession;
        let answer = self.inner.create(prefix, data, ephemeral, acl);
        let twisted = answer.map(move |answer| match (twin, answer) {
            (Twin::LostCreateIsForgotten, Err(Failure::Unknown(_))) => Err(Failure::NoNode),
            (Twin::TokenFromSequence, Ok(CreatedNode { sequence, .. })) => {
                Ok(CreatedNode { sequence, czxid: sequence })
            }
            (_, answer) => answer,
        });
        Box::pin(twisted)
    }

    fn create_all(&self, prefixes: &[NewNode<'_>]) -> BoxFuture<'static, Result<CreatedNodes, NotCreated>> {
        self.inner.create_all(prefixes)
    }

    fn make_directories(&self, path: &str, container: bool, acl: &[Acl]) -> Answer<()> {
        self.inner.make_directories(path, container, acl)
    }

    fn children(&self, path: &str) -> Answer<Vec<String>> {
        let (answer, own) = (self.inner.children(path), self.own.clone());
        let only_own = move |mut names: Vec<String>| {
            let own = own.lock().unwrap();
            names.retain(|name| own.iter().any(|prefix| name.starts_with(prefix)));
            names
        };
        match (self.twin, self.early.lock().unwrap().take()) {
            (Twin::ListHidesOthers, _) => Box::pin(answer.map_ok(only_own)),
            (_, Some(early)) => Box::pin(async move {
                let (early, own) = (early.await, answer.await.map(only_own)?);
                Ok(early.unwrap_or_default().into_iter().chain(own).collect())
            }),
            (_, None) => answer,
        }
    }

    fn sync(&self, path: &str) -> Answer<()> {
        match self.twin {
            Twin::SyncIsSkipped => Box::pin(future::ready(Ok(()))),
            _ => self.inner.sync(path),
        }
    }

    fn read(&self, path: &str) -> Answer<Node> {
        self.inner.read(path)
    }

    fn watch(&self, path: &str) -> Answer<BoxFuture<'static, Fired>> {
        let answer = self.inner.watch(path);
        match self.twin {
            Twin::WatchNeverFires => Box::pin(answer.map_ok(never)),
            Twin::WatchIsLostOnReconnect => {
                let cuts = self.cuts.clone();
                Box::pin(answer.map_ok(move |fired| {
                    let before = cuts.load(Ordering::Relaxed);
                    let fired: BoxFuture<'static, Fired> = Box::pin(async move {
                        let fired = fired.await;
                        if cuts.load(Ordering::Relaxed) > before {
                            future::pending::<()>().await;
                        }
                        fired
                    });
                    fired
                }))
            }
            Twin::ChangeIsTakenForGone => Box::pin(answer.map_ok(|fired| {
                let gone: BoxFuture<'static, Fired> = Box::pin(fired.map(|fired| match fired {
                    Fired::Gone | Fired::Changed => Fired::Gone,
                    Fired::Ended => Fired::Ended,
                }));
                gone
            })),
            Twin::WatchIsKept => {
                let shared: SharedFired = Arc::new(Mutex::new(Box::pin(future::pending())));
                self.kept.lock().unwrap().push(shared.clone());
                Box::pin(answer.map_ok(move |fired| {
                    *shared.lock().unwrap() = fired;
                    let fired: BoxFuture<'static, Fired> =
                        Box::pin(future::poll_fn(move |context| shared.lock().unwrap().poll_unpin(context)));
                    fired
                }))
            }
            _ => answer,
        }
    }

    fn watch_for(&self, path: &str) -> Answer<Option<BoxFuture<'static, Fired>>> {
        self.inner.watch_for(path)
    }

    fn read_root(&self, path: &str) -> Answer<Root> {
        self.inner.read_root(path)
    }

    fn watch_root(&self, path: &str) -> Answer<(Root, Watching)> {
        let answer = self.inner.watch_root(path);
        match self.twin {
            Twin::LeaseWatchNeverFires => Box::pin(answer.map_ok(|(root, fired)| (root, never(fired)))),
            _ => answer,
        }
    }

    fn leases(&self, path: &str) -> Answer<Leases> {
        let answer = self.inner.leases(path);
        match self.twin {
            Twin::LeasesAreEmpty => Box::pin(answer.map_ok(none)),
            _ => answer,
        }
    }

    fn watch_children(&self, path: &str) -> Answer<(Leases, Watching)> {
        let answer = self.inner.watch_children(path);
        match self.twin {
            Twin::LeasesAreEmpty => Box::pin(answer.map_ok(|(leases, fired)| (none(leases), fired))),
            Twin::LeaseWatchNeverFires => Box::pin(answer.map_ok(|(leases, fired)| (leases, never(fired)))),
            _ => answer,
        }
    }

    fn make(&self, path: &str, data: &[u8], acl: &[Acl]) -> Answer<()> {
        self.inner.make(path, data, acl)
    }

    fn write(&self, path: &str, data: &[u8]) -> Answer<()> {
        self.inner.write(path, data)
    }

    fn take(&self, take: TakeRequest<'_>) -> BoxFuture<'static, Result<(), TakeFailure>> {
        let answer = self.inner.take(take);
        match self.twin {
            Twin::LostTakeIsForgotten => Box::pin(answer.map_err(|failure| match failure {
                TakeFailure::Failed(Failure::Unknown(_)) => TakeFailure::LimitChanged,
                failure => failure,
            })),
            _ => answer,
        }
    }

    fn delete(&self, path: &str) -> Answer<()> {
        let done = |failure| match failure {
            Failure::Unknown(_) => Ok(()),
            failure => Err(failure),
        };
        match self.twin {
            Twin::DeleteIsSwallowed => Box::pin(future::ready(Ok(()))),
            Twin::LostDeleteIsForgotten => Box::pin(self.inner.delete(path).map(move |a| a.or_else(done))),
            _ => self.inner.delete(path),
        }
    }

    fn transact(
        &self,
        required: &[String],
        writes: Vec<Write>,
    ) -> BoxFuture<'static, Result<(), TransactionFailure>> {
        self.inner.transact(required, writes)
    }

    fn owner(&self, directories: &[String]) -> Answer<Option<i64>> {
        self.inner.owner(directories)
    }

    fn check(&self, paths: &[String]) -> BoxFuture<'static, Result<(), CheckFailure>> {
        match self.twin {
            Twin::CheckIsBelieved => Box::pin(future::ready(Ok(()))),
            Twin::ResumedAfterLoss => Box::pin(self.inner.check(paths).map(|_| Ok(()))),
            Twin::MissingIsIgnored => Box::pin(self.inner.check(paths).map(|answer| match answer {
                Err(CheckFailure::Missing(_)) => Ok(()),
                answer => answer,
            })),
            Twin::CheckIsARead => self.read_all(paths),
            Twin::CheckIsASync => {
                let (synced, read) = (self.inner.sync("/zookeeper"), self.read_all(paths));
                Box::pin(async move {
                    synced.await.map_err(CheckFailure::Failed)?;
                    read.await
                })
            }
            _ => self.inner.check(paths),
        }
    }
}

impl Twisted {
    /// Checks by reads alone that the nodes exist.
    fn read_all(&self, paths: &[String]) -> BoxFuture<'static, Result<(), CheckFailure>> {
        let anchor = std::iter::once("/zookeeper").chain(paths.iter().map(String::as_str));
        let reads: Vec<_> = anchor.map(|path| self.inner.read(path)).collect();
        Box::pin(future::join_all(reads).map(|answers| {
            answers.into_iter().enumerate().try_for_each(|(index, answer)| match answer {
                Ok(_) => Ok(()),
                Err(Failure::NoNode) if index > 0 => Err(CheckFailure::Missing(index - 1)),
                Err(failure) => Err(CheckFailure::Failed(failure)),
            })
        }))
    }
}

fn never(fired: Watching) -> Watching {
    Box::pin(fired.then(|_| future::pending()))
}

fn none(leases: Leases) -> Leases {
    Leases { names: Vec::new(), ..leases }
}
