//! What the actor does around its machine, as `src/lock.rs` and `src/lock/` do it.

use lockkeeper_actors::machine::Machine;
use lockkeeper_actors::machine::protocol::{
    Command, Created, Event, Failure, Inspection, Leases, Refusal, Root, Sight, TakeFailure, Ticket, Wait,
};
use lockkeeper_actors::machine::znode::{Attempt, Dialect, Mode, Znode};

use super::process::{Answer, Ask, Call, DEADLINE, Lease, News, No, Purpose, Word, instance, place};
use super::properties::{ANSWERS, CERTAINTY, ORDER, TRUTH};
use super::server::{Spot, Watch};
use super::twins::Twin;
use super::world::{Scenario, World};

pub fn fired(spot: Spot, survey: u64) -> Event {
    match spot {
        Spot::Contender(name) => Event::Fired { node: node(&name), gone: true },
        Spot::Limit => Event::Disturbed { survey: Attempt(survey), root: true },
        Spot::Leases => Event::Disturbed { survey: Attempt(survey), root: false },
    }
}

impl World {
    pub fn hear_news(&mut self, scenario: &Scenario, process: usize) {
        let Some(news) = self.processes[process].news.pop_front() else { return };
        let using = self.processes[process].using;
        match news {
            News::Connected(id) => {
                self.let_go(process);
                if using.is_some() {
                    self.feed(scenario, process, Event::Lost);
                }
                self.processes[process].using = Some(id);
                self.feed(scenario, process, Event::Connected { session: id.into() });
            }
            News::Suspended(id) if using == Some(id) => self.feed(scenario, process, Event::Suspended),
            News::Resumed(id) if using == Some(id) => self.feed(scenario, process, Event::Resumed),
            News::Lost(id) if using == Some(id) => {
                self.let_go(process);
                self.feed(scenario, process, Event::Lost);
            }
            News::Suspended(_) | News::Resumed(_) | News::Lost(_) => {}
        }
    }

    fn let_go(&mut self, process: usize) {
        if let Some(id) = self.processes[process].using.take() {
            self.session(id).abandon();
            self.server.unfollow(id);
            self.server.watches.retain(|watch| watch.session != id);
            self.bury(id);
        }
    }

    pub fn hear(&mut self, scenario: &Scenario, id: u8) {
        let session = self.session(id);
        if !session.is_answered() {
            return;
        }
        let process = session.process;
        let Some(Call { purpose, answers, shown, .. }) = session.calls.pop_front() else { return };
        shown.into_iter().for_each(|place| self.server.answered(id, place));
        let mut answers = answers.into_iter();
        let first = answers.next().unwrap_or(Answer::Done);
        let event = match purpose {
            Purpose::Enter(attempt) => Event::Entered {
                attempt,
                created: created(first),
                children: names(answers.next().unwrap_or(Answer::Done)),
            },
            Purpose::List(attempt) => Event::Listed(attempt, names(first)),
            Purpose::Look(attempt) => Event::Looked(
                attempt,
                done(first).and_then(|()| names(answers.next().unwrap_or(Answer::Done))),
            ),
            Purpose::MakeDirectory(attempt) => Event::DirectoryMade(attempt, done(first)),
            Purpose::Inspect(attempt) => Event::Inspected(attempt, found(first)),
            Purpose::Watch(name) => {
                let spot = Spot::Contender(name.clone());
                if first != Answer::Done {
                    self.unwatch(id, &name);
                } else if !self.sessions[&id].watching.contains(&name) {
                    // No longer wanted.
                    self.server
                        .watches
                        .retain(|watch| watch.session != id || watch.spot != spot || watch.armed);
                    return;
                } else {
                    self.arm(id, &spot, 0);
                }
                Event::Watched(node(&name), done(first))
            }
            Purpose::Delete(attempt) => Event::Deleted(attempt, done(first)),
            Purpose::Survey { survey, sync, root, leases } => {
                let mut answers = [first].into_iter().chain(answers);
                let mut next = || answers.next().unwrap_or(Answer::Done);
                let synced = if sync { done(next()) } else { Ok(()) };
                let synced = if scenario.twin == Some(Twin::FailedSyncIgnored) { Ok(()) } else { synced };
                let root = (root != Sight::Skip).then(|| limit(next()));
                let leases = (leases != Sight::Skip).then(|| counted(next()));
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
            Purpose::MakeRoot(survey) => Event::RootMade(survey, done(first)),
            Purpose::Take(take) => Event::Taken(take, taken(first)),
            Purpose::Find(take) => Event::LeasesFound(
                take,
                done(first).and_then(|()| names(answers.next().unwrap_or(Answer::Done))),
            ),
            Purpose::Return(lease) => Event::Returned(lease, done(first)),
        };
        self.feed(scenario, process, event);
    }

    /// The watch that this answer brought, if it brought one and is still wanted, takes the place of an earlier one.
    fn arm(&mut self, id: u8, spot: &Spot, survey: u64) -> bool {
        let new = |watch: &Watch| watch.came_with(id, spot, survey);
        if !self.server.watches.iter().any(new) {
            return false;
        }
        if !matches!(spot, Spot::Contender(_)) && self.sessions[&id].calmed >= Some(survey) {
            self.server.watches.retain(|watch| !new(watch));
            return false;
        }
        self.take_back(id, spot);
        self.server.watches.iter_mut().filter(|watch| new(watch)).for_each(|watch| watch.armed = true);
        true
    }

    fn unwatch(&mut self, id: u8, name: &str) {
        if self.session(id).watching.remove(name) {
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

    pub fn feed(&mut self, scenario: &Scenario, number: usize, event: Event) {
        let sure = |id| self.sessions[&id].lease == Lease::Held;
        let sure = self.processes[number].using.is_some_and(sure);
        let mut events = Vec::new();
        if self.processes[number].machine.is_up() && !sure {
            events.push(Event::Suspended);
        }
        if sure || event != Event::Resumed {
            events.push(event);
        }
        for event in events {
            let event = match scenario.twin {
                Some(twin) => twin.event(self, number, event),
                None => Some(event),
            };
            let Some(event) = event else { continue };
            let (process, mut commands) = (&mut self.processes[number], Vec::new());
            process.machine.handle(event.clone(), process.now, &mut commands);
            for command in commands {
                let command = match scenario.twin {
                    Some(twin) => twin.command(self, scenario, number, &event, command),
                    None => Some(command),
                };
                if let Some(command) = command {
                    self.execute(scenario, number, command);
                }
            }
        }
    }

    fn execute(&mut self, scenario: &Scenario, number: usize, command: Command) {
        let using = self.processes[number].using;
        match command {
            Command::List(attempt) => self.submit(number, Purpose::List(attempt), [Ask::List]),
            Command::Look(attempt) => self.submit(number, Purpose::Look(attempt), [Ask::Sync, Ask::List]),
            Command::Enter(attempt, ticket) => {
                // Its options are those of the request.
                if self.processes[number].known(ticket).is_some() {
                    let prefix = instance(number).prefix(attempt, Dialect::Kazoo, Mode::Lock);
                    self.submit(number, Purpose::Enter(attempt), [Ask::Create(prefix), Ask::List]);
                }
            }
            Command::MakeDirectory(attempt, ticket) => {
                if self.processes[number].known(ticket).is_some() {
                    self.submit(number, Purpose::MakeDirectory(attempt), [Ask::MakeDirectory]);
                }
            }
            Command::Inspect(attempt, node) => {
                self.submit(number, Purpose::Inspect(attempt), [Ask::Inspect(node.name().to_owned())])
            }
            Command::Watch(node) => {
                let name = node.name().to_owned();
                if let Some(id) = using {
                    self.session(id).watching.insert(name.clone());
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
                    self.session(id).surveyed = Some(survey.0);
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
                    let session = self.session(id);
                    session.calmed = session.surveyed;
                    self.take_back(id, &Spot::Limit);
                    self.take_back(id, &Spot::Leases);
                }
            }
            Command::MakeRoot { survey, ticket, limit } => {
                if self.processes[number].known(ticket).is_some() {
                    self.submit(number, Purpose::MakeRoot(survey), [Ask::MakeRoot(limit)]);
                }
            }
            Command::Take { take, version, mutex, keep, leases } => {
                let mutex = mutex.name().to_owned();
                if !keep {
                    self.untrack(number, &mutex);
                }
                let known =
                    leases.into_iter().filter(|(ticket, _)| self.processes[number].known(*ticket).is_some());
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
                    self.processes[number].asked[at].accepted |= own;
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
                if let Some(asked) = place(ticket).and_then(|at| self.processes[number].asked.get_mut(at)) {
                    asked.forgotten = true;
                }
            }
            Command::Grant { .. } => {
                self.flaws.insert(ANSWERS);
            }
        }
    }

    fn grant(&mut self, scenario: &Scenario, number: usize, ticket: Ticket, leases: Vec<String>) {
        let process = &self.processes[number];
        let (Some(at), Some(id)) = (place(ticket), process.using) else {
            self.flaws.insert(CERTAINTY);
            return;
        };
        let want = scenario.wants[number][at];
        let late = want.wait == Wait::Until(DEADLINE) && process.now >= DEADLINE;
        let whole = leases.len() == want.count as usize;
        if self.sessions[&id].lease != Lease::Held {
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
        let process = &self.processes[number];
        if let Some((asked, want)) = place(ticket).map(|at| (&process.asked[at], scenario.wants[number][at]))
        {
            let told = |limit: i64| asked.limits.iter().any(|seen| i64::from(*seen) == limit);
            let remade = self.left.removals < scenario.budget.removals;
            let lagging = process.using.is_some_and(|id| self.server.is_behind(id));
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

    fn submit(&mut self, number: usize, purpose: Purpose, asks: impl Into<Vec<Ask>>) {
        if let Some(id) = self.processes[number].using {
            let call = Call { purpose, asks: asks.into(), answers: Vec::new(), shown: Vec::new() };
            self.session(id).calls.push_back(call);
        }
    }

    fn track(&mut self, number: usize, name: String) {
        if let Some(id) = self.processes[number].using {
            self.session(id).tracked.insert(name);
        }
    }

    fn untrack(&mut self, number: usize, name: &str) {
        if let Some(id) = self.processes[number].using {
            self.session(id).tracked.remove(name);
            // The session actor asks once more before it tells.
            self.processes[number].missing.iter_mut().for_each(|names| names.retain(|missed| missed != name));
        }
    }
}

fn node(name: &str) -> Znode {
    Znode::parse(name).expect("it ends in a number")
}

fn done(answer: Answer) -> Result<(), Failure> {
    match answer {
        Answer::No(no) => Err(no.failure()),
        Answer::Done | Answer::Created(..) | Answer::Names(_) => Ok(()),
        Answer::Leases(..) | Answer::Found { .. } | Answer::Root { .. } => Ok(()),
    }
}

fn names(answer: Answer) -> Result<Vec<String>, Failure> {
    match answer {
        Answer::Names(names) | Answer::Leases(names, _) => Ok(names),
        other => done(other).map(|()| Vec::new()),
    }
}

fn counted(answer: Answer) -> Result<Leases, Failure> {
    match answer {
        Answer::Leases(names, written) => Ok(Leases { names, written: written.into() }),
        other => Err(done(other).err().unwrap_or(Failure::NoNode)),
    }
}

fn created(answer: Answer) -> Result<Created, Failure> {
    match answer {
        Answer::Created(name, czxid) => Ok(Created { node: node(&name), czxid: czxid.into() }),
        other => Err(done(other).err().unwrap_or(Failure::NoNode)),
    }
}

fn found(answer: Answer) -> Result<Inspection, Failure> {
    match answer {
        Answer::Found { czxid, owner } => Ok(Inspection { czxid: czxid.into(), owner: owner.into() }),
        other => Err(done(other).err().unwrap_or(Failure::NoNode)),
    }
}

fn limit(answer: Answer) -> Result<Root, Failure> {
    match answer {
        Answer::Root { version, written, limit } => {
            Ok(Root { version, written: written.into(), data: limit.to_string().into_bytes() })
        }
        other => Err(done(other).err().unwrap_or(Failure::NoNode)),
    }
}

fn taken(answer: Answer) -> Result<(), TakeFailure> {
    match answer {
        Answer::No(No::MutexGone) => Err(TakeFailure::MutexGone),
        Answer::No(No::RootGone) => Err(TakeFailure::RootGone),
        Answer::No(No::LimitChanged) => Err(TakeFailure::LimitChanged),
        other => done(other).map_err(TakeFailure::Failed),
    }
}

/// Whether a take of this process is in flight: for twins.
pub fn is_taking(world: &World, number: usize) -> bool {
    let session = world.processes[number].using.and_then(|id| world.sessions.get(&id));
    session.is_some_and(|session| session.calls.iter().any(|call| matches!(call.purpose, Purpose::Take(_))))
}
