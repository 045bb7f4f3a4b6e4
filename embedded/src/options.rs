//! The options of a server.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::Embedded;
use crate::machine;

/// The options of a server, created by [`Embedded::options`].
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
    /// The address to listen on. The default is a free port of 127.0.0.1. Connections are not encrypted, so avoid
    /// addresses that other machines can reach.
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// The basic time unit, ZooKeeper's `tickTime`. Sessions expire at multiples of a tick. The default is 2 s, the
    /// minimum 1 ms.
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick.max(Duration::from_millis(1));
        self
    }

    /// The shortest session timeout that the server grants. The default is two ticks, or the longest timeout if that is
    /// shorter.
    pub fn min_session_timeout(mut self, timeout: Duration) -> Self {
        self.min_session_timeout = Some(timeout);
        self
    }

    /// The longest session timeout that the server grants. The default is twenty ticks, or the shortest timeout if that
    /// is longer.
    pub fn max_session_timeout(mut self, timeout: Duration) -> Self {
        self.max_session_timeout = Some(timeout);
        self
    }

    /// How long after its last child was deleted a container node is deleted. The default is 60 s, the minimum 1 ms.
    /// A container that never had a child is not deleted.
    ///
    /// In the real server this is the interval between two checks for empty containers,
    /// `znode.container.checkIntervalMs`, so it deletes them after this time or earlier.
    pub fn container_check(mut self, interval: Duration) -> Self {
        self.container_check = interval.max(Duration::from_millis(1));
        self
    }

    /// Whether clients can create nodes with a TTL, ZooKeeper's `extendedTypesEnabled`. The default is `false`: such
    /// a create fails with `Unimplemented`.
    ///
    /// This server deletes a TTL node as soon as it expires. The real server checks once a minute by default, so it
    /// can take up to a minute longer.
    pub fn extended_types(mut self, enabled: bool) -> Self {
        self.extended_types = enabled;
        self
    }

    /// The digest of the super user, ZooKeeper's `DigestAuthenticationProvider.superDigest`. By default there is no
    /// super user.
    ///
    /// The digest is `name:hash`, where the hash is the base64 of the SHA-1 of `name:password`. A client that
    /// authenticates with the scheme `digest` and that name and password bypasses all access control lists. For
    /// instance, it may write to `/zookeeper/config`. [`start`](Self::start) fails if the digest is not valid.
    pub fn super_digest(mut self, digest: impl Into<String>) -> Self {
        self.super_digest = Some(digest.into());
        self
    }

    /// How long a new connection may take to send a complete connect request before the server closes it. The
    /// default is 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Starts the server and returns when it accepts connections. An invalid option is an error of the kind
    /// [`InvalidInput`](io::ErrorKind::InvalidInput).
    pub async fn start(self) -> io::Result<Embedded> {
        if let Some(digest) =
            self.super_digest.as_deref().filter(|digest| !machine::is_password_digest(digest))
        {
            let message = format!(
                "invalid super_digest {digest:?}: use name:hash, where hash is the base64 of the SHA-1 of \
                 name:password"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let (min, max) = self.session_timeouts();
        if min > max {
            let message =
                format!("invalid session timeouts: the shortest is {min:?}, but the longest is {max:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Embedded::launch(self).await
    }

    /// The shortest and the longest session timeout. A default gives way to an option.
    pub(crate) fn session_timeouts(&self) -> (Duration, Duration) {
        let (min, max) = (self.tick.saturating_mul(2), self.tick.saturating_mul(20));
        match (self.min_session_timeout, self.max_session_timeout) {
            (Some(given), None) => (given, max.max(given)),
            (None, Some(given)) => (min.min(given), given),
            (given_min, given_max) => (given_min.unwrap_or(min), given_max.unwrap_or(max)),
        }
    }
}
