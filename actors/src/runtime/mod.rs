//! Time and random numbers, for the actors.

pub mod clock;
pub mod random;
pub(crate) mod timer;
