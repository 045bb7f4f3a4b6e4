//! Free TCP ports on loopback, for servers that must keep their port across a restart.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Ports that were free and are now bound by our listeners. Drop this just before launching the server, to free them.
pub struct Reserved {
    pub ports: Vec<u16>,
    listeners: Vec<TcpListener>,
}

/// The range of ports, below those that systems assign to outgoing connections.
///
/// Binding port 0 would return an ephemeral port. While its server is stopped, a client that keeps reconnecting to it
/// could get this very port as its local port. The connection would then connect to itself, and the server could not
/// bind the port again.
const RANGE: Range<u16> = 10_240..32_768;

/// Ports that this process has used. The port of a stopped server looks free but is still reserved.
static USED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Reserves `count` different ports.
pub fn reserve(count: usize) -> Reserved {
    let mut reserved = Reserved { ports: Vec::new(), listeners: Vec::new() };
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut attempts = 0;
    while reserved.ports.len() < count {
        attempts += 1;
        assert!(attempts < 10_000, "no free TCP port in {RANGE:?}");
        // The choice is random because other test processes use the same range.
        let offset = super::random_number() % u64::from(RANGE.end - RANGE.start);
        let port = RANGE.start + u16::try_from(offset).expect("the range has 16 bits");
        if used.contains(&port) {
            continue;
        }
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            used.insert(port);
            reserved.ports.push(port);
            reserved.listeners.push(listener);
        }
    }
    reserved
}
