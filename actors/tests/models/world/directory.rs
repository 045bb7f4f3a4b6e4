//! A small ZooKeeper: the directory of one path, and the nodes of its contenders.

use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
use lockkeeper_actors::machine::node::{Attempt, Instance, Znode};

use super::replicas::Replicas;
use super::steps::Server;

/// A node's name, small enough to be copied: who made it and in which attempt, and the number it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub sequence: i32,
    pub author: u8,
    pub attempt: u8,
    /// As far as the name tells: a writer is named like a lock.
    pub mode: Mode,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub name: Name,
    pub czxid: u8,
    /// The session that it goes with; zero for none.
    pub owner: u8,
    /// It outlives sessions, and its create was carried out after its process, in a new session, had searched
    /// for it and found nothing: the one node that may be left behind, as `LockOptions::ephemeral` says.
    pub belated: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Directory {
    pub next: i32,
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathServer {
    replicas: Replicas<Option<Directory>>,
    /// Counts creates: all that matters of a transaction's id is that it grows.
    creates: u8,
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
        mode == Mode::Write || self.mode != Mode::Read
    }
}

/// What a process puts into the names of its nodes.
pub fn instance(author: u8) -> Instance {
    Instance::new((u128::from(author) + 1) << AUTHOR_SHIFT)
}

const AUTHOR_SHIFT: u32 = 100;

impl PathServer {
    pub fn new(now: Option<Directory>) -> PathServer {
        PathServer { replicas: Replicas::new(now), creates: 0 }
    }

    pub fn nodes(&self) -> &[Node] {
        self.replicas.now().as_ref().map_or(&[], |directory| &directory.nodes)
    }

    pub fn find(&self, name: Name) -> Option<&Node> {
        self.nodes().iter().find(|node| node.name == name)
    }

    pub fn has_directory(&self) -> bool {
        self.replicas.now().is_some()
    }

    /// The node's name with its number, and its czxid; nothing without a directory.
    pub fn create(&mut self, name: Name, owner: u8, belated: bool) -> Option<(Name, u8)> {
        self.replicas.now().as_ref()?;
        self.creates += 1;
        let czxid = self.creates;
        self.replicas.change(|directory| {
            let directory = directory.as_mut()?;
            let name = Name { sequence: directory.next, ..name };
            directory.next = directory.next.wrapping_add(1);
            directory.nodes.push(Node { name, czxid, owner, belated });
            Some((name, czxid))
        })
    }

    /// Whether it was there.
    pub fn delete(&mut self, name: Name) -> bool {
        let found = self.find(name).is_some();
        if found {
            self.retain(|node| node.name != name);
        }
        found
    }

    pub fn make_directory(&mut self) {
        if !self.has_directory() {
            self.replicas.change(|directory| *directory = Some(Directory::default()));
        }
    }

    pub fn remove_directory(&mut self) {
        self.replicas.change(|directory| *directory = None);
    }

    fn retain(&mut self, keep: impl FnMut(&Node) -> bool) {
        self.replicas.change(|directory| {
            if let Some(directory) = directory {
                directory.nodes.retain(keep);
            }
        });
    }
}

impl Server for PathServer {
    type Tree = Option<Directory>;

    fn replicas(&self) -> &Replicas<Option<Directory>> {
        &self.replicas
    }

    fn replicas_mut(&mut self) -> &mut Replicas<Option<Directory>> {
        &mut self.replicas
    }

    fn expire(&mut self, owner: u8) {
        self.retain(|node| node.owner != owner);
        self.replicas.refresh(owner);
        self.replicas.unfollow(owner);
    }
}
