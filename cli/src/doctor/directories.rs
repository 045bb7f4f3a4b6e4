//! What can be wrong with nodes that are neither locks nor semaphores.

use std::collections::BTreeMap;

use lockkeeper::inspect::Inventory;

use super::finding::{Finding, Kind, Report};

pub fn examine(found: &Inventory, report: &mut Report) {
    report.findings.extend(unreadable(found));
    let mut piles: BTreeMap<&str, usize> = BTreeMap::new();
    for path in &found.empty {
        *piles.entry(parent(path)).or_default() += 1;
    }
    let piles = piles.into_iter().filter(|(_, count)| *count >= PILE);
    report.findings.extend(piles.map(|(path, count)| pile(path, count)));
}

/// How many empty directories in one place are a pile.
const PILE: usize = 100;

fn unreadable(found: &Inventory) -> Option<Finding> {
    let first = found.unreadable.first()?;
    let others = match found.unreadable.len() - 1 {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    Some(Finding {
        kind: Kind::Unreadable,
        path: first.clone(),
        nodes: found.unreadable.clone(),
        what: format!(
            "{first}{others} may not be read with these credentials, so nothing is known of what is there"
        ),
        remedy:
            "give credentials with --auth; contenders of one path must be able to read each other's nodes"
                .to_owned(),
    })
}

fn pile(path: &str, count: usize) -> Finding {
    Finding {
        kind: Kind::EmptyDirectories,
        path: path.to_owned(),
        nodes: Vec::new(),
        what: format!("{count} directories there are empty: nobody uses their locks any more"),
        remedy:
            "delete them, or create them as containers, which the servers delete: run --container-directories, \
             LockOptions::container_directories(true)"
                .to_owned(),
    }
}

fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}
