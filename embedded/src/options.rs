//! What may be different from one server to another.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::{Embedded, machine};

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
    pub(crate) extended_types: bool,
    pub(crate) super_digest: Option<String>,
    pub(crate) handshake_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            tick: Duration::from_secs(2),
            min_session_timeout: None,
            max_session_timeout: None,
            container_check: Duration::from_secs(60),
            extended_types: false,
            super_digest: None,
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

    /// How long a container stays that has become empty: by default 60 s, at least 1 ms. (The real server looks for
    /// empty containers that often, its `znode.container.checkIntervalMs`, and so takes them at some time up to then.)
    /// A container that never had a child stays.
    pub fn container_check(mut self, interval: Duration) -> Self {
        self.container_check = interval.max(Duration::from_millis(1));
        self
    }

    /// Whether clients can create nodes with a time to live, ZooKeeper's `extendedTypesEnabled`: by default not, and
    /// they get the error `Unimplemented`. Such a node goes when its time is over. (The real server looks for them
    /// once a minute by default, so there it can take so much longer.)
    pub fn extended_types(mut self, enabled: bool) -> Self {
        self.extended_types = enabled;
        self
    }

    /// The super user, ZooKeeper's `DigestAuthenticationProvider.superDigest`: the client that authenticates with the
    /// scheme `digest` and the name and password behind this `name:hash` may do everything, whatever access control
    /// lists say, for instance write to `/zookeeper/config`. By default there is none. The hash is the base64 of the
    /// SHA-1 of `name:password`. ([`start`](Self::start) refuses what is none.)
    pub fn super_digest(mut self, digest: impl Into<String>) -> Self {
        self.super_digest = Some(digest.into());
        self
    }

    /// How long a connection may go without a complete connect request before it is closed: by default 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Starts the server, and returns when it takes connections. An option that makes no sense is an error of the
    /// kind [`InvalidInput`](io::ErrorKind::InvalidInput).
    pub async fn start(self) -> io::Result<Embedded> {
        if let Some(digest) =
            self.super_digest.as_deref().filter(|digest| !machine::is_password_digest(digest))
        {
            let message = format!("the super user's digest is name:hash, and this is not: {digest:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Embedded::launch(self).await
    }
}
