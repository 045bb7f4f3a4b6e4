//! The connection to ZooKeeper, which creates all other handles.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use lockkeeper_actors::api::error::ConnectError;
use lockkeeper_actors::api::event::SessionEvent;
use lockkeeper_actors::keeper::KeeperMessage;
use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::path_rules::InvalidPath;
use ractor::{ActorCell, ActorId, ActorRef, Message};
use tokio::sync::{mpsc, oneshot};

use crate::connect::KeeperOptions;
use crate::handle::Shared;
use crate::health::{self, HealthCheck};
use crate::inspect::Inspector;
use crate::lock::Lock;
use crate::multi_lock::MultiLock;
use crate::options::{InvalidHandle, LockOptions};
use crate::read_write::ReadWriteLock;
use crate::semaphore::Semaphore;
use crate::singleton::{Singleton, SingletonOptions};
use crate::state_view::StateView;
use crate::subscribe;

/// A connection to ZooKeeper that outlives its sessions. Cheap to clone.
///
/// It closes in the background when all its clones, handles, guards, candidates, requests, inspectors, health checks
/// and streams of leaders have been dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
/// # let address = zookeeper.address();
/// use std::time::Duration;
/// use lockkeeper::Keeper;
///
/// let keeper = Keeper::options()
///     .session_timeout(Duration::from_secs(10))
///     .identifier("billing-7")
///     .connect(&address) // "zk1:2181,zk2:2181,zk3:2181/app"
///     .await?;
/// keeper.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Keeper {
    shared: Arc<Shared>,
}

impl Keeper {
    /// Connects with the default options: a session timeout and a connect timeout of ten seconds, and no credentials.
    /// See [`KeeperOptions::connect`] for the address, errors, cancel safety and panics.
    pub async fn connect(address: &str) -> Result<Keeper, ConnectError> {
        Keeper::options().connect(address).await
    }

    /// The options for connecting. [`KeeperOptions::connect`] then connects.
    pub fn options() -> KeeperOptions {
        KeeperOptions::new()
    }

    /// Creates a handle to the exclusive lock on `path`. This checks the path, and does no I/O.
    ///
    /// # Errors
    ///
    /// [`InvalidPath`] if the path is empty, relative, the root, or longer than 32 KiB, ends with `/`, has an empty
    /// part or a part `.` or `..`, is `/zookeeper` or below it, or has a character that ZooKeeper does not allow.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let guard = keeper.lock("/locks/ledger")?.acquire().await?;
    /// println!("held under token {}", guard.token());
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock(&self, path: &str) -> Result<Lock, InvalidPath> {
        Lock::new(&self.shared, path, LockOptions::default())
    }

    /// As [`lock`](Keeper::lock), with options.
    ///
    /// # Errors
    ///
    /// [`InvalidHandle`] if the path or an option cannot be used.
    pub fn lock_with(&self, path: &str, options: LockOptions) -> Result<Lock, InvalidHandle> {
        Ok(Lock::new(&self.shared, path, options.checked(&self.shared.defaults)?)?)
    }

    /// Creates a handle to the read/write lock on `path`. This checks the path, and does no I/O.
    ///
    /// # Errors
    ///
    /// [`InvalidPath`], as [`lock`](Keeper::lock).
    pub fn read_write(&self, path: &str) -> Result<ReadWriteLock, InvalidPath> {
        ReadWriteLock::new(&self.shared, path, LockOptions::default())
    }

    /// As [`read_write`](Keeper::read_write), with options.
    ///
    /// # Errors
    ///
    /// [`InvalidHandle`] if the path or an option cannot be used.
    pub fn read_write_with(&self, path: &str, options: LockOptions) -> Result<ReadWriteLock, InvalidHandle> {
        Ok(ReadWriteLock::new(&self.shared, path, options.checked(&self.shared.defaults)?)?)
    }

    /// Creates a handle to the exclusive locks on several paths, which are acquired all or none. This checks the paths,
    /// and does no I/O.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let accounts = keeper.multi_lock(["/accounts/alice", "/accounts/bob"])?;
    /// let guard = accounts.acquire().await?;
    /// for (path, token) in guard.tokens() {
    ///     println!("{path} is held under token {token}");
    /// }
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidHandle`] if there is no path, a path is invalid or given twice, or the paths do not fit into one request.
    pub fn multi_lock<S: AsRef<str>>(
        &self,
        paths: impl IntoIterator<Item = S>,
    ) -> Result<MultiLock, InvalidHandle> {
        self.multi_lock_with(paths.into_iter().map(|path| (path, Mode::Lock)), LockOptions::default())
    }

    /// As [`multi_lock`](Keeper::multi_lock), with a mode for each path and options for all. `Mode::Lock` is the
    /// exclusive lock; `Mode::Read` and `Mode::Write` are the sides of a [`ReadWriteLock`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// use lockkeeper::{LockOptions, Mode};
    ///
    /// let paths = [("/config", Mode::Read), ("/index", Mode::Write)];
    /// let options = LockOptions::new().identifier("indexer-3");
    /// let guard = keeper.multi_lock_with(paths, options)?.acquire().await?;
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`multi_lock`](Keeper::multi_lock), and [`InvalidHandle::NotEphemeral`] for nodes that outlive sessions.
    pub fn multi_lock_with<S: AsRef<str>>(
        &self,
        paths: impl IntoIterator<Item = (S, Mode)>,
        options: LockOptions,
    ) -> Result<MultiLock, InvalidHandle> {
        MultiLock::new(&self.shared, paths, options)
    }

    /// Creates a handle to a singleton, an actor that runs once in the cluster, which uses the lock on `path`. This
    /// checks the path, and does no I/O.
    ///
    /// # Errors
    ///
    /// [`InvalidPath`], as [`lock`](Keeper::lock).
    pub fn singleton(&self, path: &str) -> Result<Singleton, InvalidPath> {
        Singleton::new(&self.shared, path, SingletonOptions::default())
    }

    /// As [`singleton`](Keeper::singleton), with options.
    ///
    /// # Errors
    ///
    /// [`InvalidHandle`] if the path or an option cannot be used.
    pub fn singleton_with(&self, path: &str, options: SingletonOptions) -> Result<Singleton, InvalidHandle> {
        Ok(Singleton::new(&self.shared, path, options.checked(&self.shared.defaults)?)?)
    }

    /// Creates a handle to the semaphore at `path` with this number of permits. This checks the arguments, and does no
    /// I/O. [`Semaphore`] describes what happens if another number is stored in ZooKeeper.
    ///
    /// # Errors
    ///
    /// [`InvalidHandle::Path`] if the path is invalid, as for [`lock`](Keeper::lock). [`InvalidHandle::NoPermits`] if
    /// `permits` is zero.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let permit = keeper.semaphore("/pools/gpu", 8)?.acquire_many(2).await?;
    /// assert_eq!(permit.count(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn semaphore(&self, path: &str, permits: u32) -> Result<Semaphore, InvalidHandle> {
        Semaphore::new(&self.shared, path, Some(permits), LockOptions::default())
    }

    /// As [`semaphore`](Keeper::semaphore), with options.
    ///
    /// # Errors
    ///
    /// [`InvalidHandle`] if the path, the number or an option cannot be used.
    pub fn semaphore_with(
        &self,
        path: &str,
        permits: u32,
        options: LockOptions,
    ) -> Result<Semaphore, InvalidHandle> {
        Semaphore::new(&self.shared, path, Some(permits), options)
    }

    /// Creates a handle to the semaphore at `path` with the number of permits that is stored there. Acquiring fails
    /// with [`PermitsError::NoLimit`](crate::error::PermitsError::NoLimit) while no number is stored.
    ///
    /// # Errors
    ///
    /// [`InvalidHandle::Path`] if the path is invalid, as for [`lock`](Keeper::lock).
    pub fn semaphore_stored(&self, path: &str) -> Result<Semaphore, InvalidHandle> {
        self.semaphore_stored_with(path, LockOptions::default())
    }

    /// As [`semaphore_stored`](Keeper::semaphore_stored), with options.
    ///
    /// # Errors
    ///
    /// [`InvalidHandle`] if the path or an option cannot be used.
    pub fn semaphore_stored_with(
        &self,
        path: &str,
        options: LockOptions,
    ) -> Result<Semaphore, InvalidHandle> {
        Semaphore::new(&self.shared, path, None, options)
    }

    /// An inspector, which reads the locks and semaphores of all clients. Does no I/O.
    pub fn inspector(&self) -> Inspector {
        Inspector::new(self.shared.clone())
    }

    /// The session timeout that the server granted most recently. Servers have a minimum and a maximum, by default two
    /// and twenty ticks of two seconds each, so a request for less than four seconds gets four. A warning in the log
    /// reports a value other than the requested one.
    pub fn session_timeout(&self) -> Duration {
        self.shared.started.state.borrow().session_timeout
    }

    /// A view of the state of the session, always current: its status, number, id and timeout.
    /// [`get`](StateView::get) reads it, [`changed`](StateView::changed) waits for the next change, and
    /// [`wait_for`](StateView::wait_for) for a state. A reader that is slow sees the newest state, not every one in
    /// between: [`events`](Keeper::events) has them all.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// use lockkeeper::session::SessionStatus;
    ///
    /// let mut state = keeper.state();
    /// assert_eq!(state.get().status, SessionStatus::Connected);
    /// keeper.close().await;
    /// assert_eq!(state.changed().await.map(|state| state.status), Some(SessionStatus::Closed));
    /// # Ok(())
    /// # }
    /// ```
    pub fn state(&self) -> StateView {
        StateView::new(self.shared.started.state.clone())
    }

    /// Checks whether a lock can be acquired and kept now, for readiness probes. It acquires and releases a read lock on
    /// the keeper's [health path](KeeperOptions::health_path), and is done after a tenth of the session timeout at the
    /// latest: give the probe itself more time than that. There are no errors; what fails is in the
    /// [`Health`](crate::health::Health).
    ///
    /// A check costs three requests to the server: a create, a list, and a delete, of which the create and the delete
    /// are writes. If the health path does not exist, it is created too. Checks may run at the same time, each with its
    /// own requests.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let health = keeper.health().await;
    /// println!("{health}"); // connected; leases are proven for 10.0s of 10s; a lock was acquired and released in 1.3ms
    /// assert!(health.is_ready() && health.is_alive());
    /// keeper.close().await;
    /// let health = keeper.health().await;
    /// assert!(!health.is_ready() && !health.is_alive());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Nothing is sent before the first poll. Dropping the future after that leaves no node.
    ///
    /// # Panics
    ///
    /// The future panics outside a Tokio runtime with time enabled.
    pub fn health(&self) -> HealthCheck {
        HealthCheck::new(self.shared.clone())
    }

    /// Whether the keeper works, for liveness probes: it is not closed, has not given up, and its actors answer within a
    /// tenth of the session timeout. Sends nothing to a server, and stays `true` while ZooKeeper is out of reach.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// assert!(keeper.is_alive().await);
    /// keeper.close().await;
    /// assert!(!keeper.is_alive().await);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only asks.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time enabled.
    pub async fn is_alive(&self) -> bool {
        health::is_alive(&self.shared).await
    }

    /// The id of the keeper's actor, by which a [supervisor](KeeperOptions::connect_linked) recognises its events.
    pub fn actor_id(&self) -> ActorId {
        self.shared.started.keeper.get_id()
    }

    /// The session's events as a stream: the most recent one, then every later one. The last one is
    /// [`SessionEvent::Closed`], however the keeper ends. It is the only one if the keeper has ended already. Events
    /// that are not taken wait in memory, without a limit.
    pub fn events(&self) -> Events {
        let (sender, receiver) = mpsc::unbounded_channel();
        // A keeper that has ended drops the sender.
        let _ = self.shared.started.keeper.cast(KeeperMessage::Subscribe(sender));
        Events { receiver, closed: false }
    }

    /// Sends the session's events to `actor` for as long as it lives: the most recent one, then every later one in
    /// order. The last one is [`SessionEvent::Closed`], however the keeper ends.
    ///
    /// ```no_run
    /// # use lockkeeper::Keeper;
    /// # use lockkeeper::session::SessionEvent;
    /// enum Message {
    ///     Session(SessionEvent),
    /// }
    /// # #[cfg(not(feature = "cluster"))]
    /// fn subscribe(keeper: &Keeper, myself: &ractor::ActorRef<Message>) {
    ///     keeper.subscribe(myself, Message::Session);
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn subscribe<T: Message>(
        &self,
        actor: &ActorRef<T>,
        convert: impl FnMut(SessionEvent) -> T + Send + 'static,
    ) {
        subscribe::forward(self.events(), actor, convert);
    }

    /// Closes the keeper, and returns when it is closed.
    ///
    /// First, this asks the actors that work under its locks ([`Singleton::run`], [`Guard::run`](crate::Guard::run)) to
    /// stop, and waits for them, without limit unless there is a [close timeout](KeeperOptions::close_timeout). Then it
    /// refuses new requests, answers waiting callers with [`AcquireError::Closed`](crate::error::AcquireError::Closed), turns
    /// guards to `Lost`, deletes their nodes, and closes the session. Without a connection, this may take until the
    /// session has ended.
    ///
    /// Nodes that cannot be deleted end with the session. A node that [outlives sessions](LockOptions::ephemeral) stays
    /// if there is no connection or the access list does not permit its deletion. A warning in the log names each such
    /// node, and [`Lock::remove_contender`] deletes it later.
    ///
    /// # Cancel safety
    ///
    /// Closing continues in the background when this future is dropped.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.shared.started.keeper.cast(KeeperMessage::Close(reply.into())).is_ok() {
            // A keeper that has stopped drops the reply. It is closed then, too.
            let _ = closed.await;
        }
    }
}

impl KeeperOptions {
    /// Connects to `address`, in the form `host:port,host:port/chroot`. The default port is 2181. The chroot is
    /// optional, and created when a lock first needs it. `tcp+tls://host:port` denotes a server that uses TLS.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if an option or the address is invalid, the server rejects the credentials, or no server
    /// answers within the connect timeout. Invalid options are reported before anything is sent. On a Tokio runtime
    /// without time (`enable_time`), it is always `Unreachable`.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future leaves nothing running.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub async fn connect(self, address: &str) -> Result<Keeper, ConnectError> {
        Ok(Keeper { shared: Arc::new(self.start(address).await?) })
    }

    /// As [`connect`](KeeperOptions::connect), and links the keeper to a supervisor, which receives an event when the
    /// keeper ends:
    ///
    /// - `ActorFailed` with a [`ConnectError`] if it [gave up](SessionEvent::GaveUp);
    /// - `ActorFailed` with another error if one of the keeper's own actors died;
    /// - `ActorTerminated` if it was closed.
    ///
    /// If the supervisor ends, so does the keeper: guards become `Lost`, and the session closes. By default, ractor's
    /// supervisors end when any child ends; implement `handle_supervisor_evt` to avoid that.
    ///
    /// # Errors
    ///
    /// As [`connect`](KeeperOptions::connect), and [`ConnectError::NoSupervisor`] if the supervisor is ending.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future leaves nothing running.
    ///
    /// # Panics
    ///
    /// As [`connect`](KeeperOptions::connect).
    pub async fn connect_linked(self, address: &str, supervisor: &ActorCell) -> Result<Keeper, ConnectError> {
        let keeper = self.connect(address).await?;
        keeper.shared.started.link(supervisor)?;
        Ok(keeper)
    }
}

/// The events of a keeper's session, as a stream. It ends after [`SessionEvent::Closed`].
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::UnboundedReceiver<SessionEvent>,
    /// `Closed` was the last item.
    closed: bool,
}

impl Stream for Events {
    type Item = SessionEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<SessionEvent>> {
        if self.closed {
            // The sender may be in the keeper's last state, which its supervisor owns.
            return Poll::Ready(None);
        }
        // A keeper that dies with its supervisor reports nothing itself.
        let event = ready!(self.receiver.poll_recv(context)).unwrap_or(SessionEvent::Closed);
        self.closed = event == SessionEvent::Closed;
        Poll::Ready(Some(event))
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}
