//! The connections that a fault applies to.

use crate::machine::SessionId;

/// Which connections a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every connection.
    All,
    /// The connections of one session.
    Session(SessionId),
}

impl From<SessionId> for Target {
    fn from(session: SessionId) -> Target {
        Target::Session(session)
    }
}
