//! Implements the `ZooKeeper` trait over the simulated ensemble, with the behaviour of the product's client library.
//!
//! Requests made without a connection wait for the next one. Requests in flight when the connection breaks end with an
//! unknown outcome. The library pings after 0.15 session timeouts without a packet sent, drops a connection after 0.4
//! without a packet received, and gives up the session after 1.4 without a connection. It takes the last zxid only from
//! answers to requests, not from events or pings: after a reconnect, the server may not have seen an event's change
//! yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{self, BoxFuture};
use futures::stream::{self, StreamExt};
use futures::{FutureExt, TryFutureExt};
use lockkeeper_actors::machine::Failure;
use lockkeeper_actors::machine::lock::NodeStat;
use lockkeeper_actors::machine::semaphore::{Leases, Root, TakeFailure};
use lockkeeper_actors::zookeeper::{
    Acl, Answer, CheckFailure, Connect, Connected, CreatedNode, CreatedNodes, Fired, LinkState, NewNode,
    Node, NotCreated, TakeRequest, TransactionFailure, Unconnected, Watching, Write as ApplicationWrite,
    ZooKeeper,
};
use lockkeeper_embedded::wire::{
    self, ConnectRequest, CreateKind, ErrorCode, EventKind, OpResult, Read, Reply, Request, SetWatches, Write,
};
use tokio::sync::{oneshot, watch};

use crate::callers::SEMAPHORE;
use crate::coverage::Stage;
use crate::ensemble::{Down, SESSION_TIMEOUT, Time, Up, Wire, children};
use crate::process::Host;
use crate::twins::Twin;

/// Establishes sessions for one process.
pub struct Dialer(pub Arc<Host>);

impl Connect for Dialer {
    fn connect(&self) -> BoxFuture<'static, Result<Connected, Unconnected>> {
        let host = self.0.clone();
        let (first, connected) = oneshot::channel();
        let inner = Mutex::new(Inner::new(host.now(), first));
        let link = Arc::new(Link { host: host.clone(), inner, missed: AtomicBool::new(false) });
        host.links.lock().unwrap().push(link.clone());
        link.dial(&mut link.inner.lock().unwrap());
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

/// A client library's session.
pub struct Link {
    host: Arc<Host>,
    inner: Mutex<Inner>,
    /// Whether the last heartbeat missed a node.
    missed: AtomicBool,
}

struct Inner {
    phase: Phase,
    wire: Option<Wire>,
    session: i64,
    password: Vec<u8>,
    last_zxid: i64,
    next_xid: i32,
    in_flight: VecDeque<Flight>,
    queued: VecDeque<Flight>,
    watches: BTreeMap<Watched, Vec<(u64, oneshot::Sender<Fired>)>>,
    next_watch: u64,
    last_received: Time,
    last_sent: Time,
    dialed: Time,
    cut: Time,
    states: watch::Sender<LinkState>,
    first: Option<oneshot::Sender<Result<watch::Receiver<LinkState>, Unconnected>>>,
    closing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first connection, before there is a session.
    Beginning,
    Up,
    Down,
    Resuming,
    Ended,
}

/// The paths that a request of the actors is about.
fn paths_of(request: &Request) -> Vec<&str> {
    match request {
        Request::Write(write) => vec![written(write)],
        Request::Multi(writes) => writes.iter().map(written).collect(),
        Request::Read { op: Read::GetData { path } | Read::GetChildren { path }, .. }
        | Request::Exists { path, .. }
        | Request::GetChildren2 { path, .. }
        | Request::Sync { path } => vec![path],
        _ => Vec::new(),
    }
}

fn written(write: &Write) -> &str {
    match write {
        Write::Create { path, .. }
        | Write::Delete { path, .. }
        | Write::SetData { path, .. }
        | Write::SetAcl { path, .. }
        | Write::Check { path, .. } => path,
    }
}

struct Flight {
    xid: i32,
    request: Request,
    stage: Option<Stage>,
    waiter: Waiter,
}

enum Waiter {
    Reply(oneshot::Sender<Result<Reply, Failure>>),
    Watch(Watched, oneshot::Sender<Result<(Reply, Watching), Failure>>),
    Nobody,
}

/// What is watched.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Watched {
    path: String,
    /// Whether its children are watched; otherwise the node itself.
    children: bool,
}

impl Watched {
    fn data(path: &str) -> Watched {
        Watched { path: path.to_owned(), children: false }
    }

    fn children(path: &str) -> Watched {
        Watched { path: path.to_owned(), children: true }
    }
}

/// Notifications to send once `inner` is unlocked, because the receivers may drop things that lock it again.
type Deferred = Vec<Box<dyn FnOnce()>>;

const PING: i32 = -2;
const SET_WATCHES: i32 = -8;

impl Link {
    fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        stage: impl Into<Option<Stage>>,
        request: Request,
        read: impl FnOnce(Reply) -> Result<T, Failure> + Send + 'static,
    ) -> Answer<T> {
        let (answer, answered) = oneshot::channel();
        self.submit(Flight::new(request, stage.into(), Waiter::Reply(answer)));
        Box::pin(answered.map(|answer| answer.unwrap_or(Err(Failure::SessionGone)).and_then(read)))
    }

    fn submit(&self, flight: Flight) {
        let mut inner = self.inner.lock().unwrap();
        match inner.phase {
            Phase::Ended => {}
            Phase::Up => self.transmit(&mut inner, flight),
            Phase::Beginning | Phase::Down | Phase::Resuming => inner.queued.push_back(flight),
        }
    }

    fn transmit(&self, inner: &mut Inner, mut flight: Flight) {
        inner.next_xid += 1;
        flight.xid = inner.next_xid;
        let packet = Up::Request { xid: flight.xid, request: flight.request.clone() };
        inner.in_flight.push_back(flight);
        self.send(inner, packet);
    }

    fn send(&self, inner: &mut Inner, packet: Up) {
        let now = self.host.now();
        inner.last_sent = now;
        if let Some(wire) = inner.wire {
            self.host.world().ensemble.send(wire, now, packet);
        }
    }

    fn dial(&self, inner: &mut Inner) {
        let now = self.host.now();
        let wire = self.host.world().ensemble.open(self.host.index);
        inner.wire = Some(wire);
        inner.dialed = now;
        let request = ConnectRequest {
            last_zxid_seen: inner.last_zxid,
            timeout_ms: SESSION_TIMEOUT as i32,
            session: inner.session,
            password: inner.password.clone(),
            read_only: Some(false),
        };
        self.send(inner, Up::Connect(request));
    }

    fn hang_up(&self, inner: &mut Inner) {
        if let Some(wire) = inner.wire.take() {
            self.host.world().ensemble.hang_up(wire, self.host.now());
        }
    }

    pub fn session(&self) -> i64 {
        self.inner.lock().unwrap().session
    }

    pub fn wire(&self) -> Option<Wire> {
        self.inner.lock().unwrap().wire
    }

    /// The connection and the session, if the client is connected.
    pub fn up(&self) -> Option<(Wire, i64)> {
        let inner = self.inner.lock().unwrap();
        inner.wire.filter(|_| inner.phase == Phase::Up && !inner.closing).map(|wire| (wire, inner.session))
    }

    pub fn is_ended(&self) -> bool {
        self.inner.lock().unwrap().phase == Phase::Ended
    }

    pub fn watches(&self) -> usize {
        self.inner.lock().unwrap().watches.len()
    }

    /// The stages that the requests on these paths show; of all requests without paths.
    pub fn stages(&self, paths: Option<&[&str]>) -> Vec<Stage> {
        let inner = self.inner.lock().unwrap();
        let is_here = |other: &str| match paths {
            // A directory is made with its parents, and the mutex of a semaphore is beside it.
            Some(paths) => paths.iter().any(|path| other.starts_with(path) || path.starts_with(other)),
            None => true,
        };
        let flights = inner.in_flight.iter().chain(&inner.queued);
        let here = flights.filter(|flight| paths_of(&flight.request).into_iter().any(is_here));
        let watches = inner.watches.keys().any(|watched| is_here(&watched.path));
        here.filter_map(|flight| flight.stage).chain(watches.then_some(Stage::Waiting)).collect()
    }

    pub fn deliver(self: &Arc<Self>, packet: Down) {
        let (now, mut deferred) = (self.host.now(), Vec::new());
        let mut inner = self.inner.lock().unwrap();
        if inner.phase != Phase::Ended {
            inner.last_received = now;
            match packet {
                Down::Connected(reply) if reply.session == 0 => self.end(&mut inner, &mut deferred),
                Down::Connected(reply) => {
                    (inner.session, inner.password) = (reply.session, reply.password.to_vec());
                    self.host.session.store(reply.session, Ordering::Relaxed);
                    self.connected(&mut inner, &mut deferred);
                }
                // The client library takes no transaction id from a ping's answer, nor from an event.
                Down::Reply { xid: PING, .. } => {}
                Down::Reply { xid, zxid, result } => {
                    inner.last_zxid = inner.last_zxid.max(zxid);
                    if xid != SET_WATCHES {
                        let flight = inner.in_flight.pop_front();
                        let flight = flight.filter(|flight| flight.xid == xid);
                        self.answer(
                            &mut inner,
                            flight.expect("answers come in the order of the requests"),
                            result,
                            &mut deferred,
                        );
                    }
                }
                Down::Event { kind, path } => {
                    let (data, children) = (Watched::data(&path), Watched::children(&path));
                    let (fired, watched) = match kind {
                        EventKind::Deleted => (Fired::Gone, vec![data, children]),
                        EventKind::Created | EventKind::DataChanged => (Fired::Changed, vec![data]),
                        EventKind::ChildrenChanged => (Fired::Changed, vec![children]),
                    };
                    for watched in watched {
                        for (_, watcher) in inner.watches.remove(&watched).into_iter().flatten() {
                            deferred.push(Box::new(move || {
                                let _ = watcher.send(fired);
                            }));
                        }
                    }
                }
                Down::Closed if inner.closing => self.end(&mut inner, &mut deferred),
                Down::Closed => self.disconnected(&mut inner, &mut deferred),
            }
        }
        drop(inner);
        deferred.into_iter().for_each(|tell| tell());
    }

    /// Runs the timers, at every step of the simulation.
    pub fn tick(self: &Arc<Self>) {
        let (now, mut deferred) = (self.host.now(), Vec::new());
        let mut inner = self.inner.lock().unwrap();
        let given_up = now >= inner.cut + SESSION_TIMEOUT * 14 / 10;
        match inner.phase {
            Phase::Up if now >= inner.last_received + SESSION_TIMEOUT * 4 / 10 => {
                self.disconnected(&mut inner, &mut deferred)
            }
            Phase::Up if now >= inner.last_sent + SESSION_TIMEOUT * 15 / 100 => {
                self.send(&mut inner, Up::Request { xid: PING, request: Request::Ping });
            }
            Phase::Down | Phase::Resuming if given_up => self.end(&mut inner, &mut deferred),
            Phase::Down if now >= inner.dialed + RETRY => {
                inner.phase = Phase::Resuming;
                self.dial(&mut inner);
            }
            Phase::Resuming | Phase::Beginning if now >= inner.dialed + SESSION_TIMEOUT / 3 => {
                self.disconnected(&mut inner, &mut deferred)
            }
            Phase::Beginning | Phase::Up | Phase::Down | Phase::Resuming | Phase::Ended => {}
        }
        drop(inner);
        deferred.into_iter().for_each(|tell| tell());
    }

    fn connected(&self, inner: &mut Inner, deferred: &mut Deferred) {
        inner.phase = Phase::Up;
        match inner.first.take() {
            Some(first) => {
                let states = inner.states.subscribe();
                deferred.push(Box::new(move || {
                    let _ = first.send(Ok(states));
                }));
            }
            None => {
                let _ = inner.states.send(LinkState::Up);
            }
        }
        if !inner.watches.is_empty() {
            let mut watches = SetWatches { relative_zxid: inner.last_zxid, ..SetWatches::default() };
            for Watched { path, children } in inner.watches.keys().cloned() {
                if children { watches.child.push(path) } else { watches.data.push(path) }
            }
            self.send(inner, Up::Request { xid: SET_WATCHES, request: Request::SetWatches(watches) });
        }
        while let Some(flight) = inner.queued.pop_front() {
            self.transmit(inner, flight);
        }
    }

    fn disconnected(&self, inner: &mut Inner, deferred: &mut Deferred) {
        let now = self.host.now();
        self.hang_up(inner);
        // The next attempt follows after a pause.
        inner.dialed = now;
        match inner.phase {
            Phase::Beginning => {
                if let Some(first) = inner.first.take() {
                    deferred.push(Box::new(move || {
                        drop(first.send(Err(Unconnected::Unreachable("no server answered".into()))))
                    }));
                }
                return self.end(inner, deferred);
            }
            Phase::Up => {
                inner.cut = now;
                let _ = inner.states.send(LinkState::Down);
            }
            Phase::Down | Phase::Resuming | Phase::Ended => {}
        }
        if inner.closing {
            return self.end(inner, deferred);
        }
        inner.phase = Phase::Down;
        for flight in std::mem::take(&mut inner.in_flight) {
            flight.fail(Failure::Unknown("the connection was lost".into()), deferred);
        }
    }

    fn end(&self, inner: &mut Inner, deferred: &mut Deferred) {
        self.hang_up(inner);
        self.host.world().ensemble.give_up(inner.session);
        inner.phase = Phase::Ended;
        let flights =
            std::mem::take(&mut inner.in_flight).into_iter().chain(std::mem::take(&mut inner.queued));
        flights.for_each(|flight| flight.fail(Failure::SessionGone, deferred));
        for (_, watcher) in std::mem::take(&mut inner.watches).into_values().flatten() {
            deferred.push(Box::new(move || {
                let _ = watcher.send(Fired::Ended);
            }));
        }
        let _ = inner.states.send(LinkState::Ended);
    }

    /// Closes the session, because its client was dropped.
    fn close(&self) {
        if self.host.is_dead() {
            return;
        }
        let mut deferred = Vec::new();
        let mut inner = self.inner.lock().unwrap();
        inner.closing = true;
        self.host.world().ensemble.give_up(inner.session);
        match inner.phase {
            Phase::Up => self.transmit(&mut inner, Flight::new(Request::CloseSession, None, Waiter::Nobody)),
            Phase::Beginning | Phase::Down | Phase::Resuming => self.end(&mut inner, &mut deferred),
            Phase::Ended => {}
        }
        drop(inner);
        deferred.into_iter().for_each(|tell| tell());
    }

    fn answer(
        self: &Arc<Self>,
        inner: &mut Inner,
        flight: Flight,
        result: Result<Reply, ErrorCode>,
        deferred: &mut Deferred,
    ) {
        let result = result.map_err(failure);
        match (flight.waiter, result) {
            (Waiter::Reply(waiter), result) => deferred.push(Box::new(move || {
                let _ = waiter.send(result);
            })),
            (Waiter::Watch(watched, waiter), Ok(reply)) => {
                let (fire, fired) = oneshot::channel();
                inner.next_watch += 1;
                let watch =
                    RemoveOnDrop { link: self.clone(), watched: watched.clone(), id: inner.next_watch };
                inner.watches.entry(watched).or_default().push((inner.next_watch, fire));
                let fired: Watching = Box::pin(async move {
                    let _watch = watch;
                    fired.await.unwrap_or(Fired::Ended)
                });
                deferred.push(Box::new(move || {
                    let _ = waiter.send(Ok((reply, fired)));
                }));
            }
            (Waiter::Watch(_, waiter), Err(failure)) => deferred.push(Box::new(move || {
                let _ = waiter.send(Err(failure));
            })),
            (Waiter::Nobody, _) => {}
        }
    }
}

/// The pause between attempts to connect.
const RETRY: Time = 200;

impl Inner {
    fn new(now: Time, first: oneshot::Sender<Result<watch::Receiver<LinkState>, Unconnected>>) -> Inner {
        Inner {
            phase: Phase::Beginning,
            wire: None,
            session: 0,
            password: vec![0; 16],
            last_zxid: 0,
            next_xid: 0,
            in_flight: VecDeque::new(),
            queued: VecDeque::new(),
            watches: BTreeMap::new(),
            next_watch: 0,
            last_received: now,
            last_sent: now,
            dialed: now,
            cut: now,
            states: watch::Sender::new(LinkState::Up),
            first: Some(first),
            closing: false,
        }
    }
}

impl Flight {
    fn new(request: Request, stage: Option<Stage>, waiter: Waiter) -> Flight {
        Flight { xid: 0, request, stage, waiter }
    }

    fn fail(self, failure: Failure, deferred: &mut Deferred) {
        match self.waiter {
            Waiter::Reply(waiter) => deferred.push(Box::new(move || {
                let _ = waiter.send(Err(failure));
            })),
            Waiter::Watch(_, waiter) => deferred.push(Box::new(move || {
                let _ = waiter.send(Err(failure));
            })),
            Waiter::Nobody => {}
        }
    }
}

/// Removes a watch when it is dropped.
struct RemoveOnDrop {
    link: Arc<Link>,
    watched: Watched,
    id: u64,
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if self.link.host.is_dead() {
            return;
        }
        let mut inner = self.link.inner.lock().unwrap();
        let Some(watchers) = inner.watches.get_mut(&self.watched) else { return };
        let before = watchers.len();
        watchers.retain(|(id, _)| *id != self.id);
        if before > 0 && watchers.is_empty() {
            inner.watches.remove(&self.watched);
            // Like the client library: not while another request sets the same watch, which would be removed as well.
            let coming = |flight: &Flight| matches!(&flight.waiter, Waiter::Watch(watched, _) if *watched == self.watched);
            let coming = inner.in_flight.iter().chain(&inner.queued).any(coming);
            if inner.phase == Phase::Up && !coming {
                let Watched { path, children } = self.watched.clone();
                let request = Request::RemoveWatches { path, kind: if children { 1 } else { 2 } };
                self.link.transmit(&mut inner, Flight::new(request, None, Waiter::Nobody));
            }
        }
    }
}

fn create(path: &str, data: &[u8], flags: i32) -> Request {
    Request::Write(creation(path, data, flags))
}

fn creation(path: &str, data: &[u8], flags: i32) -> Write {
    let anyone = wire::Id { scheme: "world".into(), id: "anyone".into() };
    Write::Create {
        kind: CreateKind::WithStat,
        path: path.to_owned(),
        data: Some(data.into()),
        acl: vec![wire::Acl { perms: 31, id: anyone }],
        flags,
    }
}

fn root(reply: Reply) -> Result<Root, Failure> {
    match reply {
        Reply::Data(data, stat) => {
            let data = data.map(|data| data.to_vec()).unwrap_or_default();
            Ok(Root { version: stat.version, written: stat.mzxid, data })
        }
        other => Err(unexpected(&other)),
    }
}

fn leases(reply: Reply) -> Result<Leases, Failure> {
    match reply {
        Reply::ChildrenStat(names, stat) => {
            let names = names.iter().map(|name| name.to_string()).collect();
            Ok(Leases { names, written: stat.mzxid })
        }
        other => Err(unexpected(&other)),
    }
}

/// What every write that changes nothing checks.
const ANCHOR: &str = "/zookeeper";
const NO_NODE: i32 = ErrorCode::NoNode as i32;
const BAD_VERSION: i32 = ErrorCode::BadVersion as i32;

/// The results of a transaction, or the index and error code of the write that made it fail.
fn all(reply: Reply) -> Result<Result<Vec<OpResult>, (usize, i32)>, Failure> {
    let Reply::Multi(results) = reply else { return Err(unexpected(&reply)) };
    let failed = results.iter().enumerate().find_map(|(index, result)| match result {
        OpResult::Error(code) if *code != 0 => Some((index, *code)),
        _ => None,
    });
    Ok(failed.map_or(Ok(results), Err))
}

fn refusal(code: i32) -> Failure {
    match code {
        NO_NODE => Failure::NoNode,
        code => Failure::Refused(format!("error {code}").into()),
    }
}

/// Treats a node that already exists as created.
fn created_or_exists<T>(made: Result<T, Failure>) -> Result<(), Failure> {
    match made {
        Ok(_) => Ok(()),
        Err(Failure::Refused(reason)) if reason == ErrorCode::NodeExists.to_string().into() => Ok(()),
        Err(failure) => Err(failure),
    }
}

fn failure(error: ErrorCode) -> Failure {
    match error {
        ErrorCode::NoNode => Failure::NoNode,
        ErrorCode::NoAuth => Failure::NoAuth,
        other => Failure::Refused(other.to_string().into()),
    }
}

fn unexpected(answer: &impl std::fmt::Debug) -> Failure {
    Failure::Unknown(format!("unexpected answer: {answer:?}").into())
}
