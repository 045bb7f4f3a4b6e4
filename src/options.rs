//! Options of handles, and the error for those that cannot be used.

use std::sync::Arc;
use std::time::Duration;

use lockkeeper_actors::api::request::{ContenderOptions, bytes_of};
use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
use lockkeeper_actors::machine::path_rules::InvalidPath;
use lockkeeper_actors::machine::patterns::{InvalidPattern, Patterns};
use lockkeeper_actors::zookeeper::Acl;
use thiserror::Error;

/// Options of one handle. They apply to the contenders that the handle creates. Handles of one path share a queue even
/// if their options differ.
#[derive(Clone, Debug)]
pub struct LockOptions {
    identifier: Option<Arc<[u8]>>,
    dialect: Dialect,
    patterns: Result<Patterns, InvalidPattern>,
    ephemeral: bool,
    container: bool,
    acl: Option<Arc<[Acl]>>,
    max_waiting: Option<usize>,
    linger: Option<Duration>,
    counted: bool,
}

impl Default for LockOptions {
    fn default() -> LockOptions {
        LockOptions {
            identifier: None,
            dialect: Dialect::Kazoo,
            patterns: Ok(Patterns::default()),
            ephemeral: true,
            container: false,
            acl: None,
            max_waiting: None,
            linger: None,
            counted: true,
        }
    }
}

impl LockOptions {
    /// The default options. The identifier and access list are the keeper's.
    pub fn new() -> LockOptions {
        LockOptions::default()
    }

    /// The text that identifies this contender when contenders are listed. At most 960 KiB. The default is the keeper's
    /// identifier.
    pub fn identifier(self, identifier: impl Into<String>) -> Self {
        LockOptions { identifier: Some(identifier.into().into_bytes().into()), ..self }
    }

    /// The client library whose node names the lock uses; kazoo by default. With [`Dialect::Curator`], a
    /// [`Lock`](crate::Lock) and Curator's `InterProcessMutex` exclude each other, and so do a
    /// [`ReadWriteLock`](crate::ReadWriteLock) and Curator's `InterProcessReadWriteLock`. All clients of one path must
    /// use the same dialect.
    ///
    /// A request that finds a contender on its path that would not exclude it fails with
    /// [`MixedDialects`](crate::error::AcquireError::MixedDialects). The check is one-sided: a kazoo or Curator client that
    /// comes later does not recognise the nodes of this crate, and may hold the lock at the same time.
    pub fn dialect(self, dialect: Dialect) -> Self {
        LockOptions { dialect, ..self }
    }

    /// Further nodes to wait for: those whose names end in a match of one of these regular expressions and a sequence
    /// number, as kazoo's `extra_lock_patterns`. `-lock-` matches the nodes of Curator and go-zookeeper. Those clients
    /// in turn wait only for nodes with names like their own: see [`dialect`](LockOptions::dialect).
    ///
    /// The syntax is that of the crate [`regex`](https://docs.rs/regex/1/regex/#syntax). It is close to Python's, but
    /// has no look-around and no back-references, and in brackets it gives a meaning to `[`, `&&`, `--` and `~~`. With
    /// `regex::escape`, a pattern is plain text:
    ///
    /// ```
    /// use lockkeeper::LockOptions;
    ///
    /// // `billing.mutex-0000000007`, but not `billing-mutex-0000000007`.
    /// let options = LockOptions::new().extra_lock_patterns([regex::escape("billing.mutex-")]);
    /// // `ledger-mutex-0000000007`, and `ledger-lock-0000000007`.
    /// let options = LockOptions::new().extra_lock_patterns(["^ledger-(?:mutex|lock)-"]);
    /// ```
    ///
    /// A pattern that kazoo uses, too, must not have groups other than `(?:…)`: kazoo takes the first group for the
    /// sequence number.
    ///
    /// The patterns are compiled by this call, once for all clones of the options. A pattern that is empty, is not
    /// valid or needs more than 4 MiB when compiled is refused with [`InvalidHandle::Pattern`] when the options are used.
    pub fn extra_lock_patterns<S: Into<String>>(self, patterns: impl IntoIterator<Item = S>) -> Self {
        LockOptions { patterns: Patterns::new(patterns), ..self }
    }

    /// `false` creates nodes that outlive sessions, as kazoo's `ephemeral=False`. The lock is then not lost with the
    /// session, and not freed when its holder crashes. The default is `true`.
    ///
    /// A node can be left behind in four cases: its owner crashes; the session is lost during the create, and the server
    /// executes it only after the next session has looked for the node; the keeper is closed while there is no
    /// connection; or it is closed before it has cleaned up after a bug in this library. All but the first are logged as
    /// warnings. [`Lock::contenders`](crate::Lock::contenders) lists such nodes, and
    /// [`Lock::remove_contender`](crate::Lock::remove_contender) deletes them.
    pub fn ephemeral(self, ephemeral: bool) -> Self {
        LockOptions { ephemeral, ..self }
    }

    /// `true` creates missing directories as container nodes, which the server (3.5.3 or later) deletes some time after
    /// they have become empty. The default is `false`.
    pub fn container_directories(self, container: bool) -> Self {
        LockOptions { container, ..self }
    }

    /// The access list of the contender's node and of missing directories. It must have at least one entry, and may
    /// have 976 KiB together with the identifier. The default is the keeper's access list.
    pub fn acl(self, acl: Vec<Acl>) -> Self {
        LockOptions { acl: Some(acl.into()), ..self }
    }

    /// The largest number of requests of this process that may wait for the path, at least one. Further requests fail
    /// with [`TooManyWaiting`](crate::error::AcquireError::TooManyWaiting) before anything is sent. There is no limit
    /// by default.
    ///
    /// Requests of all handles of the path count until they are granted, refused or cancelled. Tries do not wait, so
    /// they are neither counted nor refused. A multi-lock's request is refused if the limit is reached on one of its
    /// paths.
    pub fn max_waiting(self, requests: usize) -> Self {
        LockOptions { max_waiting: Some(requests), ..self }
    }

    /// The requests of this process share one node, which stays for `idle` when nobody wants it. So a lock that no other
    /// process wants is acquired again, and handed from task to task, without a request to the server. By default each
    /// request has a node of its own.
    ///
    /// Requests with the same options share a node, of all handles of the path. It serves them in the order in which they
    /// were made, and readers at the same time. A contender of another process is overtaken only by requests that were
    /// made before it was noticed: the directory is watched while the node holds the lock. Then the node serves the
    /// requests that wait already and is deleted; later requests queue behind the other process. So the queue is fair
    /// between processes, and first come, first served within each.
    ///
    /// **All grants under one node have the same fencing token.** It grows with every new node. So it fences this process
    /// against others, against pauses and against lost sessions, but not one task of this process against another. With
    /// tokens that a resource compares with `>`, use plain locks.
    ///
    /// An idle node counts for other processes like a holder: their tries are refused, and a request is granted once the
    /// node is deleted, which begins when it is noticed. [`Lock::let_go`](crate::Lock::let_go) deletes an idle node at
    /// once. Dropping the last handle of the path and closing the keeper do so too.
    ///
    /// While the session is in doubt, and if the directory cannot be watched, no node stays. Each node that holds needs one
    /// watch.
    ///
    /// Not for semaphores, multi-locks, and nodes that [outlive sessions](LockOptions::ephemeral): handles with such
    /// options are refused with [`InvalidHandle`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// use std::time::Duration;
    ///
    /// use lockkeeper::LockOptions;
    ///
    /// let options = LockOptions::new().linger(Duration::from_secs(10));
    /// let cart = keeper.lock_with("/locks/carts/17", options)?;
    /// for _ in 0..1000 {
    ///     let guard = cart.acquire().await?;
    ///     drop(guard);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn linger(self, idle: Duration) -> Self {
        LockOptions { linger: Some(idle), ..self }
    }

    /// Metrics do not count the requests.
    pub(crate) fn uncounted(self) -> Self {
        LockOptions { counted: false, ..self }
    }

    /// The options of contenders in this mode.
    pub(crate) fn contender(self, mode: Mode, defaults: &Defaults) -> ContenderOptions {
        ContenderOptions {
            mode,
            dialect: self.dialect,
            identifier: self.identifier.unwrap_or_else(|| defaults.identifier.clone()),
            // Options with an error are not checked options.
            patterns: self.patterns.unwrap_or_default(),
            ephemeral: self.ephemeral,
            container: self.container,
            acl: self.acl.unwrap_or_else(|| defaults.acl.clone()),
            max_waiting: self.max_waiting,
            linger: self.linger,
            chroot: defaults.chroot,
            counted: self.counted,
        }
    }

    /// Returns the options if they can be used.
    pub(crate) fn checked(self, defaults: &Defaults) -> Result<LockOptions, InvalidHandle> {
        if let Err(invalid) = self.patterns {
            return Err(invalid.into());
        }
        match &self.identifier {
            Some(identifier) if identifier.len() > MAX_REQUEST => {
                return Err(InvalidHandle::Identifier { bytes: identifier.len() });
            }
            Some(_) | None => {}
        }
        if self.max_waiting == Some(0) {
            return Err(InvalidHandle::ZeroMaxWaiting);
        }
        if self.linger.is_some() && !self.ephemeral {
            return Err(InvalidHandle::CannotLinger { what: "a node that outlives sessions" });
        }
        let identifier = self.identifier.as_ref().unwrap_or(&defaults.identifier);
        let acl = self.acl.as_ref().unwrap_or(&defaults.acl);
        match identifier.len() + bytes_of(acl) {
            _ if acl.is_empty() => Err(InvalidHandle::EmptyAcl),
            bytes if bytes > MAX_NODE => Err(InvalidHandle::NodeTooLarge { bytes }),
            _ => Ok(self),
        }
    }

    /// Returns the options if a semaphore can use them.
    pub(crate) fn checked_for_semaphore(self, defaults: &Defaults) -> Result<LockOptions, InvalidHandle> {
        let refuse = |option| Err(InvalidHandle::NotForSemaphores { option });
        match self.checked(defaults)? {
            options if options.patterns != Ok(Patterns::default()) => refuse("extra lock patterns"),
            options if options.dialect != Dialect::Kazoo => refuse("dialects other than kazoo's"),
            options if !options.ephemeral => refuse("nodes that outlive sessions"),
            options if options.linger.is_some() => refuse("lingering nodes"),
            options => Ok(options),
        }
    }

    /// Returns the options if a multi-lock can use them.
    pub(crate) fn checked_for_multi_lock(self, defaults: &Defaults) -> Result<LockOptions, InvalidHandle> {
        match self.checked(defaults)? {
            options if !options.ephemeral => Err(InvalidHandle::NotEphemeral),
            options if options.linger.is_some() => {
                Err(InvalidHandle::CannotLinger { what: "a node of a multi-lock" })
            }
            options => Ok(options),
        }
    }
}

/// What a keeper adds to the options of its handles.
pub(crate) struct Defaults {
    pub identifier: Arc<[u8]>,
    pub acl: Arc<[Acl]>,
    /// The length of the connection's chroot.
    pub chroot: usize,
}

/// The server accepts requests of less than 1 MiB. This leaves room for the path and the access list.
pub(crate) const MAX_REQUEST: usize = 1024 * 1024 - 64 * 1024;
/// The limit for the identifier and the access list together. This leaves room for the path.
pub(crate) const MAX_NODE: usize = MAX_REQUEST + 16 * 1024;

/// Why a handle was not created.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidHandle {
    /// The path is not valid.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// An extra lock pattern is not valid.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// The identifier is too long.
    #[error("the identifier has {bytes} bytes; at most {MAX_REQUEST} are allowed")]
    Identifier {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The identifier and the access list do not fit into one request.
    #[error("the identifier and the access list have {bytes} bytes together; at most {MAX_NODE} are allowed")]
    NodeTooLarge {
        /// Their length in bytes.
        bytes: usize,
    },
    /// A multi-lock without paths.
    #[error("a multi-lock needs at least one path")]
    NoPaths,
    /// A multi-lock with the same path twice. It would wait for itself.
    #[error("{path:?} is given twice; a multi-lock must have each path only once")]
    DuplicatePath {
        /// The path.
        path: String,
    },
    /// A multi-lock with [`LockOptions::ephemeral`]`(false)`. After a lost session, the nodes that are left could not
    /// be acquired together again.
    #[error("a multi-lock does not support nodes that outlive sessions")]
    NotEphemeral,
    /// A multi-lock with more paths, or longer ones, than fit into the request that acquires them.
    #[error("the request for all paths has {bytes} bytes; at most {MAX_REQUEST} are allowed")]
    TooLarge {
        /// The length of the request in bytes.
        bytes: usize,
    },
    /// A semaphore with zero permits.
    #[error("a semaphore must have at least one permit")]
    NoPermits,
    /// An option that a semaphore does not support.
    #[error("a semaphore does not support {option}")]
    NotForSemaphores {
        /// The option.
        option: &'static str,
    },
    /// A limit of zero waiting requests. Every request waits for a moment at least.
    #[error("a limit of 0 waiting requests would refuse every request; it must be at least 1")]
    ZeroMaxWaiting,
    /// [`LockOptions::linger`] for a node that cannot linger.
    #[error("{what} cannot linger")]
    CannotLinger {
        /// Which node that is.
        what: &'static str,
    },
    /// The access list is empty.
    #[error("an access list with no entries would permit nothing; it must have at least one")]
    EmptyAcl,
}
