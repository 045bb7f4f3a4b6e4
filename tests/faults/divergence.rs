//! Members of an ensemble whose data differ. ZooKeeper 3.8.0 has defects after which a server that has joined its leader
//! again lacks changes, and does not notice ([ZOOKEEPER-4712](https://issues.apache.org/jira/browse/ZOOKEEPER-4712)). A
//! client of that server waits for a node that was deleted.

use std::collections::{BTreeMap, BTreeSet};

use zookeeper_client as zk;

use super::stage::{Servers, nodes_at};

/// A member whose data differ from those of the others, and a node that shows it.
#[derive(Debug, PartialEq)]
pub struct Odd {
    pub member: usize,
    pub node: String,
}

/// Finds a member whose data differ from those of the others.
pub async fn odd_member(servers: &Servers) -> Result<Option<Odd>, zk::Error> {
    let addresses = servers.addresses();
    for (member, address) in addresses.iter().enumerate() {
        let before = read(address).await?;
        let mut others = BTreeMap::new();
        for (other, address) in addresses.iter().enumerate().filter(|(other, _)| *other != member) {
            others.insert(other, read(address).await?);
        }
        let after = read(address).await?;
        if let Some(odd) = odd(member, &before, &others, &after) {
            return Ok(Some(odd));
        }
    }
    Ok(None)
}

async fn read(address: &str) -> Result<BTreeSet<String>, zk::Error> {
    Ok(nodes_at(address).await?.into_iter().collect())
}

/// The others were read after `before` and before `after`. No node is created twice, so what a member knows at both times
/// existed in between. If all others lack it, this member is the odd one.
fn odd(
    member: usize,
    before: &BTreeSet<String>,
    others: &BTreeMap<usize, BTreeSet<String>>,
    after: &BTreeSet<String>,
) -> Option<Odd> {
    before.intersection(after).find_map(|node| {
        let lacking: Vec<usize> =
            others.iter().filter(|(_, nodes)| !nodes.contains(node)).map(|(other, _)| *other).collect();
        let member = match *lacking.as_slice() {
            [] => return None,
            [other] if others.len() > 1 => other,
            _ => member,
        };
        Some(Odd { member, node: node.clone() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn judge(before: &str, others: [&str; 2], after: &str) -> Option<(usize, String)> {
        let others = [1, 2].into_iter().zip(others.map(nodes)).collect();
        odd(0, &nodes(before), &others, &nodes(after)).map(|odd| (odd.member, odd.node))
    }

    #[test]
    fn a_node_that_only_one_member_knows_is_too_much() {
        assert_eq!(judge("a b", ["a", "a"], "a b"), Some((0, "b".to_owned())));
    }

    #[test]
    fn a_node_that_only_one_member_lacks_is_missing() {
        assert_eq!(judge("a b", ["a b", "a"], "a b"), Some((2, "b".to_owned())));
    }

    #[test]
    fn nodes_that_come_and_go_are_no_difference() {
        assert_eq!(judge("a b", ["a", "a c"], "a c"), None);
        assert_eq!(judge("", ["a", ""], "b"), None);
    }
}
