//! What the actor does around its machine, as `src/lock.rs` and `src/lock/` do it.

use std::vec::IntoIter;

use lockkeeper_actors::machine::protocol::{Command, Event, Refusal, Sight, Ticket, Wait};
use lockkeeper_actors::machine::semaphore::Semaphore;
use lockkeeper_actors::machine::znode::{Attempt, Dialect, Mode};

use super::properties::{ANSWERS, CERTAINTY, EXCLUSION, ORDER, TRUTH};
use super::server::{SemaphoreServer, Spot, Watch};
use super::twins::Twin;
use super::wire::{Answer, Ask, Asked, Call, Clients, NotTaken, Purpose, SemaphoreWire, Word, node, place};
use super::world::{Action, Scenario, World};
use crate::world::clients::DEADLINE;
use crate::world::directory::instance;
use crate::world::session::{No, Wire};
use crate::world::steps::{self, Cause, Server};

pub fn fired(spot: Spot, survey: u64) -> Event {
    match spot {
        Spot::Contender(name) => Event::Fired { node: node(&name), gone: true },
        Spot::Limit => Event::Disturbed { survey: Attempt(survey), root: true },
        Spot::Leases => Event::Disturbed { survey: Attempt(survey), root: false },
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
            actions.extend(fired.map(|watch| Action::Fire(id, watch.spot.clone(), watch.survey)));
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
            Ask::Create(prefix) => match self.server.enter(prefix, id) {
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
            Ask::Inspect(name) => match seen.contender(name) {
                Some(node) => Answer::Found { czxid: node.czxid, owner: node.owner },
                None => none,
            },
            Ask::Watch(name) => {
                let there = seen.contender(name).is_some();
                watch = there.then(|| (Spot::Contender(name.clone()), 0));
                done(there)
            }
            Ask::Delete(name) => done(self.server.delete(name)),
            Ask::ReadRoot { watch: survey } => match &seen.root {
                Some(root) => {
                    watch = survey.map(|survey| (Spot::Limit, survey));
                    Answer::Root { version: root.version, written: root.mzxid, limit: root.limit }
                }
                None => none,
            },
            Ask::ListLeases { watch: survey } => match &seen.root {
                Some(root) => {
                    watch = survey.map(|survey| (Spot::Leases, survey));
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
        if let Some((spot, survey)) = watch {
            let watch = Watch { session: id, spot, survey, fired: false, armed: false, stray: false };
            self.server.watches.push(watch);
        }
        answer
    }

    fn hear(&mut self, scenario: &Scenario, id: u8, call: Call) -> Option<Event> {
        let Call { purpose, answers, .. } = call;
        let next = |answers: &mut IntoIter<Answer>| answers.next().unwrap_or(Answer::Done);
        let mut answers = answers.into_iter();
        let first = next(&mut answers);
        let event = match purpose {
            Purpose::Enter(attempt) => {
                Event::Entered { attempt, created: first.created(), children: next(&mut answers).names() }
            }
            Purpose::List(attempt) => Event::Listed(attempt, first.names()),
            Purpose::Look(attempt) => {
                Event::Looked(attempt, first.done().and_then(|()| next(&mut answers).names()))
            }
            Purpose::MakeDirectory(attempt) => Event::DirectoryMade(attempt, first.done()),
            Purpose::Inspect(attempt) => Event::Inspected(attempt, first.found()),
            Purpose::Watch(name) => {
                let spot = Spot::Contender(name.clone());
                if first != Answer::Done {
                    self.unwatch(id, &name);
                } else if !self.clients.sessions[&id].watches.contenders.contains(&name) {
                    // No longer wanted.
                    self.server
                        .watches
                        .retain(|watch| watch.session != id || watch.spot != spot || watch.armed);
                    return None;
                } else {
                    self.arm(id, &spot, 0);
                }
                Event::Watched(node(&name), first.done())
            }
            Purpose::Delete(attempt) => Event::Deleted(attempt, first.done()),
            Purpose::Survey { survey, sync, root, leases } => {
                let mut answers = [first].into_iter().chain(answers);
                let mut next = || answers.next().unwrap_or(Answer::Done);
                let synced = if sync { next().done() } else { Ok(()) };
                let synced = if scenario.twin == Some(Twin::FailedSyncIgnored) { Ok(()) } else { synced };
                let root = (root != Sight::Skip).then(|| next().limit());
                let leases = (leases != Sight::Skip).then(|| next().leases());
                let root = root.map(|root| synced.clone().and(root));
                let leases = leases.map(|leases| synced.and(leases));
                for (spot, answered) in [
                    (Spot::Limit, matches!(root, Some(Ok(_)))),
                    (Spot::Leases, matches!(leases, Some(Ok(_)))),
                ] {
                    match answered {
                        true => drop(self.arm(id, &spot, survey.0)),
                        false => self.server.watches.retain(|watch| !watch.came_with(id, &spot, survey.0)),
                    }
                }
                Event::Surveyed { survey, root, leases }
            }
            Purpose::MakeRoot(survey) => Event::RootMade(survey, first.done()),
            Purpose::Take(take) => Event::Taken(take, first.taken()),
            Purpose::Find(take) => {
                Event::LeasesFound(take, first.done().and_then(|()| next(&mut answers).names()))
            }
            Purpose::Return(lease) => Event::Returned(lease, first.done()),
        };
        Some(event)
    }

    fn event(&self, scenario: &Scenario, number: usize, event: Event) -> Option<Event> {
        match scenario.twin {
            Some(twin) => twin.event(self, number, event),
            None => Some(event),
        }
    }

    fn execute(
        &mut self,
        scenario: &Scenario,
        number: usize,
        cause: Cause<'_, SemaphoreWire>,
        command: Command,
    ) {
        let command = match scenario.twin {
            Some(twin) => twin.command(self, scenario, number, cause.event, command),
            None => Some(command),
        };
        let Some(command) = command else { return };
        let using = self.clients.processes[number].using;
        match command {
            Command::List(attempt) => self.submit(number, Purpose::List(attempt), [Ask::List]),
            Command::Look(attempt) => self.submit(number, Purpose::Look(attempt), [Ask::Sync, Ask::List]),
            Command::Enter(attempt, ticket) => {
                // Its options are those of the request.
                if self.is_known(number, ticket) {
                    let prefix = instance(number as u8).prefix(attempt, Dialect::Kazoo, Mode::Lock);
                    self.submit(number, Purpose::Enter(attempt), [Ask::Create(prefix), Ask::List]);
                }
            }
            Command::MakeDirectory(attempt, ticket) => {
                if self.is_known(number, ticket) {
                    self.submit(number, Purpose::MakeDirectory(attempt), [Ask::MakeDirectory]);
                }
            }
            Command::Inspect(attempt, node) => {
                self.submit(number, Purpose::Inspect(attempt), [Ask::Inspect(node.name().to_owned())])
            }
            Command::Watch(node) => {
                let name = node.name().to_owned();
                if let Some(id) = using {
                    self.clients.session(id).watches.contenders.insert(name.clone());
                }
                self.submit(number, Purpose::Watch(name.clone()), [Ask::Watch(name)])
            }
            Command::Unwatch(node) => {
                if let Some(id) = using {
                    self.unwatch(id, node.name());
                }
            }
            Command::Delete(attempt, node) => {
                let name = node.name().to_owned();
                self.untrack(number, &name);
                self.submit(number, Purpose::Delete(attempt), [Ask::Delete(name)]);
            }
            Command::Track(node) => self.track(number, node.name().to_owned()),
            Command::Survey { survey, sync, root, leases } => {
                if let Some(id) = using {
                    self.clients.session(id).watches.surveyed = Some(survey.0);
                }
                let watch = |sight| (sight == Sight::Watch).then_some(survey.0);
                let mut asks = Vec::from_iter(sync.then_some(Ask::Sync));
                if root != Sight::Skip {
                    asks.push(Ask::ReadRoot { watch: watch(root) });
                }
                if leases != Sight::Skip {
                    asks.push(Ask::ListLeases { watch: watch(leases) });
                }
                self.submit(number, Purpose::Survey { survey, sync, root, leases }, asks);
            }
            Command::Calm => {
                if let Some(id) = using {
                    let session = self.clients.session(id);
                    session.watches.calmed = session.watches.surveyed;
                    self.take_back(id, &Spot::Limit);
                    self.take_back(id, &Spot::Leases);
                }
            }
            Command::MakeRoot { survey, ticket, limit } => {
                if self.is_known(number, ticket) {
                    self.submit(number, Purpose::MakeRoot(survey), [Ask::MakeRoot(limit)]);
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
                self.submit(number, Purpose::Find(take), asks);
            }
            Command::Return(lease) => {
                self.untrack(number, &lease);
                self.submit(number, Purpose::Return(lease.clone()), [Ask::Delete(lease)]);
            }
            Command::TrackLease(lease) => self.track(number, lease),
            Command::GrantPermits { ticket, leases, .. } => self.grant(scenario, number, ticket, leases),
            Command::Queued(ticket, _) => {
                // Where the root was there from the beginning, and was neither written nor made again since.
                let untouched = self.server.now().root.as_ref().is_some_and(|root| root.version == 0)
                    && self.left.removals == scenario.budget.removals;
                if let Some(at) = place(ticket).filter(|_| untouched && scenario.limit.is_some()) {
                    let own = scenario.wants[number][at].limit == scenario.limit;
                    self.clients.processes[number].asked[at].accepted |= own;
                }
                self.expect(number, ticket, |word| match word {
                    Word::Waiting => Some(Word::Waiting),
                    Word::Unasked | Word::Refused | Word::Granted { .. } | Word::Lost | Word::Released => {
                        None
                    }
                })
            }
            Command::Refuse(ticket, refusal) => self.refuse(scenario, number, ticket, refusal),
            Command::Suspend(ticket) | Command::Resume(ticket) => {
                self.expect(number, ticket, |word| match word {
                    // A release may be on its way.
                    Word::Granted { .. } | Word::Released => Some(word.clone()),
                    Word::Unasked | Word::Waiting | Word::Refused | Word::Lost => None,
                })
            }
            Command::Lose(ticket) => self.expect(number, ticket, |word| match word {
                Word::Granted { .. } => Some(Word::Lost),
                Word::Released => Some(Word::Released),
                Word::Unasked | Word::Waiting | Word::Refused | Word::Lost => None,
            }),
            Command::Forget { ticket, .. } => {
                self.expect(number, ticket, |word| match word {
                    Word::Refused | Word::Lost | Word::Released => Some(word.clone()),
                    Word::Unasked | Word::Waiting | Word::Granted { .. } => None,
                });
                if let Some(asked) =
                    place(ticket).and_then(|at| self.clients.processes[number].asked.get_mut(at))
                {
                    asked.forgotten = true;
                }
            }
            Command::Grant { .. } => {
                self.flaws.insert(ANSWERS);
            }
        }
    }
}

impl World {
    /// The watch that this answer brought, if it brought one and is still wanted, takes the place of an earlier one.
    fn arm(&mut self, id: u8, spot: &Spot, survey: u64) -> bool {
        let new = |watch: &Watch| watch.came_with(id, spot, survey);
        if !self.server.watches.iter().any(new) {
            return false;
        }
        if !matches!(spot, Spot::Contender(_)) && self.clients.sessions[&id].watches.calmed >= Some(survey) {
            self.server.watches.retain(|watch| !new(watch));
            return false;
        }
        self.take_back(id, spot);
        self.server.watches.iter_mut().filter(|watch| new(watch)).for_each(|watch| watch.armed = true);
        true
    }

    fn unwatch(&mut self, id: u8, name: &str) {
        if self.clients.session(id).watches.contenders.remove(name) {
            self.take_back(id, &Spot::Contender(name.to_owned()));
        }
    }

    /// What it told may be on its way all the same.
    fn take_back(&mut self, id: u8, spot: &Spot) {
        let old = |watch: &Watch| watch.session == id && watch.spot == *spot && watch.armed;
        self.server.watches.retain(|watch| !old(watch) || watch.fired);
        for watch in self.server.watches.iter_mut().filter(|watch| old(watch)) {
            (watch.armed, watch.stray) = (false, true);
        }
    }

    fn grant(&mut self, scenario: &Scenario, number: usize, ticket: Ticket, leases: Vec<String>) {
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
            Word::Granted { .. } | Word::Lost | Word::Released => None,
        });
    }

    fn refuse(&mut self, scenario: &Scenario, number: usize, ticket: Ticket, refusal: Refusal) {
        let process = &self.clients.processes[number];
        if let Some((asked, want)) = place(ticket).map(|at| (&process.asked[at], scenario.wants[number][at]))
        {
            let told = |limit: i64| asked.limits.iter().any(|seen| i64::from(*seen) == limit);
            let remade = self.left.removals < scenario.budget.removals;
            let lagging = process.using.is_some_and(|id| self.server.replicas().is_behind(id));
            let truth = match refusal {
                Refusal::Contended => !asked.free,
                Refusal::TooMany { count, limit } => {
                    count > limit && (told(limit.into()) || !want.agreed && want.limit == Some(limit))
                }
                Refusal::LimitMismatch { stored, .. } => told(stored) && (remade || !asked.accepted),
                Refusal::TimedOut => process.now >= DEADLINE,
                Refusal::NoLimit => scenario.limit.is_none() || remade,
                Refusal::NoPermits | Refusal::Closed | Refusal::Exhausted => false,
                Refusal::Suspended | Refusal::Cancelled | Refusal::Rejected(_) => true,
                Refusal::NoAuth(_) | Refusal::MixedDialects(_) => false,
            };
            if !truth && !lagging {
                self.flaws.insert(TRUTH);
            }
        }
        self.expect(number, ticket, |word| match word {
            Word::Waiting => Some(Word::Refused),
            Word::Unasked | Word::Refused | Word::Granted { .. } | Word::Lost | Word::Released => None,
        });
    }

    fn is_known(&self, number: usize, ticket: Ticket) -> bool {
        let asked = place(ticket).and_then(|at| self.clients.processes[number].asked.get(at));
        asked.is_some_and(Asked::is_known)
    }

    fn submit(&mut self, number: usize, purpose: Purpose, asks: impl Into<Vec<Ask>>) {
        if let Some(session) = self.clients.used(number) {
            session.submit(purpose, asks.into());
        }
    }

    fn track(&mut self, number: usize, name: String) {
        if let Some(session) = self.clients.used(number) {
            session.tracked.insert(name);
        }
    }

    fn untrack(&mut self, number: usize, name: &str) {
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
