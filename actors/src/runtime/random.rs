//! Where random numbers come from.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// A source of random numbers, for the names of nodes and for waits that are not to be the same everywhere.
///
/// A service takes the default, which asks the operating system. A simulation passes its own, and is then the
/// same from one run to the next.
#[derive(Clone)]
pub struct Randomness(Arc<dyn Fn() -> u128 + Send + Sync>);

impl Randomness {
    /// Numbers from `next`. Two sources that repeat each other make names that collide.
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
