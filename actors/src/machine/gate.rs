//! The gate between a path's events and its machine.
//!
//! A lease is one word that its session keeps up to date; messages about the session come later than that word. So
//! the word is read before every event: there is no grant on a lease that is in doubt, and no resume by news that is out
//! of date.

use super::{LeaseState, PathEvent, PathMachine};

/// The events that the machine gets for this one, as far as the lease allows. `None` is no session.
///
/// A machine that is up although its lease is in doubt is suspended first. A resume is held back while the lease is in
/// doubt: another one follows once the session is verified.
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

    /// What the machine gets when the event comes, by whether it is up and by the state of its lease.
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
