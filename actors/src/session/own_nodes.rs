//! The nodes that this process has in a session.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Mutex;

use crate::machine::node::Instance;

/// The nodes of one session that heartbeats check.
pub(crate) struct OwnNodes {
    paths: Mutex<BTreeSet<String>>,
    /// The bytes that the connection's chroot adds to every path.
    chroot: usize,
}

impl OwnNodes {
    pub fn new(chroot: &str) -> OwnNodes {
        OwnNodes { paths: Mutex::default(), chroot: chroot.len() }
    }

    pub fn track(&self, path: String) {
        self.lock().insert(path);
    }

    /// Called before the delete is sent, so that no heartbeat behind it misses the node. Gives whether the node was tracked.
    pub fn untrack(&self, path: &str) -> bool {
        self.lock().remove(path)
    }

    /// The nodes of an actor that died.
    pub fn untrack_all(&self, directory: &str, instance: Instance) {
        self.lock().retain(|path| {
            let node = path.rsplit_once('/').filter(|(parent, _)| *parent == directory);
            node.and_then(|(_, name)| instance.attempt(name)).is_none()
        });
    }

    /// The next nodes in the rotation, as many as one heartbeat has room for, and the result of `send`, which runs before
    /// any of them can be untracked.
    pub fn batch<T>(&self, cursor: &mut String, send: impl FnOnce(&[String]) -> T) -> (Vec<String>, T) {
        let paths = self.lock();
        let after = (Bound::Excluded(cursor.as_str()), Bound::Unbounded);
        let upto = (Bound::Unbounded, Bound::Included(cursor.as_str()));
        let mut bytes = 0;
        let batch: Vec<String> = paths
            .range::<str, _>(after)
            .chain(paths.range::<str, _>(upto))
            .take_while(|path| {
                bytes += self.chroot + path.len() + CHECK_OVERHEAD;
                bytes <= BATCH
            })
            .cloned()
            .collect();
        if let Some(last) = batch.last() {
            cursor.clone_from(last);
        }
        let sent = send(&batch);
        (batch, sent)
    }

    /// A few of the directories that have these nodes.
    pub fn directories(&self) -> Vec<String> {
        let mut directories: Vec<String> = Vec::new();
        for path in self.lock().iter() {
            let Some((directory, _)) = path.rsplit_once('/') else { continue };
            if directories.last().is_none_or(|last| last != directory) {
                directories.push(directory.to_owned());
            }
            if directories.len() == DIRECTORIES {
                break;
            }
        }
        directories
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        // The set is consistent even after a panic under the lock.
        self.paths.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The bytes that one heartbeat checks, of the server's limit of 1 MiB for a request.
const BATCH: usize = 64 * 1024;

/// What a check adds to its path on the wire: operation header, length, version.
const CHECK_OVERHEAD: usize = 17;

/// How many directories are tried to identify a connection. One is enough, unless it has just been deleted.
const DIRECTORIES: usize = 8;
