//! A small ZooKeeper: one lock's directory as the leader has it, and what lagging followers still show of it.

use std::collections::BTreeMap;

use lockkeeper_actors::machine::znode::{Attempt, Dialect, Instance, Mode, Znode};

/// A node's name, small enough to be copied: who made it and in which attempt, and the number it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub sequence: i32,
    pub author: u8,
    pub attempt: u8,
    /// As far as the name tells: a writer is named like a lock.
    pub mode: Mode,
}

impl Name {
    pub fn of(node: &Znode) -> Name {
        let unique = u128::from_str_radix(&node.name()[..32], 16).expect("a name of this model");
        Name {
            sequence: node.sequence() as i32,
            author: (unique >> AUTHOR_SHIFT) as u8 - 1,
            attempt: unique as u8,
            mode: node.mode().expect("a name of this model"),
        }
    }

    pub fn text(&self) -> String {
        let prefix = instance(self.author).prefix(Attempt(self.attempt.into()), Dialect::Kazoo, self.mode);
        format!("{prefix}{:010}", self.sequence)
    }

    pub fn node(&self) -> Znode {
        Znode::parse(&self.text()).expect("it ends in a number")
    }

    /// Whether a contender in this mode waits for this node when it stands ahead.
    pub fn blocks(&self, mode: Mode) -> bool {
        match mode {
            Mode::Lock | Mode::Read => self.mode != Mode::Read,
            Mode::Write => true,
            other => unreachable!("no {other:?} in this model"),
        }
    }
}

/// What a process' queue puts into the names of its nodes.
pub fn instance(author: u8) -> Instance {
    Instance::new((u128::from(author) + 1) << AUTHOR_SHIFT)
}

const AUTHOR_SHIFT: u32 = 100;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub name: Name,
    pub czxid: u8,
    /// The session that it goes with; zero for none.
    pub owner: u8,
    /// It outlives sessions, and its create was carried out after its process, in a new session, had looked for
    /// it and found nothing: the one node that may be left behind, as `LockOptions::ephemeral` says.
    pub belated: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Directory {
    pub next: i32,
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// As the leader has it.
    now: Option<Directory>,
    /// What it was before, as far back as some session may still be shown. A place in it stands for the state there,
    /// and the place after the last one for `now`.
    past: Vec<Option<Directory>>,
    /// The sessions whose follower is behind, and where in the past it is.
    behind: BTreeMap<u8, u8>,
    /// Sessions whose connection may go, and the newest state that an answer has shown to them: a reconnect leads to a
    /// server that has this one, and may have no later one. What an event told does not count.
    answered: BTreeMap<u8, u8>,
    /// Counts creates: all that matters of a transaction's id is that it grows.
    creates: u8,
}

impl Server {
    pub fn new(now: Option<Directory>) -> Server {
        Server { now, past: Vec::new(), behind: BTreeMap::new(), answered: BTreeMap::new(), creates: 0 }
    }

    // ---- at the leader ----

    pub fn nodes(&self) -> &[Node] {
        self.now.as_ref().map_or(&[], |directory| &directory.nodes)
    }

    pub fn find(&self, name: Name) -> Option<&Node> {
        self.nodes().iter().find(|node| node.name == name)
    }

    pub fn has_directory(&self) -> bool {
        self.now.is_some()
    }

    /// The node's name with its number, and its czxid; nothing without a directory.
    pub fn create(&mut self, name: Name, owner: u8, belated: bool) -> Option<(Name, u8)> {
        self.now.as_ref()?;
        self.remember();
        self.creates += 1;
        let directory = self.now.as_mut()?;
        let name = Name { sequence: directory.next, ..name };
        directory.next = directory.next.wrapping_add(1);
        directory.nodes.push(Node { name, czxid: self.creates, owner, belated });
        Some((name, self.creates))
    }

    /// Whether it was there.
    pub fn delete(&mut self, name: Name) -> bool {
        let found = self.find(name).is_some();
        if found {
            self.retain(|node| node.name != name);
        }
        found
    }

    pub fn expire(&mut self, owner: u8) {
        self.retain(|node| node.owner != owner);
        self.refresh(owner);
        self.unfollow(owner);
    }

    pub fn make_directory(&mut self) {
        if self.now.is_none() {
            self.remember();
            self.now = Some(Directory::default());
        }
    }

    pub fn remove_directory(&mut self) {
        self.remember();
        self.now = None;
    }

    fn retain(&mut self, keep: impl FnMut(&Node) -> bool) {
        self.remember();
        if let Some(directory) = &mut self.now {
            directory.nodes.retain(keep);
        }
    }

    // ---- followers ----

    /// What the follower that serves this session shows.
    pub fn seen(&self, session: u8) -> Option<&Directory> {
        match self.past.get(usize::from(self.place(session))) {
            Some(past) => past.as_ref(),
            None => self.now.as_ref(),
        }
    }

    /// Where in the past that is.
    pub fn place(&self, session: u8) -> u8 {
        self.behind.get(&session).copied().unwrap_or(self.past.len() as u8)
    }

    pub fn is_behind(&self, session: u8) -> bool {
        self.behind.contains_key(&session)
    }

    /// What follows is not learned by this session's follower for a while.
    pub fn fall_behind(&mut self, session: u8) {
        self.behind.insert(session, self.past.len() as u8);
    }

    /// The next of the transactions that it missed.
    pub fn catch_up(&mut self, session: u8) {
        if let Some(view) = self.behind.get_mut(&session) {
            *view += 1;
            if usize::from(*view) >= self.past.len() {
                self.refresh(session);
            }
        }
    }

    /// Everything that it missed, as a write or a sync of the session brings it.
    pub fn refresh(&mut self, session: u8) {
        self.behind.remove(&session);
    }

    // ---- reconnects ----

    /// From now on it counts what answers show to this session.
    pub fn follow(&mut self, session: u8) {
        self.answered.insert(session, self.place(session));
    }

    /// It will not reconnect any more.
    pub fn unfollow(&mut self, session: u8) {
        self.answered.remove(&session);
    }

    /// Its client has got an answer that shows this state.
    pub fn answered(&mut self, session: u8, place: u8) {
        if let Some(newest) = self.answered.get_mut(&session) {
            *newest = place.max(*newest);
        }
    }

    /// Where a reconnect may lead.
    pub fn servers(&self, session: u8) -> impl Iterator<Item = u8> + use<> {
        let now = self.past.len() as u8;
        self.answered.get(&session).copied().unwrap_or(now)..=now
    }

    pub fn lead(&mut self, session: u8, place: u8) {
        match usize::from(place) < self.past.len() {
            true => drop(self.behind.insert(session, place)),
            false => self.refresh(session),
        }
    }

    /// Forgets what nobody can be shown any more. Tells by how much all places have moved.
    pub fn forget(&mut self) -> u8 {
        let now = self.past.len() as u8;
        let oldest =
            self.behind.values().chain(self.answered.values()).copied().min().unwrap_or(now).min(now);
        self.past.drain(..usize::from(oldest));
        self.behind.values_mut().chain(self.answered.values_mut()).for_each(|place| *place -= oldest);
        oldest
    }

    fn remember(&mut self) {
        if !self.behind.is_empty() || !self.answered.is_empty() {
            self.past.push(self.now.clone());
        }
    }
}
