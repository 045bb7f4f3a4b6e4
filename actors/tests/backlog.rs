//! Ten thousand claims of one process for a semaphore's permits, with a server that answers at once.

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
use lockkeeper_actors::machine::lock::{self, Created};
use lockkeeper_actors::machine::node::{Attempt, Instance, Znode};
use lockkeeper_actors::machine::semaphore::{Command, Event, Leases, Part, PermitRequest};
use lockkeeper_actors::machine::semaphore::{Reading, Root, Semaphore};
use lockkeeper_actors::machine::{Machine, Moment, PathEvent, Reply, Ticket, Wait};

const INSTANCE: u128 = 7 << 64;

/// A semaphore and its server.
struct Backlog {
    machine: Semaphore,
    limit: usize,
    events: VecDeque<Event>,
    leases: BTreeSet<String>,
    /// The read that has set the watch of the leases.
    watch: Option<Attempt>,
    sequence: u64,
    /// The claims that were granted, in order.
    granted: Vec<Ticket>,
    forgotten: usize,
    /// The number of requests that were sent.
    requests: usize,
}

impl Backlog {
    fn new(limit: usize) -> Backlog {
        let mut backlog = Backlog {
            machine: Semaphore::new(Instance::new(INSTANCE)),
            limit,
            events: VecDeque::new(),
            leases: BTreeSet::new(),
            watch: None,
            sequence: 0,
            granted: Vec::new(),
            forgotten: 0,
            requests: 0,
        };
        backlog.on(PathEvent::Connected { session: 1 });
        backlog
    }

    fn on(&mut self, event: impl Into<Event>) {
        self.events.push_back(event.into());
        self.settle();
    }

    /// Adds claims for one permit each, which arrive before anything is answered.
    fn acquire(&mut self, tickets: RangeInclusive<u64>) {
        for ticket in tickets.map(Ticket::numbered) {
            let (limit, wait) = (Some(self.limit as u32), Wait::Forever);
            let request = PermitRequest { count: 1, limit, agreed: false, bytes: 200, wait };
            self.events.push_back(Event::Acquire { ticket, request });
        }
        self.settle();
    }

    /// Handles all events, and answers all requests, until nothing is left to do.
    fn settle(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let mut commands = Vec::new();
            self.machine.handle(event, Moment(0), &mut commands);
            for command in commands {
                self.carry_out(command);
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        let answer = match command {
            Command::Mutex(lock::Command::CreateAndList(attempt, _)) => {
                self.sequence += 1;
                let name = Instance::new(INSTANCE).prefix(attempt, Dialect::Kazoo, Mode::Lock);
                let node = Znode::parse(&format!("{name}{:010}", self.sequence)).expect("a contender");
                let children = Ok(vec![node.name().to_owned()]);
                let created = Ok(Created { node, czxid: self.sequence as i64 });
                lock::Event::CreatedAndListed { attempt, created, children }.into()
            }
            Command::Mutex(lock::Command::Delete(attempt, _)) => lock::Event::Deleted(attempt, Ok(())).into(),
            Command::ReadState { read, root, leases, .. } => {
                let data = self.limit.to_string().into_bytes();
                let root = (root != Reading::Skip).then(|| Ok(Root { version: 0, written: 1, data }));
                if leases == Reading::Watch {
                    self.watch = Some(read);
                }
                let names = || self.leases.iter().cloned().collect();
                let leases = (leases != Reading::Skip).then(|| Ok(Leases { names: names(), written: 1 }));
                Event::StateRead { read, root, leases }
            }
            Command::UnwatchState => {
                self.watch = None;
                return;
            }
            Command::Take { take, leases, .. } => {
                self.leases.extend(leases.into_iter().map(|(_, lease)| lease));
                assert!(self.leases.len() <= self.limit);
                self.fire();
                Event::Taken(take, Ok(()))
            }
            Command::DeleteLease(lease) => {
                self.leases.remove(&lease);
                self.fire();
                Event::LeaseDeleted(lease, Ok(()))
            }
            Command::Grant { ticket, .. } => return self.granted.push(ticket),
            Command::Reply(Reply::Forgotten { .. }) => return self.forgotten += 1,
            _ => return,
        };
        self.requests += 1;
        self.events.push_back(answer);
    }

    fn fire(&mut self) {
        let read = self.watch.take();
        self.events.extend(read.map(|read| Event::Changed { read, part: Part::Leases }));
    }

    /// Releases the holders one after the other, until all claims were served.
    fn drain(&mut self) {
        let mut released = 0;
        while let Some(&ticket) = self.granted.get(released) {
            self.on(PathEvent::Release(ticket));
            released += 1;
        }
    }
}

#[test]
fn a_long_queue_is_served_in_order_with_four_requests_for_each_claim() {
    const CLAIMS: u64 = 10_000;
    let mut backlog = Backlog::new(10);
    backlog.acquire(1..=CLAIMS);
    backlog.drain();
    assert!(backlog.granted.iter().map(|ticket| ticket.number()).eq(1..=CLAIMS));
    assert_eq!(backlog.forgotten, CLAIMS as usize);
    // The delete, the list that it causes, the take, and the list that watches again.
    assert!(backlog.requests <= 4 * CLAIMS as usize + 10, "{}", backlog.requests);
}
