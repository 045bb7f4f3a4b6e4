//! The machine and the outgoing side of every connection, behind one lock that is held for one input at a time. So
//! outputs stand in each connection's queue in the order in which the machine gave them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{debug, info};

use crate::controls::Target;
use crate::machine::{Config, ConnectionId, Input, Moment, Output, Server, SessionId, SessionInfo};
use crate::wire::{ConnectRequest, encode};

/// A client that leaves more than this unread while events come in is cut off.
const MAX_QUEUED: usize = 64 << 20;
/// How much memory the outgoing side of an idle connection may keep.
const IDLE_BUFFER: usize = 8 << 10;
/// A hundred years: more than any test waits, and little enough for every clock.
const AGES: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(crate) struct Shared {
    state: Mutex<State>,
    /// The next wake may be another one.
    changed: Notify,
    /// The last connection is gone.
    empty: Notify,
}

/// How a test ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Close,
    Reset,
}

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    pub black_hole: bool,
    pub swallow: bool,
    pub delay: Duration,
    /// A connect request that names a session is answered with a new one.
    pub replace: bool,
}

/// What a connection's task is to do next.
pub(super) enum Next {
    /// Nothing may go in or out for now.
    Hold,
    /// Look at the frames that had to wait: everything has gone out.
    Sent,
    /// Wait until the socket takes more.
    Full,
    /// Read; but look again at the given time.
    Read(Option<Instant>),
    /// Close the socket.
    Close,
    /// Break it.
    Reset,
    /// The socket is broken already.
    Broken(io::Error),
}

struct State {
    server: Server,
    links: BTreeMap<ConnectionId, Link>,
    next_connection: u64,
    faults: BTreeMap<SessionId, Fault>,
    fault_of_all: Fault,
    /// While the server is paused, what the machine's clock showed when that began: nothing expires meanwhile.
    paused: Option<Moment>,
    down: bool,
    origin: Instant,
    /// How far the machine's clock is ahead of ours; while the server is down, what it showed then.
    ahead: Duration,
    stood_still: Option<Moment>,
    outputs: Vec<Output>,
}

/// The outgoing side of a connection.
struct Link {
    wake: Arc<Notify>,
    session: Option<SessionId>,
    ready: Vec<u8>,
    /// How much of that has gone out.
    sent: usize,
    /// What a delay holds back, and until when.
    delayed: VecDeque<(Instant, Vec<u8>)>,
    ending: Option<Cut>,
}

/// What the machine does with connections.
impl Shared {
    pub fn new(config: Config) -> Shared {
        let state = State {
            server: Server::new(config),
            links: BTreeMap::new(),
            next_connection: 1,
            faults: BTreeMap::new(),
            fault_of_all: Fault::default(),
            paused: None,
            down: false,
            origin: Instant::now(),
            ahead: Duration::ZERO,
            stood_still: None,
            outputs: Vec::new(),
        };
        Shared { state: Mutex::new(state), changed: Notify::new(), empty: Notify::new() }
    }

    /// A new connection, unless the server is down.
    pub(super) fn open(&self, peer: SocketAddr) -> Option<(ConnectionId, Arc<Notify>)> {
        let mut state = self.state();
        if state.down {
            return None;
        }
        let connection = ConnectionId(state.next_connection);
        state.next_connection += 1;
        let wake = Arc::new(Notify::new());
        let (ready, delayed) = (Vec::new(), VecDeque::new());
        let link = Link { wake: Arc::clone(&wake), session: None, ready, sent: 0, delayed, ending: None };
        state.links.insert(connection, link);
        self.step(&mut state, Input::Opened { connection, peer });
        Some((connection, wake))
    }

    /// The connection's task has ended.
    pub(super) fn closed(&self, connection: ConnectionId) {
        let mut state = self.state();
        state.links.remove(&connection);
        if state.links.is_empty() {
            self.empty.notify_waiters();
        }
        if !state.down {
            self.step(&mut state, Input::Closed { connection });
        }
    }

    /// Gives the machine an input from a connection, unless it has to wait. Says whether it did.
    pub(super) fn input(&self, connection: ConnectionId, input: Input) -> bool {
        self.give(&mut self.state(), connection, input)
    }

    /// Gives the machine a connect request, unless it has to wait. Says whether it did. Faults of the session that
    /// it names concern this connection from now on.
    pub(super) fn connect(&self, connection: ConnectionId, mut request: ConnectRequest) -> bool {
        let mut state = self.state();
        if request.session != 0 {
            let session = SessionId(request.session);
            if let Some(link) = state.links.get_mut(&connection) {
                link.session = Some(session);
            }
            if state.fault(Some(session)).replace {
                request.session = 0;
            }
        }
        self.give(&mut state, connection, Input::Connect { connection, request })
    }

    fn give(&self, state: &mut State, connection: ConnectionId, input: Input) -> bool {
        // The lock is held from this look to the end of the step, so a fault is in force when its control returns.
        let takes = matches!(state.links.get(&connection), Some(Link { ending: None, .. }));
        if !takes || state.is_held(connection) {
            return false;
        }
        self.step(state, input);
        true
    }

    /// Sends what may go out, and says what a connection's task is to do next. `write` does not block; the lock is
    /// held meanwhile, so nothing goes out any more when the control of a fault has returned.
    pub(super) fn next(
        &self,
        connection: ConnectionId,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> Next {
        let mut state = self.state();
        let held = state.is_held(connection);
        let Some(link) = state.links.get_mut(&connection) else { return Next::Reset };
        if link.ending == Some(Cut::Reset) {
            return Next::Reset;
        }
        if held {
            return Next::Hold;
        }
        let now = Instant::now();
        while link.delayed.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, bytes)) = link.delayed.pop_front() {
                link.ready.extend(bytes);
            }
        }
        while link.sent < link.ready.len() {
            match write(&link.ready[link.sent..]) {
                Ok(0) => return Next::Broken(io::ErrorKind::WriteZero.into()),
                Ok(count) => link.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    link.forget_sent();
                    return Next::Full;
                }
                Err(error) => return Next::Broken(error),
            }
        }
        if link.sent > 0 {
            link.ready.clear();
            link.ready.shrink_to(IDLE_BUFFER);
            link.sent = 0;
            return Next::Sent;
        }
        match (link.delayed.front(), link.ending) {
            (None, Some(_)) => Next::Close,
            (later, _) => Next::Read(later.map(|(until, _)| *until)),
        }
    }

    /// Whether no request should be taken: too much waits to be sent, or nothing may pass, or the end is near.
    pub(super) fn is_busy(&self, connection: ConnectionId, limit: usize) -> bool {
        let state = self.state();
        state.is_held(connection)
            || state.links.get(&connection).is_none_or(|link| link.ending.is_some() || link.queued() > limit)
    }

    /// Whether the connection is on its way out.
    pub(super) fn is_ending(&self, connection: ConnectionId) -> bool {
        self.state().links.get(&connection).is_none_or(|link| link.ending.is_some())
    }

    /// Lets the machine see that time has passed.
    pub(super) fn pass_time(&self) {
        let mut state = self.state();
        if state.runs() {
            self.step(&mut state, Input::Time);
        }
    }

    /// How long until the machine has something to do.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        let state = self.state();
        if !state.runs() {
            return None;
        }
        let wake = state.server.next_wake()?;
        Some(Duration::from_nanos(wake.0.saturating_sub(state.now().0)))
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until no connection's task is left.
    pub(super) async fn all_gone(&self) {
        loop {
            let notified = self.empty.notified();
            if self.state().links.is_empty() {
                return;
            }
            notified.await;
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state().paused.is_some()
    }

    fn step(&self, state: &mut State, input: Input) {
        let before = state.server.next_wake();
        let now = state.now();
        let mut outputs = std::mem::take(&mut state.outputs);
        state.server.handle(input, now, &mut outputs);
        for output in outputs.drain(..) {
            state.send(output);
        }
        state.outputs = outputs;
        let after = state.server.next_wake();
        // A wake that comes too early does no harm, so only an earlier one is news.
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tests do.
impl Shared {
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.state().server.sessions()
    }

    pub fn expire(&self, session: SessionId) -> bool {
        let mut state = self.state();
        let there = state.server.has_session(session);
        self.step(&mut state, Input::Expire { session });
        there
    }

    pub fn cut(&self, target: Target, cut: Cut) {
        let mut state = self.state();
        let concerned =
            |link: &Link| target == Target::All || link.session.map(Target::Session) == Some(target);
        let ids: Vec<ConnectionId> =
            state.links.iter().filter(|(_, link)| concerned(link)).map(|(id, _)| *id).collect();
        for connection in ids {
            state.end(connection, cut);
            self.step(&mut state, Input::Closed { connection });
        }
    }

    pub fn change_fault(&self, target: Target, change: impl FnOnce(&mut Fault)) {
        let mut state = self.state();
        match target {
            Target::All => change(&mut state.fault_of_all),
            Target::Session(session) => {
                let fault = state.faults.entry(session).or_default();
                change(fault);
                if *fault == Fault::default() {
                    state.faults.remove(&session);
                }
            }
        }
        state.wake_all();
    }

    pub fn pause(&self, on: bool) {
        let mut state = self.state();
        state.paused = on.then(|| state.now());
        if state.runs() {
            self.step(&mut state, Input::Time);
        }
        state.wake_all();
        self.changed.notify_one();
    }

    pub fn advance_clock(&self, by: Duration) {
        let mut state = self.state();
        let ahead = state.ahead.saturating_add(by).min(AGES);
        let by = ahead - state.ahead;
        state.ahead = ahead;
        if let Some(moment) = &mut state.stood_still {
            *moment = *moment + by;
        }
        if state.runs() {
            self.step(&mut state, Input::Time);
        }
        // The driver sleeps until an end that may be close now.
        self.changed.notify_one();
    }

    /// Breaks every connection, and takes no more.
    pub fn take_down(&self) {
        let mut state = self.state();
        if state.down {
            return;
        }
        state.stood_still = Some(state.now());
        state.down = true;
        let ids: Vec<ConnectionId> = state.links.keys().copied().collect();
        ids.into_iter().for_each(|connection| state.end(connection, Cut::Reset));
        self.changed.notify_one();
    }

    pub fn bring_up(&self) {
        let mut state = self.state();
        state.down = false;
        state.stood_still = None;
        let now = state.now();
        state.server.restart(now);
        self.changed.notify_one();
    }

    pub fn forget_everything(&self) {
        let mut state = self.state();
        let now = state.now();
        state.server.reset(now);
    }
}

impl State {
    /// The machine's clock.
    fn now(&self) -> Moment {
        let running = || Moment::default() + self.origin.elapsed() + self.ahead;
        self.paused.or(self.stood_still).unwrap_or_else(running)
    }

    /// Whether time passes for the machine.
    fn runs(&self) -> bool {
        self.paused.is_none() && !self.down
    }

    fn fault(&self, session: Option<SessionId>) -> Fault {
        let own = session.and_then(|session| self.faults.get(&session)).copied().unwrap_or_default();
        let all = self.fault_of_all;
        Fault {
            black_hole: all.black_hole || own.black_hole,
            swallow: all.swallow || own.swallow,
            delay: all.delay.max(own.delay),
            replace: all.replace || own.replace,
        }
    }

    fn is_held(&self, connection: ConnectionId) -> bool {
        let session = self.links.get(&connection).and_then(|link| link.session);
        self.paused.is_some() || self.fault(session).black_hole
    }

    fn send(&mut self, output: Output) {
        match output {
            Output::Connected { connection, reply } => {
                if let Some(link) = self.links.get_mut(&connection) {
                    link.session = (reply.session != 0).then_some(SessionId(reply.session)).or(link.session);
                }
                self.queue(connection, |out| encode::connect_reply(&reply, out));
            }
            Output::Reply { connection, xid, zxid, result } => {
                self.queue(connection, |out| encode::reply(xid, zxid, &result, out));
            }
            Output::Event { connection, zxid, kind, path } => {
                self.queue(connection, |out| encode::event(kind, &path, zxid, out));
            }
            Output::Text { connection, text } => {
                self.queue(connection, |out| out.extend_from_slice(text.as_bytes()));
            }
            Output::Close { connection, reason } => {
                info!(connection = connection.0, %reason, "a connection is closed");
                self.end(connection, Cut::Close);
            }
        }
    }

    fn queue(&mut self, connection: ConnectionId, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(session) = self.links.get(&connection).map(|link| link.session) else { return };
        let fault = self.fault(session);
        let Some(link) = self.links.get_mut(&connection) else { return };
        if fault.swallow || link.ending.is_some() {
            return;
        }
        if fault.delay.is_zero() && link.delayed.is_empty() {
            encode(&mut link.ready);
        } else {
            let mut bytes = Vec::new();
            encode(&mut bytes);
            let due = Instant::now() + fault.delay.min(AGES);
            // In order, even when the delay has become shorter.
            let due = link.delayed.back().map_or(due, |(earlier, _)| due.max(*earlier));
            link.delayed.push_back((due, bytes));
        }
        if link.queued() > MAX_QUEUED {
            info!(connection = connection.0, "a connection is closed: its client does not read");
            link.ending = Some(Cut::Reset);
        }
        link.wake.notify_one();
    }

    fn end(&mut self, connection: ConnectionId, cut: Cut) {
        if let Some(link) = self.links.get_mut(&connection) {
            debug!(connection = connection.0, ?cut, "ending a connection");
            if link.ending != Some(Cut::Reset) {
                link.ending = Some(cut);
            }
            link.wake.notify_one();
        }
    }

    fn wake_all(&self) {
        self.links.values().for_each(|link| link.wake.notify_one());
    }
}

impl Link {
    /// Gives back the memory of what has gone out, once it is at least half: a client that always leaves a rest unread
    /// must not make this grow.
    fn forget_sent(&mut self) {
        if self.sent * 2 >= self.ready.len() {
            self.ready.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn queued(&self) -> usize {
        self.ready.len() - self.sent + self.delayed.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }
}
