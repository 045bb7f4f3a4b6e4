//! A small ZooKeeper: one semaphore's root and its mutex' directory.

use std::collections::BTreeMap;

use lockkeeper_actors::machine::semaphore::Part;

use crate::world::replicas::Replicas;
use crate::world::steps::Server;

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
    /// Names, and the sessions that they go with.
    pub leases: BTreeMap<String, u8>,
}

/// What a watch is on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Spot {
    Contender(String),
    Part(Part),
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
            Spot::Part(Part::Root) => {
                self.root.as_ref().map(|root| root.mzxid) != after.root.as_ref().map(|root| root.mzxid)
            }
            Spot::Part(Part::Leases) => {
                self.root.as_ref().map(|root| &root.leases) != after.root.as_ref().map(|root| &root.leases)
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SemaphoreServer {
    replicas: Replicas<Tree>,
    pub watches: Vec<Watch>,
    creates: u8,
    writes: u8,
}

/// Left by a session, until it is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Watch {
    pub session: u8,
    pub spot: Spot,
    /// Which read of the state left it; zero on a contender.
    pub read: u64,
    pub fired: bool,
    /// Its process knows that it is there.
    pub armed: bool,
    /// Its process has taken it back, but what it told may be on its way.
    pub stray: bool,
}

impl Watch {
    /// Whether this answer brought it, and the actor has not taken it over yet.
    pub fn came_with(&self, session: u8, spot: &Spot, read: u64) -> bool {
        self.session == session && self.spot == *spot && self.read == read && !self.armed && !self.stray
    }
}

impl SemaphoreServer {
    pub fn new(limit: Option<u32>) -> SemaphoreServer {
        let root = limit.map(|limit| Root { version: 0, limit, mzxid: 0, leases: BTreeMap::new() });
        let tree = Tree { mutex: limit.map(|_| Directory::default()), root };
        SemaphoreServer { replicas: Replicas::new(tree), watches: Vec::new(), creates: 0, writes: 0 }
    }

    pub fn now(&self) -> &Tree {
        self.replicas.now()
    }

    /// One transaction, if it changes anything.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut Tree) -> T) -> T {
        let mut after = self.now().clone();
        let result = change(&mut after);
        if after != *self.now() {
            let (replicas, before) = (&self.replicas, self.replicas.now());
            for watch in self.watches.iter_mut().filter(|watch| !replicas.is_behind(watch.session)) {
                watch.fired |= before.differs(&after, &watch.spot);
            }
            self.replicas.change(|tree| *tree = after);
        }
        result
    }

    /// The name with its number, and its czxid; nothing without a directory.
    pub fn create(&mut self, prefix: &str, owner: u8) -> Option<(String, u8)> {
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
        if self.now().root.is_none() {
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

    /// The session's follower learns of all that it missed, as a write or a sync of the session makes it.
    pub fn refresh(&mut self, session: u8) {
        while self.replicas.is_behind(session) {
            self.catch_up(session);
        }
    }
}

impl Server for SemaphoreServer {
    type Tree = Tree;

    fn replicas(&self) -> &Replicas<Tree> {
        &self.replicas
    }

    fn replicas_mut(&mut self) -> &mut Replicas<Tree> {
        &mut self.replicas
    }

    fn expire(&mut self, owner: u8) {
        self.refresh(owner);
        self.let_go(owner);
        self.change(|tree| {
            if let Some(mutex) = &mut tree.mutex {
                mutex.nodes.retain(|node| node.owner != owner);
            }
            if let Some(root) = &mut tree.root {
                root.leases.retain(|_, whose| *whose != owner);
            }
        });
    }

    fn let_go(&mut self, session: u8) {
        self.replicas.unfollow(session);
        self.watches.retain(|watch| watch.session != session);
    }

    fn catch_up(&mut self, session: u8) {
        let place = self.replicas.place(session);
        let (before, after) = (self.replicas.at(place), self.replicas.at(place + 1));
        for watch in self.watches.iter_mut().filter(|watch| watch.session == session) {
            watch.fired |= before.differs(after, &watch.spot);
        }
        self.replicas.catch_up(session);
    }

    fn lead(&mut self, session: u8, place: usize) {
        while self.replicas.is_behind(session) && self.replicas.place(session) < place {
            self.catch_up(session);
        }
        self.replicas.lead(session, place);
    }
}
