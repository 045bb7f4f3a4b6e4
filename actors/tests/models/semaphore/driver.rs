//! What the actor does around its machine, as `src/semaphore.rs` and `src/path` do it.

use lockkeeper_actors::machine::lock;
use lockkeeper_actors::machine::node::Attempt;
use lockkeeper_actors::machine::semaphore::{Command, Event, Part, Reading, Semaphore};
use lockkeeper_actors::machine::{PathEvent, Refusal, Reply, Ticket, Wait};

use super::properties::{ANSWERS, CERTAINTY, EXCLUSION, ORDER, TOKENS, TRUTH};
use super::server::{SemaphoreServer, Spot, Watch};
use super::twins::Twin;
use super::wire::{
    Answer, Ask, Asked, Call, Clients, NotTaken, Purpose, SemaphoreWire, Word, next, node, place,
};
use super::world::{Action, Scenario, World};
use crate::world::clients::DEADLINE;
use crate::world::gates::Gate;
use crate::world::session::{No, Wire};
use crate::world::steps::{self, Cause, Server};

/// What the machine is told when a watch fires that this read has left; zero on a contender.
pub fn fired(spot: Spot, read: u64) -> Event {
    match spot {
        Spot::Contender(name) => lock::Event::Fired { node: node(&name), gone: true }.into(),
        Spot::Part(part) => Event::Changed { read: Attempt(read), part },
    }
}

impl steps::World for World {
    type Machine = Semaphore;
    type Wire = SemaphoreWire;
    type Asked = Asked;
    type Server = SemaphoreServer;
    type Scenario = Scenario;
    type Action = Action;

    fn clients(&self) -> &Clients {
        &self.clients
    }

    fn clients_mut(&mut self) -> &mut Clients {
        &mut self.clients
    }

    fn server(&self) -> &SemaphoreServer {
        &self.server
    }

    fn server_mut(&mut self) -> &mut SemaphoreServer {
        &mut self.server
    }

    fn has(&self, name: &String) -> bool {
        self.server.now().has(name)
    }

    fn firing(&self, id: u8, actions: &mut Vec<Action>) {
        if self.clients.sessions[&id].connected {
            let own = self.server.watches.iter().filter(|watch| watch.session == id);
            let fired = own.filter(|watch| watch.fired && watch.armed && !watch.stray);
            actions.extend(fired.map(|watch| Action::Fire(id, watch.spot.clone(), watch.read)));
        }
    }

    fn carry_out(&mut self, scenario: &Scenario, id: u8, ask: &Ask) -> Answer {
        if self.clients.sessions[&id].expired {
            return Answer::No(No::SessionGone);
        }
        if SemaphoreWire::writes(ask) || *ask == Ask::Sync {
            self.server.refresh(id);
        }
        let mut watch = None;
        let seen = self.server.replicas().seen(id);
        let none = Answer::No(No::Missing);
        let done = |there: bool| if there { Answer::Done } else { Answer::No(No::Missing) };
        let answer = match ask {
            Ask::Create(prefix) => match self.server.create(prefix, id) {
                Some((name, czxid)) => Answer::Created(name, czxid),
                None => none,
            },
            Ask::List => match &seen.mutex {
                Some(mutex) => Answer::Names(mutex.nodes.iter().map(|node| node.name.clone()).collect()),
                None => none,
            },
            Ask::Sync => Answer::Done,
            Ask::MakeDirectory => {
                self.server.change(|tree| {
                    tree.mutex.get_or_insert_default();
                });
                Answer::Done
            }
            Ask::Read(name) => match seen.contender(name) {
                Some(node) => Answer::Found { czxid: node.czxid, owner: node.owner },
                None => none,
            },
            Ask::Watch(name) => {
                let there = seen.contender(name).is_some();
                watch = there.then(|| (Spot::Contender(name.clone()), 0));
                done(there)
            }
            Ask::Delete(name) => {
                self.turns.remove(name);
                done(self.server.delete(name))
            }
            Ask::ReadRoot { watch: read } => match &seen.root {
                Some(root) => {
                    watch = read.map(|read| (Spot::Part(Part::Root), read));
                    Answer::Root { version: root.version, written: root.mzxid, limit: root.limit }
                }
                None => none,
            },
            Ask::ListLeases { watch: read } => match &seen.root {
                Some(root) => {
                    watch = read.map(|read| (Spot::Part(Part::Leases), read));
                    Answer::Leases(root.leases.keys().cloned().collect(), root.mzxid)
                }
                None => none,
            },
            Ask::MakeRoot(limit) => {
                self.server.make_root(*limit);
                Answer::Done
            }
            Ask::Take { version, mutex, keep, leases } => {
                self.take(scenario, id, *version, mutex, *keep, leases)
            }
        };
        if let Some((spot, read)) = watch {
            let watch = Watch { session: id, spot, read, fired: false, armed: false, stray: false };
            self.server.watches.push(watch);
        }
        answer
    }

    fn hear(&mut self, scenario: &Scenario, id: u8, call: Call) -> Option<Event> {
        let Call { purpose, answers, .. } = call;
        let mut answers = answers.into_iter();
        let event = match purpose {
            Purpose::Mutex(errand) => self.hear_mutex(id, errand, answers)?.into(),
            Purpose::ReadState { read, sync, root, leases } => {
                let synced = if sync { next(&mut answers).done() } else { Ok(()) };
                let synced = if scenario.twin == Some(Twin::FailedSyncIgnored) { Ok(()) } else { synced };
                let root = (root != Reading::Skip).then(|| next(&mut answers).root());
                let leases = (leases != Reading::Skip).then(|| next(&mut answers).leases());
                let root = root.map(|root| synced.clone().and(root));
                let leases = leases.map(|leases| synced.and(leases));
                for (part, answered) in
                    [(Part::Root, matches!(root, Some(Ok(_)))), (Part::Leases, matches!(leases, Some(Ok(_))))]
                {
                    let spot = Spot::Part(part);
                    match answered {
                        true => drop(self.arm(id, &spot, read.0)),
                        false => self.server.watches.retain(|watch| !watch.came_with(id, &spot, read.0)),
                    }
                }
                Event::StateRead { read, root, leases }
            }
            Purpose::MakeRoot(read) => Event::RootMade(read, next(&mut answers).done()),
            Purpose::Take(take) => Event::Taken(take, next(&mut answers).taken()),
            Purpose::FindLeases(take) => {
                let synced = next(&mut answers).done();
                Event::LeasesFound(take, synced.and_then(|()| next(&mut answers).names()))
            }
            Purpose::DeleteLease(lease) => Event::LeaseDeleted(lease, next(&mut answers).done()),
        };
        Some(event)
    }

    fn event(&self, scenario: &Scenario, number: usize, event: Event) -> Option<Event> {
        match scenario.twin {
            Some(twin) => twin.event(self, number, event),
            None => Some(event),
        }
    }

    fn gate(&self, scenario: &Scenario) -> Gate {
        match scenario.twin {
            Some(Twin::Gate(gate)) => gate,
            Some(_) | None => Gate::Real,
        }
    }

    fn is_alive(&self, process: usize) -> bool {
        !self.crashed.contains(&process)
    }

    fn execute(&mut self, scenario: &Scenario, number: usize, cause: Cause<'_, World>, command: Command) {
        let command = match scenario.twin {
            Some(twin) => twin.command(self, scenario, number, cause.event, command),
            None => Some(command),
        };
        let Some(command) = command else { return };
        let using = self.clients.processes[number].using;
        match command {
            Command::Mutex(command) => self.execute_mutex(number, command),
            Command::ReadState { read, sync, root, leases } => {
                if let Some(id) = using {
                    self.clients.session(id).watches.last_read = Some(read.0);
                }
                let watch = |reading| (reading == Reading::Watch).then_some(read.0);
                let mut asks = Vec::from_iter(sync.then_some(Ask::Sync));
                if root != Reading::Skip {
                    asks.push(Ask::ReadRoot { watch: watch(root) });
                }
                if leases != Reading::Skip {
                    asks.push(Ask::ListLeases { watch: watch(leases) });
                }
                self.submit(number, Purpose::ReadState { read, sync, root, leases }, asks);
            }
            Command::UnwatchState => {
                if let Some(id) = using {
                    let session = self.clients.session(id);
                    session.watches.unwatched = session.watches.last_read;
                    self.take_back(id, &Spot::Part(Part::Root));
                    self.take_back(id, &Spot::Part(Part::Leases));
                }
            }
            Command::MakeRoot { read, ticket, limit } => {
                if self.is_known(number, ticket) {
                    self.submit(number, Purpose::MakeRoot(read), [Ask::MakeRoot(limit)]);
                }
            }
            Command::Take { take, version, mutex, keep, leases } => {
                let mutex = mutex.name().to_owned();
                if !keep {
                    self.untrack(number, &mutex);
                }
                let known = leases.into_iter().filter(|(ticket, _)| self.is_known(number, *ticket));
                let leases = known.map(|(_, name)| name).collect();
                self.submit(number, Purpose::Take(take), [Ask::Take { version, mutex, keep, leases }]);
            }
            Command::FindLeases(take) => {
                let asks = [Ask::Sync, Ask::ListLeases { watch: None }];
                self.submit(number, Purpose::FindLeases(take), asks);
            }
            Command::DeleteLease(lease) => {
                self.untrack(number, &lease);
                self.submit(number, Purpose::DeleteLease(lease.clone()), [Ask::Delete(lease)]);
            }
            Command::TrackLease(lease) => self.track(number, lease),
            Command::Grant { ticket, leases, czxid } => self.grant(scenario, number, ticket, leases, czxid),
            Command::Merged { ticket, .. } => self.expect(number, ticket, |word| match word {
                Word::Granted { leases, .. } => leases.is_empty().then_some(Word::Merged),
                _ => None,
            }),
            Command::Reply(reply) => self.reply(scenario, number, cause.event, reply),
        }
    }
}

impl World {
    /// The watch that this answer brought, if it brought one and is still wanted, takes the place of an earlier one.
    pub fn arm(&mut self, id: u8, spot: &Spot, read: u64) -> bool {
        let new = |watch: &Watch| watch.came_with(id, spot, read);
        if !self.server.watches.iter().any(new) {
            return false;
        }
        if !matches!(spot, Spot::Contender(_)) && self.clients.sessions[&id].watches.unwatched >= Some(read) {
            self.server.watches.retain(|watch| !new(watch));
            return false;
        }
        self.take_back(id, spot);
        self.server.watches.iter_mut().filter(|watch| new(watch)).for_each(|watch| watch.armed = true);
        true
    }

    /// What it told may be on its way all the same.
    pub fn take_back(&mut self, id: u8, spot: &Spot) {
        let old = |watch: &Watch| watch.session == id && watch.spot == *spot && watch.armed;
        self.server.watches.retain(|watch| !old(watch) || watch.fired);
        for watch in self.server.watches.iter_mut().filter(|watch| old(watch)) {
            (watch.armed, watch.stray) = (false, true);
        }
    }

    fn grant(&mut self, scenario: &Scenario, number: usize, ticket: Ticket, leases: Vec<String>, czxid: i64) {
        if leases.iter().any(|lease| self.turns.remove(lease).is_some_and(|turn| czxid != i64::from(turn))) {
            self.flaws.insert(TOKENS);
        }
        let process = &self.clients.processes[number];
        let (Some(at), Some(id)) = (place(ticket), process.using) else {
            self.flaws.insert(CERTAINTY);
            return;
        };
        let want = scenario.wants[number][at];
        let late = want.wait == Wait::Until(DEADLINE) && process.now >= DEADLINE;
        let whole = leases.len() == want.count as usize;
        if !self.clients.is_sure(number) {
            self.flaws.insert(CERTAINTY);
        }
        // Its number was the stored one at some time since it was asked, unless an operator has deleted that.
        let asked = &process.asked[at];
        let is_own = want
            .limit
            .filter(|_| !want.agreed && !asked.uninformed && self.left.removals == scenario.budget.removals);
        if is_own.is_some_and(|own| !asked.limits.contains(&own)) {
            self.flaws.insert(TRUTH);
        }
        // Those before it in its process come first, unless an operator is to blame or they only try. Those of one
        // transaction are granted together.
        let before = process.asked[..at].iter().zip(scenario.wants[number]);
        let overtaken =
            before.filter(|(asked, want)| asked.word == Word::Waiting && want.wait != Wait::Try).count();
        if overtaken > 0 && self.struck.is_empty() {
            self.flaws.insert(ORDER);
        }
        self.expect(number, ticket, |word| match word {
            Word::Waiting if !late && whole => Some(Word::Granted { leases, session: id }),
            Word::Waiting | Word::Unasked | Word::Refused => None,
            Word::Granted { .. } | Word::Lost | Word::Released | Word::Merged => None,
        });
    }

    fn reply(&mut self, scenario: &Scenario, number: usize, cause: &Event, reply: Reply) {
        match reply {
            Reply::Queued(ticket, _) => {
                // Where the root was there from the beginning, and was neither written nor made again since.
                let untouched = self.server.now().root.as_ref().is_some_and(|root| root.version == 0)
                    && self.left.removals == scenario.budget.removals;
                if let Some(at) = place(ticket).filter(|_| untouched && scenario.limit.is_some()) {
                    let own = scenario.wants[number][at].limit == scenario.limit;
                    self.clients.processes[number].asked[at].accepted |= own;
                }
                self.expect(number, ticket, |word| match word {
                    Word::Waiting => Some(Word::Waiting),
                    _ => None,
                })
            }
            Reply::Refused(ticket, refusal) => self.refuse(scenario, number, cause, ticket, refusal),
            Reply::Suspended(ticket) | Reply::Resumed(ticket) => {
                self.expect(number, ticket, |word| match word {
                    // A release may be on its way.
                    Word::Granted { .. } | Word::Released => Some(word.clone()),
                    Word::Unasked | Word::Waiting | Word::Refused | Word::Lost | Word::Merged => None,
                })
            }
            Reply::Lost(ticket) => {
                let asked = place(ticket).and_then(|at| self.clients.processes[number].asked.get_mut(at));
                asked.into_iter().filter(|asked| asked.is_granted()).for_each(Asked::give_back);
                self.expect(number, ticket, |word| match word {
                    Word::Granted { .. } => Some(Word::Lost),
                    Word::Released => Some(Word::Released),
                    Word::Unasked | Word::Waiting | Word::Refused | Word::Lost | Word::Merged => None,
                })
            }
            Reply::Forgotten { ticket, confirmed } => {
                self.expect(number, ticket, |word| match word {
                    Word::Refused | Word::Lost | Word::Released => Some(word.clone()),
                    Word::Unasked | Word::Waiting | Word::Granted { .. } | Word::Merged => None,
                });
                if let Some(asked) =
                    place(ticket).and_then(|at| self.clients.processes[number].asked.get_mut(at))
                {
                    asked.forgotten = true;
                    let given_back = std::mem::take(&mut asked.given_back);
                    if confirmed && given_back.iter().any(|lease| self.server.now().has(lease)) {
                        self.flaws.insert(TRUTH);
                    }
                }
            }
        }
    }

    fn refuse(
        &mut self,
        scenario: &Scenario,
        number: usize,
        cause: &Event,
        ticket: Ticket,
        refusal: Refusal,
    ) {
        let process = &self.clients.processes[number];
        if let Some((asked, want)) = place(ticket).map(|at| (&process.asked[at], scenario.wants[number][at]))
        {
            let told = |limit: i64| asked.limits.iter().any(|seen| i64::from(*seen) == limit);
            let remade = self.left.removals < scenario.budget.removals;
            let lagging = process.using.is_some_and(|id| self.server.replicas().is_behind(id));
            let truth = match refusal {
                Refusal::Contended => want.wait == Wait::Try && (lagging || !asked.free),
                Refusal::TooMany { count, limit } => {
                    let known = told(limit.into()) || !want.agreed && want.limit == Some(limit);
                    lagging || count > limit && known
                }
                Refusal::LimitMismatch { stored, .. } => {
                    lagging || told(stored) && (remade || !asked.accepted)
                }
                Refusal::TimedOut => want.wait == Wait::Until(DEADLINE) && process.now >= DEADLINE,
                Refusal::NoLimit => lagging || scenario.limit.is_none() || remade,
                Refusal::NoPermits | Refusal::Closed | Refusal::Exhausted => false,
                Refusal::Suspended => want.wait == Wait::Try,
                Refusal::Cancelled => *cause == PathEvent::Cancel(ticket).into(),
                Refusal::Rejected(_) => self.left.refusals < scenario.budget.refusals,
                Refusal::NoAuth(_) => self.left.denials < scenario.budget.denials,
                Refusal::MixedDialects(_) => false,
            };
            if !truth {
                self.flaws.insert(TRUTH);
            }
        }
        self.expect(number, ticket, |word| match word {
            Word::Waiting => Some(Word::Refused),
            _ => None,
        });
    }

    pub fn is_known(&self, number: usize, ticket: Ticket) -> bool {
        let asked = place(ticket).and_then(|at| self.clients.processes[number].asked.get(at));
        asked.is_some_and(Asked::is_known)
    }

    pub fn submit(&mut self, number: usize, purpose: Purpose, asks: impl Into<Vec<Ask>>) {
        if let Some(session) = self.clients.used(number) {
            session.submit(purpose, asks.into());
        }
    }

    pub fn track(&mut self, number: usize, name: String) {
        if let Some(session) = self.clients.used(number) {
            session.tracked.insert(name);
        }
    }

    pub fn untrack(&mut self, number: usize, name: &str) {
        if let Some(session) = self.clients.used(number) {
            session.tracked.remove(name);
            // The session actor asks once more before it tells.
            self.clients.processes[number]
                .missing
                .iter_mut()
                .for_each(|names| names.retain(|missed| missed != name));
        }
    }

    fn take(
        &mut self,
        scenario: &Scenario,
        id: u8,
        version: i32,
        mutex: &str,
        keep: bool,
        leases: &[String],
    ) -> Answer {
        let tree = self.server.now();
        if tree.contender(mutex).is_none() && scenario.twin != Some(Twin::TakesWithoutMutex) {
            return Answer::NotTaken(NotTaken::MutexGone);
        }
        match &tree.root {
            None => return Answer::NotTaken(NotTaken::RootGone),
            Some(root) if root.version != version && scenario.twin != Some(Twin::TakesAnyLimit) => {
                return Answer::NotTaken(NotTaken::LimitChanged);
            }
            Some(_) => {}
        }
        if let Some(turn) = self.server.now().contender(mutex).map(|node| node.czxid) {
            self.turns.extend(leases.iter().map(|name| (name.clone(), turn)));
        }
        self.server.change(|tree| {
            if let Some(root) = &mut tree.root {
                root.leases.extend(leases.iter().map(|name| (name.clone(), id)));
            }
            if let Some(directory) = tree.mutex.as_mut().filter(|_| !keep) {
                directory.nodes.retain(|node| node.name != mutex);
            }
        });
        let root = self.server.now().root.as_ref();
        if root.is_some_and(|root| root.leases.len() > root.limit as usize) && !self.robbed {
            self.flaws.insert(EXCLUSION);
        }
        Answer::Done
    }

    fn expect(&mut self, number: usize, ticket: Ticket, next: impl FnOnce(&Word) -> Option<Word>) {
        let asked = place(ticket).and_then(|at| self.clients.processes[number].asked.get_mut(at));
        let asked = asked.filter(|asked| !asked.forgotten);
        match asked.and_then(|asked| next(&asked.word).map(|word| (asked, word))) {
            Some((asked, word)) => asked.word = word,
            None => {
                self.flaws.insert(ANSWERS);
            }
        }
    }
}
