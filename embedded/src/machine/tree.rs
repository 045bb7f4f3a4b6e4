//! The nodes and their stats (`DataTree` and `DataNode` in the real server). The caller checks permissions and the
//! validity of requests.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::SessionId;
use super::acl;
use crate::wire::{Acl, Data, Stat};

/// The tree of nodes.
pub(super) struct Tree {
    nodes: BTreeMap<Arc<str>, Node>,
    ephemerals: BTreeMap<SessionId, BTreeSet<Arc<str>>>,
    /// The container and TTL nodes that are going to expire, by their expiry time in milliseconds since the Unix epoch.
    by_expiry: BTreeSet<(i64, Arc<str>)>,
    /// How long after its last child was deleted a container is deleted, in milliseconds.
    container_life: i64,
    /// The total length of all paths and data.
    size: usize,
}

pub(super) struct Node {
    pub data: Data,
    pub acl: Arc<[Acl]>,
    pub owner: Owner,
    pub version: i32,
    /// How many children were ever created. This is the next sequence number. Clients see a different number as
    /// `cversion`, see `stat`.
    pub creations: i32,
    aversion: i32,
    czxid: i64,
    mzxid: i64,
    pzxid: i64,
    ctime: i64,
    mtime: i64,
    /// When a child was last deleted, or else when the node was created, in milliseconds since the Unix epoch.
    last_child_deleted: i64,
    /// When the node expires, in milliseconds since the Unix epoch, if it is going to.
    expires_at: Option<i64>,
    children: BTreeSet<Arc<str>>,
}

/// What determines when a node is deleted, other than a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    /// An ephemeral node, deleted when the session ends.
    Session(SessionId),
    /// Deleted some time after its last child.
    Container,
    /// Deleted when it has no children and was not written for longer than this many milliseconds.
    Ttl(i64),
}

/// How to undo a change when a later operation of the same multi fails.
pub(super) enum Undo {
    Create { path: Arc<str>, parent_pzxid: i64 },
    Delete { path: Arc<str>, node: Box<Node>, parent_pzxid: i64 },
    Set { path: Arc<str>, data: Data, version: i32, mzxid: i64, mtime: i64 },
    Nothing,
}

/// The transaction id and the time of a change.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    pub zxid: i64,
    /// Milliseconds since the Unix epoch.
    pub time: i64,
}

/// The longest TTL. The real server stores the TTL in the owner's id, which has only this many bits to spare.
pub(super) const MAX_TTL: i64 = 0xff_ffff_ffff;

impl Tree {
    /// Creates a tree with the initial nodes.
    pub fn new(container_life: Duration) -> Tree {
        let mut tree = Tree {
            nodes: BTreeMap::new(),
            ephemerals: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            container_life: i64::try_from(container_life.as_millis()).unwrap_or(i64::MAX),
            size: 0,
        };
        for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"] {
            tree.size += path.len();
            let node = Node::new(Some(Arc::from([])), acl::open(), Owner::Nobody, Stamp { zxid: 0, time: 0 });
            tree.nodes.insert(path.into(), node);
        }
        tree.add_child("/", "zookeeper");
        tree.add_child("/zookeeper", "quota");
        tree.add_child("/zookeeper", "config");
        if let Some(config) = tree.nodes.get_mut("/zookeeper/config") {
            config.acl = acl::read_only();
            config.aversion = -1;
        }
        tree
    }

    /// The node at a path. The root is both `"/"` and `""`.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(if path.is_empty() { "/" } else { path })
    }

    fn get_mut(&mut self, path: &str) -> Option<&mut Node> {
        self.nodes.get_mut(if path.is_empty() { "/" } else { path })
    }

    /// Creates a node. The parent must exist and the node must not.
    pub fn create(&mut self, parent: &str, name: &str, node: Node) -> Undo {
        let path: Arc<str> = format!("{parent}/{name}").into();
        let zxid = node.czxid;
        self.insert(&path, node);
        let Some(parent_node) = self.get_mut(parent) else { return Undo::Nothing };
        parent_node.children.insert(name.into());
        parent_node.creations = parent_node.creations.wrapping_add(1);
        let parent_pzxid = std::mem::replace(&mut parent_node.pzxid, zxid);
        self.schedule(parent);
        Undo::Create { path, parent_pzxid }
    }

    /// Deletes a node. It must exist and have no children.
    pub fn delete(&mut self, parent: &str, name: &str, at: Stamp) -> Undo {
        let Some((path, node)) = self.remove(&format!("{parent}/{name}")) else { return Undo::Nothing };
        let Some(parent_node) = self.get_mut(parent) else { return Undo::Nothing };
        parent_node.children.remove(name);
        let parent_pzxid = parent_node.pzxid;
        parent_node.pzxid = at.zxid.max(parent_pzxid);
        parent_node.last_child_deleted = at.time;
        self.schedule(parent);
        Undo::Delete { path, node: Box::new(node), parent_pzxid }
    }

    /// Replaces a node's data.
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

    /// Undoes a change. Several changes must be undone in reverse order.
    pub fn undo(&mut self, change: Undo) {
        match change {
            Undo::Create { path, parent_pzxid } => {
                self.remove(&path);
                let Some((parent, name)) = path.rsplit_once('/') else { return };
                let Some(parent_node) = self.get_mut(parent) else { return };
                parent_node.children.remove(name);
                parent_node.creations = parent_node.creations.wrapping_sub(1);
                parent_node.pzxid = parent_pzxid;
                self.schedule(parent);
            }
            Undo::Delete { path, node, parent_pzxid } => {
                self.insert(&path, *node);
                let Some((parent, name)) = path.rsplit_once('/') else { return };
                let Some(parent_node) = self.get_mut(parent) else { return };
                parent_node.children.insert(name.into());
                parent_node.pzxid = parent_pzxid;
                self.schedule(parent);
            }
            Undo::Set { path, data, version, mzxid, mtime } => {
                self.set_data(&path, data, version, Stamp { zxid: mzxid, time: mtime });
            }
            Undo::Nothing => {}
        }
    }

    /// The paths of a session's ephemeral nodes, sorted.
    pub fn ephemerals(&self, session: SessionId) -> impl Iterator<Item = &Arc<str>> {
        self.ephemerals.get(&session).into_iter().flatten()
    }

    /// The sessions that have ephemeral nodes, with the paths of these nodes.
    pub fn owners(&self) -> impl Iterator<Item = (SessionId, &BTreeSet<Arc<str>>)> {
        self.ephemerals.iter().map(|(session, paths)| (*session, paths))
    }

    /// When the next container or TTL node expires, in milliseconds since the Unix epoch.
    pub fn next_expiry(&self) -> Option<i64> {
        self.by_expiry.first().map(|(expires_at, _)| *expires_at)
    }

    /// A container or TTL node that has expired at `time`, in milliseconds since the Unix epoch.
    pub fn expired(&self, time: i64) -> Option<Arc<str>> {
        self.by_expiry.first().filter(|(expires_at, _)| *expires_at <= time).map(|(_, path)| Arc::clone(path))
    }

    /// The number of nodes below a path.
    pub fn descendants(&self, path: &str) -> usize {
        match path {
            // The real server counts the root `"/"` as a descendant of `""`.
            "" => self.nodes.len(),
            "/" => self.nodes.len() - 1,
            _ => {
                let prefix = format!("{path}/");
                let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
                self.nodes.range::<str, _>(from).take_while(|(path, _)| path.starts_with(&prefix)).count()
            }
        }
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The number of ephemeral nodes.
    pub fn ephemeral_count(&self) -> usize {
        self.ephemerals.values().map(BTreeSet::len).sum()
    }

    /// The total length of all paths and data.
    pub fn size(&self) -> usize {
        self.size
    }

    fn add_child(&mut self, parent: &str, name: &str) {
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
        if let Some(expires_at) = node.expires_at.take() {
            self.by_expiry.remove(&(expires_at, Arc::clone(&path)));
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

    /// Updates a node's expiry time after a change that can affect it.
    fn schedule(&mut self, path: &str) {
        let container_life = self.container_life;
        let Some(node) = self.get_mut(path) else { return };
        let after = node.expiry(container_life);
        let before = std::mem::replace(&mut node.expires_at, after);
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.by_expiry.remove(&(before, path.into()));
        }
        if let Some(after) = after {
            self.by_expiry.insert((after, path.into()));
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
            last_child_deleted: at.time,
            expires_at: None,
            children: BTreeSet::new(),
        }
    }

    /// When the node expires, in milliseconds since the Unix epoch.
    fn expiry(&self, container_life: i64) -> Option<i64> {
        match self.owner {
            _ if self.has_children() => None,
            // A container that never had a child is not deleted.
            Owner::Container => {
                (self.creations > 0).then(|| self.last_child_deleted.saturating_add(container_life))
            }
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
            // `cversion` counts creations and deletions of children. The deletions are the creations minus the
            // children that still exist. (The initial nodes do not count as created, so it can be negative.)
            cversion: self.creations.wrapping_mul(2).wrapping_sub(num_children),
            aversion: self.aversion,
            ephemeral_owner: self.owner.ephemeral_owner(),
            data_length: i32::try_from(length(&self.data)).unwrap_or(i32::MAX),
            num_children,
            pzxid: self.pzxid,
        }
    }
}

impl Owner {
    /// The `ephemeralOwner` that clients see. The real server has internal values for containers and TTL nodes too, but
    /// shows zero to clients.
    fn ephemeral_owner(self) -> i64 {
        match self {
            Owner::Session(session) => session.0,
            Owner::Nobody | Owner::Container | Owner::Ttl(_) => 0,
        }
    }
}

fn length(data: &Data) -> usize {
    data.as_ref().map_or(0, |bytes| bytes.len())
}
