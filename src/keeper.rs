//! The connection, and where everything else comes from.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use lockkeeper_actors::error::ConnectError;
use lockkeeper_actors::machine::znode::{InvalidName, Mode};
use lockkeeper_actors::messages::SessionEvent;
use lockkeeper_actors::supervisor::KeeperMessage;
use ractor::{ActorCell, ActorRef, Message};
use tokio::sync::{mpsc, oneshot};

use crate::connect::KeeperOptions;
use crate::handle::Shared;
use crate::lock::Lock;
use crate::multi_lock::MultiLock;
use crate::options::{InvalidLock, LockOptions};
use crate::read_write::ReadWriteLock;
use crate::semaphore::Semaphore;
use crate::singleton::{Singleton, SingletonOptions};
use crate::subscribe;

/// A connection to ZooKeeper that outlives its sessions. Cheap to clone.
///
/// When the last clone, the last handle, the last guard, the last candidate and the last request are gone, it closes in
/// the background.
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
    /// Connects with the default options: a session timeout of ten seconds, as long to connect, no credentials.
    ///
    /// `address` is a list of servers with an optional chroot, as in [`KeeperOptions::connect`].
    pub async fn connect(address: &str) -> Result<Keeper, ConnectError> {
        Keeper::options().connect(address).await
    }

    /// The options, to be ended with [`connect`](KeeperOptions::connect).
    pub fn options() -> KeeperOptions {
        KeeperOptions::new()
    }

    /// A handle to the exclusive lock on `path`. No I/O: the path is checked, nothing else.
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
    pub fn lock(&self, path: &str) -> Result<Lock, InvalidName> {
        Lock::new(&self.shared, path, LockOptions::default())
    }

    /// The same with options of its own.
    pub fn lock_with(&self, path: &str, options: LockOptions) -> Result<Lock, InvalidLock> {
        Ok(Lock::new(&self.shared, path, options.checked()?)?)
    }

    /// Both sides of the read/write lock on `path`. No I/O: the path is checked, nothing else.
    pub fn read_write(&self, path: &str) -> Result<ReadWriteLock, InvalidName> {
        ReadWriteLock::new(&self.shared, path, LockOptions::default())
    }

    /// The same with options of its own.
    pub fn read_write_with(&self, path: &str, options: LockOptions) -> Result<ReadWriteLock, InvalidLock> {
        Ok(ReadWriteLock::new(&self.shared, path, options.checked()?)?)
    }

    /// A handle to the exclusive locks on several paths, to be had all or none. No I/O: the paths are checked, nothing
    /// else.
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
    /// No path, one that cannot be locked, one that is named twice, or more than fit into one request.
    pub fn multi_lock<S: AsRef<str>>(
        &self,
        paths: impl IntoIterator<Item = S>,
    ) -> Result<MultiLock, InvalidLock> {
        self.multi_lock_with(paths.into_iter().map(|path| (path, Mode::Lock)), LockOptions::default())
    }

    /// The same with a mode for each path, and with options for all of them. `Mode::Lock` is the exclusive lock;
    /// `Mode::Read` and `Mode::Write` are the sides of a [`ReadWriteLock`].
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
    /// As [`multi_lock`](Keeper::multi_lock); and nodes that outlive sessions, because what a lost session leaves of
    /// them cannot be taken together again.
    pub fn multi_lock_with<S: AsRef<str>>(
        &self,
        paths: impl IntoIterator<Item = (S, Mode)>,
        options: LockOptions,
    ) -> Result<MultiLock, InvalidLock> {
        MultiLock::new(&self.shared, paths, options)
    }

    /// A handle to the actor that runs once in the cluster, on the lock `path`. No I/O: the path is checked, nothing
    /// else.
    pub fn singleton(&self, path: &str) -> Result<Singleton, InvalidName> {
        Singleton::new(&self.shared, path, SingletonOptions::default())
    }

    /// The same with options of its own.
    pub fn singleton_with(&self, path: &str, options: SingletonOptions) -> Result<Singleton, InvalidLock> {
        Ok(Singleton::new(&self.shared, path, options.checked()?)?)
    }

    /// A handle to the semaphore at `path`, which has this many permits. No I/O: the arguments are checked, nothing
    /// else. See [`Semaphore`] for what happens when another number is stored.
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
    pub fn semaphore(&self, path: &str, permits: u32) -> Result<Semaphore, InvalidLock> {
        Semaphore::new(&self.shared, path, Some(permits), LockOptions::default())
    }

    /// The same with options of its own.
    pub fn semaphore_with(
        &self,
        path: &str,
        permits: u32,
        options: LockOptions,
    ) -> Result<Semaphore, InvalidLock> {
        Semaphore::new(&self.shared, path, Some(permits), options)
    }

    /// A handle to the semaphore at `path`, which has as many permits as are stored there. Acquiring fails with
    /// [`AcquireError::NoLimit`](crate::AcquireError) while no number is.
    pub fn semaphore_stored(&self, path: &str) -> Result<Semaphore, InvalidLock> {
        Semaphore::new(&self.shared, path, None, LockOptions::default())
    }

    /// The session timeout that the server granted last. Servers have a least and a largest one, by default two and
    /// twenty of their ticks of two seconds: a request for less than four seconds gets four. The log warns of it.
    pub fn session_timeout(&self) -> Duration {
        self.shared.started.session_timeout()
    }

    /// What becomes of the session: every event from now on, none dropped, and the newest one at once.
    pub fn events(&self) -> Events {
        let (sender, receiver) = mpsc::unbounded_channel();
        // A keeper that is closed drops the sender, and the stream ends.
        let _ = self.shared.started.keeper.cast(KeeperMessage::Subscribe(sender));
        Events { receiver }
    }

    /// The same by message, for as long as `actor` lives: every event from now on, none dropped, in order, and the
    /// newest one at once.
    ///
    /// ```no_run
    /// # use lockkeeper::{Keeper, SessionEvent};
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

    /// Closes: asks the actors that work under its locks ([`Singleton::run`], [`Guard::run`](crate::Guard::run)) to
    /// stop, and waits for them; then refuses new work, answers waiting callers with
    /// [`AcquireError::Closed`](crate::AcquireError), turns guards to `Lost`, deletes their nodes, and closes the
    /// session. Returns when that is done; while there is no connection, that may take until the session has ended.
    /// Goes on when this future is dropped. It may take as long as those actors do, unless there is a
    /// [limit](KeeperOptions::close_timeout).
    ///
    /// Nodes that cannot be deleted go with the session. One that [outlives sessions](LockOptions::ephemeral) stays
    /// when there is no connection, or the access list forbids its deletion: a warning in the log names each, and
    /// [`Lock::remove_contender`] deletes it later.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.shared.started.keeper.cast(KeeperMessage::Close(reply.into())).is_ok() {
            // Dropped by a keeper that has stopped: then it is closed as well.
            let _ = closed.await;
        }
    }
}

impl KeeperOptions {
    /// Connects to `host:port,host:port/chroot`. The port is 2181 unless given; the chroot is made when a lock
    /// first needs it; a server that speaks TLS may be written as `tcp+tls://host:port`.
    ///
    /// # Errors
    ///
    /// Options that cannot be used, before anything is sent; an address that cannot be read; credentials that were
    /// not taken; nobody answering within the connect timeout.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left running when this future is dropped.
    pub async fn connect(self, address: &str) -> Result<Keeper, ConnectError> {
        Ok(Keeper { shared: Arc::new(self.start(address).await?) })
    }

    /// The same under a supervisor of the application, which is told when the keeper ends:
    ///
    /// - `ActorFailed` with a [`ConnectError`] inside when it [gave up](SessionEvent::GaveUp);
    /// - `ActorFailed` with another error when actors of its own died;
    /// - `ActorTerminated` when it was closed.
    ///
    /// A supervisor that ends takes the keeper with it: guards turn to `Lost`, and the session closes. ractor's default
    /// for supervisors is to end when any child does; write a `handle_supervisor_evt` of your own.
    ///
    /// # Errors
    ///
    /// As [`connect`](KeeperOptions::connect), and [`ConnectError::NoSupervisor`] when the supervisor is ending.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left running when this future is dropped.
    pub async fn connect_linked(self, address: &str, supervisor: &ActorCell) -> Result<Keeper, ConnectError> {
        let keeper = self.connect(address).await?;
        keeper.shared.started.link(supervisor)?;
        Ok(keeper)
    }
}

/// What becomes of a keeper's session, as a stream. Ends after [`SessionEvent::Closed`].
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::UnboundedReceiver<SessionEvent>,
}

impl Stream for Events {
    type Item = SessionEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<SessionEvent>> {
        self.receiver.poll_recv(context)
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}
