//! A relay on loopback that makes a server distant.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Starts a relay to `target` that delivers everything `one_way` after it has arrived, in both directions. Returns its
/// address. It runs until the process ends.
///
/// It reads at once, so bytes do not wait for those before them. Its threads sleep more precisely than Tokio's timer,
/// which counts milliseconds.
pub fn start(target: &str, one_way: Duration) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let target = target.to_owned();
    thread::spawn(move || {
        for client in listener.incoming() {
            // A connection that fails is closed, and the client sees that.
            let _ = client.and_then(|client| forward(client, &target, one_way));
        }
    });
    Ok(address)
}

fn forward(client: TcpStream, target: &str, one_way: Duration) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        let (arrivals, departures) = mpsc::channel();
        thread::spawn(move || receive(from, one_way, &arrivals));
        thread::spawn(move || deliver(to, &departures));
    }
    Ok(())
}

/// Bytes, and when they are due.
type Parcel = (Instant, Vec<u8>);

fn receive(mut from: TcpStream, one_way: Duration, arrivals: &Sender<Parcel>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if arrivals.send((Instant::now() + one_way, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

fn deliver(mut to: TcpStream, departures: &Receiver<Parcel>) {
    for (due, bytes) in departures {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    // The other thread of this socket may still be reading from it.
    let _ = to.shutdown(Shutdown::Both);
}
