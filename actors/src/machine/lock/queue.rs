//! The queue of a path: its known nodes, in order.
//!
//! Each kind of contender has a view of the queue: the nodes that block this kind, and the waiting contenders of this
//! kind. So the next contender of a kind and its predecessors are found without a walk through the queue.

use super::protocol::Request;
use crate::machine::exclusion::{Dialect, Mode};
use crate::machine::node::{Attempt, Znode};
use crate::machine::patterns::Patterns;
use crate::machine::small_map::{SmallMap, SmallSet};

/// The known nodes of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Queue {
    /// The nodes of wanted local contenders.
    local: SmallMap<Znode, Attempt>,
    /// Nodes of other processes that a list has shown and that have not been crossed off since.
    foreign: SmallSet<Znode>,
    /// A view for each kind of local contender, in their order. There are few.
    views: Vec<View>,
}

/// The kind of a contender: what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Kind {
    dialect: Dialect,
    mode: Mode,
    patterns: Patterns,
}

/// The queue as contenders of one kind see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct View {
    kind: Kind,
    /// The number of local contenders of this kind.
    contenders: usize,
    /// The number of those that still want the lock.
    wanted: usize,
    /// Those of them that wait.
    waiting: SmallSet<Znode>,
    /// The local nodes that block this kind.
    local: SmallSet<Znode>,
    /// The foreign nodes that block this kind.
    foreign: SmallSet<Znode>,
}

/// What a waiter is blocked by.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ahead<'a> {
    Nobody,
    /// A local contender. Its end is an event of this machine.
    Local,
    Foreign {
        nearest: &'a Znode,
        /// Whether it is the only one.
        only: bool,
    },
}

/// The number of nodes that block contenders of a kind and are ahead of a node.
pub(super) struct Count {
    node: Znode,
    ahead: usize,
}

impl Request {
    pub(super) fn kind(&self) -> Kind {
        let Request { dialect, mode, patterns, .. } = self;
        Kind { dialect: *dialect, mode: *mode, patterns: patterns.clone() }
    }
}

impl Kind {
    /// Whether a contender of this kind must wait for `node` if that is ahead.
    pub fn waits_for(&self, node: &Znode) -> bool {
        node.blocks(self.dialect, self.mode, &self.patterns)
    }

    /// Whether a contender of this kind and that of `node` follow different rules, so that both could hold at the same
    /// time.
    pub fn clashes(&self, node: &Znode) -> bool {
        node.clashes(self.dialect, self.mode, &self.patterns)
    }
}

impl Queue {
    /// Adds a local contender of this kind, which has no node yet.
    pub fn enter(&mut self, kind: Kind) {
        match self.find(&kind) {
            Ok(index) => self.views[index].contenders += 1,
            Err(index) => {
                let view = View {
                    contenders: 1,
                    wanted: 0,
                    waiting: SmallSet::default(),
                    local: blocking(&kind, self.local.keys()),
                    foreign: blocking(&kind, self.foreign.keys()),
                    kind,
                };
                // Most paths have one.
                self.views.reserve_exact(1);
                self.views.insert(index, view);
            }
        }
    }

    /// Removes a local contender of this kind, which has no node any more.
    pub fn exit(&mut self, kind: &Kind) {
        let Ok(index) = self.find(kind) else { return };
        self.views[index].contenders -= 1;
        if self.views[index].contenders == 0 {
            self.views.remove(index);
        }
    }

    pub fn add_local(&mut self, node: Znode, attempt: Attempt) {
        for view in self.views.iter_mut().filter(|view| view.kind.waits_for(&node)) {
            view.local.insert(node.clone(), ());
        }
        self.local.insert(node, attempt);
    }

    pub fn remove_local(&mut self, node: &Znode) {
        for view in &mut self.views {
            view.local.remove(node);
        }
        self.local.remove(node);
    }

    pub fn add_foreign(&mut self, node: Znode) {
        for view in self.views.iter_mut().filter(|view| view.kind.waits_for(&node)) {
            view.foreign.insert(node.clone(), ());
        }
        self.foreign.insert(node, ());
    }

    pub fn remove_foreign(&mut self, node: &Znode) {
        for view in &mut self.views {
            view.foreign.remove(node);
        }
        self.foreign.remove(node);
    }

    pub fn clear_foreign(&mut self) {
        self.views.iter_mut().for_each(|view| view.foreign.clear());
        self.foreign.clear();
    }

    /// Marks a local contender as waiting, or as no longer waiting.
    pub fn set_waiting(&mut self, kind: &Kind, node: &Znode, waits: bool) {
        let Ok(index) = self.find(kind) else { return };
        let waiting = &mut self.views[index].waiting;
        match waits {
            true => waiting.insert(node.clone(), ()),
            false => {
                waiting.remove(node);
            }
        }
    }

    /// Notes that a local contender begins or ceases to want the lock.
    pub fn count_wanted(&mut self, kind: &Kind, before: bool, after: bool) {
        let Ok(index) = self.find(kind) else { return };
        let view = &mut self.views[index];
        view.wanted = view.wanted + usize::from(after) - usize::from(before);
    }

    /// The number of local contenders in each mode that want the lock.
    pub fn wanted(&self) -> impl Iterator<Item = (Mode, usize)> {
        self.views.iter().map(|view| (view.kind.mode, view.wanted))
    }

    /// Whether foreign nodes are ahead of this one that block contenders of this kind.
    pub fn is_behind_foreign(&self, kind: &Kind, node: &Znode) -> bool {
        self.view(kind).is_some_and(|view| view.foreign.range(..node).next().is_some())
    }

    pub fn anyone_waits(&self) -> bool {
        self.views.iter().any(|view| !view.waiting.is_empty())
    }

    /// The first waiter of each kind, with what it is blocked by. If it is blocked, so are all waiters of its kind.
    pub fn first_waiters(&self) -> impl Iterator<Item = (&Znode, Ahead<'_>)> {
        self.views.iter().filter_map(|view| view.waiting.keys().next().map(|node| (node, view.ahead(node))))
    }

    /// The first waiter that is not blocked.
    pub fn first_free(&self) -> Option<&Znode> {
        self.first_waiters().filter(|(_, ahead)| *ahead == Ahead::Nobody).map(|(node, _)| node).min()
    }

    pub fn attempt(&self, node: &Znode) -> Option<Attempt> {
        self.local.get(node).copied()
    }

    /// The nodes of wanted local contenders.
    pub fn local(&self) -> impl Iterator<Item = (&Znode, Attempt)> {
        self.local.iter().map(|(node, attempt)| (node, *attempt))
    }

    /// The nodes of wanted local contenders, from this one on.
    pub fn local_from(&self, node: &Znode) -> impl Iterator<Item = (&Znode, Attempt)> {
        self.local.range(node..).map(|(node, attempt)| (node, *attempt))
    }

    /// The foreign nodes ahead of this one.
    pub fn foreign_before(&self, node: &Znode) -> impl Iterator<Item = &Znode> {
        self.foreign.range(..node).map(|(node, ())| node)
    }

    /// Whether a local node blocks contenders of this kind.
    pub fn blocks_locally(&self, kind: &Kind) -> bool {
        match self.view(kind) {
            Some(view) => !view.local.is_empty(),
            None => self.local.keys().any(|node| kind.waits_for(node)),
        }
    }

    /// Counts the nodes ahead of this one that block contenders of this kind. `last` is the count of an earlier node.
    pub fn count(&self, kind: &Kind, node: &Znode, last: Option<&Count>) -> Count {
        let ahead = self.view(kind).map_or(0, |view| match last {
            Some(Count { node: from, ahead }) => {
                ahead + view.local.range(from..node).count() + view.foreign.range(from..node).count()
            }
            None => view.local.range(..node).count() + view.foreign.range(..node).count(),
        });
        Count { node: node.clone(), ahead }
    }

    fn view(&self, kind: &Kind) -> Option<&View> {
        self.find(kind).ok().map(|index| &self.views[index])
    }

    /// The place of a kind's view, or where it belongs.
    fn find(&self, kind: &Kind) -> Result<usize, usize> {
        self.views.binary_search_by(|view| view.kind.cmp(kind))
    }
}

impl Count {
    pub fn ahead(&self) -> usize {
        self.ahead
    }
}

/// Those of these nodes that contenders of this kind wait for.
fn blocking<'a>(kind: &Kind, nodes: impl Iterator<Item = &'a Znode>) -> SmallSet<Znode> {
    nodes.filter(|node| kind.waits_for(node)).map(|node| (node.clone(), ())).collect()
}

impl View {
    fn ahead(&self, node: &Znode) -> Ahead<'_> {
        if self.local.range(..node).next().is_some() {
            return Ahead::Local;
        }
        let mut foreign = self.foreign.range(..node);
        match foreign.next_back() {
            Some((nearest, ())) => Ahead::Foreign { nearest, only: foreign.next().is_none() },
            None => Ahead::Nobody,
        }
    }
}
