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
use tracing_subscriber::EnvFilter;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
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
