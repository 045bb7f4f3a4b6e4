//! Work under a lock, in one call.

use lockkeeper_actors::api::error::{AcquireError, LostError};
use thiserror::Error;

use crate::guard::Guard;
use crate::lock::Lock;
use crate::marker::Access;

impl<M: Access> Lock<M> {
    /// Waits for the lock, runs `work` under it, [releases](Guard::release) the lock, and waits until that is confirmed,
    /// or the session has ended.
    ///
    /// If the lease is lost first, `work` is dropped at its current await, as by [`Guard::protect`]. If it is lost only
    /// before the release is confirmed, the work was done under the lock, and its result is returned. When `work` panics,
    /// the lock is released in the background.
    ///
    /// # Errors
    ///
    /// [`WithError::Acquire`] if `work` was not started. [`WithError::Lost`] if the lease was lost before it was known to
    /// be done: as after [`Guard::protect`], it is unknown how far it has come. Errors of `work` itself are part of its
    /// result.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the request, or drops `work` and releases the lock in the background. If `work` is done
    /// already, its result is lost.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// # async fn post(_: lockkeeper::FencingToken) -> Result<u32, std::io::Error> { Ok(7) }
    /// let lock = keeper.lock("/locks/ledger")?;
    /// let entry = lock.with(async |guard| post(guard.token()).await).await??;
    /// # assert_eq!(entry, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn with<R>(&self, work: impl AsyncFnOnce(&Guard<M>) -> R) -> Result<R, WithError> {
        let guard = self.acquire().await?;
        let done = guard.protect(work(&guard)).await?;
        // Without a confirmation, the lock is free when the session has ended.
        let _ = guard.release().await;
        Ok(done)
    }
}

/// Why work under a lock was not done, or not to its end.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WithError {
    /// The lock was not acquired, so the work was not started.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// The lease was lost before the work was known to be done.
    #[error(transparent)]
    Lost(#[from] LostError),
}

impl WithError {
    /// Whether the same call can succeed later without a change to the code or the cluster. Not so after
    /// [`Lost`](WithError::Lost): look first what the work has done.
    pub fn is_retryable(&self) -> bool {
        match self {
            WithError::Acquire(error) => error.is_retryable(),
            WithError::Lost(_) => false,
        }
    }
}
