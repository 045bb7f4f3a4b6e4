//! A session of the client library: its connection, its timers, its requests and its watches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use lockkeeper_actors::machine::Failure;
use lockkeeper_actors::zookeeper::{Answer, Fired, LinkState, Unconnected, Watching};
use lockkeeper_embedded::wire::{ConnectRequest, ErrorCode, EventKind, Reply, Request, SetWatches};
use tokio::sync::{oneshot, watch};

use super::answers::failure;
use super::flight::{Deferred, Flight, Waiter, Watched, paths_of};
use crate::coverage::Stage;
use crate::ensemble::{Down, SESSION_TIMEOUT, Time, Up, Wire};
use crate::process::Host;

/// A client library's session.
pub struct Link {
    pub(super) host: Arc<Host>,
    inner: Mutex<Inner>,
    /// Whether the last heartbeat missed a node.
    pub(super) missed: AtomicBool,
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
    first: Option<First>,
    closing: bool,
}

/// Receives the states of the link, or the reason why there is none, when the first connect has ended.
type First = oneshot::Sender<Result<watch::Receiver<LinkState>, Unconnected>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first connection, before there is a session.
    Beginning,
    Up,
    Down,
    Resuming,
    Ended,
}

const PING: i32 = -2;
const SET_WATCHES: i32 = -8;
/// The pause between attempts to connect.
const RETRY: Time = 200;

impl Link {
    /// Begins to connect.
    pub(super) fn begin(host: Arc<Host>, first: First) -> Arc<Link> {
        let inner = Mutex::new(Inner::new(host.now(), first));
        let link = Arc::new(Link { host: host.clone(), inner, missed: AtomicBool::new(false) });
        host.links.lock().unwrap().push(link.clone());
        link.dial(&mut link.inner.lock().unwrap());
        link
    }

    pub(super) fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        stage: impl Into<Option<Stage>>,
        request: Request,
        read: impl FnOnce(Reply) -> Result<T, Failure> + Send + 'static,
    ) -> Answer<T> {
        let (answer, answered) = oneshot::channel();
        self.submit(Flight::new(request, stage.into(), Waiter::Reply(answer)));
        Box::pin(answered.map(|answer| answer.unwrap_or(Err(Failure::SessionGone)).and_then(read)))
    }

    pub(super) fn submit(&self, flight: Flight) {
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
        let (now, mut deferred) = (self.host.now(), Deferred::default());
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
                            deferred.send(watcher, fired);
                        }
                    }
                }
                Down::Closed if inner.closing => self.end(&mut inner, &mut deferred),
                Down::Closed => self.disconnected(&mut inner, &mut deferred),
            }
        }
        drop(inner);
        deferred.run();
    }

    /// Runs the timers, at every step of the simulation.
    pub fn tick(self: &Arc<Self>) {
        let (now, mut deferred) = (self.host.now(), Deferred::default());
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
        deferred.run();
    }

    fn connected(&self, inner: &mut Inner, deferred: &mut Deferred) {
        inner.phase = Phase::Up;
        match inner.first.take() {
            Some(first) => {
                let states = inner.states.subscribe();
                deferred.send(first, Ok(states));
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
                    deferred.send(first, Err(Unconnected::Unreachable("no server answered".into())));
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
            deferred.send(watcher, Fired::Ended);
        }
        let _ = inner.states.send(LinkState::Ended);
    }

    /// Closes the session, because its client was dropped.
    pub(super) fn close(&self) {
        if self.host.is_dead() {
            return;
        }
        let mut deferred = Deferred::default();
        let mut inner = self.inner.lock().unwrap();
        inner.closing = true;
        self.host.world().ensemble.give_up(inner.session);
        match inner.phase {
            Phase::Up => self.transmit(&mut inner, Flight::new(Request::CloseSession, None, Waiter::Nobody)),
            Phase::Beginning | Phase::Down | Phase::Resuming => self.end(&mut inner, &mut deferred),
            Phase::Ended => {}
        }
        drop(inner);
        deferred.run();
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
            (Waiter::Reply(waiter), result) => deferred.send(waiter, result),
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
                deferred.send(waiter, Ok((reply, fired)));
            }
            (Waiter::Watch(_, waiter), Err(failure)) => deferred.send(waiter, Err(failure)),
            (Waiter::Nobody, _) => {}
        }
    }
}

impl Inner {
    fn new(now: Time, first: First) -> Inner {
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
