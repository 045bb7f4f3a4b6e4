#![doc = include_str!("links.md")]
#![cfg_attr(not(all(doctest, feature = "cluster")), doc = include_str!("../README.md"))]
#![warn(missing_debug_implementations)]

mod address;
mod connect;
mod fenced;
mod guard;
mod handle;
pub mod health;
mod identity;
pub mod inspect;
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
mod state_view;
mod subscribe;
mod wait;
mod with;

pub use connect::KeeperOptions;
pub use fenced::Fenced;
pub use guard::{Guard, LockGuard, Permit, ReadGuard, WriteGuard};
pub use keeper::Keeper;
pub use lock::Lock;
#[doc(inline)]
pub use lockkeeper_actors::api::lease::{FencingToken, LeaseState};
#[doc(inline)]
pub use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
#[doc(inline)]
pub use lockkeeper_actors::machine::path_rules::check_path;
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
/// `is_retryable` tells whether the same call can succeed later without a change to the code or the cluster. Errors
/// without it do not go away by a retry. An error of the ZooKeeper client is the
/// [`source`](std::error::Error::source).
pub mod error {
    #[doc(inline)]
    pub use lockkeeper_actors::api::error::{
        AcquireError, AdvertiseError, ConnectError, LostError, PermitsError, QueryError, Reason,
        ReleaseError, RemoveContenderError, ResizeError,
    };
    #[doc(inline)]
    pub use lockkeeper_actors::api::event::Refused;
    #[doc(inline)]
    pub use lockkeeper_actors::machine::path_rules::InvalidPath;
    #[doc(inline)]
    pub use lockkeeper_actors::machine::patterns::InvalidPattern;

    #[doc(inline)]
    pub use lockkeeper_actors::api::token::InvalidToken;
    #[doc(inline)]
    pub use lockkeeper_actors::zookeeper::WriteFailure;

    pub use crate::fenced::FencedError;
    pub use crate::options::InvalidHandle;
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

/// A record of what a keeper decides.
pub mod record {
    #[doc(inline)]
    pub use lockkeeper_actors::record::Recording;
}

/// The session with ZooKeeper: its state and its events.
pub mod session {
    #[doc(inline)]
    pub use lockkeeper_actors::api::event::SessionEvent;
    #[doc(inline)]
    pub use lockkeeper_actors::api::keeper_state::{KeeperState, SessionStatus};

    pub use crate::keeper::Events;
    pub use crate::state_view::StateView;
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
    pub use lockkeeper_actors::zookeeper::{TlsCa, TlsCerts, TlsDynamicCerts, TlsIdentity, TlsOptions};
}

// A page's links are for readers of the repository. A definition that comes first wins: those of `links.md` are for this
// documentation. A doc test that fails is named after `links.md`, too, and its line counts from there.
#[cfg(any(doc, doctest))]
#[doc = include_str!("links.md")]
#[doc = include_str!("../docs/guide.md")]
pub mod guide {
    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/first-lock.md")]
    pub mod first_lock {}

    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/choosing.md")]
    pub mod choosing {}

    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/messages.md")]
    pub mod messages {}

    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/testing.md")]
    pub mod testing {}

    // Its code is quoted from examples, which run.
    #[cfg(not(doctest))]
    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/safety.md")]
    pub mod safety {}

    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/limits.md")]
    pub mod limits {}

    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/operating.md")]
    pub mod operating {}

    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/observability.md")]
    pub mod observability {}

    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/logs.md")]
    pub mod logs {}

    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/scale.md")]
    pub mod scale {}

    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/from-kazoo.md")]
    pub mod from_kazoo {}

    #[doc = include_str!("links.md")]
    #[doc = include_str!("../docs/from-curator.md")]
    pub mod from_curator {}
}
