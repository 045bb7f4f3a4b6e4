//! What a look has shown: things that are wrong, and things that could not be checked.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::text::foreign;

/// What is wrong, and what to do. The names of kinds are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node that outlives sessions, and whose owner is not known to live.
    Orphan,
    /// Contenders of a path that do not see each other.
    MixedDialects,
    /// A directory that runs out of sequence numbers.
    SequenceNumbers,
    /// A lock that is held beside readers.
    LockBesideReaders,
    /// More permits are taken than there are.
    TooManyPermits,
    /// Permits are free, and the first one in the queue waits for more.
    MutexKept,
    /// Sessions that hold and wait for each other.
    Cycle,
    /// Nodes that may not be read.
    Unreadable,
    /// Directories that nobody uses any more.
    EmptyDirectories,
}

/// What a look has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub unchecked: Vec<Unchecked>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    /// The path of the lock, the semaphore or the directory.
    pub path: String,
    /// The nodes that it is about.
    pub nodes: Vec<String>,
    pub what: String,
    pub remedy: String,
}

/// A kind of finding that could not be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchecked {
    pub kind: Kind,
    /// The path of the lock or semaphore.
    pub path: String,
    pub why: String,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Orphan => "orphan",
            Kind::MixedDialects => "mixed-dialects",
            Kind::SequenceNumbers => "sequence-numbers",
            Kind::LockBesideReaders => "lock-beside-readers",
            Kind::TooManyPermits => "too-many-permits",
            Kind::MutexKept => "mutex-kept",
            Kind::Cycle => "cycle",
            Kind::Unreadable => "unreadable",
            Kind::EmptyDirectories => "empty-directories",
        }
    }
}

impl Finding {
    /// Whether two looks have found the same. Counts in the text may differ.
    pub fn is_same(&self, other: &Finding) -> bool {
        (self.kind, &self.path, &self.nodes) == (other.kind, &other.path, &other.nodes)
    }

    pub fn json(&self) -> Value {
        json!({
            "kind": self.kind.name(),
            "path": self.path,
            "nodes": self.nodes,
            "what": self.what,
            "do": self.remedy,
        })
    }

    pub fn write(&self, out: &mut impl Write, colours: bool) -> io::Result<()> {
        let (path, what) = (foreign(&self.path, usize::MAX), foreign(&self.what, usize::MAX));
        match colours {
            true => writeln!(out, "\x1b[1;31m{}\x1b[0m \x1b[1m{path}\x1b[0m", self.kind.name())?,
            false => writeln!(out, "{} {path}", self.kind.name())?,
        }
        writeln!(out, "    {what}")?;
        writeln!(out, "    {}", foreign(&self.remedy, usize::MAX))
    }
}

impl Unchecked {
    pub fn json(&self) -> Value {
        json!({ "kind": self.kind.name(), "path": self.path, "why": self.why })
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (path, why) = (foreign(&self.path, usize::MAX), foreign(&self.why, usize::MAX));
        writeln!(out, "not checked: {} {path}\n    {why}", self.kind.name())
    }
}
