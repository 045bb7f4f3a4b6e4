//! The machines that decide, the real ones, under an adversary: every order in which everything on its way may
//! arrive, with every fault of a stated budget at every step, exhaustively (`stateright`, by 64-bit fingerprints of
//! states). Beside the promises stand broken twins, which must be caught.
//!
//! - [`world`]: processes with their queues and drivers, sessions, a server; what may happen. [`queue`]: the promises.
//! - [`twins`]: wrappers around the real queue that break one.
//! - [`lease`]: leader, follower and links under the session's machine; its promise and its twins.
//!
//! `cargo test -p lockkeeper-actors --test model -- --nocapture` prints the tables. `LOCKKEEPER_MODEL=long` takes the
//! larger budgets, and wants some minutes, an optimised build (`CARGO_PROFILE_TEST_OPT_LEVEL=3`) and some gigabytes.

#![allow(clippy::disallowed_methods, reason = "how long it took is printed")]

#[path = "model/lease.rs"]
mod lease;
#[path = "model/process.rs"]
mod process;
#[path = "model/queue.rs"]
mod queue;
#[path = "model/server.rs"]
mod server;
#[path = "model/twins.rs"]
mod twins;
#[path = "model/world.rs"]
mod world;

use std::fmt::Write;

use lockkeeper_actors::machine::protocol::Wait;
use lockkeeper_actors::machine::znode::Mode;
use queue::*;
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use twins::Twin::{self, *};
use world::{Budget, Scenario, Want};

const LOCK: Want = Want { mode: Mode::Lock, wait: Wait::Forever, ephemeral: true };
const READ: Want = Want { mode: Mode::Read, ..LOCK };
const WRITE: Want = Want { mode: Mode::Write, ..LOCK };
const TRY: Want = Want { wait: Wait::Try, ..LOCK };
const TIMED: Want = Want { wait: Wait::Until(process::DEADLINE), ..LOCK };
const LASTING: Want = Want { ephemeral: false, ..LOCK };

/// Who wants what: a list a process, a request an entry.
type Wants = &'static [&'static [Want]];

const LOCKS: Wants = &[&[LOCK, LOCK], &[LOCK]];
const APART: Wants = &[&[LOCK], &[LOCK], &[LOCK]];
const CROWD: Wants = &[&[LOCK, LOCK, LOCK], &[LOCK]];
const SHARED: Wants = &[&[READ, WRITE], &[READ]];
const WRITERS: Wants = &[&[READ, WRITE], &[WRITE]];
const HASTY: Wants = &[&[LOCK, TRY], &[TIMED]];
const OUTLIVING: Wants = &[&[LASTING, LASTING], &[LASTING]];
const MIXED: Wants = &[&[LASTING, LOCK], &[LASTING]];

/// The number of a directory's first child; or there is no directory yet.
const FRESH: Option<i32> = Some(0);
const MISSING: Option<i32> = None;
const LAST: Option<i32> = Some(i32::MAX);

const NONE: Budget = Budget {
    cuts: 0,
    doubts: 0,
    losses: 0,
    crashes: 0,
    cancels: 0,
    timeouts: 0,
    closes: 0,
    refusals: 0,
    lags: 0,
    touches: 0,
    deletions: 0,
    removals: 0,
    peers: 0,
};

/// Configurations and what may go wrong in each: in every run, and in a long one.
#[rustfmt::skip]
const ROWS: &[(&str, Wants, Option<i32>, Budget, Budget)] = &[
    ("exclusive", LOCKS, FRESH,
        Budget { cuts: 1, cancels: 1, ..NONE },
        Budget { cuts: 2, cancels: 1, peers: 1, ..NONE }),
    ("exclusive", LOCKS, FRESH,
        Budget { losses: 1, ..NONE },
        Budget { losses: 2, cancels: 1, ..NONE }),
    ("exclusive", LOCKS, FRESH,
        Budget { doubts: 1, crashes: 1, ..NONE },
        Budget { doubts: 1, losses: 1, cuts: 1, ..NONE }),
    ("exclusive", LOCKS, FRESH,
        Budget { doubts: 2, ..NONE },
        Budget { doubts: 3, crashes: 1, cancels: 1, ..NONE }),
    ("exclusive", LOCKS, FRESH,
        Budget { lags: 1, touches: 1, cancels: 1, ..NONE },
        Budget { lags: 2, cuts: 1, peers: 1, ..NONE }),
    ("exclusive", LOCKS, FRESH,
        Budget { peers: 1, cancels: 1, ..NONE },
        Budget { peers: 2, crashes: 1, doubts: 1, ..NONE }),
    ("exclusive", LOCKS, FRESH,
        Budget { refusals: 1, cancels: 1, ..NONE },
        Budget { refusals: 2, cuts: 1, ..NONE }),
    ("exclusive", LOCKS, FRESH,
        Budget { deletions: 1, touches: 1, ..NONE },
        Budget { deletions: 2, cuts: 1, ..NONE }),
    ("exclusive", LOCKS, FRESH,
        Budget { removals: 1, ..NONE },
        Budget { removals: 1, losses: 1, ..NONE }),
    ("exclusive", LOCKS, FRESH,
        Budget { closes: 1, cancels: 1, ..NONE },
        Budget { closes: 1, losses: 1, cuts: 1, ..NONE }),
    ("three processes", APART, FRESH,
        Budget { crashes: 1, ..NONE },
        Budget { crashes: 1, losses: 1, ..NONE }),
    ("three processes", APART, FRESH,
        Budget { cuts: 1, ..NONE },
        Budget { cuts: 2, lags: 1, ..NONE }),
    ("four locks", CROWD, FRESH,
        Budget { cancels: 1, ..NONE },
        Budget { cancels: 2, cuts: 1, ..NONE }),
    ("no directory", LOCKS, MISSING,
        Budget { ..NONE },
        Budget { cuts: 1, removals: 1, ..NONE }),
    ("read/write", SHARED, FRESH,
        Budget { cuts: 1, ..NONE },
        Budget { cuts: 1, losses: 1, cancels: 1, ..NONE }),
    ("read/write", SHARED, FRESH,
        Budget { peers: 1, cancels: 1, ..NONE },
        Budget { peers: 2, lags: 1, deletions: 1, ..NONE }),
    ("read/write", WRITERS, FRESH,
        Budget { losses: 1, ..NONE },
        Budget { losses: 1, doubts: 1, peers: 1, ..NONE }),
    ("try and deadline", HASTY, FRESH,
        Budget { timeouts: 1, doubts: 1, ..NONE },
        Budget { timeouts: 1, doubts: 1, losses: 1, ..NONE }),
    ("try and deadline", HASTY, FRESH,
        Budget { timeouts: 1, lags: 1, ..NONE },
        Budget { timeouts: 1, lags: 1, cuts: 1, peers: 1, ..NONE }),
    ("try and deadline", HASTY, FRESH,
        Budget { cuts: 1, ..NONE },
        Budget { cuts: 2, lags: 1, ..NONE }),
    ("outliving sessions", OUTLIVING, FRESH,
        Budget { losses: 1, ..NONE },
        Budget { losses: 2, cuts: 1, ..NONE }),
    ("outliving, or not", MIXED, FRESH,
        Budget { losses: 1, ..NONE },
        Budget { losses: 1, deletions: 1, cancels: 1, ..NONE }),
    ("at the wrap", LOCKS, LAST,
        Budget { cancels: 1, ..NONE },
        Budget { cuts: 1, losses: 1, ..NONE }),
];

/// A twin, who wants what from it, what it takes to show, and the promise that it breaks.
#[rustfmt::skip]
const TWINS: &[(Twin, Wants, Budget, &str)] = &[
    (CancelSwallowed, LOCKS, Budget { cancels: 1, ..NONE }, GHOSTS),
    (OtherSessionAdopted, LOCKS, Budget { losses: 1, ..NONE }, BACKING),
    (GrantedWhileSuspended, LOCKS, Budget { doubts: 1, ..NONE }, CERTAINTY),
    (HandedOverAcrossSessions, LOCKS, Budget { losses: 1, ..NONE }, EXCLUSION),
    (TokenFromSequence, LOCKS, Budget { removals: 1, ..NONE }, TOKENS),
    (ReleaseForgetsOnError, LOCKS, Budget { refusals: 1, ..NONE }, GHOSTS),
    (UnknownDeleteTakenForDone, LOCKS, Budget { cuts: 1, ..NONE }, ANSWERS),
    (UnknownCreateTakenForFailed, LOCKS, Budget { cuts: 1, ..NONE }, GHOSTS),
    (LookFindsNothing, OUTLIVING, Budget { losses: 1, ..NONE }, GHOSTS),
    (WatchesLostOnReconnect, LOCKS, Budget { cuts: 1, ..NONE }, WAKING),
    (WatchOnNothingTakenForArmed, LOCKS, NONE, WAKING),
    (ChangeTakenForGone, LOCKS, Budget { touches: 1, ..NONE }, EXCLUSION),
    (ComparedAcrossTheWrap, LOCKS, NONE, EXCLUSION),
    (ReadersOverlooked, WRITERS, NONE, EXCLUSION),
    (WaitersOverlooked, LOCKS, NONE, ORDER),
    (MissingSwallowed, LOCKS, Budget { deletions: 1, ..NONE }, BACKING),
    (DeadlineSwallowed, HASTY, Budget { timeouts: 1, ..NONE }, RESTING),
    (OldNewsResumes, LOCKS, Budget { doubts: 2, ..NONE }, CERTAINTY),
    (RefusedRepeatedAtOnce, LOCKS, Budget { refusals: 1, ..NONE }, PACING),
    (TryOutlastsDoubt, HASTY, Budget { doubts: 1, ..NONE }, TRYING),
];

#[test]
fn the_queue_keeps_its_promises_within_every_budget() {
    let (mut table, mut sum) = (String::new(), 0);
    for &(name, wants, next, short_budget, long_budget) in ROWS {
        let budget = if is_long() { long_budget } else { short_budget };
        let scenario = Scenario { wants, next, budget, twin: None, settled: Default::default() };
        let begun = std::time::Instant::now();
        let checker =
            scenario.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
        for (promise, path) in checker.discoveries() {
            let kept = checker.model().properties().iter().any(|property| {
                property.name == promise && matches!(property.expectation, Expectation::Sometimes)
            });
            assert!(
                kept,
                "{name}, {budget}: {promise}: {:?}\n{:#?}",
                path.clone().into_actions(),
                path.last_state()
            );
        }
        // Past the wrap nobody is.
        let served = checker.discovery(SERVED).is_some();
        assert_eq!(served, next != LAST, "{name}, {budget}: {SERVED}");
        let states = checker.unique_state_count();
        sum += states;
        let _ = writeln!(
            table,
            "{name:<20} {:<45} {states:>10} {:>4}",
            budget.to_string(),
            begun.elapsed().as_secs()
        );
        if is_long() {
            eprintln!("{name:<20} {:<45} {states:>10} {:>4}", budget.to_string(), begun.elapsed().as_secs());
        }
    }
    println!(
        "{:<20} {:<45} {:>10}\n{table}{:<20} {:<45} {sum:>10}",
        "configuration", "budget", "states", "sum", ""
    );
}

#[test]
fn every_broken_queue_is_caught() {
    let mut table = String::new();
    for &(twin, wants, budget, promise) in TWINS {
        let next = if twin == ComparedAcrossTheWrap { LAST } else { FRESH };
        let scenario = Scenario { wants, next, budget, twin: Some(twin), settled: Default::default() };
        let broken = HasDiscoveries::AnyOf([promise].into());
        let checker = scenario.checker().threads(2).finish_when(broken).spawn_bfs().join();
        assert!(checker.discovery(promise).is_some(), "{twin:?} is not caught by: {promise}");
        let _ = writeln!(table, "{:<35} {promise}", format!("{twin:?}"));
    }
    println!("{:<35} caught by\n{table}", "twin");
}

/// How many steps, timers on time or late, and what may go wrong with a session: in every run, and in a long one.
const LEASES: &[[(u8, bool, lease::Budget); 2]] = &[
    [(7, false, lease::Budget::NONE), (9, false, lease::Budget::NONE)],
    [(7, false, DEPOSED), (8, false, DEPOSED)],
    [(5, true, CUT), (6, true, CUT_AND_DEPOSED)],
    [(5, true, REPLACED), (6, true, REPLACED)],
];
const DEPOSED: lease::Budget = lease::Budget { depositions: 1, ..lease::Budget::NONE };
const CUT: lease::Budget = lease::Budget { cuts: 1, ..lease::Budget::NONE };
const CUT_AND_DEPOSED: lease::Budget = lease::Budget { depositions: 1, ..CUT };
const REPLACED: lease::Budget = lease::Budget { replacements: 1, ..CUT };

const LEASE_TWINS: &[(lease::Twin, lease::Budget)] = &[
    (lease::Twin::DeadlineFromReceiveTime, lease::Budget::NONE),
    (lease::Twin::DeadlineFromConnectsEnd, lease::Budget::NONE),
    (lease::Twin::LeaseFromFollowersRead, lease::Budget::NONE),
    (lease::Twin::GapTooShort, lease::Budget::NONE),
    (lease::Twin::ReconnectProvesItsOwnTime, CUT),
    (lease::Twin::AnswersOvertakeNews, CUT),
    (lease::Twin::ResumeIsBelieved, REPLACED),
];

#[test]
fn a_lease_ends_before_its_session() {
    let (mut table, mut sum) = (String::new(), 0);
    for row in LEASES {
        let (steps, punctual, budget) = row[usize::from(is_long())];
        let scenario = lease::Scenario { steps, punctual, budget, twin: None };
        let checker =
            scenario.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
        if let Some(path) = checker.discovery(lease::DEADLINE) {
            panic!("{steps} steps, {budget}: {:?}\n{:#?}", path.clone().into_actions(), path.last_state());
        }
        let states = checker.unique_state_count();
        sum += states;
        let timers = if punctual { "on time" } else { "or late" };
        let _ = writeln!(table, "{steps:>5} {timers:<10} {:<45} {states:>10}", budget.to_string());
    }
    println!(
        "{:>5} {:<10} {:<45} {:>10}\n{table}{:<62} {sum:>10}",
        "steps", "timers", "budget", "states", "sum"
    );
}

#[test]
fn every_broken_lease_is_caught() {
    let mut table = String::new();
    for &(twin, budget) in LEASE_TWINS {
        let scenario = lease::Scenario { steps: 10, punctual: true, budget, twin: Some(twin) };
        let broken = HasDiscoveries::AnyOf([lease::DEADLINE].into());
        let checker = scenario.checker().threads(2).finish_when(broken).spawn_bfs().join();
        assert!(checker.discovery(lease::DEADLINE).is_some(), "{twin:?} is not caught");
        let _ = writeln!(table, "{:<35} {}", format!("{twin:?}"), lease::DEADLINE);
    }
    println!("{:<35} caught by\n{table}", "twin");
}

fn is_long() -> bool {
    std::env::var("LOCKKEEPER_MODEL").is_ok_and(|budget| budget == "long")
}
