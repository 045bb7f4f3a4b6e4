//! Sixty-four tasks of one process contend for the same lock.

use lockkeeper::Lock;
use zookeeper_client::Client;

use crate::contest::Contest;
use crate::plain::PlainLock;
use crate::report::{self, Expectation, Row};
use crate::uncontended::{dropped, pairs, released};
use crate::{Bench, Result, TASKS, common, floors};

const RELEASED: &str = "acquire → release().await";
const DROPPED: &str = "acquire → drop";
const PLAIN: &str = "plain recipe";
const PAIRS: &str = "create → delete";
const UNCONFIRMED: &str = "the same, delete not awaited";

struct Sessions {
    lock: Lock,
    plain: PlainLock,
    floor: (Client, String),
}

pub async fn run(bench: Bench) -> Result<()> {
    let outcome = Contest::new("One path, 64 tasks", bench.times(11), bench.times(3), TASKS * 4)
        .enter(DROPPED, |s: &Sessions| vec![s.lock.clone(); TASKS], dropped)
        .enter(PAIRS, |s| vec![s.floor.clone(); TASKS], pairs)
        .enter(RELEASED, |s| vec![s.lock.clone(); TASKS], released)
        .enter(PLAIN, |s| vec![s.plain.clone(); TASKS], plain_cycles)
        .enter(UNCONFIRMED, |s| vec![s.floor.clone(); TASKS], unconfirmed_pairs)
        .hold(&bench, connect)
        .await?;

    let (drop, release) = (Row::rate(&outcome, DROPPED), Row::rate(&outcome, RELEASED));
    report::print(
        outcome.title(),
        &[
            drop.clone().compared_to(&outcome, PLAIN, Expectation::AtLeast(3.0)),
            drop.and().compared_to(&outcome, UNCONFIRMED, None),
            release.clone().compared_to(&outcome, PLAIN, Expectation::AtLeast(3.0)),
            release.and().compared_to(&outcome, PAIRS, Expectation::AtLeast(0.5)),
            Row::rate(&outcome, PLAIN),
            Row::rate(&outcome, PAIRS),
            Row::rate(&outcome, UNCONFIRMED),
        ],
    );
    Ok(())
}

async fn connect(bench: Bench) -> Result<Sessions> {
    let (keeper, client) = (bench.keeper().await?, floors::connect(&bench.address).await?);
    let lock = keeper.lock(&common::unique_path("contended"))?;
    released(lock.clone(), 1).await?;
    let (plain, directory) = (common::unique_path("contended"), common::unique_path("contended"));
    floors::make_directory(&client, &plain).await?;
    floors::make_directory(&client, &directory).await?;
    Ok(Sessions { lock, plain: PlainLock::new(client.clone(), &plain), floor: (client, directory) })
}

/// As in `dropped`, only the last delete is awaited.
async fn unconfirmed_pairs((client, directory): (Client, String), cycles: usize) -> Result<()> {
    for _ in 1..cycles {
        let node = floors::create(&client, &directory).await?;
        // The call itself sends the request.
        drop(client.delete(&node, None));
    }
    floors::pair(&client, &directory).await
}

async fn plain_cycles(lock: PlainLock, cycles: usize) -> Result<()> {
    for _ in 0..cycles {
        lock.acquire().await?.release().await?;
    }
    Ok(())
}
