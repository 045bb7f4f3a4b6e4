//! Requests for several paths under an adversary: the machine that decides for them and the locks below it, in every
//! order in which messages and answers may arrive, with every fault of a stated budget at every step. Rounds are
//! counted in the states: that there is an end to the search says that no request gives back and asks anew without end.
//!
//! - [`world`]: what may happen, and what it does. [`state`]: mailboxes, sessions. [`messages`]: what is on its way.
//! - [`driver`]: what actors do around the machines. [`properties`]: what must hold.
//!
//! What one lock does with the order of answers and with followers is the matter of [`crate::lock`].

mod driver;
mod messages;
mod properties;
mod state;
mod world;

use lockkeeper_actors::machine::Wait;
use properties::*;
use world::Twin::{self, *};
use world::{Budget, Scenario, Wants};

use crate::world::clients::DEADLINE;
use crate::world::gates::Gate::{IgnoresDoubt, PassesStaleResume};
use crate::world::search::{Order, Searches, Twins, catch, is_long, search};

const CROSSED: Wants = Wants { requests: &[(0, &[0, 1]), (1, &[1, 0])], wait: Wait::Forever, missing: &[] };
const PLAIN: Wants = Wants { requests: &[(0, &[0, 1]), (1, &[1])], ..CROSSED };
const THREE: Wants = Wants { requests: &[(0, &[0, 1]), (1, &[1, 0]), (1, &[1])], ..CROSSED };
const LOCAL: Wants = Wants { requests: &[(0, &[0, 1]), (0, &[1, 0])], ..CROSSED };

const CROSSED_TIMED: Wants = Wants { wait: Wait::Until(DEADLINE), ..CROSSED };
const CROSSED_TRY: Wants = Wants { wait: Wait::Try, ..CROSSED };
const CROSSED_NEW: Wants = Wants { missing: &[0, 1], ..CROSSED };
const PLAIN_TRY: Wants = Wants { wait: Wait::Try, ..PLAIN };
const PLAIN_HALF_NEW: Wants = Wants { missing: &[1], ..PLAIN };

const NONE: Budget = Budget::NONE;

/// What is asked for, and what may go wrong.
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
    ("beside a lock", PLAIN, true, Budget { doubts: 1, ..NONE }),
    ("crossed", CROSSED, true, Budget { doubts: 1, ..NONE }),
    ("crossed, with a deadline", CROSSED_TIMED, true, Budget { timeouts: 1, ..NONE }),
    ("crossed tries", CROSSED_TRY, true, NONE),
    ("a try beside a lock", PLAIN_TRY, true, Budget { mislaid: 1, ..NONE }),
    ("a try beside a lock", PLAIN_TRY, true, Budget { doubts: 1, ..NONE }),
    ("crossed, no directories", CROSSED_NEW, true, NONE),
    ("beside a lock, one directory", PLAIN_HALF_NEW, true, Budget { mislaid: 1, cancels: 1, ..NONE }),
    ("beside a lock", PLAIN, true, Budget { removals: 1, cancels: 1, ..NONE }),
];

/// The same, in a longer run.
#[rustfmt::skip]
const LONG_ROWS: &[(&str, Wants, bool, Budget)] = &[
    ("beside a lock", PLAIN, true, Budget { mislaid: 1, losses: 1, ..NONE }),
    ("beside a lock", PLAIN, true, Budget { deletions: 1, doubts: 1, ..NONE }),
    ("beside a lock", PLAIN, true, Budget { losses: 1, cancels: 1, ..NONE }),
];

/// A twin, what it takes to show, and the property that it breaks.
#[rustfmt::skip]
const TWINS: &[(Twin, Wants, Budget, &str)] = &[
    (MadeOneByOne, CROSSED, NONE, ORDER),
    (MadeOneByOne, CROSSED, NONE, DEADLOCK),
    (OnlyMissingAnew, CROSSED, Budget { mislaid: 1, deletions: 1, ..NONE }, ORDER),
    (OnlyMissingAnew, CROSSED, Budget { mislaid: 1, deletions: 1, ..NONE }, DEADLOCK),
    (NothingGivenBack, CROSSED, Budget { cancels: 1, ..NONE }, GHOSTS),
    (GrantedTooEarly, CROSSED, NONE, WHOLE),
    (BackForgotten, PLAIN_HALF_NEW, NONE, WAKING),
    (CancelledByLoss, CROSSED, Budget { losses: 1, ..NONE }, ANSWERS),
    (DoubtOfPartUnheard, THREE, Budget { doubts: 1, ..NONE }, CERTAINTY),
    (Gate(IgnoresDoubt), CROSSED, Budget { losses: 1, ..NONE }, CERTAINTY),
    (Gate(IgnoresDoubt), CROSSED, Budget { doubts: 1, ..NONE }, CERTAINTY),
    (Gate(PassesStaleResume), CROSSED, Budget { doubts: 2, ..NONE }, CERTAINTY),
];

#[test]
fn requests_for_several_paths_keep_their_properties_within_every_budget() {
    let mut table = Searches::new("requests");
    let long = if is_long() { LONG_ROWS } else { &[] };
    for &(name, wants, prompt, budget) in ROWS.iter().chain(long) {
        let searched = search(Scenario { wants, prompt, budget, twin: None }, Order::DepthFirst);
        assert!(searched.examples.contains(&SERVED), "{name}, {budget}: {SERVED}");
        table.row(name, budget, &searched);
    }
    table.print();
}

#[test]
fn every_broken_twin_is_caught() {
    let mut table = Twins::new();
    for &(twin, wants, budget, property) in TWINS {
        let scenario = Scenario { wants, prompt: true, budget, twin: Some(twin) };
        table.row(twin, property, catch(scenario, Order::DepthFirst, property), "states");
    }
    table.print();
}
