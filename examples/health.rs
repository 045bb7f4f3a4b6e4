//! The probes of a service, with axum: `/ready` and `/alive`. Both are asked while ZooKeeper answers, and while it does
//! not.
//!
//! `cargo run --example health` starts a ZooKeeper server in this process; an address after `--` selects a real one.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use lockkeeper::Keeper;
use lockkeeper_embedded::{Embedded, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn probes(keeper: Keeper) -> Router {
    Router::new().route("/ready", get(ready)).route("/alive", get(alive)).with_state(keeper)
}

async fn ready(State(keeper): State<Keeper>) -> (StatusCode, String) {
    let health = keeper.health().await;
    (if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, health.to_string())
}

async fn alive(State(keeper): State<Keeper>) -> StatusCode {
    if keeper.is_alive().await { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[tokio::main]
async fn main() -> Result<()> {
    let embedded = Embedded::start().await?;
    let proxy = Proxy::start(std::env::args().nth(1).unwrap_or_else(|| embedded.address())).await?;
    let keeper = Keeper::options().session_timeout(Duration::from_secs(30)).connect(&proxy.address()).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, probes(keeper)).await });

    for (what, silent) in [("ZooKeeper answers", false), ("ZooKeeper is silent", true)] {
        println!("{what}");
        proxy.black_hole(silent);
        for probe in ["/ready", "/alive"] {
            println!("  {probe}: {}", ask(address, probe).await?);
        }
    }
    Ok(())
}

/// The status of a response, and its body if it has one.
async fn ask(address: SocketAddr, path: &str) -> Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    connection.read_to_string(&mut response).await?;
    let (status, body) = (response.split(' ').nth(1), response.split("\r\n\r\n").nth(1));
    let parts: Vec<&str> = [status, body].into_iter().flatten().filter(|part| !part.is_empty()).collect();
    Ok(parts.join(", "))
}
