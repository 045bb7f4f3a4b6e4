//! Measures the server: `cargo run --release -p lockkeeper-embedded --example measure`. Pass the address of another
//! server to measure only the lock cycle there, for comparison.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lockkeeper_embedded::Embedded;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zookeeper_client::{Acls, Client, CreateMode};

const CYCLES: u32 = 2000;
const SESSIONS: usize = 10_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    if let Some(address) = std::env::args().nth(1) {
        println!("lock cycle on {address}: {:?}", lock_cycle(&address).await?);
        return Ok(());
    }
    let mut starts = Vec::new();
    for _ in 0..50 {
        let begin = Instant::now();
        let server = Embedded::start().await?;
        starts.push(begin.elapsed());
        server.stop().await;
    }
    starts.sort();
    println!("start: median {:?}, maximum {:?}", starts[25], starts[49]);

    let server = Embedded::options().max_session_timeout(Duration::from_secs(3600)).start().await?;
    println!("lock cycle on the embedded server: {:?}", lock_cycle(&server.address()).await?);

    let before = resident_kib();
    let mut connections = Vec::new();
    let begin = Instant::now();
    for _ in 0..SESSIONS {
        // Each session takes two file descriptors in this process, so the limit for these can end the loop early.
        let connecting = session(server.socket_address());
        match tokio::time::timeout(Duration::from_secs(2), connecting).await {
            Ok(Ok(connection)) => connections.push(connection),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let took = begin.elapsed();
    if let (Some(before), Some(after)) = (before, resident_kib()) {
        let sessions = server.controls().sessions().len();
        println!("{sessions} sessions in {took:?}: {} MiB for both ends", (after - before) / 1024);
    }
    Ok(())
}

/// Measures the minimal requests of a lock: create a contender node, list the queue, delete the node.
async fn lock_cycle(address: &str) -> Result<Duration, Box<dyn Error>> {
    let client = Client::connect(address).await?;
    let path = format!("/measure-{}", std::process::id());
    client.create(&path, b"", &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?;
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let prefix = format!("{path}/lock-");
    let mut begin = Instant::now();
    for cycle in 0..2 * CYCLES {
        if cycle == CYCLES {
            begin = Instant::now();
        }
        let (_, sequence) = client.create(&prefix, b"", &options).await?;
        client.list_children(&path).await?;
        client.delete(&format!("{prefix}{sequence}"), None).await?;
    }
    let cycle = begin.elapsed() / CYCLES;
    client.delete(&path, None).await?;
    Ok(cycle)
}

/// Opens a session by sending only the connect request.
async fn session(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let mut request = Vec::new();
    request.extend_from_slice(&45_i32.to_be_bytes());
    request.extend_from_slice(&[0; 12]);
    request.extend_from_slice(&3_600_000_i32.to_be_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&16_i32.to_be_bytes());
    request.extend_from_slice(&[0; 17]);
    stream.write_all(&request).await?;
    stream.read_exact(&mut [0; 41]).await?;
    Ok(stream)
}

fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?
        .trim()
        .strip_suffix(" kB")?
        .trim()
        .parse()
        .ok()
}
