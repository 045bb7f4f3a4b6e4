//! The machines under an adversary, exhaustively within stated budgets.

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

use std::time::Instant;

use lockkeeper_actors::machine::protocol::Wait;
use lockkeeper_actors::machine::znode::Mode;
use stateright::{Checker, Model};
use world::{Budget, Scenario, Want};

const LOCK: Want = Want { mode: Mode::Lock, wait: Wait::Forever, ephemeral: true };

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

const READ: Want = Want { mode: Mode::Read, ..LOCK };
const WRITE: Want = Want { mode: Mode::Write, ..LOCK };
const LASTING: Want = Want { ephemeral: false, ..LOCK };
const TIMED: Want = Want { wait: Wait::Until(process::DEADLINE), ..LOCK };
const TRY: Want = Want { wait: Wait::Try, ..LOCK };

const LOCKS: &[&[Want]] = &[&[LOCK, LOCK], &[LOCK]];

#[test]
fn every_broken_twin_is_caught() {
    use queue::*;
    use twins::Twin::{self, *};
    let rows: &[(Twin, &'static [&'static [Want]], Budget, &'static str)] = &[
        (CancelSwallowed, LOCKS, Budget { cancels: 1, ..NONE }, GHOSTS),
        (OtherSessionAdopted, LOCKS, Budget { losses: 1, ..NONE }, BACKING),
        (GrantedWhileSuspended, LOCKS, Budget { doubts: 1, ..NONE }, CERTAINTY),
        (HandedOverAcrossSessions, LOCKS, Budget { losses: 1, ..NONE }, EXCLUSION),
        (TokenFromSequence, LOCKS, Budget { removals: 1, ..NONE }, TOKENS),
        (ReleaseForgetsOnError, LOCKS, Budget { refusals: 1, ..NONE }, GHOSTS),
        (UnknownDeleteTakenForDone, LOCKS, Budget { cuts: 1, ..NONE }, ANSWERS),
        (UnknownCreateTakenForFailed, LOCKS, Budget { cuts: 1, ..NONE }, GHOSTS),
        (LookFindsNothing, LOCKS, Budget { cuts: 1, ..NONE }, GHOSTS),
        (WatchesLostOnReconnect, LOCKS, Budget { cuts: 1, ..NONE }, WAKING),
        (WatchOnNothingTakenForArmed, LOCKS, NONE, WAKING),
        (ChangeTakenForGone, LOCKS, Budget { touches: 1, ..NONE }, EXCLUSION),
        (ComparedAcrossTheWrap, LOCKS, NONE, EXCLUSION),
        (ReadersOverlooked, &[&[READ, WRITE], &[WRITE]], NONE, EXCLUSION),
        (WaitersOverlooked, LOCKS, NONE, ORDER),
        (MissingSwallowed, LOCKS, Budget { deletions: 1, ..NONE }, BACKING),
        (DeadlineSwallowed, &[&[LOCK, TIMED], &[LOCK]], Budget { timeouts: 1, ..NONE }, RESTING),
        (OldNewsResumes, LOCKS, Budget { doubts: 2, ..NONE }, CERTAINTY),
    ];
    for &(twin, wants, budget, caught) in rows {
        let next = Some(if twin == ComparedAcrossTheWrap { i32::MAX } else { 0 });
        let scenario =
            Scenario { name: "twin", wants, next, budget, twin: Some(twin), settled: Default::default() };
        let checker = scenario
            .checker()
            .threads(2)
            .finish_when(stateright::HasDiscoveries::AnyOf([caught].into()))
            .spawn_bfs()
            .join();
        println!(
            "{twin:?}: {} unique: {:?}",
            checker.unique_state_count(),
            checker.discoveries().keys().collect::<Vec<_>>()
        );
        match checker.discovery(caught) {
            None => println!(" !! not caught by {caught}"),
            Some(path) => println!("   {:?}", path.into_actions()),
        }
    }
}

#[test]
fn try_it() {
    let two_one: &[&[Want]] = &[&[LOCK, LOCK], &[LOCK]];
    for (name, budget) in [
        ("nothing", NONE),
        ("peer", Budget { peers: 1, ..NONE }),
        ("cancel", Budget { cancels: 1, ..NONE }),
        ("cut", Budget { cuts: 1, ..NONE }),
        ("doubt", Budget { doubts: 1, ..NONE }),
        ("loss", Budget { losses: 1, ..NONE }),
        ("crash", Budget { crashes: 1, ..NONE }),
        ("refusal", Budget { refusals: 1, ..NONE }),
        ("lag", Budget { lags: 1, ..NONE }),
        ("touch", Budget { touches: 1, ..NONE }),
        ("deletion", Budget { deletions: 1, ..NONE }),
        ("removal", Budget { removals: 1, ..NONE }),
        ("close", Budget { closes: 1, ..NONE }),
    ] {
        let scenario =
            Scenario { name, wants: two_one, next: Some(0), budget, twin: None, settled: Default::default() };
        let begun = Instant::now();
        let checker = scenario.checker().threads(1).spawn_dfs().join();
        println!(
            "{name}: {} states, {} unique, depth {}, {:?}",
            checker.state_count(),
            checker.unique_state_count(),
            checker.max_depth(),
            begun.elapsed()
        );
        for (name, path) in checker.discoveries() {
            println!("  {name}: {:?}", path.into_actions());
        }
    }
}
