//! Free TCP ports on loopback for servers that must keep theirs across a restart.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Ports that were free a moment ago, still occupied by listeners of ours. Dropping this frees
/// them, which is to be done just before the server is launched.
pub struct Reserved {
    pub ports: Vec<u16>,
    listeners: Vec<TcpListener>,
}

/// Where the ports come from: below those that systems assign to outgoing connections.
///
/// Binding port 0 would pick one of the assigned ones, and while its server is stopped, a client
/// which keeps reconnecting to it can be given this very port as its own: the connection then
/// meets itself, and the server cannot have the port back.
const RANGE: Range<u16> = 10_240..32_768;

/// Ports this process has used already. The port of a stopped server looks free, but is not.
static USED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Reserves `count` different ports.
pub fn reserve(count: usize) -> Reserved {
    let mut reserved = Reserved { ports: Vec::new(), listeners: Vec::new() };
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut attempts = 0;
    while reserved.ports.len() < count {
        attempts += 1;
        assert!(attempts < 10_000, "no free TCP port in {RANGE:?}");
        // The start is random because other test processes pick from the same range.
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
