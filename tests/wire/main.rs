//! The client on a bad wire.
//!
//! **Faults.** Keepers talk to an embedded server through proxies that cut, reset, delay, split and reorder their bytes.
//! A seed decides what the callers do and which faults strike at which bytes; the timing is the machine's.
//! `LOCKKEEPER_WIRE_SEED=<seed>` runs one seed and prints its scenario and its faults in order;
//! `LOCKKEEPER_WIRE_SEEDS=<count>` sets the number of seeds. From a hundred on, every fault must have struck.
//!
//! **Lies.** A server answers what no ZooKeeper server answers. `lies.rs` is the table.

#[path = "../common/mod.rs"]
mod common;
#[path = "../faults/dice.rs"]
#[allow(dead_code, reason = "the fault tests use all of it")]
mod dice;
mod faults;
mod history;
mod liar;
mod lies;
mod lying;
mod panics;
mod proxy;
#[path = "../../embedded/tests/raw/mod.rs"]
mod raw;
mod scenario;
mod witness;

use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use liar::{About, Often};
use lockkeeper_embedded::Embedded;
use scenario::Outcome;
use tokio::runtime::{Builder, Runtime};
use zookeeper_client as zk;

const SEED: &str = "LOCKKEEPER_WIRE_SEED";

/// How many seeds run without a setting.
const SEEDS: u64 = 100;
/// With at least so many seeds, every fault must have struck.
const COVERING: u64 = 100;
/// How many seeds or lies run at the same time. They mostly wait. With more, each connect takes longer, because a client
/// looks for its socket among those of the process.
const LANES: usize = 20;

/// The tests must not overlap, because their sessions are short.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn no_promise_is_broken_by_a_faulty_wire() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    if let Some(seed) = setting(SEED) {
        let outcome = stage.seed(seed);
        outcome.history.iter().for_each(|line| println!("{line}"));
        assert_eq!(outcome.violations, [""; 0]);
        return;
    }
    let seeds = setting("LOCKKEEPER_WIRE_SEEDS").unwrap_or(SEEDS);
    let (next, failed) = (AtomicU64::new(0), AtomicUsize::new(0));
    let (grants, lost, began) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
    lanes(|| {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        // Some faults strike only if the time fits, which it may never do in the usual seeds.
        let missing = || seeds >= COVERING && faults::counts().iter().any(|(_, count)| *count == 0);
        if failed.load(Ordering::Relaxed) > 0 || seed >= seeds && (seed >= 10 * seeds || !missing()) {
            return false;
        }
        let outcome = stage.seed(seed);
        grants.fetch_add(outcome.grants, Ordering::Relaxed);
        lost.fetch_add(outcome.lost, Ordering::Relaxed);
        if !outcome.violations.is_empty() {
            failed.fetch_add(1, Ordering::Relaxed);
            eprintln!("seed {seed}: {:#?}\n{}", outcome.violations, outcome.history.join("\n"));
            eprintln!("repeat it with {SEED}={seed}");
        }
        true
    });
    println!("{seeds} seeds in {:?}: {grants:?} grants, {lost:?} lost while held", began.elapsed());
    let counts = faults::counts();
    println!("struck: {counts:?}");
    assert_eq!(failed.into_inner(), 0, "a promise was broken, see above");
    assert_eq!(panics::elsewhere(), [""; 0]);
    if seeds >= COVERING {
        assert!(grants.into_inner() > seeds, "too few grants");
        let missing: Vec<_> = counts.iter().filter(|(_, count)| *count == 0).collect();
        assert!(missing.is_empty(), "these faults never struck: {missing:?}");
    }
}

#[test]
fn lies_end_in_an_error_or_in_a_retry() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (stage, rows, next) = (Stage::new(), lies::rows(), AtomicUsize::new(0));
    let only = std::env::var("LOCKKEEPER_WIRE_LIE").unwrap_or_default();
    let mut courses = Vec::new();
    for row in rows.iter().filter(|row| row.name.contains(&only)) {
        for scene in row.scenes {
            let once = if matches!(row.about, About::Answers) { 0..4 } else { 0..1 };
            courses.extend(once.map(Often::Once).chain([Often::Always]).map(|often| (row, *scene, often)));
        }
    }
    let (failed, began) = (Mutex::new(Vec::new()), Instant::now());
    lanes(|| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some((row, scene, often)) = courses.get(number) else { return false };
        let name = format!("{}, {scene:?}, {often:?}", row.name);
        let (server, observer) = (stage.server.address(), &stage.observer);
        let (course, panics) = panics::during(&name, || {
            alone(lying::run(row, *scene, *often, &format!("/lies/{number}"), &server, observer))
        });
        let mut course = course.unwrap_or_default();
        course.check(row, *often);
        let expected = |panic: &String| row.panics && panic.contains("/zookeeper-client-");
        course.violations.extend(panics.into_iter().filter(|panic| !expected(panic)));
        println!("{name}: {course:?}");
        if !course.violations.is_empty() {
            failed.lock().unwrap_or_else(PoisonError::into_inner).push((name, course));
        }
        true
    });
    println!("{} courses in {:?}", courses.len(), began.elapsed());
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(failed.is_empty(), "{} courses did not end as they should: {failed:#?}", failed.len());
    assert_eq!(panics::elsewhere(), [""; 0]);
}

/// An honest server, and a client of it without faults.
struct Stage {
    server: Embedded,
    observer: zk::Client,
    /// The observer's.
    _runtime: Runtime,
}

impl Stage {
    fn new() -> Stage {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let options = Embedded::options().tick(Duration::from_millis(50));
        let options = options
            .min_session_timeout(Duration::from_millis(100))
            .max_session_timeout(Duration::from_secs(60));
        let server = runtime.block_on(options.start()).expect("a free port");
        let connector = zk::Client::connector().with_session_timeout(Duration::from_secs(60));
        let observer = runtime.block_on(connector.connect(&server.address())).expect("should connect");
        Stage { server, observer, _runtime: runtime }
    }

    fn seed(&self, seed: u64) -> Outcome {
        let (server, observer) = (self.server.address(), &self.observer);
        let (outcome, panics) =
            panics::during(&format!("seed {seed}"), || alone(scenario::run(seed, &server, observer)));
        let mut outcome = outcome.unwrap_or_default();
        outcome.violations.extend(panics);
        outcome
    }
}

/// Runs a future and all tasks that it spawns on this thread.
fn alone<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// Runs `work` in many threads, in each until it returns `false`.
fn lanes(work: impl Fn() -> bool + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| while work() {});
        }
    });
}

fn setting(name: &str) -> Option<u64> {
    let parse = |value: String| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}"));
    std::env::var(name).ok().map(parse)
}
