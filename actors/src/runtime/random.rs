//! The source of random numbers.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// A source of random numbers, for node names and for spreading retries.
///
/// The default uses the operating system's random numbers. A simulation passes its own source, to be reproducible.
#[derive(Clone)]
pub struct Randomness(Arc<dyn Fn() -> u128 + Send + Sync>);

impl Randomness {
    /// A source that calls `next`. Two processes whose sources return the same numbers create colliding names.
    pub fn new(next: impl Fn() -> u128 + Send + Sync + 'static) -> Randomness {
        Randomness(Arc::new(next))
    }

    /// The next number.
    pub fn next(&self) -> u128 {
        (self.0)()
    }
}

impl Default for Randomness {
    fn default() -> Randomness {
        Randomness::new(|| Uuid::new_v4().as_u128())
    }
}

impl fmt::Debug for Randomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Randomness")
    }
}
