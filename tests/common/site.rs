//! A unique path for each test, and an independent client that inspects, creates and deletes nodes there.

use std::time::Duration;

use lockkeeper::{Keeper, Lock, LockOptions};
use zookeeper_client as zk;

use super::client::catch_up;
use super::kinds::{AnyGuard, AnyLock, Kind};
use super::target::{TestServer, shared};
use super::{SOON, eventually, tls, unique_path};

/// An independent client of the same server.
pub struct Observer(pub zk::Client);

impl Observer {
    pub async fn new() -> Observer {
        Observer::of(shared()).await
    }

    pub async fn of(server: &TestServer) -> Observer {
        Observer(tls::connect(zk::Client::connector(), &server.address()).await)
    }

    /// The ensemble member that this client is connected to may lag behind.
    pub async fn catch_up(&self) {
        catch_up(&self.0).await;
    }

    pub async fn stat(&self, path: &str) -> Option<zk::Stat> {
        self.catch_up().await;
        self.0.check_stat(path).await.expect("a stat")
    }

    /// The session that owns an ephemeral node.
    pub async fn owner(&self, path: &str) -> i64 {
        self.stat(path).await.expect("the node").ephemeral_owner
    }

    /// The paths of the nodes in a directory, sorted by sequence number. Empty if there is no directory.
    pub async fn nodes(&self, directory: &str) -> Vec<String> {
        self.catch_up().await;
        let mut names = match self.0.list_children(directory).await {
            Err(zk::Error::NoNode) => Vec::new(),
            names => names.expect("a list"),
        };
        names.sort_by_key(|name| name.as_bytes()[name.len().saturating_sub(10)..].to_vec());
        names.iter().map(|name| format!("{directory}/{name}")).collect()
    }

    /// Creates a directory and its missing parents.
    pub async fn make(&self, directory: &str) {
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        self.0.mkdir(directory, &options).await.expect("a directory");
    }

    /// Creates a node and returns its path, including the sequence number if it has one.
    pub async fn create(&self, path: &str, data: &[u8], mode: zk::CreateMode) -> String {
        let options = mode.with_acls(zk::Acls::anyone_all());
        let (_, number) = self.0.create(path, data, &options).await.expect(path);
        match mode {
            zk::CreateMode::EphemeralSequential => format!("{path}{number}"),
            _ => path.to_owned(),
        }
    }

    /// Creates a contender node as kazoo does.
    pub async fn contender(&self, directory: &str, identifier: &[u8]) -> String {
        self.contender_with(directory, "__lock__", identifier).await
    }

    /// The same with another marker.
    async fn contender_with(&self, directory: &str, marker: &str, identifier: &[u8]) -> String {
        let path = format!("{directory}/{}{marker}", uuid::Uuid::new_v4().simple());
        self.create(&path, identifier, zk::CreateMode::EphemeralSequential).await
    }

    pub async fn delete(&self, path: &str) {
        self.0.delete(path, None).await.expect("a node to delete");
    }
}

/// A path at which a lock of some kind is tested.
pub struct Site {
    pub kind: Kind,
    pub path: String,
    pub server: Observer,
}

/// A foreign node that a lock waits for, and the node that is watched meanwhile: the foreign node itself or, for
/// leases, the semaphore's root.
pub struct Obstacle {
    pub node: String,
    watched: String,
}

impl Kind {
    pub async fn site(self, name: &str) -> Site {
        self.site_at(&unique_path(name)).await
    }

    pub async fn site_at(self, path: &str) -> Site {
        self.site_on(shared(), path).await
    }

    pub async fn site_on(self, server: &TestServer, path: &str) -> Site {
        Site { kind: self, path: path.to_owned(), server: Observer::of(server).await }
    }
}

impl Site {
    pub fn lock(&self, keeper: &Keeper) -> AnyLock {
        (self.kind.open)(keeper, &self.path).expect("a valid path")
    }

    pub fn lock_with(&self, keeper: &Keeper, options: LockOptions) -> AnyLock {
        (self.kind.open_with)(keeper, &self.path, options).expect("options")
    }

    pub fn rival(&self, keeper: &Keeper) -> AnyLock {
        self.rival_with(keeper, LockOptions::new())
    }

    pub fn rival_with(&self, keeper: &Keeper, options: LockOptions) -> AnyLock {
        (self.kind.rival)(keeper, &self.path, options).expect("options")
    }

    /// A plain lock on the path, to list and control the queue whatever the kind is.
    pub fn queue(&self, keeper: &Keeper) -> Lock {
        keeper.lock(&self.path).expect("a valid path")
    }

    /// All directories that may contain nodes of the lock.
    pub fn directories(&self) -> Vec<String> {
        let paths = (self.kind.paths)(&self.path);
        let mutexes: Vec<_> = paths.iter().filter(|_| self.kind.leases).map(|path| mutex(path)).collect();
        [paths, mutexes].concat()
    }

    /// All nodes in these directories.
    pub async fn nodes(&self) -> Vec<String> {
        let mut nodes = Vec::new();
        for directory in self.directories() {
            nodes.extend(self.server.nodes(&directory).await);
        }
        nodes
    }

    /// Waits until there are this many nodes for each locked path.
    pub async fn until_nodes(&self, count: usize) {
        let count = count * (self.kind.paths)(&self.path).len();
        let what = format!("{} has {count} nodes", self.path);
        eventually(&what, SOON, async || self.nodes().await.len() == count).await;
    }

    /// Waits until only the nodes of these guards are left.
    pub async fn until_only(&self, guards: &[&AnyGuard]) {
        self.until_only_nodes(guards.iter().flat_map(|guard| guard.nodes()).collect()).await;
    }

    /// Waits until only these nodes are left.
    pub async fn until_only_nodes(&self, expected: Vec<String>) {
        let what = format!("{} has only the nodes {expected:?}", self.path);
        eventually(&what, SOON, async || self.has_only(&expected).await).await;
    }

    /// Whether there are these nodes and no others.
    pub async fn has_only(&self, expected: &[String]) -> bool {
        let (mut nodes, mut expected) = (self.nodes().await, expected.to_vec());
        nodes.sort();
        expected.sort();
        nodes == expected
    }

    /// Creates what the first acquire would create, so that a later one creates only its own nodes.
    pub async fn make(&self) {
        for directory in self.directories() {
            self.server.make(&directory).await;
        }
        if self.kind.leases {
            self.server.0.set_data(&self.path, b"1", None).await.expect("a number of permits");
        }
    }

    /// Creates a foreign node that blocks the lock. The directories must exist.
    pub async fn obstruct(&self) -> Obstacle {
        let path = (self.kind.paths)(&self.path).swap_remove(0);
        match self.kind.leases {
            true => {
                let lease = format!("{path}/{}", uuid::Uuid::new_v4().simple());
                let node = self.server.create(&lease, b"", zk::CreateMode::Ephemeral).await;
                Obstacle { node, watched: path }
            }
            false => {
                let node = self.server.contender_with(&path, self.kind.marker, b"").await;
                Obstacle { watched: node.clone(), node }
            }
        }
    }

    /// Deletes the obstacle.
    pub async fn clear(&self, obstacle: &Obstacle) {
        self.server.delete(&obstacle.node).await;
    }

    /// Waits until a waiter watches the obstacle.
    pub async fn until_watched(&self, obstacle: &Obstacle) {
        let watched = &obstacle.watched;
        let what = format!("{watched} is watched");
        eventually(&what, SOON, async || shared().four_letter("wchp").lines().any(|line| line == watched))
            .await;
    }

    /// Waits until no watch is left in these directories.
    pub async fn until_unwatched(&self) {
        let directories = self.directories();
        let here = |line: &str| {
            let below = |directory: &String| {
                line.strip_prefix(directory.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            directories.iter().any(below)
        };
        let what = format!("no watch in {directories:?}");
        eventually(&what, SOON, async || !shared().four_letter("wchp").lines().any(here)).await;
    }

    /// Rewrites the watched node with the same data, which changes only its version.
    pub async fn touch(&self, obstacle: &Obstacle) {
        let (data, _) = self.server.0.get_data(&obstacle.watched).await.expect("a node");
        self.server.0.set_data(&obstacle.watched, &data, None).await.expect("a change");
    }

    /// Deletes these nodes and directories in one transaction.
    pub async fn delete_together(&self, paths: &[String]) {
        let mut deletes = self.server.0.new_multi_writer();
        for path in paths {
            deletes.add_delete(path, None).expect("a valid path");
        }
        deletes.commit().await.expect("no node was created meanwhile");
    }

    /// Deletes all directories and their nodes in one transaction.
    pub async fn delete_all(&self) {
        self.delete_together(&[self.nodes().await, self.directories()].concat()).await;
    }
}

/// Whether the server has this session.
pub fn is_known(session: i64) -> bool {
    let (dump, id) = (shared().four_letter("dump"), format!("0x{session:x}"));
    assert!(dump.contains("Sessions"), "no dump: {dump}");
    dump.split_whitespace().any(|word| word.trim_end_matches(':') == id)
}

/// The path of the mutex that kazoo uses for a semaphore.
fn mutex(path: &str) -> String {
    format!("{path}-__lock__")
}
