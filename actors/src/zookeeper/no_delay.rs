//! Sends small requests without delay while few are in flight.
//!
//! `zookeeper_client` writes each request on its own and leaves Nagle's algorithm on. So the second of two requests that
//! are sent together waits in the kernel until the server has acknowledged the first, which costs a round trip. With
//! many requests in flight the algorithm is useful: requests that wait share a packet. So `TCP_NODELAY` is on while few
//! are in flight.
//!
//! The client does not give access to its socket. It is found among the descriptors of the process: it was not there
//! before the client connected, and its peer is one of the servers. If it is not found, the connection stays as it is.
//! No error of this reaches a caller.
//!
//! A process may have thousands of descriptors, and listing them takes microseconds for each. That is done in the pool of
//! threads in which the client resolves names, and not in Tokio's, which the application may have filled.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod sockets;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blocking::unblock;
use tracing::debug;

use self::sockets::Socket;
use super::servers::resolve;

/// The option of one session's connection.
pub(super) struct NoDelay {
    /// The list of servers.
    address: String,
    in_flight: AtomicUsize,
    /// Whether the option should be on.
    on: AtomicBool,
    /// The session's socket. `None` if it is not known.
    socket: Mutex<Option<Socket>>,
    /// Sockets that are not the session's next connection: those that were there before it, by their identifiers.
    earlier: Mutex<HashSet<u64>>,
}

/// A request that counts as in flight until this is dropped.
pub(super) struct InFlight(Arc<NoDelay>);

impl NoDelay {
    /// To be called before the session connects.
    pub async fn new(address: &str) -> Arc<NoDelay> {
        let earlier = unblock(sockets::all).await.unwrap_or_default();
        Arc::new(NoDelay {
            address: address.to_owned(),
            in_flight: AtomicUsize::new(0),
            on: AtomicBool::new(true),
            socket: Mutex::new(None),
            earlier: Mutex::new(earlier.iter().map(Socket::id).collect()),
        })
    }

    /// To be called when the session has connected or reconnected. Does the work in the background.
    pub fn connected(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let servers = resolve(&this.address).await;
            if let Err(error) = unblock(move || this.find(&servers)).await {
                debug!(%error, "the connection keeps Nagle's algorithm");
            }
        });
    }

    /// Counts a request that is about to be sent.
    pub fn request(self: &Arc<Self>) -> InFlight {
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        if in_flight > MANY && self.on.load(Ordering::Relaxed) {
            self.switch(false);
        }
        InFlight(Arc::clone(self))
    }

    fn find(&self, servers: &[SocketAddr]) -> io::Result<()> {
        let mut earlier = lock(&self.earlier);
        let all = sockets::all()?;
        let new = all.iter().filter(|socket| !earlier.contains(&socket.id()));
        // One that has no peer yet may be the session's next connection.
        let added: Vec<_> = new.filter_map(|socket| Some((socket, socket.peer().ok()?))).collect();
        let open: HashSet<_> = all.iter().map(Socket::id).collect();
        earlier.retain(|id| open.contains(id));
        earlier.extend(added.iter().map(|(socket, _)| socket.id()));
        drop(earlier);
        let is_server = |(_, peer): &&(&Socket, SocketAddr)| servers.contains(peer);
        let new: Vec<_> = added.iter().filter(is_server).map(|(socket, _)| *socket).collect();
        let mut socket = lock(&self.socket);
        match new[..] {
            // The search for this connection has already been made, or its server has another address by now.
            [] if socket.is_some() => Ok(()),
            [] => Err(io::Error::other("its socket was not found")),
            [own] => {
                *socket = Some(own.clone());
                own.set_no_delay(self.on.load(Ordering::Relaxed))
            }
            // Others have connected to the servers at the same time. The option suits all of them, but nobody knows
            // whose load should switch which. Any of them may have been closed since.
            _ => {
                *socket = None;
                new.iter().map(|socket| socket.set_no_delay(true)).fold(Ok(()), Result::and)
            }
        }
    }

    fn switch(&self, on: bool) {
        let mut socket = lock(&self.socket);
        if self.on.swap(on, Ordering::Relaxed) == on {
            return;
        }
        if let Some(Err(error)) = socket.as_ref().map(|socket| socket.set_no_delay(on)) {
            debug!(%error, "the connection has gone");
            *socket = None;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let in_flight = self.0.in_flight.fetch_sub(1, Ordering::Relaxed) - 1;
        if in_flight <= FEW && !self.0.on.load(Ordering::Relaxed) {
            self.0.switch(true);
        }
    }
}

/// With more requests in flight, the option is switched off. On loopback, the algorithm saves work from about 64 tasks
/// on, which have up to 128 requests in flight.
const MANY: usize = 64;

/// With no more requests in flight than this, the option is switched on again. The two numbers are so far apart that a
/// steady load does not switch at all.
const FEW: usize = 16;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Other systems do not list the descriptors of a process in this way.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod sockets {
    use std::io;
    use std::net::SocketAddr;

    #[derive(Clone, Copy)]
    pub enum Socket {}

    pub fn all() -> io::Result<Vec<Socket>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    impl Socket {
        pub fn id(&self) -> u64 {
            match *self {}
        }

        pub fn peer(&self) -> io::Result<SocketAddr> {
            match *self {}
        }

        pub fn set_no_delay(&self, _on: bool) -> io::Result<()> {
            match *self {}
        }
    }
}
