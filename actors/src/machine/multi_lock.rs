//! One request for several locks, all or none.
//!
//! Each lock's machine works as usual, except that the creates are collected and sent as one transaction. So any two
//! such requests have the same order in every queue that they share, and cannot deadlock. This requires that all nodes
//! of a request are created together: if one of them must be created again, the request gives up all of them and starts
//! a new round.

use std::collections::BTreeSet;

use super::{Machine, Moment};

/// The machine of one multi-lock: see the module. Parts are numbered in the order of the paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MultiLock {
    parts: Vec<Part>,
    stage: Stage,
    /// Parts whose lease is suspended.
    suspended: BTreeSet<usize>,
    /// Parts whose request has ended.
    over: BTreeSet<usize>,
}

/// The stages of a part, in the order of an acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    /// Requested from its lock.
    Asked,
    /// Its node can be created in the session of this epoch.
    Ready { epoch: u64 },
    /// The transaction that creates its node is in flight.
    Sent { epoch: u64 },
    /// It waits in its lock's queue.
    Queued { ahead: usize },
    /// It holds its lock.
    Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Not all parts are held.
    Waiting {
        /// The caller has been told that the request is queued.
        told: bool,
    },
    Granted,
    /// A lease is lost. The others can still be released.
    Lost,
    Done,
}

/// What happened. The driver drops events of earlier rounds; each [`Command::Ask`] starts a new one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Starts the request.
    Start,
    /// A part's node can be created.
    Ready {
        /// The part.
        part: usize,
        /// The epoch of the part's session.
        epoch: u64,
    },
    /// Answer to [`Command::Submit`]. Every lock has the answer for its node, except for the locks of these parts.
    /// Their nodes were not created because another part made the transaction fail; they can be submitted again.
    Made {
        /// The parts to submit again.
        back: Vec<usize>,
    },
    /// A part waits in its lock's queue.
    Queued {
        /// The part.
        part: usize,
        /// The number of contenders ahead that block it.
        ahead: usize,
    },
    /// A part holds its lock.
    Held(usize),
    /// A part was refused.
    Refused(usize),
    /// A part's lease is suspended.
    Suspended(usize),
    /// A part's lease is no longer suspended.
    Resumed(usize),
    /// A part's lease was lost.
    Lost(usize),
    /// A part's request has ended. No more events of it follow.
    Over(usize),
    /// The caller cancels the request. A granted request is not affected.
    Cancel,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Start a new round: request every part from its lock.
    Ask,
    /// Create the nodes of all parts in one transaction.
    Submit,
    /// Cancel or release every part of this round.
    GiveBack,
    /// Report that all parts are queued. The number is the sum of the contenders ahead.
    Queued(usize),
    /// All parts are held.
    Grant,
    /// Report that the lease is suspended.
    Suspend,
    /// Report that the lease is no longer suspended.
    Resume,
    /// Report that the lease is lost.
    Lose,
    /// Report that all parts were released, and that the server has confirmed it.
    Released,
    /// Report that the request is refused.
    Refuse(Cause),
    /// End the actor: nothing is left to do.
    End,
}

/// Why the request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It was cancelled.
    Cancelled,
    /// This part was refused.
    Part(usize),
}

impl MultiLock {
    /// A request for this many paths.
    pub fn new(parts: usize) -> MultiLock {
        MultiLock {
            parts: vec![Part::Asked; parts],
            stage: Stage::Waiting { told: false },
            suspended: BTreeSet::new(),
            over: BTreeSet::new(),
        }
    }
}

impl Machine for MultiLock {
    type Event = Event;
    type Command = Command;

    fn handle(&mut self, event: Event, _: Moment, out: &mut Vec<Command>) {
        match self.stage {
            Stage::Waiting { .. } => self.waiting(event, out),
            Stage::Granted => self.granted(event, out),
            Stage::Lost => self.lost(event, out),
            Stage::Done => {}
        }
    }

    /// Always `None`: the parts have the deadlines.
    fn wakeup(&self) -> Option<Moment> {
        None
    }
}

impl MultiLock {
    fn waiting(&mut self, event: Event, out: &mut Vec<Command>) {
        match event {
            Event::Start => out.push(Command::Ask),
            Event::Ready { part, epoch } => match self.parts[part] {
                // Replaces a part that was ready in an earlier session.
                Part::Asked | Part::Ready { .. } => self.set_part(part, Part::Ready { epoch }, out),
                // Its session was lost, or its node was deleted.
                Part::Sent { .. } | Part::Queued { .. } | Part::Held => self.restart(out),
            },
            Event::Made { back } => {
                for (number, part) in self.parts.iter_mut().enumerate() {
                    match *part {
                        Part::Sent { epoch } if back.contains(&number) => *part = Part::Ready { epoch },
                        Part::Sent { .. } => *part = Part::Asked,
                        Part::Asked | Part::Ready { .. } | Part::Queued { .. } | Part::Held => {}
                    }
                }
                self.advance(out);
            }
            Event::Queued { part, ahead } => self.set_part(part, Part::Queued { ahead }, out),
            Event::Held(part) => self.set_part(part, Part::Held, out),
            Event::Lost(_) => self.restart(out),
            Event::Refused(part) => self.refuse(Cause::Part(part), out),
            Event::Cancel => self.refuse(Cause::Cancelled, out),
            Event::Suspended(part) => {
                self.suspended.insert(part);
            }
            Event::Resumed(part) => {
                self.suspended.remove(&part);
                self.advance(out);
            }
            // `Refused` or `Lost` came before it.
            Event::Over(_) => {}
        }
    }

    fn granted(&mut self, event: Event, out: &mut Vec<Command>) {
        match event {
            Event::Suspended(part) => {
                if self.suspended.is_empty() {
                    out.push(Command::Suspend);
                }
                self.suspended.insert(part);
            }
            Event::Resumed(part) => {
                if self.suspended.remove(&part) && self.suspended.is_empty() {
                    out.push(Command::Resume);
                }
            }
            Event::Lost(_) => {
                self.stage = Stage::Lost;
                out.push(Command::Lose);
            }
            Event::Over(part) => {
                if self.ends_with(part) {
                    out.extend([Command::Released, Command::End]);
                }
            }
            // A granted request cannot be cancelled, and the other events are late.
            Event::Cancel
            | Event::Start
            | Event::Ready { .. }
            | Event::Made { .. }
            | Event::Queued { .. }
            | Event::Held(_)
            | Event::Refused(_) => {}
        }
    }

    fn lost(&mut self, event: Event, out: &mut Vec<Command>) {
        if let Event::Over(part) = event {
            if self.ends_with(part) {
                out.push(Command::End);
            }
        }
    }

    /// Notes that the request of a part has ended. Returns whether that was the last one.
    fn ends_with(&mut self, part: usize) -> bool {
        self.over.insert(part);
        let ends = self.over.len() == self.parts.len();
        if ends {
            self.stage = Stage::Done;
        }
        ends
    }

    fn set_part(&mut self, part: usize, to: Part, out: &mut Vec<Command>) {
        self.parts[part] = to;
        self.advance(out);
    }

    /// Takes the next step once all parts are in the same stage.
    fn advance(&mut self, out: &mut Vec<Command>) {
        let is_ready = |part: &Part| matches!(part, Part::Ready { .. });
        let is_placed = |part: &Part| matches!(part, Part::Queued { .. } | Part::Held);
        if self.parts.iter().any(is_ready) && self.parts.iter().any(is_placed) {
            self.restart(out);
        } else if let Some(Part::Ready { epoch }) = self.common() {
            self.parts.fill(Part::Sent { epoch });
            out.push(Command::Submit);
        } else if self.common() == Some(Part::Held) {
            // No grant while a part is suspended.
            if self.suspended.is_empty() {
                self.stage = Stage::Granted;
                out.push(Command::Grant);
            }
        } else if self.parts.iter().all(is_placed) && self.stage == (Stage::Waiting { told: false }) {
            self.stage = Stage::Waiting { told: true };
            let ahead = |part: &Part| if let Part::Queued { ahead } = part { *ahead } else { 0 };
            out.push(Command::Queued(self.parts.iter().map(ahead).sum()));
        }
    }

    /// The stage of all parts, if it is the same, and in the same session.
    fn common(&self) -> Option<Part> {
        self.parts.first().copied().filter(|first| self.parts.iter().all(|part| part == first))
    }

    /// Gives up this round, and starts a new one.
    fn restart(&mut self, out: &mut Vec<Command>) {
        self.parts.fill(Part::Asked);
        self.suspended.clear();
        self.stage = Stage::Waiting { told: false };
        out.extend([Command::GiveBack, Command::Ask]);
    }

    fn refuse(&mut self, reason: Cause, out: &mut Vec<Command>) {
        self.stage = Stage::Done;
        out.extend([Command::GiveBack, Command::Refuse(reason), Command::End]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(multi: &mut MultiLock, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        multi.handle(event, Moment(0), &mut out);
        out
    }

    fn ready(part: usize, epoch: u64) -> Event {
        Event::Ready { part, epoch }
    }

    fn queued(part: usize, ahead: usize) -> Event {
        Event::Queued { part, ahead }
    }

    fn made() -> Event {
        Event::Made { back: vec![] }
    }

    /// Two parts. Their transaction was sent in the first session.
    fn sent() -> MultiLock {
        let mut multi = MultiLock::new(2);
        assert_eq!(on(&mut multi, Event::Start), [Command::Ask]);
        assert_eq!(on(&mut multi, ready(1, 1)), []);
        assert_eq!(on(&mut multi, ready(0, 1)), [Command::Submit]);
        multi
    }

    fn granted() -> MultiLock {
        let mut multi = sent();
        on(&mut multi, made());
        on(&mut multi, Event::Held(0));
        assert_eq!(on(&mut multi, Event::Held(1)), [Command::Grant]);
        multi
    }

    const AGAIN: [Command; 2] = [Command::GiveBack, Command::Ask];

    #[test]
    fn it_is_granted_when_every_part_is_held() {
        let mut multi = sent();
        assert_eq!(on(&mut multi, made()), []);
        assert_eq!(on(&mut multi, queued(1, 2)), []);
        assert_eq!(on(&mut multi, Event::Held(0)), [Command::Queued(2)]);
        assert_eq!(on(&mut multi, Event::Held(1)), [Command::Grant]);
    }

    #[test]
    fn nothing_is_granted_while_a_part_is_suspended() {
        let mut multi = sent();
        on(&mut multi, made());
        on(&mut multi, Event::Held(0));
        assert_eq!(on(&mut multi, Event::Suspended(0)), []);
        assert_eq!(on(&mut multi, Event::Held(1)), []);
        assert_eq!(on(&mut multi, Event::Resumed(0)), [Command::Grant]);
    }

    #[test]
    fn parts_of_different_sessions_are_not_submitted_together() {
        let mut multi = MultiLock::new(2);
        on(&mut multi, Event::Start);
        assert_eq!(on(&mut multi, ready(0, 1)), []);
        assert_eq!(on(&mut multi, ready(1, 2)), []);
        assert_eq!(on(&mut multi, ready(0, 2)), [Command::Submit]);
    }

    #[test]
    fn a_part_that_another_one_made_fail_is_submitted_again() {
        let mut multi = sent();
        // The directory of part 1 was missing.
        assert_eq!(on(&mut multi, Event::Made { back: vec![0] }), []);
        assert_eq!(on(&mut multi, ready(1, 1)), [Command::Submit]);
    }

    #[test]
    fn after_an_unknown_outcome_every_lock_finds_out_by_itself() {
        let mut carried_out = sent();
        on(&mut carried_out, made());
        on(&mut carried_out, Event::Held(1));
        assert_eq!(on(&mut carried_out, Event::Held(0)), [Command::Grant]);
        let mut not_carried_out = sent();
        on(&mut not_carried_out, made());
        on(&mut not_carried_out, ready(0, 1));
        assert_eq!(on(&mut not_carried_out, ready(1, 1)), [Command::Submit]);
    }

    #[test]
    fn a_part_that_must_be_queued_again_starts_a_new_round_for_all() {
        for (what, event) in [("lost while waiting", ready(0, 2)), ("lost while held", Event::Lost(1))] {
            let mut multi = sent();
            on(&mut multi, made());
            on(&mut multi, queued(0, 1));
            on(&mut multi, Event::Held(1));
            assert_eq!(on(&mut multi, event), AGAIN, "{what}");
            on(&mut multi, ready(0, 2));
            assert_eq!(on(&mut multi, ready(1, 2)), [Command::Submit], "{what}");
            on(&mut multi, made());
            on(&mut multi, queued(0, 0));
            assert_eq!(
                on(&mut multi, queued(1, 3)),
                [Command::Queued(3)],
                "it reports its place again: {what}"
            );
        }
        // While the transaction is in flight, and before the other part's answer.
        assert_eq!(on(&mut sent(), ready(1, 2)), AGAIN);
        let mut multi = sent();
        on(&mut multi, made());
        assert_eq!(on(&mut multi, ready(1, 1)), []);
        assert_eq!(on(&mut multi, queued(0, 1)), AGAIN);
    }

    #[test]
    fn a_refused_part_or_a_cancel_gives_up_all_parts_before_it_is_reported() {
        let refused = |reason| [Command::GiveBack, Command::Refuse(reason), Command::End];
        for event in [ready(0, 1), made(), queued(0, 1), Event::Held(0)] {
            let mut multi = sent();
            if event != ready(0, 1) {
                on(&mut multi, event.clone());
            }
            let mut cancelled = multi.clone();
            assert_eq!(on(&mut multi, Event::Refused(1)), refused(Cause::Part(1)), "after {event:?}");
            assert_eq!(on(&mut cancelled, Event::Cancel), refused(Cause::Cancelled), "after {event:?}");
            assert_eq!(on(&mut multi, Event::Held(0)), [], "the request has ended");
        }
    }

    #[test]
    fn the_caller_gets_the_worst_state_of_all_parts_and_nothing_after_a_loss() {
        let mut multi = granted();
        assert_eq!(on(&mut multi, Event::Cancel), [], "a granted request cannot be cancelled");
        assert_eq!(on(&mut multi, Event::Suspended(0)), [Command::Suspend]);
        assert_eq!(on(&mut multi, Event::Suspended(1)), []);
        assert_eq!(on(&mut multi, Event::Resumed(0)), []);
        assert_eq!(on(&mut multi, Event::Resumed(1)), [Command::Resume]);
        assert_eq!(on(&mut multi, Event::Lost(1)), [Command::Lose]);
        assert_eq!(on(&mut multi, Event::Suspended(0)), []);
        assert_eq!(on(&mut multi, Event::Lost(0)), []);
    }

    #[test]
    fn after_a_loss_it_goes_on_until_the_requests_of_all_parts_have_ended() {
        let mut multi = granted();
        assert_eq!(on(&mut multi, Event::Lost(1)), [Command::Lose]);
        assert_eq!(on(&mut multi, Event::Over(1)), []);
        assert_eq!(on(&mut multi, Event::Over(0)), [Command::End]);
    }

    #[test]
    fn it_ends_when_the_requests_of_all_parts_have_ended() {
        let mut multi = granted();
        assert_eq!(on(&mut multi, Event::Over(1)), []);
        assert_eq!(on(&mut multi, Event::Over(1)), []);
        assert_eq!(on(&mut multi, Event::Over(0)), [Command::Released, Command::End]);
    }
}
