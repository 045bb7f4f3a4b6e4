//! Requests for several paths under an adversary: the machine that decides for them and the queues below it, the real
//! ones, in every order in which messages and answers may arrive, with every fault of a stated budget at every step,
//! exhaustively (`stateright`, by 64-bit fingerprints of states). Rounds are counted in the states: that there are only
//! so many of them says that nobody gives back and asks anew for ever. Beside the promises stand broken twins, which
//! must be caught.
//!
//! - [`world`]: mailboxes, sessions, a server; what may happen. [`driver`]: what actors do around the machines.
//! - [`properties`]: what must hold.
//!
//! What one queue does with the order of answers, with followers, directories and doubts is the matter of
//! [`crate::lock`].

mod driver;
mod properties;
mod world;

use std::fmt::Write;
use std::time::Instant;

use properties::*;
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use world::Twin::{self, *};
use world::{Budget, Scenario, Wants};

const CROSSED: Wants = &[(0, &[0, 1]), (1, &[1, 0])];
const PLAIN: Wants = &[(0, &[0, 1]), (1, &[1])];
const THREE: Wants = &[(0, &[0, 1]), (1, &[1, 0]), (1, &[1])];
const LOCAL: Wants = &[(0, &[0, 1]), (0, &[1, 0])];

const NONE: Budget = Budget::NONE;

/// Who wants what, and what may go wrong.
#[rustfmt::skip]
const ROWS: &[(&str, Wants, bool, Budget)] = &[
    ("crossed", CROSSED, false, NONE),
    ("crossed", CROSSED, false, Budget { mislaid: 1, ..NONE }),
    ("and a lock", THREE, true, NONE),
    ("beside a lock", PLAIN, true, Budget { losses: 1, ..NONE }),
    ("one process", LOCAL, true, Budget { cancels: 1, ..NONE }),
    ("crossed", CROSSED, true, Budget { cancels: 1, ..NONE }),
    ("crossed", CROSSED, true, Budget { deletions: 1, ..NONE }),
    ("crossed", CROSSED, true, Budget { losses: 1, ..NONE }),
];

/// A twin, what it takes to show, and the promise that it breaks.
#[rustfmt::skip]
const TWINS: &[(Twin, Wants, Budget, &str)] = &[
    (MadeOneByOne, CROSSED, NONE, ORDER),
    (MadeOneByOne, CROSSED, NONE, DEADLOCK),
    (OnlyMissingAnew, CROSSED, Budget { mislaid: 1, deletions: 1, ..NONE }, ORDER),
    (OnlyMissingAnew, CROSSED, Budget { mislaid: 1, deletions: 1, ..NONE }, DEADLOCK),
    (NothingGivenBack, CROSSED, Budget { cancels: 1, ..NONE }, GHOSTS),
    (GrantedTooEarly, CROSSED, NONE, WHOLE),
];

#[test]
fn requests_for_several_paths_keep_their_promises_within_every_budget() {
    let (mut table, mut sum) = (String::new(), 0);
    for &(name, wants, prompt, budget) in ROWS {
        let scenario = Scenario { wants, prompt, budget, twin: None };
        let begun = Instant::now();
        let checker =
            scenario.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
        for (promise, path) in checker.discoveries() {
            let kept = checker.model().properties().iter().any(|property| {
                property.name == promise && matches!(property.expectation, Expectation::Sometimes)
            });
            let (end, actions) = (path.last_state().clone(), path.into_actions());
            assert!(kept, "{name}, {budget}: {promise}: {actions:?}\n{end:#?}");
        }
        assert!(checker.discovery(SERVED).is_some(), "{name}, {budget}: {SERVED}");
        let (states, seconds) = (checker.unique_state_count(), begun.elapsed().as_secs());
        sum += states;
        let _ = writeln!(table, "{name:<20} {:<30} {states:>10} {seconds:>4}", budget.to_string());
    }
    println!(
        "{:<20} {:<30} {:>10}\n{table}{:<20} {:<30} {sum:>10}",
        "requests", "budget", "states", "sum", ""
    );
}

#[test]
fn every_broken_twin_is_caught() {
    let mut table = String::new();
    for &(twin, wants, budget, promise) in TWINS {
        let scenario = Scenario { wants, prompt: true, budget, twin: Some(twin) };
        let broken = HasDiscoveries::AnyOf([promise].into());
        let checker = scenario.checker().threads(2).finish_when(broken).spawn_dfs().join();
        assert!(checker.discovery(promise).is_some(), "{twin:?} is not caught by: {promise}");
        let _ =
            writeln!(table, "{:<20} {promise:<25} {:>10}", format!("{twin:?}"), checker.unique_state_count());
    }
    println!("{:<20} {:<25} {:>10}\n{table}", "twin", "caught by", "states");
}
