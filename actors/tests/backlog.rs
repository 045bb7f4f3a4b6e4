//! Many claims of one process for a semaphore's permits, before a server that answers at once: what they cost.
//!
//! `cargo test -p lockkeeper-actors --test backlog -- --ignored --nocapture` prints the times.

#![allow(clippy::disallowed_methods, reason = "how long it took is printed")]

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

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
    /// The number of events, their time, and the longest.
    handled: (usize, Duration, Duration),
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
            handled: (0, Duration::ZERO, Duration::ZERO),
        };
        backlog.on(PathEvent::Connected { session: 1 });
        backlog
    }

    fn on(&mut self, event: impl Into<Event>) {
        self.events.push_back(event.into());
        self.settle();
    }

    /// Adds claims that arrive before anything is answered.
    fn acquire(&mut self, tickets: impl IntoIterator<Item = u64>, request: impl Fn(u64) -> PermitRequest) {
        for ticket in tickets {
            let request = request(ticket);
            self.events.push_back(Event::Acquire { ticket: Ticket::numbered(ticket), request });
        }
        self.settle();
    }

    /// Handles all events, and answers all requests, until nothing is left to do.
    fn settle(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let (mut commands, begun) = (Vec::new(), Instant::now());
            self.machine.handle(event, Moment(0), &mut commands);
            let took = begun.elapsed();
            let (events, sum, longest) = self.handled;
            self.handled = (events + 1, sum + took, longest.max(took));
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

fn wants(wait: Wait, limit: Option<u32>, count: u32) -> PermitRequest {
    PermitRequest { count, limit, agreed: false, bytes: 200, wait }
}

#[test]
fn a_long_queue_is_served_in_order_with_four_requests_for_each_claim() {
    const CLAIMS: u64 = 10_000;
    let mut backlog = Backlog::new(10);
    backlog.acquire(1..=CLAIMS, |_| wants(Wait::Forever, Some(10), 1));
    backlog.drain();
    assert!(backlog.granted.iter().map(|ticket| ticket.number()).eq(1..=CLAIMS));
    assert_eq!(backlog.forgotten, CLAIMS as usize);
    // The delete, the list that it causes, the take, and the list that watches again.
    assert!(backlog.requests <= 4 * CLAIMS as usize + 10, "{}", backlog.requests);
}

#[test]
#[ignore = "it prints times"]
fn costs() {
    println!(
        "{:<44} {:>6} {:>9} {:>9} {:>11}",
        "claims, in order", "number", "µs/event", "longest", "requests/claim"
    );
    type Scenario = (&'static str, fn(&mut Backlog, u64));
    let scenarios: [Scenario; 8] = [
        ("queued and drained, limit 10", |backlog, n| {
            backlog.acquire(1..=n, |_| wants(Wait::Forever, Some(10), 1));
            backlog.drain();
        }),
        ("the same, with deadlines and 1 to 5 permits", |backlog, n| {
            let late = Wait::Until(Moment(u64::MAX));
            backlog.acquire(1..=n, |ticket| wants(late, None, ticket as u32 % 5 + 1));
            backlog.drain();
        }),
        ("queued, half of them with another number", |backlog, n| {
            backlog.acquire(1..=n, |ticket| wants(Wait::Forever, Some(10 + ticket as u32 % 2), 1));
            backlog.drain();
        }),
        ("tries", |backlog, n| {
            backlog.acquire(1..=n, |_| wants(Wait::Try, Some(10), 1));
        }),
        ("tries between waiters", |backlog, n| {
            backlog.acquire(1..=n, |ticket| match ticket % 2 {
                0 => wants(Wait::Forever, Some(10), 1),
                _ => wants(Wait::Try, Some(10), 1),
            });
            backlog.drain();
        }),
        ("cancelled, first to last", |backlog, n| {
            backlog.acquire(1..=n, |_| wants(Wait::Forever, Some(10), 1));
            for ticket in 11..=n {
                backlog.on(PathEvent::Cancel(Ticket::numbered(ticket)));
            }
        }),
        ("granted one by one, all held", |backlog, n| {
            backlog.limit = n as usize;
            for ticket in 1..=n {
                backlog.acquire([ticket], |_| wants(Wait::Forever, None, 1));
            }
        }),
        ("granted at once, and all missing", |backlog, n| {
            backlog.limit = n as usize;
            backlog.acquire(1..=n, |_| wants(Wait::Forever, None, 1));
            let leases = backlog.leases.iter().cloned().collect();
            backlog.on(PathEvent::Missing(leases));
        }),
    ];
    for (name, scenario) in scenarios {
        for number in [100, 1_000, 10_000] {
            let mut backlog = Backlog::new(10);
            scenario(&mut backlog, number);
            let (events, sum, longest) = backlog.handled;
            let each = sum.as_secs_f64() * 1e6 / events as f64;
            let requests = backlog.requests as f64 / number as f64;
            println!("{name:<44} {number:>6} {each:>9.1} {:>7}µs {requests:>11.1}", longest.as_micros());
        }
    }
}
