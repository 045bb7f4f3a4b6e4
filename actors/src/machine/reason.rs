//! Why a request was rejected, or got no answer.

use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// Why a request was rejected, or got no answer: an error of the ZooKeeper client, or a text.
///
/// It dereferences to the error, which is also the [`source`](Error::source) of the error that contains it. Two are equal
/// if their texts are.
#[derive(Clone)]
pub struct Reason(Arc<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Reason {
    fn from(error: E) -> Reason {
        Reason(Arc::from(error.into()))
    }
}

impl Deref for Reason {
    type Target = dyn Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl PartialEq for Reason {
    fn eq(&self, other: &Reason) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Reason {}

impl Hash for Reason {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_string().hash(state);
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_equal_if_their_texts_are() {
        let io = Reason::from(std::io::Error::other("cut"));
        assert_eq!(Reason::from("cut"), io);
        assert_ne!(Reason::from("busy"), io);
        assert_eq!(format!("{io}"), "cut");
    }
}
