//! Names: which paths may be locked, what a contender's node is called, who blocks whom.
//!
//! The wire is kazoo's (`kazoo/recipe/lock.py`, version 2.11) or, by choice, Apache Curator's (`InterProcessMutex` and
//! `InterProcessReadWriteLock`, version 5.4): a contender is a child whose name ends in a marker and the sequence
//! number that ZooKeeper appends.

use std::fmt;
use std::ops::{Range, RangeInclusive};

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
    /// Whoever is let into the queue behind a contender in this mode waits for it, in whatever mode.
    pub fn blocks_all(self) -> bool {
        match self {
            Mode::Lock | Mode::Write => true,
            Mode::Read => false,
        }
    }
}

/// Whose names a contender's node goes by, and so with whose clients it shares a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dialect {
    /// Those of kazoo, ZooKeeper's Python library: `{uuid}__lock__{number}`, and `__rlock__` for readers.
    #[default]
    Kazoo,
    /// Those of Apache Curator's `InterProcessMutex` and `InterProcessReadWriteLock`: `_c_{uuid}-lock-{number}`, and
    /// `__READ__` and `__WRIT__`. One of its threads that acquires to read while it holds to write, and then stops
    /// writing, is not waited for by writers that were in line by then: not by Curator's (5.4), and not by ours.
    Curator,
}

const KAZOO_LOCK: &str = "__lock__";
const KAZOO_READ: &str = "__rlock__";
const CURATOR_LOCK: &str = "-lock-";
const CURATOR_READ: &str = "-__READ__";
const CURATOR_WRITE: &str = "-__WRIT__";

/// Every marker, and what a node with it is to people who list contenders: kazoo's writers are named like its locks.
const MARKERS: [(&str, Mode); 5] = [
    (KAZOO_LOCK, Mode::Lock),
    (KAZOO_READ, Mode::Read),
    (CURATOR_LOCK, Mode::Lock),
    (CURATOR_READ, Mode::Read),
    (CURATOR_WRITE, Mode::Write),
];

/// A row of the exclusion table, all in markers.
struct Row {
    /// Ends the name of a contender's node, before its number.
    own: &'static str,
    /// Of the contenders that this one waits for.
    blocked_by: &'static [&'static str],
    /// Of all that keep to the same rules, so that one of two waits for the other wherever it must.
    family: &'static [&'static str],
}

/// The table. Curator's mutex and its read/write lock pass each other by on one path, so they are two families.
fn row(dialect: Dialect, mode: Mode) -> Row {
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

/// Further name endings that count as contenders; plain text, never a pattern language.
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

/// A path that ZooKeeper would not take, or that cannot be locked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{path:?} cannot be locked: {reason}")]
pub struct InvalidName {
    /// What was given.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Checks a path by the rules of ZooKeeper's `PathUtils.validatePath`, and that something can be made below it.
pub fn check_path(path: &str) -> Result<(), InvalidName> {
    let refuse = |reason| Err(InvalidName { path: path.to_owned(), reason });
    if path.is_empty() {
        return refuse("it is empty");
    }
    if !path.starts_with('/') {
        return refuse("it is relative, and must begin with `/`");
    }
    if path == "/" {
        return refuse("the root is not a lock's directory");
    }
    if path.ends_with('/') {
        return refuse("it ends with `/`");
    }
    for part in path[1..].split('/') {
        match part {
            "" => return refuse("it has an empty part between two `/`"),
            "." | ".." => return refuse("it has a part `.` or `..`"),
            _ => {}
        }
    }
    if path.len() > MAX_PATH {
        return refuse("it is longer than 32 KiB");
    }
    if path == "/zookeeper" || path.starts_with("/zookeeper/") {
        return refuse("`/zookeeper` belongs to the server");
    }
    // `PathUtils` looks at UTF-16, in which everything above the basic plane is a pair of surrogates.
    const FORBIDDEN: [RangeInclusive<char>; 5] = [
        '\u{0}'..='\u{1f}',
        '\u{7f}'..='\u{9f}',
        '\u{e000}'..='\u{f8ff}',
        '\u{fff0}'..='\u{ffff}',
        '\u{10000}'..=char::MAX,
    ];
    if path.contains('\0') {
        return refuse("it has a NUL character");
    }
    if path.chars().any(|c| FORBIDDEN.iter().any(|range| range.contains(&c))) {
        return refuse("it has a character that ZooKeeper does not take in paths");
    }
    Ok(())
}

/// A heartbeat that checks a node must have room for its path.
const MAX_PATH: usize = 32 * 1024;

/// The unique prefix of the nodes that one queue makes: a version 4 UUID whose last 48 bits count the attempts.
///
/// One random number per queue instead of one per attempt makes a node's owner computable: a queue knows its own
/// nodes in a listing, and its supervisor those of a queue that died. The prefix does what kazoo's does: a create
/// whose answer was lost is found again by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instance(u128);

const ATTEMPT_BITS: u32 = 48;

impl Instance {
    /// From a random UUID; its last 48 bits are not used.
    pub fn new(random: u128) -> Instance {
        Instance(random >> ATTEMPT_BITS << ATTEMPT_BITS)
    }

    /// A part of the random number, for whatever should differ from process to process.
    pub(crate) fn spread(self) -> u32 {
        (self.0 >> 64) as u32
    }

    /// The name without its sequence number, as it is sent with the create.
    pub fn prefix(self, attempt: Attempt, dialect: Dialect, mode: Mode) -> String {
        let (digits, marker) = (format!("{:032x}", self.0 | u128::from(attempt.0)), row(dialect, mode).own);
        match dialect {
            Dialect::Kazoo => format!("{digits}{marker}"),
            Dialect::Curator => {
                let [a, b, c, d, e] = UUID_GROUPS.map(|group| &digits[group]);
                format!("{PROTECTED}{a}-{b}-{c}-{d}-{e}{marker}")
            }
        }
    }

    /// The name of a semaphore's lease, which has no sequence number.
    pub fn lease(self, attempt: Attempt) -> String {
        format!("{:032x}", self.0 | u128::from(attempt.0))
    }

    /// Which attempt of this queue made the node, if one did.
    pub fn attempt(self, name: &str) -> Option<Attempt> {
        let unique = match name.strip_prefix(PROTECTED) {
            Some(rest) => u128::from_str_radix(&rest.get(..36)?.replace('-', ""), 16).ok()?,
            None => u128::from_str_radix(name.get(..32)?, 16).ok()?,
        };
        (unique >> ATTEMPT_BITS << ATTEMPT_BITS == self.0)
            .then_some(Attempt((unique & ((1 << ATTEMPT_BITS) - 1)) as u64))
    }
}

/// What Curator puts before the UUID of a create that it protects from a lost answer.
const PROTECTED: &str = "_c_";
const UUID_GROUPS: [Range<usize>; 5] = [0..8, 8..12, 12..16, 16..20, 20..32];

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({:x})", self.0 >> ATTEMPT_BITS)
    }
}

/// One try of a queue to make one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt(pub u64);

/// A child of a lock's directory whose name ends in a sequence number. Ordered by that number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Znode {
    sequence: i64,
    name: String,
}

impl Znode {
    /// Reads a child's name; `None` when it has no sequence number and so can be nobody's contender.
    pub fn parse(name: &str) -> Option<Znode> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        // The server prints `%010d`: ten digits, or past the wrap ten places that begin with a minus sign, or
        // eleven. The sign before ten digits may also be the end of a marker (`-lock-`): then the number is small,
        // and only a wrapped one is without a leading zero.
        let signed = name[..name.len() - digits].ends_with('-');
        let text = match digits {
            9 if signed => &name[name.len() - 10..],
            10 if signed
                && !name[..name.len() - 10].ends_with("lock-")
                && !name[name.len() - 10..].starts_with('0') =>
            {
                &name[name.len() - 11..]
            }
            10.. => &name[name.len() - 10..],
            _ => return None,
        };
        Some(Znode { sequence: text.parse().ok()?, name: name.to_owned() })
    }

    /// The name within the directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's number of the create.
    pub fn sequence(&self) -> i64 {
        self.sequence
    }

    /// What the name tells of the mode, for a listing shown to people; `None` when it is no contender's of any
    /// dialect.
    pub fn mode(&self) -> Option<Mode> {
        let stem = self.stem();
        MARKERS.into_iter().find(|(marker, _)| stem.ends_with(marker)).map(|(_, mode)| mode)
    }

    /// Whether it ends in one of these extra patterns and a number.
    pub fn matches(&self, patterns: &[String]) -> bool {
        let stem = self.stem();
        // A pattern may itself end in the dash that reads like a sign.
        let ten_places = &self.name[..self.name.len() - 10];
        patterns.iter().any(|p| stem.ends_with(p.as_str()) || ten_places.ends_with(p.as_str()))
    }

    /// Whether a contender of this kind, counting these extra patterns, waits for this node when it stands ahead.
    pub fn blocks(&self, dialect: Dialect, mode: Mode, patterns: &[String]) -> bool {
        let stem = self.stem();
        row(dialect, mode).blocked_by.iter().any(|marker| stem.ends_with(marker)) || self.matches(patterns)
    }

    /// Whether this is a contender that keeps to other rules than one of this kind, and whom no extra pattern
    /// covers: the two could hold at the same time.
    pub fn clashes(&self, dialect: Dialect, mode: Mode, patterns: &[String]) -> bool {
        let stem = self.stem();
        let related = row(dialect, mode).family.iter().any(|marker| stem.ends_with(marker));
        self.mode().is_some() && !related && !self.matches(patterns)
    }

    /// The number is near the end of what a directory can give out (or past it), where order means nothing.
    pub fn is_exhausted(&self) -> bool {
        !(0..i64::from(i32::MAX) - 1_000_000).contains(&self.sequence)
    }

    fn stem(&self) -> &str {
        let width = if self.sequence < 0 { self.name.len() - self.name.rfind('-').unwrap_or(0) } else { 10 };
        &self.name[..self.name.len() - width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "c95a8f1fbd1c4c3f8b3e9a5b7c2d1e0f";

    fn node(tail: &str) -> Znode {
        Znode::parse(&format!("{UUID}{tail}")).expect("it ends in a sequence number")
    }

    #[test]
    fn paths_that_zookeeper_would_refuse_are_refused_with_the_reason() {
        for (path, reason) in [
            ("", "empty"),
            ("locks/a", "relative"),
            ("/", "root"),
            ("/locks/", "ends with"),
            ("/locks//a", "empty part"),
            ("/locks/./a", "`.`"),
            ("/locks/..", "`..`"),
            ("/locks/\0", "NUL"),
            ("/locks/\u{7f}", "character"),
            ("/locks/🔒", "character"),
            ("/zookeeper/a", "server"),
        ] {
            let error = check_path(path).expect_err(path);
            assert!(error.reason.contains(reason), "{path:?}: {error}");
            assert!(error.to_string().contains(&format!("{path:?}")), "{error}");
        }
        for path in ["/a", "/locks/ledger", "/locks/.a.", "/locks/路径", "/zookeepers"] {
            assert_eq!(check_path(path), Ok(()));
        }
    }

    #[test]
    fn who_waits_for_whom() {
        let (lock, reader) = (node("__lock__0000000007"), node("__rlock__0000000007"));
        for (mode, for_lock, for_reader) in
            [(Mode::Lock, true, false), (Mode::Read, true, false), (Mode::Write, true, true)]
        {
            let blocks = |node: &Znode| node.blocks(Dialect::Kazoo, mode, &[]);
            assert_eq!((blocks(&lock), blocks(&reader)), (for_lock, for_reader), "{mode:?}");
        }
    }

    /// One line a kind: `w` for whom it waits for, `x` for whom it cannot stand in one queue with, `-` for whom it
    /// passes.
    #[test]
    fn the_whole_table() {
        let nodes = [KAZOO_LOCK, KAZOO_READ, CURATOR_LOCK, CURATOR_READ, CURATOR_WRITE]
            .map(|marker| node(&format!("{marker}0000000007")));
        for (dialect, mode, expected) in [
            (Dialect::Kazoo, Mode::Lock, "w-xxx"),
            (Dialect::Kazoo, Mode::Read, "w-xxx"),
            (Dialect::Kazoo, Mode::Write, "wwxxx"),
            (Dialect::Curator, Mode::Lock, "xxwxx"),
            (Dialect::Curator, Mode::Read, "xxx-w"),
            (Dialect::Curator, Mode::Write, "xxxww"),
        ] {
            let standing =
                |node: &Znode| match (node.blocks(dialect, mode, &[]), node.clashes(dialect, mode, &[])) {
                    (true, false) => 'w',
                    (false, true) => 'x',
                    (false, false) => '-',
                    (true, true) => '?',
                };
            assert_eq!(nodes.iter().map(standing).collect::<String>(), expected, "{dialect:?} {mode:?}");
        }
    }

    #[test]
    fn an_extra_pattern_turns_a_clash_into_waiting() {
        let (lock, patterns) = (node("-lock-0000000007"), ["-lock-".to_owned()]);
        assert!(!lock.clashes(Dialect::Kazoo, Mode::Lock, &patterns));
        assert!(lock.blocks(Dialect::Kazoo, Mode::Lock, &patterns));
        assert!(!node("config0000000007").clashes(Dialect::Kazoo, Mode::Lock, &[]), "nobody's contender");
    }

    #[test]
    fn a_lock_waits_for_locks_only() {
        let blocks = |tail, patterns: &[String]| node(tail).blocks(Dialect::Kazoo, Mode::Lock, patterns);
        assert!(blocks("__lock__0000000007", &[]));
        assert!(!blocks("__rlock__0000000007", &[]));
        assert!(!blocks("-lock-0000000007", &[]));
        assert!(blocks("-lock-0000000007", &["-lock-".into()]));
    }

    #[test]
    fn extra_patterns_are_plain_text() {
        assert!(node("a[0000000001").matches(&["a[".into()]));
        assert!(!node("ab0000000001").matches(&["a.".into()]));
        assert!(check_patterns(&[String::new()]).is_err());
        assert!(check_patterns(&["a/b".into()]).is_err());
    }

    #[test]
    fn names_that_are_no_contenders_are_passed_over() {
        for name in ["", "config", "__lock__", "__lock__12345", "x-", "-", "-12345"] {
            assert_eq!(Znode::parse(name), None, "{name:?}");
        }
        assert_eq!(node("__lock__0000000007").sequence(), 7);
        assert_eq!(Znode::parse("0000000042").map(|node| node.sequence()), Some(42));
    }

    #[test]
    fn numbers_past_the_wrap_are_read_and_refused() {
        for tail in ["__lock__-2147483648", "__lock__-999999999", "__lock__-000000001", "__lock__2147483647"]
        {
            let node = node(tail);
            assert!(node.is_exhausted(), "{tail}");
            assert!(node.blocks(Dialect::Kazoo, Mode::Lock, &[]), "{tail}");
        }
        assert!(!node("__lock__2146000000").is_exhausted());
        assert_eq!(node("_c_x-lock-0000000003").sequence(), 3, "Curator's dash is not a sign");
        let wrapped = node("-lock--2147483648");
        assert!(wrapped.is_exhausted() && wrapped.blocks(Dialect::Curator, Mode::Lock, &[]));
    }

    #[test]
    fn a_queue_knows_its_own_nodes_and_no_others() {
        let instance = Instance::new(u128::from_str_radix(UUID, 16).expect("hex"));
        let names = [Dialect::Kazoo, Dialect::Curator].map(|dialect| {
            let name = format!("{}{:010}", instance.prefix(Attempt(5), dialect, Mode::Lock), 9);
            assert_eq!(instance.attempt(&name), Some(Attempt(5)), "{name}");
            assert_eq!(Instance::new(1 << 100).attempt(&name), None, "{name}");
            name
        });
        assert_eq!(names[0], "c95a8f1fbd1c4c3f8b3e000000000005__lock__0000000009");
        assert_eq!(names[1], "_c_c95a8f1f-bd1c-4c3f-8b3e-000000000005-lock-0000000009");
        for name in ["é__lock__0000000001", "_c_é-lock-0000000001", "_c_-lock-0000000001", ""] {
            assert_eq!(instance.attempt(name), None, "{name}");
        }
    }
}
