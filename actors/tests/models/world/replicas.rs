//! What a server has, and what lagging followers still show of it.

use std::collections::BTreeMap;

use super::Data;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replicas<T> {
    /// As the leader has it.
    now: T,
    /// What it was before, as far back as some session may still be shown. A place in it stands for the state there,
    /// and the place after the last one for `now`.
    past: Vec<T>,
    /// The sessions whose follower is behind, and where in the past it is.
    behind: BTreeMap<u8, usize>,
    /// Sessions whose connection may go, and the newest state that an answer has shown to them: a reconnect leads to a
    /// server that has this one, and may have no later one. What an event told does not count.
    answered: BTreeMap<u8, usize>,
}

impl<T: Data> Replicas<T> {
    pub fn new(now: T) -> Replicas<T> {
        Replicas { now, past: Vec::new(), behind: BTreeMap::new(), answered: BTreeMap::new() }
    }

    pub fn now(&self) -> &T {
        &self.now
    }

    /// One transaction.
    pub fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        if !self.behind.is_empty() || !self.answered.is_empty() {
            self.past.push(self.now.clone());
        }
        change(&mut self.now)
    }

    // ---- followers ----

    /// What the follower that serves this session shows.
    pub fn seen(&self, session: u8) -> &T {
        self.at(self.place(session))
    }

    /// Where in the past that is.
    pub fn place(&self, session: u8) -> usize {
        self.behind.get(&session).copied().unwrap_or(self.past.len())
    }

    pub fn at(&self, place: usize) -> &T {
        self.past.get(place).unwrap_or(&self.now)
    }

    pub fn is_behind(&self, session: u8) -> bool {
        self.behind.contains_key(&session)
    }

    /// This session's follower learns of later transactions with a delay.
    pub fn fall_behind(&mut self, session: u8) {
        self.behind.insert(session, self.past.len());
    }

    /// The follower learns of the next of the transactions that it missed.
    pub fn catch_up(&mut self, session: u8) {
        if let Some(place) = self.behind.get(&session).copied() {
            self.lead(session, place + 1);
        }
    }

    /// The follower learns of all that it missed, as a write or a sync of the session makes it.
    pub fn refresh(&mut self, session: u8) {
        self.behind.remove(&session);
    }

    // ---- reconnects ----

    /// From now on it counts what answers show to this session.
    pub fn follow(&mut self, session: u8) {
        self.answered.insert(session, self.place(session));
    }

    /// The session does not reconnect any more.
    pub fn unfollow(&mut self, session: u8) {
        self.answered.remove(&session);
    }

    /// The session's client has got an answer that shows this state.
    pub fn answered(&mut self, session: u8, place: usize) {
        if let Some(newest) = self.answered.get_mut(&session) {
            *newest = place.max(*newest);
        }
    }

    /// Where a reconnect may lead.
    pub fn servers(&self, session: u8) -> impl Iterator<Item = usize> + use<T> {
        let now = self.past.len();
        self.answered.get(&session).copied().unwrap_or(now)..=now
    }

    /// The session is served by a follower that has this state.
    pub fn lead(&mut self, session: u8, place: usize) {
        match place < self.past.len() {
            true => drop(self.behind.insert(session, place)),
            false => self.refresh(session),
        }
    }

    /// Forgets what can no longer be shown to any session. Tells by how much all places have moved.
    pub fn forget(&mut self) -> usize {
        let (now, kept) = (self.past.len(), self.behind.values().chain(self.answered.values()));
        let oldest = kept.copied().min().unwrap_or(now).min(now);
        self.past.drain(..oldest);
        self.behind.values_mut().chain(self.answered.values_mut()).for_each(|place| *place -= oldest);
        oldest
    }
}
