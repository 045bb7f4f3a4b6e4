//! Who excludes whom: the names of contenders of every kind, and the table of which of them wait for which.
//!
//! The wire is kazoo's (`kazoo/recipe/lock.py`, version 2.11) or, by choice, Apache Curator's (`InterProcessMutex` and
//! `InterProcessReadWriteLock`, version 5.4): a contender is a child whose name ends in a marker and the sequence
//! number that ZooKeeper appends.

use thiserror::Error;

/// How a contender wants the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mode {
    /// Alone among locks: kazoo's `Lock`, Curator's `InterProcessMutex`. Does not wait for readers.
    Lock,
    /// Beside other readers: kazoo's `ReadLock`, the read lock of Curator's `InterProcessReadWriteLock`.
    Read,
    /// Alone among readers and writers: kazoo's `WriteLock`, the write lock of Curator's `InterProcessReadWriteLock`.
    Write,
}

impl Mode {
    /// Whether every later contender waits for one in this mode.
    pub fn blocks_all(self) -> bool {
        match self {
            Mode::Lock | Mode::Write => true,
            Mode::Read => false,
        }
    }
}

/// How a contender's node is named, and so with which clients it shares a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dialect {
    /// As kazoo, ZooKeeper's Python library, names them: `{uuid}__lock__{number}`, and `__rlock__` for readers.
    #[default]
    Kazoo,
    /// As Apache Curator's `InterProcessMutex` and `InterProcessReadWriteLock` name them: `_c_{uuid}-lock-{number}`, and
    /// `__READ__` and `__WRIT__`. A Curator thread that holds the write lock, acquires the read lock and then releases
    /// the write lock is not seen by writers that were already queued: neither by Curator's (5.4) nor by ours.
    Curator,
}

pub(super) const KAZOO_LOCK: &str = "__lock__";
pub(super) const KAZOO_READ: &str = "__rlock__";
pub(super) const CURATOR_LOCK: &str = "-lock-";
pub(super) const CURATOR_READ: &str = "-__READ__";
pub(super) const CURATOR_WRITE: &str = "-__WRIT__";

/// Every marker, and the mode that listings show for it: kazoo's writers are named like its locks.
pub(super) const MARKERS: [(&str, Mode); 5] = [
    (KAZOO_LOCK, Mode::Lock),
    (KAZOO_READ, Mode::Read),
    (CURATOR_LOCK, Mode::Lock),
    (CURATOR_READ, Mode::Read),
    (CURATOR_WRITE, Mode::Write),
];

/// A row of the exclusion table, in markers.
pub(super) struct Row {
    /// The end of a contender's name, before its number.
    pub own: &'static str,
    /// The contenders that this one waits for.
    pub blocked_by: &'static [&'static str],
    /// All contenders that follow the same rules, so that of any two the later one waits where it must.
    pub family: &'static [&'static str],
}

/// The table. Curator's mutex and its read/write lock ignore each other on one path, so they are two families.
pub(super) fn row(dialect: Dialect, mode: Mode) -> Row {
    const KAZOO: &[&str] = &[KAZOO_LOCK, KAZOO_READ];
    const CURATOR: &[&str] = &[CURATOR_READ, CURATOR_WRITE];
    let (own, blocked_by, family): (_, &'static [&'static str], _) = match (dialect, mode) {
        (Dialect::Kazoo, Mode::Lock) => (KAZOO_LOCK, &[KAZOO_LOCK], KAZOO),
        (Dialect::Kazoo, Mode::Read) => (KAZOO_READ, &[KAZOO_LOCK], KAZOO),
        (Dialect::Kazoo, Mode::Write) => (KAZOO_LOCK, KAZOO, KAZOO),
        (Dialect::Curator, Mode::Lock) => (CURATOR_LOCK, &[CURATOR_LOCK], &[CURATOR_LOCK][..]),
        (Dialect::Curator, Mode::Read) => (CURATOR_READ, &[CURATOR_WRITE], CURATOR),
        (Dialect::Curator, Mode::Write) => (CURATOR_WRITE, CURATOR, CURATOR),
    };
    Row { own, blocked_by, family }
}

/// Further name endings that count as contenders, as plain text.
pub type Patterns = std::sync::Arc<[String]>;

/// Checks extra patterns before anything is sent.
pub fn check_patterns(patterns: &[String]) -> Result<(), InvalidPattern> {
    for pattern in patterns {
        if pattern.is_empty() {
            return Err(InvalidPattern { pattern: pattern.clone(), reason: "it is empty" });
        }
        if pattern.contains('/') {
            return Err(InvalidPattern { pattern: pattern.clone(), reason: "a node's name has no `/`" });
        }
    }
    Ok(())
}

/// An extra lock pattern that cannot match any node's name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the lock pattern {pattern:?} cannot be used: {reason}")]
pub struct InvalidPattern {
    /// What was given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_match_no_name_are_refused() {
        assert!(check_patterns(&[String::new()]).is_err());
        assert!(check_patterns(&["a/b".into()]).is_err());
        assert_eq!(check_patterns(&["-lock-".into()]), Ok(()));
    }
}
