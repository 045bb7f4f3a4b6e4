//! The semaphore's machine under an adversary: the real machine, with what its driver does around it, before a small
//! pure ZooKeeper.
//!
//! Searched to the end where few things can go wrong; walked at random, from printed seeds, where many can. Not part of
//! this model: processes that are closed, and the proofs of the lease, which is taken to end
//! before the server drops its session.
//!
//! - [`world`]: what may happen, and what it does. [`driver`], [`mutex`]: what the actor does around the machine.
//! - [`server`]: the root, the mutex and the watches. [`wire`]: requests, answers, and what callers are told.
//! - [`properties`]: what must hold. [`twins`]: machines and servers that break one property each.
//! - [`walks`]: random walks.

mod driver;
mod mutex;
mod properties;
mod server;
mod twins;
mod walks;
mod wire;
mod world;

use std::time::Instant;

use lockkeeper_actors::machine::Wait;
use properties::*;
use twins::Twin::{self, *};
use walks::walk;
use world::{Budget, Scenario, Want};

use crate::world::clients::DEADLINE;
use crate::world::gates::Gate::{IgnoresDoubt, PassesStaleResume};
use crate::world::search::{self, Order, Searches, Twins, catch, search};

const NONE: Budget = Budget::NONE;

/// A handle that follows what is stored, and its variants.
const ONE: Want = Want { count: 1, limit: Some(1), agreed: true, wait: Wait::Forever };
const TWO: Want = Want { count: 2, limit: Some(2), ..ONE };
const TIMED: Want = Want { wait: Wait::Until(DEADLINE), limit: None, ..ONE };
const TRY: Want = Want { wait: Wait::Try, limit: None, ..ONE };

type Wants = &'static [&'static [Want]];

const ALONE: Wants = &[&[ONE]];
const APIECE: Wants = &[&[ONE], &[ONE]];
const CROWD: Wants = &[&[ONE, TWO, TRY], &[TIMED, ONE, TWO]];

const TRIO: Wants = &[&[ONE, TWO], &[ONE]];
/// The first in line may not fit where the one behind it does.
const LARGE_FIRST: Wants = &[&[TWO, ONE], &[ONE]];

/// A handle that was never served, with a number of its own.
const OWN: Want = Want { limit: Some(1), agreed: false, ..ONE };
const NEW: Wants = &[&[OWN], &[ONE]];
const NEWCOMERS: Wants = &[&[OWN, OWN, OWN], &[ONE, OWN]];

/// Searched to the end: two processes with a request each for one permit, or with three for two.
const SEARCHES: &[(&str, Wants, Budget)] = &[
    ("nothing goes wrong", APIECE, NONE),
    ("one cancel", APIECE, Budget { cancels: 1, ..NONE }),
    ("one doubt", APIECE, Budget { doubts: 1, ..NONE }),
    ("one refusal", APIECE, Budget { refusals: 1, ..NONE }),
    ("one denial", APIECE, Budget { denials: 1, ..NONE }),
    ("one crash", APIECE, Budget { crashes: 1, ..NONE }),
    ("one resize", APIECE, Budget { resizes: 1, ..NONE }),
    ("one lagging follower", APIECE, Budget { lags: 1, ..NONE }),
    ("one lost connection", APIECE, Budget { cuts: 1, ..NONE }),
    ("a client of kazoo", APIECE, Budget { peer: 1, ..NONE }),
    ("one node deleted", APIECE, Budget { deletions: 1, ..NONE }),
    ("three claims", TRIO, NONE),
    ("three claims, a cancel", TRIO, Budget { cancels: 1, ..NONE }),
    ("three claims, a doubt", TRIO, Budget { doubts: 1, ..NONE }),
    ("a large one first", LARGE_FIRST, NONE),
    ("the same, a cancel", LARGE_FIRST, Budget { cancels: 1, ..NONE }),
    ("a number of its own", NEW, Budget { resizes: 1, ..NONE }),
];

/// A holder of two permits, or of one and one, which it splits and merges.
const PAIR: Wants = &[&[TWO], &[ONE]];
const TWICE: Wants = &[&[ONE, ONE], &[TWO]];
const REGROUPED: Budget = Budget { splits: 1, merges: 1, ..NONE };

/// Searched to the end too: permits are split and merged.
const REGROUPING_SEARCHES: &[(&str, Wants, Budget)] = &[
    ("two permits together", PAIR, REGROUPED),
    ("the same, a node deleted", PAIR, Budget { deletions: 1, ..REGROUPED }),
    ("two permits in two turns", TWICE, REGROUPED),
];

/// The same, in a longer run.
const LONG_SEARCHES: &[(&str, Wants, Budget)] = &[
    ("the root or the mutex gone", APIECE, Budget { removals: 1, ..NONE }),
    ("one lost session", APIECE, Budget { losses: 1, ..NONE }),
];

const CALM: Budget =
    Budget { cuts: 2, doubts: 2, losses: 1, cancels: 2, timeouts: 1, refusals: 1, lags: 2, ..NONE };
const DENIED: Budget = Budget { denials: 3, crashes: 1, ..CALM };
const RESIZED: Budget = Budget { resizes: 2, peer: 2, denials: 2, ..CALM };
const MEDDLED: Budget = Budget { deletions: 2, removals: 1, ..RESIZED };

/// Walked at random, with each of these numbers of permits on the root or without a root: two processes with three
/// requests each, or so.
const WALKS: &[(&str, Wants, Budget)] = &[
    ("connections, sessions, cancels, deadlines, refusals, lags", CROWD, CALM),
    ("the same, denials, and a crash", CROWD, DENIED),
    ("the first, denials, resizes, and a client of kazoo", CROWD, RESIZED),
    ("the same, and an operator who deletes", CROWD, MEDDLED),
    ("the same, with numbers of their own", NEWCOMERS, MEDDLED),
    ("a resize, with numbers of their own", NEWCOMERS, Budget { resizes: 1, ..NONE }),
    ("all faults, and holders who split and merge", CROWD, Budget { splits: 2, merges: 2, ..MEDDLED }),
];
const LIMITS: [Option<u32>; 4] = [Some(1), Some(2), Some(3), None];

/// What catches each twin, and in what trouble.
const TWINS: &[(Twin, Wants, Option<u32>, Budget, &str)] = &[
    (TakesWithoutMutex, CROWD, Some(1), Budget { deletions: 1, ..NONE }, EXCLUSION),
    (TakesAnyLimit, CROWD, Some(2), Budget { resizes: 1, ..NONE }, EXCLUSION),
    (LeasesOverlooked, CROWD, Some(1), NONE, EXCLUSION),
    (RewritingOverlooked, CROWD, Some(1), Budget { resizes: 1, ..NONE }, TRUTH),
    (RewritingOverlooked, CROWD, Some(2), Budget { removals: 1, ..NONE }, EXCLUSION),
    (LeaseChangeUnseen, CROWD, Some(1), NONE, WAKING),
    (ResizeUnseen, CROWD, Some(1), Budget { resizes: 1, ..NONE }, WAKING),
    (CancelSwallowedDuringTake, CROWD, Some(1), Budget { cancels: 1, ..NONE }, ANSWERS),
    (UnknownTakeTakenForNo, CROWD, Some(1), Budget { cuts: 1, ..NONE }, GHOSTS),
    (LeasesNotFound, CROWD, Some(1), Budget { cuts: 1, ..NONE }, GHOSTS),
    (OneLeaseForgotten, CROWD, Some(2), NONE, GHOSTS),
    (DeniedDeleteTakenForDone, CROWD, Some(2), Budget { denials: 1, ..NONE }, TRUTH),
    (DeniedDeleteTakenForDone, CROWD, Some(2), RESIZED, TRUTH),
    (DeniedListTakenForEmpty, CROWD, Some(1), RESIZED, EXCLUSION),
    (DeniedListTakenForEmpty, NEWCOMERS, Some(1), MEDDLED, EXCLUSION),
    (GrantedWhileSuspended, CROWD, Some(1), Budget { doubts: 1, ..NONE }, CERTAINTY),
    (Gate(IgnoresDoubt), CROWD, Some(1), Budget { doubts: 1, ..NONE }, CERTAINTY),
    (MutexKept, CROWD, Some(1), NONE, GHOSTS),
    (WatchesKept, CROWD, Some(1), NONE, WATCHES),
    (MissingSwallowed, CROWD, Some(1), Budget { deletions: 1, ..NONE }, BACKING),
    (MutexWatchLost, CROWD, Some(1), NONE, WAKING),
    (WakeSwallowed, APIECE, Some(1), Budget { refusals: 1, ..NONE }, RESTING),
    (LossSwallowed, CROWD, Some(1), Budget { losses: 1, ..NONE }, WAKING),
    (HeadPassedOver, CROWD, Some(2), NONE, ORDER),
    (FullForTheFirst, LARGE_FIRST, Some(2), Budget { cancels: 1, ..NONE }, WAKING),
    (SplitForgetsLease, PAIR, Some(2), REGROUPED, BACKING),
    (MergeSwallowed, TWICE, Some(2), REGROUPED, GHOSTS),
    (RegroupedLossSwallowed, PAIR, Some(2), Budget { deletions: 1, ..REGROUPED }, ANSWERS),
    (WaiterTakenForTry, APIECE, Some(1), NONE, TRUTH),
    (NumberNotCompared, NEWCOMERS, Some(2), NONE, TRUTH),
    (LossConfirmed, CROWD, Some(1), Budget { losses: 1, ..NONE }, TRUTH),
    (OldToken, CROWD, Some(1), NONE, TOKENS),
    (ResizeRefusesWaiters, NEWCOMERS, Some(1), Budget { resizes: 1, ..NONE }, TRUTH),
];

/// Those that few walks would meet.
const SEARCHED_TWINS: &[(Twin, Wants, Budget, &str)] = &[
    (SyncSkipped, APIECE, Budget { cuts: 1, ..NONE }, EXCLUSION),
    (FailedSyncIgnored, APIECE, Budget { cuts: 1, ..NONE }, EXCLUSION),
    (Gate(PassesStaleResume), ALONE, Budget { doubts: 2, ..NONE }, CERTAINTY),
];

#[test]
fn searched_to_the_end() {
    let long = if search::walks().is_some() { LONG_SEARCHES } else { &[] };
    search_all("may go wrong", SEARCHES.iter().chain(long));
}

#[test]
fn splits_and_merges_are_searched_to_the_end() {
    search_all("split and merged", REGROUPING_SEARCHES);
}

fn search_all<'a>(name: &str, searches: impl IntoIterator<Item = &'a (&'static str, Wants, Budget)>) {
    let mut table = Searches::new(name);
    for &(name, wants, budget) in searches {
        let limit = wants.iter().copied().flatten().filter_map(|want| want.limit).max();
        let searched = search(Scenario { wants, limit, budget, twin: None }, Order::Steady);
        table.row(name, budget, &searched);
    }
    table.print();
}

#[test]
fn walked_at_random() {
    let walks = search::walks().unwrap_or(1500);
    println!("{:<60} {:>7} {:>9} {:>8}", "may go wrong", "walks", "steps", "seconds");
    for &(name, wants, budget) in WALKS {
        let (begun, mut steps) = (Instant::now(), 0);
        for seed in 0..walks {
            let limit = LIMITS[seed as usize % LIMITS.len()];
            let scenario = Scenario { wants, limit, budget, twin: None };
            let (broken, way) = walk(&scenario, seed);
            steps += way.len();
            assert_eq!(broken, None, "seed {seed}: {way:?}");
        }
        println!("{name:<60} {walks:>7} {steps:>9} {:>8.1}", begun.elapsed().as_secs_f32());
    }
}

#[test]
fn every_broken_twin_is_caught() {
    let mut table = Twins::new();
    for &(twin, wants, limit, budget, property) in TWINS {
        let scenario = Scenario { wants, limit, budget, twin: Some(twin) };
        let caught = (0..2000).find(|seed| walk(&scenario, *seed).0 == Some(property));
        let caught = caught.unwrap_or_else(|| panic!("{twin:?} is not caught by {property:?}"));
        let whole = Scenario { twin: None, ..scenario };
        assert_eq!(walk(&whole, caught).0, None, "without its fault");
        table.row(twin, property, caught, "walks");
    }
    for &(twin, wants, budget, property) in SEARCHED_TWINS {
        let scenario = Scenario { wants, limit: Some(1), budget, twin: Some(twin) };
        table.row(twin, property, catch(scenario, Order::Steady, property), "states");
    }
    table.print();
}
