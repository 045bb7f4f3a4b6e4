//! A service whose metrics Prometheus can scrape, and four troubles that show in them.
//!
//! `cargo run --example metrics --features metrics` starts a ZooKeeper server in this process. It prints an address to
//! scrape, causes one trouble after the other, and prints what a scrape shows after each. An argument after `--` is how
//! many seconds each lasts, a second one the address to listen on.

use std::time::Duration;

use lockkeeper::error::AcquireTimeoutError;
use lockkeeper::{Keeper, Lock};
use lockkeeper_embedded::{Embedded, Proxy};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{interval, sleep};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// In seconds, from a request on a fast network to a job that holds a lock for minutes.
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 300.0];

const WORKERS: usize = 8;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(5), |argument| argument.parse())?;
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());

    // Before the keeper connects, or it would register its metrics with nobody.
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Prefix("lockkeeper_".into()), &BUCKETS)?
        .install_recorder()?;
    let listener = TcpListener::bind(listen).await?;
    println!("metrics at http://{}/metrics", listener.local_addr()?);
    tokio::spawn(serve(listener, metrics.clone()));

    let zookeeper = Embedded::options().tick(Duration::from_millis(200)).start().await?;
    let link = Proxy::start(zookeeper.address()).await?;
    let options = Keeper::options().session_timeout(Duration::from_secs(4)).metric_paths(["/locks"]);
    let keeper = options.connect(&link.address()).await?;
    let lock = keeper.lock("/locks/ledger")?;
    for _ in 0..WORKERS {
        tokio::spawn(work(lock.clone()));
    }

    let trouble = Duration::from_secs(seconds);
    sleep(trouble).await;
    show(&metrics, "all is well", "lockkeeper_acquired_total");

    let stuck = lock.acquire().await?;
    sleep(trouble).await;
    show(&metrics, "a holder is stuck", "lockkeeper_refused_total");
    stuck.release().await?;

    link.delay(Duration::from_millis(60));
    sleep(trouble).await;
    link.delay(Duration::ZERO);
    show(&metrics, "the server is slow", "lockkeeper_heartbeat_seconds_bucket");

    for _ in 0..5 {
        link.cut();
        sleep(trouble / 5).await;
    }
    show(&metrics, "the link flaps", "lockkeeper_sessions_suspended_total");

    let held = lock.acquire().await?;
    link.refuse(true);
    link.cut();
    held.lost().await;
    link.refuse(false);
    drop(lock.acquire().await?);
    show(&metrics, "the session was lost", "lockkeeper_sessions_lost_total");
    show(&metrics, "and its lease", "lockkeeper_leases_lost_total");
    sleep(trouble).await;
    keeper.close().await;
    Ok(())
}

/// Needs the lock again and again, and does not wait for it forever.
async fn work(lock: Lock) {
    loop {
        match lock.acquire_timeout(Duration::from_millis(200)).await {
            Ok(guard) => {
                sleep(Duration::from_millis(5)).await;
                drop(guard);
            }
            Err(AcquireTimeoutError::TimedOut { .. }) => {}
            Err(_) => return,
        }
    }
}

/// Prints the series of one metric.
fn show(metrics: &PrometheusHandle, when: &str, name: &str) {
    println!("{when}:");
    let text = metrics.render();
    for series in text.lines().filter(|line| line.starts_with(name) && !line.ends_with(" 0")) {
        println!("    {series}");
    }
}

/// Answers every request with the metrics.
async fn serve(listener: TcpListener, metrics: PrometheusHandle) -> Result<()> {
    let mut upkeep = interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (mut client, _) = accepted?;
                let text = metrics.render();
                tokio::spawn(async move {
                    let _ = client.read(&mut [0; 4096]).await;
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n", text.len());
                    let answer = format!("{head}connection: close\r\n\r\n{text}");
                    client.write_all(answer.as_bytes()).await
                });
            }
            // Without it, samples of histograms pile up until the next scrape.
            _ = upkeep.tick() => metrics.run_upkeep(),
        }
    }
}
