//! Time and random numbers, for the actors.

pub mod clock;
pub(crate) mod log;
pub mod random;
pub(crate) mod tasks;
pub(crate) mod timer;
