//! One task acquires and releases a lock on a server that is distant.

use std::time::Duration;

use lockkeeper::Lock;
use zookeeper_client::{Acls, Client, LockPrefix};

use crate::contest::{Contest, Outcome};
use crate::report::{self, Expectation, Row};
use crate::uncontended::{dropped, released};
use crate::{Bench, Result, common, floors, relay};

const RELEASED: &str = "acquire → release().await";
const DROPPED: &str = "acquire → drop";
const THEIRS: &str = "zookeeper-client's lock → drop";
const WRITE: &str = "write";

/// How long a packet takes, in microseconds, with the number of rounds and of laps in a round.
const DISTANCES: [(u64, usize, usize); 4] = [(0, 9, 5), (500, 7, 2), (2000, 7, 2), (10_000, 5, 1)];

struct Sessions {
    lock: Lock,
    floor: (Client, String),
}

pub async fn run(bench: Bench) -> Result<()> {
    for (one_way, rounds, laps) in DISTANCES {
        let one_way = Duration::from_micros(one_way);
        let address = match one_way.is_zero() {
            true => bench.address.clone(),
            false => relay::start(&bench.address, one_way)?.to_string(),
        };
        let distant = Bench { address, ..bench.clone() };
        let outcome = Contest::new("", bench.times(rounds), bench.times(laps), 20)
            .enter(DROPPED, |s: &Sessions| vec![s.lock.clone()], dropped)
            .enter(WRITE, |s| vec![s.floor.clone()], writes)
            .enter(RELEASED, |s| vec![s.lock.clone()], released)
            .enter(THEIRS, |s| vec![s.floor.clone()], theirs)
            .hold(&distant, connect)
            .await?;
        print(&outcome, one_way);
    }
    Ok(())
}

fn print(outcome: &Outcome, one_way: Duration) {
    let trips = |name, expected| {
        let trips = outcome.ratio(WRITE, name);
        let text = format!("{:.2} [{:.2} {:.2}] round trips", trips.median, trips.low, trips.high);
        Row::rate(outcome, name).with(text, trips.median, expected)
    };
    // Without a distance, a write takes the server's time rather than the network's.
    let at_most = |bound| (!one_way.is_zero()).then_some(Expectation::AtMost(bound));
    let ours = trips(DROPPED, at_most(1.3));
    let title = format!("One path, one task, {one_way:?} one way{}", outcome.title());
    report::print(
        &title,
        &[
            ours.clone(),
            ours.and().compared_to(outcome, THEIRS, Expectation::AtLeast(1.4)),
            trips(RELEASED, at_most(2.3)),
            trips(THEIRS, None),
            Row::rate(outcome, WRITE),
        ],
    );
}

async fn connect(bench: Bench) -> Result<Sessions> {
    let (keeper, client) = (bench.keeper().await?, floors::connect(&bench.address).await?);
    let lock = keeper.lock(&common::unique_path("distance"))?;
    // The first cycle creates the directory.
    released(lock.clone(), 1).await?;
    let directory = common::unique_path("distance");
    floors::make_directory(&client, &directory).await?;
    Ok(Sessions { lock, floor: (client, directory) })
}

/// Writes that are awaited one by one. Each takes a round trip.
async fn writes((client, directory): (Client, String), cycles: usize) -> Result<()> {
    for _ in 0..cycles {
        client.set_data(&directory, b"", None).await?;
    }
    Ok(())
}

/// The lock's delete is sent when it is dropped, and is not awaited.
async fn theirs((client, directory): (Client, String), cycles: usize) -> Result<()> {
    for _ in 0..cycles {
        let prefix = LockPrefix::new_curator(&directory, "lock")?;
        drop(client.lock(prefix, b"", Acls::anyone_all()).await?);
    }
    Ok(())
}
