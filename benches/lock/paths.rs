//! Sixty-four tasks, each with its own lock.

use lockkeeper::Lock;
use zookeeper_client::Client;

use crate::contest::Contest;
use crate::report::{self, Row};
use crate::uncontended::{dropped, released, triples, unconfirmed};
use crate::{Bench, Result, TASKS, common, floors};

const RELEASED: &str = "acquire → release().await";
const DROPPED: &str = "acquire → drop";
const TRIPLES: &str = "create ‖ list → delete";
const UNCONFIRMED: &str = "the same, delete not awaited";

struct Sessions {
    locks: Vec<Lock>,
    floor: Vec<(Client, String)>,
}

pub async fn run(bench: Bench) -> Result<()> {
    let outcome = Contest::new("64 paths, a task each", bench.times(15), bench.times(4), TASKS * 5)
        .enter(RELEASED, |s: &Sessions| s.locks.clone(), released)
        .enter(TRIPLES, |s| s.floor.clone(), triples)
        .enter(DROPPED, |s| s.locks.clone(), dropped)
        .enter(UNCONFIRMED, |s| s.floor.clone(), unconfirmed)
        .hold(&bench, connect)
        .await?;

    report::print(
        outcome.title(),
        &[
            Row::rate(&outcome, RELEASED).compared_to(&outcome, TRIPLES, None),
            Row::rate(&outcome, DROPPED).compared_to(&outcome, UNCONFIRMED, None),
            Row::rate(&outcome, TRIPLES),
            Row::rate(&outcome, UNCONFIRMED),
        ],
    );
    Ok(())
}

async fn connect(bench: Bench) -> Result<Sessions> {
    let (keeper, client) = (bench.keeper().await?, floors::connect(&bench.address).await?);
    let mut sessions = Sessions { locks: Vec::new(), floor: Vec::new() };
    for _ in 0..TASKS {
        let lock = keeper.lock(&common::unique_path("paths"))?;
        released(lock.clone(), 1).await?;
        sessions.locks.push(lock);
        let directory = common::unique_path("paths");
        floors::make_directory(&client, &directory).await?;
        sessions.floor.push((client.clone(), directory));
    }
    Ok(sessions)
}
