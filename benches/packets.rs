//! What a cycle costs the server: the packets that it gets.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::report::{self, Expectation, Row};
use crate::{Bench, Result, common, uncontended};

const CYCLES: usize = 1000;

pub async fn run(bench: Bench) -> Result<()> {
    let keeper = bench.keeper().await?;
    let lock = keeper.lock(&common::unique_path("packets"))?;
    // Makes the directory, which only the first one has to.
    lock.acquire().await?.release().await?;
    let cycles = bench.times(CYCLES);

    let title = format!("Packets to the server, over {cycles} cycles");
    let (Some(before), begun) = (received(&bench).await?, Instant::now()) else {
        report::print(&title, &[Row::new("not measured", "no answer to mntr")]);
        return Ok(());
    };
    uncontended::released(lock, cycles).await?;
    let (busy, lasted) = (received(&bench).await?.unwrap_or(before) - before, begun.elapsed());
    // The same time at rest: heartbeats, pings, and the one question that is asked in either.
    let before = received(&bench).await?.unwrap_or_default();
    tokio::time::sleep(lasted).await;
    let idle = received(&bench).await?.unwrap_or(before) - before;
    keeper.close().await;

    let per_cycle = (busy - idle) as f64 / cycles as f64;
    let row = Row::new("acquire → release().await", format!("{per_cycle:.3} a cycle"));
    let text = format!("{busy}, less {idle} in the same time at rest");
    report::print(&title, &[row.with(text, per_cycle, Expectation::AtMost(3.0))]);
    Ok(())
}

/// `None` from a server that does not take this question.
async fn received(bench: &Bench) -> Result<Option<i64>> {
    // A list of servers has no one number.
    let Ok(mut stream) = TcpStream::connect(&bench.address).await else { return Ok(None) };
    stream.write_all(b"mntr").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let count = answer.lines().find_map(|line| line.strip_prefix("zk_packets_received\t"));
    Ok(count.map(str::parse).transpose()?)
}
