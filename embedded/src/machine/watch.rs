//! Who wants to know of what (`WatchManager` in its form of 3.9, where watches of different modes on one path
//! stand beside each other).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ConnectionId;

/// The watches of one kind: on nodes, or on their children.
#[derive(Default)]
pub(super) struct Watches {
    by_path: BTreeMap<Arc<str>, BTreeMap<ConnectionId, Modes>>,
    by_connection: BTreeMap<ConnectionId, BTreeSet<Arc<str>>>,
    /// While there are none, a change need not look at the paths above it.
    recursive: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Fires once.
    Standard,
    /// Fires until it is removed.
    Persistent,
    /// The same, and for every node below as well.
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

    /// Removes the watches of a mode, or of all; whether there were any.
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
            self.forget(path, connection);
        }
        before != after
    }

    pub fn contains(&self, path: &str, connection: ConnectionId, mode: Option<Mode>) -> bool {
        let modes = self.by_path.get(path).and_then(|watchers| watchers.get(&connection));
        modes.is_some_and(|modes| mode.is_none_or(|mode| modes.has(mode)))
    }

    /// Removes all that a connection has.
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

    /// Who is to be told of a change at a path. Watches that fire once are gone with this.
    pub fn trigger(&mut self, path: &str) -> BTreeSet<ConnectionId> {
        let mut told = BTreeSet::new();
        let mut spent = Vec::new();
        if let Some(watchers) = self.by_path.get_mut(path) {
            for (connection, modes) in watchers {
                told.insert(*connection);
                modes.remove(Mode::Standard);
                if *modes == Modes::default() {
                    spent.push(*connection);
                }
            }
        }
        for connection in spent {
            self.forget(path, connection);
        }
        if self.recursive > 0 {
            for above in above(path) {
                let watchers = self.by_path.get(above).into_iter().flatten();
                told.extend(watchers.filter(|(_, modes)| modes.has(Mode::Recursive)).map(|(id, _)| *id));
            }
        }
        told
    }

    /// How many watches there are, counting modes on one path once.
    pub fn len(&self) -> usize {
        self.by_connection.values().map(BTreeSet::len).sum()
    }

    /// Every watched path, and by whom.
    pub fn paths(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = ConnectionId> + '_)> {
        self.by_path.iter().map(|(path, watchers)| (path.as_ref(), watchers.keys().copied()))
    }

    /// How many connections and paths have any.
    pub fn summary(&self) -> (usize, usize) {
        (self.by_connection.len(), self.by_path.len())
    }

    pub fn count_of(&self, connection: ConnectionId) -> usize {
        self.by_connection.get(&connection).map_or(0, BTreeSet::len)
    }

    fn forget(&mut self, path: &str, connection: ConnectionId) {
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

/// The paths above a path, nearest first, down to the root.
fn above(path: &str) -> impl Iterator<Item = &str> {
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
    fn a_standard_watch_fires_once_and_a_persistent_one_goes_on() {
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
    fn a_recursive_watch_hears_what_is_below() {
        let mut watches = Watches::default();
        watches.add("/", ME, Mode::Recursive);
        assert_eq!(watches.trigger("/a/b/c").len(), 1);
        assert_eq!(watches.trigger("/").len(), 1);
        assert!(watches.remove("/", ME, Some(Mode::Recursive)));
        assert!(watches.trigger("/a").is_empty());
    }

    #[test]
    fn a_name_that_begins_alike_is_not_below() {
        let mut watches = Watches::default();
        watches.add("/a", ME, Mode::Recursive);
        assert!(watches.trigger("/ab").is_empty());
        assert_eq!(above("/a/b").collect::<Vec<_>>(), ["/a", "/"]);
        assert_eq!(above("/").count(), 0);
    }
}
