//! Watches (`WatchManager` in the real server). As in 3.9, a connection can have watches of different modes on one
//! path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ConnectionId;

/// The watches of one kind: either those on nodes or those on children.
#[derive(Default)]
pub(super) struct Watches {
    by_path: BTreeMap<Arc<str>, BTreeMap<ConnectionId, Modes>>,
    by_connection: BTreeMap<ConnectionId, BTreeSet<Arc<str>>>,
    /// The number of recursive watches. While it is zero, a change does not need to look at the ancestors of its path.
    recursive: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Fires once.
    Standard,
    /// Fires until it is removed.
    Persistent,
    /// Like `Persistent`, and also fires for every descendant.
    Recursive,
}

/// A set of modes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Modes(u8);

impl Watches {
    pub fn add(&mut self, path: &str, connection: ConnectionId, mode: Mode) {
        let path = match self.by_path.get_key_value(path) {
            Some((path, _)) => Arc::clone(path),
            None => path.into(),
        };
        self.by_connection.entry(connection).or_default().insert(Arc::clone(&path));
        let modes = self.by_path.entry(path).or_default().entry(connection).or_default();
        if mode == Mode::Recursive && !modes.has(mode) {
            self.recursive += 1;
        }
        modes.insert(mode);
    }

    /// Removes the watches of one mode, or of all modes if `mode` is `None`. Returns whether there were any.
    pub fn remove(&mut self, path: &str, connection: ConnectionId, mode: Option<Mode>) -> bool {
        let Some(modes) = self.by_path.get_mut(path).and_then(|watchers| watchers.get_mut(&connection))
        else {
            return false;
        };
        let before = *modes;
        match mode {
            Some(mode) => modes.remove(mode),
            None => *modes = Modes::default(),
        }
        let after = *modes;
        if before.has(Mode::Recursive) && !after.has(Mode::Recursive) {
            self.recursive -= 1;
        }
        if after == Modes::default() {
            self.remove_entry(path, connection);
        }
        before != after
    }

    pub fn contains(&self, path: &str, connection: ConnectionId, mode: Option<Mode>) -> bool {
        let modes = self.by_path.get(path).and_then(|watchers| watchers.get(&connection));
        modes.is_some_and(|modes| mode.is_none_or(|mode| modes.has(mode)))
    }

    /// Removes all watches of a connection.
    pub fn disconnect(&mut self, connection: ConnectionId) {
        for path in self.by_connection.remove(&connection).unwrap_or_default() {
            let Some(watchers) = self.by_path.get_mut(&path) else { continue };
            if watchers.remove(&connection).is_some_and(|modes| modes.has(Mode::Recursive)) {
                self.recursive -= 1;
            }
            if watchers.is_empty() {
                self.by_path.remove(&path);
            }
        }
    }

    /// Fires the watches on a path: removes the one-shot ones and returns the connections to notify.
    pub fn trigger(&mut self, path: &str) -> BTreeSet<ConnectionId> {
        let mut notified = BTreeSet::new();
        let mut removed = Vec::new();
        if let Some(watchers) = self.by_path.get_mut(path) {
            for (connection, modes) in watchers {
                notified.insert(*connection);
                modes.remove(Mode::Standard);
                if *modes == Modes::default() {
                    removed.push(*connection);
                }
            }
        }
        for connection in removed {
            self.remove_entry(path, connection);
        }
        if self.recursive > 0 {
            for ancestor in ancestors(path) {
                let watchers = self.by_path.get(ancestor).into_iter().flatten();
                notified.extend(watchers.filter(|(_, modes)| modes.has(Mode::Recursive)).map(|(id, _)| *id));
            }
        }
        notified
    }

    /// The number of watches. Watches of different modes of one connection on one path count once.
    pub fn len(&self) -> usize {
        self.by_connection.values().map(BTreeSet::len).sum()
    }

    /// Every watched path with the connections that watch it.
    pub fn paths(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = ConnectionId> + '_)> {
        self.by_path.iter().map(|(path, watchers)| (path.as_ref(), watchers.keys().copied()))
    }

    /// The number of connections that have watches, and the number of watched paths.
    pub fn summary(&self) -> (usize, usize) {
        (self.by_connection.len(), self.by_path.len())
    }

    /// The number of watches of a connection, counted as in `len`.
    pub fn count_of(&self, connection: ConnectionId) -> usize {
        self.by_connection.get(&connection).map_or(0, BTreeSet::len)
    }

    fn remove_entry(&mut self, path: &str, connection: ConnectionId) {
        if let Some(watchers) = self.by_path.get_mut(path) {
            watchers.remove(&connection);
            if watchers.is_empty() {
                self.by_path.remove(path);
            }
        }
        if let Some(paths) = self.by_connection.get_mut(&connection) {
            paths.remove(path);
            if paths.is_empty() {
                self.by_connection.remove(&connection);
            }
        }
    }
}

impl Modes {
    fn has(self, mode: Mode) -> bool {
        self.0 & mode.bit() != 0
    }

    fn insert(&mut self, mode: Mode) {
        self.0 |= mode.bit();
    }

    fn remove(&mut self, mode: Mode) {
        self.0 &= !mode.bit();
    }
}

impl Mode {
    fn bit(self) -> u8 {
        match self {
            Mode::Standard => 1,
            Mode::Persistent => 2,
            Mode::Recursive => 4,
        }
    }
}

/// The ancestors of a path, from its parent to the root.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    })
    .skip(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: ConnectionId = ConnectionId(1);

    #[test]
    fn a_standard_watch_fires_once_and_a_persistent_one_repeatedly() {
        let mut watches = Watches::default();
        watches.add("/a", ME, Mode::Standard);
        watches.add("/b", ME, Mode::Persistent);
        watches.add("/b", ME, Mode::Standard);
        assert_eq!((watches.trigger("/a").len(), watches.trigger("/a").len()), (1, 0));
        assert_eq!((watches.trigger("/b").len(), watches.trigger("/b").len()), (1, 1));
        assert_eq!(watches.len(), 1);
        watches.disconnect(ME);
        assert_eq!((watches.len(), watches.summary()), (0, (0, 0)));
    }

    #[test]
    fn a_recursive_watch_fires_for_descendants() {
        let mut watches = Watches::default();
        watches.add("/", ME, Mode::Recursive);
        assert_eq!(watches.trigger("/a/b/c").len(), 1);
        assert_eq!(watches.trigger("/").len(), 1);
        assert!(watches.remove("/", ME, Some(Mode::Recursive)));
        assert!(watches.trigger("/a").is_empty());
    }

    #[test]
    fn a_sibling_with_the_same_prefix_is_not_a_descendant() {
        let mut watches = Watches::default();
        watches.add("/a", ME, Mode::Recursive);
        assert!(watches.trigger("/ab").is_empty());
        assert_eq!(ancestors("/a/b").collect::<Vec<_>>(), ["/a", "/"]);
        assert_eq!(ancestors("/").count(), 0);
    }
}
