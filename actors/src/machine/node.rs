//! The nodes of contenders: their names, owners and order.

use std::fmt::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use super::exclusion::{Dialect, KAZOO, MARKERS, Mode, row};
use super::patterns::Patterns;

/// The unique prefix of the nodes that one machine creates: a version 4 UUID whose last 48 bits count the attempts.
///
/// The random number belongs to a machine, not to a single attempt, so it shows a node's owner: a machine recognizes
/// its own nodes in a listing, and a supervisor those of an actor that died. As with kazoo's prefix, a node whose
/// create was not answered is found by its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instance(u128);

const ATTEMPT_BITS: u32 = 48;

impl Instance {
    /// An instance from a random UUID. The last 48 bits are not used.
    pub fn new(random: u128) -> Instance {
        Instance(random >> ATTEMPT_BITS << ATTEMPT_BITS)
    }

    /// A part of the random number, to spread the retries of different processes.
    pub(crate) fn spread(self) -> u32 {
        (self.0 >> 64) as u32
    }

    /// A node's name without the sequence number, as it is sent with the create.
    pub fn prefix(self, attempt: Attempt, dialect: Dialect, mode: Mode) -> String {
        let (unique, marker) = (self.unique(attempt), row(dialect, mode).own);
        // With room for the sequence number.
        let mut name = String::with_capacity(NAME);
        // Writing to a string does not fail.
        let _ = match dialect {
            Dialect::Kazoo => write!(name, "{unique:032x}{marker}"),
            Dialect::Curator => {
                let digits = self.lease(attempt);
                let [a, b, c, d, e] = UUID_GROUPS.map(|group| &digits[group]);
                write!(name, "{PROTECTED}{a}-{b}-{c}-{d}-{e}{marker}")
            }
        };
        name
    }

    /// The name of a semaphore's lease, which has no sequence number.
    pub fn lease(self, attempt: Attempt) -> String {
        format!("{:032x}", self.unique(attempt))
    }

    fn unique(self, attempt: Attempt) -> u128 {
        self.0 | u128::from(attempt.0)
    }

    /// The attempt that created a node, if the node belongs to this instance.
    pub fn attempt(self, name: &str) -> Option<Attempt> {
        let unique = match name.strip_prefix(PROTECTED) {
            Some(rest) => u128::from_str_radix(&rest.get(..36)?.replace('-', ""), 16).ok()?,
            None => u128::from_str_radix(name.get(..32)?, 16).ok()?,
        };
        (unique >> ATTEMPT_BITS << ATTEMPT_BITS == self.0)
            .then_some(Attempt((unique & ((1 << ATTEMPT_BITS) - 1)) as u64))
    }
}

/// Curator's prefix for creates that can be found again after a lost answer (`withProtection`).
const PROTECTED: &str = "_c_";
/// The length of the longest name: Curator's prefix, a UUID, the longest marker and a sequence number.
const NAME: usize = 3 + 36 + 9 + 11;
const UUID_GROUPS: [Range<usize>; 5] = [0..8, 8..12, 12..16, 16..20, 20..32];

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({:x})", self.0 >> ATTEMPT_BITS)
    }
}

/// One attempt to create a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt(pub u64);

/// A child of a lock's directory whose name ends in a sequence number. Ordered by that number. Cheap to clone.
///
/// One pointer, because a path has several sets of nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Znode(Arc<Name>);

#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Name {
    sequence: i64,
    text: String,
}

impl Znode {
    /// Parses a child's name. `None` when it has no sequence number, so it is not a contender.
    pub fn parse(name: &str) -> Option<Znode> {
        Znode::named(name.to_owned())
    }

    /// The same as [`parse`](Znode::parse), without a copy of the name.
    pub fn named(name: String) -> Option<Znode> {
        let sequence = sequence(&name)?;
        Some(Znode(Arc::new(Name { sequence, text: name })))
    }

    /// The name within the directory.
    pub fn name(&self) -> &str {
        &self.0.text
    }

    /// The sequence number.
    pub fn sequence(&self) -> i64 {
        self.0.sequence
    }

    /// The mode that the name shows, for listings; `None` when the node is not a contender of any dialect.
    pub fn mode(&self) -> Option<Mode> {
        let stem = self.stem();
        MARKERS.into_iter().find(|(marker, _)| stem.ends_with(marker)).map(|(_, mode)| mode)
    }

    /// The dialect that the name shows, for listings; `None` when the node is not a contender of any dialect.
    pub fn dialect(&self) -> Option<Dialect> {
        let stem = self.stem();
        let is_kazoo = KAZOO.iter().any(|marker| stem.ends_with(marker));
        self.mode().map(|_| if is_kazoo { Dialect::Kazoo } else { Dialect::Curator })
    }

    /// Whether a contender of this kind, with these extra patterns, must wait for this node if it is ahead.
    pub fn blocks(&self, dialect: Dialect, mode: Mode, patterns: &Patterns) -> bool {
        let stem = self.stem();
        row(dialect, mode).blocked_by.iter().any(|marker| stem.ends_with(marker))
            || patterns.matches(self.name())
    }

    /// Whether this contender and one of the given kind follow different rules, so that both could hold at the same
    /// time. An extra pattern that matches this node prevents that.
    pub fn clashes(&self, dialect: Dialect, mode: Mode, patterns: &Patterns) -> bool {
        let stem = self.stem();
        let related = row(dialect, mode).family.iter().any(|marker| stem.ends_with(marker));
        self.mode().is_some() && !related && !patterns.matches(self.name())
    }

    /// Whether the sequence number is near the end of its range or past it. Past it, the order is meaningless.
    pub fn is_exhausted(&self) -> bool {
        !(0..i64::from(i32::MAX) - 1_000_000).contains(&self.sequence())
    }

    fn stem(&self) -> &str {
        let name = self.name();
        let width = if self.sequence() < 0 { name.len() - name.rfind('-').unwrap_or(0) } else { 10 };
        &name[..name.len() - width]
    }
}

/// The sequence number at the end of a name.
fn sequence(name: &str) -> Option<i64> {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    // The server prints the number with `%010d`. That is ten digits or, after the counter has wrapped, a minus sign with
    // nine or ten digits. A dash before ten digits can also be the end of a marker (`-lock-`). Then the number has not
    // wrapped: only a wrapped number has ten digits without a leading zero after its sign.
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
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::exclusion::{CURATOR_LOCK, CURATOR_READ, CURATOR_WRITE, KAZOO_LOCK, KAZOO_READ};

    const UUID: &str = "c95a8f1fbd1c4c3f8b3e9a5b7c2d1e0f";

    fn node(tail: &str) -> Znode {
        Znode::parse(&format!("{UUID}{tail}")).expect("it ends in a sequence number")
    }

    fn patterns(texts: &[&str]) -> Patterns {
        Patterns::new(texts.iter().copied()).expect("valid patterns")
    }

    #[test]
    fn each_mode_waits_for_its_blockers() {
        let (lock, reader) = (node("__lock__0000000007"), node("__rlock__0000000007"));
        for (mode, for_lock, for_reader) in
            [(Mode::Lock, true, false), (Mode::Read, true, false), (Mode::Write, true, true)]
        {
            let blocks = |node: &Znode| node.blocks(Dialect::Kazoo, mode, &patterns(&[]));
            assert_eq!((blocks(&lock), blocks(&reader)), (for_lock, for_reader), "{mode:?}");
        }
    }

    /// One row for each kind of contender: `w` for kinds it waits for, `x` for kinds it cannot share a queue with, and
    /// `-` for kinds it ignores.
    #[test]
    fn every_pair_of_kinds_waits_clashes_or_is_ignored() {
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
            let none = patterns(&[]);
            let relation = |node: &Znode| match (
                node.blocks(dialect, mode, &none),
                node.clashes(dialect, mode, &none),
            ) {
                (true, false) => 'w',
                (false, true) => 'x',
                (false, false) => '-',
                (true, true) => '?',
            };
            assert_eq!(nodes.iter().map(relation).collect::<String>(), expected, "{dialect:?} {mode:?}");
        }
    }

    #[test]
    fn an_extra_pattern_turns_a_clash_into_waiting() {
        let (lock, config) = (node("-lock-0000000007"), node("config0000000007"));
        assert!(!lock.clashes(Dialect::Kazoo, Mode::Lock, &patterns(&["-lock-"])));
        assert!(lock.blocks(Dialect::Kazoo, Mode::Lock, &patterns(&["-lock-"])));
        assert!(!config.clashes(Dialect::Kazoo, Mode::Lock, &patterns(&[])), "it is not a contender");
    }

    #[test]
    fn a_lock_waits_for_locks_only() {
        let blocks = |tail, texts: &[&str]| node(tail).blocks(Dialect::Kazoo, Mode::Lock, &patterns(texts));
        assert!(blocks("__lock__0000000007", &[]));
        assert!(!blocks("__rlock__0000000007", &[]));
        assert!(!blocks("-lock-0000000007", &[]));
        assert!(blocks("-lock-0000000007", &["-lock-"]));
    }

    #[test]
    fn names_of_other_nodes_are_ignored() {
        for name in ["", "config", "__lock__", "__lock__12345", "x-", "-", "-12345"] {
            assert_eq!(Znode::parse(name), None, "{name:?}");
        }
        assert_eq!(node("__lock__0000000007").sequence(), 7);
        assert_eq!(Znode::parse("0000000042").map(|node| node.sequence()), Some(42));
    }

    #[test]
    fn wrapped_numbers_are_parsed_and_exhausted() {
        for tail in ["__lock__-2147483648", "__lock__-999999999", "__lock__-000000001", "__lock__2147483647"]
        {
            let node = node(tail);
            assert!(node.is_exhausted(), "{tail}");
            assert!(node.blocks(Dialect::Kazoo, Mode::Lock, &patterns(&[])), "{tail}");
        }
        assert!(!node("__lock__2146000000").is_exhausted());
        assert_eq!(node("_c_x-lock-0000000003").sequence(), 3, "Curator's dash is not a sign");
        let wrapped = node("-lock--2147483648");
        assert!(wrapped.is_exhausted() && wrapped.blocks(Dialect::Curator, Mode::Lock, &patterns(&[])));
    }

    #[test]
    fn an_instance_recognizes_its_own_nodes_and_no_others() {
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
