//! A small ZooKeeper: one semaphore's root and its mutex' directory, as the leader has them, and what lagging
//! followers still show.

use std::collections::BTreeMap;

/// Everything that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tree {
    pub mutex: Option<Directory>,
    pub root: Option<Root>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Directory {
    pub next: i32,
    /// In the order of their numbers.
    pub nodes: Vec<Contender>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contender {
    pub name: String,
    pub owner: u8,
    pub czxid: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Root {
    pub version: i32,
    pub limit: u32,
    /// Which transaction wrote the limit.
    pub mzxid: u8,
    /// Names, and whose.
    pub leases: BTreeMap<String, u8>,
}

/// What a watch is on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Spot {
    Contender(String),
    Limit,
    Leases,
}

impl Tree {
    pub fn contender(&self, name: &str) -> Option<&Contender> {
        self.contenders().iter().find(|node| node.name == name)
    }

    pub fn contenders(&self) -> &[Contender] {
        self.mutex.as_ref().map_or(&[], |mutex| &mutex.nodes)
    }

    pub fn leases(&self) -> impl Iterator<Item = (&String, u8)> {
        self.root.iter().flat_map(|root| root.leases.iter().map(|(name, owner)| (name, *owner)))
    }

    pub fn has(&self, name: &str) -> bool {
        self.contender(name).is_some() || self.leases().any(|(lease, _)| lease == name)
    }

    fn differs(&self, after: &Tree, spot: &Spot) -> bool {
        match spot {
            Spot::Contender(name) => self.contender(name).is_some() && after.contender(name).is_none(),
            Spot::Limit => {
                self.root.as_ref().map(|root| root.mzxid) != after.root.as_ref().map(|root| root.mzxid)
            }
            Spot::Leases => {
                self.root.as_ref().map(|root| &root.leases) != after.root.as_ref().map(|root| &root.leases)
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    now: Tree,
    /// What it was before, as far back as some session may still be shown. A place in it stands for the tree there,
    /// and the place after the last one for `now`.
    past: Vec<Tree>,
    /// The sessions whose follower is behind, and where in the past it is.
    behind: BTreeMap<u8, usize>,
    /// Sessions whose connection may go, and the newest tree that an answer has shown to them: a reconnect leads to a
    /// server that has this one, and may have no later one. What an event told does not count.
    answered: BTreeMap<u8, usize>,
    pub watches: Vec<Watch>,
    creates: u8,
    writes: u8,
}

/// Left by a session, until it is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Watch {
    pub session: u8,
    pub spot: Spot,
    /// Which survey left it.
    pub survey: u64,
    pub fired: bool,
    /// Its process knows that it is there.
    pub armed: bool,
    /// Its process has taken it back, but what it told may be on its way.
    pub stray: bool,
}

impl Watch {
    /// Whether this answer brought it, and nobody has taken it over yet.
    pub fn came_with(&self, session: u8, spot: &Spot, survey: u64) -> bool {
        self.session == session && self.spot == *spot && self.survey == survey && !self.armed && !self.stray
    }
}

impl Server {
    pub fn new(limit: Option<u32>) -> Server {
        let root = limit.map(|limit| Root { version: 0, limit, mzxid: 0, leases: BTreeMap::new() });
        let now = Tree { mutex: limit.map(|_| Directory::default()), root };
        Server {
            now,
            past: Vec::new(),
            behind: BTreeMap::new(),
            answered: BTreeMap::new(),
            watches: Vec::new(),
            creates: 0,
            writes: 0,
        }
    }

    pub fn now(&self) -> &Tree {
        &self.now
    }

    /// What the follower that serves this session shows.
    pub fn seen(&self, session: u8) -> &Tree {
        self.past.get(self.place(session)).unwrap_or(&self.now)
    }

    /// Where in the past that is.
    pub fn place(&self, session: u8) -> usize {
        self.behind.get(&session).copied().unwrap_or(self.past.len())
    }

    /// One transaction.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut Tree) -> T) -> T {
        let before = self.now.clone();
        let result = change(&mut self.now);
        if before != self.now {
            let behind = &self.behind;
            for watch in self.watches.iter_mut().filter(|watch| !behind.contains_key(&watch.session)) {
                watch.fired |= before.differs(&self.now, &watch.spot);
            }
            if !self.behind.is_empty() || !self.answered.is_empty() {
                self.past.push(before);
            }
        }
        result
    }

    /// The name with its number, and its czxid; nothing without a directory.
    pub fn enter(&mut self, prefix: &str, owner: u8) -> Option<(String, u8)> {
        let czxid = self.creates + 1;
        let made = self.change(|tree| {
            let mutex = tree.mutex.as_mut()?;
            let name = format!("{prefix}{:010}", mutex.next);
            mutex.next += 1;
            mutex.nodes.push(Contender { name: name.clone(), owner, czxid });
            Some((name, czxid))
        });
        self.creates = czxid;
        made
    }

    pub fn make_root(&mut self, limit: u32) {
        if self.now.root.is_none() {
            self.writes += 1;
            let mzxid = self.writes;
            self.change(|tree| tree.root = Some(Root { version: 0, limit, mzxid, leases: BTreeMap::new() }));
        }
    }

    pub fn resize(&mut self, limit: u32) {
        self.writes += 1;
        let mzxid = self.writes;
        self.change(|tree| {
            if let Some(root) = &mut tree.root {
                (root.limit, root.version, root.mzxid) = (limit, root.version + 1, mzxid);
            }
        });
    }

    /// Whether it was there.
    pub fn delete(&mut self, name: &str) -> bool {
        self.change(|tree| {
            let there = tree.has(name);
            if let Some(mutex) = &mut tree.mutex {
                mutex.nodes.retain(|node| node.name != name);
            }
            if let Some(root) = &mut tree.root {
                root.leases.remove(name);
            }
            there
        })
    }

    pub fn expire(&mut self, owner: u8) {
        self.refresh(owner);
        self.unfollow(owner);
        self.watches.retain(|watch| watch.session != owner);
        self.change(|tree| {
            if let Some(mutex) = &mut tree.mutex {
                mutex.nodes.retain(|node| node.owner != owner);
            }
            if let Some(root) = &mut tree.root {
                root.leases.retain(|_, whose| *whose != owner);
            }
        });
    }

    pub fn is_behind(&self, session: u8) -> bool {
        self.behind.contains_key(&session)
    }

    pub fn fall_behind(&mut self, session: u8) {
        self.behind.insert(session, self.past.len());
    }

    /// The next of the transactions that its follower missed.
    pub fn catch_up(&mut self, session: u8) {
        let Some(at) = self.behind.get(&session).copied() else { return };
        if let Some(before) = self.past.get(at) {
            let after = self.past.get(at + 1).unwrap_or(&self.now);
            for watch in self.watches.iter_mut().filter(|watch| watch.session == session) {
                watch.fired |= before.differs(after, &watch.spot);
            }
        }
        if at + 1 >= self.past.len() {
            self.behind.remove(&session);
        } else {
            self.behind.insert(session, at + 1);
        }
    }

    /// Everything that it missed, as a write or a sync of the session brings it.
    pub fn refresh(&mut self, session: u8) {
        while self.is_behind(session) {
            self.catch_up(session);
        }
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

    /// Its client has got an answer that shows this tree.
    pub fn answered(&mut self, session: u8, place: usize) {
        if let Some(newest) = self.answered.get_mut(&session) {
            *newest = place.max(*newest);
        }
    }

    /// Where a reconnect may lead.
    pub fn servers(&self, session: u8) -> impl Iterator<Item = usize> + use<> {
        self.answered.get(&session).copied().unwrap_or(self.past.len())..=self.past.len()
    }

    pub fn lead(&mut self, session: u8, place: usize) {
        if place < self.place(session) {
            self.behind.insert(session, place);
        }
        while self.is_behind(session) && self.place(session) < place {
            self.catch_up(session);
        }
        if place == self.past.len() {
            self.behind.remove(&session);
        }
    }

    /// Forgets what nobody can be shown any more. Tells by how much all places have moved.
    pub fn forget(&mut self) -> usize {
        let oldest = self.behind.values().chain(self.answered.values()).min();
        let oldest = oldest.copied().unwrap_or(self.past.len()).min(self.past.len());
        self.past.drain(..oldest);
        self.behind.values_mut().chain(self.answered.values_mut()).for_each(|place| *place -= oldest);
        oldest
    }
}
