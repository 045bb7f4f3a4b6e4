//! An embedded ZooKeeper server for development and tests: one node, in memory, inside your process, with nothing to
//! install.
//!
//! **It is not for production.** It is a single node and it loses all data when it stops. In production, run an
//! ensemble. The server speaks the ZooKeeper 3.9 protocol to unmodified clients in any language, starts in about a
//! millisecond, and can inject faults:
//!
//! ```
//! use lockkeeper_embedded::Embedded;
//!
//! # async fn example() -> std::io::Result<()> {
//! let zookeeper = Embedded::start().await?;
//! let address = zookeeper.address(); // "127.0.0.1:<port>", for any client
//! // The service under test connects. Then the test expires its session:
//! let controls = zookeeper.controls();
//! for session in controls.sessions() {
//!     controls.expire(session.id);
//! }
//! zookeeper.stop().await; // or drop it
//! # let _ = address;
//! # Ok(())
//! # }
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
//! # runtime.block_on(example()).unwrap();
//! ```
//!
//! Each server runs on its own thread, so it keeps serving while a test blocks its runtime, and pausing the clock of
//! that runtime does not affect it. (Clients that use the paused clock do not work: their timeouts elapse before a
//! response arrives.)
//!
//! # Supported features
//!
//! - Sessions with real timeouts, passwords, resumption and expiry.
//! - All client operations, in all create modes: sequential, ephemeral, container, and, with
//!   [an option](Options::extended_types), nodes with a TTL.
//! - Multi with rollback.
//! - One-shot, persistent and recursive watches.
//! - Access control with the schemes `world`, `auth`, `digest` and `ip`, and [a super user](Options::super_digest).
//! - The four-letter words `conf`, `cons`, `crst`, `dirs`, `dump`, `envi`, `hash`, `isro`, `mntr`, `ruok`, `srst`,
//!   `srvr`, `stat`, `wchc`, `wchp` and `wchs`, in the format of a standalone server.
//!
//! The ordering guarantees are those of the real server: a session's requests are answered in order, and a watch
//! event is sent before any reply that shows the change. The first transaction id is derived from the wall clock, so
//! fencing tokens made from transaction ids grow from one run to the next.
//!
//! # Unsupported features
//!
//! Ensembles, persistence to disk, TLS, SASL, quotas, reconfiguration and the admin server. Access control by IPv6
//! addresses, which the real server has since 3.9.4: such a list is invalid.
//!
//! # Differences to the real server
//!
//! - The children of a node are listed in the order of their names. The real server lists them in no particular order.
//! - Any number of connections is accepted, and all four-letter words are answered. By default, the real server accepts
//!   60 connections from one address, and answers only `srvr`.
//! - The wall clock is read only at the start. After it was set, or the machine has slept, the times in stats are wrong
//!   until the server is started again.
//! - Some limits keep a hostile client from exhausting the memory of a test. The identities of one connection may have
//!   16 KiB of names in total, an access control list 65,536 entries and one megabyte of names, and the reply to a
//!   `multiRead` 64 MiB of data. A connection is reset when more than 64 MiB wait to be sent, also in a black hole.
//!
//! # Layers
//!
//! [`machine`] makes all decisions. It is a pure state machine that takes the time as an argument. [`wire`] decodes
//! and encodes the protocol. A driver connects both to sockets. A simulation can drive the machine directly, in
//! virtual time.

#![forbid(unsafe_code)]
#![warn(missing_debug_implementations)]

mod controls;
pub mod machine;
mod net;
mod options;
mod proxy;
pub mod wire;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

pub use controls::Controls;
pub use machine::{SessionId, SessionInfo};
pub use net::Target;
pub use options::Options;
pub use proxy::Proxy;

/// A running server. Dropping it stops the server and closes every connection.
#[must_use = "dropping it stops the server"]
pub struct Embedded {
    address: SocketAddr,
    controls: Controls,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Starts a server on a free port of the loopback address, with ZooKeeper's defaults.
    pub async fn start() -> io::Result<Embedded> {
        Embedded::options().start().await
    }

    /// Returns options to start a server that differs from the defaults.
    pub fn options() -> Options {
        Options::default()
    }

    /// The address that clients connect to: `127.0.0.1:<port>`. It stays the same across restarts, until the server
    /// is stopped.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The address that clients connect to, as a socket address.
    pub fn socket_address(&self) -> SocketAddr {
        self.address
    }

    /// The controls with which a test inspects the server and injects faults. They are cheap to clone. After the server
    /// has stopped, they have no effect and show no sessions.
    pub fn controls(&self) -> Controls {
        self.controls.clone()
    }

    /// Stops the server and returns when its connections and its port are closed.
    pub async fn stop(mut self) {
        let (stopped, wait) = oneshot::channel();
        self.controls.shut_down(Some(stopped));
        // An error means that the thread has already ended, so there is nothing to wait for.
        let _ = wait.await;
        self.join();
    }

    async fn launch(options: Options) -> io::Result<Embedded> {
        let (ready, started) = oneshot::channel();
        let thread = net::spawn(options, ready)?;
        let (address, shared, commands) = started
            .await
            .map_err(|_| io::Error::other("the server thread ended before the server started"))??;
        Ok(Embedded { address, controls: Controls::new(shared, commands), thread: Some(thread) })
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // If the server thread panicked, the panic message has already been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.controls.shut_down(None);
        self.join();
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("address", &self.address).finish_non_exhaustive()
    }
}
