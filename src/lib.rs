#![doc = include_str!("../README.md")]

mod keeper;
mod lock;
mod pending;

pub use keeper::{Events, Keeper, KeeperOptions};
pub use lock::{InvalidLock, Lock, LockGuard, LockOptions};
pub use pending::{Acquire, AcquireTimeout, AcquireTimeoutError, Pending, TryAcquire, TryAcquireError};

/// How it works, and what an actor application sends and receives.
pub use lockkeeper_actors as actors;
pub use lockkeeper_actors::error::{AcquireError, ConnectError, ContendersError, Lost, ReleaseError};
pub use lockkeeper_actors::lease::{FencingToken, LeaseState};
pub use lockkeeper_actors::machine::znode::{InvalidName, InvalidPattern, Mode};
pub use lockkeeper_actors::messages::{Contender, LockEvent, LockMessage, Refused, SessionEvent, Ticket};
#[cfg(any(feature = "sasl-digest-md5", feature = "sasl-gssapi"))]
pub use lockkeeper_actors::zookeeper::SaslOptions;
pub use lockkeeper_actors::zookeeper::{Acl, AuthId, Permission};
#[cfg(feature = "tls")]
pub use lockkeeper_actors::zookeeper::{TlsCa, TlsCerts, TlsIdentity, TlsOptions};
