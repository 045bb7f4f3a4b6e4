//! The controls with which a test inspects a server and injects faults.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::machine::{SessionId, SessionInfo};
use crate::net::{Command, Cut, Shared, Target};

/// Inspects a server and injects faults. Each change is in effect when its method returns.
///
/// A fault for one session applies to the session's current connection and to its later ones. A fault for all
/// connections applies to future connections as well.
#[derive(Clone)]
pub struct Controls {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
}

/// Sessions.
impl Controls {
    /// The live sessions, oldest first.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.shared.sessions()
    }

    /// Expires a session before its timeout: its ephemeral nodes are deleted, watches on them fire, and its connection
    /// is closed. The client learns of the expiry when it reconnects. Returns whether the session existed.
    ///
    /// A real server never expires a session before its timeout. A lock whose lease relies on that can be granted to
    /// the next holder some milliseconds before the previous holder learns that its session has expired. To simulate
    /// a partition faithfully, use [`black_hole`](Self::black_hole).
    pub fn expire(&self, session: SessionId) -> bool {
        self.shared.expire(session)
    }

    /// While on, a client that reconnects gets a new session, even if its old session is alive. The old session and
    /// its ephemeral nodes stay until the old session expires. ClickHouse Keeper does this; a ZooKeeper server never
    /// does. With a [`Target::Session`] it applies to connect requests that name that session.
    pub fn replace_sessions_on_reconnect(&self, target: impl Into<Target>, on: bool) {
        self.shared.change_fault(target.into(), |fault| fault.replace = on);
    }
}

/// The network.
impl Controls {
    /// Closes connections gracefully. The client can reconnect and resume its session.
    pub fn drop_connections(&self, target: impl Into<Target>) {
        self.shared.cut(target.into(), Cut::Close);
    }

    /// Resets connections. Replies that have not been sent yet are lost.
    pub fn reset_connections(&self, target: impl Into<Target>) {
        self.shared.cut(target.into(), Cut::Reset);
    }

    /// While on, nothing is read from clients and nothing is sent to them. Connections stay open and new ones are
    /// accepted. The server itself keeps running, so sessions expire. Turning it off delivers everything that was held
    /// back.
    pub fn black_hole(&self, target: impl Into<Target>, on: bool) {
        self.shared.change_fault(target.into(), |fault| fault.black_hole = on);
    }

    /// Delays replies and events from now on, and keeps their order. Zero ends the delay for later replies and events.
    /// The delay is capped at a hundred years.
    pub fn delay_replies(&self, target: impl Into<Target>, delay: Duration) {
        self.shared.change_fault(target.into(), |fault| fault.delay = delay);
    }

    /// While on, requests are executed, but replies and events are discarded. Call
    /// [`reset_connections`](Self::reset_connections) afterwards to leave the client with an unknown outcome.
    pub fn swallow_replies(&self, target: impl Into<Target>, on: bool) {
        self.shared.change_fault(target.into(), |fault| fault.swallow = on);
    }
}

/// The server and its clock.
impl Controls {
    /// Stops the server as SIGSTOP would: connections stay open, new ones wait, nothing is answered and nothing
    /// expires. Time passes nevertheless, so everything that became due in the meantime happens on
    /// [`resume`](Self::resume).
    pub fn pause(&self) {
        self.shared.pause(true);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.shared.pause(false);
    }

    /// Moves the server's clock forward. This affects session timeouts and TTLs as well as the times in stats. The sum
    /// of all calls is capped at a hundred years.
    ///
    /// A session ends at the first tick after its timeout. To expire it for sure, advance the clock by its timeout and a
    /// tick.
    pub fn advance_clock(&self, by: Duration) {
        self.shared.advance_clock(by);
    }

    /// Takes the server down: connections are reset and new ones are refused. Nodes and sessions are kept, and no
    /// session expires while the server is down. The port stays bound so that no other process can take it.
    pub async fn take_down(&self) {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::TakeDown(done));
        let _ = wait.await;
    }

    /// Brings the server back up on the same address after [`take_down`](Self::take_down). The timeout of every
    /// session starts again. Fails if the server cannot listen on its port.
    pub async fn bring_up(&self) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::BringUp(done));
        wait.await.map_err(|_| {
            io::Error::new(io::ErrorKind::NotConnected, "the server has stopped; start a new one")
        })?
    }

    /// Takes the server down and brings it back up with its nodes and sessions. Active faults stay active.
    pub async fn restart(&self) -> io::Result<()> {
        self.take_down().await;
        self.bring_up().await
    }

    /// Takes the server down and brings it back up without its nodes and sessions, like a server that lost its disk.
    /// Transaction ids keep growing. Active faults stay active.
    pub async fn restart_empty(&self) -> io::Result<()> {
        self.take_down().await;
        self.shared.reset();
        self.bring_up().await
    }
}

impl Controls {
    pub(crate) fn new(shared: Arc<Shared>, commands: mpsc::UnboundedSender<Command>) -> Controls {
        Controls { shared, commands }
    }

    pub(crate) fn shut_down(&self, stopped: Option<oneshot::Sender<()>>) {
        // An error means that the server has stopped.
        let _ = self.commands.send(Command::ShutDown(stopped));
    }
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controls").finish_non_exhaustive()
    }
}
