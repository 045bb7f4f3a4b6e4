//! The nodes that this process has created in a session.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Mutex;

use crate::machine::node::Instance;
use crate::metrics::Metrics;

/// The nodes of one session that heartbeats check.
pub(crate) struct OwnNodes {
    paths: Mutex<BTreeSet<String>>,
    /// The number of bytes that the connection's chroot adds to every path.
    chroot: usize,
    metrics: Metrics,
}

impl OwnNodes {
    pub fn new(chroot: &str, metrics: Metrics) -> OwnNodes {
        OwnNodes { paths: Mutex::default(), chroot: chroot.len(), metrics }
    }

    pub fn track(&self, path: String) {
        self.metrics.nodes_tracked(usize::from(self.lock().insert(path)));
    }

    /// Called before the delete is sent, so that no later heartbeat reports the node as missing. Returns whether the
    /// node was tracked.
    pub fn untrack(&self, path: &str) -> bool {
        let removed = self.lock().remove(path);
        self.metrics.nodes_untracked(usize::from(removed));
        removed
    }

    /// Untracks all nodes of one instance, whose actor has died.
    pub fn untrack_all(&self, directory: &str, instance: Instance) {
        let mut paths = self.lock();
        let before = paths.len();
        paths.retain(|path| {
            let node = path.rsplit_once('/').filter(|(parent, _)| *parent == directory);
            node.and_then(|(_, name)| instance.attempt(name)).is_none()
        });
        self.metrics.nodes_untracked(before - paths.len());
    }

    /// The next nodes in the rotation, as many as fit into one heartbeat, and the result of `send`. `send` runs under
    /// the lock, so none of the nodes can be untracked before it.
    pub fn batch<T>(&self, cursor: &mut String, send: impl FnOnce(&[String]) -> T) -> (Vec<String>, T) {
        let paths = self.lock();
        let after = (Bound::Excluded(cursor.as_str()), Bound::Unbounded);
        let up_to = (Bound::Unbounded, Bound::Included(cursor.as_str()));
        let mut size = 0;
        let batch: Vec<String> = paths
            .range::<str, _>(after)
            .chain(paths.range::<str, _>(up_to))
            .take_while(|path| {
                let is_first = size == 0;
                size += self.chroot + path.len() + CHECK_OVERHEAD;
                is_first || size <= BATCH
            })
            .cloned()
            .collect();
        if let Some(last) = batch.last() {
            cursor.clone_from(last);
        }
        let sent = send(&batch);
        (batch, sent)
    }

    /// A few of the directories that contain these nodes.
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

impl Drop for OwnNodes {
    fn drop(&mut self) {
        self.metrics.nodes_untracked(self.lock().len());
    }
}

/// The maximum size of one heartbeat's checks, well below the server's limit of 1 MiB for a request. A single check may
/// be larger.
const BATCH: usize = 64 * 1024;

/// The bytes that a check adds to its path on the wire: operation header, length, version.
const CHECK_OVERHEAD: usize = 17;

/// How many directories are tried to identify a connection. One is enough, unless it has just been deleted.
const DIRECTORIES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_larger_than_a_batch_does_not_stop_the_rotation() {
        let nodes = OwnNodes::new(&format!("/{}", "c".repeat(BATCH / 2)), Metrics::new(Vec::new()));
        let paths = ["/a".to_owned(), format!("/b{}", "b".repeat(BATCH / 2)), "/c".to_owned()];
        paths.iter().for_each(|path| nodes.track(path.clone()));
        let mut cursor = String::new();
        for turn in 0..6 {
            let (batch, ()) = nodes.batch(&mut cursor, |_| ());
            assert_eq!(batch, [paths[turn % 3].clone()]);
        }
    }
}
