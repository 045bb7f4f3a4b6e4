//! Sessions that hold and wait for each other.

use std::collections::{BTreeMap, BTreeSet};

use lockkeeper::inspect::{Entry, PathState};

use super::finding::{Finding, Kind, Report};
use crate::list::{identifier, waiters};
use crate::text::session;

/// One session waits at a path for what another one holds there.
struct Wait<'a> {
    path: &'a str,
    waiter: &'a Entry,
    holder: i64,
}

pub fn examine(places: &[PathState], report: &mut Report) {
    let waits: Vec<Wait<'_>> = places.iter().flat_map(waits_at).collect();
    let mut by_waiter: BTreeMap<i64, Vec<&Wait<'_>>> = BTreeMap::new();
    for wait in &waits {
        by_waiter.entry(wait.waiter.contender.session.unwrap_or_default()).or_default().push(wait);
    }
    let mut reported = BTreeSet::new();
    for start in by_waiter.keys().copied() {
        if reported.contains(&start) {
            continue;
        }
        if let Some(cycle) = way_back(start, &by_waiter) {
            reported.extend(cycle.iter().map(|wait| wait.holder));
            report.findings.push(finding(&cycle));
        }
    }
}

/// Which sessions wait for which at a place.
fn waits_at(place: &PathState) -> Vec<Wait<'_>> {
    let holders: Vec<i64> = match place {
        PathState::Semaphore(pool) => match pool.limit {
            Some(limit) if pool.taken.len() < limit as usize => Vec::new(),
            _ => pool.taken.iter().filter_map(|taken| taken.holder.session).collect(),
        },
        state => state.queue().holders().filter_map(|entry| entry.contender.session).collect(),
    };
    let holders: BTreeSet<i64> = holders.into_iter().collect();
    let mut waits = Vec::new();
    for waiter in waiters(place) {
        let others = holders
            .iter()
            .filter(|holder| waiter.contender.session.is_some_and(|session| session != **holder));
        waits.extend(others.map(|holder| Wait { path: place.path(), waiter, holder: *holder }));
    }
    waits
}

/// The shortest way from a session along its waits back to itself.
fn way_back<'a>(start: i64, by_waiter: &BTreeMap<i64, Vec<&'a Wait<'a>>>) -> Option<Vec<&'a Wait<'a>>> {
    let mut ways: Vec<Vec<&Wait<'_>>> = vec![Vec::new()];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let at = way.last().map_or(start, |wait| wait.holder);
            for wait in by_waiter.get(&at).into_iter().flatten() {
                let next: Vec<&Wait<'_>> = way.iter().copied().chain([*wait]).collect();
                if wait.holder == start {
                    return Some(next);
                }
                if seen.insert(wait.holder) {
                    longer.push(next);
                }
            }
        }
        ways = longer;
    }
    None
}

fn finding(cycle: &[&Wait<'_>]) -> Finding {
    let steps = cycle.iter().map(|wait| {
        let contender = &wait.waiter.contender;
        format!(
            "{} ({}) waits at {} for session {}",
            identifier(&contender.identifier, wait.waiter.readable),
            session(contender.session),
            wait.path,
            session(Some(wait.holder))
        )
    });
    let mut nodes: Vec<String> = cycle.iter().map(|wait| wait.waiter.contender.name.clone()).collect();
    nodes.sort();
    Finding {
        kind: Kind::Cycle,
        path: cycle.first().map(|wait| wait.path.to_owned()).unwrap_or_default(),
        nodes,
        what: format!("these sessions hold and wait for each other: {}", steps.collect::<Vec<_>>().join("; ")),
        remedy: "if each holds while it waits, none goes on: end one of them, and acquire such paths together, with a \
                 multi-lock"
            .to_owned(),
    }
}
