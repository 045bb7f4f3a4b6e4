//! Splitting and merging permits.

use lockkeeper_actors::api::lease::LeaseState;
use thiserror::Error;

use crate::guard::{Guard, Permit};
use crate::marker::Pooled;

impl Guard<Pooled> {
    /// Splits off `count` permits, which are then released, dropped or lost independently of the others. Nothing is
    /// sent to ZooKeeper.
    ///
    /// Returns `None`, and changes nothing, if `count` is zero or not less than [`count()`](Guard::count): both parts
    /// must have a permit.
    ///
    /// The new part has the last of the [nodes](Guard::nodes), the same [token](Guard::token), and a new
    /// [ticket](Guard::ticket), for which no [events](crate::messages::LockEvent) are sent. This permit keeps its
    /// first node, its ticket and its views. A deleted node loses only the part that it belongs to. The parts of a lost
    /// permit are lost.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let gpus = keeper.semaphore("/pools/gpu", 4)?;
    /// let mut batch = gpus.acquire_many(3).await?;
    /// let single = batch.split(1).expect("fewer than three");
    /// single.release().await?;
    /// assert_eq!((batch.count(), gpus.available().await?), (2, 2));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "dropping the new part releases it"]
    pub fn split(&mut self, count: usize) -> Option<Permit> {
        self.0.split(count).map(Guard::new)
    }

    /// Takes over the permits of `other`, which are then released, dropped or lost together with these. Nothing is sent
    /// to ZooKeeper.
    ///
    /// The requests whose permits were taken over are remembered, for their events, until this permit ends.
    ///
    /// The [token](Guard::token) becomes the larger of the two. This permit keeps its ticket. What happens to it is also
    /// reported to the request and the views of `other`.
    ///
    /// # Errors
    ///
    /// [`MergeError`], with `other` in it. Nothing is changed then.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let zookeeper = lockkeeper_embedded::Embedded::start().await?;
    /// # let keeper = lockkeeper::Keeper::connect(&zookeeper.address()).await?;
    /// let gpus = keeper.semaphore("/pools/gpu", 4)?;
    /// let mut permit = gpus.acquire().await?;
    /// permit.merge(gpus.acquire_many(2).await?)?;
    /// assert_eq!(permit.count(), 3);
    /// permit.release().await?;
    /// assert_eq!(gpus.available().await?, 4);
    /// # Ok(())
    /// # }
    /// ```
    pub fn merge(&mut self, other: Permit) -> Result<(), MergeError> {
        self.0.merge(other.0).map_err(|other| {
            let is_lost = self.state() == LeaseState::Lost || other.state() == LeaseState::Lost;
            let other = Guard::new(other);
            if is_lost { MergeError::Lost(other) } else { MergeError::Unrelated(other) }
        })
    }
}

/// Why two permits were not merged, with the permit that was to be taken over.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MergeError {
    /// The permits come from different semaphores or different keepers.
    #[error("the permits come from different semaphores or different keepers")]
    Unrelated(Permit),
    /// One of the permits is lost.
    #[error("one of the permits is lost")]
    Lost(Permit),
}

impl MergeError {
    /// The permit that was to be taken over.
    pub fn into_permit(self) -> Permit {
        match self {
            MergeError::Unrelated(permit) | MergeError::Lost(permit) => permit,
        }
    }
}
