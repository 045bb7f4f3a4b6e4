//! Which contenders exclude each other: the node names of every kind of contender, and a table of which kind waits for
//! which.
//!
//! The names are those of kazoo (`kazoo/recipe/lock.py`, version 2.11) or, by choice, of Apache Curator
//! (`InterProcessMutex` and `InterProcessReadWriteLock`, version 5.4): a contender is a child node whose name ends in a
//! marker and the sequence number that ZooKeeper appends.

/// The mode of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mode {
    /// A lock that excludes other locks, but does not wait for readers: kazoo's `Lock`, Curator's `InterProcessMutex`.
    Lock,
    /// A shared lock for readers: kazoo's `ReadLock`, the read lock of Curator's `InterProcessReadWriteLock`.
    Read,
    /// An exclusive lock for a writer: kazoo's `WriteLock`, the write lock of Curator's `InterProcessReadWriteLock`.
    Write,
}

/// The naming scheme of a contender's node. Clients with the same scheme share a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dialect {
    /// The names of kazoo, a Python library for ZooKeeper: `{uuid}__lock__{number}`, and `__rlock__` for readers.
    #[default]
    Kazoo,
    /// The names of Apache Curator's `InterProcessMutex` and `InterProcessReadWriteLock`: `_c_{uuid}-lock-{number}`,
    /// and `__READ__` and `__WRIT__`. If a Curator thread holds the write lock, acquires the read lock and then
    /// releases the write lock, writers that were already queued do not see its read lock: neither Curator's (5.4) nor
    /// ours.
    Curator,
}

pub(super) const KAZOO_LOCK: &str = "__lock__";
pub(super) const KAZOO_READ: &str = "__rlock__";
pub(super) const CURATOR_LOCK: &str = "-lock-";
pub(super) const CURATOR_READ: &str = "-__READ__";
pub(super) const CURATOR_WRITE: &str = "-__WRIT__";

/// Every marker, and the mode that listings show for it. kazoo's writers have the same marker as its locks.
pub(super) const MARKERS: [(&str, Mode); 5] = [
    (KAZOO_LOCK, Mode::Lock),
    (KAZOO_READ, Mode::Read),
    (CURATOR_LOCK, Mode::Lock),
    (CURATOR_READ, Mode::Read),
    (CURATOR_WRITE, Mode::Write),
];

/// The markers of kazoo's contenders.
pub(super) const KAZOO: &[&str] = &[KAZOO_LOCK, KAZOO_READ];

/// A row of the exclusion table.
pub(super) struct Row {
    /// The marker at the end of a contender's name, before its number.
    pub own: &'static str,
    /// The markers of contenders that this one waits for.
    pub blocked_by: &'static [&'static str],
    /// The markers of all contenders that follow the same rules: of any two, the later one waits where it must.
    pub family: &'static [&'static str],
}

/// The exclusion table. Curator's mutex and its read/write lock ignore each other on one path, so they are two
/// families.
pub(super) fn row(dialect: Dialect, mode: Mode) -> Row {
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
