//! Processes with a machine each, and their sessions.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lockkeeper_actors::machine::{LeaseState, Machine, Moment};

use super::session::{Session, Wire};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Clients<M, W: Wire, A> {
    pub processes: Vec<Process<M, W, A>>,
    /// By id; ids are not used again.
    pub sessions: BTreeMap<u8, Session<W>>,
    next_session: u8,
}

/// The real machine, and what its actor, its callers and the session actor know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process<M, W: Wire, A> {
    pub machine: M,
    pub now: Moment,
    /// The session that the machine's actor works with.
    pub using: Option<u8>,
    /// The session that the session actor has.
    pub current: Option<u8>,
    /// From the session actor to the machine's actor.
    pub news: VecDeque<News>,
    /// What heartbeats did not find.
    pub missing: VecDeque<Vec<W::Name>>,
    /// The requests of its callers, each in its place.
    pub asked: Vec<A>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    Connected(u8),
    Suspended(u8),
    Resumed(u8),
    Lost(u8),
}

/// Of all requests that have one. What machines wait for by themselves, a second each, comes before.
pub const DEADLINE: Moment = Moment(Duration::from_secs(3600).as_nanos() as u64);

impl<M: Machine, W: Wire, A> Clients<M, W, A> {
    /// With a session each.
    pub fn new(machines: impl Iterator<Item = (M, Vec<A>)>) -> Clients<M, W, A> {
        let mut clients = Clients { processes: Vec::new(), sessions: BTreeMap::new(), next_session: 1 };
        for (number, (machine, asked)) in machines.enumerate() {
            let (news, missing) = (VecDeque::new(), VecDeque::new());
            let process =
                Process { machine, now: Moment(0), using: None, current: None, news, missing, asked };
            clients.processes.push(process);
            clients.connect(number);
        }
        clients
    }

    pub fn session(&mut self, id: u8) -> &mut Session<W> {
        self.sessions.get_mut(&id).expect("a session that an action named")
    }

    /// The session that this process' actor works with.
    pub fn used(&mut self, process: usize) -> Option<&mut Session<W>> {
        self.processes[process].using.and_then(|id| self.sessions.get_mut(&id))
    }

    /// The lease of that session.
    pub fn lease(&self, process: usize) -> Option<LeaseState> {
        self.processes[process].using.map(|id| self.sessions[&id].lease)
    }

    /// Whether that lease is beyond doubt.
    pub fn is_sure(&self, process: usize) -> bool {
        self.lease(process) == Some(LeaseState::Held)
    }

    pub fn connect(&mut self, process: usize) -> u8 {
        let id = self.next_session;
        self.next_session += 1;
        self.sessions.insert(id, Session::new(process));
        self.processes[process].current = Some(id);
        self.processes[process].news.push_back(News::Connected(id));
        id
    }

    pub fn suspend(&mut self, id: u8) {
        self.session(id).lease = LeaseState::Suspended;
        self.tell(id, News::Suspended(id));
    }

    pub fn resume(&mut self, id: u8) {
        self.session(id).lease = LeaseState::Held;
        self.tell(id, News::Resumed(id));
    }

    pub fn lose(&mut self, id: u8) {
        let session = self.session(id);
        session.lease = LeaseState::Lost;
        let process = session.process;
        self.processes[process].current = None;
        self.tell(id, News::Lost(id));
    }

    fn tell(&mut self, id: u8, news: News) {
        let process = self.sessions[&id].process;
        self.processes[process].news.push_back(news);
    }

    /// A session that is over makes no difference once its process does not use it.
    pub fn bury(&mut self, id: u8) {
        let session = &self.sessions[&id];
        let process = &self.processes[session.process];
        if session.expired && process.using != Some(id) && !process.news.contains(&News::Connected(id)) {
            self.sessions.remove(&id);
        }
    }
}

impl<M: Machine, W: Wire, A> Process<M, W, A> {
    /// Whether the deadline is what it waits for next.
    pub fn awaits_deadline(&self) -> bool {
        self.machine.wakeup() == Some(DEADLINE) && self.now < DEADLINE
    }

    /// Time goes on to what it waits for next.
    pub fn tick(&mut self) {
        self.now = self.machine.wakeup().unwrap_or(self.now);
    }
}
