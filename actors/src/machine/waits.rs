//! Which contenders each contender of a queue waits for, as far as the names of their nodes show it. For listings.

use std::collections::BTreeMap;

use super::exclusion::{Dialect, Mode};
use super::node::Znode;
use super::patterns::Patterns;

/// For each contender, the index of the nearest one ahead that it waits for; `None` if it holds, or is about to.
///
/// kazoo's locks and its writers have the same names. Where there are readers, clients must be writers, so those are
/// taken for writers here.
pub(crate) fn waits(nodes: &[Znode]) -> Vec<Option<usize>> {
    // The last contender of each kind so far.
    let mut last: BTreeMap<(Dialect, Mode), usize> = BTreeMap::new();
    let mut waits = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let kind = node.dialect().zip(node.mode());
        let blocks = |ahead: &&usize| kind.is_some_and(|kind| blocks(&nodes[**ahead], kind));
        waits.push(last.values().filter(blocks).max().copied());
        if let Some(kind) = kind {
            last.insert(kind, index);
        }
    }
    waits
}

fn blocks(ahead: &Znode, (dialect, mode): (Dialect, Mode)) -> bool {
    let mode = match (dialect, mode) {
        (Dialect::Kazoo, Mode::Lock) => Mode::Write,
        (_, mode) => mode,
    };
    ahead.blocks(dialect, mode, &Patterns::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits_of(names: &[&str]) -> Vec<Option<usize>> {
        let parse = |(number, name): (usize, &&str)| Znode::parse(&format!("a{name}{number:010}"));
        let nodes: Vec<Znode> = names.iter().enumerate().filter_map(parse).collect();
        assert_eq!(nodes.len(), names.len());
        waits(&nodes)
    }

    #[test]
    fn locks_wait_for_the_one_ahead() {
        assert_eq!(waits_of(&["__lock__"; 3]), [None, Some(0), Some(1)]);
        assert_eq!(waits_of(&["-lock-"; 3]), [None, Some(0), Some(1)]);
    }

    #[test]
    fn readers_share_and_wait_for_the_nearest_writer() {
        let names = ["__rlock__", "__rlock__", "__lock__", "__rlock__", "__lock__"];
        assert_eq!(waits_of(&names), [None, None, Some(1), Some(2), Some(3)]);
        let names = ["-__READ__", "-__WRIT__", "-__READ__", "-__READ__"];
        assert_eq!(waits_of(&names), [None, Some(0), Some(1), Some(1)]);
    }

    #[test]
    fn kinds_that_do_not_exclude_each_other_do_not_wait() {
        assert_eq!(waits_of(&["__lock__", "-lock-", "-__WRIT__", "__lock__"]), [None, None, None, Some(0)]);
    }

    #[test]
    fn other_nodes_are_not_in_the_queue() {
        assert_eq!(waits_of(&["config", "__lock__", "config"]), [None, None, None]);
    }
}
