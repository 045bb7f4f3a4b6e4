//! How the costs grow with the number of contenders, locks and strangers.
//!
//! `cargo bench --bench scale` runs all groups; `cargo bench --bench scale -- waiters burst` runs only those two, and
//! `-- --quick` runs all with small numbers. A cost for each contender is compared with the cost at the smallest number,
//! so that a slow machine slows down both: rely on the ratios. A missed expectation is printed and is not a failure.
//!
//! A row that takes longer than a minute is given up, and says how far it came; `LOCKKEEPER_BENCH_LIMIT` is another
//! limit, in seconds. What needs more contenders than that row is not run.
//!
//! The peers are kazoo, Curator and the lock of `zookeeper-client`. Run as a test (`cargo test --benches`), the bench
//! leaves out the first two, which need Python and a JDK. Every table has its own server or servers, which needs Java.

mod burst;
mod capacity;
#[path = "../../tests/common/mod.rs"]
mod common;
mod crowd;
mod curve;
mod cycle;
#[path = "../shared/floors.rs"]
mod floors;
#[path = "../shared/host.rs"]
mod host;
mod lingering;
mod locks;
mod machine;
mod place;
mod process;
#[path = "../shared/production.rs"]
mod production;
mod relay;
#[path = "../shared/report.rs"]
mod report;
mod row;
mod site;

use std::alloc::System;
use std::env;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use process::Library;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// Counts the allocations of the whole process.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The arguments of every group.
struct Bench {
    /// Small numbers only: too few for a measurement.
    quick: bool,
    /// Whether kazoo and Curator run.
    peers: bool,
    /// The time limit of a row.
    limit: Duration,
}

impl Bench {
    /// The numbers of contenders of a curve.
    fn sizes(&self) -> &'static [usize] {
        if self.quick { &[10, 50] } else { &[100, 1_000, 3_000, 10_000] }
    }

    /// A number of contenders or repetitions, reduced for a quick run.
    fn times(&self, usual: usize) -> usize {
        if self.quick { usual.div_ceil(20) } else { usual }
    }

    /// Those of the libraries that run.
    fn libraries(&self, wanted: &[Library]) -> Vec<Library> {
        let runs = |library: &Library| match library {
            Library::Lockkeeper | Library::ZookeeperClient => true,
            Library::Kazoo | Library::Curator => self.peers,
        };
        wanted.iter().copied().filter(runs).collect()
    }
}

/// The default of the library.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

const LIMIT: Duration = Duration::from_secs(60);

type Group = fn(&Bench) -> Result<()>;

/// `locks` is the first, because it measures the resident set, which earlier groups would have enlarged.
const GROUPS: [(&str, Group); 10] = [
    ("locks", locks::run),
    ("lingering", lingering::run),
    ("cycle", cycle::run),
    ("burst", burst::run),
    ("place", place::run),
    ("waiters", crowd::waiters),
    ("readers", crowd::readers),
    ("claims", crowd::claims),
    ("pool", crowd::pool),
    ("capacity", capacity::run),
];

fn main() -> Result<()> {
    let (flags, wanted): (Vec<String>, Vec<String>) = env::args().skip(1).partition(|a| a.starts_with("--"));
    // `cargo bench` passes this flag, `cargo test --benches` does not.
    let peers = flags.iter().any(|flag| flag == "--bench");
    let quick = !peers || flags.iter().any(|flag| flag == "--quick");
    let limit = match env::var("LOCKKEEPER_BENCH_LIMIT") {
        Ok(seconds) => {
            Duration::from_secs(seconds.parse().map_err(|_| "LOCKKEEPER_BENCH_LIMIT is no number")?)
        }
        Err(_) => LIMIT,
    };
    let groups: Vec<_> =
        GROUPS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)).collect();
    if groups.is_empty() {
        // In a test run the argument may be a filter meant for other tests.
        let unknown = format!("no group is called {wanted:?}, only {:?}", GROUPS.map(|(name, _)| name));
        return if peers { Err(unknown.into()) } else { Ok(()) };
    }
    let bench = Bench { quick, peers, limit };
    machine::print(&bench);
    groups.into_iter().try_for_each(|(_, group)| group(&bench))
}
