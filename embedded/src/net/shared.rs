//! The machine and the outgoing side of every connection, behind one lock. The lock is held while one input is
//! processed, so each connection's queue has the outputs in the order in which the machine returned them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{debug, info};

use super::link::{Cut, Link};
use super::target::Target;
use crate::machine::{Config, ConnectionId, Input, Moment, Output, Server, SessionId, SessionInfo};
use crate::wire::{ConnectRequest, encode};

/// A connection is reset when more bytes than this wait to be sent, because its client does not read.
const MAX_QUEUED: usize = 64 << 20;
/// The limit for delays and clock advances: longer than any test waits, and short enough not to overflow a clock.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(crate) struct Shared {
    state: Mutex<State>,
    /// Notified when the machine's next wake-up may have changed.
    wake_changed: Notify,
    /// Notified when the last connection has been removed.
    all_closed: Notify,
}

/// The faults injected into connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    pub black_hole: bool,
    pub swallow: bool,
    pub delay: Duration,
    /// A connect request that names a session gets a new session instead.
    pub replace: bool,
}

/// What a connection's task must do next.
pub(super) enum Next {
    /// Neither read nor write until woken up.
    Hold,
    /// Process the frames that had to wait, because everything has been sent.
    Sent,
    /// Wait until the socket is writable.
    Full,
    /// Read, but call `next` again at the given time.
    Read(Option<Instant>),
    /// Close the socket.
    Close,
    /// Reset the socket.
    Reset,
    /// Writing failed, so the connection is broken.
    Failed(io::Error),
}

struct State {
    server: Server,
    links: BTreeMap<ConnectionId, Link>,
    next_connection: u64,
    faults: BTreeMap<SessionId, Fault>,
    fault_for_all: Fault,
    /// While the server is paused, the machine's time when the pause began. Nothing expires in the meantime.
    paused: Option<Moment>,
    down: bool,
    origin: Instant,
    /// How far the machine's clock is ahead of the real one, because a test advanced it.
    ahead: Duration,
    /// While the server is down, the machine's time. It changes only when a test advances the clock.
    stopped_at: Option<Moment>,
    outputs: Vec<Output>,
}

/// The connections' side: passing inputs to the machine and sending its outputs.
impl Shared {
    pub fn new(config: Config) -> Shared {
        let state = State {
            server: Server::new(config),
            links: BTreeMap::new(),
            next_connection: 1,
            faults: BTreeMap::new(),
            fault_for_all: Fault::default(),
            paused: None,
            down: false,
            origin: Instant::now(),
            ahead: Duration::ZERO,
            stopped_at: None,
            outputs: Vec::new(),
        };
        Shared { state: Mutex::new(state), wake_changed: Notify::new(), all_closed: Notify::new() }
    }

    /// Registers a new connection. Returns `None` if the server is down.
    pub(super) fn open(&self, peer: SocketAddr) -> Option<(ConnectionId, Arc<Notify>)> {
        let mut state = self.state();
        if state.down {
            return None;
        }
        let connection = ConnectionId(state.next_connection);
        state.next_connection += 1;
        let wake = Arc::new(Notify::new());
        state.links.insert(connection, Link::new(Arc::clone(&wake)));
        self.step(&mut state, Input::Opened { connection, peer });
        Some((connection, wake))
    }

    /// Removes a connection whose task has ended.
    pub(super) fn closed(&self, connection: ConnectionId) {
        let mut state = self.state();
        state.links.remove(&connection);
        if state.links.is_empty() {
            self.all_closed.notify_waiters();
        }
        if !state.down {
            self.step(&mut state, Input::Closed { connection });
        }
    }

    /// Passes an input from a connection to the machine. Returns `false` if the connection is held back or ending.
    pub(super) fn input(&self, connection: ConnectionId, input: Input) -> bool {
        self.try_step(&mut self.state(), connection, input)
    }

    /// Passes a connect request to the machine. Returns `false` if the connection is held back or ending. From now on
    /// the faults of the session that the request names apply to this connection.
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
        self.try_step(&mut state, connection, Input::Connect { connection, request })
    }

    fn try_step(&self, state: &mut State, connection: ConnectionId, input: Input) -> bool {
        // The lock is held from this check to the end of the step, so a fault is in effect when its control returns.
        let is_open = matches!(state.links.get(&connection), Some(Link { ending: None, .. }));
        if !is_open || state.is_held(connection) {
            return false;
        }
        self.step(state, input);
        true
    }

    /// Sends what can be sent now, and returns what the connection's task must do next. `write` must not block. The
    /// lock is held during the write, so a fault is in effect when its control returns.
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
        link.take_due(Instant::now());
        while link.sent < link.ready.len() {
            match write(&link.ready[link.sent..]) {
                Ok(0) => return Next::Failed(io::ErrorKind::WriteZero.into()),
                Ok(count) => link.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    link.discard_sent();
                    return Next::Full;
                }
                Err(error) => return Next::Failed(error),
            }
        }
        if link.sent > 0 {
            link.discard_all();
            return Next::Sent;
        }
        match (link.next_due(), link.ending) {
            (None, Some(_)) => Next::Close,
            (later, _) => Next::Read(later),
        }
    }

    /// Whether no request can be accepted now: the connection is held back or ending, or more than `limit` bytes wait
    /// to be sent.
    pub(super) fn is_busy(&self, connection: ConnectionId, limit: usize) -> bool {
        let state = self.state();
        state.is_held(connection)
            || state.links.get(&connection).is_none_or(|link| link.ending.is_some() || link.queued() > limit)
    }

    /// Whether the connection is about to be closed or reset.
    pub(super) fn is_ending(&self, connection: ConnectionId) -> bool {
        self.state().links.get(&connection).is_none_or(|link| link.ending.is_some())
    }

    /// Tells the machine that time has passed.
    pub(super) fn pass_time(&self) {
        let mut state = self.state();
        if state.is_running() {
            self.step(&mut state, Input::Time);
        }
    }

    /// How long until the machine needs to be called again, if ever.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        let state = self.state();
        if !state.is_running() {
            return None;
        }
        let wake = state.server.next_wake()?;
        Some(Duration::from_nanos(wake.0.saturating_sub(state.now().0)))
    }

    /// Waits until the next wake-up may have changed.
    pub(super) async fn wake_changed(&self) {
        self.wake_changed.notified().await;
    }

    /// Waits until the tasks of all connections have ended.
    pub(super) async fn all_closed(&self) {
        loop {
            let notified = self.all_closed.notified();
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
        // Waking up too early is harmless, so only notify when the next wake-up is earlier than before.
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.wake_changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tests' side: what [`Controls`](crate::Controls) does.
impl Shared {
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.state().server.sessions()
    }

    pub fn expire(&self, session: SessionId) -> bool {
        let mut state = self.state();
        let existed = state.server.has_session(session);
        self.step(&mut state, Input::Expire { session });
        existed
    }

    pub fn cut(&self, target: Target, cut: Cut) {
        let mut state = self.state();
        let matches =
            |link: &Link| target == Target::All || link.session.map(Target::Session) == Some(target);
        let ids: Vec<ConnectionId> =
            state.links.iter().filter(|(_, link)| matches(link)).map(|(id, _)| *id).collect();
        for connection in ids {
            state.end(connection, cut);
            self.step(&mut state, Input::Closed { connection });
        }
    }

    pub fn change_fault(&self, target: Target, change: impl FnOnce(&mut Fault)) {
        let mut state = self.state();
        match target {
            Target::All => change(&mut state.fault_for_all),
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
        if state.is_running() {
            self.step(&mut state, Input::Time);
        }
        state.wake_all();
        self.wake_changed.notify_one();
    }

    pub fn advance_clock(&self, by: Duration) {
        let mut state = self.state();
        let ahead = state.ahead.saturating_add(by).min(MAX_DURATION);
        let by = ahead - state.ahead;
        state.ahead = ahead;
        if let Some(moment) = &mut state.stopped_at {
            *moment = *moment + by;
        }
        if state.is_running() {
            self.step(&mut state, Input::Time);
        }
        // The driver may be sleeping until a time that is now closer or in the past.
        self.wake_changed.notify_one();
    }

    /// Resets every connection and accepts no new ones.
    pub fn take_down(&self) {
        let mut state = self.state();
        if state.down {
            return;
        }
        state.stopped_at = Some(state.now());
        state.down = true;
        let ids: Vec<ConnectionId> = state.links.keys().copied().collect();
        ids.into_iter().for_each(|connection| state.end(connection, Cut::Reset));
        state.server.disconnect_all();
        self.wake_changed.notify_one();
    }

    pub fn bring_up(&self) {
        let mut state = self.state();
        state.down = false;
        state.stopped_at = None;
        if state.paused.is_some() {
            // The time while the server was down does not count when it resumes.
            state.paused = Some(state.running());
        }
        let now = state.now();
        state.server.restart(now);
        self.wake_changed.notify_one();
    }

    /// Removes all nodes and sessions.
    pub fn reset(&self) {
        let mut state = self.state();
        let now = state.now();
        state.server.reset(now);
    }
}

impl State {
    /// The current time on the machine's clock.
    fn now(&self) -> Moment {
        self.paused.or(self.stopped_at).unwrap_or_else(|| self.running())
    }

    /// What the machine's clock would show if the server were neither paused nor down.
    fn running(&self) -> Moment {
        Moment::default() + self.origin.elapsed() + self.ahead
    }

    /// Whether the machine is neither paused nor down.
    fn is_running(&self) -> bool {
        self.paused.is_none() && !self.down
    }

    fn fault(&self, session: Option<SessionId>) -> Fault {
        let own = session.and_then(|session| self.faults.get(&session)).copied().unwrap_or_default();
        let all = self.fault_for_all;
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
                info!(connection = connection.0, %reason, "closing connection");
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
        link.push(Instant::now(), fault.delay.min(MAX_DURATION), encode);
        if link.queued() > MAX_QUEUED {
            info!(connection = connection.0, "resetting connection: the client does not read");
            link.ending = Some(Cut::Reset);
        }
        link.wake.notify_one();
    }

    fn end(&mut self, connection: ConnectionId, cut: Cut) {
        if let Some(link) = self.links.get_mut(&connection) {
            debug!(connection = connection.0, ?cut, "ending connection");
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
