//! The gate between a path's events and its machine.
//!
//! The session actor updates the shared state of its lease at once, but its messages about the session arrive later. So
//! the state is read before every event. That prevents a grant while the lease is suspended, and a resume by an
//! outdated message.

use super::{LeaseState, PathEvent, PathMachine};

/// The events to pass to the machine for this event, given the state of the lease. `None` means that there is no
/// session.
///
/// If the machine is up but the lease is not held, the machine is suspended first. A resume is dropped while the lease
/// is not held: another one follows once the session is verified.
pub fn admit<M: PathMachine>(
    machine: &M,
    lease: Option<LeaseState>,
    event: M::Event,
) -> impl Iterator<Item = M::Event> + use<M>
where
    M::Event: PartialEq,
{
    let held = lease == Some(LeaseState::Held);
    let suspended = (machine.is_up() && !held).then(|| PathEvent::Suspended.into());
    let event = (held || event != PathEvent::Resumed.into()).then_some(event);
    suspended.into_iter().chain(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::lock::{Event, Lock};
    use crate::machine::node::Instance;
    use crate::machine::{Machine, Moment};

    fn lock(events: &[PathEvent]) -> Lock {
        let mut lock = Lock::new(Instance::new(0));
        for event in events {
            lock.handle(event.clone().into(), Moment(0), &mut Vec::new());
        }
        lock
    }

    #[test]
    fn a_machine_is_up_only_while_its_lease_is_held() {
        use LeaseState::{Held, Lost, Suspended};
        let (up, suspended) = ([PathEvent::Connected { session: 1 }], PathEvent::Suspended);
        let down = [up[0].clone(), suspended.clone()];
        let (wake, resumed) = (PathEvent::Wake, PathEvent::Resumed);
        let (both, none) = (&[&suspended, &wake][..], &[][..]);
        for (events, lease, event, expected) in [
            (&up[..], Some(Held), &wake, &[&wake][..]),
            (&up, Some(Suspended), &wake, both),
            (&up, Some(Lost), &wake, both),
            (&up, None, &wake, both),
            (&up, Some(Suspended), &resumed, &[&suspended]),
            (&down, Some(Held), &resumed, &[&resumed]),
            (&down, Some(Suspended), &resumed, none),
            (&down, Some(Suspended), &wake, &[&wake]),
            (&down, None, &resumed, none),
        ] {
            let admitted: Vec<Event> = admit(&lock(events), lease, event.clone().into()).collect();
            let expected: Vec<Event> = expected.iter().map(|event| (*event).clone().into()).collect();
            assert_eq!(admitted, expected, "{events:?}, {lease:?}, {event:?}");
        }
    }
}
