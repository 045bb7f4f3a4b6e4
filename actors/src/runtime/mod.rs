//! What the drivers have of the machine that they run on: time and random numbers.

pub mod clock;
pub mod random;
