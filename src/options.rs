//! What a handle can ask of its contenders, and what it is refused for.

use lockkeeper_actors::machine::znode::{Dialect, InvalidName, InvalidPattern, Mode, check_patterns};
use lockkeeper_actors::messages::ContenderOptions;
use lockkeeper_actors::zookeeper::Acl;
use thiserror::Error;

/// Options of one lock handle. They belong to the contenders that the handle makes: handles of one path with
/// different options stand in one queue.
#[derive(Clone, Debug)]
pub struct LockOptions {
    identifier: Option<Vec<u8>>,
    dialect: Dialect,
    patterns: Vec<String>,
    ephemeral: bool,
    container: bool,
    acl: Option<Vec<Acl>>,
    max_waiting: Option<usize>,
}

impl Default for LockOptions {
    fn default() -> LockOptions {
        LockOptions {
            identifier: None,
            dialect: Dialect::Kazoo,
            patterns: Vec::new(),
            ephemeral: true,
            container: false,
            acl: None,
            max_waiting: None,
        }
    }
}

impl LockOptions {
    /// The defaults, which are the keeper's.
    pub fn new() -> LockOptions {
        LockOptions::default()
    }

    /// Who this is, for people who list contenders; the keeper's identifier unless set.
    pub fn identifier(self, identifier: impl Into<String>) -> Self {
        LockOptions { identifier: Some(identifier.into().into_bytes()), ..self }
    }

    /// With whose clients the lock shares its queue: kazoo's unless set. With [`Dialect::Curator`], a
    /// [`Lock`](crate::Lock) and Curator's `InterProcessMutex` exclude each other, and so do a
    /// [`ReadWriteLock`](crate::ReadWriteLock) and its `InterProcessReadWriteLock`; all clients of one path have to
    /// choose alike.
    ///
    /// A lock that finds a contender of another kind on its path withdraws, and answers
    /// [`MixedDialects`](crate::AcquireError::MixedDialects). That is one-sided: one of kazoo or Curator that comes
    /// later does not know ours, and may hold beside it.
    pub fn dialect(self, dialect: Dialect) -> Self {
        LockOptions { dialect, ..self }
    }

    /// Further contenders to wait for: nodes whose names end in one of these texts and a sequence number, as kazoo's
    /// `extra_lock_patterns`. `-lock-` covers Curator and go-zookeeper, which wait for ours only if those are named
    /// like theirs: see [`dialect`](LockOptions::dialect).
    pub fn extra_lock_patterns<S: Into<String>>(self, patterns: impl IntoIterator<Item = S>) -> Self {
        LockOptions { patterns: patterns.into_iter().map(Into::into).collect(), ..self }
    }

    /// `false` makes nodes that outlive sessions, as kazoo's `ephemeral=False`: a lock held so is not lost with the
    /// connection, and not free again when its holder crashes. Such a node is found with [`Lock::contenders`](crate::Lock::contenders) and
    /// removed with [`Lock::remove_contender`](crate::Lock::remove_contender). So is one whose create was under way when its session was lost, and
    /// which the server carried out only after a new session had looked for it; and one whose keeper is closed while
    /// there is no connection, of which the log warns.
    pub fn ephemeral(self, ephemeral: bool) -> Self {
        LockOptions { ephemeral, ..self }
    }

    /// `true` makes missing directories as container nodes, which the server (3.5.3 and later) removes some time
    /// after they have been emptied.
    pub fn container_directories(self, container: bool) -> Self {
        LockOptions { container, ..self }
    }

    /// The access list of the contender's node, and of directories that must be made; the keeper's unless set.
    pub fn acl(self, acl: Vec<Acl>) -> Self {
        LockOptions { acl: Some(acl), ..self }
    }

    /// With how many requests of this process waiting on the path another one is refused, at once and before anything
    /// is sent: [`TooManyWaiting`](crate::AcquireError::TooManyWaiting). No limit unless set.
    ///
    /// The requests of all handles of the path count, until they are granted, refused or cancelled; those that hold do
    /// not. A try does not wait: it is neither counted nor refused. A request of several locks is refused when the
    /// limit is reached on one of its paths.
    pub fn max_waiting(self, requests: usize) -> Self {
        LockOptions { max_waiting: Some(requests), ..self }
    }

    /// For a contender in this mode, with the keeper's identifier and access list where these options have none.
    pub(crate) fn contender(self, mode: Mode, identifier: &[u8], acl: &[Acl]) -> ContenderOptions {
        ContenderOptions {
            mode,
            dialect: self.dialect,
            identifier: self.identifier.unwrap_or_else(|| identifier.to_vec()),
            patterns: self.patterns.into(),
            ephemeral: self.ephemeral,
            container: self.container,
            acl: self.acl.unwrap_or_else(|| acl.to_vec()),
            max_waiting: self.max_waiting,
        }
    }

    /// The same options, if they can be used.
    pub(crate) fn checked(self) -> Result<LockOptions, InvalidLock> {
        check_patterns(&self.patterns)?;
        match &self.identifier {
            Some(identifier) if identifier.len() > MAX_IDENTIFIER => {
                return Err(InvalidLock::Identifier { bytes: identifier.len() });
            }
            Some(_) | None => {}
        }
        if self.max_waiting == Some(0) {
            return Err(InvalidLock::NobodyMayWait);
        }
        match &self.acl {
            Some(acl) if acl.is_empty() => Err(InvalidLock::Acl),
            Some(_) | None => Ok(self),
        }
    }

    /// The same options, if a semaphore can use them.
    pub(crate) fn checked_for_semaphore(self) -> Result<LockOptions, InvalidLock> {
        let refuse = |option| Err(InvalidLock::NotForSemaphores { option });
        match self.checked()? {
            options if !options.patterns.is_empty() => refuse("extra lock patterns"),
            options if options.dialect != Dialect::Kazoo => refuse("dialect but kazoo's"),
            options if !options.ephemeral => refuse("nodes that outlive sessions"),
            options => Ok(options),
        }
    }

    /// The same options, if a multi-lock can use them.
    pub(crate) fn checked_for_multi_lock(self) -> Result<LockOptions, InvalidLock> {
        match self.checked()? {
            options if !options.ephemeral => Err(InvalidLock::Outlives),
            options => Ok(options),
        }
    }
}

/// The server takes requests of less than 1 MiB; this leaves room for the path and the access list.
pub(crate) const MAX_IDENTIFIER: usize = 1024 * 1024 - 64 * 1024;

/// A lock that cannot be made as it was asked for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidLock {
    /// The path cannot be locked.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// An extra pattern cannot match.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// The identifier does not fit into a node.
    #[error("an identifier of {bytes} bytes does not fit into a node of less than 1 MiB")]
    Identifier {
        /// How long it is.
        bytes: usize,
    },
    /// Several locks at once, but none is named.
    #[error("no path is named to be locked")]
    NoPaths,
    /// Several locks at once, and one of them twice: the request would wait for itself.
    #[error("{path:?} is named twice, and would wait for itself")]
    Twice {
        /// The path.
        path: String,
    },
    /// Several locks at once, of nodes that outlive sessions: after a lost session they could not be taken together
    /// again.
    #[error("several locks that are taken together go with the session")]
    Outlives,
    /// Several locks at once, too many for the one request that takes them.
    #[error("a request of {bytes} bytes for all paths is larger than ZooKeeper's 1 MiB")]
    TooLarge {
        /// How long it would be.
        bytes: usize,
    },
    /// A semaphore of zero permits.
    #[error("a semaphore has at least one permit")]
    NoPermits,
    /// An option that a semaphore does not have.
    #[error("a semaphore has no {option}")]
    NotForSemaphores {
        /// Which.
        option: &'static str,
    },
    /// A limit of zero waiting requests: each waits for a moment at least.
    #[error("a limit of 0 waiting requests would refuse all of them")]
    NobodyMayWait,
    /// The access list is empty.
    #[error("an access list with no entries would let nobody use what is made")]
    Acl,
}
