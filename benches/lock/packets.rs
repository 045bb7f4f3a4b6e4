//! How many packets a cycle sends to the server.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kazoo::{Crowd, Kazoo};
use crate::report::{self, Expectation, Row};
use crate::{Bench, Result, common, many, uncontended};

const CYCLES: usize = 1000;

pub async fn run(bench: Bench) -> Result<()> {
    let cycles = bench.times(CYCLES);
    let keeper = bench.keeper().await?;
    let mut rows = Vec::new();

    let lock = keeper.lock(&common::unique_path("packets"))?;
    // Creates the directory, which only the first cycle has to do.
    uncontended::released(lock.clone(), 1).await?;
    let row = count(&bench, "lock", cycles, Expectation::AtMost(3.0), uncontended::released(lock, cycles));
    rows.push(row.await?);

    let pool = keeper.semaphore(&common::unique_path("packets"), many::PERMITS)?;
    many::permits(pool.clone(), 1).await?;
    let row = count(&bench, "semaphore", cycles, Expectation::AtMost(5.0), many::permits(pool, cycles));
    rows.push(row.await?);

    if !bench.quick {
        let crowd = Crowd {
            recipe: "Semaphore",
            path: common::unique_path("packets"),
            limit: Some(many::PERMITS),
            clients: 1,
            threads: 1,
        };
        let kazoo = Kazoo::start(&bench).await?;
        kazoo.cycles(&crowd, 1).await?;
        rows.push(count(&bench, "kazoo's semaphore", cycles, None, kazoo.cycles(&crowd, cycles)).await?);
    }
    keeper.close().await;
    report::print(&format!("Packets to the server, over {cycles} cycles, acquire → release().await"), &rows);
    Ok(())
}

async fn count<T>(
    bench: &Bench,
    name: &str,
    cycles: usize,
    expected: impl Into<Option<Expectation>>,
    work: impl Future<Output = Result<T>>,
) -> Result<Row> {
    count_each(bench, name, cycles, 1, expected, work).await
}

/// Counts the packets during `work`, minus those during an idle period of the same length: heartbeats, pings, and the
/// query itself. The row shows how many they are for this number of cycles.
pub async fn count_each<T>(
    bench: &Bench,
    name: &str,
    cycles: usize,
    each: usize,
    expected: impl Into<Option<Expectation>>,
    work: impl Future<Output = Result<T>>,
) -> Result<Row> {
    let (Some(before), begun) = (received(bench).await?, Instant::now()) else {
        return Ok(Row::new(name, "–").missed("no answer to mntr".to_owned(), expected));
    };
    work.await?;
    let (busy, lasted) = (received(bench).await?.unwrap_or(before) - before, begun.elapsed());
    let before = received(bench).await?.unwrap_or_default();
    // The idle period.
    tokio::time::sleep(lasted).await;
    let idle = received(bench).await?.unwrap_or(before) - before;
    let count = (busy - idle) as f64 / cycles as f64 * each as f64;
    let text = format!("{busy}, less {idle} in the same time at rest");
    let value =
        if each == 1 { format!("{count:.3} a cycle") } else { format!("{count:.3} for {each} cycles") };
    Ok(Row::new(name, value).with(text, count, expected))
}

/// `None` if the server does not answer this query.
async fn received(bench: &Bench) -> Result<Option<i64>> {
    // Connecting fails for a list of servers, which has no single counter.
    let Ok(mut stream) = TcpStream::connect(&bench.address).await else { return Ok(None) };
    stream.write_all(b"mntr").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let count = answer.lines().find_map(|line| line.strip_prefix("zk_packets_received\t"));
    Ok(count.map(str::parse).transpose()?)
}
