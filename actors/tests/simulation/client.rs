//! Implements the `ZooKeeper` trait over the simulated ensemble, with the behaviour of the product's client library.
//!
//! Requests made without a connection wait for the next one. Requests in flight when the connection breaks end with an
//! unknown outcome. The library pings after 0.15 session timeouts without a packet sent, drops a connection after 0.4
//! without a packet received, and gives up the session after 1.4 without a connection. It takes the last zxid only from
//! answers to requests, not from events or pings: after a reconnect, the server may not have seen an event's change
//! yet.

mod answers;
mod flight;
mod link;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{self, BoxFuture};
use futures::stream::{self, StreamExt};
use futures::{FutureExt, TryFutureExt};
use lockkeeper_actors::machine::Failure;
use lockkeeper_actors::machine::lock::NodeStat;
use lockkeeper_actors::machine::semaphore::{Leases, Root, TakeFailure};
use lockkeeper_actors::zookeeper::{
    Acl, Answer, CheckFailure, Connect, Connected, CreatedNode, CreatedNodes, NewNode, Node, NotCreated,
    TakeRequest, TransactionFailure, Unconnected, Watching, Write as ApplicationWrite, ZooKeeper,
};
use lockkeeper_embedded::wire::{ErrorCode, OpResult, Read, Reply, Request, Write};
use tokio::sync::oneshot;

use self::answers::{
    NO_NODE, all, children, create, created_or_exists, creation, leases, refusal, root, unexpected,
};
use self::flight::{Flight, Waiter, Watched, paths_of};
pub use self::link::Link;
use crate::callers::SEMAPHORE;
use crate::coverage::Stage;
use crate::ensemble::SESSION_TIMEOUT;
use crate::process::Host;
use crate::twins::Twin;

/// Establishes sessions for one process.
pub struct Dialer(pub Arc<Host>);

impl Connect for Dialer {
    fn connect(&self) -> BoxFuture<'static, Result<Connected, Unconnected>> {
        let (first, connected) = oneshot::channel();
        let link = Link::begin(self.0.clone(), first);
        // Dropping the future closes the session.
        let client = Client { link, last: Mutex::new(Last::Other) };
        Box::pin(async move {
            let states = match connected.await {
                Ok(Ok(states)) => states,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Unconnected::Unreachable("the client has ended".into())),
            };
            let states = stream::unfold(states, |mut states| async move {
                states.changed().await.ok()?;
                let state = *states.borrow_and_update();
                Some((state, states))
            });
            Ok(Connected { client: Arc::new(client), states: states.boxed() })
        })
    }

    fn address(&self) -> &str {
        "simulated"
    }
}

/// The client of one session. Dropping it closes the session.
struct Client {
    link: Arc<Link>,
    last: Mutex<Last>,
}

/// The last request that was sent. Two requests that belong together count as one stage.
#[derive(Clone, PartialEq, Eq)]
enum Last {
    Create(String),
    Sync(String),
    Other,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl ZooKeeper for Client {
    fn session(&self) -> i64 {
        self.link.session()
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(SESSION_TIMEOUT)
    }

    fn create(
        &self,
        prefix: String,
        data: Arc<[u8]>,
        ephemeral: bool,
        _acl: Arc<[Acl]>,
    ) -> Answer<CreatedNode> {
        let directory = prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
        *self.last.lock().unwrap() = Last::Create(directory.to_owned());
        if !ephemeral {
            self.link.host.note_outliving(directory, &prefix);
        }
        let flags = if ephemeral { 3 } else { 2 };
        let (length, write) = (prefix.len(), create(&prefix, &data, flags));
        self.ask(Stage::Creating, write, move |reply| match reply {
            Reply::PathStat(path, stat) => {
                let sequence = path[length..].parse().map_err(|_| unexpected(&path))?;
                Ok(CreatedNode { sequence, czxid: stat.czxid })
            }
            other => Err(unexpected(&other)),
        })
    }

    fn create_all(&self, prefixes: &[NewNode<'_>]) -> BoxFuture<'static, Result<CreatedNodes, NotCreated>> {
        let lengths: Vec<usize> = prefixes.iter().map(|node| node.path.len()).collect();
        let creates = prefixes.iter().map(|node| creation(node.path, node.data, 3)).collect();
        let answer = self.ask(Stage::Creating, Request::Multi(creates), all);
        let failed = |failure| NotCreated { culprit: None, failure };
        Box::pin(async move {
            let made = answer
                .await
                .map_err(failed)?
                .map_err(|(index, code)| NotCreated { culprit: Some(index), failure: refusal(code) })?;
            let (mut sequences, mut czxid) = (Vec::new(), 0);
            for (result, length) in made.into_iter().zip(lengths) {
                let OpResult::CreateStat(path, stat) = result else {
                    return Err(failed(unexpected(&result)));
                };
                sequences.push(path[length..].parse().map_err(|_| failed(unexpected(&path)))?);
                czxid = stat.czxid;
            }
            Ok(CreatedNodes { sequences, czxid })
        })
    }

    fn make_directories(&self, path: &str, _container: bool, _acl: &[Acl]) -> Answer<()> {
        let parts = path.match_indices('/').skip(1).map(|(end, _)| path[..end].to_owned());
        let parts: Vec<String> = parts.chain([path.to_owned()]).collect();
        let (link, first) = (self.link.clone(), parts.first().cloned().unwrap_or_default());
        let mut answer = self.ask(Stage::MakingDirectory, create(&first, b"", 0), Ok);
        Box::pin(async move {
            for part in parts.into_iter().skip(1).map(Some).chain([None]) {
                created_or_exists(answer.await)?;
                let Some(part) = part else { break };
                answer = link.ask(Stage::MakingDirectory, create(&part, b"", 0), Ok);
            }
            Ok(())
        })
    }

    fn children(&self, path: &str) -> Answer<Vec<String>> {
        let last = std::mem::replace(&mut *self.last.lock().unwrap(), Last::Other);
        let stage = match last {
            Last::Create(directory) if directory == path => Stage::Creating,
            Last::Sync(directory) if directory == path => Stage::FindingCreated,
            Last::Create(_) | Last::Sync(_) | Last::Other => match self.link.host.is_tried(path) {
                true => Stage::Peeking,
                false => Stage::Listing,
            },
        };
        self.ask(stage, children(path), |reply| match reply {
            Reply::Children(names) => Ok(names.iter().map(|name| name.to_string()).collect()),
            other => Err(unexpected(&other)),
        })
    }

    fn sync(&self, path: &str) -> Answer<()> {
        self.link.host.sweep_may_panic(path);
        *self.last.lock().unwrap() = Last::Sync(path.to_owned());
        let path = path.to_owned();
        let request = match self.link.host.twin {
            Twin::CheckIsASync => Request::Sync { path },
            _ => Request::Multi(vec![Write::Check { path: ANCHOR.to_owned(), version: -1 }]),
        };
        self.ask(Stage::FindingCreated, request, |_| Ok(()))
    }

    fn read(&self, path: &str) -> Answer<Node> {
        let request = Request::Read { op: Read::GetData { path: path.to_owned() }, watch: false };
        // A read by the session actor, which looks for the nodes that a heartbeat missed, belongs to no contender.
        let stage = (!self.link.missed.load(Ordering::Relaxed)).then_some(Stage::ReadingStat);
        self.link.ask(stage, request, |reply| match reply {
            Reply::Data(data, stat) => {
                let stat = NodeStat { czxid: stat.czxid, owner: stat.ephemeral_owner };
                Ok(Node { data: data.map(|data| data.to_vec()).unwrap_or_default(), stat })
            }
            other => Err(unexpected(&other)),
        })
    }

    fn watch(&self, path: &str) -> Answer<Watching> {
        let read = Read::GetData { path: path.to_owned() };
        let request = Request::Read { op: read, watch: true };
        Box::pin(
            self.ask_and_watch(Stage::Waiting, Watched::data(path), request, Ok).map_ok(|(_, fired)| fired),
        )
    }

    fn watch_for(&self, _: &str) -> Answer<Option<Watching>> {
        Box::pin(future::ready(Err(Failure::Refused(
            "the simulation has no observers of the front of a queue".into(),
        ))))
    }

    fn read_root(&self, path: &str) -> Answer<Root> {
        let op = Read::GetData { path: path.to_owned() };
        self.ask(Stage::ReadingPermits, Request::Read { op, watch: false }, root)
    }

    fn watch_root(&self, path: &str) -> Answer<(Root, Watching)> {
        let op = Read::GetData { path: path.to_owned() };
        self.ask_and_watch(
            Stage::ReadingPermits,
            Watched::data(path),
            Request::Read { op, watch: true },
            root,
        )
    }

    fn leases(&self, path: &str) -> Answer<Leases> {
        self.ask(Stage::ReadingPermits, Request::GetChildren2 { path: path.to_owned(), watch: false }, leases)
    }

    fn watch_children(&self, path: &str) -> Answer<(Leases, Watching)> {
        let request = Request::GetChildren2 { path: path.to_owned(), watch: true };
        let stage = if path == SEMAPHORE { Stage::ReadingPermits } else { Stage::Following };
        self.ask_and_watch(stage, Watched::children(path), request, leases)
    }

    fn make(&self, path: &str, data: &[u8], _acl: &[Acl]) -> Answer<()> {
        Box::pin(self.ask(Stage::MakingDirectory, create(path, data, 0), |_| Ok(())).map(created_or_exists))
    }

    fn write(&self, path: &str, data: &[u8]) -> Answer<()> {
        let write = Write::SetData { path: path.to_owned(), data: Some(data.into()), version: -1 };
        self.ask(None, Request::Write(write), |_| Ok(()))
    }

    fn take(&self, take: TakeRequest<'_>) -> BoxFuture<'static, Result<(), TakeFailure>> {
        let mutex = match take.keep {
            true => Write::Check { path: take.mutex.to_owned(), version: -1 },
            false => Write::Delete { path: take.mutex.to_owned(), version: -1 },
        };
        let root = Write::Check { path: take.root.0.to_owned(), version: take.root.1 };
        let leases = take.leases.iter().map(|lease| creation(lease.path, lease.data, 1));
        let answer =
            self.ask(Stage::Taking, Request::Multi([mutex, root].into_iter().chain(leases).collect()), all);
        Box::pin(async move {
            match answer.await.map_err(TakeFailure::Failed)? {
                Ok(_) => Ok(()),
                Err((0, NO_NODE)) => Err(TakeFailure::MutexGone),
                Err((1, BAD_VERSION)) => Err(TakeFailure::LimitChanged),
                Err((_, NO_NODE)) => Err(TakeFailure::RootGone),
                Err((_, code)) => Err(TakeFailure::Failed(refusal(code))),
            }
        })
    }

    fn delete(&self, path: &str) -> Answer<()> {
        let request = Request::Write(Write::Delete { path: path.to_owned(), version: -1 });
        self.ask(Stage::Deleting, request, |_| Ok(()))
    }

    fn transact(
        &self,
        _: &[String],
        _: Vec<ApplicationWrite>,
    ) -> BoxFuture<'static, Result<(), TransactionFailure>> {
        let failure = Failure::Refused("the simulation has no applications that write".into());
        Box::pin(future::ready(Err(TransactionFailure::Request(failure))))
    }

    fn owner(&self, directories: &[String]) -> Answer<Option<i64>> {
        let (link, mut directories) = (self.link.clone(), directories.to_vec());
        if let Last::Create(directory) = &*self.last.lock().unwrap() {
            directories.push(directory.clone());
            let above = directory.match_indices('/').map(|(end, _)| &directory[..end]);
            directories.extend(above.rev().map(str::to_owned));
        }
        let answers: Vec<_> = (directories.iter())
            .map(|directory| {
                let path = format!("{directory}/session-check");
                let delete = Write::Delete { path: path.clone(), version: -1 };
                link.ask(None, Request::Multi(vec![creation(&path, b"", 1), delete]), all)
            })
            .collect();
        Box::pin(async move {
            let none = answers.is_empty();
            for answer in answers {
                match answer.await? {
                    Ok(results) => match results.into_iter().next() {
                        Some(OpResult::CreateStat(_, stat)) => return Ok(Some(stat.ephemeral_owner)),
                        other => return Err(unexpected(&other)),
                    },
                    Err((_, NO_NODE)) => {}
                    Err((_, code)) => return Err(refusal(code)),
                }
            }
            none.then_some(None).ok_or(Failure::NoNode)
        })
    }

    fn check(&self, paths: &[String]) -> BoxFuture<'static, Result<(), CheckFailure>> {
        self.link.host.session_may_panic();
        self.link.missed.store(false, Ordering::Relaxed);
        let link = self.link.clone();
        let anchor = std::iter::once(ANCHOR);
        let checks = anchor.chain(paths.iter().map(String::as_str));
        let checks = checks.map(|path| Write::Check { path: path.to_owned(), version: -1 }).collect();
        let answer = self.link.ask(None, Request::Multi(checks), all);
        Box::pin(async move {
            match answer.await.map_err(CheckFailure::Failed)? {
                Ok(_) => Ok(()),
                Err((index, NO_NODE)) if index > 0 => {
                    link.missed.store(true, Ordering::Relaxed);
                    Err(CheckFailure::Missing(index - 1))
                }
                Err((_, code)) => Err(CheckFailure::Failed(refusal(code))),
            }
        })
    }
}

impl Client {
    fn ask<T: Send + 'static>(
        &self,
        stage: impl Into<Option<Stage>>,
        request: Request,
        read: impl FnOnce(Reply) -> Result<T, Failure> + Send + 'static,
    ) -> Answer<T> {
        self.link.host.may_panic(&paths_of(&request));
        self.link.ask(stage, request, read)
    }

    fn ask_and_watch<T: Send + 'static>(
        &self,
        stage: impl Into<Option<Stage>>,
        watched: Watched,
        request: Request,
        read: impl FnOnce(Reply) -> Result<T, Failure> + Send + 'static,
    ) -> Answer<(T, Watching)> {
        self.link.host.may_panic(&paths_of(&request));
        let (answer, answered) = oneshot::channel();
        self.link.submit(Flight::new(request, stage.into(), Waiter::Watch(watched, answer)));
        Box::pin(answered.map(|answer| {
            let (reply, fired) = answer.unwrap_or(Err(Failure::SessionGone))?;
            Ok((read(reply)?, fired))
        }))
    }
}

/// What every write that changes nothing checks.
const ANCHOR: &str = "/zookeeper";
const BAD_VERSION: i32 = ErrorCode::BadVersion as i32;
