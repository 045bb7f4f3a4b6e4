//! A path of its own for each test, and somebody outside who looks at its nodes, makes them and deletes them.

use std::time::Duration;

use lockkeeper::{Keeper, Lock, LockOptions};
use zookeeper_client as zk;

use super::kinds::{AnyGuard, AnyLock, Kind};
use super::target::{TestServer, shared};
use super::{SOON, eventually, unique_path};

/// Somebody else on the same server.
pub struct Observer(pub zk::Client);

impl Observer {
    pub async fn new() -> Observer {
        Observer::of(shared()).await
    }

    pub async fn of(server: &TestServer) -> Observer {
        Observer(zk::Client::connect(&server.address()).await.expect("a server"))
    }

    /// Its member of an ensemble may be behind; what was confirmed to anybody shows in what is asked after this.
    async fn catch_up(&self) {
        self.0.sync("/").await.expect("a server");
    }

    pub async fn stat(&self, path: &str) -> Option<zk::Stat> {
        self.catch_up().await;
        self.0.check_stat(path).await.expect("a stat")
    }

    /// The session that a node goes with.
    pub async fn owner(&self, path: &str) -> i64 {
        self.stat(path).await.expect("the node").ephemeral_owner
    }

    /// The paths of the nodes in a directory, in the order of their numbers; none where there is no directory.
    pub async fn nodes(&self, directory: &str) -> Vec<String> {
        self.catch_up().await;
        let mut names = match self.0.list_children(directory).await {
            Err(zk::Error::NoNode) => Vec::new(),
            names => names.expect("a list"),
        };
        names.sort_by_key(|name| name.as_bytes()[name.len().saturating_sub(10)..].to_vec());
        names.iter().map(|name| format!("{directory}/{name}")).collect()
    }

    /// Makes a directory, and all that lead to it.
    pub async fn make(&self, directory: &str) {
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        self.0.mkdir(directory, &options).await.expect("a directory");
    }

    /// The node's path: with its number if it has one.
    pub async fn create(&self, path: &str, data: &[u8], mode: zk::CreateMode) -> String {
        let options = mode.with_acls(zk::Acls::anyone_all());
        let (_, number) = self.0.create(path, data, &options).await.expect(path);
        match mode {
            zk::CreateMode::EphemeralSequential => format!("{path}{number}"),
            _ => path.to_owned(),
        }
    }

    /// A contender as kazoo makes it.
    pub async fn contender(&self, directory: &str, identifier: &[u8]) -> String {
        let path = format!("{directory}/{}__lock__", uuid::Uuid::new_v4().simple());
        self.create(&path, identifier, zk::CreateMode::EphemeralSequential).await
    }

    pub async fn delete(&self, path: &str) {
        self.0.delete(path, None).await.expect("a node to delete");
    }
}

/// Where a lock of some kind is put to the test.
pub struct Site {
    pub kind: Kind,
    pub path: String,
    pub server: Observer,
}

/// A foreign node for which a lock waits, and what is watched meanwhile: itself, or the root where leases are.
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
        (self.kind.open)(keeper, &self.path).expect("a path")
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

    /// The queue on the path, whoever stands there, to be asked and told by hand.
    pub fn queue(&self, keeper: &Keeper) -> Lock {
        keeper.lock(&self.path).expect("a path")
    }

    /// All directories that may have nodes.
    pub fn directories(&self) -> Vec<String> {
        let paths = (self.kind.paths)(&self.path);
        let mutexes: Vec<_> = paths.iter().filter(|_| self.kind.leases).map(|path| mutex(path)).collect();
        [paths, mutexes].concat()
    }

    /// All nodes that are there.
    pub async fn nodes(&self) -> Vec<String> {
        let mut nodes = Vec::new();
        for directory in self.directories() {
            nodes.extend(self.server.nodes(&directory).await);
        }
        nodes
    }

    /// Waits until so many nodes are there, for each path that is locked.
    pub async fn until_nodes(&self, count: usize) {
        let count = count * (self.kind.paths)(&self.path).len();
        let what = format!("{} has {count} nodes", self.path);
        eventually(&what, SOON, async || self.nodes().await.len() == count).await;
    }

    /// Waits until the nodes of these guards are there, and no other.
    pub async fn until_only(&self, guards: &[&AnyGuard]) {
        self.until_just(guards.iter().flat_map(|guard| guard.nodes()).collect()).await;
    }

    /// Waits until these nodes are there, and no other.
    pub async fn until_just(&self, expected: Vec<String>) {
        let what = format!("{} has just {expected:?}", self.path);
        eventually(&what, SOON, async || self.has_only(&expected).await).await;
    }

    /// Whether these nodes are there, and no other.
    pub async fn has_only(&self, expected: &[String]) -> bool {
        let (mut nodes, mut expected) = (self.nodes().await, expected.to_vec());
        nodes.sort();
        expected.sort();
        nodes == expected
    }

    /// Makes what the first to acquire would make, so that an acquire makes nothing but its own nodes.
    pub async fn make(&self) {
        for directory in self.directories() {
            self.server.make(&directory).await;
        }
        if self.kind.leases {
            self.server.0.set_data(&self.path, b"1", None).await.expect("a number of permits");
        }
    }

    /// Puts somebody else's node in the way. The directories must be there.
    pub async fn obstruct(&self) -> Obstacle {
        let path = (self.kind.paths)(&self.path).swap_remove(0);
        match self.kind.leases {
            true => {
                let lease = format!("{path}/{}", uuid::Uuid::new_v4().simple());
                let node = self.server.create(&lease, b"", zk::CreateMode::Ephemeral).await;
                Obstacle { node, watched: path }
            }
            false => {
                let node = self.server.contender(&path, b"").await;
                Obstacle { watched: node.clone(), node }
            }
        }
    }

    /// Takes a node out of the way.
    pub async fn clear(&self, obstacle: &Obstacle) {
        self.server.delete(&obstacle.node).await;
    }

    /// Waits until somebody who waits for it watches.
    pub async fn until_watched(&self, obstacle: &Obstacle) {
        let watched = &obstacle.watched;
        let what = format!("{watched} is watched");
        eventually(&what, SOON, async || shared().four_letter("wchp").lines().any(|line| line == watched))
            .await;
    }

    /// Waits until nobody watches anything here.
    pub async fn until_unwatched(&self) {
        let directories = self.directories();
        let here = |line: &str| {
            let below = |directory: &String| {
                line.strip_prefix(directory.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            directories.iter().any(below)
        };
        let what = format!("nobody watches {directories:?}");
        eventually(&what, SOON, async || !shared().four_letter("wchp").lines().any(here)).await;
    }

    /// Changes what is watched, and no more than its version.
    pub async fn touch(&self, obstacle: &Obstacle) {
        let (data, _) = self.server.0.get_data(&obstacle.watched).await.expect("a node");
        self.server.0.set_data(&obstacle.watched, &data, None).await.expect("a change");
    }

    /// Deletes these nodes and directories at once.
    pub async fn delete_together(&self, paths: &[String]) {
        let mut deletes = self.server.0.new_multi_writer();
        for path in paths {
            deletes.add_delete(path, None).expect("a path");
        }
        deletes.commit().await.expect("nothing that was made in between");
    }

    /// Deletes all directories, and all that is in them, at once.
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

/// What kazoo appends to a semaphore's path to get that of its mutex.
fn mutex(path: &str) -> String {
    format!("{path}-__lock__")
}
