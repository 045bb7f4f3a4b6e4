//! A ZooKeeper server inside the process: one node, in memory, for development and tests, with nothing to install.
//!
//! **It is not for production.** One node that forgets everything when it ends protects nothing; there, run an
//! ensemble. Here it speaks the protocol of ZooKeeper 3.9 to unmodified clients in any language, starts in about a
//! millisecond, and breaks on demand:
//!
//! ```
//! use lockkeeper_embedded::Embedded;
//!
//! # async fn example() -> std::io::Result<()> {
//! let zookeeper = Embedded::start().await?;
//! let address = zookeeper.address(); // "127.0.0.1:…": give it to any client
//! // … the service under test connects, and then:
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
//! Every server has a thread of its own, so it goes on serving while a test blocks its own runtime, and pausing
//! that runtime's clock does not touch it. (Clients that use that clock do not work then: their time limits are over
//! before an answer comes.)
//!
//! # What it has
//!
//! Sessions with real timeouts, passwords, resuming and expiry; every operation of a client, in all create modes
//! (sequential, ephemeral, container, and with [an option](Options::extended_types) a time to live); multi with
//! rollback; one-shot, persistent and recursive watches; access control with the schemes world, auth, digest and ip,
//! and [a super user](Options::super_digest); the four-letter words `conf`, `cons`, `crst`, `dirs`, `dump`, `envi`,
//! `hash`, `isro`, `mntr`, `ruok`, `srst`, `srvr`, `stat`, `wchc`, `wchp` and `wchs`, in the form of a standalone
//! server. The order guarantees are the real server's: requests of a session are answered in turn, and a watch event
//! comes before any reply that shows the change. Transaction ids begin with the clock, so fencing tokens made from
//! them grow from one run to the next.
//!
//! # What it does not have
//!
//! An ensemble, a disk, TLS, SASL, quotas, reconfiguration, the admin server. Two limits are its own, so that a hostile
//! client cannot take the memory of a test: the identities of one connection have 16 KiB of names together, and the
//! names in an access control list a megabyte.
//!
//! # Layers
//!
//! [`machine`] decides (a pure state machine, time is an argument), [`wire`] reads and writes the protocol, and a
//! driver joins them to sockets. A simulation can drive the machine itself, in virtual time.

#![forbid(unsafe_code)]

mod controls;
pub mod machine;
mod net;
mod options;
mod proxy;
pub mod wire;

use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

pub use controls::{Controls, Target};
pub use machine::{SessionId, SessionInfo};
pub use options::Options;
pub use proxy::Proxy;

/// A running server. Dropping it stops it, and closes every connection.
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

    /// Starts one that differs from the defaults.
    pub fn options() -> Options {
        Options::default()
    }

    /// Where clients connect to: `127.0.0.1:<port>`. It stays the same for as long as the server lives, through
    /// every restart.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The same as a socket address.
    pub fn socket_address(&self) -> SocketAddr {
        self.address
    }

    /// What a test does to the server. Cheap to clone; it does nothing any more once the server has stopped.
    pub fn controls(&self) -> Controls {
        self.controls.clone()
    }

    /// Stops the server, and returns when its connections and its port are closed.
    pub async fn stop(mut self) {
        let (stopped, wait) = oneshot::channel();
        self.controls.shut_down(Some(stopped));
        // An error means that the thread is gone already, which is what is wanted.
        let _ = wait.await;
        self.join();
    }

    async fn launch(options: Options) -> io::Result<Embedded> {
        let (ready, started) = oneshot::channel();
        let thread = net::spawn(options, ready)?;
        let (address, shared, commands) =
            started.await.map_err(|_| io::Error::other("the server's thread ended while starting"))??;
        Ok(Embedded { address, controls: Controls::new(shared, commands), thread: Some(thread) })
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic of the server has been printed by its thread; there is nobody left to tell.
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
