//! The nodes, and the arithmetic of their stats (`DataTree`, `DataNode`). Permissions and rules are the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::SessionId;
use super::acl;
use crate::wire::{Acl, Data, Stat};

/// All nodes by path.
pub(super) struct Tree {
    nodes: BTreeMap<Arc<str>, Node>,
    ephemerals: BTreeMap<SessionId, BTreeSet<Arc<str>>>,
    /// The containers and nodes with a time to live that have an end, by that end in milliseconds since the epoch.
    ends: BTreeSet<(i64, Arc<str>)>,
    /// How long a container stays that has become empty, in milliseconds.
    container_life: i64,
    /// The lengths of all paths and contents.
    size: usize,
}

pub(super) struct Node {
    pub data: Data,
    pub acl: Arc<[Acl]>,
    pub owner: Owner,
    pub version: i32,
    /// How many children were ever created: the next sequence number. Clients see another number, see `stat`.
    pub creations: i32,
    aversion: i32,
    czxid: i64,
    mzxid: i64,
    pzxid: i64,
    ctime: i64,
    mtime: i64,
    /// When its last child went, in milliseconds since the epoch.
    emptied: i64,
    /// Its entry in the tree's `ends`.
    end: Option<i64>,
    children: BTreeSet<Arc<str>>,
}

/// What a node's life depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    Session(SessionId),
    /// Goes some time after its last child.
    Container,
    /// Goes when it has no children, and has had no write for more than so many milliseconds.
    Ttl(i64),
}

/// How to take a change back, when a later operation of the same multi fails.
pub(super) enum Undo {
    Create { path: Arc<str>, parent_pzxid: i64 },
    Delete { path: Arc<str>, node: Box<Node>, parent_pzxid: i64 },
    Set { path: Arc<str>, data: Data, version: i32, mzxid: i64, mtime: i64 },
    Nothing,
}

/// When a change happens, by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    pub zxid: i64,
    /// Milliseconds since the Unix epoch.
    pub time: i64,
}

/// The longest time to live: what the real server finds room for in the number of a node's owner.
pub(super) const MAX_TTL: i64 = 0xff_ffff_ffff;

impl Tree {
    /// The tree every server starts with.
    pub fn new(container_life: Duration) -> Tree {
        let mut tree = Tree {
            nodes: BTreeMap::new(),
            ephemerals: BTreeMap::new(),
            ends: BTreeSet::new(),
            container_life: i64::try_from(container_life.as_millis()).unwrap_or(i64::MAX),
            size: 0,
        };
        for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"] {
            tree.size += path.len();
            let node = Node::new(Some(Arc::from([])), acl::open(), Owner::Nobody, Stamp { zxid: 0, time: 0 });
            tree.nodes.insert(path.into(), node);
        }
        tree.adopt("/", "zookeeper");
        tree.adopt("/zookeeper", "quota");
        tree.adopt("/zookeeper", "config");
        if let Some(config) = tree.nodes.get_mut("/zookeeper/config") {
            config.acl = acl::read_only();
            config.aversion = -1;
        }
        tree
    }

    /// The node at a path. `""` is the root as well.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(if path.is_empty() { "/" } else { path })
    }

    fn get_mut(&mut self, path: &str) -> Option<&mut Node> {
        self.nodes.get_mut(if path.is_empty() { "/" } else { path })
    }

    /// Puts a node where none is, under a parent that is there.
    pub fn create(&mut self, parent: &str, name: &str, node: Node) -> Undo {
        let path: Arc<str> = format!("{parent}/{name}").into();
        let zxid = node.czxid;
        self.insert(&path, node);
        let Some(above) = self.get_mut(parent) else { return Undo::Nothing };
        above.children.insert(name.into());
        above.creations = above.creations.wrapping_add(1);
        let parent_pzxid = std::mem::replace(&mut above.pzxid, zxid);
        self.schedule(parent);
        Undo::Create { path, parent_pzxid }
    }

    /// Takes a node away that is there and has no children.
    pub fn delete(&mut self, parent: &str, name: &str, at: Stamp) -> Undo {
        let Some((path, node)) = self.remove(&format!("{parent}/{name}")) else { return Undo::Nothing };
        let Some(above) = self.get_mut(parent) else { return Undo::Nothing };
        above.children.remove(name);
        let parent_pzxid = above.pzxid;
        above.pzxid = at.zxid.max(parent_pzxid);
        above.emptied = at.time;
        self.schedule(parent);
        Undo::Delete { path, node: Box::new(node), parent_pzxid }
    }

    /// Replaces a node's content.
    pub fn set_data(&mut self, path: &str, data: Data, version: i32, at: Stamp) -> Undo {
        let Some(node) = self.nodes.get_mut(path) else { return Undo::Nothing };
        self.size = self.size + length(&data) - length(&node.data);
        let undo = Undo::Set {
            path: path.into(),
            data: std::mem::replace(&mut node.data, data),
            version: std::mem::replace(&mut node.version, version),
            mzxid: std::mem::replace(&mut node.mzxid, at.zxid),
            mtime: std::mem::replace(&mut node.mtime, at.time),
        };
        self.schedule(path);
        undo
    }

    /// Replaces a node's access control list.
    pub fn set_acl(&mut self, path: &str, acl: Arc<[Acl]>, aversion: i32) {
        if let Some(node) = self.nodes.get_mut(path) {
            node.acl = acl;
            node.aversion = aversion;
        }
    }

    /// Takes a change back. Changes are taken back in the reverse of their order.
    pub fn undo(&mut self, change: Undo) {
        match change {
            Undo::Create { path, parent_pzxid } => {
                self.remove(&path);
                let Some((parent, name)) = path.rsplit_once('/') else { return };
                let Some(above) = self.get_mut(parent) else { return };
                above.children.remove(name);
                above.creations = above.creations.wrapping_sub(1);
                above.pzxid = parent_pzxid;
                self.schedule(parent);
            }
            Undo::Delete { path, node, parent_pzxid } => {
                self.insert(&path, *node);
                let Some((parent, name)) = path.rsplit_once('/') else { return };
                let Some(above) = self.get_mut(parent) else { return };
                above.children.insert(name.into());
                above.pzxid = parent_pzxid;
                self.schedule(parent);
            }
            Undo::Set { path, data, version, mzxid, mtime } => {
                self.set_data(&path, data, version, Stamp { zxid: mzxid, time: mtime });
            }
            Undo::Nothing => {}
        }
    }

    /// The ephemeral nodes of a session, in order.
    pub fn ephemerals(&self, session: SessionId) -> impl Iterator<Item = &Arc<str>> {
        self.ephemerals.get(&session).into_iter().flatten()
    }

    /// The sessions that have ephemeral nodes.
    pub fn owners(&self) -> impl Iterator<Item = (SessionId, &BTreeSet<Arc<str>>)> {
        self.ephemerals.iter().map(|(session, paths)| (*session, paths))
    }

    /// When the next container or node with a time to live ends, in milliseconds since the epoch.
    pub fn next_end(&self) -> Option<i64> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// A container or node with a time to live whose end has come, `time` being milliseconds since the epoch.
    pub fn ended(&self, time: i64) -> Option<Arc<str>> {
        self.ends.first().filter(|(end, _)| *end <= time).map(|(_, path)| Arc::clone(path))
    }

    /// How many nodes stand below a path.
    pub fn descendants(&self, path: &str) -> usize {
        match path {
            // The real server counts the root among the descendants of its other name.
            "" => self.nodes.len(),
            "/" => self.nodes.len() - 1,
            _ => {
                let prefix = format!("{path}/");
                let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
                self.nodes.range::<str, _>(from).take_while(|(path, _)| path.starts_with(&prefix)).count()
            }
        }
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many nodes belong to sessions.
    pub fn ephemeral_count(&self) -> usize {
        self.ephemerals.values().map(BTreeSet::len).sum()
    }

    /// The lengths of all paths and contents.
    pub fn size(&self) -> usize {
        self.size
    }

    fn adopt(&mut self, parent: &str, name: &str) {
        if let Some(node) = self.nodes.get_mut(parent) {
            node.children.insert(name.into());
        }
    }

    fn insert(&mut self, path: &Arc<str>, node: Node) {
        self.size += path.len() + length(&node.data);
        match node.owner {
            Owner::Nobody | Owner::Container | Owner::Ttl(_) => {}
            Owner::Session(session) => {
                self.ephemerals.entry(session).or_default().insert(Arc::clone(path));
            }
        }
        self.nodes.insert(Arc::clone(path), node);
        self.schedule(path);
    }

    fn remove(&mut self, path: &str) -> Option<(Arc<str>, Node)> {
        let (path, mut node) = self.nodes.remove_entry(path)?;
        if let Some(end) = node.end.take() {
            self.ends.remove(&(end, Arc::clone(&path)));
        }
        self.size -= path.len() + length(&node.data);
        match node.owner {
            Owner::Nobody | Owner::Container | Owner::Ttl(_) => {}
            Owner::Session(session) => {
                if let Some(paths) = self.ephemerals.get_mut(&session) {
                    paths.remove(&path);
                    if paths.is_empty() {
                        self.ephemerals.remove(&session);
                    }
                }
            }
        }
        Some((path, node))
    }

    /// Notes when a node ends by itself, after a change on which that depends.
    fn schedule(&mut self, path: &str) {
        let container_life = self.container_life;
        let Some(node) = self.get_mut(path) else { return };
        let end = node.ends_at(container_life);
        let before = std::mem::replace(&mut node.end, end);
        if before == end {
            return;
        }
        if let Some(before) = before {
            self.ends.remove(&(before, path.into()));
        }
        if let Some(end) = end {
            self.ends.insert((end, path.into()));
        }
    }
}

impl Node {
    pub fn new(data: Data, acl: Arc<[Acl]>, owner: Owner, at: Stamp) -> Node {
        Node {
            data,
            acl,
            owner,
            version: 0,
            creations: 0,
            aversion: 0,
            czxid: at.zxid,
            mzxid: at.zxid,
            pzxid: at.zxid,
            ctime: at.time,
            mtime: at.time,
            emptied: at.time,
            end: None,
            children: BTreeSet::new(),
        }
    }

    fn ends_at(&self, container_life: i64) -> Option<i64> {
        match self.owner {
            _ if self.has_children() => None,
            // A container that has not been used yet stays.
            Owner::Container => (self.creations > 0).then(|| self.emptied.saturating_add(container_life)),
            Owner::Ttl(ttl) => Some(self.mtime.saturating_add(ttl).saturating_add(1)),
            Owner::Nobody | Owner::Session(_) => None,
        }
    }

    pub fn has_children(&self) -> bool {
        !self.children.is_empty()
    }

    pub fn children(&self) -> Vec<Arc<str>> {
        self.children.iter().cloned().collect()
    }

    pub fn aversion(&self) -> i32 {
        self.aversion
    }

    pub fn mzxid(&self) -> i64 {
        self.mzxid
    }

    pub fn pzxid(&self) -> i64 {
        self.pzxid
    }

    pub fn stat(&self) -> Stat {
        let num_children = i32::try_from(self.children.len()).unwrap_or(i32::MAX);
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            ctime: self.ctime,
            mtime: self.mtime,
            version: self.version,
            // Clients count changes, creations and deletions: each child that was created and is not there any
            // more was deleted. (The children that stand there from the start were never created, so it can be
            // negative.)
            cversion: self.creations.wrapping_mul(2).wrapping_sub(num_children),
            aversion: self.aversion,
            ephemeral_owner: self.owner.as_number(),
            data_length: i32::try_from(length(&self.data)).unwrap_or(i32::MAX),
            num_children,
            pzxid: self.pzxid,
        }
    }
}

impl Owner {
    /// As clients see it. Inside, the real server has numbers for the others as well; it shows none of them.
    fn as_number(self) -> i64 {
        match self {
            Owner::Session(session) => session.0,
            Owner::Nobody | Owner::Container | Owner::Ttl(_) => 0,
        }
    }
}

fn length(data: &Data) -> usize {
    data.as_ref().map_or(0, |bytes| bytes.len())
}
