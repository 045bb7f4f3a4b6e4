//! What an operator sees: counts and times, through the facade `metrics`.
//!
//! Drivers call these types; machines do not know them. Without the feature `metrics`, all types are empty and their
//! methods do nothing. All handles are registered when a keeper starts, or at the first request of a kind, and never
//! looked up again. What is counted up is counted down when its owner is dropped, also when an actor is killed.

#[cfg(feature = "metrics")]
mod counted;
#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(feature = "metrics")]
mod on;
#[cfg(feature = "metrics")]
mod requests;
#[cfg(feature = "metrics")]
mod runs;
#[cfg(feature = "metrics")]
mod table;

#[cfg(feature = "metrics")]
pub(crate) use self::counted::Counted;
#[cfg(not(feature = "metrics"))]
pub use self::off::Metrics;
#[cfg(not(feature = "metrics"))]
pub(crate) use self::off::{Asked, Counted, PathMetrics, RequestMetrics, RunMetrics};
#[cfg(feature = "metrics")]
pub use self::on::Metrics;
#[cfg(feature = "metrics")]
pub(crate) use self::requests::{Asked, PathMetrics, RequestMetrics};
#[cfg(feature = "metrics")]
pub(crate) use self::runs::RunMetrics;
use crate::machine::exclusion::Mode;

/// What a request is for: the label `kind`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Lock,
    ReadLock,
    WriteLock,
    Semaphore,
    MultiLock,
    /// The lock of a candidate for a singleton.
    Singleton,
}

impl From<Mode> for Kind {
    fn from(mode: Mode) -> Kind {
        match mode {
            Mode::Lock => Kind::Lock,
            Mode::Read => Kind::ReadLock,
            Mode::Write => Kind::WriteLock,
        }
    }
}

/// Why a request was refused: the label `reason`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RefusedFor {
    Contended,
    Suspended,
    TimedOut,
    Cancelled,
    Closed,
    Stopped,
    NoAuth,
    SequenceExhausted,
    MixedDialects,
    Permits,
    TooManyWaiting,
    Rejected,
}
