//! What may be different from one server to another.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::Embedded;

/// Options of a server, from [`Embedded::options`].
///
/// ```
/// # use std::time::Duration;
/// # use lockkeeper_embedded::Embedded;
/// # async fn example() -> std::io::Result<()> {
/// let quick = Embedded::options().tick(Duration::from_millis(50)).start().await?; // sessions from 100 ms to 1 s
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `start`"]
pub struct Options {
    pub(crate) address: SocketAddr,
    pub(crate) tick: Duration,
    pub(crate) min_session_timeout: Option<Duration>,
    pub(crate) max_session_timeout: Option<Duration>,
    pub(crate) container_check: Duration,
    pub(crate) handshake_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            tick: Duration::from_secs(2),
            min_session_timeout: None,
            max_session_timeout: None,
            container_check: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl Options {
    /// Where to listen: by default a free port of 127.0.0.1. There is no encryption, so think twice before you take
    /// an address that others can reach.
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// The unit of time, ZooKeeper's `tickTime`: by default 2 s. Sessions expire on a tick. At least 1 ms.
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick.max(Duration::from_millis(1));
        self
    }

    /// The shortest session timeout granted: by default two ticks.
    pub fn min_session_timeout(mut self, timeout: Duration) -> Self {
        self.min_session_timeout = Some(timeout);
        self
    }

    /// The longest: by default twenty ticks.
    pub fn max_session_timeout(mut self, timeout: Duration) -> Self {
        self.max_session_timeout = Some(timeout);
        self
    }

    /// How often the server looks for containers that are empty again and nodes whose time to live is over: by
    /// default every second. (The real server's default is a minute.) At least 1 ms.
    pub fn container_check(mut self, interval: Duration) -> Self {
        self.container_check = interval.max(Duration::from_millis(1));
        self
    }

    /// How long a connection may go without a complete connect request before it is closed: by default 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Starts the server, and returns when it takes connections.
    pub async fn start(self) -> io::Result<Embedded> {
        Embedded::launch(self).await
    }
}
