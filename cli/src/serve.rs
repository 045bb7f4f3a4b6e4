//! `serve`: a server for development.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use lockkeeper_embedded::Embedded;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, Failure};

/// Run a ZooKeeper server for development
///
/// It is a single node in memory, which loses everything when it ends. It is not for production.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  lockkeeper serve &
  lockkeeper run /locks/a -- sleep 60")]
pub struct ServeArgs {
    /// Where to listen; port 0 is any free one
    #[arg(long, default_value = "127.0.0.1:2181", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// The server's tickTime: sessions last from 2 to 20 of them
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = tick)]
    tick: Duration,
}

fn tick(text: &str) -> Result<Duration, String> {
    let tick = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if tick < Duration::from_millis(1) { Err("a tick is at least 1ms".into()) } else { Ok(tick) }
}

pub async fn serve(args: &ServeArgs) -> Result<Exit, Failure> {
    // The kernel ends it with HUP, unless it was started to ignore that, as by `nohup`.
    let mut ends = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let server = Embedded::options().address(args.listen).tick(args.tick).start().await;
    let server = server
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot listen on {}: {error}", args.listen)))?;
    writeln!(std::io::stdout(), "listening on {}", server.address())?;
    let ended = ends.iter_mut().flatten().map(|end| Box::pin(end.recv()));
    futures::future::select_all(ended).await;
    server.stop().await;
    Ok(Exit::Success)
}
