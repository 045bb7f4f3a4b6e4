//! The gate between a path's events and its machine: the library's, and broken twins of it.

use lockkeeper_actors::machine::gate::admit;
use lockkeeper_actors::machine::{LeaseState, PathEvent, PathMachine};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Real,
    /// A resume reaches the machine although the lease is in doubt again.
    PassesStaleResume,
    /// A machine that is up is not suspended while its lease is in doubt, until news of that doubt comes.
    IgnoresDoubt,
}

impl Gate {
    /// The events that the machine gets for this one.
    pub fn admit<M>(self, machine: &M, lease: Option<LeaseState>, event: M::Event) -> Vec<M::Event>
    where
        M: PathMachine<Event: Clone + PartialEq>,
    {
        let mut admitted: Vec<M::Event> = admit(machine, lease, event.clone()).collect();
        match self {
            Gate::Real => {}
            Gate::PassesStaleResume => {
                if event == PathEvent::Resumed.into() && !admitted.contains(&event) {
                    admitted.push(event);
                }
            }
            Gate::IgnoresDoubt => admitted.retain(|other| *other == event),
        }
        admitted
    }
}
