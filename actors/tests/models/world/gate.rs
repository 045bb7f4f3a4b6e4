//! The rule between an actor and its machine.

use lockkeeper_actors::machine::protocol::Event;

/// The events that a machine gets for this one: what `feed` in `src/lock.rs` does. The lease's state is ahead of the
/// messages that tell of it. As long as the lease is in doubt, nothing is granted, and a resume that is out of date is
/// not passed on.
pub fn gate(is_up: bool, is_sure: bool, event: Event) -> impl Iterator<Item = Event> {
    let doubt = (is_up && !is_sure).then_some(Event::Suspended);
    let event = (is_sure || event != Event::Resumed).then_some(event);
    doubt.into_iter().chain(event)
}
