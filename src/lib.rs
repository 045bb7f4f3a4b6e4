#![doc = include_str!("../README.md")]

mod address;
mod connect;
mod guard;
mod handle;
mod keeper;
mod lock;
pub mod marker;
pub mod messages;
mod multi_lock;
mod options;
mod pending;
mod permit;
mod read_write;
pub mod run;
mod semaphore;
pub mod singleton;
mod subscribe;
mod wait;
mod with;

pub use connect::KeeperOptions;
pub use guard::{Guard, LockGuard, Permit, ReadGuard, WriteGuard};
pub use keeper::Keeper;
pub use lock::Lock;
#[doc(inline)]
pub use lockkeeper_actors::api::lease::{FencingToken, LeaseState};
#[doc(inline)]
pub use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
pub use multi_lock::{MultiGuard, MultiLock};
pub use options::LockOptions;
pub use read_write::{ReadLock, ReadWriteLock, WriteLock};
pub use semaphore::Semaphore;

/// How it works inside. This module may change in any release.
#[cfg(feature = "unstable-actors")]
pub use lockkeeper_actors as actors;
/// The actor framework. Actors that exchange messages with this crate must use the same version of it.
pub use ractor;

/// Errors: one enum for each operation.
///
/// `is_retryable` tells whether the same call can succeed later without a change to the code or the cluster. An error of
/// the ZooKeeper client is the [`source`](std::error::Error::source).
pub mod error {
    #[doc(inline)]
    pub use lockkeeper_actors::api::error::{
        AcquireError, ConnectError, LostError, PermitsError, QueryError, Reason, ReleaseError,
        RemoveContenderError, ResizeError,
    };
    #[doc(inline)]
    pub use lockkeeper_actors::api::event::Refused;
    #[doc(inline)]
    pub use lockkeeper_actors::machine::exclusion::InvalidPattern;
    #[doc(inline)]
    pub use lockkeeper_actors::machine::path_rules::InvalidName;

    pub use crate::options::InvalidLock;
    pub use crate::pending::{AcquireTimeoutError, TryAcquireError};
    pub use crate::permit::MergeError;
    pub use crate::with::WithError;
}

/// The futures that acquire.
pub mod future {
    pub use crate::lock::{Acquire, AcquireTimeout, TryAcquire};
    pub use crate::multi_lock::{AcquireAll, AcquireAllTimeout, TryAcquireAll};
    pub use crate::pending::{FromRefused, Pending, Target};
    pub use crate::semaphore::{AcquirePermit, AcquirePermitTimeout, Claim, TryAcquirePermit};
}

/// What the server shows of those that hold and wait.
pub mod inspect {
    #[doc(inline)]
    pub use lockkeeper_actors::api::contender::{Contender, LeaseHolder};
}

/// The session with ZooKeeper: its state and its events.
pub mod session {
    #[doc(inline)]
    pub use lockkeeper_actors::api::event::SessionEvent;
    #[doc(inline)]
    pub use lockkeeper_actors::api::keeper_state::{KeeperState, SessionStatus};

    pub use crate::keeper::Events;
}

/// Access lists, credentials and encryption.
pub mod auth {
    #[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
    #[doc(inline)]
    pub use lockkeeper_actors::zookeeper::SaslOptions;
    #[doc(inline)]
    pub use lockkeeper_actors::zookeeper::{Acl, AuthId, Permission};
    #[cfg(feature = "tls")]
    #[doc(inline)]
    pub use lockkeeper_actors::zookeeper::{TlsCa, TlsCerts, TlsIdentity, TlsOptions};
}

#[cfg(doctest)]
#[doc = include_str!("../docs/testing.md")]
mod testing {}

#[cfg(doctest)]
#[doc = include_str!("../docs/guide.md")]
mod guide {}
