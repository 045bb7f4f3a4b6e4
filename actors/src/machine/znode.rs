//! Names: which paths may be locked, what a contender's node is called, who blocks whom.
//!
//! The wire is kazoo's (`kazoo/recipe/lock.py`, version 2.11): a contender is a child whose name ends in a
//! marker and the sequence number that ZooKeeper appends.

use std::fmt;
use std::ops::RangeInclusive;

use thiserror::Error;

/// How a contender wants the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mode {
    /// Alone among locks and writers: kazoo's `Lock`. Does not wait for readers.
    Lock,
    /// Beside other readers: kazoo's `ReadLock`.
    Read,
    /// Alone among readers, writers and locks: kazoo's `WriteLock`. Its nodes are named like a lock's.
    Write,
}

const EXCLUSIVE: &str = "__lock__";
const SHARED: &str = "__rlock__";

impl Mode {
    /// The table: what a contender's node is called, and whose it waits for.
    fn row(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Mode::Lock => (EXCLUSIVE, &[EXCLUSIVE]),
            Mode::Read => (SHARED, &[EXCLUSIVE]),
            Mode::Write => (EXCLUSIVE, &[EXCLUSIVE, SHARED]),
        }
    }

    /// What stands between the unique prefix and the sequence number.
    pub fn marker(self) -> &'static str {
        self.row().0
    }

    /// The markers of the contenders that this one waits for.
    fn blocked_by(self) -> &'static [&'static str] {
        self.row().1
    }

    /// Whoever comes behind a contender in this mode waits for it, in whatever mode.
    pub fn blocks_all(self) -> bool {
        self.marker() == EXCLUSIVE
    }
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

    /// The name without its sequence number, as it is sent with the create.
    pub fn prefix(self, attempt: Attempt, mode: Mode) -> String {
        format!("{:032x}{}", self.0 | u128::from(attempt.0), mode.marker())
    }

    /// The name of a semaphore's lease, which has no sequence number.
    pub fn lease(self, attempt: Attempt) -> String {
        format!("{:032x}", self.0 | u128::from(attempt.0))
    }

    /// Which attempt of this queue made the node, if one did.
    pub fn attempt(self, name: &str) -> Option<Attempt> {
        let unique = u128::from_str_radix(name.get(..32)?, 16).ok()?;
        (unique >> ATTEMPT_BITS << ATTEMPT_BITS == self.0)
            .then_some(Attempt((unique & ((1 << ATTEMPT_BITS) - 1)) as u64))
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({:x})", self.0 >> ATTEMPT_BITS)
    }
}

/// One try of a queue to make one node. They count up in the order in which the creates are sent.
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

    /// What the name tells of the mode, for a listing shown to people: a writer's name is a lock's.
    pub fn mode(&self) -> Option<Mode> {
        [Mode::Lock, Mode::Read].into_iter().find(|mode| self.stem().ends_with(mode.marker()))
    }

    /// Whether a contender in this mode, counting these extra patterns, waits for this node when it stands ahead.
    pub fn blocks(&self, mode: Mode, patterns: &[String]) -> bool {
        let stem = self.stem();
        // A pattern may itself end in the dash that reads like a sign.
        let ten_places = &self.name[..self.name.len() - 10];
        mode.blocked_by().iter().any(|marker| stem.ends_with(marker))
            || patterns.iter().any(|p| stem.ends_with(p.as_str()) || ten_places.ends_with(p.as_str()))
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
            assert_eq!(
                (lock.blocks(mode, &[]), reader.blocks(mode, &[])),
                (for_lock, for_reader),
                "{mode:?}"
            );
        }
    }

    #[test]
    fn a_lock_waits_for_locks_only() {
        assert!(node("__lock__0000000007").blocks(Mode::Lock, &[]));
        assert!(!node("__rlock__0000000007").blocks(Mode::Lock, &[]));
        assert!(!node("-lock-0000000007").blocks(Mode::Lock, &[]));
        assert!(node("-lock-0000000007").blocks(Mode::Lock, &["-lock-".into()]));
    }

    #[test]
    fn extra_patterns_are_plain_text() {
        assert!(node("a[0000000001").blocks(Mode::Lock, &["a[".into()]));
        assert!(!node("ab0000000001").blocks(Mode::Lock, &["a.".into()]));
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
            assert!(node.blocks(Mode::Lock, &[]), "{tail}");
        }
        assert!(!node("__lock__2146000000").is_exhausted());
        assert_eq!(node("_c_x-lock-0000000003").sequence(), 3, "Curator's dash is not a sign");
    }

    #[test]
    fn a_queue_knows_its_own_nodes_and_no_others() {
        let instance = Instance::new(u128::from_str_radix(UUID, 16).expect("hex"));
        let name = format!("{}{:010}", instance.prefix(Attempt(5), Mode::Lock), 9);
        assert_eq!(instance.attempt(&name), Some(Attempt(5)));
        assert!(name.is_ascii() && name.len() == 32 + 8 + 10, "kazoo's shape: {name}");
        assert_eq!(Instance::new(1 << 100).attempt(&name), None);
        assert_eq!(instance.attempt("é__lock__0000000001"), None);
    }
}
