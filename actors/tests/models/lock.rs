//! The lock's machine under an adversary: processes with such a machine each, sessions and a server, in every order in which
//! everything on its way may arrive.
//!
//! - [`world`]: what may happen, and what it does. [`driver`]: what the actor does around the machine, and the server.
//! - [`wire`]: requests, answers, and what callers are told. [`properties`]: what must hold.
//! - [`twins`]: wrappers around the real machine that break one property each.

mod driver;
mod properties;
mod twins;
mod wire;
mod world;

use lockkeeper_actors::machine::Wait;
use lockkeeper_actors::machine::exclusion::Mode;
use properties::*;
use twins::Twin::{self, *};
use world::{Budget, Scenario, Want};

use crate::world::clients::DEADLINE;
use crate::world::gates::Gate::{IgnoresDoubt, PassesStaleResume};
use crate::world::search::{Order, Searches, Twins, catch, is_long, search};

const LOCK: Want = Want { mode: Mode::Lock, wait: Wait::Forever, ephemeral: true, lingers: false };
const READ: Want = Want { mode: Mode::Read, ..LOCK };
const WRITE: Want = Want { mode: Mode::Write, ..LOCK };
const TRY: Want = Want { wait: Wait::Try, ..LOCK };
const TIMED: Want = Want { wait: Wait::Until(DEADLINE), ..LOCK };
const LASTING: Want = Want { ephemeral: false, ..LOCK };
const LINGER: Want = Want { lingers: true, ..LOCK };
const LINGER_READ: Want = Want { lingers: true, ..READ };
const LINGER_TRY: Want = Want { lingers: true, ..TRY };
const LINGER_TIMED: Want = Want { lingers: true, ..TIMED };

/// What is asked for: a list a process, a request an entry.
type Wants = &'static [&'static [Want]];

const LOCKS: Wants = &[&[LOCK, LOCK], &[LOCK]];
const APART: Wants = &[&[LOCK], &[LOCK], &[LOCK]];
const CROWD: Wants = &[&[LOCK, LOCK, LOCK], &[LOCK]];
const SHARED: Wants = &[&[READ, WRITE], &[READ]];
const WRITERS: Wants = &[&[READ, WRITE], &[WRITE]];
const HASTY: Wants = &[&[LOCK, TRY], &[TIMED]];
const OUTLIVING: Wants = &[&[LASTING, LASTING], &[LASTING]];
const LASTING_ALONE: Wants = &[&[LASTING]];
const LINGERING: Wants = &[&[LINGER, LINGER], &[LOCK]];
const ALL_LINGERING: Wants = &[&[LINGER, LINGER], &[LINGER]];
const LINGERING_READERS: Wants = &[&[LINGER_READ, LINGER_READ], &[WRITE]];
const LINGERING_BESIDE: Wants = &[&[LINGER, LOCK, LINGER], &[LOCK]];
const LINGERING_HASTY: Wants = &[&[LINGER, LINGER_TRY], &[LINGER_TIMED]];
const MIXED: Wants = &[&[LASTING, LOCK], &[LASTING]];

/// The number of a directory's first child; or there is no directory yet.
const FRESH: Option<i32> = Some(0);
const MISSING: Option<i32> = None;
const LAST: Option<i32> = Some(i32::MAX);

const NONE: Budget = Budget::NONE;

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
    ("outliving sessions", LASTING_ALONE, FRESH,
        Budget { losses: 1, doubts: 1, ..NONE },
        Budget { losses: 2, doubts: 2, cuts: 1, ..NONE }),
    ("outliving, or not", MIXED, FRESH,
        Budget { losses: 1, ..NONE },
        Budget { losses: 1, deletions: 1, cancels: 1, ..NONE }),
    ("lingering", LINGERING, FRESH,
        Budget { cuts: 1, ..NONE },
        Budget { cuts: 2, cancels: 1, peers: 1, ..NONE }),
    ("lingering", LINGERING, FRESH,
        Budget { losses: 1, ..NONE },
        Budget { losses: 2, cancels: 1, ..NONE }),
    ("lingering", LINGERING, FRESH,
        Budget { doubts: 1, ..NONE },
        Budget { doubts: 2, crashes: 1, cancels: 1, ..NONE }),
    ("lingering", LINGERING, FRESH,
        Budget { lags: 1, ..NONE },
        Budget { lags: 2, cuts: 1, peers: 1, ..NONE }),
    ("lingering", LINGERING, FRESH,
        Budget { peers: 1, ..NONE },
        Budget { peers: 2, crashes: 1, doubts: 1, ..NONE }),
    ("lingering", LINGERING, FRESH,
        Budget { refusals: 1, ..NONE },
        Budget { refusals: 2, peers: 1, cancels: 1, ..NONE }),
    ("lingering", LINGERING, FRESH,
        Budget { deletions: 1, ..NONE },
        Budget { deletions: 2, cuts: 1, ..NONE }),
    ("lingering", LINGERING, FRESH,
        Budget { closes: 1, ..NONE },
        Budget { closes: 1, removals: 1, losses: 1, ..NONE }),
    ("all lingering", ALL_LINGERING, FRESH,
        Budget { cuts: 1, ..NONE },
        Budget { cuts: 1, losses: 1, cancels: 1, ..NONE }),
    ("lingering readers", LINGERING_READERS, FRESH,
        Budget { peers: 1, ..NONE },
        Budget { peers: 2, cuts: 1, losses: 1, ..NONE }),
    ("lingering, or not", LINGERING_BESIDE, FRESH,
        Budget { cancels: 1, ..NONE },
        Budget { losses: 1, cancels: 1, ..NONE }),
    ("lingering, in a hurry", LINGERING_HASTY, FRESH,
        Budget { timeouts: 1, ..NONE },
        Budget { timeouts: 1, doubts: 1, cuts: 1, peers: 1, ..NONE }),
    ("at the wrap", LOCKS, LAST,
        Budget { cancels: 1, ..NONE },
        Budget { cuts: 1, losses: 1, ..NONE }),
];

/// A twin, what is asked of it, what it takes to show, and the property that it breaks.
#[rustfmt::skip]
const TWINS: &[(Twin, Wants, Budget, &str)] = &[
    (CancelSwallowed, LOCKS, Budget { cancels: 1, ..NONE }, GHOSTS),
    (OtherSessionAdopted, LOCKS, Budget { losses: 1, ..NONE }, BACKING),
    (GrantedWhileSuspended, LOCKS, Budget { doubts: 1, ..NONE }, CERTAINTY),
    (HandedOverAcrossSessions, LOCKS, Budget { losses: 1, ..NONE }, EXCLUSION),
    (TokenFromSequence, LOCKS, Budget { removals: 1, ..NONE }, TOKENS),
    (ReleaseForgetsOnError, LOCKS, Budget { refusals: 1, ..NONE }, GHOSTS),
    (UnknownDeleteTakenForDone, LOCKS, Budget { cuts: 1, ..NONE }, ANSWERS),
    (UnknownCreateTakenForFailed, LOCKS, Budget { cuts: 1, ..NONE }, ANSWERS),
    (CreatedNotFound, OUTLIVING, Budget { losses: 1, ..NONE }, GHOSTS),
    (FoundWithoutSync, LOCKS, Budget { cuts: 1, ..NONE }, GHOSTS),
    (ListsNotShared, LOCKS, NONE, PACING),
    (RoomIgnored, CROWD, NONE, PACING),
    (WatchesLostOnReconnect, LOCKS, Budget { cuts: 1, ..NONE }, WAKING),
    (WatchOnNothingTakenForArmed, LOCKS, NONE, WAKING),
    (ChangeTakenForGone, LOCKS, Budget { touches: 1, ..NONE }, EXCLUSION),
    (ComparedAcrossTheWrap, LOCKS, NONE, EXCLUSION),
    (ReadersOverlooked, WRITERS, NONE, EXCLUSION),
    (WaitersOverlooked, LOCKS, NONE, ORDER),
    (MissingSwallowed, LOCKS, Budget { deletions: 1, ..NONE }, BACKING),
    (DeadlineSwallowed, HASTY, Budget { timeouts: 1, ..NONE }, RESTING),
    (Gate(PassesStaleResume), LOCKS, Budget { doubts: 2, ..NONE }, CERTAINTY),
    (Gate(IgnoresDoubt), LOCKS, Budget { doubts: 1, ..NONE }, CERTAINTY),
    (RefusedRepeatedAtOnce, LOCKS, Budget { refusals: 1, ..NONE }, PACING),
    (TryOutlastsDoubt, HASTY, Budget { doubts: 1, ..NONE }, TRYING),
    (WaiterTakenForTry, LOCKS, NONE, ANSWERS),
    (StrangersOverlooked { held: true }, LINGERING, NONE, OVERTAKING),
    (StrangersOverlooked { held: false }, LINGERING, NONE, NOTICED),
    (ChildrenNotWatched, LINGERING, NONE, NOTICED),
    (UnlistedTakenForAlone, LINGERING, Budget { refusals: 1, ..NONE }, NOTICED),
    (LockSharedLikeReaders, LINGERING, NONE, EXCLUSION),
    (DeadlineSwallowed, LINGERING, NONE, RESTING),
    (WatchesLostOnReconnect, LINGERING, Budget { cuts: 1, ..NONE }, NOTICED),
    (HandedOverAcrossSessions, LINGERING, Budget { losses: 1, ..NONE }, EXCLUSION),
    (GrantedWhileSuspended, LINGERING, Budget { doubts: 1, ..NONE }, CERTAINTY),
    (MissingSwallowed, LINGERING, Budget { deletions: 1, ..NONE }, BACKING),
];

#[test]
fn a_lock_keeps_its_properties_within_every_budget() {
    let mut table = Searches::new("configuration");
    for &(name, wants, next, short_budget, long_budget) in ROWS {
        let budget = if is_long() { long_budget } else { short_budget };
        let scenario = Scenario { wants, next, budget, twin: None, settled: Default::default() };
        let searched = search(scenario, Order::DepthFirst);
        // Past the wrap none is.
        assert_eq!(searched.examples.contains(&SERVED), next != LAST, "{name}, {budget}: {SERVED}");
        table.row(name, budget, &searched);
    }
    table.print();
}

#[test]
fn every_broken_twin_is_caught() {
    let mut table = Twins::new();
    for &(twin, wants, budget, property) in TWINS {
        let next = if twin == ComparedAcrossTheWrap { LAST } else { FRESH };
        let scenario = Scenario { wants, next, budget, twin: Some(twin), settled: Default::default() };
        let states = catch(scenario, Order::BreadthFirst, property);
        table.row(twin, property, states, "states");
    }
    table.print();
}
