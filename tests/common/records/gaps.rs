//! The times in which a process has recorded nothing.

use std::time::Duration;

use lockkeeper_actors::machine::Moment;

/// How late a process may be on a busy machine. Where it records nothing for longer, it may have been stopped.
const LATENESS: Duration = Duration::from_millis(250);

/// The long gaps between the steps of a record.
#[derive(Default)]
pub(super) struct Gaps {
    last: Option<Moment>,
    /// In order.
    gaps: Vec<(Moment, Moment)>,
}

impl Gaps {
    pub fn step(&mut self, at: Moment) {
        if let Some(last) = self.last.filter(|last| at.since(*last) > LATENESS) {
            self.gaps.push((last, at));
        }
        self.last = self.last.max(Some(at));
    }

    /// When something must have been done that was due at this moment.
    pub fn latest(&self, due: Moment) -> Moment {
        let mut latest = due + LATENESS;
        for (begin, end) in &self.gaps {
            if *begin <= latest && latest < *end {
                latest = *end + LATENESS;
            }
        }
        latest
    }
}
