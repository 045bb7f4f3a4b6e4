//! Runs the actors under random schedules of faults, in virtual time.
//!
//! Everything above the `ZooKeeper` trait is the product's code: keepers, session actors and lock actors, in two or
//! three processes. Below it are a simulated network, and an ensemble built from the embedded server's core. The seed
//! determines everything.
//!
//! Not simulated: observers. When an operator deletes a node or ends a session by hand, the holder cannot know at once.
//! Such leases are exempt from the check for exclusion; they must only be noticed in time.
//!
//! A node that outlives sessions blocks its path after its owner has crashed, until an operator deletes it with the
//! product's own means. So does one of a create that was carried out after its owner had looked for the node in the next
//! session. All other nodes must be deleted by their owners.
//!
//! - `LOCKKEEPER_SIMULATION_SEED=<seed>` runs one schedule and prints its history.
//! - `LOCKKEEPER_SIMULATION_SCHEDULES=<count>` sets the number of schedules; the default is one thousand. From ten
//!   thousand on, every fault must have struck in every stage.

// The forbidden methods are forbidden only for the machines.
#![allow(clippy::disallowed_methods)]

mod callers;
mod client;
mod coverage;
mod ensemble;
mod faults;
mod operator;
mod process;
mod random;
mod schedule;
mod twins;
mod witness;

use std::collections::BTreeSet;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use coverage::Coverage;
use schedule::{Outcome, run};
use twins::{TWINS, Twin};

/// The default number of schedules.
const SCHEDULES: u64 = 1_000;
/// With at least this many schedules, every fault must have struck in every stage.
const COVERING: u64 = 10_000;

#[test]
fn no_promise_is_broken_in_any_schedule() {
    prepare();
    if let Some(seed) = variable(SEED) {
        let outcome = run(seed, Twin::None, true);
        outcome.history.iter().for_each(|line| println!("{line}"));
        assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
        return;
    }
    let schedules = variable("LOCKKEEPER_SIMULATION_SCHEDULES").unwrap_or(SCHEDULES);
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut total = Total::default();
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= schedules {
                break;
            }
            let named = Named(seed);
            let outcome = run(seed, Twin::None, false);
            std::mem::forget(named);
            if !outcome.violations.is_empty() {
                failed.store(true, Ordering::Relaxed);
                eprintln!("seed {seed}: {:#?}\nreplay it with {SEED}={seed}", outcome.violations);
            }
            total.add(outcome);
        }
        total
    };
    let total = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a schedule panicked")).fold(
            Total::default(),
            |mut sum, total| {
                sum.merge(total);
                sum
            },
        )
    });
    println!("{}", total.coverage);
    println!(
        "{} schedules in {:?}: {} faults, {} grants, {} lost while held, longest recovery {} ms of virtual time",
        total.schedules,
        began.elapsed(),
        total.coverage.struck.iter().sum::<u64>(),
        total.grants,
        total.lost,
        total.recovery,
    );
    assert!(!failed.load(Ordering::Relaxed), "a promise was broken, see above");
    if schedules >= COVERING {
        let missing = total.coverage.missing();
        assert!(missing.is_empty(), "these faults never struck in these stages: {missing:?}");
    }
}

#[test]
fn the_same_seed_has_the_same_history() {
    prepare();
    for seed in 0..100 {
        let (first, second) = (run(seed, Twin::None, true), run(seed, Twin::None, true));
        for (line, (one, other)) in first.history.iter().zip(&second.history).enumerate() {
            assert_eq!(one, other, "seed {seed}, line {line}");
        }
        assert_eq!(first.history.len(), second.history.len(), "seed {seed}");
    }
}

#[test]
fn every_broken_twin_is_caught() {
    prepare();
    const SEEDS: u64 = 1000;
    let mut escaped = Vec::new();
    for (twin, expected) in TWINS {
        let caught = (0..SEEDS).find_map(|seed| {
            let outcome = run(seed, twin, false);
            let by: BTreeSet<_> = outcome.violations.iter().map(|violation| violation.checker).collect();
            // Another checker may come first in some schedules.
            by.iter().any(|checker| expected.contains(checker)).then_some((seed, by))
        });
        match caught {
            Some((seed, by)) => {
                println!("{:24} caught by {by:?}, in schedule {seed}", format!("{twin:?}"));
            }
            None => escaped.push((twin, format!("not caught by {expected:?} in {SEEDS} schedules"))),
        }
    }
    assert!(escaped.is_empty(), "{escaped:#?}");
}

/// Prints the seed of a schedule that panicked.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("schedule {} panicked; replay it with {SEED}={}", self.0, self.0);
    }
}

#[derive(Default)]
struct Total {
    schedules: u64,
    grants: u64,
    lost: u64,
    recovery: u64,
    coverage: Coverage,
}

impl Total {
    fn add(&mut self, outcome: Outcome) {
        let Outcome { grants, lost, recovery, coverage, .. } = outcome;
        self.merge(Total { schedules: 1, grants, lost, recovery, coverage });
    }

    fn merge(&mut self, other: Total) {
        self.schedules += other.schedules;
        self.grants += other.grants;
        self.lost += other.lost;
        self.recovery = self.recovery.max(other.recovery);
        self.coverage.add(&other.coverage);
    }
}

const SEED: &str = "LOCKKEEPER_SIMULATION_SEED";

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// Once for all tests: hides the output of injected panics, and installs the subscriber that panics inside actors.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let (literal, text) =
                (panic.payload().downcast_ref::<&str>(), panic.payload().downcast_ref::<String>());
            let text = literal.copied().or(text.map(String::as_str)).unwrap_or_default();
            if !text.starts_with("injected: ") {
                print(panic);
            }
        }));
        let _ = tracing::subscriber::set_global_default(process::PanicOnLog);
    });
}
