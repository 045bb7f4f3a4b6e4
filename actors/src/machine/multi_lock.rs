//! One request for several paths: all of them, or none.
//!
//! Each path's queue does what it always does. Only the creates are collected, and sent as one transaction: so any two
//! such requests stand in the same order in every queue that they share, and cannot wait for each other in a ring. That
//! holds as long as all places are taken together; who must enter one queue anew gives every place back, and enters
//! all of them anew.

use std::collections::BTreeSet;

use super::{Machine, Moment};

/// See the module. Parts are numbered as the paths are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MultiLock {
    parts: Vec<Part>,
    stage: Stage,
    /// Parts whose lease is in doubt.
    suspended: BTreeSet<usize>,
    /// Parts of which nothing more will be heard.
    over: BTreeSet<usize>,
}

/// In the order of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    /// In its path's hands.
    Asked,
    /// Its node has a name, and can be made in the session of this epoch.
    Ready { epoch: u64 },
    /// The transaction that makes it is on its way.
    Sent { epoch: u64 },
    /// It stands in its queue.
    Queued { ahead: usize },
    /// It holds its path.
    Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Not all are held. Whoever waits has been told of the queues, or not.
    Waiting {
        told: bool,
    },
    Granted,
    Done,
}

/// What happened. What comes of an earlier round than the last [`Command::Ask`]'s is kept away from here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The request is there.
    Start,
    /// A part has come so far that its node can be made.
    Ready {
        /// Which part.
        part: usize,
        /// In which session.
        epoch: u64,
    },
    /// Answer to [`Command::Submit`]. Every path knows what became of its node, except that these parts have
    /// none, and can still be entered by their names: others failed them.
    Made {
        /// Which parts.
        back: Vec<usize>,
    },
    /// A part stands in its queue.
    Queued {
        /// Which part.
        part: usize,
        /// With how many ahead.
        ahead: usize,
    },
    /// A part holds its path.
    Held(usize),
    /// A part cannot be had.
    Refused(usize),
    /// A part's lease is in doubt.
    Suspended(usize),
    /// It no longer is.
    Resumed(usize),
    /// A part was held, and is not any more.
    Lost(usize),
    /// Nothing more will be heard of a part.
    Over(usize),
    /// Nobody wants it any more. Nothing happens to what is held already.
    Cancel,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Ask every path for its part: a new round.
    Ask,
    /// Make the nodes of all parts in one transaction.
    Submit,
    /// Give back every part of this round, however far it has come.
    GiveBack,
    /// All parts stand in their queues, with so many ahead altogether.
    Queued(usize),
    /// All parts are held.
    Grant,
    /// A holder can no longer be sure.
    Suspend,
    /// A holder can be sure again.
    Resume,
    /// A holder no longer holds all of them.
    Lose,
    /// All were released, and the server has confirmed it.
    Released,
    /// Not granted.
    Refuse(Cause),
    /// Nothing is left to be done.
    End,
}

/// Why it is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It was cancelled.
    Cancelled,
    /// For the reason of this part.
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
            Stage::Done => {}
        }
    }

    /// It has no timers: deadlines are those of its parts.
    fn wakeup(&self) -> Option<Moment> {
        None
    }
}

impl MultiLock {
    fn waiting(&mut self, event: Event, out: &mut Vec<Command>) {
        match event {
            Event::Start => out.push(Command::Ask),
            Event::Ready { part, epoch } => match self.parts[part] {
                // A name of an earlier session is of no use any more.
                Part::Asked | Part::Ready { .. } => self.set_part(part, Part::Ready { epoch }, out),
                // Its session or its node is gone.
                Part::Sent { .. } | Part::Queued { .. } | Part::Held => self.again(out),
            },
            Event::Made { back } => {
                for (number, part) in self.parts.iter_mut().enumerate() {
                    match *part {
                        Part::Sent { epoch } if back.contains(&number) => *part = Part::Ready { epoch },
                        Part::Sent { .. } => *part = Part::Asked,
                        Part::Asked | Part::Ready { .. } | Part::Queued { .. } | Part::Held => {}
                    }
                }
                self.settle(out);
            }
            Event::Queued { part, ahead } => self.set_part(part, Part::Queued { ahead }, out),
            Event::Held(part) => self.set_part(part, Part::Held, out),
            Event::Lost(_) => self.again(out),
            Event::Refused(part) => self.refuse(Cause::Part(part), out),
            Event::Cancel => self.refuse(Cause::Cancelled, out),
            Event::Suspended(part) => {
                self.suspended.insert(part);
            }
            Event::Resumed(part) => {
                self.suspended.remove(&part);
                self.settle(out);
            }
            // Before a part is over, it is refused or lost.
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
                self.stage = Stage::Done;
                out.extend([Command::Lose, Command::End]);
            }
            Event::Over(part) => {
                self.over.insert(part);
                if self.over.len() == self.parts.len() {
                    self.stage = Stage::Done;
                    out.extend([Command::Released, Command::End]);
                }
            }
            // Holding is not cancelled; the rest belongs to the way here.
            Event::Cancel
            | Event::Start
            | Event::Ready { .. }
            | Event::Made { .. }
            | Event::Queued { .. }
            | Event::Held(_)
            | Event::Refused(_) => {}
        }
    }

    fn set_part(&mut self, part: usize, to: Part, out: &mut Vec<Command>) {
        self.parts[part] = to;
        self.settle(out);
    }

    /// Goes on when all parts have come equally far.
    fn settle(&mut self, out: &mut Vec<Command>) {
        let is_named = |part: &Part| matches!(part, Part::Ready { .. });
        let is_placed = |part: &Part| matches!(part, Part::Queued { .. } | Part::Held);
        if self.parts.iter().any(is_named) && self.parts.iter().any(is_placed) {
            self.again(out);
        } else if let Some(Part::Ready { epoch }) = self.common() {
            self.parts.fill(Part::Sent { epoch });
            out.push(Command::Submit);
        } else if self.common() == Some(Part::Held) {
            // Not while one of them is in doubt.
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

    /// How far all of them have come, if that is equally far, and in one session.
    fn common(&self) -> Option<Part> {
        self.parts.first().copied().filter(|first| self.parts.iter().all(|part| part == first))
    }

    fn again(&mut self, out: &mut Vec<Command>) {
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

    fn named(part: usize, epoch: u64) -> Event {
        Event::Ready { part, epoch }
    }

    fn queued(part: usize, ahead: usize) -> Event {
        Event::Queued { part, ahead }
    }

    fn made() -> Event {
        Event::Made { back: vec![] }
    }

    /// Two parts, whose transaction has been sent in the first session.
    fn sent() -> MultiLock {
        let mut multi = MultiLock::new(2);
        assert_eq!(on(&mut multi, Event::Start), [Command::Ask]);
        assert_eq!(on(&mut multi, named(1, 1)), []);
        assert_eq!(on(&mut multi, named(0, 1)), [Command::Submit]);
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
    fn nothing_is_granted_while_a_part_is_in_doubt() {
        let mut multi = sent();
        on(&mut multi, made());
        on(&mut multi, Event::Held(0));
        assert_eq!(on(&mut multi, Event::Suspended(0)), []);
        assert_eq!(on(&mut multi, Event::Held(1)), []);
        assert_eq!(on(&mut multi, Event::Resumed(0)), [Command::Grant]);
    }

    #[test]
    fn names_of_two_sessions_are_not_entered_together() {
        let mut multi = MultiLock::new(2);
        on(&mut multi, Event::Start);
        assert_eq!(on(&mut multi, named(0, 1)), []);
        assert_eq!(on(&mut multi, named(1, 2)), []);
        assert_eq!(on(&mut multi, named(0, 2)), [Command::Submit]);
    }

    #[test]
    fn whoever_was_failed_by_another_part_waits_for_it_under_its_name() {
        let mut multi = sent();
        // The directory of part one was missing.
        assert_eq!(on(&mut multi, Event::Made { back: vec![0] }), []);
        assert_eq!(on(&mut multi, named(1, 1)), [Command::Submit]);
    }

    #[test]
    fn an_unknown_outcome_is_found_out_by_every_path() {
        let mut carried_out = sent();
        on(&mut carried_out, made());
        on(&mut carried_out, Event::Held(1));
        assert_eq!(on(&mut carried_out, Event::Held(0)), [Command::Grant]);
        let mut not_carried_out = sent();
        on(&mut not_carried_out, made());
        on(&mut not_carried_out, named(0, 1));
        assert_eq!(on(&mut not_carried_out, named(1, 1)), [Command::Submit]);
    }

    #[test]
    fn who_must_enter_one_queue_anew_enters_all_of_them_anew() {
        for (what, event) in [("lost while waiting", named(0, 2)), ("lost while held", Event::Lost(1))] {
            let mut multi = sent();
            on(&mut multi, made());
            on(&mut multi, queued(0, 1));
            on(&mut multi, Event::Held(1));
            assert_eq!(on(&mut multi, event), AGAIN, "{what}");
            on(&mut multi, named(0, 2));
            assert_eq!(on(&mut multi, named(1, 2)), [Command::Submit], "{what}");
            on(&mut multi, made());
            on(&mut multi, queued(0, 0));
            assert_eq!(on(&mut multi, queued(1, 3)), [Command::Queued(3)], "told anew: {what}");
        }
        // While the transaction is on its way, and before anything was heard of the other.
        assert_eq!(on(&mut sent(), named(1, 2)), AGAIN);
        let mut multi = sent();
        on(&mut multi, made());
        assert_eq!(on(&mut multi, named(1, 1)), []);
        assert_eq!(on(&mut multi, queued(0, 1)), AGAIN);
    }

    #[test]
    fn one_part_that_cannot_be_had_gives_all_back_before_it_is_told() {
        let refused = |reason| [Command::GiveBack, Command::Refuse(reason), Command::End];
        for event in [named(0, 1), made(), queued(0, 1), Event::Held(0)] {
            let mut multi = sent();
            if event != named(0, 1) {
                on(&mut multi, event.clone());
            }
            let mut cancelled = multi.clone();
            assert_eq!(on(&mut multi, Event::Refused(1)), refused(Cause::Part(1)), "after {event:?}");
            assert_eq!(on(&mut cancelled, Event::Cancel), refused(Cause::Cancelled), "after {event:?}");
            assert_eq!(on(&mut multi, Event::Held(0)), [], "that is the end");
        }
    }

    #[test]
    fn a_holder_hears_the_worst_of_its_parts_and_nothing_after_a_loss() {
        let mut multi = granted();
        assert_eq!(on(&mut multi, Event::Cancel), [], "a holder is not cancelled");
        assert_eq!(on(&mut multi, Event::Suspended(0)), [Command::Suspend]);
        assert_eq!(on(&mut multi, Event::Suspended(1)), []);
        assert_eq!(on(&mut multi, Event::Resumed(0)), []);
        assert_eq!(on(&mut multi, Event::Resumed(1)), [Command::Resume]);
        assert_eq!(on(&mut multi, Event::Lost(1)), [Command::Lose, Command::End]);
        assert_eq!(on(&mut multi, Event::Lost(0)), []);
    }

    #[test]
    fn it_ends_when_nothing_more_is_heard_of_any_part() {
        let mut multi = granted();
        assert_eq!(on(&mut multi, Event::Over(1)), []);
        assert_eq!(on(&mut multi, Event::Over(1)), []);
        assert_eq!(on(&mut multi, Event::Over(0)), [Command::Released, Command::End]);
    }
}
