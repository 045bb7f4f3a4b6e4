//! How fast the lock is, compared with the best that the same client and server can do, measured in the same run.
//!
//! `cargo bench --bench lock` runs all parts in a few minutes; `cargo bench --bench lock -- uncontended
//! handoff` runs only those two. Each part alternates with its lower bounds, so that a slow machine slows down all of
//! them: rely on the ratios; the absolute numbers are only indicative. A missed expectation is printed and is not a
//! failure.
//!
//! `strangers`, `readers`, `semaphore`, `packets` and `lingering` compare with kazoo, which is installed in a Python
//! virtual environment, and `lingering` with Curator, which needs a JDK. Run as a test (`cargo test --benches`), they
//! leave their peers out. With the feature `metrics`, the part of that name shows what metrics cost.
//!
//! The bench starts a ZooKeeper server, or uses the one at the address in `LOCKKEEPER_BENCH_SERVER`, where it leaves
//! its directories behind.

#[path = "../../tests/common/mod.rs"]
mod common;
mod contended;
mod contest;
mod distance;
#[path = "../shared/floors.rs"]
mod floors;
mod handoff;
mod kazoo;
mod lingering;
mod lingering_strangers;
mod many;
#[cfg(feature = "metrics")]
mod metrics;
mod packets;
mod paths;
mod plain;
#[path = "../shared/production.rs"]
mod production;
#[path = "../shared/delaying_relay.rs"]
mod relay;
#[path = "../shared/report.rs"]
mod report;
#[path = "../shared/spread.rs"]
mod spread;
mod uncontended;

use std::env;
use std::time::Duration;

use futures::future::BoxFuture;
use lockkeeper::Keeper;

use common::Server;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// The arguments of every part.
#[derive(Clone)]
struct Bench {
    address: String,
    /// Whether this runs as a test, which only has to show that everything still works.
    quick: bool,
}

impl Bench {
    async fn keeper(&self) -> Result<Keeper> {
        Ok(Keeper::options().session_timeout(SESSION_TIMEOUT).connect(&self.address).await?)
    }

    /// The number of repetitions, reduced for a quick run.
    fn times(&self, usual: usize) -> usize {
        if self.quick { usual.div_ceil(50) } else { usual }
    }
}

/// Long, so that the heartbeats of many sessions do not add up.
const SESSION_TIMEOUT: Duration = Duration::from_secs(40);

/// The number of tasks in the parts with many concurrent tasks.
const TASKS: usize = 64;

type Part = fn(Bench) -> BoxFuture<'static, Result<()>>;

const PARTS: &[(&str, Part)] = &[
    ("uncontended", |bench| Box::pin(uncontended::run(bench))),
    ("distance", |bench| Box::pin(distance::run(bench))),
    ("paths", |bench| Box::pin(paths::run(bench))),
    ("contended", |bench| Box::pin(contended::run(bench))),
    ("handoff", |bench| Box::pin(handoff::run(bench))),
    ("strangers", |bench| Box::pin(many::strangers(bench))),
    ("readers", |bench| Box::pin(many::readers(bench))),
    ("semaphore", |bench| Box::pin(many::semaphore(bench))),
    ("packets", |bench| Box::pin(packets::run(bench))),
    #[cfg(feature = "metrics")]
    ("metrics", |bench| Box::pin(metrics::run(bench))),
    ("lingering", |bench| Box::pin(lingering::run(bench))),
    ("lingering-strangers", |bench| Box::pin(lingering_strangers::run(bench))),
];

/// Far more than any part needs: a lock that is never granted ends the run with an error.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Result<()> {
    let (flags, wanted): (Vec<String>, Vec<String>) = env::args().skip(1).partition(|a| a.starts_with("--"));
    // `cargo bench` passes this flag, `cargo test --benches` does not.
    let quick = !flags.iter().any(|flag| flag == "--bench");
    let parts: Vec<_> =
        PARTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)).collect();
    if parts.is_empty() {
        // In a test run the argument may be a filter meant for other tests.
        let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        let unknown = format!("no part is called {wanted:?}, only {names:?}");
        return if quick { Ok(()) } else { Err(unknown.into()) };
    }

    let (server, address) = match env::var("LOCKKEEPER_BENCH_SERVER") {
        Ok(address) => (None, address),
        Err(_) => {
            let server = tokio::task::spawn_blocking(|| Server::start_with(&production::options())).await?;
            let address = server.address();
            (Some(server), address)
        }
    };
    match &server {
        Some(_) => println!(
            "server   its own, standalone, {}, data below {}",
            production::DESCRIPTION,
            env::temp_dir().display()
        ),
        None => println!("server   {address}"),
    }
    println!("client   Tokio, {} worker threads", tokio::runtime::Handle::current().metrics().num_workers());
    if quick {
        println!(
            "quick    too few rounds for a measurement, and without peers; run `cargo bench` to measure"
        );
    }
    let bench = Bench { address, quick };
    for (name, part) in parts {
        // On a worker thread, like the tasks of a service.
        match tokio::time::timeout(LIMIT, tokio::spawn(part(bench.clone()))).await {
            Ok(done) => done??,
            Err(_) => return Err(format!("{name} is not done after {LIMIT:?}").into()),
        }
    }
    Ok(())
}
