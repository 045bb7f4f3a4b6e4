#![doc = include_str!("../README.md")]

mod address;
mod connect;
mod guard;
mod handle;
mod keeper;
mod lock;
pub mod messages;
mod multi_lock;
mod options;
mod pending;
mod read_write;
mod run;
mod semaphore;
mod singleton;
mod subscribe;
mod wait;
mod with;

pub use connect::KeeperOptions;
pub use guard::{Access, Exclusive, Guard, LockGuard, Permit, Pooled, Read, ReadGuard, Write, WriteGuard};
pub use keeper::{Events, Keeper};
pub use lock::{Acquire, AcquireTimeout, Lock, TryAcquire};
pub use multi_lock::{AcquireAll, AcquireAllTimeout, MultiGuard, MultiLock, TryAcquireAll};
pub use options::{InvalidLock, LockOptions};
pub use pending::{AcquireTimeoutError, FromRefused, Pending, Target, TryAcquireError};
pub use read_write::{ReadLock, ReadWriteLock, WriteLock};
pub use run::{Ended, Run};
pub use semaphore::{AcquirePermit, AcquirePermitTimeout, Claim, Semaphore, TryAcquirePermit};
pub use singleton::{Candidate, Leaders, Singleton, SingletonOptions};
pub use with::WithError;

/// How it works, and what an actor application sends and receives.
pub use lockkeeper_actors as actors;
pub use lockkeeper_actors::api::contender::{Contender, Known, LeaseHolder};
pub use lockkeeper_actors::api::error::{
    AcquireError, ConnectError, ContendersError, Lost, ReleaseError, ResizeError,
};
pub use lockkeeper_actors::api::event::{LockEvent, Refused, SessionEvent};
pub use lockkeeper_actors::api::keeper_state::{KeeperState, SessionStatus};
pub use lockkeeper_actors::api::lease::{FencingToken, LeaseState, LeaseView};
pub use lockkeeper_actors::api::request::Ticket;
pub use lockkeeper_actors::candidate::CandidateState;
pub use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
pub use lockkeeper_actors::machine::path_rules::InvalidName;
pub use lockkeeper_actors::machine::patterns::InvalidPattern;
pub use lockkeeper_actors::run::worker::LeaseEvent;
pub use lockkeeper_actors::run::{EndReason, StopPolicy};
#[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
pub use lockkeeper_actors::zookeeper::SaslOptions;
pub use lockkeeper_actors::zookeeper::{Acl, AuthId, Permission};
#[cfg(feature = "tls")]
pub use lockkeeper_actors::zookeeper::{TlsCa, TlsCerts, TlsIdentity, TlsOptions};

#[cfg(doctest)]
#[doc = include_str!("../docs/testing.md")]
mod testing {}

#[cfg(doctest)]
#[doc = include_str!("../docs/guide.md")]
mod guide {}

#[cfg(doctest)]
#[doc = include_str!("../docs/messages.md")]
mod messages_page {}
