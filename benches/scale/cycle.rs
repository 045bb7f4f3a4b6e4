//! What a cycle without contention costs the client: processor time and allocations, beside the bare requests.

use lockkeeper::{Keeper, Lock};
use zookeeper_client::Client;

use crate::common::{Server, unique_path};
use crate::report::{self, Row};
use crate::row::{self, Progress};
use crate::{ALLOCATOR, Bench, Result, SESSION_TIMEOUT, floors, machine, production};

pub fn run(bench: &Bench) -> Result<()> {
    let server = Server::start_with(&production::options());
    let (cycles, mut rows) = (bench.times(5_000), Vec::new());
    let cost = |way: Way| {
        let progress = Progress::default();
        row::run(bench, &progress, measure(server.address(), way, cycles, progress.clone()))
    };
    let mut floor = None;
    for way in [Way::Triple, Way::Release, Way::TripleUnconfirmed, Way::Drop, Way::Pair] {
        match cost(way)? {
            Ok(cost) => {
                rows.extend(cost.rows(way, floor.as_ref()));
                floor = way.is_floor().then_some((way, cost));
            }
            Err(reason) => rows.push(Row::new(way.name(), "–").missed(reason, None)),
        }
    }
    report::print(
        &format!("Processor time and allocations of the client; {cycles} cycles, one by one"),
        &rows,
    );
    Ok(())
}

#[derive(Clone, Copy)]
enum Way {
    Release,
    Drop,
    Triple,
    TripleUnconfirmed,
    Pair,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Release => "acquire → release().await",
            Way::Drop => "acquire → drop",
            Way::Triple => "create ‖ list → delete",
            Way::TripleUnconfirmed => "the same, delete not awaited",
            Way::Pair => "create → delete",
        }
    }

    /// Whether the next way is compared with it.
    fn is_floor(self) -> bool {
        matches!(self, Way::Triple | Way::TripleUnconfirmed)
    }
}

/// Microseconds of processor time, allocations and allocated bytes of one cycle.
struct Cost([f64; 3]);

const UNITS: [&str; 3] = ["µs", "allocations", "bytes"];

impl Cost {
    fn rows(&self, way: Way, floor: Option<&(Way, Cost)>) -> Vec<Row> {
        let row = |(place, unit): (usize, &str)| {
            let row = Row::new(way.name(), format!("{:.0} {unit}", self.0[place]));
            match floor {
                Some((floor, cost)) => {
                    let ratio = self.0[place] / cost.0[place];
                    row.with(format!("{ratio:.2} of {}", floor.name()), ratio, None)
                }
                None => row,
            }
        };
        UNITS.into_iter().enumerate().map(row).collect()
    }
}

/// In what session, and where, the cycles run.
enum Session {
    Lock(Lock),
    Client(Client, String),
}

impl Session {
    async fn open(address: &str, way: Way) -> Result<Session> {
        let path = unique_path("cycle");
        Ok(match way {
            Way::Release | Way::Drop => {
                let keeper = Keeper::options().session_timeout(SESSION_TIMEOUT).connect(address).await?;
                Session::Lock(keeper.lock(&path)?)
            }
            Way::Triple | Way::TripleUnconfirmed | Way::Pair => {
                let client = floors::connect(address).await?;
                floors::make_directory(&client, &path).await?;
                Session::Client(client, path)
            }
        })
    }

    async fn cycle(&self, way: Way) -> Result<()> {
        match self {
            Session::Lock(lock) => match (lock.acquire().await?, way) {
                (guard, Way::Drop) => drop(guard),
                (guard, _) => guard.release().await?,
            },
            Session::Client(client, path) => match way {
                Way::TripleUnconfirmed => floors::triple_unconfirmed(client, path).await?,
                Way::Pair => floors::pair(client, path).await?,
                _ => floors::triple(client, path).await?,
            },
        }
        Ok(())
    }
}

async fn measure(address: String, way: Way, cycles: usize, progress: Progress) -> Result<Cost> {
    let session = Session::open(&address, way).await?;
    progress.begin("warm up", cycles / 10);
    for _ in 0..cycles / 10 {
        session.cycle(way).await?;
    }
    progress.begin("cycles", cycles);
    let (time, before) = (machine::processor_time(), ALLOCATOR.stats());
    for done in 1..=cycles {
        session.cycle(way).await?;
        progress.reached(done);
    }
    let (time, counted) = (machine::processor_time() - time, ALLOCATOR.stats() - before);
    let (seconds, allocations) = (time.as_secs_f64(), counted.allocations + counted.reallocations);
    let totals = [seconds * 1e6, allocations as f64, counted.bytes_allocated as f64];
    Ok(Cost(totals.map(|total| total / cycles as f64)))
}
