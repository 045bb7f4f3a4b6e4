//! A relay on loopback that cuts connections for as long as it runs.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// The part of the connections that are cut in every second.
pub const PART: f64 = 0.3;

/// Starts a relay to `target`, and returns its address. It runs until the process ends.
pub fn start(target: &str) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let target = target.to_owned();
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            // A connection that fails is closed, and the client sees that.
            let _ = client.and_then(|client| forward(client, &target, lifetime(number)));
        }
    });
    Ok(address)
}

fn forward(client: TcpStream, target: &str, lifetime: Duration) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ends = [client.try_clone()?, server.try_clone()?];
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        thread::spawn(move || copy(from, to));
    }
    thread::spawn(move || {
        thread::sleep(lifetime);
        // It may have ended before.
        ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
    });
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    // Ends with the connection, whatever ends that.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

/// How long the connection with this number lives: the same in every run.
fn lifetime(number: usize) -> Duration {
    let survives = |second: &u64| {
        let mut hasher = DefaultHasher::new();
        (number, second).hash(&mut hasher);
        hasher.finish() as f64 / u64::MAX as f64 >= PART
    };
    Duration::from_secs(1 + (0..LONGEST).take_while(survives).count() as u64)
}

/// In seconds. Hardly any connection lives so long.
const LONGEST: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_live_as_long_as_the_part_says() {
        let seconds: u64 = (0..10_000).map(|number| lifetime(number).as_secs()).sum();
        let average = seconds as f64 / 10_000.0;
        assert!((average * PART - 1.0).abs() < 0.1, "{average}");
    }
}
