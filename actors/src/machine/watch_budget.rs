//! The budget of watches: which session sets a watch, and how many spare sessions there are.
//!
//! A client that resumes a session sends all watched paths in one request, so one session can only watch paths up to a
//! certain size. What does not fit into the main session goes to spare sessions, which do nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Moment;
use super::backoff::Backoff;

/// The sizes of the watched paths of a main session and of its spare sessions, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBudget {
    /// The room of one session.
    room: usize,
    main: usize,
    spares: BTreeMap<u64, usize>,
    /// The number of the next spare session.
    next: u64,
    /// The number of spare sessions that have ended since one was last established.
    failures: u32,
    /// No spare session is opened before this.
    not_before: Moment,
}

/// The session that sets a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The session that holds the locks.
    Main,
    /// The spare session of this number. A number that was not returned before asks for a new session.
    Spare(u64),
}

impl WatchBudget {
    /// A budget without spare sessions.
    pub fn new(room: usize) -> WatchBudget {
        WatchBudget {
            room,
            main: 0,
            spares: BTreeMap::new(),
            next: 0,
            failures: 0,
            not_before: Moment::default(),
        }
    }

    /// A budget whose main session sets no watches.
    pub fn without_main(room: usize) -> WatchBudget {
        WatchBudget { main: room, ..WatchBudget::new(room) }
    }

    /// Reserves room for a watch, in the first session that has enough. `None` if there is none and none can be opened
    /// now.
    pub fn reserve(&mut self, bytes: usize, now: Moment) -> Option<Place> {
        let fits = |used: usize| used.checked_add(bytes).is_some_and(|used| used <= self.room);
        if fits(self.main) {
            self.main += bytes;
            return Some(Place::Main);
        }
        let number = match self.spares.iter().find(|(_, used)| fits(**used)) {
            Some((number, _)) => *number,
            None if fits(0) && self.spares.len() < MOST_SPARES && now >= self.not_before => {
                self.next += 1;
                self.next
            }
            None => return None,
        };
        *self.spares.entry(number).or_default() += bytes;
        Some(Place::Spare(number))
    }

    /// Frees the room of a watch. Returns the spare sessions that are no longer needed, for the caller to close: those
    /// without watches, while the other sessions have room for half a session's watches. So a number of watches that
    /// goes up and down a little closes none.
    pub fn free(&mut self, place: Place, bytes: usize) -> Vec<u64> {
        match place {
            Place::Main => self.main -= bytes,
            // It may have ended.
            Place::Spare(number) => drop(self.spares.entry(number).and_modify(|used| *used -= bytes)),
        }
        let mut closed = Vec::new();
        while let Some(number) = self.dispensable() {
            self.spares.remove(&number);
            closed.push(number);
        }
        closed
    }

    /// Notes that a spare session was established.
    pub fn established(&mut self) {
        self.failures = 0;
    }

    /// Notes that a spare session has ended, or could not be established. The next one is opened after a pause.
    pub fn ended(&mut self, number: u64, now: Moment, random: u128) {
        if self.spares.remove(&number).is_some() {
            self.not_before = now + BETWEEN_FAILURES.rest(self.failures, random);
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn dispensable(&self) -> Option<u64> {
        let (number, _) = self.spares.iter().rev().find(|(_, used)| **used == 0)?;
        let others = self.spares.iter().filter(|(other, _)| *other != number).map(|(_, used)| *used);
        let free: usize = others.chain([self.main]).map(|used| self.room - used).sum();
        (free >= self.room / 2).then_some(*number)
    }
}

/// The maximum number of spare sessions. A server accepts 60 connections from one address, unless configured
/// otherwise.
const MOST_SPARES: usize = 32;

/// The pauses before a spare session is opened, after some that ended or could not be opened.
const BETWEEN_FAILURES: Backoff =
    Backoff { initial: Duration::from_secs(1), maximum: Duration::from_secs(60) };

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1);

    fn reserved(budget: &mut WatchBudget, watches: usize) -> Vec<Option<Place>> {
        (0..watches).map(|_| budget.reserve(10, NOW)).collect()
    }

    #[test]
    fn the_main_session_is_filled_first_then_one_spare_after_the_other() {
        let (mut budget, main) = (WatchBudget::new(25), Some(Place::Main));
        let (first, second) = (Some(Place::Spare(1)), Some(Place::Spare(2)));
        assert_eq!(reserved(&mut budget, 6), [main, main, first, first, second, second]);
        assert!(budget.free(Place::Spare(1), 10).is_empty());
        assert!(budget.free(Place::Main, 10).is_empty());
        assert_eq!(reserved(&mut budget, 3), [main, first, Some(Place::Spare(3))]);
        assert_eq!(budget.reserve(5, NOW), main);
    }

    #[test]
    fn without_a_main_session_all_watches_are_set_by_spares() {
        let (mut budget, first) = (WatchBudget::without_main(25), Some(Place::Spare(1)));
        assert_eq!(reserved(&mut budget, 3), [first, first, Some(Place::Spare(2))]);
        assert_eq!(budget.free(Place::Spare(2), 10), []);
        assert_eq!(budget.free(Place::Spare(1), 10), [2], "the other one has room");
    }

    #[test]
    fn a_path_that_is_longer_than_the_room_opens_no_session() {
        let mut budget = WatchBudget::new(25);
        assert_eq!(budget.reserve(26, NOW), None);
        assert_eq!(budget.reserve(usize::MAX, NOW), None);
        assert_eq!(budget, WatchBudget::new(25));
    }

    #[test]
    fn the_number_of_spare_sessions_is_limited() {
        let mut budget = WatchBudget::new(10);
        let places = reserved(&mut budget, 2 + MOST_SPARES);
        assert_eq!(places.iter().flatten().count(), 1 + MOST_SPARES);
        budget.free(Place::Spare(7), 10);
        assert_eq!(budget.reserve(10, NOW), Some(Place::Spare(7)));
    }

    #[test]
    fn a_watch_that_comes_and_goes_opens_and_closes_no_sessions() {
        let mut budget = WatchBudget::new(100);
        assert_eq!(reserved(&mut budget, 11).last(), Some(&Some(Place::Spare(1))));
        for _ in 0..4 {
            assert!(budget.free(Place::Spare(1), 10).is_empty());
            assert_eq!(budget.reserve(10, NOW), Some(Place::Spare(1)));
        }
        assert!(budget.free(Place::Spare(1), 10).is_empty());
        for _ in 0..4 {
            assert!(budget.free(Place::Main, 10).is_empty());
        }
        assert_eq!(budget.free(Place::Main, 10), [1], "half of the main session's room is free");
    }

    #[test]
    fn all_empty_spares_are_closed_but_none_with_a_watch() {
        let mut budget = WatchBudget::new(10);
        reserved(&mut budget, 5);
        let closed: Vec<_> =
            [1, 2, 4].into_iter().flat_map(|spare| budget.free(Place::Spare(spare), 10)).collect();
        assert_eq!(closed, [2, 4], "the first stays, empty, for the next watch");
        assert_eq!(budget.free(Place::Main, 10), [1]);
        assert_eq!(budget.free(Place::Spare(3), 10), [3]);
        assert_eq!(budget, WatchBudget { next: 4, ..WatchBudget::new(10) });
    }

    #[test]
    fn after_a_failure_the_next_spare_waits_longer_each_time() {
        let (mut budget, mut now) = (WatchBudget::new(10), NOW);
        reserved(&mut budget, 1);
        let mut failed = |budget: &mut WatchBudget| {
            let Some(Place::Spare(number)) = budget.reserve(10, now) else { panic!("it may be opened") };
            budget.ended(number, now, u32::MAX.into());
            budget.free(Place::Spare(number), 10);
            let begun = now;
            while budget.reserve(0, now) != Some(Place::Main) || budget.clone().reserve(10, now).is_none() {
                now = now + Duration::from_millis(250);
            }
            now.since(begun).as_secs()
        };
        assert_eq!([(); 8].map(|()| failed(&mut budget)), [1, 2, 4, 8, 16, 32, 60, 60]);
        budget.established();
        assert_eq!(failed(&mut budget), 1);
    }
}
