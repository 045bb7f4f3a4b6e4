//! What must hold of requests for several paths, whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use lockkeeper_actors::machine::Wait;
use stateright::{Model, Property};

use super::messages::{Lease, Ticket};
use super::state::{PATHS, Word};
use super::world::{Action, Scenario, World};
use crate::world::directory::{Name, Node};

pub const EXCLUSION: &str = "exclusion on every path";
pub const WHOLE: &str = "all or nothing";
pub const ORDER: &str = "one order in all queues";
pub const DEADLOCK: &str = "no deadlock";
pub const WAKING: &str = "no lost wake-up";
pub const GHOSTS: &str = "no ghost";
/// On every path.
pub const CERTAINTY: &str = "no grant in doubt";
pub const ANSWERS: &str = "one true answer";
/// Not a requirement: that the model gets anywhere.
pub const SERVED: &str = "every request is served";

impl Model for Scenario {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.apply(self, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Scenario>> {
        vec![
            Property::always(EXCLUSION, |_, world: &World| world.excludes()),
            Property::always(WHOLE, |scenario: &Scenario, world: &World| world.is_whole(scenario)),
            Property::always(ORDER, |_, world: &World| world.is_ordered()),
            Property::always(DEADLOCK, |_, world: &World| !world.is_quiet() || world.is_live()),
            Property::always(WAKING, |scenario: &Scenario, world: &World| {
                !world.is_quiet() || world.has_woken(scenario)
            }),
            Property::always(GHOSTS, |_, world: &World| !world.is_quiet() || world.is_clean()),
            Property::always(CERTAINTY, |_, world: &World| !world.flaws.contains(CERTAINTY)),
            Property::always(ANSWERS, |_, world: &World| !world.flaws.contains(ANSWERS)),
            Property::sometimes(SERVED, |_, world: &World| {
                world.requests.iter().all(|request| request.word == Word::Released)
            }),
        ]
    }
}

impl World {
    /// Nothing is on its way.
    fn is_quiet(&self) -> bool {
        let mut due = Vec::new();
        self.due(&mut due);
        due.is_empty()
    }

    /// There is at most one guard a path that does not read `Lost`. One whose node an operator deleted does not count:
    /// its owner may not know yet.
    fn excludes(&self) -> bool {
        let mut taken = BTreeSet::new();
        let guards = self.requests.iter().flat_map(|request| &request.guard);
        let mut sure =
            guards.filter(|lease| !self.is_over(lease) && !self.struck.contains(&(lease.path, lease.name)));
        sure.all(|lease| taken.insert(lease.path))
    }

    /// Behind every guard that does not read `Lost` stands a node on each of its paths, of a living session.
    fn is_whole(&self, scenario: &Scenario) -> bool {
        let backs = |lease: &Lease| {
            let node = self.servers[lease.path].find(lease.name);
            self.struck.contains(&(lease.path, lease.name))
                || node.is_some_and(|node| node.owner == lease.session)
        };
        self.requests.iter().zip(scenario.wants.requests).all(|(request, (_, paths))| {
            request.word != Word::Granted
                || request.guard.iter().any(|lease| self.is_over(lease))
                || (request.guard.iter().map(|lease| lease.path).eq(paths.iter().copied())
                    && request.guard.iter().all(backs))
        })
    }

    /// Any two that stand in several queues stand there in the same order.
    fn is_ordered(&self) -> bool {
        let mut places: BTreeMap<(usize, u8), [Option<i32>; PATHS]> = BTreeMap::new();
        for (path, node) in self.nodes() {
            if let Some(Ticket { request, round, .. }) = self.ticket_of(path, node) {
                places.entry((request, round)).or_default()[path] = Some(node.name.sequence);
            }
        }
        let whole = |place: &[Option<i32>; PATHS]| place.iter().copied().collect::<Option<Vec<i32>>>();
        let mut whole: Vec<Vec<i32>> = places.values().filter_map(whole).collect();
        whole.sort();
        whole.iter().zip(whole.iter().skip(1)).all(|(one, other)| one.iter().zip(other).all(|(a, b)| a < b))
    }

    /// As long as one request waits, another one holds.
    fn is_live(&self) -> bool {
        self.requests.iter().all(|request| request.word != Word::Waiting)
            || self.requests.iter().any(|request| !request.guard.is_empty())
    }

    /// A request that waits stands in all its queues, and behind another contender in one of them at least; it has time
    /// left.
    fn has_woken(&self, scenario: &Scenario) -> bool {
        self.requests.iter().enumerate().all(|(number, request)| match request.word {
            Word::Waiting => {
                let place = |(part, path): (usize, &usize)| {
                    let ticket = Ticket { request: number, round: request.round, part };
                    let own = |node: &&Node| self.ticket_of(*path, node) == Some(ticket);
                    self.servers[*path].nodes().iter().find(own).map(|node| (*path, node.name))
                };
                let places: Option<Vec<_>> = scenario.paths(number).iter().enumerate().map(place).collect();
                let in_time = match scenario.wait(number) {
                    Wait::Try => false,
                    Wait::Until(deadline) => self.processes[request.process].now < deadline,
                    Wait::Forever => true,
                };
                in_time
                    && places.is_some_and(|places| {
                        places.into_iter().any(|(path, name)| self.is_blocked(path, name))
                    })
            }
            Word::Cancelling => false,
            Word::Refused | Word::Granted | Word::Lost | Word::Released => true,
        })
    }

    fn is_blocked(&self, path: usize, name: Name) -> bool {
        self.servers[path].nodes().iter().any(|node| node.name.sequence < name.sequence)
    }

    /// Every node belongs to a request that waits or holds.
    fn is_clean(&self) -> bool {
        self.nodes().all(|(path, node)| {
            self.ticket_of(path, node).is_some_and(|ticket| {
                let request = &self.requests[ticket.request];
                (request.word == Word::Waiting && ticket.round == request.round)
                    || request.guard.iter().any(|lease| lease.ticket == ticket)
            })
        })
    }

    fn nodes(&self) -> impl Iterator<Item = (usize, &Node)> {
        let paths = self.servers.iter().enumerate();
        paths.flat_map(|(path, server)| server.nodes().iter().map(move |node| (path, node)))
    }

    /// The part that it was made for.
    fn ticket_of(&self, path: usize, node: &Node) -> Option<Ticket> {
        let process = &self.processes[usize::from(node.name.author)];
        process.paths[path].tickets.get(&node.name.attempt).copied()
    }
}
