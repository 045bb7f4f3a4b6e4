//! One task acquires and releases a lock without contention.

use lockkeeper::Lock;
use lockkeeper::marker::Access;
use zookeeper_client::Client;

use crate::contest::Contest;
use crate::report::{self, Expectation, Row};
use crate::{Bench, Result, common, floors};

const RELEASED: &str = "acquire → release().await";
const DROPPED: &str = "acquire → drop";
const PAIRS: &str = "create → delete";
const TRIPLES: &str = "create ‖ list → delete";
const UNCONFIRMED: &str = "the same, delete not awaited";

struct Sessions {
    lock: Lock,
    floor: (Client, String),
}

pub async fn run(bench: Bench) -> Result<()> {
    let outcome = Contest::new("One path, one task", bench.times(15), bench.times(10), 20)
        .enter(RELEASED, |s: &Sessions| vec![s.lock.clone()], released)
        .enter(TRIPLES, |s| vec![s.floor.clone()], triples)
        .enter(PAIRS, |s| vec![s.floor.clone()], pairs)
        .enter(DROPPED, |s| vec![s.lock.clone()], dropped)
        .enter(UNCONFIRMED, |s| vec![s.floor.clone()], unconfirmed)
        .hold(&bench, connect)
        .await?;

    let release = Row::rate(&outcome, RELEASED);
    report::print(
        outcome.title(),
        &[
            release.clone().compared_to(&outcome, TRIPLES, Expectation::AtLeast(0.9)),
            release.and().compared_to(&outcome, PAIRS, None),
            Row::rate(&outcome, DROPPED).compared_to(&outcome, UNCONFIRMED, None),
            Row::rate(&outcome, PAIRS),
            Row::rate(&outcome, TRIPLES),
            Row::rate(&outcome, UNCONFIRMED),
        ],
    );
    Ok(())
}

async fn connect(bench: Bench) -> Result<Sessions> {
    let (keeper, client) = (bench.keeper().await?, floors::connect(&bench.address).await?);
    let lock = keeper.lock(&common::unique_path("uncontended"))?;
    // The first cycle creates the directory.
    released(lock.clone(), 1).await?;
    let directory = common::unique_path("uncontended");
    floors::make_directory(&client, &directory).await?;
    Ok(Sessions { lock, floor: (client, directory) })
}

/// Each release waits until the node is deleted.
pub async fn released<M: Access>(lock: Lock<M>, cycles: usize) -> Result<()> {
    for _ in 0..cycles {
        lock.acquire().await?.release().await?;
    }
    Ok(())
}

/// Only the last release waits: deletes are executed in order, so by then all nodes are gone.
pub async fn dropped(lock: Lock, cycles: usize) -> Result<()> {
    for _ in 1..cycles {
        drop(lock.acquire().await?);
    }
    Ok(lock.acquire().await?.release().await?)
}

pub async fn pairs((client, directory): (Client, String), cycles: usize) -> Result<()> {
    for _ in 0..cycles {
        floors::pair(&client, &directory).await?;
    }
    Ok(())
}

pub async fn triples((client, directory): (Client, String), cycles: usize) -> Result<()> {
    for _ in 0..cycles {
        floors::triple(&client, &directory).await?;
    }
    Ok(())
}

pub async fn unconfirmed((client, directory): (Client, String), cycles: usize) -> Result<()> {
    for _ in 1..cycles {
        floors::triple_unconfirmed(&client, &directory).await?;
    }
    floors::triple(&client, &directory).await
}
