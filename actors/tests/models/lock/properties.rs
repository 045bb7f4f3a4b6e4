//! What must hold of a lock, whatever happens.

use std::borrow::Cow;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::linger::LingeringLock;
use lockkeeper_actors::machine::{LeaseState, PathMachine, Wait};
use stateright::{Model, Property};

use super::wire::{Asked, LockWire, Word};
use super::world::{Action, Flaw, PEER, Scenario, World, named};
use crate::world::clients::{DEADLINE, Process};
use crate::world::directory::{Name, Node};
use crate::world::steps::{Step, World as _};

pub const EXCLUSION: &str = "exclusion";
pub const BACKING: &str = "a living node behind every guard";
pub const GHOSTS: &str = "no ghost";
pub const WAKING: &str = "no lost wake-up";
pub const RESTING: &str = "it comes to rest";
pub const ORDER: &str = "order";
pub const OVERTAKING: &str = "nobody is overtaken by later requests";
pub const NOTICED: &str = "nobody waits for an idle node";
pub const TOKENS: &str = "tokens grow";
pub const CERTAINTY: &str = "no grant in doubt";
pub const ANSWERS: &str = "one true answer";
pub const PACING: &str = "retries are paced";
pub const TRYING: &str = "no try in doubt";
/// Not a requirement: that the model gets anywhere.
pub const SERVED: &str = "every request is served";

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
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Scenario>> {
        vec![
            Property::always(EXCLUSION, |scenario: &Scenario, world: &World| world.excludes(scenario)),
            Property::always(BACKING, |_, world: &World| world.backs()),
            Property::always(GHOSTS, |scenario: &Scenario, world: &World| {
                !world.is_quiet() || world.is_clean(scenario)
            }),
            Property::always(WAKING, |scenario: &Scenario, world: &World| {
                !world.is_quiet() || world.has_woken(scenario)
            }),
            Property::always(RESTING, |scenario: &Scenario, world: &World| world.comes_to_rest(scenario)),
            Property::always(ORDER, |_, world: &World| !world.flaws.contains(&Flaw::Order)),
            Property::always(OVERTAKING, |_, world: &World| !world.flaws.contains(&Flaw::Overtaking)),
            Property::always(NOTICED, |_, world: &World| !world.is_still() || world.leaves_no_idle_node()),
            Property::always(TOKENS, |_, world: &World| !world.flaws.contains(&Flaw::Token)),
            Property::always(CERTAINTY, |_, world: &World| !world.flaws.contains(&Flaw::Doubt)),
            Property::always(ANSWERS, |_, world: &World| !world.flaws.contains(&Flaw::Answer)),
            Property::always(PACING, |_, world: &World| !world.flaws.contains(&Flaw::Storm)),
            Property::always(TRYING, |scenario: &Scenario, world: &World| world.tries_no_longer(scenario)),
            Property::sometimes(SERVED, |_, world: &World| {
                world
                    .clients
                    .processes
                    .iter()
                    .flat_map(|process| &process.asked)
                    .all(|asked| asked.word == Word::Released)
            }),
        ]
    }
}

/// More steps than it ever takes to come to rest.
const PATIENCE: usize = 1000;

impl World {
    /// Nothing is on its way, and nothing is in doubt.
    fn is_quiet(&self) -> bool {
        let mut due = Vec::new();
        self.due(&mut due);
        due.is_empty()
    }

    /// When no caller asks for anything and nothing more goes wrong, everything that is on its way arrives. What is
    /// known of one state is known of all on the way, so that this costs one step a state.
    fn comes_to_rest(&self, scenario: &Scenario) -> bool {
        let Ok(mut settled) = scenario.settled.lock() else { return false };
        let (mut world, mut way, mut due) = (Cow::Borrowed(self), Vec::new(), Vec::new());
        while way.len() < PATIENCE {
            let state = BuildHasherDefault::<DefaultHasher>::default().hash_one(&*world);
            if settled.contains(&state) {
                settled.extend(way);
                return true;
            }
            way.push(state);
            due.clear();
            world.due(&mut due);
            match due.first() {
                Some(action) if world.flaws.is_empty() => world.to_mut().apply(scenario, *action),
                Some(_) | None => {
                    settled.extend(way);
                    return true;
                }
            }
        }
        false
    }

    /// Any two that hold at the same time are readers. A guard whose node an operator deleted does not count: its owner
    /// may not know yet.
    fn excludes(&self, scenario: &Scenario) -> bool {
        let guards = self.guards().filter(|guard| !self.struck.contains(&guard.name));
        let mut shared: Vec<bool> = guards.map(|guard| guard.mode(scenario) == Mode::Read).collect();
        if let Some(peer) = self.peer.filter(|peer| self.is_first(*peer, scenario)) {
            shared.push(peer.mode == Mode::Read);
        }
        shared.len() <= 1 || shared.iter().all(|shared| *shared)
    }

    /// The node behind every guard is there, and goes with the guard's session or with none.
    fn backs(&self) -> bool {
        let mut guards = self.guards();
        guards.all(|guard| {
            let excused = self.struck.contains(&guard.name) && !self.is_quiet();
            let node = self.server.find(guard.name);
            excused || node.is_some_and(|node| node.owner == guard.session.unwrap_or(0))
        })
    }

    /// Every node belongs to a request that waits or holds.
    fn is_clean(&self, scenario: &Scenario) -> bool {
        self.server
            .nodes()
            .iter()
            .all(|node| node.name.author == PEER || node.belated || self.is_wanted(node, scenario))
    }

    fn is_wanted(&self, node: &Node, scenario: &Scenario) -> bool {
        let number = usize::from(node.name.author);
        let process = &self.clients.processes[number];
        if !self.is_alive(number) || self.closed.contains(&number) && process.current.is_none() {
            // No process is left to delete a node that outlives sessions.
            return node.owner == 0;
        }
        let mut asked = process.asked.iter().zip(scenario.wants[number]);
        asked.any(|(asked, want)| match asked.word {
            Word::Granted { name, .. } if want.lingers => name == node.name,
            // One of those that share it has asked for it.
            Word::Waiting if want.lingers => {
                let waiting = process.asked.iter().filter(|asked| asked.word == Word::Waiting).count();
                named(want.mode) == node.name.mode && self.nodes_in_wait(number).count() <= waiting
            }
            Word::Waiting | Word::Granted { .. } => asked.attempt == Some(node.name.attempt),
            Word::Unasked | Word::Cancelling | Word::Refused | Word::Lost | Word::Released => false,
        })
    }

    /// The nodes of a process that hold nothing.
    fn nodes_in_wait(&self, process: usize) -> impl Iterator<Item = Name> {
        let guards: Vec<Name> = self.guards().map(|guard| guard.name).collect();
        let names = self.server.nodes().iter().map(|node| node.name);
        names.filter(move |name| usize::from(name.author) == process && !guards.contains(name))
    }

    /// Nothing is on its way, but time may pass.
    fn is_still(&self) -> bool {
        let mut due = Vec::new();
        self.due(&mut due);
        due.iter().all(|action| matches!(action, Action::Step(Step::Tick(_))))
    }

    /// Nobody waits for a node of another process that stays although nothing wants it.
    fn leaves_no_idle_node(&self) -> bool {
        let nodes = self.server.nodes();
        let mut lingering = self.living().filter(|(_, process)| process.machine.lingers());
        lingering.all(|(number, _)| {
            let mut idle = self.nodes_in_wait(number);
            !idle.any(|idle| {
                let behind = nodes.iter().map(|node| node.name).filter(|name| name.sequence > idle.sequence);
                let mut strangers = behind.filter(|name| usize::from(name.author) != number);
                strangers.any(|name| idle.mode != Mode::Read || name.mode != Mode::Read)
            })
        })
    }

    /// A request that waits has a contender ahead, and time left; nothing remains of a request that is done.
    fn has_woken(&self, scenario: &Scenario) -> bool {
        self.living().all(|(number, process)| {
            process.asked.iter().zip(scenario.wants[number]).all(|(asked, want)| match asked.word {
                Word::Unasked => true,
                Word::Waiting => {
                    let own = |node: &&Node| {
                        node.name.author == number as u8 && Some(node.name.attempt) == asked.attempt
                    };
                    let in_time = match want.wait {
                        Wait::Try => false,
                        Wait::Until(_) => process.now < DEADLINE,
                        Wait::Forever => true,
                    };
                    let node = self.server.nodes().iter().find(own).map(|node| node.name);
                    in_time
                        && match want.lingers {
                            true => self.waits_in_line(number, want.mode),
                            false => node.is_some_and(|node| self.is_blocked(node, want.mode)),
                        }
                }
                Word::Granted { .. } => !asked.forgotten,
                Word::Refused | Word::Lost | Word::Released | Word::Cancelling => asked.forgotten,
            })
        })
    }

    /// A node of the process in this mode has a contender ahead, or serves another request at the moment.
    fn waits_in_line(&self, process: usize, mode: Mode) -> bool {
        let nodes = self.server.nodes().iter().map(|node| node.name);
        let mut own = nodes.filter(|name| usize::from(name.author) == process && name.mode == named(mode));
        let serves = |name: Name| mode != Mode::Read && self.guards().any(|guard| guard.name == name);
        own.any(|name| self.is_blocked(name, mode) || serves(name))
    }

    /// Where a machine knows of a doubt, no request is left that would not wait.
    fn tries_no_longer(&self, scenario: &Scenario) -> bool {
        let mut doubting =
            self.clients.processes.iter().zip(scenario.wants).filter(|(process, _)| !process.machine.is_up());
        doubting.all(|(process, wants)| {
            !process
                .asked
                .iter()
                .zip(*wants)
                .any(|(asked, want)| want.wait == Wait::Try && asked.word == Word::Waiting)
        })
    }

    /// Whether a request of this process holds.
    pub fn holds(&self, process: usize) -> bool {
        self.guards().any(|guard| guard.process == process)
    }

    fn is_blocked(&self, name: Name, mode: Mode) -> bool {
        self.server.nodes().iter().any(|node| node.name.sequence < name.sequence && node.name.blocks(mode))
    }

    fn is_first(&self, peer: Name, scenario: &Scenario) -> bool {
        let shares = scenario.wants.iter().flat_map(|wants| wants.iter()).any(|want| want.mode == Mode::Read);
        let mode = match peer.mode {
            Mode::Lock if shares => Mode::Write,
            mode => mode,
        };
        !self.is_blocked(peer, mode)
    }

    fn living(&self) -> impl Iterator<Item = (usize, &Process<LingeringLock, LockWire, Asked>)> {
        let processes = self.clients.processes.iter().enumerate();
        processes.filter(|(number, _)| self.is_alive(*number))
    }

    /// Guards that do not read `Lost`.
    fn guards(&self) -> impl Iterator<Item = Guard> {
        self.living()
            .flat_map(|(process, state)| {
                state.asked.iter().enumerate().filter_map(move |(ticket, asked)| match asked.word {
                    Word::Granted { name, session } => Some(Guard { process, ticket, name, session }),
                    Word::Unasked
                    | Word::Waiting
                    | Word::Cancelling
                    | Word::Refused
                    | Word::Lost
                    | Word::Released => None,
                })
            })
            .filter(|guard| {
                guard.session.is_none_or(|id| {
                    self.clients.sessions.get(&id).is_some_and(|session| session.lease != LeaseState::Lost)
                })
            })
    }
}

struct Guard {
    process: usize,
    ticket: usize,
    name: Name,
    session: Option<u8>,
}

impl Guard {
    fn mode(&self, scenario: &Scenario) -> Mode {
        scenario.wants[self.process][self.ticket].mode
    }
}
