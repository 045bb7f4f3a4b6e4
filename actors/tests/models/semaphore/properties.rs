//! What must hold of a semaphore, whatever happens.

use lockkeeper_actors::machine::{LeaseState, Wait};
use stateright::{Model, Property};

use super::server::Spot;
use super::wire::{Process, Word};
use super::world::{Action, Scenario, World};
use crate::world::clients::DEADLINE;
use crate::world::steps::World as _;

pub const EXCLUSION: &str = "no permit beyond the limit";
pub const BACKING: &str = "all leases behind every guard";
pub const GHOSTS: &str = "no ghost";
pub const WAKING: &str = "no lost wake-up";
/// Of random walks only.
pub const RESTING: &str = "it comes to rest";
pub const ORDER: &str = "local order";
pub const CERTAINTY: &str = "no grant in doubt";
pub const ANSWERS: &str = "one answer each";
pub const TRUTH: &str = "true answers";
pub const WATCHES: &str = "only the mutex' holder watches";
pub const TOKENS: &str = "the token of its turn";

impl Model for Scenario {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.apply(self, action);
        next.flaws.extend(next.broken(self));
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Scenario>> {
        vec![
            Property::always(EXCLUSION, |_, world: &World| !world.flaws.contains(EXCLUSION)),
            Property::always(BACKING, |_, world: &World| !world.flaws.contains(BACKING)),
            Property::always(GHOSTS, |_, world: &World| !world.flaws.contains(GHOSTS)),
            Property::always(WAKING, |_, world: &World| !world.flaws.contains(WAKING)),
            Property::always(ORDER, |_, world: &World| !world.flaws.contains(ORDER)),
            Property::always(CERTAINTY, |_, world: &World| !world.flaws.contains(CERTAINTY)),
            Property::always(ANSWERS, |_, world: &World| !world.flaws.contains(ANSWERS)),
            Property::always(TRUTH, |_, world: &World| !world.flaws.contains(TRUTH)),
            Property::always(WATCHES, |_, world: &World| !world.flaws.contains(WATCHES)),
            Property::always(TOKENS, |_, world: &World| !world.flaws.contains(TOKENS)),
        ]
    }
}

impl World {
    /// What does not hold in this state, if anything.
    pub fn broken(&self, scenario: &Scenario) -> Option<&'static str> {
        if let Some(flaw) = self.flaws.first() {
            return Some(flaw);
        }
        if !self.backs(scenario) {
            return Some(BACKING);
        }
        if !self.is_quiet(scenario) {
            return None;
        }
        [
            (GHOSTS, self.is_clean()),
            (WAKING, self.has_woken(scenario)),
            (WATCHES, self.only_the_holder_watches()),
        ]
        .into_iter()
        .find_map(|(property, holds)| (!holds).then_some(property))
    }

    /// Nothing is on its way, and nothing is in doubt.
    pub fn is_quiet(&self, scenario: &Scenario) -> bool {
        let mut due = Vec::new();
        self.due(scenario, &mut due);
        due.is_empty()
    }

    /// The leases behind every guard are there, and go with the guard's session.
    fn backs(&self, scenario: &Scenario) -> bool {
        let tree = self.server.now();
        self.guards().all(|(leases, session)| {
            leases.iter().all(|lease| {
                tree.leases().any(|(name, owner)| name == lease && owner == session)
                    || self.struck.contains(lease) && !self.is_quiet(scenario)
            })
        })
    }

    /// Every lease belongs to a guard, and every contender for the mutex to a process with a request that waits.
    fn is_clean(&self) -> bool {
        let tree = self.server.now();
        tree.leases().all(|(name, owner)| {
            self.owner(owner).is_none_or(|process| {
                process.asked.iter().any(|asked| match &asked.word {
                    Word::Granted { leases, .. } => leases.contains(name),
                    Word::Unasked | Word::Waiting | Word::Refused => false,
                    Word::Lost | Word::Released | Word::Merged => false,
                })
            })
        }) && tree.contenders().iter().all(|node| {
            let waits = |process: &Process| process.asked.iter().any(|asked| asked.word == Word::Waiting);
            self.owner(node.owner).is_none_or(waits)
        })
    }

    /// A process with requests that wait has a foreign contender ahead, or too few permits in its turn, and time left;
    /// nothing remains of a request that is done.
    fn has_woken(&self, scenario: &Scenario) -> bool {
        let tree = self.server.now();
        let processes = self.clients.processes.iter().enumerate();
        processes.filter(|(number, _)| self.is_alive(*number)).all(|(number, process)| {
            let done = process.asked.iter().all(|asked| match asked.word {
                Word::Unasked | Word::Waiting | Word::Merged => true,
                Word::Granted { .. } => !asked.forgotten,
                Word::Refused | Word::Lost | Word::Released => asked.forgotten,
            });
            let mut waiting = process.asked.iter().zip(scenario.wants[number]);
            let waiting = waiting.by_ref().filter(|(asked, _)| asked.word == Word::Waiting);
            let mut wants = waiting.map(|(_, want)| want).peekable();
            let Some(head) = wants.peek().copied() else { return done };
            let in_time = wants.all(|want| match want.wait {
                Wait::Try => false,
                Wait::Until(_) => process.now < DEADLINE,
                Wait::Forever => true,
            });
            let mine = tree.contenders().iter().position(|node| Some(node.owner) == process.using);
            let fits = tree.root.as_ref().is_none_or(|root| {
                root.leases.len() + head.count as usize <= root.limit as usize || head.count > root.limit
            });
            done && in_time && mine.is_some_and(|ahead| ahead > 0 || !fits)
        })
    }

    fn only_the_holder_watches(&self) -> bool {
        let first = self.server.now().contenders().first().map(|node| node.owner);
        self.server.watches.iter().all(|watch| match watch.spot {
            Spot::Contender(_) => true,
            Spot::Part(_) => watch.stray || Some(watch.session) == first,
        })
    }

    fn owner(&self, session: u8) -> Option<&Process> {
        self.clients.sessions.get(&session).map(|session| &self.clients.processes[session.process])
    }

    /// Guards that do not read `Lost`.
    fn guards(&self) -> impl Iterator<Item = (&Vec<String>, u8)> {
        self.clients.processes.iter().flat_map(|process| &process.asked).filter_map(|asked| {
            match &asked.word {
                Word::Granted { leases, session } => {
                    let lease = self.clients.sessions.get(session).map(|session| session.lease);
                    lease.filter(|lease| *lease != LeaseState::Lost).map(|_| (leases, *session))
                }
                Word::Unasked | Word::Waiting | Word::Refused => None,
                Word::Lost | Word::Released | Word::Merged => None,
            }
        })
    }
}
