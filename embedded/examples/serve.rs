//! Runs the server as a standalone process until it is interrupted, for clients in any language:
//!
//! ```sh
//! cargo run -p lockkeeper-embedded --example serve -- 127.0.0.1:2181
//! ```
//!
//! It is for development only: all data is in memory and lost when the process ends. Set `RUST_LOG=debug` for detailed
//! logs.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use lockkeeper_embedded::Embedded;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter: Targets = std::env::var("RUST_LOG").as_deref().unwrap_or("info").parse()?;
    let log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(io::stderr).finish();
    log.with(filter).init();
    let address: SocketAddr = match std::env::args().nth(1) {
        Some(address) => address.parse()?,
        None => ([127, 0, 0, 1], 2181).into(),
    };
    let server = Embedded::options().address(address).start().await?;
    println!("{}", server.address());
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}
