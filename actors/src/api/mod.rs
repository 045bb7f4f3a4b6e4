//! What crosses between applications and actors.

pub mod error;
pub mod lease;
pub mod messages;
pub mod multi_lease;
