//! What a test does to a server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::machine::{SessionId, SessionInfo};
use crate::net::{Command, Cut, Shared};

/// Faults on demand. Each order is in force when its method returns.
///
/// What concerns one session concerns whatever connection the session has, now or later; what concerns all
/// concerns connections to come as well.
#[derive(Clone)]
pub struct Controls {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
}

/// Whom a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every connection.
    All,
    /// The connection of one session.
    Session(SessionId),
}

impl From<SessionId> for Target {
    fn from(session: SessionId) -> Target {
        Target::Session(session)
    }
}

/// Sessions.
impl Controls {
    /// The live sessions, oldest first.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.shared.sessions()
    }

    /// Ends a session as if its time had run out: its ephemeral nodes go, watchers are told, its connection closes,
    /// and its client learns of it when it reconnects. Says whether there was such a session.
    ///
    /// A real server ends no session before its time is over. A lock whose lease relies on that can be granted to the
    /// next holder some milliseconds before the first one learns of the end. [`black_hole`](Self::black_hole) does
    /// what a partition does.
    pub fn expire(&self, session: SessionId) -> bool {
        self.shared.expire(session)
    }

    /// While on, a client that reconnects is not given its session back: the answer has a new session id, whether
    /// the old session is alive or not. The old session and its ephemeral nodes stay until its time runs out. This
    /// is what ClickHouse Keeper does, and a ZooKeeper server never does. With a [`Target::Session`] it concerns
    /// reconnects that name that session.
    pub fn replace_sessions_on_reconnect(&self, target: impl Into<Target>, on: bool) {
        self.shared.change_fault(target.into(), |fault| fault.replace = on);
    }
}

/// The network.
impl Controls {
    /// Closes connections in the orderly way. The client may come back and resume its session.
    pub fn drop_connections(&self, target: impl Into<Target>) {
        self.shared.cut(target.into(), Cut::Close);
    }

    /// Breaks connections: the client sees a reset, and replies that are still held are lost.
    pub fn reset_connections(&self, target: impl Into<Target>) {
        self.shared.cut(target.into(), Cut::Reset);
    }

    /// While on, nothing is read from clients and nothing is sent to them, although connections stay open, and new
    /// ones are accepted. The server itself goes on, so sessions expire. Switching it off delivers what was held.
    pub fn black_hole(&self, target: impl Into<Target>, on: bool) {
        self.shared.change_fault(target.into(), |fault| fault.black_hole = on);
    }

    /// From now on replies and events reach the client that much later, in order. Zero ends it for those to come.
    /// Delays of more than a hundred years are as long as that.
    pub fn delay_replies(&self, target: impl Into<Target>, delay: Duration) {
        self.shared.change_fault(target.into(), |fault| fault.delay = delay);
    }

    /// While on, requests are carried out, and replies and events are thrown away. Follow it by
    /// [`reset_connections`](Self::reset_connections) to leave the client with an unknown outcome.
    pub fn swallow_replies(&self, target: impl Into<Target>, on: bool) {
        self.shared.change_fault(target.into(), |fault| fault.swallow = on);
    }
}

/// The server and its clock.
impl Controls {
    /// Halts the server as SIGSTOP would: connections stay open, new ones wait, nothing is answered and nothing
    /// expires. Time goes on, so what it should have done meanwhile it does on [`resume`](Self::resume).
    pub fn pause(&self) {
        self.shared.pause(true);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.shared.pause(false);
    }

    /// Moves the server's clock forward, the one that sessions and times to live go by as well as the one in stats.
    /// All moves together count for a hundred years at most.
    pub fn advance_clock(&self, by: Duration) {
        self.shared.advance_clock(by);
    }

    /// Takes the server down: connections are reset, and new ones refused. Nodes and sessions stay, and no session
    /// expires meanwhile. The server keeps its port, so that nobody else gets it.
    pub async fn take_down(&self) {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::TakeDown(done));
        let _ = wait.await;
    }

    /// Brings a server back that was taken down, on the same address. Every session has its whole timeout to come
    /// back. It fails when the system does not let the server listen on its port again.
    pub async fn bring_up(&self) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::BringUp(done));
        wait.await.map_err(|_| io::Error::new(io::ErrorKind::NotConnected, "the server has stopped"))?
    }

    /// Takes the server down and brings it back, with all it knows. Faults stay as they are.
    pub async fn restart(&self) -> io::Result<()> {
        self.take_down().await;
        self.bring_up().await
    }

    /// The same, but nodes and sessions are lost, as with a server whose disk was lost. Transaction ids go on above
    /// those of before.
    pub async fn restart_empty(&self) -> io::Result<()> {
        self.take_down().await;
        self.shared.forget_everything();
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
